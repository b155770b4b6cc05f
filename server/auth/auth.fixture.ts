/** For tests: an auth process beside a chat process, each with what it needs of one configuration. */
import { writeFile } from 'node:fs/promises'
import path from 'node:path'
import { parse, stringify } from 'yaml'
import { login, LoginError, type ConnectOptions } from '../../lib/client/client.ts'
import { loadConfig, type Config } from '../config/config.ts'
import { createLog } from '../log.ts'
import { openMemory } from '../storage/memory/memory.ts'
import type { Storage } from '../storage/shapes.ts'
import type { Kept } from './kept.ts'
import { createAuthRole, type AuthRole } from './role.ts'

export const SECRET = 'a secret of chat and auth processes'

type Options = Record<string, unknown>

/** What passwords are checked with: for the auth process alone. */
const SECRETS = /^(?:jwt_key|ldap_)/

/** Without what the auth process alone is to know; `accounts`: whether it keeps those of the server's own. */
export function chatConfig(text: string, ports: readonly number[], accounts = true): string {
  const all = parse(text, { uniqueKeys: false }) as Options
  const kept = Object.fromEntries(Object.entries(all).filter(([name]) => !SECRETS.test(name)))
  return stringify({ ...kept, tidings: { ...all['tidings'] as Options | undefined, auth: { servers: ports.map((port) => `127.0.0.1:${port}`), secret: SECRET, accounts } } })
}

export function authConfig(text: string, accounts = true, port = 0): string {
  const { listen: _listen, modules: _modules, tidings, ...kept } = parse(text, { uniqueKeys: false }) as Options
  const { limits } = (tidings ?? {}) as Options
  return stringify({ ...kept, tidings: { ...(limits === undefined ? {} : { limits }), auth: { listen: `127.0.0.1:${port}`, secret: SECRET, accounts } } })
}

export interface TestAuth extends AsyncDisposable {
  readonly port: number
  readonly config: Config
  readonly storage: Storage
  /** Ends it at once. */
  stop(): Promise<void>
  /** Starts it again where it was, with what it kept. */
  start(): Promise<void>
}

/** Starts an auth process with its part of a configuration, which is written into `folder`. */
export async function startAuth(text: string, folder: string, { accounts = true, name = 'auth', port: wanted = 0, storage = openMemory() as Storage, claim, watch = () => undefined }: { readonly accounts?: boolean; readonly name?: string; readonly port?: number; readonly storage?: Storage } & Partial<Pick<Kept, 'claim' | 'watch'>> = {}): Promise<TestAuth> {
  const file = path.join(folder, `${name}.yml`)
  await writeFile(file, authConfig(text, accounts, wanted))
  const { config, problems } = loadConfig(file)
  const errors = problems.filter(({ level }) => level === 'error')
  if (errors.length > 0) throw new Error(JSON.stringify(errors))
  const log = createLog(process.env['TIDINGS_TEST_LOG'] ?? 'silent')
  const kept = { storage, claim, watch }
  let role: AuthRole = await createAuthRole({ config, dataDir: folder, log, kept })
  const { port } = role
  const { auth } = config.tidings
  return {
    port, config, storage,
    stop: () => role.close(0),
    async start() {
      role = await createAuthRole({ config: { ...config, host: (each) => config.host(each), tidings: { ...config.tidings, auth: { ...auth as NonNullable<typeof auth>, listen: { host: '127.0.0.1', port } } } }, dataDir: folder, log, kept })
    },
    async [Symbol.asyncDispose]() { await role.close(0) },
  }
}

/** How a login ends: `success`, or the condition of SASL. */
export async function outcomeOf(options: ConnectOptions): Promise<string> {
  try {
    const { connection } = await login({ timeoutMs: 30_000, ...options })
    connection.destroy()
    return 'success'
  } catch (error) {
    if (error instanceof LoginError) return error.condition
    throw error
  }
}
