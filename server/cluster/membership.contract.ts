/** What every Membership does, whatever keeps the cluster together. */
import { expect } from 'chai'
import { HEADER_BYTES, RECORD_ALIGN } from '../storage/groups/log.ts'
import { type Inheritance, type Membership, type Parcel, type UnitRow } from './shapes.ts'

/** A cluster for tests. */
export interface TestCluster extends AsyncDisposable {
  join(name: string): Promise<Membership>
  /** As `kill -9`. */
  kill(member: Membership): Promise<void>
  /** Its lease ends though it lives. */
  fence(member: Membership): Promise<void>
}

const JULIET = 'juliet@example.org'
const ROMEO = 'romeo@montague.lit'

export function testMembership(driver: string, open: () => Promise<TestCluster>): void {
  describe(`membership of ${driver}`, () => {
    let cluster: TestCluster
    beforeEach(async () => { cluster = await open() })
    afterEach(async () => { await cluster[Symbol.asyncDispose]() })

    it('shows each node the others', async () => {
      const [a, b] = [await cluster.join('a'), await cluster.join('b')]
      await until(() => a.nodes.length === 2 && b.nodes.length === 2)
      expect(a.nodes.map((node) => node.name).sort()).to.deep.equal(['a', 'b'])
      expect(a.self.inc).not.to.equal(b.self.inc)
      expect(a.nodes.map((node) => node.inc)).to.include(b.self.inc)
    })

    it('tells that a node is about to leave', async () => {
      const [a, b] = [await cluster.join('a'), await cluster.join('b')]
      await until(() => a.nodes.length === 2 && b.nodes.length === 2)
      const told: boolean[] = []
      a.onChange(() => { told.push(a.nodes.some(({ leaving }) => leaving)) })
      await b.leaving()
      for (const one of [a, b]) await until(() => one.nodes.find(({ inc }) => inc === b.self.inc)?.leaving === true)
      await until(() => told.includes(true))
      expect(a.nodes.find(({ inc }) => inc === a.self.inc)?.leaving).to.equal(false)
      expect(a.nodes).to.have.length(2)
    })

    it('gives a unit one home', async () => {
      const [a, b] = [await cluster.join('a'), await cluster.join('b')]
      expect(await a.find(JULIET)).to.equal(undefined)
      const claims = await Promise.all([a.claim(JULIET), b.claim(JULIET)])
      const [home] = claims.flatMap((claim, i) => (claim.here ? [[a, b][i]?.self.inc] : []))
      expect(claims.filter((claim) => claim.here)).to.have.length(1)
      expect(claims.find((claim) => !claim.here)).to.deep.equal({ here: false, inc: home })
      expect(await a.find(JULIET)).to.equal(home)
      expect(await b.find(JULIET)).to.equal(home)
    })

    for (const unit of [JULIET, 'example.org', 'a{b}c@example.org', '}{@example.org', '%7B@example.org', 'ju%liet@example.org', `${'long'.repeat(150)}@example.org`, 'jülïet@exämple.org']) {
      it(`keeps rows and tail of ${unit.slice(0, 40)} from home to home`, async () => {
        const [a, b] = [await cluster.join('a'), await cluster.join('b')]
        await a.claim(unit)
        const rows = [offline(unit, '0000001'), offline(unit, '0000002'), row(unit, `q${unit}\0x\0`, Buffer.from([0, 255, 1]))]
        const tail = Buffer.from([9, 0, 200])
        await a.write(rows, new Map([[unit, tail]]))
        await a.write(rows, new Map([[unit, tail]]))
        await a.write([offline(unit, '0000001', false), offline(unit, '0000003')], new Map())
        await a.release([unit], 1234)
        await a.release([unit], 1234)
        expect(await b.find(unit)).to.equal(undefined)
        const claim = await b.claim(unit)
        if (!claim.here) throw new Error('not here')
        expect(sorted(claim.unit.rows)).to.deep.equal(sorted([offline(unit, '0000002'), offline(unit, '0000003'), rows[2] as UnitRow]))
        expect(claim.unit.tail).to.deep.equal(tail)
        expect(claim.unit.lastMs).to.equal(1234)
        await b.write([offline(unit, '0000002', false), row(unit, `q${unit}\0x\0`)], new Map([[unit, undefined]]))
        const again = await b.claim(unit)
        expect(again.here && again.unit.tail).to.equal(undefined)
        expect(again.here && again.unit.rows.map((one) => one.key)).to.deep.equal([offline(unit, '0000003').key])
      })
    }

    it('lets nobody write but the home', async () => {
      const [a, b] = [await cluster.join('a'), await cluster.join('b')]
      await a.claim(JULIET)
      await failure(b.write([offline(JULIET, '0000001')], new Map()))
      await b.release([JULIET], 5)
      expect(await b.find(JULIET)).to.equal(a.self.inc)
    })

    it('brings parcels, in order for each source, and keeps what is not done', async () => {
      const [a, b] = [await cluster.join('a'), await cluster.join('b')]
      const got: string[] = []
      b.receive(({ source, first, pieces }, done) => {
        pieces.forEach((piece, i) => got.push(`${source === a.self.inc ? 'a' : source} ${first + i} ${piece.toString()}`))
        done()
      })
      for (let i = 1; i <= 20; i += 2) expect(await a.send(b.self.inc, parcel(a, i, 2))).to.equal('sent')
      await until(() => got.length >= 20)
      expect([...new Set(got)]).to.deep.equal(Array.from({ length: 20 }, (_, i) => `a ${i + 1} piece ${i + 1}`))
      expect(await a.send('nobody-1', parcel(a, 1, 1))).to.equal('gone')
      expect(await a.receivedBy('nobody-1', a.self.inc)).to.equal(0)
    })

    it('has handed out all that had come by the time of a claim once it has caught up', async () => {
      const [a, b] = [await cluster.join('a'), await cluster.join('b')]
      const got: number[] = []
      b.receive(({ first, pieces }) => { pieces.forEach((_, i) => got.push(first + i)) })
      for (let i = 1; i <= 30; i++) {
        await a.send(b.self.inc, parcel(a, i, 1))
        await b.claim(`${i}@capulet.lit`)
        await b.caughtUp()
        expect(new Set(got).size).to.equal(i)
      }
      // Also what is handed out and not done.
      await b.caughtUp()
    })

    it('puts parcels into inboxes with the record of the log, where it can', async function () {
      const [a, b] = [await cluster.join('a'), await cluster.join('b')]
      if (!a.log.appendAndSend) return this.skip()
      const got: string[] = []
      b.receive(({ source, first, pieces }, done) => {
        pieces.forEach((piece, i) => got.push(`${source === a.self.inc ? 'a' : source} ${first + i} ${piece.toString()}`))
        done()
      })
      const payload = Buffer.from('a record')
      const buffer = Buffer.alloc(RECORD_ALIGN * Math.ceil((HEADER_BYTES + payload.length) / RECORD_ALIGN))
      payload.copy(buffer, HEADER_BYTES)
      const parcels = [{ to: b.self.inc, parcel: parcel(a, 1, 2) }, { to: 'nobody-1', parcel: parcel(a, 1, 1) }]
      expect([...await a.log.appendAndSend(buffer, payload.length, 7, parcels)]).to.deep.equal([b.self.inc])
      expect(await a.send(b.self.inc, parcel(a, 3, 1))).to.equal('sent')
      await until(() => got.length >= 3)
      expect(got).to.deep.equal(['a 1 piece 1', 'a 2 piece 2', 'a 3 piece 3'])
      let isLost = false
      a.onLost(() => { isLost = true })
      b.inherit((inheritance) => inheritance.finish(1, new Map()))
      await cluster.fence(a)
      await until(() => isLost)
      await failure(a.log.appendAndSend(buffer, payload.length, 8, [{ to: b.self.inc, parcel: parcel(a, 4, 1) }]))
      await until(() => b.nodes.length === 1)
      expect(got).to.have.length(3)
    })

    it('hands a killed node on: its log, its inbox, its units', async () => {
      const [a, b, c] = [await cluster.join('a'), await cluster.join('b'), await cluster.join('c')]
      const gone: string[] = []
      for (const one of [b, c]) one.onChange((over) => { gone.push(...over) })
      await a.claim(JULIET)
      await a.write([offline(JULIET, '0000001')], new Map())
      await append(a, 'dropped')
      await append(a, 'dropped too')
      await turn(a)
      await append(a, 'one', 77)
      await append(a, 'two', 78)
      await b.send(a.self.inc, parcel(b, 1, 3))
      await cluster.kill(a)
      const inherited: Inheritance[] = []
      let failures = 0
      for (const one of [b, c]) {
        one.inherit(async (inheritance) => {
          inherited.push(inheritance)
          if (failures++ < 2) throw new Error('not yet')
          expect(await one.find(JULIET)).to.equal(a.self.inc)
          await inheritance.write([offline(JULIET, '0000002')], new Map([[JULIET, Buffer.from('tail')]]))
          expect((await inheritance.load(JULIET)).rows).to.have.length(2)
          await inheritance.finish(4711, new Map([[b.self.inc, 3]]))
        })
      }
      await until(() => gone.filter((inc) => inc === a.self.inc).length >= 2)
      expect(inherited.length).to.equal(3)
      for (const { inc, records, parcels } of inherited) {
        expect(inc).to.equal(a.self.inc)
        expect(records.map((record) => record.payload.toString())).to.deep.equal(['one', 'two'])
        expect(records.map((record) => record.number)).to.deep.equal([3, 4])
        expect(records.map((record) => record.lastIdMs)).to.deep.equal([77, 78])
        expect(parcels.map(({ source, first, pieces }) => [source, first, pieces.map(String)])).to.deep.equal([[b.self.inc, 1, ['piece 1', 'piece 2', 'piece 3']]])
      }
      expect(await c.find(JULIET)).to.equal(undefined)
      expect(await c.send(a.self.inc, parcel(c, 1, 1))).to.equal('gone')
      expect(await c.receivedBy(a.self.inc, b.self.inc)).to.equal(3)
      expect(await c.receivedBy(a.self.inc, c.self.inc)).to.equal(0)
      const claim = await c.claim(JULIET)
      expect(claim.here && claim.unit.rows.length).to.equal(2)
      expect(claim.here && claim.unit.tail?.toString()).to.equal('tail')
      expect(claim.here && claim.unit.lastMs).to.be.greaterThanOrEqual(4711)
      expect(c.nodes.map((node) => node.name)).to.deep.equal(['b', 'c'])
    })

    it('has another recover when who recovers is killed, and nothing of the first counts then', async () => {
      const [a, b, c] = [await cluster.join('a'), await cluster.join('b'), await cluster.join('c')]
      await a.claim(JULIET)
      await append(a, 'one')
      const begun: string[] = []
      let first: Inheritance | undefined
      let ways: Inheritance['ways'] | undefined
      const finished: string[] = []
      for (const one of [b, c]) {
        one.inherit(async (inheritance) => {
          if (inheritance.inc === a.self.inc) begun.push(one.self.name)
          if (begun.length === 1 && inheritance.inc === a.self.inc) {
            first = inheritance
            expect([...inheritance.ways]).to.deep.equal([])
            await inheritance.noteWays(ROMEO, ['x', 'y'])
            await cluster.fence(one)
            return await new Promise(() => {})
          }
          if (inheritance.inc === a.self.inc) ways = inheritance.ways
          await inheritance.finish(1, new Map())
          finished.push(inheritance.inc)
        })
      }
      await cluster.kill(a)
      await until(() => finished.includes(a.self.inc))
      expect(begun.slice(0, 2).sort()).to.deep.equal(['b', 'c'])
      expect([...ways ?? []]).to.deep.equal([[ROMEO, ['x', 'y']]])
      await failure(first?.noteWays(ROMEO, ['z']) ?? Promise.resolve())
      await failure(first?.write([offline(JULIET, '0000001')], new Map()) ?? Promise.resolve())
      await failure(first?.finish(1, new Map()) ?? Promise.resolve())
    })

    it('tells a node that it is lost, and takes nothing of it', async () => {
      const [a, b] = [await cluster.join('a'), await cluster.join('b')]
      let lost = 0
      a.onLost(() => lost++)
      await a.claim(JULIET)
      await append(a, 'one')
      const seen: string[][] = []
      b.inherit(async (inheritance) => {
        seen.push(inheritance.records.map((record) => record.payload.toString()))
        await inheritance.finish(1, new Map())
      })
      await cluster.fence(a)
      await until(() => lost > 0 && seen.length > 0)
      await failure(append(a, 'two'))
      await failure(a.write([offline(JULIET, '0000001')], new Map()))
      expect(lost).to.equal(1)
      await until(() => b.nodes.length === 1)
      await until(async () => (await b.claim(JULIET)).here)
      const claim = await b.claim(JULIET)
      expect(claim.here && claim.unit.rows).to.deep.equal([])
      expect(seen).to.deep.equal([['one']])
    })

    it('ends at once a node that has nothing left', async () => {
      const [a, b] = [await cluster.join('a'), await cluster.join('b')]
      const gone: string[] = []
      b.onChange((over) => { gone.push(...over) })
      await until(() => b.nodes.length === 2)
      await append(a, 'one')
      await turn(a)
      await a[Symbol.asyncDispose]()
      await until(() => gone.includes(a.self.inc))
      expect(b.nodes.map((node) => node.name)).to.deep.equal(['b'])
    })

    it('has what a node leaves recovered when it ends with something left', async () => {
      const [a, b] = [await cluster.join('a'), await cluster.join('b')]
      const seen: string[] = []
      await append(a, 'left')
      b.inherit(async (inheritance) => {
        seen.push(...inheritance.records.map((record) => record.payload.toString()))
        await inheritance.finish(1, new Map())
      })
      await a[Symbol.asyncDispose]()
      await until(() => seen.length > 0)
      expect(seen).to.deep.equal(['left'])
    })
  })
}

function row(unit: string, key: string, value?: Buffer): UnitRow {
  return { unit, key: Buffer.from(key).toString('latin1'), value, version: 1 }
}

/** As storage/offline.ts has it. */
function offline(unit: string, id: string, isThere = true): UnitRow {
  const encoded = unit.length > 400 ? undefined : Buffer.from(unit).toString('latin1')
  const value = Buffer.from(`<message from='romeo@example.net/orchard' to='${unit}' id='${id}'><body>ü</body></message>`)
  return { unit, key: encoded === undefined ? `x${id}` : `o${encoded}\0${id}\0`, value: isThere ? value : undefined, version: 1 }
}

function sorted(rows: readonly { readonly key: string; readonly value: Buffer | undefined }[]): readonly string[] {
  return rows.map(({ key, value }) => JSON.stringify([key, value?.toString('hex')])).sort()
}

function parcel(source: Membership, first: number, count: number): Parcel {
  return { source: source.self.inc, first, pieces: Array.from({ length: count }, (_, i) => Buffer.from(`piece ${first + i}`)) }
}

export async function append(member: Membership, text: string, lastIdMs = 1): Promise<void> {
  const payload = Buffer.from(text)
  const buffer = Buffer.alloc(Math.ceil((HEADER_BYTES + payload.length) / RECORD_ALIGN) * RECORD_ALIGN)
  payload.copy(buffer, HEADER_BYTES)
  await member.log.append(buffer, payload.length, lastIdMs)
}

/** Ends the log's segment and forgets it. */
export async function turn(member: Membership): Promise<void> {
  await member.log.prepare()
  await member.log.drop(member.log.turnOver().segment)
}

export async function failure(promise: Promise<unknown>): Promise<void> {
  try {
    await promise
  } catch {
    return
  }
  expect.fail('it succeeded')
}

export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!await condition()) await new Promise((resolve) => { setTimeout(resolve, 10) })
}
