/**
 * Frames to and from other nodes. Those to a node are numbered from 1, and leave in order after the commit of the turn that sent them; durable
 * ones are sections of its group. A receiver logs with what a frame caused that it is done, so that one that comes again is known. A segment of the
 * log is kept until the frames in it are in the inboxes of their nodes. Where the log can, it puts them there in the step in which it takes the group.
 */
import { FIRST_SECTION, type GroupedStore, type Participant } from '../storage/groups/groups.ts'
import { type RecordReader } from '../storage/groups/record.ts'
import { type Addressed, type Membership, type Parcel } from './shapes.ts'

export const BUS_SECTION = FIRST_SECTION + 2
const SENT = 1
const DONE = 2
const RETURNED = 3
/** All that is known of a source: what is done, and what came before that is not. */
const KNOWN = 4

/** In place of a node, of frames whose way is not known. */
export const NOWHERE = ''

const PARCEL_BYTES = 256 * 1024
const RETRY_MS = 200
/** What a node has sent may come again from who recovers it. */
const GONE_KEPT_MS = 86_400_000

export interface Sent {
  readonly to: string
  readonly number: number
  readonly frame: Buffer
}

interface Outgoing extends Sent { readonly isDurable: boolean }

interface Target {
  readonly inc: string
  lastNumber: number
  /** Committed, and not in its inbox yet. */
  queue: Outgoing[]
  isSending: boolean
  /** Why nothing gets there at present. */
  problem?: string | undefined
  /** Called when no number up to this one is in the queue. */
  waiting: { readonly number: number; readonly resolve: () => void }[]
}

function newTarget(inc: string, lastNumber: number): Target {
  return { inc, lastNumber, queue: [], isSending: false, waiting: [] }
}

/** What has come from one node. */
export interface Received {
  /** All numbers up to this one have come. */
  last: number
  /** Of these, what is not done. */
  readonly open: Set<number>
}

export type IncomingHandler = (source: string, frame: Buffer, done: () => void) => void
/** `inc`: the node that is gone, of a frame that this one had sent there. */
export type ReturnedHandler = (frame: Buffer, done: () => void, inc: string | undefined) => void

const NOBODY: ReadonlySet<string> = new Set()

export class Bus implements Participant {
  readonly section = BUS_SECTION
  readonly #store: GroupedStore
  readonly #membership: Membership
  readonly #onError: (error: unknown) => void
  readonly #targets = new Map<string, Target>()
  readonly #sources = new Map<string, Received>()
  /** Called when something that came twice is done. */
  readonly #again = new Map<string, (() => void)[]>()
  #group: Outgoing[] | undefined
  /** Of the group that is being committed; and the nodes in whose inboxes that is already. */
  #sealed: readonly Outgoing[] = []
  #along: ReadonlySet<string> = NOBODY
  #returned: ReturnedHandler | undefined
  /** Durable frames that are not in an inbox, and returned ones that have found no other way. */
  readonly #unsent = new Set<Outgoing>()
  readonly #waiting = new Set<{ readonly left: Set<Outgoing>; readonly end: () => void; readonly stop: () => void }>()
  #bytes = 0
  #kept = 0
  #isTurned = false
  #isClosed = false

  constructor(store: GroupedStore, membership: Membership, onError: (error: unknown) => void) {
    this.#store = store
    this.#membership = membership
    this.#onError = onError
  }

  /** Committed bytes that are not in the inboxes of their nodes yet. */
  get unsentBytes(): number { return this.#bytes }

  outgoing(inc: string, frame: Buffer, durable: boolean): void {
    let target = this.#targets.get(inc)
    if (!target) this.#targets.set(inc, target = newTarget(inc, 0))
    const outgoing: Outgoing = { to: inc, number: ++target.lastNumber, frame, isDurable: durable }
    if (durable) {
      this.#unsent.add(outgoing)
      this.#store.section(this, (writer) => {
        writer.uint8(SENT)
        writer.text(inc)
        writer.double(outgoing.number)
        writer.bytes(frame)
      })
    }
    if (!this.#group) {
      const group: Outgoing[] = []
      this.#group = group
      this.#store.afterCommit(() => { this.#leave(group) })
    }
    this.#group.push(outgoing)
  }

  /**
   * Has this turn's group keep a frame of which it is not known where it goes: should this node be lost, who recovers it sends it. Call the
   * result in the turn in which it is sent, or takes effect.
   */
  keep(frame: Buffer): () => void {
    const kept: Outgoing = { to: NOWHERE, number: ++this.#kept, frame, isDurable: true }
    this.#unsent.add(kept)
    this.#bytes += frame.length
    this.#store.section(this, (writer) => {
      writer.uint8(SENT)
      writer.text(kept.to)
      writer.double(kept.number)
      writer.bytes(frame)
    })
    return () => {
      this.#store.section(this, (writer) => {
        writer.uint8(RETURNED)
        writer.text(kept.to)
        writer.double(kept.number)
      })
      this.#store.afterCommit(() => {
        this.#bytes -= frame.length
        this.#over(kept)
      })
    }
  }

  incoming(handler: IncomingHandler): void {
    this.#membership.receive((parcel, done) => { this.#receive(handler, parcel, done) })
  }

  returned(handler: ReturnedHandler): void { this.#returned = handler }

  /** Hands out a frame as a returned one; `done` is called when it is done, in that turn. */
  handBack(frame: Buffer, done: () => void, inc?: string): void {
    if (this.#returned) this.#returned(frame, done, inc)
  }

  /** Resolves when everything that was sent to a node so far is there, or has been handed back. */
  async left(inc: string): Promise<void> {
    await this.#store.committed()
    const target = this.#targets.get(inc)
    const last = target?.queue.at(-1)
    if (target === undefined || last === undefined || this.#isClosed) return
    await new Promise<void>((resolve) => { target.waiting.push({ number: last.number, resolve }) })
  }

  /** Resolves when everything that was sent so far is in the inboxes of its nodes, or has been handed back; not what has no node yet. */
  async arrived(): Promise<void> {
    await this.#store.committed()
    await Promise.all([...this.#targets.keys()].map((inc) => this.left(inc)))
  }

  /** These are over for good. */
  forget(gone: readonly string[]): void {
    setTimeout(() => {
      // Until then something may be sent there, and must not be taken for what had the same number.
      for (const inc of gone) this.#targets.delete(inc)
      for (const source of this.#sources.keys()) if (gone.includes(source.split('>')[0] as string)) this.#sources.delete(source)
    }, GONE_KEPT_MS).unref()
  }

  // As a part of the log.

  seal(): void {
    this.#sealed = this.#group ?? []
    this.#along = NOBODY
    this.#group = undefined
    if (!this.#isTurned) return
    // The new segment says all that the one before it, which will go, has said.
    this.#isTurned = false
    this.#store.section(this, (writer) => {
      writer.uint8(KNOWN)
      for (const [source, { last, open }] of this.#sources) {
        writer.text(source)
        writer.double(last)
        writer.uint32(open.size)
        for (const number of open) writer.double(number)
      }
    })
  }

  turnOver(): void {
    if (this.#sources.size === 0) return
    this.#isTurned = true
    this.#store.touch()
  }

  rows(): Iterable<undefined> { return [] }
  applied(): void {}
  replay(): void { throw new Error('a node begins with an empty log') }

  settled(): Promise<void> {
    return new Promise((resolve, reject) => {
      const stop = (): void => { reject(new Error('the storage is closing')) }
      if (this.#isClosed) return stop()
      const left = new Set(this.#unsent)
      if (left.size === 0) return resolve()
      this.#waiting.add({ left, end: resolve, stop })
    })
  }

  close(): void {
    this.#isClosed = true
    for (const { stop } of this.#waiting) stop()
    this.#waiting.clear()
    for (const target of this.#targets.values()) this.#progressed(target)
  }

  /** What may go with the group that is being committed: a parcel for each node for which nothing earlier waits. */
  parcels(): Addressed[] {
    const byNode = new Map<string, Outgoing[]>()
    for (const outgoing of this.#sealed) {
      const pieces = byNode.get(outgoing.to)
      if (pieces) pieces.push(outgoing)
      else byNode.set(outgoing.to, [outgoing])
    }
    const parcels: Addressed[] = []
    for (const [to, pieces] of byNode) {
      if ((this.#targets.get(to)?.queue.length ?? 0) > 0 || pieces.reduce((sum, { frame }) => sum + frame.length, 0) > PARCEL_BYTES) continue
      parcels.push({ to, parcel: { source: this.#membership.self.inc, first: (pieces[0] as Outgoing).number, pieces: pieces.map(({ frame }) => frame) } })
    }
    return parcels
  }

  /** The parcels for these nodes went with the group. */
  wentAlong(incs: ReadonlySet<string>): void { this.#along = incs }

  #leave(group: readonly Outgoing[]): void {
    for (const outgoing of group) {
      if (this.#along.has(outgoing.to)) {
        this.#over(outgoing)
        continue
      }
      const target = this.#targets.get(outgoing.to) ?? newTarget(outgoing.to, outgoing.number)
      this.#targets.set(outgoing.to, target)
      target.queue.push(outgoing)
      this.#bytes += outgoing.frame.length
      if (target.isSending) continue
      target.isSending = true
      void this.#send(target)
    }
  }

  async #send(target: Target): Promise<void> {
    // What else leaves in this turn goes with it.
    await Promise.resolve()
    while (target.queue.length > 0 && !this.#isClosed) {
      let bytes = 0
      let count = 0
      for (; count < target.queue.length && (count === 0 || bytes < PARCEL_BYTES); count++) {
        const { number, frame } = target.queue[count] as Outgoing
        // A parcel's numbers follow each other.
        if (count > 0 && number !== (target.queue[count - 1] as Outgoing).number + 1) break
        bytes += frame.length
      }
      const pieces = target.queue.slice(0, count)
      const first = (pieces[0] as Outgoing).number
      try {
        const answer = await this.#membership.send(target.inc, { source: this.#membership.self.inc, first, pieces: pieces.map((one) => one.frame) })
        if (this.#isClosed) break
        target.problem = undefined
        if (answer === 'gone') await this.#returnAll(target)
        else {
          target.queue.splice(0, count)
          this.#bytes -= bytes
          for (const outgoing of pieces) this.#over(outgoing)
        }
        this.#progressed(target)
      } catch (error) {
        if (this.#isClosed) break
        this.#report(target, error)
        await new Promise((resolve) => { setTimeout(resolve, RETRY_MS).unref() })
      }
    }
    // In the turn in which the queue was found empty: what is put there from now on begins anew.
    target.isSending = false
  }

  /** Once for each reason, however often it is tried. */
  #report(target: Target, error: unknown): void {
    const problem = String(error)
    if (problem === target.problem) return
    target.problem = problem
    this.#onError(error)
  }

  /** The node is gone. What it did not have finds another way. */
  async #returnAll(target: Target): Promise<void> {
    const received = await this.#membership.receivedBy(target.inc, this.#membership.self.inc)
    if (this.#isClosed) return
    for (const outgoing of target.queue.splice(0)) {
      this.#bytes -= outgoing.frame.length
      if (outgoing.number <= received) {
        this.#over(outgoing)
        continue
      }
      this.handBack(outgoing.frame, () => {
        if (!outgoing.isDurable) return this.#over(outgoing)
        this.#store.section(this, (writer) => {
          writer.uint8(RETURNED)
          writer.text(outgoing.to)
          writer.double(outgoing.number)
        })
        this.#store.afterCommit(() => { this.#over(outgoing) })
      }, target.inc)
    }
  }

  #progressed(target: Target): void {
    if (target.waiting.length === 0) return
    const first = this.#isClosed ? Infinity : target.queue[0]?.number ?? Infinity
    const { waiting } = target
    target.waiting = waiting.filter(({ number }) => number >= first)
    for (const { number, resolve } of waiting) if (number < first) resolve()
  }

  #over(outgoing: Outgoing): void {
    if (!this.#unsent.delete(outgoing)) return
    for (const waiting of this.#waiting) {
      if (!waiting.left.delete(outgoing) || waiting.left.size > 0) continue
      this.#waiting.delete(waiting)
      waiting.end()
    }
  }

  #receive(handler: IncomingHandler, { source, first, pieces }: Parcel, done: () => void): void {
    if (this.#isClosed) return
    let received = this.#sources.get(source)
    if (!received) this.#sources.set(source, received = { last: 0, open: new Set() })
    const { open } = received
    let left = pieces.length
    const oneDone = (): void => { if (--left === 0) this.#store.afterCommit(done) }
    if (left === 0) return done()
    pieces.forEach((frame, i) => {
      const number = first + i
      if (number <= received.last) {
        if (!open.has(number)) return oneDone()
        const key = `${number} ${source}`
        this.#again.set(key, [...this.#again.get(key) ?? [], oneDone])
        return
      }
      received.last = number
      open.add(number)
      let isDone = false
      handler(source, frame, () => {
        if (isDone) return
        isDone = true
        open.delete(number)
        this.#store.section(this, (writer) => {
          writer.uint8(DONE)
          writer.text(source)
          writer.double(number)
        })
        oneDone()
        const key = `${number} ${source}`
        for (const again of this.#again.get(key) ?? []) again()
        this.#again.delete(key)
      })
    })
  }
}

/** What the log of a lost node says of its frames. */
export class BusRecord<Place = undefined> {
  readonly #sent = new Map<string, Sent & { readonly place: Place }>()
  readonly #received = new Map<string, { last: number; open: Set<number>; done: Set<number> }>()

  /** `place`: where in the log that is. */
  read(section: RecordReader, place: Place): void {
    const what = section.uint8()
    if (what === KNOWN) {
      this.#received.clear()
      while (!section.isAtEnd) {
        const source = section.text()
        const last = section.double()
        const open = new Set<number>()
        for (let count = section.uint32(); count > 0; count--) open.add(section.double())
        this.#received.set(source, { last, open, done: new Set() })
      }
      return
    }
    const inc = section.text()
    const number = section.double()
    if (what === SENT) this.#sent.set(`${number} ${inc}`, { to: inc, number, frame: Buffer.from(section.bytes()), place })
    else if (what === RETURNED) this.#sent.delete(`${number} ${inc}`)
    else {
      const received = this.#received.get(inc) ?? { last: 0, open: new Set(), done: new Set() }
      this.#received.set(inc, received)
      received.open.delete(number)
      received.done.add(number)
    }
  }

  /** Durable frames that it sent and that found no other way; they may have arrived. In the order in which they were committed. */
  get sent(): Iterable<Sent & { readonly place: Place }> { return this.#sent.values() }

  get hasSent(): boolean { return this.#sent.size > 0 }

  isDone(source: string, number: number): boolean {
    const received = this.#received.get(source)
    return received !== undefined && (received.done.has(number) || number <= received.last && !received.open.has(number))
  }

  /** The highest number from each source that it knew of. */
  highest(): Map<string, number> {
    const highest = new Map<string, number>()
    for (const [source, { last, done }] of this.#received) highest.set(source, Math.max(last, ...done))
    return highest
  }
}
