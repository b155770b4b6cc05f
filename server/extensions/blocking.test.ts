import { expect } from 'chai'
import { Jid } from '../../lib/jid.ts'
import { StanzaError } from '../../lib/stanza/errors.ts'
import { blocking, matches } from './blocking.ts'
import { conditionOf, fakeParts } from './fake-parts.ts'

const juliet = 'juliet@example.net'
const full = `${juliet}/balcony`
const command = (name: string, ...jids: string[]) => `<${name} xmlns='urn:xmpp:blocking'>${jids.map((jid) => `<item jid='${jid}'/>`).join('')}</${name}>`

describe('XEP-0191 blocking', () => {
  function stage() {
    const fake = fakeParts()
    fake.start(blocking)
    const list = async () => (await fake.ask(full, 'get', "<blocklist xmlns='urn:xmpp:blocking'/>")).getChild('blocklist')?.getChildren('item').map((item) => item.attrs['jid'])
    const refusal = (way: 'in' | 'out', text: string): StanzaError | undefined => {
      try {
        if (way === 'in') fake.hooks.runIncoming(fake.delivery(text))
        else fake.hooks.runOutgoing(fake.delivery(text))
        return undefined
      } catch (error) {
        return error as StanzaError
      }
    }
    return { fake, list, refusal }
  }
  const message = (from: string, to: string) => `<message xmlns='jabber:client' from='${from}' to='${to}'><body>hi</body></message>`

  it('§3.1 to §3.5: lists, blocks and unblocks one and all', async () => {
    const { fake, list } = stage()
    expect(await list()).to.deep.equal([])
    expect((await fake.ask(full, 'set', command('block', 'romeo@example.org', 'EXAMPLE.com'))).attrs['type']).to.equal('result')
    expect(await list()).to.deep.equal(['romeo@example.org', 'example.com'])
    await fake.ask(full, 'set', command('unblock', 'romeo@example.org'))
    expect(await list()).to.deep.equal(['example.com'])
    await fake.ask(full, 'set', command('unblock'))
    expect(await list()).to.deep.equal([])
    expect(await fake.storage.records.range('blocked', [])).to.deep.equal([])
  })

  it('§3.3: refuses a block without items, an address that is none, and the list of another', async () => {
    const { fake } = stage()
    expect(conditionOf(await fake.ask(full, 'set', command('block')))).to.equal('bad-request')
    expect(conditionOf(await fake.ask(full, 'set', command('block', 'a@b@c')))).to.equal('jid-malformed')
    expect(conditionOf(await fake.ask('romeo@example.net/x', 'set', command('block', 'a@b'), juliet))).to.equal('forbidden')
    expect(conditionOf(await fake.ask('romeo@example.net/x', 'get', "<blocklist xmlns='urn:xmpp:blocking'/>", juliet))).to.equal('forbidden')
  })

  it('§3.3: nothing comes in from a blocked contact, nothing goes out', async () => {
    const { fake, refusal } = stage()
    expect(refusal('in', message('romeo@example.org/x', full))).to.equal(undefined)
    await fake.ask(full, 'set', command('block', 'romeo@example.org'))
    expect(refusal('in', message('romeo@example.org/x', full))?.condition).to.equal('service-unavailable')
    expect(refusal('in', "<presence xmlns='jabber:client' from='romeo@example.org/x' to='juliet@example.net'/>")?.condition).to.equal('service-unavailable')
    expect(refusal('in', message('nurse@example.org/x', full))).to.equal(undefined)
    const out = refusal('out', message(full, 'romeo@example.org'))
    expect(out?.toXml()).to.contain('<not-acceptable').and.to.contain("<blocked xmlns='urn:xmpp:blocking:errors'/>").and.to.contain("type='cancel'")
    await fake.ask(full, 'set', command('unblock', 'romeo@example.org'))
    expect(refusal('out', message(full, 'romeo@example.org'))).to.equal(undefined)
  })

  it('§3.3: nor does a broadcast presence', async () => {
    const { fake } = stage()
    const passes = (from: string, to: string): boolean => fake.hooks.runCheckBroadcast(Jid.parse(from), Jid.parse(to))
    expect([passes(full, 'romeo@example.org'), passes('romeo@example.org/x', juliet)]).to.deep.equal([true, true])
    await fake.ask(full, 'set', command('block', 'romeo@example.org'))
    expect([passes(full, 'romeo@example.org'), passes('romeo@example.org/x', juliet)]).to.deep.equal([false, false])
    expect([passes(full, 'nurse@example.org'), passes('nurse@example.org/x', juliet)]).to.deep.equal([true, true])
  })

  it('§3.3: no IQ passes, be it a request or an answer; the own account and server are never blocked', async () => {
    const { fake, refusal } = stage()
    await fake.ask(full, 'set', command('block', 'example.net', 'example.org'))
    const iq = (type: string, from = 'romeo@example.org/x', to = full) => `<iq xmlns='jabber:client' id='1' type='${type}' from='${from}' to='${to}'/>`
    for (const type of ['get', 'set', 'result', 'error']) {
      expect(refusal('in', iq(type))?.condition, type).to.equal('service-unavailable')
      expect(refusal('out', iq(type, full, 'romeo@example.org/x'))?.condition, type).to.equal('not-acceptable')
    }
    expect(refusal('in', message(`${juliet}/other`, full))).to.equal(undefined)
    expect(refusal('in', message('example.net', full))).to.equal(undefined)
    expect(refusal('in', message('nurse@example.net/x', full))?.condition).to.equal('service-unavailable')
  })

  it('§6: matches the address, its bare form, domain with resource, and domain', () => {
    const jid = Jid.parse('romeo@example.org/x')
    for (const entry of ['romeo@example.org/x', 'romeo@example.org', 'example.org/x', 'example.org']) expect(matches(new Set([entry]), jid), entry).to.equal(true)
    for (const entry of ['romeo@example.org/y', 'nurse@example.org', 'example.org/y', 'example.com', 'sub.example.org']) expect(matches(new Set([entry]), jid), entry).to.equal(false)
    expect(matches(new Set(['romeo@example.org/x']), Jid.parse('romeo@example.org'))).to.equal(false)
  })

  it('§3.3: sessions that asked for the list hear of changes', async () => {
    const { fake, list } = stage()
    const asked = fake.login(full)
    const other = fake.login(`${juliet}/other`)
    await list()
    await fake.ask(full, 'set', command('block', 'romeo@example.org'))
    await fake.ask(full, 'set', command('unblock'))
    expect(other.sent).to.have.length(0)
    expect(asked.sent.map((each) => [each.type, each.to, each.element().getChildElements()[0]?.toString()])).to.deep.equal([
      ['set', full, '<block xmlns="urn:xmpp:blocking"><item jid="romeo@example.org"/></block>'],
      ['set', full, '<unblock xmlns="urn:xmpp:blocking"/>'],
    ])
  })

  it('§3.3 and §3.4: the contact sees the user leave, and come back', async () => {
    const { fake } = stage()
    fake.login(full)
    fake.rosters.set(juliet, { jid: 'romeo@example.org', subscription: 'both', ask: false, approved: false, groups: [] })
    fake.rosters.set(juliet, { jid: 'nurse@example.com', subscription: 'both', ask: false, approved: false, groups: [] })
    await fake.ask(full, 'set', command('block', 'example.org'))
    await fake.ask(full, 'set', command('block', 'romeo@example.org'))
    expect(fake.routed.splice(0).map((each) => `${each.type} ${each.from} ${each.to}`)).to.deep.equal([`unavailable ${full} romeo@example.org`])
    await fake.ask(full, 'set', command('unblock', 'example.org'))
    expect(fake.routed).to.have.length(0)
    await fake.ask(full, 'set', command('unblock', 'romeo@example.org'))
    expect(fake.routed.map((each) => `${each.type} ${each.from} ${each.to}`)).to.deep.equal([`undefined ${full} romeo@example.org`, `probe ${juliet} romeo@example.org`])
  })

  it('§6: one resource of a contact is blocked, and sees the user leave and come back', async () => {
    const { fake } = stage()
    fake.login(full)
    fake.rosters.set(juliet, { jid: 'romeo@example.org', subscription: 'from', ask: false, approved: false, groups: [] })
    const seen = () => fake.routed.splice(0).map((each) => `${each.type} ${each.from} ${each.to}`)
    await fake.ask(full, 'set', command('block', 'romeo@example.org/x', 'stranger@example.org/x'))
    expect(seen()).to.deep.equal([`unavailable ${full} romeo@example.org/x`])
    await fake.ask(full, 'set', command('unblock'))
    expect(seen()).to.deep.equal([`undefined ${full} romeo@example.org/x`])
  })

  it('has a limit', async () => {
    const { fake } = stage()
    const many = Array.from({ length: 2_001 }, (_, i) => `n${i}@example.org`)
    expect(conditionOf(await fake.ask(full, 'set', command('block', ...many)))).to.equal('resource-constraint')
  })
})
