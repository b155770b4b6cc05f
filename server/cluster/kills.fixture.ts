/** For tests: nodes of a cluster that are killed, or lose their leases, at any moment, while units send each other messages and move. */
import { expect } from 'chai'
import { nextMessageId } from '../../lib/stanza/ids.ts'
import { randomOf } from '../storage/embedded/changes.fixture.ts'
import { claimed, type TestNode } from './nodes.fixture.ts'
import { type ClusterStorageOptions } from './storage.ts'

export const UNITS = ['romeo@montague.lit', 'juliet@capulet.lit', 'nurse@capulet.lit', 'orchard@rooms.capulet.lit', `${'l'.repeat(600)}@capulet.lit`]
const MESSAGES = 150
const KILL_EVERY = 25

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => { setTimeout(resolve, ms) })
}

export type KillNode = Omit<TestNode, 'membership'>

/** Nodes, and what outlives them. */
export interface KillWorld {
  join(name: string, options: Partial<ClusterStorageOptions>): Promise<KillNode>
  kill(node: KillNode): Promise<void>
  fence(node: KillNode): Promise<void>
  /** In good order. */
  stop(node: KillNode): Promise<void>
  /** All nodes end, and what keeps them together begins anew. */
  killAll?(): Promise<void>
  /** Nothing is disturbed any more. */
  calm(): void
  /** Whether nodes that are over are recovered, and only so many are left. */
  isSettled(nodes: number): boolean
}

/** A user of the storage as the router is: units write to themselves, and to others by frames. */
export class TestRouter {
  readonly node: KillNode
  constructor(node: KillNode) {
    this.node = node
    const { storage } = node
    storage.incoming((_source, frame, done) => { void this.#arrived(frame, done) })
    storage.returned((frame, done) => { void this.#arrived(frame, done) })
  }

  /** Sends a message from one unit to another, through the node that is its home, or is taken for that (`by`); resolves with whether it was sent, which is not the same as being safe. */
  async send(from: string, to: string, n: number, onSafe: () => void, by?: string): Promise<boolean> {
    const { storage } = this.node
    if (await storage.claim(from) !== storage.inc) return false
    const home = by ?? await storage.find(to) ?? await storage.claim(to)
    if (!storage.isHere(from)) return false
    const id = nextMessageId()
    storage.records.put('sent', [from, String(n)], [to, id])
    storage.archive.append({ id, bytes: Buffer.from(`${n}`), owners: [{ owner: from, with: to }] })
    storage.streams.push(`stream of ${from}`, n, Buffer.from('echo'))
    const frame = Buffer.from(`${to} ${from} ${n} ${id}`)
    if (home === storage.inc && storage.isHere(to)) this.#take(frame)
    else storage.outgoing(home, frame, true)
    storage.afterCommit(onSafe)
    return true
  }

  async #arrived(frame: Buffer, done: () => void): Promise<void> {
    const { storage } = this.node
    const unit = frame.toString().split(' ')[0] as string
    for (;;) {
      const home = await storage.claim(unit).catch(() => undefined)
      if (home === undefined) await pause(2)
      else if (home !== storage.inc) {
        storage.outgoing(home, frame, true)
        return done()
      } else if (storage.isHere(unit)) {
        this.#take(frame)
        return done()
      }
    }
  }

  #take(frame: Buffer): void {
    const { storage } = this.node
    const [to = '', from = '', n = '', id = ''] = frame.toString().split(' ')
    const count = (storage.records.get('count', [to]) as number | undefined ?? 0) + 1
    storage.records.put('count', [to], count)
    storage.records.put('received', [to, from, n], count)
    storage.offline.push(to, { id, bytes: Buffer.from(n) })
    storage.archive.append({ id, bytes: Buffer.from(n), owners: [{ owner: to, with: from }] })
  }
}

export interface Outcome {
  /** Messages that were sent, with what is known of them. */
  readonly sent: Map<number, { readonly from: string; readonly to: string; isSafe: boolean }>
  readonly router: TestRouter
}

/** Messages between units while nodes come and go; in the end one node has all units. */
export async function life(world: KillWorld, seed: number): Promise<Outcome> {
  const random = randomOf(seed)
  const options = { segmentMs: 15, idleMs: 30, segmentBytes: 4000 }
  const routers = new Set<TestRouter>()
  let names = 0
  const join = async (): Promise<void> => { routers.add(new TestRouter(await world.join(`n${++names}`, options))) }
  const any = (): TestRouter => [...routers][random(routers.size)] as TestRouter
  for (let i = 0; i < 3; i++) await join()
  const sent: Outcome['sent'] = new Map()
  for (let n = 1; n <= MESSAGES; n++) {
    const from = UNITS[random(UNITS.length)] as string
    const to = UNITS[random(UNITS.length)] as string
    const router = any()
    const attempt = router.send(from, to, n, () => {
      const known = sent.get(n)
      if (known) known.isSafe = true
    }).catch(() => false)
    sent.set(n, { from, to, isSafe: false })
    // A call to a node that is killed has no answer.
    await Promise.race([attempt, pause(20)])
    if (random(3) === 0) await pause(random(10))
    if (n % KILL_EVERY !== 0) continue
    if (world.killAll && n % (2 * KILL_EVERY) === 0) {
      await world.killAll()
      routers.clear()
      for (let i = 0; i < 3; i++) await join()
      continue
    }
    const victim = any()
    routers.delete(victim)
    await join()
    if (random(3) === 0) await world.fence(victim.node)
    else await world.kill(victim.node)
  }
  world.calm()
  const [first, ...others] = routers
  const rest = first as TestRouter
  for (const { node } of others) await world.stop(node)
  while (!world.isSettled(1)) await pause(5)
  for (const unit of UNITS) {
    await claimed(rest.node, unit)
    rest.node.storage.pin(unit)
  }
  return { sent, router: rest }
}

/** What was safe is there, and everything is there once. */
export async function check({ sent, router }: Outcome): Promise<void> {
  const { storage } = router.node
  const isReceived = (from: string, to: string, n: number): boolean => storage.records.get('received', [to, from, String(n)]) !== undefined
  // What was committed by a node that went comes after its recovery.
  for (const deadline = Date.now() + 8000; Date.now() < deadline;) {
    if ([...sent].every(([n, { from, to }]) => storage.records.get('sent', [from, String(n)]) === undefined || isReceived(from, to, n))) break
    await pause(10)
  }
  for (const [n, { from, to, isSafe }] of sent) {
    const isSent = storage.records.get('sent', [from, String(n)]) !== undefined
    if (isSafe) expect(isSent, `${n} was safe`).to.equal(true)
    expect(isReceived(from, to, n), `${n} from ${from} to ${to}, ${isSafe ? 'safe' : isSent ? 'sent' : 'not sent'}, received`).to.equal(isSent)
  }
  for (const unit of UNITS) {
    const received = await storage.records.range('received', [unit])
    expect(storage.records.get('count', [unit]) ?? 0, `count of ${unit}`).to.equal(received.length)
    expect(new Set(received.map((row) => row.value)).size).to.equal(received.length)
    const queued = await storage.offline.list(unit, Infinity)
    expect(queued.map(({ bytes }) => bytes.toString()).sort()).to.deep.equal(received.map(({ key }) => String(key[2])).sort())
    const archived = await storage.archive.query(unit, { max: Infinity, direction: 'forward' })
    const own = (await storage.records.range('sent', [unit])).map(({ key, value }) => `${key[1]} ${(value as [string, string])[1]}`)
    const expected = [...own, ...queued.map(({ id, bytes }) => `${bytes.toString()} ${id}`)]
    expect(archived.items.map(({ id, bytes }) => `${bytes.toString()} ${id}`).sort()).to.deep.equal([...new Set(expected)].sort())
    expect(await storage.archive.count(unit, {}, Infinity)).to.equal(archived.items.length)
  }
}
