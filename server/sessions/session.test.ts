import { expect } from 'chai'
import { Client, connect, type ConnectOptions, type IqError, login, type ResumeState } from '../../lib/client/client.ts'
import type { Connection } from '../../lib/client/connection.ts'
import { CLIENT_NS, makeStanza, type Stanza } from '../../lib/stanza/stanza.ts'
import { StreamError } from '../../lib/stream/errors.ts'
import { type HeldStorage, openHeldStorage, startTestServer, TEST_CONFIG, type TestServer } from '../test-server.ts'
import type { Storage } from '../storage/shapes.ts'
import type { Management, Session } from './session.ts'

describe('a session that is resumed', () => {
  let server: TestServer
  let held: HeldStorage | undefined

  beforeEach(async () => { server = await startTestServer({ accounts: { romeo: 'pencil', juliet: 'pencil' } }) })
  afterEach(async () => {
    held?.release()
    await server[Symbol.asyncDispose]()
  })

  const optionsOf = (user: string, more: Partial<ConnectOptions> = {}): ConnectOptions => ({
    host: server.host, port: server.port, domain: server.domain, tls: 'none', user, password: 'pencil', resource: 'balcony', sm: true, ...more,
  })

  /** A client whose messages are all heard, also those that come with `<resumed/>`. */
  async function open(user: string, more: Partial<ConnectOptions> = {}): Promise<{ client: Client; bodies: string[] }> {
    const options = optionsOf(user, more)
    const { connection, features } = await login(options)
    const client = new Client(connection, false)
    const bodies: string[] = []
    client.on((stanza: Stanza) => {
      const body = stanza.name === 'message' ? stanza.find('body', 'jabber:client') : undefined
      if (body !== undefined) bodies.push(stanza.childElement(body).getText())
    })
    await client.start(features, options)
    return { client, bodies }
  }

  /** A client that never says what it has received. */
  async function unacknowledging(more: Partial<ConnectOptions> = {}): Promise<Client> {
    const options = optionsOf('juliet', more)
    const { connection, features } = await login(options)
    const client = new Client(connection, true)
    client.acknowledges = false
    await client.start(features, options)
    return client
  }

  async function say(...bodies: string[]): Promise<void> {
    const romeo = await connect(optionsOf('romeo'))
    for (const body of bodies) romeo.send(`<message to='juliet@localhost/balcony' type='chat'><body>${body}</body></message>`)
    await romeo.requestAck()
    await romeo.disconnect()
  }

  function management(): Management {
    return server.server.sessions.get('juliet@localhost/balcony')?.management as Management
  }

  /** Logs in, and loses the connection. */
  async function away(): Promise<ResumeState> {
    const { client } = await open('juliet')
    client.send('<presence/>')
    await client.ping()
    const state = client.resumeState()
    client.destroy()
    await client.closed
    // Until the server knows too, what the client said last may be on its way.
    await until(() => session()?.connected !== true)
    return state
  }

  /** Resumes; what comes is complete when the ping is answered. */
  async function back(state: ResumeState): Promise<{ bodies: string[]; client: Client }> {
    const { client, bodies } = await open('juliet', { resume: state })
    expect(client.resumed).to.equal(true)
    await client.ping()
    return { bodies, client }
  }

  /** Another server, with a configuration of its own. */
  async function configure(config: string, storage?: HeldStorage): Promise<void> {
    await server[Symbol.asyncDispose]()
    held = storage
    server = await startTestServer({ accounts: { romeo: 'pencil', juliet: 'pencil' }, config, ...(storage === undefined ? {} : { storage }) })
  }

  /** What answers a `<resume/>`. */
  async function resumption(state: ResumeState, h = state.received): Promise<string> {
    const { connection } = await login(optionsOf('juliet'))
    connection.write(`<resume xmlns='urn:xmpp:sm:3' previd='${state.id}' h='${h}'/>`)
    const answer = await connection.nextElement()
    connection.destroy()
    return answer.toString()
  }

  const session = (resource = 'balcony'): Session => server.server.sessions.get(`juliet@localhost/${resource}`) as Session
  const itemNotFound = (h: number): string => `<failed xmlns='urn:xmpp:sm:3' h='${h}'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>`

  it('is told what had been handled when it comes too late, also after a restart (XEP-0198 §5)', async () => {
    const state = await away()
    const { handled } = management()
    expect(handled).to.equal(2)
    session().close()
    expect(await resumption(state)).to.equal(itemNotFound(handled))
    await server.restart()
    expect(await resumption(state)).to.equal(itemNotFound(handled))
  })

  it('is told so too when it expired after the restart', async () => {
    const state = await away()
    await server.restart()
    session().close()
    await server.restart()
    expect(await resumption(state)).to.equal(itemNotFound(2))
  })

  it('keeps what it keeps long in memory of its own', async () => {
    const { client } = await open('juliet', { sm: true })
    client.send('<presence><status>here</status></presence>')
    await client.ping()
    const session = server.server.sessions.get('juliet@localhost/balcony') as Session
    session.send(makeStanza('message', {}, [{ name: 'body', xmlns: CLIENT_NS, text: '<body>before</body>' }]))
    client.destroy()
    await client.closed
    await say('after')
    const kept = [session.presence as Stanza, ...(session.management as Management).queue.map((each) => each.stanza).filter((each) => each.name === 'message')]
    expect(kept.map((each) => each.content.length)).to.have.lengthOf(3)
    for (const { content } of kept) expect(content.buffer.byteLength).to.equal(content.length)
  })

  it('counts the bytes of its queue across a restart', async () => {
    await configure(`${TEST_CONFIG}tidings: { limits: { resume_queue_bytes: 10000 } }\n`)
    await away()
    session().acknowledged(management().sent)
    await say('x'.repeat(4000))
    await server.restart()
    await say('y'.repeat(4000))
    expect(session().management?.queue).to.have.length(2)
    await say('z'.repeat(4000))
    expect(session()).to.equal(undefined)
    const { bodies, client } = await open('juliet', { sm: false })
    client.send('<presence/>')
    await client.ping()
    expect(bodies.map((body) => body[0])).to.deep.equal(['x', 'y', 'z'])
    await client.disconnect()
  })

  it('counts attributes as bytes of its queue', async () => {
    await configure(`${TEST_CONFIG}tidings: { limits: { resume_queue_bytes: 10000 } }\n`)
    await away()
    const romeo = await connect(optionsOf('romeo'))
    for (let id = 0; id < 3; id++) romeo.send(`<message to='juliet@localhost' type='chat' id='${String(id).padEnd(4000, '-')}'><body>b</body></message>`)
    await romeo.requestAck()
    await romeo.disconnect()
    expect(session()).to.equal(undefined)
  })

  it('has as many unacknowledged stanzas as max_ack_queue allows', async () => {
    await configure(TEST_CONFIG.replace('mod_stream_mgmt: {}', 'mod_stream_mgmt: { max_ack_queue: 5 }'))
    await away()
    session().acknowledged(management().sent)
    await say('1', '2', '3', '4', '5')
    expect(session().management?.queue).to.have.length(5)
    await server.restart()
    await say('6')
    expect(session()).to.equal(undefined)
    const { bodies, client } = await open('juliet', { sm: false })
    client.send('<presence/>')
    await client.ping()
    await client.ping()
    expect(bodies).to.deep.equal(['1', '2', '3', '4', '5', '6'])
    await client.disconnect()
  })

  const tooHigh = (h: number, sent: number): string => `<handled-count-too-high xmlns='urn:xmpp:sm:3' h='${h}' send-count='${sent}'/>`

  /** The stream error that answers a `<resume/>`. */
  async function refused(state: ResumeState, h: number): Promise<string> {
    const { connection } = await login(optionsOf('juliet'))
    connection.write(`<resume xmlns='urn:xmpp:sm:3' previd='${state.id}' h='${h}'/>`)
    for (;;) {
      const incoming = await connection.next()
      if (incoming.kind === 'element') return incoming.stanza.toString()
    }
  }

  it('ends when its client has received more than it was sent (XEP-0198 §6)', async () => {
    const state = await away()
    await say('one')
    const { sent } = management()
    expect(await refused(state, sent + 1)).to.contain('<undefined-condition ').and.contain(tooHigh(sent + 1, sent))
    expect(session()).to.equal(undefined)
    expect(await resumption(state)).to.equal(itemNotFound(2))
    expect(server.server.storage.offline.count('juliet@localhost')).to.equal(1)
  })

  it('ends so too after a restart, when how much was sent is known roughly', async () => {
    const state = await away()
    const { sent } = management()
    await say('one')
    await server.restart()
    const far = sent + 2 ** 25
    expect(await refused(state, far)).to.contain(`<handled-count-too-high xmlns='urn:xmpp:sm:3' h='${far}'`)
    expect(session()).to.equal(undefined)
    expect(server.server.storage.offline.count('juliet@localhost')).to.equal(1)
  })

  it('is not disturbed by that while it is connected', async () => {
    const { client, bodies } = await open('juliet')
    client.send('<presence/>')
    await client.ping()
    expect(await refused(client.resumeState(), 1000)).to.contain('handled-count-too-high')
    await say('one')
    await client.ping()
    expect(bodies).to.deep.equal(['one'])
    await client.disconnect()
  })

  it('goes on on another connection while the first is open, which is closed with a conflict (XEP-0198 §5)', async () => {
    const first = await open('juliet')
    first.client.acknowledges = false
    first.client.send('<presence/>')
    await first.client.ping()
    const state = first.client.resumeState()
    await say('one')
    await first.client.ping()
    const { bodies, client } = await back(state)
    expect(first.bodies).to.deep.equal(['one'])
    await first.client.closed
    expect(first.client.streamError?.condition).to.equal('conflict')
    expect(bodies).to.deep.equal(['one'])
    await say('two')
    await client.ping()
    expect(bodies).to.deep.equal(['one', 'two'])
    expect(session().ended).to.equal(false)
    await client.disconnect()
  })

  it('goes on on the last of two connections that resume it at once, and hears of its contacts after a restart', async () => {
    const storage = openHeldStorage()
    await configure(TEST_CONFIG, storage)
    befriend(storage)
    const state = await away()
    await say('one')
    await server.restart()
    const romeo = await open('romeo')
    romeo.client.send('<presence/>')
    await romeo.client.ping()
    const rivals = [(await login(optionsOf('juliet'))).connection, (await login(optionsOf('juliet'))).connection]
    storage.hold()
    for (const connection of rivals) connection.write(`<resume xmlns='urn:xmpp:sm:3' previd='${state.id}' h='${state.received}'/>`)
    await until(() => session().resumptions === 2)
    storage.release()
    const came: string[] = []
    while (!came.some((text) => text.startsWith('<presence '))) came.push((await (rivals[1] as Connection).nextElement()).toString())
    expect(came[0]).to.contain('<resumed ')
    expect(came.filter((text) => text.startsWith('<message '))).to.have.length(1)
    expect(came.at(-1)).to.contain("from='romeo@localhost/balcony'")
    for (const connection of rivals) connection.destroy()
    await romeo.client.disconnect()
  })

  it('has its requests handled once when their answers come after the connection is lost', async () => {
    const storage = openHeldStorage()
    await configure(TEST_CONFIG, storage)
    const { client } = await open('juliet')
    await client.ping()
    storage.hold()
    // Answered after its commit.
    client.send("<iq type='set' id='set'><query xmlns='jabber:iq:private'><a xmlns='urn:a'/></query></iq>")
    await until(() => storage.records.get('private', ['juliet@localhost', 'urn:a', 'a']) !== undefined)
    const { handled } = management()
    const state = client.resumeState()
    session().carrier?.close(new StreamError('connection-timeout'))
    await client.closed
    storage.release()
    await until(() => management().handled === handled + 1)
    const again = await connect(optionsOf('juliet', { resume: state }))
    expect(again.resumed).to.equal(true)
    expect(again.unacked).to.deep.equal([])
    expect((await again.receive((element) => element.attrs['id'] === 'set')).attrs['type']).to.equal('result')
    await again.disconnect()
  })

  it('is asked for an acknowledgement every few stanzas, and not again before it has answered (XEP-0198 §4)', async () => {
    const { connection, features } = await login(optionsOf('juliet'))
    const juliet = new Client(connection, false)
    juliet.acknowledges = false
    let asked = 0
    juliet.on((stanza) => { if (stanza.name === 'r') asked++ })
    await juliet.start(features, optionsOf('juliet'))
    for (let count = 0; count < 30; count++) await juliet.ping()
    expect(asked).to.equal(1)
    // The next time comes when some have come and a moment has passed, or many have come.
    juliet.acknowledge()
    for (let count = 0; count < 70; count++) await juliet.ping()
    expect(asked).to.equal(2)
    await juliet.disconnect()
  })

  it('gets a queue that is longer than what may wait for the network, in pieces', async () => {
    await configure(`${TEST_CONFIG}tidings: { limits: { outbound_bytes: 300000 } }\n`)
    const state = await away()
    const numbers = Array.from({ length: 40 }, (_, number) => String(number))
    await say(...numbers.map((number) => `${number} ${'x'.repeat(100_000)}`))
    const { client, bodies } = await open('juliet', { resume: state })
    expect(client.resumed).to.equal(true)
    await say('last')
    await until(() => bodies.length === 41 || client.ended)
    expect(bodies.map((body) => body.split(' ')[0])).to.deep.equal([...numbers, 'last'])
    await client.ping()
    await client.disconnect()
  })

  it('is available to its contacts while it waits, and unavailable when it ends (RFC 6121 §4.5)', async () => {
    befriend(server.server.storage)
    const romeo = await connect(optionsOf('romeo'))
    romeo.send('<presence><status>afield</status></presence>')
    await romeo.ping()
    romeo.destroy()
    const waiting = (): Session => server.server.sessions.get('romeo@localhost/balcony') as Session
    await until(() => !waiting().connected)
    const juliet = await connect(optionsOf('juliet'))
    juliet.send('<presence/>')
    const seen = await juliet.receive((element) => element.attrs['from'] === 'romeo@localhost/balcony')
    expect([seen.attrs['type'], seen.getChildText('status')]).to.deep.equal([undefined, 'afield'])
    waiting().close()
    expect((await juliet.receive((element) => element.attrs['from'] === 'romeo@localhost/balcony')).attrs['type']).to.equal('unavailable')
    await juliet.disconnect()
  })

  it('is active again when it goes on, and gets what was held back (XEP-0352 §5.1)', async () => {
    befriend(server.server.storage)
    const juliet = await open('juliet')
    juliet.client.send("<presence/><inactive xmlns='urn:xmpp:csi:0'/>")
    await juliet.client.ping()
    const state = juliet.client.resumeState()
    juliet.client.destroy()
    await until(() => !session().connected)
    const romeo = await connect(optionsOf('romeo'))
    romeo.send('<presence/>')
    await romeo.ping()
    expect(session().active).to.equal(false)
    const again = await connect(optionsOf('juliet', { resume: state }))
    await again.receive((element) => element.attrs['from'] === 'romeo@localhost/balcony')
    expect(session().active).to.equal(true)
    romeo.send('<presence><show>dnd</show></presence>')
    await again.receive((element) => element.getChildText('show') === 'dnd')
    for (const client of [again, romeo]) await client.disconnect()
  })

  for (const [name, config] of [['with an archive', TEST_CONFIG], ['without one', TEST_CONFIG.replace('  mod_mam: { default: always }\n', '')]] as const) {
    it(`dates what it sends again by when it came, also after a restart, ${name} (XEP-0203)`, async () => {
      await configure(config)
      const state = await away()
      const before = Date.now()
      await say('one')
      await server.restart()
      await say('two')
      const after = Date.now()
      await until(() => Date.now() > after)
      const client = await unacknowledging({ resume: state })
      await client.ping()
      const delays = client.inbox.filter((stanza) => stanza.name === 'message').flatMap((stanza) => stanza.element().getChildren('delay', 'urn:xmpp:delay'))
      expect(delays.map((delay) => delay.attrs['from'])).to.deep.equal(['localhost', 'localhost'])
      for (const delay of delays) expect(Date.parse(delay.attrs['stamp'] ?? '')).to.be.within(before, after)
      await client.disconnect()
    })
  }

  it('asks again after a restart for history whose pages were lost with the process (XEP-0313)', async () => {
    await say('one', 'two') // offline, and in the archive
    const first = await unacknowledging()
    await first.ping()
    const state = first.resumeState()
    await first.sendIq("<iq type='set' id='page'><query xmlns='urn:xmpp:mam:2'/></iq>")
    expect(first.inbox.filter((stanza) => stanza.has('result', 'urn:xmpp:mam:2'))).to.have.length(2)
    first.destroy()
    await until(() => !session().connected)
    // What the client had not read when it lost the connection.
    const unread = { ...state, unacked: [], acked: 2 }
    const again = await unacknowledging({ resume: unread })
    expect((await again.receive((element) => element.attrs['id'] === 'page')).attrs['type']).to.equal('result')
    expect(again.inbox.filter((stanza) => stanza.has('result', 'urn:xmpp:mam:2'))).to.have.length(2)
    again.destroy()
    await until(() => !session().connected)
    await server.restart()
    const late = await unacknowledging({ resume: unread })
    const answer = await late.receive((element) => element.attrs['id'] === 'page')
    expect(answer.attrs).to.include({ type: 'error', to: 'juliet@localhost/balcony' })
    expect(answer.getChild('error')?.attrs['type']).to.equal('wait')
    expect(late.inbox.filter((stanza) => stanza.has('result', 'urn:xmpp:mam:2'))).to.have.length(0)
    await late.disconnect()
  })

  it('does not keep its client from binding anew, whatever resource_conflict says', async () => {
    await configure(`resource_conflict: closenew\n${TEST_CONFIG}`)
    await away()
    await say('one')
    const { client, bodies } = await open('juliet')
    expect(client.jid).to.equal('juliet@localhost/balcony')
    client.send('<presence/>')
    await client.ping()
    await client.ping()
    expect(bodies).to.deep.equal(['one'])
    const conflict: unknown = await open('juliet').catch((error: unknown) => error)
    expect((conflict as IqError).condition).to.equal('conflict')
    await client.disconnect()
  })

  it('gets what came after a restart, although the client had counted further than storage knows', async () => {
    const state = await away()
    expect(state.received).to.be.greaterThan(0)
    server.server.sessions.get('juliet@localhost/balcony')?.acknowledged(management().sent)
    await server.restart()
    await say('one', 'two')
    await server.restart()
    await say('three')
    const { bodies, client } = await back(state)
    expect(bodies).to.deep.equal(['one', 'two', 'three'])
    await client.disconnect()
  })

  it('gets again after another restart what it was sent on resumption and did not acknowledge', async () => {
    const state = await away()
    await say('one', 'two')
    await server.restart()
    await say('three')
    const first = await open('juliet', { resume: state })
    first.client.destroy()
    await first.client.closed
    await server.restart()
    const { bodies, client } = await back(state)
    expect(bodies).to.deep.equal(['one', 'two', 'three'])
    await client.disconnect()
  })

  it('loses nothing when the first resumption is cut off before its answer', async () => {
    const state = await away()
    await say('one')
    for (let tries = 0; tries < 2; tries++) {
      const { connection } = await login(optionsOf('juliet'))
      connection.write(`<resume xmlns='urn:xmpp:sm:3' previd='${state.id}' h='${state.received}'/>`)
      connection.destroy()
    }
    const { bodies, client } = await back(state)
    expect(bodies).to.deep.equal(['one'])
    await client.disconnect()
  })

  it('counts on at 2^32, across a restart (XEP-0198 §4)', async () => {
    const state = await away()
    const edge = 2 ** 32 - 2
    server.server.sessions.get('juliet@localhost/balcony')?.acknowledged(management().sent)
    Object.assign(management(), { sent: edge, acknowledged: edge })
    server.server.storage.streams.acknowledged(state.id, edge)
    await say('one', 'two', 'three')
    expect(management().sent).to.equal(1)
    await server.restart()
    // The client had 'one' and 'two'.
    const { bodies, client } = await back({ ...state, received: 0 })
    expect(bodies).to.deep.equal(['three'])
    client.acknowledge()
    await client.ping()
    expect(management().queue.length).to.be.lessThan(2)
    await client.disconnect()
  })

  it('counts what was waiting for its commit when stream management was turned on', async () => {
    await say('one', 'two') // offline
    const { client, bodies } = await open('juliet', { sm: false })
    client.connection.write("<presence/><enable xmlns='urn:xmpp:sm:3' resume='true'/>")
    let counted = 0
    let counting = false
    client.on((stanza) => {
      if (stanza.name === 'enabled') counting = true
      else if (counting && stanza.isStanza) counted++
    })
    await client.ping()
    await client.ping()
    expect(bodies).to.deep.equal(['one', 'two'])
    expect(management().sent).to.equal(counted)
    await client.disconnect()
  })

  it('gives its messages to a client that came later, not to those that had them', async () => {
    const phone = await open('juliet')
    phone.client.send('<presence/>')
    await phone.client.ping()
    const desk = await open('juliet', { resource: 'desk' })
    desk.client.send('<presence/>')
    await desk.client.ping()
    phone.client.destroy()
    const romeo = await connect(optionsOf('romeo'))
    romeo.send("<message to='juliet@localhost' type='chat'><body>to all</body></message>")
    await romeo.requestAck()
    await new Promise((resolve) => { setTimeout(resolve, 5) })
    const late = await open('juliet', { resource: 'late' })
    late.client.send("<iq type='set' id='c'><enable xmlns='urn:xmpp:carbons:2'/></iq><presence/>")
    await late.client.ping()
    server.server.sessions.get('juliet@localhost/balcony')?.close()
    await late.client.ping()
    await desk.client.ping()
    expect(desk.bodies).to.deep.equal(['to all'])
    expect(late.bodies).to.deep.equal(['to all'])
    for (const { client } of [desk, late]) await client.disconnect()
    await romeo.disconnect()
  })
})

/** Juliet sees Romeo. */
function befriend({ records }: Storage): void {
  records.put('roster', ['juliet@localhost', 'romeo@localhost'], { subscription: 'to', groups: [] })
  records.put('roster', ['romeo@localhost', 'juliet@localhost'], { subscription: 'from', groups: [] })
}

async function until(so: () => boolean): Promise<void> {
  const end = Date.now() + 5000
  while (!so()) {
    if (Date.now() > end) throw new Error('it never came to pass')
    await new Promise((resolve) => setImmediate(resolve))
  }
}

describe('a session whose client is inactive (XEP-0352)', () => {
  it('counts only the bytes of what it still holds back, and says since when', async () => {
    await using server = await startTestServer({ accounts: { romeo: 'pencil', juliet: 'pencil' }, config: `${TEST_CONFIG}tidings: { limits: { held_bytes: 10000 } }\n` })
    const open = (user: string): Promise<Client> => connect({ host: server.host, port: server.port, domain: server.domain, tls: 'none', user, password: 'pencil', resource: 'balcony' })
    const [romeo, juliet] = [await open('romeo'), await open('juliet')]
    const statuses: number[] = []
    let late = NaN
    juliet.on((stanza) => {
      if (stanza.from?.startsWith('romeo') !== true) return
      statuses.push(Number(/<status>(\d+)/.exec(stanza.toString())?.[1]))
      const delay = stanza.element().getChild('delay', 'urn:xmpp:delay')
      if (delay?.attrs['from'] === 'localhost') late = Date.parse(delay.attrs['stamp'] ?? '')
    })
    const before = Date.now()
    juliet.send("<inactive xmlns='urn:xmpp:csi:0'/>")
    await juliet.ping()
    const presence = (number: number): string => `<presence to='juliet@localhost/balcony'><status>${String(number).padStart(4000, '0')}</status></presence>`
    for (let number = 0; number < 5; number++) romeo.send(presence(number))
    await romeo.ping()
    expect(statuses, 'the latest waits alone').to.deep.equal([])
    juliet.send("<active xmlns='urn:xmpp:csi:0'/>")
    await juliet.ping()
    expect(statuses).to.deep.equal([4])
    expect(late).to.be.within(before, Date.now())
    await juliet.disconnect()
    await romeo.disconnect()
  })

  it('gets what was held back when it sends something (XEP-0286)', async () => {
    await using server = await startTestServer({ accounts: { romeo: 'pencil', juliet: 'pencil' } })
    const open = (user: string): Promise<Client> => connect({ host: server.host, port: server.port, domain: server.domain, tls: 'none', user, password: 'pencil', resource: 'balcony' })
    const [romeo, juliet] = [await open('romeo'), await open('juliet')]
    juliet.send("<inactive xmlns='urn:xmpp:csi:0'/>")
    await juliet.ping()
    let shown = false
    juliet.on((stanza) => { shown ||= stanza.name === 'presence' })
    romeo.send("<presence to='juliet@localhost/balcony'/>")
    await romeo.ping()
    expect(shown).to.equal(false)
    juliet.send("<message to='romeo@localhost/balcony' type='chat'><body>Hi</body></message>")
    await juliet.receive((each) => each.name === 'presence')
    await juliet.disconnect()
    await romeo.disconnect()
  })
})
