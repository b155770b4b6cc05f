/** XEP-0114: listeners of external components, and the domains that are routed to them. */
import net from 'node:net'
import { Jid } from '../../lib/jid.ts'
import { plainAddress } from '../../lib/net/addresses.ts'
import { acceptTls, type SecureContexts } from '../../lib/net/certificates.ts'
import { awaitFirstBytes } from '../../lib/net/first-bytes.ts'
import { listenOn } from '../../lib/net/listen.ts'
import { readProxyHeader } from '../../lib/net/proxy-protocol.ts'
import { DELAY_NS, withDelay } from '../../lib/stanza/delay.ts'
import { StanzaError } from '../../lib/stanza/errors.ts'
import { nextMessageId, timeOfMessageId } from '../../lib/stanza/ids.ts'
import { readStanza } from '../../lib/stanza/read.ts'
import type { Stanza } from '../../lib/stanza/stanza.ts'
import { StreamError } from '../../lib/stream/errors.ts'
import { createLoginLimits, type LoginLimits, type LoginTry } from '../accounts/login-limits.ts'
import type { Access, Shaper } from '../config/access.ts'
import type { Balancing, ComponentListen, ListenConfig } from '../config/config.ts'
import type { Limits } from '../config/limits.ts'
import type { Log } from '../log.ts'
import type { Metrics } from '../metrics.ts'
import type { Router, Service } from '../router/router.ts'
import type { Session } from '../sessions/session.ts'
import type { Key, Storage } from '../storage/shapes.ts'
import { ComponentStream, type ListenerOptions, type Outgoing } from './component-stream.ts'

export interface ComponentsParts {
  /** Local domains. */
  readonly hosts: ReadonlyMap<string, unknown>
  /** What the router routes by; those of components are added here. */
  readonly services: Map<string, Service>
  readonly router: Router
  readonly storage: Storage
  readonly limits: Limits
  readonly log: Log
  readonly metrics: Metrics
  certificates(): SecureContexts | undefined
  /** The rules of the present configuration. */
  access(): Access
  balancing(domain: string): Balancing | undefined
  now(): number
}

/** A listener that is open. */
export interface ComponentListener {
  readonly port: number
  /** Connections get these options; those whose domain or password they do not have any more are closed. */
  update(listen: ListenConfig): void
  /** Stops accepting, and closes what is connected. */
  close(): void
}

/** How long components are waited for when the server stops. */
const CLOSE_WAIT_MS = 1000
/** Records: messages that are on their way to a component; key [domain, id], value the stanza's bytes. */
const MESSAGES = 'component-messages'
const CHAT_STATES_NS = 'http://jabber.org/protocol/chatstates'
const HINTS_NS = 'urn:xmpp:hints'

export class Components implements AsyncDisposable {
  readonly #parts: ComponentsParts
  readonly #listeners = new Map<net.Server, ListenerOptions>()
  /** Connections that have no stream yet. */
  readonly #arriving = new Set<net.Socket>()
  readonly #streams = new Set<ComponentStream>()
  /** Connections whose handshake is not done, by address. */
  readonly #strangers = new Map<string, number>()
  readonly #domains = new Map<string, Domain>()
  /** By domain: what a process that was killed had on the way. */
  readonly #found = new Map<string, Outgoing[]>()
  #foundTimer: NodeJS.Timeout | undefined
  readonly #logins: LoginLimits
  readonly #received
  readonly #sent
  readonly #errors
  readonly #refused
  #closing = false
  #closed = false

  constructor(parts: ComponentsParts) {
    this.#parts = parts
    const { metrics } = parts
    metrics.gauge('tidings_components', 'Components connected', [], () => [...this.#streams].filter((stream) => stream.connected).length)
    this.#received = metrics.counter('tidings_component_stanzas_received_total', 'Stanzas received from components', ['kind'])
    this.#sent = metrics.counter('tidings_component_stanzas_sent_total', 'Stanzas sent to components', ['kind'])
    this.#errors = metrics.counter('tidings_stream_errors_total', 'Streams ended by an error', ['condition'])
    this.#refused = metrics.counter('tidings_refused_component_connections_total', 'Connections of components refused', ['reason'])
    this.#logins = createLoginLimits(parts.limits, () => parts.now())
  }

  get limits(): Limits { return this.#parts.limits }
  get log(): Log { return this.#parts.log }
  get storage(): Storage { return this.#parts.storage }
  get defaultHost(): string { return this.#parts.hosts.keys().next().value ?? 'localhost' }
  now(): number { return this.#parts.now() }

  // --- listeners

  /** Opens a listener. Rejects when it cannot listen there, or OpenSSL does not take its TLS options. */
  async listen(listen: ListenConfig): Promise<ComponentListener> {
    const options: ListenerOptions = { listen: this.#checked(listen) }
    const server = net.createServer({ pauseOnConnect: true }, (socket) => this.#accept(options, socket))
    server.maxConnections = this.limits.connections
    const port = await listenOn(server, listen)
    server.on('error', (error) => this.log.error({ what: 'listener_failed', port, error }))
    this.#listeners.set(server, options)
    return {
      port,
      update: (next) => {
        options.listen = this.#checked(next)
        for (const stream of this.#streams) if (stream.listener === options && !stream.authorized) stream.close(new StreamError('not-authorized', 'the configuration has changed'))
      },
      close: () => {
        this.#listeners.delete(server)
        server.close()
        for (const stream of this.#streams) if (stream.listener === options) stream.close(new StreamError('host-gone'))
      },
    }
  }

  #checked(listen: ListenConfig): ListenConfig & { readonly component: ComponentListen } {
    if (listen.tls) this.#parts.certificates()?.optionsFor(listen.tlsOptions)
    return { ...listen, component: listen.component ?? { passwords: new Map(), password: undefined, checkFrom: true, globalRoutes: true } }
  }

  #accept(options: ListenerOptions, socket: net.Socket): void {
    socket.on('error', () => undefined)
    if (this.#closing) return this.#refuse(socket, 'stopping')
    if (!options.listen.proxyProtocol) return this.#admit(options, socket, plainAddress(socket.remoteAddress))
    this.#arriving.add(socket)
    readProxyHeader(socket, this.limits.proxyHeaderTimeoutMs, ({ address }) => {
      this.#arriving.delete(socket)
      this.#admit(options, socket, plainAddress(address ?? socket.remoteAddress))
    }, (error) => {
      this.#arriving.delete(socket)
      this.log.warn({ what: 'proxy_header_refused', address: plainAddress(socket.remoteAddress), error: error.message })
      this.#refuse(socket, 'proxy-header')
    })
  }

  #admit(options: ListenerOptions, socket: net.Socket, address: string): void {
    const strangers = this.#strangers.get(address) ?? 0
    if (address !== '' && strangers >= this.limits.connectionsPerAddress) return this.#refuse(socket, 'address')
    this.#strangers.set(address, strangers + 1)
    if (!options.listen.tls) {
      this.#streams.add(new ComponentStream(this, options, socket, address))
      socket.resume()
      return
    }
    const { handshakeTimeoutMs, preAuthTimeoutMs } = this.limits
    const failed = (error?: unknown): void => {
      this.#arriving.delete(socket)
      this.#known(address)
      this.log.debug({ what: 'tls_failed', address, error })
      this.#refuse(socket, 'tls')
    }
    this.#arriving.add(socket)
    awaitFirstBytes(socket, Math.min(handshakeTimeoutMs, preAuthTimeoutMs), () => {
      try {
        const contexts = this.#parts.certificates() as SecureContexts
        const secured = acceptTls(socket, contexts.optionsFor(options.listen.tlsOptions), handshakeTimeoutMs)
        this.#arriving.delete(socket)
        this.#streams.add(new ComponentStream(this, options, secured, address))
      } catch (error) {
        failed(error)
      }
    }, failed)
  }

  #refuse(socket: net.Socket, reason: string): void {
    this.#refused.inc(1, { reason })
    socket.destroy()
  }

  /** It no longer counts against its address. */
  #known(address: string): void {
    const left = (this.#strangers.get(address) ?? 1) - 1
    if (left > 0) this.#strangers.set(address, left)
    else this.#strangers.delete(address)
  }

  // --- what streams ask and tell

  /** The password of the domain that a stream is for; throws a StreamError when it is not for components. */
  passwordFor({ domain, listener }: ComponentStream): string {
    const { passwords, password } = listener.listen.component
    const { hosts, services } = this.#parts
    const found = passwords.get(domain) ?? password
    if (found === undefined) throw new StreamError('host-unknown')
    const service = services.get(domain)
    if (hosts.has(domain) || (service !== undefined && service !== this.#domains.get(domain)?.service)) throw new StreamError('conflict', 'the server itself serves this domain')
    return found
  }

  /** Before the handshake is checked; throws a StreamError when too many were wrong. */
  tryLogin({ domain, address }: ComponentStream): LoginTry {
    const allowed = this.#logins.take(domain, true, address)
    if (allowed !== undefined) return allowed
    this.log.info({ what: 'login_limited', account: domain, address })
    throw new StreamError('policy-violation', 'Too many failed logins; try again later')
  }

  /** Its handshake is right: makes room for it, or throws a StreamError. */
  connecting(stream: ComponentStream): void {
    const others = this.#domains.get(stream.domain)?.own ?? []
    const balancing = this.#parts.balancing(stream.domain)
    if (balancing?.number !== undefined && others.length >= balancing.number) throw new StreamError('conflict', `all ${balancing.number} components of this domain are connected`)
    // The old connection may be dead without anybody knowing.
    if (balancing === undefined) for (const other of others) other.close(new StreamError('conflict', 'replaced by a new connection'))
  }

  connected(stream: ComponentStream): void {
    this.#known(stream.address)
    this.log.info({ what: 'component_connected', domain: stream.domain, address: stream.address })
    this.update()
  }

  /** A stanza of a component, whose `from` has been checked. */
  received(stanza: Stanza): void | Promise<void> {
    this.#received.inc(1, { kind: stanza.name })
    return this.#parts.router.route(stanza)
  }

  streamError({ domain, address }: ComponentStream, { condition, text }: StreamError): void {
    this.#errors.inc(1, { condition })
    this.log.info({ what: 'component_stream_error', domain, address, condition, text })
  }

  shaperOf({ domain, address, listener }: ComponentStream): Shaper | undefined {
    return this.#parts.access().shaper(listener.listen.shaper, { jid: Jid.tryParse(domain), address })
  }

  /** A stream gets nothing more. */
  left(stream: ComponentStream): void {
    const { domain, address } = stream
    if (!stream.admitted) return this.#known(address)
    this.log.info({ what: 'component_disconnected', domain, address })
    this.update()
  }

  /** Its connection is over, and these stanzas have not been taken by the network. */
  ended(stream: ComponentStream, lost: readonly Outgoing[]): void {
    this.#streams.delete(stream)
    if (!this.#closed) this.#giveBack(stream.domain, lost)
  }

  /** The network has taken these. */
  taken(stanzas: readonly Outgoing[]): void {
    // What is left then is for the next process.
    if (this.#closed) return
    for (const { key } of stanzas) if (key !== undefined) this.storage.records.delete(MESSAGES, key)
  }

  #giveBack(domain: string, lost: readonly Outgoing[]): void {
    if (lost.length > 0) this.log.warn({ what: 'component_stanzas_returned', domain, stanzas: lost.length })
    for (const { stanza } of lost) if (stanza.name !== 'presence') this.#parts.router.bounce(stanza, unavailable())
    this.taken(lost)
  }

  // --- messages on their way

  /**
   * Keeps a message whose sender takes it for safe (XEP-0198 §4) until the network has it. Should the process die in between, it
   * comes twice rather than never.
   */
  #keep(domain: string, stanza: Stanza, session: Session | undefined): Key | undefined {
    if (stanza.name !== 'message' || stanza.type === 'error' || stanza.type === 'headline' || (session !== undefined && session.management === undefined)) return undefined
    if (stanza.has('no-store', HINTS_NS) || stanza.children.every(({ xmlns }) => xmlns === CHAT_STATES_NS)) return undefined
    const key = [domain, nextMessageId()]
    this.storage.records.put(MESSAGES, key, stanza.bytes())
    return key
  }

  /** Finds what the last process had on the way; a component that connects in time gets it, else it goes back. */
  async restore(): Promise<void> {
    for (const { key, value } of await this.storage.records.range(MESSAGES, [])) {
      const [domain = ''] = key
      try {
        const found = { stanza: this.#dated(readStanza(Buffer.from(value as Uint8Array)), key), key }
        const others = this.#found.get(domain)
        if (others === undefined) this.#found.set(domain, [found])
        else others.push(found)
      } catch (error) {
        this.log.error({ what: 'component_message_unreadable', domain, error })
        this.storage.records.delete(MESSAGES, key)
      }
    }
    if (this.#found.size === 0) return
    this.#foundTimer = setTimeout(() => {
      for (const domain of this.#found.keys()) this.#sendFound(domain)
    }, this.limits.preAuthTimeoutMs)
    this.#foundTimer.unref()
  }

  /** With the time at which it came (XEP-0203): the component may have it already. */
  #dated(stanza: Stanza, [, id = '']: Key): Stanza {
    const time = timeOfMessageId(id)
    return time === undefined || stanza.has('delay', DELAY_NS) ? stanza : withDelay(stanza, Jid.tryParse(stanza.from ?? '')?.domain ?? this.defaultHost, time)
  }

  #sendFound(domain: string): void {
    const found = this.#found.get(domain) ?? []
    this.#found.delete(domain)
    this.log.info({ what: 'component_messages_found', domain, stanzas: found.length })
    for (const each of found) {
      const known = this.#domains.get(domain)
      const stream = known && this.#choose(domain, known, each.stanza)
      if (stream === undefined) this.#giveBack(domain, [each])
      else stream.send(each.stanza, each.key)
    }
  }

  // --- domains

  /** Routes to components what is for their domains, connected or not, by the present configuration. */
  update(): void {
    const { hosts, services } = this.#parts
    const streams = [...this.#streams].filter((stream) => stream.connected)
    const strayed: ComponentStream[] = []
    const wanted = new Set(streams.flatMap((stream) => stream.domains))
    for (const { listen } of this.#listeners.values()) for (const domain of listen.component.passwords.keys()) wanted.add(domain)
    for (const domain of wanted) {
      const known = this.#domains.get(domain)
      const service = services.get(domain)
      if (hosts.has(domain) || (service !== undefined && service !== known?.service)) {
        if (known?.taken !== true) this.log.warn({ what: 'component_domain_taken', domain, text: 'The server itself serves this domain; components cannot.' })
        this.#domains.set(domain, { ...(known ?? this.#domain(domain)), taken: true, own: [], streams: [] })
        strayed.push(...streams.filter((stream) => stream.domain === domain))
        continue
      }
      const found = known ?? this.#domain(domain)
      found.taken = false
      found.own = streams.filter((stream) => stream.domain === domain)
      found.streams = found.own.length > 0 ? found.own : streams.filter((stream) => stream.domains.includes(domain))
      found.slots = slotsOf(found, this.#parts.balancing(domain)?.number)
      this.#domains.set(domain, found)
      services.set(domain, found.service)
    }
    for (const [domain, { service }] of this.#domains) {
      if (wanted.has(domain)) continue
      this.#domains.delete(domain)
      if (services.get(domain) === service) services.delete(domain)
    }
    for (const domain of this.#found.keys()) if ((this.#domains.get(domain)?.own.length ?? 0) > 0) this.#sendFound(domain)
    for (const stream of strayed) stream.close(new StreamError('conflict', 'the server itself serves this domain'))
  }

  #domain(name: string): Domain {
    return { own: [], streams: [], slots: [], taken: false, service: (stanza, session) => this.#deliver(name, stanza, session) }
  }

  /** Sends a stanza to a component of the domain; throws a StanzaError when there is none. */
  #deliver(name: string, stanza: Stanza, session: Session | undefined): void {
    const domain = this.#domains.get(name)
    const answerable = stanza.type !== 'error' && !(stanza.name === 'iq' && stanza.type === 'result') && !(stanza.name === 'presence' && stanza.type === 'unavailable')
    const stream = domain && this.#choose(name, domain, stanza)
    if (stream === undefined) {
      if (answerable) throw unavailable()
      return
    }
    if (!this.#parts.access().allows(stream.listener.listen.access, { jid: Jid.tryParse(stanza.from ?? '') })) {
      if (answerable) throw new StanzaError('not-allowed', 'Access denied by service policy')
      return
    }
    this.#sent.inc(1, { kind: stanza.name })
    stream.send(stanza, this.#keep(name, stanza, session))
  }

  #choose(name: string, { streams, slots }: Domain, { from = '', to = '' }: Stanza): ComponentStream | undefined {
    if (streams.length < 2) return streams[0]
    const type = this.#parts.balancing(name)?.type ?? 'random'
    if (type === 'random') return streams[Math.floor(Math.random() * streams.length)]
    const key = type.endsWith('source') ? from : to
    const hash = hashOf(type.startsWith('bare_') ? Jid.tryParse(key)?.bare ?? key : key)
    return (slots.length > 0 ? slots[hash % slots.length] : undefined) ?? streams[hash % streams.length]
  }

  /** Domains below a host that components are connected for, and below no other host that is longer. */
  domainsOf(host: string): readonly string[] {
    const hosts = [...this.#parts.hosts.keys()]
    const below = (domain: string, of: string): boolean => domain.endsWith(`.${of}`)
    return Array.from(this.#domains).filter(([domain, { streams }]) => streams.length > 0 && below(domain, host) && !hosts.some((other) => other.length > host.length && below(domain, other))).map(([domain]) => domain)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing = true
    clearTimeout(this.#foundTimer)
    const closed = Array.from(this.#listeners.keys(), (server) => new Promise<void>((resolve) => server.close(() => resolve())))
    for (const socket of this.#arriving) socket.destroy()
    for (const stream of this.#streams) stream.close(new StreamError('system-shutdown'))
    let timer: NodeJS.Timeout | undefined
    await Promise.race([Promise.all(closed), new Promise((resolve) => { timer = setTimeout(resolve, CLOSE_WAIT_MS) })])
    clearTimeout(timer)
    this.#closed = true
  }
}

/** A domain that is for components. */
interface Domain {
  /** Connections for this very domain. */
  own: readonly ComponentStream[]
  /** Those that get what is for it. */
  streams: readonly ComponentStream[]
  /** As many places as there are to be components; one stays in its place. */
  slots: readonly (ComponentStream | undefined)[]
  /** Something else has the domain. */
  taken: boolean
  readonly service: Service
}

function slotsOf({ own, slots }: Domain, number = 0): (ComponentStream | undefined)[] {
  const next = Array.from({ length: number }, (_, index) => (slots[index] !== undefined && own.includes(slots[index]) ? slots[index] : undefined))
  for (const stream of own) if (!next.includes(stream) && next.includes(undefined)) next[next.indexOf(undefined)] = stream
  return next
}

function unavailable(): StanzaError {
  return new StanzaError('service-unavailable', 'The component is not connected', { type: 'wait' })
}

/** FNV-1a, 32 bits. */
function hashOf(text: string): number {
  let hash = 0x811c9dc5
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193)
  return hash >>> 0
}
