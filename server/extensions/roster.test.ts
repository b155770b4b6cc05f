import { expect } from 'chai'
import { Jid } from '../../lib/jid.ts'
import { makeStanza, type Stanza } from '../../lib/stanza/stanza.ts'
import { HostAccountData } from '../accounts/account-data.ts'
import { type Access } from '../config/access.ts'
import { createLog } from '../log.ts'
import { HookRunner } from '../router/hook-runner.ts'
import { IqDispatcher, PendingIqs } from '../router/iq.ts'
import { createRosters, type RosterItem } from '../sessions/rosters.ts'
import { type Session } from '../sessions/session.ts'
import { openMemory } from '../storage/memory/memory.ts'
import { type Sessions } from './extension.ts'
import { roster } from './roster.ts'

const juliet = 'juliet@example.net'
const romeo = 'romeo@example.org'

interface Client {
  readonly jid: Jid
  readonly owner: string
  readonly address: string
  presence: Stanza | undefined
  interested: boolean
  readonly got: string[]
  changed(): void
  send(stanza: Stanza): void
}

function stage({ versioning = true, allowed = true } = {}) {
  const rosters = createRosters(openMemory().records, { rosterItems: 100, rosterCache: 10, pendingSubscriptions: 10 })
  const log = createLog('silent')
  const iq = new IqDispatcher(new PendingIqs(() => undefined), log)
  const hooks = new HookRunner()
  const clients: Client[] = []
  const routed: string[] = []
  const offered: (string | undefined)[] = []
  const access: Access = { allows: () => allowed, value: () => undefined, shaper: () => undefined }
  const options = Object.fromEntries(Object.entries(roster.options ?? {}).map(([key, spec]) => [key, spec.default]))
  const stop = roster.start({
    host: 'example.net',
    iq,
    hooks,
    tell: hooks,
    rosters,
    access,
    features: { beforeLogin: () => undefined, afterLogin: (feature) => { offered.push(feature()) } },
    accountData: new HostAccountData(),
    router: {
      route: (stanza) => { routed.push(`${stanza.type} ${stanza.from} > ${stanza.to}`) },
      service: () => undefined,
      iqService: () => { throw new Error('not here') },
      toClients: () => undefined,
      multicast: () => undefined,
      missed: () => undefined,
      tell: () => undefined, hint: () => undefined,
      moderated: () => undefined,
    },
    sessions: { of: (owner: string) => clients.filter((each) => each.owner === owner) } as unknown as Sessions,
  }, { ...options, versioning } as Parameters<typeof roster.start>[1])

  function login(jid: string): Client {
    const parsed = Jid.parse(jid)
    const got: string[] = []
    const client: Client = { jid: parsed, owner: parsed.bare, address: '192.0.2.1', presence: undefined, interested: false, got, changed: () => undefined, send: (stanza) => { got.push(stanza.toString().replace(/id='push-[^']*' /, '')) } }
    clients.push(client)
    return client
  }
  async function asks(client: Client, type: 'get' | 'set', query: string, to = client.owner): Promise<string> {
    const stanza = makeStanza('iq', { type, id: 'r1', from: client.jid.toString(), to }, [{ name: 'query', xmlns: 'jabber:iq:roster', text: query }])
    return String(await iq.dispatch(stanza, client.jid, Jid.parse(to), 'account', client as unknown as Session))
  }
  const gets = (client: Client, ver?: string): Promise<string> => asks(client, 'get', `<query xmlns='jabber:iq:roster'${ver === undefined ? '' : ` ver='${ver}'`}/>`)
  const sets = (client: Client, items: string): Promise<string> => asks(client, 'set', `<query xmlns='jabber:iq:roster'>${items}</query>`)
  function contact(changes: Partial<RosterItem>): void {
    rosters.set(juliet, { jid: romeo, subscription: 'none', ask: false, approved: false, groups: [], ...changes })
  }
  return { rosters, hooks, routed, offered, login, asks, gets, sets, contact, stop }
}

const immediate = (): Promise<void> => new Promise((resolve) => { setImmediate(resolve) })

describe('roster (RFC 6121 §2)', () => {
  it('§2.1.3: answers a get with the items a client may see', async () => {
    const { login, gets, contact, rosters } = stage()
    contact({ name: 'Romeo & I', subscription: 'from', ask: true, approved: true, groups: ['Friends'] })
    rosters.set(juliet, { jid: 'paris@example.org', subscription: 'none', ask: false, approved: false, groups: [], hidden: true, pendingIn: '<presence/>' })
    const answer = await gets(login(`${juliet}/balcony`))
    expect(answer).to.contain("type='result'").and.not.contain('paris').and.not.contain('ver=')
    expect(answer).to.match(/<item jid="romeo@example.org" name="Romeo &amp; I" subscription="from" ask="subscribe" approved="true"><group>Friends<\/group><\/item>/)
  })

  it('§2.3.2, §2.1.6: a set is pushed to every resource that asked for the roster, and only name and groups are the client\'s', async () => {
    const { login, gets, sets, rosters } = stage({ versioning: false })
    const balcony = login(`${juliet}/balcony`)
    const chamber = login(`${juliet}/chamber`)
    const garden = login(`${juliet}/garden`)
    await gets(balcony)
    await gets(chamber)
    expect(await sets(balcony, `<item jid='Romeo@Example.org' name='R' subscription='both' ask='subscribe' approved='true'><group>Friends</group></item>`)).to.contain("type='result'")
    expect(rosters.item(juliet, romeo)).to.deep.equal({ jid: romeo, name: 'R', subscription: 'none', ask: false, approved: false, groups: ['Friends'] })
    expect(chamber.got).to.deep.equal([`<iq type='set' to='${juliet}/chamber'><query xmlns='jabber:iq:roster'><item jid="${romeo}" name="R" subscription="none"><group>Friends</group></item></query></iq>`])
    expect(balcony.got).to.have.length(1)
    expect(garden.got).to.have.length(0)
  })

  it('§2.3.3, §2.5.3: refuses what the RFC says, with its error', async () => {
    const { login, sets, asks, rosters } = stage()
    const balcony = login(`${juliet}/balcony`)
    const cases: [string, string][] = [
      ['', 'bad-request'],
      [`<item jid='${romeo}'/><item jid='a@b'/>`, 'bad-request'],
      ['<item/>', 'bad-request'],
      ["<item jid='a@@b'/>", 'jid-malformed'],
      [`<item jid='${romeo}'><group>A</group><group>A</group></item>`, 'bad-request'],
      [`<item jid='${romeo}'><group/></item>`, 'not-acceptable'],
      [`<item jid='${romeo}'><group>${'x'.repeat(1024)}</group></item>`, 'not-acceptable'],
      [`<item jid='${romeo}' name='${'x'.repeat(1024)}'/>`, 'not-acceptable'],
      [`<item jid='${juliet}'/>`, 'not-allowed'],
      [`<item jid='${romeo}' subscription='remove'/>`, 'item-not-found'],
    ]
    for (const [items, condition] of cases) expect(await sets(balcony, items), items.slice(0, 60)).to.contain(`<${condition} `)
    expect(await asks(balcony, 'set', `<query xmlns='jabber:iq:roster'><item jid='${romeo}'/></query>`, 'nurse@example.net')).to.contain('<forbidden ')
    expect(await asks(balcony, 'get', "<query xmlns='jabber:iq:roster'/>", 'nurse@example.net')).to.contain('<service-unavailable ')
    expect(rosters.get(juliet).items.size).to.equal(0)
  })

  it('§2.4.2: a set that changes nothing is pushed too, with a version of its own', async () => {
    const { login, gets, sets } = stage()
    const balcony = login(`${juliet}/balcony`)
    await gets(balcony, '')
    for (let i = 0; i < 2; i++) await sets(balcony, `<item jid='${romeo}' name='R'/>`)
    expect(balcony.got.map((push) => push.replace(/ver='[^']*'/, ''))).to.have.length(2).and.satisfy(([first, second]: string[]) => first === second)
    expect(balcony.got[0]).to.not.equal(balcony.got[1])
  })

  it('RFC 6120 §8.4: ignores what it does not know in a get and in a set', async () => {
    const { login, asks, sets, contact } = stage({ versioning: false })
    contact({ name: 'R' })
    const balcony = login(`${juliet}/balcony`)
    const query = (content: string): string => `<query xmlns='jabber:iq:roster'>${content}</query>`
    expect(await asks(balcony, 'get', query("<annotate xmlns='urn:xmpp:mix:roster:0'/>"))).to.contain("type='result'").and.contain(romeo)
    expect(await asks(balcony, 'get', query(`<item jid='${romeo}'/>`))).to.contain('<bad-request ')
    expect(await sets(balcony, `<x xmlns='urn:x'/><item jid='${romeo}' name='My R'><x xmlns='urn:x'/></item>`)).to.contain("type='result'")
    expect(balcony.got[0]).to.contain('My R')
  })

  it('obeys the access rule of its module', async () => {
    const { login, sets } = stage({ allowed: false })
    expect(await sets(login(`${juliet}/balcony`), `<item jid='${romeo}'/>`)).to.contain('<not-allowed ')
  })

  it('§2.5.2: removing a contact ends the subscriptions, and its push says remove', async () => {
    const { login, gets, sets, contact, routed } = stage({ versioning: false })
    contact({ subscription: 'both' })
    const balcony = login(`${juliet}/balcony`)
    balcony.presence = makeStanza('presence', {})
    await gets(balcony)
    expect(await sets(balcony, `<item jid='${romeo}' subscription='remove'/>`)).to.contain("type='result'")
    // §3.2.2: unavailable while the contact is still subscribed
    expect(routed).to.deep.equal([`unsubscribe ${juliet} > ${romeo}`, `unavailable ${juliet}/balcony > ${romeo}`, `unsubscribed ${juliet} > ${romeo}`])
    expect(balcony.got[0]).to.contain(`<item jid='${romeo}' subscription='remove'/>`)
  })

  it('§2.5.2: removing a contact takes back what is still asked of it, and refuses what it has asked for', async () => {
    for (const [item, heard] of [
      [{ subscription: 'none', ask: true }, ['unsubscribe']],
      [{ subscription: 'none', pendingIn: '<presence/>' }, ['unsubscribed']],
      [{ subscription: 'none', ask: true, pendingIn: '<presence/>' }, ['unsubscribe', 'unsubscribed']],
      [{ subscription: 'from', ask: true }, ['unsubscribe', 'unsubscribed']],
      [{ subscription: 'to', pendingIn: '<presence/>' }, ['unsubscribe', 'unsubscribed']],
      [{ subscription: 'none' }, []],
    ] as const) {
      const { login, sets, contact, routed, rosters } = stage()
      contact(item)
      await sets(login(`${juliet}/balcony`), `<item jid='${romeo}' subscription='remove'/>`)
      expect(routed, JSON.stringify(item)).to.deep.equal(heard.map((type) => `${type} ${juliet} > ${romeo}`))
      expect(rosters.item(juliet, romeo)).to.equal(undefined)
    }
  })

  it('§2.5.2: a contact hears of the end before who ends it hears that it is done', async () => {
    const { login, gets, sets, contact, routed } = stage()
    contact({ subscription: 'to' })
    const balcony = login(`${juliet}/balcony`)
    await gets(balcony)
    const before: number[] = []
    balcony.send = () => { before.push(routed.length) }
    await sets(balcony, `<item jid='${romeo}' subscription='remove'/>`)
    expect(before).to.deep.equal([1])
  })

  it('keeps a waiting request when the client adds its sender', async () => {
    const { login, sets, contact, rosters } = stage()
    contact({ hidden: true, pendingIn: '<presence/>' })
    await sets(login(`${juliet}/balcony`), `<item jid='${romeo}' name='R'/>`)
    expect(rosters.item(juliet, romeo)).to.include({ name: 'R', pendingIn: '<presence/>' }).and.not.have.property('hidden')
  })

  it('§2.6: sends nothing to who has the roster, the changes to who had it, and all of it to others', async () => {
    const { login, gets, contact, rosters } = stage()
    const balcony = login(`${juliet}/balcony`)
    const empty = await gets(balcony, '')
    expect(empty).to.contain(`ver="${rosters.get(juliet).version}"`)
    contact({ name: 'R' })
    const version = rosters.get(juliet).version
    expect(balcony.got[0]).to.contain(`ver='${version}'`)

    const chamber = login(`${juliet}/chamber`)
    expect(await gets(chamber, version)).to.not.contain('<query')
    await immediate()
    expect(chamber.got).to.have.length(0)
    expect(chamber.interested).to.equal(true)

    const garden = login(`${juliet}/garden`)
    contact({ name: 'My Romeo' })
    rosters.set(juliet, { jid: 'nurse@example.net', subscription: 'none', ask: false, approved: false, groups: [] })
    expect(await gets(garden, version)).to.not.contain('<query')
    await immediate()
    expect(garden.got).to.have.length(2)
    expect(garden.got[0]).to.contain('My Romeo')
    expect(garden.got[1]).to.contain(`ver='${rosters.get(juliet).version}'`).and.contain('nurse')

    expect(await gets(login(`${juliet}/hall`), 'unknown')).to.contain('My Romeo').and.contain('nurse')
  })

  it('offers versioning only when it is on, and pre-approval always', () => {
    const preApproval = "<sub xmlns='urn:xmpp:features:pre-approval'/>"
    expect(stage().offered).to.deep.equal(["<ver xmlns='urn:xmpp:features:rosterver'/>", preApproval])
    expect(stage({ versioning: false }).offered).to.deep.equal([preApproval])
  })

  it('erases the roster of an account that is removed, and tells its contacts', async () => {
    const { hooks, contact, rosters, routed } = stage()
    contact({ subscription: 'both' })
    await hooks.runAccountRemoved(juliet)
    expect(rosters.get(juliet).items.size).to.equal(0)
    expect(routed).to.deep.equal([`unsubscribe ${juliet} > ${romeo}`, `unsubscribed ${juliet} > ${romeo}`])
  })
})
