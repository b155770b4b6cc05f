/** What can go wrong with HBase, and whether the same call may succeed later. */

export abstract class HBaseError extends Error {
  /** Whether trying again may help. What this client throws has been tried again already, until its deadline. */
  readonly retriable: boolean = false
  override get name(): string { return this.constructor.name }
}

/** The connection could not be made, or was lost, before the answer came: the call may have been done or not. */
export class ConnectionError extends HBaseError {
  override readonly retriable = true
  /** Whether the call had been written to the socket, so that the server may have done it. */
  readonly wasSent: boolean

  constructor(message: string, wasSent: boolean, cause?: unknown) {
    super(message, { cause })
    this.wasSent = wasSent
  }
}

/** The time of a call, or of an operation with all its attempts, is over. `cause` is what failed last. */
export class DeadlineError extends HBaseError {}

/** A server sent what is not HBase's protocol, or more than the limit. */
export class ProtocolError extends HBaseError {}

/** An answer, or a row, is larger than the limit that the client was given. */
export class TooLargeError extends HBaseError {}

export class TableNotFoundError extends HBaseError {
  readonly table: string

  constructor(table: string) {
    super(`there is no table ${table}`)
    this.table = table
  }
}

/** No region of the table serves the row at this moment, as in the middle of a split or an assignment. */
export class NoRegionError extends HBaseError {
  override readonly retriable = true
}

/** An exception of the server's. */
export class RemoteError extends HBaseError {
  /** The Java class, as `org.apache.hadoop.hbase.NotServingRegionException`. */
  readonly javaClass: string
  override readonly retriable: boolean
  /** Whether the region may be elsewhere by now. */
  readonly isMisplaced: boolean

  /** `doNotRetry` as the server said, where it says that. */
  constructor(javaClass: string, text: string, doNotRetry: boolean | undefined) {
    super(`${javaClass.slice(javaClass.lastIndexOf('.') + 1)}: ${firstLine(text, javaClass)}`)
    this.javaClass = javaClass
    this.isMisplaced = MISPLACED.test(javaClass)
    this.retriable = this.isMisplaced || (doNotRetry === undefined ? !PERMANENT.test(javaClass) : !doNotRetry)
  }

  is(simpleName: string): boolean {
    return this.javaClass.endsWith(`.${simpleName}`) || this.javaClass.endsWith(`$${simpleName}`)
  }
}

/** Some actions of a batch have failed for good; the others are done. */
export class BatchError extends HBaseError {
  /** Positions of the failed actions in the batch, each with its error. */
  readonly failures: readonly { readonly index: number; readonly error: HBaseError }[]

  constructor(failures: readonly { readonly index: number; readonly error: HBaseError }[]) {
    super(`${failures.length} actions failed, the first one with: ${failures[0]?.error.message}`, { cause: failures[0]?.error })
    this.failures = failures
  }
}

/** The server is not, or not any more, the one that serves the region. */
const MISPLACED = /\.(NotServingRegion|RegionMoved|WrongRegion|RegionOpening|RegionServerStopped|RegionServerAborted|RegionServerRunning|ServerNotRunningYet|RegionInRecovery)Exception$/

/** Exceptions of single actions come without the word whether to retry: these are DoNotRetryIOExceptions and what never gets better. */
const PERMANENT = /(DoNotRetry\w*|NoSuchColumnFamily|TableNotFound|TableNotEnabled|TableExists|InvalidFamilyOperation|FailedSanityCheck|AccessDenied|IllegalArgument|UnsupportedOperation|UnknownProtocol|UnknownScanner|ScannerReset|OutOfOrderScannerNext|NullPointer|IndexOutOfBounds|NamespaceNotFound|NamespaceExist|QuotaExceeded|SpaceLimiting|InvalidMutation|CellTooBig|RowTooBig|FatalConnection|BadAuth|WrongVersion|UnsupportedCellCodec|UnsupportedCompressionCodec|CorruptHFile)(IO)?Exception$/

/** Servers send stack traces: the message is the first line, without the class in front. */
function firstLine(text: string, javaClass: string): string {
  const end = text.indexOf('\n')
  const line = end === -1 ? text : text.slice(0, end)
  return line.startsWith(`${javaClass}: `) ? line.slice(javaClass.length + 2) : line
}
