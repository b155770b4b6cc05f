/** Federation: listeners for other servers, what is known of each of them, and the way of stanzas to and from them. */
import net from 'node:net'
import type { TLSSocket } from 'node:tls'
import { Jid } from '../../lib/jid.ts'
import { plainAddress } from '../../lib/net/addresses.ts'
import { acceptTls, type SecureContexts } from '../../lib/net/certificates.ts'
import { awaitFirstBytes } from '../../lib/net/first-bytes.ts'
import { listenOn } from '../../lib/net/listen.ts'
import { readProxyHeader } from '../../lib/net/proxy-protocol.ts'
import { withDelay, DELAY_NS } from '../../lib/stanza/delay.ts'
import { StanzaError } from '../../lib/stanza/errors.ts'
import { readStanza } from '../../lib/stanza/read.ts'
import type { Stanza } from '../../lib/stanza/stanza.ts'
import { StreamError } from '../../lib/stream/errors.ts'
import type { Access } from '../config/access.ts'
import type { Config, HostConfig, ListenConfig } from '../config/config.ts'
import type { Limits } from '../config/limits.ts'
import { parseOptions } from '../config/options.ts'
import { dialbackOptions } from '../extensions/federation.ts'
import type { Log } from '../log.ts'
import type { Metrics } from '../metrics.ts'
import type { PendingIqs } from '../router/iq.ts'
import type { Router } from '../router/router.ts'
import type { Key, Storage, Value } from '../storage/shapes.ts'
import { remoteOfUnit, unitOfRemote } from '../cluster/remote-units.ts'
import type { Connection } from './connect.ts'
import type { Policy, S2sContext } from './context.ts'
import { Exchange, EXCHANGES, QUEUE, type Outgoing, type StoredExchange, type StoredMessage } from './exchange.ts'
import { IncomingStream, type ServerListenerOptions } from './incoming.ts'
import { Remote, timeOfKey } from './remote.ts'
import type { WireParts } from './wire.ts'

export interface S2sParts {
  readonly hosts: ReadonlyMap<string, { readonly config: HostConfig }>
  readonly services: ReadonlyMap<string, unknown>
  readonly router: Router
  readonly pending: PendingIqs
  readonly storage: Storage
  readonly limits: Limits
  readonly log: Log
  readonly metrics: Metrics
  /** For keys of dialback. */
  readonly secret: Uint8Array
  config(): Config
  /** Its place among several nodes: what there is of another server is kept by one of them. */
  readonly place?: { here(unit: string): boolean; claim(unit: string): Promise<boolean>; pin(unit: string): () => void } | undefined
  certificates(): SecureContexts | undefined
  connect(domain: string, host: HostConfig): Promise<Connection>
  readonly certified: (socket: TLSSocket, domain: string) => { readonly trusted: boolean; readonly problem?: string | undefined }
  readonly now: () => number
}

/** A listener that is open. */
export interface ServerListener {
  readonly port: number
  /** Connections that come from now on get these options. */
  update(listen: ListenConfig): void
  /** Stops accepting, and closes what is connected. */
  close(): void
}

type Row = { readonly key: Key; readonly value: Value }

/** How long other servers are waited for when this one stops. */
const CLOSE_WAIT_MS = 2000
const SWEEP_MS = 5000
const ACCESS_CACHED_MAX = 10_000

export class S2s {
  readonly #parts: S2sParts
  readonly #context: S2sContext
  readonly #listeners = new Map<net.Server, ServerListenerOptions>()
  /** Connections that have no stream yet. */
  readonly #arriving = new Set<net.Socket>()
  readonly #incoming = new Set<IncomingStream>()
  /** Connections of which nobody knows yet who it is, by address. */
  readonly #strangers = new Map<string, number>()
  readonly #remotes = new Map<string, Remote>()
  /** Of other servers' making, by id. */
  readonly #exchanges = new Map<string, Exchange>()
  /** Whether s2s_access allows a pair of domains. */
  readonly #allowed = new Map<string, boolean>()
  readonly #sweeping: NodeJS.Timeout
  readonly #received
  readonly #sent
  readonly #errors
  readonly #refused
  #closing = false

  constructor(parts: S2sParts) {
    this.#parts = parts
    const { metrics } = parts
    metrics.gauge('tidings_s2s_incoming', 'Streams of other servers that have proven who they are', [], () => this.incoming().length)
    metrics.gauge('tidings_s2s_outgoing', 'Streams with other servers that this one has begun and that carry stanzas', [], () => this.outgoing().length)
    metrics.gauge('tidings_s2s_servers', 'Other servers that something is known of', [], () => this.#remotes.size)
    metrics.gauge('tidings_s2s_waiting', 'Stanzas that wait for other servers, or are not known to have arrived', [], () => Array.from(this.#remotes.values()).reduce((sum, { waiting }) => sum + waiting, 0))
    this.#received = metrics.counter('tidings_s2s_stanzas_received_total', 'Stanzas received from other servers', ['kind'])
    this.#sent = metrics.counter('tidings_s2s_stanzas_sent_total', 'Stanzas sent to other servers', ['kind'])
    this.#errors = metrics.counter('tidings_stream_errors_total', 'Streams ended by an error', ['condition'])
    this.#refused = metrics.counter('tidings_refused_server_connections_total', 'Connections of other servers refused', ['reason'])
    this.#context = this.#makeContext()
    this.#sweeping = setInterval(() => { this.#sweep() }, SWEEP_MS)
    this.#sweeping.unref()
  }

  #makeContext(): S2sContext {
    const config = this.#parts.config.bind(this.#parts)
    const isClosing = (): boolean => this.#closing
    const defaultHost = (): string => this.#parts.hosts.keys().next().value ?? 'localhost'
    const { limits, storage, log, router, pending, secret, now, certified } = this.#parts
    return {
      limits, storage, log, secret, now, certified,
      get retryMs() { return config().s2sRetryMs },
      get tls() { return config().s2sTls },
      get closing() { return isClosing() },
      get defaultHost() { return defaultHost() },
      policyOf: (local) => this.#policyOf(local),
      isOurs: (domain) => this.isOurs(domain),
      allows: (local, remote) => this.#allows(local, remote),
      allowsDialback: (local, remote) => {
        const rule = this.#policyOf(local)?.dialback
        return rule !== undefined && (rule === 'all' || this.#accessOf(local).allows(rule, { jid: Jid.tryParse(remote) }))
      },
      certificates: () => this.#parts.certificates(),
      connect: (domain, local) => {
        const host = this.#hostOf(local)
        return host === undefined ? Promise.reject(new StanzaError('internal-server-error')) : this.#parts.connect(domain, host.config)
      },
      remote: (domain) => this.#remote(domain),
      wireParts: (local, outboundBytes) => this.#wireParts(local, outboundBytes),
      received: (stanza) => {
        this.#received.inc(1, KINDS[stanza.name])
        return router.fromPeer(stanza)
      },
      sent: (_remote, kind) => { this.#sent.inc(1, KINDS[kind]) },
      bounce: (stanza, error) => { router.bounce(stanza, error) },
      ask: (stanza, timeoutMs) => pending.request(stanza, timeoutMs),
      here: (domain) => this.#parts.place?.here(unitOfRemote(domain)) ?? true,
      claim: (domain) => this.#parts.place?.claim(unitOfRemote(domain)) ?? Promise.resolve(true),
      exchange: (id) => this.#exchanges.get(id),
      keepExchange: (exchange) => { this.#exchanges.set(exchange.id as string, exchange) },
      streamError: (direction, domain, error) => {
        this.#errors.inc(1, { condition: error.condition })
        log.info({ what: 's2s_stream_error', direction, domain, condition: error.condition, text: error.message })
      },
    }
  }

  #wireParts(local: string, outboundBytes = this.#parts.limits.outboundBytes): WireParts {
    const { storage, log, limits, now } = this.#parts
    return { storage, log, closeTimeoutMs: limits.closeTimeoutMs, keepaliveMs: limits.idlePingMs, idleMs: this.#policyOf(local)?.idleMs ?? limits.idlePingMs, outboundBytes, now }
  }

  // --- domains

  isOurs(domain: string): boolean {
    return this.#parts.hosts.has(domain) || this.#parts.services.has(domain)
  }

  /** The host itself, or that of a service: the nearest above it, or the first. */
  #hostOf(local: string): { readonly config: HostConfig } | undefined {
    const { hosts } = this.#parts
    for (let name = local; ;) {
      const host = hosts.get(name)
      if (host !== undefined) return host
      const dot = name.indexOf('.')
      if (dot < 0) return hosts.values().next().value
      name = name.slice(dot + 1)
    }
  }

  #accessOf(local: string): Access {
    return this.#hostOf(local)?.config.access ?? this.#parts.config().access
  }

  readonly #policies = new WeakMap<HostConfig, Policy>()

  #policyOf(local: string): Policy | undefined {
    const config = this.#hostOf(local)?.config
    if (config === undefined) return undefined
    let policy = this.#policies.get(config)
    if (policy === undefined) {
      const dialback = config.modules.get('mod_s2s_dialback')
      policy = {
        ...config.s2s,
        dialback: dialback === undefined ? undefined : parseOptions(dialbackOptions, dialback, { option: 'modules.mod_s2s_dialback' }).options.access,
        bidi: config.modules.has('mod_s2s_bidi'),
        management: config.modules.has('mod_stream_mgmt'),
      }
      this.#policies.set(config, policy)
    }
    return policy
  }

  #allows(local: string, remote: string): boolean {
    const rule = this.#policyOf(local)?.access
    if (rule === undefined || rule === 'all') return rule === 'all'
    const pair = `${local} ${remote}`
    let allowed = this.#allowed.get(pair)
    if (allowed === undefined) {
      allowed = this.#accessOf(local).allows(rule, { jid: Jid.tryParse(remote) })
      if (this.#allowed.size >= ACCESS_CACHED_MAX) this.#allowed.clear()
      this.#allowed.set(pair, allowed)
    }
    return allowed
  }

  /** The configuration is another now. */
  update(): void { this.#allowed.clear() }

  // --- sending

  /** Takes a stanza for another server; throws a StanzaError when it cannot. `kept`: its sender takes it for safe. */
  send(stanza: Stanza, from: Jid, to: Jid, kept: boolean): void {
    const local = from.domain
    if (!this.isOurs(local)) throw new StanzaError('remote-server-not-found')
    if (!this.#allows(local, to.domain)) throw new StanzaError('forbidden', 'Access denied by service policy')
    const remote = this.#remote(to.domain)
    if (remote === undefined) throw new StanzaError('resource-constraint', 'Too many other servers are spoken to')
    this.#pin(to.domain)
    remote.send(stanza, local, kept && stanza.type !== 'error')
  }

  /** As long as there is something to do with a server, it stays this node's. */
  #pin(domain: string): void {
    const { place } = this.#parts
    if (place === undefined || this.#pins.has(domain) || !place.here(unitOfRemote(domain))) return
    this.#pins.set(domain, place.pin(unitOfRemote(domain)))
  }

  readonly #pins = new Map<string, () => void>()

  #unpin(domain: string): void {
    this.#pins.get(domain)?.()
    this.#pins.delete(domain)
  }

  /** What there is of a server is this node's from now on. */
  came(domain: string): void {
    const found = this.#load(unitOfRemote(domain))
    if (found instanceof Promise) found.then(() => { this.#remotes.get(domain)?.begin() }, (error: unknown) => { this.#parts.log.error({ what: 's2s_not_restored', domain, error }) })
    else if (!this.#closing) queueMicrotask(() => { this.#remotes.get(domain)?.begin() })
  }

  /** It is another node's. */
  released(domain: string): void {
    this.#unpin(domain)
    const remote = this.#remotes.get(domain)
    if (remote === undefined) return
    this.#remotes.delete(domain)
    remote.abandon()
    for (const [id, exchange] of this.#exchanges) if (exchange.remote === domain) this.#exchanges.delete(id)
  }

  #remote(domain: string): Remote | undefined {
    let remote = this.#remotes.get(domain)
    if (remote === undefined) {
      if (this.#remotes.size >= this.#parts.limits.remoteServers) this.#sweep()
      if (this.#remotes.size >= this.#parts.limits.remoteServers) return undefined
      this.#remotes.set(domain, (remote = new Remote(domain, this.#context)))
    }
    return remote
  }

  #sweep(): void {
    const time = this.#parts.now()
    for (const [id, exchange] of this.#exchanges) {
      if (exchange.connected || exchange.detachedAt === undefined || time - exchange.detachedAt < this.#parts.limits.remoteResumeMs) continue
      this.#exchanges.delete(id)
      if (this.#context.here(exchange.remote)) exchange.forget()
    }
    for (const [domain, remote] of this.#remotes) {
      remote.expire()
      if (!remote.isIdle) continue
      this.#remotes.delete(domain)
      this.#unpin(domain)
    }
  }

  // --- listeners

  /** Opens a listener. Rejects when it cannot listen there, or OpenSSL does not take its TLS options. */
  async listen(listen: ListenConfig): Promise<ServerListener> {
    this.#check(listen)
    const options: ServerListenerOptions = { listen }
    const server = net.createServer({ pauseOnConnect: true }, (socket) => this.#accept(options, socket))
    server.maxConnections = this.#parts.limits.connections
    const port = await listenOn(server, listen)
    server.on('error', (error) => this.#parts.log.error({ what: 'listener_failed', port, error }))
    this.#listeners.set(server, options)
    return {
      port,
      update: (next) => {
        this.#check(next)
        options.listen = next
      },
      close: () => {
        this.#listeners.delete(server)
        server.close()
        for (const stream of this.#incoming) if (stream.listener === options) stream.close(new StreamError('host-gone'))
      },
    }
  }

  #check(listen: ListenConfig): void { this.#parts.certificates()?.optionsFor(listen.tlsOptions) }

  #accept(options: ServerListenerOptions, socket: net.Socket): void {
    const { limits, log } = this.#parts
    socket.on('error', () => undefined)
    if (this.#closing) return this.#refuse(socket, 'stopping')
    if (!options.listen.proxyProtocol) return this.#admit(options, socket, plainAddress(socket.remoteAddress))
    this.#arriving.add(socket)
    readProxyHeader(socket, limits.proxyHeaderTimeoutMs, ({ address }) => {
      this.#arriving.delete(socket)
      this.#admit(options, socket, plainAddress(address ?? socket.remoteAddress))
    }, (error) => {
      this.#arriving.delete(socket)
      log.warn({ what: 'proxy_header_refused', address: plainAddress(socket.remoteAddress), error: error.message })
      this.#refuse(socket, 'proxy-header')
    })
  }

  #admit(options: ServerListenerOptions, socket: net.Socket, address: string): void {
    const { limits, log } = this.#parts
    const strangers = this.#strangers.get(address) ?? 0
    if (address !== '' && strangers >= limits.connectionsPerAddress) return this.#refuse(socket, 'address')
    this.#strangers.set(address, strangers + 1)
    // A silent peer costs a socket, and nothing more.
    this.#arriving.add(socket)
    const gone = (reason: string): void => {
      this.#arriving.delete(socket)
      this.#known(address)
      this.#refuse(socket, reason)
    }
    awaitFirstBytes(socket, limits.preAuthTimeoutMs, () => {
      this.#arriving.delete(socket)
      try {
        if (!options.listen.tls) return this.#begin(options, socket, address)
        const contexts = this.#parts.certificates() as SecureContexts
        const secured = acceptTls(socket, contexts.optionsFor(options.listen.tlsOptions), limits.handshakeTimeoutMs)
        this.#begin(options, secured, address)
      } catch (error) {
        log.debug({ what: 'tls_failed', address, error })
        gone('tls')
      }
    }, () => gone('silent'))
  }

  #begin(listener: ServerListenerOptions, socket: net.Socket, address: string): void {
    socket.removeAllListeners('error').removeAllListeners('data')
    let isStranger = true
    this.#incoming.add(new IncomingStream({
      context: this.#context, listener, socket, address,
      shaper: (domain) => this.#parts.config().access.shaper(listener.listen.shaper, { jid: Jid.tryParse(domain), address }),
      known: () => {
        if (isStranger) this.#known(address)
        isStranger = false
      },
      ended: (stream) => this.#ended(stream),
    }))
  }

  #ended(stream: IncomingStream): void {
    this.#incoming.delete(stream)
    const { exchange } = stream
    if (exchange === undefined) return
    const { isOrderly, byPeer } = stream.end
    exchange.wire = undefined
    exchange.detachedAt = this.#parts.now()
    // Of its own accord: it will not go on with it.
    if (exchange.resumable && byPeer) {
      this.#exchanges.delete(exchange.id as string)
      exchange.forget()
    }
    const remote = exchange.locals.size > 0 ? this.#remotes.get(exchange.remote) : undefined
    if (remote !== undefined) remote.lost(exchange, isOrderly)
    else if (exchange.resumable) exchange.store()
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

  // --- for administrators

  /** Pairs of domains that stanzas come by. */
  incoming(): readonly { readonly domain: string; readonly local: string; readonly address: string; readonly secure: boolean }[] {
    return Array.from(this.#incoming).filter(({ established }) => established).flatMap(({ domains, local, address, secure }) => Array.from(domains, (domain) => ({ domain, local, address, secure })))
  }

  outgoing(): readonly { readonly domain: string; readonly local: string; readonly secure: boolean }[] {
    return Array.from(this.#remotes.values()).flatMap(({ domain, streams }) => Array.from(streams).filter(({ established }) => established).flatMap(({ exchange, secure }) => Array.from(exchange.locals, (local) => ({ domain, local, secure }))))
  }

  /** Closes all streams with other servers, or with one; what waits for them connects anew. Answers how many there were. */
  stop(domain?: string): number {
    let count = 0
    for (const stream of this.#incoming) {
      if (!stream.alive || (domain !== undefined && !stream.domains.has(domain))) continue
      stream.close()
      count++
    }
    for (const remote of this.#remotes.values()) {
      if (domain !== undefined && remote.domain !== domain) continue
      for (const stream of remote.streams) {
        if (!stream.alive) continue
        stream.close()
        count++
      }
    }
    return count
  }

  // --- beginning and end

  /** Finds what the last process had on the way. */
  async restore(): Promise<void> { await this.#load() }

  /** The same of one server, by its unit. */
  #load(unit?: string): void | Promise<void> {
    const { records } = this.#parts.storage
    const prefix = unit === undefined ? [] : [unit]
    const exchanges = records.range(EXCHANGES, prefix)
    const messages = records.range(QUEUE, prefix)
    if (exchanges instanceof Promise || messages instanceof Promise) return Promise.all([exchanges, messages]).then(([some, others]) => { this.#take(some, others) })
    this.#take(exchanges, messages)
  }

  #take(exchanges: readonly Row[], messages: readonly Row[]): void {
    const { storage, log, now } = this.#parts
    const found = new Map<string, { outgoing: Outgoing; by: string | undefined; seq: number | undefined }[]>()
    for (const { key: [unit = '', id = ''], value } of exchanges) {
      const domain = remoteOfUnit(unit) ?? ''
      const stored = value as unknown as StoredExchange
      const exchange = new Exchange(domain, stored.local, stored.ours, { records: storage.records, now })
      exchange.restore(id, stored)
      if (!stored.ours) this.#exchanges.set(id, exchange)
      // Those of the others carry something of ours when the other side let them.
      this.#remote(domain)?.keepExchange(exchange)
      found.set(domain, [])
    }
    for (const { key, value } of messages) {
      const [unit = '', id = ''] = key
      const domain = remoteOfUnit(unit) ?? ''
      try {
        const { bytes, by, seq } = value as unknown as StoredMessage
        const read = readStanza(Buffer.from(bytes))
        const local = Jid.parse(read.from ?? '').domain
        const at = timeOfKey(id, now())
        const stanza = read.name !== 'message' || read.has('delay', DELAY_NS) ? read : withDelay(read, local, at)
        const list = found.get(domain) ?? []
        list.push({ outgoing: { stanza, local, key, stored: true, bytes: stanza.content.length + 200, at }, by, seq })
        found.set(domain, list)
      } catch (error) {
        log.error({ what: 's2s_message_unreadable', domain, error })
        storage.records.delete(QUEUE, key)
      }
    }
    for (const [domain, list] of found) {
      this.#pin(domain)
      this.#remote(domain)?.restore(list)
    }
  }

  /** Connects for what was found: others may connect to us by now. */
  begin(): void {
    for (const remote of this.#remotes.values()) remote.begin()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing = true
    clearInterval(this.#sweeping)
    const closed = Array.from(this.#listeners.keys(), (server) => new Promise<void>((resolve) => server.close(() => resolve())))
    for (const socket of this.#arriving) socket.destroy()
    for (const stream of this.#incoming) stream.close(new StreamError('system-shutdown'))
    for (const remote of this.#remotes.values()) remote.close()
    const over = async (): Promise<void> => {
      await Promise.all(closed)
      while (Array.from(this.#remotes.values()).some(({ streams }) => streams.size > 0)) await new Promise((resolve) => { setTimeout(resolve, 5) })
    }
    let timer: NodeJS.Timeout | undefined
    await Promise.race([over(), new Promise((resolve) => { timer = setTimeout(resolve, CLOSE_WAIT_MS) })])
    clearTimeout(timer)
    for (const domain of this.#pins.keys()) this.#unpin(domain)
  }
}

const KINDS: Readonly<Record<string, Readonly<Record<string, string>>>> = { message: { kind: 'message' }, presence: { kind: 'presence' }, iq: { kind: 'iq' } }
