import { once } from 'node:events'
import { mkdtemp, rm, stat } from 'node:fs/promises'
import { type IncomingMessage, request as httpRequest } from 'node:http'
import { request as httpsRequest } from 'node:https'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { Readable } from 'node:stream'
import { connect as connectTls } from 'node:tls'
import { expect } from 'chai'
import { createSecureContexts } from '../../lib/net/certificates.ts'
import { createLog } from '../log.ts'
import { createMetrics } from '../metrics.ts'
import { type BodyPace, type Http, type HttpOptions, bodyOf, createHttp, listenHealth, readBody } from './http.ts'

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

  it('a listener closes though connections that were upgraded stay', async () => {
    const { http, port } = await start()
    http.upgrade('/up', (_request, socket) => { socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n') })
    const socket = connect(port, '127.0.0.1', () => socket.write('GET /up HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n'))
    try {
      await once(socket, 'data')
      await http.close(10)
      expect(socket.readyState).to.equal('open')
    } finally {
      socket.destroy()
    }
  })

  it('closes a connection whose headers do not come', async () => {
    const { port } = await start({ limits: { headersTimeoutMs: 200 } })
    expect(await raw(port, 'GET / HTTP/1.1\r\nHost: x\r\n')).to.contain('408')
  })

  it('refuses dot segments and headers that are too long', async () => {
    const { port } = await start()
    expect(await raw(port, 'GET /a/%2e%2e/b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')).to.contain('400 Bad Request')
    for (const path of ['/a\\..\\b', '/a/..\\b', '/\\b', '/a/b\\']) expect(await raw(port, `GET ${path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`), path).to.contain('400 Bad Request')
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

  it('sends the headers of its listener with every answer', async () => {
    http = createHttp({ log })
    http.add('GET', '/a', (_request, response) => { response.end('a') })
    const listener = await http.listen({ port: 0, ip: '127.0.0.1', tls: false, customHeaders: new Map([['X-Frame-Options', 'DENY']]) })
    for (const [path, status] of [['/a', 200], ['/b', 404]] as const) {
      const response = await fetch(`http://127.0.0.1:${listener.port}${path}`)
      expect([response.status, response.headers.get('x-frame-options')]).to.deep.equal([status, 'DENY'])
    }
    listener.update({ port: 0, ip: '127.0.0.1', tls: false, customHeaders: new Map([['X Y', 'no header']]) })
    expect((await fetch(`http://127.0.0.1:${listener.port}/a`)).status).to.equal(500)
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

  describe('behind a proxy', () => {
    const line = 'PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n'
    const six = Buffer.from('0d0a0d0a000d0a515549540a21210024' + '20010db8000000000000000000000007' + '20010db8000000000000000000000001' + '30391466', 'hex')
    let dir: string
    beforeEach(async () => { dir = await mkdtemp(path.join(tmpdir(), 'http-')) })
    afterEach(() => rm(dir, { recursive: true }))

    /** A listener with and one without TLS that say whom they see. */
    async function behind(options: Partial<HttpOptions> = {}): Promise<{ plain: number; secure: number }> {
      const contexts = await createSecureContexts({ hosts: ['localhost'], certfiles: [], dataDir: dir })
      http = createHttp({ contexts: () => contexts, log, ...options })
      http.add('GET', '/', (_request, response, { address, secure }) => { response.end(`${address} ${secure}\n`) })
      http.add('PUT', '/', async (request, response, { address }) => { response.end(`${address} ${(await readBody(request, response, 10_000_000)).length}\n`) })
      const listen = async (tls: boolean): Promise<number> => (await (http as Http).listen({ port: 0, ip: '127.0.0.1', tls, proxyProtocol: true })).port
      return { plain: await listen(false), secure: await listen(true) }
    }

    /** Writes each piece as it is, the header ahead of TLS, and gives all that comes back. */
    async function ask(port: number, header: string | Buffer, requests: readonly (string | Buffer)[], tls = false): Promise<string> {
      const plain = connect(port, '127.0.0.1').setNoDelay(true)
      plain.on('error', () => undefined)
      plain.write(header)
      const socket = tls ? connectTls({ socket: plain, rejectUnauthorized: false, ALPNProtocols: ['http/1.1'] }) : plain
      socket.on('error', () => undefined)
      let text = ''
      socket.on('data', (data: Buffer) => { text += data.toString() })
      for (const request of requests) {
        socket.write(request)
        await new Promise((resolve) => setTimeout(resolve, 2))
      }
      if (!socket.closed) await once(socket, 'close')
      return text
    }
    const get = (more = ''): string => `GET / HTTP/1.1\r\nHost: x\r\n${more}\r\n`
    const last = get('Connection: close\r\n')

    it('takes the client\'s address from the header, ahead of TLS, for all requests of the connection', async () => {
      const { plain, secure } = await behind()
      expect(await ask(plain, line, [get(), last])).to.match(/192\.0\.2\.7 false[^]*192\.0\.2\.7 false/)
      expect(await ask(plain, Buffer.concat([six, Buffer.from(last)]), [])).to.contain('2001:db8::7 false')
      expect(await ask(secure, six, [get(), last], true)).to.match(/2001:db8::7 true[^]*2001:db8::7 true/)
      expect(await ask(plain, 'PROXY UNKNOWN\r\n', [last])).to.contain('127.0.0.1 false')
    })

    it('takes it in pieces, and a body behind it', async () => {
      const { plain } = await behind()
      expect(await ask(plain, line.slice(0, 10), [line.slice(10, 30), line.slice(30) + last.slice(0, 5), last.slice(5)])).to.contain('192.0.2.7 false')
      const body = Buffer.alloc(3_000_000, 'x')
      expect(await ask(plain, Buffer.concat([Buffer.from(`${line}PUT / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: ${body.length}\r\n\r\n`), body]), [])).to.contain('192.0.2.7 3000000')
    })

    it('believes forwarding headers by the address in it', async () => {
      const { plain } = await behind({ trustedProxies: ['192.0.2.7'] })
      expect(await ask(plain, line, [get('X-Forwarded-For: 203.0.113.9\r\nConnection: close\r\n')])).to.contain('203.0.113.9')
      http?.trust([])
      expect(await ask(plain, line, [get('X-Forwarded-For: 203.0.113.9\r\nConnection: close\r\n')])).to.contain('192.0.2.7')
    })

    it('closes what comes without one, or does not come', async () => {
      const { plain, secure } = await behind({ limits: { proxyHeaderTimeoutMs: 200 } })
      for (const port of [plain, secure]) {
        expect(await ask(port, '', [last])).to.equal('')
        expect(await ask(port, 'PROXY TCP4 192', [])).to.equal('')
      }
    })

    it('limits connections by the address in it', async () => {
      const { plain } = await behind({ limits: { connectionsPerAddress: 1 } })
      const held = connect(plain, '127.0.0.1')
      held.write(`${line}GET`)
      await new Promise((resolve) => setTimeout(resolve, 50))
      expect(await ask(plain, line, [last])).to.equal('')
      expect(await ask(plain, six, [last])).to.contain('2001:db8::7')
      held.destroy()
    })
  })

  describe('TLS', () => {
    let dir: string
    beforeEach(async () => { dir = await mkdtemp(path.join(tmpdir(), 'http-')) })
    afterEach(() => rm(dir, { recursive: true }))

    it('has options by listener, which an update replaces', async () => {
      const contexts = await createSecureContexts({ hosts: ['localhost'], certfiles: [], dataDir: dir })
      http = createHttp({ contexts: () => contexts, log })
      const options = { port: 0, ip: '127.0.0.1', tls: true } as const
      const one = await http.listen({ ...options, tlsOptions: { maxVersion: 'TLSv1.2', ciphers: 'ECDHE-ECDSA-AES256-GCM-SHA384' } })
      const other = await http.listen({ ...options, tlsOptions: { minVersion: 'TLSv1.3' } })
      const speaks = async (port: number): Promise<string[]> => {
        const socket = connectTls({ port, host: '127.0.0.1', rejectUnauthorized: false })
        await once(socket, 'secureConnect')
        const found = [socket.getProtocol() ?? '', socket.getCipher().name]
        socket.destroy()
        return found
      }
      expect(await speaks(one.port)).to.deep.equal(['TLSv1.2', 'ECDHE-ECDSA-AES256-GCM-SHA384'])
      expect((await speaks(other.port))[0]).to.equal('TLSv1.3')
      one.update({ ...options, tlsOptions: {} })
      expect((await speaks(one.port))[0]).to.equal('TLSv1.3')
      expect(() => one.update({ ...options, tlsOptions: { ciphers: 'NOTHING' } })).to.throw('no cipher match')
      expect(await http.listen({ ...options, tlsOptions: { ciphers: 'NOTHING' } }).then(() => '', (error: Error) => error.message)).to.contain('no cipher match')
      expect(await createHttp({ log }).listen(options).then(() => '', (error: Error) => error.message)).to.contain('certificates')
    })

    it('ends handshakes that do not come, and does not wait for them at the end', async () => {
      const contexts = await createSecureContexts({ hosts: ['localhost'], certfiles: [], dataDir: dir })
      for (const limits of [{ handshakeTimeoutMs: 100 }, {}]) {
        http = createHttp({ contexts: () => contexts, log, limits })
        const { port } = await http.listen({ port: 0, ip: '127.0.0.1', tls: true })
        const silent = connect(port, '127.0.0.1')
        silent.on('error', () => undefined).write(Buffer.from('160301020001000001fc0303', 'hex'))
        await once(silent, 'connect')
        const closing = limits.handshakeTimeoutMs === undefined ? http.close(0) : undefined
        await new Promise((resolve) => { silent.resume().once('close', resolve) })
        await closing
      }
    })
  })

  it('listens on a Unix socket, whose clients have no address', async () => {
    const dir = await mkdtemp(path.join(tmpdir(), 'http-'))
    const unixPath = path.join(dir, 'web.sock')
    try {
      http = createHttp({ log, limits: { connectionsPerAddress: 1 } })
      http.add('GET', '/', (_request, response, { address }) => { response.end(`<${address}>`) })
      const listener = await http.listen({ port: 0, ip: '', unixPath, unixSocket: { mode: 0o666 }, tls: false })
      expect((await stat(unixPath)).mode & 0o777).to.equal(0o666)
      const text = async (): Promise<string> => {
        const asked = httpRequest({ socketPath: unixPath, path: '/' }).end()
        const [response] = (await once(asked, 'response')) as [IncomingMessage]
        return String((await response.toArray())[0])
      }
      expect(await Promise.all([text(), text()])).to.deep.equal(['<>', '<>'])
      await listener.close(0)
      expect(await stat(unixPath).then(() => 'there', () => 'gone')).to.equal('gone')
    } finally {
      await rm(dir, { recursive: true })
    }
  })

  describe('a body', () => {
    /** Sends a body of 100 bytes in steps of `stepMs`; answers the status. */
    async function upload(stepMs: number, bytes: number, pace: BodyPace): Promise<string> {
      const { http, port } = await start()
      http.add('PUT', '/', async (request, response) => { response.end(String((await readBody(request, response, 1000, pace)).length)) })
      const socket = connect(port, '127.0.0.1').setNoDelay(true)
      let text = ''
      socket.on('data', (data) => { text += data.toString() })
      socket.on('error', () => undefined)
      socket.write('PUT / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 100\r\n\r\n')
      const sender = setInterval(() => socket.write('x'.repeat(bytes)), stepMs)
      await once(socket, 'close')
      clearInterval(sender)
      return text.slice(9, 12)
    }

    it('may take as long as it likes while it keeps its pace', async () => {
      expect(await upload(20, 5, { httpIdleTimeoutMs: 50, httpBytesPerSecond: 20 })).to.equal('200')
    })

    it('is refused when it comes too slowly', async () => {
      expect(await upload(20, 1, { httpIdleTimeoutMs: 100, httpBytesPerSecond: 1000 })).to.equal('408')
    })

    it('is not held to it by a reader that is slow', async () => {
      const parts = ['x'.repeat(100), 'y'.repeat(100), 'z'.repeat(100)].map((text) => Buffer.from(text))
      const now = performance.now.bind(performance)
      let ms = 0
      performance.now = () => ms
      try {
        let length = 0
        for await (const part of bodyOf(Readable.from(parts) as IncomingMessage, { httpIdleTimeoutMs: 1000, httpBytesPerSecond: 1000 })) {
          length += part.length
          ms += 5000
        }
        expect(length).to.equal(300)
      } finally {
        performance.now = now
      }
    })
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
