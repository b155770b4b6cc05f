import { expect } from 'chai'
import { type Client, connect } from '../../lib/client/client.ts'
import { startTestServer, type TestServer } from '../test-server.ts'

const NS = 'urn:xmpp:mds:displayed:0'
const PUBSUB = 'http://jabber.org/protocol/pubsub'

describe('XEP-0490 displayed messages', () => {
  let tidings: TestServer
  let romeo: Client
  let juliet: Client

  async function login(user: string): Promise<Client> {
    const client = await connect({ host: tidings.host, port: tidings.port, domain: tidings.domain, tls: 'none', user, password: 'secret', resource: 'a' })
    client.send('<presence/>')
    await client.ping()
    return client
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

  const displayed = (id: string): string => `<displayed xmlns='${NS}'><stanza-id xmlns='urn:xmpp:sid:0' by='romeo@localhost' id='${id}'/></displayed>`

  it('§4.4.3: it is published under the address of the chat, and taken out of the message', async () => {
    romeo.send(`<message to='juliet@localhost' type='chat'><displayed xmlns='urn:xmpp:chat-markers:0' id='m1'/>${displayed('one')}</message>`)
    const marker = await juliet.receive(({ name }) => name === 'message')
    expect(marker.getChildElements().filter((child) => child.getName() === 'displayed').map((child) => child.getNS())).to.deep.equal(['urn:xmpp:chat-markers:0'])
    const answer = await romeo.sendIq(`<iq type='get'><pubsub xmlns='${PUBSUB}'><items node='${NS}'/></pubsub></iq>`)
    const [item] = answer.getChild('pubsub')?.getChild('items')?.getChildren('item') ?? []
    expect(item?.attrs['id']).to.equal('juliet@localhost')
    expect(item?.getChild('displayed', NS)?.getChild('stanza-id', 'urn:xmpp:sid:0')?.attrs).to.include({ by: 'romeo@localhost', id: 'one' })
  })

  it('§7: nobody else reads it; one item for each chat', async () => {
    for (const id of ['one', 'two']) romeo.send(`<message to='juliet@localhost'><body>${id}</body>${displayed(id)}</message>`)
    romeo.send(`<message to='romeo@localhost'><body>three</body>${displayed('three')}</message>`)
    const answer = await romeo.sendIq(`<iq type='get'><pubsub xmlns='${PUBSUB}'><items node='${NS}'/></pubsub></iq>`)
    expect(answer.getChild('pubsub')?.getChild('items')?.getChildren('item').map(({ attrs }) => attrs['id'])).to.deep.equal(['juliet@localhost', 'romeo@localhost'])
    let refused = ''
    await juliet.sendIq(`<iq type='get' to='romeo@localhost'><pubsub xmlns='${PUBSUB}'><items node='${NS}'/></pubsub></iq>`).catch((error: Error) => { refused = error.message })
    expect(refused).to.equal('not-allowed')
  })
})
