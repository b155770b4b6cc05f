import { expect } from 'chai'
import { fakeParts } from './fake-parts.ts'
import { streamManagement } from './stream-management.ts'

describe('XEP-0198 stream management, its options', () => {
  function started(options: Record<string, unknown>, limits: Record<string, number> = {}): unknown {
    const fake = fakeParts()
    let given: unknown
    fake.parts.resumption = (resumption) => { given = resumption }
    fake.parts.limits = { ...fake.parts.limits, ...limits }
    fake.start(streamManagement, options)
    return given
  }

  it('are the limits of the server unless they are set', () => {
    expect(started({})).to.include({ resumeMs: 300_000, maxResumeMs: 300_000, ackTimeoutMs: 60_000, queueMax: 5000 })
    expect(started({}, { resumeTimeoutMs: 900_000, ackTimeoutMs: 5000, resumeQueueStanzas: 9000 })).to.include({ resumeMs: 900_000, maxResumeMs: 900_000, ackTimeoutMs: 5000, queueMax: 9000 })
    expect(started({ resume_timeout: 1000, max_resume_timeout: 7000, ack_timeout: 2000, max_ack_queue: 3 }, { resumeTimeoutMs: 900_000 })).to.include({ resumeMs: 1000, maxResumeMs: 7000, ackTimeoutMs: 2000, queueMax: 3 })
  })
})
