/**
 * Cells as HBase's KeyValueCodec writes them, one after another:
 * length of what follows (4 bytes), length of the key (4), of the value (4); the key: length of the row (2), row, length of the family (1),
 * family, qualifier, timestamp (8), type (1); the value. Numbers are big-endian.
 */
import { ProtocolError } from './errors.ts'

export const CELL_PUT = 4
/** One version. */
export const CELL_DELETE = 8
/** All versions of a column up to the timestamp. */
export const CELL_DELETE_COLUMN = 12
/** All columns of a family up to the timestamp. */
export const CELL_DELETE_FAMILY = 14

export interface Cell {
  readonly row: Buffer
  readonly family: Buffer
  readonly qualifier: Buffer
  /** Milliseconds since 1970, unless it was written with something else. */
  readonly timestamp: number
  readonly type: number
  readonly value: Buffer
}

const FIXED_BYTES = 4 + 4 + 4 + 2 + 1 + 8 + 1
const ROW_BYTES_MAX = 0x7fff
const FAMILY_BYTES_MAX = 0x7f

export function cellSize(row: Buffer, family: Buffer, qualifier: Buffer, value: Buffer): number {
  return FIXED_BYTES + row.length + family.length + qualifier.length + value.length
}

/** Writes a cell; answers where it ends. Throws a RangeError when the row or the family is too long. */
export function writeCell(to: Buffer, at: number, row: Buffer, family: Buffer, qualifier: Buffer, timestamp: number | undefined, type: number, value: Buffer): number {
  assertRow(row)
  if (family.length > FAMILY_BYTES_MAX) throw new RangeError(`the name of a family has at most ${FAMILY_BYTES_MAX} bytes`)
  const keyBytes = 2 + row.length + 1 + family.length + qualifier.length + 8 + 1
  at = writeUint32(to, at, 8 + keyBytes + value.length)
  at = writeUint32(to, at, keyBytes)
  at = writeUint32(to, at, value.length)
  to[at++] = row.length >> 8
  to[at++] = row.length
  to.set(row, at)
  at += row.length
  to[at++] = family.length
  to.set(family, at)
  at += family.length
  to.set(qualifier, at)
  at += qualifier.length
  at = timestamp === undefined ? writeUint32(to, writeUint32(to, at, 0x7fffffff), 0xffffffff) : writeUint32(to, writeUint32(to, at, Math.floor(timestamp / 2 ** 32)), timestamp % 2 ** 32)
  to[at++] = type
  to.set(value, at)
  return at + value.length
}

export function assertRow(row: Buffer): void {
  if (row.length === 0 || row.length > ROW_BYTES_MAX) throw new RangeError(`a row has 1 to ${ROW_BYTES_MAX} bytes`)
}

function writeUint32(to: Buffer, at: number, value: number): number {
  to[at] = value >>> 24
  to[at + 1] = value >>> 16
  to[at + 2] = value >>> 8
  to[at + 3] = value
  return at + 4
}

/** Reads cells one after another. Their bytes are views of `bytes`. */
export class CellReader {
  readonly #bytes: Buffer
  #at = 0

  constructor(bytes: Buffer) {
    this.#bytes = bytes
  }

  get isAtEnd(): boolean { return this.#at === this.#bytes.length }

  /** Throws a ProtocolError when what is there is no cell. */
  next(): Cell {
    const bytes = this.#bytes
    let at = this.#at
    if (at + 12 > bytes.length) throw new ProtocolError('a cell ends early')
    const end = at + 4 + bytes.readUInt32BE(at)
    const keyBytes = bytes.readUInt32BE(at + 4)
    const keyEnd = at + 12 + keyBytes
    const valueEnd = keyEnd + bytes.readUInt32BE(at + 8)
    at += 12
    // Tags may follow the value.
    if (end > bytes.length || valueEnd > end || keyBytes < 12) throw new ProtocolError('a cell ends early')
    const rowEnd = at + 2 + bytes.readUInt16BE(at)
    if (rowEnd + 10 > keyEnd) throw new ProtocolError('a row is longer than its key')
    const row = bytes.subarray(at + 2, rowEnd)
    const familyEnd = rowEnd + 1 + (bytes[rowEnd] as number)
    if (familyEnd + 9 > keyEnd) throw new ProtocolError('a family is longer than its key')
    this.#at = end
    return {
      row,
      family: bytes.subarray(rowEnd + 1, familyEnd),
      qualifier: bytes.subarray(familyEnd, keyEnd - 9),
      timestamp: bytes.readInt32BE(keyEnd - 9) * 2 ** 32 + bytes.readUInt32BE(keyEnd - 5),
      type: bytes[keyEnd - 1] as number,
      value: bytes.subarray(keyEnd, valueEnd),
    }
  }

  take(count: number): Cell[] {
    const cells: Cell[] = []
    for (let i = 0; i < count; i++) cells.push(this.next())
    return cells
  }
}
