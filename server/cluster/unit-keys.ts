/**
 * Whose a row is, told from its key. Nearly every row's first part is its unit; rows of accounts have host and localpart apart, rows of
 * rooms service and room. Parts stand as `encodePart` makes them: for nearly all names that is the name.
 */
import { encodePart } from '../storage/ordered.ts'

/** How the parts of a record's key name its unit: `swapped` are domain and localpart, `second` stands after something to sort by. */
export type Rule = 'first' | 'swapped' | 'second'

/** Every table of records. */
export const RULES: Readonly<Record<string, Rule>> = {
  // Accounts, and what extensions keep of them.
  accounts: 'swapped', 'disabled-accounts': 'swapped', 'directory-accounts': 'swapped', vcard_index: 'swapped',
  archive_preferences: 'first', blocked: 'first', clients: 'first', 'ended-streams': 'first', 'last-activity': 'first', 'last-login': 'first', 'offline-imported': 'first', motd_seen: 'first',
  private: 'first', push: 'first', 'push-homes': 'first', removals: 'first', roster: 'first', roster_version: 'first', tokens: 'first', uploads: 'first', vcard: 'first',
  // Hosts and services as a whole.
  'account-secrets': 'first', administrators: 'first', announcements: 'first', 'component-messages': 'first', 'component-connected': 'first', motd: 'first', 'muc-secrets': 'first', welcome: 'first',
  invites: 'first', invites_by: 'first', invite_names: 'first', 'upload-secrets': 'first', 'upload-ends': 'first', 'upload-times': 'first',
  // Rooms.
  'muc-rooms': 'swapped', 'muc-affiliations': 'swapped', 'muc-occupants': 'swapped', 'muc-history': 'swapped', 'muc-vcards': 'swapped', 'muc-past': 'swapped', 'muc-departed': 'swapped',
  'muc-relations': 'first',
  // Publish-subscribe.
  pubsub_nodes: 'first', pubsub_items: 'first', pubsub_order: 'first', pubsub_affiliations: 'first', pubsub_subscriptions: 'first', pubsub_entities: 'first',
  pubsub_created: 'first', pubsub_expiring: 'first', pubsub_temporary: 'first', pubsub_bytes: 'first', pubsub_leases: 'second',
}

/** The beginning of a key that names its unit. */
export interface UnitOfKey {
  readonly form: string
  /** Where the next part begins. */
  readonly end: number
}

/** Undefined when the key, perhaps the beginning of a range, does not say. */
export function unitOfKey(key: string): UnitOfKey | undefined {
  if (key[0] !== 'r') return partAt(key, 1)
  const tableEnd = key.indexOf('\0', 1)
  if (tableEnd === -1) return undefined
  const rule = RULES[key.slice(1, tableEnd)] ?? 'first'
  const first = partAt(key, tableEnd + 1)
  if (rule === 'first' || !first) return first
  const second = partAt(key, first.end)
  if (rule === 'second' || !second) return second
  return { form: `${second.form}@${first.form}`, end: second.end }
}

function partAt(key: string, start: number): UnitOfKey | undefined {
  const end = key.indexOf('\0', start)
  return end === -1 ? undefined : { form: key.slice(start, end), end: end + 1 }
}

/** The forms that a unit's name takes in keys: as one part, and as two. */
export function formsOf(unit: string): readonly string[] {
  const whole = encodePart(unit).slice(0, -1)
  const at = unit.indexOf('@')
  if (at === -1) return [whole]
  const divided = `${encodePart(unit.slice(0, at)).slice(0, -1)}@${encodePart(unit.slice(at + 1)).slice(0, -1)}`
  return divided === whole ? [whole] : [whole, divided]
}

/** Whether the forms are the name itself, so that it can be told from them. */
export function isPlain(unit: string): boolean {
  const forms = formsOf(unit)
  return forms.length === 1 && forms[0] === unit
}

/** How the keys of a table's records name their units. */
export function ruleOf(table: string): Rule { return RULES[table] ?? 'first' }

/** How the keys of a unit's records in a table begin; undefined when it has none there, or when they begin with something else. */
export function recordsOf(table: string, unit: string): string | undefined {
  const rule = ruleOf(table)
  if (rule === 'first') return `r${table}\0${encodePart(unit)}`
  const at = unit.indexOf('@')
  return rule === 'second' || at === -1 ? undefined : `r${table}\0${encodePart(unit.slice(at + 1))}${encodePart(unit.slice(0, at))}`
}
