/** Connects to the server of a domain: every target in its order, every address of a target by happy eyeballs (RFC 8305). */
import { connect as connectTcp, type Socket } from 'node:net'
import { type ConnectionOptions, type TLSSocket, connect as connectTls } from 'node:tls'
import type { StanzaErrorCondition } from '../../lib/stanza/errors.ts'
import { DnsError, type Dns, type Family, PORT_DEFAULT, type Target, addressOf, asciiDomain, familyAddresses, locate } from './resolve.ts'

export interface ConnectOptions {
  readonly dns: Dns
  /** Those that are tried, the first with a head start; IPv6 and IPv4 unless given. */
  readonly families?: readonly Family[]
  /** Addresses of ours to connect from. */
  readonly ipv4Address?: string | undefined
  readonly ipv6Address?: string | undefined
  /** Of servers without SRV records; 5269 unless given. */
  readonly port?: number
  /** How long each address may take, and then each handshake of TLS; 10 s unless given. */
  readonly timeoutMs?: number
  /** Our side of direct TLS: certificate and key, or a secure context. Without it, targets of direct TLS are left out. */
  readonly tls?: ConnectionOptions | undefined
  /** Ends all of it: what was begun is closed, and the reason of the signal thrown. */
  readonly signal?: AbortSignal | undefined
  /** Told of each thing that was tried, and how it ended, one sentence each. */
  readonly onStep?: (step: string) => void
  readonly random?: () => number
}

interface ConnectionTo {
  /** As SRV names it, or the domain. */
  readonly host: string
  readonly port: number
  /** The address that is connected. */
  readonly address: string
}

/** Whoever gets it must look at `destroyed`, and may find what the peer has sent already; a failure is not thrown at nobody. */
export type Connection = ConnectionTo & (
  | { readonly isDirectTls: false; readonly socket: Socket }
  /** After the handshake; whether the certificate is believed is not looked at here. */
  | { readonly isDirectTls: true; readonly socket: TLSSocket }
)

/** No connection; what was tried is its message. */
export class ConnectError extends Error {
  override readonly name = 'ConnectError'
  /** RFC 6120 §8.3.3.16: there is no such server. §8.3.3.17: there may be one, and it does not answer. */
  readonly condition: Extract<StanzaErrorCondition, 'remote-server-not-found' | 'remote-server-timeout'>
  readonly steps: readonly string[]
  constructor(condition: ConnectError['condition'], domain: string, steps: readonly string[]) {
    super(`${domain} cannot be reached: ${steps.join('; ')}`)
    this.condition = condition
    this.steps = steps
  }
}

const TIMEOUT_MS = 10_000
/** RFC 8305 §8: Connection Attempt Delay, and Resolution Delay. */
const ATTEMPT_DELAY_MS = 250
const RESOLUTION_DELAY_MS = 50

/** The first connection to the server of a domain. Rejects with a ConnectError. */
export async function connectTo(domain: string, options: ConnectOptions): Promise<Connection> {
  for await (const connection of connections(domain, options)) return connection
  throw new Error('connections ends by a connection or an error')
}

/**
 * Connections to the server of a domain, one target after the other: who finds no XMPP behind one asks for the next, and closes the
 * former. Throws a ConnectError when there is no further one.
 */
export async function* connections(domain: string, options: ConnectOptions): AsyncGenerator<Connection, void, void> {
  const { dns, tls, signal, onStep, port = PORT_DEFAULT } = options
  signal?.throwIfAborted()
  const found = await locate(domain, { dns, port, signal, ...(options.random === undefined ? {} : { random: options.random }) })
  signal?.throwIfAborted()
  const steps: string[] = []
  const tell = (step: string): void => {
    steps.push(step)
    onStep?.(step)
  }
  for (const step of found.steps) tell(step)
  let exists = found.isIncomplete
  for (const target of found.targets) {
    if (target.isDirectTls && tls === undefined) {
      tell(`${target.host} port ${target.port} is for direct TLS, which is off here`)
      continue
    }
    const { exists: isThere, connection } = await connectTarget(target, domain, options, tell)
    if (isThere) exists = true
    if (connection !== undefined) yield connection
  }
  throw new ConnectError(exists ? 'remote-server-timeout' : 'remote-server-not-found', domain, steps)
}

/** Connects to one target, with the handshake of direct TLS where it is for that. `exists`: whether it has addresses, or may have. */
export async function connectTarget(target: Target, domain: string, options: ConnectOptions, tell: (step: string) => void): Promise<{ readonly exists: boolean; readonly connection?: Connection }> {
  const { exists, socket: tcp, address } = await reach(target, options, tell)
  if (tcp === undefined) return { exists }
  const { host, port, isDirectTls } = target
  if (!isDirectTls) return { exists, connection: { host, port, address, isDirectTls, socket: tcp } }
  const socket = await secure(tcp, domain, options, (step) => { tell(`${address} port ${port}: ${step}`) })
  return socket === undefined ? { exists } : { exists, connection: { host, port, address, isDirectTls, socket } }
}

type Reached = { readonly exists: boolean; readonly socket?: undefined; readonly address?: undefined } | { readonly exists: true; readonly socket: Socket; readonly address: string }

/**
 * RFC 8305: asks for addresses of all families at once, begins with those of the first family or, shortly after their answer, with others, and begins
 * with the next when one has failed or is slow. The first that is connected ends the others.
 */
async function reach({ host, port }: Target, options: ConnectOptions, tell: (step: string) => void): Promise<Reached> {
  const { families = [6, 4], dns, timeoutMs = TIMEOUT_MS, signal } = options
  const queues = new Map<Family, string[]>(families.map((family) => [family, []]))
  const open = new Set<Socket>()
  const ended = new AbortController()
  const { promise, resolve, reject } = Promise.withResolvers<Reached>()
  let unanswered = families.length
  let isDone = false
  let mayBegin = false
  let exists = false
  let lastFamily: Family | undefined
  let delay: NodeJS.Timeout | undefined

  /** RFC 8305 §4: families take turns. */
  const take = (): { address: string; family: Family } | undefined => {
    const turns = lastFamily === undefined ? families : [...families.filter((family) => family !== lastFamily), lastFamily]
    for (const family of turns) {
      const address = queues.get(family)?.shift()
      if (address === undefined) continue
      lastFamily = family
      return { address, family }
    }
    return undefined
  }
  const begin = (): void => {
    if (isDone || !mayBegin) return
    clearTimeout(delay)
    delay = undefined
    const next = take()
    if (next !== undefined) {
      delay = setTimeout(begin, ATTEMPT_DELAY_MS)
      attempt(next.address, next.family)
    } else if (open.size === 0 && unanswered === 0) resolve({ exists })
  }
  const attempt = (address: string, family: Family): void => {
    const localAddress = family === 6 ? options.ipv6Address : options.ipv4Address
    const where = `${address} port ${port}`
    let socket: Socket
    try {
      socket = connectTcp({ host: address, port, family, autoSelectFamily: false, noDelay: true, ...(localAddress === undefined ? {} : { localAddress }) })
    } catch (error) {
      tell(`${where}: ${(error as Error).message}`)
      return
    }
    open.add(socket)
    const timer = setTimeout(() => { fail('does not answer') }, timeoutMs)
    const fail = (reason: string): void => {
      clearTimeout(timer)
      if (!open.delete(socket)) return
      socket.destroy()
      tell(`${where}: ${reason}`)
      begin()
    }
    // Stays, so that a failure before others listen is no exception.
    socket.on('error', (error: NodeJS.ErrnoException) => { fail(FAILURES[error.code ?? ''] ?? error.message) })
    socket.once('connect', () => {
      clearTimeout(timer)
      if (!open.delete(socket)) return
      tell(`${where}: connected`)
      resolve({ exists: true, socket, address })
    })
  }

  for (const [index, family] of families.entries()) {
    void familyAddresses(host, family, dns, ended.signal).then(
      (addresses) => {
        if (isDone) return
        tell(`${family === 6 ? 'AAAA' : 'A'} of ${host}: ${addresses.length === 0 ? 'none' : addresses.join(', ')}`)
        if (addresses.length > 0) exists = true
        queues.get(family)?.push(...addresses)
      },
      (error: unknown) => {
        if (!(error instanceof DnsError)) return reject(error as Error)
        if (!isDone) tell(error.message)
        exists = true
        return undefined
      },
    ).then(() => {
      unanswered--
      if (index === 0 || unanswered === 0) mayBegin = true
      if (mayBegin) {
        if (delay === undefined) begin()
        return
      }
      // RFC 8305 §3: the preferred family may be a little later.
      setTimeout(() => {
        if (mayBegin) return
        mayBegin = true
        begin()
      }, RESOLUTION_DELAY_MS)
    })
  }
  const onAbort = (): void => { reject(signal?.reason as Error) }
  signal?.addEventListener('abort', onAbort, { once: true })
  try {
    return await promise
  } finally {
    isDone = true
    ended.abort()
    clearTimeout(delay)
    signal?.removeEventListener('abort', onAbort)
    for (const socket of open) {
      open.delete(socket)
      socket.destroy()
    }
  }
}

const FAILURES: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'refused', ETIMEDOUT: 'does not answer', EHOSTUNREACH: 'no route to it', ENETUNREACH: 'no route to its network', ECONNRESET: 'closed at once',
  EADDRNOTAVAIL: 'our own address for it is not available',
}

/** The handshake of direct TLS; undefined when it fails, and the socket is closed then. */
async function secure(tcp: Socket, domain: string, { tls, timeoutMs = TIMEOUT_MS, signal }: ConnectOptions, tell: (step: string) => void): Promise<TLSSocket | undefined> {
  const { promise, resolve, reject } = Promise.withResolvers<TLSSocket | undefined>()
  const socket = connectTls({ ...tls, ...directTls(domain), socket: tcp, rejectUnauthorized: false }, () => {
    tell(`direct TLS (${socket.getProtocol() ?? 'unknown'})`)
    resolve(socket)
  })
  const fail = (reason: string): void => {
    tell(`direct TLS fails: ${reason}`)
    resolve(undefined)
  }
  const timer = setTimeout(() => { fail('no answer') }, timeoutMs)
  const onAbort = (): void => { reject(signal?.reason as Error) }
  const onError = (error: Error): void => { fail(error.message) }
  const onClose = (): void => { fail('closed by the peer') }
  socket.once('error', onError).once('close', onClose).on('error', () => {})
  signal?.addEventListener('abort', onAbort, { once: true })
  let secured: TLSSocket | undefined
  try {
    secured = await promise
    return secured
  } finally {
    clearTimeout(timer)
    signal?.removeEventListener('abort', onAbort)
    socket.off('error', onError).off('close', onClose)
    if (secured === undefined) {
      socket.destroy()
      tcp.destroy()
    }
  }
}

/** XEP-0368 §2: the domain by SNI, which is for names alone, and the protocol by ALPN. */
function directTls(domain: string): Pick<ConnectionOptions, 'servername' | 'ALPNProtocols'> {
  return { ...serverName(domain), ALPNProtocols: ['xmpp-server'] }
}

/** The domain for SNI, of direct TLS as of STARTTLS. */
export function serverName(domain: string): { readonly servername: string } {
  return { servername: addressOf(domain) === undefined ? asciiDomain(domain) ?? '' : '' }
}
