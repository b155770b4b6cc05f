import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { testStorage } from '../contract.ts'
import { openEmbedded } from './embedded.ts'

testStorage('embedded', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'tidings-storage-'))
  let storage = await openEmbedded(dir)
  return {
    storage,
    async reopen() {
      await storage[Symbol.asyncDispose]()
      storage = await openEmbedded(dir)
      return storage
    },
    async remove() { rmSync(dir, { recursive: true, force: true }) },
  }
})
