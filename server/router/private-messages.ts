/** Private messages of rooms, ours or others' (XEP-0045 §7.5): who is in a room is known by the presence that a session has sent there. */
import type { Jid } from '../../lib/jid.ts'
import type { Stanza } from '../../lib/stanza/stanza.ts'
import type { Session } from '../sessions/session.ts'

const MUC_USER_NS = 'http://jabber.org/protocol/muc#user'
const INVITE = /<(?:[\w.-]+:)?(?:invite|decline)[\s/>]/

/** The addresses by which a session is in the room of somebody else in it. */
function nicksOf(session: Session, other: Jid): readonly string[] {
  const full = other.toString()
  return session.directedAt(other.bare).filter((address) => address !== full)
}

/** Whether a session is in the room of an occupant. */
export function isInRoomOf(session: Session, occupant: Jid): boolean {
  return nicksOf(session, occupant).length > 0
}

/**
 * What a room at another node says to a client of its own presence there (XEP-0045 §7.6, §7.14): under which nickname it is from now on, or that
 * it is out, so that it need not be told when the session ends.
 */
export function noteOwnPresence(session: Session, presence: Stanza): void {
  const { from } = presence
  const span = presence.type === 'unavailable' ? presence.find('x', MUC_USER_NS) : undefined
  if (span === undefined || from === undefined || !session.directed.has(from)) return
  const x = presence.childElement(span)
  const codes = x.getChildren('status').map((status) => status.attrs['code'])
  if (!codes.includes('110')) return
  session.directed.delete(from)
  const nick = codes.includes('303') ? x.getChild('item')?.attrs['nick'] : undefined
  if (nick !== undefined) session.directed.add(`${from.slice(0, from.indexOf('/'))}/${nick}`)
  session.changed()
}

/** Whether both are in the room of an occupant under one nickname. */
export function shareNick(a: Session, b: Session, occupant: Jid): boolean {
  return nicksOf(a, occupant).some((nick) => b.directed.has(nick))
}

/** Whether a message says that it is of an occupant, or to one; an invitation is none. */
export function isMarkedPrivate(stanza: Stanza): boolean {
  const marked = stanza.find('x', MUC_USER_NS)
  return marked !== undefined && !isInvite(stanza, marked)
}

/** Whether `<x/>` is a mediated invitation or its answer (XEP-0045 §7.8.2). */
export function isInvite(stanza: Stanza, child: { readonly start: number; readonly end: number }): boolean {
  return INVITE.test(stanza.content.latin1Slice(child.start, child.end))
}
