/** XEP-0280: message carbons. */
import { play } from '../play.ts'

const ENABLE = "<iq type='set' id='carbons'><enable xmlns='urn:xmpp:carbons:2'/></iq>"

play('XEP-0280 §7 §8 messages received and sent are copied to other resources', { romeo: {}, juliet: {}, balcony: { account: 'juliet' } }, async ({ romeo, juliet, balcony }) => {
  await balcony.asks(ENABLE, "<iq type='result'/>")
  romeo.sends(`<message to='${juliet.jid}' type='chat' id='m1'><body>Hi</body></message>`)
  await juliet.receives("<message id='m1'/>")
  await balcony.receives(`<message from='${juliet.bare}' type='chat'><received xmlns='urn:xmpp:carbons:2'><forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client' from='${romeo.jid}' to='${juliet.jid}' id='m1'><body>Hi</body></message></forwarded></received></message>`)
  juliet.sends(`<message to='${romeo.jid}' type='chat' id='m2'><body>Ay me</body></message>`)
  await romeo.receives("<message id='m2'/>")
  await balcony.receives(`<message from='${juliet.bare}'><sent xmlns='urn:xmpp:carbons:2'><forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client' id='m2' to='${romeo.jid}'><body>Ay me</body></message></forwarded></sent></message>`)
  await juliet.receivesNothing("<message><sent xmlns='urn:xmpp:carbons:2'/></message>")
})

play('XEP-0280 §5 after disable nothing is copied', { romeo: {}, juliet: {}, balcony: { account: 'juliet' } }, async ({ romeo, juliet, balcony }) => {
  await balcony.asks(ENABLE, "<iq type='result'/>")
  await balcony.asks("<iq type='set' id='off'><disable xmlns='urn:xmpp:carbons:2'/></iq>", "<iq type='result'/>")
  romeo.sends(`<message to='${juliet.jid}' type='chat' id='m1'><body>Hi</body></message>`)
  await juliet.receives("<message id='m1'/>")
  await balcony.receivesNothing("<message><received xmlns='urn:xmpp:carbons:2'/></message>")
})

play('XEP-0280 §9 a private message and a headline are not copied', { romeo: {}, juliet: {}, balcony: { account: 'juliet' } }, async ({ romeo, juliet, balcony }) => {
  await balcony.asks(ENABLE, "<iq type='result'/>")
  romeo.sends(`<message to='${juliet.jid}' type='chat' id='m1'><body>Hi</body><private xmlns='urn:xmpp:carbons:2'/><no-copy xmlns='urn:xmpp:hints'/></message>`)
  romeo.sends(`<message to='${juliet.jid}' type='headline' id='m2'><body>News</body></message>`)
  await juliet.receives("<message id='m2'/>")
  await balcony.receivesNothing("<message><received xmlns='urn:xmpp:carbons:2'/></message>")
})

play('XEP-0280 §11 a carbon that was forged arrives as from its sender', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  romeo.sends(`<message to='${juliet.jid}' type='chat'><received xmlns='urn:xmpp:carbons:2'><forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client' from='x@y'><body>Forged</body></message></forwarded></received></message>`)
  await juliet.receivesNothing(`<message from='${juliet.bare}'><received xmlns='urn:xmpp:carbons:2'/></message>`)
})

play('XEP-0280 §4.1 nobody enables it for somebody else, and everybody twice', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  await romeo.asks(`<iq type='set' id='e1' to='${juliet.bare}'><enable xmlns='urn:xmpp:carbons:2'/></iq>`, "<iq type='error'/>")
  await romeo.asks(ENABLE, "<iq type='result'/>")
  await romeo.asks(ENABLE.replace("'carbons'", "'again'"), "<iq type='result'/>")
})

play('XEP-0280 §6.1 an invitation is copied, a message of a room and a private one of an occupant are not', { romeo: {}, juliet: {}, balcony: { account: 'juliet' } }, async ({ romeo, juliet, balcony }) => {
  await balcony.asks(ENABLE, "<iq type='result'/>")
  romeo.sends(`<message to='${juliet.jid}' id='m1'><x xmlns='jabber:x:conference' jid='room@muc.example'/></message>`)
  romeo.sends(`<message to='${juliet.jid}' type='groupchat' id='m2'><body>All</body></message>`)
  romeo.sends(`<message to='${juliet.jid}' type='chat' id='m3'><body>You</body><x xmlns='http://jabber.org/protocol/muc#user'/></message>`)
  await juliet.receives("<message id='m3'/>")
  const copied = (id: string): string => `<message><received xmlns='urn:xmpp:carbons:2'><forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client' id='${id}'/></forwarded></received></message>`
  await balcony.receives(copied('m1'))
  await balcony.receivesNothing(copied('m2'))
  await balcony.receivesNothing(copied('m3'))
})

play('XEP-0280 §7 a message to the account comes to each resource once', { romeo: {}, juliet: {}, balcony: { account: 'juliet' } }, async ({ romeo, juliet, balcony }) => {
  for (const actor of [juliet, balcony]) await actor.asks(ENABLE, "<iq type='result'/>")
  romeo.sends(`<message to='${juliet.bare}' type='chat' id='m1'><body>Hi</body></message>`)
  for (const actor of [juliet, balcony]) await actor.receives("<message id='m1'/>")
  for (const actor of [juliet, balcony]) await actor.receivesNothing("<message><received xmlns='urn:xmpp:carbons:2'/></message>")
})
