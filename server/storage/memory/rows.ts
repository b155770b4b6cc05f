/** A map of rows with its keys in order beside it. */
import { type OrderedStore } from '../ordered.ts'

export class SortedRows implements OrderedStore {
  readonly #rows = new Map<string, Buffer>()
  readonly #keys: string[] = []

  get size(): number { return this.#rows.size }

  get(key: string): Buffer | undefined { return this.#rows.get(key) }
  has(key: string): boolean { return this.#rows.has(key) }

  put(key: string, value: Buffer): void {
    if (!this.#rows.has(key)) {
      if (this.#keys.length === 0 || (this.#keys.at(-1) as string) < key) this.#keys.push(key)
      else this.#keys.splice(this.#position(key), 0, key)
    }
    this.#rows.set(key, value)
  }

  putNew(key: string, value: Buffer): void { this.put(key, value) }

  delete(key: string): void {
    if (this.#rows.delete(key)) this.#keys.splice(this.#position(key), 1)
  }

  keys(start: string, end: string, limit: number, reverse: boolean): string[] {
    const from = this.#position(start)
    const to = this.#position(end)
    if (from >= to) return []
    return reverse ? this.#keys.slice(Math.max(from, to - limit), to).reverse() : this.#keys.slice(from, Math.min(to, from + limit))
  }

  count(start: string, end: string, limit: number): number {
    return Math.min(limit, Math.max(0, this.#position(end) - this.#position(start)))
  }

  /** In no order. */
  entries(): Iterable<[string, Buffer]> { return this.#rows.entries() }

  /** Index of the first key that is not below `key`. */
  #position(key: string): number {
    let low = 0
    let high = this.#keys.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((this.#keys[middle] as string) < key) low = middle + 1
      else high = middle
    }
    return low
  }
}
