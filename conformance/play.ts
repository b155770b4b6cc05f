/**
 * Wire tests that read like a play. A play takes only an address, so it can be given against any server that lets
 * accounts be made in band (XEP-0077).
 */
import { randomBytes } from 'node:crypto'
import { type Client, connect, type ConnectOptions, type ResumeState } from '../lib/client/client.ts'
import { Connection, streamErrorOf } from '../lib/client/connection.ts'
import type { Stanza } from '../lib/stanza/stanza.ts'
import { type Element } from '../lib/xml/element.ts'
import { parseElement } from '../lib/xml/build.ts'

export interface Stage {
  readonly host: string
  readonly port: number
  readonly domain: string
  /** Port of direct TLS, if there is one. */
  readonly tlsPort?: number | undefined
  readonly tls: 'none' | 'starttls'
  /** Base address of the HTTP listener, if there is one. */
  readonly web?: string | undefined
  /** Where and as whom an external component may connect, if it may. */
  readonly component?: { readonly port: number; readonly domain: string; readonly secret: string } | undefined
}

export interface Role {
  /** Whether it comes on stage logged in; yes unless told otherwise. */
  readonly online?: boolean
  /** Whether it has sent initial presence and received it back; yes unless told otherwise. */
  readonly available?: boolean
  readonly sm?: boolean
  readonly resource?: string
  /** The role whose account this is, for a second device. */
  readonly account?: string
}

export type Cast<Names extends string> = { readonly [Name in Names]: Actor }

interface Play {
  readonly title: string
  run(stage: Stage): Promise<void>
}

/** The plays of all scenario files, in the order they were written. */
export const plays: Play[] = []

const DOMAIN_WAIT_MS = 80
const RECEIVE_MS = 3000

/** Adds a play. `cast` names who takes part; `scenes` is what they do. */
export function play<Names extends string>(title: string, cast: { readonly [Name in Names]: Role }, scenes: (cast: Cast<Names>, stage: Stage) => Promise<void>): void {
  plays.push({
    title,
    async run(stage) {
      const suffix = randomBytes(4).toString('hex')
      const actors = {} as Record<Names, Actor>
      for (const name in cast) {
        const role = cast[name] as Role
        actors[name] = new Actor(name, `${role.account ?? name}-${suffix}`, stage, role, Object.values(actors) as Actor[])
      }
      const all = Object.values(actors) as Actor[]
      for (const actor of all) actor.others.push(...all.filter((other) => other !== actor && !actor.others.includes(other)))
      try {
        for (const actor of all) await actor.prepare()
        await scenes(actors, stage)
      } finally {
        await Promise.all(all.map((actor) => actor.leave()))
      }
    },
  })
}

/** One device of one account. */
export class Actor {
  readonly name: string
  readonly user: string
  readonly password = 'wherefore-art-thou'
  readonly bare: string
  readonly stage: Stage
  readonly others: Actor[]
  readonly #role: Role
  #client: Client | undefined

  constructor(name: string, user: string, stage: Stage, role: Role, others: readonly Actor[]) {
    this.name = name
    this.user = user
    this.bare = `${user}@${stage.domain}`
    this.stage = stage
    this.others = [...others]
    this.#role = role
  }

  get client(): Client {
    if (this.#client === undefined) throw new Error(`${this.name} is not on stage`)
    return this.#client
  }

  get jid(): string { return this.client.jid }
  get online(): boolean { return this.#client !== undefined && !this.#client.ended }

  async prepare(): Promise<void> {
    if (this.#role.online === false) {
      // The account is there, and nobody uses it.
      await this.enters({ available: false })
      await this.leaves()
    } else await this.enters()
  }

  /** Logs in and, unless told otherwise, becomes available. */
  async enters(options: { available?: boolean; sm?: boolean; resource?: string; resume?: ResumeState } = {}): Promise<void> {
    const resource = options.resource ?? this.#role.resource
    const connectOptions: ConnectOptions = {
      host: this.stage.host, port: this.stage.port, domain: this.stage.domain, tls: this.stage.tls,
      user: this.user, password: this.password, register: this.#client === undefined, mechanism: 'PLAIN',
      sm: options.sm ?? this.#role.sm ?? false,
      ...(resource === undefined ? {} : { resource }),
      ...(options.resume === undefined ? {} : { resume: options.resume }),
    }
    this.#client = await connect(connectOptions)
    if ((options.available ?? this.#role.available ?? true) && !this.#client.resumed) {
      this.sends('<presence/>')
      await this.receives(`<presence from='${this.jid}'/>`)
    }
  }

  /** Ends its stream. */
  async leaves(): Promise<void> {
    await this.client.disconnect()
  }

  /** Loses its connection. */
  async vanishes(): Promise<void> {
    this.client.destroy()
    await this.client.closed
  }

  async leave(): Promise<void> {
    if (this.#client !== undefined) await this.#client.disconnect().catch(() => undefined)
  }

  sends(xml: string): void {
    this.client.send(xml)
  }

  /** Waits for an element like this one. What else came before stays. */
  async receives(template: string, timeoutMs = RECEIVE_MS): Promise<Element> {
    const expected = parseElement(template)
    try {
      return await this.client.receive((element) => matches(expected, element), timeoutMs)
    } catch (error) {
      throw new Error(`${this.name} should receive\n    ${template}\n  ${(error as Error).message}`, { cause: error })
    }
  }

  /** Sends an IQ and waits for the answer to its id. */
  async asks(xml: string, template: string): Promise<Element> {
    this.sends(xml)
    const id = parseElement(xml).attrs['id']
    return this.receives(id !== undefined && !/^<iq[^>]*\sid=/.test(template) ? template.replace(/^<iq/, `<iq id='${id}'`) : template)
  }

  /** Fails when an element like this one came, or comes after everybody's stanzas so far were handled. */
  async receivesNothing(template: string): Promise<void> {
    const expected = parseElement(template)
    for (const actor of [...this.others, this]) if (actor.online) await actor.client.ping()
    await new Promise((resolve) => setTimeout(resolve, DOMAIN_WAIT_MS))
    await this.client.ping()
    const found = this.client.inbox.find((stanza) => matches(expected, stanza.element()))
    if (found !== undefined) throw new Error(`${this.name} should not receive\n    ${String(found)}`)
  }

  /** Forgets what came so far, once all that was sent has been handled. */
  async forgets(): Promise<void> {
    for (const actor of [...this.others, this]) if (actor.online) await actor.client.ping()
    this.client.inbox.length = 0
  }
}

/** Makes two actors each other's contacts, with subscriptions both ways (RFC 6121 §3.1). */
export async function befriend(one: Actor, other: Actor): Promise<void> {
  for (const [from, to] of [[one, other], [other, one]] as const) {
    from.sends(`<presence type='subscribe' to='${to.bare}'/>`)
    await to.receives(`<presence type='subscribe' from='${from.bare}'/>`)
    to.sends(`<presence type='subscribed' to='${from.bare}'/>`)
    await from.receives(`<presence type='subscribed' from='${to.bare}'/>`)
  }
  await one.forgets()
  await other.forgets()
}

/** Whether `actual` is like `expected`: what is given has to be there, `{any}` stands for anything, more is allowed. */
export function matches(expected: Element, actual: Element): boolean {
  if (expected.getName() !== actual.getName()) return false
  if ((expected.getNS() ?? 'jabber:client') !== (actual.getNS() ?? 'jabber:client')) return false
  for (const key in expected.attrs) {
    if (key === 'xmlns' || key.startsWith('xmlns:')) continue
    const value = expected.attrs[key]
    const given = actual.attrs[key]
    if (given === undefined || (value !== '{any}' && value !== given)) return false
  }
  const text = expected.getText().trim()
  if (text !== '' && text !== '{any}' && text !== actual.getText().trim()) return false
  const left = actual.getChildElements()
  for (const child of expected.getChildElements()) {
    const at = left.findIndex((each) => matches(child, each))
    if (at < 0) return false
    left.splice(at, 1)
  }
  return true
}

/** Fails a play. */
export function fail(text: string): never {
  throw new Error(text)
}

export function check(condition: boolean, text: string): void {
  if (!condition) fail(text)
}

/** A connection that says exactly what it is told, for what a well-behaved client never sends. */
export class Raw {
  readonly connection: Connection

  private constructor(connection: Connection) {
    this.connection = connection
  }

  static async open(stage: Stage): Promise<Raw> {
    return new Raw(await Connection.open({ host: stage.host, port: stage.port, domain: stage.domain }))
  }

  /** With a stream, and its features received. */
  static async opened(stage: Stage): Promise<Raw> {
    const raw = await Raw.open(stage)
    raw.connection.openStream()
    await raw.element('features')
    return raw
  }

  /** On TLS where the stage has it, with features. */
  static async secured(stage: Stage): Promise<Raw> {
    const raw = await Raw.opened(stage)
    if (stage.tls === 'none') return raw
    raw.connection.write("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
    await raw.element('proceed')
    await raw.connection.secureWithTls()
    raw.connection.openStream()
    await raw.element('features')
    return raw
  }

  sends(data: string | Buffer): void {
    this.connection.write(data)
  }

  async element(name: string): Promise<Stanza> {
    const stanza = await this.connection.nextElement(RECEIVE_MS)
    if (stanza.name !== name) fail(`expected <${name}/>, but received ${String(stanza)}`)
    return stanza
  }

  /** Waits for a stream error with one of these conditions, then the end of the stream and the connection (RFC 6120 §4.9.1.1). */
  async streamError(...conditions: string[]): Promise<void> {
    let seen: string | undefined
    for (;;) {
      const incoming = await this.connection.next(RECEIVE_MS)
      if (incoming.kind === 'header') continue
      if (incoming.kind === 'element') {
        const error = streamErrorOf(incoming.stanza)
        if (error === undefined) continue
        seen = error.condition
      } else if (incoming.kind === 'end') this.connection.write('</stream:stream>')
      else break
    }
    if (seen === undefined || !conditions.includes(seen)) fail(`expected the stream error ${conditions.join(' or ')}, but received ${seen ?? 'none'}`)
  }

  leave(): void {
    this.connection.destroy()
  }
}
