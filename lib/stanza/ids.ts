/** Ids of messages and streams. */
import { randomFillSync } from 'node:crypto'

const DIGITS = '0123456789abcdefghijklmnopqrstuv'
const SEQUENCE_MAX = 32 ** 3
/** Ids of a millisecond begin somewhere in the first half, so that they do not tell how many there are. */
const SEQUENCE_START_MAX = SEQUENCE_MAX / 2
/** 40 bits at the end of an id that nobody can guess. */
const RANDOM_DIGITS = 8
const ID_PATTERN = /^[0-9a-v]{22}$/

let lastMs = 0
let sequence = 0
/** Two digits that keep apart the processes of a cluster. */
let node = '00'

function digits(value: number, length: number): string {
  let text = ''
  for (let i = 0; i < length; i++) {
    text = DIGITS[value % 32] + text
    value = Math.floor(value / 32)
  }
  return text
}

export function setNodeOfIds(number: number): void {
  node = digits(number, 2)
}

/**
 * A new id for a message: 22 characters that sort by time, unique within the process also when the clock goes back, and not to be
 * guessed from others (XEP-0313 §3). The same string is its archive id, its stanza-id (XEP-0359) and its key in the offline queue.
 */
export function nextMessageId(nowMs: number = Date.now()): string {
  if (nowMs > lastMs) {
    lastMs = nowMs
    sequence = randomSequence()
  } else if (++sequence === SEQUENCE_MAX) {
    lastMs++
    sequence = randomSequence()
  }
  return digits(lastMs, 9) + digits(sequence, 3) + node + randomDigits()
}

/** Milliseconds of the id made last. */
export function timeOfLastId(): number {
  return lastMs
}

/** After a restart: ids must not go back behind those made before, of whose last one this is the time (ms). */
export function continueIdsAfter(ms: number): void {
  if (ms >= lastMs) lastMs = ms + 1
}

/** Milliseconds since 1970 of a message id, or undefined when the text is no such id. */
export function timeOfMessageId(id: string): number | undefined {
  if (!ID_PATTERN.test(id)) return undefined
  let value = 0
  for (let i = 0; i < 9; i++) value = value * 32 + DIGITS.indexOf(id[i] as string)
  return value
}

/** What no message id of a millisecond or later is smaller than: for ranges by time. */
export function firstIdOf(ms: number): string {
  return digits(Math.max(0, Math.floor(ms)), 9) + '00000'
}

/** Random bytes in stock, for each call of the generator costs far more than a few bytes. */
const random = Buffer.allocUnsafeSlow(4096)
let randomAt = random.length

/** Where the next so many random bytes stand. */
function nextRandom(bytes: number): number {
  if (randomAt + bytes > random.length) {
    randomFillSync(random)
    randomAt = 0
  }
  randomAt += bytes
  return randomAt - bytes
}

function randomSequence(): number {
  return random.readUInt16BE(nextRandom(2)) % SEQUENCE_START_MAX
}

function randomDigits(): string {
  const at = nextRandom(RANDOM_DIGITS)
  let text = ''
  for (let i = at; i < randomAt; i++) text += DIGITS[(random[i] as number) % 32]
  return text
}

/** An id that cannot be guessed: for streams, resources and tokens. */
export function randomId(bytes = 12): string {
  const at = nextRandom(bytes)
  const id = random.toString('base64url', at, randomAt)
  // Used bytes do not stay in memory.
  random.fill(0, at, randomAt)
  return id
}
