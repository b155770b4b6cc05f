/** A server's place among the nodes of a cluster: joins its router, sessions and services to the units that live at this node. */
import { createHash } from 'node:crypto'
import { Jid } from '../../lib/jid.ts'
import { setNodeOfIds } from '../../lib/stanza/ids.ts'
import type { Accounts } from '../accounts/accounts.ts'
import type { C2s } from '../c2s/c2s.ts'
import type { OtherNodes } from '../components/elsewhere.ts'
import type { Components } from '../components/components.ts'
import type { Host } from '../host.ts'
import type { Log } from '../log.ts'
import type { PendingIqs } from '../router/iq.ts'
import type { Router } from '../router/router.ts'
import type { SessionRegistry } from '../sessions/sessions.ts'
import type { Key, Storage, Value } from '../storage/shapes.ts'
import { accountsAtHome } from './accounts-at-home.ts'
import type { S2s } from '../s2s/s2s.ts'
import type { Calls } from './calls.ts'
import { Homes } from './homes.ts'
import { recordsOfNode, takeRow, withRecords } from './records.ts'
import { remoteOfUnit } from './remote-units.ts'
import { takesUnits } from './rendezvous.ts'
import type { Units } from './shapes.ts'

export interface PlaceParts {
  readonly units: Units
  readonly secret: Uint8Array
  /** Secrets of hosts and services, when they are not made from that. */
  readonly secretOf?: ((table: string, key: Key) => Value) | undefined
  /** Of the units that live here. */
  readonly storage: Storage
  readonly calls: Calls
  readonly log: Log
}

/** The server whose place it is. */
export interface Placed {
  readonly hosts: ReadonlyMap<string, Host>
  readonly router: Router
  readonly sessions: SessionRegistry
  readonly pending: PendingIqs
  readonly streams: () => Pick<C2s, 'bringBack' | 'abandon'>
  readonly components: () => Pick<Components, 'arrived' | 'came' | 'nodesChanged'>
  readonly federation: () => Pick<S2s, 'came' | 'released'>
  /** An account or room has come here. */
  came(unit: string): void
  /** What is kept in memory of a unit is out of date. */
  forget(unit: string): void
  /** Others serve what this server has served: it must end. */
  lost(): void
}

const NOTHING = Buffer.alloc(0)
const ANNOUNCE_MS = 2000

export class Place {
  /** The storage as extensions see it. */
  readonly storage: Storage
  readonly units: Units
  readonly #log: Log
  readonly #own: Storage
  readonly #calls: Calls
  /** Hosts of which this node keeps what belongs to them as a whole, pinned. */
  readonly #hostsHere = new Map<string, () => void>()
  #homes: Homes | undefined
  #server: Placed | undefined
  #isLost = false
  #isLeaving = false

  constructor({ units, secret, secretOf, storage, calls, log }: PlaceParts) {
    this.units = units
    this.#log = log
    this.#own = storage
    this.#calls = calls
    this.storage = withRecords(storage, recordsOfNode(storage.records, {
      here: (unit) => this.here(unit),
      claim: (unit) => this.claim(unit),
      send: (frame) => { this.#homes?.send(frame) },
      calls, secret: secretOf ?? secret,
    }))
  }

  /** The node is lost: nothing is committed any more. */
  get isLost(): boolean { return this.#isLost }

  here(unit: string): boolean { return this.units.isHere(unit) }

  /** Has a unit live here; false when another node has it. */
  async claim(unit: string): Promise<boolean> {
    if (this.#homes === undefined) throw new Error('the server has no place yet')
    return await this.#homes.claim(unit)
  }

  /** Accounts for those who may ask for any: what is asked is done where the account lives. `name` tells several apart. */
  accounts(all: Accounts, name: string): Accounts {
    return accountsAtHome(all, { claim: (bare) => this.claim(bare), calls: this.#calls, name })
  }

  /** A unit that is here stays until the function that this answers is called. */
  pin(unit: string): () => void { return this.units.pin(unit) }

  /** What external components need of it. */
  others(): OtherNodes {
    const { units } = this
    return {
      nodes: () => units.nodes,
      inc: units.inc,
      here: (domain) => this.here(domain),
      claim: (domain) => this.claim(domain),
      pin: (domain) => this.pin(domain),
      toNode: (inc, list, stanza = NOTHING) => { this.#homes?.sendTo(inc, { kind: 'component', list, stanza }) },
      toHome: (domain, list) => { this.#homes?.send({ kind: 'component', unit: domain, list, idle: true }) },
    }
  }

  /** From this turn on the server answers for the units that live here. */
  join(server: Placed): void {
    const { units } = this
    this.#server = server
    this.#homes = server.router.homes = new Homes({
      units, log: this.#log,
      handle: (frame, source) => {
        if (frame.kind === 'row') return takeRow(this.#own.records, frame)
        if (frame.kind === 'ask' || frame.kind === 'answer') return this.#calls.arrived(frame)
        if (frame.kind === 'component') return server.components().arrived(frame, source)
        return server.router.arrived(frame, source)
      },
      lost(wasThere) {
        for (const session of server.sessions.all()) server.hosts.get(session.host)?.presence.contactsLost(session, wasThere)
        for (const host of server.hosts.values()) host.hooks.runNodesLost(wasThere)
      },
    })
    server.pending.suffix = `.${units.inc}`
    setNodeOfIds(units.idNumber ?? idNumberOf(units.inc))
    // An account with sessions stays where they are.
    server.sessions.onPresent((account) => units.pin(account))
    units.onClaimed((unit, streams) => {
      try {
        for (const session of server.streams().bringBack(unit, streams)) server.hosts.get(session.host)?.presence.movedHere(session)
        for (const host of server.hosts.values()) host.hooks.runCame(unit)
        const remote = remoteOfUnit(unit)
        if (remote !== undefined) server.federation().came(remote)
        else if (!unit.includes('@')) server.components().came(unit)
      } catch (error) {
        this.#log.error({ what: 'unit_not_restored', unit, error })
      }
      if (Jid.tryParse(unit)?.local) server.came(unit)
    })
    units.onReleased((released) => {
      for (const unit of released) {
        server.forget(unit)
        const remote = remoteOfUnit(unit)
        if (remote !== undefined) server.federation().released(remote)
      }
      for (const host of server.hosts.values()) host.hooks.runReleased(new Set(released))
    })
    units.onChange(() => {
      this.takeHosts()
      server.components().nodesChanged()
    })
    units.onLost(() => {
      this.#isLost = true
      this.#log.error({ what: 'lease_lost', text: 'Other nodes serve what this one served; it ends.' })
      server.streams().abandon()
      server.lost()
    })
  }

  /** Tells the others that this node is about to leave. They need not hear it. */
  async announceLeaving(): Promise<void> {
    this.#isLeaving = true
    const { promise: isLate, resolve } = Promise.withResolvers<void>()
    const timer = setTimeout(resolve, ANNOUNCE_MS)
    await Promise.race([this.units.leaving().catch((error: unknown) => { this.#log.warn({ what: 'leaving_not_announced', error }) }), isLate])
    clearTimeout(timer)
  }

  /** Gives up everything that lives here, once nobody uses it. What comes for it goes on to where it is then. */
  async leave(): Promise<void> {
    this.#homes?.leave()
    await this.units.leave()
    await this.#homes?.passedOn()
  }

  /** What belongs to a host as a whole is kept by one node: the first that is there and has accounts. */
  takeHosts(): void {
    const self = this.units.nodes.find(({ inc }) => inc === this.units.inc)
    if (this.#isLeaving || (self !== undefined && !takesUnits(self))) return
    for (const host of this.#server?.hosts.keys() ?? []) {
      if (this.#hostsHere.has(host)) continue
      this.claim(host).then((isOurs) => {
        if (isOurs && !this.#hostsHere.has(host)) this.#hostsHere.set(host, this.units.pin(host))
      }).catch((error: unknown) => { this.#log.error({ what: 'host_not_claimed', host, error }) })
    }
  }

  /** Resolves when everything that was written is safe, or the node is lost. */
  async close(): Promise<void> {
    if (!this.#isLost) await Promise.race([this.#own.committed(), new Promise<void>((resolve) => { this.units.onLost(resolve) })])
    this.#homes?.close()
  }
}

/** Two digits of ids that tell nodes apart (lib/stanza/ids.ts). */
function idNumberOf(inc: string): number {
  return createHash('sha256').update(inc).digest().readUInt16BE(0) % 1024
}
