/** What the first bytes of an image say of it. */

export interface ImageInfo {
  readonly type: string
  /** Pixels. */
  readonly width: number | undefined
  readonly height: number | undefined
}

/** Knows PNG, GIF, JPEG and WebP; undefined for anything else. */
export function imageInfo(image: Buffer): ImageInfo | undefined {
  const starts = (bytes: string, at = 0): boolean => image.subarray(at, at + bytes.length).equals(Buffer.from(bytes, 'latin1'))
  if (starts('\x89PNG\r\n\x1a\n')) {
    const whole = image.length >= 24
    return { type: 'image/png', width: whole ? image.readUInt32BE(16) : undefined, height: whole ? image.readUInt32BE(20) : undefined }
  }
  if (starts('GIF87a') || starts('GIF89a')) {
    const whole = image.length >= 10
    return { type: 'image/gif', width: whole ? image.readUInt16LE(6) : undefined, height: whole ? image.readUInt16LE(8) : undefined }
  }
  if (starts('\xff\xd8\xff')) return { type: 'image/jpeg', ...jpegSize(image) }
  if (starts('RIFF') && starts('WEBP', 8)) return { type: 'image/webp', ...webpSize(image) }
  return undefined
}

/** Of the first chunk (RFC 9649 §2.5 to §2.7). */
function webpSize(image: Buffer): { width: number | undefined; height: number | undefined } {
  if (image.length < 30) return { width: undefined, height: undefined }
  switch (image.toString('latin1', 12, 16)) {
    case 'VP8 ': return { width: image.readUInt16LE(26) & 0x3fff, height: image.readUInt16LE(28) & 0x3fff }
    case 'VP8L': {
      const bits = image.readUInt32LE(21)
      return { width: (bits & 0x3fff) + 1, height: ((bits >>> 14) & 0x3fff) + 1 }
    }
    case 'VP8X': return { width: image.readUIntLE(24, 3) + 1, height: image.readUIntLE(27, 3) + 1 }
    default: return { width: undefined, height: undefined }
  }
}

/** Of the frame header (ITU T.81 §B.2.2). */
function jpegSize(image: Buffer): { width: number | undefined; height: number | undefined } {
  let at = 2
  while (at + 9 <= image.length && image[at] === 0xff) {
    const marker = image[at + 1] as number
    if (marker === 0xff) {
      at++
      continue
    }
    const isFrame = marker >= 0xc0 && marker <= 0xcf && marker !== 0xc4 && marker !== 0xc8 && marker !== 0xcc
    if (isFrame) return { width: image.readUInt16BE(at + 7), height: image.readUInt16BE(at + 5) }
    at += 2 + image.readUInt16BE(at + 2)
  }
  return { width: undefined, height: undefined }
}
