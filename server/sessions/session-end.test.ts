import { expect } from 'chai'
import { Client, type ConnectOptions, login } from '../../lib/client/client.ts'
import { parseDateTime } from '../../lib/stanza/delay.ts'
import type { Stanza } from '../../lib/stanza/stanza.ts'
import { StreamError } from '../../lib/stream/errors.ts'
import { openHeldStorage, startTestServer, TEST_CONFIG, type TestServer } from '../test-server.ts'
import type { Storage } from '../storage/shapes.ts'
import type { Session } from './session.ts'

const ACCOUNTS = { romeo: 'pencil', juliet: 'pencil' }
const NO_ARCHIVE = TEST_CONFIG.replace('  mod_mam: { default: always }\n', '')
const JULIET = 'juliet@localhost'

/** A client and all stanzas that came to it. */
interface Player {
  readonly client: Client
  readonly got: Stanza[]
  bodies(): string[]
}

describe('a session that ends with what its client has not acknowledged', () => {
  let server: TestServer
  let romeo: Player

  afterEach(async () => { await server[Symbol.asyncDispose]() })

  async function start(config = TEST_CONFIG, storage?: Storage): Promise<void> {
    server = await startTestServer({ accounts: ACCOUNTS, config, ...(storage === undefined ? {} : { storage }) })
    romeo = await open('romeo', 'orchard')
  }

  async function open(user: string, resource: string, more: Partial<ConnectOptions> = {}): Promise<Player> {
    const options: ConnectOptions = { host: server.host, port: server.port, domain: server.domain, tls: 'none', user, password: 'pencil', resource, sm: true, ...more }
    const { connection, features } = await login(options)
    const client = new Client(connection, false)
    const got: Stanza[] = []
    client.on((stanza) => { if (stanza.isStanza) got.push(stanza) })
    await client.start(features, options)
    return { client, got, bodies: () => got.filter((stanza) => stanza.name === 'message').map(bodyOf) }
  }

  /** Juliet's client is there and then loses its connection. */
  async function away(resource = 'phone', priority = 0): Promise<void> {
    const { client } = await open('juliet', resource)
    client.send(`<presence><priority>${priority}</priority></presence>`)
    await client.ping()
    client.destroy()
    await until(() => session(resource)?.connected !== true)
    session(resource).acknowledged(session(resource).management?.sent as number)
  }

  async function available(resource: string, more: Partial<ConnectOptions> & { priority?: number; carbons?: boolean } = {}): Promise<Player> {
    const player = await open('juliet', resource, more)
    if (more.carbons === true) await player.client.sendIq("<iq type='set'><enable xmlns='urn:xmpp:carbons:2'/></iq>")
    player.client.send(`<presence><priority>${more.priority ?? 0}</priority></presence>`)
    await player.client.ping()
    await player.client.ping()
    return player
  }

  const session = (resource: string): Session => server.server.sessions.get(`${JULIET}/${resource}`) as Session
  const offline = (): number => server.server.storage.offline.count(JULIET)

  async function romeoSends(...stanzas: string[]): Promise<void> {
    for (const stanza of stanzas) romeo.client.send(stanza)
    await romeo.client.requestAck()
  }

  const message = (body: string, to = JULIET, type = 'chat', more = ''): string => `<message to='${to}' type='${type}' id='${body}'><body>${body}</body>${more}</message>`

  it('leaves its messages in the offline queue beyond its limit, dated when they came, also after a restart (XEP-0198 §4)', async () => {
    await start(NO_ARCHIVE.replace('max_user_offline_messages: 1000', 'max_user_offline_messages: 2'))
    await away()
    const before = Date.now()
    await romeoSends(message('1'), message('2'), message('3'))
    await server.restart()
    romeo = await open('romeo', 'orchard')
    await romeoSends(message('4'), message('5'))
    const after = Date.now()
    await until(() => Date.now() > after)
    session('phone').close()
    expect(offline()).to.equal(5)
    await romeoSends(message('6'))
    await romeo.client.ping()
    expect(romeo.got.filter((stanza) => stanza.type === 'error').map((stanza) => `${stanza.id} ${conditionOf(stanza)}`)).to.deep.equal(['6 service-unavailable'])
    const late = await available('late')
    expect(late.bodies()).to.deep.equal(['1', '2', '3', '4', '5'])
    const stamps = late.got.filter((stanza) => stanza.name === 'message').map(stampOf)
    expect(stamps).to.deep.equal(stamps.toSorted((a, b) => a - b))
    expect(stamps[0]).to.be.within(before, after)
    expect(stamps[4]).to.be.within(before, after)
    expect(offline()).to.equal(0)
  })

  it('leaves them in the order in which they came, before what has been put into the queue since', async () => {
    await start(NO_ARCHIVE)
    await away('phone', -1)
    await romeoSends(message('1', `${JULIET}/phone`), message('2'), message('3', `${JULIET}/phone`), message('4'))
    expect(offline()).to.equal(2)
    session('phone').close()
    expect((await available('late')).bodies()).to.deep.equal(['1', '2', '3', '4'])
  })

  it('gives them to a session that replaces it, in order', async () => {
    await start()
    await away()
    await romeoSends(message('1'), message('2'))
    const again = await available('phone')
    expect(again.bodies()).to.deep.equal(['1', '2'])
    expect(offline()).to.equal(0)
  })

  it('gives them to a session that replaces it while it is connected, which is closed with a conflict', async () => {
    await start()
    const first = await open('juliet', 'phone')
    first.client.acknowledges = false
    first.client.send('<presence/>')
    await first.client.ping()
    await romeoSends(message('1'), message('2'))
    await first.client.ping()
    const again = await available('phone')
    expect(((await first.client.closed) as StreamError).condition).to.equal('conflict')
    expect(first.bodies()).to.deep.equal(['1', '2'])
    expect(again.bodies()).to.deep.equal(['1', '2'])
  })

  it('gives a client more offline messages than it may have unacknowledged', async () => {
    await start(NO_ARCHIVE.replace('mod_stream_mgmt: {}', 'mod_stream_mgmt: { max_ack_queue: 5 }'))
    await romeoSends(...Array.from({ length: 20 }, (_, number) => message(String(number))))
    expect(offline()).to.equal(20)
    const juliet = await open('juliet', 'phone')
    juliet.client.acknowledges = false
    juliet.client.send('<presence/>')
    await juliet.client.ping()
    await juliet.client.ping()
    expect(juliet.bodies()).to.have.length(20)
    expect(session('phone').ended).to.equal(false)
    juliet.client.acknowledge()
    await juliet.client.ping()
    expect(session('phone').management?.queue).to.have.length(1)
  })

  for (const sm of [true, false]) {
    it(`gives a client ${sm ? 'with' : 'without'} stream management more offline messages than may wait for the network, and those that come meanwhile behind`, async () => {
      await start(`${NO_ARCHIVE}tidings: { limits: { outbound_bytes: 300000 } }\n`)
      const numbers = Array.from({ length: 40 }, (_, number) => String(number))
      await romeoSends(...numbers.map((number) => `<message to='${JULIET}' type='chat'><body>${number} ${'x'.repeat(100_000)}</body></message>`))
      const juliet = await open('juliet', 'phone', { sm })
      juliet.client.send('<presence/>')
      await until(() => session('phone').takesMessages)
      await romeoSends(message('last'))
      await until(() => juliet.bodies().length === 41 || juliet.client.ended)
      expect(juliet.bodies().map((body) => body.split(' ')[0])).to.deep.equal([...numbers, 'last'])
      await juliet.client.ping()
      await until(() => offline() === 0)
    })
  }

  for (const sm of [true, false]) {
    it(`so it does when the client ${sm ? 'with' : 'without'} stream management fetches them itself (XEP-0013 §2.6)`, async () => {
      await start(`${NO_ARCHIVE}tidings: { limits: { outbound_bytes: 300000, resume_queue_bytes: 300000 } }\n`)
      const numbers = Array.from({ length: 40 }, (_, number) => String(number))
      await romeoSends(...numbers.map((number) => `<message to='${JULIET}' type='chat'><body>${number} ${'x'.repeat(100_000)}</body></message>`))
      const juliet = await open('juliet', 'phone', { sm })
      await juliet.client.sendIq("<iq type='get'><offline xmlns='http://jabber.org/protocol/offline'><fetch/></offline></iq>")
      expect(juliet.bodies().map((body) => body.split(' ')[0])).to.deep.equal(numbers)
      expect(offline()).to.equal(40)
    })
  }

  it('counts what waits for the network when stream management is turned on', async () => {
    await start(`${NO_ARCHIVE}tidings: { limits: { outbound_bytes: 300000 } }\n`)
    await romeoSends(...Array.from({ length: 40 }, (_, number) => `<message to='${JULIET}' type='chat'><body>${number} ${'x'.repeat(100_000)}</body></message>`))
    const juliet = await open('juliet', 'phone', { sm: false })
    let counted: number | undefined
    juliet.client.on((stanza) => {
      if (stanza.name === 'enabled') counted = 0
      else if (counted !== undefined && stanza.isStanza) counted++
    })
    juliet.client.send("<presence/>")
    juliet.client.send("<enable xmlns='urn:xmpp:sm:3' resume='true'/>")
    await until(() => juliet.bodies().length === 40)
    await juliet.client.ping()
    expect(counted).to.be.greaterThan(1).and.equal(session('phone').management?.sent)
    expect(offline()).to.equal(0)
    // All that is not acknowledged.
    session('phone').close()
    expect(offline()).to.equal((counted as number) - 1)
  })

  it('leaves a client that does not read its messages, once more wait for it than may', async () => {
    await start(`${NO_ARCHIVE}tidings: { limits: { outbound_bytes: 300000 } }\n`)
    const big = (number: number): string => `<message to='${JULIET}' type='chat'><body>${number} ${'x'.repeat(100_000)}</body></message>`
    await romeoSends(...Array.from({ length: 100 }, (_, number) => big(number)))
    const juliet = await open('juliet', 'phone', { sm: false })
    juliet.client.connection.stopReading()
    juliet.client.send('<presence/>')
    await until(() => session('phone').takesMessages)
    let sent = 100
    // What counts is what comes after the network has stopped taking more, which may be a while.
    while (session('phone') !== undefined && sent < 200) await romeoSends(big(sent++))
    expect(session('phone')).to.equal(undefined)
    juliet.client.destroy()
    const late = await available('late')
    await until(() => late.bodies().at(-1)?.startsWith(`${sent - 1} `) === true)
    const numbers = late.bodies().map((body) => Number(body.split(' ')[0]))
    expect(numbers).to.deep.equal(Array.from({ length: numbers.length }, (_, at) => sent - numbers.length + at))
  })

  it('hands messages to the sessions that have not had them, with their date', async () => {
    await start(NO_ARCHIVE)
    const desk = await available('desk')
    const copied = await available('copied', { carbons: true })
    await away()
    const before = Date.now()
    await romeoSends(message('all'), message('one', `${JULIET}/phone`))
    const after = Date.now()
    const late = await available('late')
    await until(() => Date.now() > after)
    session('phone').close()
    for (const { client } of [desk, copied, late]) await client.ping()
    expect(desk.bodies()).to.deep.equal(['all', 'one'])
    expect(copied.bodies()).to.deep.equal(['all', 'carbon'])
    expect(late.bodies()).to.deep.equal(['all', 'one'])
    for (const stanza of late.got.filter((each) => each.name === 'message')) expect(stampOf(stanza)).to.be.within(before, after)
    expect(offline()).to.equal(0)
  })

  it('hands a message that is not copied (XEP-0280 §9) to clients with carbons too', async () => {
    await start()
    const desk = await available('desk', { carbons: true })
    await away()
    await romeoSends(message('private', `${JULIET}/phone`, 'chat', "<private xmlns='urn:xmpp:carbons:2'/>"))
    await desk.client.ping()
    expect(desk.bodies()).to.deep.equal([])
    session('phone').close()
    await desk.client.ping()
    expect(desk.bodies()).to.deep.equal(['private'])
  })

  it('hands messages to a client that took none when they came', async () => {
    await start()
    const desk = await available('desk', { priority: -1 })
    await away()
    await romeoSends(message('1'))
    desk.client.send('<presence><priority>1</priority></presence>')
    await desk.client.ping()
    session('phone').close()
    await desk.client.ping()
    expect(desk.bodies()).to.deep.equal(['1'])
  })

  it('leaves messages offline while all others have a negative priority (RFC 6121 §8.5.2.1.1)', async () => {
    await start()
    const desk = await available('desk', { priority: -1 })
    await away()
    await romeoSends(message('1'), message('2', `${JULIET}/phone`))
    session('phone').close()
    await desk.client.ping()
    expect(desk.bodies()).to.deep.equal([])
    expect(offline()).to.equal(2)
    desk.client.send('<presence><priority>0</priority></presence>')
    await desk.client.ping()
    await desk.client.ping()
    expect(desk.bodies()).to.deep.equal(['1', '2'])
  })

  it('drops headlines and errors, and bounces requests and what nobody keeps (RFC 6121 §8.5.3.2)', async () => {
    await start(NO_ARCHIVE.replace('mod_offline: {}', 'mod_offline: { bounce_groupchat: true }'))
    const desk = await available('desk')
    await away()
    const to = `${JULIET}/phone`
    await romeoSends(
      message('headline', to, 'headline'),
      `<message to='${to}' type='error' id='error'><error type='cancel'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>`,
      message('groupchat', to, 'groupchat'),
      `<iq to='${to}' type='get' id='get'><query xmlns='jabber:iq:version'/></iq>`,
      `<iq to='${to}' type='set' id='set'><query xmlns='urn:example'/></iq>`,
      `<iq to='${to}' type='result' id='result'/>`,
    )
    session('phone').close()
    await romeo.client.ping()
    await desk.client.ping()
    expect(romeo.got.filter((stanza) => stanza.type === 'error').map((stanza) => `${stanza.name} ${stanza.id} ${stanza.from} ${conditionOf(stanza)}`)).to.deep.equal([
      `message groupchat ${to} service-unavailable`, `iq get ${to} service-unavailable`, `iq set ${to} service-unavailable`,
    ])
    expect(desk.bodies()).to.deep.equal([])
    expect(offline()).to.equal(0)
  })

  it('does not hand back what stays in the offline queue until its client removes it (XEP-0013)', async () => {
    await start(NO_ARCHIVE)
    await romeoSends(message('1'), message('2'))
    const juliet = await open('juliet', 'phone')
    juliet.client.acknowledges = false
    await juliet.client.sendIq("<iq type='get'><offline xmlns='http://jabber.org/protocol/offline'><fetch/></offline></iq>")
    expect(juliet.bodies()).to.deep.equal(['1', '2'])
    session('phone').close()
    expect(offline()).to.equal(2)
  })

  describe('and clients that cannot resume', () => {
    /** Sends while nothing is committed, looks, lets the commits through, and waits until the offline queue is empty. */
    async function held(send: () => void, kept: number, players: readonly Player[], sender = romeo): Promise<void> {
      storage.hold()
      send()
      // Behind the message, and not waiting for anything.
      await sender.client.ping()
      expect(offline()).to.equal(kept)
      for (const player of players) expect(player.bodies()).to.deep.equal([])
      storage.release()
      await until(() => offline() === 0)
    }

    let storage: ReturnType<typeof openHeldStorage>
    beforeEach(() => { storage = openHeldStorage() })

    for (const [config, tls, name] of [[TEST_CONFIG, 'none', 'with an archive'], [NO_ARCHIVE, 'none', 'without an archive'], [TEST_CONFIG, 'direct', 'under TLS'], [TEST_CONFIG, 'starttls', 'after STARTTLS']] as const) {
      it(`keeps an acknowledged message offline until the client's network has it, ${name}`, async () => {
        await start(config, storage)
        const juliet = await available('phone', { sm: false, tls, port: tls === 'direct' ? server.tlsPort : server.port })
        await held(() => romeo.client.send(message('1')), 1, [juliet])
        await juliet.client.ping()
        expect(juliet.bodies()).to.deep.equal(['1'])
        // A live message, not one that was late.
        expect(juliet.got.find((stanza) => stanza.name === 'message')?.has('delay', 'urn:xmpp:delay')).to.equal(false)
      })
    }

    it('keeps it once for several of them', async () => {
      await start(TEST_CONFIG, storage)
      const players = [await available('phone', { sm: false }), await available('desk', { sm: false })]
      await held(() => romeo.client.send(message('1')), 1, players)
      for (const player of players) {
        await player.client.ping()
        expect(player.bodies()).to.deep.equal(['1'])
      }
    })

    it('keeps nothing when another client of the account can resume, nor when nothing is acknowledged to the sender', async () => {
      await start(TEST_CONFIG, storage)
      const phone = await available('phone', { sm: false })
      const other = await open('romeo', 'plain', { sm: false })
      await held(() => other.client.send(message('1')), 0, [], other)
      await phone.client.ping()
      const desk = await available('desk')
      await held(() => romeo.client.send(message('2')), 0, [])
      for (const player of [phone, desk]) await player.client.ping()
      expect(phone.bodies()).to.deep.equal(['1', '2'])
      expect(desk.bodies()).to.deep.equal(['2'])
    })

    it('keeps what a session hands back to them', async () => {
      await start(TEST_CONFIG, storage)
      await away()
      await romeoSends(message('1'))
      const desk = await available('desk', { sm: false })
      await held(() => session('phone').close(), 1, [desk])
      await desk.client.ping()
      expect(desk.bodies()).to.deep.equal(['1'])
    })

    it('leaves it offline when the client is gone before the commit', async () => {
      await start(TEST_CONFIG, storage)
      const phone = await available('phone', { sm: false })
      storage.hold()
      romeo.client.send(message('1'))
      await romeo.client.ping()
      phone.client.destroy()
      await until(() => session('phone') === undefined)
      storage.release()
      expect(offline()).to.equal(1)
      const late = await available('late', { sm: false })
      expect(late.bodies()).to.deep.equal(['1'])
      await until(() => offline() === 0)
    })
  })

  it('leaves what a client read from the queue itself as it was, or gone (XEP-0013 §2.5)', async () => {
    await start(NO_ARCHIVE)
    await romeoSends(message('1'), message('2'))
    const ns = 'http://jabber.org/protocol/offline'
    const phone = await open('juliet', 'phone')
    const { client } = phone
    client.acknowledges = false
    await client.sendIq(`<iq type='get'><offline xmlns='${ns}'><fetch/></offline></iq>`)
    expect(phone.bodies()).to.deep.equal(['1', '2'])
    const [first] = await server.server.storage.offline.list(JULIET, 1)
    await client.sendIq(`<iq type='set'><offline xmlns='${ns}'><item action='remove' node='${first?.id}'/></offline></iq>`)
    session('phone').close()
    const left = (await server.server.storage.offline.list(JULIET, 9)).map(({ bytes }) => bytes.toString())
    expect(left).to.have.length(1)
    expect(left[0]).to.contain('<body>2</body>').and.not.contain(ns)
  })

  it('hands back what only looks like a copy (XEP-0280 §11) or a page of history', async () => {
    await start(NO_ARCHIVE)
    await away()
    await romeoSends(message('1', JULIET, 'chat', "<received xmlns='urn:xmpp:carbons:2'/>"), message('2', JULIET, 'chat', "<result xmlns='urn:xmpp:mam:2'/>"))
    session('phone').close()
    expect((await available('late')).bodies()).to.deep.equal(['1', '2'])
  })

  it('bounces messages when there is no offline queue', async () => {
    await start(NO_ARCHIVE.replace('  mod_offline: {}\n', ''))
    await away()
    await romeoSends(message('1'))
    session('phone').close()
    await romeo.client.ping()
    expect(romeo.got.filter((stanza) => stanza.type === 'error').map((stanza) => `${stanza.id} ${conditionOf(stanza)}`)).to.deep.equal(['1 service-unavailable'])
  })
})

function bodyOf(stanza: Stanza): string {
  const body = stanza.find('body', 'jabber:client')
  return body === undefined ? (stanza.has('received', 'urn:xmpp:carbons:2') ? 'carbon' : stanza.id ?? '') : stanza.childElement(body).getText()
}

/** When the server first had it (XEP-0203), ms. */
function stampOf(stanza: Stanza): number {
  const delays = stanza.element().getChildren('delay', 'urn:xmpp:delay')
  expect(delays).to.have.length(1)
  expect(delays[0]?.attrs['from']).to.equal('localhost')
  return parseDateTime(delays[0]?.attrs['stamp'] ?? '') as number
}

function conditionOf(stanza: Stanza): string | undefined {
  return stanza.element().getChild('error')?.getChildElements()[0]?.getName()
}

async function until(so: () => boolean): Promise<void> {
  const end = Date.now() + 5000
  while (!so()) {
    if (Date.now() > end) throw new Error('it never came to pass')
    await new Promise((resolve) => setImmediate(resolve))
  }
}
