/** vCards and searches in a real LDAP directory (ejabberd's `mod_vcard` with `db_type: ldap`). */
import { expect } from 'chai'
import { connect, type Client, type IqError } from '../../lib/client/client.ts'
import { startLdap, type Ldap } from '../../services/services.ts'
import { startTestServer, TEST_CONFIG, type TestServer } from '../test-server.ts'

describe('vCards of an LDAP directory', () => {
  let ldap: Ldap
  let site: TestServer
  let user: Client

  before(async () => { ldap = await startLdap() })
  after(async () => { await ldap[Symbol.asyncDispose]() })
  afterEach(async () => {
    user.connection.destroy()
    await site[Symbol.asyncDispose]()
  })

  async function serve(module: Readonly<Record<string, unknown>>): Promise<void> {
    const top = { auth_method: 'ldap', ldap_servers: ['127.0.0.1'], ldap_port: ldap.port, ldap_base: `ou=people,${ldap.base}`, ldap_rootdn: ldap.serviceDn, ldap_password: ldap.servicePassword, tidings: { limits: { ldap_patience: '300 ms' } } }
    site = await startTestServer({ config: `${TEST_CONFIG.replace('mod_vcard: {}', `mod_vcard: ${JSON.stringify({ db_type: 'ldap', ...module })}`)}\n${Object.entries(top).map(([name, value]) => `${name}: ${JSON.stringify(value)}`).join('\n')}\n` })
    user = await connect({ host: site.host, port: site.tlsPort, domain: 'localhost', tls: 'direct', user: 'user01', password: 'pw-user01' })
  }

  const vcardOf = async (jid: string): Promise<string> => String((await user.sendIq(`<iq type='get' to='${jid}'><vCard xmlns='vcard-temp'/></iq>`)).getChild('vCard'))
  const refusal = async (iq: string): Promise<string> => user.sendIq(iq).then(() => 'done', (error: IqError) => error.condition)

  it('show what the directory knows, with pictures as they are', async () => {
    await serve({})
    const text = await vcardOf('user01@localhost')
    expect(text).to.contain('<FN>Zoë Müller</FN>').and.contain('<N><FAMILY>Müller</FAMILY><GIVEN>Zoë</GIVEN></N>').and.contain('<NICKNAME>user01</NICKNAME>')
    expect(text).to.contain('<USERID>user01@example.org</USERID>').and.contain('<TEL><VOICE/><WORK/><NUMBER>+44 20 7946 0001</NUMBER></TEL>').and.contain('<TITLE>Tester 1</TITLE>')
    const picture = Buffer.from(/<TYPE>image\/jpeg<\/TYPE><BINVAL>([^<]*)/.exec(text)?.[1] ?? '', 'base64')
    expect(picture.subarray(0, 4).toString('hex')).to.equal('ffd8ffe0')
    expect(picture.subarray(-2).toString('hex')).to.equal('ffd9')
    // Of somebody who was never here; and of nobody.
    expect(await vcardOf('user03@localhost')).to.contain('<FN>山田 太郎</FN>')
    expect(await refusal("<iq type='get' to='user99@localhost'><vCard xmlns='vcard-temp'/></iq>")).to.equal('service-unavailable')
  })

  it('are not for their owners to set', async () => {
    await serve({})
    expect(await refusal("<iq type='set'><vCard xmlns='vcard-temp'><FN>Me</FN></vCard></iq>")).to.equal('not-allowed')
    expect(await refusal("<iq type='set' to='user02@localhost'><vCard xmlns='vcard-temp'><FN>Me</FN></vCard></iq>")).to.equal('forbidden')
  })

  it('are made as configured, from where the module says', async () => {
    await serve({ ldap_vcard_map: { FN: { '%s of %s': ['title', 'sn'] }, NICKNAME: { '%u at %d': [] }, DESC: { '%s': ['description'] } }, ldap_base: `uid=user02,ou=people,${ldap.base}` })
    expect(await vcardOf('user02@localhost')).to.equal("<vCard xmlns=\"vcard-temp\"><FN>Tester 2 of Nowak</FN><NICKNAME>user02 at localhost</NICKNAME></vCard>")
    expect(await vcardOf('user01@localhost')).to.equal('<vCard xmlns="vcard-temp"/>')
  })

  it('say so when no directory answers', async () => {
    await serve({})
    await ldap.kill()
    try {
      expect(await refusal("<iq type='get'><vCard xmlns='vcard-temp'/></iq>")).to.equal('resource-constraint')
    } finally {
      await ldap.restart()
    }
  })

  it('are found by the fields configured, and by what is in them alone', async () => {
    await serve({ search: true, ldap_search_fields: { User: '%u', Surname: 'sn' }, ldap_search_reported: { 'Full name': 'FN', Mail: 'EMAIL' } })
    const form = String((await user.sendIq("<iq type='get' to='vjud.localhost'><query xmlns='jabber:iq:search'/></iq>")))
    expect(form).to.contain('var="%u"').and.contain('label="Surname"')
    const search = async (field: string, value: string): Promise<string[]> => {
      const answer = await user.sendIq(`<iq type='set' to='vjud.localhost'><query xmlns='jabber:iq:search'><x xmlns='jabber:x:data' type='submit'><field var='${field}'><value>${value}</value></field></x></query></iq>`)
      return [...String(answer).matchAll(/var="(?:jid|FN|EMAIL)"[^>]*><value>([^<]*)<\/value>/g)].map((match) => match[1] as string)
    }
    expect(await search('sn', 'müll*')).to.deep.equal(['user01@localhost', 'Zoë Müller', 'user01@example.org'])
    expect(await search('%u', 'user02')).to.deep.equal(['user02@localhost', 'Łukasz Nowak', 'user02@example.org'])
    expect(await search('sn', 'x)(uid=*')).to.deep.equal([])
    expect(await search('sn', 'x)(|(uid=*)')).to.deep.equal([])
    expect(await search('mail', 'user02*')).to.deep.equal([])
    expect(await search('%u', 'user1*')).to.have.length(30)
  })
})
