/** Streams over transports that carry whole elements, such as WebSocket (RFC 7395 §3.3) and BOSH (XEP-0206). */
import { EventEmitter } from 'node:events'
import { CLIENT_NS } from '../../lib/stanza/stanza.ts'
import { StreamError } from '../../lib/stream/errors.ts'
import { parseElement } from '../../lib/xml/build.ts'
import { type Element, escapeXml } from '../../lib/xml/element.ts'
import { STREAM_NS } from '../../lib/xml/scanner.ts'

export const FRAMING_NS = 'urn:ietf:params:xml:ns:xmpp-framing'

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
}

/** What carries the elements. */
export interface Transport {
  /** Bytes that it has been given and the network has not taken. */
  readonly backlog: number
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

  /** One element from the client, `<open/>` and `<close/>` among them. */
  receive(element: string | Buffer): void {
    if (this.#gone) return
    const bytes = typeof element === 'string' ? Buffer.from(element) : element
    if (!this.#paused && !this.#resuming) return void this.emit('data', bytes)
    this.#waiting.push(bytes)
    if (this.#waiting.length === 1) this.#transport.pause()
  }

  /** The client has shown that it is there, without an element. */
  heard(): void {
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

/** A frame as the client sent it: what it is, and the bytes that say the same in a stream of RFC 6120. */
export interface Frame {
  readonly kind: 'open' | 'close' | 'element'
  readonly bytes: Buffer
}

const XML_DECLARATION = Buffer.from('<?xml')
const OPEN = Buffer.from('<open')
const CLOSE = Buffer.from('<close')
const STREAM_END = Buffer.from('</stream:stream>')
const LT = 0x3c
const SLASH = 0x2f

/** RFC 7395 §3.3.3. Throws StreamError; that an element is well-formed, and is one, is for the stream's parser to see. */
export function readFrame(frame: Buffer): Frame {
  if (frame[0] !== LT || frame[1] === SLASH) throw new StreamError('not-well-formed', 'a frame begins with the start of its element')
  let end = frame.length
  while (isBlank(frame[end - 1])) end--
  const trimmed = end === frame.length ? frame : frame.subarray(0, end)
  const bytes = beginsWith(trimmed, XML_DECLARATION) ? withoutDeclaration(trimmed) : trimmed
  if (beginsWith(bytes, OPEN) && isNameEnd(bytes[OPEN.length])) return { kind: 'open', bytes: headerOf(boundary(bytes)) }
  if (beginsWith(bytes, CLOSE) && isNameEnd(bytes[CLOSE.length])) {
    boundary(bytes)
    return { kind: 'close', bytes: STREAM_END }
  }
  return { kind: 'element', bytes }
}

function withoutDeclaration(frame: Buffer): Buffer {
  const end = frame.indexOf('?>')
  let at = end + 2
  while (isBlank(frame[at])) at++
  if (end < 0 || frame[at] !== LT || frame[at + 1] === SLASH) throw new StreamError('not-well-formed', 'a frame is one whole element')
  return frame.subarray(at)
}

/** The element that begins or ends a stream (§3.3.2). */
function boundary(bytes: Buffer): Element {
  let element: Element
  try {
    element = parseElement(bytes)
  } catch (error) {
    throw error instanceof StreamError ? error : new StreamError('not-well-formed', 'a frame is one whole element')
  }
  if (element.attrs['xmlns'] !== FRAMING_NS) throw new StreamError('invalid-namespace', `the namespace of ${element.name} is ${FRAMING_NS}`)
  return element
}

function headerOf(open: Element): Buffer {
  let text = `<stream:stream xmlns='${CLIENT_NS}' xmlns:stream='${STREAM_NS}'`
  for (const [name, value] of Object.entries(open.attrs)) if (name !== 'xmlns' && !name.startsWith('xmlns:') && typeof value === 'string') text += ` ${name}='${escapeXml(value)}'`
  return Buffer.from(`${text}>`)
}

function beginsWith(bytes: Buffer, start: Buffer): boolean {
  if (bytes.length < start.length) return false
  for (let i = 1; i < start.length; i++) if (bytes[i] !== start[i]) return false
  return true
}

function isBlank(byte: number | undefined): boolean {
  return byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09
}

function isNameEnd(byte: number | undefined): boolean {
  return byte === SLASH || byte === 0x3e || isBlank(byte)
}

/** A stream header with these attributes, serialised. */
export function openXml(attributes: string): string {
  return `<open xmlns='${FRAMING_NS}' ${attributes}/>`
}

export const CLOSE_XML = Buffer.from(`<close xmlns='${FRAMING_NS}'/>`)

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
