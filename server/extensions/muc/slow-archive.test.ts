/** Rooms whose archives answer later, as those of several nodes do. */
import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'chai'
import { type Client, connect } from '../../../lib/client/client.ts'
import type { Element } from '../../../lib/xml/element.ts'
import { openMemory } from '../../storage/memory/memory.ts'
import type { Storage } from '../../storage/shapes.ts'
import { startTestServer, TEST_CONFIG, type TestServer } from '../../test-server.ts'

const ROOM = 'coven@conference.localhost'
const SLOW = new Set<string | symbol>(['get', 'query', 'count', 'bounds', 'replace'])

describe('a room whose archive answers later', () => {
  let site: TestServer
  let storage: Storage
  let clients: Client[]
  /** What the archive is asked waits for this. */
  let answering: Promise<unknown>

  beforeEach(async () => {
    clients = []
    answering = sleep(5)
    const memory = openMemory()
    const archive = new Proxy(memory.archive, {
      get(target, name) {
        const call = Reflect.get(target, name) as (...args: unknown[]) => unknown
        if (!SLOW.has(name)) return call.bind(target)
        return async (...args: unknown[]): Promise<unknown> => {
          // A query shows what was there when it was asked.
          const answer = name === 'replace' ? undefined : call.apply(target, args)
          await answering
          return name === 'replace' ? call.apply(target, args) : answer
        }
      },
    })
    storage = new Proxy(memory, { get: (target, name) => name === 'archive' ? archive : typeof Reflect.get(target, name) === 'function' ? (Reflect.get(target, name) as () => unknown).bind(target) : Reflect.get(target, name) })
    site = await startTestServer({ storage, config: TEST_CONFIG.replace('mod_mam: { default: always }', 'mod_mam: { default: always }\n  mod_muc: { default_room_options: { mam: true, persistent: true } }'), accounts: { romeo: 'secret', juliet: 'secret' } })
  })
  afterEach(async () => {
    for (const client of clients) client.destroy()
    await site[Symbol.asyncDispose]()
    await storage[Symbol.asyncDispose]()
  })

  async function login(user: string): Promise<Client> {
    const client = await connect({ host: site.host, port: site.port, domain: 'localhost', tls: 'none', user, password: 'secret', resource: 'r' })
    clients.push(client)
    return client
  }

  function ask(client: Client, nick: string): void {
    client.send(`<presence to='${ROOM}/${nick}'><x xmlns='http://jabber.org/protocol/muc'/></presence>`)
  }

  async function enter(client: Client, nick: string): Promise<void> {
    ask(client, nick)
    await client.receive((element) => element.getChild('subject') !== undefined)
  }

  async function open(romeo: Client): Promise<void> {
    await enter(romeo, 'romeo')
    await romeo.sendIq(`<iq type='set' to='${ROOM}'><query xmlns='http://jabber.org/protocol/muc#owner'><x xmlns='jabber:x:data' type='submit'/></query></iq>`)
  }

  async function say(client: Client, text: string): Promise<string> {
    client.send(`<message type='groupchat' to='${ROOM}'><body>${text}</body></message>`)
    const said = await client.receive((element) => element.getChildText('body') === text)
    return said.getChild('stanza-id')?.attrs['id'] as string
  }

  const conditionOf = (element: Element): string | undefined => element.getChild('error')?.getChildElements()[0]?.getName()

  it('§7.2.2 sends who enters what was said before, the subject, and only then what is said meanwhile', async () => {
    const romeo = await login('romeo')
    await open(romeo)
    await say(romeo, 'before')
    const held = Promise.withResolvers<void>()
    answering = held.promise
    const juliet = await login('juliet')
    const heard: string[] = []
    juliet.on((stanza) => {
      if (stanza.name === 'message') heard.push(stanza.element().getChildText('body') ?? 'the subject')
    })
    ask(juliet, 'juliet')
    await romeo.receive((element) => element.attrs['from'] === `${ROOM}/juliet`)
    await say(romeo, 'meanwhile')
    expect(heard).to.deep.equal([])
    held.resolve()
    await juliet.receive((element) => element.getChildText('body') === 'meanwhile')
    await say(romeo, 'after')
    await juliet.receive((element) => element.getChildText('body') === 'after')
    expect(heard).to.deep.equal(['before', 'the subject', 'meanwhile', 'after'])
  })

  it('sends who enters what is said meanwhile also when the archive does not answer', async () => {
    const romeo = await login('romeo')
    await open(romeo)
    answering = Promise.reject(new Error('away'))
    answering.catch(() => undefined)
    const juliet = await login('juliet')
    await enter(juliet, 'juliet')
    await say(romeo, 'hello')
    await juliet.receive((element) => element.getChildText('body') === 'hello')
  })

  it('XEP-0424 takes back an own message and nobody else\'s, and the archive has what is left in its place', async () => {
    const romeo = await login('romeo')
    await open(romeo)
    const juliet = await login('juliet')
    await enter(juliet, 'juliet')
    const id = await say(romeo, 'love')
    juliet.send(`<message type='groupchat' id='no' to='${ROOM}'><retract xmlns='urn:xmpp:message-retract:1' id='${id}'/><store xmlns='urn:xmpp:hints'/></message>`)
    expect(conditionOf(await juliet.receive((element) => element.attrs['id'] === 'no'))).to.equal('forbidden')
    romeo.send(`<message type='groupchat' id='yes' to='${ROOM}'><retract xmlns='urn:xmpp:message-retract:1' id='${id}'/><store xmlns='urn:xmpp:hints'/></message>`)
    await juliet.receive((element) => element.attrs['id'] === 'yes' && element.attrs['type'] === 'groupchat')
    const left = (await storage.archive.get(ROOM, id))?.bytes.toString()
    expect(left).to.contain('<retracted').and.not.contain('love')
  })

  it('XEP-0425 has moderators take back messages, and says so when there is none', async () => {
    const romeo = await login('romeo')
    await open(romeo)
    const juliet = await login('juliet')
    await enter(juliet, 'juliet')
    const id = await say(juliet, 'plague')
    const moderate = (which: string): string => `<iq type='set' to='${ROOM}'><moderate xmlns='urn:xmpp:message-moderate:1' id='${which}'><retract xmlns='urn:xmpp:message-retract:1'/></moderate></iq>`
    await romeo.sendIq(moderate(id))
    await juliet.receive((element) => element.getChild('retract') !== undefined)
    expect((await storage.archive.get(ROOM, id))?.bytes.toString()).to.contain('<retracted').and.not.contain('plague')
    const refused: unknown = await romeo.sendIq(moderate('1k87klvjjftesorqem7u21')).catch((error: unknown) => error)
    expect(String((refused as { condition?: string }).condition ?? refused)).to.contain('item-not-found')
  })

  it('takes the next stanza of a stream after what has to be looked for', async () => {
    const romeo = await login('romeo')
    await open(romeo)
    const id = await say(romeo, 'love')
    const heard: string[] = []
    romeo.on((stanza) => { if (stanza.name === 'message') heard.push(stanza.id ?? '') })
    romeo.send(`<message type='groupchat' id='first' to='${ROOM}'><retract xmlns='urn:xmpp:message-retract:1' id='${id}'/></message>`)
    romeo.send(`<message type='groupchat' id='second' to='${ROOM}'><body>hate</body></message>`)
    await romeo.receive((element) => element.attrs['id'] === 'second')
    expect(heard).to.deep.equal(['first', 'second'])
  })
})
