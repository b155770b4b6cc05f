/**
 * Streams of the loaded units, as rows under their owners. A stanza that is acknowledged before the log turns over never leaves the log.
 *
 *     q owner 0 id 0 m       -> resource and state
 *     q owner 0 id 0 n       -> handled, acknowledged (4 bytes each)
 *     q owner 0 id 0 p index -> outbound count (4 bytes), stanza
 */
import { encodePart, type OrderedStore } from '../storage/ordered.ts'
import { packValue, unpackValue } from '../storage/records.ts'
import { type StoredStream, type StreamStore, type Value } from '../storage/shapes.ts'
import { isAtOrBefore } from '../storage/streams.ts'

interface Push {
  readonly key: string
  readonly seq: number
  readonly bytes: Buffer
}

interface OpenStream {
  readonly id: string
  readonly owner: string
  readonly resource: string
  readonly prefix: string
  readonly seenAt: number
  state: Value
  handled: number
  acknowledged: number
  queue: Push[]
  /** Index of the next push among all of the stream. */
  next: number
}

const INDEX_DIGITS = 12
const SEQ_SPACE = Buffer.alloc(4)

export class UnitStreams implements StreamStore {
  readonly #store: OrderedStore
  readonly #byId = new Map<string, OpenStream>()

  constructor(store: OrderedStore) { this.#store = store }

  open(id: string, owner: string, resource: string, state: Value): void {
    this.close(id)
    const stream: OpenStream = {
      id, owner, resource, prefix: prefixOf(owner, id), seenAt: 0, state: null, handled: 0, acknowledged: 0, queue: [], next: 0,
    }
    this.#writeState(stream, state)
    this.#byId.set(id, stream)
  }

  state(id: string, state: Value): void {
    const stream = this.#byId.get(id)
    if (stream) this.#writeState(stream, state)
  }

  handled(id: string, h: number): void {
    const stream = this.#byId.get(id)
    if (!stream) return
    stream.handled = h
    this.#writeCounters(stream)
  }

  push(id: string, seq: number, ...parts: readonly Buffer[]): void {
    const stream = this.#byId.get(id)
    if (!stream) return
    const key = `${stream.prefix}p${stream.next.toString(16).padStart(INDEX_DIGITS, '0')}`
    const row = Buffer.concat([SEQ_SPACE, ...parts])
    row.writeUInt32BE(seq, 0)
    this.#store.putNew(key, row)
    stream.next++
    stream.queue.push({ key, seq, bytes: row.subarray(4) })
  }

  acknowledged(id: string, seq: number): void {
    const stream = this.#byId.get(id)
    if (!stream) return
    stream.acknowledged = seq
    const { queue } = stream
    let drop = 0
    for (let push = queue[0]; push && isAtOrBefore(push.seq, seq); push = queue[++drop]) this.#store.delete(push.key)
    if (drop > 0) queue.splice(0, drop)
    this.#writeCounters(stream)
  }

  close(id: string): void {
    const stream = this.#byId.get(id)
    if (!stream) return
    this.#byId.delete(id)
    for (const { key } of stream.queue) this.#store.delete(key)
    this.#store.delete(`${stream.prefix}m`)
    this.#store.delete(`${stream.prefix}n`)
  }

  /** Those of the units that are loaded. */
  load(): readonly StoredStream[] { return Array.from(this.#byId.values(), stored) }

  /** Takes on the streams among a unit's rows, which were last served at `seenAt` (ms), and answers them. */
  restore(owner: string, rows: readonly { readonly key: string; readonly value: Buffer }[], seenAt: number): readonly StoredStream[] {
    const start = `q${encodePart(owner)}`
    const found = new Map<string, OpenStream>()
    for (const { key, value } of rows.filter((row) => row.key.startsWith(start)).sort((a, b) => (a.key < b.key ? -1 : 1))) {
      const end = key.indexOf('\0', start.length) + 1
      const prefix = key.slice(0, end)
      const kind = key[end]
      if (kind === 'm') {
        const [id, resource, state] = unpackValue(value) as readonly [string, string, Value]
        found.set(prefix, { id, owner, resource, prefix, seenAt, state, handled: 0, acknowledged: 0, queue: [], next: 0 })
      }
      // Without the first of its rows it has been closed.
      const stream = found.get(prefix)
      if (!stream) continue
      if (kind === 'n') {
        stream.handled = value.readUInt32BE(0)
        stream.acknowledged = value.readUInt32BE(4)
      } else if (kind === 'p') {
        stream.queue.push({ key, seq: value.readUInt32BE(0), bytes: value.subarray(4) })
        stream.next = Number.parseInt(key.slice(end + 1), 16) + 1
      }
    }
    for (const stream of found.values()) this.#byId.set(stream.id, stream)
    return Array.from(found.values(), stored)
  }

  /** The owner is given up. */
  forget(owner: string): void {
    for (const stream of this.#byId.values()) if (stream.owner === owner) this.#byId.delete(stream.id)
  }

  #writeState(stream: OpenStream, state: Value): void {
    const row = packValue([stream.id, stream.resource, state])
    this.#store.put(`${stream.prefix}m`, row)
    // Later changes of the object do not reach it.
    stream.state = (unpackValue(row) as readonly Value[])[2] as Value
  }

  #writeCounters({ prefix, handled, acknowledged }: OpenStream): void {
    const row = Buffer.allocUnsafe(8)
    row.writeUInt32BE(handled, 0)
    row.writeUInt32BE(acknowledged, 4)
    this.#store.put(`${prefix}n`, row)
  }
}

function prefixOf(owner: string, id: string): string {
  return `q${encodePart(owner)}${encodePart(id)}`
}

function stored(stream: OpenStream): StoredStream {
  const { id, owner, resource, state, handled, acknowledged, queue, seenAt } = stream
  return { id, owner, resource, state, handled, acknowledged, unacknowledged: queue.map(({ seq, bytes }) => ({ seq, bytes })), seenAt: seenAt || Date.now() }
}
