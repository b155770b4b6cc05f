import { expect } from 'chai'
import { type Client, connect } from '../../lib/client/client.ts'
import { parseElement } from '../../lib/xml/build.ts'
import { type Element, xml } from '../../lib/xml/element.ts'
import { loadConfig } from '../config/config.ts'
import { startTestServer, TEST_CONFIG, type TestServer } from '../test-server.ts'
import { capsVer } from './disco-registry.ts'
import { refused } from './pubsub.fixture.ts'

const NS = 'http://jabber.org/protocol/pubsub'
const EVENT = `${NS}#event`
const OWNER = `${NS}#owner`
const SERVICE = 'pubsub.localhost'

const event = (element: Element): boolean => element.name === 'message' && element.getChild('event', EVENT) !== undefined
const eventOf = (element: Element): Element => element.getChild('event', EVENT) as Element
const itemsOf = (answer: Element): string[] => (answer.getChild('pubsub', NS)?.getChild('items')?.getChildren('item') ?? []).map(({ attrs }) => attrs['id'] ?? '')
const form = (type: string, fields: Record<string, string>): string =>
  `<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE' type='hidden'><value>${NS}#${type}</value></field>${Object.entries(fields).map(([name, value]) => `<field var='pubsub#${name}'><value>${value}</value></field>`).join('')}</x>`

describe('XEP-0060 and XEP-0163 on the wire', () => {
  let tidings: TestServer
  const clients: Client[] = []

  /** A client that wants events of the nodes in `notify`, and answers whoever asks for its capabilities. */
  async function login(user: string, resource = 'a', notify: readonly string[] = []): Promise<Client> {
    const client = await connect({ host: tidings.host, port: tidings.port, domain: tidings.domain, tls: 'none', user, password: 'secret', resource })
    clients.push(client)
    const info = xml('query', { xmlns: 'http://jabber.org/protocol/disco#info' }, xml('identity', { category: 'client', type: 'pc' }), notify.map((node) => xml('feature', { var: `${node}+notify` })))
    client.on((stanza) => {
      if (stanza.name === 'iq' && stanza.type === 'get' && stanza.has('query', 'http://jabber.org/protocol/disco#info')) {
        client.send(`<iq type='result' id='${stanza.id ?? ''}' to='${stanza.from ?? ''}'>${info.toString()}</iq>`)
      }
    })
    const caps = notify.length === 0 ? '' : `<c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='urn:test' ver='${capsVer(info)}'/>`
    client.send(`<presence>${caps}</presence>`)
    await client.ping()
    return client
  }

  const set = (client: Client, inner: string, to?: string, ns = NS): Promise<Element> =>
    client.sendIq(`<iq type='set'${to === undefined ? '' : ` to='${to}'`}><pubsub xmlns='${ns}'>${inner}</pubsub></iq>`)
  const get = (client: Client, inner: string, to?: string, ns = NS): Promise<Element> =>
    client.sendIq(`<iq type='get'${to === undefined ? '' : ` to='${to}'`}><pubsub xmlns='${ns}'>${inner}</pubsub></iq>`)
  const publish = (client: Client, node: string, id: string, to?: string, options = ''): Promise<Element> =>
    set(client, `<publish node='${node}'><item id='${id}'><tune xmlns='urn:tune'>${id}</tune></item></publish>${options}`, to)
  const options = (fields: Record<string, string>): string => `<publish-options>${form('publish-options', fields)}</publish-options>`
  /** Romeo and Juliet see each other's presence. */
  async function befriend(): Promise<void> {
    const romeo = await login('romeo', 'x')
    const juliet = await login('juliet', 'x')
    const request = ({ attrs, name }: Element): boolean => name === 'presence' && attrs['type'] === 'subscribe'
    const granted = ({ attrs, name }: Element): boolean => name === 'presence' && attrs['type'] === 'subscribed'
    for (const [one, other] of [[romeo, juliet], [juliet, romeo]] as const) {
      one.send(`<presence type='subscribe' to='${other.bare}'/>`)
      await other.receive(request)
      other.send(`<presence type='subscribed' to='${one.bare}'/>`)
      await one.receive(granted)
    }
    await romeo.disconnect()
    await juliet.disconnect()
  }

  beforeEach(async () => {
    tidings = await startTestServer({ accounts: { romeo: 'secret', juliet: 'secret', nurse: 'secret' } })
  })
  afterEach(async () => {
    for (const client of clients.splice(0)) client.destroy()
    await tidings[Symbol.asyncDispose]()
  })

  describe('the service', () => {
    it('§8.1, §6.1, §7.1: a node is created, subscribed to and published to; subscribers hear of it', async () => {
      const romeo = await login('romeo')
      const juliet = await login('juliet')
      await set(romeo, "<create node='news'/>", SERVICE)
      const answer = await set(juliet, "<subscribe node='news' jid='juliet@localhost'/>", SERVICE)
      expect(answer.getChild('pubsub', NS)?.getChild('subscription')?.attrs).to.include({ node: 'news', jid: 'juliet@localhost', subscription: 'subscribed' })
      const published = await publish(romeo, 'news', 'one', SERVICE)
      expect(published.getChild('pubsub', NS)?.getChild('publish')?.getChild('item')?.attrs['id']).to.equal('one')
      const told = await juliet.receive(event)
      expect(told.attrs).to.include({ from: SERVICE, type: 'headline', to: 'juliet@localhost' })
      expect(eventOf(told).toString()).to.equal(`<event xmlns="${EVENT}"><items node="news"><item id="one"><tune xmlns="urn:tune">one</tune></item></items></event>`)
      expect(itemsOf(await get(juliet, "<items node='news'/>", SERVICE))).to.deep.equal(['one'])
      await set(juliet, "<unsubscribe node='news' jid='juliet@localhost'/>", SERVICE)
      expect(await refused(set(juliet, "<unsubscribe node='news' jid='juliet@localhost'/>", SERVICE))).to.equal('unexpected-request not-subscribed')
    })

    it('§7.1.3, §8.2: refuses what the node or the asker may not', async () => {
      const romeo = await login('romeo')
      const juliet = await login('juliet')
      await set(romeo, `<create node='news'/><configure>${form('node_config', { max_payload_size: '40', type: 'urn:tune' })}</configure>`, SERVICE)
      expect(await refused(set(romeo, "<create node='news'/>", SERVICE))).to.equal('conflict')
      expect(await refused(publish(juliet, 'news', 'one', SERVICE))).to.equal('forbidden')
      expect(await refused(publish(romeo, 'news', 'x'.repeat(60), SERVICE))).to.equal('not-acceptable payload-too-big')
      expect(await refused(set(romeo, "<publish node='news'><item><a xmlns='urn:b'/></item></publish>", SERVICE))).to.equal('bad-request invalid-payload')
      expect(await refused(set(romeo, "<publish node='news'><item><a xmlns='urn:tune'/><b xmlns='urn:tune'/></item></publish>", SERVICE))).to.equal('bad-request invalid-payload')
      expect(await refused(set(romeo, "<publish node='news'><item/></publish>", SERVICE))).to.equal('bad-request payload-required')
      expect(await refused(set(romeo, "<publish node='news'/>", SERVICE))).to.equal('bad-request item-required')
      expect(await refused(set(romeo, "<retract node='news'><item id='nothing'/></retract>", SERVICE))).to.equal('item-not-found')
      expect(await refused(set(juliet, "<subscribe node='news' jid='romeo@localhost'/>", SERVICE))).to.equal('bad-request invalid-jid')
      expect(await refused(set(juliet, "<configure node='news'/>", SERVICE, OWNER))).to.equal('forbidden')
      expect(await refused(set(juliet, "<delete node='news'/>", SERVICE, OWNER))).to.equal('forbidden')
      expect(await refused(get(juliet, "<items node='olds'/>", SERVICE))).to.equal('item-not-found')
      expect(await refused(get(juliet, '<items/>', SERVICE))).to.equal('bad-request nodeid-required')
    })

    it('§4.5: whitelist and authorize', async () => {
      const romeo = await login('romeo')
      const juliet = await login('juliet')
      await set(romeo, `<create node='closed'/><configure>${form('node_config', { access_model: 'whitelist' })}</configure>`, SERVICE)
      expect(await refused(set(juliet, "<subscribe node='closed' jid='juliet@localhost'/>", SERVICE))).to.equal('not-allowed closed-node')
      await set(romeo, "<affiliations node='closed'><affiliation jid='juliet@localhost' affiliation='member'/></affiliations>", SERVICE, OWNER)
      await set(juliet, "<subscribe node='closed' jid='juliet@localhost'/>", SERVICE)
      await set(romeo, "<affiliations node='closed'><affiliation jid='juliet@localhost' affiliation='outcast'/></affiliations>", SERVICE, OWNER)
      expect(eventOf(await juliet.receive(event)).getChild('subscription')?.attrs).to.include({ node: 'closed', subscription: 'none' })
      expect(await refused(set(juliet, "<subscribe node='closed' jid='juliet@localhost'/>", SERVICE))).to.equal('forbidden')
      expect(await refused(set(romeo, "<affiliations node='closed'><affiliation jid='romeo@localhost' affiliation='none'/></affiliations>", SERVICE, OWNER))).to.equal('not-acceptable')

      await set(romeo, `<create node='ask'/><configure>${form('node_config', { access_model: 'authorize' })}</configure>`, SERVICE)
      await publish(romeo, 'ask', 'one', SERVICE)
      expect(await refused(get(juliet, "<items node='ask'/>", SERVICE))).to.equal('not-authorized not-subscribed')
      const pending = await set(juliet, "<subscribe node='ask' jid='juliet@localhost'/>", SERVICE)
      expect(pending.getChild('pubsub', NS)?.getChild('subscription')?.attrs['subscription']).to.equal('pending')
      expect(await refused(set(juliet, "<subscribe node='ask' jid='juliet@localhost'/>", SERVICE))).to.equal('not-authorized pending-subscription')
      const question = await romeo.receive((element) => element.name === 'message' && element.getChild('x', 'jabber:x:data') !== undefined)
      expect(question.getChild('x', 'jabber:x:data')?.toString()).to.contain('juliet@localhost').and.to.contain('subscribe_authorization')
      romeo.send(`<message to='${SERVICE}'>${form('subscribe_authorization', { node: 'ask', subscriber_jid: 'juliet@localhost', allow: '1' })}</message>`)
      expect(eventOf(await juliet.receive(event)).getChild('subscription')?.attrs).to.include({ node: 'ask', jid: 'juliet@localhost', subscription: 'subscribed' })
      expect(eventOf(await juliet.receive(event)).getChild('items')?.getChild('item')?.attrs['id']).to.equal('one')
      expect(itemsOf(await get(juliet, "<items node='ask'/>", SERVICE))).to.deep.equal(['one'])
    })

    it('§6.5: items by id, the newest, page by page; max_items keeps the newest', async () => {
      const romeo = await login('romeo')
      await set(romeo, `<create node='list'/><configure>${form('node_config', { max_items: '5' })}</configure>`, SERVICE)
      for (const id of ['a', 'b', 'c', 'd', 'e', 'f']) await publish(romeo, 'list', id, SERVICE)
      expect(itemsOf(await get(romeo, "<items node='list'/>", SERVICE))).to.deep.equal(['b', 'c', 'd', 'e', 'f'])
      expect(itemsOf(await get(romeo, "<items node='list' max_items='2'/>", SERVICE))).to.deep.equal(['e', 'f'])
      expect(itemsOf(await get(romeo, "<items node='list'><item id='c'/><item id='z'/></items>", SERVICE))).to.deep.equal(['c'])
      const page = await get(romeo, "<items node='list'/><set xmlns='http://jabber.org/protocol/rsm'><max>2</max><after>c</after></set>", SERVICE)
      expect(itemsOf(page)).to.deep.equal(['d', 'e'])
      expect(page.getChild('pubsub', NS)?.getChild('set', 'http://jabber.org/protocol/rsm')?.getChildText('count')).to.equal('5')
      expect(await refused(set(romeo, `<configure node='list'>${form('node_config', { max_items: '100000' })}</configure>`, SERVICE, OWNER))).to.equal('not-acceptable')
    })

    it('§7.2, §8.4, §8.5: subscribers hear of retraction, purge and deletion', async () => {
      const romeo = await login('romeo')
      const juliet = await login('juliet')
      await set(romeo, "<create node='news'/>", SERVICE)
      await publish(romeo, 'news', 'one', SERVICE)
      await set(juliet, "<subscribe node='news' jid='juliet@localhost/a'/>", SERVICE)
      const last = await juliet.receive(event)
      expect(eventOf(last).getChild('items')?.getChild('item')?.attrs['id']).to.equal('one')
      expect(last.getChild('delay', 'urn:xmpp:delay')).not.to.equal(undefined)
      await set(romeo, "<retract node='news' notify='true'><item id='one'/></retract>", SERVICE)
      expect(eventOf(await juliet.receive(event)).getChild('items')?.getChild('retract')?.attrs['id']).to.equal('one')
      await set(romeo, "<purge node='news'/>", SERVICE, OWNER)
      expect(eventOf(await juliet.receive(event)).getChild('purge')?.attrs['node']).to.equal('news')
      await set(romeo, "<delete node='news'><redirect uri='xmpp:pubsub.localhost?;node=olds'/></delete>", SERVICE, OWNER)
      expect(eventOf(await juliet.receive(event)).getChild('delete')?.getChild('redirect')?.attrs['uri']).to.equal('xmpp:pubsub.localhost?;node=olds')
      expect(await refused(get(romeo, "<items node='news'/>", SERVICE))).to.equal('item-not-found')
    })

    it('§5: the service, its nodes and their metadata are discovered', async () => {
      const romeo = await login('romeo')
      await set(romeo, `<create node='news'/><configure>${form('node_config', { title: 'All the news' })}</configure>`, SERVICE)
      const info = await romeo.sendIq(`<iq type='get' to='${SERVICE}'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>`)
      expect(info.getChild('query')?.getChild('identity')?.attrs).to.include({ category: 'pubsub', type: 'service' })
      const items = await romeo.sendIq(`<iq type='get' to='${SERVICE}'><query xmlns='http://jabber.org/protocol/disco#items'/></iq>`)
      expect(items.getChild('query')?.getChildren('item').map(({ attrs }) => attrs)).to.deep.equal([{ jid: SERVICE, node: 'news', name: 'All the news' }])
      const node = await romeo.sendIq(`<iq type='get' to='${SERVICE}'><query xmlns='http://jabber.org/protocol/disco#info' node='news'/></iq>`)
      expect(node.getChild('query')?.getChild('identity')?.attrs).to.include({ category: 'pubsub', type: 'leaf' })
      expect(node.toString()).to.contain('#meta-data').and.to.contain('romeo@localhost')
    })

    it('§5.1, §8.1.1: the server lists no features of nodes, as nobody can have any there', async () => {
      const romeo = await login('romeo')
      const infoOf = async (to: string): Promise<Element | undefined> => (await romeo.sendIq(`<iq type='get' to='${to}'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>`)).getChild('query')
      const featuresOf = (info: Element | undefined): string[] => info?.getChildren('feature').flatMap(({ attrs }) => (attrs['var']?.startsWith(NS) === true ? [attrs['var']] : [])) ?? []
      const host = await infoOf('localhost')
      expect(featuresOf(host).filter((name) => !name.startsWith(`${NS}#access-`))).to.deep.equal([NS])
      expect(featuresOf(host)).to.include(`${NS}#access-whitelist`)
      expect(host?.getChildren('identity').map(({ attrs }) => `${attrs['category'] ?? ''}/${attrs['type'] ?? ''}`)).to.include('pubsub/pep')
      expect(featuresOf(await infoOf('romeo@localhost'))).to.include.members([NS, `${NS}#create-nodes`, `${NS}#publish-options`, `${NS}#subscription-options`, `${NS}#pubsub-on-a-jid`])
      expect(featuresOf(await infoOf(SERVICE))).to.include.members([`${NS}#create-nodes`, `${NS}#get-pending`, `${NS}#retrieve-default-sub`]).and.not.to.include.members([`${NS}#pubsub-on-a-jid`])
      expect(await refused(set(romeo, "<create node='news'/>", 'localhost'))).to.equal('feature-not-implemented unsupported')
      expect(await refused(get(romeo, "<items node='news'/>", 'localhost'))).to.equal('item-not-found')
    })

    it('keeps nodes, items and subscriptions across a restart', async () => {
      const romeo = await login('romeo')
      await set(romeo, "<create node='news'/>", SERVICE)
      await publish(romeo, 'news', 'one', SERVICE)
      await set(romeo, "<subscribe node='news' jid='romeo@localhost'/>", SERVICE)
      await tidings.restart()
      const again = await login('romeo')
      expect(itemsOf(await get(again, "<items node='news'/>", SERVICE))).to.deep.equal(['one'])
      // §4.3: the last item comes with its presence
      expect(eventOf(await again.receive(event)).getChild('items')?.getChild('item')?.attrs['id']).to.equal('one')
      await publish(again, 'news', 'two', SERVICE)
      expect(eventOf(await again.receive(event)).getChild('items')?.getChild('item')?.attrs['id']).to.equal('two')
    })
  })

  describe('accounts', () => {
    it('XEP-0163 §4.3: own clients and contacts that are interested hear of it, others do not', async () => {
      await befriend()
      const romeo = await login('romeo', 'a', ['urn:tune'])
      const juliet = await login('juliet', 'a', ['urn:tune'])
      const indifferent = await login('juliet', 'b', ['urn:mood'])
      await publish(romeo, 'urn:tune', 'one')
      const told = await juliet.receive(event)
      expect(told.attrs).to.include({ from: 'romeo@localhost', to: 'juliet@localhost/a', type: 'headline' })
      expect(told.getChild('addresses', 'http://jabber.org/protocol/address')?.getChild('address')?.attrs).to.deep.equal({ type: 'replyto', jid: 'romeo@localhost/a' })
      expect((await romeo.receive(event)).attrs['to']).to.equal('romeo@localhost/a')
      await indifferent.ping()
      expect(indifferent.inbox.filter((stanza) => stanza.name === 'message')).to.deep.equal([])
    })

    it('XEP-0163 §4.3.4: a client that becomes available hears the last item, also of who is offline', async () => {
      await befriend()
      const romeo = await login('romeo')
      await publish(romeo, 'urn:tune', 'one')
      await publish(romeo, 'urn:tune', 'two')
      romeo.destroy()
      const juliet = await login('juliet', 'a', ['urn:tune'])
      const told = await juliet.receive(event)
      expect(eventOf(told).getChild('items')?.getChildren('item').map(({ attrs }) => attrs['id'])).to.deep.equal(['two'])
      expect(told.getChild('delay', 'urn:xmpp:delay')).not.to.equal(undefined)
    })

    it('ignore_pep_from_offline: those who are offline are silent', async () => {
      await tidings[Symbol.asyncDispose]()
      tidings = await startTestServer({ accounts: { romeo: 'secret', juliet: 'secret' }, config: TEST_CONFIG.replace('ignore_pep_from_offline: false', 'ignore_pep_from_offline: true') })
      await befriend()
      const romeo = await login('romeo')
      await publish(romeo, 'urn:tune', 'one')
      await romeo.disconnect()
      const juliet = await login('juliet', 'a', ['urn:tune'])
      await juliet.ping()
      await juliet.ping()
      expect(juliet.inbox.filter((stanza) => stanza.name === 'message')).to.deep.equal([])
    })

    it('presence is the access model; the owner reads, contacts read, strangers do not, nor do they learn who has an account', async () => {
      await befriend()
      const romeo = await login('romeo')
      const juliet = await login('juliet')
      const nurse = await login('nurse')
      await publish(romeo, 'urn:tune', 'one')
      expect(itemsOf(await get(romeo, "<items node='urn:tune'/>"))).to.deep.equal(['one'])
      expect(itemsOf(await get(juliet, "<items node='urn:tune'/>", 'romeo@localhost'))).to.deep.equal(['one'])
      expect(await refused(get(nurse, "<items node='urn:tune'/>", 'romeo@localhost'))).to.equal('not-authorized presence-subscription-required')
      for (const account of ['romeo@localhost', 'nobody@localhost']) {
        expect(await refused(get(nurse, "<items node='urn:mood'/>", account)), account).to.equal('item-not-found')
        expect(await refused(publish(nurse, 'urn:mood', 'one', account)), account).to.equal('forbidden')
        expect(await refused(set(nurse, "<subscribe node='urn:mood' jid='nurse@localhost'/>", account)), account).to.equal('item-not-found')
        expect(await refused(set(nurse, "<create node='urn:mood'/>", account)), account).to.equal('forbidden')
        expect(await refused(set(nurse, "<delete node='urn:mood'/>", account, OWNER)), account).to.equal('forbidden')
      }
    })

    it('XEP-0384: a node published as open is read by anybody; §7.1.5 preconditions that fail are a conflict', async () => {
      const romeo = await login('romeo')
      const nurse = await login('nurse')
      const node = 'eu.siacs.conversations.axolotl.devicelist'
      await publish(romeo, node, 'current', undefined, options({ access_model: 'open', persist_items: 'true' }))
      expect(itemsOf(await get(nurse, `<items node='${node}'/>`, 'romeo@localhost'))).to.deep.equal(['current'])
      expect(await refused(publish(romeo, node, 'current', undefined, options({ access_model: 'whitelist' })))).to.equal('conflict precondition-not-met')
      expect(await refused(publish(romeo, node, 'current', undefined, options({ colour: 'red' })))).to.equal('conflict precondition-not-met')
      await set(romeo, `<configure node='${node}'>${form('node_config', { access_model: 'whitelist' })}</configure>`, undefined, OWNER)
      expect(await refused(get(nurse, `<items node='${node}'/>`, 'romeo@localhost'))).to.equal('not-allowed closed-node')
      expect(await publish(romeo, node, 'current', undefined, options({ access_model: 'whitelist' }))).not.to.equal(undefined)
    })

    it('§4.5 roster: the contacts of a group read', async () => {
      await befriend()
      const romeo = await login('romeo')
      const juliet = await login('juliet')
      await publish(romeo, 'urn:tune', 'one', undefined, options({ access_model: 'roster', roster_groups_allowed: 'Friends' }))
      expect(await refused(get(juliet, "<items node='urn:tune'/>", 'romeo@localhost'))).to.equal('not-authorized not-in-roster-group')
      await romeo.sendIq("<iq type='set'><query xmlns='jabber:iq:roster'><item jid='juliet@localhost'><group>Friends</group></item></query></iq>")
      expect(itemsOf(await get(juliet, "<items node='urn:tune'/>", 'romeo@localhost'))).to.deep.equal(['one'])
    })

    it('XEP-0163 §8.1: who is no contact any more is not subscribed any more', async () => {
      await befriend()
      const romeo = await login('romeo')
      const juliet = await login('juliet')
      await publish(romeo, 'urn:tune', 'one')
      await set(juliet, "<subscribe node='urn:tune' jid='juliet@localhost'/>", 'romeo@localhost')
      romeo.send("<presence type='unsubscribed' to='juliet@localhost'/>")
      const told = await juliet.receive((element) => event(element) && eventOf(element).getChild('subscription') !== undefined)
      expect(eventOf(told).getChild('subscription')?.attrs).to.include({ node: 'urn:tune', subscription: 'none' })
      const left = await get(romeo, "<subscriptions node='urn:tune'/>", undefined, OWNER)
      expect(left.getChild('pubsub', OWNER)?.getChild('subscriptions')?.getChildren('subscription')).to.deep.equal([])
    })

    it('XEP-0163 §7.1: the account says that it has personal nodes, and names those that the asker may read', async () => {
      await befriend()
      const romeo = await login('romeo')
      const juliet = await login('juliet')
      await publish(romeo, 'urn:tune', 'one')
      await publish(romeo, 'urn:secret', 'one', undefined, options({ access_model: 'whitelist' }))
      const info = await romeo.sendIq("<iq type='get' to='romeo@localhost'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>")
      expect(info.getChild('query')?.getChildren('identity').map(({ attrs }) => `${attrs['category']}/${attrs['type']}`)).to.include('pubsub/pep')
      const features = info.getChild('query')?.getChildren('feature').map(({ attrs }) => attrs['var'])
      expect(features).to.include.members(['publish', 'auto-create', 'auto-subscribe', 'filtered-notifications', 'retrieve-items', 'persistent-items', 'publish-options', 'multi-items', 'config-node', 'config-node-max', 'item-ids', 'last-published', 'access-open', 'access-presence', 'access-whitelist', 'access-roster', 'access-authorize'].map((name) => `${NS}#${name}`))
      const nodesOf = async (client: Client): Promise<(string | undefined)[]> => {
        const items = await client.sendIq("<iq type='get' to='romeo@localhost'><query xmlns='http://jabber.org/protocol/disco#items'/></iq>")
        return items.getChild('query')?.getChildren('item').map(({ attrs }) => attrs['node']) ?? []
      }
      expect(await nodesOf(romeo)).to.deep.equal(['urn:secret', 'urn:tune'])
      expect(await nodesOf(juliet)).to.deep.equal(['urn:tune'])
    })

    it('an account that is removed takes its nodes and subscriptions along', async () => {
      const romeo = await login('romeo')
      const juliet = await login('juliet')
      await set(romeo, "<create node='news'/>", SERVICE)
      await set(juliet, "<subscribe node='news' jid='juliet@localhost'/>", SERVICE)
      await publish(juliet, 'urn:tune', 'one', undefined, options({ access_model: 'open' }))
      await tidings.server.unregister('juliet@localhost')
      const left = await get(romeo, "<subscriptions node='news'/>", SERVICE, OWNER)
      expect(left.getChild('pubsub', OWNER)?.getChild('subscriptions')?.getChildren('subscription')).to.deep.equal([])
      await tidings.server.register('juliet@localhost', 'secret')
      expect(await refused(get(romeo, "<items node='urn:tune'/>", 'juliet@localhost'))).to.equal('item-not-found')
    })

    it('XEP-0352: an inactive client hears when it becomes active, and only the latest', async () => {
      const romeo = await login('romeo', 'a', ['urn:tune'])
      const other = await login('romeo', 'b')
      romeo.send("<inactive xmlns='urn:xmpp:csi:0'/>")
      await romeo.ping()
      for (const text of ['one', 'two']) await set(other, `<publish node='urn:tune'><item id='current'><tune xmlns='urn:tune'>${text}</tune></item></publish>`)
      romeo.inbox.splice(0)
      romeo.send("<active xmlns='urn:xmpp:csi:0'/>")
      await romeo.ping()
      const texts = romeo.inbox.filter((stanza) => stanza.name === 'message').map((stanza) => eventOf(stanza.element()).getChild('items')?.getChild('item')?.getChildText('tune'))
      expect(texts).to.deep.equal(['two'])
    })

    it('XEP-0227 §4.8: an account takes its nodes along', async () => {
      const romeo = await login('romeo')
      await publish(romeo, 'urn:tune', 'one', undefined, options({ access_model: 'whitelist', max_items: '7' }))
      await publish(romeo, 'urn:tune', 'two')
      await set(romeo, "<affiliations node='urn:tune'><affiliation jid='juliet@localhost' affiliation='member'/></affiliations>", undefined, OWNER)
      let text = ''
      for await (const piece of tidings.server.hosts.get('localhost')?.accountData.write('romeo@localhost') ?? []) text += piece
      await tidings.server.unregister('romeo@localhost')
      await tidings.server.register('romeo@localhost', 'secret')
      for (const element of parseElement(`<user>${text}</user>`).getChildElements()) await tidings.server.hosts.get('localhost')?.accountData.read('romeo@localhost', element)
      const juliet = await login('juliet')
      expect(itemsOf(await get(juliet, "<items node='urn:tune'/>", 'romeo@localhost'))).to.deep.equal(['one', 'two'])
      expect(await refused(get(await login('nurse'), "<items node='urn:tune'/>", 'romeo@localhost'))).to.equal('not-allowed closed-node')
    })

    it('default_node_config and force_node_config: what new nodes have, and what nodes cannot be', async () => {
      await tidings[Symbol.asyncDispose]()
      tidings = await startTestServer({ accounts: { romeo: 'secret', juliet: 'secret' }, config: TEST_CONFIG.replace('mod_pubsub: {', "mod_pubsub: { max_items_node: 3, default_node_config: { access_model: open, max_items: 2 }, force_node_config: { 'storage:*': { access_model: whitelist } },") })
      const romeo = await login('romeo')
      const juliet = await login('juliet')
      for (const id of ['a', 'b', 'c']) await publish(romeo, 'urn:tune', id)
      expect(itemsOf(await get(juliet, "<items node='urn:tune'/>", 'romeo@localhost'))).to.deep.equal(['b', 'c'])
      await publish(romeo, 'storage:mine', 'a')
      await set(romeo, `<configure node='storage:mine'>${form('node_config', { access_model: 'open' })}</configure>`, undefined, OWNER)
      expect(await refused(get(juliet, "<items node='storage:mine'/>", 'romeo@localhost'))).to.equal('not-allowed closed-node')
      expect(await refused(set(romeo, `<configure node='urn:tune'>${form('node_config', { max_items: '4' })}</configure>`, undefined, OWNER))).to.equal('not-acceptable')
      await set(romeo, `<configure node='urn:tune'>${form('node_config', { max_items: 'max' })}</configure>`, undefined, OWNER)
      for (const id of ['d', 'e', 'f']) await publish(romeo, 'urn:tune', id)
      expect(itemsOf(await get(juliet, "<items node='urn:tune'/>", 'romeo@localhost'))).to.deep.equal(['d', 'e', 'f'])
    })

    it('access_createnode: who may create nodes at the service; plugins: whether accounts have any', async () => {
      await tidings[Symbol.asyncDispose]()
      tidings = await startTestServer({ accounts: { romeo: 'secret' }, config: TEST_CONFIG.replace('plugins: [flat, pep]', 'plugins: [flat, hometree], access_createnode: none') })
      const romeo = await login('romeo')
      expect(await refused(set(romeo, "<create node='news'/>", SERVICE))).to.equal('forbidden')
      expect(await refused(publish(romeo, 'urn:tune', 'one'))).to.equal('service-unavailable')
      const info = await romeo.sendIq("<iq type='get' to='romeo@localhost'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>")
      expect(info.toString()).not.to.contain('pubsub')
    })

    it('resumed sessions hear of events after a restart', async () => {
      const info = xml('query', { xmlns: 'http://jabber.org/protocol/disco#info' }, xml('feature', { var: 'urn:tune+notify' }))
      const where = { host: tidings.host, port: tidings.port, domain: tidings.domain, tls: 'none', user: 'romeo', password: 'secret' } as const
      const device = await connect({ ...where, resource: 'b', sm: true })
      clients.push(device)
      device.send(`<presence><c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='urn:test' ver='${capsVer(info)}'/></presence>`)
      await device.ping()
      const resume = device.resumeState()
      device.destroy()
      await tidings.restart()
      const back = await connect({ ...where, port: tidings.port, sm: true, resume })
      clients.push(back)
      back.on((stanza) => {
        if (stanza.name === 'iq' && stanza.type === 'get') back.send(`<iq type='result' id='${stanza.id ?? ''}' to='${stanza.from ?? ''}'>${info.toString()}</iq>`)
      })
      await publish(await login('romeo', 'c'), 'urn:tune', 'one')
      expect(eventOf(await back.receive(event)).getChild('items')?.getChild('item')?.attrs['id']).to.equal('one')
    })

    it('XEP-0163 §4.3.4: a new contact gets the last item', async () => {
      const romeo = await login('romeo', 'a')
      const juliet = await login('juliet', 'a', ['urn:tune'])
      await publish(romeo, 'urn:tune', 'one')
      await juliet.ping()
      juliet.send("<presence type='subscribe' to='romeo@localhost'/>")
      await romeo.receive(({ name, attrs }) => name === 'presence' && attrs['type'] === 'subscribe')
      romeo.send("<presence type='subscribed' to='juliet@localhost'/>")
      expect(eventOf(await juliet.receive(event)).getChild('items')?.getChild('item')?.attrs['id']).to.equal('one')
    })

    it('a reload keeps what there is, and sessions hear of events as before', async () => {
      const romeo = await login('romeo', 'a', ['urn:tune'])
      await publish(romeo, 'urn:tune', 'one')
      await romeo.receive(event)
      await tidings.server.reload(loadConfig('/x.yml', { readText: () => TEST_CONFIG }).config)
      expect(itemsOf(await get(romeo, "<items node='urn:tune'/>"))).to.deep.equal(['one'])
      await publish(romeo, 'urn:tune', 'two')
      expect(eventOf(await romeo.receive(event)).getChild('items')?.getChild('item')?.attrs['id']).to.equal('two')
      await set(romeo, "<create node='news'/>", SERVICE)
    })

    it('§6.5.4: an answer has a limit, and says that there is more', async () => {
      const romeo = await login('romeo')
      const big = 'x'.repeat(150_000)
      for (let id = 0; id < 9; id++) await set(romeo, `<publish node='urn:big'><item id='${id}'><tune xmlns='urn:tune'>${big}</tune></item></publish>${options({ max_items: 'max' })}`)
      const answer = await get(romeo, "<items node='urn:big'/>")
      expect(itemsOf(answer)).to.deep.equal(['3', '4', '5', '6', '7', '8'])
      const RSM = 'http://jabber.org/protocol/rsm'
      expect(answer.getChild('pubsub', NS)?.getChild('set', RSM)?.getChildText('count')).to.equal('9')
      expect(itemsOf(await get(romeo, `<items node='urn:big'/><set xmlns='${RSM}'><before>3</before></set>`))).to.deep.equal(['0', '1', '2'])
    })
  })
})
