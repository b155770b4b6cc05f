/**
 * A session: one bound resource of an account. It outlives its stream when stream management (XEP-0198) lets it resume,
 * also across a restart of the process.
 */
import type { Jid } from '../../lib/jid.ts'
import { nextMessageId } from '../../lib/stanza/ids.ts'
import { StreamError } from '../../lib/stream/errors.ts'
import { StanzaError } from '../../lib/stanza/errors.ts'
import { withDelay } from '../../lib/stanza/delay.ts'
import { CLIENT_NS, makeStanza, type Stanza } from '../../lib/stanza/stanza.ts'
import type { WhileInactive } from '../router/hooks.ts'
import type { Storage, StoredStream, Value } from '../storage/shapes.ts'
import type { Gate, GateWaiter } from './gate.ts'

/** The stream that carries a session at the moment. */
export interface Carrier {
  readonly address: string
  readonly secure: boolean
  /** Collects bytes; they are written once at the end of the turn. `last` is false when more of the same element follows at once. */
  write(bytes: Buffer, last?: boolean): void
  /** Bytes not taken by the network yet. */
  readonly backlog: number
  /** Calls back, later, when the network has taken all that was written so far; with false when the connection is gone and it has not. */
  whenTaken(callback: Taken): void
  /** `whenTaken` tells what the client has received, not only what the network has taken (XEP-0124 §9). */
  readonly confirms?: boolean
  /** Ends the stream, with a stream error or without. */
  close(error?: StreamError): void
}

/** Told once whether the network took a stanza, for the client (true), or the session or its connection ended before (false). */
export type Taken = (arrived: boolean) => void

export interface SessionContext {
  readonly storage: Storage
  readonly gate: Gate
  /** XEP-0352: asked for each stanza to an inactive session. */
  whileInactive(session: Session, stanza: Stanza): WhileInactive
  /** The session is over: these stanzas never arrived. */
  ended(session: Session, undelivered: readonly Undelivered[]): void
  /** A stanza was queued for a client that is not connected, or is inactive (XEP-0352) and may not answer. */
  waits?(session: Session, stanza: Stanza, id: string | undefined): void
  detached(session: Session): void
  /** A message as it is sent again after a resumption: with the time at which it came. */
  late?(session: Session, message: Stanza, id: string | undefined): Stanza
  readonly limits: { readonly outboundBytes: number; readonly held: number; readonly unacknowledgedBytes?: number; readonly heldBytes?: number }
  now(): number
}

/** A stanza that never arrived. */
export interface Undelivered {
  readonly stanza: Stanza
  /** The id of its delivery, which tells when it came (lib/stanza/ids.ts); undefined when the stanza carries it (XEP-0359), or never had one. */
  readonly id: string | undefined
}

interface Unacknowledged extends Undelivered {
  stanza: Stanza
  readonly seq: number
  /** The bytes by which it counts against the limits of the queue; 0 when it does not count at all. */
  readonly size: number
  readonly volatile: boolean
}

/** A stanza that waits for its commit. */
interface Gated extends Undelivered {
  readonly ticket: number
  readonly size: number
  readonly volatile: boolean
  taken: Taken | undefined
}

export interface SendOptions {
  /** It was written to storage in this turn and is shown only after the commit. */
  readonly durable?: boolean
  /** Worth nothing but to this client now: it is not kept for a restart (nor is presence but for subscriptions), nor handed back when the session ends. */
  readonly volatile?: boolean
  /** The id of its delivery, unless the stanza carries it as its stanza-id. */
  readonly id?: string | undefined
  /** It comes out of the offline queue, which has a limit of its own; the session's does not count it. */
  readonly kept?: boolean
  readonly taken?: Taken | undefined
}

/** XEP-0198 counters of a session. */
export interface Management {
  readonly id: string
  readonly resumable: boolean
  /** How long it may wait for resumption, ms. */
  readonly resumeMs: number
  /** Unacknowledged stanzas that it may have. */
  readonly queueMax: number
  /** Stanzas handled from the client, modulo 2^32. */
  handled: number
  /** Of these, how many the storage has been told. */
  handledStored: number
  sent: number
  acknowledged: number
  readonly queue: Unacknowledged[]
  /** Stanzas sent since the last request for an acknowledgement. */
  unrequested: number
  requestedAt: number
}

/** Stream management that begins (XEP-0198 §3). */
export function createManagement(options: Pick<Management, 'id' | 'resumable' | 'resumeMs' | 'queueMax'>): Management {
  return { ...options, handled: 0, handledStored: 0, sent: 0, acknowledged: 0, queue: [], unrequested: 0, requestedAt: 0 }
}

const COUNTER = 2 ** 32
/** More than what a client can have received beyond what it is known to have acknowledged. */
const UNSEEN = 2 ** 24
/** So many stanzas are acknowledged together, or so many when the last request was a moment ago: each costs the client, and us, more than a stanza. */
const REQUEST_EVERY = 8
const REQUEST_EVERY_MAX = 64
const REQUEST_PAUSE_MS = 250
/** Of what waited for its commit, so many bytes are written at once; the rest follows when the network has taken these. */
const BURST_BYTES = 1_048_576
export const ACK_REQUEST = Buffer.from("<r xmlns='urn:xmpp:sm:3'/>")

export class Session implements GateWaiter {
  readonly jid: Jid
  readonly owner: string
  readonly host: string
  /** Asked for its roster, so gets roster pushes (RFC 6121 §2.2). */
  interested = false
  active = true
  management: Management | undefined
  #presence: Stanza | undefined
  #priority = 0
  #availableFrom: string | undefined
  #directed: Set<string> | undefined
  #carrier: Carrier | undefined
  #state: Map<string, Value> | undefined
  #setAt: Map<string, string> | undefined
  #stateDirty = false
  #gated: Gated[] | undefined
  /** Messages without stream management that the client is not known to have, over a carrier that would tell. */
  #unconfirmed: Set<Undelivered> | undefined
  /** Held back while the client is inactive, each by what it is the latest of. */
  #held: Map<string, Stanza> | undefined
  #heldBytes = 0
  #volatileAnswers: Set<string> | undefined
  /** Unacknowledged stanzas that count against the limits, and their bytes. */
  #queueCount = 0
  #queueBytes = 0
  /** Taken from the gated ones and being written at this moment. */
  #ready: { readonly list: readonly Gated[]; next: number } | undefined
  /** Acknowledgements that wait for their commit. */
  #acks: { ticket: number; handled: number }[] | undefined
  #resuming = false
  /** When an acknowledgement was requested last, ms. */
  #lastRequest = 0
  /** The ticket released last. */
  #releasedTicket = 0
  /** The network has not taken the last burst yet, and so many bytes have been sent since. */
  #bursting = false
  #behindBurst = 0
  #ended = false
  /** When the stream was lost, ms. */
  detachedAt = 0
  /** How long it waits for resumption since then, ms, where that is not what its client was told. */
  waitMs: number | undefined
  /** How often it has gone on on another stream. */
  resumptions = 0
  readonly #context: SessionContext

  constructor(jid: Jid, carrier: Carrier | undefined, context: SessionContext) {
    this.jid = jid
    this.owner = jid.bare
    this.host = jid.domain
    this.#carrier = carrier
    this.#context = context
  }

  /** The last broadcast presence that was not unavailable, `from` set. */
  get presence(): Stanza | undefined { return this.#presence }
  set presence(presence: Stanza | undefined) {
    this.#presence = presence?.compact()
    this.#noteAvailable()
  }

  get priority(): number { return this.#priority }
  set priority(priority: number) {
    this.#priority = priority
    this.#noteAvailable()
  }

  /** Whether it gets what is sent to its account (RFC 6121 §8.5.2.1): available, with a priority that is not negative. */
  get takesMessages(): boolean { return this.#presence !== undefined && this.#priority >= 0 }

  /** It got the messages to its account whose ids are above this one; undefined when it gets none. */
  get availableFrom(): string | undefined { return this.#availableFrom }

  #noteAvailable(): void {
    if (!this.takesMessages) this.#availableFrom = undefined
    else this.#availableFrom ??= nextMessageId()
  }

  get connected(): boolean { return this.#carrier !== undefined }
  get ended(): boolean { return this.#ended }
  get address(): string { return this.#carrier?.address ?? '' }
  get secure(): boolean { return this.#carrier?.secure ?? false }
  get carrier(): Carrier | undefined { return this.#carrier }
  /** JIDs that got directed presence and are to hear of the end of this session (RFC 6121 §4.6). */
  get directed(): Set<string> { return (this.#directed ??= new Set()) }
  /** Those of them at one bare JID. */
  directedAt(bare: string): string[] {
    const found: string[] = []
    if (this.#directed !== undefined) for (const address of this.#directed) if (address[bare.length] === '/' && address.startsWith(bare)) found.push(address)
    return found
  }

  /** What an extension keeps with the session, also across resumption and restart. */
  get(name: string): Value | undefined {
    return this.#state?.get(name)
  }

  set(name: string, value: Value | undefined): void {
    if (value === undefined) {
      this.#state?.delete(name)
      this.#setAt?.delete(name)
    } else {
      if (this.#state?.has(name) !== true) (this.#setAt ??= new Map()).set(name, nextMessageId())
      ;(this.#state ??= new Map()).set(name, value)
    }
    this.changed()
  }

  /** `name` has had a value since before the messages whose ids are above this one; undefined when it has none. */
  setAt(name: string): string | undefined {
    return this.#setAt?.get(name)
  }

  /** Something changed that a restart must find again; written once at the end of the turn. */
  changed(): void {
    if (this.#stateDirty || this.management?.resumable !== true) return
    this.#stateDirty = true
    queueMicrotask(() => {
      this.#stateDirty = false
      if (!this.#ended && this.management?.resumable === true) this.#context.storage.streams.state(this.management.id, this.snapshot())
    })
  }

  /** The state that is kept with the stream. */
  snapshot(): Value {
    const extra: Record<string, Value> = {}
    if (this.#state) for (const [key, value] of this.#state) extra[key] = value
    return {
      presence: this.presence?.encode(),
      priority: this.priority,
      interested: this.interested,
      active: this.active,
      directed: this.#directed ? [...this.#directed] : [],
      resumeMs: this.management?.resumeMs,
      extra,
      availableFrom: this.#availableFrom,
      setAt: this.#setAt ? Object.fromEntries(this.#setAt) : {},
    }
  }

  /** Takes over what `snapshot` wrote; `parse` reads stored stanzas. */
  restore(state: Value, parse: (bytes: Buffer) => Stanza | undefined): void {
    const from = state as { [key: string]: Value | undefined }
    const presence = from['presence']
    if (presence instanceof Uint8Array) this.#presence = parse(Buffer.from(presence))
    if (typeof from['availableFrom'] === 'string') this.#availableFrom = from['availableFrom']
    const setAt = from['setAt']
    if (setAt !== null && typeof setAt === 'object') {
      for (const [key, value] of Object.entries(setAt as { [key: string]: string })) (this.#setAt ??= new Map()).set(key, value)
    }
    this.#priority = Number(from['priority'] ?? 0)
    this.interested = from['interested'] === true
    this.active = from['active'] !== false
    const directed = from['directed']
    if (Array.isArray(directed)) for (const jid of directed) this.directed.add(String(jid))
    const extra = from['extra']
    if (extra !== null && typeof extra === 'object') {
      for (const [key, value] of Object.entries(extra as { [key: string]: Value })) (this.#state ??= new Map()).set(key, value)
    }
  }

  /** Takes over the counters and the queue of a stream from before a restart; `parse` reads stored stanzas. */
  restoreManagement(stream: StoredStream, options: Pick<Management, 'resumeMs' | 'queueMax'>, parse: (bytes: Buffer) => Stanza): void {
    const management = createManagement({ id: stream.id, resumable: true, ...options })
    management.handled = management.handledStored = stream.handled
    management.acknowledged = stream.acknowledged
    management.sent = sentOf(stream)
    for (const { seq, bytes } of stream.unacknowledged) {
      // As `store` wrote it.
      const start = bytes.indexOf('<')
      const id = start === 0 ? undefined : bytes.latin1Slice(0, start)
      const stanza = parse(bytes.subarray(start))
      this.#enqueue(management, { seq, stanza, id, size: sizeOf(stanza), volatile: false })
    }
    this.management = management
  }

  /** The answer to this request is worth nothing without the volatile stanzas before it: after a restart its client is told to ask again. */
  volatileAnswer(id: string): void {
    ;(this.#volatileAnswers ??= new Set()).add(id)
  }

  /** Sends a stanza to the client. */
  send(stanza: Stanza, options: SendOptions = {}): void {
    if (this.#ended) return
    if (!this.active) {
      const verdict = this.#context.whileInactive(this, stanza)
      // What was stored for the client is held back nowhere else.
      const stored = options.durable === true
      if (verdict === 'drop' && !stored) return
      if (typeof verdict === 'object' && !stored) {
        this.discardHeld(verdict.hold)
        const held = (this.#held ??= new Map<string, Stanza>())
        // When it comes at last, its news is old.
        const dated = withDelay(stanza, this.host, this.#context.now()).compact()
        held.set(verdict.hold, dated)
        this.#heldBytes += sizeOf(dated)
        const { limits } = this.#context
        if (held.size > limits.held || this.#heldBytes > (limits.heldBytes ?? Infinity)) this.flushHeld()
        return
      }
      if (this.#held !== undefined) this.flushHeld()
    }
    this.#push(stanza, options)
  }

  /** Takes what is held back under a name out again: something that was sent says it all. */
  discardHeld(name: string): void {
    const held = this.#held?.get(name)
    if (held === undefined) return
    this.#heldBytes -= sizeOf(held)
    this.#held?.delete(name)
  }

  /** Sends what was held back while the client was inactive. */
  flushHeld(): void {
    const held = this.#held
    if (held === undefined) return
    this.#held = undefined
    this.#heldBytes = 0
    for (const stanza of held.values()) this.#push(stanza, {})
  }

  #push(stanza: Stanza, options: SendOptions): void {
    const management = this.management
    const { id } = options
    const size = options.kept === true ? 0 : sizeOf(stanza)
    const volatile = options.volatile === true || (this.#volatileAnswers !== undefined && stanza.name === 'iq' && (stanza.type === 'result' || stanza.type === 'error') && this.#volatileAnswers.delete(stanza.id ?? ''))
    let gated = options.durable === true
    if (management !== undefined) {
      management.sent = (management.sent + 1) % COUNTER
      this.#enqueue(management, { seq: management.sent, stanza: this.#carrier === undefined ? stanza.compact() : stanza, id, size, volatile })
      if (management.resumable && isStored(stanza, volatile)) {
        this.#context.storage.streams.push(management.id, management.sent, ...stored(stanza, id, volatile))
        // A message must not arrive before it is stored: after a crash nobody could tell that it had.
        if (stanza.name === 'message') gated = true
      }
      if (this.#queueCount > management.queueMax || this.#queueBytes > (this.#context.limits.unacknowledgedBytes ?? Infinity)) {
        // A client that never acknowledges: what it missed goes to the offline queue.
        this.close(new StreamError('resource-constraint', 'too many unacknowledged stanzas'))
        return
      }
    }
    if ((this.#carrier === undefined || !this.active) && management !== undefined) this.#context.waits?.(this, stanza, id)
    // What comes while the stream is being resumed waits behind what is sent again.
    if (gated || this.#resuming || this.#gated !== undefined) {
      const last = this.#gated?.at(-1)?.ticket ?? 0
      const ticket = gated || this.#resuming ? this.#context.gate.wait(this) : last
      ;(this.#gated ??= []).push({ ticket, stanza, id, size, volatile, taken: options.taken })
      // With stream management its queue has limits of its own.
      if (this.#bursting && management === undefined && (this.#behindBurst += size) > this.#context.limits.outboundBytes) this.#stopped()
      return
    }
    this.#write(stanza, options.taken, id, volatile)
  }

  #enqueue(management: Management, entry: Unacknowledged): void {
    management.queue.push(entry)
    if (entry.size === 0) return
    this.#queueCount++
    this.#queueBytes += entry.size
  }

  released(ticket: number): void {
    this.#releasedTicket = ticket
    if (this.#resuming) return
    const acks = this.#acks
    if (acks !== undefined) {
      let handled = -1
      let taken = 0
      while (taken < acks.length && (acks[taken] as { ticket: number }).ticket <= ticket) handled = (acks[taken++] as { handled: number }).handled
      if (taken === acks.length) this.#acks = undefined
      else acks.splice(0, taken)
      if (handled !== -1) this.#carrier?.write(Buffer.from(`<a xmlns='urn:xmpp:sm:3' h='${handled}'/>`))
    }
    if (this.#bursting) return
    const gated = this.#gated
    if (gated === undefined) return
    let count = 0
    while (count < gated.length && (gated[count] as Gated).ticket <= ticket) count++
    if (count === 0) return
    const ready = count === gated.length ? gated : gated.splice(0, count)
    if (ready === gated) this.#gated = undefined
    // One that cannot be written ends a session without stream management, which hands back the rest.
    const writing = { list: ready, next: 0 }
    this.#ready = writing
    const burst = Math.min(BURST_BYTES, this.#context.limits.outboundBytes / 4)
    let bytes = 0
    while (this.#ready === writing && writing.next < ready.length) {
      const { stanza, taken, id, volatile } = ready[writing.next++] as Gated
      this.#write(stanza, taken, id, volatile)
      bytes += stanza.content.length
      if (bytes > burst && writing.next < ready.length) this.#awaitNetwork(ready.slice(writing.next))
    }
    if (this.#ready === writing) this.#ready = undefined
  }

  /** Writes the rest when the network has taken what was written. */
  #awaitNetwork(rest: Gated[]): void {
    const carrier = this.#carrier
    if (carrier === undefined) return
    this.#ready = undefined
    this.#gated = this.#gated === undefined ? rest : [...rest, ...this.#gated]
    this.#bursting = true
    this.#behindBurst = 0
    carrier.whenTaken(() => {
      if (this.#carrier !== carrier) return
      this.#bursting = false
      this.released(this.#releasedTicket)
    })
  }

  /** A reader that has stopped: its memory is bounded, and its stream ends. */
  #stopped(): void {
    this.#carrier?.close(new StreamError('policy-violation', 'the client does not read'))
  }

  #write(stanza: Stanza, taken: Taken | undefined, id: string | undefined, volatile: boolean): void {
    const carrier = this.#carrier
    if (carrier === undefined) return taken?.(false)
    const parts = stanza.parts()
    for (let i = 0; i < parts.length; i++) carrier.write(parts[i] as Buffer, i === parts.length - 1)
    if (taken !== undefined) carrier.whenTaken(taken)
    else if (carrier.confirms === true && this.management === undefined && stanza.name === 'message' && !volatile) this.#awaitConfirmation(carrier, { stanza, id })
    if (carrier.backlog > this.#context.limits.outboundBytes) return this.#stopped()
    const management = this.management
    if (management !== undefined && ++management.unrequested >= REQUEST_EVERY && management.requestedAt === 0 && this.#requestIsDue(management)) this.requestAck()
  }

  #requestIsDue({ unrequested }: Management): boolean {
    return unrequested >= REQUEST_EVERY_MAX || this.#context.now() - this.#lastRequest >= REQUEST_PAUSE_MS
  }

  /** Bounded by what may wait for the network. */
  #awaitConfirmation(carrier: Carrier, message: Undelivered): void {
    const unconfirmed = (this.#unconfirmed ??= new Set())
    unconfirmed.add(message)
    carrier.whenTaken((arrived) => { if (arrived) unconfirmed.delete(message) })
  }

  /** XEP-0198 §4: asks the client for an acknowledgement. */
  requestAck(): void {
    const management = this.management
    if (management === undefined || this.#carrier === undefined || this.#resuming || management.queue.length === 0) return
    management.unrequested = 0
    this.#lastRequest = this.#context.now()
    if (management.requestedAt === 0) management.requestedAt = this.#lastRequest
    this.#carrier.write(ACK_REQUEST)
  }

  /**
   * Turns stream management on (XEP-0198 §3). What waits for its commit reaches the client afterwards, so it is counted.
   * That a stream can be resumed is to be said when it is stored; see `hold` and `openWhenStored`.
   */
  manage(management: Management): void {
    this.management = management
    for (const gated of this.#gated ?? []) {
      const { stanza, id, size, volatile, taken } = gated
      management.sent = (management.sent + 1) % COUNTER
      this.#enqueue(management, { seq: management.sent, stanza, id, size, volatile })
      if (!management.resumable) continue
      // From here on the stream's stored queue has it.
      gated.taken = undefined
      taken?.(true)
    }
  }

  /** What is sent from now on waits until the session is open. */
  hold(): void { this.#resuming = true }

  /** Calls `opened` to answer when all that was written is on stable storage, and then has what waits follow; never when the connection is gone by then. */
  openWhenStored(opened: () => void): void {
    const carrier = this.#carrier
    this.#context.storage.afterCommit(() => {
      if (this.#carrier !== carrier || this.#ended) return
      this.#resuming = false
      opened()
      this.released(this.#releasedTicket)
    })
  }

  /** A stanza of the client has been handled; its effects and this count are committed together. */
  countHandled(): void {
    const management = this.management
    if (management === undefined) return
    management.handled = (management.handled + 1) % COUNTER
    if (!management.resumable) return
    if (management.handledStored !== -1) {
      management.handledStored = -1
      queueMicrotask(() => this.#storeHandled())
    }
  }

  #storeHandled(): void {
    const management = this.management
    if (management === undefined || this.#ended || management.handledStored === management.handled) return
    management.handledStored = management.handled
    this.#context.storage.streams.handled(management.id, management.handled)
  }

  /** The client asks for an acknowledgement: it gets one when all that it covers is on stable storage (XEP-0198 §4). */
  acknowledgeWhenStored(): void {
    if (this.management === undefined) return
    if (this.management.resumable) this.#storeHandled()
    ;(this.#acks ??= []).push({ ticket: this.#context.gate.wait(this), handled: this.management.handled })
  }

  /** The client acknowledged up to `h` (XEP-0198 §4). False when it acknowledges what was never sent. */
  acknowledged(h: number): boolean {
    const management = this.management
    if (management === undefined) return false
    if (!this.canHaveReceived(h, false)) return false
    const count = (h - management.acknowledged + COUNTER) % COUNTER
    management.requestedAt = 0
    if (count === 0) return true
    for (const { size } of management.queue.splice(0, count)) {
      if (size === 0) continue
      this.#queueCount--
      this.#queueBytes -= size
    }
    management.acknowledged = h
    if (management.resumable) this.#context.storage.streams.acknowledged(management.id, h)
    return true
  }

  /** Writes the stream of a session that can be resumed as it stands. */
  storeStream(): void {
    const { management } = this
    if (management === undefined) return
    const { streams } = this.#context.storage
    streams.open(management.id, this.owner, this.jid.resource, this.snapshot())
    streams.handled(management.id, management.handled)
    management.handledStored = management.handled
    streams.acknowledged(management.id, management.acknowledged)
    for (const { seq, stanza, id, volatile } of management.queue) {
      if (isStored(stanza, volatile)) streams.push(management.id, seq, ...stored(stanza, id, volatile))
    }
  }

  /** Lets go of a stream that another is about to replace. */
  detach(carrier: Carrier): void {
    if (this.#carrier === carrier) this.#carrier = undefined
  }

  /** The connection is gone. The session waits for resumption when it may, else it ends. */
  lostCarrier(carrier: Carrier): void {
    if (this.#carrier !== carrier) return
    this.#carrier = undefined
    this.#resuming = this.#bursting = false
    if (this.#ended) return
    if (this.management?.resumable === true) {
      this.detachedAt = this.#context.now()
      for (const each of this.management.queue) each.stanza = each.stanza.compact()
      this.#context.detached(this)
    } else this.close()
  }

  /** Whether the client can have received `h` stanzas. `restarted`: the session was restored and not resumed since. */
  canHaveReceived(h: number, restarted: boolean): boolean {
    const { management } = this
    if (management === undefined) return false
    return (h - management.acknowledged + COUNTER) % COUNTER <= (restarted ? UNSEEN : management.queue.length)
  }

  /**
   * Continues on another stream (XEP-0198 §5): `h` is what the client has received, and can be. `resumed` is called once
   * everything is stored, to answer and then have the queue sent again.
   */
  resume(carrier: Carrier, h: number, restarted: boolean, resumed: (handled: number, sendAgain: () => void) => void): void {
    const management = this.management
    if (management === undefined) return
    this.resumptions++
    if (restarted) {
      // After a restart only what was stored is known; the client may have received presence beyond it.
      while (management.queue.length > 0 && behind((management.queue[0] as Unacknowledged).seq, h)) management.queue.shift()
      management.acknowledged = h
      management.sent = h
      const renumbered = management.queue.splice(0)
      this.#queueCount = this.#queueBytes = 0
      for (const each of renumbered) {
        management.sent = (management.sent + 1) % COUNTER
        this.#enqueue(management, { ...each, seq: management.sent })
      }
      // Stored anew under the numbers by which the client counts from here on; the old numbers may be larger.
      this.#context.storage.streams.close(management.id)
      this.storeStream()
    } else this.acknowledged(h)
    this.#carrier = carrier
    this.detachedAt = 0
    this.waitMs = undefined
    management.requestedAt = 0
    management.unrequested = 0
    this.#gated = undefined
    this.#acks = undefined
    this.#resuming = true
    this.#bursting = false
    const last = management.sent
    const handled = management.handled
    this.#storeHandled()
    this.#context.storage.afterCommit(() => {
      if (this.#carrier !== carrier) return
      this.#resuming = false
      resumed(handled, () => {
        // What came for the session in the meantime is in the queue too, but it may not be stored yet.
        const again = management.queue.filter((each) => behind(each.seq, last)).map((each) => ({ ...each, stanza: this.#late(each), ticket: 0, taken: undefined }))
        if (again.length > 0) this.#gated = [...again, ...this.#gated ?? []]
        this.released(this.#releasedTicket)
      })
    })
  }

  #late({ stanza, id }: Undelivered): Stanza {
    return stanza.name === 'message' ? this.#context.late?.(this, stanza, id) ?? stanza : stanza
  }

  /** Ends the session: `error` closes its stream with a stream error. What never arrived is handed back. */
  close(error?: StreamError): void {
    if (this.#ended) return
    this.#ended = true
    const carrier = this.#carrier
    this.#carrier = undefined
    const { management } = this
    const unwritten = [...this.#ready?.list.slice(this.#ready.next) ?? [], ...this.#gated ?? []]
    const undelivered: Undelivered[] = [...this.#unconfirmed ?? [], ...(management !== undefined ? management.queue : unwritten).filter((each) => !each.volatile)]
    if (management?.resumable === true) this.#context.storage.streams.close(management.id)
    for (const stanza of this.#held?.values() ?? []) undelivered.push({ stanza, id: undefined })
    this.#gated = undefined
    this.#ready = undefined
    this.#held = undefined
    this.#unconfirmed = undefined
    carrier?.close(error)
    for (const { taken } of unwritten) taken?.(false)
    this.#context.ended(this, undelivered)
  }
}

/**
 * Whether an unacknowledged stanza is kept for a restart: messages and IQs that are not volatile, of a volatile answer that it is
 * missing, and of presence what is said once: of subscriptions (RFC 6121 §3), and that the client is out of a room (XEP-0045 §8.2).
 */
function isStored(stanza: Stanza, volatile: boolean): boolean {
  const { name, type } = stanza
  if (name === 'presence') return type === 'subscribe' || type === 'subscribed' || type === 'unsubscribe' || type === 'unsubscribed' || (type === 'unavailable' && isOwnExit(stanza))
  return name === 'iq' || (name === 'message' && !volatile)
}

function isOwnExit({ content, children }: Stanza): boolean {
  return children.some(({ name, xmlns, start, end }) => name === 'x' && xmlns === 'http://jabber.org/protocol/muc#user' && /code=.110/.test(content.latin1Slice(start, end)))
}

/** What is kept of it: its bytes, with the id of its delivery before them when it has one. */
function stored(stanza: Stanza, id: string | undefined, volatile: boolean): readonly Buffer[] {
  if (volatile) return askAgain(stanza).parts()
  const parts = stanza.parts()
  return id === undefined ? parts : [Buffer.from(id, 'latin1'), ...parts]
}

/** In place of an answer that did not outlive the process. */
function askAgain({ attrs: { id, from, to } }: Stanza): Stanza {
  const error = new StanzaError('internal-server-error', 'The server has been restarted; ask again.', { type: 'wait' })
  return makeStanza('iq', { type: 'error', id, from, to }, [{ name: 'error', xmlns: CLIENT_NS, text: error.toXml() }])
}

/** The bytes that a stanza takes, without writing it. */
function sizeOf(stanza: Stanza): number {
  let size = stanza.name.length + stanza.content.length
  for (const name in stanza.attrs) size += name.length + (stanza.attrs[name] as string).length
  return size
}

/**
 * From where a restored stream counts until it is resumed. How far its client has counted is unknown, for presence is sent and
 * counted but not stored. What comes for it now must never look as if it had been received, also after another restart.
 */
function sentOf(stream: StoredStream): number {
  const last = stream.unacknowledged.at(-1)?.seq ?? stream.acknowledged
  const beyond = (last - stream.acknowledged) >>> 0
  return beyond >= UNSEEN ? last : (stream.acknowledged + UNSEEN) >>> 0
}

/** Whether counter `a` is at or before `b`, modulo 2^32. */
function behind(a: number, b: number): boolean {
  return (b - a + COUNTER) % COUNTER < COUNTER / 2
}
