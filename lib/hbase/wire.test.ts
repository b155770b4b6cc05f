import { expect } from 'chai'
import fc from 'fast-check'
import { CELL_PUT, CellReader, cellSize, writeCell } from './cells.ts'
import { parseAddress, type Region, regionAt, regionBefore } from './cluster.ts'
import { backoffMs } from './deadline.ts'
import { ProtocolError, RemoteError } from './errors.ts'
import { FrameReader } from './framing.ts'
import { Get, MultiRequest, MUTATE_DELETE, MUTATE_PUT } from './messages.ts'
import { type Action, assertAction, encodeMulti, type Mutation } from './multi.ts'
import { readVarint, varintSize, writeVarint } from './varint.ts'

const bytes = (maxLength: number, minLength = 0): fc.Arbitrary<Buffer> => fc.uint8Array({ minLength, maxLength }).map((array) => Buffer.from(array))
const timestamp = fc.maxSafeNat()

describe('varint', () => {
  it('reads what it wrote, with the size that it said', () => {
    fc.assert(fc.property(fc.oneof(fc.maxSafeNat(), fc.nat(300)), fc.nat(3), (value, at) => {
      const to = Buffer.alloc(16)
      const end = writeVarint(to, at, value)
      expect(end - at).to.equal(varintSize(value))
      expect(readVarint(to, at)).to.deep.equal({ value, end })
      expect(readVarint(to.subarray(0, end - 1), at)).to.equal(undefined)
    }))
  })

  it('refuses integers beyond 53 bits', () => {
    expect(() => readVarint(Buffer.alloc(12, 0xff), 0)).to.throw(RangeError)
  })
})

describe('cells', () => {
  const cell = fc.record({ row: bytes(40, 1), family: bytes(8), qualifier: bytes(40), timestamp, value: bytes(200) })

  it('come back as they were written', () => {
    fc.assert(fc.property(fc.array(cell, { maxLength: 6 }), (cells) => {
      const to = Buffer.alloc(cells.reduce((sum, { row, family, qualifier, value }) => sum + cellSize(row, family, qualifier, value), 0))
      let at = 0
      for (const one of cells) at = writeCell(to, at, one.row, one.family, one.qualifier, one.timestamp, CELL_PUT, one.value)
      expect(at).to.equal(to.length)
      const reader = new CellReader(to)
      expect(reader.take(cells.length)).to.deep.equal(cells.map((one) => ({ ...one, type: CELL_PUT })))
      expect(reader.isAtEnd).to.equal(true)
    }))
  })

  it('are what the layout says, with the server\'s time as the greatest number', () => {
    const to = Buffer.alloc(cellSize(Buffer.from('r'), Buffer.from('f'), Buffer.from('q'), Buffer.from('val')))
    writeCell(to, 0, Buffer.from('r'), Buffer.from('f'), Buffer.from('q'), undefined, CELL_PUT, Buffer.from('val'))
    expect(to.toString('hex')).to.equal('0000001a' + '0000000f' + '00000003' + '000172' + '0166' + '71' + '7fffffffffffffff' + '04' + '76616c')
  })

  it('are read or refused, whatever comes', () => {
    fc.assert(fc.property(fc.oneof(bytes(80), fc.tuple(cell, fc.array(fc.tuple(fc.nat(60), fc.nat(255)), { maxLength: 3 })).map(([one, changes]) => {
      const to = Buffer.alloc(cellSize(one.row, one.family, one.qualifier, one.value))
      writeCell(to, 0, one.row, one.family, one.qualifier, one.timestamp, CELL_PUT, one.value)
      for (const [at, byte] of changes) if (at < to.length) to[at] = byte
      return to
    })), (garbage) => {
      const reader = new CellReader(garbage)
      try {
        while (!reader.isAtEnd) reader.next()
      } catch (error) {
        expect(error).to.be.instanceOf(ProtocolError)
      }
    }), { numRuns: 500 })
  })

  it('have rows of 1 to 32767 bytes', () => {
    for (const row of [Buffer.alloc(0), Buffer.alloc(0x8000)]) expect(() => assertAction({ row, cells: [{ family: row, qualifier: row, value: row }] })).to.throw(RangeError)
  })
})

describe('frames', () => {
  const framed = (frames: readonly Buffer[]): Buffer => Buffer.concat(frames.flatMap((frame) => {
    const length = Buffer.alloc(4)
    length.writeUInt32BE(frame.length)
    return [length, frame]
  }))

  it('come out whole, wherever the bytes are cut', () => {
    fc.assert(fc.property(fc.array(bytes(50), { maxLength: 8 }), fc.array(fc.nat(400), { maxLength: 12 }), (frames, cuts) => {
      const all = framed(frames)
      const found: Buffer[] = []
      const reader = new FrameReader(64, { frame: (frame) => { found.push(Buffer.from(frame)) }, tooLarge: () => { throw new Error('too large') } })
      let from = 0
      for (const cut of [...cuts.map((one) => Math.min(one, all.length)).sort((a, b) => a - b), all.length]) {
        if (cut > from) reader.push(all.subarray(from, cut))
        from = Math.max(from, cut)
      }
      expect(found).to.deep.equal(frames)
    }))
  })

  it('that are too large are told with their beginning, and end it', () => {
    fc.assert(fc.property(fc.integer({ min: 1, max: 700 }), (size) => {
      const told: [number, number][] = []
      let frames = 0
      const reader = new FrameReader(100, { frame: () => { frames++ }, tooLarge: (head, length) => { told.push([head.length, length]) } })
      const all = framed([Buffer.alloc(10), Buffer.alloc(1000), Buffer.alloc(10)])
      for (let at = 0; at < all.length; at += size) reader.push(all.subarray(at, at + size))
      expect([frames, told]).to.deep.equal([1, [[512, 1000]]])
    }))
  })
})

describe('requests of many actions', () => {
  const nameOfRow = bytes(20, 1)
  const action: fc.Arbitrary<Action> = fc.oneof(
    fc.record({ row: nameOfRow, cells: fc.array(fc.record({ family: bytes(4), qualifier: bytes(9), value: bytes(300), timestamp }), { minLength: 1, maxLength: 3 }) }),
    fc.record({ row: nameOfRow, delete: fc.constant('row' as const), upTo: timestamp }),
    fc.record({ row: nameOfRow, delete: fc.array(fc.record({ family: bytes(4), qualifier: bytes(9) }), { minLength: 1, maxLength: 2 }), upTo: timestamp }),
    fc.record({ row: nameOfRow, get: nameOfRow.map((row) => ({ row, max_versions: 1 })) }),
  )

  it('say the same as the messages of their definition', () => {
    fc.assert(fc.property(fc.array(fc.record({ name: bytes(200, 1), actions: fc.array(action, { maxLength: 200 }) }), { maxLength: 3 }), (regions) => {
      const { message, cells } = encodeMulti(regions.map((region) => ({ ...region, indexes: [] })))
      expect(message.toString('hex')).to.equal(MultiRequest.encode({
        region_action: regions.map(({ name, actions }) => ({
          region: { type: 1, value: name },
          action: actions.map((one, index) => ('get' in one ? { index, get: Get.decode(Get.encode(one.get)) } : { index, mutation: mutationOf(one) })),
        })),
      }).toString('hex'))
      const reader = new CellReader(cells)
      for (const one of regions.flatMap(({ actions }) => actions)) {
        if ('cells' in one) for (const cell of one.cells) expect(reader.next()).to.include({ timestamp: cell.timestamp, type: CELL_PUT })
        else if ('delete' in one && one.delete !== 'row') for (const column of one.delete) expect(reader.next().qualifier).to.deep.equal(column.qualifier)
      }
      expect(reader.isAtEnd).to.equal(true)
    }), { numRuns: 60 })
  })
})

function mutationOf(one: Mutation): { row: Buffer; mutate_type: number; timestamp?: number; associated_cell_count: number } {
  if ('cells' in one) return { row: one.row, mutate_type: MUTATE_PUT, associated_cell_count: one.cells.length }
  if (one.delete !== 'row') return { row: one.row, mutate_type: MUTATE_DELETE, associated_cell_count: one.delete.length }
  return { row: one.row, mutate_type: MUTATE_DELETE, timestamp: one.upTo as number, associated_cell_count: 0 }
}

describe('maps of regions', () => {
  const region = (start: Buffer, end: Buffer): Region => ({ start, end }) as Region

  it('find the region of a row, and the one before it, or none where there is a gap', () => {
    const keys = fc.uniqueArray(bytes(2, 1), { maxLength: 8, selector: (key) => key.toString('hex') })
    fc.assert(fc.property(keys, fc.array(fc.boolean(), { minLength: 9, maxLength: 9 }), bytes(3), (borders, present, row) => {
      const sorted = [Buffer.alloc(0), ...borders.sort((a, b) => Buffer.compare(a, b)), Buffer.alloc(0)]
      const all = sorted.slice(0, -1).map((start, i) => region(start, sorted[i + 1] as Buffer))
      const map = { regions: all.filter((_, i) => present[i]) }
      const isBelow = (a: Buffer, end: Buffer): boolean => end.length === 0 || Buffer.compare(a, end) < 0
      expect(regionAt(map, row)).to.equal(map.regions.find(({ start, end }) => Buffer.compare(start, row) <= 0 && isBelow(row, end)))
      const before = map.regions.find(({ start, end }) => (row.length === 0 ? end.length === 0 : Buffer.compare(start, row) < 0 && (end.length === 0 || Buffer.compare(row, end) <= 0)))
      expect(regionBefore(map, row)).to.equal(before)
    }))
  })

  it('addresses have a host and a port', () => {
    expect(parseAddress('hbase.example:16000')).to.deep.equal({ host: 'hbase.example', port: 16000 })
    expect(parseAddress('[::1]:16000')).to.deep.equal({ host: '::1', port: 16000 })
    expect(() => parseAddress('hbase.example')).to.throw(RangeError)
  })
})

describe('errors of servers', () => {
  it('are retried when the region is elsewhere or the server busy, and not when they stay', () => {
    const about = (name: string, doNotRetry?: boolean): [boolean, boolean] => {
      const error = new RemoteError(`org.apache.hadoop.hbase.${name}`, `org.apache.hadoop.hbase.${name}: text\n\tat Some.java`, doNotRetry)
      expect(error.message).to.equal(`${name}: text`)
      return [error.retriable, error.isMisplaced]
    }
    expect(about('NotServingRegionException')).to.deep.equal([true, true])
    expect(about('RegionMovedException', false)).to.deep.equal([true, true])
    expect(about('RegionTooBusyException')).to.deep.equal([true, false])
    expect(about('DoNotRetryIOException')).to.deep.equal([false, false])
    expect(about('NoSuchColumnFamilyException')).to.deep.equal([false, false])
    expect(about('SomeNewException', true)).to.deep.equal([false, false])
  })

  it('are waited for longer and longer, never all at once', () => {
    for (let attempt = 0; attempt < 60; attempt++) {
      expect(backoffMs(attempt, 1)).to.be.at.most(2000)
      expect(backoffMs(attempt, 0)).to.equal(backoffMs(attempt, 1) / 2)
      if (attempt > 0) expect(backoffMs(attempt, 1)).to.be.at.least(backoffMs(attempt - 1, 1))
    }
  })
})
