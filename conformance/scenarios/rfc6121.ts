/** RFC 6121: roster, subscriptions, presence, messages. */
import { befriend, check, play } from '../play.ts'

play('RFC 6121 §2.1.3 the roster of a new account is empty', { romeo: {} }, async ({ romeo }) => {
  const answer = await romeo.asks("<iq type='get' id='r1'><query xmlns='jabber:iq:roster'/></iq>", "<iq type='result'><query xmlns='jabber:iq:roster'/></iq>")
  check(answer.getChild('query')?.getChildElements().length === 0, 'no items')
})

play('RFC 6121 §2.3 §2.5 an item is added, pushed to interested resources and removed', { romeo: {}, garden: { account: 'romeo' } }, async ({ romeo, garden }) => {
  for (const each of [romeo, garden]) await each.asks("<iq type='get' id='r1'><query xmlns='jabber:iq:roster'/></iq>", "<iq type='result'/>")
  await romeo.asks("<iq type='set' id='r2'><query xmlns='jabber:iq:roster'><item jid='nurse@example.net' name='Nurse'><group>Servants</group></item></query></iq>", "<iq type='result'/>")
  for (const each of [romeo, garden]) await each.receives("<iq type='set' id='{any}'><query xmlns='jabber:iq:roster'><item jid='nurse@example.net' name='Nurse' subscription='none'><group>Servants</group></item></query></iq>")
  await romeo.asks("<iq type='set' id='r3'><query xmlns='jabber:iq:roster'><item jid='nurse@example.net' subscription='remove'/></query></iq>", "<iq type='result'/>")
  await garden.receives("<iq type='set'><query xmlns='jabber:iq:roster'><item jid='nurse@example.net' subscription='remove'/></query></iq>")
})

play('RFC 6121 §2.3.3 a roster set of two items is a bad request, and removal of nobody item-not-found', { romeo: {} }, async ({ romeo }) => {
  await romeo.asks("<iq type='set' id='r1'><query xmlns='jabber:iq:roster'><item jid='a@example.net'/><item jid='b@example.net'/></query></iq>", "<iq type='error'><error><bad-request xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>")
  await romeo.asks("<iq type='set' id='r2'><query xmlns='jabber:iq:roster'><item jid='a@example.net' subscription='remove'/></query></iq>", "<iq type='error'><error><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>")
})

play('RFC 6121 §2.1.2 nobody else may see the roster', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  await romeo.asks(`<iq type='get' id='r1' to='${juliet.bare}'><query xmlns='jabber:iq:roster'/></iq>`, "<iq type='error'/>")
  await romeo.asks(`<iq type='set' id='r2' to='${juliet.bare}'><query xmlns='jabber:iq:roster'><item jid='a@example.net'/></query></iq>`, "<iq type='error'/>")
})

play('RFC 6121 §3.1 a subscription is asked for, approved, and shown in both rosters', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  for (const each of [romeo, juliet]) await each.asks("<iq type='get' id='r1'><query xmlns='jabber:iq:roster'/></iq>", "<iq type='result'/>")
  romeo.sends(`<presence to='${juliet.bare}' type='subscribe'/>`)
  await romeo.receives(`<iq type='set'><query xmlns='jabber:iq:roster'><item jid='${juliet.bare}' ask='subscribe' subscription='none'/></query></iq>`)
  await juliet.receives(`<presence from='${romeo.bare}' type='subscribe'/>`)
  juliet.sends(`<presence to='${romeo.bare}' type='subscribed'/>`)
  await juliet.receives(`<iq type='set'><query xmlns='jabber:iq:roster'><item jid='${romeo.bare}' subscription='from'/></query></iq>`)
  await romeo.receives(`<presence from='${juliet.bare}' type='subscribed'/>`)
  await romeo.receives(`<iq type='set'><query xmlns='jabber:iq:roster'><item jid='${juliet.bare}' subscription='to'/></query></iq>`)
  await romeo.receives(`<presence from='${juliet.jid}'/>`)
  await juliet.receivesNothing(`<presence from='${romeo.jid}'/>`)
})

play('RFC 6121 §3.1.3 a request waits for a contact who is away', { romeo: {}, juliet: { online: false } }, async ({ romeo, juliet }) => {
  romeo.sends(`<presence to='${juliet.bare}' type='subscribe'><status>I am he</status></presence>`)
  await romeo.client.ping()
  await juliet.enters()
  await juliet.receives(`<presence from='${romeo.bare}' type='subscribe'><status>I am he</status></presence>`)
})

play('RFC 6121 §3.2 a cancelled subscription ends the presence', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  await befriend(romeo, juliet)
  juliet.sends(`<presence to='${romeo.bare}' type='unsubscribed'/>`)
  await romeo.receives(`<presence from='${juliet.bare}' type='unsubscribed'/>`)
  await romeo.receives(`<presence from='${juliet.jid}' type='unavailable'/>`)
  juliet.sends('<presence><show>dnd</show></presence>')
  await romeo.receivesNothing(`<presence from='${juliet.jid}'><show>dnd</show></presence>`)
})

const endings: [string, (contact: string) => string][] = [
  ['cancelled', (contact) => `<presence to='${contact}' type='unsubscribed'/>`],
  ['removed with the item', (contact) => `<iq type='set' id='r1'><query xmlns='jabber:iq:roster'><item jid='${contact}' subscription='remove'/></query></iq>`],
]
for (const [title, ending] of endings) {
  play(`RFC 6121 §3.2.2 a contact sees the user leave before the subscription is ${title}`, { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
    await befriend(romeo, juliet)
    const order: (string | undefined)[] = []
    romeo.client.on((stanza) => { if (stanza.name === 'presence' && stanza.type?.startsWith('un')) order.push(stanza.type) })
    juliet.sends(ending(romeo.bare))
    await romeo.receives(`<presence from='${juliet.bare}' type='unsubscribed'/>`)
    check(order.filter((type) => type !== 'unsubscribe').join() === 'unavailable,unsubscribed', `the order was ${order.join()}`)
  })
}

play('RFC 6121 §3.3 unsubscribing', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  await befriend(romeo, juliet)
  romeo.sends(`<presence to='${juliet.bare}' type='unsubscribe'/>`)
  await juliet.receives(`<presence from='${romeo.bare}' type='unsubscribe'/>`)
  await romeo.receives(`<presence from='${juliet.jid}' type='unavailable'/>`)
})

play('RFC 6121 §4.2 §4.4 §4.5 presence reaches subscribers and own resources', { romeo: {}, juliet: {}, balcony: { account: 'juliet', online: false } }, async ({ romeo, juliet, balcony }) => {
  await befriend(romeo, juliet)
  await balcony.enters()
  await balcony.receives(`<presence from='${juliet.jid}'/>`)
  await balcony.receives(`<presence from='${romeo.jid}'/>`)
  await romeo.receives(`<presence from='${balcony.jid}'/>`)
  await juliet.receives(`<presence from='${balcony.jid}'/>`)
  balcony.sends('<presence><show>away</show><status>Sleeping</status><priority>3</priority></presence>')
  await romeo.receives(`<presence from='${balcony.jid}'><show>away</show><status>Sleeping</status><priority>3</priority></presence>`)
  balcony.sends("<presence type='unavailable'><status>Good night</status></presence>")
  await romeo.receives(`<presence from='${balcony.jid}' type='unavailable'><status>Good night</status></presence>`)
  await juliet.receives(`<presence from='${balcony.jid}' type='unavailable'/>`)
})

play('RFC 6121 §4.5.2 unavailable presence comes back to who sent it', { romeo: {} }, async ({ romeo }) => {
  romeo.sends("<presence type='unavailable'><status>Good night</status></presence>")
  await romeo.receives(`<presence from='${romeo.jid}' type='unavailable'><status>Good night</status></presence>`)
})

play('RFC 6121 §4.3.2.1 the answer to a probe that tells nothing has its id', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  await befriend(romeo, juliet)
  await juliet.leaves()
  romeo.sends(`<presence to='${juliet.bare}' type='probe' id='p1'/>`)
  await romeo.receives(`<presence from='${juliet.bare}' type='unavailable' id='p1'/>`)
})

play('RFC 6121 §4.5.2 a lost connection makes unavailable', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  await befriend(romeo, juliet)
  const { jid } = juliet
  await juliet.vanishes()
  await romeo.receives(`<presence from='${jid}' type='unavailable'/>`)
})

play('RFC 6121 §4.3 a probe is answered for subscribers, and refused to others', { romeo: {}, juliet: {}, tybalt: {} }, async ({ romeo, juliet, tybalt }) => {
  await befriend(romeo, juliet)
  romeo.sends(`<presence to='${juliet.bare}' type='probe'/>`)
  await romeo.receives(`<presence from='${juliet.jid}'/>`)
  tybalt.sends(`<presence to='${juliet.bare}' type='probe'/>`)
  await tybalt.receivesNothing(`<presence from='${juliet.jid}'/>`)
})

play('RFC 6121 §4.6 directed presence, and its end', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  romeo.sends(`<presence to='${juliet.jid}'><status>Here</status></presence>`)
  await juliet.receives(`<presence from='${romeo.jid}'><status>Here</status></presence>`)
  const { jid } = romeo
  await romeo.vanishes()
  await juliet.receives(`<presence from='${jid}' type='unavailable'/>`)
})

play('RFC 6121 §8.5.2.1.1 a chat message to the bare JID reaches available resources of priority 0 and more', { romeo: {}, juliet: {}, balcony: { account: 'juliet' }, tomb: { account: 'juliet', available: false } }, async ({ romeo, juliet, balcony, tomb }) => {
  tomb.sends('<presence><priority>-1</priority></presence>')
  await tomb.client.ping()
  romeo.sends(`<message to='${juliet.bare}' type='chat' id='m1'><body>Hi</body></message>`)
  await Promise.any([juliet.receives("<message id='m1'/>"), balcony.receives("<message id='m1'/>")])
  await tomb.receivesNothing("<message id='m1'/>")
})

play('RFC 6121 §8.5.2.1.1 an error to the bare JID reaches nobody', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  await juliet.client.sendIq("<iq type='set'><enable xmlns='urn:xmpp:carbons:2'/></iq>").catch(() => undefined)
  romeo.sends(`<message to='${juliet.bare}' type='error' id='m1'><body>Hi</body><error type='cancel'><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>`)
  await juliet.receivesNothing('<message/>')
  await romeo.receivesNothing('<message/>')
})

play('RFC 6120 §10.5.1 nobody subscribes to the presence of a host', { romeo: {} }, async ({ romeo }, stage) => {
  romeo.sends(`<presence to='${stage.domain}' type='subscribe' id='s1'/>`)
  await romeo.receives(`<presence from='${stage.domain}' type='error' id='s1'><error type='cancel'><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></presence>`)
  const answer = await romeo.asks("<iq type='get' id='r1'><query xmlns='jabber:iq:roster'/></iq>", "<iq type='result'/>")
  check(answer.getChild('query')?.getChildElements().length === 0, 'no item')
})

play('RFC 6121 §3.1.4 a service without presence refuses a subscription', { romeo: {} }, async ({ romeo }, stage) => {
  const items = await romeo.asks(`<iq type='get' id='d1' to='${stage.domain}'><query xmlns='http://jabber.org/protocol/disco#items'/></iq>`, "<iq type='result'/>")
  const service = items.getChild('query')?.getChildren('item').map((each) => each.attrs['jid'] ?? '').find((jid) => jid.startsWith('upload.'))
  if (service === undefined) return
  romeo.sends(`<presence to='${service}' type='subscribe' id='s1'/>`)
  await romeo.receives(`<presence from='${service}' type='{any}'/>`)
  const answer = await romeo.asks("<iq type='get' id='r1'><query xmlns='jabber:iq:roster'/></iq>", "<iq type='result'/>")
  check(answer.getChild('query')?.getChildElements()[0]?.attrs['ask'] === undefined, 'nothing is pending')
})

play('RFC 6120 §8.3.1 the error about a malformed address does not repeat it', { romeo: {} }, async ({ romeo }, stage) => {
  romeo.sends("<message to='@@' id='m1' type='chat'><body>Hi</body></message>")
  await romeo.receives(`<message id='m1' type='error' from='${stage.domain}'><error type='modify'><jid-malformed xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>`)
})

play('RFC 6121 §8.5.2.1.1 a headline to the bare JID reaches all of them', { romeo: {}, juliet: {}, balcony: { account: 'juliet' } }, async ({ romeo, juliet, balcony }) => {
  romeo.sends(`<message to='${juliet.bare}' type='headline' id='m1'><body>News</body></message>`)
  await juliet.receives("<message id='m1' type='headline'/>")
  await balcony.receives("<message id='m1' type='headline'/>")
})

play('RFC 6121 §8.5.2.1.1 a groupchat message to the bare JID of a user is refused', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  romeo.sends(`<message to='${juliet.bare}' type='groupchat' id='m1'><body>All</body></message>`)
  await romeo.receives("<message type='error' id='m1'><error type='cancel'><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>")
  await juliet.receivesNothing("<message id='m1'/>")
})

play('RFC 6121 §8.5.3.1 a message to a full JID reaches that resource alone', { romeo: {}, juliet: {}, balcony: { account: 'juliet' } }, async ({ romeo, juliet, balcony }) => {
  for (const type of ['normal', 'chat', 'headline', 'groupchat']) {
    romeo.sends(`<message to='${balcony.jid}' type='${type}' id='${type}'><body>Hi</body></message>`)
    await balcony.receives(`<message id='${type}' from='${romeo.jid}'/>`)
    await juliet.receivesNothing(`<message id='${type}'/>`)
  }
})

play('RFC 6121 §8.5.3.2.1 a chat message to a resource that is gone goes to the bare JID', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  romeo.sends(`<message to='${juliet.bare}/gone' type='chat' id='m1'><body>Hi</body></message>`)
  await juliet.receives("<message id='m1'/>")
})

play('RFC 6121 §8.5.1 §8.5.3.2.3 what is for nobody is answered with service-unavailable', { romeo: {}, juliet: {} }, async ({ romeo, juliet }, stage) => {
  await romeo.asks(`<iq type='get' id='q1' to='${juliet.bare}/gone'><query xmlns='jabber:iq:version'/></iq>`, `<iq type='error' from='${juliet.bare}/gone'><error type='cancel'><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>`)
  await romeo.asks(`<iq type='get' id='q2' to='nobody@${stage.domain}'><query xmlns='jabber:iq:version'/></iq>`, "<iq type='error'><error type='cancel'><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>")
  romeo.sends(`<message id='m1' to='nobody@${stage.domain}' type='chat'><body>Hi</body></message>`)
  await romeo.receives("<message id='m1' type='error'><error type='cancel'><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>")
})

play('RFC 6121 §8.3.1 an error is never answered with an error', { romeo: {} }, async ({ romeo }, stage) => {
  romeo.sends(`<message id='m1' to='nobody@${stage.domain}' type='error'><error type='cancel'><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>`)
  romeo.sends(`<iq id='q1' to='nobody@${stage.domain}' type='error'><error type='cancel'><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>`)
  await romeo.receivesNothing("<message id='m1'/>")
  await romeo.receivesNothing("<iq id='q1'/>")
})

play('RFC 6120 §10.5.4 an IQ to a full JID is delivered and answered', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  romeo.sends(`<iq type='get' id='q1' to='${juliet.jid}'><query xmlns='urn:any:0'/></iq>`)
  await juliet.receives(`<iq type='get' id='q1' from='${romeo.jid}'><query xmlns='urn:any:0'/></iq>`)
  juliet.sends(`<iq type='result' id='q1' to='${romeo.jid}'/>`)
  await romeo.receives(`<iq type='result' id='q1' from='${juliet.jid}'/>`)
})
