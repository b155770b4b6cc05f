import { expect } from 'chai'
import { HEADER_BYTES } from '../../storage/groups/log.ts'
import { testHistoryStore } from '../history-store.contract.ts'
import { testMembership } from '../membership.contract.ts'
import { testRowStore } from '../row-store.contract.ts'
import { type LocalMembership } from './membership.ts'
import { openHub, type TestHub } from './local.fixture.ts'

testMembership('processes of one machine', async () => {
  const hub = await openHub({ readsLogs: false })
  return {
    join: (name) => hub.join(name),
    kill: async (member) => { (member as LocalMembership).abort() },
    fence: async (member) => { hub.hub.fence(member.self.inc) },
    [Symbol.asyncDispose]: () => hub[Symbol.asyncDispose](),
  }
})

describe('a process that leaves in good order', () => {
  it('is gone once, and not lost', async () => {
    const lost: string[] = []
    await using hub = await openHub({ onLost: (inc) => { lost.push(inc) } })
    const [leaves, stays] = [await hub.join('leaves'), await hub.join('stays')]
    const recovered: string[] = []
    stays.inherit(async (inheritance) => {
      recovered.push(inheritance.inc)
      await inheritance.finish(1, new Map())
    })
    const gone: string[] = []
    stays.onChange((over) => { gone.push(...over) })
    await leaves[Symbol.asyncDispose]()
    // With something left, too, that another is to do.
    const full = await hub.join('full')
    await full.log.append(Buffer.alloc(HEADER_BYTES), 0, 1)
    await full[Symbol.asyncDispose]()
    const killed = await hub.join('killed')
    killed.abort()
    while (!gone.includes(killed.self.inc)) await new Promise((resolve) => { setTimeout(resolve, 5) })
    expect(lost).to.deep.equal([killed.self.inc])
    expect(recovered).to.deep.equal([full.self.inc, killed.self.inc])
    expect(gone).to.deep.equal([leaves.self.inc, full.self.inc, killed.self.inc])
  })
})

describe('a process that leaves in good order while it recovers another', () => {
  it('has a third recover that', async () => {
    await using hub = await openHub()
    const [leaves, killed] = [await hub.join('leaves'), await hub.join('killed')]
    const { promise: begun, resolve } = Promise.withResolvers<void>()
    leaves.inherit(() => {
      resolve()
      return new Promise(() => undefined)
    })
    killed.abort()
    await begun
    await leaves[Symbol.asyncDispose]()
    const third = await hub.join('third')
    const recovered = await new Promise((done) => {
      third.inherit(async (inheritance) => {
        await inheritance.finish(1, new Map())
        done(inheritance.inc)
      })
    })
    expect(recovered).to.equal(killed.self.inc)
  })
})

describe('processes of one machine', () => {
  let hub: TestHub
  before(async () => { hub = await openHub() })
  after(async () => { await hub[Symbol.asyncDispose]() })

  testRowStore('processes of one machine', async () => (await hub.join('rows')).records, true)
  testHistoryStore('processes of one machine', async () => (await hub.join('history')).history, true, true)
})
