/** Builds the whole server from a configuration, top to bottom. */
import { createHmac, randomBytes, randomUUID } from 'node:crypto'
import { Jid } from '../lib/jid.ts'
import { networkOf } from '../lib/net/addresses.ts'
import { createSecureContexts, type SecureContexts } from '../lib/net/certificates.ts'
import { createJwtCheck } from '../lib/sasl/jwt.ts'
import { SaslFailure } from '../lib/sasl/mechanism.ts'
import { StanzaError } from '../lib/stanza/errors.ts'
import { nextMessageId } from '../lib/stanza/ids.ts'
import { makeStanza, stanzaOf, type Stanza } from '../lib/stanza/stanza.ts'
import { StreamError } from '../lib/stream/errors.ts'
import { xml } from '../lib/xml/element.ts'
import { HostAccountData } from './accounts/account-data.ts'
import { AccountError, createAccounts, type Accounts, type ScramHash, type ScramKeySet } from './accounts/accounts.ts'
import { createCredentials } from './accounts/credentials.ts'
import { createLoginLimits } from './accounts/login-limits.ts'
import { createTokens } from './accounts/tokens.ts'
import type { Known } from './auth/remote.ts'
import { C2s, type ClientListener } from './c2s/c2s.ts'
import type { Front } from './c2s/passing.ts'
import { serveWebSocket } from './c2s/websocket.ts'
import { accountDataAnywhere, type AnyAccountData } from './cluster/account-data.ts'
import { Calls, callsOf } from './cluster/calls.ts'
import { storageErrorsTo } from './cluster/errors.ts'
import { LoginFailures } from './cluster/login-failures.ts'
import { takesUnits } from './cluster/rendezvous.ts'
import type { Units } from './cluster/shapes.ts'
import { Components, type ComponentListener } from './components/components.ts'
import { createCaptchas } from './captcha/captchas.ts'
import type { Config, ListenConfig } from './config/config.ts'
import { parseOptions, type OptionTable } from './config/options.ts'
import { createCommands } from './extensions/commands-registry.ts'
import { createDiscoRegistry, type HostDisco } from './extensions/disco-registry.ts'
import type { Extension, IqRegistry, Parts, DiscoRegistry, PersonalEvents, PersonalNodes } from './extensions/extension.ts'
import { serveDisco } from './extensions/disco-registry.ts'
import { setUploadDefaults } from './extensions/http-upload.ts'
import { extensions } from './extensions/index.ts'
import type { InternalListener } from './front/internal-listener.ts'
import { HostBind2, HostFeatures, HostFiles, HostLogins, HostNonzas, HostOperations, HostRegistrations, HostSasl2, type Host } from './host.ts'
import { Directory } from './ldap/directory.ts'
import { withDirectories } from './ldap/accounts.ts'
import { LdapUnavailable } from './ldap/pool.ts'
import { LdapUsers } from './ldap/users.ts'
import { createHttp, httpLimits, listenHealth, type HttpListener } from './http/http.ts'
import { createLog, type Log } from './log.ts'
import { createMetrics, type Metrics, type OwnMetrics } from './metrics.ts'
import { HookRunner } from './router/hook-runner.ts'
import { IqDispatcher, PendingIqs } from './router/iq.ts'
import { Router, type Service, type ServiceUnit } from './router/router.ts'
import { createCapabilities } from './sessions/capabilities.ts'
import { Gate } from './sessions/gate.ts'
import { createPresence } from './sessions/presence.ts'
import { everySession, type EverySession } from './sessions/everywhere.ts'
import { createRosters } from './sessions/rosters.ts'
import { checkCertificate, createTrust, type Trust } from './s2s/certificate.ts'
import { connectTo } from './s2s/connect.ts'
import { createDns } from './s2s/resolve.ts'
import { S2s, type ServerListener } from './s2s/s2s.ts'
import type { Session } from './sessions/session.ts'
import { SessionRegistry } from './sessions/sessions.ts'
import { openEmbedded } from './storage/embedded/embedded.ts'
import type { Key, Storage, Value } from './storage/shapes.ts'

export interface ServerOptions {
  readonly config: Config
  /** Where the embedded store, certificates and the control socket live. */
  readonly dataDir: string
  readonly log?: Log
  /** In place of the embedded store; not closed by the server. */
  readonly storage?: Storage
  /**
   * This server's place among several: which accounts and rooms live here, in this `storage`, a secret that all of them know, and where clients come
   * from the others.
   */
  readonly cluster?: { readonly units: Units; readonly secret: Uint8Array; readonly secretOf?: ((table: string, key: Key) => Value) | undefined; readonly listener?: InternalListener | undefined }
  /** Takes the streams of all clients, when this server serves none itself. */
  readonly front?: (metrics: Metrics) => Front
  /** What this server does of all that the servers of a cluster do; everything unless set. */
  readonly roles?: readonly string[]
  readonly now?: () => number
  /** Addresses of name servers that are asked where other servers are; the system's unless given. */
  readonly nameServers?: readonly string[]
  /** How the process ends, or begins anew; without it, nobody who is connected can have it do so. */
  readonly ending?: {
    stop(): void
    restart(): void
    /** Others have taken its place: it begins anew, or ends. */
    lost(): void
  }
}

export interface ServerPort {
  readonly module: string
  readonly configured: number
  /** 0 for a Unix socket. */
  readonly port: number
  readonly ip: string
  readonly unixPath: string | undefined
  readonly tls: boolean
}

export interface Server extends AsyncDisposable {
  readonly accounts: Accounts
  readonly sessions: SessionRegistry
  /** Those of all nodes. */
  readonly everySession: EverySession
  /** What accounts have, wherever they are at home. */
  readonly accountData: AnyAccountData
  /** Streams with other servers. */
  readonly federation: S2s
  readonly storage: Storage
  readonly hosts: ReadonlyMap<string, Host>
  readonly certificates: SecureContexts | undefined
  readonly metrics: Metrics & OwnMetrics
  readonly log: Log
  readonly dataDir: string
  /** What is listened on. */
  readonly ports: readonly ServerPort[]
  /** Adds an account and tells the extensions. `alongside`: see Accounts. */
  register(bareJid: string, password: string | ScramKeySet, alongside?: () => void): Promise<void>
  /** Removes an account with all that belongs to it, and ends its sessions. */
  unregister(bareJid: string): Promise<void>
  /**
   * Hosts, access rules, certificates, modules and listeners as in this configuration. Resolves with the options that take effect
   * at the next start; rejects when a listener cannot be opened.
   */
  reload(config: Config): Promise<readonly string[]>
  /** Tells everybody who is online, unless the text is empty, and ends the server after a while; a later call replaces an earlier one. */
  end(how: 'stop' | 'restart', delayMs: number, announcement: string): void
  /** Takes no new connections; those that there are stay. */
  stopListening(): void
  /** Forgets failed logins from an address, and its ban, at all nodes; whether there were any. */
  unban(address: string): Promise<boolean>
  status(): { readonly healthy: boolean; readonly storage: ReturnType<Storage['status']>; readonly sessions: number; readonly uptimeMs: number }
  close(): Promise<void>
}

const NOTHING_PINNED = (): void => undefined

/** Records: accounts whose removal has begun; key [bare JID], value when, ms. */
const REMOVALS = 'removals'
/** Questions to the home of an account (cluster/calls.ts). */
const REGISTER = 'register'
const UNREGISTER = 'unregister'
const UNBAN = 'unban'
/** Of a job over all accounts. */
const ACCOUNTS_AT_ONCE = 8
const ACCOUNTS_AT_A_TIME = 64
/** A removal may have much to erase, ms. */
const REMOVAL_MS = 60_000
const REMOVAL_RETRY_MS = 10_000

/** Starts everything; rejects with an error for people when it cannot (data in use or damaged, a port taken). */
export async function createServer(options: ServerOptions): Promise<Server> {
  const now = options.now ?? Date.now
  const startedAt = now()
  let config = options.config
  const log = options.log ?? createLog(config.loglevel)
  const { limits } = config
  const metrics = createMetrics()
  const opened = await openStorage(options, log)
  const { cluster } = opened
  const calls = new Calls({ homes: () => router.homes, nodes: () => cluster?.units.nodes ?? [], log })
  const place = cluster === undefined ? undefined : new (await import('./cluster/place.ts')).Place({ ...cluster, storage: opened.storage, calls, log })
  const storage = place?.storage ?? opened.storage
  const front = place === undefined || cluster?.listener === undefined ? undefined : (await import('./front/node-front.ts')).createNodeFront({ place, secret: cluster.secret, listener: cluster.listener, closeTimeoutMs: limits.closeTimeoutMs, log, metrics })
  setUploadDefaults(storage, config.tidings.upload)
  const { auth } = config.tidings
  const remote = auth === undefined || auth.servers.length === 0 ? undefined : new (await import('./auth/remote.ts')).RemoteLogins({ ...auth, limits, log, metrics, known, missing })
  /** The same, when passwords and tokens of the server's own accounts are kept there too. */
  const keptThere = auth?.accounts === true ? remote : undefined
  const tokens = keptThere?.tokens ?? createTokens(storage.records, { now, clientsMax: limits.clientsPerAccount })
  const passwordGone = (bareJid: string): void => {
    // Who keeps the tokens and the password revokes them itself.
    if (keptThere === undefined) void tokens.revoke(bareJid)
    hosts.get(bareJid.slice(bareJid.indexOf('@') + 1))?.hooks.runPasswordChanged(bareJid)
  }
  const accountDisabled = (bareJid: string, reason: string): void => {
    const text = reason === '' ? 'the account is disabled' : `the account is disabled: ${reason}`
    for (const session of sessions.of(bareJid).slice()) session.close(new StreamError('policy-violation', text))
    c2s.closeStreamsOf(bareJid, new StreamError('policy-violation', text))
    log.info({ what: 'account_disabled', jid: bareJid })
  }
  const accountsHere = createAccounts(storage.records, { cachedMax: limits.accountCache, committed: () => storage.committed(), passwordGone, accountDisabled, hashesOf: (host) => config.host(host).passwordHashes })
  const ownAccounts = keptThere?.accountsBeside(accountsHere, { passwordGone, isOnlyHere: (bare) => anonymous.has(bare) }) ?? accountsHere
  const accounts = withDirectories(ownAccounts, (name) => {
    const host = hosts.get(name)
    return host?.directory && { directory: host.directory, ownAccounts: host.config.authMethods.includes('internal') }
  })
  const atHome = (all: Accounts, name: string): Accounts => place === undefined ? all : place.accounts(all, name)
  /** For those who may ask for any account. */
  const allAccounts = atHome(accounts, 'accounts')
  /** The same without what is kept in directories. */
  const allOwn = atHome(ownAccounts, 'own-accounts')
  let certificates: SecureContexts | undefined
  const http = createHttp({ contexts: () => certificates, log, metrics, trustedProxies: config.trustedProxies, limits: httpLimits(limits) })
  const sessions = new SessionRegistry()
  const rosters = createRosters(storage.records, limits)
  const captchas = createCaptchas({ command: () => config.captcha.command, limit: () => config.captcha.limit, now, log })
  const sessionsOfAll = everySession(sessions, calls)
  const hosts = new Map<string, Host>()
  const accountData = accountDataAnywhere({ calls, claim, of: (bare) => hosts.get(bare.slice(bare.lastIndexOf('@') + 1))?.accountData })
  const services = new Map<string, Service>()
  const serviceUnits = new Map<string, ServiceUnit>()
  const gate = new Gate(storage)
  const lasting = new Map<string, unknown>()
  const logins = createLoginLimits(limits, now, (network) => { failedLogins.spend(network) })
  const failedLogins = new LoginFailures({ calls, now, max: limits.loginsRemembered, self: cluster?.units.inc ?? '', spent: (network, count) => { logins.spend(network, count) } })

  const router: Router = new Router({
    hosts, services, serviceUnits, sessions, log,
    accountExists: (bareJid) => {
      const exists = accounts.exists(bareJid)
      if (exists instanceof Promise) throw new Error('the account store of this driver is not synchronous')
      return exists
    },
    healthy: () => storage.healthy,
    dirty: () => storage.dirty,
    now,
    lookUp,
  })
  const pending = new PendingIqs((stanza) => void router.route(stanza))
  router.pending = pending
  place?.join({
    hosts, router, sessions, pending,
    streams: () => c2s,
    components: () => components,
    federation: () => s2s,
    came(unit) {
      // Its removal had begun where it was.
      if (removing.has(unit) || !hosts.has(Jid.parse(unit).domain) || opened.storage.records.get(REMOVALS, [unit]) === undefined) return
      erase(Jid.parse(unit)).catch((error: unknown) => { log.error({ what: 'account_not_removed', account: unit, error }) })
    },
    forget(unit) {
      accounts.forget(unit)
      rosters.forget(unit)
    },
    lost: () => { options.ending?.lost() },
  })
  const capabilities = createCapabilities((request, timeoutMs) => pending.request(request, timeoutMs))
  const personalNodes = new Map<string, PersonalNodes>()
  const pep: PersonalEvents = {
    of: (host) => personalNodes.get(host),
    provide(host, nodes) {
      personalNodes.set(host, nodes)
      return () => void personalNodes.delete(host)
    },
  }

  const c2s: C2s = new C2s({
    hosts, router, sessions, accounts, storage, limits, log, metrics, now, logins,
    certificates: () => certificates,
    accountLeft,
    claim: place && ((bare) => place.claim(bare)),
    front: front?.front ?? options.front?.(metrics),
    sessionContext: {
      storage, gate, now,
      limits: { outboundBytes: limits.outboundBytes, unacknowledgedBytes: limits.resumeQueueBytes, held: limits.heldStanzas, heldBytes: limits.heldBytes },
      whileInactive: (session, stanza) => hosts.get(session.host)?.hooks.runWhileInactive(session, stanza) ?? 'send',
      waits: (session, stanza, id) => hosts.get(session.host)?.hooks.runWaiting(session.owner, stanza, id, session),
      late: (session, message, id) => router.late(session, message, id),
      detached: (session) => hosts.get(session.host)?.hooks.runDetached(session),
      ended(session, undelivered) {
        c2s.ended(session)
        const host = hosts.get(session.host)
        if (host === undefined) return
        host.presence.sessionGone(session)
        host.hooks.runClosed(session)
        router.undelivered(session, undelivered)
        accountLeft(session.owner)
      },
    },
  })

  const components: Components = new Components({
    hosts, services, serviceUnits, others: place?.others(), router, storage, limits, log, metrics, now,
    certificates: () => certificates,
    access: () => config.access,
    balancing: (domain) => config.domainBalancing.get(domain),
  })
  let trust: { readonly file: string | undefined; readonly authorities: Trust } | undefined
  const trusted = (): Trust => {
    const { caFile } = config.s2sTls
    if (trust === undefined || trust.file !== caFile) trust = { file: caFile, authorities: createTrust(caFile) }
    return trust.authorities
  }
  const s2s = new S2s({
    hosts, services, router, pending, storage, limits, log, metrics, now,
    secret: cluster === undefined ? randomBytes(32) : createHmac('sha256', cluster.secret).update('server dialback').digest(),
    config: () => config,
    place,
    certificates: () => certificates,
    connect: (domain, { name, s2s: { outgoing } }) => connectTo(domain, {
      dns: createDns({ servers: options.nameServers ?? config.tidings.nameServers, timeoutMs: outgoing.dnsTimeoutMs, retries: outgoing.dnsRetries }),
      families: outgoing.families, port: outgoing.port, timeoutMs: outgoing.timeoutMs, ipv4Address: outgoing.ipv4Address, ipv6Address: outgoing.ipv6Address,
      tls: certificates && { secureContext: certificates.optionsFor(config.s2sTls, name).secureContext, rejectUnauthorized: false },
    }),
    certified: (socket, domain) => checkCertificate(socket, domain, trusted(), now),
  })
  // Before the first connection, whose authorities are those of that moment.
  if (config.federated) trusted()
  if (config.federated) router.federation = s2s
  /** A process that only changes something in the store does not. */
  const speaksToOthers = (): boolean => place !== undefined || config.listen.some(({ module }) => module === 'ejabberd_s2s_in')
  const webSockets = serveWebSocket({ http, streams: c2s, limits, log, options: () => config.webSocket })

  const routePresence = (stanza: Stanza, session?: Session): void => {
    if (stanza.name !== 'presence') return void router.route(stanza)
    try {
      const from = Jid.parse(stanza.from ?? '')
      router.presenceTo(stanza, from, stanza.to === undefined ? from.toBare() : Jid.parse(stanza.to))
    } catch (error) {
      // A probe or a broadcast that finds no server is nobody's mistake; a directed presence or a request is answered.
      if (error instanceof StanzaError && (stanza.type === undefined || stanza.type === 'probe') && session?.directed.has(stanza.to ?? '') !== true) return
      router.bounce(stanza, error)
    }
  }

  function isHere(unit: string): boolean {
    return place === undefined || place.here(unit)
  }

  /** Has an account live here; false when another node has it. */
  async function claim(bare: string): Promise<boolean> {
    return place === undefined || place.claim(bare)
  }

  /** Accounts of one session (XEP-0175), which end with it, or with the process. */
  const anonymous = new Set<string>()
  const ending = new Set<Promise<void>>()

  async function makeAnonymous(host: string): Promise<string> {
    const local = randomUUID()
    const bare = `${local}@${host}`
    anonymous.add(bare)
    // Should the process be killed, the next one finds that it is to go.
    storage.records.put(REMOVALS, [bare], now())
    await Promise.all([accounts.registerWithoutPassword(bare), hosts.get(host)?.hooks.runAccountRegistered(bare)])
    return local
  }

  function accountLeft(bare: string): void {
    if (!anonymous.has(bare) || sessions.of(bare).length > 0) return
    // Its owner was faster.
    if (removing.has(bare)) return
    const done = unregister(bare).catch((error: unknown) => log.error({ what: 'anonymous_account_not_removed', account: bare, error })).finally(() => ending.delete(done))
    ending.add(done)
  }

  /** Makes the account of somebody who is kept elsewhere and comes for the first time; `hashes`: for which auth processes have keys. */
  async function admit(bare: string, hashes?: readonly ScramHash[]): Promise<void> {
    if (removing.has(bare)) throw new SaslFailure('temporary-auth-failure', 'The account is being removed')
    if (await allOwn.exists(bare)) {
      if (hashes !== undefined && (await accountsHere.hashes(bare))?.join() !== hashes.join()) await accountsHere.keptElsewhere(bare, hashes)
      return
    }
    await accountsHere.registerWithoutPassword(bare, hashes)
    await hosts.get(Jid.parse(bare).domain)?.hooks.runAccountRegistered(bare)
  }

  /** An auth process vouches for an account. Throws when it does so in a way that this process is not configured for. */
  async function known({ bare, by, user, hashes }: Known): Promise<void> {
    const host = hosts.get(bare.slice(bare.indexOf('@') + 1))
    const isExpected = by === 'jwt' ? host?.config.authMethods.includes('jwt') : by === 'ldap' ? host?.directory !== undefined && user !== undefined : keptThere !== undefined
    if (isExpected !== true) throw new Error(`an auth process vouches for ${bare} by ${by}, which is not among the methods of this process`)
    // At its home it is asked again.
    if (!await claim(bare)) return
    await admit(bare, hashes)
    if (user !== undefined) await host?.directory?.loggedIn(bare.slice(0, bare.indexOf('@')), user)
  }

  /** A directory does not have the account of whoever has tried to log in. */
  async function missing(bare: string): Promise<void> {
    if (isHere(bare)) await hosts.get(bare.slice(bare.indexOf('@') + 1))?.directory?.missing(bare.slice(0, bare.indexOf('@')))
  }

  /** Finds an account of a directory that was never used here, and makes it one of ours; undefined when that is not needed. */
  function lookUp(to: Jid, from: Jid): Promise<void> | undefined {
    const directory = hosts.get(to.domain)?.directory
    // Another node that is its home knows better.
    if (directory === undefined || to.local === '' || from.bare === to.bare || place?.here(to.bare) === false || ownAccounts.exists(to.bare) !== false || !directory.mustLookUp(to.local, from.bare)) return undefined
    return directory.findSoon(to.local).then(async (entry) => {
      if (entry === undefined) return
      directory.giveBack(from.bare)
      await directory.admitted(to.local, entry)
      if (!removing.has(to.bare)) await admit(to.bare)
    }, (error: unknown) => {
      directory.giveBack(from.bare)
      if (!(error instanceof LdapUnavailable)) throw error
      throw new StanzaError('resource-constraint', 'It cannot be found out at the moment whether there is such an account')
    })
  }

  function buildHost(name: string): Host {
    const hooks = new HookRunner()
    const iq = new IqDispatcher(pending, log)
    const disco = createDiscoRegistry((bare) => anonymous.has(bare))
    disco.identity('host', { category: 'server', type: 'im', name: 'Tidings' })
    disco.identity('account', { category: 'account', type: 'registered' })
    disco.items('host', () => components.domainsOf(name).map((jid) => ({ jid })))
    const hostConfig = config.host(name)
    const presence = createPresence({
      rosters, sessions, log,
      isLocalHost: (domain) => hosts.has(domain),
      ...(place === undefined ? {} : { isHere, toElsewhere: (stanza: Stanza, contacts: readonly string[]) => { router.presenceElsewhere(stanza, contacts) } }),
      route: routePresence,
      accountExists: (bareJid) => accounts.exists(bareJid),
      directedPresences: limits.directedPresences,
      mayReceive: (from, to) => hooks.runCheckBroadcast(from, to) && (from.domain === to.domain || hosts.get(from.domain === name ? to.domain : from.domain)?.hooks.runCheckBroadcast(from, to) !== false),
      onAvailable: (session, stanza, first) => hooks.runAvailable(session, stanza, first),
      onUnavailable: (session) => hooks.runUnavailable(session),
    })
    const commands = createCommands({ jid: name, iq, disco, now })
    const { jwt, authMethods, access } = hostConfig
    const { size = limits.accountCache, lifeMs, missed } = hostConfig.authCache
    const directory = !authMethods.includes('ldap') ? undefined : new Directory({ host: name, users: remote?.users(name) ?? new LdapUsers({ host: name, settings: hostConfig.ldap, limits, log }), cache: { size, lifeMs, missed }, limits, records: storage.records, log, now, passwordGone })
    const credentials = createCredentials({
      host: name, accounts: allOwn, passwords: authMethods.includes('internal'), directory, admit: (bare) => admit(bare),
      jwt: jwt && (jwt.key === undefined ? remote?.jwtCheck(name) : createJwtCheck(jwt.key, { jidField: jwt.jidField, now })),
      tokensOnly: (bare) => jwt !== undefined && access.allows(jwt.onlyRule, { jid: Jid.parse(bare) }),
    })
    const host: Host = { name, config: hostConfig, hooks, iq, disco, commands, features: new HostFeatures(), nonzas: new HostNonzas(), logins: new HostLogins(failedLogins), registrations: new HostRegistrations(), operations: new HostOperations(), directory, credentials, elsewhere: remote?.mechanisms({ passwords: keptThere !== undefined || !authMethods.includes('internal') }), makeAnonymous: authMethods.includes('anonymous') ? () => makeAnonymous(name) : undefined, sasl2: new HostSasl2(), bind2: new HostBind2(), accountData: new HostAccountData(), files: new HostFiles(), presence, streamManagement: undefined, stops: [] }
    if (directory !== undefined) {
      host.stops.push(() => directory.close())
      hooks.accountRemoved((bare) => directory.forget(Jid.parse(bare).local))
    }
    const isOn = (extension: Extension): boolean => extension.ejabberd === undefined || hostConfig.modules.has(extension.ejabberd)
    for (const extension of extensions) {
      if (!isOn(extension)) continue
      const { options: parsed } = parseOptions((extension.options ?? {}) as OptionTable<object>, hostConfig.modules.get(extension.ejabberd ?? ''), { option: `modules.${extension.ejabberd ?? extension.name}` })
      if (extension.features !== undefined) disco.feature('host', ...extension.features)
      const stop = extension.start(partsOf(host, isOn), parsed)
      if (stop !== undefined) host.stops.push(stop)
    }
    return host
  }

  /** Until the host is reloaded or the server stops. */
  function every(host: Host, everyMs: number, run: () => void | Promise<void>): void {
    const timer = setInterval(() => {
      void (async () => run())().catch((error: unknown) => log.error({ what: 'task_failed', error }))
    }, everyMs)
    timer.unref()
    host.stops.push(() => clearInterval(timer))
  }

  function partsOf(host: Host, isOn: (extension: Extension) => boolean): Parts {
    return {
      host: host.name, components,
      iq: host.iq, disco: host.disco, commands: host.commands, features: host.features, nonzas: host.nonzas, logins: host.logins, registrations: host.registrations, captchas, operations: host.operations, lifecycle: options.ending && { hosts: () => [...hosts.keys()], end }, sasl2: host.sasl2, bind2: host.bind2, tokens, hooks: host.hooks,
      sessions, everySession: sessionsOfAll, rosters, here: isHere, pin: (unit) => place?.pin(unit) ?? NOTHING_PINNED, calls: callsOf(calls, host.name, (end) => { host.stops.push(end) }), capabilities, pep, tell: host.hooks, storage, http, streams: c2s, log, metrics, limits, now,
      access: host.config.access, config: host.config,
      accounts: { ...allAccounts, register, unregister },
      accountData: host.accountData,
      files: host.files,
      router: {
        route: (stanza, options) => void router.route(stanza, options?.session, options?.durable),
        service(domain, handler, unit) {
          serviceUnits.set(domain, unit)
          services.set(domain, handler)
          host.stops.push(() => void services.delete(domain))
        },
        iqService: (domain, name, others, unit) => iqService(host, domain, name, others, unit),
        multicast: (stanza, from, recipients, options) => { router.multicast(stanza, from, recipients, options) },
        toClients: (stanza, clients) => { router.toClients(stanza, clients) },
        missed: (owner, stanza, sentTo, clients) => { router.missed(owner, stanza, sentTo, clients) },
        tell: (unit, ...words) => { router.tell(unit, ...words) },
        hint: (unit, ...words) => { router.hint(unit, ...words) },
        moderated: (author, message) => { router.moderated(author, message) },
      },
      announce(session) {
        if (session.presence !== undefined) void router.route(session.presence, session)
      },
      resumption(resumption) {
        host.streamManagement = resumption
      },
      every: (everyMs, run) => { every(host, everyMs, run) },
      everyAccount(everyMs, name, run) {
        const job = `${host.name} every account ${name}`
        host.stops.push(calls.serve(job, async (bare) => { await run(bare) }))
        every(host, everyMs, async () => {
          if (!isHere(host.name)) return
          for await (const names of accounts.pages(host.name, undefined, ACCOUNTS_AT_A_TIME)) {
            await inTurns(names, ACCOUNTS_AT_ONCE, (local) => calls.ask(`${local}@${host.name}`, job).catch((error: unknown) => { log.warn({ what: 'job_failed', job, account: `${local}@${host.name}`, error }) }))
          }
        })
      },
      lasting<Value>(name: string, make: () => Value): Value {
        if (!lasting.has(name)) lasting.set(name, make())
        return lasting.get(name) as Value
      },
      blocked: (owner, jid, item) => host.hooks.runBlocked(owner, jid, item),
      waiting: (owner, stanza, id) => host.hooks.runWaiting(owner, stanza, id, undefined),
      enabled: (name) => extensions.some((extension) => extension.name === name && isOn(extension)),
    }
  }

  function iqService(host: Host, domain: string, name?: string, others?: Parameters<Parts['router']['iqService']>[2], unit?: ServiceUnit): { iq: IqRegistry; disco: DiscoRegistry } {
    const iq = new IqDispatcher(pending, log)
    const disco: HostDisco = createDiscoRegistry()
    serveDisco(iq, disco, 'host')
    host.disco.item('host', name === undefined ? { jid: domain } : { jid: domain, name })
    serviceUnits.set(domain, unit)
    services.set(domain, (stanza, session) => {
      const taken = others?.(stanza, session)
      if (taken === true || taken instanceof Promise) return taken === true ? undefined : taken
      if (stanza.name !== 'iq') {
        if (stanza.name === 'message' && stanza.type !== 'error') router.bounce(stanza, new StanzaError('service-unavailable'), session)
        // RFC 6121 §3.1.4: it has no presence to see, and says so.
        if (stanza.name === 'presence' && stanza.type === 'subscribe') void router.route(makeStanza('presence', { type: 'unsubscribed', id: stanza.id, from: domain, to: stanza.from }))
        return
      }
      if (stanza.type !== 'get' && stanza.type !== 'set') return void pending.answered(stanza)
      const to = Jid.parse(stanza.to ?? '')
      // It is the domain; nobody lives there.
      if (to.local !== '' || to.resource !== '') return router.bounce(stanza, new StanzaError('service-unavailable'), session)
      const from = Jid.parse(stanza.from ?? '')
      const reply = (answer: Stanza): void => (session !== undefined ? session.send(answer, { durable: stanza.type === 'set' && storage.dirty }) : void router.route(answer))
      const answer = iq.dispatch(stanza, from, to, 'host', session)
      if (answer instanceof Promise) void answer.then(reply)
      else if (answer !== undefined) reply(answer)
    })
    host.stops.push(() => void services.delete(domain))
    return { iq, disco }
  }

  async function stopHost(host: Host): Promise<void> {
    for (const stop of host.stops.splice(0)) await stop()
  }

  /** Reads the certificates, if any listener needs them. */
  async function loadCertificates({ hosts: names, certfiles, tidings, listen }: Config): Promise<void> {
    const wanted = { hosts: names, certfiles, selfSigned: tidings.selfSigned }
    if (certificates !== undefined) await certificates.reload(wanted)
    else if (listen.some(({ tls, starttls, module }) => tls || starttls || module === 'ejabberd_s2s_in')) certificates = await createSecureContexts({ ...wanted, dataDir: options.dataDir })
    for (const problem of certificates?.problems ?? []) log.warn({ what: 'certificate_problem', problem })
  }

  /** By where they listen. */
  const listeners = new Map<string, { listen: ListenConfig; readonly listener: ClientListener | HttpListener | ComponentListener | ServerListener }>()
  let health: HttpListener | undefined

  /** Opens, changes and closes listeners until they are those of the configuration. Rejects when one cannot be opened; the others are. */
  async function setListeners(): Promise<void> {
    const wanted = new Map(config.listen.map((listen, index) => [placeOf(listen, index), listen] as const).filter(([, { module }]) => listensTo(module, options.roles)))
    const closing = Array.from(listeners).filter(([place]) => !wanted.has(place)).map(async ([place, { listener }]) => {
      listeners.delete(place)
      await listener.close()
    })
    const failures: string[] = []
    for (const [place, listen] of wanted) {
      try {
        const known = listeners.get(place)
        if (known !== undefined) {
          known.listener.update(listen)
          known.listen = listen
          continue
        }
        const listener = await open(listen)
        listeners.set(place, { listen, listener })
        if (listen.module !== 'ejabberd_http') warnOf(listen, listener.port)
      } catch (error) {
        failures.push(`${listen.file}:${listen.line}: ${(error as Error).message}`)
      }
    }
    await Promise.all(closing)
    components.update()
    if (failures.length > 0) throw new Error(failures.join('\n'))
  }

  function open(listen: ListenConfig): Promise<ClientListener | HttpListener | ComponentListener | ServerListener> {
    switch (listen.module) {
      case 'ejabberd_c2s': return c2s.listen(listen)
      case 'ejabberd_http': return http.listen(listen)
      case 'ejabberd_service': return components.listen(listen)
      case 'ejabberd_s2s_in': return s2s.listen(listen)
    }
  }

  function warnOf(listen: ListenConfig, port: number): void {
    if (listen.starttls && !listen.starttlsRequired) log.warn({ what: 'starttls_optional', port, text: 'Clients may log in and register without encryption here; set starttls_required: true to forbid it.' })
    const ownMachine = listen.module === 'ejabberd_service' && (listen.unixPath !== undefined || listen.ip === '::1' || listen.ip.startsWith('127.'))
    if (!listen.starttls && !listen.tls && !ownMachine && listen.module !== 'ejabberd_s2s_in') log.warn({ what: 'listener_unencrypted', port, text: 'This listener offers no encryption.' })
  }

  let closed: Promise<void> | undefined
  /** Accounts that are being removed. */
  const removing = new Set<string>()

  /** At the account's home. */
  async function register(bareJid: string, password: string | ScramKeySet, alongside?: () => void): Promise<void> {
    if (!await claim(bareJid)) {
      if (alongside !== undefined) throw new Error('what is written with an account is at its home')
      return void await calls.ask(bareJid, REGISTER, (typeof password === 'string' ? await accounts.keysFor(bareJid, password) : password) as Value)
    }
    // What the last owner of this name left is still being removed.
    if (removing.has(bareJid)) throw new AccountError('conflict')
    await allAccounts.register(bareJid, password, alongside)
    await hosts.get(Jid.parse(bareJid).domain)?.hooks.runAccountRegistered(bareJid)
  }

  /** At the account's home. */
  async function unregister(bareJid: string): Promise<void> {
    const jid = Jid.parse(bareJid)
    if (!await claim(jid.bare)) return void await calls.ask(jid.bare, UNREGISTER, null, REMOVAL_MS)
    if (removing.has(jid.bare)) throw new AccountError('item-not-found')
    removing.add(jid.bare)
    try {
      // Written with the end of the account, so that a process that is killed on the way is followed by one that goes on.
      storage.records.put(REMOVALS, [jid.bare], now())
      await erase(jid)
    } catch (error) {
      if (keptThere !== undefined) eraseLater(jid, error)
      else removing.delete(jid.bare)
      throw error
    }
    removing.delete(jid.bare)
  }

  calls.serve(UNBAN, (_node, address) => {
    return failedLogins.forget(networkOf(address as string))
  })
  calls.serve(REGISTER, (bare, keys) => register(bare, keys as ScramKeySet).then(() => null))
  calls.serve(UNREGISTER, (bare) => unregister(bare).then(() => null))

  async function erase(jid: Jid): Promise<void> {
    // First nobody can log in any more; then what is left goes.
    await accounts.unregister(jid.bare)
    for (const session of sessions.of(jid.bare)) session.close(new StreamError('not-authorized', 'the account was removed'))
    await hosts.get(jid.domain)?.hooks.runAccountRemoved(jid.bare)
    removeRoster(jid.bare)
    storage.records.delete(REMOVALS, [jid.bare])
    anonymous.delete(jid.bare)
    await storage.committed()
  }

  /** Goes on where a process was killed. */
  async function finishRemovals(): Promise<void> {
    for (const { key } of await storage.records.range(REMOVALS, [])) {
      const jid = Jid.tryParse(key[0] ?? '')
      // A host that is not served at the moment may be served again, and knows then what belongs to its accounts.
      if (jid === undefined || !hosts.has(jid.domain)) continue
      await erase(jid).catch((error: unknown) => {
        if (keptThere === undefined) throw error
        eraseLater(jid, error)
      })
    }
  }

  /** What has begun goes on when those who keep the password are there again; until then nobody logs in. */
  function eraseLater(jid: Jid, error: unknown): void {
    log.warn({ what: 'account_not_removed', account: jid.bare, error })
    removing.add(jid.bare)
    setTimeout(() => {
      if (closed !== undefined) return
      erase(jid).then(() => { removing.delete(jid.bare) }, (again: unknown) => { eraseLater(jid, again) })
    }, REMOVAL_RETRY_MS).unref()
  }

  let endTimer: NodeJS.Timeout | undefined

  function end(how: 'stop' | 'restart', delayMs: number, announcement: string): void {
    if (announcement !== '') {
      for (const { jid, host } of sessions.all()) void router.route(stanzaOf('message', { id: nextMessageId(now()), from: host, to: jid.toString(), type: 'headline' }, xml('body', null, announcement)))
    }
    log.info({ what: 'server_will_end', how, delayMs })
    clearTimeout(endTimer)
    endTimer = setTimeout(() => options.ending?.[how](), delayMs)
    endTimer.unref()
  }

  let reloading: Promise<readonly string[]> = Promise.resolve([])

  async function reload(next: Config): Promise<readonly string[]> {
    await loadCertificates(next)
    config = next
    router.federation = next.federated ? s2s : undefined
    log.level = next.loglevel
    http.trust(next.trustedProxies)
    setUploadDefaults(storage, next.tidings.upload)
    for (const [name, host] of hosts) {
      await stopHost(host)
      if (!next.hosts.includes(name)) {
        for (const session of sessions.all()) if (session.host === name) session.close(new StreamError('host-gone'))
        hosts.delete(name)
      }
    }
    for (const name of next.hosts) hosts.set(name, buildHost(name))
    for (const host of hosts.values()) host.hooks.runStarted()
    await setListeners()
    s2s.update()
    log.info({ what: 'configuration_reloaded', hosts: next.hosts.length })
    return waitingForRestart(options.config, next)
  }

  const server: Server = {
    accounts: allAccounts, sessions, everySession: sessionsOfAll, accountData, federation: s2s, storage, hosts, metrics, log,
    dataDir: options.dataDir,
    get certificates() { return certificates },
    get ports() {
      const all: ServerPort[] = Array.from(listeners.values(), ({ listen, listener }) => ({ module: listen.module, configured: listen.port, port: listener.port, ip: listen.ip, unixPath: listen.unixPath, tls: listen.tls }))
      const { metrics: operators } = options.config.tidings
      if (health !== undefined && operators !== undefined) all.push({ module: 'metrics', configured: operators.port, port: health.port, ip: operators.ip, unixPath: undefined, tls: false })
      return all
    },
    register,
    unregister,
    end,
    stopListening() {
      for (const { listener } of listeners.values()) void listener.close()
      listeners.clear()
    },
    reload(next) {
      // One at a time, also after one that failed.
      return (reloading = reloading.then(() => reload(next), () => reload(next)))
    },
    async unban(address) {
      return (await calls.askNodes(UNBAN, address)).includes(true)
    },
    status: () => ({ healthy: storage.healthy, storage: storage.status(), sessions: sessions.size, uptimeMs: now() - startedAt }),
    close() {
      return (closed ??= (async () => {
        clearTimeout(endTimer)
        failedLogins.close()
        for (const host of hosts.values()) host.hooks.runStopping()
        await place?.announceLeaving()
        await front?.close()
        await c2s[Symbol.asyncDispose]()
        await components[Symbol.asyncDispose]()
        await s2s[Symbol.asyncDispose]()
        await Promise.all(ending)
        // Until others have it, what comes for it is handled here as ever.
        await place?.leave()
        webSockets.endAfter(1000)
        await Promise.all([http.close(1000), health?.close(0)])
        pending.close()
        calls.close()
        for (const host of hosts.values()) await stopHost(host)
        await (place === undefined ? storage.committed() : place.close())
        remote?.close()
        await opened.close()
      })())
    },
    [Symbol.asyncDispose]() {
      return this.close()
    },
  }

  /** A removed account leaves its contacts' rosters as an unsubscription would (RFC 6121 §3.3). */
  function removeRoster(owner: string): void {
    for (const item of rosters.get(owner).items.values()) {
      for (const type of ['unsubscribe', 'unsubscribed']) routePresence(makeStanza('presence', { type, from: owner, to: item.jid }))
      rosters.remove(owner, item.jid)
    }
  }

  metrics.gauge('tidings_storage_pending_writes', 'Writes waiting for their commit', [], () => storage.status().pendingWrites)
  metrics.gauge('tidings_storage_commit_ms', 'How long the last commit took', [], () => storage.status().commitMs)
  metrics.gauge('tidings_storage_healthy', 'Whether writes reach stable storage', [], () => (storage.healthy ? 1 : 0))

  try {
    for (const name of config.hosts) hosts.set(name, buildHost(name))
    place?.takeHosts()
    if (keptThere !== undefined && cluster === undefined) await keptThere.moveKeys(accountsHere, ownAccounts, hosts.keys())
    await finishRemovals()
    await c2s.restore()
    await components.restore()
    if (place === undefined && speaksToOthers()) await s2s.restore()
    for (const host of hosts.values()) host.hooks.runStarted()
    await loadCertificates(config)
    if (cluster !== undefined) failedLogins.learn().catch((error: unknown) => { log.warn({ what: 'failed_logins_not_learnt', error }) })
    await setListeners()
    if (speaksToOthers()) s2s.begin()
    front?.serve(c2s)
    if (config.tidings.metrics !== undefined) {
      health = await listenHealth({ ...config.tidings.metrics, log, metrics, health: () => server.status() })
    }
    log.info({ what: 'server_ready', hosts: config.hosts.length, ms: now() - startedAt })
  } catch (error) {
    await server.close()
    throw error
  }
  return server
}

/** See cluster/local/layout.ts. */
const SEVERAL = 'f'

interface OpenedStorage {
  readonly storage: Storage
  readonly cluster?: ServerOptions['cluster']
  close(): Promise<void>
}

/** What was given; or that of a node of a cluster, or the embedded store. */
async function openStorage({ storage, cluster, config, dataDir, roles }: ServerOptions, log: Log): Promise<OpenedStorage> {
  if (storage !== undefined) return { storage, ...(cluster === undefined ? {} : { cluster }), close: () => Promise.resolve() }
  const onHealth = (problem: string | undefined): void => {
    if (problem === undefined) log.info({ what: 'storage_recovered' })
    else log.error({ what: 'storage_failing', problem })
  }
  const onError = storageErrorsTo(log)
  if (config.tidings.cluster !== undefined) {
    const node = await (await import('./cluster/node.ts')).openNode({ config, dataDir, log, onHealth, onError, ...(roles === undefined ? {} : { roles }), ...(roles !== undefined && !takesUnits({ roles }) ? { address: '' } : {}) })
    return { storage: node.storage, cluster: node, close: async () => { await node[Symbol.asyncDispose]() } }
  }
  const s3 = config.tidings.s3 === undefined ? undefined : await (await import('./storage/s3/blobs.ts')).openS3(config.tidings.s3)
  const embedded = await openEmbedded(dataDir, { ...(s3 === undefined ? {} : { blobs: s3 }), onHealth, onError })
  // What was several processes is one from now on.
  if (embedded.rows.has(SEVERAL)) await (await import('./cluster/local/settle.ts')).settle(embedded, config, dataDir, log, createServer)
  return {
    storage: embedded,
    async close() {
      await embedded[Symbol.asyncDispose]()
      s3?.close()
    },
  }
}

/** Runs for each, so many at a time. */
async function inTurns<Item>(items: readonly Item[], atOnce: number, run: (item: Item) => Promise<unknown>): Promise<void> {
  const left = items.values()
  await Promise.all(Array.from({ length: atOnce }, async () => {
    for (const item of left) await run(item)
  }))
}

/** Whether a process of these roles has listeners of a module; one that names none has all. */
function listensTo(module: ListenConfig['module'], roles: readonly string[] = []): boolean {
  const isForServers = module === 'ejabberd_s2s_in'
  return roles.length === 0 || roles.includes(isForServers ? 'federation' : 'chat') || (!isForServers && !roles.includes('federation'))
}

/** Where a listener listens. Those on free ports are told apart by their place in the list. */
function placeOf({ module, port, ip, unixPath }: ListenConfig, index: number): string {
  return unixPath === undefined ? `${module} ${ip} ${port === 0 ? `free ${index}` : port}` : `${module} ${unixPath}`
}

/** Options of which a running server keeps those it started with. */
function waitingForRestart(running: Config, next: Config): string[] {
  const kept: Readonly<Record<string, (config: Config) => unknown>> = {
    'tidings.limits (or max_fsm_queue, negotiation_timeout)': ({ limits }) => limits,
    'tidings.data': ({ tidings }) => tidings.data,
    'tidings.metrics': ({ tidings }) => tidings.metrics,
    'tidings.s3': ({ tidings }) => tidings.s3,
    'tidings.processes': ({ tidings }) => tidings.processes,
    'tidings.cluster': ({ tidings }) => tidings.cluster,
    'tidings.kafka': ({ tidings }) => tidings.kafka,
    'tidings.hbase': ({ tidings }) => tidings.hbase,
    'tidings.auth': ({ tidings }) => tidings.auth,
  }
  const changed = Object.entries(kept).filter(([, of]) => JSON.stringify(of(running)) !== JSON.stringify(of(next)))
  return changed.map(([option]) => `${next.file}: ${option}: the change takes effect at the next start.`)
}
