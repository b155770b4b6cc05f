// RFC 6121 §3 (subscriptions) and §4 (presence), for the accounts of this server.
import { Jid } from '../../lib/jid.ts'
import { StanzaError } from '../../lib/stanza/errors.ts'
import { CLIENT_NS, makeStanza, stanzaOf, type Stanza } from '../../lib/stanza/stanza.ts'
import { buildElement } from '../../lib/xml/build.ts'
import { isElement } from '../../lib/xml/element.ts'
import { type Sessions } from '../extensions/extension.ts'
import { type Log } from '../log.ts'
import { type MaybePromise } from '../storage/shapes.ts'
import { seen, sees, type RosterItem, type Rosters } from './rosters.ts'
import { type Session } from './session.ts'

export interface PresenceDeps {
  readonly rosters: Rosters
  readonly sessions: Pick<Sessions, 'of'>
  /** Whether accounts of this domain are ours. */
  isLocalHost(domain: string): boolean
  /** Whether an account of ours has its home at this node; all have when left out. */
  isHere?(bareJid: string): boolean
  /** Sends a broadcast or a probe to accounts of ours at other nodes. */
  toElsewhere?(stanza: Stanza, contacts: readonly string[]): void
  /** Sends on a presence that has passed its sender's side; for a local account it comes back through `toAccount`. */
  route(stanza: Stanza): void
  accountExists(bareJid: string): MaybePromise<boolean>
  /** False when either side blocks the other. Asked for presence that skips `route`, for each session that would get it. */
  mayReceive(from: Jid, to: Jid): boolean
  /** The first presence, or one with another priority or other capabilities (XEP-0115). */
  onAvailable(session: Session, presence: Stanza, first: boolean): void
  onUnavailable(session: Session): void
  /** Addresses one session may keep directed presence with. */
  readonly directedPresences?: number
  readonly log?: Log
}

export interface Presence {
  /** A presence of any type that a bound session sent. Throws a StanzaError to refuse it. */
  fromSession(session: Session, stanza: Stanza): void
  /** A presence for a local account, at its bare or full JID, from anywhere. */
  toAccount(delivery: { readonly stanza: Stanza; readonly from: Jid; readonly to: Jid }): void
  /** The session is over, or its client closed the stream: everybody who saw it hears of it. */
  sessionGone(session: Session): void
  /** The session was restored after a restart: it hears the present state of its contacts, also who of them is gone. */
  resumedAfterRestart(session: Session): void
  /** The session was brought back on this node after that of another was lost: its contacts see it again. */
  movedHere(session: Session): void
  /** The homes of these contacts are lost: the session hears that they are gone, and then of those that are back elsewhere. */
  contactsLost(session: Session, isLost: (contact: string) => boolean): void
}

type SubscriptionType = 'subscribe' | 'subscribed' | 'unsubscribe' | 'unsubscribed'

const CAPS_NS = 'http://jabber.org/protocol/caps'
/** Of a stored request longer than this only the bare request is kept. */
const PENDING_BYTES_MAX = 4096

/** Presence of all accounts here. */
export function createPresence(deps: PresenceDeps): Presence {
  const { rosters, sessions } = deps
  const directedMax = deps.directedPresences ?? 1000

  function isLocal(bareJid: string): boolean {
    return deps.isLocalHost(bareJid.slice(bareJid.indexOf('@') + 1)) && !isElsewhere(bareJid)
  }

  /** Of an account of ours. */
  function isElsewhere(bareJid: string): boolean {
    return deps.isHere?.(bareJid) === false
  }

  /** Whether this contact is an account of ours at another node that the user does not block: its home is sent the same as those of others. */
  function isNeighbour(session: Session, contact: string): boolean {
    if (!isElsewhere(contact) || !deps.isLocalHost(contact.slice(contact.indexOf('@') + 1))) return false
    const to = Jid.tryParse(contact)
    return to !== undefined && deps.mayReceive(session.jid, to)
  }

  // ---- Broadcast (RFC 6121 §4.2 – §4.5)

  /** To every contact that sees this account. Contacts here are reached without the router. */
  function broadcast(session: Session, stanza: Stanza): void {
    let copies: ((to: string) => Stanza) | undefined
    const addressed = (to: string): Stanza => (copies ??= stanza.copies())(to)
    let neighbours: string[] | undefined
    for (const contact of rosters.subscribers(session.owner)) {
      const here = sessions.of(contact)
      if (here.length === 0) {
        if (isLocal(contact)) continue
        if (isNeighbour(session, contact)) (neighbours ??= []).push(contact)
        else routeElsewhere(session, addressed(contact))
        continue
      }
      let copy: Stanza | undefined
      for (const each of here) {
        if (each.presence !== undefined && deps.mayReceive(session.jid, each.jid)) each.send((copy ??= addressed(contact)))
      }
    }
    if (neighbours !== undefined) deps.toElsewhere?.(stanza, neighbours)
  }

  /** To a contact of another server or of a service, unless the user blocks it (XEP-0191). */
  function routeElsewhere(session: Session, stanza: Stanza): void {
    const to = Jid.tryParse(stanza.to ?? '')
    if (to !== undefined && deps.mayReceive(session.jid, to)) deps.route(stanza)
  }

  /** To the available resources of the same account and to the sender itself (RFC 6121 §4.2.2, §4.4.2, §4.5.2). */
  function toOwnResources(session: Session, stanza: Stanza): void {
    let copy: Stanza | undefined
    for (const each of sessions.of(session.owner)) {
      if (each.presence === undefined && each !== session) continue
      each.send((copy ??= stanza.withAttrs({ to: session.owner })))
    }
  }

  function becomeAvailable(session: Session, stanza: Stanza): void {
    const priority = priorityOf(stanza)
    const before = session.presence
    const first = before === undefined
    const news = first || session.priority !== priority || capsOf(before) !== capsOf(stanza)
    session.presence = stanza
    session.priority = priority
    session.changed()
    broadcast(session, stanza)
    toOwnResources(session, stanza)
    if (first) {
      sendPresencesOf(session)
      deliverPending(session)
    }
    if (news) deps.onAvailable(session, stanza, first)
  }

  function becomeUnavailable(session: Session, stanza: Stanza): void {
    const was = session.presence
    session.presence = undefined
    session.priority = 0
    if (was !== undefined) {
      broadcast(session, stanza)
      toOwnResources(session, stanza)
    }
    // RFC 6121 §4.6.3: those who got directed presence hear of it as well, unless the broadcast has reached them.
    const directed = [...session.directed]
    session.directed.clear()
    session.changed()
    for (const address of directed) {
      const bare = bareOf(address)
      if (was !== undefined && (bare === session.owner || rosters.hasSubscriber(session.owner, bare))) continue
      try {
        deps.route(stanza.withAttrs({ to: address }))
      } catch (error) {
        // One address that refuses (blocked, gone) must not keep the others from hearing.
        if (!(error instanceof StanzaError)) throw error
      }
    }
    if (was !== undefined) deps.onUnavailable(session)
  }

  /** What the session would learn by probing (RFC 6121 §4.3): of contacts here at once, of others by a probe. */
  function sendPresencesOf(session: Session): void {
    const { owner } = session
    const to = session.jid.toString()
    for (const each of sessions.of(owner)) {
      if (each !== session && each.presence !== undefined) session.send(each.presence.withAttrs({ to }))
    }
    let neighbours: string[] | undefined
    for (const contact of rosters.subscriptions(owner)) {
      if (!isLocal(contact)) {
        if (isNeighbour(session, contact)) (neighbours ??= []).push(contact)
        else routeElsewhere(session, makeStanza('presence', { type: 'probe', from: to, to: contact }))
        continue
      }
      const others = sessions.of(contact)
      if (others.length === 0 || !rosters.hasSubscriber(contact, owner)) continue
      for (const each of others) {
        if (each.presence !== undefined && deps.mayReceive(each.jid, session.jid)) session.send(each.presence.withAttrs({ to }))
      }
    }
    if (neighbours !== undefined) deps.toElsewhere?.(makeStanza('presence', { type: 'probe', from: to }), neighbours)
  }

  /** As a probe would be answered (RFC 6121 §4.3.2): nobody is there, whoever was when the client last heard. */
  function sendAbsencesTo(session: Session): void {
    const { owner } = session
    for (const contact of rosters.subscriptions(owner)) {
      if (!isLocal(contact) || !rosters.hasSubscriber(contact, owner)) continue
      if (sessions.of(contact).some((each) => each.presence !== undefined)) continue
      if (deps.mayReceive(Jid.parse(contact), session.jid)) session.send(makeStanza('presence', { type: 'unavailable', from: contact, to: session.jid.toString() }))
    }
  }

  /** RFC 6121 §3.1.3: a request is delivered to each new available resource until it is answered. */
  function deliverPending(session: Session): void {
    for (const text of rosters.pendingRequests(session.owner)) {
      const stanza = parsePresence(text)
      const from = stanza && Jid.tryParse(stanza.from ?? '')
      // The contact may have been blocked in the meantime.
      if (stanza && from && deps.mayReceive(from, session.jid)) session.send(stanza)
    }
  }

  /** The presence of all resources of an account to one contact, or that they are unavailable. */
  function tellContact(owner: string, contact: string, available: boolean): void {
    for (const each of sessions.of(owner)) {
      if (each.presence === undefined) continue
      if (available) deps.route(each.presence.withAttrs({ to: contact }))
      else deps.route(makeStanza('presence', { type: 'unavailable', from: each.jid.toString(), to: contact }))
    }
  }

  // ---- Directed presence (RFC 6121 §4.6)

  function direct(session: Session, stanza: Stanza, to: Jid): void {
    const address = to.toString()
    const { directed } = session
    if (stanza.type === 'unavailable') {
      if (directed.delete(address)) session.changed()
      deps.route(stanza)
      return
    }
    priorityOf(stanza)
    const known = directed.has(address)
    if (!known && directed.size >= directedMax) throw new StanzaError('resource-constraint', 'Too many addresses with directed presence')
    // Before routing: a refusal may come back at once, and takes the address out again.
    directed.add(address)
    try {
      deps.route(stanza)
    } catch (error) {
      if (!known) directed.delete(address)
      throw error
    }
    if (!known) session.changed()
  }

  // ---- Subscriptions sent by our users (RFC 6121 §3, Appendix A.2)

  function subscriptionFrom(session: Session, stanza: Stanza, to: Jid, type: SubscriptionType): void {
    const { owner } = session
    const contact = to.bare
    if (contact === owner) return // Own resources see each other anyway.
    const item = rosters.item(owner, contact)
    // Nothing is to be asked for, and nothing can be ended.
    if (item?.shared) return
    // RFC 6121 §3.1.2: both addresses are bare.
    const out = stanza.withAttrs({ from: owner, to: contact })
    switch (type) {
      case 'subscribe': // A.2.1: always routed
        if (!sees(item)) rosters.set(owner, change(item, contact, { ask: true, hidden: false }))
        deps.route(out)
        return
      case 'unsubscribe': // A.2.2: always routed
        if (item && (sees(item) || item.ask)) rosters.set(owner, change(item, contact, { subscription: seen(item) ? 'from' : 'none', ask: false }))
        deps.route(out)
        return
      case 'subscribed': // A.2.3: routed only when there is a request
        if (item?.pendingIn !== undefined) {
          rosters.set(owner, change(item, contact, { subscription: sees(item) ? 'both' : 'from', pendingIn: undefined, hidden: false }))
          deps.route(out)
          tellContact(owner, contact, true) // §3.1.5
        } else if (!seen(item)) rosters.set(owner, change(item, contact, { approved: true, hidden: false })) // §3.4.2
        return
      case 'unsubscribed': // A.2.4: routed only when there is a request or a subscription
        if (item === undefined) return
        if (item.pendingIn !== undefined) {
          if (item.hidden) rosters.remove(owner, contact)
          else rosters.set(owner, change(item, contact, { pendingIn: undefined, approved: false }))
          deps.route(out)
        } else if (seen(item)) {
          tellContact(owner, contact, false) // §3.2.2: while the contact is still subscribed
          rosters.set(owner, change(item, contact, { subscription: sees(item) ? 'to' : 'none', approved: false }))
          deps.route(out)
        } else if (item.approved) rosters.set(owner, change(item, contact, { approved: false })) // §3.4: taken back
        return
      default: return type satisfies never
    }
  }

  // ---- Subscriptions that arrive (Appendix A.3)

  function subscriptionTo(stanza: Stanza, owner: string, contact: string, type: SubscriptionType): void {
    if (owner === contact) return
    const item = rosters.item(owner, contact)
    if (item?.shared) return
    const incoming = stanza.withAttrs({ from: contact, to: owner })
    switch (type) {
      case 'subscribe': // A.3.1
        if (seen(item)) {
          deps.route(makeStanza('presence', { type: 'subscribed', id: stanza.id, from: owner, to: contact })) // §3.1.3
          // The contact's side had lost the subscription, and with it what it knew.
          tellContact(owner, contact, true)
        } else if (item?.approved) { // §3.4.3
          rosters.set(owner, change(item, contact, { subscription: sees(item) ? 'both' : 'from', pendingIn: undefined, hidden: false }))
          deps.route(makeStanza('presence', { type: 'subscribed', id: stanza.id, from: owner, to: contact }))
          tellContact(owner, contact, true)
        } else if (item?.pendingIn === undefined) {
          const kept = incoming.content.length > PENDING_BYTES_MAX ? makeStanza('presence', { type, from: contact, to: owner }) : incoming
          try {
            rosters.set(owner, change(item, contact, { pendingIn: kept.toString(), hidden: item === undefined || item.hidden === true }))
          } catch (error) {
            // Too many strangers ask at once: this one may ask again.
            if (error instanceof StanzaError) return
            throw error
          }
          for (const each of sessions.of(owner)) if (each.presence !== undefined) each.send(incoming, { durable: true })
        }
        return
      case 'unsubscribe': // A.3.2
        if (item === undefined) return
        if (item.pendingIn !== undefined) {
          deliverSubscription(owner, incoming)
          if (item.hidden) rosters.remove(owner, contact)
          else rosters.set(owner, change(item, contact, { pendingIn: undefined }))
        } else if (seen(item)) {
          deliverSubscription(owner, incoming)
          rosters.set(owner, change(item, contact, { subscription: sees(item) ? 'to' : 'none' }))
          tellContact(owner, contact, false) // §3.3.3
        }
        return
      case 'subscribed': // A.3.3: ignored when nobody asked
        if (!item?.ask || sees(item)) return
        deliverSubscription(owner, incoming)
        rosters.set(owner, change(item, contact, { subscription: seen(item) ? 'both' : 'to', ask: false }))
        return
      case 'unsubscribed': // A.3.4
        if (item === undefined || !(item.ask || sees(item))) return
        deliverSubscription(owner, incoming)
        rosters.set(owner, change(item, contact, { subscription: seen(item) ? 'from' : 'none', ask: false }))
        return
      default: return type satisfies never
    }
  }

  /** After the commit: what the contact has answered must not be forgotten once the client has seen it. */
  function deliverSubscription(owner: string, stanza: Stanza): void {
    for (const each of sessions.of(owner)) if (each.interested || each.presence !== undefined) each.send(stanza, { durable: true })
  }

  // ---- Probes (RFC 6121 §4.3.2)

  function answerProbe(stanza: Stanza, from: Jid, to: Jid): void {
    const owner = to.bare
    const asker = from.bare
    const prober = from.toString()
    const own = asker === owner
    const allowed = own || rosters.hasSubscriber(owner, asker)
    let answered = false
    for (const each of sessions.of(owner)) {
      if (each.presence === undefined || (to.resource !== '' && each.jid.resource !== to.resource)) continue
      if (!allowed && !each.directed.has(prober) && !each.directed.has(asker)) continue
      if (own && each.jid.resource === from.resource) continue
      answered = true
      deps.route(each.presence.withAttrs({ to: prober }))
    }
    if (answered || own) return
    // RFC 6121 §4.3.2.1: these answers mirror the id, while presence keeps its own.
    const { id } = stanza
    if (allowed) {
      deps.route(makeStanza('presence', { type: 'unavailable', id, from: to.toString(), to: prober }))
      return
    }
    // The same answer whether the account exists or not. A request that waits for its answer must not be taken for refused.
    if (to.local !== '' && rosters.item(owner, asker)?.pendingIn === undefined) deps.route(makeStanza('presence', { type: 'unsubscribed', id, from: owner, to: asker }))
  }

  return {
    fromSession(session, given) {
      const full = session.jid.toString()
      const stanza = given.from === full ? given : given.withAttrs({ from: full })
      const { type } = stanza
      if (stanza.to === undefined) {
        if (type === undefined) becomeAvailable(session, stanza)
        else if (type === 'unavailable') becomeUnavailable(session, stanza)
        else if (type !== 'error') throw new StanzaError('bad-request', 'Not a type of presence without an address') // RFC 6121 §4.7.1
        return
      }
      const to = Jid.tryParse(stanza.to)
      if (to === undefined) throw new StanzaError('jid-malformed')
      switch (type) {
        case undefined:
        case 'unavailable':
          direct(session, stanza, to)
          return
        case 'subscribe':
        case 'subscribed':
        case 'unsubscribe':
        case 'unsubscribed':
          subscriptionFrom(session, stanza, to, type)
          return
        case 'probe':
        case 'error':
          deps.route(stanza)
          return
        default:
          throw new StanzaError('bad-request', 'No such type of presence') // RFC 6121 §4.7.1
      }
    },

    toAccount({ stanza, from, to }) {
      const owner = to.bare
      const { type } = stanza
      switch (type) {
        case undefined:
        case 'unavailable':
          // RFC 6121 §8.5: to the resource, or to all available ones; ignored when there is none or no such account.
          for (const each of sessions.of(owner)) {
            if (to.resource === '' ? each.presence !== undefined : each.jid.resource === to.resource) each.send(stanza)
          }
          return
        case 'error': {
          // To a bare JID nobody waits for it (RFC 6121 §8.5.2.1.2); a resource may be joining a room.
          if (to.resource === '') return
          for (const each of sessions.of(owner)) {
            if (each.jid.resource !== to.resource) continue
            if (each.directed.delete(from.toString())) each.changed()
            each.send(stanza)
          }
          return
        }
        case 'subscribe': {
          // RFC 6121 §8.5.1: silently ignored when there is no such account.
          const known = deps.accountExists(owner)
          if (known === true) subscriptionTo(stanza, owner, from.bare, type)
          else if (known !== false) {
            known.then((exists) => {
              if (exists) subscriptionTo(stanza, owner, from.bare, type)
            }).catch((error: unknown) => deps.log?.error({ what: 'subscription_failed', owner, error: String(error) }))
          }
          return
        }
        case 'subscribed':
        case 'unsubscribe':
        case 'unsubscribed':
          subscriptionTo(stanza, owner, from.bare, type)
          return
        case 'probe':
          answerProbe(stanza, from, to)
          return
        default:
          throw new StanzaError('bad-request', 'No such type of presence')
      }
    },

    sessionGone(session) {
      if (session.presence === undefined && session.directed.size === 0) return
      becomeUnavailable(session, makeStanza('presence', { type: 'unavailable', from: session.jid.toString() })) // RFC 6121 §4.5.1
    },

    movedHere(session) {
      if (session.presence !== undefined) broadcast(session, session.presence)
    },

    contactsLost(session, isLost) {
      if (session.presence === undefined) return
      const lost = rosters.subscriptions(session.owner).filter((contact) => isLost(contact) && isNeighbour(session, contact))
      if (lost.length === 0) return
      const to = session.jid.toString()
      for (const contact of lost) session.send(makeStanza('presence', { type: 'unavailable', from: contact, to }))
      deps.toElsewhere?.(makeStanza('presence', { type: 'probe', from: to }), lost)
    },

    resumedAfterRestart(session) {
      if (session.presence === undefined) return
      sendPresencesOf(session)
      sendAbsencesTo(session)
    },
  }
}

/** RFC 6121 §4.7.2.3: a byte, 0 when it is missing. Throws `bad-request` for anything else. */
export function priorityOf(stanza: Stanza): number {
  const child = stanza.find('priority', CLIENT_NS)
  if (child === undefined) return 0
  const text = stanza.childElement(child).text().trim()
  // compat: some clients send an empty element for the default.
  if (text === '') return 0
  const priority = /^[+-]?\d{1,6}$/.test(text) ? Number(text) : NaN
  if (!(priority >= -128 && priority <= 127)) throw new StanzaError('bad-request', 'The priority is an integer from -128 to 127')
  return priority
}

interface ItemChanges {
  readonly subscription?: RosterItem['subscription']
  readonly ask?: boolean
  readonly approved?: boolean
  readonly pendingIn?: string | undefined
  readonly hidden?: boolean
}

/** The item with some fields changed; a new one when there was none. */
function change(item: RosterItem | undefined, contact: string, changes: ItemChanges): RosterItem {
  const pendingIn = Object.hasOwn(changes, 'pendingIn') ? changes.pendingIn : item?.pendingIn
  const hidden = changes.hidden ?? item?.hidden === true
  return {
    jid: contact,
    subscription: changes.subscription ?? item?.subscription ?? 'none',
    ask: changes.ask ?? item?.ask ?? false,
    approved: changes.approved ?? item?.approved ?? false,
    groups: item?.groups ?? [],
    ...(item?.name !== undefined ? { name: item.name } : undefined),
    ...(pendingIn !== undefined ? { pendingIn } : undefined),
    ...(hidden ? { hidden } : undefined),
  }
}

function capsOf(stanza: Stanza): string {
  const child = stanza.find('c', CAPS_NS)
  return child === undefined ? '' : stanza.content.toString('latin1', child.start, child.end)
}

function bareOf(address: string): string {
  const slash = address.indexOf('/')
  return slash === -1 ? address : address.slice(0, slash)
}

/** A stored request. */
function parsePresence(text: string): Stanza | undefined {
  const element = buildElement(Buffer.from(text))
  if (element.getName() !== 'presence') return undefined
  return stanzaOf('presence', element.attrs, ...element.children.filter(isElement))
}
