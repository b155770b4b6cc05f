/** Services and subscribers whose homes are at different nodes (cluster/shapes.ts): what they tell each other. */
import { Jid } from '../../../lib/jid.ts'
import { readStanza } from '../../../lib/stanza/read.ts'
import type { Parts } from '../extension.ts'
import type { Engine } from './engine.ts'
import type { Show } from './subscription-options.ts'

/** To a service: the presence that a subscription was to last for has ended. */
export const LEFT = 'pubsub left'
/** To a service: a client of a subscriber has become available. */
export const WELCOME = 'pubsub welcome'
/** To an account: an event for those of its clients that are in the presence asked for. */
export const SHOWN = 'pubsub shown'
/** To an account: it has subscriptions that last as long as its presence. */
const PRESENT = 'pubsub present'

/** `domains`: of the services. */
export function meetOtherHomes({ host, here, hooks }: Pick<Parts, 'host' | 'here' | 'hooks'>, engine: Engine, domains: readonly string[]): void {
  const isOurs = (unit: string): boolean => domains.includes(unit) || unit.endsWith(`@${host}`)
  /** Whose node has died may be gone, and hears of it only when it has a home again. */
  const ask = (service: string): void => {
    for (const account of engine.presentSubscribers(service)) if (!here(account)) engine.tell(account, PRESENT)
  }
  hooks.told((unit, [word, ...words]) => {
    if (!isOurs(unit)) return
    const [first = '', second = '', third = ''] = words
    if (word === LEFT) engine.presenceEnded(unit, first, second)
    else if (word === WELCOME) engine.welcomeElsewhere(unit, first, second, Jid.parse(third))
    else if (word === SHOWN) engine.events.shown(Jid.parse(first), second.split(' ') as Show[], readStanza(Buffer.from(third)))
    else if (word === PRESENT) engine.left(Jid.parse(unit))
  })
  hooks.came((unit) => {
    if (domains.includes(unit)) ask(unit)
    else if (unit.endsWith(`@${host}`)) engine.left(Jid.parse(unit))
  })
  hooks.nodesLost(() => { for (const domain of domains) if (here(domain)) ask(domain) })
}
