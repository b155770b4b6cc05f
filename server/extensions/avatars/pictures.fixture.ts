/** Pictures for tests of what converts them. */
import { randomBytes } from 'node:crypto'
import type { ImageFormat } from './converter-work.ts'

type Reader = (typeof import('sharp'))['default']

export async function reader(): Promise<Reader> {
  return (await import('sharp')).default
}

/** One colour; two pictures of different colours have different bytes. */
export async function picture(format: ImageFormat, width: number, height: number, background = '#336699'): Promise<Buffer> {
  return (await reader())({ create: { width, height, channels: 3, background } }).toFormat(format).toBuffer()
}

/** A picture that cannot be compressed well. */
export async function noise(format: ImageFormat, width: number, height: number): Promise<Buffer> {
  return (await reader())(randomBytes(width * height * 3), { raw: { width, height, channels: 3 } }).toFormat(format).toBuffer()
}
