/** The invitations of a host for all of its nodes: they are kept by the host's home, which is asked. */
import { StanzaError } from '../../../lib/stanza/errors.ts'
import type { Value } from '../../storage/shapes.ts'
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
  giveBack(hash: string, owner: string): Promise<void>
}

/** `committed` resolves when what was written in this turn is on stable storage. */
export function invitesAnywhere(store: InviteStore, host: string, calls: HomeCalls, committed: () => Promise<void>): Invites {
  calls.serve('invites add', async (_host, args) => {
    const token = store.add(args as unknown as Omit<Invite, 'used'>)
    await committed()
    return token
  })
  calls.serve('invites find', (_host, hash) => store.find(hash as string) as unknown as Value | undefined)
  calls.serve('invites count', (_host, inviter) => store.count(inviter as string))
  calls.serve('invites reserved', (_host, bareJid) => store.isReserved(bareJid as string))
  calls.serve('invites open', async () => (await store.open()) as unknown as Value)
  calls.serve('invites remove', async (_host, inviter) => {
    const count = await store.removeInviter(inviter as string)
    await committed()
    return count
  })
  calls.serve('invites use', async (_host, args) => {
    const [hash, owner] = args as [string, string]
    const known = store.find(hash)
    if (known === undefined || !store.isUnused(hash)) throw new StanzaError('not-allowed', 'The invitation has been used')
    store.use(known, owner)
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
    giveBack: (hash, owner) => ask('give back', [hash, owner]),
  }
}
