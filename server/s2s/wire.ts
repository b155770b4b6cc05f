/** One connection with another server, in either direction: its bytes, its TLS, what is owed to it, and its end. */
import type { Socket } from 'node:net'
import { type ConnectionOptions, TLSSocket, type TLSSocketOptions, connect as connectTls } from 'node:tls'
import { acceptTls } from '../../lib/net/certificates.ts'
import { shareReads } from '../../lib/net/shared-reads.ts'
import type { Stanza } from '../../lib/stanza/stanza.ts'
import { StreamError } from '../../lib/stream/errors.ts'
import { escapeXml } from '../../lib/xml/element.ts'
import { type ParserLimits, StreamParser, type StreamHandler, type StreamHeader } from '../../lib/xml/parser.ts'
import type { Log } from '../log.ts'
import type { Storage } from '../storage/shapes.ts'

export const SERVER_NS = 'jabber:server'
export const DIALBACK_NS = 'jabber:server:dialback'
export const STREAMS_NS = 'http://etherx.jabber.org/streams'
export const TLS_NS = 'urn:ietf:params:xml:ns:xmpp-tls'
export const SASL_NS = 'urn:ietf:params:xml:ns:xmpp-sasl'
export const SM_NS = 'urn:xmpp:sm:3'
export const BIDI_NS = 'urn:xmpp:bidi'
export const BIDI_FEATURE_NS = 'urn:xmpp:features:bidi'
export const DIALBACK_FEATURE_NS = 'urn:xmpp:features:dialback'

const STREAM_END = Buffer.from('</stream:stream>')
const KEEPALIVE = Buffer.from(' ')

/** Whoever owns the connection; what it throws as a StreamError ends the stream. */
export interface WireOwner {
  opened(header: StreamHeader): void
  element(stanza: Stanza): void
  /** The bytes at hand have been read; everything that they caused is written in the same turn. */
  readEnded(): void
  /** About to write what is owed: the last chance to add to it. */
  flushing(): void
  /** About to end the stream: the last chance to say something. */
  closing(): void
  /** The peer has ended its stream, and has had everything if we ended ours before. */
  peerClosed(): void
  /** The stream ends with an error of ours. */
  failed(error: StreamError): void
  /** The connection is over; told once. */
  ended(): void
  /** The header by which the stream begins, for an error that comes before it. */
  header(): string
}

export interface WireParts {
  readonly storage: Pick<Storage, 'dirty' | 'afterCommit'>
  readonly log: Log
  readonly closeTimeoutMs: number
  readonly keepaliveMs: number
  readonly idleMs: number
  readonly outboundBytes: number
  readonly now: () => number
}

/** What is written together. */
interface Batch {
  readonly out: Buffer[]
  bytes: number
  /** It waits for a commit. */
  held: boolean
}

export class Wire implements StreamHandler {
  readonly #parts: WireParts
  readonly #owner: WireOwner
  readonly #parser: StreamParser
  #socket: Socket
  #headerSent = false
  #closing = false
  #over = false
  /** A stanza of it is being handled. */
  #busy = false
  #shaperPause: NodeJS.Timeout | undefined
  /** What is to be written, oldest first; to the last of it this turn adds. */
  readonly #queue: Batch[] = []
  #open: Batch | undefined
  #queuedBytes = 0
  #writtenAt: number
  #idleTimer: NodeJS.Timeout | undefined
  /** Bytes that came. */
  received = 0

  constructor(socket: Socket, owner: WireOwner, limits: ParserLimits, parts: WireParts) {
    this.#parts = parts
    this.#owner = owner
    this.#socket = socket
    this.#parser = new StreamParser(limits, this, SERVER_NS)
    this.#writtenAt = parts.now()
    this.#watch()
    socket.setNoDelay(true)
    this.#attach(socket)
  }

  get secure(): boolean { return this.#socket instanceof TLSSocket }
  get tls(): TLSSocket | undefined { return this.#socket instanceof TLSSocket ? this.#socket : undefined }
  /** Whether stanzas can be sent and received. */
  get alive(): boolean { return !this.#closing && !this.#over }
  get closing(): boolean { return this.#closing }
  get limits(): ParserLimits { return this.#parser.limits }
  set limits(limits: ParserLimits) { this.#parser.limits = limits }

  #attach(socket: Socket): void {
    shareReads(socket)
    socket.on('data', (chunk: Buffer) => this.#read(chunk))
    socket.on('error', () => this.#end()).on('end', () => this.#peerEnded()).on('close', () => this.#end())
    if (socket.destroyed) queueMicrotask(() => this.#end())
    else socket.resume()
  }

  // --- reading

  /** Told of each chunk before it is parsed: to limit or slow the peer. Returns how long to read nothing, ms. */
  shape: ((bytes: number) => number) | undefined

  #read(chunk: Buffer): void {
    if (this.#closing) {
      // What still comes is dropped, but its end is looked for.
      try { this.#parser.write(chunk) } catch { /* nobody hears of it any more */ }
      return
    }
    if (this.#over) return
    this.received += chunk.length
    this.guard(() => {
      const waitMs = this.shape?.(chunk.length) ?? 0
      if (waitMs > 0) this.#pauseFor(waitMs)
      this.#parser.write(chunk)
      this.#owner.readEnded()
    })
  }

  #pauseFor(waitMs: number): void {
    if (this.#shaperPause !== undefined) return
    this.#socket.pause()
    this.#shaperPause = setTimeout(() => {
      this.#shaperPause = undefined
      if (this.alive && !this.#busy) this.#socket.resume()
    }, waitMs)
    this.#shaperPause.unref()
  }

  /** Runs what may throw a StreamError: the one place where they are caught. */
  guard(run: () => void): void {
    try {
      run()
    } catch (error) {
      if (error instanceof StreamError) return this.close(error)
      this.#parts.log.error({ what: 's2s_stream_failed', error })
      this.close(new StreamError('internal-server-error'))
    }
  }

  streamOpened(header: StreamHeader): void { if (!this.#closing) this.#owner.opened(header) }
  stanza(stanza: Stanza): void { if (this.alive) this.#owner.element(stanza) }
  streamClosed(): void {
    this.#owner.peerClosed()
    if (this.#closing) this.#socket.end()
    else this.close()
  }

  /** Reads nothing until this has been done (RFC 6120 §10.1). */
  wait(pending: Promise<void>, then: () => void): void {
    this.#busy = true
    this.#parser.pause()
    let settled = false
    const done = (): void => {
      settled = true
      this.#busy = false
      if (!this.alive) return
      this.guard(() => {
        then()
        this.#parser.resume()
        this.#owner.readEnded()
      })
      if (!this.#busy && this.alive && this.#shaperPause === undefined) this.#socket.resume()
    }
    pending.then(done, (error: unknown) => {
      this.#parts.log.error({ what: 'stanza_failed', error })
      done()
    })
    setImmediate(() => {
      if (!settled) this.#socket.pause()
    })
  }

  // --- TLS (RFC 6120 §5)

  /** TLS as the receiving side, once `proceed` is written. `secured` is called after the handshake. */
  acceptTls(options: TLSSocketOptions, timeoutMs: number, proceed: string, secured: () => void): void {
    this.#upgrade((plain) => {
      this.writeText(proceed)
      this.#flushNow()
      return acceptTls(plain, options, timeoutMs)
    }, 'secure', secured)
  }

  /** TLS as the initiating side. */
  startTls(options: ConnectionOptions, timeoutMs: number, secured: () => void): void {
    this.#upgrade((plain) => {
      const socket = connectTls({ ...options, socket: plain })
      const timer = setTimeout(() => socket.destroy(), timeoutMs)
      timer.unref()
      socket.once('secureConnect', () => clearTimeout(timer)).once('close', () => clearTimeout(timer))
      return socket
    }, 'secureConnect', secured)
  }

  #upgrade(make: (plain: Socket) => TLSSocket, event: string, secured: () => void): void {
    // §5.4.3.3: nothing sent in the clear may count after the handshake.
    this.#parser.pause()
    // The parser still holds the chunk that this came in; what is left of it shows when the turn is over.
    queueMicrotask(() => this.guard(() => {
      if (!this.alive) return
      if (this.#parser.takeRest().some((byte) => byte !== 0x20 && byte !== 0x0a && byte !== 0x0d && byte !== 0x09)) throw new StreamError('policy-violation', 'data before TLS')
      const plain = this.#socket
      plain.removeAllListeners('data').removeAllListeners('end').removeAllListeners('error').removeAllListeners('close')
      plain.on('error', () => undefined)
      const socket = make(plain)
      this.#socket = socket
      this.#headerSent = false
      socket.once(event, () => this.guard(() => {
        this.#parser.reset()
        this.#parser.resume()
        secured()
      }))
      this.#attach(socket)
    }))
  }

  /** A new stream on the same connection, after SASL (RFC 6120 §6.3.2). */
  restart(): void {
    this.#headerSent = false
    this.#parser.reset()
  }

  // --- writing

  /** Begins the stream, or answers its beginning. */
  sendHeader(): void {
    this.#headerSent = true
    this.writeText(this.#owner.header())
  }

  writeText(text: string): void { this.write(Buffer.from(text)) }

  /** Writes at the end of the turn. */
  write(bytes: Buffer): void { this.#add(bytes) }

  /** The same, once all that is stored by now is committed. */
  writeCommitted(bytes: Buffer): void {
    const batch = this.#add(bytes)
    // Should the process be killed before, nothing of it has been said.
    if (batch.held || !this.#parts.storage.dirty) return
    batch.held = true
    this.#parts.storage.afterCommit(() => {
      batch.held = false
      this.#drain()
    })
  }

  #add(bytes: Buffer): Batch {
    let batch = this.#open
    if (batch === undefined) {
      batch = this.#open = { out: [], bytes: 0, held: false }
      this.#queue.push(batch)
      setImmediate(this.#flush)
    }
    batch.out.push(bytes)
    batch.bytes += bytes.length
    this.#queuedBytes += bytes.length
    if (this.alive && this.#socket.writableLength + this.#queuedBytes > this.#parts.outboundBytes) queueMicrotask(() => this.destroy())
    return batch
  }

  readonly #flush = (): void => {
    if (this.#open === undefined) return
    if (this.alive) this.#owner.flushing()
    this.#flushNow()
  }

  #flushNow(): void {
    this.#open = undefined
    this.#drain()
  }

  #drain(): void {
    for (let batch = this.#queue[0]; batch !== undefined && batch !== this.#open && !batch.held; batch = this.#queue[0]) {
      this.#queue.shift()
      this.#queuedBytes -= batch.bytes
      if (this.#socket.destroyed || this.#socket.writableEnded) continue
      this.#writtenAt = this.#parts.now()
      this.#socket.write(batch.out.length === 1 ? (batch.out[0] as Buffer) : Buffer.concat(batch.out))
    }
  }

  /** Keeps the connection, or ends it, when nothing happens on it. */
  #watch(): void {
    const { idleMs, keepaliveMs, now } = this.#parts
    const check = (): void => {
      if (!this.alive) return
      const time = now()
      const idle = time - this.stanzaAt
      if (this.#idles && idle >= idleMs) return this.close()
      if (time - this.#writtenAt >= keepaliveMs) this.write(KEEPALIVE)
      this.#idleTimer = setTimeout(check, Math.max(10, Math.min(this.#idles ? idleMs - idle : idleMs, keepaliveMs)))
      this.#idleTimer.unref()
    }
    this.stanzaAt = now()
    this.#idleTimer = setTimeout(check, Math.min(idleMs, keepaliveMs))
    this.#idleTimer.unref()
  }

  /** When the last stanza was sent or received, ms. */
  stanzaAt = 0
  #idles = false

  /** The negotiation, which has its own limits, is over: from now on it may be idle. */
  idle(): void {
    this.#idles = true
    this.stanzaAt = this.#parts.now()
  }

  // --- the end

  close(error?: StreamError): void {
    if (!this.alive) return
    // RFC 6120 §4.9.1.2: an error before the header is sent inside a stream of its own.
    if (!this.#headerSent && error !== undefined) this.sendHeader()
    this.#owner.closing()
    this.#closing = true
    if (error !== undefined) {
      this.writeText(error.toXml())
      this.#owner.failed(error)
    }
    if (this.#headerSent) this.write(STREAM_END)
    const socket = this.#socket
    const timer = setTimeout(() => socket.destroy(), this.#parts.closeTimeoutMs)
    timer.unref()
    socket.once('close', () => clearTimeout(timer))
    for (const batch of this.#queue) batch.held = false
    this.#flushNow()
    // After an error nothing more is to be heard; else the peer has its say.
    if (error !== undefined || !this.#headerSent) socket.end()
    socket.resume()
  }

  /** The peer has closed its side of the connection. */
  #peerEnded(): void {
    if (!this.#socket.destroyed) this.#socket.end()
    this.#end()
  }

  destroy(): void {
    this.#socket.destroy()
    this.#end()
  }

  #end(): void {
    if (this.#over) return
    this.#over = true
    this.#socket.destroy()
    clearTimeout(this.#shaperPause)
    clearTimeout(this.#idleTimer)
    this.#queue.length = 0
    this.#owner.ended()
  }
}

/** The attributes of a stream header that are the same in both directions. */
export function headerXml(attrs: Readonly<Record<string, string | undefined>>): string {
  let text = `<?xml version='1.0'?><stream:stream xmlns='${SERVER_NS}' xmlns:stream='${STREAMS_NS}' xmlns:db='${DIALBACK_NS}'`
  for (const key in attrs) if (attrs[key] !== undefined) text += ` ${key}='${escapeXml(attrs[key])}'`
  return `${text} version='1.0' xml:lang='en'>`
}
