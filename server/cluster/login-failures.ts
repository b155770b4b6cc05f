/**
 * Failed logins by network, as all nodes know them: each tells the others a moment later what has failed with it, in one word for all of that moment. A
 * login that succeeds costs nothing, unless earlier ones of its network had failed. A node that comes asks the others for what they know.
 */
import { Recent } from '../../lib/recent.ts'
import type { FailedLogins, FailureCounts } from '../extensions/extension.ts'
import type { Value } from '../storage/shapes.ts'
import type { Calls } from './calls.ts'

export interface LoginFailuresParts {
  readonly calls: Pick<Calls, 'alone' | 'serve' | 'askNodes'>
  readonly now: () => number
  /** Networks that are remembered. */
  readonly max: number
  /** So many tries of passwords of a network have failed at other nodes. */
  readonly spent: (network: string, count: number) => void
  /** This node, among the others. */
  readonly self: string
  readonly everyMs?: number
}

const EVERY_MS = 250
/** Networks of which one word tells, and of which a node that comes learns. */
const NETWORKS_MAX = 1000
const FAILED = 'logins failed'
const KNOWN = 'logins known'

interface News { isForgotten: boolean; failures: number; until: number; spent: number }

export class LoginFailures implements FailureCounts {
  readonly #parts: LoginFailuresParts
  readonly #counts: Recent<FailedLogins>
  /** By network, what the others have not been told. */
  readonly #news = new Map<string, News>()
  #timer: NodeJS.Timeout | undefined

  constructor(parts: LoginFailuresParts) {
    this.#parts = parts
    this.#counts = new Recent(parts.max)
    parts.calls.serve(FAILED, (_node, args) => {
      const [from, ...all] = args as unknown as readonly [string, ...readonly [string, boolean, number, number, number][]]
      if (from === parts.self) return
      for (const [network, isForgotten, failures, leftMs, spent] of all) {
        if (isForgotten) this.#counts.delete(network)
        if (failures > 0) this.#add(network, failures, parts.now() + leftMs)
        if (spent > 0) parts.spent(network, spent)
      }
    })
    parts.calls.serve(KNOWN, () => this.#known() as unknown as Value)
  }

  get(network: string): FailedLogins | undefined { return this.#counts.get(network) }

  add(network: string, until: number): FailedLogins {
    const news = this.#newsOf(network)
    if (news !== undefined) {
      news.failures++
      news.until = until
    }
    return this.#add(network, 1, until)
  }

  forget(network: string): boolean {
    if (this.#counts.get(network) === undefined) return false
    this.#counts.delete(network)
    const news = this.#newsOf(network)
    if (news !== undefined) Object.assign(news, { isForgotten: true, failures: 0 })
    return true
  }

  /** A try of a password has failed that counts among those of its network. */
  spend(network: string): void {
    const news = this.#newsOf(network)
    if (news !== undefined) news.spent++
  }

  /** Asks the other nodes, for one that comes. */
  async learn(): Promise<void> {
    if (this.#parts.calls.alone) return
    for (const answer of await this.#parts.calls.askNodes(KNOWN)) {
      for (const [network, count, leftMs] of answer as unknown as readonly [string, number, number][]) {
        if (count > (this.#counts.get(network)?.count ?? 0)) this.#counts.set(network, { count, until: this.#parts.now() + leftMs })
      }
    }
  }

  close(): void { clearTimeout(this.#timer) }

  #add(network: string, failures: number, until: number): FailedLogins {
    const before = this.#counts.get(network)
    const after = before === undefined || before.until <= this.#parts.now() ? { count: failures, until } : { count: before.count + failures, until: Math.max(before.until, until) }
    this.#counts.set(network, after)
    return after
  }

  /** Undefined when nobody is told: there is one node, or too much to tell. */
  #newsOf(network: string): News | undefined {
    if (this.#parts.calls.alone) return undefined
    let news = this.#news.get(network)
    if (news === undefined) {
      if (this.#news.size >= NETWORKS_MAX) return undefined
      this.#news.set(network, news = { isForgotten: false, failures: 0, until: 0, spent: 0 })
    }
    this.#timer ??= setTimeout(() => { this.#tell() }, this.#parts.everyMs ?? EVERY_MS).unref()
    return news
  }

  #tell(): void {
    this.#timer = undefined
    const now = this.#parts.now()
    const all = Array.from(this.#news, ([network, { isForgotten, failures, until, spent }]): Value => [network, isForgotten, failures, Math.max(0, until - now), spent])
    this.#news.clear()
    // Who does not hear it counts what fails with him alone.
    this.#parts.calls.askNodes(FAILED, [this.#parts.self, ...all]).catch(() => undefined)
  }

  #known(): [string, number, number][] {
    const now = this.#parts.now()
    const known: [string, number, number][] = []
    for (const [network, { count, until }] of this.#counts.entries()) {
      if (until > now) known.push([network, count, until - now])
      if (known.length >= NETWORKS_MAX) break
    }
    return known
  }
}
