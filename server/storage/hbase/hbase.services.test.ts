import { expect } from 'chai'
import { HBaseClient } from '../../../lib/hbase/index.ts'
import { nextMessageId } from '../../../lib/stanza/ids.ts'
import { sharedHBase } from '../../../services/services.ts'
import { testHistoryStore } from '../../cluster/history-store.contract.ts'
import { testRowStore } from '../../cluster/row-store.contract.ts'
import type { HistoryStore } from '../../cluster/shapes.ts'
import { openHBaseHistory } from './history.ts'
import { openHBaseRows } from './rows.ts'
import { type HBaseStorageOptions, splitsOf } from './tables.ts'

const RUN = process.pid

async function options(more: Partial<HBaseStorageOptions> = {}): Promise<HBaseStorageOptions> {
  return { masters: (await sharedHBase()).masters, namespace: `drivers${RUN}`, regions: 4, ...more }
}

testRowStore('HBase', async () => await openHBaseRows(await options()))
testHistoryStore('HBase', async () => await openHBaseHistory(await options()))
testHistoryStore('HBase with retention', async () => await openHBaseHistory(await options({ prefix: 'kept_', retentionSeconds: 365 * 86_400 })))

describe('HBase', () => {
  it('has tables with regions, retention and compression as configured', async () => {
    const configured = await options({ prefix: 'tried_', regions: 5, retentionSeconds: 3600, compression: 'GZ' })
    await using _history = await openHBaseHistory(configured)
    using client = new HBaseClient({ servers: configured.masters })
    for (const name of ['archive', 'conversations']) {
      expect((await client.admin.describe(`drivers${RUN}:tried_${name}`))['t']).to.include({ TTL: '3600', COMPRESSION: 'GZ', VERSIONS: '1' })
      expect(await client.admin.regions(`drivers${RUN}:tried_${name}`)).to.have.lengthOf(5)
    }
    expect(splitsOf(4, 16).map((split) => split[0])).to.deep.equal([0x40, 0x80, 0xc0])
    expect(splitsOf(1, 256)).to.deep.equal([])
    expect(splitsOf(1000, 256)).to.have.lengthOf(255)
  })

  it('forgets by itself what is older than the retention', async () => {
    await using history = await openHBaseHistory(await options({ prefix: 'tried_', regions: 5, retentionSeconds: 3600 }))
    const now = Date.now()
    const change = (id: string, ms: number) => ({ owner: 'romeo@montague.lit', id, with: 'juliet@capulet.lit', bytes: Buffer.from('x'), version: ms * 1024 + 7 })
    const [old, recent] = [nextMessageId(now - 4_000_000), nextMessageId(now)] as const
    await history.write([change(old, now - 4_000_000), change(recent, now)])
    expect((await history.query('romeo@montague.lit', { max: 9, direction: 'forward' })).items.map((item) => item.id)).to.deep.equal([recent])
  })

  it('keeps what was removed removed when a queue is read again after the files were compacted', async () => {
    const settings = [await options({ prefix: 'again_', regions: 1 }), await options({ prefix: 'again_kept_', regions: 1, retentionSeconds: 365 * 86_400 })] as const
    await using exact = await openHBaseHistory(settings[0])
    await using expiring = await openHBaseHistory(settings[1])
    using client = new HBaseClient({ servers: settings[0].masters })
    const owner = 'romeo@montague.lit'
    const id = nextMessageId()
    let version = Date.now() * 1024
    const put = { owner, id, with: 'juliet@capulet.lit', bytes: Buffer.from('x'), version: ++version }
    // A millisecond later, in tables that expire as well.
    const removal = { ...put, bytes: undefined, version: version += 2048 }
    const shown = async (store: HistoryStore): Promise<number> => (await store.query(owner, { max: 9, direction: 'forward' })).items.length
    const tables = ['again_archive', 'again_conversations', 'again_kept_archive', 'again_kept_conversations'].map((name) => `drivers${RUN}:${name}`)
    for (const store of [exact, expiring]) {
      await store.write([put])
      await store.write([removal])
    }
    for (const table of tables) await client.admin.flush(table)
    for (const table of tables) await client.admin.compact(table, true)
    // Until the marker of the removal is gone the older message alone changes nothing; then, in a table without retention, it would be seen.
    while (await shown(exact) === 0) {
      await exact.write([put])
      await new Promise((resolve) => { setTimeout(resolve, 100) })
    }
    // But a queue that is read again has the removal after it.
    await exact.write([put, removal])
    expect(await shown(exact)).to.equal(0)
    await exact.write([removal])
    expect(await shown(exact)).to.equal(0)
    // Tables with retention keep the marker for a week.
    await expiring.write([put])
    expect(await shown(expiring)).to.equal(0)
  })

  it('says when retention is configured for tables that were made to keep everything', async () => {
    await (await openHBaseHistory(await options()))[Symbol.asyncDispose]()
    const failure = await openHBaseHistory(await options({ retentionSeconds: 10 })).then(() => undefined, (error: Error) => error)
    expect(failure?.message).to.contain('retention')
  })

  it('has its tables made once by several processes that start together', async () => {
    const configured = await options({ prefix: 'together_' })
    const stores = await Promise.all([1, 2, 3].map(async () => await openHBaseRows(configured)))
    await stores[0]?.write([{ unit: 'a', key: 'rk', value: Buffer.from('v'), version: 1 }])
    expect(await stores[2]?.load('a')).to.have.lengthOf(1)
    for (const store of stores) await store[Symbol.asyncDispose]()
  })
})
