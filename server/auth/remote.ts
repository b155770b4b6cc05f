/** Logins, accounts and tokens of a chat process whose passwords are kept by auth processes. */
import { Jid } from '../../lib/jid.ts'
import { bindingOf } from '../../lib/sasl/hashed-token.ts'
import type { JwtCheck } from '../../lib/sasl/jwt.ts'
import { SaslFailure, type Mechanism, type SaslCondition, type SaslContext } from '../../lib/sasl/mechanism.ts'
import { SCRAM_HASHES } from '../../lib/sasl/scram-keys.ts'
import { AccountError, type AccountProblem, type Accounts, type ScramHash, type ScramKeys, type ScramKeySet } from '../accounts/accounts.ts'
import type { TokenUse, Tokens } from '../accounts/tokens.ts'
import { LdapUnavailable } from '../ldap/pool.ts'
import type { DirectoryUser, DirectoryUsers } from '../ldap/users.ts'
import type { Value } from '../storage/shapes.ts'
import { AuthClient, AuthUnavailable, type AuthClientOptions, type Asked } from './client.ts'
import { bytesIn, numberIfIn, textIfIn, textIn, textsIn, type Args } from './wire.ts'

/** An account whose owner has shown to an auth process who he is. */
export interface Known {
  readonly bare: string
  /** What vouches for it: an own password, a token of ours, a directory, or a token of somebody else's. */
  readonly by: 'internal' | 'token' | 'ldap' | 'jwt'
  readonly user: DirectoryUser | undefined
  /** Hashes for which there are keys of an own password. */
  readonly hashes: readonly ScramHash[] | undefined
  /** When the token was made that was used, ms. */
  readonly issued: number | undefined
}

/** What a login tells besides how it ends. */
export interface Watcher {
  /** Called before the login counts, and may refuse it. */
  known(known: Known): Promise<void>
  /** The directory has no such account (a bare JID). */
  missing(bare: string): Promise<void>
}

export interface RemoteLoginsOptions extends AuthClientOptions, Watcher {}

/** All that a chat process has others do for it. */
export class RemoteLogins {
  readonly tokens: Tokens
  readonly #client: AuthClient
  readonly #watcher: Watcher

  constructor(options: RemoteLoginsOptions) {
    this.#watcher = options
    this.#client = new AuthClient(options)
    this.tokens = remoteTokens(this.#client, options)
  }

  /** Which mechanisms are answered there; `passwords`: those too that may be for accounts of this server's own. */
  mechanisms({ passwords }: { readonly passwords: boolean }): NonNullable<SaslContext['elsewhere']> {
    return (mechanism, context) => mechanism === 'OAUTHBEARER' || (passwords && WITH_PASSWORDS.test(mechanism)) ? new RemoteMechanism(this.#client, mechanism, context, this.#watcher) : undefined
  }

  users(host: string): DirectoryUsers { return remoteUsers(this.#client, host) }
  jwtCheck(host: string): JwtCheck { return remoteJwtCheck(this.#client, host) }

  /** Accounts whose passwords are there. */
  accountsBeside(accounts: Accounts, options: Pick<AccountsElsewhereOptions, 'passwordGone' | 'isOnlyHere'>): Accounts {
    return accountsElsewhere({ ...options, accounts, client: this.#client })
  }

  /** Hands over the keys of passwords that are here still, of these hosts. Throws an AccountError. */
  async moveKeys(here: Accounts, beside: Accounts, hosts: Iterable<string>): Promise<void> {
    for (const host of hosts) {
      for (const local of await here.list(host)) {
        const bare = `${local}@${host}`
        const keys: Partial<Record<ScramHash, ScramKeys>> = {}
        for (const hash of SCRAM_HASHES) {
          const each = await here.scramKeys(bare, hash)
          if (each !== undefined) keys[hash] = each
        }
        if (Object.keys(keys).length > 0) await beside.putKeys(bare, keys)
      }
    }
  }

  close(): void { this.#client.close() }
}

const WITH_PASSWORDS = /^(?:PLAIN|SCRAM-.+)$/
const CONDITIONS: ReadonlySet<string> = new Set<SaslCondition>(['credentials-expired', 'invalid-authzid', 'malformed-request', 'not-authorized', 'temporary-auth-failure'])
const PROBLEMS: ReadonlySet<string> = new Set<AccountProblem>(['conflict', 'not-acceptable', 'item-not-found', 'not-allowed', 'resource-constraint'])
const WAYS: ReadonlySet<string> = new Set<Known['by']>(['internal', 'token', 'ldap', 'jwt'])

/** One exchange, of which each step is taken by the auth process that began it. Whatever goes wrong on the way says nothing about the password. */
export class RemoteMechanism implements Mechanism {
  readonly #client: AuthClient
  readonly #mechanism: string
  readonly #context: SaslContext
  readonly #use: TokenUse | undefined
  readonly #watcher: Watcher
  #begun: { readonly exchange: number; readonly at: Asked } | undefined

  constructor(client: AuthClient, mechanism: string, context: SaslContext, watcher: Watcher, use?: TokenUse) {
    this.#client = client
    this.#mechanism = mechanism
    this.#context = context
    this.#watcher = watcher
    this.#use = use
  }

  async step(input: Buffer): ReturnType<Mechanism['step']> {
    const begun = this.#begun
    const { body, from } = await this.#ask(begun, input)
    switch (textIn(body, 'kind')) {
      case 'challenge':
        this.#begun = { exchange: numberIfIn(body, 'exchange') ?? 0, at: from }
        return { kind: 'challenge', data: bytesIn(body, 'data') }
      case 'failure': {
        const condition = textIn(body, 'condition')
        const missing = textIfIn(body, 'missing')
        if (missing !== undefined) await this.#watcher.missing(missing)
        if (!CONDITIONS.has(condition)) throw new Error(`an auth process answers ${condition}`)
        throw new SaslFailure(condition as SaslCondition, textIfIn(body, 'text'))
      }
      case 'success': {
        const user = textIn(body, 'user')
        const by = textIn(body, 'by')
        const { bare } = Jid.of(user, this.#context.host)
        if (!WAYS.has(by) || user === '') throw new Error(`an auth process vouches by ${by}`)
        const changed = textIfIn(body, 'changed')
        const issued = numberIfIn(body, 'issued')
        await this.#watcher.known({ bare, by: by as Known['by'], user: changed === undefined ? undefined : { changed }, hashes: body['hashes'] == null ? undefined : textsIn(body, 'hashes') as readonly ScramHash[], issued })
        if (issued !== undefined) this.#use?.used(issued)
        return { kind: 'success', data: body['data'] == null ? undefined : bytesIn(body, 'data'), user }
      }
      default:
        throw new Error('an auth process answers what it should not')
    }
  }

  async #ask(begun: { readonly exchange: number; readonly at: Asked } | undefined, input: Buffer): ReturnType<AuthClient['ask']> {
    try {
      if (begun !== undefined) return await this.#client.ask('step', { exchange: begun.exchange, input }, { of: begun.at })
      // A token counts its tries: one that may have been taken is not tried again.
      return await this.#client.ask('begin', this.#beginning(input), { again: this.#use === undefined })
    } catch (error) {
      if (!(error instanceof AuthUnavailable)) throw error
      throw new SaslFailure('temporary-auth-failure', 'Logins cannot be checked at the moment')
    }
  }

  #beginning(input: Buffer): Args {
    const { host, secure, channelBinding, offered, offeredPlus, claimed, address } = this.#context
    const args: { [key: string]: Value } = { host, mechanism: this.#mechanism, input, secure, types: channelBinding?.types ?? [], offered: offered ?? [], plus: offeredPlus }
    if (claimed !== undefined) args['claimed'] = claimed
    if (address !== undefined) args['address'] = address
    if (this.#use !== undefined) args['client'] = this.#use.client
    if (this.#use?.count !== undefined) args['count'] = this.#use.count
    const bound = this.#use !== undefined ? [bindingOf(this.#mechanism)] : this.#mechanism.endsWith('-PLUS') ? channelBinding?.types ?? [] : []
    for (const type of bound) {
      const data = type === undefined ? undefined : channelBinding?.data(type)
      if (data !== undefined) args[`binding ${type}`] = data
    }
    return args
  }
}


/** A whole exchange of one message; undefined when it was refused. Throws a SaslFailure when it cannot be found out whether it is right. */
async function loginBy(client: AuthClient, host: string, mechanism: string, message: string): Promise<Known | undefined> {
  let found: Known | undefined
  // Without an address: the try has been counted here.
  const context = { host, secure: true, channelBinding: undefined, offered: [], offeredPlus: false } as unknown as SaslContext
  const exchange = new RemoteMechanism(client, mechanism, context, {
    known(known) {
      found = known
      return Promise.resolve()
    },
    missing: () => Promise.resolve(),
  })
  try {
    await exchange.step(Buffer.from(message))
  } catch (error) {
    if (!(error instanceof SaslFailure) || error.condition === 'temporary-auth-failure') throw error
  }
  return found
}

/** Tokens that somebody else has signed, where auth processes have the key. */
export function remoteJwtCheck(client: AuthClient, host: string): JwtCheck {
  return async (token) => {
    const known = await loginBy(client, host, 'OAUTHBEARER', `n,,\x01auth=Bearer ${token}\x01\x01`)
    return known?.by === 'jwt' ? known.bare : undefined
  }
}

/** The users of a directory that auth processes ask. */
export function remoteUsers(client: AuthClient, host: string): DirectoryUsers {
  return {
    get failing() { return client.failing },
    async find(local, patienceMs) {
      try {
        const { body } = await client.ask('find', { host, local }, { again: true, patienceMs })
        const changed = textIfIn(body, 'changed')
        return changed === undefined ? undefined : { changed }
      } catch (error) {
        throw error instanceof AuthUnavailable ? new LdapUnavailable(error.message) : error
      }
    },
    async check(local, password) {
      try {
        const known = await loginBy(client, host, 'PLAIN', `\0${local}\0${password}`)
        return { user: known?.user, right: known?.by === 'ldap' && known.bare === Jid.of(local, host).bare }
      } catch (error) {
        throw error instanceof SaslFailure ? new LdapUnavailable(error.message) : error
      }
    },
    close() { /* The connections are those of all hosts. */ },
  }
}

/** Answers of an auth process about accounts. Throws an AccountError. */
async function account(client: AuthClient, operation: string, args: Args, again = true): Promise<Args> {
  try {
    const { kind, body } = await client.ask(operation, args, { again })
    if (kind !== 'refused') return body
    const condition = textIn(body, 'condition')
    throw new AccountError(PROBLEMS.has(condition) ? condition as AccountProblem : 'resource-constraint', textIn(body, 'text'))
  } catch (error) {
    throw error instanceof AuthUnavailable ? new AccountError('resource-constraint', 'Passwords cannot be reached at the moment') : error
  }
}

const hashesIn = (body: Args): readonly ScramHash[] => body['hashes'] == null ? [] : textsIn(body, 'hashes') as readonly ScramHash[]

export interface AccountsElsewhereOptions {
  readonly accounts: Accounts
  readonly client: AuthClient
  /** The password of this account is not the one it was; called after that was written. */
  readonly passwordGone: (bare: string) => void
  /** Accounts of which auth processes know nothing. */
  readonly isOnlyHere: (bare: string) => boolean
}

/** Accounts that are here, and their passwords with the auth processes: here is that they exist, and for which hashes there are keys. */
export function accountsElsewhere({ accounts, client, passwordGone, isOnlyHere }: AccountsElsewhereOptions): Accounts {
  return {
    ...accounts,
    async register(bare, password, alongside) {
      if (await accounts.hashes(bare) !== undefined) throw new AccountError('conflict')
      // Not asked twice: the second time it would be there.
      const hashes = hashesIn(await account(client, 'register', { account: bare, ...secretOf(password) }, false))
      try {
        await accounts.registerWithoutPassword(bare, hashes, alongside)
      } catch (error) {
        await account(client, 'unregister', { account: bare })
        throw error
      }
    },
    async unregister(bare) {
      if (!isOnlyHere(bare)) await account(client, 'unregister', { account: bare })
      await accounts.unregister(bare)
    },
    async setPassword(bare, password) {
      if (await accounts.hashes(bare) === undefined) throw new AccountError('item-not-found')
      const hashes = hashesIn(await account(client, 'setPassword', { account: bare, ...secretOf(password) }))
      passwordGone(bare)
      await accounts.keptElsewhere(bare, hashes)
    },
    async putKeys(bare, keys) {
      const hashes = hashesIn(await account(client, 'putKeys', { account: bare, keys: valueOf(keys) }))
      await accounts.registerWithoutPassword(bare, hashes)
      await accounts.keptElsewhere(bare, hashes)
    },
    async addKeys(bare, hash, keys, mark) {
      const hashes = hashesIn(await account(client, 'addKeys', { account: bare, keys: valueOf({ [hash]: keys }), ...(mark === undefined ? {} : { mark }) }))
      await accounts.keptElsewhere(bare, hashes)
    },
    async checkPassword(bare, password) { return (await account(client, 'checkPassword', { account: bare, password }))['right'] === true },
    async passwordMark(bare) { return textIfIn(await account(client, 'passwordMark', { account: bare }), 'mark') },
    // Nobody here is shown one.
    scramKeys: () => undefined,
  }
}

const secretOf = (password: string | ScramKeySet): Args => typeof password === 'string' ? { password } : { keys: valueOf(password) }

function valueOf(keys: ScramKeySet): Value {
  return Object.fromEntries(Object.entries(keys).map(([hash, { salt, iterations, storedKey, serverKey }]) => [hash, { salt, iterations, storedKey, serverKey }]))
}

/** Tokens (XEP-0484) that auth processes make and check. */
export function remoteTokens(client: AuthClient, watcher: Watcher): Tokens {
  return {
    async issue(bare, who, mechanism, lifetime) {
      const body = await account(client, 'issue', { account: bare, client: who, mechanism, lifetime })
      return { token: textIn(body, 'token'), expires: numberIfIn(body, 'expires') ?? 0 }
    },
    exchange: (mechanism, context, use) => new RemoteMechanism(client, mechanism, context, watcher, use),
    async has(bare, who) { return (await account(client, 'hasToken', { account: bare, client: who }))['has'] === true },
    async revoke(bare, who) { await account(client, 'revoke', { account: bare, ...(who === undefined ? {} : { client: who }) }) },
    async tidy(bare) { await account(client, 'tidy', { account: bare }) },
  }
}
