/** Where plays are given: the scenario files, and a server of our own when no address is known. */
import { readdir } from 'node:fs/promises'
import { plays, type Stage } from './play.ts'

/** Loads all scenario files; their plays are in `plays` then. */
export async function loadPlays(): Promise<typeof plays> {
  const folder = new URL('scenarios/', import.meta.url)
  for (const file of (await readdir(folder)).sort()) if (/\.[tj]s$/.test(file)) await import(new URL(file, folder).href)
  return plays
}

/** Starts a server with everything on. */
export async function ownStage(): Promise<{ stage: Stage; close: () => Promise<void> }> {
  const { startTestServer, TEST_CONFIG } = await import('../server/test-server.ts')
  // Accounts are made as fast as plays need them.
  const server = await startTestServer({ config: `registration_timeout: infinity\n${TEST_CONFIG}` })
  return {
    stage: { host: server.host, port: server.port, domain: server.domain, tlsPort: server.tlsPort, tls: 'starttls' },
    close: async () => server[Symbol.asyncDispose](),
  }
}
