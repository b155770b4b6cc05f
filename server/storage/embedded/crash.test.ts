/**
 * Crashes: the storage writes all shapes, and between the operations of its disk the directory is copied. A start on the copy must
 * find all that was reported committed by then, and whole turns only.
 */
import { closeSync, cpSync, mkdtempSync, openSync, rmSync, truncateSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'chai'
import { firstIdOf } from '../../../lib/stanza/ids.ts'
import { openEmbedded } from './embedded.ts'
import { type Between, intercept, newDirectory, type Opened, openParts, type Shapes } from './parts.fixture.ts'

/** A disk that does one operation at a time, and lets somebody look at it before and after. */
class Disk implements Between {
  /** Called with what comes or has come, and its arguments. */
  readonly #look: (step: string, args: readonly unknown[]) => Promise<void>
  #last: Promise<unknown> = Promise.resolve()

  constructor(look: (step: string, args: readonly unknown[]) => Promise<void>) { this.#look = look }

  database<T extends object>(db: T): T { return intercept(db, ['batch'], this.#run) }
  log<T extends object>(log: T): T { return intercept(log, ['append', 'prepare', 'drop'], this.#run) }

  readonly #run = (name: string, args: readonly unknown[], call: () => unknown): Promise<unknown> => {
    const run = async (): Promise<unknown> => {
      await this.#look(`before ${name}`, args)
      const result = await call()
      await this.#look(`after ${name}`, args)
      return result
    }
    return (this.#last = this.#last.then(run, run))
  }
}

const OWNERS = ['romeo@montague.lit', 'juliet@capulet.lit', 'nurse@capulet.lit', `${'l'.repeat(900)}@capulet.lit`]

/** Everything that the shapes hold, as text. */
async function contentOf({ records, archive, offline, streams }: Shapes): Promise<string> {
  const content: unknown[] = [await records.range('t', [])]
  for (const owner of OWNERS) {
    const { items } = await archive.query(owner, { max: Infinity, direction: 'forward' })
    content.push(owner, items.map((item) => `${item.id} ${item.with} ${item.bytes.toString('latin1')}`))
    expect(await archive.count(owner, {}, Infinity)).to.equal(items.length)
    for (const other of OWNERS) expect(await archive.count(owner, { with: other }, Infinity), `${owner} with ${other}`).to.equal(items.filter((item) => item.with === other).length)
    content.push((await offline.list(owner, Infinity)).map((entry) => `${entry.id} ${entry.bytes.toString('latin1')}`), offline.count(owner))
  }
  const open = [...await streams.load()].sort((a, b) => (a.id < b.id ? -1 : 1))
  content.push(open.map(({ id, state, handled, acknowledged, unacknowledged }) => [id, state, handled, acknowledged, unacknowledged.map(({ seq, bytes }) => `${seq} ${bytes.toString('latin1')}`)]))
  return JSON.stringify(content)
}

/** Numbers that are the same in each run. */
function randomOf(seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor(state / 2 ** 32 * below)
  }
}

/** One of so many operations is looked at. */
const LOOK_EVERY = 6

const START = 1_700_000_000_000

/** One change of one shape. */
function change({ records, archive, offline, streams }: Shapes, acknowledged: Map<string, number>, random: (below: number) => number, n: number): void {
  const owner = OWNERS[random(OWNERS.length)] as string
  const other = OWNERS[random(OWNERS.length)] as string
  const id = firstIdOf(START + (random(4) === 0 ? random(n + 1) : n) * 1000)
  const bytes = Buffer.alloc(random(4) === 0 ? 6000 : 700, `${n} `)
  const stream = `s${random(3)}`
  switch (random(12)) {
    case 0: case 1: case 2: case 3:
      archive.append({ id, bytes, owners: [{ owner, with: other }, ...(owner === other ? [] : [{ owner: other, with: owner }])] })
      break
    case 4: void archive.delete(owner, id); break
    case 5: void archive.replace(owner, id, bytes); break
    case 6: if (random(3) === 0) void archive.purge(owner, START + random(n + 1) * 1000); break
    case 7: offline.push(owner, { id, bytes: bytes.subarray(0, 100) }); break
    case 8: offline.remove(owner, [id]); if (random(4) === 0) void offline.clear(owner); break
    case 9:
      if (random(3) === 0) records.delete('t', [owner, String(random(5))])
      else records.put('t', [owner, String(random(5))], n)
      break
    case 10:
      if (random(3) === 0) streams.close(stream)
      else if (random(2) === 0) streams.open(stream, owner, stream, n)
      else streams.state(stream, n)
      break
    default:
      streams.push(stream, n, bytes.subarray(0, 50))
      streams.handled(stream, n)
      if (random(2) === 0) {
        const seq = Math.max(acknowledged.get(stream) ?? 0, n - random(20))
        acknowledged.set(stream, seq)
        streams.acknowledged(stream, seq)
      }
  }
}

/** Writes, and tells of the content after each turn, and of each turn whose writes are reported committed. */
async function write({ shapes, store }: Opened, turns: number, random: (below: number) => number, on: { turn(content: string): void; committed(turn: number): void }): Promise<void> {
  const acknowledged = new Map<string, number>()
  on.turn(await contentOf(shapes))
  for (let turn = 1; turn <= turns; turn++) {
    for (let i = random(4); i >= 0; i--) change(shapes, acknowledged, random, turn)
    on.turn(await contentOf(shapes))
    store.afterCommit(() => { on.committed(turn) })
    for (let i = random(4); i > 0; i--) await new Promise((resolve) => { setImmediate(resolve) })
    if (random(4) === 0) await store.committed()
  }
  expect(await store.close(10_000)).to.equal(true)
}

/** What a power cut may leave of a record that was written to these places: a part of it, nothing, or something else here and there. */
function tear(path: string, start: number, end: number, random: (below: number) => number): void {
  const from = start + random(end - start)
  if (random(4) === 0) {
    truncateSync(path, from)
    return
  }
  const fd = openSync(path, 'r+')
  writeSync(fd, Buffer.alloc(1 + random(end - from), random(2) === 0 ? 0 : 0xa5), 0, undefined, from)
  closeSync(fd)
}

function segmentOf(dir: string, { log }: Opened): string { return join(dir, 'log', String(log.segment).padStart(12, '0')) }

describe('embedded storage when the process is killed or the power fails, at any operation of its disk', () => {
  for (const seed of [1, 2, 3, 4]) {
    it(`holds what was reported committed, in whole turns (${seed})`, async function () {
      this.timeout(120_000)
      const dir = await newDirectory()
      const random = randomOf(seed)
      /** After each turn, and the last turn committed. */
      const contents: string[] = []
      let committed = 0
      let looked = 0
      const faults: string[] = []
      const disk = new Disk(async (step, args) => {
        if (random(LOOK_EVERY) > 0) return
        looked++
        const possible = contents.slice(committed)
        const copy = mkdtempSync(join(tmpdir(), 'tidings-crash-'))
        cpSync(dir, copy, { recursive: true, filter: (path) => !path.endsWith('/lock') })
        const isTorn = step === 'after append' && random(2) === 0
        if (isTorn) tear(segmentOf(copy, opened), opened.log.bytes - (args[0] as Buffer).length, opened.log.bytes, random)
        try {
          await using storage = await openEmbedded(copy)
          const found = await contentOf(storage)
          if (!possible.includes(found)) faults.push(`${step}, operation ${looked}${isTorn ? ', torn' : ''}`)
        } catch (error) {
          faults.push(`${step}, operation ${looked}${isTorn ? ', torn' : ''}: ${String(error)}`)
        }
        rmSync(copy, { recursive: true })
      })
      const opened = await openParts(dir, disk, { transactionRows: 2 })
      await write(opened, 80, random, {
        turn: (content) => contents.push(content),
        committed: (turn) => { committed = turn },
      })
      await opened.discard()
      rmSync(dir, { recursive: true })
      expect(faults).to.deep.equal([])
      expect(looked).to.be.greaterThan(8)
    })
  }
})

describe('embedded storage on a disk that fails now and then', () => {
  it('loses and doubles nothing', async function () {
    this.timeout(60_000)
    const dir = await newDirectory()
    const random = randomOf(1)
    let failures = 0
    const disk = new Disk(async (step, args) => {
      if (random(16) > 0) return
      failures++
      // Half a record, which is then written again.
      if (step === 'before append') tear(segmentOf(dir, opened), opened.log.bytes, opened.log.bytes + (args[0] as Buffer).length, random)
      throw new Error('input/output error')
    })
    const opened = await openParts(dir, disk, { transactionRows: 2 })
    let last = ''
    let committed = 0
    await write(opened, 40, random, {
      turn: (content) => { last = content },
      committed: (turn) => { expect(turn).to.equal(++committed) },
    })
    await opened.discard()
    expect(committed).to.equal(40)
    expect(failures).to.be.greaterThan(3)
    const storage = await openEmbedded(dir)
    expect(await contentOf(storage)).to.equal(last)
    await storage[Symbol.asyncDispose]()
    rmSync(dir, { recursive: true })
  })
})
