/**
 * What lies otherwise in a data directory of several processes than in that of one: resumable streams, which are rows of their owners; and tables
 * of hosts, which no process keeps whole (cluster/records.ts). A directory is made over when it is opened the other way; a process that is killed on
 * the way is followed by one that begins again.
 */
import { decodePart, encodePart, isShortened, KEY_END } from '../../storage/ordered.ts'
import { type Embedded } from '../../storage/embedded/embedded.ts'
import { type Key, type StoredStream } from '../../storage/shapes.ts'
import { HOSTED, HOSTED_TABLE, hostedKey, LISTED, listedKey, SPREAD } from '../records.ts'
import { SPREAD_TABLE, unitOfSpread } from '../spread.ts'
import { UnitStreams } from '../streams.ts'

/** Set in a directory that is, or may be, that of several processes. */
const SEVERAL = 'f'
const ROWS_AT_ONCE = 500
/** Kinds of rows that say that something is on its way (hub.ts, frames in cluster/storage.ts). */
const UNDERWAY = ['l', 'i', 'd', 'v']

export function isOfSeveral(storage: Embedded): boolean { return storage.rows.has(SEVERAL) }

/** Makes a directory one of several processes. To be called before anything else is done with it. */
export async function forSeveral(storage: Embedded): Promise<void> {
  if (storage.rows.get(SEVERAL)?.toString() === 'whole') return
  const { records, rows } = storage
  rows.put(SEVERAL, Buffer.from('part'))
  const streams = new UnitStreams(rows)
  for (const stream of await storage.streams.load()) {
    copy(stream, streams)
    storage.streams.close(stream.id)
    const seen = Buffer.allocUnsafe(8)
    seen.writeDoubleBE(stream.seenAt)
    rows.put(`k${encodePart(stream.owner)}`, seen)
  }
  for (const table of SPREAD) {
    await each(storage, table, (key) => {
      const unit = unitOfSpread(table, key)
      records.put(SPREAD_TABLE, [unit, table, ...key], records.get(table, key) as never)
      records.delete(table, key)
    })
  }
  for (const table of HOSTED) {
    await each(storage, table, (key) => {
      records.put(HOSTED_TABLE, hostedKey(table, key), records.get(table, key) as never)
      records.delete(table, key)
    })
  }
  for (const [table, listed] of LISTED) {
    await each(storage, table, (key) => { records.put(SPREAD_TABLE, [unitOfSpread(table, listedKey(key)), table, ...listedKey(key)], listed(records.get(table, key) as never)) })
  }
  rows.put(SEVERAL, Buffer.from('whole'))
  await storage.committed()
}

/**
 * Makes a directory one of a single process. `finish` is called when something is on its way between processes that are gone: it brings that where it belongs.
 */
export async function forOne(storage: Embedded, finish: () => Promise<void>): Promise<void> {
  if (!isOfSeveral(storage)) return
  const { records, rows } = storage
  if (UNDERWAY.some((kind) => rows.keys(kind, kind + KEY_END, 1, false).length > 0)) await finish()
  rows.put(SEVERAL, Buffer.from('part'))
  const streams = new UnitStreams(rows)
  for (const owner of ownersOf(storage, 'q')) {
    const prefix = `q${owner}`
    const found = rows.keys(prefix, prefix + KEY_END, Infinity, false).map((key) => ({ key, value: rows.get(key) as Buffer }))
    for (const stream of streams.restore(await nameOf(storage, owner), found, 0)) copy(stream, storage.streams)
    for (const { key } of found) rows.delete(key)
  }
  await each(storage, SPREAD_TABLE, (spread) => {
    const [, table = '', ...key] = spread
    if (!LISTED.has(table)) records.put(table, key, records.get(SPREAD_TABLE, spread) as never)
    records.delete(SPREAD_TABLE, spread)
  })
  await each(storage, HOSTED_TABLE, (hosted) => {
    const [, table = '', ...key] = hosted
    records.put(table, key, records.get(HOSTED_TABLE, hosted) as never)
    records.delete(HOSTED_TABLE, hosted)
  })
  // What tails have is in the archive.
  for (const kind of ['g', 'k', 'u']) for (const key of rows.keys(kind, kind + KEY_END, Infinity, false)) rows.delete(key)
  rows.delete(SEVERAL)
  await storage.committed()
}

function copy(stream: StoredStream, to: { readonly open: UnitStreams['open']; readonly handled: UnitStreams['handled']; readonly acknowledged: UnitStreams['acknowledged']; readonly push: UnitStreams['push'] }): void {
  const { id, owner, resource, state, handled, acknowledged, unacknowledged } = stream
  to.open(id, owner, resource, state)
  to.handled(id, handled)
  to.acknowledged(id, acknowledged)
  for (const { seq, bytes } of unacknowledged) to.push(id, seq, bytes)
}

/** The account of a part of a key; one that is shortened is looked for among all. */
async function nameOf({ records }: Embedded, part: string): Promise<string> {
  if (!isShortened(part)) return decodePart(part.slice(0, -1))
  for (const { key: [host = '', local = ''] } of await records.range('accounts', [])) if (encodePart(`${local}@${host}`) === part) return `${local}@${host}`
  return ''
}

/** The first parts of keys, each with its terminator. */
function* ownersOf({ rows }: Embedded, kind: string): Generator<string, undefined> {
  for (let start = kind; ;) {
    const [key] = rows.keys(start, kind + KEY_END, 1, false)
    const end = key?.indexOf('\0', 1) ?? -1
    if (key === undefined || end === -1) return undefined
    yield key.slice(1, end + 1)
    start = `${key.slice(0, end)}\x01`
  }
}

/** Does something with each row of a table; commits now and then. */
async function each(storage: Embedded, table: string, run: (key: Key) => void): Promise<void> {
  for (let after: Key | undefined; ;) {
    const page = await storage.records.range(table, [], { limit: ROWS_AT_ONCE, ...(after === undefined ? {} : { after }) })
    for (const { key } of page) run(key)
    after = page.at(-1)?.key
    if (page.length < ROWS_AT_ONCE) return
    await storage.committed()
  }
}
