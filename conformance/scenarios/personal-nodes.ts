/** What clients keep in personal nodes: XEP-0084, XEP-0172, XEP-0223, XEP-0292. */
import { createHash } from 'node:crypto'
import { type Element, xml } from '../../lib/xml/element.ts'
import { capsHash } from '../compliance/capabilities.ts'
import { type Actor, befriend, check, play } from '../play.ts'

const PUBSUB = 'http://jabber.org/protocol/pubsub'
const INFO = 'http://jabber.org/protocol/disco#info'
const DATA = 'urn:xmpp:avatar:data'
const METADATA = 'urn:xmpp:avatar:metadata'
const IMAGE = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=='
const HASH = createHash('sha1').update(Buffer.from(IMAGE, 'base64')).digest('hex')
const OPEN = { access_model: 'open' }

/** Says by its capabilities (XEP-0115) that it wants events of these nodes. */
async function listens(actor: Actor, ...nodes: readonly string[]): Promise<void> {
  const info = xml('query', { xmlns: INFO }, xml('identity', { category: 'client', type: 'pc' }), nodes.map((node) => xml('feature', { var: `${node}+notify` })))
  actor.client.on((stanza) => {
    if (stanza.name === 'iq' && stanza.type === 'get' && stanza.has('query', INFO)) actor.sends(`<iq type='result' id='${stanza.id ?? ''}' to='${stanza.from ?? ''}'>${info.toString()}</iq>`)
  })
  actor.sends(`<presence><c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='urn:play' ver='${capsHash(info, 'sha-1')}'/></presence>`)
  await actor.receives(`<presence from='${actor.jid}'><c xmlns='http://jabber.org/protocol/caps'/></presence>`)
  await actor.client.ping()
  await actor.forgets()
}

async function publish(actor: Actor, node: string, item: string, options: Readonly<Record<string, string>>): Promise<void> {
  const fields = Object.entries(options).map(([name, value]) => `<field var='pubsub#${name}'><value>${value}</value></field>`).join('')
  await actor.asks(`<iq type='set' id='p-${node}'><pubsub xmlns='${PUBSUB}'><publish node='${node}'>${item}</publish><publish-options><x xmlns='jabber:x:data' type='submit'>`
    + `<field var='FORM_TYPE' type='hidden'><value>${PUBSUB}#publish-options</value></field>${fields}</x></publish-options></pubsub></iq>`, "<iq type='result'/>")
}

async function publishAvatar(actor: Actor, options: Readonly<Record<string, string>>): Promise<void> {
  await publish(actor, DATA, `<item id='${HASH}'><data xmlns='${DATA}'>${IMAGE}</data></item>`, options)
  await publish(actor, METADATA, `<item id='${HASH}'><metadata xmlns='${METADATA}'><info id='${HASH}' bytes='70' type='image/png' width='1' height='1'/></metadata></item>`, options)
}

const event = (node: string, inner: string, from: Actor): string =>
  `<message from='${from.bare}'><event xmlns='${PUBSUB}#event'><items node='${node}'>${inner}</items></event></message>`

async function items(actor: Actor, id: string, node: string, of: Actor): Promise<readonly Element[]> {
  const answer = await actor.asks(`<iq type='get' id='${id}' to='${of.bare}'><pubsub xmlns='${PUBSUB}'><items node='${node}'/></pubsub></iq>`, "<iq type='result'/>")
  return answer.getChild('pubsub', PUBSUB)?.getChild('items')?.getChildren('item') ?? []
}

async function refuses(actor: Actor, id: string, node: string, of: Actor): Promise<void> {
  await actor.asks(`<iq type='get' id='${id}' to='${of.bare}'><pubsub xmlns='${PUBSUB}'><items node='${node}'/></pubsub></iq>`, "<iq type='error'/>")
}

play('XEP-0084 §3 contacts hear of an avatar, and get its data', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  await befriend(romeo, juliet)
  await listens(romeo, METADATA)
  await publishAvatar(juliet, { access_model: 'presence' })
  await romeo.receives(event(METADATA, `<item id='${HASH}'><metadata xmlns='${METADATA}'><info id='${HASH}' bytes='70' type='image/png'/></metadata></item>`, juliet))
  const [data] = await items(romeo, 'd1', DATA, juliet)
  check(data?.attrs['id'] === HASH && data.getChildText('data', DATA) === IMAGE, 'the image')
  await publish(juliet, METADATA, `<item id='none'><metadata xmlns='${METADATA}'/></item>`, { access_model: 'presence' })
  await romeo.receives(event(METADATA, `<item id='none'><metadata xmlns='${METADATA}'/></item>`, juliet))
})

play('XEP-0172 §4.3 contacts hear of a nickname', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  await befriend(romeo, juliet)
  const nick = 'http://jabber.org/protocol/nick'
  await listens(romeo, nick)
  await publish(juliet, nick, `<item id='current'><nick xmlns='${nick}'>Ishmael</nick></item>`, {})
  await romeo.receives(event(nick, `<item id='current'><nick xmlns='${nick}'>Ishmael</nick></item>`, juliet))
})

play('XEP-0292 §4.1 §4.2 a vCard in its node is for everybody, and contacts hear when it changes', { romeo: {}, juliet: {}, nurse: {} }, async ({ romeo, juliet, nurse }) => {
  const node = 'urn:xmpp:vcard4'
  await befriend(romeo, juliet)
  await listens(romeo, node)
  await publish(juliet, node, "<item id='current'><vcard xmlns='urn:ietf:params:xml:ns:vcard-4.0'><fn><text>Juliet Capulet</text></fn></vcard></item>", OPEN)
  await romeo.receives(event(node, "<item id='current'/>", juliet))
  const [item] = await items(nurse, 'i1', node, juliet)
  check(item?.getChild('vcard', 'urn:ietf:params:xml:ns:vcard-4.0')?.getChild('fn')?.getChildText('text') === 'Juliet Capulet', 'the vCard')
})

play('XEP-0223 §3 private data are kept for the own clients alone', { balcony: { account: 'juliet' }, garden: { account: 'juliet' }, romeo: {} }, async ({ balcony, garden, romeo }) => {
  await befriend(balcony, romeo)
  const node = 'urn:play:private'
  await listens(garden, node)
  await listens(romeo, node)
  await publish(balcony, node, `<item id='1'><note xmlns='${node}'>x</note></item>`, { persist_items: 'true', access_model: 'whitelist' })
  await garden.receives(event(node, "<item id='1'/>", balcony))
  await romeo.receivesNothing(event(node, '', balcony))
  await refuses(romeo, 'r1', node, balcony)
  check((await items(garden, 'i1', node, balcony))[0]?.getChildText('note', node) === 'x', 'the data')
})
