import { expect } from 'chai'
import { type Records, type Value } from '../storage/shapes.ts'
import { AccountError, createAccounts } from './accounts.ts'

/** Records in a map, sorted when read; `slow` answers with promises as a distributed store does. */
function fakeRecords(slow = false): Records & { rows: Map<string, Value>; reads: number } {
  const rows = new Map<string, Value>()
  const answer = <T>(value: T): T | Promise<T> => (slow ? new Promise((resolve) => setImmediate(() => resolve(value))) : value)
  const name = (table: string, key: readonly string[]): string => JSON.stringify([table, ...key])
  const records = {
    rows,
    reads: 0,
    get(table: string, key: readonly string[]) {
      records.reads++
      return answer(rows.get(name(table, key)))
    },
    put: (table: string, key: readonly string[], value: Value) => void rows.set(name(table, key), value),
    delete: (table: string, key: readonly string[]) => void rows.delete(name(table, key)),
    range(table: string, prefix: readonly string[], options: { after?: readonly string[]; limit?: number } = {}) {
      const found = [...rows]
        .map(([text, value]) => ({ key: JSON.parse(text) as string[], value }))
        .filter(({ key }) => key[0] === table && prefix.every((part, i) => key[i + 1] === part))
        .map(({ key, value }) => ({ key: key.slice(1), value }))
        .sort((a, b) => (a.key.join('\0') < b.key.join('\0') ? -1 : 1))
        .filter(({ key }) => options.after === undefined || key.join('\0') > options.after.join('\0'))
      return answer(found.slice(0, options.limit))
    },
    deleteRange: () => undefined,
  }
  return records
}

async function conditionOf(run: Promise<void>): Promise<string> {
  try {
    await run
    return 'done'
  } catch (error) {
    if (error instanceof AccountError) return error.condition
    throw error
  }
}

const options = { iterations: 32 }

for (const slow of [false, true]) {
  describe(`accounts over ${slow ? 'slow' : 'embedded'} records`, () => {
    it('what is written alongside a new account is written in the same turn, and may refuse it', async () => {
    const records = fakeRecords()
    const order: string[] = []
    const put = records.put.bind(records)
    records.put = (table, key, value) => {
      order.push(table)
      // Between the two nothing else runs.
      queueMicrotask(() => order.push('turn'))
      put(table, key, value)
    }
    const accounts = createAccounts(records, { iterations: 1 })
    await accounts.register('juliet@example.net', 'secret', () => records.put('invites', ['example.net', 'hash'], true))
    expect(order.slice(0, 2)).to.deep.equal(['invites', 'accounts'])
    const refused = await accounts.register('romeo@example.net', 'secret', () => { throw new Error('used') }).catch((error: Error) => error.message)
    expect(refused).to.equal('used')
    expect(await accounts.exists('romeo@example.net')).to.equal(false)
    await accounts.register('romeo@example.net', 'secret')
  })

  it('registers, checks, changes and removes', async () => {
      const accounts = createAccounts(fakeRecords(slow), options)
      expect(await accounts.exists('a@x')).to.equal(false)
      await accounts.register('a@x', 'secret')
      expect(await accounts.exists('a@x')).to.equal(true)
      expect(await accounts.exists('a@y')).to.equal(false)
      expect(await accounts.checkPassword('a@x', 'secret')).to.equal(true)
      expect(await accounts.checkPassword('a@x', 'Secret')).to.equal(false)
      expect(await accounts.checkPassword('a@x', '')).to.equal(false)
      await accounts.setPassword('a@x', 'other')
      expect(await accounts.checkPassword('a@x', 'secret')).to.equal(false)
      expect(await accounts.checkPassword('a@x', 'other')).to.equal(true)
      await accounts.unregister('a@x')
      expect(await accounts.exists('a@x')).to.equal(false)
      expect(await accounts.checkPassword('a@x', 'other')).to.equal(false)
      expect(await accounts.scramKeys('a@x', 'SHA-1')).to.equal(undefined)
      await accounts.unregister('a@x')
    })

    it('registers a name once, also when asked twice at a time', async () => {
      const accounts = createAccounts(fakeRecords(slow), options)
      const outcomes = await Promise.all([conditionOf(accounts.register('a@x', 'one')), conditionOf(accounts.register('a@x', 'two'))])
      expect(outcomes.sort()).to.deep.equal(['conflict', 'done'])
      expect(await conditionOf(accounts.register('a@x', 'three'))).to.equal('conflict')
      await accounts.unregister('a@x')
      expect(await conditionOf(accounts.register('a@x', 'three'))).to.equal('done')
    })

    it('lists and counts by host', async () => {
      const accounts = createAccounts(fakeRecords(slow), options)
      expect(await accounts.count('x')).to.equal(0)
      for (const bare of ['c@x', 'a@x', 'b@y']) await accounts.register(bare, 'p')
      expect(await accounts.list('x')).to.deep.equal(['a', 'c'])
      expect(await accounts.count('x')).to.equal(2)
      await accounts.unregister('a@x')
      expect(await accounts.count('x')).to.equal(1)
      expect(await accounts.count('y')).to.equal(1)
      expect(await accounts.count('z')).to.equal(0)
    })
  })
}

describe('accounts', () => {
  it('refuse names and passwords that cannot be', async () => {
    const accounts = createAccounts(fakeRecords(), options)
    for (const bare of ['x', '', '@x', 'a@x/r', 'A@x', 'a b@x', `${'a'.repeat(513)}@x`]) {
      expect(await conditionOf(accounts.register(bare, 'p')), bare).to.equal('not-acceptable')
    }
    for (const password of ['', '\u0007', '\u00ad', 'x'.repeat(1025)]) {
      expect(await conditionOf(accounts.register('a@x', password))).to.equal('not-acceptable')
    }
    expect(await conditionOf(accounts.register('a@x', '🐎🔋 staple'))).to.equal('done')
    expect(await conditionOf(accounts.setPassword('a@x', ''))).to.equal('not-acceptable')
    expect(await conditionOf(accounts.setPassword('b@x', 'p'))).to.equal('item-not-found')
    expect(await accounts.exists('constructor@x')).to.equal(false)
  })

  it('keep keys of every hash and no password', async () => {
    const records = fakeRecords()
    const accounts = createAccounts(records, options)
    await accounts.register('a@x', 'my secret')
    const salts = new Set<string>()
    for (const [hash, size] of [['SHA-1', 20], ['SHA-256', 32], ['SHA-512', 64]] as const) {
      const keys = await accounts.scramKeys('a@x', hash)
      expect([keys?.iterations, keys?.storedKey.length, keys?.serverKey.length, keys?.salt.length]).to.deep.equal([32, size, size, 16])
      salts.add(keys?.salt.toString('hex') ?? '')
    }
    expect(salts.size).to.equal(3)
    expect(JSON.stringify([...records.rows])).not.to.include('my secret')
  })

  it('outlive the process', async () => {
    const records = fakeRecords()
    await createAccounts(records, options).register('a@x', 'p')
    const again = createAccounts(records, { iterations: 99 })
    expect(await again.checkPassword('a@x', 'p')).to.equal(true)
    expect((await again.scramKeys('a@x', 'SHA-256'))?.iterations).to.equal(32)
  })

  it('show the same decoy keys after a restart, other ones for another name', async () => {
    const records = fakeRecords()
    const salt = async (bare: string): Promise<string | undefined> => (await createAccounts(records, options).decoyKeys?.(bare, 'SHA-1'))?.salt.toString('hex')
    expect(await salt('a@x')).to.match(/^[0-9a-f]{32}$/)
    expect(await salt('a@x')).to.equal(await salt('a@x'))
    expect(await salt('a@x')).not.to.equal(await salt('b@x'))
    expect(await salt('a@x')).not.to.equal(await salt('a@y'))
  })

  it('read storage once for an account in use, and forget those long unused', async () => {
    const records = fakeRecords()
    const writer = createAccounts(records, options)
    for (const bare of ['a@x', 'b@x', 'c@x']) await writer.register(bare, 'p')
    const accounts = createAccounts(records, { ...options, cachedMax: 2 })
    records.reads = 0
    for (const bare of ['a@x', 'b@x', 'a@x', 'c@x', 'a@x']) await accounts.exists(bare)
    expect(records.reads).to.equal(3)
    await accounts.exists('b@x')
    expect(records.reads).to.equal(4)
  })
})
