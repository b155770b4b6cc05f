import { expect } from 'chai'
import { startTestServer, TEST_CONFIG, type TestServer } from '../test-server.ts'
import { framesOf } from './frames.ts'
import { joinNode, newWorld, stopNode, type TestNode } from './nodes.fixture.ts'

describe('the place of a server among nodes', () => {
  it('is not that of what belongs to a host as a whole, where no accounts are', async () => {
    const world = newWorld()
    const started: { readonly node: TestNode; readonly site: TestServer }[] = []
    const start = async (name: string, roles: readonly string[]): Promise<TestNode> => {
      const node = joinNode(world, name, { framesOf }, roles)
      started.push({ node, site: await startTestServer({ storage: node.storage, config: TEST_CONFIG, cluster: { units: node.storage, secret: Buffer.from('known to all') } }) })
      return node
    }
    const stop = async (node: TestNode): Promise<void> => {
      const [found] = started.splice(started.findIndex((each) => each.node === node), 1)
      await found?.site[Symbol.asyncDispose]()
      await stopNode(node, world)
    }
    const homeOf = async (unit: string, inc: string): Promise<void> => {
      while (world.cluster.homes.get(unit) === undefined) await new Promise((resolve) => { setTimeout(resolve, 1) })
      expect(world.cluster.homes.get(unit)).to.equal(inc)
    }
    const first = await start('first', [])
    await homeOf('localhost', first.inc)
    const tools = await start('tools', ['administration'])
    const second = await start('second', ['chat', 'upload'])
    await stop(first)
    await homeOf('localhost', second.inc)
    await stop(tools)
    await stop(second)
    expect(world.cluster.homes.size).to.equal(0)
  })
})
