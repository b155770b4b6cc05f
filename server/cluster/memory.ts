/**
 * A cluster in memory, for tests: several nodes in one process, which can be killed, or lose their leases, at any moment. What is outside of the
 * nodes outlives them. Between what a node asks and its answer something may be put: a delay, or a failure before or after it is done.
 */
import { type LogRecord } from '../storage/groups/log.ts'
import { HEADER_BYTES } from '../storage/groups/log.ts'
import { RecoveredError } from './errors.ts'
import { type Claim, type Inheritance, type LoadedUnit, type Membership, type NodeInfo, type Addressed, type NodeLog, type Parcel, type UnitRow } from './shapes.ts'

/** Called before and after each thing that a node asks; may throw. */
export type Between = (inc: string, what: string, when: 'before' | 'after') => Promise<void> | void

interface Place {
  readonly rows: Map<string, Buffer>
  tail: Buffer | undefined
  lastMs: number
}

interface Entry {
  readonly parcel: Parcel
  isHandedOut: boolean
}

interface Member {
  info: NodeInfo
  /** `lost`: it may still believe that it lives. */
  state: 'live' | 'lost' | 'being recovered'
  isKilled: boolean
  readonly segments: Map<number, LogRecord[]>
  record: number
  readonly inbox: Entry[]
  readonly ways: Map<string, readonly string[]>
  readonly membership: MemoryMembership
}

const NEVER = new Promise<never>(() => {})
const RECOVER_MS = 2

export class MemoryCluster {
  between: Between = () => {}
  readonly #members = new Map<string, Member>()
  readonly #homes = new Map<string, string>()
  readonly #places = new Map<string, Place>()
  readonly #received = new Map<string, ReadonlyMap<string, number>>()
  readonly #lost: string[] = []
  readonly #killed = new Set<string>()
  #isRecovering = false
  #joined = 0

  join(name: string, roles: readonly string[] = [], address = ''): MemoryMembership {
    const info: NodeInfo = { inc: `${name}-${++this.#joined}`, name, address, roles, leaving: false }
    const membership = new MemoryMembership(this, info)
    this.#members.set(info.inc, { info, state: 'live', isKilled: false, segments: new Map([[1, []]]), record: 0, inbox: [], ways: new Map(), membership })
    this.changed([])
    return membership
  }

  get nodes(): readonly NodeInfo[] {
    return [...this.#members.values()].filter((member) => member.state === 'live').map((member) => member.info)
  }

  /** Homes of units, for tests to look at. */
  get homes(): ReadonlyMap<string, string> { return this.#homes }

  /** Lost nodes that are not recovered yet. */
  get lost(): readonly string[] { return this.#lost }

  get isRecovering(): boolean { return this.#isRecovering || this.#lost.length > 0 }

  placeOf(unit: string): Place {
    let place = this.#places.get(unit)
    if (!place) this.#places.set(unit, place = { rows: new Map(), tail: undefined, lastMs: 0 })
    return place
  }

  /** As `kill -9`: nothing of it goes on; what it asked may still be done. Its lease ends at once. */
  kill(inc: string): void {
    const member = this.#members.get(inc)
    if (!member || member.isKilled) return
    member.isKilled = true
    this.#killed.add(inc)
    this.fence(inc)
  }

  /** Its lease has ended, though it may live. */
  fence(inc: string): void {
    const member = this.#members.get(inc)
    if (member?.state !== 'live') return
    member.state = 'lost'
    this.#lost.push(inc)
    if (!member.isKilled) setImmediate(() => { member.membership.lose() })
    this.changed([])
    this.#recoverSoon()
  }

  changed(gone: readonly string[]): void {
    for (const member of this.#members.values()) if (member.state === 'live') setImmediate(() => { if (!member.isKilled) member.membership.changed(gone) })
  }

  /** What a node asks of what is outside. It gets no answer once it is killed. */
  async ask<T>(inc: string, what: string, run: (member: Member) => T): Promise<T> {
    const member = this.#members.get(inc)
    if (member?.isKilled || this.#killed.has(inc)) return await NEVER
    if (!member) throw new Error(`${inc} has lost its lease`)
    await this.between(inc, what, 'before')
    // What a killed process has sent may still be done.
    const known = this.#members.get(inc)
    if (!known) return await NEVER
    const answer = run(known)
    await this.between(inc, what, 'after')
    if (member.isKilled) return await NEVER
    return answer
  }

  claim(member: Member, unit: string): Claim {
    assertLive(member)
    const home = this.#homes.get(unit)
    if (home !== undefined && home !== member.info.inc) return { here: false, inc: home }
    this.#homes.set(unit, member.info.inc)
    return { here: true, unit: this.load(unit) }
  }

  find(unit: string): string | undefined { return this.#homes.get(unit) }

  load(unit: string): LoadedUnit {
    const { rows, tail, lastMs } = this.placeOf(unit)
    return { rows: Array.from(rows, ([key, value]) => ({ key, value })), tail, lastMs }
  }

  release(member: Member, units: readonly string[], lastMs: number): void {
    assertLive(member)
    for (const unit of units) {
      if (this.#homes.get(unit) !== member.info.inc) continue
      this.#homes.delete(unit)
      this.placeOf(unit).lastMs = lastMs
    }
  }

  write(inc: string, rows: readonly UnitRow[], tails: ReadonlyMap<string, Buffer | undefined>): void {
    for (const unit of [...rows.map((row) => row.unit), ...tails.keys()]) if (this.#homes.get(unit) !== inc) throw new Error(`${inc} is not the home of ${unit}`)
    for (const { unit, key, value } of rows) {
      const place = this.placeOf(unit)
      if (value) place.rows.set(key, Buffer.from(value))
      else place.rows.delete(key)
    }
    for (const [unit, tail] of tails) this.placeOf(unit).tail = tail && Buffer.from(tail)
  }

  /** Whether a node is there whose turn of being recovered has not come. */
  takes(inc: string): boolean {
    const member = this.#members.get(inc)
    return member !== undefined && member.state !== 'being recovered'
  }

  send(inc: string, parcel: Parcel): 'sent' | 'gone' {
    const member = this.#members.get(inc)
    if (!member) return 'gone'
    if (member.state === 'being recovered') throw new RecoveredError(inc)
    member.inbox.push({ parcel: { ...parcel, pieces: parcel.pieces.map((piece) => Buffer.from(piece)) }, isHandedOut: false })
    if (member.state === 'live') setImmediate(() => { member.membership.handOut() })
    return 'sent'
  }

  receivedBy(inc: string, source: string): number { return this.#received.get(inc)?.get(source) ?? 0 }

  /** Whether it was not there before. */
  append(member: Member, segment: number, record: LogRecord): boolean {
    assertLive(member)
    if (record.number <= member.record) return false
    if (record.number !== member.record + 1) throw new Error('a record is missing in between')
    const records = member.segments.get(segment)
    if (records) records.push(record)
    else member.segments.set(segment, [record])
    member.record = record.number
    return true
  }

  drop(member: Member, upTo: number): void {
    assertLive(member)
    for (const segment of member.segments.keys()) if (segment <= upTo) member.segments.delete(segment)
  }

  inboxOf(inc: string): Entry[] { return this.#members.get(inc)?.inbox ?? [] }

  leaving(member: Member): void {
    member.info = { ...member.info, leaving: true }
    this.changed([])
  }

  /** A node that stops; what it has left to do is done by others. */
  leave(inc: string): void {
    const member = this.#members.get(inc)
    if (!member) return
    if (member.state === 'live' && member.inbox.length === 0 && [...member.segments.values()].every((records) => records.length === 0)) {
      for (const [unit, home] of this.#homes) if (home === inc) this.#homes.delete(unit)
      this.#members.delete(inc)
      this.#received.set(inc, new Map())
      this.changed([inc])
    } else this.kill(inc)
  }

  #recoverSoon(): void { setTimeout(() => { void this.#recoverNext() }, RECOVER_MS) }

  async #recoverNext(): Promise<void> {
    if (this.#isRecovering || this.#lost.length === 0) return
    const recoverers = [...this.#members.values()].filter((one) => one.state === 'live' && one.membership.inheritor)
    const recoverer = recoverers[Math.floor(Math.random() * recoverers.length)]
    if (!recoverer) return this.#recoverSoon()
    const inc = this.#lost.shift() as string
    const member = this.#members.get(inc) as Member
    member.state = 'being recovered'
    this.#isRecovering = true
    let isFinished = false
    const handled = recoverer.membership.inheritor?.(this.#inheritance(member, recoverer.info.inc, () => { isFinished = true })).catch(() => {})
    // Also when it is killed meanwhile, and never answers.
    while (!isFinished && recoverer.state === 'live' && !await Promise.race([handled?.then(() => true), pause(1)]));
    this.#isRecovering = false
    if (!isFinished) {
      member.state = 'lost'
      this.#lost.push(inc)
    }
    if (this.#lost.length > 0) this.#recoverSoon()
  }

  #inheritance(member: Member, by: string, finished: () => void): Inheritance {
    const { inc } = member.info
    const records = [...member.segments].sort(([a], [b]) => a - b).flatMap(([, list]) => list)
    const ask = <T>(what: string, run: () => T): Promise<T> => this.ask(by, what, (recoverer) => {
      assertLive(recoverer)
      if (member.state !== 'being recovered') throw new Error('it is recovered by another')
      return run()
    })
    return {
      inc, records,
      position: { segment: 0, record: 0, lastIdMs: 0 },
      parcels: member.inbox.map((entry) => entry.parcel),
      ways: member.ways,
      noteWays: (unit, nodes) => ask('noteWays', () => { member.ways.set(unit, nodes) }),
      load: (unit) => ask('load', () => this.load(unit)),
      write: (rows, tails) => ask('write', () => { this.write(inc, rows, tails) }),
      finish: (lastMs, received) => ask('finish', () => {
        for (const [unit, home] of this.#homes) {
          if (home !== inc) continue
          this.#homes.delete(unit)
          this.placeOf(unit).lastMs = lastMs
        }
        this.#received.set(inc, received)
        this.#members.delete(inc)
        finished()
        this.changed([inc])
      }),
    }
  }
}

function assertLive(member: Member): void {
  if (member.state !== 'live') throw new Error(`${member.info.inc} has lost its lease`)
}

function pause(ms: number): Promise<false> {
  return new Promise((resolve) => { setTimeout(resolve, ms, false) })
}

export class MemoryMembership implements Membership {
  readonly self: NodeInfo
  readonly log: NodeLog
  readonly #cluster: MemoryCluster
  readonly #onChange: ((gone: readonly string[]) => void)[] = []
  readonly #onLost: (() => void)[] = []
  #receiver: ((parcel: Parcel, done: () => void) => void) | undefined
  inheritor: ((inheritance: Inheritance) => Promise<void>) | undefined
  problem: string | undefined

  constructor(cluster: MemoryCluster, self: NodeInfo) {
    this.#cluster = cluster
    this.self = self
    this.log = new MemoryLog(cluster, self.inc)
  }

  get nodes(): readonly NodeInfo[] { return this.#cluster.nodes }
  leaving(): Promise<void> { return this.#ask('leaving', (member) => { this.#cluster.leaving(member) }) }
  onChange(listener: (gone: readonly string[]) => void): void { this.#onChange.push(listener) }
  onLost(listener: () => void): void { this.#onLost.push(listener) }
  claim(unit: string): Promise<Claim> { return this.#ask('claim', (member) => this.#cluster.claim(member, unit)) }
  find(unit: string): Promise<string | undefined> { return this.#ask('find', () => this.#cluster.find(unit)) }
  release(units: readonly string[], lastMs: number): Promise<void> { return this.#ask('release', (member) => { this.#cluster.release(member, units, lastMs) }) }

  write(rows: readonly UnitRow[], tails: ReadonlyMap<string, Buffer | undefined>): Promise<void> {
    return this.#ask('write', (member) => {
      assertLive(member)
      this.#cluster.write(this.self.inc, rows, tails)
    })
  }

  send(inc: string, parcel: Parcel): Promise<'sent' | 'gone'> { return this.#ask('send', () => this.#cluster.send(inc, parcel)) }
  receivedBy(inc: string, source: string): Promise<number> { return this.#ask('receivedBy', () => this.#cluster.receivedBy(inc, source)) }

  receive(handler: (parcel: Parcel, done: () => void) => void): void {
    this.#receiver = handler
    this.handOut()
  }

  async caughtUp(): Promise<void> {
    await this.#ask('caughtUp', () => { this.handOut() })
  }

  inherit(handler: (inheritance: Inheritance) => Promise<void>): void { this.inheritor = handler }

  async [Symbol.asyncDispose](): Promise<void> { this.#cluster.leave(this.self.inc) }

  changed(gone: readonly string[]): void { for (const listener of this.#onChange) listener(gone) }
  lose(): void { for (const listener of this.#onLost) listener() }

  handOut(): void {
    const inbox = this.#cluster.inboxOf(this.self.inc)
    if (!this.#receiver || !this.#cluster.nodes.some((node) => node.inc === this.self.inc)) return
    for (const entry of inbox) {
      if (entry.isHandedOut) continue
      entry.isHandedOut = true
      this.#receiver(entry.parcel, () => {
        void this.#ask('done', () => {
          const at = inbox.indexOf(entry)
          if (at !== -1) inbox.splice(at, 1)
        }).catch(() => {})
      })
    }
  }

  #ask<T>(what: string, run: (member: Member) => T): Promise<T> { return this.#cluster.ask(this.self.inc, what, run) }
}

class MemoryLog implements NodeLog {
  readonly #cluster: MemoryCluster
  readonly #inc: string
  #segment = 1
  #record = 0
  bytes = 0

  constructor(cluster: MemoryCluster, inc: string) {
    this.#cluster = cluster
    this.#inc = inc
  }

  async append(buffer: Buffer, payloadBytes: number, lastIdMs: number): Promise<void> {
    await this.appendAndSend(buffer, payloadBytes, lastIdMs, [])
  }

  async appendAndSend(buffer: Buffer, payloadBytes: number, lastIdMs: number, parcels: readonly Addressed[]): Promise<ReadonlySet<string>> {
    const payload = Buffer.from(buffer.subarray(HEADER_BYTES, HEADER_BYTES + payloadBytes))
    const arrived = new Set<string>()
    await this.#cluster.ask(this.#inc, 'append', (member) => {
      if (!this.#cluster.append(member, this.#segment, { number: this.#record + 1, lastIdMs, payload })) return
      for (const { to, parcel } of parcels) if (this.#cluster.takes(to) && this.#cluster.send(to, parcel) === 'sent') arrived.add(to)
    })
    this.#record++
    this.bytes += buffer.length
    return arrived
  }

  async prepare(): Promise<void> {}

  turnOver(): { readonly segment: number; readonly record: number } {
    this.bytes = 0
    return { segment: this.#segment++, record: this.#record }
  }

  async drop(upTo: number): Promise<void> {
    await this.#cluster.ask(this.#inc, 'drop', (member) => { this.#cluster.drop(member, upTo) })
  }

  async close(): Promise<void> {}
}
