/**
 * The archive: what has come lately in memory (the tail), in order of id for each owner, and the rest in blocks of an ordered
 * store. A driver that logs what happens here moves the tail into blocks now and then. What the tail says of an id goes over
 * what a block says; a removal is an item without bytes.
 */
import { Recent } from '../../../lib/recent.ts'
import { firstIdOf } from '../../../lib/stanza/ids.ts'
import { assertId } from '../ordered.ts'
import { type Archive, type ArchivedItem, type ArchiveEntry, type ArchivePage, type ArchiveQuery } from '../shapes.ts'
import { type BlockRow, type Blocks } from './blocks.ts'
import { findItem, type Item, mergeItems, positionOf, Tail } from './items.ts'
import { type Bounds, boundsOf, type Range } from './range.ts'

/** Items removed in one turn of the event loop. */
const CHUNK = 256
const COUNTS_MAX = 2000

/** Told about every change, in order. The changes may be done again (`redo…`), each any number of times, in the same order. */
export interface ArchiveLog {
  appended(entry: ArchiveEntry): void
  removed(owner: string, id: string): void
}

export class TailArchive implements Archive {
  readonly #blocks: Blocks | undefined
  readonly #log: ArchiveLog | undefined
  readonly #committed: () => Promise<void>
  #tail = new Tail()
  /** The tail that is being moved into blocks. */
  #old = new Tail()
  #isMoving = false
  /** What was counted in blocks, until they change: a client that pages through its archive has it counted for each page. */
  #counts = new Recent<number>(COUNTS_MAX)

  /** `committed` lets long removals wait for the store, so that they do not pile up in memory. Without blocks everything stays in the tail. */
  constructor(committed: () => Promise<void>, blocks?: Blocks, log?: ArchiveLog) {
    this.#committed = committed
    this.#blocks = blocks
    this.#log = log
  }

  append(entry: ArchiveEntry): void {
    assertId(entry.id)
    if (entry.owners.length === 0) return
    this.redoAppend(entry)
    this.#log?.appended(entry)
  }

  redoAppend({ id, owners, bytes }: ArchiveEntry): void {
    for (const { owner, with: other } of owners) this.#tail.put(owner, { id, with: other, bytes })
  }

  query(owner: string, query: ArchiveQuery): ArchivePage {
    const max = Math.max(0, Math.floor(query.max))
    const backward = query.direction === 'backward'
    const items: ArchivedItem[] = []
    if (query.ids) {
      const found = this.#chosen(owner, query)
      const complete = found.length <= max
      return { items: complete ? found : backward ? found.slice(found.length - max) : found.slice(0, max), complete }
    }
    let complete = true
    for (const item of this.#walk(owner, query.with, boundsOf(query), backward)) {
      complete = items.length < max
      if (!complete) break
      items.push(item)
    }
    if (backward) items.reverse()
    return { items, complete }
  }

  count(owner: string, query: Range, limit: number): number {
    if (query.ids) return Math.min(limit, this.#chosen(owner, query).length)
    const bounds = boundsOf(query)
    const older = spanOf(this.#old.of(owner), bounds)
    const newer = spanOf(this.#tail.of(owner), bounds)
    const lastStored = this.#blocks?.lastId(owner)
    // Nearly always each of the three begins where the one before it ends.
    if (!isAfter(older, lastStored) || !isAfter(newer, older.last ?? lastStored)) return this.#countMerged(owner, query.with, bounds, limit)
    let count = this.#countStored(owner, query.with, bounds, limit)
    for (const [span, tail] of [[older, this.#old], [newer, this.#tail]] as const) {
      if (query.with === undefined && !tail.hasRemoved(owner)) count += span.end - span.start
      else for (let at = span.start; at < span.end && count < limit; at++) if (matches(span.items[at], query.with)) count++
    }
    return Math.min(limit, count)
  }

  #countMerged(owner: string, other: string | undefined, bounds: Bounds, limit: number): number {
    const recent = [...mergeItems(within(this.#old.of(owner), bounds), within(this.#tail.of(owner), bounds))]
    let count = this.#countStored(owner, other, bounds, limit + recent.length)
    const lastStored = this.#blocks?.lastId(owner)
    let block: readonly Item[] = []
    for (const item of recent) {
      if (lastStored !== undefined && item.id <= lastStored) {
        if (block.length === 0 || item.id > (block.at(-1) as Item).id) block = this.#blocks?.around(owner, item.id) ?? []
        if (matches(findItem(block, item.id), other)) count--
      }
      if (matches(item, other)) count++
    }
    return Math.min(limit, count)
  }

  get(owner: string, id: string): ArchivedItem | undefined {
    const item = findItem(this.#tail.of(owner), id) ?? findItem(this.#old.of(owner), id) ?? findItem(this.#blocks?.around(owner, id) ?? [], id)
    return item && isPresent(item) ? item : undefined
  }

  bounds(owner: string): { first: string; last: string } | undefined {
    const [first] = this.query(owner, { max: 1, direction: 'forward' }).items
    if (first === undefined) return undefined
    const [last] = this.query(owner, { max: 1, direction: 'backward' }).items
    return last && { first: first.id, last: last.id }
  }

  replace(owner: string, id: string, bytes: Buffer): void {
    const item = this.get(owner, id)
    if (item) this.append({ id, bytes, owners: [{ owner, with: item.with }] })
  }

  delete(owner: string, id: string): void {
    if (!this.get(owner, id)) return
    this.redoRemove(owner, id)
    this.#log?.removed(owner, id)
  }

  redoRemove(owner: string, id: string): void {
    if (this.#blocks) this.#tail.put(owner, { id, with: '', bytes: undefined })
    else this.#tail.remove(owner, id)
  }

  async purge(owner: string, before?: number): Promise<void> {
    await this.#remove(owner, before === undefined ? undefined : firstIdOf(before))
  }

  async expire(before: number): Promise<number> {
    const high = firstIdOf(before)
    let removed = 0
    for (const owner of new Set([...this.#tail.owners(), ...this.#old.owners()])) removed += await this.#remove(owner, high)
    let looked = 0
    for (let next = this.#blocks?.nextOwner(undefined); next; next = this.#blocks?.nextOwner(next.owner)) {
      if (next.first < high) removed += await this.#remove(next.owner, high)
      if (++looked % CHUNK === 0) await this.#committed()
    }
    return removed
  }

  /** What has come so far is to be moved into blocks: see `rows`. */
  turnOver(): void {
    this.#old = this.#tail
    this.#tail = new Tail()
    this.#isMoving = true
  }

  /** The rows of the store that change so that the blocks hold what was in the tail; see `Blocks.merge`. May be asked for again. */
  *rows(): Generator<BlockRow | undefined, undefined> {
    if (!this.#blocks) return undefined
    for (const owner of this.#old.owners()) yield* this.#blocks.merge(owner, this.#old.of(owner))
    return undefined
  }

  /** The rows are in the store. */
  applied(): void {
    this.#old = new Tail()
    this.#isMoving = false
    this.#counts = new Recent(COUNTS_MAX)
  }

  /** Items of a range, in rising order of id or in falling. */
  *#walk(owner: string, other: string | undefined, bounds: Bounds, reverse: boolean): Generator<ArchivedItem, undefined> {
    const cursors: Cursor[] = [listCursor(this.#tail.of(owner), bounds, reverse), listCursor(this.#old.of(owner), bounds, reverse)]
    if (this.#blocks) cursors.push(blockCursor(this.#blocks, owner, other, bounds, reverse))
    for (;;) {
      let best: Item | undefined
      for (const { item } of cursors) if (item && (!best || (reverse ? item.id > best.id : item.id < best.id))) best = item
      if (!best) return undefined
      for (const cursor of cursors) if (cursor.item?.id === best.id) cursor.advance()
      if (isPresent(best) && (other === undefined || best.with === other)) yield best
    }
  }

  /** The items asked for by id that the range holds, in order of time. */
  #chosen(owner: string, query: Range): ArchivedItem[] {
    const { low, high } = boundsOf(query)
    const found: ArchivedItem[] = []
    for (const id of [...new Set(query.ids)].sort()) {
      if (id < low || high !== undefined && id >= high) continue
      const item = this.get(owner, id)
      if (item && (query.with === undefined || item.with === query.with)) found.push(item)
    }
    return found
  }

  #countStored(owner: string, other: string | undefined, bounds: Bounds, limit: number): number {
    let count = 0
    if (!this.#blocks) return count
    const key = JSON.stringify([owner, other, bounds, limit])
    const known = this.#isMoving ? undefined : this.#counts.get(key)
    if (known !== undefined) return known
    for (const first of this.#blocks.firsts(owner, other, bounds.low, bounds.high, false)) {
      const summary = this.#blocks.summary(owner, other, first)
      if (!summary) continue
      if (first >= bounds.low && (bounds.high === undefined || summary.last < bounds.high)) count += summary.count
      else for (const item of within(this.#blocks.read(owner, first), bounds)) if (other === undefined || item.with === other) count++
      if (count >= limit) break
    }
    if (!this.#isMoving) this.#counts.set(key, count)
    return count
  }

  /** Removes an owner's items with ids below `high`, or all, some at each step; what is appended meanwhile may be among them. Answers how many. */
  *removal(owner: string, high: string | undefined): Generator<undefined, number> {
    let removed = 0
    for (let low = ''; ;) {
      const ids: string[] = []
      for (const item of this.#walk(owner, undefined, { low, high }, false)) if (ids.push(item.id) === CHUNK) break
      for (const id of ids) {
        this.redoRemove(owner, id)
        this.#log?.removed(owner, id)
      }
      removed += ids.length
      if (ids.length < CHUNK) return removed
      low = `${ids.at(-1) as string}\0`
      yield undefined
    }
  }

  async #remove(owner: string, high: string | undefined): Promise<number> {
    const removal = this.removal(owner, high)
    for (;;) {
      const step = removal.next()
      if (step.done) return step.value
      await this.#committed()
    }
  }
}

/** The items of a list that a range holds. */
interface Span {
  readonly items: readonly Item[]
  readonly start: number
  readonly end: number
  readonly first: string | undefined
  readonly last: string | undefined
}

function spanOf(items: readonly Item[], { low, high }: Bounds): Span {
  const start = positionOf(items, low)
  const end = Math.max(start, high === undefined ? items.length : positionOf(items, high))
  return { items, start, end, ...(end > start ? { first: items[start]?.id, last: items[end - 1]?.id } : { first: undefined, last: undefined }) }
}

function isAfter({ first }: Span, last: string | undefined): boolean {
  return first === undefined || last === undefined || first > last
}

function matches(item: Item | undefined, other: string | undefined): boolean {
  return item?.bytes !== undefined && (other === undefined || item.with === other)
}

function isPresent(item: Item): item is Item & { readonly bytes: Buffer } {
  return item.bytes !== undefined
}

function within(items: readonly Item[], { low, high }: Bounds): readonly Item[] {
  return items.slice(positionOf(items, low), high === undefined ? undefined : positionOf(items, high))
}

/** A place in a source of items. */
interface Cursor {
  readonly item: Item | undefined
  advance(): void
}

function listCursor(items: readonly Item[], { low, high }: Bounds, reverse: boolean): Cursor {
  const start = positionOf(items, low)
  const end = high === undefined ? items.length : positionOf(items, high)
  let at = reverse ? end - 1 : start
  return {
    get item() { return at >= start && at < end ? items[at] : undefined },
    advance() { at += reverse ? -1 : 1 },
  }
}

function blockCursor(blocks: Blocks, owner: string, other: string | undefined, bounds: Bounds, reverse: boolean): Cursor {
  const firsts = blocks.firsts(owner, other, bounds.low, bounds.high, reverse)
  let list = listCursor([], bounds, reverse)
  const cursor = {
    item: undefined as Item | undefined,
    advance(): void {
      list.advance()
      this.settle()
    },
    settle(): void {
      for (;;) {
        this.item = list.item
        if (this.item && (other === undefined || this.item.with === other)) return
        if (this.item) list.advance()
        else {
          const first = firsts.next()
          if (first.done) return
          list = listCursor(blocks.read(owner, first.value), bounds, reverse)
        }
      }
    },
  }
  cursor.settle()
  return cursor
}
