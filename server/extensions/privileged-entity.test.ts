import { expect } from 'chai'
import type { Client } from '../../lib/client/client.ts'
import { ComponentClient } from '../../lib/client/component.ts'
import type { Stanza } from '../../lib/stanza/stanza.ts'
import type { Element } from '../../lib/xml/element.ts'
import { Machines, withComponents } from '../cluster/machines.fixture.ts'
import { until } from '../cluster/sites.fixture.ts'
import { startTestServer, type TestServer } from '../test-server.ts'
import { logIn } from './personal-clients.ts'

const NS = 'urn:xmpp:privilege:2'
const PUBSUB = 'http://jabber.org/protocol/pubsub'
const DOMAIN = 'bridge.localhost'
const LISTEN = 'hosts: {bridge.localhost: {password: sesame}, other.localhost: {password: sesame}}, global_routes: false'
const ALL = `
  mod_privilege:
    roster: { both: bridge }
    message: { outgoing: bridge }
    presence: { roster: bridge }
    iq:
      ${PUBSUB}: { both: bridge }
      jabber:iq:version: { get: bridge }
`
const RULES = 'acl: { bridge: { server: bridge.localhost } }\n'

interface Place {
  component(domain?: string): Promise<ComponentClient>
  user(name: string): Promise<Client>
}

function config(privileges = ALL): string {
  return withComponents(LISTEN, privileges.replace('\n', ''), RULES).replace('access_rules:\n', 'access_rules:\n  bridge: { allow: bridge }\n')
}

describe('XEP-0356: privileged entities', () => {
  let place: Place
  let ends: (() => void | PromiseLike<void>)[]
  beforeEach(() => { ends = [] })
  afterEach(async () => { for (const end of ends.reverse()) await end() })

  async function alone(privileges?: string): Promise<TestServer> {
    const site = await startTestServer({ config: config(privileges), accounts: { romeo: 'secret', juliet: 'secret' } })
    ends.push(() => site[Symbol.asyncDispose]())
    place = {
      async component(domain = DOMAIN) {
        const port = site.server.ports.find(({ module }) => module === 'ejabberd_service')?.port ?? 0
        const component = await ComponentClient.connect({ host: '127.0.0.1', port, domain, secret: 'sesame' })
        ends.push(() => component.connection.destroy())
        return component
      },
      async user(name) {
        const client = await logIn(site, name, 'r')
        ends.push(() => client.destroy())
        return client
      },
    }
    return site
  }
  /** The component, and the users, at different nodes. */
  async function apart(): Promise<void> {
    const all = await Machines.start(3, config(), ['romeo', 'juliet'])
    ends.push(() => all[Symbol.asyncDispose]())
    for (const [index, name] of ['romeo', 'juliet'].entries()) {
      await until(() => (all.homeOf(`${name}@localhost`) === -1 ? true : undefined))
      await all.at(index).node.storage.claim(`${name}@localhost`)
      await all.user(name)
    }
    place = { component: (domain = DOMAIN) => all.component(2, domain), user: (name) => all.user(name, { resource: 'other' }) }
  }
  let asked = 0
  async function ask(component: ComponentClient, type: string, to: string, payload: string, from = component.domain): Promise<Element> {
    const id = `q${++asked}`
    component.send(`<iq type='${type}' id='${id}' from='${from}' to='${to}'>${payload}</iq>`)
    return (await component.receive(({ name, id: of }) => name === 'iq' && of === id)).element()
  }
  const conditionOf = (stanza: Element): string | undefined => stanza.getChild('error')?.getChildElements()[0]?.getName()
  const roster = "<query xmlns='jabber:iq:roster'/>"
  const jids = (answer: Element): unknown[] => answer.getChild('query')?.getChildren('item').map(({ attrs }) => [attrs['jid'], attrs['subscription']]) ?? []
  const wrap = (message: string, ns = NS): string => `<message id='w' from='${DOMAIN}' to='localhost'><privilege xmlns='${ns}'><forwarded xmlns='urn:xmpp:forward:0'>${message}</forwarded></privilege></message>`
  const privileged = (inner: string): string => `<privileged_iq xmlns='${NS}'>${inner}</privileged_iq>`

  it('§4.2, §5.1, §6.2, §7.1: what is granted is told to a component that connects, and to no other', async () => {
    await alone()
    const bridge = await place.component()
    const advertised = (await bridge.receive(({ name }) => name === 'message')).element()
    expect(advertised.attrs['from']).to.equal('localhost')
    const perms = advertised.getChild('privilege', NS)?.getChildren('perm') ?? []
    expect(perms.map(({ attrs }) => [attrs['access'], attrs['type']])).to.deep.equal([['roster', 'both'], ['message', 'outgoing'], ['presence', 'roster'], ['iq', undefined]])
    expect(perms[3]?.getChildren('namespace').map(({ attrs }) => [attrs['ns'], attrs['type']])).to.deep.equal([[PUBSUB, 'both'], ['jabber:iq:version', 'get']])
    expect(advertised.getChild('privilege', 'urn:xmpp:privilege:1')?.getChildren('perm')).to.have.length(3)
    const other = await place.component('other.localhost')
    expect((await ask(other, 'get', 'localhost', "<ping xmlns='urn:xmpp:ping'/>")).attrs['type']).to.equal('result')
    expect(await other.receive(undefined, 50).catch(() => 'nothing')).to.equal('nothing')
  })

  for (const [where, start] of [['', alone], [', at another node than the user', apart]] as const) {
    it(`§4.3: a component reads and changes rosters, and hears of changes${where}`, async () => {
      await start()
      const [juliet, bridge] = [await place.user('juliet'), await place.component()]
      await juliet.sendIq(`<iq type='get'>${roster}</iq>`)
      expect((await ask(bridge, 'set', 'juliet@localhost', `<query xmlns='jabber:iq:roster'><item jid='a@${DOMAIN}' subscription='both' name='A'><group>Bridge</group></item><item jid='b@${DOMAIN}'/></query>`)).attrs['type']).to.equal('result')
      const pushed = await juliet.receive((element) => element.getChild('query')?.getChild('item')?.attrs['jid'] === `a@${DOMAIN}`)
      expect(pushed.getChild('query')?.getChild('item')?.attrs).to.include({ subscription: 'both', name: 'A' })
      expect(jids(await ask(bridge, 'get', 'juliet@localhost', roster))).to.deep.equal([[`a@${DOMAIN}`, 'both'], [`b@${DOMAIN}`, 'none']])
      // §4.4
      await juliet.sendIq("<iq type='set'><query xmlns='jabber:iq:roster'><item jid='nurse@localhost'/></query></iq>")
      const heard = await bridge.receive(({ name, type, from }) => name === 'iq' && from === 'juliet@localhost' && type === 'set')
      expect([heard.from, heard.to]).to.deep.equal(['juliet@localhost', DOMAIN])
      expect((await ask(bridge, 'set', 'juliet@localhost', `<query xmlns='jabber:iq:roster'><item jid='a@${DOMAIN}' subscription='remove'/></query>`)).attrs['type']).to.equal('result')
      expect(jids(await ask(bridge, 'get', 'juliet@localhost', roster)).map((item) => (item as string[])[0])).to.deep.equal([`b@${DOMAIN}`, 'nurse@localhost'])
    })

    it(`§5: a component sends messages in the name of users, which these find among what they have sent${where}`, async () => {
      await start()
      const [romeo, juliet, bridge] = [await place.user('romeo'), await place.user('juliet'), await place.component()]
      await juliet.sendIq("<iq type='set'><enable xmlns='urn:xmpp:carbons:2'/></iq>")
      bridge.send(wrap("<message xmlns='jabber:client' from='juliet@localhost' to='romeo@localhost' type='chat' id='m1'><body>In her name</body></message>"))
      const message = await romeo.receive((element) => element.attrs['id'] === 'm1')
      expect([message.attrs['from'], message.getChildText('body')]).to.deep.equal(['juliet@localhost', 'In her name'])
      await juliet.receive((element) => element.getChild('sent', 'urn:xmpp:carbons:2')?.getChild('forwarded')?.getChild('message')?.attrs['id'] === 'm1')
      const found: unknown[] = []
      juliet.on((stanza: Stanza) => { if (stanza.name === 'message') found.push(stanza.element().getChild('result')?.getChild('forwarded')?.getChild('message')?.attrs['id']) })
      await juliet.sendIq("<iq type='set'><query xmlns='urn:xmpp:mam:2'/></iq>")
      expect(found).to.deep.equal(['m1'])
      bridge.send(wrap("<message xmlns='jabber:client' from='localhost' to='romeo@localhost' type='headline' id='m2'><body>From the host</body></message>", 'urn:xmpp:privilege:1'))
      expect((await romeo.receive((element) => element.attrs['id'] === 'm2')).attrs['from']).to.equal('localhost')
    })

    it(`§6: a component sends requests in the name of users${where}`, async () => {
      await start()
      const [juliet, bridge] = [await place.user('juliet'), await place.component()]
      const set = privileged(`<iq xmlns='jabber:client' type='set' id='in1'><pubsub xmlns='${PUBSUB}'><publish node='storage:x'><item id='1'><x xmlns='x:y'/></item></publish></pubsub></iq>`)
      const answer = (await ask(bridge, 'set', 'juliet@localhost', set)).getChild('privilege', NS)?.getChild('forwarded', 'urn:xmpp:forward:0')?.getChild('iq', 'jabber:client')
      expect([answer?.attrs['type'], answer?.attrs['id'], answer?.attrs['from'], answer?.attrs['to']]).to.deep.equal(['result', 'in1', 'juliet@localhost', 'juliet@localhost'])
      const items = await juliet.sendIq(`<iq type='get'><pubsub xmlns='${PUBSUB}'><items node='storage:x'/></pubsub></iq>`)
      expect(items.getChild('pubsub')?.getChild('items')?.getChild('item')?.attrs['id']).to.equal('1')
      const failed = (await ask(bridge, 'get', 'juliet@localhost', privileged(`<iq xmlns='jabber:client' type='get' id='in2' to='romeo@localhost'><pubsub xmlns='${PUBSUB}'><items node='none'/></pubsub></iq>`))).getChild('privilege', NS)?.getChild('forwarded')?.getChild('iq')
      expect([failed?.attrs['type'], failed?.attrs['from']]).to.deep.equal(['error', 'romeo@localhost'])
    })

    it(`§7: a component hears who comes and goes, also who was there before${where}`, async () => {
      await start()
      const juliet = await place.user('juliet')
      const bridge = await place.component()
      const presence = (from: string, type?: string) => (stanza: Stanza): boolean => stanza.name === 'presence' && stanza.from === from && stanza.type === type
      await bridge.receive(presence(juliet.jid))
      const romeo = await place.user('romeo')
      await bridge.receive(presence(romeo.jid))
      romeo.send('<presence><show>away</show></presence>')
      await romeo.ping()
      await romeo.disconnect()
      // Only the first and the last.
      const next = await bridge.receive(({ name, from }) => name === 'presence' && from === romeo.jid)
      expect(next.type).to.equal('unavailable')
    })
  }

  it('§3: users do not hear what a component says to presence that they have not sent there', async () => {
    await alone()
    const bridge = await place.component()
    const juliet = await place.user('juliet')
    const refuse = async (): Promise<void> => {
      const presence = await bridge.receive(({ name }) => name === 'presence')
      bridge.send(`<presence type='error' from='${DOMAIN}' to='${presence.from}'><error type='auth'><registration-required xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></presence>`)
      expect((await ask(bridge, 'get', 'localhost', "<ping xmlns='urn:xmpp:ping'/>")).attrs['type']).to.equal('result')
      await juliet.ping()
    }
    await refuse()
    expect(juliet.inbox.filter(({ type }) => type === 'error')).to.deep.equal([])
    juliet.send(`<presence to='${DOMAIN}'/>`)
    await refuse()
    expect((await juliet.receive((element) => element.attrs['type'] === 'error')).attrs['from']).to.equal(DOMAIN)
  })

  it('§7.2: a component hears of contacts elsewhere, if it may read rosters', async () => {
    await alone()
    const [juliet, bridge, other] = [await place.user('juliet'), await place.component(), await place.component('other.localhost')]
    await ask(bridge, 'set', juliet.bare, "<query xmlns='jabber:iq:roster'><item jid='x@other.localhost' subscription='to'/></query>")
    other.send(`<presence from='x@other.localhost/1' to='juliet@localhost'/><presence from='y@other.localhost/1' to='juliet@localhost'/><presence from='x@other.localhost/1' to='juliet@localhost' type='unavailable'/>`)
    const heard = [await bridge.receive(({ from }) => from?.endsWith('@other.localhost/1') === true), await bridge.receive(({ from }) => from?.endsWith('@other.localhost/1') === true)]
    expect(heard.map(({ from, type }) => [from, type])).to.deep.equal([['x@other.localhost/1', undefined], ['x@other.localhost/1', 'unavailable']])
  })

  it('what is not granted is forbidden', async () => {
    await alone()
    const [romeo, bridge, other] = [await place.user('romeo'), await place.component(), await place.component('other.localhost')]
    await bridge.receive(({ name }) => name === 'message')
    expect(conditionOf(await ask(other, 'get', 'juliet@localhost', roster))).to.equal('service-unavailable')
    expect(conditionOf(await ask(other, 'set', 'juliet@localhost', "<query xmlns='jabber:iq:roster'><item jid='a@b.c'/></query>"))).to.equal('forbidden')
    // Its users are nobody.
    expect(conditionOf(await ask(bridge, 'get', 'juliet@localhost', roster, `a@${DOMAIN}`))).to.equal('service-unavailable')
    for (const [from, message, condition] of [
      [DOMAIN, "<message xmlns='jabber:client' from='juliet@localhost/r' to='romeo@localhost'/>", 'forbidden'],
      [DOMAIN, "<message xmlns='jabber:client' from='juliet@elsewhere.example' to='romeo@localhost'/>", 'forbidden'],
      [DOMAIN, "<message xmlns='jabber:client' from='nobody@localhost' to='romeo@localhost'/>", 'forbidden'],
      [DOMAIN, "<iq xmlns='jabber:client'/>", 'bad-request'],
      ['other.localhost', "<message xmlns='jabber:client' from='juliet@localhost' to='romeo@localhost'/>", 'forbidden'],
    ] as const) {
      const component = from === DOMAIN ? bridge : other
      component.send(wrap(message).replace(DOMAIN, from))
      expect(conditionOf((await component.receive(({ name, type }) => name === 'message' && type === 'error')).element()), message).to.equal(condition)
    }
    romeo.send(wrap("<message xmlns='jabber:client' from='juliet@localhost' to='romeo@localhost'/>").replace(`from='${DOMAIN}'`, ''))
    expect(conditionOf(await romeo.receive((element) => element.attrs['id'] === 'w'))).to.equal('forbidden')
    const version = "<query xmlns='jabber:iq:version'/>"
    for (const [type, inner] of [
      ['set', `<iq xmlns='jabber:client' type='set' id='1'>${version}</iq>`],
      ['get', `<iq xmlns='jabber:client' type='set' id='1'><pubsub xmlns='${PUBSUB}'/></iq>`],
      ['get', "<iq xmlns='jabber:client' type='get' id='1'><query xmlns='jabber:iq:last'/></iq>"],
      ['get', `<iq xmlns='jabber:client' type='get' id='1' from='romeo@localhost'>${version}</iq>`],
      ['get', `<iq xmlns='x:y' type='get' id='1'>${version}</iq>`],
      ['get', ''],
    ] as const) expect(conditionOf(await ask(bridge, type, 'juliet@localhost', privileged(inner))), inner).to.equal('forbidden')
    expect(conditionOf(await ask(bridge, 'set', 'juliet@localhost', "<query xmlns='jabber:iq:roster'><item jid='a@b.c'/><item/></query>"))).to.equal('bad-request')
    expect(jids(await ask(bridge, 'get', 'juliet@localhost', roster))).to.deep.equal([])
  })

  it('get and set are granted apart', async () => {
    await alone('\n  mod_privilege:\n    roster: { get: bridge }\n    presence: { managed_entity: bridge }\n')
    const bridge = await place.component()
    const perms = (await bridge.receive(({ name }) => name === 'message')).element().getChild('privilege', NS)?.getChildren('perm') ?? []
    expect(perms.map(({ attrs }) => [attrs['access'], attrs['type']])).to.deep.equal([['roster', 'get'], ['presence', 'managed_entity']])
    expect(jids(await ask(bridge, 'get', 'juliet@localhost', roster))).to.deep.equal([])
    expect(conditionOf(await ask(bridge, 'set', 'juliet@localhost', "<query xmlns='jabber:iq:roster'><item jid='a@b.c'/></query>"))).to.equal('forbidden')
    bridge.send(wrap("<message xmlns='jabber:client' from='juliet@localhost' to='romeo@localhost'/>"))
    expect(conditionOf((await bridge.receive(({ type }) => type === 'error')).element())).to.equal('forbidden')
  })
})
