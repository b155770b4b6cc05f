/** Entering, leaving and changing one's presence or nickname (XEP-0045 §7.1, §7.2, §7.6, §7.7, §7.14). */
import { randomInt } from 'node:crypto'
import type { Jid } from '../../../lib/jid.ts'
import { DELAY_NS } from '../../../lib/stanza/delay.ts'
import { StanzaError } from '../../../lib/stanza/errors.ts'
import { CLIENT_NS, makeStanza, type Stanza } from '../../../lib/stanza/stanza.ts'
import type { Element } from '../../../lib/xml/element.ts'
import type { Session } from '../../sessions/session.ts'
import { sendDiscussion } from './messages.ts'
import { type Client, HATS_NS, MUC_NS, MUC_USER_NS, OCCUPANT_ID_NS, type Room } from './room.ts'
import { reaches } from './room-config.ts'

/** What only the room says in a presence. */
function isRooms({ xmlns }: { readonly xmlns: string }): boolean {
  return xmlns === MUC_USER_NS || xmlns === MUC_NS || xmlns === OCCUPANT_ID_NS || xmlns === HATS_NS || xmlns === DELAY_NS
}

/** A presence without its addresses, and without what only the room says. */
function shownOf(stanza: Stanza): Stanza {
  const { type } = stanza
  const lang = stanza.attrs['xml:lang']
  return stanza.without(isRooms).withAttrs({ ...Object.fromEntries(Object.keys(stanza.attrs).filter((key) => !key.startsWith('xmlns:')).map((key) => [key, undefined])), type, 'xml:lang': lang })
}

/** An available presence of somebody who is in the room already. */
export function update(room: Room, client: Client, stanza: Stanza, nick: string): void {
  const { occupant } = client
  const { rooms } = room
  const now = rooms.parts.now()
  if (now - client.presenceAt < rooms.presenceIntervalMs) throw new StanzaError('resource-constraint', 'not so many presences in so little time')
  client.presenceAt = now
  let presence = shownOf(stanza)
  if (occupant.role === 'visitor' && !room.config.visitorStatus) presence = presence.without(({ name, xmlns }) => name === 'status' && xmlns === CLIENT_NS)
  if (nick !== occupant.nick) return changeNick(room, client, presence, nick, stanza.id)
  const changed = !presence.bytes().equals(client.presence.bytes())
  client.presence = presence.compact()
  // Its presence is the one that is shown from now on.
  occupant.clients.push(...occupant.clients.splice(occupant.clients.indexOf(client), 1))
  room.store(client)
  if (!stanza.has('x', MUC_NS)) return room.tell(occupant, client, { answers: { client, id: stanza.id } })
  // §7.2: it does not know that it is in the room, and is told everything again.
  sendOccupants(room, client)
  if (changed) room.tell(occupant, client, { ownCodes: ownCodes(room), answers: { client, id: stanza.id } })
  else room.send(client, room.presenceOf(occupant, client, true, [...ownCodes(room), 110]).withAttrs({ from: occupant.jid.toString(), id: stanza.id }))
  if (room.avatars.length > 0) room.tellAvatar([client])
  sendDiscussion(room, client, historyOf(stanza))
}

/** §7.6 */
function changeNick(room: Room, client: Client, presence: Stanza, nick: string, id: string | undefined): void {
  const { occupant } = client
  if (occupant.role === 'visitor' && !room.config.visitorNickChange) throw new StanzaError('not-allowed', 'visitors may not change their nickname here')
  if (room.occupants.has(nick) || reservedByOther(room, nick, occupant.bare)) throw new StanzaError('conflict', 'the nickname is taken')
  const before = occupant.jid
  room.tell(occupant, client, { codes: [303], nick, gone: true, answers: { client, id } })
  room.occupants.delete(occupant.nick)
  room.noteGone(occupant.nick)
  room.noteBack(nick)
  occupant.nick = nick
  occupant.jid = room.jid.withResource(nick)
  room.occupants.set(nick, occupant)
  client.presence = presence.compact()
  for (const each of occupant.clients) {
    room.store(each)
    forgetDirected(each, before)
    const session = room.rooms.parts.sessions.get(each.full)
    if (session === undefined || session.directed.has(occupant.jid.toString())) continue
    session.directed.add(occupant.jid.toString())
    session.changed()
  }
  room.tell(occupant, client, { answers: { client, id } })
}

/** Its server need not tell this address that it is gone. */
export function forgetDirected(client: Client, address: Jid): void {
  const session = client.session ?? undefined
  if (session?.directed.delete(address.toString()) === true) session.changed()
}

/** §17.1.1: no nickname, or one that nobody sees. */
export function isBlank(nick: string): boolean {
  return nick.trim() === ''
}

/** §7.13: whether somebody else has the nickname for good. */
export function reservedByOther(room: Room, nick: string, bare: string): boolean {
  for (const [jid, { nick: reserved }] of room.affiliations) if (reserved === nick && jid !== bare) return true
  return false
}

/** §7.2: may this account enter? Throws what the specification has for each reason. */
function mayEnter(room: Room, jid: Jid, nick: string, x: Element): void {
  const { config } = room
  const affiliation = room.affiliationOf(jid)
  if (room.locked && affiliation !== 'owner') throw new StanzaError('item-not-found', 'the room is not open yet')
  if (affiliation === 'outcast') throw new StanzaError('forbidden', 'you are banned from this room')
  if (config.membersOnly && !reaches(affiliation, 'member')) throw new StanzaError('registration-required', 'this room is for its members')
  if (config.passwordProtected && affiliation !== 'owner' && x.getChildText('password') !== config.password) throw new StanzaError('not-authorized', 'the room needs a password')
  const there = room.occupants.get(nick)
  if ((there !== undefined && there.bare !== jid.bare) || reservedByOther(room, nick, jid.bare)) throw new StanzaError('conflict', 'the nickname is taken')
  const { maxUsers, maxUsersAdmin } = room.rooms
  const limit = Math.min(config.maxUsers === 0 ? Infinity : config.maxUsers, maxUsers)
  if (room.clients.size >= limit + (reaches(affiliation, 'admin') ? maxUsersAdmin : 0)) throw new StanzaError('service-unavailable', 'the room is full', { type: 'wait' })
}

/** §7.2: somebody enters. */
export function join(room: Room, stanza: Stanza, from: Jid, nick: string, session: Session | undefined, created: boolean): void {
  const x = stanza.childElement(stanza.find('x', MUC_NS) as { name: string; xmlns: string; start: number; end: number })
  mayEnter(room, from, nick, x)
  const known = room.occupants.get(nick)
  const client = room.enter(from, nick, known?.role ?? room.roleFor(room.affiliationOf(from)), shownOf(stanza))
  client.session = session
  sendOccupants(room, client)
  room.tell(client.occupant, client, { ownCodes: created ? [...ownCodes(room), 201] : ownCodes(room), answers: { client, id: stanza.id } })
  if (room.avatars.length > 0) room.tellAvatar([client])
  sendDiscussion(room, client, historyOf(stanza))
}

/** §7.2.3: the presence of everybody who is there. */
function sendOccupants(room: Room, client: Client): void {
  const sees = room.sees(client.occupant)
  for (const each of room.occupants.values()) {
    const shown = each.clients.at(-1)
    if (each === client.occupant || shown === undefined || !room.shows(each.role)) continue
    room.rooms.parts.router.multicast(room.presenceOf(each, shown, sees, []), each.jid, [client])
  }
}

/** A client that resumes its stream after a restart, before which presence may have been lost, hears how things stand. */
export function refresh(room: Room, client: Client): void {
  const { occupant } = client
  for (const [nick, id] of room.departed) {
    if (id < client.since || id > room.readAt) continue
    const x = `<x xmlns='${MUC_USER_NS}'><item affiliation='none' role='none'/></x>`
    room.send(client, makeStanza('presence', { from: `${room.address}/${nick}`, type: 'unavailable' }, [{ name: 'x', xmlns: MUC_USER_NS, text: x }]))
  }
  sendOccupants(room, client)
  room.send(client, room.presenceOf(occupant, occupant.clients.at(-1) ?? client, true, [...ownCodes(room), 110]))
  if (room.avatars.length > 0) room.tellAvatar([client])
}

/** §7.2.3, §7.2.12: what who enters has to know of the room. */
function ownCodes(room: Room): number[] {
  return [...(room.config.nonAnonymous ? [100] : []), ...(room.logged ? [170] : [])]
}

function historyOf(stanza: Stanza): Element | undefined {
  const span = stanza.find('x', MUC_NS)
  return span === undefined ? undefined : stanza.childElement(span).getChild('history')
}

/** §7.14 */
export function exit(room: Room, client: Client, stanza: Stanza): void {
  client.presence = shownOf(stanza)
  room.tellGone(client, { answers: { client, id: stanza.id } })
  room.tidy()
}

/** Takes a client out: banned, kicked, or not to be reached. */
export function expel(room: Room, client: Client, change: Parameters<Room['tellGone']>[1]): void {
  const { jid } = client.occupant
  room.tellGone(client, change)
  forgetDirected(client, jid)
}

/** §7.2.17: a client that only updates its presence takes itself for an occupant. */
export function tellStranger(room: string, stanza: Stanza): Stanza {
  const x = `<x xmlns='${MUC_USER_NS}'><item affiliation='none' role='none'/><status code='110'/><status code='307'/><status code='333'/></x>`
  return makeStanza('presence', { from: stanza.to ?? room, to: stanza.from, id: stanza.id, type: 'unavailable' }, [{ name: 'x', xmlns: MUC_USER_NS, text: x }])
}

/** The name of a room that nobody has. */
export function freshName(): string {
  return randomInt(2 ** 40).toString(36)
}
