/** The role `archive-worker`: takes history from Kafka and puts it into HBase or Cassandra, and tells the nodes how far it is. */
import type { Config } from '../config/config.ts'
import { type HttpListener, listenHealth } from '../http/http.ts'
import type { Log } from '../log.ts'
import { createMetrics } from '../metrics.ts'
import { ArchiveWorker } from './archive-worker.ts'
import { RedisProgress } from './redis/progress.ts'
import { openHistoryStore } from './stores.ts'

export interface ArchiveRole {
  readonly healthPort: number | undefined
  close(): Promise<void>
}

/** Rejects with an error for people when the configuration has no Kafka, no HBase or Cassandra, or no Redis. */
export async function createArchiveRole(config: Config, log: Log): Promise<ArchiveRole> {
  const { kafka, cluster, metrics: listener } = config.tidings
  if (kafka === undefined) throw new Error('tidings.kafka is not configured: there is no history to take')
  if (cluster === undefined) throw new Error('tidings.cluster is not configured: there is nobody to tell how far the store is')
  const metrics = createMetrics()
  const store = await openHistoryStore(config)
  const progress = new RedisProgress(cluster.redis, kafka.topic)
  const worker = await ArchiveWorker.start({ kafka, store, progress, log, metrics })
  const health: HttpListener | undefined = listener && await listenHealth({ ...listener, log, metrics, health: () => worker.health() })
  return {
    healthPort: health?.port,
    close: async () => {
      await worker.stop()
      await health?.close()
      await progress[Symbol.asyncDispose]()
      await store[Symbol.asyncDispose]()
    },
  }
}
