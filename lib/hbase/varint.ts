/** Integers of Protocol Buffers' wire format, base 128, least significant group first. */

/** Reads one of up to 53 bits at `at`. Answers the value and where it ends, or undefined when the bytes end first; throws a RangeError when it is longer. */
export function readVarint(bytes: Uint8Array, at: number): { readonly value: number; readonly end: number } | undefined {
  let value = 0
  let factor = 1
  for (let end = at; end < bytes.length; end++) {
    const byte = bytes[end] as number
    value += (byte & 0x7f) * factor
    if (value > Number.MAX_SAFE_INTEGER) throw new RangeError('an integer is too long')
    if (byte < 0x80) return { value, end: end + 1 }
    factor *= 128
    if (end - at >= 8) throw new RangeError('an integer is too long')
  }
  return undefined
}

export function varintSize(value: number): number {
  let size = 1
  while (value >= 128) {
    value = Math.floor(value / 128)
    size++
  }
  return size
}

/** Writes a whole number of up to 53 bits; answers where it ends. */
export function writeVarint(bytes: Uint8Array, at: number, value: number): number {
  while (value >= 128) {
    bytes[at++] = (value % 128) | 128
    value = Math.floor(value / 128)
  }
  bytes[at++] = value
  return at
}
