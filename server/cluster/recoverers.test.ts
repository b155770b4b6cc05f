import { expect } from 'chai'
import { check, type Outcome, TestRouter, UNITS } from './kills.fixture.ts'
import { claimed, joinNode, newWorld, stopNode, type TestNode } from './nodes.fixture.ts'

const [ROMEO, JULIET, NURSE, ORCHARD] = UNITS as [string, string, string, string]

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => { setTimeout(resolve, ms) })
}

/**
 * A node is killed after it has asked for `until` things, with frames on their way from and to it; who recovers it is killed at the step `step` of that. What
 * others have is looked at in the end. Answers whether the recovery had so many steps.
 */
async function run(until: number, step: number): Promise<boolean> {
  const world = newWorld()
  const nodes = ['a', 'b', 'c', 'd', 'e'].map((name) => joinNode(world, name, { segmentMs: 15, idleMs: 1e6, segmentBytes: 4000 }))
  const [a, b, c, d] = nodes as [TestNode, TestNode, TestNode, TestNode]
  const routers = new Map(nodes.map((node) => [node.inc, new TestRouter(node)]))
  for (const [node, unit] of [[a, ROMEO], [b, JULIET], [c, NURSE], [d, ORCHARD]] as const) {
    await claimed(node, unit)
    node.storage.pin(unit)
  }
  const sent: Outcome['sent'] = new Map()
  const send = (node: TestNode, from: string, to: string, by?: TestNode): void => {
    const n = sent.size + 1
    sent.set(n, { from, to, isSafe: false })
    routers.get(node.inc)?.send(from, to, n, () => { sent.set(n, { from, to, isSafe: true }) }, by?.inc).catch(() => undefined)
  }
  let left = until
  let steps = 0
  let recoverer: string | undefined
  let isSecond = false
  for (const node of nodes) {
    const inner = node.membership.inheritor
    node.membership.inherit(async (inheritance) => {
      if (inheritance.inc === a.inc && recoverer === undefined) recoverer = node.inc
      await inner?.(inheritance)
    })
  }
  world.cluster.between = (inc) => {
    if (inc === a.inc && left > 0 && --left === 0) world.cluster.kill(a.inc)
    if (inc === recoverer && !isSecond && ++steps === step) {
      isSecond = true
      world.cluster.kill(inc)
    }
  }
  for (let each = 0; each < 3; each++) {
    send(a, ROMEO, JULIET)
    send(d, ORCHARD, ROMEO)
    send(a, ROMEO, NURSE)
    send(b, JULIET, ROMEO)
    send(a, ROMEO, ORCHARD)
    send(c, NURSE, JULIET)
    send(a, ROMEO, `nobody${each}@capulet.lit`)
    send(b, JULIET, ORCHARD)
    // These are taken for a's.
    for (const to of [JULIET, NURSE, `nobody${each}@capulet.lit`, JULIET]) send(d, ORCHARD, to, a)
    if (each === 1) await pause(3)
  }
  await pause(20)
  world.cluster.kill(a.inc)
  while (world.cluster.lost.length > 0 || world.cluster.nodes.some(({ inc }) => inc === a.inc) || world.cluster.nodes.length > (isSecond ? 3 : 4)) await pause(2)
  await pause(5)
  while (world.cluster.lost.length > 0) await pause(2)
  world.cluster.between = () => undefined
  const living = nodes.filter(({ inc }) => world.cluster.nodes.some((node) => node.inc === inc))
  const last = living[living.length - 1] as TestNode
  for (const node of living.slice(0, -1)) await stopNode(node, world)
  while (world.cluster.nodes.length > 1 || world.cluster.lost.length > 0) await pause(2)
  for (const unit of [...UNITS, 'nobody0@capulet.lit', 'nobody1@capulet.lit', 'nobody2@capulet.lit']) await claimed(last, unit)
  await check({ sent, router: routers.get(last.inc) as TestRouter })
  await stopNode(last, world)
  return isSecond
}

describe('a node that recovers another', () => {
  for (const until of [4, 14, 30]) {
    it(`is killed at any step of it, and nothing is lost or doubled (the first after ${until} questions)`, async () => {
      let step = 1
      while (await run(until, step)) step++
      expect(step).to.be.greaterThan(2)
    })
  }
})
