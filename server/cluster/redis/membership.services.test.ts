import { randomUUID } from 'node:crypto'
import { type Redis as RedisService, type RedisSentinel, startRedis, startRedisCluster, startRedisSentinel } from '../../../services/services.ts'
import { testMembership } from '../membership.contract.ts'
import { type Membership } from '../shapes.ts'
import { Commander, REDIS_DEFAULTS, type RedisConnection } from './connect.ts'
import { Keys } from './keys.ts'
import { RedisMembership } from './membership.ts'
import { LOSE } from './scripts.ts'

const services = {
  'one Redis': startRedis,
  'Redis with Sentinels': startRedisSentinel,
  'a Redis Cluster': startRedisCluster,
}

export function connectionOf(service: RedisService): RedisConnection {
  const at = (port: number): { host: string; port: number } => ({ host: '127.0.0.1', port })
  if ('sentinels' in service) {
    const { sentinels, master } = service as RedisSentinel
    return { ...REDIS_DEFAULTS, server: undefined, sentinels, name: master, minReplicas: 1 }
  }
  if (service.ports.length > 1) return { ...REDIS_DEFAULTS, server: undefined, cluster: service.ports.map(at) }
  return { ...REDIS_DEFAULTS, server: at(service.ports[0] ?? 0) }
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
