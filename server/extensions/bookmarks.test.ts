import { expect } from 'chai'
import { type Client, connect } from '../../lib/client/client.ts'
import type { Element } from '../../lib/xml/element.ts'
import { startTestServer, type TestServer } from '../test-server.ts'

const PUBSUB = 'http://jabber.org/protocol/pubsub'
const NS = 'urn:xmpp:bookmarks:1'
const LEGACY = 'storage:bookmarks'
const OPTIONS = `<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE' type='hidden'><value>${PUBSUB}#publish-options</value></field>${Object.entries({ persist_items: 'true', max_items: 'max', send_last_published_item: 'never', access_model: 'whitelist' })
  .map(([name, value]) => `<field var='pubsub#${name}'><value>${value}</value></field>`).join('')}</x>`

describe('XEP-0402 and XEP-0411 bookmarks', () => {
  let tidings: TestServer
  let romeo: Client
  let juliet: Client

  async function login(user: string): Promise<Client> {
    return connect({ host: tidings.host, port: tidings.port, domain: tidings.domain, tls: 'none', user, password: 'secret', resource: 'a' })
  }
  const set = (inner: string): Promise<Element> => romeo.sendIq(`<iq type='set'><pubsub xmlns='${PUBSUB}'>${inner}</pubsub></iq>`)
  async function items(node: string, asker = romeo): Promise<Element[]> {
    const answer = await asker.sendIq(`<iq type='get' to='romeo@localhost'><pubsub xmlns='${PUBSUB}'><items node='${node}'/></pubsub></iq>`)
    return answer.getChild('pubsub', PUBSUB)?.getChild('items')?.getChildren('item') ?? []
  }
  const publish = (room: string, attrs: string, inner = ''): Promise<Element> => set(`<publish node='${NS}'><item id='${room}'><conference xmlns='${NS}' ${attrs}>${inner}</conference></item></publish><publish-options>${OPTIONS}</publish-options>`)
  const writePrivate = (inner: string): Promise<Element> => romeo.sendIq(`<iq type='set'><query xmlns='jabber:iq:private'><storage xmlns='${LEGACY}'>${inner}</storage></query></iq>`)
  const readPrivate = async (): Promise<Element[]> => (await romeo.sendIq(`<iq type='get'><query xmlns='jabber:iq:private'><storage xmlns='${LEGACY}'/></query></iq>`)).getChild('query')?.getChild('storage')?.getChildElements() ?? []
  const legacyNode = async (): Promise<Element[]> => (await items(LEGACY))[0]?.getChild('storage')?.getChildElements() ?? []
  const rooms = (conferences: readonly Element[]): (string | undefined)[] => conferences.filter((each) => each.getName() === 'conference').map(({ attrs }) => `${attrs['jid']} ${attrs['name']} ${attrs['autojoin']}`)
  async function refused(request: Promise<unknown>): Promise<string> {
    return request.then(() => 'accepted', (error: Error) => error.message)
  }

  beforeEach(async () => {
    tidings = await startTestServer({ accounts: { romeo: 'secret', juliet: 'secret' } })
    romeo = await login('romeo')
    juliet = await login('juliet')
  })
  afterEach(async () => {
    romeo.destroy()
    juliet.destroy()
    await tidings[Symbol.asyncDispose]()
  })

  it('what is published by XEP-0402 is in private storage and in the node of XEP-0048', async () => {
    await publish('play@rooms.example', "name='The Play' autojoin='1'", '<nick>JC</nick>')
    await publish('orchard@rooms.example', "name='The Orchard'")
    const wanted = ['play@rooms.example The Play true', 'orchard@rooms.example The Orchard false']
    expect(rooms(await readPrivate())).to.deep.equal(wanted)
    expect(rooms(await legacyNode())).to.deep.equal(wanted)
    expect((await readPrivate())[0]?.getChildText('nick')).to.equal('JC')
    await set(`<retract node='${NS}' notify='true'><item id='play@rooms.example'/></retract>`)
    expect(rooms(await readPrivate())).to.deep.equal(wanted.slice(1))
    expect(rooms(await legacyNode())).to.deep.equal(wanted.slice(1))
  })

  it('what is written to private storage is in both nodes; what it cannot say stays', async () => {
    await publish('play@rooms.example', "name='The Play'", "<extensions><state xmlns='urn:client' minimized='true'/></extensions>")
    await writePrivate("<conference jid='play@rooms.example' name='A Play' autojoin='true'/><conference jid='new@rooms.example' name='New'/><url name='Home' url='https://example.net/'/>")
    const found = await items(NS)
    expect(found.map(({ attrs }) => attrs['id'])).to.have.members(['play@rooms.example', 'new@rooms.example'])
    const play = found.find(({ attrs }) => attrs['id'] === 'play@rooms.example')?.getChild('conference', NS)
    expect(play?.attrs).to.include({ name: 'A Play', autojoin: 'true' })
    expect(play?.getChild('extensions')?.getChild('state', 'urn:client')?.attrs['minimized']).to.equal('true')
    expect(rooms(await legacyNode())).to.have.members(['play@rooms.example A Play true', 'new@rooms.example New undefined'])
    expect((await readPrivate()).filter((each) => each.getName() === 'url').map(({ attrs }) => attrs['url'])).to.deep.equal(['https://example.net/'])
    await writePrivate("<conference jid='new@rooms.example' name='New'/>")
    expect((await items(NS)).map(({ attrs }) => attrs['id'])).to.deep.equal(['new@rooms.example'])
  })

  it('what is published to the node of XEP-0048 is in the other node and in private storage', async () => {
    await set(`<publish node='${LEGACY}'><item id='current'><storage xmlns='${LEGACY}'><conference jid='play@rooms.example' name='The Play' autojoin='true'><nick>JC</nick><password>secret</password></conference></storage></item></publish>`)
    const [item] = await items(NS)
    expect(item?.attrs['id']).to.equal('play@rooms.example')
    expect(item?.getChild('conference', NS)?.getChildText('password')).to.equal('secret')
    expect(rooms(await readPrivate())).to.deep.equal(['play@rooms.example The Play true'])
  })

  it('§6 of XEP-0411: nobody else reads what was converted', async () => {
    await writePrivate("<conference jid='play@rooms.example' name='The Play'/>")
    expect(await refused(items(NS, juliet))).to.equal('not-allowed')
    expect(await refused(items(LEGACY, juliet))).to.equal('not-allowed')
  })

  it('XEP-0411 §4: bookmarks from before there were nodes are in them when the client comes', async () => {
    tidings.server.storage.records.put('private', ['romeo@localhost', LEGACY, 'storage'], `<storage xmlns='${LEGACY}'><conference jid='old@rooms.example' name='Old'/></storage>`)
    romeo.destroy()
    romeo = await login('romeo')
    expect((await items(NS)).map(({ attrs }) => attrs['id'])).to.deep.equal(['old@rooms.example'])
  })

  it('the account says so', async () => {
    const info = await romeo.sendIq("<iq type='get' to='romeo@localhost'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>")
    expect(info.getChild('query')?.getChildren('feature').map(({ attrs }) => attrs['var'])).to.include.members(['urn:xmpp:bookmarks-conversion:0', `${NS}#compat`, `${NS}#compat-pep`, 'urn:xmpp:pep-vcard-conversion:0', 'urn:xmpp:mds:server-assist:0'])
  })
})
