import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { Readable } from 'node:stream'
import { expect } from 'chai'
import { openBlobs } from './blobs.ts'

describe('files on disk', () => {
  it('are refused, as by a full disk, when they would leave less space than must stay free', async () => {
    const dir = await mkdtemp(path.join(tmpdir(), 'blobs-'))
    try {
      const refusal: unknown = await openBlobs(dir, Infinity).put('key', 1, Readable.from([Buffer.from('x')])).catch((error: unknown) => error)
      expect(refusal).to.include({ name: 'StorageError', code: 'ENOSPC' })
      expect(await openBlobs(dir, 0).stat('key')).to.equal(undefined)
    } finally {
      await rm(dir, { recursive: true })
    }
  })
})
