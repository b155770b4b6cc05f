/** For tests: a storage made of its parts, so that something may come between these and the disk. */
import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { firstIdOf, timeOfLastId } from '../../../lib/stanza/ids.ts'
import { type GroupOptions, GroupedStore } from '../groups/groups.ts'
import { createOfflineQueue } from '../offline.ts'
import { createRecords } from '../records.ts'
import { type Archive, type OfflineQueue, type Records, type StreamStore } from '../shapes.ts'
import { LoggedArchive } from './archive.ts'
import { openDatabase, openEmbedded } from './embedded.ts'
import { decodePosition, LmdbDatabase, POSITION_KEY } from './database.ts'
import { StreamJournal } from './journal.ts'
import { WriteAheadLog } from './log.ts'

export interface Shapes {
  readonly records: Records
  readonly archive: Archive
  readonly offline: OfflineQueue
  readonly streams: StreamStore
}

export interface Opened {
  readonly shapes: Shapes
  readonly store: GroupedStore
  readonly log: WriteAheadLog
  /** Closes the files without writing anything. */
  discard(): Promise<void>
}

/** Stands between the storage and its database and log. */
export interface Between {
  database?<T extends object>(db: T): T
  log?<T extends object>(log: T): T
}

/** An empty data directory. */
export async function newDirectory(): Promise<string> {
  const dir = mkdtempSync(join(tmpdir(), 'tidings-parts-'))
  await (await openEmbedded(dir))[Symbol.asyncDispose]()
  return dir
}

export async function openParts(dir: string, between: Between, options: Partial<GroupOptions> = {}): Promise<Opened> {
  const db = openDatabase(join(dir, 'store'))
  const position = decodePosition(db.getBinary(POSITION_KEY) as Buffer)
  const { log, records } = await WriteAheadLog.open(join(dir, 'log'), position, false)
  const store = new GroupedStore(new LmdbDatabase(between.database?.(db) ?? db), between.log?.(log) ?? log, {
    onProblem: () => {}, onCallbackError: (error) => { throw error }, commitEveryMs: 0, segmentBytes: 20_000, segmentMs: Infinity, ...options,
  })
  const archive = new LoggedArchive(store)
  const streams = new StreamJournal(store)
  store.addParticipant(archive)
  store.addParticipant(streams)
  store.replay(records)
  const shapes = { records: createRecords(store), archive: archive.archive, streams, offline: createOfflineQueue(store, () => store.committed(), firstIdOf(timeOfLastId() + 1)) }
  return {
    shapes, store, log,
    async discard() {
      await log.close()
      await db.close()
    },
  }
}

/** An object with these methods done by `run`, which may do something before and after, or fail. */
export function intercept<T extends object>(object: T, names: readonly string[], run: (name: string, args: readonly unknown[], call: () => unknown) => unknown): T {
  return new Proxy(object, {
    get: (target, name) => {
      const value: unknown = Reflect.get(target, name, target)
      if (typeof value !== 'function') return value
      const call = value.bind(target) as (...args: unknown[]) => unknown
      if (!names.includes(String(name))) return call
      return (...args: unknown[]): unknown => run(String(name), args, () => call(...args))
    },
  })
}
