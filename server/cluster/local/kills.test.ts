import { testStorage } from '../../storage/contract.ts'
import { openMemory } from '../../storage/memory/memory.ts'
import { check, type KillNode, life } from '../kills.fixture.ts'
import { framesOf } from '../nodes.fixture.ts'
import { ClusterStorage, type ClusterStorageOptions } from '../storage.ts'
import { openHub, type TestHub } from './local.fixture.ts'
import { type LocalMembership } from './membership.ts'

interface LocalNode extends KillNode { readonly membership: LocalMembership }

async function join(hub: TestHub, name: string, options: Partial<ClusterStorageOptions>): Promise<LocalNode> {
  const membership = await hub.join(name)
  const { records, history, queue } = membership
  const storage = new ClusterStorage({ membership, records, history, queue, blobs: openMemory().blobs, framesOf, commitEveryMs: 0, onError: () => {}, ...options })
  return { membership, storage, inc: membership.self.inc, queue }
}

async function stop({ storage, membership }: LocalNode): Promise<void> {
  await storage[Symbol.asyncDispose]()
  await membership[Symbol.asyncDispose]()
}

describe('processes of one machine that are killed', () => {
  for (const seed of [1, 2, 3]) {
    for (const withMain of [false, true]) {
      it(`lose nothing that was safe, and double nothing (${seed}${withMain ? ', the main process is killed, too' : ''})`, async () => {
        await using hub = await openHub()
        const outcome = await life({
          join: (name, options) => join(hub, name, options),
          kill: async (node) => { (node as LocalNode).membership.abort() },
          fence: async (node) => { hub.hub.fence(node.inc) },
          stop: (node) => stop(node as LocalNode),
          ...(withMain ? { killAll: () => hub.restart() } : {}),
          calm: () => {},
          isSettled: (nodes) => hub.hub.isRecovered && hub.hub.nodes.length <= nodes,
        }, seed * 17 + (withMain ? 5 : 0))
        await check(outcome)
        await stop(outcome.router.node as LocalNode)
      })
    }
  }
})

/** All units that the contract writes to. */
const [ROMEO, JULIET, NURSE] = ['romeo@montague.lit', 'juliet@capulet.lit', 'nurse@capulet.lit']
const UNITS = [
  'k', 'never', 'a', 'b', 'ab', 'a\0', 'a\x01', '\0', '\x01', 'ä', '', 'o', ROMEO, JULIET, NURSE, `${ROMEO}x`, 'x@y', 'mercutio@verona.lit', 'ä@montague.lit',
  `${'l'.repeat(1023)}@${'d'.repeat(1023)}`, `${'l'.repeat(900)}@example.org`, ...Array.from({ length: 60 }, (_, run) => [ROMEO, JULIET, NURSE].map((owner) => `${run + 1}${owner}`)).flat(),
]

for (const how of ['that stop', 'that are killed', 'killed with the main process'] as const) {
  testStorage(`processes of one machine, ${how}`, async () => {
    const hub = await openHub()
    const options = { segmentBytes: 20_000, blobs: openMemory().blobs }
    let survivor = await join(hub, 'survivor', options)
    let node = await join(hub, 'node', options)
    const claimAll = (): Promise<unknown> => Promise.all(UNITS.map(async (unit) => {
      while (await node.storage.claim(unit).catch(() => undefined) !== node.storage.inc) await new Promise((resolve) => { setTimeout(resolve, 10) })
    }))
    await claimAll()
    return {
      storage: node.storage,
      async reopen() {
        await (how === 'that stop' ? stop(node) : node.storage.committed())
        if (how === 'that are killed') node.membership.abort()
        if (how === 'killed with the main process') {
          await hub.restart()
          survivor = await join(hub, 'survivor', options)
        }
        node = await join(hub, 'node', options)
        await claimAll()
        return node.storage
      },
      async remove() {
        await survivor.storage[Symbol.asyncDispose]()
        await hub[Symbol.asyncDispose]()
      },
    }
  })
}
