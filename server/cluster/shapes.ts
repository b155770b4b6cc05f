/**
 * What several nodes share. Each unit (a bare JID of an account or room; a domain, for what belongs to a host or service as a whole) has
 * at most one home: the node that has claimed it. Only its home reads and writes what is stored of it, so that this is done in memory,
 * and written through a log of the node's own. Drivers: Redis with HBase or Cassandra behind it; the main process of one machine; memory, for tests.
 */
import type { ArchivedItem, ArchivePage, ArchiveQuery, StoredStream } from '../storage/shapes.ts'
import type { Log, LogPosition, LogRecord } from '../storage/groups/log.ts'

/** A node as the others see it. */
export interface NodeInfo {
  /** Its incarnation: another one each time that it joins. */
  readonly inc: string
  readonly name: string
  /** Host and port on which it takes clients that others pass on to it; empty when it takes none. */
  readonly address: string
  readonly roles: readonly string[]
  /** It finishes what it has, and is given nothing new. */
  readonly leaving: boolean
}

/** A row of a unit; the key as in `ordered.ts`, one character a byte: its first says what it is, and `r` is a record. */
export interface UnitRow {
  readonly unit: string
  readonly key: string
  /** `undefined` removes it. */
  readonly value: Buffer | undefined
  /**
   * Rises with each write of the key, whichever home it has: milliseconds since 1970 times 1024 and a count. In a store whose cells
   * have timestamps this is it, so that what a node that was paused writes late does not go over what is newer.
   */
  readonly version: number
}

/** What is stored of a unit beside its records. */
export interface LoadedUnit {
  /** Those whose keys do not begin with `r`, in no order. */
  readonly rows: readonly { readonly key: string; readonly value: Buffer }[]
  /** What of its history the history's store may not have yet, packed; `undefined`: nothing. */
  readonly tail: Buffer | undefined
  /** Until when (ms) an earlier home has made ids and versions; 0 when that is not known, or a day ago. */
  readonly lastMs: number
}

export type Claim = { readonly here: true; readonly unit: LoadedUnit } | { readonly here: false; readonly inc: string }

/** Several stanzas, or what else the nodes say to each other, on the way to one node. */
export interface Parcel {
  /** The incarnation that sent it. */
  readonly source: string
  /** Number of its first piece among all that `source` has sent to this node, from 1; the others follow. */
  readonly first: number
  readonly pieces: readonly Buffer[]
}

/** A parcel, and the node that is to have it. */
export interface Addressed {
  readonly to: string
  readonly parcel: Parcel
}

/** This node's place in a cluster. */
export interface Membership extends AsyncDisposable {
  readonly self: NodeInfo
  /** The live nodes, this one among them. */
  readonly nodes: readonly NodeInfo[]
  /** Told of each change of `nodes`, and of incarnations that are over for good, everything of theirs having been recovered. */
  onChange(listener: (gone: readonly string[]) => void): void
  /**
   * Told once when this node has lost its lease, and others may serve its units: its log takes nothing any more. It must not answer
   * anybody then.
   */
  onLost(listener: () => void): void
  /** Below 1024, and no other node's that is there; undefined where nodes have no numbers. */
  readonly idNumber?: number | undefined
  /** Tells the others that this node is about to leave: they give it nothing new. */
  leaving(): Promise<void>

  /** Makes this node the unit's home, unless another is, and answers what is stored of it. Asked for one unit once at a time. */
  claim(unit: string): Promise<Claim>
  /** The unit's home, if it has one. */
  find(unit: string): Promise<string | undefined>
  /** The units have no home any more. Everything of theirs has been written by `write`. `lastMs`: as of a LoadedUnit. May be repeated. */
  release(units: readonly string[], lastMs: number): Promise<void>
  /**
   * Writes rows (no records) to the places of units whose home this node is, and the tails of these units whole; `undefined` removes a tail.
   * May be repeated. Rejects when it failed; then anything of it may be written.
   */
  write(rows: readonly UnitRow[], tails: ReadonlyMap<string, Buffer | undefined>): Promise<void>

  /** The log of this incarnation. */
  readonly log: NodeLog

  /**
   * Resolves when the parcel is in the node's inbox, on stable storage; 'gone' when there is no such node any more, everything of it having been recovered.
   * The same parcel may be sent again, and its source may be a node that is lost, with a `>` and the name of another after it, too.
   */
  send(inc: string, parcel: Parcel): Promise<'sent' | 'gone'>
  /** Of a node that is gone: the highest number from this source that it had, 0 when none is known. Kept for an hour at least. */
  receivedBy(inc: string, source: string): Promise<number>
  /**
   * Hands out parcels, those of one source in the order of their numbers; one may come twice. `done` is called when what they caused is
   * committed, and then they leave the inbox.
   */
  receive(handler: (parcel: Parcel, done: () => void) => void): void
  /** Resolves when everything that has come to this node's inbox before the call has been handed out, however much is not done. */
  caughtUp(): Promise<void>

  /**
   * Called with what each lost node leaves that this node is to recover; when it rejects, or this node goes before it has called `finish`, it
   * is done again from the beginning, here or elsewhere. Called once. In the whole cluster one lost node is recovered at a time; after a
   * rejection another has its turn first. The inboxes of lost nodes whose turn has not come take parcels; `send` to the one whose turn it is rejects until it is gone.
   */
  inherit(handler: (inheritance: Inheritance) => Promise<void>): void

  /** The reason why the cluster cannot be reached at present. */
  readonly problem: string | undefined
}

/**
 * What the router of a node needs of the storage that keeps the node's units. Frames are what nodes say to each other
 * (cluster/frames.ts); the storage does not look into them.
 */
export interface Units {
  /** This node's incarnation. */
  readonly inc: string
  /** The live nodes, this one among them. */
  readonly nodes: readonly NodeInfo[]
  /** This node is the unit's home, and has it in memory. Asked for each stanza. */
  isHere(unit: string): boolean
  /**
   * Makes this node the unit's home unless another is; resolves with the home's incarnation, this node's when the unit is in memory
   * here. May be asked at any time and by several at once; rejects when the cluster cannot be reached.
   */
  claim(unit: string): Promise<string>
  /** The incarnation of the unit's home, if it has one. */
  find(unit: string): Promise<string | undefined>
  /**
   * Sends a frame to another node once this turn's group is committed, in the order of the calls. A durable one is part of the group: it
   * arrives whatever happens to this process after the commit. Others may be lost with the process.
   */
  outgoing(inc: string, frame: Buffer, durable: boolean): void
  /**
   * Keeps a durable frame whose unit's home is not known yet, as part of this turn's group: it arrives whatever happens to this process after
   * the commit. The function that this answers is called in the turn in which the frame is sent, or takes effect here.
   */
  keep(frame: Buffer): () => void
  /**
   * Hands out frames of other nodes, those of one source in order. `done` is called in the turn in which the frame took effect, often at
   * once: with what that turn writes is kept that it need not come again. The handler of one that was handed out may
   * call `done` after that of later ones. Called once.
   */
  incoming(handler: (source: string, frame: Buffer, done: () => void) => void): void
  /**
   * Hands out frames whose node went before it had them, to be sent to another; as `incoming`. `inc` is the node that is gone, of a frame that this one had sent
   * there. Called once.
   */
  returned(handler: (frame: Buffer, done: () => void, inc: string | undefined) => void): void
  /** Resolves when everything that was sent to a node so far is there, or has been handed out as returned. */
  left(inc: string): Promise<void>
  /** Told of each change of `nodes`, and of incarnations that are over for good: everything of theirs is recovered, and their units have no home. */
  onChange(listener: (gone: readonly string[]) => void): void
  /** The unit, which is here, stays here until the function that this answers is called. */
  pin(unit: string): () => void
  /** Told of each unit that has come, with the streams that were open there, before its claim resolves. */
  onClaimed(listener: (unit: string, streams: readonly StoredStream[]) => void): void
  /**
   * Called before units are given up, and when what a lost node (`source`) had sent has been sent again, before its units may be claimed: resolves
   * when what was sent from there so far is at the homes of its units, or after a while. What these units send from their next homes comes after it.
   */
  beforeMove(wait: (source: string, units: ReadonlySet<string>) => Promise<void>): void
  /** Told of units that this node has given up: what others keep in memory of these is out of date from now on. */
  onReleased(listener: (units: readonly string[]) => void): void
  /** Told once when this node has lost its lease: it must not answer anybody any more. */
  onLost(listener: () => void): void
  /** As of a Membership. */
  readonly idNumber?: number | undefined
  /** As of a Membership. */
  leaving(): Promise<void>
  /** Gives up all units, once everything of theirs is where others find it; or as much as can be done in some seconds. Nobody uses them any more. */
  leave(): Promise<void>
}

/**
 * An append-only log of records, in segments, that outlives its node: as the WriteAheadLog of the embedded storage. `append` leaves the
 * first HEADER_BYTES of the buffer to the log; the payload follows. It rejects when it failed: then the same record is appended again,
 * and must be there once, and no other before it.
 */
export interface NodeLog extends Log {
  /**
   * As `append`, and puts parcels into the inboxes of their nodes in the same step, where that can be done. Answers for which nodes it was; of the others, and
   * after a failure, nothing is known.
   */
  appendAndSend?(buffer: Buffer, payloadBytes: number, lastIdMs: number, parcels: readonly Addressed[]): Promise<ReadonlySet<string>>
}

/** What a lost node leaves: a survivor does again what its log says, and then takes on what was sent to it. */
export interface Inheritance {
  readonly inc: string
  readonly position: LogPosition
  readonly records: readonly LogRecord[]
  /** Parcels that had come and were not done. */
  readonly parcels: readonly Parcel[]
  /** What is stored of one of its units. */
  load(unit: string): Promise<LoadedUnit>
  /** As Membership's, for the lost node's units. */
  write(rows: readonly UnitRow[], tails: ReadonlyMap<string, Buffer | undefined>): Promise<void>
  /**
   * By unit: the nodes that have been sent what was on its way to it, the last one last. Who does it again sends what they do not have to the same, so that nothing
   * comes twice.
   */
  readonly ways: ReadonlyMap<string, readonly string[]>
  /** Notes that before something is sent there. */
  noteWays(unit: string, nodes: readonly string[]): Promise<void>
  /** All of it is done: nothing of that node is left, and its units have no home. `lastMs`: as of a LoadedUnit; `received`: for `receivedBy`. */
  finish(lastMs: number, received: ReadonlyMap<string, number>): Promise<void>
}

/** The slow and large store of records (rows whose keys begin with `r`): HBase or Cassandra. */
export interface RowStore extends AsyncDisposable {
  /** All records of a unit, in order of key. */
  load(unit: string): Promise<readonly { readonly key: string; readonly value: Buffer }[]>
  /** Writes rows; the same rows may be written again. Rejects when it failed; then some may be written. */
  write(rows: readonly UnitRow[]): Promise<void>
  /** The units that begin with a prefix, in order, after one: for lists of accounts and rooms. */
  units(prefix: string, after: string | undefined, limit: number): Promise<readonly string[]>
}

/** A change of one owner's history. `version` rises with each change: an older one never goes over a newer one. */
export interface HistoryChange {
  readonly owner: string
  readonly id: string
  readonly with: string
  /** `undefined` removes it. */
  readonly bytes: Buffer | undefined
  readonly version: number
}

/** Removes an owner's items older than `before` (ms), or all, that were written with lower versions. */
export interface HistoryPurge {
  readonly owner: string
  readonly purge: true
  readonly before: number | undefined
  readonly version: number
}

export type HistoryEntry = HistoryChange | HistoryPurge

/** The place of something in a queue: everything of one owner is in one partition, in order. */
export interface QueuePlace {
  readonly partition: number
  readonly offset: number
}

/** The way of history to its store, through something that outlives this process: Kafka. A worker takes it from there. */
export interface HistoryQueue extends AsyncDisposable {
  /**
   * Resolves with the place of each once they are on stable storage there; what is pushed of one owner stays in order of the calls. It is
   * tried until it succeeds, so this rejects only when the queue is closed or when one can never be taken (too large).
   * `undefined` is the place of what the store has already. Takes them also when there is no room; who can wait asks `room` first.
   */
  push(entries: readonly HistoryEntry[]): Promise<readonly (QueuePlace | undefined)[]>
  /** Bytes that wait here. */
  readonly bytes: number
  /** Resolves when fewer bytes wait than may; at once when it is so. `undefined` says the same without a promise. */
  room(): Promise<void> | undefined
  /** The reason why nothing gets through at present. */
  readonly problem: string | undefined
}

/** How far the store has come with what the queue holds, told by the workers to the nodes. */
export interface HistoryProgress extends AsyncDisposable {
  /** By partition: the store has everything with a lower offset. Never goes back. */
  publish(done: ReadonlyMap<number, number>): Promise<void>
  read(): Promise<ReadonlyMap<number, number>>
}

/** Everybody's history: HBase or Cassandra. As the Archive of storage/shapes.ts, but asynchronous, and written in batches. */
export interface HistoryStore extends AsyncDisposable {
  /** The same changes may be written again, also after newer ones, and change nothing then. */
  write(changes: readonly HistoryChange[]): Promise<void>
  query(owner: string, query: ArchiveQuery): Promise<ArchivePage>
  count(owner: string, query: Omit<ArchiveQuery, 'max' | 'direction'>, limit: number): Promise<number>
  get(owner: string, id: string): Promise<ArchivedItem | undefined>
  /** Removes an owner's items older than `before` (ms), or all, that were written with lower versions. */
  purge(owner: string, before: number | undefined, version: number): Promise<void>
  /** Removes everybody's items older than `before` (ms). */
  expire(before: number): Promise<number>
}
