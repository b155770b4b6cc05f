import { setTimeout as sleep } from 'node:timers/promises'
import { Client, types } from 'cassandra-driver'
import { expect } from 'chai'
import { nextMessageId, pastMessageId } from '../../../lib/stanza/ids.ts'
import { sharedCassandra, startCassandra } from '../../../services/services.ts'
import { RefusedError } from '../../cluster/errors.ts'
import { testHistoryStore } from '../../cluster/history-store.contract.ts'
import { testRowStore } from '../../cluster/row-store.contract.ts'
import { type HistoryChange } from '../../cluster/shapes.ts'
import { openCassandraHistory } from './history.ts'
import { type CassandraStorageOptions } from './options.ts'
import { openCassandraRows } from './rows.ts'

const RUN = process.pid
const DAY_MS = 86_400_000
const ROMEO = 'romeo@montague.lit'
const JULIET = 'juliet@capulet.lit'
const NURSE = 'nurse@capulet.lit'

async function options(more: Partial<CassandraStorageOptions> = {}): Promise<CassandraStorageOptions> {
  const { host, port, datacenter } = await sharedCassandra()
  return { contactPoints: [`${host}:${port}`], localDatacenter: datacenter, keyspace: `drivers${RUN}`, replication: 1, consistency: 'local_quorum', login: undefined, tls: undefined, ...more }
}

testRowStore('Cassandra', async () => await openCassandraRows(await options()))
testHistoryStore('Cassandra', async () => await openCassandraHistory(await options()))
testHistoryStore('Cassandra with retention', async () => await openCassandraHistory(await options({ keyspace: `kept${RUN}`, retentionSeconds: 365 * 86_400 })))

describe('Cassandra', () => {
  let client: Client
  const keyspace = `tried${RUN}`
  const tried = async (more: Partial<CassandraStorageOptions> = {}): Promise<CassandraStorageOptions> => await options({ keyspace, ...more })
  const select = async (cql: string): Promise<types.Row[]> => (await client.execute(cql, [], { fetchSize: 0 })).rows
  const failureOf = async (done: Promise<unknown>): Promise<Error | undefined> => await done.then(() => undefined, (error: Error) => error)

  before(async () => {
    const { contactPoints, localDatacenter } = await options()
    client = new Client({ contactPoints: [...contactPoints], localDataCenter: localDatacenter })
    await client.connect()
  })
  after(async () => { await client.shutdown() })

  let version = Date.now() * 1024
  const put = (id: string, other: string, text: string, at = ++version, owner = ROMEO): HistoryChange => ({ owner, id, with: other, bytes: Buffer.from(text), version: at })
  const owners = (): string => `user${version++}@montague.lit`

  it('makes keyspaces as configured, and its tables once when several processes start together', async () => {
    const configured = await options({ keyspace: `together${RUN}`, replication: { datacenter1: 2 }, consistency: 'one', retentionSeconds: 30 * 86_400 })
    const stores = await Promise.all([1, 2, 3].map(async () => await openCassandraHistory(configured)))
    await stores[0]?.write([put(nextMessageId(), JULIET, 'x')])
    expect(await stores[2]?.count(ROMEO, {}, 9)).to.equal(1)
    for (const store of stores) await store[Symbol.asyncDispose]()
    await client.metadata.refreshKeyspaces()
    expect(client.metadata.keyspaces[`together${RUN}`]).to.deep.include({ strategy: 'org.apache.cassandra.locator.NetworkTopologyStrategy', strategyOptions: { datacenter1: '2' } })
    const [table] = await select(`SELECT compaction FROM system_schema.tables WHERE keyspace_name = 'together${RUN}' AND table_name = 'history'`)
    expect(table?.['compaction']).to.include({ class: 'org.apache.cassandra.db.compaction.TimeWindowCompactionStrategy', compaction_window_unit: 'HOURS', compaction_window_size: '24' })
  })

  it('has the same tables, whoever makes them, when many processes start together for the first time, again and again', async () => {
    const ids = new Set<string>()
    for (let round = 0; round < 3; round++) {
      const name = `first${round}x${RUN}`
      const configured = await options({ keyspace: name })
      const stores = await Promise.all(Array.from({ length: 5 }, async () => [await openCassandraHistory(configured), await openCassandraRows(configured)] as const))
      await Promise.all(stores.map(async ([history, rows], at) => {
        await history.write([put(nextMessageId(), JULIET, 'x')])
        await rows.write([{ unit: `u${at}`, key: 'rk', value: Buffer.from('v'), version: ++version }])
      }))
      for (const [history, rows] of stores) {
        expect(await history.count(ROMEO, {}, 9)).to.equal(5)
        expect(await rows.units('u', undefined, 9)).to.have.lengthOf(5)
      }
      for (const store of stores.flat()) await store[Symbol.asyncDispose]()
      const tables = async (): Promise<string[]> => (await select(`SELECT table_name, id FROM system_schema.tables WHERE keyspace_name = '${name}'`)).map((row) => `${String(row['table_name'])} ${String(row['id'])}`)
      const before = await tables()
      for (const each of before) ids.add(each)
      await client.execute(`DROP KEYSPACE ${name}`)
      await using again = await openCassandraHistory(configured)
      // What was in tables of these names before is not in the new ones.
      expect(await again.count(ROMEO, {}, 9)).to.equal(0)
      expect(before).to.include.members(await tables())
      await client.execute(`DROP KEYSPACE ${name}`)
    }
    expect(ids.size).to.equal(3 * 4)
  })

  it('says at the start why it cannot be used', async () => {
    const deadlineMs = 2_000
    const { contactPoints } = await tried()
    expect((await failureOf(openCassandraHistory(await tried({ contactPoints: ['127.0.0.1:1'], deadlineMs }))))?.message).to.match(/no node of Cassandra answers: 127\.0\.0\.1:1: .*ECONNREFUSED/)
    expect((await failureOf(openCassandraHistory(await tried({ localDatacenter: 'elsewhere', deadlineMs }))))?.message).to.contain('elsewhere').and.to.contain('datacenter1')
    // Cassandra cannot write such a time of expiry, unless it is told that no old nodes are left.
    expect((await failureOf(openCassandraHistory(await tried({ contactPoints, retentionSeconds: 19 * 365 * 86_400 }))))?.message).to.match(/ttl of \d+ seconds exceeds maximum/)
    // Of two copies one node of this test can have one.
    await using few = await openCassandraRows(await options({ keyspace: `few${RUN}`, replication: 2, consistency: 'quorum', deadlineMs }))
    expect((await failureOf(few.write([{ unit: 'a', key: 'rk', value: Buffer.from('v'), version: 1 }])))?.message).to.match(/Not enough replicas .*2 required but only 1 alive/)
  })

  it('decides between equal versions by what they say, not by what comes last', async () => {
    await using history = await openCassandraHistory(await tried())
    await using rows = await openCassandraRows(await tried())
    const at = ++version
    const [one, two, three] = [nextMessageId(), nextMessageId(), nextMessageId()] as [string, string, string]
    const removal = (id: string): HistoryChange => ({ owner: ROMEO, id, with: JULIET, bytes: undefined, version: at })
    for (const changes of [[put(one, JULIET, 'a', at), removal(one)], [removal(two), put(two, JULIET, 'a', at)], [put(three, JULIET, 'b', at), put(three, JULIET, 'a', at)]]) {
      for (const change of changes) await history.write([change])
    }
    expect((await history.query(ROMEO, { max: 9, direction: 'forward' })).items.map(({ id, bytes }) => [id, bytes.toString()])).to.deep.equal([[three, 'b']])
    expect(await history.count(ROMEO, { with: JULIET }, 9)).to.equal(1)
    const row = (key: string, value: string | undefined) => ({ unit: 'ties.lit', key, value: value === undefined ? undefined : Buffer.from(value), version: at })
    for (const each of [row('ra', undefined), row('ra', 'x'), row('rb', 'x'), row('rb', undefined), row('rc', 'b'), row('rc', 'a'), row('rd', 'a'), row('rd', 'b')]) await rows.write([each])
    expect((await rows.load('ties.lit')).map(({ key, value }) => [key, value.toString()])).to.deep.equal([['rc', 'b'], ['rd', 'b']])
  })

  it('goes from one partition to the next, both ways, where each has little or much', async () => {
    await using history = await openCassandraHistory(await tried())
    const owner = owners()
    const start = Date.UTC(2020, 0, 1)
    // Six years: little, much in one, and a gap.
    const times = [...Array.from({ length: 60 }, (_, i) => i * 20), ...Array.from({ length: 40 }, (_, i) => 1205 + i / 100), ...Array.from({ length: 20 }, (_, i) => 2000 + i * 5)]
    const ids = times.map((day, i) => pastMessageId(start + day * DAY_MS, i))
    const other = (i: number): string => i % 10 === 3 ? NURSE : JULIET
    await history.write(ids.map((id, i) => put(id, other(i), id, undefined, owner)))
    expect(await select(`SELECT bucket FROM ${keyspace}.buckets WHERE owner = '${owner}' AND other = ''`)).to.have.lengthOf.above(60).and.below(100)
    for (const [expected, filter] of [[ids, {}], [ids.filter((_, i) => other(i) === NURSE), { with: NURSE }]] as const) {
      for (const max of [7, 50]) {
        const forward: string[] = []
        const backward: string[] = []
        for (let done = false; !done;) {
          const page = await history.query(owner, { ...filter, max, direction: 'forward', ...(forward.length === 0 ? {} : { afterId: forward.at(-1) as string }) })
          forward.push(...page.items.map(({ id }) => id))
          done = page.complete
        }
        for (let done = false; !done;) {
          const page = await history.query(owner, { ...filter, max, direction: 'backward', ...(backward.length === 0 ? {} : { beforeId: backward[0] as string }) })
          backward.unshift(...page.items.map(({ id }) => id))
          done = page.complete
        }
        expect(forward).to.deep.equal(expected)
        expect(backward).to.deep.equal(expected)
      }
      expect(await history.count(owner, filter, 1000)).to.equal(expected.length)
      expect(await history.count(owner, { ...filter, start: start + 1190 * DAY_MS }, 1000)).to.equal(expected.filter((id) => id >= pastMessageId(start + 1190 * DAY_MS, 0)).length)
    }
    expect((await history.query(owner, { ids: [ids[100], ids[0]] as string[], max: 9, direction: 'forward' })).items.map(({ id }) => id)).to.deep.equal([ids[0], ids[100]])
    await history.purge(owner, start + 1206 * DAY_MS, ++version)
    expect((await history.query(owner, { max: 999, direction: 'forward' })).items.map(({ id }) => id)).to.deep.equal(ids.slice(100))
    expect(await history.count(owner, { with: NURSE }, 99)).to.equal(2)
  })

  it('keeps nothing of an owner that was purged', async () => {
    await using history = await openCassandraHistory(await tried())
    const owner = owners()
    const changes = Array.from({ length: 50 }, (_, i) => put(pastMessageId(Date.UTC(2025, 0, 1) + i * DAY_MS, i), `u${i}@capulet.lit`, 'x', undefined, owner))
    await history.write(changes)
    await history.purge(owner, undefined, ++version)
    for (const table of ['history', 'buckets']) expect(await select(`SELECT owner FROM ${keyspace}.${table} WHERE owner = '${owner}' ALLOW FILTERING`)).to.deep.equal([])
    // What comes late, with what came after the purge.
    const later = put(pastMessageId(Date.UTC(2025, 0, 5), 1), JULIET, 'later', undefined, owner)
    await history.write([...changes, later])
    expect((await history.query(owner, { max: 99, direction: 'forward' })).items.map(({ bytes }) => bytes.toString())).to.deep.equal(['later'])
    expect(await select(`SELECT other FROM ${keyspace}.buckets WHERE owner = '${owner}'`)).to.have.lengthOf(2)
  })

  it('takes units out of its lists that have no records any more, and not those that come back', async () => {
    await using rows = await openCassandraRows(await tried())
    const row = (unit: string, value: string | undefined) => ({ unit, key: 'rk', value: value === undefined ? undefined : Buffer.from(value), version: ++version })
    const listed = async (): Promise<string[]> => (await select(`SELECT unit FROM ${keyspace}.units`)).map((each) => each['unit'] as string).filter((unit) => unit.startsWith('list.'))
    const old = row('list.b', 'x')
    await rows.write([row('list.a', 'x'), old])
    await rows.write([row('list.a', undefined), row('list.b', undefined)])
    expect(await listed()).to.have.members(['list.a', 'list.b'])
    expect(await rows.units('list.', undefined, 10)).to.deep.equal([])
    expect(await listed()).to.deep.equal([])
    await rows.write([row('list.a', 'again'), old])
    expect(await rows.units('list.', undefined, 10)).to.deep.equal(['list.a'])
  })

  it('forgets by itself what is older than the retention', async () => {
    await using history = await openCassandraHistory(await tried({ retentionSeconds: 3 }))
    const owner = owners()
    const id = nextMessageId()
    await history.write([put(id, JULIET, 'x', undefined, owner)])
    expect(await history.count(owner, { with: JULIET }, 9)).to.equal(1)
    const ttls = (await select(`SELECT TTL(stanza) AS ttl FROM ${keyspace}.history WHERE owner = '${owner}' ALLOW FILTERING`)).map((each) => Number(each['ttl']))
    expect(ttls).to.have.lengthOf(2)
    for (const ttl of ttls) expect(ttl).to.be.within(1, 3)
    while (await history.get(owner, id) !== undefined) await sleep(100)
    expect(await history.count(owner, { with: JULIET }, 9)).to.equal(0)
  })

  it('refuses for good what Cassandra would never take', async () => {
    await using history = await openCassandraHistory(await tried())
    await using rows = await openCassandraRows(await tried())
    const large = Buffer.alloc(16 * 1024 * 1024)
    for (const change of [{ ...put(nextMessageId(), JULIET, ''), bytes: large }, put(nextMessageId(), 'x'.repeat(70_000), 'x'), put('i'.repeat(70_000), JULIET, 'x'), put(nextMessageId(), JULIET, 'x', 1, 'ü'.repeat(35_000))]) {
      expect(await failureOf(history.write([change]))).to.be.instanceOf(RefusedError)
    }
    expect(await failureOf(rows.write([{ unit: 'a', key: 'r', value: large, version: 1 }]))).to.be.instanceOf(RefusedError)
    const most = Buffer.alloc(15 * 1024 * 1024, 'x')
    const owner = owners()
    const id = nextMessageId()
    await history.write([{ ...put(id, JULIET, '', undefined, owner), bytes: most }])
    expect((await history.get(owner, id))?.bytes.equals(most)).to.equal(true)
  })

  it('goes on after Cassandra was killed, with everything that it had written, and gives up at the deadline while it is away', async function () {
    // A machine that has other things to do starts it slowly, three times.
    this.timeout(600_000)
    await using service = await startCassandra({ heap: '400m' })
    const configured = await tried({ contactPoints: [`${service.host}:${service.port}`], deadlineMs: 390_000 })
    await using history = await openCassandraHistory(configured)
    await using hasty = await openCassandraHistory({ ...configured, deadlineMs: 1_000 })
    const written: string[] = []
    let stops = false
    const writer = (async () => {
      while (!stops) {
        const id = nextMessageId()
        await history.write([put(id, JULIET, id), put(id, JULIET, id, undefined, 'mercutio@montague.lit')])
        written.push(id)
      }
    })()
    const reader = (async () => { while (!stops) expect((await history.query(ROMEO, { max: 5, direction: 'backward' })).items.length).to.be.at.most(5) })()
    const more = async (count: number): Promise<void> => {
      const until = written.length + count
      const enough = (async () => { while (written.length < until) await sleep(20) })()
      await Promise.race([enough, writer, reader])
    }
    for (let kill = 1; kill <= 2; kill++) {
      await more(100)
      await service.kill()
      const from = performance.now()
      expect(await failureOf(hasty.write([put(nextMessageId(), NURSE, 'x', undefined, 'nobody')]))).to.be.instanceOf(Error)
      expect(performance.now() - from).to.be.below(20_000)
      await service.restart()
    }
    await more(100)
    service.pause()
    expect((await failureOf(hasty.count(ROMEO, {}, 1)))?.message).to.match(/timeout|no node of Cassandra/)
    service.resume()
    await more(100)
    stops = true
    await Promise.all([writer, reader])
    for (const owner of [ROMEO, 'mercutio@montague.lit']) {
      expect((await history.query(owner, { max: 1_000_000, direction: 'forward' })).items.map(({ id, bytes }) => [id, bytes.toString()])).to.deep.equal(written.map((id) => [id, id]))
      expect(await history.count(owner, { with: JULIET }, 1_000_000)).to.equal(written.length)
    }
  })

  it('logs in, by TLS, and checks who it is that answers', async () => {
    await using service = await startCassandra({ isSecure: true, heap: '400m' })
    const tls = { caFile: service.certificate, certFile: undefined, keyFile: undefined, verify: true, serverName: undefined }
    const login = { username: 'cassandra', password: 'cassandra' }
    const secure = await tried({ contactPoints: [`${service.host}:${service.port}`], tls, login })
    await using rows = await openCassandraRows(secure)
    await rows.write([{ unit: 'a', key: 'rk', value: Buffer.from('v'), version: 1 }])
    expect(await rows.load('a')).to.have.lengthOf(1)
    await using named = await openCassandraRows({ ...secure, tls: { ...tls, serverName: 'localhost' } })
    expect(await named.load('a')).to.have.lengthOf(1)
    const refused = async (more: Partial<CassandraStorageOptions>): Promise<string | undefined> => (await failureOf(openCassandraRows({ ...secure, deadlineMs: 5_000, ...more })))?.message
    expect(await refused({ login: { ...login, password: 'wrong' } })).to.contain('password are incorrect')
    expect(await refused({ login: undefined })).to.match(/authentication/i)
    expect(await refused({ tls: { ...tls, caFile: undefined } })).to.contain('self-signed')
    expect(await refused({ tls: { ...tls, serverName: 'other.example' } })).to.contain('other.example')
    expect(await refused({ tls: undefined })).to.be.a('string')
  })
})
