/** Scans: rows of a range in order, over the borders of regions, past splits, moves, restarts and lost scanners. */
import { type Cell, CellReader } from './cells.ts'
import { ClosedError, type Cluster, type Region, regionAt, regionBefore, type RegionMap } from './cluster.ts'
import { Deadline } from './deadline.ts'
import { HBaseError, NoRegionError, ProtocolError, RemoteError, TooLargeError } from './errors.ts'
import { type Filter } from './filters.ts'
import { type ColumnFields, type Opaque64, type ScanFields, ScanRequest, ScanResponse, type ScanResponseFields, type TimeRangeFields } from './messages.ts'

export interface Row {
  readonly row: Buffer
  /** In order of family, qualifier, and falling timestamp. Their bytes are views of a whole answer: copy what is kept. */
  readonly cells: readonly Cell[]
}

export interface ReadOptions {
  /** Families, or columns of them; all when absent. */
  readonly columns?: readonly { readonly family: Buffer; readonly qualifiers?: readonly Buffer[] }[]
  /** Versions written from `from` (inclusive) to `to` (exclusive). */
  readonly timeRange?: { readonly from?: number; readonly to?: number }
  /** Versions of each column; 1 when absent. */
  readonly versions?: number
  readonly filter?: Filter
  /** For the whole operation, with all attempts. For a scan that is read row by row: for each step to the next rows. */
  readonly deadlineMs?: number
}

export interface ScanOptions extends ReadOptions {
  /** Where the scan begins: the first row, or the last one when reversed. The table's end when absent or empty. */
  readonly start?: Buffer
  readonly includeStart?: boolean
  /** Where it ends; exclusive unless `includeStop`. */
  readonly stop?: Buffer
  readonly includeStop?: boolean
  readonly reversed?: boolean
  /** Rows in all. */
  readonly limit?: number
  /** Rows, and about bytes, that a server answers at once. */
  readonly batchRows?: number
  readonly batchBytes?: number
  /** False for what is not to fill the servers' caches. */
  readonly cacheBlocks?: boolean
}

const BATCH_ROWS = 1000
const BATCH_BYTES = 2 ** 21
const NOTHING = Buffer.alloc(0)
/** The server does not know the scanner any more, or not where it stands: a new one is opened there. */
const LOST_SCANNER = ['UnknownScannerException', 'ScannerResetException', 'OutOfOrderScannerNextException', 'LeaseException']

interface OpenScanner {
  readonly region: Region
  readonly map: RegionMap
  id: Opaque64 | undefined
  sequence: number
}

export class Scanner {
  readonly #cluster: Cluster
  readonly #table: string
  readonly #options: ScanOptions
  readonly #deadlineMs: number
  readonly #rowBytesMax: number
  readonly #isReversed: boolean
  readonly #stop: Buffer
  #from: Buffer
  #includeFrom: boolean
  #left: number
  #open: OpenScanner | undefined
  #isOver = false
  /** A row of which more is to come. */
  #partial: Cell[] = []
  #partialBytes = 0

  constructor(cluster: Cluster, table: string, options: ScanOptions, deadlineMs: number, rowBytesMax: number) {
    this.#cluster = cluster
    this.#table = table
    this.#options = options
    this.#deadlineMs = deadlineMs
    this.#rowBytesMax = rowBytesMax
    this.#isReversed = options.reversed ?? false
    this.#from = options.start ?? NOTHING
    this.#includeFrom = options.includeStart ?? true
    this.#stop = options.stop ?? NOTHING
    this.#left = options.limit ?? Infinity
    if (this.#left <= 0) this.#isOver = true
  }

  /** The next rows, at least one; none when the scan is over. */
  async next(deadline = new Deadline(this.#options.deadlineMs ?? this.#deadlineMs)): Promise<Row[]> {
    for (let attempt = 0; !this.#isOver;) {
      let failure: unknown
      try {
        const rows = await this.#step(deadline)
        if (rows.length > 0) return rows
        // An answer without rows is progress all the same: a heartbeat, or the end of a region.
        attempt = 0
        if (deadline.remainingMs <= 0) throw deadline.error(`scan of ${this.#table}`)
        continue
      } catch (error) {
        if (!(error instanceof HBaseError)) throw error
        failure = error
      }
      const isLost = failure instanceof RemoteError && LOST_SCANNER.some((name) => (failure as RemoteError).is(name))
      if (!isLost && !(failure as HBaseError).retriable) {
        this.close()
        throw failure
      }
      this.#lose(failure as HBaseError)
      // A lease that ran out is no sign of trouble.
      if (attempt++ > 0 || !isLost) await deadline.backOff(`scan of ${this.#table}`, attempt, failure)
    }
    return []
  }

  /** Lets the server forget the scanner. */
  close(): void {
    this.#isOver = true
    const open = this.#open
    this.#open = undefined
    if (open?.id === undefined || !open.region.server) return
    const message = ScanRequest.encode({ scanner_id: open.id, number_of_rows: 0, close_scanner: true })
    // When that fails the scanner's lease runs out.
    this.#cluster.call(open.region.server, 'ClientService', 'Scan', message, new Deadline(this.#deadlineMs)).catch(() => {})
  }

  async #step(deadline: Deadline): Promise<Row[]> {
    const open = this.#open ?? await this.#locate(deadline)
    this.#open = open
    if (!open.region.server) throw new NoRegionError(`the region of ${this.#table} is served by nobody now`)
    const wanted = Math.min(this.#left, this.#options.batchRows ?? BATCH_ROWS)
    const answer = await this.#cluster.call(open.region.server, 'ClientService', 'Scan', ScanRequest.encode({
      ...(open.id === undefined ? { region: open.region.specifier, scan: this.#scan() } : { scanner_id: open.id }),
      number_of_rows: wanted, next_call_seq: open.sequence, client_handles_partials: true, client_handles_heartbeats: true,
      ...(this.#left === Infinity ? {} : { limit_of_rows: Math.min(this.#left, 0x7fffffff) }),
    }), deadline)
    const found = ScanResponse.decode(answer.message)
    if (open.id === undefined && Object.hasOwn(found, 'scanner_id')) open.id = found.scanner_id
    open.sequence++
    const rows = this.#rowsOf(found, answer.cells)
    this.#left -= rows.length
    const last = rows.at(-1)
    if (last) {
      this.#from = Buffer.from(last.row)
      this.#includeFrom = false
    }
    if (this.#left <= 0) {
      // The server has closed the scanner when it saw the limit.
      if (found.more_results) this.close()
      this.#isOver = true
    } else if (!found.more_results) {
      this.#flush(rows)
      this.#isOver = true
    } else if (!found.more_results_in_region) {
      this.#flush(rows)
      this.#nextRegion(open.region)
    }
    return rows
  }

  /** The end of a region completes the row that was not said to be complete. */
  #flush(rows: Row[]): void {
    if (this.#partial.length === 0 || this.#left <= 0) return
    rows.push(rowOf(this.#partial))
    this.#clearPartial()
    this.#left--
    if (this.#left <= 0) this.#isOver = true
  }

  async #locate(deadline: Deadline): Promise<OpenScanner> {
    const map = await this.#cluster.regions(this.#table, deadline)
    const isBefore = this.#isReversed && (this.#from.length === 0 || !this.#includeFrom)
    const region = isBefore ? regionBefore(map, this.#from) : regionAt(map, this.#from)
    if (!region?.server) {
      this.#cluster.forget(this.#table, map)
      throw new NoRegionError(`${this.#table}: no region for the row now`)
    }
    return { region, map, id: undefined, sequence: 0 }
  }

  #scan(): ScanFields {
    const { options } = { options: this.#options }
    return {
      ...readFields(options),
      max_versions: options.versions ?? 1,
      start_row: this.#from, include_start_row: this.#includeFrom,
      stop_row: this.#stop, include_stop_row: options.includeStop ?? false,
      reversed: this.#isReversed, cache_blocks: options.cacheBlocks ?? true, max_result_size: options.batchBytes ?? BATCH_BYTES,
    }
  }

  #rowsOf(found: ScanResponseFields, bytes: Buffer): Row[] {
    const reader = new CellReader(bytes)
    const rows: Row[] = []
    for (const [i, count] of found.cells_per_result.entries()) {
      if (count === 0) continue
      const cells = reader.take(count)
      const before = this.#partial[0]
      if (before && Buffer.compare(before.row, (cells[0] as Cell).row) !== 0) {
        rows.push(rowOf(this.#partial))
        this.#clearPartial()
      }
      if (!found.partial_flag_per_result[i] && this.#partial.length === 0) {
        rows.push(rowOf(cells))
        continue
      }
      for (const cell of cells) {
        this.#partial.push(cell)
        this.#partialBytes += cell.value.length + cell.row.length + cell.qualifier.length
      }
      if (this.#partialBytes > this.#rowBytesMax) throw new TooLargeError(`a row of ${this.#table} has more than ${this.#rowBytesMax} bytes`)
      if (found.partial_flag_per_result[i]) continue
      rows.push(rowOf(this.#partial))
      this.#clearPartial()
    }
    if (!reader.isAtEnd) throw new ProtocolError('more cells than rows have')
    return rows
  }

  #clearPartial(): void {
    this.#partial = []
    this.#partialBytes = 0
  }

  /** The region is done: goes on with the next one, or is over when that has nothing of the range. */
  #nextRegion({ start, end }: Region): void {
    this.#open = undefined
    const isLast = this.#isReversed
      ? start.length === 0 || (this.#stop.length > 0 && Buffer.compare(start, this.#stop) <= 0)
      : end.length === 0 || (this.#stop.length > 0 && (Buffer.compare(end, this.#stop) > 0 || (Buffer.compare(end, this.#stop) === 0 && !this.#options.includeStop)))
    if (isLast) this.#isOver = true
    this.#from = this.#isReversed ? start : end
    this.#includeFrom = !this.#isReversed
  }

  /** Begins again after the last whole row. */
  #lose(error: HBaseError): void {
    this.#clearPartial()
    const open = this.#open
    this.#open = undefined
    if (!open) return
    if (mayHaveMoved(error)) this.#cluster.forget(this.#table, open.map)
  }
}

/** Whether the map of regions is to be read again after such a failure. */
export function mayHaveMoved(error: HBaseError): boolean {
  if (error instanceof ClosedError) return false
  return error instanceof RemoteError ? error.isMisplaced : error.retriable
}

export function readFields({ columns, timeRange, filter }: ReadOptions): { column?: ColumnFields[]; time_range?: TimeRangeFields; filter?: Filter } {
  return {
    ...(columns ? { column: columns.map(({ family, qualifiers }) => ({ family, ...(qualifiers ? { qualifier: qualifiers } : {}) })) } : {}),
    ...(timeRange ? { time_range: timeRange } : {}),
    ...(filter ? { filter } : {}),
  }
}

function rowOf(cells: readonly Cell[]): Row {
  return { row: (cells[0] as Cell).row, cells }
}
