import { testMembership } from './membership.contract.ts'
import { MemoryCluster } from './memory.ts'

testMembership('memory', async () => {
  const cluster = new MemoryCluster()
  return {
    join: async (name) => cluster.join(name),
    kill: async (member) => { cluster.kill(member.self.inc) },
    fence: async (member) => { cluster.fence(member.self.inc) },
    [Symbol.asyncDispose]: async () => {},
  }
})
