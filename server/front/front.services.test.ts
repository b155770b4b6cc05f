/** Nodes and proxies as processes of their own, with Redis and HBase: what clients see while these are killed, drained and started again. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'chai'
import { type Redis, sharedHBase, startRedis } from '../../services/services.ts'
import { type Client, connect, type ResumeState } from '../../lib/client/client.ts'
import type { Stanza } from '../../lib/stanza/stanza.ts'

const BIN = path.resolve(import.meta.dirname, '../../bin/tidings.js')
const USERS = ['romeo', 'juliet', 'mercutio', 'tybalt']
const SEND_EVERY_MS = 25
const RECONNECT_MS = 60_000
const PAGE = 200

/** One process of the cluster. */
class Process {
  readonly #args: readonly string[]
  #child: ChildProcess | undefined
  /** Where clients connect, with TLS from the first byte. */
  port = 0
  output = ''

  constructor(...args: string[]) {
    this.#args = args
    process.once('exit', () => this.#child?.kill('SIGKILL'))
  }

  get pid(): number { return this.#child?.pid ?? 0 }

  async start(): Promise<void> {
    const child = spawn(process.execPath, [BIN, ...this.#args], { stdio: ['ignore', 'ignore', 'pipe'] })
    this.#child = child
    this.output = ''
    const started = Promise.withResolvers<void>()
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.output += text
      const found = /listening for \S+ (?:\(TLS\) )?on 127\.0\.0\.1:(\d+)/.exec(this.output)
      if (found === null || !this.output.endsWith('\n')) return
      this.port = Number(found[1])
      started.resolve()
    })
    child.once('exit', (code) => { started.reject(new Error(`exit ${code}: ${this.output}`)) })
    started.promise.catch(() => undefined)
    await started.promise
  }

  /** Ends it; resolves with its exit code. */
  async end(signal: NodeJS.Signals): Promise<number | null> {
    const child = this.#child
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return null
    const ended = once(child, 'exit')
    child.kill(signal)
    const [code] = await ended as [number | null]
    return code
  }
}

/** A user who sends to another all the time, by whichever proxy takes him, and resumes whenever the connection is gone. */
class Talker {
  readonly user: string
  readonly #to: string
  readonly #ports: () => readonly number[]
  sent = 0
  /** What has come, by sender, in order. */
  readonly received = new Map<string, string[]>()
  connects = 0
  resumptions = 0
  client: Client | undefined
  #talks = true
  #state: ResumeState | undefined
  readonly #done: Promise<void>

  constructor(user: string, to: string, ports: () => readonly number[]) {
    this.user = user
    this.#to = to
    this.#ports = ports
    this.#done = this.#live()
  }

  async #live(): Promise<void> {
    while (this.#talks) {
      const client = this.client = await this.#connect()
      for (const stanza of client.inbox.splice(0)) this.#take(stanza)
      const stop = client.on((stanza) => this.#take(stanza))
      if (!client.resumed) client.send('<presence/>')
      while (this.#talks && !client.ended) {
        client.send(`<message to='${this.#to}@localhost' type='chat' id='${this.user}-${this.sent}'><body>${this.sent}</body></message>`)
        this.sent++
        if (this.sent % 20 === 0) client.connection.write("<r xmlns='urn:xmpp:sm:3'/>")
        await sleep(SEND_EVERY_MS)
      }
      if (client.ended) {
        stop()
        this.#state = client.resumeState()
      }
    }
  }

  /** Stops talking; what is not acknowledged still goes. */
  async finish(): Promise<void> {
    this.#talks = false
    await this.#done
    for (;;) {
      const { client } = this
      if (client !== undefined && !client.ended) {
        try {
          await client.requestAck(20_000)
          if (client.unacked.length === 0) return
        } catch { /* It has gone meanwhile. */ }
      }
      if (client?.ended === true) {
        this.#state = client.resumeState()
        const next = this.client = await this.#connect()
        for (const stanza of next.inbox.splice(0)) this.#take(stanza)
        next.on((stanza) => this.#take(stanza))
        if (!next.resumed) next.send('<presence/>')
      }
    }
  }

  #take(stanza: Stanza): void {
    if (stanza.name !== 'message' || stanza.id === undefined || stanza.type !== 'chat' || !stanza.has('body', 'jabber:client')) return
    const from = stanza.from?.split('@')[0] ?? ''
    const list = this.received.get(from)
    if (list === undefined) this.received.set(from, [stanza.id])
    else list.push(stanza.id)
  }

  async #connect(): Promise<Client> {
    const until = performance.now() + RECONNECT_MS
    for (let tries = this.connects; ; tries++) {
      const ports = this.#ports()
      try {
        const client = await connect({
          host: '127.0.0.1', port: ports[tries % ports.length] as number, domain: 'localhost', tls: 'direct', user: this.user, password: 'secret', resource: 'phone', sm: true, timeoutMs: 20_000,
          mechanism: 'SCRAM-SHA-256-PLUS', ...(this.#state === undefined ? {} : { resume: this.#state }),
        })
        this.connects++
        if (client.resumed) this.resumptions++
        return client
      } catch (error) {
        if (performance.now() > until) throw error
        await sleep(100)
      }
    }
  }
}

/** Ids of what is archived, in order. */
async function archived(client: Client): Promise<string[]> {
  const found: string[] = []
  const stop = client.on((stanza) => {
    const id = stanza.name === 'message' ? stanza.element().getChild('result', 'urn:xmpp:mam:2')?.getChild('forwarded')?.getChild('message')?.attrs['id'] : undefined
    if (id !== undefined) found.push(id)
  })
  for (let after = '', complete = false; !complete;) {
    const answer = await client.sendIq(`<iq type='set'><query xmlns='urn:xmpp:mam:2'><set xmlns='http://jabber.org/protocol/rsm'><max>${PAGE}</max>${after === '' ? '' : `<after>${after}</after>`}</set></query></iq>`, 30_000)
    const fin = answer.getChild('fin', 'urn:xmpp:mam:2')
    complete = fin?.attrs['complete'] === 'true'
    after = fin?.getChild('set')?.getChildText('last') ?? ''
    if (after === '') break
  }
  stop()
  return found
}

describe('clients of proxies before several nodes', function () {
  this.timeout(400_000)
  let redis: Redis
  let dir: string
  let nodes: Process[]
  let proxies: Process[]
  let talkers: Talker[]

  before(async () => {
    const [hbase, started] = await Promise.all([sharedHBase(), startRedis()])
    redis = started
    dir = await mkdtemp(path.join(tmpdir(), 'tidings-'))
    const name = `front${process.pid}`
    const configure = async (kind: string, more: string): Promise<string> => {
      const file = path.join(dir, `${kind}.yml`)
      await writeFile(file, `hosts: [localhost]
loglevel: warning
registration_timeout: infinity
listen:
  - { port: 0, ip: 127.0.0.1, module: ejabberd_c2s, tls: true }
access_rules:
  local: { allow: all }
modules:
  mod_carboncopy: {}
  mod_disco: {}
  mod_mam: { default: always }
  mod_offline: {}
  mod_register: { ip_access: all }
  mod_roster: {}
  mod_stream_mgmt: {}
tidings:
  hbase: {masters: ["${hbase.masters[0]}"], prefix: ${name}_, regions: 1}
  cluster: {node: ${kind}, redis: {url: "redis://127.0.0.1:${redis.ports[0]}"}, ${more}}
`)
      return file
    }
    nodes = []
    for (const kind of ['a', 'b']) nodes.push(new Process('serve', '--config', await configure(kind, 'address: "127.0.0.1:0"'), '--data', path.join(dir, kind)))
    proxies = []
    for (const kind of ['p', 'q']) proxies.push(new Process('proxy', '--config', await configure(kind, 'drain: 1000'), '--data', path.join(dir, kind)))
    for (const node of nodes) await node.start()
    await Promise.all(proxies.map((proxy) => proxy.start()))
    for (const user of USERS) {
      const client = await connect({ host: '127.0.0.1', port: proxies[0]?.port as number, domain: 'localhost', tls: 'direct', user, password: 'secret', register: true, timeoutMs: 30_000 })
      await client.disconnect()
    }
  })
  after(async () => {
    for (const each of [...proxies, ...nodes]) await each.end('SIGKILL')
    await redis[Symbol.asyncDispose]()
    await rm(dir, { recursive: true, force: true })
  })

  async function underTraffic(what: () => Promise<void>): Promise<void> {
    const ports = (): number[] => proxies.map(({ port }) => port)
    talkers = USERS.map((user, i) => new Talker(user, USERS[(i + 1) % USERS.length] as string, ports))
    await sleep(2000)
    await what()
    await sleep(1000)
    for (const talker of talkers) await talker.finish()
    await sleep(1000)
    for (const [i, talker] of talkers.entries()) {
      const { user, client } = talker
      const from = USERS[(i + USERS.length - 1) % USERS.length] as string
      const sender = talkers.find((each) => each.user === from) as Talker
      const expected = (who: string, count: number): string[] => Array.from({ length: count }, (_, n) => `${who}-${n}`)
      const all = await archived(client as Client)
      const run = (who: string): string[] => all.filter((id) => id.startsWith(`${who}-`)).slice(-(who === user ? talker.sent : sender.sent))
      expect(run(user), `archive of ${user}, sent`).to.deep.equal(expected(user, talker.sent))
      expect(run(from), `archive of ${user}, received`).to.deep.equal(expected(from, sender.sent))
      expect(talker.received.get(from), `received by ${user}`).to.deep.equal(expected(from, sender.sent))
      expect(all.filter((id) => id === `${user}-0`).length).to.equal(rounds)
    }
    for (const { client } of talkers) await client?.disconnect()
  }
  let rounds = 0
  beforeEach(() => { rounds++ })

  it('lose and double nothing when a node is killed', async () => {
    await underTraffic(async () => {
      for (const node of nodes) {
        await node.end('SIGKILL')
        // Until its lease is over and it has been recovered.
        while (talkers.some(({ client }) => client?.ended !== false)) await sleep(100)
        await node.start()
        await sleep(1000)
      }
    })
    // Whichever had them.
    for (const { connects, resumptions } of talkers) expect(resumptions).to.be.greaterThan(0).and.equal(connects - 1)
  })

  it('lose and double nothing when a proxy is killed', async () => {
    await underTraffic(async () => {
      await proxies[0]?.end('SIGKILL')
      await sleep(2000)
      await proxies[0]?.start()
      await proxies[1]?.end('SIGKILL')
      await sleep(1000)
      await proxies[1]?.start()
    })
    for (const { connects, resumptions } of talkers) expect(resumptions).to.be.greaterThan(0).and.equal(connects - 1)
  })

  it('go to another proxy when one is told to stop, and it ends when they have', async () => {
    await underTraffic(async () => {
      expect(await proxies[0]?.end('SIGTERM')).to.equal(0)
      await sleep(1000)
      await proxies[0]?.start()
    })
    for (const { connects, resumptions } of talkers) expect(resumptions).to.equal(connects - 1)
  })

  it('lose and double nothing when one node after the other is stopped and started again', async () => {
    await underTraffic(async () => {
      for (const node of nodes) {
        expect(await node.end('SIGTERM')).to.equal(0)
        await sleep(3000)
        await node.start()
        await sleep(3000)
      }
    })
  })
})
