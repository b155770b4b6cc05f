// XEP-0363: HTTP File Upload, version 1.2.0
import { createHash, randomInt } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { Jid } from '../../lib/jid.ts'
import { type Element, xml } from '../../lib/xml/element.ts'
import { parseDateTime } from '../../lib/stanza/delay.ts'
import { StanzaError } from '../../lib/stanza/errors.ts'
import { type OptionTable, accessRule, anything, bool, duration, headers, host as hostType, int, list, oneOf, shaperRule, size, text } from '../config/options.ts'
import { answerOptions, decodePart, encodePart, essence, isContentType, sendFile, setFileHeaders } from '../http/files.ts'
import { HttpError, acceptBody, bodyOf } from '../http/http.ts'
import type { HttpPath } from '../http/routes.ts'
import type { Key, Storage, Value } from '../storage/shapes.ts'
import { signAddress } from '../upload/addresses.ts'
import { type IqRequest, type Parts, defineExtension } from './extension.ts'

const NS = 'urn:xmpp:http:upload:0'
const PURPOSE_NS = 'urn:xmpp:http:upload:purpose:0'
/** Where the routes are; the configuration may mount them elsewhere. */
const ROUTE = '/upload'

/** One record for each slot, by owner and secret. */
const SLOTS = 'uploads'
/** The owner of a secret. */
const SECRETS = 'upload-secrets'
/** Unused slots and ephemeral files by the time they end; files by the time they were made. */
const ENDS = 'upload-ends'
const TIMES = 'upload-times'
/** First part of the keys of SECRETS: a file's address does not name its host. */
const ALL = '*'

/** XEP-0363 §9: around 300 s are recommended. */
const SLOT_MS = 300_000
const FILES_MAX = 20_000
const FILENAME_BYTES_MAX = 255
/** Profile pictures are kept for good, so an account may have few. */
const PROFILE_BYTES_MAX = 20 * 1024 * 1024
/** How many addresses of one message are looked at, and characters of each. */
const FILES_IN_MESSAGE = 100
const ADDRESS_MAX = 2000
const JOB_MS = 600_000
const DAY = 86_400_000
/** An upload whose node has said nothing of it for so long is over: that node is gone. */
const BEGUN_MS = 60_000
/** So many uploads of accounts that live here are known without a look for those that are over. */
const BEGUN_MAX = 1000
/** How long after the end of its slot an upload elsewhere may still be going on. */
const ELSEWHERE_MS = 6 * 3_600_000

const PURPOSES = ['message', 'profile', 'ephemeral', 'permanent'] as const
type Purpose = (typeof PURPOSES)[number]

interface Slot {
  readonly [key: string]: Value
  readonly host: string
  readonly dir: string
  readonly file: string
  readonly size: number
  /** Empty until it is known. */
  readonly type: string
  readonly purpose: Purpose
  readonly made: number
  readonly done: boolean
  /** The address is of an upload service elsewhere: whether the file has come is learnt from the bucket. */
  readonly elsewhere?: boolean
  /** When the unused slot or the ephemeral file ends; null when nothing but its age ends it. */
  readonly ends: number | null
}

/** How much an account may keep, and for how long. */
export interface UploadPolicy {
  readonly maxAgeMs: number
  /** Beyond `hard` an upload is refused, unless old files can be removed until `soft` is reached. */
  quota(owner: Jid): { readonly hard: number; readonly soft: number | undefined }
}

const policies = new WeakMap<Storage, { defaults: UploadPolicy | undefined; readonly hosts: Map<string, UploadPolicy> }>()

function policiesOf(storage: Storage): { defaults: UploadPolicy | undefined; readonly hosts: Map<string, UploadPolicy> } {
  let known = policies.get(storage)
  if (known === undefined) policies.set(storage, (known = { defaults: undefined, hosts: new Map() }))
  return known
}

/** Sets quota and expiry for hosts without `mod_http_upload_quota`. */
export function setUploadDefaults(storage: Storage, defaults: { readonly quotaBytes: number; readonly expiryMs: number }): void {
  policiesOf(storage).defaults = { maxAgeMs: defaults.expiryMs, quota: () => ({ hard: defaults.quotaBytes, soft: undefined }) }
}

interface QuotaOptions {
  max_days: number
  access_soft_quota: string
  access_hard_quota: string
}

/** ejabberd's `mod_http_upload_quota`: the rules give megabytes. */
export const httpUploadQuota = defineExtension({
  name: 'http-upload-quota',
  ejabberd: 'mod_http_upload_quota',
  specs: [],
  needs: ['host', 'access', 'storage'],
  options: {
    max_days: { type: int({ min: 1, infinity: true }), default: Infinity, help: 'Days after which a file is removed.' },
    access_soft_quota: { type: shaperRule(), default: 'soft_upload_quota', help: 'Shaper rule with the megabytes to go down to, by removing the oldest files, when the hard quota is reached.' },
    access_hard_quota: { type: shaperRule(), default: 'hard_upload_quota', help: 'Shaper rule with the megabytes an account may have.' },
  },
  start({ host, access, storage }, options: QuotaOptions) {
    const megabytes = (rule: string, jid: Jid): number => {
      const value = Number(access.value(rule, { jid }) ?? Infinity)
      return Number.isNaN(value) ? Infinity : value * 1024 * 1024
    }
    const policy: UploadPolicy = {
      maxAgeMs: options.max_days * DAY,
      quota(owner) {
        const hard = megabytes(options.access_hard_quota, owner)
        const soft = megabytes(options.access_soft_quota, owner)
        return { hard, soft: soft === Infinity ? undefined : Math.min(soft, hard) }
      },
    }
    const { hosts } = policiesOf(storage)
    hosts.set(host, policy)
    return () => { if (hosts.get(host) === policy) hosts.delete(host) }
  },
})

export interface UploadOptions {
  host: string
  hosts: readonly string[]
  name: string
  access: string
  max_size: number
  secret_length: number
  jid_in_url: 'sha1' | 'node'
  put_url: string
  get_url: string
  custom_headers: ReadonlyMap<string, string>
  rm_on_unregister: boolean
  docroot: string
  thumbnail: boolean
  file_mode: string
  dir_mode: string
  content_types: unknown
  external_secret: string
  service_url: string
  vcard: unknown
  slot_lifetime: number
}

export const uploadOptions: OptionTable<UploadOptions> = {
  host: { type: hostType(), default: 'upload.@HOST@', help: 'Domain of the upload service.' },
  hosts: { type: list(hostType()), default: [], help: 'Several domains in place of host.' },
  name: { type: text(), default: 'HTTP File Upload', help: 'Name of the service in the list of services.' },
  access: { type: accessRule(), default: 'local', help: 'Who may upload.' },
  max_size: { type: size({ min: 1 }), default: 104_857_600, help: 'Bytes of the largest file.' },
  secret_length: { type: int({ min: 8, max: 128 }), default: 40, help: 'Characters of the random part of an address.' },
  jid_in_url: { type: oneOf('sha1', 'node'), default: 'sha1', help: 'Whether an address shows who uploaded: a hash of the account, or its name.' },
  put_url: { type: text(), default: '', help: 'Where clients upload to; @HOST@ is replaced. Unless set, the address of the HTTP listener with TLS that has mod_http_upload.' },
  get_url: { type: text(), default: '', help: 'Where files are downloaded from; put_url unless set.' },
  custom_headers: { type: headers(), default: new Map<string, string>(), help: 'HTTP headers of every answer.' },
  rm_on_unregister: { type: bool(), default: true, help: 'Whether the files of a removed account are removed.' },
  slot_lifetime: { type: duration(), default: SLOT_MS, help: 'How long an address can be uploaded to.' },
  docroot: { type: text(), default: '', help: 'Directory of the files.', ignored: 'has no effect: files are kept in the data directory.' },
  thumbnail: { type: bool(), default: false, help: 'Thumbnails of images.', ignored: 'has no effect: no thumbnails are made.' },
  file_mode: { type: text(), default: '', help: 'Permissions of files.', ignored: 'has no effect: files can be read by the server alone.' },
  dir_mode: { type: text(), default: '', help: 'Permissions of directories.', ignored: 'has no effect: directories can be read by the server alone.' },
  content_types: { type: anything(), default: undefined, help: 'Content types by file ending.', ignored: 'has no effect: the content type is the one that was uploaded.' },
  external_secret: { type: text(), default: '', help: 'Secret shared with an upload service that is a process of its own, at put_url: the role upload of this server, with the same bucket, or another program that knows addresses signed with ?v=.' },
  service_url: { type: text(), default: '', help: 'Address of an external upload service.', ignored: 'has no effect: the files are served here.' },
  vcard: { type: anything(), default: undefined, help: 'vCard of the service.', ignored: 'has no effect: the service has no vCard.' },
}

export const httpUpload = defineExtension({
  name: 'http-upload',
  ejabberd: 'mod_http_upload',
  specs: [{ xep: 363, version: '1.2.0', status: 'complete' }],
  needs: ['host', 'router', 'access', 'storage', 'http', 'hooks', 'log', 'metrics', 'limits', 'every', 'now', 'lasting', 'files', 'here', 'calls'],
  options: uploadOptions,
  start(parts, options: UploadOptions) {
    return startUpload(parts, options)
  },
})

type Needed = Pick<Parts, 'host' | 'router' | 'access' | 'storage' | 'http' | 'hooks' | 'log' | 'metrics' | 'limits' | 'every' | 'now' | 'lasting' | 'files' | 'here' | 'calls'>

function startUpload(parts: Needed, options: UploadOptions): () => void {
  const { host, router, access, storage, http, hooks, log, limits, now, calls } = parts
  const { records, blobs } = storage
  const external = options.external_secret
  const uploads = parts.metrics.counter('tidings_uploads_total', 'Files uploaded')
  const uploadedBytes = parts.metrics.counter('tidings_upload_bytes_total', 'Bytes uploaded')
  /** Secrets being uploaded to. */
  const inWork = parts.lasting('uploads-in-work', () => new Set<string>())
  /** By secret, uploads to slots of accounts that live here, whichever node has them in work. */
  const begun = parts.lasting('uploads-begun', () => new Map<string, { readonly by: string; readonly until: number }>())
  /** The last request of each account that has one in work. */
  const asking = new Map<string, Promise<unknown>>()

  const policy = (): UploadPolicy | undefined => {
    const known = policiesOf(storage)
    return known.hosts.get(host) ?? known.defaults
  }
  const domains = (options.hosts.length > 0 ? options.hosts : [options.host]).map((each) => each.replaceAll('@HOST@', host))
  const maxSize = Number.isFinite(options.max_size) ? options.max_size : undefined

  for (const domain of domains) {
    const { iq, disco } = router.iqService(domain, options.name)
    disco.identity('host', { category: 'store', type: 'file', name: options.name })
    disco.feature('host', NS, ...PURPOSES.map((purpose) => `${PURPOSE_NS}#${purpose}`))
    // XEP-0363 §4
    if (maxSize !== undefined) disco.form('host', () => limitsForm(maxSize))
    iq.get(`${NS} request`, 'host', requestSlot)
  }

  /** XEP-0363 §5 */
  async function requestSlot(request: IqRequest): Promise<Element> {
    const { payload, from } = request
    if (!access.allows(options.access, { jid: from })) throw new StanzaError('forbidden', 'You are not allowed to upload files')
    const asked = readRequest(payload)
    // XEP-0363 §7; what no quota will ever hold is too large too.
    const largest = Math.floor(Math.min(maxSize ?? Infinity, policy()?.quota(from.toBare()).hard ?? Infinity, asked.purpose === 'profile' ? PROFILE_BYTES_MAX : Infinity))
    if (asked.size > largest) {
      throw new StanzaError('not-acceptable', `File too large. The maximum file size is ${largest} bytes`, {
        type: 'modify', extra: `<file-too-large xmlns='${NS}'><max-file-size>${largest}</max-file-size></file-too-large>`,
      })
    }
    const time = now()
    if (asked.until !== undefined && asked.until <= time) throw new StanzaError('not-acceptable', 'expire-before has passed')
    const put = base(options.put_url)
    const get = options.get_url === '' ? put : base(options.get_url)
    if (put === undefined || get === undefined) throw new StanzaError('service-unavailable', 'No HTTPS listener serves uploads')
    if (!storage.healthy) throw new StanzaError('resource-constraint', 'The server cannot store anything at the moment')
    const path = await inTurn(from.bare, () => reserve(from, asked, time))
    // The address must not be handed out before the slot is safe.
    await storage.committed()
    return xml('slot', { xmlns: NS }, xml('put', { url: put + path.get + path.query }), xml('get', { url: get + path.get }))
  }

  /** Runs a request after those of the same account that came before: it has to count what they got. */
  async function inTurn<T>(owner: string, run: () => Promise<T>): Promise<T> {
    const turn = (asking.get(owner) ?? Promise.resolve()).then(run, run)
    asking.set(owner, turn)
    try {
      return await turn
    } finally {
      if (asking.get(owner) === turn) asking.delete(owner)
    }
  }

  /** Makes a slot: its path, and what is behind it in the address to upload to. */
  async function reserve(from: Jid, asked: Asked, time: number): Promise<{ readonly get: string; readonly query: string }> {
    const owner = from.bare
    await makeRoom(from, asked, time)
    const secret = randomText(options.secret_length)
    const dir = dirOf(from)
    const ends = Math.min(time + options.slot_lifetime, asked.until ?? Infinity)
    const slot: Slot = { host, dir, file: asked.file, size: asked.size, type: asked.type, purpose: asked.purpose, made: time, done: false, ends, ...(asked.until === undefined ? {} : { until: asked.until }), ...(external === '' ? {} : { elsewhere: true }) }
    records.put(SLOTS, [owner, secret], slot)
    records.put(SECRETS, [ALL, secret], owner)
    records.put(ENDS, timeKey(host, ends, secret), owner)
    return { get: `/${dir}/${secret}/${encodePart(asked.file)}`, query: external === '' ? '' : signAddress(external, { path: [dir, secret, asked.file], size: asked.size, type: asked.type, until: Math.floor(ends / 1000) }) }
  }

  function dirOf(owner: Jid): string {
    return options.jid_in_url === 'sha1' ? createHash('sha1').update(owner.bare).digest('hex') : encodePart(owner.local)
  }

  /** XEP-0363 §5: an address of our own making has TLS; what the operator wrote may lead to a proxy. */
  function base(configured: string): string | undefined {
    if (configured !== '') return configured.replaceAll('@HOST@', host).replaceAll('@HOST_URL_ENCODE@', encodeURIComponent(host)).replace(/\/+$/, '')
    const own = http.baseUrl(host, ROUTE)
    return own?.startsWith('https:') === true ? own.replace(/\/+$/, '') : undefined
  }

  /** Refuses the upload, or removes old files, when the account has no room for it. */
  async function makeRoom(from: Jid, asked: Asked, time: number): Promise<void> {
    await settle(from.bare, time)
    const all = (await records.range(SLOTS, [from.bare], { limit: FILES_MAX })).map(({ key, value }) => ({ secret: key[1] as string, slot: value as Slot }))
    // What is being uploaded when its slot ends becomes a file all the same.
    const current = all.filter(({ secret, slot }) => slot.ends === null || slot.ends > time || inWork.has(secret) || isBegun(secret))
    const unused = current.filter(({ slot }) => !slot.done)
    if (unused.length >= limits.uploadSlotsPerUser || current.length >= FILES_MAX) {
      throw quotaError(`You can have ${limits.uploadSlotsPerUser} unused slots and ${FILES_MAX} files`, Math.min(...unused.map(({ slot }) => slot.ends ?? Infinity), time + DAY))
    }
    const sum = (slots: readonly { slot: Slot }[]): number => slots.reduce((bytes, { slot }) => bytes + slot.size, 0)
    if (asked.purpose === 'profile' && sum(current.filter(({ slot }) => slot.purpose === 'profile')) + asked.size > PROFILE_BYTES_MAX) {
      throw quotaError(`Files of your profile may have ${PROFILE_BYTES_MAX} bytes`, time + DAY)
    }
    const quota = policy()?.quota(from.toBare())
    let used = sum(current)
    if (quota === undefined || used + asked.size <= quota.hard) return
    if (quota.soft !== undefined) {
      // Files of a profile and permanent ones stay (XEP-0363 §6).
      const oldest = current.filter(({ slot }) => slot.done && (slot.purpose === 'message' || slot.purpose === 'ephemeral')).sort((a, b) => a.slot.made - b.slot.made)
      for (const { secret, slot } of oldest) {
        if (used + asked.size <= quota.soft) break
        await remove(from.bare, secret, slot)
        used -= slot.size
      }
      if (used + asked.size <= quota.hard) return
    }
    const first = current.filter(({ slot }) => slot.purpose === 'message').reduce((least, { slot }) => Math.min(least, slot.done ? slot.made + (policy()?.maxAgeMs ?? Infinity) : slot.ends ?? Infinity), Infinity)
    throw quotaError(`Quota reached. Your files may have ${quota.hard} bytes`, Math.max(time + 60_000, Math.min(first, time + 30 * DAY)))
  }

  /** Learns which of an account's files have been uploaded elsewhere, when it has many slots of which that is not known. */
  async function settle(owner: string, time: number): Promise<void> {
    const open = (await records.range(SLOTS, [owner], { limit: FILES_MAX })).filter(({ value }) => (value as Slot).elsewhere === true && !(value as Slot).done && (value as Slot).made < time)
    if (open.length * 2 < limits.uploadSlotsPerUser) return
    await Promise.all(open.map(({ key }) => lookUp(owner, key[1] as string)))
  }

  /** Whether a file that was to be uploaded elsewhere is there; notes that it is. */
  async function lookUp(owner: string, secret: string): Promise<boolean> {
    const known = await blobs.stat(secret)
    const slot = (await records.get(SLOTS, [owner, secret])) as Slot | undefined
    if (slot === undefined || known === undefined) return false
    if (!slot.done) complete(owner, secret, slot, known.type)
    return true
  }

  /** The file has come. */
  function complete(owner: string, secret: string, slot: Slot, type: string | undefined): void {
    const until = typeof slot['until'] === 'number' ? slot['until'] : null
    if (slot.ends !== null) records.delete(ENDS, timeKey(slot.host, slot.ends, secret))
    if (until !== null) records.put(ENDS, timeKey(slot.host, until, secret), owner)
    records.put(TIMES, timeKey(slot.host, slot.made, secret), owner)
    records.put(SLOTS, [owner, secret], { ...slot, done: true, ends: until, type: slot.type === '' ? type ?? 'application/octet-stream' : slot.type })
  }

  async function remove(owner: string, secret: string, slot: Slot): Promise<void> {
    await blobs.delete(secret)
    records.delete(SLOTS, [owner, secret])
    records.delete(SECRETS, [ALL, secret])
    records.delete(TIMES, timeKey(slot.host, slot.made, secret))
    if (slot.ends !== null) records.delete(ENDS, timeKey(slot.host, slot.ends, secret))
    // What is being uploaded elsewhere at this moment is removed when it is surely over.
    if (slot.elsewhere === true && !slot.done) records.put(ENDS, timeKey(slot.host, now() + ELSEWHERE_MS, secret), owner)
    // An upload that ended between the two: now that there is no slot no other does.
    await blobs.delete(secret)
  }

  /** The slot that an address names; undefined when there is none, or it has ended, unless it may have been uploaded elsewhere before. */
  async function find(path: Pick<HttpPath, 'path'>): Promise<{ owner: string; secret: string; slot: Slot; isOver: boolean } | undefined> {
    const [, , dir, secret, file, ...more] = path.path.split('/')
    if (dir === undefined || secret === undefined || file === undefined || more.length > 0 || !/^[A-Za-z0-9]{1,128}$/.test(secret)) return undefined
    const owner = await records.get(SECRETS, [ALL, secret])
    if (typeof owner !== 'string') return undefined
    const slot = (await records.get(SLOTS, [owner, secret])) as Slot | undefined
    if (slot === undefined || slot.dir !== dir || slot.file !== decodePart(file)) return undefined
    const isOver = slot.ends !== null && slot.ends <= now()
    return isOver && (slot.done || slot.elsewhere !== true) ? undefined : { owner, secret, slot, isOver }
  }

  const setHeaders = (response: ServerResponse): void => { setFileHeaders(response, options.custom_headers, host) }

  function isBegun(secret: string): boolean { return (begun.get(secret)?.until ?? 0) > now() }

  calls.serve('upload begin', async (owner, args) => {
    const [secret, by] = args as [string, string]
    const slot = (await records.get(SLOTS, [owner, secret])) as Slot | undefined
    if (slot === undefined || slot.done || (isBegun(secret) && begun.get(secret)?.by !== by)) return false
    if (begun.size >= BEGUN_MAX) for (const each of begun.keys()) if (!isBegun(each)) begun.delete(each)
    begun.set(secret, { by, until: now() + BEGUN_MS })
    return true
  })
  calls.serve('upload end', (_owner, args) => {
    const [secret, by] = args as [string, string]
    if (begun.get(secret)?.by === by) begun.delete(secret)
    return null
  })

  /** Has the home of the account know of the upload, so that no other node takes one to the same slot; and still know of it. Throws an HttpError when another has it. */
  async function begin(owner: string, secret: string, by: string): Promise<void> {
    const isOurs = await calls.ask(owner, 'upload begin', [secret, by]).catch((error: unknown) => {
      if (error instanceof StanzaError) throw new HttpError(503, error.text, { 'Retry-After': '10' })
      throw error
    })
    if (isOurs !== true) throw new HttpError(409, 'already uploaded')
  }

  /** XEP-0363 §8 */
  async function receive(request: IncomingMessage, response: ServerResponse, path: HttpPath): Promise<void> {
    setHeaders(response)
    const found = await find(path)
    if (found === undefined || found.isOver) throw new HttpError(404)
    const { owner, secret, slot } = found
    // An address is for one file: who has it must not be shown another one later.
    if (slot.done || inWork.has(secret)) throw new HttpError(409, 'already uploaded')
    const length = request.headers['content-length']
    if (length === undefined) throw new HttpError(411)
    if (Number(length) !== slot.size) throw new HttpError(Number(length) > slot.size ? 413 : 400, `the slot is for ${slot.size} bytes`)
    if (request.headers['content-encoding'] !== undefined) throw new HttpError(415, 'content codings are not supported')
    // RFC 9110 §14.5
    if (request.headers['content-range'] !== undefined) throw new HttpError(400, 'a file is uploaded whole')
    const sent = request.headers['content-type']
    if (slot.type !== '' && sent !== undefined && essence(sent) !== essence(slot.type)) throw new HttpError(415, `the slot is for ${slot.type}`)
    if (sent !== undefined && !isContentType(sent)) throw new HttpError(400, 'Content-Type is malformed')
    if (!storage.healthy) throw new HttpError(507, 'the server cannot store anything at the moment')
    if (inWork.size >= limits.uploadsInWork) throw new HttpError(503, 'too many uploads', { 'Retry-After': '30' })

    inWork.add(secret)
    const by = randomText(16)
    const still = setInterval(() => { begin(owner, secret, by).catch(() => undefined) }, BEGUN_MS / 3).unref()
    try {
      await begin(owner, secret, by)
      // Left by an upload that was not finished when the server stopped.
      if ((await blobs.stat(secret)) !== undefined) await blobs.delete(secret)
      acceptBody(request, response)
      try {
        await blobs.put(secret, slot.size, bodyOf(request, limits))
      } catch (error) {
        if (request.destroyed && !request.complete) throw new HttpError(400, 'the upload broke off')
        const code = (error as NodeJS.ErrnoException).code
        if (code === 'ENOSPC' || code === 'EDQUOT') throw new HttpError(507, 'no space left')
        throw error
      }
      if ((await records.get(SLOTS, [owner, secret])) === undefined) {
        // The account went away meanwhile.
        await blobs.delete(secret)
        throw new HttpError(404)
      }
      await begin(owner, secret, by)
      complete(owner, secret, slot, sent)
      await storage.committed()
    } finally {
      clearInterval(still)
      inWork.delete(secret)
      void calls.ask(owner, 'upload end', [secret, by]).catch(() => undefined)
    }
    uploads.inc()
    uploadedBytes.inc(slot.size)
    response.writeHead(201, { 'Content-Length': 0 })
    response.end()
  }

  async function send(request: IncomingMessage, response: ServerResponse, path: HttpPath): Promise<void> {
    setHeaders(response)
    const found = await find(path)
    if (found === undefined || !found.slot.done) throw new HttpError(404)
    const { secret, slot } = found
    await sendFile(request, response, {
      id: secret, name: slot.file, type: slot.type, size: slot.size, made: slot.made,
      maxAge: Math.max(0, Math.min(30 * 86_400, Math.floor(((slot.ends ?? Infinity) - now()) / 1000))),
      async open(range) {
        const blob = await blobs.get(secret, range)
        if (blob === undefined) log.error({ what: 'upload_lost', slot: secret.slice(0, 8) })
        return blob?.body
      },
    })
  }

  const routes = [
    http.add('PUT', ROUTE, receive),
    http.add('GET', ROUTE, send),
    http.add('OPTIONS', ROUTE, (request, response) => {
      setHeaders(response)
      answerOptions(request, response)
    }),
  ]

  async function expire(table: string, before: number, wanted: (slot: Slot) => boolean): Promise<void> {
    let after: Key | undefined
    for (;;) {
      const page = await records.range(table, [host], { limit: 200, ...(after ? { after } : {}) })
      for (const { key, value } of page) {
        const [, time, secret] = key
        if (time === undefined || secret === undefined || Number(time) > before) return
        after = key
        if (typeof value !== 'string' || inWork.has(secret)) continue
        const slot = (await records.get(SLOTS, [value, secret])) as Slot | undefined
        if (slot === undefined) {
          await blobs.delete(secret)
          records.delete(table, key)
        } else if (slot.elsewhere === true && !slot.done) {
          if (!await lookUp(value, secret) && Number(time) + ELSEWHERE_MS < before) await remove(value, secret, slot)
        } else if (wanted(slot)) await remove(value, secret, slot)
      }
      if (page.length < 200) return
    }
  }

  parts.every(JOB_MS, async () => {
    // One node sees to it for all.
    if (!parts.here(host)) return
    await expire(ENDS, now(), () => true)
    const { maxAgeMs } = policy() ?? { maxAgeMs: Infinity }
    // XEP-0363 §6: age ends messages alone.
    if (Number.isFinite(maxAgeMs)) await expire(TIMES, now() - maxAgeMs, (slot) => slot.purpose === 'message' || slot.purpose === 'ephemeral')
  })

  hooks.accountRemoved(async (bareJid) => {
    if (!options.rm_on_unregister) return
    for (const { key, value } of await records.range(SLOTS, [bareJid])) await remove(bareJid, key[1] as string, value as Slot)
  })

  // XEP-0425: of a message that a moderator took back goes what its author had uploaded for it, and nothing that is somebody else's.
  hooks.moderated(async (author, message) => {
    const get = base(options.get_url === '' ? options.put_url : options.get_url)
    if (get === undefined) return
    const text = message.toString().replaceAll('&amp;', '&')
    const names = new Set<string>()
    for (let at = text.indexOf(`${get}/`); at >= 0 && names.size < FILES_IN_MESSAGE; at = text.indexOf(`${get}/`, at + 1)) {
      names.add(/^[^\s<>"'#?]*/.exec(text.slice(at + get.length, at + get.length + ADDRESS_MAX))?.[0] ?? '')
    }
    for (const name of names) {
      const found = await find({ path: ROUTE + name })
      if (found === undefined || found.owner !== author || (!found.slot.done && found.slot.elsewhere !== true)) continue
      if (found.slot.purpose === 'message' || found.slot.purpose === 'ephemeral') await remove(found.owner, found.secret, found.slot)
    }
  })

  /** A file of the server's own making: no quota, no slot; the one that an account had before goes. */
  const stopOffering = parts.files.provide(async ({ owner, name, type, size, body, lifeMs }) => {
    const get = base(options.get_url === '' ? options.put_url : options.get_url)
    if (get === undefined || !storage.healthy) return undefined
    for (const { key, value } of await records.range(SLOTS, [owner])) {
      const before = value as Slot
      if (before['offered'] === true && !inWork.has(key[1] as string)) await remove(owner, key[1] as string, before)
    }
    const time = now()
    const secret = randomText(options.secret_length)
    const slot: Slot = { host, dir: dirOf(Jid.parse(owner)), file: name, size, type, purpose: 'ephemeral', made: time, done: false, ends: time + lifeMs, until: time + lifeMs, offered: true }
    // What is not finished when the process is killed ends as an unused slot does.
    records.put(SLOTS, [owner, secret], slot)
    records.put(SECRETS, [ALL, secret], owner)
    records.put(ENDS, timeKey(host, time + lifeMs, secret), owner)
    inWork.add(secret)
    try {
      await blobs.put(secret, size, body)
      if ((await records.get(SLOTS, [owner, secret])) === undefined) {
        // The account went away meanwhile.
        await blobs.delete(secret)
        return undefined
      }
      records.put(SLOTS, [owner, secret], { ...slot, done: true })
      records.put(TIMES, timeKey(host, time, secret), owner)
      await storage.committed()
    } finally {
      inWork.delete(secret)
    }
    return `${get}/${slot.dir}/${secret}/${encodePart(name)}`
  })

  return () => {
    stopOffering()
    for (const removeRoute of routes) removeRoute()
  }
}

interface Asked {
  readonly file: string
  readonly size: number
  readonly type: string
  readonly purpose: Purpose
  readonly until: number | undefined
}

function readRequest(payload: Element): Asked {
  const file = payload.attrs['filename']
  const bytes = payload.attrs['size']
  if (file === undefined || bytes === undefined) throw new StanzaError('bad-request', 'filename and size are required')
  // oxlint-disable-next-line no-control-regex
  if (file === '' || file === '.' || file === '..' || /[/\u0000-\u001f\u007f]/.test(file) || Buffer.byteLength(file) > FILENAME_BYTES_MAX) throw new StanzaError('not-acceptable', 'This file name cannot be used')
  if (!/^\d{1,16}$/.test(bytes) || Number(bytes) < 1) throw new StanzaError('bad-request', 'size must be a positive number of bytes')
  const type = payload.attrs['content-type'] ?? ''
  if (type !== '' && !isContentType(type)) throw new StanzaError('not-acceptable', 'content-type is malformed')
  const named = payload.getChildElements().filter((each) => each.getNS() === PURPOSE_NS)
  const element = named[0]
  const purpose = element === undefined ? 'message' : PURPOSES.find((each) => each === element.getName())
  if (named.length > 1 || purpose === undefined) throw new StanzaError('feature-not-implemented', 'This purpose is not known')
  let until: number | undefined
  if (purpose === 'ephemeral') {
    until = parseDateTime(element?.attrs['expire-before'] ?? '')
    if (until === undefined) throw new StanzaError('bad-request', 'expire-before must be a date and time')
  }
  return { file, size: Number(bytes), type, purpose, until }
}

function limitsForm(maxSize: number): Element {
  return xml('x', { xmlns: 'jabber:x:data', type: 'result' },
    xml('field', { var: 'FORM_TYPE', type: 'hidden' }, xml('value', null, NS)),
    xml('field', { var: 'max-file-size' }, xml('value', null, String(maxSize))))
}

function quotaError(message: string, retry: number): StanzaError {
  return new StanzaError('resource-constraint', message, { type: 'wait', extra: `<retry xmlns='${NS}' stamp='${new Date(Math.ceil(retry / 1000) * 1000).toISOString().replace('.000Z', 'Z')}'/>` })
}

const ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789'

function randomText(length: number): string {
  let made = ''
  for (let index = 0; index < length; index++) made += ALPHABET[randomInt(ALPHABET.length)] as string
  return made
}

function timeKey(host: string, time: number, secret: string): Key {
  return [host, String(Math.floor(time)).padStart(15, '0'), secret]
}
