/**
 * Records in Cassandra: table `records`, a partition for each unit, a row for each record; its write timestamp is the version of the record.
 *
 * Lists of units come from table `units`, which has them in order, in 16 partitions. A unit is put there after its records; it is taken out again by
 * who lists and finds none of its records, with the timestamp that it was put there with, so that what is put there newly meanwhile stays.
 */
import { type RowStore, type UnitRow } from '../../cluster/shapes.ts'
import { type CassandraStorageOptions } from './options.ts'
import { checkKey, checkValue, Session, type Statement } from './session.ts'

/** Few, since a list of units looks at each. */
const SHARDS = 16
const PAGE_ROWS = 1000
/** Units that are looked for at once, whether they have records. */
const LOOK_UPS_AT_ONCE = 32
/** Above all that a name may have. */
const LAST = '\u{10ffff}'

export async function openCassandraRows(options: CassandraStorageOptions): Promise<RowStore> {
  const session = await Session.open(options, {
    records: '(unit text, key blob, value blob, PRIMARY KEY (unit, key))',
    units: '(shard int, unit text, version bigint, PRIMARY KEY (shard, unit))',
  })
  return new CassandraRows(session, options.keyspace)
}

interface Listed {
  readonly shard: number
  readonly unit: string
  readonly version: number
}

class CassandraRows implements RowStore {
  readonly #session: Session
  readonly #load: string
  readonly #insert: string
  readonly #delete: string
  readonly #first: string
  readonly #enlist: string
  readonly #strike: string
  readonly #listFrom: string
  readonly #listAfter: string

  constructor(session: Session, keyspace: string) {
    this.#session = session
    this.#load = `SELECT key, value FROM ${keyspace}.records WHERE unit = ?`
    this.#insert = `INSERT INTO ${keyspace}.records (unit, key, value) VALUES (?, ?, ?) USING TIMESTAMP ?`
    this.#delete = `DELETE FROM ${keyspace}.records USING TIMESTAMP ? WHERE unit = ? AND key = ?`
    this.#first = `SELECT key FROM ${keyspace}.records WHERE unit = ? LIMIT 1`
    this.#enlist = `INSERT INTO ${keyspace}.units (shard, unit, version) VALUES (?, ?, ?) USING TIMESTAMP ?`
    this.#strike = `DELETE FROM ${keyspace}.units USING TIMESTAMP ? WHERE shard = ? AND unit = ?`
    this.#listFrom = `SELECT unit, version FROM ${keyspace}.units WHERE shard = ? AND unit >= ? AND unit < ? LIMIT ?`
    this.#listAfter = `SELECT unit, version FROM ${keyspace}.units WHERE shard = ? AND unit > ? AND unit < ? LIMIT ?`
  }

  async load(unit: string): Promise<readonly { readonly key: string; readonly value: Buffer }[]> {
    const rows = await this.#session.rows(this.#load, [unit], PAGE_ROWS)
    return rows.map((row) => ({ key: (row['key'] as Buffer).toString('latin1'), value: row['value'] as Buffer }))
  }

  async write(rows: readonly UnitRow[]): Promise<void> {
    const partitions = new Map<string, Statement[]>()
    const versions = new Map<string, number>()
    for (const { unit, key, value, version } of rows) {
      checkKey(unit)
      checkKey(key)
      if (value !== undefined) checkValue(value)
      let statements = partitions.get(unit)
      if (statements === undefined) partitions.set(unit, statements = [])
      const bytes = Buffer.from(key, 'latin1')
      statements.push(value === undefined ? { query: this.#delete, params: [version, unit, bytes] } : { query: this.#insert, params: [unit, bytes, value, version] })
      if (value !== undefined) versions.set(unit, Math.max(version, versions.get(unit) ?? 0))
    }
    await this.#session.together(partitions.values())
    const shards = new Map<number, Statement[]>()
    for (const [unit, version] of versions) {
      const shard = shardOf(unit)
      const statement = { query: this.#enlist, params: [shard, unit, version, version] }
      const list = shards.get(shard)
      if (list === undefined) shards.set(shard, [statement])
      else list.push(statement)
    }
    await this.#session.together(shards.values())
  }

  async units(prefix: string, after: string | undefined, limit: number): Promise<readonly string[]> {
    const found: string[] = []
    let from = after
    while (found.length < limit) {
      const listed = await this.#listed(prefix, from, limit - found.length)
      const last = listed.at(-1)
      if (last === undefined) break
      for (let at = 0; at < listed.length; at += LOOK_UPS_AT_ONCE) {
        const some = listed.slice(at, at + LOOK_UPS_AT_ONCE)
        const have = await Promise.all(some.map(async ({ unit }) => (await this.#session.rows(this.#first, [unit], 1)).length > 0))
        for (const [i, { unit }] of some.entries()) if (have[i] === true) found.push(unit)
        const gone = some.filter((_, i) => have[i] === false)
        await this.#session.together(gone.map(({ shard, unit, version }) => [{ query: this.#strike, params: [version, shard, unit] }]))
      }
      from = last.unit
    }
    return found
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#session[Symbol.asyncDispose]()
  }

  async #listed(prefix: string, after: string | undefined, limit: number): Promise<readonly Listed[]> {
    const isAfter = after !== undefined && compare(after, prefix) >= 0
    const lists = await Promise.all(Array.from({ length: SHARDS }, async (_, shard) => {
      const rows = await this.#session.rows(isAfter ? this.#listAfter : this.#listFrom, [shard, isAfter ? after : prefix, `${prefix}${LAST}`, limit], PAGE_ROWS)
      return rows.map((row) => ({ shard, unit: row['unit'] as string, version: Number(row['version']) }))
    }))
    return lists.flat().sort((a, b) => compare(a.unit, b.unit)).slice(0, limit)
  }
}

/** In the order of UTF-8. */
function compare(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b))
}

/** A number of the name, the same everywhere (FNV-1a, 32 bits, folded). */
function shardOf(unit: string): number {
  let hash = 0x811c9dc5
  for (const byte of Buffer.from(unit)) hash = Math.imul(hash ^ byte, 0x01000193)
  hash ^= hash >>> 16
  return (hash ^ hash >>> 8) & SHARDS - 1
}
