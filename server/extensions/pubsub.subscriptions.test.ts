import { expect } from 'chai'
import type { Client } from '../../lib/client/client.ts'
import { formatDateTime } from '../../lib/stanza/delay.ts'
import type { Element } from '../../lib/xml/element.ts'
import { startTestServer, type TestServer } from '../test-server.ts'
import { logIn } from './personal-clients.ts'
import { refused } from './pubsub.fixture.ts'

const NS = 'http://jabber.org/protocol/pubsub'
const EVENT = `${NS}#event`
const OWNER = `${NS}#owner`
const SERVICE = 'pubsub.localhost'
const ATOM = 'http://www.w3.org/2005/Atom'

type Fields = Readonly<Record<string, string | readonly string[]>>
const form = (type: string, fields: Fields): string =>
  `<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE' type='hidden'><value>${NS}#${type}</value></field>${Object.entries(fields).map(([name, value]) => `<field var='pubsub#${name}'>${[value].flat().map((each) => `<value>${each}</value>`).join('')}</field>`).join('')}</x>`

describe('XEP-0060 §6: subscriptions', () => {
  let tidings: TestServer
  let romeo: Client
  let juliet: Client

  const set = (client: Client, inner: string, to = SERVICE, ns = NS): Promise<Element> => client.sendIq(`<iq type='set' to='${to}'><pubsub xmlns='${ns}'>${inner}</pubsub></iq>`)
  const get = (client: Client, inner: string, to = SERVICE, ns = NS): Promise<Element> => client.sendIq(`<iq type='get' to='${to}'><pubsub xmlns='${ns}'>${inner}</pubsub></iq>`)
  const publish = (id: string): Promise<Element> => set(romeo, `<publish node='news'><item id='${id}'><entry xmlns='${ATOM}'><title>Alone</title><summary>Now I am ${id}.</summary></entry></item></publish>`)
  const subscribe = (options = '', jid = juliet.bare): Promise<Element> => set(juliet, `<subscribe node='news' jid='${jid}'/>${options}`)
  const options = (fields: Fields, jid = juliet.bare): Promise<Element> => set(juliet, `<options node='news' jid='${jid}'>${form('subscribe_options', fields)}</options>`)
  const create = (fields: Fields = {}): Promise<Element> => set(romeo, `<create node='news'/><configure>${form('node_config', fields)}</configure>`)
  const fieldsOf = (parent: Element | undefined): Record<string, string> =>
    Object.fromEntries((parent?.getChild('x', 'jabber:x:data')?.getChildren('field') ?? []).map((field) => [field.attrs['var']?.replace('pubsub#', '') ?? '', field.getChildren('value').map((value) => value.getText()).join(' ')]))
  /** The ids of items that a client has heard of, and what else. */
  async function heard(client: Client): Promise<string[]> {
    await client.ping()
    const events = client.inbox.splice(0).flatMap((stanza) => stanza.element().getChild('event', EVENT)?.getChildElements() ?? [])
    return events.map((element) => element.getChild('item')?.attrs['id'] ?? `${element.getName()} ${element.attrs['subscription'] ?? ''}`.trim())
  }

  beforeEach(async () => {
    tidings = await startTestServer({ accounts: { romeo: 'secret', juliet: 'secret', nurse: 'secret' } })
    romeo = await logIn(tidings, 'romeo', 'a')
    juliet = await logIn(tidings, 'juliet', 'a')
  })
  afterEach(async () => {
    for (const client of [romeo, juliet]) client.destroy()
    await tidings[Symbol.asyncDispose]()
  })

  it('§6.3: options are shown, set, kept across a restart and obeyed', async () => {
    await create()
    await subscribe()
    const shown = await get(juliet, "<options node='news' jid='juliet@localhost'/>")
    expect(fieldsOf(shown.getChild('pubsub', NS)?.getChild('options'))).to.include({ deliver: '1', digest: '0', 'show-values': 'chat online away xa dnd' }).and.not.to.have.property('include_body')
    await publish('one')
    expect(await heard(juliet)).to.deep.equal(['one'])
    await options({ deliver: '0' })
    await publish('two')
    expect(await heard(juliet)).to.deep.equal([])
    await tidings.restart()
    romeo = await logIn(tidings, 'romeo', 'a')
    juliet = await logIn(tidings, 'juliet', 'a')
    await publish('three')
    expect(await heard(juliet)).to.deep.equal([])
    await options({ deliver: '1' })
    await publish('four')
    expect(await heard(juliet)).to.deep.equal(['four'])
  })

  it('§6.3.4, §6.2.3, §6.5.9: who may not, does not exist, or names another subscription is told so', async () => {
    await create()
    expect(await refused(get(juliet, "<options node='olds' jid='juliet@localhost'/>"))).to.equal('item-not-found')
    expect(await refused(get(juliet, "<options node='news' jid='juliet@localhost'/>"))).to.equal('unexpected-request not-subscribed')
    await subscribe()
    expect(await refused(get(juliet, "<options node='news'/>"))).to.equal('bad-request jid-required')
    expect(await refused(get(romeo, "<options node='news' jid='juliet@localhost'/>"))).to.equal('forbidden')
    for (const request of ["<options node='news' jid='juliet@localhost' subid='x'/>", "<items node='news' subid='x'/>"]) expect(await refused(get(juliet, request)), request).to.equal('not-acceptable invalid-subid')
    expect(await refused(set(juliet, "<unsubscribe node='news' jid='juliet@localhost' subid='x'/>"))).to.equal('not-acceptable invalid-subid')
    for (const wrong of [{ digest: '1' }, { include_body: '1' }, { expire: 'tomorrow' }, { expire: '2001-01-01T00:00:00Z' }, { 'show-values': 'asleep' }]) expect(await refused(options(wrong)), JSON.stringify(wrong)).to.equal('bad-request invalid-options')
    expect(await refused(options({ deliver: 'perhaps' }))).to.equal('bad-request')
  })

  it('§6.3.7: a subscription comes with its options; they are those of the node and address that is subscribed', async () => {
    await create({ type: ATOM })
    await publish('one')
    const answer = await subscribe(`<options>${form('subscribe_options', { deliver: '1', include_body: 'true', digest: '0', 'show-values': ['chat', 'online', 'away'] })}</options>`)
    expect(fieldsOf(answer.getChild('pubsub', NS)?.getChild('options'))).to.include({ deliver: '1', include_body: '1', 'show-values': 'chat online away' })
    const last = await juliet.receive((element) => element.getChild('event', EVENT) !== undefined)
    expect(last.getChildText('body')).to.equal('Alone\nNow I am one.') // §12.7
    expect(last.getChild('delay', 'urn:xmpp:delay')).not.to.equal(undefined)
    expect(await refused(subscribe(`<options node='news'>${form('subscribe_options', {})}</options>`))).to.equal('bad-request')
    expect(await refused(set(juliet, `<options>${form('subscribe_options', {})}</options><subscribe node='news' jid='juliet@localhost'/>`))).to.equal('bad-request')
  })

  it('§16.4.2: events come in the presence that was asked for, to the clients that are in it', async () => {
    await create()
    await subscribe(`<options>${form('subscribe_options', { 'show-values': ['online', 'chat'] })}</options>`)
    const away = await logIn(tidings, 'juliet', 'b', [], '<show>away</show>')
    await publish('one')
    expect([await heard(juliet), await heard(away)]).to.deep.equal([['one'], []])
    juliet.send('<presence><show>dnd</show></presence>')
    away.send('<presence><show>chat</show></presence>')
    await juliet.ping()
    await away.ping()
    await publish('two')
    expect([await heard(juliet), await heard(away)]).to.deep.equal([[], ['two']])
    away.destroy()
  })

  it('§12.4: a subscription that is to last as long as presence ends with it, also when the server was killed meanwhile', async () => {
    await create()
    const nurse = await logIn(tidings, 'nurse', 'a')
    await set(nurse, `<subscribe node='news' jid='nurse@localhost/a'/><options>${form('subscribe_options', { expire: 'presence' })}</options>`)
    await subscribe(`<options>${form('subscribe_options', { expire: 'presence' })}</options>`)
    const subscribers = async (): Promise<(string | undefined)[]> => (await get(romeo, "<subscriptions node='news'/>", SERVICE, OWNER)).getChild('pubsub', OWNER)?.getChild('subscriptions')?.getChildElements().map(({ attrs }) => attrs['jid']) ?? []
    expect(await subscribers()).to.have.members(['juliet@localhost', 'nurse@localhost/a'])
    nurse.send("<presence type='unavailable'/>")
    await nurse.ping()
    nurse.destroy()
    expect(await subscribers()).to.deep.equal(['juliet@localhost'])
    await tidings.restart()
    romeo = await logIn(tidings, 'romeo', 'a')
    expect(await subscribers()).to.deep.equal([])
  })

  it('§6.4: the default options are told, of a node and of the service', async () => {
    await create({ type: ATOM })
    const node = await get(juliet, "<default node='news'/>")
    expect(node.getChild('pubsub', NS)?.getChild('default')?.attrs['node']).to.equal('news')
    expect(fieldsOf(node.getChild('pubsub', NS)?.getChild('default'))).to.include({ deliver: '1', include_body: '0' })
    expect(fieldsOf((await get(juliet, '<default/>')).getChild('pubsub', NS)?.getChild('default'))).to.include({ deliver: '1', expire: '' })
    expect(await refused(get(juliet, "<default node='olds'/>"))).to.equal('item-not-found')
  })

  it('§12.18: a lease is shown as it was set, and renewed', async () => {
    await create()
    await subscribe()
    for (const hours of [1, 2]) {
      const until = formatDateTime(Date.now() + hours * 3_600_000)
      await options({ expire: until })
      expect(fieldsOf((await get(juliet, "<options node='news' jid='juliet@localhost'/>")).getChild('pubsub', NS)?.getChild('options'))['expire']).to.equal(until)
    }
  })

  it('§4.3: a client that becomes available gets the last item, once, unless the node is configured otherwise', async () => {
    await create()
    await publish('one')
    await subscribe()
    expect(await heard(juliet)).to.deep.equal(['one'])
    const second = await logIn(tidings, 'juliet', 'b')
    expect(await heard(second)).to.deep.equal(['one'])
    second.send('<presence><show>away</show></presence>')
    expect([await heard(second), await heard(juliet)]).to.deep.equal([[], []])
    await set(romeo, `<configure node='news'>${form('node_config', { send_last_published_item: 'on_sub' })}</configure>`, SERVICE, OWNER)
    const third = await logIn(tidings, 'juliet', 'c')
    expect(await heard(third)).to.deep.equal([])
    for (const client of [second, third]) client.destroy()
  })

  // ---- §8.6 to §8.9, what owners do

  const COMMANDS = 'http://jabber.org/protocol/commands'
  const pending = (client: Client, inner = '', attrs = ''): Promise<Element> =>
    client.sendIq(`<iq type='set' to='${SERVICE}'><command xmlns='${COMMANDS}' node='${NS}#get-pending'${attrs}>${inner}</command></iq>`)
  const isQuestion = (element: Element): boolean => element.name === 'message' && element.getChild('x', 'jabber:x:data') !== undefined
  const decide = (client: Client, allow: string): void => { client.send(`<message to='${SERVICE}'>${form('subscribe_authorization', { node: 'news', subscriber_jid: juliet.bare, allow })}</message>`) }

  it('§8.7: an owner is asked again, by a command, about the requests for a node; others may not run it', async () => {
    expect(await refused(pending(romeo))).to.equal('forbidden')
    await create({ access_model: 'authorize' })
    await subscribe()
    romeo.inbox.splice(0)
    expect(await refused(pending(juliet))).to.equal('forbidden')
    const first = (await pending(romeo)).getChild('command', COMMANDS)
    expect(first?.attrs['status']).to.equal('executing')
    const field = first?.getChild('x', 'jabber:x:data')?.getChildren('field').find(({ attrs }) => attrs['var'] === 'pubsub#node')
    expect([field?.attrs['type'], field?.getChildren('option').map((option) => option.getChildText('value'))]).to.deep.equal(['list-single', ['news']])
    const session = ` sessionid='${first?.attrs['sessionid'] ?? ''}'`
    expect(await refused(pending(romeo, "<x xmlns='jabber:x:data' type='submit'><field var='pubsub#node'><value>olds</value></field></x>", session))).to.equal('item-not-found')
    const done = await pending(romeo, "<x xmlns='jabber:x:data' type='submit'><field var='pubsub#node'><value>news</value></field></x>", session)
    expect(done.getChild('command', COMMANDS)?.attrs['status']).to.equal('completed')
    const question = await romeo.receive(isQuestion)
    expect(question.attrs['to']).to.equal(romeo.jid)
    decide(romeo, '1')
    await juliet.receive((element) => element.getChild('event', EVENT)?.getChild('subscription')?.attrs['subscription'] === 'subscribed')
  })

  it('§8.6: a form that is cancelled leaves the request pending; the first answer wins', async () => {
    await create({ access_model: 'authorize' })
    await subscribe()
    romeo.send(`<message to='${SERVICE}'><x xmlns='jabber:x:data' type='cancel'><field var='FORM_TYPE' type='hidden'><value>${NS}#subscribe_authorization</value></field></x></message>`)
    await romeo.ping()
    expect(await refused(subscribe())).to.equal('not-authorized pending-subscription')
    // §8.8.1.2: who is pending is not among the subscribers
    expect((await get(romeo, "<subscriptions node='news'/>", SERVICE, OWNER)).getChild('pubsub', OWNER)?.getChild('subscriptions')?.getChildElements()).to.deep.equal([])
    decide(romeo, '1')
    decide(romeo, '0')
    await romeo.ping()
    expect(await refused(subscribe())).to.equal('accepted')
    expect(await heard(juliet)).to.deep.equal(['subscription subscribed'])
  })

  it('§8.7.4: who becomes a publisher is subscribed, who becomes an outcast is refused, and an open node has nobody wait', async () => {
    await create({ access_model: 'authorize' })
    for (const [affiliation, state] of [['publisher', 'subscribed'], ['outcast', 'none']] as const) {
      await set(romeo, "<affiliations node='news'><affiliation jid='juliet@localhost' affiliation='none'/></affiliations>", SERVICE, OWNER)
      await subscribe()
      await heard(juliet)
      await set(romeo, `<affiliations node='news'><affiliation jid='juliet@localhost' affiliation='${affiliation}'/></affiliations>`, SERVICE, OWNER)
      expect(await heard(juliet)).to.deep.equal([`subscription ${state}`])
      if (state === 'subscribed') await set(juliet, "<unsubscribe node='news' jid='juliet@localhost'/>")
    }
    await set(romeo, "<affiliations node='news'><affiliation jid='juliet@localhost' affiliation='none'/></affiliations>", SERVICE, OWNER)
    await subscribe()
    await set(romeo, `<configure node='news'>${form('node_config', { access_model: 'open' })}</configure>`, SERVICE, OWNER)
    expect(await heard(juliet)).to.deep.equal(['subscription subscribed'])
  })

  it('§8.8.2.4, §8.9.2.5: what cannot be changed is answered as it is, the rest is changed', async () => {
    await create()
    await subscribe()
    async function left(inner: string): Promise<string[]> {
      try {
        await set(romeo, inner, SERVICE, OWNER)
      } catch (error) {
        const { condition, element } = error as { condition: string; element: Element }
        return [condition, ...(element.getChild('pubsub', OWNER)?.getChildElements()[0]?.getChildElements() ?? []).map(({ attrs }) => `${attrs['jid'] ?? ''} ${attrs['affiliation'] ?? attrs['subscription'] ?? ''}`)]
      }
      return []
    }
    expect(await left("<subscriptions node='news'><subscription jid='juliet@localhost' subscription='unconfigured'/><subscription jid='nurse@localhost' subscription='subscribed'/><subscription jid='romeo@localhost'/></subscriptions>")).to.deep.equal(['not-acceptable', 'juliet@localhost subscribed'])
    const list = await get(romeo, "<subscriptions node='news'/>", SERVICE, OWNER)
    expect(list.getChild('pubsub', OWNER)?.getChild('subscriptions')?.getChildElements().map(({ attrs }) => attrs['jid'])).to.have.members(['juliet@localhost', 'nurse@localhost'])
    expect(await left("<affiliations node='news'><affiliation jid='romeo@localhost' affiliation='none'/><affiliation jid='juliet@localhost' affiliation='publisher'/><affiliation jid='nurse@localhost'/></affiliations>")).to.deep.equal(['not-acceptable', 'romeo@localhost owner'])
    const affiliations = await get(romeo, "<affiliations node='news'/>", SERVICE, OWNER)
    expect(affiliations.getChild('pubsub', OWNER)?.getChild('affiliations')?.getChildElements().map(({ attrs }) => `${attrs['jid'] ?? ''} ${attrs['affiliation'] ?? ''}`)).to.have.members(['romeo@localhost owner', 'juliet@localhost publisher'])
    expect(await left("<affiliations node='news'><affiliation jid='juliet@localhost' affiliation='none'/><affiliation jid='juliet@localhost/a' affiliation='owner'/></affiliations>")).to.deep.equal(['bad-request'])
  })

  // ---- §7 and §8, what nodes are configured for

  const told = async (client: Client): Promise<string[]> => {
    await client.ping()
    return client.inbox.splice(0).flatMap((stanza) => stanza.element().getChild('event', EVENT)?.getChildElements().map(String) ?? [])
  }
  const configure = (fields: Fields): Promise<Element> => set(romeo, `<configure node='news'>${form('node_config', fields)}</configure>`, SERVICE, OWNER)

  it('§4.3, §7.1.3.7: items and payloads are as the type of events asks for', async () => {
    await create({ deliver_payloads: '0' })
    await subscribe()
    await set(romeo, "<publish node='news'><item id='one'/></publish>")
    expect(await told(juliet)).to.deep.equal([`<items node="news"><item id="one"/></items>`])
    expect(await refused(set(romeo, "<publish node='news'/>"))).to.equal('bad-request item-required')
    await configure({ persist_items: '0' })
    expect(await refused(set(romeo, "<publish node='news'><item/></publish>"))).to.equal('bad-request item-forbidden')
    const answer = await set(romeo, "<publish node='news'/>")
    expect(answer.getChild('pubsub', NS)?.getChild('publish')?.getChildElements()).to.deep.equal([])
    expect(await told(juliet)).to.deep.equal([`<items node="news"/>`])
    expect(await refused(set(romeo, "<purge node='news'/>", SERVICE, OWNER))).to.equal('feature-not-implemented unsupported') // §8.5.3.3
    await configure({ deliver_payloads: '1' })
    expect(await refused(set(romeo, "<publish node='news'><item/></publish>"))).to.equal('bad-request payload-required')
  })

  it('§7.1.3.4: a full node that is to reject items does; those that are there may be published again', async () => {
    await create({ max_items: '1', publish_node_full: 'reject' })
    await publish('one')
    expect(await refused(publish('two'))).to.equal('conflict node-full')
    expect(await refused(publish('one'))).to.equal('accepted')
    await configure({ publish_node_full: 'discard-oldest' })
    expect(await refused(publish('two'))).to.equal('accepted')
  })

  it('§7.1.2.3: items come with their publisher when the node is configured so, however they are retrieved', async () => {
    await create({ itemreply: 'publisher', publish_model: 'open' })
    await subscribe()
    await set(juliet, `<publish node='news'><item id='one' publisher='romeo@localhost'><entry xmlns='${ATOM}'/></item></publish>`)
    expect((await told(juliet))[0]).to.contain('<item id="one" publisher="juliet@localhost">')
    const item = async (): Promise<Record<string, string | undefined> | undefined> => (await get(juliet, "<items node='news'/>")).getChild('pubsub', NS)?.getChild('items')?.getChild('item')?.attrs
    expect(await item()).to.deep.equal({ id: 'one', publisher: 'juliet@localhost' })
    await configure({ itemreply: 'none' })
    expect(await item()).to.deep.equal({ id: 'one' })
  })

  it('§8.1.3, §8.1.2, §8.3: a configuration follows the node that it is for; there are no collections', async () => {
    const config = form('node_config', { title: 'x' })
    expect(await refused(set(romeo, `<configure>${config}</configure><create node='a'/>`))).to.equal('bad-request')
    expect(await refused(set(romeo, `<create node='a'/><configure node='a'>${config}</configure>`))).to.equal('bad-request')
    expect(await refused(create({ node_type: 'collection' }))).to.equal('feature-not-implemented unsupported')
    expect(await refused(get(romeo, "<default type='collection'/>", SERVICE, OWNER))).to.equal('feature-not-implemented unsupported')
    expect(await refused(get(romeo, "<default type='leaf'/>", SERVICE, OWNER))).to.equal('accepted')
    expect(await refused(create({ node_type: 'leaf' }))).to.equal('accepted')
  })

  it('§8.4.2, §5.4: who waits to be let in hears that the node is deleted; the metadata name owners and publishers', async () => {
    await create({ access_model: 'authorize' })
    await subscribe()
    await set(romeo, "<affiliations node='news'><affiliation jid='nurse@localhost' affiliation='publisher'/></affiliations>", SERVICE, OWNER)
    const info = (await romeo.sendIq(`<iq type='get' to='${SERVICE}'><query xmlns='http://jabber.org/protocol/disco#info' node='news'/></iq>`)).getChild('query')
    expect(fieldsOf(info)).to.include({ owner: 'romeo@localhost', publisher: 'nurse@localhost' })
    await set(romeo, "<delete node='news'/>", SERVICE, OWNER)
    expect(await told(juliet)).to.deep.equal([`<delete node="news"/>`])
  })
})
