import { expect } from 'chai'
import { brief, MAM, MUC, type Person, ROOM, setStage, type Stage } from './muc.fixture.ts'

const SID = 'urn:xmpp:sid:0'

describe('rooms (XEP-0045)', () => {
  let stage: Stage
  let crone: Person
  let wicca: Person
  let hag: Person

  async function set(options?: string): Promise<void> {
    stage = await setStage(options)
    crone = await stage.login('crone')
    wicca = await stage.login('wiccarocks')
    hag = await stage.login('hag')
  }

  afterEach(async () => { await stage[Symbol.asyncDispose]() })

  describe('entering and leaving', () => {
    beforeEach(() => set())

    it('§10.1: makes a room that is locked until its owner accepts it', async () => {
      crone.join('first')
      expect(await crone.news()).to.deep.equal([`presence:first owner/moderator ${crone.full} 170,201,110`, 'message:room subject='])
      wicca.join('second')
      expect(await wicca.news()).to.deep.equal(['error:item-not-found second'])
      expect(await crone.configure()).to.equal('done')
      wicca.join('second')
      expect(await wicca.news()).to.deep.equal(['presence:first owner/moderator', 'presence:second none/participant wiccarocks@localhost/desktop 170,110', 'message:room subject='])
      expect(await crone.news()).to.deep.equal(['presence:second none/participant wiccarocks@localhost/desktop'])
    })

    it('§10.1.3: a form that is cancelled takes the new room away', async () => {
      crone.join('first')
      expect(await crone.tries('set', `<query xmlns='${MUC}#owner'><x xmlns='jabber:x:data' type='cancel'/></query>`)).to.equal('done')
      expect((await crone.news()).at(-1)).to.equal('gone:first none/none destroyed 110')
      expect(await crone.tries('get', "<query xmlns='http://jabber.org/protocol/disco#info'/>")).to.equal('item-not-found')
    })

    it('§7.2: refuses with the reason that is there', async () => {
      crone.send(`<presence to='${ROOM}'><x xmlns='${MUC}'/></presence>`)
      expect(await crone.news()).to.deep.equal(['error:jid-malformed room'])
      await crone.found('first')
      wicca.join('first')
      expect(await wicca.news()).to.deep.equal(['error:conflict first'])
      await crone.configure({ 'muc#roomconfig_passwordprotectedroom': '1', 'muc#roomconfig_roomsecret': 'cauldronburn' })
      wicca.join('second', { inside: '<password>wrong</password>' })
      wicca.join('second')
      expect(await wicca.news()).to.deep.equal(['error:not-authorized second', 'error:not-authorized second'])
      wicca.join('second', { inside: '<password>cauldronburn</password>' })
      expect((await wicca.news())[0]).to.equal('presence:first owner/moderator')
      await crone.configure({ 'muc#roomconfig_passwordprotectedroom': '0', 'muc#roomconfig_membersonly': '1' })
      expect((await wicca.news()).slice(0, 2), '§10.2.1').to.deep.equal(['message:room 104', 'gone:second none/none wiccarocks@localhost/desktop 322,110'])
      hag.join('third')
      expect(await hag.news()).to.deep.equal(['error:registration-required third'])
      await crone.admin("<item affiliation='outcast' jid='hag@localhost'/>")
      hag.join('third')
      expect(await hag.news()).to.deep.equal(['error:forbidden third'])
      await crone.configure({ 'muc#roomconfig_membersonly': '0', 'muc#roomconfig_maxusers': '10' })
    })

    it('§7.2.9: a full room lets its owners in alone', async () => {
      await crone.found('first', { 'muc#roomconfig_maxusers': '1' })
      wicca.join('second')
      expect(await wicca.news()).to.deep.equal(['error:service-unavailable second'])
      await crone.admin("<item affiliation='admin' jid='wiccarocks@localhost'/>")
      wicca.join('second')
      expect((await wicca.news())[0]).to.equal('presence:first owner/moderator crone@localhost/desktop')
    })

    it('§7.2.3: shows real addresses to moderators, and in a room that says so to all', async () => {
      await crone.found('first', { 'muc#roomconfig_whois': 'anyone' })
      wicca.join('second')
      expect(await wicca.news()).to.deep.equal([`presence:first owner/moderator ${crone.full}`, `presence:second none/participant ${wicca.full} 100,170,110`, 'message:room subject='])
    })

    it('§7.14: leaving is seen, with its status; a session that ends leaves', async () => {
      await crone.found('first', { 'muc#roomconfig_persistentroom': '1' })
      wicca.join('second')
      hag.join('third')
      await hag.news()
      await wicca.news()
      await crone.news()
      wicca.send(`<presence to='${ROOM}/second' type='unavailable' id='bye'><status>gone where the goblins go</status></presence>`)
      expect(await wicca.news()).to.deep.equal([`gone:second none/none ${wicca.full} gone where the goblins go 110`])
      expect(await crone.news()).to.deep.equal([`gone:second none/none ${wicca.full} gone where the goblins go`])
      await hag.client.disconnect()
      await new Promise((resolve) => { setTimeout(resolve, 20) })
      expect(await crone.news()).to.deep.equal([`gone:third none/none ${hag.full}`])
    })

    it('§10.1: a temporary room ends with its last occupant; one that lasts stays', async () => {
      await crone.found('first')
      crone.send(`<presence to='${ROOM}/first' type='unavailable'/>`)
      await crone.news()
      expect(await crone.tries('get', "<query xmlns='http://jabber.org/protocol/disco#info'/>")).to.equal('item-not-found')
      await crone.found('first', { 'muc#roomconfig_persistentroom': '1', 'muc#roomconfig_roomname': 'A Dark Cave' })
      crone.send(`<presence to='${ROOM}/first' type='unavailable'/>`)
      await crone.news()
      const info = await wicca.ask('get', "<query xmlns='http://jabber.org/protocol/disco#info'/>")
      expect(info?.getChild('identity')?.attrs).to.include({ category: 'conference', type: 'text', name: 'A Dark Cave' })
    })

    it('§7.6: a nickname changes unless somebody has it', async () => {
      await crone.found('first')
      wicca.join('second')
      await wicca.news()
      await crone.news()
      wicca.send(`<presence to='${ROOM}/first'/>`)
      expect(await wicca.news()).to.deep.equal(['error:conflict first'])
      wicca.send(`<presence to='${ROOM}/oldhag'><show>away</show></presence>`)
      expect(await wicca.news()).to.deep.equal([`gone:second none/participant ${wicca.full} as oldhag 303,110`, `presence:oldhag none/participant ${wicca.full} 110`])
      expect(await crone.news()).to.deep.equal([`gone:second none/participant ${wicca.full} as oldhag 303`, `presence:oldhag none/participant ${wicca.full}`])
      wicca.say('still here')
      expect(await crone.news()).to.deep.equal(['message:oldhag still here'])
    })

    it('§7.2.17: a presence without a join tells a stranger that it is not in the room; an occupant that joins again is told everything', async () => {
      await crone.found('first')
      wicca.send(`<presence to='${ROOM}/second'/>`)
      expect(await wicca.news()).to.deep.equal(['gone:second none/none 110,307,333'])
      wicca.join('second')
      await wicca.news()
      crone.say('hello')
      await wicca.news()
      wicca.join('second')
      expect(await wicca.news()).to.deep.equal(['presence:first owner/moderator', `presence:second none/participant ${wicca.full} 170,110`, 'message:first hello delayed', 'message:room subject='])
    })

    it('one account may have the same nickname with several clients, which leave it one by one', async () => {
      await crone.found('first')
      const phone = await stage.login('wiccarocks', { resource: 'phone' })
      wicca.join('second')
      phone.join('second')
      await phone.news()
      await crone.news()
      crone.say('both')
      await crone.news()
      expect((await wicca.news()).at(-1)).to.equal('message:first both')
      expect(await phone.news()).to.deep.equal(['message:first both'])
      phone.send(`<presence to='${ROOM}/second' type='unavailable'/>`)
      expect((await phone.news())[0]).to.contain('gone:second')
      expect(await crone.news()).to.deep.equal([`presence:second none/participant ${wicca.full}`])
    })

    it('removes what only the room may say from presence and messages (XEP-0421 §4)', async () => {
      await crone.found('first')
      wicca.send(`<presence to='${ROOM}/second'><x xmlns='${MUC}'/><occupant-id xmlns='urn:xmpp:occupant-id:0' id='forged'/><x xmlns='${MUC}#user'><item affiliation='owner' role='moderator'/></x></presence>`)
      const [presence] = await crone.stanzas()
      const ids = presence?.getChildren('occupant-id', 'urn:xmpp:occupant-id:0') ?? []
      expect(ids).to.have.lengthOf(1)
      expect(ids[0]?.attrs['id']).to.match(/^[0-9a-f]{64}$/)
      expect(presence?.getChildren('x', `${MUC}#user`)).to.have.lengthOf(1)
      wicca.say('hi', { more: `<occupant-id xmlns='urn:xmpp:occupant-id:0' id='forged'/><stanza-id xmlns='${SID}' by='${ROOM}' id='forged'/><delay xmlns='urn:xmpp:delay' from='${ROOM}' stamp='2002-09-10T23:08:25Z'/><stanza-id xmlns='${SID}' by='elsewhere.example' id='kept'/>` })
      const [message] = await crone.stanzas()
      expect(message?.getChildren('occupant-id', 'urn:xmpp:occupant-id:0').map((each) => each.attrs['id'])).to.deep.equal([ids[0]?.attrs['id']])
      expect(message?.getChildren('stanza-id', SID).map((each) => each.attrs['by']).sort()).to.deep.equal([ROOM, 'elsewhere.example'])
      expect(message?.getChild('delay')).to.equal(undefined)
    })
  })

  describe('speaking', () => {
    beforeEach(async () => {
      await set()
      await crone.found('first')
      wicca.join('second')
      await wicca.news()
      await crone.news()
    })

    it('§7.4: reaches everybody, the sender too; only occupants may', async () => {
      wicca.say('hello', { id: 'abc' })
      const [echo] = await wicca.stanzas()
      expect(echo?.attrs).to.include({ id: 'abc', type: 'groupchat', from: `${ROOM}/second`, to: wicca.full })
      expect(await crone.news()).to.deep.equal(['message:second hello'])
      hag.say('boo')
      expect(await hag.news()).to.deep.equal(['error:not-acceptable room'])
      hag.say('boo', { room: 'nowhere@conference.localhost' })
      expect(await hag.news()).to.deep.equal(['error:item-not-found nowhere@conference.localhost'])
    })

    it('§7.5: private messages go to one occupant, when the room allows them', async () => {
      wicca.send(`<message to='${ROOM}/first' type='chat'><body>psst</body></message>`)
      const [message] = await crone.stanzas()
      expect(brief(message as never)).to.equal('message:second psst')
      expect(message?.getChild('x', `${MUC}#user`)?.getChildElements()).to.deep.equal([])
      wicca.send(`<message to='${ROOM}/nobody' type='chat'><body>psst</body></message>`)
      wicca.send(`<message to='${ROOM}/first' type='groupchat'><body>psst</body></message>`)
      hag.send(`<message to='${ROOM}/first' type='chat'><body>psst</body></message>`)
      expect(await wicca.news()).to.deep.equal(['error:item-not-found nobody', 'error:bad-request first'])
      expect(await hag.news()).to.deep.equal(['error:not-acceptable first'])
      await crone.configure({ 'muc#roomconfig_allowpm': 'none' })
      await wicca.news()
      wicca.send(`<message to='${ROOM}/first' type='chat'><body>psst</body></message>`)
      expect(await wicca.news()).to.deep.equal(['error:forbidden first'])
    })

    it('§7.5: private messages are kept in the archives of both, and who blocks one is not taken out of the room', async () => {
      const bodies = async (who: Person): Promise<(string | null | undefined)[]> => {
        await who.client.sendIq(`<iq type='set'><query xmlns='${MAM}'/></iq>`)
        return (await who.stanzas()).map((each) => each.getChild('result', MAM)?.getChild('forwarded', 'urn:xmpp:forward:0')?.getChild('message', 'jabber:client')?.getChildText('body')).filter((each) => each !== undefined)
      }
      wicca.send(`<message to='${ROOM}/first' type='chat'><body>psst</body></message>`)
      await wicca.news()
      expect(await bodies(wicca)).to.deep.equal(['psst'])
      expect(await bodies(crone)).to.deep.equal(['psst'])
      await crone.client.sendIq(`<iq type='set'><block xmlns='urn:xmpp:blocking'><item jid='${ROOM}/second'/></block></iq>`)
      wicca.send(`<message to='${ROOM}/first' type='chat'><body>psst</body></message>`)
      wicca.say('and to all')
      expect(await wicca.news()).to.deep.equal(['message:second and to all'])
      expect((await crone.news()).filter((each) => each.startsWith('message'))).to.deep.equal([])
      crone.say('still here')
      expect(await wicca.news()).to.deep.equal(['message:first still here'])
    })

    it('§17.3: a client that is not to be reached is taken out; one that dislikes a message is not', async () => {
      const error = (condition: string): string => `<message to='${ROOM}/first' type='error'><error type='cancel'><${condition} xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>`
      wicca.send(error('not-acceptable'))
      wicca.send(error('service-unavailable'))
      wicca.say('still here')
      expect(await crone.news()).to.deep.equal(['message:second still here'])
      wicca.send(error('recipient-unavailable'))
      await wicca.news()
      expect((await crone.news())[0]).to.match(/^gone:second none\/none .* 307,333$/)
    })

    it('§8.1: the subject is shown to who enters, with who set it', async () => {
      wicca.send(`<message to='${ROOM}' type='groupchat'><subject>Fire Burn and Cauldron Bubble!</subject></message>`)
      expect(await crone.news()).to.deep.equal(['message:second subject=Fire Burn and Cauldron Bubble!'])
      hag.join('third')
      expect((await hag.news()).at(-1)).to.equal('message:second subject=Fire Burn and Cauldron Bubble! delayed')
      await crone.configure({ 'muc#roomconfig_changesubject': '0' })
      hag.send(`<message to='${ROOM}' type='groupchat'><subject>no</subject></message>`)
      expect((await hag.news()).at(-1)).to.equal('error:forbidden room')
      hag.send(`<message to='${ROOM}' type='groupchat'><subject>no</subject><body>a message with a title</body></message>`)
      expect((await hag.news()).at(-1)).to.equal('message:third a message with a title subject=no')
    })

    it('§7.2.13: history, as much as is asked for', async () => {
      for (const text of ['one', 'two', 'three']) wicca.say(text)
      await wicca.news()
      hag.join('third')
      expect((await hag.news()).filter((each) => each.startsWith('message'))).to.deep.equal(['message:second one delayed', 'message:second two delayed', 'message:second three delayed', 'message:room subject='])
      for (const [ask, expected] of [["maxstanzas='1'", ['three']], ["maxchars='0'", []], ["maxstanzas='0'", []], ["seconds='1000'", ['one', 'two', 'three']], ["since='3000-01-01T00:00:00Z'", []], ["maxstanzas='2'", ['two', 'three']]] as const) {
        hag.join('third', { inside: `<history ${ask}/>` })
        expect((await hag.news()).filter((each) => each.endsWith('delayed')), ask).to.deep.equal(expected.map((text) => `message:second ${text} delayed`))
      }
    })

    it('§7.2.13: a room without an archive has history too', async () => {
      await crone.configure({ mam: '0', 'muc#maxhistoryfetch': '2' })
      for (const text of ['one', 'two', 'three']) wicca.say(text)
      await wicca.news()
      hag.join('third')
      expect((await hag.news()).filter((each) => each.endsWith('delayed'))).to.deep.equal(['message:second two delayed', 'message:second three delayed'])
      expect(await hag.tries('set', `<query xmlns='${MAM}'/>`)).to.equal('service-unavailable')
    })

    it('§8.6: in a moderated room visitors ask for voice', async () => {
      await crone.configure({ 'muc#roomconfig_moderatedroom': '1' })
      hag.join('third')
      expect((await hag.news()).filter((each) => each.includes('third'))).to.deep.equal([`presence:third none/visitor ${hag.full} 170,110`])
      hag.say('may I?')
      expect(await hag.news()).to.deep.equal(['error:forbidden room'])
      await crone.news()
      const field = (name: string, value: string): string => `<field var='${name}'><value>${value}</value></field>`
      const form = (fields: string): string => `<message to='${ROOM}'><x xmlns='jabber:x:data' type='submit'>${field('FORM_TYPE', `${MUC}#request`)}${fields}</x></message>`
      hag.send(form(field('muc#role', 'participant')))
      await hag.news()
      const [request] = await crone.stanzas()
      expect(request?.getChild('x', 'jabber:x:data')?.toString()).to.contain('muc#request_allow').and.to.contain(hag.full)
      expect(await wicca.news(), 'no moderator').to.not.include('message:room')
      crone.send(form(field('muc#role', 'participant') + field('muc#roomnick', 'third') + field('muc#request_allow', 'true')))
      await crone.news()
      expect(await hag.news()).to.deep.equal([`presence:third none/participant ${hag.full} by first 110`])
      hag.say('thanks')
      expect(await hag.news()).to.deep.equal(['message:third thanks'])
    })
  })

  describe('administration', () => {
    beforeEach(async () => {
      await set()
      await crone.found('first')
      wicca.join('second')
      hag.join('third')
      for (const each of [hag, wicca, crone]) await each.news()
    })

    it('§8.2: kicks', async () => {
      expect(await wicca.admin("<item nick='third' role='none'/>")).to.equal('forbidden')
      expect(await crone.admin("<item nick='third' role='none'><reason>Avaunt</reason></item>")).to.equal('done')
      expect(await hag.news()).to.deep.equal([`gone:third none/none ${hag.full} by first Avaunt 307,110`])
      expect(await wicca.news()).to.deep.equal(['gone:third none/none by first Avaunt 307'])
      expect(await crone.admin("<item nick='third' role='none'/>")).to.equal('item-not-found')
      await crone.admin("<item nick='second' role='moderator'/>")
      expect(await wicca.admin("<item nick='first' role='none'/>")).to.equal('not-allowed')
    })

    it('§8.3, §8.4, §9.6, §9.7: voice and moderators come and go', async () => {
      expect(await crone.admin("<item nick='second' role='visitor'/>")).to.equal('done')
      expect(await wicca.news()).to.deep.equal([`presence:second none/visitor ${wicca.full} by first 110`])
      expect(await crone.admin("<item nick='second' role='moderator'/>")).to.equal('done')
      expect(await wicca.news()).to.deep.equal([`presence:second none/moderator ${wicca.full} by first 110`])
      expect(await wicca.admin("<item nick='first' role='participant'/>")).to.equal('not-allowed')
      expect(await wicca.admin("<item nick='first' role='visitor'/>")).to.equal('not-allowed')
      expect(await wicca.admin("<item nick='third' role='moderator'/>")).to.equal('forbidden')
      expect(await crone.admin("<item nick='first' role='participant'/>")).to.equal('not-allowed')
      const list = await crone.ask('get', `<query xmlns='${MUC}#admin'><item role='moderator'/></query>`)
      expect(list?.getChildren('item').map((item) => item.attrs['nick'])).to.have.members(['first', 'second'])
    })

    it('§9.1, §9.2: bans, of servers too, and takes bans back', async () => {
      expect(await crone.admin("<item affiliation='outcast' jid='hag@localhost'><reason>Treason</reason></item>")).to.equal('done')
      expect(await hag.news()).to.deep.equal([`gone:third outcast/none ${hag.full} by first Treason 301,110`])
      const list = await crone.ask('get', `<query xmlns='${MUC}#admin'><item affiliation='outcast'/></query>`)
      expect(list?.getChildren('item').map((item) => [item.attrs['jid'], item.getChildText('reason')])).to.deep.equal([['hag@localhost', 'Treason']])
      expect(await wicca.tries('get', `<query xmlns='${MUC}#admin'><item affiliation='outcast'/></query>`)).to.equal('forbidden')
      await crone.admin("<item affiliation='none' jid='hag@localhost'/>")
      hag.join('third')
      expect((await hag.news())[0]).to.contain('presence:')
      expect(await crone.admin("<item affiliation='outcast' jid='crone@localhost'/>")).to.equal('conflict')
    })

    it('§9.3 to §10.8: affiliations, by those who may', async () => {
      expect(await crone.admin("<item affiliation='admin' nick='second'/>")).to.equal('done')
      expect(await wicca.news()).to.deep.equal([`presence:second admin/moderator ${wicca.full} by first 110`])
      expect(await wicca.admin("<item affiliation='owner' jid='hag@localhost'/>")).to.equal('forbidden')
      expect(await wicca.admin("<item affiliation='none' jid='crone@localhost'/>")).to.equal('not-allowed')
      expect(await wicca.admin("<item affiliation='member' jid='hag@localhost'/><item affiliation='member' jid='hecate@localhost'/>")).to.equal('done')
      expect(await hag.news()).to.deep.equal(['presence:second admin/moderator by first', `presence:third member/participant ${hag.full} by second 110`])
      expect(await crone.news(), '§9.3: of those who are not here').to.include('message:room member hecate@localhost')
      expect(await crone.admin("<item affiliation='none' jid='crone@localhost'/>"), 'the last owner').to.equal('conflict')
      expect(await hag.admin("<item affiliation='member' jid='hecate@localhost'/>")).to.equal('forbidden')
      expect(await crone.admin("<item affiliation='nonsense' jid='hecate@localhost'/>")).to.equal('bad-request')
      expect(await crone.admin("<item affiliation='member' jid='@'/>")).to.equal('jid-malformed')
      await crone.configure({ 'muc#roomconfig_membersonly': '1' })
      await hag.news()
      await crone.admin("<item affiliation='none' jid='hag@localhost'/>")
      expect(await hag.news()).to.deep.equal([`gone:third none/none ${hag.full} by first 321,110`])
    })

    it('a list of changes is done whole or not at all', async () => {
      expect(await crone.admin("<item affiliation='member' jid='hag@localhost'/><item affiliation='none' jid='crone@localhost'/>")).to.equal('conflict')
      const list = await crone.ask('get', `<query xmlns='${MUC}#admin'><item affiliation='member'/></query>`)
      expect(list?.getChildren('item')).to.deep.equal([])
    })

    it('§10.2: the configuration, with fields that nobody knows', async () => {
      expect(await wicca.configure({ 'muc#roomconfig_roomname': 'mine' })).to.equal('forbidden')
      expect(await wicca.tries('get', `<query xmlns='${MUC}#owner'/>`)).to.equal('forbidden')
      const form = (await crone.ask('get', `<query xmlns='${MUC}#owner'/>`))?.getChild('x', 'jabber:x:data')
      const names = form?.getChildren('field').map((field) => field.attrs['var'])
      for (const name of ['roomname', 'roomdesc', 'persistentroom', 'publicroom', 'membersonly', 'moderatedroom', 'whois', 'allowinvites', 'changesubject', 'allowpm', 'maxusers', 'roomsecret', 'enablearchiving', 'roomadmins', 'roomowners', 'getmemberlist', 'presencebroadcast']) {
        expect(names).to.include(`muc#roomconfig_${name}`)
      }
      // What Conversations asks for in a new private room.
      expect(await crone.configure({
        'muc#roomconfig_membersonly': '1', 'muc#roomconfig_publicroom': '0', 'muc#roomconfig_whois': 'anyone', 'muc#roomconfig_persistentroom': '1', 'muc#roomconfig_changesubject': '0', 'muc#roomconfig_allowinvites': '0',
        'muc#roomconfig_enablearchiving': '1', mam: '1', 'muc#roomconfig_mam': '1', 'muc#roomconfig_allowpm': 'anyone', '{http://prosody.im/protocol/muc}roomconfig_allowmemberinvites': '0', 'muc#roomconfig_something_new': 'yes',
      })).to.equal('done')
      expect(await crone.news()).to.include('message:room 172,104')
      const info = await crone.ask('get', "<query xmlns='http://jabber.org/protocol/disco#info'/>")
      const features = info?.getChildren('feature').map((feature) => feature.attrs['var'])
      expect(features).to.include.members(['muc_hidden', 'muc_membersonly', 'muc_nonanonymous', 'muc_persistent', 'muc_unmoderated', 'muc_unsecured', MAM, `${MAM}#extended`, 'urn:xmpp:occupant-id:0', 'urn:xmpp:message-moderate:1', 'urn:xmpp:message-retract:1', 'vcard-temp', `${MUC}#self-ping-optimization`, SID])
      const items = await wicca.ask('get', "<query xmlns='http://jabber.org/protocol/disco#items'/>", 'conference.localhost')
      expect(items?.getChildren('item')).to.deep.equal([])
      for (const bad of [{ 'muc#roomconfig_whois': 'cats' }, { 'muc#roomconfig_passwordprotectedroom': '1' }, { 'muc#roomconfig_maxusers': '1000000' }, { 'muc#roomconfig_roomowners': [] }, { 'muc#roomconfig_roomadmins': '@' }]) {
        expect(await crone.configure(bad), JSON.stringify(bad)).to.equal('not-acceptable')
      }
      expect(await crone.configure({ 'muc#roomconfig_roomadmins': ['hecate@localhost'] })).to.equal('done')
      const admins = await crone.ask('get', `<query xmlns='${MUC}#admin'><item affiliation='admin'/></query>`)
      expect(admins?.getChildren('item').map((item) => item.attrs['jid'])).to.deep.equal(['hecate@localhost'])
    })

    it('§10.9: a room is destroyed, with the place to go to', async () => {
      const destroy = `<query xmlns='${MUC}#owner'><destroy jid='coven@chat.example'><reason>Macbeth doth come.</reason></destroy></query>`
      expect(await wicca.tries('set', destroy)).to.equal('forbidden')
      wicca.say('remember me')
      await wicca.news()
      expect(await crone.tries('set', destroy)).to.equal('done')
      expect(await wicca.news()).to.deep.equal(['gone:second none/none destroyed coven@chat.example 110'])
      await crone.found('first')
      wicca.join('second')
      expect((await wicca.news()).filter((each) => each.includes('delayed')), 'another room of the same name').to.deep.equal([])
      const fin = await wicca.ask('set', `<query xmlns='${MAM}'/>`)
      expect(fin?.getChild('set')?.getChildText('count')).to.equal('0')
    })
  })

  describe('invitations', () => {
    beforeEach(async () => {
      await set()
      await crone.found('first', { 'muc#roomconfig_allowinvites': '1' })
      wicca.join('second')
      await wicca.news()
      await crone.news()
    })
    const invite = (to: string): string => `<message to='${ROOM}'><x xmlns='${MUC}#user'><invite to='${to}'><reason>Hey</reason></invite></x></message>`

    it('§7.8.2: go through the room, and so do answers', async () => {
      wicca.send(invite('hag@localhost'))
      await wicca.news()
      const [message] = await hag.stanzas()
      expect(brief(message as never)).to.equal(`message:room invite from ${ROOM}/second Hey`)
      expect(message?.getChild('x', 'jabber:x:conference')?.attrs['jid']).to.equal(ROOM)
      hag.send(`<message to='${ROOM}'><x xmlns='${MUC}#user'><decline to='${ROOM}/second'><reason>Sorry</reason></decline></x></message>`)
      await hag.news()
      expect(await wicca.news()).to.deep.equal(['message:room decline from hag@localhost Sorry'])
      const hecate = await stage.login('hecate')
      hag.send(`<message to='${ROOM}'><x xmlns='${MUC}#user'><decline to='hecate@localhost'/></x></message>`)
      expect(await hag.news()).to.deep.equal([])
      expect(await hecate.news(), 'no way to write to anybody').to.deep.equal([])
      hag.send(invite('hecate@localhost'))
      expect(await hag.news()).to.deep.equal(['error:not-acceptable room'])
      wicca.send(invite('@'))
      expect(await wicca.news()).to.deep.equal(['error:jid-malformed room'])
    })

    it('§7.8.2: make members in a room for members, when those who invite may', async () => {
      await crone.admin("<item affiliation='member' jid='wiccarocks@localhost'/>")
      await crone.configure({ 'muc#roomconfig_membersonly': '1' })
      wicca.send(invite('hag@localhost'))
      await wicca.news()
      hag.join('third')
      expect((await hag.news()).filter((each) => each.startsWith('presence:third'))).to.deep.equal([`presence:third member/participant ${hag.full} 170,110`])
      await crone.configure({ 'muc#roomconfig_allowinvites': '0' })
      await wicca.news()
      wicca.send(invite('hecate@localhost'))
      expect(await wicca.news()).to.deep.equal(['error:forbidden room'])
    })
  })

  describe('requests', () => {
    beforeEach(async () => {
      await set()
      await crone.found('first')
      wicca.join('second')
      await wicca.news()
      await crone.news()
    })

    it('XEP-0410: a ping to oneself says whether one is in the room', async () => {
      const ping = "<ping xmlns='urn:xmpp:ping'/>"
      expect(await wicca.tries('get', ping, `${ROOM}/second`)).to.equal('done')
      expect(await hag.tries('get', ping, `${ROOM}/third`)).to.equal('not-acceptable')
      expect(await hag.tries('get', ping, 'nowhere@conference.localhost/third')).to.equal('not-acceptable')
      expect(await wicca.tries('get', ping, `${ROOM}/nobody`)).to.equal('item-not-found')
      expect(await hag.tries('get', "<query xmlns='http://jabber.org/protocol/disco#info'/>", `${ROOM}/first`), 'XEP-0045 §6.6').to.equal('bad-request')
    })

    it('§17.4: go to other occupants, and their addresses stay hidden', async () => {
      const stop = crone.client.on((stanza) => {
        if (stanza.name === 'iq' && stanza.type === 'get') crone.send(`<iq type='result' id='${stanza.id}' to='${stanza.from}'><query xmlns='jabber:iq:version'><name>broom</name></query></iq>`)
      })
      const answer = await wicca.client.sendIq(`<iq type='get' id='same' to='${ROOM}/first'><query xmlns='jabber:iq:version'/></iq>`)
      stop()
      expect(answer.attrs).to.include({ from: `${ROOM}/first`, id: 'same', type: 'result' })
      expect(answer.getChild('query')?.getChildText('name')).to.equal('broom')
      await crone.client.sendIq("<iq type='set'><vCard xmlns='vcard-temp'><FN>Crone</FN></vCard></iq>")
      const card = await wicca.ask('get', "<vCard xmlns='vcard-temp'/>", `${ROOM}/first`)
      expect(card?.getChildText('FN')).to.equal('Crone')
      await crone.configure({ allow_query_users: '0' })
      expect(await wicca.tries('get', "<query xmlns='jabber:iq:version'/>", `${ROOM}/first`)).to.equal('not-allowed')
    })

    it('§6.3, XEP-0059: lists rooms page by page', async () => {
      for (const name of ['a', 'b', 'c']) await crone.found('first', {}, `${name}@conference.localhost`)
      const ask = async (set: string) => {
        const query = await wicca.ask('get', `<query xmlns='http://jabber.org/protocol/disco#items'><set xmlns='http://jabber.org/protocol/rsm'>${set}</set></query>`, 'conference.localhost')
        return `${query?.getChildren('item').map((item) => item.attrs['jid']?.split('@')[0]).join()} of ${query?.getChild('set')?.getChildText('count')}`
      }
      expect(await ask('')).to.equal('a,b,c,coven of 4')
      expect(await ask('<max>2</max>')).to.equal('a,b of 4')
      expect(await ask('<max>2</max><after>b@conference.localhost</after>')).to.equal('c,coven of 4')
      expect(await ask('<max>1</max><before/>')).to.equal('coven of 4')
      expect(await ask('<max>2</max><before>c@conference.localhost</before>')).to.equal('a,b of 4')
      const info = await wicca.ask('get', "<query xmlns='http://jabber.org/protocol/disco#info'/>", 'conference.localhost')
      expect(info?.getChild('identity')?.attrs).to.include({ category: 'conference', type: 'text' })
      const items = await wicca.ask('get', "<query xmlns='http://jabber.org/protocol/disco#items'/>", 'localhost')
      expect(items?.getChildren('item').map((item) => item.attrs['jid'])).to.include('conference.localhost')
    })

    it('XEP-0313: history is read by those who may enter, with addresses for those who may know them', async () => {
      wicca.say('one')
      crone.say('two')
      await crone.news()
      await wicca.news()
      const read = async (who: Person, inside = ''): Promise<string[]> => {
        await who.ask('set', `<query xmlns='${MAM}' queryid='q'>${inside}</query>`)
        return (await who.stanzas()).map((each) => each.getChild('result', MAM)).filter((each) => each !== undefined).map((result) => {
          const message = result.getChild('forwarded', 'urn:xmpp:forward:0')?.getChild('message', 'jabber:client')
          return `${message?.attrs['from']?.slice(ROOM.length + 1)} ${message?.getChildText('body')} ${message?.getChild('x', `${MUC}#user`)?.getChild('item')?.attrs['jid'] ?? '-'}`
        })
      }
      expect(await read(wicca)).to.deep.equal(['second one -', 'first two -'])
      expect(await read(crone)).to.deep.equal(['second one wiccarocks@localhost', 'first two crone@localhost'])
      expect(await read(hag)).to.deep.equal(['second one -', 'first two -'])
      const withForm = (jid: string): string => `<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>${MAM}</value></field><field var='with'><value>${jid}</value></field></x>`
      expect(await read(wicca, withForm(`${ROOM}/first`))).to.deep.equal(['first two -'])
      expect(await wicca.tries('set', `<query xmlns='${MAM}'>${withForm('crone@localhost')}</query>`)).to.equal('forbidden')
      expect(await read(crone, withForm('wiccarocks@localhost'))).to.deep.equal(['second one wiccarocks@localhost'])
      await crone.configure({ 'muc#roomconfig_membersonly': '1' })
      expect(await hag.tries('set', `<query xmlns='${MAM}'/>`)).to.equal('forbidden')
      crone.send(`<message to='${ROOM}' type='groupchat'><subject>Secrets</subject></message>`)
      await crone.news()
      for (const [who, expected] of [[hag, false], [crone, true]] as const) expect((await who.ask('get', "<query xmlns='http://jabber.org/protocol/disco#info'/>"))?.toString().includes('Secrets')).to.equal(expected)
      expect(await hag.tries('get', `<query xmlns='${MAM}'/>`)).to.equal('forbidden')
    })
  })
})
