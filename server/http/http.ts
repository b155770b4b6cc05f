/** The HTTP listeners: requests are limited, given to their routes, and answered whatever happens. */
import { createServer as createPlainServer, type IncomingMessage, type Server, type ServerOptions, type ServerResponse, STATUS_CODES } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import { rm } from 'node:fs/promises'
import { BlockList, isIP, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { domainToASCII } from 'node:url'
import type { SecureContexts } from '../../lib/net/certificates.ts'
import type { Log } from '../log.ts'
import type { Metrics } from '../metrics.ts'
import { HANDLER_PATHS, type HttpPath, type HttpRoutes, RouteTable, type UpgradeHandler } from './routes.ts'

/** Answers a request with a status; thrown by handlers. */
export class HttpError extends Error {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  constructor(status: number, message?: string, headers: Readonly<Record<string, string>> = {}) {
    super(message ?? STATUS_CODES[status] ?? 'error')
    this.status = status
    this.headers = headers
  }
}

export interface HttpLimits {
  /** Open connections of one listener. */
  readonly connections: number
  /** Open connections from one address, proxies and this machine excepted. */
  readonly connectionsPerAddress: number
  readonly headerBytes: number
  /** From the first byte of a request to the end of its headers. */
  readonly headersTimeoutMs: number
  /** From the first byte of a request to the end of its body. */
  readonly requestTimeoutMs: number
  /** Silence on a connection in the middle of a request or an answer. */
  readonly idleTimeoutMs: number
  /** Silence between two requests. */
  readonly keepAliveMs: number
}

export const HTTP_LIMITS: HttpLimits = {
  connections: 10_000,
  connectionsPerAddress: 256,
  headerBytes: 16_384,
  headersTimeoutMs: 15_000,
  // Long enough for a large upload over a slow line; silence is what ends a stalled one.
  requestTimeoutMs: 1_800_000,
  idleTimeoutMs: 120_000,
  keepAliveMs: 15_000,
}

export interface ListenerOptions {
  /** 0 picks a free port. */
  readonly port: number
  readonly ip: string
  /** Path of a Unix socket, in place of the port. */
  readonly unixPath?: string | undefined
  readonly tls: boolean
  readonly backlog?: number
  /** Paths and the handlers (ejabberd's module names) mounted there. Without it every route is served where it is. */
  readonly handlers?: ReadonlyMap<string, string> | undefined
  /** Sent with every answer. */
  readonly headers?: ReadonlyMap<string, string> | undefined
  readonly minVersion?: 'TLSv1' | 'TLSv1.1' | 'TLSv1.2' | 'TLSv1.3' | undefined
}

export interface HttpListener {
  readonly port: number
  readonly address: string
  readonly secure: boolean
  /** Stops accepting, lets requests in work end for `graceMs`, then closes their connections. */
  close(graceMs?: number): Promise<void>
}

export interface HttpOptions {
  readonly contexts: SecureContexts | undefined
  readonly log: Log
  readonly metrics?: Metrics
  readonly limits?: Partial<HttpLimits>
  /** Networks (`10.0.0.0/8`, addresses) whose X-Forwarded-For and X-Forwarded-Proto are believed; `all` for everybody. */
  readonly trustedProxies?: readonly string[]
}

export interface Http extends HttpRoutes {
  listen(options: ListenerOptions): Promise<HttpListener>
  close(graceMs?: number): Promise<void>
}

interface Mount {
  readonly prefix: string
  readonly target: string
}

/** The routes and their listeners; nothing listens until `listen` is called. */
export function createHttp(options: HttpOptions): Http {
  const limits: HttpLimits = { ...HTTP_LIMITS, ...options.limits }
  const { log, contexts } = options
  const table = new RouteTable()
  const upgrades: { prefix: string; handler: UpgradeHandler }[] = []
  const trusted = trustList(options.trustedProxies ?? [])
  const open = new Set<HttpListener & { readonly mounts: readonly Mount[] | undefined }>()
  const answered = options.metrics?.counter('tidings_http_requests_total', 'HTTP requests answered', ['status'])
  const refused = options.metrics?.counter('tidings_http_refused_connections_total', 'HTTP connections refused because of a limit')

  async function handle(request: IncomingMessage, response: ServerResponse, secure: boolean, mounts: readonly Mount[] | undefined, headers: ReadonlyMap<string, string> | undefined): Promise<void> {
    response.on('close', () => { answered?.inc(1, { status: `${Math.floor(response.statusCode / 100)}xx` }) })
    // A client that goes away is no error of ours.
    request.on('error', () => undefined)
    response.on('error', () => undefined)
    headers?.forEach((value, name) => { response.setHeader(name, value) })
    try {
      const path = describe(request, secure, mounts)
      const match = table.match(request.method ?? 'GET', path.path)
      if (match.kind === 'none') throw new HttpError(404)
      // RFC 9110 §15.5.6
      if (match.kind === 'wrong-method') throw new HttpError(405, undefined, { Allow: match.allowed.join(', ') })
      await match.handler(request, response, path)
    } catch (error) {
      fail(request, response, error)
    }
  }

  function fail(request: IncomingMessage, response: ServerResponse, error: unknown): void {
    const known = error instanceof HttpError ? error : undefined
    if (known === undefined && !request.destroyed && !response.destroyed) log.error({ what: 'http_handler_failed', path: request.url?.split('?')[0], error: error instanceof Error ? error.stack : String(error) })
    if (response.headersSent) {
      response.destroy()
      return
    }
    answer(request, response, known?.status ?? 500, known?.message ?? 'internal server error', known?.headers)
  }

  function describe(request: IncomingMessage, secure: boolean, mounts: readonly Mount[] | undefined): HttpPath {
    const url = request.url ?? '/'
    const from = url.indexOf('?')
    const written = from === -1 ? url : url.slice(0, from)
    // RFC 9112 §3.2: origin form alone; `*` and absolute addresses are for proxies.
    if (!written.startsWith('/')) throw new HttpError(request.method === 'OPTIONS' && url === '*' ? 404 : 400)
    if (written.includes('\\') || written.split('/').some((part) => part === '..' || part === '.' || /^(%2e|\.){1,2}$/i.test(part))) throw new HttpError(400)
    let address = plainAddress(request.socket.remoteAddress)
    let encrypted = secure
    if (trusted(address)) {
      const forwarded = request.headers['x-forwarded-for']
      // The nearest address that is not a proxy of ours; what stands before it the client can invent.
      const hops = (Array.isArray(forwarded) ? forwarded.join(',') : forwarded ?? '').split(',').map((each) => plainAddress(each.trim())).filter((each) => isIP(each) !== 0)
      while (hops.length > 0 && trusted(address)) address = hops.pop() as string
      const proto = request.headers['x-forwarded-proto']
      if (proto !== undefined) encrypted = proto === 'https'
    }
    return {
      host: hostName(request.headers.host),
      path: mounted(written, mounts),
      query: new URLSearchParams(from === -1 ? '' : url.slice(from + 1)),
      address,
      secure: encrypted,
    }
  }

  function mounted(path: string, mounts: readonly Mount[] | undefined): string {
    if (mounts === undefined) return path
    for (const { prefix, target } of mounts) {
      const rest = prefix === '/' ? path : path.slice(prefix.length)
      // `/.well-known/host-meta` is also mounted for its twin with `.json`.
      if (path.startsWith(prefix) && (prefix === '/' || rest === '' || rest.startsWith('/') || rest === '.json')) return prefix === '/' && path === '/' ? target : target + rest
    }
    throw new HttpError(404)
  }

  function onUpgrade(request: IncomingMessage, socket: Duplex, head: Buffer, secure: boolean, mounts: readonly Mount[] | undefined): void {
    socket.on('error', () => undefined)
    try {
      const path = describe(request, secure, mounts)
      const found = upgrades.find(({ prefix }) => path.path === prefix || path.path === `${prefix}/`)
      if (found === undefined) throw new HttpError(404)
      if (socket instanceof Object && 'setTimeout' in socket) (socket as Socket).setTimeout(0)
      found.handler(request, socket, head, path)
    } catch (error) {
      const status = error instanceof HttpError ? error.status : 500
      if (status === 500) log.error({ what: 'http_upgrade_failed', error: error instanceof Error ? error.stack : String(error) })
      socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ''}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`)
    }
  }

  function start(listener: ListenerOptions, mounts: readonly Mount[] | undefined): Server {
    const serverOptions: ServerOptions = {
      maxHeaderSize: limits.headerBytes,
      headersTimeout: limits.headersTimeoutMs,
      requestTimeout: limits.requestTimeoutMs,
      keepAliveTimeout: limits.keepAliveMs,
      connectionsCheckingInterval: Math.min(5_000, limits.headersTimeoutMs),
      noDelay: true,
    }
    let server: Server
    if (listener.tls) {
      if (contexts === undefined) throw new Error('an HTTPS listener needs certificates')
      const tlsServer = createTlsServer({ ...serverOptions, ...contexts.pemFor(), SNICallback: contexts.sni, ALPNProtocols: ['http/1.1'], minVersion: listener.minVersion ?? 'TLSv1.2', handshakeTimeout: 10_000 })
      const forget = contexts.onReload(() => { tlsServer.setSecureContext({ ...contexts.pemFor() }) })
      tlsServer.on('close', forget)
      tlsServer.on('tlsClientError', (_error, socket) => { socket.destroy() })
      server = tlsServer
    } else server = createPlainServer(serverOptions)
    server.maxConnections = limits.connections
    server.timeout = limits.idleTimeoutMs
    server.maxHeadersCount = 100
    server.on('drop', () => { refused?.inc() })
    limitPerAddress(server, limits.connectionsPerAddress, trusted, () => { refused?.inc() })
    const serve = (request: IncomingMessage, response: ServerResponse): void => { void handle(request, response, listener.tls, mounts, listener.headers) }
    server.on('request', serve)
    // A handler of PUT may refuse before the body is sent (`acceptBody`); for all others the body is asked for at once.
    server.on('checkContinue', (request, response) => {
      if (request.method !== 'PUT') response.writeContinue()
      serve(request, response)
    })
    server.on('checkExpectation', (request, response) => { answer(request, response, 417) })
    server.on('upgrade', (request, socket, head) => { onUpgrade(request, socket, head, listener.tls, mounts) })
    server.on('clientError', (error: NodeJS.ErrnoException, socket) => {
      if (!socket.writable || error.code === 'ECONNRESET') return void socket.destroy()
      const status = error.code === 'HPE_HEADER_OVERFLOW' ? 431 : error.code === 'ERR_HTTP_REQUEST_TIMEOUT' ? 408 : 400
      socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`)
    })
    return server
  }

  const http: Http = {
    add: (method, pathPrefix, handler) => table.add(method, pathPrefix, handler),
    upgrade(pathPrefix, handler) {
      const entry = { prefix: pathPrefix, handler }
      upgrades.unshift(entry)
      return () => {
        const at = upgrades.indexOf(entry)
        if (at !== -1) upgrades.splice(at, 1)
      }
    },
    baseUrl(host, path) {
      const candidates = [...open].filter((each) => each.port !== 0 && (path === undefined || each.mounts === undefined || each.mounts.some((mount) => mount.target === path)))
      const listener = candidates.find((each) => each.secure) ?? candidates[0]
      if (listener === undefined) return undefined
      const name = isIP(host) === 6 ? `[${host}]` : domainToASCII(host) || host
      const port = listener.port === (listener.secure ? 443 : 80) ? '' : `:${listener.port}`
      const prefix = path === undefined ? '' : listener.mounts?.find((mount) => mount.target === path)?.prefix ?? path
      return `${listener.secure ? 'https' : 'http'}://${name}${port}${prefix === '/' ? '' : prefix}`
    },
    async listen(listener) {
      const mounts = listener.handlers && mountsOf(listener.handlers)
      const server = start(listener, mounts)
      await bind(server, listener)
      server.on('error', (error) => { log.error({ what: 'http_listener_failed', port: listener.port, error: error.message }) })
      const bound = server.address()
      const entry = {
        port: typeof bound === 'object' && bound !== null ? bound.port : 0,
        address: typeof bound === 'object' && bound !== null ? bound.address : listener.unixPath ?? '',
        secure: listener.tls,
        mounts,
        async close(graceMs = 2_000) {
          open.delete(entry)
          await closeServer(server, graceMs)
          if (listener.unixPath !== undefined) await rm(listener.unixPath, { force: true })
        },
      }
      open.add(entry)
      return entry
    },
    async close(graceMs) {
      await Promise.all([...open].map((each) => each.close(graceMs)))
    },
  }
  return http
}

/** Answers with a line of text; when the request's body has not been read, the connection is closed after it. */
export function answer(request: IncomingMessage, response: ServerResponse, status: number, text?: string, headers: Readonly<Record<string, string>> = {}): void {
  const body = `${text ?? STATUS_CODES[status] ?? status}\n`
  const unread = !request.complete && (request.headers['content-length'] ?? '0') !== '0' || (!request.complete && request.headers['transfer-encoding'] !== undefined)
  response.writeHead(status, {
    'Content-Type': 'text/plain; charset=utf-8',
    'Content-Length': Buffer.byteLength(body),
    'X-Content-Type-Options': 'nosniff',
    ...(unread ? { Connection: 'close' } : {}),
    ...headers,
  })
  response.end(request.method === 'HEAD' ? undefined : body)
}

/** Tells a client that waits for it (`Expect: 100-continue`) to send its body. */
export function acceptBody(request: IncomingMessage, response: ServerResponse): void {
  if (request.method === 'PUT' && request.headers.expect?.toLowerCase() === '100-continue') response.writeContinue()
}

/** The whole body; throws 413 as soon as it is known to be longer than `maxBytes`. */
export async function readBody(request: IncomingMessage, response: ServerResponse, maxBytes: number): Promise<Buffer> {
  if (Number(request.headers['content-length'] ?? 0) > maxBytes) throw new HttpError(413)
  acceptBody(request, response)
  const parts: Buffer[] = []
  let length = 0
  for await (const part of request as AsyncIterable<Buffer>) {
    length += part.length
    if (length > maxBytes) throw new HttpError(413)
    parts.push(part)
  }
  return Buffer.concat(parts)
}

/** Headers that let web clients of other origins use a route. */
export function corsHeaders(methods: readonly string[], origin = '*'): Record<string, string> {
  return {
    'Access-Control-Allow-Origin': origin,
    'Access-Control-Allow-Methods': methods.join(', '),
    'Access-Control-Allow-Headers': 'Authorization, Content-Type, Range',
    'Access-Control-Expose-Headers': 'Content-Length, Content-Range, ETag',
    'Access-Control-Max-Age': '86400',
  }
}

export interface HealthOptions {
  readonly port: number
  readonly ip: string
  readonly log: Log
  readonly metrics: { render(): Promise<string>; readonly contentType: string }
  health(): { readonly healthy: boolean } & object
}

/** The listener for operators: `/metrics` for Prometheus and `/health` (503 when not healthy). Nothing of it is public. */
export async function listenHealth(options: HealthOptions): Promise<HttpListener> {
  const http = createHttp({ contexts: undefined, log: options.log, limits: { connections: 100, requestTimeoutMs: 10_000, headersTimeoutMs: 5_000, idleTimeoutMs: 30_000 } })
  http.add('GET', '/metrics', async (request, response) => {
    const text = await options.metrics.render()
    response.writeHead(200, { 'Content-Type': options.metrics.contentType, 'Content-Length': Buffer.byteLength(text), 'Cache-Control': 'no-store' })
    response.end(request.method === 'HEAD' ? undefined : text)
  })
  http.add('GET', '/health', (request, response) => {
    const state = options.health()
    const text = `${JSON.stringify(state)}\n`
    response.writeHead(state.healthy ? 200 : 503, { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(text), 'Cache-Control': 'no-store' })
    response.end(request.method === 'HEAD' ? undefined : text)
  })
  return http.listen({ port: options.port, ip: options.ip, tls: false })
}

function mountsOf(handlers: ReadonlyMap<string, string>): Mount[] {
  return [...handlers]
    .map(([written, name]) => {
      const prefix = written.length > 1 && written.endsWith('/') ? written.slice(0, -1) : written
      return { prefix: prefix.startsWith('/') ? prefix : `/${prefix}`, target: HANDLER_PATHS[name] ?? `/${name}` }
    })
    .sort((a, b) => b.prefix.length - a.prefix.length)
}

async function bind(server: Server, listener: ListenerOptions): Promise<void> {
  if (listener.unixPath !== undefined) await rm(listener.unixPath, { force: true })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.once('listening', () => {
      server.off('error', reject)
      resolve()
    })
    if (listener.unixPath !== undefined) server.listen({ path: listener.unixPath, backlog: listener.backlog ?? 511 })
    else server.listen({ port: listener.port, host: listener.ip, backlog: listener.backlog ?? 511 })
  })
}

async function closeServer(server: Server, graceMs: number): Promise<void> {
  const closed = new Promise<void>((resolve) => { server.close(() => resolve()) })
  server.closeIdleConnections()
  const timer = setTimeout(() => { server.closeAllConnections() }, graceMs)
  await closed
  clearTimeout(timer)
}

function limitPerAddress(server: Server, limit: number, exempt: (address: string) => boolean, refused: () => void): void {
  const counts = new Map<string, number>()
  server.on('connection', (socket: Socket) => {
    const address = plainAddress(socket.remoteAddress)
    if (address === '' || address === '::1' || address.startsWith('127.') || exempt(address)) return
    const count = (counts.get(address) ?? 0) + 1
    if (count > limit) {
      refused()
      socket.destroy()
      return
    }
    counts.set(address, count)
    socket.once('close', () => {
      const left = (counts.get(address) ?? 1) - 1
      if (left <= 0) counts.delete(address)
      else counts.set(address, left)
    })
  })
}

function trustList(entries: readonly string[]): (address: string) => boolean {
  if (entries.includes('all')) return () => true
  const list = new BlockList()
  let empty = true
  for (const entry of entries) {
    const [address = '', bits] = entry.split('/')
    const version = isIP(address)
    if (version === 0) continue
    empty = false
    const family = version === 6 ? 'ipv6' : 'ipv4'
    if (bits === undefined) list.addAddress(address, family)
    else list.addSubnet(address, Number(bits), family)
  }
  if (empty) return () => false
  return (address) => {
    const version = isIP(address)
    return version !== 0 && list.check(address, version === 6 ? 'ipv6' : 'ipv4')
  }
}

/** IPv4 addresses without the prefix that dual-stack sockets give them. */
function plainAddress(address: string | undefined): string {
  return address === undefined ? '' : address.replace(/^::ffff:(?=\d+\.)/i, '')
}

function hostName(header: string | undefined): string {
  if (header === undefined) return ''
  const match = /^(\[[0-9a-f:.]+\]|[^:/?#@\s]*)(?::\d*)?$/i.exec(header)
  if (match === null) throw new HttpError(400)
  return (match[1] ?? '').toLowerCase().replace(/^\[|\]$/g, '')
}

