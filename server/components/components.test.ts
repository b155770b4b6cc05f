/** External components (XEP-0114) on a whole server. */
import { once } from 'node:events'
import { readFile, writeFile } from 'node:fs/promises'
import net from 'node:net'
import path from 'node:path'
import { expect } from 'chai'
import { connect, type Client, type ConnectOptions } from '../../lib/client/client.ts'
import { ComponentClient, type ComponentOptions } from '../../lib/client/component.ts'
import { StreamError } from '../../lib/stream/errors.ts'
import { loadConfig } from '../config/config.ts'
import { openHeldStorage, startTestServer, TEST_CONFIG, type TestServer } from '../test-server.ts'

const ITEMS = 'http://jabber.org/protocol/disco#items'
const ERRORS = 'urn:ietf:params:xml:ns:xmpp-stanzas'
const HOSTS = 'hosts: {icq.localhost: {password: sesame}, msn.localhost: {password: mellon}}'
const OPEN = "<stream:stream xmlns='jabber:component:accept' xmlns:stream='http://etherx.jabber.org/streams'"

function config(listen: string, more = ''): string {
  return TEST_CONFIG.replace('listen:\n', `listen:\n  - { port: 0, ip: 127.0.0.1, module: ejabberd_service, ${listen} }\n`) + more
}

describe('external components', () => {
  let site: TestServer
  const clients: (Client | ComponentClient)[] = []
  afterEach(async () => {
    for (const client of clients.splice(0)) if (client instanceof ComponentClient) client.connection.destroy()
    else client.destroy()
    await site[Symbol.asyncDispose]()
  })
  const start = async (listen = HOSTS, more?: string): Promise<void> => {
    site = await startTestServer({ config: config(listen, more), accounts: { romeo: 'secret', juliet: 'secret' } })
  }
  const port = (): number => site.server.ports.find(({ module }) => module === 'ejabberd_service')?.port ?? 0
  const component = async (domain = 'icq.localhost', secret = 'sesame', more: Partial<ComponentOptions> = {}): Promise<ComponentClient> => {
    const client = await ComponentClient.connect({ host: '127.0.0.1', port: port(), domain, secret, ...more })
    clients.push(client)
    return client
  }
  const user = async (name = 'romeo', more: Partial<ConnectOptions> = {}): Promise<Client> => {
    const client = await connect({ host: '127.0.0.1', port: site.port, domain: 'localhost', tls: 'none', user: name, password: 'secret', ...more })
    clients.push(client)
    return client
  }
  const refused = async (attempt: Promise<unknown>): Promise<string> => attempt.then(() => 'connected', (error: unknown) => (error instanceof StreamError ? error.condition : String(error)))
  /** What comes back until the connection is closed. */
  const say = async (text: string): Promise<string> => {
    const socket = net.connect(port(), '127.0.0.1')
    let answer = ''
    socket.on('data', (chunk: Buffer) => { answer += String(chunk) })
    socket.write(text)
    await once(socket, 'close')
    return answer
  }
  const until = async (holds: () => boolean | Promise<boolean>): Promise<void> => {
    for (const end = Date.now() + 5000; !(await holds()); ) {
      if (Date.now() > end) throw new Error('it does not come to hold')
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
  }
  const reload = async (text: string): Promise<void> => {
    const file = path.join(site.dataDir, '../ejabberd.yml')
    await writeFile(file, text)
    await site.server.reload(loadConfig(file).config)
  }
  const itemsOf = async (client: Client): Promise<(string | undefined)[]> => {
    const answer = await client.sendIq(`<iq type='get' id='items' to='localhost'><query xmlns='${ITEMS}'/></iq>`)
    return answer.getChild('query', ITEMS)?.getChildren('item').map(({ attrs }) => attrs['jid']) ?? []
  }

  it('get what is for their domain and its users, and send from any of its addresses (§3)', async () => {
    await start()
    const [romeo, icq] = [await user(), await component()]
    romeo.send("<presence/><message to='123@icq.localhost/home' type='chat' id='m1'><body>Art thou not Romeo?</body></message>")
    const message = await icq.receive(({ name }) => name === 'message')
    expect([message.from, message.to, message.element().getChildText('body')]).to.deep.equal([romeo.jid, '123@icq.localhost/home', 'Art thou not Romeo?'])
    icq.send(`<message from='123@icq.localhost/home' to='${romeo.jid}' type='chat' id='m2'><body>Neither</body></message>`)
    const answer = await romeo.receive(({ attrs }) => attrs['id'] === 'm2')
    expect([answer.attrs['from'], answer.getChildText('body')]).to.deep.equal(['123@icq.localhost/home', 'Neither'])
  })

  it('answer requests of users, and have theirs answered', async () => {
    await start()
    const [romeo, icq] = [await user(), await component()]
    const asked = romeo.sendIq("<iq type='get' id='q1' to='icq.localhost'><query xmlns='jabber:iq:register'/></iq>")
    const request = await icq.receive(({ name }) => name === 'iq')
    icq.send(`<iq type='result' id='${request.id}' from='icq.localhost' to='${request.from}'><query xmlns='jabber:iq:register'><registered/></query></iq>`)
    expect((await asked).getChild('query', 'jabber:iq:register')?.getChild('registered')).to.not.equal(undefined)
    icq.send("<iq type='get' id='v1' from='icq.localhost' to='localhost'><query xmlns='jabber:iq:version'/></iq>")
    const version = await icq.receive(({ id }) => id === 'v1')
    expect([version.type, version.element().getChild('query', 'jabber:iq:version')?.getChildText('name')]).to.deep.equal(['result', 'Tidings'])
  })

  it('subscribe to presence, and are subscribed to, as contacts of another server (RFC 6121 §3)', async () => {
    await start()
    const [romeo, icq] = [await user(), await component()]
    romeo.send("<presence/><presence to='123@icq.localhost' type='subscribe'/>")
    expect((await icq.receive(({ type }) => type === 'subscribe')).from).to.equal('romeo@localhost')
    icq.send("<presence from='123@icq.localhost' to='romeo@localhost' type='subscribed'/><presence from='123@icq.localhost/x' to='romeo@localhost'><show>away</show></presence>")
    expect((await romeo.receive(({ attrs }) => attrs['from'] === '123@icq.localhost/x')).getChildText('show')).to.equal('away')
  })

  it('have their messages kept for users who are offline', async () => {
    await start()
    const icq = await component()
    icq.send("<message from='123@icq.localhost' to='romeo@localhost' type='chat' id='late'><body>Good night</body></message><iq type='get' id='after' from='icq.localhost' to='localhost'><ping xmlns='urn:xmpp:ping'/></iq>")
    await icq.receive(({ id }) => id === 'after')
    const romeo = await user()
    romeo.send('<presence/>')
    expect((await romeo.receive(({ attrs }) => attrs['id'] === 'late')).getChild('delay', 'urn:xmpp:delay')).to.not.equal(undefined)
  })

  it('are refused without the password of their domain, and for domains that are not theirs', async () => {
    await start()
    expect(await refused(component('icq.localhost', 'mellon'))).to.equal('not-authorized')
    expect(await refused(component('aim.localhost'))).to.equal('host-unknown')
    expect(await refused(component('localhost'))).to.equal('host-unknown')
    expect(await say(`${OPEN} to='icq.localhost'><message from='icq.localhost' to='romeo@localhost'/>`)).to.match(/^<\?xml version='1.0'\?><stream:stream [^>]*from='icq.localhost' id='[^']+'><stream:error><not-authorized /).and.match(/<\/stream:stream>$/)
    expect(await say(`${OPEN}>`)).to.contain('<host-unknown ')
    expect(await say(`${OPEN} to='a@icq.localhost'>`)).to.contain('<improper-addressing ')
    expect(await say("<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='icq.localhost'>")).to.match(/<stream:stream [^>]*><stream:error><invalid-namespace /)
    expect(await say(`${OPEN} to='icq.localhost'><handshake>`.padEnd(300_000, 'x'))).to.contain('<policy-violation ')
  })

  it('are refused for domains that the server itself serves (§3)', async () => {
    await start('password: sesame')
    expect(await refused(component('localhost'))).to.equal('conflict')
    expect(await refused(component('pubsub.localhost'))).to.equal('conflict')
    expect(await refused(component('any.example'))).to.equal('connected')
  })

  it('may not try passwords without end', async () => {
    await start(HOSTS, 'tidings: {limits: {login_failures: 2}}\n')
    for (const expected of ['not-authorized', 'not-authorized', 'policy-violation']) expect(await refused(component('icq.localhost', 'wrong'))).to.equal(expected)
    expect(await refused(component('msn.localhost', 'mellon'))).to.equal('connected')
  })

  it('have no more time than others before their handshake (RFC 6120 §13.12)', async () => {
    await start(HOSTS, 'negotiation_timeout: 50 ms\n')
    expect(await say(`${OPEN} to='icq.localhost'>`)).to.contain('<connection-timeout ')
  })

  it('end their stream with a stanza that is not from their domain, or names no recipient (§3)', async () => {
    await start()
    for (const [stanza, condition] of [
      ["<message from='romeo@localhost' to='juliet@localhost'/>", 'invalid-from'],
      ["<message to='juliet@localhost'/>", 'improper-addressing'],
      ["<message from='icq.localhost'/>", 'improper-addressing'],
      ["<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>", 'unsupported-stanza-type'],
    ] as const) {
      const icq = await component()
      icq.send(stanza)
      expect(await refused(icq.receive())).to.equal(condition)
    }
  })

  it('send from anywhere where check_from is off', async () => {
    await start(`${HOSTS}, check_from: false`)
    const [romeo, icq] = [await user(), await component()]
    romeo.send('<presence/>')
    icq.send("<message from='buddy@elsewhere.example' to='romeo@localhost' id='m1'><body>hi</body></message>")
    icq.send(`<message from='buddy@elsewhere.example' to='${romeo.jid}' id='m2'><body>hi</body></message>`)
    expect((await romeo.receive(({ attrs }) => attrs['id'] === 'm2')).attrs['from']).to.equal('buddy@elsewhere.example')
  })

  it('are spared what the access rule does not allow', async () => {
    await start(`${HOSTS}, access: [{allow: {user: juliet@localhost}}]`)
    const [romeo, juliet, icq] = [await user(), await user('juliet'), await component()]
    romeo.send("<message to='icq.localhost' id='m1'><body>hi</body></message>")
    expect((await romeo.receive(({ attrs }) => attrs['id'] === 'm1')).getChild('error')?.getChild('not-allowed', ERRORS)).to.not.equal(undefined)
    juliet.send("<message to='icq.localhost' id='m2'><body>hi</body></message>")
    expect((await icq.receive()).id).to.equal('m2')
  })

  it('have what is for them returned while none is connected', async () => {
    await start()
    const romeo = await user()
    const condition = async (to: string): Promise<unknown> => {
      romeo.send(`<message to='${to}' type='chat' id='${to}'><body>hi</body></message>`)
      const error = (await romeo.receive(({ attrs }) => attrs['id'] === to)).getChild('error')
      return [error?.attrs['type'], error?.getChildElements()[0]?.getName()]
    }
    expect(await condition('123@icq.localhost')).to.deep.equal(['wait', 'service-unavailable'])
    expect(await condition('123@aim.localhost')).to.deep.equal(['cancel', 'remote-server-not-found'])
    const icq = await component()
    await icq[Symbol.asyncDispose]()
    await until(async () => !(await itemsOf(romeo)).includes('icq.localhost'))
    expect(await condition('1@icq.localhost')).to.deep.equal(['wait', 'service-unavailable'])
    expect((await romeo.sendIq("<iq type='get' id='i1' to='icq.localhost'><query xmlns='jabber:iq:version'/></iq>").catch((error: unknown) => error)) as Error).to.be.an('error')
  })

  it('are cut off when they do not read, and what they have not got is returned', async () => {
    await start(`${HOSTS}, max_fsm_queue: 1`)
    const [romeo, icq] = [await user(), await component()]
    icq.connection.stopReading()
    const body = 'x'.repeat(100_000)
    let returned = 0
    romeo.on((stanza) => { if (stanza.type === 'error' && stanza.id !== 'late') returned++ })
    let sent = 0
    await until(async () => {
      romeo.send(`<message to='icq.localhost' id='m${sent++}'><body>${body}</body></message>`)
      return !(await itemsOf(romeo)).includes('icq.localhost')
    })
    icq.connection.destroy()
    await until(() => returned > 0)
    expect(sent).to.be.greaterThan(10)
  })

  it('get a message that is stored, once it is committed', async () => {
    const storage = openHeldStorage()
    site = await startTestServer({ config: config(HOSTS), storage, accounts: { romeo: 'secret' } })
    const [romeo, icq] = [await user('romeo', { sm: true }), await component()]
    storage.hold()
    romeo.send("<message to='icq.localhost' type='chat' id='m1'><body>hi</body></message>")
    const early = await icq.receive(undefined, 100).then(() => 'it came', (error: Error) => error.message)
    storage.release()
    expect(early).to.equal('nothing arrived in 100 ms')
    expect((await icq.receive()).id).to.equal('m1')
  })

  it('get what was acknowledged and on its way to them when the process was killed', async () => {
    const storage = openHeldStorage()
    site = await startTestServer({ config: config(HOSTS), storage, accounts: { romeo: 'secret' } })
    const [romeo, icq] = [await user('romeo', { sm: true }), await component()]
    icq.connection.stopReading()
    const ids = Array.from({ length: 120 }, (_, index) => `m${index}`)
    const body = 'x'.repeat(100_000)
    for (const id of ids) romeo.send(`<message to='a@icq.localhost' type='chat' id='${id}'><body>${body}</body></message>`)
    expect(await romeo.requestAck()).to.equal(ids.length)
    await using next = await startTestServer({ config: config(HOSTS), storage: storage.survivor })
    const heir = await ComponentClient.connect({ host: '127.0.0.1', port: next.server.ports.find(({ module }) => module === 'ejabberd_service')?.port ?? 0, domain: 'icq.localhost', secret: 'sesame' })
    clients.push(heir)
    const got: string[] = []
    while (got.at(-1) !== 'm119') {
      const again = await heir.receive()
      got.push(again.id ?? '')
      expect(again.has('delay', 'urn:xmpp:delay'), 'XEP-0203: it says when it came, as it may be there already').to.equal(true)
    }
    // What the old connection had taken is still to be read there.
    expect(got.length).to.be.lessThan(ids.length)
    expect(got).to.deep.equal(ids.slice(-got.length))
    icq.connection.startReading()
    for (const id of ids.slice(0, -got.length)) expect((await icq.receive()).id).to.equal(id)
    await until(async () => (await storage.records.range('component-messages', [])).length === 0)
  })

  it('that do not come again have what was on its way to them returned', async () => {
    const storage = openHeldStorage()
    storage.records.put('component-messages', ['icq.localhost', '1'], Buffer.from("<message from='msn.localhost' to='icq.localhost' id='m1'><body>hi</body></message>"))
    site = await startTestServer({ config: config(`${HOSTS}, global_routes: false`, 'negotiation_timeout: 2 s\n'), storage })
    const msn = await component('msn.localhost', 'mellon')
    expect(await msn.receive()).to.include({ id: 'm1', type: 'error', from: 'icq.localhost' })
    await until(async () => (await storage.records.range('component-messages', [])).length === 0)
  })

  it('are among the items of the host above them, as long as they are connected', async () => {
    await start('password: sesame')
    const romeo = await user()
    await component('icq.localhost')
    await component('elsewhere.example')
    expect(await itemsOf(romeo)).to.include('icq.localhost').and.not.include('elsewhere.example')
  })

  it('make way for a new connection of their domain', async () => {
    await start()
    const old = await component()
    const fresh = await component()
    expect(await refused(old.receive())).to.equal('conflict')
    const romeo = await user()
    romeo.send("<message to='icq.localhost' id='m1'><body>hi</body></message>")
    expect((await fresh.receive()).id).to.equal('m1')
  })

  it('stand in for the other hosts of their listener until one connects for these, unless global_routes is off', async () => {
    await start()
    const [romeo, icq] = [await user(), await component()]
    const to = async (id: string, receiver: ComponentClient): Promise<void> => {
      romeo.send(`<message to='x@msn.localhost' id='${id}'><body>hi</body></message>`)
      expect((await receiver.receive()).id).to.equal(id)
    }
    await to('m1', icq)
    icq.send(`<message from='x@msn.localhost' to='${romeo.jid}' id='m2'><body>hi</body></message>`)
    await romeo.receive(({ attrs }) => attrs['id'] === 'm2')
    const msn = await component('msn.localhost', 'mellon')
    await to('m3', msn)
    await reload(config(`${HOSTS}, global_routes: false`))
    icq.send(`<message from='x@msn.localhost' to='${romeo.jid}' id='m4'/>`)
    expect(await refused(icq.receive())).to.equal('invalid-from')
  })

  it('share a domain as domain_balancing says, and no more of them than there are to be', async () => {
    await start(HOSTS, 'domain_balancing: {icq.localhost: {type: bare_source, component_number: 2}}\n')
    const both = [await component(), await component()]
    expect(await refused(component())).to.equal('conflict')
    const [romeo, juliet] = [await user(), await user('juliet')]
    const got: string[][] = [[], []]
    for (const [index, one] of both.entries()) one.connection.listen((incoming) => { if (incoming.kind === 'element') got[index]?.push(incoming.stanza.from ?? '') })
    for (const each of [romeo, juliet]) for (let i = 0; i < 5; i++) each.send(`<message to='${i}@icq.localhost' type='chat'><body>hi</body></message>`)
    await until(() => got.flat().length === 10)
    for (const each of [romeo, juliet]) expect(got.filter((froms) => froms.includes(each.jid))).to.have.length(1)
    // Who was with the one that leaves goes to the other, and nothing is lost.
    const left = got.findIndex((froms) => froms.includes(romeo.jid))
    both[left]?.connection.destroy()
    await until(async () => (await site.server.metrics.render()).includes('\ntidings_components 1\n'))
    romeo.send("<message to='a@icq.localhost' type='chat'><body>again</body></message>")
    await until(() => got[1 - left]?.at(-1) === romeo.jid)
  })

  it('spread what comes by chance where no type is named', async () => {
    await start(HOSTS, 'domain_balancing: {icq.localhost: {type: random}}\n')
    const both = [await component(), await component()]
    const romeo = await user()
    const got = [0, 0]
    for (const [index, one] of both.entries()) one.connection.listen((incoming) => { if (incoming.kind === 'element') got[index] = (got[index] ?? 0) + 1 })
    for (let i = 0; i < 64; i++) romeo.send("<message to='a@icq.localhost' type='chat'><body>hi</body></message>")
    await until(() => (got[0] ?? 0) + (got[1] ?? 0) === 64)
    expect(Math.min(...got)).to.be.greaterThan(0)
  })

  it('talk to each other', async () => {
    await start()
    const [icq, msn] = [await component(), await component('msn.localhost', 'mellon')]
    icq.send("<message from='a@icq.localhost' to='b@msn.localhost' id='m1'><body>hi</body></message>")
    expect((await msn.receive()).id).to.equal('m1')
  })

  it('speak TLS where the listener does', async () => {
    await start(`${HOSTS}, tls: true`)
    const icq = await component('icq.localhost', 'sesame', { direct: true })
    icq.send("<iq type='get' id='p1' from='icq.localhost' to='localhost'><ping xmlns='urn:xmpp:ping'/></iq>")
    expect((await icq.receive()).type).to.equal('result')
  })

  it('follow a reload: those whose password or domain has changed are closed, and the others stay', async () => {
    await start()
    const [icq, msn] = [await component(), await component('msn.localhost', 'mellon')]
    await reload(config('hosts: {icq.localhost: {password: another}, msn.localhost: {password: mellon}}'))
    expect(await refused(icq.receive())).to.equal('not-authorized')
    msn.send("<iq type='get' id='p1' from='msn.localhost' to='localhost'><ping xmlns='urn:xmpp:ping'/></iq>")
    expect((await msn.receive()).id).to.equal('p1')
    await reload(TEST_CONFIG)
    expect(await refused(msn.receive())).to.equal('host-gone')
    const romeo = await user()
    romeo.send("<message to='msn.localhost' id='m1'><body>hi</body></message>")
    expect((await romeo.receive(({ attrs }) => attrs['id'] === 'm1')).getChild('error')?.getChild('remote-server-not-found', ERRORS)).to.not.equal(undefined)
  })

  it('are told when the server stops', async () => {
    await start()
    const icq = await component()
    const stopping = site.server.close()
    expect(await refused(icq.receive())).to.equal('system-shutdown')
    await stopping
  })

  it('need a password in the configuration', async () => {
    await start()
    const file = path.join(site.dataDir, '../ejabberd.yml')
    const problems = (listen: string): string[] => loadConfig(file, { readText: () => config(listen) }).problems.filter(({ level, option }) => level === 'error' && option === 'listen.hosts').map(({ text }) => text)
    expect(await readFile(file, 'utf8')).to.contain('ejabberd_service')
    expect(problems('access: all')).to.have.length(1)
    expect(problems('hosts: {icq.localhost: {}}')).to.deep.equal(['"icq.localhost" has no password.'])
    expect(problems('hosts: {"a@b": {password: x}}')).to.deep.equal(['"a@b" is not allowed here; expected a domain.'])
    expect(problems('hosts: {icq.localhost: {}}, password: x')).to.deep.equal([])
  })
})
