/** Who may do what at the services by the configuration that we ship, as by ejabberd's example. */
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { expect } from 'chai'
import { type Client, connect, IqError } from '../lib/client/client.ts'
import { ComponentClient } from '../lib/client/component.ts'
import { startTestServer, type TestServer } from '../server/test-server.ts'
import { staged } from './stages.ts'

const MUC = 'http://jabber.org/protocol/muc'
const PUBSUB = 'http://jabber.org/protocol/pubsub'
const ROOM = 'coven@conference.localhost'
const STRANGER = 'puck@component.localhost'

describe('the configuration that is shipped', () => {
  let site: TestServer
  const people: Client[] = []
  let component: ComponentClient
  before(async () => {
    const shipped = await readFile(path.join(import.meta.dirname, '../config/ejabberd-compat.yml'), 'utf8')
    const config = staged(shipped, { client: 0, clientTls: 0, https: 0, component: 0 }).replace('loglevel: debug', 'loglevel: none')
    site = await startTestServer({ config: config.replace('acl:\n', 'acl:\n  admin:\n    user: oberon@localhost\n'), accounts: { oberon: 'secret', romeo: 'secret', juliet: 'secret' } })
    const port = site.server.ports.find(({ module }) => module === 'ejabberd_service')?.port ?? 0
    component = await ComponentClient.connect({ host: '127.0.0.1', port, domain: 'component.localhost', secret: 'sesame' })
  })
  after(async () => {
    for (const person of people) person.destroy()
    component.connection.destroy()
    await site[Symbol.asyncDispose]()
  })

  async function login(user: string): Promise<Client> {
    const client = await connect({ host: site.host, port: site.port, domain: 'localhost', user, password: 'secret' })
    people.push(client)
    return client
  }

  /** The affiliation of who enters a room. */
  async function enters(client: Client, nick: string, room = ROOM): Promise<string | undefined> {
    client.send(`<presence to='${room}/${nick}'><x xmlns='${MUC}'/></presence>`)
    const answer = await client.receive((each) => each.name === 'presence' && each.attrs['from'] === `${room}/${nick}`)
    return answer.getChild('x', `${MUC}#user`)?.getChild('item')?.attrs['affiliation'] ?? answer.toString()
  }

  /** `entered`, or the condition of the error. */
  async function strangerEnters(room: string): Promise<string> {
    component.send(`<presence from='${STRANGER}/x' to='${room}/puck'><x xmlns='${MUC}'/></presence>`)
    const answer = (await component.receive((each) => each.attrs['from'] === `${room}/puck`)).element()
    return answer.attrs['type'] === 'error' ? answer.getChild('error')?.getChildElements()[0]?.getName() ?? '' : 'entered'
  }

  it('has rooms made by its own users, and entered by everybody (access, access_create)', async () => {
    expect(await enters(await login('romeo'), 'first')).to.equal('owner')
    const romeo = people.at(-1) as Client
    await romeo.sendIq(`<iq type='set' to='${ROOM}'><query xmlns='${MUC}#owner'><x xmlns='jabber:x:data' type='submit'/></query></iq>`)
    expect(await enters(await login('juliet'), 'second')).to.equal('none')
    expect(await strangerEnters(ROOM)).to.equal('entered')
    expect(await strangerEnters('another@conference.localhost')).to.equal('not-allowed')
  })

  it('has administrators own every room (access_admin)', async () => {
    expect(await enters(await login('oberon'), 'third')).to.equal('owner')
  })

  it('has nodes of the service made by its own users alone (access_createnode)', async () => {
    const create = (node: string): string => `<pubsub xmlns='${PUBSUB}'><create node='${node}'/></pubsub>`
    const romeo = await login('romeo')
    await romeo.sendIq(`<iq type='set' to='pubsub.localhost'>${create('news')}</iq>`)
    component.send(`<iq type='set' id='c' from='${STRANGER}' to='pubsub.localhost'>${create('theirs')}</iq>`)
    const answer = (await component.receive((each) => each.name === 'iq' && each.id === 'c')).toString()
    expect(answer).to.contain("type='error'").and.contain('<forbidden ')
    const refused = await romeo.sendIq(`<iq type='get' to='pubsub.localhost'><query xmlns='http://jabber.org/protocol/disco#info' node='theirs'/></iq>`).then(() => 'there', (error: unknown) => (error instanceof IqError ? error.condition : String(error)))
    expect(refused).to.equal('item-not-found')
  })
})
