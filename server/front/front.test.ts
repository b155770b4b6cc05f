/** Clients that connect to a node that is not the home of their account: three servers in one process. */
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { request } from 'node:https'
import net from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import tls from 'node:tls'
import { expect } from 'chai'
import { type Client, connect, type ConnectOptions, LoginError } from '../../lib/client/client.ts'
import { Connection } from '../../lib/client/connection.ts'
import { authenticate, loginBySasl2, type Sasl2Login, type Sasl2Options } from '../../lib/client/sasl2.ts'
import { makeAuthority } from '../../lib/net/client-certificate.fixture.ts'
import { parseElement } from '../../lib/xml/build.ts'
import type { Element } from '../../lib/xml/element.ts'
import type { NodeInfo } from '../cluster/shapes.ts'
import { SharedNodes, type SharedNode } from '../cluster/shared-units.fixture.ts'
import { defaultLimits } from '../config/limits.ts'
import { createLog } from '../log.ts'
import { startTestServer, TEST_CONFIG, type TestServer } from '../test-server.ts'
import { InternalListener } from './internal-listener.ts'
import type { PulseTimes } from './pulse.ts'

interface Site {
  readonly node: SharedNode
  readonly site: TestServer
  readonly listener: InternalListener
}

const SECRET = Buffer.from('known to all')
const SM = 'urn:xmpp:sm:3'
const SASL = 'urn:ietf:params:xml:ns:xmpp-sasl'
const SASL2 = 'urn:xmpp:sasl:2'
const PHONE = { id: 'd4565fa7-4d72-4749-b3d3-740edbf87770', text: '<software>AwesomeXMPP</software><device>Phone</device>' }
const BIND_ALL = `<bind xmlns='urn:xmpp:bind:0'><tag>AwesomeXMPP</tag><enable xmlns='urn:xmpp:carbons:2'/><enable xmlns='${SM}' resume='true'/></bind>`
const CONFIG = TEST_CONFIG
  .replace('mod_mam: { default: always }', 'mod_mam: { default: always }\n  mod_muc: {}')
  .replace('/bosh: mod_bosh', '/bosh: mod_bosh, /ws: ejabberd_http_ws')

describe('a node that is not the home of an account', () => {
  let all: SharedNodes
  let sites: Site[]
  const open: { destroy(): void }[] = []

  async function begin(config = CONFIG, first = config, times?: PulseTimes): Promise<void> {
    all = new SharedNodes()
    sites = []
    for (const name of ['a', 'b', 'c']) {
      const node = all.join(name)
      const listener = await InternalListener.open('127.0.0.1:0', createLog('silent'), times)
      node.address = listener.address
      sites.push({ node, listener, site: await startTestServer({ storage: node.storage, config: name === 'a' ? first : config, cluster: { units: node, secret: SECRET, listener } }) })
    }
    for (const name of ['romeo', 'juliet', 'mercutio']) {
      await at(0).site.server.register(`${name}@localhost`, 'secret')
      at(0).node.release(`${name}@localhost`)
    }
  }
  afterEach(async () => {
    for (const each of open.splice(0)) each.destroy()
    for (const { site } of sites) await site[Symbol.asyncDispose]()
  })

  const at = (index: number): Site => sites[index] as Site
  const message = (id: string) => (element: Element): boolean => element.getName() === 'message' && element.attrs['id'] === id
  const homeOf = (user: string): string | undefined => all.homes.get(`${user}@localhost`)
  /** Has an account live at a node. */
  const settle = (user: string, index: number): void => void all.homes.set(`${user}@localhost`, at(index).node.inc)
  const sessionsAt = (index: number): string[] => Array.from(at(index).site.server.sessions.all(), ({ jid }) => jid.toString())

  async function login(index: number, user: string, options: Partial<ConnectOptions> = {}): Promise<Client> {
    const { site } = at(index)
    const client = await connect({ host: site.host, port: options.tls === 'direct' ? site.tlsPort : site.port, domain: 'localhost', user, password: 'secret', resource: 'r', ...options })
    open.push(client)
    return client
  }

  async function sasl2(index: number, options: Partial<Sasl2Options> = {}): Promise<Sasl2Login> {
    const { site } = at(index)
    const result = await loginBySasl2({ host: site.host, port: site.tlsPort, domain: 'localhost', tls: 'direct', user: 'romeo', password: 'secret', ...options })
    open.push(result.connection)
    return result
  }

  /** A stream over TLS, up to the features. */
  async function stream(index: number, attrs: Record<string, string> = {}): Promise<{ connection: Connection; features: Element }> {
    const { site } = at(index)
    const connection = await Connection.open({ host: site.host, port: site.tlsPort, domain: 'localhost', direct: true })
    open.push(connection)
    connection.openStream(attrs)
    return { connection, features: (await connection.nextElement()).element() }
  }

  async function condition(attempt: Promise<unknown>): Promise<string> {
    try {
      await attempt
      return 'in'
    } catch (error) {
      if (error instanceof LoginError) return error.condition
      throw error
    }
  }

  describe('with a client of TCP', () => {
    beforeEach(() => begin())

    it('has every mechanism answered by the home, with channel binding to the connection that the client has', async () => {
      settle('romeo', 1)
      for (const tlsMode of ['starttls', 'direct'] as const) {
        for (const mechanism of ['SCRAM-SHA-512-PLUS', 'SCRAM-SHA-256-PLUS', 'SCRAM-SHA-1', 'PLAIN']) {
          const romeo = await login(0, 'romeo', { tls: tlsMode, mechanism, resource: mechanism })
          expect(romeo.jid).to.equal(`romeo@localhost/${mechanism}`)
          expect(sessionsAt(0)).to.deep.equal([])
          const session = at(1).site.server.sessions.get(romeo.jid)
          expect([session?.carrier?.address, session?.carrier?.secure]).to.deep.equal(['127.0.0.1', true])
          await romeo.disconnect()
        }
      }
    })

    it('does so on a connection without encryption too', async () => {
      settle('romeo', 1)
      const romeo = await login(0, 'romeo', { tls: 'none', mechanism: 'SCRAM-SHA-1' })
      expect([sessionsAt(0), sessionsAt(1)]).to.deep.equal([[], [romeo.jid]])
      expect(at(1).site.server.sessions.get(romeo.jid)?.carrier?.secure).to.equal(false)
    })

    it('gives an account that has no home to the node that the hash chooses, wherever its client comes', async () => {
      const homes: (string | undefined)[] = []
      for (const index of [0, 1, 2]) {
        const client = await login(index, 'mercutio', { resource: `r${index}` })
        homes.push(homeOf('mercutio'))
        expect(sessionsAt(sites.findIndex(({ node }) => node.inc === homes[0]))).to.include(client.jid)
        await client.disconnect()
        all.homes.delete('mercutio@localhost')
      }
      expect(new Set(homes).size).to.equal(1)
    })

    it('carries stanzas both ways, in order, with what was sent ahead', async () => {
      settle('romeo', 1)
      settle('juliet', 2)
      const juliet = await login(0, 'juliet')
      juliet.send('<presence/>')
      const { site } = at(0)
      const socket = tls.connect({ host: site.host, port: site.tlsPort, servername: 'localhost', rejectUnauthorized: false })
      open.push(socket)
      let text = ''
      socket.setEncoding('utf8').on('data', (chunk: string) => { text += chunk })
      const header = "<?xml version='1.0'?><s:stream xmlns='jabber:client' xmlns:s='http://etherx.jabber.org/streams' to='localhost' version='1.0'>"
      // All of it before the first answer.
      socket.write(`${header}<auth xmlns='${SASL}' mechanism='PLAIN'>${Buffer.from('\0romeo\0secret').toString('base64')}</auth>${header}`
        + "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>ahead</resource></bind></iq>"
        + Array.from({ length: 50 }, (_, i) => `<message to='juliet@localhost' type='chat' id='m${i}'><body>${i}</body></message>`).join(''))
      for (let i = 0; i < 50; i++) expect((await juliet.receive((element) => element.getName() === 'message')).attrs['id']).to.equal(`m${i}`)
      juliet.send("<message to='romeo@localhost/ahead' type='chat' id='back'><body>b</body></message>")
      while (!text.includes("id='back'")) await once(socket, 'data')
      socket.write('</s:stream>')
      await once(socket, 'end')
      expect(text.match(/<stream:stream |<success|<\/stream:features>|<iq |<message |<\/stream:stream>/g)).to.deep.equal(['<stream:stream ', '</stream:features>', '<success', '<stream:stream ', '</stream:features>', '<iq ', '<message ', '</stream:stream>'])
    })

    it('takes what comes in single bytes', async () => {
      settle('romeo', 1)
      const { connection } = await stream(0)
      for (const byte of `<auth xmlns='${SASL}' mechanism='PLAIN'>${Buffer.from('\0romeo\0secret').toString('base64')}</auth><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='localhost' version='1.0'>`) connection.write(byte)
      expect((await connection.nextElement()).name).to.equal('success')
    })

    it('asks for the first message of a login that it was not sent with', async () => {
      settle('romeo', 1)
      const { connection } = await stream(0)
      connection.write(`<auth xmlns='${SASL}' mechanism='PLAIN'/>`)
      expect(String(await connection.nextElement())).to.equal(`<challenge xmlns='${SASL}'/>`)
      connection.write(`<response xmlns='${SASL}'>${Buffer.from('\0romeo\0secret').toString('base64')}</response>`)
      expect((await connection.nextElement()).name).to.equal('success')
      const { connection: other } = await stream(0)
      other.write(`<authenticate xmlns='${SASL2}' mechanism='PLAIN'>${BIND_ALL}</authenticate>`)
      expect((await other.nextElement()).name).to.equal('challenge')
      other.write(`<response xmlns='${SASL2}'>${Buffer.from('\0romeo\0secret').toString('base64')}</response>`)
      expect(String(await other.nextElement())).to.contain('<success').and.contain('<bound')
    })

    it('lets the home say what was wrong, and another account be tried then', async () => {
      settle('romeo', 1)
      settle('juliet', 2)
      expect(await condition(login(0, 'romeo', { password: 'wrong' }))).to.equal('not-authorized')
      expect(await condition(login(0, 'nobody'))).to.equal('not-authorized')
      const { connection } = await stream(0)
      const plain = (user: string, password: string): void => { connection.write(`<auth xmlns='${SASL}' mechanism='PLAIN'>${Buffer.from(`\0${user}\0${password}`).toString('base64')}</auth>`) }
      plain('romeo', 'wrong')
      expect(String(await connection.nextElement())).to.contain('<not-authorized')
      plain('juliet', 'secret')
      expect((await connection.nextElement()).name).to.equal('success')
    })

    it('counts failed logins of one stream together', async () => {
      settle('romeo', 1)
      settle('juliet', 2)
      const { connection } = await stream(0)
      const answers: string[] = []
      for (const user of ['\0', 'romeo', 'juliet', 'romeo', 'juliet', 'romeo', 'juliet']) {
        connection.write(`<auth xmlns='${SASL}' mechanism='PLAIN'>${Buffer.from(`\0${user}\0wrong`).toString('base64')}</auth>`)
        const answer = await connection.nextElement().catch((error: unknown) => error)
        if (String(answer).includes('policy-violation') || String(answer).includes('too many failed logins')) break
        answers.push(String(answer))
      }
      expect(answers.length).to.equal(defaultLimits.authTries)
    })

    it('resumes a stream from wherever its client comes again (XEP-0198 §5)', async () => {
      settle('romeo', 1)
      settle('juliet', 2)
      const romeo = await login(0, 'romeo', { sm: true })
      const juliet = await login(1, 'juliet')
      romeo.send('<presence/>')
      await romeo.requestAck()
      const state = romeo.resumeState()
      romeo.destroy()
      await romeo.closed
      juliet.send("<message to='romeo@localhost' type='chat' id='away'><body>a</body></message>")
      await juliet.ping()
      const again = await login(2, 'romeo', { resume: state })
      expect(again.resumed).to.equal(true)
      await again.receive(message('away'))
    })
  })

  it('has the home keep to the limits of the listener that the client came to', async () => {
    await begin(CONFIG, CONFIG.replace('starttls: true }', 'starttls: true, max_stanza_size: 5000 }'))
    settle('romeo', 1)
    const large = `<message to='romeo@localhost' type='chat' id='large'><body>${'x'.repeat(6000)}</body></message>`
    const other = await login(2, 'romeo')
    other.send(`<presence/>${large}`)
    await other.receive(message('large'))
    const romeo = await login(0, 'romeo', { resource: 'limited' })
    romeo.send(large)
    await romeo.closed
    expect(romeo.streamError?.condition).to.equal('policy-violation')
  })

  describe('by SASL2', () => {
    beforeEach(() => begin())

    it('has the features shown by the home of the account that the stream header names', async () => {
      settle('romeo', 1)
      const { offer, success, connection } = await sasl2(0, { mechanism: 'SCRAM-SHA-256-PLUS', inline: BIND_ALL, agent: PHONE })
      expect(offer.getChild('authentication', SASL2)?.getChild('inline')?.getChild('fast', 'urn:xmpp:fast:0')).to.not.equal(undefined)
      expect(success.getChildText('authorization-identifier')).to.match(/^romeo@localhost\/AwesomeXMPP\//)
      expect((await connection.nextElement()).name).to.equal('features')
      expect([sessionsAt(0).length, sessionsAt(1).length]).to.deep.equal([0, 1])
    })

    it('works with all of it sent at once, and without an account in the header', async () => {
      settle('romeo', 1)
      const { success } = await sasl2(0, { mechanism: 'PLAIN', inline: BIND_ALL, agent: PHONE, pipelined: true })
      expect(success.getChild('bound', 'urn:xmpp:bind:0')?.getChild('enabled', SM)).to.not.equal(undefined)
      for (const mechanism of ['PLAIN', 'SCRAM-SHA-256-PLUS', 'SCRAM-SHA-1']) {
        const { connection } = await stream(2)
        const { success: other } = await authenticate(connection, { user: 'romeo', password: 'secret', mechanism, agent: PHONE, inline: BIND_ALL })
        expect(other.getChild('bound', 'urn:xmpp:bind:0'), mechanism).to.not.equal(undefined)
      }
      expect([sessionsAt(0).length, sessionsAt(1).length, sessionsAt(2).length]).to.deep.equal([0, 1, 0])
    })

    it('gives tokens that work anywhere, bound to the connection (XEP-0484), and resumes in the same step', async () => {
      settle('romeo', 1)
      const request = "<request-token xmlns='urn:xmpp:fast:0' mechanism='HT-SHA-256-EXPR'/>"
      const { success, connection } = await sasl2(0, { mechanism: 'SCRAM-SHA-256-PLUS', inline: `${request}${BIND_ALL}`, agent: PHONE })
      const token = success.getChild('token', 'urn:xmpp:fast:0')?.attrs['token'] ?? ''
      const sm = success.getChild('bound', 'urn:xmpp:bind:0')?.getChild('enabled', SM)?.attrs['id'] ?? ''
      expect(token).to.not.equal('')
      connection.destroy()
      const { success: again } = await sasl2(2, { mechanism: 'HT-SHA-256-EXPR', token, agent: PHONE, pipelined: true, inline: `<resume xmlns='${SM}' previd='${sm}' h='0'/>` })
      expect(again.getChild('resumed', SM)?.attrs['previd']).to.equal(sm)
      const { connection: without } = await stream(0)
      const { success: third } = await authenticate(without, { user: 'romeo', mechanism: 'HT-SHA-256-EXPR', token, agent: PHONE, inline: BIND_ALL })
      expect(third.getChild('bound', 'urn:xmpp:bind:0')).to.not.equal(undefined)
      expect(await condition(sasl2(0, { mechanism: 'HT-SHA-256-EXPR', token: 'wrong', agent: PHONE }))).to.equal('not-authorized')
    })
  })

  describe('with certificates of clients', () => {
    it('believes what the node has checked that the client is connected to (XEP-0178 §2)', async () => {
      const authority = await makeAuthority()
      const dir = mkdtempSync(path.join(tmpdir(), 'tidings-'))
      try {
        writeFileSync(path.join(dir, 'ca.pem'), authority.certificate)
        await begin(`${CONFIG}\nc2s_cafile: ${path.join(dir, 'ca.pem')}\n`)
        settle('romeo', 1)
        const given = await authority.issue(['romeo@localhost'])
        const { site } = at(0)
        const socket = tls.connect({ host: site.host, port: site.tlsPort, servername: 'localhost', rejectUnauthorized: false, ...given })
        open.push(socket)
        await once(socket, 'secureConnect')
        let text = ''
        socket.setEncoding('utf8').on('data', (chunk: string) => { text += chunk })
        socket.write("<stream:stream to='localhost' version='1.0' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>")
        while (!text.includes('</stream:features>')) await once(socket, 'data')
        expect(text).to.contain('<mechanism>EXTERNAL</mechanism>')
        socket.write(`<auth xmlns='${SASL}' mechanism='EXTERNAL'>=</auth>`)
        while (!/<success|<failure/.test(text)) await once(socket, 'data')
        expect(text).to.contain('<success')
        await at(1).site.server.close()
      } finally {
        rmSync(dir, { recursive: true })
      }
    })
  })

  describe('when the home', () => {
    beforeEach(() => begin())

    it('has moved meanwhile, the client is served where it is now', async () => {
      settle('romeo', 1)
      const find = at(0).node.find.bind(at(0).node)
      // What is known of it is old.
      at(0).node.find = async (unit) => unit === 'romeo@localhost' ? at(2).node.inc : find(unit)
      const romeo = await login(0, 'romeo')
      expect(sessionsAt(1)).to.deep.equal([romeo.jid])
    })

    it('is gone and another takes its place, the client waits for that', async () => {
      settle('romeo', 1)
      const { address } = at(1).node
      at(1).node.address = '127.0.0.1:1'
      setTimeout(() => { at(1).node.address = address }, 300)
      const romeo = await login(0, 'romeo')
      expect(sessionsAt(1)).to.deep.equal([romeo.jid])
    })

    it('is gone without a word, with its machine, the client\'s connection ends when the others have noticed', async () => {
      settle('romeo', 1)
      settle('juliet', 2)
      const romeo = await login(0, 'romeo', { sm: true })
      const juliet = await login(0, 'juliet', { sm: true })
      const { node } = at(1)
      all.nodes.delete(node.inc)
      all.changed([node.inc])
      expect(await romeo.closed).to.equal(undefined)
      expect(romeo.streamError).to.equal(undefined)
      await juliet.ping()
    })

    it('ends while the client is there, the client\'s connection ends with its stream unfinished, and it resumes elsewhere', async () => {
      settle('romeo', 1)
      const romeo = await login(0, 'romeo', { sm: true })
      const state = romeo.resumeState()
      all.kill(at(1).node)
      expect(await romeo.closed).to.equal(undefined)
      expect(romeo.streamError).to.equal(undefined)
      const again = await login(0, 'romeo', { resume: state })
      expect(again.resumed).to.equal(true)
      expect(homeOf('romeo')).to.not.equal(at(1).node.inc)
    })
  })

  describe('when nothing gets through between it and the home, which both live', () => {
    const wires: Wire[] = []
    afterEach(() => { for (const wire of wires.splice(0)) wire.close() })

    beforeEach(async () => {
      await begin(CONFIG, CONFIG, { everyMs: 50, silentMs: 500 })
      settle('romeo', 1)
      settle('juliet', 2)
      settle('mercutio', 1)
    })

    /** A wire by which a node reaches another, and the others do not. */
    async function wire(from: number, to: number): Promise<Wire> {
      const between = await Wire.to(at(to).node.address)
      wires.push(between)
      const { node } = at(from)
      const kind = Object.getPrototypeOf(node) as object
      const { inc } = at(to).node
      Object.defineProperty(node, 'nodes', { get: () => (Reflect.get(kind, 'nodes', node) as NodeInfo[]).map((each) => each.inc === inc ? { ...each, address: between.address } : each) })
      return between
    }

    it('the client is let go, and is served by way of another node, with all that came meanwhile', async () => {
      const between = await wire(0, 1)
      const romeo = await login(0, 'romeo', { sm: true })
      romeo.send('<presence/>')
      await romeo.ping()
      const juliet = await login(2, 'juliet')
      juliet.send('<presence/>')
      await juliet.ping()
      between.cut()
      romeo.send("<message to='juliet@localhost' id='lost' type='chat'><body>Where are you?</body></message>")
      juliet.send("<message to='romeo@localhost' id='waits' type='chat'><body>Here</body></message>")
      expect(await romeo.closed).to.equal(undefined)
      expect(romeo.streamError).to.equal(undefined)
      const again = await login(0, 'romeo', { resume: romeo.resumeState() })
      expect(again.resumed).to.equal(true)
      await again.receive(message('waits'))
      await juliet.receive(message('lost'))
      expect(sessionsAt(1)).to.deep.equal([again.jid])
    })

    it('who logs in is served by way of another node at once', async () => {
      const between = await wire(0, 1)
      between.cut()
      for (const user of ['romeo', 'mercutio']) {
        const client = await login(0, user)
        await client.ping()
        expect(sessionsAt(1)).to.include(client.jid)
        await client.disconnect()
      }
    })

    it('a request of BOSH that waits there is let go unanswered, and is answered when it is sent again (XEP-0124 §14.3)', async () => {
      const between = await wire(0, 1)
      const ask = (index: number, attributes: string): Promise<Element> => new Promise((resolve, reject) => {
        const { port } = at(index).site.server.ports.find(({ module, tls: isSecure }) => module === 'ejabberd_http' && isSecure) as { port: number }
        const asked = request({ host: '127.0.0.1', port, path: '/bosh', method: 'POST', headers: { 'Content-Type': 'text/xml; charset=utf-8' }, rejectUnauthorized: false, agent: false }, (response) => {
          const parts: Buffer[] = []
          response.on('data', (part: Buffer) => parts.push(part)).on('error', reject).on('end', () => { resolve(parseElement(Buffer.concat(parts))) })
        })
        asked.on('error', reject)
        asked.end(`<body xmlns='http://jabber.org/protocol/httpbind' xmlns:xmpp='urn:xmpp:xbosh' ${attributes}/>`)
      })
      const { attrs: { sid } } = await ask(1, "rid='10' to='localhost' xmpp:version='1.0' wait='5' hold='1' ver='1.6'")
      const held = ask(0, `rid='11' sid='${sid}'`).then(() => 'answered', () => 'let go')
      // It is there.
      await new Promise((resolve) => { setTimeout(resolve, 300) })
      between.cut()
      expect(await held).to.equal('let go')
      const answer = await ask(0, `rid='11' sid='${sid}'`)
      expect([answer.getName(), answer.attrs['type']]).to.deep.equal(['body', undefined])
      expect((await ask(0, `rid='12' sid='${sid}' type='terminate'`)).attrs['type']).to.equal('terminate')
    })

    it('the home lets the session go too, for its client to resume', async () => {
      const between = await wire(0, 1)
      const romeo = await login(0, 'romeo', { sm: true })
      await romeo.ping()
      between.cut()
      const session = at(1).site.server.sessions.get(romeo.jid)
      while (session?.carrier !== undefined) await new Promise((resolve) => { setTimeout(resolve, 20) })
    })
  })

  it('holds what a client does not read at the home, not in between', async () => {
    await begin()
    settle('romeo', 1)
    settle('juliet', 2)
    const romeo = await login(0, 'romeo')
    romeo.send('<presence/>')
    await romeo.ping()
    const juliet = await login(2, 'juliet')
    romeo.connection.stopReading()
    const text = 'x'.repeat(100_000)
    for (let i = 0; i < 100; i++) {
      juliet.send(`<message to='${romeo.jid}' type='chat' id='m${i}'><body>${text}</body></message>`)
      if (i % 10 === 9) await juliet.ping()
    }
    const session = at(1).site.server.sessions.get(romeo.jid)
    // Either it is still held back there, or the home has ended it as it would have ended any other that does not read.
    expect(session === undefined || (session.carrier?.backlog ?? 0) > 100_000).to.equal(true)
    const waiting = /^tidings_front_waiting_bytes (\d+)/m.exec(await at(0).site.server.metrics.render())?.[1]
    expect(Number(waiting)).to.be.lessThan(200_000)
    romeo.connection.startReading()
  })

  describe('the internal listener', () => {
    beforeEach(() => begin())

    async function speak(bytes: (nonce: Buffer) => Buffer): Promise<Buffer> {
      const { address } = at(1).node
      const socket = net.connect(Number(address.split(':')[1]), '127.0.0.1')
      open.push(socket)
      const parts: Buffer[] = []
      socket.on('data', (chunk: Buffer) => {
        if (parts.push(chunk) === 1) socket.write(bytes(chunk))
      })
      await once(socket, 'close')
      return Buffer.concat(parts)
    }

    it('says nothing to who does not know the secret', async () => {
      const { passengerHeader, NONCE_BYTES } = await import('./passenger-header.ts')
      const client = { address: '192.0.2.1', secure: true, tls: undefined, binding: undefined, certificate: undefined, transport: 'bytes', listener: {}, failures: 0, repeated: 0 } as const
      for (const bytes of [
        () => Buffer.from("<stream:stream to='localhost'>"),
        (nonce: Buffer) => passengerHeader(Buffer.from('another'), nonce, 'romeo@localhost', client),
        // One that was made for another connection.
        () => passengerHeader(SECRET, Buffer.alloc(NONCE_BYTES), 'romeo@localhost', client),
        () => Buffer.from('PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n'),
      ]) expect((await speak(bytes)).length).to.equal(NONCE_BYTES)
    })

    it('may be a Unix socket, where the processes are on one machine', async () => {
      const dir = mkdtempSync(path.join(tmpdir(), 'tidings-'))
      const { openLink } = await import('./link.ts')
      await using listener = await InternalListener.open(`unix:${dir}/clients`, createLog('silent'))
      const units: string[] = []
      listener.serve(SECRET, { admits: async (unit) => { units.push(unit); return { kind: 'busy' } }, take: () => false, request: () => false, through: () => Promise.reject(new Error('no way')), join: () => undefined })
      const client = { address: '192.0.2.1', secure: true, tls: undefined, binding: undefined, certificate: undefined, transport: 'bytes', listener: {}, failures: 0, repeated: 0 } as const
      expect(await openLink({ address: listener.address, secret: SECRET, connectTimeoutMs: 2000, timeoutMs: 2000 }, 'romeo@localhost', client)).to.deep.equal({ kind: 'busy' })
      expect(units).to.deep.equal(['romeo@localhost'])
      // One with another secret is not believed either.
      expect(await openLink({ address: listener.address, secret: Buffer.from('another'), connectTimeoutMs: 2000, timeoutMs: 2000 }, 'romeo@localhost', client).catch((error: Error) => error.message)).to.contain('ended')
      rmSync(dir, { recursive: true })
    })

    it('refuses what stands for nobody of its own', async () => {
      const { passengerHeader, readAnswer, NONCE_BYTES } = await import('./passenger-header.ts')
      settle('romeo', 2)
      const client = { address: '192.0.2.1', secure: true, tls: undefined, binding: undefined, certificate: undefined, transport: 'bytes', listener: {}, failures: 0, repeated: 0 } as const
      let header: Buffer = Buffer.alloc(0)
      const heard = await speak((nonce) => (header = passengerHeader(SECRET, nonce, 'romeo@localhost', client)))
      expect(readAnswer(SECRET, header, heard.subarray(NONCE_BYTES))?.answer).to.deep.equal({ kind: 'elsewhere', inc: at(2).node.inc })
    })
  })
})

/** What leads from one process to another, and can be cut so that nobody is told. */
class Wire {
  readonly address: string
  readonly #server: net.Server
  readonly #sockets = new Set<net.Socket>()
  #isCut = false

  private constructor(server: net.Server, to: string) {
    this.#server = server
    this.address = `127.0.0.1:${(server.address() as net.AddressInfo).port}`
    server.on('connection', (near) => {
      const far = net.connect(Number(to.split(':')[1]), '127.0.0.1')
      for (const [one, other] of [[near, far], [far, near]] as const) {
        this.#sockets.add(one)
        one.on('error', () => undefined)
        one.on('data', (chunk) => { if (!this.#isCut) other.write(chunk) })
        one.on('close', () => { if (!this.#isCut) other.destroy() })
      }
    })
  }

  static async to(address: string): Promise<Wire> {
    const server = net.createServer()
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    return new Wire(server, address)
  }

  cut(): void { this.#isCut = true }

  close(): void {
    this.#server.close()
    for (const socket of this.#sockets) socket.destroy()
  }
}
