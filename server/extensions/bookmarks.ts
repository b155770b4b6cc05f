// XEP-0402: PEP Native Bookmarks, version 1.2.0 (2024-08-15)
// XEP-0411: Bookmarks Conversion 1.1.0 (2021-10-19)
import { Jid } from '../../lib/jid.ts'
import { StanzaError } from '../../lib/stanza/errors.ts'
import { buildElement } from '../../lib/xml/build.ts'
import { type Element, xml } from '../../lib/xml/element.ts'
import { defineExtension } from './extension.ts'
import { copyOf } from './standalone-element.ts'

const NS = 'urn:xmpp:bookmarks:1'
/** The node, and the element of private storage, of XEP-0048. */
const LEGACY_NS = 'storage:bookmarks'
const LEGACY_ITEM = 'current'
/** XEP-0223: nobody but the account reads these nodes. */
const PRIVATE = { persist_items: true, access_model: 'whitelist', send_last_published_item: 'never' }
const CONFIG = { ...PRIVATE, max_items: 'max' }

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
  start({ host, disco, hooks, pep, storage, log }) {
    const found = pep.of(host)
    if (found === undefined) return
    const nodes = found
    disco.feature('account', 'urn:xmpp:bookmarks-conversion:0', `${NS}#compat`, `${NS}#compat-pep`)

    /** The bookmarks as XEP-0048 has them; with the links, which XEP-0402 leaves out, of `others`. */
    function legacyOf(owner: string, others: Element | undefined): Element {
      const rooms = [...nodes.items(owner, NS)].map(([jid, conference]) => toLegacy(jid, conference))
      return xml('storage', { xmlns: LEGACY_NS }, rooms, others?.getChildElements().filter((child) => child.getName() !== 'conference').map(copyOf))
    }

    /** Takes over what a client wrote in the form of XEP-0048: changed ones are published, those that are gone are retracted. */
    function take(owner: string, written: Element): void {
      const before = nodes.items(owner, NS)
      const gone = new Set(before.keys())
      for (const conference of written.getChildren('conference')) {
        const jid = Jid.tryParse(conference.attrs['jid'] ?? '')?.toString()
        if (jid === undefined) continue
        gone.delete(jid)
        const known = before.get(jid)
        const next = fromLegacy(conference, known)
        if (known === undefined || toLegacy(jid, known).toString() !== toLegacy(jid, next).toString()) nodes.publish(owner, NS, jid, next, CONFIG)
      }
      for (const jid of gone) nodes.retract(owner, NS, jid)
    }

    function publishLegacy(owner: string, next: Element): void {
      const before = nodes.item(owner, LEGACY_NS, LEGACY_ITEM)
      if (before?.toString() !== next.toString()) nodes.publish(owner, LEGACY_NS, LEGACY_ITEM, next, PRIVATE)
    }

    /** The client's own write is not refused because a copy of it cannot be made. */
    function converting(owner: string, convert: () => void): void {
      try {
        convert()
      } catch (error) {
        if (!(error instanceof StanzaError)) throw error
        log.info({ what: 'bookmarks_not_converted', owner, condition: error.condition })
      }
    }

    nodes.watch(NS, ({ owner, byServer }) => {
      if (!byServer) converting(owner, () => { publishLegacy(owner, legacyOf(owner, nodes.item(owner, LEGACY_NS, LEGACY_ITEM))) })
    })
    nodes.watch(LEGACY_NS, ({ owner, byServer }) => {
      if (byServer) return
      const written = [...nodes.items(owner, LEGACY_NS).values()].at(-1)
      converting(owner, () => { take(owner, written ?? xml('storage', { xmlns: LEGACY_NS })) })
    })
    hooks.privateWritten((owner, element) => {
      if (!element.is('storage', LEGACY_NS)) return
      converting(owner, () => {
        take(owner, element)
        publishLegacy(owner, legacyOf(owner, element))
      })
    })
    hooks.privateRead((owner, element) => {
      if (!element.is('storage', LEGACY_NS) || !nodes.has(owner, NS)) return element
      return legacyOf(owner, nodes.item(owner, LEGACY_NS, LEGACY_ITEM) ?? element)
    })

    // XEP-0411 §4: what was kept before there were nodes is there when its client comes.
    hooks.bound(({ owner }) => {
      if (nodes.has(owner, NS) || nodes.has(owner, LEGACY_NS)) return
      const kept = storage.records.get('private', [owner, LEGACY_NS, 'storage'])
      if (typeof kept !== 'string') return
      const element = buildElement(Buffer.from(kept))
      if (element.getChild('conference') === undefined) return
      converting(owner, () => {
        take(owner, element)
        publishLegacy(owner, legacyOf(owner, element))
      })
    })
  },
})

function toLegacy(jid: string, conference: Element): Element {
  const { name, autojoin } = conference.attrs
  return xml('conference', { jid, name, autojoin: autojoin === 'true' || autojoin === '1' ? 'true' : 'false' }, textChild(conference, 'nick'), textChild(conference, 'password'))
}

/** What XEP-0048 cannot say of a bookmark stays as it was. */
function fromLegacy(conference: Element, known: Element | undefined): Element {
  const { name, autojoin } = conference.attrs
  const extensions = known?.getChild('extensions')
  return xml('conference', { xmlns: NS, name, autojoin: autojoin === 'true' || autojoin === '1' ? 'true' : 'false' },
    textChild(conference, 'nick'), textChild(conference, 'password'), extensions === undefined ? null : copyOf(extensions))
}

function textChild(conference: Element, name: string): Element | null {
  const child = conference.getChild(name)
  return child === undefined ? null : xml(name, null, child.getText())
}
