import { expect } from 'chai'
import type { Client } from '../../lib/client/client.ts'
import type { Element } from '../../lib/xml/element.ts'
import { startTestServer, type TestServer } from '../test-server.ts'
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
    await ask(romeo, 'set', given(19), SERVICE, OWNER)
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
})
