/** Open streams in memory, as a driver mirrors them. */
import { packValue, unpackValue } from './records.ts'
import { type StoredStream, type Value } from './shapes.ts'

export interface QueuedPush {
  readonly seq: number
  /** The stanza, as it was pushed. */
  readonly parts: readonly Buffer[]
}

export interface OpenStream {
  /** What the journal calls it. */
  readonly number: number
  /** Counts its changes, as the journal writes them. */
  revision: number
  readonly id: string
  readonly owner: string
  readonly resource: string
  /** The state serialised, so that later changes of the object do not reach it. */
  state: Buffer
  handled: number
  acknowledged: number
  queue: QueuedPush[]
}

/** Whether `seq` comes at or before `bound`, both counted modulo 2^32 (XEP-0198 §4). */
export function isAtOrBefore(seq: number, bound: number): boolean {
  return ((bound - seq) >>> 0) < 0x8000_0000
}

/** Removes the acknowledged ones from the front. */
export function dropAcknowledged(queue: QueuedPush[], seq: number): void {
  let drop = 0
  while (drop < queue.length && isAtOrBefore((queue[drop] as QueuedPush).seq, seq)) drop++
  if (drop === 1) queue.shift()
  else if (drop > 0) queue.splice(0, drop)
}

export class StreamTable {
  readonly #byId = new Map<string, OpenStream>()
  #lastNumber = 0

  get size(): number { return this.#byId.size }

  get(id: string): OpenStream | undefined { return this.#byId.get(id) }

  all(): Iterable<OpenStream> { return this.#byId.values() }

  open(id: string, owner: string, resource: string, state: Value): OpenStream {
    return this.restore({
      number: this.#lastNumber + 1, revision: 0, id, owner, resource, state: packValue(state), handled: 0, acknowledged: 0, queue: [],
    })
  }

  restore(stream: OpenStream): OpenStream {
    this.#lastNumber = Math.max(this.#lastNumber, stream.number)
    this.#byId.set(stream.id, stream)
    return stream
  }

  state(id: string, state: Value): void {
    const stream = this.#byId.get(id)
    if (stream) stream.state = packValue(state)
  }

  handled(id: string, h: number): void {
    const stream = this.#byId.get(id)
    if (stream) stream.handled = h
  }

  push(id: string, seq: number, ...parts: readonly Buffer[]): void {
    this.#byId.get(id)?.queue.push({ seq, parts })
  }

  acknowledged(id: string, seq: number): void {
    const stream = this.#byId.get(id)
    if (!stream) return
    stream.acknowledged = seq
    dropAcknowledged(stream.queue, seq)
  }

  close(id: string): void {
    this.#byId.delete(id)
  }

  stored(seenAt: number): StoredStream[] {
    return Array.from(this.#byId.values(), (stream) => ({
      id: stream.id, owner: stream.owner, resource: stream.resource, state: unpackValue(stream.state),
      handled: stream.handled, unacknowledged: stream.queue.map(({ seq, parts }) => ({ seq, bytes: Buffer.concat(parts) })), acknowledged: stream.acknowledged, seenAt,
    }))
  }
}
