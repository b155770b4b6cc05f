/** How an extension declares itself, and the parts it can ask for. */
import type { Mechanism, SaslContext } from '../../lib/sasl/mechanism.ts'
import type { Element } from '../../lib/xml/element.ts'
import type { Jid } from '../../lib/jid.ts'
import type { Stanza } from '../../lib/stanza/stanza.ts'
import type { StreamError } from '../../lib/stream/errors.ts'
import type { AccountData } from '../accounts/account-data.ts'
import type { Accounts } from '../accounts/accounts.ts'
import type { Tokens } from '../accounts/tokens.ts'
import type { Captchas } from '../captcha/captchas.ts'
import type { ClientStreams } from '../c2s/c2s.ts'
import type { Access } from '../config/access.ts'
import type { HostConfig } from '../config/config.ts'
import type { Limits } from '../config/limits.ts'
import type { OptionTable } from '../config/options.ts'
import type { HttpRoutes } from '../http/routes.ts'
import type { Log } from '../log.ts'
import type { Metrics } from '../metrics.ts'
import type { Hooks, HookCalls } from '../router/hooks.ts'
import type { ServiceUnit } from '../router/router.ts'
import type { Capabilities, Interests } from '../sessions/capabilities.ts'
import type { EverySession } from '../sessions/everywhere.ts'
import type { SendOptions, Session } from '../sessions/session.ts'
import type { Rosters } from '../sessions/rosters.ts'
import type { MaybePromise, Storage, Value } from '../storage/shapes.ts'
import type { Commands } from './commands-registry.ts'

export interface Spec {
  readonly xep?: number
  readonly rfc?: number
  readonly version?: string
  readonly status: 'complete' | 'partial'
  readonly note?: string
}

/**
 * Where an IQ is addressed: the host itself, an account (a bare JID; also no `to` at all, RFC 6120 §10.3.3), or the bare JID of an
 * account that does not exist, for the few requests that are not answered with `service-unavailable` there.
 */
export type IqTarget = 'host' | 'account' | 'nobody'
/** What is described by service discovery. */
export type DiscoTarget = 'host' | 'account'

export interface IqRequest {
  readonly stanza: Stanza
  /** The payload: the one child of the IQ. */
  readonly payload: Element
  /** Full JID of the sender, always set. */
  readonly from: Jid
  /** The host or bare JID addressed; the sender's own bare JID when the IQ had no `to`. */
  readonly to: Jid
  /** The sender's session on this server, unless the IQ came from elsewhere. */
  readonly session: Session | undefined
}

/** What the IQ's result holds: nothing, or one element. Throw a StanzaError to answer with an error. */
export type IqHandler = (request: IqRequest) => Element | undefined | void | Promise<Element | undefined | void>

/**
 * IQ handlers by type, target and payload. `payload` is the namespace, a space and the element's name:
 * `urn:xmpp:ping ping`. For `account` the handler decides who may ask (`request.from.bare === request.to.bare`); when nobody
 * handles an account's IQ from a stranger, `service-unavailable` is answered.
 */
export interface IqRegistry {
  get(payload: string, target: IqTarget | readonly IqTarget[], handler: IqHandler): void
  set(payload: string, target: IqTarget | readonly IqTarget[], handler: IqHandler): void
  /** Asked before the handlers, of requests to the host and to accounts: true when it answers by itself, perhaps much later. Nothing waits for that. */
  divert(handler: (stanza: Stanza, from: Jid) => boolean): void
  /** Sends an IQ from the host (or from `from`) and resolves with the answer's stanza (result or error), or undefined after `timeoutMs`. */
  request(stanza: Stanza, timeoutMs: number): Promise<Stanza | undefined>
}

export interface DiscoIdentity { readonly category: string; readonly type: string; readonly name?: string; readonly lang?: string }
export interface DiscoItem { readonly jid: string; readonly node?: string; readonly name?: string }

/** XEP-0030 as data. Answered by the disco extension; the caps hash in stream features is made of the host's part. */
export interface DiscoRegistry {
  feature(target: DiscoTarget, ...vars: string[]): void
  identity(target: DiscoTarget, identity: DiscoIdentity): void
  /** An extension form (XEP-0128), made anew for each answer; the host's must not depend on who asks. */
  form(target: DiscoTarget, form: () => Element | undefined): void
  item(target: DiscoTarget, item: DiscoItem): void
  /** Items that depend on the account or on who asks. */
  items(target: DiscoTarget, items: (request: IqRequest) => readonly DiscoItem[] | Promise<readonly DiscoItem[]>): void
  /** A whole node of its own, for info and items. */
  node(target: DiscoTarget, node: string, answer: { info?: (request: IqRequest) => Element | Promise<Element>; items?: (request: IqRequest) => Element | Promise<Element> }): void
}

/** Stream features beside those of the core (STARTTLS, SASL, bind, session, SM). */
export interface StreamFeatures {
  /** Before authentication; `secure` says whether the stream is encrypted. Return the element serialised. */
  beforeLogin(feature: (stream: { readonly secure: boolean; readonly address: string }) => string | undefined): void
  afterLogin(feature: () => string | undefined): void
}

/** Nonzas of bound sessions, such as `urn:xmpp:csi:0 active`. */
export interface Nonzas {
  handle(payload: string, handler: (session: Session, element: Stanza) => void): void
  /** IQs of clients that have not logged in (XEP-0077). The answer goes to the same stream. */
  beforeLogin(payload: string, handler: (stream: Stranger, iq: Stanza) => Promise<Stanza>): void
}

/** A stream that has not logged in: the same object for all its IQs, so that a WeakMap can keep what is known of it. */
export interface Stranger {
  /** The peer's IP address. */
  readonly address: string
  readonly secure: boolean
  readonly host: string
  close(): void
}

/** What lets somebody register an account whom no rule admits (XEP-0445). */
export interface RegistrationPass {
  /** The only name it is for. */
  readonly username: string | undefined
  /**
   * Uses the pass for an account (a bare JID) that `make` makes. What is given to `make` is called in the turn in which the account is written, and may
   * throw. Rejects with a StanzaError when the pass is good no more: then there is no account.
   */
  use(owner: string, make: (alongside?: () => void) => Promise<void>): Promise<void>
}

export interface RegistrationRequest {
  readonly username: string
  readonly password: string
  readonly address: string
  readonly pass?: RegistrationPass | undefined
}

/** What makes accounts for those who ask for one, and greets them. */
export interface Registrar {
  open(module: string): boolean
  register(request: RegistrationRequest): Promise<string>
  welcome(): Promise<{ readonly subject: string; readonly body: string }>
  setWelcome(message: { readonly subject: string; readonly body: string }): Promise<void>
}

/** Accounts that people make themselves. */
export interface Registrations {
  /** Where accounts are made; `module` is ejabberd's name of the way (`mod_invites`) that the operator may close. */
  serve(registrar: Registrar): void
  /** The message for every new account; undefined where none are made. */
  welcome(): Promise<{ readonly subject: string; readonly body: string } | undefined>
  /** Resolves when it is on stable storage. An empty one: none. */
  setWelcome(message: { readonly subject: string; readonly body: string }): Promise<void>
  /** Whether accounts can be made by this way. */
  open(module: string): boolean
  /** Makes one and answers its bare JID. Throws a StanzaError when it cannot be. */
  register(request: RegistrationRequest): Promise<string>
  /** Streams that have a pass; the first answer counts. */
  admit(handler: (stream: Stranger) => RegistrationPass | undefined): void
  pass(stream: Stranger): RegistrationPass | undefined
  /** Whether a stream can have one at all. */
  readonly byPass: boolean
  /** Names (bare JIDs) that are kept for somebody with a pass. */
  reserve(handler: (bareJid: string) => boolean | Promise<boolean>): void
  reserved(bareJid: string): Promise<boolean>
}

/** Commands of the operator that an extension carries out for its host. */
export interface Operations {
  /** `run` answers lines; an Error that it throws is shown to the operator. */
  add(name: string, run: (args: readonly string[]) => Promise<readonly string[]>): void
}

/** What becomes of an address's failed logins; server-wide, and kept when the configuration is read again. */
export interface FailedLogins { readonly count: number; readonly until: number }

/** Failed logins in a row by network, at all nodes; the longest unused are forgotten. Times are ms. */
export interface FailureCounts {
  get(network: string): FailedLogins | undefined
  /** One more has failed; what is known of the network is kept until then. Answers what is known now. */
  add(network: string, until: number): FailedLogins
  /** Whether there was anything to forget. */
  forget(network: string): boolean
}

/** Logins of the host's clients (RFC 6120 §6), for extensions that watch over them. */
export interface Logins {
  watch(watcher: LoginWatcher): void
  readonly failures: FailureCounts
}

/** Addresses are empty where a client has none (a Unix socket). */
export interface LoginWatcher {
  /** A client opens a stream to log in; an answer ends it. */
  opened?(address: string): StreamError | undefined
  /** A user name and password, or what should have been these, were refused; an answer ends the stream. */
  failed?(address: string): StreamError | undefined
  succeeded?(address: string): void
}

/** A client's request to log in by SASL2 (XEP-0388). */
export interface Login {
  readonly mechanism: string
  /** `<authenticate/>` as it came, with all that the client asks for in it. */
  readonly request: Stanza
  /** The connection's side of the exchange; its `attempt` is to be called before credentials are looked at. */
  readonly context: SaslContext
  /** An id for the client's installation, made of what its `<user-agent/>` says. The account's own devices alone may see it. */
  readonly client: ClientAgent | undefined
}

/** A client as it describes itself (XEP-0388 §2.3); `id` tells installations apart and gives nothing of theirs away. */
export interface ClientAgent {
  readonly id: string
  readonly software: string | undefined
  readonly device: string | undefined
}

/** One task (XEP-0388 §2.6.3). Throw a SaslFailure to end the login. */
export interface Task {
  readonly name: string
  /** The client has begun it: what is sent to it in `<task-data/>`, serialised. */
  begin(next: Stanza): string
  /** The client's `<task-data/>`: the task is done when this resolves. */
  finish(data: Stanza): Promise<void>
}

/** What a client can ask for together with its login (XEP-0388). */
export interface Sasl2 {
  /** In the feature, beside the mechanisms; the element serialised, or undefined. */
  offer(feature: (context: SaslContext) => string | undefined): void
  /** In the `<inline/>` of the feature; the element serialised, or undefined where it is not to be had. It may depend on the connection's channel binding alone. */
  inline(feature: (context: SaslContext) => string | undefined): void
  /** Mechanisms beside those of the core: the one of this login, or undefined when it is not the handler's. */
  mechanism(handler: (login: Login) => Mechanism | undefined): void
  /** What the account (a bare JID) has to do after the mechanism and before it is logged in, in this order (XEP-0388 §2.6.3). */
  tasks(handler: (owner: string, login: Login) => readonly Task[] | Promise<readonly Task[]>): void
  /** The account (a bare JID) has logged in: what is answered stands in `<success/>`. What the handler writes is on stable storage before that is sent. */
  succeeded(handler: (owner: string, login: Login) => string | undefined | Promise<string | undefined>): void
}

/** What a client can ask for together with a resource (XEP-0386). */
export interface Bind2 {
  /**
   * A feature of the session: its name as offered, the elements that ask for it (`urn:xmpp:carbons:2 enable`), and what is done then.
   * What the handler answers, an element serialised, stands in `<bound/>`.
   */
  feature(name: string, payloads: readonly string[], handler: (session: Session, payload: Element) => string | undefined): void
  /** A session has been bound by this way; nothing is sent to it before it is answered. What the handler answers stands in `<bound/>`. */
  bound(handler: (session: Session) => string | undefined | Promise<string | undefined>): void
}

export interface Router {
  /**
   * Routes a stanza whose `from` and `to` are set, as if its sender (a local host, account or service) had just sent it.
   * `durable`: it tells of what was written in this turn, and is shown after its commit. `session`: that of its sender, which is
   * promised what it is promised of all it sends, and hears of errors.
   */
  route(stanza: Stanza, options?: { readonly durable?: boolean; readonly session?: Session }): void
  /** Takes over a local domain, such as `upload.example.org`, that is not a host: stanzas to it come here. `unit`: what of it has a home where there are several nodes. */
  service(domain: string, handler: (stanza: Stanza, session: Session | undefined) => void | Promise<void>, unit?: ServiceUnit): void
  /**
   * A service domain with its own IQ handlers and disco answers. `name` is its disco item's name. Each stanza goes to `first`, which
   * says whether it has taken it, and may throw a StanzaError to answer a message or an IQ (a promise when it takes time: it has taken it); the rest is an
   * IQ for the domain, or for nobody.
   * `unit`: what of it has a home where there are several nodes; nothing when left out.
   */
  iqService(domain: string, name?: string, first?: (stanza: Stanza, session: Session | undefined) => boolean | Promise<void>, unit?: ServiceUnit): { readonly iq: IqRegistry; readonly disco: DiscoRegistry }
  /**
   * Sends one stanza of a local service to many; only `to` differs. Who has blocked `from` does not get it (XEP-0191). The service
   * answers for what the stanza says: nothing is removed from it.
   */
  multicast(stanza: Stanza, from: Jid, recipients: Iterable<Recipient>, options?: SendOptions): void
  /** Sends one private message of a local service to the clients of one account that share a nickname there: it is checked and stored as if it were for one of them. */
  toClients(stanza: Stanza, clients: readonly Jid[]): void
  /** Runs the hook `missed` for a local account; `clients` are those of its that are in the room, asked for only when it lives at another node. */
  missed(owner: string, stanza: Stanza, sentTo: (session: Session) => boolean, clients?: () => readonly string[]): void
  /** Runs the hook `told` at the home of a unit. */
  tell(unit: string, ...words: readonly string[]): void
  /** The same when some node has the unit; it may be lost. */
  hint(unit: string, ...words: readonly string[]): void
  /** Runs the hook `moderated`; nothing happens unless the author (a bare JID) is of this server. */
  moderated(author: string, message: Stanza): void
}

/** Questions to the homes of units (cluster/calls.ts), under names of this host; where there is one node it answers them itself, in the turn in which they are asked. */
export interface HomeCalls {
  /** Whether there is one node, so that everything is here. */
  readonly alone: boolean
  /** This node, by its incarnation; empty where there is one. */
  readonly self: string
  /** The nodes that are there and not about to leave, this one among them, by their incarnations. */
  readonly staying: readonly string[]
  /** Answers questions about units of which this node is the home, or, when nodes are asked, about this node; then the unit is empty. */
  serve(name: string, answer: (unit: string, args: Value) => MaybePromise<Value | undefined>): void
  /** Asks the home of a unit. Rejects with the StanzaError that was thrown there, `remote-server-timeout` when no answer comes, or `resource-constraint`. */
  ask(unit: string, name: string, args?: Value): Promise<Value>
  /** Asks all nodes, this one among them; one that does not answer is left out. */
  askNodes(name: string, args?: Value): Promise<readonly Value[]>
}

/** External components (XEP-0114), of all nodes. */
export interface ConnectedComponents {
  /** Domains that have a component of their own connected. */
  domains(): readonly string[]
  isConnected(domain: string): boolean
}

/** One of many that a stanza goes to. The router remembers its session here, and how its address is written. */
export interface Recipient {
  readonly jid: Jid
  session: Session | undefined
  escaped: Buffer | undefined
}

/** A file of the server's own making. */
export interface OfferedFile {
  /** Whose it is (a bare JID). */
  readonly owner: string
  readonly name: string
  /** Its media type. */
  readonly type: string
  readonly size: number
  readonly body: AsyncIterable<Uint8Array>
  readonly lifeMs: number
}

/** Files that the server makes for its users. */
export interface Files {
  /** Whether anybody serves files. */
  readonly available: boolean
  /** Keeps a file; where it can be fetched, at an address that cannot be guessed, or undefined when nobody serves files. */
  offer(file: OfferedFile): Promise<string | undefined>
  /** Serves files from now on; call the result to stop. */
  provide(offer: (file: OfferedFile) => Promise<string | undefined>): () => void
}

export interface Sessions {
  get(fullJid: string): Session | undefined
  /** Bound sessions of an account, available or not, also those waiting for resumption. */
  of(bareJid: string): readonly Session[]
  /** Of these the available ones (RFC 6121 §4.2) whose priority is not negative, highest first. */
  available(bareJid: string): readonly Session[]
  all(): Iterable<Session>
}

/** Nodes of a host's accounts (XEP-0163), as their owners see them: for extensions that keep something there. Writes belong to the present turn. */
export interface PersonalNodes {
  /** Payloads by item id, oldest first. */
  items(owner: string, node: string): ReadonlyMap<string, Element>
  /** Whether the payloads of a node have at most so many characters together; looks no further once there are more. */
  fits(owner: string, node: string, length: number): boolean
  /** The payload that was published last. */
  newest(owner: string, node: string): Element | undefined
  item(owner: string, node: string, id: string): Element | undefined
  has(owner: string, node: string): boolean
  /** One field of a node's configuration, such as `access_model`. */
  setting(owner: string, node: string, field: string): unknown
  /** Whether somebody may read the items of a node that is there. */
  mayRead(owner: string, node: string, asker: Jid): boolean
  /** Publishes and notifies. A node that is missing is created with `config`; one that is there is made so where it differs. */
  publish(owner: string, node: string, id: string, payload: Element, config?: Readonly<Record<string, unknown>>): void
  /** Removes an item and notifies. */
  retract(owner: string, node: string, id: string): void
  /** Called after each change of a node's items; `byServer`: an extension made it. */
  watch(node: string, watcher: (change: { readonly owner: string; readonly byServer: boolean }) => void): void
  /**
   * Asked before an account itself publishes an item (its id may be missing). What the promise answers is called in the turn in which the item
   * is published, and says what is published. Without a promise it is published at once.
   */
  prepare(node: string, prepare: (owner: string, item: PersonalItem) => Promise<() => PersonalItem> | undefined): void
  /** Sends the last items of the account's nodes in which a client, which has become available, is interested. */
  greet(owner: string, client: Jid, interests: Interests, session?: Session): void
}

export interface PersonalItem { readonly id: string | undefined; readonly payload: Element }

/** The personal nodes of this server's hosts. */
export interface PersonalEvents {
  of(host: string): PersonalNodes | undefined
  provide(host: string, nodes: PersonalNodes): () => void
}

/** The running server as a whole, with all its hosts. */
export interface Lifecycle {
  hosts(): readonly string[]
  /** Tells everybody who is online, unless the text is empty, and ends the server after a while; a later call replaces an earlier one. */
  end(how: 'stop' | 'restart', delayMs: number, announcement: string): void
}

/** How a host manages streams (XEP-0198). */
export interface Resumption {
  /** How long a session waits for its client to come back, ms, and the longest that the client may ask for; 0: not at all. */
  readonly resumeMs: number
  readonly maxResumeMs: number
  /** How long a client may take to acknowledge, ms. */
  readonly ackTimeoutMs: number
  /** Unacknowledged stanzas of one session. */
  readonly queueMax: number
  /**
   * How many stanzas had been handled of a stream of this account (a bare JID) when it ended, if that is still known (§5).
   * Resolves when what it covers is on stable storage.
   */
  readonly lastHandled: (owner: string, id: string) => Promise<number | undefined>
}

/** Everything an extension can ask for; it declares which, and sees no other. All of it belongs to one host. */
export interface Parts {
  /** The host this instance serves (a prepared domain). */
  host: string
  iq: IqRegistry
  disco: DiscoRegistry
  /** Ad-hoc commands of the host (XEP-0050). */
  commands: Commands
  features: StreamFeatures
  nonzas: Nonzas
  logins: Logins
  registrations: Registrations
  /** Pictures that only people can read (XEP-0158). */
  captchas: Captchas
  operations: Operations
  /** Undefined where nothing outside ends the server, such as in a test. */
  lifecycle: Lifecycle | undefined
  sasl2: Sasl2
  bind2: Bind2
  /** Tokens to log in by (XEP-0484). */
  tokens: Tokens
  hooks: Hooks
  router: Router
  sessions: Sessions
  /** Those of all nodes. */
  everySession: EverySession
  rosters: Rosters
  /** Whether this node is the home of a unit: an account or room (a bare JID), a domain. Always true where there is one node. */
  here(unit: string): boolean
  /** This node stays the home of a unit, which it is, until the function that this answers is called. */
  pin(unit: string): () => void
  calls: HomeCalls
  /** What clients, here and elsewhere, want to be notified of (XEP-0115). */
  capabilities: Capabilities
  pep: PersonalEvents
  /** Tells the other extensions what was read or written. */
  tell: HookCalls
  components: ConnectedComponents
  /** Broadcasts the presence of a session of this host again. */
  announce(session: Session): void
  accounts: Accounts
  /** What accounts take along when they move (XEP-0227). */
  accountData: AccountData
  files: Files
  access: Access
  storage: Storage
  http: HttpRoutes
  /** Where transports other than TCP bring their clients. */
  streams: ClientStreams
  log: Log
  metrics: Metrics
  /** Turns stream management on for the host (XEP-0198). */
  resumption(options: Resumption): void
  /** The limits of the configuration. */
  limits: Limits
  /** Top-level options as they are for this host. */
  config: HostConfig
  /** Calls `run` every `everyMs` until the host is reloaded or the server stops; errors are logged. */
  every(everyMs: number, run: () => void | Promise<void>): void
  /**
   * Calls `run` for each account of the host every `everyMs`, one after the other; where there are several nodes, at the account's home, and one node
   * sees to it for all. `name`: of the job, another for each of the host.
   */
  everyAccount(everyMs: number, name: string, run: (bare: string) => void | Promise<void>): void
  /** Milliseconds since 1970; tests move it. */
  now(): number
  /**
   * What outlives a reload of the configuration, though not the process: made by the first who asks for the name, and the same for all hosts.
   */
  readonly lasting: <Value>(name: string, make: () => Value) => Value
  /** Tells that a user has blocked an address: runs the hook `blocked`. */
  blocked(owner: string, jid: string, item: Element): void
  /** Tells that a stanza was put where an account that is away finds it later: runs the hook `waiting`. */
  waiting(owner: string, stanza: Stanza, id: string | undefined): void
  /** Whether another extension of this host is on, by its name. */
  enabled(extension: string): boolean
}

export interface Extension<Needs extends keyof Parts = keyof Parts, Options = unknown> {
  readonly name: string
  /** ejabberd's module of the same job: its key under `modules` turns the extension on. Without one it is always on. */
  readonly ejabberd?: string
  readonly specs: readonly Spec[]
  /** Features of the host in disco#info. More, and those of accounts, by the part `disco`. */
  readonly features?: readonly string[]
  readonly needs: readonly Needs[]
  /** Options of the module by ejabberd's names: type, default and a line of help. */
  readonly options?: OptionTable<Options>
  /** Starts it for one host. What it returns is called when the host is reloaded or the server stops. */
  start(parts: Pick<Parts, Needs>, options: Options): void | (() => void | Promise<void>)
}

export function defineExtension<const Needs extends keyof Parts, Options = Record<string, never>>(extension: Extension<Needs, Options>): Extension<Needs, Options> {
  return extension
}
