// XEP-0198: Stream Management, version 1.6.3 (2025-01-09)
import { duration, int, oneOf } from '../config/options.ts'
import type { Value } from '../storage/shapes.ts'
import { defineExtension } from './extension.ts'

/** Streams that have ended, by account: for each its id, what the server had handled (`h`), and when it ended, ms; the latest last. */
const ENDED = 'ended-streams'
type EndedStream = readonly [id: string, handled: number, at: number]
/** Of one account. A client asks about the stream it had last; several clients share an account. */
const ENDED_MAX = 10

interface ManagementOptions {
  resume_timeout: number | undefined
  max_resume_timeout: number
  ack_timeout: number | undefined
  max_ack_queue: number | undefined
  cache_life_time: number
  resend_on_timeout: 'true' | 'false' | 'if_offline'
}

/** The counters and the queue are the session's (sessions/session.ts), the nonzas the stream's (c2s/client-stream.ts). */
export const streamManagement = defineExtension({
  name: 'stream-management',
  ejabberd: 'mod_stream_mgmt',
  specs: [{ xep: 198, version: '1.6.3', status: 'complete' }],
  needs: ['resumption', 'limits', 'hooks', 'storage', 'now'],
  options: {
    resume_timeout: { type: duration({ min: 0, infinity: false }), default: undefined, help: 'How long a session waits for its client to come back; 0 turns resumption off. tidings.limits.resume_timeout unless set.' },
    max_resume_timeout: { type: duration({ min: 0, infinity: false }), default: 0, help: 'The longest wait that a client may ask for; resume_timeout unless set.' },
    ack_timeout: { type: duration(), default: undefined, help: 'How long a client may take to acknowledge; tidings.limits.ack_timeout unless set.' },
    max_ack_queue: { type: int({ min: 1, infinity: true }), default: undefined, help: 'Unacknowledged stanzas of one session; tidings.limits.resume_queue_stanzas unless set.' },
    cache_life_time: { type: duration({ min: 0 }), default: 172_800_000, help: 'How long it is remembered what had been handled of a stream that has ended, for a client that comes back too late.' },
    resend_on_timeout: { type: oneOf('true', 'false', 'if_offline'), default: 'true', help: 'What was not acknowledged always goes to the other sessions or offline.', ignored: 'has no effect: what was not acknowledged always goes to the account\'s other sessions, or offline, as with "true".' },
  },
  start({ resumption, limits, hooks, storage, now }, options: ManagementOptions) {
    const { records } = storage
    const resumeMs = options.resume_timeout ?? limits.resumeTimeoutMs

    const endedStreams = (value: Value | undefined): EndedStream[] =>
      ((value ?? []) as unknown as EndedStream[]).filter(([, , at]) => now() - at < options.cache_life_time)

    async function remember(owner: string, id: string, handled: number): Promise<void> {
      const stored = records.get(ENDED, [owner])
      // Without a wait where there is none, so that it is written in the same group as the end of the stream.
      const ended = endedStreams(stored instanceof Promise ? await stored : stored)
      records.put(ENDED, [owner], [...ended.slice(1 - ENDED_MAX), [id, handled, now()]] satisfies EndedStream[] as Value)
    }

    hooks.closed((session) => {
      const { management } = session
      if (management?.resumable === true && options.cache_life_time > 0) void remember(session.owner, management.id, management.handled)
    })
    hooks.accountRemoved((owner) => records.delete(ENDED, [owner]))

    resumption({
      resumeMs,
      maxResumeMs: Math.max(resumeMs, options.max_resume_timeout),
      ackTimeoutMs: options.ack_timeout ?? limits.ackTimeoutMs,
      queueMax: options.max_ack_queue ?? limits.resumeQueueStanzas,
      async lastHandled(owner, id) {
        const found = endedStreams(await records.get(ENDED, [owner])).find(([each]) => each === id)
        if (found === undefined) return undefined
        // §4: an acknowledgement like any other, the client sends nothing of it again.
        await storage.committed()
        return found[1]
      },
    })
  },
})
