/** What the mechanisms of the server share: their context, how they end, and whose account a name is. */
import { Jid } from '../jid.ts'
import { prepareSecret, type ScramHash, type ScramKeys } from './scram-keys.ts'

/** What SASL asks of the accounts. */
export interface Credentials {
  exists(bare: string): boolean | Promise<boolean>
  checkPassword(bare: string, password: string): Promise<boolean>
  scramKeys(bare: string, hash: ScramHash): ScramKeys | undefined | Promise<ScramKeys | undefined>
  /** Whether an account that logs in by what it got with an earlier login is as it was then; there where somebody else keeps accounts. */
  confirm?(bare: string): Promise<boolean>
  /** The account (a bare JID of this host) that a bearer token is for; there where tokens are taken. */
  bearerOf?(token: string): Promise<string | undefined>
  /** Keys to show for an account that does not exist, so that its absence is not seen. */
  decoyKeys?(bare: string, hash: ScramHash): ScramKeys | Promise<ScramKeys>
}

export interface ChannelBinding {
  /** Types this connection can bind to, the best first. */
  readonly types: readonly string[]
  data(type: string): Buffer | undefined
}

export interface SaslContext {
  /** A prepared domain. */
  readonly host: string
  readonly accounts: Credentials
  /** Whether the connection is encrypted. */
  readonly secure: boolean
  readonly channelBinding: ChannelBinding | undefined
  /** Whether mechanisms with channel binding were among those offered on this stream. */
  readonly offeredPlus: boolean
  /** The mechanisms offered on this stream, for downgrade protection (XEP-0474); when left out, those that are possible. */
  readonly offered?: readonly string[]
  /** Addresses in the certificate that the client has, when one of our authorities stands behind it. */
  readonly certified?: readonly string[] | undefined
  /** Whether accounts have passwords; they do when left out. */
  readonly passwords?: boolean
  /** Makes an account for somebody who gives no name; there where that is allowed. */
  readonly makeAnonymous?: (() => Promise<string>) | undefined
  /** Hashes that SCRAM can be done with here; all when left out. */
  readonly hashes?: readonly ScramHash[] | undefined
  /** Mechanisms turned off by the operator, in any case of letters. */
  readonly disabled: readonly string[]
  /** The bare JID that the client's stream header claims; it may act for nobody else (XEP-0388 §2.3). */
  readonly claimed?: string | undefined
  /** Called before the password of a bare JID is checked. Throws a SaslFailure when it may not be. */
  readonly attempt?: (bare: string) => void
  /** The client's address; empty when it has none (a Unix socket). */
  readonly address?: string
  /** Starts the mechanisms that somebody else answers, who has the credentials. */
  readonly elsewhere?: ((mechanism: string, context: SaslContext) => Mechanism | undefined) | undefined
}

/** Conditions of RFC 6120 §6.5 that a mechanism can end with. */
export type SaslCondition = 'credentials-expired' | 'invalid-authzid' | 'malformed-request' | 'not-authorized' | 'temporary-auth-failure'

export type SaslResult =
  | { readonly kind: 'challenge'; readonly data: Buffer }
  | { readonly kind: 'success'; readonly data: Buffer | undefined; readonly user: string }
  | { readonly kind: 'failure'; readonly condition: SaslCondition; readonly text?: string }

/** Thrown inside a mechanism to end the exchange. */
export class SaslFailure extends Error {
  readonly condition: SaslCondition
  readonly text: string | undefined
  constructor(condition: SaslCondition, text?: string) {
    super(text ?? condition)
    this.condition = condition
    this.text = text
  }
}

/** One mechanism's part of an exchange; server.ts keeps the order. */
export interface Mechanism {
  /** Whether the client's first message may be empty. */
  readonly takesNothing?: boolean
  /** Whether it need not be sent at all. */
  readonly needsNothing?: boolean
  /** Throws a SaslFailure. */
  step(input: Buffer): Promise<Exclude<SaslResult, { kind: 'failure' }>>
}

/**
 * The account that a user name stands for. A name that cannot be an account answers undefined, and is to be treated as
 * one that does not exist. Throws when `authzid` is not this account's bare JID.
 */
export function accountOf(name: string, authzid: string, host: string, claimed?: string): Jid | undefined {
  const prepared = prepareSecret(name)
  let account: Jid | undefined
  try {
    account = prepared === undefined ? undefined : Jid.of(prepared, host)
  } catch {
    account = undefined
  }
  // RFC 6120 §6.3.8: acting for another is not possible here, so it names the account itself.
  if (authzid !== '' && (account === undefined || Jid.tryParse(authzid)?.toString() !== account.bare)) {
    throw new SaslFailure('invalid-authzid')
  }
  // XEP-0388 §2.3: who speaks for itself in the stream header and for another here is refused.
  if (authzid !== '' && claimed !== undefined && claimed !== account?.bare) throw new SaslFailure('invalid-authzid')
  return account
}

const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** Decodes UTF-8 or ends the exchange. */
export function decodeText(bytes: Buffer): string {
  try {
    return decoder.decode(bytes)
  } catch {
    throw new SaslFailure('malformed-request', 'Not UTF-8')
  }
}
