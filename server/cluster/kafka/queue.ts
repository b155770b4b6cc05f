/**
 * The queue of history in Kafka: a topic with the owner as key. One batch at a time is on its way to the brokers, the next is collected
 * meanwhile: with more, a broker's death let a later one overtake an earlier one.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { crc32 } from 'node:zlib'
import type { Message, Producer } from 'kafkajs'
import type { Log } from '../../log.ts'
import type { HistoryEntry, HistoryQueue, QueuePlace } from '../shapes.ts'
import { ensureTopic, kafkaClient, type KafkaOptions } from './client.ts'
import { encodeEntry, joinValues } from './entry-codec.ts'

/** Kafka takes batches of 1 MiB for one partition, with what it adds to each message. */
const BATCH_BYTES_MAX = 900_000
const BATCH_MESSAGES_MAX = 20_000
const MESSAGE_OVERHEAD_BYTES = 40
/** A batch that takes longer is a problem to be shown. */
const SLOW_MS = 3_000
/** How long closing waits for what is under way. */
const CLOSE_MS = 5_000
const RETRY_MS = 1_000
/** How long entries are collected for one batch: nobody waits for these, and a batch costs as much as a hundred entries. */
const LINGER_MS = 250
/** Entries of one owner are one message, up to so many bytes: a message costs more than what is in it. */
const JOINED_BYTES_MAX = 65_536

/** What one call of `push` waits for. */
interface Push {
  readonly places: QueuePlace[]
  missing: number
  readonly resolve: (places: readonly QueuePlace[]) => void
  readonly reject: (error: Error) => void
}

interface Waiting {
  readonly owner: string
  readonly value: Buffer
  readonly bytes: number
  readonly push: Push
  readonly index: number
}

export class KafkaQueue implements HistoryQueue {
  readonly #options: KafkaOptions
  readonly #log: Log
  #producer: Producer | undefined
  #partitions = 0
  #waiting: Waiting[] = []
  /** Of `#waiting` the first that is not in a batch. */
  #first = 0
  #sending: readonly Waiting[] = []
  #bytes = 0
  #room: PromiseWithResolvers<void> | undefined
  #pump: Promise<void> | undefined
  #isClosed = false
  /** When the batch under way was begun, by the monotonic clock. */
  #since: number | undefined
  #reason: string | undefined

  constructor(options: KafkaOptions, log: Log) {
    this.#options = options
    this.#log = log
  }

  get bytes(): number { return this.#bytes }

  get problem(): string | undefined {
    if (this.#since === undefined || performance.now() - this.#since < SLOW_MS) return undefined
    return `Kafka has taken nothing for ${Math.floor((performance.now() - this.#since) / 1000)} s${this.#reason === undefined ? '' : `: ${this.#reason}`}`
  }

  push(entries: readonly HistoryEntry[]): Promise<readonly QueuePlace[]> {
    if (this.#isClosed) return Promise.reject(new Error('the queue is closed'))
    if (entries.length === 0) return Promise.resolve([])
    const made = entries.map((entry) => ({ owner: entry.owner, value: encodeEntry(entry) }))
    const tooLarge = made.find(({ owner, value }) => bytesOf(owner, value) > BATCH_BYTES_MAX)
    if (tooLarge !== undefined) return Promise.reject(new RangeError(`an entry of ${tooLarge.value.length} bytes, more than Kafka takes`))
    const { promise, resolve, reject } = Promise.withResolvers<readonly QueuePlace[]>()
    const push: Push = { places: [], missing: made.length, resolve, reject }
    for (const [index, { owner, value }] of made.entries()) {
      const bytes = bytesOf(owner, value)
      this.#bytes += bytes
      this.#waiting.push({ owner, value, bytes, push, index })
    }
    this.#pump ??= this.#run()
    return promise
  }

  room(): Promise<void> | undefined {
    if (this.#bytes < this.#options.backlogBytes) return undefined
    this.#room ??= Promise.withResolvers<void>()
    return this.#room.promise
  }

  /** Connects before the first entry comes, so that a problem shows. */
  open(): void {
    this.#pump ??= this.#run()
  }

  async #run(): Promise<void> {
    try {
      await this.#connected()
      for (;;) {
        if (this.#waiting.length - this.#first < BATCH_MESSAGES_MAX) await sleep(LINGER_MS)
        if (this.#first === this.#waiting.length || this.#isClosed) break
        await this.#deliver(this.#nextBatch())
      }
    } catch (error) {
      if (!this.#isClosed) throw error
    } finally {
      this.#pump = undefined
    }
  }

  /** The next of what waits, as much as Kafka takes at once of each partition; what does not fit stays in order. */
  #nextBatch(): Waiting[] {
    const bytes = Array.from({ length: this.#partitions }, () => 0)
    const end = Math.min(this.#waiting.length, this.#first + BATCH_MESSAGES_MAX)
    let at = this.#first
    for (; at < end; at++) {
      const each = this.#waiting[at] as Waiting
      const partition = this.#partitionOf(each.owner)
      const sum = (bytes[partition] ?? 0) + each.bytes
      if (sum > BATCH_BYTES_MAX) break
      bytes[partition] = sum
    }
    const batch = this.#waiting.slice(this.#first, at)
    this.#first = at
    if (this.#first === this.#waiting.length || this.#first > BATCH_MESSAGES_MAX * 4) {
      this.#waiting = this.#waiting.slice(this.#first)
      this.#first = 0
    }
    return batch
  }

  #partitionOf(owner: string): number {
    return crc32(owner) % this.#partitions
  }

  /** Resolves when the brokers have the batch, or the queue is closed. */
  async #deliver(batch: readonly Waiting[]): Promise<void> {
    const { messages, messageOf } = this.#join(batch)
    this.#sending = batch
    this.#since = performance.now()
    for (;;) {
      try {
        const producer = await this.#connected()
        const answers = await producer.send({ topic: this.#options.topic, acks: -1, messages })
        const next = new Map(answers.map(({ partition, baseOffset }) => [partition, Number(baseOffset)]))
        for (const { partition = 0 } of messages) if (!((next.get(partition) ?? -1) >= 0)) throw new Error(`Kafka did not say where it has the batch of partition ${partition}`)
        this.#since = undefined
        this.#reason = undefined
        this.#sending = []
        this.#done(batch, placesOf(messages, next), messageOf)
        return
      } catch (error) {
        if (this.#isClosed) return
        // The client retries what can be by itself. What it gives up may have got there or not: it goes again, as a batch of another producer.
        this.#reason = (error as Error).message
        this.#log.warn({ what: 'kafka_batch_again', reason: this.#reason, entries: batch.length })
        await this.#disconnect()
        await sleep(RETRY_MS)
      }
    }
  }

  /** As messages, and for each of the batch the number of the message that it is in. */
  #join(batch: readonly Waiting[]): { readonly messages: Message[]; readonly messageOf: readonly number[] } {
    const joined: { readonly owner: string; readonly values: Buffer[]; bytes: number }[] = []
    const latest = new Map<string, number>()
    const messageOf = batch.map(({ owner, value, bytes }) => {
      const at = latest.get(owner)
      const last = at === undefined ? undefined : joined[at]
      if (at !== undefined && last !== undefined && last.bytes + bytes <= JOINED_BYTES_MAX) {
        last.values.push(value)
        last.bytes += bytes
        return at
      }
      latest.set(owner, joined.length)
      return joined.push({ owner, values: [value], bytes }) - 1
    })
    return { messages: joined.map(({ owner, values }) => ({ key: owner, value: joinValues(values), partition: this.#partitionOf(owner) })), messageOf }
  }

  #done(batch: readonly Waiting[], places: readonly QueuePlace[], messageOf: readonly number[]): void {
    for (const [i, { push, index, bytes }] of batch.entries()) {
      push.places[index] = places[messageOf[i] as number] as QueuePlace
      push.missing--
      this.#bytes -= bytes
      if (push.missing === 0) push.resolve(push.places)
    }
    if (this.#bytes < this.#options.backlogBytes) {
      this.#room?.resolve()
      this.#room = undefined
    }
  }

  /** The producer, connected, and the topic there; tried until it succeeds or the queue is closed. */
  async #connected(): Promise<Producer> {
    if (this.#producer !== undefined) return this.#producer
    this.#since ??= performance.now()
    for (;;) {
      if (this.#isClosed) throw new Error('the queue is closed')
      try {
        const kafka = kafkaClient(this.#options, 'tidings', this.#log, (reason) => { this.#reason = reason })
        this.#partitions = await ensureTopic(kafka, this.#options.topic, this.#options.partitions, this.#options.replication)
        const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1, allowAutoTopicCreation: false, createPartitioner: () => ({ message }) => message.partition ?? 0 })
        await producer.connect()
        this.#since = undefined
        this.#producer = producer
        return producer
      } catch (error) {
        this.#reason = (error as Error).message
        this.#log.warn({ what: 'kafka_not_connected', reason: this.#reason })
        await sleep(RETRY_MS)
      }
    }
  }

  async #disconnect(): Promise<void> {
    const producer = this.#producer
    this.#producer = undefined
    await producer?.disconnect().catch((error: Error) => { this.#log.debug({ what: 'kafka_not_disconnected', reason: error.message }) })
  }

  /** Gives what waits some time to get there; the rest is rejected, though some of it may get there still. */
  async [Symbol.asyncDispose](): Promise<void> {
    const late = new AbortController()
    await Promise.race([this.#pump, sleep(CLOSE_MS, undefined, { signal: late.signal }).catch(() => undefined)])
    late.abort()
    this.#isClosed = true
    await Promise.race([this.#disconnect(), sleep(CLOSE_MS, undefined, { ref: false })])
    const closed = new Error('the queue is closed')
    for (const { push } of [...this.#sending, ...this.#waiting.slice(this.#first)]) push.reject(closed)
    this.#room?.resolve()
  }
}

/** Messages of a batch have their offsets in order, in each partition from the first. */
function placesOf(messages: readonly Message[], next: Map<number, number>): QueuePlace[] {
  return messages.map(({ partition = 0 }) => {
    const offset = next.get(partition) as number
    next.set(partition, offset + 1)
    return { partition, offset }
  })
}

function bytesOf(owner: string, value: Buffer): number {
  return owner.length + value.length + MESSAGE_OVERHEAD_BYTES
}
