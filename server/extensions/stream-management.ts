// XEP-0198: Stream Management, version 1.6.3 (2025-01-09)
import { duration, int, oneOf } from '../config/options.ts'
import { defineExtension } from './extension.ts'

/** The counters and the queue are the session's (sessions/session.ts), the nonzas the stream's (c2s/client-stream.ts). */
export const streamManagement = defineExtension({
  name: 'stream-management',
  ejabberd: 'mod_stream_mgmt',
  specs: [{ xep: 198, version: '1.6.3', status: 'complete' }],
  needs: ['resumption', 'limits'],
  options: {
    resume_timeout: { type: duration({ min: 0 }), default: 300_000, help: 'How long a session waits for its client to come back; 0 turns resumption off.' },
    max_resume_timeout: { type: duration({ min: 0 }), default: 0, help: 'The longest wait that a client may ask for; resume_timeout unless set.' },
    ack_timeout: { type: duration(), default: 60_000, help: 'How long a client may take to acknowledge.' },
    max_ack_queue: { type: int({ min: 1, infinity: true }), default: 5000, help: 'Unacknowledged stanzas of one session.' },
    resend_on_timeout: { type: oneOf('true', 'false', 'if_offline'), default: 'true', help: 'Accepted; what was not acknowledged always goes to the other sessions or offline.' },
  },
  start({ resumption, limits }, options) {
    const resumeMs = Math.min(options.resume_timeout, limits.resumeTimeoutMs === 300_000 ? Infinity : limits.resumeTimeoutMs)
    resumption({ resumeMs, maxResumeMs: Math.max(resumeMs, options.max_resume_timeout), ackTimeoutMs: options.ack_timeout })
  },
})
