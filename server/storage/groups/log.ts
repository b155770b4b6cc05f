/** The log of a grouped store, as the store sees it: on a disk of this machine, or elsewhere. */

/** Bytes at the beginning of each record that are the log's own. */
export const HEADER_BYTES = 32
/** Records are padded to a multiple of this. */
export const RECORD_ALIGN = 64

export interface LogRecord {
  /** Counted from 1 over all segments. */
  readonly number: number
  /** Milliseconds of the last id made before it was written (see lib/stanza/ids.ts). */
  readonly lastIdMs: number
  readonly payload: Buffer
}

/** Where the log stands after everything before it has been written elsewhere. */
export interface LogPosition {
  readonly segment: number
  /** Number of the last record of that segment. */
  readonly record: number
  readonly lastIdMs: number
}

/** An append-only log of records, in segments. A record is there whole or not at all. */
export interface Log {
  /** Bytes written to the segment. */
  readonly bytes: number
  /**
   * Writes a record, and resolves when it is on stable storage. `buffer` begins with HEADER_BYTES to be filled in; its size is a
   * multiple of RECORD_ALIGN. Rejects when that failed: then the record may be appended again, and no other before it.
   */
  append(buffer: Buffer, payloadBytes: number, lastIdMs: number): Promise<void>
  /** Makes the next segment, for `turnOver`. */
  prepare(): Promise<void>
  /** The next record goes to the segment prepared. Answers where the one left ends. */
  turnOver(): { readonly segment: number; readonly record: number }
  /** Forgets the segments up to this one. */
  drop(upTo: number): Promise<void>
  /** Resolves when nothing is being written any more; nothing can be written afterwards. */
  close(): Promise<void>
}
