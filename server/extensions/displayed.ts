// XEP-0490: Message Displayed Synchronization, version 1.0.1 (2024-11-20)
import { StanzaError } from '../../lib/stanza/errors.ts'
import { defineExtension } from './extension.ts'
import { standalone } from './standalone-element.ts'

const NS = 'urn:xmpp:mds:displayed:0'
const ASSIST_NS = 'urn:xmpp:mds:server-assist:0'
/** §4.1, §7: nobody else reads it, and it says something of every chat. */
const CONFIG = { persist_items: true, max_items: 'max', send_last_published_item: 'never', access_model: 'whitelist' }

export const displayed = defineExtension({
  name: 'displayed',
  specs: [{ xep: 490, version: '1.0.1', status: 'complete' }],
  needs: ['host', 'disco', 'hooks', 'pep', 'log'],
  start({ host, disco, hooks, pep, log }) {
    const nodes = pep.of(host)
    if (nodes === undefined) return
    disco.feature('account', ASSIST_NS)

    // §4.4.3: what was displayed is published in the turn that sends the message, which goes on without it.
    hooks.stampOutgoing((delivery) => {
      const { stanza, from, session } = delivery
      const span = stanza.name === 'message' && session !== undefined ? stanza.find('displayed', NS) : undefined
      if (span === undefined) return
      delivery.stanza = stanza.without(({ name, xmlns }) => name === 'displayed' && xmlns === NS)
      const payload = standalone(stanza.childElement(span))
      if (payload.getChildren('stanza-id', 'urn:xmpp:sid:0').length !== 1) return // §4.1
      try {
        nodes.publish(from.bare, NS, stanza.to ?? from.bare, payload, CONFIG) // §5.1: verbatim
      } catch (error) {
        // The message is not refused because of what its sender keeps.
        if (!(error instanceof StanzaError)) throw error
        log.info({ what: 'displayed_not_published', owner: from.bare, condition: error.condition })
      }
    })
  },
})
