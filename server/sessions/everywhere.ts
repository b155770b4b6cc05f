/** Sessions of all nodes, for operators: an account's are at its home. */
import { StreamError } from '../../lib/stream/errors.ts'
import type { Calls } from '../cluster/calls.ts'
import type { Session } from './session.ts'

/** A session, as an operator sees it. */
export interface Online {
  readonly resource: string
  /** Empty where a client has none. */
  readonly address: string
}

export interface EverySession {
  /** Full JIDs in order, of one host or all; at most LISTED_MAX of each node. */
  list(host?: string): Promise<readonly string[]>
  count(host?: string): Promise<number>
  /** Those of an account (a bare JID). */
  of(bare: string): Promise<readonly Online[]>
  /** Ends sessions of an account, all or that of one resource; answers how many these were. */
  close(bare: string, resource: string | undefined, reason: string): Promise<number>
}

export interface OwnSessions {
  all(): Iterable<Session>
  of(bareJid: string): readonly Session[]
}

const LISTED_MAX = 100_000
const LIST = 'sessions list'
const COUNT = 'sessions count'
const OF = 'sessions of'
const CLOSE = 'sessions close'

export function everySession(sessions: OwnSessions, calls: Calls): EverySession {
  function* those(host: unknown): Generator<Session> {
    for (const session of sessions.all()) if (host === null || session.host === host) yield session
  }
  calls.serve(LIST, (_node, host) => {
    const found: string[] = []
    for (const { jid } of those(host)) {
      if (found.length === LISTED_MAX) break
      found.push(jid.toString())
    }
    return found
  })
  calls.serve(COUNT, (_node, host) => {
    let count = 0
    for (const _ of those(host)) count++
    return count
  })
  calls.serve(OF, (bare) => sessions.of(bare).map(({ jid, address }) => ({ resource: jid.resource, address })))
  calls.serve(CLOSE, (bare, args) => {
    const [resource, reason] = args as readonly [string | null, string]
    const own = sessions.of(bare).filter(({ jid }) => resource === null || jid.resource === resource)
    for (const session of own) session.close(new StreamError('policy-violation', reason))
    return own.length
  })
  return {
    async list(host) {
      const all = await calls.askNodes(LIST, host ?? null)
      return (all as readonly (readonly string[])[]).flat().sort()
    },
    async count(host) {
      const all = await calls.askNodes(COUNT, host ?? null)
      return (all as readonly number[]).reduce((sum, count) => sum + count, 0)
    },
    of: async (bare) => await calls.ask(bare, OF) as unknown as readonly Online[],
    close: async (bare, resource, reason) => await calls.ask(bare, CLOSE, [resource ?? null, reason]) as number,
  }
}
