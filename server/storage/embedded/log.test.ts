import { closeSync, mkdtempSync, openSync, readdirSync, readFileSync, readlinkSync, rmSync, truncateSync, writeFileSync, writeSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { expect } from 'chai'
import { StorageError } from '../errors.ts'
import { HEADER_BYTES, type LogPosition, type LogRecord, RECORD_ALIGN } from '../groups/log.ts'
import { RecordReader, RecordWriter } from '../groups/record.ts'
import { alignedSize, WriteAheadLog } from './log.ts'

const START: LogPosition = { segment: 0, record: 0, lastIdMs: 0 }

describe('write-ahead log', () => {
  let dir: string
  let log: WriteAheadLog
  const writer = new RecordWriter(HEADER_BYTES)

  beforeEach(async () => {
    dir = mkdtempSync(join(tmpdir(), 'tidings-log-'));
    ({ log } = await WriteAheadLog.open(dir, START, true))
  })
  afterEach(async () => {
    await log.close()
    rmSync(dir, { recursive: true, force: true })
  })

  async function append(text: string, lastIdMs = 7): Promise<void> {
    writer.reset()
    writer.text(text)
    await log.append(writer.finish(RECORD_ALIGN), writer.size, lastIdMs)
  }

  async function turnOver(): Promise<{ segment: number; record: number }> {
    await log.prepare()
    return log.turnOver()
  }

  /** What a start would find, as numbers and texts. */
  async function found(position = START): Promise<string[]> {
    const { log: opened, records } = await WriteAheadLog.open(dir, position, false)
    await opened.close()
    return records.map(textOf)
  }

  async function refusal(position = START): Promise<string> {
    try {
      await found(position)
    } catch (error) {
      expect(error).to.be.instanceOf(StorageError)
      return (error as Error).message
    }
    return 'opened'
  }

  function segments(): string[] { return readdirSync(dir).filter((name) => name !== 'spare').sort() }
  function textOf({ number, payload }: LogRecord): string { return `${number} ${new RecordReader(payload).text()}` }

  function overwrite(segment: number, at: number, bytes: Buffer): void {
    const fd = openSync(join(dir, segments()[segment] as string), 'r+')
    writeSync(fd, bytes, 0, bytes.length, at)
    closeSync(fd)
  }

  it('answers the records of all segments in order, with the time of the last id', async () => {
    await append('a', 5)
    await append('b'.repeat(5000))
    await turnOver()
    await append('c', 9)
    expect(await found()).to.deep.equal(['1 a', `2 ${'b'.repeat(5000)}`, '3 c'])
    const { log: opened, records } = await WriteAheadLog.open(dir, START, false)
    await opened.close()
    expect(records.map((record) => record.lastIdMs)).to.deep.equal([5, 7, 9])
  })

  it('goes on after what was written elsewhere, and uses the files again', async () => {
    await append('a'.repeat(3000))
    await append('b')
    const left = await turnOver()
    expect(left).to.deep.equal({ segment: 1, record: 2 })
    await append('c')
    await log.drop(left.segment)
    expect(readdirSync(dir).sort()).to.deep.equal(['000000000002', 'spare'])
    await turnOver()
    await append('d')
    expect(segments()).to.deep.equal(['000000000002', '000000000003'])
    // The old content of the third file is no part of it.
    expect(await found({ ...left, lastIdMs: 0 })).to.deep.equal(['3 c', '4 d'])
  })

  it('ends before a record that was half written', async () => {
    await append('a')
    await append('b'.repeat(1000))
    overwrite(0, alignedSize(5) + 500, Buffer.alloc(2000))
    expect(await found()).to.deep.equal(['1 a'])
    truncateSync(join(dir, segments()[0] as string), 700)
    expect(await found()).to.deep.equal(['1 a'])
    truncateSync(join(dir, segments()[0] as string), 0)
    expect(await found()).to.deep.equal([])
  })

  it('begins a new segment after a half-written record', async () => {
    await append('a')
    await append('b')
    overwrite(0, alignedSize(5) + HEADER_BYTES, Buffer.from('xxxx'))
    const { log: next } = await WriteAheadLog.open(dir, START, false)
    await log.close()
    log = next
    await append('B')
    expect(await found()).to.deep.equal(['1 a', '2 B'])
  })

  it('puts what it finds on stable storage, which a killed process may not have done', async function () {
    if (process.platform !== 'linux') this.skip()
    await append('a')
    await turnOver()
    await append('b')
    const probe = await open(dir, 'r')
    const prototype = Object.getPrototypeOf(probe) as { sync: (this: typeof probe) => Promise<void> }
    await probe.close()
    const sync = prototype.sync
    const synced: string[] = []
    prototype.sync = function (this: typeof probe) {
      synced.push(basename(readlinkSync(`/proc/self/fd/${this.fd}`)))
      return sync.call(this)
    }
    try {
      expect(await found()).to.deep.equal(['1 a', '2 b'])
    } finally {
      prototype.sync = sync
    }
    expect(synced).to.deep.equal(['000000000001', '000000000002', basename(dir)])
  })

  it('is refused when a record is damaged and others follow it', async () => {
    await append('a')
    await append('b')
    await append('c')
    overwrite(0, alignedSize(5) + HEADER_BYTES + 4, Buffer.from('x'))
    expect(await refusal()).to.match(/damaged: record 2 of segment 1 is missing, while record 3 is there/)
  })

  it('is refused when a segment is missing, the first or another, or lacks its end', async () => {
    await append('a')
    await append('b')
    await turnOver()
    await append('c')
    await turnOver()
    await append('d')
    const second = readFileSync(join(dir, '000000000002'))
    rmSync(join(dir, '000000000002'))
    expect(await refusal()).to.match(/segment 2 is missing/)
    writeFileSync(join(dir, '000000000002'), second)
    expect(await found()).to.have.lengthOf(4)
    overwrite(0, alignedSize(5) + HEADER_BYTES + 4, Buffer.from('x'))
    expect(await refusal()).to.match(/record 2 of segment 2 is missing/)
    expect(await refusal({ segment: 4, record: 4, lastIdMs: 0 })).to.match(/segment 5 is missing/)
  })

  it('uses the last segment again while that is empty', async () => {
    await append('a')
    for (let start = 0; start < 3; start++) {
      expect(await found()).to.deep.equal(['1 a'])
      expect(segments()).to.deep.equal(['000000000001', '000000000002'])
    }
  })

  it('takes records of many sizes', async () => {
    const texts = Array.from({ length: 60 }, (_, i) => String(i).repeat(i * i * 13))
    for (const text of texts) await append(text)
    expect(await found()).to.deep.equal(texts.map((text, i) => `${i + 1} ${text}`))
  })
})
