/** XEP-0410: MUC Self-Ping, and XEP-0421: Occupant identifiers. */
import { check, play } from '../play.ts'
import { found, isIn, joins, newRoom } from './xep-0045.ts'

const STANZAS = 'urn:ietf:params:xml:ns:xmpp-stanzas'
const OCCUPANT_ID = 'urn:xmpp:occupant-id:0'

play('XEP-0410 a ping to oneself is answered in the room, and refused outside', { hag: {}, crone: {} }, async ({ hag, crone }) => {
  const room = await found(hag, 'hag')
  await hag.asks(`<iq type='get' id='p1' to='${room}/hag'><ping xmlns='urn:xmpp:ping'/></iq>`, "<iq type='result'/>")
  await crone.asks(`<iq type='get' id='p2' to='${room}/hag'><ping xmlns='urn:xmpp:ping'/></iq>`, `<iq type='error'><error><not-acceptable xmlns='${STANZAS}'/></error></iq>`)
  await crone.asks(`<iq type='get' id='p3' to='${await newRoom(crone)}/crone'><ping xmlns='urn:xmpp:ping'/></iq>`, `<iq type='error'><error><not-acceptable xmlns='${STANZAS}'/></error></iq>`)
})

play('XEP-0421 one account has one id in a room, under each nickname, and another in another room', { hag: {}, crone: {} }, async ({ hag, crone }) => {
  const rooms = [await found(hag, 'hag'), await found(hag, 'hag')]
  const ids: (string | undefined)[] = []
  for (const room of rooms) {
    joins(crone, room, 'crone')
    await isIn(crone, room, 'crone')
    const seen = await hag.receives(`<presence from='${room}/crone'><occupant-id xmlns='${OCCUPANT_ID}'/></presence>`)
    crone.sends(`<presence to='${room}/oldhag'/>`)
    const renamed = await hag.receives(`<presence from='${room}/oldhag'><occupant-id xmlns='${OCCUPANT_ID}'/></presence>`)
    const id = seen.getChild('occupant-id', OCCUPANT_ID)?.attrs['id']
    check(id === renamed.getChild('occupant-id', OCCUPANT_ID)?.attrs['id'], 'the same id')
    ids.push(id)
    crone.sends(`<message to='${room}' type='groupchat' id='f'><body>forged?</body><occupant-id xmlns='${OCCUPANT_ID}' id='forged'/></message>`)
    const message = await hag.receives(`<message from='${room}/oldhag' id='f'/>`)
    check(message.getChildren('occupant-id', OCCUPANT_ID).map((each) => each.attrs['id']).join() === id, 'no forged id')
  }
  check(ids[0] !== undefined && ids[0] !== ids[1], 'another id in another room')
})
