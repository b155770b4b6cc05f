/** A room: who is in it and what they may do (XEP-0045 §5), and how it tells its occupants. */
import { createHmac } from 'node:crypto'
import { Jid } from '../../../lib/jid.ts'
import { firstIdOf, nextMessageId } from '../../../lib/stanza/ids.ts'
import { readStanza } from '../../../lib/stanza/read.ts'
import { CLIENT_NS, makeStanza, type Stanza } from '../../../lib/stanza/stanza.ts'
import { type Element, escapeXml } from '../../../lib/xml/element.ts'
import type { Session } from '../../sessions/session.ts'
import type { HostDisco } from '../disco-registry.ts'
import type { IqRequest, Parts, Recipient } from '../extension.ts'
import { type Affiliation, type ConfigLimits, reaches, type Role, type RoomConfig } from './room-config.ts'
import type { RoomStore, StoredAffiliation, StoredRoom } from './store.ts'

export const MUC_NS = 'http://jabber.org/protocol/muc'
export const MUC_USER_NS = `${MUC_NS}#user`
export const MUC_ADMIN_NS = `${MUC_NS}#admin`
export const MUC_OWNER_NS = `${MUC_NS}#owner`
export const OCCUPANT_ID_NS = 'urn:xmpp:occupant-id:0'
export const HATS_NS = 'urn:xmpp:hats:0'
const AVATAR_UPDATE_NS = 'vcard-temp:x:update'
/** Nicknames of those who have left that a room remembers. */
const DEPARTED_MAX = 500

/** What a service's rooms share. */
export interface Rooms {
  readonly domain: string
  readonly parts: Pick<Parts, 'here' | 'router' | 'sessions' | 'storage' | 'access' | 'log' | 'now'>
  readonly store: RoomStore
  readonly secret: Uint8Array
  /** Whether the extension that keeps archives is on. */
  readonly archives: boolean
  /** Whether an archive is kept when its room is gone. */
  readonly keepsArchives: boolean
  readonly maxUsers: number
  readonly maxUsersAdmin: number
  readonly maxUsersPresence: number
  readonly messageIntervalMs: number
  readonly presenceIntervalMs: number
  /** What rooms say of the nodes below them, and their commands (XEP-0050). */
  readonly disco: HostDisco
  command(request: IqRequest): Promise<Element>
  /** Of services' admins, who are owners everywhere. */
  isAdmin(jid: Jid): boolean
  limitsFor(jid: Jid): ConfigLimits
  mayRegister(jid: Jid): boolean
  /** Says that one more session of an account is in a room, or one less. */
  count(bare: string, change: 1 | -1): void
  /** A room has got its first occupant, or lost its last. */
  occupied(room: Room): void
  empty(room: Room): void
  removed(room: Room): void
  /** What is kept of a room is not what it was. */
  changed(): void
}

/** A client in the room. */
export interface Client extends Recipient {
  readonly jid: Jid
  readonly full: string
  session: Session | undefined
  occupant: Occupant
  /** As it is shown, without what depends on who sees it. */
  presence: Stanza
  /** An id made when it entered. */
  readonly since: string
  /** When it last sent a message or a presence, ms. */
  messageAt: number
  presenceAt: number
}

/** A nickname in the room, with the clients of one account that use it. */
export interface Occupant {
  nick: string
  /** `room@service/nick` */
  jid: Jid
  /** The account. */
  readonly bare: string
  role: Role
  /** XEP-0421 */
  readonly id: string
  /** `<occupant-id/>`, serialised. */
  readonly idXml: string
  /** The one whose presence is shown comes last; never empty while it is in the room. */
  readonly clients: Client[]
}

/** What a client is to hear once it has heard what was said before. */
export interface Entering {
  readonly meanwhile: (() => void)[]
  /** It hears that now, and waits no longer. */
  end(): void
}

export interface Change {
  readonly codes?: readonly number[]
  /** To the occupant alone, besides 110. */
  readonly ownCodes?: readonly number[]
  readonly reason?: string | undefined
  /** Nickname of who did it. */
  readonly actor?: string | undefined
  /** The nickname that it takes (§7.6). */
  readonly nick?: string
  /** Whether it is gone. */
  readonly gone?: boolean
  /** `<destroy/>`, serialised. */
  readonly destroy?: string
  /** The request that this answers, by the client that made it. */
  readonly answers?: { readonly client: Client; readonly id: string | undefined }
}

export class Room {
  readonly rooms: Rooms
  readonly local: string
  readonly jid: Jid
  readonly address: string
  config: RoomConfig
  readonly created: number
  /** The archive has this room's messages after this id; those up to it belonged to another of its name. */
  readonly since: string
  locked: boolean
  subject: Stanza | undefined
  subjectAt: number
  avatars: readonly string[]
  /** XEP-0317: by URI, and the URIs that an account wears. */
  readonly hats: Map<string, { readonly title: string; readonly hue: string }>
  readonly wearers: Map<string, readonly string[]>
  readonly affiliations: Map<string, StoredAffiliation>
  readonly occupants = new Map<string, Occupant>()
  readonly clients = new Map<string, Client>()
  /** By account. */
  readonly accounts = new Map<string, Client[]>()
  /** Nicknames whose occupants have left, the last ones last, each with an id made then: presence does not outlive a process, and who resumes a stream after a restart has to hear of them. */
  readonly departed: Map<string, string>
  /** An id made when the room was read: those who left later have been seen to, by all who are here. */
  readonly readAt = nextMessageId()
  destroyed = false
  /** Clients that have entered and wait for what was said before, which is read elsewhere. */
  readonly entering = new Map<Client, Entering>()

  constructor(rooms: Rooms, local: string, stored: StoredRoom) {
    this.rooms = rooms
    this.local = local
    this.jid = Jid.of(local, rooms.domain)
    this.address = this.jid.toString()
    this.config = stored.config
    this.created = stored.created
    this.since = stored.since ?? firstIdOf(stored.created)
    this.locked = stored.locked
    this.subject = stored.subject === null ? undefined : readStanza(Buffer.from(stored.subject))
    this.subjectAt = stored.subjectAt
    this.avatars = stored.avatars
    this.hats = new Map((stored.hats ?? []).map(([uri, title, hue]) => [uri, { title, hue }]))
    this.wearers = new Map(stored.wearers)
    this.affiliations = rooms.store.affiliations(local)
    for (const [full, { nick, role, presence, since }] of rooms.store.occupants(local)) this.#enter(Jid.parse(full), nick, role, readStanza(Buffer.from(presence)), since ?? this.since)
    this.departed = new Map(rooms.store.departed(local).sort(([, a], [, b]) => (a < b ? -1 : 1)))
  }

  save(): void {
    this.rooms.changed()
    const { config, created, since, locked, subject, subjectAt, avatars, hats, wearers } = this
    this.rooms.store.putRoom(this.local, {
      config, created, since, locked, subject: subject?.encode() ?? null, subjectAt, avatars, hats: Array.from(hats, ([uri, { title, hue }]) => [uri, title, hue] as const), wearers: [...wearers],
    })
  }

  /** Notes whether the room still knows an account. */
  relate(bare: string): void {
    this.rooms.store.relate(this.local, bare, this.affiliations.has(bare) || this.wearers.has(bare))
  }

  /** Whether messages go to the archive (XEP-0313). */
  get archived(): boolean { return this.config.archive && this.rooms.archives }
  /** The id after which the archive is somebody's to read. Those who run the service see what it has of rooms of this name that are gone, where that is kept. */
  floorFor(jid: Jid): string | undefined {
    return this.rooms.keepsArchives && this.rooms.isAdmin(jid) ? undefined : this.since
  }

  /** §7.2.12 */
  get logged(): boolean { return this.config.logging || this.archived }

  affiliationOf(jid: Jid): Affiliation {
    if (this.rooms.isAdmin(jid)) return 'owner'
    return (this.affiliations.get(jid.bare) ?? this.affiliations.get(jid.domain))?.affiliation ?? 'none'
  }

  /** All addresses with an affiliation. */
  *having(affiliation: Affiliation): Iterable<[string, StoredAffiliation]> {
    for (const entry of this.affiliations) if (entry[1].affiliation === affiliation) yield entry
  }

  /** §5.1.2: the role that goes with an affiliation. */
  roleFor(affiliation: Affiliation): Role {
    if (reaches(affiliation, 'admin')) return 'moderator'
    return affiliation === 'member' || !this.config.moderated ? 'participant' : 'visitor'
  }

  client(jid: Jid): Client | undefined {
    return this.clients.get(jid.toString())
  }

  /** Whether an occupant sees real addresses. */
  sees(occupant: Occupant): boolean {
    return this.config.nonAnonymous || occupant.role === 'moderator'
  }

  /** XEP-0421 §5 */
  occupantId(bare: string): string {
    return createHmac('sha256', this.rooms.secret).update(`${this.address}\0${this.created}\0${bare}`).digest('hex')
  }

  /** A client takes a nickname. */
  enter(jid: Jid, nick: string, role: Role, presence: Stanza): Client {
    const client = this.#enter(jid, nick, role, presence, nextMessageId())
    this.store(client)
    this.noteBack(nick)
    return client
  }

  #enter(jid: Jid, nick: string, role: Role, presence: Stanza, since: string): Client {
    let occupant = this.occupants.get(nick)
    if (occupant === undefined) {
      const id = this.occupantId(jid.bare)
      occupant = { nick, jid: this.jid.withResource(nick), bare: jid.bare, role, id, idXml: `<occupant-id xmlns='${OCCUPANT_ID_NS}' id='${id}'/>`, clients: [] }
      this.occupants.set(nick, occupant)
    }
    const client: Client = { jid, full: jid.toString(), session: undefined, escaped: undefined, occupant, presence: presence.compact(), since, messageAt: 0, presenceAt: 0 }
    occupant.clients.push(client)
    this.clients.set(client.full, client)
    const others = this.accounts.get(jid.bare)
    if (others === undefined) this.accounts.set(jid.bare, [client])
    else others.push(client)
    this.rooms.count(jid.bare, 1)
    if (this.clients.size === 1) this.rooms.occupied(this)
    return client
  }

  store(client: Client): void {
    const { occupant, full, presence, since } = client
    this.rooms.store.putOccupant(this.local, full, { nick: occupant.nick, role: occupant.role, presence: presence.encode(), since })
  }

  /** A nickname is nobody's any more; remembered while there is somebody who may resume after a restart. */
  noteGone(nick: string): void {
    const { store } = this.rooms
    let resumable = false
    const { here } = this.rooms.parts
    // Of a session at another node it is not known.
    for (const { session, jid } of this.clients.values()) if (session?.management?.resumable === true || !here(jid.bare)) { resumable = true; break }
    if (!resumable) return
    const id = nextMessageId()
    this.departed.delete(nick)
    this.departed.set(nick, id)
    store.putDeparted(this.local, nick, id)
    for (const oldest of this.departed.keys()) {
      if (this.departed.size <= DEPARTED_MAX) break
      this.noteBack(oldest)
    }
  }

  /** A nickname is somebody's again, or needs not be remembered. */
  noteBack(nick: string): void {
    if (this.departed.delete(nick)) this.rooms.store.putDeparted(this.local, nick, undefined)
  }

  /** A client is not in the room any more; nobody is told. */
  leave(client: Client): void {
    const { occupant, full, jid } = client
    if (!this.clients.delete(full)) return
    occupant.clients.splice(occupant.clients.indexOf(client), 1)
    if (occupant.clients.length === 0) this.occupants.delete(occupant.nick)
    const others = this.accounts.get(jid.bare)?.filter((each) => each !== client) ?? []
    if (others.length === 0) this.accounts.delete(jid.bare)
    else this.accounts.set(jid.bare, others)
    this.rooms.store.putOccupant(this.local, full, undefined)
    this.rooms.count(jid.bare, -1)
  }

  /** After clients have left: a room that nobody is in is forgotten, and removed when it is temporary. */
  tidy(): void {
    if (this.clients.size > 0 || this.destroyed) return
    for (const nick of this.departed.keys()) this.noteBack(nick)
    // §10.1.3: a room that was never accepted ends when its owner is gone.
    if (this.config.persistent && !this.locked) this.rooms.empty(this)
    else this.remove()
  }

  /** Removes the room with all that belongs to it. */
  remove(): void {
    this.destroyed = true
    for (const client of this.clients.values()) this.rooms.count(client.jid.bare, -1)
    this.clients.clear()
    this.occupants.clear()
    this.accounts.clear()
    this.rooms.store.removeRoom(this.local, [...this.affiliations.keys(), ...this.wearers.keys()])
    this.rooms.removed(this)
  }

  // ---- What occupants are told

  /** Whether the presence of a role is shown to others (muc#roomconfig_presencebroadcast). */
  shows(role: Role): boolean {
    return this.config.presenceBroadcast.includes(role) && this.clients.size <= this.rooms.maxUsersPresence
  }

  /** The presence of an occupant as somebody sees it. */
  presenceOf(occupant: Occupant, client: Client, withAddress: boolean, codes: readonly number[], change: Change = {}): Stanza {
    const { nick, reason, actor, gone = false } = change
    const affiliation = this.affiliationOf(client.jid)
    const leaves = gone && nick === undefined
    const role = leaves ? 'none' : occupant.role
    const inside = `${actor === undefined ? '' : `<actor nick='${escapeXml(actor)}'/>`}${reason === undefined || reason === '' ? '' : `<reason>${escapeXml(reason)}</reason>`}`
    const item = `<item affiliation='${affiliation}' role='${role}'${withAddress ? ` jid='${escapeXml(client.full)}'` : ''}${nick === undefined ? '' : ` nick='${escapeXml(nick)}'`}${inside === '' ? '/>' : `>${inside}</item>`}`
    const x = `<x xmlns='${MUC_USER_NS}'>${item}${codes.map((code) => `<status code='${code}'/>`).join('')}${change.destroy ?? ''}</x>`
    const from = occupant.jid.toString()
    if (gone) {
      return makeStanza('presence', { from, type: 'unavailable' }, [
        ...(leaves ? statusOf(client.presence) : []),
        { name: 'x', xmlns: MUC_USER_NS, text: x }, { name: 'occupant-id', xmlns: OCCUPANT_ID_NS, text: occupant.idXml },
      ])
    }
    const shown = client.presence.withAttrs({ from }).append('x', MUC_USER_NS, x).append('occupant-id', OCCUPANT_ID_NS, occupant.idXml)
    const hats = this.#hatsOf(occupant.bare)
    return hats === '' ? shown : shown.append('hats', HATS_NS, hats)
  }

  /** `<hats/>` of an account, serialised; empty when it has none (XEP-0317 §4). */
  #hatsOf(bare: string): string {
    const hats = (this.wearers.get(bare) ?? []).map((uri) => {
      const hat = this.hats.get(uri)
      return hat === undefined ? '' : `<hat title='${escapeXml(hat.title)}' uri='${escapeXml(uri)}'${hat.hue === '' ? '' : ` hue='${escapeXml(hat.hue)}'`}/>`
    }).join('')
    return hats === '' ? '' : `<hats xmlns='${HATS_NS}'>${hats}</hats>`
  }

  /** Tells everybody of an occupant: `client` is the one whose presence it is. `hidden`: nobody but its own clients. */
  tell(occupant: Occupant, client: Client, change: Change = {}, hidden = !this.shows(occupant.role)): void {
    const codes = change.codes ?? []
    if (!hidden) this.#tellOthers(occupant, client, change)
    const own = this.presenceOf(occupant, client, true, [...codes, ...(change.ownCodes ?? []), 110], change)
    const { answers } = change
    for (const each of occupant.clients) this.send(each, answers?.client === each && answers.id !== undefined ? own.withAttrs({ id: answers.id }) : own)
  }

  #tellOthers(occupant: Occupant, client: Client, change: Change): void {
    const codes = change.codes ?? []
    const router = this.rooms.parts.router
    const seeing: Client[] = []
    const others: Client[] = []
    for (const each of this.clients.values()) if (each.occupant !== occupant) (this.sees(each.occupant) ? seeing : others).push(each)
    if (seeing.length > 0) router.multicast(this.presenceOf(occupant, client, true, codes, change), occupant.jid, seeing)
    if (others.length > 0) router.multicast(this.presenceOf(occupant, client, false, codes, change), occupant.jid, others)
  }

  /** The others see an occupant come or go whose presence is shown from now on, or is no longer. */
  showOrHide(occupant: Occupant, shownBefore: boolean): void {
    const shown = this.shows(occupant.role)
    if (shown !== shownBefore) this.#tellOthers(occupant, occupant.clients.at(-1) as Client, { gone: !shown })
  }

  /** A client has left for good, in its own will or not. */
  tellGone(client: Client, change: Change = {}): void {
    const { occupant } = client
    const id = change.answers?.id
    const codes = [...(change.codes ?? []), ...(change.ownCodes ?? []), 110]
    const own = this.presenceOf(occupant, client, true, codes, { ...change, gone: true })
    this.leave(client)
    this.send(client, id === undefined ? own : own.withAttrs({ id }))
    const left = occupant.clients.at(-1)
    if (left !== undefined) {
      // Another client of the same account is still here under this nickname.
      this.tell(occupant, left)
      return
    }
    if (!this.shows(occupant.role)) return
    this.noteGone(occupant.nick)
    this.tell(occupant, client, { ...change, gone: true })
  }

  /** Sends a stanza to one client. */
  send(client: Client, stanza: Stanza, durable = false): void {
    const to = stanza.withAttrs({ to: client.full })
    if (client.session === undefined || client.session.ended) client.session = this.rooms.parts.sessions.get(client.full)
    if (client.session !== undefined) client.session.send(to, durable ? { durable: true } : {})
    else this.rooms.parts.router.route(to)
  }

  /** A presence of the room itself tells the hash of its picture: many clients look for it there (XEP-0486 §5.2). */
  tellAvatar(clients: readonly Client[]): void {
    if (clients.length === 0) return
    const [hash] = this.avatars
    const text = `<x xmlns='${AVATAR_UPDATE_NS}'>${hash === undefined ? '<photo/>' : `<photo>${hash}</photo>`}</x>`
    this.rooms.parts.router.multicast(makeStanza('presence', { from: this.address }, [{ name: 'x', xmlns: AVATAR_UPDATE_NS, text }]), this.jid, clients)
  }

  /** A message of the room's own to everybody, or to those for whom `wanted` is true. */
  announce(x: string, { type = 'groupchat', wanted = () => true }: { type?: string | undefined; wanted?: (client: Client) => boolean } = {}): void {
    const clients = [...this.clients.values()].filter(wanted)
    if (clients.length === 0) return
    const stanza = makeStanza('message', { from: this.address, type }, [{ name: 'x', xmlns: MUC_USER_NS, text: `<x xmlns='${MUC_USER_NS}'>${x}</x>` }])
    this.rooms.parts.router.multicast(stanza, this.jid, clients)
  }
}

/** The `<status/>` of a presence, for the one that says that its sender is gone. */
function statusOf(presence: Stanza): { name: string; xmlns: string; text: string }[] {
  if (presence.type !== 'unavailable') return []
  const span = presence.find('status', CLIENT_NS)
  return span === undefined ? [] : [{ name: 'status', xmlns: CLIENT_NS, text: presence.content.utf8Slice(span.start, span.end) }]
}
