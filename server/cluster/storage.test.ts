import { expect } from 'chai'
import { testStorage } from '../storage/contract.ts'
import { createLog } from '../log.ts'
import { storageErrorsTo } from './errors.ts'
import { claimed, joinNode, newWorld, stopNode, type TestNode, type World } from './nodes.fixture.ts'
import { type HistoryEntry, type HistoryProgress, type HistoryQueue, type HistoryStore, type RowStore } from './shapes.ts'
import { type ClusterStorageOptions } from './storage.ts'

const ROMEO = 'romeo@montague.lit'
const JULIET = 'juliet@capulet.lit'
const NURSE = 'nurse@capulet.lit'
const LONG = `${'l'.repeat(1023)}@${'d'.repeat(1023)}`

/** All units that the contract writes to. */
const UNITS = [
  'k', 'never', 'a', 'b', 'ab', 'a\0', 'a\x01', '\0', '\x01', 'ä', '', 'o', ROMEO, JULIET, NURSE, `${ROMEO}x`, 'x@y', 'mercutio@verona.lit', 'ä@montague.lit',
  LONG, `${'l'.repeat(900)}@example.org`, ...Array.from({ length: 60 }, (_, run) => [ROMEO, JULIET, NURSE].map((owner) => `${run + 1}${owner}`)).flat(),
]

async function claimAll(node: TestNode): Promise<void> {
  await Promise.all(UNITS.map((unit) => claimed(node, unit)))
}

function testCluster(name: string, options: Partial<ClusterStorageOptions>, isKilled: boolean): void {
  testStorage(name, async () => {
    const world: World = newWorld()
    const survivor = joinNode(world, 'survivor', options)
    let node = joinNode(world, 'node', options)
    await claimAll(node)
    return {
      storage: node.storage,
      async reopen() {
        if (isKilled) {
          await node.storage.committed()
          world.cluster.kill(node.inc)
        } else await stopNode(node, world)
        node = joinNode(world, 'node', options)
        await claimAll(node)
        return node.storage
      },
      async remove() { await stopNode(survivor, world) },
    }
  })
}

testCluster('cluster', {}, false)
testCluster('cluster, always turning over,', { segmentBytes: 1, segmentMs: 1 }, false)
testCluster('cluster, killed,', {}, true)
testCluster('cluster, always turning over and killed,', { segmentBytes: 1, segmentMs: 1 }, true)

describe('storage of a node', () => {
  it('throws for what belongs to a unit that is not loaded, and answers for those that are', async () => {
    const world = newWorld()
    const node = joinNode(world, 'a')
    const { storage } = node
    await storage.claim(ROMEO)
    for (const use of [
      () => storage.records.get('roster', [JULIET, ROMEO]), () => { storage.records.put('roster', [JULIET, ROMEO], 1) }, () => storage.records.range('roster', [JULIET]),
      () => storage.records.get('accounts', ['capulet.lit', 'juliet']), () => storage.records.range('muc-affiliations', ['capulet.lit', 'juliet']),
      () => storage.offline.count(JULIET), () => storage.archive.query(JULIET, { max: 1, direction: 'forward' }), () => { storage.streams.open('s', JULIET, 'r', null) },
    ]) expect(use).to.throw(/not loaded here/)
    storage.records.put('accounts', ['montague.lit', 'romeo'], 1)
    expect(await storage.records.get('accounts', ['montague.lit', 'romeo'])).to.equal(1)
    expect(await storage.records.range('accounts', ['montague.lit'])).to.have.lengthOf(1)
    await stopNode(node, world)
  })

  const pause = (ms: number): Promise<void> => new Promise((resolve) => { setTimeout(resolve, ms) })
  const until = async (condition: () => boolean): Promise<void> => { while (!condition()) await pause(2) }
  const QUICK = { segmentMs: 10, idleMs: 20 }

  it('says once, and as no error, that what it sends waits for the recovery of a node', async () => {
    const world = newWorld()
    const logged: string[] = []
    const log = createLog('silent')
    const told = (level: string) => ({ what }: { what?: string }): void => { logged.push(`${level} ${what}`) }
    const a = joinNode(world, 'a', { onError: storageErrorsTo(Object.assign(log, { info: told('info'), error: told('error') })) })
    const [b, c] = [joinNode(world, 'b'), joinNode(world, 'c')]
    await claimed(b, ROMEO)
    const { promise: held, resolve: goOn } = Promise.withResolvers<void>()
    let tries = 0
    world.cluster.between = async (_inc, what, when) => {
      if (what === 'send' && when === 'before') tries++
      if (what === 'finish' && when === 'before') await held
    }
    const returned: string[] = []
    for (const node of [a, c]) {
      node.storage.returned((frame, done) => {
        returned.push(frame.toString())
        done()
      })
    }
    world.cluster.kill(b.inc)
    await pause(50)
    a.storage.outgoing(b.inc, Buffer.from(`${ROMEO} frame`), true)
    await until(() => tries >= 4)
    expect(logged).to.deep.equal(['info waiting_for_recovery'])
    goOn()
    await until(() => returned.length > 0)
    expect(returned).to.deep.equal([`${ROMEO} frame`])
    for (const node of [a, c]) await stopNode(node, world)
  })

  it('gives up units that nobody uses once all of them is written, and keeps those that are pinned', async () => {
    const world = newWorld()
    const a = joinNode(world, 'a', QUICK)
    const b = joinNode(world, 'b')
    const released: string[] = []
    a.storage.onReleased((units) => { released.push(...units) })
    await Promise.all([a.storage.claim(ROMEO), a.storage.claim(ROMEO), a.storage.claim(JULIET)])
    expect(await b.storage.claim(ROMEO)).to.equal(a.inc)
    expect(await b.storage.find(ROMEO)).to.equal(a.inc)
    const unpin = a.storage.pin(JULIET)
    a.storage.records.put('roster', [ROMEO, JULIET], 'both')
    a.storage.offline.push(ROMEO, { id: 'a', bytes: Buffer.from('hi') })
    await until(() => released.length > 0)
    expect(released).to.deep.equal([ROMEO])
    expect(a.storage.isHere(ROMEO)).to.equal(false)
    expect(() => a.storage.records.get('roster', [ROMEO, JULIET])).to.throw(/not loaded/)
    expect(await b.storage.claim(ROMEO)).to.equal(b.inc)
    expect(await b.storage.records.get('roster', [ROMEO, JULIET])).to.equal('both')
    expect(b.storage.offline.count(ROMEO)).to.equal(1)
    unpin()
    await until(() => released.length > 1)
    for (const node of [a, b]) await stopNode(node, world)
  })

  it('holds no more units than it may when some can be given up', async () => {
    const world = newWorld()
    const node = joinNode(world, 'a', { ...QUICK, idleMs: 60, unitsMax: 10 })
    for (let i = 0; i < 60; i++) {
      await node.storage.claim(`u${i}@montague.lit`)
      node.storage.records.put('t', [`u${i}@montague.lit`], i)
    }
    expect([...world.cluster.homes.values()].filter((inc) => inc === node.inc)).to.have.lengthOf.below(13)
    await node.storage.claim('u3@montague.lit')
    expect(await node.storage.records.get('t', ['u3@montague.lit'])).to.equal(3)
    await stopNode(node, world)
  })

  it('leaves what another home has written since alone when a node is recovered that had the unit before', async () => {
    const world = newWorld()
    const a = joinNode(world, 'a', QUICK)
    const b = joinNode(world, 'b', { segmentMs: 10 })
    // What is in the log stays there.
    world.cluster.between = (inc, what) => { if (inc === a.inc && what === 'drop') throw new Error('no answer') }
    await a.storage.claim(ROMEO)
    a.storage.records.put('t', [ROMEO, 'x'], 'first')
    a.storage.offline.push(ROMEO, { id: 'a', bytes: Buffer.from('first') })
    await until(() => !world.cluster.homes.has(ROMEO))
    await b.storage.claim(ROMEO)
    b.storage.records.put('t', [ROMEO, 'x'], 'second')
    b.storage.offline.remove(ROMEO, ['a'])
    await b.storage.committed()
    await until(() => world.cluster.placeOf(ROMEO).rows.size === 0)
    world.cluster.kill(a.inc)
    await until(() => world.cluster.lost.length === 0 && world.cluster.nodes.length === 1)
    await pause(10)
    await stopNode(b, world)
    const c = joinNode(world, 'c')
    await claimed(c, ROMEO)
    expect(await c.storage.records.get('t', [ROMEO, 'x'])).to.equal('second')
    expect(c.storage.offline.count(ROMEO)).to.equal(0)
    await stopNode(c, world)
  })

  it('hands out what a lost node had not handled before all that waits for the claim of its unit', async () => {
    const world = newWorld()
    const a = joinNode(world, 'a')
    const b = joinNode(world, 'b')
    const order: string[] = []
    await b.storage.claim(ROMEO)
    b.storage.incoming((_source, frame) => { order.push(frame.toString()) })
    a.storage.returned((frame, done) => {
      order.push(`returned: ${frame.toString()}`)
      done()
    })
    a.storage.onClaimed(() => { order.push('come') })
    a.storage.outgoing(b.inc, Buffer.from(`${ROMEO} first`), true)
    await until(() => order.length === 1)
    world.cluster.kill(b.inc)
    await until(() => order.includes('come'))
    await a.storage.claim(ROMEO).then(() => order.push('claimed'))
    expect(order).to.deep.equal([`${ROMEO} first`, 'come', `returned: ${ROMEO} first`, 'claimed'])
    await stopNode(a, world)
  })

  it('hands on what a lost node kept, of which it did not know where it goes, and not what it had sent then', async () => {
    for (const isSent of [false, true]) {
      const world = newWorld()
      const a = joinNode(world, 'a')
      const b = joinNode(world, 'b')
      const handed: string[] = []
      a.storage.incoming((_source, frame, done) => {
        handed.push(frame.toString())
        done()
      })
      a.storage.returned((frame, done) => {
        handed.push(frame.toString())
        done()
      })
      const sent = b.storage.keep(Buffer.from(`${ROMEO} kept`))
      const other = b.storage.keep(Buffer.from(`${ROMEO} other`))
      await b.storage.committed()
      other()
      if (isSent) sent()
      await b.storage.committed()
      world.cluster.kill(b.inc)
      await until(() => a.storage.nodes.length === 1)
      await claimed(a, ROMEO)
      if (!isSent) await until(() => handed.length > 0)
      await pause(20)
      expect(handed).to.deep.equal(isSent ? [] : [`${ROMEO} kept`])
      await stopNode(a, world)
    }
  })

  it('does not do again what a frame caused whose end was committed, though it is in the inbox of the lost node', async () => {
    const world = newWorld()
    const a = joinNode(world, 'a')
    const b = joinNode(world, 'b')
    const handled: string[] = []
    await b.storage.claim(ROMEO)
    b.storage.incoming((_source, frame, done) => {
      handled.push(frame.toString())
      if (!frame.toString().endsWith('undone')) done()
    })
    a.storage.incoming((_source, frame, done) => {
      handled.push(`a: ${frame.toString()}`)
      done()
    })
    a.storage.returned((frame, done) => {
      handled.push(`returned: ${frame.toString()}`)
      done()
    })
    world.cluster.between = (_inc, what) => { if (what === 'done') throw new Error('no answer') }
    a.storage.outgoing(b.inc, Buffer.from(`${ROMEO} done`), true)
    a.storage.outgoing(b.inc, Buffer.from(`${ROMEO} undone`), true)
    await until(() => handled.length === 2)
    await b.storage.committed()
    world.cluster.kill(b.inc)
    await until(() => handled.length > 2)
    await pause(20)
    expect(handled).to.deep.equal([`${ROMEO} done`, `${ROMEO} undone`, `returned: ${ROMEO} undone`])
    expect(a.storage.isHere(ROMEO)).to.equal(true)
    await stopNode(a, world)
  })

  it('is not healthy, and tells nobody that anything is safe, while the log takes nothing; and then goes on', async () => {
    const world = newWorld()
    const problems: (string | undefined)[] = []
    const node = joinNode(world, 'a', { onHealth: (problem) => problems.push(problem) })
    await node.storage.claim(ROMEO)
    let isAway = true
    world.cluster.between = (_inc, what, when) => { if (isAway && what === 'append' && when === 'before') throw new Error('connection refused') }
    let isSafe = false
    node.storage.records.put('t', [ROMEO], 1)
    node.storage.afterCommit(() => { isSafe = true })
    await until(() => problems.length > 0)
    expect(problems[0]).to.match(/connection refused/)
    expect(node.storage.healthy).to.equal(false)
    expect(isSafe).to.equal(false)
    expect(await node.storage.records.get('t', [ROMEO])).to.equal(1)
    isAway = false
    await until(() => isSafe)
    expect(problems.at(-1)).to.equal(undefined)
    await stopNode(node, world)
  })

  it('goes on while only the store of records takes nothing, and says so', async () => {
    const world = newWorld()
    let isAway = true
    const records: RowStore = {
      load: (unit) => world.records.load(unit),
      write: (rows) => isAway ? Promise.reject(new Error('no region')) : world.records.write(rows),
      units: (prefix, after, limit) => world.records.units(prefix, after, limit),
      [Symbol.asyncDispose]: () => Promise.resolve(),
    }
    const problems: (string | undefined)[] = []
    const node = joinNode(world, 'a', { records, segmentMs: 1, onHealth: (problem) => problems.push(problem) })
    await node.storage.claim(ROMEO)
    node.storage.records.put('t', [ROMEO], 1)
    await node.storage.committed()
    await until(() => problems.length > 0)
    expect(problems[0]).to.match(/no region/)
    expect(node.storage.healthy).to.equal(true)
    expect(node.storage.status()).to.deep.include({ healthy: true, problem: problems[0] })
    node.storage.records.put('t', [ROMEO], 2)
    await node.storage.committed()
    isAway = false
    await until(() => problems.at(-1) === undefined)
    await stopNode(node, world)
    expect((await world.records.load(ROMEO)).map(({ key }) => key)).to.deep.equal([`rt\0${ROMEO}\0`])
  })

  it('calls nobody back any more when it has lost its lease, and takes no units', async () => {
    const world = newWorld()
    const a = joinNode(world, 'a')
    const b = joinNode(world, 'b')
    await a.storage.claim(ROMEO)
    a.storage.records.put('t', [ROMEO], 'safe')
    await a.storage.committed()
    let isLost = false
    a.storage.onLost(() => { isLost = true })
    world.cluster.fence(a.inc)
    let isSafe = false
    a.storage.records.put('t', [ROMEO], 'too late')
    a.storage.afterCommit(() => { isSafe = true })
    await until(() => isLost)
    // Also of turns that write nothing.
    a.storage.afterCommit(() => { isSafe = true })
    await claimed(b, ROMEO)
    expect(await b.storage.records.get('t', [ROMEO])).to.equal('safe')
    expect(isSafe).to.equal(false)
    expect(a.storage.healthy).to.equal(false)
    expect(await a.storage.claim(JULIET).catch((error: Error) => error.message)).to.match(/left the cluster/)
    await a.storage[Symbol.asyncDispose]()
    await stopNode(b, world)
  })

  it('shows history that its store does not have yet, also at the next home and after a kill, and forgets it when the store has it', async () => {
    const world = newWorld()
    const queue = new StalledQueue()
    const options = { queue, progress: queue }
    const a = joinNode(world, 'a', options)
    const b = joinNode(world, 'b', options)
    await a.storage.claim(ROMEO)
    const add = ({ storage }: TestNode, id: string, text = id): void => { storage.archive.append({ id, bytes: Buffer.from(text), owners: [{ owner: ROMEO, with: JULIET }] }) }
    const shown = async ({ storage }: TestNode): Promise<string> => (await storage.archive.query(ROMEO, { max: 10, direction: 'backward' })).items.map((item) => item.bytes.toString()).join(' ')
    for (const id of ['a', 'b', 'c']) add(a, id)
    await a.storage.committed()
    await queue.storeAll(world.history)
    await a.storage.archive.delete(ROMEO, 'a')
    await a.storage.archive.replace(ROMEO, 'b', Buffer.from('B'))
    add(a, 'd')
    expect(await shown(a)).to.equal('B c d')
    expect(await a.storage.archive.count(ROMEO, {}, 10)).to.equal(3)
    await a.storage.committed()
    world.cluster.kill(a.inc)
    await claimed(b, ROMEO)
    expect(await shown(b)).to.equal('B c d')
    expect(await b.storage.archive.count(ROMEO, { with: JULIET }, 10)).to.equal(3)
    expect(await b.storage.archive.get(ROMEO, 'a')).to.equal(undefined)
    // In good order.
    await stopNode(b, world)
    const c = joinNode(world, 'c', options)
    await claimed(c, ROMEO)
    expect(await shown(c)).to.equal('B c d')
    await c.storage.archive.purge(ROMEO)
    add(c, 'e')
    expect(await shown(c)).to.equal('e')
    expect(await c.storage.archive.bounds(ROMEO)).to.deep.equal({ first: 'e', last: 'e' })
    await c.storage.committed()
    await queue.storeAll(world.history)
    expect((await world.history.query(ROMEO, { max: 10, direction: 'forward' })).items.map((item) => item.id)).to.deep.equal(['e'])
    expect(await shown(c)).to.equal('e')
    await stopNode(c, world)
    expect(world.cluster.placeOf(ROMEO).tail).to.equal(undefined)
  })
})

describe('a node that leaves', () => {
  it('leaves nothing that another has to recover', async () => {
    const world = newWorld()
    const survivor = joinNode(world, 'survivor')
    const node = joinNode(world, 'node')
    await claimed(node, ROMEO)
    node.storage.records.put('roster', [ROMEO, JULIET], 1)
    await node.storage.committed()
    const gone: string[] = []
    survivor.storage.onChange((over) => { gone.push(...over) })
    await node.storage[Symbol.asyncDispose]()
    world.cluster.leave(node.inc)
    // What is to be recovered is over later.
    await new Promise((resolve) => { setImmediate(resolve) })
    expect(gone).to.deep.equal([node.inc])
    await stopNode(survivor, world)
  })
})

/** A queue that takes everything, and from which nothing gets to the store before `storeAll`. */
class StalledQueue implements HistoryQueue, HistoryProgress {
  readonly #entries: HistoryEntry[] = []
  #stored = 0
  readonly bytes = 0
  readonly problem = undefined

  async push(entries: readonly HistoryEntry[]): Promise<readonly { partition: number; offset: number }[]> {
    return entries.map((entry) => ({ partition: 0, offset: this.#entries.push(entry) - 1 }))
  }

  room(): undefined { return undefined }
  async read(): Promise<ReadonlyMap<number, number>> { return new Map([[0, this.#stored]]) }
  async publish(): Promise<void> {}
  async [Symbol.asyncDispose](): Promise<void> {}

  async storeAll(history: HistoryStore): Promise<void> {
    await new Promise((resolve) => { setTimeout(resolve, 5) })
    for (const entry of this.#entries.slice(this.#stored)) {
      if ('purge' in entry) await history.purge(entry.owner, entry.before, entry.version)
      else await history.write([entry])
    }
    this.#stored = this.#entries.length
    await new Promise((resolve) => { setTimeout(resolve, 600) })
  }
}
