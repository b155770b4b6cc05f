/** XEP-0160: offline messages. */
import { check, play } from '../play.ts'

play('XEP-0160 §3 messages wait for a user who is away, with their time', { romeo: {}, juliet: { online: false } }, async ({ romeo, juliet }) => {
  for (const type of ['chat', 'normal']) romeo.sends(`<message to='${juliet.bare}' type='${type}' id='${type}'><body>Hi</body></message>`)
  romeo.sends(`<message to='${juliet.bare}' id='bare'><body>Hi</body></message>`)
  await romeo.client.ping()
  await juliet.enters()
  for (const id of ['chat', 'normal', 'bare']) await juliet.receives(`<message id='${id}' from='${romeo.jid}'><body>Hi</body><delay xmlns='urn:xmpp:delay' stamp='{any}'/></message>`)
  await juliet.leaves()
  await juliet.enters()
  await juliet.receivesNothing("<message id='chat'/>")
})

play('XEP-0160 §3 they do not come to a resource of negative priority', { romeo: {}, juliet: { online: false } }, async ({ romeo, juliet }) => {
  romeo.sends(`<message to='${juliet.bare}' type='chat' id='m1'><body>Hi</body></message>`)
  await romeo.client.ping()
  await juliet.enters({ available: false })
  juliet.sends('<presence><priority>-1</priority></presence>')
  await juliet.receivesNothing("<message id='m1'/>")
  juliet.sends('<presence><priority>0</priority></presence>')
  await juliet.receives("<message id='m1'/>")
})

play('XEP-0160 §3 a headline and a groupchat message do not wait, nor does a lone chat state', { romeo: {}, juliet: { online: false } }, async ({ romeo, juliet }) => {
  romeo.sends(`<message to='${juliet.bare}' type='headline' id='m1'><body>News</body></message>`)
  romeo.sends(`<message to='${juliet.bare}' type='groupchat' id='m2'><body>All</body></message>`)
  romeo.sends(`<message to='${juliet.bare}' type='chat' id='m3'><composing xmlns='http://jabber.org/protocol/chatstates'/></message>`)
  await romeo.receives("<message type='error' id='m2'/>")
  await romeo.client.ping()
  await juliet.enters()
  for (const id of ['m1', 'm2', 'm3']) await juliet.receivesNothing(`<message id='${id}'/>`)
})

play('XEP-0160 messages wait in order', { romeo: {}, juliet: { online: false } }, async ({ romeo, juliet }) => {
  for (let i = 0; i < 50; i++) romeo.sends(`<message to='${juliet.bare}' type='chat' id='m${i}'><body>${i}</body></message>`)
  await romeo.client.ping()
  await juliet.enters()
  await juliet.receives("<message id='m49'/>")
  const ids = juliet.client.inbox.filter((stanza) => stanza.name === 'message').map((stanza) => stanza.id)
  check(ids.join() === Array.from({ length: 49 }, (_, i) => `m${i}`).join(), `in order, not ${ids.join()}`)
})
