/** Which ids a query of an archive is for. */
import { firstIdOf } from '../../../lib/stanza/ids.ts'
import type { ArchiveQuery } from '../shapes.ts'

export type Range = Omit<ArchiveQuery, 'max' | 'direction'>

/** `low` inclusive, `high` exclusive. */
export interface Bounds {
  readonly low: string
  readonly high: string | undefined
}

export function boundsOf(query: Range): Bounds {
  let low = query.start !== undefined && query.start > 0 ? firstIdOf(query.start) : ''
  let high = query.end === undefined ? undefined : query.end < 0 ? '' : firstIdOf(query.end + 1)
  if (query.afterId !== undefined && `${query.afterId}\0` > low) low = `${query.afterId}\0`
  if (query.beforeId !== undefined && (high === undefined || query.beforeId < high)) high = query.beforeId
  return { low, high }
}
