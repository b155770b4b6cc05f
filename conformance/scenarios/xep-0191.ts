/** XEP-0191: blocking. */
import { befriend, check, play } from '../play.ts'

const NS = 'urn:xmpp:blocking'

play('XEP-0191 §3.2 §3.3 §3.5 block, list and unblock, with pushes', { romeo: {}, juliet: {}, balcony: { account: 'juliet' } }, async ({ romeo, juliet, balcony }) => {
  for (const each of [juliet, balcony]) await each.asks(`<iq type='get' id='b0'><blocklist xmlns='${NS}'/></iq>`, `<iq type='result'><blocklist xmlns='${NS}'/></iq>`)
  await juliet.asks(`<iq type='set' id='b1'><block xmlns='${NS}'><item jid='${romeo.bare}'/></block></iq>`, "<iq type='result'/>")
  await balcony.receives(`<iq type='set'><block xmlns='${NS}'><item jid='${romeo.bare}'/></block></iq>`)
  await juliet.asks(`<iq type='get' id='b2'><blocklist xmlns='${NS}'/></iq>`, `<iq type='result'><blocklist xmlns='${NS}'><item jid='${romeo.bare}'/></blocklist></iq>`)
  await juliet.asks(`<iq type='set' id='b3'><unblock xmlns='${NS}'/></iq>`, "<iq type='result'/>")
  await balcony.receives(`<iq type='set'><unblock xmlns='${NS}'/></iq>`)
  const answer = await juliet.asks(`<iq type='get' id='b4'><blocklist xmlns='${NS}'/></iq>`, "<iq type='result'/>")
  check(answer.getChild('blocklist')?.getChildElements().length === 0, 'empty again')
})

play('XEP-0191 §3.3 nothing comes from a blocked contact', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  await juliet.asks(`<iq type='set' id='b1'><block xmlns='${NS}'><item jid='${romeo.bare}'/></block></iq>`, "<iq type='result'/>")
  romeo.sends(`<message to='${juliet.jid}' type='chat' id='m1'><body>Hi</body></message>`)
  await romeo.receives("<message type='error' id='m1'><error><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>")
  await romeo.asks(`<iq type='get' id='q1' to='${juliet.jid}'><query xmlns='jabber:iq:version'/></iq>`, "<iq type='error'><error><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>")
  romeo.sends(`<presence to='${juliet.bare}' type='subscribe'/>`)
  await juliet.receivesNothing(`<message from='${romeo.jid}'/>`)
  await juliet.receivesNothing(`<presence from='${romeo.bare}'/>`)
})

play('XEP-0191 §3.3 an answer from a blocked contact is dropped, and one to them is', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  await juliet.asks(`<iq type='set' id='b1'><block xmlns='${NS}'><item jid='${romeo.bare}'/></block></iq>`, "<iq type='result'/>")
  for (const type of ['result', 'error']) {
    romeo.sends(`<iq type='${type}' id='${type}' to='${juliet.jid}'/>`)
    juliet.sends(`<iq type='${type}' id='${type}' to='${romeo.jid}'/>`)
    for (const each of [romeo, juliet]) await each.receivesNothing(`<iq id='${type}'/>`)
  }
})

play('XEP-0191 §3.3 a request of a contact who is blocked does not come at the next login', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  await juliet.leaves()
  romeo.sends(`<presence to='${juliet.bare}' type='subscribe'/>`)
  await romeo.client.ping()
  await juliet.enters({ available: false })
  await juliet.asks(`<iq type='set' id='b1'><block xmlns='${NS}'><item jid='${romeo.bare}'/></block></iq>`, "<iq type='result'/>")
  juliet.sends('<presence/>')
  await juliet.receivesNothing(`<presence from='${romeo.bare}'/>`)
  await juliet.asks(`<iq type='set' id='b2'><unblock xmlns='${NS}'/></iq>`, "<iq type='result'/>")
  juliet.sends("<presence type='unavailable'/>")
  juliet.sends('<presence/>')
  await juliet.receives(`<presence from='${romeo.bare}' type='subscribe'/>`)
})

play('XEP-0191 §3.3 an IQ to a service that is blocked is refused', { juliet: {} }, async ({ juliet }, stage) => {
  const items = await juliet.asks(`<iq type='get' id='d1' to='${stage.domain}'><query xmlns='http://jabber.org/protocol/disco#items'/></iq>`, "<iq type='result'/>")
  const service = items.getChild('query')?.getChildren('item').map((each) => each.attrs['jid'] ?? '').find((jid) => !jid.includes('@') && jid !== stage.domain)
  if (service === undefined) return
  await juliet.asks(`<iq type='set' id='b1'><block xmlns='${NS}'><item jid='${service}'/></block></iq>`, "<iq type='result'/>")
  await juliet.asks(`<iq type='get' id='q1' to='${service}'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>`, `<iq type='error' from='${service}'><error type='cancel'><not-acceptable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/><blocked xmlns='urn:xmpp:blocking:errors'/></error></iq>`)
})

play('XEP-0191 §3.3 nothing goes to a blocked contact', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  await juliet.asks(`<iq type='set' id='b1'><block xmlns='${NS}'><item jid='${romeo.bare}'/></block></iq>`, "<iq type='result'/>")
  juliet.sends(`<message to='${romeo.jid}' type='chat' id='m1'><body>Hi</body></message>`)
  await juliet.receives(`<message type='error' id='m1'><error type='cancel'><not-acceptable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/><blocked xmlns='urn:xmpp:blocking:errors'/></error></message>`)
  await romeo.receivesNothing("<message id='m1'/>")
})

play('XEP-0191 §3.3 a blocked contact sees the user leave, and return when unblocked', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  await befriend(romeo, juliet)
  await juliet.asks(`<iq type='set' id='b1'><block xmlns='${NS}'><item jid='${romeo.bare}'/></block></iq>`, "<iq type='result'/>")
  await romeo.receives(`<presence from='${juliet.jid}' type='unavailable'/>`)
  await juliet.asks(`<iq type='set' id='b2'><unblock xmlns='${NS}'><item jid='${romeo.bare}'/></unblock></iq>`, "<iq type='result'/>")
  await romeo.receives(`<presence from='${juliet.jid}'/>`)
})

play('XEP-0191 §3.3 a block without items is a bad request', { juliet: {} }, async ({ juliet }) => {
  await juliet.asks(`<iq type='set' id='b1'><block xmlns='${NS}'/></iq>`, "<iq type='error'><error type='modify'><bad-request xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>")
})
