/** The accounts of a host that are entries of an LDAP directory (ejabberd's `auth_method: ldap`). Passwords stay there: a login is a bind. */
import { hash } from 'node:crypto'
import { Jid } from '../../lib/jid.ts'
import { fillFilter, userIn } from '../../lib/ldap/filter.ts'
import { Recent } from '../../lib/recent.ts'
import { Budgets } from '../accounts/login-limits.ts'
import type { Limits } from '../config/limits.ts'
import type { Log } from '../log.ts'
import type { Records } from '../storage/shapes.ts'
import { LdapPool, LdapUnavailable, resultCode, type LdapEntry } from './pool.ts'
import type { LdapSettings, UserAttribute } from './settings.ts'

export interface DirectoryOptions {
  readonly host: string
  readonly settings: LdapSettings
  readonly cache: DirectoryCache
  readonly limits: Pick<Limits, 'ldapConnections' | 'ldapWaiting' | 'ldapAnswerMs' | 'ldapPatienceMs' | 'ldapLookUps' | 'ldapLookUpEveryMs'>
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

/** Where directories say when a password was changed: OpenLDAP and 389, Active Directory, Samba, Kerberos, shadow passwords. */
const CHANGE_ATTRIBUTES = ['pwdChangedTime', 'pwdLastSet', 'sambaPwdLastSet', 'krbLastPwdChange', 'shadowLastChange']
/** Result codes (RFC 4511 §4.1.9) of a bind with a wrong password, or of one who may not log in: noSuchObject, invalidDNSyntax, constraintViolation, inappropriateAuthentication, invalidCredentials, insufficientAccessRights, unwillingToPerform. */
const REFUSED: ReadonlySet<number> = new Set([19, 32, 34, 48, 49, 50, 53])
/** Entries with the same name beyond which it is not looked further. */
const SAME_NAME_MAX = 10
const SOON_MS = 2000

export class Directory {
  readonly pool: LdapPool
  readonly #binds: LdapPool
  readonly #options: DirectoryOptions
  readonly #filter: string
  readonly #uids: readonly UserAttribute[]
  readonly #attributes: readonly string[]
  readonly #known: Recent<Known>
  /** Look-ups that go on. */
  readonly #asking = new Map<string, Promise<LdapEntry | undefined>>()
  readonly #budgets: Budgets

  constructor(options: DirectoryOptions) {
    const { host, settings, cache, limits, log, now } = options
    this.#options = options
    const pool = { connections: limits.ldapConnections, waiting: limits.ldapWaiting, answerMs: limits.ldapAnswerMs, log }
    this.pool = new LdapPool(settings, { ...pool, name: `${host} search`, bound: true })
    this.#binds = new LdapPool(settings, { ...pool, name: `${host} bind`, bound: false })
    this.#uids = uidsFor(settings.uids, host)
    this.#filter = userFilter(this.#uids, settings.filter)
    this.#attributes = [...new Set([...this.#uids.map((each) => each.attribute), ...settings.dnFilter?.attributes ?? [], ...CHANGE_ATTRIBUTES])]
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
  find(local: string): Promise<LdapEntry | undefined> { return this.#ask(local, this.#options.limits.ldapPatienceMs) }

  /** The same where nobody should wait long; who asks for one name at the same time gets one answer. */
  findSoon(local: string): Promise<LdapEntry | undefined> {
    const present = this.#asking.get(local)
    if (present !== undefined) return present
    if (this.pool.failing) return Promise.reject(new LdapUnavailable('no directory answers'))
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
    const changed = changeOf(entry)
    return changed === '' || changed === kept.changed
  }

  /** Whether the account exists and this is its password. Throws LdapUnavailable when that cannot be found out. */
  async check(local: string, password: string): Promise<boolean> {
    // RFC 4513 §5.1.2: a bind without a password succeeds for everybody.
    if (local === '' || password === '' || password.includes('\0')) return false
    const entry = await this.find(local)
    if (entry === undefined) return false
    try {
      await this.#binds.run((client) => client.bind(entry.dn, password), this.#options.limits.ldapPatienceMs)
      await this.admitted(local, entry)
      return true
    } catch (error) {
      if (error instanceof LdapUnavailable) throw error
      const code = resultCode(error)
      if (code !== undefined && REFUSED.has(code)) return false
      throw new LdapUnavailable(error instanceof Error ? error.message : String(error))
    }
  }

  /** The account is used here from now on. */
  async admitted(local: string, entry: LdapEntry): Promise<void> {
    const kept = await this.#options.records.get(TABLE, [this.#options.host, local])
    if (kept === undefined) this.#keep(local, { changed: changeOf(entry), gone: false })
  }

  /** The account was removed here. */
  forget(local: string): void {
    this.#options.records.delete(TABLE, [this.#options.host, local])
    this.#known.delete(local)
  }

  close(): void {
    this.pool.close()
    this.#binds.close()
  }

  async #ask(local: string, patienceMs: number): Promise<LdapEntry | undefined> {
    const { settings, log, host, now } = this.#options
    const found = await this.pool.search(settings.base, fillFilter(this.#filter, { '%u': local, '%d': host }), this.#attributes, { sizeLimit: SAME_NAME_MAX }, patienceMs)
    // A directory may take different letters for the same; an account has one address.
    const same = found.filter((entry) => this.#isNamed(entry, local))
    if (same.length > 1) log.warn({ what: 'ldap_name_not_unique', host, user: local, dns: same.map(({ dn }) => dn) })
    const entry = same.length === 1 && await this.#passes(same[0] as LdapEntry, local, patienceMs) ? same[0] : undefined
    const gone = await this.#compare(local, entry)
    this.#known.set(local, { found: entry !== undefined, gone, at: now() })
    return entry
  }

  #isNamed(entry: LdapEntry, local: string): boolean {
    const values = this.#uids.flatMap(({ attribute, format }) => (entry.values.get(attribute.toLowerCase()) ?? []).map((value) => prepared(userIn(String(value), format), this.#options.host)))
    // The server may not be allowed to read what it searches by.
    return values.length === 0 || values.includes(local)
  }

  async #passes(entry: LdapEntry, local: string, patienceMs: number): Promise<boolean> {
    const { settings: { dnFilter, base }, host } = this.#options
    if (dnFilter === undefined) return true
    const values = dnFilter.attributes.map((name) => String(entry.values.get(name.toLowerCase())?.[0] ?? ''))
    const found = await this.pool.search(base, fillFilter(dnFilter.filter, { '%u': local, '%d': host, '%D': entry.dn, '%s': values }), ['1.1'], { sizeLimit: 1 }, patienceMs)
    return found.length > 0
  }

  /** Compares what was known of an account that is used here with what the directory says now; whether it has gone. */
  async #compare(local: string, entry: LdapEntry | undefined): Promise<boolean> {
    const { host, records, passwordGone, log } = this.#options
    const kept = await records.get(TABLE, [host, local]) as Kept | undefined
    if (kept === undefined) return false
    const bare = `${local}@${host}`
    if (entry === undefined) {
      if (kept.gone) return true
      this.#keep(local, { ...kept, gone: true })
      log.info({ what: 'ldap_account_gone', jid: bare })
      passwordGone(bare)
      return true
    }
    const changed = changeOf(entry)
    // A directory that does not say it any more has changed no password by that.
    if (changed !== '' && changed !== kept.changed) passwordGone(bare)
    if (kept.gone || (changed !== '' && changed !== kept.changed)) this.#keep(local, { changed: changed || kept.changed, gone: false })
    return false
  }

  #keep(local: string, kept: Kept): void { this.#options.records.put(TABLE, [this.#options.host, local], { ...kept }) }

  #refresh(local: string, at: number): void {
    if (this.#options.now() - at < this.#options.cache.lifeMs || this.#asking.has(local) || this.#asking.size >= this.#options.limits.ldapConnections || this.pool.failing) return
    this.findSoon(local).catch((error: unknown) => {
      if (!(error instanceof LdapUnavailable)) this.#options.log.error({ what: 'ldap_look_up_failed', user: local, error })
    })
  }
}

/** `%d` in a format is the host. */
export function uidsFor(uids: readonly UserAttribute[], host: string): readonly UserAttribute[] {
  return uids.map(({ attribute, format }) => ({ attribute, format: format.replaceAll('%d', host) }))
}

/** Users by their name `%u`, as far as they match the filter too. */
export function userFilter(uids: readonly UserAttribute[], filter: string): string {
  const each = uids.map(({ attribute, format }) => `(${attribute}=${format})`)
  const named = each.length === 1 ? each[0] as string : `(|${each.join('')})`
  return filter === '' ? named : `(&${named}${filter})`
}

/** The user of an entry, prepared; undefined when it has none. */
export function userNameOf(entry: LdapEntry, uids: readonly UserAttribute[], host: string): string | undefined {
  for (const { attribute, format } of uids) {
    for (const value of entry.values.get(attribute.toLowerCase()) ?? []) {
      const local = prepared(userIn(String(value), format), host)
      if (local !== undefined) return local
    }
  }
  return undefined
}

function prepared(user: string | undefined, host: string): string | undefined {
  try {
    return user === undefined ? undefined : Jid.of(user, host).local
  } catch {
    return undefined
  }
}

function changeOf(entry: LdapEntry): string {
  const said = CHANGE_ATTRIBUTES.flatMap((name) => (entry.values.get(name.toLowerCase()) ?? []).map((value) => `${name}=${String(value)}`))
  return said.length === 0 ? '' : hash('sha256', said.join('\n'), 'base64url')
}
