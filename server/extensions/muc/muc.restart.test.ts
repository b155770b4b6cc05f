import { expect } from 'chai'
import { TEST_CONFIG } from '../../test-server.ts'
import { loadConfig } from '../../config/config.ts'
import { writeFile } from 'node:fs/promises'
import path from 'node:path'
import { MUC, ROOM, setStage, type Stage } from './muc.fixture.ts'

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
    expect((await croneAgain.news()).filter((each) => !each.startsWith('iq'))).to.deep.equal([`gone:second none/none ${wicca.full}`, 'message:first after'])
    const hagAgain = await stage.login('hag', { resume: hags })
    expect(hagAgain.client.resumed).to.equal(true)
    hagAgain.say('here too')
    expect((await hagAgain.news()).filter((each) => each.startsWith('message'))).to.deep.equal(['message:first after', 'message:third here too'])
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

  it('a member who is away is told of, once for each message worth it', async () => {
    const crone = await stage.login('crone')
    await crone.found('first')
    await crone.admin("<item affiliation='member' jid='hag@localhost'/><item affiliation='outcast' jid='hecate@localhost'/>")
    const told: string[] = []
    stage.tidings.server.hosts.get('localhost')?.hooks.missed((owner, stanza) => { told.push(`${owner} ${stanza.find('body') === undefined ? '' : stanza.element().getChildText('body')}`) })
    crone.say('hello')
    crone.send(`<message to='${ROOM}' type='groupchat'><composing xmlns='http://jabber.org/protocol/chatstates'/></message>`)
    await crone.news()
    expect(told).to.deep.equal(['hag@localhost hello'])
    const hag = await stage.login('hag')
    hag.join('third')
    await hag.news()
    crone.say('again')
    await crone.news()
    expect(told).to.have.lengthOf(1)
  })
})
