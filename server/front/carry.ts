/** A client's connection and one to its home, joined: what comes by one leaves by the other, at the pace of the slower. */
import type { Socket } from 'node:net'
import { shareReads } from '../../lib/net/shared-reads.ts'
import type { Connection, FramedConnection } from '../c2s/framed.ts'
import { frame, FrameReader, KIND, takenFrame } from './frames.ts'

const AWAY = Buffer.from([1])
const BACK = Buffer.from([0])
/** So much may wait for a client that takes elements; then the home waits. */
const WAITING_BYTES_MAX = 65_536

/** Joins a TCP or TLS connection. `ended` is called once, when both are over. */
export function carryBytes(client: Socket, home: Socket, begun: readonly Buffer[], closeTimeoutMs: number, ended: () => void): void {
  for (const bytes of begun) if (bytes.length > 0) home.write(bytes)
  shareReads(home)
  client.on('data', (chunk: Buffer) => { if (!passOn(home, chunk)) client.pause() })
  home.on('data', (chunk: Buffer) => { if (!passOn(client, chunk)) home.pause() })
  home.on('drain', () => { client.resume() })
  client.on('drain', () => { home.resume() })
  let open = 2
  for (const [one, other] of [[client, home], [home, client]] as const) {
    one.on('error', ignore)
    one.on('end', () => { finish(other, closeTimeoutMs) })
    one.once('close', () => {
      finish(other, closeTimeoutMs)
      if (--open === 0) ended()
    })
    if (one.destroyed) one.emit('close')
  }
  client.resume()
  home.resume()
}

/** Writes what was read into a buffer that is used again; false when enough waits to be written. For one that has ended it is dropped. */
function passOn(to: Socket, chunk: Buffer): boolean {
  return to.writableEnded || to.destroyed || to.write(Buffer.from(chunk))
}

/** Ends a connection once what was written has left, but not later than after a while. */
function finish(socket: Socket, closeTimeoutMs: number): void {
  if (socket.destroyed || socket.writableEnded) return
  socket.end()
  // What it still sends is read and dropped, so that it closes cleanly.
  socket.resume()
  const timer = setTimeout(() => socket.destroy(), closeTimeoutMs)
  timer.unref()
  socket.once('close', () => clearTimeout(timer))
}

/** Joins a connection that carries elements. */
export function carryElements(client: FramedConnection, home: Socket, begun: readonly Buffer[], closeTimeoutMs: number, ended: () => void): void {
  const { confirms } = client
  const reader = new FrameReader()
  let waiting = 0
  for (const element of begun) home.write(frame(KIND.element, element))
  const toHome = (bytes: Buffer): boolean => home.writableEnded || home.destroyed || home.write(bytes)
  client.on('data', (element: Buffer) => { if (!toHome(frame(KIND.element, element))) client.pause() })
  client.on('heard', () => { toHome(frame(KIND.heard, client.away ? AWAY : BACK)) })
  home.on('drain', () => { client.resume() })
  shareReads(home)
  home.on('data', (chunk: Buffer) => {
    try {
      reader.read(chunk, (_kind, element) => {
        waiting += element.length
        client.pass(element, (error) => {
          waiting -= element.length
          if (confirms && (error === undefined || error === null)) toHome(takenFrame(1))
          if (waiting <= WAITING_BYTES_MAX) home.resume()
        })
      })
    } catch {
      home.destroy()
    }
    // A client that confirms does so in its own time, and its home counts what waits.
    if (!confirms && waiting > WAITING_BYTES_MAX) home.pause()
  })
  home.on('error', ignore)
  const homeGone = (): void => { client.end() }
  home.on('end', homeGone)
  home.once('close', homeGone)
  client.once('close', () => {
    finish(home, closeTimeoutMs)
    ended()
  })
  if (client.destroyed) {
    finish(home, closeTimeoutMs)
    return ended()
  }
  client.resume()
  home.resume()
}

export function isFramed(connection: Connection): connection is FramedConnection {
  return 'writeParts' in connection
}

/** A connection that fails closes, which is heard. */
function ignore(): void { /* see close */ }
