/**
 * Messages between the processes of one machine, over a Unix socket: length of what follows (4 bytes), kind (1), number of the question that it is or
 * answers (4), body. Those of a turn of the event loop leave together.
 */
import { type Socket } from 'node:net'
import { RecordReader, RecordWriter } from '../../storage/groups/record.ts'

const HEADER_BYTES = 9
/** More is no message of ours. */
const MESSAGE_BYTES_MAX = 1024 ** 3
/** With more on its way the other side takes less than it is given. */
const UNSENT_BYTES_MAX = 16 * 1024 * 1024

export interface WireParts {
  /** A message has come. The reader, and what it reads, may be kept. Throws when the message is none of ours. */
  onMessage(kind: number, question: number, body: RecordReader): void
  /** The connection is over, whoever ended it; with the reason when a message could not be read. Called once. */
  onClose(error?: unknown): void
  /** Nothing is read while the other side does not take what it is given. At one end alone, or both would wait. */
  readonly isPatient?: boolean
}

export class Wire {
  readonly #socket: Socket
  readonly #parts: WireParts
  readonly #writer = new RecordWriter()
  #isScheduled = false
  /** What has come of the next message, which has `#needed` bytes with its length. */
  #received: Buffer[] = []
  #receivedBytes = 0
  #needed = 4
  #isOver = false

  constructor(socket: Socket, parts: WireParts) {
    this.#socket = socket
    this.#parts = parts
    socket.on('data', (chunk: Buffer) => { this.#take(chunk) })
    socket.on('error', () => { this.close() })
    socket.on('close', () => { this.close() })
    socket.on('drain', () => { socket.resume() })
  }

  /** Bytes that the other side has not taken. */
  get unsentBytes(): number { return this.#socket.writableLength + this.#writer.size }

  send(kind: number, question: number, write?: (body: RecordWriter) => void): void {
    if (this.#isOver) return
    const writer = this.#writer
    const place = writer.reserve()
    writer.uint8(kind)
    writer.uint32(question)
    write?.(writer)
    writer.fill(place)
    if (this.#isScheduled) return
    this.#isScheduled = true
    setImmediate(this.#flush)
  }

  /** Nothing comes or goes any more. */
  close(error?: unknown): void {
    if (this.#isOver) return
    this.#isOver = true
    this.#received = []
    this.#socket.destroy()
    this.#parts.onClose(error)
  }

  readonly #flush = (): void => {
    this.#isScheduled = false
    if (this.#isOver || this.#writer.isEmpty) return
    this.#socket.write(Buffer.from(this.#writer.finish()))
    this.#writer.reset()
    if (this.#parts.isPatient === true && this.#socket.writableLength > UNSENT_BYTES_MAX) this.#socket.pause()
  }

  #take(chunk: Buffer): void {
    this.#received.push(chunk)
    this.#receivedBytes += chunk.length
    if (this.#receivedBytes < this.#needed) return
    const all = this.#received.length === 1 ? chunk : Buffer.concat(this.#received)
    let at = 0
    this.#needed = 4
    try {
      while (all.length - at >= 4) {
        const length = all.readUInt32BE(at)
        if (length < HEADER_BYTES - 4 || length > MESSAGE_BYTES_MAX) throw new RangeError('a message has no such length')
        this.#needed = 4 + length
        if (all.length - at < this.#needed) break
        this.#parts.onMessage(all.readUInt8(at + 4), all.readUInt32BE(at + 5), new RecordReader(all.subarray(at + HEADER_BYTES, at + this.#needed)))
        if (this.#isOver) return
        at += this.#needed
        this.#needed = 4
      }
    } catch (error) {
      return this.close(error)
    }
    this.#received = at < all.length ? [all.subarray(at)] : []
    this.#receivedBytes = all.length - at
  }
}
