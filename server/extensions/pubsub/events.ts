/** XEP-0060 §7.1.2 and XEP-0163 §4.3: who hears of what happens at a node, and how it is told. */
import { Jid } from '../../../lib/jid.ts'
import { delayXml, DELAY_NS } from '../../../lib/stanza/delay.ts'
import { randomId, timeOfMessageId } from '../../../lib/stanza/ids.ts'
import { CLIENT_NS, makeStanza, type Stanza } from '../../../lib/stanza/stanza.ts'
import { escapeXml } from '../../../lib/xml/element.ts'
import type { Parts, Recipient } from '../extension.ts'
import type { Session } from '../../sessions/session.ts'
import type { Interests } from '../../sessions/capabilities.ts'
import type { NodeAccess } from './access.ts'
import type { NodeConfig } from './node-config.ts'
import type { RemoteContacts } from './contacts.ts'
import { bareOf, isAccount, type Item, type Node, type NodeStore, type Subscription } from './node-store.ts'
import { SHOWN } from './other-homes.ts'
import { DEFAULT_OPTIONS, type Show } from './subscription-options.ts'
import { summarises, summaryOf } from './summary.ts'

const EVENT_NS = 'http://jabber.org/protocol/pubsub#event'
const ADDRESS_NS = 'http://jabber.org/protocol/address'

export interface EventOptions {
  /** The full JID of the client that published, for contacts (XEP-0163 §4.3.1). */
  readonly publisher?: string | undefined
  /** It tells of these new items. */
  readonly items?: readonly { readonly payload: string }[]
  /** Only owners of the node hear of it. */
  readonly owners?: boolean
}

export interface Events {
  /** Tells everybody who hears of the node; `content` is what stands in `<event/>`. */
  send(node: Node, content: string, options?: EventOptions): void
  /** Sends the last item of a node to one address. */
  last(node: Node, to: Jid, session?: Session): void
  /** Sends the last item of a node to a subscriber, or to one of its clients, as the options of its subscription say. */
  lastTo(node: Node, subscription: Subscription, client?: Session): void
  /** The same to a client of a subscriber whose account is elsewhere. */
  lastToElsewhere(node: Node, subscription: Subscription, client: Jid): void
  /** An event of a service elsewhere, for the clients of an account here that are in one of these states of presence. */
  shown(to: Jid, shows: readonly Show[], event: Stanza): void
  /** A client has become available, or has got other interests: the last items of the nodes of one account that it wants. */
  greet(owner: string, client: Jid, interests: Interests, session?: Session): void
  /** One message about a node to one address. */
  tell(service: string, to: string, content: string): void
  /** A message of a service that tells of what was just written. */
  write(message: Stanza): void
}

/** What is told of an item; `publisher` is a bare JID, or empty. */
export type Told = Pick<Item, 'id' | 'payload' | 'publisher'>

function itemXml(node: Node, item: Told): string {
  const publisher = publisherShown(node, item)
  const start = `<item id='${escapeXml(item.id)}'${publisher === undefined ? '' : ` publisher='${escapeXml(publisher)}'`}`
  return item.payload === '' || !node.config.deliver_payloads ? `${start}/>` : `${start}>${item.payload}</item>`
}

/** §12.15: the address that an item comes with. */
export function publisherShown({ config, creator }: Node, { publisher }: Pick<Item, 'publisher'>): string | undefined {
  switch (config.itemreply) {
    case 'none': return undefined
    case 'owner': return creator
    case 'publisher': return publisher === '' ? undefined : publisher
    default: return config.itemreply satisfies never
  }
}

/** Whether only that something happened is told: there are no items (§4.3). */
export function isSignal({ persist_items: persists, deliver_payloads: delivers }: NodeConfig): boolean {
  return !persists && !delivers
}

/** `<items/>` of an event (§7.1.2): with payloads only when the node delivers them. */
export function itemsEvent(node: Node, items: readonly Told[]): string {
  return `<items node='${escapeXml(node.name)}'>${isSignal(node.config) ? '' : items.map((item) => itemXml(node, item)).join('')}</items>`
}

export function retractEvent(node: Node, ids: readonly string[]): string {
  return `<items node='${escapeXml(node.name)}'>${ids.map((id) => `<retract id='${escapeXml(id)}'/>`).join('')}</items>`
}

type Needed = Pick<Parts, 'host' | 'router' | 'rosters' | 'sessions' | 'capabilities' | 'storage' | 'now' | 'here' | 'pep'>

export function createEvents(parts: Needed, store: NodeStore, access: NodeAccess, remote: RemoteContacts): Events {
  const { host, router, rosters, sessions, capabilities, storage, now, here, pep } = parts

  /** Nodes whose newest item will be told to a client once its interests are known: it need not be told as the last item too. */
  const coming = new WeakMap<Session, Set<string>>()
  const comingKey = (node: Node): string => `${node.service} ${node.name}`

  function isComing(session: Session | undefined, node: Node): boolean {
    return session !== undefined && coming.get(session)?.has(comingKey(node)) === true
  }

  function note(session: Session, node: Node): void {
    const known = coming.get(session)
    if (known === undefined) coming.set(session, new Set([comingKey(node)]))
    else known.add(comingKey(node))
  }

  function message(service: string, type: string, content: string): Stanza {
    return makeStanza('message', { from: service, type: type === 'normal' ? undefined : type, id: randomId(9) },
      [{ name: 'event', xmlns: EVENT_NS, text: `<event xmlns='${EVENT_NS}'>${content}</event>` }])
  }

  function lastMessage(node: Node, item: Item): Stanza {
    return message(node.service, node.config.notification_type, itemsEvent(node, [item]))
      .append('delay', DELAY_NS, delayXml(node.service, timeOfMessageId(item.seq) ?? 0))
  }

  /** The last item, with a text when the subscriber wants one. */
  function lastFor(node: Node, { options }: Subscription, item: Item): Stanza {
    const body = options?.includeBody === true && summarises(node.config.type)
    return body ? withBody(lastMessage(node, item), [item]) : lastMessage(node, item)
  }

  /** What tells of a write is shown after its commit; an inactive client may have it held back, and forgotten with the session. */
  function multicast(stanza: Stanza, from: Jid, recipients: readonly Recipient[]): void {
    if (recipients.length === 0) return
    const idle = recipients.filter(({ session }) => session?.active === false)
    const others = idle.length === 0 ? recipients : recipients.filter(({ session }) => session?.active !== false)
    router.multicast(stanza, from, others, { durable: storage.dirty })
    if (idle.length > 0) router.multicast(stanza, from, idle)
  }

  /** Calls back with each available client of the account's contacts and of itself that wants events of the node; late for those not known yet. */
  function interested(node: Node, isItem: boolean, wanted: (client: Recipient, late: boolean) => void): Set<string> {
    const present = new Set<string>()
    const ask = (bare: string, presence: Stanza, client: Recipient): void => {
      present.add(bare)
      const interests = capabilities.interests(presence)
      if (interests?.has(node.name) === true) wanted(client, false)
      else if (interests === undefined) {
        const { session } = client
        if (isItem && session !== undefined) note(session, node)
        capabilities.whenKnown(presence, host, (found) => {
          if (session !== undefined) coming.get(session)?.delete(comingKey(node))
          if (found.has(node.name)) wanted(client, true)
        })
      }
    }
    for (const bare of [node.service, ...rosters.subscribers(node.service)]) {
      const here = sessions.of(bare)
      const elsewhere = remote.clients(node.service, bare)
      if ((here.length === 0 && elsewhere.size === 0) || !access.mayRead(node, jidOf(bare))) continue
      for (const session of here) if (session.presence !== undefined) ask(bare, session.presence, recipient(session.jid, session))
      for (const [full, presence] of elsewhere) ask(bare, presence, recipient(Jid.parse(full)))
    }
    return present
  }

  function sendPersonal(node: Node, content: string, { items, publisher }: EventOptions): void {
    const from = Jid.parse(node.service)
    const plain = message(node.service, node.config.notification_type, content)
    // XEP-0163 §4.3.1: only who has a presence subscription may learn of the resource.
    const shown = publisher === undefined ? plain : plain.append('addresses', ADDRESS_NS, `<addresses xmlns='${ADDRESS_NS}'><address type='replyto' jid='${escapeXml(publisher)}'/></addresses>`)
    const reached: Recipient[] = []
    const present = interested(node, items !== undefined, (client, late) => {
      if (late) multicast(shown, from, [client])
      else reached.push(client)
    })
    multicast(shown, from, reached)
    // §4.3.2: who has subscribed without sharing presence gets one message.
    const full = new Set(reached.map(({ jid }) => jid.toString()))
    sendToSubscribers(node, plain, items, ({ jid }) => (jid.resource === '' ? !present.has(jid.bare) : !full.has(jid.toString())))
  }

  /** Those of the subscribers whom the filter lets pass; each as its options say. */
  function sendToSubscribers(node: Node, plain: Stanza, items: EventOptions['items'], filter: (to: Recipient) => boolean = () => true): void {
    const from = Jid.parse(node.service)
    const text = items !== undefined && summarises(node.config.type)
    const alike: Recipient[] = []
    const readers: Recipient[] = []
    for (const subscription of store.subscriptions(node.service, node.name)) {
      const withText = text && subscription.options?.includeBody === true
      if (isShownElsewhere(node, subscription)) {
        tellShown(subscription, subscription.jid, withText ? withBody(plain, items ?? []) : plain)
        continue
      }
      const list = withText ? readers : alike
      for (const each of recipientsOf(node, subscription)) if (filter(each)) list.push(each)
    }
    multicast(plain, from, alike)
    if (readers.length > 0) multicast(withBody(plain, items ?? []), from, readers)
  }

  /** Where events of a subscription go at present (§6.3): to the address that is subscribed, or to its clients in the presence asked for. */
  function recipientsOf(node: Node, subscription: Subscription): Recipient[] {
    const to = addressOf(node, subscription)
    if (to === undefined) return []
    const { jid, options } = subscription
    const { shows } = options ?? DEFAULT_OPTIONS
    if (shows === undefined) return [recipient(to, sessions.get(jid))]
    const clients = to.resource === '' ? sessions.available(jid) : [sessions.get(jid)]
    return clients.flatMap((session) => (session !== undefined && isShown(session, shows) ? [recipient(session.jid, session)] : []))
  }

  /** The address of a subscription that is served at present. */
  function addressOf(node: Node, { jid, state, options }: Subscription): Jid | undefined {
    const to = state === 'subscribed' ? Jid.tryParse(jid) : undefined
    if (to === undefined || !access.mayRead(node, to)) return undefined
    const { deliver, expire } = options ?? DEFAULT_OPTIONS
    return !deliver || (typeof expire === 'number' && expire <= now()) ? undefined : to
  }

  /** Whether the presence that its events go by is known at another node. */
  function isShownElsewhere(node: Node, subscription: Subscription): boolean {
    if (subscription.options?.shows === undefined || here(bareOf(subscription.jid))) return false
    const to = addressOf(node, subscription)
    return to !== undefined && to.local !== '' && (to.domain === host || pep.of(to.domain) !== undefined)
  }

  function tellShown({ options }: Subscription, to: string, event: Stanza): void {
    router.tell(bareOf(to), SHOWN, to, (options?.shows ?? []).join(' '), event.toString())
  }

  return {
    send(node, content, options = {}) {
      if (options.owners === true) {
        const from = Jid.parse(node.service)
        const list = isAccount(node.service) ? [node.service] : store.affiliations(node.service, node.name).filter(({ affiliation }) => affiliation === 'owner').map(({ jid }) => jid)
        return multicast(message(node.service, 'headline', content), from, list.map((jid) => recipient(Jid.parse(jid))))
      }
      if (!node.config.deliver_notifications) return
      if (isAccount(node.service)) return sendPersonal(node, content, options)
      sendToSubscribers(node, message(node.service, node.config.notification_type, content), options.items)
    },
    last(node, to, session) {
      const item = lastItem(store, node, now())
      if (item !== undefined) multicast(lastMessage(node, item), Jid.parse(node.service), [recipient(to, session ?? sessions.get(to.toString()))])
    },
    lastTo(node, subscription, client) {
      const item = lastItem(store, node, now())
      if (item === undefined || !node.config.deliver_notifications) return
      if (isShownElsewhere(node, subscription)) return this.lastToElsewhere(node, subscription, Jid.parse(subscription.jid))
      const to = recipientsOf(node, subscription)
      const clientWants = client !== undefined && to.length > 0 && (subscription.options?.shows === undefined || to.some(({ session }) => session === client))
      multicast(lastFor(node, subscription, item), Jid.parse(node.service), client === undefined ? to : clientWants ? [recipient(client.jid, client)] : [])
    },
    lastToElsewhere(node, subscription, client) {
      const item = lastItem(store, node, now())
      if (item === undefined || !node.config.deliver_notifications || addressOf(node, subscription) === undefined) return
      const told = lastFor(node, subscription, item)
      if (subscription.options?.shows !== undefined) tellShown(subscription, client.toString(), told)
      else multicast(told, Jid.parse(node.service), [recipient(client)])
    },
    shown(to, shows, event) {
      const clients = to.resource === '' ? sessions.available(to.bare) : [sessions.get(to.toString())]
      multicast(event, Jid.parse(event.from ?? ''), clients.flatMap((session) => (session !== undefined && isShown(session, shows) ? [recipient(session.jid, session)] : [])))
    },
    greet(owner, client, interests, session) {
      if (interests.size === 0) return
      for (const [name, node] of store.nodesOf(owner)) {
        if (node.config.send_last_published_item !== 'on_sub_and_presence' || !node.config.deliver_notifications) continue
        if (interests.has(name) && !isComing(session, node) && access.mayRead(node, client)) this.last(node, client, session)
      }
    },
    tell(service, to, content) {
      multicast(message(service, 'headline', content), Jid.parse(service), [recipient(Jid.parse(to), sessions.get(to))])
    },
    write(stanza) { router.route(stanza, { durable: storage.dirty }) },
  }
}

/** §12.7 */
function withBody(plain: Stanza, items: readonly { readonly payload: string }[]): Stanza {
  const text = summaryOf(items.map(({ payload }) => payload))
  return text === undefined ? plain : plain.append('body', CLIENT_NS, `<body>${escapeXml(text)}</body>`)
}

/** Whether a client is in one of these states of presence. */
function isShown({ presence }: Session, shows: readonly Show[]): boolean {
  if (presence === undefined) return false
  const span = presence.find('show', CLIENT_NS)
  const show = span === undefined ? 'online' : presence.childElement(span).text().trim()
  return shows.some((each) => each === show)
}

function recipient(jid: Jid, session?: Session): Recipient {
  return { jid, session, escaped: undefined }
}

/** The newest item that has not expired. */
export function lastItem(store: NodeStore, node: Node, nowMs: number): Item | undefined {
  const item = store.items(node.service, node.name, 1)[0]
  return item === undefined || hasExpired(node, item.seq, nowMs) ? undefined : item
}

export function hasExpired(node: Node, seq: string, nowMs: number): boolean {
  const { item_expire: seconds } = node.config
  return seconds !== 'max' && (timeOfMessageId(seq) ?? 0) + Number(seconds) * 1000 <= nowMs
}

function jidOf(bare: string): Jid {
  return Jid.parse(bareOf(bare))
}
