// XEP-0357: Push Notifications, version 0.4.1 (2020-02-11)
import { Jid } from '../../lib/jid.ts'
import { buildForm, FORMS_NS, parseForm } from '../../lib/forms.ts'
import { nextMessageId } from '../../lib/stanza/ids.ts'
import { StanzaError } from '../../lib/stanza/errors.ts'
import { CLIENT_NS, type Stanza, stanzaOf } from '../../lib/stanza/stanza.ts'
import { buildElement } from '../../lib/xml/build.ts'
import { type Element, xml } from '../../lib/xml/element.ts'
import { bool, duration, either, oneOf, text } from '../config/options.ts'
import { stanzaIdOf } from '../router/router.ts'
import type { Session } from '../sessions/session.ts'
import type { Value } from '../storage/shapes.ts'
import { defineExtension, type IqRequest, type Parts } from './extension.ts'
import { standalone } from './standalone-element.ts'

const NS = 'urn:xmpp:push:0'
const PUBSUB_NS = 'http://jabber.org/protocol/pubsub'
const PUBLISH_OPTIONS = 'http://jabber.org/protocol/pubsub#publish-options'
const SUMMARY = 'urn:xmpp:push:summary'
/** What app servers of the field read the priority from. */
const PRIORITY_NS = 'tigase:push:priority:0'
const CARBONS_NS = 'urn:xmpp:carbons:2'
const FORWARD_NS = 'urn:xmpp:forward:0'
const CALL_NS = 'urn:xmpp:jingle-message:0'
const MUC_USER_NS = 'http://jabber.org/protocol/muc#user'
const ENCRYPTED = new Set(['eu.siacs.conversations.axolotl', 'urn:xmpp:omemo:1', 'urn:xmpp:omemo:2', 'urn:xmpp:openpgp:0', 'jabber:x:encrypted', 'urn:xmpp:otr:0'])
/** Beside these a message says nothing (XEP-0085, XEP-0334, XEP-0359, XEP-0203, XEP-0421). */
const SAYS_NOTHING = new Set(['http://jabber.org/protocol/chatstates', 'urn:xmpp:hints', 'urn:xmpp:sid:0', 'urn:xmpp:delay', 'urn:xmpp:occupant-id:0'])

/** Key [owner, JID of the app server, node]. */
const TABLE = 'push'
/** Where an account with registrations has its home, as its clients were last told; key [owner], value the incarnation of the node. */
const HOMES = 'push-homes'
/** The question to the home of an account whether its clients are to be woken. */
const WAKE = 'push wake'
/** In a session: the registration that its client made, for the device it runs on. */
const REGISTRATION = 'push'
/** Registrations of one account; the one that was enabled longest ago gives way. */
const REGISTRATIONS_MAX = 20
const NODE_BYTES_MAX = 1023
const OPTIONS_BYTES_MAX = 4096
/** Accounts whose registrations are kept in memory. */
const CACHED_MAX = 50_000
const ANSWER_MS = 30_000
/** Notifications to one device whose answer is awaited; what comes beyond goes as one when an answer comes. */
const UNDER_WAY_MAX = 8
/** How long an inactive client may take to acknowledge a message before it is notified, ms. */
const UNANSWERED_MS = 10_000
/** An app server that fails in a way that may pass is given up after so many failures in a row and so long, ms. */
const FAILURES_MAX = 20
const FAILING_MS = 604_800_000
/** How long before its session ends a client is woken, ms. */
const WAKE_BEFORE_MS = 120_000
const WAKE_CHECK_MS = 30_000
const WOKEN_AT_ONCE = 100
/** When a client is woken again whose app server was not there, ms: at a start it may be slower than this server. */
const WAKE_AGAIN_MS = [1000, 10_000, 60_000]
const PASSING = new Set(['remote-server-not-found', 'remote-server-timeout', 'service-unavailable', 'resource-constraint', 'internal-server-error'])
const NONE: readonly Registration[] = []
const DEFAULT_BODY = 'New message'

export interface PushOptions {
  notify_on: 'all' | 'messages'
  include_sender: boolean
  include_body: boolean | string
}

/** One app server that an account lets its messages be announced to. */
interface Registration {
  readonly jid: string
  readonly node: string
  /** The form of publish-options, serialised; empty when there was none. */
  readonly options: string
  readonly enabledAt: number
  /** The message announced last, and how many since the client was last here. */
  notified: string
  count: number
  failures: number
  failingSince: number
  /** Not stored: */
  underWay: number
  waiting: Stanza | undefined
}

export const push = defineExtension({
  name: 'push',
  ejabberd: 'mod_push',
  specs: [{ xep: 357, version: '0.4.1', status: 'complete' }],
  needs: ['host', 'iq', 'disco', 'hooks', 'sessions', 'storage', 'log', 'metrics', 'now', 'lasting'],
  options: {
    notify_on: { type: oneOf('all', 'messages'), default: 'all', help: 'Announce all messages, requests and subscriptions, or only messages with a text, encrypted ones, calls and invitations. Presence, chat states and the user\'s own messages are never announced.' },
    include_sender: { type: bool(), default: false, help: 'Whether the app server is told who wrote.' },
    include_body: { type: either(bool(), text()), default: DEFAULT_BODY, help: 'Whether the app server is given the text of the message, or the text that it gets in place of each. Of encrypted messages it never gets anything else.' },
  },
  start(parts, options: PushOptions) {
    startPush(parts, options)
  },
})

type Needed = Pick<Parts, 'host' | 'iq' | 'disco' | 'hooks' | 'sessions' | 'storage' | 'log' | 'metrics' | 'now' | 'lasting'>

/** What `mod_push_keepalive` asks of `mod_push` of the same host. */
interface Waker {
  /** Announces that there is something, without saying what. */
  wake(session: Session): void
  wakeAll(): Promise<void>
  /** Whether an account has registrations: those that are woken. */
  wakeAccount(owner: string): Promise<boolean>
  has(owner: string): Promise<boolean>
  registered: ((owner: string) => void) | undefined
  notified: ((session: Session) => void) | undefined
}
/** By host; in the part `lasting`. */
const WAKERS = 'push-wakers'
type Wakers = Map<string, Waker>

function startPush({ host, iq, disco, hooks, sessions, storage, log, metrics, now, lasting }: Needed, options: PushOptions): void {
  const { records } = storage
  const cache = lasting('push-registrations', () => new Map<string, readonly Registration[]>())
  const sent = metrics.counter('tidings_push_notifications_total', 'Notifications sent to app servers')
  const failed = metrics.counter('tidings_push_failures_total', 'Notifications that app servers refused or did not answer')
  /** Inactive clients whose acknowledgement is awaited. */
  const asked = new WeakSet<Session>()
  const waker: Waker = { wake, wakeAll, wakeAccount, has: async (owner) => (await registrations(owner)).length > 0, registered: undefined, notified: undefined }
  lasting<Wakers>(WAKERS, () => new Map()).set(host, waker)
  disco.feature('account', NS)
  hooks.released((units) => { for (const unit of units) cache.delete(unit) })

  function remember(owner: string, list: readonly Registration[]): readonly Registration[] {
    cache.delete(owner)
    cache.set(owner, list.length === 0 ? NONE : list)
    if (cache.size > CACHED_MAX) cache.delete(cache.keys().next().value as string)
    return list
  }

  /** The registrations of an account; a promise only where the driver of the storage cannot answer at once. */
  function registrations(owner: string): readonly Registration[] | Promise<readonly Registration[]> {
    const known = cache.get(owner)
    if (known !== undefined) return known
    const rows = records.range(TABLE, [owner])
    if (!(rows instanceof Promise)) return remember(owner, rows.map(({ key, value }) => registrationOf(key[1] as string, key[2] as string, value)))
    return rows.then((loaded) => cache.get(owner) ?? remember(owner, loaded.map(({ key, value }) => registrationOf(key[1] as string, key[2] as string, value))))
  }

  function save(owner: string, { jid, node, options: form, enabledAt, notified, count, failures, failingSince }: Registration): void {
    records.put(TABLE, [owner, jid, node], { options: form, enabledAt, notified, count, failures, failingSince })
  }

  function removeAll(owner: string, gone: (registration: Registration) => boolean, list: readonly Registration[]): void {
    for (const each of list) if (gone(each)) records.delete(TABLE, [owner, each.jid, each.node])
    remember(owner, list.filter((each) => !gone(each)))
  }

  /** §5 */
  iq.set(`${NS} enable`, 'account', async (request) => {
    requireOwner(request)
    const owner = request.from.bare
    const { jid, node } = targetOf(request.payload)
    if (jid === undefined) throw new StanzaError('bad-request', 'the jid is missing')
    const form = request.payload.getChild('x', FORMS_NS)
    if (form !== undefined) parseForm(form, { kinds: ['submit'], formType: PUBLISH_OPTIONS })
    const written = form === undefined ? '' : standalone(form).toString()
    if (Buffer.byteLength(written) > OPTIONS_BYTES_MAX) throw new StanzaError('not-acceptable', `the form has more than ${OPTIONS_BYTES_MAX} bytes`)
    const registration: Registration = { jid, node: node ?? '', options: written, enabledAt: now(), notified: '', count: 0, failures: 0, failingSince: 0, underWay: 0, waiting: undefined }
    const before = await registrations(owner)
    const old = before.find((each) => isSame(each, registration))
    if (old !== undefined) registration.notified = old.notified
    const others = before.filter((each) => each !== old)
    while (others.length >= REGISTRATIONS_MAX) {
      const [oldest] = others.toSorted((a, b) => a.enabledAt - b.enabledAt) as [Registration]
      others.splice(others.indexOf(oldest), 1)
      records.delete(TABLE, [owner, oldest.jid, oldest.node])
    }
    save(owner, registration)
    waker.registered?.(owner)
    remember(owner, [...others, registration])
    // It is one device: what waited on it before waits no longer than others do.
    for (const session of sessions.of(owner)) {
      if (session.get(REGISTRATION) !== nameOf(registration) || session === request.session) continue
      session.set(REGISTRATION, undefined)
      session.waitMs = undefined
    }
    request.session?.set(REGISTRATION, nameOf(registration))
    await storage.committed()
  })

  /** §6 */
  iq.set(`${NS} disable`, 'account', async (request) => {
    requireOwner(request)
    const owner = request.from.bare
    const { jid, node } = targetOf(request.payload)
    if (jid === undefined) throw new StanzaError('bad-request', 'the jid is missing')
    removeAll(owner, (each) => each.jid === jid && (node === undefined || each.node === node), await registrations(owner))
    await storage.committed()
  })

  hooks.accountRemoved(async (owner) => {
    cache.delete(owner)
    await records.deleteRange(TABLE, [owner])
  })

  // §7.3: the app server takes its permission to publish back.
  hooks.stampIncoming(({ stanza, from, to }) => {
    const span = stanza.name === 'message' ? stanza.find('pubsub', PUBSUB_NS) : undefined
    if (span === undefined) return
    const pubsub = stanza.childElement(span)
    const revoked = pubsub.getChildren('affiliation').some(({ attrs }) => attrs['jid'] === to.bare && attrs['affiliation'] === 'none')
    if (!revoked) return
    withRegistrations(to.bare, (list) => removeAll(to.bare, (each) => each.jid === from.toString() && each.node === (pubsub.attrs['node'] ?? ''), list))
  })

  hooks.waiting((owner, stanza, id, session) => {
    const name = session?.get(REGISTRATION)
    if (session !== undefined && name === undefined) return
    withRegistrations(owner, (list) => {
      if (!isWorth(stanza) || (session !== undefined && isOwn(session, stanza))) return
      if (session?.connected === true) return awaitAcknowledgement(session)
      const at = idOf(owner, stanza, id)
      for (const registration of list) {
        if (session !== undefined ? nameOf(registration) === name : sessionOf(owner, registration)?.connected !== true) announce(owner, registration, stanza, at)
      }
    })
  })

  // What waits for a session that is in the room is announced as it waits.
  hooks.missed((owner, stanza, sentTo) => {
    withRegistrations(owner, (list) => {
      if (!isWorth(stanza)) return
      const id = idOf(owner, stanza, undefined)
      for (const registration of list) {
        const session = sessionOf(owner, registration)
        if (session === undefined || !(session.connected || sentTo(session))) announce(owner, registration, stanza, id)
      }
    })
  })

  // The device that has no session finds in the archive what another device was sent.
  hooks.copy((delivery) => {
    const { to, stanza, archivedTo, toLocal, reached, id } = delivery
    if (!archivedTo || !toLocal || to.domain !== host || reached.length === 0) return
    withRegistrations(to.bare, (list) => {
      if (!isWorth(stanza)) return
      for (const registration of list) if (sessionOf(to.bare, registration) === undefined) announce(to.bare, registration, stanza, id)
    })
  })

  // What was on its way when the connection was lost, and after a restart what nobody had time to announce.
  hooks.detached(announceQueue)
  hooks.started(() => {
    for (const session of sessions.all()) if (!session.connected && session.host === host) announceQueue(session)
  })
  hooks.resumed((session) => {
    const name = session.get(REGISTRATION)
    if (name === undefined) return
    withRegistrations(session.owner, (list) => {
      const registration = list.find((each) => nameOf(each) === name)
      if (registration === undefined || registration.count === 0) return
      registration.count = 0
      save(session.owner, registration)
    })
  })

  /** Runs it with the registrations of an account, at once where they are known and there are any. */
  function withRegistrations(owner: string, run: (list: readonly Registration[]) => void): void {
    const list = registrations(owner)
    if (!(list instanceof Promise)) {
      if (list.length > 0) run(list)
    } else list.then(run).catch((error: unknown) => log.error({ what: 'push_failed', owner, error }))
  }

  function sessionOf(owner: string, registration: Registration): Session | undefined {
    const name = nameOf(registration)
    return sessions.of(owner).find((session) => session.get(REGISTRATION) === name)
  }

  function isWorth(stanza: Stanza): boolean {
    const importance = importanceOf(stanza)
    return importance === 'high' || (importance === 'low' && options.notify_on === 'all')
  }

  /** An inactive client may be suspended, and its connection lost without anybody knowing. */
  function awaitAcknowledgement(session: Session): void {
    if (asked.has(session)) return
    asked.add(session)
    setTimeout(() => {
      asked.delete(session)
      if (session.connected && !session.active) announceQueue(session)
    }, UNANSWERED_MS).unref()
  }

  /** Announces the latest message that the client has not acknowledged. */
  function announceQueue(session: Session): void {
    const name = session.get(REGISTRATION)
    if (name === undefined) return
    withRegistrations(session.owner, (list) => {
      const registration = list.find((each) => nameOf(each) === name)
      const latest = session.management?.queue.findLast(({ stanza }) => isWorth(stanza) && !isOwn(session, stanza))
      if (registration !== undefined && latest !== undefined) announce(session.owner, registration, latest.stanza, idOf(session.owner, latest.stanza, latest.id))
    })
  }

  /** Once for each message: what comes back from a session that is over was announced when it came. */
  function announce(owner: string, registration: Registration, stanza: Stanza, id: string): void {
    if (id <= registration.notified) return
    registration.notified = id
    registration.count++
    save(owner, registration)
    const session = sessionOf(owner, registration)
    if (session !== undefined && !session.connected) waker.notified?.(session)
    // The client that it wakes must find the message.
    storage.afterCommit(() => publish(owner, registration, stanza))
  }

  function wake(session: Session): void {
    const name = session.get(REGISTRATION)
    withRegistrations(session.owner, (list) => {
      const registration = list.find((each) => nameOf(each) === name)
      if (registration !== undefined) publish(session.owner, registration, undefined)
    })
  }

  async function wakeAll(): Promise<void> {
    let after: readonly string[] | undefined
    for (;;) {
      const page = await records.range(TABLE, [], { limit: WOKEN_AT_ONCE, ...(after === undefined ? {} : { after }) })
      for (const { key: [owner = '', jid, node] } of page) {
        if (Jid.tryParse(owner)?.domain !== host) continue
        const registration = (await registrations(owner)).find((each) => each.jid === jid && each.node === node)
        if (registration !== undefined) publish(owner, registration, undefined)
      }
      after = page.at(-1)?.key
      if (page.length < WOKEN_AT_ONCE) return
      await new Promise((resolve) => { setTimeout(resolve, 1000).unref() })
    }
  }

  async function wakeAccount(owner: string): Promise<boolean> {
    const list = await registrations(owner)
    // Should this process be killed before, the next one wakes them.
    if (list.length > 0) storage.afterCommit(() => { for (const registration of list) publish(owner, registration, undefined) })
    return list.length > 0
  }

  /** §7 */
  function publish(owner: string, registration: Registration, stanza: Stanza | undefined, tries = 0): void {
    if (registration.underWay >= UNDER_WAY_MAX) {
      registration.waiting = stanza ?? registration.waiting
      return
    }
    registration.underWay++
    sent.inc()
    const request = stanzaOf('iq', { type: 'set', from: host, to: registration.jid }, publication(registration, stanza, options))
    iq.request(request, ANSWER_MS).then((answer) => {
      registration.underWay--
      answered(owner, registration, answer)
      const againMs = stanza === undefined && answer?.type !== 'result' && refusalOf(answer).passing ? WAKE_AGAIN_MS[tries] : undefined
      if (againMs !== undefined) setTimeout(() => { if (cache.get(owner)?.includes(registration) === true) publish(owner, registration, undefined, tries + 1) }, againMs).unref()
      const next = registration.waiting
      if (next === undefined || cache.get(owner)?.includes(registration) !== true) return
      registration.waiting = undefined
      publish(owner, registration, next)
    }).catch((error: unknown) => log.error({ what: 'push_failed', owner, error }))
  }

  /** §7.1: an error ends the registration, at once unless it may pass. */
  function answered(owner: string, registration: Registration, answer: Stanza | undefined): void {
    const list = cache.get(owner)
    // It may have been disabled or enabled anew meanwhile.
    if (list?.includes(registration) !== true) return
    if (answer?.type === 'result') {
      if (registration.failures === 0) return
      registration.failures = 0
      return save(owner, registration)
    }
    failed.inc()
    const { condition, passing } = refusalOf(answer)
    if (registration.failures++ === 0) registration.failingSince = now()
    if (passing && (registration.failures < FAILURES_MAX || now() - registration.failingSince < FAILING_MS)) return save(owner, registration)
    log.info({ what: 'push_disabled', owner, jid: registration.jid, condition })
    removeAll(owner, (each) => each === registration, list)
  }
}

export interface PushKeepaliveOptions {
  resume_timeout: number
  wake_on_start: boolean
  wake_on_timeout: boolean
}

export const pushKeepalive = defineExtension({
  name: 'push-keepalive',
  ejabberd: 'mod_push_keepalive',
  specs: [],
  needs: ['host', 'here', 'calls', 'hooks', 'sessions', 'storage', 'log', 'every', 'now', 'lasting'],
  options: {
    resume_timeout: { type: duration({ min: 0, infinity: false }), default: 259_200_000, help: 'How long a session with push notifications waits for its client to come back, as long as there was nothing to announce; from then on as others do. 0: always as others do.' },
    wake_on_start: { type: bool(), default: false, help: 'Notify all clients when the server has started; of several nodes, those of an account when the node that had it has died or stopped and another has it.' },
    wake_on_timeout: { type: bool(), default: true, help: 'Notify a client shortly before its session ends.' },
  },
  start(parts, options: PushKeepaliveOptions) {
    const { host, calls, hooks, sessions, log, every, now, lasting } = parts
    const waker = lasting<Wakers>(WAKERS, () => new Map()).get(host)
    if (waker === undefined) {
      log.warn({ what: 'push_keepalive_without_push', host, text: 'mod_push_keepalive has no effect without mod_push.' })
      return
    }
    /** Sessions that wait for their clients, and whether these were woken. */
    const waiting = new Map<Session, boolean>()

    const wait = (session: Session): void => {
      if (session.get(REGISTRATION) === undefined || session.host !== host) return
      if (options.resume_timeout > 0) session.waitMs ??= Math.max(options.resume_timeout, session.management?.resumeMs ?? 0)
      waiting.set(session, false)
    }
    hooks.detached(wait)
    hooks.resumed((session) => { waiting.delete(session) })
    hooks.closed((session) => { waiting.delete(session) })
    waker.notified = (session) => {
      if (session.waitMs !== undefined) session.waitMs = now() - session.detachedAt + (session.management?.resumeMs ?? 0)
    }

    if (options.wake_on_timeout) {
      every(WAKE_CHECK_MS, () => {
        for (const [session, woken] of waiting) {
          const waitMs = session.waitMs ?? session.management?.resumeMs ?? 0
          // What waits only a little longer anyway is not worth it.
          if (woken || waitMs <= WAKE_BEFORE_MS || now() - session.detachedAt < waitMs - WAKE_BEFORE_MS) continue
          waiting.set(session, true)
          waker.wake(session)
        }
      })
    }

    /** Hosts that have started: a reload of the configuration is no start. */
    const begun = lasting('push-started', () => new Set<string>())
    hooks.started(() => {
      for (const session of sessions.all()) if (!session.connected) wait(session)
      if (options.wake_on_start && calls.alone && !begun.has(host)) waker.wakeAll().catch((error: unknown) => log.error({ what: 'push_failed', host, error }))
      begun.add(host)
    })
    if (options.wake_on_start && !calls.alone) wakeMoved(parts, waker)
  },
})

/**
 * Wakes the clients of accounts whose node is gone, once each, when they have come to another. The node that keeps the host sees to it that they come
 * somewhere, a number of them a second.
 */
function wakeMoved({ host, here, calls, hooks, storage: { records }, log }: Pick<Parts, 'host' | 'here' | 'calls' | 'hooks' | 'storage' | 'log'>, waker: Waker): void {
  const failed = (error: unknown): void => log.error({ what: 'push_failed', host, error })
  let isLooking = false
  let isToLookAgain = false

  waker.registered = (owner) => {
    if (records.get(HOMES, [owner]) !== calls.self) records.put(HOMES, [owner], calls.self)
  }
  const moved = async (owner: string): Promise<void> => {
    if (!await waker.has(owner) || !here(owner)) return
    // What is stored of an account that is here is in memory: nothing comes between.
    const before = records.get(HOMES, [owner]) as Value | undefined
    if (before === calls.self) return
    records.put(HOMES, [owner], calls.self)
    // From a node that is there it came in peace: its clients are asleep, and were not cut off.
    if (!calls.staying.includes(before as string)) await waker.wakeAccount(owner)
  }
  const look = async (): Promise<void> => {
    isToLookAgain = true
    if (isLooking) return
    isLooking = true
    try {
      while (isToLookAgain && here(host)) {
        isToLookAgain = false
        await wakeAll()
      }
    } finally {
      isLooking = false
    }
  }
  const wakeAll = async (): Promise<void> => {
    for (let after: readonly string[] | undefined; ;) {
      const page = await records.range(TABLE, [host], { limit: WOKEN_AT_ONCE, ...(after === undefined ? {} : { after }) })
      const owners = new Set(page.map(({ key }) => key[1] as string))
      await Promise.all(Array.from(owners, (owner) => calls.ask(owner, WAKE).catch((error: unknown) => { log.warn({ what: 'not_woken', owner, error }) })))
      after = page.at(-1)?.key
      if (page.length < WOKEN_AT_ONCE) return
      await new Promise((resolve) => { setTimeout(resolve, 1000).unref() })
    }
  }

  calls.serve(WAKE, async (owner) => {
    await moved(owner)
    return null
  })
  hooks.came((unit) => {
    if (unit === host) look().catch(failed)
    else if (unit.endsWith(`@${host}`)) moved(unit).catch(failed)
  })
  hooks.nodesLost(() => { if (here(host)) look().catch(failed) })
  hooks.started(() => { if (here(host)) look().catch(failed) })
  hooks.accountRemoved((owner) => { records.delete(HOMES, [owner]) })
}

/** The request that announces a message, or with `undefined` that the client should come. */
function publication(registration: Registration, stanza: Stanza | undefined, options: PushOptions): Element {
  const importance = stanza === undefined ? 'low' : importanceOf(stanza)
  const summary = stanza === undefined || importance !== 'high' ? undefined : summaryOf(registration, stanza, options)
  return xml('pubsub', { xmlns: PUBSUB_NS },
    xml('publish', { node: registration.node === '' ? undefined : registration.node },
      xml('item', null, xml('notification', { xmlns: NS }, summary, xml('priority', { xmlns: PRIORITY_NS }, importance === 'high' ? 'high' : 'low')))),
    registration.options !== '' && xml('publish-options', null, buildElement(Buffer.from(registration.options))))
}

function summaryOf({ count }: Registration, stanza: Stanza, options: PushOptions): Element {
  const message = unwrapped(stanza)?.element()
  const from = Jid.tryParse(message?.attrs['from'] ?? '')
  const body = message?.getChildText('body') ?? ''
  const encrypted = message?.getChildElements().some(isEncrypted) === true
  let shown: string | undefined
  if (typeof options.include_body === 'string') shown = body !== '' || encrypted ? options.include_body : undefined
  else if (options.include_body) shown = encrypted ? DEFAULT_BODY : body === '' ? undefined : body
  // Of an occupant the resource is the name; of others it tells a device.
  const sender = from === undefined || !options.include_sender ? undefined : message?.attrs['type'] === 'groupchat' ? from.toString() : from.bare
  return buildForm('submit', {
    formType: SUMMARY,
    fields: [
      { var: 'message-count', value: count },
      ...sender === undefined ? [] : [{ var: 'last-message-sender', value: sender }],
      ...shown === undefined ? [] : [{ var: 'last-message-body', value: [shown] }],
    ],
  })
}

/** What a stanza is worth to somebody who is away; undefined: nothing. */
function importanceOf(stanza: Stanza): 'high' | 'low' | undefined {
  if (stanza.name === 'iq') return stanza.type === 'get' || stanza.type === 'set' ? 'low' : undefined
  if (stanza.name === 'presence') return stanza.type === 'subscribe' ? 'low' : undefined
  const message = unwrapped(stanza)
  if (message === undefined || message.type === 'error' || message.type === 'headline') return undefined
  let says = false
  for (const { name, xmlns, start, end } of message.children) {
    // An empty body is `<body/>`.
    if (name === 'body' && xmlns === CLIENT_NS) {
      if (message.content.subarray(start, end).includes('</')) return 'high'
    } else if (xmlns === CALL_NS || xmlns === 'jabber:x:conference' || isEncryption(name, xmlns)) return 'high'
    else if (xmlns === MUC_USER_NS) {
      if (message.content.subarray(start, end).includes('<invite')) return 'high'
    } else if (!SAYS_NOTHING.has(xmlns) && name !== 'thread') says = true
  }
  return says && message.type !== 'groupchat' ? 'low' : undefined
}

function isEncryption(name: string, xmlns: string): boolean {
  return ENCRYPTED.has(xmlns) || (name === 'encryption' && xmlns === 'urn:xmpp:eme:0')
}

function isEncrypted(child: Element): boolean {
  return isEncryption(child.getName(), child.getNS() ?? '')
}

/** The message in the copy of one that somebody else sent (XEP-0280 §6); undefined for a copy of the user's own. */
function unwrapped(stanza: Stanza): Stanza | undefined {
  if (!stanza.children.some(({ xmlns }) => xmlns === CARBONS_NS)) return stanza
  // XEP-0280 §11: no copies but those of the account itself.
  const copy = stanza.from === stanza.to?.split('/', 1)[0] ? stanza.find('received', CARBONS_NS) : undefined
  const inner = copy === undefined ? undefined : stanza.childElement(copy).getChild('forwarded', FORWARD_NS)?.getChild('message', CLIENT_NS)
  return inner === undefined ? undefined : stanzaOf('message', inner.attrs, ...inner.getChildElements())
}

/** Whether a message of a room is the user's own, under the nickname that this client has there too. */
function isOwn(session: Session, stanza: Stanza): boolean {
  return stanza.type === 'groupchat' && session.directed.has(stanza.from ?? '')
}

/** The id of a message's delivery, which sorts by time: its own, or that of the archive of its account or of a room of ours. */
function idOf(owner: string, stanza: Stanza, id: string | undefined): string {
  if (id !== undefined) return id
  const message = stanza.name === 'message' ? unwrapped(stanza) : undefined
  if (message === undefined) return nextMessageId()
  return stanzaIdOf(message, owner) ?? stanzaIdOf(message, message.from?.split('/', 1)[0] ?? '') ?? nextMessageId()
}

function refusalOf(answer: Stanza | undefined): { condition: string; passing: boolean } {
  const error = answer?.element().getChild('error')
  if (error === undefined) return { condition: 'no answer', passing: true }
  const condition = error.getChildElements()[0]?.getName() ?? 'undefined-condition'
  return { condition, passing: error.attrs['type'] === 'wait' || PASSING.has(condition) }
}

function nameOf({ jid, node }: { readonly jid: string; readonly node: string }): string {
  return `${jid}\n${node}`
}

function isSame(a: Registration, b: Registration): boolean {
  return a.jid === b.jid && a.node === b.node
}

type Stored = Pick<Registration, 'options' | 'enabledAt' | 'notified' | 'count' | 'failures' | 'failingSince'>

function registrationOf(jid: string, node: string, value: Value): Registration {
  return { jid, node, ...(value as unknown as Stored), underWay: 0, waiting: undefined }
}

/** The app server and node that are meant. */
function targetOf(payload: Element): { jid: string | undefined; node: string | undefined } {
  const { jid: address, node } = payload.attrs
  if (node !== undefined && Buffer.byteLength(node) > NODE_BYTES_MAX) throw new StanzaError('not-acceptable', `the node has more than ${NODE_BYTES_MAX} bytes`)
  if (address === undefined) return { jid: undefined, node }
  const jid = Jid.tryParse(address)
  if (jid === undefined) throw new StanzaError('jid-malformed')
  return { jid: jid.toString(), node }
}

function requireOwner({ from, to }: IqRequest): void {
  if (from.bare !== to.bare) throw new StanzaError('forbidden')
}
