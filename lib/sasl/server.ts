/** SASL for a server (RFC 6120 §6): the mechanisms there are, and the exchange of one login. */
import { AnonymousServer } from './anonymous.ts'
import { certifiedAccounts, ExternalServer } from './external.ts'
import { SaslFailure, type Mechanism, type SaslContext, type SaslResult } from './mechanism.ts'
import { OAuthBearerServer } from './oauthbearer.ts'
import { PlainServer } from './plain.ts'
import { type ScramHash } from './scram-keys.ts'
import { ScramServer } from './scram.ts'

export type { ChannelBinding, Credentials, Mechanism, SaslCondition, SaslContext, SaslResult } from './mechanism.ts'

export interface SaslServer {
  /** Whether an empty first message is one, and the client is not asked for another. */
  readonly takesNothing: boolean
  /** Whether it need not even come. */
  readonly needsNothing: boolean
  /**
   * Takes what the client sent and answers the next challenge or the outcome. The first input is the initial response, or
   * empty when the client sent none.
   */
  step(input: Buffer): Promise<SaslResult>
}

interface MechanismSpec {
  readonly name: string
  readonly plus: boolean
  readonly hash?: ScramHash
  start(context: SaslContext): Mechanism
}

function scram(hash: ScramHash, plus: boolean): MechanismSpec {
  const name = `SCRAM-${hash}${plus ? '-PLUS' : ''}`
  return { name, plus, hash, start: (context) => new ScramServer(hash, plus, context) }
}

/** In order of preference: RFC 5802 §6 wants channel binding first. */
const MECHANISMS: readonly MechanismSpec[] = [
  { name: 'EXTERNAL', plus: false, start: (context) => new ExternalServer(context) },
  scram('SHA-512', true),
  scram('SHA-256', true),
  scram('SHA-1', true),
  scram('SHA-512', false),
  scram('SHA-256', false),
  scram('SHA-1', false),
  { name: 'PLAIN', plus: false, start: (context) => new PlainServer(context) },
  { name: 'OAUTHBEARER', plus: false, start: (context) => new OAuthBearerServer(context) },
  { name: 'ANONYMOUS', plus: false, start: (context) => new AnonymousServer(context) },
]

/** Names of the mechanisms to offer on a connection, in order of preference. */
export function mechanismsFor(context: SaslContext): string[] {
  return MECHANISMS.filter((mechanism) => isPossible(mechanism, context)).map(({ name }) => name)
}

function isPossible({ name, plus, hash }: MechanismSpec, context: SaslContext): boolean {
  if (hash !== undefined && context.passwords === false) return false
  if (hash !== undefined && context.hashes?.includes(hash) === false) return false
  if (context.disabled.some((disabled) => disabled.toUpperCase() === name)) return false
  // RFC 6120 §13.8.3: a password in the clear goes over encrypted connections only.
  const takesTokens = context.accounts.bearerOf !== undefined
  if (name === 'PLAIN') return context.secure && (context.passwords !== false || takesTokens)
  if (name === 'OAUTHBEARER') return context.secure && takesTokens
  if (name === 'ANONYMOUS') return context.makeAnonymous !== undefined
  // RFC 6120 §6.3.4: where it is likely to succeed.
  if (name === 'EXTERNAL') return certifiedAccounts(context).length > 0
  return !plus || (context.channelBinding?.types.length ?? 0) > 0
}

/** Starts an exchange; undefined for a mechanism that is unknown or not possible here (`invalid-mechanism`). */
export function createSaslServer(mechanism: string, context: SaslContext): SaslServer | undefined {
  const found = MECHANISMS.find(({ name }) => name === mechanism)
  if (found === undefined || !isPossible(found, context)) return undefined
  // The operator may have turned off every mechanism with channel binding.
  const offeredPlus = context.offeredPlus && MECHANISMS.some((other) => other.plus && isPossible(other, context))
  const all = { ...context, offeredPlus, offered: context.offered ?? mechanismsFor(context) }
  return new ExchangeServer(context.elsewhere?.(mechanism, all) ?? found.start(all))
}

/** Starts an exchange by a mechanism that is not among those above. */
export function exchangeOf(mechanism: Mechanism): SaslServer {
  return new ExchangeServer(mechanism)
}

/** The longest message of any mechanism: a PLAIN with each of its three parts in full. */
const INPUT_BYTES_MAX = 8192

/** Keeps to the order of an exchange: one step at a time, and none after the end. */
class ExchangeServer implements SaslServer {
  private readonly mechanism: Mechanism
  private state: 'fresh' | 'asked' | 'open' | 'busy' | 'over' = 'fresh'

  constructor(mechanism: Mechanism) {
    this.mechanism = mechanism
  }

  get needsNothing(): boolean { return this.mechanism.needsNothing === true }
  get takesNothing(): boolean { return this.mechanism.takesNothing === true }

  async step(input: Buffer): Promise<SaslResult> {
    const { state } = this
    if (state === 'busy' || state === 'over') {
      this.state = 'over'
      return { kind: 'failure', condition: 'malformed-request', text: 'The exchange is over' }
    }
    if (state === 'fresh' && input.length === 0 && !this.takesNothing) {
      // RFC 4422 §5: all mechanisms here begin with the client, which is asked to when it did not.
      this.state = 'asked'
      return { kind: 'challenge', data: Buffer.alloc(0) }
    }
    this.state = 'busy'
    try {
      if (input.length > INPUT_BYTES_MAX) throw new SaslFailure('malformed-request', 'Too long')
      const result = await this.mechanism.step(input)
      if ((this.state as string) === 'over') throw new SaslFailure('malformed-request', 'The exchange is over')
      this.state = result.kind === 'challenge' ? 'open' : 'over'
      return result
    } catch (error) {
      this.state = 'over'
      if (!(error instanceof SaslFailure)) throw error
      return { kind: 'failure', condition: error.condition, ...(error.text === undefined ? {} : { text: error.text }) }
    }
  }
}
