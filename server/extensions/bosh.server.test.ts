/** BOSH on a whole server, by requests over HTTPS. */
import { randomInt } from 'node:crypto'
import { Agent, request } from 'node:https'
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { expect } from 'chai'
import { type Client, connect } from '../../lib/client/client.ts'
import { createSaslClient } from '../../lib/sasl/client.ts'
import { parseElement } from '../../lib/xml/build.ts'
import type { Element } from '../../lib/xml/element.ts'
import { TEST_CONFIG, type TestServer, startTestServer } from '../test-server.ts'

const NS = 'http://jabber.org/protocol/httpbind'
const SASL_NS = 'urn:ietf:params:xml:ns:xmpp-sasl'

interface Answer {
  readonly status: number
  readonly headers: Readonly<Record<string, unknown>>
  readonly text: string
  readonly body: Element
}

describe('XEP-0124 and XEP-0206: BOSH, on a whole server', () => {
  let site: TestServer
  let ca: string
  let agent: Agent
  let others: Client[] = []

  async function begin(config = TEST_CONFIG): Promise<void> {
    site = await startTestServer({ config, accounts: { romeo: 'secret', juliet: 'secret' } })
    ca = await readFile(path.join(site.dataDir, 'certs/localhost.self-signed.pem'), 'utf8')
    agent = new Agent({ keepAlive: true })
  }
  beforeEach(() => begin())
  afterEach(async () => {
    for (const other of others) await other.disconnect()
    others = []
    agent.destroy()
    await site[Symbol.asyncDispose]()
  })

  /** A request as it stands. Resolves with what is answered; `abort` breaks the connection off in place of that. */
  function ask(text: string | Buffer, options: { method?: string; headers?: Record<string, string>; abort?: Promise<unknown> } = {}): Promise<Answer> {
    const { port } = site.server.ports.find((each) => each.module === 'ejabberd_http') as { port: number }
    return new Promise((resolve, reject) => {
      const asked = request({ host: '127.0.0.1', servername: 'localhost', port, path: '/bosh', method: options.method ?? 'POST', headers: { 'Content-Type': 'text/xml; charset=utf-8', ...options.headers }, ca, agent }, (response) => {
        const parts: Buffer[] = []
        response.on('data', (part: Buffer) => parts.push(part)).on('error', reject).on('end', () => {
          const answer = Buffer.concat(parts).toString()
          resolve({ status: response.statusCode ?? 0, headers: response.headers, text: answer, get body() { return parseElement(Buffer.from(answer)) } })
        })
      })
      asked.on('error', reject)
      void options.abort?.then(() => asked.destroy(new Error('broken off')))
      asked.end(text)
    })
  }

  /** A client by BOSH. */
  class Web {
    rid = randomInt(1, 2 ** 32)
    sid = ''
    jid = ''

    wrap(rid: number, payload = '', attributes = ''): string {
      return `<body xmlns='${NS}' xmlns:xmpp='urn:xmpp:xbosh' rid='${rid}' sid='${this.sid}' ${attributes}>${payload}</body>`
    }

    send(payload = '', attributes = ''): Promise<Answer> {
      return ask(this.wrap(++this.rid, payload, attributes))
    }

    async create(attributes = "wait='5' hold='1' ver='1.6'"): Promise<Answer> {
      const answer = await ask(`<body xmlns='${NS}' xmlns:xmpp='urn:xmpp:xbosh' rid='${this.rid}' to='localhost' xml:lang='en' xmpp:version='1.0' ${attributes}/>`)
      this.sid = answer.body.attrs['sid'] ?? ''
      return answer
    }

    async authenticate(user: string): Promise<void> {
      const sasl = createSaslClient('SCRAM-SHA-256', { user, password: 'secret' })
      const first = await sasl.respond(Buffer.alloc(0))
      const challenge = await this.send(`<auth xmlns='${SASL_NS}' mechanism='SCRAM-SHA-256'>${first.toString('base64')}</auth>`)
      const second = await sasl.respond(Buffer.from(challenge.body.getChildText('challenge', SASL_NS) ?? '', 'base64'))
      const success = await this.send(`<response xmlns='${SASL_NS}'>${second.toString('base64')}</response>`)
      sasl.verify(Buffer.from(success.body.getChildText('success', SASL_NS) ?? '', 'base64'))
    }

    async login(user: string, more = ''): Promise<this> {
      await this.create(`wait='5' hold='1' ver='1.6' ${more}`)
      await this.authenticate(user)
      const restarted = await this.send('', "to='localhost' xmpp:restart='true'")
      expect(restarted.text).to.contain('<bind ')
      const bound = await this.send("<iq xmlns='jabber:client' type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>web</resource></bind></iq>")
      this.jid = bound.body.getChild('iq', 'jabber:client')?.getChild('bind')?.getChildText('jid') ?? ''
      expect(this.jid).to.equal(`${user}@localhost/web`)
      return this
    }

    /** Sends empty requests until an answer has this in it. */
    async until(text: string): Promise<Answer> {
      for (let tries = 0; tries < 20; tries++) {
        const answer = await this.send()
        if (answer.text.includes(text)) return answer
        if (answer.body.attrs['type'] === 'terminate') throw new Error(answer.text)
      }
      throw new Error(`${text} has not come`)
    }

    async available(): Promise<this> {
      const answer = await this.send("<presence xmlns='jabber:client'/>")
      if (!answer.text.includes('<presence')) await this.until('<presence')
      return this
    }
  }

  async function tcp(user: string, sm = false): Promise<Client> {
    const client = await connect({ host: site.host, port: site.port, domain: 'localhost', user, password: 'secret', sm })
    others.push(client)
    client.send('<presence/>')
    await client.receive((stanza) => stanza.name === 'presence')
    return client
  }

  const message = (to: string, text: string): string => `<message xmlns='jabber:client' to='${to}' type='chat'><body>${text}</body></message>`

  it('opens a session with the features of an encrypted stream', async () => {
    const { status, headers, body, text } = await new Web().create()
    expect(status).to.equal(200)
    expect(headers['content-type']).to.equal('text/xml; charset=utf-8')
    expect(headers['access-control-allow-origin']).to.equal('*')
    expect(body.attrs).to.include({ wait: '5', hold: '1', requests: '2', ver: '1.6', from: 'localhost', 'xmpp:restartlogic': 'true', 'xmpp:version': '1.0' })
    expect(body.attrs['sid']).to.match(/^[\w-]{30,}$/)
    expect(body.attrs['authid']).to.match(/./)
    expect(text).to.contain('<mechanism>SCRAM-SHA-256</mechanism>').and.contain("urn:xmpp:sasl:2").and.not.contain('starttls').and.not.contain('-PLUS<')
  })

  it('chat goes both ways', async () => {
    const juliet = await tcp('juliet')
    const romeo = await (await new Web().login('romeo')).available()
    const held = romeo.send(message('juliet@localhost', 'by the web'))
    expect((await juliet.receive((stanza) => stanza.name === 'message')).getChildText('body')).to.equal('by the web')
    juliet.send(message(romeo.jid, 'by TCP &amp; more'))
    const answer = (await held).text.includes('by TCP') ? await held : await romeo.until('by TCP')
    const came = answer.body.getChild('message', 'jabber:client')
    expect(came?.attrs['from']).to.contain('juliet@localhost/')
    expect(came?.getChildText('body')).to.equal('by TCP & more')
  })

  it('the namespace of stanzas may be left out (XEP-0206 §2)', async () => {
    const juliet = await tcp('juliet')
    const romeo = await new Web().login('romeo')
    void romeo.send("<message to='juliet@localhost' type='chat'><body>bare</body></message>").catch(() => undefined)
    expect((await juliet.receive((stanza) => stanza.name === 'message')).getChildText('body')).to.equal('bare')
  })

  it('a request that is sent again is not taken again, and gets the same answer', async () => {
    const juliet = await tcp('juliet')
    const romeo = await new Web().login('romeo')
    const rid = ++romeo.rid
    const text = romeo.wrap(rid, `${message('juliet@localhost', 'once')}<iq xmlns='jabber:client' type='get' id='p' to='localhost'><ping xmlns='urn:xmpp:ping'/></iq>`)
    const first = await ask(text)
    const second = await ask(text)
    expect(second.text).to.equal(first.text)
    void romeo.send(message('juliet@localhost', 'then')).catch(() => undefined)
    const bodies = []
    while (bodies.at(-1) !== 'then') bodies.push((await juliet.receive((stanza) => stanza.name === 'message')).getChildText('body'))
    expect(bodies).to.deep.equal(['once', 'then'])
  })

  it('a message whose response was lost comes with the same request again, once', async () => {
    const juliet = await tcp('juliet')
    const romeo = await (await new Web().login('romeo')).available()
    let broken = (): void => undefined
    const rid = ++romeo.rid
    const first = ask(romeo.wrap(rid), { abort: new Promise<void>((resolve) => { broken = resolve }) }).then(() => 'answered', () => 'lost')
    await juliet.sendIq("<iq type='get' to='localhost'><ping xmlns='urn:xmpp:ping'/></iq>")
    broken()
    expect(await first).to.equal('lost')
    juliet.send(message(romeo.jid, 'precious'))
    await juliet.sendIq("<iq type='get' to='localhost'><ping xmlns='urn:xmpp:ping'/></iq>")
    const again = await ask(romeo.wrap(rid))
    expect(again.text).to.contain('precious')
    const next = await romeo.send("<iq xmlns='jabber:client' type='get' id='p' to='localhost'><ping xmlns='urn:xmpp:ping'/></iq>")
    expect(next.text).to.contain("id='p'").and.not.contain('precious')
  })

  for (const [sender, managed] of [['a sender whose stream is managed (XEP-0198)', true], ['a sender without', false]] as const) {
    it(`a message of ${sender} that the client never asked for again is there at its next login, once`, async () => {
      await site[Symbol.asyncDispose]()
      await begin(TEST_CONFIG.replace('mod_bosh: {}', 'mod_bosh: { max_inactivity: 1 }'))
      const juliet = await tcp('juliet', managed)
      const romeo = await (await new Web().login('romeo')).available()
      juliet.send(message('romeo@localhost', 'for later'))
      await juliet.sendIq("<iq type='get' to='localhost'><ping xmlns='urn:xmpp:ping'/></iq>")
      const lost = await romeo.send(message('juliet@localhost', 'x'))
      expect(lost.text).to.contain('for later')
      await juliet.receive((stanza) => stanza.name === 'message')
      // Nothing comes from the client any more.
      const deadline = Date.now() + 20_000
      while (site.server.sessions.get(romeo.jid) !== undefined && Date.now() < deadline) await new Promise((resolve) => { setTimeout(resolve, 50) })
      expect(site.server.sessions.get(romeo.jid)).to.equal(undefined)
      const back = await tcp('romeo')
      expect((await back.receive((stanza) => stanza.name === 'message')).getChildText('body')).to.equal('for later')
      juliet.send(message('romeo@localhost', 'new'))
      expect((await back.receive((stanza) => stanza.name === 'message')).getChildText('body')).to.equal('new')
    })
  }

  it('a message that nobody is known to have goes to the other client of the account when the session ends', async () => {
    const juliet = await tcp('juliet')
    const romeo = await (await new Web().login('romeo')).available()
    const phone = await tcp('romeo')
    juliet.send(message(romeo.jid, 'to the web'))
    expect((await romeo.until('to the web')).text).to.contain('to the web')
    // A request that breaks the rules ends the session (XEP-0124 §14.2).
    await ask(romeo.wrap(romeo.rid + 100))
    expect((await phone.receive((stanza) => stanza.name === 'message')).getChildText('body')).to.equal('to the web')
  })

  for (const managed of [true, false]) it(`a message that was received does not come again, from a sender ${managed ? 'with' : 'without'} stream management`, async () => {
    const juliet = await tcp('juliet', managed)
    const romeo = await (await new Web().login('romeo')).available()
    juliet.send(message('romeo@localhost', 'once'))
    await romeo.until('once')
    const [held, last] = await Promise.all([romeo.send(), romeo.send("<presence xmlns='jabber:client' type='unavailable'/>", "type='terminate'")])
    expect([held.body.attrs['type'], last.body.attrs['type']]).to.include('terminate')
    const back = await tcp('romeo')
    juliet.send(message('romeo@localhost', 'new'))
    expect((await back.receive((stanza) => stanza.name === 'message')).getChildText('body')).to.equal('new')
  })

  it('a session that ends is gone: its presence, and its id', async () => {
    const romeo = await (await new Web().login('romeo')).available()
    const last = await romeo.send("<presence xmlns='jabber:client' type='unavailable'/>", "type='terminate'")
    expect(last.body.attrs).to.include({ type: 'terminate' }).and.not.have.property('condition')
    expect(site.server.sessions.get(romeo.jid)).to.equal(undefined)
    expect((await romeo.send()).body.attrs).to.include({ type: 'terminate', condition: 'item-not-found' })
  })

  it('so many sessions that have ended are kept for their last response, the latest ones', async () => {
    const ended = async (): Promise<() => Promise<Element>> => {
      const web = new Web()
      await web.create()
      await web.send('', "type='terminate'")
      return async () => (await ask(web.wrap(web.rid, '', "type='terminate'"))).body
    }
    const first = await ended()
    expect((await first()).attrs).to.include({ type: 'terminate' }).and.not.have.property('condition')
    let last = first
    for (let count = 0; count < 1000; count += 50) [last = first] = await Promise.all(Array.from({ length: 50 }, ended))
    expect((await first()).attrs).to.include({ type: 'terminate', condition: 'item-not-found' })
    expect((await last()).attrs).to.include({ type: 'terminate' }).and.not.have.property('condition')
  })

  it('a paused session gets what came meanwhile', async () => {
    const juliet = await tcp('juliet')
    const romeo = await (await new Web().login('romeo')).available()
    expect((await romeo.send('', "pause='60'")).body.children).to.deep.equal([])
    juliet.send(message(romeo.jid, 'meanwhile'))
    await juliet.sendIq("<iq type='get' to='localhost'><ping xmlns='urn:xmpp:ping'/></iq>")
    expect((await romeo.send()).text).to.contain('meanwhile')
  })

  it('§10: a session that pauses need not acknowledge what it is sent before it is back (XEP-0198)', async () => {
    await site[Symbol.asyncDispose]()
    await begin(TEST_CONFIG.replace('mod_stream_mgmt: {}', 'mod_stream_mgmt: { ack_timeout: 1 }'))
    const juliet = await tcp('juliet')
    const romeo = await (await new Web().login('romeo')).available()
    expect((await romeo.send("<enable xmlns='urn:xmpp:sm:3'/>")).text).to.contain('<enabled ')
    await romeo.send('', "pause='60'")
    juliet.send(message(romeo.jid, 'meanwhile'))
    // Longer than acknowledgements are waited for.
    await new Promise((resolve) => { setTimeout(resolve, 3500) })
    expect((await romeo.send()).text).to.contain('meanwhile').and.not.contain('terminate')
    expect((await romeo.send("<a xmlns='urn:xmpp:sm:3' h='1'/><iq xmlns='jabber:client' type='get' id='p' to='localhost'><ping xmlns='urn:xmpp:ping'/></iq>")).text).to.contain("id='p'")
  })

  it('a stream that is managed can be resumed on TCP when its client lost the web', async () => {
    const juliet = await tcp('juliet')
    const romeo = await (await new Web().login('romeo')).available()
    const enabled = await romeo.send("<enable xmlns='urn:xmpp:sm:3' resume='true'/>")
    const id = enabled.body.getChild('enabled', 'urn:xmpp:sm:3')?.attrs['id'] ?? ''
    expect(id).to.match(/./)
    await romeo.send('', "pause='60'")
    juliet.send(message(romeo.jid, 'held'))
    await juliet.sendIq("<iq type='get' to='localhost'><ping xmlns='urn:xmpp:ping'/></iq>")
    const back = await connect({ host: site.host, port: site.port, domain: 'localhost', user: 'romeo', password: 'secret', resume: { id, jid: romeo.jid, received: 0, acked: 0, unacked: [] } })
    others.push(back)
    expect((await back.receive((stanza) => stanza.name === 'message')).getChildText('body')).to.equal('held')
    expect(back.jid).to.equal(romeo.jid)
    // The session of BOSH has heard of it.
    expect((await romeo.send()).text).to.contain("condition='remote-stream-error'").and.contain('<conflict ')
  })

  it('wrong passwords are counted, and end the stream', async () => {
    const web = new Web()
    await web.create()
    let last: Answer | undefined
    for (let tries = 0; tries < 5; tries++) last = await web.send(`<auth xmlns='${SASL_NS}' mechanism='PLAIN'>${Buffer.from('\0romeo\0wrong').toString('base64')}</auth>`)
    expect(last?.text).to.contain('<not-authorized').and.contain("condition='remote-stream-error'").and.contain('<policy-violation ')
  })

  it('what cannot be is answered with the condition that XEP-0124 names', async () => {
    const conditions: readonly (readonly [string, string])[] = [
      ["rid='1' to='nowhere.example' ver='1.6'", 'host-unknown'],
      ["rid='1' to='romeo@localhost' ver='1.6'", 'host-unknown'],
      ["rid='1' ver='1.6'", 'improper-addressing'],
      ["rid='1' to='' ver='1.6'", 'improper-addressing'],
      ["to='localhost' ver='1.6'", 'bad-request'],
      ["rid='9007199254740992' to='localhost' ver='1.6'", 'bad-request'],
      ["rid='1' to='localhost' ver='x'", 'bad-request'],
      ["rid='1' sid='guessed'", 'item-not-found'],
      ["rid='1' sid=''", 'item-not-found'],
    ]
    for (const [attributes, condition] of conditions) {
      const { status, body } = await ask(`<body xmlns='${NS}' ${attributes}/>`)
      expect(status).to.equal(200)
      expect(body.attrs, attributes).to.include({ type: 'terminate', condition })
    }
    for (const text of ['', 'x', '<body/>', `<body xmlns='${NS}'>`, `<!DOCTYPE a><body xmlns='${NS}'/>`]) expect((await ask(text)).body.attrs, text).to.include({ condition: 'bad-request' })
  })

  it('a client of before there were versions is told by the status (§17.1)', async () => {
    expect((await ask(`<body xmlns='${NS}' to='localhost'/>`)).status).to.equal(400)
    expect((await ask(`<body xmlns='${NS}' rid='1' to='nowhere.example'/>`)).status).to.equal(200)
  })

  it('without encryption there is no password in the clear; and it is no way into a session that has it (§19.1)', async () => {
    await site[Symbol.asyncDispose]()
    await begin(TEST_CONFIG.replace('access_rules:', '  - { port: 0, ip: 127.0.0.1, module: ejabberd_http, request_handlers: { /bosh: mod_bosh } }\naccess_rules:'))
    const { port } = site.server.ports.find((each) => each.module === 'ejabberd_http' && !each.tls) as { port: number }
    const plain = (text: string): Promise<string> => fetch(`http://127.0.0.1:${port}/bosh`, { method: 'POST', body: text }).then((response) => response.text())
    const opened = await plain(`<body xmlns='${NS}' xmlns:xmpp='urn:xmpp:xbosh' rid='1' to='localhost' ver='1.6' xmpp:version='1.0'/>`)
    expect(opened).to.contain('<mechanism>SCRAM-SHA-256</mechanism>').and.not.contain('PLAIN').and.not.contain('urn:xmpp:sasl:2')
    const romeo = await new Web().login('romeo')
    const refused = await plain(romeo.wrap(romeo.rid + 1, '', "type='terminate'")).then(() => 'answered', () => 'closed')
    expect(refused).to.equal('closed')
    expect((await romeo.send("<iq xmlns='jabber:client' type='get' id='p' to='localhost'><ping xmlns='urn:xmpp:ping'/></iq>")).text).to.contain("id='p'")
  })

  it('a body that is too long is refused, and so is what is not restricted XML or well-formed in a session', async () => {
    expect((await ask(`<body xmlns='${NS}' rid='1' to='localhost' a='${'x'.repeat(600_000)}'/>`).catch(() => undefined))?.body.attrs['condition'] ?? 'policy-violation').to.equal('policy-violation')
    const romeo = await new Web().login('romeo')
    expect((await ask(romeo.wrap(romeo.rid + 1, '<message><!-- c --></message>'))).body.attrs['condition']).to.equal('bad-request')
    expect((await romeo.send(message('juliet@localhost', 'x'.repeat(300_000)))).text).to.contain("condition='remote-stream-error'").and.contain('<policy-violation ')
  })

  it('max_stanza_size of the listener is that of what comes by it', async () => {
    await site[Symbol.asyncDispose]()
    await begin(TEST_CONFIG.replace('ejabberd_http, tls: true,', 'ejabberd_http, tls: true, max_stanza_size: 1000000,'))
    const juliet = await tcp('juliet')
    const romeo = await new Web().login('romeo')
    void romeo.send(message('juliet@localhost', 'x'.repeat(900_000))).catch(() => undefined)
    expect((await juliet.receive((stanza) => stanza.name === 'message')).getChildText('body')).to.have.length(900_000)
    const tooLong = ask(romeo.wrap(1, message('juliet@localhost', 'x'.repeat(2_100_000)))).then(({ body }) => body.attrs['condition'], () => 'closed')
    expect(await tooLong).to.be.oneOf(['policy-violation', 'closed'])
  })

  it('nothing is sent before a login but that', async () => {
    const web = new Web()
    await web.create()
    const { text } = await web.send(message('juliet@localhost', 'x'))
    expect(text).to.contain("condition='remote-stream-error'").and.contain('<not-authorized ')
  })

  it('web pages of other origins may ask (CORS)', async () => {
    const { status, headers } = await ask('', { method: 'OPTIONS', headers: { Origin: 'https://chat.example', 'Access-Control-Request-Method': 'POST', 'Access-Control-Request-Headers': 'content-type' } })
    expect(status).to.equal(204)
    expect(headers['access-control-allow-origin']).to.equal('*')
    expect(headers['access-control-allow-methods']).to.contain('POST')
    expect(String(headers['access-control-allow-headers']).toLowerCase()).to.contain('content-type')
    expect((await ask('', { method: 'GET' })).status).to.equal(405)
  })

  it('a request that comes while the configuration is read again is answered', async () => {
    const romeo = await (await new Web().login('romeo')).available()
    const { loadConfig } = await import('../config/config.ts')
    const { config } = loadConfig(path.join(site.dataDir, '../ejabberd.yml'))
    let answer: Answer | undefined
    // The last thing before the host starts anew.
    site.server.hosts.get('localhost')?.stops.push(async () => { answer = await romeo.send(message('juliet@localhost', 'meanwhile')) })
    await site.server.reload(config)
    expect([answer?.status, answer?.body.attrs['type']]).to.deep.equal([200, undefined])
    expect((await romeo.send("<iq xmlns='jabber:client' type='get' id='p' to='localhost'><ping xmlns='urn:xmpp:ping'/></iq>")).text).to.contain("id='p'")
    await site.server.reload({ ...config, host: (name) => ({ ...config.host(name), modules: new Map() }) })
    expect((await ask(`<body xmlns='${NS}' rid='1' to='localhost' ver='1.6'/>`)).status).to.equal(404)
  })

  it('sessions stay when the configuration is read again, and are told when the server stops', async () => {
    const romeo = await (await new Web().login('romeo')).available()
    const { loadConfig } = await import('../config/config.ts')
    const { config } = loadConfig(path.join(site.dataDir, '../ejabberd.yml'))
    await site.server.reload(config)
    expect((await romeo.send("<iq xmlns='jabber:client' type='get' id='p' to='localhost'><ping xmlns='urn:xmpp:ping'/></iq>")).text).to.contain("id='p'")
    const held = romeo.send()
    // It has come when a request that follows it could be answered.
    await new Web().create()
    await site.server.close()
    expect((await held).text).to.contain("condition='remote-stream-error'").and.contain('<system-shutdown ')
  })
})
