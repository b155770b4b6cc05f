/**
 * Connections to the directories of one configuration. Each carries one request at a time; when one breaks, what was asked is asked
 * again on another, for as long as whoever asks can wait. `ldapts` is loaded with the first.
 */
import { readFile } from 'node:fs/promises'
import net from 'node:net'
import tls from 'node:tls'
import type { Client, SearchOptions } from 'ldapts'
import type { Log } from '../log.ts'
import type { LdapSettings } from './settings.ts'

/** No directory answers, or none can for now. */
export class LdapUnavailable extends Error {
  constructor(message: string) {
    super(message)
    this.name = 'LdapUnavailable'
  }
}

export interface PoolOptions {
  /** What the log says of it. */
  readonly name: string
  /** Whether its connections are bound as the server's own name. */
  readonly bound: boolean
  readonly connections: number
  /** Requests that wait for a connection. */
  readonly waiting: number
  /** How long a directory may take to answer one, ms. */
  readonly answerMs: number
  readonly log: Log
}

/** An attribute's values by its name in small letters. */
export interface LdapEntry {
  readonly dn: string
  readonly values: ReadonlyMap<string, readonly (string | Buffer)[]>
}

const CONNECT_MS = 3000
/** A connection that was not used for so long may be forgotten by what stands between. */
const IDLE_MS = 60_000
/** How long a directory that could not be reached comes after the others. */
const AVOID_MS = 5000
const PAUSE_MIN_MS = 50
const PAUSE_MAX_MS = 1000

/** Result codes (RFC 4511 §4.1.9) that say nothing of what was asked: operationsError, timeLimitExceeded, strongerAuthRequired, confidentialityRequired, busy, unavailable, other. */
const TRANSIENT: ReadonlySet<number> = new Set([1, 3, 8, 13, 51, 52, 80])

/** The result code of an answer that is no success; undefined for what is no answer. */
export function resultCode(error: unknown): number | undefined {
  const code = (error as { code?: unknown } | null)?.code
  return typeof code === 'number' ? code : undefined
}

export class LdapPool {
  readonly settings: LdapSettings
  readonly #options: PoolOptions
  readonly #idle: Connection[] = []
  readonly #waiting: Set<(slot: boolean) => void> = new Set()
  readonly #avoided = new Map<string, number>()
  #used = 0
  #turn = 0
  #closed = false
  #failing = false
  #failedAt = -Infinity

  constructor(settings: LdapSettings, options: PoolOptions) {
    this.settings = settings
    this.#options = options
  }

  /** Whether it was just found that no directory can be reached. */
  get failing(): boolean { return this.#failing && performance.now() - this.#failedAt < PAUSE_MAX_MS }

  /** Entries that match, with these attributes; more than `sizeLimit` are left out. Throws LdapUnavailable, or an error with a result code. */
  async search(base: string, filter: string, attributes: readonly string[], options: { readonly sizeLimit?: number; readonly paged?: boolean; readonly scope?: 'base' | 'sub'; /** Attributes whose values are bytes. */ readonly binary?: readonly string[] }, patienceMs: number): Promise<LdapEntry[]> {
    const search: SearchOptions = { scope: options.scope ?? 'sub', filter, attributes: [...attributes], ...(options.sizeLimit === undefined ? {} : { sizeLimit: options.sizeLimit }), ...(options.binary === undefined ? {} : { explicitBufferAttributes: [...options.binary] }), ...(options.paged === true ? { paged: { pageSize: 500 } } : {}) }
    const { searchEntries } = await this.run((client) => client.search(base, search), patienceMs)
    return searchEntries.map(({ dn, ...found }) => ({
      dn,
      values: new Map(Object.entries(found).map(([name, value]) => [name.toLowerCase(), Array.isArray(value) ? value : [value]])),
    }))
  }

  /** Runs a request, which may be run again. Throws LdapUnavailable when none of the directories answers within `patienceMs`. */
  async run<Answer>(request: (client: Client) => Promise<Answer>, patienceMs: number): Promise<Answer> {
    const until = performance.now() + patienceMs
    for (let pauseMs = PAUSE_MIN_MS; ; pauseMs = Math.min(pauseMs * 2, PAUSE_MAX_MS)) {
      await this.#slot(until)
      let problem: unknown
      let connection: Connection | undefined
      try {
        connection = this.#fresh() ?? await this.#open()
        const answer = await request(connection.client)
        this.#give(connection)
        this.#works()
        return answer
      } catch (error) {
        problem = error
        const code = connection === undefined ? undefined : resultCode(error)
        if (connection !== undefined && code !== undefined && !TRANSIENT.has(code)) {
          this.#give(connection)
          this.#works()
          throw error
        }
        connection?.end()
      } finally {
        this.#leave()
      }
      if (this.#closed || performance.now() + pauseMs > until) throw new LdapUnavailable(problem instanceof Error ? problem.message : String(problem))
      await new Promise((resolve) => { setTimeout(resolve, pauseMs) })
    }
  }

  close(): void {
    this.#closed = true
    for (const connection of this.#idle.splice(0)) connection.end()
    for (const waiting of this.#waiting) waiting(false)
  }

  /** Waits until a connection may be used. */
  async #slot(until: number): Promise<void> {
    if (this.#closed) throw new LdapUnavailable('the pool is closed')
    if (this.#used < this.#options.connections) {
      this.#used++
      return
    }
    if (this.#waiting.size >= this.#options.waiting) throw new LdapUnavailable('too many requests wait for a directory')
    const given = await new Promise<boolean>((resolve) => {
      const done = (slot: boolean): void => {
        clearTimeout(timer)
        this.#waiting.delete(done)
        resolve(slot)
      }
      const timer = setTimeout(done, Math.max(0, until - performance.now()), false)
      this.#waiting.add(done)
    })
    if (!given) throw new LdapUnavailable('no connection became free in time')
  }

  #leave(): void {
    const [next] = this.#waiting
    if (next === undefined) this.#used--
    else next(true)
  }

  /** The connection that was used last, if it can be used on. */
  #fresh(): Connection | undefined {
    const oldest = performance.now() - IDLE_MS
    for (const connection of this.#idle.splice(0)) {
      if (connection.alive && connection.usedAt >= oldest) this.#idle.push(connection)
      else connection.end()
    }
    return this.#idle.pop()
  }

  #give(connection: Connection): void {
    connection.usedAt = performance.now()
    if (this.#closed || !connection.alive) connection.end()
    else this.#idle.push(connection)
  }

  /** One after the other, beginning with each in turn; backups and those that did not answer come last. */
  #order(): readonly string[] {
    const { servers, backups } = this.settings
    const start = this.#turn++ % servers.length
    const all = [...servers.slice(start), ...servers.slice(0, start), ...backups]
    const now = performance.now()
    const isAvoided = (server: string): boolean => (this.#avoided.get(server) ?? -Infinity) > now
    return [...all.filter((server) => !isAvoided(server)), ...all.filter(isAvoided)]
  }

  async #open(): Promise<Connection> {
    let last: unknown
    for (const server of this.#order()) {
      try {
        const connection = await Connection.open(server, this.settings, this.#options)
        this.#avoided.delete(server)
        return connection
      } catch (error) {
        last = error
        this.#avoided.set(server, performance.now() + AVOID_MS)
      }
    }
    this.#failedAt = performance.now()
    if (!this.#failing) {
      this.#failing = true
      this.#options.log.error({ what: 'ldap_unavailable', pool: this.#options.name, servers: [...this.settings.servers, ...this.settings.backups], error: last instanceof Error ? last.message : String(last) })
    }
    throw last
  }

  #works(): void {
    if (!this.#failing) return
    this.#failing = false
    this.#options.log.info({ what: 'ldap_recovered', pool: this.#options.name })
  }
}

class Connection {
  readonly client: Client
  alive = true
  usedAt = performance.now()
  readonly #sockets: net.Socket[] = []

  private constructor(client: Client) { this.client = client }

  /** Connected, encrypted and bound as configured. */
  static async open(server: string, settings: LdapSettings, { bound, answerMs, name, log }: PoolOptions): Promise<Connection> {
    const { Client } = await import('ldapts')
    const { encrypt, port, rootDn, password, deref } = settings
    const host = net.isIPv6(server) ? `[${server}]` : server
    const options = encrypt === 'none' ? undefined : await tlsOptions(server, settings)
    const client: Client = new Client({
      url: `${encrypt === 'tls' ? 'ldaps' : 'ldap'}://${host}:${port}`,
      timeout: answerMs, connectTimeout: CONNECT_MS, strictDN: false,
      ...(encrypt === 'tls' && options !== undefined ? { tlsOptions: options } : {}),
      createConnection: ((...args: Parameters<typeof net.connect>) => connection.#watch(net.connect(...args))) as typeof net.connect,
      createSecureConnection: ((...args: Parameters<typeof tls.connect>) => connection.#watchTls(tls.connect(...args), settings, (problem) => log.warn({ what: 'ldap_certificate_not_valid', pool: name, server, problem }))) as typeof tls.connect,
    })
    const connection = new Connection(client)
    if (deref !== 'never') followAliases(client, deref)
    const late = setTimeout(() => connection.end(new Error(`${server} does not answer`)), CONNECT_MS + answerMs)
    try {
      if (encrypt === 'starttls') await client.startTLS(options)
      else await connected(client)
      // RFC 4513 §5.1.2: a name without a password would count as no name at all.
      if (bound && rootDn !== '') await client.bind(rootDn, password)
      if (connection.#sockets.length > 0 && !connection.alive) throw new Error(`${server} has closed the connection`)
      return connection
    } catch (error) {
      connection.end()
      throw error
    } finally {
      clearTimeout(late)
    }
  }

  /** The library does not see the end of a connection that was encrypted by StartTLS. */
  #watch<S extends net.Socket>(socket: S): S {
    this.#sockets.push(socket)
    socket.setNoDelay(true)
    socket.setKeepAlive(true, IDLE_MS)
    socket.once('close', () => { this.alive = false })
    return socket
  }

  #watchTls(socket: tls.TLSSocket, { verify, depth }: LdapSettings, report: (problem: string) => void): tls.TLSSocket {
    socket.once('secureConnect', () => {
      const problem = !socket.authorized ? String(socket.authorizationError) : intermediates(socket) > depth ? `more than ${depth} certificates stand below the authority's` : undefined
      if (problem === undefined || verify === 'false') return
      if (verify === 'soft') report(problem)
      else socket.destroy(new Error(problem))
    })
    return this.#watch(socket)
  }

  end(error?: Error): void {
    this.alive = false
    for (const socket of this.#sockets.splice(0)) {
      socket.on('error', () => {})
      socket.destroy(error)
    }
  }
}

/** Read anew for each connection: certificates are renewed. */
async function tlsOptions(server: string, { caFile, certFile, verify }: LdapSettings): Promise<tls.ConnectionOptions> {
  const read = async (file: string | undefined): Promise<Buffer | undefined> => file === undefined ? undefined : readFile(file)
  const [ca, own] = await Promise.all([read(caFile), read(certFile)])
  return {
    host: server,
    // RFC 6066 §3: an address is no server name.
    ...(net.isIP(server) === 0 ? { servername: server } : {}),
    ...(ca === undefined ? {} : { ca }),
    ...(own === undefined ? {} : { cert: own, key: own }),
    rejectUnauthorized: verify === 'hard',
  }
}

/** Certificates between that of the server and the authority's. */
function intermediates(socket: tls.TLSSocket): number {
  let count = 0
  const seen = new Set<string>()
  for (let each = socket.getPeerCertificate(true); each.issuerCertificate !== undefined && each.issuerCertificate !== each && !seen.has(each.fingerprint256); each = each.issuerCertificate) {
    seen.add(each.fingerprint256)
    count++
  }
  return count - 1
}

/** By itself the library connects with the first request, when it is too late to take another server. */
async function connected(client: Client): Promise<void> {
  await (client as unknown as { _connect(): Promise<void> | undefined })._connect()
}

const DEREF = { searching: 'search', finding: 'find', always: 'always' } as const

/** The library's searches do not hand this option on. */
function followAliases(client: Client, deref: keyof typeof DEREF): void {
  const inner = client as unknown as { _sendSearch: (request: { derefAliases: string }, ...rest: unknown[]) => Promise<unknown> }
  const send = inner._sendSearch.bind(client)
  inner._sendSearch = (request, ...rest) => {
    request.derefAliases = DEREF[deref]
    return send(request, ...rest)
  }
}
