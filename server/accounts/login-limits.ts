/**
 * How often passwords may be tried. Every try takes from budgets that fill up again with time, and a right password gives back what
 * it took; docs/decisions/failed-logins.md says why it is no lock. All of it is in memory and bounded.
 */
import { networkOf } from '../../lib/net/addresses.ts'
import { Recent } from '../../lib/recent.ts'
import type { Limits } from '../config/limits.ts'

/** A try that was allowed. */
export interface LoginTry {
  /** The password was right: the try costs nothing, and the account is used from this network. */
  succeeded(): void
  /** It was wrong. */
  failed(): void
}

export interface LoginLimits {
  /** Takes one try of an account's password from an address; undefined when there is none left, and the password must not be checked. */
  take(account: string, exists: boolean, address: string): LoginTry | undefined
  /** So many tries from this network have failed elsewhere. */
  spend(network: string, count: number): void
}

type Names = 'loginFailures' | 'loginFailureEveryMs' | 'accountLoginFailures' | 'accountLoginFailureEveryMs' | 'addressLoginFailures' | 'addressLoginFailureEveryMs' | 'loginsRemembered'

/** `spent` is told of each try that has failed and counts among those of its network. */
export function createLoginLimits(limits: Pick<Limits, Names>, now: () => number, spent: (network: string) => void = () => undefined): LoginLimits {
  const max = limits.loginsRemembered
  // Names that are made up must not push the budgets of accounts out of memory.
  const pools = [0, 1].map(() => ({
    pairs: new Budgets(limits.loginFailures, limits.loginFailureEveryMs, max, now),
    accounts: new Budgets(limits.accountLoginFailures, limits.accountLoginFailureEveryMs, max, now),
  })) as [Pool, Pool]
  const networks = new Budgets(limits.addressLoginFailures, limits.addressLoginFailureEveryMs, max, now)
  /** Pairs of an account and a network that it was used from. */
  const used = new Recent<true>(max)

  return {
    take(account, exists, address) {
      const network = networkOf(address)
      const pair = `${account} ${network}`
      const { pairs, accounts } = pools[exists ? 0 : 1]
      if (!pairs.take(pair)) return undefined
      if (used.get(pair) === true) return { succeeded: () => pairs.forget(pair), failed: () => undefined }
      if (!accounts.take(account)) {
        pairs.give(pair)
        return undefined
      }
      if (!networks.take(network)) {
        pairs.give(pair)
        accounts.give(account)
        return undefined
      }
      return {
        succeeded() {
          pairs.forget(pair)
          accounts.give(account)
          networks.give(network)
          used.set(pair, true)
        },
        failed() { spent(network) },
      }
    },
    spend(network, count) {
      for (let i = 0; i < count && networks.take(network); i++);
    },
  }
}

interface Pool {
  readonly pairs: Budgets
  readonly accounts: Budgets
}

/** A budget for each key: so many at once, and one more after each period. */
export class Budgets {
  readonly #size: number
  readonly #everyMs: number
  readonly #now: () => number
  readonly #budgets: Recent<{ left: number; at: number }>

  constructor(size: number, everyMs: number, max: number, now: () => number) {
    this.#size = size
    this.#everyMs = everyMs
    this.#now = now
    this.#budgets = new Recent(max)
  }

  take(key: string): boolean {
    const now = this.#now()
    const budget = this.#budgets.get(key)
    if (budget === undefined) {
      this.#budgets.set(key, { left: this.#size - 1, at: now })
      return true
    }
    const gained = Math.floor((now - budget.at) / this.#everyMs)
    if (gained > 0) {
      budget.left = Math.min(this.#size, budget.left + gained)
      budget.at = budget.left === this.#size ? now : budget.at + gained * this.#everyMs
    }
    if (budget.left < 1) return false
    budget.left--
    return true
  }

  give(key: string): void {
    const budget = this.#budgets.get(key)
    if (budget !== undefined && ++budget.left >= this.#size) this.#budgets.delete(key)
  }

  forget(key: string): void { this.#budgets.delete(key) }
}
