/**
 * The control socket: a Unix socket in the data directory, for whoever may read that directory.
 * One line of JSON asks, one answers: `{"command":"register","args":["alice","localhost","secret"]}`, `{"code":0,"lines":[…]}`.
 */
import { createHash } from 'node:crypto'
import { lstat, rm } from 'node:fs/promises'
import { type Socket, connect, createServer } from 'node:net'
import { tmpdir, userInfo } from 'node:os'
import path from 'node:path'
import { listenOn } from '../../lib/net/listen.ts'
import type { Log } from '../log.ts'
import type { Admin, AdminResult } from './admin.ts'

/** The longest path that fits a socket address on every system. */
const PATH_BYTES_MAX = 103
const LINE_BYTES_MAX = 65_536
const CONNECTIONS_MAX = 16
const IDLE_MS = 30_000
/** How long a server may take to start, or to end, before a command does not wait for it any more. */
const STARTING_MS = 20_000
const LOOK_EVERY_MS = 100

/** Where the control socket of a data directory is. */
export function controlPath(dataDir: string): string { return socketPath(dataDir, 'control.sock') }

/** Where a socket of a data directory is; elsewhere when the directory's name is too long for one. */
export function socketPath(dataDir: string, file: string): string {
  const inside = path.join(path.resolve(dataDir), file)
  if (Buffer.byteLength(inside) <= PATH_BYTES_MAX) return inside
  const name = createHash('sha256').update(path.resolve(dataDir)).digest('hex').slice(0, 24)
  return path.join(tmpdir(), `tidings-${name}${file === 'control.sock' ? '.sock' : `-${file}`}`)
}

/** Listens; a socket left by a server that was killed is replaced. Call only while holding the data directory. */
export async function listenControl(dataDir: string, admin: Admin, log: Log): Promise<{ close(): Promise<void> }> {
  const file = controlPath(dataDir)
  await rm(file, { force: true })
  const open = new Set<Socket>()
  const server = createServer((socket) => {
    open.add(socket)
    socket.on('close', () => { open.delete(socket) })
    serve(socket, admin, log)
  })
  server.maxConnections = CONNECTIONS_MAX
  await listenOn(server, { port: 0, ip: '', unixPath: file, unixSocket: { mode: 0o600 } })
  server.on('error', (error) => { log.error({ what: 'control_failed', error: error.message }) })
  return {
    async close() {
      const closed = new Promise<void>((resolve) => { server.close(() => resolve()) })
      // Answers that are on their way, such as that of `stop`, still leave.
      for (const socket of open) socket.destroySoon()
      await closed
    },
  }
}

function serve(socket: Socket, admin: Admin, log: Log): void {
  let received = ''
  let work = Promise.resolve()
  socket.setEncoding('utf8')
  socket.setTimeout(IDLE_MS, () => { socket.destroy() })
  socket.on('error', () => { socket.destroy() })
  socket.on('data', (text: string) => {
    received += text
    if (received.length > LINE_BYTES_MAX) return void socket.destroy()
    for (let end = received.indexOf('\n'); end !== -1; end = received.indexOf('\n')) {
      const line = received.slice(0, end)
      received = received.slice(end + 1)
      work = work.then(async () => {
        // An export takes as long as it takes.
        socket.setTimeout(0)
        const result = await answerTo(line, admin, log)
        socket.setTimeout(IDLE_MS)
        if (socket.writable) socket.write(`${JSON.stringify(result)}\n`)
      })
    }
  })
}

async function answerTo(line: string, admin: Admin, log: Log): Promise<AdminResult> {
  let asked: unknown
  try {
    asked = JSON.parse(line)
  } catch {
    return { code: 2, lines: ['not JSON'] }
  }
  const { command, args } = (typeof asked === 'object' && asked !== null ? asked : {}) as { command?: unknown; args?: unknown }
  if (typeof command !== 'string' || !Array.isArray(args) || !args.every((each): each is string => typeof each === 'string')) return { code: 2, lines: ['expected command and args'] }
  const result = await admin.run(command, args)
  log.info({ what: 'admin_command', command, code: result.code })
  return result
}

/** Asks the server, also one that is about to start, which `isHeld` tells: somebody has the data directory. Undefined when there is none. */
export async function askServer(dataDir: string, command: string, args: readonly string[], isHeld: () => Promise<boolean>): Promise<AdminResult | undefined> {
  for (const end = Date.now() + STARTING_MS; ; ) {
    const answer = await askControl(dataDir, command, args)
    if (answer !== undefined || Date.now() > end || !(await isHeld())) return answer
    await new Promise((resolve) => { setTimeout(resolve, LOOK_EVERY_MS) })
  }
}

/** Asks a running server; undefined when none listens. */
export async function askControl(dataDir: string, command: string, args: readonly string[]): Promise<AdminResult | undefined> {
  const file = controlPath(dataDir)
  const found = await lstat(file).catch(() => undefined)
  if (found === undefined) return undefined
  // Outside the data directory anybody could have put a socket there.
  if (!file.startsWith(path.resolve(dataDir)) && found.uid !== userInfo().uid) throw new Error(`${file} belongs to another user`)
  return new Promise((resolve, reject) => {
    let received = ''
    const socket = connect(file)
    socket.setEncoding('utf8')
    socket.on('connect', () => { socket.write(`${JSON.stringify({ command, args })}\n`) })
    socket.on('data', (text: string) => {
      received += text
      if (!received.includes('\n')) return
      socket.end()
      try {
        resolve(JSON.parse(received.slice(0, received.indexOf('\n'))) as AdminResult)
      } catch {
        reject(new Error('the server answered something else than JSON'))
      }
    })
    socket.on('close', () => { reject(new Error('the server closed the control socket without an answer')) })
    socket.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ECONNREFUSED' || error.code === 'ENOENT') resolve(undefined)
      else reject(new Error(error.code === 'EACCES' ? `you may not use ${file}` : error.message))
    })
  })
}
