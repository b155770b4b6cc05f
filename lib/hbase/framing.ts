/** Answers on a connection: each has its length in front, 4 bytes big-endian. */

const LENGTH_BYTES = 4
/** So much of an answer that is too large is looked at, to see which call it belongs to. */
const HEAD_BYTES = 512

export interface FrameHandler {
  /** A whole answer; its bytes are a view of what came. */
  frame(bytes: Buffer): void
  /** One that is larger than the limit, of which this is the beginning. Nothing is read after it. */
  tooLarge(head: Buffer, bytes: number): void
}

export class FrameReader {
  readonly #handler: FrameHandler
  readonly #bytesMax: number
  #chunks: Buffer[] = []
  #bytes = 0
  #needed = LENGTH_BYTES
  #isOver = false

  constructor(bytesMax: number, handler: FrameHandler) {
    this.#bytesMax = bytesMax
    this.#handler = handler
  }

  push(chunk: Buffer): void {
    if (this.#isOver) return
    this.#chunks.push(chunk)
    this.#bytes += chunk.length
    if (this.#bytes < this.#needed) return
    let rest = this.#chunks.length === 1 ? chunk : Buffer.concat(this.#chunks, this.#bytes)
    this.#needed = LENGTH_BYTES
    while (rest.length >= LENGTH_BYTES) {
      const length = rest.readUInt32BE(0)
      if (length > this.#bytesMax) {
        if (rest.length < LENGTH_BYTES + Math.min(length, HEAD_BYTES)) {
          this.#needed = LENGTH_BYTES + Math.min(length, HEAD_BYTES)
          break
        }
        this.#isOver = true
        this.#chunks = []
        this.#handler.tooLarge(rest.subarray(LENGTH_BYTES, LENGTH_BYTES + HEAD_BYTES), length)
        return
      }
      if (rest.length < LENGTH_BYTES + length) {
        this.#needed = LENGTH_BYTES + length
        break
      }
      this.#handler.frame(rest.subarray(LENGTH_BYTES, LENGTH_BYTES + length))
      rest = rest.subarray(LENGTH_BYTES + length)
    }
    this.#chunks = rest.length > 0 ? [rest] : []
    this.#bytes = rest.length
  }

  /** Nothing is handed out any more. */
  stop(): void {
    this.#isOver = true
    this.#chunks = []
  }
}
