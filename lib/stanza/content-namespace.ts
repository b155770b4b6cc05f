/**
 * Streams of other content namespaces than `jabber:client`, such as `jabber:component:accept` (RFC 6120 §4.8.3). Inside the server all
 * stanzas are in `jabber:client`; the namespace of their stream is theirs on the wire alone.
 */
import { readStanza } from './read.ts'
import { CLIENT_NS, Stanza } from './stanza.ts'

const ATTRIBUTE = /(\s([^\s=]+)\s*=\s*)(?:'([^']*)'|"([^"]*)")/g
/** What has no tags in it, then tags with their attributes. */
const TOKENS = /<!\[CDATA\[[^]*?\]\]>|<(?:[^'">]|'[^']*'|"[^"]*")*>/g

/** A stanza that came on a stream of this namespace, as it is inside. Other elements stay as they are. */
export function fromContentNamespace(stanza: Stanza, xmlns: string): Stanza {
  if (stanza.xmlns !== xmlns) return stanza
  const { name, content } = stanza
  let { attrs } = stanza
  for (const key in attrs) if (key.startsWith('xmlns:') && attrs[key] === xmlns) ({ attrs } = stanza.withAttrs({ ...attrs, [key]: CLIENT_NS }))
  if (!content.includes(xmlns)) {
    return new Stanza(name, CLIENT_NS, attrs, content, stanza.children.map((child) => (child.xmlns === xmlns ? { ...child, xmlns: CLIENT_NS } : child)))
  }
  // Declared anew on an element inside: where its children stand changes too.
  const renamed = content.toString().replace(TOKENS, (token) => (token.startsWith('<!') ? token : declaring(token, xmlns, CLIENT_NS)))
  return readStanza(new Stanza(name, CLIENT_NS, attrs, Buffer.from(renamed), []).encode())
}

/** The bytes of a stanza for a stream of this namespace. What is forwarded in it stays in the namespace that it declares. */
export function toContentNamespace(stanza: Stanza, xmlns: string): Buffer {
  const { content, children } = stanza
  let { attrs } = stanza
  for (const key in attrs) if (key.startsWith('xmlns:') && attrs[key] === CLIENT_NS) ({ attrs } = stanza.withAttrs({ ...attrs, [key]: xmlns }))
  if (attrs === stanza.attrs && !children.some((child) => child.xmlns === CLIENT_NS && content.subarray(child.start, child.end).includes(CLIENT_NS))) return stanza.bytes()
  const parts: Buffer[] = []
  let taken = 0
  for (const { xmlns: namespace, start, end } of children) {
    if (namespace !== CLIENT_NS) continue
    const child = content.subarray(start, end).toString()
    const [tag = ''] = /^<(?:[^'">]|'[^']*'|"[^"]*")*>/.exec(child) ?? []
    parts.push(content.subarray(taken, start), Buffer.from(declaring(tag, CLIENT_NS, xmlns) + child.slice(tag.length)))
    taken = end
  }
  parts.push(content.subarray(taken))
  return new Stanza(stanza.name, CLIENT_NS, attrs, Buffer.concat(parts), []).encode()
}

function declaring(tag: string, from: string, to: string): string {
  return tag.replace(ATTRIBUTE, (whole, before: string, name: string, single: string | undefined, double: string | undefined) => ((name === 'xmlns' || name.startsWith('xmlns:')) && (single ?? double) === from ? `${before}'${to}'` : whole))
}
