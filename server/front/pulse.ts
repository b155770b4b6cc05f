/**
 * Two processes that pass clients between them also say now and then that they are there, on a connection of its own: when the network between them
 * fails, nothing else would tell of it as long as both are alive. Each then ends the clients that it has by the other, to come again by another way.
 */
import type { Socket } from 'node:net'

export interface PulseTimes {
  readonly everyMs: number
  readonly silentMs: number
}

export const PULSE_TIMES: PulseTimes = { everyMs: 1000, silentMs: 6000 }
const BEAT = Buffer.from([0])

interface Peer {
  /** Connections with it that would have to end. */
  count: number
  socket: Socket | undefined
  isOpening: boolean
  heardAt: number
}

export interface PulsesParts {
  /** Opens a connection to a process; undefined for who waits for it. Rejects when it does not answer; answers undefined when it does but takes none. */
  readonly open?: (peer: string) => Promise<Socket | undefined>
  /** Nothing comes from it any more. */
  readonly silent: (peer: string) => void
  readonly times?: PulseTimes
}

export class Pulses {
  readonly #parts: PulsesParts
  readonly #times: PulseTimes
  readonly #peers = new Map<string, Peer>()
  #timer: NodeJS.Timeout | undefined
  #tickedAt = 0

  constructor(parts: PulsesParts) {
    this.#parts = parts
    this.#times = parts.times ?? PULSE_TIMES
  }

  /** A connection with it has begun. Call the result when that is over. */
  use(name: string): () => void {
    const peer = this.#of(name)
    if (peer.count++ === 0 && peer.socket === undefined) this.#open(name, peer)
    let isOver = false
    return () => {
      if (isOver) return
      isOver = true
      if (--peer.count === 0 && (this.#parts.open !== undefined || peer.socket === undefined)) this.#forget(name, peer)
    }
  }

  /** It has connected. */
  joined(name: string, socket: Socket): void {
    const peer = this.#of(name)
    peer.socket?.destroy()
    this.#listen(peer, socket)
    socket.once('close', () => { if (peer.count === 0 && peer.socket === undefined) this.#forget(name, peer) })
  }

  close(): void {
    clearInterval(this.#timer)
    this.#timer = undefined
    for (const { socket } of this.#peers.values()) socket?.destroy()
    this.#peers.clear()
  }

  #of(name: string): Peer {
    let peer = this.#peers.get(name)
    if (peer === undefined) this.#peers.set(name, peer = { count: 0, socket: undefined, isOpening: false, heardAt: performance.now() })
    if (this.#timer === undefined) {
      this.#tickedAt = performance.now()
      this.#timer = setInterval(() => { this.#tick() }, this.#times.everyMs).unref()
    }
    return peer
  }

  #forget(name: string, peer: Peer): void {
    if (this.#peers.get(name) !== peer) return
    this.#peers.delete(name)
    peer.socket?.destroy()
    if (this.#peers.size > 0) return
    clearInterval(this.#timer)
    this.#timer = undefined
  }

  #listen(peer: Peer, socket: Socket): void {
    peer.socket = socket
    peer.heardAt = performance.now()
    socket.on('data', () => { peer.heardAt = performance.now() })
    socket.on('error', ignore)
    socket.once('close', () => { if (peer.socket === socket) peer.socket = undefined })
    socket.resume()
  }

  #tick(): void {
    const now = performance.now()
    // While this process stood still it could hear nobody.
    const stoodMs = now - this.#tickedAt - this.#times.everyMs
    this.#tickedAt = now
    for (const [name, peer] of this.#peers) {
      if (stoodMs > this.#times.everyMs) peer.heardAt = now
      if (now - peer.heardAt > this.#times.silentMs) {
        this.#forget(name, peer)
        this.#parts.silent(name)
      } else if (peer.socket !== undefined) peer.socket.write(BEAT)
      else this.#open(name, peer)
    }
  }

  #open(name: string, peer: Peer): void {
    const { open } = this.#parts
    if (open === undefined || peer.isOpening) return
    peer.isOpening = true
    open(name).then((socket) => {
      peer.isOpening = false
      if (socket === undefined) return void (peer.heardAt = performance.now())
      if (this.#peers.get(name) === peer) this.#listen(peer, socket)
      else socket.destroy()
    }, () => { peer.isOpening = false })
  }
}

/** It closes, which is heard. */
function ignore(): void { /* see above */ }
