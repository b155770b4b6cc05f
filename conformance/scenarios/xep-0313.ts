/** XEP-0313: message archive management. */
import { type Actor, check, play } from '../play.ts'

const MAM = 'urn:xmpp:mam:2'
const RSM = 'http://jabber.org/protocol/rsm'

async function fill(romeo: Actor, juliet: Actor, count: number): Promise<void> {
  for (let i = 0; i < count; i++) romeo.sends(`<message to='${juliet.jid}' type='chat' id='m${i}'><body>line ${i}</body></message>`)
  await juliet.receives(`<message id='m${count - 1}'/>`)
  await romeo.client.ping()
}

async function query(actor: Actor, inside: string): Promise<{ ids: string[]; archiveIds: string[]; complete: boolean; first: string | undefined; last: string | undefined; count: string | undefined }> {
  const id = `q${Math.random()}`
  const ids: string[] = []
  const archiveIds: string[] = []
  const stop = actor.client.on((stanza) => {
    const span = stanza.find('result', MAM)
    if (span === undefined) return
    const result = stanza.childElement(span)
    if (result.attrs['queryid'] !== id) return
    archiveIds.push(result.attrs['id'] ?? '')
    ids.push(result.getChild('forwarded', 'urn:xmpp:forward:0')?.getChild('message', 'jabber:client')?.attrs['id'] ?? '')
  })
  const answer = await actor.client.sendIq(`<iq type='set' id='${id}'><query xmlns='${MAM}' queryid='${id}'>${inside}</query></iq>`)
  stop()
  const fin = answer.getChild('fin', MAM)
  const set = fin?.getChild('set', RSM)
  return { ids, archiveIds, complete: fin?.attrs['complete'] === 'true', first: set?.getChildText('first') ?? undefined, last: set?.getChildText('last') ?? undefined, count: set?.getChildText('count') ?? undefined }
}

const form = (fields: Readonly<Record<string, string>>): string =>
  `<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE' type='hidden'><value>${MAM}</value></field>${Object.entries(fields).map(([name, value]) => `<field var='${name}'><value>${value}</value></field>`).join('')}</x>`
const page = (inside: string): string => `<set xmlns='${RSM}'>${inside}</set>`

play('XEP-0313 §4.1 both sides find a conversation in their archives', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  await fill(romeo, juliet, 3)
  for (const [actor, other] of [[romeo, juliet], [juliet, romeo]] as const) {
    const { ids, complete } = await query(actor, form({ with: other.bare }))
    check(ids.join() === 'm0,m1,m2', `m0,m1,m2, not ${ids.join()}`)
    check(complete, 'complete')
  }
  const { ids } = await query(romeo, form({ with: 'nobody@example.net' }))
  check(ids.length === 0, 'nothing with somebody else')
})

play('XEP-0313 §4.3 pages forward and backward', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  await fill(romeo, juliet, 10)
  const one = await query(romeo, page('<max>4</max>'))
  check(one.ids.join() === 'm0,m1,m2,m3' && !one.complete, `first page, not ${one.ids.join()}`)
  const two = await query(romeo, page(`<max>4</max><after>${one.last}</after>`))
  check(two.ids.join() === 'm4,m5,m6,m7', `second page, not ${two.ids.join()}`)
  const three = await query(romeo, page(`<max>4</max><after>${two.last}</after>`))
  check(three.ids.join() === 'm8,m9' && three.complete, `last page, not ${three.ids.join()}`)
  const end = await query(romeo, page('<max>3</max><before/>'))
  check(end.ids.join() === 'm7,m8,m9', `the latest, not ${end.ids.join()}`)
  const before = await query(romeo, page(`<max>3</max><before>${end.first}</before>`))
  check(before.ids.join() === 'm4,m5,m6', `those before, not ${before.ids.join()}`)
})

play('XEP-0313 §4.3.1 times limit a query', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  await fill(romeo, juliet, 2)
  check((await query(romeo, form({ start: '2001-01-01T00:00:00Z', end: '2002-01-01T00:00:00Z' }))).ids.length === 0, 'nothing in 2001')
  check((await query(romeo, form({ start: '2001-01-01T00:00:00Z' }))).ids.length === 2, 'all since')
})

play('XEP-0313 §4.3.2 an id that the archive has not is item-not-found', { romeo: {} }, async ({ romeo }) => {
  await romeo.asks(`<iq type='set' id='q1'><query xmlns='${MAM}'>${page('<max>4</max><after>no-such-id</after>')}</query></iq>`, "<iq type='error'><error type='cancel'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>")
})

play('XEP-0313 §3.2 XEP-0359 a message is delivered with the id that the archive knows', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  romeo.sends(`<message to='${juliet.jid}' type='chat' id='m0'><body>Hi</body><stanza-id xmlns='urn:xmpp:sid:0' by='${juliet.bare}' id='forged'/></message>`)
  const message = await juliet.receives(`<message id='m0'><stanza-id xmlns='urn:xmpp:sid:0' by='${juliet.bare}' id='{any}'/></message>`)
  const ids = message.getChildren('stanza-id', 'urn:xmpp:sid:0').filter((each) => each.attrs['by'] === juliet.bare)
  check(ids.length === 1 && ids[0]?.attrs['id'] !== 'forged', 'one id, not the forged one')
  await juliet.client.ping()
  const { archiveIds } = await query(juliet, '')
  check(archiveIds.includes(ids[0]?.attrs['id'] ?? ''), `${ids[0]?.attrs['id']} is in ${archiveIds.join()}`)
})

play('XEP-0313 §5 nobody else may read an archive', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  await romeo.asks(`<iq type='set' id='q1' to='${juliet.bare}'><query xmlns='${MAM}'/></iq>`, "<iq type='error'/>")
})

play('XEP-0313 §4.1.4 the form tells the fields', { romeo: {} }, async ({ romeo }) => {
  await romeo.asks(`<iq type='get' id='q1'><query xmlns='${MAM}'/></iq>`, `<iq type='result'><query xmlns='${MAM}'><x xmlns='jabber:x:data' type='form'><field var='with'/><field var='start'/><field var='end'/></x></query></iq>`)
})
