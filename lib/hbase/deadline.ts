import { DeadlineError, HBaseError } from './errors.ts'

const BACKOFF_FIRST_MS = 20
const BACKOFF_MAX_MS = 2000

/** When an operation, with all its attempts, is over. */
export class Deadline {
  readonly #at: number
  readonly #ms: number

  constructor(ms: number) {
    this.#ms = ms
    this.#at = performance.now() + ms
  }

  get remainingMs(): number { return this.#at - performance.now() }

  error(what: string, cause?: unknown): DeadlineError {
    const last = cause instanceof Error ? `: ${cause.message}` : ''
    return new DeadlineError(`${what}: not done in ${this.#ms} ms${last}`, { cause })
  }

  /** Calls until it succeeds, fails for good, or the time is over. */
  async retry<T>(what: string, call: (attempt: number) => Promise<T>): Promise<T> {
    for (let attempt = 0; ; attempt++) {
      let failure: unknown
      try {
        return await call(attempt)
      } catch (error) {
        if (!(error instanceof HBaseError) || !error.retriable) throw error
        failure = error
      }
      await this.backOff(what, attempt, failure)
    }
  }

  /** Waits before the next attempt, or throws when that would come too late. */
  async backOff(what: string, attempt: number, cause: unknown): Promise<void> {
    const ms = backoffMs(attempt)
    if (ms >= this.remainingMs) throw this.error(what, cause)
    await new Promise((resolve) => { setTimeout(resolve, ms) })
  }
}

/** Doubles with each attempt, and spreads, so that many callers do not come back all at once. */
export function backoffMs(attempt: number, random = Math.random()): number {
  return Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** Math.min(attempt, 16)) * (0.5 + random / 2)
}
