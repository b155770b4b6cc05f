import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'chai'
import { type Kafka, sharedKafka, startKafka } from '../../services/services.ts'
import { createLog } from '../log.ts'
import { createMetrics } from '../metrics.ts'
import { MemoryHistory } from '../storage/memory/history.ts'
import { ArchiveWorker } from './archive-worker.ts'
import { RefusedError } from './errors.ts'
import { kafkaClient, type KafkaOptions } from './kafka/client.ts'
import { KafkaQueue } from './kafka/queue.ts'
import type { HistoryChange, HistoryEntry, HistoryProgress, QueuePlace } from './shapes.ts'

const log = createLog('silent')
const OWNERS = Array.from({ length: 12 }, (_, i) => `user${i}@example.org`)

function optionsOf(kafka: Kafka): KafkaOptions {
  const name = crypto.randomUUID()
  return { brokers: kafka.brokers, topic: `archive-${name}`, partitions: 4, replication: 1, backlogBytes: 10_000_000, group: `worker-${name}`, tls: undefined, sasl: undefined }
}

function change(n: number, owner = OWNERS[n % OWNERS.length] as string): HistoryChange {
  return { owner, id: String(n).padStart(12, '0'), with: 'other@example.org', bytes: Buffer.from(`<message>${n}</message>`), version: n }
}

class MemoryProgress implements HistoryProgress {
  readonly done = new Map<number, number>()

  publish(done: ReadonlyMap<number, number>): Promise<void> {
    for (const [partition, offset] of done) this.done.set(partition, Math.max(offset, this.done.get(partition) ?? 0))
    return Promise.resolve()
  }

  read(): Promise<ReadonlyMap<number, number>> { return Promise.resolve(this.done) }
  [Symbol.asyncDispose](): Promise<void> { return Promise.resolve() }
}

/** Everything of all owners, as numbers. */
async function numbersIn(store: MemoryHistory): Promise<number[]> {
  const pages = await Promise.all(OWNERS.map((owner) => store.query(owner, { max: 1_000_000, direction: 'forward' })))
  return pages.flatMap(({ items }) => items.map(({ id, bytes }) => {
    expect(bytes.toString()).to.equal(`<message>${Number(id)}</message>`)
    return Number(id)
  })).sort((a, b) => a - b)
}

async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) await sleep(50)
}

/** Resolves when the store has what is at the places. */
async function reached(progress: MemoryProgress, places: readonly (QueuePlace | undefined)[]): Promise<void> {
  await until(() => places.every((place) => (progress.done.get(place?.partition ?? 0) ?? 0) > (place?.offset ?? 0)))
}

/** Changes of an owner that wait together are one message. */
function messagesAt(places: readonly (QueuePlace | undefined)[]): number {
  return new Set(places.map((place) => `${place?.partition} ${place?.offset}`)).size
}

function counterIn(text: string, name: string): number {
  return Number(new RegExp(`^${name} (\\d+)`, 'm').exec(text)?.[1])
}

describe('worker of history', () => {
  it('puts what is in the queue into the store, tells how far it is, and begins after it when it starts anew', async () => {
    const kafka = optionsOf(await sharedKafka())
    const store = new MemoryHistory()
    const progress = new MemoryProgress()
    const metrics = createMetrics({ processMetrics: false })
    await using queue = new KafkaQueue(kafka, log)
    const pushed = await queue.push(Array.from({ length: 5000 }, (_, n) => change(n)))
    const worker = await ArchiveWorker.start({ kafka, store, progress, log, metrics })
    await reached(progress, pushed)
    expect(await numbersIn(store)).to.deep.equal(Array.from({ length: 5000 }, (_, n) => n))
    expect(worker.health()).to.deep.equal({ healthy: true, role: 'archive-worker', partitions: [0, 1, 2, 3], lag: 0 })
    await worker.stop()
    const text = await metrics.render()
    expect(counterIn(text, 'tidings_archive_worker_messages_total')).to.equal(5000)
    expect(text).to.match(/^tidings_archive_worker_lag\{partition="3"\} 0$/m)

    const places = await queue.push([change(5000)])
    const again = createMetrics({ processMetrics: false })
    const other = await ArchiveWorker.start({ kafka, store, progress, log, metrics: again })
    await until(async () => (await numbersIn(store)).length === 5001)
    await reached(progress, places)
    await other.stop()
    expect(counterIn(await again.render(), 'tidings_archive_worker_messages_total')).to.equal(1)
  })

  it('does purges and removals in their order among the changes', async () => {
    const kafka = optionsOf(await sharedKafka())
    const store = new MemoryHistory()
    const progress = new MemoryProgress()
    await using queue = new KafkaQueue(kafka, log)
    const [owner = '', other = ''] = OWNERS
    const entries: HistoryEntry[] = [
      change(1, owner), change(2, owner), change(3, other), { owner, purge: true, before: undefined, version: 3 }, change(4, owner),
      change(5, other), { ...change(3, other), bytes: undefined, version: 6 }, change(7, owner),
    ]
    await queue.push(entries)
    const worker = await ArchiveWorker.start({ kafka, store, progress, log, metrics: createMetrics({ processMetrics: false }) })
    await until(async () => (await numbersIn(store)).join() === '4,5,7')
    await worker.stop()
  })

  it('sets aside what nobody can read, and what the store refuses for good, with its bytes', async () => {
    const kafka = optionsOf(await sharedKafka())
    const store = new MemoryHistory()
    const progress = new MemoryProgress()
    const metrics = createMetrics({ processMetrics: false })
    await using queue = new KafkaQueue(kafka, log)
    const places = [...await queue.push(Array.from({ length: 50 }, (_, n) => change(n)))]
    const client = kafkaClient(kafka, 'test', log)
    const producer = client.producer()
    await producer.connect()
    await producer.send({ topic: kafka.topic, messages: [{ key: 'user0@example.org', value: Buffer.from([9, 9, 9]), partition: 0 }, { key: null, value: 'nothing', partition: 1 }] })
    await producer.disconnect()
    places.push(...await queue.push(Array.from({ length: 50 }, (_, n) => change(n + 50))))
    const refusing = {
      purge: store.purge.bind(store),
      write: async (changes: readonly HistoryChange[]): Promise<void> => {
        if (changes.some(({ version }) => version === 13 || version === 77)) throw new RefusedError('too large')
        await store.write(changes)
      },
    }
    const worker = await ArchiveWorker.start({ kafka, store: refusing, progress, log, metrics })
    await reached(progress, places)
    await worker.stop()
    expect(await numbersIn(store)).to.deep.equal(Array.from({ length: 100 }, (_, n) => n).filter((n) => n !== 13 && n !== 77))
    expect(counterIn(await metrics.render(), 'tidings_archive_worker_poison_total')).to.equal(4)

    const kept: { key: string | undefined; value: string | undefined; reason: string | undefined }[] = []
    const consumer = client.consumer({ groupId: `read-${crypto.randomUUID()}` })
    await consumer.connect()
    await consumer.subscribe({ topic: `${kafka.topic}.poison`, fromBeginning: true })
    await consumer.run({
      eachMessage: ({ message }) => {
        kept.push({ key: message.key?.toString(), value: message.value?.toString('latin1'), reason: message.headers?.['reason']?.toString() })
        return Promise.resolve()
      },
    })
    await until(() => kept.length === 4)
    await consumer.disconnect()
    // With what else its message has.
    const refused = kept.filter((each) => each.reason === 'too large')
    expect(refused).to.have.lengthOf(2)
    for (const n of [13, 77]) expect(refused.filter((each) => each.value?.includes(`<message>${n}</message>`))).to.have.lengthOf(1)
    expect(kept).to.deep.include({ key: 'user0@example.org', value: '\t\t\t', reason: 'too short' })
    expect(kept.map((each) => each.value)).to.include('nothing')
  })

  it('waits for a store that is away, and says so', async () => {
    const kafka = optionsOf(await sharedKafka())
    const store = new MemoryHistory()
    const progress = new MemoryProgress()
    let away = true
    await using queue = new KafkaQueue(kafka, log)
    const lag = messagesAt(await queue.push(Array.from({ length: 100 }, (_, n) => change(n))))
    const worker = await ArchiveWorker.start({
      kafka, progress, log, metrics: createMetrics({ processMetrics: false }),
      store: { purge: store.purge.bind(store), write: (changes) => away ? Promise.reject(new Error('no region')) : store.write(changes) },
    })
    await until(() => worker.health().problem === 'store: no region')
    // Longer than the group waits for a silent member.
    await sleep(17_000)
    expect(worker.health()).to.deep.include({ healthy: false, problem: 'store: no region', lag, partitions: [0, 1, 2, 3] })
    expect([...progress.done.values()].reduce((sum, offset) => sum + offset, 0)).to.equal(0)
    away = false
    await until(async () => (await numbersIn(store)).length === 100)
    await until(() => worker.health().healthy && worker.health().lag === 0)
    await worker.stop()
  })

  it('shares the partitions with others that come and go, and loses nothing', async () => {
    const kafka = optionsOf(await sharedKafka())
    const store = new MemoryHistory()
    const progress = new MemoryProgress()
    await using queue = new KafkaQueue(kafka, log)
    const start = async (): Promise<ArchiveWorker> => await ArchiveWorker.start({ kafka, store, progress, log, metrics: createMetrics({ processMetrics: false }) })
    let n = 0
    const pushed: Promise<unknown>[] = []
    const load = setInterval(() => { pushed.push(queue.push(Array.from({ length: 10 }, () => change(n++)))) }, 10)
    const one = await start()
    await until(async () => (await numbersIn(store)).length > 100)
    const two = await start()
    await until(() => two.health().partitions.length === 2 && one.health().partitions.length === 2)
    expect([...one.health().partitions, ...two.health().partitions].sort((a, b) => a - b)).to.deep.equal([0, 1, 2, 3])
    const before = (await numbersIn(store)).length
    await until(async () => (await numbersIn(store)).length > before + 500)
    await one.stop()
    await until(() => two.health().partitions.length === 4)
    clearInterval(load)
    await Promise.all(pushed)
    await until(async () => (await numbersIn(store)).length === n)
    await two.stop()
  })

  it('loses nothing when the broker is killed', async () => {
    await using service = await startKafka()
    const kafka = optionsOf(service)
    const store = new MemoryHistory()
    const progress = new MemoryProgress()
    await using queue = new KafkaQueue(kafka, log)
    const worker = await ArchiveWorker.start({ kafka, store, progress, log, metrics: createMetrics({ processMetrics: false }) })
    let n = 0
    const pushed: Promise<unknown>[] = []
    const load = setInterval(() => { pushed.push(queue.push(Array.from({ length: 5 }, () => change(n++)))) }, 10)
    for (let round = 0; round < 2; round++) {
      const before = (await numbersIn(store)).length
      await until(async () => (await numbersIn(store)).length > before + 300)
      await service.kill()
      await sleep(1000)
      await service.restart()
    }
    const before = (await numbersIn(store)).length
    await until(async () => (await numbersIn(store)).length > before)
    clearInterval(load)
    await Promise.all(pushed)
    await until(async () => (await numbersIn(store)).length === n)
    await until(() => worker.health().healthy)
    await worker.stop()
  })
})
