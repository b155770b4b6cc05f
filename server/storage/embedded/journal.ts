/**
 * Streams as a journal. What changed in a group is one record (`j number`), however many streams it concerns; a stanza that is
 * acknowledged before its group is sealed never reaches the disk. Now and then a checkpoint writes a snapshot (`s number`) of each
 * stream that has changed, and removes the journal. A start reads the snapshots, then the journal over them.
 *
 * The records are rows of LMDB transactions, so that one is there whole or not at all.
 */
import { StorageError } from '../errors.ts'
import { KEY_END, type OrderedStore } from '../ordered.ts'
import { type StoredStream, type StreamStore, type Value } from '../shapes.ts'
import { dropAcknowledged, type OpenStream, type QueuedPush, StreamTable } from '../streams.ts'

/** A checkpoint comes after so many bytes or records of journal, or this time. */
const JOURNAL_BYTES_MAX = 8 * 1024 * 1024
const JOURNAL_RECORDS_MAX = 8192
export const CHECKPOINT_MS = 60_000

const SEEN_KEY = 't'
const HEADER_BYTES = 8

const OPENED = 1
const STATE = 2
const HANDLED = 4
const ACKNOWLEDGED = 8
const PUSHES = 16
const CLOSED = 32

/** What changed of a stream in the open group. */
interface Delta {
  readonly stream: OpenStream
  flags: number
  pushes: QueuedPush[]
}

export class StreamJournal implements StreamStore {
  readonly #store: OrderedStore & { touch(): void }
  readonly #table = new StreamTable()
  #deltas = new Map<OpenStream, Delta>()
  /** Streams that differ from their snapshots, or that are gone. */
  #changed = new Set<OpenStream>()
  #journal: string[] = []
  #lastRecord = 0
  #journalBytes = 0
  #checkpointAt = Date.now()
  #checkpointDue = false
  #seenAt = 0

  constructor(store: OrderedStore & { touch(): void }) {
    this.#store = store
    this.#read()
  }

  open(id: string, owner: string, resource: string, state: Value): void {
    this.close(id)
    this.#mark(this.#table.open(id, owner, resource, state)).flags = OPENED | STATE
  }

  state(id: string, state: Value): void {
    const stream = this.#table.get(id)
    if (!stream) return
    this.#table.state(id, state)
    this.#mark(stream).flags |= STATE
  }

  handled(id: string, h: number): void {
    const stream = this.#table.get(id)
    if (!stream) return
    stream.handled = h
    this.#mark(stream).flags |= HANDLED
  }

  push(id: string, seq: number, bytes: Buffer): void {
    const stream = this.#table.get(id)
    if (!stream) return
    const push = { seq, bytes }
    stream.queue.push(push)
    this.#mark(stream).pushes.push(push)
  }

  acknowledged(id: string, seq: number): void {
    const stream = this.#table.get(id)
    if (!stream) return
    stream.acknowledged = seq
    dropAcknowledged(stream.queue, seq)
    const delta = this.#mark(stream)
    delta.flags |= ACKNOWLEDGED
    if (delta.pushes.length > 0) dropAcknowledged(delta.pushes, seq)
  }

  close(id: string): void {
    const stream = this.#table.get(id)
    if (!stream) return
    this.#table.close(id)
    const delta = this.#mark(stream)
    // Opened and closed in one group: it never was.
    if (delta.flags & OPENED) {
      this.#deltas.delete(stream)
      this.#changed.delete(stream)
    } else {
      delta.flags = CLOSED
      delta.pushes = []
    }
  }

  load(): readonly StoredStream[] {
    return this.#table.stored(this.#seenAt)
  }

  /** Writes what changed into the open group; called when it is about to be committed. */
  seal(): void {
    if (this.#checkpointDue || this.#journalBytes > JOURNAL_BYTES_MAX || this.#journal.length > JOURNAL_RECORDS_MAX) {
      this.#checkpoint()
      return
    }
    if (this.#deltas.size === 0) return
    const record = pack([...this.#deltas.values()])
    const key = `j${numberKey(++this.#lastRecord)}`
    this.#store.put(key, record)
    this.#journal.push(key)
    this.#journalBytes += record.length
    this.#deltas = new Map()
  }

  /** Called every few seconds: notes that the process lives, and sees to checkpoints. */
  tick(): void {
    if (this.#table.size > 0) this.#store.put(SEEN_KEY, time())
    if (Date.now() - this.#checkpointAt > CHECKPOINT_MS && this.#journal.length > 0) this.checkpoint()
  }

  checkpoint(): void {
    this.#checkpointDue = true
    this.#store.touch()
  }

  #checkpoint(): void {
    for (const stream of this.#changed) {
      const key = `s${numberKey(stream.number)}`
      if (this.#table.get(stream.id) !== stream) this.#store.delete(key)
      else this.#store.put(key, pack([{ stream, flags: OPENED | STATE | HANDLED | ACKNOWLEDGED, pushes: stream.queue }]))
    }
    for (const key of this.#journal) this.#store.delete(key)
    if (this.#table.size > 0) this.#store.put(SEEN_KEY, time())
    this.#changed = new Set()
    this.#deltas = new Map()
    this.#journal = []
    this.#journalBytes = 0
    this.#checkpointAt = Date.now()
    this.#checkpointDue = false
  }

  #mark(stream: OpenStream): Delta {
    let delta = this.#deltas.get(stream)
    if (!delta) {
      delta = { stream, flags: 0, pushes: [] }
      this.#deltas.set(stream, delta)
      this.#changed.add(stream)
      this.#store.touch()
    }
    return delta
  }

  #read(): void {
    const byNumber = new Map<number, OpenStream>()
    for (const key of this.#store.keys('s', `s${KEY_END}`, Infinity, false)) this.#apply(this.#store.get(key), byNumber)
    const snapshots = new Set(byNumber.values())
    for (const key of this.#store.keys('j', `j${KEY_END}`, Infinity, false)) {
      const record = this.#store.get(key)
      this.#apply(record, byNumber)
      this.#journal.push(key)
      this.#journalBytes += record?.length ?? 0
      this.#lastRecord = Number.parseInt(key.slice(1), 16)
    }
    const seen = this.#store.get(SEEN_KEY)
    if (seen) this.#seenAt = Math.max(this.#seenAt, seen.readDoubleBE(0))
    // The next checkpoint replaces the journal, so it must write every stream that the journal may be about.
    if (this.#journal.length > 0) for (const stream of [...snapshots, ...this.#table.all()]) this.#changed.add(stream)
  }

  #apply(record: Buffer | undefined, byNumber: Map<number, OpenStream>): void {
    if (!record) return
    this.#seenAt = Math.max(this.#seenAt, record.readDoubleBE(0))
    let at = HEADER_BYTES
    const uint32 = (): number => { at += 4; return record.readUInt32BE(at - 4) }
    const bytes = (): Buffer => { const length = uint32(); at += length; return record.subarray(at - length, at) }
    while (at < record.length) {
      const number = uint32()
      const flags = uint32()
      let stream = byNumber.get(number)
      if (flags & OPENED) {
        stream = this.#table.restore({
          number, id: bytes().toString(), owner: bytes().toString(), resource: bytes().toString(),
          state: Buffer.alloc(0), handled: 0, acknowledged: 0, queue: [],
        })
        byNumber.set(number, stream)
      }
      if (!stream) throw new StorageError(`the journal of streams is damaged: it speaks of stream ${number}, which was never opened`)
      if (flags & STATE) stream.state = Buffer.from(bytes())
      if (flags & HANDLED) stream.handled = uint32()
      if (flags & PUSHES) for (let count = uint32(); count > 0; count--) stream.queue.push({ seq: uint32(), bytes: Buffer.from(bytes()) })
      if (flags & ACKNOWLEDGED) {
        stream.acknowledged = uint32()
        dropAcknowledged(stream.queue, stream.acknowledged)
      }
      if (flags & CLOSED) this.#table.close(stream.id)
    }
  }
}

function numberKey(number: number): string {
  return number.toString(16).padStart(12, '0')
}

function time(): Buffer {
  const bytes = Buffer.allocUnsafe(8)
  bytes.writeDoubleBE(Date.now(), 0)
  return bytes
}

/** Time (8 bytes), then for each stream its number, flags and what these say follows. */
function pack(deltas: readonly Delta[]): Buffer {
  let size = HEADER_BYTES
  for (const { stream, flags, pushes } of deltas) {
    size += 8
    if (flags & OPENED) size += 12 + Buffer.byteLength(stream.id) + Buffer.byteLength(stream.owner) + Buffer.byteLength(stream.resource)
    if (flags & STATE) size += 4 + stream.state.length
    if (flags & HANDLED) size += 4
    if (flags & ACKNOWLEDGED) size += 4
    if (pushes.length > 0) {
      size += 4 + 8 * pushes.length
      for (const push of pushes) size += push.bytes.length
    }
  }
  const record = Buffer.allocUnsafe(size)
  record.writeDoubleBE(Date.now(), 0)
  let at = HEADER_BYTES
  const bytes = (value: Buffer): void => {
    at = record.writeUInt32BE(value.length, at)
    at += value.copy(record, at)
  }
  const text = (value: string): void => {
    const length = record.write(value, at + 4, 'utf8')
    record.writeUInt32BE(length, at)
    at += 4 + length
  }
  for (const { stream, flags, pushes } of deltas) {
    at = record.writeUInt32BE(stream.number >>> 0, at)
    at = record.writeUInt32BE(pushes.length > 0 ? flags | PUSHES : flags, at)
    if (flags & OPENED) {
      text(stream.id)
      text(stream.owner)
      text(stream.resource)
    }
    if (flags & STATE) bytes(stream.state)
    if (flags & HANDLED) at = record.writeUInt32BE(stream.handled >>> 0, at)
    if (pushes.length > 0) {
      at = record.writeUInt32BE(pushes.length, at)
      for (const push of pushes) {
        at = record.writeUInt32BE(push.seq >>> 0, at)
        bytes(push.bytes)
      }
    }
    if (flags & ACKNOWLEDGED) at = record.writeUInt32BE(stream.acknowledged >>> 0, at)
  }
  return record
}
