/**
 * What history costs on its way: CPU of this process for each change that is put into Kafka (the producer of a node), and for each that is taken
 * from there into HBase (the worker), and how many a second that is for one core. Kafka and HBase are started beside it, unless they are given; their
 * CPU is not counted.
 *
 *     node bench/archive-worker.ts [--changes 200000] [--bytes 330] [--kafka HOST:PORT --hbase HOST:PORT]
 */
import { parseArgs } from 'node:util'
import { nextMessageId } from '../lib/stanza/ids.ts'
import { ArchiveWorker } from '../server/cluster/archive-worker.ts'
import type { KafkaOptions } from '../server/cluster/kafka/client.ts'
import { KafkaQueue } from '../server/cluster/kafka/queue.ts'
import type { HistoryChange } from '../server/cluster/shapes.ts'
import { createLog } from '../server/log.ts'
import { createMetrics } from '../server/metrics.ts'
import { openHBaseHistory } from '../server/storage/hbase/history.ts'
import { sharedHBase, sharedKafka } from '../services/services.ts'
import { machine } from './process.ts'

const USERS = 2000
const PUSH = 100

const { values } = parseArgs({
  options: { changes: { type: 'string', default: '200000' }, bytes: { type: 'string', default: '330' }, kafka: { type: 'string' }, hbase: { type: 'string' } },
})
const changes = Number(values.changes)
const run = `bench-${Date.now()}`
const log = createLog('warn')
const kafka: KafkaOptions = {
  brokers: values.kafka === undefined ? (await sharedKafka()).brokers : [values.kafka], topic: run, partitions: 12, replication: 1, backlogBytes: 67_108_864, group: run, tls: undefined, sasl: undefined,
}
const masters = values.hbase === undefined ? (await sharedHBase()).masters : [values.hbase]
await using store = await openHBaseHistory({ masters, prefix: `${run}_`, regions: 4 })

function measure(): (what: string) => void {
  const cpu = process.cpuUsage()
  const at = performance.now()
  return (what) => {
    const { user, system } = process.cpuUsage(cpu)
    const micros = (user + system) / changes
    console.log(`${what}: ${micros.toFixed(1)} us of CPU a change, ${Math.round(1_000_000 / micros)} a second for one core; ${Math.round(changes / ((performance.now() - at) / 1000))} a second as it ran`)
  }
}

console.log(`${machine()}; ${changes} changes of ${values.bytes} bytes, ${USERS} owners`)
const stanza = Buffer.alloc(Number(values.bytes), 'x')
{
  await using queue = new KafkaQueue(kafka, log)
  await queue.push([])
  const done = measure()
  const waiting: Promise<unknown>[] = []
  for (let n = 0; n < changes; n += PUSH) {
    await queue.room()
    const entries = Array.from({ length: Math.min(PUSH, changes - n) }, (_, i): HistoryChange => {
      return { owner: `user${(n + i) * 7 % USERS}@example.org`, id: nextMessageId(), with: `user${(n + i) * 11 % USERS}@example.org`, bytes: stanza, version: Date.now() * 1024 + i }
    })
    waiting.push(queue.push(entries))
    await new Promise(setImmediate)
  }
  await Promise.all(waiting)
  done('into Kafka')
}

const all = Promise.withResolvers<void>()
const told = new Map<number, number>()
const progress = {
  publish: (done: ReadonlyMap<number, number>): Promise<void> => {
    for (const [partition, offset] of done) told.set(partition, offset)
    if ([...told.values()].reduce((sum, offset) => sum + offset, 0) >= changes) all.resolve()
    return Promise.resolve()
  },
}
const done = measure()
const worker = await ArchiveWorker.start({ kafka, store, progress, log, metrics: createMetrics() })
await all.promise
done('into HBase')
await worker.stop()
