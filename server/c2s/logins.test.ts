/** Failed logins on a whole server: what the budgets of docs/decisions/failed-logins.md and mod_fail2ban do to clients. */
import { expect } from 'chai'
import { connect, type ConnectOptions, LoginError } from '../../lib/client/client.ts'
import { Connection } from '../../lib/client/connection.ts'
import { StreamError } from '../../lib/stream/errors.ts'
import { loadConfig } from '../config/config.ts'
import { startTestServer, type TestServer } from '../test-server.ts'

const SASL = 'urn:ietf:params:xml:ns:xmpp-sasl'

describe('failed logins', () => {
  let site: TestServer
  let file: string
  afterEach(async () => { await site[Symbol.asyncDispose]() })

  async function start(modules: string, limits = ''): Promise<void> {
    file = `hosts: [localhost]\nloglevel: none\nacl: {office: {ip: 203.0.113.0/24}}\naccess_rules: {trusted: {allow: office}}\nlisten:\n  - {port: 0, ip: 127.0.0.1, module: ejabberd_c2s, starttls: true, use_proxy_protocol: true}\nmodules: {${modules}}\ntidings: {limits: {${limits}}}\n`
    site = await startTestServer({ config: file, accounts: { romeo: 'secret', juliet: 'secret' } })
  }

  const from = (address: string): string => `PROXY TCP4 ${address} 198.51.100.1 1 2\r\n`
  /** How a login ends: `in`, the condition of its failure, or that of the stream's error. */
  async function login(address: string, password: string, more: Partial<ConnectOptions> = {}): Promise<string> {
    try {
      const client = await connect({ host: site.host, port: site.port, domain: 'localhost', user: 'romeo', password, proxyHeader: from(address), timeoutMs: 5000, ...more })
      await client.disconnect()
      return 'in'
    } catch (error) {
      if (error instanceof LoginError) return error.condition
      if (error instanceof StreamError) return `stream ${error.condition}`
      throw error
    }
  }

  for (const mechanism of ['PLAIN', 'SCRAM-SHA-1', 'SCRAM-SHA-256-PLUS']) {
    it(`${mechanism}: after too many from one network the password is not looked at, and other networks still log in`, async () => {
      await start('mod_roster: {}', 'login_failures: 3')
      for (let count = 0; count < 3; count++) expect(await login('192.0.2.7', 'wrong', { mechanism })).to.equal('not-authorized')
      expect(await login('192.0.2.7', 'wrong', { mechanism })).to.equal('temporary-auth-failure')
      expect(await login('192.0.2.7', 'secret', { mechanism })).to.equal('temporary-auth-failure')
      expect(await login('192.0.2.8', 'secret', { mechanism })).to.equal('in')
      expect(await login('192.0.2.7', 'secret', { mechanism, user: 'juliet' })).to.equal('in')
    })
  }

  it('from many networks do not keep the owner out who has been here before', async () => {
    await start('mod_roster: {}', 'login_failures: 3, account_login_failures: 5, account_login_failure_every: 1 h')
    expect(await login('203.0.113.5', 'secret')).to.equal('in')
    const outcomes: string[] = []
    for (let network = 1; network < 5; network++) for (let count = 0; count < 3; count++) outcomes.push(await login(`192.0.2.${network}`, 'wrong'))
    expect(outcomes.filter((each) => each === 'not-authorized')).to.have.length(5)
    expect(await login('192.0.2.99', 'secret')).to.equal('temporary-auth-failure')
    for (let count = 0; count < 10; count++) expect(await login('203.0.113.5', 'secret')).to.equal('in')
  })

  it('of names that there are not are limited alike', async () => {
    await start('mod_roster: {}', 'login_failures: 2')
    for (const user of ['romeo', 'nobody', 'not a name@']) {
      const outcomes: string[] = []
      for (let count = 0; count < 3; count++) outcomes.push(await login('192.0.2.7', 'wrong', { user }))
      expect(outcomes, user).to.deep.equal(['not-authorized', 'not-authorized', 'temporary-auth-failure'])
    }
  })

  it('ban their address where mod_fail2ban is on, also in other streams and after a reload', async () => {
    await start('mod_fail2ban: {c2s_max_auth_failures: 3, access: trusted}')
    for (let count = 0; count < 2; count++) expect(await login('192.0.2.7', 'wrong')).to.equal('not-authorized')
    // The third is answered, and then the stream ends.
    const connection = await Connection.open({ host: site.host, port: site.port, domain: 'localhost', proxyHeader: from('192.0.2.7') })
    connection.openStream()
    await connection.nextElement()
    connection.write(`<auth xmlns='${SASL}' mechanism='SCRAM-SHA-1'>!</auth>`)
    expect((await connection.nextElement()).toString()).to.contain('<incorrect-encoding')
    const error = await connection.nextElement().catch((reason: unknown) => reason)
    expect(error).to.be.instanceOf(StreamError)
    expect((error as StreamError).text).to.match(/^Too many \(3\) failed authentications from this IP address \(192\.0\.2\.7\)\. The address will be unblocked at \d\d:\d\d:\d\d \d\d\.\d\d\.\d{4} UTC$/)
    connection.destroy()
    expect(await login('192.0.2.7', 'secret')).to.equal('stream policy-violation')
    expect(await login('192.0.2.8', 'secret')).to.equal('in')
    await site.server.reload(loadConfig('/x.yml', { readText: () => file }).config)
    expect(await login('192.0.2.7', 'secret')).to.equal('stream policy-violation')
    for (let count = 0; count < 5; count++) expect(await login('203.0.113.5', 'wrong')).to.equal('not-authorized')
    expect([await site.server.unban('::ffff:192.0.2.7'), await site.server.unban('192.0.2.7')]).to.deep.equal([true, false])
    expect(await login('192.0.2.7', 'secret')).to.equal('in')
  })

  it('are no logins where no password was given', async () => {
    await start('mod_fail2ban: {c2s_max_auth_failures: 2}')
    const connection = await Connection.open({ host: site.host, port: site.port, domain: 'localhost', proxyHeader: from('192.0.2.7') })
    connection.openStream()
    await connection.nextElement()
    for (const [sent, condition] of [['<auth xmlns="SASL" mechanism="X"/>', 'invalid-mechanism'], ['<auth xmlns="SASL" mechanism="PLAIN">AA==</auth>', 'encryption-required'], ['<abort xmlns="SASL"/>', 'aborted']] as const) {
      connection.write(sent.replace('SASL', SASL))
      expect((await connection.nextElement()).toString()).to.contain(`<${condition}`)
    }
    connection.destroy()
    expect(await login('192.0.2.7', 'secret')).to.equal('in')
  })

  it('do not count when the address may not log in here with the right password', async () => {
    await start('mod_fail2ban: {c2s_max_auth_failures: 2}')
    const closed = file.replace('use_proxy_protocol: true', 'use_proxy_protocol: true, access: trusted')
    const { config } = loadConfig('/x.yml', { readText: () => closed })
    await site.server.reload(config)
    for (let count = 0; count < 4; count++) expect(await login('192.0.2.7', 'secret')).to.equal('not-authorized')
    expect(await login('203.0.113.5', 'secret')).to.equal('in')
  })
})
