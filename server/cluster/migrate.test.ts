import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'chai'
import { nextMessageId } from '../../lib/stanza/ids.ts'
import { openEmbedded } from '../storage/embedded/embedded.ts'
import { openMemory } from '../storage/memory/memory.ts'
import { type Storage } from '../storage/shapes.ts'
import { migrate, type Migrated, type Target } from './migrate.ts'
import { claimed, joinNode, newWorld, stopNode, type World } from './nodes.fixture.ts'

const JULIET = 'juliet@capulet.lit'
const ROMEO = 'romeo@montague.lit'
const ROOM = 'balcony@rooms.capulet.lit'
const ODD = 'jüliet\\20c@capulet.lit'
const LONG = `${'l'.repeat(900)}@capulet.lit`
const HOSTS = ['capulet.lit', 'montague.lit']
const nobody: Parameters<typeof migrate>[3] = async () => false

/** What a server alone has stored. */
async function fill(storage: Storage): Promise<string[]> {
  const { records, archive, offline, streams, blobs } = storage
  for (const [host, local] of [['capulet.lit', 'juliet'], ['montague.lit', 'romeo'], ['capulet.lit', 'jüliet\\20c'], ['capulet.lit', 'l'.repeat(900)]] as const) records.put('accounts', [host, local], { host, local })
  for (const owner of [JULIET, ODD, LONG]) records.put('roster', [owner, ROMEO], { subscription: 'both' })
  for (let at = 0; at < 700; at++) records.put('pubsub_items', [JULIET, 'node', String(at)], at)
  records.put('muc-rooms', ['rooms.capulet.lit', 'balcony'], 'room')
  records.put('muc-secrets', ['rooms.capulet.lit'], Buffer.from('secret'))
  records.put('motd', ['capulet.lit'], 'hello')
  const ids: string[] = []
  for (let at = 0; at < 600; at++) {
    const id = nextMessageId()
    ids.push(id)
    archive.append({ id, bytes: Buffer.from(`message ${at}`), owners: [{ owner: JULIET, with: ROMEO }, { owner: ROMEO, with: JULIET }, ...(at % 10 === 0 ? [{ owner: ODD, with: ROMEO }, { owner: LONG, with: ROMEO }, { owner: ROOM, with: ROMEO }] : [])] })
  }
  void archive.delete(JULIET, ids[5] as string)
  for (let at = 0; at < 300; at++) offline.push(ROMEO, { id: nextMessageId(), bytes: Buffer.from(`offline ${at}`) })
  offline.push(LONG, { id: nextMessageId(), bytes: Buffer.from('offline') })
  streams.open('s1', JULIET, 'balcony', { carbons: true })
  streams.handled('s1', 7)
  for (let seq = 1; seq <= 4; seq++) streams.push('s1', seq, Buffer.from(`stanza ${seq}`))
  streams.acknowledged('s1', 2)
  records.put('uploads', [JULIET, 'secret-1'], { size: 5, done: true })
  records.put('uploads', [JULIET, 'never-used'], { size: 5 })
  await blobs.put('secret-1', 5, (async function* body() { yield Buffer.from('bytes') })(), 'text/plain')
  await storage.committed()
  return ids
}

/** A data directory, filled; what `use` does with its storage. */
async function withSource<Result>(use: (storage: Awaited<ReturnType<typeof openEmbedded>>, ids: readonly string[]) => Promise<Result>): Promise<Result> {
  const dir = mkdtempSync(join(tmpdir(), 'tidings-migrate-'))
  try {
    const first = await openEmbedded(dir)
    const ids = await fill(first)
    // What is in the log is in the database once it is closed.
    await first[Symbol.asyncDispose]()
    await using storage = await openEmbedded(dir)
    return await use(storage, ids)
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
}

async function check(world: World, ids: readonly string[]): Promise<void> {
  const node = joinNode(world, 'later')
  const streams: unknown[] = []
  node.storage.onClaimed((unit, open) => { for (const { id, handled, acknowledged, state, unacknowledged } of open) streams.push([unit, id, handled, acknowledged, state, unacknowledged.map(({ seq, bytes }) => `${seq} ${bytes.toString()}`)]) })
  for (const unit of [JULIET, ROMEO, ROOM, ODD, LONG, ...HOSTS, 'rooms.capulet.lit']) await claimed(node, unit)
  const { records, archive, offline } = node.storage
  expect(records.get('accounts', ['capulet.lit', 'juliet'])).to.deep.equal({ host: 'capulet.lit', local: 'juliet' })
  for (const owner of [JULIET, ODD, LONG]) expect(records.get('roster', [owner, ROMEO])).to.deep.equal({ subscription: 'both' })
  expect(await records.range('pubsub_items', [JULIET, 'node'])).to.have.lengthOf(700)
  expect(records.get('muc-rooms', ['rooms.capulet.lit', 'balcony'])).to.equal('room')
  expect(records.get('muc-secrets', ['rooms.capulet.lit'])).to.equal(undefined)
  expect(records.get('motd', ['capulet.lit'])).to.equal('hello')
  const history = async (owner: string): Promise<string[]> => (await archive.query(owner, { max: 1000, direction: 'forward' })).items.map(({ id }) => id)
  expect(await history(JULIET)).to.deep.equal(ids.filter((_, at) => at !== 5))
  expect(await history(ROMEO)).to.deep.equal(ids)
  const tenth = ids.filter((_, at) => at % 10 === 0)
  for (const owner of [ODD, LONG, ROOM]) expect(await history(owner)).to.deep.equal(tenth)
  expect((await archive.get(ROMEO, ids[3] as string))?.bytes.toString()).to.equal('message 3')
  expect((await offline.list(ROMEO, 1000)).map(({ bytes }) => bytes.toString())).to.deep.equal(Array.from({ length: 300 }, (_, at) => `offline ${at}`))
  expect(offline.count(LONG)).to.equal(1)
  expect(streams).to.deep.equal([[JULIET, 's1', 7, 2, { carbons: true }, ['3 stanza 3', '4 stanza 4']]])
  await stopNode(node, world)
}

/** Brings it with a node of its own. `spoil` may change what is written to. */
async function bring(source: Parameters<typeof migrate>[0], world: World, blobs: Target['blobs'], hasAccounts: Parameters<typeof migrate>[3] = nobody, spoil = (target: Target): Target => target): Promise<Migrated> {
  const node = joinNode(world, 'migration', { idleMs: 10, unitsMax: 3, segmentMs: 20 })
  try {
    return await migrate(source, spoil({ storage: node.storage, units: node.storage, blobs }), HOSTS, hasAccounts)
  } finally {
    await stopNode(node, world)
  }
}

describe('from one server to a cluster', () => {
  it('brings records, history, offline stanzas, streams and files', async () => {
    await withSource(async (storage, ids) => {
      const world = newWorld()
      const { blobs } = openMemory()
      const migrated = await bring(storage, world, blobs)
      expect(migrated).to.deep.include({ history: 599 + 600 + 3 * 60, offline: 301, streams: 1, files: 1 })
      await check(world, ids)
      expect(await blobs.stat('secret-1')).to.deep.include({ size: 5 })
    })
  })

  it('goes on after it was interrupted, and is done once', async () => {
    await withSource(async (storage, ids) => {
      const world = newWorld()
      const { blobs } = openMemory()
      let left = 0
      const breaking = (target: Target): Target => ({
        ...target,
        units: new Proxy(target.units, {
          get: (units, name) => {
            if (name === 'pin' && left-- <= 0) throw new Error('interrupted')
            const value = Reflect.get(units, name) as unknown
            return typeof value === 'function' ? value.bind(units) : value
          },
        }),
      })
      for (let tries = 0; ; tries++) {
        left = 7 * (tries + 1)
        try {
          await bring(storage, world, blobs, nobody, breaking)
          expect(tries).to.be.greaterThan(0)
          break
        } catch (error) {
          expect((error as Error).message).to.equal('interrupted')
        }
      }
      await check(world, ids)
      expect(await bring(storage, world, blobs).catch((error: Error) => error.message)).to.match(/capulet.lit has been brought/)
    })
  })

  it('refuses a cluster that serves, or that has accounts of these hosts', async () => {
    await withSource(async (storage) => {
      const world = newWorld()
      const other = joinNode(world, 'other')
      expect(await bring(storage, world, undefined).catch((error: Error) => error.message)).to.equal('stop the other nodes first: other')
      await stopNode(other, world)
      expect(await bring(storage, world, undefined, async (host) => host === 'montague.lit').catch((error: Error) => error.message)).to.equal('this cluster has accounts of montague.lit already')
    })
  })
})
