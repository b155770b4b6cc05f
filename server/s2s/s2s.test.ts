/** Servers that talk to each other (RFC 6120, XEP-0178, XEP-0220). */
import { expect } from 'chai'
import type { Client } from '../../lib/client/client.ts'
import { createAdmin } from '../admin/admin.ts'
import { until, World } from './federation.fixture.ts'

const isMessage = (id: string) => ({ attrs }: { attrs: Record<string, string | undefined> }): boolean => attrs['id'] === id

describe('federation', () => {
  let world: World
  beforeEach(async () => { world = await World.begin() })
  afterEach(async () => { await world[Symbol.asyncDispose]() })

  for (const [how, options] of Object.entries({
    'dialback, without TLS': { options: 's2s_use_starttls: false' },
    'dialback over TLS': {},
    'certificates of the domains alone': { options: 's2s_use_starttls: required', modules: '', certified: true },
    'certificates, in both directions of one stream': { modules: 'mod_s2s_bidi: {}', certified: true },
    'dialback, in both directions of one stream': { modules: 'mod_s2s_bidi: {}\nmod_s2s_dialback: {}' },
  })) {
    it(`messages go to another server and back by ${how}`, async () => {
      const [a, b] = [await world.site('a.test', options), await world.site('b.test', options)]
      const [romeo, juliet] = [await a.login('romeo'), await b.login('juliet')]
      juliet.send('<presence/>')
      romeo.send(`<message to='juliet@b.test' type='chat' id='m1'><body>Art thou there?</body></message>`)
      const message = await juliet.receive(isMessage('m1'))
      expect([message.attrs['from'], message.getChildText('body')]).to.deep.equal([romeo.jid, 'Art thou there?'])
      juliet.send(`<message to='${romeo.jid}' type='chat' id='m2'><body>Ay me</body></message>`)
      expect((await romeo.receive(isMessage('m2'))).attrs['from']).to.equal(juliet.jid)
      const version = await romeo.sendIq("<iq type='get' id='v' to='b.test'><query xmlns='jabber:iq:version'/></iq>")
      expect(version.getChild('query', 'jabber:iq:version')?.getChildText('name')).to.equal('Tidings')
      await until(() => a.test.server.federation.outgoing().length + b.test.server.federation.outgoing().length > 0)
    })
  }

  /** The condition of the error that answers this stanza. */
  async function refusal(client: Client, stanza: string, id: string): Promise<string> {
    client.send(stanza)
    const error = await client.receive(({ attrs }) => attrs['id'] === id && attrs['type'] === 'error')
    return error.getChild('error')?.getChildElements()[0]?.getName() ?? ''
  }

  it('what cannot be delivered comes back with the reason: no such server, or no answer (RFC 6120 §8.3.3.16, §8.3.3.17)', async () => {
    const a = await world.site('a.test')
    const romeo = await a.login()
    expect(await refusal(romeo, "<message to='x@nowhere.test' id='m1'><body>Hi</body></message>", 'm1')).to.equal('remote-server-not-found')
    expect(await refusal(romeo, "<iq to='x@nowhere.test' id='q1' type='get'><ping xmlns='urn:xmpp:ping'/></iq>", 'q1')).to.equal('remote-server-not-found')
    world.list('refusing.test', 1)
    expect(await refusal(romeo, "<message to='x@refusing.test' id='m2'><body>Hi</body></message>", 'm2')).to.equal('remote-server-timeout')
    await world.server('silent.test', () => {})
    const got: (string | undefined)[] = []
    romeo.on(({ id }) => got.push(id))
    // Presence is nobody's mistake, nor are errors and results.
    romeo.send("<presence to='x@nowhere.test' id='p1'/><message to='x@nowhere.test' id='e1' type='error'><error type='cancel'><gone xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message><iq to='x@nowhere.test' id='r1' type='result'/>")
    await romeo.ping()
    await new Promise((resolve) => { setTimeout(resolve, 50) })
    await romeo.ping()
    expect(got).to.not.include.members(['p1', 'e1', 'r1'])
  })

  it('a server that says nothing is not waited for without end', async () => {
    const a = await world.site('a.test', { options: 'tidings: { limits: { remote_answer: 100 ms } }' })
    await world.server('silent.test', () => {})
    expect(await refusal(await a.login(), "<message to='x@silent.test' id='m1'><body>Hi</body></message>", 'm1')).to.equal('remote-server-timeout')
  })

  it('a server that could not be reached is not tried anew for each stanza', async () => {
    const a = await world.site('a.test')
    const { connections } = await world.server('closing.test', (peer) => { peer.destroy() })
    const romeo = await a.login()
    for (const id of ['m1', 'm2', 'm3']) expect(await refusal(romeo, `<message to='x@closing.test' id='${id}'><body>Hi</body></message>`, id)).to.equal('remote-server-timeout')
    expect(connections).to.have.length(1)
  })

  it('what waits for one server is bounded', async () => {
    const a = await world.site('a.test', { options: 'tidings: { limits: { remote_queue_stanzas: 2 } }' })
    await world.server('silent.test', () => {})
    const romeo = await a.login()
    romeo.send("<message to='x@silent.test' id='m1'><body>1</body></message><message to='x@silent.test' id='m2'><body>2</body></message>")
    expect(await refusal(romeo, "<message to='x@silent.test' id='m3'><body>3</body></message>", 'm3')).to.equal('resource-constraint')
  })

  it('several domains of both servers share one stream (XEP-0220 §2.6)', async () => {
    const [a, b] = [await world.site('a.test'), await world.site('b.test')]
    const romeo = await a.login()
    await romeo.sendIq("<iq type='get' id='v1' to='b.test'><ping xmlns='urn:xmpp:ping'/></iq>")
    // A service of theirs, and one of ours, each in turn.
    romeo.send("<presence to='coven@conference.b.test/romeo'><x xmlns='http://jabber.org/protocol/muc'/></presence>")
    await romeo.receive(({ attrs }) => attrs['from'] === 'coven@conference.b.test/romeo')
    const juliet = await b.login('juliet')
    juliet.send("<presence to='tomb@conference.a.test/juliet'><x xmlns='http://jabber.org/protocol/muc'/></presence>")
    await juliet.receive(({ attrs }) => attrs['from'] === 'tomb@conference.a.test/juliet')
    expect(a.test.server.federation.outgoing().filter(({ domain }) => domain === 'b.test').map(({ local }) => local).toSorted()).to.deep.equal(['a.test', 'conference.a.test'])
    expect(new Set(b.test.server.federation.incoming().map(({ domain }) => domain))).to.deep.equal(new Set(['a.test', 'conference.a.test']))
  })

  it('a stream on which nothing happens is closed, and begun anew for the next stanza', async () => {
    const options = 's2s_timeout: 1'
    const [a, b] = [await world.site('a.test', { options }), await world.site('b.test', { options })]
    const [romeo, juliet] = [await a.login(), await b.login('juliet')]
    juliet.send('<presence/>')
    romeo.send("<message to='juliet@b.test' type='chat' id='m1'><body>1</body></message>")
    await juliet.receive(isMessage('m1'))
    await until(() => a.test.server.federation.outgoing().length === 0 && b.test.server.federation.incoming().length === 0)
    romeo.send("<message to='juliet@b.test' type='chat' id='m2'><body>2</body></message>")
    await juliet.receive(isMessage('m2'))
  })

  it('streams are closed by an administrator, for one server or all', async () => {
    const [a, b] = [await world.site('a.test'), await world.site('b.test')]
    const romeo = await a.login()
    await romeo.sendIq("<iq type='get' id='v1' to='b.test'><ping xmlns='urn:xmpp:ping'/></iq>")
    const { server } = a.test
    const admin = createAdmin({
      hosts: () => ['a.test'], accounts: server.accounts, register: (...args) => server.register(...args), unregister: (bare) => server.unregister(bare),
      running: { sessions: server.everySession, federation: server.federation, status: () => server.status(), stop() {}, restart: async () => {}, stopKindly() {}, reload: async () => [], unban: () => false, operation: async () => undefined },
    })
    const run = async (name: string, ...args: string[]): Promise<readonly string[]> => (await admin.run(name, args)).lines
    await until(() => server.federation.incoming().length === 1)
    expect(await run('outgoing_s2s_number')).to.deep.equal(['1'])
    expect(await run('incoming_s2s_number')).to.deep.equal(['1'])
    expect(await run('list_s2s')).to.deep.equal(['a.test -> b.test', 'b.test -> a.test'])
    expect(await run('stop_s2s_connection', 'c.test')).to.deep.equal(['0'])
    expect(await run('stop_s2s_connection', 'b.test')).to.deep.equal(['2'])
    expect(await run('stop_s2s_connections')).to.deep.equal(['0'])
    await until(() => a.test.server.federation.outgoing().length === 0 && b.test.server.federation.incoming().length === 0)
  })

  it('a server without certificates is not spoken to where dialback is off', async () => {
    const a = await world.site('a.test', { modules: '', certified: true })
    await world.site('b.test')
    expect(await refusal(await a.login(), "<message to='juliet@b.test' id='m1'><body>Hi</body></message>", 'm1')).to.equal('not-authorized')
  })

  it('without a listener for other servers there are none', async () => {
    const b = await world.site('b.test')
    await b.test.server.reload({ ...(await import('../config/config.ts')).loadConfig(`${b.test.dataDir}/../ejabberd.yml`).config, federated: false })
    expect(await refusal(await b.login(), "<message to='x@a.test' id='m1'><body>Hi</body></message>", 'm1')).to.equal('remote-server-not-found')
  })
})
