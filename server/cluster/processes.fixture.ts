/** For tests with real services: nodes of a cluster as processes of their own, and clients at them. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { type Client, connect, type ConnectOptions } from '../../lib/client/client.ts'
import type { Element } from '../../lib/xml/element.ts'
import { type Redis as RedisService, sharedCassandra, sharedHBase, sharedKafka, startRedis } from '../../services/services.ts'

const BIN = path.resolve(import.meta.dirname, '../../bin/tidings.js')
const START_MS = 120_000
/** A lost node is found out after its lease, and recovered then. */
export const PATIENCE_MS = 60_000

export interface Health {
  readonly healthy: boolean
  readonly storage: { readonly problem?: string }
  readonly sessions: number
}

/** One process of `tidings serve`. */
export class NodeProcess {
  readonly name: string
  readonly child: ChildProcess
  readonly #ended: Promise<number | null>
  /** What it says to people, and its log. */
  text = ''

  constructor(name: string, config: string, ...args: readonly string[]) {
    this.name = name
    this.child = spawn(process.execPath, [BIN, ...args, '--config', config], { stdio: ['ignore', 'pipe', 'pipe'] })
    for (const stream of [this.child.stdout, this.child.stderr]) stream?.on('data', (text) => { this.text += String(text) })
    process.once('exit', () => this.child.kill('SIGKILL'))
    this.#ended = once(this.child, 'exit').then(([code]) => code as number | null)
  }

  async started(): Promise<void> {
    await until(() => this.text.includes('listening for metrics') || this.child.exitCode !== null, START_MS)
    if (this.child.exitCode !== null) throw new Error(`${this.name} ended while it started:\n${this.text}`)
  }

  get port(): number { return this.#port('clients') }
  get inc(): string { return /"what":"cluster_joined","inc":"([^"]+)"/.exec(this.text)?.[1] ?? '' }

  async health(): Promise<Health> {
    return await (await fetch(`http://127.0.0.1:${this.#port('metrics')}/health`)).json() as Health
  }

  /** Ends it as a crash would. */
  async kill(): Promise<void> {
    this.child.kill('SIGKILL')
    await this.#ended
  }

  /** Asks it to end; its exit code. */
  async stop(): Promise<number | null> {
    this.child.kill('SIGTERM')
    return await this.#ended
  }

  #port(what: string): number { return Number(new RegExp(`listening for ${what} on 127\\.0\\.0\\.1:(\\d+)`).exec(this.text)?.[1]) }
}

export type LoginOptions = Partial<ConnectOptions> & {
  /** Empty: none. */
  readonly presence?: string
}

/** Redis of its own; tables and topic of its own in HBase and Kafka, or a keyspace of its own in Cassandra. */
export class Processes implements AsyncDisposable {
  readonly dir: string
  readonly redis: RedisService
  readonly #services: string
  readonly #client: Redis
  readonly #running = new Set<NodeProcess>()
  readonly #clients: Client[] = []

  private constructor(dir: string, redis: RedisService, services: string) {
    this.dir = dir
    this.redis = redis
    this.#services = services
    this.#client = new Redis(redis.ports[0] ?? 0, '127.0.0.1', { maxRetriesPerRequest: null })
    this.#client.on('error', () => undefined)
  }

  static async open(): Promise<Processes> {
    const [kafka, hbase, redis] = await Promise.all([sharedKafka(), sharedHBase(), startRedis()])
    const name = `nodes${process.pid}x${Date.now().toString(36)}`
    return new Processes(await mkdtemp(path.join(tmpdir(), 'tidings-')), redis, `  kafka: {brokers: ["${kafka.brokers[0]}"], topic: ${name}, group: ${name}, partitions: 4, replication: 1}
  hbase: {masters: ["${hbase.masters[0]}"], prefix: ${name}_, regions: 2}`)
  }

  /** Nodes that write history to Cassandra themselves. */
  static async openOnCassandra(): Promise<Processes> {
    const [{ host, port, datacenter }, redis] = await Promise.all([sharedCassandra(), startRedis()])
    return new Processes(await mkdtemp(path.join(tmpdir(), 'tidings-')), redis, `  cassandra: {contact_points: ["${host}:${port}"], local_datacenter: ${datacenter}, keyspace: nodes${process.pid}x${Date.now().toString(36)}, replication: 1}`)
  }

  async #config(name: string): Promise<string> {
    const file = path.join(this.dir, `${name}.yml`)
    await writeFile(file, `hosts: [localhost]
loglevel: info
registration_timeout: infinity
listen:
  - {port: 0, ip: "127.0.0.1", module: ejabberd_c2s}
access_rules:
  local: {allow: all}
modules:
  mod_carboncopy: {}
  mod_disco: {}
  mod_mam: {default: always}
  mod_muc: {}
  mod_offline: {}
  mod_ping: {}
  mod_register: {ip_access: all}
  mod_roster: {}
  mod_stream_mgmt: {}
tidings:
  data: data-${name}
  metrics: {port: 0, ip: 127.0.0.1}
  cluster: {node: ${name}, address: "127.0.0.1:0", redis: {url: "redis://127.0.0.1:${this.redis.ports[0]}"}}
${this.#services}
`)
    return file
  }

  /** Starts a node; resolves when it serves. */
  async start(name: string, ...args: readonly string[]): Promise<NodeProcess> {
    const node = new NodeProcess(name, await this.#config(name), 'serve', ...args)
    this.#running.add(node)
    await node.started()
    return node
  }

  async startWorker(): Promise<NodeProcess> {
    const worker = new NodeProcess('worker', await this.#config('worker'), 'archive-worker')
    this.#running.add(worker)
    return worker
  }

  /** The incarnation of a unit's home. */
  async homeOf(unit: string): Promise<string | undefined> {
    return await this.#client.hget(`tidings:home:{${unit}}`, 'inc') ?? undefined
  }

  /** Incarnations of nodes that are there, or lost and not recovered. */
  async nodes(): Promise<readonly string[]> {
    return await this.#client.hkeys('tidings:{nodes}')
  }

  async login(node: NodeProcess, user: string, options: LoginOptions = {}): Promise<Client> {
    const client = await connect({ host: '127.0.0.1', port: node.port, domain: 'localhost', tls: 'none', user, password: 'secret', resource: 'r', timeoutMs: PATIENCE_MS, ...options })
    this.#clients.push(client)
    if (options.presence !== '') {
      client.send(options.presence ?? '<presence/>')
      await client.receive((element) => element.getName() === 'presence' && element.attrs['from'] === client.jid, PATIENCE_MS)
    }
    return client
  }

  /** The same, again and again while the cluster finds out that a node is gone. */
  async loginSoon(node: NodeProcess, user: string, options: LoginOptions = {}): Promise<Client> {
    for (const end = performance.now() + PATIENCE_MS; ;) {
      try {
        return await this.login(node, user, options)
      } catch (error) {
        if (performance.now() > end) throw error
        await sleep(200)
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const client of this.#clients) client.destroy()
    await Promise.all(Array.from(this.#running, (node) => node.kill()))
    this.#client.disconnect()
    await this.redis[Symbol.asyncDispose]()
    await rm(this.dir, { recursive: true, force: true, maxRetries: 3 })
  }
}

/** All that the archive of the client has, or of a room: ids and bodies. */
export async function history(client: Client, to?: string): Promise<{ id: string; text: string }[]> {
  const found: { id: string; text: string }[] = []
  const stop = client.on((stanza) => {
    const result = stanza.name === 'message' ? stanza.element().getChild('result') : undefined
    const body = result?.getChild('forwarded')?.getChild('message')?.getChildText('body')
    if (result !== undefined && typeof body === 'string') found.push({ id: result.attrs['id'] as string, text: body })
  })
  try {
    for (let after = ''; ;) {
      const answer = await client.sendIq(`<iq type='set'${to === undefined ? '' : ` to='${to}'`}><query xmlns='urn:xmpp:mam:2'><set xmlns='http://jabber.org/protocol/rsm'><max>100</max>${after === '' ? '' : `<after>${after}</after>`}</set></query></iq>`, PATIENCE_MS)
      const fin = answer.getChild('fin')
      if (fin?.attrs['complete'] === 'true') return found
      after = fin?.getChild('set')?.getChildText('last') ?? ''
    }
  } finally {
    stop()
  }
}

export const withId = (id: string) => (element: Element): boolean => element.getName() === 'message' && element.attrs['id'] === id
export const presenceOf = (from: string, type?: string) => (element: Element): boolean => element.getName() === 'presence' && element.attrs['from'] === from && element.attrs['type'] === type

export async function until(condition: () => boolean | Promise<boolean>, ms = PATIENCE_MS): Promise<void> {
  for (const end = performance.now() + ms; !(await condition());) {
    if (performance.now() > end) throw new Error('waited too long')
    await sleep(50)
  }
}
