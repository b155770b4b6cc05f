// XEP-0124: BOSH, version 1.11.2 (2021-05-22); XEP-0206: XMPP over BOSH, version 1.4 (2014-04-09)
import type { IncomingMessage, ServerResponse } from 'node:http'
import { Jid } from '../../lib/jid.ts'
import { randomId } from '../../lib/stanza/ids.ts'
import { FRAMING_NS } from '../../lib/stream/framing.ts'
import { escapeXml } from '../../lib/xml/element.ts'
import type { ParserLimits } from '../../lib/xml/scanner.ts'
import { FramedConnection } from '../c2s/framed.ts'
import { type Exchange, type Relay, SilentError } from '../c2s/passing.ts'
import type { StreamOptions } from '../config/config.ts'
import { anything, bool, duration, int, text } from '../config/options.ts'
import type { Limits } from '../config/limits.ts'
import { corsHeaders, HttpError, readBody as readRequest } from '../http/http.ts'
import type { HttpPath } from '../http/routes.ts'
import { BindingError, type Body, type Condition, readBody, writeBody } from './bosh/body.ts'
import { type BoshStream, BoshSession, type BoshSettings, LEGACY_STATUS, type Opening } from './bosh/session.ts'
import { defineExtension, type Parts } from './extension.ts'

/** Where the route is; the configuration may mount it elsewhere. */
const ROUTE = '/bosh'
const SID_BYTES = 24
/** Sessions that have ended and are kept for those who ask for their last response again. */
const ENDED_MAX = 1000
/** A body may hold several stanzas: so many of the longest. */
const STANZAS_IN_BODY = 2

interface BoshOptions {
  max_inactivity: number
  max_pause: number
  max_concat: number
  prebind: boolean
  json: boolean
  ram_db_type: string
  queue_type: string
  use_cache: unknown
  cache_size: unknown
  cache_missed: unknown
  cache_life_time: unknown
}

const NO_EFFECT = 'has no effect: sessions are in memory.'

export const bosh = defineExtension({
  name: 'bosh',
  ejabberd: 'mod_bosh',
  specs: [
    { xep: 124, version: '1.11.2', status: 'complete', note: 'one stream in a session' },
    { xep: 206, version: '1.4', status: 'complete' },
  ],
  needs: ['host', 'http', 'streams', 'limits', 'metrics', 'lasting', 'now'],
  options: {
    max_inactivity: { type: duration({ timer: true }), default: 30_000, help: 'How long a client may be without a request.' },
    max_pause: { type: duration({ timer: true }), default: 120_000, help: 'How long a client may be away that asked for it.' },
    max_concat: { type: int({ min: 1, infinity: true }), default: Infinity, help: 'Stanzas in one response.' },
    prebind: { type: bool(), default: false, help: 'Anonymous sessions that are bound from the start.', ignored: 'has no effect: clients log in and bind as everywhere.' },
    json: { type: bool(), default: false, help: 'Bodies in JSON.', ignored: 'has no effect: bodies are XML.' },
    ram_db_type: { type: text(), default: '', help: 'Where sessions are.', ignored: NO_EFFECT },
    queue_type: { type: text(), default: '', help: 'Where queues are.', ignored: NO_EFFECT },
    use_cache: { type: anything(), default: undefined, help: 'Cache of sessions.', ignored: NO_EFFECT },
    cache_size: { type: anything(), default: undefined, help: 'Cache of sessions.', ignored: NO_EFFECT },
    cache_missed: { type: anything(), default: undefined, help: 'Cache of sessions.', ignored: NO_EFFECT },
    cache_life_time: { type: anything(), default: undefined, help: 'Cache of sessions.', ignored: NO_EFFECT },
  },
  start(parts, options: BoshOptions) {
    // One for all hosts: a request tells whose session it is of only when it has been read. Sessions outlive a reload.
    const manager = parts.lasting('bosh', () => new ConnectionManager(parts))
    manager.hosts.set(parts.host, {
      maxInactivityMs: options.max_inactivity, maxPauseMs: options.max_pause, maxConcat: options.max_concat,
      // A held request is silence on its connection.
      maxWaitS: Math.max(1, Math.floor(parts.limits.httpIdleTimeoutMs / 2000)),
    })
    return () => void manager.hosts.delete(parts.host)
  },
})

/** For web clients of all origins: a session is known by its id alone. No page that is made of a response may run scripts. */
const HEADERS: Readonly<Record<string, string>> = {
  ...corsHeaders(['POST', 'OPTIONS']),
  'Cache-Control': 'no-store',
  'X-Content-Type-Options': 'nosniff',
  'Content-Security-Policy': "default-src 'none'; sandbox",
}

/** What of a request's path a session is made with. */
type ClientPath = Pick<HttpPath, 'address' | 'secure'> & { readonly listener: StreamOptions }

type ManagerParts = Pick<Parts, 'http' | 'streams' | 'limits' | 'metrics' | 'now'>

/** XEP-0124 §3: what clients speak to by HTTP. */
class ConnectionManager {
  /** The hosts that are served by this way. */
  readonly hosts = new Map<string, BoshSettings>()
  readonly #sessions = new Map<string, BoshSession>()
  /** Of these the ones that are over, oldest first. */
  readonly #ended = new Set<BoshSession>()
  readonly #parts: ManagerParts

  constructor(parts: ManagerParts) {
    this.#parts = parts
    // They stay: sessions are not to be missed while the configuration is read again, nor to end with it.
    parts.http.add('POST', ROUTE, (request, response, path) => this.serve(request, response, path))
    parts.http.add('OPTIONS', ROUTE, (_request, response) => {
      response.writeHead(204, HEADERS)
      response.end()
    })
    parts.metrics.gauge('tidings_bosh_ended_sessions', 'Sessions over BOSH that have ended and whose last response can still be asked for', [], () => this.#ended.size)
    parts.streams.relay?.answerBy(({ address, secure, listener, body }, exchange) => {
      const fail = (status: number): void => { exchange.answer(status, 'text/plain', Buffer.alloc(0)) }
      this.#answer(body, { address, secure, listener }, exchange, () => { fail(403) }, true).catch(() => { fail(500) })
    })
    parts.metrics.gauge('tidings_bosh_sessions', 'Sessions over BOSH', [], () => this.#sessions.size)
  }

  async serve(request: IncomingMessage, response: ServerResponse, path: HttpPath): Promise<void> {
    const exchange = exchangeOf(response)
    let bytes: Buffer
    try {
      bytes = await this.#read(request, response, this.#limitsFor(path).stanzaBytes)
    } catch (error) {
      if (!(error instanceof BindingError)) throw error
      return refuse(exchange, error.condition, false)
    }
    await this.#answer(bytes, path, exchange, () => { request.socket.destroy() }, false)
  }

  #limitsFor({ listener }: ClientPath): ParserLimits { return inBody(this.#parts.limits, listener.maxStanzaBytes) }

  /** `drop`: answers nothing. `relayed`: another process has found that the session is here, or may be made here. */
  async #answer(bytes: Buffer, path: ClientPath, exchange: Exchange, drop: () => void, relayed: boolean): Promise<void> {
    let legacy = false
    try {
      const body = readBody(bytes, this.#limitsFor(path))
      const { sid, ver } = body.attrs
      legacy = sid === undefined && ver === undefined
      const { relay } = this.#parts.streams
      if (!relayed && relay !== undefined && (relay.process === undefined || relay.process !== keeperOf(sid, relay.process))) return await this.#handOn(relay, sid, bytes, path, exchange)
      const session = sid === undefined ? this.#create(body, path) : this.#sessions.get(sid)
      if (session === undefined) throw new BindingError('item-not-found')
      // §19.1: who has no encryption is not of this session, and is not to end it.
      if (session.secure && !path.secure) return drop()
      session.request(body, exchange)
    } catch (error) {
      // §14.3: as when its connection broke; it sends the request again.
      if (error instanceof SilentError) return drop()
      if (error instanceof HttpError && relayed) return exchange.answer(error.status, 'text/plain', Buffer.alloc(0))
      if (!(error instanceof BindingError)) throw error
      refuse(exchange, error.condition, legacy)
    }
  }

  /** To the process that keeps the session, or to one that makes it. Throws BindingError when there is none. */
  async #handOn(relay: Relay, sid: string | undefined, body: Buffer, { address, secure, listener }: ClientPath, exchange: Exchange): Promise<void> {
    const { access, shaper, maxStanzaBytes } = listener
    try {
      await relay.ask(keeperOf(sid, undefined), { address, secure, listener: { ...(access && { access }), ...(shaper && { shaper }), ...(maxStanzaBytes && { maxStanzaBytes }) }, body }, exchange)
    } catch (error) {
      if (error instanceof SilentError) throw error
      // §17.2: the session has gone with its process.
      throw new BindingError(sid === undefined ? 'remote-connection-failed' : 'item-not-found')
    }
  }

  async #read(request: IncomingMessage, response: ServerResponse, bytesMax: number): Promise<Buffer> {
    try {
      return await readRequest(request, response, bytesMax, this.#parts.limits)
    } catch (error) {
      if (!(error instanceof HttpError) || error.status !== 413) throw error
      response.setHeader('Connection', 'close')
      throw new BindingError('policy-violation', error.message)
    }
  }

  /** §7.1. Throws BindingError, or HttpError when no host has this way. */
  #create(body: Body, path: ClientPath): BoshSession {
    if (this.hosts.size === 0) throw new HttpError(404)
    const { to } = body.attrs
    if (to === undefined || to === '') throw new BindingError('improper-addressing')
    const jid = Jid.tryParse(to)
    const settings = jid === undefined || jid.local !== '' || jid.resource !== '' ? undefined : this.hosts.get(jid.domain)
    if (settings === undefined) throw new BindingError('host-unknown')
    const context = {
      now: () => this.#parts.now(),
      after(ms: number, run: () => void) {
        const timer = setTimeout(run, ms)
        timer.unref()
        return () => clearTimeout(timer)
      },
      ended: (session: BoshSession) => { this.#keepEnded(session) },
      forget: (session: BoshSession) => { this.#forget(session) },
    }
    const keeper = this.#parts.streams.relay?.process
    const session = new BoshSession(`${randomId(SID_BYTES)}${keeper === undefined ? '' : `.${keeper}`}`, path.secure, body, settings, context, (made) => this.#connect(made, path))
    this.#sessions.set(session.sid, session)
    return session
  }

  /** Its stream, which limits count, is gone: its last response is kept for a while, but no more of these than so many. */
  #keepEnded(session: BoshSession): void {
    this.#ended.add(session)
    if (this.#ended.size <= ENDED_MAX) return
    for (const oldest of this.#ended) return this.#forget(oldest)
  }

  #forget(session: BoshSession): void {
    this.#sessions.delete(session.sid)
    this.#ended.delete(session)
  }

  /** A client's stream for a session. Throws BindingError when there may be no more. */
  #connect(session: BoshSession, path: ClientPath): BoshStream {
    let paused = false
    let closed = false
    const ended = (): void => {
      session.streamEnded(closed)
      queueMicrotask(() => connection.gone())
    }
    const connection = new FramedConnection({
      confirms: true,
      get backlog() { return session.backlog },
      emit(element, taken) {
        if (isFrame(element, '<open ')) session.opened(/ id='([^']*)'/.exec(element.toString())?.[1])
        else if (isFrame(element, '<close ')) closed = true
        else return session.emit(element, taken && ((arrived) => taken(arrived ? null : new Error('the client is not known to have it'))))
        taken?.()
      },
      end: ended,
      destroy: ended,
      pause() { paused = true },
      resume() {
        paused = false
        session.resume()
      },
    })
    if (!this.#parts.streams.adopt(connection, { address: path.address, secure: path.secure, listener: path.listener })) throw new BindingError('remote-connection-failed')
    return {
      get paused() { return paused },
      open: (opening) => connection.receive(openFrame(opening)),
      receive: (payload) => connection.receive(payload),
      heard: (away) => connection.heard(away),
      close: () => connection.receive(`<close xmlns='${FRAMING_NS}'/>`),
      lost: () => connection.gone(),
    }
  }
}

/** The process that keeps a session of this id; `otherwise` when it names none, or is yet to be made. */
function keeperOf(sid: string | undefined, otherwise: string | undefined): string | undefined {
  if (sid === undefined) return otherwise
  const dot = sid.indexOf('.')
  return dot < 0 ? otherwise : sid.slice(dot + 1)
}

function openFrame({ to, from, lang, version }: Opening): string {
  let frame = `<open xmlns='${FRAMING_NS}'`
  for (const [name, value] of Object.entries({ to, from, version, 'xml:lang': lang })) if (value !== undefined) frame += ` ${name}='${escapeXml(value)}'`
  return `${frame}/>`
}

function isFrame(element: Buffer, start: string): boolean {
  return element.latin1Slice(0, start.length) === start && element.includes(FRAMING_NS)
}

/** The limits of a body's XML: those of the stanzas in it are checked when they come to the stream. */
function inBody(limits: Limits, stanzaBytes = limits.stanzaBytes): ParserLimits {
  return { stanzaBytes: STANZAS_IN_BODY * stanzaBytes, depth: limits.depth + 1, attributes: limits.attributes, children: STANZAS_IN_BODY * limits.children }
}

function refuse(exchange: Exchange, condition: Condition, legacy: boolean): void {
  if (!exchange.gone) exchange.answer(legacy ? (LEGACY_STATUS[condition] ?? 200) : 200, 'text/xml; charset=utf-8', writeBody({ type: 'terminate', condition }))
}

function exchangeOf(response: ServerResponse): Exchange {
  return {
    get gone() { return response.destroyed || response.closed },
    answer(status, contentType, bytes) {
      response.writeHead(status, { ...HEADERS, 'Content-Type': contentType, 'Content-Length': bytes.length })
      response.end(bytes)
    },
    onGone(run) {
      response.once('close', () => { if (!response.writableEnded) run() })
    },
  }
}
