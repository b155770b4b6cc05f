/** The part `kafka` of the key `tidings`. */
import { dirname } from 'node:path'
import type { KafkaOptions } from '../cluster/kafka/client.ts'
import type { MapEntry } from './node.ts'
import { bool, either, int, list, matching, oneOf, record, size, text, type OptionTable } from './options.ts'
import type { Problem } from './problems.ts'
import { tlsOptions, tlsTable, type TlsNames } from './service-tls.ts'

interface SaslNames { mechanism: 'plain' | 'scram-sha-256' | 'scram-sha-512'; username: string; password: string }
interface KafkaNames {
  brokers: readonly string[]; topic: string; partitions: number; replication: number; backlog: number; group: string; tls: boolean | TlsNames; sasl: SaslNames | undefined
}

const saslTable: OptionTable<SaslNames> = {
  mechanism: { type: oneOf('plain', 'scram-sha-256', 'scram-sha-512'), default: 'scram-sha-512', help: 'SASL mechanism.' },
  username: { type: text(), default: '', help: 'User.' },
  password: { type: text(), default: '', help: 'Password.' },
}

export const kafkaTable: OptionTable<KafkaNames> = {
  brokers: { type: list(matching(/^(\[[0-9A-Fa-f:]+\]|[^\s:/]+):\d{1,5}$/, 'an address as host:port')), default: [], help: 'host:port of some of the brokers.' },
  topic: { type: matching(/^[A-Za-z0-9._-]{1,240}$/, 'a name of letters, digits, ".", "_" and "-"'), default: 'archive', help: 'Topic of history, made when it is missing; what nobody can use goes into one named after it, with .poison at the end.' },
  partitions: { type: int({ min: 1, max: 10_000 }), default: 12, help: 'Partitions of a topic that is made: as many workers share the work at most.' },
  replication: { type: int({ min: 1, max: 100 }), default: -1, help: 'Brokers that have each message, of a topic that is made; unless set, as the brokers are configured.' },
  backlog: { type: size({ min: 1_000_000 }), default: 67_108_864, help: 'Bytes of history that may wait in one process while Kafka does not take them; beyond them nothing is acknowledged.' },
  group: { type: text(), default: 'tidings-archive-worker', help: 'Consumer group of the workers.' },
  tls: { type: either(bool(), record(tlsTable)), default: false, help: 'TLS to the brokers: true, or cafile, certfile, keyfile and verify.' },
  sasl: { type: record(saslTable), default: undefined, help: 'How to log in to the brokers: mechanism, username and password.' },
}

/** What was read of the entry; files are relative to the configuration. */
export function kafkaOptions(read: KafkaNames, entry: MapEntry, problems: Problem[]): KafkaOptions {
  if (read.brokers.length === 0) problems.push({ file: entry.file, line: entry.line, option: 'tidings.kafka.brokers', level: 'error', text: 'At least one broker is needed, as host:port.' })
  const { tls, sasl } = read
  return {
    brokers: read.brokers,
    topic: read.topic,
    partitions: read.partitions,
    replication: read.replication,
    backlogBytes: read.backlog,
    group: read.group,
    tls: tlsOptions(tls, dirname(entry.file)),
    sasl: sasl && { mechanism: sasl.mechanism, username: sasl.username, password: sasl.password },
  }
}
