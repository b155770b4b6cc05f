/**
 * What is under way over one stream with another server: stanzas that were sent and are not known to have arrived, and how many came.
 * With XEP-0198 it outlives the connection when that can be resumed, and our process too.
 */
import { unitOfRemote } from '../cluster/remote-units.ts'
import type { Stanza } from '../../lib/stanza/stanza.ts'
import { toContentNamespace } from '../../lib/stanza/content-namespace.ts'
import { StreamError } from '../../lib/stream/errors.ts'
import type { Key, Records, Value } from '../storage/shapes.ts'
import { SERVER_NS, SM_NS, type Wire } from './wire.ts'

/** Records: messages for other servers; key [the unit of their domain, id], value a StoredMessage. */
export const QUEUE = 's2s-queue'
/** Records: exchanges that can be resumed; key [the unit of its domain, id], value a StoredExchange. */
export const EXCHANGES = 's2s-exchanges'

/** A stanza on its way to another server. */
export interface Outgoing {
  readonly stanza: Stanza
  /** The domain of ours that it is from. */
  readonly local: string
  /** Where it is kept until it is known to have arrived; undefined for what is lost with the process. */
  readonly key: Key | undefined
  /** Whether it is kept already. */
  stored: boolean
  readonly bytes: number
  /** When it came, ms. */
  readonly at: number
}

/** `by`: the exchange that it was sent in, as stanza number `seq`. */
export interface StoredMessage {
  readonly bytes: Uint8Array
  readonly by?: string
  readonly seq?: number
}

export interface StoredExchange {
  /** Whether we have begun it, and may resume it. */
  readonly ours: boolean
  /** The domain of ours that it was authorised for first. */
  readonly local: string
  /** Domains of the other server that it has proven to be. */
  readonly domains: readonly string[]
  readonly handled: number
  /** When it was last known to be connected, ms. */
  readonly at: number
}

const WRAP = 2 ** 32
const HALF = 2 ** 31
const REQUEST = Buffer.from(`<r xmlns='${SM_NS}'/>`)

export interface ExchangeParts {
  readonly records: Records
  now(): number
}

export class Exchange {
  readonly remote: string
  readonly local: string
  /** Whether we have begun its stream. */
  readonly ours: boolean
  readonly #parts: ExchangeParts
  /** Its connection, when there is one. */
  wire: Wire | undefined
  /** The id of XEP-0198; undefined while that is off. */
  id: string | undefined
  resumable = false
  managed = false
  /** Domains that the other server has proven to be on this stream. */
  readonly domains = new Set<string>()
  /** Our domains that stanzas may be sent from. */
  readonly locals = new Set<string>()
  handled = 0
  #handledStored = 0
  #sent = 0
  #acknowledged = 0
  #requested = false
  /** Sent, and not known to have arrived; without management, those alone that are kept. */
  unacknowledged: Outgoing[] = []
  /** In its place after a restart: messages that were sent, with their numbers; what was not kept is missing between them. */
  stored: { readonly outgoing: Outgoing; readonly seq: number }[] | undefined
  /** When it was lost; it waits to be resumed. */
  detachedAt: number | undefined

  constructor(remote: string, local: string, ours: boolean, parts: ExchangeParts) {
    this.remote = remote
    this.local = local
    this.ours = ours
    this.#parts = parts
  }

  get sent(): number { return this.#sent }
  get connected(): boolean { return this.wire?.alive === true }

  /** Stanzas are numbered from now on (XEP-0198 §3). */
  manage(id: string | undefined, resumable: boolean): void {
    this.managed = true
    this.id = id
    this.resumable = resumable && id !== undefined
    this.handled = this.#handledStored = this.#sent = this.#acknowledged = 0
    // What was sent before is not counted: a later answer has to prove it.
    if (this.resumable) this.store()
  }

  /** As it was in the process before. */
  restore(id: string, { handled, domains, at }: StoredExchange): void {
    this.managed = this.resumable = true
    this.id = id
    this.handled = this.#handledStored = handled
    for (const domain of domains) this.domains.add(domain)
    this.detachedAt = at
  }

  /** Writes what a later process needs to go on with it. */
  store(): void {
    if (!this.resumable) return
    this.#handledStored = this.handled
    this.#parts.records.put(EXCHANGES, [unitOfRemote(this.remote), this.id as string], { ours: this.ours, local: this.local, domains: [...this.domains], handled: this.handled, at: this.#parts.now() } satisfies StoredExchange as unknown as Value)
  }

  /** The stanzas of a read have been handled: their number is written in the same group as what they have caused. */
  storeHandled(): void {
    if (this.resumable && this.#handledStored !== this.handled) this.store()
  }

  /** It cannot be resumed any more. */
  forget(): void {
    if (this.resumable) this.#parts.records.delete(EXCHANGES, [unitOfRemote(this.remote), this.id as string])
    this.resumable = false
  }

  received(): void {
    this.handled = (this.handled + 1) % WRAP
  }

  /** Sends a stanza, once what is stored by now is committed. Whether it stays among the unacknowledged. */
  send(outgoing: Outgoing, time: number): boolean {
    const wire = this.wire as Wire
    const stays = this.managed || outgoing.key !== undefined
    if (this.managed) this.#sent = (this.#sent + 1) % WRAP
    if (stays) this.unacknowledged.push(outgoing)
    if (outgoing.key !== undefined) this.#keep(outgoing, outgoing.key)
    wire.stanzaAt = time
    wire.writeCommitted(toContentNamespace(outgoing.stanza, SERVER_NS))
    return stays
  }

  #keep(outgoing: Outgoing, key: Key): void {
    if (!this.resumable) {
      if (!outgoing.stored) this.#parts.records.put(QUEUE, key, { bytes: outgoing.stanza.bytes() } satisfies StoredMessage as unknown as Value)
    } else this.#parts.records.put(QUEUE, key, { bytes: outgoing.stanza.bytes(), by: this.id as string, seq: this.#sent } satisfies StoredMessage as unknown as Value)
    outgoing.stored = true
  }

  /** What is about to be written ends with a request, unless one is open. */
  flushing(): void {
    if (!this.managed || this.#requested || this.unacknowledged.length === 0) return
    this.#requested = true
    this.wire?.write(REQUEST)
  }

  /** Answers how many came, when all of it is safe. */
  answer(): void {
    this.wire?.writeCommitted(Buffer.from(`<a xmlns='${SM_NS}' h='${this.handled}'/>`))
  }

  /** The same before the stream is closed, which nobody asks for (§4). What is not safe yet is not said. */
  lastAnswer(isDirty: boolean): void {
    if (this.managed && !isDirty) this.wire?.write(Buffer.from(`<a xmlns='${SM_NS}' h='${this.handled}'/>`))
  }

  /** The other server has handled so many; answers with what has arrived by that. Throws a StreamError for more than there were (XEP-0198 §4). */
  acknowledged(h: number): Outgoing[] {
    this.#requested = false
    const count = (h - this.#acknowledged + WRAP) % WRAP
    if (count > this.unacknowledged.length) {
      throw new StreamError('undefined-condition', `You acknowledged ${h} stanzas, but I only sent you ${this.#sent} so far.`, `<handled-count-too-high xmlns='${SM_NS}' h='${h}' send-count='${this.#sent}'/>`)
    }
    this.#acknowledged = h
    if (count === this.unacknowledged.length) {
      const all = this.unacknowledged
      this.unacknowledged = []
      return all
    }
    return this.unacknowledged.splice(0, count)
  }

  /** Goes on over another connection, on which the other server says how many it has handled; answers with what has arrived. The rest is sent again. */
  resume(wire: Wire, h: number): Outgoing[] {
    this.wire = wire
    this.detachedAt = undefined
    const { arrived, again } = this.#sortOut(h)
    this.#sent = h
    this.#requested = false
    const time = this.#parts.now()
    for (const outgoing of again) this.send(outgoing, time)
    return arrived
  }

  /** What has arrived and what has not, by the number that were handled. */
  #sortOut(h: number): { readonly arrived: Outgoing[]; readonly again: Outgoing[] } {
    if (this.stored === undefined) {
      const arrived = this.acknowledged(h)
      return { arrived, again: this.takeBack() }
    }
    const arrived: Outgoing[] = []
    const again: Outgoing[] = []
    for (const { outgoing, seq } of this.stored) ((h - seq + WRAP) % WRAP < HALF ? arrived : again).push(outgoing)
    this.stored = undefined
    this.#acknowledged = h
    return { arrived, again }
  }

  /** The same when it cannot go on: everything leaves it. `h` is undefined when the other server does not say. */
  giveUp(h: number | undefined): { readonly arrived: Outgoing[]; readonly again: Outgoing[] } {
    this.forget()
    if (h !== undefined) {
      try { return this.#sortOut(h) } catch { /* it counts otherwise than we do, so that its number says nothing */ }
    }
    return { arrived: [], again: this.takeBack() }
  }

  /** Whether something from this domain may not have arrived. */
  holds(local: string): boolean {
    return this.unacknowledged.some((outgoing) => outgoing.local === local) || this.stored?.some(({ outgoing }) => outgoing.local === local) === true
  }

  /** Takes what is not known to have arrived away from it. */
  takeBack(): Outgoing[] {
    const all = this.stored === undefined ? this.unacknowledged : this.stored.map(({ outgoing }) => outgoing)
    this.unacknowledged = []
    this.stored = undefined
    return all
  }
}
