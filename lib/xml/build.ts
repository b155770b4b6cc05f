/** Element trees from bytes. The bytes of a stanza were validated when they came; `parseElement` validates first. */
import { type Element, xml } from './element.ts'
import { StreamScanner } from './scanner.ts'

const ENTITIES: Record<string, string> = { lt: '<', gt: '>', amp: '&', apos: "'", quot: '"' }

/**
 * The tree of one element from bytes that are known to be well-formed.
 * `prefixes` are those declared around it; the ones that it mentions are declared on the tree's root.
 */
export function buildElement(bytes: Buffer, prefixes: Readonly<Record<string, string | undefined>> = {}): Element {
  const text = bytes.utf8Slice(0, bytes.length)
  let at = text.indexOf('<')
  let root: Element | undefined
  let current: Element | undefined
  for (;;) {
    if (at < 0) throw new Error('not an element')
    const begun = at
    const second = text.charCodeAt(at + 1)
    if (second === 0x2f) {
      current = current?.parent ?? undefined
      at = text.indexOf('>', at) + 1
    } else if (second === 0x21) {
      const end = text.indexOf(']]>', at)
      addText(current, lineEnds(text.slice(at + 9, end)))
      at = end + 3
    } else {
      let end = at + 1
      while (!isTagBreak(text.charCodeAt(end))) end++
      const element = xml(text.slice(at + 1, end))
      at = end
      for (;;) {
        at = skipBlank(text, at)
        const code = text.charCodeAt(at)
        if (code === 0x3e || code === 0x2f) break
        let nameEnd = at
        while (!isTagBreak(text.charCodeAt(nameEnd))) nameEnd++
        const name = text.slice(at, nameEnd)
        const open = skipBlank(text, skipBlank(text, nameEnd) + 1)
        const close = text.indexOf(text[open] as string, open + 1)
        if (close < at) throw new Error('not an element')
        element.attrs[name] = unescape(text.slice(open + 1, close), true)
        at = close + 1
      }
      const selfClosed = text.charCodeAt(at) === 0x2f
      at += selfClosed ? 2 : 1
      if (current === undefined) root = element
      else {
        element.parent = current
        current.children.push(element)
      }
      if (!selfClosed) current = element
    }
    // Whatever these bytes are, it must come to an end.
    if (at <= begun) throw new Error('not an element')
    if (current === undefined) break
    const next = text.indexOf('<', at)
    if (next > at) addText(current, unescape(text.slice(at, next), false))
    at = next
  }
  if (root === undefined) throw new Error('not an element')
  for (const prefix in prefixes) {
    const key = `xmlns:${prefix}`
    if (root.attrs[key] === undefined && text.includes(`${prefix}:`)) root.attrs[key] = prefixes[prefix]
  }
  return root
}

class ElementCounter extends StreamScanner {
  found = 0
  protected streamOpened(): void { /* ours */ }
  protected element(): void { this.found++ }
  protected streamClosed(): void { /* ours */ }
}

/** The tree of one element, validated as if it had come over the wire. Throws StreamError. */
export function parseElement(text: string | Buffer): Element {
  const bytes = Buffer.from(text)
  const scanner = new ElementCounter({ stanzaBytes: 67_108_864, depth: 1000, attributes: 1000, children: 1_000_000 }, undefined)
  scanner.write(Buffer.from("<_:stream xmlns:_='http://etherx.jabber.org/streams'>"))
  scanner.write(bytes)
  if (scanner.found !== 1 || !scanner.idle) throw new Error('not one whole element')
  return buildElement(bytes)
}

function addText(parent: Element | undefined, text: string): void {
  if (parent === undefined || text === '') return
  const last = parent.children.length - 1
  const before = parent.children[last]
  if (typeof before === 'string') parent.children[last] = before + text
  else parent.children.push(text)
}

function isTagBreak(code: number): boolean {
  return code === 0x20 || code === 0x3e || code === 0x2f || code === 0x3d || code === 0x0a || code === 0x0d || code === 0x09 || Number.isNaN(code)
}

function skipBlank(text: string, start: number): number {
  let at = start
  for (;;) {
    const code = text.charCodeAt(at)
    if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) return at
    at++
  }
}

/** XML 1.0 §2.11 */
function lineEnds(text: string): string {
  return text.includes('\r') ? text.replace(/\r\n?/g, '\n') : text
}

function unescape(raw: string, attribute: boolean): string {
  let text = lineEnds(raw)
  if (attribute && /[\t\n]/.test(text)) text = text.replace(/[\t\n]/g, ' ')
  if (!text.includes('&')) return text
  return text.replace(/&(#x[0-9a-fA-F]+|#[0-9]+|[a-z]+);/g, (_, name: string) => {
    if (name[0] !== '#') return ENTITIES[name] ?? ''
    return String.fromCodePoint(name[1] === 'x' ? Number.parseInt(name.slice(2), 16) : Number.parseInt(name.slice(1), 10))
  })
}
