import { createHash } from 'node:crypto'
import { expect } from 'chai'
import type { Element } from '../../../lib/xml/element.ts'
import { brief, MAM, MUC, type Person, ROOM, setStage, type Stage } from './muc.fixture.ts'

const RETRACT = 'urn:xmpp:message-retract:1'
const MODERATE = 'urn:xmpp:message-moderate:1'
const field = (name: string, value: string): string => `<field var='${name}'><value>${value}</value></field>`
const info = "<query xmlns='http://jabber.org/protocol/disco#info'/>"

describe('rooms: registration, retraction, pictures, search, hats', () => {
  let stage: Stage
  let crone: Person
  let wicca: Person
  let hag: Person

  beforeEach(async () => {
    stage = await setStage()
    crone = await stage.login('crone')
    wicca = await stage.login('wiccarocks')
    hag = await stage.login('hag')
    await crone.found('first')
    wicca.join('second')
    await wicca.news()
    await crone.news()
  })
  afterEach(async () => { await stage[Symbol.asyncDispose]() })

  const fieldsOf = (answer: Element | undefined): Record<string, string[]> => Object.fromEntries(answer?.getChild('x', 'jabber:x:data')?.getChildren('field').map((each) => [each.attrs['var'], each.getChildren('value').map((value) => value.text())]) ?? [])

  describe('§7.10, §7.12, §7.13: a nickname that the room keeps', () => {
    const register = (nick: string): string => `<query xmlns='jabber:iq:register'><x xmlns='jabber:x:data' type='submit'>${field('FORM_TYPE', `${MUC}#register`)}${field('muc#register_roomnick', nick)}</x></query>`
    const reserved = async (who: Person): Promise<string | undefined> => (await who.ask('get', "<query xmlns='http://jabber.org/protocol/disco#info' node='x-roomuser-item'/>"))?.getChild('identity')?.attrs['name']

    it('makes a member, whose nickname nobody else takes', async () => {
      expect(fieldsOf(await wicca.ask('get', "<query xmlns='jabber:iq:register'/>"))).to.have.keys('FORM_TYPE', 'muc#register_roomnick')
      expect(await wicca.tries('set', register('thirdwitch'))).to.equal('done')
      expect(await wicca.news()).to.deep.equal([`presence:second member/participant ${wicca.full} 110`])
      const again = await wicca.ask('get', "<query xmlns='jabber:iq:register'/>")
      expect([again?.getChild('registered') !== undefined, again?.getChildText('username')]).to.deep.equal([true, 'thirdwitch'])
      expect(await reserved(wicca)).to.equal('thirdwitch')
      expect(await reserved(hag)).to.equal(undefined)
      hag.join('thirdwitch')
      expect(await hag.news()).to.deep.equal(['error:conflict thirdwitch'])
      hag.join('third')
      await hag.news()
      hag.send(`<presence to='${ROOM}/thirdwitch'/>`)
      expect(await hag.news()).to.deep.equal(['error:conflict thirdwitch'])
      expect(await hag.tries('set', register('thirdwitch'))).to.equal('conflict')
      expect(await hag.tries('set', register('first'))).to.equal('conflict')
      expect(await hag.tries('set', register(''))).to.equal('not-acceptable')
      expect(await wicca.tries('set', "<query xmlns='jabber:iq:register'><remove/></query>")).to.equal('done')
      expect((await wicca.news()).at(-1)).to.equal(`presence:second none/participant ${wicca.full} 110`)
      expect(await reserved(wicca)).to.equal(undefined)
    })

    it('is not for who may not enter', async () => {
      await crone.configure({ 'muc#roomconfig_membersonly': '1' })
      expect(await hag.tries('get', "<query xmlns='jabber:iq:register'/>")).to.equal('not-allowed')
      expect(await hag.tries('set', register('third'))).to.equal('not-allowed')
      await crone.admin("<item affiliation='outcast' jid='hag@localhost'/>")
      expect(await hag.tries('set', register('third'))).to.equal('forbidden')
      await crone.admin("<item affiliation='member' jid='hecate@localhost' nick='hecate'/>")
      const hecate = await stage.login('hecate')
      expect(await reserved(hecate)).to.equal('hecate')
    })
  })

  const idIn = (message: Element | undefined): string => message?.getChildren('stanza-id', 'urn:xmpp:sid:0').find((each) => each.attrs['by'] === ROOM)?.attrs['id'] ?? ''

  async function archived(who: Person): Promise<Element[]> {
    await who.ask('set', `<query xmlns='${MAM}'/>`)
    return (await who.stanzas()).map((each) => each.getChild('result', MAM)?.getChild('forwarded', 'urn:xmpp:forward:0')?.getChild('message', 'jabber:client')).filter((each) => each !== undefined)
  }

  it('XEP-0425: a moderator takes a message out, which leaves a tombstone', async () => {
    wicca.say('DM me for free magic potions!')
    await wicca.news()
    const [message] = await crone.stanzas()
    const id = idIn(message)
    const moderate = (target: string): string => `<moderate xmlns='${MODERATE}' id='${target}'><retract xmlns='${RETRACT}'/><reason>not here</reason></moderate>`
    expect(await wicca.tries('set', moderate(id))).to.equal('forbidden')
    expect(await crone.tries('set', moderate('nothing'))).to.equal('item-not-found')
    expect(await crone.tries('set', `<moderate xmlns='${MODERATE}' id='${id}'/>`)).to.equal('feature-not-implemented')
    expect(await crone.tries('set', moderate(id))).to.equal('done')
    const [seen] = await wicca.stanzas()
    const retract = seen?.getChild('retract', RETRACT)
    expect(seen?.attrs).to.include({ from: ROOM, type: 'groupchat' })
    expect(retract?.attrs['id']).to.equal(id)
    expect(retract?.getChild('moderated', MODERATE)?.attrs['by']).to.equal(`${ROOM}/first`)
    expect(retract?.getChild('moderated', MODERATE)?.getChild('occupant-id', 'urn:xmpp:occupant-id:0')?.attrs['id']).to.match(/^[0-9a-f]{64}$/)
    expect(retract?.getChildText('reason')).to.equal('not here')
    const [tombstone, retraction] = await archived(wicca)
    expect(tombstone?.getChildText('body')).to.equal(null)
    expect(tombstone?.getChild('occupant-id', 'urn:xmpp:occupant-id:0')).to.not.equal(undefined)
    expect(tombstone?.getChild('retracted', RETRACT)?.getChild('moderated', MODERATE)?.attrs['by']).to.equal(`${ROOM}/first`)
    expect(retraction?.getChild('retract', RETRACT)?.attrs['id']).to.equal(id)
    hag.join('third')
    expect((await hag.news()).filter((each) => each.includes('potions'))).to.deep.equal([])
  })

  it('XEP-0425 0.2: clients of the version before ask, and are told, in theirs', async () => {
    const [FASTEN, FORMER, FORMER_RETRACT] = ['urn:xmpp:fasten:0', 'urn:xmpp:message-moderate:0', 'urn:xmpp:message-retract:0']
    const features = (await wicca.ask('get', info))?.getChildren('feature').map((each) => each.attrs['var'])
    expect(features).to.include.members([MODERATE, FORMER])
    const apply = (target: string, inside: string): string => `<apply-to xmlns='${FASTEN}' id='${target}'>${inside}</apply-to>`
    const action = `<moderate xmlns='${FORMER}'><retract xmlns='${FORMER_RETRACT}'/><reason>not here</reason></moderate>`
    for (const modern of [false, true]) {
      wicca.say('DM me for free magic potions!')
      await wicca.news()
      const id = idIn((await crone.stanzas()).at(-1))
      expect(await wicca.tries('set', apply(id, action))).to.equal('forbidden')
      expect(await crone.tries('set', apply('nothing', action))).to.equal('item-not-found')
      expect(await crone.tries('set', apply(id, `<moderate xmlns='${FORMER}'/>`))).to.equal('feature-not-implemented')
      expect(await crone.tries('set', apply(id, '<external xmlns="urn:example"/>'))).to.equal('feature-not-implemented')
      const request = modern ? `<moderate xmlns='${MODERATE}' id='${id}'><retract xmlns='${RETRACT}'/><reason>not here</reason></moderate>` : apply(id, action)
      expect(await crone.tries('set', request)).to.equal('done')
      const [seen] = await wicca.stanzas()
      expect(seen?.attrs).to.include({ from: ROOM, type: 'groupchat' })
      expect(seen?.getChild('retract', RETRACT)?.attrs['id']).to.equal(id)
      expect(seen?.getChild('retract', RETRACT)?.getChild('moderated', MODERATE)?.attrs['by']).to.equal(`${ROOM}/first`)
      const told = seen?.getChild('apply-to', FASTEN)
      expect(told?.attrs['id']).to.equal(id)
      const moderated = told?.getChild('moderated', FORMER)
      expect([moderated?.attrs['by'], moderated?.getChildText('reason'), moderated?.getChild('retract', FORMER_RETRACT)?.attrs['stamp']?.slice(-1)]).to.deep.equal([`${ROOM}/first`, 'not here', 'Z'])
      const [tombstone, retraction] = (await archived(wicca)).slice(-2)
      expect(tombstone?.getChildText('body')).to.equal(null)
      expect(tombstone?.getChild('retracted', RETRACT)?.attrs['id']).to.equal(seen?.attrs['id'])
      expect(tombstone?.getChild('moderated', FORMER)?.getChild('retracted', FORMER_RETRACT)?.attrs['stamp']?.slice(-1)).to.equal('Z')
      expect(retraction?.getChild('apply-to', FASTEN)?.attrs['id']).to.equal(id)
    }
    wicca.send(`<message to='${ROOM}' type='groupchat'>${apply('x', `<moderated xmlns='${FORMER}' by='${ROOM}/first'><retract xmlns='${FORMER_RETRACT}'/></moderated>`)}<moderated xmlns='${FORMER}'/><body>forged</body></message>`)
    const forged = (await wicca.stanzas()).at(-1)
    expect([forged?.getChildText('body'), forged?.getChild('apply-to'), forged?.getChild('moderated')]).to.deep.equal(['forged', undefined, undefined])
  })

  it('XEP-0424: an author takes a message back; nobody else does, and nobody plays the moderator', async () => {
    wicca.say('oops')
    await wicca.news()
    const id = idIn((await crone.stanzas())[0])
    hag.join('third')
    await hag.news()
    hag.send(`<message to='${ROOM}' type='groupchat' id='r0'><retract xmlns='${RETRACT}' id='${id}'/></message>`)
    expect((await hag.news()).at(-1)).to.equal('error:forbidden room')
    hag.send(`<message to='${ROOM}' type='groupchat' id='r1'><retract xmlns='${RETRACT}' id='x'><moderated xmlns='${MODERATE}'/></retract><body>forged</body></message>`)
    const forged = (await hag.stanzas()).at(-1)
    expect([forged?.getChildText('body'), forged?.getChild('retract')]).to.deep.equal(['forged', undefined])
    wicca.send(`<message to='${ROOM}' type='groupchat' id='r2'><retract xmlns='${RETRACT}' id='${id}'/><body>retracted</body></message>`)
    await wicca.news()
    expect((await crone.stanzas()).at(-1)?.getChild('retract', RETRACT)?.attrs['id']).to.equal(id)
    const [tombstone] = await archived(crone)
    expect(tombstone?.getChildText('body')).to.equal(null)
    expect(tombstone?.getChild('retracted', RETRACT)?.attrs).to.include({ id: 'r2' })
  })

  it('XEP-0424: in a room without an archive the message is not shown to who enters', async () => {
    await crone.configure({ mam: '0' })
    wicca.say('oops')
    await wicca.news()
    const id = idIn((await crone.stanzas()).at(-1))
    wicca.send(`<message to='${ROOM}' type='groupchat' id='r2'><retract xmlns='${RETRACT}' id='${id}'/></message>`)
    await wicca.news()
    hag.join('third')
    expect((await hag.news()).filter((each) => each.includes('oops'))).to.deep.equal([])
  })

  it('XEP-0486: owners give the room a picture, whose hash is known', async () => {
    const card = "<vCard xmlns='vcard-temp'><PHOTO><TYPE>image/png</TYPE><BINVAL>aGVsbG8=</BINVAL></PHOTO></vCard>"
    expect(await wicca.tries('set', card)).to.equal('forbidden')
    expect(fieldsOf(await wicca.ask('get', info))['muc#roominfo_avatarhash']).to.equal(undefined)
    expect(await crone.tries('set', card)).to.equal('done')
    await wicca.news()
    expect(fieldsOf(await wicca.ask('get', info))['muc#roominfo_avatarhash']).to.deep.equal([createHash('sha1').update('hello').digest('hex')])
    expect((await hag.ask('get', "<vCard xmlns='vcard-temp'/>"))?.getChild('PHOTO')?.getChildText('BINVAL')).to.equal('aGVsbG8=')
    expect(await crone.tries('set', "<vCard xmlns='vcard-temp'/>")).to.equal('done')
    expect(fieldsOf(await wicca.ask('get', info))['muc#roominfo_avatarhash']).to.equal(undefined)
  })

  it('XEP-0486: a presence of the room tells the hash to those who are in it and to those who enter', async () => {
    const card = "<vCard xmlns='vcard-temp'><PHOTO><TYPE>image/png</TYPE><BINVAL>aGVsbG8=</BINVAL></PHOTO></vCard>"
    const hash = createHash('sha1').update('hello').digest('hex')
    const photo = (stanza: Element | undefined): string | null | undefined => stanza?.getChild('x', 'vcard-temp:x:update')?.getChildText('photo')
    hag.join('third')
    expect((await hag.news()).filter((each) => each.endsWith(':room'))).to.deep.equal([])
    hag.send(`<presence to='${ROOM}/third' type='unavailable'/>`)
    await hag.news()
    await wicca.news()

    expect(await crone.tries('set', card)).to.equal('done')
    const told = await wicca.stanzas()
    expect(told.map(brief)).to.deep.equal(['message:room 104', 'presence:room'])
    expect(photo(told[1])).to.equal(hash)

    hag.join('third')
    const entering = await hag.stanzas()
    expect(entering.map(brief)).to.deep.equal(['presence:first owner/moderator', 'presence:second none/participant', `presence:third none/participant ${hag.full} 170,110`, 'presence:room', 'message:room subject='])
    expect(photo(entering[3])).to.equal(hash)
    await wicca.news()

    expect(await crone.tries('set', "<vCard xmlns='vcard-temp'/>")).to.equal('done')
    const gone = await wicca.stanzas()
    expect(gone.map(brief)).to.deep.equal(['message:room 104', 'presence:room'])
    expect(photo(gone[1])).to.equal('')
  })

  it('XEP-0433: rooms are found by words', async () => {
    await crone.configure({ 'muc#roomconfig_roomname': 'Dark Cave', 'muc#roomconfig_roomdesc': 'A place for witches' })
    await crone.found('first', { 'muc#roomconfig_roomname': 'Castle', 'muc#roomconfig_membersonly': '1' }, 'castle@conference.localhost')
    await crone.found('first', { 'muc#roomconfig_publicroom': '0', 'muc#roomconfig_roomname': 'Secret cave' }, 'secret@conference.localhost')
    const SEARCH = 'urn:xmpp:channel-search:0:search'
    const asked = (fields: string, set = ''): string => `<search xmlns='${SEARCH}'><x xmlns='jabber:x:data' type='submit'>${field('FORM_TYPE', 'urn:xmpp:channel-search:0:search-params')}${fields}</x>${set}</search>`
    const find = async (fields: string, set?: string): Promise<string> => (await hag.ask('get', asked(fields, set), 'conference.localhost'))?.getChildren('item').map((item) => `${item.attrs['address']?.split('@')[0]} ${item.getChildText('name')} ${item.getChildText('nusers')} ${item.getChildText('is-open') ?? '-'}`).join(', ') ?? ''
    const form = await hag.ask('get', `<search xmlns='${SEARCH}'/>`, 'conference.localhost')
    expect(fieldsOf(form)).to.include.keys('q', 'all', 'sinname', 'sindescription', 'types', 'key')
    expect(await find(field('all', 'true'))).to.equal('coven Dark Cave 2 true, castle Castle 1 -')
    expect(await find(field('q', 'witches'))).to.equal('coven Dark Cave 2 true')
    expect(await find(field('q', 'witches') + field('sindescription', 'false'))).to.equal('')
    expect(await find(field('all', 'true') + field('key', '{urn:xmpp:channel-search:0:order}address'), "<set xmlns='http://jabber.org/protocol/rsm'><max>1</max></set>")).to.equal('castle Castle 1 -')
    const refusal = async (fields: string): Promise<string> => hag.tries('get', asked(fields), 'conference.localhost')
    expect(await refusal(field('all', 'true') + field('q', 'cave'))).to.equal('bad-request')
    expect(await refusal('')).to.equal('bad-request')
    expect(await refusal(field('q', 'x'))).to.equal('bad-request')
    expect(await refusal(field('q', 'cave') + field('key', 'nonsense'))).to.equal('feature-not-implemented')
  })

  it('XEP-0317: hats are made, worn and taken away', async () => {
    const uri = 'http://tech.example.edu/hats#TeacherAssistant'
    const command = (node: string, fields: string): string => `<command xmlns='http://jabber.org/protocol/commands' node='urn:xmpp:hats:commands:${node}'>${fields === '' ? '' : `<x xmlns='jabber:x:data' type='submit'>${field('FORM_TYPE', 'urn:xmpp:hats:commands')}${fields}</x>`}</command>`
    const hatOf = (presence: Element | undefined) => presence?.getChild('hats', 'urn:xmpp:hats:0')?.getChild('hat')?.attrs
    expect(await wicca.tries('set', command('create', field('hats#title', 'Assistant') + field('hats#uri', uri)))).to.equal('forbidden')
    expect((await crone.ask('set', command('create', '')))?.attrs['status']).to.equal('executing')
    expect(await crone.tries('set', command('assign', field('hats#jid', wicca.bare) + field('hats#uri', uri)))).to.equal('item-not-found')
    expect(await crone.tries('set', command('create', field('hats#title', 'Assistant') + field('hats#uri', uri) + field('hats#hue', '400')))).to.equal('not-acceptable')
    expect((await crone.ask('set', command('create', field('hats#title', 'Assistant') + field('hats#uri', uri) + field('hats#hue', '327.255249'))))?.attrs['status']).to.equal('completed')
    await wicca.news()
    expect(await crone.tries('set', command('assign', field('hats#jid', wicca.bare) + field('hats#uri', uri)))).to.equal('done')
    expect(hatOf((await wicca.stanzas()).at(-1))).to.deep.equal({ title: 'Assistant', uri, hue: '327.255249' })
    hag.join('third')
    expect(hatOf((await hag.stanzas()).find((each) => each.attrs['from'] === `${ROOM}/second`))?.['title']).to.equal('Assistant')
    const list = await wicca.ask('set', command('list', ''))
    expect(list?.getChild('x', 'jabber:x:data')?.getChildren('item')).to.have.lengthOf(1)
    expect(fieldsOf(await wicca.ask('get', info))['hats#hash']?.[0]).to.match(/^[0-9a-f]{40}$/)
    await stage.tidings.server.unregister('hag@localhost')
    await wicca.news()
    expect(await crone.tries('set', command('destroy', field('hats#uri', uri)))).to.equal('done')
    expect(hatOf((await wicca.stanzas()).at(-1))).to.equal(undefined)
    const assigned = await crone.ask('set', command('list-assigned', ''))
    expect(assigned?.getChild('x', 'jabber:x:data')?.getChildren('item')).to.deep.equal([])
    wicca.send(`<presence to='${ROOM}/second'><hats xmlns='urn:xmpp:hats:0'><hat title='King' uri='x'/></hats></presence>`)
    expect(hatOf((await wicca.stanzas()).at(-1)), 'forged').to.equal(undefined)
    expect(brief((await crone.stanzas()).at(-1) as Element)).to.contain('presence:second')
  })

  it('§5.1: roles whose presence is not shown are seen to go, and to come back', async () => {
    hag.join('third')
    for (const each of [hag, wicca, crone]) await each.news()
    await crone.configure({ 'muc#roomconfig_moderatedroom': '1', 'muc#roomconfig_presencebroadcast': ['moderator', 'participant'] })
    for (const each of [hag, wicca, crone]) await each.news()
    // One loses voice, and is still there for itself.
    expect(await crone.admin("<item role='visitor' nick='second'/>")).to.equal('done')
    expect(await wicca.news()).to.deep.equal([`presence:second none/visitor ${wicca.full} by first 110`])
    expect(await hag.news()).to.deep.equal(['gone:second none/none'])
    await crone.configure({ 'muc#roomconfig_presencebroadcast': ['visitor'] })
    expect(await wicca.news()).to.deep.equal(['gone:first owner/none', 'gone:third none/none', 'message:room 104'])
    expect(await hag.news()).to.deep.equal(['gone:first owner/none', 'presence:second none/visitor', 'message:room 104'])
    await crone.news()
    // One becomes a member, and is no visitor any more.
    expect(await crone.admin(`<item affiliation='member' jid='${wicca.bare}'/>`)).to.equal('done')
    expect(await wicca.news()).to.deep.equal([`presence:second member/participant ${wicca.full} by first 110`])
    expect(await hag.news()).to.deep.equal(['gone:second member/none'])
  })
})
