/**
 * Where clients log in that are served elsewhere: finds the home of an account, and has the stream go there. One that nobody has is served by the
 * node that the hash chooses.
 */
import type { Socket } from 'node:net'
import { chooseNode } from '../cluster/rendezvous.ts'
import type { NodeInfo } from '../cluster/shapes.ts'
import type { Connection } from '../c2s/framed.ts'
import type { Front, Passage, Passenger } from '../c2s/passing.ts'
import type { Log } from '../log.ts'
import type { Metrics } from '../metrics.ts'
import { carryBytes, carryElements, isFramed } from './carry.ts'
import { type Link, openLink } from './link.ts'
import { RequestRelay } from './relay.ts'

export interface FrontParts {
  /** This process, when it serves accounts itself. */
  readonly self: { readonly inc: string; isHere(unit: string): boolean; claim(unit: string): Promise<boolean> } | undefined
  nodes(): readonly NodeInfo[]
  /** The home of a unit, if it has one. */
  find(unit: string): Promise<string | undefined>
  readonly secret: Uint8Array
  readonly closeTimeoutMs: number
  readonly log: Log
  readonly metrics: Metrics
  /** How long a client waits for a home that is gone, or moves. */
  readonly patienceMs?: number
}

const PATIENCE_MS = 10_000
const CONNECT_TIMEOUT_MS = 2000
const AGAIN_MS = 100
const DRAIN_EVERY_MS = 100

export class ClusterFront implements Front {
  readonly #parts: FrontParts
  /** Clients whose streams go through here, each with its home. */
  readonly #carried = new Map<Connection, { readonly inc: string | undefined; readonly home: Socket }>()
  readonly #refused
  readonly relay: RequestRelay
  #next = 0

  constructor(parts: FrontParts) {
    this.#parts = parts
    this.relay = new RequestRelay({
      process: parts.self?.inc,
      open: async (process, client) => this.#ask(process ?? await this.#homeOf(''), '', client, performance.now() + CONNECT_TIMEOUT_MS),
    })
    parts.metrics.gauge('tidings_front_connections', 'Client connections that are passed on to other nodes', [], () => this.connections)
    parts.metrics.gauge('tidings_front_waiting_bytes', 'Bytes that wait here for clients that are served by other nodes', [], () => {
      let bytes = 0
      for (const client of this.#carried.keys()) bytes += client.writableLength
      return bytes
    })
    this.#refused = parts.metrics.counter('tidings_front_failures_total', 'Logins for which no node was found', [])
  }

  get connections(): number { return this.#carried.size }

  get serves(): boolean { return this.#parts.self !== undefined }

  isHere(account: string): boolean { return this.#parts.self?.isHere(account) === true }

  async reach(unit: string, client: Passenger): Promise<Passage | undefined> {
    const { self, patienceMs = PATIENCE_MS } = this.#parts
    if (self !== undefined && (unit === '' || self.isHere(unit))) return undefined
    const until = performance.now() + patienceMs
    let told: string | undefined
    let problem: unknown
    do {
      try {
        const inc: string | undefined = told ?? await this.#homeOf(unit)
        const before = told
        told = undefined
        if (inc !== undefined && inc === self?.inc) {
          if (!unit.includes('@') || await self.claim(unit)) return undefined
        } else {
          const link = await this.#ask(inc, unit, client, until)
          if (link.kind === 'taken') return this.#passage(inc, link.socket)
          if (link.kind === 'elsewhere' && before === undefined) {
            told = link.inc
            continue
          }
        }
        problem = new Error('the node of the account takes nobody')
      } catch (error) {
        problem = error
      }
      await new Promise((resolve) => { setTimeout(resolve, AGAIN_MS) })
    } while (performance.now() < until)
    this.#refused.inc(1)
    this.#parts.log.warn({ what: 'home_not_reached', unit, error: problem })
    throw problem
  }

  /** The incarnation that has a unit, or is to have it; undefined when there is no node at all. */
  async #homeOf(unit: string): Promise<string | undefined> {
    const nodes = this.#parts.nodes()
    if (unit === '') return chooseNode(String(this.#next++), nodes)?.inc
    return await this.#parts.find(unit) ?? chooseNode(unit, nodes)?.inc
  }

  async #ask(inc: string | undefined, unit: string, client: Passenger, until: number): Promise<Link> {
    const address = this.#parts.nodes().find((node) => node.inc === inc)?.address ?? ''
    if (address === '') throw new Error('the node of the account is not to be found')
    return openLink({ address, secret: this.#parts.secret, connectTimeoutMs: CONNECT_TIMEOUT_MS, timeoutMs: Math.max(CONNECT_TIMEOUT_MS, until - performance.now()) }, unit, client)
  }

  #passage(inc: string | undefined, home: Socket): Passage {
    const { closeTimeoutMs } = this.#parts
    return {
      carry: (client, begun) => {
        this.#carried.set(client, { inc, home })
        const ended = (): void => void this.#carried.delete(client)
        if (isFramed(client)) carryElements(client, home, begun, closeTimeoutMs, ended)
        else carryBytes(client as Socket, home, begun, closeTimeoutMs, ended)
      },
      cancel() { home.destroy() },
    }
  }

  /** Nodes are gone, perhaps with their machines, from which nothing is heard then: who was there is to come again. */
  nodesChanged(): void {
    const live = new Set(this.#parts.nodes().map(({ inc }) => inc))
    for (const [client, { inc, home }] of this.#carried) {
      if (inc === undefined || live.has(inc)) continue
      home.destroy()
      client.end()
    }
  }

  /** Ends the connections that are passed on, one after the other, so that their clients do not all come again at once; resolves when none is left. */
  async drain(ms: number): Promise<void> {
    const until = performance.now() + ms
    while (this.#carried.size > 0) {
      const left = Math.max(0, until - performance.now())
      const turns = Math.ceil(left / DRAIN_EVERY_MS)
      let now = turns === 0 ? Infinity : Math.ceil(this.#carried.size / turns)
      for (const client of this.#carried.keys()) {
        if (--now < 0) break
        client.end()
      }
      await new Promise((resolve) => { setTimeout(resolve, DRAIN_EVERY_MS) })
      if (turns === 0) return
    }
  }

  /** Ends the connections that are passed on and leaves their streams unfinished, for their clients to resume (XEP-0198 §5). */
  endAll(): void {
    for (const client of this.#carried.keys()) client.end()
  }
}
