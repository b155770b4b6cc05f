/**
 * The promise that an acknowledged message is never lost or doubled, put to the test where several nodes are one server: users of three nodes talk
 * while a node, the archive worker, Redis, Kafka or HBase is killed, one node is cut off from all the others, or nothing gets through between two nodes alone.
 *
 *     node conformance/faults.ts [--fault NAME] [--rounds 5] [--rate 500] [--pairs 15] [--logs DIR]
 *
 * Each sender is at one node and his recipient at the next; in the last case their clients are connected to yet another node each. Senders number their messages; everybody has stream management and resumes his stream at any
 * node that takes him, sending again what was not acknowledged. In the end each message must have reached its recipient once and in order (unless its
 * sender got an error for it, as while nothing can be stored: then it must be nowhere), and must stand once in both archives: as clients read them (XEP-0313), and in HBase itself when the worker has done its work.
 */
import { execFileSync, spawn } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { Client, type ConnectOptions, login } from '../lib/client/client.ts'
import type { Stanza } from '../lib/stanza/stanza.ts'
import { openHBaseHistory } from '../server/storage/hbase/history.ts'
import { type HBase, type Kafka, type Redis, startHBase, startKafka, startRedis } from '../services/services.ts'
import { readArchive } from './durability.ts'
import { NodeProcesses, type Services } from './node-processes.ts'
import type { ServerProcess } from './server-process.ts'

export const FAULTS = ['node', 'worker', 'redis', 'kafka', 'hbase', 'cut', 'between'] as const
export type Fault = (typeof FAULTS)[number]

const NODES = 3
const WINDOW = 300
const REQUEST_EVERY = 5
const TICK_MS = 20
const BEFORE_MS = 2000
const AFTER_MS = 2000
/** How long something stays away. */
const AWAY_MS = 2000
/** More than a lease lasts. */
const CUT_MS = 12_000
const DEADLINE_MS = 240_000
const LOGIN_MS = 10_000

export interface FaultsOptions {
  readonly rate: number
  readonly pairs: number
  readonly logs?: string
  /** Whether each node is in a network of its own, which takes root. */
  readonly canCut: boolean
}

export interface FaultResult {
  readonly messages: number
  /** When the fault came. */
  readonly acknowledged: number
  /** From the fault until everybody's messages were acknowledged again, ms. */
  readonly recoveredMs: number
  readonly notResumed: number
  /** Messages that were answered with an error. */
  readonly refused: number
  readonly faults: readonly string[]
}

/** A network of a place for each node, behind one end of a wire; the services are at the other, with the machine. */
class Network implements AsyncDisposable {
  readonly near: string
  readonly #places: { readonly name: string; readonly host: string }[] = []
  readonly #bridge = `tb${process.pid % 100_000}`
  readonly #subnet = `10.201.${process.pid % 250}`
  readonly #forwarders: { kill(): void }[] = []

  private constructor() { this.near = `${this.#subnet}.1` }

  static async make(places: number, services: readonly string[]): Promise<Network> {
    const network = new Network()
    const { near } = network
    const bridge = network.#bridge
    // Services say that they are at 127.0.0.1: a port there leads over the wire to the same port here.
    const ports = services.map((each) => each.slice(each.lastIndexOf(':') + 1))
    try {
      ip('link', 'add', bridge, 'type', 'bridge')
      ip('addr', 'add', `${near}/24`, 'dev', bridge)
      ip('link', 'set', bridge, 'up')
      await network.#forward([], near, '127.0.0.1', ports)
      for (let i = 0; i < places; i++) {
        const name = `tidings-${process.pid}-${i}`
        const wire = `tw${process.pid % 100_000}-${i}`
        const host = `${network.#subnet}.${2 + i}`
        ip('netns', 'add', name)
        network.#places.push({ name, host })
        ip('link', 'add', wire, 'type', 'veth', 'peer', 'name', 'tidings0', 'netns', name)
        ip('link', 'set', wire, 'master', bridge, 'up')
        ip('-n', name, 'addr', 'add', `${host}/24`, 'dev', 'tidings0')
        ip('-n', name, 'link', 'set', 'tidings0', 'up')
        ip('-n', name, 'link', 'set', 'lo', 'up')
        await network.#forward(['ip', 'netns', 'exec', name], '127.0.0.1', near, ports)
      }
      return network
    } catch (error) {
      await network[Symbol.asyncDispose]()
      throw error
    }
  }

  place(index: number): { readonly name: string; readonly host: string } {
    const place = this.#places[index]
    if (place === undefined) throw new Error('there is no such place')
    return place
  }

  /** Nothing gets through to a place or from there any more, and nobody is told. */
  cut(index: number): void { ip('-n', this.place(index).name, 'route', 'add', 'blackhole', `${this.#subnet}.0/25`) }
  mend(index: number): void { ip('-n', this.place(index).name, 'route', 'del', 'blackhole', `${this.#subnet}.0/25`) }

  /** Nothing gets from one of these to the other: it goes to where nobody is. */
  cutBetween(one: number, other: number): void {
    for (const [from, to] of [[one, other], [other, one]] as const) ip('-n', this.place(from).name, 'neigh', 'replace', this.place(to).host, 'lladdr', '02:00:00:00:00:01', 'nud', 'permanent', 'dev', 'tidings0')
  }

  mendBetween(one: number, other: number): void {
    for (const [from, to] of [[one, other], [other, one]] as const) ip('-n', this.place(from).name, 'neigh', 'del', this.place(to).host, 'dev', 'tidings0')
  }

  async #forward(prefix: readonly string[], from: string, to: string, ports: readonly string[]): Promise<void> {
    const code = `const net=require('net');let left=${ports.length};for(const port of [${ports.join(',')}])net.createServer((a)=>{const b=net.connect(port,'${to}');for(const[x,y]of[[a,b],[b,a]]){x.setNoDelay(true);x.on('error',()=>y.destroy());x.on('close',()=>y.destroy());x.pipe(y)}}).listen(port,'${from}',()=>--left||console.log('there'))`
    const [file, ...args] = [...prefix, process.execPath, '-e', code]
    const child = spawn(file, args, { stdio: ['ignore', 'pipe', 'inherit'] })
    this.#forwarders.push({ kill: () => { child.kill('SIGKILL') } })
    process.once('exit', () => child.kill('SIGKILL'))
    await new Promise((resolve, reject) => {
      child.stdout.once('data', resolve)
      child.once('exit', (status) => { reject(new Error(`a forwarder ended with ${status}`)) })
    })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const each of this.#forwarders) each.kill()
    for (const { name } of this.#places) ip('netns', 'del', name)
    ip('link', 'del', this.#bridge)
  }
}

function ip(...args: readonly string[]): void {
  execFileSync('ip', args, { stdio: 'pipe' })
}

/** Why no node can be cut off here; undefined when one can. */
export function whyNoCut(): string | undefined {
  const name = `tidings-try-${process.pid}`
  try {
    ip('netns', 'add', name)
    ip('link', 'add', `tr${process.pid % 100_000}`, 'type', 'veth', 'peer', 'name', 'tidings0', 'netns', name)
    ip('netns', 'del', name)
    return undefined
  } catch (error) {
    return `no network namespaces here (root, and the program ip): ${(error as Error).message.split('\n')[0]}`
  }
}

export class Cluster implements AsyncDisposable {
  readonly #options: FaultsOptions
  readonly #closing: AsyncDisposableStack
  readonly redis: Redis
  readonly kafka: Kafka
  readonly hbase: HBase
  readonly network: Network | undefined
  readonly processes: NodeProcesses
  readonly name: string
  #round = 0

  private constructor(options: FaultsOptions, closing: AsyncDisposableStack, parts: Pick<Cluster, 'redis' | 'kafka' | 'hbase' | 'network' | 'processes' | 'name'>) {
    this.#options = options
    this.#closing = closing
    this.redis = parts.redis
    this.kafka = parts.kafka
    this.hbase = parts.hbase
    this.network = parts.network
    this.processes = parts.processes
    this.name = parts.name
  }

  static async start(options: FaultsOptions): Promise<Cluster> {
    await using opened = new AsyncDisposableStack()
    const [redis, kafka, hbase] = await Promise.all([startRedis({ args: ['--bind', '0.0.0.0', '--protected-mode', 'no'] }), startKafka(), startHBase()])
    for (const each of [redis, kafka, hbase]) opened.use(each)
    const [broker = ''] = kafka.brokers
    const [hbaseMaster = ''] = hbase.masters
    const services: Services = { redisUrl: redis.url, broker, hbaseMaster }
    const regionServer = `localhost:${Number(hbaseMaster.split(':')[1]) + 1}`
    const network = options.canCut ? opened.use(await Network.make(NODES, [broker, hbaseMaster, regionServer])) : undefined
    const { logs } = options
    if (logs !== undefined) mkdirSync(logs, { recursive: true })
    const name = `faults${process.pid}`
    const processes = opened.use(await NodeProcesses.start({
      services, name, nodes: NODES,
      ...logs !== undefined && { log: (each: string) => path.join(logs, `${each}.log`) },
      ...network && {
        place: (index) => ({ prefix: ['ip', 'netns', 'exec', network.place(index).name], host: network.place(index).host, services: { ...services, redisUrl: `redis://${network.near}:${redis.ports[0]}` } }),
      },
    }))
    return new Cluster(options, opened.move(), { redis, kafka, hbase, network, processes, name })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#closing.disposeAsync()
  }

  /** One round: users come, talk, see the fault, talk on, and everything is compared. */
  async run(fault: Fault): Promise<FaultResult> {
    const { rate, pairs: count } = this.#options
    const { nodes } = this.processes
    const tag = `${fault}${this.#round++}`
    const pairs = Array.from({ length: count }, (_, i) => new Pair(nodes, i, tag, fault === 'between' ? 1 : 0))
    await Promise.all(pairs.map((pair) => pair.begin()))
    let owed = 0
    let next = 0
    const load = setInterval(() => {
      for (owed += rate * TICK_MS / 1000; owed >= 1; owed--) pairs[next++ % pairs.length]?.say()
    }, TICK_MS)
    try {
      await sleep(BEFORE_MS + Math.random() * 1000)
      const acknowledged = pairs.reduce((sum, pair) => sum + pair.acknowledged, 0)
      const at = performance.now()
      const mend = await this.#inject(fault)
      const marks = pairs.map((pair) => pair.sent)
      await until(() => pairs.every((pair, i) => pair.acknowledged >= (marks[i] ?? 0)), () => `not acknowledged after the fault: ${pairs.filter((pair, i) => pair.acknowledged < (marks[i] ?? 0)).map((pair) => pair.state).join('; ')}`)
      const recoveredMs = performance.now() - at
      mend?.()
      await sleep(AFTER_MS)
      clearInterval(load)
      await Promise.all(pairs.map((pair) => pair.finish()))
      await this.#compareStored(pairs)
      return {
        messages: pairs.reduce((sum, pair) => sum + pair.sent, 0), acknowledged, recoveredMs,
        notResumed: pairs.reduce((sum, pair) => sum + pair.notResumed, 0), refused: pairs.reduce((sum, pair) => sum + pair.from.refused.size, 0), faults: pairs.flatMap((pair) => pair.faults),
      }
    } finally {
      clearInterval(load)
      for (const pair of pairs) pair.stop()
    }
  }

  /** Answers what ends the fault, when that is not over by itself. */
  async #inject(fault: Fault): Promise<(() => void) | void> {
    const { redis, kafka, hbase, network, processes: { nodes, worker } } = this
    switch (fault) {
      case 'node': return restart(nodes[this.#round % NODES] as ServerProcess)
      case 'worker': return restart(worker)
      case 'redis': return away(redis)
      case 'kafka': return away(kafka)
      case 'hbase': return away(hbase)
      case 'cut': {
        if (network === undefined) throw new Error('there is no network to cut')
        network.cut(NODES - 1)
        await sleep(CUT_MS)
        // It hears that it was given up for lost, closes its sessions, and begins anew.
        return network.mend(NODES - 1)
      }
      case 'between': {
        if (network === undefined) throw new Error('there is no network to cut')
        network.cutBetween(0, 1)
        await sleep(CUT_MS)
        return () => { network.mendBetween(0, 1) }
      }
    }
  }

  /** What HBase has in the end. */
  async #compareStored(pairs: readonly Pair[]): Promise<void> {
    await using store = await openHBaseHistory({ masters: this.hbase.masters, prefix: `${this.name}_` })
    const limit = performance.now() + DEADLINE_MS
    for (const pair of pairs) {
      for (const owner of [pair.from.bare, pair.to.bare]) {
        for (;;) {
          const { items } = await store.query(owner, { max: 1_000_000, direction: 'forward' })
          if (items.length < pair.accepted && performance.now() < limit) {
            await sleep(500)
            continue
          }
          pair.compare(`HBase of ${owner}`, items.map(({ bytes }) => Number(/<body>(\d+)<\/body>/.exec(bytes.toString())?.[1])))
          break
        }
      }
    }
  }
}

async function restart(server: ServerProcess): Promise<void> {
  await server.kill('SIGKILL')
  await sleep(AWAY_MS)
  await server.run()
}

async function away(service: Redis | Kafka | HBase): Promise<void> {
  await service.kill()
  await sleep(AWAY_MS)
  await service.restart()
}

/** Somebody's client, which comes back when it has lost its server. */
class Person {
  readonly bare: string
  readonly received: number[] = []
  /** Numbers of own messages that were answered with an error. */
  readonly refused = new Set<number>()
  readonly #nodes: readonly ServerProcess[]
  readonly #options: Pick<ConnectOptions, 'domain' | 'tls' | 'user' | 'password' | 'resource' | 'timeoutMs'>
  readonly #homeAt: number
  /** Where his client connects first. */
  readonly #entry: number
  #isOver = false
  notResumed = 0
  client: Client | undefined
  isOpen = false
  lastError = ''

  constructor(nodes: readonly ServerProcess[], at: number, user: string, away: number) {
    this.#nodes = nodes
    this.#homeAt = at
    this.#entry = (at + away) % nodes.length
    this.bare = `${user}@localhost`
    this.#options = { domain: 'localhost', tls: 'none', user, password: 'pencil', resource: 'phone', timeoutMs: LOGIN_MS }
  }

  async begin(): Promise<void> {
    await this.#open(this.#homeAt, { register: true, sm: true })
    if (this.#entry !== this.#homeAt) {
      await this.client?.disconnect()
      await this.#open(this.#entry, { sm: true })
    }
    this.client?.send('<presence/>')
    await this.client?.ping(LOGIN_MS)
    void this.#stay()
  }

  stop(): void {
    this.#isOver = true
    this.client?.destroy()
  }

  /** At a node that takes him. */
  async readArchive(): Promise<number[]> {
    return await this.#anywhere((address) => readArchive({ ...this.#options, ...address }))
  }

  async #stay(): Promise<void> {
    while (!this.#isOver) {
      const client = this.client as Client
      await client.closed
      this.isOpen = false
      if (this.#isOver) return
      try {
        await this.#back(client)
      } catch (error) {
        this.lastError = String(error)
        return
      }
    }
  }

  async #back(before: Client): Promise<void> {
    // A server that goes in the middle of a resumption may have heard the first of what is sent again.
    let last = before
    await this.#anywhere(async (_address, at) => {
      if (this.#isOver) return
      const resume = last.resumeState()
      await this.#open(at, { sm: true, resume }, (client) => { last = client })
      if (this.client?.resumed !== true) {
        this.notResumed++
        this.client?.send('<presence/>')
      }
      this.client?.connection.write("<r xmlns='urn:xmpp:sm:3'/>")
    })
  }

  async #open(at: number, more: Partial<ConnectOptions>, started?: (client: Client) => void): Promise<void> {
    const options = { ...this.#options, ...addressOf(this.#nodes[at]), ...more }
    const { connection, features } = await login(options)
    const client = new Client(connection, false)
    client.on((stanza) => { this.#take(stanza) })
    try {
      await client.start(features, options)
    } catch (error) {
      if (client.resumed) started?.(client)
      connection.destroy()
      throw error
    }
    this.client = client
    this.isOpen = !client.ended
    started?.(client)
  }

  /** Tries the nodes in turn until it succeeds. */
  async #anywhere<T>(run: (address: { readonly host: string; readonly port: number }, at: number) => Promise<T>): Promise<T> {
    const limit = performance.now() + DEADLINE_MS
    for (let i = 0; ; i++) {
      const at = (this.#entry + i) % this.#nodes.length
      try {
        return await run(addressOf(this.#nodes[at]), at)
      } catch (error) {
        this.lastError = String(error)
        if (performance.now() > limit) throw error
        await sleep(50 + Math.random() * 100)
      }
    }
  }

  #take(stanza: Stanza): void {
    if (stanza.name === 'message' && stanza.element().attrs['type'] === 'error') {
      const number = Number(stanza.element().attrs['id']?.slice(1))
      if (Number.isInteger(number)) this.refused.add(number)
      return
    }
    const body = stanza.name === 'message' ? stanza.find('body', 'jabber:client') : undefined
    if (body !== undefined) this.received.push(Number(stanza.childElement(body).getText()))
  }
}

class Pair {
  readonly from: Person
  readonly to: Person
  readonly #faults: string[] = []
  sent = 0

  /** `away`: so many nodes on from their homes their clients connect. */
  constructor(nodes: readonly ServerProcess[], index: number, tag: string, away: number) {
    this.from = new Person(nodes, index % nodes.length, `s${index}-${tag}`, away)
    this.to = new Person(nodes, (index + 1) % nodes.length, `r${index}-${tag}`, away)
  }

  get faults(): readonly string[] { return this.#faults }
  get notResumed(): number { return this.from.notResumed + this.to.notResumed }
  get acknowledged(): number { return this.sent - (this.from.client?.unacked.length ?? 0) }
  /** How many must be there in the end. */
  get accepted(): number { return this.sent - this.from.refused.size }
  get state(): string { return `${this.from.bare} sent ${this.sent}, acknowledged ${this.acknowledged}, ${this.from.isOpen ? 'open' : `away (${this.from.lastError})`}; ${this.to.bare} ${this.to.isOpen ? 'open' : `away (${this.to.lastError})`}` }

  async begin(): Promise<void> {
    await this.to.begin()
    await this.from.begin()
  }

  stop(): void {
    this.from.stop()
    this.to.stop()
  }

  /** Sends the next message, unless too many are not acknowledged. */
  say(): void {
    const { client, isOpen } = this.from
    if (client === undefined || !isOpen || client.ended || client.unacked.length >= WINDOW) return
    const number = this.sent++
    client.send(`<message to='${this.to.bare}' type='chat' id='m${number}'><body>${number}</body></message>`)
    if (number % REQUEST_EVERY === 0) client.connection.write("<r xmlns='urn:xmpp:sm:3'/>")
  }

  async finish(): Promise<void> {
    const { from, to } = this
    await until(() => {
      if (this.acknowledged === this.sent) return true
      if (from.isOpen && from.client?.ended === false) from.client.connection.write("<r xmlns='urn:xmpp:sm:3'/>")
      return false
    }, () => `not acknowledged in the end: ${this.state}`)
    await until(() => to.received.length >= this.accepted, () => '').catch(() => undefined)
    await sleep(200)
    this.compare(`received by ${to.bare}`, to.received)
    for (const person of [from, to]) this.compare(`archive of ${person.bare}`, await person.readArchive())
  }

  compare(where: string, numbers: readonly number[]): void {
    const times = new Map<number, number>()
    for (const number of numbers) times.set(number, (times.get(number) ?? 0) + 1)
    const { refused } = this.from
    const missing = Array.from({ length: this.sent }, (_, number) => number).filter((number) => !times.has(number) && !refused.has(number))
    const unwanted = [...times.keys()].filter((number) => refused.has(number))
    const twice = [...times].filter(([, count]) => count > 1).map(([number]) => number)
    const disorder = numbers.filter((number, at) => at > 0 && number < (numbers[at - 1] as number))
    for (const [what, which] of [['missing', missing], ['refused, and there', unwanted], ['twice', twice], ['out of order', twice.length > 0 ? [] : disorder]] as const) {
      if (which.length > 0) this.#faults.push(`${where}: ${which.length} of ${this.sent} ${what}: ${which.slice(0, 5).join(' ')}…${which.at(-1)}`)
    }
  }
}

function addressOf(node: ServerProcess | undefined): { readonly host: string; readonly port: number } {
  if (node === undefined) throw new Error('there is no such node')
  return { host: node.host, port: node.port }
}

async function until(condition: () => boolean, what: () => string): Promise<void> {
  const limit = performance.now() + DEADLINE_MS
  while (!condition()) {
    if (performance.now() > limit) throw new Error(what())
    await sleep(50)
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: { fault: { type: 'string' }, rounds: { type: 'string', default: '5' }, rate: { type: 'string', default: '500' }, pairs: { type: 'string', default: '15' }, logs: { type: 'string' } },
  })
  const why = whyNoCut()
  const chosen = FAULTS.filter((fault) => values.fault === undefined ? (fault !== 'cut' && fault !== 'between') || why === undefined : values.fault.split(',').includes(fault))
  if (why !== undefined) console.log(`nothing is cut: ${why}`)
  await using cluster = await Cluster.start({ rate: Number(values.rate), pairs: Number(values.pairs), canCut: why === undefined, ...values.logs !== undefined && { logs: values.logs } })
  let count = 0
  for (const fault of chosen) {
    for (let round = 1; round <= Number(values.rounds); round++) {
      const { messages, acknowledged, recoveredMs, notResumed, refused, faults } = await cluster.run(fault)
      count += faults.length
      console.log(`${fault} ${round}: ${messages} messages, ${acknowledged} acknowledged before; all acknowledged again after ${(recoveredMs / 1000).toFixed(1)} s; ${notResumed} streams not resumed; ${refused} messages refused; ${faults.length} faults`)
      for (const each of faults) console.log(`  ${each}`)
    }
  }
  process.exitCode = count === 0 ? 0 : 1
}

if (import.meta.main) await main()
