/** An external component of another server (XEP-0114), for tests. */
import { createHash } from 'node:crypto'
import type { Stanza } from '../stanza/stanza.ts'
import { fromContentNamespace } from '../stanza/content-namespace.ts'
import { type Address, Connection } from './connection.ts'

export const COMPONENT_NS = 'jabber:component:accept'

export interface ComponentOptions extends Omit<Address, 'xmlns'> {
  readonly secret: string
}

export class ComponentClient implements AsyncDisposable {
  readonly connection: Connection
  readonly domain: string
  /** What came and nobody has asked for. */
  readonly #seen: Stanza[] = []

  private constructor(connection: Connection) {
    this.connection = connection
    this.domain = connection.domain
  }

  /** Connects and does the handshake. Throws StreamError when the server refuses it. */
  static async connect({ secret, ...address }: ComponentOptions): Promise<ComponentClient> {
    const connection = await Connection.open({ ...address, xmlns: COMPONENT_NS })
    try {
      connection.write(`<?xml version='1.0'?><stream:stream xmlns='${COMPONENT_NS}' xmlns:stream='http://etherx.jabber.org/streams' to='${address.domain}'>`)
      const header = await connection.next()
      if (header.kind !== 'header') throw new Error(`the server answered with ${header.kind}`)
      connection.write(`<handshake>${createHash('sha1').update(`${header.header.attrs['id']}${secret}`).digest('hex')}</handshake>`)
      const answer = await connection.nextElement()
      if (answer.name !== 'handshake' || answer.xmlns !== COMPONENT_NS) throw new Error(`the server answered with ${answer.toString()}`)
      return new ComponentClient(connection)
    } catch (error) {
      connection.destroy()
      throw error
    }
  }

  send(xml: string): void { this.connection.write(xml) }

  /** The first stanza for which this is true, in `jabber:client`; what else came before stays. Throws StreamError when the server ends the stream with one. */
  async receive(wanted: (stanza: Stanza) => boolean = () => true, timeoutMs = 5000): Promise<Stanza> {
    const index = this.#seen.findIndex(wanted)
    if (index >= 0) return this.#seen.splice(index, 1)[0] as Stanza
    for (;;) {
      const stanza = fromContentNamespace(await this.connection.nextElement(timeoutMs), COMPONENT_NS)
      if (wanted(stanza)) return stanza
      this.#seen.push(stanza)
    }
  }

  /** Ends the stream, and the connection. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.connection.write('</stream:stream>')
    this.connection.destroy()
  }
}
