// XEP-0160: Best Practices for Handling Offline Messages, version 1.0.1 (2016-10-07)
import { createHash } from 'node:crypto'
import { withDelay } from '../../lib/stanza/delay.ts'
import { readStanza } from '../../lib/stanza/read.ts'
import { nextMessageId } from '../../lib/stanza/ids.ts'
import { CLIENT_NS, type Stanza, stanzaOf } from '../../lib/stanza/stanza.ts'
import { bool, oneOf, shaperRule } from '../config/options.ts'
import type { Delivery } from '../router/hooks.ts'
import type { Session, Taken } from '../sessions/session.ts'
import type { QueuedStanza } from '../storage/shapes.ts'
import { defineExtension } from './extension.ts'

/** XEP-0227 */
const PIE_NS = 'urn:xmpp:pie:0'
const HINTS_NS = 'urn:xmpp:hints'
const CHAT_STATES_NS = 'http://jabber.org/protocol/chatstates'
const STANZA_ID_NS = 'urn:xmpp:sid:0'
/** Messages kept for an account that no rule speaks of, as in ejabberd. */
const MESSAGES_MAX = 100
/** Key [owner, mark]: a message that was imported, which is not taken in again. */
const IMPORTED_TABLE = 'offline-imported'
const MARK_LENGTH = 22
/** Messages taken from storage at a time. */
const PAGE = 200
/** Session value: the client fetches messages itself, and no client of the account is sent them (XEP-0013 §2.2). */
export const FLEXIBLE_OFFLINE = 'flexibleOffline'

export interface OfflineOptions {
  access_max_user_messages: string
  store_empty_body: 'true' | 'false' | 'unless_chat_state'
  store_groupchat: boolean
  bounce_groupchat: boolean
  use_mam_for_storage: boolean
}

export const offline = defineExtension({
  name: 'offline',
  ejabberd: 'mod_offline',
  specs: [{ xep: 160, version: '1.0.1', status: 'complete' }],
  features: ['msgoffline'],
  needs: ['host', 'hooks', 'bind2', 'waiting', 'sessions', 'storage', 'access', 'metrics', 'log', 'lasting', 'accountData'],
  options: {
    access_max_user_messages: { type: shaperRule(), default: 'max_user_offline_messages', help: 'How many messages are kept for an account: the name of a shaper rule, or a number. What comes back from a session that ended is kept beyond it.' },
    store_empty_body: { type: oneOf('true', 'false', 'unless_chat_state'), default: 'unless_chat_state', help: 'Whether messages without a body are kept.' },
    store_groupchat: { type: bool(), default: false, help: 'Keep messages of type groupchat.' },
    bounce_groupchat: { type: bool(), default: false, help: 'Answer messages of type groupchat that are not kept with an error.' },
    use_mam_for_storage: { type: bool(), default: false, help: 'Take offline messages from the archive.', ignored: 'has no effect: offline messages have a list of their own, whether the archive has them too or not.' },
  },
  start({ host, hooks, bind2, waiting, sessions, storage, access, metrics, log, lasting, accountData }, options: OfflineOptions) {
    const { offline: queue } = storage
    const stored = metrics.counter('tidings_offline_stored_total', 'Messages kept for accounts that were away')
    const refused = metrics.counter('tidings_offline_refused_total', 'Messages refused because the list of an account was full')
    /** By account: messages that a session is getting which does not outlive the process. */
    const flights = lasting('offline-flights', () => new Map<string, Set<string>>())
    /** Accounts with messages that somebody was getting and did not get. */
    const stranded = new Set<string>()

    /** Has a message stay in the queue, and be sent to nobody else, until it has been taken. */
    function inFlight(owner: string, id: string): Taken {
      const ids = flights.get(owner) ?? new Set<string>()
      flights.set(owner, ids)
      ids.add(id)
      return (arrived) => {
        ids.delete(id)
        if (ids.size === 0 && flights.get(owner) === ids) flights.delete(owner)
        if (arrived) queue.remove(owner, [id])
        else if (!stranded.has(owner)) {
          stranded.add(owner)
          // Not before what the session hands back has found its way.
          setImmediate(drainAnywhere, owner)
        }
      }
    }

    /** To whoever has come since. */
    function drainAnywhere(owner: string): void {
      stranded.delete(owner)
      const session = sessions.available(owner).find((each) => each.connected)
      if (session !== undefined) drain(session)
    }

    function keep({ to, stanza, id, time }: Delivery): void {
      // As it will be delivered; one that comes back from a session keeps the delay it has.
      queue.push(to.bare, { id, bytes: withDelay(stanza, host, time).bytes() })
    }

    hooks.undeliverable((delivery) => {
      if (!delivery.toLocal || delivery.to.domain !== host) return false
      const fate = fateOf(delivery, options)
      if (fate !== 'keep') return fate === 'drop'
      const owner = delivery.to.bare
      // What was accepted once stays: whoever sent it takes it for safe.
      if (delivery.accepted !== true && queue.count(owner) >= limitFor(access.value(options.access_max_user_messages, { jid: delivery.to }), options.access_max_user_messages)) {
        log.info({ what: 'offline_queue_full', owner })
        refused.inc()
        return false // RFC 6121 §8.5.2.2.1: service-unavailable
      }
      keep(delivery)
      delivery.durable = true
      stored.inc()
      waiting(delivery.to.bare, delivery.stanza, delivery.id)
      return true
    })

    // Beyond the limit too: it leaves at once, unless the process is killed.
    hooks.safeguard((delivery) => {
      if (!delivery.toLocal || delivery.to.domain !== host || fateOf(delivery, options) !== 'keep') return undefined
      keep(delivery)
      delivery.durable = true
      return inFlight(delivery.to.bare, delivery.id)
    })

    /**
     * Sends a page. A resumable stream's queue takes a message over in the commit that removes it here. For any other session it
     * stays until the network has taken it: should the process die in between, the message comes twice rather than never.
     */
    function sendPage(session: Session, page: readonly QueuedStanza[]): void {
      const { owner } = session
      const resumable = session.management?.resumable === true
      const flying = flights.get(owner)
      for (const { id, bytes } of page) {
        if (session.ended) return
        if (flying?.has(id) === true) continue
        let stanza: Stanza
        try {
          stanza = readStanza(bytes)
        } catch (error) {
          log.error({ what: 'offline_message_unreadable', owner, id, error })
          queue.remove(owner, [id])
          continue
        }
        if (resumable) queue.remove(owner, [id])
        session.send(stanza, { durable: true, id, kept: true, taken: resumable ? undefined : inFlight(owner, id) })
      }
    }

    async function drainSlowly(session: Session, first: Promise<readonly QueuedStanza[]> | readonly QueuedStanza[]): Promise<void> {
      let page = await first
      for (;;) {
        if (session.ended) return
        sendPage(session, page)
        const last = page.at(-1)
        if (page.length < PAGE || last === undefined) return
        page = await queue.list(session.owner, PAGE, last.id)
      }
    }

    function drain(session: Session): void {
      // RFC 6121 §4.7.2.3: a negative priority takes no messages.
      if (session.priority < 0 || queue.count(session.owner) === 0 || sessions.of(session.owner).some((each) => each.get(FLEXIBLE_OFFLINE) === true)) return
      let page = queue.list(session.owner, PAGE)
      if (page instanceof Promise) {
        drainSlowly(session, page).catch((error: unknown) => log.error({ what: 'offline_drain_failed', owner: session.owner, error }))
        return
      }
      // All in this turn: nothing that is sent to the session meanwhile can overtake.
      for (;;) {
        sendPage(session, page)
        const last = page.at(-1)
        if (page.length < PAGE || last === undefined || session.ended) return
        const next = queue.list(session.owner, PAGE, last.id)
        if (next instanceof Promise) {
          drainSlowly(session, next).catch((error: unknown) => log.error({ what: 'offline_drain_failed', owner: session.owner, error }))
          return
        }
        page = next
      }
    }

    hooks.available(drain)
    // XEP-0386 §3.2: what such a client finds in its archive is not sent to it beside that. What is not there is.
    bind2.bound(async ({ owner }) => {
      if (queue.count(owner) === 0) return undefined
      let page = await queue.list(owner, PAGE)
      for (;;) {
        const { items } = await storage.archive.query(owner, { ids: page.map(({ id }) => id), max: page.length, direction: 'forward' })
        queue.remove(owner, items.map(({ id }) => id))
        const last = page.at(-1)
        if (page.length < PAGE || last === undefined) return undefined
        page = await queue.list(owner, PAGE, last.id)
      }
    })
    accountData.exports(async function* (owner) {
      let after: string | undefined
      for (;;) {
        const page = await queue.list(owner, PAGE, after)
        if (page.length > 0 && after === undefined) yield `<offline-messages xmlns='${PIE_NS}'>`
        for (const { bytes } of page) yield bytes.toString().replace(/^<message(?! xmlns=)/, `<message xmlns='${CLIENT_NS}'`)
        after = page.at(-1)?.id ?? after
        if (page.length < PAGE) break
      }
      if (after !== undefined) yield '</offline-messages>'
    })
    accountData.imports(`${PIE_NS} offline-messages`, async (owner, list) => {
      for (const message of list.getChildren('message', CLIENT_NS)) {
        const { xmlns: _xmlns, ...attrs } = message.attrs
        const bytes = stanzaOf('message', { ...attrs, to: owner }, ...message.getChildElements()).bytes()
        const mark = createHash('sha256').update(bytes).digest('base64url').slice(0, MARK_LENGTH)
        if (await storage.records.get(IMPORTED_TABLE, [owner, mark]) !== undefined) continue
        storage.records.put(IMPORTED_TABLE, [owner, mark], true)
        queue.push(owner, { id: nextMessageId(), bytes })
      }
    })
    hooks.accountRemoved(async (owner) => {
      await storage.records.deleteRange(IMPORTED_TABLE, [owner])
      flights.delete(owner)
      await queue.clear(owner)
    })
  },
})

/** What becomes of a message that nobody is there for; the router refuses some types and drops others (RFC 6121 §8.5.2.2). */
function fateOf(delivery: Delivery, options: OfflineOptions): 'keep' | 'drop' | 'refuse' {
  const { stanza } = delivery
  const type = stanza.attrs['type']
  // XEP-0160 §3
  if (stanza.name !== 'message' || type === 'error' || type === 'headline') return 'refuse'
  if (type === 'groupchat' && !options.store_groupchat) return options.bounce_groupchat ? 'refuse' : 'drop'
  const content = contentOf(stanza)
  if (delivery.noOffline || content.hint === 'no-store') return content.body ? 'refuse' : 'drop'
  if (content.hint !== 'store' && !content.body) {
    // Of the moment: nobody misses it, so nobody is told.
    if (options.store_empty_body === 'false') return 'drop'
    if (options.store_empty_body === 'unless_chat_state' && content.onlyChatState) return 'drop'
  }
  return 'keep'
}

function limitFor(value: string | number | undefined, rule: string): number {
  if (typeof value === 'number') return value
  if (value === 'infinity') return Infinity
  const number = value === undefined ? Number(rule) : Number(value)
  return Number.isInteger(number) ? number : MESSAGES_MAX
}

interface Content {
  readonly body: boolean
  /** Nothing but a chat state and what goes with it (XEP-0085). */
  readonly onlyChatState: boolean
  readonly hint: 'store' | 'no-store' | undefined
}

function contentOf(stanza: Stanza): Content {
  let body = false
  let states = 0
  let others = 0
  let hint: Content['hint']
  for (const { name, xmlns } of stanza.children) {
    if (name === 'body' && xmlns === CLIENT_NS) body = true
    else if (xmlns === CHAT_STATES_NS) states++
    else if (xmlns === HINTS_NS) {
      // XEP-0334 §4: what must not be stored goes before what should be.
      if (name === 'no-store') hint = 'no-store'
      else if (name === 'store' && hint === undefined) hint = 'store'
    } else if (xmlns !== STANZA_ID_NS && name !== 'thread') others++
  }
  return { body, onlyChatState: states > 0 && others === 0 && !body, hint }
}
