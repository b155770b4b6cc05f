/**
 * What chat and auth processes say to each other: packed values, each after its length in four bytes. They go over TLS with a key that both have
 * (RFC 4279, RFC 5489): who does not have the secret of `tidings.auth` can neither ask nor answer, nor read along, and nobody needs a certificate.
 */
import { createHmac } from 'node:crypto'
import tls from 'node:tls'
import { packValue, unpackValue } from '../storage/records.ts'
import type { Value } from '../storage/shapes.ts'

/** A request is its number, the operation, and its arguments; an answer the number, how it ended, and the rest. */
export type Message = readonly [id: number, what: string, body: Args]
export type Args = { readonly [key: string]: Value | undefined }

export interface Address {
  readonly host: string
  readonly port: number
}

export interface WireEvents {
  received(message: Message): void
  /** Called once. */
  closed(): void
}

/** A key of OpenSSL 3 has no other cipher with forward secrecy, and TLS 1.3 knows no such keys in Node. */
const TLS = { ciphers: 'ECDHE-PSK-CHACHA20-POLY1305', minVersion: 'TLSv1.2', maxVersion: 'TLSv1.2' } as const
const IDENTITY = 'tidings-auth-1'
const LENGTH_BYTES = 4
/** No message of a login is nearly as long. */
const MESSAGE_BYTES_MAX = 65_536
const HANDSHAKE_MS = 5000

export function keyOf(secret: string): Buffer {
  return createHmac('sha256', secret).update(IDENTITY).digest()
}

export function createWireServer(key: Buffer, accept: (socket: tls.TLSSocket) => void): tls.Server {
  return tls.createServer({ ...TLS, handshakeTimeout: HANDSHAKE_MS, pskCallback: (_socket, identity) => identity === IDENTITY ? key : null }, accept)
}

/** Connects; `secured` is called when the other side has shown that it has the key. */
export function connectWire({ host, port }: Address, key: Buffer, secured: () => void): tls.TLSSocket {
  const socket = tls.connect({ ...TLS, host, port, pskCallback: () => ({ psk: key, identity: IDENTITY }), checkServerIdentity: () => undefined }, secured)
  return socket.setNoDelay(true)
}

/** One connection, as messages. */
export class Wire {
  readonly #socket: tls.TLSSocket
  readonly #events: WireEvents
  #rest: Buffer = Buffer.alloc(0)
  #corked = false
  #closed = false
  /** When the other side was heard last, ms of `performance.now`. */
  heardAt = performance.now()

  constructor(socket: tls.TLSSocket, events: WireEvents) {
    this.#socket = socket
    this.#events = events
    socket.on('data', (chunk: Buffer) => { this.#read(chunk) })
    const closed = (): void => { this.close() }
    socket.on('error', closed)
    socket.on('end', closed)
    socket.on('close', closed)
  }

  /** Bytes that the other side has not taken yet. */
  get backlog(): number { return this.#socket.writableLength }

  send(message: Message): void {
    if (this.#closed) return
    const packed = packValue(message)
    if (!this.#corked) {
      // What is sent in one turn leaves in one record.
      this.#corked = true
      this.#socket.cork()
      setImmediate(() => {
        this.#corked = false
        this.#socket.uncork()
      })
    }
    const length = Buffer.allocUnsafe(LENGTH_BYTES)
    length.writeUInt32BE(packed.length)
    this.#socket.write(length)
    this.#socket.write(packed)
  }

  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#socket.destroy()
    this.#events.closed()
  }

  #read(chunk: Buffer): void {
    this.heardAt = performance.now()
    let bytes = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk])
    while (bytes.length >= LENGTH_BYTES && !this.#closed) {
      const length = bytes.readUInt32BE(0)
      if (length > MESSAGE_BYTES_MAX) return this.close()
      const end = LENGTH_BYTES + length
      if (bytes.length < end) break
      const message = messageOf(bytes.subarray(LENGTH_BYTES, end))
      bytes = bytes.subarray(end)
      if (message === undefined) return this.close()
      this.#events.received(message)
    }
    this.#rest = bytes
  }
}

function messageOf(bytes: Buffer): Message | undefined {
  try {
    const value = unpackValue(bytes)
    if (!Array.isArray(value)) return undefined
    const [id, what, body] = value as readonly Value[]
    return typeof id === 'number' && typeof what === 'string' && typeof body === 'object' && body !== null && !Array.isArray(body) && !(body instanceof Uint8Array) ? [id, what, body as Args] : undefined
  } catch {
    return undefined
  }
}

/** Throws when the other side speaks another language. */
export function textIn(args: Args, name: string): string {
  const value = args[name]
  if (typeof value !== 'string') throw new TypeError(`${name} is missing`)
  return value
}

export function textIfIn(args: Args, name: string): string | undefined {
  return args[name] === undefined || args[name] === null ? undefined : textIn(args, name)
}

export function numberIfIn(args: Args, name: string): number | undefined {
  return typeof args[name] === 'number' ? args[name] : undefined
}

export function bytesIn(args: Args, name: string): Buffer {
  const value = args[name]
  if (!(value instanceof Uint8Array)) throw new TypeError(`${name} is missing`)
  // What was read lies in a buffer that is used again.
  return Buffer.from(value)
}

export function textsIn(args: Args, name: string): readonly string[] {
  const value = args[name]
  if (!Array.isArray(value) || value.some((each) => typeof each !== 'string')) throw new TypeError(`${name} is missing`)
  return value as readonly string[]
}
