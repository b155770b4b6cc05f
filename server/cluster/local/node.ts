/** A chat process of one machine: its storage, over the main process. */
import { join } from 'node:path'
import { socketPath } from '../../admin/control.ts'
import type { Config } from '../../config/config.ts'
import { InternalListener } from '../../front/internal-listener.ts'
import type { Log } from '../../log.ts'
import { openBlobs } from '../../storage/embedded/blobs.ts'
import { createRecords } from '../../storage/records.ts'
import { SortedRows } from '../../storage/memory/rows.ts'
import type { Blobs, Key, Value } from '../../storage/shapes.ts'
import { framesOf } from '../frames.ts'
import type { ClusterNode } from '../node.ts'
import { derivedSecret } from '../records.ts'
import { ClusterStorage } from '../storage.ts'
import { nextVersion } from '../versions.ts'
import { LocalMembership } from './membership.ts'

export interface LocalNodeOptions {
  readonly config: Config
  readonly dataDir: string
  /** Path of the main process's socket. */
  readonly path: string
  readonly name: string
  readonly log: Log
  readonly onHealth?: (problem: string | undefined) => void
  readonly onError?: (error: unknown) => void
}

const MIN_FREE_BYTES = 64 * 1024 * 1024

export function processesPath(dataDir: string): string { return socketPath(dataDir, 'processes.sock') }

/** Joins the processes of this machine. */
export async function openLocalNode({ config, dataDir, path, name, log, onHealth, onError }: LocalNodeOptions): Promise<ClusterNode> {
  await using opened = new AsyncDisposableStack()
  const blobs = await openFiles(config, dataDir, opened)
  const listener = opened.use(await InternalListener.open(`unix:${socketPath(dataDir, `process-${name}.sock`)}`, log))
  const membership = opened.use(await LocalMembership.join({ path, name, address: listener.address, roles: [] }))
  const { records, history, queue } = membership
  const secrets = await secretsOf(membership)
  const storage = opened.use(new ClusterStorage({ membership, records, history, queue, blobs, framesOf, ...(onHealth && { onHealth }), ...(onError && { onError }) }))
  const closing = opened.move()
  log.info({ what: 'process_joined', inc: membership.self.inc })
  return { storage, units: storage, listener, ...secrets, [Symbol.asyncDispose]: () => closing.disposeAsync() }
}

async function openFiles(config: Config, dataDir: string, opened: AsyncDisposableStack): Promise<Blobs> {
  if (config.tidings.s3 === undefined) return openBlobs(join(dataDir, 'blobs'), MIN_FREE_BYTES, true)
  const s3 = await (await import('../../storage/s3/blobs.ts')).openS3(config.tidings.s3)
  opened.defer(() => { s3.close() })
  return s3
}

/** Secrets stay those that the directory has; one that it has not is made by all processes alike, and kept. */
async function secretsOf(membership: LocalMembership): Promise<Pick<ClusterNode, 'secret' | 'secretOf'> & Required<Pick<ClusterNode, 'secretOf'>>> {
  const { secret, rows } = await membership.secrets()
  const kept = new SortedRows()
  for (const { key, value } of rows) kept.put(key, value)
  let unit = ''
  const records = createRecords({
    get: (key) => kept.get(key),
    has: (key) => kept.has(key),
    keys: (start, end, limit, reverse) => kept.keys(start, end, limit, reverse),
    count: (start, end, limit) => kept.count(start, end, limit),
    delete: () => {},
    putNew: () => {},
    put: (key, value) => {
      kept.put(key, value)
      // When it fails this process ends, and another makes the same.
      membership.records.write([{ unit, key, value, version: nextVersion() }]).catch(() => {})
    },
  })
  return {
    secret,
    secretOf(table: string, key: Key): Value {
      const known = records.get(table, key) as Value | undefined
      if (known !== undefined) return known
      const made = derivedSecret(secret, table, key)
      unit = key[0] ?? ''
      records.put(table, key, made)
      return made
    },
  }
}
