/** Storage of one machine: LMDB and files, in one data directory that one process uses. */
import { mkdirSync } from 'node:fs'
import { statfs } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { open, type RootDatabase } from 'lmdb'
import { continueIdsAfter, firstIdOf, timeOfLastId } from '../../../lib/stanza/ids.ts'
import { type TailArchive } from '../archive/archive.ts'
import { StorageError } from '../errors.ts'
import { GroupedStore } from '../groups/groups.ts'
import { type LogPosition, type LogRecord } from '../groups/log.ts'
import { createOfflineQueue } from '../offline.ts'
import { type OrderedStore } from '../ordered.ts'
import { createRecords } from '../records.ts'
import { type Archive, type Blobs, type Storage } from '../shapes.ts'
import { LoggedArchive } from './archive.ts'
import { openBlobs } from './blobs.ts'
import { checkDirectory, DATABASE, finishDirectory, LOG } from './check.ts'
import { decodePosition, encodePosition, LmdbDatabase, POSITION_KEY } from './database.ts'
import { StreamJournal } from './journal.ts'
import { lockDirectory } from './lock.ts'
import { WriteAheadLog } from './log.ts'
import { syncPathNow } from './sync.ts'

export interface EmbeddedOptions {
  /** With less space free on the disk the storage reports itself unhealthy. */
  readonly minFreeBytes?: number
  /**
   * The least time between two commits, unless many wait for one. A commit costs as much CPU as three messages, so a few
   * milliseconds of waiting save most of it; 0 commits as often as the disk allows.
   */
  readonly commitEveryMs?: number
  /** What is logged goes into the database after so many bytes, or this time. Until then it is in memory as well. */
  readonly segmentBytes?: number
  readonly segmentMs?: number
  /** Files that are not in the data directory. */
  readonly blobs?: Blobs
  /** Told about changes of health; no text when all is well again. */
  readonly onHealth?: (problem: string | undefined) => void
  /** Told about an error thrown by a callback of `afterCommit`; by default it is thrown. */
  readonly onError?: (error: unknown) => void
}

const STARTED_KEY = '"'
const MIN_FREE_BYTES = 64 * 1024 * 1024
/** More than this waiting for the disk, and new stanzas are refused. */
const PENDING_BYTES_MAX = 128 * 1024 * 1024
const COMMIT_EVERY_MS = 4
const SEGMENT_BYTES = 16 * 1024 * 1024
const SEGMENT_MS = 60_000
const HEALTH_CHECK_MS = 1000
const TICK_MS = 5000
const CLOSE_WAIT_MS = 10_000
/** How long a start that failed waits for its closing. */
const GIVE_UP_MS = 2000
/** Address space, not disk: LMDB makes it larger when needed. */
const MAP_BYTES = 4 * 1024 ** 3

/** What is stored, with its rows as they are: for a process that others share them with. */
export interface Embedded extends Storage {
  readonly rows: OrderedStore
  /** The same archive, with what can be asked of it at once. */
  readonly history: TailArchive
}

/** Opens a data directory, making it when there is none. Throws a StorageError when it is in use, damaged or not ours. */
export async function openEmbedded(dir: string, options: EmbeddedOptions = {}): Promise<Embedded> {
  const minFreeBytes = options.minFreeBytes ?? MIN_FREE_BYTES
  mkdirOrExplain(dir)
  const lock = await lockDirectory(dir)
  let db: RootDatabase<Buffer, string> | undefined
  let log: WriteAheadLog | undefined
  let storage: EmbeddedStorage
  let isNew: boolean
  try {
    isNew = checkDirectory(dir)
    db = openDatabase(join(dir, DATABASE))
    const position = await positionOf(db, dir)
    continueIdsAfter(position.lastIdMs)
    const opened = await WriteAheadLog.open(join(dir, LOG), position, isNew)
    log = opened.log
    storage = new EmbeddedStorage(dir, db, log, opened.records, minFreeBytes, options, () => lock.release())
  } catch (error) {
    await log?.close()
    await db?.close()
    await lock.release()
    throw error instanceof StorageError ? error : new StorageError(`cannot open the data directory ${dir}: ${(error as Error).message}`)
  }
  try {
    await storage.begin()
    if (isNew) finishDirectory(dir)
  } catch (error) {
    // A disk that does not answer holds up the closing too; until then nobody else may use the directory.
    const closed = storage[Symbol.asyncDispose]()
    await Promise.race([closed, new Promise((resolve) => { setTimeout(resolve, GIVE_UP_MS) })])
    throw error instanceof StorageError ? error : new StorageError(`cannot write to the data directory ${dir}: ${(error as Error).message}`)
  }
  return storage
}

function mkdirOrExplain(dir: string): void {
  let made: string | undefined
  try {
    made = mkdirSync(dir, { recursive: true, mode: 0o700 })
  } catch (error) {
    throw new StorageError(`cannot make the data directory ${dir}: ${(error as Error).message}`)
  }
  if (made === undefined) return
  for (let path = resolve(dir); path.length >= made.length; path = dirname(path)) {
    try {
      syncPathNow(dirname(path))
    } catch {
      // Not ours to read: then it is not ours to sync.
    }
  }
}

/** How far the log has gone into the database; a new one notes that it has not begun. */
async function positionOf(db: RootDatabase<Buffer, string>, dir: string): Promise<LogPosition> {
  const row = db.getBinary(POSITION_KEY)
  if (row) return decodePosition(row)
  if ((db.getStats() as { entryCount: number }).entryCount > 0) throw new StorageError(`the database in ${dir} does not say how far its log has gone into it: it is damaged. Restore it from a backup.`)
  const start = { segment: 0, record: 0, lastIdMs: 0 }
  await db.put(POSITION_KEY, encodePosition(start))
  return start
}

export function openDatabase(path: string): RootDatabase<Buffer, string> {
  mkdirSync(path, { recursive: true, mode: 0o700 })
  return open<Buffer, string>({
    path,
    noSubdir: false,
    encoding: 'binary',
    cache: false,
    mapSize: MAP_BYTES,
    maxDbs: 4,
    // A commit is reported when it is on disk, not before.
    overlappingSync: false,
    // Keys are byte strings, see ordered.ts.
    keyEncoder: {
      writeKey: (key: string, target: Buffer, position: number): number => position + target.write(key, position, 'latin1'),
      readKey: (source: Buffer, start: number, end: number): string => source.toString('latin1', start, end),
    },
  })
}

class EmbeddedStorage implements Embedded {
  readonly records
  readonly archive: Archive
  readonly offline
  readonly streams: StreamJournal
  readonly blobs: Blobs
  readonly #db: RootDatabase<Buffer, string>
  readonly #dir: string
  readonly #minFreeBytes: number
  readonly #store: GroupedStore
  readonly #archive: LoggedArchive
  readonly #options: EmbeddedOptions
  readonly #release: () => Promise<void>
  readonly #timers: NodeJS.Timeout[] = []
  #commitProblem: string | undefined
  #spaceProblem: string | undefined
  #reported: string | undefined
  #isBegun = false
  #closed: Promise<void> | undefined

  constructor(
    dir: string, db: RootDatabase<Buffer, string>, log: WriteAheadLog, records: readonly LogRecord[],
    minFreeBytes: number, options: EmbeddedOptions, release: () => Promise<void>,
  ) {
    this.#db = db
    this.#dir = dir
    this.#minFreeBytes = minFreeBytes
    this.#options = options
    this.#release = release
    this.#store = new GroupedStore(new LmdbDatabase(db), log, {
      commitEveryMs: options.commitEveryMs ?? COMMIT_EVERY_MS,
      segmentBytes: options.segmentBytes ?? SEGMENT_BYTES,
      segmentMs: options.segmentMs ?? SEGMENT_MS,
      onProblem: (problem) => {
        this.#commitProblem = problem
        this.#report()
      },
      onCallbackError: (error) => {
        if (options.onError) options.onError(error)
        else setImmediate(() => { throw error })
      },
    })
    const committed = (): Promise<void> => this.#store.committed()
    this.records = createRecords(this.#store)
    this.#archive = new LoggedArchive(this.#store)
    this.archive = this.#archive.archive
    this.streams = new StreamJournal(this.#store)
    this.#store.addParticipant(this.#archive)
    this.#store.addParticipant(this.streams)
    this.#store.replay(records)
    this.offline = createOfflineQueue(this.#store, committed, firstIdOf(timeOfLastId() + 1))
    this.blobs = options.blobs ?? openBlobs(join(dir, 'blobs'), minFreeBytes)
  }

  /** Makes the first commit, so that a directory that cannot be written is found at once, and starts the timers. */
  async begin(): Promise<void> {
    await this.#checkSpace()
    this.#store.put(STARTED_KEY, Buffer.from(String(Date.now())))
    let timer: NodeJS.Timeout | undefined
    await Promise.race([
      this.#store.committed(),
      new Promise((_, reject) => { timer = setTimeout(() => { reject(new Error(this.#problem() ?? 'no answer from the disk')) }, CLOSE_WAIT_MS) }),
    ])
    clearTimeout(timer)
    this.#timers.push(setInterval(() => { void this.#checkSpace() }, HEALTH_CHECK_MS).unref())
    this.#timers.push(setInterval(() => {
      this.streams.tick()
      this.#store.tick()
    }, TICK_MS).unref())
    this.#isBegun = true
  }

  get rows(): OrderedStore { return this.#store }
  get history(): TailArchive { return this.#archive.archive }
  afterCommit(callback: () => void): void { this.#store.afterCommit(callback) }
  committed(): Promise<void> { return this.#store.committed() }

  get dirty(): boolean { return this.#store.dirty }
  get healthy(): boolean { return this.#problem() === undefined }

  status(): ReturnType<Storage['status']> {
    const problem = this.#problem()
    return {
      driver: 'embedded', healthy: problem === undefined, ...(problem === undefined ? {} : { problem }),
      pendingWrites: this.#store.pendingWrites, commitMs: this.#store.commitMs,
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    for (const timer of this.#timers) clearInterval(timer)
    await this.#store.close(this.#isBegun ? CLOSE_WAIT_MS : 0)
    await this.#db.close()
    await this.#release()
  }

  #problem(): string | undefined {
    if (this.#commitProblem !== undefined) return this.#commitProblem
    if (this.#spaceProblem !== undefined) return this.#spaceProblem
    return this.#store.pendingBytes > PENDING_BYTES_MAX ? 'the disk is too slow for what is to be written' : undefined
  }

  #report(): void {
    const problem = this.#problem()
    if (problem === this.#reported) return
    this.#reported = problem
    this.#options.onHealth?.(problem)
  }

  async #checkSpace(): Promise<void> {
    try {
      const disk = await statfs(this.#dir)
      const free = disk.bavail * disk.bsize
      this.#spaceProblem = free < this.#minFreeBytes ? `the disk of ${this.#dir} is almost full: ${Math.floor(free / 1024)} KiB are free` : undefined
    } catch (error) {
      this.#spaceProblem = `the data directory cannot be reached: ${(error as Error).message}`
    }
    this.#report()
  }
}
