/** What every driver must do, as tests: `testStorage(name, open)` in a driver's own test file. */
import { expect } from 'chai'
import fc from 'fast-check'
import { firstIdOf, nextMessageId, timeOfMessageId } from '../../lib/stanza/ids.ts'
import { type ArchivePage, type ArchiveQuery, type Blobs, type Key, type Storage, type StoredStream } from './shapes.ts'

export interface StorageUnderTest {
  readonly storage: Storage
  /** Closes the storage and opens it again on the same data; undefined when nothing outlives the driver. */
  readonly reopen?: () => Promise<Storage>
  /** Removes what the test left. */
  readonly remove?: () => Promise<void>
}

const ROMEO = 'romeo@montague.lit'
const JULIET = 'juliet@capulet.lit'
const NURSE = 'nurse@capulet.lit'

function ids(page: ArchivePage): string[] {
  return page.items.map((item) => item.id)
}

async function* chunks(...parts: string[]): AsyncIterable<Uint8Array> {
  for (const part of parts) yield Buffer.from(part)
}

async function read(body: AsyncIterable<Uint8Array>): Promise<string> {
  const parts: Uint8Array[] = []
  for await (const part of body) parts.push(part)
  return Buffer.concat(parts).toString()
}

async function failure(promise: Promise<unknown>): Promise<Error | undefined> {
  try {
    await promise
    return undefined
  } catch (error) {
    return error as Error
  }
}

/** Runs the contract: every test once with reads before anything is committed, and where it matters after. */
export function testStorage(name: string, open: () => Promise<StorageUnderTest>): void {
  describe(`${name} storage`, () => {
    let under: StorageUnderTest
    let storage: Storage

    beforeEach(async () => {
      under = await open()
      storage = under.storage
    })

    afterEach(async () => {
      await storage[Symbol.asyncDispose]()
      await under.remove?.()
    })

    /** Runs the checks on what is not committed, what is, and what a new start finds. */
    async function always(check: () => Promise<void>): Promise<void> {
      await check()
      await storage.committed()
      await check()
      if (under.reopen) {
        storage = await under.reopen()
        await check()
      }
    }

    describe('records', () => {
      it('answers what was put, also before it is committed, and keeps bytes, nesting and null', async () => {
        const value = { text: 'ü€𝄞', list: [1, -2.5, true, null, 2 ** 40], bytes: Uint8Array.of(0, 255), inner: { a: '' } }
        storage.records.put('t', [ROMEO, 'x'], value)
        await always(async () => {
          const found = await storage.records.get('t', [ROMEO, 'x']) as typeof value
          expect({ ...found, bytes: [...found.bytes] }).to.deep.equal({ ...value, bytes: [0, 255] })
          expect(await storage.records.get('t', [ROMEO])).to.equal(undefined)
          expect(await storage.records.get('u', [ROMEO, 'x'])).to.equal(undefined)
        })
      })

      it('does not see later changes of a value that was put', async () => {
        const value = { a: 1 }
        storage.records.put('t', ['k'], value)
        value.a = 2
        expect(await storage.records.get('t', ['k'])).to.deep.equal({ a: 1 })
      })

      it('deletes', async () => {
        storage.records.put('t', ['k'], 1)
        await storage.committed()
        storage.records.delete('t', ['k'])
        storage.records.delete('t', ['never'])
        await always(async () => { expect(await storage.records.get('t', ['k'])).to.equal(undefined) })
      })

      it('ranges over whole parts of keys, in order part by part', async () => {
        for (const key of [['a', 'b', 'c'], ['a', 'b'], ['a'], ['ab'], ['a', 'c'], ['a\0', 'x'], ['a\x01'], ['b'], ['a', '\0'], ['a', '']]) storage.records.put('t', key, key)
        storage.records.put('t2', ['a'], 1)
        await always(async () => {
          const found = await storage.records.range('t', ['a'])
          expect(found.map((entry) => entry.key)).to.deep.equal([['a'], ['a', ''], ['a', '\0'], ['a', 'b'], ['a', 'b', 'c'], ['a', 'c']])
          for (const { key, value } of found) expect(value).to.deep.equal(key)
          expect((await storage.records.range('t', [])).map((entry) => entry.key)).to.have.lengthOf(10)
        })
      })

      it('orders as UTF-8 does, not as UTF-16', async () => {
        storage.records.put('t', ['o', '\u{1f600}'], 1)
        storage.records.put('t', ['o', '\uffee'], 2)
        const found = await storage.records.range('t', ['o'])
        expect(found.map((entry) => entry.value)).to.deep.equal([2, 1])
      })

      it('pages both ways', async () => {
        for (let i = 0; i < 10; i++) storage.records.put('t', ['o', `k${i}`], i)
        await storage.committed()
        storage.records.delete('t', ['o', 'k4'])
        storage.records.put('t', ['o', 'k45'], 45)
        await always(async () => {
          const values = async (options: Parameters<Storage['records']['range']>[2]) => (await storage.records.range('t', ['o'], options)).map((entry) => entry.value)
          expect(await values({ limit: 3 })).to.deep.equal([0, 1, 2])
          expect(await values({ after: ['o', 'k2'], limit: 3 })).to.deep.equal([3, 45, 5])
          expect(await values({ reverse: true, limit: 2 })).to.deep.equal([9, 8])
          expect(await values({ reverse: true, after: ['o', 'k6'], limit: 3 })).to.deep.equal([5, 45, 3])
          expect(await values({ after: ['o', 'k9'] })).to.deep.equal([])
        })
      })

      it('takes the longest JIDs as parts of a key', async () => {
        const long = `${'l'.repeat(1023)}@${'d'.repeat(1023)}`
        storage.records.put('t', [long, `${long}1`], 'one')
        storage.records.put('t', [long, `${long}2`], 'two')
        await always(async () => {
          expect(await storage.records.get('t', [long, `${long}2`])).to.equal('two')
          const found = await storage.records.range('t', [long])
          expect(found.map((entry) => entry.key[1])).to.have.members([`${long}1`, `${long}2`])
        })
      })

      it('deletes a range and nothing beside it', async () => {
        storage.records.put('t', ['a', '1'], 1)
        storage.records.put('t', ['ab'], 2)
        await storage.committed()
        storage.records.put('t', ['a', '2'], 3)
        await storage.records.deleteRange('t', ['a'])
        await always(async () => {
          expect(await storage.records.range('t', ['a'])).to.deep.equal([])
          expect(await storage.records.get('t', ['ab'])).to.equal(2)
        })
      })

      it('behaves as a sorted map does, whatever is committed when', async () => {
        const part = fc.constantFrom('a', 'b', 'ab', '\0', '\x01', 'ä', '')
        const key = fc.array(part, { minLength: 1, maxLength: 3 })
        const step = fc.oneof(
          fc.record({ do: fc.constant('put' as const), key, value: fc.nat(99) }),
          fc.record({ do: fc.constant('delete' as const), key }),
          fc.record({ do: fc.constant('deleteRange' as const), key }),
          fc.record({ do: fc.constant('commit' as const) }),
          fc.record({ do: fc.constant('range' as const), key, after: fc.option(key), limit: fc.option(fc.integer({ min: 1, max: 4 })), reverse: fc.boolean() }),
        )
        let table = 0
        await fc.assert(fc.asyncProperty(fc.array(step, { maxLength: 30 }), async (steps) => {
          const name = `p${table++}`
          const model = new Map<string, { key: Key; value: number }>()
          const order = (a: Key, b: Key): number => Buffer.compare(Buffer.from(text(a)), Buffer.from(text(b)))
          const startsWith = (whole: Key, prefix: Key): boolean => prefix.every((one, i) => whole[i] === one)
          for (const one of steps) {
            if (one.do === 'put') {
              storage.records.put(name, one.key, one.value)
              model.set(JSON.stringify(one.key), { key: one.key, value: one.value })
            } else if (one.do === 'delete') {
              storage.records.delete(name, one.key)
              model.delete(JSON.stringify(one.key))
            } else if (one.do === 'deleteRange') {
              await storage.records.deleteRange(name, one.key)
              for (const [id, entry] of model) if (startsWith(entry.key, one.key)) model.delete(id)
            } else if (one.do === 'commit') await storage.committed()
            else {
              const { after } = one
              let expected = [...model.values()].filter((entry) => startsWith(entry.key, one.key)).sort((a, b) => order(a.key, b.key))
              if (one.reverse) expected.reverse()
              if (after) expected = expected.filter((entry) => (one.reverse ? order(entry.key, after) < 0 : order(entry.key, after) > 0))
              if (one.limit !== null) expected = expected.slice(0, one.limit)
              const found = await storage.records.range(name, one.key, { reverse: one.reverse, ...(after ? { after } : {}), ...(one.limit === null ? {} : { limit: one.limit }) })
              expect(found).to.deep.equal(expected)
            }
          }
        }), { numRuns: 60 })
      })
    })

    describe('archive', () => {
      const entryIds: string[] = []
      const START = 1_700_000_000_000

      /** Twelve messages of Romeo's, a second apart: with Juliet, and each third with the nurse. */
      function fill(): void {
        entryIds.length = 0
        for (let i = 0; i < 12; i++) {
          const id = `${firstIdOf(START + i * 1000).slice(0, 9)}00100`
          const other = i % 3 === 2 ? NURSE : JULIET
          entryIds.push(id)
          storage.archive.append({ id, bytes: Buffer.from(`<message id='${i}'/>`), owners: [{ owner: ROMEO, with: other }, { owner: other, with: ROMEO }] })
        }
      }

      const query = async (owner: string, options: Partial<ArchiveQuery>): Promise<ArchivePage> =>
        storage.archive.query(owner, { max: 100, direction: 'forward', ...options })

      it('answers pages forward and backward, in order of time, and says when nothing is left', async () => {
        fill()
        await always(async () => {
          let page = await query(ROMEO, { max: 5 })
          expect(ids(page)).to.deep.equal(entryIds.slice(0, 5))
          expect(page.complete).to.equal(false)
          expect(page.items[2]).to.deep.equal({ id: entryIds[2], with: NURSE, bytes: Buffer.from(`<message id='2'/>`) })
          page = await query(ROMEO, { max: 7, afterId: entryIds[4] as string })
          expect(ids(page)).to.deep.equal(entryIds.slice(5))
          expect(page.complete).to.equal(true)
          page = await query(ROMEO, { max: 4, direction: 'backward' })
          expect(ids(page)).to.deep.equal(entryIds.slice(8))
          expect(page.complete).to.equal(false)
          page = await query(ROMEO, { max: 8, direction: 'backward', beforeId: entryIds[8] as string })
          expect(ids(page)).to.deep.equal(entryIds.slice(0, 8))
          expect(page.complete).to.equal(true)
          expect((await query('mercutio@verona.lit', {})).items).to.deep.equal([])
        })
      })

      it('filters by the other party, time, ids and their combinations', async () => {
        fill()
        await always(async () => {
          const nurse = entryIds.filter((_, i) => i % 3 === 2)
          expect(ids(await query(ROMEO, { with: NURSE }))).to.deep.equal(nurse)
          expect(ids(await query(NURSE, { with: ROMEO }))).to.deep.equal(nurse)
          expect(ids(await query(ROMEO, { with: NURSE, afterId: nurse[0] as string, max: 2 }))).to.deep.equal(nurse.slice(1, 3))
          // Both ends are inclusive.
          expect(ids(await query(ROMEO, { start: START + 1000, end: START + 3000 }))).to.deep.equal(entryIds.slice(1, 4))
          expect(ids(await query(ROMEO, { start: START + 1001, end: START + 2999 }))).to.deep.equal(entryIds.slice(2, 3))
          expect(ids(await query(ROMEO, { start: START + 1000, end: START + 8000, afterId: entryIds[2] as string, beforeId: entryIds[5] as string }))).to.deep.equal(entryIds.slice(3, 5))
          expect(ids(await query(ROMEO, { start: START + 5000, end: START + 1000 }))).to.deep.equal([])
          expect(ids(await query(ROMEO, { end: -5 }))).to.deep.equal([])
          expect(ids(await query(ROMEO, { ids: [entryIds[7] as string, 'none', entryIds[1] as string] }))).to.deep.equal([entryIds[1], entryIds[7]])
          expect(ids(await query(ROMEO, { ids: [entryIds[7] as string, entryIds[2] as string], with: NURSE }))).to.deep.equal([entryIds[2]])
        })
      })

      it('answers no items for max 0, and says whether there are any', async () => {
        fill()
        expect(await query(ROMEO, { max: 0 })).to.deep.equal({ items: [], complete: false })
        expect(await query('x@y', { max: 0 })).to.deep.equal({ items: [], complete: true })
      })

      it('counts a range, at most to the limit', async () => {
        fill()
        await always(async () => {
          expect(await storage.archive.count(ROMEO, {}, 100)).to.equal(12)
          expect(await storage.archive.count(ROMEO, {}, 5)).to.equal(5)
          expect(await storage.archive.count(ROMEO, { with: NURSE, start: START + 3000 }, 100)).to.equal(3)
        })
      })

      it('knows single items and the bounds of an archive', async () => {
        fill()
        await always(async () => {
          expect((await storage.archive.get(JULIET, entryIds[0] as string))?.with).to.equal(ROMEO)
          expect(await storage.archive.get(NURSE, entryIds[0] as string)).to.equal(undefined)
          expect(await storage.archive.get(ROMEO, 'none')).to.equal(undefined)
          expect(await storage.archive.bounds(ROMEO)).to.deep.equal({ first: entryIds[0], last: entryIds[11] })
          expect(await storage.archive.bounds('x@y')).to.equal(undefined)
        })
      })

      it('adds owners to an event that is appended again, and takes one owner twice as once', async () => {
        const id = nextMessageId()
        const bytes = Buffer.from('<message/>')
        storage.archive.append({ id, bytes, owners: [{ owner: ROMEO, with: JULIET }] })
        storage.archive.append({ id, bytes, owners: [{ owner: JULIET, with: ROMEO }, { owner: JULIET, with: ROMEO }] })
        await always(async () => {
          expect(ids(await query(ROMEO, {}))).to.deep.equal([id])
          expect(ids(await query(JULIET, { with: ROMEO }))).to.deep.equal([id])
        })
      })

      it('moves an item to another conversation when it is appended again with another party', async () => {
        for (const commit of [false, true]) {
          const id = nextMessageId()
          storage.archive.append({ id, bytes: Buffer.from('1'), owners: [{ owner: NURSE, with: JULIET }] })
          if (commit) await storage.committed()
          storage.archive.append({ id, bytes: Buffer.from('2'), owners: [{ owner: NURSE, with: ROMEO }] })
        }
        await always(async () => {
          expect((await query(NURSE, { with: JULIET })).items).to.deep.equal([])
          expect((await query(NURSE, { with: ROMEO })).items.map((item) => item.bytes.toString())).to.deep.equal(['2', '2'])
        })
      })

      it('takes entries whose ids come out of order, and owners of any length', async () => {
        fill()
        await storage.committed()
        const id = `${firstIdOf(START + 500).slice(0, 9)}00100`
        const long = `${'l'.repeat(900)}@example.org`
        storage.archive.append({ id, bytes: Buffer.from('late'), owners: [{ owner: ROMEO, with: JULIET }, { owner: 'ä@montague.lit', with: ROMEO }] })
        storage.archive.append({ id: nextMessageId(), bytes: Buffer.from('long'), owners: [{ owner: long, with: ROMEO }, { owner: ROMEO, with: long }] })
        await always(async () => {
          expect(ids(await query(ROMEO, { max: 3 }))).to.deep.equal([entryIds[0], id, entryIds[1]])
          expect(ids(await query('ä@montague.lit', { with: ROMEO }))).to.deep.equal([id])
          expect((await query(long, { with: ROMEO })).items.map((item) => item.bytes.toString())).to.deep.equal(['long'])
          expect((await query(ROMEO, { with: long })).items).to.have.lengthOf(1)
        })
      })

      it('finds again what is removed and appended anew, in one turn and over several', async () => {
        const other = nextMessageId()
        storage.archive.append({ id: other, bytes: Buffer.from('other'), owners: [{ owner: NURSE, with: JULIET }] })
        for (const pauses of [false, true]) {
          const id = nextMessageId()
          const append = (text: string): void => { storage.archive.append({ id, bytes: Buffer.from(text), owners: [{ owner: ROMEO, with: JULIET }] }) }
          await storage.archive.delete(ROMEO, id)
          append('1')
          if (pauses) await storage.committed()
          await storage.archive.delete(ROMEO, id)
          append('2')
          expect((await storage.archive.get(ROMEO, id))?.bytes.toString()).to.equal('2')
          expect(ids(await query(ROMEO, { with: JULIET }))).to.include(id)
          if (pauses) await new Promise((resolve) => { setImmediate(resolve) })
          // Makes a driver that writes rows late write them.
          await storage.archive.delete(NURSE, other)
        }
        await always(async () => {
          expect((await query(ROMEO, { with: JULIET })).items.map((item) => item.bytes.toString())).to.deep.equal(['2', '2'])
        })
        expect(await storage.archive.expire(Date.now() + 60_000)).to.equal(2)
        await always(async () => { expect(await query(ROMEO, {})).to.deep.equal({ items: [], complete: true }) })
      })

      it('behaves as a list does, whatever is committed when', async () => {
        const who = fc.constantFrom<string>(ROMEO, JULIET, NURSE)
        const at = fc.nat(12)
        const step = fc.oneof(
          fc.record({ do: fc.constant('append' as const), at, owner: who, with: who, both: fc.boolean() }),
          fc.record({ do: fc.constant('append' as const), at, owner: who, with: who, both: fc.boolean() }),
          fc.record({ do: fc.constant('delete' as const), at, owner: who }),
          fc.record({ do: fc.constant('replace' as const), at, owner: who }),
          fc.record({ do: fc.constant('purge' as const), at, owner: who }),
          fc.record({ do: fc.constant('expire' as const), at }),
          fc.record({ do: fc.constant('commit' as const) }),
          fc.record({ do: fc.constant('reopen' as const) }),
          fc.record({ do: fc.constant('query' as const), owner: who, with: fc.option(who), max: fc.integer({ min: 1, max: 4 }), from: fc.option(at), to: fc.option(at), backward: fc.boolean() }),
        )
        let run = 0
        await fc.assert(fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (shared) => {
          // Every run has its own time and owners, later than those of the runs before.
          const epoch = START + ++run * 100_000
          const idAt = (n: number): string => firstIdOf(epoch + n * 1000)
          const steps = structuredClone(shared)
          for (const one of steps) {
            if ('owner' in one) one.owner = `${run}${one.owner}`
            if ('with' in one && one.with !== null) one.with = `${run}${one.with}`
          }
          let version = 0
          // By id and owner.
          const model = new Map<string, { id: string; owner: string; with: string; text: string }>()
          for (const one of steps) {
            if (one.do === 'append') {
              const owners = [{ owner: one.owner, with: one.with }]
              if (one.both && one.owner !== one.with) owners.push({ owner: one.with, with: one.owner })
              const text = String(version++)
              storage.archive.append({ id: idAt(one.at), bytes: Buffer.from(text), owners })
              for (const entry of owners) model.set(idAt(one.at) + entry.owner, { id: idAt(one.at), ...entry, text })
            } else if (one.do === 'delete') {
              await storage.archive.delete(one.owner, idAt(one.at))
              model.delete(idAt(one.at) + one.owner)
            } else if (one.do === 'replace') {
              const text = String(version++)
              await storage.archive.replace(one.owner, idAt(one.at), Buffer.from(text))
              const entry = model.get(idAt(one.at) + one.owner)
              if (entry) entry.text = text
            } else if (one.do === 'purge') {
              await storage.archive.purge(one.owner, epoch + one.at * 1000)
              for (const [key, entry] of model) if (entry.owner === one.owner && entry.id < idAt(one.at)) model.delete(key)
            } else if (one.do === 'expire') {
              await storage.archive.expire(epoch + one.at * 1000)
              for (const [key, { id }] of model) if (id < idAt(one.at)) model.delete(key)
            } else if (one.do === 'commit') await storage.committed()
            else if (one.do === 'reopen') {
              if (under.reopen) storage = await under.reopen()
            } else {
              let expected = [...model.values()].filter((entry) => entry.owner === one.owner
                && (one.with === null || entry.with === one.with)
                && (one.from === null || entry.id > idAt(one.from)) && (one.to === null || entry.id < idAt(one.to + 1))).sort((a, b) => (a.id < b.id ? -1 : 1))
              const total = expected.length
              expected = one.backward ? expected.slice(-one.max) : expected.slice(0, one.max)
              const range = { ...(one.with === null ? {} : { with: one.with }), ...(one.from === null ? {} : { afterId: idAt(one.from) }), ...(one.to === null ? {} : { end: epoch + one.to * 1000 }) }
              const page = await query(one.owner, { ...range, max: one.max, direction: one.backward ? 'backward' : 'forward' })
              expect(page.items.map((item) => [item.id, item.with, item.bytes.toString()])).to.deep.equal(expected.map((entry) => [entry.id, entry.with, entry.text]))
              expect(page.complete).to.equal(total <= one.max)
              expect(await storage.archive.count(one.owner, range, 3)).to.equal(Math.min(3, total))
            }
          }
        }), { numRuns: 40 })
      })

      it('replaces bytes', async () => {
        fill()
        const id = entryIds[3] as string
        await storage.archive.replace(ROMEO, id, Buffer.from('<message><retracted/></message>'))
        await storage.archive.replace('x@y', entryIds[4] as string, Buffer.from('no'))
        await always(async () => {
          expect((await storage.archive.get(ROMEO, id))?.bytes.toString()).to.equal('<message><retracted/></message>')
          expect((await storage.archive.get(ROMEO, entryIds[4] as string))?.bytes.toString()).to.equal(`<message id='4'/>`)
        })
      })

      it('deletes from one archive and leaves the others', async () => {
        fill()
        await storage.committed()
        await storage.archive.delete(ROMEO, entryIds[0] as string)
        await storage.archive.delete(ROMEO, 'none')
        await always(async () => {
          expect(ids(await query(ROMEO, {}))).to.deep.equal(entryIds.slice(1))
          expect(ids(await query(ROMEO, { with: JULIET }))).to.not.include(entryIds[0])
          expect(await storage.archive.get(ROMEO, entryIds[0] as string)).to.equal(undefined)
          expect((await storage.archive.get(JULIET, entryIds[0] as string))?.bytes.toString()).to.equal(`<message id='0'/>`)
        })
      })

      it('purges an archive, whole or up to a time', async () => {
        fill()
        await storage.archive.purge(ROMEO, START + 5000)
        await storage.archive.purge(NURSE)
        await always(async () => {
          expect(ids(await query(ROMEO, {}))).to.deep.equal(entryIds.slice(5))
          expect(ids(await query(NURSE, {}))).to.deep.equal([])
          expect((await query(JULIET, {})).items).to.have.lengthOf(8)
        })
      })

      it('expires what is old for every owner and says how many items that were', async () => {
        fill()
        expect(await storage.archive.expire(START + 2000)).to.equal(4)
        await always(async () => {
          expect(ids(await query(ROMEO, {}))).to.deep.equal(entryIds.slice(2))
          expect(ids(await query(JULIET, { with: ROMEO }))).to.deep.equal(entryIds.filter((_, i) => i > 2 && i % 3 !== 2))
        })
        expect(await storage.archive.expire(START + 2000)).to.equal(0)
      })

      it('removes thousands without holding up the process', async () => {
        const first = nextMessageId()
        for (let i = 0; i < 3000; i++) storage.archive.append({ id: nextMessageId(), bytes: Buffer.from('<message/>'), owners: [{ owner: ROMEO, with: JULIET }, { owner: JULIET, with: ROMEO }] })
        await storage.committed()
        let turns = 0
        const timer = setInterval(() => turns++, 1)
        await storage.archive.purge(ROMEO)
        expect(await storage.archive.expire((timeOfMessageId(first) ?? 0) + 60_000)).to.equal(3000)
        clearInterval(timer)
        expect(turns).to.be.greaterThan(2)
        expect(await storage.archive.count(JULIET, {}, 10)).to.equal(0)
      })
    })

    describe('offline queue', () => {
      it('lists in order of id, counts at once, and removes', async () => {
        const pushed = Array.from({ length: 6 }, () => nextMessageId())
        for (const id of pushed) storage.offline.push(ROMEO, { id, bytes: Buffer.from(id) })
        storage.offline.push(`${ROMEO}x`, { id: nextMessageId(), bytes: Buffer.from('x') })
        await always(async () => {
          expect(storage.offline.count(ROMEO)).to.equal(6)
          expect(storage.offline.count(JULIET)).to.equal(0)
          expect((await storage.offline.list(ROMEO, 2)).map((entry) => entry.id)).to.deep.equal(pushed.slice(0, 2))
          expect((await storage.offline.list(ROMEO, 100, pushed[1] as string)).map((entry) => entry.bytes.toString())).to.deep.equal(pushed.slice(2))
        })
        storage.offline.remove(ROMEO, [pushed[0] as string, pushed[3] as string, 'none', pushed[0] as string])
        await always(async () => {
          expect(storage.offline.count(ROMEO)).to.equal(4)
          expect((await storage.offline.list(ROMEO, 2)).map((entry) => entry.id)).to.deep.equal([pushed[1], pushed[2]])
        })
      })

      it('keeps one of a stanza pushed twice', async () => {
        storage.offline.push(ROMEO, { id: 'a', bytes: Buffer.from('1') })
        storage.offline.push(ROMEO, { id: 'a', bytes: Buffer.from('2') })
        await always(async () => {
          expect(storage.offline.count(ROMEO)).to.equal(1)
          expect((await storage.offline.list(ROMEO, 9)).map((entry) => entry.bytes.toString())).to.deep.equal(['2'])
        })
      })

      it('clears one owner', async () => {
        for (let i = 0; i < 700; i++) storage.offline.push(ROMEO, { id: nextMessageId(), bytes: Buffer.from('x') })
        storage.offline.push(JULIET, { id: 'a', bytes: Buffer.from('1') })
        await storage.offline.clear(ROMEO)
        await always(async () => {
          expect(storage.offline.count(ROMEO)).to.equal(0)
          expect(await storage.offline.list(ROMEO, 9)).to.deep.equal([])
          expect(storage.offline.count(JULIET)).to.equal(1)
        })
      })
    })

    describe('streams', () => {
      const found = async (): Promise<Record<string, Omit<StoredStream, 'id' | 'seenAt'>>> => {
        const streams: Record<string, Omit<StoredStream, 'id' | 'seenAt'>> = {}
        for (const { id, seenAt, ...rest } of await storage.streams.load()) {
          expect(seenAt).to.be.a('number')
          streams[id] = { ...rest, unacknowledged: rest.unacknowledged.map(({ seq, bytes }) => ({ seq, bytes: Buffer.from(bytes) })) }
        }
        return streams
      }

      it('finds every open stream again with its state, counters and queue', async () => {
        const { streams } = storage
        streams.open('s1', ROMEO, 'orchard', { carbons: false })
        streams.open('s2', JULIET, 'balcony', null)
        streams.open('s3', NURSE, 'kitchen', null)
        streams.push('s1', 1, Buffer.from('one'))
        streams.push('s1', 2, Buffer.from('two'))
        streams.handled('s1', 7)
        await storage.committed()
        streams.state('s1', { carbons: true })
        streams.push('s1', 3, Buffer.from('th'), Buffer.from('r'), Buffer.from('ee'))
        streams.acknowledged('s1', 1)
        streams.handled('s1', 9)
        streams.close('s3')
        // Acknowledged within the turn.
        streams.push('s2', 1, Buffer.from('a'))
        streams.push('s2', 2, Buffer.from('b'))
        streams.acknowledged('s2', 1)
        streams.push('gone', 1, Buffer.from('x'))
        await always(async () => {
          expect(await found()).to.deep.equal({
            s1: { owner: ROMEO, resource: 'orchard', state: { carbons: true }, handled: 9, acknowledged: 1, unacknowledged: [{ seq: 2, bytes: Buffer.from('two') }, { seq: 3, bytes: Buffer.from('three') }] },
            s2: { owner: JULIET, resource: 'balcony', state: null, handled: 0, acknowledged: 1, unacknowledged: [{ seq: 2, bytes: Buffer.from('b') }] },
          })
        })
        storage.streams.push('s1', 4, Buffer.from('four'))
        storage.streams.acknowledged('s1', 3)
        storage.streams.close('s2')
        await always(async () => {
          const now = await found()
          expect(Object.keys(now)).to.deep.equal(['s1'])
          expect(now['s1']?.unacknowledged).to.deep.equal([{ seq: 4, bytes: Buffer.from('four') }])
        })
      })

      it('counts modulo 2^32', async () => {
        storage.streams.open('s', ROMEO, 'r', null)
        storage.streams.push('s', 0xffff_ffff, Buffer.from('a'))
        storage.streams.push('s', 0, Buffer.from('b'))
        storage.streams.push('s', 1, Buffer.from('c'))
        await storage.committed()
        storage.streams.acknowledged('s', 0)
        await always(async () => {
          expect((await found())['s']).to.deep.include({ acknowledged: 0, unacknowledged: [{ seq: 1, bytes: Buffer.from('c') }] })
        })
      })

      it('behaves as a list of queues does, whatever is committed when', async () => {
        const id = fc.constantFrom('A', 'B', 'C')
        const step = fc.oneof(
          fc.record({ do: fc.constant('open' as const), id }),
          fc.record({ do: fc.constant('close' as const), id }),
          fc.record({ do: fc.constant('push' as const), id }),
          fc.record({ do: fc.constant('push' as const), id }),
          fc.record({ do: fc.constant('ack' as const), id, of: fc.nat(3) }),
          fc.record({ do: fc.constant('handled' as const), id, h: fc.nat(99) }),
          fc.record({ do: fc.constant('commit' as const) }),
          fc.record({ do: fc.constant('reopen' as const) }),
        )
        await fc.assert(fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
          for (const name of ['A', 'B', 'C']) storage.streams.close(name)
          const model = new Map<string, { handled: number; sent: number; acknowledged: number; queue: number[] }>()
          for (const one of steps) {
            if (one.do === 'commit') await storage.committed()
            else if (one.do === 'reopen') {
              if (under.reopen) storage = await under.reopen()
            } else if (one.do === 'open') {
              storage.streams.open(one.id, ROMEO, one.id, one.id)
              model.set(one.id, { handled: 0, sent: 0, acknowledged: 0, queue: [] })
            } else {
              const stream = model.get(one.id)
              if (!stream) continue
              if (one.do === 'close') {
                storage.streams.close(one.id)
                model.delete(one.id)
              } else if (one.do === 'push') {
                storage.streams.push(one.id, ++stream.sent, Buffer.from(String(stream.sent)))
                stream.queue.push(stream.sent)
              } else if (one.do === 'ack') {
                stream.acknowledged = Math.max(stream.acknowledged, stream.sent - one.of)
                storage.streams.acknowledged(one.id, stream.acknowledged)
                stream.queue = stream.queue.filter((seq) => seq > stream.acknowledged)
              } else {
                stream.handled = one.h
                storage.streams.handled(one.id, one.h)
              }
            }
          }
          if (under.reopen) storage = await under.reopen()
          const now = await found()
          expect(Object.keys(now).sort()).to.deep.equal([...model.keys()].sort())
          for (const [name, stream] of model) {
            expect(now[name]).to.deep.equal({
              owner: ROMEO, resource: name, state: name, handled: stream.handled, acknowledged: stream.acknowledged,
              unacknowledged: stream.queue.map((seq) => ({ seq, bytes: Buffer.from(String(seq)) })),
            })
          }
        }), { numRuns: 25 })
      })
    })

    describe('blobs', () => {
      testBlobs(() => storage.blobs, always)
    })

    describe('commit', () => {
      it('calls back in order, after the turn, also when nothing was written', async () => {
        const calls: string[] = []
        storage.afterCommit(() => calls.push('nothing written'))
        storage.records.put('t', ['k'], 1)
        storage.afterCommit(() => calls.push('one'))
        expect(calls).to.deep.equal([])
        await storage.committed()
        expect(calls).to.deep.equal(['nothing written', 'one'])
        await storage.committed()
        expect(storage.healthy).to.equal(true)
        expect(storage.status()).to.include({ healthy: true, pendingWrites: 0 })
      })

      it('takes writes while it commits, and calls back for each group', async () => {
        let calls = 0
        for (let i = 0; i < 200; i++) {
          storage.records.put('t', ['k', String(i)], i)
          storage.afterCommit(() => calls++)
          if (i % 20 === 0) await new Promise((resolve) => { setImmediate(resolve) })
        }
        await storage.committed()
        expect(calls).to.equal(200)
        expect(await storage.records.range('t', ['k'])).to.have.lengthOf(200)
      })
    })
  })
}

/** What any driver of files must do. `again` runs a check now, and once more when what was written has gone where it stays. */
export function testBlobs(blobs: () => Blobs, again: (check: () => Promise<void>) => Promise<void> = (check) => check()): void {
  it('keeps a file under any key, and answers parts of it', async () => {
    const key = '../../../etc/ü\0 passwd'
    await blobs().put(key, 10, chunks('01234', '56789'))
    await again(async () => {
      expect(await blobs().stat(key)).to.include({ size: 10 })
      const whole = await blobs().get(key)
      expect(whole && [whole.size, await read(whole.body)]).to.deep.equal([10, '0123456789'])
      const part = await blobs().get(key, { start: 3, end: 5 })
      expect(part && [part.size, await read(part.body)]).to.deep.equal([10, '345'])
      expect(await blobs().get('none')).to.equal(undefined)
      expect(await blobs().stat('none')).to.equal(undefined)
    })
    await blobs().delete(key)
    await blobs().delete(key)
    expect(await blobs().get(key)).to.equal(undefined)
  })

  it('refuses a file that is shorter or longer than announced, or whose key exists', async () => {
    expect(await failure(blobs().put('a', 4, chunks('123')))).to.be.instanceOf(Error)
    expect(await failure(blobs().put('a', 4, chunks('123', '45')))).to.be.instanceOf(Error)
    expect(await blobs().stat('a')).to.equal(undefined)
    await blobs().put('a', 0, chunks())
    expect(await blobs().stat('a')).to.include({ size: 0 })
    expect(await failure(blobs().put('a', 1, chunks('1')))).to.be.instanceOf(Error)
    const both = await Promise.allSettled([blobs().put('b', 1, chunks('1')), blobs().put('b', 1, chunks('2'))])
    expect(both.map((one) => one.status).sort()).to.deep.equal(['fulfilled', 'rejected'])
  })
}

/** A key as text whose bytes sort part by part. */
function text(key: Key): string {
  return key.map((part) => `${part.replaceAll('\x01', '\x01\x02').replaceAll('\0', '\x01\x01')}\0`).join('')
}
