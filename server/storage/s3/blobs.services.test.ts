import { expect } from 'chai'
import { type S3, startS3 } from '../../../services/services.ts'
import { testBlobs } from '../contract.ts'
import { openS3, type S3Blobs, type S3Options } from './blobs.ts'

describe('files in S3', () => {
  let s3: S3
  let blobs: S3Blobs
  let buckets = 0
  const options = (more: Partial<S3Options> = {}): S3Options => ({
    endpoint: s3.endpoint, region: 'us-east-1', bucket: `files-${process.pid}-${buckets}`, prefix: 'up/', accessKey: s3.accessKey, secretKey: s3.secretKey, pathStyle: true, ...more,
  })
  before(async () => { s3 = await startS3() })
  after(() => s3[Symbol.asyncDispose]())
  beforeEach(async () => {
    buckets++
    blobs = await openS3(options())
  })
  afterEach(() => { blobs.close() })

  testBlobs(() => blobs)

  it('keeps the content type, and when the file came', async () => {
    await blobs.put('a', 1, chunks('1'), 'image/png')
    const known = await blobs.stat('a')
    expect(known).to.include({ size: 1, type: 'image/png' })
    expect(known?.made).to.be.closeTo(Date.now(), 60_000)
  })

  it('streams: a file that is never whole leaves nothing', async () => {
    async function* broken(): AsyncGenerator<Uint8Array> {
      yield Buffer.alloc(1_000_000)
      throw new Error('the client is gone')
    }
    const error: unknown = await blobs.put('a', 3_000_000, broken()).catch((reason: unknown) => reason)
    expect((error as Error).message).to.equal('the client is gone')
    expect(await blobs.stat('a')).to.equal(undefined)
    await blobs.put('a', 1, chunks('1'))
  })

  it('finds out whether the bucket decides between two at once, and leaves nothing of that', async () => {
    expect(await blobs.decides()).to.equal(true)
  })

  it('two processes: one of two files under a key wins, and stays', async () => {
    const other = await openS3(options())
    const both = await Promise.allSettled([blobs.put('a', 1, chunks('1')), other.put('a', 1, chunks('2'))])
    expect(both.filter(({ status }) => status === 'fulfilled')).to.have.lengthOf(1)
    other.close()
  })

  it('says what is wrong when there is no server, or the key is refused', async () => {
    for (const wrong of [{ endpoint: 'http://127.0.0.1:1' }, { secretKey: 'wrong' }]) {
      const error: unknown = await openS3(options(wrong)).catch((reason: unknown) => reason)
      expect((error as Error).message).to.contain(`the bucket files-${process.pid}-${buckets} cannot be used`)
    }
  })

  it('goes on when the server was killed and is back', async () => {
    await blobs.put('a', 3, chunks('abc'))
    await s3.kill()
    expect(await blobs.put('b', 1, chunks('1')).catch(() => 'failed')).to.equal('failed')
    await s3.restart()
    expect((await blobs.stat('a'))?.size).to.equal(3)
    await blobs.put('b', 1, chunks('1'))
  })
})

async function* chunks(...parts: string[]): AsyncGenerator<Uint8Array> {
  for (const part of parts) yield Buffer.from(part)
}
