// XEP-0115: Entity Capabilities, version 1.6.0 (2022-03-08)
// XEP-0390: Entity Capabilities 2.0, version 0.3.2 (2018-03-05)
import { escapeXml } from '../../lib/xml/element.ts'
import { CAPS_NODE, capsHash } from './disco-registry.ts'
import { defineExtension } from './extension.ts'

const NS = 'http://jabber.org/protocol/caps'
const CAPS2_NS = 'urn:xmpp:caps'
const HASHES_NS = 'urn:xmpp:hashes:2'

export const caps = defineExtension({
  name: 'caps',
  ejabberd: 'mod_caps',
  specs: [
    { xep: 115, version: '1.6.0', status: 'complete' },
    { xep: 390, version: '0.3.2', status: 'partial', note: 'the hash set in stream features' },
  ],
  features: [NS, CAPS2_NS],
  needs: ['disco', 'features'],
  start({ disco, features }) {
    // XEP-0115 §7 and XEP-0390 §5.1: the client need not ask the server what it knows from an earlier login. Asked at each
    // login, because extensions may still add to what the host says.
    features.afterLogin(() => {
      const { ver, caps2 } = capsHash(disco)
      const hashes = caps2.map(({ algorithm, value }) => `<hash xmlns='${HASHES_NS}' algo='${algorithm}'>${value}</hash>`)
      return `<c xmlns='${NS}' hash='sha-1' node='${escapeXml(CAPS_NODE)}' ver='${ver}'/><c xmlns='${CAPS2_NS}'>${hashes.join('')}</c>`
    })
  },
})
