import { spawn, type ChildProcess } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { expect } from 'chai'
import { nextMessageId, timeOfMessageId } from '../../../lib/stanza/ids.ts'
import { type Redis as RedisService, startRedis, startRedisCluster, startRedisSentinel } from '../../../services/services.ts'
import { append, failure, until } from '../membership.contract.ts'
import { type Membership, type UnitRow } from '../shapes.ts'
import { type Client, Commander, openClient, type RedisConnection } from './connect.ts'
import { Keys } from './keys.ts'
import { RedisMembership } from './membership.ts'
import { APPEND, CLAIM, FENCE, FINISH, RELEASE, SEND, WRITE } from './scripts.ts'
import { connectionOf } from './service.fixture.ts'
import { argumentsOf } from './unit-rows.ts'

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
          // Longer than a lease, once.
          if (round === 1) await pause(LEASE_MS * 3)
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

describe('what Redis has', () => {
  let service: RedisService
  let redis: RedisConnection
  let client: Client
  let a: RedisMembership
  let b: RedisMembership
  const unit = 'juliet@example.org'
  const stanza = Buffer.from("<message from='romeo@example.net/o&apos;rchard' to='juliet@example.org'><body>\u{1F339}</body></message>")
  const row = (id: string): UnitRow => ({ unit, key: `o${unit}\0${id}\0`, value: stanza, version: 1 })

  before(async () => { service = await startRedis() })
  after(async () => { await service[Symbol.asyncDispose]() })
  beforeEach(async () => {
    redis = { ...connectionOf(service), keyPrefix: `${randomUUID()}:` }
    client = openClient(redis)
    await new Promise((resolve) => { client.once('ready', resolve) });
    [a, b] = [await join(redis, 'a'), await join(redis, 'b')]
    await a.claim(unit)
  })
  afterEach(() => {
    a.abort()
    b.abort()
    client.disconnect()
  })

  it('of offline stanzas can be read by others: sender, stanza, id, time, in order', async () => {
    const id = nextMessageId()
    const { offline } = new Keys(redis.keyPrefix).unit(unit)
    await a.write([row('c'), row('a'), row(id)], new Map())
    await a.write([row('b'), row('c')], new Map())
    const elements = (await client.lrange(offline, 0, -1)).map((element) => JSON.parse(element) as Record<string, string>)
    expect(elements.map((element) => element['id'])).to.deep.equal([id, 'a', 'b', 'c'])
    expect(elements[1]).to.deep.equal({ id: 'a', from: "romeo@example.net/o'rchard", stanza: stanza.toString() })
    const ms = timeOfMessageId(id)
    expect(elements[0]?.['time']).to.equal(new Date(ms ?? NaN).toISOString())
    await client.lpush(offline, 'not ours')
    const claim = await a.claim(unit)
    expect(claim.here && claim.unit.rows.length).to.equal(4)
    await a.write([{ ...row('c'), value: undefined }, { ...row('a'), value: undefined }], new Map())
    expect(await client.llen(offline)).to.equal(3)
  })

  it('lost of a home comes back with the next write', async () => {
    await client.del(new Keys(redis.keyPrefix).unit(unit).home)
    await a.write([row('a')], new Map())
    expect(await b.find(unit)).to.equal(a.self.inc)
    expect(await client.llen(new Keys(redis.keyPrefix).unit(unit).offline)).to.equal(1)
  })

  it('lost of a home, and given to another node, ends the first', async () => {
    let isLost = false
    a.onLost(() => { isLost = true })
    await client.del(new Keys(redis.keyPrefix).unit(unit).home)
    await b.claim(unit)
    await failure(a.write([row('a')], new Map()))
    expect(isLost).to.equal(true)
  })

  it('lost of a lease ends its node, and others recover it', async () => {
    const { nodes, leases } = new Keys(redis.keyPrefix)
    let isLost = false
    a.onLost(() => { isLost = true })
    await append(a, 'one')
    const seen: string[] = []
    b.inherit(async (inheritance) => {
      seen.push(...inheritance.records.map((record) => record.payload.toString()))
      await inheritance.finish(1, new Map())
    })
    await client.multi().hdel(nodes, a.self.inc).hdel(leases, a.self.inc).exec()
    await until(() => isLost && seen.length > 0)
    expect(seen).to.deep.equal(['one'])
    await until(async () => (await b.claim(unit)).here)
  })

  it('is closed to a node that does not know yet that it is lost, and to who has recovered it too slowly', async () => {
    const commander = new Commander(redis, () => undefined)
    const keys = new Keys(redis.keyPrefix)
    const { node, fence, at, log, inbox, ways, over } = keys.node(a.self.inc)
    const { home, offline, streams, tail } = keys.unit(unit)
    const write = (by: string, seq: number, token: number): Promise<unknown> =>
      commander.run(WRITE, [home, offline, streams, tail], [by, seq, a.self.inc, token, 'keep', '', 0, ...argumentsOf(unit, [row(`by ${by}`)])])
    const take = async (number: number): Promise<unknown> => (await commander.run(APPEND, [node, fence, at, log], [number, `1-${number}`, 1, 'record']) as unknown[])[0]
    const finish = (token: number): Promise<unknown> => commander.run(FINISH, [node, fence, at, log, inbox, over, ways], [token, 60, 'last', 1])
    try {
      await insist(async () => { expect(await take(1)).to.equal(-1) })
      expect(await take(1)).to.equal(-1)
      expect(await take(3)).to.equal(1)
      expect(await commander.run(FENCE, [node, fence], [4])).to.equal(1)
      expect(await take(2)).to.equal(-2)
      expect(await commander.run(SEND, [node, fence, inbox], [9, 1e6, 'x', 1, ''])).to.equal(2)
      expect(await write('slow', 1, 4)).to.equal(1)
      expect(await write(a.self.inc, 99, 0)).to.equal(0)
      expect(await commander.run(FENCE, [node, fence], [5])).to.equal(1)
      expect(await commander.run(FENCE, [node, fence], [4])).to.equal(2)
      expect(await write('quick', 1, 5)).to.equal(1)
      expect(await write('slow', 2, 4)).to.equal(2)
      expect(await finish(4)).to.equal(0)
      expect(await finish(5)).to.equal(1)
      expect(await take(2)).to.equal(-2)
      expect(await commander.run(SEND, [node, fence, inbox], [9, 1e6, 'x', 1, ''])).to.equal(0)
      expect(await client.keys(`${redis.keyPrefix}{${a.self.inc}}:*`)).to.have.members([fence, over])
      expect(await b.claim(unit)).to.have.property('here', true)
      expect(await write('quick', 2, 5)).to.equal(0)
    } finally {
      commander.close()
    }
  })

  it('is as the last operation of a node left it, when an earlier one comes late', async () => {
    const commander = new Commander(redis, () => undefined)
    const { home, offline, streams, tail } = new Keys(redis.keyPrefix).unit(unit)
    const write = (seq: number, id: string): Promise<unknown> => commander.run(WRITE, [home, offline, streams, tail], [a.self.inc, seq, a.self.inc, 0, 'keep', '', 0, ...argumentsOf(unit, [row(id)])])
    try {
      await insist(async () => { expect(await write(50, 'a')).to.equal(1) })
      expect(await write(49, 'b')).to.equal(2)
      expect(await commander.run(RELEASE, [home], [a.self.inc, 48, 1, 60])).to.equal(0)
      expect(await commander.run(RELEASE, [home], [a.self.inc, 51, 1, 60])).to.equal(1)
      expect(await commander.run(CLAIM, [home, offline, streams, tail], [a.self.inc, 47, '', 0])).to.deep.equal([2])
    } finally {
      commander.close()
    }
  })

  it('of entries in an inbox is bounded: who sends waits', async () => {
    const c = await RedisMembership.join({ redis, name: 'c', address: '', roles: [], leaseMs: LEASE_MS, inboxEntries: 3 })
    try {
      let sent = 0
      const sending = (async () => { for (let first = 1; first <= 6; first++) sent += await c.send(b.self.inc, { source: c.self.inc, first, pieces: [Buffer.from('x')] }) === 'sent' ? 1 : 0 })()
      await until(() => sent === 3)
      expect(await client.xlen(new Keys(redis.keyPrefix).node(b.self.inc).inbox)).to.equal(3)
      const dones: (() => void)[] = []
      b.receive((_, done) => { dones.push(done) })
      await until(() => dones.length === 3)
      expect(sent).to.equal(3)
      for (const done of dones.splice(0)) done()
      await sending
      expect(sent).to.equal(6)
      await until(() => dones.length === 3)
      for (const done of dones) done()
      await until(async () => await client.xlen(new Keys(redis.keyPrefix).node(b.self.inc).inbox) === 0)
    } finally {
      c.abort()
    }
  })

  it('of bytes in an inbox is bounded, too', async () => {
    const c = await RedisMembership.join({ redis, name: 'c', address: '', roles: [], leaseMs: LEASE_MS, inboxBytes: 100_000 })
    try {
      let sent = 0
      const piece = Buffer.alloc(2000, 'x')
      const sending = (async () => { for (let first = 1; first <= 80; first++) sent += await c.send(b.self.inc, { source: c.self.inc, first, pieces: [piece] }) === 'sent' ? 1 : 0 })()
      await until(() => sent === 64)
      await pause(300)
      expect(sent).to.equal(64)
      b.receive((_, done) => { done() })
      await sending
      await until(async () => await client.xlen(new Keys(redis.keyPrefix).node(b.self.inc).inbox) === 0)
    } finally {
      c.abort()
    }
  })
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
