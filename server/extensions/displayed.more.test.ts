import { expect } from 'chai'
import type { Client } from '../../lib/client/client.ts'
import { startTestServer, type TestServer } from '../test-server.ts'
import { items, logIn } from './personal-clients.ts'

const NS = 'urn:xmpp:mds:displayed:0'
const displayed = (by: string, id: string): string => `<displayed xmlns='${NS}'><stanza-id xmlns='urn:xmpp:sid:0' by='${by}' id='${id}'/></displayed>`
const marker = "<displayed xmlns='urn:xmpp:chat-markers:0' id='m1'/>"

describe('XEP-0490 what is displayed, beside other extensions', () => {
  let tidings: TestServer
  const clients: Client[] = []
  async function login(user: string, resource: string): Promise<Client> {
    const client = await logIn(tidings, user, resource)
    clients.push(client)
    return client
  }

  beforeEach(async () => { tidings = await startTestServer({ accounts: { romeo: 'secret', juliet: 'secret' } }) })
  afterEach(async () => {
    for (const client of clients.splice(0)) client.destroy()
    await tidings[Symbol.asyncDispose]()
  })

  it('§5.2: the element is neither in the archive nor in copies', async () => {
    const romeo = await login('romeo', 'a')
    const balcony = await login('juliet', 'balcony')
    const garden = await login('juliet', 'garden')
    await garden.sendIq("<iq type='set'><enable xmlns='urn:xmpp:carbons:2'/></iq>")
    balcony.send(`<message to='${romeo.bare}' type='chat' id='x1'><body>Yes</body>${marker}${displayed(balcony.bare, '42')}</message>`)
    const copy = await garden.receive((stanza) => stanza.getChild('sent', 'urn:xmpp:carbons:2') !== undefined)
    expect(copy.toString()).to.contain('chat-markers').and.not.contain(NS)
    garden.send("<iq type='set' id='q1'><query xmlns='urn:xmpp:mam:2'/></iq>")
    const archived = await garden.receive((stanza) => stanza.getChild('result', 'urn:xmpp:mam:2') !== undefined)
    expect(archived.toString()).to.contain('chat-markers').and.not.contain(NS)
  })

  it('publishes for the sender, never for the recipient', async () => {
    const romeo = await login('romeo', 'a')
    const juliet = await login('juliet', 'a')
    romeo.send(`<message to='${juliet.bare}' type='chat' id='x1'><body>Hi</body>${displayed(juliet.bare, '42')}</message>`)
    expect((await juliet.receive(({ attrs }) => attrs['id'] === 'x1')).getChild('displayed', NS)).to.equal(undefined)
    expect(await items(juliet, NS).then(() => 'there', ({ condition }: { condition: string }) => condition)).to.equal('item-not-found')
    expect((await items(romeo, NS)).map(({ attrs }) => attrs['id'])).to.deep.equal([juliet.bare])
  })

  it('§5.1: the id is the address as the client wrote it', async () => {
    const juliet = await login('juliet', 'a')
    juliet.send(`<message to='Romeo@LOCALHOST' type='chat'>${marker}${displayed(juliet.bare, '42')}</message>`)
    await juliet.ping()
    expect((await items(juliet, NS)).map(({ attrs }) => attrs['id'])).to.deep.equal(['Romeo@LOCALHOST'])
  })
})
