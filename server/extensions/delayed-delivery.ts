// XEP-0203: Delayed Delivery, version 2.0 (2009-09-15)
import { Jid } from '../../lib/jid.ts'
import { DELAY_NS } from '../../lib/stanza/delay.ts'
import type { Stanza } from '../../lib/stanza/stanza.ts'
import type { Delivery } from '../router/hooks.ts'
import { defineExtension } from './extension.ts'

export const delayedDelivery = defineExtension({
  name: 'delayed-delivery',
  specs: [{ xep: 203, version: '2.0', status: 'complete', note: 'offline storage and history add the times, this removes forged ones' }],
  needs: ['host', 'hooks'],
  start({ host, hooks }) {
    const check = (delivery: Delivery): void => {
      if (delivery.from.bare !== host) delivery.stanza = withoutForgedDelay(delivery.stanza, host)
    }
    // Both sides: other servers believe what comes from here.
    hooks.stampOutgoing(check)
    hooks.stampIncoming(check)
  },
})

/** §7: removes the notes that claim to be made by the server `host`, which has delayed nothing yet. */
export function withoutForgedDelay(stanza: Stanza, host: string): Stanza {
  if (!stanza.has('delay', DELAY_NS)) return stanza
  return stanza.without((child) => child.name === 'delay' && child.xmlns === DELAY_NS && Jid.tryParse(stanza.childElement(child).attrs['from'] ?? '')?.toString() === host)
}
