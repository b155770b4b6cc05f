/** RFC 5802 §3: what a server keeps of a password, and how it is made. */
import { hash as hashOnce, pbkdf2, randomBytes } from 'node:crypto'
import { promisify } from 'node:util'
import saslprep from '@mongodb-js/saslprep'
import { hmac as hmacOf, type HmacHash } from './hmac.ts'

export type ScramHash = 'SHA-1' | 'SHA-256' | 'SHA-512'

export interface ScramKeys {
  readonly salt: Buffer
  readonly iterations: number
  readonly storedKey: Buffer
  readonly serverKey: Buffer
}

export const SCRAM_HASHES = ['SHA-1', 'SHA-256', 'SHA-512'] as const satisfies readonly ScramHash[]

const ALGORITHMS: Record<ScramHash, { readonly name: HmacHash; readonly bytes: number }> = {
  'SHA-1': { name: 'sha1', bytes: 20 },
  'SHA-256': { name: 'sha256', bytes: 32 },
  'SHA-512': { name: 'sha512', bytes: 64 },
}

export function hashBytes(hash: ScramHash): number {
  return ALGORITHMS[hash].bytes
}

export function hmac(hash: ScramHash, key: Buffer, data: string | Buffer): Buffer {
  return hmacOf(ALGORITHMS[hash].name, key, data)
}

export function digest(hash: ScramHash, data: Buffer): Buffer {
  return hashOnce(ALGORITHMS[hash].name, data, 'buffer')
}

export function xor(a: Buffer, b: Buffer): Buffer {
  const result = Buffer.allocUnsafe(a.length)
  for (let i = 0; i < a.length; i++) result[i] = (a[i] as number) ^ (b[i] as number)
  return result
}

const PRINTABLE = /^[ -~]*$/

/**
 * SASLprep (RFC 4013) of a user name or password; undefined when it is prohibited or nothing is left of it.
 * RFC 4013 §2.5 deviates: unassigned code points pass in stored passwords too. "Unassigned" means Unicode 3.2, which
 * would forbid every emoji, and clients send them.
 */
export function prepareSecret(text: string): string | undefined {
  if (PRINTABLE.test(text)) return text === '' ? undefined : text
  try {
    const prepared = saslprep(text, { allowUnassigned: true })
    return prepared === '' ? undefined : prepared
  } catch {
    return undefined
  }
}

const derive = promisify(pbkdf2)

/** SaltedPassword of RFC 5802 §3, off the event loop. `password` is already prepared. */
export function saltPassword(hash: ScramHash, password: string, salt: Buffer, iterations: number): Promise<Buffer> {
  const algorithm = ALGORITHMS[hash]
  return derive(password, salt, iterations, algorithm.bytes, algorithm.name)
}

/** Keys to keep of a prepared password, with a new salt unless one is given. */
export async function makeScramKeys(hash: ScramHash, password: string, iterations: number, salt: Buffer = randomBytes(16)): Promise<ScramKeys> {
  const salted = await saltPassword(hash, password, salt, iterations)
  return { salt, iterations, ...keysOf(hash, salted) }
}

/** RFC 5802 §3: the keys that a SaltedPassword gives. */
export function keysOf(hash: ScramHash, salted: Buffer): Pick<ScramKeys, 'storedKey' | 'serverKey'> {
  return { storedKey: digest(hash, hmac(hash, salted, 'Client Key')), serverKey: hmac(hash, salted, 'Server Key') }
}

/** Keys of an account that does not exist: the same each time for one name, and no password fits them. */
export function makeDecoyKeys(hash: ScramHash, secret: Buffer, name: string, iterations: number): ScramKeys {
  return {
    salt: hmac('SHA-256', secret, `salt ${hash} ${name}`).subarray(0, 16),
    iterations,
    storedKey: Buffer.alloc(ALGORITHMS[hash].bytes),
    serverKey: hmac(hash, secret, `server key ${name}`),
  }
}
