import { expect } from 'chai'
import { openMemory } from '../../storage/memory/memory.ts'
import { SERVICE_DEFAULTS } from './node-config.ts'
import { createNodeStore, itemBytes } from './node-store.ts'

const service = 'pubsub.example.net'

describe('the store of nodes', () => {
  function start() {
    const store = createNodeStore(openMemory().records)
    store.putNode({ service, name: 'news', config: SERVICE_DEFAULTS, creator: 'romeo@example.net', created: 1 })
    return store
  }

  it('keeps items in the order of their last publication', () => {
    const store = start()
    for (const id of ['a', 'b', 'c', 'a']) store.putItem(service, 'news', { id, payload: `<${id}/>`, publisher: '' })
    expect(store.items(service, 'news').map(({ id }) => id)).to.deep.equal(['b', 'c', 'a'])
    expect(store.items(service, 'news', 2).map(({ id }) => id)).to.deep.equal(['c', 'a'])
    expect(store.count(service, 'news')).to.equal(3)
  })

  it('deletes a node with all that belongs to it, and no other', () => {
    const store = start()
    store.putNode({ service, name: 'news2', config: SERVICE_DEFAULTS, creator: 'romeo@example.net', created: 1 })
    for (const node of ['news', 'news2']) {
      store.putItem(service, node, { id: 'a', payload: '', publisher: '' })
      store.setAffiliation(service, node, 'romeo@example.net', 'owner')
      store.subscribe(service, node, { jid: 'juliet@example.net', subid: '1', state: 'subscribed' })
    }
    store.deleteNode(service, 'news')
    expect([store.node(service, 'news'), store.count(service, 'news'), store.subscriptions(service, 'news').length]).to.deep.equal([undefined, 0, 0])
    expect(store.placesOf('juliet@example.net').map(({ node }) => node)).to.deep.equal(['news2'])
    expect(store.count(service, 'news2')).to.equal(1)
  })

  it('counts what there is, whatever was done in between', () => {
    const store = start()
    const counts = (): number[] => [store.count(service, 'news'), store.subscriptionCount(service, 'news')]
    expect(counts()).to.deep.equal([0, 0])
    for (const id of ['a', 'b', 'a', 'c']) store.putItem(service, 'news', { id, payload: '', publisher: '' })
    for (const state of ['pending', 'subscribed'] as const) store.subscribe(service, 'news', { jid: 'juliet@example.net', subid: '1', state })
    expect(counts()).to.deep.equal([3, 1])
    for (const item of store.order(service, 'news', 2)) store.deleteItem(service, 'news', item)
    for (const jid of ['juliet@example.net', 'juliet@example.net', 'nurse@example.net']) store.unsubscribe(service, 'news', jid)
    expect(counts()).to.deep.equal([1, 0])
    expect(store.items(service, 'news').map(({ id }) => id)).to.deep.equal(['c'])
    store.purge(service, 'news')
    expect(counts()).to.deep.equal([0, 0])
  })

  it('weighs what nodes hold, whatever was done in between, and what was there before it was weighed', () => {
    const { records } = openMemory()
    const store = createNodeStore(records)
    const weighed = (): boolean => store.bytes('romeo@example.net', service) === ['news', 'olds'].flatMap((node) => store.items(service, node)).reduce((sum, item) => sum + itemBytes(item), 0)
    for (const name of ['news', 'olds']) store.putNode({ service, name, config: SERVICE_DEFAULTS, creator: 'romeo@example.net', created: 1 })
    for (const [id, length] of [['a', 10], ['b', 20], ['a', 500], ['ü', 3]] as const) {
      store.putItem(service, 'news', { id, payload: 'x'.repeat(length), publisher: '' })
      store.putItem(service, 'olds', { id, payload: 'x'.repeat(length), publisher: '' })
      expect(weighed()).to.equal(true)
    }
    records.delete('pubsub_bytes', ['romeo@example.net', service])
    for (const item of store.order(service, 'news', 1)) store.deleteItem(service, 'news', item)
    expect([weighed(), store.bytes('romeo@example.net', service) > 600]).to.deep.equal([true, true])
    store.purge(service, 'news')
    expect(weighed()).to.equal(true)
    store.deleteNode(service, 'olds')
    expect([weighed(), store.bytes('romeo@example.net', service)]).to.deep.equal([true, 0])
  })

  it('erases an account: its nodes, and its part in those of others', () => {
    const store = start()
    store.putNode({ service: 'juliet@example.net', name: 'tune', config: SERVICE_DEFAULTS, creator: 'juliet@example.net', created: 1 })
    store.putItem('juliet@example.net', 'tune', { id: 'a', payload: '', publisher: '' })
    store.subscribe(service, 'news', { jid: 'juliet@example.net/balcony', subid: '1', state: 'subscribed' })
    store.setAffiliation(service, 'news', 'juliet@example.net', 'publisher')
    store.erase('juliet@example.net')
    expect([store.nodes('juliet@example.net'), store.subscriptions(service, 'news'), store.affiliations(service, 'news'), store.placesOf('juliet@example.net')]).to.deep.equal([[], [], [], []])
    expect(store.node(service, 'news')).not.to.equal(undefined)
  })
})
