/** Pictures with a text that only people are meant to read, and the answers to them (XEP-0158 §5, `ocr`). Nothing of it outlives the process. */
import { execFile } from 'node:child_process'
import { createHash, randomInt } from 'node:crypto'
import { networkOf } from '../../lib/net/addresses.ts'
import { Recent } from '../../lib/recent.ts'
import { StanzaError } from '../../lib/stanza/errors.ts'
import { randomId } from '../../lib/stanza/ids.ts'
import type { Log } from '../log.ts'
import { drawDigits, type Picture } from './picture.ts'

const DIGITS = 6
/** How long an answer may take. */
const LIFE_MS = 180_000
/** Pictures that wait for their answer; the oldest are forgotten. */
const WAITING_MAX = 2_000
const COMMAND_MS = 10_000
const COMMANDS_MAX = 4
const PICTURE_BYTES_MAX = 200_000

export interface Challenge {
  readonly id: string
  readonly picture: Picture
  /** XEP-0231 §2.1 */
  readonly cid: string
}

export interface Captchas {
  /** Throws `resource-constraint` when the address has had as many as the operator allows, or there is no picture to be had. */
  make(address: string): Promise<Challenge>
  /** One that still waits, by its cid. */
  find(cid: string): Challenge | undefined
  /** Whether this is the answer. There is one try: the challenge is over in any case. */
  check(id: string, answer: string): boolean
}

export interface CaptchaOptions {
  /** A program that is given the text and writes a picture of it (ejabberd's `captcha_cmd`); without one we draw it ourselves. */
  readonly command: () => string
  /** Pictures that one address may have in a minute. */
  readonly limit: () => number
  readonly now: () => number
  readonly log: Log
}

interface Waiting {
  readonly challenge: Challenge
  readonly text: string
  readonly until: number
}

export function createCaptchas({ command, limit, now, log }: CaptchaOptions): Captchas {
  /** In order of time. */
  const waiting = new Map<string, Waiting>()
  const counts = new Recent<{ minute: number; count: number }>(20_000)
  let running = 0

  function count(address: string): void {
    const network = networkOf(address)
    const minute = Math.floor(now() / 60_000)
    const known = counts.get(network)
    const entry = known?.minute === minute ? known : { minute, count: 0 }
    if (entry.count >= limit()) throw new StanzaError('resource-constraint', 'Please wait a minute before you ask for another captcha')
    entry.count++
    counts.set(network, entry)
  }

  function expire(): void {
    for (const [id, { until }] of waiting) {
      if (until > now() && waiting.size < WAITING_MAX) break
      waiting.delete(id)
    }
  }

  async function draw(text: string): Promise<Picture> {
    const program = command()
    if (program === '') return drawDigits(text)
    if (running >= COMMANDS_MAX) throw new StanzaError('resource-constraint', 'Too many captchas at the moment')
    running++
    try {
      const bytes = await new Promise<Buffer>((resolve, reject) => {
        execFile(program, [text], { encoding: 'buffer', timeout: COMMAND_MS, killSignal: 'SIGKILL', maxBuffer: PICTURE_BYTES_MAX, windowsHide: true }, (error, stdout) => { if (error === null) resolve(stdout); else reject(error) })
      })
      const type = typeOf(bytes)
      if (type === undefined) throw new Error('it wrote neither PNG nor JPEG nor GIF')
      return { type, bytes }
    } catch (error) {
      log.error({ what: 'captcha_command_failed', program, error: (error as Error).message })
      throw new StanzaError('resource-constraint', 'There are no captchas at the moment')
    } finally {
      running--
    }
  }

  return {
    async make(address) {
      count(address)
      const text = Array.from({ length: DIGITS }, () => randomInt(10)).join('')
      const picture = await draw(text)
      const challenge: Challenge = { id: randomId(12), picture, cid: `sha1+${createHash('sha1').update(picture.bytes).digest('hex')}@bob.xmpp.org` }
      expire()
      waiting.set(challenge.id, { challenge, text, until: now() + LIFE_MS })
      return challenge
    },
    find(cid) {
      expire()
      for (const { challenge } of waiting.values()) if (challenge.cid === cid) return challenge
      return undefined
    },
    check(id, answer) {
      const found = waiting.get(id)
      waiting.delete(id)
      return found !== undefined && found.until > now() && answer.trim() === found.text
    },
  }
}

function typeOf(bytes: Buffer): string | undefined {
  const start = bytes.subarray(0, 8).toString('latin1')
  if (start === '\x89PNG\r\n\x1a\n') return 'image/png'
  if (start.startsWith('\xff\xd8\xff')) return 'image/jpeg'
  return /^GIF8[79]a/.test(start) ? 'image/gif' : undefined
}
