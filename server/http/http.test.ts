import { mkdtemp, rm } from 'node:fs/promises'
import { request as httpsRequest } from 'node:https'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { expect } from 'chai'
import { createSecureContexts } from '../../lib/net/certificates.ts'
import { createLog } from '../log.ts'
import { createMetrics } from '../metrics.ts'
import { type Http, type HttpOptions, createHttp, listenHealth, readBody } from './http.ts'

const log = createLog('silent')

function raw(port: number, text: string): Promise<string> {
  return new Promise((resolve, reject) => {
    let received = ''
    const socket = connect(port, '127.0.0.1', () => socket.write(text))
    socket.on('data', (data) => { received += data.toString() })
    socket.on('close', () => resolve(received))
    socket.on('error', reject)
  })
}

describe('HTTP', () => {
  let http: Http | undefined
  afterEach(async () => { await http?.close(0) })

  async function start(options: Partial<HttpOptions> = {}, handlers?: ReadonlyMap<string, string>): Promise<{ http: Http; port: number; base: string }> {
    http = createHttp({ log, ...options })
    const { port } = await http.listen({ port: 0, ip: '127.0.0.1', tls: false, requestHandlers: handlers })
    return { http, port, base: `http://127.0.0.1:${port}` }
  }

  it('gives a request to the longest prefix, whole segments alone', async () => {
    const { http, base } = await start()
    http.add('GET', '/a', (_request, response) => { response.end('a') })
    http.add('GET', '/a/b', (_request, response, { path, query }) => { response.end(`b ${path} ${query.get('q')}`) })
    expect(await (await fetch(`${base}/a/x`)).text()).to.equal('a')
    expect(await (await fetch(`${base}/a/b/c?q=1`)).text()).to.equal('b /a/b/c 1')
    expect((await fetch(`${base}/ab`)).status).to.equal(404)
  })

  it('RFC 9110 §15.5.6: names the methods it allows', async () => {
    const { http, base } = await start()
    http.add('GET', '/a', (_request, response) => { response.end('a') })
    const response = await fetch(`${base}/a`, { method: 'DELETE' })
    expect([response.status, response.headers.get('allow')]).to.deep.equal([405, 'GET, HEAD'])
  })

  it('answers 500 when a handler fails, and goes on', async () => {
    const { http, base } = await start()
    http.add('GET', '/broken', () => { throw new Error('a bug') })
    expect((await fetch(`${base}/broken`)).status).to.equal(500)
    expect((await fetch(`${base}/broken`)).status).to.equal(500)
  })

  it('refuses a body that is too long', async () => {
    const { http, base } = await start()
    http.add('POST', '/in', async (request, response) => { response.end(String((await readBody(request, response, 10)).length)) })
    expect(await (await fetch(`${base}/in`, { method: 'POST', body: '0123456789' })).text()).to.equal('10')
    expect((await fetch(`${base}/in`, { method: 'POST', body: '0123456789X' })).status).to.equal(413)
  })

  it('closes a connection whose headers do not come', async () => {
    const { port } = await start({ limits: { headersTimeoutMs: 200 } })
    expect(await raw(port, 'GET / HTTP/1.1\r\nHost: x\r\n')).to.contain('408')
  })

  it('refuses dot segments and headers that are too long', async () => {
    const { port } = await start()
    expect(await raw(port, 'GET /a/%2e%2e/b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')).to.contain('400 Bad Request')
    expect(await raw(port, `GET / HTTP/1.1\r\nHost: x\r\nX-Long: ${'x'.repeat(20000)}\r\n\r\n`)).to.contain('431')
  })

  it('serves a handler where the configuration mounts it, and nothing else', async () => {
    const { http, base, port } = await start({}, new Map([['/files', 'mod_http_upload']]))
    http.add('GET', '/upload', (_request, response, { path }) => { response.end(path) })
    http.add('GET', '/api', (_request, response) => { response.end('api') })
    expect(await (await fetch(`${base}/files/x`)).text()).to.equal('/upload/x')
    expect((await fetch(`${base}/api`)).status).to.equal(404)
    expect(http.baseUrl('example.org', '/upload')).to.equal(`http://example.org:${port}/files`)
  })

  it('believes X-Forwarded-For of trusted proxies alone, from the right', async () => {
    const seen: string[] = []
    const headers = { 'X-Forwarded-For': '9.9.9.9, 192.0.2.7' }
    for (const trustedProxies of [[], ['127.0.0.1']]) {
      const { http, base } = await start({ trustedProxies })
      http.add('GET', '/', (_request, response, { address }) => { seen.push(address); response.end() })
      await fetch(base, { headers })
      await http.close(0)
    }
    expect(seen).to.deep.equal(['127.0.0.1', '192.0.2.7'])
  })

  it('presents the certificate of the name asked for', async () => {
    const dir = await mkdtemp(path.join(tmpdir(), 'http-'))
    try {
      const contexts = await createSecureContexts({ hosts: ['one.test', 'two.test'], certfiles: [], dataDir: dir })
      http = createHttp({ contexts: () => contexts, log })
      http.add('GET', '/', (_request, response) => { response.end('ok') })
      const { port } = await http.listen({ port: 0, ip: '127.0.0.1', tls: true })
      const names = await new Promise<string | undefined>((resolve, reject) => {
        httpsRequest({ port, host: '127.0.0.1', servername: 'upload.two.test', rejectUnauthorized: false, agent: false }, (response) => {
          response.resume()
          resolve((response.socket as import('node:tls').TLSSocket).getPeerX509Certificate()?.subjectAltName)
        }).on('error', reject).end()
      })
      expect(names).to.contain('DNS:two.test')
      expect(http.baseUrl('two.test')).to.equal(`https://two.test:${port}`)
    } finally {
      await rm(dir, { recursive: true })
    }
  })

  it('tells operators its metrics and its health', async () => {
    let healthy = true
    const listener = await listenHealth({ port: 0, ip: '127.0.0.1', log, metrics: createMetrics(), health: () => ({ healthy, sessions: 3 }) })
    try {
      const base = `http://127.0.0.1:${listener.port}`
      expect(await (await fetch(`${base}/health`)).json()).to.deep.equal({ healthy: true, sessions: 3 })
      healthy = false
      expect((await fetch(`${base}/health`)).status).to.equal(503)
      expect(await (await fetch(`${base}/metrics`)).text()).to.contain('tidings_process_cpu_seconds_total')
    } finally {
      await listener.close(0)
    }
  })
})
