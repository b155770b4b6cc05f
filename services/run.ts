/**
 * Starts and stops real services by hand.
 *
 *     node services/run.ts install [KIND …]
 *     node services/run.ts start KIND --dir DIR [--port PORT] [--heap 400m]
 *     node services/run.ts stop DIR            lets them end
 *     node services/run.ts kill DIR            as a crash
 *     node services/run.ts restart DIR         after any of these
 *
 * KIND: redis, redis-sentinel, redis-cluster, kafka, hbase, cassandra, ldap, s3. Ports follow each other from PORT on. Logs are in DIR.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { end, freePorts } from './daemon.ts'
import { install, isKind } from './install.ts'
import type { JavaOptions } from './java.ts'
import { startCassandra, startHBase, startKafka, startLdap, startRedis, startRedisCluster, startRedisSentinel, startS3, type Service } from './services.ts'

const STARTS: Readonly<Record<string, (options: JavaOptions) => Promise<Service>>> = {
  'redis': startRedis,
  'redis-sentinel': startRedisSentinel,
  'redis-cluster': startRedisCluster,
  'kafka': startKafka,
  'hbase': startHBase,
  'cassandra': startCassandra,
  'ldap': startLdap,
  's3': startS3,
}
const PORTS_MAX = 8

/** What `restart` must know, kept in the folder. */
interface Kept { readonly kind: string; readonly port: number; readonly heap?: string }

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { dir: { type: 'string' }, port: { type: 'string' }, heap: { type: 'string' } },
})
const [command, ...operands] = positionals
const [operand] = operands

if (command === 'install') install(operands.length === 0 ? undefined : operands.map((each) => isKind(each) ? each : usage()))
else if (command === 'start' && operand !== undefined && values.dir !== undefined) await start(operand, values.dir)
else if ((command === 'stop' || command === 'kill') && operand !== undefined) await endAll(operand, command === 'stop' ? 'SIGTERM' : 'SIGKILL')
else if (command === 'restart' && operand !== undefined) await restart(operand)
else usage()

async function start(kind: string, dir: string): Promise<void> {
  const before = existsSync(keptFile(dir)) ? readKept(dir) : undefined
  const port = values.port === undefined ? before?.port ?? await freePorts(PORTS_MAX) : Number(values.port)
  await launch(dir, { kind, port, ...values.heap === undefined ? {} : { heap: values.heap } })
}

async function restart(dir: string): Promise<void> {
  await endAll(dir, 'SIGTERM')
  await launch(dir, readKept(dir))
}

async function launch(dir: string, kept: Kept): Promise<void> {
  const startKind = STARTS[kept.kind] ?? usage()
  mkdirSync(dir, { recursive: true })
  writeFileSync(keptFile(dir), JSON.stringify(kept))
  const service = await startKind({ dir, port: kept.port, stays: true, ...kept.heap === undefined ? {} : { heap: kept.heap } })
  console.log(`${service.url} in ${service.dir}, processes ${service.daemons.map((each) => each.pid).join(' ')}`)
}

function keptFile(dir: string): string {
  return path.join(dir, 'service.json')
}

function readKept(dir: string): Kept {
  return JSON.parse(readFileSync(keptFile(dir), 'utf8')) as Kept
}

async function endAll(dir: string, signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
  await Promise.all(readdirSync(dir).filter((file) => file.endsWith('.pid')).map((file) => end(path.join(dir, file), signal)))
}

function usage(): never {
  console.error('node services/run.ts install [KIND …] | start KIND --dir DIR [--port PORT] [--heap 400m] | stop DIR | kill DIR | restart DIR')
  console.error(`KIND: ${Object.keys(STARTS).join(', ')}`)
  process.exit(2)
}
