/** What occupants must not get away with. */
import { expect } from 'chai'
import { MUC, type Person, ROOM, setStage, type Stage } from './muc.fixture.ts'

describe('rooms and hostile occupants', () => {
  let stage: Stage
  let crone: Person
  let hag: Person
  beforeEach(async () => {
    stage = await setStage()
    crone = await stage.login('crone')
    hag = await stage.login('hag')
  })
  afterEach(async () => { await stage[Symbol.asyncDispose]() })

  it('what only the room says is taken from messages, wherever it stands beside something else', async () => {
    await crone.found('first')
    hag.join('hag')
    for (const each of [hag, crone]) await each.news()
    const forged = [
      `<stanza-id xmlns='urn:xmpp:sid:0' by='${ROOM}' id='1'/>`, "<occupant-id xmlns='urn:xmpp:occupant-id:0' id='2'/>",
      "<delay xmlns='urn:xmpp:delay' stamp='2000-01-01T00:00:00Z'/>", `<x xmlns='${MUC}#user'><status code='307'/></x>`,
      `<retract xmlns='urn:xmpp:message-retract:1' id='3'><moderated xmlns='urn:xmpp:message-moderate&#58;1' by='${ROOM}/first'/></retract>`,
    ]
    for (const more of [forged.join(''), forged.toReversed().join(''), ...forged]) hag.say('hello', { more })
    const seen = (await crone.stanzas()).filter((each) => each.name === 'message')
    expect(seen.length).to.equal(forged.length + 2)
    for (const each of seen) expect(each.getChildElements().map((child) => [child.getName(), child.attrs['by'] ?? ''].join(' ').trim()).sort()).to.deep.equal(['body', 'occupant-id', `stanza-id ${ROOM}`])
  })

  it('§9.1: a ban of a server spares those with an affiliation of their own', async () => {
    const wicca = await stage.login('wiccarocks')
    await crone.found('first')
    await crone.admin("<item affiliation='admin' jid='hag@localhost'/>")
    hag.join('hag')
    await hag.news()
    wicca.join('wicca')
    for (const each of [wicca, hag, crone]) await each.news()
    expect(await hag.admin("<item affiliation='outcast' jid='localhost'/>")).to.equal('done')
    expect(await crone.news()).to.deep.equal([`gone:wicca outcast/none ${wicca.full} by hag 301`])
    expect(await hag.news()).to.deep.equal([`gone:wicca outcast/none ${wicca.full} by hag 301`])
    // Who loses it is one of the server's again.
    expect(await crone.admin("<item affiliation='none' jid='hag@localhost'/>")).to.equal('done')
    expect(await hag.news()).to.deep.equal([`gone:hag outcast/none ${hag.full} by first 301,110`])
  })

  it('§7.8.2: an invitation of a server changes nothing for those in the room, nor lets its accounts in', async () => {
    const wicca = await stage.login('wiccarocks')
    await crone.found('first', { 'muc#roomconfig_membersonly': '1', 'muc#roomconfig_allowinvites': '1' })
    await crone.admin("<item affiliation='member' jid='hag@localhost'/>")
    hag.join('hag')
    for (const each of [hag, crone]) await each.news()
    hag.send(`<message to='${ROOM}'><x xmlns='${MUC}#user'><invite to='localhost'/></x></message>`)
    await hag.news()
    expect(await crone.news()).to.deep.equal([])
    wicca.join('wicca')
    expect(await wicca.news()).to.deep.equal(['error:registration-required wicca'])
  })

  it('a room that ends with its last occupant leaves nothing to the next of its name', async () => {
    await crone.found('first', { 'muc#roomconfig_persistentroom': '0' })
    hag.join('hag')
    await hag.news()
    crone.send(`<presence to='${ROOM}/first' type='unavailable'/>`)
    await crone.news()
    expect(await crone.admin("<item role='none' nick='hag'/><item affiliation='owner' jid='hag@localhost'/><item role='visitor' nick='hag'/>")).to.equal('done')
    const wicca = await stage.login('wiccarocks')
    await wicca.found('wicca')
    const owners = await wicca.ask('get', `<query xmlns='${MUC}#admin'><item affiliation='owner'/></query>`)
    expect(owners?.getChildren('item').map((each) => each.attrs['jid'])).to.deep.equal([wicca.bare])
  })

  it('§17.1.1: a nickname is to be seen', async () => {
    await crone.found('first')
    for (const nick of [' ', '\u00a0', '\u3000 ']) {
      hag.join(nick)
      expect((await hag.news()).map((each) => each.split(' ')[0])).to.deep.equal(['error:jid-malformed'])
    }
    hag.join('hag')
    await hag.news()
    hag.join(' ')
    expect((await hag.news()).map((each) => each.split(' ')[0])).to.deep.equal(['error:jid-malformed'])
    expect(await hag.tries('set', "<query xmlns='jabber:iq:register'><username> </username></query>")).to.equal('not-acceptable')
  })

  it('XEP-0424 §5: one message takes back one, its author\'s own', async () => {
    await crone.found('first')
    hag.join('hag')
    crone.say('mine')
    await crone.news()
    const [message] = (await hag.stanzas()).filter((each) => each.getChildText('body') === 'mine')
    const id = message?.getChild('stanza-id')?.attrs['id']
    const retract = (of: string | undefined): string => `<retract xmlns='urn:xmpp:message-retract:1' id='${of}'/>`
    for (const more of [retract(id), retract('nothing') + retract(id)]) hag.say('', { more })
    expect(await hag.news()).to.deep.equal(['error:forbidden room', 'error:bad-request room'])
    expect(await crone.news()).to.deep.equal([])
  })

  it('XEP-0203: the times of presence are not for its sender to say', async () => {
    await crone.found('first')
    hag.join('hag')
    await crone.news()
    hag.send(`<presence to='${ROOM}/hag'><delay xmlns='urn:xmpp:delay' stamp='2000-01-01T00:00:00Z' from='${ROOM}'/><show>away</show></presence>`)
    await hag.news()
    const [shown] = await crone.stanzas()
    expect(shown?.getChildElements().map((each) => each.getName())).to.deep.equal(['show', 'x', 'occupant-id'])
  })

  it('§7.8.2: whoever declines does not learn who is here', async () => {
    await crone.found('first')
    for (const to of [crone.bare, 'wiccarocks@localhost', `${ROOM}/first`, `${ROOM}/nobody`]) {
      hag.send(`<message to='${ROOM}'><x xmlns='${MUC}#user'><decline to='${to}'/></x></message>`)
      expect(await hag.news(), to).to.deep.equal([])
    }
    expect((await crone.news()).length).to.equal(2)
    await crone.admin("<item affiliation='outcast' jid='hag@localhost'/>")
    await crone.news()
    hag.send(`<message to='${ROOM}'><x xmlns='${MUC}#user'><decline to='${crone.bare}'/></x></message>`)
    await hag.news()
    expect(await crone.news()).to.deep.equal([])
  })

  it('XEP-0191: whoever blocks an occupant stays in the room, and gets nothing of them', async () => {
    await crone.found('first')
    hag.join('hag')
    await hag.ask('set', `<block xmlns='urn:xmpp:blocking'><item jid='${ROOM}/first'/></block>`, hag.bare)
    for (const each of [hag, crone]) await each.news()
    crone.send(`<message to='${ROOM}/hag' type='chat'><body>hello</body></message>`)
    expect((await crone.news()).filter((each) => !each.startsWith('error:'))).to.deep.equal([])
    expect(await crone.tries('get', "<query xmlns='jabber:iq:version'/>", `${ROOM}/hag`)).to.equal('service-unavailable')
    expect(await hag.news()).to.deep.equal([])
    expect(await hag.tries('get', "<ping xmlns='urn:xmpp:ping'/>", `${ROOM}/hag`)).to.equal('done')
  })

  it('§7.5: a private message to several clients of an account is one in its archive', async () => {
    const phone = await stage.login('hag', { resource: 'phone' })
    await crone.found('first')
    for (const each of [hag, phone]) each.join('hag')
    for (const each of [hag, phone, crone]) await each.news()
    crone.send(`<message to='${ROOM}/hag' type='chat'><body>hello</body></message>`)
    await crone.news()
    for (const each of [hag, phone]) expect(await each.news()).to.deep.equal(['message:first hello'])
    await hag.ask('set', "<query xmlns='urn:xmpp:mam:2'/>", hag.bare)
    expect((await hag.news()).length).to.equal(1)
  })

  it('§17.5.1: all traffic is allowed', async () => {
    await crone.found('first')
    expect(await crone.tries('get', `<query xmlns='http://jabber.org/protocol/disco#info' node='${MUC}#traffic'/>`)).to.equal('service-unavailable')
  })
})

describe('rooms whose owners may not choose whether there is an archive', () => {
  it('keep it when their owner changes something else', async () => {
    await using stage = await setStage('{ access_mam: none, default_room_options: { mam: true } }')
    const crone = await stage.login('crone')
    await crone.found('first', { 'muc#roomconfig_roomname': 'Coven' })
    crone.say('kept')
    await crone.news()
    expect(await crone.tries('set', "<query xmlns='urn:xmpp:mam:2'/>")).to.equal('done')
    expect((await crone.news()).length).to.equal(1)
  })
})
