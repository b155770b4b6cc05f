/** A proxy before two nodes, all in one process: clients by TCP, WebSocket and BOSH. */
import { randomInt } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { Agent, request } from 'node:https'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { expect } from 'chai'
import { type Client, connect, type ConnectOptions, LoginError } from '../../lib/client/client.ts'
import { Connection } from '../../lib/client/connection.ts'
import { loginBySasl2 } from '../../lib/client/sasl2.ts'
import { createSaslClient } from '../../lib/sasl/client.ts'
import { parseElement } from '../../lib/xml/build.ts'
import type { Element } from '../../lib/xml/element.ts'
import { SharedNodes, type SharedNode } from '../cluster/shared-units.fixture.ts'
import { loadConfig } from '../config/config.ts'
import { createLog } from '../log.ts'
import { startTestServer, TEST_CONFIG, type TestServer } from '../test-server.ts'
import { InternalListener } from './internal-listener.ts'
import { createProxyRole, type ProxyRole } from './proxy-role.ts'

interface Site {
  readonly node: SharedNode
  readonly site: TestServer
}

const SECRET = Buffer.from('known to all')
const SM = 'urn:xmpp:sm:3'
const BOSH = 'http://jabber.org/protocol/httpbind'
const SASL = 'urn:ietf:params:xml:ns:xmpp-sasl'
const CONFIG = `${TEST_CONFIG
  .replace('mod_mam: { default: always }', 'mod_mam: { default: always }\n  mod_muc: {}\n  mod_proxy65: { port: 0, ip: 127.0.0.1 }')
  .replace('/bosh: mod_bosh', '/bosh: mod_bosh, /ws: ejabberd_http_ws')}
auth_method: [internal, anonymous]
`

describe('the role proxy', () => {
  let all: SharedNodes
  let sites: Site[]
  let proxy: ProxyRole
  let dir: string
  let file: string
  let problem: string | undefined
  const open: { destroy(): void }[] = []

  beforeEach(async () => {
    all = new SharedNodes()
    sites = []
    for (const name of ['a', 'b']) {
      const node = all.join(name)
      const listener = await InternalListener.open('127.0.0.1:0', createLog('silent'))
      node.address = listener.address
      sites.push({ node, site: await startTestServer({ storage: node.storage, config: CONFIG, cluster: { units: node, secret: SECRET, listener } }) })
    }
    for (const name of ['romeo', 'juliet']) {
      await at(0).site.server.register(`${name}@localhost`, 'secret')
      at(0).node.release(`${name}@localhost`)
    }
    dir = mkdtempSync(path.join(tmpdir(), 'tidings-'))
    file = path.join(dir, 'ejabberd.yml')
    writeFileSync(file, CONFIG)
    problem = undefined
    const watch = { onChange: (listener: () => void) => { at(0).node.onChange(listener) }, get problem() { return problem }, get nodes() { return at(0).node.nodes }, find: async (unit: string) => all.homes.get(unit), [Symbol.asyncDispose]: () => Promise.resolve() }
    proxy = await createProxyRole({ config: loadConfig(file).config, dataDir: path.join(dir, 'data'), log: createLog('silent'), cluster: { watch, secret: SECRET }, patienceMs: 500 })
  })
  afterEach(async () => {
    for (const each of open.splice(0)) each.destroy()
    await proxy.close()
    for (const { site } of sites) await site[Symbol.asyncDispose]()
    rmSync(dir, { recursive: true })
  })

  const at = (index: number): Site => sites[index] as Site
  const settle = (user: string, index: number): void => void all.homes.set(`${user}@localhost`, at(index).node.inc)
  const sessionsAt = (index: number): string[] => Array.from(at(index).site.server.sessions.all(), ({ jid }) => jid.toString())
  const portOf = (module: string, tls: boolean): number => (proxy.server.ports.find((each) => each.module === module && each.tls === tls) as { port: number }).port
  const message = (id: string) => (element: Element): boolean => element.getName() === 'message' && element.attrs['id'] === id
  const webSocket = (): string => `wss://127.0.0.1:${portOf('ejabberd_http', true)}/ws`

  async function login(user: string, options: Partial<ConnectOptions> = {}): Promise<Client> {
    const client = await connect({ host: '127.0.0.1', port: portOf('ejabberd_c2s', options.tls === 'direct'), domain: 'localhost', user, password: 'secret', resource: 'r', ...options })
    open.push(client)
    return client
  }

  async function both(options: Partial<ConnectOptions>): Promise<[Client, Client]> {
    settle('romeo', 0)
    settle('juliet', 1)
    return [await login('romeo', options), await login('juliet', options)]
  }

  it('serves nobody, and has each served by its home', async () => {
    for (const options of [{}, { tls: 'direct', mechanism: 'SCRAM-SHA-256-PLUS' }, { tls: 'none', mechanism: 'SCRAM-SHA-1' }, { webSocket: webSocket() }] as const) {
      const [romeo, juliet] = await both(options)
      expect([sessionsAt(0), sessionsAt(1), [...proxy.server.sessions.all()], proxy.connections]).to.deep.equal([[romeo.jid], [juliet.jid], [], 2])
      romeo.send(`<message to='${juliet.jid}' type='chat' id='there'><body>&lt;é&gt;</body></message>`)
      expect((await juliet.receive(message('there'))).getChildText('body')).to.equal('<é>')
      juliet.send(`<message to='${romeo.jid}' type='chat' id='back'><body>b</body></message>`)
      await romeo.receive(message('back'))
      await romeo.disconnect()
      await juliet.disconnect()
      for (let tries = 0; proxy.connections > 0 && tries < 100; tries++) await new Promise((resolve) => { setTimeout(resolve, 10) })
      expect(proxy.connections).to.equal(0)
    }
  })

  it('has accounts made and passes strangers on', async () => {
    const client = await login('newcomer', { register: true })
    expect([...sessionsAt(0), ...sessionsAt(1)]).to.deep.equal([client.jid])
    const connection = await Connection.open({ host: '127.0.0.1', port: portOf('ejabberd_c2s', true), domain: 'localhost', direct: true })
    open.push(connection)
    connection.openStream()
    expect(String(await connection.nextElement())).to.contain('<mechanism>ANONYMOUS</mechanism>')
    connection.write(`<authenticate xmlns='urn:xmpp:sasl:2' mechanism='ANONYMOUS'><bind xmlns='urn:xmpp:bind:0'/></authenticate>`)
    expect(String(await connection.nextElement())).to.contain('<authorization-identifier>')
    expect([sessionsAt(0).length + sessionsAt(1).length, proxy.connections]).to.deep.equal([2, 2])
    expect(await login('nobody').catch((error: unknown) => error instanceof LoginError && error.condition)).to.equal('not-authorized')
  })

  it('passes large stanzas on by WebSocket, and pings of the socket too', async () => {
    const [romeo, juliet] = await both({ webSocket: webSocket() })
    const text = 'é'.repeat(100_000)
    for (let i = 0; i < 5; i++) romeo.send(`<message to='${juliet.jid}' type='chat' id='m${i}'><body>${text}</body></message>`)
    for (let i = 0; i < 5; i++) expect((await juliet.receive(message(`m${i}`), 10_000)).getChildText('body')).to.equal(text)
  })

  it('logs in by SASL2 over WebSocket with all in one step', async () => {
    settle('romeo', 1)
    const { success, connection } = await loginBySasl2({ host: '127.0.0.1', port: 0, domain: 'localhost', webSocket: webSocket(), user: 'romeo', password: 'secret', mechanism: 'SCRAM-SHA-256', inline: `<bind xmlns='urn:xmpp:bind:0'><enable xmlns='${SM}' resume='true'/></bind>` })
    open.push(connection)
    expect(success.getChild('bound', 'urn:xmpp:bind:0')?.getChild('enabled', SM)).to.not.equal(undefined)
    expect(sessionsAt(1)).to.have.length(1)
  })

  it('ends connections to a node that is gone, so that their clients resume where the account is then', async () => {
    settle('romeo', 1)
    settle('juliet', 0)
    for (const options of [{}, { webSocket: webSocket() }] as const) {
      const romeo = await login('romeo', { sm: true, ...options })
      romeo.send('<presence/>')
      await romeo.requestAck()
      const state = romeo.resumeState()
      // As with a kill: the sockets go, and nothing else is said.
      for (const session of at(1).site.server.sessions.all()) (session.carrier as unknown as { interrupt(): void } | undefined)?.interrupt()
      await romeo.closed
      expect(romeo.streamError).to.equal(undefined)
      const again = await login('romeo', { resume: state, ...options })
      expect(again.resumed).to.equal(true)
      await again.disconnect()
    }
  })

  it('takes nobody any more when it is drained, and ends the others within the time, their streams to be resumed', async () => {
    settle('romeo', 0)
    const port = portOf('ejabberd_c2s', false)
    const clients = []
    for (let i = 0; i < 6; i++) clients.push(await login('romeo', { sm: true, resource: `r${i}` }))
    const [first, last] = [clients[0] as Client, clients[5] as Client]
    const ended: string[] = []
    for (const client of clients) void client.closed.then(() => ended.push(client.jid))
    const drained = proxy.drain(600)
    await first.closed
    expect(last.ended).to.equal(false)
    expect(await connect({ host: '127.0.0.1', port, domain: 'localhost', user: 'romeo', password: 'secret' }).catch((error: { code?: string }) => error.code)).to.equal('ECONNREFUSED')
    await drained
    await last.closed
    expect(ended).to.deep.equal(clients.map(({ jid }) => jid))
    expect(proxy.connections).to.equal(0)
    const { site } = at(1)
    const again = await connect({ host: site.host, port: site.port, domain: 'localhost', user: 'romeo', password: 'secret', resume: last.resumeState() })
    open.push(again)
    expect(again.resumed).to.equal(true)
  })

  it('says that it is not well while it does not know of the nodes', () => {
    expect(proxy.server.status().healthy).to.equal(true)
    problem = 'Redis: away'
    expect([proxy.server.status().healthy, proxy.server.status().storage.problem]).to.deep.equal([false, 'Redis: away'])
  })

  it('has a login fail for a while when there is no node (RFC 6120 §6.5.10)', async () => {
    for (const { node } of sites) node.address = ''
    const failure = await login('romeo').catch((error: unknown) => error instanceof LoginError && error.condition)
    expect(failure).to.equal('temporary-auth-failure')
  })

  describe('by BOSH', () => {
    let agent: Agent
    beforeEach(() => { agent = new Agent({ keepAlive: true }) })
    afterEach(() => { agent.destroy() })

    /** To the proxy, or to a node. */
    function ask(text: string, index?: number): Promise<string> {
      const port = index === undefined ? portOf('ejabberd_http', true) : (at(index).site.server.ports.find(({ module }) => module === 'ejabberd_http') as { port: number }).port
      return new Promise((resolve, reject) => {
        const asked = request({ host: '127.0.0.1', servername: 'localhost', port, path: '/bosh', method: 'POST', headers: { 'Content-Type': 'text/xml; charset=utf-8' }, rejectUnauthorized: false, agent }, (response) => {
          const parts: Buffer[] = []
          response.on('data', (part: Buffer) => parts.push(part)).on('error', reject).on('end', () => { resolve(Buffer.concat(parts).toString()) })
        })
        asked.on('error', reject)
        asked.end(text)
      })
    }

    it('a session is one, whichever processes its requests come to, and its stream goes to the home of the account', async () => {
      settle('romeo', 1)
      settle('juliet', 0)
      const juliet = await login('juliet')
      juliet.send('<presence/>')
      await juliet.ping()
      let rid = randomInt(1, 2 ** 32)
      let sid = ''
      let turn = 0
      // The requests of a session may come to any process.
      const send = async (payload = '', attributes = ''): Promise<string> => ask(`<body xmlns='${BOSH}' xmlns:xmpp='urn:xmpp:xbosh' rid='${++rid}' sid='${sid}' ${attributes}>${payload}</body>`, [undefined, 0, 1][turn++ % 3])
      const until = async (first: string, text: string): Promise<string> => {
        for (let answer = first, tries = 0; ; answer = await send(), tries++) {
          if (answer.includes(text)) return answer
          if (tries > 20 || answer.includes("type='terminate'")) throw new Error(answer)
        }
      }
      const created = await ask(`<body xmlns='${BOSH}' xmlns:xmpp='urn:xmpp:xbosh' rid='${rid}' to='localhost' xml:lang='en' xmpp:version='1.0' wait='2' hold='1' ver='1.6'/>`)
      sid = parseElement(Buffer.from(created)).attrs['sid'] ?? ''
      const sasl = createSaslClient('SCRAM-SHA-256', { user: 'romeo', password: 'secret' })
      const first = await sasl.respond(Buffer.alloc(0))
      const challenge = parseElement(Buffer.from(await until(await send(`<auth xmlns='${SASL}' mechanism='SCRAM-SHA-256'>${first.toString('base64')}</auth>`), '<challenge'))).getChildText('challenge', SASL) ?? ''
      const second = await sasl.respond(Buffer.from(challenge, 'base64'))
      await until(await send(`<response xmlns='${SASL}'>${second.toString('base64')}</response>`), '<success')
      await until(await send('', "to='localhost' xmpp:restart='true'"), '<bind')
      await until(await send("<iq xmlns='jabber:client' type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>web</resource></bind></iq>"), 'romeo@localhost/web')
      expect(sessionsAt(1)).to.deep.equal(['romeo@localhost/web'])
      await until(await send("<presence xmlns='jabber:client'/>"), '<presence')
      juliet.send("<message to='romeo@localhost/web' type='chat' id='m'><body>by TCP</body></message>")
      await until(await send(), 'by TCP')
      await until(await send("<message xmlns='jabber:client' to='juliet@localhost' type='chat' id='back'><body>by the web</body></message>"), '')
      await juliet.receive(message('back'))
      // What is on its way to a client that does not come again is kept as for one that was away.
      const carrier = at(1).site.server.sessions.get('romeo@localhost/web')?.carrier
      expect(carrier?.confirms).to.equal(true)
      await send('', "type='terminate'")
      for (let tries = 0; sessionsAt(1).length > 0 && tries < 100; tries++) await new Promise((resolve) => { setTimeout(resolve, 10) })
      expect(sessionsAt(1)).to.deep.equal([])
    })

    it('a session whose process is gone, or never was, is not found (XEP-0124 §17.2)', async () => {
      for (const sid of [`${'x'.repeat(32)}.${at(1).node.inc}`, `${'x'.repeat(32)}.nowhere`, 'x'.repeat(32)]) {
        for (const index of [undefined, 0, 1]) expect(await ask(`<body xmlns='${BOSH}' rid='1' sid='${sid}'/>`, index)).to.contain("condition='item-not-found'")
      }
    })

    it('a request that is held at another process ends there when its client goes', async () => {
      settle('romeo', 1)
      const created = parseElement(Buffer.from(await ask(`<body xmlns='${BOSH}' xmlns:xmpp='urn:xmpp:xbosh' rid='10' to='localhost' xml:lang='en' xmpp:version='1.0' wait='30' hold='1' ver='1.6'/>`)))
      const empty = (rid: number): Promise<string> => ask(`<body xmlns='${BOSH}' rid='${rid}' sid='${created.attrs['sid']}'/>`)
      const held = empty(11)
      // A second one has the first answered.
      const next = empty(12)
      expect(await held).to.contain('<body')
      await ask(`<body xmlns='${BOSH}' rid='13' sid='${created.attrs['sid']}' type='terminate'/>`)
      expect(await next).to.contain('<body')
    })
  })
})
