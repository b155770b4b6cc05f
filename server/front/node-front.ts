/** How a node takes clients of accounts that live elsewhere, and serves those that others have taken. */
import type { C2s } from '../c2s/c2s.ts'
import type { Front } from '../c2s/passing.ts'
import type { Place } from '../cluster/place.ts'
import type { Log } from '../log.ts'
import type { Metrics } from '../metrics.ts'
import { ClusterFront } from './front.ts'
import type { InternalListener } from './internal-listener.ts'

export interface NodeFrontParts {
  readonly place: Place
  readonly secret: Uint8Array
  readonly listener: InternalListener
  readonly closeTimeoutMs: number
  readonly log: Log
  readonly metrics: Metrics
}

export interface NodeFront {
  readonly front: Front
  /** Takes clients from others from now on. */
  serve(c2s: Pick<C2s, 'adopt'>): void
  /** Takes none any more; clients whose streams go through here lose their connections. */
  close(): Promise<void>
}

export function createNodeFront({ place, secret, listener, closeTimeoutMs, log, metrics }: NodeFrontParts): NodeFront {
  const { units } = place
  const front = new ClusterFront({
    self: { inc: units.inc, isHere: (unit) => place.here(unit), claim: (unit) => place.claim(unit) },
    nodes: () => units.nodes,
    find: (unit) => units.find(unit),
    secret, closeTimeoutMs, log, metrics, times: listener.times,
  })
  units.onChange(() => { front.nodesChanged() })
  return {
    front,
    serve(c2s) {
      listener.serve(secret, {
        async admits(unit) {
          if (!unit.includes('@') || await place.claim(unit)) return { kind: 'taken' }
          const inc = await units.find(unit)
          return inc === undefined || inc === units.inc ? { kind: 'busy' } : { kind: 'elsewhere', inc }
        },
        take: (connection, client) => c2s.adopt(connection, client, client),
        request: (socket, client) => front.relay.serve(socket, client),
        through: (unit, client, inc) => front.through(unit, client, inc),
        join(socket, { socket: home }, inc) { front.join(socket, home, inc) },
      })
    },
    async close() {
      await listener[Symbol.asyncDispose]()
      front.endAll()
    },
  }
}
