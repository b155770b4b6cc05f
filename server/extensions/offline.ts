// XEP-0160: Best Practices for Handling Offline Messages, version 1.0.1 (2016-10-07)
import { withDelay } from '../../lib/stanza/delay.ts'
import { readStanza } from '../../lib/stanza/read.ts'
import { CLIENT_NS, type Stanza } from '../../lib/stanza/stanza.ts'
import { bool, oneOf, shaperRule } from '../config/options.ts'
import type { Session } from '../sessions/session.ts'
import type { QueuedStanza } from '../storage/shapes.ts'
import { defineExtension } from './extension.ts'

const HINTS_NS = 'urn:xmpp:hints'
const CHAT_STATES_NS = 'http://jabber.org/protocol/chatstates'
const STANZA_ID_NS = 'urn:xmpp:sid:0'
/** Messages kept for an account that no rule speaks of, as in ejabberd. */
const MESSAGES_MAX = 100
/** Messages taken from storage at a time. */
const PAGE = 200
/** Session value: the client fetches messages itself (XEP-0013). */
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
  specs: [
    { xep: 160, version: '1.0.1', status: 'complete' },
    { xep: 203, version: '2.0', status: 'complete' },
  ],
  features: ['msgoffline'],
  needs: ['host', 'hooks', 'storage', 'access', 'metrics', 'log'],
  options: {
    access_max_user_messages: { type: shaperRule(), default: 'max_user_offline_messages', help: 'How many messages are kept for an account: the name of a shaper rule, or a number. What comes back from a session that ended is kept beyond it.' },
    store_empty_body: { type: oneOf('true', 'false', 'unless_chat_state'), default: 'unless_chat_state', help: 'Whether messages without a body are kept.' },
    store_groupchat: { type: bool(), default: false, help: 'Keep messages of type groupchat.' },
    bounce_groupchat: { type: bool(), default: false, help: 'Answer messages of type groupchat that are not kept with an error.' },
    use_mam_for_storage: { type: bool(), default: false, help: 'Take offline messages from the archive.', ignored: 'has no effect: offline messages have a list of their own, whether the archive has them too or not.' },
  },
  start({ host, hooks, storage, access, metrics, log }, options: OfflineOptions) {
    const { offline: queue } = storage
    const stored = metrics.counter('tidings_offline_stored_total', 'Messages kept for accounts that were away')
    const refused = metrics.counter('tidings_offline_refused_total', 'Messages refused because the list of an account was full')
    /** By owner: messages that were sent to a session without stream management and leave the queue after the commit. */
    const leaving = new Map<string, Set<string>>()

    hooks.undeliverable((delivery) => {
      const { stanza } = delivery
      if (!delivery.toLocal || delivery.to.domain !== host || stanza.name !== 'message') return false
      const owner = delivery.to.bare
      const type = stanza.attrs['type']
      // XEP-0160 §3; what becomes of these is the router's (RFC 6121 §8.5.2.2).
      if (type === 'error' || type === 'headline') return false
      if (type === 'groupchat' && !options.store_groupchat) return !options.bounce_groupchat
      const content = contentOf(stanza)
      if (delivery.noOffline || content.hint === 'no-store') return !content.body
      if (content.hint !== 'store' && !content.body) {
        // Of the moment: nobody misses it, so nobody is told.
        if (options.store_empty_body === 'false') return true
        if (options.store_empty_body === 'unless_chat_state' && content.onlyChatState) return true
      }
      // Back from a session that ended before the message could leave the queue: it just stays.
      if (leaving.get(owner)?.delete(delivery.id) === true) return true
      // What was accepted once stays: whoever sent it thinks that it is safe.
      if (delivery.accepted !== true && queue.count(owner) >= limitFor(access.value(options.access_max_user_messages, { jid: delivery.to }), options.access_max_user_messages)) {
        log.info({ what: 'offline_queue_full', owner })
        refused.inc()
        return false // RFC 6121 §8.5.2.2.1: service-unavailable
      }
      // As it will be delivered; one that comes back from a session keeps the delay it has.
      queue.push(owner, { id: delivery.id, bytes: withDelay(stanza, host, delivery.time).bytes() })
      delivery.durable = true
      stored.inc()
      return true
    })

    /**
     * Sends a page. A resumable stream's queue takes a message over in the commit that removes it here. Any other session gets
     * it first: should the process die in between, the message comes twice rather than never.
     */
    function sendPage(session: Session, page: readonly QueuedStanza[]): void {
      const owner = session.owner
      const pending = leaving.get(owner)
      const entries = pending === undefined ? page : page.filter((entry) => !pending.has(entry.id))
      if (entries.length === 0) return
      const ids = entries.map((entry) => entry.id)
      const resumable = session.management?.resumable === true
      // Removed before they are sent: when the session ends midway, what it took comes back and is put in again.
      if (resumable) queue.remove(owner, ids)
      else leave(owner, ids)
      for (const [position, entry] of entries.entries()) {
        if (session.ended) {
          for (const rest of entries.slice(position)) {
            if (resumable) queue.push(owner, rest)
            else leaving.get(owner)?.delete(rest.id)
          }
          return
        }
        try {
          session.send(readStanza(entry.bytes), { durable: true, id: entry.id, kept: true })
        } catch (error) {
          log.error({ what: 'offline_message_unreadable', owner, id: entry.id, error })
        }
      }
    }

    function leave(owner: string, ids: readonly string[]): void {
      const pending = leaving.get(owner) ?? new Set<string>()
      leaving.set(owner, pending)
      for (const id of ids) pending.add(id)
      storage.afterCommit(() => {
        const left = ids.filter((id) => pending.delete(id))
        if (pending.size === 0 && leaving.get(owner) === pending) leaving.delete(owner)
        if (left.length > 0) queue.remove(owner, left)
      })
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

    hooks.available((session) => {
      // RFC 6121 §4.7.2.3: a negative priority takes no messages.
      if (session.priority < 0 || session.get(FLEXIBLE_OFFLINE) === true || queue.count(session.owner) === 0) return
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
    })
    hooks.accountRemoved(async (owner) => {
      leaving.delete(owner)
      await queue.clear(owner)
    })
  },
})

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
