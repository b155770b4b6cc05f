/**
 * The main process of one machine: what several chat processes share, over the store that it alone uses. It keeps who is there, which process is
 * the home of which unit, the logs and inboxes of the processes, and the rows of units. A process that ends is over at once: its
 * connection ends with it.
 *
 *     l process segment record -> a record of a process's log: time of the last id, place among all records and parcels (8 bytes each), payload
 *     i process entry          -> a parcel in a process's inbox that its sender's log does not hold any more
 *     g process                -> of one that is over: what it had of others, and when that was
 *     v owner                  -> below which id the owner's history is being removed
 *     h                        -> a secret that all processes know
 *     k                        -> when any process was last served, ms
 *
 * A parcel is in memory until its receiver has done it. Frames in it that are durable stand in the log of their sender, so it is written itself
 * only when that log is about to forget them, and when its sender is about to be forgotten. A start gets inboxes back from the logs.
 *
 * Changes of history in a record go into the archive with the group that has the rest of the record, which is kept without them.
 */
import { randomBytes } from 'node:crypto'
import { rmSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { Recent } from '../../../lib/recent.ts'
import { continueIdsAfter, firstIdOf, timeOfLastId } from '../../../lib/stanza/ids.ts'
import { type LogRecord } from '../../storage/groups/log.ts'
import { RecordReader, RecordWriter } from '../../storage/groups/record.ts'
import { decodePart, encodePart, KEY_END, type OrderedStore } from '../../storage/ordered.ts'
import { type Storage } from '../../storage/shapes.ts'
import { type TailArchive } from '../../storage/archive/archive.ts'
import { NOWHERE } from '../bus.ts'
import { HISTORY_SECTION, unpackEntry } from '../history.ts'
import { SECRETS } from '../records.ts'
import { sentBy } from '../recovery.ts'
import { type HistoryEntry, type NodeInfo, type Parcel } from '../shapes.ts'
import {
  ASK, readChanges, readList, readNumbers, readOptional, readParcel, readQuery, readRows, readTails, TELL, writeItem, writeKeyed, writeList, writeNodes, writeNumbers,
  writeOptional, writePage, writeParcel, writeRecords, writeUnit,
} from './messages.ts'
import { Places } from './places.ts'
import { Wire } from './wire.ts'

/** The store of the main process. */
export interface HubStorage extends Pick<Storage, 'afterCommit' | 'committed' | 'status'> {
  readonly rows: OrderedStore
  readonly history: TailArchive
}

export interface HubOptions {
  readonly storage: HubStorage
  /** Path of the Unix socket that chat processes connect to. */
  readonly path: string
  /** A process that says nothing for so long is over. */
  readonly leaseMs?: number
  /** Whether records of logs are those of a ClusterStorage: unless set they are. */
  readonly readsLogs?: boolean
  /** A process is over that may still run: it must end before anything of it is done elsewhere. */
  readonly onLost?: (inc: string) => void
  readonly onError?: (error: unknown) => void
}

const LEASE_MS = 5000
const TICK_MS = 1000
/** How long who is over is remembered. */
const GONE_KEPT_MS = 86_400_000
/** Units of which it is remembered until when they had a home. */
const RELEASED_MAX = 100_000
/** What is handed out to a process and not done; beyond this who sends more waits. */
const INBOX_BYTES_MAX = 16 * 1024 * 1024
/** A claim waits so long for who is being recovered, ms. */
const CLAIM_WAIT_MS = 10_000
const RECOVER_AGAIN_MS = 200

interface Entry {
  readonly number: number
  readonly parcel: Parcel
  /** Whose log holds what of it is durable. */
  readonly sender: string
  readonly bytes: number
  /** Where it is written. */
  key: string | undefined
}

/** What a start finds on its way to a process. */
interface Found {
  readonly target: Member
  readonly parcel: Parcel
  readonly sender: string
  /** Among all records and parcels. */
  readonly place: number
  /** Where it is written, if it is written itself. */
  readonly kept: { readonly key: string; readonly number: number } | undefined
}

/** History that is being removed. */
interface Removal {
  readonly high: string
  readonly steps: Generator<undefined, number>
  readonly waiting: (() => void)[]
}

interface Member {
  info: NodeInfo
  wire: Wire | undefined
  /** `gone`: nothing is left of it. */
  state: 'live' | 'lost' | 'being recovered' | 'gone'
  inherits: boolean
  /** It has said that it does nothing any more. */
  hasLeft: boolean
  heardAt: number
  /** Keys of the records of its log, by segment. */
  readonly segments: Map<number, string[]>
  record: number
  readonly inbox: Map<number, Entry>
  /** As of an Inheritance. */
  readonly ways: Map<string, readonly string[]>
  inboxBytes: number
  /** The highest number that has come from each source: who recovers that sends again what is here. */
  readonly sources: Map<string, number>
  /** Called when the inbox has room again. */
  readonly waiting: (() => void)[]
}

/** A lost process whose turn it is, and who recovers it. */
interface Turn {
  readonly member: Member
  readonly by: Member
}

export class Hub {
  readonly #options: HubOptions
  readonly #storage: HubStorage
  readonly #rows: OrderedStore
  readonly #places: Places
  readonly #members = new Map<string, Member>()
  readonly #homes = new Map<string, string>()
  readonly #gone = new Map<string, ReadonlyMap<string, number>>()
  readonly #releasedMs = new Recent<number>(RELEASED_MAX)
  /** Processes of an earlier main process: any unit may have been theirs. */
  readonly #earlier = new Set<string>()
  readonly #lost: Member[] = []
  /** By owner. */
  readonly #removals = new Map<string, Removal>()
  /** Claims that wait until nobody is being recovered who may have the unit. */
  readonly #claims = new Set<() => void>()
  readonly #startMs: number
  #turn: Turn | undefined
  #entry = 0
  #server: Server | undefined
  #timer: NodeJS.Timeout | undefined
  #recoverTimer: NodeJS.Timeout | undefined
  #tickedAt = performance.now()
  #problem: string | undefined
  #isClosed = false

  private constructor(options: HubOptions) {
    this.#options = options
    this.#storage = options.storage
    this.#rows = options.storage.rows
    this.#places = new Places(this.#rows)
    this.#startMs = Math.max(timeOfLastId(), this.#rows.get('k')?.readDoubleBE(0) ?? 0)
    this.#finishRemovals()
    this.#readGone()
    this.#readLogs()
    this.#readInboxes()
    this.#lost.push(...this.#members.values())
  }

  /** Takes over what earlier processes have left, and listens. */
  static async open(options: HubOptions): Promise<Hub> {
    const hub = new Hub(options)
    await hub.#listen()
    return hub
  }

  get nodes(): readonly NodeInfo[] {
    return [...this.#members.values()].filter((member) => member.state === 'live').map((member) => member.info)
  }

  /** Whether nothing is left of processes that are over. */
  get isRecovered(): boolean { return this.#lost.length === 0 && this.#turn === undefined }

  /** Whether nothing is on its way to any process. */
  get isIdle(): boolean { return this.isRecovered && [...this.#members.values()].every((member) => member.inbox.size === 0) }

  /** A process is over, though it may run. */
  fence(inc: string): void {
    const member = this.#members.get(inc)
    if (member?.state === 'live') member.wire?.close()
  }

  /** Ends all connections; the processes end then. Resolves when everything that was said before is written. */
  async close(): Promise<void> {
    this.#isClosed = true
    clearInterval(this.#timer)
    clearTimeout(this.#recoverTimer)
    for (const { wire } of this.#members.values()) wire?.close()
    const server = this.#server
    if (server) await new Promise<void>((resolve) => { server.close(() => { resolve() }) })
    await this.#storage.committed()
  }

  // What a start finds.

  #readGone(): void {
    for (const key of this.#rows.keys('g', `g${KEY_END}`, Infinity, false)) {
      const reader = new RecordReader(this.#rows.get(key) as Buffer)
      if (reader.double() < Date.now() - GONE_KEPT_MS) this.#rows.delete(key)
      else this.#gone.set(decodePart(key.slice(1, -1)), readNumbers(reader))
    }
  }

  #readLogs(): void {
    for (const key of this.#rows.keys('l', `l${KEY_END}`, Infinity, false)) {
      const end = key.indexOf('\0')
      const member = this.#earlierMember(decodePart(key.slice(1, end)))
      const segment = Number.parseInt(key.slice(end + 1, end + 1 + SEGMENT_DIGITS), 16)
      listOf(member.segments, segment).push(key)
      member.record = Number.parseInt(key.slice(end + 1 + SEGMENT_DIGITS), 16)
      this.#entry = Math.max(this.#entry, (this.#rows.get(key) as Buffer).readDoubleBE(8))
    }
  }

  #readInboxes(): void {
    const found: Found[] = []
    for (const key of this.#rows.keys('i', `i${KEY_END}`, Infinity, false)) {
      const end = key.indexOf('\0')
      const number = Number.parseInt(key.slice(end + 1), 16)
      this.#entry = Math.max(this.#entry, number)
      const parcel = readParcel(new RecordReader(this.#rows.get(key) as Buffer))
      found.push({ target: this.#earlierMember(decodePart(key.slice(1, end))), parcel, sender: '', place: number, kept: { key, number } })
    }
    if (this.#options.readsLogs !== false) {
      for (const member of this.#members.values()) {
        const source = member.info.inc
        for (const { to, number, frame, place } of sentBy(this.#recordsOf(member))) {
          // One that is no member has written nothing yet.
          if (to !== NOWHERE && !this.#gone.has(to)) found.push({ target: this.#earlierMember(to), parcel: { source, first: number, pieces: [frame] }, sender: source, place, kept: undefined })
        }
      }
    }
    for (const { target, parcel, sender, kept } of inOrder(found)) if (kept || !hasCome(target, parcel)) this.#put(target, parcel, sender, kept)
  }

  #earlierMember(inc: string): Member {
    const known = this.#members.get(inc)
    if (known) return known
    const member = newMember({ inc, name: inc, address: '', roles: [], leaving: false }, undefined, 'lost')
    this.#members.set(inc, member)
    this.#earlier.add(inc)
    return member
  }

  // Connections.

  async #listen(): Promise<void> {
    // What a killed process left; the store's lock says that it is over.
    rmSync(this.#options.path, { force: true })
    const server = createServer((socket) => { this.#accept(socket) })
    this.#server = server
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      const before = process.umask(0o177)
      try {
        server.listen(this.#options.path, () => {
          server.off('error', reject)
          resolve()
        })
      } finally {
        process.umask(before)
      }
    })
    this.#timer = setInterval(() => { this.#tick() }, TICK_MS).unref()
  }

  #accept(socket: Socket): void {
    let member: Member | undefined
    const wire = new Wire(socket, {
      isPatient: true,
      onMessage: (kind, question, body) => {
        if (kind === ASK.join && !member) {
          const [info] = JSON.parse(body.text()) as [NodeInfo]
          if (this.#members.has(info.inc) || this.#isClosed) throw new Error(`${info.inc} cannot join`)
          member = newMember(info, wire, 'live')
          this.#members.set(info.inc, member)
          wire.send(TELL.answer, question)
          if (this.#problem !== undefined) this.#tellProblem(wire)
          this.#changed([])
          return
        }
        if (!member) throw new Error('who has not joined asks nothing')
        member.heardAt = performance.now()
        this.#asked(member, wire, kind, question, body)
      },
      onClose: (error) => {
        if (error !== undefined) this.#options.onError?.(error)
        if (member?.state === 'live') this.#lose(member)
      },
    })
  }

  #tick(): void {
    const now = performance.now()
    // While this process could not listen nobody is late.
    const isLate = now - this.#tickedAt > 2 * TICK_MS
    this.#tickedAt = now
    let isServed = false
    for (const member of this.#members.values()) {
      if (member.state !== 'live') continue
      isServed = true
      if (isLate) member.heardAt = now
      else if (now - member.heardAt > (this.#options.leaseMs ?? LEASE_MS)) member.wire?.close()
    }
    if (isServed) this.#rows.put('k', double(Date.now()))
    const { problem } = this.#storage.status()
    if (problem === this.#problem) return
    this.#problem = problem
    for (const { wire } of this.#members.values()) if (wire) this.#tellProblem(wire)
  }

  #tellProblem(wire: Wire): void {
    wire.send(TELL.problem, 0, (body) => { writeOptional(body, this.#problem, (problem) => { body.text(problem) }) })
  }

  #asked(member: Member, wire: Wire, kind: number, question: number, body: RecordReader): void {
    const answer = (write?: (to: RecordWriter) => void): void => { wire.send(TELL.answer, question, write) }
    const refuse = (reason: string): void => { wire.send(TELL.failed, question, (to) => { to.text(reason) }) }
    const { inc } = member.info
    try {
      switch (kind) {
        case ASK.beat: return
        case ASK.claim: return this.#claim(member, body.text(), answer)
        case ASK.find: {
          const home = this.#homeOf(body.text())
          return answer((to) => { writeOptional(to, home, (name) => { to.text(name) }) })
        }
        case ASK.release: {
          const lastMs = body.double()
          this.#release(inc, readList(body, () => body.text()), lastMs)
          return answer()
        }
        case ASK.write: return this.#write(inc, body, answer)
        case ASK.append: return this.#append(member, body, answer)
        case ASK.drop: return this.#drop(member, body.uint32(), answer)
        case ASK.send: return this.#send(member, body.text(), readParcel(body), answer)
        case ASK.done: return this.#done(member, readList(body, () => body.double()))
        case ASK.receivedBy: {
          const number = this.#gone.get(body.text())?.get(body.text()) ?? 0
          return answer((to) => { to.double(number) })
        }
        case ASK.inherits:
          member.inherits = true
          return this.#recoverSoon(0)
        case ASK.inheritedLoad: {
          this.#inherited(member, body.text())
          const unit = body.text()
          return answer((to) => { writeUnit(to, this.#places.load(unit, this.#lastMsOf(unit))) })
        }
        case ASK.inheritedWrite: return this.#write(this.#inherited(member, body.text()).info.inc, body, answer)
        case ASK.inheritedWays: {
          // Should this process end, all end, and what they have sent each other meanwhile is lost with it.
          this.#inherited(member, body.text()).ways.set(body.text(), readList(body, () => body.text()))
          return answer(() => undefined)
        }
        case ASK.inheritedFinish: return this.#finish(this.#inherited(member, body.text()), body.double(), readNumbers(body), answer)
        case ASK.inheritedFailed: return this.#giveBack(this.#inherited(member, body.text()))
        case ASK.secrets: {
          const secret = this.#secret()
          const rows = [...SECRETS].flatMap((table) => this.#places.table(table))
          return this.#storage.afterCommit(() => {
            answer((to) => {
              to.bytes(secret)
              writeKeyed(to, rows)
            })
          })
        }
        case ASK.leaving:
          member.info = { ...member.info, leaving: true }
          this.#changed([])
          return answer()
        case ASK.leave: return this.#leave(member, answer)
        case ASK.recordsLoad: {
          const rows = this.#places.records(body.text())
          return answer((to) => { writeKeyed(to, rows) })
        }
        case ASK.recordsWrite:
          this.#places.write(readRows(body))
          return this.#storage.afterCommit(answer)
        case ASK.recordsUnits: {
          const units = this.#places.units(body.text(), readOptional(body, () => body.text()), body.double())
          return answer((to) => { writeList(to, units, (unit) => { to.text(unit) }) })
        }
        default: this.#askedHistory(kind, body, answer).catch((error: unknown) => { refuse(String((error as Error).message)) })
      }
    } catch (error) {
      refuse((error as Error).message)
    }
  }

  #secret(): Buffer {
    const known = this.#rows.get('h')
    if (known) return known
    const secret = randomBytes(32)
    this.#rows.put('h', secret)
    return secret
  }

  async #askedHistory(kind: number, body: RecordReader, answer: (write?: (to: RecordWriter) => void) => void): Promise<void> {
    const { history } = this.#storage
    switch (kind) {
      case ASK.historyWrite: {
        for (const { owner, id, with: other, bytes } of readChanges(body)) this.#change({ owner, id, with: other, bytes, version: 0 })
        return this.#storage.afterCommit(answer)
      }
      case ASK.historyQuery: {
        const page = history.query(body.text(), readQuery(body))
        return answer((to) => { writePage(to, page) })
      }
      case ASK.historyCount: {
        const owner = body.text()
        const query = readQuery(body)
        const count = history.count(owner, query, query.max)
        return answer((to) => { to.double(count) })
      }
      case ASK.historyGet: {
        const item = history.get(body.text(), body.text())
        return answer((to) => { writeOptional(to, item, (found) => { writeItem(to, found) }) })
      }
      case ASK.historyPurge: {
        const owner = body.text()
        this.#remove(owner, readOptional(body, () => body.double()))
        return this.#afterRemovals([owner], answer)
      }
      case ASK.historyRemoved: return this.#afterRemovals(readList(body, () => body.text()), answer)
      case ASK.historyExpire: {
        const count = await history.expire(body.double())
        return this.#storage.afterCommit(() => { answer((to) => { to.double(count) }) })
      }
      default: throw new Error(`nobody asks a question of kind ${kind}`)
    }
  }

  #change(entry: HistoryEntry): void {
    const { owner } = entry
    if ('purge' in entry) return this.#remove(owner, entry.before)
    const removal = this.#removals.get(owner)
    // What is written after a removal is not removed by it.
    if (removal && entry.id < removal.high) this.#finishRemoval(owner, removal)
    const { history } = this.#storage
    if (entry.bytes) history.append({ id: entry.id, bytes: entry.bytes, owners: [{ owner, with: entry.with }] })
    else history.delete(owner, entry.id)
  }

  /** Begins to remove an owner's items older than `before` (ms), or all: what is there now. */
  #remove(owner: string, before: number | undefined): void {
    const { history } = this.#storage
    const known = this.#removals.get(owner)
    if (known) this.#finishRemoval(owner, known)
    const last = history.bounds(owner)?.last
    if (last === undefined) return
    const end = `${last}\0`
    const first = before === undefined ? end : firstIdOf(before)
    const high = first < end ? first : end
    const removal: Removal = { high, steps: history.removal(owner, high), waiting: [] }
    if (removal.steps.next().done) return
    this.#removals.set(owner, removal)
    this.#rows.put(`v${encodePart(owner)}`, Buffer.from(JSON.stringify({ owner, high })))
    void this.#goOn(owner, removal)
  }

  async #goOn(owner: string, removal: Removal): Promise<void> {
    for (;;) {
      await this.#storage.committed()
      if (this.#removals.get(owner) !== removal) return
      if (removal.steps.next().done) return this.#removed(owner, removal)
    }
  }

  #finishRemoval(owner: string, removal: Removal): void {
    while (!removal.steps.next().done);
    this.#removed(owner, removal)
  }

  #removed(owner: string, removal: Removal): void {
    this.#removals.delete(owner)
    this.#rows.delete(`v${encodePart(owner)}`)
    for (const end of removal.waiting) end()
  }

  #afterRemovals(owners: readonly string[], answer: () => void): void {
    let left = 1
    const end = (): void => { if (--left === 0) this.#storage.afterCommit(answer) }
    for (const owner of owners) {
      const removal = this.#removals.get(owner)
      if (!removal) continue
      left++
      removal.waiting.push(end)
    }
    end()
  }

  /** Goes on where an earlier main process was killed. */
  #finishRemovals(): void {
    for (const key of this.#rows.keys('v', `v${KEY_END}`, Infinity, false)) {
      const row = this.#rows.get(key) as Buffer
      const { owner, high } = JSON.parse(row.toString()) as { owner: string; high: string }
      for (const _step of this.#storage.history.removal(owner, high));
      this.#rows.delete(key)
    }
  }

  // Units.

  #homeOf(unit: string): string | undefined {
    const home = this.#homes.get(unit)
    if (home !== undefined || this.#earlier.size === 0) return home
    const { inc } = this.#turn?.member.info ?? {}
    return inc !== undefined && this.#earlier.has(inc) ? inc : this.#earlier.values().next().value
  }

  #claim(member: Member, unit: string, answer: (write: (to: RecordWriter) => void) => void): void {
    const deadline = performance.now() + CLAIM_WAIT_MS
    const timer = setTimeout(() => { again() }, CLAIM_WAIT_MS).unref()
    const again = (): void => {
      const home = this.#homeOf(unit)
      const isOver = home !== undefined && this.#members.get(home)?.state !== 'live'
      if (member.state === 'live' && isOver && performance.now() < deadline) return
      this.#claims.delete(again)
      clearTimeout(timer)
      if (member.state !== 'live') return
      if (home !== undefined && home !== member.info.inc) {
        return answer((to) => {
          to.uint8(0)
          to.text(home)
        })
      }
      this.#homes.set(unit, member.info.inc)
      answer((to) => {
        to.uint8(1)
        writeUnit(to, this.#places.load(unit, this.#lastMsOf(unit)))
      })
    }
    this.#claims.add(again)
    again()
  }

  #lastMsOf(unit: string): number { return this.#releasedMs.get(unit) ?? this.#startMs }

  #release(inc: string, units: Iterable<string>, lastMs: number): void {
    for (const unit of units) {
      if (this.#homes.get(unit) !== inc) continue
      this.#homes.delete(unit)
      this.#releasedMs.set(unit, lastMs)
      this.#places.release(unit, lastMs)
    }
  }

  #write(inc: string, body: RecordReader, answer: () => void): void {
    const rows = readRows(body)
    const tails = readTails(body)
    const assertHome = (unit: string): void => {
      if (this.#homeOf(unit) !== inc) throw new Error(`${inc} is not the home of ${unit}`)
    }
    for (const { unit } of rows) assertHome(unit)
    for (const unit of tails.keys()) assertHome(unit)
    this.#places.write(rows)
    for (const [unit, tail] of tails) this.#places.writeTail(unit, tail)
    this.#storage.afterCommit(answer)
  }

  // Logs.

  #append(member: Member, body: RecordReader, answer: () => void): void {
    const segment = body.uint32()
    const number = body.double()
    let value = body.bytes()
    if (number !== member.record + 1) throw new Error('a record is missing in between')
    value.writeDoubleBE(++this.#entry, 8)
    if (this.#options.readsLogs !== false) {
      const { rest, history } = splitRecord(value)
      value = rest
      for (const entry of history) this.#change(entry)
    }
    const key = `${logPrefix(member.info.inc)}${segment.toString(16).padStart(SEGMENT_DIGITS, '0')}${number.toString(16).padStart(RECORD_DIGITS, '0')}`
    this.#rows.putNew(key, value)
    listOf(member.segments, segment).push(key)
    member.record = number
    continueIdsAfter(value.readDoubleBE(0))
    this.#storage.afterCommit(answer)
  }

  #drop(member: Member, upTo: number, answer: () => void): void {
    this.#spill(member.info.inc)
    for (const [segment, keys] of member.segments) {
      if (segment > upTo) continue
      for (const key of keys) this.#rows.delete(key)
      member.segments.delete(segment)
    }
    answer()
  }

  #recordsOf(member: Member): (LogRecord & { readonly place: number })[] {
    const keys = [...member.segments].sort(([a], [b]) => a - b).flatMap(([, list]) => list)
    return keys.map((key) => {
      const value = this.#rows.get(key) as Buffer
      return { number: Number.parseInt(key.slice(-RECORD_DIGITS), 16), lastIdMs: value.readDoubleBE(0), place: value.readDoubleBE(8), payload: value.subarray(RECORD_HEADER_BYTES) }
    })
  }

  // Inboxes.

  #send(member: Member, inc: string, parcel: Parcel, answer: (write: (to: RecordWriter) => void) => void): void {
    const target = this.#members.get(inc)
    const sent = (isSent: boolean) => (): void => { answer((to) => { to.uint8(isSent ? 1 : 0) }) }
    if (!target) return sent(false)()
    if (target.state === 'being recovered') return answer((to) => { to.uint8(2) })
    if (hasCome(target, parcel)) return sent(true)()
    const entry = this.#put(target, parcel, member.info.inc)
    const isLogged = parcel.source === member.info.inc && target.state === 'live'
    if (!isLogged) this.#keep(target, entry)
    this.#deliver(target, entry)
    const end = isLogged ? sent(true) : (): void => { this.#storage.afterCommit(sent(true)) }
    if (target.state === 'live' && target.inboxBytes > INBOX_BYTES_MAX) target.waiting.push(end)
    else end()
  }

  #put(target: Member, parcel: Parcel, sender: string, kept?: Found['kept']): Entry {
    let bytes = 200
    for (const piece of parcel.pieces) bytes += piece.length
    const entry: Entry = { number: kept?.number ?? ++this.#entry, parcel, sender, bytes, key: kept?.key }
    target.inbox.set(entry.number, entry)
    target.inboxBytes += bytes
    target.sources.set(parcel.source, Math.max(target.sources.get(parcel.source) ?? 0, parcel.first + parcel.pieces.length - 1))
    return entry
  }

  #deliver(target: Member, { number, parcel }: Entry): void {
    target.wire?.send(TELL.parcel, 0, (to) => {
      to.double(number)
      writeParcel(to, parcel)
    })
  }

  #keep(target: Member, entry: Entry): void {
    entry.key = `i${encodePart(target.info.inc)}${entry.number.toString(16).padStart(RECORD_DIGITS, '0')}`
    const writer = new RecordWriter()
    writeParcel(writer, entry.parcel)
    this.#rows.putNew(entry.key, Buffer.from(writer.finish()))
  }

  /** Writes what has come from a process, and is not done, so that its log may forget it. */
  #spill(sender: string): void {
    for (const target of this.#members.values()) {
      for (const entry of target.inbox.values()) if (entry.sender === sender && entry.key === undefined) this.#keep(target, entry)
    }
  }

  #done(member: Member, numbers: readonly number[]): void {
    for (const number of numbers) {
      const entry = member.inbox.get(number)
      if (!entry) continue
      member.inbox.delete(number)
      member.inboxBytes -= entry.bytes
      if (entry.key !== undefined) this.#rows.delete(entry.key)
    }
    if (member.inboxBytes <= INBOX_BYTES_MAX) for (const end of member.waiting.splice(0)) end()
  }

  // Processes that are over.

  #lose(member: Member): void {
    member.state = 'lost'
    member.wire = undefined
    for (const end of member.waiting.splice(0)) end()
    if (this.#isClosed) return
    if (!member.hasLeft) this.#options.onLost?.(member.info.inc)
    this.#recoversNoMore(member)
    this.#lost.push(member)
    this.#changed([])
    this.#recoverSoon(0)
  }

  /** Whom this process recovers another does. */
  #recoversNoMore(by: Member): void {
    if (this.#turn?.by === by) this.#giveBack(this.#turn.member)
  }

  #leave(member: Member, answer: () => void): void {
    member.hasLeft = true
    const isEmpty = member.inbox.size === 0 && [...member.segments.values()].every((keys) => keys.length === 0)
    if (isEmpty) this.#end(member, 0, new Map(), () => { answer() })
    else answer()
  }

  #changed(gone: readonly string[]): void {
    const { nodes } = this
    for (const { wire } of this.#members.values()) {
      wire?.send(TELL.nodes, 0, (to) => {
        writeNodes(to, nodes)
        writeList(to, gone, (inc) => { to.text(inc) })
      })
    }
  }

  #recoverSoon(waitMs: number): void {
    clearTimeout(this.#recoverTimer)
    this.#recoverTimer = setTimeout(() => { this.#recoverNext() }, waitMs)
  }

  #recoverNext(): void {
    if (this.#turn || this.#isClosed) return
    const [by] = [...this.#members.values()].filter((one) => one.state === 'live' && one.inherits).sort(() => Math.random() - 0.5)
    const member = by && this.#lost.shift()
    if (!member) return
    member.state = 'being recovered'
    this.#turn = { member, by }
    by.wire?.send(TELL.inheritance, 0, (to) => {
      to.text(member.info.inc)
      writeRecords(to, this.#recordsOf(member))
      writeList(to, [...member.inbox.values()], ({ parcel }) => { writeParcel(to, parcel) })
      writeList(to, [...member.ways], ([unit, nodes]) => {
        to.text(unit)
        writeList(to, nodes, (node) => { to.text(node) })
      })
    })
  }

  /** The lost process that this one recovers. */
  #inherited(by: Member, inc: string): Member {
    if (this.#turn?.by !== by || this.#turn.member.info.inc !== inc) throw new Error(`${inc} is recovered by another`)
    return this.#turn.member
  }

  #giveBack(member: Member): void {
    member.state = 'lost'
    this.#turn = undefined
    this.#lost.push(member)
    this.#recoverSoon(RECOVER_AGAIN_MS)
  }

  #finish(member: Member, lastMs: number, received: ReadonlyMap<string, number>, answer: () => void): void {
    this.#turn = undefined
    this.#end(member, lastMs, received, answer)
    this.#recoverSoon(0)
  }

  /** Nothing is left of it. */
  #end(member: Member, lastMs: number, received: ReadonlyMap<string, number>, answer: () => void): void {
    const { inc } = member.info
    member.state = 'gone'
    this.#recoversNoMore(member)
    for (const end of member.waiting.splice(0)) end()
    this.#spill(inc)
    for (const { sources } of this.#members.values()) for (const source of sources.keys()) if (source === inc || source.endsWith(`>${inc}`)) sources.delete(source)
    for (const keys of member.segments.values()) for (const key of keys) this.#rows.delete(key)
    for (const { key } of member.inbox.values()) if (key !== undefined) this.#rows.delete(key)
    const writer = new RecordWriter()
    writer.double(Date.now())
    writeNumbers(writer, received)
    this.#rows.put(`g${encodePart(inc)}`, Buffer.from(writer.finish()))
    this.#gone.set(inc, received)
    this.#members.delete(inc)
    this.#earlier.delete(inc)
    this.#release(inc, [...this.#homes].filter(([, home]) => home === inc).map(([unit]) => unit), lastMs)
    this.#storage.afterCommit(() => {
      answer()
      this.#changed([inc])
      for (const again of this.#claims) again()
    })
  }
}

/** A record without its changes of history, and these. */
function splitRecord(value: Buffer): { readonly rest: Buffer; readonly history: readonly HistoryEntry[] } {
  const history: HistoryEntry[] = []
  const others: Buffer[] = []
  /** Where what has not been looked at, or was kept, begins. */
  let kept = 0
  for (let at = RECORD_HEADER_BYTES; at < value.length;) {
    const end = at + 5 + value.readUInt32BE(at + 1)
    if (end > value.length) throw new RangeError('the record is shorter than it says')
    if (value[at] === HISTORY_SECTION) {
      history.push(unpackEntry(new RecordReader(value.subarray(at + 5, end))))
      if (at > kept) others.push(value.subarray(kept, at))
      kept = end
    }
    at = end
  }
  if (history.length === 0) return { rest: value, history }
  others.push(value.subarray(kept))
  return { rest: Buffer.concat(others), history }
}

/** Whether all of a parcel is, or was, in a process's inbox. */
function hasCome({ sources }: Member, { source, first, pieces }: Parcel): boolean { return first + pieces.length - 1 <= (sources.get(source) ?? 0) }

/** In order of their places, those of one source in that of their numbers: what was sent later may have a place before what came into an inbox later. */
function inOrder(found: readonly Found[]): Found[] {
  const bySource = new Map<string, { readonly each: Found; place: number }[]>()
  for (const each of found) {
    const key = `${each.target.info.inc} ${each.parcel.source}`
    const list = bySource.get(key)
    if (list) list.push({ each, place: each.place })
    else bySource.set(key, [{ each, place: each.place }])
  }
  for (const list of bySource.values()) {
    list.sort((a, b) => a.each.parcel.first - b.each.parcel.first)
    let place = Infinity
    for (const one of list.toReversed()) place = one.place = Math.min(place, one.place)
  }
  return [...bySource.values()].flat().sort((a, b) => a.place - b.place).map(({ each }) => each)
}

const RECORD_HEADER_BYTES = 16
const SEGMENT_DIGITS = 8
const RECORD_DIGITS = 14

function logPrefix(inc: string): string { return `l${encodePart(inc)}` }

function newMember(info: NodeInfo, wire: Wire | undefined, state: Member['state']): Member {
  return { info, wire, state, inherits: false, hasLeft: false, heardAt: performance.now(), segments: new Map(), record: 0, inbox: new Map(), ways: new Map(), inboxBytes: 0, sources: new Map(), waiting: [] }
}

function listOf<K>(map: Map<K, string[]>, key: K): string[] {
  let list = map.get(key)
  if (!list) map.set(key, list = [])
  return list
}

function double(value: number): Buffer {
  const bytes = Buffer.allocUnsafe(8)
  bytes.writeDoubleBE(value)
  return bytes
}
