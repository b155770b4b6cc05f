/** Where a node takes clients that other processes of the cluster have accepted. It speaks with nobody who does not know the cluster's secret. */
import { randomBytes } from 'node:crypto'
import net, { isIPv6, type Socket } from 'node:net'
import { networkInterfaces } from 'node:os'
import { listenOn } from '../../lib/net/listen.ts'
import { type ProxyHeader, readProxyHeader } from '../../lib/net/proxy-protocol.ts'
import { type Connection, FramedConnection } from '../c2s/framed.ts'
import type { Passenger } from '../c2s/passing.ts'
import type { Log } from '../log.ts'
import { FrameReader, KIND, PassedTransport } from './frames.ts'
import type { Link } from './link.ts'
import { type Answer, HEADER_BYTES_MAX, isGenuine, NONCE_BYTES, readPassenger, writeAnswer } from './passenger-header.ts'
import { PULSE_TIMES, Pulses, type PulseTimes } from './pulse.ts'

/** What clients are handed to. */
export interface PassengerHost {
  /** Whether this node serves the unit now, having claimed it if need be. */
  admits(unit: string): Promise<Answer>
  /** Serves a client; false when it is not to be served. */
  take(connection: Connection, client: Passenger): boolean
  /** A way to another node of this cluster for a client of another process; the answer of that node. */
  through(unit: string, client: Passenger, inc: string): Promise<Link>
  /** Joins a client's connection to that way. */
  join(socket: Socket, link: Link & { readonly kind: 'taken' }, inc: string): void
  /** Has a request answered that comes by this connection; false when it is not. */
  request(socket: Socket, client: Passenger): boolean
}

const HEADER_TIMEOUT_MS = 5000
/** Connections that have not shown yet that they know the secret, or wait for an answer. */
const ARRIVING_MAX = 1000

export class InternalListener implements AsyncDisposable {
  /** `host:port` as the others reach it, or `unix:` and a path. */
  readonly address: string
  /** How it is found out that the network between two processes has failed. */
  readonly times: PulseTimes
  readonly #server: net.Server
  #secret: Uint8Array | undefined
  readonly #log: Log
  /** Connections that have not become clients yet. */
  readonly #arriving = new Set<Socket>()
  /** By process, the clients that it passes on to here. */
  readonly #passed = new Map<string, Set<Socket>>()
  readonly #pulses: Pulses
  #host: PassengerHost | undefined

  private constructor(server: net.Server, address: string, log: Log, times: PulseTimes) {
    this.times = times
    this.#pulses = new Pulses({ silent: (from) => { this.#silent(from) }, times })
    this.#server = server
    this.address = address
    this.#log = log
    server.on('connection', (socket) => { this.#accept(socket) })
    server.on('error', (error) => log.error({ what: 'internal_listener_failed', error }))
  }

  /** Listens; `address` is `host:port`, `unix:` and a path, or empty for a free port on the machine's own address. Rejects when it cannot. */
  static async open(address: string, log: Log, times = PULSE_TIMES): Promise<InternalListener> {
    if (address.startsWith('unix:')) {
      const server = net.createServer({ pauseOnConnect: true })
      await listenOn(server, { port: 0, ip: '', unixPath: address.slice(5), unixSocket: { mode: 0o600 } })
      return new InternalListener(server, address, log, times)
    }
    const colon = address.lastIndexOf(':')
    const host = address === '' ? ownAddress() : address.slice(0, colon).replaceAll(/^\[|\]$/g, '')
    const server = net.createServer({ pauseOnConnect: true, noDelay: true })
    const port = await listenOn(server, { port: address === '' ? 0 : Number(address.slice(colon + 1)), ip: host })
    return new InternalListener(server, `${isIPv6(host) ? `[${host}]` : host}:${port}`, log, times)
  }

  /** Clients go there from now on, from those who know the secret; until then nobody is spoken to. */
  serve(secret: Uint8Array, host: PassengerHost): void {
    this.#secret = secret
    this.#host = host
  }

  #accept(socket: Socket): void {
    const secret = this.#secret
    if (secret === undefined || this.#arriving.size >= ARRIVING_MAX) return void socket.destroy()
    const nonce = randomBytes(NONCE_BYTES)
    this.#arriving.add(socket)
    socket.once('close', () => this.#arriving.delete(socket))
    const refuse = (error: Error): void => {
      this.#log.warn({ what: 'passenger_refused', address: socket.remoteAddress, error: error.message })
      socket.destroy()
    }
    readProxyHeader(socket, HEADER_TIMEOUT_MS, (header, bytes) => {
      if (!isGenuine(secret, nonce, bytes)) return refuse(new Error('it does not know the secret of the cluster'))
      this.#arrived(secret, socket, header, Buffer.from(bytes)).catch(refuse)
    }, refuse, HEADER_BYTES_MAX)
    socket.write(nonce)
  }

  async #arrived(secret: Uint8Array, socket: Socket, header: ProxyHeader, bytes: Buffer): Promise<void> {
    const { account, client, way: { from, through } } = readPassenger(header)
    if (client.transport === 'pulse') return this.#pulse(secret, socket, bytes, from)
    if (through !== '') return await this.#pass(secret, socket, bytes, account, client, from, through)
    let answer: Answer = await this.#host?.admits(account) ?? { kind: 'busy' }
    if (socket.destroyed) return
    if (answer.kind === 'taken') this.#comesFrom(from, socket)
    if (answer.kind === 'taken' && !this.#take(socket, client)) answer = { kind: 'busy' }
    const written = writeAnswer(secret, bytes, answer)
    if (answer.kind !== 'taken') return void socket.end(written)
    // What the client's stream writes, it writes at the end of the turn.
    socket.write(written)
    this.#arriving.delete(socket)
    socket.resume()
  }

  /** Another process cannot reach the node of its client: it has it passed on by this one. */
  async #pass(secret: Uint8Array, socket: Socket, bytes: Buffer, account: string, client: Passenger, from: string, inc: string): Promise<void> {
    const host = this.#host
    const link: Link = await host?.through(account, client, inc).catch(() => undefined) ?? { kind: 'busy' }
    if (socket.destroyed) return link.kind === 'taken' ? void link.socket.destroy() : undefined
    const written = writeAnswer(secret, bytes, link.kind === 'taken' ? { kind: 'taken' } : link)
    if (link.kind !== 'taken') return void socket.end(written)
    socket.write(written)
    this.#arriving.delete(socket)
    this.#comesFrom(from, socket)
    host?.join(socket, link, inc)
  }

  #pulse(secret: Uint8Array, socket: Socket, bytes: Buffer, from: string): void {
    socket.write(writeAnswer(secret, bytes, { kind: 'taken' }))
    this.#arriving.delete(socket)
    this.#pulses.joined(from, socket)
  }

  /** Its connection ends when its process is not heard any more. */
  #comesFrom(from: string, socket: Socket): void {
    if (from === '') return
    let sockets = this.#passed.get(from)
    if (sockets === undefined) this.#passed.set(from, sockets = new Set())
    sockets.add(socket)
    const over = this.#pulses.use(from)
    socket.once('close', () => {
      over()
      sockets.delete(socket)
      if (sockets.size === 0 && this.#passed.get(from) === sockets) this.#passed.delete(from)
    })
  }

  #silent(from: string): void {
    const sockets = this.#passed.get(from) ?? []
    this.#log.warn({ what: 'passing_process_silent', process: from, connections: [...sockets].length })
    for (const socket of sockets) socket.destroy()
  }

  #take(socket: Socket, client: Passenger): boolean {
    const host = this.#host
    if (host === undefined) return false
    if (client.transport === 'request') return host.request(socket, client)
    return host.take(client.transport === 'bytes' ? socket : elementsOf(socket, client.transport === 'confirmed-elements'), client)
  }

  /** Takes no more clients; those that it has stay. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#host = undefined
    for (const socket of this.#arriving) socket.destroy()
    this.#pulses.close()
    this.#server.close()
  }
}

function elementsOf(socket: Socket, confirms: boolean): FramedConnection {
  const transport = new PassedTransport(socket, confirms)
  const connection = new FramedConnection(transport)
  const reader = new FrameReader()
  socket.on('data', (chunk: Buffer) => {
    try {
      reader.read(chunk, (kind, payload) => {
        if (kind === KIND.element) connection.receive(payload)
        else if (kind === KIND.heard) connection.heard(payload[0] === 1)
        else if (kind === KIND.taken) transport.confirmed(payload.readUInt32BE(0))
      })
    } catch {
      socket.destroy()
    }
  })
  const gone = (): void => {
    transport.gone()
    connection.gone()
    socket.destroy()
  }
  socket.on('error', () => undefined)
  socket.on('end', gone).on('close', gone)
  return connection
}

/** The address by which others reach this machine: the first that is not its own alone. */
function ownAddress(): string {
  const addresses = Object.values(networkInterfaces()).flatMap((each) => each ?? []).filter(({ internal, address }) => !internal && !address.startsWith('fe80:'))
  return (addresses.find(({ family }) => family === 'IPv4') ?? addresses[0])?.address ?? '127.0.0.1'
}
