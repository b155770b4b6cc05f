/**
 * Accounts of the hosts. Passwords are never stored: for each hash of SCRAM there is a salt with the two keys of RFC 5802,
 * from which no password can be had. Table `accounts`, key [host, localpart].
 */
import { randomBytes, timingSafeEqual } from 'node:crypto'
import { Jid } from '../../lib/jid.ts'
import { makeDecoyKeys, makeScramKeys, prepareSecret, SCRAM_HASHES, type ScramHash, type ScramKeys } from '../../lib/sasl/scram-keys.ts'
import { type Key, type MaybePromise, type Records, type Value } from '../storage/shapes.ts'

export type { ScramHash, ScramKeys }

export type AccountProblem = 'conflict' | 'not-acceptable' | 'item-not-found'

/** Why an account could not be made or changed; the names are those of the stanza errors to answer with. */
export class AccountError extends Error {
  readonly condition: AccountProblem
  constructor(condition: AccountProblem, message: string = condition) {
    super(message)
    this.name = 'AccountError'
    this.condition = condition
  }
}

export interface Accounts {
  exists(bare: string): MaybePromise<boolean>
  /** Throws an AccountError: `conflict` when the account exists, `not-acceptable` for a name or password that cannot be. */
  register(bare: string, password: string): Promise<void>
  /** Removes the account itself; nothing happens when there is none. What belongs to it is removed by the caller's hooks. */
  unregister(bare: string): Promise<void>
  /** Throws an AccountError: `item-not-found` without an account, `not-acceptable` for a password that cannot be. */
  setPassword(bare: string, password: string): Promise<void>
  /** Takes as long for an account that does not exist. */
  checkPassword(bare: string, password: string): Promise<boolean>
  scramKeys(bare: string, hash: ScramHash): MaybePromise<ScramKeys | undefined>
  /** Keys to show to one who tries an account that does not exist; the same each time, also after a restart. */
  decoyKeys?(bare: string, hash: ScramHash): MaybePromise<ScramKeys>
  /** Localparts of a host's accounts, in order. */
  list(host: string): MaybePromise<readonly string[]>
  count(host: string): MaybePromise<number>
}

export interface AccountsOptions {
  /** PBKDF2 rounds for new passwords. */
  readonly iterations?: number
  /** Accounts whose keys are kept in memory. */
  readonly cachedMax?: number
  readonly now?: () => number
}

/** As ejabberd. */
const ITERATIONS_DEFAULT = 4096
const CACHED_MAX_DEFAULT = 20_000
/** Leaves the keys of every table, which hold at least host and localpart, well below the limit of the store. */
const LOCAL_BYTES_MAX = 512
const PASSWORD_BYTES_MAX = 1024
const TABLE = 'accounts'
const SECRETS = 'account-secrets'
const PAGE = 500

interface Account {
  readonly created: number
  readonly keys: Readonly<Record<ScramHash, ScramKeys>>
}

export function createAccounts(records: Records, options: AccountsOptions = {}): Accounts {
  return new StoredAccounts(records, options)
}

class StoredAccounts implements Accounts {
  private readonly records: Records
  private readonly iterations: number
  private readonly cachedMax: number
  private readonly now: () => number
  /** Accounts lately used, the latest last. */
  private readonly cache = new Map<string, Account>()
  /** Moves with every change, so that a read begun before it is not cached after it. */
  private changes = 0
  /** Accounts being made, whose keys are being derived. */
  private readonly registering = new Set<string>()
  private readonly counts = new Map<string, number>()
  private readonly secrets = new Map<string, Buffer>()

  constructor(records: Records, options: AccountsOptions) {
    this.records = records
    this.iterations = options.iterations ?? ITERATIONS_DEFAULT
    this.cachedMax = options.cachedMax ?? CACHED_MAX_DEFAULT
    this.now = options.now ?? Date.now
  }

  exists(bare: string): MaybePromise<boolean> {
    return then(this.find(bare), (account) => account !== undefined)
  }

  async register(bare: string, password: string): Promise<void> {
    const key = keyOf(bare)
    if (key === undefined) throw new AccountError('not-acceptable', 'This name cannot be an account')
    const secret = acceptable(password)
    const exists = (await this.find(bare)) !== undefined
    if (exists || this.registering.has(bare)) throw new AccountError('conflict')
    this.registering.add(bare)
    try {
      const keys = await this.makeKeys(secret)
      this.write(bare, key, { created: this.now(), keys })
      const [host] = key as [string]
      const count = this.counts.get(host)
      if (count !== undefined) this.counts.set(host, count + 1)
    } finally {
      this.registering.delete(bare)
    }
  }

  async unregister(bare: string): Promise<void> {
    const key = keyOf(bare)
    if (key === undefined || (await this.find(bare)) === undefined) return
    this.changes++
    this.cache.delete(bare)
    this.records.delete(TABLE, key)
    this.counts.delete(key[0] as string)
  }

  async setPassword(bare: string, password: string): Promise<void> {
    const key = keyOf(bare)
    if (key === undefined) throw new AccountError('item-not-found')
    const secret = acceptable(password)
    if ((await this.find(bare)) === undefined) throw new AccountError('item-not-found')
    const keys = await this.makeKeys(secret)
    // The account may have been removed meanwhile.
    const account = await this.find(bare)
    if (account === undefined) throw new AccountError('item-not-found')
    this.write(bare, key, { created: account.created, keys })
  }

  async checkPassword(bare: string, password: string): Promise<boolean> {
    const account = await this.find(bare)
    const known = account?.keys['SHA-256'] ?? (await this.decoyKeys(bare, 'SHA-256'))
    const secret = Buffer.byteLength(password) > PASSWORD_BYTES_MAX ? undefined : prepareSecret(password)
    const given = await makeScramKeys('SHA-256', secret ?? ' ', known.iterations, known.salt)
    return timingSafeEqual(given.storedKey, known.storedKey) && account !== undefined && secret !== undefined
  }

  scramKeys(bare: string, hash: ScramHash): MaybePromise<ScramKeys | undefined> {
    return then(this.find(bare), (account) => account?.keys[hash])
  }

  decoyKeys(bare: string, hash: ScramHash): MaybePromise<ScramKeys> {
    const host = bare.slice(bare.lastIndexOf('@') + 1)
    return then(this.secretOf(host), (secret) => makeDecoyKeys(hash, secret, bare, this.iterations))
  }

  async list(host: string): Promise<readonly string[]> {
    const names: string[] = []
    let after: Key | undefined
    for (;;) {
      const page = await this.records.range(TABLE, [host], after === undefined ? { limit: PAGE } : { limit: PAGE, after })
      for (const { key } of page) names.push(key[1] as string)
      const last = page.at(-1)
      if (last === undefined || page.length < PAGE) return names
      after = last.key
      // Stanzas are served between the pages.
      await new Promise((resolve) => setImmediate(resolve))
    }
  }

  count(host: string): MaybePromise<number> {
    const known = this.counts.get(host)
    if (known !== undefined) return known
    const { changes } = this
    return this.list(host).then((names) => {
      if (changes === this.changes && this.counts.size < 1000) this.counts.set(host, names.length)
      return names.length
    })
  }

  private find(bare: string): MaybePromise<Account | undefined> {
    const cached = this.cache.get(bare)
    if (cached !== undefined) {
      this.cache.delete(bare)
      this.cache.set(bare, cached)
      return cached
    }
    const key = keyOf(bare)
    if (key === undefined) return undefined
    const { changes } = this
    return then(this.records.get(TABLE, key), (value) => {
      if (value === undefined) return undefined
      const account = readAccount(value)
      if (changes === this.changes) this.remember(bare, account)
      return account
    })
  }

  private remember(bare: string, account: Account): void {
    if (this.cache.size >= this.cachedMax) {
      const { value } = this.cache.keys().next()
      if (value !== undefined) this.cache.delete(value)
    }
    this.cache.set(bare, account)
  }

  private write(bare: string, key: Key, account: Account): void {
    this.changes++
    this.cache.delete(bare)
    this.records.put(TABLE, key, writeAccount(account))
    this.remember(bare, account)
  }

  private async makeKeys(secret: string): Promise<Record<ScramHash, ScramKeys>> {
    const [sha1, sha256, sha512] = await Promise.all(SCRAM_HASHES.map((hash) => makeScramKeys(hash, secret, this.iterations)))
    return { 'SHA-1': sha1 as ScramKeys, 'SHA-256': sha256 as ScramKeys, 'SHA-512': sha512 as ScramKeys }
  }

  private secretOf(host: string): MaybePromise<Buffer> {
    const known = this.secrets.get(host)
    if (known !== undefined) return known
    return then(this.records.get(SECRETS, [host, 'decoy']), (stored) => {
      // Another look-up may have been faster.
      const secret = this.secrets.get(host) ?? (stored === undefined ? randomBytes(32) : bytes(stored))
      if (stored === undefined && !this.secrets.has(host)) this.records.put(SECRETS, [host, 'decoy'], secret)
      this.secrets.set(host, secret)
      return secret
    })
  }
}

function then<A, B>(value: MaybePromise<A>, next: (value: A) => B): MaybePromise<B> {
  return value instanceof Promise ? value.then(next) : next(value)
}

/** The key of a prepared bare JID, or undefined when it cannot be an account. */
function keyOf(bare: string): Key | undefined {
  const jid = Jid.tryParse(bare)
  if (jid === undefined || jid.local === '' || jid.toString() !== bare || jid.resource !== '') return undefined
  if (Buffer.byteLength(jid.local) > LOCAL_BYTES_MAX) return undefined
  return [jid.domain, jid.local]
}

function acceptable(password: string): string {
  const secret = Buffer.byteLength(password) > PASSWORD_BYTES_MAX ? undefined : prepareSecret(password)
  if (secret === undefined) throw new AccountError('not-acceptable', 'This password cannot be used')
  return secret
}

function writeAccount(account: Account): Value {
  const keys = SCRAM_HASHES.map((hash) => {
    const { salt, iterations, storedKey, serverKey } = account.keys[hash]
    return [hash, { salt, iterations, storedKey, serverKey }] as const
  })
  return { created: account.created, keys: Object.fromEntries(keys) }
}

function readAccount(value: Value): Account {
  const account = value as { created: number; keys: Record<ScramHash, { [key: string]: Value }> }
  const read = (hash: ScramHash): ScramKeys => {
    const keys = account.keys[hash]
    return {
      salt: bytes(keys['salt']),
      iterations: keys['iterations'] as number,
      storedKey: bytes(keys['storedKey']),
      serverKey: bytes(keys['serverKey']),
    }
  }
  return { created: account.created, keys: { 'SHA-1': read('SHA-1'), 'SHA-256': read('SHA-256'), 'SHA-512': read('SHA-512') } }
}

/** A copy: the store may lend its own memory. */
function bytes(value: Value | undefined): Buffer {
  if (!(value instanceof Uint8Array)) throw new Error('An account in storage is damaged')
  return Buffer.from(value)
}
