// XEP-0220: Server Dialback, version 1.1.1 (2015-03-12); XEP-0185: Dialback Key Generation and Validation, version 1.0 (2007-02-15)
import { createHash, createHmac, timingSafeEqual } from 'node:crypto'
import type { StanzaErrorCondition } from '../../lib/stanza/errors.ts'
import { StanzaError } from '../../lib/stanza/errors.ts'
import type { Stanza } from '../../lib/stanza/stanza.ts'
import { escapeXml } from '../../lib/xml/element.ts'

export interface DialbackStream {
  /** The domain of the server that is to believe the key. */
  readonly receiving: string
  readonly originating: string
  /** The id of the receiving server's stream header. */
  readonly id: string
}

/** XEP-0185 §3. */
export function dialbackKey(secret: Uint8Array, { receiving, originating, id }: DialbackStream): string {
  return createHmac('sha256', createHash('sha256').update(secret).digest('hex')).update(`${receiving} ${originating} ${id}`).digest('hex')
}

export function isDialbackKey(given: string, secret: Uint8Array, stream: DialbackStream): boolean {
  const expected = dialbackKey(secret, stream)
  return timingSafeEqual(createHash('sha256').update(given.trim()).digest(), createHash('sha256').update(expected).digest())
}

/** What a server says of a key. */
export type Verdict = 'valid' | 'invalid' | { readonly error: StanzaErrorCondition }

export interface DialbackElement {
  readonly from: string
  readonly to: string
  readonly id?: string | undefined
  readonly key?: string | undefined
  readonly verdict?: Verdict | undefined
}

export function dialbackXml(name: 'result' | 'verify', { from, to, id, key, verdict }: DialbackElement): string {
  const type = verdict === undefined ? '' : ` type='${typeof verdict === 'object' ? 'error' : verdict}'`
  const inside = key ?? (typeof verdict === 'object' ? new StanzaError(verdict.error).toXml() : '')
  const attrs = `from='${escapeXml(from)}' to='${escapeXml(to)}'${id === undefined ? '' : ` id='${escapeXml(id)}'`}${type}`
  return inside === '' ? `<db:${name} ${attrs}/>` : `<db:${name} ${attrs}>${inside}</db:${name}>`
}

/** What an answer says (XEP-0220 §2.4). Without a type it is none. */
export function verdictOf(answer: Stanza): Verdict | undefined {
  switch (answer.type) {
    case undefined: return undefined
    case 'valid': return 'valid'
    case 'invalid': return 'invalid'
    default: return { error: errorIn(answer) }
  }
}

const CONDITIONS: ReadonlySet<string> = new Set<StanzaErrorCondition>(['forbidden', 'item-not-found', 'not-allowed', 'not-authorized', 'policy-violation', 'remote-server-not-found', 'remote-server-timeout', 'resource-constraint', 'internal-server-error'])

function errorIn(answer: Stanza): StanzaErrorCondition {
  const child = answer.children.find(({ name }) => name === 'error')
  const condition = child && answer.childElement(child).getChildElements().map((each) => each.getName()).find((name) => CONDITIONS.has(name))
  return (condition ?? 'remote-server-timeout') as StanzaErrorCondition
}
