/** XEP-0441: Message Archive Management Preferences, version 0.2.0 (2020-08-25). */
import { Jid } from '../../../lib/jid.ts'
import { StanzaError } from '../../../lib/stanza/errors.ts'
import { type Element, isElement, xml } from '../../../lib/xml/element.ts'
import type { Rosters } from '../../sessions/rosters.ts'
import type { Records, Value } from '../../storage/shapes.ts'

export const TABLE = 'archive_preferences'
const MAM_NS = 'urn:xmpp:mam:2'
const DEFAULTS = ['always', 'never', 'roster'] as const
export type ArchiveDefault = (typeof DEFAULTS)[number]
/** Addresses in each of the two lists. */
const LISTED_MAX = 1000

export interface Preferences {
  readonly default: ArchiveDefault
  readonly always: ReadonlySet<string>
  readonly never: ReadonlySet<string>
}

export interface PreferenceStore {
  /** Whether a message between the owner and `other` goes into the owner's archive. */
  wants(owner: string, other: Jid): boolean
  get(owner: string): Promise<Preferences>
  set(owner: string, preferences: Preferences): void
  /** Whether the owner has preferences of their own. */
  chosen(owner: string): Promise<boolean>
  /** Reads them ahead of the first message. */
  preload(owner: string): void
  remove(owner: string): void
  /** Has them read anew the next time. */
  forget(owner: string): void
}

export function createPreferences(records: Records, rosters: Rosters, otherwise: ArchiveDefault, cacheMax: number): PreferenceStore {
  const fallback: Preferences = { default: otherwise, always: new Set(), never: new Set() }
  // A Map keeps insertion order: the first key was not used for longest. `undefined` is an owner who has chosen nothing.
  const cache = new Map<string, Preferences | undefined>()

  function remember(owner: string, preferences: Preferences | undefined): Preferences | undefined {
    cache.delete(owner)
    cache.set(owner, preferences)
    if (cache.size > cacheMax) cache.delete(cache.keys().next().value as string)
    return preferences
  }

  /** A promise when the store must be asked and answers later. */
  function read(owner: string): Preferences | undefined | Promise<Preferences | undefined> {
    if (cache.has(owner)) return cache.get(owner)
    const value = records.get(TABLE, [owner])
    if (value instanceof Promise) return value.then((later) => (cache.has(owner) ? cache.get(owner) : remember(owner, fromValue(later))))
    return remember(owner, fromValue(value))
  }

  return {
    wants(owner, other) {
      const found = read(owner)
      // A distributed store has not answered yet; `preload` makes this rare.
      const preferences = found instanceof Promise || found === undefined ? fallback : found
      if (found instanceof Promise) found.catch(() => {})
      // XEP-0441 §2.3.1: an entry with a resource means that resource alone, so it goes before one without.
      if (preferences.always.size > 0 || preferences.never.size > 0) {
        const full = other.toString()
        if (preferences.always.has(full)) return true
        if (preferences.never.has(full)) return false
        if (preferences.always.has(other.bare)) return true
        if (preferences.never.has(other.bare)) return false
      }
      if (preferences.default !== 'roster') return preferences.default === 'always'
      const item = rosters.item(owner, other.bare)
      return item !== undefined && item.hidden !== true
    },
    async get(owner) {
      return (await read(owner)) ?? fallback
    },
    async chosen(owner) {
      return (await read(owner)) !== undefined
    },
    set(owner, preferences) {
      records.put(TABLE, [owner], { default: preferences.default, always: [...preferences.always], never: [...preferences.never] })
      remember(owner, preferences)
    },
    preload(owner) {
      const found = read(owner)
      if (found instanceof Promise) found.catch(() => {})
    },
    remove(owner) {
      records.delete(TABLE, [owner])
      cache.delete(owner)
    },
    forget(owner) { cache.delete(owner) },
  }
}

function fromValue(value: Value | undefined): Preferences | undefined {
  if (value === undefined || value === null || typeof value !== 'object') return undefined
  const stored = value as { readonly [key: string]: Value | undefined }
  const list = (name: string): Set<string> => new Set(Array.isArray(stored[name]) ? (stored[name] as readonly Value[]).map(String) : [])
  return { default: DEFAULTS.find((each) => each === stored['default']) ?? 'always', always: list('always'), never: list('never') }
}

export function preferencesXml(preferences: Preferences): Element {
  const jids = (set: ReadonlySet<string>): Element[] => [...set].map((jid) => xml('jid', null, jid))
  return xml('prefs', { xmlns: MAM_NS, default: preferences.default }, xml('always', null, jids(preferences.always)), xml('never', null, jids(preferences.never)))
}

export function readPreferences(element: Element): Preferences {
  const chosen = DEFAULTS.find((each) => each === element.attrs['default'])
  // XEP-0441 §2.1.1
  if (chosen === undefined) throw new StanzaError('bad-request', 'default must be always, never or roster')
  return { default: chosen, always: readList(element, 'always'), never: readList(element, 'never') }
}

function readList(element: Element, name: string): Set<string> {
  const lists = element.getChildren(name, MAM_NS)
  if (lists.length > 1) throw new StanzaError('bad-request', `more than one ${name}`)
  const found = new Set<string>()
  for (const child of lists[0]?.children ?? []) {
    if (!isElement(child)) continue
    const jid = child.is('jid', MAM_NS) ? Jid.tryParse(child.text().trim()) : undefined
    if (jid === undefined) throw new StanzaError('bad-request', `${name} must hold addresses`)
    found.add(jid.toString())
    if (found.size > LISTED_MAX) throw new StanzaError('resource-constraint', `${name} holds at most ${LISTED_MAX} addresses`)
  }
  return found
}
