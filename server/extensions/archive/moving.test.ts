import { expect } from 'chai'
import { nextMessageId } from '../../../lib/stanza/ids.ts'
import { parseElement } from '../../../lib/xml/build.ts'
import { openMemory } from '../../storage/memory/memory.ts'
import { exportArchive, importArchive } from './moving.ts'

const JULIET = 'juliet@localhost'
const ROMEO = 'romeo@localhost'

describe('XEP-0227: archives that move', () => {
  const { archive } = openMemory()
  const add = (owner: string, text: string): string => {
    const id = nextMessageId()
    archive.append({ id, bytes: Buffer.from(`<message from='${ROMEO}/x' to='${owner}' type='chat'><body>${text}</body></message>`), owners: [{ owner, with: ROMEO }] })
    return id
  }
  const exported = async (owner: string): Promise<string> => {
    let text = ''
    for await (const piece of exportArchive(archive, owner)) text += piece
    return text
  }

  it('say nothing of what was erased, the first messages of a page and all of an archive included', async () => {
    const ids = Array.from({ length: 205 }, (_, at) => add(JULIET, `secret ${at}`))
    for (const at of [0, 1, 100, 150, 204]) await archive.replace(JULIET, ids[at] as string, Buffer.alloc(0))
    const text = await exported(JULIET)
    const results = parseElement(text).getChildren('result')
    expect(results.map((each) => each.attrs['id'])).to.deep.equal(ids.filter((_, at) => ![0, 1, 100, 150, 204].includes(at)))
    for (const at of [0, 1, 100, 150, 204]) expect(text).to.not.contain(`>secret ${at}<`).and.not.contain(ids[at] as string)
    const only = add('nurse@localhost', 'gone')
    await archive.replace('nurse@localhost', only, Buffer.alloc(0))
    expect(await exported('nurse@localhost')).to.not.contain(only)
    expect(await exported('paris@localhost')).to.equal('')
  })

  it('keep their ids and come twice as once', async () => {
    const before = (await archive.query(JULIET, { max: 1000, direction: 'forward' })).items.filter(({ bytes }) => bytes.length > 0)
    const taken = openMemory().archive
    for (let times = 0; times < 2; times++) await importArchive(taken, JULIET, parseElement(await exported(JULIET)))
    const after = (await taken.query(JULIET, { max: 1000, direction: 'forward' })).items
    expect(after.map(({ id, bytes }) => [id, bytes.toString()])).to.deep.equal(before.map(({ id, bytes }) => [id, bytes.toString()]))
  })
})
