/**
 * Accounts of the hosts. Passwords are never stored: for each hash of SCRAM there is a salt with the two keys of RFC 5802,
 * from which no password can be had. Table `accounts`, key [host, localpart].
 */
import { randomBytes, timingSafeEqual } from 'node:crypto'
import { Jid } from '../../lib/jid.ts'
import { Recent } from '../../lib/recent.ts'
import { hmac, makeDecoyKeys, makeScramKeys, prepareSecret, SCRAM_HASHES, type ScramHash, type ScramKeys } from '../../lib/sasl/scram-keys.ts'
import { type Key, type MaybePromise, type Records, type Value } from '../storage/shapes.ts'

export type { ScramHash, ScramKeys }
export type ScramKeySet = Readonly<Partial<Record<ScramHash, ScramKeys>>>

export type AccountProblem = 'conflict' | 'not-acceptable' | 'item-not-found' | 'not-allowed' | 'resource-constraint'

/** Why an account could not be made or changed; the names are those of the stanza errors to answer with. */
export class AccountError extends Error {
  readonly condition: AccountProblem
  constructor(condition: AccountProblem, message: string = condition) {
    super(message)
    this.name = 'AccountError'
    this.condition = condition
  }
}

/** Why nobody can log in to an account for now (XEP-0133 §4.3). */
export interface Disabled {
  /** Since when, ms. */
  readonly at: number
  readonly reason: string
}

/** What changes an account resolves when the change is on stable storage. */
export interface Accounts {
  exists(bare: string): MaybePromise<boolean>
  /**
   * Throws an AccountError: `conflict` when the account exists, `not-acceptable` for a name or password that cannot be, `not-allowed` where
   * accounts are kept elsewhere, `resource-constraint` when these cannot be asked for now. What is kept of
   * a password will do in its place, for accounts that come from another server. `alongside` is called in the turn in which the account
   * is written; when it throws, there is none.
   */
  register(bare: string, password: string | ScramKeySet, alongside?: () => void): Promise<void>
  /**
   * Makes an account that has no password here, whose owner logs in otherwise; nothing happens when it exists. `hashes`, `alongside`: see `keptElsewhere`, `register`.
   * Throws an AccountError as `register`. Written in this turn, when nobody else is making it.
   */
  registerWithoutPassword(bare: string, hashes?: readonly ScramHash[], alongside?: () => void): Promise<void>
  /** Somebody else keeps the keys of the account, for these hashes; what there is of keys here goes. Nothing happens without an account. */
  keptElsewhere(bare: string, hashes: readonly ScramHash[]): Promise<void>
  /** Removes the account itself; nothing happens when there is none. What belongs to it is removed by the caller's hooks. */
  unregister(bare: string): Promise<void>
  /** Throws an AccountError: `item-not-found` without an account, `not-acceptable` for a password that cannot be, `not-allowed` when it is kept elsewhere. */
  setPassword(bare: string, password: string | ScramKeySet): Promise<void>
  /** What would be kept of this password. Throws an AccountError, `not-acceptable`, for one that cannot be. */
  keysFor(bare: string, password: string): Promise<ScramKeySet>
  /** Keys in place of those there are; the account is made when there is none. Throws an AccountError as `register`. */
  putKeys(bare: string, keys: ScramKeySet): Promise<void>
  /**
   * Lets nobody log in to the account until it is enabled again; all that belongs to it stays. Throws an AccountError: `item-not-found`
   * without an account.
   */
  disable(bare: string, reason: string): Promise<void>
  /** Whether it was disabled. */
  enable(bare: string): Promise<boolean>
  disabled(bare: string): MaybePromise<Disabled | undefined>
  /** Localparts of a host's disabled accounts, in order. */
  listDisabled(host: string): Promise<readonly string[]>
  /** Takes as long for an account that does not exist. */
  checkPassword(bare: string, password: string): Promise<boolean>
  scramKeys(bare: string, hash: ScramHash): MaybePromise<ScramKeys | undefined>
  /** Hashes for which there are keys; undefined when the account does not exist. */
  hashes(bare: string): MaybePromise<readonly ScramHash[] | undefined>
  /**
   * Adds the keys of a hash that has none; nothing happens when it has, or the account is gone. Throws an AccountError: `conflict` when the password
   * is not the one that had this mark.
   */
  addKeys(bare: string, hash: ScramHash, keys: ScramKeys, mark?: string): Promise<void>
  /** Another text after each change of the password, from which nothing can be learnt of it; undefined when there is none. */
  passwordMark(bare: string): MaybePromise<string | undefined>
  /** Keys to show to one who tries an account that does not exist; the same each time, also after a restart. */
  decoyKeys?(bare: string, hash: ScramHash): MaybePromise<ScramKeys>
  /** Localparts of a host's accounts, in order. */
  list(host: string): MaybePromise<readonly string[]>
  /** The same after one of them, at most so many at a time. */
  pages(host: string, after?: string, size?: number): AsyncIterable<readonly string[]>
  count(host: string): MaybePromise<number>
  /** Has what is in memory of an account read anew. */
  forget(bare: string): void
}

export interface AccountsOptions {
  /** PBKDF2 rounds for new passwords. */
  readonly iterations?: number
  /** Accounts of which is kept in memory that they exist. */
  readonly cachedMax?: number
  readonly now?: () => number
  /** Resolves when what was written is on stable storage; at once when left out. */
  readonly committed?: () => Promise<void>
  /** The password of this account is not the one it was, or the account is gone; called in the turn in which that is written. */
  readonly passwordGone?: (bare: string) => void
  /** Nobody may be logged in to this account; called in the turn in which that is written. */
  readonly accountDisabled?: (bare: string, reason: string) => void
  /** Hashes for which new passwords of a host are kept; all when left out. */
  readonly hashesOf?: (host: string) => readonly ScramHash[]
}

/** As ejabberd. */
const ITERATIONS_DEFAULT = 4096
const CACHED_MAX_DEFAULT = 20_000
/** Leaves the keys of every table, which hold at least host and localpart, well below the limit of the store. */
const LOCAL_BYTES_MAX = 512
const PASSWORD_BYTES_MAX = 1024
/** Of which keys a password in the clear is checked: the quickest of those without known weakness first. */
const PREFERRED: readonly ScramHash[] = ['SHA-256', 'SHA-512', 'SHA-1']
const TABLE = 'accounts'
const DISABLED = 'disabled-accounts'
const REASON_LENGTH_MAX = 1000
const SECRETS = 'account-secrets'
const PAGE = 500

interface Account {
  readonly created: number
  readonly keys: Readonly<Partial<Record<ScramHash, ScramKeys>>>
  /** Hashes for which somebody else keeps keys. */
  readonly elsewhere?: readonly ScramHash[]
}

/** The accounts kept in these records, as a plain object, so that a spread can replace some of its functions. */
export function createAccounts(records: Records, options: AccountsOptions = {}): Accounts {
  const iterations = options.iterations ?? ITERATIONS_DEFAULT
  const cachedMax = options.cachedMax ?? CACHED_MAX_DEFAULT
  const now = options.now ?? Date.now
  const committed = options.committed ?? (() => Promise.resolve())
  const hashesOf = options.hashesOf ?? (() => SCRAM_HASHES)
  const passwordGone = options.passwordGone ?? (() => undefined)
  const accountDisabled = options.accountDisabled ?? (() => undefined)
  /** Accounts that exist, with the hashes they have; the keys are needed at a login alone, and read from storage. */
  const known = new Recent<readonly ScramHash[]>(cachedMax)
  /** Moves with every change, so that a read begun before it is not remembered after it. */
  let changes = 0
  /** Accounts being made, whose keys are being derived. */
  const registering = new Set<string>()
  const counts = new Map<string, number>()
  const secrets = new Map<string, Buffer>()

  function exists(bare: string): MaybePromise<boolean> {
    return known.get(bare) !== undefined || then(find(bare), (account) => account !== undefined)
  }

  async function register(bare: string, password: string | ScramKeySet, alongside?: () => void): Promise<void> {
    const key = keyOf(bare)
    if (key === undefined) throw new AccountError('not-acceptable', 'This name cannot be an account')
    const secret = typeof password === 'string' ? acceptable(password) : password
    const taken = (await find(bare)) !== undefined
    if (taken || registering.has(bare)) throw new AccountError('conflict')
    registering.add(bare)
    try {
      const [host] = key as [string]
      const keys = typeof secret === 'string' ? await makeKeys(secret, hashesOf(host)) : secret
      alongside?.()
      write(bare, key, { created: now(), keys })
      const count = counts.get(host)
      if (count !== undefined) counts.set(host, count + 1)
    } finally {
      registering.delete(bare)
    }
    await committed()
  }

  async function registerWithoutPassword(bare: string, hashes: readonly ScramHash[] = [], alongside?: () => void): Promise<void> {
    const key = keyOf(bare)
    if (key === undefined) throw new AccountError('not-acceptable', 'This name cannot be an account')
    const found = find(bare)
    if ((found instanceof Promise ? await found : found) !== undefined || registering.has(bare)) return
    alongside?.()
    write(bare, key, { created: now(), keys: {}, elsewhere: hashes })
    counts.delete(key[0] as string)
    await committed()
  }

  async function keptElsewhere(bare: string, hashes: readonly ScramHash[]): Promise<void> {
    const key = keyOf(bare)
    const found = find(bare)
    const account = found instanceof Promise ? await found : found
    if (key === undefined || account === undefined) return
    if (Object.keys(account.keys).length === 0 && hashesIn(account).join() === hashes.join()) return
    write(bare, key, { created: account.created, keys: {}, elsewhere: hashes })
    await committed()
  }

  async function putKeys(bare: string, keys: ScramKeySet): Promise<void> {
    const key = keyOf(bare)
    if (key === undefined) throw new AccountError('not-acceptable', 'This name cannot be an account')
    const found = find(bare)
    const account = found instanceof Promise ? await found : found
    write(bare, key, { created: account?.created ?? now(), keys })
    if (account === undefined) counts.delete(key[0] as string)
    else passwordGone(bare)
    await committed()
  }

  async function unregister(bare: string): Promise<void> {
    const key = keyOf(bare)
    if (key === undefined || (await find(bare)) === undefined) return
    changes++
    known.delete(bare)
    records.delete(TABLE, key)
    records.delete(DISABLED, key)
    passwordGone(bare)
    counts.delete(key[0] as string)
    await committed()
  }

  async function keysFor(bare: string, password: string): Promise<ScramKeySet> {
    const secret = acceptable(password)
    return makeKeys(secret, hashesOf(bare.slice(bare.lastIndexOf('@') + 1)))
  }

  async function setPassword(bare: string, password: string | ScramKeySet): Promise<void> {
    const key = keyOf(bare)
    if (key === undefined) throw new AccountError('item-not-found')
    const secret = typeof password === 'string' ? acceptable(password) : password
    if ((await find(bare)) === undefined) throw new AccountError('item-not-found')
    const keys = typeof secret === 'string' ? await makeKeys(secret, hashesOf(key[0] as string)) : secret
    // The account may have been removed meanwhile.
    const account = await find(bare)
    if (account === undefined) throw new AccountError('item-not-found')
    write(bare, key, { created: account.created, keys })
    passwordGone(bare)
    await committed()
  }

  async function disable(bare: string, reason: string): Promise<void> {
    const key = keyOf(bare)
    const found = find(bare)
    // Without a wait where there is none: the account is there when this is written.
    const account = found instanceof Promise ? await found : found
    if (key === undefined || account === undefined) throw new AccountError('item-not-found')
    records.put(DISABLED, key, { at: now(), reason: reason.slice(0, REASON_LENGTH_MAX) })
    accountDisabled(bare, reason)
    await committed()
  }

  async function enable(bare: string): Promise<boolean> {
    const key = keyOf(bare)
    if (key === undefined || (await disabled(bare)) === undefined) return false
    records.delete(DISABLED, key)
    await committed()
    return true
  }

  function disabled(bare: string): MaybePromise<Disabled | undefined> {
    const key = keyOf(bare)
    return key === undefined ? undefined : then(records.get(DISABLED, key), (value) => value as Disabled | undefined)
  }

  async function checkPassword(bare: string, password: string): Promise<boolean> {
    const account = await find(bare)
    const hash = (account && PREFERRED.find((each) => account.keys[each] !== undefined)) ?? 'SHA-256'
    const keys = account?.keys[hash] ?? (await decoyKeys(bare, hash))
    const secret = Buffer.byteLength(password) > PASSWORD_BYTES_MAX ? undefined : prepareSecret(password)
    const given = await makeScramKeys(hash, secret ?? ' ', keys.iterations, keys.salt)
    return timingSafeEqual(given.storedKey, keys.storedKey) && account !== undefined && secret !== undefined
  }

  function scramKeys(bare: string, hash: ScramHash): MaybePromise<ScramKeys | undefined> {
    return then(find(bare), (account) => account?.keys[hash])
  }

  function hashes(bare: string): MaybePromise<readonly ScramHash[] | undefined> {
    return known.get(bare) ?? then(find(bare), (account) => account && hashesIn(account))
  }

  async function addKeys(bare: string, hash: ScramHash, keys: ScramKeys, mark?: string): Promise<void> {
    const key = keyOf(bare)
    const secret = await secretOf(hostOf(bare))
    const found = find(bare)
    // Without a wait where there is none: what is read is what is replaced.
    const account = found instanceof Promise ? await found : found
    if (mark !== undefined && account !== undefined && markOf(account, secret, mark.split(' ')[0] as ScramHash) !== mark) throw new AccountError('conflict', 'The password has been changed')
    if (key === undefined || account === undefined || account.keys[hash] !== undefined) return
    write(bare, key, { created: account.created, keys: { ...account.keys, [hash]: keys } })
    await committed()
  }

  async function passwordMark(bare: string): Promise<string | undefined> {
    const account = await find(bare)
    return account && markOf(account, await secretOf(hostOf(bare)))
  }

  function decoyKeys(bare: string, hash: ScramHash): MaybePromise<ScramKeys> {
    return then(secretOf(hostOf(bare)), (secret) => makeDecoyKeys(hash, secret, bare, iterations))
  }

  const list = (host: string): Promise<readonly string[]> => localparts(TABLE, host)
  const listDisabled = (host: string): Promise<readonly string[]> => localparts(DISABLED, host)

  async function localparts(table: string, host: string): Promise<readonly string[]> {
    const names: string[] = []
    for await (const page of pagesOf(table, host)) names.push(...page)
    return names
  }

  async function* pagesOf(table: string, host: string, from = '', size = PAGE): AsyncGenerator<readonly string[]> {
    let after: Key | undefined = from === '' ? undefined : [host, from]
    for (;;) {
      const page: readonly { readonly key: Key }[] = await records.range(table, [host], after === undefined ? { limit: size } : { limit: size, after })
      if (page.length > 0) yield page.map(({ key }) => key[1] as string)
      if (page.length < size) return
      after = page.at(-1)?.key
      // Stanzas are served between the pages.
      await new Promise((resolve) => setImmediate(resolve))
    }
  }

  function forget(bare: string): void {
    changes++
    known.delete(bare)
  }

  function count(host: string): MaybePromise<number> {
    const counted = counts.get(host)
    if (counted !== undefined) return counted
    const before = changes
    return list(host).then((names) => {
      if (before === changes && counts.size < 1000) counts.set(host, names.length)
      return names.length
    })
  }

  function find(bare: string): MaybePromise<Account | undefined> {
    const key = keyOf(bare)
    if (key === undefined) return undefined
    const before = changes
    return then(records.get(TABLE, key), (value) => {
      if (value === undefined) return undefined
      const account = readAccount(value)
      if (before === changes) known.set(bare, hashesIn(account))
      return account
    })
  }

  function write(bare: string, key: Key, account: Account): void {
    changes++
    records.put(TABLE, key, writeAccount(account))
    known.set(bare, hashesIn(account))
  }

  async function makeKeys(secret: string, wanted: readonly ScramHash[]): Promise<Account['keys']> {
    return Object.fromEntries(await Promise.all(wanted.map(async (hash) => [hash, await makeScramKeys(hash, secret, iterations)] as const)))
  }

  function secretOf(host: string): MaybePromise<Buffer> {
    const present = secrets.get(host)
    if (present !== undefined) return present
    return then(records.get(SECRETS, [host, 'decoy']), (stored) => {
      // Another look-up may have been faster.
      const secret = secrets.get(host) ?? (stored === undefined ? randomBytes(32) : bytes(stored))
      if (stored === undefined && !secrets.has(host)) records.put(SECRETS, [host, 'decoy'], secret)
      secrets.set(host, secret)
      return secret
    })
  }

  return { exists, register, registerWithoutPassword, keptElsewhere, unregister, setPassword, putKeys, keysFor, disable, enable, disabled, listDisabled, checkPassword, scramKeys, hashes, addKeys, passwordMark, decoyKeys, list, pages: (host, after, size) => pagesOf(TABLE, host, after, size), count, forget }
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

function hashesIn({ keys, elsewhere }: Account): readonly ScramHash[] {
  if (elsewhere !== undefined && Object.keys(keys).length === 0) return elsewhere
  return keys['SHA-1'] && keys['SHA-256'] && keys['SHA-512'] ? SCRAM_HASHES : SCRAM_HASHES.filter((hash) => keys[hash] !== undefined)
}

/** By the keys of one hash, which stay when those of others are added. */
function markOf({ keys }: Account, secret: Buffer, hash = SCRAM_HASHES.find((each) => keys[each] !== undefined)): string | undefined {
  const kept = hash && keys[hash]
  return kept && `${hash} ${hmac('SHA-256', secret, Buffer.concat([Buffer.from(`mark ${hash} `), kept.storedKey])).toString('base64url')}`
}

function hostOf(bare: string): string { return bare.slice(bare.lastIndexOf('@') + 1) }

function writeAccount(account: Account): Value {
  const keys = Object.entries(account.keys).map(([hash, { salt, iterations, storedKey, serverKey }]) => [hash, { salt, iterations, storedKey, serverKey }] as const)
  return { created: account.created, keys: Object.fromEntries(keys), ...(account.elsewhere === undefined || account.elsewhere.length === 0 ? {} : { elsewhere: account.elsewhere }) }
}

function readAccount(value: Value): Account {
  const account = value as { created: number; elsewhere?: readonly ScramHash[]; keys: Partial<Record<ScramHash, { [key: string]: Value }>> }
  const found: Partial<Record<ScramHash, ScramKeys>> = {}
  for (const hash of SCRAM_HASHES) {
    const keys = account.keys[hash]
    if (keys !== undefined) found[hash] = { salt: bytes(keys['salt']), iterations: keys['iterations'] as number, storedKey: bytes(keys['storedKey']), serverKey: bytes(keys['serverKey']) }
  }
  return { created: account.created, keys: found, ...(account.elsewhere === undefined ? {} : { elsewhere: account.elsewhere }) }
}

/** A copy: the store may lend its own memory. */
function bytes(value: Value | undefined): Buffer {
  if (!(value instanceof Uint8Array)) throw new Error('An account in storage is damaged')
  return Buffer.from(value)
}
