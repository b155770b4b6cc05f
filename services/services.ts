/**
 * Real services for tests, on free ports: `await using redis = await startRedis()`. What is missing on the machine is installed first.
 *
 * Those that start slowly are shared by the test files of a run: `await sharedKafka()`. Nobody may stop or kill a shared one, and each test
 * takes names of its own in it (topics, tables, keyspaces, buckets).
 */
import { mkdirSync, mkdtempSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Cassandra, startCassandra } from './cassandra.ts'
import { freePorts } from './daemon.ts'
import { type HBase, startHBase } from './hbase.ts'
import { type Kafka, startKafka } from './kafka.ts'
import { type S3, startS3 } from './s3.ts'
import { removeAtExit, RUN_FOLDER, type ServiceOptions } from './service.ts'

export { type Cassandra, startCassandra } from './cassandra.ts'
export { type HBase, startHBase } from './hbase.ts'
export { type Kafka, startKafka } from './kafka.ts'
export { type Ldap, startLdap } from './ldap.ts'
export { type Redis, type RedisSentinel, startRedis, startRedisCluster, startRedisSentinel } from './redis.ts'
export { type S3, startS3 } from './s3.ts'
export type { Service, ServiceOptions } from './service.ts'

/** More than any of them takes. */
const PORTS_MAX = 8
const WAIT_MS = 240_000
let ownFolder: string | undefined
const shared = new Map<string, Promise<unknown>>()

export async function sharedKafka(): Promise<Kafka> { return await share('kafka', startKafka) }
export async function sharedHBase(): Promise<HBase> { return await share('hbase', startHBase) }
export async function sharedCassandra(): Promise<Cassandra> { return await share('cassandra', startCassandra) }
export async function sharedS3(): Promise<S3> { return await share('s3', startS3) }

async function share<Started>(name: string, start: (options: ServiceOptions) => Promise<Started>): Promise<Started> {
  const known = shared.get(name) as Promise<Started> | undefined
  const service = known ?? startShared(name, start)
  shared.set(name, service)
  return await service
}

/** The processes of a run take turns; the first starts it, the others find it there. */
async function startShared<Started>(name: string, start: (options: ServiceOptions) => Promise<Started>): Promise<Started> {
  const dir = path.join(RUN_FOLDER ?? folderOfProcess(), `shared-${name}`)
  mkdirSync(dir, { recursive: true })
  const lock = path.join(dir, 'lock')
  await take(lock)
  try {
    return await start({ dir, port: await keptPort(path.join(dir, 'port')), stays: RUN_FOLDER !== undefined })
  } finally {
    rmdirSync(lock)
  }
}

async function keptPort(file: string): Promise<number> {
  try {
    return Number(readFileSync(file, 'utf8'))
  } catch {
    const port = await freePorts(PORTS_MAX)
    writeFileSync(file, String(port))
    return port
  }
}

async function take(lock: string): Promise<void> {
  const until = performance.now() + WAIT_MS
  for (;;) {
    try {
      mkdirSync(lock)
      return
    } catch {
      if (performance.now() > until) throw new Error(`${lock} has not been given back for ${WAIT_MS / 1000} s`)
      await sleep(100)
    }
  }
}

function folderOfProcess(): string {
  if (ownFolder === undefined) {
    ownFolder = mkdtempSync(path.join(tmpdir(), 'tidings-services-'))
    removeAtExit(ownFolder)
  }
  return ownFolder
}
