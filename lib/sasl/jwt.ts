/** JSON Web Tokens in place of passwords (ejabberd's `auth_method: jwt`): whose account a token is for. */
import { createSecretKey, type KeyObject } from 'node:crypto'
import { createLocalJWKSet, jwtVerify, type JSONWebKeySet, type JWK } from 'jose'
import { Jid } from '../jid.ts'

export interface JwtOptions {
  /** The claim that holds the account's bare JID. */
  readonly jidField: string
  readonly now?: () => number
}

/** The account (a bare JID) that a token is for, undefined when it is not good. */
export type JwtCheck = (token: string) => Promise<string | undefined>

const SECRET_ALGORITHMS = ['HS256', 'HS384', 'HS512']

interface Secret {
  readonly key: KeyObject
  readonly kid: string | undefined
  readonly alg: string | undefined
}

/** Checks tokens against a JSON Web Key, or a set of them. Throws when the text is neither. */
export function createJwtCheck(text: string, { jidField, now = Date.now }: JwtOptions): JwtCheck {
  const given = JSON.parse(text) as JWK | JSONWebKeySet
  const keys = 'keys' in given && Array.isArray(given.keys) ? given.keys : [given as JWK]
  if (keys.length === 0 || keys.some((key) => typeof key !== 'object' || key === null || typeof key.kty !== 'string')) throw new Error('no JSON Web Key')
  const secrets = keys.filter(({ kty }) => kty === 'oct').map(secretOf)
  const publicKeys = createLocalJWKSet({ keys: keys.filter(({ kty }) => kty !== 'oct') })

  return async (token) => {
    try {
      // A token names its algorithm; a secret is good for those of secrets alone, and a public key for its own.
      const { payload } = await jwtVerify(token, (header, input) => {
        if (!SECRET_ALGORITHMS.includes(header.alg)) return publicKeys(header, input)
        const secret = secrets.find(({ kid, alg }) => (header.kid === undefined || kid === undefined || kid === header.kid) && (alg === undefined || alg === header.alg))
        if (secret === undefined) throw new Error('no such key')
        return secret.key
      }, { requiredClaims: ['exp'], currentDate: new Date(now()) })
      const jid = typeof payload[jidField] === 'string' ? Jid.tryParse(payload[jidField]) : undefined
      return jid === undefined || jid.local === '' || jid.resource !== '' ? undefined : jid.toString()
    } catch {
      return undefined
    }
  }
}

function secretOf({ k, kid, alg }: JWK): Secret {
  if (typeof k !== 'string' || k === '') throw new Error('a JSON Web Key of type oct has no k')
  return { key: createSecretKey(k, 'base64url'), kid, alg }
}
