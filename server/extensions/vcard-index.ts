/** What of a vCard can be searched for, kept in a record of its own: a search does not read everybody's pictures. */
import type { Element } from '../../lib/xml/element.ts'
import type { Key, Records, Value } from '../storage/shapes.ts'

/** Key [host, localpart]; value: the fields that are not empty. */
const TABLE = 'vcard_index'
const TEXT_MAX = 200
const PAGE = 500

/** ejabberd's names of the fields, each with where it stands in a vCard. */
const PATHS = {
  fn: ['FN'], first: ['N', 'GIVEN'], middle: ['N', 'MIDDLE'], last: ['N', 'FAMILY'], nick: ['NICKNAME'], bday: ['BDAY'],
  ctry: ['ADR', 'CTRY'], locality: ['ADR', 'LOCALITY'], email: ['EMAIL', 'USERID'], orgname: ['ORG', 'ORGNAME'], orgunit: ['ORG', 'ORGUNIT'],
} as const satisfies Record<string, readonly string[]>

export type IndexedField = keyof typeof PATHS
export type IndexedCard = Readonly<Partial<Record<IndexedField, string>>>

/** Writes what can be found of an account's vCard, in this turn. */
export function indexCard(records: Records, owner: string, card: Element): void {
  const found: Partial<Record<IndexedField, string>> = {}
  for (const [field, path] of Object.entries(PATHS)) {
    let at: Element | undefined = card
    for (const name of path) at = at?.getChildren(name)[0]
    const text = at?.getText().trim().slice(0, TEXT_MAX) ?? ''
    if (text !== '') found[field as IndexedField] = text
  }
  const key = keyOf(owner)
  if (Object.keys(found).length > 0) records.put(TABLE, key, found as Value)
  else records.delete(TABLE, key)
}

export function unindexCard(records: Records, owner: string): void {
  records.delete(TABLE, keyOf(owner))
}

/** Everybody of a host who has a vCard, by localpart. Between its pages others are served. */
export async function* indexedCards(records: Records, host: string): AsyncGenerator<{ local: string; card: IndexedCard }> {
  let after: Key | undefined
  for (;;) {
    const page: readonly { key: Key; value: Value }[] = await records.range(TABLE, [host], { limit: PAGE, ...(after && { after }) })
    for (const { key, value } of page) yield { local: key[1] as string, card: value as IndexedCard }
    if (page.length < PAGE) return
    after = page.at(-1)?.key
    await new Promise((resolve) => setImmediate(resolve))
  }
}

function keyOf(owner: string): Key {
  const at = owner.lastIndexOf('@')
  return [owner.slice(at + 1), owner.slice(0, at)]
}
