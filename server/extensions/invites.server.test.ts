import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import type { IncomingMessage } from 'node:http'
import { request } from 'node:https'
import path from 'node:path'
import { expect } from 'chai'
import { type Client, connect } from '../../lib/client/client.ts'
import { Connection } from '../../lib/client/connection.ts'
import { TEST_CONFIG, type TestServer, startTestServer } from '../test-server.ts'

const CREATE = "<iq type='set' to='localhost'><command xmlns='http://jabber.org/protocol/commands' node='urn:xmpp:invite#create-account'><x xmlns='jabber:x:data' type='submit'/></command></iq>"
const INVITE = "<iq type='set' to='localhost'><command xmlns='http://jabber.org/protocol/commands' node='urn:xmpp:invite#invite'/></iq>"

describe('invitations, on a whole server', () => {
  let site: TestServer
  let ca: string
  beforeEach(async () => {
    site = await startTestServer({ accounts: { romeo: 'secret' } })
    ca = await readFile(path.join(site.dataDir, 'certs/localhost.self-signed.pem'), 'utf8')
  })
  afterEach(() => site[Symbol.asyncDispose]())

  const login = (user: string, password = 'secret'): Promise<Client> => connect({ host: site.host, port: site.port, domain: 'localhost', user, password })

  /** One over TLS, with its features read, before login. */
  async function openStream(): Promise<Connection> {
    const stream = await Connection.open({ host: site.host, port: site.tlsPort, domain: 'localhost', direct: true })
    stream.openStream()
    expect((await stream.nextElement()).toString()).to.contain('urn:xmpp:ibr-token:0')
    return stream
  }

  async function made(command: string): Promise<{ uri: string; url: string }> {
    const romeo = await login('romeo')
    try {
      const answer = await romeo.sendIq(command)
      const value = (name: string): string => answer.getChild('command')?.getChild('x', 'jabber:x:data')?.getChildren('field').find((field) => field.attrs['var'] === name)?.getChildText('value') ?? ''
      return { uri: value('uri'), url: value('landing-url') }
    } finally {
      await romeo.disconnect()
    }
  }

  async function http(method: string, address: string, headers: Record<string, string> = {}, form?: Record<string, string>): Promise<{ status: number; headers: IncomingMessage['headers']; text: string }> {
    const url = new URL(address)
    const body = form === undefined ? undefined : new URLSearchParams(form).toString()
    const asked = request({
      host: '127.0.0.1', servername: 'localhost', port: url.port, path: url.pathname, method, ca, agent: false,
      headers: { Host: url.host, ...(body === undefined ? {} : { 'Content-Type': 'application/x-www-form-urlencoded', 'Content-Length': String(body.length) }), ...headers },
    })
    asked.end(body)
    const [response] = (await once(asked, 'response')) as [IncomingMessage]
    let text = ''
    for await (const part of response as AsyncIterable<Buffer>) text += part.toString()
    return { status: response.statusCode ?? 0, headers: response.headers, text }
  }
  const signature = (page: string): string => /name="form" value="([^"]+)"/.exec(page)?.[1] ?? ''
  const fields = (page: string, more: Record<string, string> = {}): Record<string, string> => ({ form: signature(page), username: 'juliet', password: 'long secret', password2: 'long secret', ...more })

  it('a client registers with the token over the wire, and finds the inviter in its roster; also after a restart', async () => {
    const { uri } = await made(INVITE)
    const token = /preauth=(\w+);ibr=y$/.exec(uri)?.[1] ?? ''
    await site.restart()
    const stranger = await openStream()
    const ask = async (payload: string) => {
      stranger.write(`<iq type='set' id='r' to='localhost'>${payload}</iq>`)
      return (await stranger.nextElement()).type
    }
    expect(await ask(`<preauth xmlns='urn:xmpp:pars:0' token='${token}'/>`)).to.equal('result')
    expect(await ask("<query xmlns='jabber:iq:register'><username>juliet</username><password>secret</password></query>")).to.equal('result')
    stranger.destroy()
    await site.restart()
    const juliet = await login('juliet')
    const roster = await juliet.sendIq("<iq type='get'><query xmlns='jabber:iq:roster'/></iq>")
    expect(roster.getChild('query')?.getChild('item')?.attrs).to.include({ jid: 'romeo@localhost', subscription: 'both' })
    await juliet.disconnect()
  })

  it('the page leads to the app, shows a QR code and loads nothing', async () => {
    const { uri, url } = await made(INVITE)
    expect(url).to.match(/^https:\/\/localhost:\d+\/invites\/\w{24}$/)
    const page = await http('GET', url, { 'User-Agent': 'Mozilla/5.0 (Linux; Android 15)' })
    expect(page.status).to.equal(200)
    expect(page.text).to.contain(`<a class="button" href="${uri}">`).and.contain('<svg class="qr"').and.contain('romeo invites you')
    expect(page.text.indexOf('Conversations')).to.be.lessThan(page.text.indexOf('Monal'))
    expect(page.text).not.to.match(/<script|<img|<link|src=|@import|url\(/)
    expect(page.headers['content-security-policy']).to.contain("default-src 'none'").and.contain("frame-ancestors 'none'")
    expect(page.headers['cache-control']).to.equal('no-store')
    expect(page.headers['referrer-policy']).to.equal('same-origin')
    const apple = await http('GET', url, { 'User-Agent': 'Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X)' })
    expect(apple.text.indexOf('Monal')).to.be.lessThan(apple.text.indexOf('Conversations'))
    expect((await http('GET', `${url.slice(0, -1)}!`)).status).to.equal(404)
    expect((await http('GET', `${url.slice(0, -24)}${'A'.repeat(24)}`)).status).to.equal(404)
  })

  it('the page shows as text what the operator, the inviter and the reader have written', async () => {
    await site[Symbol.asyncDispose]()
    const name = `<i>"it's" & more`
    site = await startTestServer({ accounts: { romeo: 'secret' }, config: TEST_CONFIG.replace('landing_page: auto', `landing_page: auto, site_name: '${name.replaceAll("'", "''")}', webchat_url: 'https://example.org/?a="&b=<i>'`) })
    ca = await readFile(path.join(site.dataDir, 'certs/localhost.self-signed.pem'), 'utf8')
    const { url } = await made(CREATE)
    const page = await http('GET', url)
    const tried = await http('POST', url, {}, fields(page.text, { username: `"><i>'&` }))
    const strange = await http('POST', url, {}, fields(page.text, { username: 'a"onfocus="x', password2: 'other' }))
    const over = await http('GET', `${url.slice(0, -24)}${'A'.repeat(24)}`)
    const done = await http('POST', url, {}, fields(page.text))
    expect([page.status, tried.status, strange.status, over.status, done.status]).to.deep.equal([200, 400, 400, 404, 201])
    for (const { text } of [page, tried, strange, over, done]) {
      expect(text).to.not.contain('<i>').and.not.contain('"it').and.not.contain('"onfocus')
      expect(text.replaceAll(/&(?:lt|gt|amp|quot|apos|#\d+);/g, ''), 'ampersands').to.not.contain('&')
    }
    expect(page.text).to.match(/&lt;i&gt;&quot;it(?:&apos;|&#39;|')s&quot; &amp; more/)
    expect(strange.text).to.contain('value="a&quot;onfocus=&quot;x"')
  })

  it('an account is made in the browser, once', async () => {
    const { url } = await made(CREATE)
    const page = (await http('GET', url)).text
    const wrong = await http('POST', url, {}, fields(page, { password2: 'other' }))
    expect(wrong.status).to.equal(400)
    expect(wrong.text).to.contain('role="alert"').and.contain('not the same').and.contain('value="juliet"')
    expect((await http('POST', url, {}, fields(page, { username: 'romeo' }))).text).to.contain('is taken')
    expect((await http('POST', url, {}, fields(page, { username: '<b>@' }))).text).to.contain('cannot be a user name').and.not.contain('<b>@')
    const done = await http('POST', url, {}, fields(page))
    expect(done.status).to.equal(201)
    expect(done.text).to.contain('juliet@localhost').and.not.contain('long secret')
    await (await login('juliet', 'long secret')).disconnect()
    expect((await http('POST', url, {}, fields(page, { username: 'nurse' }))).status).to.equal(404)
    expect((await http('GET', url)).text).to.contain('has been used')
  })

  it('a form of another site makes no account', async () => {
    const { url } = await made(CREATE)
    const page = (await http('GET', url)).text
    expect((await http('POST', url, { 'Sec-Fetch-Site': 'cross-site' }, fields(page))).status).to.equal(403)
    expect((await http('POST', url, { Origin: 'https://example.org' }, fields(page))).status).to.equal(403)
    expect((await http('POST', url, { Origin: 'null' }, fields(page))).status).to.equal(403)
    expect((await http('POST', url, {}, fields(page, { form: 'x' }))).status).to.equal(400)
    expect((await http('POST', url, { 'Content-Type': 'text/plain' }, fields(page))).status).to.equal(415)
    expect(await site.server.accounts.exists('juliet@localhost')).to.equal(false)
    expect((await http('POST', url, { 'Sec-Fetch-Site': 'same-origin', Origin: new URL(url).origin }, fields(page))).status).to.equal(201)
  })

  it('two streams with one token make one account', async () => {
    const token = /preauth=(\w+)/.exec((await made(CREATE)).uri)?.[1] ?? ''
    const streams = await Promise.all([0, 1].map(openStream))
    const types = await Promise.all(streams.map(async (stream, index) => {
      stream.write(`<iq type='set' id='p' to='localhost'><preauth xmlns='urn:xmpp:pars:0' token='${token}'/></iq>`)
      await stream.nextElement()
      stream.write(`<iq type='set' id='r' to='localhost'><query xmlns='jabber:iq:register'><username>twin${index}</username><password>secret</password></query></iq>`)
      const { type } = await stream.nextElement()
      stream.destroy()
      return type
    }))
    expect(types.map(String).sort()).to.deep.equal(['error', 'result'])
    expect((await site.server.accounts.list('localhost')).filter((name) => name.startsWith('twin'))).to.have.length(1)
  })

  it('each host has its own invitations, and one page for all', async () => {
    const two = await startTestServer({ config: TEST_CONFIG.replace('hosts: [localhost]', 'hosts: [localhost, example.org]') })
    try {
      const [, url = ''] = (await two.server.hosts.get('localhost')!.operations.run('generate_invite', [])) ?? []
      const [, other = ''] = (await two.server.hosts.get('example.org')!.operations.run('generate_invite', [])) ?? []
      ca = await readFile(path.join(two.dataDir, 'certs/localhost.self-signed.pem'), 'utf8')
      const page = (await http('GET', url)).text
      expect(page).to.contain('You are invited to localhost')
      expect((await http('GET', other)).text).to.contain('You are invited to example.org').and.contain('@example.org')
      expect((await http('POST', url, {}, fields(page))).status).to.equal(201)
      expect(await two.server.accounts.exists('juliet@localhost')).to.equal(true)
    } finally {
      await two[Symbol.asyncDispose]()
    }
  })

  it('the operator\'s commands make them too', async () => {
    const host = site.server.hosts.get('localhost')!
    const [uri, url] = (await host.operations.run('generate_invite_with_username', ['juliet'])) ?? []
    expect(uri).to.match(/^xmpp:juliet@localhost\?register;preauth=\w{24}$/)
    expect((await http('GET', url ?? '')).text).to.contain('value="juliet" readonly')
    expect((await host.operations.run('generate_invite', []))?.[0]).to.match(/^xmpp:localhost\?register;preauth=\w{24}$/)
    await made(INVITE)
    expect((await host.operations.run('list_invites', []))?.map((line) => line.replace(/\t[^\t]*Z$/, '')).sort()).to.deep.equal(['-\taccount\t-', '-\taccount\tjuliet', 'romeo@localhost\tcontact\t-'])
    expect(await host.operations.run('expire_invite_tokens', ['romeo'])).to.deep.equal(['1'])
    expect(await host.operations.run('list_invites', [])).to.have.length(2)
    const taken = await host.operations.run('generate_invite_with_username', ['romeo']).catch((error: Error) => error.message)
    expect(taken).to.contain('taken')
  })
})
