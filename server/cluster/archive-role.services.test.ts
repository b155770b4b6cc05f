import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'chai'
import { sharedKafka, startRedis } from '../../services/services.ts'
import { nextMessageId } from '../../lib/stanza/ids.ts'
import { createLog } from '../log.ts'
import { loadConfig } from '../config/config.ts'
import { KafkaQueue } from './kafka/queue.ts'
import { openHistoryStore } from './stores.ts'
import { REDIS_DEFAULTS } from './redis/connect.ts'
import { RedisProgress } from './redis/progress.ts'
import type { HistoryChange, QueuePlace } from './shapes.ts'
import { STORES } from './stores.fixture.ts'

const BIN = path.resolve(import.meta.dirname, '../../bin/tidings.js')
const OWNERS = Array.from({ length: 8 }, (_, i) => `user${i}@example.org`)
const KILLS = 3

function start(config: string): ChildProcess {
  const child = spawn(process.execPath, [BIN, 'archive-worker', '--config', config], { stdio: ['ignore', 'ignore', 'pipe'] })
  process.once('exit', () => child.kill('SIGKILL'))
  return child
}

for (const [storeName, configOf] of Object.entries(STORES)) describe(`tidings archive-worker with ${storeName}`, () => {
  it('loses and doubles nothing when it is killed, and ends on SIGTERM', async function () {
    // Others get the partitions of a killed one only when the group has missed it for a while.
    this.timeout(400_000)
    const name = `role${process.pid}${storeName.toLowerCase()}`
    const [kafkaService, storeConfig] = await Promise.all([sharedKafka(), configOf(name)])
    await using redisService = await startRedis()
    const dir = await mkdtemp(path.join(tmpdir(), 'tidings-'))
    const port = redisService.ports[0] ?? 0
    const config = path.join(dir, 'tidings.yml')
    await writeFile(config, `hosts: [example.org]
tidings:
  kafka: {brokers: ["${kafkaService.brokers[0]}"], topic: ${name}, group: ${name}, partitions: 4, replication: 1}
  ${storeConfig}
  cluster: {node: one, redis: {url: "redis://127.0.0.1:${port}"}}
`)
    const kafka = { brokers: kafkaService.brokers, topic: name, group: name, partitions: 4, replication: 1, backlogBytes: 10_000_000, tls: undefined, sasl: undefined }
    await using queue = new KafkaQueue(kafka, createLog('silent'))
    await using progress = new RedisProgress({ ...REDIS_DEFAULTS, server: { host: '127.0.0.1', port } }, name)
    const entries: HistoryChange[] = []
    const pushed: Promise<readonly QueuePlace[]>[] = []
    const push = (): void => {
      const n = entries.length
      entries.push({ owner: OWNERS[n % OWNERS.length] as string, id: nextMessageId(), with: 'other@example.org', bytes: Buffer.from(`<message>${n}</message>`), version: Date.now() * 1024 + n % 1024 })
      pushed.push(queue.push(entries.slice(n)))
    }
    const load = setInterval(() => { for (let i = 0; i < 5; i++) push() }, 10)
    push()
    let worker = start(config)
    // Changes of an owner that wait together are one message.
    const reached = async (places: readonly QueuePlace[]): Promise<void> => {
      for (;;) {
        const done = await progress.read()
        if (places.every(({ partition, offset }) => (done.get(partition) ?? 0) > offset)) return
        await sleep(20)
      }
    }
    for (let kill = 1; kill <= KILLS; kill++) {
      const [place] = await (pushed.at(-1) as Promise<readonly QueuePlace[]>)
      await reached([place as QueuePlace])
      await sleep(37 * kill)
      const ended = once(worker, 'exit')
      worker.kill('SIGKILL')
      await ended
      worker = start(config)
    }
    clearInterval(load)
    await reached((await Promise.all(pushed)).flat())

    await using store = await openHistoryStore(loadConfig(config).config)
    for (const owner of OWNERS) {
      const { items } = await store.query(owner, { max: 1_000_000, direction: 'forward' })
      expect(items.map(({ id, bytes }) => [id, bytes.toString()])).to.deep.equal(entries.filter((each) => each.owner === owner).map(({ id, bytes }) => [id, bytes?.toString()]))
    }
    const ended = once(worker, 'exit')
    worker.kill('SIGTERM')
    expect((await ended)[0]).to.equal(0)
    await rm(dir, { recursive: true })
  })
})
