/** A node's inbox as a Redis Stream, read on a connection of its own. */
import { once } from 'node:events'
import { type Parcel } from '../shapes.ts'
import { type Client, type Commander, openClient, pause, type RedisConnection } from './connect.ts'
import { type NodeKeys } from './keys.ts'
import { TAKE_OUT } from './scripts.ts'

const BLOCK_MS = 2000
const GRACE_MS = 2000
const ENTRIES_AT_ONCE = 64
/** What is handed out and not done; beyond this nothing more is read. */
const BYTES_MAX = 16 * 1024 * 1024
const RETRY_MS = 200
const DONE_AT_ONCE = 500
const DONE_EVERY_MS = 100
/** The least time between two reads, unless there is nothing for as long: each costs as much as several stanzas. */
const READ_EVERY_MS = 8

/** Somebody who waits until the entry with this id has been handed out. */
interface Waiting {
  readonly id: string
  readonly resolve: () => void
}

export class Inbox {
  readonly #connection: RedisConnection
  readonly #commander: Commander
  readonly #keys: NodeKeys
  readonly #onProblem: (problem: string | undefined) => void
  /** Entries handed out and not removed, with their sizes. */
  readonly #open = new Map<string, number>()
  #bytes = 0
  #done: string[] = []
  #removing: Promise<void> | undefined
  #client: Client | undefined
  #reading: Promise<void> | undefined
  #hasRoom: (() => void) | undefined
  /** Id of the entry read last. */
  #after = '0'
  #waiting: readonly Waiting[] = []
  #looking: Promise<void> | undefined
  #isClosed = false

  constructor(connection: RedisConnection, commander: Commander, keys: NodeKeys, onProblem: (problem: string | undefined) => void) {
    this.#connection = connection
    this.#commander = commander
    this.#keys = keys
    this.#onProblem = onProblem
  }

  receive(handler: (parcel: Parcel, done: () => void) => void): void {
    if (this.#reading || this.#isClosed) return
    this.#client = openClient(this.#connection, BLOCK_MS + GRACE_MS)
    this.#reading = this.#read(this.#client, handler)
  }

  /** As of a Membership. */
  caughtUp(): Promise<void> {
    // Those who ask in the same turn are answered together.
    return (this.#looking ??= Promise.resolve().then(() => {
      this.#looking = undefined
      return this.#catchUp()
    }))
  }

  /** What is done is removed still. */
  async close(): Promise<void> {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#hasRoom?.()
    this.#caughtUp()
    this.#client?.disconnect()
    await this.#reading
    await this.#removing
  }

  async #read(client: Client, handler: (parcel: Parcel, done: () => void) => void): Promise<void> {
    let readAt = 0
    await connected(client)
    while (!this.#isClosed) {
      if (this.#bytes > BYTES_MAX && this.#waiting.length === 0) {
        await new Promise<void>((resolve) => { this.#hasRoom = resolve })
        continue
      }
      try {
        readAt = performance.now()
        const waiting = this.#waiting
        const answer = await client.xreadBuffer('COUNT', ENTRIES_AT_ONCE, 'BLOCK', BLOCK_MS, 'STREAMS', this.#keys.inbox, this.#after) as [Buffer, [Buffer, Buffer[]][]][] | null
        this.#onProblem(undefined)
        for (const [id, flat] of answer?.[0]?.[1] ?? []) {
          const after = id.toString()
          this.#after = after
          if (!this.#isClosed && !this.#open.has(after)) this.#handOut(after, buffersOf(flat), handler)
        }
        // An entry that is not there any more was handed out before this connection began.
        if (answer === null) this.#caughtUp(waiting)
        else this.#caughtUp()
        const early = READ_EVERY_MS - (performance.now() - readAt)
        if (early > 0.5) await pause(early)
      } catch (error) {
        if (this.#isClosed) return
        this.#onProblem(`Redis: ${(error as Error).message}`)
        if (/timed out/i.test((error as Error).message)) client.disconnect(true)
        // What has taken its place may count otherwise: from the beginning, without what is handed out.
        this.#after = '0'
        await pause(RETRY_MS)
      }
    }
  }

  /** Waits until the last entry that is there now has been handed out. */
  async #catchUp(): Promise<void> {
    const last = await this.#commander.persist(() => this.#commander.client.xrevrange(this.#keys.inbox, '+', '-', 'COUNT', 1))
    const id = last[0]?.[0]
    if (id === undefined || this.#isClosed || this.#open.has(id) || !isLater(id, this.#after)) return
    await new Promise<void>((resolve) => {
      this.#waiting = [...this.#waiting, { id, resolve }]
      this.#hasRoom?.()
    })
  }

  #caughtUp(known: readonly Waiting[] = []): void {
    if (this.#waiting.length === 0) return
    const isOver = (one: Waiting): boolean => this.#isClosed || known.includes(one) || !isLater(one.id, this.#after)
    const over = this.#waiting.filter(isOver)
    this.#waiting = this.#waiting.filter((one) => !over.includes(one))
    for (const { resolve } of over) resolve()
  }

  #handOut(id: string, fields: ReadonlyMap<string, Buffer>, handler: (parcel: Parcel, done: () => void) => void): void {
    const bytes = 200 + (fields.get('p')?.length ?? 0)
    this.#open.set(id, bytes)
    this.#bytes += bytes
    let isDone = false
    handler(parcelOf(fields), () => {
      if (isDone) return
      isDone = true
      this.#done.push(id)
      this.#removing ??= this.#remove().finally(() => { this.#removing = undefined })
    })
  }

  async #remove(): Promise<void> {
    await pause(DONE_EVERY_MS)
    while (this.#done.length > 0) {
      const ids = this.#done.splice(0, DONE_AT_ONCE)
      const { node, fence, inbox } = this.#keys
      // What cannot be removed comes again after a restart, and is known then.
      await this.#commander.persist(() => this.#commander.run(TAKE_OUT, [node, fence, inbox], ids)).catch(() => undefined)
      for (const id of ids) {
        this.#bytes -= this.#open.get(id) ?? 0
        this.#open.delete(id)
      }
      if (this.#bytes <= BYTES_MAX) this.#hasRoom?.()
    }
  }
}

/** Whether an entry of a stream comes after another. */
function isLater(id: string, other: string): boolean {
  const [ms = 0, count = 0] = id.split('-').map(Number)
  const [otherMs = 0, otherCount = 0] = other.split('-').map(Number)
  return ms > otherMs || (ms === otherMs && count > otherCount)
}

/** Waits for a client that is connecting, but not long: a server that is away is a problem to be shown. */
export async function connected(client: Client): Promise<void> {
  if (client.status === 'ready') return
  const late = new AbortController()
  await Promise.race([once(client, 'ready', { signal: late.signal }).catch(() => undefined), pause(GRACE_MS)])
  late.abort()
}

/** Pieces one after the other, each after its length (4 bytes). */
export function packPieces(pieces: readonly Buffer[]): Buffer {
  const parts: Buffer[] = []
  for (const piece of pieces) {
    const length = Buffer.allocUnsafe(4)
    length.writeUInt32BE(piece.length)
    parts.push(length, piece)
  }
  return Buffer.concat(parts)
}

export function parcelOf(fields: ReadonlyMap<string, Buffer>): Parcel {
  const packed = fields.get('p') ?? Buffer.alloc(0)
  const pieces: Buffer[] = []
  for (let at = 0; at < packed.length;) {
    const end = at + 4 + packed.readUInt32BE(at)
    pieces.push(packed.subarray(at + 4, end))
    at = end
  }
  return { source: fields.get('s')?.toString() ?? '', first: Number(fields.get('f')?.toString()), pieces }
}

/** Fields and values of an entry, as Redis answers them. */
export function buffersOf(flat: readonly Buffer[]): Map<string, Buffer> {
  const map = new Map<string, Buffer>()
  for (let i = 0; i < flat.length; i += 2) map.set((flat[i] as Buffer).toString(), flat[i + 1] as Buffer)
  return map
}
