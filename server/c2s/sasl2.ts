/** What stands in the elements of SASL2 (XEP-0388) and Bind 2 (XEP-0386); the stream itself is in client-stream.ts. */
import { hash } from 'node:crypto'
import { Jid } from '../../lib/jid.ts'
import { randomId } from '../../lib/stanza/ids.ts'
import { Stanza } from '../../lib/stanza/stanza.ts'
import { escapeXml } from '../../lib/xml/element.ts'
import type { ClientAgent } from '../extensions/extension.ts'

export const SASL2_NS = 'urn:xmpp:sasl:2'
export const BIND2_NS = 'urn:xmpp:bind:0'
/** Session value: the id of the client that logged in (ClientAgent). */
export const CLIENT = 'client'

const ID_CHARACTERS_MAX = 200
const TEXT_CHARACTERS_MAX = 200
const ID_DIGITS = 16
const RESOURCE_DIGITS = 12

/** The client that makes this request, when it tells which installation it is (XEP-0388 §2.3). */
export function readAgent(request: Stanza, host: string): ClientAgent | undefined {
  const span = request.find('user-agent', SASL2_NS)
  const agent = span === undefined ? undefined : request.childElement(span)
  const id = agent?.attrs['id']
  if (agent === undefined || id === undefined || id === '' || id.length > ID_CHARACTERS_MAX) return undefined
  const text = (name: string): string | undefined => agent.getChildText(name)?.slice(0, TEXT_CHARACTERS_MAX) || undefined
  return { id: digest(`${host}\n${id.toLowerCase()}`, ID_DIGITS), software: text('software'), device: text('device') }
}

/** The data of an element of SASL, base64 still; undefined when the element is not there. */
export function readInitialResponse(request: Stanza): string | undefined {
  const span = request.find('initial-response', SASL2_NS)
  return span === undefined ? undefined : request.childElement(span).getText()
}

/** The same request with what the client sent in answer to an empty challenge, as if it had stood there at once. */
export function withInitialResponse(request: Stanza, response: string): Stanza {
  if (response === '' || request.has('initial-response')) return request
  const first = Buffer.from(`<initial-response>${response}</initial-response>`)
  return new Stanza(request.name, request.xmlns, request.attrs, Buffer.concat([first, request.content]), [])
}

/** XEP-0386 §3.2.1: the tag, and what stays the same for one client and tag; random for a client that does not say who it is. */
export function resourceFor(account: Jid, client: string | undefined, tag: string | null): Jid {
  const end = client === undefined ? randomId(9) : digest(`${account.bare}\n${client}\n${tag ?? ''}`, RESOURCE_DIGITS)
  try {
    if (tag !== null && tag !== '') return Jid.of(account.local, account.domain, `${tag}/${end}`)
  } catch { /* It cannot be part of an address. */ }
  return account.withResource(end)
}

export function challengeXml(data: Buffer): string {
  return `<challenge xmlns='${SASL2_NS}'>${data.toString('base64')}</challenge>`
}

/** §2.6.2 */
export function failureXml(condition: string, text: string | undefined): string {
  return `<failure xmlns='${SASL2_NS}'><${condition} xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>${text ? `<text>${escapeXml(text)}</text>` : ''}</failure>`
}

/** §2.6.1; `more` is what was asked for beside the login. */
export function successXml(data: Buffer | undefined, jid: string, more: string): string {
  const additional = data === undefined ? '' : `<additional-data>${data.toString('base64')}</additional-data>`
  return `<success xmlns='${SASL2_NS}'>${additional}<authorization-identifier>${escapeXml(jid)}</authorization-identifier>${more}</success>`
}

/** §2.6.3 */
export function continueXml(data: Buffer | undefined, task: string): string {
  const additional = data === undefined ? '' : `<additional-data>${data.toString('base64')}</additional-data>`
  return `<continue xmlns='${SASL2_NS}'>${additional}<tasks><task>${escapeXml(task)}</task></tasks></continue>`
}

export function taskDataXml(content: string): string {
  return `<task-data xmlns='${SASL2_NS}'>${content}</task-data>`
}

function digest(text: string, digits: number): string {
  return hash('sha256', text, 'base64url').slice(0, digits)
}
