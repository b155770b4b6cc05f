/** The lower half of a client: a socket with a stream on it. It says only what it is told to say. */
import { once } from 'node:events'
import net from 'node:net'
import tls from 'node:tls'
import { WebSocket } from 'ws'
import { endPointHash } from '../net/certificates.ts'
import { CLIENT_NS, type Stanza } from '../stanza/stanza.ts'
import { StreamError } from '../stream/errors.ts'
import { CLOSE_XML, openXml, readFrame } from '../stream/framing.ts'
import { escapeXml } from '../xml/element.ts'
import { type StreamHeader, StreamParser } from '../xml/parser.ts'

export const STREAM_NS = 'http://etherx.jabber.org/streams'
const STREAM_ERRORS_NS = 'urn:ietf:params:xml:ns:xmpp-streams'

const LIMITS = { stanzaBytes: 16_777_216, depth: 1000, attributes: 1000, children: 100_000 }

/** What came from the server. `end` is the end of its stream, `close` the end of the connection. */
export type Incoming =
  | { readonly kind: 'header'; readonly header: StreamHeader }
  | { readonly kind: 'element'; readonly stanza: Stanza }
  | { readonly kind: 'end' }
  | { readonly kind: 'close'; readonly error: Error | undefined }

export interface Address {
  readonly host: string
  readonly port: number
  readonly domain: string
  /** Whether TLS is spoken from the first byte (XEP-0368). */
  readonly direct?: boolean
  readonly localAddress?: string
  /** Path of a Unix socket, in place of host and port. */
  readonly unixPath?: string
  /** What a proxy would say first, ahead of TLS too. */
  readonly proxyHeader?: string | Buffer
  /** The content namespace of the stream; `jabber:client` unless told. */
  readonly xmlns?: string
  /** Address of a WebSocket (RFC 7395), in place of host and port. */
  readonly webSocket?: string
}

const STREAM_END = '</stream:stream>'

export class Connection {
  readonly domain: string
  readonly xmlns: string
  /** Takes what arrives in place of `next()`. */
  onIncoming: ((incoming: Incoming) => void) | undefined
  #socket: net.Socket | WebSocket
  readonly #parser: StreamParser
  readonly #queue: Incoming[] = []
  #waiting: ((incoming: Incoming) => void) | undefined
  #closed = false
  #error: Error | undefined

  private constructor(socket: net.Socket | WebSocket, domain: string, xmlns: string) {
    this.#socket = socket
    this.domain = domain
    this.xmlns = xmlns
    this.#parser = new StreamParser(LIMITS, {
      streamOpened: (header) => this.#take({ kind: 'header', header }),
      stanza: (stanza) => {
        // What follows `proceed` is TLS.
        if (stanza.name === 'proceed' && stanza.xmlns === 'urn:ietf:params:xml:ns:xmpp-tls') this.#parser.pause()
        this.#take({ kind: 'element', stanza })
      },
      streamClosed: () => this.#take({ kind: 'end' }),
    }, xmlns)
    this.#attach(socket)
  }

  /** Connects, without a byte of XMPP. */
  static async open(address: Address): Promise<Connection> {
    const { host, port, unixPath, localAddress, proxyHeader } = address
    if (address.webSocket !== undefined) {
      const webSocket = new WebSocket(address.webSocket, ['xmpp'], { rejectUnauthorized: false, perMessageDeflate: false })
      const connection = new Connection(webSocket, address.domain, CLIENT_NS)
      await once(webSocket, 'open')
      return connection
    }
    const plain = net.connect(unixPath === undefined ? { host, port, ...(localAddress === undefined ? {} : { localAddress }) } : { path: unixPath })
    if (proxyHeader !== undefined) plain.write(proxyHeader)
    // With TLS it tells of the failure too.
    plain.on('error', () => undefined)
    const socket = address.direct ? tls.connect({ socket: plain, servername: address.domain, ALPNProtocols: ['xmpp-client'], rejectUnauthorized: false }) : plain
    await once(socket, address.direct ? 'secureConnect' : 'connect')
    socket.setNoDelay(true)
    return new Connection(socket, address.domain, address.xmlns ?? CLIENT_NS)
  }

  /** A stream over a connection that is there already, with the handshake of TLS done or to come. */
  static over(socket: net.Socket, domain: string, xmlns: string = CLIENT_NS): Connection {
    return new Connection(socket, domain, xmlns)
  }

  get closed(): boolean { return this.#closed }
  get secure(): boolean { return this.#socket instanceof WebSocket ? this.#socket.url.startsWith('wss:') : this.#socket instanceof tls.TLSSocket }
  get localPort(): number { return this.#socket instanceof WebSocket ? 0 : this.#socket.localPort ?? 0 }

  /** RFC 9266: the data of `tls-exporter`, when the connection has it. */
  get exporter(): Buffer | undefined {
    const socket = this.#socket
    return socket instanceof tls.TLSSocket && socket.getProtocol() === 'TLSv1.3' ? socket.exportKeyingMaterial(32, 'EXPORTER-Channel-Binding', Buffer.alloc(0)) : undefined
  }

  /** RFC 5929 §4: the data of `tls-server-end-point`, when the connection has it. */
  get endPoint(): Buffer | undefined {
    const certificate = this.#socket instanceof tls.TLSSocket ? this.#socket.getPeerX509Certificate() : undefined
    return certificate && endPointHash(certificate)
  }

  write(data: string | Buffer): void {
    if (this.#closed) return
    if (this.#socket instanceof WebSocket) this.#socket.send(data === STREAM_END ? CLOSE_XML : data, { binary: false })
    else this.#socket.write(data)
  }

  /** Sends a stream header and expects one. */
  openStream(attrs: Readonly<Record<string, string>> = {}): void {
    this.#parser.reset()
    const all: Record<string, string> = { to: this.domain, version: '1.0', 'xml:lang': 'en', ...attrs }
    const attributes = Object.entries(all).map(([key, value]) => `${key}='${escapeXml(value)}'`).join(' ')
    this.write(this.#socket instanceof WebSocket ? openXml(attributes) : `<?xml version='1.0'?><stream:stream xmlns='${this.xmlns}' xmlns:stream='${STREAM_NS}' ${attributes}>`)
  }

  /** RFC 6120 §5.4.3.3: TLS on this connection, after `proceed`. */
  async secureWithTls(options: tls.ConnectionOptions = {}): Promise<tls.TLSSocket> {
    const plain = this.#socket as net.Socket
    plain.removeAllListeners('data')
    plain.removeAllListeners('close')
    plain.removeAllListeners('error')
    this.#parser.takeRest()
    this.#parser.reset()
    this.#parser.resume()
    const secured = tls.connect({ servername: this.domain, rejectUnauthorized: false, ...options, socket: plain })
    await once(secured, 'secureConnect')
    this.#socket = secured
    this.#attach(secured)
    return secured
  }

  /** The next that arrives; after the end, that it is closed, again and again. */
  async next(timeoutMs = 10_000): Promise<Incoming> {
    const first = this.#queue.shift()
    if (first !== undefined) return first
    if (this.#closed) return { kind: 'close', error: this.#error }
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#waiting = undefined
        reject(new Error(`nothing arrived in ${timeoutMs} ms`))
      }, timeoutMs)
      this.#waiting = (incoming) => {
        clearTimeout(timer)
        resolve(incoming)
      }
    })
  }

  /** The next first-level element. Throws StreamError when it is a stream error. */
  async nextElement(timeoutMs?: number): Promise<Stanza> {
    for (;;) {
      const incoming = await this.next(timeoutMs)
      if (incoming.kind === 'header') continue
      if (incoming.kind !== 'element') throw new Error(incoming.kind === 'end' ? 'the server ended the stream' : `the connection is closed${incoming.error ? `: ${incoming.error.message}` : ''}`)
      const error = streamErrorOf(incoming.stanza)
      if (error !== undefined) throw error
      return incoming.stanza
    }
  }

  /** What arrived and was not taken yet is given to `onIncoming`, and all that follows. */
  listen(onIncoming: (incoming: Incoming) => void): void {
    this.onIncoming = onIncoming
    for (const incoming of this.#queue.splice(0)) onIncoming(incoming)
  }

  /** Stops and starts reading, so that the server meets a client that does not. */
  stopReading(): void { this.#socket.pause() }
  startReading(): void { this.#socket.resume() }

  /** Ends the connection as a lost network does, without a word. */
  destroy(): void {
    if (this.#socket instanceof WebSocket) this.#socket.terminate()
    else this.#socket.destroy()
  }

  #attach(socket: net.Socket | WebSocket): void {
    const read = (chunk: Buffer): void => {
      try {
        this.#parser.write(socket instanceof WebSocket ? readFrame(chunk).bytes : chunk)
      } catch (error) {
        this.#error = error as Error
        this.destroy()
      }
    }
    const failed = (error: Error): void => { this.#error = error }
    const closed = (): void => {
      this.#closed = true
      this.#take({ kind: 'close', error: this.#error })
    }
    if (socket instanceof WebSocket) socket.on('message', read).on('error', failed).on('close', closed)
    else socket.on('data', read).on('error', failed).on('close', closed)
  }

  #take(incoming: Incoming): void {
    if (this.onIncoming !== undefined) return this.onIncoming(incoming)
    const waiting = this.#waiting
    if (waiting !== undefined) {
      this.#waiting = undefined
      waiting(incoming)
    } else this.#queue.push(incoming)
  }
}

/** The error when this element is `<stream:error/>` (RFC 6120 §4.9). */
export function streamErrorOf(stanza: Stanza): StreamError | undefined {
  if (stanza.name !== 'error' || stanza.xmlns !== STREAM_NS) return undefined
  const condition = stanza.children.find((child) => child.xmlns === STREAM_ERRORS_NS && child.name !== 'text')
  const text = stanza.find('text', STREAM_ERRORS_NS)
  return new StreamError((condition?.name ?? 'undefined-condition') as StreamError['condition'], text && stanza.childElement(text).getText())
}
