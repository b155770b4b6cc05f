import { expect } from 'chai'
import { LoginError } from '../../lib/client/client.ts'
import { Connection } from '../../lib/client/connection.ts'
import { loginBySasl2, type Sasl2Options } from '../../lib/client/sasl2.ts'
import { loadConfig } from '../config/config.ts'
import { startTestServer, TEST_CONFIG, type TestServer } from '../test-server.ts'

const SASL2 = 'urn:xmpp:sasl:2'
const NS = 'urn:xmpp:sasl:upgrade:0'
const OLD = `${TEST_CONFIG}\nauth_stored_password_types: [plain, scram_sha1]\n`
const ROMEO = 'romeo@localhost'

describe('upgrades of passwords (XEP-0480)', () => {
  let site: TestServer
  const open: Connection[] = []
  beforeEach(async () => {
    site = await startTestServer({ config: OLD, accounts: { romeo: 'secret' } })
    await site.server.reload(loadConfig('/x.yml', { readText: () => TEST_CONFIG }).config)
    await site.server.register('juliet@localhost', 'secret')
  })
  afterEach(async () => {
    for (const connection of open.splice(0)) connection.destroy()
    await site[Symbol.asyncDispose]()
  })

  async function login(more: Partial<Sasl2Options> = {}) {
    const result = await loginBySasl2({ host: site.host, port: site.tlsPort, domain: 'localhost', tls: 'direct', user: 'romeo', password: 'secret', mechanism: 'SCRAM-SHA-1', ...more })
    open.push(result.connection)
    const feature = result.offer.getChild('authentication', SASL2)
    const texts = (name: string, xmlns: string): (string | undefined)[] => feature?.getChildren(name, xmlns).map((each) => each.getText()) ?? []
    return { ...result, mechanisms: texts('mechanism', SASL2), upgrades: texts('upgrade', NS) }
  }

  it('an account that has one hash is offered its mechanisms alone, and the others as upgrades; they are there from then on', async () => {
    const first = await login()
    expect(first.mechanisms).to.deep.equal(['SCRAM-SHA-1-PLUS', 'SCRAM-SHA-1', 'PLAIN'])
    expect(first.upgrades).to.deep.equal(['UPGR-SCRAM-SHA-256', 'UPGR-SCRAM-SHA-512'])
    expect((await login({ mechanism: 'PLAIN' })).success.getChildText('authorization-identifier')).to.equal(ROMEO)
    const bind = "<bind xmlns='urn:xmpp:bind:0'/>"
    const { success } = await login({ mechanism: 'SCRAM-SHA-1-PLUS', inline: `<upgrade xmlns='${NS}'>UPGR-SCRAM-SHA-512</upgrade><upgrade xmlns='${NS}'>UPGR-SCRAM-SHA-256</upgrade>${bind}` })
    expect(success.getChildText('authorization-identifier')).to.match(/^romeo@localhost\/./)
    expect(success.getChild('additional-data')).to.equal(undefined)
    const after = await login({ mechanism: 'SCRAM-SHA-512-PLUS' })
    expect([after.mechanisms.length, after.upgrades]).to.deep.equal([7, []])
    expect((await login({ mechanism: 'SCRAM-SHA-256' })).success.getName()).to.equal('success')
    expect((await login({ mechanism: 'SCRAM-SHA-1' })).success.getName()).to.equal('success')
    await site.restart()
    await login({ mechanism: 'SCRAM-SHA-512' })
    await expectFailure(login({ mechanism: 'SCRAM-SHA-512', password: 'other' }), 'not-authorized')
  })

  async function expectFailure(outcome: Promise<unknown>, condition: string): Promise<void> {
    const error = await outcome.catch((reason: unknown) => reason)
    expect(error).to.be.instanceOf(LoginError)
    expect((error as LoginError).condition).to.equal(condition)
  }

  it('what the account has already, and what is not known, is not asked for', async () => {
    const wanted = `<upgrade xmlns='${NS}'>UPGR-SCRAM-SHA-256</upgrade><upgrade xmlns='${NS}'>UPGR-BLOOP2</upgrade>`
    const { upgrades, success } = await login({ user: 'juliet', inline: wanted })
    expect([upgrades, success.getName()]).to.deep.equal([[], 'success'])
    const nobody = await Connection.open({ host: site.host, port: site.tlsPort, domain: 'localhost', direct: true })
    open.push(nobody)
    nobody.openStream({ from: 'nobody@localhost' })
    expect((await nobody.nextElement()).element().getChild('authentication', SASL2)?.getChildren('mechanism')).to.have.length(7)
  })

  it('nobody is logged in before the task is done, and nonsense ends the login', async () => {
    const hash = (text: string): string => `<task-data xmlns='${SASL2}'><hash xmlns='urn:xmpp:scram-upgrade:0'>${text}</hash></task-data>`
    const next = `<next xmlns='${SASL2}' task='UPGR-SCRAM-SHA-256'/>`
    for (const [sent, expected] of [
      ['<presence/>', 'policy-violation'],
      [`<next xmlns='${SASL2}' task='UPGR-SCRAM-SHA-512'/>`, 'malformed-request'],
      [hash('AAAA'), 'policy-violation'],
      [next + hash('AAAA'), 'malformed-request'],
      [next + hash('!'), 'malformed-request'],
      [`${next}<task-data xmlns='${SASL2}'/>`, 'malformed-request'],
      [`${next}<abort xmlns='${SASL2}'/>`, 'aborted'],
      [next + next, 'policy-violation'],
    ] as const) {
      const connection = await Connection.open({ host: site.host, port: site.tlsPort, domain: 'localhost', direct: true })
      open.push(connection)
      connection.openStream()
      await connection.nextElement()
      connection.write(`<authenticate xmlns='${SASL2}' mechanism='PLAIN'><initial-response>${Buffer.from('\0romeo\0secret').toString('base64')}</initial-response><upgrade xmlns='${NS}'>UPGR-SCRAM-SHA-256</upgrade></authenticate>`)
      expect(String(await connection.nextElement())).to.contain('<continue').and.to.contain('<task>UPGR-SCRAM-SHA-256</task>')
      connection.write(sent)
      let answer = await connection.nextElement().catch((error: unknown) => error)
      if (String(answer).startsWith('<task-data')) answer = await connection.nextElement().catch((error: unknown) => error)
      expect(String((answer as { condition?: string }).condition ?? answer), sent).to.contain(expected)
    }
    expect(await site.server.accounts.hashes(ROMEO)).to.deep.equal(['SHA-1'])
  })

  it('a password that was changed meanwhile is not brought back', async () => {
    await site.server.reload(loadConfig('/x.yml', { readText: () => OLD }).config)
    const connection = await Connection.open({ host: site.host, port: site.tlsPort, domain: 'localhost', direct: true })
    open.push(connection)
    connection.openStream()
    await connection.nextElement()
    connection.write(`<authenticate xmlns='${SASL2}' mechanism='PLAIN'><initial-response>${Buffer.from('\0romeo\0secret').toString('base64')}</initial-response><upgrade xmlns='${NS}'>UPGR-SCRAM-SHA-256</upgrade></authenticate><next xmlns='${SASL2}' task='UPGR-SCRAM-SHA-256'/>`)
    expect((await connection.nextElement()).name).to.equal('continue')
    expect((await connection.nextElement()).name).to.equal('task-data')
    await site.server.accounts.setPassword(ROMEO, 'another')
    connection.write(`<task-data xmlns='${SASL2}'><hash xmlns='urn:xmpp:scram-upgrade:0'>${Buffer.alloc(32).toString('base64')}</hash></task-data>`)
    expect(String(await connection.nextElement())).to.contain('<not-authorized')
    expect(await site.server.accounts.hashes(ROMEO)).to.deep.equal(['SHA-1'])
  })

  it('mechanisms that accounts may lack can be kept from clients that know no SASL2', async () => {
    await site.server.reload(loadConfig('/x.yml', { readText: () => `${TEST_CONFIG}\nauth_password_types_hidden_in_sasl1: [plain, scram_sha256, scram_sha512]\n` }).config)
    const connection = await Connection.open({ host: site.host, port: site.tlsPort, domain: 'localhost', direct: true })
    open.push(connection)
    connection.openStream()
    const features = (await connection.nextElement()).element()
    expect(features.getChild('mechanisms')?.getChildren('mechanism').map((each) => each.getText())).to.deep.equal(['SCRAM-SHA-1-PLUS', 'SCRAM-SHA-1'])
    expect(features.getChild('authentication', SASL2)?.getChildren('mechanism')).to.have.length(7)
    connection.write("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='SCRAM-SHA-256'/>")
    expect(String(await connection.nextElement())).to.contain('invalid-mechanism')
  })
})
