/** Logs are events: `log.info({ what: 'session_bound', jid })`. Never a secret, never a message's body. */
import { type Logger, pino, stdSerializers } from 'pino'

export type Log = Pick<Logger, 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'fatal' | 'child' | 'level'>

/** `level` is one of pino's, or `silent`. */
export function createLog(level: string): Log {
  return pino({ level, base: null, timestamp: pino.stdTimeFunctions.isoTime, formatters: { level: (label) => ({ level: label }) }, serializers: { error: stdSerializers.err } })
}
