/** What users see over federation: two servers, one user at each. */
import { expect } from 'chai'
import type { Client } from '../../lib/client/client.ts'
import type { Element } from '../../lib/xml/element.ts'
import { type Site, World } from './federation.fixture.ts'

const MUC = 'http://jabber.org/protocol/muc'
const MAM = 'urn:xmpp:mam:2'
const PUBSUB = 'http://jabber.org/protocol/pubsub'
const STANZAS = 'urn:ietf:params:xml:ns:xmpp-stanzas'

type Wanted = (element: Element) => boolean
const withId = (id: string): Wanted => ({ attrs }) => attrs['id'] === id
const presence = (from: string, type?: string): Wanted => ({ name, attrs }) => name === 'presence' && attrs['from'] === from && attrs['type'] === type
const conditionOf = (error: Element): string => error.getChild('error')?.getChildElements()[0]?.getName() ?? ''

describe('users of two servers', () => {
  let world: World
  let [a, b]: Site[] = []
  let romeo: Client
  let juliet: Client
  beforeEach(async () => {
    world = await World.begin()
    ;[a, b] = [await world.site('a.test'), await world.site('b.test')]
    ;[romeo, juliet] = [await a.login('romeo'), await b.login('juliet')]
  })
  afterEach(async () => { await world[Symbol.asyncDispose]() })

  async function befriend(): Promise<void> {
    for (const client of [romeo, juliet]) client.send('<presence/>')
    romeo.send("<presence to='juliet@b.test' type='subscribe'/>")
    await juliet.receive(presence('romeo@a.test', 'subscribe'))
    juliet.send("<presence to='romeo@a.test' type='subscribed'/><presence to='romeo@a.test' type='subscribe'/>")
    await romeo.receive(presence('juliet@b.test', 'subscribed'))
    await romeo.receive(presence('juliet@b.test', 'subscribe'))
    romeo.send("<presence to='juliet@b.test' type='subscribed'/>")
    await juliet.receive(presence('romeo@a.test', 'subscribed'))
    await Promise.all([romeo.receive(presence(juliet.jid)), juliet.receive(presence(romeo.jid))])
  }

  const rosterOf = async (client: Client, contact: string): Promise<string | undefined> =>
    (await client.sendIq("<iq type='get' id='roster'><query xmlns='jabber:iq:roster'/></iq>")).getChild('query', 'jabber:iq:roster')?.getChildren('item').find(({ attrs }) => attrs['jid'] === contact)?.attrs['subscription'] as string | undefined

  it('subscribe to each other, see each other come and go, and end it (RFC 6121 §3, §4)', async () => {
    await befriend()
    expect(await rosterOf(romeo, 'juliet@b.test')).to.equal('both')
    expect(await rosterOf(juliet, 'romeo@a.test')).to.equal('both')
    romeo.send('<presence><show>away</show></presence>')
    expect((await juliet.receive((element) => presence(romeo.jid)(element) && element.getChildText('show') === 'away')).attrs['to']).to.equal('juliet@b.test')
    // Who comes later is told by a probe.
    const phone = await b!.login('juliet', { resource: 'phone' })
    phone.send('<presence/>')
    expect((await phone.receive(presence(romeo.jid))).getChildText('show')).to.equal('away')
    romeo.destroy()
    await juliet.receive(presence(romeo.jid, 'unavailable'))
    const again = await a!.login('romeo')
    again.send('<presence/>')
    await again.receive(presence(juliet.jid))
    juliet.send("<presence to='romeo@a.test' type='unsubscribed'/>")
    await again.receive(presence('juliet@b.test', 'unsubscribed'))
    expect(await rosterOf(again, 'juliet@b.test')).to.equal('from')
    expect(await rosterOf(juliet, 'romeo@a.test')).to.equal('to')
  })

  it('find requests that came while they were offline (RFC 6121 §3.1.3)', async () => {
    juliet.destroy()
    romeo.send("<presence/><presence to='juliet@b.test' type='subscribe'/>")
    await romeo.sendIq("<iq type='get' id='v' to='b.test'><ping xmlns='urn:xmpp:ping'/></iq>")
    const later = await b!.login('juliet')
    later.send('<presence/>')
    await later.receive(presence('romeo@a.test', 'subscribe'))
  })

  it('have what they say in both archives, and offline (XEP-0313)', async () => {
    juliet.destroy()
    romeo.send("<message to='juliet@b.test' type='chat' id='m1'><body>Good night</body></message>")
    await romeo.sendIq("<iq type='get' id='v' to='b.test'><ping xmlns='urn:xmpp:ping'/></iq>")
    const later = await b!.login('juliet')
    later.send('<presence/>')
    expect((await later.receive(withId('m1'))).getChild('delay', 'urn:xmpp:delay')).to.not.equal(undefined)
    later.send(`<message to='${romeo.jid}' type='chat' id='m2'><body>Sweet sorrow</body></message>`)
    await romeo.receive(withId('m2'))
    for (const [client, contact] of [[romeo, 'juliet@b.test'], [later, 'romeo@a.test']] as const) {
      const found: string[] = []
      client.on((stanza) => { if (stanza.has('result', MAM)) found.push(/<body>([^<]*)</.exec(stanza.toString())?.[1] ?? '') })
      await client.sendIq(`<iq type='set' id='h'><query xmlns='${MAM}'><x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>${MAM}</value></field><field var='with'><value>${contact}</value></field></x></query></iq>`)
      expect(found).to.deep.equal(['Good night', 'Sweet sorrow'])
    }
  })

  it('cannot read each other\'s archives', async () => {
    const refused = await romeo.sendIq(`<iq type='set' id='h' to='juliet@b.test'><query xmlns='${MAM}'/></iq>`).then(() => 'answered', (error: unknown) => (error as { condition: string }).condition)
    expect(['forbidden', 'service-unavailable', 'item-not-found']).to.include(refused)
  })

  it('meet in a room of either server (XEP-0045)', async () => {
    for (const [room, host, guest] of [['coven@conference.b.test', juliet, romeo], ['tomb@conference.a.test', romeo, juliet]] as const) {
      host.send(`<presence to='${room}/host'><x xmlns='${MUC}'/></presence>`)
      await host.receive(presence(`${room}/host`))
      await host.sendIq(`<iq type='set' id='o' to='${room}'><query xmlns='${MUC}#owner'><x xmlns='jabber:x:data' type='submit'/></query></iq>`)
      host.send(`<message to='${room}' type='groupchat' id='g0'><body>Before</body></message>`)
      await host.receive((element) => element.name === 'message' && element.getChildText('body') === 'Before')
      guest.send(`<presence to='${room}/guest'><x xmlns='${MUC}'/></presence>`)
      const self = await guest.receive(presence(`${room}/guest`))
      expect(self.getChild('x', `${MUC}#user`)?.getChildren('status').some(({ attrs }) => attrs['code'] === '110')).to.equal(true)
      expect((await guest.receive((element) => element.getChildText('body') === 'Before')).attrs['from']).to.equal(`${room}/host`)
      await host.receive(presence(`${room}/guest`))
      guest.send(`<message to='${room}' type='groupchat' id='g1'><body>Hail</body></message>`)
      for (const client of [host, guest]) expect((await client.receive((element) => element.getChildText('body') === 'Hail')).attrs['from']).to.equal(`${room}/guest`)
      guest.send(`<message to='${room}/host' type='chat' id='p1'><body>Whisper</body><x xmlns='${MUC}#user'/></message>`)
      expect((await host.receive((element) => element.getChildText('body') === 'Whisper')).attrs['from']).to.equal(`${room}/guest`)
      host.send(`<iq type='set' id='k1' to='${room}'><query xmlns='${MUC}#admin'><item nick='guest' role='none'/></query></iq>`)
      const kicked = await guest.receive(presence(`${room}/guest`, 'unavailable'))
      expect(kicked.getChild('x', `${MUC}#user`)?.getChildren('status').some(({ attrs }) => attrs['code'] === '307')).to.equal(true)
    }
  })

  it('leave a room when their server is gone', async () => {
    const room = 'coven@conference.b.test'
    juliet.send(`<presence to='${room}/host'><x xmlns='${MUC}'/></presence>`)
    await juliet.receive(presence(`${room}/host`))
    await juliet.sendIq(`<iq type='set' id='o' to='${room}'><query xmlns='${MUC}#owner'><x xmlns='jabber:x:data' type='submit'/></query></iq>`)
    romeo.send(`<presence to='${room}/guest'><x xmlns='${MUC}'/></presence>`)
    await juliet.receive(presence(`${room}/guest`))
    romeo.destroy()
    await juliet.receive(presence(`${room}/guest`, 'unavailable'))
  })

  it('hear of what is published by their contacts, and ask for it (XEP-0163, XEP-0060)', async () => {
    await befriend()
    const node = 'http://jabber.org/protocol/mood'
    juliet.on((stanza) => {
      if (stanza.name === 'iq' && stanza.type === 'get' && stanza.has('query', 'http://jabber.org/protocol/disco#info')) {
        juliet.send(`<iq type='result' id='${stanza.id}' to='${stanza.from}'><query xmlns='http://jabber.org/protocol/disco#info'><identity category='client' type='pc'/><feature var='http://jabber.org/protocol/disco#info'/><feature var='${node}+notify'/></query></iq>`)
      }
    })
    // XEP-0115: SHA-1 of "client/pc//<http://jabber.org/protocol/disco#info<http://jabber.org/protocol/mood+notify<".
    const { createHash } = await import('node:crypto')
    const ver = createHash('sha1').update(`client/pc//<http://jabber.org/protocol/disco#info<${node}+notify<`).digest('base64')
    juliet.send(`<presence><c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='urn:test' ver='${ver}'/></presence>`)
    await romeo.receive((element) => presence(juliet.jid)(element) && element.getChild('c') !== undefined)
    await romeo.sendIq(`<iq type='set' id='p'><pubsub xmlns='${PUBSUB}'><publish node='${node}'><item id='now'><mood xmlns='${node}'><happy/></mood></item></publish></pubsub></iq>`)
    const event = await juliet.receive((element) => element.name === 'message' && element.getChild('event', `${PUBSUB}#event`) !== undefined)
    expect([event.attrs['from'], event.toString()]).to.satisfy(([from, text]: string[]) => from === 'romeo@a.test' && text!.includes('<happy'))
    const items = await juliet.sendIq(`<iq type='get' id='i' to='romeo@a.test'><pubsub xmlns='${PUBSUB}'><items node='${node}'/></pubsub></iq>`)
    expect(items.toString()).to.contain('<happy')
  })

  it('subscribe to nodes of a service of another server (XEP-0060)', async () => {
    await romeo.sendIq(`<iq type='set' id='c' to='pubsub.a.test'><pubsub xmlns='${PUBSUB}'><create node='news'/></pubsub></iq>`)
    await juliet.sendIq(`<iq type='set' id='s' to='pubsub.a.test'><pubsub xmlns='${PUBSUB}'><subscribe node='news' jid='juliet@b.test'/></pubsub></iq>`)
    juliet.send('<presence/>')
    await romeo.sendIq(`<iq type='set' id='p' to='pubsub.a.test'><pubsub xmlns='${PUBSUB}'><publish node='news'><item id='n1'><entry xmlns='http://www.w3.org/2005/Atom'><title>Banished</title></entry></item></publish></pubsub></iq>`)
    expect((await juliet.receive((element) => element.attrs['from'] === 'pubsub.a.test' && element.name === 'message')).toString()).to.contain('Banished')
  })

  it('block each other, also over federation (XEP-0191)', async () => {
    await befriend()
    await juliet.sendIq("<iq type='set' id='b'><block xmlns='urn:xmpp:blocking'><item jid='romeo@a.test'/></block></iq>")
    await romeo.receive(presence(juliet.jid, 'unavailable'))
    romeo.send("<message to='juliet@b.test' type='chat' id='m1'><body>Art thou not Juliet?</body></message>")
    expect(conditionOf(await romeo.receive(withId('m1')))).to.equal('service-unavailable')
    juliet.send("<message to='romeo@a.test' type='chat' id='m2'><body>No</body></message>")
    expect((await juliet.receive(withId('m2'))).getChild('error')?.getChild('not-acceptable', STANZAS)).to.not.equal(undefined)
  })

  it('learn that there is no such user', async () => {
    romeo.send("<message to='tybalt@b.test' type='chat' id='m1'><body>Hi</body></message><iq to='tybalt@b.test' type='get' id='q1'><query xmlns='jabber:iq:version'/></iq><presence to='tybalt@b.test'/>")
    const error = await romeo.receive(withId('m1'))
    expect([error.attrs['type'], error.attrs['from'], conditionOf(error)]).to.deep.equal(['error', 'tybalt@b.test', 'service-unavailable'])
    expect(conditionOf(await romeo.receive(withId('q1')))).to.equal('service-unavailable')
  })

  it('discover services of the other server, and exchange vCards', async () => {
    await juliet.sendIq("<iq type='set' id='vs'><vCard xmlns='vcard-temp'><FN>Juliet</FN></vCard></iq>")
    expect((await romeo.sendIq("<iq type='get' id='vg' to='juliet@b.test'><vCard xmlns='vcard-temp'/></iq>")).toString()).to.contain('Juliet')
    const items = await romeo.sendIq("<iq type='get' id='d' to='b.test'><query xmlns='http://jabber.org/protocol/disco#items'/></iq>")
    expect(items.toString()).to.contain('conference.b.test')
  })

  it('have carbons of what goes to and comes from another server (XEP-0280)', async () => {
    const phone = await a!.login('romeo', { resource: 'phone' })
    for (const client of [romeo, phone]) {
      client.send('<presence/>')
      await client.sendIq("<iq type='set' id='cc'><enable xmlns='urn:xmpp:carbons:2'/></iq>")
    }
    romeo.send(`<message to='juliet@b.test' type='chat' id='m1'><body>Sent</body></message>`)
    expect((await phone.receive((element) => element.getChild('sent', 'urn:xmpp:carbons:2') !== undefined)).toString()).to.contain('Sent')
    juliet.send(`<message to='${romeo.jid}' type='chat' id='m2'><body>Received</body></message>`)
    expect((await phone.receive((element) => element.getChild('received', 'urn:xmpp:carbons:2') !== undefined)).toString()).to.contain('Received')
  })
})
