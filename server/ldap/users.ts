/** Users of the LDAP directories of one host: they are found by a search, and a password is tried by a bind. */
import { hash } from 'node:crypto'
import { Jid } from '../../lib/jid.ts'
import { fillFilter, userIn } from '../../lib/ldap/filter.ts'
import type { Limits } from '../config/limits.ts'
import type { Log } from '../log.ts'
import { LdapPool, LdapUnavailable, resultCode, type LdapEntry } from './pool.ts'
import type { LdapSettings, UserAttribute } from './settings.ts'

/** What a directory has to say of a user, beside that there is one. */
export interface DirectoryUser {
  /** Another text after each change of the password; empty when the directory does not tell. */
  readonly changed: string
}

/** The users of a host that somebody else keeps. */
export interface DirectoryUsers {
  /** Throws LdapUnavailable when it cannot be found out within `patienceMs`. */
  find(local: string, patienceMs: number): Promise<DirectoryUser | undefined>
  /** Whether there is such a user, and whether this is his password, which is not empty. Throws LdapUnavailable. */
  check(local: string, password: string, patienceMs: number): Promise<{ readonly user: DirectoryUser | undefined; readonly right: boolean }>
  /** Whether it was just found that nobody answers. */
  readonly failing: boolean
  close(): void
}

export interface LdapUsersOptions {
  readonly host: string
  readonly settings: LdapSettings
  readonly limits: Pick<Limits, 'ldapConnections' | 'ldapWaiting' | 'ldapAnswerMs'>
  readonly log: Log
}

/** Where directories say when a password was changed: OpenLDAP and 389, Active Directory, Samba, Kerberos, shadow passwords. */
const CHANGE_ATTRIBUTES = ['pwdChangedTime', 'pwdLastSet', 'sambaPwdLastSet', 'krbLastPwdChange', 'shadowLastChange']
/** Result codes (RFC 4511 §4.1.9) of a bind with a wrong password, or of one who may not log in: noSuchObject, invalidDNSyntax, constraintViolation, inappropriateAuthentication, invalidCredentials, insufficientAccessRights, unwillingToPerform. */
const REFUSED: ReadonlySet<number> = new Set([19, 32, 34, 48, 49, 50, 53])
/** Entries with the same name beyond which it is not looked further. */
const SAME_NAME_MAX = 10

export class LdapUsers implements DirectoryUsers {
  readonly #search: LdapPool
  readonly #binds: LdapPool
  readonly #options: LdapUsersOptions
  readonly #filter: string
  readonly #uids: readonly UserAttribute[]
  readonly #attributes: readonly string[]

  constructor(options: LdapUsersOptions) {
    const { host, settings, limits, log } = options
    this.#options = options
    const pool = { connections: limits.ldapConnections, waiting: limits.ldapWaiting, answerMs: limits.ldapAnswerMs, log }
    this.#search = new LdapPool(settings, { ...pool, name: `${host} search`, bound: true })
    this.#binds = new LdapPool(settings, { ...pool, name: `${host} bind`, bound: false })
    this.#uids = uidsFor(settings.uids, host)
    this.#filter = userFilter(this.#uids, settings.filter)
    this.#attributes = [...new Set([...this.#uids.map((each) => each.attribute), ...settings.dnFilter?.attributes ?? [], ...CHANGE_ATTRIBUTES])]
  }

  get failing(): boolean { return this.#search.failing }

  async find(local: string, patienceMs: number): Promise<DirectoryUser | undefined> {
    const entry = await this.#entryOf(local, patienceMs)
    return entry && { changed: changeOf(entry) }
  }

  async check(local: string, password: string, patienceMs: number): Promise<{ readonly user: DirectoryUser | undefined; readonly right: boolean }> {
    const entry = await this.#entryOf(local, patienceMs)
    if (entry === undefined) return { user: undefined, right: false }
    return { user: { changed: changeOf(entry) }, right: await this.#bind(entry.dn, password, patienceMs) }
  }

  close(): void {
    this.#search.close()
    this.#binds.close()
  }

  async #bind(dn: string, password: string, patienceMs: number): Promise<boolean> {
    try {
      await this.#binds.run((client) => client.bind(dn, password), patienceMs)
      return true
    } catch (error) {
      if (error instanceof LdapUnavailable) throw error
      const code = resultCode(error)
      if (code !== undefined && REFUSED.has(code)) return false
      throw new LdapUnavailable(error instanceof Error ? error.message : String(error))
    }
  }

  async #entryOf(local: string, patienceMs: number): Promise<LdapEntry | undefined> {
    const { settings, log, host } = this.#options
    const found = await this.#search.search(settings.base, fillFilter(this.#filter, { '%u': local, '%d': host }), this.#attributes, { sizeLimit: SAME_NAME_MAX }, patienceMs)
    // A directory may take different letters for the same; an account has one address.
    const same = found.filter((entry) => this.#isNamed(entry, local))
    if (same.length > 1) log.warn({ what: 'ldap_name_not_unique', host, user: local, dns: same.map(({ dn }) => dn) })
    return same.length === 1 && await this.#passes(same[0] as LdapEntry, local, patienceMs) ? same[0] : undefined
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
    const found = await this.#search.search(base, fillFilter(dnFilter.filter, { '%u': local, '%d': host, '%D': entry.dn, '%s': values }), ['1.1'], { sizeLimit: 1 }, patienceMs)
    return found.length > 0
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
