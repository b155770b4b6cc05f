import type { Log } from '../log.ts'

/** The store would never take what was to be written, however often it is asked: it is too large, or breaks a rule of the store. */
export class RefusedError extends Error {}

/** What is sent to a node that is being recovered waits until that is over, and then goes to who has its units. */
export class RecoveredError extends Error {
  readonly inc: string

  constructor(inc: string) {
    super(`${inc} is being recovered`)
    this.inc = inc
  }
}

/** Logs what a storage could not do beside what it was asked for. */
export function storageErrorsTo(log: Log): (error: unknown) => void {
  return (error) => {
    if (error instanceof RecoveredError) log.info({ what: 'waiting_for_recovery', inc: error.inc })
    else log.error({ what: 'storage_callback_failed', error })
  }
}
