import { spawn, spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect } from 'chai'
import { testStorage } from '../contract.ts'
import { StorageError } from '../errors.ts'
import { openMemory } from '../memory/memory.ts'
import { type Storage } from '../shapes.ts'
import { contentOf, keepTimeOfIds, writeTurn } from './changes.fixture.ts'
import { type EmbeddedOptions, openEmbedded } from './embedded.ts'
import { isHeld } from './lock.ts'

function temporaryDirectory(): string {
  return mkdtempSync(join(tmpdir(), 'tidings-storage-'))
}

/** Each closes its storage and opens it again on the same directory. */
function testEmbedded(name: string, options: EmbeddedOptions): void {
  testStorage(name, async () => {
    const dir = temporaryDirectory()
    let storage = await openEmbedded(dir, options)
    return {
      storage,
      async reopen() {
        await storage[Symbol.asyncDispose]()
        storage = await openEmbedded(dir, options)
        return storage
      },
      async remove() { rmSync(dir, { recursive: true, force: true }) },
    }
  })
}

testEmbedded('embedded', {})
testEmbedded('embedded, always turning over,', { segmentBytes: 1, commitEveryMs: 0 })

// What a killed process leaves: a start finds all in the log.
testStorage('embedded, killed,', async () => {
  const dirs = [temporaryDirectory()]
  let storage = await openEmbedded(dirs[0] as string)
  return {
    storage,
    async reopen() {
      await storage.committed()
      // A copy takes a while, so nothing may be under way: what the last start found in the log must be in the database.
      const log = join(dirs.at(-1) as string, 'log')
      while (readdirSync(log).filter((name) => name !== 'spare').length > 1) await new Promise((resolve) => { setTimeout(resolve, 1) })
      const copy = temporaryDirectory()
      cpSync(dirs.at(-1) as string, copy, { recursive: true, filter: (path) => !path.endsWith('lock') })
      dirs.push(copy)
      await storage[Symbol.asyncDispose]()
      storage = await openEmbedded(copy)
      return storage
    },
    async remove() { for (const dir of dirs) rmSync(dir, { recursive: true, force: true }) },
  }
})

describe('embedded data directory', () => {
  let dir: string
  beforeEach(() => { dir = temporaryDirectory() })
  afterEach(() => { rmSync(dir, { recursive: true, force: true }) })

  const dataFile = (): string => join(dir, 'store', 'data.mdb')

  async function fill(): Promise<void> {
    await using storage = await openEmbedded(dir)
    for (let i = 0; i < 2000; i++) storage.records.put('t', ['k', String(i)], 'x'.repeat(i % 100 === 0 ? 6000 : 100))
    await storage.committed()
  }

  async function refusal(): Promise<string> {
    let storage: Storage
    try {
      storage = await openEmbedded(dir)
    } catch (error) {
      expect(error).to.be.instanceOf(StorageError)
      return (error as Error).message
    }
    await storage[Symbol.asyncDispose]()
    return 'opened'
  }

  it('is made with its parents, for its owner alone', async () => {
    dir = join(dir, 'a', 'b')
    await fill()
    expect(statSync(dir).mode & 0o777).to.equal(0o700)
    expect(await refusal()).to.equal('opened')
  })

  it('is refused while a server runs on it, and free when that has stopped', async () => {
    const storage = await openEmbedded(dir)
    expect(await refusal()).to.match(/a server is running on this data directory/).and.include(String(process.pid))
    expect(await isHeld(dir)).to.equal(true)
    await storage[Symbol.asyncDispose]()
    await storage[Symbol.asyncDispose]()
    expect(await isHeld(dir)).to.equal(false)
    expect(await isHeld(join(dir, 'nothing'))).to.equal(false)
    expect(await refusal()).to.equal('opened')
    expect(readdirSync(dir).filter((name) => name.startsWith('lock'))).to.deep.equal([])
  })

  it('lets one of two simultaneous starts win', async () => {
    await fill()
    const both = await Promise.allSettled([openEmbedded(dir), openEmbedded(dir)])
    expect(both.map((one) => one.status).sort()).to.deep.equal(['fulfilled', 'rejected'])
    for (const one of both) if (one.status === 'fulfilled') await one.value[Symbol.asyncDispose]()
  })

  it('is refused when its format is another, newer or missing', async () => {
    await fill()
    writeFileSync(join(dir, 'FORMAT'), 'tidings-data 3\n')
    expect(await refusal()).to.match(/format 3/)
    writeFileSync(join(dir, 'FORMAT'), '\0\xff garbage')
    expect(await refusal()).to.match(/not a format file/)
    rmSync(join(dir, 'FORMAT'))
    expect(await refusal()).to.match(/no FORMAT file/)
  })

  it('is refused when its database is missing, empty, truncated or overwritten', async () => {
    await fill()
    const whole = readFileSync(dataFile())
    const cases: [string, Buffer | undefined, RegExp][] = [
      ['missing', undefined, /is missing/],
      ['empty', Buffer.alloc(0), /is empty/],
      ['half a page', whole.subarray(0, 2000), /second page|first page/],
      ['one page', whole.subarray(0, 4096), /second page/],
      ['half', whole.subarray(0, whole.length >> 1), /truncated/],
      ['a little short', whole.subarray(0, whole.length - 60_000), /truncated/],
      ['zeros', Buffer.alloc(whole.length), /first page/],
      ['text', Buffer.from('This is not a database. '.repeat(9000)), /first page/],
      ['second header destroyed', Buffer.concat([whole.subarray(0, 4096), Buffer.alloc(4096, 0xab), whole.subarray(8192)]), /second page/],
      ['everything but the headers destroyed', Buffer.concat([whole.subarray(0, 8192), Buffer.alloc(whole.length - 8192, 0xab)]), /root\b/],
    ]
    for (const [what, content, expected] of cases) {
      rmSync(dataFile())
      if (content) writeFileSync(dataFile(), content)
      expect(await refusal(), what).to.match(expected)
      if (!content) writeFileSync(dataFile(), whole)
    }
    writeFileSync(dataFile(), whole)
    expect(await refusal()).to.equal('opened')
  })

  it('opens when only pages that are not in use lie beyond the end of its file', async () => {
    for (let round = 0; round < 5; round++) {
      await using storage = await openEmbedded(dir)
      for (let i = 0; i < 500; i++) storage.offline.push('romeo@montague.lit', { id: String(i), bytes: Buffer.alloc(100) })
      await storage.offline.clear('romeo@montague.lit')
    }
    expect(await refusal()).to.equal('opened')
    truncateSync(dataFile(), 4096)
    expect(await refusal()).to.match(/second page/)
  })

  it('begins anew when its first start was interrupted', async () => {
    mkdirSync(join(dir, 'store'))
    writeFileSync(join(dir, 'FORMAT'), 'tidings-data 2 being made\n')
    writeFileSync(dataFile(), 'half')
    expect(await refusal()).to.equal('opened')
    expect(readFileSync(join(dir, 'FORMAT'), 'latin1')).to.equal('tidings-data 2\n')
  })

  it('is cleared of unfinished uploads', async () => {
    await fill()
    writeFileSync(join(dir, 'blobs', 'unfinished', 'abc'), 'half a file')
    await fill()
    expect(readdirSync(join(dir, 'blobs', 'unfinished'))).to.deep.equal([])
  })
})

describe('embedded storage and kill -9', () => {
  keepTimeOfIds()

  const child = fileURLToPath(new URL('./kill.fixture.ts', import.meta.url))

  it('holds everything that was reported committed, in ten rounds on one directory', async function () {
    this.timeout(300_000)
    const dir = temporaryDirectory()
    const seed = Math.floor(Math.random() * 1e4)
    // The same turns, without a disk.
    await using memory = openMemory()
    let last = 0
    for (let round = 0; round < 10; round++) {
      const running = spawn(process.execPath, [child, dir, String(seed), String(last + 1)], { stdio: ['ignore', 'pipe', 'inherit'] })
      let output = ''
      running.stdout.on('data', (data: Buffer) => { output += data.toString() })
      const ended = new Promise((resolve) => { running.on('close', resolve) })
      // However slow the machine is.
      const enough = 12 + Math.random() * 200
      while (output.split('\n').length < enough) await new Promise((resolve) => { setTimeout(resolve, Math.random() * 10) })
      running.kill('SIGKILL')
      await ended
      const lines = output.split('\n')
      lines.pop()
      await using storage = await openEmbedded(dir)
      const found = Number(await storage.records.get('turn', []))
      expect(found).to.be.at.least(Number(lines.at(-1)))
      while (last < found) await writeTurn(memory, seed, ++last)
      expect(await contentOf(storage), `turn ${found} of seed ${seed}`).to.equal(await contentOf(memory))
    }
    rmSync(dir, { recursive: true, force: true })
    expect(last).to.be.greaterThan(100)
  })
})

describe('embedded storage on a full disk', () => {
  let dir: string | undefined

  before(function () {
    dir = temporaryDirectory()
    // A file system of its own needs root; without it there is nothing to test on.
    if (spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=8m', 'tmpfs', dir]).status !== 0) {
      rmSync(dir, { recursive: true })
      dir = undefined
      this.skip()
    }
  })

  after(() => {
    if (dir === undefined) return
    spawnSync('umount', [dir])
    rmSync(dir, { recursive: true, force: true })
  })

  const until = async (condition: () => boolean): Promise<void> => {
    while (!condition()) await new Promise((resolve) => { setTimeout(resolve, 20) })
  }

  it('reports itself unhealthy, calls nobody back, and goes on when there is space again', async () => {
    const path = join(dir as string, 'data')
    const reports: (string | undefined)[] = []
    let storage = await openEmbedded(path, { minFreeBytes: 256 * 1024, onHealth: (problem) => reports.push(problem) })
    expect(storage.healthy).to.equal(true)
    writeFileSync(join(dir as string, 'ballast'), Buffer.alloc(5 * 1024 * 1024))
    let committed = 0
    let written = 0
    for (; written < 6000 && storage.healthy; written++) {
      storage.records.put('t', ['k', String(written)], 'x'.repeat(1000))
      storage.afterCommit(() => committed++)
      if (written % 100 === 0) await new Promise((resolve) => { setTimeout(resolve, 5) })
    }
    expect(storage.healthy).to.equal(false)
    expect(storage.status().problem).to.match(/failed|almost full/)
    // Force a commit that fails, whatever made it unhealthy first.
    for (const more = written + 4000; written < more; written++) {
      storage.records.put('t', ['k', String(written)], 'x'.repeat(1000))
      storage.afterCommit(() => committed++)
    }
    await until(() => /failed/.test(storage.status().problem ?? ''))
    const stuck = committed
    await new Promise((resolve) => { setTimeout(resolve, 300) })
    expect(committed).to.equal(stuck)
    expect(stuck).to.be.lessThan(written)
    // Reads go on, of what is not on disk too.
    expect(await storage.records.get('t', ['k', String(written - 1)])).to.equal('x'.repeat(1000))
    spawnSync('mount', ['-o', 'remount,size=64m', dir as string])
    await until(() => committed === written)
    await until(() => storage.healthy)
    expect(reports.at(-1)).to.equal(undefined)
    await storage[Symbol.asyncDispose]()
    storage = await openEmbedded(path, { minFreeBytes: 0 })
    expect(await storage.records.range('t', ['k'])).to.have.lengthOf(written)
    await storage[Symbol.asyncDispose]()
  })
})
