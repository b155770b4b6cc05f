/** Messages to a room that are not for everybody: invitations, declines and requests for voice (XEP-0045 §7.8, §7.13, §8.6). */
import { buildForm, FORMS_NS, parseForm } from '../../../lib/forms.ts'
import { Jid } from '../../../lib/jid.ts'
import { StanzaError } from '../../../lib/stanza/errors.ts'
import { makeStanza, type Stanza } from '../../../lib/stanza/stanza.ts'
import { type Element, xml } from '../../../lib/xml/element.ts'
import { AFFILIATIONS_MAX, setAffiliation, setRole } from './administration.ts'
import { type Client, MUC_NS, MUC_USER_NS, type Room } from './room.ts'
import { reaches } from './room-config.ts'

const REQUEST = `${MUC_NS}#request`
const INVITES_MAX = 20

/** Whether the message was one of these. */
export function mediate(room: Room, client: Client | undefined, stanza: Stanza, from: Jid): boolean {
  const span = stanza.find('x', MUC_USER_NS)
  if (span !== undefined) {
    const x = stanza.childElement(span)
    const invites = x.getChildren('invite', MUC_USER_NS)
    if (invites.length > 0) {
      invite(room, client, from, invites)
      return true
    }
    const decline = x.getChild('decline', MUC_USER_NS)
    if (decline !== undefined) {
      sendDecline(room, from, decline)
      return true
    }
  }
  const form = stanza.find('x', FORMS_NS)
  if (form === undefined) return false
  voice(room, client, stanza.childElement(form))
  return true
}

/** §7.8.2 */
function invite(room: Room, client: Client | undefined, from: Jid, invites: readonly Element[]): void {
  const affiliation = room.affiliationOf(from)
  if (client === undefined && !reaches(affiliation, 'admin')) throw new StanzaError('not-acceptable', 'only occupants may invite others')
  if (!room.config.allowInvites && !reaches(affiliation, 'admin') && client?.occupant.role !== 'moderator') throw new StanzaError('forbidden', 'you may not invite others')
  if (room.config.membersOnly && !room.config.allowInvites && !reaches(affiliation, 'admin')) throw new StanzaError('forbidden', 'you may not make others members')
  if (invites.length > INVITES_MAX) throw new StanzaError('policy-violation', `at most ${INVITES_MAX} invitations in one message`)
  const invitees = invites.map((each) => Jid.tryParse(each.attrs['to'] ?? '') ?? fail('jid-malformed'))
  if (room.config.membersOnly && room.affiliations.size + invites.length > AFFILIATIONS_MAX) throw new StanzaError('resource-constraint', `at most ${AFFILIATIONS_MAX} addresses`)
  for (const [at, each] of invites.entries()) {
    const to = invitees[at] as Jid
    // §7.8.2: an invitation to a room for members makes one; who is banned stays so, and only who edits the list makes members of a server.
    if (room.config.membersOnly && to.local !== '' && room.affiliationOf(to) === 'none') setAffiliation(room, to.toBare(), 'member', { actor: client?.occupant.nick })
    const reason = each.getChildText('reason')
    const more = each.getChild('continue', MUC_USER_NS)
    const inviter = client === undefined || room.config.nonAnonymous ? from.bare : client.occupant.jid.toString()
    const x = xml('x', { xmlns: MUC_USER_NS },
      xml('invite', { from: inviter }, reason !== null && xml('reason', null, reason), more !== undefined && xml('continue', { thread: more.attrs['thread'] })),
      room.config.passwordProtected && xml('password', null, room.config.password))
    room.rooms.parts.router.route(makeStanza('message', { from: room.address, to: to.toString() }, [
      { name: 'x', xmlns: MUC_USER_NS, text: x.toString() },
      // Clients older than mediated invitations, and the carbons of this one, know it by this.
      { name: 'x', xmlns: 'jabber:x:conference', text: xml('x', { xmlns: 'jabber:x:conference', jid: room.address }).toString() },
    ]))
  }
}

/** §7.8.2: only to those who may have invited. */
function sendDecline(room: Room, from: Jid, decline: Element): void {
  const to = Jid.tryParse(decline.attrs['to'] ?? '') ?? fail('jid-malformed')
  const occupant = to.bare === room.address ? room.occupants.get(to.resource) : undefined
  const targets = occupant?.clients.map((each) => each.full) ?? []
  if (occupant === undefined && (room.accounts.has(to.bare) || reaches(room.affiliationOf(to), 'member'))) targets.push(to.toString())
  // Nobody learns by this who is in the room, or belongs to it.
  if (room.affiliationOf(from) === 'outcast' || targets.length === 0) return
  const reason = decline.getChildText('reason')
  const x = xml('x', { xmlns: MUC_USER_NS }, xml('decline', { from: from.bare }, reason !== null && xml('reason', null, reason)))
  for (const each of targets) room.rooms.parts.router.route(makeStanza('message', { from: room.address, to: each }, [{ name: 'x', xmlns: MUC_USER_NS, text: x.toString() }]))
}

/** §7.13: a visitor asks for voice; §8.6: a moderator answers. */
function voice(room: Room, client: Client | undefined, x: Element): void {
  if (client === undefined) throw new StanzaError('not-acceptable', 'only occupants may ask for voice')
  const form = parseForm(x, { kinds: ['submit', 'cancel'] })
  if (form.kind === 'cancel') return
  if (form.formType !== REQUEST) throw new StanzaError('feature-not-implemented', 'no form that the room knows')
  const { occupant } = client
  const allow = form.boolean('muc#request_allow')
  if (allow !== undefined && occupant.role === 'moderator') {
    const target = room.occupants.get(form.value('muc#roomnick') ?? '')
    if (target === undefined) throw new StanzaError('item-not-found', 'nobody of this nickname is in the room')
    if (allow && target.role === 'visitor') setRole(room, target, 'participant', { actor: occupant.nick })
    return
  }
  if (occupant.role !== 'visitor') throw new StanzaError('conflict', 'you may speak already')
  if (form.value('muc#role') !== 'participant') throw new StanzaError('bad-request', 'voice is what can be asked for')
  const request = buildForm('form', {
    formType: REQUEST,
    title: 'Request for voice',
    instructions: 'Somebody asks to be allowed to speak in the room.',
    fields: [
      { var: 'muc#role', type: 'list-single', label: 'Requested role', value: 'participant', options: ['participant'] },
      { var: 'muc#jid', type: 'jid-single', label: 'Address', value: client.full },
      { var: 'muc#roomnick', type: 'text-single', label: 'Nickname', value: occupant.nick },
      { var: 'muc#request_allow', type: 'boolean', label: 'Let them speak?', value: false },
    ],
  })
  const moderators = [...room.clients.values()].filter((each) => each.occupant.role === 'moderator')
  room.rooms.parts.router.multicast(makeStanza('message', { from: room.address }, [{ name: 'x', xmlns: FORMS_NS, text: request.toString() }]), room.jid, moderators)
}

function fail(condition: 'jid-malformed'): never {
  throw new StanzaError(condition)
}
