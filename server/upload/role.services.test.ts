import { once } from 'node:events'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { request, type IncomingMessage } from 'node:http'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { expect } from 'chai'
import { connect } from '../../lib/client/client.ts'
import { freePorts } from '../../services/daemon.ts'
import { type S3, startRedis, startS3 } from '../../services/services.ts'
import { loadConfig } from '../config/config.ts'
import { createLog } from '../log.ts'
import { startTestServer, type TestServer } from '../test-server.ts'
import { connectionOf } from '../cluster/redis/service.fixture.ts'
import { openUploadClaims } from './claims.ts'
import { createUploadRole, type UploadRole } from './role.ts'

const NS = 'urn:xmpp:http:upload:0'

interface Answer { readonly status: number; readonly headers: IncomingMessage['headers']; readonly body: Buffer }

describe('XEP-0363: uploads by a process of their own', () => {
  let s3: S3
  let site: TestServer
  let role: UploadRole
  let port: number
  let dir: string
  let runs = 0
  before(async () => {
    s3 = await startS3()
    dir = await mkdtemp(path.join(tmpdir(), 'tidings-upload-'))
  })
  after(async () => {
    await s3[Symbol.asyncDispose]()
    await rm(dir, { recursive: true, force: true })
  })
  beforeEach(async () => {
    port = await freePorts(2)
    runs++
    const shared = (name: string): string => `
  ${name}: { external_secret: between us, put_url: "http://files.localhost:${port}/files" }
tidings: { s3: { endpoint: "${s3.endpoint}", bucket: role-${process.pid}-${runs}, access_key: ${s3.accessKey}, secret_key: ${s3.secretKey} }, metrics: { port: ${port + 1} } }
`
    const file = path.join(dir, 'upload.yml')
    await writeFile(file, `hosts: [localhost]\nloglevel: none\nlisten:\n  - { port: ${port}, ip: 127.0.0.1, module: ejabberd_http, request_handlers: { /files: mod_http_upload } }\nmodules:${shared('mod_http_upload')}`)
    role = await createUploadRole({ config: loadConfig(file).config, dataDir: dir, log: createLog('silent') })
    site = await startTestServer({
      accounts: { romeo: 'secret' },
      config: `hosts: [localhost]\nloglevel: none\nlisten:\n  - { port: 0, ip: 127.0.0.1, module: ejabberd_c2s, starttls: true }\naccess_rules:\n  local: { allow: all }\nmodules:\n  mod_disco: {}${shared('mod_http_upload').replace(/, metrics.*}/, ' }')}`,
    })
  })
  afterEach(async () => {
    await site[Symbol.asyncDispose]()
    await role.close(0)
  })

  async function slots(...sizes: number[]): Promise<{ put: URL; get: URL }[]> {
    const romeo = await connect({ host: site.host, port: site.port, domain: 'localhost', user: 'romeo', password: 'secret' })
    try {
      const given: { put: URL; get: URL }[] = []
      for (const size of sizes) {
        const answer = await romeo.sendIq(`<iq type='get' to='upload.localhost'><request xmlns='${NS}' filename='ein Bild é.png' size='${size}' content-type='image/png'/></iq>`)
        const url = (name: string): URL => new URL(answer.getChild('slot', NS)?.getChild(name)?.attrs['url'] ?? answer.toString())
        given.push({ put: url('put'), get: url('get') })
      }
      return given
    } finally {
      await romeo.disconnect()
    }
  }

  async function slot(size: number): Promise<{ put: URL; get: URL }> {
    return (await slots(size))[0] as { put: URL; get: URL }
  }

  async function http(method: string, url: URL, headers: Record<string, string | number> = {}, body?: Buffer): Promise<Answer> {
    const asked = request({ host: '127.0.0.1', port: url.port, path: url.pathname + url.search, method, headers: { Host: url.host, ...headers }, agent: false })
    asked.on('error', () => undefined)
    asked.end(body)
    const [response] = (await once(asked, 'response')) as [IncomingMessage]
    const parts: Buffer[] = []
    for await (const part of response as AsyncIterable<Buffer>) parts.push(part)
    return { status: response.statusCode ?? 0, headers: response.headers, body: Buffer.concat(parts) }
  }

  const image = (size: number): Record<string, string | number> => ({ 'Content-Length': size, 'Content-Type': 'image/png' })
  /** As its address has it, in the bucket. */
  const secretOf = (url: URL): string => url.pathname.split('/').at(-2) as string

  it('takes a file once, and gives it out whole and in parts', async () => {
    const body = Buffer.from(Array.from({ length: 300_000 }, (_, at) => at % 251))
    const { put, get } = await slot(body.length)
    expect(put.port).to.equal(String(port))
    expect((await http('GET', get)).status).to.equal(404)
    expect((await http('PUT', put, image(body.length), body)).status).to.equal(201)
    expect((await http('PUT', put, image(body.length), body)).status).to.equal(409)
    const whole = await http('GET', get)
    expect([whole.status, whole.body.equals(body), whole.headers['content-type']]).to.deep.equal([200, true, 'image/png'])
    expect(whole.headers['content-security-policy']).to.contain('sandbox')
    expect(whole.headers['access-control-allow-origin']).to.equal('*')
    expect(whole.headers['content-disposition']).to.contain('inline').and.contain('ein%20Bild%20%C3%A9.png')
    const part = await http('GET', get, { Range: 'bytes=100-199' })
    expect([part.status, part.headers['content-range'], part.body.equals(body.subarray(100, 200))]).to.deep.equal([206, `bytes 100-199/${body.length}`, true])
    expect((await http('GET', get, { Range: `bytes=${body.length}-` })).status).to.equal(416)
    expect((await http('GET', get, { 'If-None-Match': String(whole.headers['etag']) })).status).to.equal(304)
    const head = await http('HEAD', get)
    expect([head.status, head.headers['content-length'], head.body.length]).to.deep.equal([200, String(body.length), 0])
    expect((await http('OPTIONS', put, { 'Access-Control-Request-Method': 'PUT' })).status).to.equal(204)
  })

  for (const [name, inRedis] of [['the bucket', false], ['Redis', true]] as const) {
    it(`takes one of two files that come at the same moment to two processes, as ${name} decides`, async () => {
      await using redis = inRedis ? await startRedis() : undefined
      const config = loadConfig(path.join(dir, 'upload.yml')).config
      const at: number[] = []
      const roles: UploadRole[] = []
      for (let each = 0; each < 2; each++) {
        at.push(await freePorts(1))
        const listen = config.listen.map((one) => ({ ...one, port: at[each] as number }))
        const claims = redis && openUploadClaims(connectionOf(redis))
        roles.push(await createUploadRole({ config: { ...config, listen, tidings: { ...config.tidings, metrics: undefined } }, dataDir: dir, log: createLog('silent'), ...claims && { claims } }))
      }
      try {
        const { put, get } = await slot(300_000)
        const begun = at.map((to) => request({ host: '127.0.0.1', port: to, path: put.pathname + put.search, method: 'PUT', headers: { Host: put.host, ...image(300_000) }, agent: false }))
        const answers = begun.map(async (one) => {
          one.on('error', () => undefined)
          const [response] = (await once(one, 'response')) as [IncomingMessage]
          response.resume()
          return response.statusCode
        })
        for (const [each, one] of begun.entries()) one.write(Buffer.alloc(100_000, each))
        for (const [each, one] of begun.entries()) one.end(Buffer.alloc(200_000, each))
        const codes = await Promise.all(answers)
        expect(codes).to.have.members([201, 409])
        expect((await http('GET', get)).body).to.deep.equal(Buffer.alloc(300_000, codes.indexOf(201)))
        expect((await http('PUT', put, image(300_000), Buffer.alloc(300_000))).status).to.equal(409)
        // What broke off may be sent again, to any of them.
        const second = await slot(10)
        const broken = request({ host: '127.0.0.1', port: at[0], path: second.put.pathname + second.put.search, method: 'PUT', headers: { Host: second.put.host, ...image(10) }, agent: false })
        broken.on('error', () => undefined)
        broken.write(Buffer.alloc(5))
        await new Promise((resolve) => { setTimeout(resolve, 200) })
        broken.destroy()
        second.put.port = String(at[1])
        let status = 409
        while (status === 409) status = (await http('PUT', second.put, image(10), Buffer.alloc(10))).status
        expect(status).to.equal(201)
      } finally {
        for (const each of roles) await each.close(0)
      }
    })
  }

  it('takes nothing but what the address is for', async () => {
    const { put } = await slot(10)
    const ten = Buffer.alloc(10)
    expect((await http('PUT', put, image(11), Buffer.alloc(11))).status).to.equal(403)
    expect((await http('PUT', put, { 'Content-Length': 10, 'Content-Type': 'text/html' }, ten)).status).to.equal(403)
    const other = new URL(put)
    other.pathname = put.pathname.replace(secretOf(put), 'A'.repeat(40))
    expect((await http('PUT', other, image(10), ten)).status).to.equal(403)
    const bare = new URL(put)
    bare.search = ''
    expect((await http('PUT', bare, image(10), ten)).status).to.equal(403)
    expect((await http('PUT', put, { ...image(10), 'Content-Range': 'bytes 0-9/20' }, ten)).status).to.equal(400)
    expect((await http('DELETE', put)).status).to.equal(405)
    const named = new URL(put)
    named.pathname = `/files/x/${secretOf(put)}/..%2f..`
    expect((await http('PUT', named, image(10), ten)).status).to.equal(403)
    expect((await http('PUT', put, image(10), ten)).status).to.equal(201)
  })

  it('leaves nothing of an upload that broke off, and takes it again', async () => {
    const { put, get } = await slot(1_000_000)
    const broken = request({ host: '127.0.0.1', port, path: put.pathname + put.search, method: 'PUT', headers: image(1_000_000), agent: false })
    broken.on('error', () => undefined)
    broken.write(Buffer.alloc(400_000))
    await new Promise((resolve) => { setTimeout(resolve, 200) })
    broken.destroy()
    expect((await http('GET', get)).status).to.equal(404)
    expect((await http('PUT', put, image(1_000_000), Buffer.alloc(1_000_000))).status).to.equal(201)
  })

  it('the files of an account count in its quota, and go with it', async () => {
    const { put, get } = await slot(10)
    expect((await http('PUT', put, image(10), Buffer.alloc(10))).status).to.equal(201)
    await site.server.unregister('romeo@localhost')
    expect((await http('GET', get)).status).to.equal(404)
  })

  it('slots that were used do not count as unused', async () => {
    const limit = 100
    const given = await slots(...Array.from({ length: limit }, () => 1))
    for (const { put } of given.slice(0, limit / 2)) expect((await http('PUT', put, image(1), Buffer.from('x'))).status).to.equal(201)
    expect(await slots(...Array.from({ length: limit / 2 }, () => 1))).to.have.lengthOf(limit / 2)
    expect(await slot(1).catch((error: Error) => error.message)).to.equal('resource-constraint')
  })

  it('says when the bucket is away, and goes on when it is back', async () => {
    const { put } = await slot(10)
    const health = async (): Promise<number> => (await fetch(`http://127.0.0.1:${port + 1}/health`)).status
    expect(await health()).to.equal(200)
    await s3.kill()
    expect((await http('PUT', put, image(10), Buffer.alloc(10))).status).to.equal(502)
    expect(await health()).to.equal(503)
    await s3.restart()
    expect((await http('PUT', put, image(10), Buffer.alloc(10))).status).to.equal(201)
    expect(await health()).to.equal(200)
  })

  it('is refused where it could not work', async () => {
    const file = path.join(dir, 'other.yml')
    await writeFile(file, await readFile(path.join(dir, 'upload.yml'), 'utf8').then((text) => text.replace('external_secret: between us, ', '')))
    const error: unknown = await createUploadRole({ config: loadConfig(file).config, dataDir: dir, log: createLog('silent') }).catch((reason: unknown) => reason)
    expect((error as Error).message).to.contain('external_secret')
  })
})
