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

play('XEP-0313 §4.1.5 a field that the server does not know is refused, and so is a form of another type', { romeo: {} }, async ({ romeo }) => {
  await romeo.asks(`<iq type='set' id='q1'><query xmlns='${MAM}'>${form({ '{urn:example}colour': 'red' })}</query></iq>`, "<iq type='error'><error><feature-not-implemented xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>")
  await romeo.asks(`<iq type='set' id='q2'><query xmlns='${MAM}'><x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE' type='hidden'><value>urn:example</value></field></x></query></iq>`, "<iq type='error'/>")
})

play('XEP-0313 §4.1.3 messages are found by id, and between two ids', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  await fill(romeo, juliet, 5)
  const { archiveIds } = await query(romeo, '')
  const field = (name: string, ...values: (string | undefined)[]): string => `<field var='${name}'>${values.map((value) => `<value>${value}</value>`).join('')}</field>`
  const fields = (inside: string): string => form({}).replace('</x>', `${inside}</x>`)
  check((await query(romeo, fields(field('ids', archiveIds[3], archiveIds[1])))).ids.join() === 'm1,m3', 'two by their ids, in order of time')
  check((await query(romeo, fields(field('after-id', archiveIds[0]) + field('before-id', archiveIds[3])))).ids.join() === 'm1,m2', 'those between')
  await romeo.asks(`<iq type='set' id='q1'><query xmlns='${MAM}'>${fields(field('ids', archiveIds[0], 'no-such-id'))}</query></iq>`, "<iq type='error'><error><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>")
})

play('XEP-0059 §2.2 §2.7 an empty page has no ends, and a page of none the count', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  await fill(romeo, juliet, 3)
  const { archiveIds } = await query(romeo, '')
  const beyond = await query(romeo, page(`<max>4</max><after>${archiveIds[2]}</after>`))
  check(beyond.ids.length === 0 && beyond.complete && beyond.first === undefined && beyond.last === undefined, 'nothing after the last')
  const none = await query(romeo, page('<max>0</max>'))
  check(none.ids.length === 0 && none.count === '3' && none.first === undefined, 'the count alone')
})

play('XEP-0313 §4.3.4 a flipped page has the same messages the other way round', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  await fill(romeo, juliet, 5)
  const last = await query(romeo, page('<max>3</max><before/>'))
  const flipped = await query(romeo, `${page('<max>3</max><before/>')}<flip-page/>`)
  check(flipped.ids.join() === 'm4,m3,m2', `from the latest on, not ${flipped.ids.join()}`)
  check(flipped.first === last.first && flipped.last === last.last, 'with the same ends')
})

play('XEP-0313 §5 the archive tells its ends', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  const empty = await romeo.asks(`<iq type='get' id='m1'><metadata xmlns='${MAM}'/></iq>`, `<iq type='result'><metadata xmlns='${MAM}'/></iq>`)
  check(empty.getChild('metadata', MAM)?.getChildElements().length === 0, 'none')
  await fill(romeo, juliet, 3)
  const { archiveIds } = await query(romeo, '')
  await romeo.asks(`<iq type='get' id='m2'><metadata xmlns='${MAM}'/></iq>`, `<iq type='result'><metadata xmlns='${MAM}'><start id='${archiveIds[0]}' timestamp='{any}'/><end id='${archiveIds[2]}' timestamp='{any}'/></metadata></iq>`)
})

play('XEP-0313 §4.1.1 a note to oneself is there once, and found by the own address', { romeo: {}, juliet: {} }, async ({ romeo, juliet }) => {
  await fill(romeo, juliet, 2)
  romeo.sends(`<message to='${romeo.bare}' type='chat' id='note'><body>Buy poison</body></message>`)
  await romeo.receives("<message id='note'/>")
  const { ids } = await query(romeo, form({ with: romeo.bare }))
  check(ids.join() === 'note', `the note alone, not ${ids.join()}`)
})

play('XEP-0313 §3.5 a sender learns nothing of the recipient\'s archive, and forges nothing', { romeo: {}, juliet: {}, garden: { account: 'romeo' } }, async ({ romeo, juliet, garden }) => {
  await garden.asks("<iq type='set' id='c1'><enable xmlns='urn:xmpp:carbons:2'/></iq>", "<iq type='result'/>")
  romeo.sends(`<message to='${juliet.jid}' type='chat' id='m1'><body>Hi</body><stanza-id xmlns='urn:xmpp:sid:0' by='${romeo.bare}' id='forged'/></message>`)
  const live = await juliet.receives("<message id='m1'/>")
  check(!live.getChildren('stanza-id', 'urn:xmpp:sid:0').some((each) => each.attrs['by'] === romeo.bare), 'no id of the sender\'s archive')
  const copy = await garden.receives("<message><sent xmlns='urn:xmpp:carbons:2'/></message>")
  const inner = copy.getChild('sent', 'urn:xmpp:carbons:2')?.getChild('forwarded', 'urn:xmpp:forward:0')?.getChild('message', 'jabber:client')
  const ids = inner?.getChildren('stanza-id', 'urn:xmpp:sid:0') ?? []
  check(ids.length === 1 && ids[0]?.attrs['by'] === romeo.bare && ids[0].attrs['id'] !== 'forged', 'the copy has the id of the own archive alone')
})

play('XEP-0313 §4.1.4 the form tells the fields', { romeo: {} }, async ({ romeo }) => {
  await romeo.asks(`<iq type='get' id='q1'><query xmlns='${MAM}'/></iq>`, `<iq type='result'><query xmlns='${MAM}'><x xmlns='jabber:x:data' type='form'><field var='with'/><field var='start'/><field var='end'/></x></query></iq>`)
})
