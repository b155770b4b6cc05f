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
    exists: first(accounts.exists.bind(accounts)),
    register: first(accounts.register.bind(accounts)),
    registerWithoutPassword: first(accounts.registerWithoutPassword.bind(accounts)),
    unregister: first(accounts.unregister.bind(accounts)),
    setPassword: first(accounts.setPassword.bind(accounts)),
    disable: first(accounts.disable.bind(accounts)),
    enable: first(accounts.enable.bind(accounts)),
    disabled: first(accounts.disabled.bind(accounts)),
    checkPassword: first(accounts.checkPassword.bind(accounts)),
    scramKeys: first(accounts.scramKeys.bind(accounts)),
    hashes: first(accounts.hashes.bind(accounts)),
    addKeys: first(accounts.addKeys.bind(accounts)),
  }
}
