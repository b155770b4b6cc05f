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
})
