import { expect } from 'chai'
import type { Client } from '../../lib/client/client.ts'
import type { Element } from '../../lib/xml/element.ts'
import { startTestServer, TEST_CONFIG, type TestServer } from '../test-server.ts'
import { befriend, eventOf, logIn, publish } from './personal-clients.ts'

const NS = 'http://jabber.org/protocol/pubsub'
const EVENT = `${NS}#event`
const OWNER = `${NS}#owner`
const SERVICE = 'pubsub.localhost'
const BIG = 'x'.repeat(150_000)
const TUNE = 'urn:tune'

const many = (count: number, each: (index: number) => string): string => Array.from({ length: count }, (_, index) => each(index)).join('')
const form = (fields: Record<string, string>): string =>
  `<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE' type='hidden'><value>${NS}#node_config</value></field>${Object.entries(fields).map(([name, value]) => `<field var='pubsub#${name}'><value>${value}</value></field>`).join('')}</x>`
const isEvent = (element: Element): boolean => element.getChild('event', EVENT) !== undefined

describe('what one stanza can cost: publish-subscribe', () => {
  let tidings: TestServer
  let romeo: Client
  let juliet: Client

  const ask = (client: Client, type: 'get' | 'set', inner: string, to = SERVICE, ns = NS): Promise<Element> => client.sendIq(`<iq type='${type}' to='${to}'><pubsub xmlns='${ns}'>${inner}</pubsub></iq>`)
  async function refused(request: Promise<Element>): Promise<string> {
    try {
      await request
    } catch (error) {
      return (error as { condition: string }).condition
    }
    return 'accepted'
  }

  beforeEach(async () => {
    tidings = await startTestServer({ accounts: { romeo: 'secret', juliet: 'secret' } })
    romeo = await logIn(tidings, 'romeo', 'a')
    juliet = await logIn(tidings, 'juliet', 'a', [TUNE])
  })
  afterEach(async () => {
    for (const client of [romeo, juliet]) client.destroy()
    await tidings[Symbol.asyncDispose]()
  })

  it('XEP-0060 §6.5.8: an item that is asked for many times is answered once, and the answer has a limit', async () => {
    for (let id = 0; id < 9; id++) await publish(romeo, 'urn:big', `<item id='${id}'><tune xmlns='${TUNE}'>${BIG}</tune></item>`, { max_items: 'max' })
    const idsOf = (answer: Element): (string | undefined)[] => answer.getChild('pubsub', NS)?.getChild('items')?.getChildren('item').map(({ attrs }) => attrs['id']) ?? []
    expect(idsOf(await ask(romeo, 'get', `<items node='urn:big'>${many(5, () => "<item id='0'/>")}</items>`, romeo.bare))).to.deep.equal(['0'])
    expect(idsOf(await ask(romeo, 'get', `<items node='urn:big'>${many(9, (id) => `<item id='${id}'/>`)}</items>`, romeo.bare))).to.deep.equal(['0', '1', '2', '3', '4', '5'])
  })

  it('a namespace that is declared once is not copied into every item', async () => {
    const items = many(20, (id) => `<item id='${id}'><p:tune/></item>`)
    const declared = (namespace: string): string => `<iq type='set'><pubsub xmlns='${NS}' xmlns:p='${namespace}'><publish node='urn:many'>${items}</publish><publish-options>${form({ max_items: 'max' }).replace('node_config', 'publish-options')}</publish-options></pubsub></iq>`
    expect(await refused(romeo.sendIq(declared(BIG)))).to.equal('not-acceptable')
    expect(await refused(romeo.sendIq(declared(TUNE)))).to.equal('accepted')
  })

  it('XEP-0060 §6.1.3.9, §8.8.2: one account has few subscriptions of a node, and who has not asked gets no last item', async () => {
    await ask(romeo, 'set', "<create node='news'/>")
    await ask(romeo, 'set', `<publish node='news'><item id='one'><tune xmlns='${TUNE}'/></item></publish>`)
    const given = (count: number): string => `<subscriptions node='news'>${many(count, (index) => `<subscription jid='juliet@localhost/${index}' subscription='subscribed'/>`)}</subscriptions>`
    expect(await refused(ask(romeo, 'set', given(21), SERVICE, OWNER))).to.equal('not-acceptable')
    await ask(romeo, 'set', "<subscriptions node='news'><subscription jid='juliet@localhost/0' subscription='none'/></subscriptions>", SERVICE, OWNER)
    await ask(romeo, 'set', "<subscriptions node='news'><subscription jid='juliet@localhost/a' subscription='subscribed'/></subscriptions>", SERVICE, OWNER)
    expect(await refused(ask(juliet, 'set', "<subscribe node='news' jid='juliet@localhost/b'/>"))).to.equal('policy-violation')
    await juliet.ping()
    expect(juliet.inbox.map((stanza) => stanza.element()).filter(isEvent).flatMap((told) => told.getChild('event', EVENT)?.getChildElements().map((child) => child.getName()))).to.deep.equal(['subscription'])
  })

  it('XEP-0060 §8.9.2: those who are made outcasts, or lose what let them in, are not subscribed any more', async () => {
    await ask(romeo, 'set', `<create node='closed'/><configure>${form({ access_model: 'whitelist' })}</configure>`)
    const change = (affiliation: string): Promise<Element> => ask(romeo, 'set', `<affiliations node='closed'>${many(2000, (index) => `<affiliation jid='a${index}@localhost' affiliation='member'/>`)}<affiliation jid='juliet@localhost' affiliation='${affiliation}'/></affiliations>`, SERVICE, OWNER)
    await change('member')
    await ask(juliet, 'set', "<subscribe node='closed' jid='juliet@localhost'/>")
    await change('none')
    const left = await ask(romeo, 'get', "<subscriptions node='closed'/>", SERVICE, OWNER)
    expect(left.getChild('pubsub', OWNER)?.getChild('subscriptions')?.getChildElements()).to.deep.equal([])
  })

  it('XEP-0163 §4.3.4: who says again that a contact is subscribed sends it nothing', async () => {
    await publish(romeo, TUNE, `<item id='one'><tune xmlns='${TUNE}'/></item>`)
    await befriend(romeo, juliet)
    await eventOf(juliet, TUNE)
    for (let i = 0; i < 3; i++) romeo.send(`<presence type='subscribed' to='${juliet.bare}'/>`)
    await romeo.ping()
    await juliet.ping()
    expect(juliet.inbox.map((stanza) => stanza.element()).filter(isEvent)).to.deep.equal([])
  })

  it('a configuration has a limit', async () => {
    expect(await refused(ask(romeo, 'set', `<create node='a'/><configure>${form({ title: 'x'.repeat(1025) })}</configure>`))).to.equal('not-acceptable')
    expect(await refused(ask(romeo, 'set', `<create node='b'/><configure>${form({ roster_groups_allowed: 'x'.repeat(4097) })}</configure>`))).to.equal('not-acceptable')
    expect(await refused(ask(romeo, 'set', `<create node='c'/><configure>${form({ title: 'x'.repeat(1024), description: 'x'.repeat(1024) })}</configure>`))).to.equal('accepted')
  })

  it('XEP-0402 §5.3: bookmarks that are very long together are kept, and not converted', async () => {
    const bookmark = (room: string, length: number): string => `<item id='${room}@conference.example.org'><conference xmlns='urn:xmpp:bookmarks:1'><extensions><a xmlns='urn:a'>${'x'.repeat(length)}</a></extensions></conference></item>`
    const listed = async (): Promise<number | undefined> => {
      const answer = await romeo.sendIq("<iq type='get'><query xmlns='jabber:iq:private'><storage xmlns='storage:bookmarks'/></query></iq>")
      return answer.getChild('query', 'jabber:iq:private')?.getChild('storage', 'storage:bookmarks')?.getChildElements().length
    }
    const closed = { max_items: 'max', access_model: 'whitelist' }
    await publish(romeo, 'urn:xmpp:bookmarks:1', bookmark('a', 150_000), closed)
    expect(await listed()).to.equal(1)
    await publish(romeo, 'urn:xmpp:bookmarks:1', bookmark('b', 150_000), closed)
    expect(await listed()).to.equal(1)
  })

  it('XEP-0049: of elements with the same name in one request the last one counts', async () => {
    const other = await logIn(tidings, 'romeo', 'b', ['storage:bookmarks'])
    const list = (room: string): string => `<storage xmlns='storage:bookmarks'><conference jid='${room}@conference.example.org'/></storage>`
    await romeo.sendIq(`<iq type='set'><query xmlns='jabber:iq:private'>${many(50, () => list('a') + list('b'))}</query></iq>`)
    await other.ping()
    expect(other.inbox.map((stanza) => stanza.element()).filter(isEvent).length).to.equal(1)
    other.destroy()
  })

  it('XEP-0402 §5.3.2: a list of very many rooms is kept, and not converted', async () => {
    const list = (rooms: number): Promise<Element> => romeo.sendIq(`<iq type='set'><query xmlns='jabber:iq:private'><storage xmlns='storage:bookmarks'>${many(rooms, (index) => `<conference jid='a${index}@conference.example.org'/>`)}</storage></query></iq>`)
    await list(1001)
    expect(await refused(ask(romeo, 'get', "<items node='urn:xmpp:bookmarks:1'/>", romeo.bare))).to.equal('item-not-found')
    await list(1000)
    expect((await ask(romeo, 'get', "<items node='urn:xmpp:bookmarks:1'/>", romeo.bare)).getChild('pubsub', NS)?.getChild('items')?.getChildElements().length).to.equal(1000)
  })

  it('XEP-0060 §8.8.2: an owner subscribes only so many who have not asked', async () => {
    await ask(romeo, 'set', "<create node='news'/>")
    const given = (from: number): Promise<string> => refused(ask(romeo, 'set', `<subscriptions node='news'>${many(500, (index) => `<subscription jid='a${from + index}@example.org' subscription='subscribed'/>`)}</subscriptions>`, SERVICE, OWNER))
    expect([await given(0), await given(500), await given(500), await given(501)]).to.deep.equal(['accepted', 'accepted', 'accepted', 'not-acceptable'])
    expect(await refused(ask(juliet, 'set', "<subscribe node='news' jid='juliet@localhost'/>"))).to.equal('accepted')
  })

  it('XEP-0060 §4.1: an outcast is not subscribed any more, whatever the access model', async () => {
    for (const model of ['open', 'authorize']) {
      await ask(romeo, 'set', `<create node='${model}'/><configure>${form({ access_model: model })}</configure>`)
      await ask(juliet, 'set', `<subscribe node='${model}' jid='juliet@localhost'/>`)
      await ask(romeo, 'set', `<affiliations node='${model}'><affiliation jid='juliet@localhost' affiliation='outcast'/></affiliations>`, SERVICE, OWNER)
      const left = await ask(romeo, 'get', `<subscriptions node='${model}'/>`, SERVICE, OWNER)
      expect(left.getChild('pubsub', OWNER)?.getChild('subscriptions')?.getChildElements()).to.deep.equal([])
    }
  })

  it('XEP-0060 §4.1: who may only publish does not read', async () => {
    await ask(romeo, 'set', "<create node='news'/>")
    await ask(romeo, 'set', "<affiliations node='news'><affiliation jid='juliet@localhost' affiliation='publish-only'/></affiliations>", SERVICE, OWNER)
    expect(await refused(ask(juliet, 'set', `<publish node='news'><item id='one'><tune xmlns='${TUNE}'/></item></publish>`))).to.equal('accepted')
    expect(await refused(ask(juliet, 'get', "<items node='news'/>"))).to.equal('forbidden')
    expect(await refused(ask(juliet, 'set', "<subscribe node='news' jid='juliet@localhost'/>"))).to.equal('forbidden')
  })
})

describe('nodes of one account at a service', () => {
  it('are counted for who made them, not for who was made their owner', async () => {
    const tidings = await startTestServer({ accounts: { romeo: 'secret', juliet: 'secret' }, config: `${TEST_CONFIG}\ntidings: { limits: { pubsub_nodes: 2 } }\n` })
    const [romeo, juliet] = [await logIn(tidings, 'romeo', 'a'), await logIn(tidings, 'juliet', 'a')]
    const ask = async (client: Client, inner: string, ns = NS): Promise<string> => {
      try {
        await client.sendIq(`<iq type='set' to='${SERVICE}'><pubsub xmlns='${ns}'>${inner}</pubsub></iq>`)
        return 'accepted'
      } catch (error) {
        return (error as { condition: string }).condition
      }
    }
    for (const node of ['a', 'b']) {
      expect(await ask(romeo, `<create node='${node}'/>`)).to.equal('accepted')
      await ask(romeo, `<affiliations node='${node}'><affiliation jid='juliet@localhost' affiliation='owner'/><affiliation jid='romeo@localhost' affiliation='none'/></affiliations>`, OWNER)
    }
    expect(await ask(romeo, "<create node='c'/>")).to.equal('resource-constraint')
    expect(await ask(juliet, "<create node='c'/>")).to.equal('accepted')
    expect(await ask(juliet, "<delete node='a'/>", OWNER)).to.equal('accepted')
    expect(await ask(romeo, "<create node='d'/>")).to.equal('accepted')
    for (const client of [romeo, juliet]) client.destroy()
    await tidings[Symbol.asyncDispose]()
  })
})

describe('personal events between hosts of one server', () => {
  it('XEP-0191: who is blocked hears of nothing', async () => {
    const tidings = await startTestServer({ accounts: { romeo: 'secret' }, config: TEST_CONFIG.replace('hosts: [localhost]', 'hosts: [localhost, other.example]') })
    await tidings.server.register('juliet@other.example', 'secret')
    const romeo = await logIn(tidings, 'romeo', 'a')
    const juliet = await logIn({ ...tidings, domain: 'other.example', host: tidings.host, port: tidings.port } as unknown as TestServer, 'juliet', 'a')
    const item = (id: string): string => `<item id='${id}'><tune xmlns='${TUNE}'/></item>`
    await publish(romeo, TUNE, item('one'), { access_model: 'open' })
    await juliet.sendIq(`<iq type='set' to='${romeo.bare}'><pubsub xmlns='${NS}'><subscribe node='${TUNE}' jid='${juliet.jid.toString()}'/></pubsub></iq>`)
    await eventOf(juliet, TUNE)
    await publish(romeo, TUNE, item('two'))
    await eventOf(juliet, TUNE)
    await romeo.sendIq(`<iq type='set'><block xmlns='urn:xmpp:blocking'><item jid='${juliet.bare}'/></block></iq>`)
    await publish(romeo, TUNE, item('three'))
    await juliet.ping()
    expect(juliet.inbox.map((stanza) => stanza.element()).filter(isEvent)).to.deep.equal([])
    for (const client of [romeo, juliet]) client.destroy()
    await tidings[Symbol.asyncDispose]()
  })
})
