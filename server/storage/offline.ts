/** Offline queues over an ordered store: `o owner 0 id -> bytes`. */
import { timeOfLastId, timeOfMessageId } from '../../lib/stanza/ids.ts'
import { assertId, decodePart, encodePart, KEY_END, type OrderedStore } from './ordered.ts'
import { type OfflineQueue, type QueuedStanza } from './shapes.ts'

/** Owners whose count is remembered. */
const COUNTS_MAX = 20_000
const CHUNK = 256

/** `highest`: no stored entry has an id of this server's making above this one. `forget`: an owner's rows are about to change otherwise. */
export function createOfflineQueue(store: OrderedStore, committed: () => Promise<void>, highest = ''): OfflineQueue & { forget(owner: string): void } {
  const counts = new Map<string, number>()

  function count(owner: string): number {
    const known = counts.get(owner)
    if (known !== undefined) return known
    const prefix = `o${encodePart(owner)}`
    const counted = store.count(prefix, prefix + KEY_END, Infinity)
    if (counts.size >= COUNTS_MAX) counts.delete(counts.keys().next().value as string)
    counts.set(owner, counted)
    return counted
  }

  function removeKey(owner: string, key: string): void {
    if (!store.has(key)) return
    const before = count(owner)
    store.delete(key)
    counts.set(owner, before - 1)
  }

  return {
    push(owner, entry) {
      assertId(entry.id)
      const key = `o${encodePart(owner)}${encodePart(entry.id)}`
      const before = count(owner)
      if (entry.id > highest && (timeOfMessageId(entry.id) ?? Infinity) <= timeOfLastId()) {
        highest = entry.id
        store.putNew(key, entry.bytes)
      } else {
        if (store.has(key)) {
          store.put(key, entry.bytes)
          return
        }
        store.put(key, entry.bytes)
      }
      counts.set(owner, before + 1)
    },
    count,
    forget(owner) { counts.delete(owner) },
    list(owner, max, after) {
      const prefix = `o${encodePart(owner)}`
      const start = after === undefined ? prefix : `${prefix}${encodePart(after)}\0`
      const found: QueuedStanza[] = []
      for (const key of store.keys(start, prefix + KEY_END, max, false)) {
        const bytes = store.get(key)
        if (bytes) found.push({ id: decodePart(key.slice(prefix.length, -1)), bytes })
      }
      return found
    },
    remove(owner, ids) {
      for (const id of ids) removeKey(owner, `o${encodePart(owner)}${encodePart(id)}`)
    },
    async clear(owner) {
      const prefix = `o${encodePart(owner)}`
      for (;;) {
        const keys = store.keys(prefix, prefix + KEY_END, CHUNK, false)
        for (const key of keys) removeKey(owner, key)
        if (keys.length < CHUNK) return
        await committed()
      }
    },
  }
}
