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
  /** The node that it came from, if from another. */
  readonly source: string | undefined
  readonly frame: Frame
  readonly done: (() => void) | undefined
}

interface Finding {
  readonly found: Promise<void>
  readonly held: Held[]
  /** What goes before that: it was sent earlier, to a node that is gone. */
  readonly returned: Held[]
}

/** A unit that is not where this node has sent what is for it. */
interface Moving {
  /** Where that is. */
  readonly before: string
  /** What this node asks by the old way has this number. */
  readonly number: string
  /** Asks no more. */
  stop(): void
  /** Called with the home once the question has come there; without, when nothing is left on the old way. */
  end(inc?: string): void
}

/** Units whose home is gone, until what was sent there has come back. */
interface Leaving {
  readonly units: Set<string>
  readonly over: Promise<void>
}

const ROUTES_MAX = 200_000
const RETRY_MS = 500
/** How often it is looked whether a unit has been given up, or has its next home. */
const GIVEN_UP_MS = 10
/** Of these times, when the next home is told of the unit. */
const HINT_EVERY = 20
/** Who has not answered where a unit is is asked again after this time: the question, or its answer, may have been lost with a node. */
const WHERE_MS = 5000
/** Two nodes that stop may wait for each other's answers; then nobody waits longer. */
const WHERE_TRIES = 2

/** A unit that moves while what is for it is passed on: so many nodes in a row are waited for. */
const HOPS_MAX = 3
/** And so long. */
const HOME_MS = 2000
const PASSED_ON_KEPT_MS = 60_000
const GONE_KEPT_MS = 600_000
const NONE: ReadonlySet<string> = new Set()

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
  /** Units that turned out to be elsewhere, until all that went by the old way has come there. */
  readonly #moving = new Map<string, Moving>()
  /** Questions to nodes, by number: called when they are answered, or will not be. */
  readonly #asked = new Map<string, { readonly inc: string; end(): void }>()
  #questions = 0
  #live: ReadonlySet<string>
  /** Nodes that are lost, until they are recovered. */
  readonly #lost = new Map<string, PromiseWithResolvers<void>>()
  /** Nodes that are gone for good: an answer that names one as a home is out of date. */
  readonly #gone = new Set<string>()
  /** Of each node from which something has come that was passed on: to which nodes, and when (ms, `performance.now`). */
  readonly #passedOn = new Map<string, Map<string, number>>()
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
      // Everything else that was sent there has come back before.
      if (this.#isOwnQuestion(frame)) {
        this.#ended(frame)
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
    this.#live = new Set(this.#units.nodes.map(({ inc }) => inc))
    this.#units.onChange((gone) => {
      const live = new Set(this.#units.nodes.map(({ inc }) => inc))
      for (const inc of this.#live) if (!live.has(inc)) this.#lost.set(inc, Promise.withResolvers())
      this.#live = live
      for (const inc of gone) {
        this.#lost.get(inc)?.resolve()
        this.#lost.delete(inc)
      }
      if (gone.length === 0) return
      for (const asked of this.#asked.values()) if (gone.includes(asked.inc)) asked.end()
      for (const inc of gone) for (const targets of this.#passedOn.values()) targets.delete(inc)
      const lost = gone.map((inc) => this.#leave(inc, true))
      this.#parts.lost((unit) => lost.some((units) => units.has(unit)))
    })
    // The storage has seen to it that this is higher than what the unit has had (continueIdsAfter).
    this.#units.onClaimed((unit) => {
      this.#lastIds.set(unit, nextMessageId())
      const before = this.#routes.get(unit)
      this.#routes.delete(unit)
      // What was sent there comes back, and what clients of this node send now may not overtake it.
      if (before !== undefined && !this.#finding.has(unit)) this.#follow(unit, before)
    })
    this.#units.beforeMove(async (source, units) => {
      if (source === this.#units.inc) await this.#noneLost()
      await this.#allHome(source, units)
    })
    this.#units.onReleased((units) => {
      for (const unit of units) this.#lastIds.delete(unit)
    })
  }

  get inc(): string { return this.#units.inc }

  /** Whether this node is the unit's home. */
  here(unit: string): boolean { return this.#units.isHere(unit) }

  /** Resolves once a frame for this unit leaves at once, or the unit is here; undefined when that is so. */
  wait(unit: string): Promise<void> | undefined {
    if (this.#isComingBack(unit)) return this.#isBack(unit).then(() => this.wait(unit))
    const claiming = this.#claiming.get(unit)
    // It is here a moment before what has come for it takes effect.
    if (claiming !== undefined && this.#units.isHere(unit)) return claiming.claimed.then(() => this.wait(unit), () => undefined)
    const finding = this.#finding.get(unit)
    if (finding !== undefined) return finding.found
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
    if (this.#routes.has(unit) || this.#finding.has(unit) || this.#gone.has(source) || this.#units.isHere(unit) || this.#isComingBack(unit)) return
    this.#remember(unit, source)
  }

  /** From now on what comes for units that are not here any more goes on to others, if there are any. */
  leave(): void { this.#isLeaving = true }

  /** Resolves when nothing waits any more for its way, or after a while. */
  async passedOn(): Promise<void> {
    const until = performance.now() + HOME_MS
    while (!this.#closed && this.#finding.size + this.#claiming.size > 0 && performance.now() < until) await new Promise((resolve) => { setTimeout(resolve, GIVEN_UP_MS) })
  }

  /** Nothing is tried again from now on; what has found no way is left to who recovers this node. */
  close(): void {
    this.#closed = true
    for (const moving of this.#moving.values()) moving.stop()
    for (const asked of this.#asked.values()) asked.end()
  }

  /** Units that were there are nowhere now. What is sent to them waits until what was sent before, and comes back, is on its way. */
  #leave(inc: string, isAnnounced = false): ReadonlySet<string> {
    this.#forgetLater(inc)
    const known = this.#leaving.get(inc)
    const units = known?.units ?? new Set<string>()
    if (known !== undefined && !isAnnounced) return units
    for (const [unit, home] of this.#routes) if (home === inc) units.add(unit)
    for (const unit of units) if (this.#routes.get(unit) === inc) this.#routes.delete(unit)
    if (known === undefined) {
      // What it had passed on may be on its way still.
      const over = this.#units.left(inc).then(() => this.#noneLost()).then(() => this.#allHome(inc, NONE)).catch(() => undefined).then(() => {
        this.#leaving.delete(inc)
        // Nobody is left there who could answer.
        for (const moving of this.#moving.values()) if (moving.before === inc) moving.end()
      })
      this.#leaving.set(inc, { units, over })
    }
    return units
  }

  #sendOn(frame: Frame, done?: () => void, isReturned = false, source?: string): void {
    const { unit } = frame
    const finding = this.#finding.get(unit)
    if (this.#units.isHere(unit) && (finding === undefined || finding.returned.length === 0)) return this.#handle(frame, undefined, done)
    const inc = this.#routes.get(unit)
    if (this.#closed && inc === undefined) return
    if (inc === undefined || finding !== undefined) {
      // It must not be lost with this process while nobody has it.
      const kept = done ?? (frame.durable ? this.#units.keep(encodeFrame(frame)) : undefined)
      this.#find(unit)[isReturned ? 'returned' : 'held'].push({ source, frame, done: kept })
      return
    }
    if (source !== undefined) this.#isPassedOn(source, inc)
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
      for (const { frame, done, source } of returned) this.#sendOn(frame, done, true, source)
      for (const { frame, done } of held) this.#sendOn(frame, done)
    })
    const finding = { found, held, returned }
    this.#finding.set(unit, finding)
    return finding
  }

  #forgetLater(inc: string): void {
    if (this.#gone.has(inc)) return
    this.#gone.add(inc)
    setTimeout(() => { this.#gone.delete(inc) }, GONE_KEPT_MS).unref()
  }

  /** Whether something that was sent to a home that is gone is yet to come back. */
  #isComingBack(unit: string): boolean {
    if (this.#leaving.size === 0) return false
    for (const { units } of this.#leaving.values()) if (units.has(unit)) return true
    return false
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
        if (inc !== undefined && this.#gone.has(inc)) continue
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
      if (inc === this.#units.inc) this.#come(waiting)
      else this.#isElsewhere(unit, inc, waiting)
      return inc
    })
    // Rejected only once this is closed.
    claimed.catch(() => undefined)
    const begun = { claimed, waiting }
    this.#claiming.set(unit, begun)
    return begun
  }

  async #claimNow(unit: string): Promise<string> {
    if (!this.#units.isHere(unit)) await this.#isBack(unit)
    for (;;) {
      try {
        const inc = (this.#isLeaving ? await this.#nextHome(unit) : undefined) ?? await this.#units.claim(unit)
        if (!this.#gone.has(inc)) return inc
      } catch (error) {
        if (this.#closed) throw error
        this.#parts.log.warn({ what: 'claim_failed', unit, error })
        await this.#pause()
      }
    }
  }

  /** Where a unit that this node gives up is, once another node has it; undefined when no other is there for it. */
  async #nextHome(unit: string): Promise<string | undefined> {
    const { inc: self } = this.#units
    for (let tries = 0; ; tries++) {
      const inc = await this.#units.find(unit)
      if (inc !== undefined && inc !== self) return inc
      if (inc === self && this.#units.isHere(unit)) return undefined
      if (inc === undefined) {
        const next = chooseNode(unit, this.#units.nodes.filter((node) => node.inc !== self && !node.leaving))?.inc
        if (next === undefined) return undefined
        if (tries % HINT_EVERY === 0) this.sendTo(next, { kind: 'where', unit })
      }
      // Otherwise it is about to be given up.
      await new Promise((resolve) => { setTimeout(resolve, GIVEN_UP_MS) })
    }
  }

  #come(waiting: readonly Waiting[]): void {
    for (const { source, frame, done } of waiting) this.#arrivedHere(source, frame, done)
  }

  #isElsewhere(unit: string, inc: string, waiting: readonly Waiting[]): void {
    const before = this.#routes.get(unit)
    if (!this.#finding.has(unit)) {
      if (before === undefined) this.#remember(unit, inc)
      else if (before !== inc) this.#follow(unit, before)
    }
    for (const { source, frame, done } of waiting) this.#passOn(inc, source, frame, done)
  }

  /** To the unit's home, behind all that this node has sent there; whoever sent it here is told where that is. */
  #passOn(inc: string, source: string, frame: Frame, done: () => void): void {
    if (this.#isOwnQuestion(frame)) {
      // So has everything before it.
      this.#ended(frame)
      return done()
    }
    this.sendTo(source, { kind: 'at', unit: frame.unit, list: [inc] })
    this.#sendOn(frame, done, true, source)
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
      if (unit === '') this.#asked.get(frame.list[0] ?? '')?.end()
      else this.#told(source, unit, frame.list)
      return done()
    }
    if (kind === 'where' && unit === '') {
      void this.#answerWhenHome(frame.list)
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
    if (this.#units.isHere(unit)) return this.#arrivedHere(source, frame, done)
    if (frame.idle) return void this.#passIdle(source, frame, done)
    this.#claim(unit).waiting.push({ source, frame, done })
  }

  #arrivedHere(source: string, frame: Frame, done: () => void): void {
    const isWaiting = (this.#finding.get(frame.unit)?.returned.length ?? 0) > 0
    if (isWaiting && !this.#isOwnQuestion(frame)) return this.#sendOn(frame, done, true, source)
    this.#handle(frame, source, done)
  }

  /** A unit that is nobody's is not claimed for this. */
  async #passIdle(source: string, frame: Frame, done: () => void): Promise<void> {
    const inc = await this.#units.find(frame.unit).catch(() => undefined)
    if (this.#units.isHere(frame.unit)) return this.#arrivedHere(source, frame, done)
    if (inc !== undefined && inc !== this.#units.inc) return this.#passOn(inc, source, frame, done)
    done()
  }

  /** What is for units here takes effect at once; the rest goes its own way. */
  #arrivedForMany(source: string, frame: Frame, done: () => void): void {
    const elsewhere: Frame[] = []
    const here: string[] = []
    for (const each of apart(frame)) {
      if (this.#units.isHere(each.unit) && !this.#claiming.has(each.unit) && !this.#finding.has(each.unit)) here.push(each.list[0] as string)
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
  #told(source: string, unit: string, [inc, number]: readonly string[]): void {
    if (number !== undefined) {
      const moving = this.#moving.get(unit)
      if (moving !== undefined && moving.number === number) moving.end(inc)
      return
    }
    if (inc === undefined || inc === source || this.#routes.get(unit) !== source || this.#finding.has(unit)) return
    this.#follow(unit, source)
  }

  /**
   * Resolves when what this node, or one that is lost, has sent so far has come to the homes of its units, also where it is passed on. Not what is
   * for units that are being given up here. Gives up after a while.
   */
  async #allHome(source: string, except: ReadonlySet<string>): Promise<void> {
    const { inc: self } = this.#units
    const others = this.#units.nodes.filter(({ inc }) => inc !== self).map(({ inc }) => this.#ask(inc, source, HOPS_MAX))
    await Promise.all([...others, this.#passedOnAll(source, HOPS_MAX, except)])
  }

  /** Resolves when no node is lost that is not recovered: what it was to pass on has been passed on then. Or after a while. */
  async #noneLost(): Promise<void> {
    if (this.#lost.size === 0) return
    const { promise: late, resolve } = Promise.withResolvers<void>()
    const timer = setTimeout(resolve, HOME_MS)
    await Promise.race([late, Promise.all([...this.#lost.values()].map(({ promise }) => promise))])
    clearTimeout(timer)
  }

  /** Asks a node to answer once what this source has sent there is at home. */
  #ask(inc: string, source: string, hops: number): Promise<void> {
    const number = String(++this.#questions)
    const { promise, resolve } = Promise.withResolvers<void>()
    const end = (): void => {
      clearTimeout(timer)
      this.#asked.delete(number)
      resolve()
    }
    const timer = setTimeout(end, HOME_MS).unref()
    this.#asked.set(number, { inc, end })
    this.#units.outgoing(inc, encodeFrame({ kind: 'where', list: [this.#units.inc, number, source, String(hops)] }), false)
    return promise
  }

  async #answerWhenHome([asker = '', number = '', source = '', hops]: readonly string[]): Promise<void> {
    await this.#passedOnAll(source, Number(hops), NONE)
    this.sendTo(asker, { kind: 'at', list: [number] })
  }

  /** Resolves when nothing waits here that has come from this source, and what has been passed on is at home. */
  async #passedOnAll(source: string, hops: number, except: ReadonlySet<string>): Promise<void> {
    const isOwn = source === this.#units.inc
    const waitingFor: Promise<unknown>[] = []
    for (const { waiting, claimed } of this.#claiming.values()) if (waiting.some((one) => isFrom(one, source))) waitingFor.push(claimed)
    for (const [unit, { returned, held, found }] of this.#finding) {
      if (!except.has(unit) && (isOwn && held.length > 0 || returned.some((one) => isFrom(one, source)))) waitingFor.push(found)
    }
    await Promise.allSettled(waitingFor)
    if (hops === 0) return
    const now = performance.now()
    const targets = this.#passedOn.get(source) ?? new Map<string, number>()
    for (const [inc, at] of targets) if (now - at > PASSED_ON_KEPT_MS) targets.delete(inc)
    if (targets.size === 0) this.#passedOn.delete(source)
    await Promise.all([...targets.keys()].map((inc) => this.#ask(inc, this.#units.inc, hops - 1)))
  }

  #isPassedOn(source: string, inc: string): void {
    // What a lost node had sent comes from who recovers it.
    const last = source.slice(source.lastIndexOf('>') + 1)
    const targets = this.#passedOn.get(last)
    if (targets === undefined) this.#passedOn.set(last, new Map([[inc, performance.now()]]))
    else targets.set(inc, performance.now())
  }

  /** Has what comes next wait until all that was sent to this node for the unit has come where that is now. */
  #follow(unit: string, before: string): void {
    this.#routes.delete(unit)
    const { promise: answered, resolve } = Promise.withResolvers<string | undefined>()
    const number = String(++this.#questions)
    const ask = (): void => { this.#units.outgoing(before, encodeFrame({ kind: 'where', unit, list: [this.#units.inc, number] }), false) }
    let left = WHERE_TRIES
    const timer = setInterval(() => {
      if (left-- > 0) ask()
      else this.#moving.get(unit)?.end()
    }, WHERE_MS).unref()
    this.#moving.set(unit, {
      before, number,
      stop() { clearInterval(timer) },
      end: (home) => {
        clearInterval(timer)
        this.#moving.delete(unit)
        resolve(home)
      },
    })
    this.#begin(unit, async (held, returned) => {
      const home = await answered
      if (home !== undefined && home !== this.#units.inc && !this.#gone.has(home)) return this.#remember(unit, home)
      return this.#findHome(unit, held, returned)
    })
    ask()
  }

  /** `done` is called once it has taken effect, in that turn. */
  #handle(frame: Frame, source?: string, done?: () => void): void {
    const failed = (error: unknown): void => { this.#parts.log.error({ what: 'frame_failed', kind: frame.kind, unit: frame.unit, error }) }
    let handling: void | Promise<void> = undefined
    try {
      if (frame.kind === 'where') this.#answer(frame)
      else handling = this.#parts.handle(frame, source)
    } catch (error) {
      failed(error)
    }
    if (handling instanceof Promise) void handling.catch(failed).then(done)
    else done?.()
  }

  /** All that came by the old way for a unit of this node is here. */
  #answer(question: Frame): void {
    const { inc } = this.#units
    const [asker = '', number = ''] = question.list
    if (asker === inc) this.#ended(question)
    else this.sendTo(asker, { kind: 'at', unit: question.unit, list: [inc, number] })
  }

  /** Whether this is a question of this node, which has come back to it. */
  #isOwnQuestion({ kind, list }: Frame): boolean { return kind === 'where' && list[0] === this.#units.inc }

  /** Nothing is left on the way by which this question has gone. */
  #ended({ unit, list: [, number] }: Frame): void {
    const moving = this.#moving.get(unit)
    if (moving !== undefined && moving.number === number) moving.end()
  }

  #pause(): Promise<void> {
    return new Promise((resolve) => { setTimeout(resolve, this.#parts.retryMs ?? RETRY_MS).unref() })
  }
}

/** Whether it has been sent by this node, or by who recovered it. */
function isFrom(one: { readonly source: string | undefined }, source: string): boolean {
  return one.source === source || one.source?.endsWith(`>${source}`) === true
}

const EMPTY: Frame = { kind: 'stanza', unit: '', id: '', promised: false, durable: false, idle: false, volatile: false, stanza: Buffer.alloc(0), list: [] }
