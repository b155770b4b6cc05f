/** The longest wait that is asked for at once, ms. */
const WAIT_MAX_MS = 10_000

/** How fast bytes may pass: bytes a second, and how many at once. */
export interface Rate {
  readonly rate: number
  readonly burst: number
}

/** A bucket of bytes, full at first, that fills at a rate. */
export class Bucket {
  #left = 0
  #at: number | undefined

  /** Takes bytes out, more than there are if need be, and answers how long to wait before the next, ms. `now`: ms. */
  take(bytes: number, { rate, burst }: Rate, now: number): number {
    const left = this.#at === undefined ? burst : Math.min(burst, this.#left + ((now - this.#at) / 1000) * rate)
    this.#left = left - bytes
    this.#at = now
    return this.#left >= 0 ? 0 : Math.min(WAIT_MAX_MS, (-this.#left / rate) * 1000)
  }
}
