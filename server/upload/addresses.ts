/**
 * Addresses for an upload service that is a process of its own (the role `upload`): it keeps no slots, so that the address says, signed, what may be
 * uploaded to it. The signature of other services of this kind (`v`: path and size, as ejabberd and Prosody make it) is there too.
 */
import { createHmac, timingSafeEqual } from 'node:crypto'
import { essence } from '../http/files.ts'

/** What an address is for. */
export interface SignedSlot {
  /** Folder, secret and name of the file, as they are without percent-encoding. */
  readonly path: readonly [string, string, string]
  readonly size: number
  /** Empty when the client did not say. */
  readonly type: string
  /** When the upload must have begun, seconds since 1970. */
  readonly until: number
}

/** The query of an address, with its question mark. */
export function signAddress(secret: string, slot: SignedSlot): string {
  return `?v=${createHmac('sha256', secret).update(`${slot.path.join('/')} ${slot.size}`).digest('hex')}&until=${slot.until}&slot=${signatureOf(secret, slot)}`
}

/** Whether the query was made by `signAddress` for this file, and its time has not passed. The type in the request may be left out, or have parameters. */
export function isSigned(secret: string, query: URLSearchParams, file: Pick<SignedSlot, 'path' | 'size' | 'type'>, now: number): boolean {
  const until = Number(query.get('until'))
  const given = Buffer.from(query.get('slot') ?? '')
  if (!Number.isSafeInteger(until) || until * 1000 <= now) return false
  return ['', essence(file.type)].some((type) => {
    const right = Buffer.from(signatureOf(secret, { ...file, type, until }))
    return given.length === right.length && timingSafeEqual(given, right)
  })
}

function signatureOf(secret: string, { path, size, type, until }: SignedSlot): string {
  return createHmac('sha256', secret).update(JSON.stringify(['tidings upload', ...path, size, essence(type), until])).digest('base64url')
}
