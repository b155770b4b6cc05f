/** Two and three servers that share their accounts: what users of different nodes see of each other. */
import { createHash } from 'node:crypto'
import { expect } from 'chai'
import { type Client, connect, type ConnectOptions } from '../../lib/client/client.ts'
import type { Element } from '../../lib/xml/element.ts'
import { startTestServer, TEST_CONFIG, type TestServer } from '../test-server.ts'
import { framesOf } from './frames.ts'
import { joinNode, newWorld, stopNode, type TestNode } from './nodes.fixture.ts'
import { SharedNodes, type SharedNode } from './shared-units.fixture.ts'

interface Site {
  readonly inc: string
  readonly site: TestServer
}

/** What keeps the nodes together. */
interface Together {
  join(name: string): Promise<Site>
  /** The incarnation of a unit's home. */
  homeOf(unit: string): string | undefined
  /** Ends a node as a kill would. */
  kill(site: Site): void
  /** The node gives up the unit, which nobody uses. */
  release(site: Site, unit: string): Promise<void>
  /** Stops a node in good order. */
  stop(site: Site): Promise<void>
}

const CONFIG = TEST_CONFIG.replace('  mod_bosh: {}\n', '').replace('mod_mam: { default: always }', 'mod_mam: { default: always }\n  mod_muc: {}')
const SECRET = Buffer.from('known to all')

/** One storage for all, in which everything is at once what it is. */
function sharedNodes(): Together {
  const all = new SharedNodes()
  const nodes = new Map<string, SharedNode>()
  return {
    async join(name) {
      const node = all.join(name)
      nodes.set(node.inc, node)
      return { inc: node.inc, site: await startTestServer({ storage: node.storage, config: CONFIG, cluster: { units: node, secret: SECRET } }) }
    },
    homeOf: (unit) => all.homes.get(unit),
    kill({ inc }) { all.kill(nodes.get(inc) as SharedNode) },
    async release({ inc }, unit) { nodes.get(inc)?.release(unit) },
    async stop({ site }) { await site[Symbol.asyncDispose]() },
  }
}

/** Each with a storage of its own, as several machines. */
function clusterStorages(): Together {
  const world = newWorld()
  const nodes = new Map<string, TestNode>()
  const killed = new Set<string>()
  return {
    async join(name) {
      const node = joinNode(world, name, { framesOf, idleMs: 300 })
      nodes.set(node.inc, node)
      return { inc: node.inc, site: await startTestServer({ storage: node.storage, config: CONFIG, cluster: { units: node.storage, secret: SECRET } }) }
    },
    homeOf(unit) {
      const inc = world.cluster.homes.get(unit)
      return inc === undefined || killed.has(inc) ? undefined : inc
    },
    kill({ inc }) {
      killed.add(inc)
      world.cluster.kill(inc)
    },
    async release(_site, unit) { await until(() => (world.cluster.homes.get(unit) === undefined ? true : undefined)) },
    async stop({ inc, site }) {
      const node = nodes.get(inc) as TestNode
      // A process that is killed would not be there; here it has to be told.
      if (killed.has(inc)) node.membership.lose()
      await site[Symbol.asyncDispose]()
      if (!killed.has(inc)) await stopNode(node, world)
    },
  }
}

testServers('one storage', sharedNodes)
testServers('storages of their own', clusterStorages)

function testServers(name: string, bringTogether: () => Together): void {
describe(`servers of one cluster over ${name}`, () => {
  let all: Together
  let sites: Site[]
  let clients: Client[]

  beforeEach(async () => {
    all = bringTogether()
    sites = []
    clients = []
    for (const each of ['a', 'b', 'c']) sites.push(await all.join(each))
    // Accounts are made at the first node and are at home nowhere.
    for (const user of ['romeo', 'juliet', 'mercutio']) await at(0).site.server.register(`${user}@localhost`, 'secret')
    for (const user of ['romeo', 'juliet', 'mercutio']) await all.release(at(0), `${user}@localhost`)
  })
  afterEach(async () => {
    for (const client of clients) client.destroy()
    for (const site of sites) await all.stop(site)
  })

  function at(index: number): Site { return sites[index] as Site }

  async function login(index: number, user: string, options: Partial<ConnectOptions> & { readonly presence?: string } = {}): Promise<Client> {
    const { site } = at(index)
    const client = await connect({ host: site.host, port: site.port, domain: 'localhost', tls: 'none', user, password: 'secret', resource: 'r', ...options })
    clients.push(client)
    if (options.presence !== '') {
      client.send(options.presence ?? '<presence/>')
      await client.receive((element) => element.getName() === 'presence' && element.attrs['from'] === `${user}@localhost/${client.jid.split('/')[1]}`)
    }
    return client
  }

  const message = (id: string) => (element: Element): boolean => element.getName() === 'message' && element.attrs['id'] === id
  const presence = (from: string, type?: string) => (element: Element): boolean => element.getName() === 'presence' && element.attrs['from'] === from && element.attrs['type'] === type
  const stanzaId = (element: Element, by: string): string | undefined => element.getChildren('stanza-id').find((each) => each.attrs['by'] === by)?.attrs['id']

  async function history(client: Client): Promise<{ id: string; text: string }[]> {
    const found: { id: string; text: string }[] = []
    const stop = client.on((stanza) => {
      const result = stanza.name === 'message' ? stanza.element().getChild('result') : undefined
      const body = result?.getChild('forwarded')?.getChild('message')?.getChildText('body')
      if (result !== undefined && typeof body === 'string') found.push({ id: result.attrs['id'] as string, text: body })
    })
    await client.sendIq("<iq type='set'><query xmlns='urn:xmpp:mam:2'/></iq>")
    stop()
    return found
  }

  async function befriend(one: Client, other: Client): Promise<void> {
    const bare = (client: Client): string => client.jid.split('/')[0] as string
    one.send(`<presence type='subscribe' to='${bare(other)}'/>`)
    await other.receive(presence(bare(one), 'subscribe'))
    other.send(`<presence type='subscribed' to='${bare(one)}'/><presence type='subscribe' to='${bare(one)}'/>`)
    await one.receive(presence(bare(other), 'subscribed'))
    await one.receive(presence(bare(other), 'subscribe'))
    one.send(`<presence type='subscribed' to='${bare(other)}'/>`)
    await other.receive(presence(bare(one), 'subscribed'))
    await other.receive(presence(one.jid))
    await one.receive(presence(other.jid))
  }

  it('carry messages both ways, in order, and both archives have them under the same ids', async () => {
    const romeo = await login(0, 'romeo')
    const juliet = await login(1, 'juliet')
    for (let i = 0; i < 20; i++) romeo.send(`<message type='chat' id='m${i}' to='juliet@localhost'><body>${i}</body></message>`)
    const order: string[] = []
    for (let i = 0; i < 20; i++) order.push((await juliet.receive((element) => element.getName() === 'message')).attrs['id'] as string)
    expect(order).to.deep.equal(Array.from({ length: 20 }, (_, i) => `m${i}`))
    juliet.send(`<message type='chat' id='back' to='${romeo.jid}'><body>back</body></message>`)
    await romeo.receive(message('back'))
    const [his, hers] = [await history(romeo), await history(juliet)]
    expect(his.map(({ text }) => text)).to.deep.equal([...Array.from({ length: 20 }, (_, i) => String(i)), 'back'])
    expect(hers).to.deep.equal(his)
  })

  it('give a message an id in the order of the archive it comes to, whatever its sender\'s clock says', async () => {
    const romeo = await login(0, 'romeo')
    const juliet = await login(1, 'juliet')
    await login(1, 'mercutio', { presence: '' }).then((mercutio) => mercutio.send("<message type='chat' id='first' to='juliet@localhost'><body>first</body></message>"))
    const first = stanzaId(await juliet.receive(message('first')), 'juliet@localhost') as string
    romeo.send("<message type='chat' id='second' to='juliet@localhost'><body>second</body></message>")
    const second = stanzaId(await juliet.receive(message('second')), 'juliet@localhost') as string
    expect(second > first).to.equal(true)
  })

  it('answer with the error that the recipient\'s home gives', async () => {
    const romeo = await login(0, 'romeo')
    await login(1, 'juliet')
    romeo.send("<message type='normal' id='e' to='juliet@localhost/nowhere'><body>?</body></message>")
    const error = await romeo.receive(message('e'))
    expect([error.attrs['type'], error.attrs['from'], error.getChild('error')?.getChild('service-unavailable') !== undefined]).to.deep.equal(['error', 'juliet@localhost/nowhere', true])
    romeo.send("<message type='chat' id='n' to='nobody@localhost'><body>?</body></message>")
    expect((await romeo.receive(message('n'))).attrs['type']).to.equal('error')
  })

  it('copy what was sent and received to the other clients of both sides (XEP-0280)', async () => {
    const romeo = await login(0, 'romeo')
    const desk = await login(0, 'romeo', { resource: 'desk' })
    const juliet = await login(1, 'juliet')
    const phone = await login(1, 'juliet', { resource: 'phone' })
    for (const client of [desk, phone]) await client.sendIq("<iq type='set'><enable xmlns='urn:xmpp:carbons:2'/></iq>")
    romeo.send(`<message type='chat' id='c' to='${juliet.jid}'><body>Hi</body></message>`)
    await juliet.receive(message('c'))
    const sent = await desk.receive((element) => element.getChild('sent') !== undefined)
    const received = await phone.receive((element) => element.getChild('received') !== undefined)
    const inside = (copy: Element, kind: string): Element => copy.getChild(kind)?.getChild('forwarded')?.getChild('message') as Element
    expect([stanzaId(inside(sent, 'sent'), 'romeo@localhost'), stanzaId(inside(sent, 'sent'), 'juliet@localhost')]).to.deep.equal([(await history(romeo))[0]?.id, undefined])
    expect(stanzaId(inside(received, 'received'), 'juliet@localhost')).to.equal((await history(juliet))[0]?.id)
  })

  it('keep what is for somebody who is away, once, and send it when they come', async () => {
    const romeo = await login(0, 'romeo', { sm: true })
    romeo.send("<message type='chat' id='o' to='juliet@localhost'><body>later</body></message>")
    await romeo.requestAck()
    const home = await until(() => all.homeOf('juliet@localhost'))
    const juliet = await login(sites.findIndex(({ inc }) => inc === home), 'juliet')
    const late = await juliet.receive(message('o'))
    expect(late.getChild('delay') !== undefined).to.equal(true)
  })

  it('carry IQs between clients and to accounts, and answers', async () => {
    const romeo = await login(0, 'romeo')
    const juliet = await login(1, 'juliet')
    const asked = juliet.receive((element) => element.getName() === 'iq' && element.attrs['type'] === 'get')
    const answer = romeo.sendIq(`<iq type='get' to='${juliet.jid}'><query xmlns='x:y'/></iq>`)
    const request = await asked
    expect(request.attrs['from']).to.equal(romeo.jid)
    juliet.send(`<iq type='result' id='${request.attrs['id']}' to='${romeo.jid}'><done xmlns='x:y'/></iq>`)
    expect((await answer).getChild('done') !== undefined).to.equal(true)
    await juliet.sendIq("<iq type='set'><vCard xmlns='vcard-temp'><FN>Juliet</FN></vCard></iq>")
    expect((await romeo.sendIq("<iq type='get' to='juliet@localhost'><vCard xmlns='vcard-temp'/></iq>")).getChild('vCard')?.getChildText('FN')).to.equal('Juliet')
    const refused = await romeo.sendIq("<iq type='get' to='juliet@localhost/none'><query xmlns='x:y'/></iq>").catch((error: unknown) => error)
    expect((refused as { condition: string }).condition).to.equal('service-unavailable')
  })

  it('tell the node that asked what a client answers to the server itself', async () => {
    const juliet = await login(1, 'juliet', { presence: '' })
    const asked = juliet.receive((element) => element.getName() === 'iq' && element.getChild('question') !== undefined)
    const host = at(0).site.server.hosts.get('localhost')
    const { stanzaOf } = await import('../../lib/stanza/stanza.ts')
    const { xml } = await import('../../lib/xml/element.ts')
    const answer = host?.iq.request(stanzaOf('iq', { type: 'get', from: 'localhost', to: juliet.jid }, xml('question', { xmlns: 'x:y' })), 3000)
    juliet.send(`<iq type='result' id='${(await asked).attrs['id']}' to='localhost'/>`)
    expect((await answer)?.type).to.equal('result')
  })

  it('show who is there, who goes, and what somebody else was told of it (RFC 6121)', async () => {
    const romeo = await login(0, 'romeo')
    const juliet = await login(1, 'juliet')
    await befriend(romeo, juliet)
    juliet.send('<presence><show>away</show></presence>')
    expect((await romeo.receive(presence(juliet.jid))).getChildText('show')).to.equal('away')
    const phone = await login(0, 'romeo', { resource: 'phone' })
    expect((await phone.receive(presence(juliet.jid))).getChildText('show')).to.equal('away')
    await juliet.receive(presence(phone.jid))
    await juliet.disconnect()
    await romeo.receive(presence('juliet@localhost/r', 'unavailable'))
    const back = await login(1, 'juliet')
    await back.receive(presence(romeo.jid))
    await back.receive(presence(phone.jid))
    back.send("<presence type='unsubscribed' to='romeo@localhost'/>")
    await romeo.receive(presence('juliet@localhost', 'unsubscribed'))
  })

  it('take back directed presence (RFC 6121 §4.6)', async () => {
    const romeo = await login(0, 'romeo')
    const mercutio = await login(1, 'mercutio')
    romeo.send(`<presence to='${mercutio.jid}'/>`)
    await mercutio.receive(presence(romeo.jid))
    await romeo.disconnect()
    await mercutio.receive(presence('romeo@localhost/r', 'unavailable'))
  })

  it('keep out whom somebody blocks, on either side (XEP-0191)', async () => {
    const romeo = await login(0, 'romeo')
    const juliet = await login(1, 'juliet')
    await befriend(romeo, juliet)
    await juliet.sendIq("<iq type='set'><block xmlns='urn:xmpp:blocking'><item jid='romeo@localhost'/></block></iq>")
    await romeo.receive(presence(juliet.jid, 'unavailable'))
    romeo.send("<message type='chat' id='b' to='juliet@localhost'><body>?</body></message>")
    const error = await romeo.receive(message('b'))
    expect([error.attrs['type'], error.getChild('error')?.getChild('service-unavailable') !== undefined]).to.deep.equal(['error', true])
    juliet.send("<message type='chat' id='own' to='romeo@localhost'><body>?</body></message>")
    expect((await juliet.receive(message('own'))).getChild('error')?.getChild('not-acceptable') !== undefined).to.equal(true)
    const heard: string[] = []
    juliet.on((stanza) => { if (stanza.name === 'presence') heard.push(stanza.from ?? '') })
    romeo.send('<presence><show>dnd</show></presence>')
    await romeo.ping()
    await new Promise((resolve) => { setTimeout(resolve, 30) })
    await juliet.ping()
    expect(heard.filter((from) => from.startsWith('romeo'))).to.deep.equal([])
  })

  it('notify contacts of what a user publishes (XEP-0163)', async () => {
    const caps = "<presence><c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='urn:x' ver='QgayPKawpkPSDYmwT/WM94uAlu0='/></presence>"
    const romeo = await login(0, 'romeo')
    const juliet = await login(1, 'juliet')
    await befriend(romeo, juliet)
    romeo.on((stanza) => {
      if (stanza.name !== 'iq' || stanza.type !== 'get') return
      const query = stanza.element().getChild('query')
      romeo.send(`<iq type='result' id='${stanza.id}' to='${stanza.from}'><query xmlns='http://jabber.org/protocol/disco#info' node='${query?.attrs['node']}'><identity category='client' type='pc' name='Exodus 0.9.1'/><feature var='http://jabber.org/protocol/caps'/><feature var='http://jabber.org/protocol/disco#info'/><feature var='http://jabber.org/protocol/disco#items'/><feature var='http://jabber.org/protocol/muc'/><feature var='urn:mood+notify'/></query></iq>`)
    })
    romeo.send(caps.replace('QgayPKawpkPSDYmwT/WM94uAlu0=', versionWithMood()))
    await juliet.receive(presence(romeo.jid))
    await new Promise((resolve) => { setTimeout(resolve, 50) })
    await juliet.sendIq("<iq type='set'><pubsub xmlns='http://jabber.org/protocol/pubsub'><publish node='urn:mood'><item id='current'><mood xmlns='urn:mood'/></item></publish></pubsub></iq>")
    const event = await romeo.receive((element) => element.getName() === 'message' && element.getChild('event') !== undefined)
    expect(event.attrs['from']).to.equal('juliet@localhost')
  })

  it('notify who sees the presence of a user who does not see theirs (XEP-0163 §4.3.4)', async () => {
    const romeo = await login(0, 'romeo')
    romeo.on((stanza) => {
      if (stanza.name !== 'iq' || stanza.type !== 'get') return
      const query = stanza.element().getChild('query')
      romeo.send(`<iq type='result' id='${stanza.id}' to='${stanza.from}'><query xmlns='http://jabber.org/protocol/disco#info' node='${query?.attrs['node']}'><identity category='client' type='pc' name='Exodus 0.9.1'/><feature var='http://jabber.org/protocol/caps'/><feature var='http://jabber.org/protocol/disco#info'/><feature var='http://jabber.org/protocol/disco#items'/><feature var='http://jabber.org/protocol/muc'/><feature var='urn:mood+notify'/></query></iq>`)
    })
    romeo.send(`<presence><c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='urn:x' ver='${versionWithMood()}'/></presence>`)
    const juliet = await login(1, 'juliet')
    romeo.send("<presence type='subscribe' to='juliet@localhost'/>")
    await juliet.receive(presence('romeo@localhost', 'subscribe'))
    juliet.send("<presence type='subscribed' to='romeo@localhost'/>")
    await romeo.receive(presence(juliet.jid))
    const publish = (client: Client, id: string): Promise<Element> => client.sendIq(`<iq type='set'><pubsub xmlns='http://jabber.org/protocol/pubsub'><publish node='urn:mood'><item id='${id}'><mood xmlns='urn:mood'/></item></publish></pubsub></iq>`)
    const event = (id: string) => (element: Element): boolean => element.getName() === 'message' && element.getChild('event')?.getChild('items')?.getChild('item')?.attrs['id'] === id
    await new Promise((resolve) => { setTimeout(resolve, 100) })
    await publish(juliet, 'one')
    await romeo.receive(event('one'))
    // She goes and comes back, while he stays: what she published last, and publishes then, comes again.
    await juliet.disconnect()
    await romeo.receive(presence('juliet@localhost/r', 'unavailable'))
    const back = await login(1, 'juliet')
    await romeo.receive(presence(back.jid))
    await new Promise((resolve) => { setTimeout(resolve, 100) })
    await publish(back, 'two')
    await romeo.receive(event('two'))
  })

  async function enter(client: Client, nick: string): Promise<void> {
    client.send(`<presence to='coven@conference.localhost/${nick}'><x xmlns='http://jabber.org/protocol/muc'/></presence>`)
    await client.receive((element) => element.getName() === 'presence' && element.attrs['from'] === `coven@conference.localhost/${nick}` && element.attrs['to'] === client.jid)
    await client.receive((element) => element.getName() === 'message' && element.getChild('subject') !== undefined)
  }

  /** A room of romeo's, in which he and juliet are, at this node; another node's clients follow. */
  async function openRoom(romeo: Client): Promise<void> {
    await enter(romeo, 'romeo')
    await romeo.sendIq("<iq type='set' to='coven@conference.localhost'><query xmlns='http://jabber.org/protocol/muc#owner'><x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>http://jabber.org/protocol/muc#roomconfig</value></field><field var='muc#roomconfig_persistentroom'><value>1</value></field></x></query></iq>")
  }

  const inRoom = (nick: string, type?: string) => presence(`coven@conference.localhost/${nick}`, type)
  const said = (text: string) => (element: Element): boolean => element.getName() === 'message' && element.attrs['type'] === 'groupchat' && element.getChildText('body') === text

  it('have rooms of which the occupants are at different nodes (XEP-0045)', async () => {
    const romeo = await login(0, 'romeo')
    await openRoom(romeo)
    const juliet = await login(1, 'juliet')
    await enter(juliet, 'juliet')
    await romeo.receive(inRoom('juliet'))
    const mercutio = await login(2, 'mercutio')
    await enter(mercutio, 'mercutio')
    await juliet.receive(inRoom('mercutio'))
    for (const [client, text] of [[romeo, 'one'], [juliet, 'two'], [mercutio, 'three']] as const) {
      client.send(`<message type='groupchat' to='coven@conference.localhost'><body>${text}</body></message>`)
      for (const each of [romeo, juliet, mercutio]) await each.receive(said(text))
    }
    romeo.send("<message type='chat' id='pm' to='coven@conference.localhost/juliet'><body>psst</body></message>")
    expect((await juliet.receive(message('pm'))).attrs['from']).to.equal('coven@conference.localhost/romeo')
    // Under a new nickname, and gone with its session.
    juliet.send("<presence to='coven@conference.localhost/jule'/>")
    await romeo.receive(inRoom('jule'))
    await juliet.receive(inRoom('jule'))
    await juliet.disconnect()
    await romeo.receive(inRoom('jule', 'unavailable'))
    await mercutio.receive(inRoom('jule', 'unavailable'))
  })

  it('have rooms that go on elsewhere with those who are in them when their node dies, and without those who died with it', async () => {
    const juliet = await login(1, 'juliet', { sm: true })
    await enter(juliet, 'juliet')
    await juliet.sendIq("<iq type='set' to='coven@conference.localhost'><query xmlns='http://jabber.org/protocol/muc#owner'><x xmlns='jabber:x:data' type='submit'/></query></iq>")
    const home = await until(() => all.homeOf('coven@conference.localhost'))
    const dying = sites.findIndex(({ inc }) => inc === home)
    const others = [0, 1, 2].filter((index) => index !== dying)
    const romeo = await login(others[0] as number, 'romeo')
    await enter(romeo, 'romeo')
    const mercutio = await login(dying, 'mercutio')
    await enter(mercutio, 'mercutio')
    await romeo.receive(inRoom('mercutio'))
    const state = juliet.resumeState()
    juliet.destroy()
    all.kill(at(dying))
    romeo.send("<message type='groupchat' to='coven@conference.localhost'><body>still here</body></message>")
    await romeo.receive(said('still here'))
    await romeo.receive(inRoom('mercutio', 'unavailable'))
    const where = all.homeOf('juliet@localhost')
    const back = await login(where === undefined ? others[1] as number : sites.findIndex(({ inc }) => inc === where), 'juliet', { resume: state, presence: '' })
    expect(back.resumed).to.equal(true)
    back.send("<message type='groupchat' to='coven@conference.localhost'><body>me too</body></message>")
    await romeo.receive(said('me too'))
    await back.receive(said('me too'))
  })

  it('have rooms whose node died back at once, though nobody speaks: who died with it is announced', async () => {
    const juliet = await login(1, 'juliet')
    await enter(juliet, 'juliet')
    await juliet.sendIq("<iq type='set' to='coven@conference.localhost'><query xmlns='http://jabber.org/protocol/muc#owner'><x xmlns='jabber:x:data' type='submit'/></query></iq>")
    const home = await until(() => all.homeOf('coven@conference.localhost'))
    const dying = sites.findIndex(({ inc }) => inc === home)
    const others = [0, 1, 2].filter((index) => index !== dying)
    const romeo = await login(others.find((index) => index !== 1) as number, 'romeo')
    await enter(romeo, 'romeo')
    const mercutio = await login(dying, 'mercutio')
    await enter(mercutio, 'mercutio')
    await romeo.receive(inRoom('mercutio'))
    all.kill(at(dying))
    await romeo.receive(inRoom('mercutio', 'unavailable'))
    expect(all.homeOf('coven@conference.localhost')).not.to.be.oneOf([undefined, home])
  })

  it('give up nothing that was acknowledged when a node dies: its users resume at another, and hear what came meanwhile', async () => {
    const romeo = await login(0, 'romeo', { sm: true })
    const juliet = await login(1, 'juliet', { sm: true })
    await befriend(romeo, juliet)
    const state = juliet.resumeState()
    juliet.destroy()
    romeo.send("<message type='chat' id='1' to='juliet@localhost'><body>1</body></message>")
    await romeo.requestAck()
    all.kill(at(1))
    romeo.send("<message type='chat' id='2' to='juliet@localhost'><body>2</body></message>")
    await romeo.requestAck()
    const home = await until(() => all.homeOf('juliet@localhost'))
    const back = await login(sites.findIndex(({ inc }) => inc === home), 'juliet', { resume: state, presence: '' })
    expect(back.resumed).to.equal(true)
    expect([(await back.receive((element) => element.getName() === 'message')).attrs['id'], (await back.receive((element) => element.getName() === 'message')).attrs['id']]).to.deep.equal(['1', '2'])
    expect((await history(back)).map(({ text }) => text)).to.deep.equal(['1', '2'])
  })

  it('tell contacts that those who were at a node that died are gone, and that they are back', async () => {
    const romeo = await login(0, 'romeo')
    const juliet = await login(1, 'juliet')
    await befriend(romeo, juliet)
    all.kill(at(1))
    await romeo.receive(presence('juliet@localhost', 'unavailable'))
    const back = await login(2, 'juliet')
    await romeo.receive(presence(back.jid))
    await back.receive(presence(romeo.jid))
  })

  it('lose and double nothing when a node stops in good order: its users resume elsewhere, its rooms are elsewhere', async () => {
    const juliet = await login(1, 'juliet', { sm: true })
    await openRoom(juliet)
    const home = await until(() => all.homeOf('coven@conference.localhost'))
    const leaving = sites.findIndex(({ inc }) => inc === all.homeOf('juliet@localhost'))
    const others = [0, 1, 2].filter((index) => index !== leaving)
    const romeo = await login(others[0] as number, 'romeo', { sm: true })
    await enter(romeo, 'other')
    const state = juliet.resumeState()
    juliet.destroy()
    let sent = 0
    const send = (): void => {
      romeo.send(`<message type='chat' id='s${sent}' to='juliet@localhost'><body>${sent}</body></message>`)
      romeo.send(`<message type='groupchat' id='g${sent}' to='coven@conference.localhost'><body>g${sent++}</body></message>`)
    }
    const timer = setInterval(send, 2)
    try {
      await until(() => (sent > 20 ? true : undefined))
      await all.stop(at(leaving))
      await until(() => (sent > 200 ? true : undefined))
    } finally {
      clearInterval(timer)
    }
    await romeo.requestAck()
    expect(await until(() => all.homeOf('juliet@localhost'))).to.not.equal(at(leaving).inc)
    expect(at(leaving).inc === home ? await until(() => all.homeOf('coven@conference.localhost')) : undefined).to.not.equal(home)
    const where = sites.findIndex(({ inc }) => inc === all.homeOf('juliet@localhost'))
    const back = await login(where, 'juliet', { resume: state, presence: '' })
    expect(back.resumed).to.equal(true)
    const got: string[] = []
    const inOrder: string[] = []
    while (inOrder.length < sent || got.length < sent) {
      const { id = '' } = (await back.receive((element) => element.getName() === 'message')).attrs
      if (id.startsWith('s')) inOrder.push(id)
      else if (id.startsWith('g')) got.push(id)
    }
    expect(inOrder).to.deep.equal(Array.from({ length: sent }, (_, i) => `s${i}`))
    expect(got).to.deep.equal(Array.from({ length: sent }, (_, i) => `g${i}`))
    await back.ping()
    expect(back.inbox.filter(({ name }) => name === 'message')).to.deep.equal([])
    sites.splice(leaving, 1)
  })

  it('pass on what comes to a node that is not the home any more, in order', async () => {
    const romeo = await login(0, 'romeo')
    const juliet = await login(1, 'juliet')
    romeo.send("<message type='chat' id='at-b' to='juliet@localhost'><body>0</body></message>")
    await juliet.receive(message('at-b'))
    await juliet.disconnect()
    await all.release(at(1), 'juliet@localhost')
    const moved = await login(2, 'juliet')
    for (let i = 0; i < 30; i++) {
      romeo.send(`<message type='chat' id='p${i}' to='juliet@localhost'><body>${i}</body></message>`)
      if (i % 5 === 0) await romeo.ping()
    }
    const order: string[] = []
    for (let i = 0; i < 30; i++) order.push((await moved.receive((element) => element.getName() === 'message')).attrs['id'] as string)
    expect(order).to.deep.equal(Array.from({ length: 30 }, (_, i) => `p${i}`))
  })
})
}

/** The version of the capabilities in the test (XEP-0115 §5.1). */
function versionWithMood(): string {
  const text = 'client/pc//Exodus 0.9.1<http://jabber.org/protocol/caps<http://jabber.org/protocol/disco#info<http://jabber.org/protocol/disco#items<http://jabber.org/protocol/muc<urn:mood+notify<'
  return createHash('sha1').update(text).digest('base64')
}

async function until<Value>(find: () => Value | undefined): Promise<Value> {
  for (let i = 0; i < 2000; i++) {
    const value = find()
    if (value !== undefined) return value
    await new Promise((resolve) => { setTimeout(resolve, 10) })
  }
  throw new Error('it never came')
}
