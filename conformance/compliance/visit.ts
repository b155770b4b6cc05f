/** A visit to a server: its accounts, what it says about itself, asked once, and clients that end with the visit. */
import { randomBytes } from 'node:crypto'
import { type Client, connect, type ConnectOptions } from '../../lib/client/client.ts'
import type { Element } from '../../lib/xml/element.ts'
import type { Stage } from '../play.ts'
import { openSecured } from './sasl2.ts'

export const INFO_NS = 'http://jabber.org/protocol/disco#info'
export const ITEMS_NS = 'http://jabber.org/protocol/disco#items'
export const MUC_NS = 'http://jabber.org/protocol/muc'
const DATA_NS = 'jabber:x:data'
const ANSWER_MS = 5000

export interface Account {
  readonly user: string
  readonly password: string
}

/** What disco#info answered (XEP-0030, XEP-0128). */
export interface Info {
  readonly query: Element
  readonly identities: readonly { readonly category: string; readonly type: string }[]
  readonly features: ReadonlySet<string>
  /** Values by field, by FORM_TYPE. */
  readonly forms: ReadonlyMap<string, ReadonlyMap<string, readonly string[]>>
}

export interface Service extends Info {
  readonly jid: string
}

/** A room with two occupants: its owner, and one who came after it was configured. */
export interface Room {
  readonly jid: string
  readonly owner: Client
  readonly guest: Client
  readonly info: Info
}

/** Throws what is missing. */
export function need<Value>(value: Value | undefined | null | false, missing: string): Value {
  if (value === undefined || value === null || value === false) throw new Error(missing)
  return value
}

export class Visit implements AsyncDisposable {
  readonly stage: Stage
  readonly juliet: Account
  readonly romeo: Account
  readonly #registers: boolean
  readonly #asked = new Map<string, Promise<unknown>>()
  readonly #clients = new Set<Client>()
  /** Clients that stay until the end of the visit. */
  readonly #staying = new Set<Client>()

  /** With two accounts, or with two of its own that it registers in band. */
  constructor(stage: Stage, accounts?: readonly [Account, Account]) {
    this.stage = stage
    const suffix = randomBytes(4).toString('hex')
    this.#registers = accounts === undefined
    this.juliet = accounts?.[0] ?? { user: `juliet-${suffix}`, password: 'wherefore-art-thou' }
    this.romeo = accounts?.[1] ?? { user: `romeo-${suffix}`, password: 'o-speak-again' }
  }

  get domain(): string { return this.stage.domain }

  bare(account: Account): string { return `${account.user}@${this.stage.domain}` }

  /** Makes the accounts; nothing when they were given. */
  async begin(): Promise<void> {
    if (!this.#registers) return
    for (const account of [this.juliet, this.romeo]) {
      const client = await this.enter(account, { register: true }, false)
      await client.disconnect()
    }
  }

  /** An account that is not used otherwise; juliet's when accounts were given. */
  spare(): Promise<Account> {
    if (!this.#registers) return Promise.resolve(this.juliet)
    return this.once('spare', async () => {
      const account = { user: `tybalt-${randomBytes(4).toString('hex')}`, password: 'prince-of-cats' }
      await (await this.enter(account, { register: true }, false)).disconnect()
      return account
    })
  }

  /** What `make` gives at the first call of this name. */
  once<Value>(name: string, make: () => Promise<Value>): Promise<Value> {
    let asked = this.#asked.get(name) as Promise<Value> | undefined
    if (asked === undefined) {
      asked = make()
      asked.catch(() => undefined)
      this.#asked.set(name, asked)
    }
    return asked
  }

  /** Logs in, and becomes available unless told otherwise. */
  async enter(account: Account, options: Partial<ConnectOptions> = {}, available = true): Promise<Client> {
    const { host, port, domain, tls } = this.stage
    const client = await connect({ host, port, domain, tls, mechanism: 'PLAIN', ...account, timeoutMs: ANSWER_MS, ...options })
    this.#clients.add(client)
    if (available) {
      client.send('<presence/>')
      await client.receive((stanza) => stanza.getName() === 'presence' && stanza.attrs['from'] === client.jid, ANSWER_MS)
    }
    return client
  }

  /** A client of each account that asks and stays all the time, not available. */
  asker(account: Account): Promise<Client> {
    return this.once(`asker ${account.user}`, async () => this.#stays(await this.enter(account, { resource: 'asker' }, false)))
  }

  /** Stream features before login, on the encrypted stream. */
  before(): Promise<Element> {
    return this.once('features before login', async () => {
      const { connection, features } = await openSecured(this.stage)
      connection.destroy()
      return features
    })
  }

  /** Stream features after login. */
  after(): Promise<Element> {
    return this.once('features after login', async () => need((await this.asker(this.juliet)).features, 'no features after login').element())
  }

  async feature(when: 'before' | 'after', name: string, xmlns: string): Promise<Element> {
    const features = await this[when]()
    return need(features.getChild(name, xmlns), `no <${name} xmlns='${xmlns}'/> in the stream features ${when} login`)
  }

  /** disco#info of any address, as juliet is told. */
  async info(jid: string, node?: string, account = this.juliet): Promise<Info> {
    const client = await this.asker(account)
    const answer = await client.sendIq(`<iq type='get' to='${jid}'><query xmlns='${INFO_NS}'${node === undefined ? '' : ` node='${node}'`}/></iq>`, ANSWER_MS)
    return readInfo(need(answer.getChild('query', INFO_NS), `no disco#info of ${jid}`))
  }

  host(): Promise<Info> { return this.once('host', () => this.info(this.domain)) }
  account(): Promise<Info> { return this.once('account', () => this.info(this.bare(this.juliet))) }

  async hostFeature(feature: string): Promise<void> {
    need((await this.host()).features.has(feature), `no feature ${feature} in disco#info of the domain`)
  }

  async accountFeature(feature: string): Promise<void> {
    need((await this.account()).features.has(feature), `no feature ${feature} in disco#info of the account`)
  }

  async roomFeature(feature: string): Promise<void> {
    need((await this.room()).info.features.has(feature), `no feature ${feature} in disco#info of a room`)
  }

  /** The items of the domain that answer. */
  services(): Promise<readonly Service[]> {
    return this.once('services', async () => {
      const client = await this.asker(this.juliet)
      const answer = await client.sendIq(`<iq type='get' to='${this.domain}'><query xmlns='${ITEMS_NS}'/></iq>`, ANSWER_MS)
      const jids = need(answer.getChild('query', ITEMS_NS), 'no disco#items of the domain').getChildren('item').filter((item) => item.attrs['node'] === undefined).map((item) => item.attrs['jid'] ?? '')
      const all = await Promise.all([...new Set(jids)].map(async (jid) => {
        try {
          return { jid, ...(await this.info(jid)) }
        } catch {
          return undefined
        }
      }))
      return all.filter((each) => each !== undefined)
    })
  }

  async service(what: string, wanted: (service: Service) => boolean): Promise<Service> {
    return need((await this.services()).find(wanted), `no item of the domain has ${what}`)
  }

  serviceWith(feature: string): Promise<Service> {
    return this.service(feature, ({ features }) => features.has(feature))
  }

  rooms(): Promise<Service> {
    return this.service(`${MUC_NS} and the identity conference/text`, ({ features, identities }) => features.has(MUC_NS) && identities.some(({ category, type }) => category === 'conference' && type === 'text'))
  }

  /** Makes a room as clients do and configures it, with fields that no server knows all of. */
  room(): Promise<Room> {
    return this.once('room', async () => {
      const { jid: service } = await this.rooms()
      const jid = `balcony-${randomBytes(4).toString('hex')}@${service}`
      const owner = this.#stays(await this.enter(this.juliet, { resource: 'room' }))
      owner.send("<presence><priority>-1</priority></presence>")
      await joinRoom(owner, jid, 'juliet')
      const form = (await owner.sendIq(`<iq type='get' to='${jid}'><query xmlns='${MUC_NS}#owner'/></iq>`, ANSWER_MS)).getChild('query', `${MUC_NS}#owner`)?.getChild('x', DATA_NS)
      const offered = new Set(form?.getChildren('field').map((field) => field.attrs['var']))
      const wanted = Object.entries({ 'muc#roomconfig_persistentroom': '1', 'muc#roomconfig_enablearchiving': '1', 'muc#roomconfig_mam': '1', mam: '1' }).filter(([name]) => offered.has(name))
      await owner.sendIq(`<iq type='set' to='${jid}'><query xmlns='${MUC_NS}#owner'><x xmlns='${DATA_NS}' type='submit'><field var='FORM_TYPE'><value>${MUC_NS}#roomconfig</value></field>${wanted.map(([name, value]) => `<field var='${name}'><value>${value}</value></field>`).join('')}</x></query></iq>`, ANSWER_MS)
      const guest = this.#stays(await this.enter(this.romeo, { resource: 'room' }))
      await joinRoom(guest, jid, 'romeo')
      return { jid, owner, guest, info: await this.info(jid) }
    })
  }

  /** Ends the clients that do not stay, so that each check finds the accounts as they were. */
  async tidy(): Promise<void> {
    const leaving = [...this.#clients].filter((client) => !this.#staying.has(client))
    await Promise.all(leaving.map((client) => client.disconnect().catch(() => undefined)))
    for (const client of leaving) this.#clients.delete(client)
  }

  #stays(client: Client): Client {
    this.#staying.add(client)
    return client
  }

  /** Ends all clients, and removes what could stay behind. */
  async [Symbol.asyncDispose](): Promise<void> {
    const room = (await this.#asked.get('room')?.catch(() => undefined)) as Room | undefined
    if (room !== undefined) await room.owner.sendIq(`<iq type='set' to='${room.jid}'><query xmlns='${MUC_NS}#owner'><destroy/></query></iq>`, ANSWER_MS).catch(() => undefined)
    this.#staying.clear()
    await this.tidy()
    if (!this.#registers) return
    const spare = (await this.#asked.get('spare')?.catch(() => undefined)) as Account | undefined
    for (const account of [this.juliet, this.romeo, ...(spare === undefined ? [] : [spare])]) {
      const client = await this.enter(account, {}, false).catch(() => undefined)
      await client?.sendIq("<iq type='set'><query xmlns='jabber:iq:register'><remove/></query></iq>", 1000).catch(() => undefined)
      client?.destroy()
    }
  }
}

/** XEP-0045 §7.2: waits for its own presence, status 110. */
export async function joinRoom(client: Client, room: string, nick: string): Promise<Element> {
  client.send(`<presence to='${room}/${nick}'><x xmlns='${MUC_NS}'><history maxstanzas='0'/></x></presence>`)
  const presence = await client.receive((stanza) => stanza.getName() === 'presence' && stanza.attrs['from'] === `${room}/${nick}`, ANSWER_MS)
  if (presence.attrs['type'] === 'error') throw new Error(`${presence.getChild('error')?.getChildElements()[0]?.getName()} was answered to joining ${room}`)
  const statuses = presence.getChild('x', `${MUC_NS}#user`)?.getChildren('status').map((each) => each.attrs['code']) ?? []
  need(statuses.includes('110'), `no status 110 in the presence of ${room}/${nick}`)
  return presence
}

function readInfo(query: Element): Info {
  const forms = new Map<string, Map<string, string[]>>()
  for (const form of query.getChildren('x', DATA_NS)) {
    const fields = new Map(form.getChildren('field').map((field) => [field.attrs['var'] ?? '', field.getChildren('value').map((value) => value.getText())]))
    forms.set(fields.get('FORM_TYPE')?.[0] ?? '', fields)
  }
  return {
    query, forms,
    identities: query.getChildren('identity').map(({ attrs }) => ({ category: attrs['category'] ?? '', type: attrs['type'] ?? '' })),
    features: new Set(query.getChildren('feature').map((each) => each.attrs['var'] ?? '')),
  }
}
