import { cpSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'chai'
import { firstIdOf, nextMessageId } from '../../../lib/stanza/ids.ts'
import { openEmbedded } from './embedded.ts'
import { intercept, newDirectory, type Opened, openParts } from './parts.fixture.ts'

const ROMEO = 'romeo@montague.lit'
const JULIET = 'juliet@capulet.lit'

describe('group commit', () => {
  let dir: string
  beforeEach(async () => { dir = await newDirectory() })
  afterEach(() => { rmSync(dir, { recursive: true, force: true }) })

  function append({ shapes }: Opened, bytes = 100): string {
    const id = nextMessageId()
    shapes.archive.append({ id, bytes: Buffer.alloc(bytes, id), owners: [{ owner: ROMEO, with: JULIET }] })
    return id
  }

  const idsOf = async (archive: Opened['shapes']['archive']): Promise<string[]> => (await archive.query(ROMEO, { max: Infinity, direction: 'forward' })).items.map((item) => item.id)
  const pause = (ms: number): Promise<void> => new Promise((resolve) => { setTimeout(resolve, ms) })
  const until = async (condition: () => boolean): Promise<void> => { while (!condition()) await pause(2) }

  it('keeps what a segment held when the database cannot be read for a while', async () => {
    let failures = 3
    let isMoving = false
    const opened = await openParts(dir, {
      database: (db) => intercept(db, ['getKeys'], (_name, _args, call) => {
        if (isMoving && failures-- > 0) throw new Error('input/output error')
        return call()
      }),
    }, { segmentBytes: 1 })
    const ids: string[] = []
    for (let i = 0; i < 10; i++) {
      ids.push(append(opened))
      isMoving = true
      await opened.store.committed()
      await pause(20)
    }
    await until(() => failures < 0)
    expect(await opened.store.close(10_000)).to.equal(true)
    await opened.discard()
    await using storage = await openEmbedded(dir)
    expect(await idsOf(storage.archive)).to.deep.equal(ids)
  })

  it('is well again when a segment can be begun after all, though nobody writes', async () => {
    const problems: (string | undefined)[] = []
    let isFull = true
    const opened = await openParts(dir, {
      log: (log) => intercept(log, ['prepare'], (_name, _args, call) => {
        if (isFull) throw new Error('no space left on device')
        return call()
      }),
    }, { segmentBytes: 1, onProblem: (problem) => problems.push(problem) })
    const id = append(opened)
    await opened.store.committed()
    await until(() => problems.length > 0)
    expect(problems.at(-1)).to.match(/beginning a new segment of the log failed: no space left/)
    // Commits go on, and say nothing of the segment.
    append(opened)
    await opened.store.committed()
    expect(problems).to.have.lengthOf(1)
    isFull = false
    await until(() => problems.length > 1)
    expect(problems.at(-1)).to.equal(undefined)
    expect(await opened.store.close(10_000)).to.equal(true)
    expect((await idsOf(opened.shapes.archive))[0]).to.equal(id)
    await opened.discard()
  })

  it('closes on a disk that fails, and then the directory holds nothing of what was never committed', async () => {
    let fails = false
    const opened = await openParts(dir, {
      log: (log) => intercept(log, ['append'], (_name, _args, call) => (fails ? Promise.reject(new Error('input/output error')) : call())),
      // The log fails while what it holds goes into the database.
      database: (db) => intercept(db, ['batch'], async (_name, _args, call) => {
        if (!fails) {
          fails = true
          opened.shapes.streams.handled('C', 2)
        }
        return await (call() as Promise<unknown>)
      }),
    }, { transactionRows: 2, segmentBytes: 1 })
    for (const id of ['A', 'B', 'C', 'D']) opened.shapes.streams.open(id, ROMEO, id, null)
    opened.shapes.streams.handled('C', 1)
    await opened.store.committed()
    await until(() => fails)
    let isCommitted = false
    opened.store.afterCommit(() => { isCommitted = true })
    expect(await opened.store.close(200)).to.equal(false)
    expect(isCommitted).to.equal(false)
    await opened.discard()
    await using storage = await openEmbedded(dir)
    expect((await storage.streams.load()).map(({ id, handled }) => [id, handled])).to.deep.equal([['A', 0], ['B', 0], ['C', 1], ['D', 0]])
  })

  it('waits at closing for a write under way, and writes nothing afterwards', async () => {
    let isSlow = false
    let isWriting = false
    let appends = 0
    const opened = await openParts(dir, {
      log: (log) => intercept(log, ['append'], async (_name, _args, call) => {
        appends++
        const written = call() as Promise<void>
        if (!isSlow) return await written
        isWriting = true
        await written
        await pause(150)
        isWriting = false
        return undefined
      }),
    })
    append(opened)
    await opened.store.committed()
    isSlow = true
    append(opened)
    await until(() => isWriting)
    expect(await opened.store.close(1)).to.equal(false)
    const before = appends
    append(opened)
    opened.store.afterCommit(() => { throw new Error('this is on no disk') })
    await pause(200)
    expect(appends).to.equal(before)
    await opened.discard()
    await using storage = await openEmbedded(dir)
    expect(await storage.archive.count(ROMEO, {}, Infinity)).to.equal(2)
  })

  it('lets the process go on while it moves much into the database', async () => {
    const opened = await openParts(dir, {}, { segmentBytes: Infinity })
    for (let i = 0; i < 20_000; i++) append(opened, 300)
    for (let i = 0; i < 20_000; i++) opened.shapes.offline.push(ROMEO, { id: nextMessageId(), bytes: Buffer.alloc(100) })
    await opened.store.committed()
    let turns = 0
    const count = (): void => {
      turns++
      handle = setImmediate(count)
    }
    let handle = setImmediate(count)
    expect(await opened.store.close(10_000)).to.equal(true)
    clearImmediate(handle)
    await opened.discard()
    // 40 transactions alone are 80.
    expect(turns).to.be.greaterThan(120)
    await using storage = await openEmbedded(dir)
    expect(await storage.archive.count(ROMEO, {}, Infinity)).to.equal(20_000)
    expect(storage.offline.count(ROMEO)).to.equal(20_000)
  })

  it('removes again what was pushed under an id of a later time, also after a start', async () => {
    const later = firstIdOf(Date.now() + 3_600_000)
    for (let start = 0; start < 2; start++) {
      await using storage = await openEmbedded(dir)
      storage.offline.push(ROMEO, { id: later, bytes: Buffer.from('x') })
    }
    for (let start = 0; start < 2; start++) {
      await using storage = await openEmbedded(dir)
      storage.offline.push(ROMEO, { id: later, bytes: Buffer.from('y') })
      storage.offline.remove(ROMEO, [later])
      expect(await storage.offline.list(ROMEO, 9)).to.deep.equal([])
      expect(storage.offline.count(ROMEO)).to.equal(0)
    }
  })
})

describe('journal of streams', () => {
  let dir: string
  beforeEach(async () => { dir = await newDirectory() })
  afterEach(() => { rmSync(dir, { recursive: true, force: true }) })

  it('writes the bytes that many streams have in common once, and gives all to each', async () => {
    const opened = await openParts(dir, {}, { segmentBytes: Infinity })
    const { streams } = opened.shapes
    const common = [Buffer.alloc(5000, 'a'), Buffer.alloc(63, 'b'), Buffer.alloc(64, 'c')] as const
    const ids = Array.from({ length: 100 }, (_, number) => `s${number}`)
    for (const id of ids) streams.open(id, ROMEO, id, null)
    await opened.store.committed()
    const before = opened.log.bytes
    for (const id of ids) for (const seq of [1, 2]) streams.push(id, seq, Buffer.from(`${id} ${seq} `), ...common, Buffer.alloc(70, id))
    await opened.store.committed()
    expect(opened.log.bytes - before).to.be.below(5000 + 100 * 2 * 250)
    await opened.discard()
    await using storage = await openEmbedded(dir)
    const loaded = await storage.streams.load()
    expect(loaded).to.have.length(100)
    for (const { id, unacknowledged } of loaded) {
      expect(unacknowledged.map(({ seq, bytes }) => [seq, bytes.toString()]), id).to.deep.equal([1, 2].map((seq) => [seq, `${id} ${seq} ${common.join('')}${Buffer.alloc(70, id).toString()}`]))
    }
  })

  it('knows after a kill when the process was last alive', async () => {
    const opened = await openParts(dir, {}, { segmentBytes: Infinity })
    opened.shapes.streams.open('s', ROMEO, 'orchard', null)
    await opened.store.committed()
    await new Promise((resolve) => { setTimeout(resolve, 30) })
    const before = Date.now();
    (opened.shapes.streams as unknown as { tick(): void }).tick()
    await opened.store.committed()
    await opened.discard()
    await using storage = await openEmbedded(dir)
    const [stream] = await storage.streams.load()
    expect(stream?.seenAt).to.be.at.least(before)
  })

  it('keeps a stream whose row is there when the log tells of an earlier one of its id', async () => {
    let transactions = 0
    const opened = await openParts(dir, {
      // Killed between two transactions.
      database: (db) => intercept(db, ['batch'], (_name, _args, call) => (transactions++ === 0 ? call() : new Promise(() => {}))),
    }, { transactionRows: 2, segmentBytes: 1 })
    const { streams } = opened.shapes
    streams.open('s', ROMEO, 'orchard', 1)
    await opened.store.committed()
    streams.open('s', ROMEO, 'orchard', 2)
    streams.open('t', ROMEO, 'balcony', 3)
    await opened.store.committed()
    while (transactions < 2) await new Promise((resolve) => { setTimeout(resolve, 1) })
    await opened.discard()
    await using storage = await openEmbedded(dir)
    expect((await storage.streams.load()).map(({ id, state }) => [id, state])).to.deep.equal([['s', 2], ['t', 3]])
  })

  it('does not take a stream for an earlier one, whose end the log still tells of', async () => {
    /** Killed after so many transactions. */
    async function life(transactions: number, write: (opened: Opened) => Promise<void>): Promise<void> {
      const opened = await openParts(dir, {
        database: (db) => intercept(db, ['batch'], (_name, _args, call) => (transactions-- > 0 ? call() : new Promise(() => {}))),
      }, { transactionRows: 1, segmentBytes: 1 })
      await write(opened)
      while (transactions >= 0) await new Promise((resolve) => { setTimeout(resolve, 1) })
      await opened.discard()
    }
    const opened = await openParts(dir, {})
    opened.shapes.streams.open('early', ROMEO, 'orchard', null)
    expect(await opened.store.close(10_000)).to.equal(true)
    await opened.discard()
    await life(1, async ({ shapes, store }) => {
      for (let h = 1; h < 5; h++) {
        shapes.streams.handled('early', h)
        await store.committed()
        if (h === 1) shapes.streams.close('early')
      }
    })
    await life(1, async ({ shapes, store }) => {
      shapes.streams.open('late', ROMEO, 'orchard', null)
      await store.committed()
    })
    await using storage = await openEmbedded(dir)
    expect((await storage.streams.load()).map(({ id }) => id)).to.deep.equal(['late'])
  })
})

describe('log that is missing', () => {
  it('is noticed before the first segment is full, too', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'tidings-parts-'))
    const running = join(dir, 'running')
    const killed = join(dir, 'killed')
    const storage = await openEmbedded(running)
    storage.records.put('t', ['k'], 1)
    await storage.committed()
    cpSync(running, killed, { recursive: true, filter: (path) => !path.endsWith('/lock') && !path.includes('/log') })
    await storage[Symbol.asyncDispose]()
    let message = 'opened'
    try {
      await (await openEmbedded(killed))[Symbol.asyncDispose]()
    } catch (error) {
      message = (error as Error).message
    }
    rmSync(dir, { recursive: true })
    expect(message).to.match(/segment \d+ is missing/)
  })
})
