/** The HT family of mechanisms (draft-schmaus-kitten-sasl-ht-09): one message each way, made of a token that both know. */
import { timingSafeEqual } from 'node:crypto'
import { hmac } from './hmac.ts'
import { accountOf, decodeText, SaslFailure, type ChannelBinding, type Mechanism, type SaslContext } from './mechanism.ts'

/** Types of channel binding by their names in mechanisms (§3). */
const BINDINGS: Readonly<Record<string, string>> = { EXPR: 'tls-exporter', UNIQ: 'tls-unique', ENDP: 'tls-server-end-point' }
const NAME = /^HT-SHA-(256|512)-(NONE|EXPR|UNIQ|ENDP)$/

/** What both sides compute a hash of. */
export type HashedTokenRole = 'Initiator' | 'Responder'

/** Names of the mechanisms that a connection allows, the best first. */
export function hashedTokenMechanisms(binding: ChannelBinding | undefined): readonly string[] {
  const types = binding?.types.join(' ') ?? ''
  let names = offers.get(types)
  if (names === undefined) offers.set(types, names = namesFor(binding))
  return names
}

/** By types of channel binding, of which there are few combinations. */
const offers = new Map<string, readonly string[]>()

function namesFor(binding: ChannelBinding | undefined): string[] {
  const bound = ['EXPR', 'UNIQ', 'ENDP'].filter((name) => binding?.types.includes(BINDINGS[name] as string) === true)
  return [...bound, 'NONE'].flatMap((name) => [`HT-SHA-512-${name}`, `HT-SHA-256-${name}`])
}

/** The type of channel binding of a mechanism of this family, `undefined` for none. Throws for any other name. */
export function bindingOf(mechanism: string): string | undefined {
  const name = NAME.exec(mechanism)?.[2]
  if (name === undefined) throw new Error(`${mechanism} is no mechanism of hashed tokens`)
  return BINDINGS[name]
}

/** §3.1, §3.2: HMAC(token, role || cb-data) */
export function hashToken(mechanism: string, token: string, role: HashedTokenRole, binding: Buffer | undefined): Buffer {
  const text = binding === undefined ? role : Buffer.concat([Buffer.from(role), binding])
  return hmac(mechanism.startsWith('HT-SHA-512') ? 'sha512' : 'sha256', Buffer.from(token), text)
}

/** Tokens of accounts, as a login tries them. */
export interface TokenCheck {
  /**
   * Whether a token of this account passes `fits`, which is asked for each that may be used with the mechanism; `expired` when it is too old.
   * What was found to fit has been used.
   */
  check(bare: string, fits: (token: string) => boolean): 'right' | 'wrong' | 'expired' | Promise<'right' | 'wrong' | 'expired'>
}

export class HashedTokenServer implements Mechanism {
  readonly #mechanism: string
  readonly #context: SaslContext
  readonly #tokens: TokenCheck

  constructor(mechanism: string, context: SaslContext, tokens: TokenCheck) {
    this.#mechanism = mechanism
    this.#context = context
    this.#tokens = tokens
  }

  async step(input: Buffer): ReturnType<Mechanism['step']> {
    const { host, accounts, channelBinding, attempt } = this.#context
    // §3.1: authcid NUL initiator-hashed-token
    const end = input.indexOf(0)
    if (end < 1) throw new SaslFailure('malformed-request')
    const type = bindingOf(this.#mechanism)
    const data = type === undefined ? undefined : channelBinding?.data(type)
    if (type !== undefined && data === undefined) throw new SaslFailure('not-authorized', 'Channel binding type is not supported')
    const account = accountOf(decodeText(input.subarray(0, end)), '', host)
    const bare = account?.bare ?? `@${host}`
    attempt?.(bare)
    const given = input.subarray(end + 1)
    let answer: Buffer | undefined
    const outcome = await this.#tokens.check(bare, (token) => {
      const expected = hashToken(this.#mechanism, token, 'Initiator', data)
      const fits = given.length === expected.length && timingSafeEqual(given, expected)
      if (fits) answer = hashToken(this.#mechanism, token, 'Responder', data)
      return fits
    })
    // XEP-0484 §4.2: known, but no longer trusted.
    if (outcome === 'expired') throw new SaslFailure('credentials-expired')
    if (outcome !== 'right' || answer === undefined || account === undefined) throw new SaslFailure('not-authorized')
    if (accounts.confirm !== undefined && !(await accounts.confirm(bare))) throw new SaslFailure('credentials-expired')
    return { kind: 'success', data: answer, user: account.local }
  }
}
