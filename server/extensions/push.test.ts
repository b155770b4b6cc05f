import { mock } from 'node:test'
import { expect } from 'chai'
import { connect, type Client } from '../../lib/client/client.ts'
import { nextMessageId } from '../../lib/stanza/ids.ts'
import { type Stanza, makeStanza } from '../../lib/stanza/stanza.ts'
import type { Element } from '../../lib/xml/element.ts'
import type { Session } from '../sessions/session.ts'
import { startTestServer, TEST_CONFIG } from '../test-server.ts'
import { conditionOf, fakeParts, stanza } from './fake-parts.ts'
import { push, pushKeepalive } from './push.ts'

const NS = 'urn:xmpp:push:0'
const JULIET = 'juliet@example.net'
const BALCONY = `${JULIET}/balcony`
const APP = 'push.example.org'
const FORM = "<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>http://jabber.org/protocol/pubsub#publish-options</value></field><field var='secret'><value>eruio</value></field></x>"
const enable = (node: string, form = ''): string => `<enable xmlns='${NS}' jid='${APP}' node='${node}'>${form}</enable>`
const ID = (last: string): string => `0abcdefgh00000000000${last}`.padEnd(22, '0')
const body = (text: string): string => `<body>${text}</body>`

function message(content: string, attrs = "type='chat'"): Stanza {
  return stanza(`<message xmlns='jabber:client' ${attrs} from='romeo@example.org/garden' to='${JULIET}'>${content}</message>`)
}

describe('XEP-0357 push notifications', () => {
  function started(options: Record<string, unknown> = {}) {
    const fake = fakeParts()
    fake.start(push, options)
    /** The requests to app servers so far, once commits are done. */
    const published = async (): Promise<Element[]> => {
      await fake.storage.committed()
      return fake.routed.filter((each) => each.name === 'iq').map((each) => each.element())
    }
    const answer = (request: Element, error?: string): void => {
      const reply = stanza(`<iq xmlns='jabber:client' type='${error === undefined ? 'result' : 'error'}' id='${request.attrs['id']}' from='${request.attrs['to']}' to='example.net'>${error ?? ''}</iq>`)
      fake.pending.answered(reply)
    }
    return { fake, published, answer }
  }
  const field = (request: Element | undefined, name: string): string | undefined => request?.getChild('pubsub')?.getChild('publish')?.getChild('item')?.getChild('notification', NS)
    ?.getChild('x')?.getChildren('field').find((each) => each.attrs['var'] === name)?.getChild('value')?.text()
  const nodes = (requests: readonly Element[]): (string | undefined)[] => requests.map((each) => each.getChild('pubsub')?.getChild('publish')?.attrs['node'])

  it('§4.1: is a feature of the account', () => {
    const { fake } = started()
    expect(fake.disco.ownInfo('account').getChildren('feature').map((each) => each.attrs['var'])).to.include(NS)
  })

  it('§5, §7: a stored message is published from the host, with the options of the client', async () => {
    const { fake, published } = started()
    expect((await fake.ask(BALCONY, 'set', enable('n1', FORM))).attrs['type']).to.equal('result')
    fake.parts.waiting(JULIET, message(body('secret')), ID('1'))
    const [request, more] = await published()
    expect(more).to.equal(undefined)
    expect([request?.attrs['from'], request?.attrs['to'], request?.attrs['type']]).to.deep.equal(['example.net', APP, 'set'])
    expect(nodes([request as Element])).to.deep.equal(['n1'])
    expect([field(request, 'message-count'), field(request, 'last-message-body'), field(request, 'last-message-sender')]).to.deep.equal(['1', 'New message', undefined])
    const options = request?.getChild('pubsub')?.getChild('publish-options')?.getChild('x', 'jabber:x:data')?.getChildren('field') ?? []
    expect(options.map((each) => each.getChildText('value'))).to.deep.equal(['http://jabber.org/protocol/pubsub#publish-options', 'eruio'])
  })

  it('is not sent before the message is on stable storage', async () => {
    const { fake, published } = started()
    await fake.ask(BALCONY, 'set', enable('n1'))
    fake.parts.waiting(JULIET, message(body('hi')), ID('1'))
    expect(fake.routed).to.deep.equal([])
    expect(await published()).to.have.length(1)
  })

  it('§5: the last of equal requests counts; other nodes stand beside', async () => {
    const { fake, published } = started()
    await fake.ask(BALCONY, 'set', enable('n1', FORM))
    await fake.ask(BALCONY, 'set', enable('n1'))
    await fake.ask(`${JULIET}/tablet`, 'set', enable('n2'))
    fake.parts.waiting(JULIET, message(body('hi')), ID('1'))
    const requests = await published()
    expect(nodes(requests)).to.deep.equal(['n1', 'n2'])
    expect(requests[0]?.getChild('pubsub')?.getChild('publish-options')).to.equal(undefined)
  })

  it('§5: refuses what is malformed, and strangers', async () => {
    const { fake } = started()
    expect(conditionOf(await fake.ask(BALCONY, 'set', `<enable xmlns='${NS}' node='n'/>`))).to.equal('bad-request')
    expect(conditionOf(await fake.ask(BALCONY, 'set', `<disable xmlns='${NS}'/>`))).to.equal('bad-request')
    expect(conditionOf(await fake.ask(BALCONY, 'set', `<enable xmlns='${NS}' jid='@'/>`))).to.equal('jid-malformed')
    expect(conditionOf(await fake.ask(BALCONY, 'set', enable('n', "<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>other</value></field></x>")))).to.equal('bad-request')
    expect(conditionOf(await fake.ask('romeo@example.org/x', 'set', enable('n'), JULIET))).to.equal('forbidden')
    expect(await fake.storage.records.range('push', [])).to.deep.equal([])
  })

  it('§6: a node, or all of a service', async () => {
    const { fake, published } = started()
    for (const node of ['n1', 'n2', 'n3']) await fake.ask(BALCONY, 'set', enable(node))
    await fake.ask(BALCONY, 'set', `<disable xmlns='${NS}' jid='${APP}' node='n2'/>`)
    fake.parts.waiting(JULIET, message(body('hi')), ID('1'))
    expect(nodes(await published())).to.deep.equal(['n1', 'n3'])
    await fake.ask(BALCONY, 'set', `<disable xmlns='${NS}' jid='${APP}'/>`)
    fake.parts.waiting(JULIET, message(body('hi')), ID('2'))
    expect(await published()).to.have.length(2)
  })

  it('announces a message once, also when it comes back from a session that is over', async () => {
    const { fake, published } = started()
    await fake.ask(BALCONY, 'set', enable('n1'))
    fake.parts.waiting(JULIET, message(body('hi')), ID('2'))
    fake.parts.waiting(JULIET, message(body('hi')), ID('2'))
    fake.parts.waiting(JULIET, message(body('before')), ID('1'))
    expect(await published()).to.have.length(1)
    fake.parts.waiting(JULIET, message(body('next')), ID('3'))
    expect(field((await published())[1], 'message-count')).to.equal('2')
  })

  it('announces what a session queues to its own device alone, and nothing to devices that are there', async () => {
    const { fake, published } = started()
    const phone = fake.login(BALCONY)
    fake.login(`${JULIET}/tablet`)
    await fake.ask(BALCONY, 'set', enable('phone'))
    await fake.ask(`${JULIET}/tablet`, 'set', enable('tablet'))
    fake.parts.waiting(JULIET, message(body('hi')), ID('1'))
    expect(await published()).to.deep.equal([])
    phone.connected = false
    fake.hooks.runWaiting(JULIET, message(body('hi')), ID('2'), phone as unknown as Session)
    expect(nodes(await published())).to.deep.equal(['phone'])
  })

  it('tells a device without a session of what another device was sent, if the archive has it', async () => {
    const { fake, published } = started()
    await fake.ask(BALCONY, 'set', enable('gone'))
    const desktop = fake.login(`${JULIET}/desktop`)
    const delivery = fake.delivery(`<message xmlns='jabber:client' type='chat' from='romeo@example.org/x' to='${JULIET}'>${body('hi')}</message>`)
    delivery.reached = [desktop as unknown as Session]
    fake.hooks.runCopy(delivery)
    expect(await published()).to.deep.equal([])
    delivery.archivedTo = true
    fake.hooks.runCopy(delivery)
    expect(nodes(await published())).to.deep.equal(['gone'])
  })

  it('a group message that nobody of the account was in the room for, by its text alone and once', async () => {
    const { fake, published } = started({ include_sender: true })
    await fake.ask(BALCONY, 'set', enable('gone'))
    fake.login(`${JULIET}/desktop`)
    const spoken = (content: string): Stanza => stanza(`<message xmlns='jabber:client' type='groupchat' from='coven@rooms.example.net/Hecate' to='${JULIET}'>${content}<stanza-id xmlns='urn:xmpp:sid:0' by='coven@rooms.example.net' id='${nextMessageId()}'/></message>`)
    const said = spoken(body('hi'))
    const nobody = (): boolean => false
    fake.parts.router.missed(JULIET, spoken("<displayed xmlns='urn:xmpp:chat-markers:0' id='1'/>"), nobody)
    fake.parts.router.missed(JULIET, said, nobody)
    fake.parts.router.missed(JULIET, said, nobody)
    const requests = await published()
    expect(nodes(requests)).to.deep.equal(['gone'])
    expect(field(requests[0], 'last-message-sender')).to.equal('coven@rooms.example.net/Hecate')
  })

  it('a group message on devices that are away while another is in the room, and none of the user\'s own', async () => {
    const { fake, published } = started()
    const [inside, outside, here] = ['inside', 'outside', 'here'].map((name) => fake.login(`${JULIET}/${name}`))
    for (const name of ['inside', 'outside', 'here', 'gone']) await fake.ask(`${JULIET}/${name}`, 'set', enable(name))
    Object.assign(inside as object, { connected: false })
    Object.assign(outside as object, { connected: false })
    inside?.directed.add('coven@rooms.example.net/juliet')
    const said = (nick: string): Stanza => stanza(`<message xmlns='jabber:client' type='groupchat' from='coven@rooms.example.net/${nick}' to='${JULIET}'>${body('hi')}<stanza-id xmlns='urn:xmpp:sid:0' by='coven@rooms.example.net' id='${nextMessageId()}'/></message>`)
    const first = said('Hecate')
    fake.parts.router.missed(JULIET, first, (session) => session === (inside as unknown) || session === (here as unknown))
    expect(nodes(await published())).to.deep.equal(['outside', 'gone'])
    fake.hooks.runWaiting(JULIET, first, undefined, inside as unknown as Session)
    expect(nodes(await published())).to.deep.equal(['outside', 'gone', 'inside'])
    fake.hooks.runWaiting(JULIET, said('juliet'), undefined, inside as unknown as Session)
    expect(await published()).to.have.length(3)
  })

  it('what waited when the server was stopped, after it has started again', async () => {
    const { fake, published } = started()
    const phone = fake.login(BALCONY)
    await fake.ask(BALCONY, 'set', enable('n1'))
    Object.assign(phone, { connected: false, management: { queue: [{ stanza: message(body('one')), id: ID('1') }] } })
    fake.hooks.runStarted()
    fake.hooks.runStarted()
    expect(await published()).to.have.length(1)
  })

  it('what was under way when the connection was lost', async () => {
    const { fake, published } = started()
    const phone = fake.login(BALCONY)
    await fake.ask(BALCONY, 'set', enable('n1'))
    const queue = [{ stanza: message(body('one')), id: ID('1') }, { stanza: makeStanza('presence', {}), id: undefined }]
    Object.assign(phone, { connected: false, management: { queue } })
    fake.hooks.runDetached(phone as unknown as Session)
    fake.hooks.runDetached(phone as unknown as Session)
    expect(await published()).to.have.length(1)
    queue.length = 0
  })

  it('an inactive client that does not acknowledge in time, and none that does', async () => {
    for (const acknowledges of [false, true]) {
      const { fake, published } = started()
      const phone = fake.login(BALCONY)
      await fake.ask(BALCONY, 'set', enable('n1'))
      const queue = [{ stanza: message(body('one')), id: ID('1') }]
      Object.assign(phone, { active: false, management: { queue } })
      mock.timers.enable({ apis: ['setTimeout'] })
      try {
        fake.hooks.runWaiting(JULIET, message(body('one')), ID('1'), phone as unknown as Session)
        if (acknowledges) queue.length = 0
        mock.timers.tick(10_000)
      } finally {
        mock.timers.reset()
      }
      expect(await published()).to.have.length(acknowledges ? 0 : 1)
    }
  })

  it('§7.1: an error ends the registration, but not one that may pass', async () => {
    for (const [error, left] of [["<error type='cancel'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>", 0], ["<error type='cancel'><remote-server-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>", 1], [undefined, 1]] as const) {
      const { fake, published, answer } = started()
      await fake.ask(BALCONY, 'set', enable('n1'))
      fake.parts.waiting(JULIET, message(body('hi')), ID('1'))
      answer((await published())[0] as Element, error)
      await new Promise(setImmediate)
      expect(await fake.storage.records.range('push', [JULIET]), error).to.have.length(left)
      fake.parts.waiting(JULIET, message(body('hi')), ID('2'))
      expect(await published(), error).to.have.length(1 + left)
    }
  })

  it('§7.1: an app server that fails for long is given up', async () => {
    const { fake, published, answer } = started()
    await fake.ask(BALCONY, 'set', enable('n1'))
    for (let at = 0; at < 20; at++) {
      fake.parts.waiting(JULIET, message(body('hi')), ID(String.fromCharCode(97 + at)))
      answer((await published()).at(-1) as Element, "<error type='wait'><remote-server-timeout xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>")
      await new Promise(setImmediate)
      fake.clock.now += 86_400_000
      expect(await fake.storage.records.range('push', [JULIET]), String(at)).to.have.length(at < 19 ? 1 : 0)
    }
  })

  it('§7.3: an app server that takes its permission back', async () => {
    const { fake } = started()
    await fake.ask(BALCONY, 'set', enable('n1'))
    const revoke = (from: string): void => fake.hooks.runIncoming(fake.delivery(`<message xmlns='jabber:client' from='${from}' to='${JULIET}'><pubsub xmlns='http://jabber.org/protocol/pubsub' node='n1'><affiliation jid='${JULIET}' affiliation='none'/></pubsub></message>`))
    revoke('evil.example.org')
    expect(await fake.storage.records.range('push', [])).to.have.length(1)
    revoke(APP)
    expect(await fake.storage.records.range('push', [])).to.deep.equal([])
  })

  it('shows sender and text as configured, and of an encrypted message neither text nor cipher', async () => {
    const show = async (options: Record<string, unknown>, content: string): Promise<(string | undefined)[]> => {
      const { fake, published } = started(options)
      await fake.ask(BALCONY, 'set', enable('n1'))
      fake.parts.waiting(JULIET, message(content), ID('1'))
      const [request] = await published()
      expect(request?.toString()).not.to.contain('CIPHER')
      return [field(request, 'last-message-sender'), field(request, 'last-message-body')]
    }
    const all = { include_sender: true, include_body: true }
    const omemo = `<encrypted xmlns='eu.siacs.conversations.axolotl'><payload>CIPHER</payload></encrypted>${body('I sent you an OMEMO message')}`
    expect(await show(all, body('Wherefore'))).to.deep.equal(['romeo@example.org', 'Wherefore'])
    expect(await show(all, omemo)).to.deep.equal(['romeo@example.org', 'New message'])
    expect(await show({ include_body: 'Something' }, omemo)).to.deep.equal([undefined, 'Something'])
    expect(await show({ include_body: false }, body('Wherefore'))).to.deep.equal([undefined, undefined])
  })

  it('announces what matters, and calls with high priority', async () => {
    const priority = async (options: Record<string, unknown>, content: string, attrs?: string): Promise<string | undefined> => {
      const { fake, published } = started(options)
      await fake.ask(BALCONY, 'set', enable('n1'))
      fake.parts.waiting(JULIET, message(content, attrs), ID('1'))
      return (await published())[0]?.getChild('pubsub')?.getChild('publish')?.getChild('item')?.getChild('notification', NS)?.getChildText('priority') ?? undefined
    }
    const call = "<propose xmlns='urn:xmpp:jingle-message:0' id='1'/>"
    const receipt = "<received xmlns='urn:xmpp:receipts' id='1'/>"
    expect(await priority({ notify_on: 'messages' }, call)).to.equal('high')
    expect(await priority({ notify_on: 'messages' }, body('hi'))).to.equal('high')
    expect(await priority({ notify_on: 'messages' }, receipt)).to.equal(undefined)
    expect(await priority({ notify_on: 'all' }, receipt)).to.equal('low')
    expect(await priority({ notify_on: 'all' }, "<composing xmlns='http://jabber.org/protocol/chatstates'/>")).to.equal(undefined)
    expect(await priority({ notify_on: 'all' }, body('hi'), "type='error'")).to.equal(undefined)
    expect(await priority({ notify_on: 'all' }, "<event xmlns='http://jabber.org/protocol/pubsub#event'/>", "type='headline'")).to.equal(undefined)
  })

  it('mod_push_keepalive: a session waits long until there is something, and its client is woken before it ends', async () => {
    const { fake, published } = started()
    fake.start(pushKeepalive, { resume_timeout: 3_600_000 })
    const phone = fake.login(BALCONY) as ReturnType<typeof fake.login> & { waitMs?: number | undefined; detachedAt?: number; management?: object }
    await fake.ask(BALCONY, 'set', enable('n1'))
    Object.assign(phone, { connected: false, detachedAt: fake.clock.now, management: { queue: [], resumeMs: 300_000 } })
    fake.hooks.runDetached(phone as unknown as Session)
    expect(phone.waitMs).to.equal(3_600_000)
    const check = fake.tasks.at(-1) as () => void
    fake.clock.now += 3_400_000
    check()
    expect(await published()).to.deep.equal([])
    fake.clock.now += 100_000
    check()
    check()
    expect(await published()).to.have.length(1)
    fake.hooks.runWaiting(JULIET, message(body('hi')), ID('1'), phone as unknown as Session)
    expect(phone.waitMs).to.equal(3_500_000 + 300_000)
  })

  it('keeps at most 20 registrations of an account, the latest', async () => {
    const { fake } = started()
    for (let at = 0; at < 21; at++) {
      fake.clock.now++
      await fake.ask(BALCONY, 'set', enable(`n${at}`))
    }
    const kept = (await fake.storage.records.range('push', [JULIET])).map(({ key }) => key[2])
    expect(kept).to.have.length(20)
    expect(kept).not.to.include('n0')
  })
})

describe('XEP-0357 on a whole server', () => {
  const accounts = { juliet: 'pw', romeo: 'pw', app: 'pw' }
  const isPublish = (element: Element): boolean => element.attrs['type'] === 'set' && element.getChild('pubsub') !== undefined

  it('an offline account, a session that waits for resumption, and the same after a restart', async () => {
    await using test = await startTestServer({ accounts, config: TEST_CONFIG.replace('  mod_ping: {}', '  mod_ping: {}\n  mod_push: {}') })
    const open = (user: string, more: object = {}): Promise<Client> => connect({ host: test.host, port: test.tlsPort, domain: test.domain, tls: 'direct', user, password: 'pw', ...more })
    const appServer = async (): Promise<Client> => {
      const app = await open('app', { resource: 'push' })
      app.on((each) => {
        if (each.name === 'iq' && each.type === 'set') app.send(`<iq type='result' id='${each.id}' to='${each.from}'/>`)
      })
      return app
    }
    let app = await appServer()
    let romeo = await open('romeo')
    const phone = await open('juliet', { sm: true })
    phone.send('<presence/>')
    await phone.sendIq(`<iq type='set' id='e'><enable xmlns='${NS}' jid='app@localhost/push' node='phone'/></iq>`)
    const state = phone.resumeState()
    phone.destroy()
    romeo.send("<message to='juliet@localhost' type='chat'><body>one</body></message>")
    expect((await app.receive(isPublish)).getChild('pubsub')?.getChild('publish')?.attrs['node']).to.equal('phone')
    await test.restart()
    app = await appServer()
    romeo = await open('romeo')
    romeo.send("<message to='juliet@localhost' type='chat'><body>two</body></message>")
    expect((await app.receive(isPublish)).toString(), 'what waited was announced before').to.contain('>2<')
    const back = await open('juliet', { resume: state })
    await back.receive((each) => each.getChildText('body') === 'two')
    await back.disconnect()
    romeo.send("<message to='juliet@localhost' type='chat'><body>three</body></message>")
    expect((await app.receive(isPublish)).toString(), 'counts anew since the client was there').to.contain('>1<')
    await romeo.disconnect()
    await app.disconnect()
  })
})
