/** XEP-0398: avatars in nodes (XEP-0084), in the vCard and in presence (XEP-0153). */
import { createHash } from 'node:crypto'
import { play } from '../play.ts'
import { DONE, fields, gets, PUBSUB, sets } from './xep-0060.ts'

const DATA = 'urn:xmpp:avatar:data'
const METADATA = 'urn:xmpp:avatar:metadata'
const PICTURE = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII='
const ID = createHash('sha1').update(Buffer.from(PICTURE, 'base64')).digest('hex')
const OPEN = `<publish-options>${fields('publish-options', { access_model: 'open' })}</publish-options>`

play('XEP-0398 §3.1 §4 a published picture is in the vCard, and its hash in presence', { juliet: {}, nurse: {} }, async ({ juliet, nurse }) => {
  await juliet.asks(sets(`<publish node='${DATA}'><item id='${ID}'><data xmlns='${DATA}'>${PICTURE}</data></item></publish>${OPEN}`), DONE)
  await juliet.asks(sets(`<publish node='${METADATA}'><item id='${ID}'><metadata xmlns='${METADATA}'><info id='${ID}' bytes='70' type='image/png'/></metadata></item></publish>${OPEN}`), DONE)
  await nurse.asks(`<iq type='get' id='v1' to='${juliet.bare}'><vCard xmlns='vcard-temp'/></iq>`, `<iq type='result'><vCard xmlns='vcard-temp'><PHOTO><TYPE>image/png</TYPE><BINVAL>${PICTURE}</BINVAL></PHOTO></vCard></iq>`)
  juliet.sends(`<presence to='${nurse.jid}'/>`)
  await nurse.receives(`<presence from='${juliet.jid}'><x xmlns='vcard-temp:x:update'><photo>${ID}</photo></x></presence>`)
})

play('XEP-0398 §3.2 a picture in the vCard is published', { juliet: {} }, async ({ juliet }) => {
  await juliet.asks(`<iq type='set' id='v1'><vCard xmlns='vcard-temp'><FN>Juliet</FN><PHOTO><TYPE>image/png</TYPE><BINVAL>${PICTURE}</BINVAL></PHOTO></vCard></iq>`, DONE)
  await juliet.asks(gets(`<items node='${DATA}'/>`), `<iq type='result'><pubsub xmlns='${PUBSUB}'><items node='${DATA}'><item id='${ID}'><data xmlns='${DATA}'>${PICTURE}</data></item></items></pubsub></iq>`)
  await juliet.asks(gets(`<items node='${METADATA}'/>`), `<iq type='result'><pubsub xmlns='${PUBSUB}'><items node='${METADATA}'><item id='${ID}'><metadata xmlns='${METADATA}'><info id='${ID}' type='image/png'/></metadata></item></items></pubsub></iq>`)
})
