import { expect } from 'chai'
import { adhoc } from './adhoc.ts'
import { disco } from './disco.ts'
import { conditionOf, fakeParts } from './fake-parts.ts'
import { register } from './register.ts'
import { serviceAdministration } from './service-administration.ts'

const NS = 'http://jabber.org/protocol/admin'
const host = 'example.net'
const bard = 'bard@example.net/globe'
const juliet = 'juliet@example.net'

describe('XEP-0133 service administration', () => {
  async function stage() {
    const fake = fakeParts()
    fake.start(disco)
    fake.start(adhoc)
    fake.start(serviceAdministration)
    for (const name of ['bard', 'juliet', 'romeo']) await fake.accounts.register(`${name}@example.net`, 'secret')
    const run = (node: string, fields?: Record<string, string | readonly string[]>, from = bard) => fake.ask(from, 'set', `<command xmlns='http://jabber.org/protocol/commands' node='${NS}#${node}'>${
      fields === undefined ? '' : `<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>${NS}</value></field>${Object.entries(fields).map(([name, values]) => `<field var='${name}'>${[values].flat().map((value) => `<value>${value}</value>`).join('')}</field>`).join('')}</x>`}</command>`, host)
    type Answer = Awaited<ReturnType<typeof run>>
    const values = (answer: Answer, name: string) => answer.getChild('command')?.getChild('x', 'jabber:x:data')?.getChildren('field').find((field) => field.attrs['var'] === name)?.getChildren('value').map((value) => value.getText())
    const status = (answer: Answer) => answer.getChild('command')?.attrs['status']
    return { fake, run, values, status }
  }

  it('§3: only for whom the rule admits', async () => {
    const { fake, run } = await stage()
    fake.allowed.rules = (rule) => rule !== 'configure'
    expect(conditionOf(await run('get-registered-users-num'))).to.equal('forbidden')
    const items = await fake.ask(bard, 'get', "<query xmlns='http://jabber.org/protocol/disco#items' node='http://jabber.org/protocol/commands'/>", host)
    expect(items.toString()).not.to.contain(NS)
  })

  it('§4.1 Add User', async () => {
    const { fake, run, values, status } = await stage()
    const form = await run('add-user')
    expect(status(form)).to.equal('executing')
    expect(values(form, 'FORM_TYPE')).to.deep.equal([NS])
    const user = { accountjid: 'nurse@example.net', password: 'R0m30', 'password-verify': 'R0m30' }
    expect(status(await run('add-user', user))).to.equal('completed')
    expect(await fake.accounts.checkPassword('nurse@example.net', 'R0m30')).to.equal(true)
    expect(conditionOf(await run('add-user', user))).to.equal('conflict')
    expect(conditionOf(await run('add-user', { ...user, accountjid: 'a@example.net', 'password-verify': 'x' }))).to.equal('bad-request')
    expect(conditionOf(await run('add-user', { ...user, accountjid: 'a@example.org' }))).to.equal('not-allowed')
    expect(conditionOf(await run('add-user', { ...user, accountjid: 'example.net' }))).to.equal('not-acceptable')
  })

  it('§4.2 Delete User: all of them or none', async () => {
    const { fake, run, status } = await stage()
    expect(conditionOf(await run('delete-user', { accountjids: [juliet, 'nobody@example.net'] }))).to.equal('item-not-found')
    expect(await fake.accounts.exists(juliet)).to.equal(true)
    expect(status(await run('delete-user', { accountjids: [juliet, 'romeo@example.net'] }))).to.equal('completed')
    expect(await fake.accounts.list(host)).to.deep.equal(['bard'])
  })

  it('§4.3 Disable User and §4.4 Re-Enable User, with their number (§4.14) and list (§4.19)', async () => {
    const { fake, run, values, status } = await stage()
    expect(conditionOf(await run('disable-user', { accountjids: [juliet, 'nobody@example.net'] }))).to.equal('item-not-found')
    expect(conditionOf(await run('disable-user', { accountjids: [juliet, 'bard@example.net'] }))).to.equal('not-allowed')
    expect(await fake.accounts.disabled(juliet)).to.equal(undefined)
    expect(status(await run('disable-user', { accountjids: [juliet, 'romeo@example.net'] }))).to.equal('completed')
    expect(values(await run('get-disabled-users-num'), 'disabledusersnum')).to.deep.equal(['2'])
    expect(values(await run('get-disabled-users-list', { max_items: 'none' }), 'disableduserjids')).to.deep.equal([juliet, 'romeo@example.net'])
    expect(status(await run('reenable-user', { accountjids: juliet }))).to.equal('completed')
    expect(values(await run('get-disabled-users-list', { max_items: 'none' }), 'disableduserjids')).to.deep.equal(['romeo@example.net'])
    await run('delete-user', { accountjids: 'romeo@example.net' })
    expect(values(await run('get-disabled-users-num'), 'disabledusersnum')).to.deep.equal(['0'])
  })

  it('§4.5 End User Session: one, or all of an account', async () => {
    const { fake, run, status } = await stage()
    const [a, b] = [fake.login(`${juliet}/a`), fake.login(`${juliet}/b`)]
    expect(conditionOf(await run('end-user-session', { accountjids: `${juliet}/c` }))).to.equal('item-not-found')
    expect(status(await run('end-user-session', { accountjids: `${juliet}/a` }))).to.equal('completed')
    expect([a.closed, b.closed]).to.deep.equal(['policy-violation', undefined])
    await run('end-user-session', { accountjids: juliet })
    expect(b.closed).to.equal('policy-violation')
  })

  it('§4.7 Change User Password', async () => {
    const { fake, run, status } = await stage()
    expect(status(await run('change-user-password', { accountjid: juliet, password: 'new one' }))).to.equal('completed')
    expect(await fake.accounts.checkPassword(juliet, 'new one')).to.equal(true)
    expect(conditionOf(await run('change-user-password', { accountjid: 'nobody@example.net', password: 'x' }))).to.equal('item-not-found')
  })

  it('§4.8 Get User Roster', async () => {
    const { fake, run } = await stage()
    fake.rosters.set(juliet, { jid: 'romeo@example.net', name: 'Romeo', subscription: 'both', ask: false, approved: false, groups: ['Friends'] })
    const form = (await run('get-user-roster', { accountjids: juliet })).getChild('command')?.getChild('x', 'jabber:x:data')
    expect(form?.attrs['type']).to.equal('result')
    expect(form?.getChild('query', 'jabber:iq:roster')?.toString()).to.contain('<item jid="romeo@example.net" name="Romeo" subscription="both"><group>Friends</group></item>')
  })

  it('§4.9 Get User Last Login Time: of who has logged in', async () => {
    const { fake, run, values } = await stage()
    fake.clock.now = Date.parse('2026-03-01T10:00:00Z')
    fake.login(`${juliet}/home`)
    fake.clock.now += 5000
    expect(values(await run('get-user-lastlogin', { accountjids: juliet }), 'lastlogin')).to.deep.equal(['2026-03-01T10:00:00.000Z'])
    const both = await run('get-user-lastlogin', { accountjids: ['romeo@example.net', juliet] })
    expect(values(both, 'accountjids')).to.deep.equal(['romeo@example.net', juliet])
    expect(values(both, 'lastlogin')).to.deep.equal(['never', '2026-03-01T10:00:00.000Z'])
    await fake.hooks.runAccountRemoved(juliet)
    expect(values(await run('get-user-lastlogin', { accountjids: juliet }), 'lastlogin')).to.deep.equal(['never'])
  })

  it('§4.27 and §4.28: the welcome message takes the place of the option, until that is changed', async () => {
    const { fake, run, values } = await stage()
    const option = { subject: 'Hi', body: 'Welcome' }
    fake.start(register, { welcome_message: option })
    expect(values(await run('set-welcome'), 'welcome')).to.deep.equal(['Welcome'])
    await run('set-welcome', { welcome: ['Welcome to', 'the Globe'] })
    expect(await fake.registrations.welcome()).to.deep.equal({ subject: '', body: 'Welcome to\nthe Globe' })
    const greeted = async (username: string) => {
      await fake.registrations.register({ username, password: 'secret', address: `192.0.2.${username.length}` })
      return fake.routed.splice(0).map((each) => each.element().getChildText('body'))
    }
    expect(await greeted('a')).to.deep.equal(['Welcome to\nthe Globe'])
    await run('delete-welcome')
    expect(await greeted('bb')).to.deep.equal([])
    const again = fakeParts()
    again.start(register, { welcome_message: option }, { storage: fake.storage })
    expect(await again.registrations.welcome()).to.deep.equal({ subject: '', body: '' })
    const changed = fakeParts()
    changed.start(register, { welcome_message: { ...option, body: 'Hello' } }, { storage: fake.storage })
    expect(await changed.registrations.welcome()).to.deep.equal({ subject: 'Hi', body: 'Hello' })
  })

  it('§4.29 Edit Admin List: who is on it may run the commands, and appoints nobody', async () => {
    const { fake, run, values } = await stage()
    fake.allowed.rules = () => false
    fake.parts.access.allows = (_rule, { jid }) => jid?.bare === 'bard@example.net'
    const home = `${juliet}/home`
    fake.login(home)
    expect(conditionOf(await run('get-registered-users-num', undefined, home))).to.equal('forbidden')
    expect(conditionOf(await run('edit-admin', { adminjids: 'nobody@example.net' }))).to.equal('item-not-found')
    expect(conditionOf(await run('edit-admin', { adminjids: 'juliet@example.org' }))).to.equal('not-allowed')
    await run('edit-admin', { adminjids: juliet })
    expect(values(await run('edit-admin'), 'adminjids')).to.deep.equal([juliet])
    expect(values(await run('get-registered-users-num', undefined, home), 'registeredusersnum')).to.deep.equal(['3'])
    expect(conditionOf(await run('edit-admin', undefined, home))).to.equal('forbidden')
    expect(conditionOf(await run('shutdown', undefined, home))).to.equal('forbidden')
    // The next owner of the name is another.
    await fake.hooks.runAccountRemoved(juliet)
    expect(conditionOf(await run('get-registered-users-num', undefined, home))).to.equal('forbidden')
    await run('edit-admin', { adminjids: juliet })
    await run('edit-admin', {})
    expect(conditionOf(await run('get-registered-users-num', undefined, home))).to.equal('forbidden')
  })

  it('§4.30 Restart and §4.31 Shut Down, for those who administer all hosts', async () => {
    const { fake, run, status } = await stage()
    expect(conditionOf(await run('shutdown', { delay: 'soon' }))).to.equal('bad-request')
    expect(status(await run('shutdown', { delay: '120', announcement: ['Please', 'log off'] }))).to.equal('completed')
    expect(status(await run('restart', {}))).to.equal('completed')
    expect(fake.ended).to.deep.equal([['stop', 120_000, 'Please\nlog off'], ['restart', 30_000, '']])
    const other = fakeParts('example.org')
    other.allowed.rules = () => false
    fake.parts.lifecycle!.hosts = () => ['example.net', 'example.org']
    expect(conditionOf(await run('shutdown'))).to.equal('forbidden')
    other.start(serviceAdministration, {}, { lasting: fake.parts.lasting })
    expect(conditionOf(await run('shutdown'))).to.equal('forbidden')
    other.allowed.rules = () => true
    expect(status(await run('shutdown'))).to.equal('executing')
  })

  it('where nothing ends the server there are no such commands', async () => {
    const fake = fakeParts()
    fake.start(disco)
    fake.start(serviceAdministration, {}, { lifecycle: undefined })
    const items = await fake.ask(bard, 'get', "<query xmlns='http://jabber.org/protocol/disco#items' node='http://jabber.org/protocol/commands'/>", host)
    expect(items.toString()).to.contain('#add-user').and.not.contain('#shutdown').and.not.contain('#restart')
  })

  it('§4.10 Get User Statistics', async () => {
    const { fake, run, values } = await stage()
    fake.login(`${juliet}/home`)
    fake.login(`${juliet}/away`)
    const answer = await run('user-stats', { accountjid: juliet })
    expect(values(answer, 'onlineresources')).to.deep.equal(['away', 'home'])
    expect(values(answer, 'ipaddresses')).to.deep.equal(['192.0.2.1'])
    expect(values(answer, 'rostersize')).to.deep.equal(['0'])
  })

  it('§4.13 to §4.22: numbers and lists', async () => {
    const { fake, run, values } = await stage()
    fake.login(`${juliet}/home`)
    fake.login('romeo@example.net/phone').active = false
    expect(values(await run('get-registered-users-num'), 'registeredusersnum')).to.deep.equal(['3'])
    expect(values(await run('get-online-users-num'), 'onlineusersnum')).to.deep.equal(['2'])
    expect(values(await run('get-active-users-num'), 'activeusersnum')).to.deep.equal(['1'])
    expect(values(await run('get-idle-users-num'), 'idleusersnum')).to.deep.equal(['1'])
    expect(values(await run('get-online-users-list', { max_items: '25' }), 'onlineuserjids')).to.deep.equal([juliet, 'romeo@example.net'])
    expect(values(await run('get-active-users', { max_items: 'none' }), 'activeuserjids')).to.deep.equal([juliet])
    expect(values(await run('get-idle-users', { max_items: 'none' }), 'activeuserjids')).to.deep.equal(['romeo@example.net'])
    const cut = await run('get-registered-users-list', { max_items: '2' })
    expect(values(cut, 'registereduserjids')).to.deep.equal(['bard@example.net', juliet])
    expect(cut.getChild('command')?.getChildText('note')).to.equal('2 of 3')
    expect(conditionOf(await run('get-registered-users-list', { max_items: 'many' }))).to.equal('bad-request')
  })
})
