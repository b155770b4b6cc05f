/** A client for tests, load and the command line: it logs in, binds, sends, receives and resumes. */
import { createSaslClient } from '../sasl/client.ts'
import { Stanza } from '../stanza/stanza.ts'
import { StreamError } from '../stream/errors.ts'
import { type Element, escapeXml } from '../xml/element.ts'
import { Connection, type Incoming, streamErrorOf } from './connection.ts'

const SASL_NS = 'urn:ietf:params:xml:ns:xmpp-sasl'
const TLS_NS = 'urn:ietf:params:xml:ns:xmpp-tls'
const BIND_NS = 'urn:ietf:params:xml:ns:xmpp-bind'
const SM_NS = 'urn:xmpp:sm:3'
const SUPPORTED = ['SCRAM-SHA-512-PLUS', 'SCRAM-SHA-512', 'SCRAM-SHA-256-PLUS', 'SCRAM-SHA-256', 'SCRAM-SHA-1-PLUS', 'SCRAM-SHA-1', 'PLAIN']
/** Stanzas kept for `receive`; older ones are dropped. */
const INBOX_MAX = 10_000

export interface ConnectOptions {
  readonly host: string
  readonly port: number
  readonly domain: string
  /** `starttls` when left out. */
  readonly tls?: 'none' | 'starttls' | 'direct'
  readonly user: string
  readonly password: string
  /** The best that both know, when left out. */
  readonly mechanism?: string
  /** Chosen by the server when left out. */
  readonly resource?: string
  /** Turns stream management on (XEP-0198). */
  readonly sm?: boolean
  /** Tries to resume that stream; binds anew when the server does not. */
  readonly resume?: ResumeState
  /** Makes the account first (XEP-0077); that it exists already is no error. */
  readonly register?: boolean
  /** Keeps stanzas for `receive`, as it does unless told otherwise. */
  readonly inbox?: boolean
  readonly localAddress?: string
  /** Path of a Unix socket, in place of host and port. */
  readonly unixPath?: string
  /** What a proxy would say first, ahead of TLS too. */
  readonly proxyHeader?: string | Buffer
  /** Address of a WebSocket (RFC 7395), in place of host, port and `tls`. */
  readonly webSocket?: string
  readonly timeoutMs?: number
}

/** What it takes to resume a stream. */
export interface ResumeState {
  readonly id: string
  readonly jid: string
  /** Stanzas received. */
  readonly received: number
  /** Stanzas the server has acknowledged. */
  readonly acked: number
  /** Stanzas sent and not acknowledged, oldest first. */
  readonly unacked: readonly string[]
}

/** SASL failed. `condition` is one of RFC 6120 §6.5. */
export class LoginError extends Error {
  readonly condition: string

  constructor(condition: string, text?: string) {
    super(text ? `${condition}: ${text}` : condition)
    this.condition = condition
  }
}

/** An IQ was answered with an error. */
export class IqError extends Error {
  readonly condition: string
  readonly type: string
  readonly element: Element

  constructor(element: Element) {
    const error = element.getChild('error')
    const condition = error?.getChildElements()[0]?.getName() ?? 'undefined-condition'
    super(condition)
    this.condition = condition
    this.type = error?.attrs['type'] ?? ''
    this.element = element
  }
}

export type Match = (element: Element, stanza: Stanza) => boolean

interface Waiter {
  readonly match: Match
  readonly resolve: (element: Element) => void
  readonly reject: (error: Error) => void
}

/** Logs in and binds (or resumes). */
export async function connect(options: ConnectOptions): Promise<Client> {
  const { connection, features } = await login(options)
  const client = new Client(connection, options.inbox !== false)
  try {
    await client.start(features, options)
  } catch (error) {
    connection.destroy()
    throw error
  }
  return client
}

/** Up to the features after authentication: neither bound nor resumed. */
export async function login(options: ConnectOptions): Promise<{ connection: Connection; features: Stanza }> {
  const connection = await Connection.open({
    host: options.host, port: options.port, domain: options.domain, direct: options.tls === 'direct',
    ...(options.localAddress === undefined ? {} : { localAddress: options.localAddress }),
    ...(options.unixPath === undefined ? {} : { unixPath: options.unixPath }),
    ...(options.proxyHeader === undefined ? {} : { proxyHeader: options.proxyHeader }),
    ...(options.webSocket === undefined ? {} : { webSocket: options.webSocket }),
  })
  const timeoutMs = options.timeoutMs
  try {
    connection.openStream()
    let features = await expect(connection, 'features', timeoutMs)
    if (options.webSocket === undefined && (options.tls === undefined || options.tls === 'starttls')) {
      connection.write(`<starttls xmlns='${TLS_NS}'/>`)
      await expect(connection, 'proceed', timeoutMs)
      await connection.secureWithTls()
      connection.openStream()
      features = await expect(connection, 'features', timeoutMs)
    }
    if (options.register) {
      connection.write(`<iq type='set' id='register'><query xmlns='jabber:iq:register'><username>${escapeXml(options.user)}</username><password>${escapeXml(options.password)}</password></query></iq>`)
      const answer = (await expect(connection, 'iq', timeoutMs)).element()
      if (answer.attrs['type'] === 'error' && new IqError(answer).condition !== 'conflict') throw new IqError(answer)
    }
    await authenticate(connection, features, options)
    connection.openStream()
    return { connection, features: await expect(connection, 'features', timeoutMs) }
  } catch (error) {
    connection.destroy()
    throw error
  }
}

async function expect(connection: Connection, name: string, timeoutMs: number | undefined): Promise<Stanza> {
  const stanza = await connection.nextElement(timeoutMs)
  if (stanza.name !== name) throw new Error(`${name} expected, but ${String(stanza)} came`)
  return stanza
}

/** RFC 6120 §6 */
async function authenticate(connection: Connection, features: Stanza, options: ConnectOptions): Promise<void> {
  const span = features.find('mechanisms', SASL_NS)
  const offered = span ? features.childElement(span).getChildren('mechanism').map((each) => each.getText()) : []
  const exporter = connection.exporter
  const mechanism = options.mechanism ?? SUPPORTED.find((each) => offered.includes(each) && (exporter !== undefined || !each.endsWith('-PLUS')))
  if (mechanism === undefined) throw new LoginError('invalid-mechanism', `offered: ${offered.join(' ')}`)
  const sasl = createSaslClient(mechanism, {
    user: options.user, password: options.password,
    ...(exporter !== undefined && mechanism.endsWith('-PLUS') ? { binding: { type: 'tls-exporter', data: exporter } } : {}),
  })
  const initial = await sasl.respond(Buffer.alloc(0))
  connection.write(`<auth xmlns='${SASL_NS}' mechanism='${mechanism}'>${initial.toString('base64') || '='}</auth>`)
  for (;;) {
    const answer = await connection.nextElement(options.timeoutMs)
    const data = Buffer.from(answer.element().getText(), 'base64')
    if (answer.name === 'success') return sasl.verify(data.length === 0 ? undefined : data)
    if (answer.name !== 'challenge') {
      const [condition] = answer.children
      const text = answer.find('text', SASL_NS)
      throw new LoginError(condition?.name ?? answer.name, text && answer.childElement(text).getText())
    }
    connection.write(`<response xmlns='${SASL_NS}'>${(await sasl.respond(data)).toString('base64')}</response>`)
  }
}

export class Client {
  readonly connection: Connection
  /** The full JID. */
  jid = ''
  resumed = false
  /** Whether stanzas are acknowledged without being told to when the server asks (XEP-0198 §4). */
  acknowledges = true
  /** Stanzas received and not yet taken by `receive`. */
  readonly inbox: Stanza[] = []
  /** The features after authentication. */
  features: Stanza | undefined
  /** The stream error that ended the stream. */
  streamError: StreamError | undefined
  readonly #keeps: boolean
  readonly #waiters = new Set<Waiter>()
  readonly #answers = new Map<string, Waiter>()
  readonly #listeners = new Set<(stanza: Stanza) => void>()
  #closed: Promise<Error | undefined>
  #close: (error: Error | undefined) => void = () => undefined
  #ended = false
  #lastId = 0

  #smId: string | undefined
  #counting = false
  #received = 0
  #acked = 0
  #unacked: string[] = []

  constructor(connection: Connection, keeps: boolean) {
    this.connection = connection
    this.#keeps = keeps
    this.#closed = new Promise((resolve) => { this.#close = resolve })
  }

  /** The bare JID. */
  get bare(): string { return this.jid.split('/')[0] as string }
  /** Settles when the connection is gone, with the error if it was one. */
  get closed(): Promise<Error | undefined> { return this.#closed }
  get ended(): boolean { return this.#ended }
  get unacked(): readonly string[] { return this.#unacked }

  /** Resumes or binds, and turns stream management on. */
  async start(features: Stanza, options: ConnectOptions): Promise<void> {
    this.features = features
    this.connection.listen((incoming) => this.#take(incoming))
    const timeoutMs = options.timeoutMs
    const { resume } = options
    if (resume !== undefined) {
      this.#received = resume.received
      this.#acked = resume.acked
      this.#unacked = [...resume.unacked]
      this.connection.write(`<resume xmlns='${SM_NS}' previd='${escapeXml(resume.id)}' h='${resume.received}'/>`)
      this.#counting = true
      const answer = await this.receive((element) => element.is('resumed', SM_NS) || element.is('failed', SM_NS), timeoutMs)
      if (answer.attrs['h'] !== undefined) this.#acknowledged(Number(answer.attrs['h']))
      if (answer.getName() === 'resumed') {
        this.resumed = true
        this.jid = resume.jid
        this.#smId = resume.id
        // XEP-0198 §5: what was not handled is sent again.
        for (const text of this.#unacked) this.connection.write(text)
        return
      }
      this.#counting = false
    }
    const resource = options.resource === undefined ? '' : `<resource>${escapeXml(options.resource)}</resource>`
    const bound = await this.sendIq(`<iq type='set'><bind xmlns='${BIND_NS}'>${resource}</bind></iq>`, timeoutMs)
    this.jid = bound.getChild('bind', BIND_NS)?.getChildText('jid') ?? ''
    if (options.sm) await this.enableStreamManagement(timeoutMs)
  }

  /** XEP-0198 §3 */
  async enableStreamManagement(timeoutMs?: number): Promise<void> {
    const again = this.#unacked
    this.#received = this.#acked = 0
    this.#unacked = []
    this.#counting = true
    this.connection.write(`<enable xmlns='${SM_NS}' resume='true'/>`)
    const enabled = await this.receive((element) => element.is('enabled', SM_NS) || element.is('failed', SM_NS), timeoutMs)
    if (enabled.getName() === 'failed') {
      this.#counting = false
      throw new Error('the server has no stream management')
    }
    this.#smId = enabled.attrs['id']
    for (const text of again) this.send(text)
  }

  /** Sends a stanza or other first-level element, as it stands. */
  send(xml: string | Element | Stanza): void {
    const text = typeof xml === 'string' ? xml : xml.toString()
    if (this.#counting && /^\s*<(?:message|presence|iq)[\s/>]/.test(text)) this.#unacked.push(text)
    this.connection.write(text)
  }

  /** Sends an IQ, with an id if it has none, and gives its result. Throws IqError. */
  async sendIq(xml: string | Element, timeoutMs = 10_000): Promise<Element> {
    let text = typeof xml === 'string' ? xml.trim() : xml.toString()
    let id = /^<iq\b[^>]*?\sid=(?:'([^']*)'|"([^"]*)")/.exec(text)?.slice(1).find((each) => each !== undefined)
    if (id === undefined) {
      id = `c${++this.#lastId}`
      text = text.replace(/^<iq/, `<iq id='${id}'`)
    }
    const key = id
    const answer = await this.#wait(timeoutMs, () => `no answer to ${text}`, (waiter) => {
      this.#answers.set(key, waiter)
      this.send(text)
      return () => this.#answers.delete(key)
    }, () => true)
    if (answer.attrs['type'] === 'error') throw new IqError(answer)
    return answer
  }

  /** Waits for a stanza; one that came before and was not taken counts. It is taken out of the inbox. */
  async receive(match: Match, timeoutMs = 5000): Promise<Element> {
    const at = this.inbox.findIndex((stanza) => match(stanza.element(), stanza))
    if (at >= 0) return (this.inbox.splice(at, 1)[0] as Stanza).element()
    if (this.#ended) throw this.streamError ?? new Error('the connection is closed')
    return this.#wait(timeoutMs, () => `not received; instead: ${this.inbox.map(String).join('\n') || 'nothing'}`, (waiter) => {
      this.#waiters.add(waiter)
      return () => this.#waiters.delete(waiter)
    }, match)
  }

  /** Calls back for every first-level element; returns how to stop it. */
  on(listener: (stanza: Stanza) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** Settles when the server has handled all that was sent before (XEP-0199). */
  async ping(timeoutMs?: number): Promise<void> {
    try {
      await this.sendIq(`<iq type='get' to='${escapeXml(this.connection.domain)}'><ping xmlns='urn:xmpp:ping'/></iq>`, timeoutMs)
    } catch (error) {
      if (!(error instanceof IqError)) throw error
    }
  }

  /** Asks the server how much it has handled (XEP-0198 §4) and waits for its answer. */
  async requestAck(timeoutMs?: number): Promise<number> {
    this.connection.write(`<r xmlns='${SM_NS}'/>`)
    const answer = await this.receive((element) => element.is('a', SM_NS), timeoutMs)
    return Number(answer.attrs['h'])
  }

  /** Tells the server how much was received. */
  acknowledge(): void {
    this.connection.write(`<a xmlns='${SM_NS}' h='${this.#received}'/>`)
  }

  /** What another connection needs to resume this stream. */
  resumeState(): ResumeState {
    if (this.#smId === undefined) throw new Error('the stream cannot be resumed')
    return { id: this.#smId, jid: this.jid, received: this.#received, acked: this.#acked, unacked: [...this.#unacked] }
  }

  /** Ends the stream in good order. */
  async disconnect(): Promise<void> {
    if (this.#ended) return
    this.connection.write('</stream:stream>')
    const timer = setTimeout(() => this.destroy(), 2000)
    await this.#closed
    clearTimeout(timer)
  }

  /** Ends the connection as a lost network does. */
  destroy(): void {
    this.connection.destroy()
  }

  #take(incoming: Incoming): void {
    if (incoming.kind === 'end') {
      if (!this.connection.closed) this.connection.write('</stream:stream>')
      this.connection.destroy()
      return
    }
    if (incoming.kind === 'close') {
      this.#ended = true
      const error = this.streamError ?? incoming.error
      for (const waiter of [...this.#waiters, ...this.#answers.values()]) waiter.reject(error ?? new Error('the connection is closed'))
      this.#close(error)
      return
    }
    if (incoming.kind !== 'element') return
    const { stanza } = incoming
    if (this.#counting && stanza.isStanza) this.#received++
    for (const listener of this.#listeners) listener(stanza)
    if (stanza.xmlns === SM_NS) {
      if (stanza.name === 'r') {
        if (this.acknowledges) this.acknowledge()
        return
      }
      if (stanza.name === 'a') this.#acknowledged(Number(stanza.attrs['h']))
    }
    this.streamError ??= streamErrorOf(stanza)
    if (stanza.name === 'iq' && (stanza.type === 'result' || stanza.type === 'error')) {
      const answer = this.#answers.get(stanza.id ?? '')
      if (answer !== undefined) return answer.resolve(stanza.element())
    }
    for (const waiter of this.#waiters) {
      if (waiter.match(stanza.element(), stanza)) return waiter.resolve(stanza.element())
    }
    if (!this.#keeps || (stanza.xmlns === SM_NS && stanza.name === 'a')) return
    this.inbox.push(stanza)
    if (this.inbox.length > INBOX_MAX) this.inbox.shift()
  }

  #acknowledged(handled: number): void {
    // XEP-0198 §4: the counter goes around at 2^32.
    const count = (handled - this.#acked) >>> 0
    if (count > this.#unacked.length) return
    this.#unacked.splice(0, count)
    this.#acked = handled
  }

  #wait(timeoutMs: number, why: () => string, begin: (waiter: Waiter) => () => void, match: Match): Promise<Element> {
    const { promise, resolve, reject } = Promise.withResolvers<Element>()
    const settle = (): void => {
      clearTimeout(timer)
      end()
    }
    const waiter: Waiter = {
      match,
      // At once: the next stanza is for somebody else.
      resolve(element) {
        settle()
        resolve(element)
      },
      reject(error) {
        settle()
        reject(error)
      },
    }
    const end = begin(waiter)
    const timer = setTimeout(() => waiter.reject(new Error(`${this.jid || 'client'}: ${why()}`)), timeoutMs)
    return promise
  }
}
