/**
 * Answers what chat processes ask of logins and passwords: exchanges of SASL (RFC 4422) with the accounts of LDAP directories, with tokens that somebody
 * else has signed, and, where these are kept here, with the server's own accounts.
 */
import { Jid } from '../../lib/jid.ts'
import { createJwtCheck } from '../../lib/sasl/jwt.ts'
import { SaslFailure, type SaslContext } from '../../lib/sasl/mechanism.ts'
import { SCRAM_HASHES, type ScramHash, type ScramKeys } from '../../lib/sasl/scram-keys.ts'
import { createSaslServer, exchangeOf, type SaslServer } from '../../lib/sasl/server.ts'
import { AccountError, createAccounts, type Accounts, type ScramKeySet } from '../accounts/accounts.ts'
import { createCredentials } from '../accounts/credentials.ts'
import { createLoginLimits, type LoginTry } from '../accounts/login-limits.ts'
import { createTokens, type Tokens } from '../accounts/tokens.ts'
import type { Config, HostConfig } from '../config/config.ts'
import { Directory } from '../ldap/directory.ts'
import { LdapUnavailable } from '../ldap/pool.ts'
import { LdapUsers, type DirectoryUser } from '../ldap/users.ts'
import type { Log } from '../log.ts'
import type { Metrics } from '../metrics.ts'
import type { MaybePromise, Records, Storage, Value } from '../storage/shapes.ts'
import { Elsewhere, type Kept } from './kept.ts'
import { bytesIn, numberIfIn, textIfIn, textIn, textsIn, type Args } from './wire.ts'

export interface AuthServiceParts {
  readonly config: Config
  /** Where the server's own accounts are kept; undefined when they are not kept here. */
  readonly storage: Storage | undefined
  /** Has an account live here. Throws Elsewhere when another process has it. Undefined where there is one process. */
  readonly claim?: Kept['claim']
  readonly log: Log
  readonly metrics: Metrics
  readonly now: () => number
}

export interface Reply {
  /** `done`; `refused`, with condition and text of an AccountError; `elsewhere`, with the address of the process to ask; `unavailable`: nothing can be said. */
  readonly kind: 'done' | 'refused' | 'elsewhere' | 'unavailable'
  readonly body: Args
}

export interface AuthService {
  /** `exchanges`: those of the connection that asks. */
  answer(exchanges: Exchanges, operation: string, args: Args): Promise<Reply>
  /** What is kept in memory of accounts is out of date. */
  forget(accounts: readonly string[]): void
  close(): void
}

/** One login that goes on. */
interface Exchange {
  readonly sasl: SaslServer
  readonly host: AuthHost
  readonly mechanism: string
  readonly found: Found
  /** When it began, ms. */
  readonly at: number
}

/** What is known of an account besides that the login was right. */
interface Found {
  /** The account that was tried. */
  tried?: string
  try?: LoginTry
  by: 'internal' | 'jwt' | 'ldap' | 'token'
  user?: DirectoryUser
  /** When the token was made that was used, ms. */
  issued?: number
}

interface AuthHost {
  readonly name: string
  readonly config: HostConfig
  readonly directory: Directory | undefined
  credentials(found: Found): SaslContext['accounts']
}

/** The exchanges of one connection; the oldest give way when there are too many. */
export class Exchanges {
  readonly #open = new Map<number, Exchange>()
  readonly #max: number
  readonly #lifeMs: number
  #next = 0

  constructor(max: number, lifeMs: number) {
    this.#max = max
    this.#lifeMs = lifeMs
  }

  add(exchange: Exchange): number {
    for (const [id, { at }] of this.#open) {
      if (this.#open.size < this.#max && exchange.at - at < this.#lifeMs) break
      this.#open.delete(id)
    }
    this.#open.set(++this.#next, exchange)
    return this.#next
  }

  take(id: number): Exchange | undefined {
    const exchange = this.#open.get(id)
    this.#open.delete(id)
    return exchange
  }
}

const NOT_HERE: Records = { get: () => undefined, put: () => undefined, delete: () => undefined, range: () => [], deleteRange: () => undefined }

export function createAuthService({ config, storage, claim, log, metrics, now }: AuthServiceParts): AuthService {
  const { limits } = config
  const records = storage?.records ?? NOT_HERE
  const committed = async (): Promise<void> => { if (storage?.dirty === true) await storage.committed() }
  const tokens: Tokens = createTokens(records, { now, clientsMax: limits.clientsPerAccount, ...(claim === undefined ? {} : { atHome: claim }) })
  const here = createAccounts(records, {
    now, cachedMax: limits.accountCache, committed,
    passwordGone: (bare) => { void tokens.revoke(bare) },
    hashesOf: (host) => config.host(host).passwordHashes,
  })
  const logins = createLoginLimits(limits, now)
  const outcomes = metrics.counter('tidings_auth_exchanges_total', 'Exchanges of SASL that have ended', ['mechanism', 'outcome'])
  const hosts = new Map<string, AuthHost>(config.hosts.map((name) => [name, hostOf(name)]))

  const accounts: Accounts = claim === undefined ? here : firstAtHome(here, claim)

  function hostOf(name: string): AuthHost {
    const hostConfig = config.host(name)
    const { authMethods, jwt, access, authCache: { size = limits.accountCache, lifeMs, missed } } = hostConfig
    const passwords = storage !== undefined && authMethods.includes('internal')
    const directory = authMethods.includes('ldap') ? new Directory({
      host: name, users: new LdapUsers({ host: name, settings: hostConfig.ldap, limits, log }), cache: { size, lifeMs, missed }, limits, records, log, now,
      passwordGone: (bare) => { void tokens.revoke(bare) },
    }) : undefined
    const check = jwt?.key === undefined ? undefined : createJwtCheck(jwt.key, { jidField: jwt.jidField, now })
    const tokensOnly = (bare: string): boolean => jwt !== undefined && access.allows(jwt.onlyRule, { jid: Jid.parse(bare) })
    return {
      name, directory, config: hostConfig,
      credentials: (found) => createCredentials({
        host: name, accounts, passwords, jwt: check, directory, tokensOnly,
        admit(_bare, user) {
          found.by = user === undefined ? 'jwt' : 'ldap'
          if (user !== undefined) found.user = user
          return Promise.resolve()
        },
      }),
    }
  }

  /** Throws where the operator has configured the two processes differently: then nothing is said about a password. */
  function hostIn(args: Args): AuthHost {
    const name = textIn(args, 'host')
    const host = hosts.get(name)
    if (host === undefined) throw new Error(`${name} is not among the hosts of this auth process`)
    return host
  }

  async function begin(exchanges: Exchanges, args: Args): Promise<Args> {
    const host = hostIn(args)
    const mechanism = textIn(args, 'mechanism')
    const client = textIfIn(args, 'client')
    const found: Found = { by: client === undefined ? 'internal' : 'token' }
    const context = contextOf(host, found, args)
    let sasl: SaslServer | undefined
    if (client === undefined) sasl = createSaslServer(mechanism, context)
    else if (storage !== undefined) sasl = exchangeOf(tokens.exchange(mechanism, context, { client, count: numberIfIn(args, 'count'), used: (issued) => { found.issued = issued } }))
    if (sasl === undefined) throw new Error(`${mechanism} is not possible with the configuration of this auth process`)
    return advance(exchanges, { sasl, host, mechanism, found, at: now() }, bytesIn(args, 'input'))
  }

  function contextOf(host: AuthHost, found: Found, args: Args): SaslContext {
    const types = textsIn(args, 'types')
    const address = textIfIn(args, 'address')
    const { authMethods } = host.config
    return {
      host: host.name,
      accounts: host.credentials(found),
      passwords: authMethods.includes('internal') || authMethods.includes('ldap'),
      secure: args['secure'] === true,
      channelBinding: types.length === 0 ? undefined : { types, data: (type) => args[`binding ${type}`] instanceof Uint8Array ? bytesIn(args, `binding ${type}`) : undefined },
      offeredPlus: args['plus'] === true,
      offered: textsIn(args, 'offered'),
      disabled: [],
      claimed: textIfIn(args, 'claimed'),
      attempt: (bare) => {
        found.tried = bare
        // Who did not say where the client is has counted the try.
        if (address === undefined) return
        const exists = storage === undefined || here.exists(bare)
        // It is elsewhere, and this is found out again.
        if (exists instanceof Promise) exists.catch(() => undefined)
        found.try = logins.take(bare, exists !== false, address) as LoginTry
        if (found.try !== undefined) return
        log.info({ what: 'login_limited', account: bare, address })
        throw new SaslFailure('temporary-auth-failure', 'Too many failed logins; try again later')
      },
    }
  }

  async function step(exchanges: Exchanges, args: Args): Promise<Args> {
    const exchange = exchanges.take(numberIfIn(args, 'exchange') ?? 0)
    if (exchange === undefined) throw new Error('the exchange is over')
    return advance(exchanges, exchange, bytesIn(args, 'input'))
  }

  async function advance(exchanges: Exchanges, exchange: Exchange, input: Buffer): Promise<Args> {
    const { sasl, mechanism, host, found } = exchange
    const result = await sasl.step(input)
    if (result.kind === 'challenge') return { kind: 'challenge', exchange: exchanges.add(exchange), data: result.data }
    outcomes.inc(1, { mechanism, outcome: result.kind === 'success' ? 'success' : result.condition })
    if (result.kind === 'failure') {
      const { tried } = found
      const isMissing = tried !== undefined && result.condition !== 'temporary-auth-failure' && host.directory?.isMissing(tried.slice(0, tried.lastIndexOf('@'))) === true
      return { kind: 'failure', condition: result.condition, text: result.text ?? null, missing: isMissing ? tried : null }
    }
    found.try?.succeeded()
    const hashes = found.by === 'internal' ? await accounts.hashes(`${result.user}@${host.name}`) : undefined
    // What it used up is used up for good before anybody hears of it.
    await committed()
    return { kind: 'success', user: result.user, data: result.data ?? null, by: found.by, changed: found.user?.changed ?? null, issued: found.issued ?? null, hashes: hashes ?? null }
  }

  const bareIn = (args: Args): string => {
    const bare = textIn(args, 'account')
    if (storage === undefined || !hosts.has(bare.slice(bare.indexOf('@') + 1))) throw new Error(`this auth process does not keep ${bare}`)
    return bare
  }
  const hashesOf = async (bare: string): Promise<Args> => ({ hashes: await accounts.hashes(bare) ?? null })

  const operations: Readonly<Record<string, (exchanges: Exchanges, args: Args) => Promise<Args>>> = {
    begin,
    step,
    async find(_exchanges, args) {
      const { directory, name } = hostIn(args)
      if (directory === undefined) throw new Error(`${name} has no directory in the configuration of this auth process`)
      const user = await directory.find(textIn(args, 'local'))
      return { changed: user?.changed ?? null }
    },
    async register(_exchanges, args) {
      const bare = bareIn(args)
      await accounts.register(bare, textIfIn(args, 'password') ?? keySetIn(args))
      return hashesOf(bare)
    },
    async putKeys(_exchanges, args) {
      const bare = bareIn(args)
      await accounts.putKeys(bare, keySetIn(args))
      return hashesOf(bare)
    },
    async unregister(_exchanges, args) {
      const bare = bareIn(args)
      await accounts.unregister(bare)
      hosts.get(bare.slice(bare.indexOf('@') + 1))?.directory?.forget(bare.slice(0, bare.indexOf('@')))
      await tokens.revoke(bare)
      await committed()
      return {}
    },
    async setPassword(_exchanges, args) {
      const bare = bareIn(args)
      await accounts.setPassword(bare, textIfIn(args, 'password') ?? keySetIn(args))
      return hashesOf(bare)
    },
    async checkPassword(_exchanges, args) { return { right: await accounts.checkPassword(bareIn(args), textIn(args, 'password')) } },
    async passwordMark(_exchanges, args) { return { mark: await accounts.passwordMark(bareIn(args)) ?? null } },
    async addKeys(_exchanges, args) {
      const bare = bareIn(args)
      for (const [hash, keys] of Object.entries(keySetIn(args))) await accounts.addKeys(bare, hash as ScramHash, keys, textIfIn(args, 'mark'))
      return hashesOf(bare)
    },
    async issue(_exchanges, args) {
      const bare = bareIn(args)
      const { token, expires } = await tokens.issue(bare, textIn(args, 'client'), textIn(args, 'mechanism'), numberIfIn(args, 'lifetime') ?? 0)
      await committed()
      return { token, expires }
    },
    async revoke(_exchanges, args) {
      const bare = bareIn(args)
      await tokens.revoke(bare, textIfIn(args, 'client'))
      await committed()
      return {}
    },
    async hasToken(_exchanges, args) {
      const bare = bareIn(args)
      return { has: await tokens.has(bare, textIn(args, 'client')) }
    },
    async tidy(_exchanges, args) {
      const bare = bareIn(args)
      await tokens.tidy(bare)
      return {}
    },
  }

  return {
    async answer(exchanges, operation, args) {
      try {
        const run = Object.hasOwn(operations, operation) ? operations[operation] : undefined
        if (run === undefined) throw new Error(`there is no operation ${operation}`)
        return { kind: 'done', body: await run(exchanges, args) }
      } catch (error) {
        if (error instanceof Elsewhere) return { kind: 'elsewhere', body: { ...error.address } }
        if (error instanceof AccountError) return { kind: 'refused', body: { condition: error.condition, text: error.message } }
        if (!(error instanceof LdapUnavailable)) log.error({ what: 'auth_failed', operation, error })
        return { kind: 'unavailable', body: { text: error instanceof Error ? error.message : String(error) } }
      }
    },
    forget(released) { for (const bare of released) here.forget(bare) },
    close() { for (const { directory } of hosts.values()) directory?.close() },
  }
}

/** Whoever asks for an account has it live here first. */
function firstAtHome(accounts: Accounts, atHome: (bare: string) => Promise<void>): Accounts {
  const first = <Args extends readonly [string, ...unknown[]], Result>(call: (...args: Args) => MaybePromise<Result>) => async (...args: Args): Promise<Result> => {
    await atHome(args[0])
    return call(...args)
  }
  return {
    ...accounts,
    exists: first(accounts.exists.bind(accounts)),
    register: first(accounts.register.bind(accounts)), unregister: first(accounts.unregister.bind(accounts)),
    setPassword: first(accounts.setPassword.bind(accounts)), putKeys: first(accounts.putKeys.bind(accounts)),
    checkPassword: first(accounts.checkPassword.bind(accounts)),
    scramKeys: first(accounts.scramKeys.bind(accounts)), hashes: first(accounts.hashes.bind(accounts)),
    addKeys: first(accounts.addKeys.bind(accounts)), passwordMark: first(accounts.passwordMark.bind(accounts)),
  }
}

function keySetIn(args: Args): ScramKeySet {
  const keys = args['keys'] as { readonly [hash: string]: { readonly [name: string]: Value } } | undefined
  const found: Partial<Record<ScramHash, ScramKeys>> = {}
  for (const hash of SCRAM_HASHES) {
    const each = keys?.[hash]
    if (each !== undefined) found[hash] = { salt: bytesIn(each, 'salt'), iterations: numberIfIn(each, 'iterations') ?? 0, storedKey: bytesIn(each, 'storedKey'), serverKey: bytesIn(each, 'serverKey') }
  }
  return found
}
