/**
 * Reads a stanza back from bytes that this server wrote (`Stanza.bytes()`). They were validated when they came in, so only
 * what a Stanza knows is looked for: the start tag and where its children stand. Bytes from the network go through
 * lib/xml/parser.ts.
 */
import { type ChildSpan, CLIENT_NS, Stanza } from './stanza.ts'

const GT = 0x3e
const SLASH = 0x2f
const BANG = 0x21
const EQUALS = 0x3d
const QUOTE = 0x22
const APOSTROPHE = 0x27
const SPACE = 0x20

type Names = Record<string, string>

/** The stanza of these bytes; the bytes are kept, not copied. */
export function readStanza(bytes: Buffer): Stanza {
  return new StoredReader(bytes).read()
}

/** Works on the bytes as one string of Latin-1, so that offsets in both are the same. */
class StoredReader {
  readonly #bytes: Buffer
  readonly #text: string
  /** Of the tag read last: the offset after its `>`, and whether it is an empty element. */
  #end = 0
  #empty = false

  constructor(bytes: Buffer) {
    this.#bytes = bytes
    this.#text = bytes.latin1Slice()
  }

  read(): Stanza {
    const attrs = Object.create(null) as Names
    const name = this.#tag(0, attrs)
    const xmlns = attrs['xmlns'] ?? CLIENT_NS
    if (attrs['xmlns'] !== undefined) delete attrs['xmlns']
    if (this.#empty) return new Stanza(name, xmlns, attrs, this.#bytes.subarray(0, 0), [])
    const start = this.#end
    const end = this.#text.lastIndexOf('</')
    if (end < start) throw new Error('a stored stanza has no end')
    return new Stanza(name, xmlns, attrs, this.#bytes.subarray(start, end), this.#children(start, end, xmlns, attrs))
  }

  #children(base: number, limit: number, xmlns: string, outer: Names): ChildSpan[] {
    const text = this.#text
    const children: ChildSpan[] = []
    let depth = 0
    let start = 0
    let name = ''
    let namespace = ''
    let at = text.indexOf('<', base)
    while (at < limit) {
      const next = text.charCodeAt(at + 1)
      let end: number
      if (next === BANG) end = after(text, ']]>', at) // CDATA: comments do not pass the parser
      else if (next === SLASH) {
        end = after(text, '>', at)
        if (--depth === 0) children.push({ name, xmlns: namespace, start: start - base, end: end - base })
      } else if (depth === 0) {
        const attrs = Object.create(null) as Names
        start = at
        name = this.#tag(at, attrs)
        const colon = name.indexOf(':')
        if (colon === -1) namespace = attrs['xmlns'] ?? xmlns
        else {
          const declared = `xmlns:${name.slice(0, colon)}`
          namespace = attrs[declared] ?? outer[declared] ?? ''
          name = name.slice(colon + 1)
        }
        end = this.#end
        if (this.#empty) children.push({ name, xmlns: namespace, start: start - base, end: end - base })
        else depth = 1
      } else {
        end = endOfTag(text, at)
        if (text.charCodeAt(end - 2) !== SLASH) depth++
      }
      at = text.indexOf('<', end)
    }
    return children
  }

  /** Reads the start tag at this offset into `attrs`; answers its name. */
  #tag(start: number, attrs: Names): string {
    const text = this.#text
    if (text[start] !== '<') throw new Error('a stored stanza does not start with a tag')
    let at = start + 1
    while (!endsName(text.charCodeAt(at))) at++
    const name = this.#slice(start + 1, at)
    for (;;) {
      let code = text.charCodeAt(at)
      while (isSpace(code)) code = text.charCodeAt(++at)
      if (code === GT || code === SLASH) {
        this.#empty = code === SLASH
        this.#end = code === SLASH ? at + 2 : at + 1
        return name
      }
      const key = at
      while (!endsName(code) && code !== EQUALS) code = text.charCodeAt(++at)
      const keyEnd = at
      while (code !== QUOTE && code !== APOSTROPHE) {
        if (at >= text.length) throw new Error('a stored stanza ends inside a tag')
        code = text.charCodeAt(++at)
      }
      const close = text.indexOf(code === QUOTE ? '"' : "'", at + 1)
      if (close === -1) throw new Error('a stored stanza ends inside an attribute')
      attrs[this.#slice(key, keyEnd)] = unescapeXml(this.#slice(at + 1, close))
      at = close + 1
    }
  }

  #slice(start: number, end: number): string {
    for (let at = start; at < end; at++) if (this.#text.charCodeAt(at) > 0x7f) return this.#bytes.utf8Slice(start, end)
    return this.#text.slice(start, end)
  }
}

function after(text: string, mark: string, at: number): number {
  const found = text.indexOf(mark, at)
  if (found === -1) throw new Error('a stored stanza ends inside an element')
  return found + mark.length
}

/** The offset after the `>` of the tag that starts at `at`; a `>` inside an attribute's value does not count. */
function endOfTag(text: string, at: number): number {
  for (;;) {
    const code = text.charCodeAt(at)
    if (code === GT) return at + 1
    if (code === QUOTE || code === APOSTROPHE) at = after(text, code === QUOTE ? '"' : "'", at + 1)
    else if (at++ >= text.length) throw new Error('a stored stanza ends inside a tag')
  }
}

function isSpace(code: number): boolean {
  return code === SPACE || code === 0x0a || code === 0x0d || code === 0x09
}

/** Also true at the end of the text, where the code is NaN. */
function endsName(code: number): boolean {
  return code === GT || code === SLASH || isSpace(code) || code !== code
}

const ENTITIES: Readonly<Record<string, string>> = { amp: '&', lt: '<', gt: '>', quot: '"', apos: "'" }

function unescapeXml(text: string): string {
  if (!text.includes('&')) return text
  return text.replace(/&(?:#x([0-9a-fA-F]+)|#(\d+)|(\w+));/g, (whole, hex: string | undefined, decimal: string | undefined, named: string | undefined) => {
    if (hex !== undefined) return String.fromCodePoint(Number.parseInt(hex, 16))
    if (decimal !== undefined) return String.fromCodePoint(Number(decimal))
    return ENTITIES[named ?? ''] ?? whole
  })
}
