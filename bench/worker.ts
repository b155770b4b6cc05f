/**
 * What history costs on its way: CPU for each change that is put into Kafka (this process, as a node does it), that a `tidings archive-worker` takes from
 * there into HBase (a process of its own: all of its CPU, from fetching to the commit of offsets), and how many a second that is for one
 * core; Kafka's and HBase's CPU beside it. Then how long a page of 50 from HBase takes. Services are started unless they are given.
 *
 *     node bench/worker.ts [--changes 400000] [--bytes 330] [--partitions 12] [--rounds 3] [--kafka HOST:PORT,PID --hbase HOST:PORT,PID] [--profile DIR]
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { nextMessageId } from '../lib/stanza/ids.ts'
import type { KafkaOptions } from '../server/cluster/kafka/client.ts'
import { KafkaQueue } from '../server/cluster/kafka/queue.ts'
import { REDIS_DEFAULTS } from '../server/cluster/redis/connect.ts'
import { RedisProgress } from '../server/cluster/redis/progress.ts'
import type { HistoryChange } from '../server/cluster/shapes.ts'
import { createLog } from '../server/log.ts'
import { openHBaseHistory } from '../server/storage/hbase/history.ts'
import { startHBase, startKafka, startRedis } from '../services/services.ts'
import { cpuMicros, loadAverage, machine } from './process.ts'

const BIN = path.resolve(import.meta.dirname, '../bin/tidings.js')
const USERS = 2000
const PUSH = 100
const POLL_MS = 20
/** Of the changes: taken before anything is measured. */
const WARM_UP = 0.25
const PAGES = 1000
const PAGE = 50

const { values } = parseArgs({
  options: {
    changes: { type: 'string', default: '400000' }, bytes: { type: 'string', default: '330' }, partitions: { type: 'string', default: '12' }, rounds: { type: 'string', default: '3' },
    kafka: { type: 'string' }, hbase: { type: 'string' }, profile: { type: 'string' },
  },
})
const changes = Number(values.changes)
const log = createLog('warn')
const dir = await mkdtemp(path.join(tmpdir(), 'tidings-bench-'))
const kafkaService = values.kafka === undefined ? await startKafka() : undefined
const hbaseService = values.hbase === undefined ? await startHBase({ heap: '1024m' }) : undefined
const [brokers, kafkaPid] = kafkaService ? [kafkaService.brokers, kafkaService.daemons[0]?.pid] as const : given(values.kafka ?? '')
const [masters, hbasePid] = hbaseService ? [hbaseService.masters, hbaseService.daemons[0]?.pid] as const : given(values.hbase ?? '')
await using redis = await startRedis()
const redisPort = redis.ports[0] ?? 0

console.log(`${machine()}, load ${loadAverage()}; ${changes} changes of ${values.bytes} bytes, ${USERS} owners, ${values.partitions} partitions; microseconds of CPU a change`)
try {
  for (let round = 1; round <= Number(values.rounds); round++) await run(`bench${process.pid}r${round}`)
} finally {
  await rm(dir, { recursive: true })
  await kafkaService?.kill()
  await hbaseService?.kill()
}

function given(address: string): readonly [readonly string[], number] {
  const [where = '', pid] = address.split(',')
  return [[where], Number(pid)]
}

async function run(name: string): Promise<void> {
  const kafka: KafkaOptions = { brokers, topic: name, partitions: Number(values.partitions), replication: 1, backlogBytes: 67_108_864, group: name, tls: undefined, sasl: undefined }
  const config = path.join(dir, `${name}.yml`)
  await writeFile(config, `hosts: [example.org]
tidings:
  kafka: {brokers: ["${brokers[0]}"], topic: ${name}, group: ${name}, partitions: ${values.partitions}, replication: 1}
  hbase: {masters: ["${masters[0]}"], prefix: ${name}_, regions: 4}
  cluster: {node: one, redis: {url: "redis://127.0.0.1:${redisPort}"}}
`)
  await using progress = new RedisProgress({ ...REDIS_DEFAULTS, server: { host: '127.0.0.1', port: redisPort } }, name)
  await fill(kafka)

  const profile = values.profile === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${values.profile}`]
  const worker = spawn(process.execPath, [...profile, BIN, 'archive-worker', '--config', config], { stdio: ['ignore', 'ignore', 'inherit'] })
  process.once('exit', () => worker.kill('SIGKILL'))
  const pids = [worker.pid ?? 0, kafkaPid ?? 0, hbasePid ?? 0] as const
  const done = async (): Promise<number> => [...(await progress.read()).values()].reduce((sum, offset) => sum + offset, 0)
  while (await done() < changes * WARM_UP) await sleep(POLL_MS)
  const [from, before, at] = [await done(), pids.map(cpuMicros), performance.now()]
  while (await done() < changes) await sleep(POLL_MS)
  const [ours, kafkas, hbases] = pids.map((pid, i) => (cpuMicros(pid) - (before[i] ?? 0)) / (changes - from)) as [number, number, number]
  const seconds = (performance.now() - at) / 1000
  console.log(`into HBase: ${ours.toFixed(1)}, ${Math.round(1e6 / ours)} a second for one core; ${Math.round((changes - from) / seconds)} a second as it ran; Kafka ${kafkas.toFixed(1)}, HBase ${hbases.toFixed(1)}; the worker in all, with its start: ${(cpuMicros(pids[0]) / changes).toFixed(1)}`)
  const ended = once(worker, 'exit')
  worker.kill('SIGTERM')
  await ended
  await pages(name)
}

async function fill(kafka: KafkaOptions): Promise<void> {
  await using queue = new KafkaQueue(kafka, log)
  await queue.push([])
  const stanza = Buffer.alloc(Number(values.bytes), 'x')
  const [before, kafkas] = [process.cpuUsage(), cpuMicros(kafkaPid ?? 0)]
  const waiting: Promise<unknown>[] = []
  for (let n = 0; n < changes; n += PUSH) {
    await queue.room()
    const entries = Array.from({ length: Math.min(PUSH, changes - n) }, (_, i): HistoryChange => {
      return { owner: jid((n + i) * 7), id: nextMessageId(), with: jid((n + i) * 11), bytes: stanza, version: Date.now() * 1024 + i }
    })
    waiting.push(queue.push(entries))
    await new Promise(setImmediate)
  }
  await Promise.all(waiting)
  const { user, system } = process.cpuUsage(before)
  console.log(`into Kafka: ${((user + system) / changes).toFixed(1)}; Kafka ${((cpuMicros(kafkaPid ?? 0) - kafkas) / changes).toFixed(1)}`)
}

async function pages(name: string): Promise<void> {
  await using store = await openHBaseHistory({ masters, prefix: `${name}_` })
  const took: number[] = []
  const [before, hbases] = [process.cpuUsage(), cpuMicros(hbasePid ?? 0)]
  let items = 0
  for (let i = 0; i < PAGES; i++) {
    const at = performance.now()
    items += (await store.query(jid(i * 7), { max: PAGE, direction: 'backward' })).items.length
    took.push(performance.now() - at)
  }
  const { user, system } = process.cpuUsage(before)
  took.sort((a, b) => a - b)
  console.log(`pages of ${(items / PAGES).toFixed(1)}: p50 ${took[PAGES >> 1]?.toFixed(2)} ms, p99 ${took[Math.floor(PAGES * 0.99)]?.toFixed(2)} ms; CPU ${Math.round((user + system) / PAGES)} us, HBase ${Math.round((cpuMicros(hbasePid ?? 0) - hbases) / PAGES)} us`)
}

function jid(user: number): string {
  return `user${user % USERS}@example.org`
}
