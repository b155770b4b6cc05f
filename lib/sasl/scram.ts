/** RFC 5802 and RFC 7677: SCRAM, with channel binding as `-PLUS` (RFC 5929, RFC 9266). */
import { randomBytes, timingSafeEqual } from 'node:crypto'
import { type Jid } from '../jid.ts'
import { randomId } from '../stanza/ids.ts'
import { digest, hashBytes, hmac, makeDecoyKeys, xor, type ScramHash, type ScramKeys } from './scram-keys.ts'
import { accountOf, decodeText, SaslFailure, type Mechanism, type SaslContext } from './mechanism.ts'

/** For servers whose accounts have no decoys of their own. */
const processSecret = randomBytes(32)
const DECOY_ITERATIONS = 4096

/** RFC 5802 §7: gs2-cbind-flag "," [authzid] "," and then the bare message. */
const CLIENT_FIRST = /^((n|y|p=[A-Za-z0-9.-]+),(?:a=([^,]+))?,)(.+)$/s
/** saslname "," nonce and extensions, which are ignored. */
const CLIENT_FIRST_BARE = /^n=([^,]+),r=([!-+\--~]+)((?:,[A-Za-z]=[^,]+)*)$/s
const CLIENT_FINAL = /^(c=([A-Za-z0-9+/=]+),r=([!-+\--~]+)(?:,[A-Za-z]=[^,]+)*),p=([A-Za-z0-9+/=]+)$/s

interface Begun {
  readonly account: Jid | undefined
  readonly exists: boolean
  readonly keys: ScramKeys
  readonly nonce: string
  /** What the client has to repeat in `c=`. */
  readonly binding: Buffer
  /** AuthMessage as far as it goes. */
  readonly transcript: string
}

export class ScramServer implements Mechanism {
  private readonly hash: ScramHash
  private readonly plus: boolean
  private readonly context: SaslContext
  private begun: Begun | undefined

  constructor(hash: ScramHash, plus: boolean, context: SaslContext) {
    this.hash = hash
    this.plus = plus
    this.context = context
  }

  async step(input: Buffer): ReturnType<Mechanism['step']> {
    const text = decodeText(input)
    // RFC 5802 §7: no value holds NUL.
    if (text.includes('\0')) throw new SaslFailure('malformed-request')
    return this.begun === undefined ? { kind: 'challenge', data: await this.begin(text) } : this.finish(this.begun, text)
  }

  private async begin(text: string): Promise<Buffer> {
    const match = CLIENT_FIRST.exec(text)
    if (match === null) throw new SaslFailure('malformed-request')
    const [, header, flag, authzid, bare] = match as unknown as [string, string, string, string | undefined, string]
    const binding = this.bind(header, flag)
    // RFC 5802 §5.1: `m=` stands for an extension that must be understood, and there is none.
    if (bare.startsWith('m=')) throw new SaslFailure('malformed-request', 'Mandatory extensions are not supported')
    const parts = CLIENT_FIRST_BARE.exec(bare)
    if (parts === null) throw new SaslFailure('malformed-request')
    const name = decodeName(parts[1] as string)
    const account = accountOf(name, authzid === undefined ? '' : decodeName(authzid), this.context.host, this.context.claimed)

    const { accounts, host } = this.context
    const real = account === undefined ? undefined : await accounts.scramKeys(account.bare, this.hash)
    const keys = real ?? (await this.decoy(account?.bare ?? `${name}@${host}`))
    const nonce = `${parts[2] as string}${randomId(18)}`
    const challenge = `r=${nonce},s=${keys.salt.toString('base64')},i=${keys.iterations}${this.offer()}`
    this.begun = { account, exists: real !== undefined, keys, nonce, binding, transcript: `${bare},${challenge}` }
    return Buffer.from(challenge)
  }

  /** RFC 5802 §6: checks the client's flag, and answers the GS2 header with the connection's own data. */
  private bind(header: string, flag: string): Buffer {
    const { channelBinding, offeredPlus } = this.context
    if (!flag.startsWith('p=')) {
      if (this.plus) throw new SaslFailure('malformed-request', 'This mechanism needs channel binding')
      // The client believes that we cannot bind, yet we said we can: somebody in between changed the offer.
      if (flag === 'y' && offeredPlus) throw new SaslFailure('not-authorized', 'Channel binding is supported')
      return Buffer.from(header)
    }
    if (!this.plus) throw new SaslFailure('malformed-request', 'This mechanism has no channel binding')
    const type = flag.slice(2)
    const data = channelBinding?.types.includes(type) === true ? channelBinding.data(type) : undefined
    if (data === undefined) throw new SaslFailure('not-authorized', 'Channel binding type is not supported')
    return Buffer.concat([Buffer.from(header), data])
  }

  /** XEP-0474: the attribute that tells what was offered; it is signed with all the rest. */
  private offer(): string {
    const { offered, channelBinding } = this.context
    return offered === undefined ? '' : `,h=${offerHash(this.hash, offered, channelBinding?.types ?? [])}`
  }

  private async decoy(bare: string): Promise<ScramKeys> {
    const { accounts } = this.context
    return accounts.decoyKeys?.(bare, this.hash) ?? makeDecoyKeys(this.hash, processSecret, bare, DECOY_ITERATIONS)
  }

  private finish(begun: Begun, text: string): { kind: 'success'; data: Buffer; user: string } {
    const { account, exists, keys, nonce, binding, transcript } = begun
    const match = CLIENT_FINAL.exec(text)
    if (match === null) throw new SaslFailure('malformed-request')
    const [, withoutProof, channel, echoed, proofText] = match as unknown as [string, string, string, string, string]
    const proof = decodeBase64(proofText)
    const claimed = decodeBase64(channel)
    if (proof.length !== hashBytes(this.hash)) throw new SaslFailure('malformed-request')
    if (echoed !== nonce) throw new SaslFailure('not-authorized', 'The nonce differs')
    if (!claimed.equals(binding)) throw new SaslFailure('not-authorized', 'Channel bindings do not match')

    this.context.attempt?.(account?.bare ?? `@${this.context.host}`)
    // RFC 5802 §3
    const authMessage = `${transcript},${withoutProof}`
    const clientKey = xor(proof, hmac(this.hash, keys.storedKey, authMessage))
    const signature = hmac(this.hash, keys.serverKey, authMessage)
    const fits = timingSafeEqual(digest(this.hash, clientKey), keys.storedKey)
    if (!fits || !exists || account === undefined) throw new SaslFailure('not-authorized')
    return { kind: 'success', data: Buffer.from(`v=${signature.toString('base64')}`), user: account.local }
  }
}

/** XEP-0474 §5.1: the hash of the mechanisms offered and, when there are any, of the types of channel binding (XEP-0440). */
export function offerHash(hash: ScramHash, mechanisms: readonly string[], types: readonly string[]): string {
  const lists = types.length === 0 ? [mechanisms] : [mechanisms, types]
  const text = lists.map((names) => names.toSorted().join('\x1e')).join('\x1f')
  return digest(hash, Buffer.from(text)).toString('base64')
}

/** RFC 5802 §5.1: a comma is written `=2C`, an equals sign `=3D`; no other use of `=` is allowed. */
function decodeName(text: string): string {
  if (/=(?!2C|3D)/.test(text)) throw new SaslFailure('malformed-request')
  return text.replace(/=2C|=3D/g, (code) => (code === '=2C' ? ',' : '='))
}

/** Base64 in its one canonical spelling. */
function decodeBase64(text: string): Buffer {
  const bytes = Buffer.from(text, 'base64')
  if (bytes.toString('base64') !== text) throw new SaslFailure('malformed-request', 'Not base64')
  return bytes
}
