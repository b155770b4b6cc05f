// XEP-0478: Stream Limits Advertisement, version 0.2.0 (2024-08-02)
import { duration, size } from '../config/options.ts'
import { defaultLimits } from '../config/limits.ts'
import { defineExtension } from './extension.ts'

const NS = 'urn:xmpp:stream-limits:0'

export const streamLimits = defineExtension({
  name: 'stream-limits',
  specs: [{ xep: 478, version: '0.2.0', status: 'complete' }],
  needs: ['features'],
  options: {
    pre_auth_max_bytes: { type: size(), default: defaultLimits.preAuthStanzaBytes, help: 'Bytes of one element before login.' },
    max_bytes: { type: size(), default: defaultLimits.stanzaBytes, help: 'Bytes of one stanza after login.' },
    pre_auth_idle: { type: duration(), default: Infinity, help: 'Silence before login after which the stream is closed.' },
    idle: { type: duration(), default: defaultLimits.idlePingMs, help: 'Silence after which the client is asked whether it is still there.' },
  },
  start({ features }, options) {
    features.beforeLogin(() => limitsFeature(options.pre_auth_max_bytes, options.pre_auth_idle))
    features.afterLogin(() => limitsFeature(options.max_bytes, options.idle))
  },
})

/** The stream feature of XEP-0478 §3; what has no limit is left out, and the whole when nothing has one. */
export function limitsFeature(maxBytes: number, idleMs: number): string | undefined {
  const bytes = Number.isFinite(maxBytes) ? `<max-bytes>${maxBytes}</max-bytes>` : ''
  const idle = Number.isFinite(idleMs) ? `<idle-seconds>${Math.floor(idleMs / 1000)}</idle-seconds>` : ''
  return bytes === '' && idle === '' ? undefined : `<limits xmlns='${NS}'>${bytes}${idle}</limits>`
}
