/**
 * Looks at a data directory before LMDB does: LMDB maps its file into memory and believes it, so that a damaged one ends the
 * process. What is checked: the FORMAT file, the two meta pages of `data.mdb`, the roots of its trees, and that the file is as long as the newer one says.
 */
import { closeSync, existsSync, fstatSync, fsyncSync, ftruncateSync, openSync, readFileSync, readSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { StorageError } from '../errors.ts'
import { syncPathNow } from './sync.ts'

const FORMAT = 'tidings-data 2'
/** Written first: what is found beside it was never finished. */
const FORMAT_NEW = 'tidings-data 2 being made'

export const DATABASE = 'store'
export const LOG = 'log'
const DATA_FILE = 'data.mdb'

const META_MAGIC = 0xbeefc0de
const META_VERSION = 2
/** Offsets in a meta page, after LMDB's page header of 24 bytes. */
const MAGIC_AT = 24
const VERSION_AT = 28
const PAGE_SIZE_AT = 48
const LAST_PAGE_AT = 144
const TRANSACTION_AT = 152
const META_BYTES = 168
/** Roots of the tree of free pages and of the tree of rows. */
const FREE_ROOT_AT = 88
const ROOT_AT = 136
const NO_PAGE = 0xffff_ffff_ffff_ffffn
const PAGE_HEADER_BYTES = 24
const NODE_HEADER_BYTES = 8
const BRANCH = 1
const LEAF = 2
const OVERFLOW = 4
/** Of a node: its value is on overflow pages. */
const BIG = 1
/** A tree deeper than this is no tree. */
const DEPTH_MAX = 32
const RESTORE = 'Restore the data directory from a backup, or move it away to begin with an empty one.'

/**
 * Refuses a directory that is damaged or not ours. Answers whether it is new: then call `finishDirectory` when everything in it is
 * made.
 */
export function checkDirectory(dir: string): boolean {
  const formatFile = join(dir, 'FORMAT')
  const dataFile = join(dir, DATABASE, DATA_FILE)
  let format: string | undefined
  try {
    format = readFileSync(formatFile, 'latin1').slice(0, 200).trim()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw new StorageError(`cannot read ${formatFile}: ${(error as Error).message}`)
  }
  if (format === undefined) {
    if (existsSync(dataFile)) throw new StorageError(`${dir} holds a database but no FORMAT file, which says its version: it is damaged or not a data directory of Tidings. ${RESTORE}`)
    writeFormat(dir, FORMAT_NEW)
    return true
  }
  if (format === FORMAT_NEW) {
    // The first start was interrupted; nothing was ever acknowledged.
    for (const name of [DATABASE, LOG]) rmSync(join(dir, name), { recursive: true, force: true })
    return true
  }
  if (format !== FORMAT) {
    const version = /^tidings-data (\d{1,9})\b/.exec(format)?.[1]
    if (version !== undefined) throw new StorageError(`${dir} was written in data format ${version}, and this version of Tidings reads format 2. Run the version that wrote it.`)
    throw new StorageError(`${formatFile} is not a format file of Tidings: is this the right data directory? ${RESTORE}`)
  }
  if (!existsSync(dataFile)) throw new StorageError(`${dataFile} is missing, although FORMAT says that ${dir} is in use. ${RESTORE}`)
  checkDatabase(dataFile)
  return false
}

/** The names of all files last before the format says that the directory is in use. */
export function finishDirectory(dir: string): void {
  for (const name of [DATABASE, LOG]) syncPathNow(join(dir, name))
  writeFormat(dir, FORMAT)
}

function writeFormat(dir: string, text: string): void {
  const temporary = join(dir, 'FORMAT.tmp')
  const fd = openSync(temporary, 'w', 0o600)
  try {
    writeFileSync(fd, text + '\n')
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
  renameSync(temporary, join(dir, 'FORMAT'))
  syncPathNow(dir)
}

interface Meta {
  readonly pageSize: number
  readonly lastPage: number
  readonly transaction: bigint
  readonly roots: readonly bigint[]
}

function checkDatabase(file: string): void {
  const fd = openSync(file, 'r+')
  try {
    // The log is cut off where the database says: a killed process's last commit may be in the system's memory alone.
    fsyncSync(fd)
    const size = fstatSync(fd).size
    const damaged = (what: string): StorageError => new StorageError(`the database ${file} is damaged: ${what}. ${RESTORE}`)
    if (size === 0) throw damaged('it is empty')
    const first = readMeta(fd, 0)
    if (!first) throw damaged('its first page is no database header of this format')
    const second = readMeta(fd, first.pageSize)
    if (!second) throw damaged('its second page is no database header of this format')
    if (second.pageSize !== first.pageSize) throw damaged('its two headers contradict each other')
    const newer = first.transaction >= second.transaction ? first : second
    const needed = (newer.lastPage + 1) * newer.pageSize
    // Pages at the end that were taken and freed in one transaction are counted and never written, so a file may rightly be
    // shorter: then every page in use must be found. Lengthening the file spares the next start the same.
    if (size < needed) {
      for (const root of newer.roots) {
        if (root !== NO_PAGE && !isWhole(fd, newer.pageSize, Math.floor(size / newer.pageSize), Number(root), 0)) throw damaged(`it is truncated or overwritten (${size} bytes)`)
      }
      ftruncateSync(fd, needed)
    } else {
      for (const root of newer.roots) if (root !== NO_PAGE && !readPage(fd, newer.pageSize, Number(root))) throw damaged('the root of its tree is not there')
    }
  } finally {
    closeSync(fd)
  }
}

function readMeta(fd: number, at: number): Meta | undefined {
  const page = Buffer.alloc(META_BYTES)
  if (readSync(fd, page, 0, META_BYTES, at) < META_BYTES) return undefined
  if (page.readUInt32LE(MAGIC_AT) !== META_MAGIC || page.readUInt32LE(VERSION_AT) !== META_VERSION) return undefined
  const pageSize = page.readUInt32LE(PAGE_SIZE_AT)
  if (pageSize < 512 || pageSize > 65_536 || (pageSize & (pageSize - 1)) !== 0) return undefined
  const lastPage = Number(page.readBigUInt64LE(LAST_PAGE_AT))
  if (lastPage > 2 ** 40) return undefined
  return {
    pageSize, lastPage, transaction: page.readBigUInt64LE(TRANSACTION_AT),
    roots: [page.readBigUInt64LE(FREE_ROOT_AT), page.readBigUInt64LE(ROOT_AT)],
  }
}

/** A page whose header says that it is the one asked for. */
function readPage(fd: number, pageSize: number, number: number): Buffer | undefined {
  const page = Buffer.alloc(pageSize)
  if (!Number.isSafeInteger(number) || readSync(fd, page, 0, pageSize, number * pageSize) < pageSize) return undefined
  return page.readBigUInt64LE(0) === BigInt(number) ? page : undefined
}

/** Whether the tree below a page lies within the file. */
function isWhole(fd: number, pageSize: number, pages: number, number: number, depth: number): boolean {
  const page = depth > DEPTH_MAX ? undefined : readPage(fd, pageSize, number)
  if (!page) return false
  const flags = page.readUInt16LE(18)
  if ((flags & (BRANCH | LEAF)) === 0) return false
  const nodes = page.readUInt16LE(20) >> 1
  if (PAGE_HEADER_BYTES + 2 * nodes > pageSize) return false
  for (let i = 0; i < nodes; i++) {
    const at = PAGE_HEADER_BYTES + page.readUInt16LE(PAGE_HEADER_BYTES + 2 * i)
    if (at + NODE_HEADER_BYTES > pageSize) return false
    if (flags & BRANCH) {
      const child = page.readUInt32LE(at) + page.readUInt16LE(at + 4) * 2 ** 32
      if (!isWhole(fd, pageSize, pages, child, depth + 1)) return false
    } else if (page.readUInt16LE(at + 4) & BIG) {
      const value = at + NODE_HEADER_BYTES + page.readUInt16LE(at + 6)
      if (value + 8 > pageSize) return false
      const first = readPage(fd, pageSize, Number(page.readBigUInt64LE(value)))
      if (!first || (first.readUInt16LE(18) & OVERFLOW) === 0) return false
      if (Number(first.readBigUInt64LE(0)) + first.readUInt32LE(20) > pages) return false
    }
  }
  return true
}
