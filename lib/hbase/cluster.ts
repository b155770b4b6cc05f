/** Where things are: the active master, hbase:meta, and the regions of tables. Found out by any master or region server, without ZooKeeper. */
import { CellReader, type Cell } from './cells.ts'
import { type Answer, Connection, type ConnectionOptions } from './connection.ts'
import { Deadline } from './deadline.ts'
import { ConnectionError, HBaseError, NoRegionError, RemoteError, TableNotFoundError } from './errors.ts'
import { ActiveMaster, Empty, MetaRegionLocations, REGION_NAME, RegionInfo, type RegionInfoFields, type RegionSpecifier, ScanRequest, ScanResponse, type ServerName } from './messages.ts'

export interface Address {
  readonly host: string
  readonly port: number
}

export type Service = 'ClientService' | 'AdminService' | 'MasterService' | 'ClientMetaService'

export interface Region {
  /** Bytes, not text: it holds the start key. */
  readonly name: Buffer
  /** The part of the name that servers use for short. */
  readonly encodedName: string
  readonly start: Buffer
  /** Exclusive; empty in the last region. */
  readonly end: Buffer
  /** Who serves it; undefined while nobody does. */
  readonly server: Address | undefined
  readonly specifier: RegionSpecifier
  readonly info: RegionInfoFields
}

/** The regions of a table as read from hbase:meta at one time, in order. */
export interface RegionMap {
  readonly regions: readonly Region[]
}

const META: RegionSpecifier = { type: REGION_NAME, value: Buffer.from('hbase:meta,,1') }
/** Calls to system tables have threads of their own. */
const META_PRIORITY = 200
const META_ROWS = 1000
const INFO = Buffer.from('info')
const PBUF_BYTES = 4

export class Cluster {
  readonly #bootstrap: readonly Address[]
  readonly #options: ConnectionOptions
  readonly #connections = new Map<string, Connection>()
  readonly #maps = new Map<string, RegionMap>()
  readonly #reads = new Map<string, Promise<RegionMap>>()
  #meta: Address | undefined
  #master: Address | undefined
  #firstBootstrap = 0
  #isClosed = false

  constructor(bootstrap: readonly string[], options: ConnectionOptions) {
    if (bootstrap.length === 0) throw new RangeError('no address of a master or region server')
    this.#bootstrap = bootstrap.map(parseAddress)
    this.#options = options
  }

  /** Calls a method at a server, over the one connection to this service there. */
  async call(address: Address, service: Service, method: string, message: Buffer, deadline: Deadline, cells?: Buffer, priority?: number): Promise<Answer> {
    return await this.#connection(address, service).call(method, message, deadline, cells, priority)
  }

  /** Calls the active master. One attempt; a failure lets the next one look for the master anew. */
  async callMaster(method: string, message: Buffer, deadline: Deadline): Promise<Answer> {
    const known = this.#master ??= await this.#findMaster(deadline)
    try {
      return await this.call(known, 'MasterService', method, message, deadline)
    } catch (error) {
      if (error instanceof HBaseError && error.retriable && this.#master === known) this.#master = undefined
      throw error
    }
  }

  /** The regions of a table: as known, or read from hbase:meta, once for all who ask meanwhile. One attempt. */
  async regions(table: string, deadline: Deadline): Promise<RegionMap> {
    return this.#maps.get(table) ?? await this.readRegions(table, deadline)
  }

  /** What is known may be wrong. Callers that have a newer map than this one keep it. */
  forget(table: string, map: RegionMap): void {
    if (this.#maps.get(table) === map) this.#maps.delete(table)
  }

  async readRegions(table: string, deadline: Deadline): Promise<RegionMap> {
    let read = this.#reads.get(table)
    if (!read) {
      // Not with the deadline of who happens to ask first.
      read = this.#readMeta(table, new Deadline(this.#options.callTimeoutMs)).finally(() => { this.#reads.delete(table) })
      this.#reads.set(table, read)
    }
    return await within(read, deadline, `regions of ${table}`)
  }

  close(): void {
    this.#isClosed = true
    for (const connection of this.#connections.values()) connection.close()
    this.#connections.clear()
  }

  #connection({ host, port }: Address, service: Service): Connection {
    if (this.#isClosed) throw new ClosedError('the client is closed')
    const key = `${service}@${host}:${port}`
    let connection = this.#connections.get(key)
    if (!connection || connection.isClosed) {
      // Servers come and go: what is left of those that went is let go here.
      for (const [other, { isClosed }] of this.#connections) if (isClosed) this.#connections.delete(other)
      connection = new Connection(host, port, service, this.#options)
      this.#connections.set(key, connection)
    }
    return connection
  }

  async #findMaster(deadline: Deadline): Promise<Address> {
    const { message } = await this.#callAny('GetActiveMaster', deadline)
    const { server_name: name } = ActiveMaster.decode(message)
    if (!name) throw new NoRegionError('no master is active')
    return addressOf(name)
  }

  async #findMeta(deadline: Deadline): Promise<Address> {
    const { message } = await this.#callAny('GetMetaRegionLocations', deadline)
    for (const { region_info: info, server_name: name } of MetaRegionLocations.decode(message).meta_locations) if (name && !info.replica_id) return addressOf(name)
    throw new NoRegionError('hbase:meta is not served')
  }

  /** Asks the addresses one after the other, first the one that answered last. */
  async #callAny(method: string, deadline: Deadline): Promise<Answer> {
    let failure: unknown
    for (let i = 0; i < this.#bootstrap.length; i++) {
      const at = (this.#firstBootstrap + i) % this.#bootstrap.length
      try {
        const answer = await this.call(this.#bootstrap[at] as Address, 'ClientMetaService', method, Empty.encode({}), deadline)
        this.#firstBootstrap = at
        return answer
      } catch (error) {
        if (error instanceof ClosedError) throw error
        failure = error
      }
    }
    throw failure instanceof RemoteError && !failure.retriable ? failure : new ConnectionError(`${method}: ${(failure as Error).message}`, false, failure)
  }

  async #readMeta(table: string, deadline: Deadline): Promise<RegionMap> {
    const address = this.#meta ??= await this.#findMeta(deadline)
    try {
      const regions = (await this.#scanMeta(address, table, deadline)).map(regionOf).filter((region) => region !== undefined)
      if (regions.length === 0) throw new TableNotFoundError(table)
      // The order of hbase:meta is by table, start key and id already.
      const map = { regions }
      this.#maps.set(table, map)
      return map
    } catch (error) {
      if (error instanceof HBaseError && error.retriable && this.#meta === address) this.#meta = undefined
      throw error
    }
  }

  /** All rows of a table in hbase:meta. The stop row is as meta's own order of rows has it: right after `table,`. */
  async #scanMeta(address: Address, table: string, deadline: Deadline): Promise<Cell[][]> {
    const rows: Cell[][] = []
    const scan = {
      column: [{ family: INFO }], start_row: Buffer.from(`${table},,`), stop_row: Buffer.from(`${table} ,,`), max_versions: 1, cache_blocks: true,
      max_result_size: 2 ** 21, reversed: false, include_start_row: true, include_stop_row: false,
    }
    let row: Cell[] = []
    for (let sequence = 0, scanner: { scanner_id?: ScannerId } = {}; ; sequence++) {
      const answer = await this.call(address, 'ClientService', 'Scan', ScanRequest.encode({
        ...(sequence === 0 ? { region: META, scan } : scanner), number_of_rows: META_ROWS, next_call_seq: sequence, client_handles_partials: true, client_handles_heartbeats: true,
      }), deadline, undefined, META_PRIORITY)
      const found = ScanResponse.decode(answer.message)
      const cells = new CellReader(answer.cells)
      for (const [i, count] of found.cells_per_result.entries()) {
        row.push(...cells.take(count))
        if (found.partial_flag_per_result[i]) continue
        rows.push(row)
        row = []
      }
      if (sequence === 0 && found.scanner_id !== undefined) scanner = { scanner_id: found.scanner_id }
      if (!found.more_results || !found.more_results_in_region) return rows
    }
  }
}

type ScannerId = NonNullable<Parameters<typeof ScanRequest.encode>[0]['scanner_id']>

export class ClosedError extends HBaseError {}

/** The region that holds a row, if the map has one. */
export function regionAt({ regions }: RegionMap, row: Buffer): Region | undefined {
  const region = regions[lastStartingAtOrBefore(regions, row)]
  return region && (region.end.length === 0 || compareRows(row, region.end) < 0) ? region : undefined
}

/** The region that holds the greatest row before this one; of an empty row, the last region. */
export function regionBefore({ regions }: RegionMap, row: Buffer): Region | undefined {
  if (row.length === 0) {
    const last = regions.at(-1)
    return last?.end.length === 0 ? last : undefined
  }
  let at = lastStartingAtOrBefore(regions, row)
  if (at >= 0 && Buffer.compare((regions[at] as Region).start, row) === 0) at--
  const region = regions[at]
  return region && (region.end.length === 0 || Buffer.compare(row, region.end) <= 0) ? region : undefined
}

/** As Buffer.compare, which costs more for the few bytes in which regions differ. */
export function compareRows(a: Buffer, b: Buffer): number {
  const length = Math.min(a.length, b.length)
  for (let at = 0; at < length; at++) {
    const difference = (a[at] as number) - (b[at] as number)
    if (difference !== 0) return difference
  }
  return a.length - b.length
}

function lastStartingAtOrBefore(regions: readonly Region[], row: Buffer): number {
  let low = 0
  let high = regions.length
  while (low < high) {
    const middle = (low + high) >> 1
    if (compareRows((regions[middle] as Region).start, row) <= 0) low = middle + 1
    else high = middle
  }
  return low - 1
}

/** `host:port`; an IPv6 address in brackets. */
export function parseAddress(text: string): Address {
  const found = /^(?:\[([^\]]+)\]|(.+)):(\d{1,5})$/.exec(text)
  if (!found) throw new RangeError(`not host:port: ${text}`)
  return { host: (found[1] ?? found[2]) as string, port: Number(found[3]) }
}

function addressOf({ host_name: host, port }: ServerName): Address {
  return { host, port: port ?? 0 }
}

/** A row of hbase:meta as a region; undefined for one that was split, is offline, or is a replica for reading. */
function regionOf(cells: readonly Cell[]): Region | undefined {
  const column = (name: string): Buffer | undefined => cells.find(({ qualifier }) => qualifier.toString() === name)?.value
  const bytes = column('regioninfo')
  const row = cells[0]?.row
  if (!row || !bytes || bytes.length <= PBUF_BYTES) return undefined
  const info = RegionInfo.decode(bytes.subarray(PBUF_BYTES))
  if (info.offline || info.split || info.replica_id) return undefined
  const server = column('server')
  const name = Buffer.from(row)
  return {
    name, encodedName: encodedNameOf(name), start: Buffer.from(info.start_key ?? []), end: Buffer.from(info.end_key ?? []), info,
    server: server && server.length > 0 ? parseAddress(server.toString()) : undefined,
    specifier: { type: REGION_NAME, value: name },
  }
}

/** table,start key,id.encoded name. */
function encodedNameOf(name: Buffer): string {
  const text = name.toString('latin1')
  return text.slice(text.lastIndexOf('.', text.length - 2) + 1, -1)
}

async function within<T>(promise: Promise<T>, deadline: Deadline, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  try {
    return await Promise.race([promise, new Promise<never>((_, reject) => { timer = setTimeout(() => { reject(deadline.error(what)) }, Math.max(0, deadline.remainingMs)) })])
  } finally {
    clearTimeout(timer)
  }
}
