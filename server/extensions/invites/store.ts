/** Invitations as they are kept: by the hash of their token, so that nobody who reads the store can use one. */
import { createHash, randomInt } from 'node:crypto'
import type { Key, MaybePromise, Records, Value } from '../../storage/shapes.ts'

/** Key [host, hash]. */
const INVITES = 'invites'
/** Key [inviter, hash]; value whether an account can be made with it. Kept until the invitation is forgotten, used or not. */
const BY = 'invites_by'
/** Names that are kept for an invitation: key [bare JID], value until when, ms. */
const NAMES = 'invite_names'

const TOKEN_LENGTH = 24
const ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789'
/** How long after its end an invitation is kept: who showed it in time may still use it (XEP-0445 §4). */
const GRACE_MS = 86_400_000
const PAGE = 200

export interface Invite {
  /** Bare JID; empty when the operator invites. */
  readonly inviter: string
  /** Whether it makes a contact of an account that there is, or a new account. */
  readonly kind: 'contact' | 'account'
  /** The only user name it is for; empty for any. */
  readonly username: string
  /** Whether inviter and new account become contacts. */
  readonly subscribe: boolean
  /** Whether an account can be made with it. */
  readonly register: boolean
  /** ms */
  readonly until: number
  /** The bare JID that has used it; empty before. */
  readonly used: string
  /** Since when (ms) it is not known whether that account was made. */
  readonly making?: number
}

export interface KnownInvite {
  readonly hash: string
  readonly invite: Invite
}

export interface InviteStore {
  /** Keeps an invitation and answers its token, which is not kept. */
  add(invite: Omit<Invite, 'used'>): string
  /** The invitation of a token's hash, also when it is over or used. */
  find(hash: string): KnownInvite | undefined
  /** Whether it is neither used nor over. */
  isOpen(invite: Invite): boolean
  /** Whether it is there and not used, however old. */
  isUnused(hash: string): boolean
  use(known: KnownInvite, owner: string): void
  /** As `use`, before the account is made, elsewhere: until `made` or `giveBack` is called it is not known whether it is. */
  useToMake(known: KnownInvite, owner: string): void
  made(hash: string, owner: string): void
  /** It was used for an account that could not be made. */
  giveBack(hash: string, owner: string): void
  /** How many an inviter has made in the time one lasts, and how many of these can make an account. */
  count(inviter: string): { all: number; register: number }
  isReserved(bareJid: string): boolean
  /** Those that can still be used. */
  open(): Promise<readonly Invite[]>
  /** Forgets those that are long over. */
  expire(): Promise<void>
  /** Forgets what an inviter has made; answers how many could still be used. */
  removeInviter(inviter: string): Promise<number>
}

/** The invitations of one host. */
export function createInviteStore(records: Records, host: string, now: () => number): InviteStore {
  function get(hash: string): Invite | undefined {
    return at(records.get(INVITES, [host, hash])) as Invite | undefined
  }
  function put(hash: string, invite: Invite): void {
    records.put(INVITES, [host, hash], { ...invite })
  }
  function nameOf(invite: Invite): Key | undefined {
    return invite.username === '' ? undefined : [`${invite.username}@${host}`]
  }
  function forget(hash: string, invite: Invite): void {
    records.delete(INVITES, [host, hash])
    if (invite.inviter !== '') records.delete(BY, [invite.inviter, hash])
    const name = nameOf(invite)
    if (name !== undefined && invite.used === '') records.delete(NAMES, name)
  }

  function isOpen(invite: Invite): boolean {
    return invite.used === '' && invite.until > now()
  }
  async function* all(): AsyncGenerator<KnownInvite> {
    let after: Key | undefined
    for (;;) {
      const page: readonly { key: Key; value: Value }[] = await records.range(INVITES, [host], { limit: PAGE, ...(after && { after }) })
      for (const { key, value } of page) yield { hash: key[1] as string, invite: value as unknown as Invite }
      if (page.length < PAGE) return
      after = page.at(-1)?.key
    }
  }

  function use({ hash, invite }: KnownInvite, owner: string, more: Pick<Invite, 'making'> = {}): void {
    put(hash, { ...invite, used: owner, ...more })
    const name = nameOf(invite)
    if (name !== undefined) records.delete(NAMES, name)
  }

  function withoutMaking(invite: Invite): Invite {
    const { making, ...others } = invite
    return making === undefined ? invite : others
  }

  return {
    add(fresh) {
      const token = Array.from({ length: TOKEN_LENGTH }, () => ALPHABET[randomInt(ALPHABET.length)]).join('')
      const hash = hashOf(token)
      const invite = { ...fresh, used: '' }
      put(hash, invite)
      if (invite.inviter !== '') records.put(BY, [invite.inviter, hash], invite.register)
      const name = nameOf(invite)
      if (name !== undefined) records.put(NAMES, name, invite.until)
      return token
    },
    find(hash) {
      const invite = get(hash)
      return invite && { hash, invite }
    },
    isOpen,
    isUnused: (hash) => get(hash)?.used === '',
    use: (known, owner) => { use(known, owner) },
    useToMake: (known, owner) => { use(known, owner, { making: now() }) },
    made(hash, owner) {
      const invite = get(hash)
      if (invite?.used === owner) put(hash, withoutMaking(invite))
    },
    giveBack(hash, owner) {
      const invite = get(hash)
      if (invite?.used !== owner) return
      put(hash, { ...withoutMaking(invite), used: '' })
      const name = nameOf(invite)
      if (name !== undefined) records.put(NAMES, name, invite.until)
    },
    count(inviter) {
      const all = at(records.range(BY, [inviter]))
      return { all: all.length, register: all.filter(({ value }) => value === true).length }
    },
    isReserved(bareJid) {
      const until = at(records.get(NAMES, [bareJid]))
      return typeof until === 'number' && until > now()
    },
    async open() {
      const found: Invite[] = []
      for await (const { invite } of all()) if (isOpen(invite)) found.push(invite)
      return found
    },
    async expire() {
      for await (const { hash, invite } of all()) if (invite.until + GRACE_MS <= now()) forget(hash, invite)
    },
    async removeInviter(inviter) {
      let count = 0
      for (const { key } of await records.range(BY, [inviter])) {
        const invite = get(key[1] as string)
        if (invite === undefined) {
          records.delete(BY, key)
          continue
        }
        if (isOpen(invite)) count++
        forget(key[1] as string, invite)
      }
      return count
    },
  }
}

/** Undefined for what can be no token. */
export function hashOfToken(token: string): string | undefined {
  return token.length === TOKEN_LENGTH ? hashOf(token) : undefined
}

function hashOf(token: string): string {
  return createHash('sha256').update(token).digest('base64url')
}

/** What uses up an invitation has to read and write it in one turn. */
function at<T>(value: MaybePromise<T>): T {
  if (value instanceof Promise) throw new Error('the records of this driver are not synchronous')
  return value
}
