/** A connection to the internal listener of a node, for one client. */
import { connect, type Socket } from 'node:net'
import type { Passenger } from '../c2s/passing.ts'
import { type Answer, NONCE_BYTES, passengerHeader, readAnswer, type Way } from './passenger-header.ts'

export interface LinkOptions {
  /** `host:port` of the node, or `unix:` and a path. */
  readonly address: string
  readonly secret: Uint8Array
  /** How long until it greets, and from then until it answers. */
  readonly connectTimeoutMs: number
  readonly timeoutMs: number
  readonly way?: Way
}

export type Link = { readonly kind: 'taken'; readonly socket: Socket } | Exclude<Answer, { kind: 'taken' }>

/** Tells a node of a client of this unit; resolves with its answer. Rejects when it does not answer in time, or is none of the cluster's. */
export function openLink({ address, secret, connectTimeoutMs, timeoutMs, way }: LinkOptions, unit: string, client: Passenger): Promise<Link> {
  return new Promise((resolve, reject) => {
    const socket = connectTo(address)
    let received: Buffer = Buffer.alloc(0)
    let header: Buffer | undefined
    const settle = (): void => {
      clearTimeout(timer)
      socket.off('readable', read).off('end', ended).off('close', ended)
    }
    const fail = (error: Error): void => {
      settle()
      socket.destroy()
      reject(error)
    }
    const ended = (): void => { fail(new Error(`the connection to ${address} ended`)) }
    const read = (): void => {
      const chunk = socket.read() as Buffer | null
      if (chunk === null) return
      received = received.length === 0 ? chunk : Buffer.concat([received, chunk])
      try {
        if (header === undefined) {
          if (received.length < NONCE_BYTES) return
          clearTimeout(timer)
          timer = setTimeout(late, timeoutMs)
          socket.write(header = passengerHeader(secret, received.subarray(0, NONCE_BYTES), unit, client, way))
          received = received.subarray(NONCE_BYTES)
        }
        const found = readAnswer(secret, header, received)
        if (found === undefined) return
        settle()
        const { answer, length } = found
        if (answer.kind !== 'taken') {
          socket.destroy()
          return resolve(answer)
        }
        if (received.length > length) socket.unshift(received.subarray(length))
        resolve({ kind: 'taken', socket })
      } catch (error) {
        fail(error as Error)
      }
    }
    const late = (): void => { fail(new Error(`${address} does not answer`)) }
    let timer = setTimeout(late, connectTimeoutMs)
    // Stays: whoever takes the socket over adds a listener of its own.
    socket.on('error', ignore)
    socket.on('readable', read).on('end', ended).on('close', ended)
  })
}

function connectTo(address: string): Socket {
  if (address.startsWith('unix:')) return connect({ path: address.slice(5) })
  const colon = address.lastIndexOf(':')
  return connect({ host: address.slice(0, colon).replaceAll(/^\[|\]$/g, ''), port: Number(address.slice(colon + 1)), noDelay: true })
}

/** It closes, which is heard. Apart from the rest, so that it holds nothing of it as long as the connection lasts. */
function ignore(): void { /* see above */ }
