/**
 * Records in HBase: table `records`, a row for each unit: one byte of salt (one of 16), the unit. Family `r` has a column for each record,
 * its key as bytes; the timestamp of a cell is the version of the record.
 */
import { type Delete, filters, type HBaseClient, type Mutation, type Put, type Table } from '../../../lib/hbase/index.ts'
import { type RowStore, type UnitRow } from '../../cluster/shapes.ts'
import { refused } from './refused.ts'
import { after, connectHBase, ensureTable, type HBaseStorageOptions, saltOf, tableName } from './tables.ts'

const FAMILY = Buffer.from('r')
/** Few, since a list of units looks at each. */
const SALTS = 16

export async function openHBaseRows(options: HBaseStorageOptions): Promise<RowStore> {
  const client = connectHBase(options)
  try {
    const compression = options.compression === undefined ? {} : { compression: options.compression }
    await ensureTable(client, options, 'records', { r: { versions: 1, ...compression } }, SALTS)
  } catch (error) {
    client.close()
    throw error
  }
  return new HBaseRows(client, client.table(tableName(options, 'records')))
}

class HBaseRows implements RowStore {
  readonly #client: HBaseClient
  readonly #table: Table

  constructor(client: HBaseClient, table: Table) {
    this.#client = client
    this.#table = table
  }

  async load(unit: string): Promise<readonly { readonly key: string; readonly value: Buffer }[]> {
    const row = rowOf(unit)
    // A scan of one row: it comes in pieces when it is large.
    const [found] = await this.#table.rows({ start: row, stop: row, includeStop: true, limit: 1, columns: [{ family: FAMILY }] })
    return found?.cells.map(({ qualifier, value }) => ({ key: qualifier.toString('latin1'), value: Buffer.from(value) })) ?? []
  }

  async write(rows: readonly UnitRow[]): Promise<void> {
    const mutations: Mutation[] = []
    const puts = new Map<string, { row: Buffer; cells: Put['cells'][number][] }>()
    for (const { unit, key, value, version } of rows) {
      const qualifier = Buffer.from(key, 'latin1')
      if (value === undefined) {
        mutations.push({ row: rowOf(unit), delete: [{ family: FAMILY, qualifier }], upTo: version } satisfies Delete)
        continue
      }
      let put = puts.get(unit)
      if (!put) {
        puts.set(unit, put = { row: rowOf(unit), cells: [] })
        mutations.push(put)
      }
      put.cells.push({ family: FAMILY, qualifier, value, timestamp: version })
    }
    await refused(this.#table.mutate(mutations))
  }

  async units(prefix: string, afterUnit: string | undefined, limit: number): Promise<readonly string[]> {
    const lists = await Promise.all(Array.from({ length: SALTS }, async (_, i) => {
      const salt = Buffer.from([i * (256 / SALTS)])
      const first = Buffer.concat([salt, Buffer.from(prefix)])
      const last = afterUnit === undefined ? first : Buffer.concat([salt, Buffer.from(afterUnit)])
      const isAfter = Buffer.compare(last, first) >= 0 && afterUnit !== undefined
      const rows = await this.#table.rows({
        start: isAfter ? last : first, includeStart: !isAfter, stop: after(first), limit, columns: [{ family: FAMILY }], filter: filters.allOf(filters.firstKeyOnly(), filters.keysOnly()),
      })
      return rows.map(({ row }) => Buffer.from(row.subarray(1)))
    }))
    return lists.flat().sort((a, b) => Buffer.compare(a, b)).slice(0, limit).map((unit) => unit.toString())
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#client.close()
  }
}

function rowOf(unit: string): Buffer {
  const bytes = Buffer.from(`\0${unit}`)
  bytes[0] = saltOf(bytes.subarray(1)) & 0xf0
  return bytes
}
