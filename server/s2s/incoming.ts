/** A stream that another server begins with us (RFC 6120 §4 to §6; XEP-0178 §3, XEP-0220 §2.2, XEP-0288, XEP-0198). */
import type { Socket } from 'node:net'
import { Jid } from '../../lib/jid.ts'
import { Bucket } from '../../lib/net/bucket.ts'
import { randomId } from '../../lib/stanza/ids.ts'
import type { Stanza } from '../../lib/stanza/stanza.ts'
import { StreamError } from '../../lib/stream/errors.ts'
import { streamErrorOf } from '../../lib/client/connection.ts'
import { escapeXml } from '../../lib/xml/element.ts'
import type { StreamHeader } from '../../lib/xml/parser.ts'
import type { Shaper } from '../config/access.ts'
import type { ListenConfig } from '../config/config.ts'
import type { Policy, S2sContext } from './context.ts'
import { dialbackXml, isDialbackKey, verdictOf, type Verdict } from './dialback.ts'
import { Exchange } from './exchange.ts'
import { acknowledging, handledIn, receive } from './receiving.ts'
import { BIDI_FEATURE_NS, BIDI_NS, DIALBACK_FEATURE_NS, DIALBACK_NS, headerXml, SASL_NS, SM_NS, STREAMS_NS, TLS_NS, Wire, type WireOwner } from './wire.ts'

/** A listener with its present options. */
export interface ServerListenerOptions {
  listen: ListenConfig
}

export interface IncomingParts {
  readonly context: S2sContext
  readonly listener: ServerListenerOptions
  readonly socket: Socket
  readonly address: string
  shaper(domain: string): Shaper | undefined
  /** It is known now who it is. */
  known(): void
  ended(stream: IncomingStream): void
}

export class IncomingStream implements WireOwner {
  readonly address: string
  readonly listener: ServerListenerOptions
  readonly #parts: IncomingParts
  readonly #context: S2sContext
  readonly #wire: Wire
  #exchange: Exchange | undefined
  /** Domains that it has proven to be, before there is an exchange. */
  readonly #domains = new Set<string>()
  #id = randomId()
  #local = ''
  #remote = ''
  #opened = false
  #authenticated = false
  #bidi = false
  /** Whether its certificate is that of the domain that its stream is from. */
  #certified = false
  #timer: NodeJS.Timeout | undefined
  /** Pairs of domains that it has asked for. */
  #pairs = 0
  readonly #bucket = new Bucket()
  #endedByUs = false

  constructor(parts: IncomingParts) {
    const { context, listener, socket } = parts
    this.#parts = parts
    this.#context = context
    this.listener = listener
    this.address = parts.address
    const { limits } = context
    const { preAuthMaxStanzaBytes, preAuthMaxStanzaElements } = listener.listen
    this.#wire = new Wire(socket, this, { stanzaBytes: preAuthMaxStanzaBytes, depth: limits.depth, attributes: limits.attributes, children: preAuthMaxStanzaElements }, context.wireParts(context.defaultHost, listener.listen.outboundBytes))
    this.#timer = setTimeout(() => { this.#wire.close(new StreamError('connection-timeout')) }, limits.preAuthTimeoutMs)
    this.#timer.unref()
    this.#wire.shape = (bytes) => this.#shape(bytes)
  }

  /** The domains that it has proven to be. */
  get domains(): ReadonlySet<string> { return this.#exchange?.domains ?? this.#domains }
  get established(): boolean { return this.domains.size > 0 && this.#wire.alive }
  get secure(): boolean { return this.#wire.secure }
  get local(): string { return this.#local }
  /** What goes on over it, unless that goes on over another connection by now. */
  get exchange(): Exchange | undefined { return this.#exchange?.wire === this.#wire ? this.#exchange : undefined }

  #shape(bytes: number): number {
    if (this.domains.size === 0) {
      if (this.#wire.received > this.#context.limits.preAuthBytes) throw new StreamError('policy-violation', 'too much before any domain was proven')
      return 0
    }
    const shaper = this.#parts.shaper(this.#remote)
    return shaper === undefined ? 0 : this.#bucket.take(bytes, shaper, this.#context.now())
  }

  get #policy(): Policy | undefined { return this.#context.policyOf(this.#local) }

  header(): string {
    return headerXml({ from: this.#local === '' ? this.#context.defaultHost : this.#local, to: this.#remote === '' ? undefined : this.#remote, id: this.#id })
  }

  // --- what comes

  opened({ attrs }: StreamHeader): void {
    // RFC 6120 §4.7.3: a new stream has a new id.
    if (this.#opened) this.#id = randomId()
    this.#opened = true
    const to = attrs['to'] === undefined ? undefined : Jid.tryParse(attrs['to'])
    const from = attrs['from'] === undefined ? undefined : Jid.tryParse(attrs['from'])
    const isDomain = (jid: Jid | undefined): boolean => jid === undefined || (jid.local === '' && jid.resource === '')
    if (from !== undefined && isDomain(from)) this.#remote = from.domain
    if (to !== undefined && isDomain(to) && this.#context.isOurs(to.domain)) this.#local = to.domain
    this.#wire.sendHeader()
    if ((attrs['to'] !== undefined && (to === undefined || !isDomain(to))) || (attrs['from'] !== undefined && (from === undefined || !isDomain(from)))) throw new StreamError('improper-addressing', 'from and to are domains')
    // §4.9.3.6; without `to` it is found out by what it asks for.
    if (to !== undefined && this.#local === '') throw new StreamError('host-unknown')
    if (this.#local === '') this.#local = this.#context.defaultHost
    if (this.#remote !== '' && this.#context.isOurs(this.#remote)) throw new StreamError('invalid-from', 'this server has that domain itself')
    if (this.#authenticated && !this.domains.has(this.#remote)) throw new StreamError('invalid-from', 'not the domain that was authenticated')
    if (this.#policy?.starttls === 'false' && attrs['version'] === undefined) return
    if (attrs['version'] !== undefined) this.#wire.writeText(this.#features())
  }

  #features(): string {
    const policy = this.#policy
    let inside = ''
    if (!this.secure && policy?.starttls !== 'false' && this.#context.certificates() !== undefined) {
      inside += policy?.starttls === 'required' ? `<starttls xmlns='${TLS_NS}'><required/></starttls>` : `<starttls xmlns='${TLS_NS}'/>`
    }
    if (this.#mayGoOn) {
      if (this.secure && !this.#authenticated) {
        const { tls } = this.#wire
        this.#certified = this.#remote !== '' && tls !== undefined && this.#context.certified(tls, this.#remote).trusted
        if (this.#certified) inside += `<mechanisms xmlns='${SASL_NS}'><mechanism>EXTERNAL</mechanism></mechanisms>`
      }
      if (policy?.bidi === true && !this.#authenticated) inside += `<bidi xmlns='${BIDI_FEATURE_NS}'/>`
      if (policy?.dialback !== undefined) inside += `<dialback xmlns='${DIALBACK_FEATURE_NS}'><errors/></dialback>`
      if (policy?.management === true) inside += `<sm xmlns='${SM_NS}'/>`
    }
    return `<stream:features>${inside}</stream:features>`
  }

  /** Whether it is encrypted, where it must be. */
  get #mayGoOn(): boolean { return this.secure || this.#policy?.starttls !== 'required' }

  element(element: Stanza): void {
    switch (element.xmlns) {
      case TLS_NS: return this.#startTls(element)
      case SASL_NS: return this.#authenticate(element)
      case DIALBACK_NS: return this.#dialback(element)
      case BIDI_NS:
        if (element.name === 'bidi' && this.#policy?.bidi === true && this.domains.size === 0) this.#bidi = true
        return
      case SM_NS: return this.#management(element)
      case STREAMS_NS: {
        const error = streamErrorOf(element)
        if (error === undefined) throw new StreamError('unsupported-stanza-type')
        this.#context.log.info({ what: 's2s_peer_error', domain: this.#remote, condition: error.condition, text: error.text })
        return this.#wire.close()
      }
      default: {
        const exchange = this.#exchange
        if (exchange === undefined) throw new StreamError('not-authorized', 'no domain has been proven yet')
        receive(this.#context, exchange, this.#wire, element)
      }
    }
  }

  #startTls({ name }: Stanza): void {
    const contexts = this.#context.certificates()
    if (name !== 'starttls') throw new StreamError('unsupported-stanza-type')
    if (this.secure || this.domains.size > 0 || this.#policy?.starttls === 'false' || contexts === undefined) {
      this.#wire.writeText(`<failure xmlns='${TLS_NS}'/>`)
      return this.#wire.close()
    }
    this.#wire.acceptTls(contexts.optionsFor(this.listener.listen.tlsOptions, this.#local), this.#context.limits.handshakeTimeoutMs, `<proceed xmlns='${TLS_NS}'/>`, () => {
      this.#opened = false
      this.#id = randomId()
    })
  }

  // --- SASL EXTERNAL (XEP-0178 §3)

  #authenticate(element: Stanza): void {
    if (element.name !== 'auth' || this.#authenticated) throw new StreamError('policy-violation', 'the authentication is over')
    const refuse = (condition: string): void => {
      this.#context.log.info({ what: 's2s_login_failed', domain: this.#remote, address: this.address, condition })
      this.#wire.writeText(`<failure xmlns='${SASL_NS}'><${condition}/></failure>`)
      this.#wire.close()
    }
    if (element.attrs['mechanism'] !== 'EXTERNAL') return refuse('invalid-mechanism')
    const given = element.element().getText().trim()
    const asked = given === '' || given === '=' ? this.#remote : Jid.tryParse(Buffer.from(given, 'base64').toString())?.toString()
    // §3 step 9: the identity in the certificate, and the one that the stream is from.
    if (!this.#certified || asked !== this.#remote) return refuse('not-authorized')
    if (!this.#context.allows(this.#local, this.#remote)) throw new StreamError('policy-violation', 'Access denied by service policy')
    this.#authenticated = true
    this.#prove(this.#remote)
    this.#sendBack(this.#remote, this.#local)
    this.#wire.writeText(`<success xmlns='${SASL_NS}'/>`)
    this.#wire.restart()
  }

  /** The other server is this domain. */
  #prove(domain: string): void {
    if (this.#exchange === undefined) {
      const exchange = this.#exchange = new Exchange(domain, this.#local, false, { records: this.#context.storage.records, now: () => this.#context.now() })
      exchange.wire = this.#wire
      this.#wire.idle()
      if (this.#remote === '') this.#remote = domain
      clearTimeout(this.#timer)
      const { maxStanzaBytes, maxStanzaElements } = this.listener.listen
      this.#wire.limits = { ...this.#wire.limits, stanzaBytes: maxStanzaBytes, children: maxStanzaElements }
      this.#parts.known()
      this.#context.log.info({ what: 's2s_connected', direction: 'in', domain, local: this.#local, address: this.address, secure: this.secure, external: this.#authenticated, bidi: this.#bidi })
    }
    this.#exchange.domains.add(domain)
    if (this.#exchange.resumable) this.#exchange.store()
  }

  // --- dialback (XEP-0220 §2.2)

  #dialback(element: Stanza): void {
    // XEP-0288: answers to questions of ours on this stream; there are none.
    if (verdictOf(element) !== undefined) return
    const from = Jid.tryParse(element.from ?? '')
    const to = Jid.tryParse(element.to ?? '')
    if (from === undefined || to === undefined || from.local !== '' || to.local !== '' || from.resource !== '' || to.resource !== '') throw new StreamError('improper-addressing', 'from and to are domains')
    if (element.name === 'verify') return this.#verify(element, from.domain, to.domain)
    if (element.name !== 'result') throw new StreamError('unsupported-stanza-type')
    const answer = (verdict: Verdict): void => {
      if (this.#wire.alive) this.#wire.writeText(dialbackXml('result', { from: to.domain, to: from.domain, verdict }))
    }
    if (++this.#pairs > this.#context.limits.remotePairs) return answer({ error: 'resource-constraint' })
    if (!this.#context.isOurs(to.domain)) return answer({ error: 'item-not-found' })
    if (this.#context.isOurs(from.domain)) throw new StreamError('invalid-from', 'this server has that domain itself')
    const policy = this.#context.policyOf(to.domain)
    if (policy === undefined || (!this.secure && policy.starttls === 'required')) return answer({ error: 'policy-violation' })
    if (!this.#context.allows(to.domain, from.domain)) return answer({ error: 'forbidden' })
    if (this.domains.has(from.domain)) return answer('valid')
    const { tls } = this.#wire
    // §2.3.1: whoever has shown the certificate of a domain need not be asked for at it.
    if (tls !== undefined && this.#context.certified(tls, from.domain).trusted) return this.#believed(from.domain, to.domain, answer)
    if (!this.#context.allowsDialback(to.domain, from.domain)) return answer({ error: 'not-authorized' })
    const remote = this.#context.remote(from.domain)
    if (remote === undefined) return answer({ error: 'resource-constraint' })
    remote.verify(to.domain, this.#id, element.element().getText().trim(), (verdict) => {
      if (!this.#wire.alive) return
      if (verdict === 'valid') return this.#believed(from.domain, to.domain, answer)
      this.#context.log.warn({ what: 's2s_dialback_refused', domain: from.domain, local: to.domain, address: this.address, verdict })
      answer(verdict)
      if (verdict === 'invalid') this.#wire.close()
    })
  }

  #believed(domain: string, local: string, answer: (verdict: Verdict) => void): void {
    const isFirst = this.#exchange === undefined
    if (isFirst) this.#local = local
    this.#prove(domain)
    answer('valid')
    this.#sendBack(domain, local)
  }

  /** As the authoritative server: whether we have made this key (§2.2.2). */
  #verify(element: Stanza, receiving: string, originating: string): void {
    const id = element.id ?? ''
    const verdict: Verdict = !this.#context.isOurs(originating) ? { error: 'item-not-found' } : isDialbackKey(element.element().getText(), this.#context.secret, { receiving, originating, id }) ? 'valid' : 'invalid'
    if (++this.#verifications > this.#context.limits.remotePairs * VERIFICATIONS_PER_PAIR) throw new StreamError('policy-violation', 'too many keys')
    this.#wire.writeText(dialbackXml('verify', { from: originating, to: receiving, id, verdict }))
  }

  #verifications = 0
  /** Whether this node has tried to be the one that keeps what there is of the server. */
  #isAsked = false

  /** XEP-0288: what we have for this domain goes by this stream too. */
  #sendBack(domain: string, local: string): void {
    const exchange = this.#exchange
    if (!this.#bidi || exchange === undefined || exchange.remote !== domain) return
    this.#back.add(local)
    if (this.#policy?.management !== true || exchange.managed || exchange.locals.size > 0) return this.#beginBack()
    // Stanzas are numbered from the first one on: whether they are is about to be said.
    this.#backTimer ??= setTimeout(() => { this.#beginBack() }, BACK_MS)
    this.#backTimer.unref()
  }

  readonly #back = new Set<string>()
  #backTimer: NodeJS.Timeout | undefined

  #beginBack(): void {
    clearTimeout(this.#backTimer)
    const exchange = this.#exchange
    if (exchange === undefined || !this.#wire.alive) return
    // At its home alone stanzas for it are to be had.
    if (this.#context.here(exchange.remote)) for (const local of this.#back) this.#context.remote(exchange.remote)?.authorised(exchange, local)
    this.#back.clear()
  }

  // --- stream management

  #management(nonza: Stanza): void {
    const exchange = this.#exchange
    if (exchange === undefined) throw new StreamError('not-authorized', 'no domain has been proven yet')
    const remote = this.#context.remote(exchange.remote)
    if (acknowledging(exchange, nonza, (list) => { remote?.arrived(list) })) return
    if (this.#policy?.management !== true) throw new StreamError('unsupported-stanza-type')
    const failed = (condition: string, h?: number): void => { this.#wire.writeText(`<failed xmlns='${SM_NS}'${h === undefined ? '' : ` h='${h}'`}><${condition} xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>`) }
    if (exchange.managed || exchange.locals.size > 0) return failed('unexpected-request')
    // What outlives the connection is kept by one node.
    if (!this.#context.here(exchange.remote) && !this.#isAsked) {
      this.#isAsked = true
      return this.#wire.wait(this.#context.claim(exchange.remote).then(() => undefined, () => undefined), () => { this.#management(nonza) })
    }
    if (nonza.name === 'enable') return this.#enable(exchange, ['true', '1'].includes(nonza.attrs['resume'] ?? ''))
    if (nonza.name !== 'resume') throw new StreamError('unsupported-stanza-type')
    const before = this.#context.exchange(nonza.attrs['previd'] ?? '')
    // §5: only whoever began it goes on with it.
    if (before === undefined || !exchange.domains.has(before.remote)) return failed('item-not-found')
    const h = handledIn(nonza)
    const old = before.wire
    before.wire = this.#wire
    old?.destroy()
    const { domains } = exchange
    this.#exchange = before
    for (const domain of domains) before.domains.add(domain)
    before.detachedAt = undefined
    before.store()
    this.#wire.writeCommitted(Buffer.from(`<resumed xmlns='${SM_NS}' previd='${escapeXml(before.id as string)}' h='${before.handled}'/>`))
    remote?.arrived(before.resume(this.#wire, h))
    for (const local of before.locals) remote?.authorised(before, local)
    this.#beginBack()
  }

  #enable(exchange: Exchange, resume: boolean): void {
    const { remoteResumeMs } = this.#context.limits
    exchange.manage(randomId(), resume && this.#context.here(exchange.remote))
    if (exchange.resumable) this.#context.keepExchange(exchange)
    const xml = exchange.resumable ? `<enabled xmlns='${SM_NS}' id='${exchange.id}' resume='true' max='${Math.floor(remoteResumeMs / 1000)}'/>` : `<enabled xmlns='${SM_NS}'/>`
    this.#wire.writeCommitted(Buffer.from(xml))
    this.#beginBack()
  }

  // --- the end

  readEnded(): void { this.#exchange?.storeHandled() }
  flushing(): void { this.#exchange?.flushing() }
  peerClosed(): void {
    // One that we have ended with an error goes on: it is resumed, if it can be.
    this.#endedByUs = this.#wire.closing && !this.#hasFailed
    this.#peerClosed = !this.#wire.closing
  }

  #peerClosed = false

  #hasFailed = false

  failed(error: StreamError): void {
    this.#hasFailed = true
    this.#context.streamError('in', this.#remote, error)
  }

  ended(): void {
    clearTimeout(this.#timer)
    clearTimeout(this.#backTimer)
    if (this.#exchange === undefined) this.#parts.known()
    this.#parts.ended(this)
  }

  /** How it came to its end: whether all that we sent has arrived, and whether the other server wanted it to end. */
  get end(): { readonly isOrderly: boolean; readonly byPeer: boolean } { return { isOrderly: this.#endedByUs, byPeer: this.#peerClosed } }

  get alive(): boolean { return this.#wire.alive }

  closing(): void { this.#exchange?.lastAnswer(this.#context.storage.dirty) }

  close(error?: StreamError): void {
    // Whoever cannot resume says by its own end that it has had everything.
    const isProof = this.#exchange !== undefined && this.#exchange.locals.size > 0 && !this.#exchange.resumable
    this.#wire.close(isProof ? undefined : error)
  }
}

const VERIFICATIONS_PER_PAIR = 10
const BACK_MS = 1000
