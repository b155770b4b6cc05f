/** XEP-0060 §5.1 to §5.5: what a service and its nodes say of themselves. */
import { buildForm } from '../../../lib/forms.ts'
import { formatDateTime } from '../../../lib/stanza/delay.ts'
import { StanzaError } from '../../../lib/stanza/errors.ts'
import { type Element, xml } from '../../../lib/xml/element.ts'
import { DISCO_INFO_NS, DISCO_ITEMS_NS } from '../disco-registry.ts'
import type { DiscoRegistry, DiscoTarget, IqRequest } from '../extension.ts'
import type { Engine } from './engine.ts'
import { isAccount, type Node } from './node-store.ts'
import { PUBSUB_NS } from './requests.ts'

const ACCESS_FEATURES = ['authorize', 'open', 'presence', 'roster', 'whitelist'].map((model) => `${PUBSUB_NS}#access-${model}`)
const FEATURES = [...ACCESS_FEATURES, ...[
  'auto-create',
  'config-node', 'config-node-max', 'create-and-configure', 'create-nodes', 'delete-items', 'delete-nodes',
  'instant-nodes', 'item-ids', 'last-published', 'leased-subscription', 'manage-subscriptions', 'member-affiliation', 'meta-data', 'modify-affiliations', 'multi-items',
  'outcast-affiliation', 'persistent-items', 'publish', 'publish-node-full', 'publish-only-affiliation', 'publish-options', 'publisher-affiliation', 'purge-nodes',
  'retract-items', 'retrieve-affiliations', 'retrieve-default', 'retrieve-default-sub', 'retrieve-items', 'retrieve-subscriptions', 'rsm', 'subscribe', 'subscription-notifications', 'subscription-options',
].map((name) => `${PUBSUB_NS}#${name}`)]
/** XEP-0163 §6 */
const PERSONAL_FEATURES = ['auto-subscribe', 'filtered-notifications', 'presence-subscribe', 'pubsub-on-a-jid'].map((name) => `${PUBSUB_NS}#${name}`)
/** Items of a node that service discovery lists. */
const ITEMS_MAX = 1000
/** Owners, and publishers, that its metadata name. */
const ROLES_MAX = 100

/** Of a service with ad-hoc commands. */
const SERVICE_FEATURES = [`${PUBSUB_NS}#get-pending`]

export function describeService(disco: DiscoRegistry, engine: Engine, domain: string, nodesMax: number): void {
  disco.identity('host', { category: 'pubsub', type: 'service' })
  disco.feature('host', PUBSUB_NS, ...FEATURES, ...SERVICE_FEATURES)
  disco.items('host', ({ from }) => engine.store.nodes(domain, { limit: Math.min(nodesMax, ITEMS_MAX) })
    .filter((node) => mayKnow(engine, node, from)).map(({ name, config }) => item(domain, name, config.title)))
  describeNodes(disco, engine, 'host')
}

export function describeAccount(disco: DiscoRegistry, engine: Engine, nodesMax: number): void {
  disco.feature('account', PUBSUB_NS, ...FEATURES, ...PERSONAL_FEATURES)
  for (const target of ['account', 'host'] as const) disco.identity(target, { category: 'pubsub', type: 'pep' })
  // compat: clients that ask the server whether accounts have nodes; it has none itself (docs/decisions/publish-subscribe.md)
  disco.feature('host', PUBSUB_NS, ...ACCESS_FEATURES)
  // XEP-0163 §7.2: only what the asker may read
  disco.items('account', ({ from, to }) => [...engine.store.nodesOf(to.bare).values()].filter((node) => mayKnow(engine, node, from)).slice(0, nodesMax)
    .map(({ name, config }) => item(to.bare, name, config.title)))
  describeNodes(disco, engine, 'account')
}

function item(jid: string, node: string, name: string): { jid: string; node: string; name?: string } {
  return name === '' ? { jid, node } : { jid, node, name }
}

/** A node of the model `authorize` is shown to who may ask for a subscription. */
function mayKnow({ access }: Engine, node: Node, from: IqRequest['from']): boolean {
  return access.mayRead(node, from) || (!isAccount(node.service) && node.config.access_model === 'authorize' && access.affiliation(node, from) !== 'outcast')
}

function describeNodes(disco: DiscoRegistry, engine: Engine, target: DiscoTarget): void {
  const known = ({ payload, from, to }: IqRequest): Node => {
    const node = engine.require(to.toString(), payload.attrs['node'] ?? '')
    if (!mayKnow(engine, node, from)) throw new StanzaError('item-not-found')
    return node
  }
  disco.node(target, '*', {
    info: (request) => nodeInfo(engine, known(request)),
    items(request) {
      const node = known(request)
      const order = engine.access.mayRead(node, request.from) ? engine.order(node).slice(-ITEMS_MAX) : []
      return xml('query', { xmlns: DISCO_ITEMS_NS, node: node.name }, order.map(({ id }) => xml('item', { jid: node.service, name: id }))) // §5.5
    },
  })
}

/** §5.3 and §5.4 */
function nodeInfo({ store }: Engine, node: Node): Element {
  const { config } = node
  const affiliations = [...(isAccount(node.service) ? [{ jid: node.service, affiliation: 'owner' }] : []), ...store.affiliations(node.service, node.name)]
  const withRole = (role: string): readonly string[] => affiliations.flatMap(({ jid, affiliation }) => (affiliation === role ? [jid] : [])).slice(0, ROLES_MAX)
  return xml('query', { xmlns: DISCO_INFO_NS, node: node.name },
    xml('identity', { category: 'pubsub', type: 'leaf', name: config.title === '' ? undefined : config.title }),
    [DISCO_INFO_NS, DISCO_ITEMS_NS, PUBSUB_NS].map((feature) => xml('feature', { var: feature })),
    buildForm('result', {
      formType: `${PUBSUB_NS}#meta-data`,
      fields: [
        { var: 'pubsub#type', type: 'text-single', label: 'Payload type', value: config.type },
        { var: 'pubsub#creator', type: 'jid-single', label: 'Node creator', value: node.creator },
        { var: 'pubsub#creation_date', type: 'text-single', label: 'Creation date', value: formatDateTime(node.created) },
        { var: 'pubsub#title', type: 'text-single', label: 'A short name for the node', value: config.title },
        { var: 'pubsub#description', type: 'text-single', label: 'A description of the node', value: config.description },
        { var: 'pubsub#access_model', type: 'list-single', label: 'Who may subscribe and retrieve items', value: config.access_model },
        { var: 'pubsub#publish_model', type: 'list-single', label: 'Who may publish', value: config.publish_model },
        { var: 'pubsub#max_items', type: 'text-single', label: 'The number of items kept', value: config.max_items },
        { var: 'pubsub#owner', type: 'jid-multi', label: 'Node owners', value: withRole('owner') },
        { var: 'pubsub#publisher', type: 'jid-multi', label: 'Publishers to this node', value: withRole('publisher') },
        { var: 'pubsub#num_subscribers', type: 'text-single', label: 'Number of subscribers to this node', value: store.subscriptionCount(node.service, node.name) },
      ],
    }))
}
