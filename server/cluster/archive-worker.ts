/**
 * Takes history from the queue and puts it into its store. As many workers as the topic has partitions share the work; offsets are committed
 * after the store has what is before them, so that what a worker had in hand when it was killed is written again, which changes nothing.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Admin, Consumer, EachBatchPayload, Kafka, KafkaMessage, Producer } from 'kafkajs'
import type { Log } from '../log.ts'
import type { CounterMetric, GaugeMetric, HistogramMetric, Metrics } from '../metrics.ts'
import { RefusedError } from './errors.ts'
import { ensureTopic, kafkaClient, type KafkaOptions } from './kafka/client.ts'
import { BadEntry, decodeEntries } from './kafka/entry-codec.ts'
import type { HistoryChange, HistoryEntry, HistoryProgress, HistoryStore } from './shapes.ts'

/** A fetch answers when it has so much, or after so long: nobody waits for a few messages, and a batch of few costs as much as one of hundreds. */
const FETCH_BYTES_MIN = 1_048_576
const FETCH_WAIT_MS = 1000
const FETCH_PARTITION_BYTES = 4_194_304
const FETCH_BYTES_MAX = 16_777_216
/** The store is given so many at once. */
const CHANGES_AT_ONCE = 2000
/** Batches of so many partitions are written at once. */
const PARTITIONS_AT_ONCE = 4
/** A worker that has not been heard for so long has lost its partitions. */
const SESSION_MS = 10_000
const HEARTBEAT_MS = 2_000
const RETRY_MS = 500
const RETRY_MAX_MS = 10_000
/** How often lag is measured and progress told again. */
const REVIEW_MS = 5_000
/** How often what the store has had for as long is removed from the topic. */
const TRIM_MS = 600_000
const CONSUMER_RETRIES = 8

export interface ArchiveWorkerOptions {
  readonly kafka: KafkaOptions
  readonly store: Pick<HistoryStore, 'write' | 'purge'>
  readonly progress: Pick<HistoryProgress, 'publish'>
  readonly log: Log
  readonly metrics: Metrics
}

export interface ArchiveWorkerHealth {
  readonly healthy: boolean
  readonly role: 'archive-worker'
  readonly partitions: readonly number[]
  /** Messages of these partitions that the store does not have yet. */
  readonly lag: number
  readonly problem?: string
}

/** What a batch's entries are written as: changes together, a purge by itself, in their order. */
type Step = { readonly changes: HistoryChange[]; readonly messages: KafkaMessage[] } | { readonly purge: Exclude<HistoryEntry, HistoryChange>; readonly message: KafkaMessage }

interface PartitionState {
  /** The store has everything below. */
  done: number
  /** The topic's end when it was last heard of. */
  end: number
}

export class ArchiveWorker {
  readonly #options: ArchiveWorkerOptions
  readonly #log: Log
  readonly #kafka: Kafka
  readonly #partitions = new Map<number, PartitionState>()
  readonly #written: CounterMetric
  readonly #batches: CounterMetric
  readonly #poison: CounterMetric
  readonly #failures: CounterMetric
  readonly #lag: GaugeMetric
  readonly #seconds: HistogramMetric
  #consumer: Consumer | undefined
  #admin: Admin | undefined
  #aside: Producer | undefined
  #timer: NodeJS.Timeout | undefined
  #reviewing: Promise<void> | undefined
  #stopping = false
  /** By what: why it does not work at present. */
  readonly #problems = new Map<string, string>()
  #trimmed = performance.now()
  #trimTo: ReadonlyMap<number, number> = new Map()

  private constructor(options: ArchiveWorkerOptions) {
    this.#options = options
    this.#log = options.log
    this.#kafka = kafkaClient(options.kafka, 'tidings-archive-worker', options.log)
    const { metrics } = options
    this.#written = metrics.counter('tidings_archive_worker_messages_total', 'Changes of history that the store has taken.')
    this.#batches = metrics.counter('tidings_archive_worker_batches_total', 'Batches of them.')
    this.#poison = metrics.counter('tidings_archive_worker_poison_total', 'Messages set aside, as nobody can read them or the store refuses them for good.')
    this.#failures = metrics.counter('tidings_archive_worker_failures_total', 'Batches that the store did not take, to be tried again.')
    this.#lag = metrics.gauge('tidings_archive_worker_lag', 'Messages of a partition that the store does not have yet.', ['partition'])
    this.#seconds = metrics.histogram('tidings_archive_worker_write_seconds', 'How long the store takes for a batch.', [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10])
  }

  /** Resolves when it works; waits for Kafka while that is away. */
  static async start(options: ArchiveWorkerOptions): Promise<ArchiveWorker> {
    const worker = new ArchiveWorker(options)
    await worker.#start()
    worker.#timer = setInterval(() => { worker.#reviewing ??= worker.#review().finally(() => { worker.#reviewing = undefined }) }, REVIEW_MS)
    return worker
  }

  health(): ArchiveWorkerHealth {
    const [problem] = this.#problems.values()
    return {
      healthy: problem === undefined,
      role: 'archive-worker',
      partitions: [...this.#partitions.keys()].sort((a, b) => a - b),
      lag: [...this.#partitions.values()].reduce((sum, { done, end }) => sum + Math.max(0, end - done), 0),
      ...problem === undefined ? {} : { problem },
    }
  }

  /** Ends what is in hand, gives its partitions to the others at once, and resolves. */
  async stop(): Promise<void> {
    this.#stopping = true
    clearInterval(this.#timer)
    await this.#consumer?.disconnect()
    await this.#reviewing
    await this.#admin?.disconnect()
    await this.#aside?.disconnect()
  }

  async #start(): Promise<void> {
    const { kafka } = this.#options
    for (;;) {
      try {
        await ensureTopic(this.#kafka, kafka.topic, kafka.partitions, kafka.replication)
        await this.#consume()
        this.#problems.delete('kafka')
        return
      } catch (error) {
        if (this.#stopping) return
        this.#trouble('kafka', error)
        await this.#consumer?.disconnect().catch(() => undefined)
        await sleep(RETRY_MS)
      }
    }
  }

  async #consume(): Promise<void> {
    const { kafka } = this.#options
    const consumer = this.#kafka.consumer({
      groupId: kafka.group,
      sessionTimeout: SESSION_MS,
      rebalanceTimeout: SESSION_MS,
      heartbeatInterval: HEARTBEAT_MS,
      minBytes: FETCH_BYTES_MIN,
      maxWaitTimeInMs: FETCH_WAIT_MS,
      maxBytesPerPartition: FETCH_PARTITION_BYTES,
      maxBytes: FETCH_BYTES_MAX,
      allowAutoTopicCreation: false,
      retry: { retries: CONSUMER_RETRIES, initialRetryTime: 100, maxRetryTime: 2_000, restartOnFailure: () => Promise.resolve(!this.#stopping) },
    })
    this.#consumer = consumer
    consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
      this.#problems.delete('kafka')
      this.#assigned(payload.memberAssignment[kafka.topic] ?? [])
    })
    consumer.on(consumer.events.CRASH, ({ payload }) => {
      this.#trouble('kafka', payload.error)
      // It does not start again by itself after what it takes for final.
      if (!payload.restart && !this.#stopping) {
        void sleep(RETRY_MS).then(async () => { if (!this.#stopping && this.#consumer === consumer) await this.#start() })
      }
    })
    await consumer.connect()
    await consumer.subscribe({ topic: kafka.topic, fromBeginning: true })
    await consumer.run({ autoCommit: false, eachBatchAutoResolve: false, partitionsConsumedConcurrently: PARTITIONS_AT_ONCE, eachBatch: (payload) => this.#take(payload) })
  }

  #assigned(partitions: readonly number[]): void {
    for (const partition of this.#partitions.keys()) {
      if (partitions.includes(partition)) continue
      this.#partitions.delete(partition)
      this.#lag.set(0, { partition: String(partition) })
    }
    this.#log.info({ what: 'archive_worker_assigned', partitions: [...partitions] })
    for (const partition of partitions) if (!this.#partitions.has(partition)) this.#partitions.set(partition, { done: 0, end: 0 })
    this.#reviewing ??= this.#review().finally(() => { this.#reviewing = undefined })
  }

  async #take(payload: EachBatchPayload): Promise<void> {
    const { batch } = payload
    const { topic, partition, messages } = batch
    const last = messages.at(-1)
    if (last === undefined) return
    // The group must hear from us while the store takes its time; when it has given the partition to another, that one writes this batch too.
    let lost: { readonly error: unknown } | undefined
    const beating = setInterval(() => { payload.heartbeat().catch((error: unknown) => { lost ??= { error } }) }, HEARTBEAT_MS)
    const isOurs = (): boolean => payload.isRunning() && !payload.isStale() && lost === undefined
    try {
      const done = await this.#write(partition, messages, isOurs)
      if (lost !== undefined) throw lost.error
      if (!done) return
      const next = Number(last.offset) + 1
      payload.resolveOffset(last.offset)
      await payload.commitOffsetsIfNecessary({ topics: [{ topic, partitions: [{ partition, offset: String(next) }] }] })
      this.#batches.inc()
      const state = this.#partitions.get(partition)
      if (state !== undefined) {
        state.done = next
        state.end = Math.max(next, Number(batch.highWatermark))
        this.#setLag(partition)
      }
      await this.#publish(new Map([[partition, next]]))
    } finally {
      clearInterval(beating)
    }
  }

  /** Resolves with true when the store has all messages, or those that it can have; with false when another is to write them. */
  async #write(partition: number, messages: readonly KafkaMessage[], isOurs: () => boolean): Promise<boolean> {
    for (const step of stepsOf(messages)) {
      const done = 'reason' in step ? await this.#setAside(partition, step.message, step.reason, isOurs) : await this.#writeStep(partition, step, isOurs)
      if (!done) return false
    }
    return true
  }

  async #writeStep(partition: number, step: Step, isOurs: () => boolean): Promise<boolean> {
    const { store } = this.#options
    for (let wait = RETRY_MS; isOurs(); wait = Math.min(wait * 2, RETRY_MAX_MS)) {
      const from = performance.now()
      try {
        if ('purge' in step) await store.purge(step.purge.owner, step.purge.before, step.purge.version)
        else await store.write(step.changes)
        this.#seconds.observe((performance.now() - from) / 1000)
        this.#written.inc('purge' in step ? 1 : step.changes.length)
        this.#problems.delete('store')
        return true
      } catch (error) {
        if (error instanceof RefusedError) return await this.#writeWithout(partition, step, error, isOurs)
        this.#failures.inc()
        this.#trouble('store', error)
        await until(wait, isOurs)
      }
    }
    return false
  }

  /** Finds what the store refuses by halves, and sets it aside. */
  async #writeWithout(partition: number, step: Step, error: RefusedError, isOurs: () => boolean): Promise<boolean> {
    if ('purge' in step) return await this.#setAside(partition, step.message, error.message, isOurs)
    const [message] = step.messages
    if (step.changes.length === 1 && message !== undefined) return await this.#setAside(partition, message, error.message, isOurs)
    const middle = step.changes.length >> 1
    for (const [from, to] of [[0, middle], [middle, step.changes.length]] as const) {
      const half = { changes: step.changes.slice(from, to), messages: step.messages.slice(from, to) }
      if (!(await this.#writeStep(partition, half, isOurs))) return false
    }
    return true
  }

  /** Puts a message, as it is, into the topic for those that nobody can use. */
  async #setAside(partition: number, message: KafkaMessage, reason: string, isOurs: () => boolean): Promise<boolean> {
    const { kafka } = this.#options
    const topic = `${kafka.topic}.poison`
    for (let wait = RETRY_MS; isOurs(); wait = Math.min(wait * 2, RETRY_MAX_MS)) {
      try {
        if (this.#aside === undefined) {
          await ensureTopic(this.#kafka, topic, 1, kafka.replication)
          const producer = this.#kafka.producer({ idempotent: true, maxInFlightRequests: 1, allowAutoTopicCreation: false, createPartitioner: () => () => 0 })
          await producer.connect()
          this.#aside = producer
        }
        const headers = { ...message.headers, partition: String(partition), offset: message.offset, reason }
        await this.#aside.send({ topic, acks: -1, messages: [{ key: message.key, value: message.value, headers }] })
        this.#poison.inc()
        this.#log.error({ what: 'archive_worker_poison', partition, offset: message.offset, bytes: message.value?.length ?? 0, reason, topic })
        return true
      } catch (error) {
        this.#trouble('poison', error)
        await until(wait, isOurs)
      }
    }
    return false
  }

  async #publish(done: ReadonlyMap<number, number>): Promise<void> {
    if (done.size === 0) return
    try {
      await this.#options.progress.publish(done)
      this.#problems.delete('progress')
    } catch (error) {
      // It is told again at the next review.
      this.#trouble('progress', error)
    }
  }

  /** Measures lag; tells progress again, also of partitions where nothing happens. */
  async #review(): Promise<void> {
    const { topic, group } = this.#options.kafka
    try {
      if (this.#admin === undefined) {
        const admin = this.#kafka.admin()
        await admin.connect()
        this.#admin = admin
      }
      const [ends, committed] = await Promise.all([this.#admin.fetchTopicOffsets(topic), this.#admin.fetchOffsets({ groupId: group, topics: [topic] })])
      const done = new Map((committed[0]?.partitions ?? []).map(({ partition, offset }) => [partition, Math.max(0, Number(offset))]))
      for (const { partition, high } of ends) {
        const state = this.#partitions.get(partition)
        if (state === undefined) continue
        state.done = Math.max(state.done, done.get(partition) ?? 0)
        state.end = Math.max(state.end, Number(high))
        this.#setLag(partition)
      }
      await this.#publish(new Map([...this.#partitions].map(([partition, state]) => [partition, state.done])))
      await this.#trim(this.#admin)
      this.#problems.delete('review')
    } catch (error) {
      if (this.#stopping) return
      this.#trouble('review', error)
      const admin = this.#admin
      this.#admin = undefined
      await admin?.disconnect().catch(() => undefined)
    }
  }

  /** Removes from the topic what the store has had for a while: it keeps everything until then. */
  async #trim(admin: Admin): Promise<void> {
    if (performance.now() - this.#trimmed < TRIM_MS) return
    this.#trimmed = performance.now()
    const partitions = [...this.#trimTo].filter(([partition, offset]) => offset > 0 && this.#partitions.has(partition))
    this.#trimTo = new Map([...this.#partitions].map(([partition, { done }]) => [partition, done]))
    if (partitions.length === 0) return
    await admin.deleteTopicRecords({ topic: this.#options.kafka.topic, partitions: partitions.map(([partition, offset]) => ({ partition, offset: String(offset) })) })
  }

  #setLag(partition: number): void {
    const state = this.#partitions.get(partition)
    if (state !== undefined) this.#lag.set(Math.max(0, state.end - state.done), { partition: String(partition) })
  }

  /** Shown in /health until it is over; logged once. */
  #trouble(where: string, error: unknown): void {
    const reason = `${where}: ${error instanceof Error ? error.message : String(error)}`
    if (this.#problems.get(where) !== reason) this.#log.warn({ what: 'archive_worker_problem', where, reason })
    this.#problems.set(where, reason)
  }
}

/** What is to be done, in the order of the messages. They are read as it goes on: what is in memory for long is copied again and again. */
function* stepsOf(messages: readonly KafkaMessage[]): Generator<Step | { readonly message: KafkaMessage; readonly reason: string }> {
  let changes: HistoryChange[] = []
  let from: KafkaMessage[] = []
  for (const message of messages) {
    let entries: readonly HistoryEntry[] = []
    let reason = ''
    try {
      entries = decodeEntries(message.key, message.value)
    } catch (error) {
      if (!(error instanceof BadEntry)) throw error
      reason = error.message
    }
    for (const entry of entries) {
      if (!('purge' in entry)) {
        changes.push(entry)
        from.push(message)
        if (changes.length < CHANGES_AT_ONCE) continue
      }
      if (changes.length > 0) yield { changes, messages: from }
      changes = []
      from = []
      if ('purge' in entry) yield { purge: entry, message }
    }
    if (entries.length === 0) yield { message, reason }
  }
  if (changes.length > 0) yield { changes, messages: from }
}

/** Waits, but not longer than the work is ours. */
async function until(ms: number, isOurs: () => boolean): Promise<void> {
  const end = performance.now() + ms
  while (isOurs() && performance.now() < end) await sleep(Math.min(100, ms))
}
