/** How Cassandra is reached and used, without its driver. */

/** From the configuration, `tidings.cassandra`. */
export interface CassandraStorageOptions {
  /** `host:port` of some of the nodes. */
  readonly contactPoints: readonly string[]
  /** The data centre whose nodes are asked. */
  readonly localDatacenter: string
  readonly keyspace: string
  /** Of a keyspace that is made: copies in each data centre, or by its name. */
  readonly replication: number | Readonly<Record<string, number>>
  readonly consistency: Consistency
  readonly login: { readonly username: string; readonly password: string } | undefined
  readonly tls: CassandraTls | undefined
  /** How long history is kept, seconds; for ever when absent. */
  readonly retentionSeconds?: number
  /** For one statement or page, with all attempts, ms. */
  readonly deadlineMs?: number
}

export interface CassandraTls {
  /** Files, PEM: who may sign the nodes' certificates (those that Node trusts, if not given); our certificate and key, if they want one. */
  readonly caFile: string | undefined
  readonly certFile: string | undefined
  readonly keyFile: string | undefined
  readonly verify: boolean
  /** The name that the certificates of all nodes have; their addresses, if not given. */
  readonly serverName: string | undefined
}

export const CONSISTENCIES = ['one', 'two', 'three', 'quorum', 'all', 'local_quorum', 'local_one'] as const
export type Consistency = (typeof CONSISTENCIES)[number]
