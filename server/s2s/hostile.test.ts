/** Peers that lie, flood, or say nothing (RFC 6120 §8.1, §13; XEP-0220 §4). */
import net from 'node:net'
import { once } from 'node:events'
import { expect } from 'chai'
import type { Stanza } from '../../lib/stanza/stanza.ts'
import { dialbackKey } from './dialback.ts'
import { type Peer, type Site, until, World } from './federation.fixture.ts'

const DIALBACK = 'jabber:server:dialback'
const EXTERNAL = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>"

describe('other servers that are not what they say', () => {
  let world: World
  let a: Site
  beforeEach(async () => { world = await World.begin() })
  afterEach(async () => { await world[Symbol.asyncDispose]() })

  /** A server for a domain that answers questions about keys with this. */
  async function authority(domain: string, verdict: (verify: Stanza) => string): Promise<void> {
    await world.server(domain, (peer) => {
      peer.on = (stanza) => {
        if (stanza.name === 'verify') peer.send(`<db:verify from='${domain}' to='${stanza.from}' id='${stanza.id}' type='${verdict(stanza)}'/>`)
        if (stanza.name === 'result') peer.send(`<db:result from='${domain}' to='${stanza.from}' type='valid'/>`)
      }
      void peer.answer(domain, 'x1').catch(() => {})
    })
  }

  /** A stream on which the peer has proven to be evil.test. */
  async function proven(): Promise<Peer> {
    await authority('evil.test', () => 'valid')
    const peer = await world.peer(a)
    await peer.open('evil.test', 'a.test')
    peer.send("<db:result from='evil.test' to='a.test'>key</db:result>")
    expect((await peer.receive(({ name }) => name === 'result')).type).to.equal('valid')
    return peer
  }

  it('send nothing before they have proven a domain', async () => {
    a = await world.site('a.test')
    const peer = await world.peer(a)
    await peer.open('evil.test', 'a.test')
    peer.send("<message from='x@evil.test' to='romeo@a.test'><body>Hi</body></message>")
    expect(await peer.error()).to.equal('not-authorized')
  })

  for (const [what, stanza, condition] of [
    ['without from', "<message to='romeo@a.test'/>", 'improper-addressing'],
    ['without to', "<message from='x@evil.test'/>", 'improper-addressing'],
    ['with an empty to', "<message from='x@evil.test' to=''/>", 'improper-addressing'],
    ['with a to that is no JID', "<message from='x@evil.test' to='@a.test'/>", 'improper-addressing'],
    ['from another domain', "<message from='x@good.test' to='romeo@a.test'/>", 'invalid-from'],
    ['from one of our own', "<message from='romeo@a.test' to='juliet@a.test'/>", 'invalid-from'],
    ['from a subdomain', "<message from='x@sub.evil.test' to='romeo@a.test'/>", 'invalid-from'],
    ['for a domain that is not served', "<message from='x@evil.test' to='romeo@b.test'/>", 'host-unknown'],
    ['that are none', "<foo from='x@evil.test' to='romeo@a.test'/>", 'unsupported-stanza-type'],
    ['that are giants', `<message from='x@evil.test' to='romeo@a.test'><body>${'x'.repeat(300_000)}</body></message>`, 'policy-violation'],
  ] as const) {
    it(`cannot send stanzas ${what} (RFC 6120 §4.9.3, §8.1)`, async () => {
      a = await world.site('a.test')
      const peer = await proven()
      peer.send(stanza)
      expect(await peer.error()).to.equal(condition)
    })
  }

  it('are not what their key says when the domain denies it', async () => {
    a = await world.site('a.test')
    await authority('good.test', () => 'invalid')
    const peer = await world.peer(a)
    await peer.open('good.test', 'a.test')
    peer.send("<db:result from='good.test' to='a.test'>stolen</db:result>")
    expect((await peer.receive(({ name }) => name === 'result')).type).to.equal('invalid')
    await peer.until(() => peer.closed)
  })

  it('cannot say that they are one of our own domains', async () => {
    a = await world.site('a.test')
    const peer = await world.peer(a)
    await peer.open('evil.test', 'a.test')
    peer.send("<db:result from='conference.a.test' to='a.test'>key</db:result>")
    expect(await peer.error()).to.equal('invalid-from')
    const other = await world.peer(a)
    other.open('a.test', 'a.test').catch(() => {})
    expect(await other.error()).to.equal('invalid-from')
  })

  it('cannot answer a question about a key on another stream than the one that it was asked on (XEP-0220 §3.1)', async () => {
    a = await world.site('a.test')
    let asked: Stanza | undefined
    await authority('good.test', (verify) => {
      asked = verify
      return 'invalid'
    })
    const peer = await world.peer(a)
    await peer.open('good.test', 'a.test')
    const id = peer.header['id']
    peer.send(`<db:verify from='good.test' to='a.test' id='${id}' type='valid'/><db:result from='good.test' to='a.test'>key</db:result><db:verify from='good.test' to='a.test' id='${id}' type='valid'/>`)
    expect((await peer.receive(({ name }) => name === 'result')).type).to.equal('invalid')
    expect(asked?.id).to.equal(id)
  })

  it('learn of a key whether it is right, and of other domains that they are not here (XEP-0220 §2.2.2)', async () => {
    a = await world.site('a.test')
    const peer = await world.peer(a)
    await peer.open('b.test', 'a.test')
    const key = dialbackKey(Buffer.from('guess'), { receiving: 'b.test', originating: 'a.test', id: 'D60000229F' })
    peer.send(`<db:verify from='b.test' to='a.test' id='D60000229F'>${key}</db:verify>`)
    expect((await peer.receive(({ xmlns }) => xmlns === DIALBACK)).type).to.equal('invalid')
    peer.send(`<db:verify from='b.test' to='c.test' id='D60000229F'>${key}</db:verify>`)
    const answer = await peer.receive(({ xmlns }) => xmlns === DIALBACK)
    expect([answer.type, answer.from, answer.to, answer.id]).to.deep.equal(['error', 'c.test', 'b.test', 'D60000229F'])
    expect(answer.toString()).to.contain('<item-not-found ')
  })

  it('ask for a domain that is not here without losing their stream (XEP-0220 §2.2.1)', async () => {
    a = await world.site('a.test')
    const peer = await proven()
    peer.send("<db:result from='evil.test' to='nowhere.test'>key</db:result>")
    expect((await peer.receive(({ name }) => name === 'result')).toString()).to.contain('<item-not-found ')
    peer.send("<iq type='get' id='p1' from='evil.test' to='a.test'><ping xmlns='urn:xmpp:ping'/></iq>")
    peer.send("<db:verify from='evil.test' to='a.test' id='1'>key</db:verify>")
    expect((await peer.receive(({ name }) => name === 'verify')).type).to.equal('invalid')
  })

  it('with the certificate of another domain are not offered EXTERNAL, and not taken for that domain', async () => {
    a = await world.site('a.test', { modules: '', certified: true })
    const issued = await world.authority.issue({ dns: ['evil.test'] })
    const peer = await world.peer(a)
    await peer.open('good.test', 'a.test')
    await peer.secure({ cert: issued.cert, key: issued.key })
    const features = await peer.open('good.test', 'a.test')
    expect(features.toString()).to.not.contain('EXTERNAL')
    peer.send(EXTERNAL)
    expect((await peer.receive(({ name }) => name === 'failure')).toString()).to.contain('<not-authorized')
  })

  it('with their own certificate are their own domain, and cannot ask for another by the same', async () => {
    a = await world.site('a.test', { modules: '', certified: true })
    const issued = await world.authority.issue({ dns: ['evil.test'] })
    const peer = await world.peer(a)
    await peer.open('evil.test', 'a.test')
    await peer.secure({ cert: issued.cert, key: issued.key })
    expect((await peer.open('evil.test', 'a.test')).toString()).to.contain('EXTERNAL')
    peer.send(EXTERNAL.replace('>=<', `>${Buffer.from('good.test').toString('base64')}<`))
    expect((await peer.receive(({ name }) => name === 'failure')).toString()).to.contain('<not-authorized')
  })

  it('with the certificate of nobody known are not offered EXTERNAL', async () => {
    a = await world.site('a.test', { modules: '', certified: true })
    await using other = await World.begin()
    const issued = await other.authority.issue({ dns: ['evil.test'] })
    const peer = await world.peer(a)
    await peer.open('evil.test', 'a.test')
    await peer.secure({ cert: issued.cert, key: issued.key })
    expect((await peer.open('evil.test', 'a.test')).toString()).to.not.contain('EXTERNAL')
  })

  it('are refused by s2s_access, in both directions', async () => {
    a = await world.site('a.test', { options: 'acl: {bad: {server: evil.test}}\naccess_rules: {s2s: [{deny: bad}, {allow: all}]}\ns2s_access: s2s' })
    await authority('evil.test', () => 'valid')
    const peer = await world.peer(a)
    await peer.open('evil.test', 'a.test')
    peer.send("<db:result from='evil.test' to='a.test'>key</db:result>")
    expect((await peer.receive(({ name }) => name === 'result')).toString()).to.contain('<forbidden ')
    const romeo = await a.login()
    romeo.send("<message to='x@evil.test' id='m1'><body>Hi</body></message>")
    const error = await romeo.receive(({ attrs }) => attrs['id'] === 'm1')
    expect(error.getChild('error')?.getChild('forbidden', 'urn:ietf:params:xml:ns:xmpp-stanzas')).to.not.equal(undefined)
  })

  it('must encrypt where s2s_use_starttls is required', async () => {
    a = await world.site('a.test', { options: 's2s_use_starttls: required' })
    await authority('evil.test', () => 'valid')
    const peer = await world.peer(a)
    const features = await peer.open('evil.test', 'a.test')
    expect(features.toString()).to.contain('<required').and.not.contain('dialback')
    peer.send("<db:result from='evil.test' to='a.test'>key</db:result>")
    expect((await peer.receive(({ name }) => name === 'result')).toString()).to.contain('<policy-violation ')
    const romeo = await a.login()
    romeo.send("<message to='x@evil.test' id='m1'><body>Hi</body></message>")
    expect((await romeo.receive(({ attrs }) => attrs['id'] === 'm1')).getChild('error')?.getChild('policy-violation', 'urn:ietf:params:xml:ns:xmpp-stanzas')).to.not.equal(undefined)
  })

  it('may send little before they have proven a domain', async () => {
    a = await world.site('a.test')
    const giant = await world.peer(a)
    await giant.open('evil.test', 'a.test')
    giant.send(`<db:result from='evil.test' to='a.test'>${'k'.repeat(70_000)}`)
    expect(await giant.error()).to.equal('policy-violation')
    const many = await world.peer(a)
    await many.open('evil.test', 'a.test')
    for (let i = 0; i < 5; i++) many.send(`<db:verify from='evil.test' to='a.test' id='${i}'>${'k'.repeat(60_000)}</db:verify>`)
    expect(await many.error()).to.equal('policy-violation')
  })

  it('may be silent, and cost no more than a socket each, so many from one address', async () => {
    a = await world.site('a.test', { options: 'tidings: { limits: { connections_per_address: 50, pre_auth_timeout: 300 ms } }' })
    const sockets = Array.from({ length: 80 }, () => net.connect(a.s2sPort, '127.0.0.1').on('error', () => {}))
    await Promise.all(sockets.map((socket) => once(socket, 'connect')))
    await until(() => sockets.filter(({ destroyed }) => destroyed).length >= 30)
    // The others when their time is over.
    await until(() => sockets.every(({ destroyed }) => destroyed))
    const peer = await world.peer(a)
    expect((await peer.open('b.test', 'a.test')).name).to.equal('features')
  })

  it('may ask for so many domains on one stream', async () => {
    a = await world.site('a.test', { options: 'tidings: { limits: { remote_pairs: 3 } }' })
    const peer = await world.peer(a)
    await peer.open('evil.test', 'a.test')
    for (let i = 0; i < 4; i++) peer.send(`<db:result from='evil${i}.test' to='a.test'>key</db:result>`)
    expect((await peer.receive(({ name, to }) => name === 'result' && to === 'evil3.test')).toString()).to.contain('<resource-constraint ')
  })

  it('begin a stream for a domain that is not here, or from no domain, and are told so', async () => {
    a = await world.site('a.test')
    for (const [from, to, condition] of [['evil.test', 'b.test', 'host-unknown'], ['x@evil.test', 'a.test', 'improper-addressing'], ['evil.test', 'x@a.test', 'improper-addressing']] as const) {
      const peer = await world.peer(a)
      peer.open(from, to).catch(() => {})
      expect(await peer.error()).to.equal(condition)
    }
  })
})
