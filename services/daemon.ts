/** One process of a real service: started in a folder, with its log and its process id there, so that another process can find and stop it. */
import { spawn } from 'node:child_process'
import { closeSync, existsSync, mkdirSync, openSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

/** How long a process may take to end by itself, ms. */
const STOP_MS = 30_000
const POLL_MS = 50

/** Files of the processes that end with this one. */
const ends = new Set<string>()
process.once('exit', () => { for (const file of ends) killNow(file) })

export interface Launch {
  /** Names its files in `dir`: `NAME.pid`, `NAME.log`; the log of the time before is in `NAME.log.old`. */
  readonly name: string
  readonly dir: string
  readonly command: string
  readonly args: readonly string[]
  readonly env?: NodeJS.ProcessEnv
  /** Whether it serves. May throw while it does not. */
  ready(): boolean | Promise<boolean>
  /** How long it may take until it serves, ms. */
  readonly startMs: number
  /** It stays when this process ends. */
  readonly stays?: boolean
}

export class Daemon {
  readonly #launch: Launch

  private constructor(launch: Launch) {
    this.#launch = launch
    mkdirSync(launch.dir, { recursive: true })
    if (launch.stays !== true) ends.add(this.#pidFile)
  }

  /** Starts it, or takes the one that runs in this folder already; resolves when it serves. */
  static async start(launch: Launch): Promise<Daemon> {
    const daemon = new Daemon(launch)
    await daemon.run()
    return daemon
  }

  get name(): string { return this.#launch.name }
  get log(): string { return path.join(this.#launch.dir, `${this.#launch.name}.log`) }
  get #pidFile(): string { return pidFile(this.#launch.dir, this.#launch.name) }
  get pid(): number | undefined { return runningPid(this.#pidFile) }
  get alive(): boolean { return this.pid !== undefined }

  async run(): Promise<void> {
    const { name, command, args, dir, env, startMs } = this.#launch
    if (!this.alive) {
      if (existsSync(this.log)) renameSync(this.log, `${this.log}.old`)
      const out = openSync(this.log, 'a')
      const child = spawn(command, args, { cwd: dir, detached: true, stdio: ['ignore', out, out], env: { ...process.env, ...env } })
      closeSync(out)
      const failed = new Promise<never>((_resolve, reject) => child.once('error', reject))
      await Promise.race([failed, new Promise((resolve) => child.once('spawn', resolve))])
      failed.catch(() => undefined)
      child.unref()
      const pid = child.pid as number
      writeFileSync(this.#pidFile, `${pid} ${startOf(pid) ?? ''}\n`)
    }
    const until = performance.now() + startMs
    while (!(await serves(this.#launch))) {
      if (!this.alive) throw new Error(`${name} ended while it started:\n${this.#tail()}`)
      if (performance.now() > until) {
        await this.kill()
        throw new Error(`${name} did not serve within ${startMs / 1000} s:\n${this.#tail()}`)
      }
      await sleep(POLL_MS)
    }
  }

  #tail(): string {
    return readFileSync(this.log, 'utf8').split('\n').slice(-25).join('\n')
  }

  /** Ends it as a crash would; resolves when it is gone. */
  async kill(): Promise<void> {
    await end(this.#pidFile, 'SIGKILL')
  }

  /** Lets it end by itself; kills it when that takes too long. */
  async stop(): Promise<void> {
    await end(this.#pidFile, 'SIGTERM')
  }

  /** Stops it for a while, as a machine that hangs; SIGCONT lets it go on. */
  signal(signal: 'SIGSTOP' | 'SIGCONT'): void {
    const { pid } = this
    if (pid === undefined) throw new Error(`${this.name} does not run`)
    process.kill(pid, signal)
  }

  /** Starts it anew in the same folder, on the same ports. */
  async restart(): Promise<void> {
    await this.stop()
    await this.run()
  }
}

async function serves(launch: Launch): Promise<boolean> {
  try {
    return await launch.ready()
  } catch {
    return false
  }
}

export function pidFile(dir: string, name: string): string {
  return path.join(dir, `${name}.pid`)
}

/** Ends the process that a file names, if it runs. */
export async function end(file: string, signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
  const pid = runningPid(file)
  if (pid !== undefined) process.kill(pid, signal)
  const until = performance.now() + STOP_MS
  while (runningPid(file) !== undefined) {
    if (performance.now() > until) killNow(file)
    await sleep(POLL_MS)
  }
  rmSync(file, { force: true })
}

/** Sends SIGKILL to the process that a file names, if it runs, and does not wait. */
export function killNow(file: string): void {
  const pid = runningPid(file)
  if (pid !== undefined) process.kill(pid, 'SIGKILL')
}

/** The process of the file if it runs still: the same process, not a later one with the same number, and not one that is dead and not yet waited for. */
function runningPid(file: string): number | undefined {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch {
    return undefined
  }
  const [pid = '', start = ''] = text.trim().split(' ')
  return start !== '' && startOf(Number(pid)) === start ? Number(pid) : undefined
}

/** When a process started, in ticks since the machine did; `undefined` when it does not run. */
function startOf(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    // The second field is a name in parentheses, which may contain anything. The state is the third field, the start the 22nd.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    // Dead and not yet waited for; while threads of it still run, its files and ports are open.
    const dead = fields[0] === 'X' || (fields[0] === 'Z' && readdirSync(`/proc/${pid}/task`).length <= 1)
    return dead ? undefined : fields[19]
  } catch {
    return undefined
  }
}

/** Whether somebody listens on the port of this machine. */
export async function listens(port: number): Promise<boolean> {
  const socket = net.connect(port, '127.0.0.1')
  try {
    return await new Promise((resolve) => {
      socket.once('connect', () => resolve(true))
      socket.once('error', () => resolve(false))
    })
  } finally {
    socket.destroy()
  }
}

/** The first of `count` ports in a row on which nobody listens, below those that outgoing connections take. */
export async function freePorts(count: number): Promise<number> {
  for (;;) {
    const first = 20_001 + Math.floor(Math.random() * (12_000 - count))
    const ports = Array.from({ length: count }, (_, i) => first + i)
    if ((await Promise.all(ports.map(isFree))).every(Boolean)) return first
  }
}

async function isFree(port: number): Promise<boolean> {
  const probe = net.createServer()
  const free = await new Promise<boolean>((resolve) => {
    probe.once('error', () => resolve(false))
    probe.listen(port, '127.0.0.1', () => resolve(true))
  })
  if (free) await new Promise((resolve) => probe.close(resolve))
  return free
}
