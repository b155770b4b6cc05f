/** Several nodes: `tidings.cluster`, and ejabberd's `redis_*` where it does not say otherwise. */
import { readFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { resolve } from 'node:path'
import type { RedisAddress, RedisConnection } from '../cluster/redis/connect.ts'
import type { Config } from './config.ts'
import { entryOf, show, textOf, type ConfigNode, type MapEntry, type MapNode } from './node.ts'
import { anything, bool, duration, int, list, matching, OptionError, parseOptions, text, type OptionTable, type OptionType } from './options.ts'
import { type Problem } from './problems.ts'

export interface ClusterOptions {
  /** This node's name, which begins its incarnations. */
  readonly node: string
  /** Host and port on which other nodes reach it; empty when they cannot. */
  readonly address: string
  /** Known to all nodes and nobody else; empty when they keep one in Redis. */
  readonly secret: string
  /** How long a proxy that stops takes to end the connections that it has. */
  readonly drainMs: number
  readonly redis: RedisConnection
  /** Where it is configured. */
  readonly at: { readonly file: string; readonly line: number }
}

export interface RedisNames {
  redis_server: string
  redis_port: number
  redis_password: string
  redis_db: number
  redis_connect_timeout: number
  redis_pool_size: number
  redis_queue_type: string
}

/** Of ejabberd, at the top level. */
export const redisTable: OptionTable<RedisNames> = {
  redis_server: { type: text(), default: 'localhost', help: 'Host of Redis, of nodes that form a cluster.' },
  redis_port: { type: int({ min: 1, max: 65_535 }), default: 6379, help: 'Its port.' },
  redis_password: { type: text(), default: '', help: 'Its password.' },
  redis_db: { type: int({ min: 0 }), default: 0, help: 'Number of its database.' },
  redis_connect_timeout: { type: duration({ timer: true }), default: 1000, help: 'How long connecting to it may take.' },
  redis_pool_size: { type: int({ min: 1 }), default: 10, help: 'Connections to it.', ignored: 'has no effect: a node has four connections to Redis, each with a job of its own.' },
  redis_queue_type: { type: text(), default: 'ram', help: 'Where requests wait.', ignored: 'has no effect: requests wait in memory, and only so many.' },
}

interface ClusterNames { node: string; address: string; secret: string; drain: number; redis: unknown }

export const clusterTable: OptionTable<ClusterNames> = {
  node: { type: matching(/^[\w.-]{1,64}$/, 'up to 64 letters, digits, dots, hyphens and underscores'), default: hostname().replaceAll(/[^\w.-]/g, '-').slice(0, 64), help: 'Name of this node.' },
  address: { type: matching(/^[^\s:]+:\d+$|^\[[0-9a-f:.]+\]:\d+$/i, 'host:port'), default: '', help: 'Host and port on which the other nodes reach this one, and where it listens for them alone. A free port on the first address of the machine when it is left out.' },
  secret: { type: matching(/^.{16,}$/s, 'at least 16 characters'), default: '', help: 'Secret of the whole cluster, the same at all nodes; unless set, one is made and kept in Redis.' },
  drain: { type: duration({ timer: true }), default: 30_000, help: 'How long a proxy that stops takes to end the connections that it has, one after the other.' },
  redis: { type: anything(), default: undefined, help: 'The Redis that keeps the nodes together.' },
}

interface ClusterRedisNames {
  url: string
  sentinels: readonly RedisAddress[]
  name: string
  nodes: readonly RedisAddress[]
  username: string
  password: string
  sentinel_password: string
  db: number
  tls: boolean
  ca_file: string
  key_prefix: string
  connect_timeout: number
  min_replicas: number | undefined
}

export const clusterRedisTable: OptionTable<ClusterRedisNames> = {
  url: { type: matching(/^rediss?:\/\//, 'an address such as redis://host:6379'), default: '', help: 'Address of one server; rediss: is with TLS.' },
  sentinels: { type: list(address(26_379)), default: [], help: 'Sentinels, as host:port.' },
  name: { type: text(), default: 'mymaster', help: 'Name under which they know the primary.' },
  nodes: { type: list(address(6379)), default: [], help: 'Some nodes of a Redis Cluster, as host:port.' },
  username: { type: text(), default: '', help: 'User name.' },
  password: { type: text(), default: '', help: 'Password.' },
  sentinel_password: { type: text(), default: '', help: 'Password of the Sentinels.' },
  db: { type: int({ min: 0 }), default: 0, help: 'Number of the database; a Redis Cluster has one.' },
  tls: { type: bool(), default: false, help: 'Whether connections are encrypted.' },
  ca_file: { type: text(), default: '', help: 'File of the authorities that are trusted, when not those of the system.' },
  key_prefix: { type: matching(/^[^{}]*$/, 'a text without braces'), default: 'tidings:', help: 'Begins the keys.' },
  connect_timeout: { type: duration({ timer: true }), default: 1000, help: 'How long connecting may take.' },
  min_replicas: { type: int({ min: 0 }), default: undefined, help: 'On how many replicas something is before it counts; unless set, 1 with sentinels or nodes, and 0 with one server.' },
}

/** `entry`: the key `tidings`. Undefined when there is no cluster. */
export function readCluster(root: MapNode, entry: MapEntry | undefined, names: RedisNames, folder: string, problems: Problem[]): ClusterOptions | undefined {
  const at = entry && entryOf(entry.value, 'cluster')
  if (!at) {
    for (const { key, file, line } of root.entries) {
      if (Object.hasOwn(redisTable, key) && redisTable[key as keyof RedisNames].ignored === undefined) {
        problems.push({ file, line, option: key, level: 'warning', text: 'has no effect: this server keeps its state itself, unless tidings.cluster is set.' })
      }
    }
    return undefined
  }
  const { value: node, file, line } = at
  const read = parseOptions(clusterTable, node, { option: 'tidings.cluster' })
  problems.push(...read.problems)
  const redisNode = entryOf(node, 'redis')?.value
  return { node: read.options.node, address: read.options.address, secret: read.options.secret, drainMs: read.options.drain, redis: redisNode ? readRedis(redisNode, folder, problems) : ofEjabberd(names), at: { file, line } }
}

/** What of Kafka and the stores is of no use without the rest; `entry`: the key `tidings`. */
export function checkStores(entry: MapEntry | undefined, problems: Problem[]): void {
  const report = (name: string, others: readonly string[], why: string): void => {
    const at = entry && entryOf(entry.value, name)
    if (at && !others.some((other) => entryOf(entry.value, other))) problems.push({ file: at.file, line: at.line, option: `tidings.${name}`, level: 'error', text: `needs ${others.map((other) => `tidings.${other}`).join(' or ')}: ${why}` })
  }
  report('kafka', STORES, 'history goes there.')
  report('kafka', ['cluster'], 'a server that is alone keeps history in its data directory.')
  for (const store of STORES) report(store, ['cluster'], 'a server that is alone keeps everything in its data directory.')
}

/** What a node that has accounts and rooms lacks; those of other roles may do without. */
export function checkChatNode({ tidings: { cluster, hbase, cassandra, s3 } }: Pick<Config, 'tidings'>): Problem[] {
  if (cluster === undefined) return []
  const problem = (level: Problem['level'], text: string): Problem => ({ ...cluster.at, option: 'tidings.cluster', level, text })
  return [
    ...(hbase === undefined && cassandra === undefined ? [problem('error', 'needs tidings.hbase or tidings.cassandra: what several nodes keep of accounts, rooms and history is there.')] : []),
    ...(s3 === undefined ? [problem('warning', 'is set without tidings.s3: an uploaded file is at the node alone that took it.')] : []),
  ]
}

const STORES = ['hbase', 'cassandra']

function ofEjabberd(names: RedisNames): RedisConnection {
  return {
    server: { host: names.redis_server, port: names.redis_port }, sentinels: [], name: '', cluster: [], username: '', password: names.redis_password, sentinelPassword: '',
    database: names.redis_db, tls: false, ca: undefined, connectTimeoutMs: names.redis_connect_timeout, keyPrefix: 'tidings:', minReplicas: 0,
  }
}

function readRedis(node: ConfigNode, folder: string, problems: Problem[]): RedisConnection {
  const { options, problems: found } = parseOptions(clusterRedisTable, node, { option: 'tidings.cluster.redis' })
  problems.push(...found)
  const report = (name: string, what: string): void => {
    const at = entryOf(node, name) ?? node
    problems.push({ file: at.file, line: at.line, option: `tidings.cluster.redis.${name}`, level: 'error', text: what })
  }
  const given = [options.url !== '' && 'url', options.sentinels.length > 0 && 'sentinels', options.nodes.length > 0 && 'nodes'].filter((name) => name !== false)
  if (given.length > 1) report(given[1] as string, `is set beside ${given[0]}: one of url, sentinels and nodes says where Redis is.`)
  let url: URL | undefined
  try {
    url = options.url === '' ? undefined : new URL(options.url)
  } catch {
    report('url', 'is no address.')
  }
  const database = url?.pathname.replace('/', '')
  if (database && !/^\d+$/.test(database)) report('url', 'ends with what is no number of a database.')
  if (options.nodes.length > 0 && options.db !== 0) report('db', 'is not 0: a Redis Cluster has one database.')
  let ca: string | undefined
  try {
    ca = options.ca_file === '' ? undefined : readFileSync(resolve(folder, options.ca_file), 'utf8')
  } catch (error) {
    report('ca_file', `cannot be read: ${(error as Error).message}.`)
  }
  const single = options.sentinels.length === 0 && options.nodes.length === 0
  const replicas = entryOf(node, 'min_replicas')
  if (!single && options.min_replicas === 0 && replicas) {
    problems.push({ file: replicas.file, line: replicas.line, option: 'tidings.cluster.redis.min_replicas', level: 'warning', text: 'is 0 where a replica may take the place of the primary: what was acknowledged in the last moment before that can be lost.' })
  }
  return {
    server: single ? { host: url?.hostname.replaceAll(/^\[|\]$/g, '') || 'localhost', port: Number(url?.port || 6379) } : undefined,
    sentinels: options.sentinels, name: options.sentinels.length > 0 ? options.name : '', cluster: options.nodes,
    username: options.username || decodeURIComponent(url?.username ?? ''), password: options.password || decodeURIComponent(url?.password ?? ''), sentinelPassword: options.sentinel_password,
    database: database ? Number(database) : options.db, tls: options.tls || url?.protocol === 'rediss:', ca,
    connectTimeoutMs: options.connect_timeout, keyPrefix: options.key_prefix, minReplicas: options.min_replicas ?? (single ? 0 : 1),
  }
}

function address(port: number): OptionType<RedisAddress> {
  const expects = `host:port, or a host, for port ${port}`
  return {
    expects,
    parse(node) {
      const [, bracketed, plain, given = ''] = /^(?:\[([0-9a-f:.]+)\]|([^\s:[\]]+))(?::(\d{1,5}))?$/i.exec(textOf(node) ?? '') ?? []
      const host = bracketed ?? plain
      if (host === undefined || Number(given) > 65_535) throw new OptionError(node, `${show(node)} is not allowed here; expected ${expects}.`)
      return { host, port: given === '' ? port : Number(given) }
    },
  }
}
