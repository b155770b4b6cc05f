// XEP-0334: Message Processing Hints, version 1.0.0 (2024-04-17)
import type { Delivery } from '../router/hooks.ts'
import { defineExtension } from './extension.ts'

const NS = 'urn:xmpp:hints'

export const hints = defineExtension({
  name: 'hints',
  specs: [{ xep: 334, version: '1.0.0', status: 'complete', note: 'store is read where the archive decides' }],
  features: [NS],
  needs: ['hooks'],
  start({ hooks }) {
    hooks.stampOutgoing(applyHints)
    hooks.stampIncoming(applyHints)
  },
})

/** Turns the hints of a message into the flags of its delivery. The hints stay in the stanza: other servers read them too. */
export function applyHints(delivery: Delivery): void {
  const { stanza } = delivery
  // §5: an error may repeat the message that it answers, with its hints.
  if (stanza.name !== 'message' || stanza.type === 'error') return
  for (const child of stanza.children) {
    if (child.xmlns !== NS) continue
    if (child.name === 'no-permanent-store') delivery.noArchive = true // §4.1: offline storage is not permanent
    else if (child.name === 'no-store') delivery.noArchive = delivery.noOffline = true // §4.2
    else if (child.name === 'no-copy') delivery.noCopy = true // §4.3
  }
}
