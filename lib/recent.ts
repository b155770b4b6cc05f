/**
 * A map of what was asked for lately. It keeps two generations: what was not asked for while the young one filled up is forgotten,
 * so that an entry in use costs one look-up and no change.
 */
export class Recent<Value> {
  readonly #generationMax: number
  #young = new Map<string, Value>()
  #old = new Map<string, Value>()

  /** Keeps at most `max` entries, at least half of which were asked for since the others. */
  constructor(max: number) {
    this.#generationMax = Math.max(1, max >> 1)
  }

  get(key: string): Value | undefined {
    const value = this.#young.get(key)
    if (value !== undefined) return value
    const before = this.#old.get(key)
    if (before !== undefined) this.set(key, before)
    return before
  }

  set(key: string, value: Value): void {
    if (this.#young.size >= this.#generationMax && !this.#young.has(key)) {
      this.#old = this.#young
      this.#young = new Map()
    }
    this.#young.set(key, value)
  }

  delete(key: string): void {
    this.#young.delete(key)
    this.#old.delete(key)
  }

  /** Those that were used last first, by and large. */
  *entries(): Generator<[string, Value]> {
    yield* this.#young
    for (const entry of this.#old) if (!this.#young.has(entry[0])) yield entry
  }

  deleteWhere(test: (key: string) => boolean): void {
    for (const generation of [this.#young, this.#old]) for (const key of generation.keys()) if (test(key)) generation.delete(key)
  }
}
