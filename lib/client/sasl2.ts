/** A client's login by SASL2 (XEP-0388), with what it asks for beside that, by password or by token (XEP-0484). */
import { createSaslClient, type SaslClient } from '../sasl/client.ts'
import { bindingOf, hashToken } from '../sasl/hashed-token.ts'
import { prepareSecret, saltPassword, type ScramHash } from '../sasl/scram-keys.ts'
import type { Stanza } from '../stanza/stanza.ts'
import { type Element, escapeXml } from '../xml/element.ts'
import { LoginError } from './client.ts'
import { Connection } from './connection.ts'

const NS = 'urn:xmpp:sasl:2'
const TLS_NS = 'urn:ietf:params:xml:ns:xmpp-tls'
const SASL_NS = 'urn:ietf:params:xml:ns:xmpp-sasl'

export interface Sasl2Options {
  readonly host: string
  readonly port: number
  readonly domain: string
  /** `starttls` when left out. */
  readonly tls?: 'starttls' | 'direct'
  /** Address of a WebSocket (RFC 7395), in place of host, port and `tls`. */
  readonly webSocket?: string
  readonly user: string
  /** `SCRAM-SHA-256` when left out. */
  readonly mechanism?: string
  readonly password?: string
  /** In place of a password; `mechanism` is the one that it was made for. */
  readonly token?: string
  /** XEP-0484 §3.4: attributes of `<fast/>`. */
  readonly fast?: string
  /** Which client it is: a UUID, and the rest of `<user-agent/>` serialised. */
  readonly agent?: { readonly id: string; readonly text?: string }
  /** What else it asks for, serialised. */
  readonly inline?: string
  /** Whether the request goes out together with the stream header, before the features have come. */
  readonly pipelined?: boolean
}

export interface Sasl2Login {
  readonly connection: Connection
  /** Those before the login. */
  readonly offer: Element
  readonly success: Element
}

/** Connects and logs in. The connection's next element is what follows `<success/>`. Throws LoginError. */
export async function loginBySasl2(options: Sasl2Options): Promise<Sasl2Login> {
  const connection = await Connection.open({ host: options.host, port: options.port, domain: options.domain, direct: options.tls === 'direct', ...(options.webSocket === undefined ? {} : { webSocket: options.webSocket }) })
  try {
    if (options.tls !== 'direct' && options.webSocket === undefined) {
      connection.openStream()
      await connection.nextElement()
      connection.write(`<starttls xmlns='${TLS_NS}'/>`)
      await connection.nextElement()
      await connection.secureWithTls()
    }
    connection.openStream({ from: `${options.user}@${options.domain}` })
    const features = options.pipelined === true ? undefined : (await connection.nextElement()).element()
    const { offer, success } = await authenticate(connection, options)
    return { connection, offer: features ?? offer as Element, success }
  } catch (error) {
    connection.destroy()
    throw error
  }
}

/** Logs in on a stream that is open. Gives `<success/>`, and the features when they come only now; throws LoginError. */
export async function authenticate(connection: Connection, options: Pick<Sasl2Options, 'user' | 'mechanism' | 'password' | 'token' | 'fast' | 'agent' | 'inline'>): Promise<{ readonly success: Element; readonly offer: Element | undefined }> {
  const mechanism = options.mechanism ?? 'SCRAM-SHA-256'
  const sasl = options.token === undefined ? passwordClient(mechanism, connection, options) : tokenClient(mechanism, connection, options.user, options.token)
  const { agent } = options
  const initial = await sasl.respond(Buffer.alloc(0))
  const parts = [
    `<initial-response>${initial.toString('base64')}</initial-response>`,
    agent === undefined ? '' : `<user-agent id='${escapeXml(agent.id)}'>${agent.text ?? ''}</user-agent>`,
    options.token === undefined ? '' : `<fast xmlns='urn:xmpp:fast:0' ${options.fast ?? ''}/>`,
    options.inline ?? '',
  ]
  connection.write(`<authenticate xmlns='${NS}' mechanism='${mechanism}'>${parts.join('')}</authenticate>`)
  let offer: Element | undefined
  let verified = false
  for (;;) {
    const answer = await connection.nextElement()
    if (answer.name === 'features' && offer === undefined) {
      offer = answer.element()
      continue
    }
    if (answer.xmlns !== NS) throw new Error(`an answer to the login expected, but ${String(answer)} came`)
    if (answer.name === 'challenge') {
      connection.write(`<response xmlns='${NS}'>${(await sasl.respond(Buffer.from(answer.element().getText(), 'base64'))).toString('base64')}</response>`)
      continue
    }
    if (answer.name === 'failure') throw failureOf(answer)
    const element = answer.element()
    const data = element.getChildText('additional-data')
    // Said once, by whichever comes first.
    if (!verified) sasl.verify(data === null ? undefined : Buffer.from(data, 'base64'))
    verified = true
    if (answer.name === 'continue') {
      await upgrade(connection, element.getChild('tasks')?.getChildText('task') ?? '', options.password ?? '')
      continue
    }
    return { success: element, offer }
  }
}

/** XEP-0480 §4 */
async function upgrade(connection: Connection, task: string, password: string): Promise<void> {
  connection.write(`<next xmlns='${NS}' task='${task}'/>`)
  const salt = (await connection.nextElement()).element().getChild('salt', 'urn:xmpp:scram-upgrade:0')
  if (salt === undefined) throw new Error(`no task that is known: ${task}`)
  const hash = task.slice('UPGR-SCRAM-'.length) as ScramHash
  const salted = await saltPassword(hash, prepareSecret(password) ?? '', Buffer.from(salt.getText(), 'base64'), Number(salt.attrs['iterations']))
  connection.write(`<task-data xmlns='${NS}'><hash xmlns='urn:xmpp:scram-upgrade:0'>${salted.toString('base64')}</hash></task-data>`)
}

function failureOf(answer: Stanza): LoginError {
  const condition = answer.children.find((child) => child.xmlns === SASL_NS)
  return new LoginError(condition?.name ?? answer.name, answer.element().getChildText('text') ?? undefined)
}

function passwordClient(mechanism: string, connection: Connection, options: Pick<Sasl2Options, 'user' | 'password'>): SaslClient {
  const { exporter } = connection
  return createSaslClient(mechanism, {
    user: options.user, password: options.password ?? '',
    ...(exporter !== undefined && mechanism.endsWith('-PLUS') ? { binding: { type: 'tls-exporter', data: exporter } } : {}),
  })
}

function tokenClient(mechanism: string, connection: Connection, user: string, token: string): SaslClient {
  const type = bindingOf(mechanism)
  const data = type === undefined ? undefined : type === 'tls-exporter' ? connection.exporter : connection.endPoint
  return {
    mechanism,
    respond: () => Promise.resolve(Buffer.concat([Buffer.from(`${user}\0`), hashToken(mechanism, token, 'Initiator', data)])),
    verify(answer) {
      if (answer === undefined || !answer.equals(hashToken(mechanism, token, 'Responder', data))) throw new Error('The server does not know the token')
    },
  }
}
