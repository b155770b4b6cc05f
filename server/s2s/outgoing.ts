/** A stream that we begin with another server (RFC 6120 §4 to §6; XEP-0178 §3, XEP-0220 §2.1, XEP-0288, XEP-0198). */
import { domainToASCII } from 'node:url'
import type { StanzaErrorCondition } from '../../lib/stanza/errors.ts'
import type { Stanza } from '../../lib/stanza/stanza.ts'
import { StreamError } from '../../lib/stream/errors.ts'
import { escapeXml } from '../../lib/xml/element.ts'
import type { StreamHeader } from '../../lib/xml/parser.ts'
import { streamErrorOf } from '../../lib/client/connection.ts'
import type { Policy, S2sContext } from './context.ts'
import { dialbackKey, dialbackXml, verdictOf } from './dialback.ts'
import { Exchange } from './exchange.ts'
import { acknowledging, handledIn, receive } from './receiving.ts'
import type { Failure, Remote } from './remote.ts'
import { BIDI_FEATURE_NS, BIDI_NS, DIALBACK_FEATURE_NS, DIALBACK_NS, headerXml, SASL_NS, SM_NS, STREAMS_NS, TLS_NS, Wire, type WireOwner } from './wire.ts'

/** What the other server offers. */
interface Offered {
  readonly dialback: boolean
  readonly management: boolean
}

/** A stream that has carried stanzas for less is not begun again at once, lest both servers be busy with that alone. */
const SHORT_MS = 3000

/** Why a domain is refused, in terms of the stanzas that come back (XEP-0220 §2.4). */
const REASONS: Partial<Record<StanzaErrorCondition, StanzaErrorCondition>> = { 'item-not-found': 'remote-server-not-found', forbidden: 'forbidden', 'policy-violation': 'policy-violation', 'not-authorized': 'not-authorized', 'not-allowed': 'not-allowed' }

export class OutgoingStream implements WireOwner {
  /** The domain of ours that it is begun by. */
  readonly local: string
  readonly #context: S2sContext
  readonly #remote: Remote
  readonly #policy: Policy | undefined
  #exchange: Exchange
  #wire: Wire | undefined
  #id = ''
  #timer: NodeJS.Timeout | undefined
  #offered: Offered = { dialback: false, management: false }
  /** Domains of ours that have been asked for. */
  readonly #asked = new Set<string>()
  #ready = false
  #authenticated = false
  #triedExternal = false
  #bidi = false
  /** Ours is ended, and everything before it. */
  #endedByUs = false
  #failure: Failure | undefined
  #over = false
  /** Waits for the answer to `enable` or `resume`. */
  #managing: Exchange | 'new' | undefined

  constructor(context: S2sContext, remote: Remote, local: string) {
    this.#context = context
    this.#remote = remote
    this.local = local
    this.#policy = context.policyOf(local)
    this.#exchange = new Exchange(remote.domain, local, true, { records: context.storage.records, now: () => context.now() })
  }

  get exchange(): Exchange { return this.#exchange }
  /** Whether keys can be verified on it, and domains be asked for. */
  get ready(): boolean { return this.#ready && this.#wire?.alive === true }
  /** Whether it can be for one domain of ours alone. */
  get alone(): boolean { return this.#ready && !this.#offered.dialback }
  /** Whether stanzas flow on it. */
  get established(): boolean { return this.#exchange.locals.size > 0 && this.#wire?.alive === true }
  get secure(): boolean { return this.#wire?.secure === true }

  /** Whether this domain is being authorised on it, or about to be. */
  wants(local: string): boolean {
    return !this.#over && !this.#exchange.locals.has(local) && (this.#asked.has(local) || (local === this.local && (!this.#ready || this.#authenticated)) || (this.#managing !== undefined && local === this.#exchange.local))
  }

  start(): void {
    const { log } = this.#context
    this.#limitStep(this.#context.limits.remoteAnswerMs * 3)
    this.#context.connect(this.#remote.domain, this.local).then((connection) => {
      if (this.#over) return void connection.socket.destroy()
      const parts = this.#context.wireParts(this.local)
      const { limits } = this.#context
      const wire = this.#wire = new Wire(connection.socket, this, { stanzaBytes: limits.stanzaBytes, depth: limits.depth, attributes: limits.attributes, children: limits.children }, parts)
      this.#limitStep()
      wire.guard(() => {
        if (connection.isDirectTls) this.#secured()
        else wire.sendHeader()
      })
    }).catch((error: unknown) => {
      const { condition } = error as { condition?: StanzaErrorCondition }
      if (condition === undefined) log.error({ what: 's2s_connect_failed', domain: this.#remote.domain, error })
      this.#end({ condition: condition ?? 'remote-server-timeout', text: (error as Error).message })
    })
  }

  /** How long the other server has for its next step. */
  #limitStep(ms = this.#context.limits.remoteAnswerMs): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => { this.#fail({ condition: 'remote-server-timeout', text: 'The server does not go on with the negotiation' }) }, ms)
    this.#timer.unref()
  }

  #settled(): void { clearTimeout(this.#timer) }

  header(): string { return headerXml({ from: this.local, to: this.#remote.domain }) }

  /** Ends it as nothing that can be used. */
  #fail(failure: Failure): void {
    this.#failure ??= failure
    this.#end(failure)
    this.#wire?.close()
  }

  // --- what comes

  opened({ attrs }: StreamHeader): void {
    this.#id = attrs['id'] ?? ''
    // RFC 6120 §4.3.2: without a version there are no features.
    if (attrs['version'] === undefined) this.#negotiated({ dialback: true, management: false })
  }

  element(element: Stanza): void {
    switch (element.xmlns) {
      case STREAMS_NS: {
        if (element.name === 'features') return this.#features(element)
        const error = streamErrorOf(element)
        if (error !== undefined) return this.#peerError(error)
        return
      }
      case TLS_NS:
        if (element.name === 'proceed' && !this.secure) return this.#startTls()
        return this.#fail({ condition: 'remote-server-timeout', text: 'The server has failed to begin TLS' })
      case SASL_NS: return this.#saslAnswer(element)
      case DIALBACK_NS: return this.#dialback(element)
      case SM_NS:
        if (this.#managing !== undefined && (element.name === 'enabled' || element.name === 'resumed' || element.name === 'failed')) return this.#managementAnswer(element)
        if (acknowledging(this.#exchange, element, (list) => { this.#remote.arrived(list) })) return
        return
      default:
        // XEP-0288 §2: stanzas come this way when we have asked for them.
        receive(this.#context, this.#exchange, this.#wire as Wire, element)
    }
  }

  #peerError(error: StreamError): void {
    this.#context.log.info({ what: 's2s_peer_error', domain: this.#remote.domain, condition: error.condition, text: error.text })
    const condition: StanzaErrorCondition = error.condition === 'host-unknown' || error.condition === 'host-gone' ? 'remote-server-not-found' : error.condition === 'policy-violation' || error.condition === 'not-authorized' ? 'policy-violation' : 'remote-server-timeout'
    this.#fail({ condition, text: `The server has ended the stream: ${error.condition}${error.text === undefined ? '' : ` (${error.text})`}` })
  }

  #features(features: Stanza): void {
    const wire = this.#wire as Wire
    const policy = this.#policy
    const starttls = features.find('starttls', TLS_NS)
    if (!this.secure && starttls !== undefined && policy?.starttls !== 'false' && this.#context.certificates() !== undefined) {
      this.#limitStep()
      return wire.writeText(`<starttls xmlns='${TLS_NS}'/>`)
    }
    if (!this.secure && policy?.starttls === 'required') return this.#fail({ condition: 'policy-violation', text: 'The server does not offer the encryption that is required here' })
    const offersBidi = features.has('bidi', BIDI_FEATURE_NS)
    if (offersBidi && policy?.bidi === true && !this.#bidi && !this.#authenticated) {
      this.#bidi = true
      wire.writeText(`<bidi xmlns='${BIDI_NS}'/>`)
    }
    const offered: Offered = { dialback: features.has('dialback', DIALBACK_FEATURE_NS), management: features.has('sm', SM_NS) }
    const mechanisms = features.find('mechanisms', SASL_NS)
    const external = mechanisms !== undefined && features.childElement(mechanisms).getChildren('mechanism').some((each) => each.text().trim() === 'EXTERNAL')
    if (this.secure && external && !this.#authenticated && !this.#remote.withoutExternal) {
      this.#offered = offered
      this.#triedExternal = true
      this.#limitStep()
      return wire.writeText(`<auth xmlns='${SASL_NS}' mechanism='EXTERNAL'>${Buffer.from(this.local).toString('base64')}</auth>`)
    }
    // Servers of before XEP-0220 do not say that they know dialback.
    this.#negotiated(this.#authenticated ? offered : { ...offered, dialback: offered.dialback || !external })
  }

  #startTls(): void {
    const wire = this.#wire as Wire
    const { limits } = this.#context
    const choices = this.#context.certificates()?.optionsFor(this.#context.tls, this.local)
    this.#limitStep()
    wire.startTls({ ...(choices?.secureContext === undefined ? {} : { secureContext: choices.secureContext }), servername: domainToASCII(this.#remote.domain), rejectUnauthorized: false }, limits.handshakeTimeoutMs, () => { this.#secured() })
  }

  #secured(): void {
    const wire = this.#wire as Wire
    const { trusted, problem } = this.#context.certified(wire.tls as NonNullable<typeof wire.tls>, this.#remote.domain)
    if (trusted) this.#certified = true
    // Where dialback is off, nobody is believed without a certificate.
    else if (this.#policy?.dialback === undefined) throw new StreamError('not-authorized', `your certificate is not one of ${this.#remote.domain}${problem === undefined ? '' : `: ${problem}`}`)
    wire.sendHeader()
    this.#limitStep()
  }

  #certified = false
  #establishedAt = 0

  // --- SASL EXTERNAL (XEP-0178 §3)

  #saslAnswer(answer: Stanza): void {
    const wire = this.#wire as Wire
    if (!this.#triedExternal || this.#authenticated) throw new StreamError('policy-violation', 'nothing was asked')
    if (answer.name === 'success') {
      this.#authenticated = true
      wire.restart()
      wire.sendHeader()
      return this.#limitStep()
    }
    this.#remote.withoutExternal = true
    // §3 step 10: the other server may close the stream; dialback is tried on another then.
    this.#negotiated({ ...this.#offered, dialback: true })
  }

  // --- domains of ours (XEP-0220 §2.1.1)

  #negotiated(offered: Offered): void {
    this.#offered = offered
    this.#ready = true
    this.#settled()
    this.#wire?.idle()
    if (this.#authenticated) this.#firstAuthorised(this.local)
    else this.#remote.streamReady(this)
  }

  /** Asks whether stanzas may be sent from this domain too; whether that can be asked. */
  authorise(local: string): boolean {
    // The first decides whether stanzas are numbered.
    if (this.#exchange.locals.size === 0 && (this.#managing !== undefined || this.#asked.size > 0)) return true
    if (!this.ready || !this.#offered.dialback || this.#context.policyOf(local)?.dialback === undefined || !this.#context.allowsDialback(local, this.#remote.domain)) {
      if (local !== this.local) return false
      this.#remote.refused(local, { condition: 'not-authorized', text: 'Neither certificates nor dialback prove who is who' })
      this.#fail({ condition: 'not-authorized', text: 'Neither certificates nor dialback prove who is who' })
      return true
    }
    this.#asked.add(local)
    this.#limitStep()
    const key = dialbackKey(this.#context.secret, { receiving: this.#remote.domain, originating: local, id: this.#id })
    this.#wire?.writeText(dialbackXml('result', { from: local, to: this.#remote.domain, key }))
    return true
  }

  #dialback(element: Stanza): void {
    const verdict = verdictOf(element)
    const { from, to } = element
    // XEP-0288 §2: the other server may ask for its domains on this stream; we do not take such questions.
    if (verdict === undefined) return this.#wire?.writeText(dialbackXml(element.name === 'verify' ? 'verify' : 'result', { from: to ?? this.local, to: from ?? this.#remote.domain, id: element.id, verdict: { error: 'not-allowed' } }))
    if (from !== this.#remote.domain || to === undefined) return
    if (element.name === 'verify') return this.#remote.verified(this, to, element.id ?? '', verdict)
    if (element.name !== 'result' || !this.#asked.delete(to)) return
    if (this.#asked.size === 0) this.#settled()
    if (verdict === 'valid') return this.#exchange.locals.size === 0 ? this.#firstAuthorised(to) : this.#authorised(to)
    const condition = verdict === 'invalid' ? 'internal-server-error' : REASONS[verdict.error] ?? 'remote-server-timeout'
    const failure = { condition, text: 'The server does not believe that this is the domain' } as const
    this.#remote.refused(to, failure)
    this.#remote.streamReady(this)
    if (this.#exchange.locals.size === 0 && this.#asked.size === 0) this.#fail(failure)
  }

  /** The domain that the stream was begun for may send: management comes first (XEP-0198 §2). */
  #firstAuthorised(local: string): void {
    this.#exchange = new Exchange(this.#remote.domain, local, true, { records: this.#context.storage.records, now: () => this.#context.now() })
    // Whoever it is that has answered there: DNS has led us to it, as it would to verify a key.
    if (this.#bidi && (this.#certified || this.#context.allowsDialback(local, this.#remote.domain))) this.#exchange.domains.add(this.#remote.domain)
    if (this.#policy?.management !== true || !this.#offered.management) return this.#authorised(local)
    const lost = this.#remote.lostExchange(local)
    this.#managing = lost ?? 'new'
    this.#limitStep()
    this.#wire?.writeText(lost?.id === undefined ? `<enable xmlns='${SM_NS}' resume='true'/>` : `<resume xmlns='${SM_NS}' previd='${escapeXml(lost.id)}' h='${lost.handled}'/>`)
  }

  #managementAnswer(answer: Stanza): void {
    const wire = this.#wire as Wire
    const before = this.#managing
    this.#managing = undefined
    this.#settled()
    if (answer.name === 'enabled') {
      this.#exchange.manage(answer.attrs['id'], ['true', '1'].includes(answer.attrs['resume'] ?? ''))
      return this.#authorised(this.#exchange.local)
    }
    if (answer.name === 'resumed' && before instanceof Exchange) {
      const own = this.#exchange
      this.#exchange = before
      for (const domain of own.domains) before.domains.add(domain)
      const again = [...before.locals]
      before.locals.clear()
      this.#remote.arrived(before.resume(wire, handledIn(answer)))
      this.#authorised(before.local)
      for (const local of again) if (local !== before.local) this.authorise(local)
      return
    }
    if (before instanceof Exchange) {
      // §5: what it has handled, it may say. We go on anew.
      this.#remote.drop(before, /^\d{1,10}$/.test(answer.attrs['h'] ?? '') ? Number(answer.attrs['h']) : undefined)
      this.#managing = 'new'
      this.#limitStep()
      return wire.writeText(`<enable xmlns='${SM_NS}' resume='true'/>`)
    }
    this.#authorised(this.#exchange.local)
  }

  #authorised(local: string): void {
    const first = this.#exchange.locals.size === 0
    this.#exchange.wire = this.#wire
    this.#remote.authorised(this.#exchange, local)
    if (!first) return
    this.#establishedAt = this.#context.now()
    this.#context.log.info({ what: 's2s_connected', direction: 'out', domain: this.#remote.domain, local, secure: this.secure, external: this.#authenticated, certified: this.#certified, bidi: this.#bidi, resumable: this.#exchange.resumable })
    this.#remote.streamReady(this)
  }

  /** Asks about a key that was made, or not, for a stream of the other server with us. */
  verify({ local, id, key }: { readonly local: string; readonly id: string; readonly key: string }): void {
    this.#wire?.writeText(dialbackXml('verify', { from: local, to: this.#remote.domain, id, key }))
  }

  // --- the end

  readEnded(): void { this.#exchange.storeHandled() }
  flushing(): void { if (this.established) this.#exchange.flushing() }
  /** A stream that we have ended with an error goes on: it is resumed, if it can be. */
  peerClosed(): void { if (this.#wire?.closing === true && this.#failure === undefined) this.#endedByUs = true }

  failed(error: StreamError): void {
    this.#context.streamError('out', this.#remote.domain, error)
    this.#failure ??= { condition: error.condition === 'not-authorized' ? 'not-authorized' : 'remote-server-timeout', text: error.text ?? error.condition }
  }

  ended(): void { this.#end(undefined) }

  #end(failure: Failure | undefined): void {
    if (this.#over) return
    this.#over = true
    this.#settled()
    const wasEstablished = this.#exchange.locals.size > 0
    if (wasEstablished && this.#exchange.wire === this.#wire) this.#remote.lost(this.#exchange, this.#endedByUs)
    // The server has closed the stream instead of going on without EXTERNAL: at once again, by dialback.
    const isSecondTry = this.#triedExternal && !this.#authenticated && this.#remote.withoutExternal
    const wasIdle = this.#ready && this.#asked.size === 0 && this.#failure === undefined
    const isShort = wasEstablished && !this.#endedByUs && this.#context.now() - this.#establishedAt < SHORT_MS
    this.#remote.streamEnded(this, wasEstablished || wasIdle || isSecondTry ? undefined : failure ?? this.#failure ?? { condition: 'remote-server-timeout', text: 'The server has closed the connection' }, isShort)
  }

  get alive(): boolean { return this.#wire === undefined ? !this.#over : this.#wire.alive }

  closing(): void { this.#exchange.lastAnswer(this.#context.storage.dirty) }

  /** `isPause`: what can be resumed will be. */
  close(isPause = false): void {
    if (this.#wire === undefined) this.#end(undefined)
    else this.#wire.close(isPause && this.#exchange.resumable ? new StreamError('system-shutdown') : undefined)
  }
}
