/**
 * Reads a stanza back from bytes that this server wrote (`Stanza.bytes()`). They were validated when they came in, so only
 * what a Stanza knows is looked for: the start tag and where its children stand. Bytes from the network go through
 * lib/xml/parser.ts.
 */
import { type ChildSpan, CLIENT_NS, Stanza } from './stanza.ts'

const LT = 0x3c
const GT = 0x3e
const SLASH = 0x2f
const BANG = 0x21
const EQUALS = 0x3d
const QUOTE = 0x22
const APOSTROPHE = 0x27
const SPACE = 0x20
const CDATA_END = Buffer.from(']]>')

interface Tag {
  readonly name: string
  readonly attrs: Record<string, string>
  readonly empty: boolean
  /** The offset after `>`. */
  readonly end: number
}

/** The stanza of these bytes; the bytes are kept, not copied. */
export function readStanza(bytes: Buffer): Stanza {
  const head = readTag(bytes, 0)
  const { xmlns = CLIENT_NS, ...rest } = head.attrs
  const attrs = Object.assign(Object.create(null) as Record<string, string>, rest)
  if (head.empty) return new Stanza(head.name, xmlns, attrs, bytes.subarray(0, 0), [])
  const end = bytes.lastIndexOf(LT)
  const content = bytes.subarray(head.end, end)
  return new Stanza(head.name, xmlns, attrs, content, childrenOf(content, xmlns, attrs))
}

function childrenOf(content: Buffer, xmlns: string, outer: Readonly<Record<string, string>>): ChildSpan[] {
  const children: ChildSpan[] = []
  let depth = 0
  let start = 0
  let name = ''
  let namespace = ''
  let at = content.indexOf(LT)
  while (at !== -1) {
    const next = content[at + 1]
    let end: number
    if (next === BANG) {
      end = content.indexOf(CDATA_END, at) + 3
    } else if (next === SLASH) {
      end = content.indexOf(GT, at) + 1
      if (--depth === 0) children.push({ name, xmlns: namespace, start, end })
    } else if (depth === 0) {
      const tag = readTag(content, at)
      const colon = tag.name.indexOf(':')
      start = at
      name = tag.name.slice(colon + 1)
      const declared = colon === -1 ? 'xmlns' : `xmlns:${tag.name.slice(0, colon)}`
      namespace = tag.attrs[declared] ?? (colon === -1 ? xmlns : outer[declared] ?? '')
      end = tag.end
      if (tag.empty) children.push({ name, xmlns: namespace, start, end })
      else depth = 1
    } else {
      end = endOfTag(content, at)
      if (content[end - 2] !== SLASH) depth++
    }
    at = content.indexOf(LT, end)
  }
  return children
}

/** The offset after the `>` of the tag that starts at `at`; a `>` inside an attribute's value does not count. */
function endOfTag(bytes: Buffer, at: number): number {
  for (;;) {
    const byte = bytes[at]
    if (byte === undefined) throw new Error('a stored stanza ends inside a tag')
    if (byte === GT) return at + 1
    at = byte === QUOTE || byte === APOSTROPHE ? bytes.indexOf(byte, at + 1) + 1 : at + 1
  }
}

function readTag(bytes: Buffer, start: number): Tag {
  if (bytes[start] !== LT) throw new Error('a stored stanza does not start with a tag')
  let at = start + 1
  while (!endsName(bytes[at])) at++
  const name = bytes.utf8Slice(start + 1, at)
  const attrs = Object.create(null) as Record<string, string>
  for (;;) {
    while (isSpace(bytes[at])) at++
    const byte = bytes[at]
    if (byte === GT) return { name, attrs, empty: false, end: at + 1 }
    if (byte === SLASH) return { name, attrs, empty: true, end: at + 2 }
    if (byte === undefined) throw new Error('a stored stanza ends inside a tag')
    const key = at
    while (!endsName(bytes[at]) && bytes[at] !== EQUALS) at++
    const keyEnd = at
    while (bytes[at] !== QUOTE && bytes[at] !== APOSTROPHE) {
      if (bytes[at] === undefined) throw new Error('a stored stanza ends inside a tag')
      at++
    }
    const close = bytes.indexOf(bytes[at] as number, at + 1)
    if (close === -1) throw new Error('a stored stanza ends inside an attribute')
    attrs[bytes.utf8Slice(key, keyEnd)] = unescapeXml(bytes.utf8Slice(at + 1, close))
    at = close + 1
  }
}

function isSpace(byte: number | undefined): boolean {
  return byte === SPACE || byte === 0x0a || byte === 0x0d || byte === 0x09
}

function endsName(byte: number | undefined): boolean {
  return byte === GT || byte === SLASH || byte === undefined || isSpace(byte)
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
