/**
 * New archive entries become durable as one log record a group (`k number`): one row at the end of the database instead of
 * five at five places. Until enough have come they are found here, in memory (the tail); then their rows are written, some in
 * each group, and the last of these groups removes the log records. A start writes the rows of the records it finds.
 */
import { type AppendLog, type ArchiveOwner, indexKeys, ownersOf, PRESENT } from '../archive.ts'
import { decodePart, encodePart, KEY_END, PART_BYTES_MAX } from '../ordered.ts'
import { type GroupedStore, type LazyRows, type Row } from './groups.ts'

/** The rows are written after so many entries or bytes, or this time. */
const ENTRIES_MAX = 4000
const BYTES_MAX = 4 * 1024 * 1024
export const FLUSH_MS = 10_000
/** Rows that one group writes, so that neither the process nor the group is held up for long. */
const ROWS_A_GROUP = 2000

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
  /** Its log records. */
  readonly records: string[] = []
  bytes = 0
  #left: Iterator<Row> | undefined

  add(append: Append): void {
    this.byId.set(append.id, append)
    for (const { owner } of append.owners) {
      const list = this.byOwner.get(owner)
      if (list) list.push(append)
      else this.byOwner.set(owner, [append])
    }
    this.bytes += append.body.length
  }

  /** The next rows to write; fewer than `max` when there are no more. */
  take(max: number): Row[] {
    this.#left ??= this.#rows()
    const rows: Row[] = []
    while (rows.length < max) {
      const next = this.#left.next()
      if (next.done) break
      rows.push(next.value)
    }
    return rows
  }

  /** Owner by owner, so that rows of one page follow each other. */
  *#rows(): Generator<Row, undefined> {
    for (const { id, body } of this.byId.values()) yield { key: `m${encodePart(id)}`, value: body }
    for (const [owner, appends] of this.byOwner) {
      const first = encodePart(owner)
      for (const { id, owners } of appends) {
        for (const key of indexKeys(first, encodePart(withOf(owners, owner)), encodePart(id))) yield { key, value: PRESENT }
      }
    }
    return undefined
  }
}

export class ArchiveLog implements AppendLog, LazyRows {
  readonly #store: GroupedStore
  #tail = new Tail()
  /** Tails with rows to write, the oldest first. */
  readonly #writing: Tail[] = []
  /** Tails whose last rows are in a group that is not committed. */
  readonly #written: Tail[] = []
  /** Those of the open group. */
  #appends: Append[] = []
  #lastRecord = 0

  constructor(store: GroupedStore) {
    this.#store = store
    for (const key of store.keys('k', `k${KEY_END}`, Infinity, false)) {
      const record = store.get(key)
      if (record) for (const append of unpack(record)) this.#tail.add(append)
      this.#tail.records.push(key)
    }
    store.lazy = this
    this.flush()
  }

  get bytes(): number {
    let bytes = this.#tail.bytes
    for (const tail of this.#older()) bytes += tail.bytes
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
    this.#turnOver()
    while (this.#writing.length > 0) this.#writeSome(Infinity)
  }

  /** Begins a new tail, and has the rows of the old one written. */
  #turnOver(): void {
    if (this.#tail.byId.size === 0) return
    this.#writing.push(this.#tail)
    this.#tail = new Tail()
    // Those of the open group are in no log record yet.
    const unsealed = this.#appends
    this.#appends = []
    this.#logged(unsealed, this.#writing.at(-1) as Tail)
  }

  #writeSome(max: number): void {
    const tail = this.#writing[0]
    if (!tail) return
    const rows = tail.take(max)
    const isLast = rows.length < max
    if (isLast) {
      this.#writing.shift()
      this.#written.push(tail)
      for (const key of tail.records) this.#store.delete(key)
    }
    this.#store.putRows(rows, () => { if (isLast) this.#written.splice(this.#written.indexOf(tail), 1) })
  }

  #logged(appends: readonly Append[], tail: Tail): void {
    if (appends.length === 0) return
    const key = `k${(++this.#lastRecord).toString(16).padStart(12, '0')}`
    this.#store.put(key, pack(appends))
    tail.records.push(key)
    for (const append of appends) append.sealed = true
  }

  #older(): Tail[] {
    return [...this.#written, ...this.#writing]
  }

  /** Writes what came into the open group; called when it is about to be committed. */
  seal(): void {
    const appends = this.#appends
    this.#appends = []
    this.#logged(appends, this.#tail)
    if (this.#tail.byId.size >= ENTRIES_MAX || this.#tail.bytes >= BYTES_MAX) this.#turnOver()
    this.#writeSome(ROWS_A_GROUP)
    if (this.#writing.length > 0) this.#store.touchNext()
  }

  /** Called every few seconds. */
  tick(): void {
    if (this.#tail.byId.size > 0 && Date.now() - this.#tail.firstAt >= FLUSH_MS) this.#turnOver()
    if (this.#writing.length > 0) this.#store.touch()
  }

  get(key: string): Buffer | undefined {
    const kind = key[0]
    if (kind === 'm') {
      const id = decodePart(key.slice(1, -1))
      let append = this.#tail.byId.get(id)
      for (const tail of this.#older()) append ??= tail.byId.get(id)
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
    for (const tail of [...this.#older(), this.#tail]) {
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
