// XEP-0433: Extended Channel Search, version 0.1.0 (2020-02-27)
import { buildForm, FORMS_NS, parseForm } from '../../../lib/forms.ts'
import { parseResultSet, pageOf } from '../../../lib/result-set.ts'
import { StanzaError } from '../../../lib/stanza/errors.ts'
import { type Element, xml } from '../../../lib/xml/element.ts'
import type { MaybePromise } from '../../storage/shapes.ts'
import type { IqRequest } from '../extension.ts'

const NS = 'urn:xmpp:channel-search:0'
export const SEARCH_NS = `${NS}:search`
const PARAMS = `${NS}:search-params`
const BY_ADDRESS = `{${NS}:order}address`
const BY_USERS = `{${NS}:order}nusers`
const TYPE = 'xep-0045'
const TERM_MIN = 2
const TERMS_MAX = 10
const PAGE_MAX = 50

/** A listed room. */
export interface Listed {
  readonly address: string
  readonly name: string
  readonly description: string
  readonly language: string
  readonly users: number
  /** Whether anybody may enter. */
  readonly open: boolean
  readonly anonymous: boolean
}

/** Answers the form, or what a filled in form looks for. */
export function search({ payload }: IqRequest, rooms: () => MaybePromise<readonly Listed[]>): Element | Promise<Element> {
  const x = payload.getChild('x', FORMS_NS)
  if (x === undefined) return xml('search', { xmlns: SEARCH_NS }, searchForm())
  const form = parseForm(x, { kinds: ['submit'], formType: PARAMS })
  const q = form.value('q') ?? ''
  const all = form.boolean('all') === true
  if (all && q !== '') throw failure('bad-request', '<conflicting-fields', 'All rooms, or those of some words', '><var>all</var><var>q</var></conflicting-fields>')
  if (!all && !form.has('q')) throw failure('bad-request', '<no-search-conditions', 'What is looked for is missing')
  const key = form.value('key') ?? BY_USERS
  if (key !== BY_ADDRESS && key !== BY_USERS) throw failure('feature-not-implemented', '<invalid-sort-key', 'No such order')
  const terms = q.toLowerCase().split(/\s+/).filter((term) => term.length >= TERM_MIN)
  if (!all && (terms.length === 0 || terms.length > TERMS_MAX)) throw failure('bad-request', '<invalid-search-terms', `One to ${TERMS_MAX} words of at least ${TERM_MIN} characters`)
  const within = (name: string): boolean => form.boolean(name) ?? true
  // The specification names the field in two ways.
  const inAddress = form.boolean('sinaddress') ?? form.boolean('sinaddr') ?? true
  const [inName, inDescription] = [within('sinname'), within('sindescription')]
  const least = form.number('min_users') ?? 0
  const types = form.has('types') ? form.values('types') : [TYPE]
  const answer = (listed: readonly Listed[]): Element => resultOf(listed.filter((room) => {
    if (room.users < least) return false
    const text = `${inName ? room.name : ''}\n${inDescription ? room.description : ''}\n${inAddress ? room.address : ''}`.toLowerCase()
    return terms.every((term) => text.includes(term))
  }).sort((a, b) => (key === BY_USERS ? b.users - a.users : 0) || (a.address < b.address ? -1 : 1)), payload)
  const listed = types.includes(TYPE) ? rooms() : []
  return listed instanceof Promise ? listed.then(answer) : answer(listed)
}

function resultOf(found: readonly Listed[], payload: Element): Element {
  const { items, set } = pageOf(found, parseResultSet(payload), (room) => room.address, PAGE_MAX)
  return xml('result', { xmlns: SEARCH_NS }, items.map((room) => xml('item', { address: room.address },
    xml('name', null, room.name),
    room.description !== '' && xml('description', null, room.description),
    room.language !== '' && xml('language', null, room.language),
    xml('nusers', null, room.users),
    xml('service-type', null, TYPE),
    room.open && xml('is-open', null, 'true'),
    xml('anonymity-mode', null, room.anonymous ? 'muc_semianonymous' : `{${NS}:anonymity}none`))), set)
}

function searchForm(): Element {
  return buildForm('form', { formType: PARAMS, title: 'Search for rooms', fields: [
    { var: 'q', type: 'text-single', label: 'Search for' },
    { var: 'all', type: 'boolean', label: 'All rooms', value: false },
    { var: 'sinname', type: 'boolean', label: 'Search in names', value: true },
    { var: 'sindescription', type: 'boolean', label: 'Search in descriptions', value: true },
    { var: 'sinaddress', type: 'boolean', label: 'Search in addresses', value: true },
    { var: 'min_users', type: 'text-single', label: 'Least number of occupants', value: 0 },
    { var: 'types', type: 'list-multi', label: 'Kinds of rooms', value: [TYPE], options: [{ value: TYPE, label: 'Multi-User Chat' }] },
    { var: 'key', type: 'list-single', label: 'Order', value: BY_USERS, options: [{ value: BY_USERS, label: 'Number of occupants' }, { value: BY_ADDRESS, label: 'Address' }] },
  ] })
}

function failure(condition: 'bad-request' | 'feature-not-implemented', extra: string, text: string, rest = '/>'): StanzaError {
  return new StanzaError(condition, text, { type: 'modify', extra: `${extra} xmlns='${NS}:error'${rest}` })
}
