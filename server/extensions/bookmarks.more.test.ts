import { expect } from 'chai'
import type { Client } from '../../lib/client/client.ts'
import type { Element } from '../../lib/xml/element.ts'
import { startTestServer, type TestServer } from '../test-server.ts'
import { accountFeatures, eventOf, items, logIn, publish, retract } from './personal-clients.ts'

const NATIVE = 'urn:xmpp:bookmarks:1'
const LIST = 'storage:bookmarks'
const OPTIONS = { persist_items: 'true', max_items: 'max', send_last_published_item: 'never', access_model: 'whitelist' }
const PLAY = 'theplay@conference.example.org'
const ORCHARD = 'orchard@conference.example.org'

const native = (room: string, inner: string, attrs = ''): string => `<item id='${room}'><conference xmlns='${NATIVE}' ${attrs}>${inner}</conference></item>`
const list = (inner: string): string => `<storage xmlns='${LIST}'>${inner}</storage>`
const setPrivate = (client: Client, inner: string): Promise<Element> => client.sendIq(`<iq type='set'><query xmlns='jabber:iq:private'>${list(inner)}</query></iq>`)
async function getPrivate(client: Client): Promise<Element> {
  const answer = await client.sendIq(`<iq type='get'><query xmlns='jabber:iq:private'>${list('')}</query></iq>`)
  return answer.getChild('query', 'jabber:iq:private')?.getChild('storage', LIST) as Element
}
const roomsOf = (storage: Element | undefined): (string | undefined)[] => storage?.getChildren('conference', LIST).map(({ attrs }) => attrs['jid']) ?? []
const idsOf = async (client: Client): Promise<(string | undefined)[]> => (await items(client, NATIVE)).map(({ attrs }) => attrs['id'])
async function getList(client: Client): Promise<Element> {
  const [item, ...more] = await items(client, LIST)
  expect(more).to.deep.equal([])
  return item?.getChild('storage', LIST) as Element
}

describe('XEP-0402, XEP-0411 and XEP-0048 bookmarks on the wire', () => {
  let tidings: TestServer
  let juliet: Client
  let other: Client

  beforeEach(async () => {
    tidings = await startTestServer({ accounts: { juliet: 'secret', romeo: 'secret' } })
    juliet = await logIn(tidings, 'juliet', 'a')
    other = await logIn(tidings, 'juliet', 'b', [NATIVE, LIST])
  })
  afterEach(async () => {
    for (const client of [juliet, other]) client.destroy()
    await tidings[Symbol.asyncDispose]()
  })

  /** The events of both nodes that came up to now, as node and what it tells. */
  async function events(): Promise<string[]> {
    await juliet.ping()
    await other.ping()
    const found = other.inbox.splice(0).flatMap((stanza) => stanza.element().getChild('event', 'http://jabber.org/protocol/pubsub#event')?.getChild('items') ?? [])
    return found.flatMap((each) => each.getChildElements().map((child) => `${each.attrs['node']} ${child.getName()} ${child.attrs['id']}`))
  }

  it('XEP-0402 §6, XEP-0411 §2: says that it converts, on the account', async () => {
    expect(await accountFeatures(juliet)).to.include.members([`${NATIVE}#compat`, `${NATIVE}#compat-pep`, 'urn:xmpp:bookmarks-conversion:0'])
  })

  it('XEP-0402 §5.3.1: an item is in private storage and in the list, with all that it holds', async () => {
    const extensions = "<extensions><state xmlns='http://myclient.example/bookmark/state' minimized='true'/></extensions>"
    await publish(juliet, NATIVE, native(PLAY, `<nick>JC</nick><password>pw</password>${extensions}`, "name='The Play&apos;s the Thing' autojoin='true'"), OPTIONS)
    for (const storage of [await getPrivate(juliet), await getList(juliet)]) {
      const [room] = storage.getChildren('conference', LIST)
      expect(room?.attrs).to.include({ jid: PLAY, name: "The Play's the Thing", autojoin: 'true' })
      expect(room?.getChildText('nick', LIST)).to.equal('JC')
      expect(room?.getChildText('password', LIST)).to.equal('pw')
      expect(room?.getChild('extensions', LIST)?.getChild('state', 'http://myclient.example/bookmark/state')?.attrs['minimized']).to.equal('true')
    }
    expect(await events()).to.deep.equal([`${NATIVE} item ${PLAY}`, `${LIST} item current`])
    await publish(juliet, NATIVE, native(ORCHARD, ''), OPTIONS)
    expect(roomsOf(await getPrivate(juliet))).to.deep.equal([PLAY, ORCHARD])
    await retract(juliet, NATIVE, PLAY)
    expect(roomsOf(await getPrivate(juliet))).to.deep.equal([ORCHARD])
    expect(roomsOf(await getList(juliet))).to.deep.equal([ORCHARD])
  })

  it('XEP-0402 §5.3.2: what has changed in private storage is published and retracted, and nothing else', async () => {
    await setPrivate(juliet, `<conference jid='${PLAY}' name='Play' autojoin='1'><nick>JC</nick></conference><conference jid='${ORCHARD}'/>`)
    expect((await events()).sort()).to.deep.equal([`${LIST} item current`, `${NATIVE} item ${ORCHARD}`, `${NATIVE} item ${PLAY}`])
    const [play] = await items(juliet, NATIVE)
    expect(play?.getChild('conference', NATIVE)?.attrs).to.include({ name: 'Play', autojoin: '1' }).and.not.have.property('jid')
    expect(play?.getChild('conference', NATIVE)?.getChildText('nick', NATIVE)).to.equal('JC')

    await setPrivate(juliet, `<conference autojoin='true' name='Play' jid='${PLAY}'>\n<nick>JC</nick></conference><conference jid='${ORCHARD}' name='Orchard'/>`)
    expect((await events()).sort()).to.deep.equal([`${LIST} item current`, `${NATIVE} item ${ORCHARD}`])
    await setPrivate(juliet, `<conference jid='${ORCHARD}' name='Orchard'/>`)
    expect((await events()).sort()).to.deep.equal([`${LIST} item current`, `${NATIVE} retract ${PLAY}`])
    expect(await idsOf(juliet)).to.deep.equal([ORCHARD])
  })

  it('XEP-0411 §3: the list in PEP and private storage are the same, whoever writes', async () => {
    await publish(juliet, LIST, `<item id='current'>${list(`<conference jid='${PLAY}'/>`)}</item>`)
    expect(roomsOf(await getPrivate(juliet))).to.deep.equal([PLAY])
    expect(await idsOf(juliet)).to.deep.equal([PLAY])
    await events()
    await setPrivate(juliet, `<conference jid='${ORCHARD}'/>`)
    expect(roomsOf((await eventOf(other, LIST)).getChild('item')?.getChild('storage', LIST))).to.deep.equal([ORCHARD])
    expect(roomsOf(await getList(juliet))).to.deep.equal([ORCHARD])
  })

  it('what only one form knows is kept when another is written', async () => {
    const state = "<state xmlns='urn:client:a'/>"
    await publish(juliet, NATIVE, native(PLAY, `<nick>JC</nick><extensions>${state}</extensions>`), OPTIONS)
    // An older client that does not know of extensions, and has something of its own.
    const page = "<url name='Works' url='https://example.org/'/>"
    await setPrivate(juliet, `<conference jid='${PLAY}' name='Play'><nick>JC</nick><mine xmlns='urn:client:b'/></conference>${page}`)
    const [item] = await items(juliet, NATIVE)
    const conference = item?.getChild('conference', NATIVE)
    expect(conference?.attrs['name']).to.equal('Play')
    expect(conference?.getChild('extensions', NATIVE)?.getChild('state', 'urn:client:a')).not.to.equal(undefined)
    expect(conference?.getChild('mine', 'urn:client:b')).to.equal(undefined)

    await publish(juliet, NATIVE, native(PLAY, '<nick>Capulet</nick>'), OPTIONS)
    for (const storage of [await getPrivate(juliet), await getList(juliet)]) {
      expect(storage.getChild('url', LIST)?.attrs['url']).to.equal('https://example.org/')
      const room = storage.getChild('conference', LIST)
      expect(room?.getChildText('nick', LIST)).to.equal('Capulet')
      expect(room?.getChild('mine', 'urn:client:b')).not.to.equal(undefined)
    }
  })

  it('a room without a valid address is not published', async () => {
    await setPrivate(juliet, `<conference jid='a@@b'/><conference name='nowhere'/><conference jid='${PLAY}'/><conference jid='${PLAY}' name='again'/>`)
    expect(await idsOf(juliet)).to.deep.equal([PLAY])
    expect((await items(juliet, NATIVE))[0]?.getChild('conference', NATIVE)?.attrs['name']).to.equal(undefined)
  })

  it('XEP-0411 §5: nobody else reads what was converted, and a list that others could read is closed', async () => {
    await publish(juliet, LIST, `<item id='current'>${list('')}</item>`)
    await publish(juliet, NATIVE, native(PLAY, ''), OPTIONS)
    await setPrivate(juliet, `<conference jid='${ORCHARD}'/>`)
    const romeo = await logIn(tidings, 'romeo', 'a')
    for (const node of [NATIVE, LIST]) {
      expect(await items(romeo, node, juliet.bare).then(() => 'shown', ({ condition }: { condition: string }) => condition), node).to.equal('not-allowed')
      const form = await juliet.sendIq(`<iq type='get'><pubsub xmlns='http://jabber.org/protocol/pubsub#owner'><configure node='${node}'/></pubsub></iq>`)
      expect(form.toString(), node).to.match(/var="pubsub#access_model".*?<value>whitelist</)
    }
    romeo.destroy()
  })
})

describe('bookmarks that were there before', () => {
  it('XEP-0411 §4: are published when their owner logs in', async () => {
    const tidings = await startTestServer({ accounts: { juliet: 'secret' } })
    tidings.server.storage.records.put('private', ['juliet@localhost', LIST, 'storage'], list(`<conference jid='${PLAY}'/>`))
    await tidings.server.storage.committed()
    const juliet = await logIn(tidings, 'juliet', 'a')
    expect(await idsOf(juliet)).to.deep.equal([PLAY])
    expect(roomsOf(await getList(juliet))).to.deep.equal([PLAY])
    juliet.destroy()
    await tidings[Symbol.asyncDispose]()
  })
})
