/**
 * Tokens with which a client logs in instead of a password (XEP-0484). Each is bound to an account, to the client that asked for it
 * and to a mechanism. What is stored is what a token is made of; without the host's secret no token can be had from that.
 * Table `tokens`, key [bare JID, client].
 */
import { randomBytes } from 'node:crypto'
import { HashedTokenServer } from '../../lib/sasl/hashed-token.ts'
import { hmac } from '../../lib/sasl/hmac.ts'
import type { Mechanism, SaslContext } from '../../lib/sasl/mechanism.ts'
import type { MaybePromise, Records, Value } from '../storage/shapes.ts'

export interface Tokens {
  /** A new token, which waits beside the one in use until it is used itself (XEP-0484 §5.1). `lifetimeMs` from now on. */
  issue(bare: string, client: string, mechanism: string, lifetimeMs: number): Promise<{ readonly token: string; readonly expires: number }>
  /** A login by a token. */
  exchange(mechanism: string, context: SaslContext, use: TokenUse): Mechanism
  /** Whether the client can log in by a token. */
  has(bare: string, client: string): MaybePromise<boolean>
  /** No token of this client is worth anything from now on; of any of the account's, without one. */
  revoke(bare: string, client?: string): MaybePromise<void>
  /** Forgets what has expired of an account. */
  tidy(bare: string): Promise<void>
}

/** Those that are kept here. */
export interface KeptTokens extends Tokens {
  /**
   * Tries the tokens of a client for this mechanism. One that fits replaces those issued before it. `count` is that of the client's tries
   * (XEP-0484 §3.4): one that has been there is a replay. `issued`: when the token was made, ms.
   */
  check(bare: string, client: string, mechanism: string, count: number | undefined, fits: (token: string) => boolean): Promise<{ readonly outcome: 'right' | 'wrong' | 'expired'; readonly issued?: number }>
}

/** What a client says with a token of its. */
export interface TokenUse {
  readonly client: string
  /** Of its tries; see Tokens. */
  readonly count: number | undefined
  /** Told when the token was right, and when it was made, ms. */
  used(issued: number): void
}

export interface TokensOptions {
  readonly now?: () => number
  /** Clients of one account that have tokens; the one whose token expires first makes room. */
  readonly clientsMax?: number
  /** Has what is kept of an account here before it is read or written. */
  readonly atHome?: (bare: string) => Promise<void>
}

interface Token {
  readonly [key: string]: Value
  readonly nonce: string
  readonly mechanism: string
  readonly issued: number
  readonly expires: number
  count: number
}

/** `fresh` has been issued and not been used. */
interface Slots {
  readonly [key: string]: Value | undefined
  readonly fresh?: Token
  readonly current?: Token
}

const TABLE = 'tokens'
const SECRETS = 'account-secrets'
const CLIENTS_MAX = 100

export function createTokens(records: Records, options: TokensOptions = {}): KeptTokens {
  const now = options.now ?? Date.now
  const clientsMax = options.clientsMax ?? CLIENTS_MAX
  const secrets = new Map<string, Uint8Array>()
  const { atHome } = options

  async function secretOf(bare: string): Promise<Uint8Array> {
    if (atHome !== undefined) await atHome(bare)
    const host = bare.slice(bare.indexOf('@') + 1)
    const known = secrets.get(host)
    if (known !== undefined) return known
    const key = [host, 'tokens']
    const stored = records.get(SECRETS, key)
    const value = stored instanceof Promise ? await stored : stored
    // Another look-up may have been faster.
    const other = secrets.get(host)
    if (other !== undefined) return other
    const secret = value instanceof Uint8Array ? value : randomBytes(32)
    if (value === undefined) records.put(SECRETS, key, secret)
    secrets.set(host, secret)
    return secret
  }

  /** The token itself, in the form in which the client gets it. */
  function tokenOf(secret: Uint8Array, bare: string, client: string, { nonce, mechanism }: Pick<Token, 'nonce' | 'mechanism'>): string {
    return hmac('sha256', secret, [bare, client, mechanism, nonce].join('\n')).toString('base64url')
  }

  /** What is read and written without a wait in between is of one turn. */
  async function slotsOf(bare: string, client: string): Promise<Slots | undefined> {
    const stored = records.get(TABLE, [bare, client])
    return (stored instanceof Promise ? await stored : stored) as Slots | undefined
  }

  async function makeRoom(bare: string): Promise<void> {
    const all = await records.range(TABLE, [bare])
    if (all.length < clientsMax) return
    const [first] = all.toSorted((a, b) => expiryOf(a.value as Slots) - expiryOf(b.value as Slots))
    if (first !== undefined) records.delete(TABLE, first.key)
  }

  const tokens: KeptTokens = {
    exchange: (mechanism, context, use) => new HashedTokenServer(mechanism, context, {
      async check(bare, fits) {
        const { outcome, issued } = await tokens.check(bare, use.client, mechanism, use.count, fits)
        if (outcome === 'right') use.used(issued ?? 0)
        return outcome
      },
    }),
    async issue(bare, client, mechanism, lifetimeMs) {
      const secret = await secretOf(bare)
      if ((await slotsOf(bare, client)) === undefined) await makeRoom(bare)
      const before = await slotsOf(bare, client)
      const at = now()
      const fresh: Token = { nonce: randomBytes(16).toString('base64url'), mechanism, issued: at, expires: at + lifetimeMs, count: -1 }
      records.put(TABLE, [bare, client], before?.current === undefined ? { fresh } : { fresh, current: before.current })
      return { token: tokenOf(secret, bare, client, fresh), expires: fresh.expires }
    },
    async check(bare, client, mechanism, count, fits) {
      const secret = await secretOf(bare)
      const slots = await slotsOf(bare, client)
      for (const slot of ['fresh', 'current'] as const) {
        const token = slots?.[slot]
        if (token === undefined || token.mechanism !== mechanism || !fits(tokenOf(secret, bare, client, token))) continue
        if (token.expires <= now()) return { outcome: 'expired' }
        if (count !== undefined && count <= token.count) return { outcome: 'wrong' }
        if (count !== undefined || slot === 'fresh') {
          const used = count === undefined ? token : { ...token, count }
          records.put(TABLE, [bare, client], slot === 'fresh' || slots?.fresh === undefined ? { current: used } : { fresh: slots.fresh, current: used })
        }
        return { outcome: 'right', issued: token.issued }
      }
      return { outcome: 'wrong' }
    },
    async has(bare, client) {
      if (atHome !== undefined) await atHome(bare)
      const slots = await slotsOf(bare, client)
      return slots !== undefined && expiryOf(slots) > now()
    },
    revoke(bare, client) {
      // In the turn in which whoever asks writes, where there is nothing to wait for.
      const remove = (): MaybePromise<void> => client === undefined ? records.deleteRange(TABLE, [bare]) : records.delete(TABLE, [bare, client])
      return atHome === undefined ? remove() : atHome(bare).then(remove)
    },
    async tidy(bare) {
      if (atHome !== undefined) await atHome(bare)
      for (const { key, value } of await records.range(TABLE, [bare])) if (expiryOf(value as Slots) <= now()) records.delete(TABLE, key)
    },
  }
  return tokens
}

function expiryOf({ fresh, current }: Slots): number {
  return Math.max(fresh?.expires ?? 0, current?.expires ?? 0)
}
