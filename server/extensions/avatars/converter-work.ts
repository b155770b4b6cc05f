/** What the process that converts images is told and answers. */

export const IMAGE_FORMATS = ['png', 'jpeg', 'gif', 'webp'] as const
export type ImageFormat = (typeof IMAGE_FORMATS)[number]

export interface Work {
  readonly image: Uint8Array
  readonly to: ImageFormat
}

export type Reply = { readonly image: Uint8Array } | { readonly failed: 'missing' | 'invalid' | 'busy' }

/** Of an image as it came: what a stanza can hold. */
export const BYTES_MAX = 1_048_576
/** Of an image as it came: each takes four bytes of memory while it is read, however few bytes it came in. */
export const PIXELS_MAX = 4096 * 4096
/** Of the result: in base64, and with what else a vCard says, no more than a vCard or an item of a node may have. */
export const RESULT_BYTES_MAX = 131_072
/** Longest side of the result, pixels; the next when it would have too many bytes. */
export const SIDES = [1024, 512, 256, 128] as const
