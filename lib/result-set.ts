/** XEP-0059: Result Set Management, version 1.0 (2006-09-20). */
import { StanzaError } from './stanza/errors.ts'
import { type Element, xml } from './xml/element.ts'

export const RSM_NS = 'http://jabber.org/protocol/rsm'

/** What a requester asks for. */
export interface ResultSetRequest {
  /** Not more items than this; 0 asks for the count alone (§2.7). */
  readonly max: number | undefined
  /** Items after this one; an empty text stands for the beginning. */
  readonly after: string | undefined
  /** Items before this one; an empty text asks for the last page (§2.5). */
  readonly before: string | undefined
  /** Items from this position on (§2.6). */
  readonly index: number | undefined
}

const NOTHING: ResultSetRequest = { max: undefined, after: undefined, before: undefined, index: undefined }

/** Reads the `<set/>` inside `parent`; all undefined when there is none. */
export function parseResultSet(parent: Element): ResultSetRequest {
  const sets = parent.getChildren('set', RSM_NS)
  if (sets.length === 0) return NOTHING
  if (sets.length > 1) throw new StanzaError('bad-request', 'more than one result set')
  const set = sets[0] as Element
  return { max: number(set, 'max'), after: one(set, 'after')?.text(), before: one(set, 'before')?.text(), index: number(set, 'index') }
}

function one(set: Element, name: string): Element | undefined {
  const found = set.getChildren(name, RSM_NS)
  if (found.length > 1) throw new StanzaError('bad-request', `more than one ${name}`)
  return found[0]
}

function number(set: Element, name: string): number | undefined {
  const text = one(set, name)?.text().trim()
  if (text === undefined) return undefined
  if (!/^\d{1,15}$/.test(text)) throw new StanzaError('bad-request', `${name} must be a number`)
  return Number(text)
}

/** What the answer says of its page. An empty page has neither `first` nor `last`. */
export interface ResultSetAnswer {
  readonly first?: string | undefined
  readonly last?: string | undefined
  /** Position of `first` in the full set. */
  readonly index?: number | undefined
  /** Items in the full set. */
  readonly count?: number | undefined
}

/** The `<set/>` of an answer. */
export function buildResultSet(answer: ResultSetAnswer): Element {
  return xml(
    'set',
    { xmlns: RSM_NS },
    answer.first !== undefined && xml('first', { index: answer.index }, answer.first),
    answer.last !== undefined && xml('last', null, answer.last),
    answer.count !== undefined && xml('count', null, answer.count),
  )
}

/** A page of a list that is in memory, by the rules of XEP-0059. Throws `item-not-found` for an unknown `after` or `before`. */
export function pageOf<T>(all: readonly T[], request: ResultSetRequest, idOf: (item: T) => string, maxItems: number): { items: readonly T[]; set: Element } {
  const max = Math.min(request.max ?? maxItems, maxItems)
  let start = 0
  let end = all.length
  const position = (id: string): number => {
    const found = all.findIndex((item) => idOf(item) === id)
    if (found === -1) throw new StanzaError('item-not-found')
    return found
  }
  if (request.after !== undefined && request.after !== '') start = position(request.after) + 1
  if (request.before !== undefined && request.before !== '') end = Math.max(start, position(request.before))
  if (request.index !== undefined) start = Math.min(request.index, all.length)
  const from = request.before !== undefined && request.index === undefined ? Math.max(start, end - max) : start
  const items = all.slice(from, Math.min(end, from + max))
  const first = items[0]
  const last = items.at(-1)
  return {
    items,
    set: buildResultSet({
      first: first === undefined ? undefined : idOf(first),
      last: last === undefined ? undefined : idOf(last),
      index: first === undefined ? undefined : from,
      count: all.length,
    }),
  }
}
