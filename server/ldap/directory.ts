/**
 * The accounts of a host that are those of somebody else's directory (ejabberd's `auth_method: ldap`): which of them are used here, and whether
 * they are still there. Passwords stay where they are.
 */
import { Recent } from '../../lib/recent.ts'
import { Budgets } from '../accounts/login-limits.ts'
import type { Limits } from '../config/limits.ts'
import type { Log } from '../log.ts'
import type { Records } from '../storage/shapes.ts'
import { LdapUnavailable } from './pool.ts'
import type { DirectoryUser, DirectoryUsers } from './users.ts'

export interface DirectoryOptions {
  readonly host: string
  readonly users: DirectoryUsers
  readonly cache: DirectoryCache
  readonly limits: Pick<Limits, 'ldapConnections' | 'ldapPatienceMs' | 'ldapLookUps' | 'ldapLookUpEveryMs'>
  readonly records: Records
  readonly log: Log
  readonly now: () => number
  /** The password of this account is not the one it was, or the account is gone. */
  readonly passwordGone: (bare: string) => void
}

/** For how many accounts, and how long, is remembered whether they exist. */
export interface DirectoryCache {
  readonly size: number
  readonly lifeMs: number
  /** Whether also that they do not. */
  readonly missed: boolean
}

/** Accounts of the directory that were used here; key [host, localpart]. */
const TABLE = 'directory-accounts'

interface Known {
  readonly found: boolean
  /** It was used here, and is not found any more. */
  readonly gone: boolean
  /** When it was asked, ms. */
  readonly at: number
}

interface Kept {
  /** A hash of what the directory says of the last change of the password; empty when it says nothing. */
  readonly changed: string
  readonly gone: boolean
}

const SOON_MS = 2000

export class Directory {
  readonly #options: DirectoryOptions
  readonly #known: Recent<Known>
  /** Look-ups that go on. */
  readonly #asking = new Map<string, Promise<DirectoryUser | undefined>>()
  readonly #budgets: Budgets

  constructor(options: DirectoryOptions) {
    const { cache, limits, now } = options
    this.#options = options
    this.#known = new Recent(cache.size)
    this.#budgets = new Budgets(limits.ldapLookUps, limits.ldapLookUpEveryMs, 10_000, now)
  }

  /** Whether an account that was used here has gone since. */
  isGone(local: string): boolean {
    const known = this.#known.get(local)
    if (known !== undefined) {
      this.#refresh(local, known.at)
      return known.gone
    }
    const kept = this.#options.records.get(TABLE, [this.#options.host, local])
    const gone = !(kept instanceof Promise) && (kept as Kept | undefined)?.gone === true
    this.#known.set(local, { found: !gone, gone, at: -Infinity })
    return gone
  }

  /**
   * Whether a name that was never used here has to be looked up before it can be said whether it is an account's. `asker` pays for
   * names that are not; one who has no more to pay with is told that there is none.
   */
  mustLookUp(local: string, asker: string): boolean {
    const known = this.#known.get(local)
    if (known !== undefined && !known.found && this.#options.now() - known.at < this.#options.cache.lifeMs && this.#options.cache.missed) return false
    return this.#asking.has(local) || this.#budgets.take(asker)
  }

  /** What `mustLookUp` took for a name that was found. */
  giveBack(asker: string): void { this.#budgets.give(asker) }

  /** The entry of an account as it is now. Throws LdapUnavailable. */
  find(local: string): Promise<DirectoryUser | undefined> { return this.#ask(local, this.#options.limits.ldapPatienceMs) }

  /** The same where nobody should wait long; who asks for one name at the same time gets one answer. */
  findSoon(local: string): Promise<DirectoryUser | undefined> {
    const present = this.#asking.get(local)
    if (present !== undefined) return present
    if (this.#options.users.failing) return Promise.reject(new LdapUnavailable('no directory answers'))
    const asking = this.#ask(local, Math.min(this.#options.limits.ldapPatienceMs, SOON_MS)).finally(() => this.#asking.delete(local))
    this.#asking.set(local, asking)
    return asking
  }

  /** Whether an account that was used here is there still, with the password it had, as far as the directory tells. Throws LdapUnavailable. */
  async isUnchanged(local: string): Promise<boolean> {
    const kept = await this.#options.records.get(TABLE, [this.#options.host, local]) as Kept | undefined
    // Somebody else vouches for it.
    if (kept === undefined) return true
    const entry = await this.findSoon(local)
    if (entry === undefined) return false
    return entry.changed === '' || entry.changed === kept.changed
  }

  /** The account, when it exists and this is its password. Throws LdapUnavailable when that cannot be found out. */
  async check(local: string, password: string): Promise<DirectoryUser | undefined> {
    // RFC 4513 §5.1.2: a bind without a password succeeds for everybody.
    if (local === '' || password === '' || password.includes('\0')) return undefined
    const { user, right } = await this.#options.users.check(local, password, this.#options.limits.ldapPatienceMs)
    await this.#noticed(local, user)
    if (user === undefined || !right) return undefined
    await this.admitted(local, user)
    return user
  }

  /** Somebody has logged in to the account, as the directory has it now. */
  async loggedIn(local: string, user: DirectoryUser): Promise<void> {
    await this.#noticed(local, user)
    await this.admitted(local, user)
  }

  /** Whether there was no such account when it was asked for last. */
  isMissing(local: string): boolean { return this.#known.get(local)?.found === false }

  /** Somebody has found that there is no such account. */
  missing(local: string): Promise<void> { return this.#noticed(local, undefined) }

  /** The account is used here from now on. */
  async admitted(local: string, user: DirectoryUser): Promise<void> {
    const kept = await this.#options.records.get(TABLE, [this.#options.host, local])
    if (kept === undefined) this.#keep(local, { changed: user.changed, gone: false })
  }

  /** The account was removed here. */
  forget(local: string): void {
    this.#options.records.delete(TABLE, [this.#options.host, local])
    this.#known.delete(local)
  }

  close(): void { this.#options.users.close() }

  async #ask(local: string, patienceMs: number): Promise<DirectoryUser | undefined> {
    const user = await this.#options.users.find(local, patienceMs)
    await this.#noticed(local, user)
    return user
  }

  async #noticed(local: string, user: DirectoryUser | undefined): Promise<void> {
    const gone = await this.#compare(local, user)
    this.#known.set(local, { found: user !== undefined, gone, at: this.#options.now() })
  }

  /** Compares what was known of an account that is used here with what the directory says now; whether it has gone. */
  async #compare(local: string, user: DirectoryUser | undefined): Promise<boolean> {
    const { host, records, passwordGone, log } = this.#options
    const kept = await records.get(TABLE, [host, local]) as Kept | undefined
    if (kept === undefined) return false
    const bare = `${local}@${host}`
    if (user === undefined) {
      if (kept.gone) return true
      this.#keep(local, { ...kept, gone: true })
      log.info({ what: 'ldap_account_gone', jid: bare })
      passwordGone(bare)
      return true
    }
    const { changed } = user
    // A directory that does not say it any more has changed no password by that.
    if (changed !== '' && changed !== kept.changed) passwordGone(bare)
    if (kept.gone || (changed !== '' && changed !== kept.changed)) this.#keep(local, { changed: changed || kept.changed, gone: false })
    return false
  }

  #keep(local: string, kept: Kept): void { this.#options.records.put(TABLE, [this.#options.host, local], { ...kept }) }

  #refresh(local: string, at: number): void {
    if (this.#options.now() - at < this.#options.cache.lifeMs || this.#asking.has(local) || this.#asking.size >= this.#options.limits.ldapConnections || this.#options.users.failing) return
    this.findSoon(local).catch((error: unknown) => {
      if (!(error instanceof LdapUnavailable)) this.#options.log.error({ what: 'ldap_look_up_failed', user: local, error })
    })
  }
}
