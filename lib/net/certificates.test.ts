import { X509Certificate, createHash, getDiffieHellman } from 'node:crypto'
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { once } from 'node:events'
import { type AddressInfo, connect as connectPlain, createServer as createNetServer } from 'node:net'
import { type TLSSocket, connect } from 'node:tls'
import { expect } from 'chai'
import { generate } from 'selfsigned'
import { type SecureContexts, type TlsChoices, acceptTls, createSecureContexts, endPointHash } from './certificates.ts'

async function certificate(names: readonly string[], days = 30): Promise<{ cert: string; key: string }> {
  const made = await generate([{ name: 'commonName', value: names[0] as string }], {
    keyType: 'ec', algorithm: 'sha384', notAfterDate: new Date(Date.now() + days * 86400000),
    extensions: [{ name: 'subjectAltName', altNames: names.map((value) => ({ type: 2 as const, value })) }],
  })
  return { cert: made.cert, key: made.private }
}

describe('certificates', () => {
  let dir: string
  beforeEach(async () => { dir = await mkdtemp(path.join(tmpdir(), 'certificates-')) })
  afterEach(() => rm(dir, { recursive: true }))

  it('makes a self-signed certificate once, readable by the owner alone', async () => {
    const options = { hosts: ['localhost'], certfiles: [], dataDir: dir }
    const first = (await createSecureContexts(options)).certificateFor('localhost')
    const again = (await createSecureContexts(options)).certificateFor('localhost')
    expect(first.fingerprint256).to.equal(again.fingerprint256)
    expect(first.subjectAltName).to.contain('DNS:localhost').and.contain('DNS:*.localhost').and.contain('DNS:upload.localhost').and.contain('DNS:conference.localhost')
    expect(first.publicKey.asymmetricKeyType).to.equal('ec')
    expect((await stat(path.join(dir, 'certs/localhost.self-signed.pem'))).mode & 0o777).to.equal(0o600)
  })

  it('renews a self-signed certificate before it ends', async () => {
    const options = { hosts: ['localhost'], certfiles: [], dataDir: dir }
    const first = (await createSecureContexts(options)).certificateFor()
    const later = (await createSecureContexts({ ...options, now: () => Date.now() + 360 * 86400000 })).certificateFor()
    expect(later.fingerprint256).not.to.equal(first.fingerprint256)
  })

  it('chooses by name, exact before wildcard, from keys in separate files', async () => {
    const exact = await certificate(['chat.example.org'])
    const wild = await certificate(['example.org', '*.example.org'])
    await writeFile(path.join(dir, 'a.pem'), wild.key)
    await writeFile(path.join(dir, 'b.pem'), wild.cert + exact.key)
    await writeFile(path.join(dir, 'c.pem'), exact.cert)
    const contexts = await createSecureContexts({ hosts: ['example.org', 'other.test'], certfiles: ['a', 'b', 'c'].map((each) => path.join(dir, `${each}.pem`)), dataDir: dir })
    expect(contexts.problems).to.deep.equal([])
    expect(contexts.selfSigned).to.deep.equal(['other.test'])
    expect(contexts.certificateFor('CHAT.example.org').raw.equals(new X509Certificate(exact.cert).raw)).to.equal(true)
    expect(contexts.certificateFor('upload.example.org').raw.equals(new X509Certificate(wild.cert).raw)).to.equal(true)
    expect(contexts.certificateFor('upload.other.test').subjectAltName).to.contain('DNS:other.test')
    expect(contexts.certificateFor('nobody.invalid').raw.equals(new X509Certificate(wild.cert).raw)).to.equal(true)
  })

  it('names what is wrong with a file', async () => {
    const { cert } = await certificate(['example.org'])
    await writeFile(path.join(dir, 'lonely.pem'), cert)
    await writeFile(path.join(dir, 'empty.pem'), 'nothing')
    const contexts = await createSecureContexts({ hosts: ['example.org'], certfiles: ['lonely', 'empty', 'missing'].map((each) => path.join(dir, `${each}.pem`)), dataDir: dir })
    expect(contexts.problems.join('\n')).to.match(/no private key .*lonely\.pem/).and.match(/no PEM .*empty\.pem/).and.match(/cannot read .*missing\.pem/)
    expect(contexts.selfSigned).to.deep.equal(['example.org'])
  })

  it('makes no certificate when it must not, and says which host has none', async () => {
    const { cert, key } = await certificate(['example.org'])
    await writeFile(path.join(dir, 'site.pem'), cert + key)
    const options = { certfiles: [path.join(dir, 'site.pem')], dataDir: dir, selfSigned: false }
    const contexts = await createSecureContexts({ ...options, hosts: ['example.org', 'other.test'] })
    expect(contexts.problems).to.deep.equal(['no certificate covers other.test'])
    expect(contexts.certificateFor('other.test').raw.equals(new X509Certificate(cert).raw)).to.equal(true)
    const failed = await createSecureContexts({ ...options, hosts: ['localhost'], certfiles: [] }).catch((error: Error) => error.message)
    expect(failed).to.contain('nothing to present')
  })

  it('offers only the versions of TLS it is told to', async () => {
    const contexts = await createSecureContexts({ hosts: ['localhost'], certfiles: [], dataDir: dir })
    const failed = await presented(contexts, 'localhost', { version: 'TLSv1.2', choices: { minVersion: 'TLSv1.3' } }).catch((error: NodeJS.ErrnoException) => error.code)
    expect(failed).to.match(/PROTOCOL_VERSION|ECONNRESET/)
    for (const choices of [{ minVersion: 'TLSv1.3' }, {}] as const) expect(await presented(contexts, 'localhost', { version: 'TLSv1.3', choices })).to.match(/^[0-9A-F:]+$/)
    expect(await presented(contexts, 'localhost', { version: 'TLSv1.2' })).to.match(/^[0-9A-F:]+$/)
  })

  it('offers only the ciphers it is told to, and says which OpenSSL does not know', async () => {
    const contexts = await createSecureContexts({ hosts: ['localhost'], certfiles: [], dataDir: dir })
    const choices = { ciphers: 'ECDHE-ECDSA-AES256-GCM-SHA384', maxVersion: 'TLSv1.2' } as const
    expect(await presented(contexts, 'localhost', { choices, ciphers: 'ECDHE-ECDSA-AES256-GCM-SHA384' })).to.match(/^[0-9A-F:]+$/)
    const failed = await presented(contexts, 'localhost', { choices, ciphers: 'ECDHE-ECDSA-AES128-GCM-SHA256' }).catch((error: NodeJS.ErrnoException) => error.code)
    expect(failed).to.match(/HANDSHAKE_FAILURE|ECONNRESET/)
    expect(() => contexts.optionsFor({ ciphers: 'NOTHING' })).to.throw('no cipher match')
    expect(() => contexts.optionsFor({ dhFile: path.join(dir, 'gone.pem') })).to.throw('ENOENT')
  })

  it('takes the Diffie-Hellman group of its file', async () => {
    const made = await generate([{ name: 'commonName', value: 'example.org' }], { keyType: 'rsa', keySize: 2048, algorithm: 'sha256', extensions: [{ name: 'subjectAltName', altNames: [{ type: 2 as const, value: 'example.org' }] }] })
    await writeFile(path.join(dir, 'site.pem'), made.cert + made.private)
    const dhFile = path.join(dir, 'dh.pem')
    await writeFile(dhFile, parameters('modp16'))
    const contexts = await createSecureContexts({ hosts: ['example.org'], certfiles: [path.join(dir, 'site.pem')], dataDir: dir })
    const ciphers = 'DHE-RSA-AES128-GCM-SHA256'
    const group = async (choices: TlsChoices): Promise<number | undefined> => {
      let found: number | undefined
      await presented(contexts, 'example.org', { choices: { ...choices, ciphers }, ciphers, version: 'TLSv1.2', look: (socket) => { found = (socket.getEphemeralKeyInfo() as { size?: number } | null)?.size } })
      return found
    }
    expect(await group({ dhFile })).to.equal(4096)
    expect(await group({})).to.be.lessThan(4096)
  })

  it('ends a connection whose handshake does not come', async () => {
    const contexts = await createSecureContexts({ hosts: ['localhost'], certfiles: [], dataDir: dir })
    const server = createNetServer((plain) => { acceptTls(plain, contexts.optionsFor(), 100).on('error', () => undefined) })
    await new Promise<void>((resolve) => { server.listen(0, '127.0.0.1', resolve) })
    const client = connectPlain((server.address() as AddressInfo).port, '127.0.0.1')
    try {
      // The beginning of a ClientHello.
      client.write(Buffer.from('160301020001000001fc0303', 'hex'))
      await once(client, 'close')
    } finally {
      server.close()
    }
  })

  it('presents a new certificate after a reload', async () => {
    const file = path.join(dir, 'site.pem')
    const old = await certificate(['example.org'])
    await writeFile(file, old.cert + old.key)
    const contexts = await createSecureContexts({ hosts: ['example.org'], certfiles: [file], dataDir: dir })
    const renewed = await certificate(['example.org'], 90)
    await writeFile(file, renewed.cert + renewed.key)
    await contexts.reload()
    expect(await presented(contexts, 'example.org')).to.equal(new X509Certificate(renewed.cert).fingerprint256)
  })

  it('is trusted by a client that has the self-signed certificate', async () => {
    const contexts = await createSecureContexts({ hosts: ['localhost'], certfiles: [], dataDir: dir })
    const file = await readFile(path.join(dir, 'certs/localhost.self-signed.pem'), 'utf8')
    expect(await presented(contexts, 'localhost', { ca: file })).to.equal(contexts.certificateFor('localhost').fingerprint256)
  })

  it('RFC 5929 §4.1: tls-server-end-point takes the hash of the signature', async () => {
    const { cert } = await certificate(['example.org'])
    const parsed = new X509Certificate(cert)
    expect(endPointHash(parsed)?.toString('hex')).to.equal(createHash('sha384').update(parsed.raw).digest('hex'))
  })

  it('RFC 5929 §4: binds to the certificate that the client has seen, also when its session is resumed', async () => {
    const contexts = await createSecureContexts({ hosts: ['first.test', 'second.test'], certfiles: [], dataDir: dir })
    let domain: string | undefined
    let secured: TLSSocket | undefined
    const server = createNetServer((plain) => {
      secured = acceptTls(plain, contexts.optionsFor(undefined, domain), 5000).on('error', () => undefined)
      secured.write('ready')
    })
    await new Promise<void>((resolve) => { server.listen(0, '127.0.0.1', resolve) })
    /** What both sides bind to, and the session to resume. */
    const visit = async (servername: string, session?: Buffer): Promise<{ ours: Buffer | undefined; theirs: Buffer | undefined; session: Buffer | undefined }> => {
      const client = connect({ port: (server.address() as AddressInfo).port, host: '127.0.0.1', servername, rejectUnauthorized: false, ...(session ? { session } : {}) })
      let ticket: Buffer | undefined
      client.on('session', (given: Buffer) => { ticket = given })
      await once(client, 'data')
      expect(client.isSessionReused()).to.equal(session !== undefined)
      const certificate = client.getPeerX509Certificate()
      const ours = contexts.endPointOf(secured as TLSSocket)
      client.destroy()
      return { ours, theirs: certificate === undefined ? undefined : endPointHash(certificate), session: ticket }
    }
    try {
      const second = endPointHash(contexts.certificateFor('second.test'))
      const named = await visit('second.test')
      expect([named.ours, named.theirs]).to.deep.equal([second, second])
      expect((await visit('second.test', named.session)).ours).to.deep.equal(second)
      const nameless = await visit('')
      expect(nameless.ours).to.deep.equal(nameless.theirs)
      expect(nameless.ours).to.deep.equal(endPointHash(contexts.certificateFor('first.test')))
      // As for STARTTLS.
      domain = 'second.test'
      for (const name of ['first.test', '']) {
        const { ours, theirs } = await visit(name)
        expect([ours, theirs]).to.deep.equal([second, second])
      }
    } finally {
      server.close()
    }
  })

  it('RFC 5929 §4.1: SHA-1 is replaced by SHA-256', async () => {
    const made = await generate([{ name: 'commonName', value: 'old.test' }], { keyType: 'rsa', keySize: 2048, algorithm: 'sha1' })
    const parsed = new X509Certificate(made.cert)
    expect(endPointHash(parsed)?.toString('hex')).to.equal(createHash('sha256').update(parsed.raw).digest('hex'))
  })
})

interface Ask {
  readonly ca?: string
  readonly version?: 'TLSv1.2' | 'TLSv1.3'
  readonly ciphers?: string
  readonly choices?: TlsChoices
  readonly look?: (socket: TLSSocket) => void
}

/** PEM of a well-known group: a DER sequence of its prime and the generator 2. */
function parameters(group: string): string {
  const integer = (value: Buffer): Buffer => element(0x02, (value[0] as number) & 0x80 ? Buffer.concat([Buffer.from([0]), value]) : value)
  const element = (tag: number, value: Buffer): Buffer => Buffer.concat([Buffer.from([tag, 0x82, value.length >> 8, value.length & 255]), value])
  const der = element(0x30, Buffer.concat([integer(getDiffieHellman(group).getPrime()), Buffer.from([0x02, 1, 2])]))
  return `-----BEGIN DH PARAMETERS-----\n${(der.toString('base64').match(/.{1,64}/g) ?? []).join('\n')}\n-----END DH PARAMETERS-----\n`
}

/** Fingerprint of the certificate that a client gets which asks like this. */
async function presented(contexts: SecureContexts, servername: string, { ca, version, ciphers, choices, look }: Ask = {}): Promise<string> {
  const server = createNetServer((plain) => { acceptTls(plain, contexts.optionsFor(choices), 5000).on('error', () => undefined) })
  await new Promise<void>((resolve) => { server.listen(0, '127.0.0.1', resolve) })
  try {
    const socket = await new Promise<TLSSocket>((resolve, reject) => {
      const connected = connect({ port: (server.address() as AddressInfo).port, host: '127.0.0.1', servername, rejectUnauthorized: ca !== undefined, ...(ca ? { ca } : {}), ...(version ? { maxVersion: version } : {}), ...(ciphers ? { ciphers } : {}) }, () => resolve(connected))
      connected.on('error', reject)
    })
    look?.(socket)
    const fingerprint = socket.getPeerX509Certificate()?.fingerprint256 ?? ''
    socket.destroy()
    return fingerprint
  } finally {
    server.close()
  }
}
