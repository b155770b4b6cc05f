/** XMPP over WebSocket on a whole server: logins, chat with clients on TCP, resumption, and what hostile clients get. */
import { expect } from 'chai'
import { once } from 'node:events'
import { request } from 'node:https'
import { WebSocket } from 'ws'
import { type Client, connect, type ConnectOptions } from '../../lib/client/client.ts'
import { loginBySasl2 } from '../../lib/client/sasl2.ts'
import { parseElement } from '../../lib/xml/build.ts'
import type { Element } from '../../lib/xml/element.ts'
import { startTestServer, TEST_CONFIG, type TestServer } from '../test-server.ts'

const FRAMING = 'urn:ietf:params:xml:ns:xmpp-framing'
const STREAMS = 'http://etherx.jabber.org/streams'
const SM = 'urn:xmpp:sm:3'
const OPEN = `<open xmlns='${FRAMING}' to='localhost' version='1.0'/>`
const CONFIG = `${TEST_CONFIG.replace('/upload: mod_http_upload', '/upload: mod_http_upload, /ws: ejabberd_http_ws, /.well-known/host-meta: mod_host_meta')}  mod_host_meta: {}
tidings:
  limits:
    stanza_bytes: 40000
    pre_auth_stanza_bytes: 10000
    close_timeout: 1 second
    outbound_bytes: 1000000
    resume_queue_bytes: 4000000
`

/** What a browser has: a WebSocket, and the frames that came. */
class Page {
  readonly socket: WebSocket
  readonly frames: string[] = []
  #heard: (() => void) | undefined
  code: number | undefined

  constructor(socket: WebSocket) {
    this.socket = socket
    socket.on('message', (data: Buffer) => {
      this.frames.push(data.toString())
      this.#heard?.()
    })
    socket.on('error', () => undefined)
    socket.on('close', (code) => {
      this.code = code
      this.#heard?.()
    })
  }

  /** The next frame as the document that it is. */
  async next(): Promise<Element> {
    while (this.frames.length === 0) {
      if (this.code !== undefined) throw new Error(`closed with ${this.code}`)
      await new Promise<void>((resolve) => { this.#heard = resolve })
    }
    return parseElement(this.frames.shift() as string)
  }

  async closed(): Promise<number> {
    while (this.code === undefined) await new Promise<void>((resolve) => { this.#heard = resolve })
    return this.code
  }

  /** Sends what is wrong, and gives the stream error, the end of the stream included. */
  async refused(frame: string): Promise<string> {
    this.socket.send(frame)
    for (;;) {
      const element = await this.next()
      if (element.name !== 'stream:error') continue
      expect(element.attrs['xmlns:stream']).to.equal(STREAMS)
      expect(await this.next()).to.deep.include({ name: 'close', attrs: { xmlns: FRAMING } })
      expect(await this.closed()).to.equal(1000)
      return element.getChildElements()[0]?.name ?? ''
    }
  }
}

describe('WebSocket (RFC 7395)', () => {
  let site: TestServer
  const clients: { destroy(): void }[] = []
  afterEach(async () => {
    for (const each of clients.splice(0)) each.destroy()
    await site[Symbol.asyncDispose]()
  })

  async function start(config = CONFIG): Promise<void> {
    site = await startTestServer({ config, accounts: { romeo: 'secret', juliet: 'secret' } })
  }

  const webPort = (): number => (site.server.ports.find(({ module }) => module === 'ejabberd_http') as { port: number }).port
  const address = (): string => `wss://127.0.0.1:${webPort()}/ws`

  /** Opens a WebSocket as it is; the status when it is refused. */
  async function page(options: { protocols?: string[]; origin?: string } = {}): Promise<Page> {
    const socket = new WebSocket(address(), options.protocols ?? ['xmpp'], { rejectUnauthorized: false, ...(options.origin === undefined ? {} : { origin: options.origin }) })
    clients.push({ destroy: () => socket.terminate() })
    const made = new Page(socket)
    await new Promise<void>((resolve, reject) => {
      socket.on('open', resolve).on('error', reject)
    })
    return made
  }

  const refusal = (options: Parameters<typeof page>[0]): Promise<string> => page(options).then(() => 'open', (error: Error) => error.message)

  async function enter(user: string, more: Partial<ConnectOptions> = {}): Promise<Client> {
    const client = await connect({ host: site.host, port: site.port, domain: 'localhost', tls: 'starttls', user, password: 'secret', webSocket: address(), ...more })
    clients.push({ destroy: () => client.connection.destroy() })
    client.send('<presence/>')
    return client
  }

  const body = (client: Client, text: string): Promise<Element> => client.receive((element) => element.name === 'message' && element.getChildText('body') === text)

  it('logs in by SCRAM and restarts the stream, and chats with a client on TCP both ways', async () => {
    await start()
    const juliet = await enter('juliet')
    const { webSocket: _, ...overTcp } = { host: site.host, port: site.port, domain: 'localhost', tls: 'starttls' as const, user: 'romeo', password: 'secret', webSocket: '' }
    const romeo = await connect(overTcp)
    clients.push({ destroy: () => romeo.connection.destroy() })
    romeo.send('<presence/>')
    await romeo.ping()
    juliet.send(`<message to='${romeo.jid}' type='chat'><body>Wherefore art thou? &lt;é🌹</body></message>`)
    expect((await body(romeo, 'Wherefore art thou? <é🌹')).attrs['from']).to.equal(juliet.jid)
    romeo.send(`<message to='juliet@localhost' type='chat'><body>I take thee at thy word</body></message>`)
    expect((await body(juliet, 'I take thee at thy word')).attrs['from']).to.equal(romeo.jid)
    await juliet.disconnect()
    await romeo.disconnect()
  })

  it('§3.3 §3.9: opens with a document each, and offers neither STARTTLS nor channel bindings', async () => {
    await start()
    const one = await page()
    one.socket.send(OPEN)
    const open = await one.next()
    expect([open.name, open.attrs['xmlns'], open.attrs['from'], open.attrs['version']]).to.deep.equal(['open', FRAMING, 'localhost', '1.0'])
    expect(open.attrs['id']).to.match(/./)
    const features = await one.next()
    expect([features.name, features.attrs['xmlns:stream']]).to.deep.equal(['stream:features', STREAMS])
    const names = features.getChildElements().map((each) => each.name)
    expect(names).to.include('mechanisms').and.include('authentication').and.not.include('starttls').and.not.include('sasl-channel-binding')
    expect(features.toString()).not.to.contain('-PLUS')
    one.socket.send(`<close xmlns='${FRAMING}'/>`)
    expect((await one.next()).name).to.equal('close')
    expect(await one.closed()).to.equal(1000)
  })

  it('logs in by SASL2 and Bind 2 in one round trip, without a restart', async () => {
    await start()
    const { connection, success } = await loginBySasl2({ host: site.host, port: 0, domain: 'localhost', webSocket: address(), user: 'romeo', password: 'secret', pipelined: true, inline: `<bind xmlns='urn:xmpp:bind:0'><tag>page</tag><enable xmlns='${SM}' resume='true'/></bind>` })
    clients.push(connection)
    expect(success.getChildText('authorization-identifier')).to.match(/^romeo@localhost\/page/)
    expect(success.getChild('bound', 'urn:xmpp:bind:0')?.getChild('enabled', SM)?.attrs['resume']).to.equal('true')
    expect((await connection.nextElement()).name).to.equal('features')
    connection.write("<iq type='get' id='p'><ping xmlns='urn:xmpp:ping'/></iq>")
    expect((await connection.nextElement()).id).to.equal('p')
  })

  it('§3.6 XEP-0198 §5: a connection that is lost leaves the session to be resumed, on TCP and back', async () => {
    await start()
    const romeo = await enter('romeo')
    let juliet = await enter('juliet', { sm: true })
    const { jid } = juliet
    const { webSocket: _, ...overTcp } = { host: site.host, port: site.port, domain: 'localhost', tls: 'starttls' as const, user: 'juliet', password: 'secret', sm: true, webSocket: '' }
    for (const [round, options] of [overTcp, { ...overTcp, webSocket: address() }].entries()) {
      await juliet.ping()
      const resume = juliet.resumeState()
      juliet.connection.destroy()
      await juliet.closed
      for (let i = 0; i < 5; i++) romeo.send(`<message to='${jid}' type='chat'><body>${round}-${i}</body></message>`)
      await romeo.ping()
      juliet = await connect({ ...options, resume })
      const { connection } = juliet
      clients.push({ destroy: () => connection.destroy() })
      expect([juliet.resumed, juliet.jid]).to.deep.equal([true, jid])
      for (let i = 0; i < 5; i++) await body(juliet, `${round}-${i}`)
    }
    juliet.send(`<message to='${romeo.jid}' type='chat'><body>still here</body></message>`)
    await body(romeo, 'still here')
  })

  it('§3.6: a stream that its client closes ends its session', async () => {
    await start()
    const juliet = await enter('juliet', { sm: true })
    const romeo = await enter('romeo')
    const resume = juliet.resumeState()
    await juliet.disconnect()
    romeo.send("<message to='juliet@localhost' type='chat'><body>later</body></message>")
    await romeo.ping()
    const again = await enter('juliet', { sm: true, resume })
    expect(again.resumed).to.equal(false)
    await body(again, 'later')
  })

  it('§3.1: takes the subprotocol xmpp alone, and nothing that is no WebSocket', async () => {
    await start()
    expect((await page({ protocols: ['mqtt', 'xmpp'] })).socket.protocol).to.equal('xmpp')
    expect((await page()).socket.extensions).to.equal('')
    expect(await refusal({ protocols: ['mqtt'] })).to.contain('400')
    expect(await refusal({ protocols: [] })).to.contain('400')
    const [response] = (await once(request({ host: '127.0.0.1', port: webPort(), path: '/ws', rejectUnauthorized: false }).end(), 'response')) as [import('node:http').IncomingMessage]
    response.resume()
    expect([response.statusCode, response.headers.upgrade]).to.deep.equal([426, 'websocket'])
  })

  it('websocket_origin: takes pages of the origins that are named, and clients that are no page', async () => {
    await start(`${CONFIG}websocket_origin: ["https://chat.example"]\n`)
    expect((await page({ origin: 'https://chat.example' })).socket.readyState).to.equal(WebSocket.OPEN)
    expect((await page()).socket.readyState).to.equal(WebSocket.OPEN)
    expect(await refusal({ origin: 'https://evil.example' })).to.contain('403')
    expect(await refusal({ origin: 'null' })).to.contain('403')
  })

  for (const [what, frame, condition] of [
    ['another namespace', "<open xmlns='jabber:client' to='localhost' version='1.0'/>", 'invalid-namespace'],
    ['a stream header of TCP', `<stream:stream xmlns='jabber:client' xmlns:stream='${STREAMS}' to='localhost' version='1.0'>`, 'bad-format'],
    ['an element before the stream', "<presence xmlns='jabber:client'/>", 'bad-format'],
    ['no element', 'hello', 'not-well-formed'],
    ['an empty frame', '', 'not-well-formed'],
    ['another host', `<open xmlns='${FRAMING}' to='elsewhere.example' version='1.0'/>`, 'host-unknown'],
  ] as const) {
    it(`§3.5: begins with ${what}: ${condition}, within a stream`, async () => {
      await start()
      const one = await page()
      one.socket.send(frame)
      expect((await one.next()).name).to.equal('open')
      const error = await one.next()
      expect([error.name, error.getChildElements()[0]?.name]).to.deep.equal(['stream:error', condition])
      expect((await one.next()).name).to.equal('close')
      await one.closed()
    })
  }

  for (const [what, frame, condition] of [
    ['two elements', '<presence/><presence/>', 'not-well-formed'],
    ['an element and the end of TCP', '<presence/></stream:stream>', 'not-well-formed'],
    ['the end of TCP', '</stream:stream>', 'not-well-formed'],
    ['a part of an element', "<message to='romeo@localhost'><body>", 'not-well-formed'],
    ['a tag that is cut off', "<message to='romeo", 'not-well-formed'],
    ['text behind the element', '<presence/>x', 'bad-format'],
    ['white space alone', ' ', 'not-well-formed'],
    ['a comment', '<!-- x -->', 'restricted-xml'],
    ['a second open', OPEN, 'bad-format'],
    ['a stream header of TCP', `<stream:stream xmlns:stream='${STREAMS}' to='localhost'/>`, 'bad-format'],
    ['too large a stanza', `<message><body>${'x'.repeat(40_000)}</body></message>`, 'policy-violation'],
    ['open within an element', `<message><open xmlns='${FRAMING}'/></message><presence/>`, 'not-well-formed'],
  ] as const) {
    it(`§3.3.3: after the login, ${what}: ${condition}`, async () => {
      await start()
      const client = await enter('juliet')
      await client.ping()
      const { connection } = client
      connection.write(Buffer.from(frame))
      await client.closed
      expect(client.streamError?.condition).to.equal(condition)
    })
  }

  it('takes white space around an element, an XML declaration, and fragments', async () => {
    await start()
    const one = await page()
    one.socket.send(`<?xml version='1.0'?>${OPEN}\n`)
    expect((await one.next()).name).to.equal('open')
    expect((await one.next()).name).to.equal('stream:features')
    one.socket.send("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' ", { fin: false })
    one.socket.send(`mechanism='PLAIN'>${Buffer.from('\0juliet\0secret').toString('base64')}</auth>\n`, { fin: true })
    expect((await one.next()).name).to.equal('success')
    one.socket.send(OPEN)
    expect((await one.next()).name).to.equal('open')
    const features = await one.next()
    expect(features.getChild('bind', 'urn:ietf:params:xml:ns:xmpp-bind')).not.to.equal(undefined)
    one.socket.send("<iq xmlns='jabber:client' type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>")
    const bound = await one.next()
    expect([bound.name, bound.attrs['xmlns'], bound.attrs['type']]).to.deep.equal(['iq', 'jabber:client', 'result'])
  })

  it('handles frames in order that come while one of them takes long', async () => {
    await start()
    const one = await page()
    const plain = Buffer.from('\0juliet\0secret').toString('base64')
    one.socket.send(OPEN)
    one.socket.send(`<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>${plain}</auth>`)
    one.socket.send(OPEN)
    one.socket.send("<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>r</resource></bind></iq>")
    for (let i = 0; i < 50; i++) {
      one.socket.send(`<message to='juliet@localhost/r' id='m${i}'><body>${i}</body></message>`)
      one.socket.send(`<iq type='get' id='q${i}'><query xmlns='jabber:iq:roster'/></iq>`)
    }
    const ids: string[] = []
    while (ids.length < 100) {
      const { attrs: { id } } = await one.next()
      if (id !== undefined && /^[mq]\d/.test(id)) ids.push(id)
    }
    const of = (kind: string): string[] => ids.filter((id) => id.startsWith(kind))
    expect(of('m')).to.deep.equal(Array.from({ length: 50 }, (_each, i) => `m${i}`))
    expect(of('q')).to.deep.equal(Array.from({ length: 50 }, (_each, i) => `q${i}`))
  })

  it('§3.2: refuses frames of bytes, and messages without end', async () => {
    await start()
    const one = await page()
    one.socket.send(Buffer.from(OPEN))
    expect(await one.closed()).to.equal(1003)
    const other = await page()
    other.socket.send(OPEN)
    other.socket.send('<'.padEnd(200_000, 'x'))
    expect(await other.closed()).to.equal(1009)
  })

  it('§3.2: hears nothing that follows a frame of bytes', async () => {
    await start()
    const romeo = await enter('romeo')
    await romeo.ping()
    const one = await page()
    const plain = Buffer.from('\0juliet\0secret').toString('base64')
    for (const frame of [OPEN, `<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>${plain}</auth>`, OPEN, "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>"]) one.socket.send(frame)
    for (let element = await one.next(); element.attrs['id'] !== 'b'; element = await one.next()) expect(element.name).not.to.equal('stream:error')
    const say = (text: string): void => one.socket.send(`<message to='${romeo.jid}' type='headline'><body>${text}</body></message>`)
    say('before')
    one.socket.send(Buffer.from('<presence/>'))
    say('after')
    expect(await one.closed()).to.equal(1003)
    await body(romeo, 'before')
    await romeo.ping()
    expect(romeo.inbox.some((stanza) => stanza.toString().includes('after'))).to.equal(false)
  })

  it('RFC 6455: closes what breaks its rules', async () => {
    await start()
    for (const [bytes, code] of [
      ['818200000000c328', 1007], // Text that is no UTF-8.
      ['81023c2f', 1002], // Without a mask.
      ['c182000000003c2f', 1002], // A bit of an extension that was not agreed on.
      ['8b8000000000', 1002], // An operation that there is not.
    ] as const) {
      const one = await page()
      const { _socket } = one.socket as unknown as { _socket: import('node:net').Socket }
      _socket.write(Buffer.from(bytes, 'hex'))
      expect(await one.closed(), bytes).to.equal(code)
    }
  })

  it('counts wrong passwords and closes after a few', async () => {
    await start()
    const one = await page()
    one.socket.send(OPEN)
    const wrong = `<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>${Buffer.from('\0juliet\0wrong').toString('base64')}</auth>`
    for (let i = 0; i < 10; i++) one.socket.send(wrong)
    const seen: string[] = []
    for (let element = await one.next(); element.name !== 'close'; element = await one.next()) seen.push(element.name)
    expect(seen.filter((name) => name === 'failure')).to.have.length.within(2, 5)
    expect(seen.at(-1)).to.equal('stream:error')
  })

  it('closes a client that does not read, and a bystander goes on', async () => {
    await start()
    const juliet = await enter('juliet')
    const romeo = await enter('romeo')
    await juliet.ping()
    juliet.connection.stopReading()
    const text = 'x'.repeat(30_000)
    for (let i = 0; i < 600 && site.server.status().sessions === 2; i++) {
      romeo.send(`<message to='${juliet.jid}' type='headline'><body>${text}</body></message>`)
      await romeo.ping()
    }
    expect(site.server.status().sessions).to.equal(1)
  })

  it('§3.8: pings, and gives up a connection that does not answer, whose session stays', async () => {
    await start(`${CONFIG}websocket_ping_interval: 100 ms\n`)
    const one = await page()
    const plain = Buffer.from('\0juliet\0secret').toString('base64')
    for (const frame of [OPEN, `<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>${plain}</auth>`, OPEN, "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>", `<enable xmlns='${SM}' resume='true'/>`]) one.socket.send(frame)
    for (let element = await one.next(); element.name !== 'enabled'; element = await one.next()) expect(element.name).not.to.equal('stream:error')
    let pings = 0
    one.socket.on('ping', () => pings++)
    while (pings < 4) await once(one.socket, 'ping')
    expect(one.code).to.equal(undefined)
    one.socket.pause()
    for (let i = 0; i < 100 && !(await detached()); i++) await new Promise((resolve) => setTimeout(resolve, 50))
    expect([await detached(), site.server.status().sessions]).to.deep.equal([true, 1])
  })

  /** Whether no stream is open any more. */
  async function detached(): Promise<boolean> {
    return /^tidings_connections 0$/m.test(await site.server.metrics.render())
  }

  it('websocket_timeout: closes a connection that is silent', async () => {
    await start(`${CONFIG}websocket_ping_interval: 0\nwebsocket_timeout: 200 ms\n`)
    const one = await page()
    one.socket.send(OPEN)
    expect(await one.closed()).to.equal(1006)
  })

  it('lets a server stop whose clients do not answer', async () => {
    await start(CONFIG.replace('close_timeout: 1 second', 'close_timeout: 10 minutes'))
    const juliet = await enter('juliet')
    const one = await page()
    await juliet.ping()
    juliet.connection.stopReading()
    one.socket.pause()
    await site.server.close()
  })

  it('lets a server stop whose clients are connected, and resume when it is back', async () => {
    await start()
    const juliet = await enter('juliet', { sm: true })
    const idle = await page()
    await juliet.ping()
    const resume = juliet.resumeState()
    await site.restart()
    await juliet.closed
    await idle.closed()
    const again = await connect({ host: site.host, port: 0, domain: 'localhost', user: 'juliet', password: 'secret', webSocket: address(), sm: true, resume })
    clients.push({ destroy: () => again.connection.destroy() })
    expect(again.resumed).to.equal(true)
    await again.ping()
  })
})

