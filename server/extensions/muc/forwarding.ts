/** IQs from one occupant to another, whose addresses stay hidden (XEP-0045 §17.4), and pings to oneself (XEP-0410). */
import { Jid } from '../../../lib/jid.ts'
import { Recent } from '../../../lib/recent.ts'
import { StanzaError } from '../../../lib/stanza/errors.ts'
import { randomId } from '../../../lib/stanza/ids.ts'
import { iqResult, type Stanza } from '../../../lib/stanza/stanza.ts'
import type { Parts } from '../extension.ts'
import type { Room } from './room.ts'

/** Requests that wait for their answer. */
const PENDING_MAX = 10_000

const DISCO = /^http:\/\/jabber\.org\/protocol\/disco#(?:info|items)$/

interface Pending {
  /** Full JID of who asked, under which address, and their id. */
  readonly to: string
  readonly from: string
  readonly id: string
}

export class Forwarding {
  readonly #pending = new Recent<Pending>(PENDING_MAX)
  readonly #router: Parts['router']

  constructor(router: Parts['router']) {
    this.#router = router
  }

  /** A request to an occupant. */
  request(room: Room | undefined, stanza: Stanza, from: Jid, nick: string): void {
    const client = room?.client(from)
    const target = room?.occupants.get(nick)
    const payload = stanza.children[0]
    // §6.6
    if (client === undefined && DISCO.test(payload?.xmlns ?? '')) throw new StanzaError('bad-request', 'who is in the room is for its occupants to ask')
    // XEP-0410 §3.3
    if (room === undefined || client === undefined) throw new StanzaError('not-acceptable', 'you are not in the room')
    if (payload?.xmlns === 'urn:xmpp:ping' && payload.name === 'ping' && target === client.occupant) return this.#router.route(iqResult(stanza))
    if (target === undefined) throw new StanzaError('item-not-found', 'nobody of this nickname is in the room')
    if (!room.config.queryUsers && client.occupant.role !== 'moderator' && target !== client.occupant) throw new StanzaError('not-allowed', 'requests to others are not allowed here')
    const id = randomId(12)
    // A vCard is that of the account, and answered by its server.
    const to = payload?.xmlns === 'vcard-temp' ? target.bare : (target.clients.at(-1) as { readonly full: string }).full
    this.#pending.set(`${to} ${id}`, { to: client.full, from: target.jid.toString(), id: stanza.id ?? '' })
    this.#router.route(stanza.withAttrs({ from: client.occupant.jid.toString(), to, id }))
  }

  /** An answer to an occupant. */
  answer(stanza: Stanza): void {
    const key = `${stanza.from} ${stanza.id}`
    const pending = this.#pending.get(key)
    if (pending === undefined) return
    this.#pending.delete(key)
    this.#router.route(stanza.withAttrs({ from: pending.from, to: pending.to, id: pending.id }))
  }
}
