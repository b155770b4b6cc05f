/**
 * Streams as a journal. What changed in a group is one section of its log record, however many streams it concerns; a stanza
 * that is acknowledged before its group is sealed never reaches the disk. When the log turns over, each stream that has changed
 * becomes a row of the database, as it stands (`s number`).
 *
 * A row may say more than the log's old segment does. So each change of a stream has a number (revision), and a start passes
 * over those that the row shows already.
 */
import { KEY_END, type OrderedStore } from '../ordered.ts'
import { type StoredStream, type StreamStore, type Value } from '../shapes.ts'
import { dropAcknowledged, type OpenStream, type QueuedPush, StreamTable } from '../streams.ts'
import { type Row } from '../groups/database.ts'
import { FIRST_SECTION, type Participant, type SectionWriter } from '../groups/groups.ts'
import { RecordReader, RecordWriter } from '../groups/record.ts'

const SEEN_KEY = 't'

const OPENED = 1
const STATE = 2
const HANDLED = 4
const ACKNOWLEDGED = 8
/** Each with its bytes as a whole, as earlier versions wrote them. */
const WHOLE_PUSHES = 16
const CLOSED = 32
const PUSHES = 64

/** Parts of stanzas that are so long are in a section once, however many copies they are a part of. */
const SHARED_BYTES_MIN = 64
/** In place of a length: the number of a long part of this section. */
const SHARED = 0x8000_0000

type Store = OrderedStore & SectionWriter & { touch(): void }

/** What changed of a stream in the open group. */
interface Delta {
  readonly stream: OpenStream
  flags: number
  pushes: QueuedPush[]
}

export class StreamJournal implements StreamStore, Participant {
  readonly section = FIRST_SECTION
  readonly #store: Store
  readonly #table = new StreamTable()
  #deltas = new Map<OpenStream, Delta>()
  /** Streams that differ from their rows, or that are gone. */
  #changed = new Set<OpenStream>()
  /** Those of the old segment of the log. */
  #toWrite = new Set<OpenStream>()
  #byNumber: Map<number, OpenStream> | undefined = new Map()
  #seenAt = 0

  constructor(store: Store) {
    this.#store = store
    for (const key of store.keys('s', `s${KEY_END}`, Infinity, false)) {
      const row = store.get(key)
      if (row) this.replay(new RecordReader(row))
    }
    this.#changed.clear()
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

  push(id: string, seq: number, ...parts: readonly Buffer[]): void {
    const stream = this.#table.get(id)
    if (!stream) return
    const push = { seq, parts }
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
    this.#byNumber = undefined
    const seen = this.#store.get(SEEN_KEY)
    return this.#table.stored(Math.max(this.#seenAt, seen?.readDoubleBE(0) ?? 0))
  }

  /** Called every few seconds: notes that the process lives. */
  tick(): void {
    if (this.#table.size > 0) this.#store.put(SEEN_KEY, time())
  }

  seal(writer: SectionWriter): void {
    if (this.#deltas.size === 0) return
    const deltas = this.#deltas
    this.#deltas = new Map()
    writer.section(this, (to) => { pack(to, deltas.values()) })
  }

  turnOver(): void {
    this.#toWrite = this.#changed
    this.#changed = new Set()
  }

  *rows(): Generator<Row | undefined, undefined> {
    const writer = new RecordWriter()
    for (const stream of this.#toWrite) {
      const key = `s${stream.number.toString(16).padStart(12, '0')}`
      let value: Buffer | undefined
      if (this.#table.get(stream.id) === stream) {
        // What is not in the log yet gets its section now, and what comes after it another.
        if (this.#deltas.has(stream)) this.seal(this.#store)
        writer.reset()
        pack(writer, [{ stream, flags: OPENED | STATE | HANDLED | ACKNOWLEDGED, pushes: stream.queue }])
        value = Buffer.from(writer.finish())
      }
      yield { key, value }
      yield undefined
    }
    return undefined
  }

  applied(): void { this.#toWrite = new Set() }

  replay(section: RecordReader): void {
    this.#seenAt = Math.max(this.#seenAt, section.double())
    const shared: Buffer[] = []
    while (!section.isAtEnd) {
      const number = section.uint32()
      const revision = section.uint32()
      const flags = section.uint32()
      let stream = this.#byNumber?.get(number)
      if (flags & OPENED) {
        const id = section.text()
        const owner = section.text()
        const resource = section.text()
        // When a row shows a later stream of this id, the log closes this one further on.
        if (stream?.id !== id && !((this.#table.get(id)?.number ?? 0) > number)) {
          stream = this.#table.restore({ number, revision: revision - 1, id, owner, resource, state: Buffer.alloc(0), handled: 0, acknowledged: 0, queue: [] })
          this.#byNumber?.set(number, stream)
        }
      }
      // What the rows show already, the end of a stream too, is read and forgotten.
      const isNews = stream !== undefined && stream.revision < revision
      const forgotten = { ...NO_STREAM, queue: [] }
      replayDelta(section, flags, isNews ? stream as OpenStream : forgotten, shared)
      if (!stream || !isNews) continue
      stream.revision = revision
      this.#changed.add(stream)
      if (flags & CLOSED) {
        if (this.#table.get(stream.id) === stream) this.#table.close(stream.id)
        this.#byNumber?.delete(number)
      }
    }
  }

  #mark(stream: OpenStream): Delta {
    let delta = this.#deltas.get(stream)
    if (!delta) {
      delta = { stream, flags: 0, pushes: [] }
      stream.revision++
      this.#deltas.set(stream, delta)
      this.#changed.add(stream)
      this.#store.touch()
    }
    return delta
  }
}

function time(): Buffer {
  const bytes = Buffer.allocUnsafe(8)
  bytes.writeDoubleBE(Date.now(), 0)
  return bytes
}

const NO_STREAM: OpenStream = { number: 0, revision: 0, id: '', owner: '', resource: '', state: Buffer.alloc(0), handled: 0, acknowledged: 0, queue: [] }

/** Time, then for each stream its number, revision, flags and what these say follows. */
function pack(writer: RecordWriter, deltas: Iterable<Delta>): void {
  const shared = new Map<Buffer, number>()
  writer.double(Date.now())
  for (const { stream, flags, pushes } of deltas) {
    writer.uint32(stream.number)
    writer.uint32(stream.revision)
    writer.uint32(pushes.length > 0 ? flags | PUSHES : flags)
    if (flags & OPENED) {
      writer.text(stream.id)
      writer.text(stream.owner)
      writer.text(stream.resource)
    }
    if (flags & STATE) writer.bytes(stream.state)
    if (flags & HANDLED) writer.uint32(stream.handled)
    if (pushes.length > 0) {
      writer.uint32(pushes.length)
      for (const push of pushes) {
        writer.uint32(push.seq)
        writer.uint8(push.parts.length)
        for (const part of push.parts) packPart(writer, part, shared)
      }
    }
    if (flags & ACKNOWLEDGED) writer.uint32(stream.acknowledged)
  }
}

/** `shared`: the long parts of the section by their numbers. */
function packPart(writer: RecordWriter, part: Buffer, shared: Map<Buffer, number>): void {
  if (part.length >= SHARED_BYTES_MIN) {
    const number = shared.get(part)
    if (number !== undefined) return writer.uint32(SHARED + number)
    shared.set(part, shared.size)
  }
  writer.bytes(part)
}

function replayPart(section: RecordReader, shared: Buffer[]): Buffer {
  const length = section.uint32()
  if (length >= SHARED) {
    const part = shared[length - SHARED]
    if (part === undefined) throw new RangeError('the record has no such part')
    return part
  }
  const part = Buffer.from(section.take(length))
  if (length >= SHARED_BYTES_MIN) shared.push(part)
  return part
}

function replayDelta(section: RecordReader, flags: number, stream: OpenStream, shared: Buffer[]): void {
  if (flags & STATE) stream.state = Buffer.from(section.bytes())
  if (flags & HANDLED) stream.handled = section.uint32()
  if (flags & WHOLE_PUSHES) for (let count = section.uint32(); count > 0; count--) stream.queue.push({ seq: section.uint32(), parts: [Buffer.from(section.bytes())] })
  if (flags & PUSHES) {
    for (let count = section.uint32(); count > 0; count--) {
      const seq = section.uint32()
      stream.queue.push({ seq, parts: Array.from({ length: section.uint8() }, () => replayPart(section, shared)) })
    }
  }
  if (flags & ACKNOWLEDGED) {
    stream.acknowledged = section.uint32()
    dropAcknowledged(stream.queue, stream.acknowledged)
  }
}
