/** Units that send to each other while their nodes stop and die, and while they move: what each gets of another is all, once, and in order. */
import { expect } from 'chai'
import { createLog } from '../log.ts'
import { randomOf } from '../storage/embedded/changes.fixture.ts'
import { framesOf } from './frames.ts'
import { Homes } from './homes.ts'
import { joinNode, newWorld, type TestNode, type World } from './nodes.fixture.ts'

const UNITS = ['romeo@montague.lit', 'juliet@capulet.lit', 'nurse@capulet.lit', 'tybalt@capulet.lit', 'benvolio@montague.lit']
const MESSAGES = 80
const DISTURBANCES = 10

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => { setTimeout(resolve, ms) })
}

/** A node as the router uses it. */
class OrderNode {
  readonly node: TestNode
  readonly homes: Homes
  isOver = false

  constructor(world: World, name: string) {
    this.node = joinNode(world, name, { framesOf, segmentMs: 15, idleMs: 40 })
    this.homes = new Homes({
      units: this.node.storage, log: createLog('silent'), retryMs: 5, lost: () => undefined,
      handle: ({ kind, unit, list }) => { if (kind === 'stanza') this.take(unit, ...list as [string, string]) },
    })
    this.node.storage.onLost(() => { this.isOver = true })
  }

  take(to: string, from: string, n: string): void {
    const { records } = this.node.storage
    const count = records.get('count', [to]) as number | undefined ?? 0
    records.put('count', [to], count + 1)
    records.put('got', [to, String(count).padStart(6, '0')], [from, n])
  }

  /** Sends the next message of a unit that is here. */
  send(from: string, to: string): number {
    const { records } = this.node.storage
    const n = (records.get('sent', [from, to]) as number | undefined ?? 0) + 1
    records.put('sent', [from, to], n)
    if (this.homes.here(to)) this.take(to, from, String(n))
    else this.homes.send({ kind: 'stanza', unit: to, list: [from, String(n)], durable: true })
    return n
  }

  /** In good order, as the server does. */
  async stop(world: World): Promise<void> {
    this.isOver = true
    await this.node.storage.leaving()
    await pause(3)
    this.homes.leave()
    await this.node.storage.leave()
    await this.homes.passedOn()
    this.homes.close()
    await this.node.storage[Symbol.asyncDispose]()
    world.cluster.leave(this.node.inc)
  }
}

/** A user who is at whichever node has his account, and sends one message after another to all others. */
async function talk(world: World, nodes: Set<OrderNode>, from: string, random: (below: number) => number): Promise<void> {
  const others = UNITS.filter((unit) => unit !== from)
  const left = new Map<string, number>()
  do {
    await pause(random(4))
    const home = [...nodes].find(({ node }) => node.inc === world.cluster.homes.get(from)) ?? [...nodes].filter(({ isOver }) => !isOver)[random(nodes.size)]
    if (home === undefined || home.isOver) continue
    const { node: { storage }, homes } = home
    if (!await Promise.race([homes.claim(from).catch(() => false), over(home)]) || home.isOver || !storage.isHere(from)) continue
    const unpin = storage.pin(from)
    const count = (): void => { for (const to of others) left.set(to, MESSAGES - (storage.records.get('sent', [from, to]) as number | undefined ?? 0)) }
    count()
    for (let stay = 5 + random(60); stay > 0 && !home.isOver; stay--) {
      const open = others.filter((to) => (left.get(to) as number) > 0)
      const to = open[random(open.length)]
      if (to === undefined) break
      for (let known = homes.wait(to); known !== undefined && !home.isOver; known = homes.wait(to)) await Promise.race([known, over(home)])
      if (home.isOver) break
      left.set(to, MESSAGES - home.send(from, to))
      if (random(3) === 0) await pause(random(3))
      else await Promise.resolve()
    }
    await Promise.race([storage.committed(), over(home)])
    unpin()
    // What was not committed is sent again from the next home.
    if (home.isOver) left.clear()
    // Sometimes he stays away for so long that the account is given up.
    else if (random(3) === 0) await pause(random(120))
  } while (left.size === 0 || [...left.values()].some((count) => count > 0))
}

async function over(home: OrderNode): Promise<false> {
  while (!home.isOver) await pause(3)
  return false
}

async function life(seed: number, isKilling: boolean, isStopping: boolean): Promise<void> {
  const random = randomOf(seed)
  const world = newWorld()
  let isCalm = false
  let names = 0
  world.cluster.between = async () => { if (!isCalm && Math.random() < 0.4) await pause(Math.random() * 6) }
  const nodes = new Set<OrderNode>()
  const join = (): void => { nodes.add(new OrderNode(world, `n${++names}`)) }
  for (let i = 0; i < 3; i++) join()
  let isDone = false
  const talking = Promise.all(UNITS.map((unit) => talk(world, nodes, unit, random))).then(() => { isDone = true })
  const stops: Promise<void>[] = []
  for (let i = 0; i < DISTURBANCES && !isDone; i++) {
    // One after the other.
    await Promise.all(stops)
    while (world.cluster.isRecovering) await pause(5)
    await pause(20 + random(100))
    const victim = [...nodes][random(nodes.size)] as OrderNode
    if (victim.isOver) continue
    join()
    if (isStopping && (!isKilling || random(2) === 0)) stops.push(victim.stop(world).then(() => { nodes.delete(victim) }))
    else if (isKilling) {
      victim.isOver = true
      nodes.delete(victim)
      world.cluster.kill(victim.node.inc)
    }
  }
  await talking
  isCalm = true
  await Promise.all(stops)
  const [last, ...rest] = nodes
  const { node: { storage }, homes } = last as OrderNode
  for (const one of rest) await one.stop(world)
  const received = async (unit: string): Promise<number> => await homes.claim(unit) ? storage.records.get('count', [unit]) as number | undefined ?? 0 : 0
  for (const unit of UNITS) {
    for (let i = 0; i < 1000 && await received(unit) < (UNITS.length - 1) * MESSAGES; i++) await pause(5)
    storage.pin(unit)
    const got = (await storage.records.range('got', [unit])).map(({ value }) => value as [string, string])
    for (const from of UNITS) {
      if (from === unit) continue
      const expected = Array.from({ length: MESSAGES }, (_, i) => i + 1)
      expect(got.filter(([sender]) => sender === from).map(([, n]) => Number(n)), `what ${unit} got from ${from}`).to.deep.equal(expected)
    }
  }
  await (last as OrderNode).stop(world)
}

describe('messages between units that move', function () {
  this.timeout(200_000)
  const seeds = (process.env['SEEDS'] ?? '1,2').split(',').map(Number)
  for (const seed of seeds) {
    it(`come once and in order while nodes stop (${seed})`, () => life(seed, false, true))
    it(`come once and in order while nodes are killed (${seed})`, () => life(seed + 1000, true, false))
    it(`come once and in order while nodes stop and are killed (${seed})`, () => life(seed + 2000, true, true))
  }
})
