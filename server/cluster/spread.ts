/**
 * Tables of a host that have a row for each account, room or file: no node keeps one whole. Their rows are spread over units that are there for this
 * alone, by a hash of their keys, and a range is put together from all of these.
 */
import { encodeKey } from '../storage/ordered.ts'
import type { Key, RangeOptions, Value } from '../storage/shapes.ts'

/** How rows lie in storage: key [unit, table, ...key]. */
export const SPREAD_TABLE = 'spread'
/** Never to be changed: it says where rows are. */
const UNITS = 16
const PAGE_LEAST = 16
const PAGE_MAX = 500

export interface SpreadRow {
  readonly key: Key
  readonly value: Value
}

/** Reads rows of one unit: of a table, those with this prefix. */
export type ReadSpread = (unit: string, table: string, prefix: Key, options: RangeOptions) => Promise<readonly SpreadRow[]>

/** The table that is not looked through: its keys are a constant and a secret, which is the unit. */
const BY_SECRET = 'upload-secrets'

/** The unit of a key, whose first part is the host. The space keeps it apart from all addresses. */
export function unitOfSpread(table: string, key: Key): string {
  if (table === BY_SECRET) return key[1] as string
  let hash = 0x811c9dc5
  for (const part of key.slice(1)) for (let at = 0; at < part.length; at++) hash = Math.imul(hash ^ part.charCodeAt(at), 0x01000193) >>> 0
  // The lower bits of such a hash alone are poor.
  return nameOf(((hash ^ (hash >>> 16)) >>> 0) % UNITS, key[0] as string)
}

function nameOf(number: number, host: string): string {
  return `${number} ${host}`
}

interface Source {
  readonly unit: string
  rows: readonly SpreadRow[]
  at: number
  after: Key | undefined
  isEnded: boolean
}

/** As `range` of records; the prefix has the host at least. */
export async function rangeOfSpread(read: ReadSpread, table: string, prefix: Key, options: RangeOptions = {}): Promise<readonly SpreadRow[]> {
  const { limit = Infinity, after, reverse = false } = options
  const page = Math.min(PAGE_MAX, Math.max(PAGE_LEAST, Math.ceil(limit / UNITS * 1.5)))
  const sources: Source[] = Array.from({ length: UNITS }, (_, number) => ({ unit: nameOf(number, prefix[0] as string), rows: [], at: 0, after, isEnded: false }))
  const fill = async (source: Source): Promise<void> => {
    source.rows = await read(source.unit, table, prefix, { limit: page, reverse, ...(source.after === undefined ? {} : { after: source.after }) })
    source.at = 0
    source.after = source.rows.at(-1)?.key ?? source.after
    source.isEnded = source.rows.length < page
  }
  const found: SpreadRow[] = []
  while (found.length < limit) {
    await Promise.all(sources.filter(({ rows, at, isEnded }) => at === rows.length && !isEnded).map(fill))
    // The next ones of all are known until one of the units has to be read again.
    for (;;) {
      let next: Source | undefined
      for (const source of sources) {
        if (source.at === source.rows.length) continue
        if (next === undefined || isBefore(source.rows[source.at] as SpreadRow, next.rows[next.at] as SpreadRow) !== reverse) next = source
      }
      if (next === undefined) return found
      found.push(next.rows[next.at++] as SpreadRow)
      if (found.length >= limit) return found
      if (next.at === next.rows.length && !next.isEnded) break
    }
  }
  return found
}

function isBefore(one: SpreadRow, other: SpreadRow): boolean {
  return encodeKey(one.key) < encodeKey(other.key)
}
