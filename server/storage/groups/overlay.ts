/** What one segment of the log has written, by key: it lies over what is older. */

export interface Entry {
  readonly key: string
  /** Undefined: removed. */
  value: Buffer | undefined
  /** The group that writes it last. */
  group: number
  /** Some group that is sealed has written it. */
  isLogged: boolean
  /** Nothing older has ever held its key. */
  readonly isNew: boolean
  /** Put and removed again, and no longer part of the overlay. */
  isGone: boolean
}

/** How many parts of a key name its bucket, by the key's first letter. */
const BUCKET_PARTS: Readonly<Record<string, number>> = { d: 1, o: 1, q: 1, r: 2 }

/** Entries in buckets by the beginnings of their keys, so that a range looks at few, and no map becomes so large that its growth holds up the process. */
export class Overlay {
  readonly #buckets = new Map<string, Map<string, Entry>>()

  get isEmpty(): boolean { return this.#buckets.size === 0 }

  get(key: string): Entry | undefined {
    return this.#buckets.size === 0 ? undefined : this.#buckets.get(bucketOf(key) ?? '')?.get(key)
  }

  add(entry: Entry): void {
    const name = bucketOf(entry.key) ?? ''
    const bucket = this.#buckets.get(name)
    if (bucket) bucket.set(entry.key, entry)
    else this.#buckets.set(name, new Map([[entry.key, entry]]))
  }

  remove(entry: Entry): void {
    const name = bucketOf(entry.key) ?? ''
    const bucket = this.#buckets.get(name)
    if (!bucket) return
    bucket.delete(entry.key)
    if (bucket.size === 0) this.#buckets.delete(name)
  }

  /** In no order. */
  *entries(): Generator<Entry, undefined> {
    for (const bucket of this.#buckets.values()) yield* bucket.values()
    return undefined
  }

  /** Adds to `found` the entries with keys from `start` (inclusive) to `end` (exclusive), in no order, but those that `above` has an entry for. */
  between(start: string, end: string, found: Entry[], above?: Overlay): void {
    if (this.#buckets.size === 0) return
    const name = bucketOf(start)
    if (name === undefined || !end.startsWith(name)) {
      for (const bucket of this.#buckets.values()) collect(bucket, start, end, found, above)
      return
    }
    const bucket = this.#buckets.get(name)
    if (bucket) collect(bucket, start, end, found, above)
  }
}

function collect(bucket: ReadonlyMap<string, Entry>, start: string, end: string, found: Entry[], above: Overlay | undefined): void {
  for (const entry of bucket.values()) if (entry.key >= start && entry.key < end && !above?.get(entry.key)) found.push(entry)
}

/** Undefined when a key, or the beginning of a range, has fewer parts. */
function bucketOf(key: string): string | undefined {
  let end = 1
  for (let parts = BUCKET_PARTS[key[0] as string] ?? 0; parts > 0; parts--) {
    end = key.indexOf('\0', end) + 1
    if (end === 0) return undefined
  }
  return key.slice(0, end)
}
