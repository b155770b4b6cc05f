// XEP-0402: PEP Native Bookmarks, version 1.2.0 (2024-08-15)
// XEP-0411: Bookmarks Conversion, version 1.1.0 (2021-10-19)
// XEP-0048: Bookmarks, version 1.2 (2020-08-04)
import { Jid } from '../../lib/jid.ts'
import { StanzaError } from '../../lib/stanza/errors.ts'
import { buildElement } from '../../lib/xml/build.ts'
import { type Element, isElement, xml } from '../../lib/xml/element.ts'
import { defineExtension, type PersonalNodes } from './extension.ts'
import { PRIVATE_TABLE } from './private-storage.ts'
import { standalone } from './standalone-element.ts'

/** One item for each room. */
const NATIVE = 'urn:xmpp:bookmarks:1'
/** The older form, a node with one item and in private storage: all rooms, and web pages, in one element. */
const LIST = 'storage:bookmarks'
const LIST_ITEM = 'current'
const CONVERSION = 'urn:xmpp:bookmarks-conversion:0'
/** Characters of the bookmarks of one account that are converted. */
const LENGTH_MAX = 262_144
/** Rooms of one list that are converted. */
const ROOMS_MAX = 1000
/** XEP-0402 §3.3 */
const NATIVE_CONFIG = { access_model: 'whitelist', persist_items: true, max_items: 'max', send_last_published_item: 'never' }
/** XEP-0048 §3.1; XEP-0411 §5: nobody else may read it. */
const LIST_CONFIG = { access_model: 'whitelist', persist_items: true }

export const bookmarks = defineExtension({
  name: 'bookmarks',
  // ejabberd converts bookmarks in its module of private storage.
  ejabberd: 'mod_private',
  specs: [
    { xep: 402, version: '1.2.0', status: 'complete' },
    { xep: 411, version: '1.1.0', status: 'complete' },
    { xep: 48, version: '1.2', status: 'complete' },
  ],
  needs: ['host', 'disco', 'hooks', 'pep', 'storage', 'log'],
  start({ host, disco, hooks, pep, storage: { records }, log }) {
    const nodes = pep.of(host)
    if (nodes === undefined) return
    disco.feature('account', `${NATIVE}#compat`, `${NATIVE}#compat-pep`, CONVERSION)
    let converting = false
    const isConvertible = (owner: string): boolean => [NATIVE, LIST].every((node) => nodes.fits(owner, node, LENGTH_MAX))

    /** What is written meanwhile is not converted again. */
    function convert(owner: string, run: () => void): void {
      if (converting) return
      converting = true
      try {
        if (isConvertible(owner)) run()
        else log.warn({ what: 'bookmarks_not_converted', owner, error: 'too long' })
      } catch (error) {
        // What the client wrote stays written.
        if (!(error instanceof StanzaError)) throw error
        log.warn({ what: 'bookmarks_not_converted', owner, error: error.condition })
      } finally {
        converting = false
      }
    }

    function privateList(owner: string): Element | undefined {
      const stored = records.get(PRIVATE_TABLE, [owner, LIST, 'storage'])
      return typeof stored === 'string' ? buildElement(Buffer.from(stored)) : undefined
    }

    function writePrivate(owner: string, list: Element): void {
      records.put(PRIVATE_TABLE, [owner, LIST, 'storage'], list.toString())
    }

    nodes.watch(NATIVE, ({ owner }) => {
      if (!nodes.has(owner, NATIVE)) return
      convert(owner, () => {
        const list = listOf(nodes.items(owner, NATIVE), privateList(owner) ?? listIn(nodes, owner))
        writePrivate(owner, list)
        publishList(nodes, owner, list)
      })
    })

    nodes.watch(LIST, ({ owner }) => {
      const list = listIn(nodes, owner)
      if (list === undefined) return
      convert(owner, () => {
        writePrivate(owner, list)
        updateNative(nodes, owner, list)
      })
    })

    const fromPrivate = (owner: string, list: Element): void => {
      convert(owner, () => {
        publishList(nodes, owner, list)
        updateNative(nodes, owner, list)
      })
    }
    hooks.privateWritten((owner, element) => { if (element.is('storage', LIST)) fromPrivate(owner, standalone(element)) })

    // XEP-0411 §4: what was there before this extension was.
    hooks.bound(({ owner }) => {
      if (nodes.has(owner, NATIVE)) return
      const list = listIn(nodes, owner) ?? privateList(owner)
      if (list !== undefined && list.getChildElements().length > 0) fromPrivate(owner, list)
    })
  },
})

function listIn(nodes: PersonalNodes, owner: string): Element | undefined {
  if (!nodes.has(owner, LIST) || !nodes.fits(owner, LIST, LENGTH_MAX)) return undefined
  return [...nodes.items(owner, LIST).values()].findLast((payload) => payload.is('storage', LIST))
}

function publishList(nodes: PersonalNodes, owner: string, list: Element): void {
  if (listIn(nodes, owner)?.toString() !== list.toString()) nodes.publish(owner, LIST, LIST_ITEM, list, LIST_CONFIG)
}

/** XEP-0402 §5.3.1: all items in one element, and with it what is known in the older form alone. */
function listOf(items: ReadonlyMap<string, Element>, before: Element | undefined): Element {
  const known = new Map(before === undefined ? [] : roomsOf(before))
  const rooms = [...items].flatMap(([id, conference]) => {
    if (Jid.tryParse(id) === undefined || !conference.is('conference', NATIVE)) return []
    const room = recast(conference, NATIVE, LIST, { jid: id, autojoin: String(isOn(conference.attrs['autojoin'])) }) // older clients know no other words
    for (const extra of known.get(id)?.getChildElements() ?? []) if (extra.getNS() !== LIST) room.append(standalone(extra))
    return [room]
  })
  const others = before?.getChildElements().filter((child) => !child.is('conference', LIST)).map(standalone) ?? []
  return xml('storage', { xmlns: LIST }, rooms, others)
}

/** The rooms of a list by their addresses. Those without a valid one are left out. */
function roomsOf(list: Element): [string, Element][] {
  return list.getChildren('conference', LIST).flatMap((conference): [string, Element][] => {
    const jid = Jid.tryParse(conference.attrs['jid'] ?? '')
    return jid === undefined ? [] : [[jid.bare, conference]]
  })
}

/** XEP-0402 §5.3.2: only what has changed is published. */
function updateNative(nodes: PersonalNodes, owner: string, list: Element): void {
  const before = nodes.has(owner, NATIVE) ? nodes.items(owner, NATIVE) : new Map<string, Element>()
  const rooms = new Map(roomsOf(list).reverse())
  if (rooms.size > ROOMS_MAX) throw new StanzaError('resource-constraint')
  for (const [id, conference] of [...rooms].reverse()) {
    const kept = before.get(id)
    const next = recast(conference, LIST, NATIVE, { jid: undefined })
    for (const child of next.getChildElements()) if (child.getNS() !== NATIVE) next.remove(child)
    // Clients of the older form do not know of extensions.
    const extensions = kept?.getChild('extensions', NATIVE)
    if (extensions !== undefined && next.getChild('extensions', NATIVE) === undefined) next.append(standalone(extensions))
    if (kept === undefined || meaningOf(kept) !== meaningOf(next)) nodes.publish(owner, NATIVE, id, next, NATIVE_CONFIG)
  }
  for (const [id, conference] of before) if (!rooms.has(id) && conference.is('conference', NATIVE)) nodes.retract(owner, NATIVE, id)
}

/** The same for bookmarks that say the same. */
function meaningOf(conference: Element): string {
  const { name, autojoin } = conference.attrs
  const extensions = conference.getChild('extensions', NATIVE)?.getChildElements().map((child) => standalone(child).toString())
  return JSON.stringify([name, isOn(autojoin), conference.getChildText('nick', NATIVE), conference.getChildText('password', NATIVE), extensions ?? []])
}

function isOn(autojoin: string | undefined): boolean {
  return autojoin === 'true' || autojoin === '1'
}

/** An element, and what is in it, in another namespace. What is in neither stays as it is. */
function recast(element: Element, from: string, to: string, attrs: Record<string, string | undefined>): Element {
  const { xmlns: _xmlns, ...own } = element.attrs
  const children = element.children.map((child) => {
    if (!isElement(child)) return child
    return child.getNS() === from ? recast(child, from, to, {}) : standalone(child)
  })
  return xml(element.getName(), { xmlns: to, ...own, ...attrs }, children)
}
