/**
 * The shapes of storage. Each has an embedded and a distributed driver, and one contract test that every driver runs.
 * An extension asks for a shape and never learns the driver.
 *
 * Writes are issued synchronously and become durable in groups. Everything issued in one turn of the event loop belongs
 * to one group and is committed together or not at all.
 */

export type MaybePromise<T> = T | Promise<T>

/** JSON-like values; `Uint8Array` is kept as bytes. */
export type Value = null | boolean | number | string | Uint8Array | readonly Value[] | { readonly [key: string]: Value | undefined }

/** The parts of a key, compared part by part as UTF-8. By convention the first part is the owner (a bare JID or a host). */
export type Key = readonly string[]

/** Ordered key -> value, with atomic batches and range scans. */
export interface Records {
  get(table: string, key: Key): MaybePromise<Value | undefined>
  put(table: string, key: Key, value: Value): void
  delete(table: string, key: Key): void
  /** All entries whose key starts with `prefix`, in order. `after`: keys strictly after this one (before it when `reverse`). */
  range(table: string, prefix: Key, options?: RangeOptions): MaybePromise<readonly { key: Key; value: Value }[]>
  /** Deletes every key that starts with `prefix`. */
  deleteRange(table: string, prefix: Key): MaybePromise<void>
}

export interface RangeOptions {
  readonly after?: Key
  readonly limit?: number
  readonly reverse?: boolean
}

/** One archived event. `id` sorts by time (see lib/stanza/ids.ts) and is the same for every owner; 1 to 200 printable ASCII characters. */
export interface ArchiveEntry {
  readonly id: string
  /** The stanza as it is to be shown in a forwarded copy. */
  readonly bytes: Buffer
  /** Whose archives it goes into, each with its other party (a bare JID; for rooms the occupant's bare JID). */
  readonly owners: readonly { readonly owner: string; readonly with: string }[]
}

export interface ArchivedItem {
  readonly id: string
  readonly with: string
  readonly bytes: Buffer
}

export interface ArchiveQuery {
  readonly with?: string
  /** Milliseconds since 1970, inclusive. */
  readonly start?: number
  readonly end?: number
  /** Ids, exclusive: XEP-0313's after-id and before-id and RSM's after and before, already merged by the caller. */
  readonly afterId?: string
  readonly beforeId?: string
  /** Only these ids. */
  readonly ids?: readonly string[]
  readonly max: number
  /** `backward` answers the last `max` items of the range. Items come in order of time either way. */
  readonly direction: 'forward' | 'backward'
}

export interface ArchivePage {
  readonly items: readonly ArchivedItem[]
  /** Whether nothing of the range lies beyond this page, in the direction of the query. */
  readonly complete: boolean
}

/** Append-only history, paged both ways. */
export interface Archive {
  /** What an owner has under the id already is replaced. */
  append(entry: ArchiveEntry): void
  /** Includes everything appended before the call, durable or not. */
  query(owner: string, query: ArchiveQuery): MaybePromise<ArchivePage>
  /** How many items lie in the range. Ignores `max` and `direction`; counts at most `limit`. */
  count(owner: string, query: Omit<ArchiveQuery, 'max' | 'direction'>, limit: number): MaybePromise<number>
  /** The item of this id, or undefined when this owner's archive has none. */
  get(owner: string, id: string): MaybePromise<ArchivedItem | undefined>
  /** First and last item of an archive (XEP-0313 §7.1). */
  bounds(owner: string): MaybePromise<{ first: string; last: string } | undefined>
  /** Replaces an item's bytes (a tombstone) in this owner's archive. */
  replace(owner: string, id: string, bytes: Buffer): MaybePromise<void>
  delete(owner: string, id: string): MaybePromise<void>
  /** Removes an owner's items older than `before` (ms), or all. */
  purge(owner: string, before?: number): MaybePromise<void>
  /** Removes all owners' items older than `before` (ms). Answers how many. */
  expire(before: number): MaybePromise<number>
}

export interface QueuedStanza {
  /** As an archived event's. */
  readonly id: string
  /** The stanza as it will be delivered. */
  readonly bytes: Buffer
}

/** Offline stanzas (XEP-0160): a list for each owner, in order of id. */
export interface OfflineQueue {
  push(owner: string, entry: QueuedStanza): void
  /** Stanzas in the queue, counting those pushed but not durable yet. */
  count(owner: string): number
  /** Up to `max` entries after the id `after`. */
  list(owner: string, max: number, after?: string): MaybePromise<readonly QueuedStanza[]>
  remove(owner: string, ids: readonly string[]): void
  clear(owner: string): MaybePromise<void>
}

/** A resumable stream (XEP-0198) as it stands in storage. */
export interface StoredStream {
  readonly id: string
  /** Bare JID and resource of the session. */
  readonly owner: string
  readonly resource: string
  /** What the session wants to find again after a restart: presence, carbons, roster interest, … */
  state: Value
  /** Stanzas handled from the client (XEP-0198 `h`), modulo 2^32. */
  handled: number
  /** Sent but not acknowledged, in order; `seq` is the outbound count of each, modulo 2^32. */
  unacknowledged: { readonly seq: number; readonly bytes: Buffer }[]
  /** The last `seq` that the client acknowledged, 0 at first: with `unacknowledged` it says how many were sent. */
  readonly acknowledged: number
  /** When the process was last known to serve it, ms. */
  readonly seenAt: number
}

/** Unacknowledged stanzas and counters of resumable streams. Kept in memory by sessions; written here for a restart. */
export interface StreamStore {
  open(id: string, owner: string, resource: string, state: Value): void
  state(id: string, state: Value): void
  handled(id: string, h: number): void
  /** `parts` are the bytes one after another, so that copies may share what they have in common; nobody changes them. */
  push(id: string, seq: number, ...parts: readonly Buffer[]): void
  /** The client has acknowledged everything up to and including `seq`. */
  acknowledged(id: string, seq: number): void
  close(id: string): void
  /** Every stream that was open when the store was last used; called once, at start. */
  load(): MaybePromise<readonly StoredStream[]>
}

/** Uploaded files. */
export interface Blobs {
  /** Stores a stream of exactly `size` bytes under a new key; rejects (and leaves nothing) when it is shorter or longer, or the key exists. */
  put(key: string, size: number, body: AsyncIterable<Uint8Array>, type?: string): Promise<void>
  /** The file, or the bytes from `start` to `end` inclusive of it. */
  get(key: string, range?: { start: number; end: number }): Promise<{ size: number; body: AsyncIterable<Uint8Array> } | undefined>
  /** Its size, the content type that it was put with if that is kept, and when that was (ms). */
  stat(key: string): Promise<{ readonly size: number; readonly type: string | undefined; readonly made: number } | undefined>
  delete(key: string): Promise<void>
}

/** All shapes of one driver, and their common commit. */
export interface Storage extends AsyncDisposable {
  readonly records: Records
  readonly archive: Archive
  readonly offline: OfflineQueue
  readonly streams: StreamStore
  readonly blobs: Blobs
  /**
   * Calls back once everything written up to this turn is on stable storage. It is never called when the process dies
   * first. When a commit fails (disk full) it is retried until it succeeds; meanwhile `healthy` is false.
   */
  afterCommit(callback: () => void): void
  /** Resolves as `afterCommit` calls. */
  committed(): Promise<void>
  /** False while writes cannot reach stable storage (no space left, lost server): refuse new stanzas with `resource-constraint`. */
  readonly healthy: boolean
  /** Whether something written is not on stable storage yet. */
  readonly dirty: boolean
  /** For /health and metrics. */
  status(): { readonly driver: string; readonly healthy: boolean; readonly problem?: string; readonly pendingWrites: number; readonly commitMs: number }
}
