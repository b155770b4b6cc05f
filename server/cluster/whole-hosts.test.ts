/** What belongs to a host as a whole, asked for at any of several nodes. */
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { request } from 'node:https'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { expect } from 'chai'
import type { Client } from '../../lib/client/client.ts'
import type { Element } from '../../lib/xml/element.ts'
import { type Admin, createAdmin } from '../admin/admin.ts'
import { TEST_CONFIG } from '../test-server.ts'
import { runCommand, Sites, until, valuesOf } from './sites.fixture.ts'

const ADMIN = 'http://jabber.org/protocol/admin'
const CONFIG = TEST_CONFIG.replace('  mod_bosh: {}\n', '').replace('mod_mam: { default: always }', 'mod_mam: { default: always, expire: 1 ms }\n  mod_muc: {}')
  .replace('access_rules:', 'acl: { admin: { user: [romeo@localhost] } }\naccess_rules:\n  configure: { allow: admin }')
  .replace('put_url: "https://@HOST@:5443/upload"', 'put_url: "https://files.example/upload"')
  .replace('mod_vcard: {}', 'mod_vcard: { search: true, allow_return_all: true }')

interface Timer {
  readonly everyMs: number
  readonly run: () => void
}

/** Notes what is to be done from time to time, for a test that does not wait for so long. */
function keepTimers(): { readonly next: () => void; readonly end: () => Timer[][] } {
  const { setInterval: real } = globalThis
  const all: Timer[][] = []
  globalThis.setInterval = ((run: () => void, everyMs: number) => {
    all.at(-1)?.push({ everyMs, run })
    return real(run, everyMs)
  }) as typeof real
  return {
    next: () => { all.push([]) },
    end() {
      globalThis.setInterval = real
      return all
    },
  }
}

describe('a host of several nodes', () => {
  let sites: Sites
  /** The timers of each node. */
  let timers: readonly (readonly Timer[])[]
  let laterMs = 0

  beforeEach(async () => {
    laterMs = 0
    const kept = keepTimers()
    try {
      sites = await Sites.start(['a', 'b', 'c'], CONFIG, kept.next, () => Date.now() + laterMs)
    } finally {
      timers = kept.end()
    }
    for (const name of ['romeo', 'juliet', 'mercutio']) await sites.register(name)
  })
  afterEach(() => sites[Symbol.asyncDispose]())

  const message = (body: string) => (element: Element): boolean => element.getName() === 'message' && element.getChildText('body') === body

  describe('invites (XEP-0401)', () => {
    const tokenOf = (uri: string): string => /preauth=(\w+)/.exec(uri)?.[1] ?? ''

    it('at any node to an account that is made at another, and both become contacts', async () => {
      for (const [inviting, making] of [[0, 1], [1, 2], [2, 0]] as const) {
        const name = `nurse${inviting}`
        const inviter = await sites.login(inviting, 'juliet')
        await inviter.sendIq("<iq type='get'><query xmlns='jabber:iq:roster'/></iq>")
        const invited = await runCommand(inviter, 'urn:xmpp:invite#create-account', { 'roster-subscription': '1' })
        const token = tokenOf(valuesOf(invited, 'uri')[0] ?? '')
        const stranger = await sites.stranger(making)
        expect(await stranger(`<preauth xmlns='urn:xmpp:pars:0' token='${token}'/>`)).to.equal('result')
        expect(await stranger(`<query xmlns='jabber:iq:register'><username>${name}</username><password>secret</password></query>`)).to.equal('result')
        await inviter.receive((element) => element.getName() === 'iq' && element.getChild('query')?.getChild('item')?.attrs['jid'] === `${name}@localhost`)
        const nurse = await sites.login(sites.homeOf(`${name}@localhost`), name)
        const roster = await nurse.sendIq("<iq type='get'><query xmlns='jabber:iq:roster'/></iq>")
        expect(roster.getChild('query')?.getChildren('item').map(({ attrs }) => [attrs['jid'], attrs['subscription']])).to.deep.equal([['juliet@localhost', 'both']])
        // It is good once.
        const other = await sites.stranger(making)
        expect(await other(`<preauth xmlns='urn:xmpp:pars:0' token='${token}'/>`)).to.equal('item-not-found')
        await inviter.disconnect()
        for (const { node } of sites.sites) if (node.isHere('juliet@localhost')) node.release('juliet@localhost')
      }
    })

    it('to two who want the same one at different nodes: one gets it', async () => {
      const inviter = await sites.login(0, 'juliet')
      const token = tokenOf(valuesOf(await runCommand(inviter, 'urn:xmpp:invite#create-account', {}), 'uri')[0] ?? '')
      const strangers = await Promise.all([1, 2].map(async (index) => {
        const stranger = await sites.stranger(index)
        expect(await stranger(`<preauth xmlns='urn:xmpp:pars:0' token='${token}'/>`)).to.equal('result')
        return stranger
      }))
      const made = await Promise.all(strangers.map((stranger, index) => stranger(`<query xmlns='jabber:iq:register'><username>new${index}</username><password>secret</password></query>`)))
      expect(made.toSorted()).to.deep.equal(['not-allowed', 'result'])
      const { accounts } = sites.at(0).site.server
      expect([await accounts.exists('new0@localhost'), await accounts.exists('new1@localhost')].filter(Boolean)).to.have.length(1)
    })

    it('contacts with a token that another node keeps (XEP-0379)', async () => {
      for (const [inviting, asking] of [[1, 0], [2, 1], [0, 2]] as const) {
        const juliet = await sites.login(inviting, 'juliet')
        const token = tokenOf(valuesOf(await runCommand(juliet, 'urn:xmpp:invite#invite'), 'uri')[0] ?? '')
        const romeo = await sites.login(asking, 'romeo')
        romeo.send(`<presence type='subscribe' to='juliet@localhost'><preauth xmlns='urn:xmpp:pars:0' token='${token}'/></presence>`)
        await romeo.receive((element) => element.getName() === 'presence' && element.attrs['type'] === 'subscribed')
        await romeo.receive((element) => element.getName() === 'presence' && element.attrs['type'] === 'subscribe')
        await romeo.sendIq("<iq type='set'><query xmlns='jabber:iq:roster'><item jid='juliet@localhost' subscription='remove'/></query></iq>")
        await juliet.sendIq("<iq type='set'><query xmlns='jabber:iq:roster'><item jid='romeo@localhost' subscription='remove'/></query></iq>")
        await Promise.all([romeo.disconnect(), juliet.disconnect()])
        for (const { node } of sites.sites) for (const name of ['romeo', 'juliet']) if (node.isHere(`${name}@localhost`)) node.release(`${name}@localhost`)
      }
    })

    it('again when the node that was making the account has died before that was made', async () => {
      const keeping = sites.homeOf('localhost')
      const [making, other] = [0, 1, 2].filter((index) => index !== keeping) as [number, number]
      const inviter = await sites.login(other, 'juliet')
      const token = tokenOf(valuesOf(await runCommand(inviter, 'urn:xmpp:invite#create-account', { username: 'nurse' }), 'uri')[0] ?? '')
      const preauth = `<preauth xmlns='urn:xmpp:pars:0' token='${token}'/>`
      const register = "<query xmlns='jabber:iq:register'><username>nurse</username><password>secret</password></query>"
      const stranger = await sites.stranger(making)
      expect(await stranger(preauth)).to.equal('result')
      const { records } = sites.at(keeping).node.storage
      const isUsed = async (): Promise<boolean> => (await records.range('invites', ['localhost'])).some(({ value }) => (value as { used: string }).used === 'nurse@localhost')
      sites.all.delayMs = 200
      void stranger(register).catch(() => undefined)
      await until(async () => await isUsed() || undefined)
      sites.all.kill(sites.at(making).node)
      sites.all.delayMs = 0
      expect(await sites.at(other).site.server.accounts.exists('nurse@localhost')).to.equal(false)
      const again = await sites.stranger(other)
      expect(await again(preauth)).to.equal('item-not-found')
      laterMs = 61_000
      expect(await again(preauth)).to.equal('result')
      expect(await again(register)).to.equal('result')
      laterMs = 200_000
      expect(await (await sites.stranger(other))(preauth)).to.equal('item-not-found')
    })

    it('also when the node that kept them has died', async () => {
      const dying = sites.homeOf('localhost')
      const [first, second] = [0, 1, 2].filter((index) => index !== dying) as [number, number]
      const inviter = await sites.login(first, 'juliet')
      const token = tokenOf(valuesOf(await runCommand(inviter, 'urn:xmpp:invite#create-account', {}), 'uri')[0] ?? '')
      sites.all.kill(sites.at(dying).node)
      const stranger = await sites.stranger(second)
      expect(await stranger(`<preauth xmlns='urn:xmpp:pars:0' token='${token}'/>`)).to.equal('result')
      expect(await stranger("<query xmlns='jabber:iq:register'><username>nurse</username><password>secret</password></query>")).to.equal('result')
      expect(await sites.at(first).site.server.accounts.exists('nurse@localhost')).to.equal(true)
    })
  })

  describe('announces (XEP-0133)', () => {
    it('to who is online at any node, and counts them', async () => {
      const romeo = await sites.login(0, 'romeo')
      const juliet = await sites.login(1, 'juliet')
      const mercutio = await sites.login(2, 'mercutio')
      const told = await runCommand(romeo, `${ADMIN}#announce`, { announcement: 'We stop soon' })
      expect(told.getChild('command')?.getChildText('note')).to.equal('Sent to 3 clients')
      for (const client of [romeo, juliet, mercutio]) await client.receive(message('We stop soon'))
    })

    it('to all, once each, wherever they are at home or not at all', async () => {
      const juliet = await sites.login(1, 'juliet')
      const romeo = await sites.login(2, 'romeo')
      const heard: string[] = []
      for (const client of [romeo, juliet]) client.on((stanza) => { if (stanza.name === 'message') heard.push(client.jid) })
      await runCommand(romeo, `${ADMIN}#announce-all`, { announcement: 'Come all' })
      await romeo.receive(message('Come all'))
      await juliet.receive(message('Come all'))
      const home = await until(() => { const at = sites.homeOf('mercutio@localhost'); return at === -1 ? undefined : at })
      const mercutio = await sites.login(home, 'mercutio')
      await mercutio.receive(message('Come all'))
      await romeo.ping()
      await juliet.ping()
      expect(heard.toSorted()).to.deep.equal([juliet.jid, romeo.jid])
    })

    it('the message of the day at every node, once to each, and no more when it is deleted', async () => {
      const romeo = await sites.login(0, 'romeo')
      const juliet = await sites.login(1, 'juliet')
      await runCommand(romeo, `${ADMIN}#set-motd`, { motd: 'Carpe diem' })
      await juliet.receive(message('Carpe diem'))
      const mercutio = await sites.login(2, 'mercutio')
      await mercutio.receive(message('Carpe diem'))
      const edited = await sites.login(1, 'juliet', { resource: 'again' })
      const heard: string[] = []
      edited.on((stanza) => { if (stanza.name === 'message') heard.push(stanza.toString()) })
      await edited.ping()
      expect(heard).to.deep.equal([])
      await runCommand(romeo, `${ADMIN}#delete-motd`)
      await sites.register('nurse')
      const nurse = await sites.login(2, 'nurse')
      nurse.on((stanza) => { if (stanza.name === 'message') heard.push(stanza.toString()) })
      await nurse.ping()
      expect(heard).to.deep.equal([])
    })

    it('the message of the day at a node that has joined since', async () => {
      const romeo = await sites.login(0, 'romeo')
      await runCommand(romeo, `${ADMIN}#set-motd`, { motd: 'Carpe diem' })
      await using later = await Sites.joining(sites, 'd', CONFIG)
      const mercutio = await later.login(3, 'mercutio')
      await mercutio.receive(message('Carpe diem'))
    })
  })

  describe('is administered', () => {
    /** The operator's commands, at one of the nodes. */
    function adminAt(index: number): Admin {
      const { server } = sites.at(index).site
      return createAdmin({
        hosts: () => ['localhost'], accounts: server.accounts,
        register: (jid, password) => server.register(jid, password), unregister: (jid) => server.unregister(jid),
        moving: { accounts: server.accounts, register: (jid, password) => server.register(jid, password), accountData: () => server.accountData, committed: () => server.storage.committed() },
        running: { sessions: server.everySession, status: () => server.status(), stop() {}, restart: async () => {}, stopKindly() {}, reload: async () => [], unban: (address) => server.unban(address), operation: async (host, name, args) => server.hosts.get(host)?.operations.run(name, args) },
      })
    }
    const lines = async (index: number, name: string, ...args: readonly string[]): Promise<readonly string[]> => {
      const { code, lines: answer } = await adminAt(index).run(name, args)
      expect(code, answer.join('\n')).to.equal(0)
      return answer
    }

    it('by operators at any node: accounts whose homes are elsewhere', async () => {
      const juliet = await sites.login(1, 'juliet')
      expect((await adminAt(0).run('register', ['juliet', 'localhost', 'x'])).lines).to.deep.equal(['Error: User juliet@localhost already registered'])
      expect((await adminAt(0).run('check_password', ['juliet', 'localhost', 'secret'])).code).to.equal(0)
      expect((await adminAt(0).run('check_password', ['juliet', 'localhost', 'other'])).code).to.equal(1)
      await lines(2, 'change_password', 'juliet', 'localhost', 'new secret')
      expect((await adminAt(0).run('check_password', ['juliet', 'localhost', 'new secret'])).code).to.equal(0)
      await lines(0, 'ban_account', 'juliet', 'localhost', 'spam')
      await juliet.closed
      expect((await lines(2, 'get_ban_details', 'juliet', 'localhost'))[1]).to.equal('reason\tspam')
      const refused = await sites.login(1, 'juliet', { password: 'new secret' }).catch((error: unknown) => error)
      expect(String(refused)).to.match(/account-disabled/)
      await lines(0, 'unban_account', 'juliet', 'localhost')
      await sites.login(1, 'juliet', { password: 'new secret' })
      await lines(2, 'unregister', 'juliet', 'localhost')
      for (const index of [0, 1, 2]) {
        expect((await adminAt(index).run('check_account', ['juliet', 'localhost'])).code).to.equal(1)
        expect(await lines(index, 'registered_users', 'localhost')).to.deep.equal(['mercutio', 'romeo'])
        expect(await lines(index, 'stats', 'registeredusers')).to.deep.equal(['2'])
      }
    })

    it('by operators at any node: sessions of all', async () => {
      const clients = [await sites.login(0, 'romeo'), await sites.login(1, 'juliet'), await sites.login(2, 'mercutio')]
      const phone = await sites.login(1, 'juliet', { resource: 'phone' })
      for (const index of [0, 1, 2]) {
        expect(await lines(index, 'connected_users')).to.deep.equal(['juliet@localhost/phone', 'juliet@localhost/r', 'mercutio@localhost/r', 'romeo@localhost/r'])
        expect(await lines(index, 'connected_users_vhost', 'localhost')).to.have.length(4)
        expect(await lines(index, 'stats', 'onlineusers')).to.deep.equal(['4'])
        expect(await lines(index, 'user_resources', 'juliet', 'localhost')).to.deep.equal(['phone', 'r'])
      }
      await lines(0, 'kick_session', 'juliet', 'localhost', 'phone', 'enough')
      await phone.closed
      expect(await lines(2, 'kick_user', 'juliet', 'localhost')).to.deep.equal(['1'])
      await clients[1]?.closed
      expect(await lines(0, 'connected_users_number')).to.deep.equal(['2'])
    })

    it('by operators at any node: what accounts have is written and read at their homes (XEP-0227)', async () => {
      const dir = await mkdtemp(path.join(tmpdir(), 'tidings-'))
      try {
        const juliet = await sites.login(1, 'juliet')
        await juliet.sendIq("<iq type='set'><vCard xmlns='vcard-temp'><FN>Juliet Capulet</FN></vCard></iq>")
        for (let i = 0; i < 40; i++) juliet.send(`<message type='chat' to='romeo@localhost'><body>${'x'.repeat(20_000)} ${i}</body></message>`)
        await juliet.ping()
        const file = path.join(dir, 'juliet.xml')
        await lines(0, 'export_piefxis_user', file, 'juliet', 'localhost')
        const text = await readFile(file, 'utf8')
        expect(text).to.contain('Juliet Capulet')
        for (const i of [0, 39]) expect(text).to.contain(` ${i}</body>`)
        await lines(2, 'unregister', 'juliet', 'localhost')
        await sites.at(2).site.server.register('juliet@localhost', 'secret')
        await lines(0, 'import_piefxis', file)
        const again = await sites.login(sites.homeOf('juliet@localhost'), 'juliet')
        expect((await again.sendIq("<iq type='get'><vCard xmlns='vcard-temp'/></iq>")).getChild('vCard')?.getChildText('FN')).to.equal('Juliet Capulet')
      } finally {
        await rm(dir, { recursive: true })
      }
    })

    it('by the commands of clients at any node (XEP-0133)', async () => {
      const romeo = await sites.login(0, 'romeo')
      const juliet = await sites.login(1, 'juliet')
      const count = async (name: string): Promise<readonly string[]> => valuesOf(await runCommand(romeo, `${ADMIN}#get-${name}-num`), `${name.replaceAll('-', '')}num`)
      const list = async (node: string, field: string): Promise<readonly string[]> => valuesOf(await runCommand(romeo, `${ADMIN}#${node}`, { max_items: 'none' }), field)
      expect([await count('registered-users'), await count('online-users'), await count('active-users')]).to.deep.equal([['3'], ['2'], ['2']])
      expect(await list('get-registered-users-list', 'registereduserjids')).to.deep.equal(['juliet@localhost', 'mercutio@localhost', 'romeo@localhost'])
      expect(await list('get-online-users-list', 'onlineuserjids')).to.deep.equal(['juliet@localhost', 'romeo@localhost'])
      await juliet.sendIq("<iq type='set'><query xmlns='jabber:iq:roster'><item jid='nurse@example.org'/></query></iq>")
      const user = await runCommand(romeo, `${ADMIN}#user-stats`, { accountjid: 'juliet@localhost' })
      expect([valuesOf(user, 'rostersize'), valuesOf(user, 'onlineresources'), valuesOf(user, 'lastlogin')[0] === 'never']).to.deep.equal([['1'], ['r'], false])
      const roster = await runCommand(romeo, `${ADMIN}#get-user-roster`, { accountjids: 'juliet@localhost' })
      expect(roster.toString()).to.contain("nurse@example.org")
      await runCommand(romeo, `${ADMIN}#end-user-session`, { accountjids: 'juliet@localhost' })
      await juliet.closed
      await runCommand(romeo, `${ADMIN}#add-user`, { accountjid: 'nurse@localhost', password: 'secret', 'password-verify': 'secret' })
      await runCommand(romeo, `${ADMIN}#delete-user`, { accountjids: ['juliet@localhost', 'nurse@localhost'] })
      expect(await list('get-registered-users-list', 'registereduserjids')).to.deep.equal(['mercutio@localhost', 'romeo@localhost'])
      await runCommand(romeo, `${ADMIN}#edit-admin`, { adminjids: 'mercutio@localhost' })
      const mercutio = await sites.login(sites.homeOf('mercutio@localhost'), 'mercutio')
      expect(valuesOf(await runCommand(mercutio, `${ADMIN}#get-online-users-num`), 'onlineusersnum')).to.deep.equal(['2'])
    })

    it('and the directory finds who is at any node, or at none (XEP-0055)', async () => {
      for (const [index, name] of ['romeo', 'juliet', 'mercutio'].entries()) {
        const client = await sites.login(index, name)
        await client.sendIq(`<iq type='set'><vCard xmlns='vcard-temp'><FN>${name} of Verona</FN></vCard></iq>`)
        await client.disconnect()
        sites.at(index).node.release(`${name}@localhost`)
      }
      const romeo = await sites.login(0, 'romeo')
      const found = async (text: string): Promise<readonly string[]> => {
        const answer = await romeo.sendIq(`<iq type='set' to='vjud.localhost'><query xmlns='jabber:iq:search'><x xmlns='jabber:x:data' type='submit'><field var='fn'><value>${text}</value></field></x></query></iq>`)
        return answer.getChild('query')?.getChild('x')?.getChildren('item').map((item) => item.getChildren('field').find((field) => field.attrs['var'] === 'jid')?.getChildText('value') ?? '') ?? []
      }
      expect(await found('*verona')).to.deep.equal(['juliet@localhost', 'mercutio@localhost', 'romeo@localhost'])
      expect(await found('jul*')).to.deep.equal(['juliet@localhost'])
    })
  })

  describe('lists rooms', () => {
    async function open(client: Client, name: string): Promise<void> {
      client.send(`<presence to='${name}@conference.localhost/${client.jid.split('@')[0]}'><x xmlns='http://jabber.org/protocol/muc'/></presence>`)
      await client.receive((element) => element.getName() === 'message' && element.getChild('subject') !== undefined)
      await client.sendIq(`<iq type='set' to='${name}@conference.localhost'><query xmlns='http://jabber.org/protocol/muc#owner'><x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>http://jabber.org/protocol/muc#roomconfig</value></field><field var='muc#roomconfig_persistentroom'><value>1</value></field><field var='muc#roomconfig_roomname'><value>Room ${name}</value></field></x></query></iq>`)
    }
    const leave = async (client: Client, name: string): Promise<void> => {
      client.send(`<presence type='unavailable' to='${name}@conference.localhost/${client.jid.split('@')[0]}'/>`)
      await client.receive((element) => element.getName() === 'presence' && element.attrs['type'] === 'unavailable' && element.attrs['from'] === `${address(name)}/${client.jid.split('@')[0]}`)
    }
    const names = ['apple', 'birch', 'cedar', 'date', 'elm', 'fig']
    const items = (answer: Element): readonly (string | undefined)[] => answer.getChild('query')?.getChildren('item').map(({ attrs }) => attrs['jid']) ?? []
    const address = (name: string): string => `${name}@conference.localhost`

    beforeEach(async () => {
      for (const [index, user] of ['romeo', 'juliet', 'mercutio'].entries()) {
        const client = await sites.login(index, user)
        for (const name of names.slice(index * 2, index * 2 + 2)) await open(client, name)
      }
    })

    it('of all nodes at each, page by page (XEP-0059), and not those that are gone', async () => {
      const clients = await Promise.all(['romeo', 'juliet', 'mercutio'].map((user, index) => sites.login(index, user, { resource: 'reader' })))
      const list = (client: Client, page = ''): Promise<Element> => client.sendIq(`<iq type='get' to='conference.localhost'><query xmlns='http://jabber.org/protocol/disco#items'>${page}</query></iq>`)
      for (const client of clients) {
        expect(items(await list(client))).to.deep.equal(names.map(address))
        const page = await list(client, `<set xmlns='http://jabber.org/protocol/rsm'><max>2</max><after>${address('birch')}</after></set>`)
        expect([items(page), page.getChild('query')?.getChild('set')?.getChildText('count')]).to.deep.equal([['cedar', 'date'].map(address), '6'])
      }
      await clients[1]?.sendIq(`<iq type='set' to='${address('cedar')}'><query xmlns='http://jabber.org/protocol/muc#owner'><destroy/></query></iq>`)
      for (const client of clients) await until(async () => items(await list(client)).length === 5 ? true : undefined)
    })

    it('that nobody has in memory, and searches all (XEP-0433)', async () => {
      const juliet = await sites.login(1, 'juliet', { resource: 'reader' })
      const there = await sites.login(0, 'romeo', { resource: 'r' })
      for (const name of ['apple', 'birch']) {
        there.send(`<presence to='${address(name)}/romeo'><x xmlns='http://jabber.org/protocol/muc'/></presence>`)
        await there.receive((element) => element.getName() === 'message' && element.getChild('subject') !== undefined)
        await leave(there, name)
      }
      // What is on its way to them would have them claimed again.
      await new Promise((resolve) => { setTimeout(resolve, 50) })
      for (const name of ['apple', 'birch']) sites.at(sites.homeOf(address(name))).node.release(address(name))
      expect([sites.homeOf(address('apple')), sites.homeOf(address('birch'))]).to.deep.equal([-1, -1])
      const found = await until(async () => {
        const answer = await juliet.sendIq("<iq type='get' to='conference.localhost'><search xmlns='urn:xmpp:channel-search:0:search'><x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>urn:xmpp:channel-search:0:search-params</value></field><field var='q'><value>room</value></field><field var='key'><value>{urn:xmpp:channel-search:0:order}nusers</value></field></x></search></iq>")
        const rooms = answer.getChild('result')?.getChildren('item').map((item) => `${item.attrs['address']?.split('@')[0]} ${item.getChildText('nusers')}`) ?? []
        return rooms.includes('birch 0') ? rooms : undefined
      })
      expect(found).to.deep.equal(['cedar 1', 'date 1', 'elm 1', 'fig 1', 'apple 0', 'birch 0'])
    })
  })

  it('has its daily jobs done once for each account, at its home or where it is nobody\'s', async () => {
    for (const [index, name] of ['romeo', 'juliet', 'mercutio'].entries()) {
      const client = await sites.login(index, name)
      client.send(`<message type='chat' to='${name}@localhost'><body>note</body></message>`)
      await client.receive(message('note'))
      if (index === 2) {
        await client.disconnect()
        sites.at(2).node.release(`${name}@localhost`)
      }
    }
    const count = async (name: string): Promise<number> => (await sites.at(0).site.server.storage.archive.query(`${name}@localhost`, { max: 5, direction: 'forward' })).items.length
    expect([await count('romeo'), await count('juliet'), await count('mercutio')]).to.deep.equal([1, 1, 1])
    await new Promise((resolve) => { setTimeout(resolve, 5) })
    const keeper = sites.homeOf('localhost')
    for (const [index, jobs] of timers.entries()) if (index !== keeper) for (const { run, everyMs } of jobs) if (everyMs === 3_600_000) run()
    await new Promise((resolve) => { setTimeout(resolve, 100) })
    expect([await count('romeo'), await count('juliet'), await count('mercutio')]).to.deep.equal([1, 1, 1])
    for (const { run, everyMs } of timers[keeper] ?? []) if (everyMs === 3_600_000) run()
    await until(async () => (await count('romeo')) + (await count('juliet')) + (await count('mercutio')) === 0 ? true : undefined)
  })

  describe('takes files (XEP-0363)', () => {
    it('in slots that any node gives, and hands them out at every node', async () => {
      for (const index of [0, 1, 2]) {
        const name = ['romeo', 'juliet', 'mercutio'][index] as string
        const client = await sites.login(index, name)
        const answer = await client.sendIq("<iq type='get' to='upload.localhost'><request xmlns='urn:xmpp:http:upload:0' filename='a.txt' size='5'/></iq>")
        const slot = answer.getChild('slot') as Element
        const path = (kind: string): string => new URL(slot.getChild(kind)?.attrs['url'] as string).pathname
        expect(await http((index + 1) % 3, 'PUT', path('put'), 'hello')).to.deep.equal([201, ''])
        for (const reader of [0, 1, 2]) expect(await http(reader, 'GET', path('get'))).to.deep.equal([200, 'hello'])
        expect((await http(2, 'PUT', path('put'), 'other'))[0]).to.equal(409)
        expect((await http(index, 'GET', `${path('get')}x`))[0]).to.equal(404)
      }
    })

    it('one in a slot, also when two nodes are given one at the same moment', async () => {
      const client = await sites.login(1, 'juliet')
      for (let round = 0; round < 3; round++) {
        const answer = await client.sendIq("<iq type='get' to='upload.localhost'><request xmlns='urn:xmpp:http:upload:0' filename='a.txt' size='5'/></iq>")
        const path = new URL(answer.getChild('slot')?.getChild('put')?.attrs['url'] as string).pathname
        const texts = ['first', 'other', 'third']
        const answers = await Promise.all(texts.map((text, index) => http(index, 'PUT', path, text)))
        expect(answers.map(([status]) => status)).to.have.members([201, 409, 409])
        const stays = texts[answers.findIndex(([status]) => status === 201)]
        for (const reader of [0, 1, 2]) expect(await http(reader, 'GET', path)).to.deep.equal([200, stays])
      }
    })

    it('and those of an account that is removed go', async () => {
      const client = await sites.login(1, 'juliet')
      const answer = await client.sendIq("<iq type='get' to='upload.localhost'><request xmlns='urn:xmpp:http:upload:0' filename='a.txt' size='5'/></iq>")
      const path = new URL(answer.getChild('slot')?.getChild('put')?.attrs['url'] as string).pathname
      expect((await http(0, 'PUT', path, 'hello'))[0]).to.equal(201)
      await sites.at(2).site.server.unregister('juliet@localhost')
      expect((await http(0, 'GET', path))[0]).to.equal(404)
    })
  })

  function http(index: number, method: string, path: string, body?: string): Promise<[number, string]> {
    const { site } = sites.at(index)
    const port = site.server.ports.find(({ module, tls }) => module === 'ejabberd_http' && tls)?.port as number
    return new Promise((resolve, reject) => {
      const sent = request({ host: '127.0.0.1', port, method, path, rejectUnauthorized: false, headers: body === undefined ? {} : { 'Content-Length': body.length } }, (response) => {
        let text = ''
        response.on('data', (chunk: Buffer) => { text += chunk.toString() })
        response.on('end', () => { resolve([response.statusCode as number, text]) })
      })
      sent.on('error', reject)
      sent.end(body)
    })
  }
})
