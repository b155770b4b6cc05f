// RFC 6121 §2: managing the roster; XEP-0237 (roster versioning) is its §2.6. Presence and subscriptions are in sessions/presence.ts.
import { Jid } from '../../lib/jid.ts'
import { StanzaError } from '../../lib/stanza/errors.ts'
import { randomId } from '../../lib/stanza/ids.ts'
import { makeStanza, stanzaOf } from '../../lib/stanza/stanza.ts'
import { escapeXml, xml, type Element } from '../../lib/xml/element.ts'
import { accessRule, bool } from '../config/options.ts'
import { seen, sees, type Roster, type RosterChange, type RosterItem } from '../sessions/rosters.ts'
import { type Session } from '../sessions/session.ts'
import { defineExtension } from './extension.ts'

export const ROSTER_NS = 'jabber:iq:roster'
/** Characters of a name or group (RFC 6121 §2.3.3: the server's own limit). */
const NAME_MAX = 1023
const GROUPS_MAX = 50
const SUBSCRIPTIONS = ['none', 'to', 'from', 'both'] as const

export const roster = defineExtension({
  name: 'roster',
  ejabberd: 'mod_roster',
  specs: [{ rfc: 6121, status: 'complete', note: '§2' }, { xep: 237, version: '1.3', status: 'complete' }],
  features: [ROSTER_NS],
  needs: ['host', 'iq', 'features', 'hooks', 'router', 'sessions', 'rosters', 'access', 'accountData', 'tell'],
  options: {
    versioning: { type: bool(), default: false, help: 'Sends only the changes to clients that have an earlier roster (XEP-0237).' },
    access: { type: accessRule(), default: 'all', help: 'Who may change their roster.' },
    store_current_id: { type: bool(), default: false, help: 'Versions are always stored.', ignored: 'has no effect: versions are always stored.' },
  },
  start({ host, iq, features, hooks, router, sessions, rosters, access, accountData, tell }, options) {
    if (options.versioning) features.afterLogin(() => "<ver xmlns='urn:xmpp:features:rosterver'/>") // RFC 6121 §2.6.1
    features.afterLogin(() => "<sub xmlns='urn:xmpp:features:pre-approval'/>") // RFC 6121 §3.4.1

    iq.get(`${ROSTER_NS} query`, 'account', ({ payload, from, to, session }) => {
      if (from.bare !== to.bare && !tell.runManagesRoster(to.bare, from, 'get')) throw new StanzaError('service-unavailable')
      // RFC 6121 §2.1.3: a roster get holds no items; what other specifications put there is ignored (RFC 6120 §8.4).
      if (payload.getChildren('item', ROSTER_NS).length > 0) throw new StanzaError('bad-request', 'A roster get holds no items')
      const known = payload.attrs['ver']
      const current = rosters.get(to.bare)
      if (from.bare !== to.bare) return queryOf(current, false)
      if (!options.versioning || known === undefined) {
        interest(session)
        return queryOf(current, false)
      }
      if (known !== '' && rosters.changesSince(from.bare, known) !== undefined) {
        // RFC 6121 §2.6.3: an empty result, then a push for each change. Until those are out no newer push may overtake them.
        setImmediate(() => {
          if (session === undefined) return
          const changes = rosters.changesSince(from.bare, known)
          interest(session)
          if (changes === undefined) pushAll(session, rosters.get(from.bare))
          else for (const change of changes) push(session, change, true)
        })
        return undefined
      }
      interest(session)
      return queryOf(current, true)
    })

    iq.set(`${ROSTER_NS} query`, 'account', ({ payload, from, to, session }) => {
      if (from.bare !== to.bare) return manage(to.bare, from, payload)
      if (!access.allows(options.access, session ? { jid: from, address: session.address } : { jid: from })) throw new StanzaError('not-allowed')
      const [element, ...more] = payload.getChildren('item', ROSTER_NS)
      if (element === undefined || more.length > 0) throw new StanzaError('bad-request', 'A roster set holds exactly one item')
      const jid = element.attrs['jid']
      if (jid === undefined || jid === '') throw new StanzaError('bad-request', 'The item has no jid')
      const parsed = Jid.tryParse(jid)
      if (parsed === undefined) throw new StanzaError('jid-malformed')
      const contact = parsed.bare
      if (contact === from.bare) throw new StanzaError('not-allowed', 'Nobody is their own contact')
      if (element.attrs['subscription'] === 'remove') {
        const item = rosters.item(from.bare, contact)
        if (item === undefined || item.hidden) throw new StanzaError('item-not-found') // RFC 6121 §2.5.3
        if (item.shared) throw new StanzaError('not-allowed', 'The contact is in a group that others keep')
        // In this order: who has heard that it is done may ask the contact anew at once.
        endSubscriptions(from.bare, item)
        rosters.remove(from.bare, contact)
        return
      }
      // RFC 6121 §2.4.2: pushed also when it leaves the item as it was.
      rosters.set(from.bare, edited(rosters.item(from.bare, contact), contact, element), { announce: true })
    })

    /** Somebody else changes the roster: one contact or several, with the subscription too. */
    function manage(owner: string, manager: Jid, query: Element): undefined {
      if (!tell.runManagesRoster(owner, manager, 'set')) throw new StanzaError('forbidden') // RFC 6121 §2.3.3
      const items = query.getChildren('item', ROSTER_NS).map((element) => {
        const contact = Jid.tryParse(element.attrs['jid'] ?? '')?.bare
        if (contact === undefined) throw new StanzaError('bad-request', 'An item has no jid')
        if (contact === owner) throw new StanzaError('not-allowed', 'Nobody is their own contact')
        const before = rosters.item(owner, contact)
        if (element.attrs['subscription'] === 'remove') {
          if (before?.shared === true) throw new StanzaError('not-allowed', 'The contact is in a group that others keep')
          return { contact, before, item: undefined }
        }
        const item = edited(before, contact, element)
        return { contact, before, item: { ...item, subscription: SUBSCRIPTIONS.find((each) => each === element.attrs['subscription']) ?? item.subscription, ask: element.attrs['ask'] === 'subscribe' || (item.ask && element.attrs['subscription'] === undefined) } }
      })
      if (items.length === 0) throw new StanzaError('bad-request', 'A roster set holds an item')
      // All are right, or none is written.
      for (const { contact, before, item } of items) {
        if (item !== undefined) rosters.set(owner, item, { announce: true })
        else if (before !== undefined) {
          endSubscriptions(owner, before)
          rosters.remove(owner, contact)
        }
      }
      return undefined
    }

    function interest(session: Session | undefined): void {
      if (session === undefined || session.interested) return
      session.interested = true
      session.changed()
    }

    /** RFC 6121 §2.5.2: what the contact hears when its item is removed, or the account. */
    function endSubscriptions(owner: string, item: RosterItem): void {
      if (sees(item) || item.ask) router.route(makeStanza('presence', { type: 'unsubscribe', from: owner, to: item.jid }))
      // RFC 6121 §3.2.2: unavailable while the contact is still subscribed.
      if (seen(item)) {
        for (const each of sessions.of(owner)) {
          if (each.presence !== undefined) router.route(makeStanza('presence', { type: 'unavailable', from: each.jid.toString(), to: item.jid }))
        }
      }
      // A request that nobody can answer any more is refused.
      if (seen(item) || item.pendingIn !== undefined) router.route(makeStanza('presence', { type: 'unsubscribed', from: owner, to: item.jid }))
    }

    hooks.accountRemoved((owner) => {
      const items = [...rosters.get(owner).items.values()]
      // The roster goes first: what the contacts' side answers finds nothing to change.
      rosters.removeAll(owner)
      for (const item of items) endSubscriptions(owner, item)
    })

    accountData.exports(function* (owner) {
      const current = rosters.get(owner)
      if (current.items.size > 0) yield queryOf(current, false).toString()
      for (const request of rosters.pendingRequests(owner)) yield standaloneRequest(request)
    })
    accountData.imports(`${ROSTER_NS} query`, (owner, query) => {
      for (const element of query.getChildren('item')) {
        const contact = Jid.tryParse(element.attrs['jid'] ?? '')?.bare
        if (contact === undefined || contact === owner) continue
        const subscription = SUBSCRIPTIONS.find((each) => each === element.attrs['subscription']) ?? 'none'
        const { hidden: _hidden, ...item } = edited(rosters.item(owner, contact), contact, element)
        rosters.set(owner, { ...item, subscription, ask: element.attrs['ask'] === 'subscribe', approved: element.attrs['approved'] === 'true' })
      }
    })
    accountData.imports('jabber:client presence', (owner, presence) => {
      const contact = Jid.tryParse(presence.attrs['from'] ?? '')?.bare
      if (contact === undefined || presence.attrs['type'] !== 'subscribe') throw new Error('the presence is no request of a contact')
      const known = rosters.item(owner, contact)
      const request = stanzaOf('presence', { ...presence.attrs, xmlns: undefined, from: contact, to: owner }, ...presence.getChildElements()).toString()
      rosters.set(owner, { ...known ?? { jid: contact, subscription: 'none', ask: false, approved: false, groups: [], hidden: true }, pendingIn: request })
    })

    // RFC 6121 §2.1.6: a push to each resource that has asked for the roster. All hosts share the rosters; we push for ours.
    return rosters.onChange((owner, change) => {
      if (!ownedBy(owner, host)) return
      for (const session of sessions.of(owner)) if (session.interested) push(session, change, options.versioning, true)
    })
  },
})

function ownedBy(owner: string, host: string): boolean {
  return owner.length > host.length && owner.endsWith(host) && owner[owner.length - host.length - 1] === '@'
}

function queryOf(current: Roster, versioning: boolean): Element {
  const query = xml('query', { xmlns: ROSTER_NS, ver: versioning ? current.version : undefined })
  for (const item of current.items.values()) if (!item.hidden) query.append(itemElement(item))
  return query
}

/** A stored request, as it stands outside a stream. */
function standaloneRequest(text: string): string {
  return text.startsWith('<presence xmlns=') ? text : text.replace('<presence', "<presence xmlns='jabber:client'")
}

function itemElement(item: RosterItem): Element {
  return xml('item', {
    jid: item.jid,
    name: item.name,
    subscription: item.subscription,
    ask: item.ask ? 'subscribe' : undefined,
    approved: item.approved ? 'true' : undefined,
  }, item.groups.map((group) => xml('group', null, group)))
}

/** `durable`: the change was made in this turn, and nobody hears of it before it is stored; nor of the result that follows. */
function push(session: Session, change: RosterChange, versioning: boolean, durable = false): void {
  const item = change.item ? itemElement(change.item).toString() : `<item jid='${escapeXml(change.contact)}' subscription='remove'/>`
  const ver = versioning ? ` ver='${change.version}'` : ''
  session.send(makeStanza('iq', { type: 'set', id: `push-${randomId(6)}`, to: session.jid.toString() }, [
    { name: 'query', xmlns: ROSTER_NS, text: `<query xmlns='${ROSTER_NS}'${ver}>${item}</query>` },
  ]), { durable })
}

function pushAll(session: Session, current: Roster): void {
  for (const item of current.items.values()) if (!item.hidden) push(session, { contact: item.jid, item, version: current.version }, true)
}

/** The item as the client wants it: name and groups are the client's, all else is ours (RFC 6121 §2.1.2, §2.3.2). */
function edited(before: RosterItem | undefined, contact: string, element: Element): RosterItem {
  const name = element.attrs['name']
  if (name !== undefined && name.length > NAME_MAX) throw new StanzaError('not-acceptable', 'The name is too long')
  const groups: string[] = []
  for (const child of element.getChildElements()) {
    if (!child.is('group', ROSTER_NS)) continue
    const group = child.text()
    if (group === '') throw new StanzaError('not-acceptable', 'A group has no name')
    if (group.length > NAME_MAX) throw new StanzaError('not-acceptable', 'The name of a group is too long')
    if (groups.includes(group)) throw new StanzaError('bad-request', 'A group is given twice')
    if (groups.length >= GROUPS_MAX) throw new StanzaError('not-acceptable', 'Too many groups')
    groups.push(group)
  }
  return {
    jid: contact,
    subscription: before?.subscription ?? 'none',
    ask: before?.ask ?? false,
    approved: before?.approved ?? false,
    groups,
    ...(name !== undefined && name !== '' ? { name } : undefined),
    ...(before?.pendingIn !== undefined ? { pendingIn: before.pendingIn } : undefined),
  }
}
