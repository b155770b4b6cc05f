/** What every driver of history must do: `testHistoryStore(name, open)` in a driver's own test file. */
import { expect } from 'chai'
import fc from 'fast-check'
import { firstIdOf, nextMessageId, pastMessageId, randomId, timeOfMessageId } from '../../lib/stanza/ids.ts'
import { TailArchive } from '../storage/archive/archive.ts'
import { type ArchivePage, type ArchiveQuery } from '../storage/shapes.ts'
import { type HistoryChange, type HistoryStore } from './shapes.ts'

const START = Date.UTC(2026, 0, 1)
const JULIET = 'juliet@capulet.lit'
const NURSE = 'nurse@capulet.lit'
/** What versions rise by in a millisecond. A change of an item comes a millisecond or more after the one before. */
const MS = 1024

/**
 * `open` answers a store on the same data each time; tests use owners of their own. `isAlone`: nobody else's history is in it, and `expire` may be tried. `isFenced`: who
 * has lost its lease is cut off, so that nothing comes late.
 */
export function testHistoryStore(name: string, open: () => Promise<HistoryStore>, isAlone = true, isFenced = false): void {
  describe(`${name}: history`, () => {
    let store: HistoryStore
    let romeo: string
    let version = Date.now() * MS
    let ids: string[]

    before(async () => { store = await open() })
    after(async () => { await store[Symbol.asyncDispose]() })
    beforeEach(() => {
      romeo = `romeo@${randomId(6).toLowerCase().replaceAll(/[^a-z0-9]/g, 'x')}.lit`
      ids = []
    })

    const put = (id: string, other: string, text = `<message>${id}</message>`, owner = romeo): HistoryChange => ({ owner, id, with: other, bytes: Buffer.from(text), version: version += MS })
    const remove = (id: string, other = '', owner = romeo): HistoryChange => ({ owner, id, with: other, bytes: undefined, version: version += MS })
    const idsOf = (page: ArchivePage): string[] => page.items.map((item) => item.id)
    const query = async (of: Partial<ArchiveQuery>, owner = romeo): Promise<ArchivePage> => await store.query(owner, { max: 100, direction: 'forward', ...of })

    /** Twelve messages a second apart: with Juliet, and each third with the nurse. */
    async function fill(): Promise<HistoryChange[]> {
      ids = Array.from({ length: 12 }, (_, i) => pastMessageId(START + i * 1000, i))
      const changes = ids.map((id, i) => put(id, i % 3 === 2 ? NURSE : JULIET))
      await store.write(changes)
      return changes
    }

    it('answers what was written, byte by byte', async () => {
      const bytes = Buffer.from(Array.from({ length: 600 }, (_, i) => i % 256))
      const id = nextMessageId()
      const change = { ...put(id, 'ünïcode@müller.example'), bytes }
      await store.write([change])
      const item = { id, with: change.with, bytes }
      expect(await store.get(romeo, id)).to.deep.equal(item)
      expect((await query({})).items).to.deep.equal([item])
      expect((await query({ with: change.with })).items).to.deep.equal([item])
      expect(await store.get(`x${romeo}`, id)).to.equal(undefined)
      expect(await store.get(romeo, id.slice(0, -1))).to.equal(undefined)
      await using other = await open()
      expect(await other.get(romeo, id)).to.deep.equal(item)
    })

    it('pages both ways', async () => {
      await fill()
      for (const direction of ['forward', 'backward'] as const) {
        const found: string[] = []
        for (;;) {
          const last = direction === 'forward' ? found.at(-1) : found[0]
          const page = await query({ max: 5, direction, ...(last === undefined ? {} : direction === 'forward' ? { afterId: last } : { beforeId: last }) })
          if (direction === 'forward') found.push(...idsOf(page))
          else found.unshift(...idsOf(page))
          expect(page.complete).to.equal(found.length === 12)
          if (page.complete) break
          expect(page.items).to.have.lengthOf(5)
        }
        expect(found).to.deep.equal(ids)
      }
      expect(await query({ max: 12 })).to.have.property('complete', true)
      expect(await query({ max: 0 })).to.deep.equal({ items: [], complete: false })
      expect(await query({}, `nobody@${romeo}`)).to.deep.equal({ items: [], complete: true })
    })

    it('filters by who, when and ids, and counts', async () => {
      await fill()
      const nurses = ids.filter((_, i) => i % 3 === 2)
      expect(idsOf(await query({ with: NURSE }))).to.deep.equal(nurses)
      expect(idsOf(await query({ with: NURSE, direction: 'backward', max: 2 }))).to.deep.equal(nurses.slice(-2))
      expect(idsOf(await query({ with: 'n@capulet.lit' }))).to.deep.equal([])
      expect(idsOf(await query({ start: START + 3000, end: START + 5000 }))).to.deep.equal(ids.slice(3, 6))
      expect(idsOf(await query({ start: START + 3001, end: START + 4999 }))).to.deep.equal(ids.slice(4, 5))
      expect(idsOf(await query({ end: -1 }))).to.deep.equal([])
      expect(idsOf(await query({ start: START + 5000, end: START + 4000 }))).to.deep.equal([])
      expect(idsOf(await query({ afterId: ids[2] as string, beforeId: ids[6] as string }))).to.deep.equal(ids.slice(3, 6))
      expect(idsOf(await query({ afterId: ids[6] as string, beforeId: ids[6] as string }))).to.deep.equal([])
      expect(idsOf(await query({ ids: [ids[7] as string, 'unknown', ids[1] as string, ids[7] as string] }))).to.deep.equal([ids[1], ids[7]])
      expect(idsOf(await query({ ids: [ids[2] as string, ids[1] as string], with: NURSE }))).to.deep.equal([ids[2]])
      expect(await query({ ids, max: 2, direction: 'backward' }).then((page) => [idsOf(page), page.complete])).to.deep.equal([ids.slice(-2), false])
      expect(await store.count(romeo, {}, 100)).to.equal(12)
      expect(await store.count(romeo, { with: NURSE }, 100)).to.equal(4)
      expect(await store.count(romeo, { start: START + 3000 }, 4)).to.equal(4)
      expect(await store.count(romeo, { ids: [ids[0] as string, 'unknown'] }, 9)).to.equal(1)
      expect(await store.count(`nobody@${romeo}`, {}, 9)).to.equal(0)
    })

    it('keeps order and exactness of any ids', async () => {
      const some = ['!', '~'.repeat(200), 'a', 'a!', 'aa', 'A', firstIdOf(START), pastMessageId(START, 0), '0', '00'].sort()
      await store.write([...some].reverse().map((id) => put(id, JULIET)))
      expect(idsOf(await query({}))).to.deep.equal(some)
      expect(idsOf(await query({ with: JULIET, direction: 'backward' }))).to.deep.equal(some)
      for (const id of some) expect((await store.get(romeo, id))?.bytes.toString()).to.equal(`<message>${id}</message>`)
    })

    it('keeps owners, and those whom they talk to, apart', async () => {
      const owners = [romeo, `${romeo}x`, romeo.slice(0, -1), `a${romeo}`]
      const others = [JULIET, `${JULIET}x`, JULIET.slice(0, -1), 'capulet.lit']
      const changes = owners.flatMap((owner) => others.map((other) => put(nextMessageId(), other, other, owner)))
      await store.write(changes)
      for (const owner of owners) {
        expect((await query({}, owner)).items.map((item) => item.with)).to.have.members(others)
        for (const other of others) expect((await query({ with: other }, owner)).items.map((item) => item.bytes.toString())).to.deep.equal([other])
      }
    })

    it('replaces and removes items, also of whom it is not said', async () => {
      await fill()
      const [first, second, third] = ids as [string, string, string]
      await store.write([put(first, JULIET, 'retracted'), remove(second, JULIET), remove(third), remove('unknown')])
      expect((await store.get(romeo, first))?.bytes.toString()).to.equal('retracted')
      expect((await query({ with: JULIET, max: 1 })).items.map((item) => item.bytes.toString())).to.deep.equal(['retracted'])
      expect(await store.get(romeo, second)).to.equal(undefined)
      expect(idsOf(await query({}))).to.deep.equal([first, ...ids.slice(3)])
      expect(idsOf(await query({ with: NURSE }))).to.deep.equal(ids.filter((id, i) => i % 3 === 2 && id !== third))
      expect(await store.count(romeo, { with: JULIET }, 99)).to.equal(7)
    })

    if (!isFenced) {
      it('does not change when the same changes are written again, also after newer ones, or together with them', async () => {
        const filled = await fill()
        const [first, second, third] = ids as [string, string, string]
        const later = [put(first, JULIET, 'newer'), remove(second, JULIET), remove(third)]
        await store.write(later)
        const expected = (await query({})).items
        for (const again of [filled, later, [...filled, ...later], [...later].reverse(), [...later, ...filled]]) {
          await store.write(again)
          expect((await query({})).items).to.deep.equal(expected)
          for (const other of [JULIET, NURSE]) expect((await query({ with: other })).items).to.deep.equal(expected.filter((item) => item.with === other))
        }
      })
    }

    it('takes a message that comes and goes at once', async () => {
      const id = nextMessageId()
      await store.write([put(id, JULIET), remove(id)])
      await store.write([])
      expect([(await query({})).items, (await query({ with: JULIET })).items]).to.deep.equal([[], []])
    })

    it('purges what is older, or all, of one owner, and not what was written later', async () => {
      const filled = await fill()
      const other = `mercutio@${romeo}`
      await store.write([put(nextMessageId(), JULIET, 'other', other)])
      await store.purge(romeo, START + 4000, version += MS)
      expect(idsOf(await query({}))).to.deep.equal(ids.slice(4))
      expect(idsOf(await query({ with: NURSE }))).to.deep.equal([ids[5], ids[8], ids[11]])
      if (!isFenced) await store.write(filled)
      expect(idsOf(await query({}))).to.deep.equal(ids.slice(4))
      const purged = version += MS
      const after = put(ids[6] as string, JULIET, 'written after')
      if (isFenced) await store.purge(romeo, undefined, purged)
      await store.write([after])
      if (!isFenced) await store.purge(romeo, undefined, purged)
      expect((await query({})).items.map((item) => item.bytes.toString())).to.deep.equal(['written after'])
      expect((await query({ with: JULIET })).items.map((item) => item.bytes.toString())).to.deep.equal(['written after'])
      expect((await query({}, other)).items).to.have.lengthOf(1)
    })

    it('takes large batches and items', async () => {
      const many = Array.from({ length: 3000 }, (_, i) => put(pastMessageId(START + i, i), i % 2 === 0 ? JULIET : NURSE, `${i}`))
      const large = put(nextMessageId(), JULIET, 'x'.repeat(1_000_000))
      await store.write([...many, large])
      expect(await store.count(romeo, {}, 5000)).to.equal(3001)
      expect((await query({ max: 4000, with: NURSE })).items.map((item) => Number(item.bytes.toString()))).to.deep.equal(Array.from({ length: 1500 }, (_, i) => 2 * i + 1))
      expect((await store.get(romeo, large.id))?.bytes.length).to.equal(1_000_000)
      await store.purge(romeo, undefined, version += MS)
      expect(await store.count(romeo, {}, 5000)).to.equal(0)
      expect(await store.count(romeo, { with: JULIET }, 5000)).to.equal(0)
    })

    if (isAlone) {
      it('removes everybody\'s items that are older', async () => {
        await fill()
        const other = `mercutio@${romeo}`
        await store.write(ids.slice(0, 3).map((id) => put(id, NURSE, 'old', other)))
        expect(await store.expire(START + 3000)).to.be.at.least(6)
        expect(idsOf(await query({}))).to.deep.equal(ids.slice(3))
        expect(idsOf(await query({ with: NURSE }))).to.deep.equal([ids[5], ids[8], ids[11]])
        expect((await query({}, other)).items).to.deep.equal([])
        expect(await store.expire(START + 3000)).to.equal(0)
      })
    }

    it('answers as the archive of one machine does', async () => {
      const offset = fc.integer({ min: -1, max: 13 })
      const some = fc.record({
        with: fc.option(fc.constantFrom(JULIET, NURSE), { nil: undefined }), start: fc.option(offset, { nil: undefined }), end: fc.option(offset, { nil: undefined }),
        afterId: fc.option(fc.nat(11), { nil: undefined }), beforeId: fc.option(fc.nat(11), { nil: undefined }), max: fc.integer({ min: 0, max: 6 }), direction: fc.constantFrom('forward' as const, 'backward' as const),
      })
      const changes = await fill()
      const model = new TailArchive(() => Promise.resolve())
      for (const { id, with: other, bytes } of changes) model.append({ id, bytes: bytes as Buffer, owners: [{ owner: romeo, with: other }] })
      await fc.assert(fc.asyncProperty(some, async (one) => {
        const asked: ArchiveQuery = {
          max: one.max, direction: one.direction,
          ...(one.with === undefined ? {} : { with: one.with }),
          ...(one.start === undefined ? {} : { start: START + one.start * 1000 }), ...(one.end === undefined ? {} : { end: START + one.end * 1000 }),
          ...(one.afterId === undefined ? {} : { afterId: ids[one.afterId] as string }), ...(one.beforeId === undefined ? {} : { beforeId: ids[one.beforeId] as string }),
        }
        expect(await store.query(romeo, asked)).to.deep.equal(model.query(romeo, asked))
        expect(await store.count(romeo, asked, 5)).to.equal(model.count(romeo, asked, 5))
      }), { numRuns: 60 })
      expect(ids.map(timeOfMessageId)).to.deep.equal(ids.map((_, i) => START + i * 1000))
    })
  })
}
