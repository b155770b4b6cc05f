/** A node of a cluster, from the configuration alone: opens all that its storage is made of, in order, and closes it in the opposite order. */
import { existsSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import type { Config } from '../config/config.ts'
import type { Log } from '../log.ts'
import { openBlobs } from '../storage/embedded/blobs.ts'
import { lockDirectory } from '../storage/embedded/lock.ts'
import type { Blobs, Key, Storage, Value } from '../storage/shapes.ts'
import { InternalListener } from '../front/internal-listener.ts'
import { DirectQueue } from './direct-queue.ts'
import { framesOf } from './frames.ts'
import type { HistoryProgress, HistoryQueue, HistoryStore, Membership, Units } from './shapes.ts'
import { ClusterStorage } from './storage.ts'
import { openHistoryStore, openRowStore } from './stores.ts'

export interface NodeOptions {
  readonly config: Config
  /** What belongs to this machine alone: certificates, the control socket, and files when there is no S3. */
  readonly dataDir: string
  readonly log: Log
  /** What it does of all that the nodes do; everything unless set. */
  readonly roles?: readonly string[]
  /** `host:port` on which others reach it, when it takes no clients of theirs. */
  readonly address?: string
  readonly onHealth?: (problem: string | undefined) => void
  readonly onError?: (error: unknown) => void
}

export interface ClusterNode extends AsyncDisposable {
  readonly storage: Storage
  readonly units: Units
  /** Known to all nodes and nobody else. */
  readonly secret: Uint8Array
  /** Where it takes clients that other processes of the cluster have accepted, if it does. */
  readonly listener: InternalListener | undefined
  /** Secrets of hosts and services, when they are not made from that. */
  readonly secretOf?: (table: string, key: Key) => Value
}

interface Joined {
  readonly membership: Membership
  readonly secret: Uint8Array
}

const MIN_FREE_BYTES = 64 * 1024 * 1024

/** Joins the cluster of the configuration. Rejects with an error for people when something of it cannot be reached. */
export async function openNode(options: NodeOptions): Promise<ClusterNode> {
  const { config, dataDir, log, onHealth, onError } = options
  await using opened = new AsyncDisposableStack()
  mkdirSync(dataDir, { recursive: true, mode: 0o700 })
  const lock = await lockDirectory(dataDir)
  opened.defer(() => lock.release())
  if (existsSync(join(dataDir, 'FORMAT'))) log.warn({ what: 'data_unused', text: `In ${dataDir} is the data of a server that was alone; a node of a cluster does not read it.` })
  const blobs = await openFiles(options, opened)
  const records = opened.use(await openRowStore(config))
  const history = opened.use(await openHistoryStore(config))
  const way = await openQueue(options, history, opened)
  const listener = options.address === undefined ? opened.use(await InternalListener.open(config.tidings.cluster?.address ?? '', log)) : undefined
  const { membership, secret } = await joinCluster(options, options.address ?? listener?.address ?? '')
  opened.use(membership)
  const storage = opened.use(new ClusterStorage({ membership, records, history, ...way, blobs, framesOf, ...(onHealth && { onHealth }), ...(onError && { onError }) }))
  log.info({ what: 'cluster_joined', inc: membership.self.inc, nodes: membership.nodes.map(({ name }) => name) })
  const closing = opened.move()
  return { storage, units: storage, secret, listener, [Symbol.asyncDispose]: () => closing.disposeAsync() }
}

async function joinCluster({ config, roles = [] }: NodeOptions, address: string): Promise<Joined> {
  const { cluster } = config.tidings
  if (cluster === undefined) throw new Error('tidings.cluster is not configured')
  const { RedisMembership } = await import('./redis/membership.ts')
  const membership = await RedisMembership.join({ redis: cluster.redis, name: cluster.node, address, roles })
  try {
    return { membership, secret: cluster.secret === '' ? await membership.secret() : Buffer.from(cluster.secret) }
  } catch (error) {
    await membership[Symbol.asyncDispose]()
    throw error
  }
}

/** The way of history to its store: through Kafka, and then workers tell how far the store is; or straight. */
async function openQueue({ config, log }: NodeOptions, history: HistoryStore, opened: AsyncDisposableStack): Promise<{ queue: HistoryQueue; progress?: HistoryProgress }> {
  const { kafka, cluster } = config.tidings
  if (kafka === undefined || cluster === undefined) return { queue: opened.use(new DirectQueue(history)) }
  const [{ KafkaQueue }, { RedisProgress }] = await Promise.all([import('./kafka/queue.ts'), import('./redis/progress.ts')])
  const progress = opened.use(new RedisProgress(cluster.redis, kafka.topic))
  const queue = opened.use(new KafkaQueue(kafka, log))
  queue.open()
  return { queue, progress }
}

async function openFiles({ config, dataDir }: NodeOptions, opened: AsyncDisposableStack): Promise<Blobs> {
  if (config.tidings.s3 === undefined) return openBlobs(join(dataDir, 'blobs'), MIN_FREE_BYTES)
  const s3 = await (await import('../storage/s3/blobs.ts')).openS3(config.tidings.s3)
  opened.defer(() => { s3.close() })
  return s3
}
