/**
 * What can be done with nodes, whoever asks for it: each operation writes, trims and notifies in one turn. The protocol on top is in
 * requests.ts (XEP-0060 §5 to §7) and owner-requests.ts (§8).
 */
import { Jid } from '../../../lib/jid.ts'
import { StanzaError } from '../../../lib/stanza/errors.ts'
import { randomId } from '../../../lib/stanza/ids.ts'
import type { Session } from '../../sessions/session.ts'
import type { Parts } from '../extension.ts'
import { createNodeAccess, type NodeAccess } from './access.ts'
import { createRemoteContacts, type RemoteContacts } from './contacts.ts'
import { pubsubError, unsupported } from './errors.ts'
import { createEvents, hasExpired, itemsEvent, retractEvent, type Events } from './events.ts'
import { configForm, PERSONAL_DEFAULTS, SERVICE_DEFAULTS, type NodeConfig } from './node-config.ts'
import { escapeXml } from '../../../lib/xml/element.ts'
import { LEFT, WELCOME } from './other-homes.ts'
import { DEFAULT_OPTIONS, type SubscriptionOptions } from './subscription-options.ts'
import { bareOf, isAccount, itemBytes, type Item, type Node, type NodeStore, type Subscription } from './node-store.ts'

export interface EngineOptions {
  /** Items of one node (`max` stands for it). */
  readonly maxItems: number
  /** The longest time that items are kept, seconds; Infinity: for ever. */
  readonly maxExpireSeconds: number
  /** Subscriptions of one node. */
  readonly maxSubscriptions: number
  /** Whether there can be nodes at a service at all. */
  hasNodes(service: string): boolean
  /** Whether somebody may create a node at a service that is no account. */
  mayCreate(service: string, creator: Jid): boolean
  /** The operator's defaults of a new node, and what a node must be. */
  readonly defaults: Partial<NodeConfig>
  forced(node: string): Partial<NodeConfig>
}

export type EngineParts = Pick<Parts, 'host' | 'router' | 'rosters' | 'sessions' | 'capabilities' | 'storage' | 'limits' | 'now' | 'metrics' | 'here' | 'pep'>

/** An item as it is to be published. */
export interface NewItem {
  readonly id: string | undefined
  /** The payload serialised, with its namespaces; empty: none. */
  readonly payload: string
}

/** A change of a node's items; `publisher` is undefined when an extension made it. */
export interface Change { readonly service: string; readonly node: string; readonly publisher: Jid | undefined }

export interface Engine {
  readonly store: NodeStore
  readonly access: NodeAccess
  readonly events: Events
  readonly remote: RemoteContacts
  readonly options: EngineOptions
  now(): number
  /** The node; throws `item-not-found` when there is none. */
  require(service: string, name: string): Node
  defaults(service: string, name: string): NodeConfig
  /** Whether somebody may create nodes at a service; throws when nobody can. */
  mayCreate(service: string, creator: Jid): boolean
  /** Creates a node, its creator being the owner. Throws `conflict` when it exists, `resource-constraint` when there are too many. */
  create(service: string, name: string, creator: Jid, config: Partial<NodeConfig>): Node
  configure(node: Node, changes: Partial<NodeConfig>): Node
  delete(node: Node, redirect?: string): void
  /** Publishes items; answers their ids. */
  publish(node: Node, items: readonly NewItem[], publisher: Jid | undefined): readonly string[]
  /** Removes items that are there. */
  retract(node: Node, ids: readonly string[], notify: boolean, publisher: Jid | undefined): void
  purge(node: Node): void
  /** The items' ids that have not expired, oldest first. */
  order(node: Node): readonly { readonly id: string; readonly seq: string }[]
  item(node: Node, id: string): Item | undefined
  /** Subscribes an address, or answers the subscription that it has; `options` changes what it wants of it. */
  subscribe(node: Node, jid: Jid, options?: (before: SubscriptionOptions) => SubscriptionOptions): Subscription
  unsubscribe(node: Node, jid: string): void
  /** An owner gives, or takes away, a subscription; its subscriber hears of it (§8.8.4). */
  setSubscription(node: Node, subscription: Subscription, state: Subscription['state'] | 'none'): void
  watch(watcher: (change: Change) => void): void
  /** By node: what changes an item that the account itself publishes (PersonalNodes). */
  readonly preparing: Map<string, (owner: string, item: NewItem) => Promise<() => NewItem> | undefined>
  /** A client has become available: the last items of the services' nodes that it, or its account, has subscribed to (§4.3). */
  welcome(client: Session): void
  /** Removes what has expired. */
  expire(): void
  /** The presence of a client has ended (of all that are not here: without `client`), and with it the subscriptions that were to last as long (§12.4). */
  left(client?: Jid): void
  /** The same, told of an account elsewhere, of one subscription. */
  presenceEnded(service: string, node: string, jid: string): void
  /** A client of an account elsewhere has become available: it hears the last item of a node that this address is subscribed to. */
  welcomeElsewhere(service: string, node: string, jid: string, client: Jid): void
  /** Accounts (bare JIDs) that have subscriptions that last as long as their presence. */
  presentSubscribers(service: string): ReadonlySet<string>
  /** Says something to this extension at the home of a unit. */
  tell(unit: string, ...words: readonly string[]): void
  /** Whether a subscriber's presence is known, here or at another node. */
  knowsPresence(jid: Jid): boolean
  /** The account (a bare JID) is gone, and with it what it owns, subscribes to and may do. */
  forget(account: string): void
}

/** The largest payload that a node can be configured for, bytes. */
export const PAYLOAD_BYTES_MAX = 262_144
/** A name is part of keys of the store. */
const NAME_BYTES_MAX = 512
const EXPIRING_PER_STEP = 200
/** Nodes of services whose last items one client gets when it becomes available. */
const WELCOME_NODES = 200
/** Subscriptions of one node that the addresses of one account have. */
export const SUBSCRIPTIONS_PER_ENTITY = 20
/** Subscriptions of a node up to which its owners can subscribe those who have not asked. */
export const GIVEN_SUBSCRIPTIONS_MAX = 1000

export function createEngine(parts: EngineParts, store: NodeStore, options: EngineOptions): Engine {
  const { host, here, pep, router, rosters, limits, now, metrics } = parts
  const full = metrics.counter('tidings_pubsub_full_total', 'Items that were refused because the nodes of their owner hold as much as they may.')
  const access = createNodeAccess(store, rosters)
  const remote = createRemoteContacts()
  const events = createEvents(parts, store, access, remote)
  const watchers: ((change: Change) => void)[] = []
  let expireAfter: { readonly service: string; readonly node: string } | undefined

  function defaults(service: string, name: string): NodeConfig {
    return { ...(isAccount(service) ? PERSONAL_DEFAULTS : SERVICE_DEFAULTS), ...options.defaults, ...options.forced(name) }
  }

  function checked(name: string, config: NodeConfig): NodeConfig {
    const forced = { ...config, ...options.forced(name) }
    if (forced.max_items !== 'max' && Number(forced.max_items) > options.maxItems) throw new StanzaError('not-acceptable', `a node has at most ${options.maxItems} items`)
    if (forced.max_payload_size !== 'max' && Number(forced.max_payload_size) > PAYLOAD_BYTES_MAX) throw new StanzaError('not-acceptable', `a payload has at most ${PAYLOAD_BYTES_MAX} bytes`)
    const { maxExpireSeconds } = options
    const tooLong = forced.item_expire === 'max' ? maxExpireSeconds !== Infinity : Number(forced.item_expire) > maxExpireSeconds
    return tooLong ? { ...forced, item_expire: String(maxExpireSeconds) } : forced
  }

  function itemsMax({ config }: Node): number {
    return config.max_items === 'max' ? options.maxItems : Math.min(Number(config.max_items), options.maxItems)
  }

  /** §7.1.2: the oldest go when there are too many. */
  function trim(node: Node): void {
    const max = itemsMax(node)
    if (max === Infinity) return
    const over = store.count(node.service, node.name) - max
    if (over <= 0) return
    for (const item of store.order(node.service, node.name, over)) store.deleteItem(node.service, node.name, item)
  }

  function changed(node: Node, publisher: Jid | undefined): void {
    const change = { service: node.service, node: node.name, publisher }
    for (const watcher of watchers) watcher(change)
  }

  function requirePayload(node: Node, { payload }: NewItem): void {
    const { config } = node
    if (config.deliver_payloads && payload === '') throw pubsubError('bad-request', 'payload-required') // §7.1.3.7
    const max = config.max_payload_size === 'max' ? PAYLOAD_BYTES_MAX : Number(config.max_payload_size)
    if (Buffer.byteLength(payload) > max) throw pubsubError('not-acceptable', 'payload-too-big') // §7.1.3.4
  }

  /** §7.1.3.4: throws `node-full` when an item would have to go for these. */
  function requirePlace(node: Node, items: readonly { readonly id: string }[]): void {
    const { service, name } = node
    const added = new Set(items.map(({ id }) => id).filter((id) => store.item(service, name, id) === undefined)).size
    if (added > 0 && store.count(service, name) + added > itemsMax(node)) throw pubsubError('conflict', 'node-full')
  }

  /** Throws `resource-constraint` when all nodes of the same holder would have too many bytes after these items. */
  function requireRoom(node: Node, items: readonly { readonly id: string; readonly payload: string }[]): void {
    const { service, name } = node
    const bytes = store.bytes(store.holder(service, name) ?? '', service) + items.reduce((sum, item) => sum + itemBytes(item), 0)
    if (bytes <= limits.pubsubBytes) return
    // What makes room for them does not count.
    const replaced = items.flatMap(({ id }) => store.item(service, name, id) ?? [])
    const over = Math.max(0, store.count(service, name) - replaced.length + items.length - itemsMax(node))
    const ids = new Set(replaced.map(({ id }) => id))
    const oldest = store.order(service, name, over + ids.size).filter(({ id }) => !ids.has(id)).slice(0, over).flatMap(({ id }) => store.item(service, name, id) ?? [])
    const freed = [...replaced, ...oldest].reduce((sum, item) => sum + itemBytes(item), 0)
    if (bytes - freed <= limits.pubsubBytes) return
    full.inc()
    throw new StanzaError('resource-constraint', `nodes hold at most ${limits.pubsubBytes} bytes together`)
  }

  const engine: Engine = {
    store, access, events, remote, options, now, defaults,
    preparing: new Map(),
    require(service, name) {
      const node = store.node(service, name)
      if (node === undefined) throw new StanzaError('item-not-found')
      return node
    },
    mayCreate(service, creator) {
      if (!options.hasNodes(service)) throw unsupported('create-nodes') // §8.1.1
      return isAccount(service) ? service === creator.bare : options.mayCreate(service, creator)
    },
    create(service, name, creator, config) {
      if (store.node(service, name) !== undefined) throw new StanzaError('conflict') // §8.1.1
      if (Buffer.byteLength(name) > NAME_BYTES_MAX) throw new StanzaError('not-acceptable', 'the name of the node is too long')
      const owned = isAccount(service) ? store.nodesOf(service).size : store.createdBy(creator.bare, service)
      if (owned >= limits.pubsubNodes) throw pubsubError('resource-constraint', 'max-nodes-exceeded', { text: `more than ${limits.pubsubNodes} nodes` })
      const node: Node = { service, name, creator: creator.bare, created: now(), config: checked(name, { ...defaults(service, name), ...config }) }
      store.putNode(node)
      if (!isAccount(service)) store.setAffiliation(service, name, creator.bare, 'owner')
      return node
    },
    configure(before, changes) {
      const node: Node = { ...before, config: checked(before.name, { ...before.config, ...changes }) }
      store.putNode(node)
      if (!node.config.persist_items) store.purge(node.service, node.name)
      else trim(node)
      // Who may not read any more is not subscribed any more.
      if (node.config.access_model !== before.config.access_model || node.config.roster_groups_allowed !== before.config.roster_groups_allowed) reviewSubscriptions(engine, node)
      if (node.config.notify_config) {
        const form = node.config.deliver_payloads ? configForm('result', node.config).toString() : ''
        events.send(node, `<configuration node='${escapeXml(node.name)}'>${form}</configuration>`)
      }
      return node
    },
    delete(node, redirect) {
      if (node.config.notify_delete) {
        const inner = redirect === undefined ? '' : `<redirect uri='${escapeXml(redirect)}'/>`
        const content = `<delete node='${escapeXml(node.name)}'>${inner}</delete>`
        events.send(node, content)
        // §8.4.2: so do those whose request is pending
        for (const { jid, state } of store.subscriptions(node.service, node.name)) if (state === 'pending') events.tell(node.service, jid, content)
      }
      store.deleteNode(node.service, node.name)
      changed(node, undefined)
    },
    publish(node, items, publisher) {
      for (const item of items) requirePayload(node, item)
      if (node.config.persist_items && items.length > itemsMax(node)) throw pubsubError('not-allowed', 'max-items-exceeded')
      const written = items.map(({ id, payload }) => ({ id: id ?? randomId(), payload, publisher: publisher?.bare ?? '' }))
      if (node.config.persist_items) {
        if (node.config.publish_node_full === 'reject') requirePlace(node, written)
        if (publisher !== undefined) requireRoom(node, written)
        for (const item of written) store.putItem(node.service, node.name, item)
        trim(node)
      }
      events.send(node, itemsEvent(node, written), { items: written, publisher: publisher?.toString() })
      changed(node, publisher)
      return written.map(({ id }) => id)
    },
    retract(node, ids, notify, publisher) {
      const items = ids.map((id) => {
        const item = store.item(node.service, node.name, id)
        if (item === undefined) throw new StanzaError('item-not-found')
        return item
      })
      for (const item of items) store.deleteItem(node.service, node.name, item)
      if (notify || node.config.notify_retract) events.send(node, retractEvent(node, ids), { publisher: publisher?.toString() })
      changed(node, publisher)
    },
    purge(node) {
      store.purge(node.service, node.name)
      if (node.config.notify_retract) events.send(node, `<purge node='${escapeXml(node.name)}'/>`)
      changed(node, undefined)
    },
    order(node) {
      const all = store.order(node.service, node.name)
      return node.config.item_expire === 'max' ? all : all.filter(({ seq }) => !hasExpired(node, seq, now()))
    },
    item(node, id) {
      const item = store.item(node.service, node.name, id)
      return item === undefined || hasExpired(node, item.seq, now()) ? undefined : item
    },
    subscribe(node, jid, change) {
      const address = jid.toString()
      const before = store.subscription(node.service, node.name, address)
      if (before !== undefined) {
        if (before.state === 'pending') throw pubsubError('not-authorized', 'pending-subscription') // §6.1.3.7
        if (change === undefined) return before
        const changed = { ...before, options: change(before.options ?? DEFAULT_OPTIONS) }
        store.subscribe(node.service, node.name, changed)
        return changed
      }
      const wanted = change?.(DEFAULT_OPTIONS)
      const own = store.placesOf(jid.bare, node.service, node.name).filter(({ kind }) => kind === 's').length
      if (own >= SUBSCRIPTIONS_PER_ENTITY || store.subscriptionCount(node.service, node.name) >= options.maxSubscriptions) throw pubsubError('policy-violation', 'too-many-subscriptions', { type: 'wait' }) // §6.1.3.9
      const pending = node.config.access_model === 'authorize' && !access.mayRead(node, jid)
      const subscription: Subscription = { jid: address, subid: randomId(), state: pending ? 'pending' : 'subscribed', ...(wanted === undefined ? {} : { options: wanted }) }
      store.subscribe(node.service, node.name, subscription)
      if (!pending && node.config.notify_sub) events.send(node, subscriptionXml(node, subscription), { owners: true })
      if (!pending && node.config.send_last_published_item !== 'never') events.lastTo(node, subscription)
      return subscription
    },
    unsubscribe(node, jid) {
      const subscription = store.subscription(node.service, node.name, jid)
      store.unsubscribe(node.service, node.name, jid)
      if (subscription !== undefined && node.config.notify_sub) events.send(node, subscriptionXml(node, { ...subscription, state: 'none' }), { owners: true })
    },
    setSubscription(node, subscription, state) {
      // Who has not asked gets what is published from now on.
      const asked = store.subscription(node.service, node.name, subscription.jid)?.state === 'pending'
      if (state === 'none') store.unsubscribe(node.service, node.name, subscription.jid)
      else store.subscribe(node.service, node.name, { ...subscription, state })
      events.tell(node.service, subscription.jid, subscriptionXml(node, { ...subscription, state }))
      if (state === 'subscribed' && asked && node.config.send_last_published_item !== 'never') events.lastTo(node, { ...subscription, state })
    },
    watch(watcher) { watchers.push(watcher) },
    forget(account) {
      for (const { service, node: name, kind } of store.placesOf(account)) {
        const node = kind === 'a' ? store.node(service, name) : undefined
        if (node === undefined || store.affiliation(service, name, account) !== 'owner') continue
        const others = store.affiliations(service, name).some(({ jid, affiliation }) => affiliation === 'owner' && jid !== account)
        if (!others && !isAccount(service)) engine.delete(node)
      }
      store.erase(account)
    },
    welcome(client) {
      const addresses = new Set([client.owner, client.jid.toString()])
      const places = store.placesOf(client.owner).filter(({ service, kind, jid }) => kind === 's' && !isAccount(service) && addresses.has(jid))
      for (const { service, node: name, jid } of places.slice(0, WELCOME_NODES)) {
        if (!here(service)) {
          router.tell(service, WELCOME, name, jid, client.jid.toString())
          continue
        }
        const node = store.node(service, name)
        const subscription = store.subscription(service, name, jid)
        if (node?.config.send_last_published_item === 'on_sub_and_presence' && subscription !== undefined) events.lastTo(node, subscription, client)
      }
    },
    left(client) {
      for (const { service, node: name, jid } of store.temporary(client?.bare)) {
        if (parts.sessions.get(jid)?.presence !== undefined) continue
        if (!jid.includes('/') && parts.sessions.of(jid).some(({ presence }) => presence !== undefined)) continue
        if (here(service)) engine.presenceEnded(service, name, jid)
        else router.tell(service, LEFT, name, jid)
      }
    },
    presenceEnded(service, name, jid) {
      const node = store.node(service, name)
      if (node === undefined) store.unsubscribe(service, name, jid)
      // It may have got other options meanwhile.
      else if (store.subscription(service, name, jid)?.options?.expire === 'presence') engine.unsubscribe(node, jid)
    },
    welcomeElsewhere(service, name, jid, client) {
      const node = store.node(service, name)
      const subscription = store.subscription(service, name, jid)
      if (node?.config.send_last_published_item === 'on_sub_and_presence' && subscription !== undefined) events.lastToElsewhere(node, subscription, client)
    },
    presentSubscribers(service) {
      const accounts = new Set<string>()
      for (const { name } of store.nodes(service)) {
        for (const { jid, options: wanted } of store.subscriptions(service, name)) {
          if (wanted?.expire === 'presence' && engine.knowsPresence(Jid.parse(jid))) accounts.add(bareOf(jid))
        }
      }
      return accounts
    },
    tell(unit, ...words) { router.tell(unit, ...words) },
    knowsPresence: ({ local, domain }) => local !== '' && (domain === host || pep.of(domain) !== undefined),
    expire() {
      for (const { service, node: name, jid } of store.ended(now(), EXPIRING_PER_STEP)) {
        if (!here(service)) continue
        const node = store.node(service, name)
        const subscription = store.subscription(service, name, jid)
        if (node === undefined || subscription === undefined) store.unsubscribe(service, name, jid)
        else {
          engine.unsubscribe(node, jid)
          events.tell(service, jid, subscriptionXml(node, { ...subscription, state: 'none' }))
        }
      }
      const places = store.expiring(expireAfter, EXPIRING_PER_STEP)
      for (const { service, node: name } of places) {
        if (!here(service)) continue
        const node = store.node(service, name)
        if (node === undefined) continue
        for (const item of store.order(service, name)) {
          if (!hasExpired(node, item.seq, now())) break
          store.deleteItem(service, name, item)
        }
      }
      expireAfter = places.length < EXPIRING_PER_STEP ? undefined : places.at(-1)
    },
  }
  return engine
}

export function subscriptionXml(node: Pick<Node, 'name'>, { jid, subid, state }: { readonly jid: string; readonly subid: string; readonly state: string }): string {
  return `<subscription node='${escapeXml(node.name)}' jid='${escapeXml(jid)}' subscription='${state}'${subid === '' ? '' : ` subid='${escapeXml(subid)}'`}/>`
}

/**
 * XEP-0163 §8.1, XEP-0060 §8.2, §8.7.4: ends the subscriptions of those who may not read the node any more, and grants the requests of those
 * who may; `contacts`: only of these.
 */
export function reviewSubscriptions(engine: Engine, node: Node, contacts?: ReadonlySet<string>): void {
  const { store, access, events } = engine
  const isAsked = node.config.access_model === 'authorize' // who was let in once stays
  for (const subscription of store.subscriptions(node.service, node.name)) {
    const jid = Jid.tryParse(subscription.jid)
    if (jid === undefined || contacts?.has(jid.bare) === false) continue
    const reads = access.mayRead(node, jid)
    if (reads && subscription.state === 'pending') engine.setSubscription(node, subscription, 'subscribed')
    if (isAsked ? access.affiliation(node, jid) !== 'outcast' : reads) continue
    store.unsubscribe(node.service, node.name, subscription.jid)
    events.tell(node.service, subscription.jid, subscriptionXml(node, { ...subscription, subid: '', state: 'none' }))
  }
}
