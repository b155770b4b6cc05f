/**
 * The storage of a node of a cluster: the units that it is the home of are in memory, and what changes is in its log, which outlives it. When
 * the log turns over, what has changed is written to the units' own places, from where another home may load it.
 */
import { continueIdsAfter } from '../../lib/stanza/ids.ts'
import { StorageError } from '../storage/errors.ts'
import { FIRST_SECTION, GroupedStore, type Participant } from '../storage/groups/groups.ts'
import { type Log } from '../storage/groups/log.ts'
import { type RecordReader } from '../storage/groups/record.ts'
import { createOfflineQueue } from '../storage/offline.ts'
import { encodePart, type OrderedStore } from '../storage/ordered.ts'
import { createRecords } from '../storage/records.ts'
import { type Archive, type Blobs, type Storage, type StoredStream } from '../storage/shapes.ts'
import { Bus } from './bus.ts'
import { UnitHistory } from './history.ts'
import { lastMs, LoadedUnits, type Unit } from './loaded.ts'
import { recover } from './recovery.ts'
import { type HistoryProgress, type HistoryQueue, type HistoryStore, type Inheritance, type Membership, type NodeInfo, type NodeLog, type RowStore, type UnitRow, type Units } from './shapes.ts'
import { UnitStreams } from './streams.ts'
import { continueVersionsAfter, nextVersion, timeOfLastVersion } from './versions.ts'

export interface ClusterStorageOptions {
  readonly membership: Membership
  readonly records: RowStore
  readonly history: HistoryStore
  /** The way of changes to the history's store. */
  readonly queue: HistoryQueue
  /** How far the history's store has come, when the queue tells places. */
  readonly progress?: Pick<HistoryProgress, 'read'>
  readonly blobs: Blobs
  /** What of a frame must reach its unit, by units; see cluster/frames.ts. */
  readonly framesOf: (frame: Buffer) => readonly { readonly unit: string; readonly frame: Buffer }[]
  readonly commitEveryMs?: number
  readonly segmentBytes?: number
  readonly segmentMs?: number
  /** Units that nobody has used for this long are given up, ms. */
  readonly idleMs?: number
  /** With more units, or more bytes of theirs, those that have not been used for the longest time are given up earlier. */
  readonly unitsMax?: number
  readonly unitBytesMax?: number
  readonly onHealth?: (problem: string | undefined) => void
  /** Told about an error thrown by a callback of `afterCommit`, and about failures that are tried again. */
  readonly onError?: (error: unknown) => void
}

/** The log's sections of units. */
export const UNITS_SECTION = FIRST_SECTION + 3
/** Everything before this of these units is in their places, and they have another home perhaps. */
export const RELEASED = 1
/** Units whose names keys do not tell. */
export const NAMED = 2

/** Each commit costs as much CPU as several messages. The first after a pause comes at once. */
const COMMIT_EVERY_MS = 8
const SEGMENT_BYTES = 16 * 1024 * 1024
/** Each turning over writes the tails of all who have written a moment ago. */
const SEGMENT_MS = 20_000
const IDLE_MS = 120_000
/** What has been claimed is not given up before its claimant has come to use it. */
const IDLE_LEAST_MS = 5000
const UNITS_MAX = 100_000
const UNIT_BYTES_MAX = 1024 * 1024 * 1024
/** More than this in memory that is not where it belongs, and new stanzas are refused. */
const PENDING_BYTES_MAX = 128 * 1024 * 1024
const TAIL_BYTES_MAX = 256 * 1024 * 1024
const UNSENT_BYTES_MAX = 64 * 1024 * 1024
const TICK_MS = 500
const CLOSE_WAIT_MS = 10_000
/** A node that is gone may have to be recovered before what was sent there has found another way. */
const ARRIVED_WAIT_MS = 2000
const RETRY_MS = 200
/** A claim waits so long for room, ms. */
const ROOM_WAIT_MS = 10_000
const RELEASED_AT_ONCE = 500

export class ClusterStorage implements Storage, Units {
  readonly records
  readonly archive: Archive
  readonly offline
  readonly streams: UnitStreams
  readonly blobs: Blobs
  readonly #options: ClusterStorageOptions
  readonly #membership: Membership
  readonly #units: LoadedUnits
  readonly #store: GroupedStore
  readonly #history: UnitHistory
  readonly #bus: Bus
  readonly #releases: Releases
  readonly #claiming = new Map<string, Promise<string>>()
  /** Units that are being given up. */
  readonly #leaving = new Map<string, Promise<void>>()
  readonly #onClaimed: ((unit: string, streams: readonly StoredStream[]) => void)[] = []
  #beforeMove: (source: string, units: ReadonlySet<string>) => Promise<void> = () => Promise.resolve()
  readonly #onReleased: ((units: readonly string[]) => void)[] = []
  readonly #onLost: (() => void)[] = []
  readonly #onChange: ((gone: readonly string[]) => void)[] = []
  readonly #timer: NodeJS.Timeout
  #segment = 1
  /** What was written in this segment and before it is in its place. */
  #appliedSegment = 0
  #problem: string | undefined
  /** The units' places take nothing. What is committed is in the log meanwhile, as far as that may grow. */
  #storesProblem: string | undefined
  #reported: string | undefined
  #isLost = false
  #isClosing = false
  #closed: Promise<void> | undefined

  constructor(options: ClusterStorageOptions) {
    const { membership } = options
    this.#options = options
    this.#membership = membership
    this.blobs = options.blobs
    this.#units = new LoadedUnits(membership, options.records, () => this.#history.changedTails(), () => { this.#history.tailsWritten() })
    this.#store = new GroupedStore(this.#units, this.#gatedLog(membership.log), {
      commitEveryMs: options.commitEveryMs ?? COMMIT_EVERY_MS,
      segmentBytes: options.segmentBytes ?? SEGMENT_BYTES,
      segmentMs: options.segmentMs ?? SEGMENT_MS,
      onProblem: (problem, isBehind) => {
        this.#problem = isBehind ? undefined : problem
        this.#storesProblem = isBehind ? problem : undefined
        this.#report()
      },
      onCallbackError: (error) => { this.#error(error) },
    })
    const store = this.#checked()
    this.records = createRecords(store)
    this.offline = createOfflineQueue(store, () => this.committed(), ABOVE_IDS)
    this.streams = new UnitStreams(store)
    this.#history = new UnitHistory({
      store: this.#store, history: options.history, queue: options.queue, ...(options.progress ? { progress: options.progress } : {}),
      use: (owner) => { this.#use(owner) },
      isHere: (owner) => this.#units.find(owner) !== undefined,
      onError: (error) => { this.#error(error) },
    })
    this.archive = this.#history
    this.#bus = new Bus(this.#store, membership, (error) => { this.#error(error) })
    this.#releases = new Releases(this.#store, this.#units, () => { this.#turnedOver() }, () => { this.#applied() })
    for (const participant of [this.#history, this.#bus, this.#releases]) this.#store.addParticipant(participant)
    membership.onLost(() => { this.#lose() })
    membership.onChange((gone) => {
      this.#bus.forget(gone)
      for (const listener of this.#onChange) listener(gone)
    })
    membership.inherit((inheritance) => this.#recover(inheritance))
    this.#timer = setInterval(() => { this.#tick() }, Math.min(TICK_MS, options.segmentMs ?? SEGMENT_MS)).unref()
  }

  get inc(): string { return this.#membership.self.inc }
  get idNumber(): number | undefined { return this.#membership.idNumber }
  get nodes(): readonly NodeInfo[] { return this.#membership.nodes }

  isHere(unit: string): boolean {
    const found = this.#units.find(unit)
    if (!found) return false
    found.usedAt = performance.now()
    return true
  }

  claim(unit: string): Promise<string> {
    if (this.isHere(unit) && !this.#isLost) return Promise.resolve(this.inc)
    if (this.#isLost) return Promise.reject(new StorageError('this node has left the cluster'))
    let claiming = this.#claiming.get(unit)
    if (!claiming) {
      claiming = this.#claim(unit).finally(() => { this.#claiming.delete(unit) })
      this.#claiming.set(unit, claiming)
    }
    return claiming
  }

  async find(unit: string): Promise<string | undefined> {
    return this.isHere(unit) ? this.inc : await this.#membership.find(unit)
  }

  /** The unit, which is here, stays here until the function that this answers is called. */
  pin(unit: string): () => void {
    const found = this.#units.find(unit)
    if (!found) throw new StorageError(`the unit ${unit} is not loaded here: it must be claimed first`)
    found.pins++
    let isPinned = true
    return () => {
      if (isPinned) found.pins--
      isPinned = false
      found.usedAt = performance.now()
    }
  }

  /** Told of each unit that has come, with the streams that were open there, before its claim resolves. */
  onClaimed(listener: (unit: string, streams: readonly StoredStream[]) => void): void { this.#onClaimed.push(listener) }
  onReleased(listener: (units: readonly string[]) => void): void { this.#onReleased.push(listener) }
  beforeMove(wait: (source: string, units: ReadonlySet<string>) => Promise<void>): void { this.#beforeMove = wait }
  onLost(listener: () => void): void {
    if (this.#isLost) setImmediate(listener)
    else this.#onLost.push(listener)
  }
  onChange(listener: (gone: readonly string[]) => void): void { this.#onChange.push(listener) }

  async leaving(): Promise<void> { await this.#membership.leaving() }

  async leave(): Promise<void> {
    if (!this.#isLost) await inTime(this.#leave(), CLOSE_WAIT_MS)
  }

  outgoing(inc: string, frame: Buffer, durable: boolean): void { this.#bus.outgoing(inc, frame, durable) }
  keep(frame: Buffer): () => void { return this.#bus.keep(frame) }
  incoming(handler: (source: string, frame: Buffer, done: () => void) => void): void { this.#bus.incoming(handler) }
  returned(handler: (frame: Buffer, done: () => void, inc: string | undefined) => void): void { this.#bus.returned(handler) }
  left(inc: string): Promise<void> { return this.#bus.left(inc) }

  afterCommit(callback: () => void): void { this.#store.afterCommit(callback) }
  committed(): Promise<void> { return this.#store.committed() }
  get dirty(): boolean { return this.#store.dirty }
  get healthy(): boolean { return this.#whatIsWrong() === undefined }

  status(): ReturnType<Storage['status']> {
    const wrong = this.#whatIsWrong()
    const problem = wrong ?? this.#storesProblem
    return {
      driver: 'cluster', healthy: wrong === undefined, ...(problem === undefined ? {} : { problem }),
      pendingWrites: this.#store.pendingWrites, commitMs: this.#store.commitMs,
    }
  }

  /** Writes everything to its place, and gives up all units. */
  [Symbol.asyncDispose](): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #claim(unit: string): Promise<string> {
    await this.#leaving.get(unit)
    await this.#room()
    const claim = await this.#membership.claim(unit)
    if (!claim.here) return claim.inc
    // What earlier homes of the unit have sent to units of this node is here before the unit is: what it sends from now on comes after that.
    const [records] = await Promise.all([this.#options.records.load(unit), this.#membership.caughtUp()])
    if (this.#isLost) throw new StorageError('this node has left the cluster')
    const { rows, tail, lastMs: last } = claim.unit
    continueIdsAfter(last)
    continueVersionsAfter(last)
    const loaded = this.#units.add(unit, [...rows, ...records])
    loaded.segment = 0
    if (!loaded.isPlain) this.#releases.named()
    this.offline.forget(unit)
    this.#history.restore(unit, tail)
    const streams = this.streams.restore(unit, rows, last)
    for (const listener of this.#onClaimed) listener(unit, streams)
    const frames = rows.filter(({ key }) => key.startsWith('d')).map(({ key, value }) => ({ key, order: value.readDoubleBE(), frame: frameOfRow(value) })).sort((a, b) => a.order - b.order)
    if (frames.length > 0) this.#handBack(loaded, frames)
    return this.inc
  }

  /** Frames that a lost node had not handled are a unit's rows. They come before all that waits for the claim. */
  #handBack(unit: Unit, frames: readonly { readonly key: string; readonly frame: Buffer }[]): void {
    unit.pins++
    let left = frames.length
    for (const { key, frame } of frames) {
      this.#bus.handBack(frame, () => {
        this.#write(unit)
        this.#store.delete(key)
        if (--left === 0) unit.pins--
      })
    }
  }

  /** Waits until another unit may come. */
  async #room(): Promise<void> {
    const { unitsMax = UNITS_MAX, unitBytesMax = UNIT_BYTES_MAX } = this.#options
    const deadline = performance.now() + ROOM_WAIT_MS
    // What is above the limit by a tenth may stay while others are given up.
    while (this.#units.size > unitsMax * 1.1 || this.#units.bytes > unitBytesMax * 1.1) {
      if (performance.now() > deadline || this.#isLost) throw new StorageError('there is no room for another unit in memory')
      this.#store.turnOver()
      await new Promise((resolve) => { setTimeout(resolve, 100) })
    }
  }

  /** The store, for units that are here alone. */
  #checked(): OrderedStore {
    const store = this.#store
    const units = this.#units
    return {
      get: (key) => {
        units.ownerOf(key)
        return store.get(key)
      },
      has: (key) => {
        units.ownerOf(key)
        return store.has(key)
      },
      put: (key, value) => {
        this.#write(units.ownerOf(key))
        store.put(key, value)
      },
      putNew: (key, value) => {
        this.#write(units.ownerOf(key))
        store.put(key, value)
      },
      delete: (key) => {
        this.#write(units.ownerOf(key))
        store.delete(key)
      },
      keys: (start, end, limit, reverse) => {
        units.ownerOfRange(start, end)
        return store.keys(start, end, limit, reverse)
      },
      count: (start, end, limit) => {
        units.ownerOfRange(start, end)
        return store.count(start, end, limit)
      },
    }
  }

  #write(unit: Unit): void {
    unit.usedAt = performance.now()
    unit.segment = this.#segment
  }

  #use(owner: string): void {
    const unit = this.#units.find(owner)
    if (!unit) throw new StorageError(`the unit ${owner} is not loaded here: it must be claimed first`)
    unit.usedAt = performance.now()
  }

  /** The log, behind which commits wait while what follows it is too far behind. */
  #gatedLog(log: NodeLog): Log {
    const isOpen = (): boolean => this.#behind() === undefined || this.#isLost || this.#isClosing
    return {
      get bytes() { return log.bytes },
      append: async (buffer, payloadBytes, lastIdMs) => {
        for (let delayMs = 1; !isOpen(); delayMs = Math.min(50, delayMs * 2)) {
          this.#report()
          await new Promise((resolve) => { setTimeout(resolve, delayMs) })
        }
        if (this.#isLost) throw new StorageError('this node has lost its place in the cluster')
        const version = nextVersion()
        // Whoever does it again makes versions after this one.
        const last = Math.max(lastIdMs, timeOfLastVersion())
        const parcels = log.appendAndSend ? this.#bus.parcels() : []
        if (log.appendAndSend && parcels.length > 0) this.#bus.wentAlong(await log.appendAndSend(buffer, payloadBytes, last, parcels))
        else await log.append(buffer, payloadBytes, last)
        this.#units.loggedVersion = version
      },
      prepare: () => log.prepare(),
      turnOver: () => log.turnOver(),
      drop: (upTo) => log.drop(upTo),
      close: () => log.close(),
    }
  }

  #behind(): string | undefined {
    const { queue } = this.#options
    if (queue.room() !== undefined) return queue.problem ?? 'the queue of history takes less than is written'
    if (this.#history.tailBytes > TAIL_BYTES_MAX) return 'the store of history is too far behind'
    if (this.#bus.unsentBytes > UNSENT_BYTES_MAX) return 'other nodes do not take what is sent to them'
    return undefined
  }

  #whatIsWrong(): string | undefined {
    if (this.#isLost) return 'this node has lost its place in the cluster'
    const problem = this.#problem ?? this.#membership.problem ?? this.#behind()
    if (problem !== undefined) return problem
    return this.#store.pendingBytes > PENDING_BYTES_MAX ? 'what is written does not get to its place fast enough' : undefined
  }

  #report(): void {
    const problem = this.#whatIsWrong() ?? this.#storesProblem
    if (problem === this.#reported) return
    this.#reported = problem
    this.#options.onHealth?.(problem)
  }

  #error(error: unknown): void {
    if (this.#options.onError) this.#options.onError(error)
    else setImmediate(() => { throw error })
  }

  #tick(): void {
    this.#report()
    this.#store.tick()
    const { idleMs = IDLE_MS } = this.#options
    const now = performance.now()
    // Units that nobody writes are given up at a turning over, too.
    for (const unit of this.#units.all()) {
      if (unit.pins > 0 || now - unit.usedAt < idleMs && !this.#isCrowded()) continue
      this.#store.turnOver()
      break
    }
  }

  #isCrowded(): boolean {
    const { unitsMax = UNITS_MAX, unitBytesMax = UNIT_BYTES_MAX } = this.#options
    return this.#units.size > unitsMax || this.#units.bytes > unitBytesMax
  }

  #turnedOver(): void { this.#segment++ }

  /** Everything up to the segment before this one is in its place: who has nothing newer and is not used may go. */
  #applied(): void {
    this.#appliedSegment = this.#segment - 1
    if (this.#isLost || this.#isClosing) return
    const { idleMs = IDLE_MS, unitsMax = UNITS_MAX, unitBytesMax = UNIT_BYTES_MAX } = this.#options
    const now = performance.now()
    const free = [...this.#units.all()].filter((unit) => this.#isFree(unit) && now - unit.usedAt >= Math.min(idleMs, IDLE_LEAST_MS)).sort((a, b) => a.usedAt - b.usedAt)
    let count = this.#units.size
    let bytes = this.#units.bytes
    const chosen: Unit[] = []
    for (const unit of free) {
      if (now - unit.usedAt < idleMs && count <= unitsMax && bytes <= unitBytesMax) break
      chosen.push(unit)
      count--
      bytes -= unit.bytes
    }
    for (let at = 0; at < chosen.length; at += RELEASED_AT_ONCE) void this.#release(chosen.slice(at, at + RELEASED_AT_ONCE))
  }

  #isFree(unit: Unit): boolean {
    return unit.pins === 0 && !unit.isLeaving && this.#isWritten(unit)
  }

  /** All that is in memory of it is in its place, but for its tail, or about to be. */
  #isWritten(unit: Unit): boolean {
    return unit.segment <= this.#appliedSegment && this.#history.isQueued(unit.name)
  }

  #release(units: readonly Unit[]): Promise<void> {
    for (const unit of units) unit.isLeaving = true
    const leaving = this.#releaseNow(units).catch((error: unknown) => { this.#error(error) })
    for (const unit of units) this.#leaving.set(unit.name, leaving)
    return leaving.finally(() => { for (const unit of units) this.#leaving.delete(unit.name) })
  }

  async #releaseNow(units: readonly Unit[]): Promise<void> {
    const names = units.map((unit) => unit.name)
    await inTime(Promise.all([this.#bus.arrived(), this.#beforeMove(this.inc, new Set(names))]), ARRIVED_WAIT_MS)
    await this.#until(() => this.#units.writeTails(new Map(names.map((name) => [name, this.#history.packedTail(name)]))))
    this.#releases.released(names)
    await this.#committedOrLost()
    await this.#until(() => this.#membership.release(names, lastMs()))
    if (this.#isLost) return
    for (const unit of units) {
      this.#units.remove(unit)
      this.#history.forget(unit.name)
      this.streams.forget(unit.name)
      this.offline.forget(unit.name)
    }
    for (const listener of this.#onReleased) listener(names)
  }

  /** Tries until it succeeds, or the node is lost. */
  async #until(run: () => Promise<void>): Promise<void> {
    while (!this.#isLost) {
      try {
        return await run()
      } catch (error) {
        this.#error(error)
        await new Promise((resolve) => { setTimeout(resolve, RETRY_MS) })
      }
    }
  }

  #committedOrLost(): Promise<void> {
    return new Promise((resolve) => {
      if (this.#isLost) return resolve()
      this.#onLost.push(resolve)
      this.#store.afterCommit(() => {
        const at = this.#onLost.indexOf(resolve)
        if (at !== -1) this.#onLost.splice(at, 1)
        resolve()
      })
    })
  }

  #lose(): void {
    if (this.#isLost) return
    this.#isLost = true
    this.#store.abandon()
    this.#history.close()
    this.#bus.close()
    this.#report()
    for (const listener of this.#onLost.splice(0)) listener()
  }

  async #recover(inheritance: Inheritance): Promise<void> {
    if (this.#isLost || this.#isClosing) throw new StorageError('this node has left the cluster')
    const { records, queue, progress, framesOf } = this.#options
    const units = await recover(inheritance, {
      records, queue, progress, framesOf, membership: this.#membership,
      isLost: () => this.#isLost,
      isLive: (inc) => this.nodes.some((node) => node.inc === inc),
      find: (unit) => this.find(unit),
      homeOf: async (unit) => await this.find(unit) ?? await this.claim(unit),
      allHome: () => inTime(this.#beforeMove(inheritance.inc, new Set()), ARRIVED_WAIT_MS),
    })
    // Whoever claims them finds what they had not taken. That should be soon.
    for (const unit of units) this.claim(unit).catch((error: unknown) => { this.#error(error) })
  }

  async #close(): Promise<void> {
    this.#isClosing = true
    clearInterval(this.#timer)
    // What cannot be written is left to who recovers this node.
    if (!this.#isLost) await inTime(this.#leave(), CLOSE_WAIT_MS)
    this.#isLost = true
    this.#history.close()
    this.#bus.close()
    await this.#store.close(0)
  }

  /** Writes everything to its place, and gives up all units. */
  async #leave(): Promise<void> {
    await Promise.all(this.#claiming.values()).catch(() => {})
    await Promise.all(this.#leaving.values())
    // What other nodes do not have yet, and comes back, may need its unit here.
    while ((this.#units.size > 0 || this.#claiming.size > 0) && !this.#isLost) {
      await this.#writeAll()
      // Others have been written meanwhile.
      const units = [...this.#units.all()].filter((unit) => !unit.isLeaving && this.#isWritten(unit))
      for (let at = 0; at < units.length; at += RELEASED_AT_ONCE) await this.#release(units.slice(at, at + RELEASED_AT_ONCE).filter((unit) => this.#isWritten(unit)))
    }
    // That they have been given up is in the log, too; one that is empty needs nobody to do it again.
    await this.#writeAll()
  }

  /** Has the log turn over until everything written so far is in its place. */
  async #writeAll(): Promise<void> {
    await this.#committedOrLost()
    for (const segment = this.#segment; this.#appliedSegment < segment && !this.#isLost;) {
      this.#store.turnOver()
      await new Promise((resolve) => { setTimeout(resolve, 2) })
    }
  }
}

async function inTime(done: Promise<unknown>, ms: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  await Promise.race([done, new Promise<void>((resolve) => { timer = setTimeout(resolve, ms) })])
  clearTimeout(timer)
}

const ABOVE_IDS = '\x7f'

/** The row of a unit that has a frame. Frames of a unit are handled in the order of their versions. */
export function frameRow(unit: string, source: string, number: number, frame: Buffer): UnitRow {
  const version = nextVersion()
  const value = Buffer.allocUnsafe(8 + frame.length)
  value.writeDoubleBE(version)
  frame.copy(value, 8)
  return { unit, key: `d${encodePart(unit)}${encodePart(source)}${number.toString(16).padStart(14, '0')}`, value, version }
}

/** The frame of such a row. */
export function frameOfRow(value: Buffer): Buffer { return value.subarray(8) }

/** What the log says of whole units, and the store of its turning over. */
class Releases implements Participant {
  readonly section = UNITS_SECTION
  readonly #store: GroupedStore
  readonly #units: LoadedUnits
  readonly #onTurnOver: () => void
  readonly #onApplied: () => void
  #isNaming = false

  constructor(store: GroupedStore, units: LoadedUnits, onTurnOver: () => void, onApplied: () => void) {
    this.#store = store
    this.#units = units
    this.#onTurnOver = onTurnOver
    this.#onApplied = onApplied
  }

  /** A unit has come whose name its keys do not tell. */
  named(): void {
    this.#isNaming = true
    this.#store.touch()
  }

  released(names: readonly string[]): void {
    this.#store.section(this, (writer) => {
      writer.uint8(RELEASED)
      for (const name of names) writer.text(name)
    })
  }

  seal(): void {
    if (!this.#isNaming) return
    this.#isNaming = false
    const names = [...this.#units.all()].filter((unit) => !unit.isPlain).map((unit) => unit.name)
    if (names.length === 0) return
    this.#store.section(this, (writer) => {
      writer.uint8(NAMED)
      for (const name of names) writer.text(name)
    })
  }

  turnOver(): void {
    this.#isNaming = [...this.#units.all()].some((unit) => !unit.isPlain)
    if (this.#isNaming) this.#store.touch()
    this.#onTurnOver()
  }

  rows(): Iterable<undefined> { return [] }
  applied(): void { this.#onApplied() }
  replay(_section: RecordReader): void { throw new Error('a node begins with an empty log') }
}
