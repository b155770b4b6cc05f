import { expect } from 'chai'
import type { Element } from '../../../lib/xml/element.ts'
import { MUC, type Person, ROOM, setStage, type Stage } from './muc.fixture.ts'

const CARBONS = 'urn:xmpp:carbons:2'
const enable = `<enable xmlns='${CARBONS}'/>`
const copied = (stanza: Element, direction: 'sent' | 'received'): Element | undefined => stanza.getChild(direction, CARBONS)?.getChild('forwarded', 'urn:xmpp:forward:0')?.getChild('message', 'jabber:client')
const idOf = (stanza: Element | undefined, by: string): string | undefined => stanza?.getChildren('stanza-id', 'urn:xmpp:sid:0').find((each) => each.attrs['by'] === by)?.attrs['id']

describe('private messages of rooms and the other clients of an account (XEP-0045 §7.5, XEP-0280 §6.1)', () => {
  let stage: Stage
  let crone: Person
  let hag: Person
  let phone: Person
  let tablet: Person

  beforeEach(async () => {
    stage = await setStage()
    crone = await stage.login('crone')
    hag = await stage.login('hag')
    phone = await stage.login('hag', { resource: 'phone', sm: true })
    tablet = await stage.login('hag', { resource: 'tablet' })
    await crone.found('first')
    for (const each of [hag, phone, tablet]) await each.ask('set', enable, each.bare)
    for (const each of [hag, phone]) each.join('hag')
    for (const each of [hag, phone, tablet, crone]) await each.news()
  })
  afterEach(async () => { await stage[Symbol.asyncDispose]() })

  const tell = async (text: string): Promise<void> => {
    crone.send(`<message to='${ROOM}/hag' type='chat'><body>${text}</body></message>`)
    await crone.news()
  }

  it('reach each client that is in the room under its own address, with the id in the archive', async () => {
    await tell('psst')
    const [[first], [second]] = [await hag.stanzas(), await phone.stanzas()]
    expect([first?.attrs['to'], second?.attrs['to']]).to.deep.equal([hag.full, phone.full])
    const id = idOf(first, 'hag@localhost')
    expect(id).to.match(/^[0-9a-v]{22}$/)
    expect(idOf(second, 'hag@localhost')).to.equal(id)
    expect(await tablet.stanzas()).to.deep.equal([])
    await hag.ask('set', "<query xmlns='urn:xmpp:mam:2'/>", hag.bare)
    expect((await hag.stanzas()).map((each) => each.getChild('result', 'urn:xmpp:mam:2')?.attrs['id'])).to.deep.equal([id])
  })

  it('are copied to the clients of the sender that have the same nickname, marked, and to no others', async () => {
    phone.send(`<message to='${ROOM}/first' type='chat' id='pm'><body>psst</body></message>`)
    expect(await phone.news()).to.deep.equal([])
    const [copy, ...rest] = await hag.stanzas()
    expect(rest).to.deep.equal([])
    const sent = copied(copy as Element, 'sent')
    expect(sent?.attrs).to.include({ from: phone.full, to: `${ROOM}/first`, id: 'pm' })
    expect(sent?.getChild('x', `${MUC}#user`)).to.not.equal(undefined)
    expect(idOf(sent, 'hag@localhost')).to.match(/^[0-9a-v]{22}$/)
    expect(await tablet.stanzas()).to.deep.equal([])
    // Another nickname in the room is somebody else there.
    tablet.join('other')
    for (const each of [hag, phone, tablet, crone]) await each.news()
    phone.send(`<message to='${ROOM}/first' type='chat'><body>again</body></message>`)
    await phone.news()
    expect((await hag.stanzas()).length).to.equal(1)
    expect(await tablet.stanzas()).to.deep.equal([])
  })

  it('do not come twice when one of the clients never comes back', async () => {
    phone.client.acknowledges = false
    await tell('psst')
    expect((await hag.stanzas()).length).to.equal(1)
    stage.tidings.server.sessions.get(phone.full)?.close()
    expect((await hag.news()).filter((each) => each.startsWith('message'))).to.deep.equal([])
    expect((await tablet.news()).filter((each) => each.startsWith('message'))).to.deep.equal([])
  })
})
