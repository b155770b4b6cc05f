import { expect } from 'chai'
import { Jid } from '../../../lib/jid.ts'
import { StanzaError } from '../../../lib/stanza/errors.ts'
import { firstIdOf } from '../../../lib/stanza/ids.ts'
import { readStanza } from '../../../lib/stanza/read.ts'
import { makeStanza, type Stanza } from '../../../lib/stanza/stanza.ts'
import { parseElement } from '../../../lib/xml/build.ts'
import type { Element } from '../../../lib/xml/element.ts'
import { HostAccountData } from '../../accounts/account-data.ts'
import { HostBind2 } from '../../host.ts'
import { HookRunner } from '../../router/hook-runner.ts'
import type { Delivery } from '../../router/hooks.ts'
import type { Session } from '../../sessions/session.ts'
import { openMemory } from '../../storage/memory/memory.ts'
import type { IqHandler, Parts } from '../extension.ts'
import { archive, type ArchiveOptions } from './archive.ts'

const ROMEO = 'romeo@montague.example'
const JULIET = 'juliet@capulet.example'
const MAM = 'urn:xmpp:mam:2'
const DEFAULTS: ArchiveOptions = {
  default: 'always', request_activates_archiving: false, assume_mam_usage: false, access_preferences: 'all', cache_size: 10, clear_archive_on_room_destroy: true, expire: Infinity,
  compress_xml: false, use_cache: true, cache_life_time: Infinity,
}
const START = Date.UTC(2026, 0, 1)

function setUp(options: Partial<ArchiveOptions> = {}, friends: readonly string[] = []) {
  const storage = openMemory()
  const hooks = new HookRunner()
  const handlers = new Map<string, IqHandler>()
  const features: string[] = []
  const hostFeatures: string[] = []
  const timers: (() => unknown)[] = []
  let clock = START
  archive.start({
    host: 'montague.example', hooks, storage, bind2: new HostBind2(), accountData: new HostAccountData(),
    iq: { get: (name: string, _to: unknown, run: IqHandler) => handlers.set(`get ${name}`, run), set: (name: string, _to: unknown, run: IqHandler) => handlers.set(`set ${name}`, run) },
    disco: { feature: (target: string, ...vars: string[]) => (target === 'host' ? hostFeatures : features).push(...vars) },
    rosters: { item: (_owner: string, contact: string) => (friends.includes(contact) ? { jid: contact, subscription: 'both' } : undefined) },
    access: { allows: (rule: string) => rule === 'all' },
    metrics: { counter: () => ({ inc() {} }) },
    everyAccount: (_ms: number, _name: string, run: (bare: string) => unknown) => timers.push(async () => { for (const bare of ['benvolio@montague.example', ROMEO]) await run(bare) }),
    now: () => clock,
  } as unknown as Parts, { ...DEFAULTS, ...options })

  let sequence = 0
  /** A message at START + `seconds`. */
  const deliver = (seconds: number, content: string, { from = `${ROMEO}/orchard`, to = JULIET, type = 'chat', ...changes }: { from?: string; to?: string; type?: string } & Omit<Partial<Delivery>, 'from' | 'to'> = {}): Delivery => {
    const id = `${firstIdOf(START + seconds * 1000).slice(0, 9)}${String(++sequence).padStart(3, '0')}0000000000`
    const delivery: Delivery = {
      stanza: readStanza(Buffer.from(`<message from='${from}' to='${to}' type='${type}' id='c${sequence}'>${content}</message>`)),
      from: Jid.parse(from), to: Jid.parse(to), session: undefined, id, time: START + seconds * 1000,
      fromLocal: from.includes('montague'), toLocal: to.includes('montague'),
      noArchive: false, noCopy: false, noOffline: false, archivedFrom: false, archivedTo: false, durable: false, reached: [], ...changes,
    }
    hooks.runStore(delivery)
    return delivery
  }
  const ask = async (type: 'get' | 'set', payload: string, from = `${ROMEO}/orchard`): Promise<{ answer: Element | undefined; results: Stanza[] }> => {
    const element = parseElement(payload)
    const results: Stanza[] = []
    const session = { send: (stanza: Stanza, sent: { volatile?: boolean }) => { expect(sent.volatile).to.equal(true); results.push(stanza) }, volatileAnswer() {} } as unknown as Session
    const run = handlers.get(`${type} ${MAM} ${element.name}`) as IqHandler
    const answer = await run({ stanza: makeStanza('iq', {}), payload: element, from: Jid.parse(from), to: Jid.parse(ROMEO), session })
    return { answer: answer ?? undefined, results }
  }
  const query = (fields: Record<string, string | string[]> | undefined, rest = '', attrs = '') => {
    const list = Object.entries(fields ?? {}).map(([name, value]) => `<field var='${name}'>${[value].flat().map((each) => `<value>${each}</value>`).join('')}</field>`)
    const form = fields === undefined ? '' : `<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE' type='hidden'><value>${MAM}</value></field>${list.join('')}</x>`
    return ask('set', `<query xmlns='${MAM}'${attrs}>${form}${rest}</query>`)
  }
  return { storage, hooks, features, hostFeatures, timers, deliver, ask, query, setClock: (ms: number) => { clock = ms } }
}

const rsm = (text: string): string => `<set xmlns='http://jabber.org/protocol/rsm'>${text}</set>`
const bodiesOf = (results: readonly Stanza[]): string[] => results.map((result) => /<body>(.*?)<\/body>/.exec(result.toString())?.[1] ?? '')
const setOf = (answer: Element | undefined) => answer?.getChild('set', 'http://jabber.org/protocol/rsm')

async function refusal(run: Promise<unknown>): Promise<string> {
  try {
    await run
  } catch (error) {
    if (error instanceof StanzaError) return error.condition
    throw error
  }
  return 'accepted'
}

describe('the archive (XEP-0313)', () => {
  it('keeps a message for both sides and tells the recipient its id (§3.5)', async () => {
    const { deliver, storage } = setUp()
    const local = deliver(0, '<body>hi</body>', { to: 'nurse@montague.example/x' })
    expect([local.archivedFrom, local.archivedTo, local.durable]).to.deep.equal([true, true, true])
    expect(local.stanza.toString()).to.contain(`<stanza-id xmlns='urn:xmpp:sid:0' by='nurse@montague.example' id='${local.id}'/></message>`)
    for (const owner of [ROMEO, 'nurse@montague.example']) {
      const item = await storage.archive.get(owner, local.id)
      expect(item?.bytes.toString()).to.equal(`<message from='${ROMEO}/orchard' to='nurse@montague.example/x' type='chat' id='c1'><body>hi</body></message>`)
    }
    const sent = deliver(1, '<body>hi</body>')
    expect([sent.archivedFrom, sent.archivedTo]).to.deep.equal([true, false])
    expect(sent.stanza.has('stanza-id', 'urn:xmpp:sid:0'), 'the id is not the recipient\'s to know').to.equal(false)
    const self = deliver(2, '<body>note</body>', { to: ROMEO })
    expect([self.archivedFrom, self.archivedTo]).to.deep.equal([true, true])
    expect(await storage.archive.count(ROMEO, {}, 100)).to.equal(3)
    expect(await storage.archive.count(ROMEO, { with: ROMEO }, 100)).to.equal(1)
  })

  it('keeps what has content and nothing else (§6.1.1)', () => {
    const { deliver } = setUp()
    const kept = (content: string, type = 'chat', changes: Partial<Delivery> = {}): boolean => deliver(0, content, { type, ...changes } as never).durable
    expect(kept('<body>x</body>')).to.equal(true)
    expect(kept('<body>x</body>', 'normal')).to.equal(true)
    expect(kept("<encrypted xmlns='eu.siacs.conversations.axolotl'/>")).to.equal(true)
    expect(kept("<encrypted xmlns='urn:xmpp:omemo:2'/>")).to.equal(true)
    expect(kept("<received xmlns='urn:xmpp:receipts' id='1'/><store xmlns='urn:xmpp:hints'/>")).to.equal(true)
    expect(kept("<x xmlns='jabber:x:conference' jid='r@c'/>")).to.equal(true)
    expect(kept("<x xmlns='http://jabber.org/protocol/muc#user'><invite to='a@b'/></x>")).to.equal(true)
    expect(kept("<received xmlns='urn:xmpp:receipts' id='1'/>")).to.equal(false)
    expect(kept("<composing xmlns='http://jabber.org/protocol/chatstates'/>")).to.equal(false)
    expect(kept('<body>x</body>', 'headline')).to.equal(false)
    expect(kept("<body>x</body><store xmlns='urn:xmpp:hints'/>", 'headline'), 'XEP-0334 §4.4').to.equal(true)
    expect(kept("<body>x</body><store xmlns='urn:xmpp:hints'/>", 'error'), 'XEP-0334 §5').to.equal(false)
    expect(kept('<body>x</body>', 'groupchat')).to.equal(false)
    expect(kept('<body>x</body>', 'error')).to.equal(false)
    expect(kept("<body>x</body><no-store xmlns='urn:xmpp:hints'/>")).to.equal(false)
    expect(kept("<body>x</body><no-permanent-store xmlns='urn:xmpp:hints'/>")).to.equal(false)
    expect(kept("<store xmlns='urn:xmpp:hints'/><result xmlns='urn:xmpp:mam:2'/>")).to.equal(false)
    expect(kept('<body>x</body>', 'chat', { noArchive: true })).to.equal(false)
  })

  it('answers a query with the messages, then with fin (§4)', async () => {
    const { deliver, query } = setUp()
    const first = deliver(0, '<body>1</body>')
    const last = deliver(5, '<body>2</body>', { from: `${JULIET}/b`, to: ROMEO })
    const { answer, results } = await query(undefined, '', " queryid='f27'")
    expect(bodiesOf(results)).to.deep.equal(['1', '2'])
    const message = parseElement(results[0]?.bytes() as Buffer)
    expect(message.attrs).to.include({ from: ROMEO, to: `${ROMEO}/orchard` })
    const result = message.getChild('result', MAM)
    expect(result?.attrs).to.include({ queryid: 'f27', id: first.id })
    const forwarded = result?.getChild('forwarded', 'urn:xmpp:forward:0')
    expect(forwarded?.getChild('delay', 'urn:xmpp:delay')?.attrs['stamp']).to.equal('2026-01-01T00:00:00.000Z')
    expect(forwarded?.getChild('message', 'jabber:client')?.attrs).to.include({ from: `${ROMEO}/orchard`, to: JULIET, id: 'c1' })
    expect(answer?.is('fin', MAM)).to.equal(true)
    expect(answer?.attrs['complete']).to.equal('true')
    expect(setOf(answer)?.toString()).to.contain(`<first index="0">${first.id}</first><last>${last.id}</last><count>2</count>`)
  })

  it('answers an empty archive with success', async () => {
    const { answer, results } = await setUp().query({})
    expect(results).to.deep.equal([])
    expect(answer?.attrs['complete']).to.equal('true')
    expect(setOf(answer)?.getChild('first')).to.equal(undefined)
    expect(setOf(answer)?.getChildText('count')).to.equal('0')
  })

  it('filters by address, time and id (§4.1)', async () => {
    const { deliver, query } = setUp()
    const ids = [
      deliver(0, '<body>0</body>', { from: `${JULIET}/balcony`, to: ROMEO }),
      deliver(1, '<body>1</body>', { from: `${JULIET}/chamber`, to: ROMEO }),
      deliver(2, '<body>2</body>', { to: `${JULIET}/balcony` }),
      deliver(3, '<body>3</body>', { to: 'nurse@capulet.example' }),
      deliver(4, '<body>4</body>', { to: ROMEO }),
    ].map((delivery) => delivery.id) as [string, string, string, string, string]
    const found = async (fields: Record<string, string | string[]>): Promise<string> => bodiesOf((await query(fields)).results).join('')
    expect(await found({ with: JULIET })).to.equal('012')
    expect(await found({ with: `${JULIET}/balcony` })).to.equal('02')
    expect(await found({ with: `${JULIET}/nowhere` })).to.equal('')
    expect(await found({ with: ROMEO }), 'notes to oneself').to.equal('4')
    expect(await found({ start: '2026-01-01T00:00:03Z' })).to.equal('34')
    expect(await found({ end: '2026-01-01T00:00:01Z' })).to.equal('01')
    expect(await found({ start: '2026-01-01T01:00:01+01:00', end: '2026-01-01T00:00:02Z', with: JULIET })).to.equal('12')
    expect(await found({ 'after-id': ids[1] })).to.equal('234')
    expect(await found({ 'before-id': ids[1] })).to.equal('0')
    expect(await found({ 'after-id': ids[0], 'before-id': ids[3] })).to.equal('12')
    expect(await found({ ids: [ids[3], ids[0]] })).to.equal('03')
    expect(await found({ 'include-groupchat': 'true' })).to.equal('01234')
  })

  it('finds a full address however it was written (§4.1.1)', async () => {
    const { deliver, query } = setUp()
    deliver(0, '<body>0</body>', { to: 'Juliet@CAPULET.example/balcony' })
    deliver(1, '<body>1</body>', { to: 'Juliet@CAPULET.example/Balcony' })
    deliver(2, '<body>2</body>', { from: `${ROMEO}/garden`, to: JULIET })
    deliver(3, '<body>3</body>', { from: `${ROMEO}/garden`, to: `${ROMEO}/orchard` })
    const found = async (fields: Record<string, string | string[]>): Promise<string> => bodiesOf((await query(fields)).results).join('')
    expect(await found({ with: `${JULIET}/balcony` })).to.equal('0')
    expect(await found({ with: 'JULIET@capulet.example/Balcony' })).to.equal('1')
    expect(await found({ with: JULIET })).to.equal('012')
    expect(await found({ with: `${ROMEO}/garden` }), 'from one of the own clients').to.equal('23')
    expect(await found({ with: `${ROMEO}/orchard` })).to.equal('013')
  })

  it('pages forwards, backwards and flipped (§4.3)', async () => {
    const { deliver, query } = setUp()
    const ids = [0, 1, 2, 3, 4].map((each) => deliver(each, `<body>${each}</body>`).id) as [string, string, string, string, string]
    const page = async (set: string, rest = '', fields?: Record<string, string>): Promise<string> => {
      const { answer, results } = await query(fields, rsm(set) + rest)
      const first = setOf(answer)?.getChild('first')?.attrs['index'] ?? '-'
      return `${bodiesOf(results).join('')} ${answer?.attrs['complete'] ?? 'more'} ${first} ${setOf(answer)?.getChildText('count') ?? '-'}`
    }
    expect(await page('<max>2</max>')).to.equal('01 more 0 5')
    expect(await page(`<max>2</max><after>${ids[1]}</after>`)).to.equal('23 more - 5')
    expect(await page(`<max>2</max><after>${ids[3]}</after>`)).to.equal('4 true - 5')
    expect(await page('<max>2</max><before/>')).to.equal('34 more 3 5')
    expect(await page(`<max>2</max><before>${ids[3]}</before>`)).to.equal('12 more - 5')
    expect(await page(`<max>3</max><before>${ids[2]}</before>`)).to.equal('01 true - 5')
    expect(await page(`<after>${ids[0]}</after><before>${ids[4]}</before>`)).to.equal('123 true - 5')
    expect(await page('<max>2</max><before/>', '<flip-page/>')).to.equal('43 more 3 5')
    expect(await page(`<max>2</max><after>${ids[1]}</after>`, '', { 'after-id': ids[0], 'before-id': ids[4] })).to.equal('23 true - 3')
    expect(await page('<max>0</max>')).to.equal(' more - 5')
    expect(await page('<max>2</max>', '', { with: `${JULIET}/x` })).to.equal(' true - 0')
    expect(await page('<max>2</max>', '', { with: JULIET })).to.equal('01 more 0 5')
  })

  it('clamps the page', async () => {
    const { deliver, query } = setUp()
    for (let each = 0; each < 300; each++) deliver(each, `<body>${each}</body>`, { to: `${JULIET}/${each % 2 ? 'odd' : 'even'}` })
    expect((await query({})).results.length).to.equal(50)
    expect((await query({}, rsm('<max>9999</max>'))).results.length).to.equal(250)
    const odd = await query({ with: `${JULIET}/odd` }, rsm('<max>149</max>'))
    expect([odd.results.length, odd.answer?.attrs['complete']]).to.deep.equal([149, undefined])
    const last = await query({ with: `${JULIET}/odd` }, rsm('<max>10</max><before/>'))
    expect(bodiesOf(last.results)).to.deep.equal(['281', '283', '285', '287', '289', '291', '293', '295', '297', '299'])
    expect((await query({ with: `${JULIET}/odd` }, rsm('<max>150</max>'))).answer?.attrs['complete']).to.equal('true')
  })

  it('gives no more at once than a connection may have waiting, and the rest when asked (§4.3.1)', async () => {
    const { deliver, query } = setUp()
    const filler = 'x'.repeat(200_000)
    for (let each = 0; each < 12; each++) deliver(each, `<body>${each}</body><subject>${filler}</subject>`, { to: `${JULIET}/b` })
    deliver(12, `<body>12</body><subject>${filler.repeat(10)}</subject>`)
    const all = Array.from({ length: 13 }, (_, each) => String(each))
    for (const fields of [undefined, { with: `${ROMEO}/orchard` }]) {
      for (const direction of ['after', 'before'] as const) {
        const seen: string[] = []
        let from = direction === 'before' ? '<before/>' : ''
        for (let pages = 0; ; pages++) {
          expect(pages).to.be.lessThan(8)
          const { answer, results } = await query(fields, rsm(`<max>100</max>${from}`))
          expect(results.length).to.be.within(1, 5)
          if (direction === 'after') seen.push(...bodiesOf(results))
          else seen.unshift(...bodiesOf(results))
          if (answer?.attrs['complete'] === 'true') break
          from = `<${direction}>${setOf(answer)?.getChildText(direction === 'after' ? 'last' : 'first')}</${direction}>`
        }
        expect(seen).to.deep.equal(all)
      }
    }
    expect(setOf((await query({}, rsm('<max>100</max>'))).answer)?.getChildText('count')).to.equal('13')
  })

  it('refuses what it cannot answer', async () => {
    const { deliver, query, ask } = setUp()
    const id = deliver(0, '<body>0</body>').id
    const unknown = '0'.repeat(22)
    expect(await refusal(query({ 'full-text': 'x' })), '§4.1.5').to.equal('feature-not-implemented')
    expect(await refusal(query({ start: 'yesterday' }))).to.equal('bad-request')
    expect(await refusal(query({ with: '@' }))).to.equal('bad-request')
    expect(await refusal(query({ 'include-groupchat': 'perhaps' }))).to.equal('bad-request')
    expect(await refusal(query({}, rsm('<max>-1</max>')))).to.equal('bad-request')
    expect(await refusal(query({}, rsm('<index>3</index>')))).to.equal('feature-not-implemented')
    for (const name of ['before-id', 'after-id']) expect(await refusal(query({ [name]: unknown })), name).to.equal('item-not-found')
    expect(await refusal(query({ ids: [id, unknown] }))).to.equal('item-not-found')
    expect(await refusal(query({ ids: '' }))).to.equal('item-not-found')
    expect(await refusal(query({}, rsm(`<after>${unknown}</after>`)))).to.equal('item-not-found')
    expect(await refusal(query({}, rsm(`<before>${unknown}</before>`)))).to.equal('item-not-found')
    expect(await refusal(ask('set', `<query xmlns='${MAM}'><x xmlns='jabber:x:data' type='submit'/></query>`)), 'no FORM_TYPE').to.equal('bad-request')
    expect(await refusal(ask('set', `<query xmlns='${MAM}' node='n'/>`))).to.equal('item-not-found')
    expect(await refusal(query({ ids: Array.from({ length: 251 }, (_, i) => `i${i}`) }))).to.equal('policy-violation')
  })

  it('is its owner\'s alone (§8.1)', async () => {
    const { ask } = setUp()
    for (const [type, payload] of [['get', 'query'], ['set', 'query'], ['get', 'metadata'], ['get', 'prefs'], ['set', 'prefs']] as const) {
      const run = async () => ask(type, `<${payload} xmlns='${MAM}'/>`, `${JULIET}/b`)
      expect(await refusal(run()), `${type} ${payload}`).to.equal('forbidden')
    }
  })

  it('tells the fields of a query, its first and last item, and where archives are (§4.1.5, §5, §7)', async () => {
    const { deliver, ask, features, hostFeatures } = setUp()
    const form = (await ask('get', `<query xmlns='${MAM}'/>`)).answer?.getChild('x', 'jabber:x:data')
    expect(form?.getChildren('field').map((field) => field.attrs['var'])).to.deep.equal(['FORM_TYPE', 'with', 'start', 'end', 'before-id', 'after-id', 'ids', 'include-groupchat'])
    expect((await ask('get', `<metadata xmlns='${MAM}'/>`)).answer?.children).to.deep.equal([])
    const first = deliver(0, '<body>0</body>').id
    const last = deliver(9, '<body>1</body>').id
    const metadata = (await ask('get', `<metadata xmlns='${MAM}'/>`)).answer
    expect(metadata?.getChild('start')?.attrs).to.deep.equal({ id: first, timestamp: '2026-01-01T00:00:00.000Z' })
    expect(metadata?.getChild('end')?.attrs).to.deep.equal({ id: last, timestamp: '2026-01-01T00:00:09.000Z' })
    expect(features).to.deep.equal([MAM, `${MAM}#extended`, `${MAM}#groupchat-field`, 'http://jabber.org/protocol/rsm'])
    expect(hostFeatures, 'for clients that ask the domain alone').to.deep.equal([MAM])
  })

  it('removes what is too old, and all of a removed account', async () => {
    const { deliver, storage, hooks, timers, setClock } = setUp({ expire: 60_000 })
    deliver(0, '<body>old</body>')
    const kept = deliver(100, '<body>new</body>').id
    setClock(START + 110_000)
    for (const run of timers) await run()
    expect((await storage.archive.bounds(ROMEO))?.first).to.equal(kept)
    await hooks.runAccountRemoved(ROMEO)
    expect(await storage.archive.bounds(ROMEO)).to.equal(undefined)
  })

  it('with assume_mam_usage does not keep a second time what comes back from a lost stream', () => {
    const { deliver, hooks } = setUp({ assume_mam_usage: true })
    const delivery = deliver(0, '<body>x</body>', { from: `${JULIET}/b`, to: ROMEO })
    expect(hooks.runUndeliverable(delivery), 'the first time it is kept').to.equal(false)
    expect(hooks.runUndeliverable({ ...delivery, accepted: true })).to.equal(true)
    const stranger = { ...delivery, accepted: true, archivedTo: false, stanza: makeStanza('message', {}).append('stanza-id', 'urn:xmpp:sid:0', `<stanza-id xmlns='urn:xmpp:sid:0' by='x' id="by='${ROMEO}'"/>`) }
    expect(hooks.runUndeliverable(stranger), 'nothing that the archive has').to.equal(false)
  })
})

describe('archive preferences (XEP-0441)', () => {
  const prefs = (chosen: string, always: string[] = [], never: string[] = []): string =>
    `<prefs xmlns='${MAM}' default='${chosen}'><always>${always.map((jid) => `<jid>${jid}</jid>`).join('')}</always><never>${never.map((jid) => `<jid>${jid}</jid>`).join('')}</never></prefs>`

  it('decide what is kept, an entry with a resource before one without (§2.3)', async () => {
    const { ask, deliver } = setUp()
    expect((await ask('get', `<prefs xmlns='${MAM}'/>`)).answer?.toString()).to.equal(`<prefs xmlns="${MAM}" default="always"><always/><never/></prefs>`)
    const { answer } = await ask('set', prefs('never', [JULIET, 'Nurse@capulet.example/x'], [`${JULIET}/bad`]))
    expect(answer?.getChild('always')?.getChildren('jid').map((jid) => jid.text())).to.deep.equal([JULIET, 'nurse@capulet.example/x'])
    expect(deliver(0, '<body>x</body>', { to: JULIET }).durable).to.equal(true)
    expect(deliver(0, '<body>x</body>', { to: `${JULIET}/good` }).durable).to.equal(true)
    expect(deliver(0, '<body>x</body>', { to: `${JULIET}/bad` }).durable).to.equal(false)
    expect(deliver(0, '<body>x</body>', { from: 'nurse@capulet.example/x', to: ROMEO }).durable).to.equal(true)
    expect(deliver(0, '<body>x</body>', { from: 'nurse@capulet.example/y', to: ROMEO }).durable).to.equal(false)
    expect(deliver(0, '<body>x</body>', { to: 'friar@capulet.example' }).durable).to.equal(false)
    expect((await ask('get', `<prefs xmlns='${MAM}'/>`)).answer?.attrs['default']).to.equal('never')
  })

  it('of the roster keep messages of contacts', async () => {
    const { ask, deliver } = setUp({}, [JULIET])
    await ask('set', prefs('roster'))
    expect(deliver(0, '<body>x</body>', { to: `${JULIET}/b` }).durable).to.equal(true)
    expect(deliver(0, '<body>x</body>', { to: 'friar@capulet.example' }).durable).to.equal(false)
  })

  it('of one side leave the other\'s archive alone', async () => {
    const { ask, deliver } = setUp()
    await ask('set', prefs('never'))
    const delivery = deliver(0, '<body>x</body>', { to: 'nurse@montague.example' })
    expect([delivery.archivedFrom, delivery.archivedTo]).to.deep.equal([false, true])
  })

  it('are refused when they make no sense, or are not to be chosen here', async () => {
    const { ask } = setUp()
    expect(await refusal(ask('set', prefs('sometimes')))).to.equal('bad-request')
    expect(await refusal(ask('set', prefs('always', ['@'])))).to.equal('bad-request')
    expect(await refusal(ask('set', prefs('always', Array.from({ length: 1001 }, (_, i) => `a${i}@b.example`))))).to.equal('resource-constraint')
    const closed = setUp({ access_preferences: 'none' })
    expect(await refusal(closed.ask('set', prefs('always')))).to.equal('forbidden')
  })

  it('default to the option, which a first request may activate', async () => {
    expect(setUp({ default: 'never' }).deliver(0, '<body>x</body>').durable).to.equal(false)
    const { deliver, query } = setUp({ request_activates_archiving: true })
    expect(deliver(0, '<body>x</body>').durable).to.equal(false)
    await query({})
    expect(deliver(1, '<body>x</body>').durable).to.equal(true)
  })
})
