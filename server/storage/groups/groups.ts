/**
 * Group commit. Writes of a turn of the event loop gather in the open group. A group is one record of the write-ahead log,
 * written and synced while the next one gathers: the busier the server, the larger the groups.
 *
 * What is logged stays in memory, and reads see it there, until enough has come. Then the log turns over to a new segment, and
 * in the background everything of the old one goes into the database, many rows in a batch; what was overwritten
 * or removed meanwhile never reaches it. The last batch notes the segment, and the log drops it.
 */
import { continueIdsAfter, timeOfLastId } from '../../../lib/stanza/ids.ts'
import { type OrderedStore } from '../ordered.ts'
import { type Database, type Row } from './database.ts'
import { HEADER_BYTES, type Log, type LogPosition, type LogRecord, RECORD_ALIGN } from './log.ts'
import { type Entry, Overlay } from './overlay.ts'
import { RecordReader, RecordWriter } from './record.ts'

/** A part of the storage whose changes are in the log in its own words. */
export interface Participant {
  /** Marks its sections of log records; see `Sections`. */
  readonly section: number
  /** A group is about to be written: adds what is not in it yet. */
  seal(writer: SectionWriter): void
  /** The log turns over: what has come so far belongs to the old segment. */
  turnOver(): void
  /**
   * Rows that say what the old segment says. Those up to an `undefined` belong together: the database has all of them or none.
   * Read over several turns, while nothing else is written to the database, and once more after a failure.
   */
  rows(): Iterable<Row | undefined>
  /** Those rows are in the database. */
  applied(): void
  /** Resolves when the log may forget the old segment, as far as this part is concerned; rejects only when the store closes. */
  settled?(): Promise<void>
  /** Does again what a section says, also when the database shows it, or later ones, already. */
  replay(section: RecordReader): void
}

/** Adds a section to the group that is open. */
export interface SectionWriter {
  section(participant: Participant, write: (writer: RecordWriter) => void): void
}

/** What may fail. */
type What = 'log' | 'segment' | 'database'

interface Group {
  readonly number: number
  readonly writes: Entry[]
  readonly writer: RecordWriter
  readonly callbacks: (() => void)[]
}

export interface GroupOptions {
  /**
   * Called when writing failed, and with undefined when it went through after all. `isBehind`: only the database does not take anything, so that what is
   * committed is safe in the log, and grows there.
   */
  readonly onProblem: (problem: string | undefined, isBehind: boolean) => void
  readonly onCallbackError: (error: unknown) => void
  /** The least time between the starts of two commits, unless the second is large. One after a pause comes at once. */
  readonly commitEveryMs: number
  /** The log turns over when a segment has so many bytes, or is so old. */
  readonly segmentBytes: number
  readonly segmentMs: number
  /** Rows written to the database in one transaction. */
  readonly transactionRows?: number
}

/** Beginnings of sections that the store itself writes. */
export const PUT = 1
export const DELETE = 2
/** Smaller numbers are the store's own. */
export const FIRST_SECTION = 8

/** A group of so many writes does not wait for others. */
const LARGE_GROUP = 64
const TRANSACTION_ROWS = 1000
const TRANSACTION_BYTES = 2 * 1024 * 1024
/** Work in the background that lasts longer lets others run first, ms. */
const PACE_MS = 2
const RETRY_FIRST_MS = 50
const RETRY_MAX_MS = 2000

export class GroupedStore implements OrderedStore, SectionWriter {
  readonly #db: Database
  readonly #log: Log
  readonly #options: GroupOptions
  readonly #participants: Participant[] = []
  /** What the present segment has written: over `#old`. */
  #young = new Overlay()
  /** What the segment before it has written: over the database, until that has it. */
  #old = new Overlay()
  #segmentAt = performance.now()
  #oldBytes = 0
  #applying: Promise<void> | undefined
  #turnOverDue = false
  #preparing: Promise<void> | undefined
  #isPrepared = false

  #writers = [new RecordWriter(HEADER_BYTES), new RecordWriter(HEADER_BYTES)] as const
  #open: Group
  #scheduled: NodeJS.Timeout | NodeJS.Immediate | undefined
  #isImmediate = false
  #committing: Group | undefined
  #touched = false
  #lastStart = -Infinity
  #commitMs = 0
  readonly #problems = new Map<What, string>()
  readonly #closing = new AbortController()

  constructor(db: Database, log: Log, options: GroupOptions) {
    this.#db = db
    this.#log = log
    this.#options = options
    this.#open = { number: 1, writes: [], writer: this.#writers[0], callbacks: [] }
  }

  addParticipant(participant: Participant): void { this.#participants.push(participant) }

  /** Does again what the records say, and has it written to the database. To be called once, before anything else is written. */
  replay(records: readonly LogRecord[]): void {
    for (const { payload, lastIdMs } of records) {
      this.#replayRecord(new RecordReader(payload))
      continueIdsAfter(lastIdMs)
      this.#oldBytes += payload.length
    }
    if (records.length > 0) this.turnOver()
  }

  /** Whether anything waits for its commit. */
  get dirty(): boolean { return this.#touched || this.#committing !== undefined || !isEmpty(this.#open) }
  get pendingWrites(): number { return this.#open.writes.length + (this.#committing?.writes.length ?? 0) }
  /** Bytes that are in memory until the database has them. */
  get pendingBytes(): number { return this.#log.bytes + this.#oldBytes + this.#open.writer.size }
  /** Time that commits take, smoothed. */
  get commitMs(): number { return this.#commitMs }

  get(key: string): Buffer | undefined {
    const entry = this.#entryOf(key)
    return entry ? entry.value : this.#db.get(key)
  }

  has(key: string): boolean {
    const entry = this.#entryOf(key)
    return entry ? entry.value !== undefined : this.#db.has(key)
  }

  put(key: string, value: Buffer): void { this.#write(key, value, false) }
  putNew(key: string, value: Buffer): void { this.#write(key, value, true) }
  delete(key: string): void { this.#write(key, undefined, false) }

  keys(start: string, end: string, limit: number, reverse: boolean): string[] {
    if (start >= end || limit <= 0) return []
    const pending = this.#pendingBetween(start, end)
    // Pending removals may hide as many keys of the database.
    let removals = 0
    for (const entry of pending) if (!entry.value) removals++
    const stored = this.#db.keys(start, end, limit + removals, reverse)
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
    let count = Number.isFinite(slack) ? this.#db.keys(start, end, slack, false).length : this.#db.count(start, end)
    for (const { key, value } of pending) {
      const stored = this.#db.has(key)
      if (value && !stored) count++
      else if (!value && stored) count--
    }
    return Math.min(limit, count)
  }

  section(participant: Participant, write: (writer: RecordWriter) => void): void {
    const { writer } = this.#open
    writer.uint8(participant.section)
    const place = writer.reserve()
    write(writer)
    writer.fill(place)
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

  /** Makes sure that a commit comes, for what participants add when it is sealed. */
  touch(): void {
    this.#touched = true
    this.#schedule()
  }

  /** Has the log turn over, soon. */
  turnOver(): void {
    this.#turnOverDue = true
    this.#schedule()
  }

  /** Called now and then: turns over a segment that has become old. */
  tick(): void {
    if (this.#log.bytes > 0 && performance.now() - this.#segmentAt > this.#options.segmentMs) this.turnOver()
  }

  /**
   * Waits until the database has everything; gives up after `waitMs`, and then the log keeps the rest for the next start.
   * Resolves when nothing is being written any more, so that the directory is free for another process.
   */
  async close(waitMs: number): Promise<boolean> {
    let timer: NodeJS.Timeout | undefined
    const done = await Promise.race([
      this.drain().then(() => true),
      new Promise<false>((resolve) => { timer = setTimeout(() => { resolve(false) }, waitMs) }),
    ])
    clearTimeout(timer)
    this.#closing.abort()
    await this.#applying
    await this.#preparing
    await this.#log.close()
    return done
  }

  /** Nothing is written any more, and no callback called: the log has been taken away from this store. */
  abandon(): void {
    this.#closing.abort()
    clearTimeout(this.#scheduled as NodeJS.Timeout | undefined)
    clearImmediate(this.#scheduled as NodeJS.Immediate | undefined)
  }

  /** Resolves when the database has everything, and the log nothing. Never when the store closes first. */
  async drain(): Promise<void> {
    do {
      await this.committed()
      await this.#preparing
      await this.#applying
      if (this.pendingBytes > 0) this.turnOver()
    } while (!this.#closing.signal.aborted && this.pendingBytes > 0)
  }

  #pendingBetween(start: string, end: string): Entry[] {
    const found: Entry[] = []
    this.#young.between(start, end, found)
    this.#old.between(start, end, found, this.#young)
    return found
  }

  #entryOf(key: string): Entry | undefined { return this.#young.get(key) ?? this.#old.get(key) }

  #write(key: string, value: Buffer | undefined, isNew: boolean): void {
    const group = this.#open
    const entry = this.#young.get(key)
    if (!entry) {
      if (this.#db.isInMemory) {
        isNew = !this.#old.get(key) && !this.#db.has(key)
        if (isNew && value === undefined) return
      }
      const added: Entry = { key, value, group: group.number, isLogged: false, isNew, isGone: false }
      this.#young.add(added)
      group.writes.push(added)
    } else {
      const isInGroup = entry.group === group.number
      entry.value = value
      if (value === undefined && entry.isNew) {
        entry.isGone = true
        this.#young.remove(entry)
        // When the log holds it, it must hold that it is gone.
        if (entry.isLogged && !isInGroup) group.writes.push(entry)
      } else if (!isInGroup) {
        entry.group = group.number
        group.writes.push(entry)
      }
    }
    this.#schedule()
  }

  #schedule(): void {
    if (this.#committing || this.#closing.signal.aborted) return
    const isLarge = this.#open.callbacks.length >= LARGE_GROUP
    if (this.#scheduled) {
      if (!isLarge || this.#isImmediate) return
      clearTimeout(this.#scheduled as NodeJS.Timeout)
    }
    // At the end of a turn, so that a turn's writes are never divided.
    const waitMs = isLarge ? 0 : this.#lastStart + this.#options.commitEveryMs - performance.now()
    this.#isImmediate = waitMs < 0.5
    this.#scheduled = this.#isImmediate ? setImmediate(this.#begin) : setTimeout(() => {
      this.#isImmediate = true
      this.#scheduled = setImmediate(this.#begin)
    }, waitMs)
  }

  readonly #begin = (): void => { void this.#commit() }

  async #commit(): Promise<void> {
    this.#scheduled = undefined
    if (this.#closing.signal.aborted) return
    const group = this.#open
    this.#lastStart = performance.now()
    this.#committing = group
    for (const participant of this.#participants) participant.seal(this)
    this.#touched = false
    this.#seal(group)
    const writer = this.#writers[group.number % 2] as RecordWriter
    this.#open = { number: group.number + 1, writes: [], writer, callbacks: [] }
    const isTurning = this.#isPrepared && !this.#applying
    if (isTurning) {
      this.#old = this.#young
      this.#young = new Overlay()
      for (const participant of this.#participants) participant.turnOver()
    }
    if (!group.writer.isEmpty) {
      if (!await this.#persist(() => this.#append(group))) return
      this.#commitMs += (performance.now() - this.#lastStart - this.#commitMs) / 8
    }
    group.writer.reset()
    if (isTurning && !this.#closing.signal.aborted) this.#turn()
    this.#committing = undefined
    for (const callback of group.callbacks) {
      try {
        callback()
      } catch (error) {
        this.#options.onCallbackError(error)
      }
    }
    this.#prepareIfDue()
    if (this.#touched || !isEmpty(this.#open) || this.#isPrepared && !this.#applying) this.#schedule()
  }

  #seal({ writes, writer }: Group): void {
    for (const entry of writes) {
      const { key, value } = entry
      if (entry.isGone && !entry.isLogged) continue
      entry.isLogged = true
      writer.uint8(value ? PUT : DELETE)
      const place = writer.reserve()
      writer.latin1(key)
      if (value) writer.bytes(value)
      writer.fill(place)
    }
  }

  /** Tries until it succeeds; false when the store closed first. */
  async #persist(run: () => Promise<boolean>): Promise<boolean> {
    const { signal } = this.#closing
    for (let delayMs = RETRY_FIRST_MS; !await run(); delayMs = Math.min(RETRY_MAX_MS, delayMs * 2)) {
      if (!signal.aborted) await sleep(delayMs, signal)
      if (signal.aborted) return false
    }
    return true
  }

  async #append({ writer }: Group): Promise<boolean> {
    try {
      await this.#log.append(writer.finish(RECORD_ALIGN), writer.size, timeOfLastId())
      this.#report('log', undefined)
      return true
    } catch (error) {
      this.#report('log', `writing to the log failed: ${(error as Error).message}`)
      return false
    }
  }

  /** Begins to make the next segment when the present one is full. Commits go on meanwhile. */
  #prepareIfDue(): void {
    if (this.#isPrepared || this.#preparing || this.#applying || this.#closing.signal.aborted) return
    if (!this.#turnOverDue && this.#log.bytes < this.#options.segmentBytes) return
    this.#preparing = this.#persist(() => this.#prepare()).then((isPrepared) => {
      this.#preparing = undefined
      this.#isPrepared = isPrepared
      if (isPrepared) this.#schedule()
    })
  }

  async #prepare(): Promise<boolean> {
    try {
      await this.#log.prepare()
      this.#report('segment', undefined)
      return true
    } catch (error) {
      this.#report('segment', `beginning a new segment of the log failed: ${(error as Error).message}`)
      return false
    }
  }

  #turn(): void {
    this.#isPrepared = false
    this.#turnOverDue = false
    this.#segmentAt = performance.now()
    this.#oldBytes += this.#log.bytes
    const { segment, record } = this.#log.turnOver()
    this.#applying = this.#persist(() => this.#apply({ segment, record, lastIdMs: timeOfLastId() })).then((isApplied) => {
      this.#applying = undefined
      if (isApplied) this.#prepareIfDue()
    })
  }

  /** Writes the content of the old segment to the database. False when that failed; then it can be done again. */
  async #apply(position: LogPosition): Promise<boolean> {
    try {
      this.#db.refresh()
      const pacer = new Pacer()
      let rows: Row[] = []
      let bytes = 0
      for (const row of this.#rows()) {
        if (row) {
          rows.push(row)
          bytes += row.value?.length ?? 0
        } else if (rows.length >= (this.#options.transactionRows ?? TRANSACTION_ROWS) || bytes >= TRANSACTION_BYTES) {
          if (!await this.#persist(() => this.#transact(rows))) return false
          rows = []
          bytes = 0
        }
        if (pacer.isDue) await pacer.pause()
      }
      if (!await this.#persist(() => this.#transact(rows, position))) return false
      // Before what lies over the database goes.
      this.#db.refresh()
      for (const participant of this.#participants) participant.applied()
      this.#old = new Overlay()
      this.#oldBytes = 0
    } catch (error) {
      this.#report('database', `writing to the database failed: ${(error as Error).message}`)
      return false
    }
    try {
      for (const participant of this.#participants) await participant.settled?.()
    } catch {
      return false
    }
    // What cannot be dropped now is dropped with the next segment.
    await this.#log.drop(position.segment).catch(ignore)
    return true
  }

  *#rows(): Generator<Row | undefined, undefined> {
    for (const participant of this.#participants) yield* participant.rows()
    for (const entry of this.#old.entries()) {
      yield entry
      yield undefined
    }
    return undefined
  }

  /** Writes rows as one batch; false when it failed, and then it can be done again. */
  async #transact(rows: readonly Row[], position?: LogPosition): Promise<boolean> {
    // Participants may speak of what is newer than the old segment: it must be logged first.
    if (!await this.#committedOrClosing()) return false
    try {
      await this.#db.write(rows, position)
      this.#report('database', undefined)
      return true
    } catch (error) {
      this.#report('database', `writing to the database failed: ${(error as Error).message}`)
      return false
    }
  }

  /** As `committed`; false when the store closes first. */
  #committedOrClosing(): Promise<boolean> {
    const { signal } = this.#closing
    return new Promise((resolve) => {
      const stop = (): void => { resolve(false) }
      if (signal.aborted) stop()
      signal.addEventListener('abort', stop, { once: true })
      this.afterCommit(() => {
        signal.removeEventListener('abort', stop)
        resolve(true)
      })
    })
  }

  #replayRecord(reader: RecordReader): void {
    while (!reader.isAtEnd) {
      const kind = reader.uint8()
      const section = new RecordReader(reader.bytes())
      if (kind === PUT || kind === DELETE) {
        const key = section.latin1()
        this.#replayWrite(key, kind === PUT ? Buffer.from(section.bytes()) : undefined)
        continue
      }
      const participant = this.#participants.find((one) => one.section === kind)
      if (!participant) throw new RangeError(`the log has a section of kind ${kind}, which this version does not know`)
      participant.replay(section)
    }
  }

  #replayWrite(key: string, value: Buffer | undefined): void {
    const known = this.#young.get(key)
    if (known) known.value = value
    else this.#young.add({ key, value, group: 0, isLogged: true, isNew: false, isGone: false })
  }

  #report(what: What, problem: string | undefined): void {
    if (this.#problems.get(what) === problem) return
    if (problem === undefined) this.#problems.delete(what)
    else this.#problems.set(what, problem)
    const database = this.#problems.get('database')
    const worse = this.#problems.get('log') ?? this.#problems.get('segment')
    this.#options.onProblem(worse ?? database, worse === undefined && database !== undefined)
  }
}

function isEmpty({ writes, writer, callbacks }: Group): boolean {
  return writes.length === 0 && writer.isEmpty && callbacks.length === 0
}

function ignore(): void {}

function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const end = (): void => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', end)
      resolve()
    }
    const timer = setTimeout(end, ms)
    signal?.addEventListener('abort', end, { once: true })
  })
}

/** Divides long work into turns of the event loop. */
class Pacer {
  #startedAt = performance.now()

  get isDue(): boolean { return performance.now() - this.#startedAt > PACE_MS }

  async pause(): Promise<void> {
    await new Promise((resolve) => { setImmediate(resolve) })
    this.#startedAt = performance.now()
  }
}
