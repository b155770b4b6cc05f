/** Which messages an archive keeps (XEP-0313 §6.1.1, XEP-0334). */
import type { Stanza } from '../../../lib/stanza/stanza.ts'

export const HINTS_NS = 'urn:xmpp:hints'
const MUC_USER_NS = 'http://jabber.org/protocol/muc#user'
const INVITE = Buffer.from('invite')

/** Whether a message says something that its owner may want to find again; `room`: the owner is a room. */
export function isWorthArchiving(stanza: Stanza, room = false): boolean {
  const type = stanza.attrs['type']
  // Rooms keep their own archives; errors are of the moment, and so are headlines unless their sender says otherwise.
  if ((type === 'groupchat' && !room) || type === 'error' || (type === 'headline' && !stanza.has('store', HINTS_NS))) return false
  let worth = false
  for (const child of stanza.children) {
    switch (child.name) {
      case 'body':
        if (child.xmlns === stanza.xmlns) worth = true
        break
      case 'store':
        // XEP-0334 §4.4: receipts and markers, and whatever else the client wants kept.
        if (child.xmlns === HINTS_NS) worth = true
        break
      case 'subject':
        if (room && child.xmlns === stanza.xmlns) worth = true
        break
      case 'reactions':
      case 'retract':
        if (room && (child.xmlns === 'urn:xmpp:reactions:0' || child.xmlns === 'urn:xmpp:message-retract:1')) worth = true
        break
      case 'no-store':
      case 'no-permanent-store':
        if (child.xmlns === HINTS_NS) return false
        break
      case 'encrypted':
        // OMEMO in both versions, and XEP-0380 says nothing without a payload beside it.
        if (child.xmlns === 'eu.siacs.conversations.axolotl' || child.xmlns.startsWith('urn:xmpp:omemo:')) worth = true
        break
      case 'openpgp':
        if (child.xmlns === 'urn:xmpp:openpgp:0') worth = true
        break
      case 'x':
        if (child.xmlns === 'jabber:x:encrypted' || child.xmlns === 'jabber:x:conference') worth = true
        // A mediated invitation (XEP-0045 §7.8.2), which may come without a body.
        else if (child.xmlns === MUC_USER_NS && stanza.content.subarray(child.start, child.end).includes(INVITE)) worth = true
        break
      case 'result':
      case 'sent':
      case 'received':
        // Wrapped messages of another archive or account: a client that asks for them must not fill this one.
        if (child.xmlns === 'urn:xmpp:mam:2' || child.xmlns === 'urn:xmpp:carbons:2') return false
        break
      default:
    }
  }
  return worth
}
