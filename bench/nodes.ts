/**
 * What a message costs where several nodes are one server: 1, 2 and 3 chat nodes as processes of their own over Redis, Kafka, an archive worker
 * and HBase, beside one process with the embedded archive. Users are spread evenly; each has one message in flight to a user at the next
 * node. Microseconds of CPU a message: of all our processes (nodes and worker), and of Redis, Kafka and HBase.
 *
 *     node bench/nodes.ts [--rounds 3] [--messages 20000] [--users 100] [--nodes 1,2,3] [--profile DIR] [--kafka HOST:PORT,PID --hbase HOST:PORT,PID]
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
const MEASURE_MS = 40_000

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' }, messages: { type: 'string', default: '20000' }, users: { type: 'string', default: '100' }, nodes: { type: 'string', default: '1,2,3' },
    profile: { type: 'string' }, kafka: { type: 'string' }, hbase: { type: 'string' },
  },
})
const messages = Number(values.messages)
const users = Number(values.users)

interface Address { readonly host: string; readonly port: number }
interface Figures { readonly perMessage: readonly number[]; readonly perSecond: number; readonly errors: string }

const kafkaService = values.kafka === undefined ? await startKafka() : undefined
const hbaseService = values.hbase === undefined ? await startHBase({ heap: '1024m' }) : undefined
const [broker, kafkaPid] = kafkaService ? [kafkaService.brokers[0] ?? '', kafkaService.daemons[0]?.pid ?? 0] as const : given(values.kafka ?? '')
const [hbaseMaster, hbasePid] = hbaseService ? [hbaseService.masters[0] ?? '', hbaseService.daemons[0]?.pid ?? 0] as const : given(values.hbase ?? '')
await using redis = await startRedis()
const servicePids = [redis.daemons[0]?.pid ?? 0, kafkaPid, hbasePid]

console.log(`${machine()}, load ${loadAverage()}; ${messages} messages, ${users} users with one in flight each; microseconds of CPU a message`)
for (let round = 0; round < Number(values.rounds); round++) {
  const alone = await one()
  console.log(`one process: ${alone.perMessage[0]?.toFixed(1)}; ${alone.perSecond} messages/s; lost, twice or disordered: ${alone.errors}`)
  for (const count of values.nodes.split(',').map(Number)) {
    const { perMessage, perSecond, errors } = await several(round, count)
    const nodes = perMessage.slice(0, count).reduce((sum, one) => sum + one, 0)
    const [worker = 0, ...others] = perMessage.slice(count)
    console.log(`${count} nodes: ${(nodes + worker).toFixed(1)} = nodes ${nodes.toFixed(1)} + worker ${worker.toFixed(1)}, ${((nodes + worker) / (alone.perMessage[0] ?? 0)).toFixed(2)} x one process; ${
      ['Redis', 'Kafka', 'HBase'].map((name, i) => `${name} ${others[i]?.toFixed(1)}`).join(', ')}; ${perSecond} messages/s; lost, twice or disordered: ${errors}; load ${loadAverage()}`)
  }
}
await kafkaService?.kill()
await hbaseService?.kill()

function given(address: string): readonly [string, number] {
  const [where = '', pid] = address.split(',')
  return [where, Number(pid)]
}

async function one(): Promise<Figures> {
  await using server = await startServer('tidings', 'archive')
  await makeUsers(server, users)
  return await talk([server], [server.pid])
}

async function several(round: number, count: number): Promise<Figures> {
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
async function talk(servers: readonly Address[], pids: readonly number[]): Promise<Figures> {
  const people: RawUser[] = []
  try {
    await each(users, async (index) => {
      const { host, port } = servers[index % servers.length] as Address
      const server = { host, port, domain: 'localhost' } as RunningServer
      people[index] = await RawUser.logIn(server, userName(index), PASSWORD, true)
    })
    await run(people, servers.length, messages >> 1)
    // What was on its way to the store is there.
    await sleep(2000)
    const before = pids.map(cpuMicros)
    const { tally, seconds } = await run(people, servers.length, messages)
    await sleep(2000)
    return { perMessage: pids.map((pid, i) => (cpuMicros(pid) - (before[i] ?? 0)) / tally.sent), perSecond: Math.round(tally.received / seconds), errors: tally.toString() }
  } finally {
    for (const user of people) user?.destroy()
  }
}

async function run(people: readonly RawUser[], servers: number, count: number): Promise<{ readonly tally: Tally; readonly seconds: number }> {
  const tally = new Tally()
  const sequences = new Uint32Array(people.length)
  const targets = people.map((_, index) => (people[partner(index, servers, people.length)] as RawUser).jid)
  const startedAt = performance.now()
  let lastAt = startedAt
  const send = (index: number): void => {
    if (tally.sent >= count || lastAt - startedAt > MEASURE_MS) return
    const sequence = (sequences[index] as number)
    sequences[index] = sequence + 1
    tally.sent++
    const message = chatMessage(targets[index] as string, `b${index}-${sequence}`)
    people[index]?.send(sequence % 10 === 9 ? `${message}<r xmlns='urn:xmpp:sm:3'/>` : message)
  }
  for (const user of people) {
    user.onMessage = (text) => {
      const id = parseId(text)
      if (id === undefined) return
      tally.took(id[0], id[1])
      lastAt = performance.now()
      send(id[0])
    }
  }
  for (let i = 0; i < people.length; i++) send(i)
  while (tally.received < tally.sent && performance.now() - lastAt < MISSING_MS) await sleep(20)
  for (const user of people) user.onMessage = undefined
  return { tally, seconds: (lastAt - startedAt) / 1000 }
}

/** Somebody at the next server, by pairs as far as that goes. */
function partner(index: number, servers: number, all: number): number {
  if (servers === 1) return (index + (all >> 1)) % all
  return (index + 1) % all
}
