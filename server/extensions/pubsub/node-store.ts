/** Nodes, items, affiliations and subscriptions of all services, over records. A service is a domain or the bare JID of an account. */
import { Recent } from '../../../lib/recent.ts'
import { nextMessageId } from '../../../lib/stanza/ids.ts'
import type { Key, MaybePromise, Records, Value } from '../../storage/shapes.ts'
import { PERSONAL_DEFAULTS, SERVICE_DEFAULTS, type NodeConfig } from './node-config.ts'
import { areSet, DEFAULT_OPTIONS, type SubscriptionOptions } from './subscription-options.ts'

/** Key [service, node] */
const NODES = 'pubsub_nodes'
/** Key [service, node, item id] */
const ITEMS = 'pubsub_items'
/** Key [service, node, time id]; value: the item's id. In the order in which items were published. */
const ORDER = 'pubsub_order'
/** Key [service, node, bare JID]; value: the affiliation. */
const AFFILIATIONS = 'pubsub_affiliations'
/** Key [service, node, JID] */
const SUBSCRIPTIONS = 'pubsub_subscriptions'
/** Key [bare JID, service, node, JID, kind]: where an entity has a subscription or an affiliation. */
const ENTITIES = 'pubsub_entities'
/** Key [bare JID, service, node]: who created a node of a service that is there. */
const CREATED = 'pubsub_created'
/** Key [service, node]: nodes whose items expire. */
const EXPIRING = 'pubsub_expiring'
/** Key [time, service, node, JID]: subscriptions that end at a time, in milliseconds since 1970 with 16 digits. */
const LEASES = 'pubsub_leases'
/** Key [bare JID, service, node, JID]: subscriptions that end with the presence of the subscriber. */
const TEMPORARY = 'pubsub_temporary'
/** Key [bare JID, service]: the bytes of the items of an account's own nodes, or of the nodes that it created at a service. */
const BYTES = 'pubsub_bytes'
/** What an item costs beside its id and payload, bytes. */
const ITEM_OVERHEAD = 100
/** Accounts whose nodes are kept in memory; nodes of services kept there. */
const CACHED_MAX = 20_000

export type Affiliation = 'owner' | 'publisher' | 'publish-only' | 'member' | 'outcast' | 'none'

export interface Node {
  readonly service: string
  readonly name: string
  readonly config: NodeConfig
  readonly creator: string
  /** Milliseconds since 1970. */
  readonly created: number
}

export interface Item {
  readonly id: string
  /** Sorts by time (lib/stanza/ids.ts). */
  readonly seq: string
  /** The payload serialised; empty when there is none. */
  readonly payload: string
  /** The bare JID of whoever published it. */
  readonly publisher: string
}

export interface Subscription {
  readonly jid: string
  readonly subid: string
  readonly state: 'subscribed' | 'pending'
  /** Left out where they are the default. */
  readonly options?: SubscriptionOptions
}

export interface Place { readonly service: string; readonly node: string }

export type NodeStore = ReturnType<typeof createNodeStore>

/** Reads are synchronous, so that what one request writes is one group; a store that answers later is not supported. */
export function createNodeStore(records: Records) {
  const personal = new Recent<ReadonlyMap<string, Node>>(CACHED_MAX)
  const single = new Recent<Node>(CACHED_MAX)
  /** How many items and subscriptions nodes have, by table and node; all writes pass here. */
  const counts = new Recent<number>(CACHED_MAX)
  const listed = (table: string, prefix: Key, options?: Parameters<Records['range']>[2]) => now(records.range(table, prefix, options))

  function nodeOf(service: string, name: string, value: Value): Node {
    const { config, creator, created } = value as unknown as Pick<Node, 'config' | 'creator' | 'created'>
    // What a later version of this program added to the configuration has its default.
    return { service, name, config: { ...(isAccount(service) ? PERSONAL_DEFAULTS : SERVICE_DEFAULTS), ...config }, creator, created }
  }

  function counted(table: string, service: string, node: string): number {
    const key = `${table} ${service} ${node}`
    const known = counts.get(key)
    if (known !== undefined) return known
    const count = listed(table, [service, node]).length
    counts.set(key, count)
    return count
  }

  function recount(table: string, service: string, node: string, difference: number): void {
    const key = `${table} ${service} ${node}`
    const known = counts.get(key)
    if (known !== undefined) counts.set(key, known + difference)
  }

  function forget(service: string, name: string): void {
    personal.delete(service)
    single.delete(`${service} ${name}`)
  }

  function entity(service: string, node: string, jid: string, kind: 'a' | 's', there: boolean): void {
    const key = [bareOf(jid), service, node, jid, kind]
    if (there) records.put(ENTITIES, key, true)
    else records.delete(ENTITIES, key)
  }

  function holderOf(service: string, node: string): string | undefined {
    return isAccount(service) ? service : store.node(service, node)?.creator
  }

  /** Written before the items change: what is not known yet is counted as it is. */
  function weigh(service: string, node: string, difference: number): void {
    const holder = holderOf(service, node)
    if (holder === undefined || difference === 0) return
    const bytes = store.bytes(holder, service) + difference
    if (bytes > 0) records.put(BYTES, [holder, service], bytes)
    else records.delete(BYTES, [holder, service])
  }

  function weightOf(service: string, node: string): number {
    return listed(ITEMS, [service, node]).reduce((sum, { key, value }) => sum + itemBytes({ id: key[2] as string, payload: (value as unknown as Item).payload }), 0)
  }

  /** Notes, or forgets, when a subscription ends. */
  function end(service: string, node: string, subscription: Subscription | undefined, there: boolean): void {
    const { expire } = subscription?.options ?? DEFAULT_OPTIONS
    if (subscription === undefined || expire === undefined) return
    const { jid } = subscription
    const [table, key] = expire === 'presence' ? [TEMPORARY, [bareOf(jid), service, node, jid]] as const : [LEASES, [String(expire).padStart(16, '0'), service, node, jid]] as const
    if (there) records.put(table, key, true)
    else records.delete(table, key)
  }

  const store = {
    node(service: string, name: string): Node | undefined {
      if (isAccount(service)) return store.nodesOf(service).get(name)
      const key = `${service} ${name}`
      const known = single.get(key)
      if (known !== undefined) return known
      const value = now(records.get(NODES, [service, name]))
      if (value === undefined) return undefined
      const node = nodeOf(service, name, value)
      single.set(key, node)
      return node
    },
    /** The nodes of an account by name; kept in memory, for each login asks for those of all contacts. */
    nodesOf(account: string): ReadonlyMap<string, Node> {
      const known = personal.get(account)
      if (known !== undefined) return known
      const rows = listed(NODES, [account])
      const nodes: ReadonlyMap<string, Node> = rows.length === 0 ? NO_NODES : new Map(rows.map(({ key, value }) => [key[1] as string, nodeOf(account, key[1] as string, value)]))
      personal.set(account, nodes)
      return nodes
    },
    /** Nodes of a service in order of their names, after one of them. */
    nodes(service: string, options: { readonly after?: string | undefined; readonly limit?: number } = {}): readonly Node[] {
      const { after, limit } = options
      return listed(NODES, [service], { ...(after === undefined ? {} : { after: [service, after] }), ...(limit === undefined ? {} : { limit }) })
        .map(({ key, value }) => nodeOf(service, key[1] as string, value))
    },
    putNode({ service, name, config, creator, created }: Node): void {
      records.put(NODES, [service, name], { config, creator, created } as unknown as Value)
      if (!isAccount(service)) records.put(CREATED, [creator, service, name], true)
      forget(service, name)
      if (Number.isFinite(Number(config.item_expire))) records.put(EXPIRING, [service, name], true)
      else records.delete(EXPIRING, [service, name])
    },
    /** How many nodes of a service somebody has created, whoever owns them now. */
    createdBy(creator: string, service: string): number {
      return listed(CREATED, [creator, service]).length
    },
    /** Bytes of the items of an account's own nodes, or of the nodes that it created at a service. */
    bytes(holder: string, service: string): number {
      const known = now(records.get(BYTES, [holder, service]))
      if (typeof known === 'number') return known
      const names = isAccount(service) ? [...store.nodesOf(service).keys()] : listed(CREATED, [holder, service]).map(({ key }) => key[2] as string)
      return names.reduce((sum, name) => sum + weightOf(service, name), 0)
    },
    /** Who created a node of a service, or whose it is. */
    holder: holderOf,
    /** Nodes whose items expire, after one of them. */
    expiring(after: Place | undefined, limit: number): readonly Place[] {
      return listed(EXPIRING, [], { limit, ...(after === undefined ? {} : { after: [after.service, after.node] }) }).map(({ key }) => ({ service: key[0] as string, node: key[1] as string }))
    },
    deleteNode(service: string, name: string): void {
      for (const { jid } of store.affiliations(service, name)) store.setAffiliation(service, name, jid, 'none')
      for (const { jid } of store.subscriptions(service, name)) store.unsubscribe(service, name, jid)
      store.purge(service, name)
      const creator = store.node(service, name)?.creator
      if (creator !== undefined) records.delete(CREATED, [creator, service, name])
      records.delete(NODES, [service, name])
      records.delete(EXPIRING, [service, name])
      forget(service, name)
    },

    item(service: string, node: string, id: string): Item | undefined {
      const value = now(records.get(ITEMS, [service, node, id]))
      return value === undefined ? undefined : { id, ...(value as unknown as Omit<Item, 'id'>) }
    },
    /** The ids of all items, or of so many of the oldest, with their times, oldest first. */
    order(service: string, node: string, limit?: number): readonly { readonly id: string; readonly seq: string }[] {
      return listed(ORDER, [service, node], limit === undefined ? {} : { limit }).map(({ key, value }) => ({ id: value as string, seq: key[2] as string }))
    },
    /** Oldest first, or with `last` so many of the newest. */
    items(service: string, node: string, last?: number): readonly Item[] {
      const rows = listed(ORDER, [service, node], last === undefined ? {} : { limit: last, reverse: true })
      const items = rows.flatMap(({ value }) => store.item(service, node, value as string) ?? [])
      return last === undefined ? items : items.reverse()
    },
    count(service: string, node: string): number {
      return counted(ORDER, service, node)
    },
    /** Adds an item, or replaces the one of the same id. */
    putItem(service: string, node: string, item: Omit<Item, 'seq'>): Item {
      const before = store.item(service, node, item.id)
      weigh(service, node, itemBytes(item) - (before === undefined ? 0 : itemBytes(before)))
      if (before === undefined) recount(ORDER, service, node, 1)
      else records.delete(ORDER, [service, node, before.seq])
      const seq = nextMessageId()
      records.put(ORDER, [service, node, seq], item.id)
      records.put(ITEMS, [service, node, item.id], { seq, payload: item.payload, publisher: item.publisher })
      return { ...item, seq }
    },
    deleteItem(service: string, node: string, { id, seq }: Pick<Item, 'id' | 'seq'>): void {
      const before = store.item(service, node, id)
      if (before !== undefined) weigh(service, node, -itemBytes(before))
      recount(ORDER, service, node, -1)
      records.delete(ORDER, [service, node, seq])
      records.delete(ITEMS, [service, node, id])
    },
    /** Has everything of these accounts and services read anew. */
    forgetAll(services: ReadonlySet<string>): void {
      for (const service of services) personal.delete(service)
      single.deleteWhere((key) => services.has(key.slice(0, key.indexOf(' '))))
      counts.deleteWhere((key) => services.has(key.split(' ', 2)[1] as string))
    },
    purge(service: string, node: string): void {
      if (store.order(service, node, 1).length > 0) weigh(service, node, -weightOf(service, node))
      counts.delete(`${ORDER} ${service} ${node}`)
      now(records.deleteRange(ORDER, [service, node]))
      now(records.deleteRange(ITEMS, [service, node]))
    },

    affiliation(service: string, node: string, bare: string): Affiliation {
      if (service === bare) return 'owner'
      return (now(records.get(AFFILIATIONS, [service, node, bare])) ?? 'none') as Affiliation
    },
    affiliations(service: string, node: string): readonly { jid: string; affiliation: Affiliation }[] {
      return listed(AFFILIATIONS, [service, node]).map(({ key, value }) => ({ jid: key[2] as string, affiliation: value as Affiliation }))
    },
    setAffiliation(service: string, node: string, bare: string, affiliation: Affiliation): void {
      if (affiliation === 'none') records.delete(AFFILIATIONS, [service, node, bare])
      else records.put(AFFILIATIONS, [service, node, bare], affiliation)
      entity(service, node, bare, 'a', affiliation !== 'none')
    },

    subscription(service: string, node: string, jid: string): Subscription | undefined {
      const value = now(records.get(SUBSCRIPTIONS, [service, node, jid]))
      return value === undefined ? undefined : { jid, ...(value as unknown as Omit<Subscription, 'jid'>) }
    },
    subscriptions(service: string, node: string): readonly Subscription[] {
      return listed(SUBSCRIPTIONS, [service, node]).map(({ key, value }) => ({ jid: key[2] as string, ...(value as unknown as Omit<Subscription, 'jid'>) }))
    },
    subscriptionCount(service: string, node: string): number {
      return counted(SUBSCRIPTIONS, service, node)
    },
    subscribe(service: string, node: string, subscription: Subscription): void {
      const { jid, subid, state, options } = subscription
      const before = store.subscription(service, node, jid)
      if (before === undefined) recount(SUBSCRIPTIONS, service, node, 1)
      records.put(SUBSCRIPTIONS, [service, node, jid], { subid, state, ...(options !== undefined && areSet(options) ? { options: { ...options } } : {}) })
      entity(service, node, jid, 's', true)
      end(service, node, before, false)
      end(service, node, subscription, true)
    },
    unsubscribe(service: string, node: string, jid: string): void {
      const before = store.subscription(service, node, jid)
      if (before !== undefined) recount(SUBSCRIPTIONS, service, node, -1)
      end(service, node, before, false)
      records.delete(SUBSCRIPTIONS, [service, node, jid])
      entity(service, node, jid, 's', false)
    },

    /** Subscriptions that have ended, in the order of time. */
    ended(nowMs: number, limit: number): readonly (Place & { readonly jid: string })[] {
      const ended = (time: string): boolean => Number(time) <= nowMs
      return listed(LEASES, [], { limit }).filter(({ key }) => ended(key[0] as string)).map(({ key }) => ({ service: key[1] as string, node: key[2] as string, jid: key[3] as string }))
    },
    /** Subscriptions that last as long as the presence of somebody (a bare JID), or of everybody. */
    temporary(bare?: string): readonly (Place & { readonly jid: string })[] {
      return listed(TEMPORARY, bare === undefined ? [] : [bare]).map(({ key }) => ({ service: key[1] as string, node: key[2] as string, jid: key[3] as string }))
    },

    /** Where an entity is subscribed or affiliated: everywhere, at a service, or at one of its nodes. */
    placesOf(bare: string, ...place: readonly [service?: string, node?: string]): readonly (Place & { readonly jid: string; readonly kind: string })[] {
      return listed(ENTITIES, [bare, ...place.filter((part) => part !== undefined)])
        .map(({ key }) => ({ service: key[1] as string, node: key[2] as string, jid: key[3] as string, kind: key[4] as string }))
    },
    /** Everything that an entity has: its own nodes, and its part in those of others. */
    erase(bare: string): void {
      for (const { name } of store.nodes(bare)) store.deleteNode(bare, name)
      for (const { service, node, jid, kind } of store.placesOf(bare)) {
        if (kind === 's') store.unsubscribe(service, node, jid)
        else store.setAffiliation(service, node, jid, 'none')
      }
    },
  }
  return store
}

export function itemBytes({ id, payload }: Pick<Item, 'id' | 'payload'>): number {
  return Buffer.byteLength(id) + Buffer.byteLength(payload) + ITEM_OVERHEAD
}

/** A service is an account or a domain. */
export function isAccount(service: string): boolean {
  return service.includes('@')
}

const NO_NODES: ReadonlyMap<string, Node> = new Map()

function now<T>(value: MaybePromise<T>): T {
  if (value instanceof Promise) throw new Error('the records of this driver are not synchronous')
  return value
}

export function bareOf(jid: string): string {
  const slash = jid.indexOf('/')
  return slash === -1 ? jid : jid.slice(0, slash)
}
