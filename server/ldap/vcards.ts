/** vCards of an LDAP directory's entries (ejabberd's `mod_vcard` with `db_type: ldap`). */
import { fill, fillFilter } from '../../lib/ldap/filter.ts'
import { type Element, xml } from '../../lib/xml/element.ts'
import { list, map, text, type OptionTable } from '../config/options.ts'
import { uidsFor, userFilter, userNameOf } from './users.ts'
import type { LdapEntry, LdapPool } from './pool.ts'
import { attribute } from './settings.ts'

const NS = 'vcard-temp'

/** By the field: patterns, each with the attributes whose values stand for its `%s`. */
export type VcardMap = ReadonlyMap<string, ReadonlyMap<string, readonly string[]>>

export interface VcardNames {
  ldap_vcard_map: VcardMap | undefined
  ldap_search_fields: ReadonlyMap<string, string> | undefined
  ldap_search_reported: ReadonlyMap<string, string> | undefined
}

export const vcardTable: OptionTable<VcardNames> = {
  ldap_vcard_map: { type: map(map(list(attribute()))), default: undefined, help: 'With db_type: ldap: fields of vCards by their names in capital letters, each with a pattern and the attributes for its %s; as in ejabberd unless set.' },
  ldap_search_fields: { type: map(text()), default: undefined, help: 'With db_type: ldap: what can be searched for; labels and attributes, %u for the user.' },
  ldap_search_reported: { type: map(text()), default: undefined, help: 'With db_type: ldap: what a search tells; labels and fields of vCards.' },
}

const value = (name: string): ReadonlyMap<string, readonly string[]> => new Map([['%s', [name]]])

/** ejabberd's. */
const MAP_DEFAULT: VcardMap = new Map<string, ReadonlyMap<string, readonly string[]>>([
  ['NICKNAME', new Map([['%u', []]])],
  ...Object.entries({
    FN: 'displayName', LAST: 'sn', FIRST: 'givenName', MIDDLE: 'initials', ORGNAME: 'o', ORGUNIT: 'ou', CTRY: 'c', LOCALITY: 'l', STREET: 'street', REGION: 'st',
    PCODE: 'postalCode', TITLE: 'title', URL: 'labeledURI', DESC: 'description', TEL: 'telephoneNumber', EMAIL: 'mail', BDAY: 'birthDay', ROLE: 'employeeType', PHOTO: 'jpegPhoto',
  }).map(([field, name]) => [field, value(name)] as const),
])

const SEARCH_DEFAULT = new Map(Object.entries({
  'User': '%u', 'Full Name': 'displayName', 'Given Name': 'givenName', 'Middle Name': 'initials', 'Family Name': 'sn', 'Nickname': '%u', 'Birthday': 'birthDay',
  'Country': 'c', 'City': 'l', 'Email': 'mail', 'Organization Name': 'o', 'Organization Unit': 'ou',
}))

const REPORTED_DEFAULT = new Map(Object.entries({
  'Full Name': 'FN', 'Given Name': 'FIRST', 'Middle Name': 'MIDDLE', 'Family Name': 'LAST', 'Nickname': 'NICKNAME', 'Birthday': 'BDAY',
  'Country': 'CTRY', 'City': 'LOCALITY', 'Email': 'EMAIL', 'Organization Name': 'ORGNAME', 'Organization Unit': 'ORGUNIT',
}))

/** How long who asks for a vCard waits for a directory that is away. */
const PATIENCE_MS = 3000

export interface FoundUser {
  readonly local: string
  /** By field. */
  readonly fields: ReadonlyMap<string, string>
}

export class LdapVcards {
  /** Labels and what is searched, and labels and fields of the vCard. */
  readonly searchFields: ReadonlyMap<string, string>
  readonly reported: ReadonlyMap<string, string>
  readonly #host: string
  readonly #pool: LdapPool
  readonly #map: VcardMap
  readonly #attributes: readonly string[]
  readonly #uids

  constructor(host: string, pool: LdapPool, names: VcardNames) {
    this.#host = host
    this.#pool = pool
    this.#map = names.ldap_vcard_map === undefined ? MAP_DEFAULT : new Map([...names.ldap_vcard_map].map(([field, patterns]) => [field.toUpperCase(), patterns]))
    this.searchFields = names.ldap_search_fields ?? SEARCH_DEFAULT
    this.reported = names.ldap_search_reported ?? REPORTED_DEFAULT
    this.#uids = uidsFor(pool.settings.uids, host)
    this.#attributes = [...new Set([...this.#uids.map((each) => each.attribute), ...[...this.#map.values()].flatMap((patterns) => [...patterns.values()].flat())])]
  }

  /** Undefined when there is no such entry. Throws LdapUnavailable. */
  async of(local: string): Promise<Element | undefined> {
    const { settings } = this.#pool
    const filter = fillFilter(userFilter(this.#uids, settings.filter), { '%u': local, '%d': this.#host })
    const found = await this.#pool.search(settings.base, filter, this.#attributes, { sizeLimit: 10, binary: this.#attributes.filter((name) => this.#isPhoto(name)) }, PATIENCE_MS)
    const entries = found.filter((entry) => userNameOf(entry, this.#uids, this.#host) === local)
    const [entry] = entries
    return entry === undefined || entries.length > 1 ? undefined : this.#vcard(entry, local)
  }

  /** Users by what they are searched for, by attribute or `%u`; stars stand for any text. Throws LdapUnavailable. */
  async search(wanted: ReadonlyMap<string, string>, max: number): Promise<readonly FoundUser[]> {
    const { settings } = this.#pool
    const all = fillFilter(userFilter(this.#uids, settings.filter).replaceAll('%u', '*'), { '%d': this.#host })
    const parts = [...wanted].map(([name, pattern]) => {
      const escaped = pattern.split('*').map((piece) => fillFilter('%v', { '%v': piece })).join('*')
      return name === '%u' ? userFilter(this.#uids, '').replaceAll('%u', () => escaped) : `(${name}=${escaped})`
    })
    const found = await this.#pool.search(settings.base, `(&${all}${parts.join('')})`, this.#attributes.filter((name) => !this.#isPhoto(name)), { sizeLimit: max }, PATIENCE_MS)
    return found.flatMap((entry) => {
      const local = userNameOf(entry, this.#uids, this.#host)
      return local === undefined ? [] : [{ local, fields: new Map([...this.#map.keys()].filter((field) => field !== 'PHOTO').map((field) => [field, this.#text(entry, local, field)])) }]
    })
  }

  #isPhoto(name: string): boolean { return [...this.#map.get('PHOTO')?.values() ?? []].flat().includes(name) }

  #text(entry: LdapEntry, local: string, field: string): string {
    for (const [pattern, names] of this.#map.get(field) ?? []) {
      const values = names.map((name) => String(entry.values.get(name.toLowerCase())?.[0] ?? ''))
      if (names.length > 0 && values.every((each) => each === '')) continue
      const written = fill(pattern, { '%u': local, '%d': this.#host, '%s': values }).trim()
      if (written !== '') return clean(written)
    }
    return ''
  }

  #vcard(entry: LdapEntry, local: string): Element {
    const text = (name: string, field: string): Element | undefined => {
      const found = this.#text(entry, local, field)
      return found === '' ? undefined : xml(name, null, found)
    }
    const group = (name: string, ...parts: readonly (Element | undefined)[]): Element | undefined => {
      const there = parts.filter((part) => part !== undefined)
      return there.length === 0 ? undefined : xml(name, null, there)
    }
    const marked = (name: string, marks: readonly string[], part: Element | undefined): Element | undefined => part && xml(name, null, [...marks.map((mark) => xml(mark)), part])
    return xml('vCard', { xmlns: NS }, [
      text('FN', 'FN'), group('N', text('FAMILY', 'LAST'), text('GIVEN', 'FIRST'), text('MIDDLE', 'MIDDLE')), text('NICKNAME', 'NICKNAME'), this.#photo(entry), text('BDAY', 'BDAY'),
      group('ADR', text('STREET', 'STREET'), text('LOCALITY', 'LOCALITY'), text('REGION', 'REGION'), text('PCODE', 'PCODE'), text('CTRY', 'CTRY')),
      marked('TEL', ['VOICE', 'WORK'], text('NUMBER', 'TEL')), marked('EMAIL', ['INTERNET'], text('USERID', 'EMAIL')),
      text('TITLE', 'TITLE'), text('ROLE', 'ROLE'), group('ORG', text('ORGNAME', 'ORGNAME'), text('ORGUNIT', 'ORGUNIT')), text('URL', 'URL'), text('DESC', 'DESC'),
    ].filter((part) => part !== undefined))
  }

  #photo(entry: LdapEntry): Element | undefined {
    const [names] = this.#map.get('PHOTO')?.values() ?? []
    const [name] = names ?? []
    const photo = name === undefined ? undefined : entry.values.get(name.toLowerCase())?.[0]
    if (!Buffer.isBuffer(photo) || photo.length === 0) return undefined
    return xml('PHOTO', null, [xml('TYPE', null, mediaType(photo)), xml('BINVAL', null, photo.toString('base64'))])
  }
}

function mediaType(image: Buffer): string {
  if (image.subarray(0, 4).toString('latin1') === '\x89PNG') return 'image/png'
  return image.subarray(0, 3).toString('latin1') === 'GIF' ? 'image/gif' : 'image/jpeg'
}

/** Without what may not stand in XML. */
function clean(written: string): string {
  // oxlint-disable-next-line no-control-regex
  return written.replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g, '').toWellFormed()
}
