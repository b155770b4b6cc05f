/** Run by the test as a process that is killed: writes turn after turn to every shape, and prints those that are safe. */
import { writeSync } from 'node:fs'
import { writeTurn } from './changes.fixture.ts'
import { openEmbedded } from './embedded.ts'

const [, , dir = '', seed = '', from = ''] = process.argv
// The log turns over often.
const storage = await openEmbedded(dir, { segmentBytes: 20_000 })
let turn = Number(from)

async function write(): Promise<void> {
  for (let more = Math.random() * 10; more > 0; more--) {
    const written = turn++
    await writeTurn(storage, Number(seed), written)
    storage.records.put('turn', [], written)
    storage.afterCommit(() => { writeSync(1, `${written}\n`) })
    // Turns of one group come whole or not at all; those of two may be divided.
    if (Math.random() < 0.5) await new Promise((resolve) => { setImmediate(resolve) })
  }
  if (Math.random() < 0.5) setImmediate(next)
  else setTimeout(next, Math.random() * 5)
}

function next(): void { void write() }

next()
