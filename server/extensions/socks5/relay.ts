/**
 * The connections of a proxy for bytestreams: SOCKS version 5 (RFC 1928) as XEP-0065 uses it. Two connections that ask for the same
 * name wait for each other and for their activation; from then on each gets what the other sends.
 */
import net, { type Socket } from 'node:net'
import { Transform } from 'node:stream'
import { networkOf, plainAddress } from '../../../lib/net/addresses.ts'
import { Bucket } from '../../../lib/net/bucket.ts'
import { listenOn } from '../../../lib/net/listen.ts'
import type { Shaper } from '../../config/access.ts'
import type { Limits } from '../../config/limits.ts'
import type { Metrics } from '../../metrics.ts'

/** RFC 1928 §3, §6. */
const VERSION = 5
const NO_AUTHENTICATION = 0
const NO_METHOD = 0xff
const CONNECT = 1
const DOMAIN_NAME = 3
const [SUCCEEDED, FAILURE, NOT_ALLOWED, BAD_COMMAND, BAD_ADDRESS] = [0, 1, 2, 7, 8] as const
/** The longest greeting and request. */
const GREETING_MAX = 2 + 255
const REQUEST_MAX = 5 + 255 + 2

const HANDSHAKE_MS = 30_000
/** How long a connection waits for its activation. */
const WAIT_MS = 120_000
/** A bytestream on which nothing moves. */
const IDLE_MS = 3_600_000

export interface RelayAddress {
  readonly ip: string
  readonly port: number
  /** Bytes of each direction that are kept while the receiver is slow. */
  readonly bufferBytes: number
}

/** Why a bytestream was not activated: nobody or one party is connected, it is active, or its owner has as many as they may have. */
export type ActivationProblem = 'unknown' | 'alone' | 'active' | 'too-many'

export interface Relay {
  /** Where it listens; undefined while it does not. */
  readonly port: number | undefined
  /** Listens from now on; `failed` is told when it cannot. The last of those who call the result ends that, and leaves what is under way. */
  open(address: RelayAddress, failed: (error: Error) => void): () => Promise<void>
  activate(name: string, by: { readonly owner: string; readonly max: number; readonly shaper: Shaper | undefined }): ActivationProblem | undefined
}

interface Bytestream {
  readonly parties: Socket[]
  active: boolean
}

export function createRelay({ metrics, limits }: { readonly metrics: Metrics; readonly limits: Limits }): Relay {
  const streams = new Map<string, Bytestream>()
  const connections = new Set<Socket>()
  /** Connections by network that are not part of an active bytestream. */
  const waiting = new Map<string, number>()
  /** Active bytestreams by owner. */
  const active = new Map<string, number>()
  const activated = metrics.counter('tidings_bytestreams_total', 'Bytestreams that were relayed')
  const bytes = metrics.counter('tidings_bytestream_bytes_total', 'Bytes relayed between clients')
  let server: net.Server | undefined
  let port: number | undefined
  let users = 0

  function accept(socket: Socket): void {
    const network = networkOf(plainAddress(socket.remoteAddress))
    const here = network === '::1' || network === '0:0:0:0' || network.startsWith('127.')
    if (connections.size >= limits.bytestreamConnections || (!here && (waiting.get(network) ?? 0) >= limits.bytestreamConnectionsPerAddress)) return void socket.destroy()
    connections.add(socket)
    // The process does not wait for them.
    socket.unref()
    count(waiting, network, 1)
    let leftWaiting = false
    const leave = (): void => {
      if (!leftWaiting) count(waiting, network, -1)
      leftWaiting = true
    }
    socket.on('error', () => undefined)
    socket.once('close', () => {
      connections.delete(socket)
      leave()
    })
    socket.once('activated', leave)
    socket.setTimeout(0)
    const timer = setTimeout(() => socket.destroy(), HANDSHAKE_MS)
    socket.once('close', () => clearTimeout(timer))
    readHandshake(socket, (name) => {
      clearTimeout(timer)
      return join(name, socket)
    })
  }

  /** False when two have joined already. */
  function join(name: string, socket: Socket): boolean {
    const stream = streams.get(name) ?? { parties: [], active: false }
    if (stream.active || stream.parties.length === 2) return false
    stream.parties.push(socket)
    streams.set(name, stream)
    const timer = setTimeout(() => { if (!stream.active) socket.destroy() }, WAIT_MS)
    // A client that hangs up before the activation.
    socket.once('end', () => { if (!stream.active) socket.destroy() })
    socket.once('close', () => {
      clearTimeout(timer)
      stream.parties.splice(stream.parties.indexOf(socket), 1)
      if (stream.parties.length === 0) streams.delete(name)
    })
    // XEP-0065 §11.1: what comes before the activation is ignored.
    socket.resume()
    return true
  }

  return {
    get port() { return port },

    open({ ip, port: wanted, bufferBytes }, failed) {
      users++
      if (server === undefined) {
        const opened = net.createServer({ allowHalfOpen: true, noDelay: true, keepAlive: true, highWaterMark: bufferBytes }, accept)
        server = opened
        listenOn(opened, { port: wanted, ip }).then((bound) => {
          if (server !== opened) return void opened.close()
          port = bound
          opened.on('error', failed)
        }, (error: unknown) => {
          if (server === opened) server = undefined
          failed(error as Error)
        })
      }
      let released = false
      return async () => {
        if (released) return
        released = true
        if (--users > 0 || server === undefined) return
        const closing = server
        server = port = undefined
        if (closing.listening) closing.close()
      }
    },

    activate(name, { owner, max, shaper }) {
      const stream = streams.get(name)
      if (stream === undefined) return 'unknown'
      if (stream.active) return 'active'
      const [one, other] = stream.parties
      if (one === undefined || other === undefined) return 'alone'
      if ((active.get(owner) ?? 0) >= max) return 'too-many'
      stream.active = true
      count(active, owner, 1)
      activated.inc()
      let open = 2
      for (const [from, to] of [[one, other], [other, one]] as const) {
        from.emit('activated')
        from.setTimeout(IDLE_MS, () => from.destroy())
        from.on('data', (chunk: Buffer) => bytes.inc(chunk.length))
        if (shaper === undefined) from.pipe(to)
        else from.pipe(throttle(shaper)).pipe(to)
        from.once('close', () => {
          // A connection that was lost; what it had sent still goes out.
          if (!from.readableEnded) to.destroySoon()
          if (--open === 0) count(active, owner, -1)
        })
      }
      return undefined
    },
  }
}

function count(map: Map<string, number>, key: string, by: number): void {
  const value = (map.get(key) ?? 0) + by
  if (value <= 0) map.delete(key)
  else map.set(key, value)
}

/** RFC 1928 §3, §4: reads greeting and request; `join` says whether there is room under the name that is asked for. */
function readHandshake(socket: Socket, join: (name: string) => boolean): void {
  let read = Buffer.alloc(0)
  let greeted = false
  const refuse = (reply: Buffer): void => {
    socket.off('data', onData)
    socket.end(reply)
    socket.resume()
    setTimeout(() => socket.destroy(), 1000).unref()
  }
  const onData = (chunk: Buffer): void => {
    read = Buffer.concat([read, chunk])
    if (!greeted) {
      if (read[0] !== VERSION) return void socket.destroy()
      const length = 2 + (read[1] ?? GREETING_MAX)
      if (read.length < length) return
      if (!read.subarray(2, length).includes(NO_AUTHENTICATION)) return refuse(Buffer.from([VERSION, NO_METHOD]))
      greeted = true
      read = read.subarray(length)
      socket.write(Buffer.from([VERSION, NO_AUTHENTICATION]))
    }
    if (read.length < 5) return
    const [version, command, , type, nameLength] = read as unknown as [number, number, number, number, number]
    if (version !== VERSION) return void socket.destroy()
    if (command !== CONNECT) return refuse(failure(BAD_COMMAND))
    if (type !== DOMAIN_NAME) return refuse(failure(BAD_ADDRESS))
    const length = 5 + nameLength + 2
    if (read.length < length) {
      if (read.length > REQUEST_MAX) refuse(failure(FAILURE))
      return
    }
    const name = read.latin1Slice(5, 5 + nameLength).toLowerCase()
    if (!/^[0-9a-f]{40}$/.test(name)) return refuse(failure(NOT_ALLOWED))
    socket.off('data', onData)
    if (!join(name)) return refuse(failure(NOT_ALLOWED))
    // XEP-0065 §6.3.2: BND.ADDR and BND.PORT are what was asked for.
    socket.write(Buffer.concat([Buffer.from([VERSION, SUCCEEDED, 0]), read.subarray(3, length)]))
  }
  socket.on('data', onData)
  socket.once('end', () => { if (socket.listeners('data').includes(onData)) socket.destroy() })
}

/** RFC 1928 §6, with an address of zeros. */
function failure(code: number): Buffer {
  return Buffer.from([VERSION, code, 0, 1, 0, 0, 0, 0, 0, 0])
}

/** Lets through so many bytes a second. */
function throttle(shaper: Shaper): Transform {
  const bucket = new Bucket()
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      const waitMs = bucket.take(chunk.length, shaper, performance.now())
      if (waitMs === 0) return done(null, chunk)
      setTimeout(done, waitMs, null, chunk)
    },
  })
}
