/**
 * Files in a bucket of S3 (AWS, MinIO, SeaweedFS, versitygw). A file of up to 5 GB is one PUT that streams; a larger one goes in parts.
 * An object appears whole or not at all.
 */
import { createHash, randomBytes } from 'node:crypto'
import { Readable } from 'node:stream'
import {
  AbortMultipartUploadCommand, CreateBucketCommand, DeleteObjectCommand, GetObjectCommand, HeadBucketCommand, HeadObjectCommand, ListMultipartUploadsCommand,
  PutObjectCommand, S3Client, type S3ServiceException,
} from '@aws-sdk/client-s3'
import { Upload } from '@aws-sdk/lib-storage'
import { StorageError } from '../errors.ts'
import type { Blobs } from '../shapes.ts'

export interface S3Options {
  /** Empty for AWS's own of the region. */
  readonly endpoint: string
  readonly region: string
  readonly bucket: string
  /** Begins the keys of all objects. */
  readonly prefix: string
  /** Unless set, the credentials are those of the environment, the shared files or the machine's role, in the order of AWS. */
  readonly accessKey: string
  readonly secretKey: string
  /** The bucket in the path of addresses, not in their host name: what all but AWS need. */
  readonly pathStyle: boolean
}

export interface S3Blobs extends Blobs {
  /** Removes what is left of uploads in parts that began before this time (ms) and never ended. Answers how many. */
  abortUnfinished(before: number): Promise<number>
  /** Whether the bucket takes one of two files that come under a key at once, whoever brings them (`If-None-Match`), and not the later one. */
  decides(): Promise<boolean>
  close(): void
}

/** AWS takes no more in one PUT. */
const ONE_PUT_MAX = 5 * 1024 ** 3
const PART_BYTES = 16 * 1024 ** 2
const PARTS_MAX = 10_000
const CONNECT_MS = 5_000
/** Silence of the server. */
const SILENCE_MS = 60_000
const CONNECTIONS = 500
/** Of requests that carry no stream. */
const TRIES = 4
const KEY_BYTES_MAX = 900

/** Opens the bucket, and makes it when there is none. Rejects with a StorageError when it cannot be reached or made. */
export async function openS3(options: S3Options): Promise<S3Blobs> {
  const client = new S3Client({
    region: options.region,
    forcePathStyle: options.pathStyle,
    maxAttempts: TRIES,
    // What goes wrong is told by errors.
    logger: { trace: ignore, debug: ignore, info: ignore, warn: ignore, error: ignore },
    // Others than AWS refuse the checksums that would be sent by default.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    requestHandler: {
      connectionTimeout: CONNECT_MS, socketTimeout: SILENCE_MS,
      httpAgent: { keepAlive: true, maxSockets: CONNECTIONS }, httpsAgent: { keepAlive: true, maxSockets: CONNECTIONS },
    },
    ...(options.endpoint === '' ? {} : { endpoint: options.endpoint }),
    ...(options.accessKey === '' ? {} : { credentials: { accessKeyId: options.accessKey, secretAccessKey: options.secretKey } }),
  })
  try {
    await openBucket(client, options.bucket)
  } catch (error) {
    client.destroy()
    throw new StorageError(`the bucket ${options.bucket} cannot be used: ${(error as Error).message}`)
  }
  return blobsOf(client, options)
}

async function openBucket(client: S3Client, bucket: string): Promise<void> {
  try {
    await client.send(new HeadBucketCommand({ Bucket: bucket }))
  } catch (error) {
    if (statusOf(error) !== 404) throw error
    await client.send(new CreateBucketCommand({ Bucket: bucket }))
  }
}

function blobsOf(client: S3Client, { bucket, prefix }: S3Options): S3Blobs {
  const place = (key: string): { Bucket: string; Key: string } => ({ Bucket: bucket, Key: prefix + objectName(key) })

  async function stat(key: string): Promise<{ size: number; type: string | undefined; made: number } | undefined> {
    try {
      const found = await client.send(new HeadObjectCommand(place(key)))
      return { size: found.ContentLength ?? 0, type: found.ContentType, made: found.LastModified?.getTime() ?? 0 }
    } catch (error) {
      if (statusOf(error) === 404) return undefined
      throw error
    }
  }

  async function put(key: string, size: number, source: AsyncIterable<Uint8Array>, type?: string): Promise<void> {
    // Servers that know no conditions are at least asked; who knows them decides between two at once.
    if (await stat(key) !== undefined) throw taken(key)
    const failing = new AbortController()
    let problem: unknown
    const body = Readable.from(exactly(source, size, (error) => {
      problem = error
      failing.abort()
    }), { objectMode: false })
    body.on('error', ignore)
    const object = { ...place(key), Body: body, ContentType: type ?? 'application/octet-stream', IfNoneMatch: '*' }
    try {
      if (size <= ONE_PUT_MAX) await client.send(new PutObjectCommand({ ...object, ContentLength: size }), { abortSignal: failing.signal })
      else {
        const upload = new Upload({ client, params: object, queueSize: 1, partSize: Math.max(PART_BYTES, Math.ceil(size / PARTS_MAX)), leavePartsOnError: false })
        failing.signal.addEventListener('abort', () => void upload.abort())
        await upload.done()
      }
    } catch (error) {
      if (problem !== undefined) throw problem
      if (statusOf(error) === 412 || statusOf(error) === 409) throw taken(key)
      throw error
    } finally {
      body.destroy()
    }
  }

  return {
    stat,
    /** Those of one process come one after another, so that also a server without conditions keeps the first. */
    put: inTurn(put),
    async get(key, range) {
      try {
        const found = await client.send(new GetObjectCommand({ ...place(key), ...(range === undefined ? {} : { Range: `bytes=${range.start}-${range.end}` }) }))
        const whole = Number(/\/(\d+)$/.exec(found.ContentRange ?? '')?.[1] ?? found.ContentLength ?? 0)
        return { size: whole, body: found.Body as Readable }
      } catch (error) {
        if (statusOf(error) === 404) return undefined
        if (statusOf(error) !== 416) throw error
        const known = await stat(key)
        return known && { size: known.size, body: Readable.from([]) }
      }
    },
    async delete(key) {
      await client.send(new DeleteObjectCommand(place(key)))
    },
    async abortUnfinished(before) {
      let aborted = 0
      const { Uploads = [] } = await client.send(new ListMultipartUploadsCommand({ Bucket: bucket, Prefix: prefix }))
      for (const { Key, UploadId, Initiated } of Uploads) {
        if (Key === undefined || UploadId === undefined || (Initiated?.getTime() ?? Infinity) >= before) continue
        await client.send(new AbortMultipartUploadCommand({ Bucket: bucket, Key, UploadId }))
        aborted++
      }
      return aborted
    },
    async decides() {
      const probe = { ...place(`decides-${randomBytes(12).toString('hex')}`), Body: '', IfNoneMatch: '*' }
      await client.send(new PutObjectCommand(probe))
      try {
        await client.send(new PutObjectCommand(probe))
        return false
      } catch (error) {
        if (statusOf(error) === 412) return true
        // Those that do not know conditions at all.
        if (statusOf(error) === 501) return false
        throw error
      } finally {
        await client.send(new DeleteObjectCommand({ Bucket: probe.Bucket, Key: probe.Key }))
      }
    },
    close() { client.destroy() },
  }
}

type Put = (key: string, size: number, body: AsyncIterable<Uint8Array>, type?: string) => Promise<void>

function inTurn(put: Put): Put {
  const going = new Map<string, Promise<void>>()
  return async (key, ...rest) => {
    const before = going.get(key)
    const done = (before ?? Promise.resolve()).then(() => put(key, ...rest), () => put(key, ...rest))
    going.set(key, done)
    try {
      await done
    } finally {
      if (going.get(key) === done) going.delete(key)
    }
  }
}

/** Passes on exactly `size` bytes. What is shorter or longer is told to `failed`, and never ends, so that nobody takes it for whole. */
async function* exactly(source: AsyncIterable<Uint8Array>, size: number, failed: (error: unknown) => void): AsyncGenerator<Uint8Array, void, undefined> {
  let length = 0
  try {
    // The last bytes wait until it is known that no more come.
    let last: Uint8Array | undefined
    for await (const part of source) {
      length += part.length
      if (length > size) throw new StorageError(`the file is longer than the ${size} bytes announced`)
      if (last !== undefined) yield last
      last = part
    }
    if (length < size) throw new StorageError(`the file is shorter than the ${size} bytes announced`)
    if (last !== undefined) yield last
  } catch (error) {
    failed(error)
    throw error
  }
}

function taken(key: string): StorageError {
  return new StorageError(`a file of this key exists: ${key}`)
}

/** A name of at most 900 bytes that every server takes. */
function objectName(key: string): string {
  const name = encodeURIComponent(key).replaceAll('%', '=')
  return name.length <= KEY_BYTES_MAX ? name : `${name.slice(0, 100)}=${createHash('sha256').update(key).digest('hex')}`
}

function ignore(): void {}

function statusOf(error: unknown): number | undefined {
  return (error as Partial<S3ServiceException>).$metadata?.httpStatusCode
}
