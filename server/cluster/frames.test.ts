import { expect } from 'chai'
import * as fc from 'fast-check'
import { decodeFrame, encodeFrame, type Frame } from './frames.ts'

const KINDS = ['stanza', 'reply', 'clients', 'multicast', 'presences', 'missed', 'moderated', 'told', 'where', 'at', 'row'] as const

const frames: fc.Arbitrary<Frame> = fc.record({
  kind: fc.constantFrom(...KINDS),
  unit: fc.string({ unit: 'grapheme', maxLength: 300 }),
  id: fc.stringMatching(/^[0-9a-v]{0,22}$/),
  promised: fc.boolean(), durable: fc.boolean(), idle: fc.boolean(), volatile: fc.boolean(),
  stanza: fc.uint8Array({ maxLength: 500 }).map((bytes) => Buffer.from(bytes)),
  list: fc.array(fc.string({ unit: 'grapheme', maxLength: 100 }), { maxLength: 20 }),
})

describe('frames between nodes', () => {
  it('are read as they were written', () => {
    fc.assert(fc.property(frames, (frame) => {
      const read = decodeFrame(encodeFrame(frame))
      expect({ ...read, stanza: read.stanza.toString('hex') }).to.deep.equal({ ...frame, stanza: frame.stanza.toString('hex') })
    }))
  })

  it('of another version, of unknown kind or cut off are refused', () => {
    const whole = encodeFrame({ kind: 'missed', unit: 'romeo@montague.example', stanza: Buffer.from('<message/>'), list: ['romeo@montague.example/orchard'] })
    for (let end = 0; end < whole.length; end++) expect(() => decodeFrame(whole.subarray(0, end)), String(end)).to.throw()
    const other = Buffer.from(whole)
    other[0] = 2
    expect(() => decodeFrame(other)).to.throw('version')
    const unknown = Buffer.from(whole)
    unknown[1] = 99
    expect(() => decodeFrame(unknown)).to.throw('kind')
  })
})
