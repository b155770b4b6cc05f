/** The role `auth`: a process that checks passwords and tokens for chat processes, which then have neither passwords nor what these are checked by. */
import type { AddressInfo } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { listenOn } from '../../lib/net/listen.ts'
import type { Config } from '../config/config.ts'
import { listenHealth, type HttpListener } from '../http/http.ts'
import { createLog, type Log } from '../log.ts'
import { createMetrics } from '../metrics.ts'
import { openEmbedded } from '../storage/embedded/embedded.ts'
import type { Storage } from '../storage/shapes.ts'
import { createAuthService, Exchanges, type AuthService } from './service.ts'
import { createWireServer, keyOf, Wire, type Address } from './wire.ts'

export interface AuthRoleOptions {
  readonly config: Config
  /** Where the server's own accounts are kept, when they are kept here. */
  readonly dataDir: string
  readonly log?: Log
  /** In place of the embedded store; not closed by the role. */
  readonly storage?: Storage
  /** Has an account live here; where it lives when that is elsewhere. */
  readonly claim?: (bare: string) => Promise<Address | undefined>
  readonly now?: () => number
}

export interface AuthRole {
  readonly port: number
  readonly healthPort: number | undefined
  /** Answers what is in work, for `graceMs` at most, then ends. */
  close(graceMs?: number): Promise<void>
}

/** Bytes of answers that one connection does not take. */
const BACKLOG_BYTES_MAX = 16 * 1024 * 1024
/** Connections that say nothing: the others ask now and then whether somebody is there. */
const SILENT_MS = 30_000
const GRACE_MS = 3000

/** Starts it. Rejects with an error for people when the configuration has nothing to check passwords with. */
export async function createAuthRole(options: AuthRoleOptions): Promise<AuthRole> {
  const { config } = options
  const { auth } = config.tidings
  const now = options.now ?? Date.now
  const log = options.log ?? createLog(config.loglevel)
  const { limits } = config
  if (auth === undefined) throw new Error('The role auth needs tidings.auth with a secret, the same as the chat processes have.')
  if (auth.servers.length > 0) throw new Error('tidings.auth.servers is set: this is the configuration of a process that asks, not of one that answers.')
  const methods = config.hosts.flatMap((name) => config.host(name).authMethods)
  if (!auth.accounts && !methods.includes('ldap') && !methods.includes('jwt')) throw new Error('The role auth has nothing to check passwords with: set auth_method to ldap or jwt, or tidings.auth.accounts.')
  const storage = options.storage ?? (auth.accounts ? await openEmbedded(options.dataDir, { onError: (error) => { log.error({ what: 'storage_callback_failed', error }) } }) : undefined)
  const metrics = createMetrics()
  const service = createAuthService({ config, storage: auth.accounts ? storage : undefined, claim: options.claim, log, metrics, now })
  const connections = new Set<Connection>()
  metrics.gauge('tidings_auth_connections', 'Connections of those that ask', [], () => connections.size)
  const inWork = (): number => [...connections].reduce((sum, each) => sum + each.inWork, 0)
  metrics.gauge('tidings_auth_requests_in_work', 'Questions that are being answered', [], inWork)

  const server = createWireServer(keyOf(auth.secret), (socket) => {
    const connection = new Connection(socket, service, new Exchanges(limits.authExchanges, limits.preAuthTimeoutMs), limits.authWaiting, () => connections.delete(connection))
    connections.add(connection)
  })
  server.maxConnections = limits.authConnections
  server.on('tlsClientError', (error, socket) => { log.warn({ what: 'auth_connection_refused', address: socket.remoteAddress, error: error.message }) })
  const silence = setInterval(() => { for (const connection of connections) connection.tick() }, SILENT_MS / 3).unref()

  let health: HttpListener | undefined
  let closing: Promise<void> | undefined
  const close = (graceMs = GRACE_MS): Promise<void> => closing ??= (async () => {
    clearInterval(silence)
    const ended = new Promise((resolve) => { server.close(resolve) })
    const until = performance.now() + graceMs
    while (inWork() > 0 && performance.now() < until) await new Promise((resolve) => { setTimeout(resolve, 10) })
    for (const connection of connections) connection.close()
    await ended
    await health?.close(0)
    service.close()
    if (options.storage === undefined) await storage?.[Symbol.asyncDispose]()
  })()

  try {
    await listenOn(server, { port: auth.listen.port, ip: auth.listen.host })
    if (config.tidings.metrics !== undefined) {
      health = await listenHealth({ ...config.tidings.metrics, log, metrics, health: () => ({ healthy: storage?.healthy ?? true, role: 'auth', connections: connections.size, inWork: inWork() }) })
    }
  } catch (error) {
    server.close()
    await close(0)
    throw error
  }
  const { port } = server.address() as AddressInfo
  log.info({ what: 'auth_ready', hosts: config.hosts, accounts: auth.accounts })
  return { port, healthPort: health?.port, close }
}

/** One of those that ask. */
class Connection {
  readonly #wire: Wire
  inWork = 0

  constructor(socket: TLSSocket, service: AuthService, exchanges: Exchanges, inWorkMax: number, closed: () => void) {
    socket.setNoDelay(true)
    this.#wire = new Wire(socket, {
      closed,
      received: ([id, operation, args]) => {
        if (operation === 'ping') return this.#wire.send([0, 'pong', {}])
        if (this.inWork >= inWorkMax) return this.#wire.send([id, 'unavailable', { text: 'the auth process has too much work' }])
        this.inWork++
        void service.answer(exchanges, operation, args).then(({ kind, body }) => {
          this.inWork--
          this.#wire.send([id, kind, body])
          if (this.#wire.backlog > BACKLOG_BYTES_MAX) this.#wire.close()
        })
      },
    })
  }

  tick(): void { if (performance.now() - this.#wire.heardAt > SILENT_MS) this.#wire.close() }
  close(): void { this.#wire.close() }
}
