/** Three nodes as processes of their own on real Redis, Kafka and HBase. */
import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'chai'
import type { Client } from '../../lib/client/client.ts'
import { history, type NodeProcess, PATIENCE_MS, presenceOf, Processes, until, withId } from './processes.fixture.ts'

const ROOM = 'coven@conference.localhost'

describe('tidings serve as a node of a cluster', function () {
  this.timeout(400_000)
  let all: Processes
  let nodes: NodeProcess[]

  before(async () => {
    all = await Processes.open()
    // One makes the tables.
    nodes = [await all.start('a')]
    nodes.push(...await Promise.all(['b', 'c'].map((name) => all.start(name))), await all.startWorker())
  })
  after(() => all[Symbol.asyncDispose]())
  afterEach(function () {
    if (this.currentTest?.state === 'failed' && process.env['TIDINGS_TEST_LOG'] !== undefined) for (const { name, text } of nodes) console.log(`--- ${name}\n${text}`)
  })

  const at = (index: number): NodeProcess => nodes[index] as NodeProcess
  const say = (client: Client, to: string, id: string, more = ''): void => { client.send(`<message type='chat' id='${id}' to='${to}@localhost'><body>${id}</body>${more}</message>`) }

  async function befriend(one: Client, other: Client): Promise<void> {
    one.send(`<presence type='subscribe' to='${other.bare}'/>`)
    await other.receive(presenceOf(one.bare, 'subscribe'), PATIENCE_MS)
    other.send(`<presence type='subscribed' to='${one.bare}'/><presence type='subscribe' to='${one.bare}'/>`)
    await one.receive(presenceOf(other.bare, 'subscribe'), PATIENCE_MS)
    one.send(`<presence type='subscribed' to='${other.bare}'/>`)
    await other.receive(presenceOf(one.jid), PATIENCE_MS)
    await one.receive(presenceOf(other.jid), PATIENCE_MS)
  }

  async function enter(client: Client, nick: string): Promise<void> {
    client.send(`<presence to='${ROOM}/${nick}'><x xmlns='http://jabber.org/protocol/muc'/></presence>`)
    await client.receive((element) => element.getName() === 'message' && element.getChild('subject') !== undefined, PATIENCE_MS)
  }

  /** The place of the node that has a unit. */
  async function homeOf(unit: string): Promise<number> {
    const inc = await all.homeOf(unit)
    return nodes.findIndex((node) => node.inc === inc)
  }

  it('has users of two nodes chat, with carbons, receipts and history that is whole at once', async () => {
    const romeo = await all.login(at(0), 'romeo', { register: true })
    const desk = await all.login(at(0), 'romeo', { resource: 'desk' })
    const juliet = await all.login(at(1), 'juliet', { register: true })
    await desk.sendIq("<iq type='set'><enable xmlns='urn:xmpp:carbons:2'/></iq>")
    for (let i = 0; i < 50; i++) say(romeo, 'juliet', `m${i}`, "<request xmlns='urn:xmpp:receipts'/>")
    for (let i = 0; i < 50; i++) expect((await juliet.receive((element) => element.getName() === 'message', PATIENCE_MS)).attrs['id']).to.equal(`m${i}`)
    juliet.send(`<message id='receipt' to='${romeo.jid}'><received xmlns='urn:xmpp:receipts' id='m49'/></message>`)
    await romeo.receive(withId('receipt'), PATIENCE_MS)
    await desk.receive((element) => element.getChild('sent')?.getChild('forwarded')?.getChild('message')?.attrs['id'] === 'm49', PATIENCE_MS)
    const [his, hers] = [await history(romeo), await history(juliet)]
    expect(his.map(({ text }) => text)).to.deep.equal(Array.from({ length: 50 }, (_, i) => `m${i}`))
    expect(hers).to.deep.equal(his)
    for (const client of [romeo, desk, juliet]) await client.disconnect()
  })

  it('keeps what comes for who is away, and gives it to them at any node', async () => {
    const romeo = await all.login(at(0), 'romeo', { sm: true })
    say(romeo, 'juliet', 'later')
    await romeo.requestAck(PATIENCE_MS)
    const juliet = await all.login(at(2), 'juliet')
    await juliet.receive(withId('later'), PATIENCE_MS)
    await juliet.disconnect()
    const again = await all.login(at(0), 'juliet')
    await again.ping(PATIENCE_MS)
    expect(again.inbox.filter((stanza) => stanza.id === 'later')).to.deep.equal([])
    for (const client of [romeo, again]) await client.disconnect()
  })

  it('shows contacts at other nodes who is there and who goes', async () => {
    const romeo = await all.login(at(1), 'romeo')
    const juliet = await all.login(at(2), 'juliet')
    await befriend(romeo, juliet)
    await juliet.disconnect()
    await romeo.receive(presenceOf('juliet@localhost/r', 'unavailable'), PATIENCE_MS)
    const back = await all.login(at(0), 'juliet')
    await romeo.receive(presenceOf('juliet@localhost/r'), PATIENCE_MS)
    await back.receive(presenceOf(romeo.jid), PATIENCE_MS)
    for (const client of [romeo, back]) await client.disconnect()
  })

  it('resumes at another node what a node had that was killed, and loses and doubles nothing', async () => {
    const juliet = await all.login(at(1), 'juliet', { sm: true })
    const home = await homeOf('juliet@localhost')
    const others = [0, 1, 2].filter((index) => index !== home)
    const romeo = await all.login(at(others[0] as number), 'romeo', { sm: true })
    await until(async () => await homeOf('romeo@localhost') !== home)
    for (let i = 0; i < 30; i++) say(romeo, 'juliet', `k${i}`)
    await juliet.receive(withId('k0'), PATIENCE_MS)
    // It never says that it has got any.
    const state = juliet.resumeState()
    const had = new Set([0, ...juliet.inbox.flatMap(({ id }) => id?.startsWith('k') ? [Number(id.slice(1))] : [])])
    juliet.destroy()
    await at(home).kill()
    for (let i = 30; i < 60; i++) say(romeo, 'juliet', `k${i}`)
    await romeo.requestAck(PATIENCE_MS)
    const back = await all.loginSoon(at(others[1] as number), 'juliet', { resume: { ...state, received: state.received }, presence: '' })
    expect(back.resumed).to.equal(true)
    for (let i = 0; i < 60; i++) if (!had.has(i)) await back.receive(withId(`k${i}`), PATIENCE_MS)
    await back.ping(PATIENCE_MS)
    expect(back.inbox.filter(({ id }) => id?.startsWith('k'))).to.deep.equal([])
    const kept = (await history(back)).filter(({ text }) => text.startsWith('k')).map(({ text }) => text)
    expect(kept).to.deep.equal(Array.from({ length: 60 }, (_, i) => `k${i}`))
    nodes[home] = await all.start(at(home).name)
    for (const client of [romeo, back]) await client.disconnect()
  })

  it('has a room go on elsewhere with those who are in it when its node is killed', async () => {
    // Accounts of their own, which are at home where they are made.
    const clients: Client[] = []
    for (const [index, user] of ['mercutio', 'benvolio', 'tybalt'].entries()) clients.push(await all.login(at(index), user, { register: true }))
    const [owner] = clients as [Client]
    await enter(owner, 'mercutio')
    await owner.sendIq(`<iq type='set' to='${ROOM}'><query xmlns='http://jabber.org/protocol/muc#owner'><x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>http://jabber.org/protocol/muc#roomconfig</value></field><field var='muc#roomconfig_persistentroom'><value>1</value></field><field var='muc#roomconfig_enablearchiving'><value>1</value></field></x></query></iq>`, PATIENCE_MS)
    for (const [index, client] of clients.entries()) if (index > 0) await enter(client, ['mercutio', 'benvolio', 'tybalt'][index] as string)
    const said = (text: string) => (element: { getChildText(name: string): string | null; attrs: Record<string, string | undefined> }): boolean => element.attrs['type'] === 'groupchat' && element.getChildText('body') === text
    owner.send(`<message type='groupchat' to='${ROOM}'><body>before</body></message>`)
    for (const client of clients) await client.receive(said('before'), PATIENCE_MS)
    const home = await homeOf(ROOM)
    // Those who are at home there go with it.
    const homes = await Promise.all(clients.map((client) => homeOf(client.bare)))
    const living = clients.filter((_, index) => homes[index] !== home)
    expect(living).to.have.length(2)
    const [speaker] = living as [Client]
    await at(home).kill()
    // What is said while nobody has the room waits for who takes it.
    speaker.send(`<message type='groupchat' to='${ROOM}'><body>after</body></message>`)
    for (const client of living) await client.receive(said('after'), PATIENCE_MS)
    expect(await homeOf(ROOM)).to.not.be.oneOf([home, -1])
    const kept = (await history(speaker, ROOM)).map(({ text }) => text)
    expect(kept).to.deep.equal(['before', 'after'])
    nodes[home] = await all.start(at(home).name)
    for (const client of living) await client.disconnect()
  })

  it('acknowledges nothing while Redis is away, says so, and loses nothing', async () => {
    const romeo = await all.login(at(0), 'romeo', { sm: true })
    const juliet = await all.login(at(1), 'juliet', { sm: true })
    say(romeo, 'juliet', 'r0')
    await juliet.receive(withId('r0'), PATIENCE_MS)
    // It stands still at first: what is said then is on its way to it.
    all.redis.pause()
    say(romeo, 'juliet', 'r1')
    let isAcknowledged = false
    const acknowledged = romeo.requestAck(PATIENCE_MS * 2).then(() => { isAcknowledged = true })
    await until(async () => !(await at(0).health()).healthy)
    expect((await at(0).health()).storage.problem).to.match(/Redis/)
    await sleep(1000)
    expect(isAcknowledged).to.equal(false)
    expect(juliet.inbox.some(({ id }) => id === 'r1')).to.equal(false)
    await all.redis.kill()
    await all.redis.restart()
    await acknowledged
    await juliet.receive(withId('r1'), PATIENCE_MS)
    await until(async () => (await at(0).health()).healthy && (await at(1).health()).healthy)
    say(romeo, 'juliet', 'r2')
    await juliet.receive(withId('r2'), PATIENCE_MS)
    const kept = (await history(juliet)).filter(({ text }) => /^r\d/.test(text)).map(({ text }) => text)
    expect(kept).to.deep.equal(['r0', 'r1', 'r2'])
  })

  it('is stopped and started again, one node after the other, while people chat: nothing is lost and nothing doubled', async () => {
    const people = await Promise.all(['paris', 'rosaline', 'balthasar'].map(async (user, index) => ({
      user, index, client: await all.loginSoon(at(index), user, { register: true, sm: true }),
    })))
    const counts = new Map<string, number>()
    const sent: string[] = []
    const note = (client: Client): void => {
      const count = ({ name, type, id }: { name: string; type: string | undefined; id: string | undefined }): void => {
        if (name === 'message' && type === 'chat') counts.set(`${id} ${client.bare}`, (counts.get(`${id} ${client.bare}`) ?? 0) + 1)
      }
      for (const stanza of client.inbox) count(stanza)
      client.on(count)
    }
    let isOver = false
    for (const person of people) note(person.client)
    const chatting = people.map(async (person, i) => {
      const { user } = people[(i + 1) % people.length] as { user: string }
      for (let n = 0; !isOver; n++) {
        // Its node is gone: it resumes where there is one.
        if (person.client.ended) {
          const resume = person.client.resumeState()
          person.index = (person.index + 1) % 3
          const next: Client | undefined = await all.login(at(person.index), person.user, { resume, presence: '' }).catch(() => undefined)
          if (next === undefined) {
            await sleep(200)
            continue
          }
          expect(next.resumed).to.equal(true)
          note(next)
          person.client = next
        }
        const id = `${person.user}-${n}`
        sent.push(`${id} ${user}@localhost`)
        person.client.send(`<message type='chat' id='${id}' to='${user}@localhost'><body>${id}</body></message>`)
        await sleep(20)
      }
    })
    for (const index of [0, 1, 2]) {
      await sleep(1000)
      expect(await at(index).stop(), at(index).text).to.equal(0)
      nodes[index] = await all.start(at(index).name)
    }
    await sleep(1000)
    isOver = true
    await Promise.all(chatting)
    for (const person of people) {
      if (person.client.ended) note(person.client = await all.loginSoon(at(0), person.user, { resume: person.client.resumeState(), presence: '' }))
      await person.client.requestAck(PATIENCE_MS)
    }
    await until(() => sent.every((key) => counts.has(key)))
    for (const { client } of people) await client.ping(PATIENCE_MS)
    expect(sent.filter((key) => counts.get(key) !== 1)).to.deep.equal([])
    for (const { client, user } of people) {
      const kept = (await history(client)).map(({ text }) => text)
      const mine = [...sent.filter((key) => key.endsWith(` ${client.bare}`)), ...sent.filter((key) => key.startsWith(`${user}-`))].map((key) => key.split(' ')[0] as string)
      expect(kept).to.have.members(mine)
    }
  })
})
