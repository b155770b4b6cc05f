import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { type AddressInfo, type Server, type Socket, connect, createServer } from 'node:net'
import { createServer as createTlsServer } from 'node:tls'
import { expect } from 'chai'
import { makeAuthority } from '../../lib/net/client-certificate.fixture.ts'
import { ConnectError, type ConnectOptions, connectTo, connections } from './connect.ts'
import { type NameServer, type Zone, startNameServer } from './dns.fixture.ts'
import { createDns } from './resolve.ts'

const SERVER = '_xmpp-server._tcp.'
const DIRECT = '_xmpps-server._tcp.'
/** A port where nobody listens. */
const REFUSED = 1

describe('connecting to the server of a domain', () => {
  const servers: Server[] = []
  let names: NameServer | undefined

  afterEach(async () => {
    await names?.[Symbol.asyncDispose]()
    names = undefined
    for (const server of servers.splice(0)) server.close()
  })

  async function listen(server: Server, ip = '127.0.0.1', port = 0): Promise<number> {
    servers.push(server)
    server.on('connection', (socket: Socket) => socket.on('error', () => {}))
    server.listen(port, ip)
    await once(server, 'listening')
    return (server.address() as AddressInfo).port
  }

  async function optionsFor(zone: Zone): Promise<ConnectOptions> {
    names = await startNameServer(zone)
    return { dns: createDns({ servers: [names.address], timeoutMs: 300, retries: 0 }), timeoutMs: 2000, tls: {} }
  }

  async function failure(domain: string, options: ConnectOptions): Promise<ConnectError> {
    const error = await connectTo(domain, options).then(({ socket }) => { socket.destroy() }, (reason: unknown) => reason)
    expect(error).to.be.instanceOf(ConnectError)
    return error as ConnectError
  }

  it('goes to the next target when one refuses', async () => {
    const open = await listen(createServer())
    const options = await optionsFor({ [`${SERVER}a.example`]: { SRV: [[1, 0, REFUSED, 'x.example'], [2, 0, open, 'y.example']] }, 'x.example': { A: ['127.0.0.1'] }, 'y.example': { A: ['127.0.0.1'] } })
    const steps: string[] = []
    const connection = await connectTo('a.example', { ...options, onStep: (step) => steps.push(step) })
    expect(connection).to.include({ host: 'y.example', port: open, address: '127.0.0.1', isDirectTls: false })
    expect(steps).to.include(`127.0.0.1 port ${REFUSED}: refused`).and.include(`127.0.0.1 port ${open}: connected`).and.include('AAAA of x.example: none')
    connection.socket.destroy()
  })

  it('goes to the next address of a target, over families in turn', async () => {
    const port = await listen(createServer(), '127.0.0.3')
    const options = await optionsFor({ [`${SERVER}a.example`]: { SRV: [[1, 0, port, 'x.example']] }, 'x.example': { A: ['127.0.0.2', '127.0.0.3'], AAAA: ['::1'] } })
    const steps: string[] = []
    const { socket, address } = await connectTo('a.example', { ...options, onStep: (step) => steps.push(step) })
    expect(address).to.equal('127.0.0.3')
    expect(steps.filter((step) => step.includes(' port ')).map((step) => step.split(' ')[0])).to.deep.equal(['::1', '127.0.0.2', '127.0.0.3'])
    socket.destroy()
  })

  it('prefers the family that is first, and leaves out those that are not there', async () => {
    const port = await listen(createServer(), '::', 0)
    const options = await optionsFor({ 'a.example': { A: ['127.0.0.1'], AAAA: ['::1'] } })
    for (const [families, expected] of [[[6, 4], '::1'], [[4, 6], '127.0.0.1'], [[4], '127.0.0.1']] as const) {
      const { socket, address } = await connectTo('a.example', { ...options, families, port })
      expect(address).to.equal(expected)
      socket.destroy()
    }
    expect((await failure('[::1]', { ...options, families: [4], port })).condition).to.equal('remote-server-not-found')
  })

  it('does not wait for an address that is silent when another answers (RFC 8305 §5)', async () => {
    await using silent = await silentListener('127.0.0.2')
    await listen(createServer(), '127.0.0.1', silent.port)
    const options = await optionsFor({ 'a.example': { A: ['127.0.0.2', '127.0.0.1'] } })
    const steps: string[] = []
    const { socket, address } = await connectTo('a.example', { ...options, port: silent.port, timeoutMs: 60_000, onStep: (step) => steps.push(step) })
    expect(address).to.equal('127.0.0.1')
    expect(steps.filter((step) => step.includes('does not answer'))).to.deep.equal([])
    socket.destroy()
  })

  it('does not wait for a family that DNS does not answer about (RFC 8305 §3)', async () => {
    const port = await listen(createServer())
    const options = await optionsFor({ [`${SERVER}a.example`]: { SRV: [[1, 0, port, 'x.example']] } })
    const dns = { ...options.dns, addresses: async (_: string, family: number): Promise<string[]> => (family === 4 ? ['127.0.0.1'] : new Promise(() => {})) }
    const { socket, address } = await connectTo('a.example', { ...options, dns })
    expect(address).to.equal('127.0.0.1')
    socket.destroy()
  })

  it('an address that is silent is a time-out', async () => {
    await using silent = await silentListener('127.0.0.2')
    const options = await optionsFor({ 'a.example': { A: ['127.0.0.2'] } })
    const error = await failure('a.example', { ...options, port: silent.port, timeoutMs: 200 })
    expect(error.condition).to.equal('remote-server-timeout')
    expect(error.message).to.contain(`127.0.0.2 port ${silent.port}: does not answer`)
  })

  it('a domain that DNS does not know is not found, one that DNS has no answer about or that refuses does not answer', async () => {
    const options = await optionsFor({
      [`${SERVER}off.example`]: { SRV: [[0, 0, 0, '.']] }, 'off.example': { A: ['127.0.0.1'] },
      [`${SERVER}lost.example`]: { SRV: [[0, 0, 5269, 'nowhere.example']] },
      'silent.example': { fails: 'silent' }, 'refusing.example': { A: ['127.0.0.1'] },
    })
    expect((await failure('none.example', options)).condition).to.equal('remote-server-not-found')
    expect((await failure('off.example', options)).condition).to.equal('remote-server-not-found')
    expect((await failure('lost.example', options)).condition).to.equal('remote-server-not-found')
    expect((await failure('silent.example', options)).condition).to.equal('remote-server-timeout')
    expect((await failure('refusing.example', { ...options, port: REFUSED })).condition).to.equal('remote-server-timeout')
    expect((await failure('none.example', options)).message).to.equal('none.example cannot be reached: SRV of _xmpps-server._tcp.none.example: none; SRV of _xmpp-server._tcp.none.example: none; '
      + 'so none.example itself is tried, on port 5269; AAAA of none.example: none; A of none.example: none')
  })

  it('connects from the address that is configured', async () => {
    const server = createServer()
    const from = once(server, 'connection') as Promise<[Socket]>
    const port = await listen(server)
    const options = await optionsFor({ 'a.example': { A: ['127.0.0.1'] } })
    const { socket } = await connectTo('a.example', { ...options, port, ipv4Address: '127.0.0.9' })
    expect((await from)[0].remoteAddress).to.equal('127.0.0.9')
    socket.destroy()
  })

  it('direct TLS names the domain by SNI and the protocol by ALPN, and is not what another speaks (XEP-0368 §2)', async () => {
    const { cert, key } = await (await makeAuthority()).issue([])
    const seen: unknown[] = []
    const handshaken = Promise.withResolvers<void>()
    const secure = createTlsServer({ cert, key, ALPNProtocols: ['xmpp-server'], SNICallback: (name, done) => { seen.push(name); done(null) } }, (socket) => { seen.push(socket.alpnProtocol); handshaken.resolve() })
    const port = await listen(secure)
    // Whoever waits for a stream header answers with one.
    const plain = await listen(createServer((socket) => { socket.end('<?xml version="1.0"?>') }))
    const options = await optionsFor({ [`${DIRECT}bücher.example`]: {}, [`${DIRECT}xn--bcher-kva.example`]: { SRV: [[1, 0, plain, 'x.example'], [2, 0, port, 'x.example']] }, 'x.example': { A: ['127.0.0.1'] } })
    const steps: string[] = []
    const connection = await connectTo('bücher.example', { ...options, onStep: (step) => steps.push(step) })
    expect(connection).to.include({ isDirectTls: true, port })
    expect(connection.isDirectTls && connection.socket.alpnProtocol).to.equal('xmpp-server')
    await handshaken.promise
    expect(seen).to.deep.equal(['xn--bcher-kva.example', 'xmpp-server'])
    expect(steps.some((step) => step.startsWith(`127.0.0.1 port ${plain}: direct TLS fails: `))).to.equal(true)
    connection.socket.destroy()
  })

  it('without our side of TLS, targets of direct TLS are left out', async () => {
    const port = await listen(createServer())
    const options = await optionsFor({ [`${DIRECT}a.example`]: { SRV: [[1, 0, port, 'x.example']] }, 'x.example': { A: ['127.0.0.1'] } })
    const error = await failure('a.example', { ...options, tls: undefined })
    expect(error.message).to.contain(`x.example port ${port} is for direct TLS, which is off here`)
  })

  it('who asks for another gets the next target, and in the end an error', async () => {
    const [one, two] = [await listen(createServer()), await listen(createServer())]
    const options = await optionsFor({ [`${SERVER}a.example`]: { SRV: [[1, 0, one, 'x.example'], [2, 0, two, 'x.example']] }, 'x.example': { A: ['127.0.0.1'] } })
    const seen: number[] = []
    const error = await (async () => {
      for await (const { socket, port } of connections('a.example', options)) {
        seen.push(port)
        socket.destroy()
      }
    })().catch((reason: unknown) => reason)
    expect(seen).to.deep.equal([one, two])
    expect(error).to.be.instanceOf(ConnectError)
    expect((error as ConnectError).condition).to.equal('remote-server-timeout')
  })

  it('a signal ends what was begun', async () => {
    await using silent = await silentListener('127.0.0.2')
    const options = await optionsFor({ 'a.example': { A: ['127.0.0.2'] } })
    const stop = new AbortController()
    const connecting = connectTo('a.example', { ...options, port: silent.port, timeoutMs: 60_000, signal: stop.signal, onStep: (step) => { if (step.startsWith('A of')) setTimeout(() => { stop.abort(new Error('stopping')) }, 20) } })
    expect(await connecting.then(() => undefined, (error: unknown) => error)).to.have.property('message', 'stopping')
  })

  it('what fails before somebody listens is no exception', async () => {
    const server = createServer()
    const accepted = once(server, 'connection') as Promise<[Socket]>
    const port = await listen(server)
    const options = await optionsFor({ 'a.example': { A: ['127.0.0.1'] } })
    const { socket } = await connectTo('a.example', { ...options, port })
    const closed = new Promise((resolve) => { socket.once('close', resolve) })
    ;(await accepted)[0].resetAndDestroy()
    socket.resume()
    await closed
    expect(socket.destroyed).to.equal(true)
  })
})

/** A port whose process is stopped and whose queue is full: the network drops what else comes. */
async function silentListener(ip: string): Promise<{ port: number } & AsyncDisposable> {
  const child: ChildProcess = spawn(process.execPath, ['-e', `const s = require('net').createServer(); s.listen({ port: 0, host: '${ip}', backlog: 1 }, () => { console.log(s.address().port) })`], { stdio: ['ignore', 'pipe', 'inherit'] })
  const [line] = (await once(child.stdout as NodeJS.ReadableStream, 'data')) as [Buffer]
  const port = Number(line.toString())
  child.kill('SIGSTOP')
  const filling = Array.from({ length: 4 }, () => connect(port, ip).on('error', () => {}))
  await new Promise((resolve) => setTimeout(resolve, 100))
  return {
    port,
    async [Symbol.asyncDispose]() {
      for (const socket of filling) socket.destroy()
      child.kill('SIGKILL')
      await once(child, 'exit')
    },
  }
}
