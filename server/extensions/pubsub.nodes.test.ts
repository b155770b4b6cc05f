/** Publish-subscribe services (XEP-0060) whose home is another node than those of their subscribers. */
import { mock } from 'node:test'
import { expect } from 'chai'
import type { Client } from '../../lib/client/client.ts'
import { formatDateTime } from '../../lib/stanza/delay.ts'
import type { Element } from '../../lib/xml/element.ts'
import { Machines } from '../cluster/machines.fixture.ts'
import { until } from '../cluster/sites.fixture.ts'
import { TEST_CONFIG } from '../test-server.ts'

const NS = 'http://jabber.org/protocol/pubsub'
const EVENT = `${NS}#event`
const OWNER = `${NS}#owner`
const SERVICE = 'pubsub.localhost'
const MINUTE_MS = 60_000

type Fields = Readonly<Record<string, string | readonly string[]>>
const form = (type: string, fields: Fields): string =>
  `<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE' type='hidden'><value>${NS}#${type}</value></field>${Object.entries(fields).map(([name, value]) => `<field var='pubsub#${name}'>${[value].flat().map((each) => `<value>${each}</value>`).join('')}</field>`).join('')}</x>`

describe('publish-subscribe services of several nodes', () => {
  let all: Machines
  let romeo: Client
  let juliet: Client

  const set = (client: Client, inner: string): Promise<Element> => client.sendIq(`<iq type='set' to='${SERVICE}'><pubsub xmlns='${NS}'>${inner}</pubsub></iq>`)
  const create = (fields: Fields = {}): Promise<Element> => set(romeo, `<create node='news'/><configure>${form('node_config', fields)}</configure>`)
  const publish = (id: string): Promise<Element> => set(romeo, `<publish node='news'><item id='${id}'><entry xmlns='x:y'/></item></publish>`)
  const subscribe = (client: Client, fields: Fields, jid = client.bare): Promise<Element> => set(client, `<subscribe node='news' jid='${jid}'/><options>${form('subscribe_options', fields)}</options>`)
  const subscribers = async (): Promise<(string | undefined)[]> =>
    (await romeo.sendIq(`<iq type='get' to='${SERVICE}'><pubsub xmlns='${OWNER}'><subscriptions node='news'/></pubsub></iq>`)).getChild('pubsub', OWNER)?.getChild('subscriptions')?.getChildElements().map(({ attrs }) => attrs['jid']) ?? []
  const untilSubscribed = (jids: readonly string[]): Promise<true> => until(async () => ((await subscribers()).join() === jids.join() ? true : undefined))
  const item = (id: string) => (element: Element): boolean => element.getChild('event', EVENT)?.getChild('items')?.getChild('item')?.attrs['id'] === id

  /** How far the servers' clock is ahead, and what they do each minute. */
  let aheadMs = 0
  const minutely: (() => void)[] = []

  beforeEach(async () => {
    aheadMs = 0
    minutely.length = 0
    const { setInterval: every } = globalThis
    mock.method(globalThis, 'setInterval', (run: () => void, ms: number) => {
      if (ms === MINUTE_MS) minutely.push(run)
      return every(run, ms)
    })
    all = await Machines.start(3, TEST_CONFIG.replace('  mod_bosh: {}\n', ''), ['romeo', 'juliet'], () => Date.now() + aheadMs)
    romeo = await all.user('romeo')
    await until(() => (all.homeOf('juliet@localhost') === -1 ? true : undefined))
    await all.at(2).node.storage.claim('juliet@localhost')
    // Nobody waits for her to resume.
    juliet = await all.user('juliet', { sm: false })
    await all.at(1).node.storage.claim(SERVICE)
    expect([all.homeOf('romeo@localhost'), all.homeOf(SERVICE), all.homeOf('juliet@localhost')]).to.deep.equal([0, 1, 2])
  })
  afterEach(async () => {
    mock.restoreAll()
    await all[Symbol.asyncDispose]()
  })

  it('end with the presence of the subscriber the subscriptions that were to last as long (§12.4)', async () => {
    await create()
    await subscribe(juliet, { expire: 'presence' })
    expect(await subscribers()).to.deep.equal(['juliet@localhost'])
    juliet.send("<presence type='unavailable'/>")
    await untilSubscribed([])
  })

  it('end them also when the subscriber\'s node dies and nobody asks for the account', async () => {
    await create()
    await subscribe(juliet, { expire: 'presence' }, juliet.jid)
    await subscribe(romeo, { expire: 'presence' })
    all.kill(2)
    await untilSubscribed(['romeo@localhost'])
  })

  it('end them also when the service\'s node dies with the subscriber\'s', async () => {
    await create()
    await subscribe(juliet, { expire: 'presence' })
    await subscribe(romeo, { expire: 'presence' })
    all.kill(2)
    all.kill(1)
    await untilSubscribed(['romeo@localhost'])
  })

  it('keep them as long as the session can be resumed', async () => {
    await create()
    const phone = await all.user('juliet', { resource: 'phone' })
    await subscribe(juliet, { expire: 'presence' })
    phone.destroy()
    all.kill(2)
    await until(() => (all.homeOf('juliet@localhost') >= 0 ? true : undefined))
    await romeo.ping()
    expect(await subscribers()).to.deep.equal(['juliet@localhost'])
  })

  it('send events in the presence that was asked for (§16.4.2)', async () => {
    await create()
    await subscribe(juliet, { 'show-values': ['online', 'chat'] })
    const away = await all.user('juliet', { resource: 'away' })
    away.send('<presence><show>away</show></presence>')
    await away.ping()
    await publish('one')
    expect((await juliet.receive(item('one'))).attrs['from']).to.equal(SERVICE)
    juliet.send('<presence><show>dnd</show></presence>')
    away.send('<presence><show>chat</show></presence>')
    await Promise.all([juliet.ping(), away.ping()])
    await publish('two')
    await away.receive(item('two'))
    await juliet.ping()
    for (const [client, id] of [[juliet, 'two'], [away, 'one']] as const) expect(client.inbox.filter((stanza) => item(id)(stanza.element()))).to.deep.equal([])
  })

  it('send the last item to a subscriber who becomes available (§4.3)', async () => {
    await create({ send_last_published_item: 'on_sub_and_presence' })
    await publish('last')
    await subscribe(juliet, {})
    await juliet.receive(item('last'))
    const phone = await all.user('juliet', { resource: 'phone' })
    const last = await phone.receive(item('last'))
    expect([last.attrs['to'], last.getChild('delay', 'urn:xmpp:delay') !== undefined]).to.deep.equal([phone.jid, true])
  })

  it('end subscriptions and remove items when their time is over (§12.18)', async () => {
    await create({ item_expire: '90' })
    await publish('old')
    await subscribe(juliet, { expire: formatDateTime(Date.now() + 90_000) })
    const { records } = all.at(1).node.storage
    expect([(await records.range('pubsub_items', [SERVICE])).length, (await records.range('pubsub_leases', [])).length]).to.deep.equal([1, 1])
    aheadMs = 2 * MINUTE_MS
    for (const run of minutely) run()
    await new Promise((resolve) => { setImmediate(resolve) })
    expect([(await records.range('pubsub_items', [SERVICE])).length, (await records.range('pubsub_leases', [])).length]).to.deep.equal([0, 0])
    expect(await subscribers()).to.deep.equal([])
  })
})
