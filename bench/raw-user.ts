/**
 * A user over TCP without TLS that costs a few microseconds for each message: it looks at start tags alone, which is enough for
 * what these measurements send. Elements of the client's names must not be nested in what it receives.
 */
import net from 'node:net'
import { createSaslClient } from '../lib/sasl/client.ts'
import type { RunningServer } from './servers.ts'

const TIMEOUT_MS = 20_000
/** Chunks are read into one buffer, for each is dealt with at once. */
const SHARED = Buffer.allocUnsafeSlow(65_536)
const TAG = /<(message|presence|iq|r)(?=[\s/>])([^>]*)>/g
const ID = /\sid=['"]([^'"]*)/

export class RawUser {
  jid = ''
  /** Called with the id of every message. */
  onMessage: ((id: string) => void) | undefined
  ended = false
  readonly #socket: net.Socket
  #rest = ''
  #waiting: { readonly pattern: RegExp; readonly resolve: (match: RegExpExecArray) => void; text: string } | undefined
  /** XEP-0198: stanzas received since it was turned on. */
  #handled = -1

  private constructor(port: number, host: string) {
    this.#socket = net.connect({
      port, host, noDelay: true,
      onread: {
        buffer: SHARED,
        callback: (bytes) => {
          this.#take(SHARED.latin1Slice(0, bytes))
          return true
        },
      },
    })
    this.#socket.on('error', () => undefined)
    this.#socket.on('close', () => { this.ended = true })
  }

  /** Logs in, binds, and turns stream management and carbons on when told to. */
  static async logIn(server: RunningServer, user: string, password: string, enhanced: boolean): Promise<RawUser> {
    const raw = new RawUser(server.port, server.host)
    const header = `<?xml version='1.0'?><stream:stream to='${server.domain}' version='1.0' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>`
    try {
      await raw.#ask(header, /<\/stream:features>/)
      const sasl = createSaslClient('SCRAM-SHA-1', { user, password })
      const first = await sasl.respond(Buffer.alloc(0))
      const challenge = await raw.#ask(`<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='SCRAM-SHA-1'>${first.toString('base64')}</auth>`, /<challenge[^>]*>([^<]*)<\/challenge>/)
      const last = await sasl.respond(Buffer.from(challenge[1] ?? '', 'base64'))
      await raw.#ask(`<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>${last.toString('base64')}</response>`, /<success[^>]*>/)
      await raw.#ask(header, /<\/stream:features>/)
      const bound = await raw.#ask("<iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>bench</resource></bind></iq>", /<jid>([^<]*)<\/jid>[^]*<\/iq>/)
      raw.jid = bound[1] as string
      if (enhanced) {
        await raw.#ask("<enable xmlns='urn:xmpp:sm:3' resume='true'/>", /<enabled[^>]*>/)
        raw.#handled = 0
        await raw.#ask("<iq type='set' id='carbons'><enable xmlns='urn:xmpp:carbons:2'/></iq>", /<iq[^>]*id=['"]carbons['"][^>]*>/)
      }
      raw.send('<presence/>')
      return raw
    } catch (error) {
      raw.destroy()
      throw error
    }
  }

  send(text: string): void {
    this.#socket.write(text)
  }

  destroy(): void {
    this.#socket.destroy()
  }

  async #ask(text: string, pattern: RegExp): Promise<RegExpExecArray> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`${String(pattern)} did not come after ${text}`)), TIMEOUT_MS)
      this.#waiting = { pattern, text: '', resolve: (match) => { clearTimeout(timer); resolve(match) } }
      this.send(text)
    })
  }

  #take(chunk: string): void {
    const waiting = this.#waiting
    if (waiting !== undefined) {
      waiting.text += chunk
      const match = waiting.pattern.exec(waiting.text)
      if (match !== null) {
        this.#waiting = undefined
        waiting.resolve(match)
      }
    }
    const text = this.#rest + chunk
    const end = text.lastIndexOf('>') + 1
    this.#rest = text.slice(end)
    TAG.lastIndex = 0
    for (let found = TAG.exec(text); found !== null; found = TAG.exec(text)) {
      // A listener may not use TAG, so its place is kept here alone.
      if (found[1] === 'r') {
        if (this.#handled >= 0) this.send(`<a xmlns='urn:xmpp:sm:3' h='${this.#handled}'/>`)
        continue
      }
      if (this.#handled >= 0) this.#handled++
      if (found[1] !== 'message') continue
      const id = ID.exec(found[2] as string)?.[1]
      if (id !== undefined) this.onMessage?.(id)
    }
  }
}
