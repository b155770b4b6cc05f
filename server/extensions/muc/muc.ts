// XEP-0045: Multi-User Chat, version 1.35.5 (2026-05-03)
import { randomBytes } from 'node:crypto'
import { Jid } from '../../../lib/jid.ts'
import { Recent } from '../../../lib/recent.ts'
import { pageOf, parseResultSet, RSM_NS } from '../../../lib/result-set.ts'
import { StanzaError } from '../../../lib/stanza/errors.ts'
import { nextMessageId } from '../../../lib/stanza/ids.ts'
import { errorReply, iqResult, makeStanza, type Stanza } from '../../../lib/stanza/stanza.ts'
import { type Element, xml } from '../../../lib/xml/element.ts'
import { accessRule, anything, bool, duration, host as hostType, int, list, oneOf, type OptionTable, parseOptions, record, shaperRule, text } from '../../config/options.ts'
import type { Session } from '../../sessions/session.ts'
import { archive, type ArchiveOptions } from '../archive/archive.ts'
import { createCommands } from '../commands-registry.ts'
import { createDiscoRegistry, DISCO_ITEMS_NS } from '../disco-registry.ts'
import { defineExtension, type IqHandler, type IqRequest, type Parts } from '../extension.ts'
import { hostVcard } from '../vcard.ts'
import { endRoom, setAffiliation } from './administration.ts'
import { Forwarding } from './forwarding.ts'
import { serveHats } from './hats.ts'
import { mediate } from './mediation.ts'
import { sendPrivately, sendToAll } from './messages.ts'
import { exit, expel, isBlank, join, refresh, tellStranger, update } from './presences.ts'
import { roomHandlers } from './requests.ts'
import { type Client, MUC_NS, OCCUPANT_ID_NS, Room, type Rooms } from './room.ts'
import type { Role, RoomConfig, Whom } from './room-config.ts'
import { type Listed, search, SEARCH_NS } from './search.ts'
import { type ListedRoom, RoomStore } from './store.ts'
import type { MaybePromise } from '../../storage/shapes.ts'

const IGNORED = 'has no effect'
/** Rooms without occupants that stay in memory. */
const IDLE_ROOMS = 200
const ROOM_NAME_MAX = 1000
const DESCRIPTION_MAX = 4000
const PASSWORD_MAX = 1000
const HISTORY_MAX = 1000
/** Rooms looked at for the list of rooms. */
const LIST_SCAN_MAX = 50_000
const EXPIRE_EVERY_MS = 3_600_000
/** Rooms looked at in one turn of the event loop. */
const EXPIRE_AT_ONCE = 50
/** Errors that say that a client is not to be reached (§17.3); others say something of the message. */
const GONE = new Set(['gone', 'item-not-found', 'recipient-unavailable', 'redirect', 'remote-server-not-found', 'remote-server-timeout'])
/** Errors that say so when they do not come from a client that is here (RFC 6121 §8.5.3.2). */
const AWAY = 'service-unavailable'

interface RoomDefaults {
  allow_change_subj: boolean
  allow_private_messages_from_visitors: string
  allow_query_users: boolean
  allow_subscription: boolean
  allow_user_invites: boolean
  allow_visitor_nickchange: boolean
  allow_visitor_status: boolean
  allow_voice_requests: boolean
  allowpm: Whom
  anonymous: boolean
  captcha_protected: boolean
  description: string
  lang: string
  logging: boolean
  mam: boolean
  max_users: number
  members_by_default: boolean
  members_only: boolean
  moderated: boolean
  password: string
  password_protected: boolean
  persistent: boolean
  presence_broadcast: readonly Role[]
  public: boolean
  public_list: boolean
  title: string
}

export const ROOM_DEFAULTS: OptionTable<RoomDefaults> = {
  allow_change_subj: { type: bool(), default: true, help: 'Occupants may change the subject.' },
  allow_private_messages_from_visitors: { type: text(), default: 'anyone', help: 'To whom visitors may send private messages.', ignored: `${IGNORED}: allowpm says who may send private messages.` },
  allow_query_users: { type: bool(), default: true, help: 'Occupants may send requests to each other.' },
  allow_subscription: { type: bool(), default: false, help: 'Subscriptions of ejabberd\'s own.', ignored: `${IGNORED}: members find messages in the archive of the room.` },
  allow_user_invites: { type: bool(), default: false, help: 'Occupants may invite others.' },
  allow_visitor_nickchange: { type: bool(), default: true, help: 'Visitors may change their nickname.' },
  allow_visitor_status: { type: bool(), default: true, help: 'Visitors may change their status.' },
  allow_voice_requests: { type: bool(), default: true, help: 'Visitors may ask for voice.', ignored: `${IGNORED}: visitors may ask for voice.` },
  allowpm: { type: oneOf('anyone', 'participants', 'moderators', 'none'), default: 'anyone', help: 'Who may send private messages.' },
  anonymous: { type: bool(), default: true, help: 'Moderators alone see real addresses.' },
  captcha_protected: { type: bool(), default: false, help: 'A puzzle has to be solved to enter.', ignored: `${IGNORED}: there are no puzzles.` },
  description: { type: text(), default: '', help: 'Description.' },
  lang: { type: text(), default: '', help: 'Language.' },
  logging: { type: bool(), default: false, help: 'Tell who enters that the room is logged.' },
  mam: { type: bool(), default: false, help: 'Keep messages in an archive (XEP-0313).' },
  max_users: { type: int({ min: 1 }), default: 200, help: 'Most occupants.' },
  members_by_default: { type: bool(), default: true, help: 'Who has no affiliation may speak, in a moderated room too.' },
  members_only: { type: bool(), default: false, help: 'Only members may enter.' },
  moderated: { type: bool(), default: true, help: 'Only those with voice may speak.' },
  password: { type: text(), default: '', help: 'Password.' },
  password_protected: { type: bool(), default: false, help: 'A password is needed to enter.' },
  persistent: { type: bool(), default: false, help: 'Keep the room when nobody is in it.' },
  presence_broadcast: { type: list(oneOf('moderator', 'participant', 'visitor')), default: ['moderator', 'participant', 'visitor'] as readonly Role[], help: 'Roles whose presence is shown.' },
  public: { type: bool(), default: true, help: 'List the room.' },
  public_list: { type: bool(), default: true, help: 'Anybody may list the occupants.' },
  title: { type: text(), default: '', help: 'Name.' },
}

const ROOM_DEFAULTS_VALUES = Object.fromEntries(Object.entries(ROOM_DEFAULTS).map(([key, spec]) => [key, spec.default])) as unknown as RoomDefaults

interface MucOptions {
  access: string
  access_admin: string
  access_create: string
  access_persistent: string
  access_mam: string
  access_register: string
  history_size: number
  host: string
  hosts: readonly string[]
  name: string
  max_room_id: number
  max_room_name: number
  max_room_desc: number
  max_password: number
  max_captcha_whitelist: number
  max_rooms_discoitems: number
  max_user_conferences: number
  max_users: number
  max_users_admin_threshold: number
  max_users_presence: number
  min_message_interval: number
  min_presence_interval: number
  regexp_room_id: string
  room_shaper: string
  user_message_shaper: string
  user_presence_shaper: string
  preload_rooms: boolean
  hibernation_timeout: number
  cleanup_affiliations_on_start: boolean
  vcard: unknown
  queue_type: string
  default_room_options: RoomDefaults
}

export const muc = defineExtension({
  name: 'muc',
  ejabberd: 'mod_muc',
  specs: [
    { xep: 45, version: '1.35.5', status: 'complete' },
    { xep: 249, version: '1.2', status: 'complete', note: 'the room adds it to mediated invitations' },
    { xep: 317, version: '0.3.1', status: 'complete' },
    { xep: 410, version: '1.1.0', status: 'complete' },
    { xep: 421, version: '1.0.1', status: 'complete' },
    { xep: 424, version: '0.4.2', status: 'complete', note: 'in rooms' },
    { xep: 425, version: '0.3.0', status: 'complete', note: 'and what clients of version 0.2 know' },
    { xep: 433, version: '0.1.0', status: 'complete' },
    { xep: 486, version: '0.1.0', status: 'complete' },
  ],
  needs: ['host', 'here', 'pin', 'calls', 'router', 'sessions', 'storage', 'access', 'hooks', 'config', 'enabled', 'every', 'log', 'metrics', 'now'],
  options: {
    access: { type: accessRule(), default: 'all', help: 'Who may use the service.' },
    access_admin: { type: accessRule(), default: 'none', help: 'Who is an owner of every room.' },
    access_create: { type: accessRule(), default: 'all', help: 'Who may make rooms.' },
    access_persistent: { type: accessRule(), default: 'all', help: 'Who may make rooms that stay when nobody is in them.' },
    access_mam: { type: accessRule(), default: 'all', help: 'Who may choose whether a room has an archive.' },
    access_register: { type: accessRule(), default: 'all', help: 'Who may have a nickname kept.' },
    history_size: { type: int(), default: 20, help: 'Most messages shown to who enters, unless a room has it otherwise.' },
    host: { type: hostType(), default: 'conference.@HOST@', help: 'Domain of the service.' },
    hosts: { type: list(hostType()), default: [] as readonly string[], help: 'Several domains in place of host.' },
    name: { type: text(), default: 'Chatrooms', help: 'Name of the service in the list of services.' },
    max_room_id: { type: int({ min: 1, infinity: true }), default: Infinity, help: 'Characters of the name in a room\'s address.' },
    max_room_name: { type: int({ min: 1, infinity: true }), default: Infinity, help: `Characters of a room's name, ${ROOM_NAME_MAX} at most.` },
    max_room_desc: { type: int({ min: 1, infinity: true }), default: Infinity, help: `Characters of a room's description, ${DESCRIPTION_MAX} at most.` },
    max_password: { type: int({ min: 1, infinity: true }), default: Infinity, help: `Characters of a room's password, ${PASSWORD_MAX} at most.` },
    max_captcha_whitelist: { type: int({ min: 1, infinity: true }), default: Infinity, help: 'Addresses that need not solve a puzzle.', ignored: `${IGNORED}: there are no puzzles.` },
    max_rooms_discoitems: { type: int(), default: 100, help: 'Rooms in one page of the list of rooms.' },
    max_user_conferences: { type: int({ min: 1 }), default: 100, help: 'Rooms an account may be in, counting each of its clients.' },
    max_users: { type: int({ min: 1 }), default: 200, help: 'Most occupants of a room.' },
    max_users_admin_threshold: { type: int(), default: 5, help: 'How many owners and admins may enter a full room.' },
    max_users_presence: { type: int({ min: 1 }), default: 1000, help: 'With more occupants than this their presence is not shown.' },
    min_message_interval: { type: duration({ min: 0 }), default: 0, help: 'The least time between two messages of an occupant.' },
    min_presence_interval: { type: duration({ min: 0 }), default: 0, help: 'The least time between two presences of an occupant.' },
    regexp_room_id: { type: text(), default: '', help: 'A regular expression that the name in a room\'s address has to match.' },
    room_shaper: { type: shaperRule(), default: 'none', help: 'Traffic of a room.', ignored: `${IGNORED}: the traffic of each client is shaped.` },
    user_message_shaper: { type: shaperRule(), default: 'none', help: 'Messages of an occupant.', ignored: `${IGNORED}: the traffic of each client is shaped.` },
    user_presence_shaper: { type: shaperRule(), default: 'none', help: 'Presence of an occupant.', ignored: `${IGNORED}: the traffic of each client is shaped.` },
    preload_rooms: { type: bool(), default: true, help: 'Read all rooms at the start.', ignored: `${IGNORED}: a room is read when it is needed.` },
    hibernation_timeout: { type: duration(), default: Infinity, help: 'When a room that nobody is in leaves memory.', ignored: `${IGNORED}: rooms that nobody is in leave memory by themselves.` },
    cleanup_affiliations_on_start: { type: bool(), default: false, help: 'Take affiliations from accounts that are gone.', ignored: `${IGNORED}: they go with the account.` },
    vcard: { type: anything(), default: undefined as unknown, help: 'The vCard of the service, as a map of its fields.' },
    queue_type: { type: text(), default: '', help: 'Where queues are.', ignored: `${IGNORED}: rooms have no queues.` },
    default_room_options: { type: record(ROOM_DEFAULTS), default: ROOM_DEFAULTS_VALUES, help: 'How a new room is configured.' },
  },
  start(parts, options: MucOptions) {
    const domains = (options.hosts.length > 0 ? options.hosts : [options.host]).map((each) => each.replaceAll('@HOST@', parts.host))
    const messages = parts.metrics.counter('tidings_room_messages_total', 'Messages to rooms')
    for (const domain of domains) new RoomService(domain, parts, options, () => messages.inc())
  },
})

type Needed = Pick<Parts, 'host' | 'here' | 'calls' | 'pin' | 'router' | 'sessions' | 'storage' | 'access' | 'hooks' | 'config' | 'enabled' | 'every' | 'log' | 'now'>

/** What services say to each other, or to themselves, of the unit that it is for: an account or a room. */
const CONFIRM = 'muc confirm'
const REFRESH = 'muc refresh'
const FORGET = 'muc forget'
/** To be where it is told is enough: who comes asks who is in it. */
const WAKE = 'muc wake'
/** Questions to other nodes, before the service's domain. */
const USERS = 'muc users'
const PURGE = 'muc purge'
/** How long a list of the rooms of all nodes is good, ms. */
const LISTING_MS = 1000

/** One domain with its rooms. */
class RoomService implements Rooms {
  readonly domain: string
  readonly parts: Needed
  readonly store: RoomStore
  readonly secret: Uint8Array
  readonly archives: boolean
  readonly keepsArchives: boolean
  readonly maxUsers: number
  readonly maxUsersAdmin: number
  readonly maxUsersPresence: number
  readonly messageIntervalMs: number
  readonly presenceIntervalMs: number
  readonly #options: MucOptions
  readonly #counted: () => void
  /** Rooms with occupants, and others that were asked for lately. */
  readonly #occupied = new Map<string, Room>()
  readonly #idle = new Recent<Room>(IDLE_ROOMS)
  readonly #pins = new Map<string, () => void>()
  /** How many clients of an account are in rooms. */
  readonly #counts = new Map<string, number>()
  readonly #forwarding: Forwarding
  readonly #roomId: RegExp | undefined
  #stopping = false
  #listing: readonly Listed[] | undefined
  /** The same of all nodes, being made or made a moment ago. */
  #listingOfAll: Promise<readonly Listed[]> | undefined
  readonly disco = createDiscoRegistry()
  #command: IqHandler = () => { throw new StanzaError('item-not-found') }

  constructor(domain: string, parts: Needed, options: MucOptions, counted: () => void) {
    this.domain = domain
    this.parts = parts
    this.store = new RoomStore(parts.storage.records, domain)
    this.secret = this.store.secret ?? (this.store.secret = randomBytes(32))
    this.archives = parts.enabled('archive')
    // Its archives are those of history's module.
    const { options: history } = parseOptions(archive.options as OptionTable<ArchiveOptions>, parts.config.modules.get('mod_mam'), { option: 'modules.mod_mam' })
    this.keepsArchives = !history.clear_archive_on_room_destroy
    if (this.archives && history.expire !== Infinity) parts.every(EXPIRE_EVERY_MS, () => this.#expire(history.expire))
    this.maxUsers = options.max_users
    this.maxUsersAdmin = options.max_users_admin_threshold
    this.maxUsersPresence = options.max_users_presence
    this.messageIntervalMs = options.min_message_interval
    this.presenceIntervalMs = options.min_presence_interval
    this.#options = options
    this.#counted = counted
    this.#forwarding = new Forwarding(parts.router)
    this.#roomId = options.regexp_room_id === '' ? undefined : new RegExp(options.regexp_room_id, 'u')

    const { iq, disco } = parts.router.iqService(domain, options.name, (stanza, session) => this.#take(stanza, session), 'address')
    disco.identity('host', { category: 'conference', type: 'text', name: options.name })
    disco.feature('host', MUC_NS, OCCUPANT_ID_NS, 'urn:xmpp:ping', 'http://jabber.org/protocol/rsm', 'vcard-temp')
    iq.get('urn:xmpp:ping ping', 'host', () => undefined)
    iq.get('vcard-temp vCard', 'host', () => hostVcard(options.vcard) ?? xml('vCard', { xmlns: 'vcard-temp' }))
    iq.set('vcard-temp vCard', 'host', () => { throw new StanzaError('forbidden') })
    iq.get(`${SEARCH_NS} search`, 'host', (request) => {
      if (!this.#allows(request.from)) throw new StanzaError('forbidden', 'this service is not for you')
      return search(request, () => this.#listed())
    })
    disco.feature('host', SEARCH_NS)
    const commands = createCommands({
      jid: domain, disco: this.disco, now: () => parts.now(),
      iq: { get: () => undefined, set: (_payload, _target, handler) => { this.#command = handler }, request: () => Promise.resolve(undefined), divert: () => undefined },
    })
    serveHats(commands, (jid) => this.room(jid.local))
    parts.calls.serve(`${USERS} ${domain}`, () => Array.from(this.#occupied, ([local, { occupants }]) => [local, occupants.size]))
    parts.calls.serve(`${PURGE} ${domain}`, (address, before) => this.#purge(address, before as number))
    parts.hooks.started(() => { this.#findOccupants() })
    parts.hooks.resumed((session, restarted) => { if (restarted) this.#refresh(session) })
    parts.hooks.came((unit) => { this.#came(unit) })
    parts.hooks.released((units) => {
      for (const unit of units) if (unit.endsWith(`@${domain}`)) this.#idle.delete(unit.slice(0, -domain.length - 1))
    })
    parts.hooks.nodesLost((wasThere) => {
      for (const room of this.#occupied.values()) for (const client of room.clients.values()) if (wasThere(client.jid.bare)) this.#confirm(client)
      this.#wakeRooms(wasThere)
    })
    parts.hooks.told((unit, words) => { this.#told(unit, words) })
    parts.hooks.stopping(() => { this.#stopping = true })
    parts.hooks.accountRemoved((bare) => { this.#forgetAccount(bare) })
  }

  // ---- What rooms ask

  async command(request: IqRequest): Promise<Element> {
    return await this.#command(request) as Element
  }

  isAdmin(jid: Jid): boolean { return this.parts.access.allows(this.#options.access_admin, { jid }) }

  mayRegister(jid: Jid): boolean { return this.parts.access.allows(this.#options.access_register, { jid }) }

  limitsFor(jid: Jid): ReturnType<Rooms['limitsFor']> {
    const { access } = this.parts
    const options = this.#options
    return {
      mayPersist: access.allows(options.access_persistent, { jid }),
      mayArchive: this.archives && access.allows(options.access_mam, { jid }),
      maxUsers: options.max_users,
      historyMax: Math.max(options.history_size, HISTORY_MAX),
      nameMax: Math.min(options.max_room_name, ROOM_NAME_MAX),
      descriptionMax: Math.min(options.max_room_desc, DESCRIPTION_MAX),
      passwordMax: Math.min(options.max_password, PASSWORD_MAX),
    }
  }

  count(bare: string, change: 1 | -1): void {
    const count = (this.#counts.get(bare) ?? 0) + change
    if (count <= 0) this.#counts.delete(bare)
    else this.#counts.set(bare, count)
  }

  occupied(room: Room): void {
    this.#idle.delete(room.local)
    this.#occupied.set(room.local, room)
    // As long as somebody is in it, it stays where it is.
    this.#pins.set(room.local, this.parts.pin(room.address))
  }

  #unpin(local: string): void {
    this.#pins.get(local)?.()
    this.#pins.delete(local)
  }

  empty(room: Room): void {
    this.#unpin(room.local)
    this.#occupied.delete(room.local)
    this.#idle.set(room.local, room)
  }

  changed(): void {
    this.#listing = undefined
    this.#listingOfAll = undefined
  }

  removed(room: Room): void {
    this.changed()
    this.#unpin(room.local)
    this.#occupied.delete(room.local)
    this.#idle.delete(room.local)
    if (this.keepsArchives) {
      if (this.archives) this.#keepPast(room)
      return
    }
    const purged = this.parts.storage.archive.purge(room.address, this.parts.now() + 1)
    if (purged instanceof Promise) purged.catch((error: unknown) => { this.parts.log.error({ what: 'room_archive_not_removed', room: room.address, error }) })
  }

  /** Notes a room that is gone and has left an archive. */
  #keepPast({ local, address }: Room): void {
    const { storage, here, log } = this.parts
    const bounds = storage.archive.bounds(address)
    if (!(bounds instanceof Promise)) {
      if (bounds !== undefined) this.store.putPast(local)
      return
    }
    // Until it is known that there is none it counts as one that has.
    this.store.putPast(local)
    bounds.then((found) => {
      if (found === undefined && here(address)) this.store.removePast(local)
    }).catch((error: unknown) => { log.error({ what: 'room_archive_not_read', room: address, error }) })
  }

  /** The room of this name, if there is one. */
  room(local: string): Room | undefined {
    const known = this.#occupied.get(local) ?? this.#idle.get(local)
    if (known !== undefined) return known
    const stored = this.store.room(local)
    if (stored === undefined) return undefined
    const room = new Room(this, local, stored)
    if (room.clients.size === 0) this.#idle.set(local, room)
    return room
  }

  /** §10.1: a room that its owner has to accept. */
  #create(local: string, owner: Jid): Room {
    const { access } = this.parts
    const options = this.#options
    if (!access.allows(options.access_create, { jid: owner })) throw new StanzaError('not-allowed', 'you may not make rooms')
    if (local.length > options.max_room_id || this.#roomId?.test(local) === false) throw new StanzaError('not-acceptable', 'no room may have this name')
    const d = options.default_room_options
    const limits = this.limitsFor(owner)
    const config: RoomConfig = {
      name: d.title, description: d.description, lang: d.lang,
      persistent: d.persistent && limits.mayPersist, public: d.public, membersOnly: d.members_only,
      moderated: d.moderated && !d.members_by_default,
      passwordProtected: d.password_protected && d.password !== '', password: d.password,
      nonAnonymous: !d.anonymous, allowInvites: d.allow_user_invites, changeSubject: d.allow_change_subj, allowPm: d.allowpm,
      maxUsers: Math.min(d.max_users, options.max_users), logging: d.logging, archive: d.mam, historyLength: options.history_size,
      presenceBroadcast: d.presence_broadcast, memberList: ['moderator', 'participant'], publicList: d.public_list,
      visitorNickChange: d.allow_visitor_nickchange, visitorStatus: d.allow_visitor_status, queryUsers: d.allow_query_users,
    }
    const room = new Room(this, local, { config, created: this.parts.now(), since: nextMessageId(), locked: true, subject: null, subjectAt: 0, avatars: [] })
    room.save()
    setAffiliation(room, owner.toBare(), 'owner')
    return room
  }

  // ---- What comes

  /** Whether the stanza was taken; the rest is an IQ to the service itself. */
  #take(stanza: Stanza, session: Session | undefined): boolean | Promise<void> {
    const to = Jid.parse(stanza.to ?? '')
    const from = Jid.parse(stanza.from ?? '')
    if (to.local === '') return this.#toService(stanza, to, from, session)
    switch (stanza.name) {
      case 'presence':
        this.#presence(stanza, to, from, session)
        return true
      case 'message':
        return this.#message(stanza, to, from) ?? true
      default:
        this.#iq(stanza, to, from, session)
        return true
    }
  }

  #toService(stanza: Stanza, to: Jid, from: Jid, session: Session | undefined): boolean {
    if (stanza.name !== 'iq' || to.resource !== '' || stanza.type !== 'get') return false
    const payload = stanza.children[0]
    if (payload?.xmlns !== DISCO_ITEMS_NS || payload.name !== 'query') return false
    const query = stanza.childElement(payload)
    if (!this.#allows(from)) throw new StanzaError('forbidden', 'this service is not for you')
    const list = this.#list(query)
    if (list instanceof Promise) {
      list.then((answer) => iqResult(stanza, answer), (error: unknown) => errorReply(stanza, error instanceof StanzaError ? error : new StanzaError('internal-server-error')))
        .then((answer) => { this.#answer(answer, session) }).catch((error: unknown) => { this.parts.log.error({ what: 'rooms_not_listed', error }) })
    } else this.#answer(iqResult(stanza, list), session)
    return true
  }

  #allows(jid: Jid): boolean { return this.parts.access.allows(this.#options.access, { jid }) }

  #answer(answer: Stanza, session: Session | undefined): void {
    if (session !== undefined) session.send(answer, { durable: this.parts.storage.dirty })
    else this.parts.router.route(answer)
  }

  /** §6.3: the rooms that are listed, page by page (XEP-0059). */
  #list(query: Element): Element | Promise<Element> {
    if ((query.attrs['node'] ?? '') !== '') throw new StanzaError('item-not-found')
    const page = parseResultSet(query)
    const answer = (rooms: readonly Listed[]): Element => {
      const { items, set } = pageOf(rooms, page, (room) => room.address, this.#options.max_rooms_discoitems)
      const paged = query.getChild('set', RSM_NS) !== undefined || items.length < rooms.length
      return xml('query', { xmlns: DISCO_ITEMS_NS }, items.map(({ address, name }) => xml('item', { jid: address, name })), paged && set)
    }
    const rooms = this.#listed()
    return rooms instanceof Promise ? rooms.then(answer) : answer(rooms)
  }

  /** The rooms that are listed, in order of their addresses; read again when a room has changed. */
  #listed(): readonly Listed[] | Promise<readonly Listed[]> {
    if (!this.parts.calls.alone) {
      if (this.#listingOfAll === undefined) {
        const listing = this.#listedOfAll()
        this.#listingOfAll = listing
        const forget = (): void => { if (this.#listingOfAll === listing) this.#listingOfAll = undefined }
        listing.then(() => { setTimeout(forget, LISTING_MS).unref() }, forget)
      }
      return this.#listingOfAll
    }
    if (this.#listing !== undefined) return this.#listing
    const found: Listed[] = []
    let after: string | undefined
    for (let scanned = 0; scanned < LIST_SCAN_MAX;) {
      const rooms = this.store.rooms(after, 500)
      if (rooms instanceof Promise) throw new Error('rooms need a storage driver that reads synchronously')
      for (const { local, room } of rooms) this.#note(found, local, room, () => this.#occupied.get(local)?.occupants.size ?? 0)
      scanned += rooms.length
      after = rooms.at(-1)?.local
      if (rooms.length < 500) break
    }
    return (this.#listing = found)
  }

  /** Those of all nodes. Rooms with occupants are in memory where they are at home. */
  async #listedOfAll(): Promise<readonly Listed[]> {
    const answers = await this.parts.calls.askNodes(`${USERS} ${this.domain}`) as unknown as readonly (readonly [string, number][])[]
    const users = new Map(answers.flat())
    const found: Listed[] = []
    let after: string | undefined
    for (let scanned = 0; scanned < LIST_SCAN_MAX;) {
      const rooms = await this.store.rooms(after, 500)
      for (const { local, room } of rooms) this.#note(found, local, room, () => users.get(local) ?? 0)
      scanned += rooms.length
      after = rooms.at(-1)?.local
      if (rooms.length < 500) break
    }
    return found
  }

  #note(found: Listed[], local: string, { config, locked }: ListedRoom, users: () => number): void {
    if (!config.public || locked) return
    found.push({
      address: `${local}@${this.domain}`, name: config.name === '' ? local : config.name, description: config.description, language: config.lang,
      get users() { return users() }, open: !config.membersOnly && !config.passwordProtected, anonymous: !config.nonAnonymous,
    })
  }

  #presence(stanza: Stanza, to: Jid, from: Jid, session: Session | undefined): void {
    const { type } = stanza
    const room = this.room(to.local)
    const client = room?.client(from)
    try {
      switch (type) {
        case undefined:
          this.#available(stanza, room, client, to, from, session)
          return
        case 'unavailable':
          // Who is not back after a restart leaves then, and is seen to leave by those who are.
          if (room !== undefined && client !== undefined && !this.#stopping) exit(room, client, stanza)
          return
        case 'error':
          if (room !== undefined && client !== undefined) this.#lost(room, client, stanza)
          return
        case 'subscribe':
          this.parts.router.route(makeStanza('presence', { type: 'unsubscribed', id: stanza.id, from: to.bare, to: from.bare }))
          return
        default:
      }
    } catch (error) {
      if (!(error instanceof StanzaError)) throw error
      this.parts.router.route(errorReply(stanza, error))
    }
  }

  #available(stanza: Stanza, room: Room | undefined, client: Client | undefined, to: Jid, from: Jid, session: Session | undefined): void {
    if (isBlank(to.resource)) throw new StanzaError('jid-malformed', 'a nickname is needed', { type: 'modify' }) // §7.2.1
    if (!this.parts.storage.healthy) throw new StanzaError('resource-constraint', 'the server cannot store anything at the moment')
    if (room !== undefined && client !== undefined) return update(room, client, stanza, to.resource)
    if (!stanza.has('x', MUC_NS)) {
      this.parts.router.route(tellStranger(to.bare, stanza))
      return
    }
    if (!this.#allows(from)) throw new StanzaError('forbidden', 'this service is not for you')
    if ((this.#counts.get(from.bare) ?? 0) >= this.#options.max_user_conferences) throw new StanzaError('resource-constraint', 'you are in too many rooms')
    const there = session ?? this.parts.sessions.get(from.toString())
    if (room !== undefined) return join(room, stanza, from, to.resource, there, false)
    const made = this.#create(to.local, from)
    join(made, stanza, from, to.resource, there, true)
  }

  #message(stanza: Stanza, to: Jid, from: Jid): Promise<void> | undefined {
    const room = this.room(to.local)
    const client = room?.client(from)
    if (stanza.type === 'error') {
      if (room !== undefined && client !== undefined) this.#lost(room, client, stanza)
      return undefined
    }
    if (room === undefined) throw new StanzaError('item-not-found', 'there is no such room')
    if (to.resource !== '') {
      sendPrivately(room, client, stanza, to.resource)
      return undefined
    }
    if (stanza.type !== 'groupchat') {
      if (mediate(room, client, stanza, from)) return undefined
      // A message of another type to the room is for nobody.
      throw new StanzaError(client === undefined ? 'not-acceptable' : 'bad-request', 'a message to the room is of type groupchat')
    }
    this.#counted()
    return sendToAll(room, client, stanza) ?? undefined
  }

  /** A client that cannot be reached is no occupant. */
  #lost(room: Room, client: Client, stanza: Stanza): void {
    const span = stanza.find('error')
    const condition = span === undefined ? undefined : stanza.childElement(span).getChildElements()[0]?.getName()
    if (condition === undefined || !(GONE.has(condition) || (condition === AWAY && this.parts.here(client.jid.bare) && this.parts.sessions.get(client.full) === undefined))) return
    expel(room, client, { codes: [307, 333], reason: 'the client is not to be reached' })
    room.tidy()
  }

  #iq(stanza: Stanza, to: Jid, from: Jid, session: Session | undefined): void {
    const { type } = stanza
    if (type !== 'get' && type !== 'set') return this.#forwarding.answer(stanza)
    const room = this.room(to.local)
    if (to.resource !== '') return this.#forwarding.request(room, stanza, from, to.resource)
    const child = stanza.children[0]
    if (child === undefined) throw new StanzaError('bad-request')
    if (room === undefined) throw new StanzaError('item-not-found', 'there is no such room')
    const handler = roomHandlers.get(`${type} ${child.xmlns} ${child.name}`)
    if (handler === undefined) throw new StanzaError(roomHandlers.has(`${type === 'get' ? 'set' : 'get'} ${child.xmlns} ${child.name}`) ? 'feature-not-implemented' : 'service-unavailable')
    if (type === 'set' && !this.parts.storage.healthy) throw new StanzaError('resource-constraint', 'the server cannot store anything at the moment')
    const answer = handler(room, { stanza, payload: stanza.childElement(child), from, to, session })
    if (!(answer instanceof Promise)) return this.#answer(iqResult(stanza, answer ?? undefined), session)
    answer.then((element) => { this.#answer(iqResult(stanza, element ?? undefined), session) }, (error: unknown) => {
      if (!(error instanceof StanzaError)) this.parts.log.error({ what: 'room_request_failed', room: room.address, from: stanza.from, error })
      this.#answer(errorReply(stanza, error instanceof StanzaError ? error : new StanzaError('internal-server-error')), session)
    })
  }

  // ---- A start, and the end of an account

  /** Removes what is older from the archives, also of rooms that are gone; one node sees to it for all. */
  async #expire(afterMs: number): Promise<void> {
    if (!this.parts.here(this.parts.host)) return
    const before = this.parts.now() - afterMs
    const purge = async (page: (after: string | undefined) => MaybePromise<readonly string[]>, purged: (local: string, hasMore: boolean) => void): Promise<void> => {
      for (let after: string | undefined; ;) {
        const names = await page(after)
        for (const local of names) {
          const hasMore = await this.parts.calls.ask(`${local}@${this.domain}`, `${PURGE} ${this.domain}`, before)
          purged(local, hasMore === true)
        }
        if (names.length < EXPIRE_AT_ONCE) return
        after = names.at(-1)
        await new Promise((resolve) => { setImmediate(resolve) })
      }
    }
    await purge(async (after) => (await this.store.rooms(after, EXPIRE_AT_ONCE)).map(({ local }) => local), () => undefined)
    await purge((after) => this.store.past(after, EXPIRE_AT_ONCE), (local, hasMore) => { if (!hasMore) this.store.removePast(local) })
  }

  /** At the room's home: whether anything is left of its archive. */
  async #purge(address: string, before: number): Promise<boolean> {
    const { archive: history } = this.parts.storage
    await history.purge(address, before)
    return await history.bounds(address) !== undefined
  }

  /** Rooms whose occupants were here before the start: those whose session is still here stay, the others leave. */
  #findOccupants(): void {
    for (const local of this.store.occupied()) {
      const room = this.room(local)
      if (room === undefined) continue
      for (const client of room.clients.values()) client.session = this.parts.sessions.get(client.full)
      for (const client of room.clients.values()) {
        if (client.session?.directed.has(client.occupant.jid.toString()) !== true) room.tellGone(client)
      }
      room.tidy()
    }
  }

  #refresh(session: Session): void {
    for (const address of session.directed) {
      const jid = Jid.tryParse(address)
      if (jid?.domain === this.domain) this.parts.router.tell(jid.bare, REFRESH, this.domain, session.jid.toString(), address)
    }
  }

  // ---- Several nodes

  /** A room has come from another node. Those who are in it are, until their homes say that they are not. */
  #came(unit: string): void {
    const jid = Jid.tryParse(unit)
    const room = jid?.domain === this.domain && jid.local !== '' ? this.room(jid.local) : undefined
    if (room !== undefined) for (const client of room.clients.values()) this.#confirm(client)
  }

  /** Rooms in which somebody of this node is live elsewhere when their node is gone, and see who is still in them. */
  #wakeRooms(wasThere: (unit: string) => boolean): void {
    const rooms = new Set<string>()
    for (const session of this.parts.sessions.all()) {
      for (const address of session.directed) {
        const jid = Jid.tryParse(address)
        if (jid?.domain === this.domain && jid.local !== '' && wasThere(jid.bare)) rooms.add(jid.bare)
      }
    }
    for (const room of rooms) this.parts.router.tell(room, WAKE, this.domain)
  }

  /** Asks the home of a client whether it is still in the room. */
  #confirm(client: Client): void {
    this.parts.router.tell(client.jid.bare, CONFIRM, this.domain, client.full, client.occupant.jid.toString())
  }

  #told(unit: string, [what, domain, ...words]: readonly string[]): void {
    if (domain !== this.domain) return
    const [full = '', address = ''] = words
    switch (what) {
      case CONFIRM:
        // As it would have left had its session ended in good order.
        if (this.parts.sessions.get(full)?.directed.has(address) !== true) this.parts.router.route(makeStanza('presence', { type: 'unavailable', from: full, to: address }))
        return
      case REFRESH: {
        const room = this.room(Jid.parse(unit).local)
        const client = room?.client(Jid.parse(full))
        if (room !== undefined && client !== undefined && client.occupant.jid.toString() === address) refresh(room, client)
        return
      }
      case FORGET:
        this.#forgetIn(Jid.parse(unit).local, full)
        return
      default:
    }
  }

  /** Whoever gets the name next has no part in what its last owner had. */
  #forgetAccount(bare: string): void {
    for (const local of this.store.relationsOf(bare)) this.parts.router.tell(`${local}@${this.domain}`, FORGET, this.domain, bare)
  }

  #forgetIn(local: string, bare: string): void {
    const room = this.room(local)
    if (room === undefined) return
    const { affiliation } = room.affiliations.get(bare) ?? {}
    if (room.wearers.delete(bare)) room.save()
    if (affiliation !== 'outcast') setAffiliation(room, Jid.parse(bare), 'none')
    // A room that nobody may change and nobody is in is of no use to anybody.
    if (affiliation === 'owner' && room.clients.size === 0 && room.affiliations.size === 0) endRoom(room, '')
  }
}
