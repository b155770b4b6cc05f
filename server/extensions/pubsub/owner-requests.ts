/** XEP-0060 §8: requests of a node's owners, in the namespace `http://jabber.org/protocol/pubsub#owner`. */
import { Jid } from '../../../lib/jid.ts'
import { StanzaError } from '../../../lib/stanza/errors.ts'
import { randomId } from '../../../lib/stanza/ids.ts'
import { type Element, xml } from '../../../lib/xml/element.ts'
import type { IqRequest } from '../extension.ts'
import { setSubscription } from './authorization.ts'
import { dropRefused, GIVEN_SUBSCRIPTIONS_MAX, SUBSCRIPTIONS_PER_ENTITY, type Engine } from './engine.ts'
import { configForm, NODE_CONFIG, readConfig } from './node-config.ts'
import { bareOf, isAccount, type Affiliation, type Node } from './node-store.ts'
import { defaultForm, formIn, nodeName } from './requests.ts'

export const OWNER_NS = 'http://jabber.org/protocol/pubsub#owner'
const AFFILIATIONS: readonly Affiliation[] = ['owner', 'publisher', 'publish-only', 'member', 'outcast', 'none']
const AFFILIATIONS_MAX = 10_000

export function answerOwnerGet(engine: Engine, { payload, from, to }: IqRequest): Element {
  const service = to.toString()
  const request = only(payload)
  if (request.getName() === 'default') return wrap(xml('default', null, defaultForm(engine, service))) // §8.3
  const node = owned(engine, service, from, request)
  switch (request.getName()) {
    case 'configure': return wrap(xml('configure', { node: node.name }, configForm('form', node.config)))
    case 'subscriptions':
      return wrap(xml('subscriptions', { node: node.name }, engine.store.subscriptions(service, node.name)
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

/** §8.8.2 */
function changeSubscriptions(engine: Engine, node: Node, request: Element): undefined {
  const changes = request.getChildren('subscription').flatMap((element) => {
    const jid = Jid.tryParse(element.attrs['jid'] ?? '')
    const state = element.attrs['subscription']
    if (state === undefined) return []
    if (jid === undefined || (state !== 'subscribed' && state !== 'pending' && state !== 'none')) throw new StanzaError('not-acceptable')
    return [{ jid: jid.toString(), state } as const]
  })
  const { store, options } = engine
  const given = new Set(changes.flatMap(({ jid, state }) => (state === 'none' || store.subscription(node.service, node.name, jid) !== undefined ? [] : [jid]))).size
  if (given > 0 && store.subscriptionCount(node.service, node.name) + given > Math.min(options.maxSubscriptions, GIVEN_SUBSCRIPTIONS_MAX)) throw new StanzaError('not-acceptable', 'too many subscriptions')
  const perEntity = Map.groupBy(changes.filter(({ state }) => state !== 'none'), ({ jid }) => bareOf(jid))
  for (const [bare, added] of perEntity) {
    const before = store.placesOf(bare, node.service, node.name).flatMap(({ kind, jid }) => (kind === 's' ? [jid] : []))
    if (new Set([...before, ...added.map(({ jid }) => jid)]).size > SUBSCRIPTIONS_PER_ENTITY) throw new StanzaError('not-acceptable', `more than ${SUBSCRIPTIONS_PER_ENTITY} subscriptions of ${bare}`)
  }
  for (const { jid, state } of changes) {
    const before = store.subscription(node.service, node.name, jid)
    if ((before?.state ?? 'none') === state) continue
    setSubscription(engine, node, before ?? { jid, subid: randomId(), state: 'pending' }, state)
  }
  return undefined
}

/** §8.9.2 */
function changeAffiliations(engine: Engine, node: Node, request: Element): undefined {
  const { store } = engine
  const changes = request.getChildren('affiliation').map((element) => {
    const jid = Jid.tryParse(element.attrs['jid'] ?? '')
    const affiliation = AFFILIATIONS.find((each) => each === element.attrs['affiliation'])
    if (jid === undefined || affiliation === undefined) throw new StanzaError('bad-request')
    return { jid: jid.bare, affiliation }
  })
  const after = new Map(affiliationsOf(engine, node).map(({ jid, affiliation }) => [jid, affiliation]))
  for (const { jid, affiliation } of changes) after.set(jid, affiliation)
  // §8.9.2.4: a node has an owner; that of an account is the account.
  if (![...after.values()].includes('owner') || (isAccount(node.service) && after.get(node.service) !== 'owner')) throw new StanzaError('not-acceptable', 'a node has an owner')
  if (after.size > AFFILIATIONS_MAX) throw new StanzaError('not-acceptable', 'too many affiliations')
  for (const { jid, affiliation } of changes) if (jid !== node.service) store.setAffiliation(node.service, node.name, jid, affiliation)
  dropRefused(engine, node, new Set(changes.map(({ jid }) => jid)))
  return undefined
}
