/** What TLS session tickets are encrypted with (RFC 5077, RFC 8446 §4.6.1), so that clients resume TLS with the next process too. */
import { hkdfSync, randomBytes } from 'node:crypto'
import { mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import path from 'node:path'

export interface TicketSecret {
  /** A new one once the last is a day old; until then the same object. */
  current(): Buffer
  /** Why it cannot be kept for the next process; one sentence. */
  readonly problem: string | undefined
}

/** RFC 5077 §5.5: whoever has it can read what was said in TLS 1.2 by those who resumed with it, so it does not stay long. */
const LIFETIME_MS = 24 * 3600 * 1000
const TIME_BYTES = 8
const SECRET_BYTES = 32
/** What Node takes. */
const KEY_BYTES = 48

/** The secret in a file, which nobody else may read. A file that is missing or of no use is made anew. */
export function createTicketSecret(file: string, now: () => number): TicketSecret {
  let problem: string | undefined
  let kept = read(file)

  const renew = (time: number): Kept => {
    const fresh = { made: time, secret: randomBytes(SECRET_BYTES) }
    try {
      write(file, fresh)
      problem = undefined
    } catch (error) {
      problem = `cannot keep the secret of TLS session tickets in ${file}: ${(error as Error).message}`
    }
    return fresh
  }

  return {
    current() {
      const time = now()
      if (kept === undefined || time - kept.made >= LIFETIME_MS || kept.made > time) kept = renew(time)
      return kept.secret
    },
    get problem() { return problem },
  }
}

/** A key for one purpose: what was encrypted for another is of no use to it. */
export function ticketKey(secret: Uint8Array, purpose: string): Buffer {
  return Buffer.from(hkdfSync('sha256', secret, '', purpose, KEY_BYTES))
}

interface Kept {
  /** Ms. */
  readonly made: number
  readonly secret: Buffer
}

function read(file: string): Kept | undefined {
  let bytes: Buffer
  try {
    // What others may have read is no secret.
    if (process.platform !== 'win32' && (statSync(file).mode & 0o077) !== 0) return undefined
    bytes = readFileSync(file)
  } catch {
    return undefined
  }
  if (bytes.length !== TIME_BYTES + SECRET_BYTES) return undefined
  return { made: bytes.readDoubleBE(0), secret: bytes.subarray(TIME_BYTES) }
}

function write(file: string, { made, secret }: Kept): void {
  const bytes = Buffer.alloc(TIME_BYTES + SECRET_BYTES)
  bytes.writeDoubleBE(made, 0)
  secret.copy(bytes, TIME_BYTES)
  mkdirSync(path.dirname(file), { recursive: true, mode: 0o700 })
  const draft = `${file}.${process.pid}.new`
  // One that is there would keep its mode.
  rmSync(draft, { force: true })
  writeFileSync(draft, bytes, { mode: 0o600 })
  renameSync(draft, file)
}
