/** The way to Kafka: its client with our settings and log, and the topic, made when it is missing. */
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Admin, Kafka, type KafkaConfig, logLevel } from 'kafkajs'
import type { Log } from '../../log.ts'

/** From the configuration, `tidings.kafka`. */
export interface KafkaOptions {
  /** `host:port` of some of the brokers. */
  readonly brokers: readonly string[]
  readonly topic: string
  /** Of a topic that is made; -1 is as the brokers are configured. */
  readonly partitions: number
  readonly replication: number
  /** Bytes that may wait in one process on the way to the brokers. */
  readonly backlogBytes: number
  /** Name of the consumer group of the workers. */
  readonly group: string
  readonly tls: KafkaTls | undefined
  readonly sasl: { readonly mechanism: 'plain' | 'scram-sha-256' | 'scram-sha-512'; readonly username: string; readonly password: string } | undefined
}

export interface KafkaTls {
  /** Files, PEM: who may sign the brokers' certificates (those that Node trusts, if not given); our certificate and key, if they want one. */
  readonly caFile: string | undefined
  readonly certFile: string | undefined
  readonly keyFile: string | undefined
  readonly verify: boolean
}

const CONNECT_MS = 5_000
const REQUEST_MS = 15_000
const RETRY_MS = 100
/** About two minutes. */
const RETRIES = 60
const RETRY_MAX_MS = 2_000
/** Kafka's answer for a topic that is there already. */
const EXISTS = 'TOPIC_ALREADY_EXISTS'

/** `failed` is told what the client logs as an error: it retries by itself, and says so only there. */
export function kafkaClient(options: KafkaOptions, name: string, log: Log, failed?: (reason: string) => void): Kafka {
  const { tls, sasl } = options
  const config: KafkaConfig = {
    clientId: name,
    brokers: [...options.brokers],
    connectionTimeout: CONNECT_MS,
    authenticationTimeout: REQUEST_MS,
    requestTimeout: REQUEST_MS,
    enforceRequestTimeout: true,
    // What it gives up is tried anew by who asked for it.
    retry: { retries: RETRIES, initialRetryTime: RETRY_MS, maxRetryTime: RETRY_MAX_MS },
    logLevel: logLevel.ERROR,
    logCreator: () => ({ namespace, log: entry }) => {
      const reason = typeof entry['error'] === 'string' && entry['error'] !== entry.message ? `${entry.message}: ${entry['error']}` : entry.message
      log.debug({ what: 'kafka_client', namespace, reason })
      failed?.(reason)
    },
  }
  if (tls !== undefined) {
    config.ssl = {
      rejectUnauthorized: tls.verify,
      ...tls.caFile === undefined ? {} : { ca: readFileSync(tls.caFile) },
      ...tls.certFile === undefined ? {} : { cert: readFileSync(tls.certFile) },
      ...tls.keyFile === undefined ? {} : { key: readFileSync(tls.keyFile) },
    }
  }
  if (sasl !== undefined) config.sasl = saslOptions(sasl)
  return new Kafka(config)
}

function saslOptions({ mechanism, username, password }: NonNullable<KafkaOptions['sasl']>): NonNullable<KafkaConfig['sasl']> {
  switch (mechanism) {
    case 'plain': return { mechanism, username, password }
    case 'scram-sha-256': return { mechanism, username, password }
    case 'scram-sha-512': return { mechanism, username, password }
  }
}

/** Makes the topic unless it is there; resolves with the number of its partitions. */
export async function ensureTopic(kafka: Kafka, topic: string, partitions: number, replication: number): Promise<number> {
  const admin = kafka.admin()
  await admin.connect()
  try {
    for (;;) {
      const found = await partitionsOf(admin, topic)
      if (found > 0) return found
      await makeTopic(admin, topic, partitions, replication)
      // Brokers hear of it one after another.
      await sleep(RETRY_MS)
    }
  } finally {
    await admin.disconnect()
  }
}

async function partitionsOf(admin: Admin, topic: string): Promise<number> {
  if (!(await admin.listTopics()).includes(topic)) return 0
  const { topics } = await admin.fetchTopicMetadata({ topics: [topic] })
  return topics[0]?.partitions.length ?? 0
}

/** Several processes may make it at once. It keeps everything until a worker removes what the store has: a time limit would lose what the workers are late for. */
async function makeTopic(admin: Admin, topic: string, partitions: number, replication: number): Promise<void> {
  try {
    await admin.createTopics({ topics: [{ topic, numPartitions: partitions, replicationFactor: replication, configEntries: [{ name: 'retention.ms', value: '-1' }] }], waitForLeaders: true })
  } catch (error) {
    const reasons = (error as { errors?: readonly { type?: string }[] }).errors ?? []
    if (!reasons.some((each) => each.type === EXISTS)) throw error
  }
}
