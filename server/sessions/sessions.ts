/** Who is here: the sessions of this process by bare JID and resource. */
import type { Session } from './session.ts'

export class SessionRegistry {
  readonly #owners = new Map<string, Session[]>()
  #count = 0
  #onPresent: ((bareJid: string) => () => void) | undefined
  /** By account with sessions: what to call when there are none any more. */
  readonly #onLeft = new Map<string, () => void>()

  /** `present` is called when an account has its first session; what it answers, when the last one is over. */
  onPresent(present: (bareJid: string) => () => void): void { this.#onPresent = present }

  get size(): number { return this.#count }

  get(fullJid: string): Session | undefined {
    const slash = fullJid.indexOf('/')
    if (slash === -1) return undefined
    const sessions = this.#owners.get(fullJid.slice(0, slash))
    if (sessions === undefined) return undefined
    const resource = fullJid.slice(slash + 1)
    for (const session of sessions) if (session.jid.resource === resource) return session
    return undefined
  }

  of(bareJid: string): readonly Session[] {
    return this.#owners.get(bareJid) ?? NONE
  }

  available(bareJid: string): readonly Session[] {
    const sessions = this.#owners.get(bareJid)
    if (sessions === undefined) return NONE
    if (sessions.length === 1) {
      const only = sessions[0] as Session
      return only.presence !== undefined && only.priority >= 0 ? sessions : NONE
    }
    return sessions.filter((session) => session.presence !== undefined && session.priority >= 0).sort((a, b) => b.priority - a.priority)
  }

  *all(): Iterable<Session> {
    for (const sessions of this.#owners.values()) yield* sessions
  }

  add(session: Session): void {
    const sessions = this.#owners.get(session.owner)
    // A new array each time: `of` and `available` hand these out.
    this.#owners.set(session.owner, sessions === undefined ? [session] : [...sessions, session])
    this.#count++
    if (sessions === undefined && this.#onPresent !== undefined) this.#onLeft.set(session.owner, this.#onPresent(session.owner))
  }

  remove(session: Session): void {
    const sessions = this.#owners.get(session.owner)
    if (sessions === undefined || !sessions.includes(session)) return
    this.#count--
    const left = sessions.filter((each) => each !== session)
    if (left.length === 0) {
      this.#owners.delete(session.owner)
      this.#onLeft.get(session.owner)?.()
      this.#onLeft.delete(session.owner)
    } else this.#owners.set(session.owner, left)
  }
}

const NONE: readonly Session[] = []
