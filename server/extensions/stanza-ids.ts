// XEP-0359: Unique and Stable Stanza IDs, version 0.7.0 (2023-02-20)
import { Jid } from '../../lib/jid.ts'
import type { Stanza } from '../../lib/stanza/stanza.ts'
import { defineExtension } from './extension.ts'

const NS = 'urn:xmpp:sid:0'

export const stanzaIds = defineExtension({
  name: 'stanza-ids',
  specs: [{ xep: 359, version: '0.7.0', status: 'complete', note: 'the archive adds the ids, this removes forged ones' }],
  features: [NS],
  needs: ['host', 'disco', 'hooks'],
  start({ host, disco, hooks }) {
    disco.feature('account', NS)
    // Both sides: a client must not forge ids of its own archive either, which the server of the recipient would pass on.
    hooks.stampOutgoing((delivery) => {
      if (hasId(delivery.stanza)) delivery.stanza = withoutForged(delivery.stanza, [delivery.from.bare, host])
    })
    hooks.stampIncoming((delivery) => {
      if (hasId(delivery.stanza)) delivery.stanza = withoutForged(delivery.stanza, [delivery.to.bare, host])
    })
  },
})

function hasId(stanza: Stanza): boolean {
  return stanza.name === 'message' && stanza.find('stanza-id', NS) !== undefined
}

/** XEP-0359 §3.1 rule 3: removes ids that claim to be given by one of `ours`, who has not given any yet. */
export function withoutForged(stanza: Stanza, ours: readonly string[]): Stanza {
  return stanza.without((child) => {
    if (child.name !== 'stanza-id' || child.xmlns !== NS) return false
    const by = stanza.childElement(child).attrs['by']
    if (by === undefined) return true // not valid, and dangerous to whoever guesses the giver
    const jid = Jid.tryParse(by)
    return ours.includes(by) || (jid !== undefined && ours.includes(jid.bare))
  })
}
