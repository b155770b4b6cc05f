/**
 * The element tree that extensions read and build: ltx's Element, with types.
 * Bytes from the network are never parsed by ltx; see parser.ts.
 */
// @ts-expect-error ltx ships no types
import * as ltx from 'ltx'

export interface Element {
  name: string
  attrs: Record<string, string | undefined>
  children: (Element | string)[]
  parent: Element | null
  /** The name without its prefix. */
  getName(): string
  /** The namespace in scope for this element. */
  getNS(): string | undefined
  is(name: string, xmlns?: string): boolean
  getChild(name: string, xmlns?: string): Element | undefined
  getChildren(name: string, xmlns?: string): Element[]
  getChildText(name: string, xmlns?: string): string | null
  getChildElements(): Element[]
  /** The text directly inside this element. */
  text(): string
  getText(): string
  getAttr(name: string): string | undefined
  append(...nodes: (Element | string)[]): Element
  remove(node: Element): Element
  toString(): string
}

type Child = Element | string | number | null | undefined | false | readonly Child[]

/** Builds an element; `null`, `undefined` and `false` children and attributes are left out. */
export function xml(name: string, attrs?: Record<string, string | number | undefined> | null, ...children: readonly Child[]): Element {
  const clean: Record<string, string> = {}
  if (attrs) for (const key in attrs) if (attrs[key] !== undefined) clean[key] = String(attrs[key])
  const element = new (ltx as { Element: new (name: string, attrs: Record<string, string>) => Element }).Element(name, clean)
  add(element, children)
  return element
}

function add(element: Element, children: readonly Child[]): void {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue
    if (Array.isArray(child)) add(element, child as readonly Child[])
    else if (typeof child === 'number') element.append(String(child))
    else element.append(child as Element | string)
  }
}

export function isElement(node: Element | string): node is Element {
  return typeof node !== 'string'
}

const ESCAPES: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&apos;' }

/** Escapes text for element content and for attribute values in either kind of quotes. */
export function escapeXml(text: string): string {
  return /[&<>"']/.test(text) ? text.replace(/[&<>"']/g, (c) => ESCAPES[c] as string) : text
}
