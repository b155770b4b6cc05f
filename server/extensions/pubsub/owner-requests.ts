/** XEP-0060 §8: requests of a node's owners, in the namespace `http://jabber.org/protocol/pubsub#owner`. */
import { Jid } from '../../../lib/jid.ts'
import { StanzaError } from '../../../lib/stanza/errors.ts'
import { randomId } from '../../../lib/stanza/ids.ts'
import { type Element, xml } from '../../../lib/xml/element.ts'
import type { IqRequest } from '../extension.ts'
import { reviewSubscriptions, GIVEN_SUBSCRIPTIONS_MAX, SUBSCRIPTIONS_PER_ENTITY, type Engine } from './engine.ts'
import { unsupported } from './errors.ts'
import { configForm, NODE_CONFIG, readConfig } from './node-config.ts'
import { bareOf, isAccount, type Affiliation, type Node } from './node-store.ts'
import { defaultForm, formIn, nodeName } from './requests.ts'

export const OWNER_NS = 'http://jabber.org/protocol/pubsub#owner'
const AFFILIATIONS: readonly Affiliation[] = ['owner', 'publisher', 'publish-only', 'member', 'outcast', 'none']
const AFFILIATIONS_MAX = 10_000

export function answerOwnerGet(engine: Engine, { payload, from, to }: IqRequest): Element {
  const service = to.toString()
  const request = only(payload)
  // §8.3: all nodes are leaves
  if (request.getName() === 'default' && request.attrs['type'] !== undefined && request.attrs['type'] !== 'leaf') throw unsupported('collections')
  if (request.getName() === 'default') return wrap(xml('default', null, defaultForm(engine, service))) // §8.3
  const node = owned(engine, service, from, request)
  switch (request.getName()) {
    case 'configure': return wrap(xml('configure', { node: node.name }, configForm('form', node.config)))
    case 'subscriptions':
      return wrap(xml('subscriptions', { node: node.name }, engine.store.subscriptions(service, node.name)
        .filter(({ state }) => state === 'subscribed') // §8.8.1.2
        .map(({ jid, subid, state }) => xml('subscription', { jid, subid, subscription: state }))))
    case 'affiliations':
      return wrap(xml('affiliations', { node: node.name }, affiliationsOf(engine, node).map(({ jid, affiliation }) => xml('affiliation', { jid, affiliation }))))
    default: throw new StanzaError('bad-request')
  }
}

export function answerOwnerSet(engine: Engine, { payload, from, to }: IqRequest): undefined {
  const request = only(payload)
  const node = owned(engine, to.toString(), from, request)
  switch (request.getName()) {
    case 'configure': {
      const form = formIn(request, NODE_CONFIG)
      if (form === undefined) throw new StanzaError('bad-request', 'no form')
      if (form.kind !== 'cancel') engine.configure(node, readConfig(form))
      return undefined
    }
    case 'delete':
      engine.delete(node, request.getChild('redirect')?.attrs['uri'])
      return undefined
    case 'purge':
      if (!node.config.persist_items) throw unsupported('persistent-items') // §8.5.3.3
      engine.purge(node)
      return undefined
    case 'subscriptions': return changeSubscriptions(engine, node, request)
    case 'affiliations': return changeAffiliations(engine, node, request)
    default: throw new StanzaError('bad-request')
  }
}

function only(payload: Element): Element {
  const [request] = payload.getChildElements().filter((child) => child.getNS() === OWNER_NS)
  if (request === undefined) throw new StanzaError('bad-request')
  return request
}

function owned(engine: Engine, service: string, from: Jid, request: Element): Node {
  const name = nodeName(request)
  const node = engine.store.node(service, name)
  // Nobody but its owner learns which nodes an account has.
  if (node === undefined) throw new StanzaError(isAccount(service) && service !== from.bare ? 'forbidden' : 'item-not-found')
  engine.access.requireOwner(node, from)
  return node
}

function wrap(element: Element): Element {
  return xml('pubsub', { xmlns: OWNER_NS }, element)
}

function affiliationsOf({ store }: Engine, node: Node): readonly { jid: string; affiliation: Affiliation }[] {
  const given = store.affiliations(node.service, node.name)
  return isAccount(node.service) ? [{ jid: node.service, affiliation: 'owner' }, ...given] : given
}

/** §8.8.2: those that can be made are made; the others are answered as they are. */
function changeSubscriptions(engine: Engine, node: Node, request: Element): undefined {
  const { store, options } = engine
  const most = Math.min(options.maxSubscriptions, GIVEN_SUBSCRIPTIONS_MAX)
  const refused: Element[] = []
  const seen = new Set<string>()
  for (const element of request.getChildren('subscription')) {
    const { jid: written = '', subscription: state, subid } = element.attrs
    if (state === undefined) continue
    const jid = Jid.tryParse(written)?.toString()
    const before = jid === undefined ? undefined : store.subscription(node.service, node.name, jid)
    const mayBe = jid !== undefined && isState(state) && !seen.has(jid) && (subid === undefined || subid === before?.subid)
      && (before !== undefined || state === 'none' || isRoomFor(jid))
    if (!mayBe) refused.push(xml('subscription', { jid: written, subid: before?.subid, subscription: before?.state ?? 'none' }))
    else if ((before?.state ?? 'none') !== state) engine.setSubscription(node, before ?? { jid, subid: randomId(), state: 'pending' }, state)
    if (jid !== undefined) seen.add(jid)
  }
  if (refused.length > 0) throw new StanzaError('not-acceptable', undefined, { payload: wrap(xml('subscriptions', { node: node.name }, refused)) })
  return undefined

  function isRoomFor(jid: string): boolean {
    const own = store.placesOf(bareOf(jid), node.service, node.name).filter(({ kind }) => kind === 's').length
    return own < SUBSCRIPTIONS_PER_ENTITY && store.subscriptionCount(node.service, node.name) < most
  }
}

function isState(text: string): text is 'subscribed' | 'pending' | 'none' {
  return text === 'subscribed' || text === 'pending' || text === 'none'
}

/** §8.9.2: those that can be made are made; the others are answered as they are. */
function changeAffiliations(engine: Engine, node: Node, request: Element): undefined {
  const { store } = engine
  const before = new Map(affiliationsOf(engine, node).map(({ jid, affiliation }) => [jid, affiliation]))
  const changes = new Map<string, Affiliation>()
  const refused: Element[] = []
  for (const { attrs } of request.getChildren('affiliation')) {
    const jid = Jid.tryParse(attrs['jid'] ?? '')?.bare
    if (attrs['affiliation'] === undefined) continue
    const affiliation = AFFILIATIONS.find((each) => each === attrs['affiliation'])
    if (jid !== undefined && changes.has(jid)) throw new StanzaError('bad-request', `${jid} is there twice`)
    if (jid === undefined || affiliation === undefined) refused.push(xml('affiliation', { jid: attrs['jid'], affiliation: before.get(jid ?? '') ?? 'none' }))
    else changes.set(jid, affiliation)
  }
  const after = new Map([...before, ...changes])
  if (after.size > AFFILIATIONS_MAX) throw new StanzaError('not-acceptable', 'too many affiliations')
  // A node has an owner; that of an account is the account.
  const keeps = [...after.values()].includes('owner')
  for (const [jid, affiliation] of changes) {
    const loses = before.get(jid) === 'owner' && affiliation !== 'owner' && (!keeps || jid === node.service)
    if (loses) refused.push(xml('affiliation', { jid, affiliation: 'owner' }))
    else if (jid !== node.service) store.setAffiliation(node.service, node.name, jid, affiliation)
  }
  reviewSubscriptions(engine, node, new Set(changes.keys()))
  if (refused.length > 0) throw new StanzaError('not-acceptable', undefined, { payload: wrap(xml('affiliations', { node: node.name }, refused)) })
  return undefined
}
