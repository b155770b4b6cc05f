/**
 * Crashes: the storage writes all shapes, and between the operations of its disk the directory is copied. A start on the copy must
 * find all that was reported committed by then, and whole turns only.
 */
import { closeSync, cpSync, mkdtempSync, openSync, rmSync, truncateSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'chai'
import { contentOf, keepTimeOfIds, randomOf, writeTurn } from './changes.fixture.ts'
import { openEmbedded } from './embedded.ts'
import { type Between, intercept, newDirectory, type Opened, openParts } from './parts.fixture.ts'

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

type Random = (below: number) => number

/** What a power cut may leave of a record that was written to these places: a part of it, nothing, or something else here and there. */
function tear(path: string, start: number, end: number, random: Random): void {
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

/** Of the directory as it is at this moment, which is all that a killed process leaves. */
function copyOf(dir: string): string {
  const copy = mkdtempSync(join(tmpdir(), 'tidings-crash-'))
  cpSync(dir, copy, { recursive: true, filter: (path) => !path.endsWith('/lock') })
  return copy
}

/** One of so many operations is looked at. */
const LOOK_EVERY = 6
const LIVES = 4
const TURNS = 80

/**
 * Writes the turns from `turn` on until the disk has done so many operations. Looks at it now and then, as it would be found
 * after a kill or a power cut. Answers the directory for the next life and the turns that it may show, or undefined when all is written.
 */
async function live(dir: string, seed: number, turn: number, operations: number, random: Random, faults: string[]): Promise<{ readonly dir: string; readonly turn: number } | undefined> {
  /** After each turn, from this one on, and those not committed of them. */
  const contents: string[] = []
  let committed = 0
  let next: string | undefined
  let stop: () => void = () => {}
  const stopped = new Promise<void>((resolve) => { stop = resolve })
  const first = turn - 1
  let ended: number | undefined
  const disk = new Disk(async (step, args) => {
    const isLast = operations-- === 0
    if (!isLast && random(LOOK_EVERY) > 0) return
    const copy = copyOf(dir)
    const possible = contents.slice(committed)
    const from = first + committed
    const isTorn = step === 'after append' && random(2) === 0
    if (isTorn) tear(segmentOf(copy, opened), opened.log.bytes - (args[0] as Buffer).length, opened.log.bytes, random)
    const looked = isLast ? copyOf(copy) : copy
    const what = `${step} of life that began with turn ${turn}${isTorn ? ', torn' : ''}`
    try {
      await using storage = await openEmbedded(looked)
      const at = possible.indexOf(await contentOf(storage))
      if (at < 0) faults.push(what)
      else ended = from + at
    } catch (error) {
      faults.push(`${what}: ${String(error)}`)
    }
    rmSync(looked, { recursive: true })
    if (!isLast) return
    next = copy
    stop()
    await new Promise(() => {})
  })
  const opened = await openParts(dir, disk, { transactionRows: 2 })
  contents.push(await contentOf(opened.shapes))
  for (; turn <= TURNS && next === undefined; turn++) {
    await writeTurn(opened.shapes, seed, turn)
    contents.push(await contentOf(opened.shapes))
    const written = turn - first
    opened.store.afterCommit(() => { committed = written })
    for (let i = random(4); i > 0; i--) await new Promise((resolve) => { setImmediate(resolve) })
    if (random(4) === 0) await Promise.race([opened.store.committed(), stopped])
  }
  await Promise.race([opened.store.close(10_000), stopped])
  await opened.discard()
  rmSync(dir, { recursive: true })
  return next === undefined ? undefined : { dir: next, turn: (ended ?? first) + 1 }
}

describe('embedded storage when the process is killed or the power fails, at any operation of its disk', () => {
  keepTimeOfIds()

  for (const seed of [1, 2, 3, 4]) {
    it(`holds what was reported committed, in whole turns (${seed})`, async function () {
      this.timeout(120_000)
      const random = randomOf(seed)
      const faults: string[] = []
      let next: { readonly dir: string; readonly turn: number } | undefined = { dir: await newDirectory(), turn: 1 }
      for (let life = 1; next; life++) next = await live(next.dir, seed, next.turn, life === LIVES ? Infinity : random(60), random, faults)
      expect(faults).to.deep.equal([])
    })
  }
})

describe('embedded storage on a disk that fails now and then', () => {
  keepTimeOfIds()

  it('loses and doubles nothing', async function () {
    this.timeout(60_000)
    const dir = await newDirectory()
    const random = randomOf(1)
    let failures = 0
    const disk = new Disk(async (step, args) => {
      if (random(8) > 0) return
      failures++
      // Half a record, which is then written again.
      if (step === 'before append') tear(segmentOf(dir, opened), opened.log.bytes, opened.log.bytes + (args[0] as Buffer).length, random)
      throw new Error('input/output error')
    })
    const opened = await openParts(dir, disk, { transactionRows: 2 })
    let committed = 0
    for (let turn = 1; turn <= 40; turn++) {
      await writeTurn(opened.shapes, 5, turn)
      opened.store.afterCommit(() => { expect(turn).to.equal(++committed) })
      await new Promise((resolve) => { setImmediate(resolve) })
      if (random(4) === 0) await opened.store.committed()
    }
    const written = await contentOf(opened.shapes)
    expect(await opened.store.close(10_000)).to.equal(true)
    await opened.discard()
    expect(committed).to.equal(40)
    expect(failures).to.be.greaterThan(3)
    const storage = await openEmbedded(dir)
    expect(await contentOf(storage)).to.equal(written)
    await storage[Symbol.asyncDispose]()
    rmSync(dir, { recursive: true })
  })
})
