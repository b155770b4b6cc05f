/**
 * New archive entries become durable as one log record a group (`k number`): one row at the end of the database instead of
 * five at five places. Their rows are visible at once and written together later, in one group that also removes the records.
 * A start writes the rows of the records it finds.
 */
import { type AppendLog, rowsOf } from '../archive.ts'
import { KEY_END } from '../ordered.ts'
import { type GroupedStore } from './groups.ts'

/** The rows are written after so many entries or bytes, or this time. */
const ENTRIES_MAX = 4000
const BYTES_MAX = 4 * 1024 * 1024
export const FLUSH_MS = 10_000

interface Append {
  readonly id: string
  readonly body: Buffer
}

export class ArchiveLog implements AppendLog {
  readonly #store: GroupedStore
  /** Those of the open group. */
  #appends: Append[] = []
  #records: string[] = []
  #lastRecord = 0
  #entries = 0
  #bytes = 0
  #firstAt = 0

  constructor(store: GroupedStore) {
    this.#store = store
    for (const key of store.keys('k', `k${KEY_END}`, Infinity, false)) {
      const record = store.get(key)
      if (record) for (const { id, body } of unpack(record)) for (const row of rowsOf(id, body)) store.put(row.key, row.value)
      store.delete(key)
    }
  }

  append(id: string, body: Buffer, rows: readonly { readonly key: string; readonly value: Buffer }[]): void {
    for (const row of rows) this.#store.putLazy(row.key, row.value)
    this.#appends.push({ id, body })
    if (this.#entries++ === 0) this.#firstAt = Date.now()
    this.#bytes += body.length
    this.#store.touch()
  }

  flush(): void {
    if (this.#entries === 0) return
    this.#store.flushLazy()
    for (const key of this.#records) this.#store.delete(key)
    this.#appends = []
    this.#records = []
    this.#entries = 0
    this.#bytes = 0
  }

  /** Writes what came into the open group; called when it is about to be committed. */
  seal(): void {
    if (this.#entries >= ENTRIES_MAX || this.#bytes >= BYTES_MAX) this.flush()
    if (this.#appends.length === 0) return
    const key = `k${(++this.#lastRecord).toString(16).padStart(12, '0')}`
    this.#store.put(key, pack(this.#appends))
    this.#records.push(key)
    this.#appends = []
  }

  /** Called every few seconds. */
  tick(): void {
    if (this.#entries > 0 && Date.now() - this.#firstAt >= FLUSH_MS) this.flush()
  }
}

/** Of each entry: length and bytes of its id, length and bytes of its row. */
function pack(appends: readonly Append[]): Buffer {
  let size = 0
  for (const { id, body } of appends) size += 8 + Buffer.byteLength(id) + body.length
  const record = Buffer.allocUnsafe(size)
  let at = 0
  for (const { id, body } of appends) {
    const length = record.write(id, at + 4, 'utf8')
    record.writeUInt32BE(length, at)
    at = record.writeUInt32BE(body.length, at + 4 + length)
    at += body.copy(record, at)
  }
  return record
}

function unpack(record: Buffer): Append[] {
  const found: Append[] = []
  let at = 0
  const bytes = (): Buffer => {
    const length = record.readUInt32BE(at)
    at += 4 + length
    return record.subarray(at - length, at)
  }
  while (at < record.length) found.push({ id: bytes().toString(), body: bytes() })
  return found
}
