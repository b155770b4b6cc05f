/**
 * New archive entries become durable as one log record a group (`k number`): one row at the end of the database instead of
 * five at five places. Until enough have come they are found here, in memory (the tail); then their rows are written in one
 * group that also removes the log records. A start writes the rows of the records it finds.
 */
import { type AppendLog, type ArchiveOwner, indexKeys, ownersOf, PRESENT } from '../archive.ts'
import { decodePart, encodePart, KEY_END, PART_BYTES_MAX } from '../ordered.ts'
import { type GroupedStore, type LazyRows, type Row } from './groups.ts'

/** The rows are written after so many entries or bytes, or this time. */
const ENTRIES_MAX = 4000
const BYTES_MAX = 4 * 1024 * 1024
export const FLUSH_MS = 10_000

interface Append {
  readonly id: string
  owners: readonly ArchiveOwner[]
  body: Buffer
  /** Whether it is in a log record, and so cannot change any more. */
  sealed: boolean
}

/** Entries whose rows are not written, or being written. */
class Tail {
  readonly byId = new Map<string, Append>()
  readonly byOwner = new Map<string, Append[]>()
  readonly firstAt = Date.now()
  bytes = 0

  add(append: Append): void {
    this.byId.set(append.id, append)
    for (const { owner } of append.owners) {
      const list = this.byOwner.get(owner)
      if (list) list.push(append)
      else this.byOwner.set(owner, [append])
    }
    this.bytes += append.body.length
  }

  /** Owner by owner, so that rows of one page follow each other. */
  rows(): Row[] {
    const rows: Row[] = []
    for (const { id, body } of this.byId.values()) rows.push({ key: `m${encodePart(id)}`, value: body })
    for (const [owner, appends] of this.byOwner) {
      const first = encodePart(owner)
      for (const { id, owners } of appends) {
        for (const key of indexKeys(first, encodePart(withOf(owners, owner)), encodePart(id))) rows.push({ key, value: PRESENT })
      }
    }
    return rows
  }
}

export class ArchiveLog implements AppendLog, LazyRows {
  readonly #store: GroupedStore
  #tail = new Tail()
  /** Tails in groups that are not committed. */
  readonly #flushing: Tail[] = []
  /** Those of the open group. */
  #appends: Append[] = []
  #records: string[] = []
  #lastRecord = 0

  constructor(store: GroupedStore) {
    this.#store = store
    for (const key of store.keys('k', `k${KEY_END}`, Infinity, false)) {
      const record = store.get(key)
      if (record) for (const append of unpack(record)) this.#tail.add(append)
      this.#records.push(key)
    }
    store.lazy = this
    this.flush()
  }

  get bytes(): number {
    let bytes = this.#tail.bytes
    for (const tail of this.#flushing) bytes += tail.bytes
    return bytes
  }

  append(id: string, owners: readonly ArchiveOwner[], body: Buffer): boolean {
    // Shortened keys do not say whose they are, and so cannot be looked up here.
    if (!areShort(owners)) return false
    const append = { id, owners, body, sealed: false }
    this.#tail.add(append)
    this.#appends.push(append)
    this.#store.touch()
    return true
  }

  isPending(key: string): boolean { return this.#store.isPending(key) }

  amend(id: string, owners: readonly ArchiveOwner[], body: Buffer): boolean {
    const append = this.#tail.byId.get(id)
    if (!append || append.sealed || !areShort(owners)) return false
    this.#tail.bytes += body.length - append.body.length
    for (const { owner } of owners) {
      if (append.owners.some((one) => one.owner === owner)) continue
      const list = this.#tail.byOwner.get(owner)
      if (list) list.push(append)
      else this.#tail.byOwner.set(owner, [append])
    }
    append.owners = owners
    append.body = body
    return true
  }

  flush(): void {
    const tail = this.#tail
    if (tail.byId.size === 0) return
    this.#flushing.push(tail)
    this.#store.putRows(tail.rows(), () => { this.#flushing.splice(this.#flushing.indexOf(tail), 1) })
    for (const key of this.#records) this.#store.delete(key)
    this.#tail = new Tail()
    this.#appends = []
    this.#records = []
  }

  /** Writes what came into the open group; called when it is about to be committed. */
  seal(): void {
    if (this.#tail.byId.size >= ENTRIES_MAX || this.#tail.bytes >= BYTES_MAX) this.flush()
    if (this.#appends.length === 0) return
    const key = `k${(++this.#lastRecord).toString(16).padStart(12, '0')}`
    this.#store.put(key, pack(this.#appends))
    this.#records.push(key)
    for (const append of this.#appends) append.sealed = true
    this.#appends = []
  }

  /** Called every few seconds. */
  tick(): void {
    if (this.#tail.byId.size > 0 && Date.now() - this.#tail.firstAt >= FLUSH_MS) this.flush()
  }

  get(key: string): Buffer | undefined {
    const kind = key[0]
    if (kind === 'm') {
      const id = decodePart(key.slice(1, -1))
      let append = this.#tail.byId.get(id)
      for (const tail of this.#flushing) append ??= tail.byId.get(id)
      return append?.body
    }
    return kind === 'a' || kind === 'c' ? this.between(key, `${key}\0`)[0]?.value : undefined
  }

  between(start: string, end: string): Row[] {
    const rows: Row[] = []
    const kind = start[0]
    if (kind !== 'm' && kind !== 'a' && kind !== 'c') return rows
    const add = (key: string, value: Buffer): void => { if (key >= start && key < end) rows.push({ key, value }) }
    const [first = '', second = ''] = start.slice(1).split('\0', 2)
    const owner = decodePart(first)
    const other = decodePart(second)
    for (const tail of [...this.#flushing, this.#tail]) {
      if (kind === 'm') for (const { id, body } of tail.byId.values()) add(`m${encodePart(id)}`, body)
      else for (const { id, owners } of tail.byOwner.get(owner) ?? []) {
        if (kind === 'a') add(`a${first}\0${encodePart(id)}`, PRESENT)
        else if (withOf(owners, owner) === other) add(`c${first}\0${second}\0${encodePart(id)}`, PRESENT)
      }
    }
    return rows
  }
}

function areShort(owners: readonly ArchiveOwner[]): boolean {
  for (const entry of owners) if (entry.owner.length > PART_BYTES_MAX / 3 || entry.with.length > PART_BYTES_MAX / 3) return false
  return true
}

function withOf(owners: readonly ArchiveOwner[], owner: string): string {
  for (const entry of owners) if (entry.owner === owner) return entry.with
  return ''
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
  while (at < record.length) {
    const id = bytes().toString()
    const body = Buffer.from(bytes())
    found.push({ id, owners: ownersOf(body), body, sealed: true })
  }
  return found
}
