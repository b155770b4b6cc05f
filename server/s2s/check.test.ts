import { once } from 'node:events'
import { type AddressInfo, type Server, type Socket, createServer } from 'node:net'
import { TLSSocket, createSecureContext } from 'node:tls'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { expect } from 'chai'
import { createTrust } from './certificate.ts'
import { type ServerAuthority, makeServerAuthority } from './certificates.fixture.ts'
import { type CheckOptions, checkDomain, checkOwn, linesOf, ownLinesOf } from './check.ts'
import { type NameServer, type Zone, startNameServer } from './dns.fixture.ts'
import { createDns } from './resolve.ts'

const SERVER = '_xmpp-server._tcp.'
const DIRECT = '_xmpps-server._tcp.'
const EXTERNAL = '<mechanisms xmlns="urn:ietf:params:xml:ns:xmpp-sasl"><mechanism>EXTERNAL</mechanism></mechanisms>'
const DIALBACK = '<dialback xmlns="urn:xmpp:features:dialback"/>'
const MORE = '<bidi xmlns="urn:xmpp:features:bidi"/><sm xmlns="urn:xmpp:sm:3"/>'
const STARTTLS = '<starttls xmlns="urn:ietf:params:xml:ns:xmpp-tls"/>'

describe('whether another server can be reached', () => {
  let authority: ServerAuthority
  let folder: string
  let names: NameServer
  const servers: Server[] = []

  before(async () => {
    authority = await makeServerAuthority()
    folder = await mkdtemp(path.join(tmpdir(), 'tidings-check-'))
    await writeFile(path.join(folder, 'ca.pem'), authority.certificate)
    names = await startNameServer({})
  })

  afterEach(() => { for (const server of servers.splice(0)) server.close() })

  after(async () => {
    await names[Symbol.asyncDispose]()
    await rm(folder, { recursive: true, force: true })
  })

  /** A server that goes as far as its features; its port. */
  async function remote({ plain = STARTTLS, secure = EXTERNAL + DIALBACK, dns = ['a.example'], isDirect = false, lines = [] as string[] } = {}): Promise<number> {
    const context = createSecureContext(await authority.issue({ dns }))
    const speak = (socket: Socket, features: string): void => {
      socket.on('error', () => {}).on('data', (data: Buffer) => {
        const text = data.toString()
        lines.push(text)
        if (text.includes('<stream:stream')) socket.write(`<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:db='jabber:server:dialback' xmlns:stream='http://etherx.jabber.org/streams' id='1' from='a.example' version='1.0'><stream:features>${features}</stream:features>`)
        if (text.includes('<starttls')) {
          socket.removeAllListeners('data')
          socket.write('<proceed xmlns="urn:ietf:params:xml:ns:xmpp-tls"/>')
          speak(new TLSSocket(socket, { isServer: true, secureContext: context }), secure)
        }
      })
    }
    const server = createServer((socket) => {
      if (isDirect) speak(new TLSSocket(socket, { isServer: true, secureContext: context }), secure)
      else speak(socket, plain)
    })
    servers.push(server)
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    return (server.address() as AddressInfo).port
  }

  function optionsFor(zone: Zone): CheckOptions {
    names.zone = { ...zone, 'x.example': { A: ['127.0.0.1'] } }
    return { dns: createDns({ servers: [names.address], timeoutMs: 200, retries: 0 }), timeoutMs: 3000, tls: {}, from: 'us.example', trust: createTrust(path.join(folder, 'ca.pem')) }
  }

  it('tells of each step up to the features behind TLS', async () => {
    const lines: string[] = []
    const port = await remote({ secure: EXTERNAL + DIALBACK + MORE, lines })
    const report = await checkDomain('a.example', optionsFor({ [`${SERVER}a.example`]: { SRV: [[0, 0, port, 'x.example']] } }))
    expect(report.works).to.equal(true)
    expect(lines[0]).to.contain("from='us.example'").and.contain("to='a.example'")
    const [address] = report.targets[0]?.addresses ?? []
    expect(address).to.include({ address: '127.0.0.1', family: 4, isConnected: true, tls: 'TLSv1.3' })
    expect(address?.offer).to.deep.equal({ external: true, dialback: true, bidi: true, streamManagement: true })
    expect(address?.certificate).to.include({ trusted: true }).and.deep.include({ names: ['a.example'] })
    expect(report.conclusion).to.deep.equal([
      `a.example is reached at 127.0.0.1 port ${port}, over TLS, with a certificate that is believed here.`,
      'It believes our certificate, and we log in by it.',
    ])
    const text = linesOf(report)
    expect(text).to.include(`  SRV of ${SERVER}a.example: 0 0 ${port} x.example`).and.include('    STARTTLS (TLSv1.3)').and.include('    it offers SASL EXTERNAL, dialback, bidirectional streams, stream management')
  })

  it('direct TLS is told of as such', async () => {
    const port = await remote({ isDirect: true, secure: DIALBACK })
    const report = await checkDomain('a.example', optionsFor({ [`${DIRECT}a.example`]: { SRV: [[0, 0, port, 'x.example']] } }))
    expect(report.works).to.equal(true)
    expect(report.conclusion[0]).to.contain('by direct TLS')
    expect(report.conclusion[1]).to.contain('by dialback alone')
  })

  it('a certificate of another name is told, and leaves dialback', async () => {
    const port = await remote({ dns: ['b.example'] })
    const report = await checkDomain('a.example', optionsFor({ [`${SERVER}a.example`]: { SRV: [[0, 0, port, 'x.example']] } }))
    expect(report.works).to.equal(true)
    expect(report.conclusion[0]).to.contain('not believed here (its certificate is for b.example, not for a.example)')
    expect(report.conclusion.at(-1)).to.contain('by dialback, where TLS and certificates are not required')
  })

  it('without TLS it says that others can read', async () => {
    const port = await remote({ plain: DIALBACK })
    const report = await checkDomain('a.example', optionsFor({ [`${SERVER}a.example`]: { SRV: [[0, 0, port, 'x.example']] } }))
    expect(report.works).to.equal(true)
    expect(report.targets[0]?.addresses[0]?.steps).to.include('it does not offer STARTTLS')
    expect(report.conclusion.at(-1)).to.contain('can be read on the way')
  })

  it('neither EXTERNAL nor dialback is no way in', async () => {
    const port = await remote({ secure: '' })
    const report = await checkDomain('a.example', optionsFor({ [`${SERVER}a.example`]: { SRV: [[0, 0, port, 'x.example']] } }))
    expect(report.works).to.equal(false)
    expect(report.conclusion[0]).to.contain('offers neither SASL EXTERNAL nor dialback')
    expect(report.conclusion.at(-1)).to.equal('Nothing can be sent to a.example.')
  })

  it('each that does not answer is told, and the one that does', async () => {
    const port = await remote()
    const report = await checkDomain('a.example', optionsFor({ [`${SERVER}a.example`]: { SRV: [[0, 0, 1, 'x.example'], [1, 0, port, 'x.example']] } }))
    expect(report.works).to.equal(true)
    expect(report.conclusion[0]).to.equal('127.0.0.1 port 1 cannot be connected to: refused.')
  })

  it('what is no XMPP is told', async () => {
    const server = createServer((socket) => { socket.on('error', () => {}).end('220 mail\r\n') })
    servers.push(server)
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    const { port } = server.address() as AddressInfo
    const report = await checkDomain('a.example', optionsFor({ [`${SERVER}a.example`]: { SRV: [[0, 0, port, 'x.example']] } }))
    expect(report.works).to.equal(false)
    expect(report.conclusion[0]).to.contain('does not speak XMPP')
  })

  it('a domain that is not in DNS, one that DNS does not answer about, and one that has no server, are told apart', async () => {
    const options = optionsFor({ [`${SERVER}off.example`]: { SRV: [[0, 0, 0, '.']] }, [`${SERVER}silent.example`]: { fails: 'silent' } })
    expect((await checkDomain('none.example', options)).conclusion).to.deep.equal(['There is no server of none.example: no address is found for it.'])
    expect((await checkDomain('silent.example', options)).conclusion).to.deep.equal(['DNS does not answer about silent.example.'])
    expect((await checkDomain('off.example', options)).conclusion).to.deep.equal(['off.example says in DNS that it has no server for other servers.'])
  })

  it('our own hosts: their records, and what their certificates are worth to others', async () => {
    const port = await remote()
    const options = optionsFor({ [`${SERVER}a.example`]: { SRV: [[0, 0, port, 'x.example']] } })
    const good = await checkOwn('a.example', createSecureContext(await authority.issue({ dns: ['a.example'] })), options)
    expect(good).to.include({ works: true })
    expect(good.conclusion[0]).to.equal('Others reach a.example.')
    expect(good.conclusion[1]).to.match(/^Its certificate is good until \d{4}-\d\d-\d\d\.$/)
    const bad = await checkOwn('b.example', createSecureContext(await (await makeServerAuthority()).issue({ dns: ['b.example'] })), options)
    expect(bad).to.include({ works: false })
    expect(bad.conclusion[0]).to.contain('it needs a record SRV of _xmpp-server._tcp.b.example')
    expect(bad.conclusion[1]).to.contain('Others will not believe its certificate: its certificate is from an authority')
    expect((await checkOwn('b.example', undefined, options)).conclusion[1]).to.equal('There is no certificate for b.example.')
    expect(ownLinesOf(good)[0]).to.equal('Our own host a.example')
  })
})
