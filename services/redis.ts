/** Redis: one server; a primary with a replica and three Sentinels; a Cluster of three. */
import { execFile } from 'node:child_process'
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { Daemon } from './daemon.ts'
import { install } from './install.ts'
import { place, Service, type ServiceOptions } from './service.ts'

const START_MS = 20_000
const run = promisify(execFile)

export interface RedisOptions extends ServiceOptions {
  /** When its append-only file is synced: `everysec` unless given. */
  readonly fsync?: 'always' | 'everysec'
  /** Further options of redis-server, such as `['--requirepass', 'secret']`. */
  readonly args?: readonly string[]
}

export class Redis extends Service {
  /** One for each server, in the order in which they were made. */
  readonly ports: readonly number[]

  constructor(url: string, dir: string, daemons: readonly Daemon[], ports: readonly number[]) {
    super(url, dir, daemons)
    this.ports = ports
  }
}

export class RedisSentinel extends Redis {
  /** The name under which the Sentinels know the primary. */
  readonly master = 'tidings'
  readonly sentinels: readonly { readonly host: string; readonly port: number }[]

  constructor(dir: string, daemons: readonly Daemon[], ports: readonly number[], sentinels: readonly number[]) {
    super(`redis+sentinel://127.0.0.1:${sentinels[0]}/tidings`, dir, daemons, ports)
    this.sentinels = sentinels.map((port) => ({ host: '127.0.0.1', port }))
  }

  /** The server that is the primary now. */
  async primary(): Promise<Daemon> {
    const [, port = ''] = (await cli(this.sentinels[0]?.port ?? 0, 'sentinel', 'get-master-addr-by-name', this.master)).split('\n')
    return this.daemons.find((each) => each.name === `redis-${port.trim()}`) ?? await Promise.reject(new Error(`no server on port ${port}`))
  }
}

export async function startRedis(options: RedisOptions = {}): Promise<Redis> {
  install(['redis'])
  const { dir, port } = await place('redis', options, 1)
  return new Redis(`redis://127.0.0.1:${port}`, dir, [await startServer(dir, port, options)], [port])
}

/** Primary and replica on the first two ports, Sentinels on the next three. */
export async function startRedisSentinel(options: RedisOptions = {}): Promise<RedisSentinel> {
  install(['redis'])
  const { dir, port } = await place('redis-sentinel', options, 5)
  const servers = [
    await startServer(dir, port, options, ['--repl-diskless-sync-delay', '0']),
    await startServer(dir, port + 1, options, ['--repl-diskless-sync-delay', '0', '--replicaof', `127.0.0.1 ${port}`]),
  ]
  await until(async () => (await cli(port + 1, 'info', 'replication')).includes('master_link_status:up') || (await cli(port, 'info', 'replication')).includes('master_link_status:up'))
  const sentinels = [port + 2, port + 3, port + 4]
  const watchers = await Promise.all(sentinels.map((each) => startSentinel(dir, each, port, options.stays)))
  const redis = new RedisSentinel(dir, [...servers, ...watchers], [port, port + 1], sentinels)
  await until(async () => {
    const known = await Promise.all(sentinels.map((each) => cli(each, 'sentinel', 'master', redis.master)))
    return known.every((text) => /num-slaves\n1\n/.test(text) && /num-other-sentinels\n2\n/.test(text))
  })
  return redis
}

/** Three servers on the first three ports, each with a third of the slots. */
export async function startRedisCluster(options: RedisOptions = {}): Promise<Redis> {
  install(['redis'])
  const { dir, port } = await place('redis-cluster', options, 6)
  const ports = [port, port + 1, port + 2]
  const daemons = await Promise.all(ports.map((each) => startServer(dir, each, options, [
    '--cluster-enabled', 'yes', '--cluster-node-timeout', '5000', '--cluster-config-file', 'nodes.conf', '--cluster-port', String(each + 3),
  ])))
  if (!(await cli(port, 'cluster', 'info')).includes('cluster_slots_assigned:16384')) {
    for (const [i, each] of ports.entries()) {
      const first = Math.floor(16384 * i / 3)
      await cli(each, 'cluster', 'addslotsrange', String(first), String(Math.floor(16384 * (i + 1) / 3) - 1))
      await cli(each, 'cluster', 'set-config-epoch', String(i + 1))
    }
    for (const each of ports.slice(1)) await cli(port, 'cluster', 'meet', '127.0.0.1', String(each), String(each + 3))
  }
  const redis = new Redis(`redis+cluster://${ports.map((each) => `127.0.0.1:${each}`).join(',')}`, dir, daemons, ports)
  await until(async () => {
    const states = await Promise.all(ports.map((each) => cli(each, 'cluster', 'info')))
    return states.every((state) => state.includes('cluster_state:ok') && state.includes('cluster_known_nodes:3'))
  })
  return redis
}

async function startServer(dir: string, port: number, options: RedisOptions, more: readonly string[] = []): Promise<Daemon> {
  const data = path.join(dir, String(port))
  mkdirSync(data, { recursive: true })
  return await Daemon.start({
    name: `redis-${port}`,
    dir,
    command: 'redis-server',
    args: [
      '--port', String(port), '--bind', '127.0.0.1', '--dir', data, '--appendonly', 'yes', '--appendfsync', options.fsync ?? 'everysec', '--save', '',
      ...more, ...options.args ?? [],
    ],
    startMs: START_MS,
    ...options.stays === undefined ? {} : { stays: options.stays },
    // What asks for a password serves.
    ready: async () => /PONG|NOAUTH/.test(await cli(port, 'ping')),
  })
}

async function startSentinel(dir: string, port: number, primary: number, stays: boolean | undefined): Promise<Daemon> {
  const data = path.join(dir, String(port))
  mkdirSync(data, { recursive: true })
  // Sentinels write what they learn into this file.
  const file = path.join(data, 'sentinel.conf')
  if (!existsSync(file)) {
    writeFileSync(file, [
      `port ${port}`, 'bind 127.0.0.1', `dir ${data}`, `sentinel monitor tidings 127.0.0.1 ${primary} 2`,
      'sentinel down-after-milliseconds tidings 1000', 'sentinel failover-timeout tidings 3000', '',
    ].join('\n'))
  }
  return await Daemon.start({
    name: `sentinel-${port}`,
    dir,
    command: 'redis-server',
    args: [file, '--sentinel'],
    startMs: START_MS,
    ...stays === undefined ? {} : { stays },
    ready: async () => (await cli(port, 'ping')).includes('PONG'),
  })
}

async function cli(port: number, ...args: readonly string[]): Promise<string> {
  return (await run('redis-cli', ['-p', String(port), ...args])).stdout
}

async function until(condition: () => Promise<boolean>): Promise<void> {
  const limit = performance.now() + START_MS
  while (!(await condition())) {
    if (performance.now() > limit) throw new Error('Redis: its servers did not find each other')
    await sleep(50)
  }
}
