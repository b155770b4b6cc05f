/** Storage of one machine: LMDB and files, in one data directory that one process uses. */
import { mkdirSync } from 'node:fs'
import { statfs } from 'node:fs/promises'
import { join } from 'node:path'
import { open, type RootDatabase } from 'lmdb'
import { continueIdsAfter } from '../../../lib/stanza/ids.ts'
import { createArchive } from '../archive.ts'
import { StorageError } from '../errors.ts'
import { createOfflineQueue } from '../offline.ts'
import { KEY_END } from '../ordered.ts'
import { createRecords } from '../records.ts'
import { type Storage } from '../shapes.ts'
import { ArchiveLog } from './append-log.ts'
import { openBlobs } from './blobs.ts'
import { checkDirectory, DATABASE, finishDirectory } from './check.ts'
import { GroupedStore } from './groups.ts'
import { StreamJournal } from './journal.ts'
import { lockDirectory } from './lock.ts'

export interface EmbeddedOptions {
  /** With less space free on the disk the storage reports itself unhealthy. */
  readonly minFreeBytes?: number
  /**
   * The least time between two commits. A commit costs as much CPU as ten messages, so on a busy server a few milliseconds
   * of waiting save most of it; 0 commits as often as the disk allows.
   */
  readonly commitEveryMs?: number
  /** Told about changes of health; no text when all is well again. */
  readonly onHealth?: (problem: string | undefined) => void
  /** Told about an error thrown by a callback of `afterCommit`; by default it is thrown. */
  readonly onError?: (error: unknown) => void
}

const MIN_FREE_BYTES = 64 * 1024 * 1024
/** More than this waiting for the disk, and new stanzas are refused. */
const PENDING_BYTES_MAX = 128 * 1024 * 1024
const COMMIT_EVERY_MS = 4
const HEALTH_CHECK_MS = 1000
const TICK_MS = 5000
const CLOSE_WAIT_MS = 10_000
/** Address space, not disk: LMDB makes it larger when needed. */
const MAP_BYTES = 4 * 1024 ** 3

/** Opens a data directory, making it when there is none. Throws a StorageError when it is in use, damaged or not ours. */
export async function openEmbedded(dir: string, options: EmbeddedOptions = {}): Promise<Storage> {
  const minFreeBytes = options.minFreeBytes ?? MIN_FREE_BYTES
  mkdirOrExplain(dir)
  const lock = await lockDirectory(dir)
  let db: RootDatabase<Buffer, string> | undefined
  try {
    checkDirectory(dir)
    db = openDatabase(join(dir, DATABASE))
    const storage = new EmbeddedStorage(dir, db, minFreeBytes, options, () => lock.release())
    if (!await storage.begin()) throw new StorageError(`cannot write to the data directory ${dir}: ${storage.status().problem ?? 'no answer from the disk'}`)
    finishDirectory(dir)
    return storage
  } catch (error) {
    await db?.close()
    await lock.release()
    throw error instanceof StorageError ? error : new StorageError(`cannot open the data directory ${dir}: ${(error as Error).message}`)
  }
}

function mkdirOrExplain(dir: string): void {
  try {
    mkdirSync(dir, { recursive: true, mode: 0o700 })
  } catch (error) {
    throw new StorageError(`cannot make the data directory ${dir}: ${(error as Error).message}`)
  }
}

function openDatabase(path: string): RootDatabase<Buffer, string> {
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

class EmbeddedStorage implements Storage {
  readonly records
  readonly archive
  readonly offline
  readonly streams: StreamJournal
  readonly blobs
  readonly #db: RootDatabase<Buffer, string>
  readonly #dir: string
  readonly #minFreeBytes: number
  readonly #store: GroupedStore
  readonly #archiveLog: ArchiveLog
  readonly #options: EmbeddedOptions
  readonly #release: () => Promise<void>
  readonly #timers: NodeJS.Timeout[] = []
  #commitProblem: string | undefined
  #spaceProblem: string | undefined
  #reported: string | undefined
  #closed: Promise<void> | undefined

  constructor(dir: string, db: RootDatabase<Buffer, string>, minFreeBytes: number, options: EmbeddedOptions, release: () => Promise<void>) {
    this.#db = db
    this.#dir = dir
    this.#minFreeBytes = minFreeBytes
    this.#options = options
    this.#release = release
    this.#store = new GroupedStore(db, {
      commitEveryMs: options.commitEveryMs ?? COMMIT_EVERY_MS,
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
    this.#archiveLog = new ArchiveLog(this.#store)
    this.archive = createArchive(this.#store, committed, this.#archiveLog)
    // The clock may have gone back since the last run.
    const last = this.#store.keys('m', `m${KEY_END}`, 1, true)[0]
    if (last !== undefined) continueIdsAfter(last.slice(1, -1))
    this.offline = createOfflineQueue(this.#store, committed)
    this.streams = new StreamJournal(this.#store)
    this.#store.beforeSeal = () => {
      this.#archiveLog.seal()
      this.streams.seal()
    }
    this.blobs = openBlobs(join(dir, 'blobs'), minFreeBytes)
  }

  /** Makes the first commit, so that a directory that cannot be written is found at once, and starts the timers. */
  async begin(): Promise<boolean> {
    await this.#checkSpace()
    this.#store.put('!', Buffer.from(String(Date.now())))
    let timer: NodeJS.Timeout | undefined
    const written = await Promise.race([
      this.#store.committed().then(() => true),
      new Promise<false>((resolve) => { timer = setTimeout(() => { resolve(false) }, CLOSE_WAIT_MS) }),
    ])
    clearTimeout(timer)
    this.#timers.push(setInterval(() => { void this.#checkSpace() }, HEALTH_CHECK_MS).unref())
    this.#timers.push(setInterval(() => {
      this.streams.tick()
      this.#archiveLog.tick()
    }, TICK_MS).unref())
    if (!written) await this.#stop(0)
    return written
  }

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
    this.streams.checkpoint()
    this.#archiveLog.flush()
    await this.#stop(CLOSE_WAIT_MS)
    await this.#db.close()
    await this.#release()
  }

  async #stop(waitMs: number): Promise<void> {
    for (const timer of this.#timers) clearInterval(timer)
    await this.#store.close(waitMs)
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
