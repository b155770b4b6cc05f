/** RFC 7628: OAUTHBEARER. */
import { Jid } from '../jid.ts'
import { decodeText, SaslFailure, type Mechanism, type SaslContext } from './mechanism.ts'

/** §3.1: the GS2 header, and then key=value pairs, each ended by \x01. */
// oxlint-disable-next-line no-control-regex
const MESSAGE = /^([ny]|p=[A-Za-z0-9.-]+),(?:a=([^,]+))?,\x01((?:[A-Za-z]+=[^\x01]*\x01)+)\x01$/
const BEARER = /^Bearer +([A-Za-z0-9._~+/=-]+)$/i
/** §3.2.3: what the client answers to an error. */
const KVSEP = 0x01

export class OAuthBearerServer implements Mechanism {
  readonly #context: SaslContext
  #refused = false

  constructor(context: SaslContext) {
    this.#context = context
  }

  async step(input: Buffer): ReturnType<Mechanism['step']> {
    if (this.#refused) {
      if (input.length !== 1 || input[0] !== KVSEP) throw new SaslFailure('malformed-request')
      throw new SaslFailure('not-authorized')
    }
    const match = MESSAGE.exec(decodeText(input))
    if (match === null) throw new SaslFailure('malformed-request')
    const [, flag, authzid, pairs] = match as unknown as [string, string, string | undefined, string]
    // No channel binding goes with it.
    if (flag.startsWith('p=')) throw new SaslFailure('malformed-request')
    const values = pairs.split('\x01').flatMap((pair) => (pair.startsWith('auth=') ? [pair.slice(5)] : []))
    const token = values.length === 1 ? BEARER.exec(values[0] as string)?.[1] : undefined
    if (token === undefined) throw new SaslFailure('malformed-request')
    const wanted = authzid === undefined ? undefined : Jid.tryParse(authzid.replace(/=2C|=3D/g, (code) => (code === '=2C' ? ',' : '=')))
    const { accounts, attempt, claimed, host } = this.#context
    attempt?.(wanted?.bare ?? `@${host}`)
    const account = await accounts.bearerOf?.(token)
    if (account === undefined) {
      // §3.2.2
      this.#refused = true
      return { kind: 'challenge', data: Buffer.from('{"status":"invalid_token"}') }
    }
    const jid = Jid.parse(account)
    if (authzid !== undefined && (wanted?.toString() !== account || (claimed !== undefined && claimed !== account))) throw new SaslFailure('invalid-authzid')
    return { kind: 'success', data: undefined, user: jid.local }
  }
}
