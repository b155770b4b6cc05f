// XEP-0280: Message Carbons, version 1.0.1 (2021-12-26)
import { StanzaError } from '../../lib/stanza/errors.ts'
import { CLIENT_NS, Stanza } from '../../lib/stanza/stanza.ts'
import { escapeXml } from '../../lib/xml/element.ts'
import type { Delivery } from '../router/hooks.ts'
import type { Session } from '../sessions/session.ts'
import { isInRoomOf, isInvite, isMarkedPrivate, shareNick } from '../router/private-messages.ts'
import { defineExtension, type IqRequest } from './extension.ts'

const NS = 'urn:xmpp:carbons:2'
const HINTS_NS = 'urn:xmpp:hints'
const STANZA_ID_NS = 'urn:xmpp:sid:0'
const MUC_USER_NS = 'http://jabber.org/protocol/muc#user'
/** Session value: the client wants copies. Bind 2 (XEP-0386) and resumption set and keep the same one. */
export const CARBONS = 'carbons'

/** What makes a message without a body one of instant messaging (§6.1). */
const IM_PAYLOADS: ReadonlySet<string> = new Set([
  'urn:xmpp:receipts',
  'http://jabber.org/protocol/chatstates',
  'urn:xmpp:chat-markers:0',
  'urn:xmpp:jingle-message:0',
  'urn:xmpp:reactions:0',
  'urn:xmpp:omemo:2',
  'eu.siacs.conversations.axolotl',
  'jabber:x:conference',
])

export const carbons = defineExtension({
  name: 'carbons',
  ejabberd: 'mod_carboncopy',
  specs: [{ xep: 280, version: '1.0.1', status: 'complete', note: 'any message of type error is copied: what it answers is not remembered' }],
  features: [NS],
  needs: ['host', 'iq', 'hooks', 'sessions', 'bind2'],
  start({ host, iq, hooks, sessions, bind2 }) {
    const sessionOf = (request: IqRequest): Session => {
      // §4.1, §5.1: only for clients of this server, and only for themselves.
      if (request.session === undefined || (request.to.local !== '' && request.to.bare !== request.session.owner)) throw new StanzaError('not-allowed')
      return request.session
    }
    // Clients send this without `to`, to their account or to the host. §10.1: asking again is no error.
    iq.set(`${NS} enable`, ['account', 'host'], (request) => {
      sessionOf(request).set(CARBONS, true)
    })
    iq.set(`${NS} disable`, ['account', 'host'], (request) => {
      sessionOf(request).set(CARBONS, undefined)
    })

    // XEP-0386 §3.2
    bind2.feature(NS, [`${NS} enable`], (session) => {
      session.set(CARBONS, true)
      return undefined
    })

    hooks.copied((delivery, session) => {
      const since = session.setAt(CARBONS)
      return since !== undefined && since < delivery.id && isEligible(delivery.stanza) && !isFromOccupant(delivery)
    })
    hooks.copy((delivery) => {
      if (delivery.noCopy || delivery.stanza.name !== 'message') return
      const { from, to, reached } = delivery
      const toSelf = from.bare === to.bare
      const sender = delivery.fromLocal && from.domain === host ? sessions.of(from.bare) : NONE
      const recipient = delivery.toLocal && to.domain === host && !toSelf ? sessions.of(to.bare) : NONE
      let eligible: boolean | undefined
      // What a component has sent in the name of the account (XEP-0356) is news to all of its clients.
      if (sender.length > (delivery.session === undefined ? 0 : 1)) {
        let build: Copy | undefined
        for (const session of sender) {
          if (session === delivery.session || session.get(CARBONS) !== true || reached.includes(session) || session.jid.equals(from)) continue
          eligible ??= isEligible(delivery.stanza)
          if (!eligible) return
          if (!maySee(delivery, session, delivery.session)) continue
          build ??= copyOf('sent', asSent(delivery), from.bare)
          session.send(build(session), { durable: delivery.durable })
        }
      }
      if (recipient.length > 0) {
        let build: Copy | undefined
        for (const session of recipient) {
          if (session.get(CARBONS) !== true || reached.includes(session)) continue
          eligible ??= isEligible(delivery.stanza)
          if (!eligible || isFromOccupant(delivery)) return
          build ??= copyOf('received', delivery.stanza, to.bare)
          session.send(build(session), { durable: delivery.durable })
        }
      }
    })
  },
})

const NONE: readonly Session[] = []

type Copy = (session: Session) => Stanza

/** §6.1 */
function isEligible(stanza: Stanza): boolean {
  const type = stanza.attrs['type'] ?? 'normal'
  // Room messages reach each client that has joined; headlines are not conversation.
  let eligible = type === 'chat' || type === 'error'
  if (type === 'groupchat' || type === 'headline') return false
  for (const child of stanza.children) {
    const { name, xmlns } = child
    if (xmlns === NS) {
      // §9 `<private/>`; and a copy is never copied, whoever made it. It stays in the message: what was sent must not change.
      if (name === 'private' || name === 'sent' || name === 'received') return false
    } else if (name === 'no-copy' && xmlns === HINTS_NS && type !== 'error') return false // XEP-0334 §4.3; §5: those of an error are not its own
    else if (name === 'body' && xmlns === CLIENT_NS) eligible = true
    else if (IM_PAYLOADS.has(xmlns) || (name === 'store' && xmlns === HINTS_NS)) eligible = true
    else if (xmlns === MUC_USER_NS && isInvite(stanza, child)) eligible = true
  }
  return eligible
}

/** §6.1: private messages of a room's occupants are sent to every client that has joined by the room itself. */
function isFromOccupant({ stanza, from, reached }: Delivery): boolean {
  return from.resource !== '' && (isMarkedPrivate(stanza) || reached.some((session) => isInRoomOf(session, from)))
}

/** §6.1: a private message to an occupant is for the clients that have the same nickname in that room. */
function maySee({ to }: Delivery, session: Session, sender: Session | undefined): boolean {
  return sender === undefined || to.resource === '' || !isInRoomOf(sender, to) || shareNick(sender, session, to)
}

/** The message as its sender may see it: marked when it is to an occupant of a room (§6.1), with the id in their own archive and without that in the recipient's (XEP-0313 §3.5). */
function asSent(delivery: Delivery): Stanza {
  const { from, to } = delivery
  if (from.bare === to.bare) return delivery.stanza
  let { stanza } = delivery
  if (to.resource !== '' && delivery.session !== undefined && isInRoomOf(delivery.session, to) && !stanza.has('x', MUC_USER_NS)) stanza = stanza.append('x', MUC_USER_NS, `<x xmlns='${MUC_USER_NS}'/>`)
  if (delivery.archivedTo) {
    const by = `by='${escapeXml(to.bare)}'`
    const { content } = stanza
    stanza = stanza.without((child) => child.name === 'stanza-id' && child.xmlns === STANZA_ID_NS && content.utf8Slice(child.start, child.end).includes(by))
  }
  if (!delivery.archivedFrom) return stanza
  return stanza.append('stanza-id', STANZA_ID_NS, `<stanza-id xmlns='${STANZA_ID_NS}' by='${escapeXml(from.bare)}' id='${escapeXml(delivery.id)}'/>`)
}

const MESSAGE = '<message'

/** §7, §8: the wrapped message is serialised once for all sessions that get it. */
function copyOf(direction: 'sent' | 'received', stanza: Stanza, account: string): Copy {
  const bytes = stanza.bytes()
  const content = Buffer.concat([
    Buffer.from(`<${direction} xmlns='${NS}'><forwarded xmlns='urn:xmpp:forward:0'>${MESSAGE} xmlns='${CLIENT_NS}'`),
    bytes.subarray(MESSAGE.length),
    Buffer.from(`</forwarded></${direction}>`),
  ])
  const children = [{ name: direction, xmlns: NS, start: 0, end: content.length }]
  const { type } = stanza
  return (session) => {
    const attrs = Object.create(null) as Record<string, string>
    attrs['from'] = account
    attrs['to'] = session.jid.toString()
    if (type !== undefined) attrs['type'] = type
    return new Stanza('message', CLIENT_NS, attrs, content, children)
  }
}
