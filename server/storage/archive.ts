/**
 * The archive over an ordered store. The bytes of an event are stored once, however many archives it is in:
 *
 *     m id                -> its owners, each with the other party, and the bytes
 *     a owner 0 id        -> (empty) everything of an owner, by time
 *     c owner 0 with 0 id -> (empty) one conversation, by time
 *
 * Expiry by age walks `m`, whose rows say which index rows go with them.
 */
import { firstIdOf } from '../../lib/stanza/ids.ts'
import { decodePart, encodePart, KEY_END, type OrderedStore } from './ordered.ts'
import { type Archive, type ArchivedItem, type ArchiveEntry, type ArchivePage, type ArchiveQuery } from './shapes.ts'

export const PRESENT = Buffer.from([1])
/** Rows removed in one turn of the event loop. */
const CHUNK = 256

export type ArchiveOwner = ArchiveEntry['owners'][number]
type Range = Omit<ArchiveQuery, 'max' | 'direction'>

/** Row of `m`: length of the list of owners (4 bytes), the list as `owner 0 with 0 owner …`, the stanza's bytes. */
function encodeBody(owners: readonly ArchiveOwner[], bytes: Buffer): Buffer {
  let list = ''
  for (const { owner, with: other } of owners) list += `${owner}\0${other}\0`
  const listBytes = Buffer.byteLength(list)
  const row = Buffer.allocUnsafe(4 + listBytes + bytes.length)
  row.writeUInt32BE(listBytes, 0)
  row.write(list, 4, 'utf8')
  bytes.copy(row, 4 + listBytes)
  return row
}

export function ownersOf(row: Buffer): ArchiveOwner[] {
  const parts = row.toString('utf8', 4, 4 + row.readUInt32BE(0)).split('\0')
  const owners: ArchiveOwner[] = []
  for (let i = 0; i + 1 < parts.length; i += 2) owners.push({ owner: parts[i] as string, with: parts[i + 1] as string })
  return owners
}

function bytesOf(row: Buffer): Buffer {
  return row.subarray(4 + row.readUInt32BE(0))
}

/** Lets new entries become durable in a log first, and their rows later. */
export interface AppendLog {
  /** An entry whose id is not in the archive; `body` is its row of `m`. False when it must go the usual way. */
  append(id: string, owners: readonly ArchiveOwner[], body: Buffer): boolean
  /** Whether a row waits for a commit. */
  isPending(key: string): boolean
  /** Replaces an entry appended in the same group; false when there is none. Owners may be added, not taken away. */
  amend(id: string, owners: readonly ArchiveOwner[], body: Buffer): boolean
  /** Writes the rows of everything appended; called before any of them may be changed. */
  flush(): void
}

/** The index rows of one owner's item, by the encoded parts of their keys. */
export function indexKeys(owner: string, other: string, id: string): readonly [string, string] {
  return [`a${owner}${id}`, `c${owner}${other}${id}`]
}

/** `committed` lets long removals wait for the store, so that they do not pile up in memory. */
export function createArchive(store: OrderedStore, committed: () => Promise<void>, log?: AppendLog): Archive {
  // Ids above every stored one need no look for an earlier append of the same id.
  let highest = store.keys('m', `m${KEY_END}`, 1, true)[0] ?? 'm'

  const aKey = (owner: string, id: string): string => `a${encodePart(owner)}${encodePart(id)}`
  const cKey = (owner: string, other: string, id: string): string => `c${encodePart(owner)}${encodePart(other)}${encodePart(id)}`
  const mKey = (id: string): string => `m${encodePart(id)}`
  const idOf = (key: string): string => decodePart(key.slice(key.lastIndexOf('\0', key.length - 2) + 1, -1))

  function itemOf(owner: string, id: string): ArchivedItem | undefined {
    const row = store.get(mKey(id))
    if (!row) return undefined
    for (const entry of ownersOf(row)) if (entry.owner === owner) return { id, with: entry.with, bytes: bytesOf(row) }
    return undefined
  }

  function bounds(owner: string, query: Range): { start: string; end: string } {
    const prefix = query.with === undefined ? `a${encodePart(owner)}` : `c${encodePart(owner)}${encodePart(query.with)}`
    let start = prefix
    let end = prefix + KEY_END
    if (query.start !== undefined && query.start > 0) start = prefix + firstIdOf(query.start)
    if (query.end !== undefined) {
      const bound = query.end < 0 ? prefix : prefix + firstIdOf(query.end + 1)
      if (bound < end) end = bound
    }
    if (query.afterId !== undefined) {
      const bound = `${prefix}${encodePart(query.afterId)}\0`
      if (bound > start) start = bound
    }
    if (query.beforeId !== undefined) {
      const bound = prefix + encodePart(query.beforeId)
      if (bound < end) end = bound
    }
    return { start, end }
  }

  /** The ids asked for that the range holds, in order of time. */
  function chosen(owner: string, query: Range): string[] {
    const { start, end } = bounds(owner, query)
    const prefix = query.with === undefined ? `a${encodePart(owner)}` : `c${encodePart(owner)}${encodePart(query.with)}`
    const found: string[] = []
    for (const id of new Set(query.ids)) {
      const key = prefix + encodePart(id)
      if (key >= start && key < end && store.has(key)) found.push(id)
    }
    return found.sort()
  }

  function remove(owner: string, id: string): void {
    log?.flush()
    const row = store.get(mKey(id))
    if (!row) return
    const owners = ownersOf(row)
    const mine = owners.find((entry) => entry.owner === owner)
    if (!mine) return
    store.delete(aKey(owner, id))
    store.delete(cKey(owner, mine.with, id))
    if (owners.length === 1) store.delete(mKey(id))
    else store.put(mKey(id), encodeBody(owners.filter((entry) => entry !== mine), bytesOf(row)))
  }

  function putRows(id: string, owners: readonly ArchiveOwner[], body: Buffer): void {
    store.put(mKey(id), body)
    for (const { owner, with: other } of owners) {
      for (const key of indexKeys(encodePart(owner), encodePart(other), encodePart(id))) store.put(key, PRESENT)
    }
  }

  return {
    append(entry) {
      const key = mKey(entry.id)
      let owners = entry.owners
      if (owners.length === 0) return
      if (owners.length > 1) owners = owners.filter((one, i) => owners.findIndex((other) => other.owner === one.owner) === i)
      const present = key > highest ? undefined : store.get(key)
      if (!present) {
        // What was removed in this very group must not be hidden, or undone, by the removal.
        const loggable = key > highest || log?.isPending(key) === false
        if (key > highest) highest = key
        const body = encodeBody(owners, entry.bytes)
        if (loggable && log?.append(entry.id, owners, body)) return
        putRows(entry.id, owners, body)
        return
      }
      // Appended again: for more owners, or for one whose other party may differ.
      const before = ownersOf(present)
      const all = [...before.filter((one) => !owners.some((other) => other.owner === one.owner)), ...owners]
      const body = encodeBody(all, entry.bytes)
      if (log?.amend(entry.id, all, body)) return
      log?.flush()
      for (const one of before) store.delete(cKey(one.owner, one.with, entry.id))
      putRows(entry.id, all, body)
    },

    query(owner, query) {
      const max = Math.max(0, Math.floor(query.max))
      const backward = query.direction === 'backward'
      let ids: string[]
      let complete: boolean
      if (query.ids) {
        const found = chosen(owner, query)
        complete = found.length <= max
        ids = complete ? found : backward ? found.slice(found.length - max) : found.slice(0, max)
      } else {
        const { start, end } = bounds(owner, query)
        const keys = start < end ? store.keys(start, end, max + 1, backward) : []
        complete = keys.length <= max
        if (!complete) keys.length = max
        if (backward) keys.reverse()
        ids = keys.map(idOf)
      }
      const items: ArchivedItem[] = []
      for (const id of ids) {
        const item = itemOf(owner, id)
        if (item) items.push(item)
      }
      return { items, complete } satisfies ArchivePage
    },

    count(owner, query, limit) {
      if (query.ids) return Math.min(limit, chosen(owner, query).length)
      const { start, end } = bounds(owner, query)
      return start < end ? store.count(start, end, limit) : 0
    },

    get: itemOf,

    bounds(owner) {
      const prefix = `a${encodePart(owner)}`
      const first = store.keys(prefix, prefix + KEY_END, 1, false)[0]
      const last = store.keys(prefix, prefix + KEY_END, 1, true)[0]
      return first === undefined || last === undefined ? undefined : { first: idOf(first), last: idOf(last) }
    },

    replace(owner, id, bytes) {
      log?.flush()
      const row = store.get(mKey(id))
      if (!row) return
      const owners = ownersOf(row)
      if (owners.some((entry) => entry.owner === owner)) store.put(mKey(id), encodeBody(owners, bytes))
    },

    delete: remove,

    async purge(owner, before) {
      const prefix = `a${encodePart(owner)}`
      const end = before === undefined ? prefix + KEY_END : prefix + firstIdOf(before)
      for (;;) {
        const keys = store.keys(prefix, end, CHUNK, false)
        for (const key of keys) remove(owner, idOf(key))
        if (keys.length < CHUNK) return
        await committed()
      }
    },

    async expire(before) {
      let removed = 0
      for (;;) {
        log?.flush()
        const keys = store.keys('m', `m${firstIdOf(before)}`, CHUNK, false)
        for (const key of keys) {
          const row = store.get(key)
          if (!row) continue
          const id = decodePart(key.slice(1, -1))
          for (const { owner, with: other } of ownersOf(row)) {
            store.delete(aKey(owner, id))
            store.delete(cKey(owner, other, id))
            removed++
          }
          store.delete(key)
        }
        if (keys.length < CHUNK) return removed
        await committed()
      }
    },
  }
}
