/** XEP-0060 §12.7: a message body for payloads that are understood here: entries of Atom (RFC 4287). */
import { buildElement } from '../../../lib/xml/build.ts'

const ATOM_NS = 'http://www.w3.org/2005/Atom'
const BODY_LENGTH_MAX = 2000

/** Whether payloads of this namespace have a body. */
export function summarises(namespace: string): boolean {
  return namespace === ATOM_NS
}

/** Title and summary of the entries, one below the other; undefined when there is nothing to say. */
export function summaryOf(payloads: readonly string[]): string | undefined {
  const lines = payloads.flatMap((payload) => {
    if (payload === '') return []
    const entry = buildElement(Buffer.from(payload))
    if (!entry.is('entry', ATOM_NS)) return []
    return ['title', 'summary'].flatMap((name) => {
      const text = entry.getChild(name, ATOM_NS)?.text().trim() ?? ''
      return text === '' ? [] : [text]
    })
  })
  return lines.length === 0 ? undefined : lines.join('\n').slice(0, BODY_LENGTH_MAX).replace(/[\uD800-\uDBFF]$/, '')
}
