/** Another server: what waits for it, the streams that we have begun with it, and how it is found out whether it said something. */
import { nextMessageId, timeOfMessageId } from '../../lib/stanza/ids.ts'
import { StanzaError, type StanzaErrorCondition } from '../../lib/stanza/errors.ts'
import { makeStanza, type Stanza } from '../../lib/stanza/stanza.ts'
import { unitOfRemote } from '../cluster/remote-units.ts'
import type { Value } from '../storage/shapes.ts'
import type { Verdict } from './dialback.ts'
import { Exchange, QUEUE, type Outgoing, type StoredMessage } from './exchange.ts'
import type { S2sContext } from './context.ts'
import { OutgoingStream } from './outgoing.ts'

/** What is from one domain of ours. */
interface Pair {
  readonly local: string
  queue: Outgoing[]
  exchange: Exchange | undefined
}

interface Verification {
  readonly local: string
  readonly id: string
  readonly key: string
  sentOn: OutgoingStream | undefined
  settle(verdict: Verdict): void
}

/** Why a stream could not be had. */
export interface Failure {
  readonly condition: StanzaErrorCondition
  readonly text: string
}

const RETRY_FIRST_MS = 1000
/** A server that answers again need not wait long for what is there for it. */
const RETRY_KNOWN_MS = 15_000
/** Requests and presence do not wait as long as messages. */
const IMPATIENT_MS = 60_000
/** Without XEP-0198: how many kept messages may be under way before it is asked whether they have come, and how long it waits otherwise. */
const UNPROVEN_MAX = 50
const PROOF_MS = 2000
const PROOF_TIMEOUT_MS = 60_000

export class Remote {
  readonly domain: string
  readonly #context: S2sContext
  readonly #pairs = new Map<string, Pair>()
  readonly #streams = new Set<OutgoingStream>()
  /** Connected ones that carry stanzas to it, and those that wait to be resumed. */
  readonly #exchanges = new Set<Exchange>()
  readonly #verifications = new Map<string, Verification>()
  #count = 0
  #bytes = 0
  #failures = 0
  #failure: Failure | undefined
  #retryAt = 0
  #retryTimer: NodeJS.Timeout | undefined
  /** It was there before. */
  #known = false
  /** Its certificate or ours was not good enough for SASL EXTERNAL. */
  withoutExternal = false
  /** When it is asked whether kept messages have come, or that it has been. */
  readonly #proofs = new Map<Exchange, NodeJS.Timeout | 'asked'>()

  constructor(domain: string, context: S2sContext) {
    this.domain = domain
    this.#context = context
  }

  get streams(): ReadonlySet<OutgoingStream> { return this.#streams }
  get waiting(): number { return this.#count }

  // --- sending

  /** Takes a stanza from one of our domains; throws a StanzaError when it cannot. `kept`: its sender takes it for safe. */
  send(stanza: Stanza, local: string, kept: boolean): void {
    const { limits } = this.#context
    const time = this.#context.now()
    if (this.#failure !== undefined && time < this.#retryAt && !this.#known) throw new StanzaError(this.#failure.condition, this.#failure.text)
    const bytes = stanza.content.length + 200
    if (this.#count >= limits.remoteQueueStanzas || this.#bytes + bytes > limits.remoteQueueBytes) throw new StanzaError('resource-constraint', 'Too much waits for that server')
    this.#count++
    this.#bytes += bytes
    this.#take({ stanza, local, key: kept ? [unitOfRemote(this.domain), nextMessageId()] : undefined, stored: false, bytes, at: time })
  }

  #take(outgoing: Outgoing): void {
    const pair = this.#pair(outgoing.local)
    const { exchange } = pair
    if (exchange !== undefined && exchange.connected) return this.#put(exchange, outgoing)
    this.#enqueue(pair, outgoing)
    this.#want(pair)
  }

  #enqueue(pair: Pair, outgoing: Outgoing): void {
    if (outgoing.key !== undefined && !outgoing.stored) {
      this.#context.storage.records.put(QUEUE, outgoing.key, { bytes: outgoing.stanza.bytes() } satisfies StoredMessage as unknown as Value)
      outgoing.stored = true
    }
    pair.queue.push(outgoing)
  }

  #put(exchange: Exchange, outgoing: Outgoing): void {
    if (!exchange.send(outgoing, this.#context.now())) this.#leave(outgoing)
    else if (!exchange.managed) this.#wantProof(exchange, outgoing.local)
    this.#context.sent(this.domain, outgoing.stanza.name)
  }

  /** It is not ours any more. */
  #leave({ bytes }: Outgoing): void {
    this.#count--
    this.#bytes -= bytes
  }

  /** These have come. */
  arrived(list: readonly Outgoing[]): void {
    const { records } = this.#context.storage
    for (const outgoing of list) {
      this.#leave(outgoing)
      if (outgoing.key !== undefined) records.delete(QUEUE, outgoing.key)
    }
  }

  #return(outgoing: Outgoing, { condition, text }: Failure): void {
    this.#leave(outgoing)
    if (outgoing.key !== undefined) this.#context.storage.records.delete(QUEUE, outgoing.key)
    // Presence that nobody gets is nobody's mistake (RFC 6120 §10.4 is of the others); a request is answered.
    const { stanza } = outgoing
    if (stanza.name === 'presence' && stanza.type !== 'subscribe') return
    this.#context.bounce(stanza, new StanzaError(condition, text))
  }

  #pair(local: string): Pair {
    let pair = this.#pairs.get(local)
    if (pair === undefined) this.#pairs.set(local, (pair = { local, queue: [], exchange: undefined }))
    return pair
  }

  // --- streams

  /** Sees to it that the pair comes to have a stream. */
  #want(pair: Pair): void {
    if (pair.exchange?.connected === true || this.#isOver) return
    // RFC 6120 §10.1: what was sent before and may not have arrived goes first. Whoever began an exchange resumes it.
    const before = this.#before(pair)
    if (before !== undefined) return before.ours ? this.#resumeSoon(before) : undefined
    for (const exchange of this.#exchanges) if (exchange.connected && exchange.locals.has(pair.local)) return this.#assign(pair, exchange)
    for (const stream of this.#streams) {
      if (stream.wants(pair.local)) return
      if (!stream.ready) {
        if (!stream.alone) return
      } else if (stream.authorise(pair.local)) return
    }
    if (this.#context.now() < this.#retryAt) return this.#retryLater()
    this.#begin(pair.local)
  }

  /** What has lost its connection with something of the pair that may not have arrived. */
  #before({ local }: Pair): Exchange | undefined {
    for (const exchange of this.#exchanges) if (!exchange.connected && exchange.holds(local)) return exchange
    return undefined
  }

  #begin(local: string): void {
    // An exchange that can be resumed is begun by its first domain.
    const lost = Array.from(this.#exchanges).find((exchange) => exchange.ours && !exchange.connected)
    const stream = new OutgoingStream(this.#context, this, lost?.local ?? local)
    this.#streams.add(stream)
    stream.start()
  }

  /** Ours, which waits to be resumed from this domain. */
  lostExchange(local: string): Exchange | undefined {
    return Array.from(this.#exchanges).find((exchange) => exchange.ours && exchange.resumable && exchange.local === local && !exchange.connected)
  }

  /** A stream can be asked for domains and verifications. */
  streamReady(stream: OutgoingStream): void {
    for (const verification of this.#verifications.values()) if (verification.sentOn === undefined) this.#askOn(stream, verification)
    if (!stream.established && this.lostExchange(stream.local) !== undefined) stream.authorise(stream.local)
    for (const pair of this.#pairs.values()) if (pair.queue.length > 0) this.#want(pair)
  }

  /** Stanzas from this domain may be sent now. */
  authorised(exchange: Exchange, local: string): void {
    this.#failure = undefined
    this.#retryAt = 0
    this.#known = true
    exchange.locals.add(local)
    this.#exchanges.add(exchange)
    const pair = this.#pair(local)
    if (pair.exchange?.connected !== true && this.#before(pair) === undefined) this.#assign(pair, exchange)
    this.#resumeLost()
  }

  #assign(pair: Pair, exchange: Exchange): void {
    pair.exchange = exchange
    const { queue } = pair
    pair.queue = []
    for (const outgoing of queue) this.#put(exchange, outgoing)
  }

  /** The other server does not take stanzas from this domain. */
  refused(local: string, failure: Failure): void {
    const pair = this.#pairs.get(local)
    if (pair === undefined) return
    for (const outgoing of pair.queue.splice(0)) this.#return(outgoing, failure)
  }

  /** An exchange has lost its connection, and waits to be resumed if it can. `isOrderly`: the other server has had everything. */
  lost(exchange: Exchange, isOrderly: boolean): void {
    exchange.wire = undefined
    clearTimeout(this.#proofs.get(exchange) as NodeJS.Timeout | undefined)
    this.#proofs.delete(exchange)
    for (const pair of this.#pairs.values()) if (pair.exchange === exchange) pair.exchange = undefined
    if (isOrderly) {
      exchange.forget()
      this.arrived(exchange.takeBack())
    }
    if (!isOrderly && exchange.resumable) {
      exchange.detachedAt = this.#context.now()
      exchange.store()
    } else {
      this.#exchanges.delete(exchange)
      this.takeBack(exchange.giveUp(undefined).again)
    }
    this.#wantAll()
    // What the other server has for us may wait for it too.
    if (exchange.ours && exchange.detachedAt !== undefined && exchange.unacknowledged.length === 0 && exchange.domains.size === 0) this.drop(exchange)
  }

  /** Sees to it that an exchange of ours that is lost goes on, also when nothing of ours waits. */
  #resumeLost(): void {
    const lost = Array.from(this.#exchanges).find((exchange) => exchange.ours && !exchange.connected)
    if (lost !== undefined) this.#resumeSoon(lost)
  }

  #resumeSoon(exchange: Exchange): void {
    if (this.#isOver) return
    for (const stream of this.#streams) {
      if (stream.established || stream.local !== exchange.local) continue
      if (stream.ready && !stream.wants(exchange.local)) stream.authorise(exchange.local)
      return
    }
    if (this.#context.now() < this.#retryAt) return this.#retryLater()
    this.#begin(exchange.local)
  }

  #wantAll(): void {
    for (const pair of this.#pairs.values()) if (pair.queue.length > 0) this.#want(pair)
  }

  /** It will not be resumed: what has not arrived goes by another stream. */
  drop(exchange: Exchange, h?: number): void {
    this.#exchanges.delete(exchange)
    const { arrived, again } = exchange.giveUp(h)
    this.arrived(arrived)
    this.takeBack(again)
    this.#wantAll()
  }

  /** An exchange of before that may be resumed. */
  keepExchange(exchange: Exchange): void { this.#exchanges.add(exchange) }

  /** Puts stanzas before those that wait. */
  takeBack(list: readonly Outgoing[]): void {
    const byLocal = new Map<string, Outgoing[]>()
    for (const outgoing of list) {
      // Old presence is of no use.
      if (outgoing.stanza.name === 'presence' && outgoing.key === undefined) this.#leave(outgoing)
      else byLocal.set(outgoing.local, [...(byLocal.get(outgoing.local) ?? []), outgoing])
    }
    for (const [local, mine] of byLocal) {
      const pair = this.#pair(local)
      pair.queue = [...mine, ...pair.queue]
    }
  }

  /** A stream is over; `failure` when it never came to carry anything. */
  streamEnded(stream: OutgoingStream, failure: Failure | undefined, isShort: boolean): void {
    this.#streams.delete(stream)
    for (const verification of this.#verifications.values()) {
      if (verification.sentOn === stream || (failure !== undefined && verification.sentOn === undefined && this.#streams.size === 0)) verification.settle({ error: failure?.condition ?? 'remote-server-timeout' })
    }
    if (this.#isOver) return
    if (failure !== undefined) return this.#failed(failure)
    if (isShort) this.#wait()
    else this.#failures = 0
    this.#wantAll()
    this.#resumeLost()
  }

  get #isOver(): boolean { return this.#context.closing || this.#isAbandoned }

  /** Before the next try, a while that grows. */
  #wait(): void {
    this.#failures++
    const most = this.#known ? Math.min(RETRY_KNOWN_MS, this.#context.retryMs) : this.#context.retryMs
    this.#retryAt = this.#context.now() + Math.min(most, RETRY_FIRST_MS * 2 ** (this.#failures - 1)) * (0.5 + Math.random() / 2)
  }

  #failed(failure: Failure): void {
    this.#failure = failure
    this.#wait()
    this.#context.log.info({ what: 's2s_failed', domain: this.domain, condition: failure.condition, text: failure.text })
    if (!this.#known || failure.condition !== 'remote-server-timeout') {
      for (const pair of this.#pairs.values()) if (pair.exchange?.connected !== true && !this.#isComing(pair)) this.refused(pair.local, failure)
      this.#known = false
      for (const exchange of Array.from(this.#exchanges)) {
        if (exchange.connected || !exchange.ours) continue
        this.#exchanges.delete(exchange)
        for (const outgoing of exchange.giveUp(undefined).again) this.#return(outgoing, failure)
      }
      return
    }
    this.expire()
    this.#retryLater()
  }

  #isComing(pair: Pair): boolean {
    for (const stream of this.#streams) if (stream.wants(pair.local)) return true
    return false
  }

  #retryLater(): void {
    if (this.#retryTimer !== undefined) return
    this.#retryTimer = setTimeout(() => {
      this.#retryTimer = undefined
      this.#wantAll()
      this.#resumeLost()
    }, Math.max(0, this.#retryAt - this.#context.now()))
    this.#retryTimer.unref()
  }

  // --- time

  /** Returns what has waited too long, and gives up what nobody has resumed. */
  expire(): void {
    const { limits } = this.#context
    const time = this.#context.now()
    for (const pair of this.#pairs.values()) {
      if (pair.queue.length === 0) continue
      const isLate = ({ at, key }: Outgoing): boolean => time - at > (key === undefined ? Math.min(IMPATIENT_MS, limits.remotePatienceMs) : limits.remotePatienceMs)
      if (!pair.queue.some(isLate)) continue
      const late = pair.queue.filter(isLate)
      pair.queue = pair.queue.filter((outgoing) => !isLate(outgoing))
      for (const outgoing of late) this.#return(outgoing, this.#failure ?? { condition: 'remote-server-timeout', text: 'The server could not be reached in time' })
    }
    for (const exchange of Array.from(this.#exchanges)) {
      if (exchange.detachedAt === undefined || exchange.connected) continue
      const patienceMs = exchange.ours ? limits.remotePatienceMs : limits.remoteResumeMs
      if (time - exchange.detachedAt > patienceMs) this.drop(exchange)
    }
  }

  /** Whether nothing is known of it that is worth keeping. */
  get isIdle(): boolean {
    return this.#streams.size === 0 && this.#exchanges.size === 0 && this.#count === 0 && this.#verifications.size === 0 && this.#context.now() >= this.#retryAt
  }

  // --- without XEP-0198

  /** Kept messages have been written: an answer to a request that was sent after them proves that they have come. */
  #wantProof(exchange: Exchange, local: string): void {
    const known = this.#proofs.get(exchange)
    if (known === 'asked' || exchange.unacknowledged.length === 0) return
    if (known === undefined) {
      const timer = setTimeout(() => { this.#prove(exchange, local) }, PROOF_MS)
      timer.unref()
      this.#proofs.set(exchange, timer)
    } else if (exchange.unacknowledged.length >= UNPROVEN_MAX) this.#prove(exchange, local)
  }

  #prove(exchange: Exchange, local: string): void {
    clearTimeout(this.#proofs.get(exchange) as NodeJS.Timeout | undefined)
    if (!exchange.connected) return void this.#proofs.delete(exchange)
    this.#proofs.set(exchange, 'asked')
    const count = exchange.unacknowledged.length
    const last = exchange.unacknowledged.at(-1)
    void this.#context.ask(makeStanza('iq', { type: 'get', from: local, to: this.domain }, [{ name: 'ping', xmlns: 'urn:xmpp:ping', text: "<ping xmlns='urn:xmpp:ping'/>" }]), PROOF_TIMEOUT_MS).then((answer) => {
      if (this.#proofs.get(exchange) !== 'asked') return
      this.#proofs.delete(exchange)
      if (answer !== undefined && last !== undefined && exchange.unacknowledged[count - 1] === last) this.arrived(exchange.unacknowledged.splice(0, count))
      this.#wantProof(exchange, local)
    })
  }

  // --- verification (XEP-0220 §2.1.2)

  /** Asks this server whether it has made a key for the stream with this id. */
  verify(local: string, id: string, key: string, settled: (verdict: Verdict) => void): void {
    const name = `${local} ${id}`
    if (this.#verifications.has(name)) return settled({ error: 'resource-constraint' })
    if (this.#failure !== undefined && this.#context.now() < this.#retryAt && this.#streams.size === 0) return settled({ error: this.#failure.condition })
    const timer = setTimeout(() => { verification.settle({ error: 'remote-server-timeout' }) }, this.#context.limits.remoteAnswerMs * 2)
    timer.unref()
    const verification: Verification = {
      local, id, key, sentOn: undefined,
      settle: (verdict) => {
        clearTimeout(timer)
        if (this.#verifications.delete(name)) settled(verdict)
      },
    }
    this.#verifications.set(name, verification)
    for (const stream of this.#streams) if (stream.ready) return this.#askOn(stream, verification)
    if (this.#streams.size === 0) this.#begin(local)
  }

  #askOn(stream: OutgoingStream, verification: Verification): void {
    verification.sentOn = stream
    stream.verify(verification)
  }

  /** The answer on a stream of ours; others are dropped (XEP-0220 §3.1). */
  verified(stream: OutgoingStream, local: string, id: string, verdict: Verdict): void {
    const verification = this.#verifications.get(`${local} ${id}`)
    if (verification?.sentOn === stream) verification.settle(verdict)
  }

  // --- the end and the beginning

  /** What a process before has left: sent in exchanges that may be resumed, or not. */
  restore(stored: readonly { readonly outgoing: Outgoing; readonly by: string | undefined; readonly seq: number | undefined }[]): void {
    this.#known = true
    const exchanges = new Map(Array.from(this.#exchanges, (exchange) => [exchange.id, exchange]))
    const unsent: Outgoing[] = []
    for (const { outgoing, by, seq } of stored) {
      this.#count++
      this.#bytes += outgoing.bytes
      const exchange = by === undefined ? undefined : exchanges.get(by)
      if (exchange === undefined || seq === undefined) unsent.push(outgoing)
      else {
        exchange.locals.add(outgoing.local)
        ;(exchange.stored ??= []).push({ outgoing, seq })
      }
    }
    for (const exchange of exchanges.values()) if (!exchange.connected && exchange.stored === undefined) exchange.stored = []
    // What has come meanwhile is later.
    this.takeBack(unsent)
  }

  /** Nothing of it is this node's any more: it is kept for the one whose it is. */
  abandon(): void {
    this.#isAbandoned = true
    this.close()
  }

  #isAbandoned = false

  /** Connects for what was restored. */
  begin(): void {
    this.#wantAll()
    this.#resumeLost()
  }

  /** Ends what there is with it; stanzas that wait stay. */
  close(): void {
    clearTimeout(this.#retryTimer)
    for (const timer of this.#proofs.values()) if (timer !== 'asked') clearTimeout(timer)
    for (const stream of this.#streams) stream.close(true)
  }
}

/** When a kept message came. */
export function timeOfKey(id: string, otherwise: number): number {
  return timeOfMessageId(id) ?? otherwise
}
