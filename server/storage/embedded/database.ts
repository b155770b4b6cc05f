/** LMDB as the database under a log. */
import { type RootDatabase } from 'lmdb'
import { type Database, type Row } from '../groups/database.ts'
import { type LogPosition } from '../groups/log.ts'

/** Where the database notes how far the log has gone into it. */
export const POSITION_KEY = '!'
const REASON_WAIT_MS = 10

export class LmdbDatabase implements Database {
  readonly isInMemory = false
  readonly #db: RootDatabase<Buffer, string>

  constructor(db: RootDatabase<Buffer, string>) { this.#db = db }

  get(key: string): Buffer | undefined { return this.#db.getBinary(key) }
  has(key: string): boolean { return this.#db.doesExist(key) }

  keys(start: string, end: string, limit: number, reverse: boolean): string[] {
    const range = reverse ? { start: end, end: start, exclusiveStart: true, inclusiveEnd: true, reverse: true } : { start, end }
    const found: string[] = []
    for (const key of this.#db.getKeys(Number.isFinite(limit) ? { ...range, limit } : range)) found.push(key)
    return found
  }

  count(start: string, end: string): number { return this.#db.getKeysCount({ start, end }) }

  /** In one transaction. */
  async write(rows: readonly Row[], position?: LogPosition): Promise<void> {
    const db = this.#db
    try {
      await db.batch(() => {
        for (const { key, value } of rows) hear(value ? db.put(key, value) : db.remove(key))
        if (position) hear(db.put(POSITION_KEY, encodePosition(position)))
      })
    } catch (error) {
      throw new Error(await reasonOf(error), { cause: error })
    }
  }

  refresh(): void { this.#db.resetReadTxn() }
}

export function encodePosition(position: LogPosition): Buffer {
  return Buffer.from(JSON.stringify(position))
}

export function decodePosition(row: Buffer): LogPosition {
  return JSON.parse(row.toString()) as LogPosition
}

function ignore(): void {}

/** A failed commit rejects the promises of its writes too, which are otherwise of no use. */
function hear(written: unknown): void {
  if (written instanceof Promise) written.catch(ignore)
}

/** LMDB's reason comes as a promise beside the error, and not always. */
async function reasonOf(error: unknown): Promise<string> {
  const cause = (error as { commitError?: Promise<unknown> }).commitError
  if (cause) {
    const wait = new Promise((resolve) => { setTimeout(resolve, REASON_WAIT_MS) })
    const reason = await Promise.race([cause.then(ignore, (reason: unknown) => reason), wait])
    if (reason instanceof Error) return reason.message
  }
  return error instanceof Error ? error.message : String(error)
}
