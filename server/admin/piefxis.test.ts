import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { expect } from 'chai'
import { enter, fillAccount, PASSWORD, readAccount } from '../full-account.fixture.ts'
import { startTestServer, TEST_CONFIG, type TestServer } from '../test-server.ts'
import { exportHosts, exportUserTo, importFile, type MovingParts } from './piefxis.ts'

const ACCOUNTS = { juliet: PASSWORD, romeo: PASSWORD, stranger: PASSWORD }

function parts({ server }: TestServer): MovingParts {
  return { accounts: server.accounts, register: (jid, password) => server.register(jid, password), accountData: (host) => server.hosts.get(host)?.accountData, committed: () => server.storage.committed() }
}

describe('XEP-0227: accounts that move', () => {
  let dir: string
  beforeEach(async () => { dir = await mkdtemp(path.join(tmpdir(), 'tidings-moving-')) })
  afterEach(() => rm(dir, { recursive: true, force: true }))

  async function imported(site: TestServer, text: string): Promise<{ accounts: number; problems: readonly string[] }> {
    const file = path.join(dir, 'import.xml')
    await writeFile(file, text)
    return importFile(parts(site), file)
  }

  const user = (name: string, content: string, attrs = ''): string => `<server-data xmlns='urn:xmpp:pie:0'><host jid='localhost'><user name='${name}'${attrs}>${content}</user></host></server-data>`

  it('§4: everything of an account is found on the other server, with its password', async () => {
    await using first = await startTestServer({ accounts: ACCOUNTS })
    await fillAccount(first)
    const { file, accounts } = await exportHosts(parts(first), dir, ['localhost'])
    expect(accounts).to.equal(3)
    await using second = await startTestServer()
    expect(await importFile(parts(second), file)).to.deep.include({ accounts: 3, problems: [] })
    const before = await readAccount(first)
    const after = await readAccount(second)
    for (const [what, found] of Object.entries(before)) expect(found, what).to.not.deep.equal([])
    expect(after).to.deep.equal(before)
  })

  it('§5: there is a file for each host and user, which nobody else may read', async () => {
    await using site = await startTestServer({ accounts: { juliet: PASSWORD } })
    const long = 'x'.repeat(300)
    await site.server.register(`${long}@localhost`, PASSWORD)
    const { file } = await exportHosts(parts(site), dir, ['localhost'])
    expect((await readdir(dir)).sort()).to.deep.equal([path.basename(file), 'localhost', 'localhost.xml'].sort())
    const names = await readdir(path.join(dir, 'localhost'))
    expect(names).to.include('juliet.xml').and.to.have.length(2)
    expect(await readFile(path.join(dir, 'localhost.xml'), 'utf8')).to.contain("<xi:include href='localhost/juliet.xml'/>")
    expect((await stat(path.join(dir, 'localhost/juliet.xml'))).mode & 0o777).to.equal(0o600)
    await using other = await startTestServer()
    expect((await importFile(parts(other), file)).accounts).to.equal(2)
    expect(await other.server.accounts.checkPassword(`${long}@localhost`, PASSWORD)).to.equal(true)
  })

  it('§4.3: one account has a file of its own, with what is kept of its password', async () => {
    await using site = await startTestServer({ accounts: { juliet: PASSWORD } })
    const file = path.join(dir, 'juliet.xml')
    await exportUserTo(parts(site), file, 'juliet@localhost')
    const text = await readFile(file, 'utf8')
    expect(text).to.contain("<user xmlns='urn:xmpp:pie:0' name='juliet'>").and.to.contain('SCRAM-SHA-256').and.not.to.contain(PASSWORD)
    await using other = await startTestServer()
    expect(await importFile(parts(other), file)).to.deep.include({ accounts: 1, problems: [] })
    expect(await other.server.accounts.checkPassword('juliet@localhost', PASSWORD)).to.equal(true)
  })

  it('§4.2: an account comes with a password in the clear, with credentials, or needs one', async () => {
    await using site = await startTestServer()
    expect(await imported(site, user('juliet', '', " password='clear'"))).to.deep.include({ accounts: 1, problems: [] })
    expect(await site.server.accounts.checkPassword('juliet@localhost', 'clear')).to.equal(true)
    expect((await imported(site, user('romeo', ''))).problems).to.deep.equal(['romeo@localhost: has no password; give it one with change_password'])
    expect(await site.server.accounts.exists('romeo@localhost')).to.equal(true)
    expect((await imported(site, user('juliet', '', " password='other'"))).problems).to.deep.equal(['juliet@localhost: exists already; its password stays as it is'])
    expect(await site.server.accounts.checkPassword('juliet@localhost', 'clear')).to.equal(true)
  })

  it('§4: what is not known, or of another host, is left out and named', async () => {
    await using site = await startTestServer()
    const { accounts, problems } = await imported(site, `<server-data xmlns='urn:xmpp:pie:0' xmlns:v='vcard-temp'>
      <!-- a comment --><host jid='elsewhere.example'><user name='mercutio' password='x'/></host>
      <host jid='localhost'><user name='juliet' password='x'><v:vCard><v:FN>J</v:FN></v:vCard><roses xmlns='urn:example:roses'/><query xmlns='jabber:iq:roster'><item jid='@@'/><item jid='romeo@localhost' subscription='both'/></query></user></host></server-data>`)
    expect([accounts, problems]).to.deep.equal([1, ['elsewhere.example is not a host of this server', 'juliet@localhost: roses (urn:example:roses) is not known']])
    const found = await readAccount(site, 'x')
    expect(found['roster']).to.deep.equal(['<item jid="romeo@localhost" subscription="both"/>'])
    expect(String(found['vcard'])).to.contain('J')
  })

  it('§4.10: long archives come in parts, in order, and foreign ids are replaced', async () => {
    await using site = await startTestServer()
    const count = 230
    const results = Array.from({ length: count }, (_, at) => `<result xmlns='urn:xmpp:mam:2' id='${at % 2 === 0 ? `foreign-${at}` : '0'}'><forwarded xmlns='urn:xmpp:forward:0'><delay xmlns='urn:xmpp:delay' stamp='2020-01-02T03:04:05Z'/><message xmlns='jabber:client' from='romeo@localhost/orchard' to='juliet@localhost' type='chat'><body>${at}</body></message></forwarded></result>`).join('\n')
    expect((await imported(site, user('juliet', `<archive xmlns='urn:xmpp:pie:0#mam'>${results}</archive>`, " password='x'"))).problems).to.deep.equal([])
    const { items } = await site.server.storage.archive.query('juliet@localhost', { max: 1000, direction: 'forward', with: 'romeo@localhost' })
    expect(items.map((each) => Number(/<body>(\d+)/.exec(each.bytes.toString())?.[1]))).to.deep.equal(Array.from({ length: count }, (_, at) => at))
  })

  it('§4.9 §4.10: a file that is taken in again doubles no message, also of those that have been fetched', async () => {
    await using site = await startTestServer()
    const forwarded = (text: string, stamp = '2020-01-02T03:04:05Z'): string => `<forwarded xmlns='urn:xmpp:forward:0'><delay xmlns='urn:xmpp:delay' stamp='${stamp}'/><message xmlns='jabber:client' from='romeo@localhost/orchard' to='juliet@localhost' type='chat'><body>${text}</body></message></forwarded>`
    // Two that differ in their ids alone are two.
    const archive = [['1', 'once'], ['2', 'twice'], ['3', 'twice']].map(([id, text = '']) => `<result xmlns='urn:xmpp:mam:2' id='${id}'>${forwarded(text)}</result>`).join('')
    const away = ['one', 'two'].map((text) => `<message xmlns='jabber:client' from='romeo@localhost' type='chat'><body>${text}</body><delay xmlns='urn:xmpp:delay' stamp='2020-01-02T03:04:05Z'/></message>`).join('')
    const file = user('juliet', `<offline-messages>${away}</offline-messages><archive xmlns='urn:xmpp:pie:0#mam'>${archive}</archive>`, " password='x'")
    const { storage } = site.server
    const read = async (): Promise<(string | undefined)[][]> => {
      const { items } = await storage.archive.query('juliet@localhost', { max: 100, direction: 'forward', with: 'romeo@localhost' })
      const queued = await storage.offline.list('juliet@localhost', 100)
      return [items, queued].map((list) => list.map(({ bytes }) => /<body>(\w+)/.exec(bytes.toString())?.[1]))
    }
    for (let times = 0; times < 2; times++) {
      await imported(site, file)
      expect(await read()).to.deep.equal([['once', 'twice', 'twice'], ['one', 'two']])
    }
    await storage.offline.clear('juliet@localhost')
    await imported(site, file)
    expect(await read()).to.deep.equal([['once', 'twice', 'twice'], []])
    await site.server.unregister('juliet@localhost')
    await imported(site, file)
    expect(await read()).to.deep.equal([['once', 'twice', 'twice'], ['one', 'two']])
  })

  it('§4.6 §4.7: reads privacy lists as what is blocked, and requests of contacts', async () => {
    await using site = await startTestServer()
    await imported(site, user('juliet', `<query xmlns='jabber:iq:privacy'><default name='public'/><list name='public'><item type='jid' value='tybalt@example.com' action='deny' order='1'/><item type='jid' value='nurse@example.com' action='deny' order='2'><message/></item><item action='allow' order='3'/></list><list name='private'><item type='jid' value='romeo@localhost' action='deny' order='1'/></list></query>
      <presence xmlns='jabber:client' type='subscribe' id='xk3h1v69' from='romeo@montague.net'><nick xmlns='http://jabber.org/protocol/nick'>Romeo</nick></presence>`, " password='x'"))
    const found = await readAccount(site, 'x')
    expect([found['blocked'], found['requests']]).to.deep.equal([['<item jid="tybalt@example.com"/>'], ['romeo@montague.net']])
  })

  it('§4.8: personal nodes move with their configuration, their items and those who may see them', async () => {
    const config = `${TEST_CONFIG.replace(/ +mod_pubsub.*\n/, '')}  mod_pubsub: {plugins: [flat, pep]}\n`
    await using first = await startTestServer({ config, accounts: { juliet: PASSWORD, romeo: PASSWORD } })
    const juliet = await enter(first, 'juliet', 'balcony')
    const form = (name: string, value: string): string => `<field var='pubsub#${name}'><value>${value}</value></field>`
    for (const id of ['one', 'two &amp; three']) {
      await juliet.sendIq(`<iq type='set'><pubsub xmlns='http://jabber.org/protocol/pubsub'><publish node='urn:example:notes'><item id='${id}'><note xmlns='urn:example:notes'>&lt;${id}&gt;</note></item></publish><publish-options><x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE' type='hidden'><value>http://jabber.org/protocol/pubsub#publish-options</value></field>${form('access_model', 'whitelist')}${form('max_items', 'max')}${form('persist_items', 'true')}</x></publish-options></pubsub></iq>`)
    }
    await juliet.sendIq("<iq type='set'><pubsub xmlns='http://jabber.org/protocol/pubsub#owner'><affiliations node='urn:example:notes'><affiliation jid='romeo@localhost' affiliation='member'/></affiliations></pubsub></iq>")
    const seenBy = async (site: TestServer): Promise<string> => {
      const romeo = await enter(site, 'romeo', 'orchard')
      const answer = await romeo.sendIq("<iq type='get' to='juliet@localhost'><pubsub xmlns='http://jabber.org/protocol/pubsub'><items node='urn:example:notes'/></pubsub></iq>")
      await romeo.disconnect()
      return String(answer.getChild('pubsub'))
    }
    const configuration = async (site: TestServer): Promise<string> => {
      const owner = await enter(site, 'juliet', 'balcony')
      const answer = await owner.sendIq("<iq type='get'><pubsub xmlns='http://jabber.org/protocol/pubsub#owner'><configure node='urn:example:notes'/></pubsub></iq>")
      await owner.disconnect()
      return String(answer.getChild('pubsub'))
    }
    await juliet.disconnect()
    const { file } = await exportHosts(parts(first), dir, ['localhost'])
    await using second = await startTestServer({ config })
    expect(await importFile(parts(second), file)).to.deep.include({ accounts: 2, problems: [] })
    expect(await seenBy(second)).to.equal(await seenBy(first)).and.to.contain('two &amp; three')
    expect(await configuration(second)).to.equal(await configuration(first)).and.to.contain('whitelist')
  })

  it('§5: includes lead nowhere else, and not in circles', async () => {
    await using site = await startTestServer()
    const including = (href: string): string => `<server-data xmlns='urn:xmpp:pie:0' xmlns:xi='http://www.w3.org/2001/XInclude'><xi:include href='${href}'/></server-data>`
    const failure = async (text: string): Promise<string> => imported(site, text).then(() => 'none', (error: Error) => error.message)
    for (const href of ['../secret.xml', '/etc/passwd', 'file:///etc/passwd', '%2e%2e/secret.xml']) expect(await failure(including(href)), href).to.match(/outside|not supported/)
    expect(await failure(including('import.xml'))).to.match(/does not belong there/)
    expect(await failure("<server-data xmlns='urn:xmpp:pie:0'><host jid='localhost'>")).to.contain('ends in the middle')
    expect(await failure("<server-data xmlns='urn:xmpp:pie:0'></host>")).to.contain('not well-formed')
    expect(await failure('<html/>')).to.contain('no file of XEP-0227')
    expect(await failure('<!DOCTYPE server-data><server-data xmlns="urn:xmpp:pie:0"/>')).to.contain('ends in the middle')
  })
})
