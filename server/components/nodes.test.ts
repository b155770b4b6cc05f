/** External components (XEP-0114) of several nodes. */
import { expect } from 'chai'
import type { Client } from '../../lib/client/client.ts'
import type { ComponentClient } from '../../lib/client/component.ts'
import type { Stanza } from '../../lib/stanza/stanza.ts'
import type { Element } from '../../lib/xml/element.ts'
import { Machines, withComponents } from '../cluster/machines.fixture.ts'
import { until } from '../cluster/sites.fixture.ts'

const ITEMS = 'http://jabber.org/protocol/disco#items'
const HOSTS = 'hosts: {icq.localhost: {password: sesame}}'

describe('external components of several nodes', () => {
  let all: Machines
  afterEach(() => all[Symbol.asyncDispose]())

  async function start(more = '', listen = HOSTS): Promise<void> {
    all = await Machines.start(3, withComponents(listen, '', more), ['romeo', 'juliet'])
  }
  const homeOf = (unit: string): number => all.homeOf(unit)
  const otherThan = (...taken: readonly number[]): number => all.otherThan(...taken)
  const user = (name: string): Promise<Client> => all.user(name)
  const component = (index: number): Promise<ComponentClient> => all.component(index, 'icq.localhost')
  const say = (client: Client, id: string, to = '123@icq.localhost'): void => client.send(`<message to='${to}' type='chat' id='${id}'><body>${id}</body></message>`)
  const isMessage = ({ name }: Stanza): boolean => name === 'message'
  const withId = (id: string) => (element: Element): boolean => element.attrs['id'] === id
  async function condition(client: Client, id: string): Promise<unknown> {
    const error = (await client.receive(withId(id))).getChild('error')
    return [error?.attrs['type'], error?.getChildElements()[0]?.getName()]
  }
  it('get what users of all nodes send, in order, and answer them', async () => {
    await start()
    const [romeo, juliet] = [await user('romeo'), await user('juliet')]
    const icq = await component(otherThan(homeOf('romeo@localhost')))
    for (let i = 0; i < 30; i++) for (const client of [romeo, juliet]) say(client, `m${i}`)
    const got: Record<string, string[]> = { [romeo.jid]: [], [juliet.jid]: [] }
    for (let i = 0; i < 60; i++) {
      const message = await icq.receive(isMessage)
      got[message.from ?? '']?.push(message.id ?? '')
    }
    const all = Array.from({ length: 30 }, (_, i) => `m${i}`)
    expect(got).to.deep.equal({ [romeo.jid]: all, [juliet.jid]: all })
    const asked = romeo.sendIq("<iq type='get' id='q1' to='icq.localhost'><query xmlns='jabber:iq:register'/></iq>")
    const request = await icq.receive(({ name }) => name === 'iq')
    icq.send(`<iq type='result' id='${request.id}' from='icq.localhost' to='${request.from}'><query xmlns='jabber:iq:register'><registered/></query></iq>`)
    expect((await asked).getChild('query')?.getChild('registered')).to.not.equal(undefined)
    icq.send(`<message from='123@icq.localhost' to='${juliet.jid}' type='chat' id='back'><body>back</body></message>`)
    expect((await juliet.receive(withId('back'))).attrs['from']).to.equal('123@icq.localhost')
  })

  it('have the home of their domain where they are connected', async () => {
    await start()
    await component(2)
    await until(() => (homeOf('icq.localhost') === 2 ? true : undefined))
  })

  it('are reached at another node than the home of their domain too, which tells nothing twice', async () => {
    await start()
    const romeo = await user('romeo')
    say(romeo, 'early')
    expect(await condition(romeo, 'early')).to.deep.equal(['wait', 'service-unavailable'])
    const home = homeOf('icq.localhost')
    const icq = await component(otherThan(home))
    await until(async () => (await itemsOf(romeo)).includes('icq.localhost') || undefined)
    for (let i = 0; i < 20; i++) say(romeo, `m${i}`)
    for (let i = 0; i < 20; i++) expect((await icq.receive(isMessage)).id).to.equal(`m${i}`)
    await until(async () => (await all.at(home).node.storage.records.range('component-messages', ['icq.localhost'])).length === 0 || undefined)
  })

  async function itemsOf(client: Client): Promise<(string | undefined)[]> {
    return (await client.sendIq(`<iq type='get' to='localhost'><query xmlns='${ITEMS}'/></iq>`)).getChild('query', ITEMS)?.getChildren('item').map(({ attrs }) => attrs['jid']) ?? []
  }

  it('of any domain are known at all nodes as long as they are connected', async () => {
    await start('', 'password: sesame')
    const romeo = await user('romeo')
    say(romeo, 'early')
    expect(await condition(romeo, 'early')).to.deep.equal(['cancel', 'remote-server-not-found'])
    const icq = await component(otherThan(homeOf('romeo@localhost')))
    await until(async () => (await itemsOf(romeo)).includes('icq.localhost') || undefined)
    say(romeo, 'm1')
    expect((await icq.receive(isMessage)).id).to.equal('m1')
    await icq[Symbol.asyncDispose]()
    await until(async () => !(await itemsOf(romeo)).includes('icq.localhost') || undefined)
    say(romeo, 'm2')
    expect(await condition(romeo, 'm2')).to.deep.equal(['cancel', 'remote-server-not-found'])
  })

  it('of which a node dies lose nothing that was acknowledged: it waits for them, in order', async () => {
    await start()
    const romeo = await user('romeo')
    const dying = otherThan(homeOf('romeo@localhost'))
    const icq = await component(dying)
    await until(() => (homeOf('icq.localhost') === dying ? true : undefined))
    icq.connection.stopReading()
    const body = 'x'.repeat(50_000)
    let sent = 0
    const send = (count: number, text = body): void => { for (let i = 0; i < count; i++) romeo.send(`<message to='1@icq.localhost' type='chat' id='m${sent++}'><body>${text}</body></message>`) }
    send(150)
    await romeo.requestAck(30_000)
    all.kill(dying)
    send(30, 'later')
    await romeo.requestAck(30_000)
    const heir = await component(otherThan(dying))
    send(1)
    const order: number[] = []
    while (order.at(-1) !== sent - 1) {
      const message = await heir.receive(isMessage)
      order.push(Number(message.id?.slice(1)))
    }
    const [first = 0] = order
    expect(order).to.deep.equal(Array.from({ length: sent - first }, (_, i) => first + i))
    // What the network had taken is with the old connection; the rest has come.
    expect(first).to.be.lessThan(150)
    icq.connection.startReading()
    for (let i = 0; i < first; i++) expect((await icq.receive(isMessage)).id).to.equal(`m${i}`)
  })

  it('of which a node dies that is not the home of their domain lose nothing either', async () => {
    await start()
    const romeo = await user('romeo')
    say(romeo, 'early')
    await condition(romeo, 'early')
    const home = homeOf('icq.localhost')
    const dying = otherThan(home, homeOf('romeo@localhost'))
    const icq = await component(dying)
    await until(async () => (await itemsOf(romeo)).includes('icq.localhost') || undefined)
    icq.connection.stopReading()
    const body = 'x'.repeat(50_000)
    for (let i = 0; i < 150; i++) romeo.send(`<message to='1@icq.localhost' type='chat' id='m${i}'><body>${body}</body></message>`)
    await romeo.requestAck(30_000)
    all.kill(dying)
    const heir = await component(home)
    const order: number[] = []
    while (order.at(-1) !== 149) order.push(Number((await heir.receive(isMessage)).id?.slice(1)))
    const [first = 0] = order
    expect(order).to.deep.equal(Array.from({ length: 150 - first }, (_, i) => first + i))
    icq.connection.startReading()
    for (let i = 0; i < first; i++) expect((await icq.receive(isMessage)).id).to.equal(`m${i}`)
  })

  it('of which the home of their domain dies stay, and get each message once', async () => {
    await start()
    const romeo = await user('romeo')
    const home = otherThan(homeOf('romeo@localhost'))
    await all.at(home).node.storage.claim('icq.localhost')
    const icq = await component(otherThan(home, homeOf('romeo@localhost')))
    await until(async () => (await itemsOf(romeo)).includes('icq.localhost') || undefined)
    for (let i = 0; i < 50; i++) say(romeo, `m${i}`)
    await romeo.requestAck(30_000)
    all.kill(home)
    for (let i = 50; i < 60; i++) say(romeo, `m${i}`)
    for (let i = 0; i < 60; i++) expect((await icq.receive(isMessage)).id).to.equal(`m${i}`)
    await romeo.requestAck(30_000)
    expect(await icq.receive(isMessage, 100).catch((error: Error) => error.message)).to.equal('nothing arrived in 100 ms')
  })

  it('that do not come back after their node died have what waited returned', async () => {
    await start('negotiation_timeout: 2 s\n')
    const romeo = await user('romeo')
    const dying = otherThan(homeOf('romeo@localhost'))
    await component(dying)
    await until(() => (homeOf('icq.localhost') === dying ? true : undefined))
    all.kill(dying)
    say(romeo, 'm1')
    expect(await condition(romeo, 'm1')).to.deep.equal(['wait', 'service-unavailable'])
    await until(() => (homeOf('icq.localhost') >= 0 ? true : undefined))
    expect(await all.at(homeOf('icq.localhost')).node.storage.records.range('component-messages', ['icq.localhost'])).to.deep.equal([])
  })

  it('of which a node stops in good order find at another what came meanwhile', async () => {
    await start()
    const romeo = await user('romeo')
    const leaving = otherThan(homeOf('romeo@localhost'))
    await component(leaving)
    await until(() => (homeOf('icq.localhost') === leaving ? true : undefined))
    const stopped = all.stop(leaving)
    const messages: string[] = []
    const timer = setInterval(() => { say(romeo, `m${messages.push('')}`) }, 5)
    await stopped
    clearInterval(timer)
    const icq = await component(otherThan())
    say(romeo, 'last')
    const got: string[] = []
    while (got.at(-1) !== 'last') got.push((await icq.receive(isMessage)).id ?? '')
    expect(romeo.inbox.filter(({ name, type }) => name === 'message' && type === 'error')).to.deep.equal([])
    expect(got.length).to.be.greaterThan(1)
  })

  it('make way for a new connection at another node', async () => {
    await start()
    const old = await component(0)
    await component(1)
    expect(await old.receive().catch((error: unknown) => (error as { condition: string }).condition)).to.equal('conflict')
  })

  it('share a domain over nodes as domain_balancing says', async () => {
    await start('domain_balancing: {icq.localhost: {type: bare_source, component_number: 2}}\n')
    const [romeo, juliet] = [await user('romeo'), await user('juliet')]
    const both = [await component(0), await component(1)]
    const status = (index: number): Promise<string> => all.at(index).site.server.metrics.render()
    await until(async () => ((await status(0)).includes('\ntidings_components 1\n') && (await status(1)).includes('\ntidings_components 1\n')) || undefined)
    await until(() => component(2).then((third) => { third.connection.destroy(); return undefined }, (error: unknown) => (error as { condition?: string }).condition === 'conflict' || undefined))
    const got: string[][] = [[], []]
    for (const [index, one] of both.entries()) one.connection.listen((incoming) => { if (incoming.kind === 'element') got[index]?.push(incoming.stanza.from ?? '') })
    for (const each of [romeo, juliet]) for (let i = 0; i < 5; i++) each.send(`<message to='${i}@icq.localhost' type='chat'><body>hi</body></message>`)
    await until(() => got.flat().length === 10 || undefined)
    for (const each of [romeo, juliet]) expect(got.filter((froms) => froms.includes(each.jid))).to.have.length(1)
    const left = got.findIndex((froms) => froms.includes(romeo.jid))
    both[left]?.connection.destroy()
    await until(async () => (await status(left)).includes('\ntidings_components 0\n') || undefined)
    await until(() => {
      romeo.send("<message to='a@icq.localhost' type='chat'><body>again</body></message>")
      return got[1 - left]?.at(-1) === romeo.jid || undefined
    })
  })
})
