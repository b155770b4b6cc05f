/** The nodes of a cluster as a process sees them that is none of them: it asks Redis each second, and where a unit lives whenever it must know. */
import type { NodeInfo } from '../shapes.ts'
import { type Client, Commander, openClient, pause, type RedisConnection } from './connect.ts'
import { Keys } from './keys.ts'

export interface RedisWatchOptions {
  readonly redis: RedisConnection
  /** How long the first answer of Redis is waited for. */
  readonly startMs?: number
}

const EVERY_MS = 1000
const START_MS = 30_000
/** A question about one unit is not waited for longer. */
const FIND_MS = 3000
const SECRET_BYTES = 32

export class RedisWatch implements AsyncDisposable {
  readonly #keys: Keys
  readonly #commander: Commander
  readonly #hints: Client
  readonly #onChange: (() => void)[] = []
  #nodes: readonly NodeInfo[] = []
  #problem: string | undefined
  #timer: NodeJS.Timeout | undefined
  #isClosed = false

  private constructor({ redis }: RedisWatchOptions) {
    this.#keys = new Keys(redis.keyPrefix)
    this.#commander = new Commander(redis, () => undefined)
    this.#hints = openClient(redis)
    const channel = `${redis.keyPrefix}changes`
    this.#hints.on('ready', () => { this.#hints.subscribe(channel).catch(() => undefined) })
    this.#hints.on('message', () => { void this.#look() })
  }

  /** Rejects when Redis cannot be reached for half a minute. */
  static async open(options: RedisWatchOptions): Promise<RedisWatch> {
    const watch = new RedisWatch(options)
    try {
      await watch.#commander.persist(() => watch.#read(), options.startMs ?? START_MS)
      watch.#lookLater()
      return watch
    } catch (error) {
      await watch[Symbol.asyncDispose]()
      throw error
    }
  }

  /** The live nodes; as they were seen last while Redis cannot be reached. */
  get nodes(): readonly NodeInfo[] { return this.#nodes }
  /** The reason why Redis cannot be reached at present. */
  get problem(): string | undefined { return this.#problem }

  /** Told of each change of `nodes`. */
  onChange(listener: () => void): void { this.#onChange.push(listener) }

  /** The unit's home, if it has one. */
  async find(unit: string): Promise<string | undefined> {
    const { client } = this.#commander
    return await this.#commander.persist(async () => {
      const found = await client.hget(this.#keys.unit(unit).home, 'inc')
      if (!found) return undefined
      const inc = found.startsWith('~') ? found.slice(1) : found
      return await client.exists(this.#keys.node(inc).node) === 1 ? inc : undefined
    }, FIND_MS)
  }

  /** The secret that all nodes have. Rejects when no node has made one yet. */
  async secret(): Promise<Uint8Array> {
    return await this.#commander.persist(async () => {
      const secret = await this.#commander.client.getBuffer(this.#keys.secret)
      if (secret?.length !== SECRET_BYTES) throw new Error('Redis has no secret of the cluster: no node has been there')
      return secret
    }, START_MS)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosed = true
    clearTimeout(this.#timer)
    this.#commander.close()
    this.#hints.disconnect()
  }

  #lookLater(): void {
    if (this.#isClosed) return
    this.#timer = setTimeout(() => { void this.#look().finally(() => { this.#lookLater() }) }, EVERY_MS)
  }

  async #look(): Promise<void> {
    try {
      await this.#read()
      this.#problem = undefined
    } catch (error) {
      this.#problem = `Redis: ${(error as Error).message}`
      await pause(EVERY_MS)
    }
  }

  async #read(): Promise<void> {
    const { client } = this.#commander
    const [infos, leases] = await Promise.all([client.hgetall(this.#keys.nodes), client.hkeys(this.#keys.leases)])
    const live = leases.flatMap((inc) => infos[inc] === undefined ? [] : [JSON.parse(infos[inc]) as NodeInfo]).toSorted((a, b) => (a.inc < b.inc ? -1 : 1))
    const isSame = live.length === this.#nodes.length && live.every((node, i) => node.inc === this.#nodes[i]?.inc && node.leaving === this.#nodes[i].leaving)
    if (isSame) return
    this.#nodes = live
    for (const listener of this.#onChange) listener()
  }
}
