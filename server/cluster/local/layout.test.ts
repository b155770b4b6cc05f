import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { expect } from 'chai'
import { type Embedded, openEmbedded } from '../../storage/embedded/embedded.ts'
import { forOne, forSeveral, isOfSeveral } from './layout.ts'

const ROWS: readonly (readonly [string, readonly string[], string])[] = [
  ['accounts', ['localhost', 'juliet'], 'keys'], ['accounts', ['localhost', 'romeo'], 'keys'], ['roster', ['juliet@localhost', 'romeo@localhost'], 'both'],
  ['upload-secrets', ['by', 'secret'], 'file'], ['upload-ends', ['localhost', '5', 'file'], 'end'], ['invites_by', ['juliet@localhost', 'token'], 'invitation'],
]
const JULIET = 'juliet@localhost'

describe('a data directory of one process, of several, and of one again', () => {
  let dir: string
  let storage: Embedded
  beforeEach(async () => {
    dir = await mkdtemp(path.join(tmpdir(), 'tidings-'))
    storage = await openEmbedded(dir)
  })
  afterEach(async () => {
    await storage[Symbol.asyncDispose]()
    await rm(dir, { recursive: true, force: true })
  })
  const reopen = async (): Promise<void> => {
    await storage[Symbol.asyncDispose]()
    storage = await openEmbedded(dir)
  }

  it('has all its records and streams', async () => {
    for (const [table, key, value] of ROWS) storage.records.put(table, key, value)
    storage.streams.open('s1', JULIET, 'balcony', { carbons: true })
    storage.streams.handled('s1', 7)
    storage.streams.acknowledged('s1', 2)
    for (const seq of [3, 4]) storage.streams.push('s1', seq, Buffer.from(`stanza ${seq}`))
    await storage.committed()
    await reopen()
    await forSeveral(storage)
    expect(isOfSeveral(storage)).to.equal(true)
    expect(storage.rows.keys('q', 'q\xff', 10, false)).to.have.length(4)
    expect(await storage.records.range('invites_by', [])).to.deep.equal([])
    expect(await storage.records.get('hosted', ['localhost', 'invites_by', JULIET, 'token'])).to.equal('invitation')
    expect((await storage.records.range('spread', [])).map(({ key }) => key[1] as string).sort()).to.deep.equal(['accounts', 'accounts', 'upload-ends', 'upload-secrets'])
    await reopen()
    expect(await storage.streams.load()).to.deep.equal([])
    await forSeveral(storage)
    await reopen()
    await forOne(storage, () => Promise.reject(new Error('nothing is on its way')))
    expect(isOfSeveral(storage)).to.equal(false)
    const [stream, ...others] = await storage.streams.load()
    expect(others).to.deep.equal([])
    expect(stream).to.deep.include({ id: 's1', owner: JULIET, resource: 'balcony', state: { carbons: true }, handled: 7, acknowledged: 2 })
    expect(stream?.unacknowledged.map(({ seq, bytes }) => [seq, bytes.toString()])).to.deep.equal([[3, 'stanza 3'], [4, 'stanza 4']])
    for (const [table, key, value] of ROWS) expect(await storage.records.get(table, key), table).to.equal(value)
    for (const kind of ['q', 'k', 'f']) expect(storage.rows.keys(kind, `${kind}\xff`, 10, false)).to.deep.equal([])
    expect(await storage.records.range('spread', [])).to.deep.equal([])
  })

  it('brings what is on its way where it belongs first', async () => {
    await forSeveral(storage)
    storage.rows.put('l1-abc\0', Buffer.from('record'))
    let finished = 0
    await forOne(storage, async () => {
      finished++
      storage.rows.delete('l1-abc\0')
    })
    expect(finished).to.equal(1)
  })
})
