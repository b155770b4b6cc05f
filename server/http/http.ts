/** The HTTP listeners: requests are limited, given to their routes, and answered whatever happens. */
import { createServer, type IncomingMessage, type Server, type ServerResponse, STATUS_CODES } from 'node:http'
import { BlockList, isIP, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { TLSSocketOptions } from 'node:tls'
import { domainToASCII } from 'node:url'
import { plainAddress } from '../../lib/net/addresses.ts'
import { acceptTls, type SecureContexts, type TlsChoices } from '../../lib/net/certificates.ts'
import { type ListenAddress, listenOn } from '../../lib/net/listen.ts'
import { readProxyHeader } from '../../lib/net/proxy-protocol.ts'
import type { StreamOptions } from '../config/config.ts'
import { defaultLimits, type Limits } from '../config/limits.ts'
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
  readonly handshakeTimeoutMs: number
  readonly proxyHeaderTimeoutMs: number
}

/** The part of the limits that is for HTTP. */
export function httpLimits(limits: Limits): HttpLimits {
  return {
    connections: limits.httpConnections, connectionsPerAddress: limits.httpConnectionsPerAddress, headerBytes: limits.httpHeaderBytes,
    headersTimeoutMs: limits.httpHeadersTimeoutMs, requestTimeoutMs: limits.httpRequestTimeoutMs, idleTimeoutMs: limits.httpIdleTimeoutMs,
    keepAliveMs: limits.httpKeepAliveMs, handshakeTimeoutMs: limits.handshakeTimeoutMs, proxyHeaderTimeoutMs: limits.proxyHeaderTimeoutMs,
  }
}

export interface ListenerOptions extends ListenAddress, StreamOptions {
  readonly tls: boolean
  readonly tlsOptions?: TlsChoices
  /** Whether each connection begins with a header of the PROXY protocol. */
  readonly proxyProtocol?: boolean
  /** Paths and the handlers (ejabberd's module names) mounted there. Without it every route is served where it is. */
  readonly requestHandlers?: ReadonlyMap<string, string> | undefined
  /** Sent with every answer. */
  readonly customHeaders?: ReadonlyMap<string, string> | undefined
}

export interface HttpListener {
  readonly port: number
  readonly secure: boolean
  /** Connections and requests from now on get these options; where it listens stays. Throws when OpenSSL does not take its TLS options. */
  update(options: ListenerOptions): void
  /** Stops accepting, lets requests in work end for `graceMs`, then closes their connections. */
  close(graceMs?: number): Promise<void>
}

export interface HttpOptions {
  /** The certificates, asked for at each connection. */
  readonly contexts?: (() => SecureContexts | undefined) | undefined
  readonly log: Log
  readonly metrics?: Metrics
  readonly limits?: Partial<HttpLimits>
  /** Networks (`10.0.0.0/8`, addresses) whose X-Forwarded-For and X-Forwarded-Proto are believed; `all` for everybody. */
  readonly trustedProxies?: readonly string[]
}

export interface Http extends HttpRoutes {
  /** Believes these networks' forwarding headers from now on, in place of those of `HttpOptions.trustedProxies`. */
  trust(networks: readonly string[]): void
  listen(options: ListenerOptions): Promise<HttpListener>
  close(graceMs?: number): Promise<void>
}

interface Mount {
  readonly prefix: string
  readonly target: string
}

/** The routes and their listeners; nothing listens until `listen` is called. */
export function createHttp(options: HttpOptions): Http {
  const limits: HttpLimits = { ...httpLimits(defaultLimits), ...options.limits }
  const { log } = options
  const table = new RouteTable()
  const upgrades: { prefix: string; handler: UpgradeHandler }[] = []
  let trusted = trustList(options.trustedProxies ?? [])
  const open = new Set<HttpListener & { readonly mounts: readonly Mount[] | undefined }>()
  /** Who is at the other end, of each connection that may ask. */
  const peers = new WeakMap<Duplex, { readonly address: string; readonly listener: ListenerOptions }>()
  const answered = options.metrics?.counter('tidings_http_requests_total', 'HTTP requests answered', ['status'])
  const refused = options.metrics?.counter('tidings_http_refused_connections_total', 'HTTP connections refused because of a limit')

  async function handle(request: IncomingMessage, response: ServerResponse, mounts: readonly Mount[] | undefined, headers: ReadonlyMap<string, string> | undefined): Promise<void> {
    response.on('close', () => { answered?.inc(1, { status: `${Math.floor(response.statusCode / 100)}xx` }) })
    // A client that goes away is no error of ours.
    request.on('error', () => undefined)
    response.on('error', () => undefined)
    try {
      headers?.forEach((value, name) => { response.setHeader(name, value) })
      const path = describe(request, mounts)
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

  function describe(request: IncomingMessage, mounts: readonly Mount[] | undefined): HttpPath {
    const url = request.url ?? '/'
    const from = url.indexOf('?')
    const written = from === -1 ? url : url.slice(0, from)
    // RFC 9112 §3.2: origin form alone; `*` and absolute addresses are for proxies.
    if (!written.startsWith('/')) throw new HttpError(request.method === 'OPTIONS' && url === '*' ? 404 : 400)
    if (written.includes('\\') || written.split('/').some((part) => part === '..' || part === '.' || /^(%2e|\.){1,2}$/i.test(part))) throw new HttpError(400)
    const peer = peers.get(request.socket)
    let address = peer?.address ?? ''
    // All that asks has been put there.
    const listener = peer?.listener as ListenerOptions
    let encrypted = listener.tls
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
      listener,
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

  function onUpgrade(request: IncomingMessage, socket: Duplex, head: Buffer, mounts: readonly Mount[] | undefined): void {
    socket.on('error', () => undefined)
    try {
      const path = describe(request, mounts)
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

  /** A server whose connections are taken on by `accept`, and come to HTTP when it is known who is at their other end. */
  function start(mounts: () => readonly Mount[] | undefined, headers: () => ReadonlyMap<string, string> | undefined, accept: (socket: Socket, serve: (secured: Socket) => void) => void): Server {
    const server = createServer({
      maxHeaderSize: limits.headerBytes,
      headersTimeout: limits.headersTimeoutMs,
      requestTimeout: Math.max(limits.requestTimeoutMs, limits.headersTimeoutMs),
      keepAliveTimeout: limits.keepAliveMs,
      connectionsCheckingInterval: Math.min(5_000, limits.headersTimeoutMs),
      noDelay: true,
    })
    const listeners = server.listeners('connection')
    server.removeAllListeners('connection')
    server.on('connection', (socket: Socket) => accept(socket, (secured) => { for (const listener of listeners) listener.call(server, secured) }))
    server.maxConnections = limits.connections
    server.timeout = limits.idleTimeoutMs
    server.maxHeadersCount = 100
    server.on('drop', () => { refused?.inc() })
    const serve = (request: IncomingMessage, response: ServerResponse): void => { void handle(request, response, mounts(), headers()) }
    server.on('request', serve)
    // A handler of PUT may refuse before the body is sent (`acceptBody`); for all others the body is asked for at once.
    server.on('checkContinue', (request, response) => {
      if (request.method !== 'PUT') response.writeContinue()
      serve(request, response)
    })
    server.on('checkExpectation', (request, response) => { answer(request, response, 417) })
    server.on('upgrade', (request, socket, head) => { onUpgrade(request, socket, head, mounts()) })
    server.on('clientError', (error: NodeJS.ErrnoException, socket) => {
      if (!socket.writable || error.code === 'ECONNRESET') return void socket.destroy()
      const status = error.code === 'HPE_HEADER_OVERFLOW' ? 431 : error.code === 'ERR_HTTP_REQUEST_TIMEOUT' ? 408 : 400
      socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`)
    })
    return server
  }

  /** PROXY header, limit of the address and TLS of the connections of one listener. `close` ends those that have not come to HTTP. */
  function createDoor(): { open(listener: ListenerOptions, socket: Socket, serve: (secured: Socket) => void): void; close(): void } {
    const counts = new Map<string, number>()
    const arriving = new Set<Socket>()
    const refuse = (socket: Socket): void => {
      refused?.inc()
      socket.destroy()
    }

    function admit(listener: ListenerOptions, socket: Socket, address: string, serve: (secured: Socket) => void): void {
      if (socket.destroyed) return
      if (!isNear(address) && !trusted(address)) {
        const count = counts.get(address) ?? 0
        if (count >= limits.connectionsPerAddress) return refuse(socket)
        counts.set(address, count + 1)
        socket.once('close', () => {
          const left = (counts.get(address) ?? 1) - 1
          if (left <= 0) counts.delete(address)
          else counts.set(address, left)
        })
      }
      const begin = (secured: Socket): void => {
        arriving.delete(socket)
        peers.set(secured, { address, listener })
        serve(secured)
      }
      if (!listener.tls) return begin(socket)
      try {
        const secured = acceptTls(socket, { ...tlsOptionsOf(listener), ALPNProtocols: ['http/1.1'] }, limits.handshakeTimeoutMs)
        secured.on('error', () => undefined)
        secured.once('secure', () => begin(secured))
      } catch (error) {
        log.error({ what: 'tls_not_available', error })
        refuse(socket)
      }
    }

    return {
      open(listener, socket, serve) {
        arriving.add(socket)
        socket.once('close', () => arriving.delete(socket)).on('error', () => undefined)
        if (listener.proxyProtocol !== true) return admit(listener, socket, plainAddress(socket.remoteAddress), serve)
        readProxyHeader(
          socket,
          limits.proxyHeaderTimeoutMs,
          ({ address }) => admit(listener, socket, plainAddress(address ?? socket.remoteAddress), serve),
          (error) => {
            log.warn({ what: 'proxy_header_refused', address: plainAddress(socket.remoteAddress), error: error.message })
            refuse(socket)
          },
        )
      },
      close() { for (const socket of arriving) socket.destroy() },
    }
  }

  /** Throws when there are no certificates, or OpenSSL does not take the listener's choices. */
  function tlsOptionsOf(listener: ListenerOptions): TLSSocketOptions {
    const contexts = options.contexts?.()
    if (contexts === undefined) throw new Error('an HTTPS listener needs certificates')
    return contexts.optionsFor(listener.tlsOptions)
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
    trust(networks) { trusted = trustList(networks) },
    async listen(options) {
      let listener = options
      let mounts = listener.requestHandlers && mountsOf(listener.requestHandlers)
      if (listener.tls) tlsOptionsOf(listener)
      const door = createDoor()
      const server = start(() => mounts, () => listener.customHeaders, (socket, serve) => door.open(listener, socket, serve))
      const port = await listenOn(server, listener)
      server.on('error', (error) => { log.error({ what: 'http_listener_failed', port, error: error.message }) })
      const entry = {
        port,
        get secure() { return listener.tls },
        get mounts() { return mounts },
        update(next: ListenerOptions) {
          if (next.tls) tlsOptionsOf(next)
          listener = next
          mounts = next.requestHandlers && mountsOf(next.requestHandlers)
        },
        async close(graceMs = 2_000) {
          open.delete(entry)
          door.close()
          await closeServer(server, graceMs)
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

/** How fast a body has to come. */
export type BodyPace = Pick<Limits, 'httpIdleTimeoutMs' | 'httpBytesPerSecond'>

/**
 * The body in pieces. Throws 408 when the client is too slow: of the time that we wait for it, each stretch as long as the idle
 * timeout has to bring the bytes of the minimum rate. The time that the reader takes is not the client's.
 */
export async function* bodyOf(request: IncomingMessage, pace: BodyPace = defaultLimits): AsyncGenerator<Buffer, void, undefined> {
  const enough = (pace.httpBytesPerSecond * pace.httpIdleTimeoutMs) / 1000
  let waitedMs = 0
  let bytes = 0
  let since = performance.now()
  // Unread, the request can still be answered.
  for await (const part of request.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
    waitedMs += performance.now() - since
    bytes += part.length
    if (waitedMs >= pace.httpIdleTimeoutMs) {
      if (bytes < enough) throw new HttpError(408, 'the body comes too slowly')
      waitedMs = 0
      bytes = 0
    }
    yield part
    since = performance.now()
  }
}

/** The whole body; throws 413 as soon as it is known to be longer than `maxBytes`, and as `bodyOf`. */
export async function readBody(request: IncomingMessage, response: ServerResponse, maxBytes: number, pace?: BodyPace): Promise<Buffer> {
  if (Number(request.headers['content-length'] ?? 0) > maxBytes) throw new HttpError(413)
  acceptBody(request, response)
  const parts: Buffer[] = []
  let length = 0
  for await (const part of bodyOf(request, pace)) {
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
  const http = createHttp({ log: options.log, limits: { connections: 100, requestTimeoutMs: 10_000, headersTimeoutMs: 5_000, idleTimeoutMs: 30_000 } })
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

/** Connections that have been upgraded are no longer of HTTP, and not waited for. */
async function closeServer(server: Server, graceMs: number): Promise<void> {
  const closed = new Promise<void>((resolve) => { server.close(() => resolve()) })
  server.closeIdleConnections()
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(() => {
      server.closeAllConnections()
      resolve()
    }, graceMs)
  })
  await Promise.race([closed, late])
  clearTimeout(timer)
}

/** Connections of this machine are not limited by address: often they are those of a proxy. A Unix socket has no address. */
function isNear(address: string): boolean {
  return address === '' || address === '::1' || address.startsWith('127.')
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

function hostName(header: string | undefined): string {
  if (header === undefined) return ''
  const match = /^(\[[0-9a-f:.]+\]|[^:/?#@\s]*)(?::\d*)?$/i.exec(header)
  if (match === null) throw new HttpError(400)
  return (match[1] ?? '').toLowerCase().replace(/^\[|\]$/g, '')
}

