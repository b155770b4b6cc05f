/** What is the same for stanzas of other servers, on whichever stream they come. */
import { Jid } from '../../lib/jid.ts'
import { fromContentNamespace } from '../../lib/stanza/content-namespace.ts'
import { StanzaError } from '../../lib/stanza/errors.ts'
import type { Stanza } from '../../lib/stanza/stanza.ts'
import { StreamError } from '../../lib/stream/errors.ts'
import type { S2sContext } from './context.ts'
import type { Exchange, Outgoing } from './exchange.ts'
import { SERVER_NS, SM_NS, type Wire } from './wire.ts'

/** Checks a stanza strictly, and routes it. Throws a StreamError. */
export function receive(context: S2sContext, exchange: Exchange, wire: Wire, stanza: Stanza): void {
  if (exchange.domains.size === 0) throw new StreamError('not-authorized', 'no domain has been proven yet')
  const inside = fromContentNamespace(stanza, SERVER_NS)
  if (!inside.isStanza) throw new StreamError('unsupported-stanza-type')
  // RFC 6120 §4.9.3.7, §8.1.1.2, §8.1.2.2
  if (inside.from === undefined || inside.to === undefined || inside.from === '' || inside.to === '') throw new StreamError('improper-addressing', 'a stanza needs from and to')
  const from = Jid.tryParse(inside.from)
  const to = Jid.tryParse(inside.to)
  if (from === undefined || to === undefined) throw new StreamError('improper-addressing', 'from and to are JIDs')
  // §4.9.3.9
  if (!exchange.domains.has(from.domain)) throw new StreamError('invalid-from', 'not of a domain that has been proven')
  // §4.9.3.6
  if (!context.isOurs(to.domain)) throw new StreamError('host-unknown', 'the domain of to is not served here')
  wire.stanzaAt = context.now()
  if (!context.allows(to.domain, from.domain)) {
    context.bounce(inside, new StanzaError('forbidden', 'Access denied by service policy'))
    return exchange.received()
  }
  const written = from.toString()
  const pending = context.received(written === inside.from ? inside : inside.withAttrs({ from: written }), from.domain)
  if (pending === undefined) exchange.received()
  else wire.wait(pending, () => exchange.received())
}

/** `<r/>` and `<a/>` (XEP-0198 §4); whether it was one of these. */
export function acknowledging(exchange: Exchange, nonza: Stanza, arrived: (list: readonly Outgoing[]) => void): boolean {
  if (nonza.xmlns !== SM_NS || (nonza.name !== 'r' && nonza.name !== 'a')) return false
  if (!exchange.managed) throw new StreamError('policy-violation', 'stream management is off')
  if (nonza.name === 'r') exchange.answer()
  else arrived(exchange.acknowledged(handledIn(nonza)))
  return true
}

/** The attribute `h`. Throws a StreamError. */
export function handledIn(nonza: Stanza): number {
  const h = Number(nonza.attrs['h'])
  if (!/^\d{1,10}$/.test(nonza.attrs['h'] ?? '') || h >= 2 ** 32) throw new StreamError('bad-format', 'h is a number below 2^32')
  return h
}
