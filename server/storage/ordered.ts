/**
 * What the shapes are made of: an ordered map of keys to bytes. Records, archive and offline queue are written once, over
 * this, and run on memory and on LMDB alike.
 *
 * A key is a "byte string": a string of characters up to 0xff, one for each byte. JavaScript then compares keys as bytes,
 * which is the order of their UTF-8, and most keys (ASCII) are the text itself.
 */
import { createHash } from 'node:crypto'

export interface OrderedStore {
  get(key: string): Buffer | undefined
  has(key: string): boolean
  put(key: string, value: Buffer): void
  /** Puts a row whose key has never been there. */
  putNew(key: string, value: Buffer): void
  delete(key: string): void
  /** Keys from `start` (inclusive) to `end` (exclusive): the first `limit`, or the last, in falling order, when `reverse`. */
  keys(start: string, end: string, limit: number, reverse: boolean): string[]
  /** How many keys lie between, at most `limit`. */
  count(start: string, end: string, limit: number): number
}

/** Longer parts of a key are kept as a beginning and a hash: LMDB's keys have at most 1978 bytes. */
export const PART_BYTES_MAX = 400
const PART_BYTES_KEPT = 300
/** Above every byte of a key. */
export const KEY_END = '\xff'

// Plain parts: neither the separator, nor the escape, nor beyond ASCII.
// eslint-disable-next-line no-control-regex
const PLAIN = /^[\x02-\x7f]*$/

/** One part of a key with its terminator 0x00, which is below every byte of a part, so that order holds part by part. */
export function encodePart(part: string): string {
  if (part.length <= PART_BYTES_MAX && PLAIN.test(part)) return part + '\0'
  let bytes = Buffer.from(part, 'utf8').toString('latin1')
  if (bytes.length > PART_BYTES_MAX) {
    const hash = createHash('sha256').update(part).digest('base64url')
    bytes = `${escape(bytes.slice(0, PART_BYTES_KEPT)).slice(0, PART_BYTES_MAX)}\x01\x03${hash}`
  } else bytes = escape(bytes)
  return bytes + '\0'
}

function escape(bytes: string): string {
  return bytes.replaceAll('\x01', '\x01\x02').replaceAll('\0', '\x01\x01')
}

export function encodeKey(parts: readonly string[]): string {
  let key = ''
  for (const part of parts) key += encodePart(part)
  return key
}

/** Whether a part was shortened, so that the key alone does not say it. */
export function isShortened(key: string): boolean {
  return key.includes('\x01\x03')
}

/** The parts of an encoded key that `isShortened` is not true of. */
export function decodeKey(key: string): string[] {
  const parts = key.split('\0')
  parts.pop()
  return parts.map(decodePart)
}

/** The reverse of `encodePart`; without the terminator. */
export function decodePart(part: string): string {
  if (PLAIN.test(part)) return part
  // eslint-disable-next-line no-control-regex
  return Buffer.from(part.replaceAll(/\x01[\x01\x02]/g, (pair) => (pair === '\x01\x01' ? '\0' : '\x01')), 'latin1').toString('utf8')
}

/** Ids sort as text and as bytes alike, and are never shortened. */
const ID = /^[\x21-\x7e]{1,200}$/

/** Throws a RangeError when the text cannot be the id of an archived or a queued stanza. */
export function assertId(id: string): void {
  if (!ID.test(id)) throw new RangeError(`an id has 1 to 200 printable characters of ASCII: ${id.slice(0, 200)}`)
}
