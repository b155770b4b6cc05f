/** Brings a data directory into the cluster of the configuration, through a node that nobody is sent to. */
import { existsSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { Config } from '../config/config.ts'
import type { Log } from '../log.ts'
import { StorageError } from '../storage/errors.ts'
import { openEmbedded } from '../storage/embedded/embedded.ts'
import { migrate, type Migrated } from './migrate.ts'
import { openNode } from './node.ts'
import { openRowStore } from './stores.ts'

const UNITS_AT_ONCE = 1000

/** Rejects with an error for people when the directory has no data or is in use, or the cluster cannot take them; see `migrate`. */
export async function migrateFrom(config: Config, dataDir: string, log: Log): Promise<Migrated> {
  if (!existsSync(join(dataDir, 'FORMAT'))) throw new StorageError(`there is no data of a server in ${dataDir}`)
  // What is in the log alone gets into the database when it is closed.
  await (await openEmbedded(dataDir))[Symbol.asyncDispose]()
  await using source = await openEmbedded(dataDir)
  const nodeDir = join(dataDir, 'migration')
  try {
    await using node = await openNode({ config, dataDir: nodeDir, log, roles: ['administration'], onHealth: (problem) => { if (problem !== undefined) log.warn({ what: 'storage_failing', problem }) } })
    await using records = await openRowStore(config)
    const hasAccounts = async (host: string): Promise<boolean> => {
      for (let after: string | undefined; ;) {
        const units = await records.units('', after, UNITS_AT_ONCE)
        if (units.some((unit) => unit.endsWith(`@${host}`))) return true
        after = units.at(-1)
        if (units.length < UNITS_AT_ONCE) return false
      }
    }
    return await migrate(source, { storage: node.storage, units: node.units, blobs: config.tidings.s3 === undefined ? undefined : node.storage.blobs }, config.hosts, hasAccounts)
  } finally {
    rmSync(nodeDir, { recursive: true, force: true })
  }
}
