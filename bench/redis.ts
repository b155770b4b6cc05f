/**
 * What a stanza costs on its way through Redis: a group of stanzas is appended to the log of one node and sent to the inbox of another, which takes it
 * and appends a group of its own, with what it made of them, before it lets go of the entry. CPU of this process, in which both nodes are, and of Redis.
 *
 *     node bench/redis.ts [everysec|always]
 */
import { HEADER_BYTES, RECORD_ALIGN } from '../server/storage/groups/log.ts'
import { REDIS_DEFAULTS } from '../server/cluster/redis/connect.ts'
import { RedisMembership } from '../server/cluster/redis/membership.ts'
import { startRedis } from '../services/services.ts'
import { cpuMicros } from './process.ts'

const STANZA_BYTES = 330
const GROUPS = 3000
const WARM_UP = 500
const TURN_OVER_BYTES = 16 * 1024 * 1024

const fsync = process.argv[2] === 'always' ? 'always' : 'everysec'
await using service = await startRedis({ fsync })
const redis = { ...REDIS_DEFAULTS, server: { host: '127.0.0.1', port: service.ports[0] ?? 0 } }
const [from, to] = [await join('from'), await join('to')]
const stanza = Buffer.alloc(STANZA_BYTES, 'x')
let number = 0
let appending = Promise.resolve()
let arrived = 0
to.receive(({ pieces }, done) => {
  appending = appending.then(async () => {
    await append(to, pieces.length)
    done()
    arrived += pieces.length
  })
})

console.log(`stanzas of ${STANZA_BYTES} bytes, appendfsync ${fsync}; microseconds of CPU a stanza`)
for (const size of [1, 5, 20, 100]) {
  await run(size, WARM_UP)
  const before = [cpuOfThis(), cpuMicros(service.daemons[0]?.pid ?? 0), performance.now()] as const
  await run(size, GROUPS)
  const stanzas = GROUPS * size
  const ours = (cpuOfThis() - before[0]) / stanzas
  const theirs = (cpuMicros(service.daemons[0]?.pid ?? 0) - before[1]) / stanzas
  console.log(`${String(size).padStart(4)} a group: ours ${ours.toFixed(1)}, Redis ${theirs.toFixed(1)}; ${Math.round(stanzas / (performance.now() - before[2]) * 1000)} stanzas/s, one group at a time`)
}
await from[Symbol.asyncDispose]()
await to[Symbol.asyncDispose]()

async function join(name: string): Promise<RedisMembership> {
  return await RedisMembership.join({ redis, name, address: '', roles: [], leaseMs: 30_000 })
}

async function run(size: number, groups: number): Promise<void> {
  const until = arrived + size * groups
  for (let i = 0; i < groups; i++) {
    await append(from, size)
    await from.send(to.self.inc, { source: from.self.inc, first: number + 1, pieces: Array.from({ length: size }, () => stanza) })
    number += size
  }
  while (arrived < until) await new Promise((resolve) => { setImmediate(resolve) })
}

async function append(node: RedisMembership, size: number): Promise<void> {
  const bytes = size * STANZA_BYTES
  await node.log.append(Buffer.alloc(Math.ceil((HEADER_BYTES + bytes) / RECORD_ALIGN) * RECORD_ALIGN, 'x'), bytes, Date.now())
  if (node.log.bytes < TURN_OVER_BYTES) return
  await node.log.drop(node.log.turnOver().segment)
}

function cpuOfThis(): number {
  const { user, system } = process.cpuUsage()
  return user + system
}
