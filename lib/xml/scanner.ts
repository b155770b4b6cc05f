/**
 * Scans an XML stream as it arrives: RFC 6120 §11 (restrictions of XML), XML 1.0 (fifth edition) and Namespaces in XML 1.0.
 *
 * It loops over bytes and makes no tree. A unit (the stream header or a first-level element) that lies whole within a chunk is
 * scanned where it lies; one that does not is kept in `held` until the rest arrives. A tag that is cut off is looked through
 * for its end, each byte once, before it is scanned again, so the work stays linear however the bytes are cut.
 */
import { StreamError } from '../stream/errors.ts'
import { AttributeMap } from './attributes.ts'
import { escapeXml } from './element.ts'

declare global {
  // Node has these; @types/node does not tell. They are what `toString` calls, without the look at the encoding's name.
  interface Buffer {
    latin1Slice(start?: number, end?: number): string
    utf8Slice(start?: number, end?: number): string
  }
}

export interface ParserLimits {
  /** Bytes of one first-level element, its tags included; also of the stream header. */
  readonly stanzaBytes: number
  /** Elements within each other; the first-level element is the first. */
  readonly depth: number
  /** Attributes of one element, namespace declarations included. */
  readonly attributes: number
  /** Elements inside a first-level element, at any depth. */
  readonly children: number
}

export interface StreamHeader {
  /** The default namespace of the stream. */
  readonly xmlns: string
  /** Attributes by qualified name, without namespace declarations. */
  readonly attrs: Record<string, string>
  /** The prefixes the header declares, with their namespaces. */
  readonly prefixes: Record<string, string>
}

export interface ElementSpan {
  readonly name: string
  readonly xmlns: string
  readonly start: number
  readonly end: number
}

export const STREAM_NS = 'http://etherx.jabber.org/streams'
const XML_NS = 'http://www.w3.org/XML/1998/namespace'
const XMLNS_NS = 'http://www.w3.org/2000/xmlns/'

const EMPTY = Buffer.alloc(0)
/** Prefix declarations in scope at once. A lookup goes through them, so without a limit it could be made slow. */
const DECLARATIONS_MAX = 256
/** An XML declaration is at most this long. */
const DECLARATION_BYTES_MAX = 256
/** Bytes kept while paused; whoever pauses the parser stops reading the socket, so little more than a read arrives. */
const REST_BYTES_MAX = 1_048_576

const TAB = 0x09
const LF = 0x0a
const CR = 0x0d
const SPACE = 0x20
const BANG = 0x21
const QUOTE = 0x22
const HASH = 0x23
const AMP = 0x26
const APOS = 0x27
const SLASH = 0x2f
const SEMICOLON = 0x3b
const LT = 0x3c
const EQUALS = 0x3d
const GT = 0x3e
const QUESTION = 0x3f
const BRACKET = 0x5d
const CDATA_START = Buffer.from('<![CDATA[')

/** Bytes at which the loop over text has to look closer; likewise for attribute values and CDATA. */
const TEXT = new Uint8Array(256)
const VALUE = new Uint8Array(256)
const CDATA = new Uint8Array(256)
/** Parts of a name: 1 anywhere, 2 not at the start, 3 the colon, 4 outside ASCII, 0 none. */
const NAME = new Uint8Array(256)
for (let byte = 0; byte < 256; byte++) {
  const blank = byte === TAB || byte === LF || byte === CR
  if ((byte < 0x20 && !blank) || byte >= 0x80) TEXT[byte] = VALUE[byte] = CDATA[byte] = 1
  if (blank) VALUE[byte] = 1
  const char = String.fromCharCode(byte)
  if ('<&>'.includes(char)) TEXT[byte] = 1
  if ('<&"\''.includes(char)) VALUE[byte] = 1
  if (char === ']') CDATA[byte] = 1
  if ((char >= 'a' && char <= 'z') || (char >= 'A' && char <= 'Z') || char === '_') NAME[byte] = 1
  else if ((char >= '0' && char <= '9') || char === '-' || char === '.') NAME[byte] = 2
  else if (char === ':') NAME[byte] = 3
  else if (byte >= 0x80) NAME[byte] = 4
}

/** Where the scan stands: before the XML declaration, before the root, in the stream, after it, after an error. */
const START = 0
const ROOT = 1
const OPEN = 2
const CLOSED = 3
const BROKEN = 4

/** Results of scanning a tag that is cut off: try again with more bytes, or look for the tag's end first. */
const MORE = -1
const SEEK = -2

const malformed = (text: string): StreamError => new StreamError('not-well-formed', text)
const exceeded = (text: string): StreamError => new StreamError('policy-violation', text)

// What the functions below return beside their result. Scanning a tag is never interrupted, so one set serves all streams.
/** Where the colon of the last name is, or -1. */
let colonAt = -1
/** The last character decoded. */
let point = 0
/** The attributes of the last start tag: where each name starts and ends, its colon, its value, and what the value needs. */
const nameStarts: number[] = []
const nameEnds: number[] = []
const nameColons: number[] = []
const valueStarts: number[] = []
const valueEnds: number[] = []
/** 0 plain ASCII, bit 1 outside ASCII, bit 2 references or blanks to replace. */
const valueKinds: number[] = []
let attributeCount = 0
let tagNameEnd = 0
let tagNameColon = -1
let tagSelfClosed = false

/** The length of the UTF-8 sequence at `at` (0: cut off), with its character in `point`. RFC 3629, XML 1.0 §2.2. */
function sequence(buf: Buffer, at: number, end: number): number {
  const lead = buf[at] as number
  if (lead < 0xc2 || lead > 0xf4) throw malformed('invalid UTF-8')
  const size = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4
  let value = size === 2 ? lead & 0x1f : size === 3 ? lead & 0x0f : lead & 0x07
  for (let i = 1; i < size; i++) {
    if (at + i >= end) return 0
    const byte = buf[at + i] as number
    if ((byte & 0xc0) !== 0x80) throw malformed('invalid UTF-8')
    value = (value << 6) | (byte & 0x3f)
  }
  if (size === 3 ? value < 0x800 || (value >= 0xd800 && value <= 0xdfff) : size === 4 && (value < 0x10000 || value > 0x10ffff)) throw malformed('invalid UTF-8')
  if (value === 0xfffe || value === 0xffff) throw malformed('illegal character')
  point = value
  return size
}

/** XML 1.0 §2.2, production Char. */
function isChar(value: number): boolean {
  return value >= 0x20 ? value <= 0xd7ff || (value >= 0xe000 && value <= 0xfffd) || (value >= 0x10000 && value <= 0x10ffff) : value === TAB || value === LF || value === CR
}

/** XML 1.0 §2.3, productions NameStartChar and NameChar, outside ASCII. */
function isNamePoint(value: number, first: boolean): boolean {
  if (!first && (value === 0xb7 || (value >= 0x300 && value <= 0x36f) || value === 0x203f || value === 0x2040)) return true
  return (
    (value >= 0xc0 && value <= 0x2ff && value !== 0xd7 && value !== 0xf7) ||
    (value >= 0x370 && value <= 0x1fff && value !== 0x37e) ||
    value === 0x200c || value === 0x200d ||
    (value >= 0x2070 && value <= 0x218f) ||
    (value >= 0x2c00 && value <= 0x2fef) ||
    (value >= 0x3001 && value <= 0xd7ff) ||
    (value >= 0xf900 && value <= 0xfdcf) ||
    (value >= 0xfdf0 && value <= 0xfffd) ||
    (value >= 0x10000 && value <= 0xeffff)
  )
}

/** Where the qualified name at `start` ends (-1: cut off), with its colon in `colonAt`. */
function scanName(buf: Buffer, start: number, end: number): number {
  let at = start
  let partStart = start
  colonAt = -1
  while (at < end) {
    const kind = NAME[buf[at] as number]
    if (kind === 1) at++
    else if (kind === 0) {
      if (at === partStart) throw malformed('a name is missing')
      return at
    } else if (kind === 2) {
      if (at === partStart) throw malformed('illegal start of a name')
      at++
    } else if (kind === 3) {
      // Namespaces in XML §4: at most one colon, with a name on either side.
      if (colonAt >= 0 || at === start) throw malformed('illegal colon in a name')
      colonAt = at++
      partStart = at
    } else {
      const size = sequence(buf, at, end)
      if (size === 0) return -1
      if (!isNamePoint(point, at === partStart)) throw malformed('illegal character in a name')
      at += size
    }
  }
  return -1
}

/** Where the reference at `start` (an ampersand) ends, 0 when it is cut off, with its character in `point`. */
function scanReference(buf: Buffer, start: number, end: number): number {
  let at = start + 1
  if (at >= end) return 0
  if (buf[at] === HASH) {
    if (++at >= end) return 0
    const hex = buf[at] === 0x78
    if (hex) at++
    let value = 0
    let digits = 0
    for (; ; at++) {
      if (at >= end) return 0
      const byte = buf[at] as number
      if (byte === SEMICOLON) break
      let digit = -1
      if (byte >= 0x30 && byte <= 0x39) digit = byte - 0x30
      else if (hex && byte >= 0x61 && byte <= 0x66) digit = byte - 0x57
      else if (hex && byte >= 0x41 && byte <= 0x46) digit = byte - 0x37
      if (digit < 0) throw malformed('illegal character reference')
      value = value * (hex ? 16 : 10) + digit
      if (value > 0x10ffff || ++digits > 32) throw malformed('illegal character reference')
    }
    if (digits === 0 || !isChar(value)) throw malformed('illegal character reference')
    point = value
    return at + 1
  }
  const last = start + 6
  while (at < end && at < last && buf[at] !== SEMICOLON) at++
  if (at >= end && at < last) return 0
  if (at < last) {
    const length = at - start - 1
    const first = buf[start + 1]
    const second = buf[start + 2]
    if (length === 2 && second === 0x74) {
      if (first === 0x6c) return (point = LT), at + 1
      if (first === 0x67) return (point = GT), at + 1
    } else if (length === 3) {
      if (first === 0x61 && second === 0x6d && buf[start + 3] === 0x70) return (point = AMP), at + 1
    } else if (length === 4) {
      if (first === 0x61 && second === 0x70 && buf[start + 3] === 0x6f && buf[start + 4] === 0x73) return (point = APOS), at + 1
      if (first === 0x71 && second === 0x75 && buf[start + 3] === 0x6f && buf[start + 4] === 0x74) return (point = QUOTE), at + 1
    }
  }
  // RFC 6120 §11.1: no entities but the predefined ones.
  throw malformed('undeclared entity')
}

/** Scans the start tag at `start` into the variables above. Returns where it ends, or MORE or SEEK when it is cut off. */
function scanTag(buf: Buffer, start: number, end: number, attributesMax: number): number {
  let at = scanName(buf, start + 1, end)
  if (at < 0) return SEEK
  tagNameEnd = at
  tagNameColon = colonAt
  let count = 0
  for (;;) {
    if (at >= end) return SEEK
    let byte = buf[at] as number
    const before = at
    while (byte === SPACE || byte === LF || byte === CR || byte === TAB) {
      if (++at >= end) return SEEK
      byte = buf[at] as number
    }
    if (byte === GT) {
      tagSelfClosed = false
      at++
      break
    }
    if (byte === SLASH) {
      if (at + 1 >= end) return SEEK
      if (buf[at + 1] !== GT) throw malformed('illegal start tag')
      tagSelfClosed = true
      at += 2
      break
    }
    if (at === before) throw malformed('illegal start tag')
    if (count >= attributesMax) throw exceeded(`an element may have at most ${attributesMax} attributes`)
    nameStarts[count] = at
    at = scanName(buf, at, end)
    if (at < 0) return SEEK
    nameEnds[count] = at
    nameColons[count] = colonAt
    at = skipBlank(buf, at, end)
    if (at >= end) return SEEK
    if (buf[at] !== EQUALS) throw malformed('an attribute has no value')
    at = skipBlank(buf, at + 1, end)
    if (at >= end) return SEEK
    const quote = buf[at] as number
    if (quote !== QUOTE && quote !== APOS) throw malformed('an attribute value has no quotes')
    valueStarts[count] = ++at
    let kind = 0
    for (;;) {
      while (at < end && VALUE[buf[at] as number] === 0) at++
      if (at >= end) return SEEK
      byte = buf[at] as number
      if (byte === quote) break
      if (byte === QUOTE || byte === APOS) at++
      else if (byte >= 0x80) {
        const size = sequence(buf, at, end)
        if (size === 0) return SEEK
        kind |= 1
        at += size
      } else if (byte === AMP) {
        const next = scanReference(buf, at, end)
        if (next === 0) return SEEK
        kind |= 2
        at = next
      } else if (byte === TAB || byte === LF || byte === CR) {
        kind |= 2
        at++
      } else throw malformed(byte === LT ? 'an attribute value holds <' : 'illegal character')
    }
    valueEnds[count] = at++
    valueKinds[count] = kind
    count++
  }
  attributeCount = count
  // XML 1.0 §3.1: no attribute twice.
  for (let i = 1; i < count; i++) {
    const from = nameStarts[i] as number
    const length = (nameEnds[i] as number) - from
    for (let j = 0; j < i; j++) {
      const other = nameStarts[j] as number
      if ((nameEnds[j] as number) - other === length && sameBytes(buf, from, other, length)) throw malformed('an attribute is there twice')
    }
  }
  return at
}

function skipBlank(buf: Buffer, start: number, end: number): number {
  let at = start
  while (at < end) {
    const byte = buf[at]
    if (byte !== SPACE && byte !== LF && byte !== CR && byte !== TAB) break
    at++
  }
  return at
}

function sameBytes(buf: Buffer, a: number, b: number, length: number): boolean {
  for (let i = 0; i < length; i++) if (buf[a + i] !== buf[b + i]) return false
  return true
}

/** Names and namespaces seen lately, so that most are found without making a string. New ones take the place of old ones. */
const known: string[] = Array.from({ length: 2048 }, () => '')
const NO_BYTES = new Uint8Array(0)
const knownBytes: Uint8Array[] = Array.from({ length: 2048 }, () => NO_BYTES)

function intern(buf: Buffer, start: number, end: number): string {
  const length = end - start
  if (length === 0) return ''
  if (length > 80) return buf.utf8Slice(start, end)
  // A few bytes tell most names apart; the comparison decides.
  const slot = (length * 37 + (buf[start] as number) * 5 + (buf[end - 1] as number) * 131 + (buf[start + (length >> 1)] as number) * 1031 + (buf[start + ((length * 3) >> 2)] as number) * 17) & 2047
  const bytes = knownBytes[slot] as Uint8Array
  if (bytes.length === length) {
    let i = 0
    while (i < length && bytes[i] === buf[start + i]) i++
    if (i === length) return known[slot] as string
  }
  const text = buf.utf8Slice(start, end)
  knownBytes[slot] = Uint8Array.from(buf.subarray(start, end))
  return (known[slot] = text)
}

/** The value of attribute `i` of the last start tag, its references replaced and its blanks normalised (XML 1.0 §3.3.3). */
function valueOf(buf: Buffer, i: number): string {
  const start = valueStarts[i] as number
  const end = valueEnds[i] as number
  const kind = valueKinds[i] as number
  if (kind === 0) return buf.latin1Slice(start, end)
  if (kind === 1) return buf.utf8Slice(start, end)
  let text = ''
  let from = start
  for (let at = start; at < end; ) {
    const byte = buf[at]
    if (byte === AMP) {
      text += buf.utf8Slice(from, at)
      at = from = scanReference(buf, at, end)
      text += String.fromCodePoint(point)
    } else if (byte === TAB || byte === LF || byte === CR) {
      text += buf.utf8Slice(from, at) + ' '
      // XML 1.0 §2.11: CR LF is one line end.
      at += byte === CR && at + 1 < end && buf[at + 1] === LF ? 2 : 1
      from = at
    } else at++
  }
  return text + buf.utf8Slice(from, end)
}

/** The same for values that repeat much: namespaces, types. */
function commonValueOf(buf: Buffer, i: number): string {
  return valueKinds[i] === 0 ? intern(buf, valueStarts[i] as number, valueEnds[i] as number) : valueOf(buf, i)
}

function isXmlns(buf: Buffer, start: number, end: number): boolean {
  return end - start === 5 && buf[start] === 0x78 && buf[start + 1] === 0x6d && buf[start + 2] === 0x6c && buf[start + 3] === 0x6e && buf[start + 4] === 0x73
}

/** What the header of a stream declares for all that is in it. */
interface Declarations {
  /** The default namespace. */
  readonly xmlns: string
  /** Prefixes and, at the same places, their namespaces. */
  readonly prefixes: readonly string[]
  readonly uris: readonly string[]
}

const NO_HEADER: Declarations = { xmlns: '', prefixes: [], uris: [] }
/** The headers of most streams are alike and share one object. */
let lastHeader = NO_HEADER

function headerOf(xmlns: string, prefixes: readonly string[], uris: readonly string[]): Declarations {
  const same = lastHeader.xmlns === xmlns && lastHeader.prefixes.length === prefixes.length && prefixes.every((prefix, i) => prefix === lastHeader.prefixes[i] && uris[i] === lastHeader.uris[i])
  if (!same) lastHeader = { xmlns, prefixes: [...prefixes], uris: [...uris] }
  return lastHeader
}

/** The stream header or first-level element in hand. Offsets are counted from its first byte. */
class Unit {
  /** Its bytes so far, when a read ended within it. */
  held: Buffer | undefined = undefined
  heldEnd = 0
  /** Where to go on in `held`. */
  at = 0
  /** Up to where a cut-off tag was looked through for its end (0: not), and the quote it is in. */
  sought = 0
  quote = 0
  cdata = false
  depth = 0
  /** Of the open elements, by depth: where the name starts, its length, the default namespace, and how many prefixes are around it. */
  readonly names: number[] = []
  readonly nameLengths: number[] = []
  readonly defaults: string[] = []
  readonly scopes: number[] = []
  /** Prefixes in scope, the latest last, and their namespaces. The first ones are of the stream header. */
  readonly prefixes: string[] = []
  readonly uris: string[] = []
  name = ''
  xmlns = ''
  attrs: Record<string, string> | undefined = undefined
  contentStart = 0
  children: ElementSpan[] = []
  childName = ''
  childXmlns = ''
  childStart = 0
  /** Elements in it so far, at any depth. */
  elements = 0
  /** Prefixes of the stream header that it uses. */
  used: number[] | undefined = undefined
  /** Where children need an `xmlns` of their own, when its namespace comes from a prefix. */
  inserts: number[] | undefined = undefined

  /** To be scanned again from its first byte, with nothing around it. */
  reset(): void {
    this.depth = this.at = this.sought = this.quote = 0
    this.cdata = false
    this.prefixes.length = this.uris.length = 0
  }
}

/** Most reads end between units, so that one serves all streams. */
let spare: Unit | undefined

function takeUnit(header: Declarations): Unit {
  const unit = spare ?? new Unit()
  spare = undefined
  unit.defaults[0] = header.xmlns
  const count = header.prefixes.length
  unit.prefixes.length = unit.uris.length = count
  for (let i = 0; i < count; i++) {
    unit.prefixes[i] = header.prefixes[i] as string
    unit.uris[i] = header.uris[i] as string
  }
  return unit
}

/** Tells its subclass what it finds. Between units it keeps little, for there may be very many of them. */
export abstract class StreamScanner {
  /** May be changed at any time, such as after authentication. */
  limits: ParserLimits
  /** The default namespace the stream must have; any when undefined. */
  readonly #contentNamespace: string | undefined
  #state = START
  #restarted = false
  #blankFirst = false
  #paused = false
  #scanning = false
  #rest: Buffer | undefined
  #header = NO_HEADER
  #streamName = ''
  #unit: Unit | undefined

  constructor(limits: ParserLimits, contentNamespace: string | undefined) {
    this.limits = limits
    this.#contentNamespace = contentNamespace
  }

  protected abstract streamOpened(header: StreamHeader): void
  /** A first-level element. `content` is a copy for the receiver to keep. May call `reset()` and `pause()`. */
  protected abstract element(name: string, xmlns: string, attrs: Record<string, string>, content: Buffer, children: ElementSpan[]): void
  protected abstract streamClosed(): void

  /** The qualified name of the stream's element, as the header has it. */
  get streamName(): string { return this.#streamName }

  /** Whether nothing is begun and unfinished: the bytes so far end between first-level elements. */
  get idle(): boolean {
    return this.#unit === undefined && this.#rest === undefined
  }

  /** Takes the next bytes, calling the handler as elements end. Keeps none of `chunk`. Throws StreamError. */
  write(chunk: Buffer): void {
    if (this.#paused || this.#scanning) {
      if ((this.#rest?.length ?? 0) + chunk.length > REST_BYTES_MAX) throw exceeded('too many bytes sent ahead')
      this.#rest = this.#rest === undefined ? Buffer.from(chunk) : Buffer.concat([this.#rest, chunk])
      return
    }
    const unit = (this.#unit ??= takeUnit(this.#header))
    if (unit.held === undefined) {
      this.#run(unit, chunk, chunk.length, 0)
      return
    }
    const need = unit.heldEnd + chunk.length
    if (need > unit.held.length) {
      const larger = Buffer.allocUnsafe(Math.max(need, unit.held.length * 2))
      unit.held.copy(larger, 0, 0, unit.heldEnd)
      unit.held = larger
    }
    chunk.copy(unit.held, unit.heldEnd)
    unit.heldEnd = need
    this.#run(unit, unit.held, need, unit.at)
  }

  /** Expects a new stream header (RFC 6120 §4.3.3). Bytes of an element begun before are taken as the start of that header. */
  reset(): void {
    this.#state = START
    this.#restarted = true
    this.#blankFirst = false
    this.#header = NO_HEADER
    this.#unit?.reset()
  }

  /** Stops after the element in hand; what follows is kept. Called by the handler, or between writes. */
  pause(): void {
    this.#paused = true
  }

  /** Goes on with what was kept. Throws StreamError as `write` does. */
  resume(): void {
    this.#paused = false
    if (this.#scanning) return
    const rest = this.takeRest()
    if (rest.length > 0) this.write(rest)
  }

  /** The bytes kept since `pause()`, taken away from the parser. */
  takeRest(): Buffer {
    const rest = this.#rest ?? EMPTY
    this.#rest = undefined
    return rest
  }

  #run(unit: Unit, buf: Buffer, end: number, start: number): void {
    this.#scanning = true
    try {
      this.#scan(unit, buf, end, start)
      if (unit.held === undefined) {
        this.#unit = undefined
        spare = unit
      }
    } catch (error) {
      this.#state = BROKEN
      this.#unit = this.#rest = undefined
      throw error
    } finally {
      this.#scanning = false
    }
  }

  #scan(unit: Unit, buf: Buffer, end: number, start: number): void {
    let at = start
    let mark = 0
    if (unit.sought > 0 && !this.#seek(unit, buf, 0, end)) {
      this.#keep(unit, buf, 0, at, end)
      return
    }
    for (;;) {
      if (unit.depth === 0) {
        if (this.#state >= CLOSED) {
          unit.held = undefined
          return
        }
        if (this.#paused) {
          unit.held = undefined
          if (at < end) {
            const kept = Buffer.from(buf.subarray(at, end))
            this.#rest = this.#rest === undefined ? kept : Buffer.concat([kept, this.#rest])
          }
          return
        }
        const blank = at
        at = skipBlank(buf, at, end) // RFC 6120 §11.7
        if (at > blank && this.#state === START) this.#blankFirst = true
        if (at >= end) {
          unit.held = undefined
          return
        }
        mark = at
        const byte = buf[at] as number
        if (this.#state === START) {
          // RFC 6120 §11.6: UTF-16 and UTF-32 are told by a null byte or their byte order mark.
          if (byte === 0 || byte === 0xfe || byte === 0xff || buf[at + 1] === 0) throw new StreamError('unsupported-encoding', 'only UTF-8')
          if (byte === LT && at + 1 >= end) return this.#keep(unit, buf, mark, at, end)
          if (byte === LT && buf[at + 1] === QUESTION) {
            const next = this.#declaration(buf, at, end)
            if (next < 0) return this.#keep(unit, buf, mark, at, end)
            at = next
            this.#state = ROOT
            continue
          }
        }
        if (byte !== LT) {
          if (byte >= 0x80) {
            if (sequence(buf, at, end) === 0) return this.#keep(unit, buf, mark, at, end)
          } else if (!isChar(byte)) throw malformed('illegal character')
          throw new StreamError('bad-format', this.#state === OPEN ? 'text between stanzas' : 'no stream header')
        }
        const next = this.#tag(unit, buf, at, end, mark)
        if (next < 0) return this.#suspend(unit, next, buf, mark, at, end)
        at = next
        continue
      }
      if (unit.cdata) {
        while (at < end && CDATA[buf[at] as number] === 0) at++
        if (at >= end) return this.#keep(unit, buf, mark, at, end)
        const byte = buf[at] as number
        if (byte === BRACKET) {
          if (at + 2 >= end && (at + 1 >= end || buf[at + 1] === BRACKET)) return this.#keep(unit, buf, mark, at, end)
          if (buf[at + 1] === BRACKET && buf[at + 2] === GT) {
            unit.cdata = false
            at += 3
          } else at++
        } else if (byte >= 0x80) {
          const size = sequence(buf, at, end)
          if (size === 0) return this.#keep(unit, buf, mark, at, end)
          at += size
        } else throw malformed('illegal character')
        continue
      }
      while (at < end && TEXT[buf[at] as number] === 0) at++
      if (at >= end) return this.#keep(unit, buf, mark, at, end)
      const byte = buf[at] as number
      if (byte === LT) {
        const next = this.#tag(unit, buf, at, end, mark)
        if (next < 0) return this.#suspend(unit, next, buf, mark, at, end)
        at = next
      } else if (byte >= 0x80) {
        const size = sequence(buf, at, end)
        if (size === 0) return this.#keep(unit, buf, mark, at, end)
        at += size
      } else if (byte === AMP) {
        const next = scanReference(buf, at, end)
        if (next === 0) return this.#keep(unit, buf, mark, at, end)
        at = next
      } else if (byte === GT) {
        // XML 1.0 §2.4. The byte before text is always the end of a tag, so looking back stays within it.
        if (buf[at - 1] === BRACKET && buf[at - 2] === BRACKET) throw malformed(']]> in text')
        at++
      } else throw malformed('illegal character')
    }
  }

  /** A tag is cut off. */
  #suspend(unit: Unit, why: number, buf: Buffer, mark: number, at: number, end: number): void {
    if (why === SEEK) {
      unit.sought = at + 1 - mark
      unit.quote = 0
      this.#seek(unit, buf, mark, end)
    }
    this.#keep(unit, buf, mark, at, end)
  }

  /** Looks on for the end of a cut-off tag; true when it is there, and the tag can be scanned. */
  #seek(unit: Unit, buf: Buffer, mark: number, end: number): boolean {
    let quote = unit.quote
    for (let at = mark + unit.sought; at < end; at++) {
      const byte = buf[at] as number
      if (byte === LT) throw malformed('a tag holds <')
      if (quote !== 0) {
        if (byte === quote) quote = 0
      } else if (byte === QUOTE || byte === APOS) quote = byte
      else if (byte === GT) {
        unit.sought = 0
        return true
      }
    }
    unit.sought = end - mark
    unit.quote = quote
    return false
  }

  /** Keeps the unit in hand from `mark` on until more arrives; `at` is where to go on. */
  #keep(unit: Unit, buf: Buffer, mark: number, at: number, end: number): void {
    const length = end - mark
    if (length > this.limits.stanzaBytes) throw this.#tooLarge()
    if (buf === unit.held) {
      if (mark > 0) buf.copyWithin(0, mark, end)
    } else {
      unit.held = Buffer.allocUnsafe(Math.max(256, length + (length >> 1)))
      buf.copy(unit.held, 0, mark, end)
    }
    unit.heldEnd = length
    unit.at = at - mark
  }

  #tooLarge(): StreamError {
    return exceeded(`a stanza may have at most ${this.limits.stanzaBytes} bytes`)
  }

  /** The tag or CDATA start at `at`. */
  #tag(unit: Unit, buf: Buffer, at: number, end: number, mark: number): number {
    if (at + 1 >= end) return MORE
    const byte = buf[at + 1]
    if (byte === SLASH) return this.#endTag(unit, buf, at, end, mark)
    // RFC 6120 §11.1: no processing instructions, comments or document types.
    if (byte === QUESTION) throw new StreamError('restricted-xml', 'processing instruction')
    if (byte === BANG) {
      for (let i = 2; i < CDATA_START.length; i++) {
        if (at + i >= end) return MORE
        if (buf[at + i] !== CDATA_START[i]) throw new StreamError('restricted-xml', 'comment or document type')
      }
      if (unit.depth === 0) throw new StreamError('bad-format', 'text between stanzas')
      unit.cdata = true
      return at + CDATA_START.length
    }
    const next = scanTag(buf, at, end, this.limits.attributes)
    if (next < 0) return next
    if (next - mark > this.limits.stanzaBytes) throw this.#tooLarge()
    if (this.#state !== OPEN) this.#openStream(unit, buf, at)
    else this.#openElement(unit, buf, at, next, mark)
    return next
  }

  #endTag(unit: Unit, buf: Buffer, at: number, end: number, mark: number): number {
    const depth = unit.depth
    if (depth === 0) {
      if (this.#state !== OPEN) throw malformed('an end tag before the stream header')
      const nameEnd = scanName(buf, at + 2, end)
      if (nameEnd < 0) return SEEK
      const close = skipBlank(buf, nameEnd, end)
      if (close >= end) return SEEK
      if (buf[close] !== GT || intern(buf, at + 2, nameEnd) !== this.#streamName) throw malformed('wrong end tag')
      this.#state = CLOSED
      this.streamClosed()
      return close + 1
    }
    const length = unit.nameLengths[depth] as number
    let next = at + 2 + length
    if (next >= end) return SEEK
    if (!sameBytes(buf, at + 2, mark + (unit.names[depth] as number), length)) throw malformed('wrong end tag')
    if (buf[next] !== GT) {
      if (NAME[buf[next] as number] !== 0) throw malformed('wrong end tag')
      next = skipBlank(buf, next, end)
      if (next >= end) return SEEK
      if (buf[next] !== GT) throw malformed('illegal end tag')
    }
    next++
    if (next - mark > this.limits.stanzaBytes) throw this.#tooLarge()
    this.#closeElement(unit, buf, at, next, mark)
    return next
  }

  /** RFC 6120 §4.2 and §4.8: the stream header. */
  #openStream(unit: Unit, buf: Buffer, at: number): void {
    const attrs = Object.create(null) as Record<string, string>
    const prefixes = Object.create(null) as Record<string, string>
    unit.prefixes.length = unit.uris.length = 0
    let xmlns = ''
    for (let i = 0; i < attributeCount; i++) {
      const start = nameStarts[i] as number
      const colon = nameColons[i] as number
      if (colon < 0) {
        if (isXmlns(buf, start, nameEnds[i] as number)) xmlns = this.#defaultNamespace(buf, i)
        else attrs[intern(buf, start, nameEnds[i] as number)] = valueOf(buf, i)
      } else if (isXmlns(buf, start, colon)) {
        this.#declare(unit, buf, i)
        prefixes[unit.prefixes.at(-1) as string] = unit.uris.at(-1) as string
      } else attrs[intern(buf, start, nameEnds[i] as number)] = valueOf(buf, i)
    }
    this.#streamName = intern(buf, at + 1, tagNameEnd)
    const name = tagNameColon < 0 ? this.#streamName : intern(buf, tagNameColon + 1, tagNameEnd)
    let namespace = xmlns
    try {
      if (tagNameColon >= 0) namespace = this.#lookup(unit, buf, at + 1, tagNameColon, false)
      this.#checkAttributes(unit, buf, false)
    } catch (error) {
      // RFC 6120 §4.9.3.2
      throw error instanceof UndeclaredPrefix ? new StreamError('bad-namespace-prefix', error.text) : error
    }
    if (namespace !== STREAM_NS) {
      if (tagNameColon < 0 && name === 'stream' && xmlns === this.#contentNamespace) throw new StreamError('bad-namespace-prefix', 'the stream element needs a prefix')
      throw new StreamError('invalid-namespace', `the stream's namespace is ${STREAM_NS}, and the first element is ${shown(name)} of ${shown(namespace)}`) // RFC 6120 §4.8.1
    }
    if (name !== 'stream') throw new StreamError('bad-format', 'the root element is stream')
    if (this.#contentNamespace !== undefined && xmlns !== this.#contentNamespace) throw new StreamError('invalid-namespace', `the default namespace is ${this.#contentNamespace}`) // RFC 6120 §4.8.2
    unit.defaults[0] = xmlns
    this.#header = headerOf(xmlns, unit.prefixes, unit.uris)
    this.#state = OPEN
    const selfClosed = tagSelfClosed
    this.streamOpened({ xmlns, attrs, prefixes })
    if (selfClosed && this.#state === OPEN) {
      this.#state = CLOSED
      this.streamClosed()
    }
  }

  #openElement(unit: Unit, buf: Buffer, at: number, next: number, mark: number): void {
    const depth = unit.depth + 1
    if (depth > this.limits.depth) throw exceeded(`elements may be at most ${this.limits.depth} deep`)
    unit.depth = depth
    const nameStart = at + 1
    unit.names[depth] = nameStart - mark
    unit.nameLengths[depth] = tagNameEnd - nameStart
    unit.scopes[depth] = unit.prefixes.length
    if (depth === 1) unit.used = unit.inserts = undefined
    let xmlns = unit.defaults[depth - 1] as string
    let ownDefault = false
    let prefixed = false
    for (let i = 0; i < attributeCount; i++) {
      const start = nameStarts[i] as number
      const colon = nameColons[i] as number
      if (colon < 0) {
        if (isXmlns(buf, start, nameEnds[i] as number)) {
          xmlns = this.#defaultNamespace(buf, i)
          ownDefault = true
        }
      } else if (isXmlns(buf, start, colon)) this.#declare(unit, buf, i)
      else prefixed = true
    }
    unit.defaults[depth] = xmlns
    if (prefixed) this.#checkAttributes(unit, buf, true)
    const colon = tagNameColon
    let namespace = xmlns
    if (colon >= 0) namespace = this.#lookup(unit, buf, nameStart, colon, depth > 1)
    if (depth > 1 && ++unit.elements > this.limits.children) throw exceeded(`a stanza may hold at most ${this.limits.children} elements`)
    if (depth === 1) {
      unit.elements = 0
      unit.name = intern(buf, colon < 0 ? nameStart : colon + 1, tagNameEnd)
      // It would never end: whoever sends it takes this stream for a new one.
      if (namespace === STREAM_NS && unit.name === 'stream') throw new StreamError('bad-format', 'a stream within the stream')
      unit.xmlns = namespace
      if (namespace !== xmlns) unit.inserts = []
      const attrs = new AttributeMap()
      for (let i = 0; i < attributeCount; i++) {
        const name = intern(buf, nameStarts[i] as number, nameEnds[i] as number)
        if (name !== 'xmlns') attrs[name] = name === 'type' || name === 'xml:lang' ? commonValueOf(buf, i) : valueOf(buf, i)
      }
      unit.attrs = attrs
      unit.children = []
      unit.contentStart = next - mark
    } else if (depth === 2) {
      unit.childName = intern(buf, colon < 0 ? nameStart : colon + 1, tagNameEnd)
      unit.childXmlns = namespace
      unit.childStart = at - mark - unit.contentStart
      if (unit.inserts !== undefined && !ownDefault) unit.inserts.push(tagNameEnd - mark - unit.contentStart)
    }
    if (tagSelfClosed) this.#closeElement(unit, buf, next, next, mark)
  }

  /** `at` is where the end tag starts, or where a start tag that is also the end ends. */
  #closeElement(unit: Unit, buf: Buffer, at: number, next: number, mark: number): void {
    const depth = unit.depth--
    const scope = unit.scopes[depth] as number
    if (unit.prefixes.length > scope) unit.prefixes.length = unit.uris.length = scope
    if (depth === 2) {
      unit.children.push({ name: unit.childName, xmlns: unit.childXmlns, start: unit.childStart, end: next - mark - unit.contentStart })
    } else if (depth === 1) {
      const attrs = unit.attrs as Record<string, string>
      const from = mark + unit.contentStart
      let content: Buffer = EMPTY
      if (at > from) {
        content = Buffer.allocUnsafe(at - from)
        buf.copy(content, 0, from, at)
      }
      if (unit.used !== undefined) for (const i of unit.used) attrs[`xmlns:${unit.prefixes[i]}`] = unit.uris[i] as string
      let children = unit.children
      if (unit.inserts !== undefined && unit.inserts.length > 0) {
        const declaration = Buffer.from(` xmlns='${escapeXml(unit.defaults[1] as string)}'`)
        ;[content, children] = insertDeclarations(content, children, unit.inserts, declaration)
      }
      unit.attrs = undefined
      this.element(unit.name, unit.xmlns, attrs, content, children)
    }
  }

  #defaultNamespace(buf: Buffer, i: number): string {
    const uri = commonValueOf(buf, i)
    if (uri === XML_NS || uri === XMLNS_NS) throw malformed('illegal default namespace')
    return uri
  }

  /** Namespaces in XML §3: declares the prefix of attribute `i`, `xmlns:prefix`. */
  #declare(unit: Unit, buf: Buffer, i: number): void {
    const prefix = intern(buf, (nameColons[i] as number) + 1, nameEnds[i] as number)
    const uri = commonValueOf(buf, i)
    if (uri === '' || prefix === 'xmlns' || uri === XMLNS_NS || (prefix === 'xml') !== (uri === XML_NS)) throw malformed('illegal namespace declaration')
    if (unit.prefixes.length >= DECLARATIONS_MAX) throw exceeded(`at most ${DECLARATIONS_MAX} namespace declarations`)
    unit.prefixes.push(prefix)
    unit.uris.push(uri)
  }

  /** The namespace of a prefix. `used` notes that one of the stream header is needed inside the unit. */
  #lookup(unit: Unit, buf: Buffer, start: number, end: number, used: boolean): string {
    const prefix = intern(buf, start, end)
    for (let i = unit.prefixes.length - 1; i >= 0; i--) {
      if (unit.prefixes[i] !== prefix) continue
      if (used && i < this.#header.prefixes.length && prefix !== 'xml' && !unit.used?.includes(i)) (unit.used ??= []).push(i)
      return unit.uris[i] as string
    }
    if (prefix === 'xml') return XML_NS
    throw new UndeclaredPrefix(prefix)
  }

  /** Namespaces in XML §6.3: prefixes of attributes are declared, and no two are the same by their expanded names. */
  #checkAttributes(unit: Unit, buf: Buffer, used: boolean): void {
    let seen: string[] | undefined
    for (let i = 0; i < attributeCount; i++) {
      const start = nameStarts[i] as number
      const colon = nameColons[i] as number
      if (colon < 0 || isXmlns(buf, start, colon)) continue
      const namespace = this.#lookup(unit, buf, start, colon, used)
      // One namespace by two prefixes is rare, and without it names that differ as written differ when expanded.
      if (unit.prefixes.length < 2) continue
      const expanded = `${namespace} ${intern(buf, colon + 1, nameEnds[i] as number)}`
      if (seen?.includes(expanded)) throw malformed('an attribute is there twice')
      ;(seen ??= []).push(expanded)
    }
  }

  /** XML 1.0 §2.8. Returns where the XML declaration at `start` ends, or -1 when it is cut off. */
  #declaration(buf: Buffer, start: number, end: number): number {
    const last = Math.min(end, start + DECLARATION_BYTES_MAX)
    let close = start + 2
    while (close + 1 < last && !(buf[close] === QUESTION && buf[close + 1] === GT)) close++
    if (close + 1 >= last) {
      if (last === end && end - start < DECLARATION_BYTES_MAX) return -1
      throw malformed('illegal XML declaration')
    }
    const text = buf.latin1Slice(start, close + 2)
    if (!/^<\?xml[ \t\r\n]/.test(text)) throw new StreamError('restricted-xml', 'processing instruction')
    if (this.#blankFirst && !this.#restarted) throw malformed('the XML declaration is not at the start')
    const match = /^<\?xml\s+version\s*=\s*(?:'1\.\d+'|"1\.\d+")(?:\s+encoding\s*=\s*(?:'([A-Za-z][\w.-]*)'|"([A-Za-z][\w.-]*)"))?(?:\s+standalone\s*=\s*(?:'(?:yes|no)'|"(?:yes|no)"))?\s*\?>$/.exec(text)
    if (!match) throw malformed('illegal XML declaration')
    const encoding = match[1] ?? match[2]
    // RFC 6120 §11.6
    if (encoding !== undefined && encoding.toUpperCase() !== 'UTF-8') throw new StreamError('unsupported-encoding', 'only UTF-8')
    return close + 2
  }
}

/** RFC 6120 §11.1 asks for namespace-well-formed XML; at the stream header the error has a name of its own. */
class UndeclaredPrefix extends StreamError {
  constructor(prefix: string) {
    super('not-well-formed', `the prefix ${prefix} is not declared`)
  }
}

/** Gives each child that needs one its default namespace, and moves the spans accordingly. */
/** As much of a text from outside as an error's text may repeat. */
function shown(text: string): string { return text === '' ? 'none' : JSON.stringify(text.slice(0, 60)) }

function insertDeclarations(content: Buffer, children: readonly ElementSpan[], inserts: readonly number[], declaration: Buffer): [Buffer, ElementSpan[]] {
  const parts: Buffer[] = []
  const moved: ElementSpan[] = []
  let taken = 0
  let next = 0
  for (const child of children) {
    const start = child.start + next * declaration.length
    const at = inserts[next]
    if (at !== undefined && at < child.end) {
      parts.push(content.subarray(taken, at), declaration)
      taken = at
      next++
    }
    moved.push({ name: child.name, xmlns: child.xmlns, start, end: child.end + next * declaration.length })
  }
  parts.push(content.subarray(taken))
  return [Buffer.concat(parts), moved]
}
