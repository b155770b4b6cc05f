/** Tables and regions: what the master does. */
import { randomInt } from 'node:crypto'
import { type Address, type Cluster, type Region } from './cluster.ts'
import { Deadline } from './deadline.ts'
import { HBaseError, NoRegionError, RemoteError, TableNotFoundError } from './errors.ts'
import {
  CompactRegionRequest, CreateNamespaceRequest, CreateTableRequest, Empty, ENCODED_REGION_NAME, FlushRegionRequest, GetProcedureResultResponse, GetTableDescriptorsRequest, GetTableDescriptorsResponse,
  GetTableStateResponse, ListNamespacesResponse, MergeTableRegionsRequest, MoveRegionRequest, type Nonce, type Opaque64, ProcedureResponse, SetBalancerRunningRequest, SplitTableRegionRequest,
  type TableNameFields, TableRequest,
} from './messages.ts'

export interface FamilyOptions {
  /** Versions that are kept of each column. */
  readonly versions?: number
  /** Cells whose timestamp is longer ago than this are gone, seconds. */
  readonly ttlSeconds?: number
  /** `NONE`, `GZ`, `SNAPPY`, `ZSTD`, …: what the servers have. */
  readonly compression?: string
  /** `NONE`, `PREFIX`, `DIFF`, `FAST_DIFF`. */
  readonly blockEncoding?: string
  /** `NONE`, `ROW`, `ROWCOL`. */
  readonly bloomFilter?: string
  /** Settings of the servers, for this family alone, as `hbase.hstore.time.to.purge.deletes`. */
  readonly configuration?: Readonly<Record<string, string>>
}

export interface TableOptions {
  readonly families: Readonly<Record<string, FamilyOptions>>
  /** Rows at which the table is split from the start. */
  readonly splits?: readonly Buffer[]
}

const POLL_MS = 50
const PROCEDURE_FINISHED = 2
const PROCEDURE_UNKNOWN = 0
const TABLE_ENABLED = 0
const TABLE_DISABLED = 1

export class Admin {
  readonly #cluster: Cluster
  readonly #deadlineMs: number

  constructor(cluster: Cluster, deadlineMs: number) {
    this.#cluster = cluster
    this.#deadlineMs = deadlineMs
  }

  /** Resolves when the table serves. Rejects with a RemoteError `TableExistsException` when there is one of this name. */
  async createTable(name: string, { families, splits = [] }: TableOptions): Promise<void> {
    await this.#procedure(`create ${name}`, 'CreateTable', (nonce) => CreateTableRequest.encode({
      table_schema: {
        table_name: tableName(name),
        column_families: Object.entries(families).map(([family, options]) => ({
          name: Buffer.from(family),
          attributes: Object.entries(attributesOf(options)).map(([key, value]) => ({ first: Buffer.from(key), second: Buffer.from(value) })),
          configuration: Object.entries(options.configuration ?? {}).map(([key, value]) => ({ name: key, value })),
        })),
      },
      split_keys: splits, ...nonce,
    }))
  }

  async tableExists(name: string): Promise<boolean> {
    const { message } = await this.#call(`look for ${name}`, 'GetTableDescriptors', GetTableDescriptorsRequest.encode({ table_names: [tableName(name)] }))
    return GetTableDescriptorsResponse.decode(message).table_schema.length > 0
  }

  /** Families of a table, each with its attributes as `TTL`, `VERSIONS`, `COMPRESSION`. */
  async describe(name: string): Promise<Record<string, Record<string, string>>> {
    const { message } = await this.#call(`look for ${name}`, 'GetTableDescriptors', GetTableDescriptorsRequest.encode({ table_names: [tableName(name)] }))
    const [schema] = GetTableDescriptorsResponse.decode(message).table_schema
    if (!schema) throw new TableNotFoundError(name)
    return Object.fromEntries(schema.column_families.map(({ name: family, attributes, configuration }) => [family.toString(), Object.fromEntries([
      ...attributes.map(({ first, second }) => [first.toString(), second.toString()]), ...(configuration ?? []).map(({ name: key, value }) => [key, value]),
    ])]))
  }

  async isEnabled(name: string): Promise<boolean> { return await this.#state(name) === TABLE_ENABLED }

  async disableTable(name: string): Promise<void> {
    await this.#procedure(`disable ${name}`, 'DisableTable', (nonce) => TableRequest.encode({ table_name: tableName(name), ...nonce }))
  }

  async enableTable(name: string): Promise<void> {
    await this.#procedure(`enable ${name}`, 'EnableTable', (nonce) => TableRequest.encode({ table_name: tableName(name), ...nonce }))
  }

  /** Disables and deletes it, with all that is in it. */
  async deleteTable(name: string): Promise<void> {
    if (await this.#state(name) !== TABLE_DISABLED) await this.disableTable(name)
    await this.#procedure(`delete ${name}`, 'DeleteTable', (nonce) => TableRequest.encode({ table_name: tableName(name), ...nonce }))
    const map = await this.#cluster.regions(name, this.#deadline()).catch(() => undefined)
    if (map) this.#cluster.forget(name, map)
  }

  async namespaces(): Promise<readonly string[]> {
    const { message } = await this.#call('list namespaces', 'ListNamespaces', Empty.encode({}))
    return ListNamespacesResponse.decode(message).namespace_name
  }

  async createNamespace(name: string): Promise<void> {
    await this.#procedure(`create ${name}`, 'CreateNamespace', (nonce) => CreateNamespaceRequest.encode({ namespace_descriptor: { name: Buffer.from(name) }, ...nonce }))
  }

  /** The regions of a table as hbase:meta has them now. */
  async regions(table: string): Promise<readonly Region[]> {
    const deadline = this.#deadline()
    return await deadline.retry(`regions of ${table}`, async () => (await this.#cluster.readRegions(table, deadline)).regions)
  }

  /** Splits the region that holds the row, there; resolves when its two halves are assigned. */
  async split(table: string, row: Buffer): Promise<void> {
    const region = (await this.regions(table)).find(({ start, end }) => Buffer.compare(start, row) < 0 && (end.length === 0 || Buffer.compare(row, end) < 0))
    if (!region) throw new RangeError('the row is at the border of regions')
    await this.#procedure(`split ${table}`, 'SplitRegion', (nonce) => SplitTableRegionRequest.encode({ region_info: region.info, split_row: row, ...nonce }))
  }

  /** Makes one region of two that lie side by side. */
  async merge(table: string, first: Region, second: Region): Promise<void> {
    const region = [first, second].map(({ encodedName }) => ({ type: ENCODED_REGION_NAME, value: Buffer.from(encodedName) }))
    await this.#procedure(`merge regions of ${table}`, 'MergeTableRegions', (nonce) => MergeTableRegionsRequest.encode({ region, forcible: false, ...nonce }))
  }

  /** Moves a region to a region server, or to any. Resolves when the master has done it, as a rule. */
  async move({ encodedName }: Region, to?: Address & { readonly startCode: Opaque64 }): Promise<void> {
    await this.#call('move a region', 'MoveRegion', MoveRegionRequest.encode({
      region: { type: ENCODED_REGION_NAME, value: Buffer.from(encodedName) },
      ...(to ? { dest_server_name: { host_name: to.host, port: to.port, start_code: to.startCode } } : {}),
    }))
  }

  /** Whether the master may move regions by itself. */
  async setBalancer(isOn: boolean): Promise<void> {
    await this.#call('set the balancer', 'SetBalancerRunning', SetBalancerRunningRequest.encode({ on: isOn, synchronous: true }))
  }

  /** Asks the servers to compact all regions of a table; they do it in the background. */
  async compact(table: string, isMajor = false): Promise<void> {
    await this.#atServers(table, 'CompactRegion', ({ specifier }) => CompactRegionRequest.encode({ region: specifier, major: isMajor }))
  }

  /** Writes what the servers have in memory of a table to files. */
  async flush(table: string): Promise<void> {
    await this.#atServers(table, 'FlushRegion', ({ specifier }) => FlushRegionRequest.encode({ region: specifier }))
  }

  #deadline(): Deadline { return new Deadline(this.#deadlineMs) }

  async #state(name: string): Promise<number> {
    try {
      const { message } = await this.#call(`look for ${name}`, 'GetTableState', TableRequest.encode({ table_name: tableName(name) }))
      return GetTableStateResponse.decode(message).table_state.state
    } catch (error) {
      throw error instanceof RemoteError && error.is('TableNotFoundException') ? new TableNotFoundError(name) : error
    }
  }

  async #call(what: string, method: string, message: Buffer, deadline = this.#deadline()): Promise<{ readonly message: Buffer }> {
    return await deadline.retry(what, async () => await this.#cluster.callMaster(method, message, deadline))
  }

  /** Starts a procedure, once however often it is asked for, which the nonce tells the master; resolves when it is done. */
  async #procedure(what: string, method: string, request: (nonce: Nonce) => Buffer): Promise<void> {
    const deadline = this.#deadline()
    const nonce = { nonce_group: randomInt(2 ** 47), nonce: 1 + randomInt(2 ** 47) }
    const { message } = await this.#call(what, method, request(nonce), deadline)
    const { proc_id: id } = ProcedureResponse.decode(message)
    if (id === undefined) return
    for (;;) {
      const { message: answer } = await this.#call(what, 'getProcedureResult', ProcedureResponse.encode({ proc_id: id }), deadline)
      const { state, exception } = GetProcedureResultResponse.decode(answer)
      if (state === PROCEDURE_UNKNOWN) throw new LostProcedureError(`${what}: the master does not know any more how it ended`)
      if (state === PROCEDURE_FINISHED) {
        const { class_name: javaClass, message: text } = exception?.generic_exception ?? {}
        if (exception) throw new RemoteError(javaClass ?? 'java.lang.Exception', text ?? '', true)
        return
      }
      if (deadline.remainingMs <= POLL_MS) throw deadline.error(what)
      await new Promise((resolve) => { setTimeout(resolve, POLL_MS) })
    }
  }

  async #atServers(table: string, method: string, request: (region: Region) => Buffer): Promise<void> {
    const deadline = this.#deadline()
    for (const { start } of await this.regions(table)) {
      await deadline.retry(`${method} of ${table}`, async () => {
        const { regions } = await this.#cluster.readRegions(table, deadline)
        const region = regions.find((one) => Buffer.compare(one.start, start) === 0)
        if (!region?.server) throw new NoRegionError(`${table}: a region is served by nobody now`)
        await this.#cluster.call(region.server, 'AdminService', method, request(region), deadline)
      })
    }
  }
}

export class LostProcedureError extends HBaseError {}

function tableName(name: string): TableNameFields {
  const colon = name.indexOf(':')
  return { namespace: Buffer.from(colon === -1 ? 'default' : name.slice(0, colon)), qualifier: Buffer.from(name.slice(colon + 1)) }
}

function attributesOf({ versions, ttlSeconds, compression, blockEncoding, bloomFilter }: FamilyOptions): Record<string, string> {
  return {
    ...(versions === undefined ? {} : { VERSIONS: String(versions) }),
    ...(ttlSeconds === undefined ? {} : { TTL: String(ttlSeconds) }),
    ...(compression === undefined ? {} : { COMPRESSION: compression }),
    ...(blockEncoding === undefined ? {} : { DATA_BLOCK_ENCODING: blockEncoding }),
    ...(bloomFilter === undefined ? {} : { BLOOMFILTER: bloomFilter }),
  }
}
