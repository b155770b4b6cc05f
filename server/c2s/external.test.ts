/** Logins by certificates of clients (XEP-0178, SASL EXTERNAL). */
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import tls from 'node:tls'
import { expect } from 'chai'
import { type Authority, makeAuthority } from '../../lib/net/client-certificate.fixture.ts'
import { startTestServer, TEST_CONFIG, type TestServer } from '../test-server.ts'

const SASL = 'urn:ietf:params:xml:ns:xmpp-sasl'
const SASL2 = 'urn:xmpp:sasl:2'

describe('SASL EXTERNAL (XEP-0178)', () => {
  let site: TestServer
  let authority: Authority
  let dir: string
  const sockets: tls.TLSSocket[] = []

  before(async () => {
    authority = await makeAuthority()
    dir = mkdtempSync(path.join(tmpdir(), 'tidings-'))
    writeFileSync(path.join(dir, 'ca.pem'), authority.certificate)
    site = await startTestServer({ config: `${TEST_CONFIG}\nc2s_cafile: ${path.join(dir, 'ca.pem')}\ntidings: {limits: {login_failures: 5}}\n`, accounts: { romeo: 'secret', juliet: 'secret' } })
  })
  afterEach(() => { for (const socket of sockets.splice(0)) socket.destroy() })
  after(async () => {
    await site[Symbol.asyncDispose]()
    rmSync(dir, { recursive: true })
  })

  interface Given { readonly cert: string; readonly key: string }

  /** The mechanisms offered in both profiles, and what is answered to each request. */
  async function visit(given: Given | undefined, sent: readonly string[], { from, session }: { from?: string; session?: Buffer } = {}): Promise<{ offered: boolean; answers: string[]; ticket: Buffer | undefined; resumed: boolean }> {
    const socket = tls.connect({ host: site.host, port: site.tlsPort, servername: 'localhost', ALPNProtocols: ['xmpp-client'], rejectUnauthorized: false, ...given, ...(session === undefined ? {} : { session }) })
    sockets.push(socket)
    let ticket: Buffer | undefined
    socket.on('session', (each: Buffer) => { ticket = each })
    await once(socket, 'secureConnect')
    let text = ''
    socket.setEncoding('utf8').on('data', (chunk: string) => { text += chunk }).on('error', () => undefined)
    const hears = async (pattern: RegExp): Promise<string> => {
      while (!pattern.test(text)) await once(socket, 'data')
      const heard = text
      text = ''
      return heard
    }
    socket.write(`<stream:stream to='localhost' version='1.0' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'${from === undefined ? '' : ` from='${from}'`}>`)
    const features = await hears(/<\/stream:features>/)
    const offers = [SASL, SASL2].map((xmlns) => new RegExp(`<[a-z]+ xmlns='${xmlns}'><mechanism>EXTERNAL</mechanism>`).test(features))
    expect(offers[0]).to.equal(offers[1])
    const answers: string[] = []
    for (const each of sent) {
      socket.write(each)
      const answer = await hears(/<(success|challenge)[^>]*(\/>|>.*<\/)|<failure.*<\/failure>/s)
      answers.push(/<failure[^>]*><([a-z-]+)/.exec(answer)?.[1] ?? /<authorization-identifier>([^<]*)/.exec(answer)?.[1] ?? /<(success|challenge)/.exec(answer)?.[1] ?? answer)
    }
    return { offered: offers[0] === true, answers, ticket, resumed: socket.isSessionReused() }
  }

  const auth = (authzid: string): string => `<auth xmlns='${SASL}' mechanism='EXTERNAL'>${authzid === '' ? '=' : Buffer.from(authzid).toString('base64')}</auth>`
  const authenticate = (authzid: string): string => `<authenticate xmlns='${SASL2}' mechanism='EXTERNAL'><initial-response>${Buffer.from(authzid).toString('base64')}</initial-response></authenticate>`

  it('§2 a certificate for one account logs it in, by both profiles, with its name or without', async () => {
    const given = await authority.issue(['romeo@localhost'])
    for (const authzid of ['', 'romeo@localhost']) {
      expect(await visit(given, [auth(authzid)])).to.include({ offered: true }).and.to.have.deep.property('answers', ['success'])
      expect((await visit(given, [authenticate(authzid)], { from: 'romeo@localhost' })).answers).to.deep.equal(['romeo@localhost'])
    }
    expect((await visit(given, [`<auth xmlns='${SASL}' mechanism='EXTERNAL'/>`, `<response xmlns='${SASL}'/>`])).answers).to.deep.equal(['challenge', 'success'])
    expect((await visit(given, [auth('juliet@localhost'), authenticate('juliet@localhost')])).answers).to.deep.equal(['invalid-authzid', 'invalid-authzid'])
  })

  it('§2 one for several has to be told which', async () => {
    const given = await authority.issue(['romeo@localhost', 'juliet@localhost', 'romeo@elsewhere.example'])
    expect((await visit(given, [auth(''), auth('romeo@elsewhere.example'), auth('Juliet@LOCALHOST')])).answers).to.deep.equal(['invalid-authzid', 'invalid-authzid', 'success'])
  })

  it('is offered to nobody else', async () => {
    const other = await makeAuthority()
    const nobody = [undefined, await other.issue(['romeo@localhost']), await authority.issue([]), await authority.issue(['romeo@elsewhere.example']), await authority.issue(['localhost']), await authority.issue(['romeo@localhost'], -86_400_000)]
    for (const given of nobody) expect(await visit(given, [auth('romeo@localhost'), authenticate('')])).to.deep.include({ offered: false, answers: ['invalid-mechanism', 'invalid-mechanism'] })
  })

  it('an account that does not exist is not made', async () => {
    expect((await visit(await authority.issue(['nobody@localhost']), [auth('')])).answers).to.deep.equal(['not-authorized'])
    expect(await site.server.accounts.exists('nobody@localhost')).to.equal(false)
  })

  it('RFC 6120 §6.5.2: nor is one that is disabled let in', async () => {
    const given = await authority.issue(['romeo@localhost'])
    await site.server.accounts.disable('romeo@localhost', '')
    expect((await visit(given, [auth(''), authenticate('')])).answers).to.deep.equal(['account-disabled', 'account-disabled'])
  })

  it('a resumed TLS session has the certificate too', async () => {
    const given = await authority.issue(['romeo@localhost'])
    const { ticket } = await visit(given, [auth('')])
    expect(await visit(given, [auth('')], ticket === undefined ? {} : { session: ticket })).to.include({ offered: true, resumed: true })
  })

  it('gives nothing back that guesses of passwords on the same stream have cost', async () => {
    const given = await authority.issue(['romeo@localhost'])
        const plain = (user: string): string => Buffer.from(`\0${user}\0wrong`).toString('base64')
    for (const guess of [`<auth xmlns='${SASL}' mechanism='PLAIN'>${plain('juliet')}</auth>`, `<authenticate xmlns='${SASL2}' mechanism='PLAIN'><initial-response>${plain('nobody')}</initial-response></authenticate>`]) {
      let answer: string | undefined
      for (let guesses = 0; guesses < 10 && answer !== 'temporary-auth-failure'; guesses++) [answer] = (await visit(given, [guess, guess.startsWith('<auth ') ? auth('') : authenticate('')])).answers
      expect(answer).to.equal('temporary-auth-failure')
    }
  })
})
