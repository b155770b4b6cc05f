/**
 * Accounts where there are several nodes: who asks for one has it live here, or, when another node has it, has that node do what is asked. Passwords
 * do not leave this node: what goes to the other are their keys.
 */
import { timingSafeEqual } from 'node:crypto'
import { makeScramKeys, prepareSecret } from '../../lib/sasl/scram-keys.ts'
import type { Accounts, Disabled, ScramHash, ScramKeys, ScramKeySet } from '../accounts/accounts.ts'
import type { MaybePromise, Value } from '../storage/shapes.ts'
import type { Calls } from './calls.ts'

export interface AccountsAtHomeParts {
  /** Has an account live here; false when another node has it. */
  readonly claim: (bare: string) => Promise<boolean>
  readonly calls: Pick<Calls, 'serve' | 'ask'>
  /** Of the question; another for each of several. */
  readonly name: string
}

type Method = 'exists' | 'register' | 'registerWithoutPassword' | 'unregister' | 'setPassword' | 'disable' | 'enable' | 'disabled' | 'checkPassword' | 'scramKeys' | 'hashes' | 'addKeys' | 'passwordMark'

const METHODS: ReadonlySet<string> = new Set<Method>(['exists', 'register', 'registerWithoutPassword', 'unregister', 'setPassword', 'disable', 'enable', 'disabled', 'checkPassword', 'scramKeys', 'hashes', 'addKeys', 'passwordMark'])

export function accountsAtHome(accounts: Accounts, { claim, calls, name }: AccountsAtHomeParts): Accounts {
  calls.serve(name, async (bare, question) => {
    const [method, ...args] = question as readonly [Method, ...Value[]]
    if (!METHODS.has(method)) throw new Error(`accounts do not know ${method}`)
    const methods = accounts as unknown as Record<Method, (bare: string, ...args: readonly unknown[]) => MaybePromise<unknown>>
    return (await methods[method](bare, ...args)) as Value | undefined
  })
  const ask = <Result>(bare: string, method: Method, ...args: readonly unknown[]): Promise<Result> => calls.ask(bare, name, [method, ...args as Value[]]).then((value) => (value ?? undefined) as Result)
  const anywhere = async <Result>(bare: string, method: Method, here: () => MaybePromise<Result>, ...args: readonly unknown[]): Promise<Result> => await claim(bare) ? here() : ask<Result>(bare, method, ...args)

  const all: Accounts = {
    ...accounts,
    exists: (bare) => anywhere<boolean>(bare, 'exists', () => accounts.exists(bare)),
    async register(bare, password, alongside) {
      if (await claim(bare)) return accounts.register(bare, password, alongside)
      if (alongside !== undefined) throw new Error('what is written with an account is at its home')
      return ask(bare, 'register', await keysOf(bare, password))
    },
    registerWithoutPassword: (bare, hashes) => anywhere<void>(bare, 'registerWithoutPassword', () => accounts.registerWithoutPassword(bare, hashes), ...(hashes === undefined ? [] : [hashes])),
    unregister: (bare) => anywhere<void>(bare, 'unregister', () => accounts.unregister(bare)),
    async setPassword(bare, password) {
      if (await claim(bare)) return accounts.setPassword(bare, password)
      return ask(bare, 'setPassword', await keysOf(bare, password))
    },
    disable: (bare, reason) => anywhere<void>(bare, 'disable', () => accounts.disable(bare, reason), reason),
    enable: (bare) => anywhere<boolean>(bare, 'enable', () => accounts.enable(bare)),
    disabled: (bare) => anywhere<Disabled | undefined>(bare, 'disabled', () => accounts.disabled(bare)),
    async checkPassword(bare, password) {
      if (await claim(bare)) return accounts.checkPassword(bare, password)
      const [hash] = await all.hashes(bare) ?? []
      // One without a password here is in a directory, which its home asks.
      const keys = hash === undefined ? undefined : await all.scramKeys(bare, hash)
      if (hash === undefined || keys === undefined) return ask(bare, 'checkPassword', password)
      const given = await makeScramKeys(hash, prepareSecret(password) ?? ' ', keys.iterations, Buffer.from(keys.salt))
      return timingSafeEqual(given.storedKey, keys.storedKey) && prepareSecret(password) !== undefined
    },
    scramKeys: (bare, hash) => anywhere<ScramKeys | undefined>(bare, 'scramKeys', () => accounts.scramKeys(bare, hash), hash),
    hashes: (bare) => anywhere<readonly ScramHash[] | undefined>(bare, 'hashes', () => accounts.hashes(bare)),
    addKeys: (bare, hash, keys, mark) => anywhere<void>(bare, 'addKeys', () => accounts.addKeys(bare, hash, keys, mark), hash, keys, ...(mark === undefined ? [] : [mark])),
    passwordMark: (bare) => anywhere<string | undefined>(bare, 'passwordMark', () => accounts.passwordMark(bare)),
  }
  const keysOf = async (bare: string, password: string | ScramKeySet): Promise<ScramKeySet> => typeof password === 'string' ? accounts.keysFor(bare, password) : password
  return all
}
