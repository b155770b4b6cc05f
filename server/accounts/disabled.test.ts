/** Accounts that are disabled (XEP-0133 §4.3): nobody logs in, by no mechanism, and nothing is lost. */
import { expect } from 'chai'
import { SignJWT } from 'jose'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { type Client, connect, LoginError } from '../../lib/client/client.ts'
import { Connection } from '../../lib/client/connection.ts'
import { loginBySasl2, type Sasl2Options } from '../../lib/client/sasl2.ts'
import { startTestServer, TEST_CONFIG, type TestServer } from '../test-server.ts'

const FAST = 'urn:xmpp:fast:0'
const PHONE = { id: 'd4565fa7-4d72-4749-b3d3-740edbf87770', text: '<software>AwesomeXMPP</software>' }
const MECHANISMS = ['PLAIN', 'SCRAM-SHA-1', 'SCRAM-SHA-256', 'SCRAM-SHA-512', 'SCRAM-SHA-256-PLUS']

describe('a disabled account', () => {
  let site: TestServer
  const open: { destroy(): void }[] = []
  beforeEach(async () => { site = await startTestServer({ accounts: { romeo: 'secret', juliet: 'secret' } }) })
  afterEach(async () => {
    for (const each of open.splice(0)) each.destroy()
    await site[Symbol.asyncDispose]()
  })

  const place = () => ({ host: site.host, port: site.tlsPort, domain: 'localhost', tls: 'direct' as const })
  const login = (more: { user?: string; password?: string; mechanism?: string } = {}): Promise<Client> => connect({ ...place(), user: 'romeo', password: 'secret', ...more })
  const bySasl2 = async (more: Partial<Sasl2Options> = {}) => {
    const done = await loginBySasl2({ ...place(), user: 'romeo', password: 'secret', ...more })
    open.push(done.connection)
    return done
  }
  const conditionOf = async (attempt: Promise<unknown>): Promise<string> => {
    try {
      await attempt
      return 'in'
    } catch (error) {
      if (error instanceof LoginError) return error.condition
      throw error
    }
  }
  const disable = (reason = '') => site.server.accounts.disable('romeo@localhost', reason)

  it('RFC 6120 §6.5.2: is refused with account-disabled by every mechanism and both profiles, to whom it belongs alone', async () => {
    await disable()
    for (const mechanism of MECHANISMS) {
      expect(await conditionOf(login({ mechanism })), mechanism).to.equal('account-disabled')
      expect(await conditionOf(bySasl2({ mechanism })), mechanism).to.equal('account-disabled')
      expect(await conditionOf(login({ mechanism, password: 'wrong' })), mechanism).to.equal('not-authorized')
    }
    await site.server.accounts.enable('romeo@localhost')
    expect(await conditionOf(login().then((client) => client.disconnect()))).to.equal('in')
  })

  it('XEP-0484: its tokens are refused meanwhile, and good again afterwards', async () => {
    const first = await bySasl2({ agent: PHONE, inline: `<request-token xmlns='${FAST}' mechanism='HT-SHA-256-NONE'/>` })
    const token = first.success.getChild('token', FAST)?.attrs['token'] ?? ''
    const again = { agent: PHONE, mechanism: 'HT-SHA-256-NONE', token, fast: '' }
    await disable()
    expect(await conditionOf(bySasl2(again))).to.equal('account-disabled')
    await site.server.accounts.enable('romeo@localhost')
    expect(await conditionOf(bySasl2(again))).to.equal('in')
  })

  it('tokens that somebody else has signed are refused too', async () => {
    const dir = mkdtempSync(path.join(tmpdir(), 'jwk-'))
    const secret = Buffer.alloc(32, 7)
    writeFileSync(path.join(dir, 'jwk'), JSON.stringify({ kty: 'oct', k: secret.toString('base64url') }))
    await site[Symbol.asyncDispose]()
    site = await startTestServer({ config: `${TEST_CONFIG}\nauth_method: [jwt]\njwt_key: ${path.join(dir, 'jwk')}\n`, accounts: { romeo: 'secret' } })
    try {
      const token = await new SignJWT({ jid: 'romeo@localhost' }).setProtectedHeader({ alg: 'HS256' }).setExpirationTime('1h').sign(secret)
      expect(await conditionOf(login({ mechanism: 'PLAIN', password: token }).then((client) => client.disconnect()))).to.equal('in')
      await disable()
      expect(await conditionOf(login({ mechanism: 'PLAIN', password: token }))).to.equal('account-disabled')
    } finally {
      rmSync(dir, { recursive: true, force: true })
    }
  })

  it('its sessions and its streams without one end at once, with the reason', async () => {
    const client = await login()
    const unbound = await Connection.open({ ...place(), direct: true })
    open.push(unbound)
    unbound.openStream()
    await unbound.nextElement()
    unbound.write(`<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>${Buffer.from('\0romeo\0secret').toString('base64')}</auth>`)
    expect((await unbound.nextElement()).name).to.equal('success')
    unbound.openStream()
    await unbound.nextElement()
    await disable('spam')
    const error = await client.closed
    expect(String(error)).to.contain('spam')
    expect(site.server.sessions.of('romeo@localhost')).to.deep.equal([])
    const ended = await unbound.nextElement().then(() => undefined, (reason: unknown) => reason as { condition?: string })
    expect(ended?.condition).to.equal('policy-violation')
  })

  it('its messages wait for it, and it stays disabled, also after a restart', async () => {
    const juliet = await login({ user: 'juliet' })
    const say = async (body: string): Promise<void> => {
      juliet.send(`<message to='romeo@localhost' type='chat'><body>${body}</body></message>`)
      await juliet.ping()
    }
    await disable()
    await say('one')
    await juliet.disconnect()
    await site.restart()
    expect(await conditionOf(login())).to.equal('account-disabled')
    await site.server.accounts.enable('romeo@localhost')
    const romeo = await login()
    romeo.send('<presence/>')
    await romeo.receive((element) => element.getChildText('body') === 'one')
    await romeo.disconnect()
  })
})
