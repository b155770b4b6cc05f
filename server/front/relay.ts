/** Requests of sessions that another process keeps: each goes there on a connection of its own, as a frame, and its answer comes back as one. */
import type { Socket } from 'node:net'
import type { Exchange, Passenger, Relay, RelayedRequest } from '../c2s/passing.ts'
import { frame, FrameReader, KIND } from './frames.ts'
import type { Link } from './link.ts'

export interface RelayParts {
  readonly process: string | undefined
  /** A way to a process, or to any that keeps sessions. */
  readonly open: (process: string | undefined, client: Passenger) => Promise<Link>
}

export class RequestRelay implements Relay {
  readonly process: string | undefined
  readonly #open: RelayParts['open']
  #handler: ((request: RelayedRequest, exchange: Exchange) => void) | undefined

  constructor({ process, open }: RelayParts) {
    this.process = process
    this.#open = open
  }

  async ask(process: string | undefined, { address, secure, listener, body }: RelayedRequest, exchange: Exchange): Promise<void> {
    const link = await this.#open(process, { address, secure, listener, tls: undefined, binding: undefined, certificate: undefined, transport: 'request', failures: 0, repeated: 0 })
    if (link.kind !== 'taken') throw new Error('no request is taken there')
    const { socket } = link
    if (exchange.gone) return void socket.destroy()
    exchange.onGone(() => { socket.destroy() })
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    const reader = new FrameReader()
    socket.on('data', (chunk: Buffer) => {
      try {
        reader.read(chunk, (_kind, payload) => {
          const typeEnd = 3 + (payload[2] as number)
          exchange.answer(payload.readUInt16BE(0), payload.toString('utf8', 3, typeEnd), payload.subarray(typeEnd))
          socket.end()
          resolve()
        })
      } catch {
        socket.destroy()
      }
    })
    socket.on('error', reject)
    socket.on('close', () => { reject(new Error('the request was not answered there')) })
    socket.write(frame(KIND.element, body))
    socket.resume()
    return promise
  }

  answerBy(handler: (request: RelayedRequest, exchange: Exchange) => void): void { this.#handler = handler }

  /** A connection that brings one request. */
  serve(socket: Socket, client: Passenger): boolean {
    const handler = this.#handler
    if (handler === undefined) return false
    const reader = new FrameReader()
    let answered = false
    const exchange: Exchange = {
      get gone() { return socket.destroyed },
      answer(status, contentType, bytes) {
        answered = true
        const type = Buffer.from(contentType)
        const head = Buffer.from([status >> 8, status & 0xff, type.length])
        socket.end(frame(KIND.element, Buffer.concat([head, type, bytes])))
      },
      onGone(run) {
        socket.once('close', () => { if (!answered) run() })
      },
    }
    socket.on('data', (chunk: Buffer) => {
      try {
        reader.read(chunk, (_kind, body) => { handler({ address: client.address, secure: client.secure, listener: client.listener, body }, exchange) })
      } catch {
        socket.destroy()
      }
    })
    socket.on('end', () => { if (!answered) socket.destroy() })
    return true
  }
}
