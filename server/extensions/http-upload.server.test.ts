import { once } from 'node:events'
import { readFile, readdir } from 'node:fs/promises'
import { request } from 'node:https'
import path from 'node:path'
import { expect } from 'chai'
import { type Client, connect } from '../../lib/client/client.ts'
import { loadConfig } from '../config/config.ts'
import { TEST_CONFIG, type TestServer, startTestServer } from '../test-server.ts'

const NS = 'urn:xmpp:http:upload:0'
const CONFIG = `${TEST_CONFIG.replace(/mod_http_upload: \{ put_url.*/, 'mod_http_upload: {}')}  mod_muc: {}\n`

describe('XEP-0363: HTTP File Upload, on a whole server', () => {
  let site: TestServer
  let ca: string
  beforeEach(async () => {
    site = await startTestServer({ config: CONFIG, accounts: { romeo: 'secret' } })
    ca = await readFile(path.join(site.dataDir, 'certs/localhost.self-signed.pem'), 'utf8')
  })
  afterEach(() => site[Symbol.asyncDispose]())

  async function slot(size: number): Promise<{ put: URL; get: URL }> {
    const romeo = await connect({ host: site.host, port: site.port, domain: 'localhost', user: 'romeo', password: 'secret' })
    try {
      const items = await romeo.sendIq("<iq type='get' to='localhost'><query xmlns='http://jabber.org/protocol/disco#items'/></iq>")
      expect(items.toString()).to.contain('upload.localhost')
      const info = await romeo.sendIq("<iq type='get' to='upload.localhost'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>")
      expect(info.toString()).to.contain(NS).and.contain('max-file-size')
      const answer = await romeo.sendIq(`<iq type='get' to='upload.localhost'><request xmlns='${NS}' filename='a b.bin' size='${size}'/></iq>`)
      const given = answer.getChild('slot', NS)
      const url = (name: string): URL => new URL(given?.getChild(name)?.attrs['url'] ?? '')
      return { put: url('put'), get: url('get') }
    } finally {
      await romeo.disconnect()
    }
  }

  /** A request that trusts the server's certificate alone. */
  async function http(method: string, url: URL, headers: Record<string, string | number> = {}, body?: Buffer): Promise<{ status: number; headers: Record<string, unknown>; body: Buffer }> {
    const asked = request({ host: '127.0.0.1', servername: 'localhost', port: url.port, path: url.pathname, method, headers, ca, agent: false })
    if (headers['Expect'] === undefined) asked.end(body)
    else {
      // Not a byte of the body before the server asks for it.
      asked.on('continue', () => { asked.end(body) })
      asked.flushHeaders()
    }
    const [response] = (await once(asked, 'response')) as [import('node:http').IncomingMessage]
    const parts: Buffer[] = []
    for await (const part of response as AsyncIterable<Buffer>) parts.push(part)
    return { status: response.statusCode ?? 0, headers: response.headers, body: Buffer.concat(parts) }
  }

  it('keeps a file over a restart', async () => {
    const body = Buffer.alloc(3_000_000, 'tidings')
    const { put, get } = await slot(body.length)
    expect(put.protocol).to.equal('https:')
    expect((await http('PUT', put, { 'Content-Length': body.length, Expect: '100-continue' }, body)).status).to.equal(201)
    await site.restart()
    const port = String(site.server.ports.find((each) => each.module === 'ejabberd_http')?.port)
    get.port = port
    const { status, body: received, headers } = await http('GET', get)
    expect([status, received.equals(body), headers['content-type']]).to.deep.equal([200, true, 'application/octet-stream'])
  })

  it('leaves nothing of an upload that broke off, and takes it again', async () => {
    const body = Buffer.alloc(1_000_000, 'x')
    const { put, get } = await slot(body.length)
    const broken = request({ host: '127.0.0.1', servername: 'localhost', port: put.port, path: put.pathname, method: 'PUT', headers: { 'Content-Length': body.length }, ca, agent: false })
    broken.on('error', () => undefined)
    broken.write(body.subarray(0, 500_000))
    await new Promise((resolve) => { setTimeout(resolve, 200) })
    broken.destroy()
    await new Promise((resolve) => { setTimeout(resolve, 200) })
    expect((await http('GET', get)).status).to.equal(404)
    expect((await http('PUT', put, { 'Content-Length': body.length }, body)).status).to.equal(201)
    expect((await http('GET', get)).body.length).to.equal(body.length)
  })

  it('goes on with an upload while the configuration is reloaded', async () => {
    const { put, get } = await slot(10)
    const first = request({ host: '127.0.0.1', servername: 'localhost', port: put.port, path: put.pathname, method: 'PUT', headers: { 'Content-Length': 10 }, ca, agent: false })
    const answered = once(first, 'response') as Promise<[import('node:http').IncomingMessage]>
    first.write('01234')
    const second = async (): Promise<number> => (await http('PUT', put, { 'Content-Length': 10 }, Buffer.alloc(10))).status
    await until(async () => (await readdir(path.join(site.dataDir, 'blobs'), { recursive: true, withFileTypes: true })).some((entry) => entry.isFile()))
    await site.server.reload(loadConfig(path.join(site.dataDir, '../ejabberd.yml')).config)
    expect(await second()).to.equal(409)
    first.end('56789')
    expect((await answered)[0].statusCode).to.equal(201)
    expect((await http('GET', get)).body.toString()).to.equal('0123456789')
  })

  it('XEP-0425: removes the file of a message that a room\'s moderator takes back', async () => {
    const { put, get } = await slot(3)
    expect((await http('PUT', put, { 'Content-Length': 3 }, Buffer.from('abc'))).status).to.equal(201)
    await site.server.register('owner@localhost', 'secret')
    const [owner, romeo] = await Promise.all(['owner', 'romeo'].map((user) => connect({ host: site.host, port: site.port, domain: 'localhost', user, password: 'secret' }))) as [Client, Client]
    const room = 'balcony@conference.localhost'
    for (const client of [owner, romeo]) {
      client.send(`<presence to='${room}/${client.bare.split('@')[0]}'><x xmlns='http://jabber.org/protocol/muc'/></presence>`)
      await client.receive((each) => each.attrs['from'] === `${room}/${client.bare.split('@')[0]}`)
      if (client === owner) await owner.sendIq(`<iq type='set' to='${room}'><query xmlns='http://jabber.org/protocol/muc#owner'><x xmlns='jabber:x:data' type='submit'/></query></iq>`)
    }
    romeo.send(`<message to='${room}' type='groupchat'><body>${get.href}</body><x xmlns='jabber:x:oob'><url>${get.href}</url></x></message>`)
    const message = await owner.receive((each) => each.getChildText('body') === get.href)
    expect((await http('GET', get)).status).to.equal(200)
    const id = message.getChild('stanza-id', 'urn:xmpp:sid:0')?.attrs['id'] ?? ''
    await owner.sendIq(`<iq type='set' to='${room}'><moderate xmlns='urn:xmpp:message-moderate:1' id='${id}'><retract xmlns='urn:xmpp:message-retract:1'/></moderate></iq>`)
    await until(async () => (await http('GET', get)).status === 404)
    await Promise.all([owner.disconnect(), romeo.disconnect()])
  })

  it('answers at its domain alone', async () => {
    const romeo = await connect({ host: site.host, port: site.port, domain: 'localhost', user: 'romeo', password: 'secret' })
    for (const to of ['somebody@upload.localhost', 'upload.localhost/here']) {
      const refused = await romeo.sendIq(`<iq type='get' to='${to}'><request xmlns='${NS}' filename='a' size='1'/></iq>`).then(() => undefined, (error: { condition: string }) => error.condition)
      expect(refused, to).to.equal('service-unavailable')
    }
    await romeo.disconnect()
  })

  it('refuses a wrong length without asking for the body', async () => {
    const { put } = await slot(10)
    expect((await http('PUT', put, { 'Content-Length': 11, Expect: '100-continue' }, Buffer.alloc(11))).status).to.equal(413)
    expect((await http('PUT', put, { 'Transfer-Encoding': 'chunked' }, Buffer.alloc(10))).status).to.equal(411)
  })

  it('removes the files with the account', async () => {
    const { put, get } = await slot(1)
    await http('PUT', put, { 'Content-Length': 1 }, Buffer.from('x'))
    await site.server.unregister('romeo@localhost')
    expect((await http('GET', get)).status).to.equal(404)
    const left = await readdir(path.join(site.dataDir, 'blobs'), { recursive: true, withFileTypes: true })
    expect(left.filter((entry) => entry.isFile()).map((entry) => entry.name)).to.deep.equal([])
  })
})

async function until(so: () => Promise<boolean>): Promise<void> {
  const end = Date.now() + 5000
  while (!await so()) {
    if (Date.now() > end) throw new Error('it never came to pass')
    await new Promise((resolve) => setImmediate(resolve))
  }
}
