/**
 * XEP-0114: listeners of external components, and the domains that are routed to them. Among several nodes a domain is a unit: its home
 * chooses the connection for each stanza, wherever that is, and keeps messages until the network has taken them there.
 */
import net from 'node:net'
import { Jid } from '../../lib/jid.ts'
import { plainAddress } from '../../lib/net/addresses.ts'
import { acceptTls, type SecureContexts } from '../../lib/net/certificates.ts'
import { awaitFirstBytes } from '../../lib/net/first-bytes.ts'
import { listenOn } from '../../lib/net/listen.ts'
import { readProxyHeader } from '../../lib/net/proxy-protocol.ts'
import { DELAY_NS, withDelay } from '../../lib/stanza/delay.ts'
import { StanzaError } from '../../lib/stanza/errors.ts'
import { continueIdsAfter, nextMessageId, timeOfMessageId } from '../../lib/stanza/ids.ts'
import { readStanza } from '../../lib/stanza/read.ts'
import type { Stanza } from '../../lib/stanza/stanza.ts'
import { StreamError } from '../../lib/stream/errors.ts'
import { createLoginLimits, type LoginLimits, type LoginTry } from '../accounts/login-limits.ts'
import type { Access, Shaper } from '../config/access.ts'
import type { Frame } from '../cluster/frames.ts'
import type { Balancing, ComponentListen, ListenConfig } from '../config/config.ts'
import type { Limits } from '../config/limits.ts'
import type { Host } from '../host.ts'
import type { Log } from '../log.ts'
import type { Metrics } from '../metrics.ts'
import type { Router, Service, ServiceUnit } from '../router/router.ts'
import type { Session } from '../sessions/session.ts'
import { packValue, unpackValue } from '../storage/records.ts'
import type { Key, Storage } from '../storage/shapes.ts'
import { ComponentStream, type ListenerOptions, type Outgoing } from './component-stream.ts'
import { announcement, type Announced, type OtherNodes, RemoteStream } from './elsewhere.ts'

export interface ComponentsParts {
  /** Local domains. */
  readonly hosts: ReadonlyMap<string, Pick<Host, 'hooks'>>
  /** What the router routes by; those of components are added here. */
  readonly services: Map<string, Service>
  readonly serviceUnits: Map<string, ServiceUnit>
  /** Undefined where there is one node. */
  readonly others?: OtherNodes | undefined
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
/** Records: domains that have a component connected; key [domain]. One that is found says that the process or node went with it. */
const CONNECTED = 'component-connected'
/** How often a node with a component tries to become the home of its domain. */
const ATTACH_EVERY_MS = 10_000
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
  /** Domains whose components went with a process, and may come again. */
  readonly #waiting = new Map<string, Waiting>()
  /** Domains that have been noted as connected. */
  readonly #noted = new Set<string>()
  /** Connections at other nodes, by node. */
  readonly #elsewhere = new Map<string, readonly RemoteStream[]>()
  /** Those that are over, until it is known what has become of all that was sent to them. */
  readonly #over = new Set<RemoteStream>()
  /** Domains that stay here for their components. */
  readonly #pins = new Map<string, () => void>()
  readonly #attachTimer: NodeJS.Timeout | undefined
  #announced = ''
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
    if (parts.others === undefined) return
    this.#attachTimer = setInterval(() => { this.#attach() }, ATTACH_EVERY_MS)
    this.#attachTimer.unref()
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
    if (balancing?.number !== undefined && others.length >= balancing.number) throw allConnected(balancing.number)
    // The old connection may be dead without anybody knowing. Another node closes its own when it hears of the new one.
    if (balancing === undefined) for (const other of others) if (other instanceof ComponentStream) other.close(replaced())
  }

  connected(stream: ComponentStream): void {
    this.#known(stream.address)
    this.log.info({ what: 'component_connected', domain: stream.domain, address: stream.address })
    this.update()
    this.#attach()
    for (const { hooks } of this.#parts.hosts.values()) hooks.runComponentConnected(stream.domain, (stanza) => { stream.send(stanza) })
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
    if (this.#closed || lost.length === 0) return
    const own = lost.filter(({ key }) => key === undefined || this.#isHome(key[0] as string))
    // What is kept goes to the process that comes next.
    this.#giveBack(stream.domain, this.#closing ? own.filter(({ key }) => key === undefined) : own)
    for (const [domain, ids] of idsByDomain(lost)) if (!this.#isHome(domain)) this.#parts.others?.toHome(domain, ['lost', ...ids])
  }

  /** The network has taken these. */
  taken(stanzas: readonly Outgoing[]): void {
    // What is left then is for the next process.
    if (this.#closed) return
    for (const [domain, ids] of idsByDomain(stanzas)) {
      if (!this.#isHome(domain)) this.#parts.others?.toHome(domain, ['taken', ...ids])
      else for (const id of ids) this.storage.records.delete(MESSAGES, [domain, id])
    }
  }

  #giveBack(domain: string, lost: readonly Outgoing[]): void {
    if (lost.length > 0) this.log.warn({ what: 'component_stanzas_returned', domain, stanzas: lost.length })
    for (const { stanza } of lost) if (stanza.name !== 'presence') this.#parts.router.bounce(stanza, unavailable())
    this.taken(lost)
  }

  #isHome(domain: string): boolean {
    const { others } = this.#parts
    return others === undefined || others.here(domain)
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
    // Of several nodes each finds it when a domain comes to it.
    if (this.#parts.others !== undefined) return
    const { records } = this.storage
    this.#restored([...await records.range(CONNECTED, []), ...await records.range(MESSAGES, [])])
  }

  /** This node has become the home of a domain. */
  came(domain: string): void {
    const { records } = this.storage
    const rows = [records.range(CONNECTED, [domain]), records.range(MESSAGES, [domain])]
    // What is stored of a unit that is here is in memory.
    this.#restored(rows.flatMap((found) => (found instanceof Promise ? [] : found)))
    this.update()
  }

  #restored(rows: readonly { readonly key: Key; readonly value: unknown }[]): void {
    for (const { key, value } of rows) {
      const [domain = '', id] = key
      const waiting = this.#wait(domain)
      this.#noted.add(domain)
      if (id === undefined || this.#isOnItsWay(domain, id)) continue
      try {
        this.#hold(waiting, { stanza: this.#dated(readStanza(Buffer.from(value as Uint8Array)), key), key })
      } catch (error) {
        this.log.error({ what: 'component_message_unreadable', domain, error })
        this.storage.records.delete(MESSAGES, key)
      }
    }
  }

  /** Whether a connection of this node has had the message of an earlier home. */
  #isOnItsWay(domain: string, id: string): boolean {
    for (const stream of this.#streams) {
      const had = stream.had(id)
      if (had === 'taken') this.storage.records.delete(MESSAGES, [domain, id])
      if (had !== undefined) return true
    }
    return false
  }

  /** Has messages for the domain wait for a component that comes in time. */
  #wait(domain: string): Waiting {
    const known = this.#waiting.get(domain)
    if (known !== undefined) return known
    const timer = setTimeout(() => {
      this.#sendWaiting(domain)
      this.update()
    }, this.limits.preAuthTimeoutMs)
    timer.unref()
    const waiting: Waiting = { stanzas: [], bytes: 0, timer }
    this.#waiting.set(domain, waiting)
    return waiting
  }

  #hold(waiting: Waiting, outgoing: Outgoing): void {
    waiting.stanzas.push(outgoing)
    waiting.bytes += outgoing.stanza.bytes().length
  }

  /** With the time at which it came (XEP-0203): the component may have it already. */
  #dated(stanza: Stanza, [, id = '']: Key): Stanza {
    const time = timeOfMessageId(id)
    return time === undefined || stanza.has('delay', DELAY_NS) ? stanza : withDelay(stanza, Jid.tryParse(stanza.from ?? '')?.domain ?? this.defaultHost, time)
  }

  #sendWaiting(domain: string): void {
    const waiting = this.#waiting.get(domain)
    if (waiting === undefined) return
    clearTimeout(waiting.timer)
    this.#waiting.delete(domain)
    if (!this.#isHome(domain) || waiting.stanzas.length === 0) return
    this.log.info({ what: 'component_messages_found', domain, stanzas: waiting.stanzas.length })
    for (const each of waiting.stanzas) this.#sendAgain(domain, each)
  }

  #sendAgain(domain: string, outgoing: Outgoing): void {
    const known = this.#domains.get(domain)
    const stream = known && this.#choose(domain, known, outgoing.stanza)
    if (stream === undefined) this.#giveBack(domain, [outgoing])
    else stream.send(outgoing.stanza, outgoing.key)
  }

  // --- several nodes

  /** What another node says of components. */
  arrived({ list: [word, ...words], stanza, unit }: Frame, source = ''): void {
    switch (word) {
      case 'here':
        return this.#heard(source, unpackValue(stanza) as unknown as readonly Announced[])
      case 'to':
        return this.#deliverHere(readStanza(stanza), words)
      case 'taken':
        for (const id of words) {
          this.#settle(id)
          this.storage.records.delete(MESSAGES, [unit, id])
        }
        return
      case 'lost':
        for (const id of words) {
          const outgoing = this.#settle(id)
          if (outgoing !== undefined) this.#sendOrHold(unit, { ...outgoing, stanza: this.#dated(outgoing.stanza, outgoing.key ?? []) })
        }
        return
      default:
        throw new Error(`a word that no node of this version says of components: ${word}`)
    }
  }

  /** Nodes have come or gone, or are about to go. */
  nodesChanged(): void {
    const { others } = this.#parts
    if (others === undefined || this.#closing) return
    const nodes = new Set(others.nodes().map(({ inc }) => inc))
    for (const [inc, streams] of this.#elsewhere) {
      if (nodes.has(inc)) continue
      this.#elsewhere.delete(inc)
      this.#gone([...[...this.#over].filter((over) => over.inc === inc), ...streams])
    }
    this.update()
    this.#announce(true)
    this.#attach()
  }

  /** Another node's connections, as they are now. */
  #heard(inc: string, announced: readonly Announced[]): void {
    const others = this.#parts.others as OtherNodes
    const before = this.#elsewhere.get(inc) ?? []
    this.#elsewhere.set(inc, announced.map((each) => before.find(({ number }) => number === each.number) ?? new RemoteStream(others, inc, each)))
    const ended = before.filter(({ number }) => !announced.some((each) => each.number === number))
    // Their node says of each message what has become of it.
    for (const stream of ended) if (stream.bytes > 0) this.#over.add(stream)
    for (const { number } of announced) continueIdsAfter(timeOfMessageId(number) ?? 0)
    // From a node that stops they come to another.
    if (others.nodes().some((node) => node.inc === inc && node.leaving)) this.#missed(ended)
    this.#yield()
    this.update()
    for (const { number, domain } of announced) {
      if (!before.some((each) => each.number === number)) for (const { hooks } of this.#parts.hosts.values()) hooks.runComponentConnected(domain)
    }
  }

  /** Closes connections for which there are newer ones elsewhere, and those beyond the number that there is to be. */
  #yield(): void {
    for (const stream of [...this.#streams].filter(({ connected }) => connected)) {
      const newer = [...this.#elsewhere.values()].flat().filter(({ domain, number }) => domain === stream.domain && number > stream.number)
      const older = [...this.#elsewhere.values()].flat().filter(({ domain, number }) => domain === stream.domain && number < stream.number)
      const balancing = this.#parts.balancing(stream.domain)
      if (balancing === undefined && newer.length > 0) stream.close(replaced())
      else if (balancing?.number !== undefined) {
        const before = older.length + [...this.#streams].filter(({ connected, domain, number }) => connected && domain === stream.domain && number < stream.number).length
        if (before >= balancing.number) stream.close(allConnected(balancing.number))
      }
    }
  }

  /** Connections that went with their node. */
  #gone(streams: readonly RemoteStream[]): void {
    this.#missed(streams)
    for (const stream of streams) {
      this.#over.delete(stream)
      for (const outgoing of stream.settleAll()) {
        const [domain = ''] = outgoing.key ?? []
        if (this.#isHome(domain)) this.#hold(this.#wait(domain), { ...outgoing, stanza: this.#dated(outgoing.stanza, outgoing.key ?? []) })
      }
    }
  }

  #missed(streams: readonly RemoteStream[]): void {
    for (const domain of new Set(streams.flatMap(({ domains }) => domains))) {
      if (![...this.#elsewhere.values()].flat().some((other) => other.domains.includes(domain))) this.#wait(domain)
    }
  }

  #settle(id: string): Outgoing | undefined {
    for (const stream of [...this.#over, ...[...this.#elsewhere.values()].flat()]) {
      const found = stream.settle(id)
      if (found === undefined) continue
      if (stream.bytes === 0) this.#over.delete(stream)
      return found
    }
    return undefined
  }

  #sendOrHold(domain: string, outgoing: Outgoing): void {
    const waiting = this.#waiting.get(domain)
    if (waiting === undefined) this.#sendAgain(domain, outgoing)
    else this.#hold(waiting, outgoing)
  }

  /** A stanza that the home of its domain sends to a connection of this node. */
  #deliverHere(stanza: Stanza, [number, domain = '', id = '']: readonly string[]): void {
    const key = id === '' ? undefined : [domain, id]
    const outgoing = { stanza, key }
    const stream = [...this.#streams].find((each) => each.connected && each.number === number)
    if (stream === undefined) {
      if (key !== undefined) this.#parts.others?.toHome(domain, ['lost', id])
      else this.#giveBack(domain, [outgoing])
      return
    }
    const had = id === '' ? undefined : stream.had(id)
    if (had === 'taken') return this.taken([outgoing])
    if (had !== undefined) return
    if (!this.#isAllowed(stream, stanza)) {
      if (isAnswerable(stanza)) this.#parts.router.bounce(stanza, notAllowed())
      return this.taken([outgoing])
    }
    this.#sent.inc(1, { kind: stanza.name })
    stream.send(stanza, key)
  }

  /** Tells the other nodes which components are connected here, when that has changed. */
  #announce(isAgain = false): void {
    const { others } = this.#parts
    if (others === undefined) return
    const connections = [...this.#streams].filter(({ connected }) => connected)
    const written = connections.map(({ number, domains }) => [number, ...domains].join(' ')).join('\n')
    if (written === this.#announced && (!isAgain || connections.length === 0)) return
    this.#announced = written
    const stanza = packValue(announcement(connections))
    for (const { inc } of others.nodes()) if (inc !== others.inc) others.toNode(inc, ['here'], stanza)
  }

  /** Has domains whose components are here live here, unless another node has them. */
  #attach(): void {
    const { others } = this.#parts
    if (others === undefined || this.#closing) return
    for (const domain of new Set([...this.#streams].flatMap((stream) => (stream.connected ? stream.domains : [])))) {
      if (others.here(domain) || this.#domains.get(domain)?.taken === true) continue
      others.claim(domain).then((isHere) => { if (isHere) this.update() }, (error: unknown) => { this.log.warn({ what: 'component_domain_not_claimed', domain, error }) })
    }
  }

  /** What is looked after here stays here. */
  #pin(): void {
    const { others } = this.#parts
    if (others === undefined) return
    const wanted = new Set([...this.#streams].flatMap((stream) => (stream.connected ? stream.domains : [])))
    for (const [domain, { stanzas }] of this.#waiting) if (stanzas.length > 0) wanted.add(domain)
    for (const domain of wanted) if (!this.#pins.has(domain) && others.here(domain) && !this.#closing) this.#pins.set(domain, others.pin(domain))
    for (const [domain, unpin] of this.#pins) {
      if (wanted.has(domain)) continue
      this.#pins.delete(domain)
      unpin()
    }
  }

  // --- domains

  /** Routes to components what is for their domains, connected or not, by the present configuration. */
  update(): void {
    const { hosts, services, serviceUnits, others } = this.#parts
    const local = [...this.#streams].filter((stream) => stream.connected)
    const streams: readonly Connection[] = [...local, ...[...this.#elsewhere.values()].flat()]
    const strayed: ComponentStream[] = []
    const wanted = new Set(streams.flatMap((stream) => stream.domains))
    for (const domain of this.#waiting.keys()) wanted.add(domain)
    for (const { listen } of this.#listeners.values()) for (const domain of listen.component.passwords.keys()) wanted.add(domain)
    for (const domain of wanted) {
      const known = this.#domains.get(domain)
      const service = services.get(domain)
      if (hosts.has(domain) || (service !== undefined && service !== known?.service)) {
        if (known?.taken !== true) this.log.warn({ what: 'component_domain_taken', domain, text: 'The server itself serves this domain; components cannot.' })
        this.#domains.set(domain, { ...(known ?? this.#domain(domain)), taken: true, own: [], streams: [] })
        strayed.push(...local.filter((stream) => stream.domain === domain))
        continue
      }
      const found = known ?? this.#domain(domain)
      found.taken = false
      found.own = streams.filter((stream) => stream.domain === domain)
      found.streams = found.own.length > 0 ? found.own : streams.filter((stream) => stream.domains.includes(domain))
      found.slots = slotsOf(found, this.#parts.balancing(domain)?.number)
      this.#domains.set(domain, found)
      services.set(domain, found.service)
      if (others !== undefined) serviceUnits.set(domain, 'domain')
    }
    for (const [domain, { service }] of this.#domains) {
      if (wanted.has(domain)) continue
      this.#domains.delete(domain)
      if (services.get(domain) === service) services.delete(domain)
    }
    for (const domain of this.#waiting.keys()) if ((this.#domains.get(domain)?.own.length ?? 0) > 0) this.#sendWaiting(domain)
    this.#note()
    this.#pin()
    this.#announce()
    for (const stream of strayed) stream.close(new StreamError('conflict', 'the server itself serves this domain'))
  }

  /** Notes which domains have components. What is noted when the process is killed, or stops, says that they may come again. */
  #note(): void {
    if (this.#closing) return
    for (const [domain, { own }] of this.#domains) {
      if (own.length === 0 || this.#noted.has(domain) || !this.#isHome(domain)) continue
      this.#noted.add(domain)
      this.storage.records.put(CONNECTED, [domain], true)
    }
    for (const domain of this.#noted) {
      if ((this.#domains.get(domain)?.own.length ?? 0) > 0 || this.#waiting.has(domain)) continue
      this.#noted.delete(domain)
      if (this.#isHome(domain)) this.storage.records.delete(CONNECTED, [domain])
    }
  }

  #domain(name: string): Domain {
    return { own: [], streams: [], slots: [], taken: false, service: (stanza, session) => this.#deliver(name, stanza, session) }
  }

  /** Sends a stanza to a component of the domain; throws a StanzaError when there is none. */
  #deliver(name: string, stanza: Stanza, session: Session | undefined): void {
    const domain = this.#domains.get(name)
    const stream = domain && this.#choose(name, domain, stanza)
    if (stream === undefined) return this.#deliverLater(name, stanza, session)
    if (stream instanceof RemoteStream) {
      if (stream.bytes > this.limits.outboundBytes) throw tooMuch()
    } else {
      if (!this.#isAllowed(stream, stanza)) {
        if (isAnswerable(stanza)) throw notAllowed()
        return
      }
      this.#sent.inc(1, { kind: stanza.name })
    }
    stream.send(stanza, this.#keep(name, stanza, session))
  }

  /** While its component may come again a message waits for it. */
  #deliverLater(name: string, stanza: Stanza, session: Session | undefined): void {
    const waiting = this.#waiting.get(name)
    // The next process, or the next home of the domain, finds what is kept.
    if (waiting !== undefined || (this.#closing && this.#noted.has(name))) {
      if (waiting !== undefined && waiting.bytes > this.limits.outboundBytes) throw tooMuch()
      const key = this.#keep(name, stanza, session)
      if (key !== undefined) {
        if (waiting !== undefined) this.#hold(waiting, { stanza, key })
        return this.#pin()
      }
    }
    if (isAnswerable(stanza)) throw unavailable()
  }

  #isAllowed(stream: ComponentStream, stanza: Stanza): boolean {
    return this.#parts.access().allows(stream.listener.listen.access, { jid: Jid.tryParse(stanza.from ?? '') })
  }

  #choose(name: string, { streams, slots }: Domain, { from = '', to = '' }: Stanza): Connection | undefined {
    if (streams.length < 2) return streams[0]
    const type = this.#parts.balancing(name)?.type ?? 'random'
    if (type === 'random') return streams[Math.floor(Math.random() * streams.length)]
    const key = type.endsWith('source') ? from : to
    const hash = hashOf(type.startsWith('bare_') ? Jid.tryParse(key)?.bare ?? key : key)
    return (slots.length > 0 ? slots[hash % slots.length] : undefined) ?? streams[hash % streams.length]
  }

  /** Domains that have a component of their own connected, at any node. */
  domains(): readonly string[] { return Array.from(this.#domains).flatMap(([domain, { own }]) => (own.length > 0 ? [domain] : [])) }
  isConnected(domain: string): boolean { return (this.#domains.get(domain)?.own.length ?? 0) > 0 }

  /** Domains below a host that components are connected for, and below no other host that is longer. */
  domainsOf(host: string): readonly string[] {
    const hosts = [...this.#parts.hosts.keys()]
    const below = (domain: string, of: string): boolean => domain.endsWith(`.${of}`)
    return Array.from(this.#domains).filter(([domain, { streams }]) => streams.length > 0 && below(domain, host) && !hosts.some((other) => other.length > host.length && below(domain, other))).map(([domain]) => domain)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing = true
    clearInterval(this.#attachTimer)
    for (const { timer } of this.#waiting.values()) clearTimeout(timer)
    const closed = Array.from(this.#listeners.keys(), (server) => new Promise<void>((resolve) => server.close(() => resolve())))
    for (const socket of this.#arriving) socket.destroy()
    for (const stream of this.#streams) stream.close(new StreamError('system-shutdown'))
    let timer: NodeJS.Timeout | undefined
    await Promise.race([Promise.all(closed), new Promise((resolve) => { timer = setTimeout(resolve, CLOSE_WAIT_MS) })])
    clearTimeout(timer)
    this.#closed = true
  }
}

/** Of this node or another. */
type Connection = ComponentStream | RemoteStream

/** Of a domain whose component may come again. */
interface Waiting {
  /** Oldest first. */
  readonly stanzas: Outgoing[]
  bytes: number
  readonly timer: NodeJS.Timeout
}

/** A domain that is for components. */
interface Domain {
  /** Connections for this very domain. */
  own: readonly Connection[]
  /** Those that get what is for it. */
  streams: readonly Connection[]
  /** As many places as there are to be components; one stays in its place. */
  slots: readonly (Connection | undefined)[]
  /** Something else has the domain. */
  taken: boolean
  readonly service: Service
}

function slotsOf({ own, slots }: Domain, number = 0): (Connection | undefined)[] {
  const next = Array.from({ length: number }, (_, index) => (slots[index] !== undefined && own.includes(slots[index]) ? slots[index] : undefined))
  for (const stream of own) if (!next.includes(stream) && next.includes(undefined)) next[next.indexOf(undefined)] = stream
  return next
}

function unavailable(): StanzaError {
  return new StanzaError('service-unavailable', 'The component is not connected', { type: 'wait' })
}

function notAllowed(): StanzaError {
  return new StanzaError('not-allowed', 'Access denied by service policy')
}

function tooMuch(): StanzaError {
  return new StanzaError('resource-constraint', 'Too much waits for the component')
}

function replaced(): StreamError {
  return new StreamError('conflict', 'replaced by a new connection')
}

function allConnected(number: number): StreamError {
  return new StreamError('conflict', `all ${number} components of this domain are connected`)
}

function isAnswerable(stanza: Stanza): boolean {
  return stanza.type !== 'error' && !(stanza.name === 'iq' && stanza.type === 'result') && !(stanza.name === 'presence' && stanza.type === 'unavailable')
}

/** The ids of messages that are kept, by the domains that keep them. */
function idsByDomain(stanzas: readonly Outgoing[]): ReadonlyMap<string, readonly string[]> {
  const ids = new Map<string, string[]>()
  for (const { key } of stanzas) {
    if (key === undefined) continue
    const [domain, id] = key as [string, string]
    const others = ids.get(domain)
    if (others === undefined) ids.set(domain, [id])
    else others.push(id)
  }
  return ids
}

/** FNV-1a, 32 bits. */
function hashOf(text: string): number {
  let hash = 0x811c9dc5
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193)
  return hash >>> 0
}
