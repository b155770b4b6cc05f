import { randomUUID } from 'node:crypto'
import { type Redis as RedisService, startRedis, startRedisCluster } from '../../../services/services.ts'
import { testStorage } from '../../storage/contract.ts'
import { openMemory } from '../../storage/memory/memory.ts'
import { DirectQueue } from '../direct-queue.ts'
import { MemoryHistoryStore, MemoryRowStore } from '../memory-stores.ts'
import { framesOf } from '../nodes.fixture.ts'
import { ClusterStorage } from '../storage.ts'
import { Commander } from './connect.ts'
import { Keys } from './keys.ts'
import { RedisMembership } from './membership.ts'
import { LOSE } from './scripts.ts'
import { connectionOf } from './service.fixture.ts'

/** All units that the contract writes to. */
const [ROMEO, JULIET, NURSE] = ['romeo@montague.lit', 'juliet@capulet.lit', 'nurse@capulet.lit']
const UNITS = [
  'k', 'never', 'a', 'b', 'ab', 'a\0', 'a\x01', '\0', '\x01', 'ä', '', 'o', ROMEO, JULIET, NURSE, `${ROMEO}x`, 'x@y', 'mercutio@verona.lit', 'ä@montague.lit',
  `${'l'.repeat(1023)}@${'d'.repeat(1023)}`, `${'l'.repeat(900)}@example.org`, ...Array.from({ length: 60 }, (_, run) => [ROMEO, JULIET, NURSE].map((owner) => `${run + 1}${owner}`)).flat(),
]

for (const [name, start] of [['one Redis', startRedis], ['a Redis Cluster', startRedisCluster]] as const) {
  for (const isKilled of [false, true]) {
    describe(`${name}, and nodes that ${isKilled ? 'are killed' : 'stop'}`, () => {
      let service: RedisService
      before(async () => { service = await start() })
      after(async () => { await service[Symbol.asyncDispose]() })

      testStorage(`cluster over ${name}`, async () => {
        const redis = { ...connectionOf(service), keyPrefix: `${randomUUID()}:` }
        const commander = new Commander(redis, () => undefined)
        const { nodes, leases, lost } = new Keys(redis.keyPrefix)
        const records = new MemoryRowStore()
        const history = new MemoryHistoryStore()
        const { blobs } = openMemory()
        const open = async (node: string): Promise<{ membership: RedisMembership; storage: ClusterStorage }> => {
          const membership = await RedisMembership.join({ redis, name: node, address: '', roles: [], leaseMs: 10_000 })
          return { membership, storage: new ClusterStorage({ membership, records, history, queue: new DirectQueue(history), blobs, framesOf, commitEveryMs: 0, segmentBytes: 20_000, onError: () => undefined }) }
        }
        const survivor = await open('survivor')
        let node = await open('node')
        const claimAll = async (): Promise<void> => {
          await Promise.all(UNITS.map(async (unit) => {
            while (await node.storage.claim(unit).catch(() => undefined) !== node.storage.inc) await new Promise((resolve) => { setTimeout(resolve, 10) })
          }))
        }
        await claimAll()
        return {
          storage: node.storage,
          async reopen() {
            if (isKilled) {
              await node.storage.committed()
              node.membership.abort()
              await commander.persist(() => commander.run(LOSE, [nodes, leases, lost], [node.storage.inc, '']))
            } else {
              await node.storage[Symbol.asyncDispose]()
              await node.membership[Symbol.asyncDispose]()
            }
            node = await open('node')
            await claimAll()
            return node.storage
          },
          async remove() {
            await survivor.storage[Symbol.asyncDispose]()
            for (const one of [survivor, node]) one.membership.abort()
            commander.close()
          },
        }
      })
    })
  }
}
