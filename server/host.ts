/** One virtual host: its configuration, its hooks, and the extensions that are on. Built anew when the configuration is reloaded. */
import type { Credentials, Mechanism, SaslContext } from '../lib/sasl/mechanism.ts'
import { StanzaError } from '../lib/stanza/errors.ts'
import type { Stanza } from '../lib/stanza/stanza.ts'
import type { Element } from '../lib/xml/element.ts'
import type { StreamError } from '../lib/stream/errors.ts'
import type { Bind2, FailureCounts, Files, Login, LoginWatcher, Logins, Nonzas, OfferedFile, Operations, Registrar, RegistrationPass, RegistrationRequest, Registrations, Resumption, Sasl2, Stranger, StreamFeatures, Task } from './extensions/extension.ts'
import type { Commands } from './extensions/commands-registry.ts'
import type { HostAccountData } from './accounts/account-data.ts'
import type { HostDisco } from './extensions/disco-registry.ts'
import type { HostConfig } from './config/config.ts'
import type { Directory } from './ldap/directory.ts'
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

export class HostFiles implements Files {
  #offer: ((file: OfferedFile) => Promise<string | undefined>) | undefined

  get available(): boolean { return this.#offer !== undefined }

  async offer(file: OfferedFile): Promise<string | undefined> { return this.#offer?.(file) }
  provide(offer: (file: OfferedFile) => Promise<string | undefined>): () => void {
    this.#offer = offer
    return () => { if (this.#offer === offer) this.#offer = undefined }
  }
}

export type BeforeLogin = Parameters<Nonzas['beforeLogin']>[1]

export class HostNonzas implements Nonzas {
  readonly #handlers = new Map<string, (session: Session, element: Stanza) => void>()
  readonly #before = new Map<string, BeforeLogin>()

  handle(payload: string, handler: (session: Session, element: Stanza) => void): void { this.#handlers.set(payload, handler) }
  beforeLogin(payload: string, handler: BeforeLogin): void { this.#before.set(payload, handler) }
  get(payload: string): ((session: Session, element: Stanza) => void) | undefined { return this.#handlers.get(payload) }
  before(payload: string): BeforeLogin | undefined { return this.#before.get(payload) }
}

export class HostLogins implements Logins {
  readonly failures: FailureCounts
  readonly #watchers: LoginWatcher[] = []

  constructor(failures: FailureCounts) { this.failures = failures }

  watch(watcher: LoginWatcher): void { this.#watchers.push(watcher) }

  opened(address: string): StreamError | undefined { return this.#first((watcher) => watcher.opened?.(address)) }
  /** Every watcher hears of it. */
  failed(address: string): StreamError | undefined { return this.#watchers.map((watcher) => watcher.failed?.(address)).find((error) => error !== undefined) }
  succeeded(address: string): void { for (const watcher of this.#watchers) watcher.succeeded?.(address) }

  #first(ask: (watcher: LoginWatcher) => StreamError | undefined): StreamError | undefined {
    for (const watcher of this.#watchers) {
      const error = ask(watcher)
      if (error !== undefined) return error
    }
    return undefined
  }
}

export class HostRegistrations implements Registrations {
  #registrar: Registrar | undefined
  readonly #admit: ((stream: Stranger) => RegistrationPass | undefined)[] = []
  readonly #reserve: ((bareJid: string) => boolean | Promise<boolean>)[] = []

  serve(registrar: Registrar): void { this.#registrar = registrar }
  async welcome(): Promise<{ readonly subject: string; readonly body: string } | undefined> { return this.#registrar?.welcome() }
  async setWelcome(message: { readonly subject: string; readonly body: string }): Promise<void> { await this.#registrar?.setWelcome(message) }
  open(module: string): boolean { return this.#registrar?.open(module) ?? false }
  async register(request: RegistrationRequest): Promise<string> {
    if (this.#registrar === undefined) throw new StanzaError('not-allowed', 'Accounts cannot be registered here')
    return this.#registrar.register(request)
  }
  admit(handler: (stream: Stranger) => RegistrationPass | undefined): void { this.#admit.push(handler) }
  pass(stream: Stranger): RegistrationPass | undefined {
    for (const handler of this.#admit) {
      const pass = handler(stream)
      if (pass !== undefined) return pass
    }
    return undefined
  }
  get byPass(): boolean { return this.#admit.length > 0 }
  reserve(handler: (bareJid: string) => boolean | Promise<boolean>): void { this.#reserve.push(handler) }
  async reserved(bareJid: string): Promise<boolean> {
    for (const handler of this.#reserve) if (await handler(bareJid)) return true
    return false
  }
}

export class HostOperations implements Operations {
  readonly #operations = new Map<string, (args: readonly string[]) => Promise<readonly string[]>>()

  add(name: string, run: (args: readonly string[]) => Promise<readonly string[]>): void { this.#operations.set(name, run) }
  /** Lines; undefined when no extension of the host knows it. */
  async run(name: string, args: readonly string[]): Promise<readonly string[] | undefined> { return this.#operations.get(name)?.(args) }
}

export class HostSasl2 implements Sasl2 {
  /** What was made of the features before, by what it depends on. */
  readonly features = new Map<string, string>()
  readonly #offer: ((context: SaslContext) => string | undefined)[] = []
  readonly #inline: ((context: SaslContext) => string | undefined)[] = []
  readonly #tasks: Parameters<Sasl2['tasks']>[0][] = []
  readonly #mechanisms: ((login: Login) => Mechanism | undefined)[] = []
  readonly #succeeded: Parameters<Sasl2['succeeded']>[0][] = []

  offer(feature: (context: SaslContext) => string | undefined): void { this.#offer.push(feature) }
  inline(feature: (context: SaslContext) => string | undefined): void { this.#inline.push(feature) }
  tasks(handler: Parameters<Sasl2['tasks']>[0]): void { this.#tasks.push(handler) }
  mechanism(handler: (login: Login) => Mechanism | undefined): void { this.#mechanisms.push(handler) }
  succeeded(handler: Parameters<Sasl2['succeeded']>[0]): void { this.#succeeded.push(handler) }

  offered(context: SaslContext): string { return this.#offer.map((feature) => feature(context) ?? '').join('') }
  offeredInline(context: SaslContext): string { return this.#inline.map((feature) => feature(context) ?? '').join('') }
  async tasksOf(owner: string, login: Login): Promise<readonly Task[]> {
    const tasks: Task[] = []
    for (const handler of this.#tasks) tasks.push(...await handler(owner, login))
    return tasks
  }
  start(login: Login): Mechanism | undefined {
    for (const handler of this.#mechanisms) {
      const mechanism = handler(login)
      if (mechanism !== undefined) return mechanism
    }
    return undefined
  }
  /** What stands in `<success/>`. */
  async success(owner: string, login: Login): Promise<string> {
    let text = ''
    for (const handler of this.#succeeded) text += (await handler(owner, login)) ?? ''
    return text
  }
}

type Bind2Feature = Parameters<Bind2['feature']>[2]

export class HostBind2 implements Bind2 {
  readonly #names: string[] = []
  readonly #features = new Map<string, Bind2Feature>()
  readonly #bound: Parameters<Bind2['bound']>[0][] = []

  feature(name: string, payloads: readonly string[], handler: Bind2Feature): void {
    this.#names.push(name)
    for (const payload of payloads) this.#features.set(payload, handler)
  }
  bound(handler: Parameters<Bind2['bound']>[0]): void { this.#bound.push(handler) }

  get names(): readonly string[] { return this.#names }
  /** What stands in `<bound/>` for what was asked for. */
  enable(session: Session, payload: Element): string {
    return this.#features.get(`${payload.getNS()} ${payload.getName()}`)?.(session, payload) ?? ''
  }
  /** What stands in `<bound/>` in any case. All handlers begin in this turn. */
  async answer(session: Session): Promise<string> {
    const answers = this.#bound.map((handler) => handler(session))
    let text = ''
    for (const answer of answers) text += (await answer) ?? ''
    return text
  }
}

export interface Host {
  readonly name: string
  readonly config: HostConfig
  readonly hooks: HookRunner
  readonly iq: IqDispatcher
  readonly disco: HostDisco
  readonly commands: Commands
  readonly features: HostFeatures
  readonly nonzas: HostNonzas
  readonly logins: HostLogins
  readonly registrations: HostRegistrations
  readonly operations: HostOperations
  /** Where its accounts are, when they are kept elsewhere. */
  readonly directory: Directory | undefined
  /** What its clients log in with. */
  readonly credentials: Credentials
  /** Starts the mechanisms of SASL that auth processes answer. */
  readonly elsewhere: SaslContext['elsewhere']
  /** Makes an account for one session, and gives its name; where that is allowed. */
  readonly makeAnonymous: (() => Promise<string>) | undefined
  readonly sasl2: HostSasl2
  readonly bind2: HostBind2
  readonly accountData: HostAccountData
  readonly files: HostFiles
  readonly presence: Presence
  /** XEP-0198, when it is on. */
  streamManagement: Resumption | undefined
  readonly stops: (() => void | Promise<void>)[]
}
