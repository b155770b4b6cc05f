import { expect } from 'chai'
import { Jid } from '../../lib/jid.ts'
import { StanzaError } from '../../lib/stanza/errors.ts'
import { makeStanza, type Stanza } from '../../lib/stanza/stanza.ts'
import { openMemory } from '../storage/memory/memory.ts'
import { createPresence } from './presence.ts'
import { createRosters, type RosterItem } from './rosters.ts'
import { type Session } from './session.ts'

const LIMITS = { rosterItems: 1000, rosterCache: 100, pendingSubscriptions: 3 }
const juliet = 'juliet@example.net'
const romeo = 'romeo@example.org' // another server

/** A play: accounts of example.net are here, all else is routed away into `sent`. */
function stage() {
  const rosters = createRosters(openMemory().records, LIMITS)
  const byOwner = new Map<string, FakeSession[]>()
  const sent: Stanza[] = []
  const events: string[] = []
  const blocked = new Set<string>()
  const presence = createPresence({
    rosters,
    sessions: { of: (owner) => (byOwner.get(owner) ?? []) as unknown as Session[] },
    isLocalHost: (domain) => domain === 'example.net',
    accountExists: (bare) => !bare.startsWith('nobody'),
    mayReceive: (from, to) => !blocked.has(`${from.toString()} ${to.bare}`) && !blocked.has(`${from.toString()} ${to.toString()}`),
    route(stanza) {
      const to = Jid.parse(stanza.to ?? '')
      if (to.domain === 'example.net') presence.toAccount({ stanza, from: Jid.parse(stanza.from ?? ''), to })
      else sent.push(stanza)
    },
    onAvailable: (session, _, first) => { events.push(`available ${session.jid.resource} ${first}`) },
    onUnavailable: (session) => { events.push(`unavailable ${session.jid.resource}`) },
    directedPresences: 3,
  })
  function login(jid: string): FakeSession {
    const session = new FakeSession(jid)
    byOwner.set(session.owner, [...(byOwner.get(session.owner) ?? []), session])
    return session
  }
  function sends(session: FakeSession, attrs: Record<string, string> = {}, ...children: { name: string; xmlns: string; text: string }[]): void {
    presence.fromSession(session as unknown as Session, makeStanza('presence', { from: session.jid.toString(), ...attrs }, children))
  }
  function arrives(from: string, to: string, type?: string, id?: string): void {
    presence.toAccount({ stanza: makeStanza('presence', { from, to, type, id }), from: Jid.parse(from), to: Jid.parse(to) })
  }
  function contact(owner: string, jid: string, changes: Partial<RosterItem>): void {
    rosters.set(owner, { jid, subscription: 'none', ask: false, approved: false, groups: [], ...changes })
  }
  return { rosters, presence, sent, events, blocked, login, sends, arrives, contact, byOwner }
}

class FakeSession {
  readonly jid: Jid
  readonly owner: string
  readonly host: string
  presence: Stanza | undefined
  priority = 0
  interested = true
  readonly directed = new Set<string>()
  got: Stanza[] = []
  constructor(jid: string) {
    this.jid = Jid.parse(jid)
    this.owner = this.jid.bare
    this.host = this.jid.domain
  }
  changed(): void { /* nothing is stored here */ }
  send(stanza: Stanza): void { this.got.push(stanza) }
  /** What came since the last look: type and sender. */
  news(): string[] {
    const news = this.got.map(brief)
    this.got = []
    return news
  }
}

function brief(stanza: Stanza): string {
  return `${stanza.type ?? 'available'} ${stanza.from} > ${stanza.to}`
}

function conditionOf(run: () => void): string {
  try {
    run()
  } catch (error) {
    if (error instanceof StanzaError) return error.condition
    throw error
  }
  return 'none'
}

const PI = '<presence/>'
/** The nine states of RFC 6121 Appendix A.1. */
const STATES = {
  None: {},
  'None+PO': { ask: true },
  'None+PI': { pendingIn: PI },
  'None+PO+PI': { ask: true, pendingIn: PI },
  To: { subscription: 'to' },
  'To+PI': { subscription: 'to', pendingIn: PI },
  From: { subscription: 'from' },
  'From+PO': { subscription: 'from', ask: true },
  Both: { subscription: 'both' },
} as const satisfies Record<string, Partial<RosterItem>>
type State = keyof typeof STATES

function stateOf(item: RosterItem | undefined): string {
  const name = { none: 'None', to: 'To', from: 'From', both: 'Both' }[item?.subscription ?? 'none']
  return name + (item?.ask ? '+PO' : '') + (item?.pendingIn !== undefined ? '+PI' : '')
}

type Table = Record<State, [passed: boolean, next: State]>

const OUTBOUND: Record<string, Table> = {
  subscribe: {
    None: [true, 'None+PO'], 'None+PO': [true, 'None+PO'], 'None+PI': [true, 'None+PO+PI'], 'None+PO+PI': [true, 'None+PO+PI'],
    To: [true, 'To'], 'To+PI': [true, 'To+PI'], From: [true, 'From+PO'], 'From+PO': [true, 'From+PO'], Both: [true, 'Both'],
  },
  unsubscribe: {
    None: [true, 'None'], 'None+PO': [true, 'None'], 'None+PI': [true, 'None+PI'], 'None+PO+PI': [true, 'None+PI'],
    To: [true, 'None'], 'To+PI': [true, 'None+PI'], From: [true, 'From'], 'From+PO': [true, 'From'], Both: [true, 'From'],
  },
  subscribed: {
    None: [false, 'None'], 'None+PO': [false, 'None+PO'], 'None+PI': [true, 'From'], 'None+PO+PI': [true, 'From+PO'],
    To: [false, 'To'], 'To+PI': [true, 'Both'], From: [false, 'From'], 'From+PO': [false, 'From+PO'], Both: [false, 'Both'],
  },
  unsubscribed: {
    None: [false, 'None'], 'None+PO': [false, 'None+PO'], 'None+PI': [true, 'None'], 'None+PO+PI': [true, 'None+PO'],
    To: [false, 'To'], 'To+PI': [true, 'To'], From: [true, 'None'], 'From+PO': [true, 'None+PO'], Both: [true, 'To'],
  },
}

const INBOUND: Record<string, Table> = {
  subscribe: {
    None: [true, 'None+PI'], 'None+PO': [true, 'None+PO+PI'], 'None+PI': [false, 'None+PI'], 'None+PO+PI': [false, 'None+PO+PI'],
    To: [true, 'To+PI'], 'To+PI': [false, 'To+PI'], From: [false, 'From'], 'From+PO': [false, 'From+PO'], Both: [false, 'Both'],
  },
  unsubscribe: {
    None: [false, 'None'], 'None+PO': [false, 'None+PO'], 'None+PI': [true, 'None'], 'None+PO+PI': [true, 'None+PO'],
    To: [false, 'To'], 'To+PI': [true, 'To'], From: [true, 'None'], 'From+PO': [true, 'None+PO'], Both: [true, 'To'],
  },
  subscribed: {
    None: [false, 'None'], 'None+PO': [true, 'To'], 'None+PI': [false, 'None+PI'], 'None+PO+PI': [true, 'To+PI'],
    To: [false, 'To'], 'To+PI': [false, 'To+PI'], From: [false, 'From'], 'From+PO': [true, 'Both'], Both: [false, 'Both'],
  },
  unsubscribed: {
    None: [false, 'None'], 'None+PO': [true, 'None'], 'None+PI': [false, 'None+PI'], 'None+PO+PI': [true, 'None+PI'],
    To: [true, 'None'], 'To+PI': [true, 'None+PI'], From: [false, 'From'], 'From+PO': [true, 'From'], Both: [true, 'From'],
  },
}

describe('subscriptions (RFC 6121 Appendix A)', () => {
  for (const [type, table] of Object.entries(OUTBOUND)) {
    it(`A.2: a user sends ${type}`, () => {
      for (const [state, [passed, next]] of Object.entries(table)) {
        const { rosters, sent, login, sends, contact } = stage()
        const balcony = login(`${juliet}/balcony`)
        contact(juliet, romeo, STATES[state as State])
        sends(balcony, { to: `${romeo}/orchard`, type })
        expect(sent.filter((each) => each.type === type).map(brief), state).to.deep.equal(passed ? [`${type} ${juliet} > ${romeo}`] : [])
        expect(stateOf(rosters.item(juliet, romeo)), state).to.equal(next)
      }
    })
  }
  for (const [type, table] of Object.entries(INBOUND)) {
    it(`A.3: a user receives ${type}`, () => {
      for (const [state, [passed, next]] of Object.entries(table)) {
        const { rosters, login, sends, contact, arrives } = stage()
        const balcony = login(`${juliet}/balcony`)
        sends(balcony)
        balcony.news()
        contact(juliet, romeo, STATES[state as State])
        arrives(romeo, juliet, type)
        expect(balcony.news(), state).to.deep.equal(passed ? [`${type} ${romeo} > ${juliet}`] : [])
        expect(stateOf(rosters.item(juliet, romeo)), state).to.equal(next)
      }
    })
  }

  it('§3.1: between two accounts here, from the request to the first presence', () => {
    const { rosters, login, sends } = stage()
    const balcony = login(`${juliet}/balcony`)
    const kitchen = login('nurse@example.net/kitchen')
    sends(balcony)
    sends(kitchen)
    balcony.news()
    kitchen.news()
    sends(balcony, { to: 'nurse@example.net', type: 'subscribe' })
    expect(kitchen.news()).to.deep.equal([`subscribe ${juliet} > nurse@example.net`])
    expect(rosters.item('nurse@example.net', juliet)?.hidden).to.equal(true)
    sends(kitchen, { to: juliet, type: 'subscribed' })
    expect(balcony.news()).to.deep.equal([`subscribed nurse@example.net > ${juliet}`, `available nurse@example.net/kitchen > ${juliet}`])
    expect(rosters.isSubscribedTo(juliet, 'nurse@example.net')).to.equal(true)
    expect(rosters.item('nurse@example.net', juliet)).to.include({ subscription: 'from' }).and.not.have.property('hidden')
    sends(kitchen, { to: juliet, type: 'unsubscribed' })
    // §3.2.2: unavailable while the contact is still subscribed
    expect(balcony.news()).to.deep.equal([`unavailable nurse@example.net/kitchen > ${juliet}`, `unsubscribed nurse@example.net > ${juliet}`])
  })

  it('§3.1.3: a request is delivered at each login until it is answered', () => {
    const { arrives, login, sends } = stage()
    arrives(romeo, juliet, 'subscribe')
    const first = login(`${juliet}/balcony`)
    sends(first)
    expect(first.news()).to.include(`subscribe ${romeo} > ${juliet}`)
    const second = login(`${juliet}/chamber`)
    sends(second)
    expect(second.news()).to.include(`subscribe ${romeo} > ${juliet}`)
    sends(second, { to: romeo, type: 'unsubscribed' })
    const third = login(`${juliet}/garden`)
    sends(third)
    expect(third.news()).to.not.include(`subscribe ${romeo} > ${juliet}`)
  })

  it('§3.1.3: a request from somebody who has been blocked since is not delivered', () => {
    const { arrives, login, sends, blocked } = stage()
    arrives(romeo, juliet, 'subscribe')
    blocked.add(`${romeo} ${juliet}`)
    const balcony = login(`${juliet}/balcony`)
    sends(balcony)
    expect(balcony.news()).to.deep.equal([`available ${juliet}/balcony > ${juliet}`])
  })

  it('§3.1.3: a request of a subscriber is answered for the user, with their presence', () => {
    const { arrives, contact, sent, login, sends } = stage()
    contact(juliet, romeo, { subscription: 'from' })
    sends(login(`${juliet}/balcony`))
    sent.length = 0
    arrives(romeo, juliet, 'subscribe')
    expect(sent.map(brief)).to.deep.equal([`subscribed ${juliet} > ${romeo}`, `available ${juliet}/balcony > ${romeo}`])
  })

  it('§3.4: a request approved before is answered for the user, who is told by a push alone', () => {
    const { arrives, login, sends, rosters, sent } = stage()
    const balcony = login(`${juliet}/balcony`)
    sends(balcony)
    sends(balcony, { to: romeo, type: 'subscribed' })
    expect(rosters.item(juliet, romeo)).to.include({ approved: true, subscription: 'none' })
    expect(sent).to.have.length(0)
    balcony.news()
    arrives(romeo, juliet, 'subscribe')
    expect(sent.map(brief)).to.deep.equal([`subscribed ${juliet} > ${romeo}`, `available ${juliet}/balcony > ${romeo}`])
    expect(balcony.news()).to.deep.equal([])
    expect(rosters.item(juliet, romeo)?.subscription).to.equal('from')
  })

  it('§3.4: an approval taken back is not sent', () => {
    const { login, sends, contact, rosters, sent } = stage()
    contact(juliet, romeo, { approved: true })
    sends(login(`${juliet}/balcony`), { to: romeo, type: 'unsubscribed' })
    expect(rosters.item(juliet, romeo)?.approved).to.equal(false)
    expect(sent).to.have.length(0)
  })

  it('§8.5.1: a request to nobody is ignored, and strangers cannot fill a roster', () => {
    const { arrives, rosters } = stage()
    arrives(romeo, 'nobody@example.net', 'subscribe')
    expect(rosters.get('nobody@example.net').items.size).to.equal(0)
    for (let i = 0; i < 10; i++) arrives(`spam${i}@example.org`, juliet, 'subscribe')
    expect(rosters.pendingRequests(juliet)).to.have.length(LIMITS.pendingSubscriptions)
  })
})

describe('presence (RFC 6121 §4)', () => {
  it('§4.2: initial presence goes to subscribers and own resources, and contacts are probed', () => {
    const { login, sends, contact, sent, events } = stage()
    contact(juliet, romeo, { subscription: 'both' })
    contact(juliet, 'paris@example.org', { subscription: 'from' })
    contact(juliet, 'rosaline@example.org', { subscription: 'to' })
    contact(juliet, 'tybalt@example.org', { ask: true })
    const chamber = login(`${juliet}/chamber`)
    sends(chamber)
    sent.length = 0
    chamber.news()
    const balcony = login(`${juliet}/balcony`)
    sends(balcony)
    expect(sent.map(brief)).to.have.members([
      `available ${juliet}/balcony > ${romeo}`, `available ${juliet}/balcony > paris@example.org`,
      `probe ${juliet}/balcony > ${romeo}`, `probe ${juliet}/balcony > rosaline@example.org`,
    ])
    expect(chamber.news()).to.deep.equal([`available ${juliet}/balcony > ${juliet}`])
    expect(balcony.news()).to.deep.equal([`available ${juliet}/balcony > ${juliet}`, `available ${juliet}/chamber > ${juliet}/balcony`])
    expect(events).to.deep.equal(['available chamber true', 'available balcony true'])
  })

  it('§4.4: later presence is broadcast without probes', () => {
    const { login, sends, contact, sent, events } = stage()
    contact(juliet, romeo, { subscription: 'both' })
    const balcony = login(`${juliet}/balcony`)
    sends(balcony)
    sent.length = 0
    sends(balcony, {}, { name: 'show', xmlns: 'jabber:client', text: '<show>away</show>' })
    expect(sent.map(brief)).to.deep.equal([`available ${juliet}/balcony > ${romeo}`])
    expect(sent[0]?.toString()).to.contain('<show>away</show>')
    expect(events).to.have.length(1)
    sends(balcony, {}, { name: 'priority', xmlns: 'jabber:client', text: '<priority>-1</priority>' })
    expect(balcony.priority).to.equal(-1)
    expect(events.at(-1)).to.equal('available balcony false')
  })

  it('shows contacts here at once, unless the contact does not let it or one blocks the other', () => {
    const { login, sends, contact, blocked } = stage()
    for (const name of ['nurse', 'peter', 'samson']) {
      contact(juliet, `${name}@example.net`, { subscription: 'both' })
      if (name !== 'peter') contact(`${name}@example.net`, juliet, { subscription: 'both' })
      sends(login(`${name}@example.net/hall`))
    }
    blocked.add(`samson@example.net/hall ${juliet}`)
    blocked.add(`${juliet}/balcony samson@example.net`)
    const balcony = login(`${juliet}/balcony`)
    sends(balcony)
    expect(balcony.news().filter((each) => !each.includes(`${juliet}/balcony > ${juliet}`))).to.deep.equal([`available nurse@example.net/hall > ${juliet}/balcony`])
  })

  it('XEP-0191 §3.3: nothing goes to a blocked contact elsewhere, not even a probe', () => {
    const { login, sends, contact, blocked, sent } = stage()
    contact(juliet, romeo, { subscription: 'both' })
    contact(juliet, 'paris@example.org', { subscription: 'both' })
    blocked.add(`${juliet}/balcony ${romeo}`)
    const balcony = login(`${juliet}/balcony`)
    sends(balcony)
    sends(balcony, { type: 'unavailable' })
    expect(sent.map((each) => each.to)).to.deep.equal(['paris@example.org', 'paris@example.org', 'paris@example.org'])
  })

  it('XEP-0191 §6: a broadcast passes by the one resource of a contact that is blocked', () => {
    const { login, sends, contact, blocked } = stage()
    contact(juliet, 'nurse@example.net', { subscription: 'from' })
    const [hall, kitchen] = ['hall', 'kitchen'].map((resource) => {
      const session = login(`nurse@example.net/${resource}`)
      sends(session)
      return session
    }) as [FakeSession, FakeSession]
    hall.news()
    kitchen.news()
    blocked.add(`${juliet}/balcony nurse@example.net/hall`)
    sends(login(`${juliet}/balcony`))
    expect(hall.news()).to.deep.equal([])
    expect(kitchen.news()).to.deep.equal([`available ${juliet}/balcony > nurse@example.net`])
  })

  it('§4.5: unavailable presence goes where the presence went, also when the session is lost', () => {
    for (const how of ['sent', 'lost']) {
      const { login, sends, contact, sent, presence, events } = stage()
      contact(juliet, romeo, { subscription: 'from' })
      const chamber = login(`${juliet}/chamber`)
      const balcony = login(`${juliet}/balcony`)
      sends(chamber)
      sends(balcony)
      sends(balcony, { to: 'room@muc.example.com/jule' })
      sends(balcony, { to: `${romeo}/orchard` })
      sends(balcony, { to: juliet })
      sent.length = 0
      chamber.news()
      balcony.news()
      if (how === 'sent') sends(balcony, { type: 'unavailable' })
      else presence.sessionGone(balcony as unknown as Session)
      expect(sent.map(brief)).to.deep.equal([`unavailable ${juliet}/balcony > ${romeo}`, `unavailable ${juliet}/balcony > room@muc.example.com/jule`])
      expect(chamber.news(), 'once').to.deep.equal([`unavailable ${juliet}/balcony > ${juliet}`])
      // §4.5.2: also to the resource that sent it
      if (how === 'sent') expect(balcony.news()).to.deep.equal([`unavailable ${juliet}/balcony > ${juliet}`])
      expect(balcony.presence).to.equal(undefined)
      expect(events.at(-1)).to.equal('unavailable balcony')
      sent.length = 0
      presence.sessionGone(balcony as unknown as Session)
      expect(sent, 'only once').to.have.length(0)
    }
  })

  it('§4.6: directed presence is remembered until it is taken back, refused or too much', () => {
    const { login, sends, arrives } = stage()
    const balcony = login(`${juliet}/balcony`)
    sends(balcony, { to: 'room@muc.example.com/jule' })
    sends(balcony, { to: 'other@muc.example.com/jule' })
    sends(balcony, { to: 'third@muc.example.com/jule' })
    expect(conditionOf(() => { sends(balcony, { to: 'fourth@muc.example.com/jule' }) })).to.equal('resource-constraint')
    sends(balcony, { to: 'room@muc.example.com/jule', type: 'unavailable' })
    sends(balcony, { to: 'third@muc.example.com/jule', type: 'unavailable' })
    arrives('other@muc.example.com/jule', `${juliet}/balcony`, 'error')
    expect(balcony.directed.size).to.equal(0)
    expect(balcony.news()).to.deep.equal([`error other@muc.example.com/jule > ${juliet}/balcony`])
  })

  it('§4.3.2: answers a probe by what the asker may see', () => {
    const { login, sends, contact, sent, arrives } = stage()
    contact(juliet, romeo, { subscription: 'from' })
    contact(juliet, 'paris@example.org', { hidden: true, pendingIn: PI })
    arrives(`${romeo}/orchard`, juliet, 'probe', 'p1')
    expect(sent.map(brief)).to.deep.equal([`unavailable ${juliet} > ${romeo}/orchard`])
    expect(sent[0]?.id, '§4.3.2.1').to.equal('p1')
    sends(login(`${juliet}/balcony`))
    sends(login(`${juliet}/chamber`))
    sent.length = 0
    arrives(`${romeo}/orchard`, juliet, 'probe')
    expect(sent.map(brief)).to.deep.equal([`available ${juliet}/balcony > ${romeo}/orchard`, `available ${juliet}/chamber > ${romeo}/orchard`])
    sent.length = 0
    arrives('tybalt@example.org/x', juliet, 'probe', 'p2')
    arrives('tybalt@example.org/x', 'nobody@example.net', 'probe', 'p2')
    expect(sent.map((each) => each.id), '§4.3.2.1').to.deep.equal(['p2', 'p2'])
    expect(sent.map(brief)).to.deep.equal([`unsubscribed ${juliet} > tybalt@example.org`, 'unsubscribed nobody@example.net > tybalt@example.org'])
    sent.length = 0
    arrives('paris@example.org/x', juliet, 'probe')
    expect(sent, 'a pending request is not refused').to.have.length(0)
  })

  it('§4.7: refuses a priority out of range, unknown types and bad addresses', () => {
    const { login, sends, arrives } = stage()
    const balcony = login(`${juliet}/balcony`)
    const priority = (text: string) => ({ name: 'priority', xmlns: 'jabber:client', text: `<priority>${text}</priority>` })
    for (const bad of ['128', '-129', 'high', '1.5']) expect(conditionOf(() => { sends(balcony, {}, priority(bad)) }), bad).to.equal('bad-request')
    expect(balcony.presence).to.equal(undefined)
    sends(balcony, {}, priority('127'))
    expect(balcony.priority).to.equal(127)
    expect(conditionOf(() => { sends(balcony, { type: 'dancing' }) })).to.equal('bad-request')
    expect(conditionOf(() => { sends(balcony, { type: 'dancing', to: romeo }) })).to.equal('bad-request')
    expect(conditionOf(() => { sends(balcony, { type: 'subscribe' }) })).to.equal('bad-request')
    expect(conditionOf(() => { sends(balcony, { to: 'a@@b' }) })).to.equal('jid-malformed')
    expect(conditionOf(() => { arrives(romeo, juliet, 'dancing') })).to.equal('bad-request')
  })

  it('§8.5: presence for a bare JID reaches available resources, negative priority or not', () => {
    const { login, sends, arrives } = stage()
    const balcony = login(`${juliet}/balcony`)
    const chamber = login(`${juliet}/chamber`)
    sends(balcony, {}, { name: 'priority', xmlns: 'jabber:client', text: '<priority>-5</priority>' })
    balcony.news()
    arrives(`${romeo}/orchard`, juliet)
    arrives(`${romeo}/orchard`, juliet, 'error')
    arrives(`${romeo}/orchard`, `${juliet}/gone`)
    expect(balcony.news()).to.deep.equal([`available ${romeo}/orchard > ${juliet}`])
    expect(chamber.news()).to.deep.equal([])
  })

  it('shows a session restored after a restart what it missed, also who is gone (RFC 6121 §4.3.2)', () => {
    const { login, sends, contact, arrives, presence, blocked } = stage()
    for (const name of ['nurse', 'friar', 'tybalt']) {
      contact(juliet, `${name}@example.net`, { subscription: 'to' })
      contact(`${name}@example.net`, juliet, { subscription: 'from' })
    }
    contact(juliet, 'paris@example.net', { subscription: 'to' })
    contact('peter@example.net', juliet, { subscription: 'from' })
    blocked.add(`tybalt@example.net ${juliet}/balcony`)
    login('friar@example.net/cell')
    sends(login('nurse@example.net/kitchen'))
    // RFC 6121 §3.1.3: it is no new resource, to which requests would be delivered anew.
    arrives(romeo, juliet, 'subscribe')
    const balcony = login(`${juliet}/balcony`)
    balcony.presence = makeStanza('presence', { from: `${juliet}/balcony` })
    presence.resumedAfterRestart(balcony as unknown as Session)
    expect(balcony.news()).to.deep.equal([`available nurse@example.net/kitchen > ${juliet}/balcony`, `unavailable friar@example.net > ${juliet}/balcony`])
  })
})
