import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import net, { type Socket } from 'node:net'
import path from 'node:path'
import { expect } from 'chai'
import type { Element } from '../../../lib/xml/element.ts'
import { connect } from '../../../lib/client/client.ts'
import { loadConfig } from '../../config/config.ts'
import type { Parts } from '../extension.ts'
import { conditionOf, fakeParts } from '../fake-parts.ts'
import { startTestServer, TEST_CONFIG } from '../../test-server.ts'
import { socks5Proxy } from './proxy.ts'

const NS = 'http://jabber.org/protocol/bytestreams'
const REQUESTER = 'romeo@example.net/orchard'
const TARGET = 'juliet@example.net/balcony'
const PROXY = 'example.net'
const nameOf = (sid: string, requester = REQUESTER, target = TARGET): string => createHash('sha1').update(sid + requester + target).digest('hex')
const request = (name: string, { command = 1, type = 3 } = {}): Buffer => Buffer.concat([Buffer.from([5, command, 0, type, name.length]), Buffer.from(name), Buffer.from([0, 0])])

/** A connection, and what it has received. */
class Party {
  readonly socket: Socket
  received = Buffer.alloc(0)
  constructor(port: number) {
    this.socket = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true })
    this.socket.on('data', (chunk: Buffer) => {
      this.received = Buffer.concat([this.received, chunk])
      this.changed.resolve()
    }).on('error', () => undefined).on('end', () => { this.changed.resolve() }).on('close', () => { this.changed.resolve() })
  }
  changed = Promise.withResolvers<void>()
  async #news(): Promise<void> {
    await this.changed.promise
    this.changed = Promise.withResolvers()
  }
  async takes(bytes: number): Promise<Buffer> {
    while (this.received.length < bytes) {
      if (this.socket.destroyed || this.socket.readableEnded) throw new Error(`closed after ${this.received.length} bytes`)
      await this.#news()
    }
    const taken = this.received.subarray(0, bytes)
    this.received = this.received.subarray(bytes)
    return taken
  }
  async ends(): Promise<void> {
    while (!this.socket.readableEnded && !this.socket.destroyed) await this.#news()
  }
  async joins(name: string): Promise<this> {
    this.socket.write(Buffer.from([5, 1, 0]))
    expect(await this.takes(2)).to.deep.equal(Buffer.from([5, 0]))
    this.socket.write(request(name))
    expect(await this.takes(5 + name.length + 2)).to.deep.equal(Buffer.concat([Buffer.from([5, 0, 0, 3, name.length]), Buffer.from(name), Buffer.from([0, 0])]))
    return this
  }
}

describe('XEP-0065 SOCKS5 proxy', () => {
  const stops: (() => void | Promise<void>)[] = []
  const parties: Party[] = []
  afterEach(async () => {
    for (const { socket } of parties.splice(0)) socket.destroy()
    for (const stop of stops.splice(0)) await stop()
  })

  async function started(options: Record<string, unknown> = {}, others: Partial<Parts> = {}) {
    const fake = fakeParts()
    const all = { hosts: [], host: 'proxy.@HOST@', name: 'Proxy', hostname: '', ip: '127.0.0.1', port: 0, access: 'all', shaper: 'none', max_connections: Infinity, recbuf: 65_536, ...options }
    const stop = socks5Proxy.start({ ...fake.parts, ...others }, all as never)
    if (stop) stops.push(stop)
    const address = async (): Promise<Element> => fake.ask(REQUESTER, 'get', `<query xmlns='${NS}'/>`, PROXY)
    let port = 0
    for (let tries = 0; port === 0 && tries < 100; tries++) {
      await new Promise((resolve) => { setTimeout(resolve, 5) })
      port = Number((await address()).getChild('query')?.getChild('streamhost')?.attrs['port'] ?? 0)
    }
    const party = (): Party => {
      const made = new Party(port)
      parties.push(made)
      return made
    }
    const activate = (sid: string, target = TARGET, from = REQUESTER): Promise<Element> => fake.ask(from, 'set', `<query xmlns='${NS}' sid='${sid}'><activate>${target}</activate></query>`, PROXY)
    return { fake, port, address, party, activate }
  }

  it('§4: is found as a proxy, and tells its address', async () => {
    const { fake, port, address } = await started()
    expect(fake.disco.ownInfo('host').getChildren('identity').map(({ attrs }) => `${attrs['category']}/${attrs['type']}`)).to.include('proxy/bytestreams')
    expect(fake.disco.ownInfo('host').getChildren('feature').map((each) => each.attrs['var'])).to.include(NS)
    expect((await address()).getChild('query', NS)?.getChild('streamhost')?.attrs).to.deep.equal({ host: '127.0.0.1', jid: 'proxy.example.net', port: String(port) })
  })

  it('§4: names the host it is told to, and is for those whom the access rule allows', async () => {
    expect((await (await started({ hostname: 'files.example.org' })).address()).getChild('query')?.getChild('streamhost')?.attrs['host']).to.equal('files.example.org')
    const { address, activate } = await started({ access: 'none' })
    expect(conditionOf(await address())).to.equal('forbidden')
    expect(conditionOf(await activate('s'))).to.equal('forbidden')
  })

  it('§4: says so when it cannot listen', async () => {
    const taken = net.createServer().listen(0, '127.0.0.1')
    await once(taken, 'listening')
    const { address } = await started({ port: (taken.address() as net.AddressInfo).port })
    expect(conditionOf(await address())).to.equal('not-allowed')
    taken.close()
  })

  it('§6: relays both ways between two connections, what comes after the activation and all of it', async () => {
    const { party, activate } = await started()
    const name = nameOf('vxf9n471bn46')
    const target = await party().joins(name)
    const requester = await party().joins(name)
    target.socket.write('too early')
    await new Promise((resolve) => { setTimeout(resolve, 20) })
    expect((await activate('vxf9n471bn46')).attrs['type']).to.equal('result')
    const file = randomBytes(3_000_000)
    requester.socket.write(file)
    target.socket.write('thanks')
    expect(await requester.takes(6)).to.deep.equal(Buffer.from('thanks'))
    expect(file.equals(await target.takes(file.length))).to.equal(true)
    // One side has sent everything and still listens.
    requester.socket.end('end')
    expect(await target.takes(3)).to.deep.equal(Buffer.from('end'))
    await target.ends()
    target.socket.end('bye')
    expect(await requester.takes(3)).to.deep.equal(Buffer.from('bye'))
    await requester.ends()
  })

  it('§6: a connection that is lost ends the other, after what it has sent', async () => {
    const { party, activate } = await started()
    const one = await party().joins(nameOf('s'))
    const other = await party().joins(nameOf('s'))
    await activate('s')
    one.socket.write('last words')
    expect(await other.takes(10)).to.deep.equal(Buffer.from('last words'))
    one.socket.resetAndDestroy()
    await other.ends()
    expect(conditionOf(await activate('s')), 'nothing of it is left').to.be.oneOf(['item-not-found', 'not-allowed'])
  })

  it('§6.3.5: refuses to activate what cannot be', async () => {
    const { fake, party, activate } = await started()
    expect(conditionOf(await activate('s'))).to.equal('item-not-found')
    await party().joins(nameOf('s'))
    expect(conditionOf(await activate('s'))).to.equal('not-allowed')
    await party().joins(nameOf('s'))
    expect(conditionOf(await activate('s', TARGET, 'mallory@example.net/x')), 'the requester alone').to.equal('item-not-found')
    expect((await activate('s')).attrs['type']).to.equal('result')
    expect(conditionOf(await activate('s'))).to.equal('not-allowed')
    expect(conditionOf(await activate('s', '@'))).to.equal('jid-malformed')
    expect(conditionOf(await fake.ask(REQUESTER, 'set', `<query xmlns='${NS}'><activate>${TARGET}</activate></query>`, PROXY))).to.equal('bad-request')
    expect(conditionOf(await fake.ask(REQUESTER, 'set', `<query xmlns='${NS}' sid='s'/>`, PROXY))).to.equal('bad-request')
  })

  it('§11.1: lets two in and no third', async () => {
    const { party, activate } = await started()
    const name = nameOf('s')
    await party().joins(name)
    await party().joins(name)
    for (const active of [false, true]) {
      if (active) await activate('s')
      const third = party()
      third.socket.write(Buffer.concat([Buffer.from([5, 1, 0]), request(name)]))
      expect((await third.takes(12)).subarray(2, 4)).to.deep.equal(Buffer.from([5, 2]))
      await third.ends()
    }
  })

  it('RFC 1928: refuses other methods, commands, addresses and protocols', async () => {
    const { party } = await started()
    for (const [sent, answered] of [
      [Buffer.from([5, 1, 2]), [5, 0xff]],
      [Buffer.concat([Buffer.from([5, 2, 2, 0]), request(nameOf('s'), { command: 3 })]), [5, 0, 5, 7, 0, 1, 0, 0, 0, 0, 0, 0]],
      [Buffer.concat([Buffer.from([5, 1, 0]), Buffer.from([5, 1, 0, 1, 127, 0, 0, 1, 0, 80])]), [5, 0, 5, 8, 0, 1, 0, 0, 0, 0, 0, 0]],
      [Buffer.concat([Buffer.from([5, 1, 0]), request('www.example.org')]), [5, 0, 5, 2, 0, 1, 0, 0, 0, 0, 0, 0]],
      [Buffer.from('GET / HTTP/1.1\r\n\r\n'), []],
    ] as const) {
      const each = party()
      each.socket.write(sent)
      await each.ends()
      expect([...each.received]).to.deep.equal([...answered])
    }
  })

  it('reads a handshake that comes byte by byte', async () => {
    const { party } = await started()
    const slow = party()
    slow.socket.setNoDelay(true)
    for (const byte of Buffer.concat([Buffer.from([5, 1, 0]), request(nameOf('s'))])) {
      slow.socket.write(Buffer.from([byte]))
      await new Promise(setImmediate)
    }
    expect((await slow.takes(49)).subarray(0, 4)).to.deep.equal(Buffer.from([5, 0, 5, 0]))
  })

  it('max_connections: an account has so many bytestreams at a time', async () => {
    const { party, activate } = await started({ max_connections: 1 })
    const pair = async (sid: string): Promise<[Party, Party]> => [await party().joins(nameOf(sid)), await party().joins(nameOf(sid))]
    const [one, other] = await pair('a')
    await pair('b')
    expect((await activate('a')).attrs['type']).to.equal('result')
    expect(conditionOf(await activate('b'))).to.equal('resource-constraint')
    one.socket.destroy()
    await other.ends()
    other.socket.destroy()
    let answer = await activate('b')
    for (let tries = 0; answer.attrs['type'] === 'error' && tries < 100; tries++) {
      await new Promise((resolve) => { setTimeout(resolve, 5) })
      answer = await activate('b')
    }
    expect(answer.attrs['type']).to.equal('result')
  })

  it('shaper: slows each direction down and loses nothing', async () => {
    const { fake, party, activate } = await started({ shaper: 'slow' }, { access: { allows: () => true, value: () => undefined, shaper: () => ({ rate: 1_000_000, burst: 10_000 }) } })
    expect(fake).to.not.equal(undefined)
    const one = await party().joins(nameOf('s'))
    const other = await party().joins(nameOf('s'))
    await activate('s')
    const file = randomBytes(150_000)
    const before = performance.now()
    one.socket.end(file)
    expect(file.equals(await other.takes(file.length))).to.equal(true)
    expect(performance.now() - before).to.be.greaterThan(70)
    await other.ends()
  })

  it('on a whole server: between clients, and over a reload', async () => {
    const accounts = { romeo: 'pw', juliet: 'pw' }
    await using test = await startTestServer({ accounts, config: TEST_CONFIG.replace('  mod_ping: {}', '  mod_ping: {}\n  mod_proxy65: {ip: 127.0.0.1, port: 0, hostname: 127.0.0.1}') })
    const romeo = await connect({ host: test.host, port: test.tlsPort, domain: test.domain, tls: 'direct', user: 'romeo', password: 'pw', resource: 'orchard' })
    const items = await romeo.sendIq("<iq type='get' to='localhost'><query xmlns='http://jabber.org/protocol/disco#items'/></iq>")
    expect(items.getChild('query')?.getChildren('item').map((each) => each.attrs['jid'])).to.include('proxy.localhost')
    const answer = await romeo.sendIq(`<iq type='get' to='proxy.localhost'><query xmlns='${NS}'/></iq>`)
    const { port } = answer.getChild('query')?.getChild('streamhost')?.attrs ?? {}
    const name = nameOf('s', romeo.jid, 'juliet@localhost/x')
    const [one, other] = [new Party(Number(port)), new Party(Number(port))]
    parties.push(one, other)
    await one.joins(name)
    await other.joins(name)
    await romeo.sendIq(`<iq type='set' to='proxy.localhost'><query xmlns='${NS}' sid='s'><activate>juliet@localhost/x</activate></query></iq>`)
    one.socket.write('hello')
    expect(await other.takes(5)).to.deep.equal(Buffer.from('hello'))
    await test.server.reload(loadConfig(path.join(path.dirname(test.dataDir), 'ejabberd.yml')).config)
    other.socket.write('still here')
    expect(await one.takes(10)).to.deep.equal(Buffer.from('still here'))
    const again = await romeo.sendIq(`<iq type='get' to='proxy.localhost'><query xmlns='${NS}'/></iq>`)
    const anew = new Party(Number(again.getChild('query')?.getChild('streamhost')?.attrs['port']))
    parties.push(anew)
    await anew.joins(nameOf('t'))
    await romeo.disconnect()
  })
})
