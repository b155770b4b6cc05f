import { expect } from 'chai'
import type { StanzaError } from '../../lib/stanza/errors.ts'
import type { Session } from '../sessions/session.ts'
import { conditionOf, fakeParts } from './fake-parts.ts'
import { lastActivity } from './last-activity.ts'

const QUERY = "<query xmlns='jabber:iq:last'/>"
const juliet = 'juliet@example.net'

describe('XEP-0012 last activity', () => {
  it('§5: the uptime of the server', async () => {
    const fake = fakeParts()
    fake.start(lastActivity)
    fake.clock.now += 61_500
    expect((await fake.ask('romeo@example.org/x', 'get', QUERY, 'example.net')).getChild('query')?.attrs['seconds']).to.equal('61')
  })

  it('§5: a reload is no start', async () => {
    const fake = fakeParts()
    fake.start(lastActivity)
    fake.clock.now += 10_000
    const reloaded = fakeParts()
    reloaded.start(lastActivity, {}, { lasting: fake.parts.lasting, now: () => fake.clock.now })
    expect((await reloaded.ask('romeo@example.org/x', 'get', QUERY, 'example.net')).getChild('query')?.attrs['seconds']).to.equal('10')
  })

  it('§3: who is connected is there, available or not', async () => {
    const fake = fakeParts()
    fake.start(lastActivity)
    const asks = () => fake.ask(`${juliet}/two`, 'get', QUERY, juliet)
    const one = fake.login(`${juliet}/one`, false)
    expect((await asks()).getChild('query')?.attrs['seconds']).to.equal('0')
    fake.logout(one)
    fake.hooks.runClosed(one as unknown as Session)
    fake.clock.now += 7_000
    expect((await asks()).getChild('query')?.attrs['seconds']).to.equal('7')
  })

  it('§4: a query to a full JID passes for those who see the presence alone', () => {
    const fake = fakeParts()
    fake.start(lastActivity)
    fake.rosters.set(juliet, { jid: 'romeo@example.org', subscription: 'from', ask: false, approved: false, groups: [] })
    const passes = (from: string, type: string, query = QUERY): boolean => {
      try {
        fake.hooks.runCheckIncoming(fake.delivery(`<iq xmlns='jabber:client' type='${type}' id='1' from='${from}' to='${juliet}/balcony'>${query}</iq>`))
        return true
      } catch (error) {
        expect((error as StanzaError).condition).to.equal('forbidden')
        return false
      }
    }
    expect(passes('romeo@example.org/x', 'get')).to.equal(true)
    expect(passes('tybalt@example.org/x', 'get')).to.equal(false)
    expect(passes('tybalt@example.org/x', 'get', "<query xmlns='jabber:iq:version'/>")).to.equal(true)
    expect(passes('tybalt@example.org/x', 'result')).to.equal(true)
    expect(passes(`${juliet}/other`, 'get')).to.equal(true)
  })

  it('§3: seconds since the last session left; 0 while one is there; only for those who see the presence', async () => {
    const fake = fakeParts()
    fake.start(lastActivity)
    fake.rosters.set(juliet, { jid: 'romeo@example.org', subscription: 'both', ask: false, approved: false, groups: [] })
    const asks = (from: string) => fake.ask(from, 'get', QUERY, juliet)
    expect(conditionOf(await asks('romeo@example.org/x'))).to.equal('item-not-found')
    const one = fake.login(`${juliet}/one`)
    const two = fake.login(`${juliet}/two`)
    expect((await asks('romeo@example.org/x')).getChild('query')?.attrs['seconds']).to.equal('0')
    fake.logout(one)
    fake.hooks.runUnavailable(one as unknown as Session)
    fake.clock.now += 5_000
    fake.logout(two)
    fake.hooks.runUnavailable(two as unknown as Session)
    fake.clock.now += 10_000
    expect((await asks('romeo@example.org/x')).getChild('query')?.attrs['seconds']).to.equal('10')
    expect(conditionOf(await asks('tybalt@example.org/x'))).to.equal('forbidden')
    expect((await asks(`${juliet}/three`)).getChild('query')?.attrs['seconds']).to.equal('10')
  })
})
