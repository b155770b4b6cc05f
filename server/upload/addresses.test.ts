import { createHmac } from 'node:crypto'
import { expect } from 'chai'
import fc from 'fast-check'
import { isSigned, signAddress } from './addresses.ts'

const slot = { path: ['d', 'S1', 'ein Bild é.png'] as const, size: 1234, type: 'image/png', until: 1_800_000_000 }
const NOW = 1_799_999_999_000
const queryOf = (address: string): URLSearchParams => new URLSearchParams(address.slice(1))

describe('addresses of uploads elsewhere', () => {
  it('hold for the file that they were made for, until their time', () => {
    const query = queryOf(signAddress('key', slot))
    expect(isSigned('key', query, slot, NOW)).to.equal(true)
    expect(isSigned('key', query, { ...slot, type: 'IMAGE/png; charset=x' }, NOW)).to.equal(true)
    expect(isSigned('key', query, slot, NOW + 1000)).to.equal(false)
    expect(isSigned('another', query, slot, NOW)).to.equal(false)
    for (const other of [{ size: 1235 }, { type: 'text/html' }, { type: '' }, { path: ['d', 'S2', slot.path[2]] as const }, { path: ['e', 'S1', slot.path[2]] as const }, { path: ['d', 'S1', 'x'] as const }]) {
      expect(isSigned('key', query, { ...slot, ...other }, NOW), JSON.stringify(other)).to.equal(false)
    }
    query.set('until', '1900000000')
    expect(isSigned('key', query, slot, NOW)).to.equal(false)
  })

  it('of a slot without a type hold for any', () => {
    const query = queryOf(signAddress('key', { ...slot, type: '' }))
    for (const type of ['', 'image/png', 'text/plain; charset=utf-8']) expect(isSigned('key', query, { ...slot, type }, NOW)).to.equal(true)
  })

  it('are never taken apart: no text of one part is that of another', () => {
    fc.assert(fc.property(fc.tuple(fc.string(), fc.string(), fc.string()), fc.tuple(fc.string(), fc.string(), fc.string()), (one, other) => {
      const same = one.every((part, at) => part === other[at])
      expect(isSigned('key', queryOf(signAddress('key', { ...slot, path: one })), { ...slot, path: other }, NOW)).to.equal(same)
    }))
  })

  it('refuse nonsense', () => {
    for (const query of ['', '?', '?until=NaN&slot=x', '?until=1e99&slot=', '?until=-1&slot=%00', `?until=${slot.until}&slot=${'é'.repeat(40)}`]) expect(isSigned('key', queryOf(query), slot, NOW), query).to.equal(false)
  })

  it('have the signature of path and size that other upload services check', () => {
    expect(queryOf(signAddress('key', slot)).get('v')).to.equal(createHmac('sha256', 'key').update('d/S1/ein Bild é.png 1234').digest('hex'))
  })
})
