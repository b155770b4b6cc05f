/** Items of archives in memory, in order of id. */

/** What one archive holds under an id; without bytes: that it holds nothing there (any more). */
export interface Item {
  readonly id: string
  readonly with: string
  readonly bytes: Buffer | undefined
}

/** Index of the first item whose id is not below `id`. */
export function positionOf(items: readonly Item[], id: string): number {
  let low = 0
  let high = items.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if ((items[middle] as Item).id < id) low = middle + 1
    else high = middle
  }
  return low
}

export function findItem(items: readonly Item[], id: string): Item | undefined {
  const item = items[positionOf(items, id)]
  return item?.id === id ? item : undefined
}

/** Adds an item, or puts it in the place of the one with its id. */
export function putItem(items: Item[], item: Item): void {
  const last = items.at(-1)
  if (!last || last.id < item.id) {
    items.push(item)
    return
  }
  const at = positionOf(items, item.id)
  items.splice(at, items[at]?.id === item.id ? 1 : 0, item)
}

/** Two lists as one; of two items with one id, that of `newer`. */
export function* mergeItems(older: readonly Item[], newer: readonly Item[]): Generator<Item, undefined> {
  let o = 0
  for (const item of newer) {
    while (o < older.length && (older[o] as Item).id < item.id) yield older[o++] as Item
    if (older[o]?.id === item.id) o++
    yield item
  }
  while (o < older.length) yield older[o++] as Item
  return undefined
}

/** The items of all owners that came in while the log wrote one segment. */
export class Tail {
  readonly #byOwner = new Map<string, Item[]>()
  readonly #removed = new Set<string>()

  put(owner: string, item: Item): void {
    if (!item.bytes) this.#removed.add(owner)
    const items = this.#byOwner.get(owner)
    if (items) putItem(items, item)
    else this.#byOwner.set(owner, [item])
  }

  remove(owner: string, id: string): void {
    const items = this.#byOwner.get(owner) ?? []
    const at = positionOf(items, id)
    if (items[at]?.id === id) items.splice(at, 1)
  }

  of(owner: string): readonly Item[] { return this.#byOwner.get(owner) ?? NONE }
  /** Whether removals may be among an owner's items. */
  hasRemoved(owner: string): boolean { return this.#removed.has(owner) }
  owners(): Iterable<string> { return this.#byOwner.keys() }
}

const NONE: readonly Item[] = []
