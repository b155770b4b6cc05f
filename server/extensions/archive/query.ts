/** XEP-0313 §4: reads a query, runs it, and builds the messages that answer it. Serves archives of accounts and of rooms. */
import { Jid } from '../../../lib/jid.ts'
import { buildForm, parseForm, FORMS_NS, VALIDATE_NS } from '../../../lib/forms.ts'
import { buildResultSet, parseResultSet } from '../../../lib/result-set.ts'
import { DELAY_NS, formatDateTime, parseDateTime } from '../../../lib/stanza/delay.ts'
import { StanzaError } from '../../../lib/stanza/errors.ts'
import { timeOfMessageId } from '../../../lib/stanza/ids.ts'
import { readStanza } from '../../../lib/stanza/read.ts'
import { CLIENT_NS, Stanza } from '../../../lib/stanza/stanza.ts'
import { type Element, escapeXml, xml } from '../../../lib/xml/element.ts'
import type { Archive, ArchivedItem, ArchivePage, ArchiveQuery } from '../../storage/shapes.ts'

export const MAM_NS = 'urn:xmpp:mam:2'
const PAGE_DEFAULT = 50
const PAGE_MAX = 250
/** Ids in one query. */
const IDS_MAX = 250
/** Items are counted for a page up to here, and not at all beyond: counting must not cost more than the page. */
const COUNT_MAX = 250
/** The same for a query that asks for the count alone. */
const COUNT_ALONE_MAX = 10_000
/** Bytes of the messages of one page, unless its first has more. A connection may have a few times as many waiting. */
const PAGE_BYTES_MAX = 1_048_576
/** Items read from the archive at a time. */
const READ_AT_ONCE = 100
/** Items looked at for one page when the filter is a full JID, which the index does not know. */
const SCAN_MAX = 10_000

export interface Query {
  readonly queryId: string | undefined
  readonly with: Jid | undefined
  readonly start: number | undefined
  readonly end: number | undefined
  /** From the form. */
  readonly beforeId: string | undefined
  readonly afterId: string | undefined
  readonly ids: readonly string[] | undefined
  readonly max: number
  /** From the result set; an empty `before` asks for the last page. */
  readonly after: string | undefined
  readonly before: string | undefined
  readonly flip: boolean
}

/** XEP-0313 §4.1.5: the fields a query may hold. */
export function queryForm(): Element {
  return xml(
    'query',
    { xmlns: MAM_NS },
    buildForm('form', {
      formType: MAM_NS,
      fields: [
        { var: 'with', type: 'jid-single' },
        { var: 'start', type: 'text-single' },
        { var: 'end', type: 'text-single' },
        { var: 'before-id', type: 'text-single' },
        { var: 'after-id', type: 'text-single' },
        { var: 'ids', type: 'list-multi', extra: [xml('validate', { xmlns: VALIDATE_NS, datatype: 'xs:string' }, xml('open'))] },
        { var: 'include-groupchat', type: 'boolean' },
      ],
    }),
  )
}

const FIELDS: ReadonlySet<string> = new Set(['with', 'start', 'end', 'before-id', 'after-id', 'ids', 'include-groupchat'])

export function readQuery(payload: Element): Query {
  // The node belongs to archives of pubsub (XEP-0442).
  if (payload.attrs['node'] !== undefined) throw new StanzaError('item-not-found', 'this archive has no nodes')
  const forms = payload.getChildren('x', FORMS_NS)
  if (forms.length > 1) throw new StanzaError('bad-request', 'more than one data form')
  const form = forms[0] && parseForm(forms[0], { kinds: ['submit'], formType: MAM_NS })
  // §4.1.5: a field that we do not know might have narrowed the result.
  for (const name of form?.fields.keys() ?? []) if (!FIELDS.has(name)) throw new StanzaError('feature-not-implemented', `the field ${name} is unknown`)
  form?.boolean('include-groupchat')
  const time = (name: string): number | undefined => {
    const text = form?.value(name)
    if (text === undefined || text === '') return undefined
    const ms = parseDateTime(text)
    if (ms === undefined) throw new StanzaError('bad-request', `${name} must be a date and time`)
    return ms
  }
  const written = form?.value('with')
  const other = written === undefined || written === '' ? undefined : Jid.tryParse(written)
  if (written !== undefined && written !== '' && other === undefined) throw new StanzaError('bad-request', 'with must be an address')
  const ids = form?.has('ids') ? [...new Set(form.values('ids'))] : undefined
  if (ids && ids.length > IDS_MAX) throw new StanzaError('policy-violation', `at most ${IDS_MAX} ids`)
  const set = parseResultSet(payload)
  // XEP-0059 §2.6: positions would have to be counted from the start each time.
  if (set.index !== undefined) throw new StanzaError('feature-not-implemented', 'pages by index are not offered')
  return {
    queryId: payload.attrs['queryid'],
    with: other,
    start: time('start'),
    end: time('end'),
    beforeId: form?.value('before-id') || undefined,
    afterId: form?.value('after-id') || undefined,
    ids,
    max: Math.min(set.max ?? PAGE_DEFAULT, PAGE_MAX),
    after: set.after || undefined,
    before: set.before,
    flip: payload.getChild('flip-page', MAM_NS) !== undefined,
  }
}

export interface Page {
  readonly items: readonly ArchivedItem[]
  readonly fin: Element
}

/** Runs a query. `floor`: an id, and what is not after it is not the asker's to see; it is as if the archive began there. */
export async function runQuery(archive: Archive, owner: string, query: Query, floor?: string): Promise<Page> {
  // §4.1.3 and §4.3.2: the client's picture of the archive is not ours, and it has to know.
  for (const id of [query.beforeId, query.afterId, query.before || undefined, query.after, ...(query.ids ?? [])]) {
    if (id === undefined) continue
    let item = archive.get(owner, id)
    if (item instanceof Promise) item = await item
    if (item === undefined || (floor !== undefined && id <= floor)) throw new StanzaError('item-not-found', 'the archive has no such id')
  }
  const full = query.with !== undefined && query.with.resource !== '' ? query.with.toString() : undefined
  const filter: Omit<ArchiveQuery, 'max' | 'direction'> = {
    // Every message of one of the owner's clients is to or from its full JID, whoever is at the other end.
    ...(query.with && (full === undefined || query.with.bare !== owner) && { with: query.with.bare }),
    ...(query.start !== undefined && { start: query.start }),
    ...(query.end !== undefined && { end: query.end }),
    ...(query.ids && { ids: query.ids }),
  }
  const afterId = later(query.afterId, floor)
  const whole = { ...filter, ...range(afterId, query.beforeId) }
  if (query.max === 0) {
    // XEP-0059 §2.7: the count alone. A full JID cannot be counted by the index.
    const count = full === undefined ? await archive.count(owner, whole, COUNT_ALONE_MAX) : undefined
    return { items: [], fin: fin(count === 0, { count }) }
  }
  const direction = query.before !== undefined ? 'backward' : 'forward'
  const after = later(afterId, query.after)
  const before = earlier(query.beforeId, query.before === '' ? undefined : query.before)
  const asked: ArchiveQuery = { ...filter, ...range(after, before), max: query.max, direction }
  const { items, complete } = await (full === undefined ? readPage(archive, owner, asked) : scanPage(archive, owner, asked, (item) => toOrFrom(item, full)))
  const unlimited = query.after === undefined && (query.before === undefined || query.before === '')
  let count: number | undefined
  if (unlimited && complete) count = items.length
  else if (full === undefined) {
    const counted = await archive.count(owner, whole, COUNT_MAX)
    if (counted < COUNT_MAX) count = counted
  }
  let index: number | undefined
  if (unlimited && direction === 'forward') index = 0
  else if (count !== undefined && query.before === '' && query.after === undefined) index = count - items.length
  return { items, fin: fin(complete, { first: items[0]?.id, last: items.at(-1)?.id, index, count }) }
}

/** §4.3.1: the items of a query, up to its `max` or what may be sent at once. */
async function readPage(archive: Archive, owner: string, query: ArchiveQuery): Promise<ArchivePage> {
  const page = createPage(query)
  let next = query
  for (;;) {
    const max = Math.min(query.max - page.length, READ_AT_ONCE)
    let read = archive.query(owner, { ...next, max })
    if (read instanceof Promise) read = await read
    if (!read.items.every((_, position) => page.take(itemAt(read.items, position, query.direction)))) return page.done(false)
    if (read.complete || page.length === query.max) return page.done(read.complete)
    next = beyond(query, read.items)
  }
}

/** The same of those items that match, which no index knows. */
async function scanPage(archive: Archive, owner: string, query: ArchiveQuery, matches: (item: ArchivedItem) => boolean): Promise<ArchivePage> {
  const page = createPage(query)
  let next = query
  for (let scanned = 0; scanned < SCAN_MAX; ) {
    const read = await archive.query(owner, { ...next, max: READ_AT_ONCE })
    scanned += read.items.length
    for (let position = 0; position < read.items.length; position++) {
      const item = itemAt(read.items, position, query.direction)
      // One more than the page holds: it is not the last.
      if (matches(item) && !page.take(item)) return page.done(false)
    }
    if (read.complete) return page.done(true)
    next = beyond(query, read.items)
  }
  // An empty page that is not the last would leave the client nowhere to go on from.
  if (page.length === 0) throw new StanzaError('resource-constraint', 'too many messages to look through; narrow the query by time')
  return page.done(false)
}

/** Collects items in the direction of a query. */
function createPage({ max, direction }: ArchiveQuery): { readonly length: number; take(item: ArchivedItem): boolean; done(complete: boolean): ArchivePage } {
  const items: ArchivedItem[] = []
  let bytes = 0
  return {
    get length() { return items.length },
    /** False when the page is full without it. */
    take(item) {
      bytes += item.bytes.length
      if (items.length > 0 && (items.length === max || bytes > PAGE_BYTES_MAX)) return false
      items.push(item)
      return true
    },
    done: (complete) => ({ items: direction === 'forward' ? items : items.toReversed(), complete }),
  }
}

/** What comes at a position when items are taken in the direction of a query. */
function itemAt(items: readonly ArchivedItem[], position: number, direction: ArchiveQuery['direction']): ArchivedItem {
  return items[direction === 'forward' ? position : items.length - 1 - position] as ArchivedItem
}

/** The query for what lies beyond these items. */
function beyond(query: ArchiveQuery, items: readonly ArchivedItem[]): ArchiveQuery {
  const edge = query.direction === 'forward' ? items.at(-1) : items[0]
  if (edge === undefined) throw new Error('an empty page of the archive that is not complete')
  return { ...query, ...(query.direction === 'forward' ? { afterId: edge.id } : { beforeId: edge.id }) }
}

/** §4.1.1: a message of an account matches by its `to` or its `from`. */
function toOrFrom(item: ArchivedItem, other: string): boolean {
  const { from, to } = readStanza(item.bytes)
  // `to` stands as the sender wrote it.
  return from === other || to === other || (to !== undefined && Jid.tryParse(to)?.toString() === other)
}

function range(afterId: string | undefined, beforeId: string | undefined): { afterId?: string; beforeId?: string } {
  return { ...(afterId !== undefined && { afterId }), ...(beforeId !== undefined && { beforeId }) }
}

function later(a: string | undefined, b: string | undefined): string | undefined {
  return a === undefined || (b !== undefined && b > a) ? b : a
}

function earlier(a: string | undefined, b: string | undefined): string | undefined {
  return a === undefined || (b !== undefined && b < a) ? b : a
}

function fin(complete: boolean, set: Parameters<typeof buildResultSet>[0]): Element {
  return xml('fin', { xmlns: MAM_NS, complete: complete ? 'true' : undefined }, buildResultSet(set))
}

const TAIL = '</forwarded></result>'
const MESSAGE = '<message'
const NAMESPACE = `${MESSAGE} xmlns='${CLIENT_NS}'`

/**
 * Makes the messages of an answer (§4.2), each built around the stored bytes: `from` is the archive, `to` who asked.
 */
export function resultMessages(from: string, to: string, queryId: string | undefined): (item: ArchivedItem) => Stanza {
  const start = `<result xmlns='${MAM_NS}'${queryId === undefined ? '' : ` queryid='${escapeXml(queryId)}'`} id='`
  return (item) => {
    const { bytes } = item
    const time = timeOfMessageId(item.id)
    const delay = time === undefined ? '' : `<delay xmlns='${DELAY_NS}' stamp='${formatDateTime(time)}'/>`
    // The stored stanza stands in a stream of `jabber:client`; here it has to say so. One without bytes was erased (§3.2).
    const skipped = bytes.length === 0 || bytes.latin1Slice(0, 16).startsWith(`${MESSAGE} xmlns=`) ? 0 : MESSAGE.length
    const head = `${start}${escapeXml(item.id)}'><forwarded xmlns='urn:xmpp:forward:0'>${delay}${skipped === 0 ? '' : NAMESPACE}`
    const headBytes = Buffer.byteLength(head)
    const content = Buffer.allocUnsafe(headBytes + bytes.length - skipped + TAIL.length)
    content.write(head, 0)
    bytes.copy(content, headBytes, skipped)
    content.write(TAIL, content.length - TAIL.length, 'latin1')
    const attrs = Object.create(null) as Record<string, string>
    attrs['from'] = from
    attrs['to'] = to
    attrs['id'] = item.id
    return new Stanza('message', CLIENT_NS, attrs, content, [{ name: 'result', xmlns: MAM_NS, start: 0, end: content.length }])
  }
}

/** §5: the first and last item of the archive, of what comes after the id `floor`. */
export async function readMetadata(archive: Archive, owner: string, floor?: string): Promise<Element> {
  const bounds = await boundsOf(archive, owner, floor)
  const edge = (name: string, id: string): Element => {
    const time = timeOfMessageId(id)
    return xml(name, { id, timestamp: time === undefined ? undefined : formatDateTime(time) })
  }
  return xml('metadata', { xmlns: MAM_NS }, bounds && [edge('start', bounds.first), edge('end', bounds.last)])
}

async function boundsOf(archive: Archive, owner: string, floor: string | undefined): Promise<{ first: string; last: string } | undefined> {
  const bounds = await archive.bounds(owner)
  if (bounds === undefined || floor === undefined || bounds.first > floor) return bounds
  const [first] = (await archive.query(owner, { afterId: floor, max: 1, direction: 'forward' })).items
  return first && { first: first.id, last: bounds.last }
}
