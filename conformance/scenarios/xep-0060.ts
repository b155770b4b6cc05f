/** XEP-0060: publish-subscribe, at the service that the domain names among its items. */
import { type Actor, check, fail, play } from '../play.ts'

export const PUBSUB = 'http://jabber.org/protocol/pubsub'
const OWNER = `${PUBSUB}#owner`
const EVENT = `${PUBSUB}#event`
const STANZAS = 'urn:ietf:params:xml:ns:xmpp-stanzas'
const NOTE = "<note xmlns='urn:example:note'>Adieu</note>"

/** A form that is sent in, with the fields of `pubsub#node_config` or another type. */
export function fields(type: string, values: Readonly<Record<string, string>>): string {
  return `<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE' type='hidden'><value>${PUBSUB}#${type}</value></field>${Object.entries(values).map(([name, value]) => `<field var='pubsub#${name}'><value>${value}</value></field>`).join('')}</x>`
}

let ids = 0

export function sets(inner: string, to?: string, ns = PUBSUB): string {
  return `<iq type='set' id='s${ids++}'${to === undefined ? '' : ` to='${to}'`}><pubsub xmlns='${ns}'>${inner}</pubsub></iq>`
}

export function gets(inner: string, to?: string, ns = PUBSUB): string {
  return `<iq type='get' id='g${ids++}'${to === undefined ? '' : ` to='${to}'`}><pubsub xmlns='${ns}'>${inner}</pubsub></iq>`
}

export function publishes(node: string, id: string, to?: string, options?: Readonly<Record<string, string>>): string {
  const wanted = options === undefined ? '' : `<publish-options>${fields('publish-options', options)}</publish-options>`
  return sets(`<publish node='${node}'><item id='${id}'>${NOTE}</item></publish>${wanted}`, to)
}

export const DONE = "<iq type='result'/>"
/** An error by its conditions. */
export function error(condition: string, own?: string): string {
  return `<iq type='error'><error><${condition} xmlns='${STANZAS}'/>${own === undefined ? '' : `<${own} xmlns='${PUBSUB}#errors'/>`}</error></iq>`
}

async function serviceOf(actor: Actor): Promise<string> {
  const items = await actor.asks(`<iq type='get' id='d0' to='${actor.stage.domain}'><query xmlns='http://jabber.org/protocol/disco#items'/></iq>`, DONE)
  for (const item of items.getChild('query')?.getChildren('item') ?? []) {
    const jid = item.attrs['jid'] ?? ''
    const info = await actor.asks(`<iq type='get' id='d-${jid}' to='${jid}'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>`, `<iq id='d-${jid}' from='${jid}'/>`)
    if (info.getChild('query')?.getChildren('identity').some(({ attrs }) => attrs['category'] === 'pubsub' && attrs['type'] === 'service') === true) return jid
  }
  return fail('the domain has no publish-subscribe service')
}

async function createsNode(actor: Actor, config: Readonly<Record<string, string>> = {}): Promise<{ service: string; node: string }> {
  const service = await serviceOf(actor)
  const created = await actor.asks(sets(`<create/><configure>${fields('node_config', config)}</configure>`, service), `<iq type='result'><pubsub xmlns='${PUBSUB}'><create node='{any}'/></pubsub></iq>`)
  return { service, node: created.getChild('pubsub')?.getChild('create')?.attrs['node'] ?? '' }
}

play('XEP-0060 §6.1 §7.1 §7.2 who subscribes hears what is published and retracted', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  const { service, node } = await createsNode(romeo)
  await juliet.asks(sets(`<subscribe node='${node}' jid='${juliet.bare}'/>`, service), `<iq type='result'><pubsub xmlns='${PUBSUB}'><subscription node='${node}' jid='${juliet.bare}' subscription='subscribed'/></pubsub></iq>`)
  await romeo.asks(publishes(node, 'one', service), `<iq type='result'><pubsub xmlns='${PUBSUB}'><publish node='${node}'><item id='one'/></publish></pubsub></iq>`)
  await juliet.receives(`<message from='${service}'><event xmlns='${EVENT}'><items node='${node}'><item id='one'>${NOTE}</item></items></event></message>`)
  await romeo.asks(sets(`<retract node='${node}' notify='1'><item id='one'/></retract>`, service), DONE)
  await juliet.receives(`<message from='${service}'><event xmlns='${EVENT}'><items node='${node}'><retract id='one'/></items></event></message>`)
  await juliet.asks(sets(`<unsubscribe node='${node}' jid='${juliet.bare}'/>`, service), DONE)
  await romeo.asks(publishes(node, 'two', service), DONE)
  await juliet.receivesNothing(`<message from='${service}'><event xmlns='${EVENT}'><items node='${node}'/></event></message>`)
})

play('XEP-0060 §7.1.3 §8 what is not allowed is refused as the specification says', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  const { service, node } = await createsNode(romeo)
  await romeo.asks(sets(`<create node='${node}'/>`, service), error('conflict'))
  await juliet.asks(publishes(node, 'one', service), error('forbidden'))
  await juliet.asks(sets(`<delete node='${node}'/>`, service, OWNER), error('forbidden'))
  await juliet.asks(gets(`<configure node='${node}'/>`, service, OWNER), error('forbidden'))
  await juliet.asks(sets(`<subscribe node='${node}' jid='${romeo.bare}'/>`, service), error('bad-request', 'invalid-jid'))
  await juliet.asks(sets(`<unsubscribe node='${node}' jid='${juliet.bare}'/>`, service), error('unexpected-request', 'not-subscribed'))
  await juliet.asks(gets("<items node='urn:example:nothing'/>", service), error('item-not-found'))
  await romeo.asks(sets(`<publish node='${node}'><item id='one'/></publish>`, service), error('bad-request', 'payload-required'))
})

play('XEP-0060 §4.5 §8.9 a whitelist lets in its members', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  const { service, node } = await createsNode(romeo, { access_model: 'whitelist' })
  await romeo.asks(publishes(node, 'one', service), DONE)
  await juliet.asks(gets(`<items node='${node}'/>`, service), error('not-allowed', 'closed-node'))
  await romeo.asks(sets(`<affiliations node='${node}'><affiliation jid='${juliet.bare}' affiliation='member'/></affiliations>`, service, OWNER), DONE)
  await juliet.asks(gets(`<items node='${node}'/>`, service), `<iq type='result'><pubsub xmlns='${PUBSUB}'><items node='${node}'><item id='one'/></items></pubsub></iq>`)
  await juliet.asks(gets('<affiliations/>', service), `<iq type='result'><pubsub xmlns='${PUBSUB}'><affiliations><affiliation node='${node}' affiliation='member'/></affiliations></pubsub></iq>`)
})

play('XEP-0060 §8.6 an owner approves who asks', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  const { service, node } = await createsNode(romeo, { access_model: 'authorize' })
  await juliet.asks(sets(`<subscribe node='${node}' jid='${juliet.bare}'/>`, service), `<iq type='result'><pubsub xmlns='${PUBSUB}'><subscription node='${node}' subscription='pending'/></pubsub></iq>`)
  await juliet.asks(gets(`<items node='${node}'/>`, service), error('not-authorized', 'not-subscribed'))
  await romeo.receives(`<message from='${service}'><x xmlns='jabber:x:data' type='form'/></message>`)
  romeo.sends(`<message to='${service}'>${fields('subscribe_authorization', { node, subscriber_jid: juliet.bare, allow: 'true' })}</message>`)
  await juliet.receives(`<message from='${service}'><event xmlns='${EVENT}'><subscription node='${node}' jid='${juliet.bare}' subscription='subscribed'/></event></message>`)
  await romeo.asks(publishes(node, 'one', service), DONE)
  await juliet.receives(`<message from='${service}'><event xmlns='${EVENT}'><items node='${node}'><item id='one'/></items></event></message>`)
})

play('XEP-0060 §6.5 items are given by id, the newest, and by the page', { romeo: {} }, async ({ romeo }) => {
  const { service, node } = await createsNode(romeo, { max_items: '3' })
  for (const id of ['a', 'b', 'c', 'd']) await romeo.asks(publishes(node, id, service), DONE)
  const idsOf = async (request: string): Promise<string> => ((await romeo.asks(request, DONE)).getChild('pubsub')?.getChild('items')?.getChildren('item') ?? []).map(({ attrs }) => attrs['id']).join('')
  check(await idsOf(gets(`<items node='${node}'/>`, service)) === 'bcd', 'max_items keeps the newest')
  check(await idsOf(gets(`<items node='${node}' max_items='1'/>`, service)) === 'd', 'the newest')
  check(await idsOf(gets(`<items node='${node}'><item id='c'/></items>`, service)) === 'c', 'by id')
  check(await idsOf(gets(`<items node='${node}'/><set xmlns='http://jabber.org/protocol/rsm'><max>1</max><after>b</after></set>`, service)) === 'c', 'by the page')
})

play('XEP-0060 §8.4 §8.5 subscribers hear that a node is purged and deleted', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  const { service, node } = await createsNode(romeo)
  await juliet.asks(sets(`<subscribe node='${node}' jid='${juliet.bare}'/>`, service), DONE)
  await romeo.asks(sets(`<purge node='${node}'/>`, service, OWNER), DONE)
  await juliet.receives(`<message from='${service}'><event xmlns='${EVENT}'><purge node='${node}'/></event></message>`)
  await romeo.asks(sets(`<delete node='${node}'/>`, service, OWNER), DONE)
  await juliet.receives(`<message from='${service}'><event xmlns='${EVENT}'><delete node='${node}'/></event></message>`)
  await juliet.asks(gets(`<items node='${node}'/>`, service), error('item-not-found'))
})

play('XEP-0060 §6.3 a subscriber sets what it wants of its subscription', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  const { service, node } = await createsNode(romeo)
  const options = `<options node='${node}' jid='${juliet.bare}'`
  await juliet.asks(gets(`${options}/>`, service), error('unexpected-request', 'not-subscribed'))
  await juliet.asks(sets(`<subscribe node='${node}' jid='${juliet.bare}'/>`, service), DONE)
  await juliet.asks(gets(`${options}/>`, service), `<iq type='result'><pubsub xmlns='${PUBSUB}'><options node='${node}' jid='${juliet.bare}'><x xmlns='jabber:x:data' type='form'><field var='pubsub#deliver'><value>1</value></field></x></options></pubsub></iq>`)
  await juliet.asks(gets(`<options node='${node}'/>`, service), error('bad-request', 'jid-required'))
  await romeo.asks(gets(`${options}/>`, service), error('forbidden'))
  await juliet.asks(gets(`${options} subid='nonesuch'/>`, service), error('not-acceptable', 'invalid-subid'))
  await juliet.asks(sets(`${options}>${fields('subscribe_options', { expire: 'some day' })}</options>`, service), error('bad-request', 'invalid-options'))
  await juliet.asks(sets(`${options}>${fields('subscribe_options', { deliver: '0' })}</options>`, service), DONE)
  await romeo.asks(publishes(node, 'one', service), DONE)
  await juliet.asks(sets(`${options}>${fields('subscribe_options', { deliver: '1' })}</options>`, service), DONE)
  await romeo.asks(publishes(node, 'two', service), DONE)
  const told = await juliet.receives(`<message from='${service}'><event xmlns='${EVENT}'><items node='${node}'/></event></message>`)
  check(told.getChild('event')?.getChild('items')?.getChild('item')?.attrs['id'] === 'two', 'nothing is delivered while delivery is off')
})

play('XEP-0060 §6.3.7 §12.4 a subscription comes with its options, and ends with the presence of its subscriber', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  const { service, node } = await createsNode(romeo)
  await juliet.asks(sets(`<subscribe node='${node}' jid='${juliet.bare}'/><options>${fields('subscribe_options', { expire: 'presence' })}</options>`, service),
    `<iq type='result'><pubsub xmlns='${PUBSUB}'><subscription node='${node}' jid='${juliet.bare}' subscription='subscribed'/><options><x xmlns='jabber:x:data' type='result'><field var='pubsub#expire'><value>presence</value></field></x></options></pubsub></iq>`)
  juliet.sends("<presence type='unavailable'/>")
  const answer = await juliet.asks(gets(`<subscriptions node='${node}'/>`, service), DONE)
  check(answer.getChild('pubsub')?.getChild('subscriptions')?.getChildElements().length === 0, 'the subscription has ended')
})

play('XEP-0060 §8.7 an owner asks for the requests that are pending', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  const { service, node } = await createsNode(romeo, { access_model: 'authorize' })
  const command = (attrs: string, inner = ''): string => `<iq type='set' id='p${ids++}' to='${service}'><command xmlns='http://jabber.org/protocol/commands' node='${PUBSUB}#get-pending'${attrs}>${inner}</command></iq>`
  await juliet.asks(command(" action='execute'"), error('forbidden'))
  await juliet.asks(sets(`<subscribe node='${node}' jid='${juliet.bare}'/>`, service), DONE)
  await romeo.receives(`<message from='${service}'><x xmlns='jabber:x:data' type='form'/></message>`)
  const form = await romeo.asks(command(" action='execute'"), "<iq type='result'><command xmlns='http://jabber.org/protocol/commands' status='executing'><x xmlns='jabber:x:data' type='form'><field var='pubsub#node'/></x></command></iq>")
  const session = ` sessionid='${form.getChild('command')?.attrs['sessionid'] ?? ''}'`
  await romeo.asks(command(session, `<x xmlns='jabber:x:data' type='submit'><field var='pubsub#node'><value>${node}</value></field></x>`), "<iq type='result'><command xmlns='http://jabber.org/protocol/commands' status='completed'/></iq>")
  await romeo.receives(`<message from='${service}'><x xmlns='jabber:x:data' type='form'><field var='pubsub#subscriber_jid'><value>${juliet.bare}</value></field></x></message>`)
})

play('XEP-0060 §8.8.2.4 §8.9.2.5 what an owner cannot change is answered as it is', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  const { service, node } = await createsNode(romeo)
  await romeo.asks(sets(`<affiliations node='${node}'><affiliation jid='${romeo.bare}' affiliation='none'/><affiliation jid='${juliet.bare}' affiliation='publisher'/></affiliations>`, service, OWNER),
    `<iq type='error'><pubsub xmlns='${OWNER}'><affiliations node='${node}'><affiliation jid='${romeo.bare}' affiliation='owner'/></affiliations></pubsub><error><not-acceptable xmlns='${STANZAS}'/></error></iq>`)
  await juliet.asks(publishes(node, 'one', service), DONE)
  await romeo.asks(sets(`<subscriptions node='${node}'><subscription jid='${juliet.bare}' subscription='unheard-of'/></subscriptions>`, service, OWNER),
    `<iq type='error'><pubsub xmlns='${OWNER}'><subscriptions node='${node}'><subscription jid='${juliet.bare}' subscription='none'/></subscriptions></pubsub><error><not-acceptable xmlns='${STANZAS}'/></error></iq>`)
})

play('XEP-0060 §4.3 §7.1.3.7 §8.5.3.3 items and payloads are as the type of events asks for', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  const { service, node } = await createsNode(romeo, { persist_items: '0', deliver_payloads: '0' })
  await juliet.asks(sets(`<subscribe node='${node}' jid='${juliet.bare}'/>`, service), DONE)
  await romeo.asks(sets(`<publish node='${node}'><item/></publish>`, service), error('bad-request', 'item-forbidden'))
  await romeo.asks(sets(`<purge node='${node}'/>`, service, OWNER), error('feature-not-implemented', 'unsupported'))
  await romeo.asks(sets(`<publish node='${node}'/>`, service), DONE)
  const told = await juliet.receives(`<message from='${service}'><event xmlns='${EVENT}'><items node='${node}'/></event></message>`)
  check(told.getChild('event')?.getChild('items')?.getChildElements().length === 0, 'there is no item')
  await romeo.asks(sets(`<configure node='${node}'>${fields('node_config', { persist_items: '1' })}</configure>`, service, OWNER), DONE)
  await romeo.asks(sets(`<publish node='${node}'/>`, service), error('bad-request', 'item-required'))
  await romeo.asks(sets(`<publish node='${node}'><item id='one'/></publish>`, service), DONE)
})

play('XEP-0060 §7.1.3.4 a full node that is to reject items does', { romeo: {} }, async ({ romeo }) => {
  const { service, node } = await createsNode(romeo, { max_items: '1', publish_node_full: 'reject' })
  await romeo.asks(publishes(node, 'one', service), DONE)
  await romeo.asks(publishes(node, 'two', service), error('conflict', 'node-full'))
  await romeo.asks(publishes(node, 'one', service), DONE)
})

play('XEP-0060 §7.1.2.3 items come with their publisher when the node is configured so', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  const { service, node } = await createsNode(romeo, { itemreply: 'publisher', publish_model: 'open' })
  await romeo.asks(sets(`<subscribe node='${node}' jid='${romeo.bare}'/>`, service), DONE)
  await juliet.asks(publishes(node, 'one', service), DONE)
  await romeo.receives(`<message from='${service}'><event xmlns='${EVENT}'><items node='${node}'><item id='one' publisher='{any}'>${NOTE}</item></items></event></message>`)
  const answer = await romeo.asks(gets(`<items node='${node}'/>`, service), DONE)
  check(answer.getChild('pubsub')?.getChild('items')?.getChild('item')?.attrs['publisher']?.split('/')[0] === juliet.bare, 'the publisher is told')
})

play('XEP-0060 §8.1.3 §8.1.2 a configuration follows the node that it is for, and collections are refused where there are none', { romeo: {} }, async ({ romeo }) => {
  const { service } = await createsNode(romeo)
  const config = fields('node_config', { title: 'x' })
  await romeo.asks(sets(`<configure>${config}</configure><create/>`, service), error('bad-request'))
  await romeo.asks(sets(`<create/><configure node='x'>${config}</configure>`, service), error('bad-request'))
  await romeo.asks(sets(`<create/><configure>${fields('node_config', { node_type: 'collection' })}</configure>`, service), error('feature-not-implemented', 'unsupported'))
})
