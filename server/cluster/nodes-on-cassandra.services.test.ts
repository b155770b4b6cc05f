/** Two nodes as processes of their own on real Redis and Cassandra, without Kafka. */
import { expect } from 'chai'
import type { Client } from '../../lib/client/client.ts'
import { history, type NodeProcess, PATIENCE_MS, Processes, until, withId } from './processes.fixture.ts'

describe('tidings serve as a node of a cluster on Cassandra', function () {
  this.timeout(400_000)
  let all: Processes
  let nodes: NodeProcess[]

  before(async () => {
    all = await Processes.openOnCassandra()
    // One makes the tables.
    nodes = [await all.start('a')]
    nodes.push(await all.start('b'))
  })
  after(() => all[Symbol.asyncDispose]())
  afterEach(function () {
    if (this.currentTest?.state === 'failed' && process.env['TIDINGS_TEST_LOG'] !== undefined) for (const { name, text } of nodes) console.log(`--- ${name}\n${text}`)
  })

  const say = (client: Client, to: string, id: string): void => { client.send(`<message type='chat' id='${id}' to='${to}@localhost'><body>${id}</body></message>`) }

  it('keeps accounts and history through the death of every node', async () => {
    const romeo = await all.login(nodes[0] as NodeProcess, 'romeo', { register: true, sm: true })
    const juliet = await all.login(nodes[1] as NodeProcess, 'juliet', { register: true })
    const ids = Array.from({ length: 120 }, (_, i) => `m${i}`)
    for (const id of ids) say(romeo, 'juliet', id)
    for (const id of ids) await juliet.receive(withId(id), PATIENCE_MS)
    await romeo.requestAck(PATIENCE_MS)
    const his = await history(romeo)
    expect(his.map(({ text }) => text)).to.deep.equal(ids)
    for (const client of [romeo, juliet]) client.destroy()
    await Promise.all(nodes.map((node) => node.kill()))

    nodes = [await all.start('c')]
    await until(async () => (await all.nodes()).length === 1)
    const back = await all.loginSoon(nodes[0] as NodeProcess, 'juliet')
    expect(await history(back)).to.deep.equal(his)
    say(back, 'romeo', 'after')
    const again = await all.loginSoon(nodes[0] as NodeProcess, 'romeo')
    await again.receive(withId('after'), PATIENCE_MS)
    expect((await history(again)).map(({ text }) => text)).to.deep.equal([...ids, 'after'])
    // What a node that stops has is in Cassandra, none of it in Redis.
    for (const client of [back, again]) await client.disconnect()
    expect(await (nodes[0] as NodeProcess).stop()).to.equal(0)
    nodes = [await all.start('d')]
    const last = await all.login(nodes[0] as NodeProcess, 'romeo')
    expect((await history(last)).map(({ text }) => text)).to.deep.equal([...ids, 'after'])
    await last.disconnect()
  })
})
