import { spawn, type ChildProcess } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { expect } from 'chai'
import { type Redis as RedisService, startRedis, startRedisCluster, startRedisSentinel } from '../../../services/services.ts'
import { append, until } from '../membership.contract.ts'
import { type Membership } from '../shapes.ts'
import { openClient, type RedisConnection } from './connect.ts'
import { Keys } from './keys.ts'
import { RedisMembership } from './membership.ts'
import { connectionOf } from './service.fixture.ts'

const LEASE_MS = 1000
/** Several processes may wait long for a processor. */
const PROCESS_LEASE_MS = 5000

async function join(redis: RedisConnection, name: string, leaseMs = LEASE_MS): Promise<RedisMembership> {
  return await RedisMembership.join({ redis, name, address: '', roles: [], leaseMs })
}

async function pause(ms: number): Promise<void> {
  await new Promise((resolve) => { setTimeout(resolve, ms) })
}

/** Tries the same again until it succeeds, as who uses a log does. */
async function insist(run: () => Promise<unknown>): Promise<void> {
  for (;;) {
    try {
      await run()
      return
    } catch {
      await pause(20)
    }
  }
}

/** Records to a's log, and parcels from a to b, one after the other, until `stop`. */
class Load {
  readonly got: number[] = []
  records = 0
  parcels = 0
  problems = new Set<string>()
  isLost = false
  readonly #running: Promise<unknown>
  #isStopped = false

  constructor(a: Membership, b: Membership) {
    for (const one of [a, b]) one.onLost(() => { this.isLost = true })
    b.receive(({ pieces }, done) => {
      this.got.push(...pieces.map((piece) => Number(piece.toString())))
      done()
    })
    this.#running = Promise.all([
      this.#repeat(async () => {
        await insist(() => append(a, `record ${this.records + 1}`))
        this.records++
        if (a.problem !== undefined) this.problems.add(a.problem)
      }),
      this.#repeat(async () => {
        await insist(() => a.send(b.self.inc, { source: a.self.inc, first: this.parcels + 1, pieces: [Buffer.from(String(this.parcels + 1))] }))
        this.parcels++
      }),
      this.#repeat(async () => {
        if (a.problem !== undefined) this.problems.add(a.problem)
        await pause(10)
      }),
    ])
  }

  async more(count: number): Promise<void> {
    const [records, parcels] = [this.records + count, this.parcels + count]
    await until(() => this.isLost || this.records >= records && this.parcels >= parcels)
  }

  async stop(): Promise<void> {
    this.#isStopped = true
    await this.#running
  }

  async #repeat(run: () => Promise<void>): Promise<void> {
    while (!this.#isStopped && !this.isLost) await run()
  }
}

async function recordsOf(redis: RedisConnection, member: Membership): Promise<string[]> {
  const client = openClient(redis)
  await new Promise((resolve) => { client.once('ready', resolve) })
  try {
    const entries = await client.xrange(new Keys(redis.keyPrefix).node(member.self.inc).log, '-', '+')
    return entries.map(([, fields]) => fields[3] ?? '')
  } finally {
    client.disconnect()
  }
}

async function check(redis: RedisConnection, a: RedisMembership, b: RedisMembership, load: Load): Promise<void> {
  await load.stop()
  expect(load.isLost).to.equal(false)
  expect(await recordsOf(redis, a)).to.deep.equal(Array.from({ length: load.records }, (_, i) => `record ${i + 1}`))
  await until(() => new Set(load.got).size >= load.parcels)
  // One may come again, with those after it: who has it already knows it by its number.
  const first = load.got.filter((number, i) => load.got.indexOf(number) === i)
  expect(first).to.deep.equal(Array.from({ length: load.parcels }, (_, i) => i + 1))
  await until(() => a.problem === undefined && b.problem === undefined)
  expect(a.nodes).to.have.length(2)
}

describe('Redis that fails', () => {
  for (const [name, start] of [
    ['synced each second', () => startRedis({ fsync: 'everysec' })],
    ['synced always', () => startRedis({ fsync: 'always' })],
    ['a Cluster', () => startRedisCluster()],
  ] as const) {
    it(`loses and doubles nothing when it is killed under load and starts again (${name})`, async () => {
      await using service: RedisService = await start()
      const redis = { ...connectionOf(service), keyPrefix: `${randomUUID()}:` }
      const [a, b] = [await join(redis, 'a'), await join(redis, 'b')]
      try {
        const load = new Load(a, b)
        for (let round = 0; round < 3; round++) {
          await load.more(100)
          await service.kill()
          await until(() => a.problem !== undefined)
          await service.restart()
          await load.more(10)
        }
        expect(load.problems.size).to.be.greaterThan(0)
        await check(redis, a, b, load)
      } finally {
        a.abort()
        b.abort()
      }
    })
  }

  it('takes no lease away by standing still for longer than that', async () => {
    await using service = await startRedis()
    const redis = { ...connectionOf(service), keyPrefix: `${randomUUID()}:` }
    const [a, b] = [await join(redis, 'a'), await join(redis, 'b')]
    try {
      const load = new Load(a, b)
      for (const stopMs of [LEASE_MS * 2, LEASE_MS * 4]) {
        await load.more(50)
        service.pause()
        await pause(stopMs)
        service.resume()
        await load.more(50)
      }
      await check(redis, a, b, load)
    } finally {
      a.abort()
      b.abort()
    }
  })

  for (const minReplicas of [0, 1]) {
    it(`has a replica take its place, and the log brings what that did not have (min_replicas ${minReplicas})`, async () => {
      await using service = await startRedisSentinel()
      const redis = { ...connectionOf(service), keyPrefix: `${randomUUID()}:`, minReplicas }
      const [a, b] = [await join(redis, 'a'), await join(redis, 'b')]
      try {
        await pause(1000)
        const load = new Load(a, b)
        await load.more(200)
        const primary = await service.primary()
        await primary.kill()
        await until(async () => (await service.primary().catch(() => primary)).name !== primary.name)
        await primary.restart()
        await load.more(200)
        await load.stop()
        expect(load.isLost).to.equal(false)
        expect(await recordsOf(redis, a)).to.deep.equal(Array.from({ length: load.records }, (_, i) => `record ${i + 1}`))
        if (minReplicas > 0) await check(redis, a, b, load)
      } finally {
        a.abort()
        b.abort()
      }
    })
  }
})

interface Child {
  readonly process: ChildProcess
  inc: string
  acked: number
  isLost: boolean
}

async function startChild(redis: RedisConnection): Promise<Child> {
  const process_ = spawn(process.execPath, [fileURLToPath(new URL('node.fixture.ts', import.meta.url)), JSON.stringify({ redis, leaseMs: PROCESS_LEASE_MS })], { stdio: ['pipe', 'pipe', 'inherit'] })
  const child: Child = { process: process_, inc: '', acked: 0, isLost: false }
  createInterface({ input: process_.stdout }).on('line', (line) => {
    if (line.startsWith('inc ')) child.inc = line.slice(4)
    else if (line.startsWith('acked ')) child.acked = Number(line.slice(6))
    else if (line === 'lost') child.isLost = true
  })
  await until(() => child.acked > 0)
  return child
}

describe('nodes that fail', () => {
  let service: RedisService
  before(async () => { service = await startRedis() })
  after(async () => { await service[Symbol.asyncDispose]() })

  for (const signal of ['SIGKILL', 'SIGSTOP'] as const) {
    it(`leave everything they acknowledged to one survivor (${signal})`, async () => {
      const redis = { ...connectionOf(service), keyPrefix: `${randomUUID()}:` }
      const survivors = await Promise.all(['a', 'b', 'c'].map((name) => join(redis, name, PROCESS_LEASE_MS)))
      const children = await Promise.all(Array.from({ length: 3 }, () => startChild(redis)))
      const recovered = new Map<string, string[]>()
      let atOnce = 0
      let atOnceMost = 0
      for (const one of survivors) {
        one.inherit(async (inheritance) => {
          atOnceMost = Math.max(atOnceMost, ++atOnce)
          await pause(50)
          if (recovered.has(inheritance.inc)) throw new Error('twice')
          recovered.set(inheritance.inc, inheritance.records.map((record) => record.payload.toString()))
          await inheritance.finish(1, new Map())
          atOnce--
        })
      }
      try {
        await until(() => children.every((child) => child.acked > 100))
        for (const child of children) child.process.kill(signal)
        await until(() => children.every((child) => recovered.has(child.inc)))
        if (signal === 'SIGSTOP') {
          for (const child of children) child.process.kill('SIGCONT')
          await until(() => children.every((child) => child.isLost))
        }
        await until(() => children.every((child) => child.process.exitCode !== null || child.process.signalCode !== null))
        expect(atOnceMost).to.equal(1)
        for (const child of children) {
          const records = recovered.get(child.inc) ?? []
          expect(records).to.deep.equal(records.map((_, i) => `record ${i + 1}`))
          expect(records.length).to.be.within(child.acked, child.acked + 1)
        }
        await until(() => survivors.every((one) => one.nodes.length === 3))
        expect((await survivors[0]?.claim('juliet@example.org'))?.here).to.equal(true)
      } finally {
        for (const one of survivors) one.abort()
        for (const child of children) child.process.kill('SIGKILL')
      }
    })
  }
})
