import { expect } from 'chai'
import fc from 'fast-check'
import type { HistoryEntry } from '../shapes.ts'
import { BadEntry, decodeEntries, decodeEntry, encodeEntry, joinValues } from './entry-codec.ts'

const owner = fc.string({ unit: 'grapheme', minLength: 1 }).filter((text) => text.isWellFormed())
const version = fc.nat({ max: Number.MAX_SAFE_INTEGER })
const entries: fc.Arbitrary<HistoryEntry> = fc.oneof(
  fc.record({
    owner, version,
    id: fc.stringMatching(/^[!-~]{1,200}$/),
    with: fc.string({ unit: 'grapheme' }).filter((text) => text.isWellFormed()),
    bytes: fc.option(fc.uint8Array().map((bytes) => Buffer.from(bytes)), { nil: undefined }),
  }),
  fc.record({ owner, version, purge: fc.constant(true as const), before: fc.option(fc.nat({ max: 4_000_000_000_000 }), { nil: undefined }) }),
)

describe('entries of the queue of history', () => {
  it('come out as they went in', () => {
    fc.assert(fc.property(entries, (entry) => {
      expect(decodeEntry(Buffer.from(entry.owner), encodeEntry(entry))).to.deep.equal(entry)
    }))
  })

  it('of one owner come out of one message in their order, and a message of one entry is that entry', () => {
    fc.assert(fc.property(fc.array(entries, { minLength: 1, maxLength: 5 }), (several) => {
      const owned = several.map((entry) => ({ ...entry, owner: 'a@x' }))
      expect(decodeEntries(Buffer.from('a@x'), joinValues(owned.map(encodeEntry)))).to.deep.equal(owned)
    }))
    const one = encodeEntry({ owner: 'a@x', id: '017', with: 'b@x', bytes: undefined, version: 7 })
    expect(joinValues([one])).to.equal(one)
  })

  it('of one message are refused together when it is cut short, or holds none', () => {
    const value = joinValues([1, 2].map((version) => encodeEntry({ owner: 'a@x', id: '017', with: 'b@x', bytes: undefined, version })))
    const half = 2 + (value.length - 2) / 2
    for (let length = 0; length < value.length; length++) {
      if (length !== half) expect(() => decodeEntries(Buffer.from('a@x'), value.subarray(0, length)), `${length}`).to.throw(BadEntry)
    }
    expect(decodeEntries(Buffer.from('a@x'), value.subarray(0, half))).to.have.length(1)
    expect(() => decodeEntries(null, value)).to.throw(BadEntry)
  })

  it('are refused when they are cut short, of another format, or without an owner', () => {
    const value = encodeEntry({ owner: 'a@x', id: '017', with: 'b@x', bytes: undefined, version: 7 })
    const key = Buffer.from('a@x')
    for (let length = 0; length < value.length; length++) expect(() => decodeEntry(key, value.subarray(0, length)), `${length}`).to.throw(BadEntry)
    expect(() => decodeEntry(key, Buffer.concat([value, Buffer.from('x')]))).to.throw(BadEntry)
    for (const [at, byte] of [[0, 2], [1, 3], [2, 0xff]] as const) {
      const other = Buffer.from(value)
      other[at] = byte
      expect(() => decodeEntry(key, other), `byte ${at}`).to.throw(BadEntry)
    }
    for (const none of [null, Buffer.alloc(0)]) expect(() => decodeEntry(none, value)).to.throw(BadEntry)
    expect(() => decodeEntry(key, null)).to.throw(BadEntry)
  })

  it('are never taken for something else, whatever the bytes', () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 40 }), (bytes) => {
      try {
        const entry = decodeEntry(Buffer.from('a@x'), Buffer.from(bytes))
        expect(encodeEntry(entry).equals(bytes)).to.equal(true)
      } catch (error) {
        expect(error).to.be.instanceOf(BadEntry)
      }
    }))
  })
})
