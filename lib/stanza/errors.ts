/** RFC 6120 §8.3: stanza errors. */
import { type Element, escapeXml } from '../xml/element.ts'

export const STANZAS_NS = 'urn:ietf:params:xml:ns:xmpp-stanzas'

/** The defined conditions of RFC 6120 §8.3.3 with the error type each is sent with unless told otherwise. */
const DEFAULT_TYPES = {
  'bad-request': 'modify',
  conflict: 'cancel',
  'feature-not-implemented': 'cancel',
  forbidden: 'auth',
  gone: 'cancel',
  'internal-server-error': 'cancel',
  'item-not-found': 'cancel',
  'jid-malformed': 'modify',
  'not-acceptable': 'modify',
  'not-allowed': 'cancel',
  'not-authorized': 'auth',
  'policy-violation': 'modify',
  'recipient-unavailable': 'wait',
  redirect: 'modify',
  'registration-required': 'auth',
  'remote-server-not-found': 'cancel',
  'remote-server-timeout': 'wait',
  'resource-constraint': 'wait',
  'service-unavailable': 'cancel',
  'subscription-required': 'auth',
  'undefined-condition': 'cancel',
  'unexpected-request': 'wait',
} as const

export type StanzaErrorCondition = keyof typeof DEFAULT_TYPES
export type StanzaErrorType = 'auth' | 'cancel' | 'continue' | 'modify' | 'wait'

/** Thrown by a handler to answer a stanza with an error; caught once, where stanzas are dispatched. */
export class StanzaError extends Error {
  readonly condition: StanzaErrorCondition
  readonly type: StanzaErrorType
  readonly text: string | undefined
  /** An application-specific condition, serialised (RFC 6120 §8.3.4). */
  readonly extra: string | undefined
  /** What stands before `<error/>` in the answer to an IQ. */
  readonly payload: Element | undefined

  constructor(condition: StanzaErrorCondition, text?: string, options: { type?: StanzaErrorType; extra?: string; payload?: Element } = {}) {
    super(text ?? condition)
    this.condition = condition
    this.type = options.type ?? DEFAULT_TYPES[condition]
    this.text = text
    this.extra = options.extra
    this.payload = options.payload
  }

  /** The `<error/>` element, serialised. */
  toXml(by?: string): string {
    const text = this.text ? `<text xmlns='${STANZAS_NS}' xml:lang='en'>${escapeXml(this.text)}</text>` : ''
    const from = by ? ` by='${escapeXml(by)}'` : ''
    return `<error type='${this.type}'${from}><${this.condition} xmlns='${STANZAS_NS}'/>${text}${this.extra ?? ''}</error>`
  }
}
