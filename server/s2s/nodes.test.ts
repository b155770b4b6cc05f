/** Federation of several nodes: stanzas for another server go by the node that speaks to it. */
import { expect } from 'chai'
import { type Client, connect } from '../../lib/client/client.ts'
import { SharedNodes, type SharedNode } from '../cluster/shared-units.fixture.ts'
import { startTestServer, TEST_CONFIG, type TestServer } from '../test-server.ts'
import { type Site, until, World } from './federation.fixture.ts'

const MUC = 'http://jabber.org/protocol/muc'

describe('federation of several nodes', () => {
  let world: World
  let all: SharedNodes
  let b: Site
  const sites: { readonly node: SharedNode; readonly test: TestServer }[] = []
  const clients: Client[] = []

  beforeEach(async () => {
    world = await World.begin()
    all = new SharedNodes()
    b = await world.site('b.test')
  })
  afterEach(async () => {
    for (const client of clients.splice(0)) client.destroy()
    for (const { test } of sites.splice(0)) await test[Symbol.asyncDispose]()
    await world[Symbol.asyncDispose]()
  })

  async function join(name: string, roles: readonly string[]): Promise<TestServer> {
    const node = all.join(name, roles)
    const config = TEST_CONFIG
      .replace('hosts: [localhost]', 'hosts: [a.test]')
      .replace('listen:\n', 'listen:\n  - { port: 0, ip: 127.0.0.1, module: ejabberd_s2s_in }\n')
      .replace('  mod_bosh: {}\n', '')
      .replace('modules:\n', 'modules:\n  mod_s2s_dialback: {}\n  mod_muc: {}\n')
    const test = await startTestServer({ storage: node.storage, config, roles, cluster: { units: node, secret: Buffer.from('known to all') }, nameServers: [world.names.address] })
    sites.push({ node, test })
    return test
  }

  async function login(test: TestServer, user: string): Promise<Client> {
    const client = await connect({ host: '127.0.0.1', port: test.port, domain: 'a.test', tls: 'none', user, password: 'secret' })
    clients.push(client)
    client.send('<presence/>')
    return client
  }

  const s2sPort = (test: TestServer): number => test.server.ports.find(({ module }) => module === 'ejabberd_s2s_in')?.port ?? 0
  const listAt = (test: TestServer): void => { for (const name of ['a.test', 'conference.a.test']) world.list(name, s2sPort(test)) }

  it('messages, presence and rooms go by the node of the role, in both directions', async () => {
    const chats = [await join('chat-1', ['chat']), await join('chat-2', ['chat'])] as const
    const federation = await join('federation', ['federation'])
    listAt(federation)
    expect(federation.server.ports.map(({ module }) => module)).to.deep.equal(['ejabberd_s2s_in'])
    expect(s2sPort(chats[0])).to.equal(0)
    for (const [i, user] of ['romeo', 'mercutio'].entries()) await chats[i]?.server.register(`${user}@a.test`, 'secret')
    const users = [await login(chats[0], 'romeo'), await login(chats[1], 'mercutio')] as const
    const juliet = await b.login('juliet')
    juliet.send('<presence/>')
    for (const [i, user] of users.entries()) {
      user.send(`<message to='juliet@b.test' type='chat' id='m${i}'><body>Hi</body></message>`)
      await juliet.receive(({ attrs }) => attrs['id'] === `m${i}`)
      juliet.send(`<message to='${user.jid}' type='chat' id='r${i}'><body>Hi</body></message>`)
      await user.receive(({ attrs }) => attrs['id'] === `r${i}`)
      user.send("<presence to='juliet@b.test' type='subscribe'/>")
      await juliet.receive(({ name, attrs }) => name === 'presence' && attrs['from'] === user.bare)
      juliet.send(`<presence to='${user.bare}' type='subscribed'/>`)
      await user.receive(({ name, attrs }) => name === 'presence' && attrs['from'] === juliet.jid)
      await user.sendIq(`<iq type='get' id='v${i}' to='b.test'><query xmlns='jabber:iq:version'/></iq>`)
    }
    juliet.send(`<presence to='tomb@conference.a.test/juliet'><x xmlns='${MUC}'/></presence>`)
    await juliet.receive(({ attrs }) => attrs['from'] === 'tomb@conference.a.test/juliet')
    await juliet.sendIq(`<iq type='set' id='o' to='tomb@conference.a.test'><query xmlns='${MUC}#owner'><x xmlns='jabber:x:data' type='submit'/></query></iq>`)
    for (const [i, user] of users.entries()) {
      user.send(`<presence to='tomb@conference.a.test/n${i}'><x xmlns='${MUC}'/></presence>`)
      await juliet.receive(({ attrs }) => attrs['from'] === `tomb@conference.a.test/n${i}`)
      user.send(`<message to='tomb@conference.a.test' type='groupchat' id='g${i}'><body>Here</body></message>`)
      await juliet.receive(({ name, attrs }) => name === 'message' && attrs['from'] === `tomb@conference.a.test/n${i}`)
    }
    // One stream a direction, and both at that node.
    expect(federation.server.federation.outgoing().map(({ local }) => local).toSorted()).to.deep.equal(['a.test', 'conference.a.test'])
    for (const chat of chats) expect([chat.server.federation.outgoing(), chat.server.federation.incoming()]).to.deep.equal([[], []])
  })

  it('errors come back to whoever sent the stanza, from the node that found out', async () => {
    const chat = await join('chat-1', ['chat'])
    listAt(await join('federation', ['federation']))
    await chat.server.register('romeo@a.test', 'secret')
    const romeo = await login(chat, 'romeo')
    romeo.send("<message to='x@nowhere.test' type='chat' id='m1'><body>Hi</body></message>")
    const error = await romeo.receive(({ attrs }) => attrs['id'] === 'm1')
    expect(error.getChild('error')?.getChildElements()[0]?.getName()).to.equal('remote-server-not-found')
  })

  it('without a node of the role, nodes that have users speak to other servers themselves', async () => {
    const nodes = [await join('one', []), await join('two', [])] as const
    listAt(nodes[0])
    await nodes[1].server.register('romeo@a.test', 'secret')
    const romeo = await login(nodes[1], 'romeo')
    const juliet = await b.login('juliet')
    juliet.send('<presence/>')
    romeo.send("<message to='juliet@b.test' type='chat' id='m1'><body>Hi</body></message>")
    await juliet.receive(({ attrs }) => attrs['id'] === 'm1')
    juliet.send(`<message to='${romeo.jid}' type='chat' id='m2'><body>Hi</body></message>`)
    await romeo.receive(({ attrs }) => attrs['id'] === 'm2')
  })

  it('what waits for a server goes to another node with it', async () => {
    const [one, two] = [await join('federation-1', ['federation']), await join('federation-2', ['federation'])]
    const chat = await join('chat', ['chat'])
    listAt(one)
    await chat.server.register('romeo@a.test', 'secret')
    const romeo = await connect({ host: '127.0.0.1', port: chat.port, domain: 'a.test', tls: 'none', user: 'romeo', password: 'secret', sm: true })
    clients.push(romeo)
    const juliet = await b.login('juliet')
    juliet.send('<presence/>')
    romeo.send("<message to='juliet@b.test' type='chat' id='m1'><body>1</body></message>")
    await juliet.receive(({ attrs }) => attrs['id'] === 'm1')
    // Where it is, is lost; and the other server cannot be reached for a while.
    world.list('b.test', 1)
    b.test.server.federation.stop()
    const home = all.homes.get('s2s:b.test')
    const first = sites.find(({ node }) => node.inc === home)
    expect(first?.test === one || first?.test === two).to.equal(true)
    await until(() => first?.test.server.federation.outgoing().length === 0)
    romeo.send("<message to='juliet@b.test' type='chat' id='m2'><body>2</body></message>")
    await romeo.requestAck()
    all.kill(first?.node as SharedNode)
    world.list('b.test', b.s2sPort)
    const other = first?.test === one ? two : one
    listAt(other)
    romeo.send("<message to='juliet@b.test' type='chat' id='m3'><body>3</body></message>")
    await juliet.receive(({ attrs }) => attrs['id'] === 'm2', 15_000)
    await juliet.receive(({ attrs }) => attrs['id'] === 'm3', 15_000)
  }).timeout(40_000)
})
