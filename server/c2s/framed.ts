/** Streams over transports that carry whole elements, such as WebSocket (RFC 7395 §3.3) and BOSH (XEP-0206). */
import { EventEmitter } from 'node:events'
import { CLIENT_NS } from '../../lib/stanza/stanza.ts'
import { STREAM_NS } from '../../lib/xml/scanner.ts'

export type Written = (error?: Error | null) => void

/** What a client's stream needs of its connection: a TCP or TLS socket has it all. */
export interface Connection {
  readonly destroyed: boolean
  /** Bytes that the network has not taken. */
  readonly writableLength: number
  write(bytes: Buffer, taken?: Written): unknown
  end(): unknown
  destroy(): unknown
  pause(): unknown
  resume(): unknown
  on(event: 'data', listener: (chunk: Buffer) => void): unknown
  on(event: 'error' | 'end' | 'close', listener: () => void): unknown
  once(event: 'close', listener: () => void): unknown
  off(event: 'data', listener: (chunk: Buffer) => void): unknown
  off(event: 'error' | 'end' | 'close', listener: () => void): unknown
}

/** What carries the elements. */
export interface Transport {
  /** Bytes that it has been given and the network has not taken. */
  readonly backlog: number
  /** It calls back when the client is known to have what it was sent; otherwise when the network has it. */
  readonly confirms?: boolean
  /** Sends one element that is a document of its own, with all its namespaces declared. Calls back once when the network has it, or never will. */
  emit(element: Buffer, taken?: Written): void
  /** Ends the connection when all is sent. */
  end(): void
  /** Ends it at once. */
  destroy(): void
  /** Asks for no more elements; those that are on their way are taken. */
  pause(): void
  resume(): void
}

/**
 * A connection of elements. The transport gives it what the client sends (`receive`), one element each time, and tells when the
 * client is gone (`gone`). The stream begins with `<open/>` and ends with `<close/>`, both ways.
 */
export class FramedConnection extends EventEmitter implements Connection {
  readonly #transport: Transport
  destroyed = false
  /** Nothing is to be expected of the client for now. */
  away = false
  #gone = false
  #paused = false
  #resuming = false
  /** What came while nothing could be taken. */
  #waiting: Buffer[] = []
  /** Of what is written next, where the elements end. */
  #ends: number[] = []

  constructor(transport: Transport) {
    super()
    this.#transport = transport
  }

  get writableLength(): number { return this.#transport.backlog }
  /** Whether what is written calls back when the client is known to have it. */
  get confirms(): boolean { return this.#transport.confirms === true }

  /** One element from the client, `<open/>` and `<close/>` among them. */
  receive(element: string | Buffer): void {
    if (this.#gone) return
    const bytes = typeof element === 'string' ? Buffer.from(element) : element
    if (!this.#paused && !this.#resuming) return void this.emit('data', bytes)
    this.#waiting.push(bytes)
    if (this.#waiting.length === 1) this.#transport.pause()
  }

  /** The client has shown that it is there, without an element. `away`: it has said that nothing comes for a while. */
  heard(away = false): void {
    this.away = away
    this.emit('heard')
  }

  /** The transport has ended. */
  gone(): void {
    if (this.#gone) return
    this.#gone = this.destroyed = true
    this.#waiting = []
    this.emit('close')
  }

  /** The element that is being written ends with the part of this number, counted from 1, of those in the next `writeParts`. */
  elementEnds(part: number): void {
    this.#ends.push(part)
  }

  /** Writes whole elements, in parts. */
  writeParts(parts: readonly Buffer[], taken?: Written): void {
    const ends = this.#ends
    this.#ends = []
    if (this.destroyed) return taken?.(new Error('the connection is gone'))
    let start = 0
    for (let i = 0; i < ends.length; i++) {
      const end = ends[i] as number
      this.#transport.emit(documentOf(parts, start, end), i === ends.length - 1 ? taken : undefined)
      start = end
    }
  }

  write(element: Buffer, taken?: Written): void {
    this.#ends = [1]
    this.writeParts([element], taken)
  }

  /** Writes one element that is a document already. */
  pass(document: Buffer, taken?: Written): void {
    if (this.destroyed) return taken?.(new Error('the connection is gone'))
    this.#transport.emit(document, taken)
  }

  end(): void {
    this.#transport.end()
  }

  destroy(): void {
    if (this.destroyed) return
    this.destroyed = true
    this.#transport.destroy()
  }

  pause(): void {
    this.#paused = true
  }

  resume(): void {
    this.#paused = false
    if (this.#resuming || this.#waiting.length === 0) return
    this.#resuming = true
    let next = 0
    while (!this.#paused && next < this.#waiting.length) this.emit('data', this.#waiting[next++])
    this.#resuming = false
    this.#waiting.splice(0, next)
    if (this.#waiting.length === 0) this.#transport.resume()
  }
}

/** Names at the start of elements that need the declaration that a stream header has made for them on TCP. */
const MESSAGE = declared('<message', 'xmlns', CLIENT_NS)
const PRESENCE = declared('<presence', 'xmlns', CLIENT_NS)
const IQ = declared('<iq', 'xmlns', CLIENT_NS)
const FEATURES = declared('<stream:features', 'xmlns:stream', STREAM_NS)
const ERROR = declared('<stream:error', 'xmlns:stream', STREAM_NS)

interface Declared {
  readonly nameLength: number
  readonly bytes: Buffer
}

function declared(name: string, attribute: string, namespace: string): Declared {
  return { nameLength: name.length, bytes: Buffer.from(`${name} ${attribute}='${namespace}'`) }
}

/** What this element begins with once its namespace is declared; undefined when it declares its own. */
function declaredFor(first: Buffer): Declared | undefined {
  switch (first[1]) {
    case 0x6d: return first[2] === 0x65 && first[3] === 0x73 ? MESSAGE : undefined
    case 0x70: return first[2] === 0x72 && first[3] === 0x65 ? PRESENCE : undefined
    case 0x69: return first[2] === 0x71 ? IQ : undefined
    // Of `stream:`, the colon; then `features` or `error`.
    case 0x73: return first[7] !== 0x3a ? undefined : first[8] === 0x66 ? FEATURES : ERROR
    default: return undefined
  }
}

/** The element in these parts as a document of its own. */
function documentOf(parts: readonly Buffer[], start: number, end: number): Buffer {
  const first = parts[start] as Buffer
  const begin = declaredFor(first)
  if (begin === undefined && end - start === 1) return first
  let length = begin === undefined ? 0 : begin.bytes.length - begin.nameLength
  for (let i = start; i < end; i++) length += (parts[i] as Buffer).length
  const document = Buffer.allocUnsafe(length)
  let at = 0
  if (begin !== undefined) {
    document.set(begin.bytes)
    at = begin.bytes.length
  }
  for (let i = start; i < end; i++) {
    const part = parts[i] as Buffer
    const from = i === start && begin !== undefined ? begin.nameLength : 0
    part.copy(document, at, from)
    at += part.length - from
  }
  return document
}
