/** A whole server with rooms, and people who see stanzas as short texts. */
import { type Client, connect, IqError } from '../../../lib/client/client.ts'
import { escapeXml, type Element } from '../../../lib/xml/element.ts'
import { startTestServer, TEST_CONFIG, type TestServer } from '../../test-server.ts'

export const ROOM = 'coven@conference.localhost'
export const MUC = 'http://jabber.org/protocol/muc'
export const MAM = 'urn:xmpp:mam:2'

export interface Stage extends AsyncDisposable {
  readonly tidings: TestServer
  login(user: string, options?: { resource?: string; sm?: boolean; resume?: ReturnType<Client['resumeState']> }): Promise<Person>
}

export class Person {
  readonly client: Client
  constructor(client: Client) { this.client = client }

  get full(): string { return this.client.jid }
  get bare(): string { return this.client.bare }
  send(text: string): void { this.client.send(text) }

  join(nick: string, { room = ROOM, inside = '' }: { room?: string; inside?: string } = {}): void {
    this.send(`<presence to='${room}/${escapeXml(nick)}' id='join'><x xmlns='${MUC}'>${inside}</x></presence>`)
  }

  say(text: string, { room = ROOM, id = 'm', more = '' }: { room?: string; id?: string; more?: string } = {}): void {
    this.send(`<message to='${room}' type='groupchat' id='${id}'><body>${text}</body>${more}</message>`)
  }

  /** The payload of the answer. */
  async ask(type: 'get' | 'set', payload: string, to = ROOM): Promise<Element | undefined> {
    return (await this.client.sendIq(`<iq type='${type}' to='${to}'>${payload}</iq>`)).getChildElements()[0]
  }

  /** The condition of the error, or `done`. */
  async tries(type: 'get' | 'set', payload: string, to = ROOM): Promise<string> {
    try {
      await this.ask(type, payload, to)
      return 'done'
    } catch (error) {
      if (error instanceof IqError) return error.condition
      throw error
    }
  }

  admin(items: string): Promise<string> { return this.tries('set', `<query xmlns='${MUC}#admin'>${items}</query>`) }

  configure(fields: Readonly<Record<string, string | readonly string[]>> = {}, room = ROOM): Promise<string> {
    const inside = Object.entries(fields).map(([name, value]) => `<field var='${name}'>${[value].flat().map((each) => `<value>${each}</value>`).join('')}</field>`).join('')
    const formType = inside === '' ? '' : `<field var='FORM_TYPE' type='hidden'><value>${MUC}#roomconfig</value></field>`
    return this.tries('set', `<query xmlns='${MUC}#owner'><x xmlns='jabber:x:data' type='submit'>${formType}${inside}</x></query>`, room)
  }

  /** Makes a room and opens it. */
  async found(nick: string, fields: Readonly<Record<string, string | readonly string[]>> = {}, room = ROOM): Promise<void> {
    this.join(nick, { room })
    await this.configure(fields, room)
    await this.news()
  }

  /** What has come since the last time, in short. */
  async news(): Promise<string[]> {
    await this.client.ping()
    return this.client.inbox.splice(0).map((stanza) => brief(stanza.element()))
  }

  /** The same as elements. */
  async stanzas(): Promise<Element[]> {
    await this.client.ping()
    return this.client.inbox.splice(0).map((stanza) => stanza.element())
  }
}

/** `presence:first owner/moderator jid 110`, `gone:first`, `message:first hello`, `error:conflict first`. */
export function brief(stanza: Element): string {
  const from = stanza.attrs['from'] ?? ''
  const at = from.startsWith(`${ROOM}/`) ? from.slice(ROOM.length + 1) : from === ROOM ? 'room' : from
  const error = stanza.getChild('error')
  if (error !== undefined) return `error:${error.getChildElements()[0]?.getName()} ${at}`
  const x = stanza.getChild('x', `${MUC}#user`)
  const item = x?.getChild('item')
  const codes = x?.getChildren('status').map((status) => status.attrs['code']).join() ?? ''
  const parts: (string | undefined)[] = []
  if (stanza.name === 'presence') {
    parts.push(`${stanza.attrs['type'] === 'unavailable' ? 'gone' : 'presence'}:${at}`, item && `${item.attrs['affiliation']}/${item.attrs['role']}`, item?.attrs['jid'], item?.attrs['nick'] && `as ${item.attrs['nick']}`)
    const by = item?.getChild('actor')?.attrs['nick']
    if (by !== undefined) parts.push(`by ${by}`)
    parts.push(item?.getChildText('reason') ?? undefined, stanza.getChildText('status') ?? undefined, x?.getChild('destroy') && `destroyed ${x.getChild('destroy')?.attrs['jid'] ?? ''}`.trim())
  } else {
    const subject = stanza.getChildText('subject')
    parts.push(`${stanza.name}:${at}`, stanza.getChildText('body') ?? undefined, subject === null ? undefined : `subject=${subject}`, item && `${item.attrs['affiliation']} ${item.attrs['jid']}`)
    if (stanza.getChild('delay', 'urn:xmpp:delay') !== undefined) parts.push('delayed')
    const invite = x?.getChild('invite') ?? x?.getChild('decline')
    if (invite !== undefined) parts.push(`${invite.getName()} from ${invite.attrs['from']} ${invite.getChildText('reason') ?? ''}`)
  }
  return [...parts, codes].filter((part) => part !== undefined && part !== '').join(' ').trim()
}

const PEOPLE = ['crone', 'wiccarocks', 'hag', 'hecate']

/** `options` are those of mod_muc, in YAML's short form. */
export async function setStage(options = '{ default_room_options: { mam: true } }', others: (config: string) => string = (config) => config): Promise<Stage> {
  const tidings = await startTestServer({ accounts: Object.fromEntries(PEOPLE.map((name) => [name, 'secret'])), config: others(`${TEST_CONFIG}  mod_muc: ${options}\n`) })
  const clients: Client[] = []
  return {
    tidings,
    async login(user, { resource = 'desktop', sm = false, resume } = {}) {
      const client = await connect({ host: tidings.host, port: tidings.port, domain: tidings.domain, tls: 'none', user, password: 'secret', resource, sm, ...(resume !== undefined && { resume }) })
      clients.push(client)
      if (!client.resumed) client.send('<presence/>')
      await client.ping()
      if (!client.resumed) client.inbox.splice(0)
      return new Person(client)
    },
    async [Symbol.asyncDispose]() {
      for (const client of clients) client.destroy()
      await tidings[Symbol.asyncDispose]()
    },
  }
}
