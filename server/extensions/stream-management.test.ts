import { expect } from 'chai'
import { Jid } from '../../lib/jid.ts'
import { defaultLimits } from '../config/limits.ts'
import { createManagement, type Session } from '../sessions/session.ts'
import { openHeldStorage } from '../test-server.ts'
import type { Parts, Resumption } from './extension.ts'
import { fakeParts } from './fake-parts.ts'
import { streamManagement } from './stream-management.ts'

const JULIET = 'juliet@example.net'
const HOUR_MS = 3_600_000

describe('XEP-0198 stream management', () => {
  function stage(options: Record<string, unknown> = {}, parts: Partial<Parts> = {}) {
    const fake = fakeParts()
    Object.assign(fake.parts, parts)
    const start = (): Resumption => {
      fake.start(streamManagement, options)
      return fake.resumptions.at(-1) as Resumption
    }
    const end = (id: string, handled: number, owner = JULIET, resumable = true): void => {
      const management = Object.assign(createManagement({ id, resumable, resumeMs: 1000, queueMax: 10 }), { handled })
      const jid = Jid.parse(`${owner}/balcony`)
      fake.hooks.runClosed({ jid, owner: jid.bare, host: jid.domain, management } as Session)
    }
    return { fake, start, end, resumption: start() }
  }

  it('§5: remembers how much had been handled of a stream that has ended, for its account alone', async () => {
    const { end, resumption } = stage()
    end('a', 7)
    end('b', 2 ** 32 - 1)
    expect(await resumption.lastHandled(JULIET, 'a')).to.equal(7)
    expect(await resumption.lastHandled(JULIET, 'b')).to.equal(2 ** 32 - 1)
    expect(await resumption.lastHandled(JULIET, 'c')).to.equal(undefined)
    expect(await resumption.lastHandled('romeo@example.net', 'a')).to.equal(undefined)
  })

  it('§5: also when the server has started anew since', async () => {
    const { end, start } = stage()
    end('a', 7)
    expect(await start().lastHandled(JULIET, 'a')).to.equal(7)
  })

  it('§5: forgets it after cache_life_time', async () => {
    const { fake, end, resumption } = stage({ cache_life_time: HOUR_MS })
    end('a', 7)
    fake.clock.now += HOUR_MS - 1
    end('b', 8)
    expect(await resumption.lastHandled(JULIET, 'a')).to.equal(7)
    fake.clock.now += 1
    expect(await resumption.lastHandled(JULIET, 'a')).to.equal(undefined)
    expect(await resumption.lastHandled(JULIET, 'b')).to.equal(8)
    end('c', 9)
    expect(JSON.stringify(fake.storage.records.get('ended-streams', [JULIET]))).to.not.contain('"a"')
  })

  it('remembers two days unless told otherwise, and nothing when told so', async () => {
    const { fake, end, resumption } = stage()
    end('a', 7)
    fake.clock.now += 48 * HOUR_MS - 1
    expect(await resumption.lastHandled(JULIET, 'a')).to.equal(7)
    fake.clock.now += 1
    expect(await resumption.lastHandled(JULIET, 'a')).to.equal(undefined)
    const never = stage({ cache_life_time: 0 })
    never.end('a', 7)
    expect(never.fake.storage.records.get('ended-streams', [JULIET])).to.equal(undefined)
  })

  it('remembers a few streams of each account, the latest', async () => {
    const { end, resumption } = stage()
    for (let number = 0; number < 25; number++) end(`s${number}`, number)
    end('r', 1, 'romeo@example.net')
    const known = await Promise.all(Array.from({ length: 25 }, (_, number) => resumption.lastHandled(JULIET, `s${number}`)))
    expect(known.filter((each) => each !== undefined)).to.deep.equal([15, 16, 17, 18, 19, 20, 21, 22, 23, 24])
    expect(await resumption.lastHandled('romeo@example.net', 'r')).to.equal(1)
  })

  it('remembers nothing of a stream that could not be resumed: it has no id', () => {
    const { fake, end } = stage()
    end('a', 7, JULIET, false)
    expect(fake.storage.records.get('ended-streams', [JULIET])).to.equal(undefined)
  })

  it('forgets the streams of an account that is removed', async () => {
    const { fake, end, resumption } = stage()
    end('a', 7)
    await fake.hooks.runAccountRemoved(JULIET)
    expect(await resumption.lastHandled(JULIET, 'a')).to.equal(undefined)
  })

  it('§4: tells what was handled only when it is on stable storage', async () => {
    const storage = openHeldStorage()
    const { end, resumption } = stage({}, { storage })
    storage.hold()
    end('a', 7)
    let told: number | undefined
    const answer = resumption.lastHandled(JULIET, 'a').then((handled) => { told = handled })
    for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setImmediate(resolve))
    expect(told).to.equal(undefined)
    storage.release()
    await answer
    expect(told).to.equal(7)
  })

  it('takes waits and queue from its options, or from the limits where those are set', () => {
    const of = (options: Record<string, unknown>, limits: Partial<Parts['limits']> = {}): Partial<Resumption> => {
      const { lastHandled: _, ...numbers } = stage(options, { limits: { ...defaultLimits, ...limits } }).resumption
      return numbers
    }
    expect(of({})).to.deep.equal({ resumeMs: 300_000, maxResumeMs: 300_000, ackTimeoutMs: 60_000, queueMax: 5000 })
    expect(of({ resume_timeout: 10, max_resume_timeout: 20, ack_timeout: 30, max_ack_queue: 40 })).to.deep.equal({ resumeMs: 10, maxResumeMs: 20, ackTimeoutMs: 30, queueMax: 40 })
    expect(of({ resume_timeout: 20, max_resume_timeout: 10 }).maxResumeMs).to.equal(20)
    expect(of({ resume_timeout: 0 })).to.include({ resumeMs: 0, maxResumeMs: 0 })
    expect(of({ max_ack_queue: Infinity }).queueMax).to.equal(Infinity)
    expect(of({}, { resumeTimeoutMs: 5, resumeQueueStanzas: 6 })).to.include({ resumeMs: 5, queueMax: 6 })
  })
})
