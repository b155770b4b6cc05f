/**
 * Group commit over LMDB. Writes of a turn of the event loop gather in the open group. A group is one LMDB transaction,
 * written and synced by LMDB's own thread, while the next group gathers: the busier the server, the larger the groups.
 *
 * Reads see what is written and not committed yet: `#pending` lies over the database.
 *
 * Lazy rows are rows whose durability somebody else sees to, with a log. They are read through `lazy`, and written together
 * when enough of them have come, because a page of the database that many rows of one transaction fall into is written once.
 */
import { type RootDatabase } from 'lmdb'
import { type OrderedStore } from '../ordered.ts'

interface Entry {
  readonly key: string
  value: Buffer | undefined
  readonly group: Group
}

export interface Row {
  readonly key: string
  readonly value: Buffer
}

/** Rows that are to be seen and not in the database yet. They are new: the database has none of their keys. */
export interface LazyRows {
  readonly bytes: number
  get(key: string): Buffer | undefined
  between(start: string, end: string): Row[]
}

interface Group {
  readonly entries: Entry[]
  /** Rows beside the entries, written before them. */
  readonly rows: { readonly rows: readonly Row[]; readonly committed: () => void }[]
  readonly callbacks: (() => void)[]
  bytes: number
}

export interface GroupOptions {
  /** Called when a commit failed, and with undefined when it went through after all. */
  readonly onProblem: (problem: string | undefined) => void
  readonly onCallbackError: (error: unknown) => void
  /** The least time between the starts of two commits. One after a pause comes at once. */
  readonly commitEveryMs: number
}

const RETRY_FIRST_MS = 50
const RETRY_MAX_MS = 2000

export class GroupedStore implements OrderedStore {
  readonly #db: RootDatabase<Buffer, string>
  readonly #options: GroupOptions
  readonly #pending = new Map<string, Entry>()
  /** The same entries by the beginnings of their keys, so that a range looks at few. */
  readonly #buckets = new Map<string, Set<Entry>>()
  lazy: LazyRows | undefined
  #open: Group = newGroup()
  #committing: Group | undefined
  #scheduled = false
  #touched = false
  #lastStart = -Infinity
  /** Bytes and writes of the group being committed and the open one. */
  #pendingBytes = 0
  #commitMs = 0
  #closing: AbortController = new AbortController()
  /** Adds rows to the group that is about to be committed. */
  beforeSeal: () => void = () => {}

  constructor(db: RootDatabase<Buffer, string>, options: GroupOptions) {
    this.#db = db
    this.#options = options
  }

  /** Whether anything waits for its commit. */
  get dirty(): boolean { return this.#scheduled || this.#committing !== undefined }
  get pendingWrites(): number { return this.#open.entries.length + (this.#committing?.entries.length ?? 0) }
  get pendingBytes(): number { return this.#pendingBytes + (this.lazy?.bytes ?? 0) }
  /** Time that commits take, smoothed. */
  get commitMs(): number { return this.#commitMs }

  get(key: string): Buffer | undefined {
    const entry = this.#pending.get(key)
    return entry ? entry.value : this.lazy?.get(key) ?? this.#db.getBinary(key)
  }

  has(key: string): boolean {
    const entry = this.#pending.get(key)
    return entry ? entry.value !== undefined : this.lazy?.get(key) !== undefined || this.#db.doesExist(key)
  }

  isPending(key: string): boolean { return this.#pending.has(key) }

  put(key: string, value: Buffer): void { this.#write(key, value) }
  delete(key: string): void { this.#write(key, undefined) }

  keys(start: string, end: string, limit: number, reverse: boolean): string[] {
    if (start >= end || limit <= 0) return []
    const pending = this.#pendingBetween(start, end)
    // Pending removals may hide as many keys of the database.
    let removals = 0
    for (const entry of pending) if (!entry.value) removals++
    const stored = this.#storedKeys(start, end, limit + removals, reverse)
    if (pending.length === 0) return stored
    pending.sort((a, b) => (a.key < b.key === reverse ? 1 : -1))
    const merged: string[] = []
    let p = 0
    for (let s = 0; merged.length < limit && (s < stored.length || p < pending.length);) {
      const key = stored[s]
      const entry = pending[p]
      if (entry && (key === undefined || entry.key === key || entry.key < key !== reverse)) {
        if (entry.key === key) s++
        if (entry.value) merged.push(entry.key)
        p++
      } else {
        merged.push(key as string)
        s++
      }
    }
    return merged
  }

  count(start: string, end: string, limit: number): number {
    if (start >= end) return 0
    const pending = this.#pendingBetween(start, end)
    // The database counts ten times as fast without a limit as it hands out keys, but looks at all of them.
    const slack = limit + pending.length
    let count = Number.isFinite(slack) ? this.#storedKeys(start, end, slack, false).length : this.#db.getKeysCount({ start, end })
    for (const { key, value } of pending) {
      const stored = this.#db.doesExist(key)
      if (value && !stored) count++
      else if (!value && stored) count--
    }
    return Math.min(limit, count)
  }

  /** Adds rows to the open group that are read through `lazy` until `committed` is called. */
  putRows(rows: readonly Row[], committed: () => void): void {
    this.#open.rows.push({ rows, committed })
    this.#schedule()
  }

  /** Calls back when the group that is open now is on disk. */
  afterCommit(callback: () => void): void {
    this.#open.callbacks.push(callback)
    this.#schedule()
  }

  committed(): Promise<void> {
    return new Promise((resolve) => { this.afterCommit(resolve) })
  }

  /** Makes sure that a commit comes, for rows that `beforeSeal` adds. */
  touch(): void {
    this.#touched = true
    this.#schedule()
  }

  /** The same from within `beforeSeal`: another commit after this one. */
  touchNext(): void { this.#touched = true }

  /** Waits for what is written; gives up after `waitMs` when the disk takes nothing. */
  async close(waitMs: number): Promise<boolean> {
    let timer: NodeJS.Timeout | undefined
    const done = await Promise.race([
      this.committed().then(() => true),
      new Promise<false>((resolve) => { timer = setTimeout(() => { resolve(false) }, waitMs) }),
    ])
    clearTimeout(timer)
    this.#closing.abort()
    return done
  }

  #storedKeys(start: string, end: string, limit: number, reverse: boolean): string[] {
    const range = reverse ? { start: end, end: start, exclusiveStart: true, inclusiveEnd: true, reverse: true } : { start, end }
    const found: string[] = []
    for (const key of this.#db.getKeys(Number.isFinite(limit) ? { ...range, limit } : range)) found.push(key)
    return found
  }

  #pendingBetween(start: string, end: string): { readonly key: string; readonly value: Buffer | undefined }[] {
    const found: { readonly key: string; readonly value: Buffer | undefined }[] = []
    if (this.lazy) for (const row of this.lazy.between(start, end)) if (!this.#pending.has(row.key)) found.push(row)
    const bucket = this.#buckets.get(bucketOf(start))
    if (bucket) for (const entry of bucket) if (entry.key >= start && entry.key < end) found.push(entry)
    return found
  }

  #write(key: string, value: Buffer | undefined): void {
    const group = this.#open
    const bytes = key.length + (value?.length ?? 0)
    const entry = this.#pending.get(key)
    if (entry && entry.group === group) entry.value = value
    else {
      if (entry) this.#remove(entry)
      const added: Entry = { key, value, group }
      this.#add(added)
      group.entries.push(added)
    }
    group.bytes += bytes
    this.#pendingBytes += bytes
    this.#schedule()
  }

  #add(entry: Entry): void {
    this.#pending.set(entry.key, entry)
    const name = bucketOf(entry.key)
    const bucket = this.#buckets.get(name)
    if (bucket) bucket.add(entry)
    else this.#buckets.set(name, new Set([entry]))
  }

  #remove(entry: Entry): void {
    this.#pending.delete(entry.key)
    const name = bucketOf(entry.key)
    const bucket = this.#buckets.get(name)
    if (!bucket) return
    bucket.delete(entry)
    if (bucket.size === 0) this.#buckets.delete(name)
  }

  #schedule(): void {
    if (this.#scheduled || this.#committing) return
    this.#scheduled = true
    // At the end of a turn, so that a turn's writes are never divided.
    const waitMs = this.#lastStart + this.#options.commitEveryMs - performance.now()
    if (waitMs < 0.5) setImmediate(this.#begin)
    else setTimeout(setImmediate, waitMs, this.#begin)
  }

  readonly #begin = (): void => { void this.#commit() }

  async #commit(): Promise<void> {
    this.#touched = false
    this.beforeSeal()
    const group = this.#open
    this.#committing = group
    this.#scheduled = false
    this.#open = newGroup()
    const startedAt = performance.now()
    this.#lastStart = startedAt
    if (group.entries.length > 0 || group.rows.length > 0) {
      for (let delayMs = RETRY_FIRST_MS; !(await this.#transact(group)); delayMs = Math.min(RETRY_MAX_MS, delayMs * 2)) {
        await sleep(delayMs, this.#closing.signal)
        if (this.#closing.signal.aborted) return
      }
      this.#commitMs += (performance.now() - startedAt - this.#commitMs) / 8
      // The read transaction must be younger than the commit before the overlay goes.
      this.#db.resetReadTxn()
      for (const entry of group.entries) if (this.#pending.get(entry.key) === entry) this.#remove(entry)
      this.#pendingBytes -= group.bytes
      for (const { committed } of group.rows) committed()
    }
    this.#committing = undefined
    for (const callback of group.callbacks) {
      try {
        callback()
      } catch (error) {
        this.#options.onCallbackError(error)
      }
    }
    if (this.#open.entries.length > 0 || this.#open.rows.length > 0 || this.#open.callbacks.length > 0 || this.#touched) this.#schedule()
  }

  /** Writes a group as one transaction; false when it failed, and then nothing of it is written. */
  async #transact(group: Group): Promise<boolean> {
    const db = this.#db
    try {
      await db.batch(() => {
        for (const { rows } of group.rows) for (const { key, value } of rows) hear(db.put(key, value))
        for (const { key, value } of group.entries) hear(value ? db.put(key, value) : db.remove(key))
      })
      this.#options.onProblem(undefined)
      return true
    } catch (error) {
      this.#options.onProblem(`writing to the database failed: ${await reasonOf(error)}`)
      return false
    }
  }
}

/** How many parts of a key name its bucket, by the key's first letter; a range never spans two buckets. */
const BUCKET_PARTS: Readonly<Record<string, number>> = { a: 1, c: 2, o: 1, r: 1 }

function bucketOf(key: string): string {
  let end = 0
  for (let parts = BUCKET_PARTS[key[0] as string] ?? 0; parts > 0; parts--) end = key.indexOf('\0', end) + 1
  return end === 0 ? key.slice(0, 1) : key.slice(0, end)
}

function newGroup(): Group {
  return { entries: [], rows: [], callbacks: [], bytes: 0 }
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
    const reason = await Promise.race([cause.then(ignore, (reason: unknown) => reason), sleep(10)])
    if (reason instanceof Error) return reason.message
  }
  return error instanceof Error ? error.message : String(error)
}

function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms)
    signal?.addEventListener('abort', () => { clearTimeout(timer); resolve() }, { once: true })
  })
}
