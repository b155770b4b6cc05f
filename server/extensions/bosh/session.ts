/** A BOSH session: one stream over a sequence of HTTP requests (XEP-0124). */
import { createHash } from 'node:crypto'
import type { Exchange } from '../../c2s/passing.ts'
import { BindingError, type Body, type Condition, writeBody } from './body.ts'

/** The highest rid (§14.1), 2^53 - 1. */
export const RID_MAX = Number.MAX_SAFE_INTEGER
/** The version of BOSH spoken here. */
const VERSION = [1, 11] as const
/** §11: the shortest interval between empty requests, seconds. */
const POLLING_S = 2
/** Requests that may be held at once (§7.1), whatever the client would allow. */
const HOLD_MAX = 1
const WAIT_DEFAULT_S = 60
/** A response is not made longer than by the element with which it has so many bytes. */
const RESPONSE_BYTES = 1_048_576
/** How long the answer to the session request waits for the stream's features, also for a client that does not want to wait. */
const FEATURES_MS = 2000
const CONTENT_TYPE = 'text/xml; charset=utf-8'
/** §17.1: what clients of before version 1.6 are told by. */
export const LEGACY_STATUS: Readonly<Partial<Record<Condition, number>>> = { 'bad-request': 400, 'policy-violation': 403, 'item-not-found': 404 }

/** What a stream's header says (XEP-0206 §3). */
export interface Opening {
  readonly to: string | undefined
  readonly from: string | undefined
  readonly lang: string | undefined
  readonly version: string | undefined
}

/** The client's stream as the session sees it. */
export interface BoshStream {
  /** Whether it takes nothing more for now; `BoshSession.resume` is called when it does again. */
  readonly paused: boolean
  /** A stream header, the first or that of a restart. */
  open(opening: Opening): void
  /** One first-level element of the client. */
  receive(payload: Buffer): void
  /** The client is there; `away`: it pauses. */
  heard(away: boolean): void
  /** The client ends its stream. */
  close(): void
  /** The client is gone. */
  lost(): void
}

export interface BoshSettings {
  readonly maxInactivityMs: number
  readonly maxPauseMs: number
  /** Elements in one response. */
  readonly maxConcat: number
  /** The longest that a request is held, seconds. */
  readonly maxWaitS: number
}

export interface BoshContext {
  now(): number
  /** Calls once, later; call the result to prevent it. */
  after(ms: number, run: () => void): () => void
  /** The session is over, and its last responses can be asked for until it is forgotten. */
  ended(session: BoshSession): void
  /** The session is over, and nothing of it can be asked for any more. */
  forget(session: BoshSession): void
}

interface Request {
  readonly rid: number
  readonly body: Body
  exchange: Exchange
  stopWaiting: (() => void) | undefined
}

/** Told whether the client has an element, and all before it. */
export type Taken = (arrived: boolean) => void

interface Item {
  readonly element: Buffer
  readonly taken: Taken | undefined
}

interface Sent {
  readonly rid: number
  readonly bytes: number
  readonly taken: Taken[]
}

interface Answered {
  readonly bytes: Buffer
  readonly key: string | undefined
}

export class BoshSession {
  readonly sid: string
  readonly secure: boolean
  readonly #settings: BoshSettings
  readonly #context: BoshContext
  readonly #stream: BoshStream
  readonly #opening: Opening
  readonly #waitS: number
  readonly #hold: number
  /** Requests that the client may have open at once. */
  readonly #requests: number
  readonly #polling: boolean
  readonly #inactivityMs: number
  readonly #version: string | undefined
  readonly #contentType: string
  /** The client says which responses it has (§9.2). */
  readonly #acknowledges: boolean
  /** The rid that is due. */
  #next: number
  /** Of requests that came before others they follow. */
  readonly #early = new Map<number, Request>()
  /** Taken and not answered yet, by rid. */
  #held: Request[] = []
  /** The latest responses, to be sent again (§14.3). */
  readonly #answered = new Map<number, Answered>()
  #queue: Item[] = []
  #queueBytes = 0
  /** Responses with something in them that the client is not known to have. */
  #sent: Sent[] = []
  #sentBytes = 0
  /** The attributes of the session response, until they are sent. */
  #creation: Record<string, string | number | undefined> | undefined
  #streamId: string | undefined
  #key: string | undefined
  #scheduled = false
  #stopIdle: (() => void) | undefined
  #pauseMs: number | undefined
  #over = false
  /** The last response of a session that ended while no request was there to answer. */
  #final: Buffer | undefined
  #lastAt = Number.NEGATIVE_INFINITY
  #lastEmpty = false
  /** Whether the last response held nothing. */
  #answeredEmpty = false

  /** Throws BindingError when the request asks for what cannot be. Call `request` with the same body then. */
  constructor(sid: string, secure: boolean, body: Body, settings: BoshSettings, context: BoshContext, connect: (session: BoshSession) => BoshStream) {
    const { attrs, xmpp } = body
    this.sid = sid
    this.secure = secure
    this.#settings = settings
    this.#context = context
    this.#next = ridOf(body)
    const wait = number(attrs['wait']) ?? WAIT_DEFAULT_S
    this.#waitS = Math.min(wait, settings.maxWaitS)
    this.#hold = wait === 0 ? 0 : Math.min(number(attrs['hold']) ?? 1, HOLD_MAX)
    this.#requests = this.#hold + 1
    this.#polling = this.#hold === 0
    // §12: longer, by more than the polling interval.
    this.#inactivityMs = settings.maxInactivityMs + (this.#polling ? 2 * POLLING_S * 1000 : 0)
    this.#version = versionOf(attrs['ver'])
    this.#contentType = contentTypeOf(attrs['content'])
    this.#acknowledges = attrs['ack'] === '1'
    this.#key = attrs['newkey']?.toLowerCase()
    this.#opening = { to: attrs['to'], from: attrs['from'], lang: attrs['xml:lang'], version: xmpp['version'] ?? '1.0' }
    this.#creation = {
      sid, wait: this.#waitS, requests: this.#requests, hold: this.#hold, ver: this.#version, polling: POLLING_S,
      inactivity: Math.floor(this.#inactivityMs / 1000), maxpause: Math.floor(settings.maxPauseMs / 1000),
      ack: this.#next, from: attrs['to'], 'xmpp:version': '1.0', 'xmpp:restartlogic': 'true',
    }
    this.#stream = connect(this)
  }

  get over(): boolean { return this.#over }

  /** Bytes that the client is not known to have. */
  get backlog(): number { return this.#queueBytes + this.#sentBytes }

  // --- requests

  /** A request with this session's sid, or the one that created it. */
  request(body: Body, exchange: Exchange): void {
    let rid: number
    try {
      rid = ridOf(body)
    } catch {
      return this.#fail('bad-request', exchange)
    }
    const request: Request = { rid, body, exchange, stopWaiting: undefined }
    this.#stopClock()
    if (rid < this.#next) return this.#repeated(request)
    if (this.#over) return this.#afterEnd(request)
    const before = this.#early.get(rid)
    if (before !== undefined) return this.#takeOver(before, exchange)
    // §13, §14.2: one more than the window when it is to end or to pause.
    if (rid >= this.#next + this.#requests + (isExtra(body) ? 1 : 0)) return this.#fail('item-not-found', exchange)
    this.#early.set(rid, request)
    // It comes again, and is not kept for a client that is not there.
    exchange.onGone(() => { if (request.exchange === exchange) this.#dropEarly(request) })
    this.#run()
  }

  /** The stream takes more. */
  resume(): void {
    this.#run()
  }

  /** §14.2: takes what has come, by rid. */
  #run(): void {
    for (;;) {
      const request = this.#early.get(this.#next)
      if (request === undefined || this.#over || this.#stream.paused) return this.#watch()
      this.#early.delete(this.#next)
      this.#next++
      this.#take(request)
    }
  }

  #dropEarly(request: Request): void {
    if (request.rid !== this.#next && this.#early.get(request.rid) === request) this.#early.delete(request.rid)
  }

  #take(request: Request): void {
    const { body, rid, exchange } = request
    const { attrs, xmpp } = body
    if (!this.#checkKey(attrs)) return this.#fail('item-not-found', exchange)
    const restart = isTrue(xmpp['restart'])
    const terminate = attrs['type'] === 'terminate'
    const pauseMs = attrs['pause'] === undefined ? undefined : (number(attrs['pause']) ?? Number.NaN) * 1000
    const empty = body.payloads.length === 0 && !restart && !isExtra(body)
    if (pauseMs !== undefined && !(pauseMs <= this.#settings.maxPauseMs)) return this.#fail('policy-violation', exchange)
    this.#acknowledge(rid, attrs['ack'], empty, isExtra(body))
    const first = this.#creation !== undefined && this.#held.length === 0 && this.#answered.size === 0
    if (!first && this.#tooFrequent(empty)) return this.#fail('policy-violation', exchange)
    this.#lastAt = this.#context.now()
    this.#lastEmpty = empty
    this.#forgetAnswers()
    this.#stream.heard(pauseMs !== undefined)
    this.#held.push(request)
    exchange.onGone(() => this.#watch())
    request.stopWaiting = this.#context.after(first ? Math.max(this.#waitS * 1000, FEATURES_MS) : this.#waitS * 1000, () => this.#answerUpTo(request))
    this.#pauseMs = pauseMs
    // XEP-0206 §5: what comes with a restart is ignored.
    if (first || restart) this.#stream.open(first ? this.#opening : { ...this.#opening, to: attrs['to'] ?? this.#opening.to, from: attrs['from'] ?? this.#opening.from, lang: attrs['xml:lang'] ?? this.#opening.lang })
    if (!restart) {
      for (const payload of body.payloads) {
        if (this.#over) return
        this.#stream.receive(payload)
      }
    }
    if (this.#over) return
    if (terminate) return this.#terminate()
    // §10: nothing is sent with these.
    if (pauseMs !== undefined) while (this.#held.length > 0) this.#answer(this.#held[0] as Request, [])
    this.#settle()
  }

  /** §15.4: the key is what was announced. */
  #checkKey(attrs: Body['attrs']): boolean {
    if (this.#creation !== undefined && this.#held.length === 0 && this.#answered.size === 0) return true
    if (this.#key !== undefined) {
      const key = attrs['key']?.toLowerCase()
      if (key === undefined || createHash('sha1').update(key).digest('hex') !== this.#key) return false
      this.#key = key
    }
    if (attrs['newkey'] !== undefined) this.#key = attrs['newkey'].toLowerCase()
    return true
  }

  /** §11, §12: the client asks for nothing more often than it may. */
  #tooFrequent(empty: boolean): boolean {
    if (!empty || this.#context.now() - this.#lastAt >= POLLING_S * 1000) return false
    if (this.#polling) return this.#lastEmpty && this.#answeredEmpty
    return this.#queue.length === 0 && this.#held.filter(({ exchange }) => !exchange.gone).length + 1 >= this.#requests
  }

  /** A request whose rid has been taken before (§14.3). */
  #repeated({ rid, body, exchange }: Request): void {
    const held = this.#held.find((each) => each.rid === rid)
    if (held !== undefined) return this.#takeOver(held, exchange)
    const answered = this.#answered.get(rid)
    // An exact copy has the same key.
    if (answered === undefined || (answered.key !== undefined && answered.key !== body.attrs['key']?.toLowerCase())) return this.#fail('item-not-found', exchange)
    exchange.answer(200, this.#contentType, answered.bytes)
    this.#watch()
  }

  /** The same request on another connection, which gets the answer. */
  #takeOver(request: Request, exchange: Exchange): void {
    if (!request.exchange.gone) request.exchange.answer(200, this.#contentType, writeBody({ type: 'error' }))
    request.exchange = exchange
    exchange.onGone(() => {
      if (request.exchange === exchange) this.#dropEarly(request)
      this.#watch()
    })
    this.#schedule()
    this.#watch()
  }

  /**
   * §9.2: what a request says of responses. A client that does not acknowledge has, by the time it sends a request, the responses to all
   * but as many requests as it may have open; and sends an empty one only when it has nothing open that could be held.
   */
  #acknowledge(rid: number, ack: string | undefined, empty: boolean, extra: boolean): void {
    let upTo: number
    if (this.#acknowledges) upTo = ack === undefined ? rid - 1 : Math.min(number(ack) ?? 0, rid - 1)
    else if (empty) upTo = rid - Math.max(this.#hold, 1)
    else upTo = rid - this.#requests - (extra ? 1 : 0)
    while ((this.#sent[0]?.rid ?? Infinity) <= upTo) {
      const { bytes, taken } = this.#sent.shift() as Sent
      this.#sentBytes -= bytes
      for (const callback of taken) callback(true)
    }
  }

  /** §14.3: as many responses are kept as the client can ask for. */
  #forgetAnswers(): void {
    for (const rid of this.#answered.keys()) {
      if (rid >= this.#next - 1 - this.#requests) return
      this.#answered.delete(rid)
    }
  }

  // --- responses

  /** An element from the stream. Calls back once, when it is known whether the client has it. */
  emit(element: Buffer, taken?: Taken): void {
    if (this.#over) return taken?.(false)
    this.#queue.push({ element, taken })
    this.#queueBytes += element.length
    this.#schedule()
  }

  /** The stream's header was answered. */
  opened(streamId: string | undefined): void {
    this.#streamId = streamId
  }

  /** Answers when all is there that the stream writes in this turn. */
  #schedule(): void {
    if (this.#scheduled || this.#queue.length === 0) return
    this.#scheduled = true
    queueMicrotask(() => {
      this.#scheduled = false
      if (!this.#over) this.#settle()
    })
  }

  /** Answers what has waited long enough: by what there is to say, or because no more may be held (§8). */
  #settle(): void {
    while (this.#queue.length > 0) {
      const live = this.#held.find(({ exchange }) => !exchange.gone)
      if (live === undefined) break
      this.#answerUpTo(live)
    }
    const hold = this.#creation === undefined ? this.#hold : Math.max(this.#hold, 1)
    while (this.#held.length > hold) this.#answerUpTo(this.#held[0] as Request)
    this.#watch()
  }

  /** §8: in the order of their rids. What nobody may receive holds nothing. */
  #answerUpTo(request: Request): void {
    let oldest: Request | undefined
    do {
      oldest = this.#held[0]
      if (oldest === undefined) return
      this.#answer(oldest, oldest.exchange.gone ? [] : this.#nextItems())
    } while (oldest !== request)
    this.#watch()
  }

  /** What goes in one response. */
  #nextItems(): Item[] {
    let count = 0
    for (let bytes = 0; count < this.#queue.length && count < this.#settings.maxConcat && bytes < RESPONSE_BYTES; count++) bytes += (this.#queue[count] as Item).element.length
    return this.#queue.splice(0, count)
  }

  #answer(request: Request, items: readonly Item[], attrs: Readonly<Record<string, string | number | undefined>> = {}): void {
    const { rid, exchange, body } = request
    request.stopWaiting?.()
    this.#held = this.#held.filter((each) => each !== request)
    const creation = this.#creation
    this.#creation = undefined
    const highest = this.#next - 1
    const bytes = writeBody({ ack: highest === rid ? undefined : highest, ...creation, authid: creation === undefined ? undefined : this.#streamId, ...attrs }, items.map(({ element }) => element))
    this.#answered.set(rid, { bytes, key: body.attrs['key']?.toLowerCase() })
    this.#answeredEmpty = items.length === 0
    if (items.length > 0) {
      let size = 0
      for (const { element } of items) size += element.length
      this.#queueBytes -= size
      this.#sentBytes += size
      this.#sent.push({ rid, bytes: size, taken: items.map(({ taken }) => taken).filter((taken) => taken !== undefined) })
    }
    if (!exchange.gone) exchange.answer(200, this.#contentType, bytes)
  }

  // --- inactivity (§10)

  #stopClock(): void {
    this.#stopIdle?.()
    this.#stopIdle = undefined
  }

  /** Runs the clock while no request is held. */
  #watch(): void {
    if (this.#over || this.#held.some(({ exchange }) => !exchange.gone)) return this.#stopClock()
    this.#stopIdle ??= this.#context.after(this.#pauseMs ?? this.#inactivityMs, () => {
      this.#stopIdle = undefined
      // It is us whom the client waits for.
      if (this.#stream.paused && this.#early.has(this.#next)) return this.#watch()
      this.#finish()
      this.#context.forget(this)
      for (const { exchange } of this.#early.values()) this.#refuse('item-not-found', exchange)
      this.#stream.lost()
    })
  }

  // --- the end

  /** §13: the client ends the session. What it is not known to have is not sent any more. */
  #terminate(): void {
    const held = this.#held
    this.#finish()
    this.#stream.close()
    this.#end(held, writeBody({ type: 'terminate' }))
  }

  /** The stream is over; `closed`: by its end tag. */
  streamEnded(closed: boolean): void {
    if (this.#over) return
    const held = this.#held
    // Messages that nobody acknowledges are stored, and come another time.
    const elements = this.#queue.map(({ element }) => element).filter((element) => !isMessage(element))
    const error = elements.find(isStreamError)
    this.#finish()
    const condition = conditionOf(error, closed, this.#creation !== undefined)
    this.#end(held, writeBody({ type: 'terminate', condition }, condition === undefined || condition === 'remote-stream-error' ? elements : []))
  }

  /** A request breaks the rules: its session ends, and the stream as if its connection had been lost (§17.2). */
  #fail(condition: Condition, exchange: Exchange): void {
    if (this.#over) return this.#refuse(condition, exchange)
    const others = [...this.#held, ...this.#early.values()].filter((each) => each.exchange !== exchange)
    this.#finish()
    this.#refuse(condition, exchange)
    for (const other of others) if (!other.exchange.gone) other.exchange.answer(200, this.#contentType, writeBody({ type: 'terminate', condition: 'other-request' }))
    this.#context.forget(this)
    this.#stream.lost()
  }

  #refuse(condition: Condition, exchange: Exchange): void {
    if (!exchange.gone) exchange.answer(this.#version === undefined ? (LEGACY_STATUS[condition] ?? 200) : 200, this.#contentType, writeBody({ type: 'terminate', condition }))
  }

  /** Nothing goes to the stream or comes from it any more. */
  #finish(): void {
    this.#over = true
    this.#stopClock()
    for (const { stopWaiting } of this.#held) stopWaiting?.()
    const taken = [...this.#sent.flatMap((each) => each.taken), ...this.#queue.map((each) => each.taken)]
    this.#held = []
    this.#sent = []
    this.#queue = []
    this.#queueBytes = this.#sentBytes = 0
    for (const callback of taken) callback?.(false)
  }

  /** §13: the oldest request is told, the others are answered with nothing. The response can be asked for again for a while. */
  #end(held: readonly Request[], last: Buffer): void {
    const [oldest, ...others] = [...held, ...this.#early.values()]
    this.#early.clear()
    if (oldest === undefined || oldest.exchange.gone) this.#final = last
    if (oldest !== undefined) {
      this.#answered.set(oldest.rid, { bytes: last, key: oldest.body.attrs['key']?.toLowerCase() })
      if (!oldest.exchange.gone) oldest.exchange.answer(200, this.#contentType, last)
    }
    const empty = writeBody({})
    for (const { rid, body, exchange } of others) {
      this.#answered.set(rid, { bytes: empty, key: body.attrs['key']?.toLowerCase() })
      if (!exchange.gone) exchange.answer(200, this.#contentType, empty)
    }
    this.#context.after(this.#inactivityMs, () => this.#context.forget(this))
    this.#context.ended(this)
  }

  #afterEnd({ rid, body, exchange }: Request): void {
    const last = this.#final
    if (last === undefined || rid >= this.#next + this.#requests + 1 || !this.#checkKey(body.attrs)) return this.#refuse('item-not-found', exchange)
    this.#answered.set(rid, { bytes: last, key: body.attrs['key']?.toLowerCase() })
    this.#next = rid + 1
    this.#final = undefined
    exchange.answer(200, this.#contentType, last)
  }
}

/** Throws BindingError. */
function ridOf({ attrs }: Body): number {
  const rid = number(attrs['rid'])
  if (rid === undefined || rid === 0) throw new BindingError('bad-request', 'no valid rid')
  return rid
}

function number(text: string | undefined): number | undefined {
  if (text === undefined || !/^\d{1,16}$/.test(text)) return undefined
  const value = Number(text)
  return value <= RID_MAX ? value : undefined
}

function isTrue(text: string | undefined): boolean {
  return text === 'true' || text === '1'
}

function isExtra({ attrs }: Body): boolean {
  return attrs['type'] === 'terminate' || attrs['pause'] !== undefined
}

/** §7.2: the lower of both versions; undefined for a client of before there were any. Throws BindingError. */
function versionOf(text: string | undefined): string | undefined {
  if (text === undefined) return undefined
  const match = /^(\d{1,4})\.(\d{1,4})$/.exec(text)
  if (match === null) throw new BindingError('bad-request', 'no valid ver')
  const [major, minor] = VERSION
  const theirs = [Number(match[1]), Number(match[2])] as const
  return theirs[0] < major || (theirs[0] === major && theirs[1] < minor) ? theirs.join('.') : VERSION.join('.')
}

/** §7.1. Throws BindingError. */
function contentTypeOf(text: string | undefined): string {
  if (text === undefined) return CONTENT_TYPE
  if (!/^[\w.+-]{1,60}\/[\w.+-]{1,60}(?:; ?charset="?utf-?8"?)?$/i.test(text)) throw new BindingError('bad-request', 'no valid content type')
  return text
}

function isMessage(element: Buffer): boolean {
  return element.latin1Slice(0, 8) === '<message'
}

function isStreamError(element: Buffer): boolean {
  return element.latin1Slice(0, 13) === '<stream:error'
}

/** Why the stream ended, for the client (XEP-0206 §6). */
function conditionOf(error: Buffer | undefined, closed: boolean, creating: boolean): Condition | undefined {
  if (error === undefined) return closed ? undefined : 'remote-connection-failed'
  // §17.2: that of the session request.
  if (creating) for (const condition of ['host-unknown', 'improper-addressing'] as const) if (error.includes(`<${condition} `)) return condition
  return 'remote-stream-error'
}
