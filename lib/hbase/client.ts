/** A client of Apache HBase: rows and cells of tables, read and written at the servers that have them. */
import { Admin } from './admin.ts'
import { type Cell, CellReader } from './cells.ts'
import { type Address, Cluster, compareRows, type Region, regionAt, type RegionMap } from './cluster.ts'
import { type ConnectionOptions } from './connection.ts'
import { Deadline } from './deadline.ts'
import { BatchError, ConnectionError, HBaseError, NoRegionError, ProtocolError, RemoteError } from './errors.ts'
import { equalTo } from './filters.ts'
import { COMPARE_EQUAL, GetRequest, GetResponse, type GetFields, type MutationFields, MultiResponse, MUTATE_DELETE, MUTATE_PUT, MutateRequest, MutateResponse } from './messages.ts'
import { type Action, actionSize, assertAction, cellCount, type Delete, encodeCells, encodeMulti, type Mutation, type Put, type RegionActions } from './multi.ts'
import { mayHaveMoved, readFields, type ReadOptions, type Row, Scanner, type ScanOptions } from './scan.ts'

export interface HBaseOptions {
  /** Addresses, `host:port`, of masters or region servers, by which the others are found. */
  readonly servers: readonly string[]
  /** The name that the servers believe: authentication SIMPLE. */
  readonly user?: string
  /** For an operation with all its attempts, ms. */
  readonly deadlineMs?: number
  readonly callTimeoutMs?: number
  readonly connectTimeoutMs?: number
  /** On one connection: calls on the way, and the bytes of their requests. What is more waits. */
  readonly callsMax?: number
  readonly requestBytesMax?: number
  /** One answer of a server. */
  readonly responseBytesMax?: number
  /** One row. */
  readonly rowBytesMax?: number
}

const DEFAULTS = {
  user: 'hbase', deadlineMs: 30_000, callTimeoutMs: 10_000, connectTimeoutMs: 3000,
  callsMax: 64, requestBytesMax: 2 ** 25, responseBytesMax: 2 ** 27, rowBytesMax: 2 ** 28,
}
/** More goes as several requests. */
const MULTI_ACTIONS_MAX = 2000
const MULTI_BYTES_MAX = 2 ** 21

export class HBaseClient implements Disposable {
  readonly #cluster: Cluster
  readonly #options: Required<HBaseOptions>
  readonly admin: Admin

  constructor(options: HBaseOptions) {
    this.#options = { ...DEFAULTS, ...options }
    this.#cluster = new Cluster(options.servers, this.#options satisfies ConnectionOptions)
    this.admin = new Admin(this.#cluster, this.#options.deadlineMs)
  }

  /** Rows of a table, `name` or `namespace:name`. Nothing is asked of the servers yet. */
  table(name: string): Table {
    return new Table(this.#cluster, name, this.#options)
  }

  /** Closes all connections; calls on the way fail. */
  close(): void {
    this.#cluster.close()
  }

  [Symbol.dispose](): void { this.close() }
}

export interface WriteOptions {
  readonly deadlineMs?: number
}

export class Table {
  readonly name: string
  readonly #cluster: Cluster
  readonly #options: Required<HBaseOptions>

  constructor(cluster: Cluster, name: string, options: Required<HBaseOptions>) {
    this.name = name
    this.#cluster = cluster
    this.#options = options
  }

  /** The cells of a row; undefined when it has none. */
  async get(row: Buffer, options: ReadOptions = {}): Promise<Row | undefined> {
    return await this.#atRegion(row, 'get', options.deadlineMs, async (region, server, deadline) => {
      const answer = await this.#cluster.call(server, 'ClientService', 'Get', GetRequest.encode({ region: region.specifier, get: getFields(row, options) }), deadline)
      const count = GetResponse.decode(answer.message).result?.associated_cell_count ?? 0
      return count === 0 ? undefined : { row, cells: new CellReader(answer.cells).take(count) }
    })
  }

  async exists(row: Buffer, options: ReadOptions = {}): Promise<boolean> {
    return await this.#atRegion(row, 'get', options.deadlineMs, async (region, server, deadline) => {
      const get = { ...getFields(row, options), existence_only: true }
      const answer = await this.#cluster.call(server, 'ClientService', 'Get', GetRequest.encode({ region: region.specifier, get }), deadline)
      return GetResponse.decode(answer.message).result?.exists ?? false
    })
  }

  /** As `get`, for each row in turn, with one request for each server. */
  async getMany(rows: readonly Buffer[], options: ReadOptions = {}): Promise<(Row | undefined)[]> {
    const found: (Row | undefined)[] = Array.from({ length: rows.length })
    const actions = rows.map((row) => ({ row, get: getFields(row, options) }))
    await this.#batch('get', actions, options.deadlineMs, (index, cells) => {
      if (cells.length > 0) found[index] = { row: rows[index] as Buffer, cells }
    })
    return found
  }

  /**
   * Writes rows. Resolves when all of it is on the servers' stable storage; rejects with a BatchError when some failed for good, or with a
   * DeadlineError when some was not done in time: then any of it may be done. What is written again with the same timestamps changes nothing.
   * Between several mutations of one row in a batch there is no order but that of their timestamps.
   */
  async mutate(mutations: readonly Mutation[], options: WriteOptions = {}): Promise<void> {
    await this.#batch('mutate', mutations, options.deadlineMs)
  }

  async put(puts: readonly Put[], options?: WriteOptions): Promise<void> {
    await this.mutate(puts, options)
  }

  async delete(deletes: readonly Delete[], options?: WriteOptions): Promise<void> {
    await this.mutate(deletes, options)
  }

  /**
   * Does the mutation when a column of its row has this value (undefined: none); answers whether it did. Not tried again when the answer
   * is lost after the request was sent, since it may have been done: then it rejects with what happened.
   */
  async checkAndMutate(column: { readonly family: Buffer; readonly qualifier: Buffer }, value: Buffer | undefined, mutation: Mutation, options: WriteOptions = {}): Promise<boolean> {
    assertAction(mutation)
    const { row } = mutation
    return await this.#atRegion(row, 'checkAndMutate', options.deadlineMs, async (region, server, deadline) => {
      const message = MutateRequest.encode({
        region: region.specifier,
        mutation: mutationFields(mutation),
        condition: { row, family: column.family, qualifier: column.qualifier, compare_type: COMPARE_EQUAL, comparator: equalTo(value ?? Buffer.alloc(0)) },
      })
      try {
        const answer = await this.#cluster.call(server, 'ClientService', 'Mutate', message, deadline, encodeCells(mutation))
        return MutateResponse.decode(answer.message).processed ?? false
      } catch (error) {
        if (error instanceof RemoteError || (error instanceof ConnectionError && !error.wasSent)) throw error
        throw new UncertainError(`${this.name}: it is not known whether the mutation was done: ${(error as Error).message}`, { cause: error })
      }
    })
  }

  /** The rows of a scan one after another. What is not read to the end is closed when the loop is left. */
  async* scan(options: ScanOptions = {}): AsyncGenerator<Row, undefined> {
    const scanner = this.scanner(options)
    try {
      for (let rows = await scanner.next(); rows.length > 0; rows = await scanner.next()) yield* rows
    } finally {
      scanner.close()
    }
    return undefined
  }

  /** The rows of a scan all at once, within one deadline. Give it a limit. */
  async rows(options: ScanOptions): Promise<Row[]> {
    const deadline = this.#deadline(options.deadlineMs)
    const scanner = this.scanner(options)
    try {
      const first = await scanner.next(deadline)
      for (let more = first; more.length > 0;) {
        more = await scanner.next(deadline)
        for (const row of more) first.push(row)
      }
      return first
    } finally {
      scanner.close()
    }
  }

  /** The rows of a scan in the portions in which servers answer. */
  scanner(options: ScanOptions = {}): Scanner {
    return new Scanner(this.#cluster, this.name, options, this.#options.deadlineMs, this.#options.rowBytesMax)
  }

  #deadline(ms: number | undefined): Deadline {
    return new Deadline(ms ?? this.#options.deadlineMs)
  }

  /** Calls with the region of a row, again with where it is then while that fails. */
  async #atRegion<T>(row: Buffer, what: string, deadlineMs: number | undefined, call: (region: Region, server: Address, deadline: Deadline) => Promise<T>): Promise<T> {
    const deadline = this.#deadline(deadlineMs)
    return await deadline.retry(`${what} in ${this.name}`, async () => {
      const map = await this.#cluster.regions(this.name, deadline)
      const region = regionAt(map, row)
      if (!region?.server) {
        this.#cluster.forget(this.name, map)
        throw new NoRegionError(`${this.name}: no region for the row now`)
      }
      try {
        return await call(region, region.server, deadline)
      } catch (error) {
        if (error instanceof HBaseError && mayHaveMoved(error)) this.#cluster.forget(this.name, map)
        throw error
      }
    })
  }

  /** Does actions, in parallel at all servers concerned; those that failed, and only those, again. */
  async #batch(what: string, actions: readonly Action[], deadlineMs: number | undefined, answered?: (index: number, cells: Cell[]) => void): Promise<void> {
    for (const action of actions) assertAction(action)
    const deadline = this.#deadline(deadlineMs)
    const failures: { index: number; error: HBaseError }[] = []
    let left: number[] | undefined
    for (let attempt = 0; ; attempt++) {
      const failed: { index: number; error: HBaseError }[] = []
      try {
        const map = await this.#cluster.regions(this.name, deadline)
        const requests = this.#plan(map, actions, left, failed)
        await Promise.all(requests.map(async (request) => { await this.#multi(map, request, deadline, failed, answered) }))
      } catch (error) {
        if (!(error instanceof HBaseError) || !error.retriable) throw error
        if (attempt === 0) left = [...actions.keys()]
        await deadline.backOff(`${what} in ${this.name}`, attempt, error)
        continue
      }
      const again = failed.filter(({ error }) => error.retriable)
      for (const failure of failed) if (!failure.error.retriable) failures.push(failure)
      if (again.length === 0) break
      left = again.map(({ index }) => index)
      await deadline.backOff(`${what} in ${this.name}`, attempt, (again[0] as { error: HBaseError }).error)
    }
    if (failures.length > 0) throw new BatchError(failures.sort((a, b) => a.index - b.index))
  }

  /** Requests for servers, of limited size; actions whose region nobody serves go to `failed`. */
  #plan(map: RegionMap, actions: readonly Action[], left: readonly number[] | undefined, failed: { index: number; error: HBaseError }[]): Request[] {
    const requests: Request[] = []
    const open = new Map<string, Request>()
    let last: Region | undefined
    let request: Request | undefined
    const count = left?.length ?? actions.length
    let error: NoRegionError | undefined
    for (let i = 0; i < count; i++) {
      const index = left ? left[i] as number : i
      const action = actions[index] as Action
      const region = last && holds(last, action.row) ? last : regionAt(map, action.row)
      if (!region?.server) {
        error ??= new NoRegionError(`${this.name}: no region for the row now`)
        failed.push({ index, error })
        continue
      }
      const { host, port } = region.server
      if (region !== last) request = open.get(`${host}:${port}`)
      last = region
      const bytes = actionSize(action)
      if (!request || request.actions >= MULTI_ACTIONS_MAX || request.bytes + bytes > MULTI_BYTES_MAX) {
        request = { server: region.server, regions: new Map(), actions: 0, bytes: 0 }
        requests.push(request)
        open.set(`${host}:${port}`, request)
      }
      let list = request.regions.get(region)
      if (!list) request.regions.set(region, list = { name: region.name, actions: [], indexes: [] })
      list.actions.push(action)
      list.indexes.push(index)
      request.actions++
      request.bytes += bytes
    }
    if (error) this.#cluster.forget(this.name, map)
    return requests
  }

  async #multi(map: RegionMap, { server, regions }: Request, deadline: Deadline, failed: { index: number; error: HBaseError }[], answered: ((index: number, cells: Cell[]) => void) | undefined): Promise<void> {
    const lists = [...regions.values()]
    const fail = (index: number, error: HBaseError): void => {
      failed.push({ index, error })
      if (mayHaveMoved(error)) this.#cluster.forget(this.name, map)
    }
    const { message, cells } = encodeMulti(lists)
    let answer
    try {
      answer = await this.#cluster.call(server, 'ClientService', 'Multi', message, deadline, cells)
    } catch (error) {
      if (!(error instanceof HBaseError)) throw error
      for (const { indexes } of lists) for (const index of indexes) fail(index, error)
      return
    }
    const results = MultiResponse.decode(answer.message).region_action_result
    if (results.length !== lists.length) throw new ProtocolError(`an answer for ${results.length} regions, of ${lists.length}`)
    const reader = answered && new CellReader(answer.cells)
    for (const [i, { result_or_exception: actionResults, exception }] of results.entries()) {
      const { indexes } = lists[i] as RegionActions
      if (exception) {
        const error = remoteError(exception)
        for (const index of indexes) fail(index, error)
        continue
      }
      const isAnswered = new Uint8Array(indexes.length)
      for (const result of actionResults) {
        const index = indexes[result.index]
        if (index === undefined) throw new ProtocolError('an answer to an action that was not asked')
        isAnswered[result.index] = 1
        if (result.exception) fail(index, remoteError(result.exception))
        else if (reader) answered(index, reader.take(result.result?.associated_cell_count ?? 0))
      }
      for (const [at, index] of indexes.entries()) if (isAnswered[at] === 0) fail(index, new NoRegionError(`${this.name}: an action got no answer`))
    }
  }
}

/** A conditional mutation may have been done or not. */
export class UncertainError extends HBaseError {}

interface Request {
  readonly server: Address
  readonly regions: Map<Region, RegionActions>
  actions: number
  bytes: number
}

function holds({ start, end }: Region, row: Buffer): boolean {
  return compareRows(start, row) <= 0 && (end.length === 0 || compareRows(row, end) < 0)
}

function remoteError({ name, value }: { readonly name: string; readonly value?: Buffer }): RemoteError {
  return new RemoteError(name, value?.toString() ?? '', undefined)
}

function getFields(row: Buffer, options: ReadOptions): GetFields {
  return { row, ...readFields(options), max_versions: options.versions ?? 1 }
}

function mutationFields(mutation: Mutation): MutationFields {
  return {
    row: mutation.row, mutate_type: 'cells' in mutation ? MUTATE_PUT : MUTATE_DELETE, associated_cell_count: cellCount(mutation),
    ...('delete' in mutation && mutation.delete === 'row' && mutation.upTo !== undefined ? { timestamp: mutation.upTo } : {}),
  }
}
