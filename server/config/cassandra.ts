/** The part `cassandra` of the key `tidings`. */
import { dirname } from 'node:path'
import { CONSISTENCIES, type CassandraStorageOptions, type Consistency } from '../storage/cassandra/options.ts'
import type { MapEntry } from './node.ts'
import { bool, either, int, list, map, matching, oneOf, record, text, type OptionTable } from './options.ts'
import type { Problem } from './problems.ts'
import { tlsOptions, tlsTable, type TlsNames } from './service-tls.ts'

interface CassandraTlsNames extends TlsNames { server_name: string }
interface CassandraNames {
  contact_points: readonly string[]; local_datacenter: string; keyspace: string; replication: number | ReadonlyMap<string, number>; consistency: Consistency
  username: string; password: string; tls: boolean | CassandraTlsNames
}

const cassandraTlsTable: OptionTable<CassandraTlsNames> = {
  ...tlsTable,
  server_name: { type: text(), default: '', help: 'Name that all nodes\' certificates have; unless set, their addresses.' },
}

export const cassandraTable: OptionTable<CassandraNames> = {
  contact_points: { type: list(matching(/^(\[[0-9A-Fa-f:]+\]|[^\s:/]+)(:\d{1,5})?$/, 'an address as host or host:port')), default: [], help: 'Some of the nodes, as host or host:port.' },
  local_datacenter: { type: text(), default: 'datacenter1', help: 'Data centre whose nodes are asked.' },
  keyspace: { type: matching(/^[a-z][a-z0-9_]{0,47}$/, 'up to 48 small letters, digits and "_", a letter first'), default: 'tidings', help: 'Where the tables are; made when it is missing.' },
  replication: { type: either(int({ min: 1, max: 100 }), map(int({ min: 1, max: 100 }))), default: 3, help: 'Copies in each data centre of a keyspace that is made; or a map of data centres.' },
  consistency: { type: oneOf(...CONSISTENCIES), default: 'local_quorum', help: 'How many copies have what is written, and are asked for what is read.' },
  username: { type: text(), default: '', help: 'User.' },
  password: { type: text(), default: '', help: 'Password.' },
  tls: { type: either(bool(), record(cassandraTlsTable)), default: false, help: 'TLS to the nodes: true, or cafile, certfile, keyfile, verify and server_name.' },
}

/** What was read of the entry; files are relative to the configuration. `retentionMs`: how long history is kept. */
export function cassandraOptions(read: CassandraNames, entry: MapEntry, retentionMs: number, problems: Problem[]): CassandraStorageOptions {
  if (read.contact_points.length === 0) problems.push({ file: entry.file, line: entry.line, option: 'tidings.cassandra.contact_points', level: 'error', text: 'At least one node is needed, as host or host:port.' })
  const tls = tlsOptions(read.tls, dirname(entry.file))
  const { replication } = read
  return {
    contactPoints: read.contact_points,
    localDatacenter: read.local_datacenter,
    keyspace: read.keyspace,
    replication: typeof replication === 'number' ? replication : Object.fromEntries(replication),
    consistency: read.consistency,
    login: read.username === '' ? undefined : { username: read.username, password: read.password },
    tls: tls && { ...tls, serverName: typeof read.tls === 'object' && read.tls.server_name !== '' ? read.tls.server_name : undefined },
    ...(Number.isFinite(retentionMs) ? { retentionSeconds: Math.ceil(retentionMs / 1000) } : {}),
  }
}
