/** A whole server for a test: free ports, its own folder, everything gone at the end. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { chatConfig, startAuth, type TestAuth } from './auth/auth.fixture.ts'
import { loadConfig } from './config/config.ts'
import { createLog } from './log.ts'
import { createServer, type Server, type ServerOptions } from './server.ts'
import { openMemory } from './storage/memory/memory.ts'
import type { Storage } from './storage/shapes.ts'

export const TEST_CONFIG = `
hosts: [localhost]
loglevel: none
listen:
  - { port: 0, ip: 127.0.0.1, module: ejabberd_c2s, starttls: true }
  - { port: 0, ip: 127.0.0.1, module: ejabberd_c2s, tls: true }
  - { port: 0, ip: 127.0.0.1, module: ejabberd_http, tls: true, request_handlers: { /upload: mod_http_upload, /bosh: mod_bosh, /invites: mod_invites } }
access_rules:
  local: { allow: all }
shaper_rules:
  max_user_sessions: 20
  max_user_offline_messages: 1000
modules:
  mod_adhoc: {}
  mod_announce: { access: configure }
  mod_avatar: {}
  mod_auth_fast: {}
  mod_blocking: {}
  mod_bosh: {}
  mod_caps: {}
  mod_carboncopy: {}
  mod_client_state: {}
  mod_configure: {}
  mod_disco: {}
  mod_http_upload: { put_url: "https://@HOST@:5443/upload" }
  mod_invites: { access_create_account: local, landing_page: auto }
  mod_last: {}
  mod_mam: { default: always }
  mod_offline: {}
  mod_ping: {}
  mod_private: {}
  mod_pubsub: { plugins: [flat, pep], ignore_pep_from_offline: false }
  mod_register: { ip_access: all }
  mod_roster: { versioning: true }
  mod_scram_upgrade: {}
  mod_stream_mgmt: {}
  mod_time: {}
  mod_vcard: {}
  mod_vcard_xupdate: {}
  mod_version: {}
`

export interface TestServer extends AsyncDisposable {
  readonly server: Server
  readonly host: '127.0.0.1'
  readonly domain: 'localhost'
  /** Port of the listener with STARTTLS. */
  readonly port: number
  readonly tlsPort: number
  readonly dataDir: string
  /** The process that checks its passwords, when that is another. */
  readonly auth?: TestAuth | undefined
  /** Stops the server and starts another on the same data. */
  restart(): Promise<void>
}

/**
 * Starts a server, on the embedded store unless told otherwise, with the accounts given as `name: password` (of localhost) or `jid: password`. `auth`: an auth process checks its passwords,
 * and keeps those of its own accounts too (`accounts`), or not (`others`); TIDINGS_TEST_AUTH in the environment says so for all tests.
 */
export async function startTestServer(options: { auth?: 'accounts' | 'others' | undefined; accounts?: Readonly<Record<string, string>>; config?: string; storage?: Storage; cluster?: ServerOptions['cluster']; now?: () => number; nameServers?: readonly string[] | undefined; files?: Readonly<Record<string, string>> | undefined; roles?: readonly string[] } = {}): Promise<TestServer> {
  const dir = await mkdtemp(path.join(tmpdir(), 'tidings-'))
  const file = path.join(dir, 'ejabberd.yml')
  const text = options.config ?? TEST_CONFIG
  const wanted = 'auth' in options || options.cluster !== undefined ? options.auth : process.env['TIDINGS_TEST_AUTH'] as 'accounts' | 'others' | undefined
  // With accounts of the server's own alone there is nothing for others to check.
  const auth = wanted === undefined || (wanted === 'others' && !/\b(?:ldap|jwt)\b/.test(text)) ? undefined : await startAuth(text, dir, { accounts: wanted === 'accounts' })
  await writeFile(file, auth === undefined ? text : chatConfig(text, [auth.port], wanted === 'accounts'))
  for (const [name, content] of Object.entries(options.files ?? {})) await writeFile(path.join(dir, name), content)
  const dataDir = path.join(dir, 'data')
  const start = async (): Promise<Server> => {
    const { config, problems } = loadConfig(file)
    const errors = problems.filter((problem) => problem.level === 'error')
    if (errors.length > 0) throw new Error(JSON.stringify(errors))
    return createServer({ config, dataDir, ...(options.roles === undefined ? {} : { roles: options.roles }), ...(options.nameServers === undefined ? {} : { nameServers: options.nameServers }), ...(options.storage === undefined ? {} : { storage: options.storage }), ...(options.cluster === undefined ? {} : { cluster: options.cluster }), ...(options.now === undefined ? {} : { now: options.now }), log: createLog(process.env['TIDINGS_TEST_LOG'] ?? 'silent') })
  }
  let server = await start()
  for (const [name, password] of Object.entries(options.accounts ?? {})) await server.register(name.includes('@') ? name : `${name}@localhost`, password)
  return {
    get server() { return server },
    host: '127.0.0.1',
    domain: 'localhost',
    get port() { return (server.ports.find((each) => each.module === 'ejabberd_c2s' && !each.tls) as { port: number }).port },
    get tlsPort() { return (server.ports.find((each) => each.module === 'ejabberd_c2s' && each.tls) as { port: number }).port },
    dataDir,
    auth,
    async restart() {
      await server.close()
      server = await start()
    },
    async [Symbol.asyncDispose]() {
      await server.close()
      await auth?.[Symbol.asyncDispose]()
      await rm(dir, { recursive: true, force: true })
    },
  }
}

export interface HeldStorage extends Storage {
  healthy: boolean
  /** The same data, for the process after a kill: nothing waits here. */
  readonly survivor: Storage
  /** Has commits wait from now on. */
  hold(): void
  /** Reports what waits as committed, and everything from now on. */
  release(): void
}

/** Storage in memory whose commits wait when they are told to, as on a disk that is slow or full. */
export function openHeldStorage(): HeldStorage {
  const memory = openMemory()
  let waiting: (() => void)[] | undefined
  const afterCommit = (callback: () => void): void => memory.afterCommit(() => {
    if (waiting === undefined) callback()
    else waiting.push(callback)
  })
  return {
    records: memory.records, archive: memory.archive, offline: memory.offline, streams: memory.streams, blobs: memory.blobs,
    afterCommit,
    committed: () => new Promise((resolve) => { afterCommit(resolve) }),
    healthy: true,
    survivor: memory,
    get dirty() { return memory.dirty || (waiting !== undefined && waiting.length > 0) },
    status() {
      return { ...memory.status(), healthy: this.healthy, ...(this.healthy ? {} : { problem: 'no space left' }) }
    },
    hold() { waiting ??= [] },
    release() {
      const callbacks = waiting ?? []
      waiting = undefined
      for (const callback of callbacks) callback()
    },
    async [Symbol.asyncDispose]() {
      await memory[Symbol.asyncDispose]()
    },
  }
}
