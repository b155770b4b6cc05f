/** XEP-0030: service discovery, and the small extensions that it announces. */
import { check, play } from '../play.ts'

const INFO = 'http://jabber.org/protocol/disco#info'
const ITEMS = 'http://jabber.org/protocol/disco#items'

play('XEP-0030 §3.1 the server tells its identity and features', { romeo: {} }, async ({ romeo }, stage) => {
  const answer = await romeo.asks(`<iq type='get' id='d1' to='${stage.domain}'><query xmlns='${INFO}'/></iq>`, `<iq type='result' from='${stage.domain}'><query xmlns='${INFO}'><identity category='server' type='im'/><feature var='${INFO}'/><feature var='${ITEMS}'/></query></iq>`)
  const features = answer.getChild('query')?.getChildren('feature').map((each) => each.attrs['var']) ?? []
  check(new Set(features).size === features.length, 'no feature twice')
})

play('XEP-0030 §4.1 the server tells its items', { romeo: {} }, async ({ romeo }, stage) => {
  await romeo.asks(`<iq type='get' id='d1' to='${stage.domain}'><query xmlns='${ITEMS}'/></iq>`, `<iq type='result'><query xmlns='${ITEMS}'/></iq>`)
})

play('XEP-0030 §3.1 an account tells its features to its owner', { romeo: {} }, async ({ romeo }) => {
  await romeo.asks(`<iq type='get' id='d1' to='${romeo.bare}'><query xmlns='${INFO}'/></iq>`, `<iq type='result' from='${romeo.bare}'><query xmlns='${INFO}'><identity category='account' type='registered'/></query></iq>`)
})

play('XEP-0030 §8 a stranger learns nothing of an account, nor whether it is there', { romeo: {}, juliet: {} }, async ({ romeo, juliet }, stage) => {
  for (const to of [juliet.bare, `nobody@${stage.domain}`]) {
    await romeo.asks(`<iq type='get' id='d1' to='${to}'><query xmlns='${INFO}'/></iq>`, "<iq type='error'><error type='cancel'><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>")
  }
})

play('XEP-0030 §8 to a stranger an account has no items, and nobody has none either', { romeo: {}, juliet: {} }, async ({ romeo, juliet }, stage) => {
  for (const to of [juliet.bare, `nobody@${stage.domain}`]) {
    const answer = await romeo.asks(`<iq type='get' id='d1' to='${to}'><query xmlns='${ITEMS}'/></iq>`, `<iq type='result' from='${to}'><query xmlns='${ITEMS}'/></iq>`)
    check(answer.getChild('query')?.getChildElements().length === 0, 'no items')
    await romeo.asks(`<iq type='get' id='d2' to='${to}'><query xmlns='${ITEMS}' node='urn:x'/></iq>`, `<iq type='result'><query xmlns='${ITEMS}' node='urn:x'/></iq>`)
    await romeo.forgets()
  }
})

play('XEP-0030 §7 an unknown node is item-not-found', { romeo: {} }, async ({ romeo }, stage) => {
  await romeo.asks(`<iq type='get' id='d1' to='${stage.domain}'><query xmlns='${INFO}' node='urn:no:such:node'/></iq>`, "<iq type='error'><error type='cancel'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>")
})

play('XEP-0199 §4.2 the server answers a ping', { romeo: {} }, async ({ romeo }, stage) => {
  await romeo.asks(`<iq type='get' id='p1' to='${stage.domain}'><ping xmlns='urn:xmpp:ping'/></iq>`, `<iq type='result' from='${stage.domain}'/>`)
})

play('XEP-0092 and XEP-0202 the server tells its version and time', { romeo: {} }, async ({ romeo }, stage) => {
  await romeo.asks(`<iq type='get' id='v1' to='${stage.domain}'><query xmlns='jabber:iq:version'/></iq>`, "<iq type='result'><query xmlns='jabber:iq:version'><name>{any}</name><version/></query></iq>")
  await romeo.asks(`<iq type='get' id='t1' to='${stage.domain}'><time xmlns='urn:xmpp:time'/></iq>`, "<iq type='result'><time xmlns='urn:xmpp:time'><utc>{any}</utc><tzo>{any}</tzo></time></iq>")
})

play('XEP-0049 private storage keeps what was stored, for its owner alone', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  await romeo.asks("<iq type='set' id='s1'><query xmlns='jabber:iq:private'><x xmlns='urn:x'><y>z</y></x></query></iq>", "<iq type='result'/>")
  await romeo.asks("<iq type='get' id='s2'><query xmlns='jabber:iq:private'><x xmlns='urn:x'/></query></iq>", "<iq type='result'><query xmlns='jabber:iq:private'><x xmlns='urn:x'><y>z</y></x></query></iq>")
  await juliet.asks(`<iq type='get' id='s3' to='${romeo.bare}'><query xmlns='jabber:iq:private'><x xmlns='urn:x'/></query></iq>`, "<iq type='error'/>")
})

play('XEP-0049 §2.3 a query needs an element', { romeo: {} }, async ({ romeo }) => {
  for (const type of ['get', 'set']) await romeo.asks(`<iq type='${type}' id='${type}'><query xmlns='jabber:iq:private'/></iq>`, "<iq type='error'><error type='modify'><not-acceptable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>")
})

play('XEP-0054 §3.2 nobody sets the vCard of another', { romeo: {}, juliet: {} }, async ({ romeo, juliet }, stage) => {
  for (const to of [juliet.bare, stage.domain]) await romeo.asks(`<iq type='set' id='${to}' to='${to}'><vCard xmlns='vcard-temp'/></iq>`, "<iq type='error'><error type='auth'><forbidden xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>")
})

play('XEP-0054 a vCard is kept and shown to others', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  await romeo.asks("<iq type='set' id='v1'><vCard xmlns='vcard-temp'><FN>Romeo Montague</FN></vCard></iq>", "<iq type='result'/>")
  await juliet.asks(`<iq type='get' id='v2' to='${romeo.bare}'><vCard xmlns='vcard-temp'/></iq>`, `<iq type='result' from='${romeo.bare}'><vCard xmlns='vcard-temp'><FN>Romeo Montague</FN></vCard></iq>`)
})
