/** XEP-0060 §8.6: owners decide who is subscribed to a node of the access model `authorize`. */
import { buildForm, parseForm } from '../../../lib/forms.ts'
import { Jid } from '../../../lib/jid.ts'
import { StanzaError } from '../../../lib/stanza/errors.ts'
import { randomId } from '../../../lib/stanza/ids.ts'
import { stanzaOf, type Stanza } from '../../../lib/stanza/stanza.ts'
import { subscriptionXml, type Engine } from './engine.ts'
import { isAccount, type Node, type Subscription } from './node-store.ts'

const AUTHORIZATION = 'http://jabber.org/protocol/pubsub#subscribe_authorization'
const FORMS_NS = 'jabber:x:data'

/** Sends the owners of a node the form by which they answer a request (§8.6). */
export function askOwners({ store, events }: Engine, node: Node, subscription: Subscription): void {
  const form = buildForm('form', {
    formType: AUTHORIZATION,
    title: 'PubSub subscriber request',
    instructions: 'Choose whether to approve this entity’s subscription request.',
    fields: [
      { var: 'pubsub#subid', type: 'hidden', value: subscription.subid },
      { var: 'pubsub#node', type: 'text-single', label: 'Node ID', value: node.name },
      { var: 'pubsub#subscriber_jid', type: 'jid-single', label: 'Subscriber address', value: subscription.jid },
      { var: 'pubsub#allow', type: 'boolean', label: 'Allow this JID to subscribe to this node?', value: false },
    ],
  })
  for (const owner of ownersOf(node, store)) events.write(stanzaOf('message', { from: node.service, to: owner, id: randomId(9) }, form))
}

function ownersOf(node: Node, store: Engine['store']): readonly string[] {
  return isAccount(node.service) ? [node.service]
    : store.affiliations(node.service, node.name).filter(({ affiliation }) => affiliation === 'owner').map(({ jid }) => jid)
}

/** Whether the message is an answer to such a form; it is carried out. */
export function takeDecision(engine: Engine, service: string, from: Jid, message: Stanza): boolean {
  const span = message.find('x', FORMS_NS)
  if (span === undefined) return false
  const x = message.childElement(span)
  if (x.attrs['type'] !== 'submit' && x.attrs['type'] !== 'cancel') return false
  const form = parseForm(x)
  if (form.formType !== AUTHORIZATION) return false
  if (form.kind === 'cancel') return true
  const node = engine.require(service, form.value('pubsub#node') ?? '')
  engine.access.requireOwner(node, from)
  const jid = form.value('pubsub#subscriber_jid') ?? ''
  const subscription = engine.store.subscription(service, node.name, jid)
  const subid = form.value('pubsub#subid')
  if (subscription === undefined || (subid !== undefined && subid !== '' && subid !== subscription.subid)) throw new StanzaError('item-not-found')
  setSubscription(engine, node, subscription, form.boolean('pubsub#allow') === true ? 'subscribed' : 'none')
  return true
}

/** An owner gives, or takes away, a subscription; its subscriber hears of it (§8.8.4). */
export function setSubscription(engine: Engine, node: Node, subscription: Subscription, state: 'subscribed' | 'pending' | 'none'): void {
  const { store, events } = engine
  // Who has not asked gets what is published from now on.
  const asked = store.subscription(node.service, node.name, subscription.jid)?.state === 'pending'
  if (state === 'none') store.unsubscribe(node.service, node.name, subscription.jid)
  else store.subscribe(node.service, node.name, { ...subscription, state })
  events.tell(node.service, subscription.jid, subscriptionXml(node, { ...subscription, state }))
  if (state === 'subscribed' && asked && node.config.send_last_published_item !== 'never') events.lastTo(node, { ...subscription, state })
}
