import { expect } from 'chai'
import { type Client, connect } from '../../lib/client/client.ts'
import { TEST_CONFIG, type TestServer, startTestServer } from '../test-server.ts'

const NS = 'http://jabber.org/protocol/admin'

describe('the administrator\'s commands and the directory, on a whole server', () => {
  let site: TestServer
  before(async () => {
    site = await startTestServer({
      config: `${TEST_CONFIG.replace('mod_vcard: {}', 'mod_vcard: { search: true }')}\nacl:\n  admin:\n    user: bard@localhost\n`,
      accounts: { bard: 'secret', juliet: 'secret' },
    })
  })
  after(() => site[Symbol.asyncDispose]())

  const login = async (user: string): Promise<Client> => {
    const client = await connect({ host: site.host, port: site.port, domain: 'localhost', user, password: 'secret' })
    client.send('<presence/>')
    await client.receive((element) => element.getName() === 'presence')
    return client
  }
  const run = (client: Client, node: string, fields: Record<string, string>) => client.sendIq(`<iq type='set' to='localhost'><command xmlns='http://jabber.org/protocol/commands' node='${NS}#${node}'><x xmlns='jabber:x:data' type='submit'>${Object.entries(fields).map(([name, value]) => `<field var='${name}'><value>${value}</value></field>`).join('')}</x></command></iq>`)
  const bodies = (client: Client) => client.inbox.map((stanza) => stanza.element().getChildText('body')).filter((body) => body !== null && body !== undefined)

  it('XEP-0133 §4.24: the message of the day comes at the next login, once, also after a restart', async () => {
    let bard = await login('bard')
    await run(bard, 'set-motd', { motd: 'Tonight' })
    await bard.receive((element) => element.getChildText('body') === 'Tonight')
    await bard.disconnect()
    await site.restart()
    const first = await login('juliet')
    await first.receive((element) => element.getChildText('body') === 'Tonight' && element.attrs['from'] === 'localhost')
    await first.disconnect()
    await site.restart()
    const second = await login('juliet')
    await second.ping()
    expect(bodies(second)).to.deep.equal([])
    bard = await login('bard')
    await run(bard, 'announce', { announcement: 'Now' })
    await second.receive((element) => element.getChildText('body') === 'Now')
    await run(bard, 'end-user-session', { accountjids: 'juliet@localhost' })
    await second.closed
    await bard.disconnect()
  })

  it('a message to HOST/announce/all reaches everybody, those who are away later; others hear that they may not', async () => {
    const bard = await login('bard')
    bard.send("<message to='localhost/announce/all'><body>Tomorrow</body></message>")
    await bard.receive((element) => element.getChildText('body') === 'Tomorrow' && element.attrs['from'] === 'localhost')
    const juliet = await login('juliet')
    await juliet.receive((element) => element.getChildText('body') === 'Tomorrow' && element.attrs['from'] === 'localhost')
    juliet.send("<message id='no' to='localhost/announce/all'><body>Ha</body></message>")
    expect((await juliet.receive((element) => element.attrs['id'] === 'no')).getChild('error')?.getChild('forbidden')).to.not.equal(undefined)
    await juliet.disconnect()
    await bard.disconnect()
  })

  it('nobody else may', async () => {
    const juliet = await login('juliet')
    const refused = await run(juliet, 'delete-user', { accountjids: 'bard@localhost' }).catch((error: { condition: string }) => error.condition)
    expect(refused).to.equal('forbidden')
    await juliet.disconnect()
  })

  it('XEP-0055: the directory is a service with a name, and finds a vCard', async () => {
    const juliet = await login('juliet')
    await juliet.sendIq("<iq type='set'><vCard xmlns='vcard-temp'><N><FAMILY>Capulet</FAMILY></N></vCard></iq>")
    expect((await juliet.sendIq("<iq type='get' to='localhost'><query xmlns='http://jabber.org/protocol/disco#items'/></iq>")).toString()).to.contain('<item jid="vjud.localhost" name="vCard User Search"/>')
    expect((await juliet.sendIq("<iq type='get' to='vjud.localhost'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>")).toString()).to.contain('jabber:iq:search')
    const found = await juliet.sendIq("<iq type='set' to='vjud.localhost'><query xmlns='jabber:iq:search'><last>cap*</last></query></iq>")
    expect(found.getChild('query')?.getChildren('item').map((item) => item.attrs['jid'])).to.deep.equal(['juliet@localhost'])
    await juliet.disconnect()
  })
})
