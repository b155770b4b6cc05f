import { expect } from 'chai'
import { Jid } from '../../lib/jid.ts'
import { parseElement } from '../../lib/xml/build.ts'
import { makeStanza, type Stanza } from '../../lib/stanza/stanza.ts'
import { StanzaError } from '../../lib/stanza/errors.ts'
import { readStanza } from '../../lib/stanza/read.ts'
import { HostBind2 } from '../host.ts'
import { HookRunner } from '../router/hook-runner.ts'
import type { Delivery } from '../router/hooks.ts'
import type { Session } from '../sessions/session.ts'
import type { IqHandler, IqRequest, Parts } from './extension.ts'
import { carbons } from './carbons.ts'

interface FakeSession { jid: Jid; owner: string; state: Map<string, unknown>; sent: { stanza: Stanza; durable: boolean | undefined }[] }

function setUp() {
  const all: FakeSession[] = []
  const handlers = new Map<string, IqHandler>()
  const hooks = new HookRunner()
  const parts = {
    host: 'montague.example',
    hooks,
    bind2: new HostBind2(),
    iq: { set: (payload: string, _targets: unknown, handler: IqHandler) => handlers.set(payload, handler), get: () => {} },
    sessions: { of: (bare: string) => all.filter((each) => each.owner === bare) },
  } as unknown as Parts
  carbons.start(parts, {})
  const bind = (jid: string, enabled = true): FakeSession => {
    const session = {
      jid: Jid.parse(jid),
      owner: Jid.parse(jid).bare,
      state: new Map<string, unknown>(),
      directed: new Set<string>(),
      directedAt: () => [],
      sent: [] as FakeSession['sent'],
      get(name: string) { return this.state.get(name) },
      set(name: string, value: unknown) { this.state.set(name, value) },
      send(stanza: Stanza, options: { durable?: boolean } = {}) { this.sent.push({ stanza, durable: options.durable }) },
    }
    if (enabled) session.set('carbons', true)
    all.push(session)
    return session
  }
  const deliver = (text: string, changes: Partial<Delivery> = {}): Delivery => {
    const stanza = readStanza(Buffer.from(text))
    const from = Jid.parse(stanza.from as string)
    const to = Jid.parse(stanza.to as string)
    const delivery: Delivery = {
      stanza, from, to,
      session: all.find((each) => each.jid.equals(from)) as unknown as Session | undefined,
      id: '01abc', time: 0,
      fromLocal: from.domain === 'montague.example', toLocal: to.domain === 'montague.example',
      noArchive: false, noCopy: false, noOffline: false, archivedFrom: false, archivedTo: false, durable: false, reached: [],
      ...changes,
    }
    hooks.runCopy(delivery)
    return delivery
  }
  return { bind, deliver, handlers }
}

const BODY = '<body>Neither, fair saint</body>'

describe('carbons (XEP-0280)', () => {
  it('sends the sender\'s other clients a copy (§8)', () => {
    const { bind, deliver } = setUp()
    const home = bind('romeo@montague.example/home')
    const garden = bind('romeo@montague.example/garden')
    const silent = bind('romeo@montague.example/silent', false)
    deliver(`<message from='romeo@montague.example/home' to='juliet@capulet.example' type='chat' id='1'>${BODY}</message>`, { durable: true })
    expect(home.sent).to.deep.equal([])
    expect(silent.sent).to.deep.equal([])
    expect(garden.sent).to.have.length(1)
    expect(garden.sent[0]?.durable).to.equal(true)
    const copy = parseElement(garden.sent[0]?.stanza.bytes() as Buffer)
    expect(copy.attrs).to.include({ from: 'romeo@montague.example', to: 'romeo@montague.example/garden', type: 'chat' })
    const inner = copy.getChild('sent', 'urn:xmpp:carbons:2')?.getChild('forwarded', 'urn:xmpp:forward:0')?.getChild('message', 'jabber:client')
    expect(inner?.attrs).to.include({ from: 'romeo@montague.example/home', to: 'juliet@capulet.example', id: '1' })
    expect(inner?.getChildText('body')).to.equal('Neither, fair saint')
  })

  it('sends a copy to the recipient\'s clients that did not get the message (§7)', () => {
    const { bind, deliver } = setUp()
    const garden = bind('romeo@montague.example/garden')
    const home = bind('romeo@montague.example/home')
    deliver(`<message from='juliet@capulet.example/b' to='romeo@montague.example/garden' type='chat'>${BODY}</message>`, { reached: [garden as unknown as Session] })
    expect(garden.sent).to.deep.equal([])
    expect(home.sent[0]?.stanza.has('received', 'urn:xmpp:carbons:2')).to.equal(true)
    expect(home.sent[0]?.stanza.from).to.equal('romeo@montague.example')
  })

  it('gives each copy the id of its own archive and no other (XEP-0313 §3.5)', () => {
    const { bind, deliver } = setUp()
    const home = bind('romeo@montague.example/home')
    const other = bind('romeo@montague.example/other')
    const nurse = bind('nurse@montague.example/a')
    deliver(`<message from='romeo@montague.example/home' to='nurse@montague.example' type='chat'>${BODY}<stanza-id xmlns='urn:xmpp:sid:0' by='nurse@montague.example' id='01abc'/></message>`, { archivedFrom: true, archivedTo: true })
    expect(home.sent).to.deep.equal([])
    const sent = other.sent[0]?.stanza.toString() ?? ''
    expect(sent).to.contain("<stanza-id xmlns='urn:xmpp:sid:0' by='romeo@montague.example' id='01abc'/>")
    expect(sent).not.to.contain("by='nurse@montague.example'")
    expect(nurse.sent[0]?.stanza.toString()).to.contain("by='nurse@montague.example'")
  })

  it('copies only instant messaging (§6.1)', () => {
    const { bind, deliver } = setUp()
    bind('romeo@montague.example/home')
    const garden = bind('romeo@montague.example/garden')
    const copied = (type: string, children: string, from = 'romeo@montague.example/home', to = 'juliet@capulet.example/b'): boolean => {
      garden.sent.length = 0
      deliver(`<message from='${from}' to='${to}' type='${type}'>${children}</message>`)
      return garden.sent.length === 1
    }
    expect(copied('chat', '')).to.equal(true)
    expect(copied('normal', BODY)).to.equal(true)
    expect(copied('normal', "<received xmlns='urn:xmpp:receipts' id='1'/>")).to.equal(true)
    expect(copied('normal', "<x xmlns='jabber:x:conference' jid='r@c'/>")).to.equal(true)
    expect(copied('normal', "<x xmlns='http://jabber.org/protocol/muc#user'><invite to='a@b'/></x>")).to.equal(true)
    expect(copied('error', '<error/>')).to.equal(true)
    expect(copied('error', "<no-copy xmlns='urn:xmpp:hints'/><error/>"), 'XEP-0334 §5').to.equal(true)
    expect(copied('error', "<private xmlns='urn:xmpp:carbons:2'/><error/>")).to.equal(false)
    expect(copied('normal', "<finish xmlns='urn:example:call'/><store xmlns='urn:xmpp:hints'/>"), 'worth keeping, so worth seeing').to.equal(true)
    expect(copied('normal', '<subject>x</subject>')).to.equal(false)
    expect(copied('groupchat', BODY)).to.equal(false)
    expect(copied('headline', BODY)).to.equal(false)
    expect(copied('chat', `${BODY}<private xmlns='urn:xmpp:carbons:2'/>`)).to.equal(false)
    expect(copied('chat', `${BODY}<no-copy xmlns='urn:xmpp:hints'/>`)).to.equal(false)
    expect(copied('chat', "<received xmlns='urn:xmpp:carbons:2'/>")).to.equal(false)
    const pm = `${BODY}<x xmlns='http://jabber.org/protocol/muc#user'/>`
    expect(copied('chat', pm), 'private message sent').to.equal(true)
    expect(copied('chat', pm, 'room@conference.capulet.example/nick', 'romeo@montague.example/home'), 'private message received').to.equal(false)
  })

  it('copies a note to oneself to each client once', () => {
    const { bind, deliver } = setUp()
    const home = bind('romeo@montague.example/home')
    const reached = bind('romeo@montague.example/reached')
    const away = bind('romeo@montague.example/away')
    deliver(`<message from='romeo@montague.example/home' to='romeo@montague.example' type='chat'>${BODY}</message>`, { reached: [home, reached] as unknown as Session[] })
    expect([home.sent.length, reached.sent.length, away.sent.length]).to.deep.equal([0, 0, 1])
  })

  it('is enabled and disabled by the client, for itself alone (§4, §5)', () => {
    const { bind, handlers } = setUp()
    const home = bind('romeo@montague.example/home', false)
    const request = (to: string, session: FakeSession | undefined): IqRequest => ({
      stanza: makeStanza('iq', {}), payload: parseElement('<a/>'), from: home.jid, to: Jid.parse(to), session: session as unknown as Session | undefined,
    })
    const enable = handlers.get('urn:xmpp:carbons:2 enable') as IqHandler
    expect(enable(request('romeo@montague.example', home))).to.equal(undefined)
    expect(enable(request('montague.example', home))).to.equal(undefined)
    expect(home.state.get('carbons')).to.equal(true)
    expect(() => enable(request('nurse@montague.example', home))).to.throw(StanzaError, 'not-allowed')
    expect(() => enable(request('montague.example', undefined))).to.throw(StanzaError, 'not-allowed')
    void (handlers.get('urn:xmpp:carbons:2 disable') as IqHandler)(request('montague.example', home))
    expect(home.state.get('carbons')).to.equal(undefined)
  })
})
