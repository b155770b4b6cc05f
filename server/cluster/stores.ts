/** The stores behind the nodes of a cluster, HBase or Cassandra, as the configuration names them. Only the one that is used is loaded. */
import type { Config } from '../config/config.ts'
import type { HistoryStore, RowStore } from './shapes.ts'

export type Stores = { readonly tidings: Pick<Config['tidings'], 'hbase' | 'cassandra'> }

/** The store of records. Rejects with an error for people when there is none, or it cannot be reached within its deadline. */
export async function openRowStore({ tidings: { hbase, cassandra } }: Stores): Promise<RowStore> {
  if (hbase !== undefined) return await (await import('../storage/hbase/rows.ts')).openHBaseRows(hbase)
  if (cassandra !== undefined) return await (await import('../storage/cassandra/rows.ts')).openCassandraRows(cassandra)
  throw new Error('neither tidings.hbase nor tidings.cassandra is configured: there is no store for what the nodes of a cluster keep')
}

/** The store of everybody's history; as `openRowStore`. */
export async function openHistoryStore({ tidings: { hbase, cassandra } }: Stores): Promise<HistoryStore> {
  if (hbase !== undefined) return await (await import('../storage/hbase/history.ts')).openHBaseHistory(hbase)
  if (cassandra !== undefined) return await (await import('../storage/cassandra/history.ts')).openCassandraHistory(cassandra)
  throw new Error('neither tidings.hbase nor tidings.cassandra is configured: there is no store to put history into')
}
