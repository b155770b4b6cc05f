/** XEP-0077, XEP-0352, XEP-0237, XEP-0359, XEP-0334, XEP-0363, XEP-0012. */
import { connect, LoginError } from '../../lib/client/client.ts'
import { befriend, check, play } from '../play.ts'

play('XEP-0077 §3.3 a password is changed', { romeo: { available: false } }, async ({ romeo }, stage) => {
  await romeo.asks(`<iq type='set' id='p1'><query xmlns='jabber:iq:register'><username>${romeo.user}</username><password>a-new-password</password></query></iq>`, "<iq type='result'/>")
  const options = { ...stage, tls: stage.tls, user: romeo.user }
  const error = await connect({ ...options, password: romeo.password }).catch((reason: unknown) => reason)
  check(error instanceof LoginError, 'the old password is of no use')
  await (await connect({ ...options, password: 'a-new-password' })).disconnect()
})

play('XEP-0077 §3.2 an account is removed with its roster, and its contacts are told', { romeo: {}, juliet: {} }, async ({ romeo, juliet }, stage) => {
  await befriend(romeo, juliet)
  romeo.sends("<iq type='set' id='x1'><query xmlns='jabber:iq:register'><remove/></query></iq>")
  await romeo.client.closed
  await juliet.receives(`<presence from='${romeo.bare}' type='unsubscribed'/>`)
  const error = await connect({ ...stage, tls: stage.tls, user: romeo.user, password: romeo.password }).catch((reason: unknown) => reason)
  check(error instanceof LoginError && error.condition === 'not-authorized', 'nobody can log in')
})

play('XEP-0352 §4 an inactive client gets the latest presence when it is active again, and messages at once', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  await befriend(romeo, juliet)
  juliet.sends("<inactive xmlns='urn:xmpp:csi:0'/>")
  await juliet.client.ping()
  romeo.sends('<presence><status>1</status></presence>')
  romeo.sends('<presence><status>2</status></presence>')
  await romeo.client.ping()
  juliet.sends("<active xmlns='urn:xmpp:csi:0'/>")
  await juliet.receives(`<presence from='${romeo.jid}'><status>2</status></presence>`)
  juliet.sends("<inactive xmlns='urn:xmpp:csi:0'/>")
  await juliet.client.ping()
  romeo.sends(`<message to='${juliet.jid}' type='chat' id='m1'><body>Wake up</body></message>`)
  await juliet.receives("<message id='m1'/>")
})

play('XEP-0352 §5 what was held back comes before the answer to what follows', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  await befriend(romeo, juliet)
  juliet.sends("<inactive xmlns='urn:xmpp:csi:0'/>")
  await juliet.client.ping()
  romeo.sends('<presence><show>away</show></presence>')
  romeo.sends(`<message to='${juliet.jid}' type='chat'><composing xmlns='http://jabber.org/protocol/chatstates'/></message>`)
  await romeo.client.ping()
  const order: string[] = []
  const stop = juliet.client.on((stanza) => { order.push(stanza.name) })
  juliet.sends("<active xmlns='urn:xmpp:csi:0'/><iq type='get' id='ping'><ping xmlns='urn:xmpp:ping'/></iq>")
  await juliet.receives("<iq type='result' id='ping'/>")
  stop()
  check(order.join() === 'presence,message,iq', `in order, not ${order.join()}`)
})

play('XEP-0203 §7 a time that claims to be the server\'s is discarded', { romeo: {}, juliet: {} }, async ({ romeo, juliet }, stage) => {
  romeo.sends(`<message to='${juliet.jid}' type='chat' id='m1'><body>Hi</body><delay xmlns='urn:xmpp:delay' from='${stage.domain}' stamp='2002-09-10T23:08:25Z'/></message>`)
  const message = await juliet.receives("<message id='m1'/>")
  check(message.getChild('delay', 'urn:xmpp:delay') === undefined, 'no time')
  await befriend(romeo, juliet)
  romeo.sends(`<presence><show>xa</show><delay xmlns='urn:xmpp:delay' from='${stage.domain}' stamp='2002-09-10T23:08:25Z'/></presence>`)
  const presence = await juliet.receives(`<presence from='${romeo.jid}'><show>xa</show></presence>`)
  check(presence.getChild('delay', 'urn:xmpp:delay') === undefined, 'nor with presence')
})

play('XEP-0237 §2 a roster that has not changed is not sent again', { romeo: {} }, async ({ romeo }) => {
  const answer = await romeo.asks("<iq type='get' id='r1'><query xmlns='jabber:iq:roster' ver=''/></iq>", "<iq type='result'><query xmlns='jabber:iq:roster' ver='{any}'/></iq>")
  const version = answer.getChild('query')?.attrs['ver'] ?? ''
  const again = await romeo.asks(`<iq type='get' id='r2'><query xmlns='jabber:iq:roster' ver='${version}'/></iq>`, "<iq type='result'/>")
  check(again.getChildElements().length === 0, 'empty')
})

play('XEP-0334 §4.2 what must not be stored is not archived, and does not wait', { romeo: {}, juliet: { online: false } }, async ({ romeo, juliet }) => {
  romeo.sends(`<message to='${juliet.bare}' type='chat' id='m1'><body>Burn this</body><no-store xmlns='urn:xmpp:hints'/></message>`)
  romeo.sends(`<message to='${juliet.bare}' type='chat' id='m2'><body>Keep this</body></message>`)
  await romeo.client.ping()
  await juliet.enters()
  await juliet.receives("<message id='m2'/>")
  await juliet.receivesNothing("<message id='m1'/>")
})

play('XEP-0359 §4 an origin-id stays as it was', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  romeo.sends(`<message to='${juliet.jid}' type='chat'><body>Hi</body><origin-id xmlns='urn:xmpp:sid:0' id='mine'/></message>`)
  await juliet.receives("<message><origin-id xmlns='urn:xmpp:sid:0' id='mine'/></message>")
})

play('XEP-0012 §4 the last activity of a contact is for contacts alone', { romeo: {}, juliet: {}, tybalt: {} }, async ({ romeo, juliet, tybalt }) => {
  await befriend(romeo, juliet)
  await romeo.asks(`<iq type='get' id='l1' to='${juliet.bare}'><query xmlns='jabber:iq:last'/></iq>`, `<iq type='result' from='${juliet.bare}'><query xmlns='jabber:iq:last' seconds='{any}'/></iq>`)
  await tybalt.asks(`<iq type='get' id='l2' to='${juliet.bare}'><query xmlns='jabber:iq:last'/></iq>`, "<iq type='error'/>")
})

play('XEP-0012 §4 so is that of a resource, which only contacts may ask', { romeo: {}, juliet: {}, tybalt: {} }, async ({ romeo, juliet, tybalt }) => {
  await befriend(romeo, juliet)
  await tybalt.asks(`<iq type='get' id='l1' to='${juliet.jid}'><query xmlns='jabber:iq:last'/></iq>`, "<iq type='error'><error type='auth'><forbidden xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>")
  await juliet.receivesNothing("<iq type='get' id='l1'/>")
  romeo.sends(`<iq type='get' id='l2' to='${juliet.jid}'><query xmlns='jabber:iq:last'/></iq>`)
  await juliet.receives(`<iq type='get' id='l2' from='${romeo.jid}'><query xmlns='jabber:iq:last'/></iq>`)
})

play('XEP-0160 a user who is away gets messages of a chat in order, once, on two devices', { romeo: {}, juliet: { online: false }, balcony: { account: 'juliet', online: false } }, async ({ romeo, juliet, balcony }) => {
  romeo.sends(`<message to='${juliet.bare}' type='chat' id='m1'><body>1</body></message>`)
  romeo.sends(`<message to='${juliet.bare}' type='chat' id='m2'><body>2</body></message>`)
  await romeo.client.ping()
  await juliet.enters()
  await juliet.receives("<message id='m2'/>")
  await balcony.enters()
  await balcony.receivesNothing("<message id='m1'/>")
})
