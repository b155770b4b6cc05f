/** The server in a process of its own, as its users run it, on free ports and a directory that is gone afterwards. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync, readFileSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import net from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'

export interface Ports {
  /** For clients, with STARTTLS if the configuration has it. */
  readonly client: number
  readonly clientTls: number
  readonly https: number
  /** For external components. */
  readonly component: number
}

export interface ServerProcessOptions {
  readonly config: (ports: Ports) => string
  /** Where its log goes; nowhere unless given. */
  readonly log?: string
  /** What it is told to do, `serve` unless given, and what it says once it does that. */
  readonly command?: string
  readonly ready?: string
  /** For Node. */
  readonly nodeArgs?: readonly string[]
  /** In front of the command that starts it. */
  readonly prefix?: readonly string[]
  /** Where clients reach it, 127.0.0.1 unless given. */
  readonly host?: string
}

const running = new Set<ServerProcess>()
process.once('exit', () => { for (const server of running) server.killNow() })

/** It can be killed and started again on the same data and ports. */
export class ServerProcess implements AsyncDisposable {
  readonly ports: Ports
  readonly #dir: string
  readonly #options: ServerProcessOptions
  #child: ChildProcess | undefined
  #stderr = ''

  private constructor(dir: string, ports: Ports, options: ServerProcessOptions) {
    this.#dir = dir
    this.ports = ports
    this.#options = options
    running.add(this)
  }

  static async start(options: ServerProcessOptions): Promise<ServerProcess> {
    const dir = await mkdtemp(path.join(tmpdir(), 'tidings-'))
    const ports = { client: await freePort(), clientTls: await freePort(), https: await freePort(), component: await freePort() }
    await writeFile(path.join(dir, 'ejabberd.yml'), options.config(ports))
    const server = new ServerProcess(dir, ports, options)
    await server.run()
    return server
  }

  /** Writes another configuration in place of the first. */
  async configure(config: (ports: Ports) => string): Promise<void> { await writeFile(path.join(this.#dir, 'ejabberd.yml'), config(this.ports)) }

  /** A command of `tidings`, with its exit code and what it said. */
  async command(...args: readonly string[]): Promise<{ readonly code: number | null; readonly output: string }> {
    const cli = path.join(import.meta.dirname, '../server/services/cli.ts')
    const child = spawn(process.execPath, [cli, ...args, '--config', path.join(this.#dir, 'ejabberd.yml'), '--data', path.join(this.#dir, 'data')], { stdio: ['ignore', 'pipe', 'pipe'] })
    let output = ''
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => { output += chunk.toString() })
    const [code] = (await once(child, 'close')) as [number | null]
    return { code, output }
  }

  /** Sends it a signal that does not end it. */
  signal(signal: NodeJS.Signals): void { this.#child?.kill(signal) }

  get port(): number { return this.ports.client }
  get host(): string { return this.#options.host ?? '127.0.0.1' }
  get pid(): number { return this.#child?.pid ?? 0 }
  /** Whether it has ended by itself. */
  get ended(): boolean { return this.#child === undefined || this.#child.exitCode !== null || this.#child.signalCode !== null }

  async run(): Promise<void> {
    const { command = 'serve', ready: said = ' serves ', nodeArgs = [], prefix = [] } = this.#options
    const cli = path.join(import.meta.dirname, '../server/services/cli.ts')
    const log = this.#options.log === undefined ? 'ignore' : openSync(this.#options.log, 'a')
    const [file, ...args] = [...prefix, process.execPath, ...nodeArgs, cli, command, '--config', path.join(this.#dir, 'ejabberd.yml'), '--data', path.join(this.#dir, 'data')]
    const child = spawn(file, args, { stdio: ['ignore', log, 'pipe'] })
    if (typeof log === 'number') closeSync(log)
    this.#child = child
    const ready = Promise.withResolvers<void>()
    child.stderr?.on('data', (chunk: Buffer) => {
      this.#stderr = (this.#stderr + chunk.toString()).slice(-4000)
      if (this.#stderr.includes(said)) ready.resolve()
    })
    child.once('exit', (code) => ready.reject(new Error(`the server ended with ${code}: ${this.#stderr}`)))
    await ready.promise
    this.#stderr = ''
  }

  /** The processes that serve clients, of a server that has several, in the order of their starts (Linux). */
  get children(): readonly number[] {
    const pid = this.#child?.pid
    return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').map(Number)
  }

  /** Kills one of the processes that serve clients, of a server that has several (Linux). */
  killOne(signal: 'SIGKILL' | 'SIGTERM' | 'SIGSTOP' = 'SIGKILL'): void {
    const { children } = this
    process.kill(children[Math.floor(Math.random() * children.length)] as number, signal)
  }

  /** Resolves with the time that it took, ms. */
  async kill(signal: 'SIGKILL' | 'SIGTERM'): Promise<number> {
    const child = this.#child as ChildProcess
    const at = performance.now()
    const exited = once(child, 'exit')
    child.kill(signal)
    const [code] = (await exited) as [number | null]
    const ms = performance.now() - at
    if (signal === 'SIGTERM' && code !== 0) throw new Error(`the server ended with ${code}`)
    return ms
  }

  killNow(): void { this.#child?.kill('SIGKILL') }

  async [Symbol.asyncDispose](): Promise<void> {
    running.delete(this)
    if (!this.ended) await this.kill('SIGKILL')
    await rm(this.#dir, { recursive: true, force: true, maxRetries: 5 })
  }
}

async function freePort(): Promise<number> {
  for (;;) {
    const port = 20_001 + Math.floor(Math.random() * 12_000)
    const probe = net.createServer()
    const free = await new Promise<boolean>((resolve) => {
      probe.once('error', () => resolve(false))
      probe.listen(port, '127.0.0.1', () => resolve(true))
    })
    if (!free) continue
    await new Promise((resolve) => probe.close(resolve))
    return port
  }
}
