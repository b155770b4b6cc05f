/** XEP-0424 and XEP-0425: messages in rooms are taken back by their authors and by moderators. */
import type { Element } from '../../lib/xml/element.ts'
import { type Actor, check, play } from '../play.ts'
import { found, isIn, joins } from './xep-0045.ts'

const RETRACT = 'urn:xmpp:message-retract:1'
const MODERATE = 'urn:xmpp:message-moderate:1'
const STANZAS = 'urn:ietf:params:xml:ns:xmpp-stanzas'

async function saysIn(actor: Actor, room: string, text: string): Promise<string> {
  actor.sends(`<message to='${room}' type='groupchat' id='${text}'><body>${text}</body></message>`)
  const message = await actor.receives(`<message type='groupchat' id='${text}'><stanza-id xmlns='urn:xmpp:sid:0' by='${room}'/></message>`)
  return message.getChildren('stanza-id', 'urn:xmpp:sid:0').find((each) => each.attrs['by'] === room)?.attrs['id'] ?? ''
}

async function archived(actor: Actor, room: string, id: string): Promise<Element | undefined> {
  actor.sends(`<iq type='set' id='q' to='${room}'><query xmlns='urn:xmpp:mam:2'/></iq>`)
  const found = await actor.receives(`<message from='${room}'><result xmlns='urn:xmpp:mam:2' id='${id}'/></message>`)
  return found.getChild('result', 'urn:xmpp:mam:2')?.getChild('forwarded', 'urn:xmpp:forward:0')?.getChild('message', 'jabber:client')
}

play('XEP-0425 a moderator takes a message out; nobody else may', { hag: {}, crone: {} }, async ({ hag, crone }) => {
  const room = await found(hag, 'hag', { 'muc#roomconfig_enablearchiving': '1', mam: '1' })
  joins(crone, room, 'crone')
  await isIn(crone, room, 'crone')
  const id = await saysIn(crone, room, 'potions')
  const moderate = `<moderate xmlns='${MODERATE}' id='${id}'><retract xmlns='${RETRACT}'/><reason>spam</reason></moderate>`
  await crone.asks(`<iq type='set' id='no' to='${room}'>${moderate}</iq>`, `<iq type='error'><error><forbidden xmlns='${STANZAS}'/></error></iq>`)
  await hag.asks(`<iq type='set' id='yes' to='${room}'>${moderate}</iq>`, "<iq type='result'/>")
  await crone.receives(`<message from='${room}' type='groupchat'><retract xmlns='${RETRACT}' id='${id}'><moderated xmlns='${MODERATE}' by='${room}/hag'/><reason>spam</reason></retract></message>`)
  const tombstone = await archived(crone, room, id)
  check(tombstone?.getChildText('body') === null && tombstone.getChild('retracted', RETRACT)?.getChild('moderated', MODERATE) !== undefined, 'a tombstone in the archive')
})

play('XEP-0424 an author takes a message back', { hag: {}, crone: {} }, async ({ hag, crone }) => {
  const room = await found(hag, 'hag', { 'muc#roomconfig_enablearchiving': '1', mam: '1' })
  joins(crone, room, 'crone')
  await isIn(crone, room, 'crone')
  const id = await saysIn(crone, room, 'oops')
  crone.sends(`<message to='${room}' type='groupchat' id='r1'><retract xmlns='${RETRACT}' id='${id}'/></message>`)
  await hag.receives(`<message from='${room}/crone' type='groupchat' id='r1'><retract xmlns='${RETRACT}' id='${id}'/></message>`)
  const tombstone = await archived(hag, room, id)
  check(tombstone?.getChildText('body') === null && tombstone.getChild('retracted', RETRACT)?.attrs['id'] === 'r1', 'a tombstone in the archive')
})
