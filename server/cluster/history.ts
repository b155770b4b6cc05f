/**
 * The archive of a node's units. What is new is in memory (the tail) until the history's store has it; the rest is asked of that store. Each change is
 * a section of the log first, goes to the queue after its commit, and its segment of the log is kept until the queue has it. What the tail
 * says of an id goes over what the store says.
 */
import { firstIdOf } from '../../lib/stanza/ids.ts'
import { type Item, positionOf, putItem } from '../storage/archive/items.ts'
import { type Bounds, boundsOf, type Range } from '../storage/archive/range.ts'
import { StorageError } from '../storage/errors.ts'
import { FIRST_SECTION, type GroupedStore, type Participant } from '../storage/groups/groups.ts'
import { RecordReader, RecordWriter } from '../storage/groups/record.ts'
import { assertId } from '../storage/ordered.ts'
import { type Archive, type ArchivedItem, type ArchiveEntry, type ArchivePage, type ArchiveQuery } from '../storage/shapes.ts'
import { type HistoryEntry, type HistoryProgress, type HistoryQueue, type HistoryStore, type QueuePlace } from './shapes.ts'
import { nextVersion } from './versions.ts'

/** The log's sections of history. */
export const HISTORY_SECTION = FIRST_SECTION + 1
const PUT = 1
const REMOVE = 2
const PURGE = 3
const PURGE_ALL = 4

const PROGRESS_MS = 500
const RETRY_MS = 1000
/** Ids asked of the store at once. */
const IDS_AT_ONCE = 500
const COUNT_TRIES = 4
/** So long `expire` waits for the store to have what is to be removed, ms. */
const EXPIRE_WAIT_MS = 60_000

/** A change on its way to the history's store. */
interface Underway {
  readonly entry: HistoryEntry
  place: QueuePlace | undefined
  isCommitted: boolean
  /** What it takes from sight, and what must not be forgotten before it is committed. */
  hidden: readonly Underway[]
}

/** What the tail has under an id; without bytes it was removed. */
interface TailItem extends Item { readonly underway: Underway }

interface Tail {
  readonly owner: string
  readonly items: Item[]
  purges: Underway[]
}

export interface HistoryParts {
  readonly store: GroupedStore
  readonly history: HistoryStore
  readonly queue: HistoryQueue
  readonly progress?: Pick<HistoryProgress, 'read'>
  /** Throws when the owner is not here, otherwise notes that it is used. */
  use(owner: string): void
  /** Whether the owner is here and not being given up. */
  isHere(owner: string): boolean
  onError(error: unknown): void
}

export class UnitHistory implements Archive, Participant {
  readonly section = HISTORY_SECTION
  readonly #parts: HistoryParts
  readonly #tails = new Map<string, Tail>()
  /** Written since their tails were. */
  readonly #changed = new Set<string>()
  #writing = new Map<string, Buffer | undefined>()
  /** Owners that have a tail in their places. */
  readonly #written = new Set<string>()
  /** Of the open group. */
  #group: Underway[] | undefined
  readonly #pushes = new Set<Promise<void>>()
  /** By partition, in order of offset: what the store may not have yet. */
  readonly #placed = new Map<number, Underway[]>()
  #bytes = 0
  #timer: NodeJS.Timeout | undefined
  #isClosed = false
  readonly #waiting = new Set<() => void>()

  constructor(parts: HistoryParts) {
    this.#parts = parts
    if (parts.progress) this.#timer = setInterval(() => { void this.checkProgress() }, PROGRESS_MS).unref()
  }

  /** Bytes in memory that the history's store may not have yet. */
  get tailBytes(): number { return this.#bytes }

  append({ id, bytes, owners }: ArchiveEntry): void {
    assertId(id)
    for (const { owner } of owners) this.#parts.use(owner)
    for (const { owner, with: other } of owners) this.#change({ owner, id, with: other, bytes, version: nextVersion() })
  }

  query(owner: string, query: ArchiveQuery): ArchivePage | Promise<ArchivePage> {
    this.#parts.use(owner)
    const max = Math.max(0, Math.floor(query.max))
    const view = this.#view(owner)
    if (isEmpty(query)) return { items: [], complete: true }
    return query.ids ? this.#queryIds(view, { ...query, max }) : this.#queryRange(view, { ...query, max })
  }

  async count(owner: string, query: Range, limit: number): Promise<number> {
    this.#parts.use(owner)
    const view = this.#view(owner)
    if (isEmpty(query)) return 0
    if (query.ids) return Math.min(limit, (await this.#queryIds(view, { ...query, max: Infinity, direction: 'forward' })).items.length)
    const recent = view.items.filter((item) => isWithin(item.id, boundsOf(query)))
    const added = recent.filter((item) => item.bytes && isWith(item, query.with)).length
    if (view.isCovered(query)) return Math.min(limit, added)
    const range = view.below(query)
    const ids = recent.map((item) => item.id)
    // Of the tail the store may have anything at any moment: what it has is asked before and after it has counted.
    let known = await this.#stored(owner, range, ids)
    for (let tries = 0; ; tries++) {
      const counted = await this.#parts.history.count(owner, range, limit + known.size)
      const now = ids.length === 0 ? known : await this.#stored(owner, range, ids)
      if (now.size === known.size || tries === COUNT_TRIES) return Math.min(limit, counted - now.size + added)
      known = now
    }
  }

  get(owner: string, id: string): ArchivedItem | undefined | Promise<ArchivedItem | undefined> {
    this.#parts.use(owner)
    const view = this.#view(owner)
    const known = view.get(id)
    if (known) return known.bytes && { id, with: known.with, bytes: known.bytes }
    if (view.isHidden(id)) return undefined
    return this.#parts.history.get(owner, id)
  }

  async bounds(owner: string): Promise<{ first: string; last: string } | undefined> {
    const [forward, backward] = await Promise.all([this.query(owner, { max: 1, direction: 'forward' }), this.query(owner, { max: 1, direction: 'backward' })])
    const [first] = forward.items
    const [last] = backward.items
    return first && last && { first: first.id, last: last.id }
  }

  replace(owner: string, id: string, bytes: Buffer): void | Promise<void> {
    const found = this.get(owner, id)
    const write = (item: ArchivedItem | undefined): void => {
      if (item) this.append({ id, bytes, owners: [{ owner, with: item.with }] })
    }
    if (!(found instanceof Promise)) return write(found)
    // What has changed meanwhile counts.
    return found.then((item) => { write(this.#tails.get(owner) ? asKnown(this.#view(owner), id, item) : item) })
  }

  delete(owner: string, id: string): void {
    this.#parts.use(owner)
    assertId(id)
    this.#change({ owner, id, with: '', bytes: undefined, version: nextVersion() })
  }

  purge(owner: string, before?: number): void {
    this.#parts.use(owner)
    this.#change({ owner, purge: true, before, version: nextVersion() })
  }

  /** Everybody's, whoever the home is; of this node's units also what the store does not have yet. */
  async expire(before: number): Promise<number> {
    const high = firstIdOf(before)
    const isDue = (): boolean => [...this.#tails.values()].some(({ items, purges }) => purges.length > 0 || items.length > 0 && (items[0] as Item).id < high)
    const deadline = performance.now() + EXPIRE_WAIT_MS
    while (isDue()) {
      if (this.#isClosed || performance.now() > deadline) throw new StorageError('the history to be removed is not in its store yet')
      await this.checkProgress()
      if (isDue()) await new Promise((resolve) => { setTimeout(resolve, 2) })
    }
    return await this.#parts.history.expire(before)
  }

  // As a part of the log.

  seal(): void { this.#group = undefined }

  turnOver(): void {}

  rows(): Iterable<undefined> { return [] }

  applied(): void {}

  replay(): void { throw new Error('a node begins with an empty log') }

  settled(): Promise<void> {
    return new Promise((resolve, reject) => {
      const stop = (): void => { reject(new Error('the storage is closing')) }
      if (this.#isClosed) return stop()
      this.#waiting.add(stop)
      void Promise.all(this.#pushes).then(() => {
        this.#waiting.delete(stop)
        resolve()
      })
    })
  }

  /** The tails that have changed since they were written, packed; what is not committed is not in them. */
  changedTails(): ReadonlyMap<string, Buffer | undefined> {
    for (const owner of this.#changed) {
      if (!this.#parts.isHere(owner)) continue
      const packed = this.packedTail(owner)
      if (packed || this.#written.has(owner)) this.#writing.set(owner, packed)
    }
    this.#changed.clear()
    return this.#writing
  }

  /** They are written; when that failed they are asked for again. */
  tailsWritten(): void {
    for (const [owner, packed] of this.#writing) {
      if (packed) this.#written.add(owner)
      else this.#written.delete(owner)
    }
    this.#writing = new Map()
  }

  packedTail(owner: string): Buffer | undefined {
    const tail = this.#tails.get(owner)
    if (!tail) return undefined
    const underway = [...committed(tail.purges), ...committed(tail.items.map((item) => (item as TailItem).underway))]
    return underway.length === 0 ? undefined : packTail(underway)
  }

  /** Whether everything of the owner's tail is in the queue. */
  isQueued(owner: string): boolean {
    const tail = this.#tails.get(owner)
    return !tail || tail.purges.every(hasPlace) && tail.items.every((item) => hasPlace((item as TailItem).underway))
  }

  isTailWritten(owner: string): boolean { return !this.#changed.has(owner) && !this.#writing.has(owner) }

  /** A unit has come with its tail. What the queue may not have goes there again. */
  restore(owner: string, packed: Buffer | undefined): void {
    if (!packed) return
    this.#written.add(owner)
    const again: Underway[] = []
    for (const { entry, place } of unpackTail(packed)) {
      const underway: Underway = { entry, place, isCommitted: true, hidden: [] }
      this.#put(underway)
      if (place) this.#place(underway)
      else again.push(underway)
    }
    if (again.length > 0) this.#push(again)
  }

  forget(owner: string): void {
    this.#changed.delete(owner)
    this.#writing.delete(owner)
    this.#written.delete(owner)
    const tail = this.#tails.get(owner)
    if (!tail) return
    this.#tails.delete(owner)
    for (const item of tail.items) this.#bytes -= sizeOf(item)
  }

  /** Forgets what the history's store has. */
  async checkProgress(): Promise<void> {
    if (!this.#parts.progress) return
    try {
      const progress = await this.#parts.progress.read()
      for (const [partition, offset] of progress) {
        const placed = this.#placed.get(partition)
        if (!placed) continue
        let stored = 0
        for (let first = placed[0]; first && offsetOf(first) < offset; first = placed[++stored]) this.#done(first)
        placed.splice(0, stored)
      }
    } catch (error) {
      this.#parts.onError(error)
    }
  }

  close(): void {
    clearInterval(this.#timer)
    this.#isClosed = true
    for (const stop of this.#waiting) stop()
  }

  #change(entry: HistoryEntry): void {
    const underway: Underway = { entry, place: undefined, isCommitted: false, hidden: [] }
    this.#put(underway)
    if (!this.#group) {
      const group: Underway[] = []
      this.#group = group
      this.#parts.store.afterCommit(() => { this.#push(group) })
    }
    this.#group.push(underway)
    this.#parts.store.section(this, (writer) => { packEntry(writer, entry) })
  }

  #put(underway: Underway): void {
    const { entry } = underway
    let tail = this.#tails.get(entry.owner)
    if (!tail) this.#tails.set(entry.owner, tail = { owner: entry.owner, items: [], purges: [] })
    if ('purge' in entry) {
      const high = entry.before === undefined ? undefined : firstIdOf(entry.before)
      const gone = tail.items.splice(0, high === undefined ? tail.items.length : positionOf(tail.items, high))
      for (const item of gone) this.#bytes -= sizeOf(item)
      underway.hidden = gone.map((item) => (item as TailItem).underway)
      tail.purges.push(underway)
      return
    }
    const at = positionOf(tail.items, entry.id)
    const before = tail.items[at]
    if (before?.id === entry.id) {
      this.#bytes -= sizeOf(before)
      underway.hidden = [(before as TailItem).underway]
    }
    const item: TailItem = { id: entry.id, with: entry.with, bytes: entry.bytes, underway }
    this.#bytes += sizeOf(item)
    putItem(tail.items, item)
  }

  #push(underway: readonly Underway[]): void {
    for (const one of underway) {
      one.isCommitted = true
      one.hidden = []
      this.#changed.add(one.entry.owner)
    }
    const pushing = this.#pushNow(underway).finally(() => { this.#pushes.delete(pushing) })
    this.#pushes.add(pushing)
  }

  async #pushNow(underway: readonly Underway[]): Promise<void> {
    const entries = underway.map((one) => one.entry)
    for (;;) {
      try {
        const places = await this.#parts.queue.push(entries)
        underway.forEach((one, i) => {
          one.place = places[i]
          if (one.place) {
            this.#place(one)
            this.#changed.add(one.entry.owner)
          } else this.#done(one)
        })
        return
      } catch (error) {
        if (this.#isClosed) return
        this.#parts.onError(error)
        await new Promise((resolve) => { setTimeout(resolve, RETRY_MS).unref() })
        if (this.#isClosed) return
      }
    }
  }

  #place(underway: Underway): void {
    const { partition } = underway.place as QueuePlace
    let placed = this.#placed.get(partition)
    if (!placed) this.#placed.set(partition, placed = [])
    let at = placed.length
    while (at > 0 && offsetOf(placed[at - 1]) > offsetOf(underway)) at--
    if (at === placed.length) placed.push(underway)
    else placed.splice(at, 0, underway)
  }

  /** The history's store has it. */
  #done(underway: Underway): void {
    const { entry } = underway
    const tail = this.#tails.get(entry.owner)
    if (!tail) return
    if ('purge' in entry) tail.purges = tail.purges.filter((one) => one !== underway)
    else {
      const at = positionOf(tail.items, entry.id)
      const item = tail.items[at] as TailItem | undefined
      if (item?.underway === underway) {
        tail.items.splice(at, 1)
        this.#bytes -= sizeOf(item)
      }
    }
    this.#changed.add(entry.owner)
    if (tail.items.length === 0 && tail.purges.length === 0) this.#tails.delete(entry.owner)
  }

  #view(owner: string): View { return new View(owner, this.#tails.get(owner)) }

  async #queryIds(view: View, query: ArchiveQuery): Promise<ArchivePage> {
    const bounds = boundsOf(query)
    const asked = [...new Set(query.ids)].filter((id) => isWithin(id, bounds)).sort()
    const stored = view.isCovered(query) ? new Map<string, ArchivedItem>() : await this.#stored(view.owner, view.below(query), asked.filter((id) => !view.get(id)))
    const found: ArchivedItem[] = []
    for (const id of asked) {
      const item = view.get(id) ?? stored.get(id)
      if (item?.bytes && isWith(item, query.with)) found.push({ id, with: item.with, bytes: item.bytes })
    }
    return pageOf(found, query)
  }

  /** Those of the ids that the store has, in a range. */
  async #stored(owner: string, range: Range, ids: readonly string[]): Promise<Map<string, ArchivedItem>> {
    const found = new Map<string, ArchivedItem>()
    for (let at = 0; at < ids.length; at += IDS_AT_ONCE) {
      const some = ids.slice(at, at + IDS_AT_ONCE)
      const { items } = await this.#parts.history.query(owner, { ...range, ids: some, max: some.length, direction: 'forward' })
      for (const item of items) found.set(item.id, item)
    }
    return found
  }

  #queryRange(view: View, query: ArchiveQuery): ArchivePage | Promise<ArchivePage> {
    const bounds = boundsOf(query)
    const recent = view.items.filter((item) => isWithin(item.id, bounds))
    return view.isCovered(query) ? pageOf(merge(recent, [], query.with), query) : this.#queryStore(view, recent, query)
  }

  /** Asks the store for as much as makes the page full beside the tail. */
  async #queryStore(view: View, recent: readonly Item[], query: ArchiveQuery): Promise<ArchivePage> {
    const backward = query.direction === 'backward'
    let range = view.below(query)
    const stored: ArchivedItem[] = []
    for (;;) {
      const page = await this.#parts.history.query(view.owner, { ...range, max: query.max + 1, direction: query.direction })
      for (const item of page.items) if (!view.isHidden(item.id)) stored.push(item)
      const edge = backward ? page.items[0] : page.items.at(-1)
      const merged = merge(recent, stored, query.with)
      // One more than the page has says that there are more, unless what the store has beyond what it told comes before it.
      const next = merged[backward ? merged.length - 1 - query.max : query.max]
      if (page.complete || !edge || next && (backward ? next.id >= edge.id : next.id <= edge.id)) return pageOf(merged, query)
      range = backward ? { ...range, beforeId: edge.id } : { ...range, afterId: edge.id }
    }
  }
}

/** An owner's tail as it stands. */
class View {
  readonly owner: string
  readonly items: readonly Item[]
  /** What the store has from before this time (ms) is to be removed there. */
  readonly #floorMs: number
  readonly #floor: string

  constructor(owner: string, tail: Tail | undefined) {
    this.owner = owner
    this.items = tail ? [...tail.items] : []
    let floorMs = 0
    for (const { entry } of tail?.purges ?? []) if ('purge' in entry) floorMs = Math.max(floorMs, entry.before ?? Infinity)
    this.#floorMs = floorMs
    this.#floor = floorMs === Infinity ? ABOVE_IDS : floorMs > 0 ? firstIdOf(floorMs) : ''
  }

  get(id: string): Item | undefined {
    const item = this.items[positionOf(this.items, id)]
    return item?.id === id ? item : undefined
  }

  /** Whether what the store has under this id is to be removed there. */
  isHidden(id: string): boolean { return id < this.#floor }

  /** Whether nothing of the range in the store counts. */
  isCovered(range: Range): boolean {
    const { high } = boundsOf(range)
    return this.#floorMs === Infinity || high !== undefined && high <= this.#floor
  }

  /** The range as the store is asked for it: without what is to be removed there. */
  below({ with: other, start, end, afterId, beforeId }: Range): Range {
    const low = this.#floorMs > (start ?? 0) ? this.#floorMs : start
    return {
      ...(other === undefined ? {} : { with: other }), ...(low === undefined ? {} : { start: low }), ...(end === undefined ? {} : { end }),
      ...(afterId === undefined ? {} : { afterId }), ...(beforeId === undefined ? {} : { beforeId }),
    }
  }
}

const ABOVE_IDS = '\x7f'

/** What tail and store have together, in order; the tail is right where both have something. */
function merge(recent: readonly Item[], stored: readonly ArchivedItem[], other: string | undefined): ArchivedItem[] {
  const byId = new Map<string, Item>()
  for (const item of stored) byId.set(item.id, item)
  for (const item of recent) byId.set(item.id, item)
  const found: ArchivedItem[] = []
  for (const item of byId.values()) if (item.bytes && isWith(item, other)) found.push({ id: item.id, with: item.with, bytes: item.bytes })
  return found.sort((a, b) => (a.id < b.id ? -1 : 1))
}

function pageOf(found: readonly ArchivedItem[], { max, direction }: ArchiveQuery): ArchivePage {
  if (found.length <= max) return { items: found, complete: true }
  return { items: direction === 'backward' ? found.slice(found.length - max) : found.slice(0, max), complete: false }
}

function asKnown(view: View, id: string, item: ArchivedItem | undefined): ArchivedItem | undefined {
  const known = view.get(id)
  if (known) return known.bytes && { id, with: known.with, bytes: known.bytes }
  return view.isHidden(id) ? undefined : item
}

function isEmpty(query: Range): boolean {
  const { low, high } = boundsOf(query)
  return high !== undefined && low >= high
}

function isWithin(id: string, { low, high }: Bounds): boolean {
  return id >= low && (high === undefined || id < high)
}

function isWith(item: Item, other: string | undefined): boolean {
  return other === undefined || item.with === other
}

function hasPlace(underway: Underway): boolean { return underway.place !== undefined }

function sizeOf({ id, with: other, bytes }: Item): number {
  return 100 + id.length + other.length + (bytes?.length ?? 0)
}

function offsetOf(underway: Underway | undefined): number { return underway?.place?.offset ?? 0 }

/** What of changes is committed, and what those that are not will take from sight. */
function committed(underway: readonly Underway[]): Underway[] {
  return underway.flatMap((one) => (one.isCommitted ? [one] : committed(one.hidden)))
}

export function packEntry(writer: RecordWriter, entry: HistoryEntry): void {
  writer.uint8('purge' in entry ? entry.before === undefined ? PURGE_ALL : PURGE : entry.bytes ? PUT : REMOVE)
  writer.text(entry.owner)
  writer.double(entry.version)
  if ('purge' in entry) {
    if (entry.before !== undefined) writer.double(entry.before)
    return
  }
  writer.text(entry.id)
  writer.text(entry.with)
  if (entry.bytes) writer.bytes(entry.bytes)
}

export function unpackEntry(reader: RecordReader): HistoryEntry {
  const kind = reader.uint8()
  const owner = reader.text()
  const version = reader.double()
  if (kind === PURGE || kind === PURGE_ALL) return { owner, purge: true, before: kind === PURGE ? reader.double() : undefined, version }
  const id = reader.text()
  const other = reader.text()
  return { owner, id, with: other, bytes: kind === PUT ? Buffer.from(reader.bytes()) : undefined, version }
}

export interface PlacedEntry {
  readonly entry: HistoryEntry
  readonly place: QueuePlace | undefined
}

export function packTail(entries: readonly PlacedEntry[]): Buffer {
  const writer = new RecordWriter()
  for (const { entry, place } of entries) {
    writer.double(place ? place.partition : -1)
    writer.double(place ? place.offset : -1)
    packEntry(writer, entry)
  }
  return Buffer.from(writer.finish())
}

export function unpackTail(packed: Buffer): PlacedEntry[] {
  const reader = new RecordReader(packed)
  const entries: PlacedEntry[] = []
  while (!reader.isAtEnd) {
    const partition = reader.double()
    const offset = reader.double()
    const entry = unpackEntry(reader)
    entries.push({ entry, place: partition < 0 ? undefined : { partition, offset } })
  }
  return entries
}
