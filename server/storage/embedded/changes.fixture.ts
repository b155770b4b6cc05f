/** For tests: changes of all shapes that are the same in each run, and what must come of them. */
import { expect } from 'chai'
import { firstIdOf, nextMessageId, setTimeOfIds, timeOfLastId } from '../../../lib/stanza/ids.ts'
import { type Shapes } from './parts.fixture.ts'

const OWNERS = ['romeo@montague.lit', 'juliet@capulet.lit', 'nurse@capulet.lit', `${'l'.repeat(900)}@capulet.lit`]
const START = 1_700_000_000_000
/** More are not removed in one turn. */
const PURGED_MAX = 200

/** Numbers that look random and are the same in each run. */
export function randomOf(seed: number): (below: number) => number {
  let state = Math.imul(seed + 1, 0x9e37_79b1)
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor(state / 2 ** 32 * below)
  }
}

/** In a suite whose tests make ids of other times: those of the tests after it are of the present again. */
export function keepTimeOfIds(): void {
  let time = 0
  before(() => { time = timeOfLastId() })
  after(() => { setTimeOfIds(time) })
}

/** What the shapes do in a turn, of those that are counted from 1. Each seed has its own time. */
export async function writeTurn(shapes: Shapes, seed: number, turn: number): Promise<void> {
  const random = randomOf(seed * 7919 + turn)
  // Ids of the server's own making, as they come in.
  nextMessageId(timeOf(seed, turn))
  for (let i = random(4); i >= 0; i--) await change(shapes, random, seed, turn)
}

function timeOf(seed: number, turn: number): number {
  return START + seed * 1e9 + turn * 1000
}

async function change({ records, archive, offline, streams }: Shapes, random: (below: number) => number, seed: number, n: number): Promise<void> {
  const idOf = (turn: number): string => firstIdOf(timeOf(seed, Math.max(1, turn)))
  const owner = OWNERS[random(OWNERS.length)] as string
  const other = OWNERS[random(OWNERS.length)] as string
  const id = idOf(random(4) === 0 ? random(n + 1) : n)
  const bytes = Buffer.alloc(random(4) === 0 ? 6000 : 700, `${n} `)
  const stream = `s${random(3)}`
  switch (random(14)) {
    case 0: case 1: case 2: case 3:
      archive.append({ id, bytes, owners: [{ owner, with: other }, ...(owner === other ? [] : [{ owner: other, with: owner }])] })
      break
    case 4: await archive.delete(owner, id); break
    case 5: await archive.replace(owner, id, bytes); break
    case 6:
      if (random(3) === 0 && await archive.count(owner, {}, PURGED_MAX) < PURGED_MAX) await archive.purge(owner, timeOf(seed, random(n + 1)))
      break
    case 7: case 8: offline.push(owner, { id: idOf(n - random(3)), bytes: bytes.subarray(0, 100) }); break
    case 9: offline.remove(owner, [idOf(n - random(4)), idOf(n - random(4))]); if (random(4) === 0) await offline.clear(owner); break
    case 10:
      if (random(3) === 0) records.delete('t', [owner, String(random(5))])
      else records.put('t', [owner, String(random(5))], n)
      break
    case 11:
      streams.close(stream)
      break
    case 12:
      if (random(2) === 0) streams.open(stream, owner, stream, n)
      else streams.state(stream, n)
      break
    default:
      // As a room does, whose messages have most of their bytes in common.
      for (const each of ['s0', 's1', 's2']) if (each === stream || random(2) === 0) streams.push(each, n, Buffer.from(each), bytes, bytes.subarray(0, 50))
      streams.handled(stream, n)
      if (random(2) === 0) streams.acknowledged(stream, Math.max(0, Math.floor(n / 5) * 5 - 10))
  }
}

/** Everything that the shapes hold, as text. */
export async function contentOf({ records, archive, offline, streams }: Shapes): Promise<string> {
  const content: unknown[] = [await records.range('t', [])]
  for (const owner of OWNERS) {
    const { items } = await archive.query(owner, { max: Infinity, direction: 'forward' })
    content.push(owner, items.map((item) => `${item.id} ${item.with} ${item.bytes.toString('latin1')}`))
    expect(await archive.count(owner, {}, Infinity)).to.equal(items.length)
    for (const other of OWNERS) expect(await archive.count(owner, { with: other }, Infinity), `${owner} with ${other}`).to.equal(items.filter((item) => item.with === other).length)
    const queued = await offline.list(owner, Infinity)
    expect(offline.count(owner)).to.equal(queued.length)
    content.push(queued.map((entry) => `${entry.id} ${entry.bytes.toString('latin1')}`))
  }
  const open = [...await streams.load()].sort((a, b) => (a.id < b.id ? -1 : 1))
  content.push(open.map(({ id, state, handled, acknowledged, unacknowledged }) => [id, state, handled, acknowledged, unacknowledged.map(({ seq, bytes }) => `${seq} ${bytes.toString('latin1')}`)]))
  return JSON.stringify(content)
}
