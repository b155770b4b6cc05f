/** Several servers that find each other by a name server of the test, and a peer that speaks as a server in any way it likes. */
import { once } from 'node:events'
import net from 'node:net'
import { type ConnectionOptions, TLSSocket, connect as connectTls } from 'node:tls'
import { type Client, type ConnectOptions, connect } from '../../lib/client/client.ts'
import type { Stanza } from '../../lib/stanza/stanza.ts'
import { StreamParser } from '../../lib/xml/parser.ts'
import { startTestServer, TEST_CONFIG, type TestServer } from '../test-server.ts'
import type { Storage } from '../storage/shapes.ts'
import { makeServerAuthority, type ServerAuthority } from './certificates.fixture.ts'
import { type NameServer, startNameServer, type Zone } from './dns.fixture.ts'

export interface Site extends AsyncDisposable {
  readonly domain: string
  readonly test: TestServer
  readonly s2sPort: number
  /** Where the name server sends others. */
  listed: number
  login(user?: string, more?: Partial<ConnectOptions>): Promise<Client>
}

export interface SiteOptions {
  /** Options of the top level; by default those of a server that believes in dialback. */
  readonly options?: string
  /** In place of mod_s2s_dialback. */
  readonly modules?: string
  readonly listen?: string
  /** With a certificate of the world's authority. */
  readonly certified?: boolean
  readonly hosts?: readonly string[]
  readonly storage?: Storage
  readonly users?: readonly string[]
}

export class World implements AsyncDisposable {
  readonly names: NameServer
  readonly authority: ServerAuthority
  readonly sites = new Map<string, Site>()
  readonly #clients: Client[] = []
  readonly #closing: (() => void)[] = []

  private constructor(names: NameServer, authority: ServerAuthority) {
    this.names = names
    this.authority = authority
  }

  static async begin(): Promise<World> {
    return new World(await startNameServer({}), await makeServerAuthority())
  }

  async site(domain: string, { options = '', modules = 'mod_s2s_dialback: {}', listen = '', certified = false, hosts = [domain], storage, users = ['romeo', 'juliet'] }: SiteOptions = {}): Promise<Site> {
    const issued = certified ? await this.authority.issue({ dns: hosts.flatMap((host) => [host, `*.${host}`]) }) : undefined
    const text = TEST_CONFIG
      .replace('hosts: [localhost]', `hosts: [${hosts.join(', ')}]`)
      .replace('listen:\n', `listen:\n  - { port: 0, ip: 127.0.0.1, module: ejabberd_s2s_in${listen} }\n`)
      .replace('modules:\n', `modules:\n  mod_muc: { host: "conference.@HOST@", default_room_options: { mam: true } }\n${modules.split('\n').filter((line) => line !== '').map((line) => `  ${line}\n`).join('')}`)
    const files = issued === undefined ? { 'ca.pem': this.authority.certificate } : { 'ca.pem': this.authority.certificate, 'site.pem': issued.cert + issued.key }
    const test = await startTestServer({
      config: `${text}s2s_cafile: ca.pem\n${issued === undefined ? '' : 'certfiles: [site.pem]\n'}${options}\n`,
      files, nameServers: [this.names.address], auth: undefined,
      accounts: Object.fromEntries(users.flatMap((user) => hosts.map((host) => [`${user}@${host}`, 'secret']))),
      ...(storage === undefined ? {} : { storage }),
    })
    const list = (name: string, port: number): void => { this.list(name, port) }
    const clients = this.#clients
    const site: Site = {
      domain, test,
      get s2sPort() { return test.server.ports.find(({ module }) => module === 'ejabberd_s2s_in')?.port ?? 0 },
      get listed() { return listed },
      set listed(port: number) {
        listed = port
        for (const host of hosts) for (const name of [host, `conference.${host}`, `pubsub.${host}`]) list(name, port)
      },
      async login(user = 'romeo', more = {}) {
        const client = await connect({ host: '127.0.0.1', port: test.port, domain, tls: 'none', user, password: 'secret', ...more })
        clients.push(client)
        return client
      },
      async [Symbol.asyncDispose]() { await test[Symbol.asyncDispose]() },
    }
    let listed = 0
    site.listed = site.s2sPort
    this.sites.set(domain, site)
    return site
  }

  /** The server of a domain is on this port of this machine. */
  list(domain: string, port: number): void {
    this.names.zone = { ...this.names.zone, [`_xmpp-server._tcp.${domain}`]: { SRV: [[0, 0, port, 'here.test']] }, 'here.test': { A: ['127.0.0.1'] } } as Zone
  }

  /** A server of the test's own for a domain: each connection is given to `talk`. */
  async server(domain: string, talk: (peer: Peer) => void): Promise<{ readonly port: number; readonly connections: Peer[] }> {
    const connections: Peer[] = []
    const server = net.createServer((socket) => {
      const peer = new Peer(socket)
      connections.push(peer)
      talk(peer)
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    const { port } = server.address() as net.AddressInfo
    this.list(domain, port)
    this.#closing.push(() => {
      server.close()
      for (const peer of connections) peer.destroy()
    })
    return { port, connections }
  }

  /** Connects to a site as another server does. */
  async peer(site: Site): Promise<Peer> {
    const socket = net.connect(site.s2sPort, '127.0.0.1')
    await once(socket, 'connect')
    const peer = new Peer(socket)
    this.#closing.push(() => { peer.destroy() })
    return peer
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const client of this.#clients) client.destroy()
    for (const close of this.#closing) close()
    for (const site of this.sites.values()) await site[Symbol.asyncDispose]()
    await this.names[Symbol.asyncDispose]()
  }
}

const HEADER = "<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' xmlns:db='jabber:server:dialback'"

/** One connection, in bytes and elements. */
export class Peer {
  #socket: net.Socket
  #parser: StreamParser
  readonly #seen: Stanza[] = []
  #wake: (() => void) | undefined
  /** Attributes of the last stream header that came. */
  header: Readonly<Record<string, string>> = {}
  #headers = 0
  closed = false
  on: ((stanza: Stanza) => void) | undefined

  constructor(socket: net.Socket) {
    this.#socket = socket
    this.#parser = this.#newParser()
    this.#attach(socket)
  }

  #newParser(): StreamParser {
    return new StreamParser({ stanzaBytes: 1e6, depth: 100, attributes: 100, children: 10_000 }, {
      streamOpened: ({ attrs }) => {
        this.header = attrs
        this.#headers++
        this.#wake?.()
      },
      stanza: (stanza) => {
        this.on?.(stanza)
        this.#seen.push(stanza)
        this.#wake?.()
      },
      streamClosed: () => { this.#socket.end() },
    }, 'jabber:server')
  }

  #attach(socket: net.Socket): void {
    socket.on('error', () => {})
    socket.on('data', (chunk) => { this.#parser.write(Buffer.from(chunk as Buffer)) })
    socket.on('close', () => {
      if (socket !== this.#socket) return
      this.closed = true
      this.#wake?.()
    })
  }

  send(text: string): void { this.#socket.write(text) }
  destroy(): void { this.#socket.destroy() }

  /** Begins a stream, or a new one; resolves with the other side's features. */
  async open(from: string, to: string): Promise<Stanza> {
    this.#parser.reset()
    this.send(`${HEADER} from='${from}' to='${to}' version='1.0'>`)
    return this.receive(({ name }) => name === 'features')
  }

  /** As the server of a domain: answers the stream header, with these features. */
  async answer(from: string, id: string, features = "<dialback xmlns='urn:xmpp:features:dialback'><errors/></dialback>"): Promise<void> {
    const before = this.#headers
    await this.until(() => this.#headers > before || this.#headers > 0)
    this.send(`${HEADER} from='${from}' id='${id}' version='1.0'><stream:features>${features}</stream:features>`)
  }

  /** TLS, as the side that has connected. */
  async secure(options: ConnectionOptions = {}): Promise<void> {
    this.send("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
    await this.receive(({ name }) => name === 'proceed')
    const plain = this.#socket
    plain.removeAllListeners('data')
    const secured = connectTls({ socket: plain, rejectUnauthorized: false, ...options })
    this.#socket = secured
    await once(secured, 'secureConnect')
    this.#parser = this.#newParser()
    this.#attach(secured)
  }

  get encrypted(): boolean { return this.#socket instanceof TLSSocket }

  async receive(wanted: (stanza: Stanza) => boolean = () => true, timeoutMs = 5000): Promise<Stanza> {
    let index = -1
    await this.until(() => (index = this.#seen.findIndex(wanted)) >= 0 || this.closed, timeoutMs)
    if (index < 0) throw new Error(`closed; had ${this.#seen.map(String).join(' ')}`)
    return this.#seen.splice(index, 1)[0] as Stanza
  }

  /** The condition of the stream error by which it ends. */
  async error(): Promise<string> {
    const error = await this.receive(({ name, xmlns }) => name === 'error' && xmlns === 'http://etherx.jabber.org/streams')
    return error.children[0]?.name ?? ''
  }

  async until(holds: () => boolean, timeoutMs = 5000): Promise<void> {
    for (const end = Date.now() + timeoutMs; !holds();) {
      if (Date.now() > end) throw new Error(`nothing came; had ${this.#seen.map(String).join(' ')}`)
      await new Promise<void>((resolve) => {
        this.#wake = resolve
        setTimeout(resolve, 20)
      })
    }
  }
}

export async function until(holds: () => boolean | Promise<boolean>, timeoutMs = 8000): Promise<void> {
  for (const end = Date.now() + timeoutMs; !(await holds());) {
    if (Date.now() > end) throw new Error('it does not come to hold')
    await new Promise((resolve) => { setTimeout(resolve, 5) })
  }
}
