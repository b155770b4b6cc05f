/** Storage in memory: for tests and trials. Nothing outlives the process. */
import { TailArchive } from '../archive/archive.ts'
import { StorageError } from '../errors.ts'
import { createOfflineQueue } from '../offline.ts'
import { type OrderedStore } from '../ordered.ts'
import { createRecords } from '../records.ts'
import { type Blobs, type Storage, type StoredStream, type StreamStore } from '../shapes.ts'
import { StreamTable } from '../streams.ts'

export function openMemory(): Storage {
  const store = new MemoryStore()
  let waiting: (() => void)[] = []
  const afterCommit = (callback: () => void): void => {
    // Never within the caller's turn, as in the drivers that write to a disk.
    if (waiting.push(callback) === 1) {
      setImmediate(() => {
        const callbacks = waiting
        waiting = []
        for (const call of callbacks) call()
      })
    }
  }
  const committed = (): Promise<void> => new Promise((resolve) => { afterCommit(resolve) })
  return {
    records: createRecords(store),
    archive: new TailArchive(committed),
    offline: createOfflineQueue(store, committed),
    streams: memoryStreams(),
    blobs: memoryBlobs(),
    afterCommit,
    committed,
    get dirty() { return waiting.length > 0 },
    healthy: true,
    status: () => ({ driver: 'memory', healthy: true, pendingWrites: waiting.length, commitMs: 0 }),
    async [Symbol.asyncDispose]() {
      await committed()
    },
  }
}

/** A map with its keys in order beside it. */
class MemoryStore implements OrderedStore {
  readonly #rows = new Map<string, Buffer>()
  readonly #keys: string[] = []

  get(key: string): Buffer | undefined { return this.#rows.get(key) }
  has(key: string): boolean { return this.#rows.has(key) }

  put(key: string, value: Buffer): void {
    if (!this.#rows.has(key)) {
      if (this.#keys.length === 0 || (this.#keys.at(-1) as string) < key) this.#keys.push(key)
      else this.#keys.splice(this.#position(key), 0, key)
    }
    this.#rows.set(key, value)
  }

  putNew(key: string, value: Buffer): void { this.put(key, value) }

  delete(key: string): void {
    if (this.#rows.delete(key)) this.#keys.splice(this.#position(key), 1)
  }

  keys(start: string, end: string, limit: number, reverse: boolean): string[] {
    const from = this.#position(start)
    const to = this.#position(end)
    if (from >= to) return []
    return reverse ? this.#keys.slice(Math.max(from, to - limit), to).reverse() : this.#keys.slice(from, Math.min(to, from + limit))
  }

  count(start: string, end: string, limit: number): number {
    return Math.min(limit, Math.max(0, this.#position(end) - this.#position(start)))
  }

  /** Index of the first key that is not below `key`. */
  #position(key: string): number {
    let low = 0
    let high = this.#keys.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((this.#keys[middle] as string) < key) low = middle + 1
      else high = middle
    }
    return low
  }
}

function memoryStreams(): StreamStore {
  const table = new StreamTable()
  return {
    open: (id, owner, resource, state) => { table.open(id, owner, resource, state) },
    state: (id, state) => { table.state(id, state) },
    handled: (id, h) => { table.handled(id, h) },
    push: (id, seq, ...parts) => { table.push(id, seq, ...parts) },
    acknowledged: (id, seq) => { table.acknowledged(id, seq) },
    close: (id) => { table.close(id) },
    load: (): readonly StoredStream[] => table.stored(Date.now()),
  }
}

function memoryBlobs(): Blobs {
  const files = new Map<string, Buffer>()
  const made = new Map<string, number>()
  return {
    async put(key, size, body) {
      if (files.has(key)) throw new StorageError(`a file of this key exists: ${key}`)
      const parts: Uint8Array[] = []
      let length = 0
      for await (const part of body) {
        length += part.length
        if (length > size) throw new StorageError(`the file is longer than the ${size} bytes announced`)
        parts.push(Buffer.from(part))
      }
      if (length < size) throw new StorageError(`the file is shorter than the ${size} bytes announced`)
      if (files.has(key)) throw new StorageError(`a file of this key exists: ${key}`)
      files.set(key, Buffer.concat(parts))
      made.set(key, Date.now())
    },
    async get(key, range) {
      const file = files.get(key)
      if (!file) return undefined
      const part = range ? file.subarray(range.start, range.end + 1) : file
      return { size: file.length, body: (async function* () { if (part.length > 0) yield part })() }
    },
    async stat(key) {
      const size = files.get(key)?.length
      return size === undefined ? undefined : { size, type: undefined, made: made.get(key) as number }
    },
    async delete(key) { files.delete(key) },
  }
}
