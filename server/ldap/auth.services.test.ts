/** Logins with accounts of a real LDAP directory (ejabberd's `auth_method: ldap`). */
import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'chai'
import { Attribute, Change, Client as LdapClient } from 'ldapts'
import { connect, login, LoginError, type Client } from '../../lib/client/client.ts'
import { Connection } from '../../lib/client/connection.ts'
import { loginBySasl2 } from '../../lib/client/sasl2.ts'
import { startLdap, type Ldap } from '../../services/services.ts'
import { startTestServer, TEST_CONFIG, type TestServer } from '../test-server.ts'

const SASL = 'urn:ietf:params:xml:ns:xmpp-sasl'
const AGENT = { id: 'd4565fa7-4d72-4749-b3d3-740edbf87770' }

describe('accounts of an LDAP directory', () => {
  let ldap: Ldap
  let site: TestServer
  const open: Client[] = []

  before(async () => { ldap = await startLdap() })
  after(async () => { await ldap[Symbol.asyncDispose]() })
  afterEach(async () => {
    for (const client of open.splice(0)) client.connection.destroy()
    await (site as TestServer | undefined)?.[Symbol.asyncDispose]()
  })

  function config(more: Readonly<Record<string, unknown>> = {}, base = TEST_CONFIG): string {
    const options = {
      auth_method: 'ldap', ldap_servers: ['127.0.0.1'], ldap_port: ldap.port, ldap_base: `ou=people,${ldap.base}`,
      ldap_rootdn: ldap.serviceDn, ldap_password: ldap.servicePassword, ...more,
    }
    return `${base}\n${Object.entries(options).map(([name, value]) => `${name}: ${JSON.stringify(value)}`).join('\n')}\n`
  }

  const serve = async (more?: Readonly<Record<string, unknown>>, base?: string): Promise<void> => { site = await startTestServer({ config: config(more, base) }) }

  async function enter(user: string, password = `pw-${user}`, more: Readonly<Record<string, unknown>> = {}): Promise<Client> {
    const client = await connect({ host: site.host, port: site.tlsPort, domain: 'localhost', tls: 'direct', user, password, timeoutMs: 20_000, ...more })
    open.push(client)
    return client
  }

  /** How a login ends: `success`, or the condition of SASL. */
  async function outcome(user: string, password: string): Promise<string> {
    try {
      const { connection } = await login({ host: site.host, port: site.tlsPort, domain: 'localhost', tls: 'direct', user, password, mechanism: 'PLAIN', timeoutMs: 30_000 })
      connection.destroy()
      return 'success'
    } catch (error) {
      if (error instanceof LoginError) return error.condition
      throw error
    }
  }

  async function asAdmin(work: (client: LdapClient) => Promise<void>): Promise<void> {
    const client = new LdapClient({ url: ldap.url })
    await client.bind(ldap.adminDn, ldap.adminPassword)
    await work(client)
    await client.unbind()
  }

  const dnOf = (uid: string): string => `uid=${uid},ou=people,${ldap.base}`
  const person = (uid: string, more: Readonly<Record<string, string>> = {}): Record<string, string> => ({ objectClass: 'inetOrgPerson', uid, cn: uid, sn: uid, userPassword: `pw-${uid}`, ...more })

  it('let in who has the password, and offer what works with a bind alone', async () => {
    await serve()
    const connection = await Connection.open({ host: site.host, port: site.tlsPort, domain: 'localhost', direct: true })
    connection.openStream({ from: 'user01@localhost' })
    const features = (await connection.nextElement()).element()
    expect(features.getChild('mechanisms', SASL)?.getChildren('mechanism').map((each) => each.getText())).to.deep.equal(['PLAIN'])
    expect(features.getChild('authentication', 'urn:xmpp:sasl:2')?.getChildren('mechanism').map((each) => each.getText())).to.deep.equal(['PLAIN'])
    expect(features.getChild('register', 'http://jabber.org/features/iq-register')).to.equal(undefined)
    connection.destroy()
    expect(await outcome('user01', 'pw-user01')).to.equal('success')
    expect(await outcome('USER02', 'pw-user02')).to.equal('success')
    expect(await outcome('user01', 'pw-user02')).to.equal('not-authorized')
    expect(await outcome('user99', 'pw-user99')).to.equal('not-authorized')
    // RFC 4513 §5.1.2: it would be a bind of nobody, which succeeds.
    expect(await outcome('user01', '')).to.equal('malformed-request')
  })

  it('offer no PLAIN without TLS', async () => {
    await serve()
    const connection = await Connection.open({ host: site.host, port: site.port, domain: 'localhost' })
    connection.openStream()
    const features = (await connection.nextElement()).element()
    connection.write(`<auth xmlns='${SASL}' mechanism='PLAIN'>${Buffer.from('\0user01\0pw-user01').toString('base64')}</auth>`)
    expect(features.getChild('mechanisms', SASL)).to.equal(undefined)
    expect(String(await connection.nextElement())).to.contain('encryption-required')
    connection.destroy()
  })

  it('take no name for a filter', async () => {
    await serve()
    for (const name of ['*', 'user0*', 'user01)(uid=*', 'user01)(|(uid=*', '*)(objectclass=*))(|(uid=*', 'x)(|(uid=user01', 'user01\\2a', '\\75ser01']) {
      expect(await outcome(name, 'pw-user01'), name).to.equal('not-authorized')
    }
  })

  it('are those that all the filters let through, by the attributes configured', async () => {
    await asAdmin(async (client) => { await client.add(dnOf('lonely'), person('lonely', { mail: 'lonely@mail.example.org', title: 'Tester 0' })) })
    await serve({ ldap_uids: [{ mail: '%u@example.org' }, { mail: '%u@mail.example.org' }], ldap_filter: '(title=Tester*)' })
    expect(await outcome('user03', 'pw-user03')).to.equal('success')
    expect(await outcome('lonely', 'pw-lonely')).to.equal('success')
    await site[Symbol.asyncDispose]()
    await serve({ ldap_base: ldap.base, ldap_filter: '(&(objectClass=inetOrgPerson)(!(uid=user03)))', ldap_dn_filter: { '(&(objectClass=groupOfNames)(cn=staff)(member=%D))': [] } })
    expect(await outcome('user03', 'pw-user03')).to.equal('not-authorized')
    expect(await outcome('user05', 'pw-user05')).to.equal('success')
    expect(await outcome('user01', 'pw-user01'), 'not among the staff').to.equal('not-authorized')
    await site[Symbol.asyncDispose]()
    await serve({ ldap_dn_filter: { '(&(uid=%u)(sn=%s)(title=%s))': ['sn', 'title'] } })
    expect(await outcome('user07', 'pw-user07')).to.equal('success')
    await site[Symbol.asyncDispose]()
    await serve({ ldap_dn_filter: { '(&(uid=%u)(sn=%s)(title=%s))': ['title', 'sn'] } })
    expect(await outcome('user07', 'pw-user07')).to.equal('not-authorized')
  })

  it('are no account when several entries have the name', async () => {
    await asAdmin(async (client) => {
      await client.add(`ou=others,ou=people,${ldap.base}`, { objectClass: 'organizationalUnit', ou: 'others' })
      await client.add(`uid=user20,ou=others,ou=people,${ldap.base}`, person('user20', { userPassword: 'other' }))
    })
    await serve()
    expect(await outcome('user20', 'pw-user20')).to.equal('not-authorized')
    expect(await outcome('user20', 'other')).to.equal('not-authorized')
    expect(await outcome('user19', 'pw-user19')).to.equal('success')
  })

  it('follow aliases when they are to', async () => {
    await asAdmin(async (client) => {
      await client.add(`ou=elsewhere,${ldap.base}`, { objectClass: 'organizationalUnit', ou: 'elsewhere' })
      await client.add(`uid=alias,ou=elsewhere,${ldap.base}`, { objectClass: ['alias', 'extensibleObject'], uid: 'alias', aliasedObjectName: dnOf('user08') })
    })
    await serve({ ldap_base: `ou=elsewhere,${ldap.base}` })
    expect(await outcome('user08', 'pw-user08')).to.equal('not-authorized')
    await site[Symbol.asyncDispose]()
    await serve({ ldap_base: `ou=elsewhere,${ldap.base}`, ldap_deref_aliases: 'always' })
    expect(await outcome('user08', 'pw-user08')).to.equal('success')
  })

  it('stand beside accounts of the server\'s own', async () => {
    site = await startTestServer({ config: config({ auth_method: ['internal', 'ldap'] }), accounts: { juliet: 'secret' } })
    expect(await outcome('juliet', 'secret')).to.equal('success')
    expect(await outcome('juliet', 'pw-juliet')).to.equal('not-authorized')
    expect(await outcome('user01', 'pw-user01')).to.equal('success')
    const refused = await site.server.register('user04@localhost', 'mine').then(() => 'made', (error: { condition: string }) => error.condition)
    expect(refused).to.equal('conflict')
  })

  it('belong to the hosts that have them', async () => {
    const base = TEST_CONFIG.replace('hosts: [localhost]', 'hosts: [localhost, other.example]')
    site = await startTestServer({ config: config({ auth_method: 'internal', host_config: { 'other.example': { auth_method: 'ldap' } } }, base), accounts: { user01: 'mine' } })
    expect(await outcome('user01', 'pw-user01')).to.equal('not-authorized')
    expect(await outcome('user01', 'mine')).to.equal('success')
    const { connection } = await login({ host: site.host, port: site.tlsPort, domain: 'other.example', tls: 'direct', user: 'user01', password: 'pw-user01', mechanism: 'PLAIN' })
    connection.destroy()
  })

  it('are not made, removed or given passwords here', async () => {
    await serve({}, TEST_CONFIG)
    const user = await enter('user01')
    const error = async (query: string): Promise<string> => user.sendIq(`<iq type='set'><query xmlns='jabber:iq:register'>${query}</query></iq>`).then(() => 'done', (problem: { condition: string }) => problem.condition)
    expect(await error('<username>user01</username><password>another</password>')).to.equal('not-allowed')
    expect(await error('<username>somebody</username><password>another</password>')).to.equal('forbidden')
    expect(await error('<remove/>')).to.equal('not-allowed')
    expect(await outcome('user01', 'pw-user01')).to.equal('success')
    const made = await site.server.register('somebody@localhost', 'secret').then(() => 'made', (problem: { condition: string }) => problem.condition)
    expect(made).to.equal('not-allowed')
  })

  it('get stanzas before they ever log in, each in its order', async () => {
    await serve()
    const sender = await enter('user01')
    for (const id of ['m1', 'm2']) sender.send(`<message to='user09@localhost' type='chat' id='${id}'><body>${id}</body></message>`)
    sender.send("<message to='user98@localhost' type='chat' id='m3'><body>m3</body></message>")
    sender.send("<presence to='user10@localhost' type='subscribe' id='s1'/>")
    const refusal = await sender.receive((element) => element.is('message') && element.attrs['type'] === 'error')
    expect(refusal.attrs['id']).to.equal('m3')
    expect(refusal.getChild('error')?.getChildElements()[0]?.getName()).to.equal('service-unavailable')
    const recipient = await enter('user09')
    recipient.send('<presence/>')
    const first = await recipient.receive((element) => element.is('message'))
    const second = await recipient.receive((element) => element.is('message'))
    expect([first.attrs['id'], second.attrs['id']]).to.deep.equal(['m1', 'm2'])
    const asked = await enter('user10')
    asked.send('<presence/>')
    await asked.receive((element) => element.is('presence') && element.attrs['type'] === 'subscribe')
  })

  it('are looked up only so often for one who makes up names', async () => {
    await serve({ tidings: { limits: { ldap_look_ups: 5, ldap_look_up_every: '1d' } } })
    const sender = await enter('user01')
    for (let i = 0; i < 20; i++) sender.send(`<message to='nobody${i}@localhost' type='chat' id='n${i}'><body>x</body></message>`)
    for (let i = 0; i < 20; i++) await sender.receive((element) => element.attrs['id'] === `n${i}` && element.attrs['type'] === 'error')
    // It has no more to ask with; others have.
    sender.send("<message to='user12@localhost' type='chat' id='late'><body>x</body></message>")
    await sender.receive((element) => element.attrs['id'] === 'late' && element.attrs['type'] === 'error')
    const other = await enter('user02')
    other.send("<message to='user12@localhost' type='chat' id='fine'><body>x</body></message>")
    const recipient = await enter('user12')
    recipient.send('<presence/>')
    expect((await recipient.receive((element) => element.is('message'))).attrs['id']).to.equal('fine')
  })

  it('that are gone from the directory get nothing any more, and neither tokens nor passwords let them in', async () => {
    await asAdmin(async (client) => { await client.add(dnOf('leaver'), person('leaver')) })
    await serve({ auth_cache_life_time: '1 ms' })
    const { connection, success } = await loginBySasl2({ host: site.host, port: site.tlsPort, domain: 'localhost', tls: 'direct', user: 'leaver', password: 'pw-leaver', mechanism: 'PLAIN', agent: AGENT, inline: "<request-token xmlns='urn:xmpp:fast:0' mechanism='HT-SHA-256-NONE'/>" })
    connection.destroy()
    const token = success.getChild('token', 'urn:xmpp:fast:0')?.attrs['token'] ?? ''
    const byToken = async (): Promise<string> => loginBySasl2({ host: site.host, port: site.tlsPort, domain: 'localhost', tls: 'direct', user: 'leaver', token, mechanism: 'HT-SHA-256-NONE', agent: AGENT, fast: '' }).then((done) => { done.connection.destroy(); return 'success' }, (error: LoginError) => error.condition)
    expect(await byToken()).to.equal('success')
    await asAdmin(async (client) => { await client.del(dnOf('leaver')) })
    expect(await byToken()).to.equal('credentials-expired')
    expect(await outcome('leaver', 'pw-leaver')).to.equal('not-authorized')
    const sender = await enter('user01')
    sender.send("<message to='leaver@localhost' type='chat' id='gone'><body>x</body></message>")
    await sender.receive((element) => element.attrs['id'] === 'gone' && element.attrs['type'] === 'error')
    // Back again, with all that was kept.
    await asAdmin(async (client) => { await client.add(dnOf('leaver'), person('leaver')) })
    expect(await outcome('leaver', 'pw-leaver')).to.equal('success')
    expect(await site.server.accounts.exists('leaver@localhost')).to.equal(true)
  })

  it('whose password was changed in the directory are not let in by tokens from before', async () => {
    await asAdmin(async (client) => { await client.add(dnOf('changer'), person('changer')) })
    await serve()
    const { connection, success } = await loginBySasl2({ host: site.host, port: site.tlsPort, domain: 'localhost', tls: 'direct', user: 'changer', password: 'pw-changer', mechanism: 'PLAIN', agent: AGENT, inline: "<request-token xmlns='urn:xmpp:fast:0' mechanism='HT-SHA-256-NONE'/>" })
    connection.destroy()
    const token = success.getChild('token', 'urn:xmpp:fast:0')?.attrs['token'] ?? ''
    // The overlay notes the time in seconds.
    await sleep(1100)
    await asAdmin(async (client) => { await client.modify(dnOf('changer'), new Change({ operation: 'replace', modification: new Attribute({ type: 'userPassword', values: ['new'] }) })) })
    const refused = await loginBySasl2({ host: site.host, port: site.tlsPort, domain: 'localhost', tls: 'direct', user: 'changer', token, mechanism: 'HT-SHA-256-NONE', agent: AGENT, fast: '' }).then(() => 'success', (error: LoginError) => error.condition)
    expect(refused).to.equal('credentials-expired')
    expect(await outcome('changer', 'new')).to.equal('success')
    expect(await outcome('changer', 'pw-changer')).to.equal('not-authorized')
  })

  it('fail no login wrongly while the directory is killed and comes back', async () => {
    await serve({ shaper_rules: { max_user_sessions: 300 } })
    const outcomes: string[] = []
    let started = 0
    const logIn = async (): Promise<void> => {
      while (started < 200) {
        const user = `user${String(1 + started++ % 19).padStart(2, '0')}`
        outcomes.push(await outcome(user, `pw-${user}`))
      }
    }
    const logins = Array.from({ length: 20 }, logIn)
    for (const at of [40, 100, 150]) {
      while (outcomes.length < at) await sleep(5)
      await ldap.kill()
      await sleep(500)
      await ldap.restart()
    }
    await Promise.all(logins)
    expect(new Set(outcomes)).to.deep.equal(new Set(['success']))
    expect(outcomes).to.have.length(200)
    expect(await outcome('user01', 'wrong')).to.equal('not-authorized')
  })

  it('wait no longer than they may for a directory that is away, and then say nothing of the password', async () => {
    await serve({ tidings: { limits: { ldap_patience: '1 s' } } })
    expect(await outcome('user01', 'pw-user01')).to.equal('success')
    const sender = await enter('user02')
    await ldap.kill()
    try {
      expect(await outcome('user01', 'pw-user01')).to.equal('temporary-auth-failure')
      expect(await outcome('user01', 'wrong')).to.equal('temporary-auth-failure')
      // What is known is known; what is not is no reason to take it for missing.
      sender.send("<message to='user01@localhost' type='chat' id='known'><body>x</body></message>")
      sender.send("<message to='user15@localhost' type='chat' id='unknown'><body>x</body></message>")
      const error = await sender.receive((element) => element.attrs['type'] === 'error')
      expect(error.attrs['id']).to.equal('unknown')
      expect(error.getChild('error')?.attrs['type']).to.equal('wait')
    } finally {
      await ldap.restart()
    }
    expect(await outcome('user01', 'pw-user01')).to.equal('success')
  })

  it('come from a backup while the first directory is away, also one that hangs', async () => {
    const other = await startLdap()
    try {
      const directories = { ldap_servers: ['127.0.0.1'], ldap_backups: ['localhost'] }
      // Two names for one address would not do: the first is one on which nobody listens.
      await serve({ ...directories, ldap_servers: ['127.0.0.2'], tidings: { limits: { ldap_answer: '500 ms' } } })
      expect(await outcome('user01', 'pw-user01')).to.equal('success')
      await site[Symbol.asyncDispose]()
      await serve({ ldap_port: other.port, tidings: { limits: { ldap_answer: '300 ms', ldap_patience: '5 s' } } })
      expect(await outcome('user01', 'pw-user01')).to.equal('success')
      other.pause()
      const waiting = outcome('user01', 'pw-user01')
      await sleep(1000)
      other.resume()
      expect(await waiting).to.equal('success')
    } finally {
      await other[Symbol.asyncDispose]()
    }
  })

  it('say that the directory is not there when this server may not search in it', async () => {
    await serve({ ldap_password: 'wrong', tidings: { limits: { ldap_patience: '300 ms' } } })
    expect(await outcome('user01', 'pw-user01')).to.equal('temporary-auth-failure')
  })

  describe('over TLS', () => {
    for (const [encrypt, port] of [['tls', () => ldap.tlsPort], ['starttls', () => ldap.port]] as const) {
      it(`${encrypt}: are let in by a directory whose certificate is right`, async () => {
        await serve({ ldap_encrypt: encrypt, ldap_port: port(), ldap_tls_verify: 'hard', ldap_tls_cacertfile: ldap.certificateFile, ldap_tls_depth: 0 })
        expect(await outcome('user01', 'pw-user01')).to.equal('success')
        expect(await outcome('user01', 'wrong')).to.equal('not-authorized')
        // The connections that were encrypted are replaced by such.
        await ldap.kill()
        await ldap.restart()
        expect(await outcome('user02', 'pw-user02')).to.equal('success')
      })

      it(`${encrypt}: are not asked for of one whose certificate is wrong, unless that is allowed`, async () => {
        const stranger = await startLdap()
        try {
          const wrong = { ldap_encrypt: encrypt, ldap_port: port(), ldap_tls_cacertfile: stranger.certificateFile, tidings: { limits: { ldap_patience: '500 ms' } } }
          await serve({ ...wrong, ldap_tls_verify: 'hard' })
          expect(await outcome('user01', 'pw-user01')).to.equal('temporary-auth-failure')
          await site[Symbol.asyncDispose]()
          for (const verify of ['soft', false]) {
            await serve({ ...wrong, ldap_tls_verify: verify })
            expect(await outcome('user01', 'pw-user01'), String(verify)).to.equal('success')
            await site[Symbol.asyncDispose]()
          }
          // Right, but for another name.
          await serve({ ldap_encrypt: encrypt, ldap_port: port(), ldap_servers: ['127.0.0.2'], ldap_tls_verify: 'hard', ldap_tls_cacertfile: ldap.certificateFile, tidings: { limits: { ldap_patience: '500 ms' } } })
          expect(await outcome('user01', 'pw-user01')).to.equal('temporary-auth-failure')
        } finally {
          await stranger[Symbol.asyncDispose]()
        }
      })
    }
  })

  it('may be told by a certificate of the server\'s own that it is wanted', async () => {
    const file = path.join(ldap.dir, 'both.pem')
    await serve({ ldap_encrypt: 'starttls', ldap_tls_verify: 'hard', ldap_tls_cacertfile: ldap.certificateFile, ldap_tls_certfile: file })
    expect(await outcome('user01', 'pw-user01')).to.equal('success')
    await site[Symbol.asyncDispose]()
    writeFileSync(path.join(ldap.dir, 'empty.pem'), '')
    await serve({ ldap_encrypt: 'starttls', ldap_tls_certfile: path.join(ldap.dir, 'empty.pem'), tidings: { limits: { ldap_patience: '300 ms' } } })
    expect(await outcome('user01', 'pw-user01')).to.equal('temporary-auth-failure')
  })
})
