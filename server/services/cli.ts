/** The command line: serves, checks a configuration, and hands the operator's commands to the server. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync, readdirSync, realpathSync, rmSync } from 'node:fs'
import { enableCompileCache, flushCompileCache, getCompileCacheDir } from 'node:module'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { type AdminResult, OPERATIONS, createAdmin, usage } from '../admin/admin.ts'
import { askServer, listenControl } from '../admin/control.ts'
import type { Config, Problem } from '../config/config.ts'
import type { Log } from '../log.ts'
import type { Server } from '../server.ts'
import type { ServeParts } from './processes.ts'
import type { S2sCheck } from './s2s-check.ts'

/** How long stopping may take before what is left is cut off; of a node, which has to write everything to where other nodes find it, longer. */
const CLOSE_MS = 5_000
const CLOSE_NODE_MS = 30_000
/** How often the certificates are read again. */
const CERTIFICATES_MS = 6 * 3600 * 1000

interface Options {
  readonly config: string | undefined
  readonly data: string | undefined
  readonly strict: boolean
  /** What `serve` is to be; everything unless set. */
  readonly role?: string
  /** Which of the roles of one command this process is: each has its /metrics at the next port. */
  readonly place?: number
}

class UsageError extends Error {}

/** Runs one command; sets the process's exit code: 0 done, 1 failed, 2 called the wrong way. */
export async function main(argv: readonly string[]): Promise<void> {
  try {
    process.exitCode = await run(argv)
  } catch (error) {
    if (error instanceof UsageError) {
      console.error(`${error.message}\nTry: tidings --help`)
      process.exitCode = 2
    } else {
      console.error(error instanceof Error ? error.message : String(error))
      process.exitCode = 1
    }
  }
}

async function run(argv: readonly string[]): Promise<number> {
  const { values, positionals } = parse(argv)
  if (values.version) {
    console.log(version())
    return 0
  }
  const [command, ...args] = positionals
  if (values.help || command === undefined || command === 'help') {
    console.log(help())
    return command === undefined && !values.help ? 2 : 0
  }
  const options: Options = { config: values.config, data: values.data, strict: values.strict ?? false }
  if (command === 'serve' || command === 'upload' || command === 'archive-worker' || command === 'proxy' || command === 'auth') {
    if (args.length > 0) throw new UsageError(`${command} takes no ${args[0]}; a configuration is named by --config FILE`)
    const roles = rolesOf(command === 'serve' ? values.role : command)
    if (roles.length > 1) return serveSeveral(roles, argv)
    const [role = 'all'] = roles
    const asked = { ...options, role, place: Number(values.place ?? 0) }
    return role === 'all' ? serve(options) : SERVES[role as Role](asked)
  }
  if (command === 'check-config') {
    if (args.length > 1) throw new UsageError('check-config takes one file')
    return checkConfig(args[0] ?? options.config ?? defaultConfig(), options)
  }
  if (command === 's2s-check') {
    if (args.length > 1) throw new UsageError('s2s-check takes one domain')
    return checkServer({ domain: args[0], from: values.from }, values.json ?? false, options)
  }
  if (command === 'migrate') {
    if (args.length > 0) throw new UsageError(`migrate takes no ${args[0]}; the cluster is named by --config FILE, the old data by --data DIR`)
    return migrateData(options)
  }
  const operation = OPERATIONS.find((each) => each.name === command || each.name === command.replaceAll('-', '_'))
  if (operation === undefined) throw new UsageError(`Unknown command ${command}`)
  if (args.length !== operation.args.length) throw new UsageError(`Usage: tidings ${usage(operation)}`)
  const password = operation.args.indexOf('password')
  if (password !== -1 && args[password] === '-') args[password] = await readPassword()
  // The server's working directory is another one.
  for (const [at, arg] of operation.args.entries()) if (arg === 'file' || arg === 'dir') args[at] = path.resolve(args[at] as string)
  return show(await administer(operation.name, args, options))
}

/** Of a node: it has accounts and rooms. */
const CHAT = 'chat'
/** Of a node: it speaks to other servers, and has no accounts. */
const FEDERATION = 'federation'
const SERVES = { [CHAT]: serve, [FEDERATION]: serve, upload: serveUpload, 'archive-worker': serveArchive, proxy: serveProxy, auth: serveAuth } as const
type Role = keyof typeof SERVES

/** The roles that are asked for; none for everything. */
function rolesOf(text = 'all'): readonly Role[] {
  const names = [...new Set(text.split(','))]
  if (names.includes('all')) return []
  for (const name of names) if (!Object.hasOwn(SERVES, name)) throw new UsageError(`There is no role ${name}; there are ${Object.keys(SERVES).join(', ')}`)
  if (names.includes(CHAT) && names.includes(FEDERATION)) throw new UsageError('chat and federation are nodes: each needs a configuration of its own, with its own name and data')
  return names as Role[]
}

/** Each role as a process of its own, which share the signals and the end of this one. When one ends by itself the others are stopped. */
async function serveSeveral(roles: readonly Role[], argv: readonly string[]): Promise<number> {
  const others = argv.filter((each, at) => each !== '--role' && argv[at - 1] !== '--role' && !each.startsWith('--role='))
  const children = roles.map((role, place) => spawn(process.execPath, [...process.execArgv, process.argv[1] as string, ...others, '--role', role, '--place', String(place)], { stdio: 'inherit' }))
  const stop = (signal: NodeJS.Signals): void => { for (const child of children) child.kill(signal) }
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(signal, stop)
  const codes = await Promise.all(children.map(async (child) => {
    const [code] = (await once(child, 'exit')) as [number | null]
    stop('SIGTERM')
    return code ?? 1
  }))
  return Math.max(...codes)
}

function parse(argv: readonly string[]): { values: { config?: string; data?: string; strict?: boolean; role?: string; place?: string; from?: string; json?: boolean; help?: boolean; version?: boolean }; positionals: string[] } {
  try {
    return parseArgs({
      args: [...argv],
      allowPositionals: true,
      options: {
        config: { type: 'string', short: 'c' },
        data: { type: 'string', short: 'd' },
        strict: { type: 'boolean' },
        role: { type: 'string' },
        place: { type: 'string' },
        from: { type: 'string' },
        json: { type: 'boolean' },
        help: { type: 'boolean', short: 'h' },
        version: { type: 'boolean', short: 'V' },
      },
    })
  } catch (error) {
    throw new UsageError((error as Error).message)
  }
}

function help(): string {
  const commands = OPERATIONS.map((each) => `  ${usage(each).padEnd(42)} ${each.help}`)
  return `Usage: tidings COMMAND [--config FILE] [--data DIR]

  ${'serve [--strict] [--role ROLE]'.padEnd(42)} Run the server, or roles of it: chat, federation, proxy, upload, auth, archive-worker.
  ${'upload'.padEnd(42)} The same as serve --role upload: files alone.
  ${'archive-worker'.padEnd(42)} The same as serve --role archive-worker: history from Kafka into its store.
  ${'proxy'.padEnd(42)} The same as serve --role proxy: takes clients for the nodes of a cluster.
  ${'auth'.padEnd(42)} The same as serve --role auth: checks passwords for the others.
  ${'migrate'.padEnd(42)} Bring the data of a server alone (--data) into the cluster of --config.
  ${'check-config [FILE] [--strict]'.padEnd(42)} Say what of a configuration cannot be used.
  ${'s2s-check [DOMAIN] [--from HOST] [--json]'.padEnd(42)} Explain whether another server can be reached, and ours by others.
${commands.join('\n')}

Options:
  -c, --config FILE  The configuration, an ejabberd.yml; by default one for localhost.
  -d, --data DIR     Where everything is kept; by default ./data.
      --strict       Treat warnings about the configuration as errors.
  -h, --help         Show this.
  -V, --version      Show the version.

A PASSWORD that is "-" is read from standard input. Put "--" before arguments that begin with a dash.
Exit codes: 0 done, 1 failed, 2 called the wrong way.`
}

function show(result: AdminResult): number {
  for (const line of result.lines) {
    if (result.code === 0) console.log(line)
    else console.error(line)
  }
  return result.code
}

async function readPassword(): Promise<string> {
  if (process.stdin.isTTY) process.stderr.write('Password: ')
  const lines = createInterface({ input: process.stdin, terminal: false })
  try {
    for await (const line of lines) return line
  } finally {
    lines.close()
  }
  throw new UsageError('No password on standard input')
}

/** The directory of the package: with package.json, above the source and above what is built of it. */
function packageRoot(): string {
  let directory = import.meta.dirname
  while (!existsSync(path.join(directory, 'package.json')) && directory !== path.dirname(directory)) directory = path.dirname(directory)
  return directory
}

function version(): string {
  return (JSON.parse(readFileSync(path.join(packageRoot(), 'package.json'), 'utf8')) as { version: string }).version
}

function defaultConfig(): string {
  return path.join(packageRoot(), 'config/ejabberd-compat.yml')
}

/** Reads the configuration; throws when it cannot be used, and tells its warnings to `warn`. */
async function readConfig(options: Options, warn?: (line: string) => void): Promise<Config> {
  const file = path.resolve(options.config ?? defaultConfig())
  if (!existsSync(file)) throw new Error(`There is no configuration ${file}`)
  const { loadConfig, formatProblem } = await import('../config/config.ts')
  const { config, problems } = loadConfig(file, { strict: options.strict })
  if (warn) cacheCode(dataDirOf(options, config))
  // What reports warnings is about to serve, so the modules are checked too.
  if (warn) problems.push(...(await moduleProblems(config, options)))
  const errors = problems.filter((problem) => problem.level === 'error')
  if (errors.length > 0) throw new Error(errors.map(formatProblem).join('\n'))
  for (const problem of problems) warn?.(formatProblem(problem))
  return atPlace(config, options.place)
}

/** Each of several roles on one machine has its /metrics at the next port. */
function atPlace(config: Config, place = 0): Config {
  const { metrics } = config.tidings
  if (place === 0 || metrics === undefined || metrics.port === 0) return config
  return { ...config, host: (host) => config.host(host), tidings: { ...config.tidings, metrics: { ...metrics, port: metrics.port + place } } }
}

/** What the modules of the configuration ask for that the extensions do not have, and what chat as a whole lacks. */
async function moduleProblems(config: Config, options: Options): Promise<Problem[]> {
  const [{ checkModules }, { checkChatNode }, { extensions }] = await Promise.all([import('../config/config.ts'), import('../config/cluster.ts'), import('../extensions/index.ts')])
  return [...checkModules(config, extensions, { strict: options.strict, handlers: ['tidings_status', 'ejabberd_http_ws'] }), ...(options.role === undefined || options.role === CHAT || options.role === FEDERATION ? checkChatNode(config) : [])]
}

function dataDirOf(options: Options, config: Config): string {
  if (options.data !== undefined) return path.resolve(options.data)
  return config.tidings.data === undefined ? path.resolve('data') : path.resolve(path.dirname(config.file), config.tidings.data)
}

async function checkConfig(file: string, options: Options): Promise<number> {
  if (!existsSync(file)) throw new Error(`There is no configuration ${file}`)
  const { loadConfig, formatProblem } = await import('../config/config.ts')
  const { config, problems } = loadConfig(file, { strict: options.strict })
  problems.push(...(await moduleProblems(config, options)))
  for (const problem of problems) console.log(formatProblem(problem))
  const errors = problems.filter((problem) => problem.level === 'error').length
  const warnings = problems.length - errors
  console.log(`${file}: ${errors} errors, ${warnings} warnings; ${config.hosts.length} hosts, ${config.listen.length} listeners`)
  return errors > 0 ? 1 : 0
}

/** Explains whether another server can be reached; 1 when it cannot. */
async function checkServer(check: S2sCheck, asJson: boolean, options: Options): Promise<number> {
  const config = await readConfig(options)
  const { checkFederation, reportLines } = await import('./s2s-check.ts')
  const report = await checkFederation(config, check)
  console.log(asJson ? JSON.stringify(report, undefined, 2) : reportLines(config, report).join('\n'))
  return report.works ? 0 : 1
}

/** Runs an operation in the running server, or on the storage when none runs. */
async function administer(name: string, args: readonly string[], options: Options): Promise<AdminResult> {
  // The socket needs no configuration, unless that says where the data is.
  const config = options.data === undefined ? await readConfig(options) : undefined
  const dataDir = config === undefined ? path.resolve(options.data ?? 'data') : dataDirOf(options, config)
  const { isHeld } = await import('../storage/embedded/lock.ts')
  const answered = await askServer(dataDir, name, args, () => isHeld(dataDir))
  if (answered !== undefined) return answered
  if (['status', 'stop', 'stop_kindly', 'restart', 'reload_config', 'kick_user', 'kick_session', 'user_resources', 'unban_ip'].includes(name) || name.includes('_s2s') || name.includes('_invite') || name.startsWith('connected_')) {
    return { code: 1, lines: [`The server is not running on ${dataDir}`] }
  }
  return offline(name, args, config ?? (await readConfig(options)), dataDir)
}

async function offline(name: string, args: readonly string[], config: Config, dataDir: string): Promise<AdminResult> {
  if (name === 'unregister' || name.includes('piefxis') || config.tidings.cluster !== undefined || await isOfSeveral(dataDir)) {
    // What belongs to an account is known to the extensions: the whole server is built, without a listener; in a cluster as a node that nobody is sent to.
    const { createServer } = await import('../server.ts')
    const { createLog } = await import('../log.ts')
    const quiet: Config = { ...config, host: (host) => config.host(host), listen: [], tidings: { ...config.tidings, metrics: undefined } }
    await using server = await createServer({ config: quiet, dataDir, log: createLog('silent'), roles: ['administration'] })
    return await adminOf(server, () => quiet.hosts).run(name, args)
  }
  const { openEmbedded } = await import('../storage/embedded/embedded.ts')
  const { createAccounts } = await import('../accounts/accounts.ts')
  await using storage = await openEmbedded(dataDir)
  const accounts = createAccounts(storage.records, { committed: () => storage.committed() })
  const admin = createAdmin({
    hosts: () => config.hosts,
    accounts,
    register: (jid, password) => accounts.register(jid, password),
    unregister: (jid) => accounts.unregister(jid),
  })
  return await admin.run(name, args)
}

/** Whether the data is that of several processes: only a whole server makes it that of one. */
async function isOfSeveral(dataDir: string): Promise<boolean> {
  if (!existsSync(path.join(dataDir, 'FORMAT'))) return false
  const [{ openEmbedded }, layout] = await Promise.all([import('../storage/embedded/embedded.ts'), import('../cluster/local/layout.ts')])
  await using storage = await openEmbedded(dataDir)
  return layout.isOfSeveral(storage)
}

function adminOf(server: Server, hosts: () => readonly string[], control?: { stop(): void; restart(): Promise<void>; reload(): Promise<readonly string[]> }): ReturnType<typeof createAdmin> {
  return createAdmin({
    hosts,
    accounts: server.accounts,
    register: (jid, password) => server.register(jid, password),
    unregister: (jid) => server.unregister(jid),
    moving: {
      accounts: server.accounts,
      register: (jid, password) => server.register(jid, password),
      accountData: (host) => (server.hosts.has(host) ? server.accountData : undefined),
      committed: () => server.storage.committed(),
    },
    ...(control === undefined ? {} : { running: { sessions: server.everySession, federation: server.federation, stopKindly: (delayMs: number, announcement: string) => { server.end('stop', delayMs, announcement) }, status: () => server.status(), unban: (address: string) => server.unban(address), operation: async (host: string, name: string, args: readonly string[]) => server.hosts.get(host)?.operations.run(name, args), ...control } }),
  })
}

/** What `serve` as several processes needs of this. */
function serveParts(options: Options): ServeParts {
  return {
    readConfig: (warn) => readConfig(options, warn),
    dataDirOf: (config) => dataDirOf(options, config),
    adminOf,
    welcome: (server, config) => welcome(server, config, options),
  }
}

async function serve(options: Options): Promise<number> {
  if (process.env['TIDINGS_PROCESS'] !== undefined) {
    const outcome = await (await import('./processes.ts')).serveProcess(serveParts(options))
    setImmediate(() => process.exit(outcome))
    return outcome
  }
  let log: Log | undefined
  const survive = (what: string) => (error: unknown): void => { log?.fatal({ what, error: error instanceof Error ? error.stack : String(error) }) }
  const started = (server: Server): void => {
    // A bug in one place must not end everybody's sessions; what was acknowledged is on disk either way.
    if (log === undefined) process.on('uncaughtException', survive('uncaught_exception')).on('unhandledRejection', survive('unhandled_rejection'))
    log = server.log
  }
  for (;;) {
    const outcome = await serveOnce(options, started)
    if (outcome === 'restart') continue
    // Whatever still holds the process, such as a client's half-closed connection, has had its time.
    setImmediate(() => process.exit(outcome))
    return outcome
  }
}

/** Serves until it is told to stop, and answers the exit code; or to restart. */
async function serveOnce(options: Options, started: (server: Server) => void): Promise<number | 'restart'> {
  const warnings: string[] = []
  let config = await readConfig(options, (line) => warnings.push(line))
  if (options.role === FEDERATION && config.tidings.cluster === undefined) throw new Error('federation is a role of a node: tidings.cluster is not configured')
  if (config.tidings.processes > 1 && config.tidings.cluster === undefined) return (await import('./processes.ts')).serveProcesses(serveParts(options))
  for (const line of warnings) console.error(line)
  const dataDir = dataDirOf(options, config)
  const { createServer } = await import('../server.ts')
  const ending = {
    stop: () => { stop('administrator') },
    restart: () => { restart().catch((error: Error) => { log.error({ what: 'not_restarted', error: error.message }) }) },
    lost: () => {
      restart().catch((error: Error) => {
        log.error({ what: 'not_restarted', error: error.message })
        stop('lease lost', 1)
      })
    },
  }
  const server = await createServer({ config, dataDir, ending, ...(options.role === undefined ? {} : { roles: [options.role] }) }).catch((error: Error) => {
    console.error(`Tidings cannot start: ${error.message}`)
    // Parts that were started already would keep the process.
    process.exit(1)
  })
  const { log } = server
  started(server)

  const reload = async (): Promise<readonly string[]> => {
    const problems: string[] = []
    const next = await readConfig(options, (line) => problems.push(line))
    problems.push(...await server.reload(next))
    config = next
    return problems
  }
  const { promise: finished, resolve: finish } = Promise.withResolvers<number | 'restart'>()
  let stopping = false
  const stop = (reason: string, outcome: 0 | 1 | 'restart' = 0): void => {
    // Asked twice, it does not wait.
    if (stopping) return process.exit(1)
    stopping = true
    log.info({ what: 'server_stopping', reason })
    const closeMs = config.tidings.cluster === undefined ? CLOSE_MS : CLOSE_NODE_MS
    const timeout = setTimeout(() => {
      log.error({ what: 'server_stop_timeout', ms: closeMs })
      process.exit(1)
    }, closeMs).unref()
    void (async () => {
      try {
        await control.close()
        await server.close()
        log.info({ what: 'server_stopped' })
        clearTimeout(timeout)
        finish(outcome)
      } catch (error) {
        log.error({ what: 'server_stop_failed', error })
        finish(1)
      }
    })()
  }
  const restart = async (): Promise<void> => {
    // What could not be started again is not stopped.
    await readConfig(options)
    setTimeout(() => { if (!stopping) stop('restart', 'restart') }, 50)
  }
  const control = await listenControl(dataDir, adminOf(server, () => config.hosts, {
    // The answer goes out first.
    stop: () => { setTimeout(() => { stop('command') }, 50) },
    restart,
    reload,
  }), log)

  const onSignal = (signal: NodeJS.Signals): void => { stop(signal) }
  const onHangUp = (): void => {
    reload().then(
      (problems) => { for (const problem of problems) log.warn({ what: 'configuration_problem', problem }) },
      (error: Error) => { log.error({ what: 'configuration_not_reloaded', error: error.message }) },
    )
  }
  process.on('SIGTERM', onSignal).on('SIGINT', onSignal).on('SIGHUP', onHangUp)
  // Renewed files are noticed without a signal, and self-signed certificates made anew before they end.
  const renewing = setInterval(() => {
    server.certificates?.reload().catch((error: Error) => { log.error({ what: 'certificates_not_reloaded', error: error.message }) })
  }, CERTIFICATES_MS).unref()

  console.error(welcome(server, config, options))
  // A killed process writes nothing at its end.
  setImmediate(flushCompileCache)
  const outcome = await finished
  clearInterval(renewing)
  process.off('SIGTERM', onSignal).off('SIGINT', onSignal).off('SIGHUP', onHangUp)
  return outcome
}

/** Serves uploads and downloads alone, until it is told to stop. */
async function serveUpload(options: Options): Promise<number> {
  const config = await readConfig(options, (line) => { console.error(line) })
  const [{ createUploadRole }, { createLog }] = await Promise.all([import('../upload/role.ts'), import('../log.ts')])
  const log = createLog(config.loglevel)
  const role = await createUploadRole({ config, dataDir: dataDirOf(options, config), log })
  console.error([`Tidings ${version()} takes and gives out files`, ...role.ports.map(({ ip, port, tls }) => `  listening for http${tls ? 's' : ''} on ${ip.includes(':') ? `[${ip}]` : ip}:${port}`)].join('\n'))
  const renewing = renew(() => role.certificates?.reload(), log)
  const reason = await signalled()
  log.info({ what: 'server_stopping', reason })
  clearInterval(renewing)
  await role.close()
  return 0
}

/** Puts history from Kafka into its store, until it is told to stop. */
async function serveArchive(options: Options): Promise<number> {
  const config = await readConfig(options, (line) => { console.error(line) })
  const [{ createArchiveRole }, { createLog }] = await Promise.all([import('../cluster/archive-role.ts'), import('../log.ts')])
  const log = createLog(config.loglevel)
  const stop = signalled()
  const role = await createArchiveRole(config, log)
  console.error(`Tidings ${version()} stores history${role.healthPort === undefined ? '' : `; /metrics and /health on port ${role.healthPort}`}`)
  log.info({ what: 'server_stopping', reason: await stop })
  await role.close()
  return 0
}

/** Passes clients on to the nodes that serve them, until it is told to stop; then they are ended one after the other. */
async function serveProxy(options: Options): Promise<number> {
  const config = await readConfig(options, (line) => { console.error(line) })
  const [{ createProxyRole }, { createLog }] = await Promise.all([import('../front/proxy-role.ts'), import('../log.ts')])
  const log = createLog(config.loglevel)
  process.on('uncaughtException', (error) => { log.fatal({ what: 'uncaught_exception', error: error.stack }) })
  const stop = signalled()
  const role = await createProxyRole({ config, dataDir: dataDirOf(options, config), log })
  console.error([`Tidings ${version()} passes clients on`, ...role.server.ports.map(({ module, ip, port, tls }) => `  listening for ${module} on ${ip.includes(':') ? `[${ip}]` : ip}:${port}${tls ? ' (TLS)' : ''}`)].join('\n'))
  const renewing = renew(() => role.server.certificates?.reload(), log)
  const reason = await stop
  clearInterval(renewing)
  const drainMs = config.tidings.cluster?.drainMs ?? 0
  log.info({ what: 'server_stopping', reason, connections: role.connections, drainMs })
  await role.drain(drainMs)
  await role.close()
  log.info({ what: 'server_stopped' })
  setImmediate(() => process.exit(0))
  return 0
}

/** Brings what a server alone has stored into the cluster of the configuration. */
async function migrateData(options: Options): Promise<number> {
  const config = await readConfig(options, (line) => { console.error(line) })
  if (config.tidings.cluster === undefined) throw new Error(`${config.file}: tidings.cluster is not configured: there is nowhere to bring the data to`)
  const [{ migrateFrom }, { createLog }] = await Promise.all([import('../cluster/migrate-role.ts'), import('../log.ts')])
  const { records, history, offline, streams, files } = await migrateFrom(config, dataDirOf(options, config), createLog(config.loglevel))
  console.log(`Brought ${records} records, ${history} items of history, ${offline} offline stanzas, ${streams} streams and ${files} files into the cluster. The old data are where they were.`)
  return 0
}

/** Checks passwords and tokens for chat processes, until it is told to stop. */
async function serveAuth(options: Options): Promise<number> {
  const config = await readConfig(options, (line) => { console.error(line) })
  const [{ createAuthRole }, { createLog }] = await Promise.all([import('../auth/role.ts'), import('../log.ts')])
  const log = createLog(config.loglevel)
  const stop = signalled()
  const start = () => createAuthRole({ config, dataDir: dataDirOf(options, config), log })
  let role = await start()
  console.error(`Tidings ${version()} checks logins on port ${role.port}${role.healthPort === undefined ? '' : `; /metrics and /health on port ${role.healthPort}`}`)
  for (;;) {
    const reason = await Promise.race([stop, role.lost])
    if (reason !== undefined) log.info({ what: 'server_stopping', reason })
    await role.close()
    if (reason !== undefined) return 0
    role = await start()
  }
}

/** Has the certificates read again now and then, and on SIGHUP. */
function renew(reload: () => Promise<unknown> | undefined, log: Log): NodeJS.Timeout {
  const run = (): void => { reload()?.catch((error: Error) => { log.error({ what: 'certificates_not_reloaded', error: error.message }) }) }
  process.on('SIGHUP', run)
  return setInterval(run, CERTIFICATES_MS).unref()
}

/** Resolves when the process is asked to stop; asked twice, it does not wait. */
function signalled(): Promise<NodeJS.Signals> {
  // What a role has nothing to read again for does not end it.
  process.on('SIGHUP', () => {})
  return new Promise((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) {
      process.once(signal, () => {
        process.once(signal, () => process.exit(1))
        resolve(signal)
      })
    }
  })
}

/** Has Node keep the compiled code in the data directory, which makes the next start take half of the time; only that of this version of Node. */
function cacheCode(dataDir: string): void {
  // A directory of ours, which nobody else can write to, and not before it is one.
  if (!existsSync(path.join(dataDir, 'FORMAT')) || process.env['NODE_DISABLE_COMPILE_CACHE'] !== undefined) return
  const cache = path.join(dataDir, 'code-cache')
  enableCompileCache(cache)
  const directory = getCompileCacheDir()
  if (directory === undefined || path.dirname(directory) !== cache) return
  for (const name of readdirSync(cache)) if (name !== path.basename(directory)) rmSync(path.join(cache, name), { recursive: true, force: true })
}

/** What to do next, for the person who started it. */
function welcome(server: Pick<Server, 'ports' | 'dataDir' | 'certificates'>, config: Config, options: Options): string {
  const lines = [`Tidings ${version()} serves ${config.hosts.join(', ')}; data in ${server.dataDir}`]
  for (const { module, port, ip, unixPath, tls } of server.ports) {
    const what = module === 'ejabberd_c2s' ? `clients${tls ? ' (TLS)' : ''}` : module === 'ejabberd_http' ? `http${tls ? 's' : ''}` : module
    lines.push(`  listening for ${what} on ${unixPath ?? `${ip.includes(':') ? `[${ip}]` : ip}:${port}`}`)
  }
  for (const host of server.certificates?.selfSigned ?? []) {
    lines.push(`  certificate of ${host} is self-signed, SHA-256 ${server.certificates?.certificateFor(host).fingerprint256 ?? ''}`)
  }
  const where = [...(options.config === undefined ? [] : ['--config', options.config]), ...(options.data === undefined ? [] : ['--data', options.data])].join(' ')
  lines.push(`Add an account, then log in with any XMPP client:`, `  npx tidings register alice ${config.hosts[0] ?? 'localhost'} PASSWORD${where === '' ? '' : ` ${where}`}`)
  return lines.join('\n')
}

if (process.argv[1] !== undefined && existsSync(process.argv[1]) && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) await main(process.argv.slice(2))
