/** The auth processes as a chat process sees them: asks one of them, and another when that one does not answer. */
import type { Log } from '../log.ts'
import type { Metrics } from '../metrics.ts'
import type { Limits } from '../config/limits.ts'
import { connectWire, keyOf, numberIfIn, textIn, Wire, type Address, type Args } from './wire.ts'

/** Nobody has answered: nothing is known of what was asked. */
export class AuthUnavailable extends Error {
  constructor(message: string) {
    super(message)
    this.name = 'AuthUnavailable'
  }
}

export interface AuthClientOptions {
  readonly servers: readonly Address[]
  readonly secret: string
  readonly limits: Pick<Limits, 'authPatienceMs' | 'authWaiting'>
  readonly log: Log
  readonly metrics: Metrics
}

export interface Answer {
  /** `done`, or `refused`. */
  readonly kind: string
  readonly body: Args
  /** Who has answered, and knows what was begun. */
  readonly from: Asked
}

/** An auth process as long as one connection to it lasts. */
export interface Asked {
  readonly link: Link
  readonly wire: Wire
}

const RETRY_MIN_MS = 50
const RETRY_MAX_MS = 500
const CONNECT_MS = 3000
const TICK_MS = 1000
/** Silence after which the other side is asked whether it is there, and after which it is taken for gone; it answers however much it works. */
const PING_MS = 2000
const SILENT_MS = 6000
/** How long after it was told that another process has the account it is asked again, when that one is not there. */
const ELSEWHERE_MS = 200
/** How long a process that others have named stays connected. */
const NAMED_MS = 60_000

export class AuthClient {
  readonly #options: AuthClientOptions
  readonly #links: Link[]
  /** Processes that are not in the configuration, by address. */
  readonly #named = new Map<string, Link>()
  readonly #waiting = new Set<() => void>()
  readonly #timer: NodeJS.Timeout
  readonly #asked
  #inWork = 0
  #turn = 0
  #closed = false

  constructor(options: AuthClientOptions) {
    this.#options = options
    const { metrics } = options
    this.#asked = metrics.counter('tidings_auth_requests_total', 'What auth processes were asked', ['outcome'])
    metrics.gauge('tidings_auth_requests_in_work', 'Questions to auth processes that wait for an answer', [], () => this.#inWork)
    metrics.gauge('tidings_auth_processes', 'Auth processes that are connected', [], () => this.#links.filter(({ connected }) => connected).length)
    const key = keyOf(options.secret)
    this.#links = options.servers.map((address) => this.#link(address, key))
    this.#timer = setInterval(() => { this.#tick() }, TICK_MS).unref()
  }

  /** Whether none of them is connected. */
  get failing(): boolean { return this.#links.every(({ connected }) => !connected) }

  /**
   * Asks one of them, or the one that has begun something (`of`). One that may be asked twice (`again`) is asked of another when the connection breaks.
   * Throws AuthUnavailable.
   */
  async ask(operation: string, args: Args, { again = false, of, patienceMs = this.#options.limits.authPatienceMs }: { readonly again?: boolean; readonly of?: Asked; readonly patienceMs?: number } = {}): Promise<Answer> {
    if (this.#inWork >= this.#options.limits.authWaiting) {
      this.#asked.inc(1, { outcome: 'too-many' })
      throw new AuthUnavailable('too many logins wait')
    }
    this.#inWork++
    try {
      const answer = await this.#ask(operation, args, again, of, performance.now() + patienceMs)
      this.#asked.inc(1, { outcome: answer.kind })
      return answer
    } catch (error) {
      this.#asked.inc(1, { outcome: 'unavailable' })
      throw error
    } finally {
      this.#inWork--
    }
  }

  async #ask(operation: string, args: Args, again: boolean, of: Asked | undefined, until: number): Promise<Answer> {
    let target = of?.link
    for (;;) {
      const link = target ?? await this.#free(until)
      if (link === undefined) throw new AuthUnavailable('no auth process answers')
      const answer = await link.ask(operation, args, until, of?.wire)
      target = undefined
      if (answer === 'late') throw new AuthUnavailable('an auth process answers too slowly')
      if (answer === 'broken') {
        if (!again || of !== undefined) throw new AuthUnavailable('the connection to an auth process broke')
        continue
      }
      if (answer === 'away') {
        if (of !== undefined) throw new AuthUnavailable('the auth process is gone')
        await pause(ELSEWHERE_MS)
        continue
      }
      if (answer.kind === 'unavailable') throw new AuthUnavailable(textIn(answer.body, 'text'))
      if (answer.kind !== 'elsewhere') return answer
      target = await this.#at({ host: textIn(answer.body, 'host'), port: numberIfIn(answer.body, 'port') ?? 0 }, until)
    }
  }

  /** The one with the least work among those that are connected; undefined when there is none until then. */
  async #free(until: number): Promise<Link | undefined> {
    for (;;) {
      const connected = this.#links.filter((link) => link.connected)
      if (connected.length > 0) {
        const first = this.#turn++ % connected.length
        return [...connected.slice(first), ...connected.slice(0, first)].reduce((best, link) => link.inWork < best.inWork ? link : best)
      }
      if (!(await this.#change(until))) return undefined
    }
  }

  /** Resolves when a connection is there that was not, with false when that takes too long. */
  #change(until: number): Promise<boolean> {
    const leftMs = until - performance.now()
    if (leftMs <= 0 || this.#closed) return Promise.resolve(false)
    return new Promise((resolve) => {
      const changed = (): void => {
        clearTimeout(timer)
        this.#waiting.delete(changed)
        resolve(performance.now() < until && !this.#closed)
      }
      const timer = setTimeout(changed, leftMs)
      this.#waiting.add(changed)
    })
  }

  /** The process that another has named. */
  async #at(address: Address, until: number): Promise<Link | undefined> {
    const name = `${address.host} ${address.port}`
    let link = this.#links.find((each) => each.name === name) ?? this.#named.get(name)
    if (link === undefined) this.#named.set(name, link = this.#link(address, keyOf(this.#options.secret)))
    const soon = Math.min(until, performance.now() + CONNECT_MS)
    while (!link.connected && await this.#change(soon));
    if (link.connected) return link
    await pause(ELSEWHERE_MS)
    return undefined
  }

  #link(address: Address, key: Buffer): Link {
    return new Link(address, key, this.#options.log, () => { for (const waiting of this.#waiting) waiting() })
  }

  #tick(): void {
    for (const link of [...this.#links, ...this.#named.values()]) link.tick()
    for (const [name, link] of this.#named) {
      if (link.inWork > 0 || performance.now() - link.usedAt < NAMED_MS) continue
      link.close()
      this.#named.delete(name)
    }
  }

  close(): void {
    this.#closed = true
    clearInterval(this.#timer)
    for (const link of [...this.#links, ...this.#named.values()]) link.close()
    for (const waiting of this.#waiting) waiting()
  }
}

/** The connection to one auth process, which is made again when it breaks. */
export class Link {
  readonly name: string
  readonly #address: Address
  readonly #key: Buffer
  readonly #log: Log
  readonly #connectedNow: () => void
  readonly #pending = new Map<number, (answer: Answer | 'broken' | 'late') => void>()
  #wire: Wire | undefined
  #retryMs = RETRY_MIN_MS
  #retry: NodeJS.Timeout | undefined
  #next = 0
  #closed = false
  #reported = false
  usedAt = performance.now()

  constructor(address: Address, key: Buffer, log: Log, connectedNow: () => void) {
    this.name = `${address.host} ${address.port}`
    this.#address = address
    this.#key = key
    this.#log = log
    this.#connectedNow = connectedNow
    this.#connect()
  }

  get connected(): boolean { return this.#wire !== undefined }
  get inWork(): number { return this.#pending.size }

  /** The answer; `away` when it was not asked, for it is not connected, or no more by `same`; `broken` and `late` when it may or may not have done it. */
  ask(operation: string, args: Args, until: number, same = this.#wire): Promise<Answer | 'away' | 'broken' | 'late'> {
    const wire = this.#wire
    this.usedAt = performance.now()
    if (wire === undefined || wire !== same) return Promise.resolve('away')
    const id = this.#next = (this.#next + 1) % 2 ** 32
    return new Promise((resolve) => {
      const timer = setTimeout(() => { this.#pending.get(id)?.('late') }, Math.max(0, until - this.usedAt))
      this.#pending.set(id, (answer) => {
        clearTimeout(timer)
        this.#pending.delete(id)
        resolve(answer)
      })
      wire.send([id, operation, args])
    })
  }

  tick(): void {
    const wire = this.#wire
    if (wire === undefined) return
    const silentMs = performance.now() - wire.heardAt
    if (silentMs > SILENT_MS) wire.close()
    else if (silentMs > PING_MS) wire.send([0, 'ping', {}])
  }

  close(): void {
    this.#closed = true
    clearTimeout(this.#retry)
    this.#wire?.close()
  }

  #connect(): void {
    let secured = false
    const socket = connectWire(this.#address, this.#key, () => {
      secured = true
      clearTimeout(timer)
      this.#wire = wire
      wire.heardAt = performance.now()
      this.#retryMs = RETRY_MIN_MS
      if (this.#reported) this.#log.info({ what: 'auth_process_back', address: this.#address })
      this.#reported = false
      if (this.#closed) wire.close()
      else this.#connectedNow()
    })
    socket.once('error', (error) => { this.#report(error.message) })
    const timer = setTimeout(() => {
      this.#report('it does not answer')
      wire.close()
    }, CONNECT_MS).unref()
    const wire = new Wire(socket, {
      received: ([id, kind, body]) => { this.#pending.get(id)?.({ kind, body, from: { link: this, wire } }) },
      closed: () => {
        clearTimeout(timer)
        this.#wire = undefined
        if (secured) this.#report('the connection broke')
        for (const answer of this.#pending.values()) answer('broken')
        if (this.#closed) return
        this.#retry = setTimeout(() => { this.#connect() }, this.#retryMs).unref()
        this.#retryMs = Math.min(this.#retryMs * 2, RETRY_MAX_MS)
      },
    })
  }

  #report(problem: string): void {
    if (this.#reported || this.#closed) return
    this.#reported = true
    this.#log.warn({ what: 'auth_process_away', address: this.#address, problem })
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => { setTimeout(resolve, ms) })
}
