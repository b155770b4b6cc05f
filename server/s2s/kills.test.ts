/** Servers that are killed, and connections that are cut, while messages go from one to the other: what was acknowledged arrives once. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import net from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { expect } from 'chai'
import { type Client, connect, type ResumeState } from '../../lib/client/client.ts'
import { TEST_CONFIG } from '../test-server.ts'
import { makeServerAuthority } from './certificates.fixture.ts'
import { type NameServer, startNameServer, type Zone } from './dns.fixture.ts'
import { until } from './federation.fixture.ts'

const SCRIPT = path.join(import.meta.dirname, 'site-process.fixture.ts')
const MAM = 'urn:xmpp:mam:2'
const pause = (ms: number): Promise<void> => new Promise((resolve) => { setTimeout(resolve, ms) })

/** A server that is started again and again on the same data and the same ports, behind a cable that can be cut. */
class Site {
  readonly domain: string
  readonly dir: string
  readonly clientPort: number
  readonly serverPort: number
  readonly #names: NameServer
  readonly #users: readonly string[]
  readonly #cables = new Set<net.Socket>()
  #cable: net.Server | undefined
  #child: ChildProcess | undefined

  constructor(domain: string, dir: string, ports: readonly number[], names: NameServer, users: readonly string[]) {
    this.domain = domain
    this.dir = dir
    this.clientPort = ports[0] as number
    this.serverPort = ports[1] as number
    this.#names = names
    this.#users = users
  }

  async start(): Promise<void> {
    const child = this.#child = spawn(process.execPath, [SCRIPT, path.join(this.dir, 'ejabberd.yml'), path.join(this.dir, 'data'), this.#names.address, ...this.#users.map((user) => `${user}@${this.domain}`)], { stdio: ['ignore', 'pipe', 'inherit'] })
    let text = ''
    child.stdout.on('data', (chunk) => {
      text += String(chunk)
      if (process.env['TIDINGS_TEST_LOG'] !== undefined) process.stderr.write(`${this.domain} ${String(chunk)}`)
    })
    await until(() => text.includes('ready\n'), 60_000)
  }

  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    const ended = once(this.#child as ChildProcess, 'exit')
    this.#child?.kill(signal)
    await ended
  }

  /** Others connect to this port. */
  async plug(): Promise<number> {
    const cable = this.#cable = net.createServer((near) => {
      const far = net.connect(this.serverPort, '127.0.0.1')
      for (const [one, other] of [[near, far], [far, near]] as const) {
        this.#cables.add(one)
        one.on('error', () => {}).on('close', () => {
          this.#cables.delete(one)
          other.destroy()
        })
        one.pipe(other)
      }
    })
    cable.listen(0, '127.0.0.1')
    await once(cable, 'listening')
    return (cable.address() as net.AddressInfo).port
  }

  cut(): void { for (const socket of this.#cables) socket.destroy() }

  async end(): Promise<void> {
    this.#cable?.close()
    this.cut()
    this.#child?.kill('SIGKILL')
  }
}

async function freePorts(count: number): Promise<number[]> {
  const servers = await Promise.all(Array.from({ length: count }, async () => {
    const server = net.createServer().listen(0, '127.0.0.1')
    await once(server, 'listening')
    return server
  }))
  const ports = servers.map((server) => (server.address() as net.AddressInfo).port)
  for (const server of servers) server.close()
  return ports
}

/** Says one thing after the other, over a stream that it resumes whenever it is lost. */
class Speaker {
  readonly #site: Site
  readonly #user: string
  #client: Client | undefined
  #state: ResumeState | undefined
  #said = 0

  constructor(site: Site, user: string) {
    this.#site = site
    this.#user = user
  }

  #connecting: Promise<Client> | undefined

  /** One connection at a time, whoever asks. */
  #connected(): Promise<Client> {
    return (this.#connecting ??= this.#connect().finally(() => { this.#connecting = undefined }))
  }

  async #connect(): Promise<Client> {
    for (let client = this.#client; ; client = undefined) {
      if (client !== undefined && !client.closed) return client
      try {
        const options = { host: '127.0.0.1', port: this.#site.clientPort, domain: this.#site.domain, tls: 'none' as const, user: this.#user, password: 'secret', sm: true }
        return (this.#client = await connect(this.#state === undefined ? options : { ...options, resume: this.#state }))
      } catch {
        await pause(50)
      }
    }
  }

  async say(to: string, count: number): Promise<void> {
    const client = await this.#connected()
    for (let i = 0; i < count; i++) client.send(`<message to='${to}' type='chat' id='${this.#user}-${this.#said}'><body>${this.#user} ${this.#said++}</body></message>`)
    this.#state = client.resumeState()
  }

  get said(): string[] { return Array.from({ length: this.#said }, (_, i) => `${this.#user} ${i}`) }

  /** Until everything is acknowledged. */
  async settle(): Promise<void> {
    for (;;) {
      const client = await this.#connected()
      try {
        await client.requestAck(2000)
        this.#state = client.resumeState()
        if (this.#state.unacked.length === 0) return client.destroy()
      } catch {
        this.#state = client.resumeState()
        client.destroy()
      }
    }
  }

  lose(): void {
    const client = this.#client
    if (client === undefined) return
    this.#state = client.resumeState()
    client.destroy()
  }
}

/** What is in somebody's archive, by text. */
async function history(site: Site, user: string): Promise<string[]> {
  const client = await connect({ host: '127.0.0.1', port: site.clientPort, domain: site.domain, tls: 'none', user, password: 'secret' })
  const found: string[] = []
  client.on((stanza) => {
    if (stanza.has('result', MAM)) found.push(/<body>([^<]*)</.exec(stanza.toString())?.[1] ?? '')
  })
  try {
    for (let after = '', complete = false; !complete;) {
      const answer = await client.sendIq(`<iq type='set' id='h${found.length}'><query xmlns='${MAM}'><set xmlns='http://jabber.org/protocol/rsm'><max>250</max>${after}</set></query></iq>`)
      const fin = answer.getChild('fin', MAM)
      complete = fin?.attrs['complete'] === 'true'
      after = `<after>${fin?.getChild('set', 'http://jabber.org/protocol/rsm')?.getChildText('last') ?? ''}</after>`
    }
    return found
  } finally {
    client.destroy()
  }
}

for (const [how, modules, options] of [
  ['by dialback', 'mod_s2s_dialback: {}', ''],
  ['by certificates', '', 's2s_use_starttls: required'],
] as const) {
  describe(`federation under kills, ${how}`, function () {
    this.timeout(400_000)
    let dir: string
    let names: NameServer
    const sites: Site[] = []
    beforeEach(async () => {
      dir = await mkdtemp(path.join(tmpdir(), 'tidings-federation-'))
      names = await startNameServer({})
      const authority = await makeServerAuthority()
      const zone: Record<string, Zone[string]> = { 'here.test': { A: ['127.0.0.1'] } }
      const { mkdir } = await import('node:fs/promises')
      for (const domain of ['a.test', 'b.test']) {
        const ports = await freePorts(2)
        const site = new Site(domain, path.join(dir, domain), ports, names, ['romeo', 'juliet'])
        sites.push(site)
        await mkdir(site.dir)
        const issued = await authority.issue({ dns: [domain, `*.${domain}`] })
        await writeFile(path.join(site.dir, 'ca.pem'), authority.certificate)
        await writeFile(path.join(site.dir, 'site.pem'), issued.cert + issued.key)
        await writeFile(path.join(site.dir, 'ejabberd.yml'), `${TEST_CONFIG
          .replace('hosts: [localhost]', `hosts: [${domain}]`)
          .replace(/listen:\n(.*\n){3}/, `listen:\n  - { port: ${ports[0]}, ip: 127.0.0.1, module: ejabberd_c2s }\n  - { port: ${ports[1]}, ip: 127.0.0.1, module: ejabberd_s2s_in }\n`)
          .replace('modules:\n', modules === '' ? 'modules:\n' : `modules:\n  ${modules}\n`)}s2s_cafile: ca.pem\ncertfiles: [site.pem]\ns2s_max_retry_delay: 1\n${options}\n`)
        zone[`_xmpp-server._tcp.${domain}`] = { SRV: [[0, 0, await site.plug(), 'here.test']] }
      }
      names.zone = zone
      await Promise.all(sites.map((site) => site.start()))
    })
    afterEach(async () => {
      for (const site of sites.splice(0)) await site.end()
      await names[Symbol.asyncDispose]()
      await rm(dir, { recursive: true, force: true })
    })

    it('every message that was acknowledged is with the recipient\'s server once, whatever was killed or cut', async () => {
      const [a, b] = sites as [Site, Site]
      const [romeo, juliet] = [new Speaker(a, 'romeo'), new Speaker(b, 'juliet')]
      const talk = async (): Promise<void> => {
        for (let i = 0; i < 5; i++) {
          await romeo.say('juliet@b.test', 10)
          await juliet.say('romeo@a.test', 10)
          await pause(20)
        }
      }
      await talk()
      for (const disturb of [
        async () => { a.cut(); b.cut() },
        async () => { await b.kill(); await talkTo(romeo, 'juliet@b.test'); await b.start() },
        async () => { await a.kill(); await a.start() },
        async () => { b.cut() },
        async () => { await Promise.all([a.kill(), b.kill()]); await Promise.all([a.start(), b.start()]) },
        async () => { await b.kill('SIGTERM'); await b.start() },
        async () => { a.cut(); b.cut() },
      ]) {
        const talking = talk()
        await pause(30)
        await disturb()
        romeo.lose()
        await talking
      }
      await Promise.all([romeo.settle(), juliet.settle()])
      for (const [site, user, speaker, from, own] of [[b, 'juliet', romeo, a, 'romeo'], [a, 'romeo', juliet, b, 'juliet']] as const) {
        const heard = async (): Promise<string[]> => (await history(site, user)).filter((text) => text.startsWith(speaker === romeo ? 'romeo' : 'juliet'))
        await until(async () => new Set(await heard()).size >= speaker.said.length, 30_000).catch(() => {})
        const found = await heard()
        expect(speaker.said.filter((text) => !found.includes(text)), `lost on the way to ${user}`).to.deep.equal([])
        expect(found.filter((text, at) => found.indexOf(text) !== at), `doubled on the way to ${user}`).to.deep.equal([])
        const sent = (await history(from, own)).filter((text) => text.startsWith(own))
        expect(found, 'in the order of the sender\'s archive').to.deep.equal(sent)
      }
    })
  })
}

async function talkTo(speaker: Speaker, to: string): Promise<void> {
  await speaker.say(to, 20)
}
