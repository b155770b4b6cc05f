/**
 * A chat process's place among those of one machine: everything is asked of the main process, over one connection. When that ends, the process has
 * lost its place: nothing is committed any more.
 */
import { randomBytes } from 'node:crypto'
import { connect } from 'node:net'
import { HEADER_BYTES } from '../../storage/groups/log.ts'
import { type RecordReader, type RecordWriter } from '../../storage/groups/record.ts'
import { RecoveredError } from '../errors.ts'
import { type Claim, type Inheritance, type LoadedUnit, type Membership, type NodeInfo, type NodeLog, type Parcel, type UnitRow } from '../shapes.ts'
import {
  ASK, type KeyedRow, readKeyed, readList, readNodes, readOptional, readParcel, readRecords, readUnit, TELL, writeList, writeNodes, writeNumbers, writeParcel, writeRows, writeTails,
} from './messages.ts'
import { LocalHistoryStore, LocalQueue, LocalRowStore } from './stores.ts'
import { Wire } from './wire.ts'

export interface LocalMembershipOptions {
  /** Path of the main process's socket. */
  readonly path: string
  readonly name: string
  readonly address: string
  readonly roles: readonly string[]
}

const BEAT_MS = 1000
const LOST = 'the main process has ended, or has given up this one'

interface Question {
  answered(body: RecordReader): void
  failed(error: Error): void
}

/** Asks the main process, and waits for its answer. */
export type Ask = <T>(kind: number, write: (body: RecordWriter) => void, read: (body: RecordReader) => T) => Promise<T>

export class LocalMembership implements Membership {
  readonly self: NodeInfo
  readonly log: NodeLog
  readonly records: LocalRowStore
  readonly history: LocalHistoryStore
  readonly queue: LocalQueue
  readonly #wire: Wire
  readonly #questions = new Map<number, Question>()
  readonly #onChange: ((gone: readonly string[]) => void)[] = []
  readonly #onLost: (() => void)[] = []
  readonly #timer: NodeJS.Timeout
  #question = 0
  #nodes: readonly NodeInfo[]
  #problem: string | undefined
  /** What has come before anybody takes it. */
  #parcels: { readonly number: number; readonly parcel: Parcel }[] = []
  #receiver: ((parcel: Parcel, done: () => void) => void) | undefined
  #inheritor: ((inheritance: Inheritance) => Promise<void>) | undefined
  #done: number[] = []
  #isOver = false
  #isClosing = false

  private constructor(self: NodeInfo, socket: ReturnType<typeof connect>) {
    this.self = self
    this.#nodes = [self]
    this.#wire = new Wire(socket, {
      onMessage: (kind, question, body) => { this.#told(kind, question, body) },
      onClose: () => { this.#closed() },
    })
    const ask: Ask = (kind, write, read) => this.#ask(kind, write, read)
    this.log = new LocalLog(ask)
    this.records = new LocalRowStore(ask)
    this.history = new LocalHistoryStore(ask)
    this.queue = new LocalQueue(ask)
    this.#timer = setInterval(() => { this.#wire.send(ASK.beat, 0) }, BEAT_MS).unref()
  }

  /** Joins under a new incarnation. Rejects when there is no main process. */
  static async join({ path, name, address, roles }: LocalMembershipOptions): Promise<LocalMembership> {
    const socket = connect(path)
    await new Promise<void>((resolve, reject) => {
      socket.once('error', reject)
      socket.once('connect', () => {
        socket.off('error', reject)
        resolve()
      })
    })
    const self: NodeInfo = { inc: `${name}-${randomBytes(6).toString('hex')}`, name, address, roles, leaving: false }
    const membership = new LocalMembership(self, socket)
    await membership.#ask(ASK.join, (body) => { writeNodes(body, [self]) }, nothing)
    return membership
  }

  get nodes(): readonly NodeInfo[] { return this.#nodes }
  get problem(): string | undefined { return this.#isOver ? LOST : this.#problem }

  leaving(): Promise<void> { return this.#ask(ASK.leaving, nothing, nothing) }
  onChange(listener: (gone: readonly string[]) => void): void { this.#onChange.push(listener) }

  onLost(listener: () => void): void {
    if (this.#isOver) setImmediate(listener)
    else this.#onLost.push(listener)
  }

  claim(unit: string): Promise<Claim> {
    return this.#ask(ASK.claim, (body) => { body.text(unit) }, (body): Claim => (body.uint8() === 1 ? { here: true, unit: readUnit(body) } : { here: false, inc: body.text() }))
  }

  find(unit: string): Promise<string | undefined> {
    return this.#ask(ASK.find, (body) => { body.text(unit) }, (body) => readOptional(body, () => body.text()))
  }

  release(units: readonly string[], lastMs: number): Promise<void> {
    return this.#ask(ASK.release, (body) => {
      body.double(lastMs)
      writeList(body, units, (unit) => { body.text(unit) })
    }, nothing)
  }

  write(rows: readonly UnitRow[], tails: ReadonlyMap<string, Buffer | undefined>): Promise<void> {
    return this.#ask(ASK.write, (body) => {
      writeRows(body, rows)
      writeTails(body, tails)
    }, nothing)
  }

  async send(inc: string, parcel: Parcel): Promise<'sent' | 'gone'> {
    const answer = await this.#ask(ASK.send, (body) => {
      body.text(inc)
      writeParcel(body, parcel)
    }, (body) => body.uint8())
    if (answer === 2) throw new RecoveredError(inc)
    return answer === 1 ? 'sent' : 'gone'
  }

  receivedBy(inc: string, source: string): Promise<number> {
    return this.#ask(ASK.receivedBy, (body) => {
      body.text(inc)
      body.text(source)
    }, (body) => body.double())
  }

  receive(handler: (parcel: Parcel, done: () => void) => void): void {
    this.#receiver = handler
    for (const { number, parcel } of this.#parcels.splice(0)) this.#handOut(number, parcel, handler)
  }

  /** The answer to a claim has come behind all that was in the inbox, by the same socket. */
  caughtUp(): Promise<void> { return Promise.resolve() }

  inherit(handler: (inheritance: Inheritance) => Promise<void>): void {
    this.#inheritor = handler
    this.#wire.send(ASK.inherits, 0)
  }

  /** A secret that all processes know, and the records of secrets of hosts and services as they are kept. */
  secrets(): Promise<{ readonly secret: Buffer; readonly rows: readonly KeyedRow[] }> {
    return this.#ask(ASK.secrets, nothing, (body) => ({ secret: Buffer.from(body.bytes()), rows: readKeyed(body) }))
  }

  /** Ends at once when nothing is left in log and inbox; otherwise others recover it, beginning now. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#isClosing) return
    this.#isClosing = true
    if (!this.#isOver) await this.#ask(ASK.leave, () => {}, nothing).catch(() => {})
    this.#wire.close()
  }

  /** Ends at once, as when the process were killed. */
  abort(): void {
    this.#isClosing = true
    this.#wire.close()
  }

  #ask<T>(kind: number, write: (body: RecordWriter) => void, read: (body: RecordReader) => T): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.#isOver) return reject(new Error(LOST))
      do this.#question = this.#question % 0xffffffff + 1
      while (this.#questions.has(this.#question))
      this.#questions.set(this.#question, { answered: (body) => { resolve(read(body)) }, failed: reject })
      this.#wire.send(kind, this.#question, write)
    })
  }

  #told(kind: number, number: number, body: RecordReader): void {
    switch (kind) {
      case TELL.answer:
      case TELL.failed: {
        const question = this.#questions.get(number)
        this.#questions.delete(number)
        if (kind === TELL.answer) question?.answered(body)
        else question?.failed(new Error(body.text()))
        return
      }
      case TELL.nodes: {
        this.#nodes = readNodes(body)
        const gone = readList(body, () => body.text())
        for (const listener of this.#onChange) listener(gone)
        return
      }
      case TELL.parcel: {
        const entry = body.double()
        const parcel = readParcel(body)
        if (this.#receiver) this.#handOut(entry, parcel, this.#receiver)
        else this.#parcels.push({ number: entry, parcel })
        return
      }
      case TELL.inheritance: return void this.#recover(body)
      case TELL.problem:
        this.#problem = readOptional(body, () => body.text())
        return
      default: throw new Error(`the main process says something of kind ${kind}, which this version does not know`)
    }
  }

  #handOut(number: number, parcel: Parcel, receiver: (parcel: Parcel, done: () => void) => void): void {
    let isDone = false
    receiver(parcel, () => {
      if (isDone) return
      isDone = true
      if (this.#done.push(number) === 1) setImmediate(this.#tellDone)
    })
  }

  readonly #tellDone = (): void => {
    const done = this.#done
    this.#done = []
    this.#wire.send(ASK.done, 0, (body) => { writeList(body, done, (number) => { body.double(number) }) })
  }

  async #recover(body: RecordReader): Promise<void> {
    const inc = body.text()
    const records = readRecords(body)
    const parcels = readList(body, () => readParcel(body))
    const ways = new Map(readList(body, () => [body.text(), readList(body, () => body.text())] as const))
    const ask = <T>(kind: number, write: (to: RecordWriter) => void, read: (from: RecordReader) => T): Promise<T> => this.#ask(kind, (to) => {
      to.text(inc)
      write(to)
    }, read)
    let isFinished = false
    try {
      await this.#inheritor?.({
        inc, records, parcels, ways,
        position: { segment: 0, record: (records[0]?.number ?? 1) - 1, lastIdMs: 0 },
        load: (unit): Promise<LoadedUnit> => ask(ASK.inheritedLoad, (to) => { to.text(unit) }, readUnit),
        write: (rows, tails) => ask(ASK.inheritedWrite, (to) => {
          writeRows(to, rows)
          writeTails(to, tails)
        }, nothing),
        noteWays: (unit, nodes) => ask(ASK.inheritedWays, (to) => {
          to.text(unit)
          writeList(to, nodes, (node) => { to.text(node) })
        }, nothing),
        finish: async (lastMs, received) => {
          await ask(ASK.inheritedFinish, (to) => {
            to.double(lastMs)
            writeNumbers(to, received)
          }, nothing)
          isFinished = true
        },
      })
    } catch {
      // It is done again.
    }
    if (!isFinished) this.#wire.send(ASK.inheritedFailed, 0, (to) => { to.text(inc) })
  }

  #closed(): void {
    this.#isOver = true
    clearInterval(this.#timer)
    const error = new Error(LOST)
    for (const question of this.#questions.values()) question.failed(error)
    this.#questions.clear()
    if (this.#isClosing) return
    for (const listener of this.#onLost.splice(0)) listener()
  }
}

function nothing(): void {}

/** The log of this process, kept by the main process. */
class LocalLog implements NodeLog {
  readonly #ask: Ask
  #segment = 1
  #record = 0
  #isClosed = false
  bytes = 0

  constructor(ask: Ask) { this.#ask = ask }

  async append(buffer: Buffer, payloadBytes: number, lastIdMs: number): Promise<void> {
    if (this.#isClosed) throw new Error('the log is closed')
    await this.#ask(ASK.append, (body) => {
      body.uint32(this.#segment)
      body.double(this.#record + 1)
      body.uint32(16 + payloadBytes)
      body.double(lastIdMs)
      // The main process writes its place there.
      body.double(0)
      body.raw(buffer.subarray(HEADER_BYTES, HEADER_BYTES + payloadBytes))
    }, nothing)
    this.#record++
    this.bytes += buffer.length
  }

  async prepare(): Promise<void> {}

  turnOver(): { readonly segment: number; readonly record: number } {
    this.bytes = 0
    return { segment: this.#segment++, record: this.#record }
  }

  async drop(upTo: number): Promise<void> {
    if (this.#isClosed) throw new Error('the log is closed')
    await this.#ask(ASK.drop, (body) => { body.uint32(upTo) }, nothing)
  }

  async close(): Promise<void> { this.#isClosed = true }
}
