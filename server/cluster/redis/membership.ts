/**
 * A node's place in a cluster that Redis keeps together.
 *
 * A lease is a count that its node raises each second. The others watch it by their own monotonic clocks, while they can reach Redis
 * themselves: neither the time of a machine nor a Redis that stands still ends a lease. One that has not been raised for `leaseMs` is
 * taken away; then one node after the other is recovered, each by one of the live ones, whose number (token) the recovered node's keys know: who
 * was late writes nothing any more.
 */
import { randomBytes } from 'node:crypto'
import { type Claim, type Inheritance, type LoadedUnit, type Membership, type NodeInfo, type Parcel, type UnitRow } from '../shapes.ts'
import { type LogRecord } from '../../storage/groups/log.ts'
import { type Client, Commander, FinalError, openClient, pause, type RedisConnection } from './connect.ts'
import { RecoveredError } from '../errors.ts'
import { buffersOf, Inbox, packPieces, parcelOf } from './inbox.ts'
import { Keys } from './keys.ts'
import { type InboxLimits, RedisLog } from './log.ts'
import { BEAT, CHANGE, CLAIM, END_TURN, FENCE, FINISH, JOIN, LEAVE, LEFT, LOAD, NOTE_WAYS, LOSE, NUMBER, RELEASE, type Script, SEND, TAKE_TURN, WRITE } from './scripts.ts'
import { argumentsOf, loadedOf } from './unit-rows.ts'

export interface RedisMembershipOptions {
  readonly redis: RedisConnection
  readonly name: string
  readonly address: string
  readonly roles: readonly string[]
  /** How long the others wait for a node that does not raise its count. */
  readonly leaseMs?: number
  /** How long this node goes on without acknowledging anything while it cannot reach Redis. */
  readonly patienceMs?: number
  /** Entries that one inbox may have. */
  readonly inboxEntries?: number
  /** Of a node's inbox in Redis, once it has more entries than a few. */
  readonly inboxBytes?: number
  readonly joinMs?: number
}

const LEASE_MS = 5000
const PATIENCE_MS = 60_000
const INBOX_ENTRIES = 1000
const INBOX_BYTES = 32 * 1024 * 1024
const JOIN_MS = 30_000
/** Ends of nodes are remembered for so long, and when units had a home. */
const REMEMBER_SECONDS = 2 * 24 * 3600
const RELEASED_SECONDS = 25 * 3600
const AT_ONCE = 200
const FULL_PAUSE_MS = 50
/** After a recovery that failed. */
const RECOVER_AGAIN_MS = 500
const LOG_ENTRIES_AT_ONCE = 32
const CHANNEL = 'changes'
const SECRET_BYTES = 32

interface Watched {
  count: string
  since: number
}

export class RedisMembership implements Membership {
  readonly log: RedisLog
  readonly #keys: Keys
  readonly #options: RedisMembershipOptions
  readonly #leaseMs: number
  readonly #commander: Commander
  readonly #logCommander: Commander
  readonly #inbox: Inbox
  readonly #hints: Client
  readonly #channel: string
  readonly #onChange: ((gone: readonly string[]) => void)[] = []
  readonly #onLost: (() => void)[] = []
  readonly #limits: InboxLimits
  readonly #watched = new Map<string, Watched>()
  readonly #problems = new Map<string, string>()
  /** Units that this node is the home of. */
  readonly #homes = new Set<string>()
  #self: NodeInfo
  #idNumber = 0
  #nodes: readonly NodeInfo[]
  /** All that are in the hash, lost ones too, as they were last seen. */
  #known = new Set<string>()
  #sequence = 0
  #beatAt = 0
  #confirmedAt = 0
  #beating: Promise<void> | undefined
  #timer: NodeJS.Timeout | undefined
  #hasJoined = false
  #isLost = false
  #isClosed = false
  #inheritor: ((inheritance: Inheritance) => Promise<void>) | undefined
  #recovering: Promise<void> | undefined
  #recoverAfter = 0

  private constructor(options: RedisMembershipOptions, self: NodeInfo) {
    this.#self = self
    this.#options = options
    this.#leaseMs = options.leaseMs ?? LEASE_MS
    this.#keys = new Keys(options.redis.keyPrefix)
    this.#commander = new Commander(options.redis, (problem) => { this.#report('commands', problem) })
    this.#logCommander = new Commander(options.redis, (problem) => { this.#report('log', problem) })
    this.#limits = { entries: options.inboxEntries ?? INBOX_ENTRIES, bytes: options.inboxBytes ?? INBOX_BYTES }
    // Keys of several nodes are in several slots of a Cluster.
    const sending = options.redis.cluster.length > 0 ? undefined : { keys: this.#keys, limits: this.#limits }
    this.log = new RedisLog(this.#logCommander, this.#keys.node(self.inc), () => { this.#lose() }, sending)
    this.#inbox = new Inbox(options.redis, this.#commander, this.#keys.node(self.inc), (problem) => { this.#report('inbox', problem) })
    this.#channel = `${options.redis.keyPrefix}${CHANNEL}`
    this.#hints = openClient(options.redis)
    this.#hints.on('ready', () => { this.#hints.subscribe(this.#channel).catch(ignore) })
    this.#hints.on('message', () => { this.#beatNow() })
    this.#nodes = [self]
  }

  /** Joins a cluster under a new incarnation. Rejects when Redis cannot be reached for half a minute. */
  static async join(options: RedisMembershipOptions): Promise<RedisMembership> {
    const { name, address, roles } = options
    const membership = new RedisMembership(options, { inc: `${name}-${randomBytes(6).toString('hex')}`, name, address, roles, leaving: false })
    try {
      await membership.#join()
      return membership
    } catch (error) {
      membership.abort()
      throw error
    }
  }

  get self(): NodeInfo { return this.#self }
  get idNumber(): number { return this.#idNumber }
  get nodes(): readonly NodeInfo[] { return this.#nodes }

  async leaving(): Promise<void> {
    this.#self = { ...this.#self, leaving: true }
    await this.#persist(() => this.#commander.run(CHANGE, [this.#keys.nodes, this.#keys.leases], [this.self.inc, JSON.stringify(this.self)]))
    await this.#tellOthers()
    this.#beatNow()
  }

  get problem(): string | undefined {
    const [first] = this.#problems.values()
    return first
  }

  /** A secret that all nodes have: 32 bytes, made by the first that asks. */
  async secret(): Promise<Uint8Array> {
    return await this.#persist(async () => {
      const { client } = this.#commander
      await client.set(this.#keys.secret, randomBytes(SECRET_BYTES), 'NX')
      const secret = await client.getBuffer(this.#keys.secret)
      if (secret?.length !== SECRET_BYTES) throw new Error('Redis has no secret of the cluster')
      return secret
    })
  }

  onChange(listener: (gone: readonly string[]) => void): void { this.#onChange.push(listener) }

  onLost(listener: () => void): void {
    if (this.#isLost) setImmediate(listener)
    else this.#onLost.push(listener)
  }

  async claim(unit: string): Promise<Claim> {
    return await this.#persist(async () => {
      let over = ''
      let lastMs = 0
      for (;;) {
        const answer = await this.#onUnit(CLAIM, unit, [this.self.inc, ++this.#sequence, over, lastMs]) as [number, Buffer, ...unknown[]]
        if (answer[0] === 1) this.#homes.add(unit)
        if (answer[0] === 1) return { here: true, unit: loadedOf(unit, answer) }
        if (answer[0] === 2) throw new Error(`an operation on ${unit} came late`)
        const inc = answer[1].toString()
        const home = homeOf(inc)
        const ended = home === over ? undefined : await this.#endOf(home)
        if (ended === undefined) return { here: false, inc: home }
        over = home
        lastMs = ended
      }
    })
  }

  async find(unit: string): Promise<string | undefined> {
    return await this.#persist(async () => {
      const inc = await this.#commander.client.hget(this.#keys.unit(unit).home, 'inc')
      if (!inc) return undefined
      const home = homeOf(inc)
      return home === this.self.inc || await this.#endOf(home) === undefined ? home : undefined
    })
  }

  async release(units: readonly string[], lastMs: number): Promise<void> {
    await inParts(units, async (unit) => {
      await this.#persist(() => this.#commander.run(RELEASE, [this.#keys.unit(unit).home], [this.self.inc, ++this.#sequence, lastMs, RELEASED_SECONDS]))
      this.#homes.delete(unit)
    })
  }

  async write(rows: readonly UnitRow[], tails: ReadonlyMap<string, Buffer | undefined>): Promise<void> {
    await this.#write(this.self.inc, 0, rows, tails)
  }

  async send(inc: string, parcel: Parcel): Promise<'sent' | 'gone'> {
    const { node, fence, inbox } = this.#keys.node(inc)
    const pieces = packPieces(parcel.pieces)
    const answer = await this.#persist(async () => {
      for (;;) {
        const answer = Number(await this.#commander.run(SEND, [node, fence, inbox], [this.#limits.entries, this.#limits.bytes, parcel.source, parcel.first, pieces]))
        if (answer === 1) return 'sent'
        if (answer === 0) return 'gone'
        if (answer === 2) return 'recovered'
        if (this.#isLost || this.#isClosed) throw new FinalError('this node has left the cluster')
        await pause(FULL_PAUSE_MS)
      }
    })
    if (answer === 'recovered') throw new RecoveredError(inc)
    return answer
  }

  async receivedBy(inc: string, source: string): Promise<number> {
    return Number(await this.#persist(() => this.#commander.client.hget(this.#keys.node(inc).over, `r:${source}`)) ?? 0)
  }

  receive(handler: (parcel: Parcel, done: () => void) => void): void { this.#inbox.receive(handler) }
  caughtUp(): Promise<void> { return this.#inbox.caughtUp() }

  inherit(handler: (inheritance: Inheritance) => Promise<void>): void {
    this.#inheritor = handler
    this.#beatNow()
  }

  /** Ends at once when nothing is left in log and inbox; otherwise others recover it, beginning now. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#isClosed) return
    this.#isClosed = true
    clearTimeout(this.#timer)
    await this.log.close()
    await this.#inbox.close()
    await this.#beating
    if (!this.#isLost) await this.#leave().catch(ignore)
    this.abort()
  }

  async #leave(): Promise<void> {
    const { node, fence, at, log, inbox, over } = this.#keys.node(this.self.inc)
    const { nodes, leases, lost } = this.#keys
    const hasEnded = Number(await this.#commander.run(LEAVE, [node, fence, at, log, inbox, over], [REMEMBER_SECONDS])) === 1
    if (hasEnded) await this.#commander.run(LEFT, [nodes, leases], [this.self.inc])
    else await this.#commander.run(LOSE, [nodes, leases, lost], [this.self.inc, ''])
    await this.#tellOthers()
  }

  /** Ends at once, as when the process were killed: others recover what is left. */
  abort(): void {
    this.#isClosed = true
    clearTimeout(this.#timer)
    this.#commander.close()
    this.#logCommander.close()
    this.#hints.disconnect()
    void this.#inbox.close()
  }

  async #join(): Promise<void> {
    const { node } = this.#keys.node(this.self.inc)
    const { nodes, leases } = this.#keys
    await this.#commander.persist(async () => {
      // It goes by itself when this process is killed in between.
      await this.#commander.client.set(node, this.self.name, 'EX', REMEMBER_SECONDS)
      await this.#commander.run(JOIN, [nodes, leases], [this.self.inc, JSON.stringify(this.self)])
      await this.#commander.client.persist(node)
      this.#idNumber = Number(await this.#commander.run(NUMBER, [nodes, this.#keys.numbers], [this.self.inc]))
    }, this.#options.joinMs ?? JOIN_MS)
    this.#confirmedAt = performance.now()
    await this.#commander.persist(() => this.#beat(), this.#leaseMs)
    this.#hasJoined = true
    await this.#tellOthers()
    this.#beatLater()
  }

  async #tellOthers(): Promise<void> {
    await this.#commander.client.publish(this.#channel, this.self.inc).catch(ignore)
  }

  #beatLater(): void {
    clearTimeout(this.#timer)
    if (this.#isClosed || this.#isLost) return
    this.#timer = setTimeout(() => { this.#beatNow() }, this.#leaseMs / 5)
  }

  #beatNow(): void {
    if (!this.#hasJoined || this.#isClosed || this.#isLost || this.#beating) return
    this.#beating = this.#beat().catch(ignore).finally(() => {
      this.#beating = undefined
      if (performance.now() - this.#confirmedAt > (this.#options.patienceMs ?? PATIENCE_MS)) this.#lose()
      this.#beatLater()
    })
  }

  /** Raises the own count, and looks at those of the others. */
  async #beat(): Promise<void> {
    const sentAt = performance.now()
    const { nodes, leases, lost, turn } = this.#keys
    const answer = await this.#commander.run(BEAT, [nodes, leases, lost, turn], [this.self.inc]) as [number, Buffer[], Buffer[], Buffer[], Buffer[]]
    if (answer[0] === 0) return await this.#takenOut()
    this.#confirmedAt = sentAt
    const infos = mapOf(answer[1])
    const counts = mapOf(answer[2])
    this.#see(infos, counts)
    await this.#watch(counts, sentAt)
    if (answer[3].length > 0) this.#recoverNext()
  }

  /** Its lease is gone: taken by the others, or lost by Redis, and then the others are told to recover it. */
  async #takenOut(): Promise<void> {
    const { nodes, leases, lost } = this.#keys
    this.#lose()
    await this.#commander.run(JOIN, [nodes, leases], [this.self.inc, JSON.stringify(this.self)])
    await this.#commander.run(LOSE, [nodes, leases, lost], [this.self.inc, ''])
  }

  #see(infos: ReadonlyMap<string, string>, counts: ReadonlyMap<string, string>): void {
    const gone = [...this.#known].filter((inc) => !infos.has(inc))
    this.#known = new Set(infos.keys())
    const live = [...infos].filter(([inc]) => counts.has(inc)).map(([, info]) => JSON.parse(info) as NodeInfo)
    live.sort((a, b) => (a.inc < b.inc ? -1 : 1))
    const isSame = live.length === this.#nodes.length && live.every((node, i) => node.inc === this.#nodes[i]?.inc && node.leaving === this.#nodes[i].leaving)
    if (!isSame) this.#nodes = live
    if (!isSame || gone.length > 0) for (const listener of this.#onChange) listener(gone)
  }

  /** Takes away the leases that have not been raised. */
  async #watch(counts: ReadonlyMap<string, string>, now: number): Promise<void> {
    // While this node could not look, others may have been unable to raise theirs.
    const hasLooked = now - this.#beatAt < this.#leaseMs / 2
    this.#beatAt = now
    for (const inc of this.#watched.keys()) if (!counts.has(inc)) this.#watched.delete(inc)
    for (const [inc, count] of counts) {
      const watched = this.#watched.get(inc)
      if (watched?.count !== count) this.#watched.set(inc, { count, since: now })
      else if (!hasLooked) watched.since = now
      else if (now - watched.since > this.#leaseMs && inc !== this.self.inc) {
        const { nodes, leases, lost } = this.#keys
        if (Number(await this.#commander.run(LOSE, [nodes, leases, lost], [inc, count])) === 1) await this.#tellOthers()
      }
    }
  }

  #lose(): void {
    if (this.#isLost || this.#isClosed) return
    this.#isLost = true
    clearTimeout(this.#timer)
    this.#report('lease', 'this node has lost its lease')
    void this.log.close()
    void this.#inbox.close()
    for (const listener of this.#onLost) listener()
  }

  /** When a node is over, until when (ms) it has made ids, 0 when that is not known; undefined while anything of it is left. */
  async #endOf(inc: string): Promise<number | undefined> {
    const { node, over } = this.#keys.node(inc)
    if (await this.#commander.client.exists(node) === 1) return undefined
    return Number(await this.#commander.client.hget(over, 'last') ?? 0)
  }

  /** The keys of a unit together, for one script. */
  #onUnit(script: Script, unit: string, args: readonly (string | Buffer | number)[]): Promise<unknown> {
    const { home, offline, streams, tail } = this.#keys.unit(unit)
    return this.#commander.run(script, [home, offline, streams, tail], args)
  }

  async #write(home: string, token: number, rows: readonly UnitRow[], tails: ReadonlyMap<string, Buffer | undefined>): Promise<void> {
    const byUnit = new Map<string, UnitRow[]>()
    for (const row of rows) {
      const list = byUnit.get(row.unit)
      if (list) list.push(row)
      else byUnit.set(row.unit, [row])
    }
    for (const unit of tails.keys()) if (!byUnit.has(unit)) byUnit.set(unit, [])
    await inParts([...byUnit], async ([unit, list]) => {
      const tail = tails.get(unit)
      const what = tail ? 'set' : tails.has(unit) ? '' : 'keep'
      const more = argumentsOf(unit, list)
      let canBeFree = false
      await this.#persist(async () => {
        for (;;) {
          const answer = Number(await this.#onUnit(WRITE, unit, [this.self.inc, ++this.#sequence, home, token, what, tail ?? '', canBeFree ? 1 : 0, ...more]))
          if (answer === 1) return
          if (answer === 2) throw new Error(`an operation on ${unit} came late`)
          // Only a Redis that has lost what it had acknowledged has no home, or another, for what this node has claimed.
          if (token === 0 ? !this.#homes.has(unit) : !await this.#isTurn(home, token)) throw new FinalError(`${home} is not the home of ${unit}`)
          if (answer === 0 && token > 0) return
          if (answer === 0) {
            this.#lose()
            throw new FinalError(`${unit} has another home`)
          }
          canBeFree = true
          if (token === 0 && !(await this.claim(unit)).here) this.#lose()
        }
      })
    })
  }

  /** Whether this node is the one that recovers another. */
  async #isTurn(inc: string, token: number): Promise<boolean> {
    const [whose, number] = await this.#commander.client.hmget(this.#keys.turn, 'inc', 'token')
    return whose === inc && Number(number) === token
  }

  async #persist<T>(run: () => Promise<T>): Promise<T> {
    return await this.#commander.persist(async () => {
      if (this.#isLost || this.#commander.isClosed) throw new FinalError('this node has left the cluster')
      return await run()
    })
  }

  #recoverNext(): void {
    if (!this.#inheritor || performance.now() < this.#recoverAfter || this.#recovering || this.#isLost || this.#isClosed) return
    this.#recovering = this.#recover(this.#inheritor).catch(ignore).finally(() => { this.#recovering = undefined })
  }

  async #recover(handler: (inheritance: Inheritance) => Promise<void>): Promise<void> {
    const { nodes, leases, lost, turn } = this.#keys
    const [incOf, token] = await this.#commander.run(TAKE_TURN, [nodes, leases, lost, turn], [this.self.inc]) as [Buffer | undefined, number]
    if (!incOf) return
    const inc = incOf.toString()
    let isDone = false
    try {
      const { node, fence } = this.#keys.node(inc)
      const answer = Number(await this.#persist(() => this.#commander.run(FENCE, [node, fence], [token])))
      if (answer === 2) return
      // Another one has done all and was killed before it could say so.
      if (answer === 0) isDone = true
      else await handler(await this.#inheritance(inc, token, () => { isDone = true }))
    } finally {
      if (!isDone) this.#recoverAfter = performance.now() + RECOVER_AGAIN_MS
      await this.#persist(() => this.#commander.run(END_TURN, [nodes, leases, lost, turn], [inc, token, isDone ? 1 : 0]))
      await this.#tellOthers()
      this.#beatNow()
    }
  }

  async #inheritance(inc: string, token: number, finished: () => void): Promise<Inheritance> {
    const { node, fence, at, log, inbox, ways, over } = this.#keys.node(inc)
    const records: LogRecord[] = []
    await this.#entries(log, (id, fields) => {
      records.push({ number: Number(id.split('-')[1]), lastIdMs: Number(fields.get('l')?.toString()), payload: fields.get('p') ?? Buffer.alloc(0) })
    })
    const parcels: Parcel[] = []
    await this.#entries(inbox, (_, fields) => { parcels.push(parcelOf(fields)) })
    const known = await this.#persist(() => this.#commander.client.hgetall(ways))
    return {
      inc, records, parcels,
      position: { segment: 0, record: (records[0]?.number ?? 1) - 1, lastIdMs: 0 },
      load: async (unit): Promise<LoadedUnit> => loadedOf(unit, await this.#persist(() => this.#onUnit(LOAD, unit, [])) as unknown[]),
      write: (rows, tails) => this.#write(inc, token, rows, tails),
      ways: new Map(Object.entries(known).map(([unit, nodes]) => [unit, JSON.parse(nodes) as string[]])),
      noteWays: async (unit, nodesSent) => {
        if (Number(await this.#persist(() => this.#commander.run(NOTE_WAYS, [node, fence, ways], [token, unit, JSON.stringify(nodesSent)]))) !== 1) throw new FinalError(`${inc} is recovered by another`)
      },
      finish: async (lastMs, received) => {
        const fields = ['last', lastMs, ...[...received].flatMap(([source, number]) => [`r:${source}`, number])]
        const answer = Number(await this.#persist(() => this.#commander.run(FINISH, [node, fence, at, log, inbox, over, ways], [token, REMEMBER_SECONDS, ...fields])))
        if (answer !== 1) throw new FinalError(`${inc} is recovered by another`)
        finished()
      },
    }
  }

  async #entries(key: string, take: (id: string, fields: ReadonlyMap<string, Buffer>) => void): Promise<void> {
    for (let after = '-'; ;) {
      const entries = await this.#persist(() => this.#commander.client.xrangeBuffer(key, after, '+', 'COUNT', LOG_ENTRIES_AT_ONCE))
      for (const [id, fields] of entries) take(id.toString(), buffersOf(fields))
      const last = entries.at(-1)
      if (!last || entries.length < LOG_ENTRIES_AT_ONCE) return
      after = `(${last[0].toString()}`
    }
  }

  #report(what: string, problem: string | undefined): void {
    if (problem === undefined) this.#problems.delete(what)
    else this.#problems.set(what, problem)
  }
}

/** A home that is being recovered. */
function homeOf(inc: string): string { return inc.startsWith('~') ? inc.slice(1) : inc }

function mapOf(flat: readonly Buffer[]): Map<string, string> {
  const map = new Map<string, string>()
  for (let i = 0; i < flat.length; i += 2) map.set((flat[i] as Buffer).toString(), (flat[i + 1] as Buffer).toString())
  return map
}

async function inParts<T>(items: readonly T[], run: (item: T) => Promise<void>): Promise<void> {
  for (let at = 0; at < items.length; at += AT_ONCE) await Promise.all(items.slice(at, at + AT_ONCE).map(run))
}

function ignore(): void {}
