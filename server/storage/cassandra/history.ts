/**
 * Everybody's history in Cassandra. Table `history`: a partition is what one owner has of some 12 days; in it each item is there twice: in the order
 * of ids (`other` is empty), and in the order of ids with one other party. Both rows, of one partition, are written at once. Table `buckets` says which
 * partitions an owner has, with all and with whom: pages go from one to the next, both ways.
 *
 * The write timestamp of each row is the version of the change. What Cassandra does with equal ones, a removal before a write, a larger value before
 * a smaller one, does not depend on what comes first either.
 */
import { type HistoryChange, type HistoryStore } from '../../cluster/shapes.ts'
import { firstIdOf } from '../../../lib/stanza/ids.ts'
import { boundsOf, type Range } from '../archive/range.ts'
import { type ArchivedItem, type ArchivePage, type ArchiveQuery } from '../shapes.ts'
import { type CassandraStorageOptions } from './options.ts'
import { checkKey, checkValue, type Row, Session, type Statement } from './session.ts'

/**
 * Characters of an id that say which bucket it is in: ids begin with the time in digits of five bits, so that three leave 30 bits of milliseconds. Ids of any make come in
 * the order of their buckets.
 */
const BUCKET_CHARACTERS = 3
/** Versions hold milliseconds times this. */
const VERSIONS_A_MS = 1024
/** Rows in one answer of Cassandra. */
const PAGE_ROWS = 1000
const COUNT_ROWS = 5000
const BUCKET_ROWS = 64
/** Buckets that are read at once where there is little in each. */
const BUCKETS_AT_ONCE = 8
const LOOK_UPS_AT_ONCE = 64
/** In Cassandra nothing may be kept longer with a limit of time. */
const TTL_MAX_SECONDS = 20 * 365 * 86_400
const DAY_SECONDS = 86_400
/** No owner has this name. */
const NOBODY = ' '
/** Files of a table that expires: each holds a time, and goes as a whole. */
const WINDOWS = 30

/** Creates the tables when they are missing. */
export async function openCassandraHistory(options: CassandraStorageOptions): Promise<HistoryStore> {
  const { keyspace, retentionSeconds } = options
  const session = await Session.open(options, {
    history: `(owner text, bucket text, other text, id text, party text, stanza blob, PRIMARY KEY ((owner, bucket), other, id))${retentionSeconds === undefined ? '' : compaction(retentionSeconds)}`,
    buckets: '(owner text, other text, bucket text, PRIMARY KEY (owner, other, bucket))',
  })
  const history = new CassandraHistory(session, keyspace, retentionSeconds)
  try {
    await history.tryRetention()
  } catch (error) {
    await session[Symbol.asyncDispose]()
    throw error
  }
  return history
}

function compaction(retentionSeconds: number): string {
  const hours = Math.max(1, Math.ceil(retentionSeconds / WINDOWS / 3600))
  return ` WITH compaction = {'class': 'TimeWindowCompactionStrategy', 'compaction_window_unit': 'HOURS', 'compaction_window_size': '${hours}'}`
}

class CassandraHistory implements HistoryStore {
  readonly #session: Session
  readonly #ttl: readonly number[]
  readonly #bucketTtl: readonly number[]
  readonly #cql

  constructor(session: Session, keyspace: string, retentionSeconds: number | undefined) {
    this.#session = session
    const ttl = retentionSeconds === undefined ? '' : ' AND TTL ?'
    this.#ttl = retentionSeconds === undefined ? [] : [Math.min(retentionSeconds, TTL_MAX_SECONDS)]
    // What an older version has written anew outlives the entry that a newer one wrote before it.
    this.#bucketTtl = retentionSeconds === undefined ? [] : [Math.min(retentionSeconds + DAY_SECONDS, TTL_MAX_SECONDS)]
    const history = `${keyspace}.history`
    const buckets = `${keyspace}.buckets`
    const of = 'WHERE owner = ? AND bucket = ? AND other = ?'
    this.#cql = {
      insert: `INSERT INTO ${history} (owner, bucket, other, id, party, stanza) VALUES (?, ?, '', ?, ?, ?) USING TIMESTAMP ?${ttl}`,
      insertWith: `INSERT INTO ${history} (owner, bucket, other, id, stanza) VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?${ttl}`,
      delete: `DELETE FROM ${history} USING TIMESTAMP ? ${of} AND id = ?`,
      deleteBelow: `DELETE FROM ${history} USING TIMESTAMP ? ${of} AND id < ?`,
      deleteBucket: `DELETE FROM ${history} USING TIMESTAMP ? WHERE owner = ? AND bucket = ?`,
      get: `SELECT id, party, stanza FROM ${history} ${of} AND id = ?`,
      party: `SELECT party FROM ${history} ${of} AND id = ?`,
      page: (column: string, hasHigh: boolean, isBackward: boolean) =>
        `SELECT ${column} FROM ${history} ${of} AND id >= ?${hasHigh ? ' AND id < ?' : ''} ORDER BY other ${isBackward ? 'DESC' : 'ASC'}, id ${isBackward ? 'DESC' : 'ASC'} LIMIT ?`,
      written: `SELECT id, WRITETIME(stanza) AS version FROM ${history} ${of} AND id < ?`,
      addBucket: `INSERT INTO ${buckets} (owner, other, bucket) VALUES (?, ?, ?) USING TIMESTAMP ?${ttl}`,
      buckets: (hasHigh: boolean, isBackward: boolean) =>
        `SELECT bucket FROM ${buckets} WHERE owner = ? AND other = ? AND bucket >= ?${hasHigh ? ' AND bucket <= ?' : ''} ORDER BY other ${isBackward ? 'DESC' : 'ASC'}, bucket ${isBackward ? 'DESC' : 'ASC'}`,
      bucketsOfOwner: `SELECT other, bucket FROM ${buckets} WHERE owner = ?`,
      allBuckets: `SELECT owner, other, bucket FROM ${buckets}`,
      removeBucket: `DELETE FROM ${buckets} USING TIMESTAMP ? WHERE owner = ? AND other = ? AND bucket = ?`,
    }
  }

  /** Rejects with Cassandra's reason when it does not take the retention: it may be too long. */
  async tryRetention(): Promise<void> {
    if (this.#bucketTtl.length === 0) return
    await this.#session.run({ query: this.#cql.addBucket, params: [NOBODY, '', '', 1, ...this.#bucketTtl] })
    await this.#session.run({ query: this.#cql.removeBucket, params: [1, NOBODY, '', ''] })
  }

  async write(changes: readonly HistoryChange[]): Promise<void> {
    const partitions = new Map<string, Statement[]>()
    const buckets = new Map<string, Map<string, BucketEntry>>()
    for (const { owner, id, with: other, bytes, version } of await this.#withParties(changes)) {
      const bucket = bucketOf(id)
      checkKey(owner)
      checkKey(id)
      checkKey(other)
      if (bytes !== undefined) checkValue(bytes)
      const key = `${bucket}\0${owner}`
      let statements = partitions.get(key)
      if (statements === undefined) partitions.set(key, statements = [])
      if (bytes === undefined) {
        statements.push({ query: this.#cql.delete, params: [version, owner, bucket, '', id] })
        if (other !== '') statements.push({ query: this.#cql.delete, params: [version, owner, bucket, other, id] })
        continue
      }
      statements.push({ query: this.#cql.insert, params: [owner, bucket, id, other, bytes, version, ...this.#ttl] })
      if (other !== '') statements.push({ query: this.#cql.insertWith, params: [owner, bucket, other, id, bytes, version, ...this.#ttl] })
      let entries = buckets.get(owner)
      if (entries === undefined) buckets.set(owner, entries = new Map())
      for (const with_ of other === '' ? [''] : ['', other]) {
        const known = entries.get(`${bucket}\0${with_}`)
        if (known === undefined || known.version < version) entries.set(`${bucket}\0${with_}`, { other: with_, bucket, version })
      }
    }
    const entries = [...buckets].map(([owner, list]) => [...list.values()].map(({ other, bucket, version }) => ({ query: this.#cql.addBucket, params: [owner, other, bucket, version, ...this.#bucketTtl] })))
    await this.#session.together([...partitions.values(), ...entries])
  }

  async query(owner: string, query: ArchiveQuery): Promise<ArchivePage> {
    const max = Math.max(0, Math.floor(query.max))
    const isBackward = query.direction === 'backward'
    if (query.ids) {
      const found = await this.#chosen(owner, query)
      const complete = found.length <= max
      return { items: complete ? found : isBackward ? found.slice(found.length - max) : found.slice(0, max), complete }
    }
    const rows = await this.#range(owner, query, query.with === undefined ? 'id, party, stanza' : 'id, stanza', isBackward, max + 1, PAGE_ROWS)
    const complete = rows.length <= max
    const items = (complete ? rows : rows.slice(0, max)).map((row) => itemOf(row, query.with))
    return { items: isBackward ? items.reverse() : items, complete }
  }

  async count(owner: string, query: Range, limit: number): Promise<number> {
    if (query.ids) return Math.min(limit, (await this.#chosen(owner, query)).length)
    return limit <= 0 ? 0 : (await this.#range(owner, query, 'id', false, limit, COUNT_ROWS)).length
  }

  async get(owner: string, id: string): Promise<ArchivedItem | undefined> {
    const [row] = await this.#session.rows(this.#cql.get, [owner, bucketOf(id), '', id], 1)
    return row && itemOf(row, undefined)
  }

  async purge(owner: string, before: number | undefined, version: number): Promise<void> {
    const high = before === undefined ? undefined : firstIdOf(before)
    const buckets = new Map<string, string[]>()
    for await (const rows of this.#session.pages(this.#cql.bucketsOfOwner, [owner], PAGE_ROWS)) {
      for (const row of rows) addTo(buckets, row['bucket'] as string, row['other'] as string)
    }
    // All with lower versions.
    for (const [bucket, others] of buckets) await this.#removeBelow(owner, bucket, others, high, version - 1)
  }

  async expire(before: number): Promise<number> {
    const high = firstIdOf(before)
    let removed = 0
    let owner: string | undefined
    let buckets = new Map<string, string[]>()
    const expireOwner = async (): Promise<void> => {
      for (const [bucket, others] of buckets) removed += await this.#expireBucket(owner as string, bucket, others, high)
      buckets = new Map()
    }
    for await (const rows of this.#session.pages(this.#cql.allBuckets, [], PAGE_ROWS)) {
      for (const row of rows) {
        if (row['owner'] !== owner) {
          await expireOwner()
          owner = row['owner'] as string
        }
        if ((row['bucket'] as string) <= bucketOf(high)) addTo(buckets, row['bucket'] as string, row['other'] as string)
      }
    }
    await expireOwner()
    return removed
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#session[Symbol.asyncDispose]()
  }

  /** Rows of the range, in the direction, `limit` at most. */
  async #range(owner: string, query: Range, columns: string, isBackward: boolean, limit: number, pageRows: number): Promise<Row[]> {
    const { low, high } = boundsOf(query)
    const found: Row[] = []
    if ((high !== undefined && low >= high) || query.with === '') return found
    const other = query.with ?? ''
    const cql = this.#cql.page(columns, high !== undefined, isBackward)
    let atOnce = 1
    let waiting: string[] = []
    const read = async (): Promise<void> => {
      const left = limit - found.length
      const pages = await Promise.all(waiting.map(async (bucket) => {
        return await this.#session.rows(cql, [owner, bucket, other, low, ...(high === undefined ? [] : [high]), left], Math.min(left, pageRows))
      }))
      for (const page of pages) for (const row of page) if (found.length < limit) found.push(row)
      waiting = []
      atOnce = Math.min(atOnce * 2, BUCKETS_AT_ONCE)
    }
    const bounds = high === undefined ? [bucketOf(low)] : [bucketOf(low), bucketOf(high)]
    for await (const rows of this.#session.pages(this.#cql.buckets(high !== undefined, isBackward), [owner, other, ...bounds], BUCKET_ROWS)) {
      for (const row of rows) {
        waiting.push(row['bucket'] as string)
        if (waiting.length === atOnce) await read()
        if (found.length === limit) return found
      }
    }
    if (waiting.length > 0) await read()
    return found
  }

  async #chosen(owner: string, query: Range): Promise<ArchivedItem[]> {
    const { low, high } = boundsOf(query)
    const ids = [...new Set(query.ids)].sort().filter((id) => id >= low && (high === undefined || id < high))
    const items: ArchivedItem[] = []
    for (let at = 0; at < ids.length; at += LOOK_UPS_AT_ONCE) {
      for (const item of await Promise.all(ids.slice(at, at + LOOK_UPS_AT_ONCE).map((id) => this.get(owner, id)))) {
        if (item && (query.with === undefined || item.with === query.with)) items.push(item)
      }
    }
    return items
  }

  /** Removals with the other party, as far as there is one: of some it is not said. */
  async #withParties(changes: readonly HistoryChange[]): Promise<readonly HistoryChange[]> {
    const unknown = changes.filter(({ bytes, with: other }) => bytes === undefined && other === '')
    if (unknown.length === 0) return changes
    const parties = new Map<string, string>()
    for (let at = 0; at < unknown.length; at += LOOK_UPS_AT_ONCE) {
      await Promise.all(unknown.slice(at, at + LOOK_UPS_AT_ONCE).map(async ({ owner, id }) => {
        const [row] = await this.#session.rows(this.#cql.party, [owner, bucketOf(id), '', id], 1)
        if (row) parties.set(`${id}\0${owner}`, row['party'] as string)
      }))
    }
    for (const { owner, id, with: other } of changes) if (other !== '') parties.set(`${id}\0${owner}`, other)
    return changes.map((change) => change.with === '' && change.bytes === undefined ? { ...change, with: parties.get(`${change.id}\0${change.owner}`) ?? '' } : change)
  }

  async #expireBucket(owner: string, bucket: string, others: readonly string[], high: string): Promise<number> {
    let count = 0
    let version = Date.now() * VERSIONS_A_MS
    for await (const rows of this.#session.pages(this.#cql.written, [owner, bucket, '', high], COUNT_ROWS)) {
      count += rows.length
      for (const row of rows) version = Math.max(version, Number(row['version']))
    }
    if (count > 0 || bucket < bucketOf(high)) await this.#removeBelow(owner, bucket, others, high, version)
    return count
  }

  /** Removes what an owner has in a bucket of ids below `high`, or all, that is not newer than `version`. `others`: with whom there may be something, and the empty one. */
  async #removeBelow(owner: string, bucket: string, others: readonly string[], high: string | undefined, version: number): Promise<void> {
    if (high !== undefined && bucket > bucketOf(high)) return
    if (high !== undefined && bucket === bucketOf(high)) {
      await this.#session.together([others.map((other) => ({ query: this.#cql.deleteBelow, params: [version, owner, bucket, other, high] }))])
      return
    }
    // The entries last: while they are there, this can be done again.
    await this.#session.run({ query: this.#cql.deleteBucket, params: [version, owner, bucket] })
    await this.#session.together([others.map((other) => ({ query: this.#cql.removeBucket, params: [version, owner, other, bucket] }))])
  }
}

interface BucketEntry {
  readonly other: string
  readonly bucket: string
  readonly version: number
}

function bucketOf(id: string): string {
  return id.slice(0, BUCKET_CHARACTERS)
}

function addTo(buckets: Map<string, string[]>, bucket: string, other: string): void {
  const others = buckets.get(bucket)
  if (others === undefined) buckets.set(bucket, [other])
  else others.push(other)
}

/** Of a row that is for one other party this is known. */
function itemOf(row: Row, other: string | undefined): ArchivedItem {
  return { id: row['id'] as string, with: other ?? row['party'] as string, bytes: row['stanza'] as Buffer }
}
