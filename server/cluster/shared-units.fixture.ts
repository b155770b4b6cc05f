/**
 * Several nodes in one process for tests of what they say to each other: homes and a bus in memory, before one storage for all. A node that
 * is killed writes and sends nothing any more; what it had sent has left, or, unless it was durable, is lost.
 */
import { openMemory } from '../storage/memory/memory.ts'
import type { Storage, StoredStream } from '../storage/shapes.ts'
import { StreamTable } from '../storage/streams.ts'
import type { NodeInfo, Units } from './shapes.ts'

interface Sent {
  readonly to: string
  readonly frame: Buffer
  readonly durable: boolean
}

export class SharedNodes {
  readonly #storage = openMemory()
  readonly #streams = new StreamTable()
  readonly homes = new Map<string, string>()
  readonly nodes = new Map<string, SharedNode>()
  /** How long it takes to claim or find a unit, ms. */
  delayMs = 0

  join(name: string, roles: readonly string[] = ['chat']): SharedNode {
    const node = new SharedNode(this, name, this.#storage, this.#streams)
    node.roles = roles
    this.nodes.set(node.inc, node)
    this.changed([])
    return node
  }

  changed(gone: readonly string[]): void {
    for (const node of this.nodes.values()) node.told(gone)
  }

  /** Ends a node as a kill would, and has the others notice. */
  kill(node: SharedNode): void {
    node.dead = true
    node.lost()
    this.nodes.delete(node.inc)
    for (const [unit, inc] of this.homes) if (inc === node.inc) this.homes.delete(unit)
    this.changed([node.inc])
    node.recover()
  }
}

export class SharedNode implements Units {
  readonly inc: string
  readonly storage: Storage
  readonly name: string
  dead = false
  isLeaving = false
  address = ''
  roles: readonly string[] = []
  readonly #all: SharedNodes
  #handler: ((source: string, frame: Buffer, done: () => void) => void) | undefined
  #returned: ((frame: Buffer, done: () => void, inc: string | undefined) => void) | undefined
  readonly #listeners: ((gone: readonly string[]) => void)[] = []
  readonly #releases: ((units: readonly string[]) => void)[] = []
  readonly #claims: ((unit: string, streams: readonly StoredStream[]) => void)[] = []
  readonly #streams: StreamTable
  #lost: (() => void) | undefined
  #outgoing: Sent[] = []
  readonly #kept = new Set<{ readonly frame: Buffer }>()
  /** What has come and is not done. */
  readonly #inbox = new Set<{ readonly source: string; readonly frame: Buffer }>()

  constructor(all: SharedNodes, name: string, shared: Storage, streams: StreamTable) {
    this.#all = all
    this.name = name
    this.#streams = streams
    this.inc = `${name}-${all.nodes.size}`
    const guard = <Shape extends object>(shape: Shape, writes: readonly (keyof Shape)[]): Shape => new Proxy(shape, {
      get: (target, key) => {
        const value = Reflect.get(target, key) as unknown
        if (typeof value !== 'function') return value
        if (this.dead && writes.includes(key as keyof Shape)) return () => undefined
        return value.bind(target)
      },
    })
    this.storage = {
      records: guard(shared.records, ['put', 'delete', 'deleteRange']),
      archive: guard(shared.archive, ['append', 'replace', 'delete', 'purge', 'expire']),
      offline: guard(shared.offline, ['push', 'remove', 'clear']),
      streams: guard({
        open: (id: string, owner: string, resource: string, state: Parameters<StreamTable['open']>[3]) => void streams.open(id, owner, resource, state),
        state: (id: string, state: Parameters<StreamTable['open']>[3]) => { streams.state(id, state) },
        handled: (id: string, h: number) => { streams.handled(id, h) },
        push: (id: string, seq: number, ...parts: readonly Buffer[]) => { streams.push(id, seq, ...parts) },
        acknowledged: (id: string, seq: number) => { streams.acknowledged(id, seq) },
        close: (id: string) => { streams.close(id) },
        load: () => [],
      }, ['open', 'state', 'handled', 'push', 'acknowledged', 'close']),
      blobs: shared.blobs,
      afterCommit: (callback) => shared.afterCommit(() => { if (!this.dead) callback() }),
      committed: () => shared.committed(),
      get dirty() { return shared.dirty },
      healthy: true,
      status: () => shared.status(),
      [Symbol.asyncDispose]: () => Promise.resolve(),
    }
  }

  get nodes(): readonly NodeInfo[] {
    return Array.from(this.#all.nodes.values(), ({ inc, name, roles, address, isLeaving }) => ({ inc, name, address, roles, leaving: isLeaving }))
  }

  isHere(unit: string): boolean { return this.#all.homes.get(unit) === this.inc }

  async claim(unit: string): Promise<string> {
    await this.#pause()
    const home = this.#all.homes.get(unit)
    if (home === undefined && !this.dead) {
      this.#all.homes.set(unit, this.inc)
      const streams = this.#streams.stored(Date.now()).filter((stream) => stream.owner === unit)
      for (const listener of this.#claims) listener(unit, streams)
    }
    return home ?? this.inc
  }

  async find(unit: string): Promise<string | undefined> {
    await this.#pause()
    return this.#all.homes.get(unit)
  }

  outgoing(to: string, frame: Buffer, durable: boolean): void {
    if (this.dead) return
    this.#outgoing.push({ to, frame, durable })
    if (this.#outgoing.length === 1) this.storage.afterCommit(() => { this.#leave() })
  }

  keep(frame: Buffer): () => void {
    const kept = { frame }
    this.#kept.add(kept)
    return () => { if (!this.dead) this.#kept.delete(kept) }
  }

  #leave(): void {
    for (const { to, frame } of this.#outgoing.splice(0)) {
      const node = this.#all.nodes.get(to)
      if (node === undefined) this.#returned?.(frame, () => undefined, to)
      else node.arrive(this.inc, frame)
    }
  }

  arrive(source: string, frame: Buffer): void {
    const entry = { source, frame }
    this.#inbox.add(entry)
    setImmediate(() => { if (!this.dead) this.#handler?.(source, frame, () => { this.#inbox.delete(entry) }) })
  }

  incoming(handler: (source: string, frame: Buffer, done: () => void) => void): void { this.#handler = handler }
  returned(handler: (frame: Buffer, done: () => void, inc: string | undefined) => void): void { this.#returned = handler }
  left(): Promise<void> { return Promise.resolve() }
  onChange(listener: (gone: readonly string[]) => void): void { this.#listeners.push(listener) }
  pin(): () => void { return () => undefined }
  onClaimed(listener: (unit: string, streams: readonly StoredStream[]) => void): void { this.#claims.push(listener) }
  onReleased(listener: (units: readonly string[]) => void): void { this.#releases.push(listener) }
  beforeMove(): void {}
  onLost(listener: () => void): void { this.#lost = listener }

  leaving(): Promise<void> {
    this.isLeaving = true
    this.#all.changed([])
    return Promise.resolve()
  }

  leave(): Promise<void> {
    for (const [unit, inc] of this.#all.homes) if (inc === this.inc) this.release(unit)
    return Promise.resolve()
  }

  told(gone: readonly string[]): void { for (const listener of this.#listeners) listener(gone) }
  lost(): void { this.#lost?.() }

  /** As when the unit has been idle. */
  release(unit: string): void {
    this.#all.homes.delete(unit)
    for (const listener of this.#releases) listener([unit])
  }

  /** What this node had committed and not sent leaves, and what had come for it goes elsewhere. */
  recover(): void {
    const [survivor] = this.#all.nodes.values()
    if (survivor === undefined) return
    for (const { frame, durable } of this.#outgoing.splice(0)) if (durable) survivor.#returned?.(frame, () => undefined, undefined)
    for (const { frame } of this.#kept) survivor.#returned?.(frame, () => undefined, undefined)
    for (const { frame } of this.#inbox) survivor.#returned?.(frame, () => undefined, undefined)
  }

  #pause(): Promise<void> {
    return new Promise((resolve) => { setTimeout(resolve, this.#all.delayMs) })
  }
}
