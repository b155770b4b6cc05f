/**
 * The write-ahead log: files (segments) of records, each written and synced before anybody is told that it is safe. A record is
 * there whole or not at all, by its checksum and its number. Segments end when the store has written their content elsewhere
 * (`drop`), and are used again: a file whose blocks exist takes a synced write without a change of the file system's own records.
 *
 * Record: magic, bytes of the payload, checksum of all that follows, 0 (4 bytes each); number, time of the last id (8 each);
 * payload; zeros up to a multiple of 64 bytes.
 */
import { close, constants, existsSync, fdatasync, fstatSync, mkdirSync, openSync, readdirSync, readFileSync, rmSync, write } from 'node:fs'
import { open, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import { StorageError } from '../errors.ts'
import { HEADER_BYTES, type Log, type LogPosition, type LogRecord, RECORD_ALIGN } from '../groups/log.ts'
import { syncPath } from './sync.ts'

/** Not to be found in text: these bytes never occur in UTF-8. */
const MAGIC = 0xfff5d1fe
/** Files grow by this much, filled with zeros. */
const GROW_BYTES = 1024 * 1024
const SPARE = 'spare'
/** A file larger than this is not kept for the next segment. */
const SPARE_BYTES_MAX = 64 * 1024 * 1024

export class WriteAheadLog implements Log {
  readonly #dir: string
  #fd: number
  #segment: number
  #at = 0
  #allocated: number
  #record: number
  #next: { readonly fd: number; readonly allocated: number } | undefined
  /** What is being done to the files. */
  #appending: Promise<void> | undefined
  #preparing: Promise<void> | undefined
  #isClosed = false

  private constructor(dir: string, segment: number, record: number, file: { readonly fd: number; readonly allocated: number }) {
    this.#dir = dir
    this.#segment = segment
    this.#record = record
    this.#fd = file.fd
    this.#allocated = file.allocated
  }

  /**
   * Opens the log in its directory and answers the records that come after `position`, in order. They are on stable storage then,
   * also when a killed process wrote them and did not learn that. New records go to a segment of their own. Throws a
   * StorageError when records are missing or damaged; a log that is new has none.
   */
  static async open(dir: string, position: LogPosition, isNew: boolean): Promise<{ readonly log: WriteAheadLog; readonly records: LogRecord[] }> {
    mkdirSync(dir, { recursive: true, mode: 0o700 })
    const numbers = segmentsOf(dir)
    for (const number of numbers) if (number <= position.segment) rmSync(pathOf(dir, number))
    const live = numbers.filter((number) => number > position.segment)
    if (live.length === 0 && !isNew) throw damaged(dir, `segment ${position.segment + 1} is missing`)
    const records: LogRecord[] = []
    let segment = position.segment
    let last = position.record
    let isEmpty = false
    for (const number of live) {
      if (number !== ++segment) throw damaged(dir, `segment ${segment} is missing`)
      isEmpty = true
      for (const record of readSegment(dir, number, last)) {
        records.push(record)
        last = record.number
        isEmpty = false
      }
    }
    for (const number of live) await syncPath(pathOf(dir, number))
    if (!isEmpty) await makeSegment(dir, ++segment)
    return { log: new WriteAheadLog(dir, segment, last, openSegment(dir, segment)), records }
  }

  get segment(): number { return this.#segment }
  /** Bytes written to the segment. */
  get bytes(): number { return this.#at }
  /** Number of the last record. */
  get record(): number { return this.#record }

  /**
   * Writes a record, and resolves when it is on stable storage. `buffer` begins with HEADER_BYTES to be filled in; its size is
   * a multiple of 64. Rejects when that failed: then the record may be appended again, and no other before it.
   */
  append(buffer: Buffer, payloadBytes: number, lastIdMs: number): Promise<void> {
    if (this.#isClosed) return Promise.reject(new Error('the log is closed'))
    this.#appending = this.#append(buffer, payloadBytes, lastIdMs)
    return this.#appending
  }

  /** Makes the next segment's file, for `turnOver`. */
  prepare(): Promise<void> {
    if (this.#isClosed) return Promise.reject(new Error('the log is closed'))
    this.#preparing = this.#prepare()
    return this.#preparing
  }

  /** The next record goes to the segment prepared. Answers where the one left ends. */
  turnOver(): { readonly segment: number; readonly record: number } {
    if (!this.#next) throw new Error('no segment is prepared')
    const left = { segment: this.#segment, record: this.#record }
    void closeFile(this.#fd)
    this.#fd = this.#next.fd
    this.#allocated = this.#next.allocated
    this.#next = undefined
    this.#segment++
    this.#at = 0
    return left
  }

  /** Forgets the segments up to this one. */
  async drop(upTo: number): Promise<void> {
    for (const number of segmentsOf(this.#dir)) {
      if (number > upTo) continue
      const path = pathOf(this.#dir, number)
      const spare = join(this.#dir, SPARE)
      if (existsSync(spare) || (await stat(path)).size > SPARE_BYTES_MAX) await rm(path, { force: true })
      else await rename(path, spare)
    }
  }

  /** Resolves when nothing is being written any more; nothing can be written afterwards. */
  async close(): Promise<void> {
    if (this.#isClosed) return
    this.#isClosed = true
    await Promise.allSettled([this.#appending, this.#preparing])
    await closeFile(this.#fd)
    if (this.#next) await closeFile(this.#next.fd)
  }

  async #append(buffer: Buffer, payloadBytes: number, lastIdMs: number): Promise<void> {
    buffer.writeUInt32BE(MAGIC, 0)
    buffer.writeUInt32BE(payloadBytes, 4)
    buffer.writeUInt32BE(0, 12)
    buffer.writeDoubleBE(this.#record + 1, 16)
    buffer.writeDoubleBE(lastIdMs, 24)
    buffer.writeUInt32BE(crc32(buffer.subarray(12, HEADER_BYTES + payloadBytes)), 8)
    const end = this.#at + buffer.length
    if (end > this.#allocated) await this.#grow(end)
    await writeAll(this.#fd, buffer, this.#at)
    this.#at = end
    this.#record++
  }

  async #prepare(): Promise<void> {
    if (this.#next) return
    await makeSegment(this.#dir, this.#segment + 1)
    this.#next = openSegment(this.#dir, this.#segment + 1)
  }

  /** On a disk, or a quota, that is almost used up the record alone may still fit. */
  async #grow(end: number): Promise<void> {
    const bytes = Math.ceil((end - this.#allocated) / GROW_BYTES) * GROW_BYTES
    try {
      await writeAll(this.#fd, Buffer.alloc(bytes), this.#allocated)
      this.#allocated += bytes
    } catch (error) {
      if (!['ENOSPC', 'EDQUOT'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error
    }
  }
}

/** Everything in it is on stable storage, so a failure says nothing. */
function closeFile(fd: number): Promise<void> {
  return new Promise((resolve) => { close(fd, () => { resolve() }) })
}

function pathOf(dir: string, segment: number): string {
  return join(dir, String(segment).padStart(12, '0'))
}

function segmentsOf(dir: string): number[] {
  return readdirSync(dir).filter((name) => /^\d{12}$/.test(name)).map(Number).sort((a, b) => a - b)
}

const SYNCED = constants.O_DSYNC as number | undefined

async function makeSegment(dir: string, segment: number): Promise<void> {
  const path = pathOf(dir, segment)
  const spare = join(dir, SPARE)
  if (existsSync(spare)) await rename(spare, path)
  else await (await open(path, 'w', 0o600)).close()
  await syncPath(dir)
}

function openSegment(dir: string, segment: number): { readonly fd: number; readonly allocated: number } {
  const fd = openSync(pathOf(dir, segment), constants.O_RDWR | (SYNCED ?? 0), 0o600)
  return { fd, allocated: fstatSync(fd).size }
}

function writeAll(fd: number, buffer: Buffer, at: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const next = (done: number): void => {
      write(fd, buffer, done, buffer.length - done, at + done, (error, written) => {
        if (error) reject(error)
        else if (done + written < buffer.length) next(done + written)
        else if (SYNCED === undefined) fdatasync(fd, (failure) => { if (failure) reject(failure); else resolve() })
        else resolve()
      })
    }
    next(0)
  })
}

/** The records of a segment. Its end is where no record follows that is numbered on; one further back means that some are lost. */
function* readSegment(dir: string, segment: number, last: number): Generator<LogRecord, undefined> {
  const content = readFileSync(pathOf(dir, segment))
  let at = 0
  for (;;) {
    const record = recordAt(content, at)
    if (record?.number !== last + 1) break
    yield record
    last = record.number
    at += alignedSize(record.payload.length)
  }
  for (; at + HEADER_BYTES <= content.length; at += RECORD_ALIGN) {
    if (content.readUInt32BE(at) !== MAGIC) continue
    const record = recordAt(content, at)
    if (record && record.number > last) throw damaged(dir, `record ${last + 1} of segment ${segment} is missing, while record ${record.number} is there`)
  }
  return undefined
}

/** Size of a record whose payload has so many bytes. */
export function alignedSize(payloadBytes: number): number {
  return Math.ceil((HEADER_BYTES + payloadBytes) / RECORD_ALIGN) * RECORD_ALIGN
}

function recordAt(content: Buffer, at: number): LogRecord | undefined {
  if (at + HEADER_BYTES > content.length || content.readUInt32BE(at) !== MAGIC) return undefined
  const end = at + HEADER_BYTES + content.readUInt32BE(at + 4)
  if (end > content.length || crc32(content.subarray(at + 12, end)) !== content.readUInt32BE(at + 8)) return undefined
  return { number: content.readDoubleBE(at + 16), lastIdMs: content.readDoubleBE(at + 24), payload: content.subarray(at + HEADER_BYTES, end) }
}

function damaged(dir: string, what: string): StorageError {
  return new StorageError(`the log ${dir} is damaged: ${what}. Restore the data directory from a backup, or move it away to begin with an empty one.`)
}
