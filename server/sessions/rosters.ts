// RFC 6121 §2: the roster, as stored and cached. The protocol is in extensions/roster.ts and sessions/presence.ts.
import { StanzaError } from '../../lib/stanza/errors.ts'
import { type MaybePromise, type Records, type Value } from '../storage/shapes.ts'

export interface RosterItem {
  /** The contact's bare JID, prepared. */
  readonly jid: string
  readonly name?: string
  readonly subscription: 'none' | 'to' | 'from' | 'both'
  /** Pending Out: our request waits for the contact's answer. */
  readonly ask: boolean
  /** RFC 6121 §3.4: a request of this contact is answered with yes before it comes. */
  readonly approved: boolean
  readonly groups: readonly string[]
  /** Pending In: the contact's request, serialised, waiting for an answer. */
  readonly pendingIn?: string
  /** Holds nothing but `pendingIn`; the client never sees it (RFC 6121 Appendix A.1). */
  readonly hidden?: boolean
  /** The contact is there by a group that others keep: the subscription is not the owner's to end. */
  readonly shared?: boolean
}

/** A contact that somebody has by a group that others keep. */
export interface SharedContact {
  readonly name: string | undefined
  readonly groups: readonly string[]
}

/** Contacts by their bare JIDs; which of several states of these they are, `revision` tells, also after a restart. */
export interface SharedContacts {
  readonly contacts: ReadonlyMap<string, SharedContact>
  readonly revision: string
}

export interface Roster {
  /** Opaque to clients (RFC 6121 §2.6). */
  readonly version: string
  /** By the contact's bare JID, the hidden ones included. */
  readonly items: ReadonlyMap<string, RosterItem>
}

/** One change of a roster: the contact's item as it is now, or undefined when it was removed. */
export interface RosterChange {
  readonly contact: string
  readonly item: RosterItem | undefined
  /** The roster's version just after the change. */
  readonly version: string
}

/**
 * All rosters, by owner (a bare JID). Reads are synchronous: the embedded store answers at once, and a distributed one is
 * not supported here yet.
 */
export interface Rosters {
  get(owner: string): Roster
  /** One item, hidden or not, without reading the whole roster. */
  item(owner: string, contact: string): RosterItem | undefined
  /** Whether the owner sees the contact's presence. */
  isSubscribedTo(owner: string, contact: string): boolean
  /** Whether the contact sees the owner's presence. */
  hasSubscriber(owner: string, contact: string): boolean
  /** Contacts that see the owner's presence (`from` and `both`). */
  subscribers(owner: string): readonly string[]
  /** Contacts whose presence the owner sees (`to` and `both`). */
  subscriptions(owner: string): readonly string[]
  /** Stored requests that wait for the owner's answer, serialised. */
  pendingRequests(owner: string): readonly string[]
  /** Adds or replaces an item. Throws `resource-constraint` when the roster is full. `announce`: a change also when it is the same as before. */
  set(owner: string, item: RosterItem, options?: { readonly announce?: boolean }): void
  /** Whether there was such an item. */
  remove(owner: string, contact: string): boolean
  /** Has a roster read anew. */
  forget(owner: string): void
  /** Erases the whole roster without telling listeners. */
  removeAll(owner: string): void
  /**
   * Adds contacts that owners have by groups, on top of what is stored; the answer for one owner must not change but with
   * `sharedChanged`. Returns how to take them away.
   */
  share(source: (owner: string) => SharedContacts | undefined): () => void
  /** What an owner has by groups is not what it was with these contacts: listeners hear of it. */
  sharedChanged(owner: string, contacts: Iterable<string>): void
  /** Calls back on every change a client may see. Returns how to stop it. */
  onChange(listener: (owner: string, change: RosterChange) => void): () => void
  /** The changes since a version, oldest first; undefined when they are not known and the whole roster must be sent. */
  changesSince(owner: string, version: string): readonly RosterChange[] | undefined
}

export interface RosterLimits {
  /** Items of one roster. */
  readonly rosterItems: number
  /** Rosters kept in memory; those used last stay. */
  readonly rosterCache: number
  /** Unanswered requests from strangers, which an attacker can send without end. */
  readonly pendingSubscriptions: number
}

/** Items of all rosters kept in memory: about 100 MB. */
const CACHED_ITEMS_MAX = 500_000
/** Changes remembered for clients that come back with an older version. */
const CHANGES_MAX = 48
const TABLE = 'roster'
const VERSIONS = 'roster_version'

interface Entry {
  version: string
  stamp: number
  items: Map<string, RosterItem>
  /** [version, contact], oldest first. Complete since the version before the first. */
  log: [number, string][]
  /** The version before the oldest change of the log. */
  since: number
  hidden: number
  subscribers: string[] | undefined
  subscriptions: string[] | undefined
}

/** Rosters over a table of records. One instance serves all hosts: an owner is a whole bare JID. */
export function createRosters(records: Records, limits: RosterLimits): Rosters {
  // A Map keeps insertion order: the first key is the roster that was not used for longest.
  const cache = new Map<string, Entry>()
  let cached = 0
  const listeners = new Set<(owner: string, change: RosterChange) => void>()

  const sources = new Set<(owner: string) => SharedContacts | undefined>()

  function sharedOf(owner: string): SharedContacts | undefined {
    for (const source of sources) {
      const found = source(owner)
      if (found !== undefined) return found
    }
    return undefined
  }

  function withShared(owner: string, contact: string, stored: RosterItem | undefined): RosterItem | undefined {
    const shared = sources.size === 0 || owner === contact ? undefined : sharedOf(owner)?.contacts.get(contact)
    return shared === undefined ? stored : mixed(contact, stored, shared)
  }

  function versionOf(owner: string, entry: Entry): string {
    const shared = sources.size === 0 ? undefined : sharedOf(owner)
    return shared === undefined ? entry.version : `${entry.version}.${shared.revision}`
  }

  function get(owner: string): Roster {
    const entry = load(owner)
    const shared = sources.size === 0 ? undefined : sharedOf(owner)
    if (shared === undefined) return entry
    const items = new Map(entry.items)
    for (const [contact, each] of shared.contacts) if (contact !== owner) items.set(contact, mixed(contact, items.get(contact), each))
    return { version: versionOf(owner, entry), items }
  }

  /** Contacts of stored items that fit, and all of groups. */
  function contactsOf(owner: string, stored: readonly string[]): readonly string[] {
    const shared = sources.size === 0 ? undefined : sharedOf(owner)
    if (shared === undefined) return stored
    const all = new Set(stored)
    for (const contact of shared.contacts.keys()) if (contact !== owner) all.add(contact)
    return [...all]
  }

  function weight(entry: Entry): number {
    return entry.items.size + 8
  }

  function load(owner: string): Entry {
    const known = cache.get(owner)
    if (known) {
      cache.delete(owner)
      cache.set(owner, known)
      return known
    }
    const entry: Entry = { version: '0', stamp: 0, items: new Map(), log: [], since: 0, hidden: 0, subscribers: undefined, subscriptions: undefined }
    for (const { key, value } of now(records.range(TABLE, [owner]))) {
      const item = fromValue(key[1] ?? '', value)
      entry.items.set(item.jid, item)
      if (item.hidden) entry.hidden++
    }
    readVersion(entry, now(records.get(VERSIONS, [owner])))
    cache.set(owner, entry)
    cached += weight(entry)
    for (const [oldest, old] of cache) {
      if ((cached <= CACHED_ITEMS_MAX && cache.size <= limits.rosterCache) || oldest === owner) break
      cache.delete(oldest)
      cached -= weight(old)
    }
    return entry
  }

  function item(owner: string, contact: string): RosterItem | undefined { return withShared(owner, contact, storedItem(owner, contact)) }

  function storedItem(owner: string, contact: string): RosterItem | undefined {
    const known = cache.get(owner)
    if (known) return known.items.get(contact)
    const value = now(records.get(TABLE, [owner, contact]))
    return value === undefined ? undefined : fromValue(contact, value)
  }

  function changed(owner: string, entry: Entry, contact: string, current: RosterItem | undefined): void {
    entry.stamp = Math.max(entry.stamp + 1, Date.now())
    entry.version = entry.stamp.toString(36)
    entry.log.push([entry.stamp, contact])
    while (entry.log.length > CHANGES_MAX) entry.since = entry.log.shift()?.[0] ?? entry.since
    records.put(VERSIONS, [owner], { stamp: entry.stamp, since: entry.since, log: entry.log })
    const change: RosterChange = { contact, item: withShared(owner, contact, current), version: versionOf(owner, entry) }
    for (const listener of listeners) listener(owner, change)
  }

  function touch(entry: Entry): void {
    entry.subscribers = undefined
    entry.subscriptions = undefined
  }

  return {
    get,
    item,
    isSubscribedTo: (owner, contact) => sees(item(owner, contact)),
    hasSubscriber: (owner, contact) => seen(item(owner, contact)),
    subscribers(owner) {
      const entry = load(owner)
      return contactsOf(owner, (entry.subscribers ??= [...entry.items.values()].filter(seen).map((each) => each.jid)))
    },
    subscriptions(owner) {
      const entry = load(owner)
      return contactsOf(owner, (entry.subscriptions ??= [...entry.items.values()].filter(sees).map((each) => each.jid)))
    },
    pendingRequests(owner) {
      const found: string[] = []
      for (const each of load(owner).items.values()) if (each.pendingIn !== undefined) found.push(each.pendingIn)
      return found
    },
    set(owner, wanted, options) {
      const entry = load(owner)
      const before = entry.items.get(wanted.jid)
      const next = withShared(owner, wanted.jid, undefined) === undefined ? wanted : owned(wanted, before, sharedOf(owner)?.contacts.get(wanted.jid))
      const hidden = next.hidden === true
      if (!before || (before.hidden === true) !== hidden) {
        if ((hidden ? entry.hidden : entry.items.size - entry.hidden) >= (hidden ? limits.pendingSubscriptions : limits.rosterItems)) throw new StanzaError('resource-constraint', 'The roster is full')
      }
      entry.hidden += Number(hidden) - Number(before?.hidden === true)
      if (!before) cached++
      entry.items.set(next.jid, next)
      touch(entry)
      records.put(TABLE, [owner, next.jid], toValue(next))
      if (!next.hidden && (options?.announce === true || !looksSame(before, next))) changed(owner, entry, next.jid, next)
    },
    remove(owner, contact) {
      const entry = load(owner)
      const before = entry.items.get(contact)
      if (!before) return false
      entry.items.delete(contact)
      cached--
      if (before.hidden) entry.hidden--
      touch(entry)
      records.delete(TABLE, [owner, contact])
      if (!before.hidden) changed(owner, entry, contact, undefined)
      return true
    },
    removeAll(owner) {
      const known = cache.get(owner)
      if (known) {
        cache.delete(owner)
        cached -= weight(known)
      }
      // What deleteRange returns is of no interest: it was issued, and later reads see it.
      for (const { key } of now(records.range(TABLE, [owner]))) records.delete(TABLE, key)
      records.delete(VERSIONS, [owner])
    },
    forget(owner) {
      const known = cache.get(owner)
      if (known !== undefined && cache.delete(owner)) cached -= weight(known)
    },
    share(source) {
      sources.add(source)
      return () => void sources.delete(source)
    },
    sharedChanged(owner, contacts) {
      const entry = load(owner)
      const version = versionOf(owner, entry)
      for (const contact of contacts) {
        const current = withShared(owner, contact, entry.items.get(contact))
        const change: RosterChange = { contact, item: current?.hidden === true ? undefined : current, version }
        for (const listener of listeners) listener(owner, change)
      }
    },
    onChange(listener) {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
    changesSince(owner, version) {
      const entry = load(owner)
      if (version === versionOf(owner, entry)) return []
      // What is there by groups keeps no record of its changes.
      if (sources.size > 0 && sharedOf(owner) !== undefined) return undefined
      const from = /^[0-9a-z]{1,11}$/.test(version) ? parseInt(version, 36) : NaN
      if (!(from >= entry.since && from < entry.stamp)) return undefined
      // Only versions we gave out are known: an account made anew must not take those of the one before it for its own.
      if (from !== entry.since && !entry.log.some(([stamp]) => stamp === from)) return undefined
      // RFC 6121 §2.6.3: of several changes of one contact the last is enough.
      const last = new Map<string, number>()
      for (const [stamp, contact] of entry.log) {
        if (stamp <= from) continue
        last.delete(contact)
        last.set(contact, stamp)
      }
      return [...last].map(([contact, stamp]) => {
        const current = entry.items.get(contact)
        return { contact, item: current?.hidden ? undefined : current, version: stamp.toString(36) }
      })
    },
  }
}

/** A contact that is there by groups, with what its owner has of it besides. */
function mixed(jid: string, stored: RosterItem | undefined, { name, groups }: SharedContact): RosterItem {
  const called = stored?.name ?? name
  return {
    jid, subscription: 'both', ask: false, approved: false, shared: true,
    groups: stored === undefined || stored.groups.length === 0 ? groups : [...new Set([...stored.groups, ...groups])],
    ...(called === undefined ? undefined : { name: called }),
  }
}

/** Of an item that is there by groups what is its owner's: another name, and groups besides. */
function owned(wanted: RosterItem, before: RosterItem | undefined, shared: SharedContact | undefined): RosterItem {
  const { name, groups } = wanted
  return {
    jid: wanted.jid, subscription: before?.subscription ?? 'none', ask: false, approved: false,
    groups: groups.filter((group) => shared?.groups.includes(group) !== true),
    ...(name === undefined || name === shared?.name ? undefined : { name }),
  }
}

/** The owner of this item sees the contact. */
export function sees(item: RosterItem | undefined): boolean {
  return item !== undefined && (item.subscription === 'to' || item.subscription === 'both')
}

/** The contact sees the owner of this item. */
export function seen(item: RosterItem | undefined): boolean {
  return item !== undefined && (item.subscription === 'from' || item.subscription === 'both')
}

function looksSame(a: RosterItem | undefined, b: RosterItem): boolean {
  return a !== undefined && !a.hidden && a.name === b.name && a.subscription === b.subscription && a.ask === b.ask && a.approved === b.approved &&
    a.groups.length === b.groups.length && a.groups.every((group, i) => group === b.groups[i])
}

function now<T>(value: MaybePromise<T>): T {
  if (value instanceof Promise) throw new Error('rosters need a storage driver that reads synchronously')
  return value
}

type Fields = { readonly [key: string]: Value | undefined }

function toValue(item: RosterItem): Value {
  const value: Record<string, Value> = { subscription: item.subscription, groups: item.groups }
  if (item.name !== undefined) value['name'] = item.name
  if (item.ask) value['ask'] = true
  if (item.approved) value['approved'] = true
  if (item.pendingIn !== undefined) value['pendingIn'] = item.pendingIn
  if (item.hidden) value['hidden'] = true
  return value
}

function fromValue(jid: string, value: Value): RosterItem {
  const fields = (typeof value === 'object' && value !== null ? value : {}) as Fields
  const subscription = fields['subscription']
  const groups = fields['groups']
  return {
    jid,
    subscription: subscription === 'to' || subscription === 'from' || subscription === 'both' ? subscription : 'none',
    ask: fields['ask'] === true,
    approved: fields['approved'] === true,
    groups: Array.isArray(groups) ? groups.filter((group) => typeof group === 'string') : [],
    ...(typeof fields['name'] === 'string' ? { name: fields['name'] } : undefined),
    ...(typeof fields['pendingIn'] === 'string' ? { pendingIn: fields['pendingIn'] } : undefined),
    ...(fields['hidden'] === true ? { hidden: true } : undefined),
  }
}

function readVersion(entry: Entry, value: Value | undefined): void {
  if (typeof value !== 'object' || value === null) return
  const fields = value as Fields
  if (typeof fields['stamp'] !== 'number') return
  entry.stamp = fields['stamp']
  entry.version = entry.stamp.toString(36)
  entry.since = typeof fields['since'] === 'number' ? fields['since'] : entry.stamp
  const log = fields['log']
  if (!Array.isArray(log)) return
  for (const line of log as readonly Value[]) {
    if (Array.isArray(line) && typeof line[0] === 'number' && typeof line[1] === 'string') entry.log.push([line[0], line[1]])
  }
}

