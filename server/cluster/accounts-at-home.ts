/** Accounts where there are several nodes: whoever asks for one has it live here first. */
import type { Accounts } from '../accounts/accounts.ts'
import type { MaybePromise } from '../storage/shapes.ts'

/** `claim` rejects when another node has the account. */
export function accountsAtHome(accounts: Accounts, claim: (bare: string) => Promise<void>): Accounts {
  const first = <Args extends readonly [string, ...unknown[]], Result>(call: (...args: Args) => MaybePromise<Result>) => async (...args: Args): Promise<Result> => {
    await claim(args[0])
    return call(...args)
  }
  return {
    ...accounts,
    exists: first(accounts.exists),
    register: first(accounts.register),
    registerWithoutPassword: first(accounts.registerWithoutPassword),
    unregister: first(accounts.unregister),
    setPassword: first(accounts.setPassword),
    disable: first(accounts.disable),
    enable: first(accounts.enable),
    disabled: first(accounts.disabled),
    checkPassword: first(accounts.checkPassword),
    scramKeys: first(accounts.scramKeys),
    hashes: first(accounts.hashes),
    addKeys: first(accounts.addKeys),
  }
}
