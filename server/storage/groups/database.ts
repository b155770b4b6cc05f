/** What lies under the log of a grouped store: rows, read synchronously and written in batches. */
import { type LogPosition } from './log.ts'

/** A row to be written to the database, or removed from it. */
export interface Row {
  readonly key: string
  readonly value: Buffer | undefined
}

export interface Database {
  get(key: string): Buffer | undefined
  has(key: string): boolean
  /** Keys from `start` (inclusive) to `end` (exclusive): the first `limit`, or the last, in falling order, when `reverse`. */
  keys(start: string, end: string, limit: number, reverse: boolean): string[]
  /** How many keys lie between. */
  count(start: string, end: string): number
  /** Whether all of it is in memory, so that looking whether a key is there costs little. */
  readonly isInMemory: boolean
  /**
   * Writes rows, and notes how far the log has gone into the database when that is said. Rejects when it failed; then either nothing of it is
   * written, or writing it again makes it right. Reads show the rows once it has resolved and `refresh` was called.
   */
  write(rows: readonly Row[], position?: LogPosition): Promise<void>
  /** What is read from now on shows everything that is written. */
  refresh(): void
}
