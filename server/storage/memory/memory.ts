/** Storage in memory: for tests and trials. Nothing outlives the process. */
import { TailArchive } from '../archive/archive.ts'
import { StorageError } from '../errors.ts'
import { createOfflineQueue } from '../offline.ts'
import { createRecords } from '../records.ts'
import { type Blobs, type Storage, type StoredStream, type StreamStore } from '../shapes.ts'
import { StreamTable } from '../streams.ts'
import { SortedRows } from './rows.ts'

export function openMemory(): Storage {
  const store = new SortedRows()
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
