/** XEP-0045: Multi-User Chat, and what belongs to it: 0249, 0313 in rooms. */
import { randomBytes } from 'node:crypto'
import { type Actor, check, play } from '../play.ts'

const MUC = 'http://jabber.org/protocol/muc'
const STANZAS = 'urn:ietf:params:xml:ns:xmpp-stanzas'

/** The address of a room that nobody has, on the service that the domain lists. */
export async function newRoom(actor: Actor): Promise<string> {
  const items = await actor.asks(`<iq type='get' id='items' to='${actor.stage.domain}'><query xmlns='http://jabber.org/protocol/disco#items'/></iq>`, "<iq type='result'/>")
  for (const { attrs: { jid } } of items.getChild('query')?.getChildren('item') ?? []) {
    const info = await actor.client.sendIq(`<iq type='get' to='${jid}'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>`).catch(() => undefined)
    if (info?.getChild('query')?.getChildren('feature').some((feature) => feature.attrs['var'] === MUC) === true) return `r${randomBytes(6).toString('hex')}@${jid}`
  }
  throw new Error('the domain lists no service of rooms')
}

export function joins(actor: Actor, room: string, nick: string, inside = ''): void {
  actor.sends(`<presence to='${room}/${nick}'><x xmlns='${MUC}'>${inside}</x></presence>`)
}

/** Waits for one's own presence, which ends those of the others. */
export async function isIn(actor: Actor, room: string, nick: string): Promise<void> {
  await actor.receives(`<presence from='${room}/${nick}'><x xmlns='${MUC}#user'><status code='110'/></x></presence>`)
}

/** A room of this actor's that is open. */
export async function found(actor: Actor, nick: string, fields: Readonly<Record<string, string>> = {}): Promise<string> {
  const room = await newRoom(actor)
  joins(actor, room, nick)
  await actor.receives(`<presence from='${room}/${nick}'><x xmlns='${MUC}#user'><item affiliation='owner' role='moderator'/><status code='110'/><status code='201'/></x></presence>`)
  await configures(actor, room, fields)
  return room
}

export async function configures(actor: Actor, room: string, fields: Readonly<Record<string, string>>): Promise<void> {
  const inside = Object.entries(fields).map(([name, value]) => `<field var='${name}'><value>${value}</value></field>`).join('')
  const formType = inside === '' ? '' : `<field var='FORM_TYPE' type='hidden'><value>${MUC}#roomconfig</value></field>`
  await actor.client.sendIq(`<iq type='set' to='${room}'><query xmlns='${MUC}#owner'><x xmlns='jabber:x:data' type='submit'>${formType}${inside}</x></query></iq>`)
}

const refused = (room: string, nick: string, condition: string): string => `<presence type='error' from='${room}/${nick}'><error><${condition} xmlns='${STANZAS}'/></error></presence>`

play('XEP-0045 §7.2 §7.4 §7.14 a room is entered, talked in and left', { hag: {}, crone: {} }, async ({ hag, crone }) => {
  const room = await found(hag, 'thirdwitch')
  joins(crone, room, 'firstwitch')
  await crone.receives(`<presence from='${room}/thirdwitch'><x xmlns='${MUC}#user'><item affiliation='owner' role='moderator'/></x></presence>`)
  await isIn(crone, room, 'firstwitch')
  await crone.receives(`<message type='groupchat'><subject/></message>`)
  await hag.receives(`<presence from='${room}/firstwitch'><x xmlns='${MUC}#user'><item affiliation='none' role='participant' jid='${crone.jid}'/></x></presence>`)
  crone.sends(`<message to='${room}' type='groupchat' id='m1'><body>Harpier cries</body></message>`)
  for (const each of [hag, crone]) await each.receives(`<message from='${room}/firstwitch' to='${each.jid}' type='groupchat' id='m1'><body>Harpier cries</body></message>`)
  crone.sends(`<presence to='${room}/firstwitch' type='unavailable'><status>gone</status></presence>`)
  await crone.receives(`<presence from='${room}/firstwitch' type='unavailable'><x xmlns='${MUC}#user'><item role='none'/><status code='110'/></x></presence>`)
  await hag.receives(`<presence from='${room}/firstwitch' type='unavailable'><status>gone</status><x xmlns='${MUC}#user'><item role='none'/></x></presence>`)
  crone.sends(`<message to='${room}' type='groupchat' id='m2'><body>still?</body></message>`)
  await crone.receives(`<message type='error' id='m2' from='${room}'><error><not-acceptable xmlns='${STANZAS}'/></error></message>`)
})

play('XEP-0045 §7.2 who may not enter is told why', { hag: {}, crone: {} }, async ({ hag, crone }) => {
  const room = await newRoom(hag)
  joins(hag, room, 'hag')
  await isIn(hag, room, 'hag')
  joins(crone, room, 'crone')
  await crone.receives(refused(room, 'crone', 'item-not-found'))
  await configures(hag, room, {})
  joins(crone, room, 'hag')
  await crone.receives(refused(room, 'hag', 'conflict'))
  await configures(hag, room, { 'muc#roomconfig_passwordprotectedroom': '1', 'muc#roomconfig_roomsecret': 'cauldronburn' })
  joins(crone, room, 'crone')
  await crone.receives(refused(room, 'crone', 'not-authorized'))
  await configures(hag, room, { 'muc#roomconfig_membersonly': '1' })
  joins(crone, room, 'crone', '<password>cauldronburn</password>')
  await crone.receives(refused(room, 'crone', 'registration-required'))
  await hag.asks(`<iq type='set' id='ban' to='${room}'><query xmlns='${MUC}#admin'><item affiliation='outcast' jid='${crone.bare}'/></query></iq>`, "<iq type='result'/>")
  joins(crone, room, 'crone', '<password>cauldronburn</password>')
  await crone.receives(refused(room, 'crone', 'forbidden'))
  crone.sends(`<presence to='${room}'><x xmlns='${MUC}'/></presence>`)
  await crone.receives(`<presence type='error' from='${room}'><error><jid-malformed xmlns='${STANZAS}'/></error></presence>`)
})

play('XEP-0045 §7.6 §7.5 nicknames change, and private messages follow', { hag: {}, crone: {} }, async ({ hag, crone }) => {
  const room = await found(hag, 'hag')
  joins(crone, room, 'crone')
  await isIn(crone, room, 'crone')
  crone.sends(`<presence to='${room}/oldhag'/>`)
  await hag.receives(`<presence from='${room}/crone' type='unavailable'><x xmlns='${MUC}#user'><item nick='oldhag'/><status code='303'/></x></presence>`)
  await hag.receives(`<presence from='${room}/oldhag'><x xmlns='${MUC}#user'/></presence>`)
  hag.sends(`<message to='${room}/oldhag' type='chat' id='p1'><body>psst</body></message>`)
  await crone.receives(`<message from='${room}/hag' type='chat' id='p1'><body>psst</body><x xmlns='${MUC}#user'/></message>`)
})

play('XEP-0045 §8.2 §9.1 §10.9 kicks, bans and the end of a room', { hag: {}, crone: {} }, async ({ hag, crone }) => {
  const room = await found(hag, 'hag')
  joins(crone, room, 'crone')
  await isIn(crone, room, 'crone')
  await hag.asks(`<iq type='set' id='kick' to='${room}'><query xmlns='${MUC}#admin'><item nick='crone' role='none'><reason>Avaunt</reason></item></query></iq>`, "<iq type='result'/>")
  await crone.receives(`<presence from='${room}/crone' type='unavailable'><x xmlns='${MUC}#user'><item role='none'><reason>Avaunt</reason></item><status code='307'/></x></presence>`)
  joins(crone, room, 'crone')
  await isIn(crone, room, 'crone')
  await hag.asks(`<iq type='set' id='ban' to='${room}'><query xmlns='${MUC}#admin'><item affiliation='outcast' jid='${crone.bare}'/></query></iq>`, "<iq type='result'/>")
  await crone.receives(`<presence from='${room}/crone' type='unavailable'><x xmlns='${MUC}#user'><item affiliation='outcast' role='none'/><status code='301'/></x></presence>`)
  await hag.asks(`<iq type='set' id='end' to='${room}'><query xmlns='${MUC}#owner'><destroy jid='elsewhere@chat.example'><reason>Macbeth</reason></destroy></query></iq>`, "<iq type='result'/>")
  await hag.receives(`<presence from='${room}/hag' type='unavailable'><x xmlns='${MUC}#user'><item role='none'/><destroy jid='elsewhere@chat.example'><reason>Macbeth</reason></destroy></x></presence>`)
})

play('XEP-0045 §7.2.13 §7.2.15 who enters finds history, then the subject', { hag: {}, crone: {} }, async ({ hag, crone }) => {
  const room = await found(hag, 'hag')
  hag.sends(`<message to='${room}' type='groupchat'><subject>Brew</subject></message>`)
  for (const text of ['one', 'two']) hag.sends(`<message to='${room}' type='groupchat' id='${text}'><body>${text}</body></message>`)
  await hag.receives(`<message type='groupchat' id='two'/>`)
  joins(crone, room, 'crone', "<history maxstanzas='1'/>")
  await crone.receives(`<message from='${room}/hag' type='groupchat'><body>two</body><delay xmlns='urn:xmpp:delay'/></message>`)
  await crone.receives(`<message from='${room}/hag' type='groupchat'><subject>Brew</subject></message>`)
  await crone.receivesNothing(`<message type='groupchat'><body>one</body></message>`)
})

play('XEP-0045 §7.8.2 an invitation and its answer', { hag: {}, crone: {} }, async ({ hag, crone }) => {
  const room = await found(hag, 'hag')
  hag.sends(`<message to='${room}'><x xmlns='${MUC}#user'><invite to='${crone.bare}'><reason>Hey</reason></invite></x></message>`)
  await crone.receives(`<message from='${room}'><x xmlns='${MUC}#user'><invite><reason>Hey</reason></invite></x><x xmlns='jabber:x:conference' jid='${room}'/></message>`)
  crone.sends(`<message to='${room}'><x xmlns='${MUC}#user'><decline to='${hag.bare}'><reason>No</reason></decline></x></message>`)
  await hag.receives(`<message from='${room}'><x xmlns='${MUC}#user'><decline from='${crone.bare}'><reason>No</reason></decline></x></message>`)
})

play('XEP-0045 §10.2 a configuration with fields that the service does not know', { hag: {}, crone: {} }, async ({ hag, crone }) => {
  const room = await found(hag, 'hag', {
    'muc#roomconfig_membersonly': '1', 'muc#roomconfig_whois': 'anyone', 'muc#roomconfig_publicroom': '0', 'muc#roomconfig_persistentroom': '1', 'muc#roomconfig_enablearchiving': '1', mam: '1', 'muc#roomconfig_mam': '1',
    'muc#roomconfig_allowpm': 'anyone', '{http://prosody.im/protocol/muc}roomconfig_allowmemberinvites': '0', 'muc#roomconfig_of_tomorrow': 'yes',
  })
  const info = await crone.asks(`<iq type='get' id='info' to='${room}'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>`, "<iq type='result'/>")
  const features = info.getChild('query')?.getChildren('feature').map((feature) => feature.attrs['var'])
  for (const name of ['muc_membersonly', 'muc_nonanonymous', 'muc_hidden', 'muc_persistent', 'urn:xmpp:mam:2']) check(features?.includes(name) === true, name)
  await configures(hag, room, { 'muc#roomconfig_persistentroom': '0' })
})

play('XEP-0313 in rooms: what was said is found again', { hag: {}, crone: {} }, async ({ hag, crone }) => {
  const room = await found(hag, 'hag', { 'muc#roomconfig_enablearchiving': '1', mam: '1' })
  hag.sends(`<message to='${room}' type='groupchat' id='m1'><body>toil</body></message>`)
  const live = await hag.receives(`<message type='groupchat' id='m1'><stanza-id xmlns='urn:xmpp:sid:0' by='${room}'/></message>`)
  const id = live.getChildren('stanza-id', 'urn:xmpp:sid:0').find((each) => each.attrs['by'] === room)?.attrs['id']
  crone.sends(`<iq type='set' id='q' to='${room}'><query xmlns='urn:xmpp:mam:2' queryid='q'/></iq>`)
  await crone.receives(`<message from='${room}'><result xmlns='urn:xmpp:mam:2' queryid='q' id='${id}'><forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client' from='${room}/hag' type='groupchat' id='m1'><body>toil</body></message></forwarded></result></message>`)
  await crone.receives("<iq type='result' id='q'><fin xmlns='urn:xmpp:mam:2' complete='true'/></iq>")
})
