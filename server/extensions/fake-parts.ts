/** The parts of one host for tests of extensions: real hooks, IQ dispatch and storage in memory, sessions that only collect. */
import { Calls, callsOf } from '../cluster/calls.ts'
import { LoginFailures } from '../cluster/login-failures.ts'
import { Jid } from '../../lib/jid.ts'
import { makeStanza, type Stanza } from '../../lib/stanza/stanza.ts'
import { parseElement } from '../../lib/xml/build.ts'
import type { Element } from '../../lib/xml/element.ts'
import { stanzaOf } from '../../lib/stanza/stanza.ts'
import { HostAccountData } from '../accounts/account-data.ts'
import { createAccounts } from '../accounts/accounts.ts'
import { createTokens } from '../accounts/tokens.ts'
import { defaultLimits } from '../config/limits.ts'
import type { OptionTable } from '../config/options.ts'
import { createLog } from '../log.ts'
import { createMetrics } from '../metrics.ts'
import type { Delivery } from '../router/hooks.ts'
import { HookRunner } from '../router/hook-runner.ts'
import { IqDispatcher, PendingIqs } from '../router/iq.ts'
import { HostBind2, HostFeatures, HostFiles, HostLogins, HostNonzas, HostOperations, HostRegistrations, HostSasl2 } from '../host.ts'
import { createRosters } from '../sessions/rosters.ts'
import { createCaptchas } from '../captcha/captchas.ts'
import { createCapabilities } from '../sessions/capabilities.ts'
import { everySession } from '../sessions/everywhere.ts'
import type { Session } from '../sessions/session.ts'
import type { Value } from '../storage/shapes.ts'
import { openMemory } from '../storage/memory/memory.ts'
import { createCommands } from './commands-registry.ts'
import { createDiscoRegistry } from './disco-registry.ts'
import type { Extension, Parts, PersonalNodes, Resumption } from './extension.ts'

export interface FakeSession {
  readonly jid: Jid
  readonly owner: string
  readonly host: string
  readonly address: string
  connected: boolean
  presence: Stanza | undefined
  active: boolean
  readonly held: Map<string, Stanza>
  readonly directed: Set<string>
  readonly sent: Stanza[]
  closed: string | undefined
  discardHeld(name: string): void
  flushHeld(): void
}

/** A stanza from XML. */
export function stanza(text: string): Stanza {
  const element = parseElement(text)
  const { xmlns: _xmlns, ...attrs } = element.attrs
  return stanzaOf(element.name, attrs, ...element.getChildElements())
}

export function fakeParts(host = 'example.net') {
  const storage = openMemory()
  const log = createLog('silent')
  const routed: Stanza[] = []
  const pending = new PendingIqs((request) => { routed.push(request) })
  const hooks = new HookRunner()
  const iq = new IqDispatcher(pending, log)
  const disco = createDiscoRegistry()
  const rosters = createRosters(storage.records, { rosterItems: 1000, rosterCache: 100, pendingSubscriptions: 100 })
  const accounts = createAccounts(storage.records, { iterations: 1 })
  const online: FakeSession[] = []
  const ended: (readonly [how: string, delayMs: number, announcement: string])[] = []
  const tasks: (() => void | Promise<void>)[] = []
  const resumptions: Resumption[] = []
  const clock = { now: Date.parse('2026-01-01T00:00:00Z') }
  const allowed = { rules: (rule: string): boolean => rule !== 'none' }
  const commands = createCommands({ jid: host, iq, disco, now: () => clock.now })
  const features = new HostFeatures()
  const nonzas = new HostNonzas()
  const registrations = new HostRegistrations()
  const operations = new HostOperations()
  const captchas = createCaptchas({ command: () => '', limit: () => Infinity, now: () => clock.now, log })
  const sasl2 = new HostSasl2()
  const bind2 = new HostBind2()
  const tokens = createTokens(storage.records, { now: () => clock.now })
  const calls = new Calls({ homes: () => undefined, nodes: () => [], log: createLog('silent') })
  const logins = new HostLogins(new LoginFailures({ calls, now: () => clock.now, max: 100, self: '', spent: () => undefined }))
  const accountData = new HostAccountData()
  const lasting = new Map<string, unknown>()
  const personal = new Map<string, PersonalNodes>()
  const parts: Parts = {
    tell: hooks,
    components: { domains: () => [], isConnected: () => false },
    capabilities: createCapabilities((request, timeoutMs) => pending.request(request, timeoutMs)),
    pep: { of: (of) => personal.get(of), provide: (of, nodes) => { personal.set(of, nodes); return () => void personal.delete(of) } },
    announce: () => undefined,
    host, iq, disco, commands, hooks, rosters, accounts, accountData, files: new HostFiles(), storage, log, features, nonzas, logins, registrations, captchas, operations, sasl2, bind2, tokens,
    access: { allows: (rule) => allowed.rules(rule), value: () => undefined, shaper: () => undefined },
    router: {
      route: (each) => { routed.push(each) },
      service: () => undefined,
      iqService: () => ({ iq, disco }),
      multicast: (stanza, _from, recipients) => { for (const { jid } of recipients) routed.push(stanza.withAttrs({ to: jid.toString() })) },
      toClients: (stanza, clients) => { for (const jid of clients) routed.push(stanza.withAttrs({ to: jid.toString() })) },
      missed: (owner, stanza, sentTo) => { hooks.runMissed(owner, stanza, sentTo) },
      tell: (unit, ...words) => { hooks.runTold(unit, words) },
      hint: (unit, ...words) => { hooks.runTold(unit, words) },
      moderated: (author, message) => { void hooks.runModerated(author, message) },
    },
    here: () => true,
    pin: () => () => undefined,
    calls: callsOf(calls, host, () => undefined),
    everySession: everySession({ all: () => online as unknown as Session[], of: (bare) => online.filter((each) => each.owner === bare) as unknown as Session[] }, calls),
    sessions: {
      get: (full) => online.find((each) => each.jid.toString() === full) as Session | undefined,
      of: (bare) => online.filter((each) => each.owner === bare) as unknown as Session[],
      available: (bare) => online.filter((each) => each.owner === bare && each.presence !== undefined) as unknown as Session[],
      all: () => online as unknown as Session[],
    },
    http: { add: () => () => undefined, baseUrl: () => undefined } as unknown as Parts['http'],
    streams: { adopt: () => false },
    metrics: createMetrics(),
    limits: defaultLimits,
    config: { registrationTimeoutMs: 600_000, authMethods: ['internal'] } as unknown as Parts['config'],
    every: (_ms, run) => { tasks.push(run) },
    everyAccount: (_ms, _name, run) => { tasks.push(async () => { for (const local of await accounts.list(host)) await run(`${local}@${host}`) }) },
    now: () => clock.now,
    lifecycle: { hosts: () => [host], end: (...asked) => { ended.push(asked) } },
    lasting<Value>(name: string, make: () => Value): Value {
      if (!lasting.has(name)) lasting.set(name, make())
      return lasting.get(name) as Value
    },
    blocked: (owner, jid, item) => hooks.runBlocked(owner, jid, item),
    waiting: (owner, each, id) => hooks.runWaiting(owner, each, id, undefined),
    enabled: () => true,
    resumption: (resumption) => { resumptions.push(resumption) },
  }

  return {
    parts, routed, hooks, disco, commands, rosters, storage, accounts, accountData, tasks, ended, resumptions, clock, allowed, features, nonzas, logins, registrations, captchas, operations, sasl2, bind2, tokens, pending,

    /** Starts an extension with the defaults of its options and these, and with `others` in place of these parts. */
    start<Options>(extension: Extension<never, Options> | Extension<keyof Parts, Options> | { start: unknown; options?: unknown; features?: readonly string[] }, options: Record<string, unknown> = {}, others: Partial<Parts> = {}): void {
      const started = extension as Extension<keyof Parts, unknown>
      const { options: table = {}, features: vars = [] } = started
      disco.feature('host', ...vars)
      const defaults = Object.fromEntries(Object.entries(table as OptionTable<Record<string, unknown>>).map(([name, spec]) => [name, spec.default]))
      started.start({ ...parts, ...others }, { ...defaults, ...options })
    },

    login(full: string, available = true): FakeSession {
      const jid = Jid.parse(full)
      const kept = new Map<string, Value>()
      const session = {
        jid, owner: jid.bare, host: jid.domain, address: '192.0.2.1', connected: true, priority: 0,
        presence: available ? makeStanza('presence', { from: full }) : undefined,
        active: true, held: new Map<string, Stanza>(), directed: new Set<string>(), directedAt: () => [] as string[], sent: [] as Stanza[], closed: undefined as string | undefined,
        get: (name: string) => kept.get(name),
        set: (name: string, value: Value | undefined) => { if (value === undefined) kept.delete(name); else kept.set(name, value) },
        changed: () => undefined,
        volatileAnswer: () => undefined,
        send(this: FakeSession, each: Stanza) {
          if (!this.active) {
            const verdict = hooks.runWhileInactive(this as unknown as Session, each)
            if (verdict === 'drop') return
            if (verdict !== 'send') {
              this.discardHeld(verdict.hold)
              this.held.set(verdict.hold, each)
              return
            }
            this.flushHeld()
          }
          this.sent.push(each)
        },
        discardHeld(this: FakeSession, name: string) { this.held.delete(name) },
        flushHeld(this: FakeSession) {
          this.sent.push(...this.held.values())
          this.held.clear()
        },
        close(error?: { condition: string }) { session.closed = error?.condition ?? 'closed' },
        carrier: { close(error?: { condition: string }) { session.closed = error?.condition ?? 'closed' } },
      }
      online.push(session)
      hooks.runBound(session as unknown as Session)
      return session
    },

    logout(session: FakeSession): void {
      online.splice(online.indexOf(session), 1)
    },

    /** Asks and reads the answer; `from` is a full JID, `to` the host, a bare JID or left out for the sender's account. */
    async ask(from: string, type: 'get' | 'set', payload: string, to?: string): Promise<Element> {
      const sender = Jid.parse(from)
      const target = Jid.parse(to ?? sender.bare)
      const request = stanza(`<iq xmlns='jabber:client' type='${type}' id='1' from='${from}' to='${target.toString()}'>${payload}</iq>`)
      const session = online.find((each) => each.jid.toString() === from) as Session | undefined
      const answer = await iq.dispatch(request, sender, target, target.local === '' ? 'host' : 'account', session)
      if (answer === undefined) throw new Error('somebody else answers')
      return answer.element()
    },

    delivery(text: string): Delivery {
      const each = stanza(text)
      const from = Jid.parse(each.from ?? '')
      const to = Jid.parse(each.to ?? '')
      return {
        stanza: each, from, to, session: undefined, id: 'id-1', time: clock.now,
        fromLocal: from.domain === host, toLocal: to.domain === host,
        noArchive: false, noCopy: false, noOffline: false, archivedFrom: false, archivedTo: false, durable: false, reached: [],
      }
    },
  }
}

/** The defined condition of an error answer, such as `forbidden`. */
export function conditionOf(answer: Element): string | undefined {
  return answer.getChild('error')?.getChildElements()[0]?.getName()
}
