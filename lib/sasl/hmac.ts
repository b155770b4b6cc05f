/** Hashes with a key, of short texts. */
import { hash } from 'node:crypto'

export type HmacHash = 'sha1' | 'sha256' | 'sha512'

/** B of RFC 2104 §2, bytes. */
const BLOCK_BYTES: Readonly<Record<HmacHash, number>> = { sha1: 64, sha256: 64, sha512: 128 }

/**
 * RFC 2104 §2, of two hashes that are made at once: an object of Node's `createHmac`, used for one text, takes several times as long.
 * Digests come as strings, for a buffer of its own is what Node takes longest over.
 */
export function hmac(name: HmacHash, key: Uint8Array, text: string | Uint8Array): Buffer {
  const block = BLOCK_BYTES[name]
  const padded = key.length > block ? Buffer.from(hash(name, key, 'binary'), 'latin1') : key
  const data = typeof text === 'string' ? Buffer.from(text) : text
  const inner = Buffer.allocUnsafe(block + data.length)
  pad(inner, padded, block, 0x36)
  inner.set(data, block)
  const digest = hash(name, inner, 'binary')
  const outer = Buffer.allocUnsafe(block + digest.length)
  pad(outer, padded, block, 0x5c)
  outer.write(digest, block, 'latin1')
  return Buffer.from(hash(name, outer, 'binary'), 'latin1')
}

function pad(bytes: Buffer, key: Uint8Array, block: number, value: number): void {
  for (let i = 0; i < block; i++) bytes[i] = (key[i] ?? 0) ^ value
}
