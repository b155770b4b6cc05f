/**
 * The role `proxy`: takes clients of TCP, WebSocket and BOSH, and passes them on to the nodes that serve their accounts. It serves nobody itself and keeps nothing: its
 * extensions only tell what is offered to clients, from the configuration that the nodes have.
 */
import type { Config, ListenConfig } from '../config/config.ts'
import type { Log } from '../log.ts'
import { createServer, type Server } from '../server.ts'
import { openMemory } from '../storage/memory/memory.ts'
import type { Storage } from '../storage/shapes.ts'
import type { NodeInfo } from '../cluster/shapes.ts'
import { ClusterFront } from './front.ts'

/** How a proxy knows of the nodes. */
export interface NodeWatch extends AsyncDisposable {
  readonly nodes: readonly NodeInfo[]
  find(unit: string): Promise<string | undefined>
  /** Told of each change of `nodes`. */
  onChange(listener: () => void): void
  /** The reason why the nodes cannot be asked for at present. */
  readonly problem?: string | undefined
}

export interface ProxyRoleOptions {
  readonly config: Config
  /** For certificates that the server signs itself. */
  readonly dataDir: string
  readonly log: Log
  /** In place of those that Redis knows. */
  readonly cluster?: { readonly watch: NodeWatch; readonly secret: Uint8Array }
  /** How long a login waits for a node that takes it. */
  readonly patienceMs?: number
}

export interface ProxyRole {
  readonly server: Server
  /** Clients that are passed on. */
  readonly connections: number
  /** Takes no more clients, ends those it has one after the other during this time, and resolves when all are gone. Their streams stay unfinished, to be resumed. */
  drain(ms: number): Promise<void>
  close(): Promise<void>
}

/** Request handlers by which clients come, and by which they find these. */
const HANDLERS = new Set(['ejabberd_http_ws', 'mod_bosh', 'mod_host_meta'])
/** Of these the node has what they need, which nobody here asks for. */
const NOT_HERE = new Set(['mod_proxy65'])

/** Rejects with an error for people when there is no cluster, or no listener for clients. */
export async function createProxyRole({ config, dataDir, log, cluster, patienceMs }: ProxyRoleOptions): Promise<ProxyRole> {
  const listen = config.listen.flatMap(forClients)
  if (listen.length === 0) throw new Error('There is no listener for clients: the role proxy needs one of ejabberd_c2s, or of ejabberd_http with ejabberd_http_ws or mod_bosh among its request_handlers.')
  const { watch, secret } = cluster ?? await openWatch(config)
  const { limits } = config
  let front: ClusterFront | undefined
  try {
    const server = await createServer({
      config: { ...config, listen, host: (name) => withoutServices(config, name) }, dataDir, log, storage: nothingStored(watch),
      front: (metrics) => front = new ClusterFront({
        self: undefined, nodes: () => watch.nodes, find: (unit) => watch.find(unit), secret, closeTimeoutMs: limits.closeTimeoutMs, log, metrics, ...(patienceMs === undefined ? {} : { patienceMs }),
      }),
    })
    watch.onChange(() => { front?.nodesChanged() })
    return roleOf(server, front as unknown as ClusterFront, watch)
  } catch (error) {
    await watch[Symbol.asyncDispose]()
    throw error
  }
}

function roleOf(server: Server, front: ClusterFront, watch: NodeWatch): ProxyRole {
  return {
    server,
    get connections() { return front.connections },
    async drain(ms) {
      server.stopListening()
      await front.drain(ms)
    },
    async close() {
      front.endAll()
      await server.close()
      await watch[Symbol.asyncDispose]()
    },
  }
}

async function openWatch({ tidings: { cluster } }: Config): Promise<{ readonly watch: NodeWatch; readonly secret: Uint8Array }> {
  if (cluster === undefined) throw new Error('tidings.cluster is not configured: there are no nodes to pass clients on to')
  const { RedisWatch } = await import('../cluster/redis/watch.ts')
  const watch = await RedisWatch.open({ redis: cluster.redis })
  try {
    return { watch, secret: cluster.secret === '' ? await watch.secret() : Buffer.from(cluster.secret) }
  } catch (error) {
    await watch[Symbol.asyncDispose]()
    throw error
  }
}

/** What `/health` says is whether the nodes are known. */
function nothingStored(watch: NodeWatch): Storage {
  const memory = openMemory()
  return Object.defineProperties(memory, {
    healthy: { get: () => watch.problem === undefined },
    status: { value: () => ({ driver: 'none', healthy: watch.problem === undefined, ...(watch.problem === undefined ? {} : { problem: watch.problem }), pendingWrites: 0, commitMs: 0 }) },
  })
}

/** What of a listener is for clients. */
function forClients(listen: ListenConfig): ListenConfig[] {
  if (listen.module === 'ejabberd_c2s') return [listen]
  const requestHandlers = new Map([...listen.requestHandlers ?? []].filter(([, name]) => HANDLERS.has(name)))
  return listen.module === 'ejabberd_http' && requestHandlers.size > 0 ? [{ ...listen, requestHandlers }] : []
}

function withoutServices(config: Config, name: string): ReturnType<Config['host']> {
  const host = config.host(name)
  return { ...host, modules: new Map([...host.modules].filter(([module]) => !NOT_HERE.has(module))) }
}
