// XEP-0030: Service Discovery, version 2.5.0 (2024-04-30)
import { DISCO_ITEMS_NS, noItems, serveDisco } from './disco-registry.ts'
import { defineExtension } from './extension.ts'

export const disco = defineExtension({
  name: 'disco',
  specs: [{ xep: 30, version: '2.5.0', status: 'complete' }, { xep: 128, version: '1.0.1', status: 'complete' }],
  needs: ['iq', 'disco', 'rosters', 'accounts'],
  start({ iq, disco, rosters, accounts }) {
    serveDisco(iq, disco, 'host')
    // §8: whoever may not see the account's presence learns nothing, not even whether it exists.
    serveDisco(iq, disco, 'account', async ({ from, to }) =>
      from.bare === to.bare || (await accounts.exists(to.bare) && rosters.hasSubscriber(to.bare, from.bare)))
    iq.get(`${DISCO_ITEMS_NS} query`, 'nobody', noItems)
  },
})
