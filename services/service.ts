/** A real service: one process or several, on ports and in a folder of its own. */
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { type Daemon, freePorts, killNow } from './daemon.ts'

/** Of a run of tests: what is started in it is stopped at its end, whoever started it. */
export const RUN_FOLDER = process.env['TIDINGS_SERVICES_DIR']

export interface ServiceOptions {
  /** Where its data and logs go; a folder that is gone afterwards unless given. What a folder holds already is taken up again. */
  readonly dir?: string
  /** The first of its ports, which follow each other; free ones unless given. */
  readonly port?: number
  /** It stays when this process ends. */
  readonly stays?: boolean
}

export class Service implements AsyncDisposable {
  /** How clients reach it. */
  readonly url: string
  readonly dir: string
  readonly daemons: readonly Daemon[]

  constructor(url: string, dir: string, daemons: readonly Daemon[]) {
    this.url = url
    this.dir = dir
    this.daemons = daemons
  }

  /** Its processes are killed as by a crash (SIGKILL). */
  async kill(): Promise<void> {
    await Promise.all(this.daemons.map((each) => each.kill()))
  }

  async stop(): Promise<void> {
    await Promise.all(this.daemons.map((each) => each.stop()))
  }

  /** Starts it anew, with its data and on its ports, whether it runs or was killed. Resolves when it serves. */
  async restart(): Promise<void> {
    await Promise.all(this.daemons.map((each) => each.restart()))
  }

  /** Its processes stand still until `resume`, as on a machine that hangs. */
  pause(): void {
    for (const each of this.daemons) each.signal('SIGSTOP')
  }

  resume(): void {
    for (const each of this.daemons) each.signal('SIGCONT')
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill()
  }
}

/** Folder and first port for a service with `count` ports. */
export async function place(name: string, options: ServiceOptions, count: number): Promise<{ readonly dir: string; readonly port: number }> {
  const port = options.port ?? await freePorts(count)
  if (options.dir !== undefined) {
    mkdirSync(options.dir, { recursive: true })
    return { dir: path.resolve(options.dir), port }
  }
  const dir = mkdtempSync(path.join(RUN_FOLDER ?? tmpdir(), `tidings-${name}-`))
  if (RUN_FOLDER === undefined) removeAtExit(dir)
  return { dir, port }
}

/** The folder, and the processes that run in it, go when this process ends. */
export function removeAtExit(dir: string): void {
  process.once('exit', () => {
    for (const file of readdirSync(dir, { recursive: true, encoding: 'utf8' }).filter((each) => each.endsWith('.pid'))) killNow(path.join(dir, file))
    rmSync(dir, { recursive: true, force: true, maxRetries: 5 })
  })
}
