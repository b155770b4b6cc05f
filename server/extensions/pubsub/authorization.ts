/** XEP-0060 §8.6: owners decide who is subscribed to a node of the access model `authorize`. */
import { buildForm, parseForm } from '../../../lib/forms.ts'
import type { Jid } from '../../../lib/jid.ts'
import { StanzaError } from '../../../lib/stanza/errors.ts'
import { randomId } from '../../../lib/stanza/ids.ts'
import { stanzaOf, type Stanza } from '../../../lib/stanza/stanza.ts'
import type { Command } from '../commands-registry.ts'
import type { IqRequest } from '../extension.ts'
import type { Engine } from './engine.ts'
import { isAccount, type Node, type Subscription } from './node-store.ts'

const PUBSUB_NS = 'http://jabber.org/protocol/pubsub'
const AUTHORIZATION = `${PUBSUB_NS}#subscribe_authorization`
/** Forms sent for one command. */
const PENDING_MAX = 1000
const FORMS_NS = 'jabber:x:data'

/** Sends the owners of a node, or one of them, the form by which they answer a request (§8.6). */
export function askOwners({ store, events }: Engine, node: Node, subscription: Subscription, owners: readonly string[] = ownersOf(node, store)): void {
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
  for (const owner of owners) events.write(stanzaOf('message', { from: node.service, to: owner, id: randomId(9) }, form))
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
  const allow = form.boolean('pubsub#allow')
  if (allow === undefined) throw new StanzaError('bad-request', 'pubsub#allow is missing')
  // §12.11: the first answer wins.
  if (subscription.state === 'pending') engine.setSubscription(node, subscription, allow ? 'subscribed' : 'none')
  return true
}

/** §8.7: the command by which an owner is asked again about the requests for one of its nodes. */
export function getPending(engine: Engine): Command {
  const { store } = engine
  const owned = ({ from, to }: IqRequest): readonly string[] => store.placesOf(from.bare, to.toString())
    .flatMap(({ kind, node }) => (kind === 'a' && store.affiliation(to.toString(), node, from.bare) === 'owner' ? [node] : []))
  return {
    node: `${PUBSUB_NS}#get-pending`, name: 'Pending subscription requests',
    mayRun: (request) => owned(request).length > 0,
    run: (request) => ({
      form: {
        formType: AUTHORIZATION, title: 'Pending subscription requests',
        fields: [{ var: 'pubsub#node', type: 'list-single', label: 'Node', required: true, options: owned(request) }],
      },
      submit(form, { from, to }) {
        const node = engine.require(to.toString(), form.value('pubsub#node') ?? '')
        engine.access.requireOwner(node, from)
        const pending = store.subscriptions(node.service, node.name).filter(({ state }) => state === 'pending')
        for (const subscription of pending.slice(0, PENDING_MAX)) askOwners(engine, node, subscription, [from.toString()])
        return { notes: [{ type: 'info', text: `${pending.length} requests are pending` }] }
      },
    }),
  }
}
