/** Bytes of the log's records, written and read piece by piece. Numbers are big-endian. */

const FIRST_BYTES = 16 * 1024
/** A buffer larger than this is not kept for the next record. */
const KEPT_BYTES = 1024 * 1024

/** Grows as needed, and is used again for the next record. */
export class RecordWriter {
  #buffer: Buffer
  #at: number
  readonly #headroom: number

  /** `headroom`: bytes left free at the beginning, for a header. */
  constructor(headroom = 0) {
    this.#headroom = headroom
    this.#at = headroom
    this.#buffer = Buffer.allocUnsafe(FIRST_BYTES)
  }

  /** Bytes written, without the headroom. */
  get size(): number { return this.#at - this.#headroom }
  get isEmpty(): boolean { return this.#at === this.#headroom }

  uint8(value: number): void {
    this.#need(1)
    this.#buffer[this.#at++] = value
  }

  uint32(value: number): void {
    this.#need(4)
    this.#at = this.#buffer.writeUInt32BE(value >>> 0, this.#at)
  }

  double(value: number): void {
    this.#need(8)
    this.#at = this.#buffer.writeDoubleBE(value, this.#at)
  }

  /** Length (4 bytes) and bytes, which may come in parts. */
  bytes(...parts: readonly Uint8Array[]): void {
    let length = 0
    for (const part of parts) length += part.length
    this.#need(4 + length)
    this.#at = this.#buffer.writeUInt32BE(length, this.#at)
    for (const part of parts) {
      this.#buffer.set(part, this.#at)
      this.#at += part.length
    }
  }

  /** Bytes without their length. */
  raw(bytes: Uint8Array): void {
    this.#need(bytes.length)
    this.#buffer.set(bytes, this.#at)
    this.#at += bytes.length
  }

  /** Length (4 bytes) and the text in UTF-8. */
  text(value: string): void {
    this.#need(4 + 3 * value.length)
    const length = this.#buffer.write(value, this.#at + 4, 'utf8')
    this.#buffer.writeUInt32BE(length, this.#at)
    this.#at += 4 + length
  }

  /** A byte string (see ordered.ts), as `text`. */
  latin1(value: string): void {
    this.#need(4 + value.length)
    this.#at = this.#buffer.writeUInt32BE(value.length, this.#at)
    this.#at += this.#buffer.write(value, this.#at, 'latin1')
  }

  /** A place for a number that is not known yet; see `fill`. */
  reserve(): number {
    this.uint32(0)
    return this.#at - 4
  }

  /** Writes into a place reserved how many bytes have followed it. */
  fill(place: number): void {
    this.#buffer.writeUInt32BE(this.#at - place - 4, place)
  }

  /** Everything so far with the headroom, padded with zeros to a multiple of `align`. Valid until `reset`. */
  finish(align = 1): Buffer {
    const end = Math.ceil(this.#at / align) * align
    this.#need(end - this.#at)
    this.#buffer.fill(0, this.#at, end)
    return this.#buffer.subarray(0, end)
  }

  reset(): void {
    this.#at = this.#headroom
    if (this.#buffer.length > KEPT_BYTES) this.#buffer = Buffer.allocUnsafe(FIRST_BYTES)
  }

  #need(bytes: number): void {
    const needed = this.#at + bytes
    if (needed <= this.#buffer.length) return
    const larger = Buffer.allocUnsafe(Math.max(needed, this.#buffer.length * 2))
    this.#buffer.copy(larger, 0, 0, this.#at)
    this.#buffer = larger
  }
}

/** Reads what `RecordWriter` wrote. Throws a RangeError beyond the end. */
export class RecordReader {
  readonly #buffer: Buffer
  #at = 0

  constructor(buffer: Buffer) { this.#buffer = buffer }

  get isAtEnd(): boolean { return this.#at >= this.#buffer.length }

  uint8(): number { return this.#buffer.readUInt8(this.#at++) }

  uint32(): number {
    this.#at += 4
    return this.#buffer.readUInt32BE(this.#at - 4)
  }

  double(): number {
    this.#at += 8
    return this.#buffer.readDoubleBE(this.#at - 8)
  }

  /** A view, not a copy. */
  bytes(): Buffer { return this.take(this.uint32()) }

  /** The next so many bytes; a view too. */
  take(length: number): Buffer {
    if (this.#at + length > this.#buffer.length) throw new RangeError('the record is shorter than it says')
    this.#at += length
    return this.#buffer.subarray(this.#at - length, this.#at)
  }

  text(): string { return this.bytes().toString('utf8') }
  latin1(): string { return this.bytes().toString('latin1') }
}
