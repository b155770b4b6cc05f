/** XEP-0402 and XEP-0411: bookmarks in all their forms. */
import { check, play } from '../play.ts'
import { DONE, fields, gets, PUBSUB, sets } from './xep-0060.ts'

const NS = 'urn:xmpp:bookmarks:1'
const LEGACY = 'storage:bookmarks'
const OPTIONS = `<publish-options>${fields('publish-options', { persist_items: 'true', max_items: 'max', send_last_published_item: 'never', access_model: 'whitelist' })}</publish-options>`

play('XEP-0402 §6 bookmarks are in private storage and in the node of XEP-0048 too', { juliet: {} }, async ({ juliet }) => {
  const room = 'orchard@rooms.example'
  await juliet.asks(sets(`<publish node='${NS}'><item id='${room}'><conference xmlns='${NS}' name='Orchard' autojoin='true'><nick>JC</nick></conference></item></publish>${OPTIONS}`), DONE)
  const conference = `<storage xmlns='${LEGACY}'><conference jid='${room}' name='Orchard' autojoin='true'><nick>JC</nick></conference></storage>`
  await juliet.asks(`<iq type='get' id='p1'><query xmlns='jabber:iq:private'><storage xmlns='${LEGACY}'/></query></iq>`, `<iq type='result'><query xmlns='jabber:iq:private'>${conference}</query></iq>`)
  await juliet.asks(gets(`<items node='${LEGACY}'/>`), `<iq type='result'><pubsub xmlns='${PUBSUB}'><items node='${LEGACY}'><item>${conference}</item></items></pubsub></iq>`)
})

play('XEP-0411 §3 what is written to private storage is in the nodes, and goes from them', { juliet: {} }, async ({ juliet }) => {
  const writes = (inner: string, id: string): string => `<iq type='set' id='${id}'><query xmlns='jabber:iq:private'><storage xmlns='${LEGACY}'>${inner}</storage></query></iq>`
  await juliet.asks(writes("<conference jid='a@rooms.example' name='A'/><conference jid='b@rooms.example' name='B'/>", 'w1'), DONE)
  await juliet.asks(gets(`<items node='${NS}'/>`), `<iq type='result'><pubsub xmlns='${PUBSUB}'><items node='${NS}'><item id='a@rooms.example'><conference xmlns='${NS}' name='A'/></item><item id='b@rooms.example'/></items></pubsub></iq>`)
  await juliet.asks(writes("<conference jid='b@rooms.example' name='B'/>", 'w2'), DONE)
  const left = await juliet.asks(gets(`<items node='${NS}'/>`), DONE)
  check(left.getChild('pubsub')?.getChild('items')?.getChildren('item').map(({ attrs }) => attrs['id']).join() === 'b@rooms.example', 'one is gone')
})
