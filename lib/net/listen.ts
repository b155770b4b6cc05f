/** Where a server listens: a TCP port or a Unix socket. */
import { chmod, chown, lstat, unlink } from 'node:fs/promises'
import { connect, type Server } from 'node:net'

/** The rights of a Unix socket's file; what is undefined is left as the system makes it. */
export interface SocketRights {
  readonly mode?: number | undefined
  readonly owner?: number | undefined
  readonly group?: number | undefined
}

export interface ListenAddress {
  /** A TCP port; 0 picks a free one. */
  readonly port: number
  readonly ip: string
  /** Path of a Unix socket, in place of the port. */
  readonly unixPath?: string | undefined
  readonly unixSocket?: SocketRights | undefined
  /** Connections waiting to be accepted. */
  readonly backlog?: number
  /** Other processes listen on the same port; the system divides connections among them. */
  readonly reusePort?: boolean
}

const BACKLOG_DEFAULT = 511

/**
 * Starts listening; resolves with the port, 0 for a Unix socket. A socket file that a killed server left is replaced; rejects
 * when somebody listens there already, when anything else is in its place, and when its rights cannot be set.
 */
export async function listenOn(server: Server, address: ListenAddress): Promise<number> {
  const { port, ip, unixPath, unixSocket = {}, backlog = BACKLOG_DEFAULT, reusePort = false } = address
  if (unixPath === undefined) {
    await listening(server, () => server.listen({ port, host: ip, backlog, ...(reusePort ? { reusePort } : {}) }))
    const bound = server.address()
    return typeof bound === 'object' && bound !== null ? bound.port : 0
  }
  if (await isLeftBehind(unixPath)) await unlink(unixPath)
  await listening(server, () => withMode(unixSocket.mode, () => server.listen({ path: unixPath, backlog })))
  try {
    if (unixSocket.mode !== undefined) await chmod(unixPath, unixSocket.mode)
    if (unixSocket.owner !== undefined || unixSocket.group !== undefined) await chown(unixPath, unixSocket.owner ?? -1, unixSocket.group ?? -1)
  } catch (error) {
    server.close()
    throw error
  }
  return 0
}

async function listening(server: Server, listen: () => void): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  server.once('error', reject)
  server.once('listening', resolve)
  try {
    listen()
    await promise
  } finally {
    server.off('error', reject)
    server.off('listening', resolve)
  }
}

/** `listen` makes the file before it returns: nobody may connect between its creation and its change of mode. */
function withMode(mode: number | undefined, listen: () => void): void {
  if (mode === undefined) return listen()
  const before = process.umask(~mode & 0o777)
  try {
    listen()
  } finally {
    process.umask(before)
  }
}

/** Whether a socket is there that nobody listens on. */
async function isLeftBehind(file: string): Promise<boolean> {
  const found = await lstat(file).catch(() => undefined)
  if (found === undefined) return false
  if (!found.isSocket()) throw new Error(`${file} exists and is not a socket`)
  const answered = await new Promise<boolean>((resolve) => {
    const socket = connect(file, () => {
      socket.destroy()
      resolve(true)
    })
    socket.on('error', (error: NodeJS.ErrnoException) => resolve(error.code !== 'ECONNREFUSED' && error.code !== 'ENOENT'))
  })
  if (answered) throw new Error(`somebody listens on ${file} already`)
  return true
}
