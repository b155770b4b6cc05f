/** History, copies and offline messages as a client meets them, in a whole server. */
import { expect } from 'chai'
import { type Client, connect } from '../../lib/client/client.ts'
import type { Element } from '../../lib/xml/element.ts'
import { openHeldStorage, startTestServer, type TestServer } from '../test-server.ts'

const MAM = 'urn:xmpp:mam:2'
const SID = 'urn:xmpp:sid:0'

const body = (text: string) => (element: Element): boolean => element.name === 'message' && element.getChildText('body') === text
const carbon = (direction: string) => (element: Element): boolean => element.getChild(direction, 'urn:xmpp:carbons:2') !== undefined
const innerOf = (element: Element, wrapper: string, xmlns: string): Element =>
  element.getChild(wrapper, xmlns)?.getChild('forwarded', 'urn:xmpp:forward:0')?.getChild('message', 'jabber:client') as Element
const idBy = (element: Element, by: string): string | undefined => element.getChildren('stanza-id', SID).find((each) => each.attrs['by'] === by)?.attrs['id']

async function historyOf(client: Client, inner = ''): Promise<{ ids: string[]; bodies: string[]; fin: Element }> {
  const answer = await client.sendIq(`<iq type='set'><query xmlns='${MAM}' queryid='q'>${inner}</query></iq>`)
  const ids: string[] = []
  const bodies: string[] = []
  for (const stanza of client.inbox.splice(0)) {
    const result = stanza.element().getChild('result', MAM)
    if (!result) continue
    ids.push(result.attrs['id'] as string)
    bodies.push(innerOf(stanza.element(), 'result', MAM).getChildText('body') ?? '')
  }
  return { ids, bodies, fin: answer.getChild('fin', MAM) as Element }
}

describe('history, carbons and offline messages together', () => {
  let tidings: TestServer
  const clients: Client[] = []

  async function login(user: string, resource: string, { sm = false, priority = 0, carbons = false, silent = false } = {}): Promise<Client> {
    const client = await connect({ host: tidings.host, port: tidings.port, domain: tidings.domain, tls: 'none', user, password: 'secret', resource, sm })
    clients.push(client)
    if (carbons) await client.sendIq("<iq type='set'><enable xmlns='urn:xmpp:carbons:2'/></iq>")
    if (!silent) client.send(`<presence><priority>${priority}</priority></presence>`)
    await client.ping()
    return client
  }

  beforeEach(async () => { tidings = await startTestServer({ accounts: { romeo: 'secret', juliet: 'secret' } }) })
  afterEach(async () => {
    for (const client of clients.splice(0)) client.destroy()
    await tidings[Symbol.asyncDispose]()
  })

  it('one message has one id: live, in the copies and in both archives', async () => {
    const romeo = await login('romeo', 'a')
    const romeoToo = await login('romeo', 'b', { carbons: true })
    const juliet = await login('juliet', 'a')
    const julietToo = await login('juliet', 'b', { carbons: true, priority: -1 })
    romeo.send("<message to='juliet@localhost' type='chat' id='m1'><body>one</body><stanza-id xmlns='urn:xmpp:sid:0' by='juliet@localhost' id='forged'/></message>")
    const live = await juliet.receive(body('one'))
    const sent = innerOf(await romeoToo.receive(carbon('sent')), 'sent', 'urn:xmpp:carbons:2')
    const received = innerOf(await julietToo.receive(carbon('received')), 'received', 'urn:xmpp:carbons:2')
    const id = idBy(live, 'juliet@localhost')
    expect(id).to.match(/^[0-9a-v]{22}$/)
    expect(idBy(received, 'juliet@localhost')).to.equal(id)
    expect(idBy(sent, 'romeo@localhost')).to.equal(id)
    expect(idBy(sent, 'juliet@localhost')).to.equal(undefined)
    expect((await historyOf(juliet)).ids).to.deep.equal([id])
    expect((await historyOf(romeo)).ids).to.deep.equal([id])
  })

  it('a sender finds its own message at once, and pages through history', async () => {
    const romeo = await login('romeo', 'a')
    for (let each = 0; each < 12; each++) romeo.send(`<message to='juliet@localhost' type='chat'><body>${each}</body></message>`)
    const set = (text: string): string => `<set xmlns='http://jabber.org/protocol/rsm'>${text}</set>`
    const last = await historyOf(romeo, set('<max>5</max><before/>'))
    expect(last.bodies).to.deep.equal(['7', '8', '9', '10', '11'])
    const earlier = await historyOf(romeo, set(`<max>5</max><before>${last.ids[0]}</before>`))
    expect(earlier.bodies).to.deep.equal(['2', '3', '4', '5', '6'])
    expect(earlier.fin.attrs['complete']).to.equal(undefined)
    const error = await romeo.sendIq(`<iq type='set'><query xmlns='${MAM}'>${set('<after>nothing</after>')}</query></iq>`).then(() => undefined, (refused: { condition: string }) => refused.condition)
    expect(error).to.equal('item-not-found')
    const stranger = await romeo.sendIq(`<iq type='set' to='juliet@localhost'><query xmlns='${MAM}'/></iq>`).then(() => undefined, (refused: { condition: string }) => refused.condition)
    expect(stranger).to.equal('forbidden')
  })

  it('what came while away is delivered once, in order, with its time and archive id, also after a restart', async () => {
    const romeo = await login('romeo', 'a')
    for (const each of ['one', 'two', 'three']) romeo.send(`<message to='juliet@localhost' type='chat'><body>${each}</body></message>`)
    await romeo.ping()
    await tidings.restart()
    const juliet = await login('juliet', 'a', { sm: true })
    const messages = [await juliet.receive(body('one')), await juliet.receive(body('two')), await juliet.receive(body('three'))]
    for (const message of messages) expect(message.getChild('delay', 'urn:xmpp:delay')?.attrs['from']).to.equal('localhost')
    const { ids } = await historyOf(juliet)
    expect(messages.map((message) => idBy(message, 'juliet@localhost'))).to.deep.equal(ids)
    await juliet.disconnect()
    const again = await login('juliet', 'b')
    expect(again.inbox.filter((stanza) => stanza.name === 'message')).to.deep.equal([])
  })

  it('a stream that is lost before it acknowledged gives its messages back with the time and id they had', async () => {
    const romeo = await login('romeo', 'a')
    romeo.send("<message to='juliet@localhost' type='chat'><body>kept</body></message>")
    await romeo.ping()
    const juliet = await login('juliet', 'a', { sm: true })
    juliet.acknowledges = false
    const first = await juliet.receive(body('kept'))
    await juliet.disconnect()
    const next = await login('juliet', 'b')
    const second = await next.receive(body('kept'))
    expect(second.getChildren('delay', 'urn:xmpp:delay').map(String)).to.deep.equal(first.getChildren('delay', 'urn:xmpp:delay').map(String))
    expect(second.getChildren('stanza-id', SID).map(String)).to.deep.equal(first.getChildren('stanza-id', SID).map(String))
  })

  it('history shows nothing before it is on stable storage', async () => {
    const storage = openHeldStorage()
    await using held = await startTestServer({ accounts: { romeo: 'secret', juliet: 'secret' }, storage })
    const open = (user: string): Promise<Client> => connect({ host: held.host, port: held.port, domain: held.domain, tls: 'none', user, password: 'secret', sm: user === 'romeo' })
    const [romeo, juliet] = [await open('romeo'), await open('juliet')]
    storage.hold()
    romeo.send("<message to='juliet@localhost' type='chat'><body>one</body></message>")
    await romeo.ping()
    // The acknowledgement waits for the commit too.
    const acknowledged = romeo.requestAck()
    await romeo.ping()
    const seen: string[] = []
    juliet.on((stanza) => seen.push(stanza.name))
    const asked = historyOf(juliet)
    await romeo.ping()
    await romeo.ping()
    const early = [...seen]
    storage.release()
    await acknowledged
    expect(early).to.deep.equal([])
    expect((await asked).bodies).to.deep.equal(['one'])
    for (const client of [romeo, juliet]) await client.disconnect()
  })

  it('service discovery tells of all three', async () => {
    const romeo = await login('romeo', 'a')
    const features = async (to: string): Promise<string[]> =>
      ((await romeo.sendIq(`<iq type='get' to='${to}'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>`)).getChild('query')?.getChildren('feature') ?? []).map((feature) => feature.attrs['var'] ?? '')
    expect(await features('romeo@localhost')).to.include.members([MAM, `${MAM}#extended`, SID])
    expect(await features('localhost')).to.include.members(['urn:xmpp:carbons:2', 'msgoffline'])
  })
})
