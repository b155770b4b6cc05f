/** Run by the test as a process that is killed: writes one number after the other to every shape, and prints those that are safe. */
import { writeSync } from 'node:fs'
import { nextMessageId } from '../../../lib/stanza/ids.ts'
import { openEmbedded } from './embedded.ts'

const [, , dir = '', start = '0'] = process.argv
// The log turns over often.
const storage = await openEmbedded(dir, { segmentBytes: 20_000 })
const first = Number(start)
if (first === 0) storage.streams.open('s', 'romeo@montague.lit', 'orchard', null)
let n = first === 0 ? 0 : first - 1

function writeSome(): void {
  for (let i = Math.random() * 20; i > 0; i--) {
    n++
    const number = n
    const id = nextMessageId()
    const bytes = Buffer.from(`<message id='${number}'/>`)
    storage.records.put('t', ['last'], number)
    storage.archive.append({ id, bytes, owners: [{ owner: 'romeo@montague.lit', with: 'juliet@capulet.lit' }, { owner: 'juliet@capulet.lit', with: 'romeo@montague.lit' }] })
    storage.offline.push('romeo@montague.lit', { id, bytes })
    storage.streams.push('s', number, bytes)
    storage.streams.handled('s', number)
    storage.streams.acknowledged('s', Math.max(0, number - 10))
    storage.afterCommit(() => { writeSync(1, `${number}\n`) })
  }
  if (Math.random() < 0.5) setImmediate(writeSome)
  else setTimeout(writeSome, Math.random() * 5)
}

writeSome()
