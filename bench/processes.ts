/**
 * What a message costs where several processes of one machine are one server (`tidings.processes`), beside one process, and how many messages the machine
 * carries: microseconds of CPU a message, of all processes together, of the main process, and of those that serve clients; messages a second.
 * Each user has so many messages in flight to a user at the next process (`across`) or at the same (`within`), whose client is connected to any process.
 * What sends and receives takes its part of the same cores.
 *
 *     node bench/processes.ts [--rounds 3] [--messages 30000] [--users 100] [--window 1,10] [--processes 1,2] [--variant plain|archive] [--profile DIR]
 */
import { mkdirSync } from 'node:fs'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { chooseNode } from '../server/cluster/rendezvous.ts'
import { chatMessage, each, makeUsers, parseId, PASSWORD, Tally, userName } from './load.ts'
import { cpuMicros, loadAverage, machine, processTree } from './process.ts'
import { RawUser } from './raw-user.ts'
import { type RunningServer, startServer, type Variant } from './servers.ts'

const MISSING_MS = 20_000
const MEASURE_MS = 40_000

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' }, messages: { type: 'string', default: '30000' }, users: { type: 'string', default: '100' }, window: { type: 'string', default: '1,10' },
    processes: { type: 'string', default: '1,2' }, variant: { type: 'string', default: 'archive' }, profile: { type: 'string' },
  },
})
const messages = Number(values.messages)
const users = Number(values.users)
const windows = values.window.split(',').map(Number)
const profileDir = values.profile === undefined ? undefined : path.resolve(values.profile)
if (profileDir !== undefined) mkdirSync(profileDir, { recursive: true })

console.log(`${machine()}, load ${loadAverage()}; ${messages} messages, ${users} users, ${values.variant}; microseconds of CPU a message`)
for (let round = 0; round < Number(values.rounds); round++) {
  for (const processes of values.processes.split(',').map(Number)) {
    await using server = await startServer('tidings', values.variant as Variant, profileDir, processes)
    await makeUsers(server, users)
    for (const how of processes === 1 ? ['alone'] as const : ['across', 'within'] as const) {
      for (const window of windows) console.log(`${processes} ${processes === 1 ? 'process' : `processes, ${how}`}, ${window} in flight: ${await talk(server, partners(processes, how), window)}; load ${loadAverage()}`)
    }
  }
}

/** Whom each user sends to. */
function partners(processes: number, how: 'alone' | 'across' | 'within'): number[] {
  const homes = Array.from({ length: processes }, (_, place) => ({ name: String(place + 1), roles: [], leaving: false }))
  const at = Array.from({ length: users }, (_, index) => homes.findIndex((home) => home === chooseNode(`${userName(index)}@localhost`, homes)))
  const by = homes.map((_, place) => at.flatMap((home, index) => (home === place ? [index] : [])))
  const count = homes.map(() => 0)
  return at.map((home) => {
    const place = how === 'across' ? (home + 1) % processes : home
    const list = by[place] as number[]
    return list[count[place] = ((count[place] as number) + 1) % list.length] as number
  })
}

async function talk(server: RunningServer, targets: readonly number[], window: number): Promise<string> {
  const people: RawUser[] = []
  try {
    await each(users, async (index) => { people[index] = await RawUser.logIn(server, userName(index), PASSWORD, true) })
    const jids = targets.map((target) => (people[target] as RawUser).jid)
    await run(people, jids, window, messages >> 2)
    await sleep(1000)
    const pids = processTree(server.pid)
    const before = pids.map(own)
    const { tally, seconds } = await run(people, jids, window, messages)
    await sleep(1000)
    const [main = 0, ...others] = pids.map((pid, i) => (own(pid) - (before[i] as number)) / tally.sent)
    const all = others.reduce((sum, each) => sum + each, main)
    return `${all.toFixed(1)}${others.length === 0 ? '' : ` = main ${main.toFixed(1)} + ${others.map((each) => each.toFixed(1)).join(' + ')}`}; ${Math.round(tally.received / seconds)} messages/s; lost, twice or disordered: ${tally.toString()}`
  } finally {
    for (const user of people) user?.destroy()
    await sleep(500)
  }
}

/** CPU time of a process without its children. */
function own(pid: number): number {
  return cpuMicros(pid) - processTree(pid).slice(1).reduce((sum, child) => sum + cpuMicros(child), 0)
}

async function run(people: readonly RawUser[], jids: readonly string[], window: number, count: number): Promise<{ readonly tally: Tally; readonly seconds: number }> {
  const tally = new Tally()
  const sequences = new Uint32Array(people.length)
  const startedAt = performance.now()
  let lastAt = startedAt
  const send = (index: number): void => {
    if (tally.sent >= count || lastAt - startedAt > MEASURE_MS) return
    const sequence = sequences[index] as number
    sequences[index] = sequence + 1
    tally.sent++
    const message = chatMessage(jids[index] as string, `b${index}-${sequence}`)
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
  for (let i = 0; i < people.length; i++) for (let sent = 0; sent < window; sent++) send(i)
  while (tally.received < tally.sent && performance.now() - lastAt < MISSING_MS) await sleep(20)
  for (const user of people) user.onMessage = undefined
  return { tally, seconds: (lastAt - startedAt) / 1000 }
}
