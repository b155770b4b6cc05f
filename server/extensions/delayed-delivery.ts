// XEP-0203: Delayed Delivery, version 2.0 (2009-09-15)
import { withoutForgedDelay } from '../../lib/stanza/delay.ts'
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
    // Both sides: other servers believe what comes from here. What this host's own accounts send has been looked at.
    hooks.stampOutgoing(check)
    hooks.stampIncoming((delivery) => { if (!delivery.fromLocal || delivery.from.domain !== host) check(delivery) })
  },
})
