/** Streams whose elements come one by one (RFC 7395 §3.3), told in terms of RFC 6120 and back. */
import { CLIENT_NS } from '../stanza/stanza.ts'
import { parseElement } from '../xml/build.ts'
import { type Element, escapeXml } from '../xml/element.ts'
import { STREAM_NS } from '../xml/scanner.ts'
import { StreamError } from './errors.ts'

export const FRAMING_NS = 'urn:ietf:params:xml:ns:xmpp-framing'

/** A frame as it came: what it is, and the bytes that say the same in a stream of RFC 6120. */
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

/** The beginning of a stream with these attributes, serialised. */
export function openXml(attributes: string): string {
  return `<open xmlns='${FRAMING_NS}' ${attributes}/>`
}

export const CLOSE_XML = Buffer.from(`<close xmlns='${FRAMING_NS}'/>`)
