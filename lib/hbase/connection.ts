/** One connection to a server, for one of its services: many calls at once, each with its own time-out. */
import { connect, type Socket } from 'node:net'
import { type Deadline } from './deadline.ts'
import { ConnectionError, DeadlineError, type HBaseError, ProtocolError, RemoteError, TooLargeError } from './errors.ts'
import { FrameReader } from './framing.ts'
import { ConnectionHeader, RequestHeader, ResponseHeader } from './messages.ts'
import { readVarint, varintSize, writeVarint } from './varint.ts'

/** Magic, version 0 and authentication SIMPLE: the server believes the name of the user. */
const PREAMBLE = Buffer.from([...Buffer.from('HBas'), 0, 0x50])
const CELL_CODEC = 'org.apache.hadoop.hbase.codec.KeyValueCodec'
/** The version of Apache's client whose protocol this one speaks: to those before 1.3 a get is answered otherwise. */
const VERSION = { version: '2.6.0', url: '', revision: '', user: '', date: '', src_checksum: '', version_major: 2, version_minor: 6 }
const CALL_ID_MAX = 0x7fffffff

export interface ConnectionOptions {
  readonly user: string
  readonly connectTimeoutMs: number
  /** For one call; those of an operation have what is left of its deadline if that is less. */
  readonly callTimeoutMs: number
  /** Calls on the way on one connection, and the bytes of their requests; more wait. */
  readonly callsMax: number
  readonly requestBytesMax: number
  readonly responseBytesMax: number
}

export interface Answer {
  readonly message: Buffer
  /** The cells that came with it. */
  readonly cells: Buffer
}

interface Call {
  readonly method: string
  readonly bytes: number
  readonly sentAt: number
  readonly timer: NodeJS.Timeout
  resolve(answer: Answer): void
  reject(error: HBaseError): void
}

interface Waiting {
  readonly bytes: number
  readonly timer: NodeJS.Timeout
  start(): void
  reject(error: HBaseError): void
}

const NO_CELLS = Buffer.alloc(0)

export class Connection {
  readonly #socket: Socket
  readonly #options: ConnectionOptions
  readonly #address: string
  readonly #calls = new Map<number, Call>()
  readonly #waiting: Waiting[] = []
  #bytes = 0
  #lastId = 0
  #lastReadAt = performance.now()
  #failure: HBaseError | undefined

  constructor(host: string, port: number, service: string, options: ConnectionOptions) {
    this.#options = options
    this.#address = `${host}:${port}`
    const header = ConnectionHeader.encode({ user_info: { effective_user: options.user }, service_name: service, cell_block_codec_class: CELL_CODEC, version_info: VERSION })
    const length = Buffer.alloc(4)
    length.writeUInt32BE(header.length)
    const frames = new FrameReader(options.responseBytesMax, {
      frame: (bytes) => { this.#answered(bytes) },
      tooLarge: (head, bytes) => { this.#tooLarge(head, bytes) },
    })
    this.#socket = connect({ host, port, noDelay: true, keepAlive: true, keepAliveInitialDelay: 30_000 })
    const timer = setTimeout(() => { this.#fail(new ConnectionError(`${this.#address}: no connection in ${options.connectTimeoutMs} ms`, false)) }, options.connectTimeoutMs)
    // The server answers to the header only when it refuses it: calls follow at once.
    this.#socket.write(Buffer.concat([PREAMBLE, length, header]))
    this.#socket.on('connect', () => { clearTimeout(timer) })
    this.#socket.on('data', (chunk) => {
      this.#lastReadAt = performance.now()
      try {
        frames.push(chunk)
      } catch (error) {
        frames.stop()
        this.#fail(new ProtocolError(`${this.#address} sent no answer: ${(error as Error).message}`, { cause: error }))
      }
    })
    this.#socket.on('error', (error) => { this.#fail(new ConnectionError(`${this.#address}: ${error.message}`, false, error)) })
    this.#socket.on('close', () => {
      clearTimeout(timer)
      frames.stop()
      this.#fail(new ConnectionError(`${this.#address}: connection closed`, false))
    })
  }

  get isClosed(): boolean { return this.#failure !== undefined }

  /** Calls that have no answer yet. */
  get calls(): number { return this.#calls.size }

  /**
   * Sends a request and resolves with the answer. Waits first while too much is on the way. Rejects with a RemoteError that the server
   * answered, a ConnectionError, or a DeadlineError when there was no answer in time: then the call may still be done.
   */
  call(method: string, message: Buffer, deadline: Deadline, cells: Buffer = NO_CELLS, priority?: number): Promise<Answer> {
    const timeoutMs = Math.max(1, Math.min(this.#options.callTimeoutMs, deadline.remainingMs))
    return new Promise((resolve, reject) => {
      const bytes = message.length + cells.length
      if (this.#failure) {
        reject(this.#failureOf(false))
        return
      }
      if (this.#waiting.length === 0 && this.#hasRoom(bytes)) {
        this.#send(method, message, cells, priority, timeoutMs, resolve, reject)
        return
      }
      const endsAt = performance.now() + timeoutMs
      const waiting: Waiting = {
        bytes,
        timer: setTimeout(() => {
          this.#waiting.splice(this.#waiting.indexOf(waiting), 1)
          // Nothing was sent, so that another attempt is safe.
          reject(new ConnectionError(`${this.#address} ${method}: could not be sent in ${Math.round(timeoutMs)} ms, so much is on the way`, false))
        }, timeoutMs),
        start: () => { this.#send(method, message, cells, priority, Math.max(1, endsAt - performance.now()), resolve, reject) },
        reject,
      }
      this.#waiting.push(waiting)
    })
  }

  close(): void {
    this.#fail(new ConnectionError(`${this.#address}: closed by the client`, false))
  }

  #hasRoom(bytes: number): boolean {
    return this.#calls.size === 0 || (this.#calls.size < this.#options.callsMax && this.#bytes + bytes <= this.#options.requestBytesMax)
  }

  #send(method: string, message: Buffer, cells: Buffer, priority: number | undefined, timeoutMs: number, resolve: (answer: Answer) => void, reject: (error: HBaseError) => void): void {
    const id = this.#lastId = this.#lastId === CALL_ID_MAX ? 1 : this.#lastId + 1
    const header = RequestHeader.encode({
      call_id: id, method_name: method, request_param: true, timeout: Math.ceil(timeoutMs),
      ...(priority === undefined ? {} : { priority }),
      ...(cells.length === 0 ? {} : { cell_block_meta: { length: cells.length } }),
    })
    const length = varintSize(header.length) + header.length + varintSize(message.length) + message.length
    const head = Buffer.allocUnsafe(4 + length)
    head.writeUInt32BE(length + cells.length, 0)
    let at = writeVarint(head, 4, header.length)
    head.set(header, at)
    at = writeVarint(head, at + header.length, message.length)
    head.set(message, at)
    const bytes = message.length + cells.length
    const sentAt = performance.now()
    this.#calls.set(id, { method, bytes, sentAt, resolve, reject, timer: setTimeout(() => { this.#timedOut(id, timeoutMs) }, timeoutMs) })
    this.#bytes += bytes
    if (cells.length === 0) {
      this.#socket.write(head)
      return
    }
    this.#socket.cork()
    this.#socket.write(head)
    this.#socket.write(cells)
    this.#socket.uncork()
  }

  /** Takes a call out of those on the way, and lets others follow. */
  #take(id: number): Call | undefined {
    const call = this.#calls.get(id)
    if (!call) return undefined
    this.#calls.delete(id)
    clearTimeout(call.timer)
    this.#bytes -= call.bytes
    for (let next = this.#waiting[0]; next && this.#hasRoom(next.bytes); next = this.#waiting[0]) {
      this.#waiting.shift()
      clearTimeout(next.timer)
      next.start()
    }
    return call
  }

  #answered(bytes: Buffer): void {
    const { id, exception, cellBytes, end } = readHeader(bytes)
    const call = this.#take(id)
    if (exception) {
      const error = new RemoteError(exception.exception_class_name, exception.stack_trace, exception.do_not_retry)
      if (call) call.reject(error)
      // What is not about a call is about the connection.
      else if (id > CALL_ID_MAX) this.#fail(error)
      return
    }
    if (!call) return
    const body = readVarint(bytes, end)
    if (!body || body.end + body.value + cellBytes > bytes.length) {
      call.reject(new ProtocolError(`${this.#address} ${call.method}: the answer ends early`))
      return
    }
    const messageEnd = body.end + body.value
    call.resolve({ message: bytes.subarray(body.end, messageEnd), cells: bytes.subarray(messageEnd, messageEnd + cellBytes) })
  }

  #tooLarge(head: Buffer, bytes: number): void {
    const error = new TooLargeError(`${this.#address}: an answer of ${bytes} bytes, and at most ${this.#options.responseBytesMax} are read`)
    let id: number | undefined
    try {
      id = readHeader(head).id
    } catch {
      // Then it is not known whose answer that is.
    }
    if (id !== undefined) this.#take(id)?.reject(error)
    this.#fail(new ConnectionError(error.message, false, error))
  }

  #timedOut(id: number, timeoutMs: number): void {
    const call = this.#take(id)
    if (!call) return
    const isSilent = this.#lastReadAt < call.sentAt
    call.reject(new TimedOut(`${this.#address} ${call.method}: no answer in ${Math.round(timeoutMs)} ms`))
    // Nothing at all came meanwhile: the peer is gone, or unreachable.
    if (isSilent) this.#fail(new ConnectionError(`${this.#address}: silent for ${Math.round(timeoutMs)} ms`, false))
  }

  #failureOf(wasSent: boolean): HBaseError {
    const failure = this.#failure as HBaseError
    return failure instanceof ConnectionError ? new ConnectionError(failure.message, wasSent, failure.cause) : failure
  }

  #fail(error: HBaseError): void {
    if (this.#failure) return
    this.#failure = error
    this.#socket.destroy()
    const calls = [...this.#calls.values()]
    this.#calls.clear()
    for (const call of calls) {
      clearTimeout(call.timer)
      call.reject(this.#failureOf(true))
    }
    for (const waiting of this.#waiting.splice(0)) {
      clearTimeout(waiting.timer)
      waiting.reject(this.#failureOf(false))
    }
  }
}

/** No answer to one call: another attempt may get one. */
export class TimedOut extends DeadlineError {
  override readonly retriable = true
}

function readHeader(bytes: Buffer): { readonly id: number; readonly exception: { exception_class_name: string; stack_trace: string; do_not_retry: boolean } | undefined; readonly cellBytes: number; readonly end: number } {
  const length = readVarint(bytes, 0)
  if (!length || length.end + length.value > bytes.length) throw new ProtocolError('the header of an answer ends early')
  const end = length.end + length.value
  const header = ResponseHeader.decode(bytes.subarray(length.end, end))
  return { id: header.call_id, exception: header.exception ?? undefined, cellBytes: header.cell_block_meta?.length ?? 0, end }
}
