import { execFile } from 'node:child_process'
import { X509Certificate } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { type ConnectionOptions, TLSSocket, connect, createSecureContext } from 'node:tls'
import { promisify } from 'node:util'
import { expect } from 'chai'
import { type CertificateCheck, checkCertificate, createTrust, nameProblem } from './certificate.ts'
import { CLIENT_AUTH, SERVER_AUTH, type ServerAuthority, type Wanted, makeServerAuthority } from './certificates.fixture.ts'

describe('certificates of other servers', () => {
  let authority: ServerAuthority
  let folder: string

  before(async () => {
    authority = await makeServerAuthority()
    folder = await mkdtemp(path.join(tmpdir(), 'tidings-certificate-'))
  })

  after(() => rm(folder, { recursive: true, force: true }))

  /** What each side of a real handshake says of a certificate: where it is the server's, and where the client's. */
  async function checks(shown: { cert: string; key: string } | undefined, domain: string, root = authority, now?: () => number): Promise<{ outgoing: CertificateCheck; incoming: CertificateCheck }> {
    const file = path.join(folder, `${Math.random()}.pem`)
    await writeFile(file, root.certificate)
    const trust = createTrust(file)
    const own = await authority.issue({ dns: ['us.example'] })
    const accepted = Promise.withResolvers<CertificateCheck>()
    const handshake = async (server: { cert: string; key: string }, client: ConnectionOptions, onAccepted?: (socket: TLSSocket) => void): Promise<CertificateCheck> => {
      const listener = createServer((raw) => {
        const socket = new TLSSocket(raw, { isServer: true, secureContext: createSecureContext({ ...server, ca: [...(trust.ca ?? [])] }), requestCert: true, rejectUnauthorized: false })
        socket.on('error', () => {}).once('secure', () => {
          onAccepted?.(socket)
          socket.end('x')
        })
      })
      listener.listen(0, '127.0.0.1')
      await once(listener, 'listening')
      const socket = connect({ port: (listener.address() as AddressInfo).port, host: '127.0.0.1', servername: 'us.example', ca: [...(trust.ca ?? [])], rejectUnauthorized: false, ...client })
      const { promise: outcome, resolve } = Promise.withResolvers<CertificateCheck>()
      socket.once('secureConnect', () => { resolve(checkCertificate(socket, domain, trust, now)) }).resume()
      await once(socket, 'close')
      listener.close()
      return outcome
    }
    const outgoing = shown === undefined ? { trusted: false } : await handshake(shown, {})
    await handshake(own, shown === undefined ? {} : { ...shown }, (socket) => { accepted.resolve(checkCertificate(socket, domain, trust, now)) })
    return { outgoing, incoming: await accepted.promise }
  }

  async function problems(wanted: Wanted, domain = 'a.example', from = authority): Promise<(string | undefined)[]> {
    const { outgoing, incoming } = await checks(await from.issue(wanted), domain)
    expect(outgoing.trusted).to.equal(outgoing.problem === undefined)
    expect(incoming.trusted).to.equal(incoming.problem === undefined)
    return [outgoing.problem, incoming.problem]
  }

  it('one of an authority that is believed is good, both ways, until the first of its path ends', async () => {
    const shown = await authority.issue({ dns: ['a.example'], usages: [SERVER_AUTH, CLIENT_AUTH], lastsMs: 3_600_000 })
    const endsAt = new X509Certificate(shown.cert).validToDate.getTime()
    expect(await checks(shown, 'a.example')).to.deep.equal({ outgoing: { trusted: true, endsAt }, incoming: { trusted: true, endsAt } })
    const short = await (await authority.below({ lastsMs: 60_000 })).issue({ dns: ['a.example'] })
    const { outgoing } = await checks(short, 'a.example')
    expect(outgoing.endsAt).to.be.below(Date.now() + 61_000)
  })

  it('one without usages, and one behind another authority, are good', async () => {
    expect(await problems({ dns: ['a.example'] })).to.deep.equal([undefined, undefined])
    expect(await problems({ dns: ['a.example'] }, 'a.example', await authority.below())).to.deep.equal([undefined, undefined])
  })

  it('none is not trusted', async () => {
    expect((await checks(undefined, 'a.example')).incoming).to.deep.equal({ trusted: false, problem: 'it has shown no certificate' })
  })

  it('one for servers alone is good of a server that connects too', async () => {
    expect(await problems({ dns: ['a.example'], usages: [SERVER_AUTH] })).to.deep.equal([undefined, undefined])
    const below = await authority.below({ pathLength: 0, usages: [SERVER_AUTH] })
    expect(await problems({ dns: ['a.example'], usages: [SERVER_AUTH] }, 'a.example', below)).to.deep.equal([undefined, undefined])
  })

  it('one for servers alone has to have all else that a path needs', async () => {
    const usages = [SERVER_AUTH]
    const stranger = await makeServerAuthority()
    expect((await problems({ dns: ['a.example'], usages }, 'a.example', stranger))[1]).to.match(/authority that is not believed here/)
    expect((await problems({ dns: ['a.example'], usages }, 'a.example', await stranger.below()))[1]).to.match(/authority that is not believed here/)
    expect((await problems({ dns: ['a.example'], usages, lastsMs: -1000 }))[1]).to.contain('has ended')
    expect((await problems({ dns: ['a.example'], usages, startsMs: 60_000 }))[1]).to.contain('not valid yet')
    expect((await problems({ dns: ['a.example'], usages }, 'a.example', await authority.below({ lastsMs: -1000 })))[1]).to.contain('has ended')
    expect((await problems({ dns: ['a.example'], usages }, 'a.example', await (await authority.below({ pathLength: 0 })).below()))[1]).to.match(/path length|longer than its authority allows/)
    expect((await problems({ dns: ['a.example'], usages, critical: '1.2.3.4' }))[1]).to.contain('1.2.3.4')
    expect((await problems({ dns: ['a.example'], usages: ['1.3.6.1.5.5.7.3.8'] }))[1]).to.equal('its certificate is not for servers')
    expect((await problems({ dns: ['a.example'], usages }, 'a.example', await authority.below({ usages: [CLIENT_AUTH] })))[1]).to.equal('its certificate is not for servers')
    // A certificate that is no authority's stands behind nothing.
    const { cert, key } = await authority.issue({ dns: ['a.example'], usages })
    const { incoming } = await checks({ cert: `${cert}${(await authority.issue({ dns: ['b.example'] })).cert}`, key }, 'b.example')
    expect(incoming.problem).to.equal('its certificate is for a.example, not for b.example')
    const root = await makeServerAuthority({ pathLength: 0 })
    const deep = await checks(await (await root.below()).issue({ dns: ['a.example'], usages }), 'a.example', root)
    expect(deep.incoming.problem).to.match(/path length|longer than its authority allows/)
    expect(deep.outgoing.trusted).to.equal(false)
  })

  it('one of an authority that is not believed, one that has ended, and one that is not valid yet are not', async () => {
    const stranger = await makeServerAuthority()
    for (const problem of await problems({ dns: ['a.example'] }, 'a.example', stranger)) expect(problem).to.match(/not believed here/)
    for (const problem of await problems({ dns: ['a.example'], lastsMs: -1000 })) expect(problem).to.contain('has ended')
    for (const problem of await problems({ dns: ['a.example'], startsMs: 60_000 })) expect(problem).to.contain('not valid yet')
  })

  it('one of an authority is not a server\'s (RFC 6120 §13.7.1.1)', async () => {
    for (const problem of await problems({ dns: ['a.example'], isAuthority: true })) expect(problem).to.equal('its certificate is that of an authority')
  })

  it('one for something else than servers is not', async () => {
    for (const problem of await problems({ dns: ['a.example'], usages: ['1.3.6.1.5.5.7.3.4'] })) expect(problem).to.be.a('string')
  })

  it('a good path and another\'s name are not enough', async () => {
    expect(await problems({ dns: ['b.example', 'c.example'] })).to.deep.equal(Array(2).fill('its certificate is for b.example, c.example, not for a.example'))
  })

  it('without a file, authorities of the system are believed too', async () => {
    const shown = await authority.issue({ dns: ['a.example'] })
    const file = path.join(folder, 'system.pem')
    await writeFile(file, authority.certificate)
    await writeFile(path.join(folder, 'shown.json'), JSON.stringify(shown))
    const script = `
      import { connect, createServer } from 'node:tls'
      import { readFileSync } from 'node:fs'
      import { checkCertificate, createTrust } from '${path.resolve(import.meta.dirname, 'certificate.ts')}'
      const trust = createTrust()
      const server = createServer(JSON.parse(readFileSync('${path.join(folder, 'shown.json')}'))).listen(0, '127.0.0.1', () => {
        const socket = connect({ port: server.address().port, host: '127.0.0.1', servername: 'a.example', rejectUnauthorized: false }, () => {
          console.log(trust.ca === undefined && checkCertificate(socket, 'a.example', trust).trusted)
          process.exit()
        })
      })`
    const run = promisify(execFile)
    const told = async (env: Record<string, string>): Promise<string> => (await run(process.execPath, ['--input-type=module', '-e', script], { env: { ...process.env, ...env } })).stdout.trim()
    expect(await told({ SSL_CERT_FILE: file })).to.equal('true')
    expect(await told({})).to.equal('false')
  })

  it('a file without authorities is refused', async () => {
    const file = path.join(folder, 'empty.pem')
    await writeFile(file, 'nothing')
    expect(() => createTrust(file)).to.throw(/no certificate/)
  })

  describe('names', () => {
    async function isFor(wanted: Wanted, domain: string): Promise<boolean> {
      return nameProblem(new X509Certificate((await authority.issue(wanted)).cert), domain) === undefined
    }

    it('a DNS-ID matches whatever its case, and nothing else does (RFC 6125 §6.4.1)', async () => {
      expect(await isFor({ dns: ['IM.Example.net'] }, 'im.example.net')).to.equal(true)
      for (const domain of ['example.net', 'a.im.example.net', 'im.example.net.evil.example', 'xim.example.net']) expect(await isFor({ dns: ['im.example.net'] }, domain), domain).to.equal(false)
    })

    it('a wildcard is the whole first label, and stands for one (RFC 6125 §6.4.3)', async () => {
      expect(await isFor({ dns: ['*.example.net'] }, 'im.example.net')).to.equal(true)
      for (const domain of ['example.net', 'a.im.example.net', 'im.example.org']) expect(await isFor({ dns: ['*.example.net'] }, domain), domain).to.equal(false)
      for (const name of ['i*.example.net', '*m.example.net', 'im.*.net', '*.*.net', '*', '*.net']) expect(await isFor({ dns: [name] }, 'im.example.net'), name).to.equal(false)
      expect(await isFor({ dns: ['*.net'] }, 'example.net')).to.equal(false)
    })

    it('an SRV-ID is of service xmpp-server (RFC 4985, RFC 6120 §13.7.1.2.1)', async () => {
      expect(await isFor({ srv: ['_xmpp-server.im.example.net'] }, 'im.example.net')).to.equal(true)
      expect(await isFor({ srv: ['_XMPP-Server.*.example.net'] }, 'im.example.net')).to.equal(true)
      for (const name of ['_xmpp-client.im.example.net', 'im.example.net', '_xmpp-server.example.net', '_xmpp-serverXim.example.net']) expect(await isFor({ srv: [name] }, 'im.example.net'), name).to.equal(false)
    })

    it('an XmppAddr is a domain alone, in Unicode (RFC 6120 §13.7.1.4)', async () => {
      expect(await isFor({ xmpp: ['im.example.net'] }, 'im.example.net')).to.equal(true)
      expect(await isFor({ xmpp: ['bücher.example'] }, 'bücher.example')).to.equal(true)
      for (const name of ['juliet@im.example.net', 'im.example.net/x', '*.example.net', '@@']) expect(await isFor({ xmpp: [name] }, 'im.example.net'), name).to.equal(false)
    })

    it('domains beyond ASCII match their A-labels', async () => {
      expect(await isFor({ dns: ['xn--bcher-kva.example'] }, 'bücher.example')).to.equal(true)
      expect(await isFor({ dns: ['*.example'] }, 'bücher.example')).to.equal(false)
      expect(await isFor({ dns: ['*.xn--bcher-kva.example'] }, 'chat.bücher.example')).to.equal(true)
      expect(await isFor({ srv: ['_xmpp-server.xn--bcher-kva.example'] }, 'bücher.example')).to.equal(true)
    })

    it('a common name is no name, with others beside it or without (RFC 9525 §6.3)', async () => {
      expect(await isFor({ commonName: 'im.example.net', dns: ['b.example'] }, 'im.example.net')).to.equal(false)
      expect(nameProblem(new X509Certificate((await authority.issue({ commonName: 'im.example.net' })).cert), 'im.example.net')).to.contain('a common name is not enough')
    })

    it('a domain that is an address is in an iPAddress, and nowhere else', async () => {
      expect(await isFor({ ip: ['192.0.2.1'] }, '192.0.2.1')).to.equal(true)
      expect(await isFor({ ip: ['2001:db8::1'] }, '[2001:db8::1]')).to.equal(true)
      expect(await isFor({ dns: ['192.0.2.1'] }, '192.0.2.1')).to.equal(false)
      expect(await isFor({ ip: ['192.0.2.1'] }, 'im.example.net')).to.equal(false)
    })

    it('a zero byte in a name ends nothing', async () => {
      expect(await isFor({ dns: ['im.example.net\0.evil.example'] }, 'im.example.net')).to.equal(false)
      expect(await isFor({ srv: ['_xmpp-server.im.example.net\0.evil.example'] }, 'im.example.net')).to.equal(false)
      expect(await isFor({ xmpp: ['im.example.net\0.evil.example'] }, 'im.example.net')).to.equal(false)
    })
  })
})
