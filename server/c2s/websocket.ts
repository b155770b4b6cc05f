/** XMPP over WebSocket (RFC 7395): the handler `ejabberd_http_ws` of HTTP listeners. */
import { type IncomingMessage, STATUS_CODES } from 'node:http'
import type { Duplex } from 'node:stream'
import { type ServerOptions, type WebSocket, WebSocketServer } from 'ws'
import type { WebSocketOptions } from '../config/config.ts'
import type { Limits } from '../config/limits.ts'
import { answer } from '../http/http.ts'
import { HANDLER_PATHS, type HttpPath, type HttpRoutes } from '../http/routes.ts'
import type { Log } from '../log.ts'
import type { ClientStreams } from './c2s.ts'
import { FramedConnection, type Transport, type Written } from './framed.ts'

export interface WebSocketParts {
  readonly http: HttpRoutes
  readonly streams: ClientStreams
  readonly limits: Limits
  readonly log: Log
  /** The options as they are configured now. */
  readonly options: () => WebSocketOptions
}

const ROUTE = HANDLER_PATHS['ejabberd_http_ws'] as string
const SUBPROTOCOL = 'xmpp'
const PINGS_UNANSWERED_MAX = 2
/** A message so much larger than a stanza may be is answered with a stream error; one that is larger yet is not read. */
const MESSAGE_BYTES_MORE = 65_536
/** RFC 6455 §7.4.1 */
const NORMAL = 1000
const UNSUPPORTED_DATA = 1003
const TRY_AGAIN_LATER = 1013

export interface WebSocketHandler {
  /** Ends, after this time, the connections whose clients have not answered to their end until then. */
  endAfter(graceMs: number): void
}

/** Serves WebSocket where listeners have the handler. */
export function serveWebSocket(parts: WebSocketParts): WebSocketHandler {
  const { http, limits } = parts
  const open = new Set<WebSocket>()
  /** By the size of the largest message, which is the listener's. */
  const servers = new Map<number, WebSocketServer>()

  function serverFor(stanzaBytes: number): WebSocketServer {
    let server = servers.get(stanzaBytes)
    if (server === undefined) {
      // Its types do not tell of `closeTimeout`.
      const options: ServerOptions & { readonly closeTimeout: number } = {
        noServer: true, clientTracking: false, maxPayload: stanzaBytes + MESSAGE_BYTES_MORE, closeTimeout: limits.closeTimeoutMs,
        // What is compressed together with what an attacker chose can be guessed from its length; and each connection would need memory for it.
        perMessageDeflate: false,
        handleProtocols: () => SUBPROTOCOL,
      }
      server = new WebSocketServer(options)
      servers.set(stanzaBytes, server)
    }
    return server
  }

  http.upgrade(ROUTE, (request, socket, head, path) => {
    const { origins } = parts.options()
    const refusal = refusalOf(request, origins)
    if (refusal !== undefined) return refuse(socket, refusal)
    const { maxStanzaBytes = limits.stanzaBytes } = path.listener
    serverFor(maxStanzaBytes).handleUpgrade(request, socket, head, (webSocket) => {
      open.add(webSocket)
      webSocket.on('close', () => open.delete(webSocket))
      begin(parts, webSocket, path)
    })
  })
  http.add('GET', ROUTE, (request, response) => {
    // RFC 9110 §15.5.22
    answer(request, response, 426, 'this is for WebSocket with the subprotocol xmpp (RFC 7395)', { Connection: 'Upgrade', Upgrade: 'websocket' })
  })
  return {
    endAfter(graceMs) {
      setTimeout(() => { for (const each of open) each.terminate() }, graceMs).unref()
    },
  }
}

/** RFC 7395 §3.1: the status for a handshake that is not one of XMPP, or comes from somebody else's page. */
function refusalOf(request: IncomingMessage, origins: readonly string[]): number | undefined {
  if (request.headers.upgrade?.toLowerCase() !== 'websocket') return 426
  const offered = (request.headers['sec-websocket-protocol'] ?? '').split(',').map((each) => each.trim())
  if (!offered.includes(SUBPROTOCOL)) return 400
  const { origin } = request.headers
  return origin === undefined || origins.length === 0 || origins.includes(origin.toLowerCase()) ? undefined : 403
}

function refuse(socket: Duplex, status: number): void {
  socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ''}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`)
}

function begin({ streams, log, options }: WebSocketParts, webSocket: WebSocket, path: HttpPath): void {
  const { address, secure, listener } = path
  const connection = new FramedConnection(new WebSocketTransport(webSocket))
  webSocket.on('error', (error) => { log.debug({ what: 'websocket_failed', address, error: error.message }) })
  if (!streams.adopt(connection, { address, secure, listener })) return webSocket.close(TRY_AGAIN_LATER)
  let heardAt = performance.now()
  let unanswered = 0
  const heard = (): void => {
    heardAt = performance.now()
    unanswered = 0
  }
  webSocket.on('message', (data: Buffer, isBinary) => {
    heard()
    if (!isBinary) return connection.receive(data)
    // RFC 7395 §3.2: text alone. What still follows is not for the stream.
    webSocket.close(UNSUPPORTED_DATA)
    connection.gone()
  })
  const alive = (): void => {
    heard()
    connection.heard()
  }
  webSocket.on('pong', alive)
  webSocket.on('ping', alive)
  const { pingIntervalMs, timeoutMs } = options()
  const watches: NodeJS.Timeout[] = []
  const watch = (everyMs: number, look: () => void): void => {
    if (everyMs > 0 && everyMs < Infinity) watches.push(setInterval(look, everyMs).unref())
  }
  // §3.8: pings of WebSocket, and no white space.
  watch(pingIntervalMs, () => {
    // As long as we do not read, no answer is heard.
    if (webSocket.isPaused) return
    if (++unanswered > PINGS_UNANSWERED_MAX) return webSocket.terminate()
    if (webSocket.readyState === webSocket.OPEN) webSocket.ping()
  })
  watch(timeoutMs, () => {
    if (performance.now() - heardAt >= timeoutMs && !webSocket.isPaused) webSocket.terminate()
  })
  webSocket.on('close', () => {
    for (const each of watches) clearInterval(each)
    connection.gone()
  })
}

class WebSocketTransport implements Transport {
  readonly #webSocket: WebSocket
  #finished = false

  constructor(webSocket: WebSocket) {
    this.#webSocket = webSocket
  }

  get backlog(): number { return this.#webSocket.bufferedAmount }

  emit(element: Buffer, taken?: Written): void {
    this.#webSocket.send(element, { binary: false }, taken)
  }

  end(): void {
    if (!this.#finished) this.#webSocket.close(NORMAL)
  }

  destroy(): void {
    this.#finished = true
    this.#webSocket.terminate()
  }

  pause(): void {
    this.#webSocket.pause()
  }

  resume(): void {
    this.#webSocket.resume()
  }
}
