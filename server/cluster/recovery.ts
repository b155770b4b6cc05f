/**
 * What a lost node leaves. All steps may be done again, by another node as well, until `finish`: nobody else can claim the units before.
 */
import { DELETE, PUT } from '../storage/groups/groups.ts'
import { RecordReader } from '../storage/groups/record.ts'
import { BUS_SECTION, BusRecord, NOWHERE, type Sent } from './bus.ts'
import { HISTORY_SECTION, packTail, type PlacedEntry, unpackEntry, unpackTail } from './history.ts'
import { type HistoryEntry, type HistoryProgress, type HistoryQueue, type Inheritance, type Membership, type RowStore, type UnitRow } from './shapes.ts'
import { frameRow, NAMED, RELEASED, UNITS_SECTION } from './storage.ts'
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
  isLive(inc: string): boolean
  /** The home of a unit, if it has one. */
  find(unit: string): Promise<string | undefined>
  /** The home of a unit, this node when it has none. */
  homeOf(unit: string): Promise<string>
  /** Resolves when what has been sent on so far is at the homes of its units, or after a while. */
  allHome(): Promise<void>
}

const ROWS_AT_ONCE = 1000
const ROW_BYTES_AT_ONCE = 1024 * 1024
const ENTRIES_AT_ONCE = 1000
const PIECES_AT_ONCE = 100
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
  const ways = new Map(inheritance.ways)
  let isSentOn = false
  const bring = async (orphan: Orphan): Promise<void> => {
    if (!await rehome(inheritance, parts, ways, orphan, placed)) isSentOn = true
  }
  // What it had sent itself, and passed on, is older than what it had not looked at.
  await sendAgain(inheritance.inc, redone, received, parts, bring)
  for (const orphan of ofInbox(inheritance, redone, parts)) await bring(orphan)
  await placed.written()
  if (redone.bus.hasSent || isSentOn) await parts.allHome()
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

  async add(row: UnitRow): Promise<void> {
    this.units.add(row.unit)
    this.#rows.push(row)
    this.#bytes += row.value?.length ?? 0
    if (this.#rows.length >= ROWS_AT_ONCE || this.#bytes >= ROW_BYTES_AT_ONCE) await this.written()
  }

  async written(): Promise<void> {
    const rows = this.#rows
    this.#rows = []
    this.#bytes = 0
    if (rows.length > 0) await this.#inheritance.write(rows, new Map())
  }
}

/** Brings a frame to its unit: true when it waits for it among its rows. */
async function rehome(inheritance: Inheritance, parts: RecoveryParts, ways: Map<string, readonly string[]>, { source, number, unit, frame }: Orphan, placed: PlacedFrames): Promise<boolean> {
  for (;;) {
    const nodes = ways.get(unit) ?? []
    for (const [i, node] of nodes.entries()) {
      if (i === nodes.length - 1 && await parts.membership.send(node, { source, first: number, pieces: [frame] }) === 'sent') return false
      // It is over, and who recovered it has seen to what it had.
      if (await parts.membership.receivedBy(node, source) >= number) return false
    }
    if (parts.isLost()) throw new Error('this node is lost itself')
    const home = placed.units.has(unit) ? inheritance.inc : await parts.homeOf(unit)
    if (home === inheritance.inc) {
      await placed.add(frameRow(unit, source, number, frame))
      return true
    }
    const further = [...nodes, home]
    await inheritance.noteWays(unit, further)
    ways.set(unit, further)
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
  const seen = new Map<string, number>()
  for (const { source, first, pieces } of parcels) {
    const last = seen.get(source) ?? 0
    seen.set(source, Math.max(last, first + pieces.length - 1))
    pieces.forEach((piece, i) => {
      if (first + i > last && !redone.bus.isDone(source, first + i)) orphans.push(...apart(`${source}>${inc}`, first + i, piece, parts))
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

/** How often lost nodes have had to wait for their turns. */
const turns = new Map<string, number>()
/** Two may wait for each other. */
const TURNS_MAX = 3

/** Whether a node that is lost itself is to pass these on: what their units send from their next homes must not come before that. */
async function isPassedOnByLost(to: string, sent: readonly Sent[], parts: RecoveryParts): Promise<boolean> {
  if (parts.isLive(to) || await parts.membership.send(to, { source: NOWHERE, first: 1, pieces: [] }) === 'gone') return false
  for (const { frame } of sent) for (const { unit } of parts.framesOf(frame)) if (await parts.find(unit) !== to) return true
  return false
}

/**
 * Sends what the node had committed to send, in the order in which it was committed; who has it already knows it. `bring` has what was for nodes that are gone
 * and did not have it.
 */
async function sendAgain(inc: string, redone: Redone, own: ReadonlyMap<string, number>, parts: RecoveryParts, bring: (orphan: Orphan) => Promise<void>): Promise<void> {
  /** Of nodes that are gone: what they had. */
  const received = new Map([[NOWHERE, 0], [inc, own.get(inc) ?? 0]])
  const sent = [...redone.bus.sent]
  for (let at = 0; at < sent.length;) {
    const { to, number } = sent[at] as Sent
    let end = at + 1
    while (end < sent.length && end - at < PIECES_AT_ONCE && sent[end]?.to === to && sent[end]?.number === number + end - at) end++
    const some = sent.slice(at, end)
    at = end
    let had = received.get(to)
    if (had === undefined) {
      if (turns.get(inc) !== TURNS_MAX && await isPassedOnByLost(to, some, parts)) {
        turns.set(inc, (turns.get(inc) ?? 0) + 1)
        throw new Error(`what ${inc} sent to ${to} is to be passed on first`)
      }
      if (await parts.membership.send(to, { source: inc, first: number, pieces: some.map(({ frame }) => frame) }) === 'sent') continue
      had = await parts.membership.receivedBy(to, inc)
      received.set(to, had)
    }
    for (const each of some) {
      if (each.number <= had) continue
      for (const orphan of apart(`${inc}>${to}`, each.number, each.frame, parts)) await bring(orphan)
    }
  }
}
