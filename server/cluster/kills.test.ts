import { check, life } from './kills.fixture.ts'
import { joinNode, newWorld, stopNode } from './nodes.fixture.ts'

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => { setTimeout(resolve, ms) })
}

describe('nodes that are killed', () => {
  for (const seed of [1, 2, 3]) {
    for (const isFaulty of [false, true]) {
      it(`lose nothing that was safe, and double nothing (${seed}${isFaulty ? ', what they ask fails now and then' : ''})`, async () => {
        const world = newWorld()
        let isCalm = false
        world.cluster.between = async (_inc, what, when) => {
          if (isCalm) return
          if (Math.random() < 0.3) await pause(Math.random() * 3)
          if (isFaulty && what !== 'done' && Math.random() < 0.02) throw new Error(`${what} failed ${when}`)
        }
        const outcome = await life({
          join: (name, options) => Promise.resolve(joinNode(world, name, options)),
          kill: async (node) => { world.cluster.kill(node.inc) },
          fence: async (node) => { world.cluster.fence(node.inc) },
          stop: (node) => stopNode(node, world),
          calm: () => { isCalm = true },
          isSettled: (nodes) => world.cluster.lost.length === 0 && world.cluster.nodes.length <= nodes,
        }, seed * 31 + (isFaulty ? 7 : 0))
        await check(outcome)
        await stopNode(outcome.router.node, world)
      })
    }
  }
})
