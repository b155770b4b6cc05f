/**
 * Where units live, for the router: finds a unit's home, sends frames there, and hands out those that come for units of this node. A unit that
 * nobody has is claimed by the node that the hash chooses; what comes for it meanwhile waits, in order.
 */
import { nextMessageId } from '../../lib/stanza/ids.ts'
import type { Log } from '../log.ts'
import { chooseNode } from './rendezvous.ts'
import { apart, decodeFrame, encodeFrame, type Frame, isForNode } from './frames.ts'
import type { Units } from './shapes.ts'

export interface HomesParts {
  readonly units: Units
  readonly log: Log
  /** A frame for a unit of this node, or a reply to this node; `source` is the node that it came from, if from another. A promise when it takes effect later. */
  handle(frame: Frame, source: string | undefined): void | Promise<void>
  /** Nodes are gone for good, and all units that they had; `wasThere` tells of which this is known. */
  lost(wasThere: (unit: string) => boolean): void
  /** Units whose homes are remembered. */
  readonly routesMax?: number
  readonly retryMs?: number
}

/** A frame that has come and waits for the claim of its unit. */
interface Waiting {
  readonly source: string
  readonly frame: Frame
  readonly done: () => void
}

/** A frame that waits until it is known where its unit is. */
interface Held {
  readonly frame: Frame
  readonly done: (() => void) | undefined
}

interface Finding {
  readonly found: Promise<void>
  readonly held: Held[]
  /** What goes before that: it was sent earlier, to a node that is gone. */
  readonly returned: Held[]
}

/** Units whose home is gone, until what was sent there has come back. */
interface Leaving {
  readonly units: Set<string>
  readonly over: Promise<void>
}

const ROUTES_MAX = 200_000
const RETRY_MS = 500
/** How often it is looked whether a unit has been given up. */
const GIVEN_UP_MS = 20
/** After so long nobody answers any more where a unit is. */
const WHERE_MS = 5000

export class Homes {
  readonly #parts: HomesParts
  readonly #units: Units
  /** The home of units that are elsewhere, as it was last heard. */
  readonly #routes = new Map<string, string>()
  readonly #routesMax: number
  /** Units whose home is being found, with what is to be sent there then. */
  readonly #finding = new Map<string, Finding>()
  /** Units that are being claimed, with what has come for them. */
  readonly #claiming = new Map<string, { readonly claimed: Promise<string>; readonly waiting: Waiting[] }>()
  /** Units that turned out to be elsewhere: called once all that went by the old way has come there. */
  readonly #moving = new Map<string, (inc: string | undefined) => void>()
  /** The highest id that each unit here has had. */
  readonly #lastIds = new Map<string, string>()
  /** By the node that is gone. */
  readonly #leaving = new Map<string, Leaving>()
  #closed = false
  #isLeaving = false

  constructor(parts: HomesParts) {
    this.#parts = parts
    this.#units = parts.units
    this.#routesMax = parts.routesMax ?? ROUTES_MAX
    this.#units.incoming((source, bytes, done) => this.#arrived(source, bytes, done))
    this.#units.returned((bytes, done, inc) => {
      // Its node is gone for good.
      if (inc !== undefined) this.#leave(inc)
      const frame = decodeFrame(bytes)
      if (frame.kind === 'where') {
        this.#askAgain(frame.unit)
        return done()
      }
      const parts = isForNode(frame) ? [] : frame.unit === '' ? apart(frame) : [frame]
      let left = parts.length
      if (left === 0) return done()
      const oneDone = (): void => { if (--left === 0) done() }
      for (const each of parts) {
        // What a lost node had not done comes with the unit, and is older than all that this node has sent there and has got back.
        if (inc === undefined && this.#units.isHere(each.unit)) this.#handle(each, undefined, oneDone)
        else this.#sendOn(each, oneDone, true)
      }
    })
    this.#units.onChange((gone) => {
      if (gone.length === 0) return
      const lost = gone.map((inc) => this.#leave(inc, true))
      this.#parts.lost((unit) => lost.some((units) => units.has(unit)))
    })
    // The storage has seen to it that this is higher than what the unit has had (continueIdsAfter).
    this.#units.onClaimed((unit) => { this.#lastIds.set(unit, nextMessageId()) })
    this.#units.onReleased((units) => {
      for (const unit of units) this.#lastIds.delete(unit)
    })
  }

  get inc(): string { return this.#units.inc }

  /** Whether this node is the unit's home. */
  here(unit: string): boolean { return this.#units.isHere(unit) }

  /** Resolves once a frame for this unit leaves at once, or the unit is here; undefined when that is so. */
  wait(unit: string): Promise<void> | undefined {
    if (this.#leaving.size > 0 && [...this.#leaving.values()].some(({ units }) => units.has(unit))) return this.#isBack(unit).then(() => this.wait(unit))
    const claiming = this.#claiming.get(unit)
    // It is here a moment before what has come for it takes effect.
    if (claiming !== undefined && this.#units.isHere(unit)) return claiming.claimed.then(() => this.wait(unit), () => undefined)
    const finding = this.#finding.get(unit)
    if (finding !== undefined && (finding.returned.length > 0 || this.#moving.has(unit))) return finding.found
    if (this.#units.isHere(unit) || this.#routes.has(unit)) return undefined
    return this.#find(unit).found
  }

  /** Makes this node the unit's home if it has none; whether it is now. Waits while the cluster cannot be reached. */
  async claim(unit: string): Promise<boolean> {
    return this.#units.isHere(unit) || (await this.#claim(unit).claimed) === this.#units.inc
  }

  /** Sends a frame to the unit's home. */
  send(frame: Pick<Frame, 'kind' | 'unit'> & Partial<Frame>): void {
    this.#sendOn({ ...EMPTY, ...frame })
  }

  /** Sends a frame that has a list to the homes of those in it: to each node one, with what is its own. `unitOf` tells whose an entry is. */
  sendAll(frame: Pick<Frame, 'kind' | 'stanza' | 'list'> & Partial<Frame>, unitOf: (entry: string) => string): void {
    const byNode = new Map<string, string[]>()
    for (const entry of frame.list) {
      const unit = unitOf(entry)
      const inc = this.#units.isHere(unit) || this.#finding.has(unit) ? undefined : this.#routes.get(unit)
      if (inc === undefined) {
        this.#sendOn({ ...EMPTY, ...frame, unit, list: [entry] })
        continue
      }
      const list = byNode.get(inc)
      if (list === undefined) byNode.set(inc, [entry])
      else list.push(entry)
    }
    for (const [inc, list] of byNode) this.#units.outgoing(inc, encodeFrame({ ...frame, list }), frame.durable === true)
  }

  /** Sends a frame to a node; not at all when there is no such node. */
  sendTo(inc: string, frame: Pick<Frame, 'kind'> & Partial<Frame>): void {
    if (this.#units.nodes.some((node) => node.inc === inc)) this.#units.outgoing(inc, encodeFrame(frame), frame.durable === true)
  }

  /**
   * The id under which a unit of this node takes what another node has given this id: the same, unless the unit has had a higher one. Ids
   * of a unit never go back, for who has seen one asks for those after it (XEP-0313 §4.2).
   */
  idFor(unit: string, given: string): string {
    const last = this.#lastIds.get(unit)
    const id = last !== undefined && last < given ? given : nextMessageId()
    this.#lastIds.set(unit, id)
    return id
  }

  /** A unit of this node has had this id. */
  noteId(unit: string, id: string): void {
    const last = this.#lastIds.get(unit)
    if (last === undefined || last < id) this.#lastIds.set(unit, id)
  }

  /** A node speaks for a unit: it is there, unless another home is known. */
  heard(unit: string, source: string): void {
    if (!this.#routes.has(unit) && !this.#finding.has(unit) && !this.#units.isHere(unit)) this.#remember(unit, source)
  }

  /** From now on what comes for units that are not here any more goes on to others, if there are any. */
  leave(): void { this.#isLeaving = true }

  /** Nothing is tried again from now on; what has found no way is left to who recovers this node. */
  close(): void { this.#closed = true }

  /** Units that were there are nowhere now. What is sent to them waits until what was sent before, and comes back, is on its way. */
  #leave(inc: string, isAnnounced = false): ReadonlySet<string> {
    const known = this.#leaving.get(inc)
    const units = known?.units ?? new Set<string>()
    if (known !== undefined && !isAnnounced) return units
    for (const [unit, home] of this.#routes) if (home === inc) units.add(unit)
    for (const unit of units) if (this.#routes.get(unit) === inc) this.#routes.delete(unit)
    if (known === undefined) {
      const over = this.#units.left(inc).catch(() => undefined).then(() => { this.#leaving.delete(inc) })
      this.#leaving.set(inc, { units, over })
    }
    return units
  }

  #sendOn(frame: Frame, done?: () => void, isReturned = false): void {
    const { unit } = frame
    const finding = this.#finding.get(unit)
    if (this.#units.isHere(unit) && (finding === undefined || finding.returned.length === 0)) return this.#handle(frame, undefined, done)
    const inc = this.#routes.get(unit)
    if (this.#closed && inc === undefined) return
    if (inc === undefined || finding !== undefined) {
      // It must not be lost with this process while nobody has it.
      const kept = done ?? (frame.durable ? this.#units.keep(encodeFrame(frame)) : undefined)
      this.#find(unit)[isReturned ? 'returned' : 'held'].push({ frame, done: kept })
      return
    }
    this.#units.outgoing(inc, encodeFrame(frame), frame.durable)
    done?.()
  }

  #find(unit: string): Finding {
    const finding = this.#finding.get(unit)
    if (finding !== undefined) return finding
    return this.#begin(unit, (held, returned) => this.#findHome(unit, held, returned))
  }

  #begin(unit: string, know: (held: Held[], returned: Held[]) => Promise<void>): Finding {
    const held: Held[] = []
    const returned: Held[] = []
    const found = know(held, returned).then(() => {
      this.#finding.delete(unit)
      for (const { frame, done } of [...returned, ...held]) this.#sendOn(frame, done)
    })
    const finding = { found, held, returned }
    this.#finding.set(unit, finding)
    return finding
  }

  /** Resolves when what was sent to a home that is gone has come back. */
  async #isBack(unit: string): Promise<void> {
    for (const { units, over } of this.#leaving.values()) if (units.has(unit)) await over
  }

  async #findHome(unit: string, held: Held[], returned: Held[]): Promise<void> {
    await this.#isBack(unit)
    for (;;) {
      try {
        const inc = await this.#units.find(unit)
        const all = [...returned, ...held]
        if (inc === undefined && all.length > 0 && all.every(({ frame }) => frame.idle)) {
          for (const { done } of [...returned.splice(0), ...held.splice(0)]) done?.()
          return
        }
        const home = inc ?? chooseNode(unit, this.#units.nodes)?.inc ?? this.#units.inc
        if (home !== this.#units.inc) return this.#remember(unit, home)
        const claimed = await this.#claim(unit).claimed
        if (claimed !== this.#units.inc) this.#remember(unit, claimed)
        return
      } catch (error) {
        if (this.#closed) return
        this.#parts.log.warn({ what: 'home_not_found', unit, error })
        await this.#pause()
      }
    }
  }

  #claim(unit: string): { readonly claimed: Promise<string>; readonly waiting: Waiting[] } {
    const claiming = this.#claiming.get(unit)
    if (claiming !== undefined) return claiming
    const waiting: Waiting[] = []
    const claimed = this.#claimNow(unit).then((inc) => {
      this.#claiming.delete(unit)
      if (inc === this.#units.inc) this.#come(unit, waiting)
      else this.#gone(unit, inc, waiting)
      return inc
    })
    // Rejected only once this is closed.
    claimed.catch(() => undefined)
    const begun = { claimed, waiting }
    this.#claiming.set(unit, begun)
    return begun
  }

  async #claimNow(unit: string): Promise<string> {
    await this.#isBack(unit)
    for (;;) {
      try {
        return (this.#isLeaving ? await this.#nextHome(unit) : undefined) ?? await this.#units.claim(unit)
      } catch (error) {
        if (this.#closed) throw error
        this.#parts.log.warn({ what: 'claim_failed', unit, error })
        await this.#pause()
      }
    }
  }

  /** Where a unit that this node gives up is, or is to be; undefined when no other node is there for it. */
  async #nextHome(unit: string): Promise<string | undefined> {
    const { inc: self } = this.#units
    for (;;) {
      const inc = await this.#units.find(unit)
      if (inc === undefined) return chooseNode(unit, this.#units.nodes.filter((node) => node.inc !== self && !node.leaving))?.inc
      if (inc !== self) return inc
      if (this.#units.isHere(unit)) return undefined
      // It is about to be given up.
      await new Promise((resolve) => { setTimeout(resolve, GIVEN_UP_MS) })
    }
  }

  #come(unit: string, waiting: readonly Waiting[]): void {
    const before = this.#routes.get(unit)
    this.#routes.delete(unit)
    // What was sent there comes back, and what clients of this node send now may not overtake it.
    if (before !== undefined && !this.#finding.has(unit)) this.#follow(unit, before)
    for (const { source, frame, done } of waiting) {
      this.#handle(frame, source, done)
    }
  }

  #gone(unit: string, inc: string, waiting: readonly Waiting[]): void {
    this.#remember(unit, inc)
    for (const { source, frame, done } of waiting) this.#passOn(inc, source, frame, done)
  }

  /** To the unit's home; whoever sent it here is told where that is. */
  #passOn(inc: string, source: string, frame: Frame, done: () => void): void {
    this.#units.outgoing(inc, encodeFrame(frame), frame.durable)
    this.sendTo(source, { kind: 'at', unit: frame.unit, list: [inc] })
    done()
  }

  #remember(unit: string, inc: string): void {
    this.#routes.delete(unit)
    this.#routes.set(unit, inc)
    if (this.#routes.size > this.#routesMax) this.#routes.delete(this.#routes.keys().next().value as string)
  }

  #arrived(source: string, bytes: Buffer, done: () => void): void {
    let frame: Frame
    try {
      frame = decodeFrame(bytes)
    } catch (error) {
      this.#parts.log.error({ what: 'frame_unreadable', source, error })
      return done()
    }
    const { kind, unit } = frame
    if (kind === 'at') {
      this.#told(source, unit, frame.list)
      return done()
    }
    if (isForNode(frame)) return this.#handle(frame, source, done)
    if (unit === '') return this.#arrivedForMany(source, frame, done)
    this.#arrivedFor(source, frame, done)
  }

  #arrivedFor(source: string, frame: Frame, done: () => void): void {
    const { unit } = frame
    const claiming = this.#claiming.get(unit)
    if (claiming !== undefined) {
      claiming.waiting.push({ source, frame, done })
      return
    }
    if (this.#units.isHere(unit)) return this.#handle(frame, source, done)
    if (frame.idle) return void this.#passIdle(source, frame, done)
    this.#claim(unit).waiting.push({ source, frame, done })
  }

  /** A unit that is nobody's is not claimed for this. */
  async #passIdle(source: string, frame: Frame, done: () => void): Promise<void> {
    const inc = await this.#units.find(frame.unit).catch(() => undefined)
    if (this.#units.isHere(frame.unit)) return this.#handle(frame, source, done)
    if (inc !== undefined && inc !== this.#units.inc) return this.#passOn(inc, source, frame, done)
    done()
  }

  /** What is for units here takes effect at once; the rest goes its own way. */
  #arrivedForMany(source: string, frame: Frame, done: () => void): void {
    const elsewhere: Frame[] = []
    const here: string[] = []
    for (const each of apart(frame)) {
      if (this.#units.isHere(each.unit) && !this.#claiming.has(each.unit)) here.push(each.list[0] as string)
      else elsewhere.push(each)
    }
    if (here.length > 0) this.#handle({ ...frame, list: here }, source)
    let left = elsewhere.length
    if (left === 0) return done()
    for (const each of elsewhere) this.#arrivedFor(source, each, () => { if (--left === 0) done() })
  }

  /**
   * A node to which this one sent something for the unit has passed it on. What comes next may not overtake that: it waits until a question
   * sent by the old way has been answered from the new one.
   */
  #told(source: string, unit: string, [inc, arrived]: readonly string[]): void {
    if (arrived !== undefined) return this.#moving.get(unit)?.(inc)
    if (inc === undefined || inc === source || this.#routes.get(unit) !== source || this.#finding.has(unit)) return
    this.#routes.delete(unit)
    this.#follow(unit, source)
  }

  /** Has what comes next wait until all that was sent to this node for the unit has come where that is now. */
  #follow(unit: string, before: string): void {
    const answered = new Promise<string | undefined>((resolve) => {
      this.#moving.set(unit, resolve)
      setTimeout(resolve, WHERE_MS, undefined).unref()
    })
    this.#begin(unit, (held, returned) => answered.then((home) => {
      this.#moving.delete(unit)
      if (home !== undefined && home !== this.#units.inc) return this.#remember(unit, home)
      return this.#findHome(unit, held, returned)
    }))
    this.#units.outgoing(before, encodeFrame({ kind: 'where', unit, list: [this.#units.inc] }), false)
  }

  /** `done` is called once it has taken effect, in that turn. */
  #handle(frame: Frame, source?: string, done?: () => void): void {
    const failed = (error: unknown): void => { this.#parts.log.error({ what: 'frame_failed', kind: frame.kind, unit: frame.unit, error }) }
    let handling: void | Promise<void> = undefined
    try {
      if (frame.kind === 'where') this.#answer(frame.list[0] as string, frame.unit)
      else handling = this.#parts.handle(frame, source)
    } catch (error) {
      failed(error)
    }
    if (handling instanceof Promise) void handling.catch(failed).then(done)
    else done?.()
  }

  /** Who was asked is gone. What it had not done has been sent on, to this node before it asks itself. */
  #askAgain(unit: string): void {
    if (this.#units.isHere(unit)) this.#units.outgoing(this.#units.inc, encodeFrame({ kind: 'where', unit, list: [this.#units.inc] }), false)
    else this.#moving.get(unit)?.(undefined)
  }

  /** All that came by the old way for a unit of this node is here. */
  #answer(asker: string, unit: string): void {
    const { inc } = this.#units
    if (asker === inc) this.#moving.get(unit)?.(inc)
    else this.sendTo(asker, { kind: 'at', unit, list: [inc, 'arrived'] })
  }

  #pause(): Promise<void> {
    return new Promise((resolve) => { setTimeout(resolve, this.#parts.retryMs ?? RETRY_MS).unref() })
  }
}

const EMPTY: Frame = { kind: 'stanza', unit: '', id: '', promised: false, durable: false, idle: false, volatile: false, stanza: Buffer.alloc(0), list: [] }
