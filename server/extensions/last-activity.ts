// XEP-0012: Last Activity, version 2.0 (2008-11-26)
import type { Jid } from '../../lib/jid.ts'
import { StanzaError } from '../../lib/stanza/errors.ts'
import { type Element, xml } from '../../lib/xml/element.ts'
import type { Session } from '../sessions/session.ts'
import { defineExtension } from './extension.ts'

const NS = 'jabber:iq:last'
/** Key [owner]; value `{ at: ms }`: when the account's last session became unavailable or ended. */
const TABLE = 'last-activity'

export const lastActivity = defineExtension({
  name: 'last-activity',
  ejabberd: 'mod_last',
  specs: [{ xep: 12, version: '2.0', status: 'partial', note: 'without the status text of the last presence' }],
  features: [NS],
  needs: ['iq', 'disco', 'hooks', 'sessions', 'rosters', 'storage', 'now', 'lasting'],
  start({ iq, disco, hooks, sessions, rosters, storage, now, lasting }) {
    const { records } = storage
    const startedAt = lasting('started-at', now)
    disco.feature('account', NS)

    // §5: of a server, the time it has been up
    iq.get(`${NS} query`, 'host', () => answer(now() - startedAt))

    // §3, §4 and §8: only who sees the account's presence.
    const check = ({ from, to }: { readonly from: Jid; readonly to: Jid }): void => {
      if (from.bare !== to.bare && !rosters.hasSubscriber(to.bare, from.bare)) throw new StanzaError('forbidden')
    }
    hooks.checkIncoming((delivery) => {
      // §4: to a full JID it is the client's to answer.
      const { stanza } = delivery
      if (stanza.name === 'iq' && stanza.type === 'get' && delivery.to.resource !== '' && stanza.has('query', NS)) check(delivery)
    })

    iq.get(`${NS} query`, 'account', async (request) => {
      check(request)
      const { to } = request
      if (sessions.of(to.bare).length > 0) return answer(0) // §3: connected or available
      const last = await records.get(TABLE, [to.bare])
      if (last === undefined) throw new StanzaError('item-not-found')
      return answer(now() - Number((last as { at?: number }).at))
    })

    const left = (session: Session): void => {
      const others = sessions.of(session.owner).some((other) => other !== session && other.presence !== undefined)
      if (!others) records.put(TABLE, [session.owner], { at: now() })
    }
    hooks.unavailable(left)
    hooks.closed(left)
    hooks.accountRemoved((owner) => records.delete(TABLE, [owner]))
  },
})

function answer(ms: number): Element {
  return xml('query', { xmlns: NS, seconds: Math.max(0, Math.floor(ms / 1000)) })
}
