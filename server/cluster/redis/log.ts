/**
 * A node's log as a Redis Stream. The id of an entry is the record's segment and number, so a record is there once however often it
 * is appended. The latest records are kept here as well: when a replica becomes the primary that did not have the last ones, these are appended again.
 * What a record's group sends to other nodes is put into their inboxes by the script that appends it, unless they are in other slots.
 */
import { HEADER_BYTES } from '../../storage/groups/log.ts'
import { type Addressed, type NodeLog } from '../shapes.ts'
import { type Argument, type Commander, FinalError } from './connect.ts'
import { packPieces } from './inbox.ts'
import { type Keys, type NodeKeys } from './keys.ts'
import { APPEND, TRIM } from './scripts.ts'

/** Of the latest records, as long as it takes a replica to hear of them or to become the primary. */
const RECENT_MS = 60_000
const RECENT_BYTES = 32 * 1024 * 1024

interface Recent {
  readonly number: number
  readonly id: string
  readonly lastIdMs: number
  readonly payload: Buffer
  readonly at: number
}

/** What an inbox may have. */
export interface InboxLimits {
  readonly entries: number
  readonly bytes: number
}

/** Keys of other nodes, which scripts may use. */
interface Sending {
  readonly keys: Keys
  readonly limits: InboxLimits
}

const NOBODY: ReadonlySet<string> = new Set()
const SENT = 1

export class RedisLog implements NodeLog {
  readonly appendAndSend?: (buffer: Buffer, payloadBytes: number, lastIdMs: number, parcels: readonly Addressed[]) => Promise<ReadonlySet<string>>
  readonly #commander: Commander
  readonly #keys: NodeKeys
  readonly #onLost: () => void
  readonly #recent: Recent[] = []
  #recentBytes = 0
  #segment = 1
  #record = 0
  #bytes = 0
  #isClosed = false
  #appending: Promise<unknown> | undefined

  /** `onLost`: it takes nothing any more, or has lost what it had. */
  constructor(commander: Commander, keys: NodeKeys, onLost: () => void, sending?: Sending) {
    this.#commander = commander
    this.#keys = keys
    this.#onLost = onLost
    if (sending) this.appendAndSend = (buffer, payloadBytes, lastIdMs, parcels) => this.#begin(buffer, payloadBytes, lastIdMs, { ...sending, parcels })
  }

  get bytes(): number { return this.#bytes }

  async append(buffer: Buffer, payloadBytes: number, lastIdMs: number): Promise<void> { await this.#begin(buffer, payloadBytes, lastIdMs) }

  async prepare(): Promise<void> {}

  turnOver(): { readonly segment: number; readonly record: number } {
    this.#bytes = 0
    return { segment: this.#segment++, record: this.#record }
  }

  async drop(upTo: number): Promise<void> {
    if (this.#isClosed) throw new Error('the log is closed')
    await this.#commander.run(TRIM, [this.#keys.node, this.#keys.fence, this.#keys.log], [`${upTo + 1}-0`])
  }

  async close(): Promise<void> {
    this.#isClosed = true
    await Promise.allSettled([this.#appending])
  }

  #begin(buffer: Buffer, payloadBytes: number, lastIdMs: number, sending?: Sending & { readonly parcels: readonly Addressed[] }): Promise<ReadonlySet<string>> {
    if (this.#isClosed) return Promise.reject(new Error('the log is closed'))
    const appending = this.#append(buffer.subarray(HEADER_BYTES, HEADER_BYTES + payloadBytes), lastIdMs, sending)
    this.#appending = appending
    return appending
  }

  async #append(payload: Buffer, lastIdMs: number, sending?: Sending & { readonly parcels: readonly Addressed[] }): Promise<ReadonlySet<string>> {
    const number = this.#record + 1
    const id = `${this.#segment}-${number}`
    let [last, ...went] = await this.#send(number, id, lastIdMs, payload, sending)
    const parcels = sending?.parcels ?? []
    while (last !== -1) {
      const next = this.#recent.find((record) => record.number === last + 1)
      if (!next) return this.#lose(`Redis has lost records of the log after ${last}`)
      last = (await this.#send(next.number, next.id, next.lastIdMs, next.payload))[0]
      if (last !== -1) continue
      last = next.number < number - 1 ? next.number : (await this.#send(number, id, lastIdMs, payload))[0]
    }
    this.#record = number
    this.#bytes += payload.length
    // The buffer is used again.
    this.#recent.push({ number, id, lastIdMs, payload: Buffer.from(payload), at: performance.now() })
    this.#recentBytes += payload.length
    this.#forget()
    return went.length === 0 ? NOBODY : new Set(parcels.filter((_, i) => went[i] === SENT).map(({ to }) => to))
  }

  /** -1, or the last record that is there when some before this one are not; then how the parcels went. */
  async #send(number: number, id: string, lastIdMs: number, payload: Buffer, sending?: Sending & { readonly parcels: readonly Addressed[] }): Promise<[number, ...number[]]> {
    const { node, fence, at, log } = this.#keys
    const keys = [node, fence, at, log]
    const args: Argument[] = [number, id, lastIdMs, payload]
    if (sending) {
      args.push(sending.limits.entries, sending.limits.bytes, sending.parcels[0]?.parcel.source ?? '')
      for (const { to, parcel } of sending.parcels) {
        const other = sending.keys.node(to)
        keys.push(other.node, other.fence, other.inbox)
        args.push(parcel.first, packPieces(parcel.pieces))
      }
    }
    const answer = await this.#commander.run(APPEND, keys, args) as [number, ...number[]]
    if (answer[0] === -2) this.#lose('this node has lost its lease')
    return answer
  }

  #lose(why: string): never {
    this.#isClosed = true
    this.#onLost()
    throw new FinalError(why)
  }

  #forget(): void {
    const since = performance.now() - RECENT_MS
    for (;;) {
      const [first] = this.#recent
      if (!first || first.at > since && this.#recentBytes <= RECENT_BYTES) return
      this.#recentBytes -= first.payload.length
      this.#recent.shift()
    }
  }
}
