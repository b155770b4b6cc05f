/** Connections to Redis: one server, Sentinels, or a Cluster. */
import { Cluster, Redis } from 'ioredis'
import { type Script } from './scripts.ts'

export interface RedisAddress {
  readonly host: string
  readonly port: number
}

export interface RedisConnection {
  /** One server (`server`), or a primary that Sentinels know by `name`, or nodes of a Cluster. */
  readonly server: RedisAddress | undefined
  readonly sentinels: readonly RedisAddress[]
  readonly name: string
  readonly cluster: readonly RedisAddress[]
  readonly username: string
  readonly password: string
  readonly sentinelPassword: string
  readonly database: number
  readonly tls: boolean
  /** Authorities for TLS, as PEM, when not those of the system. */
  readonly ca: string | undefined
  readonly connectTimeoutMs: number
  /** Begins all keys. */
  readonly keyPrefix: string
  /** What is written is on so many replicas before it counts; 0 for the primary alone. */
  readonly minReplicas: number
}

export const REDIS_DEFAULTS: RedisConnection = {
  server: { host: 'localhost', port: 6379 }, sentinels: [], name: '', cluster: [], username: '', password: '', sentinelPassword: '', database: 0, tls: false, ca: undefined,
  connectTimeoutMs: 2000, keyPrefix: 'tidings:', minReplicas: 0,
}

const COMMAND_TIMEOUT_MS = 2500
const REPLICAS_TIMEOUT_MS = 1500
const RETRY_MAX_MS = 500
/** How long an operation that may be repeated is tried. */
const OPERATION_MS = 10_000
const PAUSE_MS = 50
/** Operations that wait for an answer. */
const OPERATIONS_MAX = 20_000

export type Client = Redis | Cluster
export type Argument = string | Buffer | number

/** Makes a client. It connects by itself, again and again; meanwhile commands fail at once. `commandTimeoutMs` undefined: the usual one. */
export function openClient(options: RedisConnection, commandTimeoutMs = COMMAND_TIMEOUT_MS, onError: (error: Error) => void = ignore): Client {
  const retryStrategy = (times: number): number => Math.min(RETRY_MAX_MS, 20 * 2 ** Math.min(times, 10))
  let leftAt = -Infinity
  const common = {
    connectTimeout: options.connectTimeoutMs, commandTimeout: commandTimeoutMs, maxRetriesPerRequest: 0, enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false, keepAlive: 10_000,
    ...options.username === '' ? {} : { username: options.username },
    ...options.password === '' ? {} : { password: options.password },
    ...options.tls ? { tls: options.ca === undefined ? {} : { ca: options.ca } } : {},
    // A primary that has become a replica, or that is told to go: the next connection finds the other.
    reconnectOnError: (error: Error) => {
      if (!/^(READONLY|MASTERDOWN|UNBLOCKED)/.test(error.message) || performance.now() - leftAt < RETRY_MAX_MS) return false
      leftAt = performance.now()
      return true
    },
  }
  let client: Client
  if (options.cluster.length > 0) {
    const { enableOfflineQueue: _, ...redisOptions } = common
    client = new Cluster(options.cluster.map((node) => ({ ...node })), {
      redisOptions, enableOfflineQueue: false, clusterRetryStrategy: retryStrategy, slotsRefreshTimeout: options.connectTimeoutMs, slotsRefreshInterval: 5000, retryDelayOnFailover: 100,
    })
  } else if (options.sentinels.length > 0) {
    client = new Redis({
      ...common, retryStrategy, db: options.database, sentinels: options.sentinels.map((one) => ({ ...one })), name: options.name, sentinelRetryStrategy: retryStrategy,
      ...options.sentinelPassword === '' ? {} : { sentinelPassword: options.sentinelPassword },
      ...options.tls ? { enableTLSForSentinelMode: true, sentinelTLS: options.ca === undefined ? {} : { ca: options.ca } } : {},
    })
  } else client = new Redis({ ...common, retryStrategy, db: options.database, ...options.server ?? { host: 'localhost', port: 6379 } })
  client.on('error', onError)
  return client
}

/** Runs scripts, and tries again what may be repeated. */
export class Commander {
  readonly client: Client
  readonly #minReplicas: number
  readonly #onProblem: (problem: string | undefined) => void
  #underWay = 0
  #brokenAt = 0
  #isClosed = false
  #lastError: Error | undefined

  constructor(options: RedisConnection, onProblem: (problem: string | undefined) => void) {
    this.#minReplicas = options.minReplicas
    this.#onProblem = onProblem
    this.client = openClient(options, COMMAND_TIMEOUT_MS, (error) => { this.#lastError = error })
  }

  get isClosed(): boolean { return this.#isClosed }

  /** Runs a script once; resolves when what it wrote is on the replicas too. */
  async run(script: Script, keys: readonly string[], args: readonly Argument[]): Promise<unknown> {
    if (this.#underWay >= OPERATIONS_MAX) throw new Error('too many operations wait for Redis')
    this.#underWay++
    try {
      const answer = await this.#evaluate(script, keys, args)
      this.#onProblem(undefined)
      return answer
    } catch (error) {
      const problem = `Redis: ${this.#reason(error as Error)}`
      this.#onProblem(problem)
      this.#reconnect(error as Error)
      throw error instanceof FinalError ? error : new Error(problem, { cause: error })
    } finally {
      this.#underWay--
    }
  }

  /** Runs what may be repeated until it succeeds, or for some seconds. */
  async persist<T>(run: () => Promise<T>, forMs = OPERATION_MS): Promise<T> {
    const until = performance.now() + forMs
    for (let pauseMs = PAUSE_MS; ; pauseMs = Math.min(RETRY_MAX_MS, pauseMs * 2)) {
      try {
        return await run()
      } catch (error) {
        if (this.#isClosed || error instanceof FinalError || performance.now() + pauseMs > until) throw error
        await pause(pauseMs)
      }
    }
  }

  close(): void {
    this.#isClosed = true
    this.client.disconnect()
  }

  async #evaluate(script: Script, keys: readonly string[], args: readonly Argument[]): Promise<unknown> {
    try {
      return await this.#send('evalsha', script.sha, script.writes, keys, args)
    } catch (error) {
      if (!/NOSCRIPT/.test((error as Error).message)) throw error
      return await this.#send('eval', script.text, script.writes, keys, args)
    }
  }

  async #send(command: 'eval' | 'evalsha', script: string, writes: boolean, keys: readonly string[], args: readonly Argument[]): Promise<unknown> {
    if (!writes || this.#minReplicas === 0) {
      return await this.client.callBuffer(command, script, keys.length, ...keys, ...args)
    }
    const pipeline = this.client.pipeline()
    pipeline.callBuffer(command, script, keys.length, ...keys, ...args)
    pipeline.wait(this.#minReplicas, REPLICAS_TIMEOUT_MS)
    const [answered, replicas] = await pipeline.exec() ?? []
    if (!answered || !replicas) throw new Error('no answer')
    if (answered[0]) throw answered[0]
    if (replicas[0]) throw replicas[0]
    if (Number(replicas[1]) < this.#minReplicas) throw new Error(`${String(replicas[1])} of ${this.#minReplicas} replicas have what was written`)
    return answered[1]
  }

  /** A server that hangs keeps its connections: another one may have taken its place. */
  #reconnect(error: Error): void {
    if (this.#isClosed || !/timed out/i.test(error.message) || performance.now() - this.#brokenAt < COMMAND_TIMEOUT_MS) return
    this.#brokenAt = performance.now()
    this.client.disconnect(true)
  }

  #reason(error: Error): string {
    const isAway = /writeable|offlineQueue|ready|closed|max retries/i.test(error.message)
    return isAway && this.#lastError ? this.#lastError.message || this.#lastError.name : error.message
  }
}

/** Trying again is of no use. */
export class FinalError extends Error {}

function ignore(): void {}

export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => { setTimeout(resolve, ms) })
}
