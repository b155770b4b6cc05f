/** What the clients of one host log in with: passwords of this server or of an LDAP directory, or tokens that somebody else has signed. */
import type { JwtCheck } from '../../lib/sasl/jwt.ts'
import { Jid } from '../../lib/jid.ts'
import { SaslFailure, type Credentials } from '../../lib/sasl/mechanism.ts'
import type { Directory } from '../ldap/directory.ts'
import { LdapUnavailable } from '../ldap/pool.ts'
import type { DirectoryUser } from '../ldap/users.ts'
import type { Accounts } from './accounts.ts'

export interface CredentialsOptions {
  readonly host: string
  /** Those of this server's own. */
  readonly accounts: Accounts
  /** Whether their passwords count at all. */
  readonly passwords: boolean
  readonly jwt: JwtCheck | undefined
  readonly directory?: Directory | undefined
  /** Whether this account (a bare JID) logs in by tokens alone. */
  readonly tokensOnly: (bare: string) => boolean
  /** Makes the account of somebody who is kept elsewhere and comes for the first time; `user`: as a directory has it. */
  readonly admit: (bare: string, user?: DirectoryUser) => Promise<void>
}

export function createCredentials({ host, accounts, passwords, jwt, directory, tokensOnly, admit }: CredentialsOptions): Credentials {
  const mayUsePassword = (bare: string): boolean => jwt === undefined || !tokensOnly(bare)
  const hasPassword = (bare: string): boolean => passwords && mayUsePassword(bare)

  /** Throws a SaslFailure when the directory does not answer: nothing is said about the password then. */
  async function inDirectory(bare: string, look: (directory: Directory, local: string) => Promise<DirectoryUser | undefined>): Promise<boolean> {
    if (directory === undefined) return false
    let user: DirectoryUser | undefined
    try {
      user = await look(directory, bare.slice(0, bare.lastIndexOf('@')))
    } catch (error) {
      if (!(error instanceof LdapUnavailable)) throw error
      throw new SaslFailure('temporary-auth-failure', 'The directory of the accounts does not answer')
    }
    if (user === undefined) return false
    await admit(bare, user)
    return true
  }

  async function checkPassword(bare: string, password: string): Promise<boolean> {
    if (directory === undefined) return hasPassword(bare) && accounts.checkPassword(bare, password)
    if (hasPassword(bare) && ((await accounts.hashes(bare))?.length ?? 0) > 0 && await accounts.checkPassword(bare, password)) return true
    return mayUsePassword(bare) && inDirectory(bare, (asked, local) => asked.check(local, password))
  }

  const shared = {
    exists: directory === undefined ? accounts.exists.bind(accounts)
      : async (bare) => ((await accounts.hashes(bare))?.length ?? 0) > 0 || inDirectory(bare, (asked, local) => asked.find(local)),
    ...(directory === undefined ? {} : { confirm: async (bare) => ((await accounts.hashes(bare))?.length ?? 0) > 0 || stillThere(directory, bare) }),
    scramKeys: (bare, hash) => (hasPassword(bare) ? accounts.scramKeys(bare, hash) : undefined),
    ...(accounts.decoyKeys === undefined ? {} : { decoyKeys: accounts.decoyKeys.bind(accounts) }),
  } satisfies Partial<Credentials>
  if (jwt === undefined) return { ...shared, checkPassword }

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
      return checkPassword(bare, password)
    },
  }
}

/** Whether the directory has the account, with the password it had. While it does not answer nothing has changed. */
async function stillThere(directory: Directory, bare: string): Promise<boolean> {
  try {
    return await directory.isUnchanged(bare.slice(0, bare.lastIndexOf('@')))
  } catch (error) {
    if (!(error instanceof LdapUnavailable)) throw error
    return true
  }
}
