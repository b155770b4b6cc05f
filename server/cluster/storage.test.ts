import { expect } from 'chai'
import { testStorage } from '../storage/contract.ts'
import { claimed, joinNode, newWorld, stopNode, type TestNode, type World } from './nodes.fixture.ts'
import { type ClusterStorageOptions } from './storage.ts'

const ROMEO = 'romeo@montague.lit'
const JULIET = 'juliet@capulet.lit'
const NURSE = 'nurse@capulet.lit'
const LONG = `${'l'.repeat(1023)}@${'d'.repeat(1023)}`

/** All units that the contract writes to. */
const UNITS = [
  'k', 'never', 'a', 'b', 'ab', 'a\0', 'a\x01', '\0', '\x01', 'ä', '', 'o', ROMEO, JULIET, NURSE, `${ROMEO}x`, 'x@y', 'mercutio@verona.lit', 'ä@montague.lit',
  LONG, `${'l'.repeat(900)}@example.org`, ...Array.from({ length: 60 }, (_, run) => [ROMEO, JULIET, NURSE].map((owner) => `${run + 1}${owner}`)).flat(),
]

async function claimAll(node: TestNode): Promise<void> {
  await Promise.all(UNITS.map((unit) => claimed(node, unit)))
}

function testCluster(name: string, options: Partial<ClusterStorageOptions>, isKilled: boolean): void {
  testStorage(name, async () => {
    const world: World = newWorld()
    const survivor = joinNode(world, 'survivor', options)
    let node = joinNode(world, 'node', options)
    await claimAll(node)
    return {
      storage: node.storage,
      async reopen() {
        if (isKilled) {
          await node.storage.committed()
          world.cluster.kill(node.inc)
        } else await stopNode(node, world)
        node = joinNode(world, 'node', options)
        await claimAll(node)
        return node.storage
      },
      async remove() { await stopNode(survivor, world) },
    }
  })
}

testCluster('cluster', {}, false)
testCluster('cluster, always turning over,', { segmentBytes: 1, segmentMs: 1 }, false)
testCluster('cluster, killed,', {}, true)
testCluster('cluster, always turning over and killed,', { segmentBytes: 1, segmentMs: 1 }, true)

describe('storage of a node', () => {
  it('throws for what belongs to a unit that is not loaded, and answers for those that are', async () => {
    const world = newWorld()
    const node = joinNode(world, 'a')
    const { storage } = node
    await storage.claim(ROMEO)
    for (const use of [
      () => storage.records.get('roster', [JULIET, ROMEO]), () => { storage.records.put('roster', [JULIET, ROMEO], 1) }, () => storage.records.range('roster', [JULIET]),
      () => storage.records.get('accounts', ['capulet.lit', 'juliet']), () => storage.records.range('muc-affiliations', ['capulet.lit', 'juliet']),
      () => storage.offline.count(JULIET), () => storage.archive.query(JULIET, { max: 1, direction: 'forward' }), () => { storage.streams.open('s', JULIET, 'r', null) },
    ]) expect(use).to.throw(/not loaded here/)
    storage.records.put('accounts', ['montague.lit', 'romeo'], 1)
    expect(await storage.records.get('accounts', ['montague.lit', 'romeo'])).to.equal(1)
    expect(await storage.records.range('accounts', ['montague.lit'])).to.have.lengthOf(1)
    await stopNode(node, world)
  })
})
