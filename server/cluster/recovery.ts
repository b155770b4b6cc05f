/**
 * What a lost node leaves. All steps may be done again, by another node as well, until `finish`: nobody else can claim the units before.
 */
import { DELETE, PUT } from '../storage/groups/groups.ts'
import { RecordReader } from '../storage/groups/record.ts'
import { BUS_SECTION, BusRecord, NOWHERE, type Sent } from './bus.ts'
import { HISTORY_SECTION, packTail, type PlacedEntry, unpackEntry, unpackTail } from './history.ts'
import { type HistoryEntry, type HistoryProgress, type HistoryQueue, type Inheritance, type Membership, type RowStore, type UnitRow } from './shapes.ts'
import { frameKey, NAMED, RELEASED, UNITS_SECTION } from './storage.ts'
import { formsOf, unitOfKey } from './unit-keys.ts'
import { continueVersionsAfter, nextVersion } from './versions.ts'

export interface RecoveryParts {
  readonly membership: Pick<Membership, 'send' | 'receivedBy'>
  readonly records: Pick<RowStore, 'write'>
  readonly queue: Pick<HistoryQueue, 'push'>
  readonly progress: Pick<HistoryProgress, 'read'> | undefined
  readonly framesOf: (frame: Buffer) => readonly { readonly unit: string; readonly frame: Buffer }[]
  /** This node is lost itself. */
  isLost(): boolean
  /** The home of a unit, this node when it has none. */
  homeOf(unit: string): Promise<string>
}

const ROWS_AT_ONCE = 1000
const ROW_BYTES_AT_ONCE = 1024 * 1024
const ENTRIES_AT_ONCE = 1000
/** A frame for several units is so many; beyond this they would take the numbers of the next. */
const PARTS = 1024

/** The log of a node done again. */
class Redone {
  /** By key. */
  readonly rows = new Map<string, Buffer | undefined>()
  readonly history = new Map<string, HistoryEntry[]>()
  readonly bus = new BusRecord()
  readonly #names = new Map<string, string>()
  lastIdMs = 0

  read(payload: Buffer): void {
    const reader = new RecordReader(payload)
    while (!reader.isAtEnd) {
      const kind = reader.uint8()
      const section = new RecordReader(reader.bytes())
      if (kind === PUT || kind === DELETE) {
        const key = section.latin1()
        this.rows.set(key, kind === PUT ? Buffer.from(section.bytes()) : undefined)
      } else if (kind === HISTORY_SECTION) {
        const entry = unpackEntry(section)
        const entries = this.history.get(entry.owner)
        if (entries) entries.push(entry)
        else this.history.set(entry.owner, [entry])
      } else if (kind === BUS_SECTION) this.bus.read(section, undefined)
      else if (kind === UNITS_SECTION) this.#readUnits(section)
      else throw new RangeError(`the log has a section of kind ${kind}, which this version does not know`)
    }
  }

  /** Name of the unit of a row. */
  unitOf(key: string): string {
    const form = unitOfKey(key)?.form
    if (form === undefined) throw new RangeError(`the log has a row of no unit: ${JSON.stringify(key.slice(0, 200))}`)
    return this.#names.get(form) ?? form
  }

  #readUnits(section: RecordReader): void {
    const what = section.uint8()
    const names = new Set<string>()
    while (!section.isAtEnd) names.add(section.text())
    if (what === NAMED) for (const name of names) for (const form of formsOf(name)) this.#names.set(form, name)
    if (what !== RELEASED) return
    for (const key of this.rows.keys()) if (names.has(this.unitOf(key))) this.rows.delete(key)
    for (const name of names) this.history.delete(name)
  }
}

/** Durable frames that a node has sent, as the records of its log say, each with the place of its record; some may have arrived. */
export function sentBy<Place>(records: Iterable<{ readonly payload: Buffer; readonly place: Place }>): Iterable<Sent & { readonly place: Place }> {
  const bus = new BusRecord<Place>()
  for (const { payload, place } of records) {
    const reader = new RecordReader(payload)
    while (!reader.isAtEnd) {
      const kind = reader.uint8()
      const section = new RecordReader(reader.bytes())
      if (kind === BUS_SECTION) bus.read(section, place)
    }
  }
  return bus.sent
}

/** A frame that did not get to its unit. */
interface Orphan {
  /** The node that sent it and the one that it was for. */
  readonly source: string
  readonly number: number
  readonly unit: string
  readonly frame: Buffer
}

/** Answers the units that have frames among their rows. */
export async function recover(inheritance: Inheritance, parts: RecoveryParts): Promise<readonly string[]> {
  const redone = new Redone()
  let lastIdMs = inheritance.position.lastIdMs
  for (const record of inheritance.records) {
    redone.read(record.payload)
    lastIdMs = Math.max(lastIdMs, record.lastIdMs)
  }
  continueVersionsAfter(Math.max(lastIdMs, versionTime(redone)))
  const rows: UnitRow[] = []
  for (const [key, value] of redone.rows) rows.push({ unit: redone.unitOf(key), key, value, version: nextVersion() })
  await writeRows(inheritance, parts, rows)
  for (const [owner, entries] of redone.history) await recoverHistory(inheritance, parts, owner, entries)
  const received = redone.bus.highest()
  for (const { source, first, pieces } of inheritance.parcels) received.set(source, Math.max(received.get(source) ?? 0, first + pieces.length - 1))
  const placed = new PlacedFrames(inheritance)
  for (const orphan of [...ofInbox(inheritance, redone, parts), ...await sendAgain(inheritance.inc, redone, received, parts)]) await rehome(inheritance, parts, orphan, placed)
  await placed.written()
  if (parts.isLost()) throw new Error('this node is lost itself')
  await inheritance.finish(Math.max(lastIdMs, Date.now()), received)
  return [...placed.units]
}

/** Frames that become rows of their units, many at once. */
class PlacedFrames {
  /** Those with such rows: nobody can claim them before the recovery is over. */
  readonly units = new Set<string>()
  readonly #inheritance: Inheritance
  #rows: UnitRow[] = []
  #bytes = 0

  constructor(inheritance: Inheritance) { this.#inheritance = inheritance }

  async add(unit: string, key: string, frame: Buffer): Promise<void> {
    this.units.add(unit)
    this.#rows.push({ unit, key, value: frame, version: nextVersion() })
    this.#bytes += frame.length
    if (this.#rows.length >= ROWS_AT_ONCE || this.#bytes >= ROW_BYTES_AT_ONCE) await this.written()
  }

  async written(): Promise<void> {
    const rows = this.#rows
    this.#rows = []
    this.#bytes = 0
    if (rows.length > 0) await this.#inheritance.write(rows, new Map())
  }
}

/** Brings a frame to its unit, or has it wait for it among its rows. */
async function rehome(inheritance: Inheritance, parts: RecoveryParts, { source, number, unit, frame }: Orphan, placed: PlacedFrames): Promise<void> {
  for (;;) {
    const home = placed.units.has(unit) ? inheritance.inc : await parts.homeOf(unit)
    if (home === inheritance.inc) return placed.add(unit, frameKey(unit, source, number), frame)
    if (await parts.membership.send(home, { source, first: number, pieces: [frame] }) === 'sent') return
    if (parts.isLost()) throw new Error('this node is lost itself')
  }
}

/** The time (ms) of the last version that the log has. */
function versionTime(redone: Redone): number {
  let version = 0
  for (const entries of redone.history.values()) for (const entry of entries) version = Math.max(version, entry.version)
  return Math.floor(version / 1024)
}

/** What had come and was not done. */
function ofInbox({ inc, parcels }: Inheritance, redone: Redone, parts: RecoveryParts): Orphan[] {
  const orphans: Orphan[] = []
  for (const { source, first, pieces } of parcels) {
    pieces.forEach((piece, i) => {
      if (!redone.bus.isDone(source, first + i)) orphans.push(...apart(`${source}>${inc}`, first + i, piece, parts))
    })
  }
  return orphans
}

/** A frame as one for each unit. */
function apart(source: string, number: number, frame: Buffer, parts: RecoveryParts): Orphan[] {
  return parts.framesOf(frame).map((one, part) => ({ source, number: number * PARTS + part, ...one }))
}

async function writeRows(inheritance: Inheritance, parts: RecoveryParts, rows: readonly UnitRow[]): Promise<void> {
  for (let at = 0; at < rows.length; at += ROWS_AT_ONCE) {
    const some = rows.slice(at, at + ROWS_AT_ONCE)
    const records = some.filter((row) => row.key.startsWith('r'))
    const others = some.filter((row) => !row.key.startsWith('r'))
    if (records.length > 0) await parts.records.write(records)
    if (others.length > 0) await inheritance.write(others, new Map())
  }
}

/** Brings an owner's changes to the queue, where they may be already, and writes the tail that these make. */
async function recoverHistory(inheritance: Inheritance, parts: RecoveryParts, owner: string, logged: readonly HistoryEntry[]): Promise<void> {
  const { tail } = await inheritance.load(owner)
  const entries: PlacedEntry[] = []
  const versions = new Set(logged.map((entry) => entry.version))
  const pending: HistoryEntry[] = []
  for (const { entry, place } of tail ? unpackTail(tail) : []) {
    if (place && !versions.has(entry.version)) entries.push({ entry, place })
    else if (!versions.has(entry.version)) pending.push(entry)
  }
  pending.push(...logged)
  pending.sort((a, b) => a.version - b.version)
  for (let at = 0; at < pending.length; at += ENTRIES_AT_ONCE) {
    const some = pending.slice(at, at + ENTRIES_AT_ONCE)
    const places = await parts.queue.push(some)
    some.forEach((entry, i) => { if (places[i]) entries.push({ entry, place: places[i] }) })
  }
  const progress = await parts.progress?.read()
  const left = entries.filter(({ place }) => place && place.offset >= (progress?.get(place.partition) ?? 0)).sort((a, b) => a.entry.version - b.entry.version)
  await inheritance.write([], new Map([[owner, left.length === 0 ? undefined : packTail(left)]]))
}

/** Sends what the node had committed to send; who has it already knows it. Answers what was for nodes that are gone and did not have it. */
async function sendAgain(inc: string, redone: Redone, own: ReadonlyMap<string, number>, parts: RecoveryParts): Promise<Orphan[]> {
  const byTarget = new Map<string, Sent[]>()
  for (const sent of redone.bus.sent) {
    const list = byTarget.get(sent.to)
    if (list) list.push(sent)
    else byTarget.set(sent.to, [sent])
  }
  const orphans: Orphan[] = []
  for (const [to, list] of byTarget) {
    list.sort((a, b) => a.number - b.number)
    let received = to === NOWHERE ? 0 : to === inc ? own.get(inc) ?? 0 : undefined
    for (const { number, frame } of list) {
      if (received === undefined && await parts.membership.send(to, { source: inc, first: number, pieces: [frame] }) === 'gone') received = await parts.membership.receivedBy(to, inc)
      if (received !== undefined && number > received) orphans.push(...apart(`${inc}>${to}`, number, frame, parts))
    }
  }
  return orphans
}
