/** Who may do what: ejabberd's ACLs, access rules and shaper rules. */
import { type Jid } from '../../lib/jid.ts'

export interface Subject {
  readonly jid?: Jid | undefined
  /** The peer's IP address. */
  readonly address?: string | undefined
}

/** Bytes per second, and how many may come at once. */
export interface Shaper {
  readonly rate: number
  readonly burst: number
}

export interface Access {
  /** Whether a rule (its name, or a definition in place) allows the subject. A name that is not defined allows nobody. */
  allows(rule: string, subject: Subject): boolean
  /** The first matching value of a shaper rule such as `max_user_sessions`; `infinity` is the number Infinity. */
  value(rule: string, subject: Subject): string | number | undefined
  /** The shaper that a shaper rule gives the subject, or that of this name; undefined when none slows it. */
  shaper(rule: string, subject: Subject): Shaper | undefined
}
