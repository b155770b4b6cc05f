/** One virtual host: its configuration, its hooks, and the extensions that are on. Built anew when the configuration is reloaded. */
import type { Stanza } from '../lib/stanza/stanza.ts'
import type { Nonzas, Resumption, StreamFeatures } from './extensions/extension.ts'
import type { HostDisco } from './extensions/disco-registry.ts'
import type { HostConfig } from './config/config.ts'
import type { Presence } from './sessions/presence.ts'
import type { Session } from './sessions/session.ts'
import type { HookRunner } from './router/hook-runner.ts'
import type { IqDispatcher } from './router/iq.ts'

export class HostFeatures implements StreamFeatures {
  readonly #before: ((stream: { readonly secure: boolean; readonly address: string }) => string | undefined)[] = []
  readonly #after: (() => string | undefined)[] = []

  beforeLogin(feature: (stream: { readonly secure: boolean; readonly address: string }) => string | undefined): void { this.#before.push(feature) }
  afterLogin(feature: () => string | undefined): void { this.#after.push(feature) }

  before(stream: { readonly secure: boolean; readonly address: string }): string {
    return this.#before.map((feature) => feature(stream) ?? '').join('')
  }
  after(): string {
    return this.#after.map((feature) => feature() ?? '').join('')
  }
}

type BeforeLogin = Parameters<Nonzas['beforeLogin']>[1]

export class HostNonzas implements Nonzas {
  readonly #handlers = new Map<string, (session: Session, element: Stanza) => void>()
  readonly #before = new Map<string, BeforeLogin>()

  handle(payload: string, handler: (session: Session, element: Stanza) => void): void { this.#handlers.set(payload, handler) }
  beforeLogin(payload: string, handler: BeforeLogin): void { this.#before.set(payload, handler) }
  get(payload: string): ((session: Session, element: Stanza) => void) | undefined { return this.#handlers.get(payload) }
  before(payload: string): BeforeLogin | undefined { return this.#before.get(payload) }
}

export interface Host {
  readonly name: string
  readonly config: HostConfig
  readonly hooks: HookRunner
  readonly iq: IqDispatcher
  readonly disco: HostDisco
  readonly features: HostFeatures
  readonly nonzas: HostNonzas
  readonly presence: Presence
  /** XEP-0198, when it is on. */
  streamManagement: Resumption | undefined
  readonly stops: (() => void | Promise<void>)[]
}
