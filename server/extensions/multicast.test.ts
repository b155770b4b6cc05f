import { expect } from 'chai'
import { ComponentClient } from '../../lib/client/component.ts'
import { connect, type Client } from '../../lib/client/client.ts'
import type { Element } from '../../lib/xml/element.ts'
import { startTestServer, TEST_CONFIG, type TestServer } from '../test-server.ts'

const NS = 'http://jabber.org/protocol/address'
const SERVICE = 'multicast.localhost'
const accounts = { romeo: 'pw', juliet: 'pw', nurse: 'pw', paris: 'pw' }

describe('XEP-0033 extended stanza addressing', () => {
  let test: TestServer
  let romeo: Client
  const others = new Map<string, Client>()
  const open = async (user: string): Promise<Client> => {
    const client = await connect({ host: test.host, port: test.tlsPort, domain: test.domain, tls: 'direct', user, password: 'pw', resource: 'x' })
    client.send('<presence/>')
    await client.ping()
    return client
  }
  const get = (user: string): Client => others.get(user) as Client

  before(async () => {
    test = await startTestServer({ accounts, config: TEST_CONFIG.replace('  mod_ping: {}', '  mod_ping: {}\n  mod_multicast: {limits: {local: {message: 3, presence: 3}}}') })
    romeo = await open('romeo')
    for (const user of ['juliet', 'nurse', 'paris']) others.set(user, await open(user))
  })
  after(async () => {
    for (const client of [romeo, ...others.values()]) await client.disconnect()
    await test[Symbol.asyncDispose]()
  })

  let sent = 0
  /** Sends a message to the service and answers its id. */
  const send = (addresses: string, more = '<body>Hello</body>'): string => {
    const id = `m${++sent}`
    romeo.send(`<message to='${SERVICE}' id='${id}'><addresses xmlns='${NS}'>${addresses}</addresses>${more}</message>`)
    return id
  }
  const received = (client: Client, id: string): Promise<Element> => client.receive((each) => each.attrs['id'] === id)
  const shown = (message: Element): (string | undefined)[][] => message.getChildren('addresses', NS).flatMap((each) => each.getChildren('address')).map(({ attrs }) => [attrs['type'], attrs['jid'], attrs['delivered']])
  const refused = async (id: string): Promise<string | undefined> => {
    const answer = await received(romeo, id)
    expect([answer.attrs['type'], answer.attrs['from']]).to.deep.equal(['error', SERVICE])
    return answer.getChild('error')?.getChildElements()[0]?.getName()
  }

  it('§2: is found among the services', async () => {
    const items = await romeo.sendIq("<iq type='get' to='localhost'><query xmlns='http://jabber.org/protocol/disco#items'/></iq>")
    expect(items.getChild('query')?.getChildren('item').map((each) => each.attrs['jid'])).to.include(SERVICE)
    const info = await romeo.sendIq(`<iq type='get' to='${SERVICE}'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>`)
    expect(info.getChild('query')?.getChildren('feature').map((each) => each.attrs['var'])).to.include(NS)
  })

  it('§6: delivers to all, from the sender; who gets a blind copy is seen by themselves alone', async () => {
    const id = send("<address type='to' jid='juliet@localhost' desc='Juliet'/><address type='cc' jid='nurse@localhost'/><address type='bcc' jid='paris@localhost'/><address type='replyto' jid='romeo@localhost/x'/>")
    const all = [['to', 'juliet@localhost', 'true'], ['cc', 'nurse@localhost', 'true'], ['replyto', 'romeo@localhost/x', undefined]]
    for (const [user, more] of [['juliet', []], ['nurse', []], ['paris', [['bcc', 'paris@localhost', undefined]]]] as const) {
      const message = await received(get(user), id)
      expect([message.attrs['from'], message.attrs['to'], message.getChildText('body')], user).to.deep.equal([romeo.jid, `${user}@localhost`, 'Hello'])
      expect(shown(message), user).to.deep.equal([...all, ...more])
    }
  })

  it('§4.5: delivers to nobody who has it, and to nobody twice', async () => {
    const id = send("<address type='to' jid='juliet@localhost'/><address type='bcc' jid='juliet@localhost'/><address type='cc' jid='nurse@localhost' delivered='true'/>")
    expect(shown(await received(get('juliet'), id))).to.deep.equal([['to', 'juliet@localhost', 'true'], ['cc', 'nurse@localhost', 'true']])
    const next = send("<address type='to' jid='juliet@localhost'/><address type='to' jid='nurse@localhost'/>")
    const seen: (string | undefined)[] = []
    for (const user of ['juliet', 'nurse']) {
      const stop = get(user).on((each) => { if (each.name === 'message') seen.push(each.id) })
      await received(get(user), next)
      stop()
    }
    expect(seen).to.not.include(id)
  })

  it('keeps it for who is away', async () => {
    await get('paris').disconnect()
    const id = send("<address type='to' jid='paris@localhost'/>")
    await romeo.ping()
    const paris = await connect({ host: test.host, port: test.tlsPort, domain: test.domain, tls: 'direct', user: 'paris', password: 'pw', resource: 'x' })
    others.set('paris', paris)
    paris.send('<presence/>')
    expect(shown(await received(paris, id))).to.deep.equal([['to', 'paris@localhost', 'true']])
  })

  it('§8: refuses what cannot be delivered to all, and delivers it to nobody', async () => {
    const juliet = "<address type='to' jid='juliet@localhost'/>"
    expect(await refused(send(`${juliet}<address type='to' jid='a@localhost'/><address type='cc' jid='b@localhost'/><address type='bcc' jid='c@localhost'/>`))).to.equal('not-acceptable')
    expect(await refused(send(`${juliet}<address type='to' uri='sip:juliet@localhost'/>`))).to.equal('jid-malformed')
    expect(await refused(send(`${juliet}<address type='to' jid='@'/>`))).to.equal('jid-malformed')
    expect(await refused(send(`${juliet}<address type='to'/>`))).to.equal('bad-request')
    expect(await refused(send(`${juliet}<address jid='nurse@localhost'/>`))).to.equal('bad-request')
    expect(await refused(send(`${juliet}<address type='to' jid='nurse@localhost' uri='sip:n@localhost'/>`))).to.equal('bad-request')
    expect(await refused(send(`${juliet}<address type='bcc' jid='${SERVICE}'/>`)), 'for ever to itself').to.equal('forbidden')
    const delivered = Array.from({ length: 104 }, (_, at) => `<address type='to' jid='a@localhost/${at}' delivered='true'/>`).join('')
    expect(await refused(send(juliet + delivered)), 'also of addresses that nothing is delivered to').to.equal('not-acceptable')
    romeo.send(`<message to='${SERVICE}' id='none'><body>Hello</body></message>`)
    expect(await refused('none')).to.equal('bad-request')
    const last = send(juliet)
    const seen: (string | undefined)[] = []
    const stop = get('juliet').on((each) => { if (each.name === 'message') seen.push(each.id) })
    await received(get('juliet'), last)
    stop()
    expect(seen).to.deep.equal([last])
  })

  it('§5.1: who was shown a presence hears of its end, by the service or of the session', async () => {
    const show = async (client: Client): Promise<void> => {
      client.send(`<presence to='${SERVICE}'><addresses xmlns='${NS}'><address type='bcc' jid='juliet@localhost/x'/><address type='bcc' jid='nurse@localhost'/></addresses><status>here</status></presence>`)
      for (const user of ['juliet', 'nurse']) expect((await get(user).receive((each) => each.name === 'presence' && each.attrs['from'] === client.jid && each.attrs['type'] === undefined)).getChildText('status')).to.equal('here')
    }
    const gone = async (client: Client): Promise<void> => {
      for (const user of ['juliet', 'nurse']) await get(user).receive((each) => each.name === 'presence' && each.attrs['from'] === client.jid && each.attrs['type'] === 'unavailable')
    }
    await show(romeo)
    romeo.send(`<presence to='${SERVICE}' type='unavailable'/>`)
    await gone(romeo)
    const tablet = await connect({ host: test.host, port: test.tlsPort, domain: test.domain, tls: 'direct', user: 'romeo', password: 'pw', resource: 'tablet' })
    await show(tablet)
    const { jid } = tablet
    tablet.destroy()
    await gone({ jid } as Client)
  })
})

describe('mod_multicast', () => {
  it('§2.2: who is not of this server reaches nobody else by it', async () => {
    const config = TEST_CONFIG.replace('  mod_ping: {}', '  mod_ping: {}\n  mod_multicast: {}').replace('local: { allow: all }', 'local: { allow: ours }').replace('access_rules:', 'acl: { ours: { server: localhost } }\naccess_rules:')
      .replace('listen:\n', 'listen:\n  - { port: 0, ip: 127.0.0.1, module: ejabberd_service, hosts: { a.example: { password: x }, b.example: { password: x } } }\n')
    await using test = await startTestServer({ accounts, config })
    const port = test.server.ports.find(({ module }) => module === 'ejabberd_service')?.port ?? 0
    const [outside, elsewhere] = await Promise.all(['a.example', 'b.example'].map((domain) => ComponentClient.connect({ host: '127.0.0.1', port, domain, secret: 'x' }))) as [ComponentClient, ComponentClient]
    const romeo = await connect({ host: test.host, port: test.tlsPort, domain: test.domain, tls: 'direct', user: 'romeo', password: 'pw' })
    romeo.send('<presence/>')
    await romeo.ping()
    const romeoAt = "<address type='to' jid='romeo@localhost'/>"
    const message = (id: string, from: string, addresses: string): string => `<message ${from} to='${SERVICE}' id='${id}'><addresses xmlns='${NS}'>${addresses}</addresses><body>Hello</body></message>`
    for (const [id, type] of [['1', 'to'], ['2', 'cc'], ['3', 'bcc']] as const) {
      outside.send(message(id, "from='x@a.example'", `${romeoAt}<address type='${type}' jid='y@b.example'/>`))
      const answer = await outside.receive((each) => each.attrs['id'] === id)
      expect([answer.attrs['type'], answer.element().getChild('error')?.getChildElements()[0]?.getName()], type).to.deep.equal(['error', 'forbidden'])
    }
    outside.send(message('4', "from='x@a.example'", romeoAt))
    expect((await romeo.receive((each) => each.name === 'message')).attrs).to.include({ id: '4', from: 'x@a.example' })
    romeo.send(message('5', '', "<address type='to' jid='y@b.example'/>"))
    expect((await elsewhere.receive((each) => each.name === 'message')).attrs).to.include({ id: '5', from: romeo.jid })
    await romeo.disconnect()
    for (const client of [outside, elsewhere]) client.connection.destroy()
  })

  it('is for those whom the access rule allows', async () => {
    await using test = await startTestServer({ accounts, config: TEST_CONFIG.replace('  mod_ping: {}', '  mod_ping: {}\n  mod_multicast: {access: none}') })
    const romeo = await connect({ host: test.host, port: test.tlsPort, domain: test.domain, tls: 'direct', user: 'romeo', password: 'pw' })
    romeo.send(`<message to='${SERVICE}' id='m'><addresses xmlns='${NS}'><address type='to' jid='juliet@localhost'/></addresses></message>`)
    expect((await romeo.receive((each) => each.attrs['id'] === 'm')).getChild('error')?.getChild('forbidden')).to.not.equal(undefined)
    await romeo.disconnect()
  })
})
