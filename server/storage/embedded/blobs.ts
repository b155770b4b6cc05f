/**
 * Files on disk: `blobs/ab/cdef…`, by the hash of the key, so that no key can name a path. A file is written under a temporary
 * name, synced, and only then linked to its own, which fails when there is one.
 */
import { createHash, randomBytes } from 'node:crypto'
import { createReadStream, mkdirSync, rmSync } from 'node:fs'
import { link, mkdir, open, rm, stat, statfs } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { StorageError } from '../errors.ts'
import { type Blobs } from '../shapes.ts'
import { syncPath } from './sync.ts'

/** `minFreeBytes` of the disk stay free of uploads. `isShared`: other processes may be writing files there. */
export function openBlobs(dir: string, minFreeBytes: number, isShared = false): Blobs {
  const temporary = join(dir, 'unfinished')
  // What a killed process left.
  if (!isShared) rmSync(temporary, { recursive: true, force: true })
  mkdirSync(temporary, { recursive: true, mode: 0o700 })

  function pathOf(key: string): string {
    const hash = createHash('sha256').update(key).digest('hex')
    return join(dir, hash.slice(0, 2), hash.slice(2))
  }

  async function statOf(path: string): Promise<{ size: number; type: undefined; made: number } | undefined> {
    try {
      const { size, mtimeMs } = await stat(path)
      return { size, type: undefined, made: mtimeMs }
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
      throw error
    }
  }

  return {
    async put(key, size, body) {
      const path = pathOf(key)
      if (await statOf(path) !== undefined) throw new StorageError(`a file of this key exists: ${key}`)
      const disk = await statfs(dir)
      if (disk.bavail * disk.bsize - size < minFreeBytes) throw Object.assign(new StorageError('no space is left for this file'), { code: 'ENOSPC' })
      const unfinished = join(temporary, randomBytes(12).toString('hex'))
      const file = await open(unfinished, 'wx', 0o600)
      try {
        let length = 0
        for await (const part of body) {
          length += part.length
          if (length > size) throw new StorageError(`the file is longer than the ${size} bytes announced`)
          await writeAll(file, part)
        }
        if (length < size) throw new StorageError(`the file is shorter than the ${size} bytes announced`)
        await file.sync()
        await mkdir(dirname(path), { recursive: true, mode: 0o700 })
        try {
          await link(unfinished, path)
        } catch (error) {
          if ((error as NodeJS.ErrnoException).code === 'EEXIST') throw new StorageError(`a file of this key exists: ${key}`)
          throw error
        }
        await syncPath(dirname(path))
        await syncPath(dir)
      } finally {
        await file.close()
        await rm(unfinished, { force: true })
      }
    },

    async get(key, range) {
      const path = pathOf(key)
      const known = await statOf(path)
      if (known === undefined) return undefined
      const { size } = known
      if (size === 0 || (range && (range.start >= size || range.end < range.start))) return { size, body: nothing() }
      return { size, body: createReadStream(path, range ? { start: range.start, end: range.end } : {}) }
    },

    stat: (key) => statOf(pathOf(key)),

    async delete(key) {
      await rm(pathOf(key), { force: true })
    },
  }
}

async function* nothing(): AsyncIterable<Uint8Array> {}

async function writeAll(file: Awaited<ReturnType<typeof open>>, part: Uint8Array): Promise<void> {
  for (let at = 0; at < part.length;) at += (await file.write(part, at)).bytesWritten
}
