import { expect } from 'chai'
import type { Session } from '../sessions/session.ts'
import { adhoc } from './adhoc.ts'
import { announcements } from './announcements.ts'
import { conditionOf, fakeParts } from './fake-parts.ts'

const NS = 'http://jabber.org/protocol/admin'
const host = 'example.net'
const bard = 'bard@example.net/globe'

describe('XEP-0133 announcements', () => {
  async function stage() {
    const fake = fakeParts()
    fake.start(adhoc)
    fake.start(announcements, { access: 'announce' })
    for (const name of ['juliet', 'romeo']) await fake.accounts.register(`${name}@example.net`, 'secret')
    const run = (node: string, fields?: Record<string, string>) => fake.ask(bard, 'set', `<command xmlns='http://jabber.org/protocol/commands' node='${NS}#${node}'>${
      fields === undefined ? '' : `<x xmlns='jabber:x:data' type='submit'>${Object.entries(fields).map(([name, text]) => `<field var='${name}'>${text.split('\n').map((line) => `<value>${line}</value>`).join('')}</field>`).join('')}</x>`}</command>`, host)
    const sent = () => fake.routed.splice(0).map((each) => `${each.type} ${each.to} ${each.element().getChildText('body')}`)
    const arrives = (full: string, first = true) => {
      const session = fake.login(full)
      fake.hooks.runAvailable(session as unknown as Session, session.presence!, first)
      return session
    }
    return { fake, run, sent, arrives }
  }

  it('§4.23: goes to those who are online, with its lines', async () => {
    const { fake, run, sent } = await stage()
    fake.login('juliet@example.net/a')
    expect((await run('announce')).getChild('command')?.getChild('x', 'jabber:x:data')?.getChildren('field').map((field) => field.attrs['var'])).to.deep.equal(['FORM_TYPE', 'subject', 'announcement'])
    await run('announce', { subject: 'Soon', announcement: 'Down\nat noon' })
    expect(fake.routed[0]?.from).to.equal(host)
    expect(fake.routed[0]?.element().getChildText('subject')).to.equal('Soon')
    expect(sent()).to.deep.equal(['headline juliet@example.net/a Down\nat noon'])
    fake.allowed.rules = (rule) => rule !== 'announce'
    expect(conditionOf(await run('announce', { announcement: 'x' }))).to.equal('forbidden')
  })

  it('announce-all goes to every account, online or not', async () => {
    const { run, sent } = await stage()
    await run('announce-all', { announcement: 'Hello' })
    await new Promise((resolve) => setImmediate(resolve))
    expect(sent()).to.deep.equal(['normal juliet@example.net Hello', 'normal romeo@example.net Hello'])
  })

  it('§4.24: the message of the day goes out at once, and to everybody else at the next login, once', async () => {
    const { fake, run, sent, arrives } = await stage()
    fake.login('juliet@example.net/a')
    fake.login('juliet@example.net/b')
    await run('set-motd', { motd: 'Tonight' })
    expect(sent()).to.deep.equal(['normal juliet@example.net/a Tonight'])
    arrives('juliet@example.net/c')
    arrives('romeo@example.net/a', false)
    expect(sent()).to.deep.equal([])
    arrives('romeo@example.net/b')
    arrives('romeo@example.net/c')
    expect(sent()).to.deep.equal(['normal romeo@example.net/b Tonight'])
  })

  it('§4.24: it is there after a restart, and who has had it is known', async () => {
    const { fake, run, sent } = await stage()
    fake.login('juliet@example.net/a')
    await run('set-motd', { motd: 'Tonight' })
    sent()
    const again = fakeParts()
    again.start(announcements, {}, { storage: fake.storage })
    for (const full of ['juliet@example.net/b', 'romeo@example.net/b']) {
      const session = again.login(full)
      again.hooks.runAvailable(session as unknown as Session, session.presence!, true)
    }
    expect(again.routed.map((each) => each.to)).to.deep.equal(['romeo@example.net/b'])
  })

  it('§4.25 and §4.26: an edited one is not sent again, a deleted one not at all', async () => {
    const { fake, run, sent, arrives } = await stage()
    arrives('juliet@example.net/a')
    await run('set-motd', { motd: 'Tonihgt' })
    sent()
    const form = (await run('edit-motd')).getChild('command')?.getChild('x', 'jabber:x:data')
    expect(form?.getChildren('field').find((field) => field.attrs['var'] === 'motd')?.getChildText('value')).to.equal('Tonihgt')
    await run('edit-motd', { motd: 'Tonight' })
    arrives('juliet@example.net/b')
    expect(sent()).to.deep.equal([])
    arrives('romeo@example.net/a')
    expect(sent()).to.deep.equal(['normal romeo@example.net/a Tonight'])
    await run('delete-motd')
    await fake.hooks.runAccountRemoved('juliet@example.net')
    arrives('juliet@example.net/c')
    expect(sent()).to.deep.equal([])
  })

  describe('messages to the host, as to ejabberd', () => {
    const say = (fake: ReturnType<typeof fakeParts>, resource: string, body = 'Tonight', type = '') => fake.hooks.runToHost(fake.delivery(`<message from='${bard}' to='${host}/${resource}'${type && ` type='${type}'`}><subject>Play</subject>${body && `<body>${body}</body>`}</message>`))
    const later = () => new Promise((resolve) => { setTimeout(resolve, 5) })

    it('announce/online, announce/all and their type', async () => {
      const { fake, sent } = await stage()
      fake.login('juliet@example.net/a')
      expect(say(fake, 'announce/online', 'Now', 'headline')).to.equal(true)
      expect(fake.routed[0]?.element().getChildText('subject')).to.equal('Play')
      expect(sent()).to.deep.equal(['headline juliet@example.net/a Now'])
      expect(say(fake, 'announce/all')).to.equal(true)
      await later()
      expect(sent()).to.deep.equal(['normal juliet@example.net Tonight', 'normal romeo@example.net Tonight'])
      expect(await fake.storage.records.range('announcements', [host])).to.deep.equal([])
    })

    it('announce/motd, announce/motd/update and announce/motd/delete', async () => {
      const { fake, sent, arrives } = await stage()
      fake.login('juliet@example.net/a')
      say(fake, 'announce/motd', 'Tonihgt')
      expect(sent()).to.deep.equal(['normal juliet@example.net/a Tonihgt'])
      say(fake, 'announce/motd/update', 'Tonight')
      expect(sent()).to.deep.equal([])
      arrives('romeo@example.net/a')
      arrives('juliet@example.net/b')
      expect(sent()).to.deep.equal(['normal romeo@example.net/a Tonight'])
      say(fake, 'announce/motd/delete', '')
      expect(await fake.storage.records.get('motd', [host])).to.equal(undefined)
    })

    it('are forbidden to others, and other resources are nobody', async () => {
      const { fake, sent } = await stage()
      fake.login('juliet@example.net/a')
      for (const resource of ['announce', 'announce/', 'announce/nobody', 'announce/online/', 'x/announce/online', 'announce/all-hosts']) expect(say(fake, resource), resource).to.equal(false)
      fake.allowed.rules = (rule) => rule !== 'announce'
      for (const resource of ['announce/online', 'announce/all-hosts/motd/delete']) expect(() => say(fake, resource)).to.throw().with.property('condition', 'forbidden')
      expect(sent()).to.deep.equal([])
    })

    it('an announcement to all goes on where a killed process left it', async () => {
      const { fake } = await stage()
      fake.storage.records.put('announcements', [host, 'id'], { subject: '', text: 'Tonight', type: 'normal', after: 'juliet' })
      const again = fakeParts()
      again.start(announcements, {}, { storage: fake.storage, accounts: fake.accounts })
      again.hooks.runStarted()
      await later()
      expect(again.routed.map((each) => each.to)).to.deep.equal(['romeo@example.net'])
      expect(await fake.storage.records.range('announcements', [host])).to.deep.equal([])
    })
  })

  it('on all hosts, for those who may on each', async () => {
    const { fake, run, sent } = await stage()
    const other = fakeParts('example.org')
    other.start(announcements, { access: 'others' }, { lasting: fake.parts.lasting })
    other.login('nurse@example.org/a')
    fake.login('juliet@example.net/a')
    expect((await run('announce-allhosts', { announcement: 'Now' })).getChild('command')?.getChildText('note')).to.equal('On 2 hosts')
    expect(sent()).to.deep.equal(['headline juliet@example.net/a Now'])
    expect(other.routed.splice(0).map((each) => `${each.from} ${each.to}`)).to.deep.equal(['example.org nurse@example.org/a'])
    await run('set-motd-allhosts', { motd: 'Tonight' })
    expect(await other.storage.records.get('motd', ['example.org'])).to.include({ text: 'Tonight' })
    await run('delete-motd-allhosts')
    expect(await other.storage.records.get('motd', ['example.org'])).to.equal(undefined)
    other.allowed.rules = (rule) => rule !== 'others'
    expect(conditionOf(await run('announce-allhosts', { announcement: 'Now' }))).to.equal('forbidden')
    expect((await run('announce', { announcement: 'Now' })).getChild('command')?.attrs['status']).to.equal('completed')
  })
})
