/** `<body/>`, the wrapper of all that goes through BOSH: reading and writing (XEP-0124 §6). */
import { StreamError } from '../../../lib/stream/errors.ts'
import type { Stanza } from '../../../lib/stanza/stanza.ts'
import { escapeXml } from '../../../lib/xml/element.ts'
import { type ParserLimits, StreamParser } from '../../../lib/xml/parser.ts'

export const BOSH_NS = 'http://jabber.org/protocol/httpbind'
export const XBOSH_NS = 'urn:xmpp:xbosh'
const CLIENT_NS = 'jabber:client'
const STREAM_NS = 'http://etherx.jabber.org/streams'

/** §17.2: why a session ends. */
export type Condition =
  | 'bad-request' | 'host-unknown' | 'improper-addressing' | 'internal-server-error' | 'item-not-found'
  | 'policy-violation' | 'remote-connection-failed' | 'remote-stream-error' | 'system-shutdown'

/** Thrown to refuse a request; its session, when there is one, ends. */
export class BindingError extends Error {
  readonly condition: Condition
  constructor(condition: Condition, text?: string) {
    super(text ?? condition)
    this.condition = condition
  }
}

/** A request's body. */
export interface Body {
  /** Attributes by name, without those of XMPP over BOSH. */
  readonly attrs: Readonly<Record<string, string | undefined>>
  /** The attributes of XEP-0206 by local name: `version`, `restart`. */
  readonly xmpp: Readonly<Record<string, string | undefined>>
  /** First-level elements, serialised, each with its namespace declared. */
  readonly payloads: readonly Buffer[]
}

const HEAD = Buffer.from(`<t:stream xmlns='${CLIENT_NS}' xmlns:t='${STREAM_NS}'>`)
const END = Buffer.from('</t:stream>')
const NAMESPACE = Buffer.from(` xmlns='${CLIENT_NS}'`)

/** Reads a request. Throws BindingError: `bad-request`, or `policy-violation` beyond the limits. */
export function readBody(bytes: Buffer, limits: ParserLimits): Body {
  const wrappers: Stanza[] = []
  let closed = false
  const parser = new StreamParser(limits, {
    streamOpened: () => undefined,
    stanza: (stanza) => void wrappers.push(stanza),
    streamClosed: () => { closed = true },
  })
  try {
    parser.write(Buffer.concat([HEAD, withoutDeclaration(bytes)]))
    if (closed) throw new BindingError('bad-request', 'not one body')
    parser.write(END)
  } catch (error) {
    if (!(error instanceof StreamError)) throw error
    throw new BindingError(error.condition === 'policy-violation' ? 'policy-violation' : 'bad-request', error.message)
  }
  const [wrapper] = wrappers
  if (!closed || wrapper === undefined || wrappers.length > 1 || wrapper.name !== 'body' || wrapper.xmlns !== BOSH_NS) throw new BindingError('bad-request', 'not one body')
  checkBetween(wrapper)
  const attrs: Record<string, string> = Object.create(null)
  const xmpp: Record<string, string> = Object.create(null)
  for (const [name, value] of Object.entries(wrapper.attrs)) {
    const colon = name.indexOf(':')
    if (colon > 0 && wrapper.attrs[`xmlns:${name.slice(0, colon)}`] === XBOSH_NS) xmpp[name.slice(colon + 1)] = value
    else attrs[name] = value
  }
  return { attrs, xmpp, payloads: payloadsOf(wrapper) }
}

/** Before the root element an XML declaration may stand. */
function withoutDeclaration(bytes: Buffer): Buffer {
  if (bytes[0] !== 0x3c || bytes[1] !== 0x3f) return bytes
  const match = /^<\?xml\s+version=(?:'1\.\d'|"1\.\d")(?:\s+encoding=(?:'([\w-]+)'|"([\w-]+)"))?(?:\s+standalone=(?:'(?:yes|no)'|"(?:yes|no)"))?\s*\?>/.exec(bytes.toString('latin1', 0, 256))
  const encoding = (match?.[1] ?? match?.[2] ?? 'utf-8').toLowerCase()
  if (match === null || encoding !== 'utf-8') throw new BindingError('bad-request', 'illegal XML declaration')
  return bytes.subarray(match[0].length)
}

/** §6: the wrapper holds elements and no text. */
function checkBetween(wrapper: Stanza): void {
  const { content, children } = wrapper
  let at = 0
  for (const { start, end } of [...children, { start: content.length, end: content.length }]) {
    if (content.toString('latin1', at, start).trim() !== '') throw new BindingError('bad-request', 'text in the body')
    at = end
  }
}

/**
 * Each payload as it stands alone. One without a namespace of its own is of `jabber:client`: many clients leave that out
 * (XEP-0206 §2).
 */
function payloadsOf({ content, children, attrs }: Stanza): Buffer[] {
  const declared = Object.entries(attrs).filter(([name, uri]) => name.startsWith('xmlns:') && !(name === 'xmlns:t' && uri === STREAM_NS))
  return children.map(({ start, end, xmlns }) => {
    const payload = content.subarray(start, end)
    const tag = payload.toString('latin1', 0, endOfTag(payload))
    const additions = declared
      .filter(([name]) => payload.includes(`${name.slice(6)}:`) && !hasAttribute(tag, name))
      .map(([name, uri]) => Buffer.from(` ${name}='${escapeXml(uri)}'`))
    if (xmlns === BOSH_NS && !hasAttribute(tag, 'xmlns')) additions.push(NAMESPACE)
    if (additions.length === 0) return payload
    const nameEnd = /^<[^\s/>]+/.exec(tag)?.[0].length ?? 1
    return Buffer.concat([payload.subarray(0, nameEnd), ...additions, payload.subarray(nameEnd)])
  })
}

/** Where the start tag ends; a `>` in an attribute's value does not count. */
function endOfTag(payload: Buffer): number {
  let quote = 0
  for (let at = 1; at < payload.length; at++) {
    const byte = payload[at] as number
    if (quote !== 0) {
      if (byte === quote) quote = 0
    } else if (byte === 0x22 || byte === 0x27) quote = byte
    else if (byte === 0x3e) return at + 1
  }
  return payload.length
}

function hasAttribute(tag: string, name: string): boolean {
  const bare = tag.replace(/"[^"]*"|'[^']*'/g, '""')
  return new RegExp(`\\s${name.replace(/[.\\]/g, '\\$&')}\\s*=`).test(bare)
}

const STREAM_PREFIX = '<stream:'

/** A response. `attrs` are those of the wrapper; names of XEP-0206 begin with `xmpp:`. */
export function writeBody(attrs: Readonly<Record<string, string | number | undefined>>, payloads: readonly Buffer[] = []): Buffer {
  let head = `<body xmlns='${BOSH_NS}'`
  if (Object.keys(attrs).some((name) => name.startsWith('xmpp:'))) head += ` xmlns:xmpp='${XBOSH_NS}'`
  // XEP-0206 §2
  if (payloads.some((payload) => payload.includes(STREAM_PREFIX))) head += ` xmlns:stream='${STREAM_NS}'`
  for (const [name, value] of Object.entries(attrs)) if (value !== undefined) head += ` ${name}='${escapeXml(String(value))}'`
  if (payloads.length === 0) return Buffer.from(`${head}/>`)
  return Buffer.concat([Buffer.from(`${head}>`), ...payloads, Buffer.from('</body>')])
}
