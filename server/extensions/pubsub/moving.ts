// XEP-0227: Portable Import/Export Format for XMPP-IM Servers, version 1.1: personal events
import { Jid } from '../../../lib/jid.ts'
import { type Element, escapeXml, xml } from '../../../lib/xml/element.ts'
import { standalone } from '../standalone-element.ts'
import { configForm, configOf, PERSONAL_DEFAULTS } from './node-config.ts'
import type { Affiliation, NodeStore } from './node-store.ts'

const PUBSUB_NS = 'http://jabber.org/protocol/pubsub'
const OWNER_NS = `${PUBSUB_NS}#owner`
const AFFILIATIONS: readonly Affiliation[] = ['owner', 'publisher', 'publish-only', 'member', 'outcast']
const NODE_NAME_MAX = 1023

/** §4.8.1: how the nodes of an account are set up, then §4.8.2: their items, oldest first. */
export function* exportNodes(store: NodeStore, owner: string): Generator<string> {
  const nodes = [...store.nodesOf(owner).values()]
  if (nodes.length === 0) return
  yield `<pubsub xmlns='${OWNER_NS}'>`
  for (const { name, config } of nodes) {
    yield xml('configure', { node: name }, configForm('form', config)).toString()
    const affiliations = store.affiliations(owner, name)
    if (affiliations.length > 0) yield xml('affiliations', { node: name }, affiliations.map(({ jid, affiliation }) => xml('affiliation', { jid, affiliation }))).toString()
    const subscriptions = store.subscriptions(owner, name)
    if (subscriptions.length > 0) yield xml('subscriptions', { node: name }, subscriptions.map(({ jid, subid, state }) => xml('subscription', { jid, subid, subscription: state }))).toString()
  }
  yield `</pubsub>\n<pubsub xmlns='${PUBSUB_NS}'>`
  for (const { name } of nodes) {
    yield `<items node='${escapeXml(name)}'>`
    for (const { id, payload } of store.items(owner, name)) yield `<item id='${escapeXml(id)}'>${payload}</item>`
    yield '</items>'
  }
  yield '</pubsub>'
}

/** Makes the nodes; options that are not known here have their defaults. */
export function importConfigurations(store: NodeStore, owner: string, element: Element, now: number): void {
  for (const each of element.getChildElements()) {
    const node = each.attrs['node'] ?? ''
    if (node === '' || node.length > NODE_NAME_MAX) throw new Error('a node has no name, or a name that is too long')
    if (each.is('configure', OWNER_NS)) {
      const fields = each.getChild('x', 'jabber:x:data')?.getChildren('field') ?? []
      const config = configOf(Object.fromEntries(fields.map((field) => {
        const values = field.getChildren('value').map((value) => value.getText())
        return [field.attrs['var'] ?? '', values.length === 1 ? values[0] : values]
      })))
      store.putNode({ service: owner, name: node, config: { ...PERSONAL_DEFAULTS, ...config }, creator: owner, created: now })
    } else if (store.node(owner, node) === undefined) continue
    else if (each.is('affiliations', OWNER_NS)) {
      for (const { attrs } of each.getChildren('affiliation')) {
        const jid = Jid.tryParse(attrs['jid'] ?? '')
        const affiliation = AFFILIATIONS.find((known) => known === attrs['affiliation'])
        if (jid !== undefined && affiliation !== undefined && jid.bare !== owner) store.setAffiliation(owner, node, jid.bare, affiliation)
      }
    } else if (each.is('subscriptions', OWNER_NS)) {
      for (const { attrs } of each.getChildren('subscription')) {
        const jid = Jid.tryParse(attrs['jid'] ?? '')
        if (jid !== undefined && (attrs['subscription'] === 'subscribed' || attrs['subscription'] === 'pending')) store.subscribe(owner, node, { jid: jid.toString(), subid: attrs['subid'] ?? '', state: attrs['subscription'] })
      }
    }
  }
}

export function importItems(store: NodeStore, owner: string, element: Element, now: number): void {
  for (const list of element.getChildren('items', PUBSUB_NS)) {
    const name = list.attrs['node'] ?? ''
    if (name === '' || name.length > NODE_NAME_MAX) throw new Error('a node has no name, or a name that is too long')
    if (store.node(owner, name) === undefined) store.putNode({ service: owner, name, config: PERSONAL_DEFAULTS, creator: owner, created: now })
    const max = Number(store.node(owner, name)?.config.max_items)
    const items = list.getChildren('item', PUBSUB_NS)
    for (const item of Number.isFinite(max) ? items.slice(-max) : items) {
      const [payload] = item.getChildElements()
      store.putItem(owner, name, { id: item.attrs['id'] ?? 'current', payload: payload === undefined ? '' : standalone(payload).toString(), publisher: owner })
    }
  }
}
