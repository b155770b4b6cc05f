/** What accounts have (XEP-0227), read and written at any node: their homes do it, piece by piece. */
import { StanzaError } from '../../lib/stanza/errors.ts'
import { parseElement } from '../../lib/xml/build.ts'
import type { HostAccountData } from '../accounts/account-data.ts'
import type { Calls } from './calls.ts'

export type AnyAccountData = Pick<HostAccountData, 'write' | 'read'>

export interface AccountDataParts {
  readonly calls: Pick<Calls, 'serve' | 'ask'>
  /** Has an account live here; false when another node has it. */
  readonly claim: (bare: string) => Promise<boolean>
  /** Of an account of this node. */
  readonly of: (bare: string) => HostAccountData | undefined
}

const WRITE = 'account-data write'
const READ = 'account-data read'
/** Characters of one answer, unless one piece is longer. */
const ANSWER_LENGTH = 256 * 1024
/** Exports that other nodes read. */
const OPEN_MAX = 100
/** What is not read on for so long is given up, ms. */
const OPEN_MS = 60_000

interface Open {
  readonly pieces: AsyncIterator<string>
  timer: NodeJS.Timeout
}

export function accountDataAnywhere({ calls, claim, of }: AccountDataParts): AnyAccountData {
  const open = new Map<string, Open>()

  const dataOf = (bare: string): HostAccountData => {
    const data = of(bare)
    if (data === undefined) throw new StanzaError('item-not-found', `${bare} is of no host of this server`)
    return data
  }
  const giveUp = (number: string): void => {
    clearTimeout(open.get(number)?.timer)
    open.delete(number)
  }
  calls.serve(WRITE, async (bare, args) => {
    let number = args as string | null
    if (number === null) {
      if (open.size >= OPEN_MAX) throw new StanzaError('resource-constraint', 'Too many exports at the moment')
      number = crypto.randomUUID()
      open.set(number, { pieces: dataOf(bare).write(bare)[Symbol.asyncIterator](), timer: setTimeout(giveUp, OPEN_MS, number).unref() })
    }
    const reading = open.get(number)
    if (reading === undefined) throw new StanzaError('item-not-found', 'The export was given up')
    reading.timer.refresh()
    const pieces: string[] = []
    try {
      for (let length = 0; length < ANSWER_LENGTH;) {
        const next = await reading.pieces.next()
        if (next.done === true) {
          giveUp(number)
          return { pieces }
        }
        pieces.push(next.value)
        length += next.value.length
      }
    } catch (error) {
      giveUp(number)
      throw error
    }
    return { pieces, number }
  })
  calls.serve(READ, (bare, text) => dataOf(bare).read(bare, parseElement(text as string)))

  return {
    async *write(bare) {
      if (await claim(bare)) return yield* dataOf(bare).write(bare)
      for (let number: string | null = null; ;) {
        const answer = await calls.ask(bare, WRITE, number) as { readonly pieces: readonly string[]; readonly number?: string }
        yield* answer.pieces
        if (answer.number === undefined) return
        number = answer.number
      }
    },
    async read(bare, element) {
      if (await claim(bare)) return dataOf(bare).read(bare, element)
      return await calls.ask(bare, READ, element.toString()) as boolean
    },
  }
}
