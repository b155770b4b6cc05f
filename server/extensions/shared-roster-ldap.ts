/** Groups of an LDAP directory in everybody's rosters (ejabberd's `mod_shared_roster_ldap`). */
import { createHash } from 'node:crypto'
import { Jid } from '../../lib/jid.ts'
import { fillFilter, userIn } from '../../lib/ldap/filter.ts'
import { bool, duration, text, type OptionType } from '../config/options.ts'
import { show, textOf } from '../config/node.ts'
import { OptionError } from '../config/options.ts'
import { uidsFor, userFilter, userNameOf } from '../ldap/users.ts'
import { LdapPool, type LdapEntry } from '../ldap/pool.ts'
import { attribute, filter, ldapSettings, moduleLdapTable, withModule, type LdapSettings } from '../ldap/settings.ts'
import type { SharedContact, SharedContacts } from '../sessions/rosters.ts'
import { defineExtension } from './extension.ts'

/** How long a round of questions may wait for a directory that is away. */
const PATIENCE_MS = 10_000
/** After a round that failed. */
const RETRY_MS = 15_000
/** Contacts by groups of one host; what is beyond that is left out. */
const CONTACTS_MAX = 20_000
/** Owners whose clients are told of a change without a pause. */
const TOLD_AT_ONCE = 50
const NOBODY: SharedContacts = { contacts: new Map(), revision: '' }

function pattern(): OptionType<RegExp | undefined> {
  const expects = 'a regular expression with one group, which is the user'
  return {
    expects,
    parse(node) {
      const written = textOf(node) ?? ''
      if (written === '') return undefined
      try {
        return new RegExp(written, 'iu')
      } catch {
        throw new OptionError(node, `${show(node)} is not allowed here; expected ${expects}.`)
      }
    },
  }
}

export const sharedRosterLdap = defineExtension({
  name: 'shared-roster-ldap',
  ejabberd: 'mod_shared_roster_ldap',
  specs: [],
  needs: ['host', 'rosters', 'sessions', 'router', 'accounts', 'config', 'limits', 'log', 'lasting'],
  options: {
    ldap_rfilter: { type: filter(), default: '', help: 'Finds the groups; unless set, all entries with ldap_groupattr and ldap_memberattr.' },
    ldap_gfilter: { type: filter(), default: '', help: 'Finds the members and the description of the group %g; unless set, the entries with that ldap_groupattr.' },
    ldap_ufilter: { type: filter(), default: '', help: 'Finds the name of the user %u; unless set, the entries with that ldap_useruid.' },
    ldap_groupattr: { type: attribute(), default: 'cn', help: 'Attribute with the name of a group.' },
    ldap_groupdesc: { type: text(), default: '', help: 'Attribute with what a group is called in rosters; ldap_groupattr unless set.' },
    ldap_memberattr: { type: attribute(), default: 'memberUid', help: 'Attribute with the members of a group.' },
    ldap_memberattr_format: { type: text(), default: '%u', help: 'How a member is written there: %u is the user.' },
    ldap_memberattr_format_re: { type: pattern(), default: undefined as RegExp | undefined, help: 'A regular expression in place of the format; its first group is the user.' },
    ldap_useruid: { type: attribute(), default: 'cn', help: 'Attribute with the user, where names of users are looked for.' },
    ldap_userdesc: { type: attribute(), default: 'cn', help: 'Attribute with what a user is called.' },
    ldap_userjidattr: { type: text(), default: '', help: 'Attribute with the address of a user, where it is not that of the host.' },
    ldap_auth_check: { type: bool(), default: true, help: 'Whether members without an account are left out.' },
    cache_life_time: { type: duration({ timer: true }), default: 3_600_000, help: 'How often the directory is asked for changes.' },
    ...moduleLdapTable,
  },
  start({ host, rosters, sessions, router, accounts, config, limits, log, lasting }, options) {
    const settings = ldapSettings(withModule(config.ldapNames, options), config.folder)
    const connect = (to: LdapSettings, name: string): LdapPool => new LdapPool(to, { name: `${host} ${name}`, bound: true, connections: Math.min(2, limits.ldapConnections), waiting: limits.ldapWaiting, answerMs: limits.ldapAnswerMs, log })
    const pool = connect(settings, 'groups')
    const users = options.ldap_auth_check && config.authMethods.includes('ldap') ? connect(config.ldap, 'members') : undefined
    const kept = lasting(`shared-roster-ldap ${host}`, () => ({ current: NOBODY }))
    let timer: NodeJS.Timeout | undefined
    let stopped = false

    const all = (also: string): string => settings.filter === '' ? also : `(&${also}${settings.filter})`
    const groupFilter = all(options.ldap_rfilter === '' ? `(&(${options.ldap_groupattr}=*)(${options.ldap_memberattr}=*))` : options.ldap_rfilter)
    const memberFilter = all(options.ldap_gfilter === '' ? `(&(${options.ldap_groupattr}=%g)(${options.ldap_memberattr}=*))` : options.ldap_gfilter)
    const nameFilter = all((options.ldap_ufilter === '' ? `(${options.ldap_useruid}=%u)` : options.ldap_ufilter).replaceAll('%u', '*'))
    const valuesOf = (entry: LdapEntry, name: string): readonly string[] => (entry.values.get(name.toLowerCase()) ?? []).map(String)
    const search = (filled: string, attributes: readonly string[]): Promise<LdapEntry[]> => pool.search(settings.base, filled, attributes, { paged: true }, PATIENCE_MS)

    function prepared(user: string | undefined): string | undefined {
      try {
        return user === undefined ? undefined : Jid.of(user, host).local
      } catch {
        return undefined
      }
    }

    function memberOf(value: string): string | undefined {
      const expression = options.ldap_memberattr_format_re
      return prepared(expression === undefined ? userIn(value, options.ldap_memberattr_format) : expression.exec(value)?.[1])
    }

    /** Users that the directory has as accounts; undefined when they are not asked for there. */
    async function accountsInDirectory(): Promise<ReadonlySet<string> | undefined> {
      if (users === undefined) return undefined
      const uids = uidsFor(config.ldap.uids, host)
      const wanted = fillFilter(userFilter(uids, config.ldap.filter).replaceAll('%u', '*'), { '%d': host })
      const found = await users.search(config.ldap.base, wanted, uids.map((each) => each.attribute), { paged: true }, PATIENCE_MS)
      return new Set(found.map((entry) => userNameOf(entry, uids, host)).filter((each) => each !== undefined))
    }

    async function read(): Promise<SharedContacts> {
      const groups = new Set((await search(groupFilter, [options.ldap_groupattr])).flatMap((entry) => valuesOf(entry, options.ldap_groupattr).slice(0, 1)))
      const known = await accountsInDirectory()
      const told = await names()
      const contacts = new Map<string, { name: string | undefined; groups: string[] }>()
      for (const group of [...groups].toSorted()) {
        for (const entry of await search(fillFilter(memberFilter, { '%g': group }), [options.ldap_groupattr, options.ldap_memberattr, ...(options.ldap_groupdesc === '' ? [] : [options.ldap_groupdesc])])) {
          const shown = (options.ldap_groupdesc === '' ? undefined : valuesOf(entry, options.ldap_groupdesc)[0]) ?? group
          for (const value of valuesOf(entry, options.ldap_memberattr)) {
            const local = memberOf(value)
            if (local === undefined) continue
            const jid = told.get(local)?.jid ?? `${local}@${host}`
            if (options.ldap_auth_check && known?.has(local) !== true && !(await accounts.exists(jid))) continue
            const contact = contacts.get(jid)
            if (contact === undefined && contacts.size < CONTACTS_MAX) contacts.set(jid, { name: told.get(local)?.name, groups: [shown] })
            else if (contact?.groups.includes(shown) === false) contact.groups.push(shown)
          }
        }
      }
      return { contacts, revision: revisionOf(contacts) }
    }

    async function names(): Promise<ReadonlyMap<string, { name: string | undefined; jid: string | undefined }>> {
      const { ldap_userdesc: described, ldap_useruid: uid, ldap_userjidattr: address } = options
      const found = new Map<string, { name: string | undefined; jid: string | undefined }>()
      for (const entry of await search(nameFilter, [uid, described, ...(address === '' ? [] : [address])])) {
        const jid = address === '' ? undefined : Jid.tryParse(valuesOf(entry, address)[0] ?? '')?.bare
        for (const value of valuesOf(entry, uid)) {
          const local = prepared(value)
          if (local !== undefined) found.set(local, { name: valuesOf(entry, described)[0], jid })
        }
      }
      return found
    }

    async function refresh(): Promise<void> {
      let nextMs = options.cache_life_time
      try {
        const next = await read()
        if (stopped) return
        if (next.revision !== kept.current.revision) await change(next)
      } catch (error) {
        // What is known stays until the directory says something else.
        nextMs = Math.min(RETRY_MS, nextMs)
        if (!stopped) log.warn({ what: 'shared_roster_not_read', host, error: error instanceof Error ? error.message : String(error) })
      }
      if (stopped) return
      timer = setTimeout(() => void refresh(), nextMs)
      timer.unref()
    }

    async function change(next: SharedContacts): Promise<void> {
      const before = kept.current
      kept.current = next
      const changed = [...new Set([...before.contacts.keys(), ...next.contacts.keys()])].filter((jid) => !isSame(before.contacts.get(jid), next.contacts.get(jid)))
      log.info({ what: 'shared_roster_changed', host, contacts: next.contacts.size, changed: changed.length })
      const owners = new Set<string>()
      for (const session of sessions.all()) if (session.host === host) owners.add(session.owner)
      let told = 0
      for (const owner of owners) {
        rosters.sharedChanged(owner, changed.filter((contact) => contact !== owner))
        for (const contact of changed) if (contact !== owner && before.contacts.has(contact) !== next.contacts.has(contact)) showPresence(contact, owner, next.contacts.has(contact))
        if (++told % TOLD_AT_ONCE === 0) await new Promise((resolve) => { setImmediate(resolve) })
      }
    }

    /** Somebody who was added by a group is seen at once by those who are online, and one who was removed is not any more. */
    function showPresence(contact: string, owner: string, available: boolean): void {
      if (available ? !rosters.hasSubscriber(contact, owner) : rosters.hasSubscriber(contact, owner)) return
      for (const { presence, jid } of sessions.of(contact)) {
        if (presence === undefined) continue
        router.route(available ? presence.withAttrs({ to: owner }) : presence.withAttrs({ to: owner, type: 'unavailable', from: jid.toString() }))
      }
    }

    const withdraw = rosters.share((owner) => kept.current.contacts.size > 0 && owner.endsWith(`@${host}`) ? kept.current : undefined)
    void refresh()
    return () => {
      stopped = true
      clearTimeout(timer)
      withdraw()
      pool.close()
      users?.close()
    }
  },
})

function isSame(one: SharedContact | undefined, other: SharedContact | undefined): boolean {
  return one?.name === other?.name && one?.groups.join('\n') === other?.groups.join('\n')
}

function revisionOf(contacts: ReadonlyMap<string, SharedContact>): string {
  const sum = createHash('sha256')
  for (const [jid, { name, groups }] of contacts) sum.update(`${jid}\0${name ?? ''}\0${groups.join('\0')}\n`)
  return sum.digest('base64url').slice(0, 12)
}
