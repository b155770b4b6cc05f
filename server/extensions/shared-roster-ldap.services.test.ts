import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'chai'
import { Attribute, Change, Client as LdapClient } from 'ldapts'
import { connect, type Client, type IqError } from '../../lib/client/client.ts'
import { startLdap, type Ldap } from '../../services/services.ts'
import { startTestServer, TEST_CONFIG, type TestServer } from '../test-server.ts'

describe('groups of an LDAP directory in rosters', () => {
  let ldap: Ldap
  let site: TestServer
  const open: Client[] = []

  beforeEach(async () => { ldap = await startLdap() })
  afterEach(async () => {
    for (const client of open.splice(0)) client.connection.destroy()
    await site[Symbol.asyncDispose]()
    await ldap[Symbol.asyncDispose]()
  })

  async function serve(module: Readonly<Record<string, unknown>> = {}): Promise<void> {
    const top = { auth_method: 'ldap', ldap_servers: ['127.0.0.1'], ldap_port: ldap.port, ldap_base: `ou=people,${ldap.base}`, ldap_rootdn: ldap.serviceDn, ldap_password: ldap.servicePassword }
    const options = {
      ldap_base: ldap.base, ldap_rfilter: '(&(objectClass=groupOfNames)(cn=friends))', ldap_gfilter: '(&(objectClass=groupOfNames)(cn=%g))', ldap_groupdesc: 'description',
      ldap_memberattr: 'member', ldap_memberattr_format: `uid=%u,ou=people,${ldap.base}`, ldap_ufilter: '(&(objectClass=inetOrgPerson)(uid=%u))', ldap_useruid: 'uid', ldap_userdesc: 'displayName', cache_life_time: '100 ms', ...module,
    }
    site = await startTestServer({ config: `${TEST_CONFIG.replace('mod_vcard: {}', `mod_vcard: {}\n  mod_shared_roster_ldap: ${JSON.stringify(options)}`)}\n${Object.entries(top).map(([name, value]) => `${name}: ${JSON.stringify(value)}`).join('\n')}\n` })
    for (let tries = 0; tries < 500 && (await rosterSize()) === 0; tries++) await sleep(10)
  }

  async function rosterSize(): Promise<number> {
    const client = await enter('user20')
    const size = (await rosterOf(client)).size
    client.connection.destroy()
    return size
  }

  async function enter(user: string): Promise<Client> {
    const client = await connect({ host: site.host, port: site.tlsPort, domain: 'localhost', tls: 'direct', user, password: `pw-${user}` })
    open.push(client)
    return client
  }

  async function rosterOf(client: Client): Promise<Map<string, string>> {
    const answer = await client.sendIq("<iq type='get'><query xmlns='jabber:iq:roster'/></iq>")
    return new Map((answer.getChild('query')?.getChildren('item') ?? []).map((item) => [item.attrs['jid'] as string, `${item.attrs['name']}|${item.attrs['subscription']}|${item.getChildren('group').map((group) => group.getText()).join(',')}`]))
  }

  async function asAdmin(work: (client: LdapClient) => Promise<void>): Promise<void> {
    const client = new LdapClient({ url: ldap.url })
    await client.bind(ldap.adminDn, ldap.adminPassword)
    await work(client)
    await client.unbind()
  }

  const member = (operation: 'add' | 'delete', uid: string): Promise<void> => asAdmin(async (client) => {
    await client.modify(`cn=friends,ou=groups,${ldap.base}`, new Change({ operation, modification: new Attribute({ type: 'member', values: [`uid=${uid},ou=people,${ldap.base}`] }) }))
  })
  const refusal = async (client: Client, iq: string): Promise<string> => client.sendIq(iq).then(() => 'done', (error: IqError) => error.condition)

  it('are everybody\'s contacts, who see each other', async () => {
    await serve()
    const one = await enter('user01')
    const roster = await rosterOf(one)
    expect([...roster.keys()]).to.have.members(Array.from({ length: 9 }, (_, i) => `user${String(i + 2).padStart(2, '0')}@localhost`))
    expect(roster.get('user02@localhost')).to.equal('Łukasz Nowak|both|Roster group friends')
    one.send('<presence/>')
    const two = await enter('user02')
    two.send('<presence/>')
    await two.receive((element) => element.is('presence') && (element.attrs['from'] ?? '').startsWith('user01@localhost/'))
    await one.receive((element) => element.is('presence') && (element.attrs['from'] ?? '').startsWith('user02@localhost/'))
  })

  it('change with the directory, and those who are online hear of it', async () => {
    await serve()
    const one = await enter('user01')
    await rosterOf(one)
    one.send('<presence/>')
    const late = await enter('user11')
    await rosterOf(late)
    late.send('<presence/>')
    await member('add', 'user11')
    const push = await one.receive((element) => element.is('iq') && String(element).includes('user11@localhost'))
    expect(String(push)).to.contain('subscription="both"').and.contain('User 11')
    await one.receive((element) => element.is('presence') && (element.attrs['from'] ?? '').startsWith('user11@localhost/'))
    await member('delete', 'user11')
    await one.receive((element) => element.is('iq') && String(element).includes('user11@localhost') && String(element).includes('remove'))
    expect((await rosterOf(one)).has('user11@localhost')).to.equal(false)
  })

  it('are not the users\' to break, who may call contacts as they like and have others besides', async () => {
    await serve()
    const one = await enter('user01')
    expect(await refusal(one, "<iq type='set'><query xmlns='jabber:iq:roster'><item jid='user02@localhost' subscription='remove'/></query></iq>")).to.equal('not-allowed')
    for (const type of ['unsubscribe', 'unsubscribed', 'subscribe']) one.send(`<presence to='user02@localhost' type='${type}'/>`)
    expect(await refusal(one, "<iq type='set'><query xmlns='jabber:iq:roster'><item jid='user02@localhost' name='Luke'><group>Best</group><group>Roster group friends</group></item></query></iq>")).to.equal('done')
    expect(await refusal(one, "<iq type='set'><query xmlns='jabber:iq:roster'><item jid='user15@localhost' name='Other'/></query></iq>")).to.equal('done')
    const roster = await rosterOf(one)
    expect(roster.get('user02@localhost')).to.equal('Luke|both|Best,Roster group friends')
    expect(roster.get('user15@localhost')).to.equal('Other|none|')
    expect(roster.get('user03@localhost')).to.equal('山田 太郎|both|Roster group friends')
    const two = await enter('user02')
    expect((await rosterOf(two)).get('user01@localhost')).to.contain('|both|')
  })

  it('have versions that change with them alone (XEP-0237)', async () => {
    await serve()
    const one = await enter('user01')
    const ask = async (version: string): Promise<string | undefined> => (await one.sendIq(`<iq type='get'><query xmlns='jabber:iq:roster' ver='${version}'/></iq>`)).getChild('query')?.attrs['ver']
    const version = await ask('') ?? ''
    expect(await ask(version)).to.equal(undefined)
    await member('delete', 'user10')
    await one.receive((element) => element.is('iq') && String(element).includes('user10@localhost'))
    const next = await ask(version)
    expect(next).to.be.a('string').and.not.equal(version)
    await site.restart()
    const again = await enter('user01')
    let same: string | undefined = 'not yet'
    for (let tries = 0; tries < 500 && same !== undefined; tries++) {
      same = (await again.sendIq(`<iq type='get'><query xmlns='jabber:iq:roster' ver='${next}'/></iq>`)).getChild('query')?.attrs['ver']
      if (same !== undefined) await sleep(10)
    }
    expect(same).to.equal(undefined)
  })

  it('leave out who has no account, unless they are to stay, and read members by an expression', async () => {
    await member('add', 'ghost')
    await serve({ ldap_memberattr_format_re: 'uid=([^,]+),.*' })
    const one = await enter('user01')
    expect((await rosterOf(one)).has('ghost@localhost')).to.equal(false)
    await site[Symbol.asyncDispose]()
    await serve({ ldap_auth_check: false })
    expect((await rosterOf(await enter('user01'))).has('ghost@localhost')).to.equal(true)
  })

  it('stay as they were while the directory is away', async () => {
    await serve()
    const one = await enter('user01')
    await ldap.kill()
    await sleep(300)
    expect((await rosterOf(one)).size).to.equal(9)
    await ldap.restart()
  })
})
