/** What moderators, admins and owners do (XEP-0045 §8, §9, §10). */
import { FORMS_NS, parseForm } from '../../../lib/forms.ts'
import { Jid } from '../../../lib/jid.ts'
import { StanzaError } from '../../../lib/stanza/errors.ts'
import { makeStanza } from '../../../lib/stanza/stanza.ts'
import { type Element, escapeXml, xml } from '../../../lib/xml/element.ts'
import type { IqRequest } from '../extension.ts'
import { expel, isBlank, reservedByOther } from './presences.ts'
import { type Client, MUC_ADMIN_NS, MUC_OWNER_NS, MUC_USER_NS, type Occupant, type Room } from './room.ts'
import { type Affiliation, AFFILIATIONS, changeCodes, configForm, reaches, readConfig, type Role, ROLES } from './room-config.ts'
import type { StoredAffiliation } from './store.ts'

/** Addresses in the lists of one room. */
export const AFFILIATIONS_MAX = 10_000

interface Actor {
  readonly jid: Jid
  readonly affiliation: Affiliation
  readonly occupant: Occupant | undefined
}

function actorOf(room: Room, from: Jid): Actor {
  return { jid: from, affiliation: room.affiliationOf(from), occupant: room.client(from)?.occupant }
}

// ---- Lists (muc#admin)

/** §8.5, §9.5 to §9.8, §10.5 and the rest: the addresses of an affiliation, or the occupants of a role. */
export function answerList(room: Room, { payload, from }: IqRequest): Element {
  const items = payload.getChildren('item', MUC_ADMIN_NS)
  const item = items[0]
  if (item === undefined || items.length > 1) throw new StanzaError('bad-request', 'one item says which list')
  const { affiliation, role } = item.attrs
  const actor = actorOf(room, from)
  if (affiliation !== undefined) {
    const wanted = AFFILIATIONS.find((each) => each === affiliation)
    if (wanted === undefined || wanted === 'none') throw new StanzaError('bad-request', 'no such affiliation')
    if (!maySeeList(room, actor, wanted)) throw new StanzaError('forbidden')
    return xml('query', { xmlns: MUC_ADMIN_NS }, [...room.having(wanted)].map(([jid, { reason, nick }]) => {
      const occupant = room.accounts.get(jid)?.[0]?.occupant
      return xml('item', { affiliation: wanted, jid, nick: occupant?.nick ?? nick }, reason !== undefined && xml('reason', null, reason))
    }))
  }
  const wanted = ROLES.find((each) => each === role)
  if (wanted === undefined || wanted === 'none') throw new StanzaError('bad-request', 'no such role')
  if (!reaches(actor.affiliation, 'admin') && actor.occupant?.role !== 'moderator') throw new StanzaError('forbidden')
  return xml('query', { xmlns: MUC_ADMIN_NS }, [...room.occupants.values()].filter((each) => each.role === wanted).map((each) =>
    xml('item', { nick: each.nick, role: each.role, affiliation: room.affiliationOf(Jid.parse(each.bare)), jid: actor.occupant === undefined || room.sees(actor.occupant) ? each.clients.at(-1)?.full : undefined })))
}

/** Bans are for admins to see. Where addresses are known, members and occupants may see who belongs to the room, and those whom the owner allows. */
function maySeeList(room: Room, actor: Actor, wanted: Affiliation): boolean {
  if (reaches(actor.affiliation, 'admin')) return true
  if (wanted === 'outcast') return false
  if (room.config.nonAnonymous && (actor.occupant !== undefined || actor.affiliation === 'member')) return true
  if (wanted !== 'member') return false
  return (actor.occupant !== undefined && room.config.memberList.includes(actor.occupant.role)) || (room.config.membersOnly && actor.affiliation === 'member')
}

interface Edit {
  readonly jid: Jid | undefined
  readonly occupant: Occupant | undefined
  readonly affiliation: Affiliation | undefined
  readonly role: Role | undefined
  readonly nick: string | undefined
  readonly reason: string | undefined
}

/** Changes of roles and affiliations: all of them, or none. */
export function applyEdits(room: Room, { payload, from }: IqRequest): void {
  const actor = actorOf(room, from)
  const edits = payload.getChildren('item', MUC_ADMIN_NS).map((item) => readEdit(room, item))
  if (edits.length === 0) throw new StanzaError('bad-request', 'no item')
  for (const edit of edits) {
    if (edit.affiliation !== undefined) checkAffiliation(room, actor, edit, edit.affiliation)
    else checkRole(room, actor, edit)
  }
  const owners = new Set(Array.from(room.having('owner'), ([jid]) => jid))
  const affiliationEdits = edits.filter((edit) => edit.affiliation !== undefined)
  if (affiliationEdits.length > 0) {
    for (const { jid, affiliation } of affiliationEdits) if (jid !== undefined) {
      if (affiliation === 'owner') owners.add(jid.bare)
      else owners.delete(jid.bare)
    }
    // §10.5.2
    if (owners.size === 0 && affiliationEdits.some(({ jid }) => jid !== undefined && room.affiliations.get(jid.bare)?.affiliation === 'owner')) throw new StanzaError('conflict', 'a room has at least one owner')
    const fresh = affiliationEdits.filter(({ jid, affiliation }) => jid !== undefined && affiliation !== 'none' && !room.affiliations.has(jid.bare)).length
    if (fresh > 0 && room.affiliations.size + fresh > AFFILIATIONS_MAX) throw new StanzaError('resource-constraint', `at most ${AFFILIATIONS_MAX} addresses`)
  }
  const by = actor.occupant?.nick
  for (const { jid, occupant, affiliation, role, nick, reason } of edits) {
    if (affiliation !== undefined && jid !== undefined) setAffiliation(room, jid.toBare(), affiliation, { reason, actor: by, nick })
    else if (role !== undefined && occupant !== undefined) setRole(room, occupant, role, { reason, actor: by })
  }
}

function readEdit(room: Room, item: Element): Edit {
  const { jid: address, nick, affiliation: a, role: r } = item.attrs
  const affiliation = AFFILIATIONS.find((each) => each === a)
  const role = ROLES.find((each) => each === r)
  if ((a !== undefined && affiliation === undefined) || (r !== undefined && role === undefined)) throw new StanzaError('bad-request', 'no such affiliation or role')
  if ((affiliation === undefined) === (role === undefined)) throw new StanzaError('bad-request', 'either an affiliation or a role')
  const given = address === undefined ? undefined : Jid.tryParse(address)
  if (address !== undefined && given === undefined) throw new StanzaError('jid-malformed')
  const occupant = address === undefined ? room.occupants.get(nick ?? '') : room.accounts.get((given as Jid).bare)?.find((each) => nick === undefined || affiliation !== undefined || each.occupant.nick === nick)?.occupant
  const reason = item.getChildText('reason') ?? undefined
  if (affiliation !== undefined) {
    const jid = given ?? (occupant === undefined ? undefined : Jid.parse(occupant.bare))
    if (jid === undefined) throw new StanzaError(nick === undefined ? 'bad-request' : 'item-not-found', 'nobody of this nickname is in the room')
    return { jid, occupant, affiliation, role, nick: address === undefined || nick === undefined ? undefined : reservable(room, jid, nick), reason }
  }
  if (occupant === undefined) throw new StanzaError(nick === undefined && address === undefined ? 'bad-request' : 'item-not-found', 'nobody of this nickname is in the room')
  return { jid: given, occupant, affiliation, role, nick, reason }
}

/** A nickname to keep for an account. */
export function reservable(room: Room, jid: Jid, nick: string): string {
  let prepared = ''
  try {
    prepared = room.jid.withResource(nick).resource
  } catch {
    // As if there was none.
  }
  if (isBlank(prepared)) throw new StanzaError('not-acceptable', 'a nickname is needed')
  const there = room.occupants.get(prepared)
  if (reservedByOther(room, prepared, jid.bare) || (there !== undefined && there.bare !== jid.bare)) throw new StanzaError('conflict', 'the nickname is taken')
  return prepared
}

/** §9.1 to §9.8, §10.3 to §10.8 */
function checkAffiliation(room: Room, { jid: self, affiliation: own }: Actor, { jid }: Edit, wanted: Affiliation): void {
  const before = room.affiliationOf(jid as Jid)
  if (!reaches(own, 'admin')) throw new StanzaError('forbidden', 'only admins and owners may do this')
  // §9.1: nobody bans those who stand as high as oneself, or oneself.
  if (wanted === 'outcast' && (jid as Jid).bare === self.bare) throw new StanzaError('conflict', 'you cannot ban yourself')
  if (own === 'owner') {
    if (room.rooms.isAdmin(jid as Jid) && !room.rooms.isAdmin(self)) throw new StanzaError('not-allowed', 'an admin of the service')
    return
  }
  if (reaches(before, 'admin')) throw new StanzaError('not-allowed', 'only owners may do this')
  if (reaches(wanted, 'admin')) throw new StanzaError('forbidden', 'only owners may do this')
}

/** §8.2 to §8.4, §9.6, §9.7 */
function checkRole(room: Room, actor: Actor, { occupant, role }: Edit): void {
  const target = occupant as Occupant
  const affiliation = room.affiliationOf(Jid.parse(target.bare))
  const isAdmin = reaches(actor.affiliation, 'admin')
  if (actor.occupant?.role !== 'moderator' && !isAdmin) throw new StanzaError('forbidden', 'only moderators may do this')
  if (target.role === role) return
  // §8.4, §9.7: who is a moderator by affiliation stays one.
  if (reaches(affiliation, 'admin') && role !== 'none' && role !== 'moderator') throw new StanzaError('not-allowed', 'admins and owners are moderators')
  if (role === 'moderator' || (target.role === 'moderator' && role !== 'none')) {
    if (!isAdmin) throw new StanzaError('forbidden', 'only admins and owners may do this')
    return
  }
  // §8.2: a kick is not for those who stand higher; §8.4: nor is the loss of voice, nor for those who stand as high.
  if (!reaches(actor.affiliation, affiliation) || (role === 'visitor' && affiliation === 'member' && actor.affiliation === 'member')) throw new StanzaError('not-allowed', 'stands as high as you')
}

interface Why {
  readonly reason?: string | undefined
  readonly actor?: string | undefined
  /** The nickname to keep; an empty one is kept no longer. */
  readonly nick?: string | undefined
}

/** §8.2: out; §8.3, §8.4, §9.6, §9.7: another role. */
export function setRole(room: Room, occupant: Occupant, role: Role, { reason, actor }: Why): void {
  // Another change of the same request may have taken it out.
  if (occupant.role === role || occupant.clients.length === 0) return
  if (role === 'none') {
    expelAll(room, occupant.clients, { codes: [307], reason, actor })
    return
  }
  const shownBefore = room.shows(occupant.role)
  occupant.role = role
  for (const client of occupant.clients) room.store(client)
  const shown = occupant.clients.at(-1) as Client
  room.tell(occupant, shown, { reason, actor })
  if (shownBefore) room.showOrHide(occupant, true)
}

function expelAll(room: Room, clients: readonly Client[], change: Parameters<typeof expel>[2]): void {
  for (const client of clients.slice()) expel(room, client, change)
  room.tidy()
}

/** Sets an affiliation, tells everybody, and takes out who may not be here any more. */
export function setAffiliation(room: Room, jid: Jid, affiliation: Affiliation, why: Why = {}): void {
  // Nothing is written for a room that has ended with its last occupant: the next of its name would have it.
  if (room.destroyed) return
  const { bare } = jid
  const before = room.affiliations.get(bare)
  const nick = affiliation === 'none' || affiliation === 'outcast' || why.nick === '' ? undefined : why.nick ?? before?.nick
  const unchanged = (before?.affiliation ?? 'none') === affiliation && before?.nick === nick
  const value: StoredAffiliation | undefined = affiliation === 'none' ? undefined : { affiliation, ...(why.reason !== undefined && why.reason !== '' && { reason: why.reason.slice(0, 1000) }), ...(nick !== undefined && { nick }) }
  if (value === undefined) room.affiliations.delete(bare)
  else room.affiliations.set(bare, value)
  room.rooms.store.putAffiliation(room.local, bare, value)
  room.relate(bare)
  if (unchanged) return
  const { reason, actor } = why
  // A ban of a whole server (§9.1) is one of all of its accounts, but for those that have an affiliation of their own.
  const clients = jid.local === '' ? [...room.clients.values()].filter((client) => client.jid.domain === jid.domain && !room.affiliations.has(client.jid.bare)) : room.accounts.get(bare) ?? []
  if (clients.length === 0) {
    const x = `<item affiliation='${affiliation}' role='none' jid='${escapeXml(bare)}'>${reason === undefined || reason === '' ? '' : `<reason>${escapeXml(reason)}</reason>`}</item>`
    room.announce(x, { type: undefined, wanted: (client) => room.sees(client.occupant) })
    return
  }
  for (const occupant of new Set(clients.map((client) => client.occupant))) {
    // That of the account may not be the one that was set: a server may have one too, and who runs the service is an owner.
    const held = room.affiliationOf(Jid.parse(occupant.bare))
    if (held === 'outcast') expelAll(room, occupant.clients, { codes: [301], reason, actor })
    else if (room.config.membersOnly && !reaches(held, 'member')) expelAll(room, occupant.clients, { codes: [321], reason, actor })
    else {
      const role = room.roleFor(held)
      const shownBefore = room.shows(occupant.role)
      if (role === 'moderator' || occupant.role === 'moderator' || (role === 'participant' && occupant.role === 'visitor')) occupant.role = role
      for (const client of occupant.clients) room.store(client)
      room.tell(occupant, occupant.clients.at(-1) as Client, { reason, actor })
      if (shownBefore) room.showOrHide(occupant, true)
    }
  }
}

// ---- Configuration (muc#owner)

function requireOwner(room: Room, from: Jid): void {
  if (room.affiliationOf(from) !== 'owner') throw new StanzaError('forbidden', 'only owners may do this')
}

/** §10.2: the form. */
export function answerConfig(room: Room, { payload, from }: IqRequest): Element {
  requireOwner(room, from)
  if (payload.getChildElements().length > 0) throw new StanzaError('feature-not-implemented')
  const list = (affiliation: Affiliation): string[] => Array.from(room.having(affiliation), ([jid]) => jid)
  return xml('query', { xmlns: MUC_OWNER_NS }, configForm(room.config, room.rooms.limitsFor(from), list('owner'), list('admin')))
}

/** §10.1, §10.2, §10.9: the form filled in or cancelled, or the end of the room. */
export function applyConfig(room: Room, { payload, from }: IqRequest): void {
  requireOwner(room, from)
  const destroy = payload.getChild('destroy', MUC_OWNER_NS)
  if (destroy !== undefined) return destroyRoom(room, destroy)
  const form = payload.getChild('x', FORMS_NS)
  if (form === undefined) throw new StanzaError('bad-request', 'a data form, or destroy')
  if (form.attrs['type'] === 'cancel') {
    parseForm(form, { kinds: ['cancel'] })
    // §10.1.3: a room that nobody has accepted is not made.
    if (room.locked) destroyRoom(room, xml('destroy', { xmlns: MUC_OWNER_NS }))
    return
  }
  const limits = room.rooms.limitsFor(from)
  const before = room.config
  const logged = room.logged
  const { config, owners, admins } = readConfig(form, before, limits)
  if (owners?.length === 0) throw new StanzaError('not-acceptable', 'a room has at least one owner') // §10.2
  if (config.persistent && !before.persistent && !limits.mayPersist) throw new StanzaError('forbidden', 'you may not make rooms that last')
  const wasArchived = room.archived
  const shownBefore = new Map(Array.from(room.occupants.values(), (occupant) => [occupant, room.shows(occupant.role)]))
  room.config = config
  for (const [occupant, shown] of shownBefore) room.showOrHide(occupant, shown)
  room.locked = false
  room.save()
  if (wasArchived !== room.archived) room.rooms.store.clearHistory(room.local)
  for (const [list, affiliation] of [[owners, 'owner'], [admins, 'admin']] as const) {
    if (list === undefined) continue
    const wanted = new Set(list)
    for (const jid of wanted) if (room.affiliations.get(jid)?.affiliation !== affiliation && !(affiliation === 'admin' && owners?.includes(jid) === true)) setAffiliation(room, Jid.parse(jid), affiliation)
    for (const [jid] of room.having(affiliation)) if (!wanted.has(jid)) setAffiliation(room, Jid.parse(jid), affiliation === 'owner' && admins?.includes(jid) === true ? 'admin' : 'none')
  }
  const codes = changeCodes({ ...before, logging: logged }, { ...config, logging: room.logged })
  if (codes.length > 0) room.announce(codes.map((code) => `<status code='${code}'/>`).join(''))
  // §10.2.1: who is no member leaves a room that is for members from now on.
  if (config.membersOnly && !before.membersOnly) for (const client of room.clients.values()) if (!reaches(room.affiliationOf(client.jid), 'member')) expel(room, client, { codes: [322] })
  // Voice comes and goes with moderation.
  if (config.moderated !== before.moderated) {
    for (const occupant of room.occupants.values()) {
      if (room.affiliationOf(Jid.parse(occupant.bare)) !== 'none' || occupant.role === 'moderator') continue
      if (!config.moderated && occupant.role === 'visitor') setRole(room, occupant, 'participant', {})
    }
  }
  room.tidy()
}

/** §10.9 */
function destroyRoom(room: Room, destroy: Element): void {
  const alternative = destroy.attrs['jid']
  if (alternative !== undefined && Jid.tryParse(alternative) === undefined) throw new StanzaError('jid-malformed')
  const reason = destroy.getChildText('reason')
  const password = destroy.getChildText('password')
  const text = xml('destroy', { jid: alternative }, reason !== null && xml('reason', null, reason), password !== null && xml('password', null, password)).toString()
  endRoom(room, text)
}

/** Everybody leaves, and the room with all that belongs to it is gone. */
export function endRoom(room: Room, destroy: string, codes: readonly number[] = []): void {
  for (const client of room.clients.values()) {
    const { occupant } = client
    room.send(client, makeStanza('presence', { from: occupant.jid.toString(), type: 'unavailable' }, [
      { name: 'x', xmlns: MUC_USER_NS, text: `<x xmlns='${MUC_USER_NS}'><item affiliation='none' role='none'/>${[...codes, 110].map((code) => `<status code='${code}'/>`).join('')}${destroy}</x>` },
      { name: 'occupant-id', xmlns: 'urn:xmpp:occupant-id:0', text: occupant.idXml },
    ]))
    if (client.session?.directed.delete(occupant.jid.toString()) === true) client.session.changed()
  }
  room.remove()
}
