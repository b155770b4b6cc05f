/** Ids of messages and streams. */
import { randomFillSync } from 'node:crypto'

const DIGITS = '0123456789abcdefghijklmnopqrstuv'
const SEQUENCE_MAX = 32 ** 3
/** Ids of a millisecond begin somewhere in the first half, so that they do not tell how many there are. */
const SEQUENCE_START_MAX = SEQUENCE_MAX / 2
/** 40 bits at the end of an id that nobody can guess. */
const RANDOM_DIGITS = 8
const ID_PATTERN = /^[0-9a-v]{22}$/

const TIME_DIGITS = 9
const SEQUENCE_DIGITS = 3
/** Two digits that keep apart the processes of a cluster. */
const NODE_AT = TIME_DIGITS + SEQUENCE_DIGITS
const RANDOM_AT = NODE_AT + 2
const ID_DIGITS = RANDOM_AT + RANDOM_DIGITS

let lastMs = 0
let sequence = 0
/** The id made last, and the time that it holds, ms. */
const lastId = Buffer.alloc(ID_DIGITS, '0')
let timeInId = 0

function write(value: number, at: number, length: number): void {
  for (let i = at + length - 1; i >= at; i--) {
    lastId[i] = DIGITS.charCodeAt(value % 32)
    value = Math.floor(value / 32)
  }
}

function digits(value: number, length: number): string {
  let text = ''
  for (let i = 0; i < length; i++) {
    text = DIGITS[value % 32] + text
    value = Math.floor(value / 32)
  }
  return text
}

export function setNodeOfIds(number: number): void {
  write(number, NODE_AT, RANDOM_AT - NODE_AT)
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
  if (timeInId !== lastMs) write((timeInId = lastMs), 0, TIME_DIGITS)
  write(sequence, TIME_DIGITS, SEQUENCE_DIGITS)
  const from = nextRandom(RANDOM_DIGITS)
  for (let i = 0; i < RANDOM_DIGITS; i++) lastId[RANDOM_AT + i] = DIGITS.charCodeAt((random[from + i] as number) % 32)
  return lastId.latin1Slice(0, ID_DIGITS)
}

/** An id for a message of the past, from elsewhere: those of a millisecond sort by `sequence`. It ends with a mark, of 8 bytes at least, or at random. */
export function pastMessageId(ms: number, sequence: number, mark?: Buffer): string {
  let text = digits(Math.max(0, Math.floor(ms)), TIME_DIGITS) + digits(sequence % SEQUENCE_MAX, SEQUENCE_DIGITS) + '00'
  const from = mark === undefined ? nextRandom(RANDOM_DIGITS) : 0
  for (let i = 0; i < RANDOM_DIGITS; i++) text += DIGITS[((mark ?? random)[from + i] as number) % 32]
  return text
}

/** Milliseconds of the id made last. */
export function timeOfLastId(): number {
  return lastMs
}

/** For tests, in which others make ids of later times: ids go on after this time (ms), wherever they were. */
export function setTimeOfIds(ms: number): void {
  lastMs = ms
}

/** After a restart: ids must not go back behind those made before, of whose last one this is the time (ms). */
export function continueIdsAfter(ms: number): void {
  if (ms >= lastMs) lastMs = ms + 1
}

/** Milliseconds since 1970 of a message id, or undefined when the text is no such id. */
export function timeOfMessageId(id: string): number | undefined {
  if (!ID_PATTERN.test(id)) return undefined
  let value = 0
  for (let i = 0; i < TIME_DIGITS; i++) value = value * 32 + DIGITS.indexOf(id[i] as string)
  return value
}

/** What no message id of a millisecond or later is smaller than: for ranges by time. */
export function firstIdOf(ms: number): string {
  return digits(Math.max(0, Math.floor(ms)), TIME_DIGITS) + '00000'
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

/** An id that cannot be guessed: for streams, resources and tokens. */
export function randomId(bytes = 12): string {
  const at = nextRandom(bytes)
  const id = random.toString('base64url', at, randomAt)
  // Used bytes do not stay in memory.
  random.fill(0, at, randomAt)
  return id
}
