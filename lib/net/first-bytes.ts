import type { Socket } from 'node:net'
import { shareReads } from './shared-reads.ts'

/**
 * Waits for the first bytes on a socket that nobody reads; they stay in it, and it is paused. TLS that begins on a socket with bytes takes a buffer of
 * about their size for its reads; on an empty one it takes 64 KiB, as long as the connection lasts. Exactly one of the callbacks is
 * called: `failed` after `timeoutMs`, or when the connection ends before. The socket is then still to be destroyed.
 */
export function awaitFirstBytes(socket: Socket, timeoutMs: number, done: () => void, failed: () => void): void {
  const settle = (): void => {
    clearTimeout(timer)
    socket.off('data', came).off('end', ended).off('close', ended)
  }
  const ended = (): void => {
    settle()
    failed()
  }
  const came = (chunk: Buffer): void => {
    settle()
    socket.pause()
    socket.unshift(Buffer.from(chunk))
    done()
  }
  const timer = setTimeout(ended, timeoutMs)
  timer.unref()
  shareReads(socket)
  socket.on('data', came).on('end', ended).on('close', ended)
  socket.resume()
}
