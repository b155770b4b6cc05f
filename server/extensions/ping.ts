// XEP-0199: XMPP Ping, version 2.0.1 (2019-03-26)
import { StanzaError } from '../../lib/stanza/errors.ts'
import { makeStanza } from '../../lib/stanza/stanza.ts'
import { StreamError } from '../../lib/stream/errors.ts'
import { bool, duration, oneOf } from '../config/options.ts'
import type { Session } from '../sessions/session.ts'
import { defineExtension } from './extension.ts'

const NS = 'urn:xmpp:ping'
/** How long an answer may take when `ping_ack_timeout` is not set, as in ejabberd. */
const ACK_TIMEOUT_MS = 32_000

export const ping = defineExtension({
  name: 'ping',
  ejabberd: 'mod_ping',
  specs: [{ xep: 199, version: '2.0.1', status: 'complete' }],
  features: [NS],
  needs: ['host', 'iq', 'disco', 'hooks', 'sessions', 'every', 'now'],
  options: {
    send_pings: { type: bool(), default: false, help: 'Ping clients that have been silent.' },
    ping_interval: { type: duration(), default: 60_000, help: 'Silence after which a client is pinged.' },
    ping_ack_timeout: { type: duration({ timer: true }), default: ACK_TIMEOUT_MS, help: 'How long a client may take to answer a ping.' },
    timeout_action: { type: oneOf('none', 'kill'), default: 'none' as const, help: 'What happens to a client that does not answer.' },
  },
  start({ host, iq, disco, hooks, sessions, every, now }, options) {
    disco.feature('account', NS)
    iq.get(`${NS} ping`, 'host', () => undefined) // XEP-0199 §4.1: an empty result
    iq.get(`${NS} ping`, 'account', ({ from, to }) => {
      if (from.bare !== to.bare) throw new StanzaError('service-unavailable') // RFC 6121 §8.5.1: nothing to tell strangers
    })

    if (!options.send_pings || !Number.isFinite(options.ping_interval)) return
    const lastHeard = new WeakMap<Session, number>()
    const waiting = new WeakSet<Session>()
    const heard = (session: Session | undefined): void => {
      if (session !== undefined) lastHeard.set(session, now())
    }
    hooks.bound(heard)
    hooks.resumed(heard)
    hooks.checkOutgoing((delivery) => heard(delivery.session))

    async function pingSession(session: Session): Promise<void> {
      waiting.add(session)
      const answer = await iq.request(
        makeStanza('iq', { type: 'get', id: `ping-${now().toString(36)}`, from: host, to: session.jid.toString() }, [{ name: 'ping', xmlns: NS, text: `<ping xmlns='${NS}'/>` }]),
        options.ping_ack_timeout,
      )
      waiting.delete(session)
      // XEP-0199 §4.2: an error such as feature-not-implemented proves that the client is there.
      if (answer !== undefined) heard(session)
      // The stream ends; a session that may resume waits for its client as after any lost connection.
      else if (options.timeout_action === 'kill') session.carrier?.close(new StreamError('connection-timeout'))
    }

    every(Math.max(1000, Math.min(options.ping_interval / 4, 30_000)), async () => {
      const due: Promise<void>[] = []
      for (const session of sessions.all()) {
        if (session.host !== host || !session.connected || waiting.has(session)) continue
        if (now() - (lastHeard.get(session) ?? 0) >= options.ping_interval) due.push(pingSession(session))
      }
      await Promise.all(due)
    })
  },
})
