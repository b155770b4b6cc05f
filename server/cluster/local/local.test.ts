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

describe('processes of one machine', () => {
  let hub: TestHub
  before(async () => { hub = await openHub() })
  after(async () => { await hub[Symbol.asyncDispose]() })

  testRowStore('processes of one machine', async () => (await hub.join('rows')).records, true)
  testHistoryStore('processes of one machine', async () => (await hub.join('history')).history, true, true)
})
