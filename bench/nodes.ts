/**
 * What a message costs where several nodes are one server: 1, 2 and 3 chat nodes as processes of their own over Redis, Kafka, an archive worker
 * and HBase, beside one process with the embedded archive. Users are spread evenly, and send to a user at the next node. Microseconds of
 * CPU a message: of all our processes (nodes and worker), and of Redis, Kafka and HBase.
 *
 * Two kinds of load: a closed loop, where each user has one message in flight, so that the rate is what the machine gives; and a rate of so many
 * messages a second of all users together, whatever the servers do, for the one process and for nodes alike. Each user acknowledges what it is asked for.
 * Before, so many messages (--warm) go through each server in a closed loop: until then much of what it costs is that its code is compiled.
 *
 *     node bench/nodes.ts [--rounds 3] [--messages 20000] [--users 100] [--nodes 1,2,3] [--rates 500,2000] [--seconds 10] [--no-closed] [--warm 40000] [--profile DIR]
 *       [--kafka HOST:PORT,PID --hbase HOST:PORT,PID]
 */
import { mkdirSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { login } from '../lib/client/client.ts'
import { NodeProcesses } from '../conformance/node-processes.ts'
import { startHBase, startKafka, startRedis } from '../services/services.ts'
import { chatMessage, each, makeUsers, parseId, PASSWORD, Tally, userName } from './load.ts'
import { cpuMicros, loadAverage, machine } from './process.ts'
import { RawUser } from './raw-user.ts'
import { type RunningServer, startServer } from './servers.ts'

const MISSING_MS = 20_000
/** A closed loop may be slow on a machine that does other things. */
const MEASURE_MS = 60_000
/** Of the load at a rate: between two looks at what is due. */
const TICK_MS = 1
/** With more than so many seconds' messages under way the servers are overloaded, and the load waits. */
const BEHIND_SECONDS = 2

const { values } = parseArgs({
  allowNegative: true,
  options: {
    rounds: { type: 'string', default: '3' }, messages: { type: 'string', default: '20000' }, users: { type: 'string', default: '100' }, nodes: { type: 'string', default: '1,2,3' },
    rates: { type: 'string', default: '' }, seconds: { type: 'string', default: '10' }, closed: { type: 'boolean', default: true }, warm: { type: 'string', default: '40000' }, profile: { type: 'string' }, kafka: { type: 'string' }, hbase: { type: 'string' },
  },
})
const messages = Number(values.messages)
const users = Number(values.users)

interface Address { readonly host: string; readonly port: number }
/** A load: messages a second, or none for a closed loop. */
type Load = number | undefined
interface Figures { readonly load: Load; readonly perMessage: readonly number[]; readonly perSecond: number; readonly latency: string; readonly errors: string }

class Run {
  readonly tally = new Tally()
  readonly #people: readonly RawUser[]
  readonly #sequences: Uint32Array
  readonly #targets: readonly string[]
  /** When each message was sent, by user and sequence. */
  readonly #sentAt: number[][]
  readonly #latencies: number[] = []
  #lastAt = 0

  constructor(people: readonly RawUser[], servers: number) {
    this.#people = people
    this.#sequences = new Uint32Array(people.length)
    this.#targets = people.map((_, index) => (people[partner(index, servers, people.length)] as RawUser).jid)
    this.#sentAt = people.map(() => [])
  }

  /** Median and 99th percentile from the sender to the recipient. */
  get latency(): string {
    const sorted = this.#latencies.toSorted((a, b) => a - b)
    return [0.5, 0.99].map((part) => (sorted[Math.floor(sorted.length * part)] ?? 0).toFixed(1)).join(' to ')
  }

  /** Seconds until the last message came. */
  async run(load: Load, count: number): Promise<number> {
    const { tally } = this
    const startedAt = performance.now()
    this.#lastAt = startedAt
    const isGoing = (): boolean => tally.sent < count && this.#lastAt - startedAt < MEASURE_MS
    for (const user of this.#people) {
      user.onMessage = (text) => {
        const id = parseId(text)
        if (id === undefined) return
        tally.took(id[0], id[1])
        this.#lastAt = performance.now()
        this.#latencies.push(this.#lastAt - (this.#sentAt[id[0]]?.[id[1]] ?? 0))
        if (load === undefined && isGoing()) this.#send(id[0])
      }
    }
    if (load === undefined) for (let i = 0; i < this.#people.length; i++) this.#send(i)
    else await this.#atRate(load, isGoing)
    while (tally.received < tally.sent && performance.now() - this.#lastAt < MISSING_MS) await sleep(20)
    for (const user of this.#people) user.onMessage = undefined
    return (this.#lastAt - startedAt) / 1000
  }

  /** Users in turn, so that what is sent at once is of many. */
  async #atRate(load: number, isGoing: () => boolean): Promise<void> {
    const { tally } = this
    let at = performance.now()
    for (let due = 0, next = 0; isGoing();) {
      await sleep(TICK_MS)
      const now = performance.now()
      due += (now - at) * load / 1000
      at = now
      if (tally.sent - tally.received > load * BEHIND_SECONDS) due = 0
      for (; due >= 1 && isGoing(); due--) this.#send(next++ % this.#people.length)
    }
  }

  #send(index: number): void {
    const sequence = this.#sequences[index] as number
    this.#sequences[index] = sequence + 1
    this.tally.sent++
    ;(this.#sentAt[index] as number[])[sequence] = performance.now()
    const message = chatMessage(this.#targets[index] as string, `b${index}-${sequence}`)
    this.#people[index]?.send(sequence % 10 === 9 ? `${message}<r xmlns='urn:xmpp:sm:3'/>` : message)
  }
}

const kafkaService = values.kafka === undefined ? await startKafka() : undefined
const hbaseService = values.hbase === undefined ? await startHBase({ heap: '1024m' }) : undefined
const [broker, kafkaPid] = kafkaService ? [kafkaService.brokers[0] ?? '', kafkaService.daemons[0]?.pid ?? 0] as const : given(values.kafka ?? '')
const [hbaseMaster, hbasePid] = hbaseService ? [hbaseService.masters[0] ?? '', hbaseService.daemons[0]?.pid ?? 0] as const : given(values.hbase ?? '')
await using redis = await startRedis()
const servicePids = [redis.daemons[0]?.pid ?? 0, kafkaPid, hbasePid]

const loads: readonly Load[] = [...values.closed ? [undefined] : [], ...values.rates.split(',').filter((rate) => rate !== '').map(Number)]

console.log(`${machine()}, load ${loadAverage()}; ${users} users; closed: ${messages} messages, one in flight each; at a rate: ${values.seconds} s; microseconds of CPU a message`)
for (let round = 0; round < Number(values.rounds); round++) {
  const alone = await one()
  for (const figures of alone) console.log(`one process, ${nameOf(figures.load)}: ${figures.perMessage[0]?.toFixed(1)}; ${ending(figures)}`)
  for (const count of values.nodes.split(',').map(Number)) {
    for (const [i, figures] of (await several(round, count)).entries()) {
      const { load, perMessage } = figures
      const nodes = perMessage.slice(0, count).reduce((sum, one) => sum + one, 0)
      const [worker = 0, ...others] = perMessage.slice(count)
      console.log(`${count} nodes, ${nameOf(load)}: ${(nodes + worker).toFixed(1)} = nodes ${nodes.toFixed(1)} + worker ${worker.toFixed(1)}, ${((nodes + worker) / (alone[i]?.perMessage[0] ?? 0)).toFixed(2)} x one process; ${
        ['Redis', 'Kafka', 'HBase'].map((name, i) => `${name} ${others[i]?.toFixed(1)}`).join(', ')}; ${ending(figures)}`)
    }
  }
}
await kafkaService?.kill()
await hbaseService?.kill()

function given(address: string): readonly [string, number] {
  const [where = '', pid] = address.split(',')
  return [where, Number(pid)]
}

function nameOf(load: Load): string { return load === undefined ? 'closed' : `${load}/s` }

function ending({ perSecond, latency, errors }: Figures): string {
  return `${perSecond} messages/s, ${latency} ms; lost, twice or disordered: ${errors}; load ${loadAverage()}`
}

async function one(): Promise<Figures[]> {
  await using server = await startServer('tidings', 'archive')
  await makeUsers(server, users)
  return await talk([server], [server.pid])
}

async function several(round: number, count: number): Promise<Figures[]> {
  if (values.profile !== undefined) mkdirSync(values.profile, { recursive: true })
  const profile = values.profile === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${values.profile}`]
  const cluster = await NodeProcesses.start({
    services: { redisUrl: redis.url, broker, hbaseMaster }, name: `bench${process.pid}r${round}n${count}`, nodes: count, nodeArgs: ['--max-semi-space-size=16', ...profile],
    modules: ['mod_auth_fast: {}', 'mod_blocking: {}', 'mod_caps: {}', 'mod_client_state: {}', 'mod_disco: {}', 'mod_last: {}', 'mod_ping: {}', 'mod_private: {}', 'mod_time: {}', 'mod_vcard: {}', 'mod_version: {}'],
  })
  try {
    await each(users, async (index) => {
      const { host, port } = cluster.nodes[index % count] as Address
      // Where an account is made, there is its home.
      const { connection } = await login({ host, port, domain: 'localhost', tls: 'none', user: userName(index), password: PASSWORD, mechanism: 'SCRAM-SHA-1', register: true, timeoutMs: 30_000 })
      connection.write('</stream:stream>')
      connection.destroy()
    })
    return await talk(cluster.nodes, [...cluster.nodes, cluster.worker].map(({ pid }) => pid).concat(servicePids))
  } finally {
    // Profiles are written at the end.
    await Promise.all([...cluster.nodes, cluster.worker].map((process) => process.kill(values.profile === undefined ? 'SIGKILL' : 'SIGTERM').catch(() => undefined)))
    await cluster[Symbol.asyncDispose]()
  }
}

/** User i is at server i % servers, and talks to one at the next, who talks to him. */
async function talk(servers: readonly Address[], pids: readonly number[]): Promise<Figures[]> {
  const people: RawUser[] = []
  try {
    await each(users, async (index) => {
      const { host, port } = servers[index % servers.length] as Address
      const server = { host, port, domain: 'localhost' } as RunningServer
      people[index] = await RawUser.logIn(server, userName(index), PASSWORD, true)
    })
    const figures: Figures[] = []
    await new Run(people, servers.length).run(undefined, Number(values.warm) * servers.length)
    for (const load of loads) {
      const count = load === undefined ? messages : load * Number(values.seconds)
      await new Run(people, servers.length).run(load, count >> 1)
      // What was on its way to the store is there.
      await sleep(2000)
      const before = pids.map(cpuMicros)
      const measured = new Run(people, servers.length)
      const seconds = await measured.run(load, count)
      await sleep(2000)
      const { tally } = measured
      figures.push({ load, perMessage: pids.map((pid, i) => (cpuMicros(pid) - (before[i] ?? 0)) / tally.sent), perSecond: Math.round(tally.received / seconds), latency: measured.latency, errors: tally.toString() })
    }
    return figures
  } finally {
    for (const user of people) user?.destroy()
  }
}

/** Somebody at the next server, by pairs as far as that goes. */
function partner(index: number, servers: number, all: number): number {
  if (servers === 1) return (index + (all >> 1)) % all
  return (index + 1) % all
}
