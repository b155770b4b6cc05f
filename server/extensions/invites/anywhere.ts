/** The invitations of a host for all of its nodes: they are kept by the host's home, which is asked. */
import { StanzaError } from '../../../lib/stanza/errors.ts'
import type { MaybePromise, Value } from '../../storage/shapes.ts'
import type { HomeCalls } from '../extension.ts'
import { hashOfToken, type Invite, type InviteStore, type KnownInvite } from './store.ts'

/** As InviteStore. Errors are those of a question to another node. */
export interface Invites {
  add(invite: Omit<Invite, 'used'>): Promise<string>
  find(token: string): Promise<KnownInvite | undefined>
  count(inviter: string): Promise<{ readonly all: number; readonly register: number }>
  isReserved(bareJid: string): Promise<boolean>
  open(): Promise<readonly Invite[]>
  removeInviter(inviter: string): Promise<number>
  /** Throws `not-allowed` when it has been used. On stable storage when this resolves. */
  use(hash: string, owner: string): Promise<void>
  /** As `use`, before the account is made; then `made` or `giveBack` says how it went. When neither does for a minute, the invitation is used if there is such an account. */
  useToMake(hash: string, owner: string): Promise<void>
  made(hash: string, owner: string): Promise<void>
  giveBack(hash: string, owner: string): Promise<void>
}

/** A node that is making an account for so long has lost its place among the others. */
const MAKING_MS = 60_000

export interface InvitesParts {
  readonly store: InviteStore
  readonly host: string
  readonly calls: HomeCalls
  /** Whether there is such an account, at any node. */
  readonly exists: (bareJid: string) => MaybePromise<boolean>
  /** Resolves when what was written in this turn is on stable storage. */
  readonly committed: () => Promise<void>
  readonly now: () => number
}

export function invitesAnywhere({ store, host, calls, exists, committed, now }: InvitesParts): Invites {
  /** An invitation of which it was not known whether the account was made: whoever was making it may have been killed. */
  async function found(hash: string): Promise<KnownInvite | undefined> {
    const known = store.find(hash)
    if (known?.invite.making === undefined || now() - known.invite.making < MAKING_MS) return known
    const { used } = known.invite
    const isMade = await exists(used)
    // Another question may have found out meanwhile.
    if (store.find(hash)?.invite.making === undefined) return store.find(hash)
    if (isMade) store.made(hash, used)
    else store.giveBack(hash, used)
    await committed()
    return store.find(hash)
  }

  calls.serve('invites add', async (_host, args) => {
    const token = store.add(args as unknown as Omit<Invite, 'used'>)
    await committed()
    return token
  })
  calls.serve('invites find', async (_host, hash) => (await found(hash as string)) as unknown as Value | undefined)
  calls.serve('invites count', (_host, inviter) => store.count(inviter as string))
  calls.serve('invites reserved', (_host, bareJid) => store.isReserved(bareJid as string))
  calls.serve('invites open', async () => (await store.open()) as unknown as Value)
  calls.serve('invites remove', async (_host, inviter) => {
    const count = await store.removeInviter(inviter as string)
    await committed()
    return count
  })
  for (const use of ['use', 'useToMake'] as const) {
    calls.serve(`invites ${use}`, async (_host, args) => {
      const [hash, owner] = args as [string, string]
      await found(hash)
      const known = store.find(hash)
      if (known === undefined || !store.isUnused(hash)) throw new StanzaError('not-allowed', 'The invitation has been used')
      store[use](known, owner)
      await committed()
    })
  }
  calls.serve('invites made', async (_host, args) => {
    const [hash, owner] = args as [string, string]
    store.made(hash, owner)
    await committed()
  })
  calls.serve('invites give back', async (_host, args) => {
    const [hash, owner] = args as [string, string]
    store.giveBack(hash, owner)
    await committed()
  })
  const ask = <Result>(name: string, args: Value): Promise<Result> => calls.ask(host, `invites ${name}`, args) as Promise<Result>

  return {
    add: (invite) => ask('add', { ...invite }),
    async find(token) {
      const hash = hashOfToken(token)
      return hash === undefined ? undefined : (await ask<KnownInvite | null>('find', hash)) ?? undefined
    },
    count: (inviter) => ask('count', inviter),
    isReserved: (bareJid) => ask('reserved', bareJid),
    open: () => ask('open', null),
    removeInviter: (inviter) => ask('remove', inviter),
    use: (hash, owner) => ask('use', [hash, owner]),
    useToMake: (hash, owner) => ask('useToMake', [hash, owner]),
    made: (hash, owner) => ask('made', [hash, owner]),
    giveBack: (hash, owner) => ask('give back', [hash, owner]),
  }
}
