/** What every driver of records must do: `testRowStore(name, open)` in a driver's own test file. */
import { expect } from 'chai'
import { randomId } from '../../lib/stanza/ids.ts'
import { type RowStore, type UnitRow } from './shapes.ts'

/** `open` answers a store on the same data each time; tests use units of their own. `isFenced`: who has lost its lease is cut off, so that nothing comes late. */
export function testRowStore(name: string, open: () => Promise<RowStore>, isFenced = false): void {
  describe(`${name}: records of units`, () => {
    let store: RowStore
    let domain: string
    /** Milliseconds times 1024, as versions are. */
    let version = Date.now() * 1024

    before(async () => { store = await open() })
    after(async () => { await store[Symbol.asyncDispose]() })
    beforeEach(() => { domain = `${randomId(6).toLowerCase().replaceAll(/[^a-z0-9]/g, 'x')}.example` })

    const row = (unit: string, key: string, value: string | Buffer | undefined, at = ++version): UnitRow => ({ unit, key, value: value === undefined ? undefined : Buffer.from(value), version: at })
    const load = async (unit: string): Promise<[string, string][]> => (await store.load(unit)).map(({ key, value }) => [key, value.toString('latin1')])

    it('are loaded as they were written, in order of key, each unit\'s alone', async () => {
      const unit = `romeo@${domain}`
      const bytes = String.fromCharCode(...Array.from({ length: 256 }, (_, i) => i))
      await store.write([
        row(unit, 'rb\0', 'two'), row(unit, `r${bytes}\0`, Buffer.from(bytes, 'latin1')), row(unit, 'ra\0x\0', ''), row(unit, 'rb', 'one'), row(unit, 'r\xff\xfe', 'last'),
        row(`romeo@${domain}x`, 'rb', 'other'), row(`rome@${domain}`, 'rb', 'other'), row(domain, 'rb', 'of the host'),
      ])
      expect(await load(unit)).to.deep.equal([[`r${bytes}\0`, bytes], ['ra\0x\0', ''], ['rb', 'one'], ['rb\0', 'two'], ['r\xff\xfe', 'last']])
      expect(await load(domain)).to.deep.equal([['rb', 'of the host']])
      expect(await load(`juliet@${domain}`)).to.deep.equal([])
    })

    it('are found by another process', async () => {
      await store.write([row(`ünit@${domain}`, 'rk', 'v')])
      await using other = await open()
      expect((await other.load(`ünit@${domain}`)).map(({ value }) => value.toString())).to.deep.equal(['v'])
    })

    it('are replaced and removed', async () => {
      await store.write([row(domain, 'ra', '1'), row(domain, 'rb', '1'), row(domain, 'rc', '1')])
      await store.write([row(domain, 'ra', '2'), row(domain, 'rb', undefined), row(domain, 'never', undefined)])
      expect(await load(domain)).to.deep.equal([['ra', '2'], ['rc', '1']])
      await store.write([row(domain, 'rb', '3')])
      expect(await load(domain)).to.deep.equal([['ra', '2'], ['rb', '3'], ['rc', '1']])
    })

    if (!isFenced) {
      it('do not change when older versions come late, or the same again', async () => {
        const first = [row(domain, 'ra', 'old'), row(domain, 'rb', 'old'), row(domain, 'rc', undefined)]
        const second = [row(domain, 'ra', 'new'), row(domain, 'rb', undefined), row(domain, 'rc', 'new')]
        const expected = [['ra', 'new'], ['rc', 'new']]
        await store.write(first)
        await store.write(second)
        for (const rows of [second, first, second]) {
          await store.write(rows)
          expect(await load(domain)).to.deep.equal(expected)
        }
        await store.write([row(`x.${domain}`, 'ra', undefined, version + 10)])
        await store.write([row(`x.${domain}`, 'ra', 'never seen', version + 9)])
        expect(await load(`x.${domain}`)).to.deep.equal([])
      })
    }

    it('may be many and large', async () => {
      const large = Buffer.alloc(300_000, 'x')
      await store.write(Array.from({ length: 20 }, (_, i) => row(domain, `rl${i}`, large)))
      await store.write(Array.from({ length: 3000 }, (_, i) => row(domain, `rs${String(i).padStart(4, '0')}`, `${i}`)))
      const found = await store.load(domain)
      expect(found).to.have.lengthOf(3020)
      for (const { key, value } of found) expect(value.length).to.equal(key.startsWith('rl') ? large.length : value.length)
      expect(found.at(-1)?.value.toString()).to.equal('2999')
    })

    it('of nobody are no work', async () => { await store.write([]) })

    describe('lists of units', () => {
      it('have those with a prefix that have records, in order of UTF-8, page by page', async () => {
        const units = ['a', 'ab', 'abc', 'b', 'ü', '\uffee', '\u{1f600}'].map((local) => `${domain}/${local}`)
        await store.write([...units].reverse().flatMap((unit) => [row(unit, 'ra', '1'), row(unit, 'rb', '1')]))
        await store.write([row(`${domain}/gone`, 'ra', '1')])
        await store.write([row(`${domain}/gone`, 'ra', undefined)])
        expect(await store.units(`${domain}/`, undefined, 100)).to.deep.equal(units)
        expect(await store.units(`${domain}/a`, undefined, 100)).to.deep.equal(units.slice(0, 3))
        const paged: string[] = []
        for (let page = await store.units(`${domain}/`, undefined, 2); page.length > 0; page = await store.units(`${domain}/`, paged.at(-1), 2)) {
          expect(page).to.have.lengthOf.at.most(2)
          paged.push(...page)
        }
        expect(paged).to.deep.equal(units)
        expect(await store.units(`${domain}/`, `${domain}/aa`, 2)).to.deep.equal(units.slice(1, 3))
        expect(await store.units(`${domain}/`, `${domain}/\u{1f601}`, 2)).to.deep.equal([])
        expect(await store.units(`no.${domain}`, undefined, 2)).to.deep.equal([])
      })
    })
  })
}
