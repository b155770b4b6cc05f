// XEP-0478: Stream Limits Advertisement, version 0.2.0 (2024-08-02)
import { defineExtension } from './extension.ts'

const NS = 'urn:xmpp:stream-limits:0'

export const streamLimits = defineExtension({
  name: 'stream-limits',
  specs: [{ xep: 478, version: '0.2.0', status: 'complete' }],
  needs: ['features', 'limits'],
  start({ features, limits }) {
    // Before login there is no idle time, only a time to log in.
    features.beforeLogin(() => limitsFeature(limits.preAuthStanzaBytes, Infinity))
    features.afterLogin(() => limitsFeature(limits.stanzaBytes, limits.idlePingMs))
  },
})

/** The stream feature of XEP-0478 §3; what has no limit is left out, and the whole when nothing has one. */
export function limitsFeature(maxBytes: number, idleMs: number): string | undefined {
  const bytes = Number.isFinite(maxBytes) ? `<max-bytes>${maxBytes}</max-bytes>` : ''
  const idle = Number.isFinite(idleMs) ? `<idle-seconds>${Math.floor(idleMs / 1000)}</idle-seconds>` : ''
  return bytes === '' && idle === '' ? undefined : `<limits xmlns='${NS}'>${bytes}${idle}</limits>`
}
