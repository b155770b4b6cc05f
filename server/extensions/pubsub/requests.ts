/** XEP-0060 §5.6 to §7: requests of subscribers and publishers, in the namespace `http://jabber.org/protocol/pubsub`. */
import { Jid } from '../../../lib/jid.ts'
import { type Form, parseForm } from '../../../lib/forms.ts'
import { buildResultSet, pageOf, parseResultSet, RSM_NS } from '../../../lib/result-set.ts'
import { StanzaError } from '../../../lib/stanza/errors.ts'
import { randomId } from '../../../lib/stanza/ids.ts'
import { buildElement } from '../../../lib/xml/build.ts'
import { type Element, xml } from '../../../lib/xml/element.ts'
import type { IqRequest } from '../extension.ts'
import { standalone } from '../standalone-element.ts'
import { askOwners } from './authorization.ts'
import type { Engine, NewItem } from './engine.ts'
import { pubsubError, unsupported } from './errors.ts'
import { isSignal, publisherShown } from './events.ts'
import { DEFAULT_OPTIONS, optionsForm, readOptions, SUBSCRIBE_OPTIONS, type Offer } from './subscription-options.ts'
import { configForm, meets, NODE_CONFIG, readConfig, type NodeConfig } from './node-config.ts'
import { isAccount, type Node, type Subscription } from './node-store.ts'

export const PUBSUB_NS = 'http://jabber.org/protocol/pubsub'
const PUBLISH_OPTIONS = 'http://jabber.org/protocol/pubsub#publish-options'
/** Items in one answer, and their bytes; the rest is paged (§6.5.4). */
const PAGE_ITEMS = 1000
const PAGE_BYTES = 1_048_576
const ITEM_ID_BYTES_MAX = 512

export function answerGet(engine: Engine, { payload, from, to, session }: IqRequest): Element {
  const service = to.toString()
  const [request] = payload.getChildElements().filter((child) => child.getNS() === PUBSUB_NS)
  switch (request?.getName()) {
    case 'items': return items(engine, service, from, payload, request)
    case 'subscriptions': return subscriptions(engine, service, from, request)
    case 'affiliations': return affiliations(engine, service, from, request)
    case 'options': return options(engine, service, from, request, session !== undefined || engine.knowsPresence(from))
    case 'default': return defaultOptions(engine, service, from, request, session !== undefined || engine.knowsPresence(from))
    default: throw new StanzaError('bad-request')
  }
}

export function answerSet(engine: Engine, { payload, from, to, session }: IqRequest): Element | Promise<Element> | undefined {
  const service = to.toString()
  const children = payload.getChildElements().filter((child) => child.getNS() === PUBSUB_NS)
  const named = (name: string): Element | undefined => children.find((child) => child.getName() === name)
  const [request] = children
  switch (request?.getName()) {
    case 'create': return createNode(engine, service, from, request, named('configure'))
    case 'publish':
    case 'publish-options': {
      const publishing = named('publish')
      if (publishing === undefined) throw new StanzaError('bad-request')
      return publish(engine, service, from, publishing, named('publish-options'))
    }
    case 'retract': return retract(engine, service, from, request)
    case 'subscribe': return subscribe(engine, service, from, request, named('options'), session !== undefined || engine.knowsPresence(from))
    case 'unsubscribe': return unsubscribe(engine, service, from, request)
    case 'options': {
      // §6.3.7: what configures a subscription that is asked for follows it.
      if (named('subscribe') !== undefined) throw new StanzaError('bad-request', 'options follow subscribe')
      return setOptions(engine, service, from, request, session !== undefined || engine.knowsPresence(from))
    }
    default: throw new StanzaError('bad-request')
  }
}

/** The name of a node in a request; throws `nodeid-required` when it is missing. */
export function nodeName(request: Element): string {
  const name = request.attrs['node']
  if (name === undefined || name === '') throw pubsubError('bad-request', 'nodeid-required')
  return name
}

/** The form in an element, if there is one with fields. */
export function formIn(element: Element | undefined, formType: string): Form | undefined {
  const x = element?.getChild('x', 'jabber:x:data')
  return x === undefined ? undefined : parseForm(x, { kinds: ['submit', 'cancel'], formType, formTypeOptional: true })
}

// ---- §8.1 creating

function createNode(engine: Engine, service: string, from: Jid, create: Element, configure: Element | undefined): Element | undefined {
  if (!engine.mayCreate(service, from)) throw new StanzaError('forbidden')
  const given = create.attrs['node']
  const name = given === undefined || given === '' ? randomId() : given
  if (configure?.attrs['node'] !== undefined) throw new StanzaError('bad-request', 'the node is that of create') // §8.1.3
  const form = formIn(configure, NODE_CONFIG)
  engine.create(service, name, from, form === undefined || form.kind === 'cancel' ? {} : readConfig(form))
  // §8.1.1: the name is told only to who did not give it.
  return name === given ? undefined : xml('pubsub', { xmlns: PUBSUB_NS }, xml('create', { node: name }))
}

// ---- §7 publishing

interface Publication {
  readonly name: string
  readonly wanted: Partial<NodeConfig>
  readonly items: readonly (NewItem & { readonly namespace: string | undefined })[]
}

function publish(engine: Engine, service: string, from: Jid, request: Element, options: Element | undefined): Element | Promise<Element> {
  const publication: Publication = { name: nodeName(request), wanted: preconditions(options), items: request.getChildren('item').map(readItem) }
  const { name, items: [item, ...others] } = publication
  const prepare = service === from.bare && item !== undefined && others.length === 0 ? engine.preparing.get(name) : undefined
  if (prepare === undefined || item === undefined) return publishNow(engine, service, from, publication)
  checkPublication(engine, service, from, publication)
  const prepared = prepare(service, item)
  return prepared?.then((changed) => publishNow(engine, service, from, publication, changed)) ?? publishNow(engine, service, from, publication)
}

/** The node, unless it is to be made; throws when this may not be published there. */
function checkPublication(engine: Engine, service: string, from: Jid, { name, wanted, items }: Publication): Node | undefined {
  const existing = engine.store.node(service, name)
  if (existing === undefined && !engine.mayCreate(service, from)) throw new StanzaError(isAccount(service) ? 'forbidden' : 'item-not-found')
  // §7.1.5
  if (existing !== undefined) {
    if (!engine.access.mayPublish(existing, from)) throw new StanzaError('forbidden') // §7.1.3.1
    if (!meets(existing.config, wanted)) throw pubsubError('conflict', 'precondition-not-met')
  }
  checkPayloads(existing?.config ?? { ...engine.defaults(service, name), ...wanted }, items)
  return existing
}

function publishNow(engine: Engine, service: string, from: Jid, publication: Publication, changed?: () => NewItem): Element {
  const { name, wanted, items } = publication
  const node = checkPublication(engine, service, from, publication) ?? engine.create(service, name, from, wanted) // §7.1.4
  // §7.1.3.6: without an item only its being published is told.
  const published = changed === undefined ? items : [changed()]
  const ids = engine.publish(node, published.length === 0 ? [{ id: undefined, payload: '' }] : published, from)
  return xml('pubsub', { xmlns: PUBSUB_NS }, xml('publish', { node: name }, isSignal(node.config) ? [] : ids.map((id) => xml('item', { id }))))
}

function preconditions(options: Element | undefined): Partial<NodeConfig> {
  if (options === undefined) return {}
  const form = formIn(options, PUBLISH_OPTIONS)
  if (form === undefined) throw new StanzaError('bad-request', 'publish-options without a form')
  return readConfig(form, () => pubsubError('conflict', 'precondition-not-met')) // §7.1.5: unknown fields are refused
}

function readItem(item: Element): NewItem & { readonly namespace: string | undefined } {
  const payloads = item.getChildElements()
  if (payloads.length > 1) throw pubsubError('bad-request', 'invalid-payload') // §7.1.3.5
  const id = item.attrs['id']
  if (id !== undefined && Buffer.byteLength(id) > ITEM_ID_BYTES_MAX) throw new StanzaError('not-acceptable', 'the id of the item is too long')
  const [payload] = payloads
  return { id: id === '' ? undefined : id, payload: payload === undefined ? '' : standalone(payload).toString(), namespace: payload?.getNS() }
}

function checkPayloads(config: NodeConfig, items: readonly { readonly payload: string; readonly namespace: string | undefined }[]): void {
  // §7.1.3.7
  if (items.length === 0 && !isSignal(config)) throw pubsubError('bad-request', 'item-required')
  if (items.length > 0 && isSignal(config)) throw pubsubError('bad-request', 'item-forbidden')
  for (const { payload, namespace } of items) {
    if (payload !== '' && config.type !== '' && namespace !== config.type) throw pubsubError('bad-request', 'invalid-payload') // §7.1.3.5
  }
}

function retract(engine: Engine, service: string, from: Jid, request: Element): undefined {
  const node = engine.require(service, nodeName(request))
  const ids = request.getChildren('item').map((item) => item.attrs['id'] ?? '')
  if (ids.length === 0 || ids.includes('')) throw pubsubError('bad-request', 'item-required') // §7.2.3.4
  const { access } = engine
  const mine = access.affiliation(node, from) !== 'outcast' && ids.every((id) => engine.store.item(service, node.name, id)?.publisher === from.bare)
  const role = access.affiliation(node, from)
  if (role !== 'owner' && role !== 'publisher' && !(mine && access.mayPublish(node, from))) throw new StanzaError('forbidden')
  if (!node.config.persist_items) throw unsupported('persistent-items')
  const notify = request.attrs['notify']
  engine.retract(node, [...new Set(ids)], notify === 'true' || notify === '1', from)
  return undefined
}

// ---- §6.5 retrieving

function items(engine: Engine, service: string, from: Jid, payload: Element, request: Element): Element {
  const node = engine.require(service, nodeName(request))
  engine.access.requireRead(node, from)
  const own = request.attrs['subid'] === undefined ? [] : engine.store.placesOf(from.bare, service, node.name).flatMap(({ kind, jid }) => (kind === 's' ? engine.store.subscription(service, node.name, jid)?.subid ?? [] : []))
  if (own.length > 0) requireSubid(request, own) // §6.5.9.2
  if (!node.config.persist_items) throw unsupported('persistent-items') // §6.5.9.4
  const wanted = request.getChildren('item').map((item) => item.attrs['id'] ?? '')
  if (wanted.length > 0) {
    // §6.5.8: those that are there, each once
    const ids = [...new Set(wanted)]
    const { elements, complete } = load(engine, node, ids.slice(0, PAGE_ITEMS).map((id) => ({ id })), false)
    return answer(node, elements, complete && ids.length <= PAGE_ITEMS ? undefined
      : buildResultSet({ first: elements[0]?.attrs['id'], last: elements.at(-1)?.attrs['id'], index: 0, count: ids.length }))
  }
  const paged = payload.getChild('set', RSM_NS) !== undefined
  const max = request.attrs['max_items']
  if (max !== undefined && !/^\d{1,9}$/.test(max)) throw new StanzaError('bad-request', 'max_items must be a number')
  const all = engine.order(node)
  // §6.5.7: the newest ones
  const newest = max === undefined ? all : all.slice(Math.max(0, all.length - Number(max)))
  if (paged) return page(engine, node, newest, payload)
  const { elements, complete } = load(engine, node, newest.slice(-PAGE_ITEMS), true)
  const first = elements[0]?.attrs['id']
  const set = complete && newest.length <= PAGE_ITEMS ? undefined
    : buildResultSet({ first, last: elements.at(-1)?.attrs['id'], index: newest.length - elements.length, count: newest.length })
  return answer(node, elements, set)
}

type Order = readonly { readonly id: string; readonly seq: string }[]

function page(engine: Engine, node: Node, order: Order, payload: Element): Element {
  const request = parseResultSet(payload)
  const { items: chosen, set } = pageOf(order, request, ({ id }) => id, PAGE_ITEMS)
  const backward = request.before !== undefined
  const { elements, complete } = load(engine, node, chosen, backward)
  if (complete) return answer(node, elements, set)
  const first = elements[0]?.attrs['id']
  const index = order.findIndex(({ id }) => id === first)
  return answer(node, elements, buildResultSet({ first, last: elements.at(-1)?.attrs['id'], index, count: order.length }))
}

/** As many items as fit into one answer, but one at least: from the end when `backward`. */
function load(engine: Engine, node: Node, order: readonly { readonly id: string }[], backward: boolean): { elements: Element[]; complete: boolean } {
  const elements: Element[] = []
  let bytes = 0
  let taken = 0
  for (const { id } of backward ? order.toReversed() : order) {
    const item = engine.item(node, id)
    taken++
    if (item === undefined) continue
    bytes += item.payload.length
    if (bytes > PAGE_BYTES && elements.length > 0) {
      taken--
      break
    }
    elements.push(xml('item', { id: item.id, publisher: publisherShown(node, item) }, item.payload === '' ? null : buildElement(Buffer.from(item.payload))))
  }
  return { elements: backward ? elements.reverse() : elements, complete: taken === order.length }
}

function answer(node: Node, elements: readonly Element[], set?: Element): Element {
  return xml('pubsub', { xmlns: PUBSUB_NS }, xml('items', { node: node.name }, elements), set)
}

// ---- §5.6, §5.7, §6.1, §6.2 subscriptions and affiliations

function subscriptions(engine: Engine, service: string, from: Jid, request: Element): Element {
  const only = request.attrs['node']
  if (only !== undefined) engine.require(service, only)
  const found = engine.store.placesOf(from.bare, service).filter(({ kind, node }) => kind === 's' && (only === undefined || node === only))
  return xml('pubsub', { xmlns: PUBSUB_NS }, xml('subscriptions', { node: only }, found.slice(0, PAGE_ITEMS).flatMap(({ node, jid }) => {
    const subscription = engine.store.subscription(service, node, jid)
    return subscription === undefined ? [] : [xml('subscription', { node, jid, subscription: subscription.state, subid: subscription.subid })]
  })))
}

function affiliations(engine: Engine, service: string, from: Jid, request: Element): Element {
  const only = request.attrs['node']
  if (only !== undefined) engine.require(service, only)
  const own = isAccount(service) && service === from.bare
    ? [...engine.store.nodesOf(service).keys()].map((node) => ({ node, affiliation: 'owner' }))
    : engine.store.placesOf(from.bare, service).filter(({ kind }) => kind === 'a')
      .map(({ node }) => ({ node, affiliation: engine.store.affiliation(service, node, from.bare) as string }))
  const shown = own.filter(({ node }) => only === undefined || node === only).slice(0, PAGE_ITEMS)
  return xml('pubsub', { xmlns: PUBSUB_NS }, xml('affiliations', { node: only }, shown.map(({ node, affiliation }) => xml('affiliation', { node, affiliation }))))
}

/** The JID that is to be subscribed, which must be one of the sender's (§6.1.3.1). */
function subscriber(request: Element, from: Jid): Jid {
  const jid = Jid.tryParse(request.attrs['jid'] ?? '')
  if (jid === undefined || jid.bare !== from.bare) throw pubsubError('bad-request', 'invalid-jid')
  return jid
}

function subscribe(engine: Engine, service: string, from: Jid, request: Element, options: Element | undefined, presence: boolean): Element {
  const name = nodeName(request)
  const jid = subscriber(request, from)
  const node = engine.require(service, name)
  engine.access.requireSubscribe(node, from)
  if (!node.config.subscribe) throw unsupported('subscribe') // §6.1.3.10
  // §6.3.7
  if (options?.attrs['node'] !== undefined || options?.attrs['jid'] !== undefined) throw new StanzaError('bad-request', 'options belong to the node and the address of subscribe')
  const form = formIn(options, SUBSCRIBE_OPTIONS)
  const offer: Offer = { config: node.config, presence }
  const subscription = engine.subscribe(node, jid, form?.kind === 'submit' ? (before) => readOptions(form, before, offer, engine.now()) : undefined)
  if (subscription.state === 'pending') askOwners(engine, node, subscription)
  return xml('pubsub', { xmlns: PUBSUB_NS },
    xml('subscription', { node: name, jid: subscription.jid, subid: subscription.subid, subscription: subscription.state }),
    form?.kind === 'submit' && xml('options', null, optionsForm('result', subscription.options ?? DEFAULT_OPTIONS, offer)))
}

// ---- §6.3, §6.4 what is wanted of a subscription

/** The subscription that a request is about, which must be the sender's. */
function ownSubscription(engine: Engine, node: Node, from: Jid, request: Element): Subscription {
  const written = request.attrs['jid'] ?? ''
  if (written === '') throw pubsubError('bad-request', 'jid-required') // §6.3.4.3
  const jid = Jid.tryParse(written)
  if (jid === undefined) throw pubsubError('bad-request', 'invalid-jid')
  if (jid.bare !== from.bare) throw new StanzaError('forbidden') // §6.2.3.3, §6.3.4.1
  const subscription = engine.store.subscription(node.service, node.name, jid.toString())
  // §6.2.3.2, §6.3.4.2
  if (subscription === undefined) throw pubsubError('unexpected-request', 'not-subscribed', { type: request.is('options') ? 'modify' : 'cancel' })
  requireSubid(request, [subscription.subid])
  return subscription
}

/** Each address has one subscription of a node, so that a request need not say which; what it says must be right (§6.2.3.5). */
function requireSubid(request: Element, subids: readonly string[]): void {
  const subid = request.attrs['subid']
  if (subid !== undefined && !subids.includes(subid)) throw pubsubError('not-acceptable', 'invalid-subid')
}

function options(engine: Engine, service: string, from: Jid, request: Element, presence: boolean): Element {
  const node = engine.require(service, nodeName(request))
  const { jid, subid, options: set } = ownSubscription(engine, node, from, request)
  return xml('pubsub', { xmlns: PUBSUB_NS }, xml('options', { node: node.name, jid, subid }, optionsForm('form', set ?? DEFAULT_OPTIONS, { config: node.config, presence })))
}

function setOptions(engine: Engine, service: string, from: Jid, request: Element, presence: boolean): undefined {
  const node = engine.require(service, nodeName(request))
  const subscription = ownSubscription(engine, node, from, request)
  const form = formIn(request, SUBSCRIBE_OPTIONS)
  if (form === undefined) throw new StanzaError('bad-request', 'no form')
  if (form.kind === 'cancel') return undefined
  const changed = readOptions(form, subscription.options ?? DEFAULT_OPTIONS, { config: node.config, presence }, engine.now())
  engine.store.subscribe(service, node.name, { ...subscription, options: changed })
  return undefined
}

function defaultOptions(engine: Engine, service: string, from: Jid, request: Element, presence: boolean): Element {
  const name = request.attrs['node']
  const node = name === undefined || name === '' ? undefined : engine.require(service, name)
  if (node !== undefined) engine.access.requireSubscribe(node, from)
  return xml('pubsub', { xmlns: PUBSUB_NS }, xml('default', { node: node?.name }, optionsForm('result', DEFAULT_OPTIONS, { config: node?.config, presence })))
}

function unsubscribe(engine: Engine, service: string, from: Jid, request: Element): undefined {
  const node = engine.require(service, nodeName(request))
  engine.unsubscribe(node, ownSubscription(engine, node, from, request).jid)
  return undefined
}

/** §8.2.4: what a new node has. */
export function defaultForm(engine: Engine, service: string): Element {
  return configForm('form', engine.defaults(service, ''))
}
