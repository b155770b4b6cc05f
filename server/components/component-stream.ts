/** The stream of an external component: opening, handshake, and then its stanzas (XEP-0114 §3). */
import { createHash, timingSafeEqual } from 'node:crypto'
import type { Socket } from 'node:net'
import { Jid } from '../../lib/jid.ts'
import { Bucket } from '../../lib/net/bucket.ts'
import { shareReads } from '../../lib/net/shared-reads.ts'
import { fromContentNamespace, toContentNamespace } from '../../lib/stanza/content-namespace.ts'
import { nextMessageId, randomId } from '../../lib/stanza/ids.ts'
import type { Stanza } from '../../lib/stanza/stanza.ts'
import { StreamError } from '../../lib/stream/errors.ts'
import { escapeXml } from '../../lib/xml/element.ts'
import { StreamParser, type StreamHandler, type StreamHeader } from '../../lib/xml/parser.ts'
import type { Shaper } from '../config/access.ts'
import type { ComponentListen, ListenConfig } from '../config/config.ts'
import type { Key } from '../storage/shapes.ts'
import type { Components } from './components.ts'

export const COMPONENT_NS = 'jabber:component:accept'
const STREAMS_NS = 'http://etherx.jabber.org/streams'
/** Messages of which is remembered what became of them. */
const HAD_MAX = 10_000
const STREAM_END = Buffer.from('</stream:stream>')

/** A listener with its present options. */
export interface ListenerOptions {
  listen: ListenConfig & { readonly component: ComponentListen }
}

/** A stanza on its way. */
export interface Outgoing {
  readonly stanza: Stanza
  /** Where it is kept until the network has taken it. */
  readonly key: Key | undefined
}

/** What is written together. */
interface Batch {
  readonly out: Buffer[]
  readonly stanzas: Outgoing[]
  bytes: number
  /** It waits for a commit. */
  held: boolean
}

export class ComponentStream implements StreamHandler {
  readonly address: string
  readonly listener: ListenerOptions
  readonly #components: Components
  readonly #socket: Socket
  readonly #parser: StreamParser
  readonly #id = randomId()
  #domain = ''
  #number = ''
  #password: string | undefined
  #connected = false
  #headerSent = false
  #closing = false
  #left = false
  #preAuthBytes = 0
  readonly #timer: NodeJS.Timeout
  /** An IQ of it is being answered. */
  #busy = false
  #shaperPause: NodeJS.Timeout | undefined
  readonly #bucket = new Bucket()
  /** What is to be written, oldest first; to the last of it this turn adds. */
  readonly #queue: Batch[] = []
  #open: Batch | undefined
  #queuedBytes = 0
  /** Messages that were kept for it, by the last part of their keys, as far as it can be said. */
  readonly #had = new Map<string, 'sent' | 'taken'>()
  /** Stanzas that the network has not taken. */
  readonly #untaken = new Set<readonly Outgoing[]>()

  constructor(components: Components, listener: ListenerOptions, socket: Socket, address: string) {
    this.#components = components
    this.listener = listener
    this.#socket = socket
    this.address = address
    const { limits } = components
    const { preAuthMaxStanzaBytes, preAuthMaxStanzaElements } = listener.listen
    this.#parser = new StreamParser({ stanzaBytes: preAuthMaxStanzaBytes, depth: limits.depth, attributes: limits.attributes, children: preAuthMaxStanzaElements }, this, COMPONENT_NS)
    this.#timer = setTimeout(() => this.close(new StreamError('connection-timeout')), limits.preAuthTimeoutMs)
    this.#timer.unref()
    socket.setNoDelay(true)
    // It need not answer anything that it is asked: whether it is still there, the network has to tell.
    socket.setKeepAlive(true, limits.idlePingMs)
    shareReads(socket)
    socket.on('data', (chunk: Buffer) => this.#read(chunk))
    socket.on('error', () => this.#leave()).on('end', () => this.#gone()).on('close', () => this.#ended())
  }

  /** The domain that it has connected for; empty before it is known. */
  get domain(): string { return this.#domain }
  /** Higher than those of connections made before, of other nodes too. */
  get number(): string { return this.#number }
  /** Whether the handshake is done, and the stream is not over. */
  get connected(): boolean { return this.#connected && !this.#closing && !this.#left }
  /** Whether the handshake has been done. */
  get admitted(): boolean { return this.#connected }

  /** The domains that its stanzas may be from. */
  get domains(): readonly string[] {
    const { passwords, globalRoutes } = this.listener.listen.component
    return globalRoutes && passwords.has(this.#domain) ? [...passwords.keys()] : [this.#domain]
  }

  // --- reading

  #read(chunk: Buffer): void {
    if (this.#closing || this.#left) return
    if (this.#connected) this.#shape(chunk.length)
    else {
      this.#preAuthBytes += chunk.length
      if (this.#preAuthBytes > this.#components.limits.preAuthBytes) return this.close(new StreamError('policy-violation', 'too much before the handshake'))
    }
    this.#guard(() => this.#parser.write(chunk))
  }

  /** Runs what may throw a StreamError: the one place where they are caught. */
  #guard(run: () => void): void {
    try {
      run()
    } catch (error) {
      if (error instanceof StreamError) return this.close(error)
      this.#components.log.error({ what: 'component_stream_failed', domain: this.#domain, address: this.address, error })
      this.close(new StreamError('internal-server-error'))
    }
  }

  /** Slows the component down to its shaper's rate by not reading for a while. */
  #shape(bytes: number): void {
    const shaper: Shaper | undefined = this.#components.shaperOf(this)
    if (shaper === undefined) return
    const waitMs = this.#bucket.take(bytes, shaper, this.#components.now())
    if (waitMs === 0 || this.#shaperPause !== undefined) return
    this.#socket.pause()
    this.#shaperPause = setTimeout(() => {
      this.#shaperPause = undefined
      if (!this.#closing && !this.#busy) this.#socket.resume()
    }, waitMs)
    this.#shaperPause.unref()
  }

  streamOpened({ attrs }: StreamHeader): void {
    const jid = Jid.tryParse(attrs['to'] ?? '')
    const isDomain = jid !== undefined && jid.local === '' && jid.resource === ''
    if (isDomain) this.#domain = jid.domain
    this.#sendHeader()
    if (!isDomain) throw new StreamError(attrs['to'] === undefined ? 'host-unknown' : 'improper-addressing', 'to is the domain of the component')
    this.#password = this.#components.passwordFor(this)
  }

  #sendHeader(): void {
    this.#headerSent = true
    const from = this.#domain === '' ? this.#components.defaultHost : this.#domain
    this.#write(Buffer.from(`<?xml version='1.0'?><stream:stream xmlns='${COMPONENT_NS}' xmlns:stream='${STREAMS_NS}' from='${escapeXml(from)}' id='${this.#id}'>`))
  }

  streamClosed(): void { this.close() }

  stanza(stanza: Stanza): void {
    if (this.#closing || this.#left) return
    if (!this.#connected) return this.#handshake(stanza)
    const inside = fromContentNamespace(stanza, COMPONENT_NS)
    if (!inside.isStanza) throw new StreamError('unsupported-stanza-type')
    // XEP-0114 §3: as between servers (RFC 6120 §8.1.1.2, §8.1.2.2).
    if (inside.from === undefined || inside.to === undefined) throw new StreamError('improper-addressing', 'a stanza needs from and to')
    const from = Jid.tryParse(inside.from)
    if (from === undefined || (this.listener.listen.component.checkFrom && !this.domains.includes(from.domain))) throw new StreamError('invalid-from', 'not of the domain of the component')
    const written = from.toString()
    const pending = this.#components.received(written === inside.from ? inside : inside.withAttrs({ from: written }))
    // RFC 6120 §10.1: in order.
    if (pending !== undefined) this.#wait(pending)
  }

  #handshake(stanza: Stanza): void {
    if (stanza.name !== 'handshake' || stanza.xmlns !== COMPONENT_NS) throw new StreamError('not-authorized', 'the handshake comes first')
    const login = this.#components.tryLogin(this)
    const expected = createHash('sha1').update(this.#id + this.#password).digest('hex')
    const given = stanza.element().getText()
    if (!timingSafeEqual(createHash('sha256').update(given).digest(), createHash('sha256').update(expected).digest())) {
      this.#components.log.warn({ what: 'component_login_failed', domain: this.#domain, address: this.address })
      throw new StreamError('not-authorized')
    }
    login.succeeded()
    this.#components.connecting(this)
    this.#number = nextMessageId()
    this.#connected = true
    clearTimeout(this.#timer)
    const { maxStanzaBytes, maxStanzaElements } = this.listener.listen
    this.#parser.limits = { ...this.#parser.limits, stanzaBytes: maxStanzaBytes, children: maxStanzaElements }
    this.#write(Buffer.from('<handshake/>'))
    this.#components.connected(this)
  }

  /** Whether the secret that it has shown is still that of its domain. */
  get authorized(): boolean {
    const { passwords, password } = this.listener.listen.component
    return this.#password === (passwords.get(this.#domain) ?? password)
  }

  /** Stops reading until something has been done. */
  #wait(pending: Promise<void>): void {
    this.#busy = true
    this.#parser.pause()
    let settled = false
    const done = (): void => {
      settled = true
      this.#busy = false
      if (this.#closing || this.#left) return
      this.#guard(() => this.#parser.resume())
      if (!this.#busy && !this.#closing && this.#shaperPause === undefined) this.#socket.resume()
    }
    pending.then(done, (error: unknown) => {
      this.#components.log.error({ what: 'stanza_failed', domain: this.#domain, error })
      done()
    })
    setImmediate(() => {
      if (!settled) this.#socket.pause()
    })
  }

  // --- writing

  /** Writes a stanza at the end of the turn, once all that is stored by now is committed. One that does not reach the network goes back. */
  send(stanza: Stanza, key?: Key): void {
    const batch = this.#write(toContentNamespace(stanza, COMPONENT_NS))
    batch.stanzas.push({ stanza, key })
    if (key !== undefined) this.#note(key, 'sent')
    const { storage } = this.#components
    // Should the process be killed before, its sender has not sent it.
    if (!batch.held && (key !== undefined || storage.dirty)) {
      batch.held = true
      storage.afterCommit(() => {
        batch.held = false
        this.#drain()
      })
    }
    if (this.#socket.writableLength + this.#queuedBytes > this.listener.listen.outboundBytes) this.close(new StreamError('policy-violation', 'the component does not read'))
  }

  /** What has become of a message that was sent here before. */
  had(id: string): 'sent' | 'taken' | undefined { return this.#had.get(id) }

  #note([, id = '']: Key, what: 'sent' | 'taken'): void {
    this.#had.delete(id)
    this.#had.set(id, what)
    if (this.#had.size > HAD_MAX) this.#had.delete(this.#had.keys().next().value as string)
  }

  #write(bytes: Buffer): Batch {
    let batch = this.#open
    if (batch === undefined) {
      batch = this.#open = { out: [], stanzas: [], bytes: 0, held: false }
      this.#queue.push(batch)
      setImmediate(this.#flush)
    }
    batch.out.push(bytes)
    batch.bytes += bytes.length
    this.#queuedBytes += bytes.length
    return batch
  }

  readonly #flush = (): void => {
    this.#open = undefined
    this.#drain()
  }

  #drain(): void {
    for (let batch = this.#queue[0]; batch !== undefined && batch !== this.#open && !batch.held; batch = this.#queue[0]) {
      this.#queue.shift()
      this.#queuedBytes -= batch.bytes
      this.#untaken.add(batch.stanzas)
      this.#put(batch.out.length === 1 ? (batch.out[0] as Buffer) : Buffer.concat(batch.out), batch.stanzas)
    }
    if (this.#closing && this.#queue.length === 0) this.#socket.end()
  }

  #put(bytes: Buffer, stanzas: readonly Outgoing[]): void {
    if (this.#socket.destroyed || this.#socket.writableEnded) return
    this.#socket.write(bytes, (error) => {
      if ((error !== undefined && error !== null) || !this.#untaken.delete(stanzas)) return
      for (const { key } of stanzas) if (key !== undefined) this.#note(key, 'taken')
      this.#components.taken(stanzas)
    })
  }

  // --- the end

  close(error?: StreamError): void {
    if (this.#closing || this.#left) return
    this.#closing = true
    // RFC 6120 §4.9.1.2: an error before the header is sent inside a stream of its own.
    if (!this.#headerSent) this.#sendHeader()
    if (error !== undefined) {
      this.#write(Buffer.from(error.toXml()))
      this.#components.streamError(this, error)
    }
    this.#write(STREAM_END)
    this.#leave()
    const socket = this.#socket
    const timer = setTimeout(() => socket.destroy(), this.#components.limits.closeTimeoutMs)
    timer.unref()
    socket.once('close', () => clearTimeout(timer))
    this.#flush()
    // What it still sends is read and dropped, so that the connection closes cleanly.
    socket.resume()
  }

  #gone(): void {
    if (!this.#closing) this.#socket.destroy()
    this.#leave()
  }

  /** It gets nothing more. */
  #leave(): void {
    if (this.#left) return
    this.#left = true
    clearTimeout(this.#timer)
    clearTimeout(this.#shaperPause)
    this.#components.left(this)
  }

  /** The connection is over: what it has not taken goes back to where it came from. */
  #ended(): void {
    this.#leave()
    const lost = [...this.#untaken, ...this.#queue.splice(0).map(({ stanzas }) => stanzas)].flat()
    this.#untaken.clear()
    this.#open = undefined
    this.#components.ended(this, lost)
  }
}
