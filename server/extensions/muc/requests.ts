/** IQs to a room: discovery, history, registration, pictures, moderation (XEP-0045 §6.4, §7.10, §7.12; XEP-0313; XEP-0425; XEP-0486). */
import { createHash, randomUUID } from 'node:crypto'
import { buildForm, type FieldSpec, FORMS_NS, parseForm } from '../../../lib/forms.ts'
import { Jid } from '../../../lib/jid.ts'
import { formatDateTime } from '../../../lib/stanza/delay.ts'
import { StanzaError } from '../../../lib/stanza/errors.ts'
import { readStanza } from '../../../lib/stanza/read.ts'
import { makeStanza } from '../../../lib/stanza/stanza.ts'
import { parseElement } from '../../../lib/xml/build.ts'
import { type Element, escapeXml, xml } from '../../../lib/xml/element.ts'
import { MAM_NS, queryForm, readMetadata, readQuery, resultMessages, runQuery } from '../archive/query.ts'
import { COMMANDS_NS } from '../commands-registry.ts'
import { DISCO_INFO_NS, DISCO_ITEMS_NS } from '../disco-registry.ts'
import type { IqRequest } from '../extension.ts'
import { standalone } from '../standalone-element.ts'
import { answerConfig, answerList, applyConfig, applyEdits, reservable, setAffiliation } from './administration.ts'
import { bury, FASTEN_NS, findMessage, type FoundMessage, FORMER_MODERATE_NS, MODERATE_NS, publish, RETRACT_NS, withAuthor } from './messages.ts'
import { HATS_NS, MUC_ADMIN_NS, MUC_NS, MUC_OWNER_NS, OCCUPANT_ID_NS, type Room } from './room.ts'
import { featuresOf, reaches } from './room-config.ts'

const REGISTER_NS = 'jabber:iq:register'
const REGISTER_FORM = `${MUC_NS}#register`
const VCARD_NS = 'vcard-temp'
const VCARD_BYTES_MAX = 262_144
const FORMER_RETRACT_NS = 'urn:xmpp:message-retract:0'
export const SELF_PING = `${MUC_NS}#self-ping-optimization`

type Answer = Element | undefined | void
type Handler = (room: Room, request: IqRequest) => Answer | Promise<Answer>

/** By type, namespace and name of the payload. */
export const roomHandlers: ReadonlyMap<string, Handler> = new Map<string, Handler>([
  [`get ${DISCO_INFO_NS} query`, answerInfo],
  [`get ${DISCO_ITEMS_NS} query`, answerItems],
  ['get urn:xmpp:ping ping', () => undefined],
  [`get ${MUC_ADMIN_NS} query`, answerList],
  [`set ${MUC_ADMIN_NS} query`, applyEdits],
  [`get ${MUC_OWNER_NS} query`, answerConfig],
  [`set ${MUC_OWNER_NS} query`, applyConfig],
  [`get ${MAM_NS} query`, (room, request) => { requireReader(room, request.from); return queryForm() }],
  [`set ${MAM_NS} query`, answerQuery],
  [`get ${MAM_NS} metadata`, (room, { from }) => { requireReader(room, from); return readMetadata(room.rooms.parts.storage.archive, room.address, room.floorFor(from)) }],
  [`get ${REGISTER_NS} query`, answerRegistration],
  [`set ${REGISTER_NS} query`, register],
  [`get ${VCARD_NS} vCard`, (room) => {
    const text = room.rooms.store.vcard(room.local)
    return text === undefined ? xml('vCard', { xmlns: VCARD_NS }) : parseElement(text)
  }],
  [`set ${VCARD_NS} vCard`, setVcard],
  [`set ${MODERATE_NS} moderate`, (room, { payload, from }) => moderate(room, from, payload.attrs['id'], payload)],
  [`set ${FASTEN_NS} apply-to`, (room, { payload, from }) => moderate(room, from, payload.attrs['id'], payload.getChild('moderate', FORMER_MODERATE_NS))],
  [`set ${COMMANDS_NS} command`, (room, request) => room.rooms.command(request)],
])

// ---- Discovery

/** §6.4 and §15.3 to §15.5 */
function answerInfo(room: Room, request: IqRequest): Element | Promise<Element> {
  const { payload, from } = request
  const node = payload.attrs['node']
  // §7.12: the nickname that the room keeps for who asks.
  if (node === 'x-roomuser-item') {
    const nick = room.affiliations.get(from.bare)?.nick
    return xml('query', { xmlns: DISCO_INFO_NS, node }, nick !== undefined && xml('identity', { category: 'conference', type: 'text', name: nick }))
  }
  if (node === `${MUC_NS}#traffic`) throw new StanzaError('service-unavailable') // §17.2: nothing is discarded
  if (node !== undefined && node !== '') return room.rooms.disco.info('host', request)
  const { config } = room
  const features = [
    MUC_NS, DISCO_INFO_NS, DISCO_ITEMS_NS, `${MUC_NS}#stable_id`, `${MUC_NS}#request`, SELF_PING, ...featuresOf(config), OCCUPANT_ID_NS, REGISTER_NS, VCARD_NS, 'urn:xmpp:ping',
    RETRACT_NS, MODERATE_NS, FORMER_MODERATE_NS, 'urn:xmpp:sid:0', HATS_NS, COMMANDS_NS,
    ...(room.archived ? [MAM_NS, `${MAM_NS}#extended`, 'http://jabber.org/protocol/rsm', `${RETRACT_NS}#tombstone`] : []),
  ]
  return xml('query', { xmlns: DISCO_INFO_NS },
    xml('identity', { category: 'conference', type: 'text', name: config.name === '' ? room.local : config.name }),
    features.map((each) => xml('feature', { var: each })),
    roomInfo(room, mayRead(room, from)))
}

/** `inside`: for somebody who may enter, who may know what is spoken of. */
function roomInfo(room: Room, inside: boolean): Element {
  const { config, subject, avatars } = room
  const owners = Array.from(room.having('owner'), ([jid]) => jid)
  const text = subject?.element().getChildText('subject') ?? ''
  const changes = config.changeSubject
  const fields: (FieldSpec | false)[] = [
    { var: 'muc#roomconfig_roomname', type: 'text-single', label: 'Name', value: config.name },
    { var: 'muc#roominfo_description', type: 'text-single', label: 'Description', value: config.description },
    { var: 'muc#roominfo_lang', type: 'text-single', label: 'Language', value: config.lang },
    { var: 'muc#roominfo_occupants', type: 'text-single', label: 'Number of occupants', value: room.occupants.size },
    inside && { var: 'muc#roominfo_subject', type: 'text-single', label: 'Subject', value: text },
    { var: 'muc#roominfo_subjectmod', type: 'boolean', label: 'Occupants may change the subject', value: changes },
    { var: 'muc#roominfo_changesubject', type: 'boolean', label: 'Occupants may change the subject', value: changes },
    { var: 'muc#roomconfig_changesubject', type: 'boolean', label: 'Occupants may change the subject', value: changes },
    { var: 'muc#roomconfig_allowinvites', type: 'boolean', label: 'Occupants may invite others', value: config.allowInvites },
    { var: 'muc#roomconfig_allowpm', type: 'list-single', label: 'Who may send private messages', value: config.allowPm },
    { var: 'muc#roomconfig_whois', type: 'list-single', label: 'Who sees real addresses', value: config.nonAnonymous ? 'anyone' : 'moderators' },
    { var: 'muc#maxhistoryfetch', type: 'text-single', label: 'Most messages shown to who enters', value: config.historyLength },
    { var: 'muc#roomconfig_maxusers', type: 'text-single', label: 'Most occupants', value: config.maxUsers === 0 ? room.rooms.maxUsers : Math.min(config.maxUsers, room.rooms.maxUsers) },
    config.nonAnonymous && inside && { var: 'muc#roominfo_contactjid', type: 'jid-multi', label: 'Owners', value: owners },
    // XEP-0486: left out when there is no picture.
    room.hats.size > 0 && { var: 'hats#hash', type: 'text-single', label: 'Hats hash', value: createHash('sha1').update(JSON.stringify([...room.hats])).digest('hex') },
    avatars.length > 0 && { var: 'muc#roominfo_avatarhash', type: 'text-multi', label: 'Avatar hash', value: avatars },
  ]
  return buildForm('result', { formType: `${MUC_NS}#roominfo`, fields: fields.filter((field) => field !== false) })
}

/** §6.5: the occupants, for those who may list them. */
function answerItems(room: Room, request: IqRequest): Element | Promise<Element> {
  const { payload, from } = request
  if ((payload.attrs['node'] ?? '') !== '') return room.rooms.disco.itemList('host', request)
  const may = room.client(from) !== undefined || (room.config.publicList && room.config.public)
  return xml('query', { xmlns: DISCO_ITEMS_NS }, may && [...room.occupants.values()].filter((each) => room.shows(each.role)).map((each) => xml('item', { jid: each.jid.toString(), name: each.nick })))
}

// ---- History (XEP-0313)

/** Who may enter may read. */
function requireReader(room: Room, from: Jid): void {
  if (!room.archived) throw new StanzaError('service-unavailable', 'this room keeps no messages')
  if (!mayRead(room, from)) throw new StanzaError('forbidden', 'the history of this room is not yours to read')
}

function mayRead(room: Room, from: Jid): boolean {
  const affiliation = room.affiliationOf(from)
  if (room.client(from) !== undefined || reaches(affiliation, 'member')) return true
  return affiliation !== 'outcast' && !room.config.membersOnly && !room.config.passwordProtected && !room.locked
}

async function answerQuery(room: Room, request: IqRequest): Promise<Element> {
  const { from, session, payload, stanza } = request
  requireReader(room, from)
  const asked = readQuery(payload)
  const { storage, router } = room.rooms.parts
  const occupant = room.client(from)?.occupant
  const sees = room.config.nonAnonymous || occupant?.role === 'moderator' || reaches(room.affiliationOf(from), 'admin')
  // What somebody has said is known by the address only to those who know the address.
  if (asked.with !== undefined && asked.with.bare !== room.address && asked.with.bare !== from.bare && !sees) throw new StanzaError('forbidden', 'addresses are not known here')
  const page = await runQuery(storage.archive, room.address, asked, room.floorFor(from))
  const build = resultMessages(room.address, from.toString(), asked.queryId)
  const sent = { volatile: true, durable: storage.dirty }
  for (const item of asked.flip ? page.items.toReversed() : page.items) {
    const known = sees && item.with !== room.address ? { ...item, bytes: withAuthor(room, readStanza(item.bytes), item.with).bytes() } : item
    const result = build(known)
    if (session !== undefined) session.send(result, sent)
    else router.route(result)
  }
  session?.volatileAnswer(stanza.id ?? '')
  return page.fin
}

// ---- Registration (§7.10, §7.13)

function answerRegistration(room: Room, { from }: IqRequest): Element {
  const known = requireRegistrable(room, from)
  if (known?.nick !== undefined) return xml('query', { xmlns: REGISTER_NS }, xml('registered'), xml('username', null, known.nick))
  return xml('query', { xmlns: REGISTER_NS }, xml('instructions', null, 'Choose the nickname that the room keeps for you.'),
    buildForm('form', { formType: REGISTER_FORM, title: 'Registration', instructions: 'Choose the nickname that the room keeps for you.', fields: [{ var: 'muc#register_roomnick', type: 'text-single', label: 'Nickname', required: true }] }))
}

/** Who has an affiliation may have a nickname kept, and in an open room who may speak; the latter becomes a member. */
function requireRegistrable(room: Room, from: Jid): { readonly nick?: string } | undefined {
  const affiliation = room.affiliationOf(from)
  if (affiliation === 'outcast') throw new StanzaError('forbidden', 'you are banned from this room')
  if (!room.rooms.mayRegister(from)) throw new StanzaError('not-allowed', 'you may not register here')
  if (affiliation === 'none' && (room.config.membersOnly || room.config.passwordProtected || room.config.moderated)) throw new StanzaError('not-allowed', 'only members may register here')
  return room.affiliations.get(from.bare)
}

function register(room: Room, { payload, from }: IqRequest): void {
  const known = requireRegistrable(room, from)
  const affiliation = room.affiliations.get(from.bare)?.affiliation ?? 'none'
  const jid = from.toBare()
  if (payload.getChild('remove', REGISTER_NS) !== undefined) {
    if (known?.nick === undefined) throw new StanzaError('registration-required', 'you are not registered here')
    setAffiliation(room, jid, affiliation === 'member' ? 'none' : affiliation, { nick: '' })
    return
  }
  const x = payload.getChild('x', FORMS_NS)
  const form = x && parseForm(x, { kinds: ['submit'], formType: REGISTER_FORM })
  const nick = form === undefined ? payload.getChildText('username') ?? payload.getChildText('nick') ?? '' : form.value('muc#register_roomnick') ?? ''
  setAffiliation(room, jid, affiliation === 'none' ? 'member' : affiliation, { nick: reservable(room, jid, nick) })
}

// ---- Pictures (XEP-0054, XEP-0486)

function setVcard(room: Room, { payload, from }: IqRequest): void {
  if (room.affiliationOf(from) !== 'owner') throw new StanzaError('forbidden', 'only owners may do this')
  const text = standalone(payload).toString()
  if (Buffer.byteLength(text) > VCARD_BYTES_MAX) throw new StanzaError('policy-violation', `a vCard has at most ${VCARD_BYTES_MAX} bytes`)
  const empty = payload.getChildElements().length === 0
  room.rooms.store.putVcard(room.local, empty ? undefined : text)
  room.avatars = payload.getChildren('PHOTO', VCARD_NS).flatMap((photo) => {
    const data = photo.getChildText('BINVAL')
    return data === null || data.trim() === '' ? [] : [createHash('sha1').update(Buffer.from(data, 'base64')).digest('hex')]
  })
  room.save()
  room.announce("<status code='104'/>")
  room.tellAvatar([...room.clients.values()])
}

// ---- Moderation (XEP-0425)

/** `action` says what becomes of the message. Clients of either version are told in theirs. */
function moderate(room: Room, from: Jid, id: string | undefined, action: Element | undefined): void | Promise<void> {
  const occupant = room.client(from)?.occupant
  if (occupant?.role !== 'moderator' && !reaches(room.affiliationOf(from), 'admin')) throw new StanzaError('forbidden', 'only moderators may do this')
  if (id === undefined || id === '') throw new StanzaError('bad-request', 'the id of the message is missing')
  if (action?.getChild('retract', RETRACT_NS) === undefined && action?.getChild('retract', FORMER_RETRACT_NS) === undefined) throw new StanzaError('feature-not-implemented', 'a message can be retracted, and nothing else')
  const found = findMessage(room, id)
  return found instanceof Promise ? found.then((message) => { moderateFound(room, from, id, action, message) }) : moderateFound(room, from, id, action, found)
}

function moderateFound(room: Room, from: Jid, id: string, action: Element, found: FoundMessage | undefined): void {
  if (found === undefined) throw new StanzaError('item-not-found', 'the room has no such message')
  const occupant = room.client(from)?.occupant
  const reason = action.getChildText('reason')
  const why = reason === null ? '' : `<reason>${escapeXml(reason)}</reason>`
  const by = occupant === undefined ? '' : ` by='${escapeXml(occupant.jid.toString())}'`
  const moderator = occupant?.idXml ?? `<occupant-id xmlns='${OCCUPANT_ID_NS}' id='${room.occupantId(from.bare)}'/>`
  const moderated = `<moderated xmlns='${MODERATE_NS}'${by}>${moderator}</moderated>${why}`
  const former = (retraction: string): string => `<moderated xmlns='${FORMER_MODERATE_NS}'${by}>${retraction}${moderator}${why}</moderated>`
  const retractionId = randomUUID()
  const stamp = formatDateTime(room.rooms.parts.now())
  bury(room, id, found, `<retracted xmlns='${RETRACT_NS}' id='${retractionId}' stamp='${stamp}'>${moderated}</retracted>`, former(`<retracted xmlns='${FORMER_RETRACT_NS}' stamp='${stamp}'/>`))
  room.rooms.parts.router.moderated(found.author, readStanza(found.bytes))
  publish(room, makeStanza('message', { from: room.address, type: 'groupchat', id: retractionId }, [
    { name: 'retract', xmlns: RETRACT_NS, text: `<retract xmlns='${RETRACT_NS}' id='${escapeXml(id)}'>${moderated}</retract>` },
    { name: 'apply-to', xmlns: FASTEN_NS, text: `<apply-to xmlns='${FASTEN_NS}' id='${escapeXml(id)}'>${former(`<retract xmlns='${FORMER_RETRACT_NS}' stamp='${stamp}'/>`)}</apply-to>` },
  ]), room.jid, room.address)
}
