/** The stores behind the nodes of a cluster, as the configuration names them. */
import type { Config } from '../config/config.ts'
import type { HistoryStore, RowStore } from './shapes.ts'

/** The store of records. Rejects with an error for people when there is none, or it cannot be reached. */
export async function openRowStore({ tidings: { hbase } }: Config): Promise<RowStore> {
  if (hbase !== undefined) return await (await import('../storage/hbase/rows.ts')).openHBaseRows(hbase)
  throw new Error('tidings.hbase is not configured: there is no store for what the nodes of a cluster keep')
}

/** The store of everybody's history; as `openRowStore`. */
export async function openHistoryStore({ tidings: { hbase } }: Config): Promise<HistoryStore> {
  if (hbase !== undefined) return await (await import('../storage/hbase/history.ts')).openHBaseHistory(hbase)
  throw new Error('tidings.hbase is not configured: there is no store to put history into')
}
