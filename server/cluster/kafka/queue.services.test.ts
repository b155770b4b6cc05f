import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'chai'
import type { Kafka as KafkaClient } from 'kafkajs'
import { type Kafka, sharedKafka, startKafka } from '../../../services/services.ts'
import { createLog } from '../../log.ts'
import type { HistoryChange, QueuePlace } from '../shapes.ts'
import { kafkaClient, type KafkaOptions } from './client.ts'
import { decodeEntries } from './entry-codec.ts'
import { KafkaQueue } from './queue.ts'

const log = createLog('silent')

function optionsOf(kafka: Kafka): KafkaOptions {
  return {
    brokers: kafka.brokers, topic: `archive-${crypto.randomUUID()}`, partitions: 4, replication: 1, backlogBytes: 1_000_000, group: 'archive-worker', tls: undefined, sasl: undefined,
  }
}

function change(owner: string, n: number, bytes = Buffer.from(`<message>${n}</message>`)): HistoryChange {
  return { owner, id: String(n).padStart(12, '0'), with: 'other@example.org', bytes, version: n }
}

interface Read { readonly partition: number; readonly offset: number; readonly change: HistoryChange }

/** Everything in the topic, partition by partition. */
async function readTopic(client: KafkaClient, topic: string): Promise<Read[]> {
  const admin = client.admin()
  await admin.connect()
  const ends = await admin.fetchTopicOffsets(topic)
  await admin.disconnect()
  const left = new Set(ends.filter((each) => each.high !== '0').map((each) => each.partition))
  const consumer = client.consumer({ groupId: `read-${crypto.randomUUID()}` })
  const found: Read[] = []
  const all = Promise.withResolvers<void>()
  await consumer.connect()
  await consumer.subscribe({ topic, fromBeginning: true })
  if (left.size === 0) all.resolve()
  await consumer.run({
    autoCommit: false,
    eachMessage: ({ partition, message }) => {
      for (const entry of decodeEntries(message.key, message.value)) found.push({ partition, offset: Number(message.offset), change: entry as HistoryChange })
      if (Number(message.offset) + 1 >= Number(ends.find((each) => each.partition === partition)?.high)) left.delete(partition)
      if (left.size === 0) all.resolve()
      return Promise.resolve()
    },
  })
  await all.promise
  await consumer.disconnect()
  return found
}

describe('queue of history in Kafka', () => {
  it('makes its topic and says where everything is', async () => {
    const options = optionsOf(await sharedKafka())
    const entries = Array.from({ length: 3000 }, (_, i) => change(`user${i % 50}@example.org`, i))
    let places: readonly QueuePlace[]
    {
      await using queue = new KafkaQueue(options, log)
      const halves = await Promise.all([queue.push(entries.slice(0, 1500)), queue.push(entries.slice(1500))])
      places = halves.flat()
      expect(queue.bytes).to.equal(0)
      expect(queue.problem).to.equal(undefined)
    }
    const found = await readTopic(kafkaClient(options, 'test', log), options.topic)
    expect(found.length).to.equal(3000)
    expect(new Set(places.map((each) => each.partition)).size).to.equal(4)
    const at = new Map(found.map(({ partition, offset, change: { version } }) => [version, `${partition}/${offset}`]))
    for (const [i, { partition, offset }] of places.entries()) expect(at.get(i)).to.equal(`${partition}/${offset}`)
    // What is one owner's is one message, in order.
    expect(new Set(at.values()).size).to.equal(50)
    for (const owner of ['user0@example.org', 'user49@example.org']) {
      expect(found.filter((each) => each.change.owner === owner).map((each) => each.change)).to.deep.equal(entries.filter((each) => each.owner === owner))
    }
  })

  it('has everybody wait while more than its limit waits, and takes more at once than Kafka does', async () => {
    const options = optionsOf(await sharedKafka())
    await using queue = new KafkaQueue(options, log)
    expect(queue.room()).to.equal(undefined)
    const large = Buffer.alloc(200_000, 'x')
    const pushed = queue.push(Array.from({ length: 20 }, (_, i) => change('one@example.org', i, large)))
    const room = queue.room()
    expect(room).to.be.instanceOf(Promise)
    await room
    expect(queue.bytes).to.be.below(1_000_000)
    expect((await pushed).map((each) => each.offset)).to.deep.equal(Array.from({ length: 20 }, (_, i) => i))
    expect(queue.room()).to.equal(undefined)
  })

  it('refuses what Kafka would never take, and the rest goes on', async () => {
    const options = optionsOf(await sharedKafka())
    await using queue = new KafkaQueue(options, log)
    const refused = await queue.push([change('one@example.org', 1, Buffer.alloc(1_000_000))]).then(() => undefined, (error: unknown) => error)
    expect(refused).to.be.instanceOf(RangeError)
    expect(queue.bytes).to.equal(0)
    expect(await queue.push([change('one@example.org', 2)])).to.have.length(1)
  })

  it('speaks TLS with a password', async () => {
    const kafka = await sharedKafka()
    const { brokers, username, password } = kafka.secured
    const options: KafkaOptions = {
      ...optionsOf(kafka), brokers,
      tls: { caFile: `${kafka.dir}/certificate.pem`, certFile: undefined, keyFile: undefined, verify: true },
      sasl: { mechanism: 'plain', username, password },
    }
    {
      await using queue = new KafkaQueue(options, log)
      expect((await queue.push([change('one@example.org', 1)]))[0]?.offset).to.equal(0)
    }
    await using refused = new KafkaQueue({ ...options, sasl: { mechanism: 'plain', username, password: 'wrong' } }, log)
    refused.open()
    while (refused.problem === undefined) await sleep(100)
    expect(refused.problem).to.match(/authentication/i)
  })

  it('loses nothing that it said was safe, and keeps the order, when its broker is killed', async () => {
    await using kafka = await startKafka()
    const options = { ...optionsOf(kafka), partitions: 2 }
    const client = kafkaClient(options, 'test', log)
    const places = new Map<number, QueuePlace>()
    let problem: string | undefined
    {
      await using queue = new KafkaQueue(options, log)
      await queue.push([change('user0@example.org', 0)])
      let n = 1
      const waiting: Promise<void>[] = []
      const push = (): void => {
        const at = n++
        waiting.push(queue.push([change(`user${at % 7}@example.org`, at)]).then(([place]) => { places.set(at, place as QueuePlace) }))
      }
      const load = setInterval(() => { for (let i = 0; i < 5; i++) push() }, 10)
      for (let round = 0; round < 3; round++) {
        await sleep(700 + 211 * round)
        await kafka.kill()
        if (round === 0) {
          while (queue.problem === undefined) await sleep(100)
          problem = queue.problem
        }
        await kafka.restart()
        const before = places.size
        while (places.size === before) await sleep(50)
      }
      await sleep(500)
      clearInterval(load)
      await Promise.all(waiting)
      expect(places.size).to.equal(n - 1)
      expect(queue.problem).to.equal(undefined)
    }
    expect(problem).to.match(/^Kafka has taken nothing for \d+ s/)
    const found = await readTopic(client, options.topic)
    const at = new Set(found.map((each) => `${each.change.version} at ${each.partition}/${each.offset}`))
    for (const [n, { partition, offset }] of places) expect(at.has(`${n} at ${partition}/${offset}`), `${n} at ${partition}/${offset}`).to.equal(true)
    // By owner, the first occurrences are in order.
    const last = new Map<string, number>()
    const seen = new Set<number>()
    for (const { change: { owner, version } } of found) {
      if (seen.has(version)) continue
      seen.add(version)
      expect(version).to.be.above(last.get(owner) ?? -1)
      last.set(owner, version)
    }
  })

  it('begins when the brokers come later, and ends while they are away', async () => {
    await using kafka = await startKafka()
    const options = optionsOf(kafka)
    await kafka.kill()
    const queue = new KafkaQueue(options, log)
    const first = queue.push([change('one@example.org', 1)])
    await kafka.restart()
    expect(await first).to.have.length(1)
    await kafka.kill()
    const lost = queue.push([change('one@example.org', 2)]).then(() => undefined, (error: Error) => error.message)
    await queue[Symbol.asyncDispose]()
    expect(await lost).to.equal('the queue is closed')
    expect(await queue.push([change('one@example.org', 3)]).then(() => undefined, (error: Error) => error.message)).to.equal('the queue is closed')
  })
})
