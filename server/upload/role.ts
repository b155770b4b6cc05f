/**
 * The role `upload`: takes and gives out files (XEP-0363) for chat processes elsewhere, and streams them to and from the bucket. It keeps nothing itself: what may
 * be uploaded is signed in the address, that it is uploaded once is the bucket's to see to, and expiry, quotas and removal are the chat processes'.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { createSecureContexts, type SecureContexts } from '../../lib/net/certificates.ts'
import type { Config, ListenConfig } from '../config/config.ts'
import { parseOptions, type OptionTable } from '../config/options.ts'
import { type UploadOptions, uploadOptions } from '../extensions/http-upload.ts'
import { answerOptions, decodePart, isContentType, sendFile, setFileHeaders } from '../http/files.ts'
import { acceptBody, bodyOf, createHttp, HttpError, type HttpListener, httpLimits, listenHealth } from '../http/http.ts'
import type { HttpPath } from '../http/routes.ts'
import { createLog, type Log } from '../log.ts'
import { createMetrics } from '../metrics.ts'
import { openS3, type S3Blobs } from '../storage/s3/blobs.ts'
import { isSigned } from './addresses.ts'
import type { UploadClaims } from './claims.ts'

export interface UploadRoleOptions {
  readonly config: Config
  /** For certificates that the server signs itself. */
  readonly dataDir: string
  readonly log?: Log
  readonly now?: () => number
  /** What keeps two processes from the same upload, in place of the bucket, or of Redis when that does not. */
  readonly claims?: UploadClaims
}

export interface UploadRole {
  readonly ports: readonly { readonly configured: number; readonly port: number; readonly ip: string; readonly tls: boolean }[]
  readonly certificates: SecureContexts | undefined
  /** Lets uploads and downloads end for `graceMs`, then ends. */
  close(graceMs?: number): Promise<void>
}

const MODULE = 'mod_http_upload'
const ROUTE = '/upload'
const DAY = 86_400_000
const HOUR = 3_600_000
/** Of files whose end is not known here, seconds. */
const MAX_AGE = 7 * 86_400
const GRACE_MS = 30_000

/**
 * Starts it, on the HTTP listeners that have `mod_http_upload` among their request handlers. Rejects with an error for people when there is no bucket, no
 * host with an `external_secret`, or no such listener.
 */
export async function createUploadRole(options: UploadRoleOptions): Promise<UploadRole> {
  const { config } = options
  const now = options.now ?? Date.now
  const log = options.log ?? createLog(config.loglevel)
  const { limits } = config
  const hosts = servicesOf(config)
  const listeners = config.listen.filter(({ module, requestHandlers }) => module === 'ejabberd_http' && [...requestHandlers ?? []].some(([, name]) => name === MODULE))
  if (config.tidings.s3 === undefined) throw new Error('The role upload needs a bucket (tidings.s3).')
  if (hosts.length === 0) throw new Error(`The role upload needs external_secret in the options of ${MODULE}, the same as the chat processes have.`)
  if (listeners.length === 0) throw new Error(`The role upload needs a listener ejabberd_http with ${MODULE} among its request_handlers.`)

  const metrics = createMetrics()
  const uploads = metrics.counter('tidings_uploads_total', 'Files uploaded')
  const uploadedBytes = metrics.counter('tidings_upload_bytes_total', 'Bytes uploaded')
  let inWork = 0
  metrics.gauge('tidings_uploads_in_work', 'Uploads going on', [], () => inWork)
  const blobs = await openS3(config.tidings.s3)
  const claims = options.claims ?? await claimsOf(config, blobs, log)
  const certificates = listeners.some(({ tls }) => tls) ? await createSecureContexts({ hosts: config.hosts, certfiles: config.certfiles, selfSigned: config.tidings.selfSigned, dataDir: options.dataDir }) : undefined
  const http = createHttp({ contexts: () => certificates, log, metrics, trustedProxies: config.trustedProxies, limits: httpLimits(limits) })
  let problem: string | undefined

  /** Whether the bucket answered, for /health; the error as it was goes on. */
  async function watched<T>(asked: Promise<T>): Promise<T> {
    try {
      const answered = await asked
      if (problem !== undefined) log.info({ what: 'bucket_recovered' })
      problem = undefined
      return answered
    } catch (error) {
      const code = (error as { $metadata?: { httpStatusCode?: number } }).$metadata?.httpStatusCode
      if ('$metadata' in (error as object) && (code === undefined || code >= 500)) {
        problem = `the bucket does not answer: ${(error as Error).message}`
        log.error({ what: 'bucket_failing', problem })
        throw new HttpError(502, 'the files cannot be reached at the moment', { 'Retry-After': '10' })
      }
      throw error
    }
  }

  function open(response: ServerResponse, path: HttpPath): { dir: string; secret: string; file: string } {
    const service = hosts.find(({ name }) => name === path.host) ?? hosts[0] as (typeof hosts)[number]
    setFileHeaders(response, service.options.custom_headers, service.name)
    const [, , dir, secret, name, ...more] = path.path.split('/')
    const file = name === undefined ? undefined : decodePart(name)
    const folder = dir === undefined ? undefined : decodePart(dir)
    if (folder === undefined || secret === undefined || file === undefined || more.length > 0 || !/^[A-Za-z0-9]{1,128}$/.test(secret)) throw new HttpError(404)
    return { dir: folder, secret, file }
  }

  async function receive(request: IncomingMessage, response: ServerResponse, path: HttpPath): Promise<void> {
    const { dir, secret, file } = open(response, path)
    const length = request.headers['content-length']
    if (length === undefined) throw new HttpError(411)
    if (!/^\d{1,16}$/.test(length)) throw new HttpError(400)
    if (request.headers['content-encoding'] !== undefined) throw new HttpError(415, 'content codings are not supported')
    // RFC 9110 §14.5
    if (request.headers['content-range'] !== undefined) throw new HttpError(400, 'a file is uploaded whole')
    const type = request.headers['content-type'] ?? ''
    if (type !== '' && !isContentType(type)) throw new HttpError(400, 'Content-Type is malformed')
    const size = Number(length)
    const signed = { path: [dir, secret, file] as const, size, type }
    // Size, type and time are in the signature: which of them is wrong cannot be told.
    if (!hosts.some(({ options: { external_secret: key } }) => isSigned(key, path.query, signed, now()))) throw new HttpError(403, 'this is not the file that the address is for, or its time has passed')
    if (inWork >= limits.uploadsInWork) throw new HttpError(503, 'too many uploads', { 'Retry-After': '30' })
    const isOurs = await claims?.take(secret).catch((error: Error) => {
      log.warn({ what: 'upload_not_claimed', problem: error.message })
      throw new HttpError(503, 'it cannot be found out whether somebody else is uploading this', { 'Retry-After': '10' })
    })
    if (isOurs === false) throw new HttpError(409, 'already being uploaded')
    inWork++
    try {
      // An address is for one file: who has it must not be shown another one later.
      if (await watched(blobs.stat(secret)) !== undefined) throw new HttpError(409, 'already uploaded')
      acceptBody(request, response)
      await watched(blobs.put(secret, size, bodyOf(request, limits), type === '' ? undefined : type))
    } catch (error) {
      if (request.destroyed && !request.complete) throw new HttpError(400, 'the upload broke off')
      if ((error as Error).message.startsWith('a file of this key exists')) throw new HttpError(409, 'already uploaded')
      throw error
    } finally {
      inWork--
      // It ends by itself otherwise.
      await claims?.drop(secret).catch(() => undefined)
    }
    uploads.inc()
    uploadedBytes.inc(size)
    response.writeHead(201, { 'Content-Length': 0 })
    response.end()
  }

  async function send(request: IncomingMessage, response: ServerResponse, path: HttpPath): Promise<void> {
    const { secret, file } = open(response, path)
    const known = await watched(blobs.stat(secret))
    if (known === undefined) throw new HttpError(404)
    await sendFile(request, response, {
      id: secret, name: file, type: known.type ?? 'application/octet-stream', size: known.size, made: known.made, maxAge: MAX_AGE,
      open: async (range) => (await watched(blobs.get(secret, range)))?.body,
    })
  }

  http.add('PUT', ROUTE, receive)
  http.add('GET', ROUTE, send)
  http.add('OPTIONS', ROUTE, (request, response, path) => {
    open(response, path)
    answerOptions(request, response)
  })

  const sweeping = setInterval(() => {
    blobs.abortUnfinished(now() - DAY).catch((error: Error) => { log.warn({ what: 'unfinished_uploads_not_removed', error: error.message }) })
  }, HOUR).unref()
  const opened: { listen: ListenConfig; listener: HttpListener }[] = []
  let health: HttpListener | undefined

  const close = async (graceMs = GRACE_MS): Promise<void> => {
    clearInterval(sweeping)
    await http.close(graceMs)
    await health?.close(0)
    blobs.close()
    claims?.close()
  }
  try {
    for (const listen of listeners) {
      const requestHandlers = new Map([...listen.requestHandlers ?? []].filter(([, name]) => name === MODULE))
      opened.push({ listen, listener: await http.listen({ ...listen, requestHandlers }) })
    }
    if (config.tidings.metrics !== undefined) {
      health = await listenHealth({ ...config.tidings.metrics, log, metrics, health: () => ({ healthy: problem === undefined, role: 'upload', ...(problem === undefined ? {} : { problem }), uploads: inWork }) })
    }
  } catch (error) {
    await close(0)
    throw error
  }
  log.info({ what: 'upload_ready', hosts: hosts.map(({ name }) => name) })
  return {
    ports: opened.map(({ listen, listener }) => ({ configured: listen.port, port: listener.port, ip: listen.ip, tls: listen.tls })),
    certificates,
    close,
  }
}

/** Undefined when the bucket decides itself. */
async function claimsOf({ tidings: { cluster } }: Config, blobs: S3Blobs, log: Log): Promise<UploadClaims | undefined> {
  if (await blobs.decides()) return undefined
  if (cluster !== undefined) return (await import('./claims.ts')).openUploadClaims(cluster.redis)
  log.warn({ what: 'uploads_undecided', text: 'The bucket knows no If-None-Match, and there is no Redis (tidings.cluster): when two processes are given one upload at the same moment, the later file stays.' })
  return undefined
}

function servicesOf(config: Config): { readonly name: string; readonly options: UploadOptions }[] {
  return config.hosts.flatMap((name) => {
    const node = config.host(name).modules.get(MODULE)
    if (!config.host(name).modules.has(MODULE)) return []
    const { options } = parseOptions(uploadOptions as OptionTable<UploadOptions>, node, { option: `modules.${MODULE}` })
    return options.external_secret === '' ? [] : [{ name, options }]
  })
}
