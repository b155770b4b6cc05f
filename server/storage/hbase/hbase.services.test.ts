import { expect } from 'chai'
import { HBaseClient } from '../../../lib/hbase/index.ts'
import { nextMessageId } from '../../../lib/stanza/ids.ts'
import { sharedHBase } from '../../../services/services.ts'
import { testHistoryStore } from '../../cluster/history-store.contract.ts'
import { testRowStore } from '../../cluster/row-store.contract.ts'
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
