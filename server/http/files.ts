/** Files as HTTP gives them out: ranges, conditions, and nothing that a browser would run (XEP-0363 §8, §11). */
import { createHash } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { pipeline } from 'node:stream/promises'
import { answer, corsHeaders, HttpError } from './http.ts'

export interface SentFile {
  /** Names the content: it never changes under one name. */
  readonly id: string
  readonly name: string
  readonly type: string
  readonly size: number
  /** When it came, ms. */
  readonly made: number
  /** How long it may be kept by who has it, seconds. */
  readonly maxAge: number
  /** Its bytes, or some of them; undefined when it is gone after all. */
  open(range: { readonly start: number; readonly end: number } | undefined): Promise<AsyncIterable<Uint8Array> | undefined>
}

/** The headers of every answer about an uploaded file. */
export function setFileHeaders(response: ServerResponse, custom: ReadonlyMap<string, string>, host: string): void {
  // XEP-0363 §9: web clients of other origins.
  for (const [name, value] of Object.entries(corsHeaders(['OPTIONS', 'HEAD', 'GET', 'PUT']))) response.setHeader(name, value)
  // XEP-0363 §11: nothing that was uploaded may run in the name of this origin.
  response.setHeader('Content-Security-Policy', "default-src 'none'; img-src 'self'; media-src 'self'; frame-ancestors 'none'; sandbox")
  response.setHeader('X-Content-Type-Options', 'nosniff')
  response.setHeader('Cross-Origin-Resource-Policy', 'cross-origin')
  response.setHeader('Referrer-Policy', 'no-referrer')
  for (const [name, value] of custom) response.setHeader(name, value.replaceAll('@HOST@', host))
}

/** Answers OPTIONS. */
export function answerOptions(request: IncomingMessage, response: ServerResponse): void {
  response.removeHeader('Content-Security-Policy')
  if (request.headers['access-control-request-method'] === undefined) return answer(request, response, 200, 'OPTIONS, HEAD, GET, PUT', { Allow: 'OPTIONS, HEAD, GET, PUT' })
  response.writeHead(204)
  response.end()
}

/** Answers GET and HEAD with a file, a part of it, or that it has not changed. Throws a 416, and a 404 when it is gone after all. */
export async function sendFile(request: IncomingMessage, response: ServerResponse, file: SentFile): Promise<void> {
  const tag = `"${createHash('sha256').update(file.id).digest('base64url').slice(0, 22)}"`
  const modified = new Date(Math.floor(file.made / 1000) * 1000)
  response.setHeader('ETag', tag)
  response.setHeader('Last-Modified', modified.toUTCString())
  response.setHeader('Cache-Control', `private, max-age=${file.maxAge}, immutable`)
  response.setHeader('Accept-Ranges', 'bytes')
  if (notModified(request, tag, modified)) {
    response.writeHead(304)
    response.end()
    return
  }
  const ifRange = request.headers['if-range']
  // RFC 9110 §14.2: a part is for GET alone.
  const range = request.method === 'GET' && (ifRange === undefined || ifRange === tag) ? readRange(request.headers.range, file.size) : undefined
  if (range === 'unsatisfiable') throw new HttpError(416, undefined, { 'Content-Range': `bytes */${file.size}` })
  const headers = {
    'Content-Type': file.type,
    'Content-Disposition': disposition(file.type, file.name),
    'Content-Length': range ? range.end - range.start + 1 : file.size,
    ...(range ? { 'Content-Range': `bytes ${range.start}-${range.end}/${file.size}` } : {}),
  }
  if (request.method === 'HEAD') {
    response.writeHead(200, headers)
    response.end()
    return
  }
  const body = await file.open(range)
  if (body === undefined) throw new HttpError(404)
  response.writeHead(range ? 206 : 200, headers)
  await pipeline(body, response).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ERR_STREAM_PREMATURE_CLOSE' && error.code !== 'ECONNRESET' && error.code !== 'EPIPE') throw error
  })
}

/** RFC 3986: everything but unreserved characters is encoded. */
export function encodePart(part: string): string {
  return encodeURIComponent(part).replaceAll(/[!'()*]/g, (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`)
}

export function decodePart(part: string): string | undefined {
  try {
    return decodeURIComponent(part)
  } catch {
    return undefined
  }
}

export function isContentType(type: string): boolean {
  return type.length <= 255 && /^[\w!#$&^.+-]+\/[\w!#$&^.+-]+(\s*;\s*[\w!#$&^.+-]+=([\w!#$&^.+:/-]+|"[^"\\\r\n]*"))*\s*;?\s*$/.test(type) && /^[\x20-\x7e]*$/.test(type)
}

export function essence(type: string): string {
  return (type.split(';')[0] ?? '').trim().toLowerCase()
}

/** Shown in the browser only when it cannot run anything: no SVG, HTML, XML or PDF. */
function disposition(type: string, file: string): string {
  const kind = essence(type)
  const inline = (kind.startsWith('image/') && kind !== 'image/svg+xml') || kind.startsWith('video/') || kind.startsWith('audio/') || kind === 'text/plain'
  // RFC 6266 §4.3
  const plain = file.replaceAll(/[^\w .-]/g, '_')
  return `${inline ? 'inline' : 'attachment'}; filename="${plain}"; filename*=UTF-8''${encodePart(file)}`
}

/** RFC 9110 §13.1: If-None-Match goes before If-Modified-Since. */
function notModified(request: IncomingMessage, tag: string, modified: Date): boolean {
  const match = request.headers['if-none-match']
  if (match !== undefined) return match === '*' || match.split(',').some((each) => each.trim().replace(/^W\//, '') === tag)
  const since = request.headers['if-modified-since']
  return since !== undefined && Date.parse(since) >= modified.getTime()
}

/** RFC 9110 §14.2: one range of bytes; anything else is answered with the whole file. */
function readRange(header: string | undefined, length: number): { start: number; end: number } | 'unsatisfiable' | undefined {
  const match = /^bytes=(\d*)-(\d*)$/.exec(header?.trim() ?? '')
  if (match === null || (match[1] === '' && match[2] === '')) return undefined
  if (match[1] === '') {
    const last = Number(match[2])
    return last === 0 ? 'unsatisfiable' : { start: Math.max(0, length - last), end: length - 1 }
  }
  const start = Number(match[1])
  const end = match[2] === '' ? length - 1 : Math.min(Number(match[2]), length - 1)
  if (match[2] !== '' && Number(match[2]) < start) return undefined
  return start >= length ? 'unsatisfiable' : { start, end }
}
