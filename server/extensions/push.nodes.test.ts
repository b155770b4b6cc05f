/** Push notifications (XEP-0357) of accounts whose node has gone. */
import { expect } from 'chai'
import type { Client } from '../../lib/client/client.ts'
import type { ComponentClient } from '../../lib/client/component.ts'
import { Machines, withComponents } from '../cluster/machines.fixture.ts'
import { until } from '../cluster/sites.fixture.ts'

const USERS = ['romeo', 'juliet', 'mercutio']

describe('push notifications of several nodes', () => {
  let all: Machines
  afterEach(() => all[Symbol.asyncDispose]())

  async function start(keepalive: string): Promise<void> {
    all = await Machines.start(3, withComponents('hosts: {push.localhost: {password: sesame}}', `  mod_push: {}\n  mod_push_keepalive: ${keepalive}\n`), USERS)
  }
  /** Answers all requests; collects the nodes that they are for. */
  function appServer(component: ComponentClient): string[] {
    const woken: string[] = []
    component.connection.listen((incoming) => {
      if (incoming.kind !== 'element' || incoming.stanza.name !== 'iq') return
      const { stanza } = incoming
      woken.push(stanza.element().getChild('pubsub')?.getChild('publish')?.attrs['node'] ?? '')
      component.send(`<iq type='result' id='${stanza.id}' from='${stanza.to}' to='${stanza.from}'/>`)
    })
    return woken
  }
  const enable = (client: Client, node: string): Promise<unknown> => client.sendIq(`<iq type='set'><enable xmlns='urn:xmpp:push:0' jid='push.localhost' node='${node}'/></iq>`)
  const pause = (): Promise<void> => new Promise((resolve) => { setTimeout(resolve, 300) })

  it('wake the clients of an account whose node has died, once each, though nobody asks for it', async () => {
    await start('{ wake_on_start: true }')
    const clients: Client[] = []
    for (const name of USERS) clients.push(await all.user(name))
    const homes = USERS.map((name) => all.homeOf(`${name}@localhost`))
    for (const [index, client] of clients.entries()) if (index < 2) for (const device of ['phone', 'tablet']) await enable(client, `${USERS[index]} ${device}`)
    // All were made at one node, and are there as long as they are logged in.
    expect(new Set(homes).size).to.equal(1)
    const woken = appServer(await all.component(all.otherThan(homes[0] as number), 'push.localhost'))
    const dying = homes[0] as number
    all.kill(dying)
    await until(() => (woken.length >= 4 ? true : undefined))
    await pause()
    expect(woken.toSorted()).to.deep.equal(['juliet phone', 'juliet tablet', 'romeo phone', 'romeo tablet'])
    // What comes to a node that is there, or goes from one to another, wakes nobody.
    await all.join()
    const again = await all.user('romeo')
    await enable(again, 'romeo phone')
    await pause()
    expect(woken).to.have.length(4)
    all.kill(all.homeOf('romeo@localhost'))
    await until(() => (woken.filter((node) => node.startsWith('romeo')).length >= 4 ? true : undefined))
  })

  it('wake those of all accounts when all nodes were gone', async () => {
    await start('{ wake_on_start: true }')
    for (const name of USERS) await enable(await all.user(name), name)
    for (const index of [0, 1, 2]) await all.stop(index)
    const first = await all.join()
    const woken = appServer(await all.component(first, 'push.localhost'))
    await until(() => (woken.length >= 3 ? true : undefined))
    await pause()
    expect(woken.toSorted()).to.deep.equal(USERS.toSorted())
  })

  it('wake nobody unless that is configured, nor an account that comes from a node that is there', async () => {
    await start('{}')
    await enable(await all.user('romeo'), 'romeo')
    const home = all.homeOf('romeo@localhost')
    const woken = appServer(await all.component(all.otherThan(home), 'push.localhost'))
    all.kill(home)
    await pause()
    expect(woken).to.deep.equal([])
  })

  it('wake nobody when an account comes from a node that is there', async () => {
    await start('{ wake_on_start: true }')
    const romeo = await all.user('romeo')
    await enable(romeo, 'romeo')
    const woken = appServer(await all.component(1, 'push.localhost'))
    await romeo.disconnect()
    const home = all.homeOf('romeo@localhost')
    await until(() => (all.homeOf('romeo@localhost') === -1 ? true : undefined))
    expect(await all.at(all.otherThan(home)).node.storage.claim('romeo@localhost')).to.equal(all.at(all.otherThan(home)).node.inc)
    await pause()
    expect(woken).to.deep.equal([])
  })
})
