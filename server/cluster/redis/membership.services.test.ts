import { randomUUID } from 'node:crypto'
import { type Redis as RedisService, startRedis, startRedisCluster, startRedisSentinel } from '../../../services/services.ts'
import { testMembership } from '../membership.contract.ts'
import { type Membership } from '../shapes.ts'
import { Commander } from './connect.ts'
import { Keys } from './keys.ts'
import { RedisMembership } from './membership.ts'
import { LOSE } from './scripts.ts'
import { connectionOf } from './service.fixture.ts'

const services = {
  'one Redis': startRedis,
  'Redis with Sentinels': startRedisSentinel,
  'a Redis Cluster': startRedisCluster,
}

for (const [name, start] of Object.entries(services)) {
  describe(name, () => {
    let service: RedisService
    before(async () => { service = await start() })
    after(async () => { await service[Symbol.asyncDispose]() })

    testMembership(name, async () => {
      const redis = { ...connectionOf(service), keyPrefix: `${randomUUID()}:` }
      const members: RedisMembership[] = []
      const commander = new Commander(redis, () => undefined)
      const { nodes, leases, lost } = new Keys(redis.keyPrefix)
      const fence = async (member: Membership): Promise<void> => {
        await commander.persist(() => commander.run(LOSE, [nodes, leases, lost], [member.self.inc, '']))
      }
      return {
        join: async (node) => {
          const member = await RedisMembership.join({ redis, name: node, address: '', roles: [], leaseMs: 1000 })
          members.push(member)
          return member
        },
        kill: async (member) => { (member as RedisMembership).abort() },
        fence,
        [Symbol.asyncDispose]: async () => {
          for (const member of members) member.abort()
          commander.close()
        },
      }
    })
  })
}
