/** What was on its way when all processes were killed comes in the order in which it was sent, whoever sent it. */
import { expect } from 'chai'
import { HEADER_BYTES } from '../../storage/groups/log.ts'
import { RecordWriter } from '../../storage/groups/record.ts'
import { BUS_SECTION } from '../bus.ts'
import { type Inheritance } from '../shapes.ts'
import { openHub, type TestHub } from './local.fixture.ts'
import { type LocalMembership } from './membership.ts'

const SENT = 1

describe('parcels between processes of one machine', () => {
  let hub: TestHub
  beforeEach(async () => { hub = await openHub() })
  afterEach(async () => { await hub[Symbol.asyncDispose]() })

  /** Commits frames of numbers from `first` on, as a process's log has them. */
  async function commit(from: LocalMembership, to: LocalMembership, first: number, frames: readonly string[]): Promise<void> {
    const writer = new RecordWriter(HEADER_BYTES)
    frames.forEach((frame, i) => {
      writer.uint8(BUS_SECTION)
      const place = writer.reserve()
      writer.uint8(SENT)
      writer.text(to.self.inc)
      writer.double(first + i)
      writer.bytes(Buffer.from(frame))
      writer.fill(place)
    })
    await from.log.append(writer.finish(), writer.size, 1)
  }
  function send(from: LocalMembership, to: LocalMembership, first: number, frames: readonly string[]): Promise<'sent' | 'gone'> {
    return from.send(to.self.inc, { source: from.self.inc, first, pieces: frames.map((frame) => Buffer.from(frame)) })
  }
  /** What a process, which is over, had not done. */
  async function leftTo(inc: string): Promise<string[]> {
    const heir = await hub.join('heir')
    return new Promise((resolve) => {
      heir.inherit(async (inheritance: Inheritance) => {
        await inheritance.finish(1, new Map())
        if (inheritance.inc === inc) resolve(inheritance.parcels.flatMap(({ pieces }) => pieces.map(String)))
      })
    })
  }

  it('of two sources come in the order of both, after all were killed', async () => {
    // The names are in another order than the parcels.
    const [z, a, target] = [await hub.join('z'), await hub.join('a'), await hub.join('target')]
    await commit(z, target, 1, ['1'])
    await send(z, target, 1, ['1'])
    await commit(a, target, 1, ['2', '3'])
    await send(a, target, 1, ['2', '3'])
    await commit(z, target, 2, ['4'])
    await send(z, target, 2, ['4'])
    await commit(a, target, 3, ['5'])
    await send(a, target, 3, ['5'])
    await hub.restart()
    expect(await leftTo(target.self.inc)).to.deep.equal(['1', '2', '3', '4', '5'])
  })

  it('are in order when logs have forgotten some of them, and who recovers a sender sends none twice', async () => {
    const [z, a, target] = [await hub.join('z'), await hub.join('a'), await hub.join('target')]
    await commit(a, target, 1, ['1'])
    await commit(z, target, 1, ['2'])
    const { segment } = z.log.turnOver()
    // Committed before the one in front of it is in the inbox.
    await commit(z, target, 2, ['3'])
    await send(a, target, 1, ['1'])
    await send(z, target, 1, ['2'])
    await send(z, target, 2, ['3'])
    await z.log.drop(segment)
    await hub.restart()
    const heir = await hub.join('heir')
    expect(await heir.send(target.self.inc, { source: z.self.inc, first: 1, pieces: [Buffer.from('2'), Buffer.from('3')] })).to.equal('sent')
    expect(await leftTo(target.self.inc)).to.deep.equal(['1', '2', '3'])
  })
})
