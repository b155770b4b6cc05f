/** The hashes that stand for an answer of disco#info, computed anew to be held against those a server shows. */
import { createHash } from 'node:crypto'
import type { Element } from '../../lib/xml/element.ts'

const DATA_NS = 'jabber:x:data'

/** XEP-0115 §5.1 */
export function capsHash(query: Element, hash: string): string {
  const identities = query.getChildren('identity').map(({ attrs }) => `${attrs['category'] ?? ''}/${attrs['type'] ?? ''}/${attrs['xml:lang'] ?? ''}/${attrs['name'] ?? ''}`)
  const features = query.getChildren('feature').map((each) => each.attrs['var'] ?? '')
  const forms = query.getChildren('x', DATA_NS).map(readForm).sort((a, b) => compare(a.type, b.type))
  const parts = [...identities.sort(compare), ...features.sort(compare)]
  for (const { type, fields } of forms) {
    parts.push(type)
    for (const { name, values } of fields.sort((a, b) => compare(a.name, b.name))) parts.push(name, ...values.sort(compare))
  }
  return createHash(hash.replace('-', '')).update(parts.map((part) => `${part}<`).join('')).digest('base64')
}

/** XEP-0390 §4.1 */
export function caps2Hash(query: Element, hash: string): string {
  const join = (all: readonly string[], end: string): string => [...all].sort(compare).join('') + end
  const features = query.getChildren('feature').map((each) => `${each.attrs['var'] ?? ''}\x1f`)
  const identities = query.getChildren('identity').map(({ attrs }) => `${['category', 'type', 'xml:lang', 'name'].map((name) => `${attrs[name] ?? ''}\x1f`).join('')}\x1e`)
  const forms = query.getChildren('x', DATA_NS).map((form) => join(form.getChildren('field').map((field) => `${field.attrs['var'] ?? ''}\x1f${join(field.getChildren('value').map((value) => `${value.getText()}\x1f`), '\x1e')}`), '\x1d'))
  return createHash(hash.replace(/^sha-(?=\d)/, 'sha')).update(join(features, '\x1c') + join(identities, '\x1c') + join(forms, '\x1c')).digest('base64')
}

function readForm(form: Element): { type: string; fields: { name: string; values: string[] }[] } {
  const fields = form.getChildren('field').map((field) => ({ name: field.attrs['var'] ?? '', values: field.getChildren('value').map((value) => value.getText()) }))
  return { type: fields.find(({ name }) => name === 'FORM_TYPE')?.values[0] ?? '', fields: fields.filter(({ name }) => name !== 'FORM_TYPE') }
}

/** i;octet (RFC 4790 §9.3) */
function compare(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b))
}
