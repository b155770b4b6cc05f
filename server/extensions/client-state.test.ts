import { expect } from 'chai'
import type { Session } from '../sessions/session.ts'
import { clientState } from './client-state.ts'
import { fakeParts, stanza, type FakeSession } from './fake-parts.ts'

const presence = (from: string, show: string) => `<presence xmlns='jabber:client' from='${from}'><show>${show}</show></presence>`
const chatState = (from: string, state: string) => `<message xmlns='jabber:client' type='chat' from='${from}'><${state} xmlns='http://jabber.org/protocol/chatstates'/><no-store xmlns='urn:xmpp:hints'/></message>`
const event = (node: string, item: string, text: string) => `<message xmlns='jabber:client' type='headline' from='romeo@example.org'><event xmlns='http://jabber.org/protocol/pubsub#event'><items node='${node}'><item id='${item}'>${text}</item></items></event></message>`
const body = "<message xmlns='jabber:client' type='chat' from='romeo@example.org/x'><body>hi</body></message>"

describe('XEP-0352 client state indication', () => {
  function stage(options: Record<string, unknown> = {}) {
    const fake = fakeParts()
    fake.start(clientState, options)
    const session = fake.login('juliet@example.net/phone') as FakeSession & Session
    const says = (name: string) => fake.nonzas.get(`urn:xmpp:csi:0 ${name}`)?.(session, stanza(`<${name} xmlns='urn:xmpp:csi:0'/>`))
    const gets = (...texts: string[]) => { for (const text of texts) session.send(stanza(text)) }
    const seen = () => session.sent.splice(0).map((each) => each.toString())
    return { fake, session, says, gets, seen }
  }

  it('§4.1: is a stream feature after login', () => {
    expect(stage().fake.features.after()).to.contain("<csi xmlns='urn:xmpp:csi:0'/>")
  })

  it('§4.2: while inactive only the latest presence of each sender is kept, and comes when active', () => {
    const { says, gets, seen } = stage()
    gets(presence('romeo@example.org/x', 'chat'))
    expect(seen()).to.have.length(1)
    says('inactive')
    gets(presence('romeo@example.org/x', 'away'), presence('nurse@example.org/y', 'away'), presence('romeo@example.org/x', 'dnd'))
    expect(seen()).to.have.length(0)
    says('active')
    const got = seen()
    expect(got).to.have.length(2)
    expect(got[1]).to.contain('dnd')
    gets(presence('romeo@example.org/x', 'xa'))
    expect(seen()).to.have.length(1)
  })

  it('chat states wait, and a message takes the place of its sender\'s', () => {
    const { says, gets, seen } = stage()
    says('inactive')
    gets(chatState('romeo@example.org/x', 'composing'), chatState('nurse@example.org/y', 'composing'))
    expect(seen()).to.have.length(0)
    gets(body)
    const got = seen()
    expect(got).to.have.length(2)
    expect(got[0]).to.contain('nurse')
    expect(got[1]).to.contain('<body>')
  })

  it('copies of chat states that came wait too, those of the user\'s other clients do not (XEP-0280 §10.2)', () => {
    const { says, gets, seen } = stage()
    const copy = (direction: string, inner: string, from = 'juliet@example.net') =>
      `<message xmlns='jabber:client' type='chat' from='${from}' to='juliet@example.net/phone'><${direction} xmlns='urn:xmpp:carbons:2'><forwarded xmlns='urn:xmpp:forward:0'>${inner}</forwarded></${direction}></message>`
    says('inactive')
    gets(copy('received', chatState('romeo@example.org/x', 'composing')), chatState('nurse@example.org/x', 'active'), chatState('romeo@example.org/y', 'paused'))
    expect(seen()).to.have.length(0)
    gets(copy('received', body))
    expect(seen().map((text) => /composing|paused|active|<body>/.exec(text)?.[0])).to.deep.equal(['active', '<body>'])
    gets(copy('sent', chatState('juliet@example.net/desk', 'active')))
    expect(seen(), 'the user is at the other client').to.have.length(1)
    gets(copy('received', chatState('nurse@example.org/y', 'composing'), 'romeo@example.org'))
    expect(seen(), 'that is no copy, whatever it says').to.have.length(1)
  })

  it('chat states in a room are those of each occupant', () => {
    const { says, gets, seen } = stage()
    const state = (nick: string, name: string) => chatState(`room@muc.example.org/${nick}`, name).replace("'chat'", "'groupchat'")
    says('inactive')
    gets(state('romeo', 'composing'), state('tybalt', 'composing'), state('romeo', 'paused'))
    expect(seen()).to.have.length(0)
    gets(body.replace("'chat'", "'groupchat'").replace('romeo@example.org/x', 'room@muc.example.org/romeo'))
    expect(seen().map((text) => /room@muc.example.org\/\w+/.exec(text)?.[0])).to.deep.equal(['room@muc.example.org/tybalt', 'room@muc.example.org/romeo'])
  })

  it('of personal events the latest of each item is kept', () => {
    const { says, gets, seen } = stage()
    says('inactive')
    gets(event('urn:tune', 'current', 'one'), event('urn:marks', 'a', 'two'), event('urn:marks', 'b', 'three'), event('urn:tune', 'current', 'four'))
    says('active')
    expect(seen().map((text) => /one|two|three|four/.exec(text)?.[0])).to.deep.equal(['two', 'three', 'four'])
  })

  it('what matters goes at once', () => {
    const { says, gets, seen } = stage()
    says('inactive')
    const urgent = [
      body,
      "<iq xmlns='jabber:client' type='get' id='1' from='romeo@example.org/x'><ping xmlns='urn:xmpp:ping'/></iq>",
      "<presence xmlns='jabber:client' type='subscribe' from='romeo@example.org'/>",
      "<message xmlns='jabber:client' type='error' from='romeo@example.org/x'><composing xmlns='http://jabber.org/protocol/chatstates'/></message>",
      "<message xmlns='jabber:client' from='romeo@example.org/x'><propose xmlns='urn:xmpp:jingle-message:0' id='1'/></message>",
      "<presence xmlns='jabber:client' from='room@muc.example.org/me'><x xmlns='http://jabber.org/protocol/muc#user'><status code='110'/></x></presence>",
    ]
    for (const text of urgent) {
      gets(text)
      expect(seen(), text).to.have.length(1)
    }
  })

  it('§5.1: a resumed stream is active', () => {
    const { fake, session, says, gets, seen } = stage()
    says('inactive')
    gets(presence('romeo@example.org/x', 'away'))
    fake.hooks.runResumed(session)
    expect(session.active).to.equal(true)
    expect(seen()).to.have.length(1)
  })

  it('holds only what the options say', () => {
    const { says, gets, seen } = stage({ queue_presence: false, queue_chat_states: false, queue_pep: false })
    says('inactive')
    gets(presence('romeo@example.org/x', 'away'), chatState('romeo@example.org/x', 'paused'), event('n', 'i', 't'))
    expect(seen()).to.have.length(3)
  })
})
