/** What the drivers of HBase have in common: names, salts, and tables that are created when missing. */
import { HBaseClient, RemoteError, type TableOptions } from '../../../lib/hbase/index.ts'

export interface HBaseStorageOptions {
  /** Addresses, `host:port`, of masters or region servers. */
  readonly masters: readonly string[]
  /** Whom the servers believe to be asking. */
  readonly user?: string
  /** Where the tables are: `default` unless given; created when missing. */
  readonly namespace?: string
  /** In front of the tables' names. */
  readonly prefix?: string
  /** Regions that a new table begins with, 1 to 256. */
  readonly regions?: number
  /** As the servers know it: `NONE`, `GZ`, `SNAPPY`, `ZSTD`, … For new tables. */
  readonly compression?: string
  /** How long history is kept, seconds; for ever when absent. For new tables. */
  readonly retentionSeconds?: number
  /** For a call of a store, with all attempts, ms. */
  readonly deadlineMs?: number
}

const REGIONS = 8
const DEADLINE_MS = 30_000

export function connectHBase({ masters, user, deadlineMs }: HBaseStorageOptions): HBaseClient {
  return new HBaseClient({ servers: masters, user: user ?? 'tidings', deadlineMs: deadlineMs ?? DEADLINE_MS })
}

export function tableName({ namespace, prefix }: HBaseStorageOptions, name: string): string {
  // Of the default namespace HBase itself says no name.
  return `${namespace === undefined || namespace === 'default' ? '' : `${namespace}:`}${prefix ?? ''}${name}`
}

/** Several processes may do that at once. */
export async function ensureTable(client: HBaseClient, options: HBaseStorageOptions, name: string, families: TableOptions['families'], salts: number): Promise<void> {
  const table = tableName(options, name)
  if (await client.admin.tableExists(table)) return
  const { namespace } = options
  if (namespace !== undefined && !(await client.admin.namespaces()).includes(namespace)) await unlessThere('NamespaceExistException', client.admin.createNamespace(namespace))
  await unlessThere('TableExistsException', client.admin.createTable(table, { families, splits: splitsOf(options.regions ?? REGIONS, salts) }))
  // Whoever was faster may not be done.
  while (!(await client.admin.isEnabled(table))) await new Promise((resolve) => { setTimeout(resolve, 100) })
}

async function unlessThere(exception: string, done: Promise<void>): Promise<void> {
  try {
    await done
  } catch (error) {
    if (!(error instanceof RemoteError && error.is(exception))) throw error
  }
}

/** The first bytes at which regions begin, so that each has as many of the salts. */
export function splitsOf(regions: number, salts: number): Buffer[] {
  const count = Math.max(1, Math.min(regions, salts))
  return Array.from({ length: count - 1 }, (_, i) => Buffer.from([Math.ceil((i + 1) * salts / count) * (256 / salts)]))
}

/** A number of the bytes, the same everywhere (FNV-1a, 32 bits, folded). */
export function saltOf(bytes: Uint8Array): number {
  let hash = 0x811c9dc5
  for (let i = 0; i < bytes.length; i++) hash = Math.imul(hash ^ (bytes[i] as number), 0x01000193)
  hash ^= hash >>> 16
  return (hash ^ hash >>> 8) & 0xff
}

/** The first key above all that begin with this one. */
export function after(prefix: Buffer): Buffer {
  for (let at = prefix.length - 1; at >= 0; at--) {
    if (prefix[at] === 0xff) continue
    const next = Buffer.from(prefix.subarray(0, at + 1))
    next[at] = (next[at] as number) + 1
    return next
  }
  return Buffer.alloc(0)
}
