import { expect } from 'chai'
import { openMemory } from '../storage/memory/memory.ts'
import { type Records } from '../storage/shapes.ts'
import { createRosters, type RosterChange, type RosterItem } from './rosters.ts'

const LIMITS = { rosterItems: 5, rosterCache: 2, pendingSubscriptions: 2 }
const juliet = 'juliet@example.net'

function item(jid: string, changes: Partial<RosterItem> = {}): RosterItem {
  return { jid, subscription: 'none', ask: false, approved: false, groups: [], ...changes }
}

describe('rosters', () => {
  it('finds after a restart what was written, and its version', () => {
    const { records } = openMemory()
    const before = createRosters(records, LIMITS)
    before.set(juliet, item('romeo@example.org', { name: 'Romeo', subscription: 'both', groups: ['Lovers'] }))
    before.set(juliet, item('paris@example.org', { subscription: 'to', ask: true, approved: true, pendingIn: '<presence/>' }))
    const after = createRosters(records, LIMITS)
    expect([...after.get(juliet).items.values()]).to.have.deep.members([...before.get(juliet).items.values()])
    expect(after.get(juliet).version).to.equal(before.get(juliet).version)
    expect(after.subscribers(juliet)).to.deep.equal(['romeo@example.org'])
    expect(after.subscriptions(juliet)).to.have.members(['romeo@example.org', 'paris@example.org'])
    expect(after.pendingRequests(juliet)).to.deep.equal(['<presence/>'])
  })

  it('tells the changes since a known version, once for each contact, and none for a version it never gave out', () => {
    const rosters = createRosters(openMemory().records, LIMITS)
    const start = rosters.get(juliet).version
    rosters.set(juliet, item('a@example.org'))
    const first = rosters.get(juliet).version
    rosters.set(juliet, item('b@example.org'))
    rosters.set(juliet, item('b@example.org', { name: 'B' }))
    rosters.remove(juliet, 'a@example.org')
    const changes = rosters.changesSince(juliet, first)
    expect(changes?.map((each) => [each.contact, each.item?.name])).to.deep.equal([['b@example.org', 'B'], ['a@example.org', undefined]])
    expect(changes?.at(-1)?.version).to.equal(rosters.get(juliet).version)
    expect(rosters.changesSince(juliet, rosters.get(juliet).version)).to.deep.equal([])
    expect(rosters.changesSince(juliet, start)).to.have.length(2)
    expect(rosters.changesSince(juliet, 'zz')).to.equal(undefined)
    expect(rosters.changesSince(juliet, 'not ours')).to.equal(undefined)
  })

  it('forgets old changes, and then asks for the whole roster', () => {
    const rosters = createRosters(openMemory().records, { ...LIMITS, rosterItems: 1000 })
    rosters.set(juliet, item('first@example.org'))
    const old = rosters.get(juliet).version
    for (let i = 0; i < 100; i++) rosters.set(juliet, item(`c${i}@example.org`))
    expect(rosters.changesSince(juliet, old)).to.equal(undefined)
  })

  it('tells nobody of a hidden item, nor of a write that changes nothing a client sees', () => {
    const rosters = createRosters(openMemory().records, LIMITS)
    const seen: RosterChange[] = []
    rosters.onChange((_, change) => { seen.push(change) })
    rosters.set(juliet, item('romeo@example.org', { hidden: true, pendingIn: '<presence/>' }))
    expect(seen).to.have.length(0)
    rosters.set(juliet, item('romeo@example.org', { pendingIn: '<presence/>' }))
    rosters.set(juliet, item('romeo@example.org'))
    expect(seen).to.have.length(1)
  })

  it('refuses more contacts and more unanswered requests than the limits', () => {
    const rosters = createRosters(openMemory().records, LIMITS)
    for (let i = 0; i < 5; i++) rosters.set(juliet, item(`c${i}@example.org`))
    expect(() => { rosters.set(juliet, item('c5@example.org')) }).to.throw('full')
    rosters.set(juliet, item('c4@example.org', { name: 'still possible' }))
    for (let i = 0; i < 2; i++) rosters.set(juliet, item(`p${i}@example.org`, { hidden: true, pendingIn: 'x' }))
    expect(() => { rosters.set(juliet, item('p2@example.org', { hidden: true, pendingIn: 'x' })) }).to.throw('full')
  })

  it('keeps no more rosters in memory than the limit and reads them again', () => {
    const { records } = openMemory()
    let scans = 0
    const counting: Records = { ...records, range: (...args) => { scans++; return records.range(...args) } }
    const rosters = createRosters(counting, LIMITS)
    for (const owner of ['a@h', 'b@h', 'c@h', 'a@h', 'a@h']) rosters.get(owner)
    expect(scans).to.equal(4)
  })

  it('erases a roster', () => {
    const rosters = createRosters(openMemory().records, LIMITS)
    rosters.set(juliet, item('romeo@example.org', { subscription: 'both' }))
    rosters.removeAll(juliet)
    expect(rosters.get(juliet).items.size).to.equal(0)
    expect(rosters.hasSubscriber(juliet, 'romeo@example.org')).to.equal(false)
  })
})
