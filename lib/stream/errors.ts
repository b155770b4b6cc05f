/** RFC 6120 §4.9: stream errors. */
import { escapeXml } from '../xml/element.ts'

const STREAMS_NS = 'urn:ietf:params:xml:ns:xmpp-streams'

export type StreamErrorCondition =
  | 'bad-format' | 'bad-namespace-prefix' | 'conflict' | 'connection-timeout' | 'host-gone' | 'host-unknown'
  | 'improper-addressing' | 'internal-server-error' | 'invalid-from' | 'invalid-namespace' | 'invalid-xml'
  | 'not-authorized' | 'not-well-formed' | 'policy-violation' | 'remote-connection-failed' | 'reset'
  | 'resource-constraint' | 'restricted-xml' | 'see-other-host' | 'system-shutdown' | 'undefined-condition'
  | 'unsupported-encoding' | 'unsupported-feature' | 'unsupported-stanza-type' | 'unsupported-version'

/** Thrown to end a stream; caught once, in the stream's read loop. */
export class StreamError extends Error {
  readonly condition: StreamErrorCondition
  readonly text: string | undefined
  /** An application-specific condition, serialised (RFC 6120 §4.9.4). */
  readonly extra: string | undefined

  constructor(condition: StreamErrorCondition, text?: string, extra?: string) {
    super(text ?? condition)
    this.condition = condition
    this.text = text
    this.extra = extra
  }

  /** `<stream:error/>`, serialised. */
  toXml(): string {
    const text = this.text ? `<text xmlns='${STREAMS_NS}' xml:lang='en'>${escapeXml(this.text)}</text>` : ''
    return `<stream:error><${this.condition} xmlns='${STREAMS_NS}'/>${text}${this.extra ?? ''}</stream:error>`
  }
}
