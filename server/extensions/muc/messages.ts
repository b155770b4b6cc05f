/** Messages to the whole room and to single occupants, history and subject (XEP-0045 §7.2.13 to §7.2.15, §7.4, §7.5, §8.1). */
import { withoutForged } from '../stanza-ids.ts'
import { withStanzaId } from '../archive/archive.ts'
import { isWorthArchiving } from '../archive/worth.ts'
import { Jid } from '../../../lib/jid.ts'
import { DELAY_NS, delayXml, formatDateTime, parseDateTime } from '../../../lib/stanza/delay.ts'
import { StanzaError } from '../../../lib/stanza/errors.ts'
import { nextMessageId, timeOfLastId, timeOfMessageId } from '../../../lib/stanza/ids.ts'
import { readStanza } from '../../../lib/stanza/read.ts'
import { CLIENT_NS, makeStanza, type Stanza } from '../../../lib/stanza/stanza.ts'
import { type Element, escapeXml } from '../../../lib/xml/element.ts'
import type { SendOptions, Session } from '../../sessions/session.ts'
import type { ArchivedItem, ArchivePage, MaybePromise } from '../../storage/shapes.ts'
import { type Client, type Entering, MUC_USER_NS, OCCUPANT_ID_NS, type Room } from './room.ts'
import { reaches } from './room-config.ts'

export const RETRACT_NS = 'urn:xmpp:message-retract:1'
export const MODERATE_NS = 'urn:xmpp:message-moderate:1'
/** XEP-0425 before version 0.3, with XEP-0422 and XEP-0424 before 0.4: what Gajim knows up to 1.9. */
export const FORMER_MODERATE_NS = 'urn:xmpp:message-moderate:0'
export const FASTEN_NS = 'urn:xmpp:fasten:0'
/** Of the history that somebody who enters is sent. */
const HISTORY_CHARS_MAX = 1_000_000
/** So many messages wait for one that enters; with more it goes without the history. */
const MEANWHILE_MAX = 200
const STANZA_ID_NS = 'urn:xmpp:sid:0'

/** §7.4: to everybody. A promise when it takes back what has to be looked for in an archive elsewhere. */
export function sendToAll(room: Room, client: Client | undefined, stanza: Stanza): void | Promise<void> {
  if (client === undefined) throw new StanzaError('not-acceptable', 'only occupants may send messages to the room')
  const { occupant } = client
  const { config, rooms } = room
  if (config.moderated && occupant.role === 'visitor') throw new StanzaError('forbidden', 'visitors may not speak here')
  const now = rooms.parts.now()
  if (now - client.messageAt < rooms.messageIntervalMs) throw new StanzaError('resource-constraint', 'not so many messages in so little time')
  client.messageAt = now
  const setsSubject = isSubject(stanza)
  if (setsSubject && occupant.role !== 'moderator' && !(config.changeSubject && occupant.role === 'participant')) throw new StanzaError('forbidden', 'you may not change the subject')
  const said = (): void => void publish(room, cleaned(room, stanza).withAttrs({ from: occupant.jid.toString(), to: undefined }).append('occupant-id', OCCUPANT_ID_NS, occupant.idXml), occupant.jid, occupant.bare, setsSubject)
  const retracting = retract(room, occupant.bare, stanza)
  return retracting === undefined ? said() : retracting.then(said)
}

/** Archives a message of the room and sends it to everybody; its archive id. */
export function publish(room: Room, message: Stanza, from: Client['jid'], author: string, setsSubject = false): string {
  const { rooms } = room
  const id = nextMessageId()
  const time = timeOfLastId()
  const kept = isWorthArchiving(message, true)
  const durable = kept || setsSubject
  if (kept) {
    if (room.archived) rooms.parts.storage.archive.append({ id, bytes: message.bytes(), owners: [{ owner: room.address, with: author }] })
    else if (!setsSubject) remember(room, id, message, author)
  }
  if (setsSubject) {
    room.subject = message.compact()
    room.subjectAt = time
    room.save()
  }
  const live = kept || setsSubject ? withStanzaId(message, room.address, id) : message
  tellAll(room, live, from, durable ? { durable: true } : {})
  if (!kept) return id
  const sentTo = (session: Session): boolean => room.client(session.jid) !== undefined
  for (const [jid, { affiliation }] of room.affiliations) if (jid !== author && reaches(affiliation, 'member')) rooms.parts.router.missed(jid, live, sentTo, () => room.accounts.get(jid)?.map(({ full }) => full) ?? [])
  return id
}

function tellAll(room: Room, live: Stanza, from: Client['jid'], options: SendOptions): void {
  const { router } = room.rooms.parts
  if (room.entering.size === 0) return router.multicast(live, from, room.clients.values(), options)
  for (const [client, entering] of room.entering) {
    if (entering.meanwhile.push(() => { router.multicast(live, from, [client], options) }) > MEANWHILE_MAX) entering.end()
  }
  router.multicast(live, from, Array.from(room.clients.values()).filter((client) => !room.entering.has(client)), options)
}

/** A room without an archive keeps as many messages as it shows to who enters. */
function remember(room: Room, id: string, message: Stanza, author: string): void {
  const { store } = room.rooms
  const max = room.config.historyLength
  if (max === 0) return
  store.putMessage(room.local, id, { bytes: message.bytes(), author })
  for (const { id: old } of store.history(room.local, max + 1).slice(0, -max)) store.removeMessage(room.local, old)
}

/** §8.1: a subject and no body. */
function isSubject(stanza: Stanza): boolean {
  return stanza.has('subject', CLIENT_NS) && !stanza.has('body', CLIENT_NS) && !stanza.has('thread', CLIENT_NS)
}

/** The message without what only the room says: ids, addresses, times, moderation. */
function cleaned(room: Room, stanza: Stanza): Stanza {
  let suspicious = false
  for (const { xmlns } of stanza.children) {
    if (xmlns === STANZA_ID_NS || xmlns === OCCUPANT_ID_NS || xmlns === MUC_USER_NS || xmlns === DELAY_NS || xmlns === RETRACT_NS || xmlns === MODERATE_NS || xmlns === FASTEN_NS || xmlns === FORMER_MODERATE_NS) suspicious = true
  }
  if (!suspicious) return stanza
  const ours = (from: string | undefined): boolean => from === undefined || from === room.address || from === room.rooms.domain || from.startsWith(`${room.address}/`)
  const checked = withoutForged(stanza, [room.address])
  return checked.without((child) => {
    if (child.xmlns === OCCUPANT_ID_NS || child.xmlns === MUC_USER_NS || child.xmlns === MODERATE_NS || child.xmlns === FORMER_MODERATE_NS) return true
    if (child.xmlns === RETRACT_NS || child.xmlns === FASTEN_NS) return checked.childElement(child).getChildElements().some((inside) => inside.getNS() === MODERATE_NS || inside.getNS() === FORMER_MODERATE_NS)
    return child.xmlns === DELAY_NS && ours(checked.childElement(child).attrs['from'])
  })
}

/** §7.5: to one occupant. */
export function sendPrivately(room: Room, client: Client | undefined, stanza: Stanza, nick: string): void {
  if (client === undefined) throw new StanzaError('not-acceptable', 'only occupants may send messages to occupants')
  if (stanza.type === 'groupchat') throw new StanzaError('bad-request', 'a message to one occupant is not of type groupchat')
  const sender = client.occupant
  const target = room.occupants.get(nick)
  if (target === undefined) throw new StanzaError('item-not-found', 'nobody of this nickname is in the room')
  const { allowPm } = room.config
  const allowed = allowPm === 'anyone' || (allowPm === 'participants' && sender.role !== 'visitor') || sender.role === 'moderator' || (allowPm !== 'none' && target.role === 'moderator')
  if (!allowed || (allowPm === 'none' && sender.role !== 'moderator')) throw new StanzaError('forbidden', 'private messages are not allowed here')
  const message = cleaned(room, stanza).withAttrs({ from: sender.jid.toString(), to: undefined })
    .append('x', MUC_USER_NS, `<x xmlns='${MUC_USER_NS}'/>`).append('occupant-id', OCCUPANT_ID_NS, sender.idXml)
  // By the way that any message to an account takes, once: it is archived there, and safe before its sender is told so.
  room.rooms.parts.router.toClients(message, target.clients.toReversed().map(({ jid }) => jid))
}

// ---- What who enters is sent

/** §7.2.2: discussion history, as much as `history` asks for, and then the subject. */
export function sendDiscussion(room: Room, client: Client, history: Element | undefined): void {
  const found = historyFor(room, history)
  if (!(found instanceof Promise)) {
    sendHistory(room, client, found.messages, found.chars)
    return sendSubject(room, client)
  }
  // What is said while that is read elsewhere comes after it.
  room.entering.get(client)?.end()
  const entering: Entering = {
    meanwhile: [],
    end() {
      if (room.entering.get(client) !== entering) return
      room.entering.delete(client)
      if (room.clients.get(client.full) !== client) return
      sendSubject(room, client)
      for (const tell of entering.meanwhile) tell()
    },
  }
  room.entering.set(client, entering)
  found.then(({ messages, chars }) => {
    if (room.entering.get(client) === entering && room.clients.get(client.full) === client) sendHistory(room, client, messages, chars)
  }).catch((error: unknown) => { room.rooms.parts.log.error({ what: 'room_history_not_read', room: room.address, error }) }).finally(() => { entering.end() })
}

interface History {
  readonly messages: readonly StoredLine[]
  /** So many characters of them are sent. */
  readonly chars: number
}

interface StoredLine {
  readonly id: string
  readonly bytes: Buffer
  readonly author: string
}

/** §7.2.13, §7.2.14 */
function historyFor(room: Room, history: Element | undefined): History | Promise<History> {
  const { rooms } = room
  const number = (name: string): number | undefined => {
    const text = history?.attrs[name]
    return text === undefined || !/^\d{1,9}$/.test(text) ? undefined : Number(text)
  }
  const max = Math.min(number('maxstanzas') ?? Infinity, room.config.historyLength)
  const chars = Math.min(number('maxchars') ?? Infinity, HISTORY_CHARS_MAX)
  if (max === 0 || chars === 0) return { messages: [], chars }
  const seconds = number('seconds')
  const since = Math.max(seconds === undefined ? 0 : rooms.parts.now() - seconds * 1000, parseDateTime(history?.attrs['since'] ?? '') ?? 0)
  const messages = lastMessages(room, max, since)
  return messages instanceof Promise ? messages.then((read) => ({ messages: read, chars })) : { messages, chars }
}

function sendHistory(room: Room, client: Client, messages: readonly StoredLine[], chars: number): void {
  const found: Stanza[] = []
  for (const { id, bytes, author } of messages) {
    const message = readStanza(bytes)
    if (isSubject(message) || message.has('retracted', RETRACT_NS)) continue
    // §7.2.13: where addresses are known, history has them too.
    const dated = withStanzaId(message, room.address, id).append('delay', DELAY_NS, delayXml(room.address, timeOfMessageId(id) ?? 0))
    found.push(room.sees(client.occupant) && author !== room.address ? withAuthor(room, dated, author) : dated)
  }
  let first = found.length
  let left = chars
  while (first > 0 && (left -= (found[first - 1] as Stanza).toString().length) >= 0) first--
  for (const message of found.slice(first)) room.send(client, message)
}

/** The last messages since a time, oldest first. */
function lastMessages(room: Room, max: number, since: number): StoredLine[] | Promise<StoredLine[]> {
  const { store, parts } = room.rooms
  if (!room.archived) return store.history(room.local, max).filter(({ id }) => (timeOfMessageId(id) ?? 0) >= since).map(({ id, message }) => ({ id, bytes: Buffer.from(message.bytes), author: message.author }))
  const page = parts.storage.archive.query(room.address, { max, direction: 'backward', start: since, afterId: room.since })
  const lines = ({ items }: ArchivePage): StoredLine[] => items.map((item) => ({ id: item.id, bytes: item.bytes, author: item.with }))
  return page instanceof Promise ? page.then(lines) : lines(page)
}

/** A stored message with the address of its author, for those who may know it. */
export function withAuthor(room: Room, message: Stanza, author: string): Stanza {
  const jid = Jid.parse(author)
  const affiliation = room.affiliationOf(jid)
  return message.append('x', MUC_USER_NS, `<x xmlns='${MUC_USER_NS}'><item affiliation='${affiliation}' role='${affiliation === 'outcast' ? 'none' : room.roleFor(affiliation)}' jid='${escapeXml(author)}'/></x>`)
}

/** §7.2.15: the subject, also when there is none, ends what who enters is sent. */
function sendSubject(room: Room, client: Client): void {
  const { subject, address } = room
  if (subject === undefined) return room.send(client, makeStanza('message', { from: address, type: 'groupchat' }, [{ name: 'subject', xmlns: CLIENT_NS, text: '<subject/>' }]))
  room.send(client, subject.append('delay', DELAY_NS, delayXml(address, room.subjectAt)))
}

// ---- Retraction (XEP-0424, XEP-0425)

/** XEP-0424 §5: an author takes back a message of their own. */
function retract(room: Room, author: string, stanza: Stanza): Promise<void> | undefined {
  const [span, another] = stanza.children.filter(({ name, xmlns }) => name === 'retract' && xmlns === RETRACT_NS)
  // What the room does not look at must not reach anybody.
  if (another !== undefined) throw new StanzaError('bad-request', 'one message takes back one')
  const id = span === undefined ? undefined : stanza.childElement(span).attrs['id']
  if (id === undefined) return undefined
  const taken = (found: FoundMessage | undefined): void => {
    if (found === undefined) return
    if (found.author !== author) throw new StanzaError('forbidden', 'the message is somebody else\'s')
    const by = stanza.id === undefined ? '' : ` id='${escapeXml(stanza.id)}'`
    bury(room, id, found, `<retracted xmlns='${RETRACT_NS}'${by} stamp='${formatDateTime(room.rooms.parts.now())}'/>`)
  }
  const finding = findMessage(room, id)
  if (finding instanceof Promise) return finding.then(taken)
  taken(finding)
  return undefined
}

export interface FoundMessage {
  readonly bytes: Buffer
  readonly author: string
  readonly archived: boolean
}

/** What the room has under an archive id. A promise, which rejects when the room has ended meanwhile, when its archive is elsewhere. */
export function findMessage(room: Room, id: string): MaybePromise<FoundMessage | undefined> {
  const { store, parts } = room.rooms
  const found = (item: ArchivedItem | undefined): FoundMessage | undefined => {
    if (item !== undefined && id > room.since) return { bytes: item.bytes, author: item.with, archived: true }
    const message = store.message(room.local, id)
    return message && { bytes: Buffer.from(message.bytes), author: message.author, archived: false }
  }
  const item = parts.storage.archive.get(room.address, id)
  if (!(item instanceof Promise)) return found(item)
  return item.then((read) => {
    if (room.destroyed) throw new StanzaError('item-not-found', 'there is no such room any more')
    return found(read)
  })
}

/** XEP-0424 §5: puts a tombstone in the place of a message. `retracted` is serialised, and so is `former`, the same as older clients know it. */
export function bury(room: Room, id: string, found: FoundMessage, retracted: string, former?: string): void {
  const { store, parts } = room.rooms
  const before = readStanza(found.bytes)
  const occupantId = before.find('occupant-id', OCCUPANT_ID_NS)
  const bytes = makeStanza('message', before.attrs, [
    ...(occupantId === undefined ? [] : [{ name: 'occupant-id', xmlns: OCCUPANT_ID_NS, text: before.content.utf8Slice(occupantId.start, occupantId.end) }]),
    { name: 'retracted', xmlns: RETRACT_NS, text: retracted },
    ...(former === undefined ? [] : [{ name: 'moderated', xmlns: FORMER_MODERATE_NS, text: former }]),
  ]).bytes()
  // In one group with what is said of it, which a replacement that has to be looked for would not be.
  if (found.archived) parts.storage.archive.append({ id, bytes, owners: [{ owner: room.address, with: found.author }] })
  if (store.message(room.local, id) !== undefined) store.removeMessage(room.local, id)
}
