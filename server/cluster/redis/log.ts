/**
 * A node's log as a Redis Stream. The id of an entry is the record's segment and number, so a record is there once however often it
 * is appended. The latest records are kept here as well: when a replica becomes the primary that did not have the last ones, these are appended again.
 */
import { HEADER_BYTES, type Log } from '../../storage/groups/log.ts'
import { type Commander, FinalError } from './connect.ts'
import { type NodeKeys } from './keys.ts'
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

export class RedisLog implements Log {
  readonly #commander: Commander
  readonly #keys: NodeKeys
  readonly #onLost: () => void
  readonly #recent: Recent[] = []
  #recentBytes = 0
  #segment = 1
  #record = 0
  #bytes = 0
  #isClosed = false
  #appending: Promise<void> | undefined

  /** `onLost`: it takes nothing any more, or has lost what it had. */
  constructor(commander: Commander, keys: NodeKeys, onLost: () => void) {
    this.#commander = commander
    this.#keys = keys
    this.#onLost = onLost
  }

  get bytes(): number { return this.#bytes }

  append(buffer: Buffer, payloadBytes: number, lastIdMs: number): Promise<void> {
    if (this.#isClosed) return Promise.reject(new Error('the log is closed'))
    this.#appending = this.#append(buffer.subarray(HEADER_BYTES, HEADER_BYTES + payloadBytes), lastIdMs)
    return this.#appending
  }

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

  async #append(payload: Buffer, lastIdMs: number): Promise<void> {
    const number = this.#record + 1
    const id = `${this.#segment}-${number}`
    let last = await this.#send(number, id, lastIdMs, payload)
    while (last !== -1) {
      const next = this.#recent.find((record) => record.number === last + 1)
      if (!next) return this.#lose(`Redis has lost records of the log after ${last}`)
      last = await this.#send(next.number, next.id, next.lastIdMs, next.payload)
      if (last !== -1) continue
      last = next.number < number - 1 ? next.number : await this.#send(number, id, lastIdMs, payload)
    }
    this.#record = number
    this.#bytes += payload.length
    // The buffer is used again.
    this.#recent.push({ number, id, lastIdMs, payload: Buffer.from(payload), at: performance.now() })
    this.#recentBytes += payload.length
    this.#forget()
  }

  /** -1, or the last record that is there when some before this one are not. */
  async #send(number: number, id: string, lastIdMs: number, payload: Buffer): Promise<number> {
    const { node, fence, at, log } = this.#keys
    const answer = Number(await this.#commander.run(APPEND, [node, fence, at, log], [number, id, lastIdMs, payload]))
    if (answer === -2) this.#lose('this node has lost its lease')
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
