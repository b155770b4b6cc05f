/** Streams with other servers that are lost while nobody sends, and stanzas that come while one is being negotiated (XEP-0198, XEP-0288). */
import { once } from 'node:events'
import net from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'chai'
import { World } from './federation.fixture.ts'

const CERTIFIED = { options: 's2s_use_starttls: required', modules: 'mod_s2s_bidi: {}', certified: true }

describe('streams with other servers', () => {
  let world: World
  const closing: (() => void)[] = []
  beforeEach(async () => { world = await World.begin() })
  afterEach(async () => {
    for (const close of closing.splice(0)) close()
    await world[Symbol.asyncDispose]()
  })

  /** A cable to a port that can be cut. */
  async function cable(port: number): Promise<{ readonly port: number; cut(): void; readonly count: number }> {
    const sockets = new Set<net.Socket>()
    let count = 0
    const server = net.createServer((near) => {
      count++
      const far = net.connect(port, '127.0.0.1')
      for (const [one, other] of [[near, far], [far, near]] as const) {
        sockets.add(one)
        one.on('error', () => {}).on('close', () => {
          sockets.delete(one)
          other.destroy()
        })
        one.pipe(other)
      }
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    const cut = (): void => { for (const socket of sockets) socket.destroy() }
    closing.push(() => {
      server.close()
      cut()
    })
    return { port: (server.address() as net.AddressInfo).port, cut, get count() { return count } }
  }

  it('whoever began a stream for both directions resumes it when it is lost, though it has nothing to send', async () => {
    const [a, b] = [await world.site('a.test', CERTIFIED), await world.site('b.test', CERTIFIED)]
    const line = await cable(b.s2sPort)
    b.listed = line.port
    const [romeo, juliet] = [await a.login('romeo'), await b.login('juliet')]
    juliet.send('<presence/>')
    romeo.send("<message to='juliet@b.test' type='chat' id='m1'><body>Art thou there?</body></message>")
    await juliet.receive(({ attrs }) => attrs['id'] === 'm1')
    await romeo.sendIq("<iq type='get' to='b.test'><query xmlns='jabber:iq:version'/></iq>")
    line.cut()
    juliet.send(`<message to='${romeo.jid}' type='chat' id='m2'><body>Ay me</body></message>`)
    expect((await romeo.receive(({ attrs }) => attrs['id'] === 'm2', 10_000)).getChildText('body')).to.equal('Ay me')
    expect(line.count).to.equal(2)
  })

  it('stanzas that come while a stream of certificates alone is being negotiated wait for it', async () => {
    const [a, b] = [await world.site('a.test', CERTIFIED), await world.site('b.test', CERTIFIED)]
    const [romeo, juliet] = [await a.login('romeo'), await b.login('juliet')]
    juliet.send('<presence/>')
    const ids = Array.from({ length: 150 }, (_, at) => `m${at}`)
    const seen: (string | undefined)[] = []
    const errors: string[] = []
    juliet.on((stanza) => { if (stanza.name === 'message') seen.push(stanza.id) })
    romeo.on((stanza) => { if (stanza.type === 'error') errors.push(stanza.toString()) })
    expect(b.domain).to.equal('b.test')
    for (const id of ids) {
      romeo.send(`<message to='juliet@b.test' type='chat' id='${id}'><body>Hist!</body></message>`)
      await sleep(1)
    }
    for (const end = Date.now() + 8000; seen.length + errors.length < ids.length && Date.now() < end;) await sleep(10)
    expect(errors).to.deep.equal([])
    expect(seen).to.deep.equal(ids)
  })
})
