/** What the clients of one host log in with: passwords, or tokens that somebody else has signed. */
import type { JwtCheck } from '../../lib/sasl/jwt.ts'
import { Jid } from '../../lib/jid.ts'
import type { Credentials } from '../../lib/sasl/mechanism.ts'
import type { Accounts } from './accounts.ts'

export interface CredentialsOptions {
  readonly host: string
  readonly accounts: Accounts
  /** Whether passwords count at all. */
  readonly passwords: boolean
  readonly jwt: JwtCheck | undefined
  /** Whether this account (a bare JID) logs in by tokens alone. */
  readonly tokensOnly: (bare: string) => boolean
  /** Makes the account of somebody who comes with a good token for the first time. */
  readonly admit: (bare: string) => Promise<void>
}

export function createCredentials({ host, accounts, passwords, jwt, tokensOnly, admit }: CredentialsOptions): Credentials {
  const hasPassword = (bare: string): boolean => passwords && (jwt === undefined || !tokensOnly(bare))
  const shared = {
    exists: accounts.exists.bind(accounts),
    scramKeys: (bare, hash) => (hasPassword(bare) ? accounts.scramKeys(bare, hash) : undefined),
    ...(accounts.decoyKeys === undefined ? {} : { decoyKeys: accounts.decoyKeys.bind(accounts) }),
  } satisfies Partial<Credentials>
  if (jwt === undefined) return { ...shared, checkPassword: async (bare, password) => hasPassword(bare) && accounts.checkPassword(bare, password) }

  const bearerOf = async (token: string): Promise<string | undefined> => {
    const account = await jwt(token)
    if (account === undefined || Jid.parse(account).domain !== host) return undefined
    await admit(account)
    return account
  }
  return {
    ...shared,
    bearerOf,
    async checkPassword(bare, password) {
      // As in ejabberd: a token may stand in the place of a password.
      const isToken = password.split('.').length === 3
      if (isToken && (await jwt(password)) === bare && (await bearerOf(password)) === bare) return true
      return hasPassword(bare) && accounts.checkPassword(bare, password)
    },
  }
}
