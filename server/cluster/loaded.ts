/** The units that this node is the home of, in memory: the database under its log. What is written goes to the units' places as well. */
import { timeOfLastId } from '../../lib/stanza/ids.ts'
import { StorageError } from '../storage/errors.ts'
import { type Database, type Row } from '../storage/groups/database.ts'
import { type LogPosition } from '../storage/groups/log.ts'
import { SortedRows } from '../storage/memory/rows.ts'
import { type Membership, type RowStore, type UnitRow } from './shapes.ts'
import { formsOf, isPlain, unitOfKey } from './unit-keys.ts'
import { timeOfLastVersion } from './versions.ts'

export interface Unit {
  readonly name: string
  readonly isPlain: boolean
  readonly rows: SortedRows
  bytes: number
  /** How many forbid that it is given up. */
  pins: number
  usedAt: number
  /** The segment of the log that has its last row; see `ClusterStorage`. */
  segment: number
  /** It is being given up: nobody may use it. */
  isLeaving: boolean
}

/** Units whose tails are written at once. */
const TAILS_AT_ONCE = 100

export class LoadedUnits implements Database {
  readonly isInMemory = true
  readonly #membership: Pick<Membership, 'write'>
  readonly #records: Pick<RowStore, 'write'>
  /** By the forms of their names. */
  readonly #byForm = new Map<string, Unit>()
  readonly #units = new Set<Unit>()
  /** Of these, those whose names keys do not tell. */
  #oddUnits = 0
  /** Tails to be written with what the log says of their units. */
  readonly #tails: () => ReadonlyMap<string, Buffer | undefined>
  readonly #tailsWritten: () => void
  /**
   * Made before the last record was appended to the log: what a node writes that has lost its lease without knowing it, and can append nothing any more,
   * has lower versions than what is written of its units afterwards.
   */
  loggedVersion = 0
  #bytes = 0
  /** The owner of the key looked at last. */
  #lastForm = ''
  #last: Unit | undefined

  constructor(membership: Pick<Membership, 'write'>, records: Pick<RowStore, 'write'>, tails: () => ReadonlyMap<string, Buffer | undefined>, tailsWritten: () => void) {
    this.#membership = membership
    this.#records = records
    this.#tails = tails
    this.#tailsWritten = tailsWritten
  }

  get size(): number { return this.#units.size }
  get bytes(): number { return this.#bytes }
  all(): Iterable<Unit> { return this.#units }

  /** The unit when it is here and not being given up. */
  find(name: string): Unit | undefined {
    const unit = this.#byForm.get(name) ?? (this.#oddUnits === 0 || isPlain(name) ? undefined : this.#byForm.get(formsOf(name)[0] as string))
    return unit && !unit.isLeaving && unit.name === name ? unit : undefined
  }

  add(name: string, rows: readonly { readonly key: string; readonly value: Buffer }[]): Unit {
    const unit: Unit = { name, isPlain: isPlain(name), rows: new SortedRows(), bytes: 0, pins: 0, usedAt: performance.now(), segment: 0, isLeaving: false }
    for (const { key, value } of [...rows].sort((a, b) => (a.key < b.key ? -1 : 1))) this.#put(unit, key, value)
    this.#units.add(unit)
    if (!unit.isPlain) this.#oddUnits++
    for (const form of formsOf(name)) this.#byForm.set(form, unit)
    this.#last = undefined
    return unit
  }

  remove(unit: Unit): void {
    if (this.#units.delete(unit) && !unit.isPlain) this.#oddUnits--
    for (const form of formsOf(unit.name)) if (this.#byForm.get(form) === unit) this.#byForm.delete(form)
    this.#bytes -= unit.bytes
    this.#last = undefined
  }

  /** The unit of a row. Throws when it is not here: this is a defect of who asks, as its rows are somewhere else. */
  ownerOf(key: string): Unit {
    const unit = this.#unitOf(key)
    if (!unit || unit.isLeaving) throw new StorageError(`the unit of ${JSON.stringify(key.slice(0, 200))} is not loaded here: it must be claimed first`)
    return unit
  }

  /** Whose keys lie between, when that is one unit's. Undefined for a range over several; throws for one that is not here. */
  ownerOfRange(start: string, end: string): Unit | undefined {
    const named = unitOfKey(start)
    if (!named || !end.startsWith(start.slice(0, named.end))) return undefined
    return this.ownerOf(start)
  }

  get(key: string): Buffer | undefined { return this.#unitOf(key)?.rows.get(key) }
  has(key: string): boolean { return this.#unitOf(key)?.rows.has(key) ?? false }

  keys(start: string, end: string, limit: number, reverse: boolean): string[] {
    const named = unitOfKey(start)
    if (named && end.startsWith(start.slice(0, named.end))) return this.#unitOf(start)?.rows.keys(start, end, limit, reverse) ?? []
    const found: string[] = []
    for (const unit of this.#units) for (const key of unit.rows.keys(start, end, limit, reverse)) found.push(key)
    found.sort()
    if (reverse) found.reverse()
    return found.length > limit ? found.slice(0, limit) : found
  }

  count(start: string, end: string): number {
    const named = unitOfKey(start)
    if (named && end.startsWith(start.slice(0, named.end))) return this.#unitOf(start)?.rows.count(start, end, Infinity) ?? 0
    let count = 0
    for (const unit of this.#units) count += unit.rows.count(start, end, Infinity)
    return count
  }

  async write(rows: readonly Row[], position?: LogPosition): Promise<void> {
    const version = this.loggedVersion
    const records: UnitRow[] = []
    const others: UnitRow[] = []
    for (const { key, value } of rows) {
      const unit = this.#unitOf(key)
      // A unit is given up when nothing of it is left to be written.
      if (!unit) throw new Error(`a row of a unit that is not here: ${JSON.stringify(key.slice(0, 200))}`);
      (key[0] === 'r' ? records : others).push({ unit: unit.name, key, value, version })
    }
    if (records.length > 0) await this.#records.write(records)
    if (others.length > 0) await this.#membership.write(others, new Map())
    if (position) await this.writeTails(this.#tails())
    for (const { key, value } of rows) {
      const unit = this.#unitOf(key)
      if (!unit) continue
      if (value) this.#put(unit, key, value)
      else this.#delete(unit, key)
    }
    if (position) this.#tailsWritten()
  }

  async writeTails(tails: ReadonlyMap<string, Buffer | undefined>): Promise<void> {
    const entries = [...tails]
    for (let at = 0; at < entries.length; at += TAILS_AT_ONCE) await this.#membership.write([], new Map(entries.slice(at, at + TAILS_AT_ONCE)))
  }

  refresh(): void {}

  #unitOf(key: string): Unit | undefined {
    const form = unitOfKey(key)?.form
    if (form === undefined) return undefined
    if (form !== this.#lastForm || !this.#last) {
      this.#lastForm = form
      this.#last = this.#byForm.get(form)
    }
    return this.#last
  }

  #put(unit: Unit, key: string, value: Buffer): void {
    const before = unit.rows.get(key)
    const bytes = value.length + (before ? -before.length : key.length)
    unit.rows.put(key, value)
    unit.bytes += bytes
    this.#bytes += bytes
  }

  #delete(unit: Unit, key: string): void {
    const before = unit.rows.get(key)
    if (!before) return
    unit.rows.delete(key)
    unit.bytes -= before.length + key.length
    this.#bytes -= before.length + key.length
  }
}

/** Until when this node has made ids and versions, ms. */
export function lastMs(): number {
  return Math.max(timeOfLastId(), timeOfLastVersion())
}
