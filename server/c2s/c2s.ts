/** Client listeners, and the sessions that come of them. */
import net from 'node:net'
import type { TLSSocket } from 'node:tls'
import { Jid } from '../../lib/jid.ts'
import { plainAddress } from '../../lib/net/addresses.ts'
import { acceptTls, type SecureContexts } from '../../lib/net/certificates.ts'
import { awaitFirstBytes } from '../../lib/net/first-bytes.ts'
import { listenOn } from '../../lib/net/listen.ts'
import { readProxyHeader } from '../../lib/net/proxy-protocol.ts'
import { SaslFailure } from '../../lib/sasl/mechanism.ts'
import { readStanza } from '../../lib/stanza/read.ts'
import { StreamError } from '../../lib/stream/errors.ts'
import type { Accounts } from '../accounts/accounts.ts'
import type { LoginLimits, LoginTry } from '../accounts/login-limits.ts'
import type { Shaper } from '../config/access.ts'
import type { ListenConfig, StreamOptions } from '../config/config.ts'
import type { Limits } from '../config/limits.ts'
import type { Host } from '../host.ts'
import type { Log } from '../log.ts'
import type { Metrics } from '../metrics.ts'
import type { Router } from '../router/router.ts'
import { Session, type Carrier, type SessionContext } from '../sessions/session.ts'
import type { SessionRegistry } from '../sessions/sessions.ts'
import type { Storage, StoredStream } from '../storage/shapes.ts'
import { ClientStream } from './client-stream.ts'
import type { Connection } from './framed.ts'
import type { Front, Passenger, Relay } from './passing.ts'

export interface C2sParts {
  readonly hosts: ReadonlyMap<string, Host>
  readonly router: Router
  readonly sessions: SessionRegistry
  readonly accounts: Accounts
  readonly storage: Storage
  readonly limits: Limits
  readonly log: Log
  readonly metrics: Metrics
  certificates(): SecureContexts | undefined
  readonly sessionContext: SessionContext
  /** A connection that had logged in to this account (a bare JID) is gone, and had no session. */
  accountLeft(bare: string): void
  /** Has an account (a bare JID) live at this node; false when another has it. Undefined where there is one node. */
  readonly claim?: ((bare: string) => Promise<boolean>) | undefined
  /** Takes the streams of accounts that are served elsewhere. */
  readonly front?: Front | undefined
  readonly logins: LoginLimits
  now(): number
}

const SWEEP_MS = 1000
const XMPP_CLIENT = 'xmpp-client'
/** How long clients are waited for when the server stops. */
const CLOSE_WAIT_MS = 1000

/** Who is at the other end of a connection that carries elements. */
export interface FramedClient {
  /** Empty when it has none (a Unix socket). */
  readonly address: string
  /** Whether the transport is encrypted. */
  readonly secure: boolean
  readonly listener: StreamOptions
}

/** Where transports of elements bring their clients. */
export interface ClientStreams {
  /** There where sessions may be kept by other processes. */
  readonly relay?: Relay | undefined
  adopt(connection: Connection, client: FramedClient): boolean
}

/** A listener that is open. */
export interface ClientListener {
  readonly port: number
  /** Connections from now on get these options; where it listens stays. */
  update(listen: ListenConfig): void
  /** Stops accepting; streams stay. */
  close(): void
}

export class C2s implements AsyncDisposable {
  readonly #parts: C2sParts
  readonly #servers = new Set<net.Server>()
  /** Connections whose proxy has not named the client yet. */
  readonly #arriving = new Set<net.Socket>()
  readonly #streams = new Set<ClientStream>()
  /** By XEP-0198 id: sessions that can be resumed. */
  readonly #resumable = new Map<string, Session>()
  /** Of these the ones that were found in storage at start and have not been resumed since. */
  readonly #restarted = new Set<Session>()
  /** Connections by address that have no session yet. */
  readonly #unbound = new Map<string, number>()
  readonly #sweep: NodeJS.Timeout
  readonly #stanzas
  readonly #received = { message: 0, presence: 0, iq: 0 }
  readonly #errors
  readonly #failures
  readonly #refused
  #closing = false

  constructor(parts: C2sParts) {
    this.#parts = parts
    const { metrics } = parts
    metrics.gauge('tidings_connections', 'Open client streams', [], () => this.#streams.size)
    metrics.gauge('tidings_sessions', 'Bound sessions', [], () => parts.sessions.size)
    metrics.gauge('tidings_sessions_resumable', 'Sessions that can be resumed', [], () => this.#resumable.size)
    this.#stanzas = metrics.counter('tidings_stanzas_received_total', 'Stanzas received from clients', ['kind'])
    this.#errors = metrics.counter('tidings_stream_errors_total', 'Streams ended by an error', ['condition'])
    this.#failures = metrics.counter('tidings_login_failures_total', 'Failed logins', ['condition'])
    this.#refused = metrics.counter('tidings_refused_connections_total', 'Client connections refused', ['reason'])
    this.#sweep = setInterval(() => this.#tick(), SWEEP_MS)
    this.#sweep.unref()
  }

  get hosts(): ReadonlyMap<string, Host> { return this.#parts.hosts }
  get router(): Router { return this.#parts.router }
  get claim(): C2sParts['claim'] { return this.#parts.claim }
  get front(): Front | undefined { return this.#parts.front }
  get relay(): Relay | undefined { return this.#parts.front?.relay }
  get sessions(): SessionRegistry { return this.#parts.sessions }
  get storage(): Storage { return this.#parts.storage }
  get accounts(): Accounts { return this.#parts.accounts }
  get limits(): Limits { return this.#parts.limits }
  get log(): Log { return this.#parts.log }
  get defaultHost(): string { return this.#parts.hosts.keys().next().value ?? 'localhost' }
  now(): number { return this.#parts.now() }

  #owing: ClientStream[] = []

  /** Has the stream flushed at the end of the turn, with all others that owe their clients something. */
  flushLater(stream: ClientStream): void {
    if (this.#owing.push(stream) === 1) setImmediate(this.#flushOwing)
  }

  readonly #flushOwing = (): void => {
    const owing = this.#owing
    this.#owing = []
    for (const stream of owing) stream.flush()
  }

  /** Counts a stanza; the metric itself is touched once a second. */
  counted(kind: string): void {
    if (kind === 'message') this.#received.message++
    else if (kind === 'presence') this.#received.presence++
    else this.#received.iq++
  }
  streamError(condition: string): void { this.#errors.inc(1, { condition }) }
  failedLogin(condition: string): void { this.#failures.inc(1, { condition }) }

  /** Before a password is checked; throws a SaslFailure when too many were wrong. */
  tryLogin(bare: string, address: string): LoginTry {
    const exists = this.accounts.exists(bare)
    const allowed = this.#parts.logins.take(bare, exists !== false, address)
    if (allowed !== undefined) return allowed
    this.log.info({ what: 'login_limited', account: bare, address })
    // RFC 6120 §6.5.10: nothing is said about the password, and clients try again later.
    throw new SaslFailure('temporary-auth-failure', 'Too many failed logins; try again later')
  }

  /** Opens a listener. Rejects when it cannot listen there, or OpenSSL does not take its TLS options. */
  async listen(options: ListenConfig): Promise<ClientListener> {
    let listen = options
    const checkTls = ({ tls, starttls, tlsOptions }: ListenConfig): void => { if (tls || starttls) this.#parts.certificates()?.optionsFor(tlsOptions) }
    checkTls(listen)
    const server = net.createServer({ pauseOnConnect: true }, (socket) => this.#accept(listen, socket))
    server.maxConnections = this.limits.connections
    server.on('drop', () => this.#refused.inc(1, { reason: 'connections' }))
    const port = await listenOn(server, listen)
    server.on('error', (error) => this.log.error({ what: 'listener_failed', port, error }))
    this.#servers.add(server)
    return {
      port,
      update(next) {
        checkTls(next)
        listen = next
      },
      close: () => {
        this.#servers.delete(server)
        server.close()
      },
    }
  }

  get #full(): boolean { return this.#streams.size + this.#arriving.size + (this.#parts.front?.connections ?? 0) >= this.limits.connections }

  #accept(listen: ListenConfig, socket: net.Socket): void {
    if (this.#closing || this.#full) return this.#refuse(socket, 'connections')
    if (!listen.proxyProtocol) return this.#admit(listen, socket, plainAddress(socket.remoteAddress))
    // Until then it is the proxy's connection: the limit of its address is not for it.
    this.#arriving.add(socket)
    readProxyHeader(
      socket,
      this.limits.proxyHeaderTimeoutMs,
      ({ address }) => {
        this.#arriving.delete(socket)
        this.#admit(listen, socket, plainAddress(address ?? socket.remoteAddress))
      },
      (error) => {
        this.#arriving.delete(socket)
        this.log.warn({ what: 'proxy_header_refused', address: plainAddress(socket.remoteAddress), error: error.message })
        this.#refuse(socket, 'proxy-header')
      },
    )
  }

  /** Makes a stream of a connection whose address is known; without one (a Unix socket) nothing is counted by it. */
  #admit(listen: ListenConfig, socket: net.Socket, address: string): void {
    const refused = this.#count(address)
    if (refused !== undefined) return this.#refuse(socket, refused)
    if (!listen.tls) {
      this.#streams.add(new ClientStream(this, listen, socket, address, false))
      socket.resume()
      return
    }
    this.#arriving.add(socket)
    this.secure(socket, listen, undefined, (secured) => {
      this.#arriving.delete(socket)
      if (secured !== undefined) this.#streams.add(new ClientStream(this, listen, secured, address, true))
      else {
        this.settled(address)
        this.#refuse(socket, 'tls')
      }
    })
  }

  /** Counts a connection that is to be a stream against its address, or gives the reason not to take it. */
  #count(address: string): string | undefined {
    if (this.#closing) return 'connections'
    if (address === '') return undefined
    const others = this.#unbound.get(address) ?? 0
    if (others >= this.limits.connectionsPerAddress) return 'address'
    this.#unbound.set(address, others + 1)
    return undefined
  }

  /**
   * Makes a stream of a connection that carries elements, under the same limits as on TCP. Returns false, and does not touch the
   * connection, when they do not admit it. `listener` has what was configured where it came in; `passed` is said of a client that another process has
   * taken, whose connection this is to that.
   */
  adopt(connection: Connection, client: FramedClient, passed?: Passenger): boolean {
    const refused = this.#full ? 'connections' : this.#count(client.address)
    if (refused !== undefined) {
      this.#refused.inc(1, { reason: refused })
      return false
    }
    const { limits } = this
    const listen: ListenConfig = {
      access: 'all', shaper: 'none', outboundBytes: limits.outboundBytes,
      maxStanzaBytes: limits.stanzaBytes, preAuthMaxStanzaBytes: limits.preAuthStanzaBytes, maxStanzaElements: limits.children, preAuthMaxStanzaElements: limits.children,
      ...client.listener,
      // RFC 7395 §3.9: TLS is the transport's.
      starttls: false, starttlsRequired: false,
    } as ListenConfig
    this.#streams.add(new ClientStream(this, listen, connection, client.address, client.secure, passed))
    return true
  }

  #refuse(socket: net.Socket, reason: string): void {
    this.#refused.inc(1, { reason })
    socket.destroy()
  }

  /**
   * TLS on a connection, from the client's first bytes on. With `domain`, for STARTTLS: all get the certificate of their stream's host.
   * Gives undefined when they do not come, or TLS is not possible; the socket is then still to be destroyed.
   */
  secure(socket: net.Socket, listen: ListenConfig, domain: string | undefined, begun: (secured: TLSSocket | undefined) => void): void {
    const { handshakeTimeoutMs, preAuthTimeoutMs } = this.limits
    const failed = (): void => this.log.debug({ what: 'tls_failed', address: plainAddress(socket.remoteAddress) })
    socket.on('error', ignore)
    awaitFirstBytes(socket, Math.min(handshakeTimeoutMs, preAuthTimeoutMs), () => {
      let secured: TLSSocket | undefined
      try {
        const options = (this.#parts.certificates() as SecureContexts).optionsFor(listen.tlsOptions, domain)
        secured = acceptTls(socket, domain === undefined ? { ...options, ALPNCallback: chooseXmpp } : options, handshakeTimeoutMs)
        secured.once('close', failed).once('secure', (): void => void secured?.off('close', failed))
      } catch (error) {
        this.log.error({ what: 'tls_not_available', error })
      }
      begun(secured)
    }, () => {
      failed()
      begun(undefined)
    })
  }

  /** The channel binding data `tls-server-end-point` of a connection that `secure` began. */
  endPointOf(socket: TLSSocket): Buffer | undefined { return this.#parts.certificates()?.endPointOf(socket) }

  /** A stream has a session now, or is over: it no longer counts against its address. */
  settled(address: string): void {
    if (address === '') return
    const left = (this.#unbound.get(address) ?? 1) - 1
    if (left > 0) this.#unbound.set(address, left)
    else this.#unbound.delete(address)
  }

  accountLeft(bare: string): void { this.#parts.accountLeft(bare) }

  /** Ends the streams of an account that have logged in, also those without a session. */
  closeStreamsOf(bare: string, error: StreamError): void {
    for (const stream of this.#streams) if (stream.account === bare) stream.close(error)
  }

  closed(stream: ClientStream): void {
    this.#streams.delete(stream)
  }

  mayConnect(listen: ListenConfig, host: Host, jid: Jid, address: string): boolean {
    return host.config.access.allows(listen.access, { jid, address })
  }

  sessionsMax(host: Host, jid: Jid): number {
    const value = host.config.access.value('max_user_sessions', { jid })
    return typeof value === 'number' ? value : this.limits.sessionsPerUser
  }

  shaperOf(listen: ListenConfig, host: Host, session: Session): Shaper | undefined {
    return listen.shaper === '' ? undefined : host.config.access.shaper(listen.shaper, { jid: session.jid, address: session.address })
  }

  createSession(jid: Jid, carrier: Carrier | undefined): Session {
    const session = new Session(jid, carrier, this.#parts.sessionContext)
    this.#parts.sessions.add(session)
    return session
  }

  // --- resumption (XEP-0198 §5)

  resumable(session: Session): void {
    const { management } = session
    if (management === undefined) return
    this.#resumable.set(management.id, session)
    session.storeStream()
  }

  resumableSession(id: string): { session: Session; restarted: boolean } | undefined {
    const session = this.#resumable.get(id)
    return session === undefined ? undefined : { session, restarted: this.#restarted.has(session) }
  }

  resumed(session: Session): void {
    this.#restarted.delete(session)
  }

  /** A session is over. */
  ended(session: Session): void {
    this.#parts.sessions.remove(session)
    const { management } = session
    if (management === undefined || !management.resumable) return
    this.#resumable.delete(management.id)
    this.#restarted.delete(session)
  }

  /** Brings back the sessions that could be resumed when the last process ended. */
  async restore(): Promise<void> {
    const stored = await this.#parts.storage.streams.load()
    for (const stream of stored) {
      const exists = this.accounts.exists(stream.owner)
      this.#restore(stream, exists instanceof Promise ? await exists : exists)
    }
    if (stored.length > 0) this.log.info({ what: 'sessions_restored', sessions: this.#resumable.size })
  }

  /** Brings back the sessions of an account that has come here from another node. */
  bringBack(account: string, stored: readonly StoredStream[]): readonly Session[] {
    for (const stream of stored) this.#restore(stream, this.accounts.exists(account) === true)
    return stored.length === 0 ? [] : this.#parts.sessions.of(account)
  }

  #restore(stream: StoredStream, exists: boolean): void {
    const owner = Jid.tryParse(stream.owner)
    const host = owner === undefined ? undefined : this.#parts.hosts.get(owner.domain)
    if (owner === undefined || host?.streamManagement === undefined || !exists) return this.#parts.storage.streams.close(stream.id)
    const jid = owner.withResource(stream.resource)
    const taken = this.#parts.sessions.get(jid.toString())
    if (taken !== undefined) taken.close()
    const session = this.createSession(jid, undefined)
    session.restore(stream.state, readStanza)
    const state = stream.state as { resumeMs?: number } | null
    const { resumeMs, queueMax } = host.streamManagement
    session.restoreManagement(stream, { resumeMs: Number(state?.resumeMs ?? resumeMs), queueMax }, readStanza)
    session.detachedAt = this.now()
    this.#resumable.set(stream.id, session)
    this.#restarted.add(session)
  }

  /** Ends all connections at once; nobody is answered any more, and those who can resume do so elsewhere. */
  abandon(): void {
    this.#closing = true
    for (const stream of this.#streams) stream.interrupt()
  }

  /** Looks after silence and sessions that wait too long. */
  #tick(): void {
    for (const kind of ['message', 'presence', 'iq'] as const) {
      if (this.#received[kind] > 0) this.#stanzas.inc(this.#received[kind], { kind })
      this.#received[kind] = 0
    }
    const now = this.now()
    const { idlePingMs, idleCloseMs } = this.limits
    for (const session of this.#resumable.values()) {
      if (!session.connected && now - session.detachedAt > (session.waitMs ?? session.management?.resumeMs ?? 0)) {
        this.log.info({ what: 'session_expired', jid: session.jid.toString() })
        session.close()
      }
    }
    for (const stream of this.#streams) {
      const { session } = stream
      if (session === undefined) continue
      const { management } = session
      if (stream.away) {
        // Its time begins when it is back.
        if (management !== undefined && management.requestedAt !== 0) management.requestedAt = now
        continue
      }
      if (management !== undefined) {
        const ackTimeoutMs = this.hosts.get(session.host)?.streamManagement?.ackTimeoutMs ?? this.limits.ackTimeoutMs
        if (management.requestedAt !== 0 && now - management.requestedAt > ackTimeoutMs) {
          letGo(stream, new StreamError('connection-timeout', 'no acknowledgement'))
          continue
        }
        if (management.queue.length > 0 && management.requestedAt === 0) session.requestAck()
      }
      const silence = now - stream.heardAt
      if (silence > idlePingMs + idleCloseMs && stream.silent) letGo(stream, new StreamError('connection-timeout'))
      else if (silence > idlePingMs && !stream.silent) {
        stream.silent = true
        if (management !== undefined) stream.write(ACK)
        else stream.write(Buffer.from(`<iq type='get' from='${session.host}' to='${escapeAttribute(session.jid.toString())}' id='silence'><ping xmlns='urn:xmpp:ping'/></iq>`))
      }
    }
  }

  /** Closes the listeners and all streams; those that can be resumed are left unfinished (XEP-0198 §5). */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing = true
    clearInterval(this.#sweep)
    const closed = Array.from(this.#servers, (server) => new Promise<void>((resolve) => server.close(() => resolve())))
    for (const socket of this.#arriving) socket.destroy()
    for (const stream of this.#streams) letGo(stream, new StreamError('system-shutdown'))
    // The timer keeps the process: a connection that is not being read does not.
    let timer: NodeJS.Timeout | undefined
    await Promise.race([Promise.all(closed), new Promise((resolve) => { timer = setTimeout(resolve, CLOSE_WAIT_MS) })])
    clearTimeout(timer)
  }
}

/** Ends a stream whose client may come back: what can be resumed is left unfinished. */
function letGo(stream: ClientStream, error: StreamError): void {
  if (stream.session?.management?.resumable === true) stream.interrupt()
  else stream.close(error)
}

/** XEP-0368: clients that ask for another protocol are in the wrong place. (`ALPNProtocols` would be copied for each connection.) */
function chooseXmpp({ protocols }: { readonly protocols: readonly string[] }): string | undefined {
  return protocols.includes(XMPP_CLIENT) ? XMPP_CLIENT : undefined
}

/** A connection that fails closes, which is heard. */
function ignore(): void { /* see close */ }

const ACK = Buffer.from("<r xmlns='urn:xmpp:sm:3'/>")

function escapeAttribute(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll("'", '&apos;').replaceAll('<', '&lt;')
}
