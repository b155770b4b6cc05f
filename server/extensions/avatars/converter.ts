/**
 * Converts images in a process of its own, one at a time: what decodes images of strangers may crash, hang or be taken over, and what is
 * lost then is that process. It is started when it is needed, and ends when it has been idle.
 */
import { type ChildProcess, fork, spawnSync } from 'node:child_process'
import { constants, setPriority } from 'node:os'
import path from 'node:path'
import { imageInfo } from '../image-info.ts'
import { BYTES_MAX, type ImageFormat, PIXELS_MAX, type Reply, type Work } from './converter-work.ts'

const PROCESS = path.join(import.meta.dirname, `converter-process${path.extname(import.meta.filename)}`)
/** Conversions that wait for those before them, of all accounts. */
const WAITING_MAX = 32

/** `missing`: nothing can be converted here. `invalid`: this image cannot be. `busy`: it could be later. */
export class ConversionError extends Error {
  readonly why: 'missing' | 'invalid' | 'busy'
  constructor(why: ConversionError['why']) {
    super(`the image is not converted: ${why}`)
    this.name = 'ConversionError'
    this.why = why
  }
}

export interface Converter {
  /** Throws a ConversionError. The result has at most as many bytes as a node and a vCard have room for. */
  convert(image: Buffer, to: ImageFormat): Promise<Buffer>
  /** Ends the process, and fails what it is converting. */
  close(): void
}

export interface ConverterOptions {
  /** How long one image may take, ms. */
  readonly timeoutMs?: number
  /** How long the process waits for another image, ms. */
  readonly idleMs?: number
  /** The program that converts; for tests. */
  readonly program?: string
}

export function createConverter({ timeoutMs = 10_000, idleMs = 60_000, program = PROCESS }: ConverterOptions = {}): Converter {
  const waiting: { readonly work: Work; readonly done: (reply: Reply) => void }[] = []
  let child: ChildProcess | undefined
  let current: ((reply: Reply) => void) | undefined
  let timer: NodeJS.Timeout | undefined

  function start(): ChildProcess {
    const started = fork(program, [], { env: {}, execArgv: ['--max-old-space-size=64'], serialization: 'advanced', stdio: ['ignore', 'ignore', 'ignore', 'ipc'] })
    const ended = (): void => { if (child === started) stop({ failed: 'invalid' }) }
    started.on('message', (reply: Reply) => { if (child === started) finish(reply) })
    started.on('error', ended)
    started.on('exit', ended)
    // Chat goes before pictures.
    try { if (started.pid !== undefined) setPriority(started.pid, constants.priority.PRIORITY_BELOW_NORMAL) } catch { /* it has ended, or may not be lowered */ }
    return started
  }

  function stop(reply: Reply): void {
    const ending = child
    child = undefined
    ending?.kill('SIGKILL')
    finish(reply)
  }

  function finish(reply: Reply): void {
    const done = current
    current = undefined
    clearTimeout(timer)
    done?.(reply)
    next()
  }

  function next(): void {
    if (current !== undefined) return
    const job = waiting.shift()
    if (job === undefined) {
      if (child === undefined) return
      // A process that only waits keeps nobody alive.
      child.unref()
      child.channel?.unref()
      timer = setTimeout(() => { stop({ failed: 'invalid' }) }, idleMs).unref()
      return
    }
    current = job.done
    child ??= start()
    child.ref()
    child.channel?.ref()
    timer = setTimeout(() => { stop({ failed: 'invalid' }) }, timeoutMs)
    child.send(job.work, (error) => { if (error !== null) stop({ failed: 'invalid' }) })
  }

  return {
    async convert(image, to) {
      const info = imageInfo(image)
      if (info === undefined || image.length > BYTES_MAX || (info.width ?? 0) * (info.height ?? 0) > PIXELS_MAX) throw new ConversionError('invalid')
      if (waiting.length >= WAITING_MAX) throw new ConversionError('busy')
      const reply = await new Promise<Reply>((done) => {
        waiting.push({ work: { image, to }, done })
        clearTimeout(current === undefined ? timer : undefined)
        next()
      })
      if ('failed' in reply) throw new ConversionError(reply.failed)
      return Buffer.from(reply.image)
    },
    close() {
      for (const { done } of waiting.splice(0)) done({ failed: 'busy' })
      stop({ failed: 'busy' })
    },
  }
}

let convertsHere: boolean | undefined

/** Whether images can be converted here at all. Found out once, by a process, since loading what converts takes memory that chat needs. */
export function canConvert(): boolean {
  convertsHere ??= spawnSync(process.execPath, [PROCESS, '--check'], { env: {}, stdio: 'ignore', timeout: 20_000 }).status === 0
  return convertsHere
}
