/** The accounts of this server where some belong to hosts whose users are in an LDAP directory. */
import { Jid } from '../../lib/jid.ts'
import { AccountError, type Accounts } from '../accounts/accounts.ts'
import type { MaybePromise } from '../storage/shapes.ts'
import type { Directory } from './directory.ts'
import { LdapUnavailable } from './pool.ts'

/** The directory of a host, and whether the host has accounts of this server's own too. */
export interface HostDirectory {
  readonly directory: Directory
  readonly ownAccounts: boolean
}

/**
 * An account of a directory is one without a password here. It is there once it was used, until the directory has it no more; its
 * password is not for this server to set.
 */
export function withDirectories(accounts: Accounts, directoryOf: (host: string) => HostDirectory | undefined): Accounts {
  const of = (bare: string): HostDirectory | undefined => directoryOf(bare.slice(bare.indexOf('@') + 1))
  const localOf = (bare: string): string => bare.slice(0, bare.indexOf('@'))

  return {
    ...accounts,
    exists(bare) {
      const found = of(bare)
      if (found === undefined) return accounts.exists(bare)
      return then(accounts.hashes(bare), (hashes) => hashes !== undefined && (hashes.length > 0 || !found.directory.isGone(localOf(bare))))
    },
    async register(bare, password, alongside) {
      const found = of(bare)
      if (found !== undefined) {
        if (!found.ownAccounts) throw new AccountError('not-allowed', 'Accounts are made in the LDAP directory')
        if (await has(found.directory, Jid.parse(bare).local)) throw new AccountError('conflict')
      }
      return accounts.register(bare, password, alongside)
    },
    async setPassword(bare, password) {
      if (of(bare) !== undefined && (await accounts.hashes(bare))?.length === 0) throw new AccountError('not-allowed', 'The password is set in the LDAP directory')
      return accounts.setPassword(bare, password)
    },
    async checkPassword(bare, password) {
      const found = of(bare)
      if (found === undefined || ((await accounts.hashes(bare))?.length ?? 0) > 0) return accounts.checkPassword(bare, password)
      return (await found.directory.check(localOf(bare), password)) !== undefined
    },
  }
}

/** An account that may be in the directory is not made here. */
async function has(directory: Directory, local: string): Promise<boolean> {
  try {
    return (await directory.find(local)) !== undefined
  } catch (error) {
    if (!(error instanceof LdapUnavailable)) throw error
    throw new AccountError('resource-constraint', 'The LDAP directory does not answer')
  }
}

function then<A, B>(value: MaybePromise<A>, next: (value: A) => B): MaybePromise<B> {
  return value instanceof Promise ? value.then(next) : next(value)
}
