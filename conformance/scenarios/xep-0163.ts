/** XEP-0163: personal events; with XEP-0223, XEP-0384 and XEP-0490, which keep things in such nodes. */
import { type Actor, befriend, check, play } from '../play.ts'
import { capsHash } from '../compliance/capabilities.ts'
import { xml } from '../../lib/xml/element.ts'
import { DONE, error, fields, gets, publishes, PUBSUB, sets } from './xep-0060.ts'

const EVENT = `${PUBSUB}#event`
const TUNE = 'http://jabber.org/protocol/tune'
const MDS = 'urn:xmpp:mds:displayed:0'

/** Tells the server, and whoever asks, which events a client wants. */
function wants(actor: Actor, ...nodes: readonly string[]): void {
  const info = xml('query', { xmlns: 'http://jabber.org/protocol/disco#info' }, xml('identity', { category: 'client', type: 'pc' }), nodes.map((node) => xml('feature', { var: `${node}+notify` })))
  actor.client.on((stanza) => {
    if (stanza.name === 'iq' && stanza.type === 'get' && stanza.has('query', 'http://jabber.org/protocol/disco#info')) actor.sends(`<iq type='result' id='${stanza.id ?? ''}' to='${stanza.from ?? ''}'>${info.toString()}</iq>`)
  })
  actor.sends(`<presence><c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='urn:example:play' ver='${capsHash(info, 'sha-1')}'/></presence>`)
}

play('XEP-0163 §4 contacts and own devices hear of what they are interested in', { romeo: {}, balcony: { account: 'juliet' }, juliet: {} }, async ({ romeo, juliet, balcony }) => {
  await befriend(juliet, romeo)
  for (const each of [romeo, balcony]) wants(each, TUNE)
  await romeo.forgets()
  await juliet.asks(publishes(TUNE, 'one'), DONE)
  for (const each of [romeo, balcony]) await each.receives(`<message from='${juliet.bare}' to='${each.jid}'><event xmlns='${EVENT}'><items node='${TUNE}'><item id='one'/></items></event></message>`)
  await juliet.receivesNothing(`<message><event xmlns='${EVENT}'/></message>`)
})

play('XEP-0163 §4.3.4 who becomes available hears the last item', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  await befriend(juliet, romeo)
  for (const id of ['one', 'two']) await juliet.asks(publishes(TUNE, id), DONE)
  romeo.sends("<presence type='unavailable'/>")
  wants(romeo, TUNE)
  const told = await romeo.receives(`<message from='${juliet.bare}'><event xmlns='${EVENT}'><items node='${TUNE}'/></event></message>`)
  check(told.getChild('event')?.getChild('items')?.getChild('item')?.attrs['id'] === 'two', 'the last one')
})

play('XEP-0163 §3.5 strangers read what is open, and nothing else', { juliet: {}, nurse: {} }, async ({ juliet, nurse }) => {
  await juliet.asks(publishes(TUNE, 'one'), DONE)
  await nurse.asks(gets(`<items node='${TUNE}'/>`, juliet.bare), error('not-authorized', 'presence-subscription-required'))
  const devices = 'eu.siacs.conversations.axolotl.devicelist'
  await juliet.asks(publishes(devices, 'current', undefined, { access_model: 'open' }), DONE)
  await nurse.asks(gets(`<items node='${devices}'/>`, juliet.bare), `<iq type='result'><pubsub xmlns='${PUBSUB}'><items node='${devices}'><item id='current'/></items></pubsub></iq>`)
  await nurse.asks(publishes(devices, 'current', juliet.bare), error('forbidden'))
})

play('XEP-0060 §7.1.5 publish options are preconditions', { juliet: {} }, async ({ juliet }) => {
  await juliet.asks(publishes('urn:example:private', 'one', undefined, { access_model: 'whitelist', persist_items: 'true' }), DONE)
  await juliet.asks(publishes('urn:example:private', 'one', undefined, { access_model: 'open' }), error('conflict', 'precondition-not-met'))
  await juliet.asks(sets(`<configure node='urn:example:private'>${fields('node_config', { access_model: 'open' })}</configure>`, undefined, `${PUBSUB}#owner`), DONE)
  await juliet.asks(publishes('urn:example:private', 'one', undefined, { access_model: 'open' }), DONE)
})

play('XEP-0490 §4.5 a message says what was displayed, to own devices alone', { juliet: {}, balcony: { account: 'juliet' }, romeo: {} }, async ({ juliet, balcony, romeo }) => {
  wants(balcony, MDS)
  await balcony.forgets()
  const displayed = `<displayed xmlns='${MDS}'><stanza-id xmlns='urn:xmpp:sid:0' by='${juliet.bare}' id='x1'/></displayed>`
  juliet.sends(`<message to='${romeo.bare}' type='chat'><displayed xmlns='urn:xmpp:chat-markers:0' id='m1'/>${displayed}</message>`)
  await balcony.receives(`<message from='${juliet.bare}'><event xmlns='${EVENT}'><items node='${MDS}'><item id='${romeo.bare}'>${displayed}</item></items></event></message>`)
  const marker = await romeo.receives("<message><displayed xmlns='urn:xmpp:chat-markers:0' id='m1'/></message>")
  check(marker.getChild('displayed', MDS) === undefined, 'it is taken out')
  await romeo.asks(gets(`<items node='${MDS}'/>`, juliet.bare), error('not-allowed', 'closed-node'))
})
