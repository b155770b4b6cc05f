/**
 * The named phases of a stanza's path and of a session's life. Within a phase handlers run in the order of the list in
 * extensions/index.ts.
 *
 * A message or presence passes, for its sender's account if that is local: `checkOutgoing`, `stampOutgoing`; then for its
 * recipient's if that is local: `checkIncoming`, `stampIncoming`; then once `store`, and `copy` for each side; then it is delivered,
 * or `undeliverable` is asked; `safeguard` when nobody it goes to outlives the process. A broadcast presence passes `stampOutgoing`
 * once, and `checkBroadcast` for each who would get it. All of these are synchronous: whatever one stanza writes is committed together.
 */
import type { Jid } from '../../lib/jid.ts'
import type { Element } from '../../lib/xml/element.ts'
import type { Stanza } from '../../lib/stanza/stanza.ts'
import type { Session, Taken } from '../sessions/session.ts'

/** A stanza with its route and what was learnt on the way. */
export interface Delivery {
  /** As it stands now; a stamp replaces it. */
  stanza: Stanza
  readonly from: Jid
  readonly to: Jid
  /** The sender's session, when it is here. */
  readonly session: Session | undefined
  /** The id under which it is archived and queued; set before `store`. */
  readonly id: string
  /** Milliseconds since 1970. */
  readonly time: number
  /** Whether the account of `from` or `to` is one of ours, with its home at this node: its side of the stanza is to be done here. */
  readonly fromLocal: boolean
  readonly toLocal: boolean
  /** Its sender was told, by another node, that it is safe. */
  promised?: boolean
  /** Set by `stampOutgoing` or `stampIncoming` (XEP-0334, XEP-0280 `<private/>`): not archived / not copied / not kept offline. */
  noArchive: boolean
  noCopy: boolean
  noOffline: boolean
  /** Whether the archive of each side took it; set by `store`. */
  archivedFrom: boolean
  archivedTo: boolean
  /** Whether it must be on stable storage before anybody sees it; set by whoever writes it. */
  durable: boolean
  /** It was accepted before, and comes back from a session that is over: no limit refuses it now. */
  readonly accepted?: boolean
  /** The sessions it went to, for `copy`. */
  reached: readonly Session[]
}

type Handler = (delivery: Delivery) => void

/** What becomes of a stanza to an inactive client: `hold` names what it is the latest of. */
export type WhileInactive = { readonly hold: string } | 'drop' | 'send'

export interface Hooks {
  /** May refuse, by throwing a StanzaError. */
  checkOutgoing(handler: Handler): void
  checkIncoming(handler: Handler): void
  /**
   * Whether a broadcast presence may go from one to the other: false keeps it back. Asked on the host of the sender and on that of
   * the recipient, in place of `checkOutgoing` and `checkIncoming`.
   */
  checkBroadcast(handler: (from: Jid, to: Jid) => boolean): void
  /** May change `delivery.stanza` and the flags. */
  stampOutgoing(handler: Handler): void
  stampIncoming(handler: Handler): void
  /** May write it to the archive. Messages only. */
  store(handler: Handler): void
  /** After delivery to the addressed sessions: copies for other sessions of the sender and of the recipient. Messages only. */
  copy(handler: Handler): void
  /**
   * The message is about to go to sessions of which none outlives the process, and its sender is told that it is safe. The handler may store it
   * until one of them has it: what it answers is told. Messages only.
   */
  safeguard(handler: (delivery: Delivery) => Taken | undefined): void
  /** Whether this session got a copy of the message when it was delivered to others. Asked when one of these is over and had not got it. */
  copied(handler: (delivery: Delivery, session: Session) => boolean): void
  /** No session took this message (RFC 6121 §8.5.2.2): true when the handler did. Otherwise the router answers as the RFC says. */
  undeliverable(handler: (delivery: Delivery) => boolean): void
  /** A message, and no error, for the host itself: true when the handler took it. May refuse, by throwing a StanzaError. */
  toHost(handler: (delivery: Delivery) => boolean): void

  /**
   * Before a stanza is sent to a session: `hold` keeps it with the session, in place of what is held under the same name, until
   * something urgent is sent or the client becomes active; `drop` discards it; otherwise it goes at once. Asked only for sessions that are inactive (XEP-0352).
   */
  whileInactive(handler: (session: Session, stanza: Stanza) => WhileInactive | undefined): void

  /**
   * A stanza waits for a client that is away: in the queue of this session, which waits for resumption or whose client is inactive
   * (XEP-0352), or without a session in the offline queue of its account. `id` is that of its delivery, unless the stanza carries it as
   * its stanza-id. What waits is not on stable storage yet.
   */
  waiting(handler: (owner: string, stanza: Stanza, id: string | undefined, session: Session | undefined) => void): void

  /** Resource binding is done. */
  bound(handler: (session: Session) => void): void
  /** First presence, or a presence with another priority: offline messages go out here when the priority is not negative. */
  available(handler: (session: Session, presence: Stanza, first: boolean) => void): void
  unavailable(handler: (session: Session) => void): void
  /** The connection is gone but the session waits for resumption (XEP-0198 §5). */
  detached(handler: (session: Session) => void): void
  /** `restarted`: it is the first time since the process began; presence that its client had not got is lost. */
  resumed(handler: (session: Session, restarted: boolean) => void): void
  /** The session is over; stanzas that could not be delivered come back through `undeliverable`. */
  closed(handler: (session: Session) => void): void
  /** The host serves from now on: at a start after the sessions that wait for resumption are back, and after each reload. */
  started(handler: () => void): void
  /** The server is about to stop: sessions that end from now on end because of it. */
  stopping(handler: () => void): void
  /** A group message of somebody else that a local account (a bare JID) takes part in by right: `sentTo` says which of its sessions are in the room, where they get it. */
  missed(handler: (owner: string, stanza: Stanza, sentTo: (session: Session) => boolean) => void): void
  /** A moderator took back what a local account (a bare JID) had said in a room: the files that it had uploaded for that go too (XEP-0425). */
  moderated(handler: (author: string, message: Stanza) => void | Promise<void>): void
  /** Somebody asks for an account's vCard (XEP-0054); it may be changed for them. */
  vcardRead(handler: (owner: string, asker: Jid, vcard: Element) => void): void
  /** An account is about to write its vCard, which may be changed first. Throws a StanzaError to refuse it. */
  vcardWriting(handler: (owner: string, vcard: Element) => Promise<void> | undefined): void
  /** An account's vCard, or an element of its private storage (XEP-0049), was written, in this turn and by its owner. */
  vcardWritten(handler: (owner: string, vcard: Element, before: Element | undefined) => void): void
  privateWritten(handler: (owner: string, element: Element) => void): void
  /** A user (a bare JID) blocks an address; `item` is what the client said of it (XEP-0191). */
  blocked(handler: (owner: string, jid: string, item: Element) => void): void
  /** An account is being removed: erase what belongs to it. */
  accountRemoved(handler: (bareJid: string) => void | Promise<void>): void
  /** The account's password is another now; called in the turn in which that is written. */
  passwordChanged(handler: (bareJid: string) => void): void
  accountRegistered(handler: (bareJid: string) => void | Promise<void>): void
  /**
   * A component has connected for a domain, here or, without `tell`, at another node. `tell` sends to this very connection. Called on all hosts.
   */
  componentConnected(handler: (domain: string, tell: ((stanza: Stanza) => void) | undefined) => void): void
  /** Whether somebody else than the owner of a roster may read or change it: true for yes, a StanzaError for no, false for whoever is not known. */
  managesRoster(handler: (owner: string, manager: Jid, type: 'get' | 'set') => boolean): void
  /** This node is not the home of these units any more (cluster/shapes.ts): what is kept in memory of them may be out of date when they come again. */
  released(handler: (units: ReadonlySet<string>) => void): void
  /** This node has become the home of a unit; what is stored of it may be read. */
  came(handler: (unit: string) => void): void
  /** Nodes are gone for good, with the sessions that they had; `wasThere` says which units are known to have been there. They may be back elsewhere. */
  nodesLost(handler: (wasThere: (unit: string) => boolean) => void): void
  /** This extension at another node, or here, says something to that of a unit's home (Router.tell); the first word says what. */
  told(handler: (unit: string, words: readonly string[]) => void): void
}

/** Hooks that extensions run. */
export interface HookCalls {
  runManagesRoster(owner: string, manager: Jid, type: 'get' | 'set'): boolean
  runVcardRead(owner: string, asker: Jid, vcard: Element): void
  runVcardWriting(owner: string, vcard: Element): Promise<void>
  runVcardWritten(owner: string, vcard: Element, before: Element | undefined): void
  runPrivateWritten(owner: string, element: Element): void
}
