/** Listeners: proxies in front of them, Unix sockets, TLS options of their own, and what a connection counts as before it says anything. */
import { once } from 'node:events'
import { access, mkdtemp, rm, stat } from 'node:fs/promises'
import net from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import tls from 'node:tls'
import { expect } from 'chai'
import { connect, type ConnectOptions } from '../../lib/client/client.ts'
import { loadConfig } from '../config/config.ts'
import { startTestServer, type TestServer } from '../test-server.ts'

const BINARY = Buffer.from('0d0a0d0a000d0a515549540a', 'hex')
const binary = (command: number, family: number, block: Buffer = Buffer.alloc(0)): Buffer => Buffer.concat([BINARY, Buffer.from([command, family, block.length >> 8, block.length & 255]), block])
const FROM_SIX = binary(0x21, 0x21, Buffer.from('20010db8000000000000000000000007' + '20010db8000000000000000000000001' + '30391466', 'hex'))
const HEADER = "<stream:stream to='localhost' version='1.0' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"

function config(listen: readonly string[], more = ''): string {
  return `hosts: [localhost]\nloglevel: none\nlisten:\n${listen.map((each) => `  - {${each}}\n`).join('')}modules: {mod_roster: {}, mod_stream_mgmt: {}}\n${more}`
}

/** Sends bytes in pieces and gives what comes back until the connection is closed. */
async function say(port: number, pieces: readonly (string | Buffer)[]): Promise<string> {
  const socket = net.connect(port, '127.0.0.1').setNoDelay(true)
  let text = ''
  socket.on('data', (chunk: Buffer) => { text += String(chunk) })
  socket.on('error', () => undefined)
  await once(socket, 'connect')
  for (const piece of pieces) {
    socket.write(piece)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
  if (!socket.closed) await once(socket, 'close')
  return text
}

/** Connections that stay, each until it is closed. */
async function hold(port: number, count: number): Promise<net.Socket[]> {
  const all = await Promise.all(Array.from({ length: count }, async () => {
    const socket = net.connect(port, '127.0.0.1')
    socket.on('error', () => undefined).resume()
    await once(socket, 'connect')
    return socket
  }))
  return all
}

const closed = async (sockets: readonly net.Socket[], count: number): Promise<void> => {
  for (const end = Date.now() + 5000; sockets.filter((each) => each.closed).length < count && Date.now() < end; ) await new Promise((resolve) => setTimeout(resolve, 5))
  expect(sockets.filter((each) => each.closed)).to.have.length(count)
}

describe('listeners of clients', () => {
  let site: TestServer
  afterEach(async () => { await site[Symbol.asyncDispose]() })
  const start = async (listen: readonly string[], more?: string): Promise<readonly number[]> => {
    site = await startTestServer({ config: config(listen, more), accounts: { romeo: 'secret', juliet: 'secret' } })
    return site.server.ports.map(({ port }) => port)
  }
  const options = (port: number, more: Partial<ConnectOptions> = {}): ConnectOptions => ({ host: '127.0.0.1', port, domain: 'localhost', user: 'romeo', password: 'secret', timeoutMs: 5000, ...more })
  /** The address that the server knows a client by. */
  const seen = async (all: ConnectOptions): Promise<string | undefined> => {
    const client = await connect(all)
    try {
      return site.server.sessions.get(client.jid)?.address
    } finally {
      await client.disconnect()
    }
  }
  const C2S = 'port: 0, ip: 127.0.0.1, module: ejabberd_c2s'

  describe('behind a proxy', () => {
    const listen = [`${C2S}, starttls: true, use_proxy_protocol: true`, `${C2S}, tls: true, use_proxy_protocol: true`]

    it('take the client\'s address from the header, ahead of STARTTLS and of TLS', async () => {
      const [plain = 0, direct = 0] = await start(listen)
      const line = 'PROXY TCP4 192.0.2.7 198.51.100.1 56324 5222\r\n'
      expect(await seen(options(plain, { proxyHeader: line }))).to.equal('192.0.2.7')
      expect(await seen(options(plain, { proxyHeader: line, tls: 'none' }))).to.equal('192.0.2.7')
      expect(await seen(options(plain, { proxyHeader: FROM_SIX }))).to.equal('2001:db8::7')
      expect(await seen(options(direct, { proxyHeader: line, tls: 'direct' }))).to.equal('192.0.2.7')
      expect(await seen(options(direct, { proxyHeader: FROM_SIX, tls: 'direct' }))).to.equal('2001:db8::7')
      expect(await seen(options(plain, { proxyHeader: 'PROXY TCP6 ::ffff:192.0.2.8 ::1 1 2\r\n' }))).to.equal('192.0.2.8')
    })

    it('keep the connection\'s own address when the proxy names none', async () => {
      const [plain = 0] = await start(listen)
      for (const proxyHeader of [binary(0x20, 0x00), binary(0x20, 0x11, Buffer.alloc(12)), binary(0x21, 0x00), 'PROXY UNKNOWN\r\n']) expect(await seen(options(plain, { proxyHeader }))).to.equal('127.0.0.1')
    })

    it('take the header in any number of pieces, and the stream right behind it', async () => {
      const [plain = 0] = await start(listen)
      const bytes = Buffer.concat([FROM_SIX, Buffer.from(`${HEADER}</stream:stream>`)])
      expect(await say(plain, [bytes])).to.match(/<stream:features>.*<\/stream:stream>$/)
      expect(await say(plain, Array.from(bytes, (byte) => Buffer.from([byte])))).to.match(/<stream:features>.*<\/stream:stream>$/)
    })

    it('close what begins without a header, without a word', async () => {
      const [plain = 0, direct = 0] = await start(listen)
      for (const bytes of [HEADER, 'PROXY TCP4 1.2.3.4\r\n', Buffer.from('16030100c8010000c40303', 'hex'), binary(0x2f, 0x11, Buffer.alloc(12))]) {
        expect(await say(plain, [bytes])).to.equal('')
        expect(await say(direct, [bytes])).to.equal('')
      }
      expect(await site.server.metrics.render()).to.contain('tidings_refused_connections_total{reason="proxy-header"} 8')
    })

    it('do not wait for a header for ever', async () => {
      const [plain = 0] = await start(listen, 'tidings: {limits: {proxy_header_timeout: 200 ms}}\n')
      expect(await say(plain, ['PROXY TCP4 192.0.'])).to.equal('')
      expect(await say(plain, [])).to.equal('')
    })

    it('limit connections by the client\'s address, not by the proxy\'s', async () => {
      const [plain = 0] = await start(listen, 'tidings: {limits: {connections_per_address: 3}}\n')
      const sockets = await hold(plain, 8)
      for (const [index, socket] of sockets.entries()) socket.write(`PROXY TCP4 192.0.2.${index % 2} 198.51.100.1 1 2\r\n`)
      await closed(sockets, 2)
      for (const socket of sockets) socket.destroy()
    })

    it('end waiting connections with the server', async () => {
      const [plain = 0] = await start(listen)
      const sockets = await hold(plain, 3)
      await site.server.close()
      await closed(sockets, 3)
    })
  })

  it('without a proxy take a header for the beginning of a stream', async () => {
    const [plain = 0] = await start([`${C2S}, starttls: true`])
    expect(await say(plain, ['PROXY TCP4 192.0.2.7 198.51.100.1 56324 5222\r\n'])).to.match(/<stream:error>/)
  })

  describe('with TLS from the first byte', () => {
    it('count a handshake that is not over against the limit of its address', async () => {
      const [direct = 0] = await start([`${C2S}, tls: true`], 'tidings: {limits: {connections_per_address: 3}}\n')
      const sockets = await hold(direct, 5)
      await closed(sockets, 2)
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => setTimeout(resolve, 50))
      expect(await seen(options(direct, { tls: 'direct' }))).to.equal('127.0.0.1')
    })

    it('end a handshake that takes longer than the time before login', async () => {
      const [direct = 0] = await start([`${C2S}, tls: true`], 'tidings: {limits: {pre_auth_timeout: 200 ms, close_timeout: 100 ms, handshake_timeout: 1 h}}\n')
      // The beginning of a ClientHello.
      expect(await say(direct, [Buffer.from('160301020001000001fc0303', 'hex')])).to.equal('')
    })

    it('and after STARTTLS end a handshake that takes longer than it may', async () => {
      const [direct = 0, plain = 0] = await start([`${C2S}, tls: true`, `${C2S}, starttls: true`], 'tidings: {limits: {handshake_timeout: 200 ms}}\n')
      expect(await say(direct, [Buffer.from('160301020001000001fc0303', 'hex')])).to.equal('')
      expect(await say(plain, [HEADER, "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>", Buffer.from('160301020001000001fc0303', 'hex')])).to.match(/<proceed[^>]*>$/)
    })

    it('XEP-0368 §4: speak to clients that ask for xmpp-client or for nothing', async () => {
      const [direct = 0] = await start([`${C2S}, tls: true`])
      const ask = async (ALPNProtocols: string[]): Promise<string | false | null> => {
        const socket = tls.connect({ port: direct, host: '127.0.0.1', rejectUnauthorized: false, ALPNProtocols })
        const protocol = await once(socket, 'secureConnect').then(() => socket.alpnProtocol, () => 'refused')
        socket.destroy()
        return protocol
      }
      expect(await ask(['xmpp-client'])).to.equal('xmpp-client')
      expect(await ask([])).to.equal(false)
      expect(await ask(['http/1.1'])).to.equal('refused')
    })

    it('have TLS options of their own', async () => {
      const ports = await start([`${C2S}, tls: true, protocol_options: [no_tlsv1_3]`, `${C2S}, tls: true, protocol_options: [no_tlsv1_2]`, `${C2S}, starttls: true, ciphers: ECDHE-ECDSA-AES256-GCM-SHA384, protocol_options: [no_tlsv1_3]`])
      const version = async (port: number): Promise<string | null> => {
        const socket = tls.connect({ port, host: '127.0.0.1', rejectUnauthorized: false })
        await once(socket, 'secureConnect')
        const protocol = socket.getProtocol()
        socket.destroy()
        return protocol
      }
      expect([await version(ports[0] ?? 0), await version(ports[1] ?? 0)]).to.deep.equal(['TLSv1.2', 'TLSv1.3'])
      const plain = net.connect(ports[2] ?? 0, '127.0.0.1')
      plain.write(`${HEADER}<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>`)
      for (let text = ''; !text.includes('<proceed'); ) text += String((await once(plain, 'data'))[0])
      const secured = tls.connect({ socket: plain, rejectUnauthorized: false })
      await once(secured, 'secureConnect')
      expect([secured.getProtocol(), secured.getCipher().name]).to.deep.equal(['TLSv1.2', 'ECDHE-ECDSA-AES256-GCM-SHA384'])
      secured.destroy()
    })
  })

  it('may be Unix sockets, with the rights they are told', async () => {
    const dir = await mkdtemp(path.join(tmpdir(), 'c2s-'))
    const file = path.join(dir, 'c2s.sock')
    try {
      await start([`port: "unix:${file}", module: ejabberd_c2s, starttls: true, unix_socket: {mode: "0660"}`, `port: "unix:${file}.proxy", module: ejabberd_c2s, tls: true, use_proxy_protocol: true`], 'tidings: {limits: {connections_per_address: 1}}\n')
      expect((await stat(file)).mode & 0o777).to.equal(0o660)
      expect(await seen(options(0, { unixPath: file }))).to.equal('')
      // Nobody is counted by an address that there is not.
      const waiting = net.connect(file)
      await once(waiting, 'connect')
      expect(await seen(options(0, { unixPath: file }))).to.equal('')
      waiting.destroy()
      expect(await seen(options(0, { unixPath: `${file}.proxy`, tls: 'direct', proxyHeader: FROM_SIX }))).to.equal('2001:db8::7')
      await site.server.close()
      expect(await access(file).then(() => 'there', () => 'gone')).to.equal('gone')
    } finally {
      await rm(dir, { recursive: true })
    }
  })

  it('close a client that does not read when its own queue is full', async () => {
    const [small = 0, large = 0] = await start([`${C2S}, starttls: true, max_fsm_queue: 1`, `${C2S}, starttls: true, max_fsm_queue: 100000`])
    const romeo = await connect(options(small, { tls: 'none' }))
    const juliet = await connect(options(large, { tls: 'none', user: 'juliet' }))
    try {
      for (const client of [romeo, juliet]) {
        client.connection.stopReading()
        for (let index = 0; index < 100; index++) {
          client.connection.write(`<message to='${client.jid}'><body>${'x'.repeat(100_000)}</body></message>`)
          await new Promise(setImmediate)
        }
      }
      for (const end = Date.now() + 5000; site.server.sessions.get(romeo.jid) !== undefined && Date.now() < end; ) await new Promise((resolve) => setTimeout(resolve, 10))
      expect([site.server.sessions.get(romeo.jid), site.server.sessions.get(juliet.jid)?.connected]).to.deep.equal([undefined, true])
    } finally {
      romeo.destroy()
      juliet.destroy()
    }
  })

  it('slow a client down by not reading what it sends beyond its shaper, and nobody else', async () => {
    const [slow = 0, free = 0] = await start([`${C2S}, starttls: true, shaper: slow`, `${C2S}, starttls: true`], 'shaper: {slow: 100}\n')
    const romeo = await connect(options(slow, { tls: 'none' }))
    const juliet = await connect(options(free, { tls: 'none', user: 'juliet' }))
    try {
      for (const client of [romeo, juliet]) for (let index = 0; index < 10; index++) client.connection.write(`<message to='${client.jid}'><body>${'x'.repeat(1000)}</body></message>`)
      await juliet.ping()
      expect(await romeo.ping(300).then(() => 'answered', (error: Error) => error.message)).to.match(/no answer|300/)
    } finally {
      romeo.destroy()
      juliet.destroy()
    }
  })

  it('bind as many sessions of one account as sessions_per_user says where no rule does', async () => {
    const [port = 0] = await start([`${C2S}, starttls: true`], 'tidings: {limits: {sessions_per_user: 2}}\n')
    const clients = [await connect(options(port, { tls: 'none' })), await connect(options(port, { tls: 'none' }))]
    expect(await connect(options(port, { tls: 'none' })).then(() => 'bound', (error: Error) => error.message)).to.equal('resource-constraint')
    for (const client of clients) client.destroy()
  })

  it('wait without end for a login where negotiation_timeout says so', async () => {
    const [port = 0] = await start([`${C2S}, starttls: true`], 'negotiation_timeout: infinity\n')
    const [socket] = await hold(port, 1)
    await new Promise((resolve) => setTimeout(resolve, 100))
    expect(socket?.closed).to.equal(false)
    socket?.destroy()
  })

  it('allow so many elements before login and after', async () => {
    const [port = 0] = await start([`${C2S}, starttls: true, pre_auth_max_stanza_elements: 3, max_stanza_elements: 5`])
    const inside = (count: number): string => `<iq type='get' id='x'><y xmlns='urn:y'>${'<z/>'.repeat(count - 1)}</y></iq>`
    expect(await say(port, [`${HEADER}${inside(4)}`])).to.contain('policy-violation')
    expect(await say(port, [`${HEADER}${inside(3)}`])).to.contain('not-authorized')
    for (const [count, condition] of [[6, 'policy-violation'], [5, 'service-unavailable']] as const) {
      const client = await connect(options(port, { tls: 'none' }))
      client.connection.write(inside(count))
      const answer = await client.receive((element) => element.is('error') || element.is('iq'))
      expect(answer.toString()).to.contain(condition)
      client.destroy()
    }
  })

  it('are opened, changed and closed by a reload, and streams stay', async () => {
    const dir = await mkdtemp(path.join(tmpdir(), 'reload-'))
    const place = (name: string): string => `port: "unix:${path.join(dir, name)}", module: ejabberd_c2s`
    try {
      await start([`${place('kept')}, starttls: true`, `${place('gone')}, starttls: true`])
      const client = await connect(options(0, { unixPath: path.join(dir, 'gone') }))
      const reload = async (listen: readonly string[], more = ''): Promise<readonly string[]> => site.server.reload(loadConfig('/x.yml', { readText: () => config(listen, more) }).config)
      expect(await reload([`${place('kept')}, tls: true, use_proxy_protocol: true`, `${place('new')}, starttls: true`])).to.deep.equal([])
      expect(await seen(options(0, { unixPath: path.join(dir, 'kept'), tls: 'direct', proxyHeader: FROM_SIX }))).to.equal('2001:db8::7')
      expect(await seen(options(0, { unixPath: path.join(dir, 'new') }))).to.equal('')
      expect(await access(path.join(dir, 'gone')).then(() => 'there', () => 'gone')).to.equal('gone')
      await client.ping()
      await client.disconnect()
      expect((await reload([], 'negotiation_timeout: 5\ntidings: {metrics: {port: 0}}\n')).join('\n')).to.match(/tidings\.limits .*next start/).and.match(/tidings\.metrics.*next start/)
      expect(site.server.ports).to.deep.equal([])
      const failed = await reload([`${place('a')}, starttls: true`, `port: "unix:${dir}", module: ejabberd_c2s`, `${place('b')}, starttls: true`]).then(() => '', (error: Error) => error.message)
      expect(failed).to.contain('/x.yml:5: ').and.contain('not a socket')
      expect(site.server.ports.map(({ unixPath }) => path.basename(unixPath ?? ''))).to.deep.equal(['a', 'b'])
    } finally {
      await rm(dir, { recursive: true })
    }
  })
})
