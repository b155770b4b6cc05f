/** For tests: nodes of a cluster in memory, with stores that outlive them. */
import { openMemory } from '../storage/memory/memory.ts'
import { DirectQueue } from './direct-queue.ts'
import { MemoryCluster, type MemoryMembership } from './memory.ts'
import { MemoryHistoryStore, MemoryRowStore } from './memory-stores.ts'
import { type HistoryQueue, type HistoryStore, type RowStore } from './shapes.ts'
import { ClusterStorage, type ClusterStorageOptions } from './storage.ts'

export interface World {
  readonly cluster: MemoryCluster
  readonly records: RowStore
  readonly history: HistoryStore
  readonly blobs: ReturnType<typeof openMemory>['blobs']
}

export function newWorld(): World {
  return { cluster: new MemoryCluster(), records: new MemoryRowStore(), history: new MemoryHistoryStore(), blobs: openMemory().blobs }
}

export interface TestNode {
  readonly storage: ClusterStorage
  readonly inc: string
  readonly membership: MemoryMembership
  readonly queue: HistoryQueue
}

/** In a test a frame is the text `unit frame`. */
export function framesOf(frame: Buffer): { unit: string; frame: Buffer }[] {
  const text = frame.toString()
  return [{ unit: text.slice(0, text.indexOf(' ')), frame }]
}

export function joinNode(world: World, name: string, options: Partial<ClusterStorageOptions> = {}, roles: readonly string[] = [], address = ''): TestNode {
  const membership = world.cluster.join(name, roles, address)
  const queue = options.queue ?? new DirectQueue(world.history)
  const storage = new ClusterStorage({ membership, records: world.records, history: world.history, queue, blobs: world.blobs, framesOf, commitEveryMs: 0, onError: () => {}, ...options })
  return { storage, inc: membership.self.inc, membership, queue }
}

/** Stops a node in good order. */
export async function stopNode({ storage }: Pick<TestNode, 'storage'>, world: World): Promise<void> {
  const { inc } = storage
  await storage[Symbol.asyncDispose]()
  world.cluster.leave(inc)
}

/** Claims a unit, also when its home is lost and not recovered yet. */
export async function claimed({ storage }: Pick<TestNode, 'storage'>, unit: string): Promise<void> {
  for (;;) {
    const inc = await storage.claim(unit).catch(() => undefined)
    if (inc === storage.inc) return
    await new Promise((resolve) => { setTimeout(resolve, 1) })
  }
}
