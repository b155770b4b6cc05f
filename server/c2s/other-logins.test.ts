/** Logins without a password: SASL ANONYMOUS (XEP-0175), and tokens that somebody else has signed (ejabberd's `auth_method: jwt`). */
import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { expect } from 'chai'
import { SignJWT } from 'jose'
import { connect, type Client } from '../../lib/client/client.ts'
import { Connection } from '../../lib/client/connection.ts'
import { startTestServer, TEST_CONFIG, type TestServer } from '../test-server.ts'

const SASL = 'urn:ietf:params:xml:ns:xmpp-sasl'
const SASL2 = 'urn:xmpp:sasl:2'

describe('logins without a password', () => {
  let site: TestServer
  const open: Connection[] = []
  afterEach(async () => {
    for (const connection of open.splice(0)) connection.destroy()
    await site[Symbol.asyncDispose]()
  })

  async function stream(): Promise<{ connection: Connection; mechanisms: string[] }> {
    const connection = await Connection.open({ host: site.host, port: site.tlsPort, domain: 'localhost', direct: true })
    open.push(connection)
    connection.openStream()
    const features = (await connection.nextElement()).element()
    return { connection, mechanisms: features.getChild('mechanisms', SASL)?.getChildren('mechanism').map((each) => each.getText()) ?? [] }
  }

  async function ask(connection: Connection, text: string): Promise<string> {
    connection.write(text)
    return String(await connection.nextElement())
  }

  const base64 = (text: string): string => Buffer.from(text).toString('base64')

  describe('ANONYMOUS', () => {
    beforeEach(async () => { site = await startTestServer({ config: `${TEST_CONFIG}\nauth_method: [internal, anonymous]\n`, accounts: { juliet: 'secret' } }) })

    /** A session of somebody without a name. */
    async function enter(request = `<authenticate xmlns='${SASL2}' mechanism='ANONYMOUS'><bind xmlns='urn:xmpp:bind:0'/></authenticate>`): Promise<{ connection: Connection; jid: string; bare: string }> {
      const { connection } = await stream()
      const jid = /<authorization-identifier>([^<]*)/.exec(await ask(connection, request))?.[1] ?? ''
      await connection.nextElement()
      return { connection, jid, bare: jid.split('/')[0] as string }
    }

    async function gone(bare: string): Promise<void> {
      // The removal is over when nothing stands there to be removed.
      for (let tries = 0; tries < 1000 && (await site.server.storage.records.get('removals', [bare])) !== undefined; tries++) await new Promise((resolve) => { setTimeout(resolve, 5) })
      expect(await site.server.accounts.exists(bare)).to.equal(false)
    }

    it('§2 gives an account of its own to each, with both profiles, and takes no notice of what is said beside', async () => {
      const { mechanisms } = await stream()
      expect(mechanisms).to.include('ANONYMOUS').and.include('SCRAM-SHA-1')
      const names = new Set<string>()
      for (const text of ['', '=', base64('trace@example.net')]) {
        const { connection } = await stream()
        expect(await ask(connection, `<auth xmlns='${SASL}' mechanism='ANONYMOUS'>${text}</auth>`)).to.contain('<success')
        connection.openStream()
        await connection.nextElement()
        const bound = await ask(connection, "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>")
        names.add(/<jid>([0-9a-f-]{36})@localhost\//.exec(bound)?.[1] ?? bound)
      }
      names.add((await enter()).bare)
      expect(names.size).to.equal(4)
      const { connection } = await stream()
      expect(await ask(connection, `<auth xmlns='${SASL}' mechanism='ANONYMOUS'>${base64('x'.repeat(300))}</auth>`)).to.contain('<malformed-request')
    })

    it('§2 the account ends with its session, and all that it left', async () => {
      const { connection, jid, bare } = await enter()
      const juliet = await connect({ host: site.host, port: site.port, domain: 'localhost', user: 'juliet', password: 'secret' })
      open.push(juliet.connection)
      juliet.send(`<message to='${jid}' type='chat' id='hello'><body>Hi</body></message>`)
      expect((await connection.nextElement()).id).to.equal('hello')
      connection.write("<iq type='set' id='p'><query xmlns='jabber:iq:private'><x xmlns='x:y'/></query></iq>")
      expect((await connection.nextElement()).type).to.equal('result')
      expect(await site.server.storage.records.range('private', [bare])).to.have.length(1)
      connection.write('</stream:stream>')
      await gone(bare)
      expect(await site.server.storage.records.range('private', [bare])).to.have.length(0)
      expect(await site.server.storage.archive.bounds(bare)).to.equal(undefined)
      await error(juliet, bare)
    })

    async function error(client: Client, to: string): Promise<void> {
      client.send(`<message to='${to}' type='chat' id='late'><body>Hi</body></message>`)
      expect((await client.receive((element) => element.attrs['id'] === 'late')).attrs['type']).to.equal('error')
    }

    it('one that comes to nothing ends too', async () => {
      const { connection } = await stream()
      const bare = /<authorization-identifier>([^<]*)/.exec(await ask(connection, `<authenticate xmlns='${SASL2}' mechanism='ANONYMOUS'/>`))?.[1] ?? ''
      expect(await site.server.accounts.exists(bare)).to.equal(true)
      connection.destroy()
      await gone(bare)
    })

    it('a session that waits to be resumed has its account meanwhile, but not in another process', async () => {
      const { connection, bare } = await enter(`<authenticate xmlns='${SASL2}' mechanism='ANONYMOUS'><bind xmlns='urn:xmpp:bind:0'><enable xmlns='urn:xmpp:sm:3' resume='true'/></bind></authenticate>`)
      connection.destroy()
      while (site.server.sessions.of(bare)[0]?.connected === true) await new Promise((resolve) => { setTimeout(resolve, 2) })
      expect(await site.server.accounts.exists(bare)).to.equal(true)
      await site.restart()
      expect([await site.server.accounts.exists(bare), site.server.sessions.of(bare).length]).to.deep.equal([false, 0])
      expect(await site.server.storage.records.range('removals', [])).to.have.length(0)
    })

    it('§4 says what it is', async () => {
      const { connection, bare } = await enter()
      expect(await ask(connection, `<iq type='get' id='d' to='${bare}'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>`)).to.match(/<identity category="account" type="anonymous"\/>/)
    })
  })

  it('ANONYMOUS is offered where it is asked for alone', async () => {
    site = await startTestServer({ accounts: { juliet: 'secret' } })
    const { connection, mechanisms } = await stream()
    expect(mechanisms).to.not.include('ANONYMOUS').and.not.include('OAUTHBEARER')
    expect(await ask(connection, `<auth xmlns='${SASL}' mechanism='ANONYMOUS'/>`)).to.contain('<invalid-mechanism')
  })

  describe('tokens', () => {
    const secret = randomBytes(32)
    let dir: string
    beforeEach(() => {
      dir = mkdtempSync(path.join(tmpdir(), 'tidings-'))
      writeFileSync(path.join(dir, 'key.jwk'), JSON.stringify({ kty: 'oct', k: secret.toString('base64url') }))
    })
    afterEach(() => { rmSync(dir, { recursive: true }) })

    const start = async (more: string): Promise<void> => { site = await startTestServer({ config: `${TEST_CONFIG}\njwt_key: ${dir}/key.jwk\n${more}\n`, accounts: { juliet: 'secret', romeo: 'secret' } }) }
    const token = (jid: string, key = secret): Promise<string> => new SignJWT({ jid }).setProtectedHeader({ alg: 'HS256' }).setExpirationTime('1 h').sign(key)
    const plain = (user: string, password: string): string => `<auth xmlns='${SASL}' mechanism='PLAIN'>${base64(`\0${user}\0${password}`)}</auth>`
    const bearer = (text: string, authzid = ''): string => `<auth xmlns='${SASL}' mechanism='OAUTHBEARER'>${base64(`n,${authzid && `a=${authzid}`},\x01host=localhost\x01auth=Bearer ${text}\x01\x01`)}</auth>`
    const outcome = async (request: string): Promise<string> => /<(success|challenge)|<failure[^>]*><([a-z-]+)/.exec(await ask((await stream()).connection, request))?.slice(1).find((each) => each !== undefined) ?? ''

    it('in place of a password, and as OAUTHBEARER (RFC 7628); the first makes the account', async () => {
      await start('auth_method: jwt')
      expect((await stream()).mechanisms).to.deep.equal(['PLAIN', 'OAUTHBEARER'])
      expect(await outcome(plain('mercutio', await token('mercutio@localhost')))).to.equal('success')
      expect(await site.server.accounts.exists('mercutio@localhost')).to.equal(true)
      for (const authzid of ['', 'juliet@localhost']) expect(await outcome(bearer(await token('juliet@localhost'), authzid))).to.equal('success')
      expect(await outcome(plain('juliet', await token('romeo@localhost')))).to.equal('not-authorized')
      expect(await outcome(plain('juliet', 'secret'))).to.equal('not-authorized')
      expect(await outcome(bearer(await token('juliet@localhost'), 'romeo@localhost'))).to.equal('invalid-authzid')
      expect(await outcome(plain('juliet', await token('juliet@elsewhere.example')))).to.equal('not-authorized')
      expect(await outcome(`<auth xmlns='${SASL}' mechanism='SCRAM-SHA-1'>${base64('n,,n=juliet,r=x')}</auth>`)).to.equal('invalid-mechanism')
    })

    it('RFC 7628 §3.2.2 one that is not good is told why, and then has failed', async () => {
      await start('auth_method: jwt')
      const { connection } = await stream()
      const challenge = await ask(connection, bearer(await token('juliet@localhost', randomBytes(32))))
      expect(Buffer.from(/>([^<]*)</.exec(challenge)?.[1] ?? '', 'base64').toString()).to.equal('{"status":"invalid_token"}')
      expect(await ask(connection, `<response xmlns='${SASL}'>${base64('\x01')}</response>`)).to.contain('<not-authorized')
      for (const text of ['n,,\x01\x01', 'n,,\x01auth=Basic x\x01\x01', 'p=x,,\x01auth=Bearer x\x01\x01', 'n,,\x01auth=Bearer a\x01auth=Bearer b\x01\x01', 'x']) {
        expect(await outcome(`<auth xmlns='${SASL}' mechanism='OAUTHBEARER'>${base64(text)}</auth>`), text).to.equal('malformed-request')
      }
    })

    it('beside passwords, and without them for those of jwt_auth_only_rule', async () => {
      site = await startTestServer({ config: `${TEST_CONFIG.replace('access_rules:\n', 'access_rules:\n  tokens_alone: {allow: tokens}\n')}\nacl: {tokens: {user: romeo}}\njwt_key: ${dir}/key.jwk\nauth_method: [internal, jwt]\njwt_auth_only_rule: tokens_alone\n`, accounts: { juliet: 'secret', romeo: 'secret' } })
      expect((await stream()).mechanisms).to.include.members(['SCRAM-SHA-512', 'PLAIN', 'OAUTHBEARER'])
      expect(await outcome(plain('juliet', 'secret'))).to.equal('success')
      expect(await outcome(plain('juliet', await token('juliet@localhost')))).to.equal('success')
      expect(await outcome(plain('romeo', 'secret'))).to.equal('not-authorized')
      expect(await outcome(plain('romeo', await token('romeo@localhost')))).to.equal('success')
      const login = connect({ host: site.host, port: site.port, domain: 'localhost', user: 'romeo', password: 'secret', mechanism: 'SCRAM-SHA-256' })
      expect(((await login.catch((reason: unknown) => reason)) as { condition: string }).condition).to.equal('not-authorized')
      await (await connect({ host: site.host, port: site.port, domain: 'localhost', user: 'juliet', password: 'secret', mechanism: 'SCRAM-SHA-256' })).disconnect()
    })

    it('nobody registers where there are no passwords', async () => {
      await start('auth_method: jwt')
      const { connection } = await stream()
      expect(await ask(connection, "<iq type='set' id='r'><query xmlns='jabber:iq:register'><username>tybalt</username><password>x</password></query></iq>")).to.contain('forbidden')
    })
  })
})
