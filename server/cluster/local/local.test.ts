import { expect } from 'chai'
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
    stays.inherit(async ({ inc, finish }) => {
      recovered.push(inc)
      await finish(1, new Map())
    })
    const gone: string[] = []
    stays.onChange((over) => { gone.push(...over) })
    await leaves[Symbol.asyncDispose]()
    const killed = await hub.join('killed')
    killed.abort()
    while (!gone.includes(killed.self.inc)) await new Promise((resolve) => { setTimeout(resolve, 5) })
    expect(lost).to.deep.equal([killed.self.inc])
    expect(recovered).to.deep.equal([killed.self.inc])
    expect(gone).to.deep.equal([leaves.self.inc, killed.self.inc])
  })
})

describe('processes of one machine', () => {
  let hub: TestHub
  before(async () => { hub = await openHub() })
  after(async () => { await hub[Symbol.asyncDispose]() })

  testRowStore('processes of one machine', async () => (await hub.join('rows')).records, true)
  testHistoryStore('processes of one machine', async () => (await hub.join('history')).history, true, true)
})
