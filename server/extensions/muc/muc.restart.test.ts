import { expect } from 'chai'
import { type Client, connect } from '../../../lib/client/client.ts'
import { firstIdOf } from '../../../lib/stanza/ids.ts'
import { openHeldStorage, startTestServer, TEST_CONFIG, type TestServer } from '../../test-server.ts'
import type { Parts } from '../extension.ts'
import { fakeParts } from '../fake-parts.ts'
import { muc } from './muc.ts'
import { loadConfig } from '../../config/config.ts'
import { writeFile } from 'node:fs/promises'
import path from 'node:path'
import { MUC, Person, ROOM, setStage, type Stage } from './muc.fixture.ts'

describe('rooms over a restart', () => {
  let stage: Stage
  beforeEach(async () => { stage = await setStage() })
  afterEach(async () => { await stage[Symbol.asyncDispose]() })

  it('keep their occupants whose sessions resume, who miss nothing; the others leave', async () => {
    const crone = await stage.login('crone', { sm: true })
    const wicca = await stage.login('wiccarocks')
    const hag = await stage.login('hag', { sm: true })
    await crone.found('first', { 'muc#roomconfig_membersonly': '0' })
    wicca.join('second')
    hag.join('third')
    for (const each of [hag, wicca, crone]) await each.news()
    hag.send(`<message to='${ROOM}' type='groupchat'><subject>Brew</subject></message>`)
    crone.say('before')
    for (const each of [hag, wicca, crone]) await each.news()
    for (const each of [hag, crone]) {
      await each.client.requestAck()
      each.client.acknowledge()
      await each.client.ping()
    }
    const [hags, crones] = [hag, crone].map((each) => {
      const state = each.client.resumeState()
      each.client.destroy()
      return state
    }) as [never, never]
    await stage.tidings.restart()
    const croneAgain = await stage.login('crone', { resume: crones })
    expect(croneAgain.client.resumed).to.equal(true)
    croneAgain.say('after')
    expect((await croneAgain.news()).filter((each) => !each.startsWith('iq'))).to.deep.equal([
      `gone:second none/none ${wicca.full}`, `presence:third none/participant ${hag.full}`, `presence:first owner/moderator ${crone.full} 170,110`, 'message:first after',
    ])
    const hagAgain = await stage.login('hag', { resume: hags })
    expect(hagAgain.client.resumed).to.equal(true)
    hagAgain.say('here too')
    expect((await hagAgain.news()).filter((each) => each.startsWith('message'))).to.deep.equal(['message:first after delayed', 'message:third here too'])
    expect(await hagAgain.tries('get', "<ping xmlns='urn:xmpp:ping'/>", `${ROOM}/third`)).to.equal('done')
    const wiccaAgain = await stage.login('wiccarocks')
    wiccaAgain.join('second')
    expect(await wiccaAgain.news()).to.deep.equal([
      'presence:first owner/moderator', 'presence:third none/participant', `presence:second none/participant ${wiccaAgain.full} 170,110`,
      'message:first before delayed', 'message:first after delayed', 'message:third here too delayed', 'message:third subject=Brew delayed',
    ])
  })

  it('keep their occupants over a reload of the configuration, and affiliations', async () => {
    const crone = await stage.login('crone')
    const wicca = await stage.login('wiccarocks')
    await crone.found('first')
    wicca.join('second')
    await crone.admin("<item affiliation='admin' jid='hag@localhost'/>")
    for (const each of [wicca, crone]) await each.news()
    const file = path.join(stage.tidings.dataDir, '..', 'next.yml')
    await writeFile(file, `${TEST_CONFIG}  mod_muc: { default_room_options: { mam: true } }\n`)
    await stage.tidings.server.reload(loadConfig(file).config)
    wicca.say('still here')
    expect(await crone.news()).to.deep.equal(['message:second still here'])
    const hag = await stage.login('hag')
    hag.join('third')
    expect((await hag.news()).filter((each) => each.startsWith('presence:third'))).to.deep.equal([`presence:third admin/moderator ${hag.full} 170,110`])
  })

  it('a temporary room whose occupants do not come back ends', async () => {
    const crone = await stage.login('crone')
    await crone.found('first')
    crone.client.destroy()
    await stage.tidings.restart()
    const wicca = await stage.login('wiccarocks')
    expect(await wicca.tries('get', "<query xmlns='http://jabber.org/protocol/disco#info'/>")).to.equal('item-not-found')
  })

  it('whoever registers the name of a removed account has no part in its rooms', async () => {
    const crone = await stage.login('crone')
    const wicca = await stage.login('wiccarocks')
    await crone.found('first', { 'muc#roomconfig_persistentroom': '1' })
    await crone.found('first', { 'muc#roomconfig_persistentroom': '1' }, 'alone@conference.localhost')
    wicca.join('second')
    await crone.admin("<item affiliation='owner' jid='wiccarocks@localhost'/>")
    await wicca.news()
    await stage.tidings.server.unregister('crone@localhost')
    await stage.tidings.server.register('crone@localhost', 'secret')
    const other = await stage.login('crone')
    expect(await other.tries('get', `<query xmlns='${MUC}#owner'/>`)).to.equal('forbidden')
    expect(await other.tries('get', `<query xmlns='${MUC}#owner'/>`, 'alone@conference.localhost')).to.equal('item-not-found')
  })

  it('members are told of each message worth it, and which of their clients have it; its author is not', async () => {
    const crone = await stage.login('crone')
    await crone.found('first')
    await crone.admin("<item affiliation='member' jid='hag@localhost'/><item affiliation='outcast' jid='hecate@localhost'/>")
    const told: string[] = []
    stage.tidings.server.hosts.get('localhost')?.hooks.missed((owner, stanza, sentTo) => {
      const text = stanza.find('body') === undefined ? '' : stanza.element().getChildText('body')
      told.push([owner, text, ...stage.tidings.server.sessions.of(owner).filter(sentTo).map(({ jid }) => jid.resource)].join(' '))
    })
    crone.say('hello')
    crone.send(`<message to='${ROOM}' type='groupchat'><composing xmlns='http://jabber.org/protocol/chatstates'/></message>`)
    await crone.news()
    expect(told).to.deep.equal(['hag@localhost hello'])
    const hag = await stage.login('hag')
    await stage.login('hag', { resource: 'phone' })
    hag.join('third')
    await hag.news()
    crone.say('again')
    await crone.news()
    expect(told.slice(1)).to.deep.equal(['hag@localhost again desktop'])
    hag.say('mine')
    await hag.news()
    expect(told.slice(2)).to.deep.equal(['crone@localhost mine desktop'])
  })

  it('XEP-0357: a member whose desktop is in the room is told on the phone that has no session, once', async () => {
    await stage[Symbol.asyncDispose]()
    stage = await setStage(undefined, (config) => `${config}  mod_push: {}\n`)
    const crone = await stage.login('crone')
    await crone.found('first')
    await crone.admin("<item affiliation='member' jid='hag@localhost'/>")
    const app = await stage.login('hecate')
    const hag = await stage.login('hag')
    const phone = await stage.login('hag', { resource: 'phone', sm: true })
    await phone.ask('set', `<enable xmlns='urn:xmpp:push:0' jid='${app.full}' node='phone'/>`, phone.bare)
    for (const each of [hag, phone]) each.join('hag')
    for (const each of [hag, phone, crone, app]) await each.news()
    const pushes = async (): Promise<number> => {
      await crone.news()
      // Each goes out after the commit of its message.
      await stage.tidings.server.storage.committed()
      return (await app.stanzas()).filter((each) => each.name === 'iq' && each.getChild('pubsub') !== undefined).length
    }
    crone.say('everybody here')
    expect(await pushes()).to.equal(0)
    // It waits in the room for its client.
    phone.client.destroy()
    while (stage.tidings.server.sessions.get(phone.full)?.connected === true) await new Promise((resolve) => { setTimeout(resolve, 5) })
    // What it had not acknowledged.
    expect(await pushes()).to.equal(1)
    crone.say('waits')
    expect(await pushes()).to.equal(1)
    hag.say('of the desktop')
    expect(await pushes()).to.equal(0)
    // It is over, and the room knows nothing of it.
    stage.tidings.server.sessions.get(phone.full)?.close()
    await pushes()
    crone.say('in the archive')
    expect(await pushes()).to.equal(1)
    hag.say('of the desktop')
    expect(await pushes()).to.equal(0)
  })
})

describe('rooms and a process that is killed', () => {
  it('what was acknowledged is there: the room, who is in it, and what was said', async () => {
    const storage = openHeldStorage()
    const config = `${TEST_CONFIG}  mod_muc: { default_room_options: { mam: true } }\n`
    const first = await startTestServer({ accounts: { crone: 'secret', hag: 'secret' }, storage, config })
    const { clients, login } = logins()
    const crone = await login(first, 'crone')
    await crone.found('first', { 'muc#roomconfig_roomname': 'Cave' })
    crone.send(`<message to='${ROOM}' type='groupchat'><subject>Brew</subject></message>`)
    crone.say('hello')
    await crone.news()
    crone.client.acknowledge()
    expect(await crone.client.requestAck()).to.be.greaterThan(3)
    const state = crone.client.resumeState()
    // Nothing of the first process is told to end.
    const second = await startTestServer({ storage: storage.survivor, config })
    const again = await login(second, 'crone', state)
    expect(again.client.resumed).to.equal(true)
    again.say('after')
    expect((await again.news()).filter((each) => each.startsWith('message'))).to.deep.equal(['message:first after'])
    const hag = await login(second, 'hag')
    hag.join('third')
    expect((await hag.news()).filter((each) => !each.startsWith('presence:hag@'))).to.deep.equal([
      'presence:first owner/moderator', `presence:third none/participant ${hag.full} 170,110`, 'message:first hello delayed', 'message:first after delayed', 'message:first subject=Brew delayed',
    ])
    for (const client of clients) client.destroy()
    await second[Symbol.asyncDispose]()
    await first[Symbol.asyncDispose]()
  })

  it('who resumes has no ghosts in the room: hears who left, who came, and that they are out themselves', async () => {
    const storage = openHeldStorage()
    const config = `${TEST_CONFIG}  mod_muc: { default_room_options: { mam: true } }\n`
    const first = await startTestServer({ accounts: { crone: 'secret', hag: 'secret', wiccarocks: 'secret', hecate: 'secret' }, storage, config })
    const { clients, login } = logins()
    const [crone, hag, wicca, hecate] = [await login(first, 'crone'), await login(first, 'hag'), await login(first, 'wiccarocks'), await login(first, 'hecate')]
    await crone.found('first')
    for (const [who, nick] of [[hag, 'hag'], [wicca, 'second']] as const) who.join(nick)
    for (const each of [hag, wicca, crone, hag, crone]) {
      await each.news()
      each.client.acknowledge()
      await each.client.requestAck()
    }
    // One is away, the other does not look (XEP-0352); neither has had any of what follows.
    const away = hag.client.resumeState()
    hag.client.destroy()
    while (first.server.sessions.get(hag.full)?.connected === true) await new Promise((resolve) => { setTimeout(resolve, 5) })
    crone.send("<inactive xmlns='urn:xmpp:csi:0'/>")
    await crone.news()
    wicca.send(`<presence to='${ROOM}/third'/>`)
    await wicca.news()
    wicca.send(`<presence to='${ROOM}/third' type='unavailable'/>`)
    await wicca.news()
    hecate.join('hecate')
    await hecate.news()
    expect(await crone.admin("<item nick='hag' role='none'/>")).to.equal('done')
    crone.client.acknowledge()
    const inactive = crone.client.resumeState()
    await hecate.client.requestAck()
    crone.client.destroy()
    const second = await startTestServer({ storage: storage.survivor, config })
    const hagAgain = await login(second, 'hag', away)
    expect(hagAgain.client.resumed).to.equal(true)
    expect((await hagAgain.news()).filter((each) => each.includes('hag'))).to.deep.equal([`gone:hag none/none ${hag.full} by first 307,110`])
    const croneAgain = await login(second, 'crone', inactive)
    expect(croneAgain.client.resumed).to.equal(true)
    const heard = (await croneAgain.news()).filter((each) => !each.startsWith('iq'))
    const state = new Map(heard.map((each) => [each.split(/[: ]/)[1], each.split(':')[0]]))
    expect(Object.fromEntries(state)).to.include({ second: 'gone', third: 'gone', hag: 'gone', first: 'presence' })
    // Whoever has not resumed by the end of a start waits.
    expect(state.get('hecate')).to.equal('presence')
    croneAgain.say('hello')
    expect((await croneAgain.news()).at(-1)).to.equal('message:first hello')
    // The same name may be taken again.
    const wiccaAgain = await login(second, 'wiccarocks')
    wiccaAgain.join('third')
    await wiccaAgain.news()
    expect(storage.survivor.records.get('muc-departed', ['conference.localhost', 'coven', 'third'])).to.equal(undefined)
    for (const client of clients) client.destroy()
    await second[Symbol.asyncDispose]()
    await first[Symbol.asyncDispose]()
  })

  it('a message is not acknowledged, nor shown to anybody, before it is on stable storage', async () => {
    const storage = openHeldStorage()
    const tidings = await startTestServer({ accounts: { crone: 'secret' }, storage, config: `${TEST_CONFIG}  mod_muc: { default_room_options: { mam: true } }\n` })
    const client = await connect({ host: tidings.host, port: tidings.port, domain: tidings.domain, tls: 'none', user: 'crone', password: 'secret', resource: 'desktop', sm: true })
    client.send('<presence/>')
    const crone = new Person(client)
    await crone.found('first')
    await client.requestAck()
    storage.hold()
    crone.say('hello')
    let told = false
    const acked = client.requestAck().then(() => { told = true })
    await new Promise((resolve) => { setTimeout(resolve, 60) })
    expect(told).to.equal(false)
    expect(client.inbox.filter((stanza) => stanza.name === 'message')).to.deep.equal([])
    storage.release()
    await acked
    expect((await crone.news()).filter((each) => each.startsWith('message'))).to.deep.equal(['message:first hello'])
    client.destroy()
    await tidings[Symbol.asyncDispose]()
  })

  it('archives of rooms expire with those of accounts', async () => {
    const storage = openHeldStorage()
    const config = `${TEST_CONFIG.replace('mod_mam: { default: always }', 'mod_mam: { default: always, expire: 1 day }')}  mod_muc: { default_room_options: { mam: true } }\n`
    expect(config).to.contain('1 day')
    const every: (() => void | Promise<void>)[] = []
    const tidings = await startTestServer({ accounts: { crone: 'secret' }, storage, config })
    const client = await connect({ host: tidings.host, port: tidings.port, domain: tidings.domain, tls: 'none', user: 'crone', password: 'secret', resource: 'desktop' })
    client.send('<presence/>')
    const crone = new Person(client)
    await crone.found('first')
    crone.say('hello')
    await crone.news()
    const old = `${firstIdOf(Date.now() - 2 * 86_400_000).slice(0, 9)}0010000000000`
    storage.archive.append({ id: old, bytes: Buffer.from(`<message from='${ROOM}/first' type='groupchat'><body>old</body></message>`), owners: [{ owner: ROOM, with: 'crone@localhost' }] })
    expect(await storage.archive.count(ROOM, {}, 10)).to.equal(2)
    muc.start({ ...fakeParts('localhost').parts, storage, config: tidings.server.hosts.get('localhost')?.config, now: Date.now, every: (_ms: number, run: () => void) => { every.push(run) } } as unknown as Parts, { ...defaultsOf(muc.options) } as never)
    for (const run of every) await run()
    expect(await storage.archive.count(ROOM, {}, 10)).to.equal(1)
    client.destroy()
    await tidings[Symbol.asyncDispose]()
  })
})

function defaultsOf(table: object | undefined): Record<string, unknown> {
  return Object.fromEntries(Object.entries(table ?? {}).map(([name, spec]) => [name, (spec as { default: unknown }).default]))
}

/** Logs people in, who may resume; `clients` are all of theirs. */
function logins(): { clients: Client[]; login: (on: TestServer, user: string, resume?: ReturnType<Client['resumeState']>) => Promise<Person> } {
  const clients: Client[] = []
  return {
    clients,
    async login(on, user, resume) {
      const client = await connect({ host: on.host, port: on.port, domain: on.domain, tls: 'none', user, password: 'secret', resource: 'desktop', sm: true, ...(resume && { resume }) })
      clients.push(client)
      if (!client.resumed) client.send('<presence/>')
      return new Person(client)
    },
  }
}
