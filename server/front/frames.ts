/** How elements go between two processes for a client whose connection carries elements: each in a frame with a kind and a length. */
import type { Socket } from 'node:net'
import type { Transport, Written } from '../c2s/framed.ts'

const HEAD_BYTES = 5
/** More than any listener takes of one element; whoever sends more is no node. */
const FRAME_BYTES_MAX = 64 * 1024 * 1024

export const KIND = {
  /** One element. */
  element: 0,
  /** To the home: the client is there; a byte says whether it has announced a pause. */
  heard: 1,
  /** To the home: how many elements more the client is known to have, 32 bits. */
  taken: 2,
} as const

export function frame(kind: number, payload: Buffer): Buffer {
  const bytes = Buffer.allocUnsafe(HEAD_BYTES + payload.length)
  bytes[0] = kind
  bytes.writeUInt32BE(payload.length, 1)
  bytes.set(payload, HEAD_BYTES)
  return bytes
}

export function takenFrame(count: number): Buffer {
  const payload = Buffer.allocUnsafe(4)
  payload.writeUInt32BE(count, 0)
  return frame(KIND.taken, payload)
}

/** Cuts what comes into frames. Keeps nothing of a chunk that ends with one. */
export class FrameReader {
  #held: Buffer | undefined

  /** Throws when a frame is too long. */
  read(chunk: Buffer, handle: (kind: number, payload: Buffer) => void): void {
    const bytes = this.#held === undefined ? chunk : Buffer.concat([this.#held, chunk])
    let at = 0
    while (at + HEAD_BYTES <= bytes.length) {
      const length = bytes.readUInt32BE(at + 1)
      if (length > FRAME_BYTES_MAX) throw new Error('the frame is too long')
      const end = at + HEAD_BYTES + length
      if (end > bytes.length) break
      handle(bytes[at] as number, Buffer.from(bytes.subarray(at + HEAD_BYTES, end)))
      at = end
    }
    this.#held = at === bytes.length ? undefined : Buffer.from(bytes.subarray(at))
  }
}

/** At the home: the elements of a client that is elsewhere. */
export class PassedTransport implements Transport {
  readonly confirms: boolean
  readonly #socket: Socket
  /** Elements that the client is not known to have, oldest first. */
  readonly #unconfirmed: { readonly bytes: number; readonly taken: Written | undefined }[] = []
  #unconfirmedBytes = 0
  #gone = false

  constructor(socket: Socket, confirms: boolean) {
    this.#socket = socket
    this.confirms = confirms
  }

  get backlog(): number { return this.confirms ? this.#unconfirmedBytes : this.#socket.writableLength }

  emit(element: Buffer, taken?: Written): void {
    if (!this.confirms) return void this.#socket.write(frame(KIND.element, element), taken)
    if (this.#gone) return taken?.(new Error('the connection is gone'))
    this.#unconfirmed.push({ bytes: element.length, taken })
    this.#unconfirmedBytes += element.length
    this.#socket.write(frame(KIND.element, element))
  }

  /** The client has so many elements more. */
  confirmed(count: number): void {
    for (const { bytes, taken } of this.#unconfirmed.splice(0, count)) {
      this.#unconfirmedBytes -= bytes
      taken?.()
    }
  }

  /** It has none of the others. */
  gone(): void {
    this.#gone = true
    for (const { taken } of this.#unconfirmed.splice(0)) taken?.(new Error('the client is not known to have it'))
  }

  end(): void { this.#socket.end() }
  destroy(): void { this.#socket.destroy() }
  pause(): void { this.#socket.pause() }
  resume(): void { this.#socket.resume() }
}
