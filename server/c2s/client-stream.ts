/** A client's stream: opening, STARTTLS, SASL, resource binding, and then the session's stanzas (RFC 6120 §4 to §7). */
import { Socket } from 'node:net'
import tls from 'node:tls'
import { Jid } from '../../lib/jid.ts'
import { Bucket } from '../../lib/net/bucket.ts'
import { certifiedAddresses, xmppAddressesOf } from '../../lib/net/client-certificate.ts'
import { shareReads } from '../../lib/net/shared-reads.ts'
import { channelBindingOf } from '../../lib/sasl/channel-binding.ts'
import { certifiedAccounts } from '../../lib/sasl/external.ts'
import { namedAccount } from '../../lib/sasl/named-account.ts'
import { SaslFailure } from '../../lib/sasl/mechanism.ts'
import { type ChannelBinding, createSaslServer, exchangeOf, mechanismsFor, type SaslContext, type SaslServer } from '../../lib/sasl/server.ts'
import { randomId } from '../../lib/stanza/ids.ts'
import type { ScramHash } from '../../lib/sasl/scram-keys.ts'
import { StanzaError } from '../../lib/stanza/errors.ts'
import { CLIENT_NS, errorReply, iqResult, Stanza } from '../../lib/stanza/stanza.ts'
import { StreamError } from '../../lib/stream/errors.ts'
import { CLOSE_XML, openXml, readFrame } from '../../lib/stream/framing.ts'
import { type Element, escapeXml, xml } from '../../lib/xml/element.ts'
import { StreamParser, type StreamHandler, type StreamHeader } from '../../lib/xml/parser.ts'
import type { LoginTry } from '../accounts/login-limits.ts'
import type { Shaper } from '../config/access.ts'
import type { ListenConfig } from '../config/config.ts'
import type { Login, Stranger, Task } from '../extensions/extension.ts'
import type { BeforeLogin, Host } from '../host.ts'
import { type Carrier, createManagement, type Session, type Taken } from '../sessions/session.ts'
import type { C2s } from './c2s.ts'
import { type Connection, FramedConnection } from './framed.ts'
import { type Front, type Passage, type Passenger, tlsFactsOf } from './passing.ts'
import { BIND2_NS, challengeXml, CLIENT, continueXml, failureXml, readAgent, readInitialResponse, resourceFor, SASL2_NS, successXml, taskDataXml, withInitialResponse } from './sasl2.ts'

const NS = {
  streams: 'http://etherx.jabber.org/streams',
  tls: 'urn:ietf:params:xml:ns:xmpp-tls',
  sasl: 'urn:ietf:params:xml:ns:xmpp-sasl',
  bind: 'urn:ietf:params:xml:ns:xmpp-bind',
  session: 'urn:ietf:params:xml:ns:xmpp-session',
  sm: 'urn:xmpp:sm:3',
  channelBinding: 'urn:xmpp:sasl-cb:0',
} as const

type Attributes = Readonly<Record<string, string | undefined>>

const EMPTY = Buffer.alloc(0)
const STREAM_END = Buffer.from('</stream:stream>')
const COUNTER_MAX = 2 ** 32 - 1
/** SASL failures (RFC 6120 §6.5) that are no wrong user name or password. */
const NO_GUESS: ReadonlySet<string> = new Set(['aborted', 'account-disabled', 'credentials-expired', 'encryption-required', 'invalid-mechanism', 'temporary-auth-failure'])

/** A directory takes passwords alone, and it is not known beforehand whose account is there. */
const NO_HASHES: readonly ScramHash[] = []

export class ClientStream implements StreamHandler, Carrier {
  readonly address: string
  readonly #c2s: C2s
  readonly listen: ListenConfig
  #socket: Connection
  /** The same, when it carries whole elements. */
  readonly #framed: FramedConnection | undefined
  /** Elements of the frame in hand so far; none may follow the first. */
  #inFrame = 0
  readonly #parser: StreamParser
  #secure: boolean
  #host: Host | undefined
  #user: string | undefined
  #session: Session | undefined
  #sasl: SaslServer | undefined
  /** The login by SASL2 that goes on, or is done. */
  #login: Login | undefined
  /** The stream as extensions see it before its login. */
  #stranger: Stranger | undefined
  #tasks: PendingTasks | undefined
  #certified: readonly string[] | undefined
  #binding: { readonly found: ChannelBinding | undefined } | undefined
  /** What is to be written waits for the answer to the login. */
  #answering = false
  /** The bare JID that the stream header says it is from. */
  #claimed: string | undefined
  /** Whether mechanisms are offered for the account that the stream header names: it is known here. */
  #claimedHere = false
  /** The stream header as it came, to be said again to whoever serves the account; kept until it is known who that is. */
  #header: StreamHeader | undefined
  /** What begins a login, as far as it is not known who serves the account. */
  #request: Stanza | undefined
  /** The client as another process tells of it, which has its connection. */
  readonly #passed: Passenger | undefined
  /** Elements that come again, until the last of which the client has had all answers. */
  #repeated = 0
  #authTries = 0
  #try: LoginTry | undefined
  #headerSent = false
  #opened = false
  #settled = false
  /** TLS was promised: nothing more goes out in the clear. */
  #awaitsTls = false
  #closing = false
  #closed = false
  /** What is written at the end of the turn. */
  #out: Buffer[] | undefined
  #scheduled = false
  #taken: Taken[] | undefined
  #preAuthBytes = 0
  #timer: NodeJS.Timeout | undefined
  #busy = false
  #lang: string | undefined
  /** When the client last sent anything, ms. */
  heardAt: number
  #pinged = false
  /** The shaper of the session; null when it has none. */
  #shaper: Shaper | null | undefined
  #shaperPause: NodeJS.Timeout | undefined
  #bucket: Bucket | undefined

  constructor(c2s: C2s, listen: ListenConfig, socket: Connection, address: string, secure: boolean, passed?: Passenger) {
    this.#c2s = c2s
    this.#passed = passed
    if (passed !== undefined) {
      this.#repeated = passed.repeated
      this.#authTries = passed.failures
    }
    this.listen = listen
    this.#socket = socket
    this.#framed = socket instanceof FramedConnection ? socket : undefined
    this.#secure = secure
    this.address = address
    const { limits } = c2s
    this.heardAt = c2s.now()
    this.#parser = new StreamParser({ stanzaBytes: listen.preAuthMaxStanzaBytes, depth: limits.depth, attributes: limits.attributes, children: listen.preAuthMaxStanzaElements }, this)
    // RFC 6120 §13.12: what has not logged in does not stay.
    this.#timer = setTimeout(() => this.close(new StreamError('connection-timeout')), limits.preAuthTimeoutMs)
    this.#timer.unref()
    if (socket instanceof Socket) socket.setNoDelay(true)
    this.#attach(socket)
  }

  get secure(): boolean { return this.#secure }
  get session(): Session | undefined { return this.#session }
  /** The bare JID of who has logged in. */
  get account(): string | undefined { return this.#user === undefined ? undefined : `${this.#user}@${this.host}` }
  get host(): string { return this.#host?.name ?? '' }
  /** Whether nothing is to be expected of the client for now, as it was granted. */
  get away(): boolean { return this.#framed?.away === true }
  get backlog(): number { return this.#socket.writableLength }
  get confirms(): boolean { return this.#framed?.confirms === true }

  /** Has it hear nothing of its connection any more. */
  #detach: (() => void) | undefined

  #attach(socket: Connection): void {
    if (socket instanceof Socket) shareReads(socket)
    const read = (chunk: Buffer): void => this.#read(chunk)
    const heard = (): void => this.#heard()
    const gone = (): void => this.#gone()
    socket.on('data', read)
    this.#framed?.on('heard', heard)
    socket.on('error', gone)
    socket.on('end', gone)
    socket.on('close', gone)
    if (this.#c2s.front === undefined) return
    this.#detach = () => {
      socket.off('data', read)
      socket.off('error', gone)
      socket.off('end', gone)
      socket.off('close', gone)
      this.#framed?.off('heard', heard)
    }
  }

  #heard(): void {
    this.heardAt = this.#c2s.now()
    this.#pinged = false
  }

  /** Bytes from the client; the buffer is used again afterwards. */
  #read(chunk: Buffer): void {
    if (this.#closed) return
    this.#heard()
    if (this.#session === undefined) {
      this.#preAuthBytes += chunk.length
      if (this.#preAuthBytes > this.#c2s.limits.preAuthBytes) return this.close(new StreamError('policy-violation', 'too much before login'))
    } else this.#shape(chunk.length)
    this.#guard(() => {
      if (this.#framed === undefined) this.#parser.write(chunk)
      else this.#readFrame(chunk)
    })
  }

  /** RFC 7395 §3.3: one whole element. Throws StreamError. */
  #readFrame(chunk: Buffer): void {
    const { kind, bytes } = readFrame(chunk)
    if (kind === 'open' && this.#opened) throw new StreamError('bad-format', 'the stream is open')
    if (kind === 'element' && !this.#opened) throw new StreamError('bad-format', 'the stream begins with open')
    this.#inFrame = 0
    this.#parser.write(bytes)
    if (!this.#closed && !this.#parser.idle) throw notWhole()
  }

  /** Runs what may throw a StreamError: the one place where they are caught. */
  #guard(run: () => void): void {
    try {
      run()
    } catch (error) {
      if (error instanceof StreamError) this.close(error)
      else {
        this.#c2s.log.error({ what: 'stream_failed', address: this.address, error })
        this.close(new StreamError('internal-server-error'))
      }
    }
  }

  /** Slows the client down to its shaper's rate by not reading for a while. */
  #shape(bytes: number): void {
    if (this.#shaper === undefined) this.#shaper = this.#c2s.shaperOf(this.listen, this.#host as Host, this.#session as Session) ?? null
    const shaper = this.#shaper
    if (shaper === null) return
    const waitMs = (this.#bucket ??= new Bucket()).take(bytes, shaper, this.#c2s.now())
    if (waitMs === 0 || this.#shaperPause !== undefined) return
    this.#socket.pause()
    this.#shaperPause = setTimeout(() => {
      this.#shaperPause = undefined
      if (!this.#closed && !this.#busy) this.#socket.resume()
    }, waitMs)
    this.#shaperPause.unref()
  }

  // --- opening

  streamOpened(header: StreamHeader): void {
    const { attrs } = header
    this.#opened = true
    this.#headerSent = false
    this.#lang = attrs['xml:lang']
    const to = attrs['to']
    const from = attrs['from'] ? Jid.tryParse(attrs['from']) : undefined
    let domain: string | undefined
    if (to !== undefined) {
      const jid = Jid.tryParse(to)
      // RFC 6120 §4.9.3.7
      if (jid === undefined) throw new StreamError('improper-addressing', 'to is no address')
      domain = jid.local === '' && jid.resource === '' ? jid.domain : undefined
    } else if (this.#host !== undefined) domain = this.#host.name
    const host = domain === undefined ? undefined : this.#c2s.hosts.get(domain)
    if (this.#user !== undefined && host !== this.#host) {
      throw new StreamError('host-unknown', 'not the host of the login')
    }
    if (attrs['from'] && from === undefined) throw new StreamError('improper-addressing', 'from is no address')
    this.#host = host
    this.#claimed = from?.bare
    const { front } = this.#c2s
    const before = this.#user === undefined && host !== undefined
    this.#header = before && front !== undefined ? header : undefined
    // Only SASL2 differs from account to account, and it is for encrypted streams.
    if (before && front !== undefined && this.#secure && this.#passed === undefined && from?.domain === host.name && from.local !== '' && !front.isHere(from.bare) && host.logins.opened(this.address) === undefined) {
      const open = (): void => this.#openStream(header, host, from, to)
      return this.#wait(this.#passOn(front, from.bare, []).then((passed) => passed ? undefined : open(), open), () => {})
    }
    this.#openStream(header, host, from, to)
  }

  #openStream({ attrs }: StreamHeader, host: Host | undefined, from: Jid | undefined, to: string | undefined): void {
    this.#sendHeader(from?.toString())
    // RFC 6120 §4.9.3.9
    if (this.#user !== undefined && from !== undefined && from.bare !== Jid.of(this.#user, host?.name ?? '').bare) throw new StreamError('invalid-from', 'not the account of the login')
    if (to === undefined && host === undefined) throw new StreamError('host-unknown', 'the stream header needs a to')
    if (host === undefined) throw new StreamError('host-unknown')
    // XEP-0388 §2.1
    if (from !== undefined && from.domain !== host.name) throw new StreamError('invalid-from', 'not an account of this host')
    const version = attrs['version']
    // RFC 6120 §4.7.5: no version means 0.9, which we do not speak.
    if (version === undefined || !/^\d+\.\d+$/.test(version) || Number(version.split('.')[0]) < 1) throw new StreamError('unsupported-version')
    const banned = this.#user === undefined ? host.logins.opened(this.address) : undefined
    if (banned !== undefined) throw banned
    this.#claimedHere = this.#claimed !== undefined && this.#repeated === 0 && this.#c2s.front?.isHere(this.#claimed) !== false
    this.#sendText(this.#features(host))
  }

  #sendHeader(to?: string): void {
    this.#headerSent = true
    const host = this.#host?.name ?? this.#c2s.defaultHost
    const attributes = `version='1.0' id='${randomId()}' from='${escapeXml(host)}' xml:lang='en'${to ? ` to='${escapeXml(to)}'` : ''}`
    this.#sendText(this.#framed === undefined ? `<?xml version='1.0'?><stream:stream xmlns='${CLIENT_NS}' xmlns:stream='${NS.streams}' ${attributes}>` : openXml(attributes))
  }

  #features(host: Host): string {
    let text = '<stream:features>'
    if (this.#user === undefined) {
      if (!this.#secure && this.listen.starttls) text += `<starttls xmlns='${NS.tls}'>${this.listen.starttlsRequired ? '<required/>' : ''}</starttls>`
      if (this.#secure || !this.listen.starttlsRequired) {
        const context = this.#saslContext(host)
        const mechanisms = mechanismsFor(context)
        // XEP-0388 §3: over TLS alone.
        if (this.#secure) text += sasl2Feature(host, this.#sasl2Context(host))
        if (mechanisms.length > 0) {
          text += `<mechanisms xmlns='${NS.sasl}'>${mechanisms.map((name) => `<mechanism>${name}</mechanism>`).join('')}</mechanisms>`
          if (context.channelBinding !== undefined && context.channelBinding.types.length > 0) {
            // XEP-0440 §3
            text += `<sasl-channel-binding xmlns='${NS.channelBinding}'>${context.channelBinding.types.map((type) => `<channel-binding type='${type}'/>`).join('')}</sasl-channel-binding>`
          }
        }
        text += host.features.before({ secure: this.#secure, address: this.address })
      }
    } else {
      if (this.#session === undefined) text += `<bind xmlns='${NS.bind}'/><session xmlns='${NS.session}'><optional/></session>`
      if (host.streamManagement !== undefined && this.#session?.management === undefined) text += `<sm xmlns='${NS.sm}'/>`
      text += host.features.after()
    }
    return `${text}</stream:features>`
  }

  /** XEP-0388 §2.1: mechanisms for the account that the stream header names. One that does not exist looks like any other. */
  #sasl2Context(host: Host): SaslContext {
    const context = this.#saslContext(host)
    const hashes = this.#claimed === undefined || !this.#claimedHere ? undefined : this.#c2s.accounts.hashes(this.#claimed)
    return { ...context, disabled: host.config.disabledMechanisms, hashes: host.directory !== undefined ? NO_HASHES : hashes === undefined || hashes instanceof Promise ? host.config.passwordHashes : hashes }
  }

  #saslContext(host: Host): SaslContext {
    const binding = this.#channelBinding()
    return {
      host: host.name,
      accounts: host.credentials,
      passwords: host.config.authMethods.includes('internal') || host.directory !== undefined,
      makeAnonymous: host.makeAnonymous,
      secure: this.#secure,
      channelBinding: binding,
      offeredPlus: binding !== undefined && binding.types.length > 0,
      disabled: [...host.config.disabledMechanisms, ...host.config.disabledInSasl1],
      hashes: host.directory !== undefined ? NO_HASHES : host.config.passwordHashesInSasl1,
      claimed: this.#claimed,
      address: this.address,
      elsewhere: host.elsewhere,
      certified: this.#certifiedAddresses(),
      attempt: (bare) => { this.#try = this.#c2s.tryLogin(bare, this.address) },
    }
  }

  /** What the connection can be bound to; asked of OpenSSL once. */
  #channelBinding(): ChannelBinding | undefined {
    if (this.#passed !== undefined) return this.#passed.binding
    const socket = this.#socket
    if (!this.#secure || !(socket instanceof tls.TLSSocket)) return undefined
    this.#binding ??= { found: channelBindingOf(socket, this.#c2s.endPointOf(socket)) }
    return this.#binding.found
  }

  #certifiedAddresses(): readonly string[] | undefined {
    if (this.#passed !== undefined) return this.#certified ??= this.#passed.certificate && xmppAddressesOf(this.#passed.certificate)
    if (!this.#secure || !(this.#socket instanceof tls.TLSSocket) || this.listen.tlsOptions.caFile === undefined) return undefined
    this.#certified ??= certifiedAddresses(this.#socket) ?? []
    return this.#certified
  }

  streamClosed(): void {
    if (this.#inFrame > 0) throw notWhole()
    // RFC 6120 §4.4: the client closes; a resumable session ends with it.
    const session = this.#session
    this.#session = undefined
    session?.close()
    this.close()
  }

  // --- stanzas

  stanza(stanza: Stanza): void {
    if (this.#closed) return
    if (this.#framed !== undefined && ++this.#inFrame > 1) throw notWhole()
    if (this.#repeated > 0) this.#repeated--
    const session = this.#session
    if (session !== undefined) return this.#fromSession(session, stanza)
    if (this.#user !== undefined) return this.#beforeBind(stanza)
    this.#beforeLogin(stanza)
  }

  #fromSession(session: Session, stanza: Stanza): void {
    if (stanza.xmlns === NS.sm) return this.#management(session, stanza)
    if (!stanza.isStanza) {
      const handler = this.#host?.nonzas.get(`${stanza.xmlns} ${stanza.name}`)
      if (handler === undefined) {
        if (stanza.xmlns === NS.sasl || stanza.xmlns === SASL2_NS || stanza.xmlns === NS.tls) throw new StreamError('unsupported-stanza-type', 'the negotiation is over')
        throw new StreamError('unsupported-stanza-type')
      }
      handler(session, stanza)
      return
    }
    const claimed = stanza.from
    if (claimed !== undefined) {
      const jid = Jid.tryParse(claimed)
      // RFC 6120 §8.1.2.1
      if (jid === undefined || (!jid.equals(session.jid) && jid.toString() !== session.owner)) throw new StreamError('invalid-from')
    }
    this.#c2s.counted(stanza.name)
    // XEP-0286 §4.2: its radio is on; what is held back for it goes now.
    if (!session.active) session.flushHeld()
    const stamped = stanza.stamped(session.jid.toString(), stanza.name === 'iq' ? undefined : this.#lang)
    const toServer = stamped.to === undefined || stamped.to === session.host
    if (stamped.name === 'iq' && stamped.type === 'set' && toServer && stamped.has('session', NS.session)) {
      // RFC 3921's session, for old clients: nothing to do.
      session.send(iqResult(stamped.withAttrs({ to: undefined })))
      session.countHandled()
      return
    }
    if (stamped.name === 'iq' && stamped.type === 'set' && toServer && stamped.has('bind', NS.bind)) {
      // RFC 6120 §7.6.2.3: one stream has one resource.
      this.#c2s.router.bounce(stamped, new StanzaError('not-allowed', 'a resource is bound already'), session)
      session.countHandled()
      return
    }
    const pending = this.#c2s.router.route(stamped, session)
    if (pending === undefined) {
      session.countHandled()
      return
    }
    const { resumptions } = session
    const after = pending.finally(() => {
      // Nobody waits for it on this stream any more. A client that has not resumed since learns that it need not send it again.
      if (this.#closed && session.resumptions === resumptions) session.countHandled()
    })
    // RFC 6120 §10.1: in order; and what is acknowledged has been handled.
    this.#wait(after, () => session.countHandled())
  }

  /** Stops reading until something has been done. */
  #wait(pending: Promise<unknown>, then: () => void): void {
    this.#busy = true
    this.#parser.pause()
    let settled = false
    const done = (): void => {
      settled = true
      this.#busy = false
      if (this.#closed) return
      this.#guard(() => {
        then()
        this.#parser.resume()
      })
      if (!this.#busy && !this.#closed && this.#shaperPause === undefined) this.#socket.resume()
    }
    pending.then(done, (error: unknown) => {
      if (error instanceof StreamError) return this.close(error)
      this.#c2s.log.error({ what: 'stanza_failed', address: this.address, error })
      // A login that came to nothing is not answered any more.
      if (this.#session === undefined) return this.close(new StreamError('internal-server-error'))
      done()
    })
    // A frame that follows is for the time after.
    if (this.#framed !== undefined) return this.#framed.pause()
    setImmediate(() => {
      if (!settled) this.#socket.pause()
    })
  }

  #beforeLogin(stanza: Stanza): void {
    const host = this.#host as Host
    if (stanza.xmlns === NS.tls && stanza.name === 'starttls') return this.#startTls()
    // RFC 6120 §4.9.3.12, §4.9.3.14
    if (!this.#secure && this.listen.starttlsRequired) throw new StreamError(stanza.isStanza ? 'not-authorized' : 'policy-violation', 'STARTTLS is required')
    if (stanza.xmlns === SASL2_NS) return this.#negotiate(host, stanza)
    // XEP-0388 §2.4: nothing else while it goes on.
    if (this.#login !== undefined) throw new StreamError('policy-violation', 'the login goes on')
    if (stanza.xmlns === NS.sasl) return this.#authenticate(host, stanza)
    if (stanza.isStanza && stanza.name === 'iq') {
      const child = stanza.children[0]
      // RFC 6120 §8.2.3
      if (stanza.id === undefined || (stanza.type !== 'get' && stanza.type !== 'set') || stanza.children.length !== 1) throw new StreamError('not-authorized')
      const handler = child === undefined ? undefined : host.nonzas.before(`${child.xmlns} ${child.name}`)
      if (handler !== undefined) return this.#wait(this.#fromStranger(host, handler, stanza), () => {})
    }
    // RFC 6120 §4.9.3.12
    if (stanza.isStanza || stanza.xmlns === NS.sm) throw new StreamError('not-authorized')
    throw new StreamError('unsupported-stanza-type')
  }

  async #fromStranger(host: Host, handler: BeforeLogin, request: Stanza): Promise<void> {
    const { front } = this.#c2s
    let reply: Stanza
    try {
      if (front?.serves === false && await this.#passStranger(front, host, request)) return
      if (this.#stranger?.host !== host.name || this.#stranger.secure !== this.#secure) this.#stranger = { address: this.address, secure: this.#secure, host: host.name, close: () => this.close() }
      reply = await handler(this.#stranger, request)
    } catch (error) {
      if (!(error instanceof StanzaError)) this.#c2s.log.error({ what: 'iq_failed', error })
      reply = errorReply(request, error instanceof StanzaError ? error : new StanzaError('internal-server-error'))
    }
    this.write(reply.bytes())
  }

  /** Registration goes to the node that keeps what belongs to the host. Throws StanzaError when there is none. */
  async #passStranger(front: Front, host: Host, request: Stanza): Promise<boolean> {
    try {
      return await this.#passOn(front, host.name, [request])
    } catch {
      throw new StanzaError('resource-constraint', 'No node serves this at the moment', { type: 'wait' })
    }
  }

  #beforeBind(stanza: Stanza): void {
    if (stanza.xmlns === NS.sm) {
      if (stanza.name === 'resume') return this.#resume(stanza)
      // XEP-0198 §3: not before binding.
      return this.#sendText(failed('unexpected-request'))
    }
    if (stanza.xmlns === NS.sasl || stanza.xmlns === SASL2_NS || stanza.xmlns === NS.tls) throw new StreamError('policy-violation', 'the negotiation is over')
    if (!stanza.isStanza) throw new StreamError('unsupported-stanza-type')
    if (stanza.name === 'iq' && stanza.type === 'set' && stanza.id !== undefined && stanza.children.length === 1 && stanza.has('bind', NS.bind)) return this.#bind(stanza)
    if (stanza.name === 'iq' && stanza.has('bind', NS.bind)) return this.write(errorReply(stanza, new StanzaError('bad-request')).bytes())
    // RFC 6120 §7.3.1
    throw new StreamError('not-authorized', 'bind a resource first')
  }

  // --- STARTTLS (RFC 6120 §5)

  #startTls(): void {
    if (this.#secure || !this.listen.starttls) {
      this.#sendText(`<failure xmlns='${NS.tls}'/>`)
      this.close()
      return
    }
    // RFC 6120 §5.4.3.3: nothing sent in the clear may count after the handshake.
    this.#parser.pause()
    // The parser still holds the chunk that this came in; what is left of it shows when the turn is over.
    queueMicrotask(() => {
      if (!this.#closed) this.#guard(() => this.#proceed())
    })
  }

  #proceed(): void {
    // §5.3.3 forbids white space here too, but Go clients end every stanza with a line break; dropped, it says nothing.
    if (this.#parser.takeRest().some((byte) => byte !== 0x20 && byte !== 0x0a && byte !== 0x0d && byte !== 0x09)) {
      throw new StreamError('policy-violation', 'data behind starttls')
    }
    this.#sendText(`<proceed xmlns='${NS.tls}'/>`)
    this.flush()
    const plain = this.#socket as Socket
    plain.removeAllListeners('data')
    plain.removeAllListeners('end')
    plain.removeAllListeners('error')
    this.#awaitsTls = true
    this.#c2s.secure(plain, this.listen, (this.#host as Host).name, (secured) => {
      this.#awaitsTls = false
      if (secured === undefined) return this.#gone()
      this.#socket = secured
      this.#opened = this.#headerSent = false
      secured.on('secure', () => {
        this.#secure = true
        this.#guard(() => {
          this.#parser.reset()
          this.#parser.resume()
        })
      })
      this.#attach(secured)
    })
  }

  // --- SASL (RFC 6120 §6)

  #authenticate(host: Host, stanza: Stanza): void {
    if (stanza.name === 'abort') {
      this.#sasl = undefined
      return this.#saslFailure('aborted')
    }
    if (stanza.name === 'auth') {
      if (this.#sasl !== undefined) this.#sasl = undefined
      // A try of an earlier exchange is not this one's to succeed.
      this.#try = undefined
      const mechanism = stanza.attrs['mechanism'] ?? ''
      const context = this.#saslContext(host)
      if (!mechanismsFor(context).includes(mechanism)) return this.#saslFailure(mechanism === 'PLAIN' && !this.#secure ? 'encryption-required' : 'invalid-mechanism')
      const text = stanza.content.toString()
      this.#sasl = createSaslServer(mechanism, context)
      if (this.#sasl === undefined) return this.#saslFailure('invalid-mechanism')
      this.#request = stanza
      if (text === '' && !this.#sasl.needsNothing) {
        // RFC 6120 §6.4.2: no initial response; the client speaks first in all our mechanisms.
        return this.#sendText(`<challenge xmlns='${NS.sasl}'/>`)
      }
      return this.#saslStep(text === '=' ? '' : text)
    }
    if (stanza.name === 'response') {
      if (this.#sasl === undefined) return this.#saslFailure('malformed-request')
      const text = stanza.content.toString()
      return this.#saslStep(text === '=' ? '' : text)
    }
    throw new StreamError('unsupported-stanza-type')
  }

  #saslStep(text: string): void {
    const sasl = this.#sasl as SaslServer
    // RFC 6120 §6.5.5
    if (!/^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/.test(text)) return this.#saslFailure('incorrect-encoding')
    const host = this.#host as Host
    const { front } = this.#c2s
    if (front !== undefined && this.#request !== undefined) return this.#wait(this.#beginElsewhere(front, host, this.#request, text, sasl), () => {})
    this.#wait(this.#saslStepHere(host, sasl, text), () => {})
  }

  #saslStepHere(host: Host, sasl: SaslServer, text: string): Promise<void> {
    return sasl.step(Buffer.from(text, 'base64')).then(
      async (outcome) => {
        if (outcome.kind === 'success') this.#try?.succeeded()
        if (this.#closed) return outcome.kind === 'success' ? this.#c2s.accountLeft(`${outcome.user}@${host.name}`) : undefined
        if (outcome.kind === 'challenge') return this.#sendChallenge(outcome.data)
        this.#sasl = undefined
        if (outcome.kind === 'failure') return this.#saslFailure(outcome.condition, outcome.text)
        const jid = Jid.of(outcome.user, host.name)
        if (!this.#c2s.mayConnect(this.listen, host, jid, this.address)) {
          this.#c2s.accountLeft(jid.bare)
          return this.#saslFailure('not-authorized', undefined, false)
        }
        if (this.#c2s.claim !== undefined && !(await this.#c2s.claim(jid.bare))) return this.#saslFailure('temporary-auth-failure', 'Another node serves this account', false)
        if (await this.#refusedAsDisabled(jid)) return undefined
        if (this.#login !== undefined) return this.#checked(host, this.#login, jid, outcome.data)
        this.#authenticated(host, jid)
        this.#parser.reset()
        this.#opened = this.#headerSent = false
        return this.#sendText(outcome.data === undefined ? `<success xmlns='${NS.sasl}'/>` : `<success xmlns='${NS.sasl}'>${outcome.data.toString('base64')}</success>`)
      },
      (error: unknown) => {
        this.#c2s.log.error({ what: 'sasl_failed', error })
        this.#saslFailure('temporary-auth-failure')
      },
    )
  }

  /** The first message of a login: has it go to the process that serves the account, or done here when that is this one. */
  async #beginElsewhere(front: Front, host: Host, request: Stanza, text: string, sasl: SaslServer): Promise<void> {
    this.#request = undefined
    const mechanism = request.attrs['mechanism'] ?? ''
    const account = mechanism === 'ANONYMOUS' ? '' : namedAccount(mechanism, Buffer.from(text, 'base64'), this.#saslContext(host), host.config.jwt?.jidField)
    if (account !== undefined) {
      const whole = request.xmlns === SASL2_NS ? withInitialResponse(request, text) : new Stanza(request.name, request.xmlns, request.attrs, Buffer.from(text === '' ? '=' : text), [])
      try {
        if (await this.#passOn(front, account, [whole])) return
      } catch {
        if (!this.#closed) this.#saslFailure('temporary-auth-failure', 'The node that serves this account cannot be reached')
        return
      }
    }
    if (!this.#closed) await this.#saslStepHere(host, sasl, text)
  }

  /**
   * Has the stream served by the process of a unit, when that is another; whether it is. `repeated`: elements since the header whose answers the client
   * waits for. Rejects when none can be reached.
   */
  async #passOn(front: Front, unit: string, repeated: readonly Stanza[]): Promise<boolean> {
    const passage = await front.reach(unit, this.#passenger(repeated.length))
    if (passage === undefined) return this.#closed
    if (this.#closed || this.#header === undefined) {
      passage.cancel()
      return true
    }
    this.#leave(passage, repeated)
    return true
  }

  #passenger(repeated: number): Passenger {
    const { access, shaper, maxStanzaBytes, preAuthMaxStanzaBytes, maxStanzaElements, preAuthMaxStanzaElements, outboundBytes } = this.listen
    const socket = this.#socket
    const isTls = this.#secure && socket instanceof tls.TLSSocket
    const certificate = isTls && (this.#certifiedAddresses()?.length ?? 0) > 0 ? socket.getPeerX509Certificate()?.raw : undefined
    return {
      address: this.address, secure: this.#secure,
      tls: this.#passed?.tls ?? (isTls ? tlsFactsOf(socket) : undefined),
      binding: this.#channelBinding(),
      certificate: this.#passed?.certificate ?? certificate,
      transport: this.#framed === undefined ? 'bytes' : this.confirms ? 'confirmed-elements' : 'elements',
      listener: { access, shaper, maxStanzaBytes, preAuthMaxStanzaBytes, maxStanzaElements, preAuthMaxStanzaElements, outboundBytes },
      failures: this.#authTries, repeated,
    }
  }

  /** The connection is no stream of this process any more: what comes by it goes on to another. */
  #leave(passage: Passage, repeated: readonly Stanza[]): void {
    const socket = this.#socket
    const begun = [this.#headerAgain(), ...repeated.map((stanza) => stanza.bytes())]
    const rest = this.#parser.takeRest()
    if (rest.length > 0) begun.push(rest)
    // What has been said already comes before what the other says.
    this.#answering = false
    this.flush()
    this.#closed = true
    this.#logged()
    this.#c2s.closed(this)
    this.#detach?.()
    this.#c2s.log.info({ what: 'stream_passed_on', address: this.address, secure: this.#secure })
    passage.carry(socket, begun)
  }

  #headerAgain(): Buffer {
    const { attrs, prefixes } = this.#header as StreamHeader
    const attributes = Object.entries(attrs).map(([name, value]) => ` ${name}='${escapeXml(value)}'`).join('')
    if (this.#framed !== undefined) return Buffer.from(openXml(attributes.slice(1)))
    const declared = Object.entries(prefixes).map(([prefix, namespace]) => ` xmlns:${prefix}='${escapeXml(namespace)}'`).join('')
    return Buffer.from(`<?xml version='1.0'?><${this.#parser.streamName} xmlns='${CLIENT_NS}'${declared}${attributes}>`)
  }

  /** RFC 6120 §6.5.2: told to who has shown that the account is his, whatever the mechanism. */
  async #refusedAsDisabled(account: Jid): Promise<boolean> {
    const found = this.#c2s.accounts.disabled(account.bare)
    const disabled = found instanceof Promise ? await found : found
    if (disabled !== undefined && !this.#closed) this.#saslFailure('account-disabled', disabled.reason)
    return disabled !== undefined || this.#closed
  }

  #authenticated(host: Host, account: Jid): void {
    this.#user = account.local
    this.#header = this.#detach = undefined
    host.logins.succeeded(this.address)
    this.#c2s.log.info({ what: 'authenticated', user: account.toString(), address: this.address, secure: this.#secure })
    this.#parser.limits = { ...this.#parser.limits, stanzaBytes: this.listen.maxStanzaBytes, children: this.listen.maxStanzaElements }
  }

  #sendChallenge(data: Buffer): void {
    this.#sendText(this.#login === undefined ? `<challenge xmlns='${NS.sasl}'>${data.toString('base64')}</challenge>` : challengeXml(data))
  }

  /** `guess`: whether a user name or password was wrong. */
  #saslFailure(condition: string, text?: string, guess = !NO_GUESS.has(condition)): void {
    this.#sasl = undefined
    if (this.#login === undefined) this.#sendText(`<failure xmlns='${NS.sasl}'><${condition}/>${text ? `<text xml:lang='en'>${escapeXml(text)}</text>` : ''}</failure>`)
    else this.#sendText(failureXml(condition, text))
    this.#login = this.#tasks = undefined
    this.#c2s.log.info({ what: 'authentication_failed', condition, address: this.address })
    this.#c2s.failedLogin(condition)
    if (guess) this.#try?.failed()
    const banned = guess ? (this.#host as Host).logins.failed(this.address) : undefined
    if (banned !== undefined) return this.close(banned)
    // RFC 6120 §6.4.5: a few tries, then the stream is closed.
    if (++this.#authTries >= this.#c2s.limits.authTries) this.close(new StreamError('policy-violation', 'too many failed logins'))
  }

  // --- SASL2 (XEP-0388)

  #negotiate(host: Host, stanza: Stanza): void {
    if (stanza.name === 'authenticate') {
      if (this.#login !== undefined || this.#sasl !== undefined) throw new StreamError('policy-violation', 'the login goes on')
      this.#try = undefined
      const context = this.#sasl2Context(host)
      const mechanism = stanza.attrs['mechanism'] ?? ''
      const login: Login = { mechanism, request: stanza, context, client: readAgent(stanza, host.name) }
      this.#login = login
      this.#request = stanza
      // Features that have not left yet go out with the answer.
      this.#answering = this.#out !== undefined
      if (!this.#secure) return this.#saslFailure('encryption-required')
      this.#sasl = createSaslServer(mechanism, context)
      if (this.#sasl === undefined) {
        const other = host.sasl2.start(login)
        if (other === undefined) return this.#saslFailure('invalid-mechanism')
        this.#sasl = exchangeOf(other)
      }
      const initial = readInitialResponse(stanza)
      // All our mechanisms begin with the client.
      return initial === undefined && !this.#sasl.needsNothing ? this.#sendChallenge(EMPTY) : this.#saslStep(initial?.trim() ?? '')
    }
    if (this.#login === undefined) throw new StreamError('policy-violation', 'no login goes on')
    if (stanza.name === 'abort') return this.#saslFailure('aborted')
    if (this.#tasks !== undefined) return this.#task(host, this.#tasks, stanza)
    if (stanza.name !== 'response') throw new StreamError('policy-violation', 'the login goes on')
    this.#saslStep(stanza.element().getText().trim())
  }

  /** The mechanism is through. */
  async #checked(host: Host, login: Login, account: Jid, data: Buffer | undefined): Promise<void> {
    if (this.#claimed !== undefined && this.#claimed !== account.bare) throw new StreamError('invalid-from', 'not the account of the login')
    const tasks = await host.sasl2.tasksOf(account.bare, login)
    const [first] = tasks
    if (first === undefined) return this.#succeed(host, login, account, data)
    this.#tasks = { account, left: [...tasks], begun: false }
    this.#sendText(continueXml(data, first.name))
  }

  /** §2.6.3 */
  #task(host: Host, tasks: PendingTasks, stanza: Stanza): void {
    const [task, next] = tasks.left
    if (task === undefined || this.#login === undefined) throw new StreamError('policy-violation', 'there is no task')
    if (stanza.name === 'next' && !tasks.begun) {
      if (stanza.attrs['task'] !== task.name) return this.#saslFailure('malformed-request', 'another task is due', false)
      tasks.begun = true
      return this.#sendText(taskDataXml(task.begin(stanza)))
    }
    if (stanza.name !== 'task-data' || !tasks.begun) throw new StreamError('policy-violation', 'the login goes on')
    const login = this.#login
    this.#wait(task.finish(stanza).then(
      () => {
        tasks.left.shift()
        tasks.begun = false
        if (next !== undefined) return this.#sendText(continueXml(undefined, next.name))
        this.#tasks = undefined
        return this.#succeed(host, login, tasks.account, undefined)
      },
      (error: unknown) => {
        if (!(error instanceof SaslFailure)) throw error
        this.#saslFailure(error.condition, error.text, false)
      },
    ), () => {})
  }

  /** §2.6.1: the client is who it says; now what it asked for beside that. Resolves when it has been answered. */
  async #succeed(host: Host, login: Login, account: Jid, data: Buffer | undefined): Promise<void> {
    // Tasks take their time.
    if (await this.#refusedAsDisabled(account)) return
    this.#authenticated(host, account)
    let more = await host.sasl2.success(account.bare, login)
    const resume = login.request.find('resume', NS.sm)
    if (resume !== undefined) {
      // XEP-0198 §9.2: before all else, and in place of it.
      const found = await this.#resumable(host, login.request.childElement(resume).attrs)
      if (this.#closed) return
      if (typeof found !== 'string') return this.#continue(host, found, (resumed) => this.#sendText(successXml(data, found.session.jid.toString(), more + resumed)))
      more += found
    }
    const bind = login.request.find('bind', BIND2_NS)
    if (bind !== undefined && !this.#closed) return this.#bindInline(host, login, account, login.request.childElement(bind), (jid, bound) => successXml(data, jid, more + bound))
    if (this.#c2s.storage.dirty) await this.#c2s.storage.committed()
    this.#sendText(successXml(data, account.bare, more))
    this.#sendText(this.#features(host))
  }

  /** XEP-0386 §3.2 */
  async #bindInline(host: Host, login: Login, account: Jid, bind: Element, success: (jid: string, bound: string) => string): Promise<void> {
    const { client } = login
    const { sessions } = this.#c2s
    for (const other of client === undefined ? [] : sessions.of(account.bare)) {
      if (other.get(CLIENT) === client?.id) other.close(new StreamError('conflict', 'replaced by a new connection'))
    }
    const claim = this.#claim(host, resourceFor(account, client?.id, bind.getChildText('tag', BIND2_NS)))
    if (claim instanceof StanzaError) throw new StreamError('resource-constraint', 'too many sessions')
    const session = this.#begin(claim)
    session.hold()
    // The archive as it is now, and all that comes from now on.
    const answers = host.bind2.answer(session).catch((error: unknown) => {
      this.#c2s.log.error({ what: 'bind_answer_failed', jid: session.jid.toString(), error })
      return ''
    })
    let bound = ''
    for (const child of bind.getChildElements()) if (child.getNS() !== NS.sm) bound += host.bind2.enable(session, child)
    const enable = bind.getChild('enable', NS.sm)
    if (enable !== undefined) bound += this.#enable(host, session, enable.attrs)
    host.hooks.runBound(session)
    const answered = await answers
    return new Promise((resolve) => {
      session.openWhenStored(() => {
        this.#sendText(success(session.jid.toString(), `<bound xmlns='${BIND2_NS}'>${answered}${bound}</bound>`))
        this.#sendText(this.#features(host))
        resolve()
      })
    })
  }

  // --- binding (RFC 6120 §7)

  #bind(stanza: Stanza): void {
    const host = this.#host as Host
    const payload = stanza.childElement(stanza.children[0] as NonNullable<(typeof stanza.children)[0]>)
    const wanted = payload.getChildText('resource', NS.bind) ?? ''
    let jid: Jid
    try {
      jid = Jid.of(this.#user as string, host.name, wanted === '' ? randomId(9) : wanted)
    } catch {
      return this.write(errorReply(stanza, new StanzaError('bad-request', 'no valid resource')).bytes())
    }
    const claim = this.#claim(host, jid)
    if (claim instanceof StanzaError) return this.write(errorReply(stanza, claim).bytes())
    const session = this.#begin(claim)
    this.write(iqResult(stanza.withAttrs({ to: undefined, from: undefined }), xml('bind', { xmlns: NS.bind }, xml('jid', null, escapeText(claim.toString())))).bytes())
    host.hooks.runBound(session)
  }

  /** The address that a new session gets, free for it now; or why it gets none. */
  #claim(host: Host, wanted: Jid): Jid | StanzaError {
    let jid = wanted
    const { sessions } = this.#c2s
    const others = sessions.of(jid.bare)
    const old = sessions.get(jid.toString())
    if (old !== undefined) {
      switch (host.config.resourceConflict) {
        case 'closenew':
          // One that has lost its connection is replaced all the same: its client may be this one.
          if (!old.connected) {
            old.close()
            break
          }
          return new StanzaError('conflict')
        case 'setresource':
          jid = jid.withResource(randomId(9))
          break
        case 'acceptnew':
        case 'closeold':
          old.close(new StreamError('conflict', 'replaced by a new connection'))
      }
    }
    const max = this.#c2s.sessionsMax(host, jid)
    if (old === undefined && others.length >= max) {
      // The one that waits for resumption longest makes room.
      const waiting = others.filter((each) => !each.connected).sort((a, b) => a.detachedAt - b.detachedAt)[0]
      if (waiting === undefined) return new StanzaError('resource-constraint', 'too many sessions', { type: 'wait' })
      waiting.close()
    }
    return jid
  }

  #begin(jid: Jid): Session {
    this.#logged()
    const session = this.#c2s.createSession(jid, this)
    this.#session = session
    const client = this.#login?.client
    if (client !== undefined) session.set(CLIENT, client.id)
    this.#c2s.log.info({ what: 'session_bound', jid: jid.toString(), address: this.address, secure: this.#secure })
    return session
  }

  #logged(): void {
    if (!this.#settled) {
      this.#settled = true
      this.#c2s.settled(this.address)
    }
    clearTimeout(this.#timer)
    this.#timer = undefined
  }

  // --- stream management (XEP-0198)

  #management(session: Session, stanza: Stanza): void {
    const host = this.#host as Host
    switch (stanza.name) {
      case 'enable': {
        const before = session.management
        const enabled = this.#enable(host, session, stanza.attrs)
        if (session.management === before || session.management?.resumable !== true) return this.#sendText(enabled)
        session.hold()
        session.openWhenStored(() => this.#sendText(enabled))
        return
      }
      case 'r':
        if (session.management === undefined) throw new StreamError('unsupported-stanza-type', 'stream management is not enabled')
        return session.acknowledgeWhenStored()
      case 'a': {
        const h = counter(stanza.attrs['h'])
        if (session.management === undefined || h === undefined) throw new StreamError('undefined-condition', 'no valid acknowledgement')
        if (!session.acknowledged(h)) throw tooHigh(h, session.management.sent)
        return
      }
      case 'resume':
        return this.#sendText(failed('unexpected-request'))
      default:
        throw new StreamError('unsupported-stanza-type')
    }
  }

  /** Turns stream management on; gives the answer, which is to be sent when the stream is stored. */
  #enable(host: Host, session: Session, attrs: Attributes): string {
    if (host.streamManagement === undefined) return failed('service-unavailable')
    if (session.management !== undefined) return failed('unexpected-request')
    const wantsResume = attrs['resume'] === 'true' || attrs['resume'] === '1'
    const { resumeMs, maxResumeMs, queueMax } = host.streamManagement
    const asked = Number(attrs['max'])
    const waitMs = Number.isFinite(asked) && asked > 0 && attrs['max'] !== undefined ? Math.min(asked * 1000, maxResumeMs) : resumeMs
    const resumable = wantsResume && waitMs > 0
    const id = randomId(18)
    session.manage(createManagement({ id, resumable, resumeMs: waitMs, queueMax }))
    if (!resumable) return `<enabled xmlns='${NS.sm}'/>`
    this.#c2s.resumable(session)
    return `<enabled xmlns='${NS.sm}' id='${id}' resume='true' max='${Math.floor(waitMs / 1000)}'/>`
  }

  #resume(stanza: Stanza): void {
    const host = this.#host as Host
    const found = this.#resumable(host, stanza.attrs)
    if (found instanceof Promise) return this.#wait(found.then((answer) => this.#sendText(answer)), () => {})
    if (typeof found === 'string') return this.#sendText(found)
    void this.#continue(host, found, (resumed) => this.#sendText(resumed))
  }

  /** The session that the client asks for, and what it has received of it; or the answer that it cannot have it (XEP-0198 §5). Throws StreamError. */
  #resumable(host: Host, attrs: Attributes): Resumed | string | Promise<string> {
    const previous = attrs['previd']
    const h = counter(attrs['h'])
    if (previous === undefined || h === undefined) return failed('bad-request')
    if (host.streamManagement === undefined) return failed('feature-not-implemented')
    const found = this.#c2s.resumableSession(previous)
    // Somebody else's stream is as unknown as one that never was.
    const owner = Jid.of(this.#user as string, host.name).toString()
    if (found === undefined || found.session.owner !== owner) {
      return host.streamManagement.lastHandled(owner, previous).then((handled) => failed('item-not-found', handled))
    }
    const { session, restarted } = found
    if (session.canHaveReceived(h, restarted)) return { session, restarted, previous, h }
    const { management } = session
    const sent = management === undefined ? 0 : (management.acknowledged + management.queue.length) >>> 0
    // Its client cannot resume it; another one that is connected is not disturbed.
    if (!session.connected) session.close()
    throw tooHigh(h, sent)
  }

  /** Goes on with a session here; `answer` is given the element to answer with when all is stored. Resolves then. */
  #continue(host: Host, { session, restarted, previous, h }: Resumed, answer: (resumed: string) => void): Promise<void> {
    const old = session.carrier
    if (old !== undefined) {
      session.detach(old)
      old.close(new StreamError('conflict', 'resumed on another connection'))
    }
    const { promise, resolve } = Promise.withResolvers<void>()
    session.resume(this, h, restarted, (handled, sendAgain) => {
      this.#c2s.resumed(session)
      answer(`<resumed xmlns='${NS.sm}' previd='${escapeXml(previous)}' h='${handled}'/>`)
      sendAgain()
      session.requestAck()
      host.hooks.runResumed(session, restarted)
      if (restarted) host.presence.resumedAfterRestart(session)
      resolve()
    })
    this.#logged()
    this.#session = session
    this.#c2s.log.info({ what: 'session_resumed', jid: session.jid.toString(), address: this.address })
    return promise
  }

  // --- writing

  write(bytes: Buffer, last = true): void {
    if (this.#closed || this.#repeated > 0) return
    if (this.#out === undefined) this.#out = [bytes]
    else this.#out.push(bytes)
    if (last && this.#framed !== undefined) this.#framed.elementEnds(this.#out.length)
    if (!this.#scheduled) {
      this.#scheduled = true
      this.#c2s.flushLater(this)
    }
  }

  whenTaken(callback: Taken): void {
    if (this.#closed) setImmediate(callback, false)
    else (this.#taken ??= []).push(callback)
  }

  #sendText(text: string): void {
    this.#answering = false
    this.write(Buffer.from(text))
  }

  /** Writes what the stream owes its client; called at the end of the turn. */
  flush(): void {
    this.#scheduled = false
    const out = this.#out
    if (out === undefined || this.#answering) return
    this.#out = undefined
    const taken = this.#taken
    this.#taken = undefined
    const heard = taken === undefined ? undefined : (error?: Error | null): void => { for (const callback of taken) callback(error === undefined || error === null) }
    if (this.#socket.destroyed) return heard?.(new Error('the connection is gone'))
    if (this.#framed === undefined) this.#socket.write(out.length === 1 ? (out[0] as Buffer) : Buffer.concat(out), heard)
    else this.#framed.writeParts(out, heard)
    // Answers that are no stanzas count too: whoever asks without reading must not fill our memory.
    if (!this.#closing && this.#socket.writableLength > this.listen.outboundBytes) this.close(new StreamError('policy-violation', 'the client does not read'))
  }

  close(error?: StreamError): void {
    if (this.#closed || this.#closing) return
    if (this.#awaitsTls) return this.#gone()
    this.#closing = true
    this.#repeated = 0
    if (!this.#headerSent) {
      // RFC 6120 §4.9.1.2: an error before the header is sent inside a stream of its own.
      this.#sendHeader()
    }
    if (error !== undefined) {
      this.#sendText(error.toXml())
      this.#c2s.streamError(error.condition)
      this.#c2s.log.debug({ what: 'stream_error', condition: error.condition, text: error.text, address: this.address })
    }
    this.write(this.#framed === undefined ? STREAM_END : CLOSE_XML)
    this.#endConnection()
  }

  /**
   * Ends the connection and leaves the stream unfinished, for its client to resume (XEP-0198 §5). Many clients take a stream that
   * the server closed for a session that is over.
   */
  interrupt(): void {
    if (this.#closed || this.#closing) return
    this.#closing = true
    this.#endConnection()
  }

  #endConnection(): void {
    this.#answering = false
    this.flush()
    this.#closed = true
    const socket = this.#socket
    socket.end()
    const timer = setTimeout(() => socket.destroy(), this.#c2s.limits.closeTimeoutMs)
    timer.unref()
    socket.once('close', () => clearTimeout(timer))
    // What the peer still sends is read and dropped, so that the socket closes cleanly.
    socket.resume()
    this.#left()
  }

  /** Silence: a ping by whitespace would prove nothing, so the session's extension pings; see C2s. */
  get silent(): boolean { return this.#pinged }
  set silent(value: boolean) { this.#pinged = value }

  #gone(): void {
    if (!this.#closed) {
      this.#closed = true
      this.#socket.destroy()
    }
    this.#left()
  }

  #left(): void {
    this.#logged()
    clearTimeout(this.#shaperPause)
    this.#c2s.closed(this)
    const session = this.#session
    this.#session = undefined
    session?.lostCarrier(this)
    if (session === undefined && this.#user !== undefined && this.#host !== undefined) this.#c2s.accountLeft(`${this.#user}@${this.#host.name}`)
    void this.#opened
  }
}

/** A session to go on with. */
interface Resumed {
  readonly session: Session
  readonly restarted: boolean
  readonly previous: string
  /** What its client has received. */
  readonly h: number
}

/** Tasks after the mechanism; the first is due, or has begun. */
interface PendingTasks {
  readonly account: Jid
  readonly left: Task[]
  begun: boolean
}

/** XEP-0388 §2.1: how to log in, and what can be had together with that. */
function sasl2Feature(host: Host, context: SaslContext): string {
  // Of these there are few combinations.
  const key = `${context.hashes?.join(' ')}|${context.channelBinding?.types.join(' ')}|${context.certified !== undefined && certifiedAccounts(context).length > 0}`
  let text = host.sasl2.features.get(key)
  if (text === undefined) host.sasl2.features.set(key, text = sasl2FeatureFor(host, context))
  return text === '' ? '' : `${text}${host.sasl2.offered(context)}</authentication>`
}

/** Without the end, before which stands what depends on the account. */
function sasl2FeatureFor(host: Host, context: SaslContext): string {
  const mechanisms = mechanismsFor(context)
  if (mechanisms.length === 0) return ''
  const sm = host.streamManagement !== undefined
  const names = sm ? [...host.bind2.names, NS.sm] : host.bind2.names
  const bind = `<bind xmlns='${BIND2_NS}'><inline>${names.map((name) => `<feature var='${name}'/>`).join('')}</inline></bind>`
  return `<authentication xmlns='${SASL2_NS}'>${mechanisms.map((name) => `<mechanism>${name}</mechanism>`).join('')}<inline>${bind}${sm ? `<sm xmlns='${NS.sm}'/>` : ''}${host.sasl2.offeredInline(context)}</inline>`
}

function failed(condition: string, h?: number): string {
  return `<failed xmlns='${NS.sm}'${h === undefined ? '' : ` h='${h}'`}><${condition} xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>`
}

function notWhole(): StreamError {
  return new StreamError('not-well-formed', 'a frame is one whole element')
}

/** XEP-0198 §6: more is acknowledged than was sent. */
function tooHigh(h: number, sent: number): StreamError {
  return new StreamError('undefined-condition', `You acknowledged ${h} stanzas, but I only sent you ${sent} so far.`, `<handled-count-too-high xmlns='${NS.sm}' h='${h}' send-count='${sent}'/>`)
}

function counter(text: string | undefined): number | undefined {
  if (text === undefined || !/^\d{1,10}$/.test(text)) return undefined
  const value = Number(text)
  return value <= COUNTER_MAX ? value : undefined
}

/** ltx escapes text itself when it serialises. */
function escapeText(text: string): string {
  return text
}
