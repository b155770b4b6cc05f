import { expect } from 'chai'
import { sharedHBase, startHBase } from '../../services/services.ts'
import { BatchError, DeadlineError, filters, HBaseClient, type HBaseOptions, type Row, type Table, TableNotFoundError } from './index.ts'

const F = Buffer.from('f')
const Q = Buffer.from('q')
const sleep = async (ms: number): Promise<void> => { await new Promise((resolve) => { setTimeout(resolve, ms) }) }

/** Rows spread over all first bytes. */
const rowOf = (i: number): Buffer => Buffer.concat([Buffer.from([(i * 37) % 256]), Buffer.from(`r${String(i).padStart(7, '0')}`)])
const put = (i: number, value = `v${i}`) => ({ row: rowOf(i), cells: [{ family: F, qualifier: Q, value: Buffer.from(value) }] })
const text = (row: Row | undefined): string | undefined => row?.cells[0]?.value.toString()
const failure = async (promise: Promise<unknown>): Promise<unknown> => await promise.then(() => undefined, (error: unknown) => error)

describe('HBase client', () => {
  let client: HBaseClient
  let tables = 0

  before(async () => { client = new HBaseClient({ servers: (await sharedHBase()).masters }) })
  after(() => { client.close() })

  async function table(splits: readonly number[] = [], versions = 1, of = client): Promise<Table> {
    const name = `client_${process.pid}_${tables++}`
    await of.admin.createTable(name, { families: { f: { versions }, g: {} }, splits: splits.map((byte) => Buffer.from([byte])) })
    return of.table(name)
  }

  it('puts, gets and deletes rows, columns, and versions up to a time', async () => {
    const t = await table([0x80], 5)
    const row = Buffer.from('row')
    const cell = (qualifier: string, timestamp: number, family = F) => ({ family, qualifier: Buffer.from(qualifier), value: Buffer.from(`${qualifier}${timestamp}`), timestamp })
    await t.put([{ row, cells: [cell('a', 1), cell('a', 2), cell('a', 3), cell('b', 2), cell('c', 9, Buffer.from('g'))] }])
    const found = async (options = {}): Promise<string[]> => ((await t.get(row, { versions: 9, ...options }))?.cells ?? []).map(({ value, timestamp }) => `${value.toString()}@${timestamp}`)
    expect(await found()).to.deep.equal(['a3@3', 'a2@2', 'a1@1', 'b2@2', 'c9@9'])
    expect(await found({ versions: 1, columns: [{ family: F }] })).to.deep.equal(['a3@3', 'b2@2'])
    expect(await found({ columns: [{ family: F, qualifiers: [Buffer.from('b')] }] })).to.deep.equal(['b2@2'])
    expect(await found({ timeRange: { from: 2, to: 3 } })).to.deep.equal(['a2@2', 'b2@2'])
    await t.delete([{ row, delete: [{ family: F, qualifier: Buffer.from('a') }], upTo: 2, isExact: true }])
    expect(await found()).to.deep.equal(['a3@3', 'a1@1', 'b2@2', 'c9@9'])
    await t.delete([{ row, delete: [{ family: F, qualifier: Buffer.from('a') }], upTo: 2 }])
    expect(await found()).to.deep.equal(['a3@3', 'b2@2', 'c9@9'])
    await t.delete([{ row, delete: [{ family: F }], upTo: 2 }])
    expect(await found()).to.deep.equal(['a3@3', 'c9@9'])
    await t.delete([{ row, delete: 'row', upTo: 8 }])
    expect(await found()).to.deep.equal(['c9@9'])
    expect([await t.exists(row), await t.exists(Buffer.from('none'))]).to.deep.equal([true, false])
    await t.delete([{ row, delete: 'row' }])
    expect(await t.get(row)).to.equal(undefined)
  })

  it('does a mutation only when a column has a value, or none', async () => {
    const t = await table()
    expect(await t.checkAndMutate({ family: F, qualifier: Q }, undefined, put(1, 'first'))).to.equal(true)
    expect(await t.checkAndMutate({ family: F, qualifier: Q }, undefined, put(1, 'second'))).to.equal(false)
    expect(await t.checkAndMutate({ family: F, qualifier: Q }, Buffer.from('first'), put(1, 'third'))).to.equal(true)
    expect(text(await t.get(rowOf(1)))).to.equal('third')
  })

  it('scans both ways over regions, with limits, ends in or out, and filters', async () => {
    const t = await table([0x20, 0x40, 0x41, 0xc0])
    const all = Array.from({ length: 600 }, (_, i) => put(i))
    await t.put(all)
    const rows = all.map(({ row }) => row.toString('hex')).sort()
    const scan = async (options: Parameters<Table['rows']>[0]): Promise<string[]> => (await t.rows(options)).map(({ row }) => row.toString('hex'))
    expect(await scan({})).to.deep.equal(rows)
    expect(await scan({ reversed: true, batchRows: 7 })).to.deep.equal([...rows].reverse())
    for (const limit of [1, 2, 150, 599, 600, 700]) {
      expect(await scan({ limit, batchRows: 64 })).to.deep.equal(rows.slice(0, limit))
      expect(await scan({ limit, reversed: true })).to.deep.equal([...rows].reverse().slice(0, limit))
    }
    for (const [from, to] of [[0, 10], [100, 400], [599, 599], [5, 5]] as const) {
      const ends = { start: Buffer.from(rows[from] as string, 'hex'), stop: Buffer.from(rows[to] as string, 'hex') }
      for (const includeStart of [true, false]) for (const includeStop of [true, false]) {
        if (from === to && includeStart !== includeStop) continue
        const expected = from === to && !includeStart ? [] : rows.slice(includeStart ? from : from + 1, includeStop ? to + 1 : to)
        if (from !== to || includeStart) expect(await scan({ ...ends, includeStart, includeStop })).to.deep.equal(expected)
        const reversed = from === to ? expected : rows.slice(includeStop ? from : from + 1, includeStart ? to + 1 : to).reverse()
        if (from !== to || includeStart) expect(await scan({ start: ends.stop, stop: ends.start, includeStart, includeStop, reversed: true })).to.deep.equal(reversed)
      }
    }
    // The borders of regions themselves.
    await t.put([0x20, 0x40, 0x41, 0xc0].map((byte) => ({ row: Buffer.from([byte]), cells: [{ family: F, qualifier: Q, value: Buffer.from('border') }] })))
    expect(await scan({ start: Buffer.from([0x41]), stop: Buffer.from([0x40]), includeStop: true, reversed: true })).to.include.members(['40', '41'])
    expect(await scan({ start: Buffer.from([0x41]), includeStart: false, stop: Buffer.from([0x40]), reversed: true })).not.to.include.members(['40'])
    expect(await scan({ start: Buffer.from([0x20]), stop: Buffer.from([0x40]), includeStop: true })).to.include.members(['20', '40'])
    expect(await scan({ filter: filters.rowPrefix(Buffer.from([0x41])), start: Buffer.from([0x41]) })).to.deep.equal(['41', ...rows.filter((row) => row.startsWith('41'))])
    expect(await scan({ filter: filters.rowRanges([{ from: Buffer.from([0x20]), to: Buffer.from([0x20, 0]) }, { from: Buffer.from([0xc0]), to: Buffer.from([0xc0, 0]) }]) })).to.deep.equal(['20', 'c0'])
    expect(await scan({ filter: filters.columnEquals(F, Q, Buffer.from('border')) })).to.deep.equal(['20', '40', '41', 'c0'])
    expect((await t.rows({ limit: 3, filter: filters.keysOnly() })).map(({ cells }) => cells[0]?.value.length)).to.deep.equal([0, 0, 0])
    expect(await scan({ filter: filters.page(2), stop: Buffer.from([0x20]) })).to.deep.equal(rows.slice(0, 2))
  })

  it('puts large rows together from their parts, and refuses those beyond the limit', async () => {
    const t = await table()
    const value = Buffer.alloc(400_000, 'x')
    for (const name of ['one', 'two']) for (let i = 0; i < 20; i++) await t.put([{ row: Buffer.from(name), cells: [{ family: F, qualifier: Buffer.from(`q${i}`), value }] }])
    for (const reversed of [false, true]) expect((await t.rows({ reversed })).map(({ row, cells }) => [row.toString(), cells.length])).to.deep.equal(reversed ? [['two', 20], ['one', 20]] : [['one', 20], ['two', 20]])
    using small = new HBaseClient({ servers: (await sharedHBase()).masters, rowBytesMax: 3_000_000, responseBytesMax: 3_000_000 })
    expect(await failure(small.table(t.name).rows({}))).to.have.property('name', 'TooLargeError')
    expect(await failure(small.table(t.name).get(Buffer.from('one')))).to.have.property('name', 'TooLargeError')
    expect(await small.table(t.name).get(Buffer.from('none'))).to.equal(undefined)
  })

  it('closes what a loop leaves, and goes on where a scanner was lost', async () => {
    const t = await table([0x80])
    await t.put(Array.from({ length: 300 }, (_, i) => put(i)))
    for await (const row of t.scan({ batchRows: 10 })) if (row) break
    const scanner = t.scanner({ batchRows: 10 })
    const rows = await scanner.next()
    // What the server forgets (a lease that ran out, a region that moved) looks like a region that closes and opens again.
    await client.admin.disableTable(t.name)
    await client.admin.enableTable(t.name)
    for (let more = await scanner.next(); more.length > 0; more = await scanner.next()) rows.push(...more)
    expect(rows.map(({ row }) => row.toString('hex'))).to.deep.equal(Array.from({ length: 300 }, (_, i) => rowOf(i).toString('hex')).sort())
  })

  it('says what cannot be, without trying again', async () => {
    const t = await table([0x80])
    const failed = await failure(t.put([put(1), { row: Buffer.from('x'), cells: [{ family: Buffer.from('nope'), qualifier: Q, value: Q }] }, put(2)]))
    expect(failed).to.be.instanceOf(BatchError)
    expect((failed as BatchError).failures.map(({ index }) => index)).to.deep.equal([1])
    expect((await t.getMany([rowOf(1), rowOf(2), rowOf(3)])).map(text)).to.deep.equal(['v1', 'v2', undefined])
    expect(await failure(client.table('nowhere').get(Q))).to.be.instanceOf(TableNotFoundError)
    using nobody = new HBaseClient({ servers: ['127.0.0.1:1'], deadlineMs: 300 })
    expect(await failure(nobody.table(t.name).get(Q))).to.be.instanceOf(DeadlineError)
    await client.admin.deleteTable(t.name)
    expect(await client.admin.tableExists(t.name)).to.equal(false)
  })

  it('keeps within its limits what is on the way, and all of it arrives', async () => {
    const t = await table([0x80])
    const limits: Partial<HBaseOptions> = { callsMax: 2, requestBytesMax: 20_000 }
    using narrow = new HBaseClient({ servers: (await sharedHBase()).masters, ...limits })
    await Promise.all(Array.from({ length: 60 }, async (_, i) => { await narrow.table(t.name).put([put(i, 'x'.repeat(5000))]) }))
    expect(await t.rows({ filter: filters.keysOnly() })).to.have.lengthOf(60)
  })

  it('loses nothing and answers nothing wrong while regions split', async () => {
    // A region that came of a split is not split again before it is compacted: each of these once.
    const t = await table(Array.from({ length: 20 }, (_, i) => (i + 1) * 12))
    const load = underLoad(t)
    for (let split = 0; split < 20 && !load.hasFailed; split++) await client.admin.split(t.name, Buffer.from([4 + split * 12, 0x80]))
    const written = await load.end()
    expect((await client.admin.regions(t.name)).length).to.equal(41)
    expect(await t.rows({ filter: filters.keysOnly() })).to.have.lengthOf(written)
  })
})

/** Writers, and readers that look whether all is there that was written before, both ways and in order. */
function underLoad(t: Table): { readonly hasFailed: boolean; end(): Promise<number> } {
  let isOver = false
  let hasFailed = false
  let next = 0
  const written: number[] = []
  const writers = Array.from({ length: 4 }, async () => {
    while (!isOver) {
      const batch = Array.from({ length: 20 }, () => next++)
      await t.put(batch.map((i) => put(i)))
      written.push(...batch)
      await sleep(10)
    }
  })
  const readers = Array.from({ length: 2 }, async (_, reader) => {
    while (!isOver) {
      await sleep(20)
      if (written.length === 0) continue
      const some = Array.from({ length: 10 }, () => written[Math.floor(Math.random() * written.length)] as number)
      expect((await t.getMany(some.map(rowOf))).map(text)).to.deep.equal(some.map((i) => `v${i}`))
      const known = new Set(written.map((i) => rowOf(i).toString('hex')))
      let before: Buffer | undefined
      for await (const { row } of t.scan({ reversed: reader === 1, batchRows: 200 })) {
        if (before) expect(Buffer.compare(before, row)).to.equal(reader === 1 ? 1 : -1)
        before = Buffer.from(row)
        known.delete(row.toString('hex'))
      }
      expect(known.size, 'rows that were written before the scan and not found').to.equal(0)
    }
  })
  const work = Promise.all([...writers, ...readers])
  work.catch(() => { isOver = hasFailed = true })
  return {
    get hasFailed() { return hasFailed },
    async end() {
      isOver = true
      await work
      return next
    },
  }
}

describe('HBase client, with several region servers', function () {
  // Servers that start, and that recover others, take their time on a machine that has more to do.
  this.timeout(420_000)

  it('loses nothing and answers nothing wrong while regions move, merge, and a region server is killed', async () => {
    await using service = await startHBase({ moreRegionServers: 1 })
    using client = new HBaseClient({ servers: service.masters, deadlineMs: 180_000, callTimeoutMs: 5000 })
    await client.admin.setBalancer(false)
    await client.admin.createTable('moved', { families: { f: {} }, splits: [0x40, 0x80, 0xc0].map((byte) => Buffer.from([byte])) })
    const load = underLoad(client.table('moved'))
    const places = new Set<string>()
    for (let move = 0; move < 20 && !load.hasFailed; move++) {
      const region = (await client.admin.regions('moved'))[move % 4]
      if (region) await client.admin.move(region)
      for (const { encodedName, server } of await client.admin.regions('moved')) places.add(`${encodedName}@${server?.port}`)
    }
    expect(places.size, 'regions have been at both servers').to.be.above(4)
    const [first, second] = await client.admin.regions('moved')
    if (first && second) await client.admin.merge('moved', first, second)
    expect(await client.admin.regions('moved')).to.have.lengthOf(3)
    await service.daemons[1]?.kill()
    const left = service.masters[0]?.split(':')[1]
    for (const until = performance.now() + 90_000; performance.now() < until && !load.hasFailed; await sleep(200)) {
      if ((await client.admin.regions('moved')).every(({ server }) => server?.port === Number(left) + 1)) break
    }
    await sleep(1000)
    const written = await load.end()
    expect(await client.table('moved').rows({ filter: filters.keysOnly() })).to.have.lengthOf(written)
  })
})

describe('HBase client, when HBase is killed', function () {
  // Servers that start, and that recover others, take their time on a machine that has more to do.
  this.timeout(420_000)

  it('writes until the deadline, and nothing that was acknowledged is lost', async () => {
    await using service = await startHBase()
    using client = new HBaseClient({ servers: service.masters, deadlineMs: 180_000, callTimeoutMs: 5000 })
    await client.admin.createTable('killed', { families: { f: {} }, splits: [Buffer.from([0x80])] })
    const t = client.table('killed')
    let isOver = false
    let next = 0
    const acknowledged: number[] = []
    const writers = Array.from({ length: 4 }, async () => {
      while (!isOver) {
        const batch = Array.from({ length: 10 }, () => next++)
        await t.put(batch.map((i) => put(i)))
        acknowledged.push(...batch)
        await sleep(10)
      }
    })
    const work = Promise.all(writers)
    work.catch(() => { isOver = true })
    for (let kill = 0; kill < 2; kill++) {
      await sleep(2000)
      await service.kill()
      const before = acknowledged.length
      const quick = await failure(t.get(rowOf(0), { deadlineMs: 500 }))
      expect(quick).to.be.instanceOf(DeadlineError)
      expect(acknowledged.length).to.be.at.most(before + 40)
      await service.restart()
      for (const until = performance.now() + 60_000; acknowledged.length <= before + 40 && !isOver && performance.now() < until;) await sleep(50)
      expect(acknowledged.length, 'writes go on').to.be.above(before + 40)
    }
    isOver = true
    await work
    const found = new Map((await t.rows({})).map((row) => [row.row.toString('hex'), text(row)]))
    const lost = acknowledged.filter((i) => found.get(rowOf(i).toString('hex')) !== `v${i}`)
    expect(lost).to.deep.equal([])
  })
})
