/**
 * `tidings serve` as several processes (`tidings: processes:`): a main process, which alone uses the data directory, and chat processes, which take
 * clients on the same ports. One that ends is started again; when the main process ends all do.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { AggregatorRegistry, type Registry } from 'prom-client'
import { createSecureContexts } from '../../lib/net/certificates.ts'
import type { AdminResult } from '../admin/admin.ts'
import { listenControl } from '../admin/control.ts'
import { Hub } from '../cluster/local/hub.ts'
import { forSeveral } from '../cluster/local/layout.ts'
import { openLocalNode, processesPath } from '../cluster/local/node.ts'
import type { Config } from '../config/config.ts'
import { listenHealth } from '../http/http.ts'
import { createLog, type Log } from '../log.ts'
import { createMetrics } from '../metrics.ts'
import { storageErrorsTo } from '../cluster/errors.ts'
import { createServer, type Server } from '../server.ts'
import { openEmbedded } from '../storage/embedded/embedded.ts'

/** Set in chat processes: which of them it is, from 1. */
export const PROCESS = 'TIDINGS_PROCESS'

/** How the command line reads its configuration, and what it offers. */
export interface ServeParts {
  readConfig(warn?: (line: string) => void): Promise<Config>
  dataDirOf(config: Config): string
  adminOf(server: Server, hosts: () => readonly string[], control: { stop(): void; restart(): Promise<void>; reload(): Promise<readonly string[]> }): { run(name: string, args: readonly string[]): Promise<AdminResult> }
  welcome(server: Pick<Server, 'ports' | 'dataDir' | 'certificates'>, config: Config): string
}

type Ask = { readonly ask: number } & ({ readonly what: 'command'; readonly name: string; readonly args: readonly string[] } | { readonly what: 'metrics' | 'reload' | 'status' })
type Answer = { readonly answer: number; readonly value?: unknown; readonly error?: string }
type Tell = Answer | { readonly tell: 'ready'; readonly ports: Server['ports'] } | { readonly tell: 'stop' | 'restart' }
type Status = ReturnType<Server['status']>

const STOP_MS = 40_000
const AGAIN_FIRST_MS = 100
const AGAIN_MAX_MS = 5000
/** A process that has lived for so long did not fail at its start. */
const LIVED_MS = 10_000
const ASK_MS = 10_000
/** Renewed certificates are noticed without a signal, and self-signed ones made anew before they end; by one process after the other, so that all have the same. */
const CERTIFICATES_MS = 6 * 3600 * 1000
const CERTIFICATES_APART_MS = 60_000

/** What one of the processes listens on. Only clients come to all of them; the first has everything else. */
function configOf(config: Config, place: number): Config {
  const listen = config.listen.flatMap((each) => {
    if (each.module === 'ejabberd_c2s' && each.unixPath === undefined) return [{ ...each, reusePort: true }]
    return place === 1 ? [each] : []
  })
  return { ...config, host: (host) => config.host(host), listen, tidings: { ...config.tidings, metrics: undefined } }
}

/** A chat process. Resolves with its exit code. */
export async function serveProcess(parts: ServeParts): Promise<number> {
  const place = Number(process.env[PROCESS])
  const tell = (message: Tell): void => { if (process.connected) process.send?.(message) }
  // Without the main process nothing can be stored, and nobody may be answered.
  process.on('disconnect', () => process.exit(1))
  const config = configOf(await parts.readConfig(() => undefined), place)
  const dataDir = parts.dataDirOf(config)
  const log: Log = createLog(config.loglevel)
  const node = await openLocalNode({
    config, dataDir, path: processesPath(dataDir), name: String(place), log,
    onHealth: (problem) => {
      if (problem === undefined) log.info({ what: 'storage_recovered' })
      else log.error({ what: 'storage_failing', problem })
    },
    onError: storageErrorsTo(log),
  })
  node.units.onLost(() => process.exit(1))
  const ending = { stop: () => { tell({ tell: 'stop' }) }, restart: () => { tell({ tell: 'restart' }) }, lost: () => process.exit(1) }
  const server = await createServer({ config, dataDir, storage: node.storage, cluster: node, log, ending })
  server.metrics.label({ process: String(place) })
  const survive = (what: string) => (error: unknown): void => { log.fatal({ what, error: error instanceof Error ? error.stack : String(error) }) }
  process.on('uncaughtException', survive('uncaught_exception')).on('unhandledRejection', survive('unhandled_rejection'))
  const reload = async (): Promise<readonly string[]> => {
    const problems: string[] = []
    const next = await parts.readConfig((line) => problems.push(line))
    return [...problems, ...await server.reload(configOf(next, place))]
  }
  const admin = parts.adminOf(server, () => [...server.hosts.keys()], { stop: ending.stop, restart: () => Promise.resolve(ending.restart()), reload })
  const answers = { command: ({ name, args }: { name: string; args: readonly string[] }) => admin.run(name, args), metrics: () => server.metrics.values(), reload, status: () => server.status() }
  process.on('message', (message: Ask) => {
    void (async () => {
      try {
        tell({ answer: message.ask, value: await answers[message.what](message as never) })
      } catch (error) {
        tell({ answer: message.ask, error: (error as Error).message })
      }
    })()
  })
  // It may be told twice: by who stops all processes of the service at once, and by the main process.
  const stopped = new Promise<void>((resolve) => { process.on('SIGTERM', () => { resolve() }) })
  // Sent to all processes of a terminal; the main process tells when to stop.
  process.on('SIGINT', () => undefined).on('SIGHUP', () => undefined)
  const renewing = setInterval(() => {
    server.certificates?.reload().catch((error: Error) => { log.error({ what: 'certificates_not_reloaded', error: error.message }) })
  }, CERTIFICATES_MS + (place - 1) * CERTIFICATES_APART_MS).unref()
  tell({ tell: 'ready', ports: server.ports })
  await stopped
  clearInterval(renewing)
  await server.close()
  await node[Symbol.asyncDispose]()
  return 0
}

/** A chat process as the main process sees it. */
class Chat {
  readonly place: number
  #child: ChildProcess | undefined
  #asked = 0
  readonly #asks = new Map<number, { resolve(value: unknown): void; reject(error: Error): void }>()
  readonly #onTell: (what: 'stop' | 'restart') => void
  readonly #log: Log
  #againMs = AGAIN_FIRST_MS
  #isStopping = false
  #timer: NodeJS.Timeout | undefined
  /** Undefined while it starts. */
  ports: Server['ports'] | undefined

  constructor(place: number, log: Log, onTell: (what: 'stop' | 'restart') => void) {
    this.place = place
    this.#log = log
    this.#onTell = onTell
  }

  /** Resolves when it takes clients; rejects when it ends before. */
  async start(): Promise<void> {
    const startedAt = performance.now()
    const child = spawn(process.execPath, [...process.execArgv, ...process.argv.slice(1)], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'], env: { ...process.env, [PROCESS]: String(this.place) } })
    this.#child = child
    const { promise: ready, resolve, reject } = Promise.withResolvers<void>()
    child.on('message', (message: Tell) => {
      if ('answer' in message) {
        const ask = this.#asks.get(message.answer)
        this.#asks.delete(message.answer)
        if (message.error === undefined) ask?.resolve(message.value)
        else ask?.reject(new Error(message.error))
      } else if (message.tell === 'ready') {
        this.ports = message.ports
        resolve()
      } else this.#onTell(message.tell)
    })
    child.once('error', reject)
    child.once('exit', (code, signal) => {
      this.ports = undefined
      reject(new Error(`process ${this.place} ended with ${signal ?? code} while it started`))
      for (const ask of this.#asks.values()) ask.reject(new Error(`process ${this.place} has ended`))
      this.#asks.clear()
      if (this.#isStopping) return
      this.#log.error({ what: 'process_ended', process: this.place, code, signal })
      this.#againMs = performance.now() - startedAt > LIVED_MS ? AGAIN_FIRST_MS : Math.min(AGAIN_MAX_MS, this.#againMs * 2)
      this.#timer = setTimeout(() => { this.start().catch(() => undefined) }, this.#againMs)
    })
    await ready
  }

  get pid(): number | undefined { return this.#child?.pid }

  ask<T>(message: { readonly what: Ask['what']; readonly name?: string; readonly args?: readonly string[] }, waitMs = ASK_MS): Promise<T> {
    const child = this.#child
    if (child?.connected !== true || this.ports === undefined) return Promise.reject(new Error(`process ${this.place} does not serve at the moment`))
    return new Promise<T>((resolve, reject) => {
      const ask = ++this.#asked
      const timer = waitMs === Infinity ? undefined : setTimeout(() => {
        this.#asks.delete(ask)
        reject(new Error(`process ${this.place} does not answer`))
      }, waitMs)
      const end = <A>(then: (value: A) => void) => (value: A): void => {
        clearTimeout(timer)
        then(value)
      }
      this.#asks.set(ask, { resolve: end(resolve as (value: unknown) => void), reject: end(reject) })
      child.send({ ...message, ask })
    })
  }

  /** It must not do anything any more; another takes its place. */
  kill(): void { this.#child?.kill('SIGKILL') }

  /** It is not started again. */
  async stop(waitMs: number): Promise<void> {
    this.#isStopping = true
    clearTimeout(this.#timer)
    const child = this.#child
    if (!child || child.exitCode !== null || child.signalCode !== null) return
    const exited = once(child, 'exit')
    child.kill('SIGTERM')
    const timer = setTimeout(() => child.kill('SIGKILL'), waitMs)
    await exited
    clearTimeout(timer)
  }
}

/** Serves as several processes until it is told to stop, and answers the exit code; or to restart. */
export async function serveProcesses(parts: ServeParts): Promise<number | 'restart'> {
  let config = await parts.readConfig((line) => { console.error(line) })
  const dataDir = parts.dataDirOf(config)
  const log = createLog(config.loglevel)
  const count = config.tidings.processes
  const startedAt = Date.now()
  const storage = await openEmbedded(dataDir, {
    onHealth: (problem) => {
      if (problem === undefined) log.info({ what: 'storage_recovered' })
      else log.error({ what: 'storage_failing', problem })
    },
    onError: storageErrorsTo(log),
  })
  await forSeveral(storage)
  // Made once, before all read them.
  const isSecure = config.listen.some(({ tls, starttls }) => tls || starttls)
  const certificates = isSecure ? await createSecureContexts({ hosts: config.hosts, certfiles: config.certfiles, selfSigned: config.tidings.selfSigned, dataDir }) : undefined
  const { promise: finished, resolve: finish } = Promise.withResolvers<number | 'restart'>()
  let stopping: string | undefined
  const stop = (reason: string, outcome: number | 'restart' = 0): void => {
    if (stopping !== undefined) return process.exit(1)
    stopping = reason
    log.info({ what: 'server_stopping', reason })
    finish(outcome)
  }
  const restart = async (): Promise<void> => {
    // What could not be started again is not stopped.
    await parts.readConfig()
    setTimeout(() => { if (stopping === undefined) stop('restart', 'restart') }, 50)
  }
  const chats = Array.from({ length: count }, (_, i) => new Chat(i + 1, log, (what) => {
    if (stopping !== undefined) return
    if (what === 'stop') setTimeout(() => { if (stopping === undefined) stop('command') }, 50)
    else restart().catch((error: Error) => { log.error({ what: 'not_restarted', error: error.message }) })
  }))
  const hub = await Hub.open({
    storage, path: processesPath(dataDir),
    onLost: (inc) => { chats[Number(inc.split('-')[0]) - 1]?.kill() },
    onError: (error) => log.error({ what: 'process_unreadable', error }),
  })
  const closeAll = async (): Promise<void> => {
    await Promise.all(chats.map((chat) => chat.stop(STOP_MS)))
    await hub.close()
    await storage[Symbol.asyncDispose]()
  }
  try {
    // The first keeps what belongs to hosts as a whole.
    await chats[0]?.start()
    await Promise.all(chats.slice(1).map((chat) => chat.start()))
  } catch (error) {
    await closeAll()
    throw error
  }

  const statuses = async (): Promise<readonly Status[]> => (await Promise.all(chats.map((chat) => chat.ask<Status>({ what: 'status' }).catch(() => undefined)))).filter((each) => each !== undefined)
  const reload = async (): Promise<readonly string[]> => {
    const next = await parts.readConfig()
    const problems = new Set<string>()
    for (const chat of chats) for (const problem of await chat.ask<readonly string[]>({ what: 'reload' }, 60_000)) problems.add(problem)
    if (next.tidings.processes !== count) problems.add(`${next.file}: tidings.processes: the change takes effect at the next start.`)
    config = next
    log.level = next.loglevel
    return [...problems]
  }
  const run = async (name: string, args: readonly string[]): Promise<AdminResult> => {
    try {
      if (name === 'stop') {
        // The answer goes out first.
        setTimeout(() => { stop('command') }, 50)
        return { code: 0, lines: [] }
      }
      if (name === 'restart') {
        await restart()
        return { code: 0, lines: [] }
      }
      if (name === 'reload_config') return { code: 0, lines: await reload() }
      if (name === 'status') {
        const all = await statuses()
        const sessions = all.reduce((sum, each) => sum + each.sessions, 0)
        const problem = storage.status().problem ?? all.find((each) => !each.healthy)?.storage.problem
        return {
          code: problem === undefined && all.length === count ? 0 : 1,
          lines: [
            `Tidings is running since ${Math.floor((Date.now() - startedAt) / 1000)} s with ${sessions} sessions; hosts: ${config.hosts.join(', ')}`,
            `${all.length} of ${count} processes serve clients`,
            `Storage embedded: ${problem ?? 'healthy'}`,
          ],
        }
      }
      if (name === 'unban_ip') {
        const results = await Promise.all(chats.map((chat) => chat.ask<AdminResult>({ what: 'command', name, args })))
        return results.find(({ code, lines }) => code !== 0 || lines[0] === '1') ?? results[0] as AdminResult
      }
      if (name.includes('_s2s')) {
        const results = await Promise.all(chats.filter((each) => each.ports !== undefined).map((each) => each.ask<AdminResult>({ what: 'command', name, args })))
        const lines = results.flatMap((result) => result.lines)
        const failed = results.find(({ code }) => code !== 0)
        return failed ?? { code: 0, lines: name === 'list_s2s' ? lines : [String(lines.reduce((sum, line) => sum + Number(line), 0))] }
      }
      const chat = chats.find((each) => each.ports !== undefined)
      if (chat === undefined) return { code: 1, lines: ['Error: no process serves at the moment'] }
      return await chat.ask<AdminResult>({ what: 'command', name, args }, Infinity)
    } catch (error) {
      return { code: 1, lines: [`Error: ${(error as Error).message}`] }
    }
  }
  const control = await listenControl(dataDir, { operations: [], run }, log)

  const own = createMetrics()
  own.label({ process: 'main' })
  own.gauge('tidings_processes', 'Processes that serve clients', [], () => chats.filter((chat) => chat.ports !== undefined).length)
  let latest: readonly Status[] = await statuses()
  const watching = setInterval(() => { void statuses().then((all) => { latest = all }) }, 1000).unref()
  const { metrics: operators } = config.tidings
  const health = operators === undefined ? undefined : await listenHealth({
    ...operators, log,
    metrics: {
      contentType: own.contentType,
      async render() {
        const all = await Promise.all(chats.map((chat) => chat.ask<ReturnType<Registry['getMetricsAsJSON']>>({ what: 'metrics' }).catch(() => [])))
        return await AggregatorRegistry.aggregate([await own.values(), ...all] as never).metrics()
      },
    } as Parameters<typeof listenHealth>[0]['metrics'],
    health: () => {
      const status = storage.status()
      const failing = latest.find((each) => !each.healthy)?.storage
      const healthy = status.healthy && failing === undefined && chats.every((chat) => chat.ports !== undefined)
      return { healthy, storage: failing ?? status, sessions: latest.reduce((sum, each) => sum + each.sessions, 0), uptimeMs: Date.now() - startedAt }
    },
  })

  const onSignal = (signal: NodeJS.Signals): void => { stop(signal) }
  const onHangUp = (): void => {
    reload().then(
      (problems) => { for (const problem of problems) log.warn({ what: 'configuration_problem', problem }) },
      (error: Error) => { log.error({ what: 'configuration_not_reloaded', error: error.message }) },
    )
  }
  process.on('SIGTERM', onSignal).on('SIGINT', onSignal).on('SIGHUP', onHangUp)
  const ports: Server['ports'][number][] = [...chats[0]?.ports ?? []]
  if (health !== undefined && operators !== undefined) ports.push({ module: 'metrics', configured: operators.port, port: health.port, ip: operators.ip, unixPath: undefined, tls: false })
  console.error(parts.welcome({ ports, dataDir, certificates }, config))
  console.error(`  ${count} processes take clients: ${chats.map((chat) => chat.pid).join(', ')}`)
  const outcome = await finished
  clearInterval(watching)
  process.off('SIGTERM', onSignal).off('SIGINT', onSignal).off('SIGHUP', onHangUp)
  // Asked twice, it does not wait.
  process.once('SIGTERM', () => process.exit(1)).once('SIGINT', () => process.exit(1))
  await control.close()
  await health?.close()
  await closeAll()
  log.info({ what: 'server_stopped' })
  return outcome
}
