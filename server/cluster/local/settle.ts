/** What processes that are gone had on its way between them, brought to where it belongs by a server of one process, before it takes clients. */
import type { Config } from '../../config/config.ts'
import type { Log } from '../../log.ts'
import type { ServerOptions } from '../../server.ts'
import type { Embedded } from '../../storage/embedded/embedded.ts'
import { KEY_END } from '../../storage/ordered.ts'
import { decodeFrame } from '../frames.ts'
import { frameOfRow } from '../storage.ts'
import { Hub } from './hub.ts'
import { forOne, isOfSeveral } from './layout.ts'
import { openLocalNode, processesPath } from './node.ts'

const LOOK_EVERY_MS = 20

/** Makes a directory of several processes one of a single process; does nothing with others. */
export async function settle(storage: Embedded, config: Config, dataDir: string, log: Log, createServer: (options: ServerOptions) => Promise<AsyncDisposable>): Promise<void> {
  if (!isOfSeveral(storage)) return
  await forOne(storage, async () => {
    const path = processesPath(dataDir)
    const hub = await Hub.open({ storage, path, onError: (error) => log.error({ what: 'process_failed', error }) })
    try {
      const node = await openLocalNode({ config, dataDir, path, name: '0', log })
      const quiet: Config = { ...config, host: (host) => config.host(host), listen: [], tidings: { ...config.tidings, metrics: undefined } }
      const server = await createServer({ config: quiet, dataDir, storage: node.storage, cluster: node, log })
      for (;;) {
        const waiting = storage.rows.keys('d', `d${KEY_END}`, Infinity, false)
        if (waiting.length === 0 && hub.isIdle) break
        const units = new Set(waiting.map((key) => decodeFrame(frameOfRow(storage.rows.get(key) as Buffer)).unit))
        for (const unit of units) if (hub.isRecovered) await node.units.claim(unit)
        await new Promise((resolve) => { setTimeout(resolve, LOOK_EVERY_MS) })
        await storage.committed()
      }
      await server[Symbol.asyncDispose]()
      await node[Symbol.asyncDispose]()
    } finally {
      await hub.close()
    }
  })
}
