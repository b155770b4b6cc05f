/** For tests with real stores: the part of a configuration that names each, with tables or a keyspace of this name. */
import { sharedCassandra, sharedHBase } from '../../services/services.ts'

export const STORES: Readonly<Record<string, (name: string) => Promise<string>>> = {
  HBase: async (name) => `hbase: {masters: ["${(await sharedHBase()).masters[0]}"], prefix: ${name}_, regions: 2}`,
  Cassandra: async (name) => {
    const { host, port, datacenter } = await sharedCassandra()
    return `cassandra: {contact_points: ["${host}:${port}"], local_datacenter: ${datacenter}, keyspace: ${name}, replication: 1}`
  },
}
