/** SCRAM and PLAIN for a client. */
import { randomBytes, timingSafeEqual } from 'node:crypto'
import { digest, hmac, prepareSecret, saltPassword, xor, type ScramHash } from './scram-keys.ts'

export interface SaslClientOptions {
  readonly user: string
  readonly password: string
  readonly authzid?: string
  /** The type and data to bind to, for `-PLUS`. */
  readonly binding?: { readonly type: string; readonly data: Buffer }
  /** Whether the client could bind, but the server does not offer to. */
  readonly couldBind?: boolean
}

export interface SaslClient {
  readonly mechanism: string
  /** The first message is answered to an empty challenge. */
  respond(challenge: Buffer): Promise<Buffer>
  /** Throws when the server has not shown that it knows the password. */
  verify(data: Buffer | undefined): void
}

export function createSaslClient(mechanism: string, options: SaslClientOptions): SaslClient {
  if (mechanism === 'PLAIN') {
    const message = Buffer.from(`${options.authzid ?? ''}\0${options.user}\0${options.password}`)
    return { mechanism, respond: () => Promise.resolve(message), verify: () => undefined }
  }
  const match = /^SCRAM-(SHA-1|SHA-256|SHA-512)(-PLUS)?$/.exec(mechanism)
  if (match === null) throw new Error(`Mechanism ${mechanism} is not supported`)
  return new ScramClient(mechanism, match[1] as ScramHash, match[2] !== undefined, options)
}

class ScramClient implements SaslClient {
  readonly mechanism: string
  private readonly hash: ScramHash
  private readonly options: SaslClientOptions
  private readonly header: string
  private readonly bare: string
  private readonly nonce = randomBytes(18).toString('base64')
  private signature: Buffer | undefined

  constructor(mechanism: string, hash: ScramHash, plus: boolean, options: SaslClientOptions) {
    if (plus && options.binding === undefined) throw new Error(`${mechanism} needs channel binding`)
    this.mechanism = mechanism
    this.hash = hash
    this.options = options
    const flag = plus ? `p=${options.binding?.type}` : options.couldBind === true ? 'y' : 'n'
    this.header = `${flag},${options.authzid === undefined ? '' : `a=${encodeName(options.authzid)}`},`
    this.bare = `n=${encodeName(prepareSecret(options.user) ?? options.user)},r=${this.nonce}`
  }

  async respond(challenge: Buffer): Promise<Buffer> {
    if (challenge.length === 0) return Buffer.from(this.header + this.bare)
    const match = /^r=([^,]+),s=([^,]+),i=(\d+)/.exec(challenge.toString())
    if (match === null || this.signature !== undefined) throw new Error('The challenge is malformed')
    const [, nonce, salt, iterations] = match as unknown as [string, string, string, string]
    if (!nonce.startsWith(this.nonce) || nonce === this.nonce) throw new Error('The nonce is not ours')
    const password = prepareSecret(this.options.password) ?? ''
    const salted = await saltPassword(this.hash, password, Buffer.from(salt, 'base64'), Number(iterations))
    const clientKey = hmac(this.hash, salted, 'Client Key')
    const plus = this.header.startsWith('p=')
    const channel = Buffer.concat([Buffer.from(this.header), plus ? (this.options.binding?.data ?? Buffer.alloc(0)) : Buffer.alloc(0)])
    const withoutProof = `c=${channel.toString('base64')},r=${nonce}`
    const authMessage = `${this.bare},${challenge.toString()},${withoutProof}`
    const proof = xor(clientKey, hmac(this.hash, digest(this.hash, clientKey), authMessage))
    this.signature = hmac(this.hash, hmac(this.hash, salted, 'Server Key'), authMessage)
    return Buffer.from(`${withoutProof},p=${proof.toString('base64')}`)
  }

  verify(data: Buffer | undefined): void {
    const match = /^v=([^,]+)/.exec(data?.toString() ?? '')
    const given = Buffer.from(match?.[1] ?? '', 'base64')
    if (this.signature === undefined || given.length !== this.signature.length || !timingSafeEqual(given, this.signature)) {
      throw new Error('The server does not know the password')
    }
  }
}

function encodeName(name: string): string {
  return name.replace(/=/g, '=3D').replace(/,/g, '=2C')
}
