/**
 * What the drivers of Cassandra have in common: a session with prepared statements, attempts until a deadline, and tables that are made when
 * missing. All statements carry their timestamps, so that each may be done again.
 */
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { auth, Client, type DseClientOptions, errors, type metadata, policies, types } from 'cassandra-driver'
import { RefusedError } from '../../cluster/errors.ts'
import { type CassandraStorageOptions, type Consistency } from './options.ts'

export interface Statement {
  readonly query: string
  readonly params: readonly unknown[]
}

export type Row = types.Row

const DEADLINE_MS = 30_000
/** For one attempt. */
const ATTEMPT_MS = 5_000
const RETRY_MS = 50
const RETRY_MAX_MS = 1_000
const RECONNECT_MS = 200
const RECONNECT_MAX_MS = 5_000
/** Requests of one `together` that are under way at once. */
const REQUESTS_AT_ONCE = 64
/** What one batch, all of one partition, holds at most. */
const BATCH_STATEMENTS = 200
const BATCH_BYTES = 512 * 1024
/** Cassandra's own limits, bytes: of keys, and of a request less something for its other parts. */
const KEY_BYTES_MAX = 65_535
const VALUE_BYTES_MAX = 15 * 1024 * 1024

const { responseErrorCodes: codes } = types
/** Answers after which another attempt may succeed. */
const PASSING = new Set([
  codes.serverError, codes.unavailableException, codes.overloaded, codes.isBootstrapping, codes.truncateError, codes.writeTimeout, codes.readTimeout, codes.readFailure, codes.writeFailure,
])

/** An attempt is one request to one node: attempts are ours, as the deadline is. */
class OneAttempt extends policies.retry.RetryPolicy {
  override onUnavailable(): policies.retry.DecisionInfo { return this.rethrowResult() }
  override onReadTimeout(): policies.retry.DecisionInfo { return this.rethrowResult() }
  override onWriteTimeout(): policies.retry.DecisionInfo { return this.rethrowResult() }
  override onRequestError(): policies.retry.DecisionInfo { return this.rethrowResult() }
}

export class Session implements AsyncDisposable {
  readonly #client: Client
  readonly #deadlineMs: number
  readonly #consistency: number
  #closed = false

  private constructor(client: Client, deadlineMs: number, consistency: number) {
    this.#client = client
    this.#deadlineMs = deadlineMs
    this.#consistency = consistency
  }

  /** Connects, and makes the keyspace and the tables (names with the columns and the rest of their definitions) that are missing. Rejects after the deadline. */
  static async open(options: CassandraStorageOptions, tables: Readonly<Record<string, string>>): Promise<Session> {
    const client = new Client(clientOptions(options))
    const session = new Session(client, options.deadlineMs ?? DEADLINE_MS, types.consistencies[consistencyName(options.consistency)])
    try {
      await session.#attempts(() => client.connect())
      await session.#ensure(options, tables)
    } catch (error) {
      await session[Symbol.asyncDispose]()
      throw error
    }
    return session
  }

  /** Rows of a query, page by page; `pageRows` are asked for at once. */
  async *pages(query: string, params: readonly unknown[], pageRows: number): AsyncGenerator<readonly Row[], void, undefined> {
    let pageState: string | undefined
    do {
      const state = pageState
      const found = await this.#attempts((readTimeout) => this.#client.execute(query, [...params], {
        ...this.#queryOptions(readTimeout), fetchSize: pageRows, ...(state === undefined ? {} : { pageState: state }),
      }))
      if (found.rows.length > 0) yield found.rows
      pageState = found.pageState ?? undefined
    } while (pageState !== undefined)
  }

  async rows(query: string, params: readonly unknown[], pageRows: number): Promise<Row[]> {
    const all: Row[] = []
    for await (const page of this.pages(query, params, pageRows)) for (const row of page) all.push(row)
    return all
  }

  async run({ query, params }: Statement): Promise<void> {
    await this.#attempts((readTimeout) => this.#client.execute(query, [...params], this.#queryOptions(readTimeout)))
  }

  /** Does the statements of each list, which is one partition's: in one batch, or in several when it is long. */
  async together(partitions: Iterable<readonly Statement[]>): Promise<void> {
    const batches = function* (): Generator<readonly Statement[]> {
      for (const statements of partitions) yield* batchesOf(statements)
    }()
    let failure: { readonly error: unknown } | undefined
    const work = async (): Promise<void> => {
      for (const batch of batches) {
        if (failure !== undefined) return
        try {
          await this.#batch(batch)
        } catch (error) {
          failure = { error }
        }
      }
    }
    await Promise.all(Array.from({ length: REQUESTS_AT_ONCE }, work))
    if (failure !== undefined) throw failure.error
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true
    await this.#client.shutdown()
  }

  async #batch(statements: readonly Statement[]): Promise<void> {
    const [first] = statements
    if (first === undefined) return
    if (statements.length === 1) return await this.run(first)
    const queries = statements.map(({ query, params }) => ({ query, params: [...params] }))
    await this.#attempts((readTimeout) => this.#client.batch(queries, { ...this.#queryOptions(readTimeout), logged: false }))
  }

  #queryOptions(readTimeout: number) {
    return { prepare: true, isIdempotent: true, consistency: this.#consistency, readTimeout }
  }

  async #attempts<Result>(attempt: (timeoutMs: number) => Promise<Result>): Promise<Result> {
    const until = performance.now() + this.#deadlineMs
    for (let wait = 0; ; wait = Math.min(wait * 2 + RETRY_MS, RETRY_MAX_MS)) {
      try {
        return await attempt(Math.max(1, Math.min(ATTEMPT_MS, Math.ceil(until - performance.now()))))
      } catch (error) {
        if (this.#closed || !mayPass(error) || performance.now() + wait >= until) throw told(error)
        // Another node is asked at once; where there is none that knows better, it takes a while.
        if (wait > 0) await sleep(wait)
      }
    }
  }

  async #ensure({ keyspace, replication }: CassandraStorageOptions, tables: Readonly<Record<string, string>>): Promise<void> {
    const define = async (cql: string): Promise<void> => {
      await this.#attempts((readTimeout) => this.#client.execute(cql, [], { readTimeout, consistency: this.#consistency }).catch((error: unknown) => {
        if (!(error instanceof errors.ResponseError && error.code === codes.alreadyExists)) throw error
      }))
    }
    if (this.#client.metadata.keyspaces[keyspace] === undefined) {
      const copies = typeof replication === 'number' ? { replication_factor: replication } : replication
      const map = Object.entries({ class: 'NetworkTopologyStrategy', ...copies }).map(([name, value]) => `'${name}': '${value}'`)
      await define(`CREATE KEYSPACE IF NOT EXISTS ${keyspace} WITH replication = {${map.join(', ')}}`)
    }
    for (const [name, definition] of Object.entries(tables)) {
      if (await this.#attempts(() => this.#client.metadata.getTable(keyspace, name)) !== null) continue
      await define(`CREATE TABLE IF NOT EXISTS ${keyspace}.${name} ${definition} ${definition.includes(' WITH ') ? 'AND' : 'WITH'} id = '${tableId(keyspace, name)}'`)
    }
    await this.#agreement()
  }

  /** Who has found a table that another process has just made waits too, until each node has it. */
  async #agreement(): Promise<void> {
    const until = performance.now() + this.#deadlineMs
    const known = this.#client.metadata as metadata.Metadata & { checkSchemaAgreement(): Promise<boolean> }
    while (!await this.#attempts(() => known.checkSchemaAgreement())) {
      if (this.#closed || performance.now() > until) throw new Error('the nodes of Cassandra do not agree about which tables there are')
      await sleep(RETRY_MS)
    }
  }
}

/** The same whoever makes the table, through whichever node: of two made at once by two nodes each would have an id of its own, and the nodes would not agree about them. */
function tableId(keyspace: string, name: string): string {
  const hash = createHash('sha256').update(`tidings ${keyspace}.${name}`).digest()
  // RFC 9562 §5.8: made in a way of our own.
  hash[6] = 0x80 | ((hash[6] as number) & 0x0f)
  hash[8] = 0x80 | ((hash[8] as number) & 0x3f)
  return hash.toString('hex', 0, 16).replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
}

/** Throws when Cassandra could never have it in a key. */
export function checkKey(text: string): void {
  // Three bytes for a character at most; a partition's key has a little more in it.
  if ((text.length + 32) * 3 > KEY_BYTES_MAX && Buffer.byteLength(text) + 32 > KEY_BYTES_MAX) throw new RefusedError('a key is longer than Cassandra takes')
}

/** Throws when Cassandra would never take it. */
export function checkValue(value: Buffer): void {
  if (value.length > VALUE_BYTES_MAX) throw new RefusedError(`${value.length} bytes are more than Cassandra takes at once`)
}

function* batchesOf(statements: readonly Statement[]): Generator<readonly Statement[]> {
  let from = 0
  let bytes = 0
  for (const [i, { params }] of statements.entries()) {
    let more = 0
    for (const param of params) if (Buffer.isBuffer(param)) more += param.length
    if (i > from && (i - from === BATCH_STATEMENTS || bytes + more > BATCH_BYTES)) {
      yield statements.slice(from, i)
      from = i
      bytes = 0
    }
    bytes += more
  }
  yield statements.slice(from)
}

function clientOptions({ contactPoints, localDatacenter, login, tls }: CassandraStorageOptions): DseClientOptions {
  return {
    contactPoints: [...contactPoints],
    localDataCenter: localDatacenter,
    ...(login === undefined ? {} : { authProvider: new auth.PlainTextAuthProvider(login.username, login.password) }),
    ...(tls === undefined ? {} : {
      sslOptions: {
        rejectUnauthorized: tls.verify,
        ...(tls.caFile === undefined ? {} : { ca: [readFileSync(tls.caFile, 'utf8')] }),
        ...(tls.certFile === undefined ? {} : { cert: readFileSync(tls.certFile, 'utf8') }),
        ...(tls.keyFile === undefined ? {} : { key: readFileSync(tls.keyFile, 'utf8') }),
        ...(tls.serverName === undefined ? {} : { servername: tls.serverName }),
      },
    }),
    policies: { retry: new OneAttempt(), reconnection: new policies.reconnection.ExponentialReconnectionPolicy(RECONNECT_MS, RECONNECT_MAX_MS, false) },
    socketOptions: { connectTimeout: ATTEMPT_MS, readTimeout: ATTEMPT_MS },
    monitorReporting: { enabled: false },
  }
}

function consistencyName(consistency: Consistency): 'one' | 'two' | 'three' | 'quorum' | 'all' | 'localQuorum' | 'localOne' {
  if (consistency === 'local_quorum') return 'localQuorum'
  return consistency === 'local_one' ? 'localOne' : consistency
}

function mayPass(error: unknown): boolean {
  if (error instanceof errors.ResponseError) return PASSING.has(error.code)
  if (error instanceof errors.NoHostAvailableError) return !Object.values(error.innerErrors ?? {}).some((each) => each instanceof errors.AuthenticationError || (each instanceof errors.ResponseError && !PASSING.has(each.code)))
  return !(error instanceof errors.AuthenticationError || error instanceof errors.ArgumentError || error instanceof errors.DriverInternalError || error instanceof TypeError || error instanceof RangeError)
}

/** What Cassandra will never take is told from what may be tried again; that no node could be asked, with the reason. */
function told(error: unknown): unknown {
  // Its limit may be lower than ours.
  if (error instanceof errors.ResponseError && error.code === codes.invalid && /too (big|large)|longer than maximum/i.test(error.message)) return new RefusedError(error.message, { cause: error })
  if (!(error instanceof errors.NoHostAvailableError)) return error
  const [first] = Object.entries(error.innerErrors ?? {})
  return new Error(first === undefined ? `no node of Cassandra answers: ${error.message}` : `no node of Cassandra answers: ${first[0]}: ${(first[1] as Error).message}`, { cause: error })
}
