/**
 * What a message costs between two servers of a kind, with TLS between them and their clients without: microseconds of CPU of both servers together, for each
 * message from a client of one to a client of the other. Pairs of users answer each other, so that messages go both ways at once. Beside each
 * other in one run: Tidings, Prosody, ejabberd, in network namespaces (Linux, root; see conformance/federation).
 *
 *     node bench/federation.ts [--rounds 3] [--messages 20000] [--pairs 50] [--servers tidings,prosody,ejabberd] [--archive] [--profile DIR]
 */
import { mkdirSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { obstacle } from '../conformance/federation/network.ts'
import type { Kind, Peer } from '../conformance/federation/peers.ts'
import { World } from '../conformance/federation/world.ts'
import { install } from '../services/install.ts'
import { chatMessage, each, parseId, PASSWORD, Tally } from './load.ts'
import { cpuMicros, loadAverage, machine } from './process.ts'
import { RawUser } from './raw-user.ts'
import type { RunningServer } from './servers.ts'

/** Nothing more comes when nothing has come for so long. */
const MISSING_MS = 20_000
/** What is written later than the messages are passed on. */
const SETTLE_MS = 2_000
const TWO: Readonly<Record<Kind, readonly [string, string]>> = { tidings: ['one', 'two'], prosody: ['prosody', 'prosody-two'], ejabberd: ['ejabberd', 'ejabberd-two'] }

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' }, messages: { type: 'string', default: '20000' }, pairs: { type: 'string', default: '50' },
    servers: { type: 'string', default: 'tidings,prosody,ejabberd' }, archive: { type: 'boolean', default: false }, profile: { type: 'string' },
  },
})
const messages = Number(values.messages)
const pairs = Number(values.pairs)
const kinds = values.servers.split(',') as Kind[]

install(['federation'])
const why = obstacle()
if (why !== undefined) throw new Error(`the servers cannot be brought together: ${why}`)
if (values.profile !== undefined) mkdirSync(values.profile, { recursive: true })
console.log(`${machine()}; ${messages} messages of ${pairs} pairs of users, ${values.archive ? 'with archives' : 'without archives'}`)
const best = new Map<Kind, number>()
for (let round = 1; round <= Number(values.rounds); round++) {
  for (const kind of kinds) {
    const { micros, perSecond, errors } = await measure(kind)
    best.set(kind, Math.min(best.get(kind) ?? Infinity, micros))
    console.log(`round ${round} ${kind.padEnd(8)} ${micros.toFixed(0).padStart(5)} µs a message, ${perSecond} messages/s; lost, twice or disordered: ${errors}; load ${loadAverage()}`)
  }
}
for (const kind of kinds) {
  const prosody = best.get('prosody')
  const micros = best.get(kind) ?? NaN
  console.log(`best ${kind.padEnd(8)} ${micros.toFixed(0).padStart(5)} µs a message${prosody === undefined ? '' : `, ${(micros / prosody).toFixed(2)} x Prosody's`}`)
}

async function measure(kind: Kind): Promise<{ micros: number; perSecond: number; errors: string }> {
  await using world = await World.start(TWO[kind], { archive: values.archive, ...(values.profile === undefined ? {} : { profileDir: values.profile }) })
  const servers = TWO[kind].map((name) => world.peer(name))
  const users: RawUser[] = []
  try {
    await each(pairs * 2, async (index) => {
      const peer = servers[index % 2] as Peer
      const { host, domain } = peer
      await (await peer.login(`bench${index}`, { tls: 'none', password: PASSWORD, mechanism: 'SCRAM-SHA-1' })).disconnect()
      users[index] = await RawUser.logIn({ host, port: peer.port, domain } as RunningServer, `bench${index}`, PASSWORD, true)
    })
    await talk(users, messages >> 1)
    await sleep(SETTLE_MS)
    const cpu = (): number => servers.reduce((sum, { pid }) => sum + cpuMicros(pid), 0)
    const before = cpu()
    const { tally, seconds } = await talk(users, messages)
    await sleep(SETTLE_MS)
    const micros = (cpu() - before) / tally.sent
    // Profiles are written at the end.
    if (values.profile !== undefined) await Promise.all(servers.map((server) => server.stop()))
    return { micros, perSecond: Math.round(tally.received / seconds), errors: tally.toString() }
  } finally {
    for (const user of users) user?.destroy()
  }
}

/** Users 2n and 2n + 1 write to each other: both at once at first, then each when something comes. */
async function talk(users: readonly RawUser[], count: number): Promise<{ tally: Tally; seconds: number }> {
  const tally = new Tally()
  const sequences = new Uint32Array(users.length)
  const startedAt = performance.now()
  let lastAt = startedAt
  const send = (index: number): void => {
    if (tally.sent >= count) return
    tally.sent++
    const partner = users[index ^ 1] as RawUser
    users[index]?.send(chatMessage(partner.jid, `b${index}-${sequences[index]}`))
    sequences[index] = (sequences[index] ?? 0) + 1
  }
  for (const [index, user] of users.entries()) {
    user.onMessage = (text) => {
      const id = parseId(text)
      if (id === undefined) return
      tally.took(id[0], id[1])
      lastAt = performance.now()
      send(index)
    }
  }
  for (const index of users.keys()) send(index)
  while (tally.received < tally.sent && performance.now() - lastAt < MISSING_MS) await sleep(10)
  return { tally, seconds: (lastAt - startedAt) / 1000 }
}
