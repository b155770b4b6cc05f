/** Elements taken out of the stanza they came in, so that they mean the same wherever they are written. */
import { StanzaError } from '../../lib/stanza/errors.ts'
import { type Element, isElement, xml } from '../../lib/xml/element.ts'

/** Bytes of a namespace that an element inherits: one that is declared once could be copied into thousands of elements. */
const NAMESPACE_MAX = 1024

/** A copy that carries the namespaces it inherited: its default namespace and the prefixes used inside it. Throws `not-acceptable` when one is too long. */
export function standalone(element: Element): Element {
  const copy = copyOf(element)
  if (!element.name.includes(':') && copy.attrs['xmlns'] === undefined) {
    const xmlns = element.getNS()
    if (xmlns !== undefined) copy.attrs['xmlns'] = checked(xmlns)
  }
  const used = new Set<string>()
  collectPrefixes(element, used)
  for (const prefix of used) {
    const key = `xmlns:${prefix}`
    if (copy.attrs[key] !== undefined) continue
    for (let above = element.parent; above !== null && above !== undefined; above = above.parent) {
      const found = above.attrs[key]
      if (found === undefined) continue
      copy.attrs[key] = checked(found)
      break
    }
  }
  return copy
}

function checked(namespace: string): string {
  if (namespace.length > NAMESPACE_MAX) throw new StanzaError('not-acceptable', 'a namespace is too long')
  return namespace
}

/** A deep copy; appending moves an element, so children are copied too. */
export function copyOf(element: Element): Element {
  return xml(element.name, element.attrs, element.children.map((child) => isElement(child) ? copyOf(child) : child))
}

function collectPrefixes(element: Element, into: Set<string>): void {
  for (const name of [element.name, ...Object.keys(element.attrs)]) {
    const at = name.indexOf(':')
    const prefix = at === -1 ? '' : name.slice(0, at)
    if (prefix !== '' && prefix !== 'xml' && prefix !== 'xmlns') into.add(prefix)
  }
  for (const child of element.children) if (isElement(child)) collectPrefixes(child, into)
}
