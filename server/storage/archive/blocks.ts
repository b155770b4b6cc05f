/**
 * Archives in an ordered store, as blocks of items that follow each other in one archive:
 *
 *     b owner 0 first id        -> the items of a block, whose first has this id
 *     c owner 0 with 0 first id -> how many of a block's items are of one conversation, and the last one's id
 *     c owner 0 0 first id      -> the same of all its items
 *
 * A page of history is a block or two, and an archive that grows is written a block at a time.
 */
import { decodePart, encodePart, KEY_END, type OrderedStore } from '../ordered.ts'
import { type Item, mergeItems, positionOf } from './items.ts'

/** A block is ended when it has so many bytes. */
const BLOCK_BYTES = 16 * 1024
/** The last block of an archive takes more items while it is smaller than this; a large one is not written again for a few. */
const GROWING_BYTES = 8 * 1024
/** Bytes of an item beside its texts: three lengths. */
const ITEM_BYTES = 8

export interface BlockRow {
  readonly key: string
  readonly value: Buffer | undefined
}

/** What is known of a block's items, or those of one conversation, without reading it. */
export interface BlockSummary {
  readonly first: string
  readonly count: number
  readonly last: string
}

function blockKey(owner: string, first: string): string {
  return `b${encodePart(owner)}${encodePart(first)}`
}

function summaryPrefix(owner: string, other: string | undefined): string {
  return `c${encodePart(owner)}${encodePart(other ?? '')}`
}

function encodeBlock(owner: string, items: readonly Item[]): Buffer {
  let size = 2 + Buffer.byteLength(owner)
  for (const { id, with: other, bytes } of items) size += ITEM_BYTES + Buffer.byteLength(id) + Buffer.byteLength(other) + (bytes?.length ?? 0)
  const block = Buffer.allocUnsafe(size)
  let at = 0
  const text = (value: string): void => {
    const length = block.write(value, at + 2, 'utf8')
    at = block.writeUInt16BE(length, at) + length
  }
  text(owner)
  for (const { id, with: other, bytes } of items) {
    text(id)
    text(other)
    at = block.writeUInt32BE(bytes?.length ?? 0, at)
    if (bytes) block.set(bytes, at)
    at += bytes?.length ?? 0
  }
  return block
}

function decodeBlock(block: Buffer): { readonly owner: string; readonly items: Item[] } {
  let at = 0
  const text = (): string => {
    const start = at + 2
    at = start + block.readUInt16BE(at)
    return block.toString('utf8', start, at)
  }
  const owner = text()
  const items: Item[] = []
  while (at < block.length) {
    const id = text()
    const other = text()
    const start = at + 4
    at = start + block.readUInt32BE(at)
    items.push({ id, with: other, bytes: block.subarray(start, at) })
  }
  return { owner, items }
}

function encodeSummary(count: number, last: string): Buffer {
  const row = Buffer.allocUnsafe(4 + Buffer.byteLength(last))
  row.write(last, row.writeUInt32BE(count, 0), 'utf8')
  return row
}

export class Blocks {
  readonly #store: OrderedStore

  constructor(store: OrderedStore) { this.#store = store }

  /** The items of the block that begins with this id. */
  read(owner: string, first: string): readonly Item[] {
    const block = this.#store.get(blockKey(owner, first))
    return block ? decodeBlock(block).items : []
  }

  /** First ids of the blocks that may hold items from `low` (inclusive) to `high` (exclusive), in rising order or in falling. */
  *firsts(owner: string, other: string | undefined, low: string, high: string | undefined, reverse: boolean): Generator<string, undefined> {
    const prefix = summaryPrefix(owner, other)
    let start = low === '' ? prefix : this.#firstAtOrBefore(prefix, low) ?? prefix
    let end = prefix + (high === undefined ? KEY_END : encodePart(high))
    // Few at first: one page is seldom more than two blocks, when these are full.
    for (let limit = 4; ; limit = Math.min(limit * 2, 256)) {
      const keys = this.#store.keys(start, end, limit, reverse)
      for (const key of keys) yield decodePart(key.slice(prefix.length, -1))
      if (keys.length < limit) return undefined
      const last = keys.at(-1) as string
      if (reverse) end = last
      else start = `${last}\0`
    }
  }

  /** What is known of one block, or of those of its items that are with `other`. */
  summary(owner: string, other: string | undefined, first: string): BlockSummary | undefined {
    const row = this.#store.get(`${summaryPrefix(owner, other)}${encodePart(first)}`)
    return row && { first, count: row.readUInt32BE(0), last: row.toString('utf8', 4) }
  }

  /** The block that holds an id when any does. */
  around(owner: string, id: string): readonly Item[] {
    const prefix = summaryPrefix(owner, undefined)
    const key = this.#firstAtOrBefore(prefix, id)
    return key === undefined ? [] : this.read(owner, decodePart(key.slice(prefix.length, -1)))
  }

  /** Id of the last item of an archive. */
  lastId(owner: string): string | undefined {
    const prefix = summaryPrefix(owner, undefined)
    const key = this.#store.keys(prefix, prefix + KEY_END, 1, true)[0]
    return key === undefined ? undefined : this.#store.get(key)?.toString('utf8', 4)
  }

  /** Whose archive comes after this one's in the store, and the first id in it. */
  nextOwner(owner: string | undefined): { readonly owner: string; readonly first: string } | undefined {
    const start = owner === undefined ? 'b' : `b${encodePart(owner)}${KEY_END}`
    const key = this.#store.keys(start, `b${KEY_END}`, 1, false)[0]
    const block = key === undefined ? undefined : this.#store.get(key)
    if (!block) return undefined
    const found = decodeBlock(block)
    return { owner: found.owner, first: (found.items[0] as Item).id }
  }

  /**
   * The rows that change when these items (in order, some perhaps removed) come to an archive. Those up to an `undefined`
   * belong together: a store that has some of them has lost items, or shows them twice.
   */
  *merge(owner: string, items: readonly Item[]): Generator<BlockRow | undefined, undefined> {
    const prefix = summaryPrefix(owner, undefined)
    const keys = this.#store.keys(prefix, prefix + KEY_END, 1, true)
    const firstOf = (key: string): string => decodePart(key.slice(prefix.length, -1))
    let at = 0
    while (at < items.length) {
      const id = (items[at] as Item).id
      // Nearly always it is the last block.
      let key = keys[0]
      let next: string | undefined
      if (key !== undefined && firstOf(key) > id) {
        key = this.#firstAtOrBefore(prefix, id) ?? this.#store.keys(prefix, prefix + KEY_END, 1, false)[0]
        next = key === undefined ? undefined : this.#store.keys(`${key}\0`, prefix + KEY_END, 1, false)[0]
      }
      const end = next === undefined ? items.length : positionOf(items, firstOf(next))
      yield* this.#mergeInto(owner, key === undefined ? undefined : firstOf(key), next === undefined, at === 0 && end === items.length ? items : items.slice(at, end))
      at = end
    }
    return undefined
  }

  *#mergeInto(owner: string, first: string | undefined, isLast: boolean, items: readonly Item[]): Generator<BlockRow | undefined, undefined> {
    const row = first === undefined ? undefined : this.#store.get(blockKey(owner, first))
    let before = row ? decodeBlock(row).items : []
    if (row && row.length >= GROWING_BYTES && isLast && (before.at(-1) as Item).id < (items[0] as Item).id) before = []
    const lastBefore = before.at(-1)?.id
    const old = new Set(first === undefined || lastBefore === undefined ? [] : [blockKey(owner, first), ...summariesOf(owner, first, before).keys()])
    for (const block of split(before.length === 0 ? items : mergeItems(before, items))) {
      const start = (block[0] as Item).id
      yield { key: blockKey(owner, start), value: encodeBlock(owner, block) }
      old.delete(blockKey(owner, start))
      for (const [key, value] of summariesOf(owner, start, block)) {
        yield { key, value }
        old.delete(key)
      }
      // Until all items of the old block are in others it must stay.
      if (lastBefore !== undefined && (block.at(-1) as Item).id < lastBefore) continue
      yield* removals(old)
      yield undefined
    }
    yield* removals(old)
    yield undefined
    return undefined
  }

  #firstAtOrBefore(prefix: string, id: string): string | undefined {
    return this.#store.keys(prefix, `${prefix}${encodePart(id)}\0`, 1, true)[0]
  }
}

function summariesOf(owner: string, first: string, items: readonly Item[]): Map<string, Buffer> {
  const counts = new Map<string, { count: number; last: string }>()
  for (const { id, with: other } of items) {
    const known = counts.get(other)
    if (known === undefined) counts.set(other, { count: 1, last: id })
    else {
      known.count++
      known.last = id
    }
  }
  // The empty address stands for all of them.
  if (items.length > 0) counts.set('', { count: items.length, last: (items.at(-1) as Item).id })
  const rows = new Map<string, Buffer>()
  for (const [other, { count, last }] of counts) rows.set(`${summaryPrefix(owner, other)}${encodePart(first)}`, encodeSummary(count, last))
  return rows
}

/** Removes what the set holds. */
function* removals(keys: Set<string>): Generator<BlockRow, undefined> {
  for (const key of keys) yield { key, value: undefined }
  keys.clear()
  return undefined
}

/** Items as blocks, without those that are removed. */
function* split(items: Iterable<Item>): Generator<Item[], undefined> {
  let block: Item[] = []
  let bytes = 0
  for (const item of items) {
    if (!item.bytes) continue
    const size = ITEM_BYTES + item.id.length + item.with.length + item.bytes.length
    if (block.length > 0 && bytes + size > BLOCK_BYTES) {
      yield block
      block = []
      bytes = 0
    }
    block.push(item)
    bytes += size
  }
  if (block.length > 0) yield block
  return undefined
}
