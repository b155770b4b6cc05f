/** The role `auth`: a process that checks passwords and tokens for chat processes, which then have neither passwords nor what these are checked by. */
import type { AddressInfo } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { listenOn } from '../../lib/net/listen.ts'
import type { Config } from '../config/config.ts'
import { listenHealth, type HttpListener } from '../http/http.ts'
import { createLog, type Log } from '../log.ts'
import { createMetrics } from '../metrics.ts'
import { openKept, type Kept } from './kept.ts'
import { createAuthService, Exchanges, type AuthService } from './service.ts'
import { createWireServer, keyOf, Wire } from './wire.ts'

export interface AuthRoleOptions {
  readonly config: Config
  /** Where the server's own accounts are kept, when they are kept here. */
  readonly dataDir: string
  readonly log?: Log
  /** What keeps the server's own accounts, in place of what the configuration says; not closed by the role. */
  readonly kept?: Pick<Kept, 'storage'> & Partial<Kept>
  readonly now?: () => number
}

export interface AuthRole {
  readonly port: number
  readonly healthPort: number | undefined
  /** Resolves when others have taken over what this process kept: it answers nobody any more, and is to be closed. */
  readonly lost: Promise<void>
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
  const anywhere = auth.listen.host === '0.0.0.0' || auth.listen.host === '::'
  if (auth.accounts && config.tidings.cluster !== undefined && anywhere && auth.address === undefined) throw new Error('tidings.auth.address is missing: others have to know where they reach this auth process.')
  const metrics = createMetrics()
  let service: AuthService | undefined
  const connections = new Set<Connection>()
  metrics.gauge('tidings_auth_connections', 'Connections of those that ask', [], () => connections.size)
  const inWork = (): number => [...connections].reduce((sum, each) => sum + each.inWork, 0)
  metrics.gauge('tidings_auth_requests_in_work', 'Questions that are being answered', [], inWork)

  const server = createWireServer(keyOf(auth.secret), (socket) => {
    // It has nothing to answer with yet; it is tried again.
    if (service === undefined) return void socket.destroy()
    const connection = new Connection(socket, service, new Exchanges(limits.authExchanges, limits.preAuthTimeoutMs), limits.authWaiting, () => connections.delete(connection))
    connections.add(connection)
  })
  server.maxConnections = limits.authConnections
  server.on('tlsClientError', (error, socket) => { log.warn({ what: 'auth_connection_refused', address: socket.remoteAddress, error: error.message }) })
  const silence = setInterval(() => { for (const connection of connections) connection.tick() }, SILENT_MS / 3).unref()

  let kept: (Pick<Kept, 'storage'> & Partial<Kept>) | undefined
  let health: HttpListener | undefined
  const { promise: lost, resolve: lose } = Promise.withResolvers<void>()
  let closing: Promise<void> | undefined
  const close = (graceMs = GRACE_MS): Promise<void> => closing ??= (async () => {
    clearInterval(silence)
    const ended = new Promise((resolve) => { server.close(resolve) })
    const until = performance.now() + graceMs
    while (inWork() > 0 && performance.now() < until) await new Promise((resolve) => { setTimeout(resolve, 10) })
    for (const connection of connections) connection.close()
    await ended
    await health?.close(0)
    service?.close()
    if (options.kept === undefined) await kept?.[Symbol.asyncDispose]?.()
  })()

  try {
    const port = await listenOn(server, { port: auth.listen.port, ip: auth.listen.host })
    if (auth.accounts) kept = options.kept ?? await openKept({ config, dataDir: options.dataDir, address: auth.address ?? { ...auth.listen, port }, log })
    const answering = service = createAuthService({ config, storage: kept?.storage, claim: kept?.claim, log, metrics, now })
    kept?.watch?.({
      released: (accounts) => { answering.forget(accounts) },
      lost() {
        log.error({ what: 'lease_lost', text: 'Other processes have the accounts that this one had; it ends.' })
        for (const connection of connections) connection.close()
        lose()
      },
    })
    if (config.tidings.metrics !== undefined) {
      health = await listenHealth({ ...config.tidings.metrics, log, metrics, health: () => ({ healthy: kept?.storage.healthy ?? true, role: 'auth', connections: connections.size, inWork: inWork() }) })
    }
  } catch (error) {
    server.close()
    await close(0)
    throw error
  }
  const { port } = server.address() as AddressInfo
  log.info({ what: 'auth_ready', hosts: config.hosts, accounts: auth.accounts })
  return { port, healthPort: health?.port, lost, close }
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
