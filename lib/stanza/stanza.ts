/**
 * A first-level child of a stream: a stanza (message, presence, iq) or a nonza such as `<r xmlns='urn:xmpp:sm:3'/>`.
 *
 * It keeps the bytes between its tags as they came. Changing `from` or appending a child writes a new start tag or
 * tail around the same bytes; an element tree is built only when `element()` is called, and once.
 */
import { type Element, escapeXml } from '../xml/element.ts'
import { AttributeMap } from '../xml/attributes.ts'
import { buildElement } from '../xml/build.ts'
import { StanzaError } from './errors.ts'

/** A child element of the stanza: its name and where it stands in `content`. */
export interface ChildSpan {
  readonly name: string
  readonly xmlns: string
  readonly start: number
  readonly end: number
}

export type Attributes = Readonly<Record<string, string>>

const EMPTY = Buffer.alloc(0)
/** Start tags are encoded here first, which tells their length in bytes too. */
const scratch = Buffer.allocUnsafeSlow(4096)
const TAILS = new Map(['message', 'presence', 'iq'].map((name) => [name, Buffer.from(`</${name}>`)]))
export const CLIENT_NS = 'jabber:client'

export class Stanza {
  /** Local name: `message`, `presence`, `iq`, or a nonza's. */
  readonly name: string
  readonly xmlns: string
  /** Unescaped attributes (an object without prototype) by qualified name (`to`, `xml:lang`), with prefix declarations (`xmlns:p`), without `xmlns`. */
  readonly attrs: Attributes
  /** The bytes between the tags: well-formed, no prefix undeclared, default namespace `xmlns`. */
  readonly content: Buffer
  readonly children: readonly ChildSpan[]
  #bytes: Buffer | undefined
  /** In place of `#bytes`, of copies that nobody has asked for these. */
  #parts: readonly Buffer[] | undefined
  #element: Element | undefined

  constructor(name: string, xmlns: string, attrs: Attributes, content: Buffer, children: readonly ChildSpan[]) {
    this.name = name
    this.xmlns = xmlns
    this.attrs = attrs
    this.content = content
    this.children = children
  }

  get to(): string | undefined { return this.attrs['to'] }
  get from(): string | undefined { return this.attrs['from'] }
  get id(): string | undefined { return this.attrs['id'] }
  get type(): string | undefined { return this.attrs['type'] }

  /** Whether it is one of the three kinds of stanza (XEP-0198 counts these alone). */
  get isStanza(): boolean {
    return this.xmlns === CLIENT_NS && (this.name === 'message' || this.name === 'iq' || this.name === 'presence')
  }

  /** The first child of this name; of any namespace when `xmlns` is left out. */
  find(name: string, xmlns?: string): ChildSpan | undefined {
    for (const child of this.children) if (child.name === name && (xmlns === undefined || child.xmlns === xmlns)) return child
    return undefined
  }

  has(name: string, xmlns: string = this.xmlns): boolean {
    return this.find(name, xmlns) !== undefined
  }

  /** The whole stanza as a tree, built once. Treat it as read-only. */
  element(): Element {
    this.#element ??= buildElement(this.bytes())
    return this.#element
  }

  /** One child as a tree, without building the others. */
  childElement(child: ChildSpan): Element {
    const element = buildElement(this.content.subarray(child.start, child.end), declarations(this.attrs))
    if (element.attrs['xmlns'] === undefined && !element.name.includes(':')) element.attrs['xmlns'] = child.xmlns
    return element
  }

  /** The same stanza with other attributes; `undefined` removes one. */
  withAttrs(changes: Readonly<Record<string, string | undefined>>): Stanza {
    const attrs = new AttributeMap()
    for (const key in this.attrs) if (!Object.hasOwn(changes, key)) attrs[key] = this.attrs[key] as string
    for (const key in changes) if (changes[key] !== undefined) attrs[key] = changes[key]
    return new Stanza(this.name, this.xmlns, attrs, this.content, this.children)
  }

  /** The same stanza from its sender's full JID, and in the language of its stream when it names none. */
  stamped(from: string, lang: string | undefined): Stanza {
    const attrs = new AttributeMap()
    for (const key in this.attrs) if (key !== 'from') attrs[key] = this.attrs[key] as string
    attrs['from'] = from
    if (lang !== undefined && attrs['xml:lang'] === undefined) attrs['xml:lang'] = lang
    return new Stanza(this.name, this.xmlns, attrs, this.content, this.children)
  }

  /**
   * Makes copies for many recipients, which differ in `to` alone and are serialised together. Who keeps an address may give it
   * as it stands in the stanza too, in UTF-8 and escaped.
   */
  copies(): (to: string, escaped?: Buffer) => Stanza {
    const bytes = this.withAttrs({ to: '\0' }).encode()
    const at = bytes.indexOf(0)
    const before = bytes.subarray(0, at)
    const after = bytes.subarray(at + 1)
    const names = Object.keys(this.attrs).filter((name) => name !== 'to')
    return (to, escaped = Buffer.from(escapeXml(to))) => {
      const attrs = new AttributeMap()
      for (const name of names) attrs[name] = this.attrs[name] as string
      attrs['to'] = to
      const copy = new Stanza(this.name, this.xmlns, attrs, this.content, this.children)
      copy.#parts = [before, escaped, after]
      return copy
    }
  }

  /** The same stanza with one more child at the end; `text` is the child serialised, with its `xmlns`. */
  append(name: string, xmlns: string, text: string): Stanza {
    const start = this.content.length
    const length = Buffer.byteLength(text)
    const children = [...this.children, { name, xmlns, start, end: start + length }]
    const serialised = this.#bytes
    if (serialised === undefined || start === 0) {
      const content = Buffer.allocUnsafe(start + length)
      content.set(this.content)
      content.write(text, start)
      return new Stanza(this.name, this.xmlns, this.attrs, content, children)
    }
    // Serialised already: the copy is as well, and its content is a part of that.
    const tailBytes = Buffer.byteLength(this.name) + 3
    const at = serialised.length - tailBytes
    const bytes = Buffer.allocUnsafe(serialised.length + length)
    serialised.copy(bytes, 0, 0, at)
    bytes.write(text, at)
    serialised.copy(bytes, at + length, at)
    const copy = new Stanza(this.name, this.xmlns, this.attrs, bytes.subarray(at - start, at + length), children)
    copy.#bytes = bytes
    return copy
  }

  /** The same stanza without the children for which `unwanted` is true; itself when there is none. */
  without(unwanted: (child: ChildSpan) => boolean): Stanza {
    if (!this.children.some(unwanted)) return this
    const parts: Buffer[] = []
    const children: ChildSpan[] = []
    let taken = 0
    let removed = 0
    for (const child of this.children) {
      if (unwanted(child)) {
        parts.push(this.content.subarray(taken, child.start))
        taken = child.end
        removed += child.end - child.start
      } else children.push({ ...child, start: child.start - removed, end: child.end - removed })
    }
    parts.push(this.content.subarray(taken))
    return new Stanza(this.name, this.xmlns, this.attrs, Buffer.concat(parts), children)
  }

  /** The same stanza to keep long, in memory of its own: a few bytes of a buffer that many share would keep all of it. */
  compact(): Stanza {
    const content = Buffer.allocUnsafeSlow(this.content.length)
    content.set(this.content)
    return new Stanza(this.name, this.xmlns, this.attrs, content.length === 0 ? EMPTY : content, this.children)
  }

  /** The start tag, or the whole of an empty element. */
  head(): string {
    let text = `<${this.name}`
    if (this.xmlns !== CLIENT_NS) text += ` xmlns='${escapeXml(this.xmlns)}'`
    for (const key in this.attrs) text += ` ${key}='${escapeXml(this.attrs[key] as string)}'`
    return text + (this.content.length === 0 ? '/>' : '>')
  }

  /** Serialised, once; the default namespace in scope where it is written must be `jabber:client`. */
  bytes(): Buffer {
    return (this.#bytes ??= this.#parts === undefined ? this.encode() : Buffer.concat(this.#parts))
  }

  /** The same in as many buffers as it is kept in: one, or those that copies have in common and what is their own. */
  parts(): readonly Buffer[] {
    return this.#bytes === undefined && this.#parts !== undefined ? this.#parts : [this.bytes()]
  }

  /** Serialised anew, for stanzas that are kept long. */
  encode(): Buffer {
    const head = this.head()
    if (this.content.length === 0) return Buffer.from(head)
    const tail = TAILS.get(this.name) ?? Buffer.from(`</${this.name}>`)
    // No character of a string takes more than three bytes of UTF-8.
    const fits = head.length * 3 <= scratch.length
    const headBytes = fits ? scratch.write(head, 0) : Buffer.byteLength(head)
    const end = headBytes + this.content.length
    const bytes = Buffer.allocUnsafe(end + tail.length)
    if (fits) scratch.copy(bytes, 0, 0, headBytes)
    else bytes.write(head, 0)
    bytes.set(this.content, headBytes)
    bytes.set(tail, end)
    return bytes
  }

  toString(): string {
    return this.bytes().toString()
  }
}

function declarations(attrs: Attributes): Attributes {
  const found: Record<string, string> = {}
  for (const key in attrs) if (key.startsWith('xmlns:')) found[key.slice(6)] = attrs[key] as string
  return found
}

/** A stanza made by the server; `children` are serialised elements, each with its name and namespace. */
export function makeStanza(name: string, attrs: Readonly<Record<string, string | undefined>>, children: readonly { name: string; xmlns: string; text: string }[] = []): Stanza {
  const clean = new AttributeMap()
  for (const key in attrs) if (attrs[key] !== undefined) clean[key] = attrs[key]
  if (children.length === 0) return new Stanza(name, CLIENT_NS, clean, EMPTY, [])
  const spans: ChildSpan[] = []
  let offset = 0
  for (const child of children) {
    const end = offset + Buffer.byteLength(child.text)
    spans.push({ name: child.name, xmlns: child.xmlns, start: offset, end })
    offset = end
  }
  return new Stanza(name, CLIENT_NS, clean, Buffer.from(children.map((child) => child.text).join('')), spans)
}

/** A stanza from element trees. A child without an `xmlns` of its own is in `jabber:client`. */
export function stanzaOf(name: string, attrs: Readonly<Record<string, string | undefined>>, ...children: readonly Element[]): Stanza {
  return makeStanza(name, attrs, children.map((child) => ({ name: child.getName(), xmlns: child.getNS() ?? CLIENT_NS, text: child.toString() })))
}

/** The empty or filled result of an IQ (RFC 6120 §8.2.3). */
export function iqResult(request: Stanza, child?: Element): Stanza {
  const attrs = { type: 'result', id: request.id, from: request.to, to: request.from }
  return child ? stanzaOf('iq', attrs, child) : makeStanza('iq', attrs)
}

/** The error that answers a stanza, with its addresses swapped (RFC 6120 §8.3.1); the payload is not repeated, unless the error has one. */
export function errorReply(stanza: Stanza, error: StanzaError): Stanza {
  const { payload } = error
  return makeStanza(
    stanza.name,
    { type: 'error', id: stanza.id, from: stanza.to, to: stanza.from },
    [
      ...(payload === undefined ? [] : [{ name: payload.getName(), xmlns: payload.getNS() ?? CLIENT_NS, text: payload.toString() }]),
      { name: 'error', xmlns: CLIENT_NS, text: error.toXml() },
    ],
  )
}
