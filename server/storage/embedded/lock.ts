/**
 * One process at a time may use a data directory. The lock is a Unix socket in the directory on which its holder listens: the
 * kernel closes it with the process, whatever ends it (a killed process that nobody has reaped too), and it is found from other
 * containers that mount the directory. Whoever connects is told the holder's process id.
 */
import { closeSync, linkSync, openSync, renameSync, rmSync, statSync } from 'node:fs'
import { connect, createServer, type Server } from 'node:net'
import { join } from 'node:path'
import { StorageError } from '../errors.ts'

const NAME = 'lock'
/** Two starts that replace the same stale lock at once settle within this time. */
const SETTLE_MS = 60

export interface Lock {
  release(): Promise<void>
}

/** Takes the lock, or throws a StorageError that names the holder. */
export async function lockDirectory(dir: string): Promise<Lock> {
  const path = join(dir, NAME)
  const mine = `${NAME}.${process.pid}.${Math.random().toString(36).slice(2, 8)}`
  // A socket's path may have 107 bytes at most: go through the directory's descriptor.
  const fd = openSync(dir, 'r')
  const short = shortPath(dir, fd)
  const server = createServer((socket) => {
    socket.on('error', () => {})
    socket.end(String(process.pid))
  })
  try {
    await listen(server, join(short, mine))
    server.unref()
    const inode = statSync(join(dir, mine)).ino
    let replaced = false
    try {
      linkSync(join(dir, mine), path)
      rmSync(join(dir, mine))
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
      const holder = await holderOf(join(short, NAME))
      if (holder !== undefined) throw held(dir, holder)
      renameSync(join(dir, mine), path)
      replaced = true
    }
    if (replaced) {
      await new Promise((resolve) => { setTimeout(resolve, SETTLE_MS) })
      if (statSync(path).ino !== inode) throw held(dir, await holderOf(join(short, NAME)) ?? '?')
    }
    return {
      async release() {
        try {
          if (statSync(path).ino === inode) rmSync(path)
        } catch {
          // The directory is gone; so is the lock.
        }
        await close(server)
        closeSync(fd)
      },
    }
  } catch (error) {
    await close(server)
    rmSync(join(dir, mine), { force: true })
    closeSync(fd)
    throw error instanceof StorageError ? error : new StorageError(`cannot lock the data directory ${dir}: ${(error as Error).message}`)
  }
}

/** Whether a process uses the directory: one that serves, starts, ends, or works on it alone. */
export async function isHeld(dir: string): Promise<boolean> {
  let fd: number
  try {
    fd = openSync(dir, 'r')
  } catch {
    return false
  }
  try {
    return await holderOf(join(shortPath(dir, fd), NAME)) !== undefined
  } finally {
    closeSync(fd)
  }
}

function shortPath(dir: string, fd: number): string {
  return process.platform === 'linux' ? `/proc/self/fd/${fd}` : dir
}

function held(dir: string, pid: string): StorageError {
  return new StorageError(`a server is running on this data directory: ${dir} is in use by process ${pid}`)
}

function listen(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen({ path, backlog: 64 }, () => {
      server.off('error', reject)
      resolve()
    })
  })
}

function close(server: Server): Promise<void> {
  return new Promise((resolve) => { server.close(() => { resolve() }) })
}

/** The process id of who listens, `?` when it is too busy to say, undefined when nobody does. */
function holderOf(path: string): Promise<string | undefined> {
  return new Promise((resolve) => {
    let text = ''
    let connected = false
    const socket = connect(path)
    const finish = (): void => {
      socket.destroy()
      resolve(connected ? text || '?' : undefined)
    }
    socket.setTimeout(500, finish)
    socket.on('connect', () => { connected = true })
    socket.on('data', (data) => { text += data.toString('latin1').replaceAll(/\D/g, '').slice(0, 10) })
    socket.on('end', finish)
    socket.on('error', finish)
  })
}
