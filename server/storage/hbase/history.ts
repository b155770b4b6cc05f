/**
 * Everybody's history in HBase. Table `archive`: row = one byte of salt of the owner, owner, 0x00, id; the one column's name is the other
 * party, its value the stanza. Table `conversations`: row = the same salt, owner, 0x00, other party, 0x00, id; value the stanza. Ids sort by
 * time as they are, so that a page is one scan of one of the tables.
 *
 * The timestamp of a cell is the version of the change; in tables that expire (family `t`, by their TTL) it is the time that the version
 * holds, in milliseconds, as HBase wants it then: of changes of an item within one millisecond the last one to arrive stays.
 */
import { type Cell, type Delete, filters, type HBaseClient, type Mutation, type Put, type Row, type ScanOptions, type Table } from '../../../lib/hbase/index.ts'
import { firstIdOf } from '../../../lib/stanza/ids.ts'
import { type HistoryChange, type HistoryStore } from '../../cluster/shapes.ts'
import { type ArchivedItem, type ArchivePage, type ArchiveQuery } from '../shapes.ts'
import { refused } from './refused.ts'
import { after, connectHBase, ensureTable, type HBaseStorageOptions, saltOf, tableName } from './tables.ts'

const SALTS = 256
/** Versions hold milliseconds times this. */
const VERSIONS_A_MS = 1024
const EXACT = 'v'
const EXPIRING = 't'
const NO_COLUMN = Buffer.alloc(0)
/** In tables that expire: how long a removal is remembered, so that what was written before it and comes late stays removed. */
const REMOVALS_KEPT_MS = 7 * 86_400_000
/** Items removed at once. */
const REMOVE_ROWS = 1000
const COUNT_ROWS = 5000

type Range = Omit<ArchiveQuery, 'max' | 'direction'>

/** Creates the tables when they are missing. */
export async function openHBaseHistory(options: HBaseStorageOptions): Promise<HistoryStore> {
  const client = connectHBase(options)
  try {
    const { compression, retentionSeconds } = options
    const wanted = retentionSeconds === undefined ? EXACT : EXPIRING
    const families = {
      [wanted]: {
        versions: 1, ...(compression === undefined ? {} : { compression }),
        ...(retentionSeconds === undefined ? {} : { ttlSeconds: retentionSeconds, configuration: { 'hbase.hstore.time.to.purge.deletes': String(REMOVALS_KEPT_MS) } }),
      },
    }
    const [family = wanted] = await Promise.all(['archive', 'conversations'].map(async (name) => {
      await ensureTable(client, options, name, families, SALTS)
      return Object.keys(await client.admin.describe(tableName(options, name))).find((each) => each === EXACT || each === EXPIRING)
    }))
    if (family !== wanted && wanted === EXPIRING) throw new Error(`the table ${tableName(options, 'archive')} was created to keep history for ever: it has no retention`)
    return new HBaseHistory(client, client.table(tableName(options, 'archive')), client.table(tableName(options, 'conversations')), family)
  } catch (error) {
    client.close()
    throw error
  }
}

class HBaseHistory implements HistoryStore {
  readonly #client: HBaseClient
  readonly #archive: Table
  readonly #conversations: Table
  readonly #family: Buffer
  readonly #divisor: number

  constructor(client: HBaseClient, archive: Table, conversations: Table, family: string) {
    this.#client = client
    this.#archive = archive
    this.#conversations = conversations
    this.#family = Buffer.from(family)
    this.#divisor = family === EXPIRING ? VERSIONS_A_MS : 1
  }

  async write(changes: readonly HistoryChange[]): Promise<void> {
    const archivePuts: Mutation[] = []
    const archiveDeletes: Delete[] = []
    const conversations: Mutation[] = []
    const settled = await this.#settled(changes)
    const keys = new Keys(settled)
    for (const change of settled) {
      const timestamp = Math.floor(change.version / this.#divisor)
      const prefix = keys.prefix(change.owner)
      const row = keys.row(prefix, change.id)
      const other = keys.text(change.with)
      const conversation = other.length === 0 ? undefined : keys.conversation(prefix, other, change.id)
      if (change.bytes === undefined) {
        const gone = [{ family: this.#family }]
        archiveDeletes.push({ row, delete: gone, upTo: timestamp })
        if (conversation) conversations.push({ row: conversation, delete: gone, upTo: timestamp })
        continue
      }
      archivePuts.push(this.#put(row, other, change.bytes, timestamp))
      if (conversation) conversations.push(this.#put(conversation, NO_COLUMN, change.bytes, timestamp))
    }
    // What is removed from `archive` first could not be found any more in `conversations`, were this process to die in between.
    await refused(Promise.all([this.#archive.mutate(archivePuts), this.#conversations.mutate(conversations)]).then(() => undefined))
    if (archiveDeletes.length > 0) await refused(this.#archive.mutate(archiveDeletes))
  }

  async query(owner: string, query: ArchiveQuery): Promise<ArchivePage> {
    const max = Math.max(0, Math.floor(query.max))
    const isBackward = query.direction === 'backward'
    if (query.ids) {
      const found = await this.#chosen(owner, query)
      const complete = found.length <= max
      return { items: complete ? found : isBackward ? found.slice(found.length - max) : found.slice(0, max), complete }
    }
    const range = rangeOf(owner, query)
    if (!range) return { items: [], complete: true }
    const table = query.with === undefined ? this.#archive : this.#conversations
    const { low, high } = range
    const rows = await table.rows({
      ...(isBackward ? { start: high, includeStart: false, stop: low, includeStop: true, reversed: true } : { start: low, stop: high }), limit: max + 1, batchRows: max + 1,
    })
    const complete = rows.length <= max
    if (!complete) rows.pop()
    const items = rows.map((row) => itemOf(row, query.with))
    if (isBackward) items.reverse()
    return { items, complete }
  }

  async count(owner: string, query: Range, limit: number): Promise<number> {
    if (query.ids) return Math.min(limit, (await this.#chosen(owner, query)).length)
    const range = rangeOf(owner, query)
    if (!range || limit <= 0) return 0
    const scanner = (query.with === undefined ? this.#archive : this.#conversations).scanner({
      start: range.low, stop: range.high, limit, batchRows: COUNT_ROWS, filter: filters.allOf(filters.firstKeyOnly(), filters.keysOnly()),
    })
    let count = 0
    for (let rows = await scanner.next(); rows.length > 0; rows = await scanner.next()) count += rows.length
    return count
  }

  async get(owner: string, id: string): Promise<ArchivedItem | undefined> {
    const row = await this.#archive.get(archiveRow(owner, id))
    return row && itemOf(row, undefined)
  }

  async purge(owner: string, before: number | undefined, version: number): Promise<void> {
    // All with lower versions.
    const upTo = this.#divisor === 1 ? version - 1 : Math.floor(version / this.#divisor) - 1
    await this.#remove(owner, before === undefined ? undefined : firstIdOf(before), upTo)
  }

  async expire(before: number): Promise<number> {
    const high = firstIdOf(before)
    let removed = 0
    const keys = { filter: filters.allOf(filters.firstKeyOnly(), filters.keysOnly()), cacheBlocks: false }
    for (let from: Buffer = NO_COLUMN; ;) {
      const [next] = await this.#archive.rows({ ...keys, start: from, limit: 1 })
      if (!next) return removed
      const end = next.row.indexOf(0, 1)
      const owner = next.row.toString('utf8', 1, end)
      removed += await this.#remove(owner, high, undefined)
      from = after(prefixOf(owner))
      if (from.length === 0) return removed
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#client.close()
  }

  #put(row: Buffer, qualifier: Buffer, value: Buffer, timestamp: number): Put {
    return { row, cells: [{ family: this.#family, qualifier, value, timestamp }] }
  }

  /** Of changes of one item the newest; removals with the other party, as far as there is one. */
  async #settled(changes: readonly HistoryChange[]): Promise<readonly HistoryChange[]> {
    if (changes.length === 1 && (changes[0] as HistoryChange).bytes !== undefined) return changes
    const newest = new Map<string, HistoryChange>()
    let isPlain = true
    for (const change of changes) {
      const key = `${change.owner}\0${change.id}`
      const known = newest.get(key)
      if (change.bytes === undefined && change.with === '') isPlain = false
      if (!known) {
        newest.set(key, change)
        continue
      }
      const [older, newer] = known.version <= change.version ? [known, change] : [change, known]
      newest.set(key, newer.with === '' && older.with !== '' ? { ...newer, with: older.with } : newer)
    }
    if (isPlain) return newest.size === changes.length ? changes : [...newest.values()]
    const settled = [...newest.values()]
    const unknown = [...settled.entries()].filter(([, { bytes, with: other }]) => bytes === undefined && other === '')
    const found = await this.#archive.getMany(unknown.map(([, { owner, id }]) => archiveRow(owner, id)))
    for (const [i, [at, change]] of unknown.entries()) {
      const row = found[i]
      if (row) settled[at] = { ...change, with: itemOf(row, undefined).with }
    }
    return settled
  }

  async #chosen(owner: string, query: Range): Promise<ArchivedItem[]> {
    const { low, high } = idsOf(query)
    const ids = [...new Set(query.ids)].sort().filter((id) => id >= low && (high === undefined || id < high))
    const rows = await this.#archive.getMany(ids.map((id) => archiveRow(owner, id)))
    return rows.filter((row) => row !== undefined).map((row) => itemOf(row, undefined)).filter((item) => query.with === undefined || item.with === query.with)
  }

  /** Removes an owner's items with ids below `high`; those with timestamps up to `upTo`, or as they are. Answers how many. */
  async #remove(owner: string, high: string | undefined, upTo: number | undefined): Promise<number> {
    const prefix = prefixOf(owner)
    const stop = high === undefined ? after(prefix) : Buffer.concat([prefix, Buffer.from(high)])
    const options: ScanOptions = { start: prefix, stop, filter: filters.keysOnly(), batchRows: REMOVE_ROWS, cacheBlocks: false }
    const scanner = this.#archive.scanner(upTo === undefined ? options : { ...options, timeRange: { to: upTo + 1 } })
    let removed = 0
    try {
      for (let rows = await scanner.next(); rows.length > 0; rows = await scanner.next()) {
        const gone = rows.map((row) => ({ id: row.row.toString('latin1', prefix.length), cell: newestOf(row.cells) }))
        const deleted = (row: Buffer, { timestamp }: Cell): Delete => ({ row, delete: [{ family: this.#family }], upTo: upTo ?? timestamp })
        await this.#conversations.mutate(gone.map(({ id, cell }) => deleted(conversationRow(prefix, cell.qualifier.toString(), id), cell)))
        await this.#archive.mutate(gone.map(({ id, cell }) => deleted(Buffer.concat([prefix, Buffer.from(id, 'latin1')]), cell)))
        removed += rows.length
      }
    } finally {
      scanner.close()
    }
    return removed
  }
}

/** Keys of a batch, side by side in one buffer: a buffer for each costs more than what is in it. */
class Keys {
  readonly #bytes: Buffer
  #at = 0
  readonly #prefixes = new Map<string, Buffer>()

  constructor(changes: readonly HistoryChange[]) {
    let bytes = 0
    // Of each: a prefix, the other party, two rows. A character has at most 3 bytes in UTF-8.
    for (const { owner, id, with: other } of changes) bytes += 3 * (3 * owner.length + 2) + 2 * id.length + 2 * 3 * other.length + 1
    this.#bytes = Buffer.allocUnsafe(bytes)
  }

  prefix(owner: string): Buffer {
    const known = this.#prefixes.get(owner)
    if (known) return known
    const from = this.#at++
    const end = this.#at + this.#bytes.write(owner, this.#at)
    const prefix = this.#take(from, end + 1)
    prefix[0] = saltOf(this.#bytes.subarray(from + 1, end))
    prefix[end - from] = 0
    this.#prefixes.set(owner, prefix)
    return prefix
  }

  text(text: string): Buffer {
    return this.#take(this.#at, this.#at + this.#bytes.write(text, this.#at))
  }

  row(prefix: Buffer, id: string): Buffer {
    const from = this.#at
    this.#bytes.set(prefix, from)
    return this.#take(from, from + prefix.length + this.#bytes.write(id, from + prefix.length, 'latin1'))
  }

  conversation(prefix: Buffer, other: Buffer, id: string): Buffer {
    const from = this.#at
    this.#bytes.set(prefix, from)
    this.#bytes.set(other, from + prefix.length)
    const end = from + prefix.length + other.length
    this.#bytes[end] = 0
    return this.#take(from, end + 1 + this.#bytes.write(id, end + 1, 'latin1'))
  }

  #take(from: number, end: number): Buffer {
    this.#at = end
    return this.#bytes.subarray(from, end)
  }
}

/** One byte of salt, the owner, 0x00. */
function prefixOf(owner: string): Buffer {
  const prefix = Buffer.from(`\0${owner}\0`)
  prefix[0] = saltOf(prefix.subarray(1, -1))
  return prefix
}

function archiveRow(owner: string, id: string): Buffer {
  return Buffer.concat([prefixOf(owner), Buffer.from(id, 'latin1')])
}

function conversationRow(prefix: Buffer, other: string, id: string): Buffer {
  return Buffer.concat([prefix, Buffer.from(`${other}\0${id}`)])
}

function newestOf(cells: readonly Cell[]): Cell {
  let newest = cells[0] as Cell
  for (const cell of cells) if (cell.timestamp > newest.timestamp) newest = cell
  return newest
}

/** Of a row of `conversations` the other party is known. */
function itemOf({ row, cells }: Row, other: string | undefined): ArchivedItem {
  const { qualifier, value } = newestOf(cells)
  return { id: row.toString('latin1', row.lastIndexOf(0) + 1), with: other ?? qualifier.toString(), bytes: value }
}

/** `low` inclusive, `high` exclusive. */
function idsOf({ start, end, afterId, beforeId }: Range): { readonly low: string; readonly high: string | undefined } {
  let low = start !== undefined && start > 0 ? firstIdOf(start) : ''
  let high = end === undefined ? undefined : end < 0 ? '' : firstIdOf(end + 1)
  if (afterId !== undefined && `${afterId}\0` > low) low = `${afterId}\0`
  if (beforeId !== undefined && (high === undefined || beforeId < high)) high = beforeId
  return { low, high }
}

/** The rows of a range; undefined when it can have none. */
function rangeOf(owner: string, query: Range): { readonly low: Buffer; readonly high: Buffer } | undefined {
  const { low, high } = idsOf(query)
  if (high !== undefined && low >= high) return undefined
  const prefix = query.with === undefined ? prefixOf(owner) : conversationRow(prefixOf(owner), query.with, '')
  return { low: Buffer.concat([prefix, Buffer.from(low, 'latin1')]), high: high === undefined ? after(prefix) : Buffer.concat([prefix, Buffer.from(high, 'latin1')]) }
}
