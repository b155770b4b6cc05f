/** XEP-0050: commands of the server. */
import { check, play } from '../play.ts'

const NS = 'http://jabber.org/protocol/commands'
const INFO = 'http://jabber.org/protocol/disco#info'
const ITEMS = 'http://jabber.org/protocol/disco#items'

play('XEP-0050 §2.2 the list of commands says where each is, and each says what it is', { romeo: {} }, async ({ romeo }, stage) => {
  await romeo.asks(`<iq type='get' id='i1' to='${stage.domain}'><query xmlns='${INFO}'/></iq>`, `<iq type='result'><query xmlns='${INFO}'><feature var='${NS}'/></query></iq>`)
  const list = await romeo.asks(`<iq type='get' id='i2' to='${stage.domain}'><query xmlns='${ITEMS}' node='${NS}'/></iq>`, `<iq type='result'><query xmlns='${ITEMS}' node='${NS}'/></iq>`)
  const items = list.getChild('query')?.getChildren('item') ?? []
  check(items.length > 0, 'there are commands')
  for (const { attrs: { jid, node } } of items) {
    check(jid === stage.domain, `the server reports its own commands alone (§5), not one of ${jid}`)
    await romeo.asks(`<iq type='get' id='n-${node}' to='${stage.domain}'><query xmlns='${INFO}' node='${node}'/></iq>`,
      `<iq type='result'><query xmlns='${INFO}' node='${node}'><identity category='automation' type='command-node'/><feature var='${NS}'/></query></iq>`)
  }
})

play('XEP-0050 §4.4 a command that is not there, and an action that is none', { romeo: {} }, async ({ romeo }, stage) => {
  await romeo.asks(`<iq type='set' id='c1' to='${stage.domain}'><command xmlns='${NS}' node='no such command'/></iq>`,
    "<iq type='error'><error type='cancel'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>")
  await romeo.asks(`<iq type='set' id='c2' to='${stage.domain}'><command xmlns='${NS}' node='ping' action='dance'/></iq>`,
    `<iq type='error'><error type='modify'><bad-request xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/><malformed-action xmlns='${NS}'/></error></iq>`)
  await romeo.asks(`<iq type='set' id='c3' to='${stage.domain}'><command xmlns='${NS}' node='ping' sessionid='nobody-knows-it'/></iq>`,
    `<iq type='error'><error type='modify'><bad-request xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/><bad-sessionid xmlns='${NS}'/></error></iq>`)
})

play('XEP-0133 §3 who may not administer finds no commands for that', { romeo: {} }, async ({ romeo }, stage) => {
  const list = await romeo.asks(`<iq type='get' id='i1' to='${stage.domain}'><query xmlns='${ITEMS}' node='${NS}'/></iq>`, `<iq type='result'><query xmlns='${ITEMS}'/></iq>`)
  check(!list.toString().includes('http://jabber.org/protocol/admin#'), 'no administration')
  await romeo.asks(`<iq type='set' id='a1' to='${stage.domain}'><command xmlns='${NS}' node='http://jabber.org/protocol/admin#delete-user'/></iq>`,
    "<iq type='error'><error><forbidden xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>")
})
