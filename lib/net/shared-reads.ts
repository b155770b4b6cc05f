/** Reading without an allocation for each read. */
import { Socket } from 'node:net'

/** All connections are read into this. */
const shared = Buffer.allocUnsafeSlow(65_536)

function emitRead(this: Socket, bytes: number, buffer: Buffer): boolean {
  this.emit('data', buffer.subarray(0, bytes))
  return true
}

type Fields = Record<symbol, unknown>

/** Where `net.Socket` keeps the buffer and the callback of its option `onread`; undefined when Node keeps them otherwise. */
let places: { readonly buffer: symbol; readonly callback: symbol } | undefined | null = null

function findPlaces(): typeof places {
  const socket = new Socket({ onread: { buffer: shared, callback: emitRead as (bytes: number, buffer: Uint8Array) => boolean } })
  const fields = socket as unknown as Fields
  const symbols = Object.getOwnPropertySymbols(socket)
  const buffer = symbols.find((symbol) => fields[symbol] === shared)
  const callback = symbols.find((symbol) => fields[symbol] === emitRead)
  return buffer === undefined || callback === undefined ? undefined : { buffer, callback }
}

/**
 * From now on each `data` of the socket is a piece of one buffer that is used again for the next read of any socket: who keeps
 * bytes must copy them, and there may be no other reader. To be called before the socket is read. What `onread` of `net.Socket` does for
 * sockets that connect, this does for accepted ones and for TLS; where Node does not let it, `data` stays as it is.
 */
export function shareReads(socket: Socket): void {
  if (places === null) places = findPlaces()
  const handle = (socket as unknown as { readonly _handle?: { useUserBuffer?(buffer: Buffer): void } | null })._handle
  if (places === undefined || places === null || typeof handle?.useUserBuffer !== 'function') return
  const fields = socket as unknown as Fields
  fields[places.buffer] = shared
  fields[places.callback] = emitRead
  handle.useUserBuffer(shared)
}
