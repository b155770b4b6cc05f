/**
 * Where clients log in that are served elsewhere: finds the home of an account, and has the stream go there. One that nobody has is served by the
 * node that the hash chooses.
 */
import { randomBytes } from 'node:crypto'
import type { Socket } from 'node:net'
import { chooseNode } from '../cluster/rendezvous.ts'
import type { NodeInfo } from '../cluster/shapes.ts'
import type { Connection } from '../c2s/framed.ts'
import { type Front, type Passage, type Passenger, SilentError } from '../c2s/passing.ts'
import type { Log } from '../log.ts'
import type { Metrics } from '../metrics.ts'
import { carryBytes, carryElements, isFramed } from './carry.ts'
import { type Link, openLink } from './link.ts'
import { Pulses, type PulseTimes } from './pulse.ts'
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
  readonly times?: PulseTimes
}

const PATIENCE_MS = 10_000
const CONNECT_TIMEOUT_MS = 2000
const AGAIN_MS = 100
const DRAIN_EVERY_MS = 100
/** A node that could not be reached is looked for by way of others first for so long. */
const AVOID_MS = 30_000
/** Other nodes that are asked for a way to one. */
const WAYS_MAX = 2
/** A pulse has no client. */
const NOBODY: Passenger = { address: '', secure: false, tls: undefined, binding: undefined, certificate: undefined, transport: 'pulse', listener: {}, failures: 0, repeated: 0 }

interface Carried {
  /** The node at the other end of the connection; `undefined` when that is not known. */
  readonly peer: string | undefined
  /** The home, when that is another. */
  readonly inc: string | undefined
  readonly home: Socket
}

export class ClusterFront implements Front {
  readonly #parts: FrontParts
  /** Clients whose streams go through here, each with its home. */
  readonly #carried = new Map<Connection, Carried>()
  /** A name of this process for those that it passes clients to. */
  readonly #name = randomBytes(12).toString('base64url')
  readonly #pulses: Pulses
  /** By node, requests that wait for its answers. */
  readonly #asked = new Map<string, Set<Socket>>()
  /** Until when (ms) nodes are looked for by way of others. */
  readonly #avoided = new Map<string, number>()
  readonly #refused
  readonly relay: RequestRelay
  #next = 0

  constructor(parts: FrontParts) {
    this.#parts = parts
    this.relay = new RequestRelay({
      process: parts.self?.inc,
      open: async (process, client) => {
        const { link, peer } = await this.#linkTo(process ?? await this.#homeOf(''), '', client, performance.now() + CONNECT_TIMEOUT_MS)
        if (link.kind === 'taken' && peer !== undefined) this.#asks(peer, link.socket)
        return link
      },
    })
    this.#pulses = new Pulses({
      open: async (peer) => {
        const link = await this.#ask(peer, '', NOBODY, performance.now() + CONNECT_TIMEOUT_MS)
        return link.kind === 'taken' ? link.socket : undefined
      },
      silent: (peer) => { this.#silent(peer) },
      ...parts.times && { times: parts.times },
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
          const { link, peer } = await this.#linkTo(inc, unit, client, until)
          if (link.kind === 'taken') return this.#passage(inc, peer, link.socket)
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

  /** Straight to a node, or by way of another that reaches it; and which node is at the other end. */
  async #linkTo(inc: string | undefined, unit: string, client: Passenger, until: number): Promise<{ readonly link: Link; readonly peer: string | undefined }> {
    let problem: unknown
    if ((this.#avoided.get(inc ?? '') ?? 0) < performance.now()) {
      try {
        return { link: await this.#ask(inc, unit, client, until), peer: inc }
      } catch (error) {
        if (inc === undefined) throw error
        problem = error
      }
    }
    for (const peer of this.#waysTo(inc as string)) {
      const link = await this.#ask(peer, unit, client, until, inc).catch(() => undefined)
      if (link === undefined || link.kind === 'busy') continue
      if (!this.#avoided.has(inc as string)) this.#parts.log.warn({ what: 'home_reached_by_another', inc, by: peer })
      this.#avoided.set(inc as string, performance.now() + AVOID_MS)
      return { link, peer }
    }
    this.#avoided.delete(inc as string)
    throw problem ?? new Error('the node of the account is not reached by others either')
  }

  /** Nodes that may reach one that this process does not reach. */
  #waysTo(inc: string): readonly string[] {
    const others = this.#parts.nodes().filter((node) => node.inc !== inc && node.inc !== this.#parts.self?.inc && node.address !== '' && !node.leaving)
    const first = Math.floor(Math.random() * others.length)
    return Array.from({ length: Math.min(WAYS_MAX, others.length) }, (_, i) => (others[(first + i) % others.length] as NodeInfo).inc)
  }

  /** The way to a node for a client of another process. */
  async through(unit: string, client: Passenger, inc: string): Promise<Link> {
    return await this.#ask(inc, unit, client, performance.now() + CONNECT_TIMEOUT_MS)
  }

  /** Joins the connection of such a client to that way. */
  join(client: Socket, home: Socket, inc: string): void { this.#passage(inc, inc, home).carry(client, []) }

  async #ask(inc: string | undefined, unit: string, client: Passenger, until: number, through?: string): Promise<Link> {
    const address = this.#parts.nodes().find((node) => node.inc === inc)?.address ?? ''
    if (address === '') throw new Error('the node of the account is not to be found')
    return openLink({ address, secret: this.#parts.secret, connectTimeoutMs: CONNECT_TIMEOUT_MS, timeoutMs: Math.max(CONNECT_TIMEOUT_MS, until - performance.now()), way: { from: this.#name, through: through ?? '' } }, unit, client)
  }

  #passage(inc: string | undefined, peer: string | undefined, home: Socket): Passage {
    const { closeTimeoutMs } = this.#parts
    return {
      carry: (client, begun) => {
        this.#carried.set(client, { inc, peer, home })
        const over = peer === undefined ? undefined : this.#pulses.use(peer)
        const ended = (): void => {
          this.#carried.delete(client)
          over?.()
        }
        if (isFramed(client)) carryElements(client, home, begun, closeTimeoutMs, ended)
        else carryBytes(client as Socket, home, begun, closeTimeoutMs, ended)
      },
      cancel() { home.destroy() },
    }
  }

  /** Nodes are gone, perhaps with their machines, from which nothing is heard then: who was there is to come again. */
  nodesChanged(): void {
    const live = new Set(this.#parts.nodes().map(({ inc }) => inc))
    this.#end(({ inc }) => inc !== undefined && !live.has(inc))
    for (const inc of this.#avoided.keys()) if (!live.has(inc)) this.#avoided.delete(inc)
  }

  #asks(peer: string, socket: Socket): void {
    let sockets = this.#asked.get(peer)
    if (sockets === undefined) this.#asked.set(peer, sockets = new Set())
    sockets.add(socket)
    const over = this.#pulses.use(peer)
    socket.once('close', () => {
      over()
      sockets.delete(socket)
      if (sockets.size === 0 && this.#asked.get(peer) === sockets) this.#asked.delete(peer)
    })
  }

  /** A node is there, as far as is known, and nothing gets here from it: who has it is to come again, and gets there by another way. */
  #silent(peer: string): void {
    this.#avoided.set(peer, performance.now() + AVOID_MS)
    const ended = this.#end((one) => one.peer === peer)
    for (const socket of this.#asked.get(peer) ?? []) socket.destroy(new SilentError(`nothing comes from ${peer} any more`))
    this.#parts.log.warn({ what: 'node_silent', inc: peer, connections: ended })
  }

  #end(isWanted: (one: Carried) => boolean): number {
    let count = 0
    for (const [client, one] of this.#carried) {
      if (!isWanted(one)) continue
      count++
      one.home.destroy()
      client.end()
    }
    return count
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
    this.#pulses.close()
    for (const client of this.#carried.keys()) client.end()
  }
}
