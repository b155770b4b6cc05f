// XEP-0030: Service Discovery, version 2.5.0 (2024-04-30)
import { StanzaError } from '../../lib/stanza/errors.ts'
import { serveDisco } from './disco-registry.ts'
import { defineExtension } from './extension.ts'

export const disco = defineExtension({
  name: 'disco',
  specs: [{ xep: 30, version: '2.5.0', status: 'complete' }, { xep: 128, version: '1.0.1', status: 'complete' }],
  needs: ['iq', 'disco', 'rosters', 'accounts'],
  start({ iq, disco, rosters, accounts }) {
    serveDisco(iq, disco, 'host')
    serveDisco(iq, disco, 'account', async ({ from, to }) => {
      if (from.bare === to.bare) return
      // XEP-0030 §8: whoever may not see the account's presence learns nothing, not even whether it exists.
      if (!await accounts.exists(to.bare) || !rosters.hasSubscriber(to.bare, from.bare)) throw new StanzaError('service-unavailable')
    })
  },
})
