/** A login by SASL2 (XEP-0388) with what goes along with it: Bind 2 (XEP-0386), stream management, FAST tokens (XEP-0484). */
import { createHmac, timingSafeEqual } from 'node:crypto'
import { LoginError } from '../../lib/client/client.ts'
import { Connection } from '../../lib/client/connection.ts'
import { createSaslClient } from '../../lib/sasl/client.ts'
import type { Stanza } from '../../lib/stanza/stanza.ts'
import type { Element } from '../../lib/xml/element.ts'
import { escapeXml } from '../../lib/xml/element.ts'
import type { Stage } from '../play.ts'
import type { Account } from './visit.ts'

export const SASL2_NS = 'urn:xmpp:sasl:2'
export const FAST_NS = 'urn:xmpp:fast:0'
const TLS_NS = 'urn:ietf:params:xml:ns:xmpp-tls'
const ANSWER_MS = 5000

export interface Login2 {
  readonly connection: Connection
  readonly success: Element
  /** The features that follow at once (XEP-0388 §2.6). */
  readonly features: Stanza
}

export interface Login2Options {
  readonly mechanism: string
  /** Further children of `<authenticate/>`. */
  readonly inline?: string
  /** A token of FAST, in place of the password. */
  readonly token?: string
}

/** A stream with its features, encrypted where the stage has TLS. */
export async function openSecured(stage: Stage): Promise<{ connection: Connection; features: Element }> {
  const connection = await Connection.open({ host: stage.host, port: stage.port, domain: stage.domain })
  try {
    connection.openStream()
    let features = await connection.nextElement(ANSWER_MS)
    if (stage.tls === 'starttls') {
      connection.write(`<starttls xmlns='${TLS_NS}'/>`)
      await connection.nextElement(ANSWER_MS)
      await connection.secureWithTls()
      connection.openStream()
      features = await connection.nextElement(ANSWER_MS)
    }
    return { connection, features: features.element() }
  } catch (error) {
    connection.destroy()
    throw error
  }
}

/** Logs in; the caller ends the connection. Throws LoginError when the server refuses. */
export async function login2(stage: Stage, account: Account, options: Login2Options): Promise<Login2> {
  const { connection } = await openSecured(stage)
  try {
    const { mechanism } = options
    const binding = bindingOf(mechanism, connection)
    const sasl = options.token === undefined ? createSaslClient(mechanism, { user: account.user, password: account.password, ...(binding === undefined ? {} : { binding }) }) : undefined
    const first = sasl === undefined ? hashedToken(account.user, options.token as string, binding?.data) : await sasl.respond(Buffer.alloc(0))
    connection.write(`<authenticate xmlns='${SASL2_NS}' mechanism='${mechanism}'><initial-response>${first.toString('base64')}</initial-response><user-agent id='d4565fa7-4d72-4749-b3d3-740edbf87770'><software>Compliance checks</software><device>Test</device></user-agent>${options.inline ?? ''}${options.token === undefined ? '' : `<fast xmlns='${FAST_NS}'/>`}</authenticate>`)
    for (;;) {
      const answer = (await connection.nextElement(ANSWER_MS)).element()
      const data = answer.getName() === 'success' ? answer.getChildText('additional-data') ?? '' : answer.getText()
      const bytes = Buffer.from(data, 'base64')
      if (answer.is('challenge', SASL2_NS) && sasl !== undefined) {
        connection.write(`<response xmlns='${SASL2_NS}'>${(await sasl.respond(bytes)).toString('base64')}</response>`)
        continue
      }
      if (!answer.is('success', SASL2_NS)) throw new LoginError(answer.getChildElements()[0]?.getName() ?? answer.getName())
      if (sasl !== undefined) sasl.verify(bytes.length === 0 ? undefined : bytes)
      else verifyToken(options.token as string, binding?.data, bytes)
      const features = await connection.nextElement(ANSWER_MS)
      if (features.name !== 'features') throw new Error(`stream features expected after <success/>, but ${String(features)} came`)
      return { connection, success: answer, features }
    }
  } catch (error) {
    connection.destroy()
    throw error
  }
}

/** Sends an IQ and takes its answer. */
export async function ask(connection: Connection, iq: string): Promise<Element> {
  const id = `q${Math.random().toString(36).slice(2)}`
  connection.write(iq.replace(/^<iq/, `<iq id='${id}'`))
  for (;;) {
    const answer = (await connection.nextElement(ANSWER_MS)).element()
    if (answer.getName() !== 'iq' || answer.attrs['id'] !== id) continue
    if (answer.attrs['type'] === 'error') throw new Error(`${answer.getChild('error')?.getChildElements()[0]?.getName()} was answered to ${iq}`)
    return answer
  }
}

/** What a mechanism binds to; tokens of `-NONE` and mechanisms without `-PLUS` bind to nothing. */
function bindingOf(mechanism: string, connection: Connection): { type: string; data: Buffer } | undefined {
  if (!mechanism.endsWith('-PLUS') && !mechanism.endsWith('-EXPR')) return undefined
  const data = connection.exporter
  if (data === undefined) throw new Error('the connection has no tls-exporter: TLS is older than 1.3')
  return { type: 'tls-exporter', data }
}

/** The first message of HT-SHA-256-*, of which FAST takes tokens. */
function hashedToken(user: string, token: string, channel: Buffer | undefined): Buffer {
  return Buffer.concat([Buffer.from(`${user}\0`), tokenHash(token, 'Initiator', channel)])
}

function verifyToken(token: string, channel: Buffer | undefined, answer: Buffer): void {
  const expected = tokenHash(token, 'Responder', channel)
  if (answer.length !== expected.length || !timingSafeEqual(answer, expected)) throw new Error('the server did not show that it knows the token')
}

function tokenHash(token: string, who: string, channel: Buffer | undefined): Buffer {
  return createHmac('sha256', token).update(who).update(channel ?? '').digest()
}

/** The mechanisms in one element of the features. */
export function mechanismsOf(parent: Element | undefined): string[] {
  return parent?.getChildren('mechanism').map((each) => each.getText()) ?? []
}

export function tokenRequest(mechanism: string): string {
  return `<request-token xmlns='${FAST_NS}' mechanism='${escapeXml(mechanism)}'/>`
}
