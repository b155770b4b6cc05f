/**
 * Changes of history as messages of the queue. The key is the owner; the value: version of this format (1 byte), kind (1), version of
 * the change (8), then of a change: length of its id (1), id, length of `with` (2), `with`, the stanza; of a purge: the time (8) if there is one.
 * Several of one owner are one message: version of this format (1), kind (1), and each after its length (4).
 */
import type { HistoryEntry } from '../shapes.ts'

const FORMAT = 1
const CHANGE = 0
const REMOVAL = 1
const PURGE = 2
const SEVERAL = 3
const HEADER_BYTES = 10

/** The message is none of ours, or of a later version. */
export class BadEntry extends Error {}

export function encodeEntry(entry: HistoryEntry): Buffer {
  if ('purge' in entry) {
    const buffer = Buffer.allocUnsafe(HEADER_BYTES + (entry.before === undefined ? 0 : 8))
    writeHeader(buffer, PURGE, entry.version)
    if (entry.before !== undefined) buffer.writeDoubleBE(entry.before, HEADER_BYTES)
    return buffer
  }
  const { id, with: other, bytes } = entry
  const otherBytes = Buffer.byteLength(other)
  if (id.length > 0xff || otherBytes > 0xffff) throw new RangeError('an id of more than 255 characters, or an address of more than 65535 bytes')
  const buffer = Buffer.allocUnsafe(HEADER_BYTES + 3 + id.length + otherBytes + (bytes?.length ?? 0))
  writeHeader(buffer, bytes === undefined ? REMOVAL : CHANGE, entry.version)
  buffer[HEADER_BYTES] = id.length
  let at = HEADER_BYTES + 1
  at += buffer.write(id, at, 'latin1')
  at = buffer.writeUInt16BE(otherBytes, at)
  at += buffer.write(other, at)
  if (bytes !== undefined) bytes.copy(buffer, at)
  return buffer
}

/** Of the values of one owner's messages one. */
export function joinValues(values: readonly Buffer[]): Buffer {
  const [first] = values
  if (values.length === 1 && first !== undefined) return first
  const buffer = Buffer.allocUnsafe(values.reduce((sum, value) => sum + 4 + value.length, 2))
  buffer[0] = FORMAT
  buffer[1] = SEVERAL
  let at = 2
  for (const value of values) {
    at = buffer.writeUInt32BE(value.length, at)
    at += value.copy(buffer, at)
  }
  return buffer
}

/** The entries of a message, in order. Throws `BadEntry` for what is none of ours. */
export function decodeEntries(key: Buffer | null, value: Buffer | null): readonly HistoryEntry[] {
  if (value === null || value[0] !== FORMAT || value[1] !== SEVERAL) return [decodeEntry(key, value)]
  const entries: HistoryEntry[] = []
  for (let at = 2; at < value.length;) {
    const end = at + 4 + (at + 4 <= value.length ? value.readUInt32BE(at) : 0)
    if (end === at + 4 || end > value.length) throw new BadEntry('length of one of several')
    entries.push(decodeEntry(key, value.subarray(at + 4, end)))
    at = end
  }
  if (entries.length === 0) throw new BadEntry('several that are none')
  return entries
}

function writeHeader(buffer: Buffer, kind: number, version: number): void {
  buffer[0] = FORMAT
  buffer[1] = kind
  buffer.writeDoubleBE(version, 2)
}

/** Throws `BadEntry` for what `encodeEntry` has not made. The stanza shares the message's bytes. */
export function decodeEntry(key: Buffer | null, value: Buffer | null): HistoryEntry {
  if (key === null || key.length === 0) throw new BadEntry('no key')
  if (value === null || value.length < HEADER_BYTES) throw new BadEntry('too short')
  if (value[0] !== FORMAT) throw new BadEntry(`format ${value[0]}`)
  const owner = key.toString()
  const version = value.readDoubleBE(2)
  if (!Number.isSafeInteger(version)) throw new BadEntry('no version')
  const kind = value[1]
  if (kind === PURGE) {
    if (value.length !== HEADER_BYTES && value.length !== HEADER_BYTES + 8) throw new BadEntry('length of a purge')
    return { owner, purge: true, before: value.length === HEADER_BYTES ? undefined : value.readDoubleBE(HEADER_BYTES), version }
  }
  if (kind !== CHANGE && kind !== REMOVAL) throw new BadEntry(`kind ${kind}`)
  const idEnd = HEADER_BYTES + 1 + (value[HEADER_BYTES] ?? 0)
  if (idEnd === HEADER_BYTES + 1 || idEnd + 2 > value.length) throw new BadEntry('length of the id')
  const withEnd = idEnd + 2 + value.readUInt16BE(idEnd)
  if (withEnd > value.length || (kind === REMOVAL && withEnd !== value.length)) throw new BadEntry('length of the address')
  return {
    owner,
    id: value.latin1Slice(HEADER_BYTES + 1, idEnd),
    with: value.utf8Slice(idEnd + 2, withEnd),
    bytes: kind === REMOVAL ? undefined : value.subarray(withEnd),
    version,
  }
}
