import { expect } from 'chai'
import { Jid } from '../../../lib/jid.ts'
import { stanzaOf, type Stanza } from '../../../lib/stanza/stanza.ts'
import { xml } from '../../../lib/xml/element.ts'
import { createCapabilities } from '../../sessions/capabilities.ts'
import { capsVer } from '../disco-registry.ts'
import { fakeParts } from '../fake-parts.ts'
import { createEngine } from './engine.ts'
import { createNodeStore } from './node-store.ts'

const romeo = Jid.parse('romeo@example.net/orchard')
const remote = Jid.parse('mercutio@elsewhere.example/square')
const info = xml('query', { xmlns: 'http://jabber.org/protocol/disco#info' }, xml('feature', { var: 'urn:tune+notify' }))

function start() {
  const fake = fakeParts()
  const capabilities = createCapabilities(() => Promise.resolve(stanzaOf('iq', { type: 'result' }, info)))
  const engine = createEngine({ ...fake.parts, capabilities }, createNodeStore(fake.storage.records), {
    maxItems: 100, maxExpireSeconds: 3600, maxSubscriptions: 2, hasNodes: () => true, mayCreate: () => true, defaults: {}, forced: () => ({}),
  })
  const befriend = (contact: Jid): void => fake.rosters.set('romeo@example.net', { jid: contact.bare, subscription: 'both', ask: false, approved: false, groups: [] })
  return { ...fake, engine, befriend }
}

const item = (id: string) => ({ id, payload: `<tune xmlns='urn:tune'>${id}</tune>` })
const presence = (from: Jid): Stanza => stanzaOf('presence', { from: from.toString() }, xml('c', { xmlns: 'http://jabber.org/protocol/caps', hash: 'sha-1', node: 'urn:x', ver: capsVer(info) }))
const turn = (): Promise<void> => new Promise((resolve) => { setImmediate(resolve) })

describe('nodes', () => {
  it('XEP-0060 §16.4.4: items expire; no item lives longer than the operator allows', () => {
    const { engine, clock } = start()
    clock.now = Date.now()
    const node = engine.create('pubsub.example.net', 'news', romeo, { item_expire: '60' })
    engine.publish(node, [item('a')], romeo)
    expect(engine.order(node).length).to.equal(1)
    clock.now = Date.now() + 61_000
    expect([engine.order(node), engine.item(node, 'a')]).to.deep.equal([[], undefined])
    engine.expire()
    expect(engine.store.count('pubsub.example.net', 'news')).to.equal(0)
    expect(engine.create('pubsub.example.net', 'olds', romeo, { item_expire: 'max' }).config.item_expire).to.equal('3600')
  })

  it('what the nodes of an account hold together has a limit; what makes room for an item does not count', () => {
    const fake = fakeParts()
    const engine = createEngine({ ...fake.parts, limits: { ...fake.parts.limits, pubsubBytes: 2000 } }, createNodeStore(fake.storage.records), {
      maxItems: 100, maxExpireSeconds: 3600, maxSubscriptions: 2, hasNodes: () => true, mayCreate: () => true, defaults: {}, forced: () => ({}),
    })
    const big = (id: string) => ({ id, payload: `<tune xmlns='urn:tune'>${'x'.repeat(700)}</tune>` })
    const account = romeo.bare
    const one = engine.create(account, 'one', romeo, { max_items: '1' })
    const two = engine.create(account, 'two', romeo, { max_items: 'max' })
    engine.publish(one, [big('a')], romeo)
    engine.publish(one, [big('b')], romeo)
    engine.publish(two, [big('a')], romeo)
    expect(() => engine.publish(two, [big('b')], romeo)).to.throw().that.has.property('condition', 'resource-constraint')
    engine.publish(two, [big('a')], romeo)
    engine.publish(one, [big('c')], romeo)
    engine.retract(two, ['a'], false, romeo)
    engine.publish(two, [big('b')], romeo)
    expect([one, two].map((node) => engine.order(node).map(({ id }) => id))).to.deep.equal([['c'], ['b']])
  })

  it('XEP-0060 §12.18: a lease ends at its time, and its subscriber hears of it', () => {
    const { engine, clock, routed } = start()
    const node = engine.create('pubsub.example.net', 'news', romeo, {})
    engine.subscribe(node, Jid.parse('juliet@example.net'), (before) => ({ ...before, expire: clock.now + 60_000 }))
    engine.publish(node, [item('a')], romeo)
    expect(routed.splice(0).map(({ to }) => to)).to.deep.equal(['juliet@example.net'])
    clock.now += 61_000
    engine.publish(node, [item('b')], romeo)
    expect(routed).to.deep.equal([])
    engine.expire()
    expect(engine.store.subscriptions('pubsub.example.net', 'news')).to.deep.equal([])
    expect(routed.map((told) => told.toString())).to.have.length(1).and.to.have.property('0').that.contains("subscription='none'")
    engine.expire()
    expect(routed).to.have.length(1)
  })

  it('XEP-0060 §6.1.3.9: too many subscriptions are refused', () => {
    const { engine } = start()
    const node = engine.create('pubsub.example.net', 'news', romeo, {})
    for (const name of ['a', 'b']) engine.subscribe(node, Jid.parse(`${name}@example.net`))
    expect(() => engine.subscribe(node, Jid.parse('c@example.net'))).to.throw().that.has.property('condition', 'policy-violation')
  })

  it('XEP-0163 §4.3: an interested contact on another server hears of it at its full JID, and gets the last item when it comes', async () => {
    const { engine, routed, befriend } = start()
    befriend(remote)
    const node = engine.create('romeo@example.net', 'urn:tune', romeo, {})
    engine.publish(node, [item('a')], romeo)
    expect(routed).to.deep.equal([])
    expect(engine.remote.heard('romeo@example.net', remote.bare, remote.toString(), presence(remote))).to.equal(true)
    expect(engine.remote.heard('romeo@example.net', remote.bare, remote.toString(), presence(remote))).to.equal(false)
    engine.events.greet('romeo@example.net', remote, new Set(['urn:tune']))
    expect(routed.splice(0).map((each) => [each.to, each.has('delay', 'urn:xmpp:delay')])).to.deep.equal([[remote.toString(), true]])
    engine.publish(node, [item('b')], romeo)
    await turn() // its capabilities are asked for
    expect(routed.splice(0).map((each) => [each.from, each.to, each.type])).to.deep.equal([['romeo@example.net', remote.toString(), 'headline']])
    engine.remote.heard('romeo@example.net', remote.bare, remote.toString(), stanzaOf('presence', { from: remote.toString(), type: 'unavailable' }))
    engine.publish(node, [item('c')], romeo)
    expect(routed).to.deep.equal([])
  })

  it('XEP-0163 §4.3.2: a subscriber who shares no presence gets one message at the address it subscribed with, without the resource of the publisher', () => {
    const { engine, routed } = start()
    const node = engine.create('romeo@example.net', 'urn:tune', romeo, { access_model: 'open', send_last_published_item: 'never' })
    engine.subscribe(node, remote.toBare())
    engine.publish(node, [item('a')], romeo)
    expect(routed.map((each) => [each.to, each.has('addresses', 'http://jabber.org/protocol/address')])).to.deep.equal([[remote.bare, false]])
  })

  it('XEP-0060 §7.1.2: of a node that does not deliver payloads only the ids are told', () => {
    const { engine, routed } = start()
    const node = engine.create('pubsub.example.net', 'news', romeo, { deliver_payloads: false })
    engine.subscribe(node, remote.toBare())
    engine.publish(node, [item('a')], romeo)
    expect(routed[0]?.toString()).to.contain("<item id='a'/>").and.not.to.contain('urn:tune')
  })

  it('XEP-0060 §7.1.3: a transient node keeps nothing, and without payloads tells of nothing but that something happened', () => {
    const { engine, routed } = start()
    const node = engine.create('pubsub.example.net', 'news', romeo, { persist_items: false })
    engine.publish(node, [item('a')], romeo)
    expect(engine.order(node)).to.deep.equal([])
    const bare = engine.configure(node, { deliver_payloads: false })
    engine.subscribe(bare, remote.toBare())
    engine.publish(bare, [{ id: undefined, payload: '' }], romeo)
    expect(routed.map(String).join('')).to.contain("<items node='news'></items>")
  })

  it('what an account alone owns goes with it, and its subscribers hear; what others own too stays', () => {
    const { engine, routed } = start()
    const service = 'pubsub.example.net'
    const own = engine.create(service, 'own', romeo, {})
    engine.create(service, 'shared', romeo, {})
    engine.store.setAffiliation(service, 'shared', 'juliet@example.net', 'owner')
    engine.create('romeo@example.net', 'urn:tune', romeo, {})
    engine.subscribe(own, remote)
    engine.forget('romeo@example.net')
    expect(routed.map((each) => [each.to, each.toString().includes("<delete node='own'/>") || each.toString().includes("<delete node='own'>")])).to.deep.equal([[remote.toString(), true]])
    expect(engine.store.nodes(service).map(({ name }) => name)).to.deep.equal(['shared'])
    expect(engine.store.affiliations(service, 'shared')).to.deep.equal([{ jid: 'juliet@example.net', affiliation: 'owner' }])
    expect([...engine.store.nodesOf('romeo@example.net').keys()]).to.deep.equal([])
  })
})
