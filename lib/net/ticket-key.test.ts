import { once } from 'node:events'
import { chmod, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { connect } from 'node:tls'
import { expect } from 'chai'
import { generate } from 'selfsigned'
import { acceptTls, createSecureContexts, type SecureContexts, type TlsChoices } from './certificates.ts'
import { createTicketSecret, ticketKey } from './ticket-key.ts'

const HOUR = 3600 * 1000

describe('session tickets of TLS', () => {
  let dir: string
  beforeEach(async () => { dir = await mkdtemp(path.join(tmpdir(), 'tickets-')) })
  afterEach(() => rm(dir, { recursive: true }))

  const contextsFor = (more: Partial<Parameters<typeof createSecureContexts>[0]> = {}): Promise<SecureContexts> => createSecureContexts({ hosts: ['localhost'], certfiles: [], dataDir: dir, ...more })

  /** Whether a client that comes with this session resumes it, and the ticket it gets. */
  async function visit(contexts: SecureContexts, session?: Buffer, { choices, version }: { choices?: TlsChoices; version?: 'TLSv1.2' | 'TLSv1.3' } = {}): Promise<{ resumed: boolean; ticket: Buffer }> {
    const server = createServer((plain) => { acceptTls(plain, contexts.optionsFor(choices), 5000).on('error', () => undefined).write('ready') })
    await new Promise<void>((resolve) => { server.listen(0, '127.0.0.1', resolve) })
    const client = connect({ port: (server.address() as AddressInfo).port, host: '127.0.0.1', servername: 'localhost', rejectUnauthorized: false, ...(version === undefined ? {} : { maxVersion: version }), ...(session ? { session } : {}) })
    try {
      let ticket: Buffer = Buffer.alloc(0)
      client.on('session', (given: Buffer) => { ticket = given })
      await once(client, 'data')
      return { resumed: client.isSessionReused(), ticket }
    } finally {
      client.destroy()
      server.close()
    }
  }

  for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
    it(`are good for the next process, and after certificates were read again (${version})`, async () => {
      const contexts = await contextsFor()
      const { resumed, ticket } = await visit(contexts, undefined, { version })
      expect(resumed).to.equal(false)
      await contexts.reload()
      expect((await visit(contexts, ticket, { version })).resumed).to.equal(true)
      expect((await visit(await contextsFor(), ticket, { version })).resumed).to.equal(true)
    })
  }

  it('RFC 5077 §5.5: their secret is the owner\'s alone to read, and lasts a day', async () => {
    let time = Date.now()
    const now = (): number => time
    const file = path.join(dir, 'certs/tickets.secret')
    const contexts = await contextsFor({ now })
    const first = await readFile(file)
    expect((await stat(file)).mode & 0o777).to.equal(0o600)
    const { ticket } = await visit(contexts)
    time += 23 * HOUR
    expect((await visit(contexts, ticket)).resumed).to.equal(true)
    time += HOUR
    expect((await visit(contexts, ticket)).resumed).to.equal(false)
    const second = await readFile(file)
    expect([second.length, second.equals(first)]).to.deep.equal([first.length, false])
    expect((await stat(file)).mode & 0o777).to.equal(0o600)
    // Those of the new secret are as good.
    expect((await visit(await contextsFor({ now }), (await visit(contexts)).ticket)).resumed).to.equal(true)
  })

  it('a secret that is damaged, too old or of the future is made anew', async () => {
    const file = path.join(dir, 'secret')
    const first = createTicketSecret(file, () => 1000).current()
    expect(createTicketSecret(file, () => 1000 + 24 * HOUR - 1).current()).to.deep.equal(first)
    expect(createTicketSecret(file, () => 999).current()).to.not.deep.equal(first)
    const second = createTicketSecret(file, () => 1000).current()
    expect(createTicketSecret(file, () => 1000 + 24 * HOUR).current()).to.not.deep.equal(second)
    await writeFile(file, 'short')
    const third = createTicketSecret(file, () => 1000).current()
    expect([third.length, createTicketSecret(file, () => 1000).current().equals(third)]).to.deep.equal([32, true])
    // Nobody else may have been able to read it.
    await chmod(file, 0o644)
    expect(createTicketSecret(file, () => 1000).current()).to.not.deep.equal(third)
    expect((await stat(file)).mode & 0o777).to.equal(0o600)
  })

  it('are of no use after a change of certificates: the client has not seen the new one (RFC 5929 §4)', async () => {
    const made = await generate([{ name: 'commonName', value: 'localhost' }], { keyType: 'ec', extensions: [{ name: 'subjectAltName', altNames: [{ type: 2, value: 'localhost' }] }] })
    const site = path.join(dir, 'site.pem')
    await writeFile(site, made.cert + made.private)
    const contexts = await contextsFor()
    const { ticket } = await visit(contexts)
    await contexts.reload({ certfiles: [site] })
    expect((await visit(contexts, ticket)).resumed).to.equal(false)
  })

  it('are of no use where other clients are certified, or other versions taken', async () => {
    const authorities = []
    for (const name of ['one', 'two']) {
      const caFile = path.join(dir, `${name}.pem`)
      await writeFile(caFile, (await generate([{ name: 'commonName', value: name }], { keyType: 'ec' })).cert)
      authorities.push({ caFile })
    }
    const contexts = await contextsFor()
    const all: TlsChoices[] = [{}, { minVersion: 'TLSv1.3' }, ...authorities]
    for (const from of all) {
      const { ticket } = await visit(contexts, undefined, { choices: from })
      for (const to of all) expect((await visit(contexts, ticket, { choices: { ...to } })).resumed, JSON.stringify([from, to])).to.equal(from === to)
    }
  })

  it('are not given where they are off', async () => {
    const contexts = await contextsFor()
    for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
      const { ticket } = await visit(contexts, undefined, { choices: { tickets: false }, version })
      expect((await visit(contexts, ticket, { choices: { tickets: false }, version })).resumed, version).to.equal(false)
    }
  })

  it('go on without a file where none can be written, and say so', async () => {
    await writeFile(path.join(dir, 'taken'), '')
    const secret = createTicketSecret(path.join(dir, 'taken/secret'), Date.now)
    expect(secret.current()).to.equal(secret.current())
    expect(secret.problem).to.match(/^cannot keep the secret of TLS session tickets in .*taken\/secret: /)
  })

  it('have a key for each purpose', () => {
    const secret = Buffer.alloc(32, 1)
    expect(ticketKey(secret, 'one')).to.deep.equal(ticketKey(secret, 'one')).and.have.length(48)
    expect(ticketKey(secret, 'one')).to.not.deep.equal(ticketKey(secret, 'two'))
  })
})
