/** Which avatars are converted, for whom, and in which order (ejabberd's options `convert` and `rate_limit`). */
import { Recent } from '../../../lib/recent.ts'
import { StanzaError } from '../../../lib/stanza/errors.ts'
import { imageInfo } from '../image-info.ts'
import { ConversionError, type Converter } from './converter.ts'
import { IMAGE_FORMATS, type ImageFormat } from './converter-work.ts'

const ACCOUNTS_MAX = 20_000
const MINUTE_MS = 60_000
/** Changes of one account's avatar that wait for those before them. */
const WAITING_MAX = 10

/** Target formats by source format, or `default` for all that are not named. */
export type ConversionRules = ReadonlyMap<string, ImageFormat>

export interface ConversionsOptions {
  readonly rules: ConversionRules
  /** Images of one account that are converted in a minute. */
  readonly perMinute: number
  readonly converter: Converter
  readonly now: () => number
  /** Keeps an account at this node until what this answers is called. */
  readonly pin: (owner: string) => () => void
}

export interface Conversions {
  /** Whether an image is to be converted. */
  concerns(image: Buffer): boolean
  /** Whether something of this account is under way, so that what comes now has to wait for it. */
  busy(owner: string): boolean
  /**
   * Changes of one account's avatar, one after another as they came: the next begins after the turn in which what awaits this has gone on.
   * Throws `resource-constraint` when too many wait, and when the account is removed meanwhile.
   */
  inTurn<Result>(owner: string, run: () => Promise<Result>): Promise<Result>
  /**
   * The image in the format that it is to have, which may be as it is. Throws `not-acceptable` for one that should be converted and cannot be,
   * `resource-constraint` when there are too many.
   */
  converted(owner: string, image: Buffer): Promise<Buffer>
  /** The account is gone. */
  forget(owner: string): void
}

interface Turns { last: Promise<unknown>; waiting: number; gone: boolean }

export function createConversions({ rules, perMinute, converter, now, pin }: ConversionsOptions): Conversions {
  const turns = new Map<string, Turns>()
  const counts = new Recent<{ since: number; count: number }>(ACCOUNTS_MAX)

  function target(image: Buffer): ImageFormat | undefined {
    const format = IMAGE_FORMATS.find((each) => `image/${each}` === imageInfo(image)?.type)
    if (format === undefined) return undefined
    const to = rules.get(format) ?? rules.get('default')
    return to === format ? undefined : to
  }

  function count(owner: string): void {
    let counted = counts.get(owner)
    if (counted === undefined || now() - counted.since >= MINUTE_MS) {
      counted = { since: now(), count: 0 }
      counts.set(owner, counted)
    }
    if (counted.count >= perMinute) throw new StanzaError('resource-constraint', `${perMinute} avatars are converted in a minute`)
    counted.count++
  }

  return {
    concerns: (image) => target(image) !== undefined,
    busy: (owner) => turns.has(owner),
    async inTurn(owner, run) {
      const mine = turns.get(owner) ?? { last: Promise.resolve(), waiting: 0, gone: false }
      if (mine.waiting >= WAITING_MAX) throw new StanzaError('resource-constraint', 'other avatars of this account are being converted')
      turns.set(owner, mine)
      const release = pin(owner)
      const before = mine.last
      let done: () => void = () => undefined
      mine.last = new Promise<void>((resolve) => { done = resolve })
      mine.waiting++
      try {
        await before
        const result = await run()
        if (mine.gone) throw new StanzaError('resource-constraint', 'the account is being removed')
        return result
      } finally {
        setImmediate(() => {
          mine.waiting--
          release()
          if (mine.waiting === 0 && turns.get(owner) === mine) turns.delete(owner)
          done()
        })
      }
    },
    async converted(owner, image) {
      const to = target(image)
      if (to === undefined) return image
      count(owner)
      try {
        return await converter.convert(image, to)
      } catch (error) {
        if (!(error instanceof ConversionError)) throw error
        if (error.why === 'missing') return image
        if (error.why === 'busy') throw new StanzaError('resource-constraint', 'too many avatars are being converted')
        throw new StanzaError('not-acceptable', 'the image cannot be converted')
      }
    },
    forget(owner) {
      const theirs = turns.get(owner)
      if (theirs === undefined) return
      theirs.gone = true
      turns.delete(owner)
    },
  }
}
