import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { expect } from 'chai'
import { type Results, saveResults } from './results.ts'

function results(name: string, colour: string): Results {
  return {
    name, version: '1.0', at: '2026-01-01 00:00', plays: { passed: 2, failed: 1 },
    smack: name === 'tidings' ? { passed: 9, failed: [{ test: 'Muc.join', reason: 'no <presence/>' }], impossible: 3 } : undefined,
    rows: [{ id: 'A1', title: 'Roses', colour, reason: colour === 'green' ? '' : 'no <rose/> in *bloom*' }], more: [], suites: { Core: 'Advanced' },
  }
}

describe('results of conformance', () => {
  let folder: string
  beforeEach(async () => { folder = await mkdtemp(path.join(tmpdir(), 'tidings-results-')) })
  afterEach(() => rm(folder, { recursive: true, force: true }))

  it('stand beside those of earlier runs against other servers', async () => {
    const file = path.join(folder, 'RESULTS.md')
    await saveResults(results('prosody', 'red'), path.join(folder, 'saved'), file)
    await saveResults(results('tidings', 'green'), path.join(folder, 'saved'), file)
    const text = await readFile(file, 'utf8')
    expect(text).to.contain('|  | Tidings 1.0 | Prosody 1.0 |')
    expect(text).to.contain('| Our plays: passed / failed | 2 / 1 | 2 / 1 |')
    expect(text).to.contain("| Smack's integration tests: passed / failed / impossible | 9 / 1 / 3 | not run to the end |")
    expect(text).to.contain('| What clients look for: green | 1 of 1 | 0 of 1 |')
    expect(text).to.contain('| A1 Roses | green | red |')
    expect(text).to.contain('- A1, Roses, is red: no \\<rose/\\> in \\*bloom\\*')
    expect(text).to.contain('- Muc.join failed: no \\<presence/\\>')
  })
})
