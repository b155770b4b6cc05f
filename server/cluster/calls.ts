/**
 * Questions to the homes of units, with answers: what another node must do or knows. A question is asked once; when its answer does not come in
 * time, what it was to do may have been done. Where there is one node it is answered there, in the turn in which it is asked.
 */
import { StanzaError, type StanzaErrorCondition, type StanzaErrorType } from '../../lib/stanza/errors.ts'
import { AccountError, type AccountProblem } from '../accounts/accounts.ts'
import type { HomeCalls } from '../extensions/extension.ts'
import type { Log } from '../log.ts'
import { packValue, unpackValue } from '../storage/records.ts'
import type { MaybePromise, Value } from '../storage/shapes.ts'
import type { Frame } from './frames.ts'
import type { Homes } from './homes.ts'
import type { NodeInfo } from './shapes.ts'

/** Answers a question about a unit whose home this node is; the unit is empty when the node itself was asked. An error that it throws goes to who asks. */
export type Answer = (unit: string, args: Value) => MaybePromise<Value | undefined>

export interface CallsParts {
  /** Undefined where there is one node. */
  readonly homes: () => Homes | undefined
  /** The nodes that answer for themselves. */
  readonly nodes: () => readonly Pick<NodeInfo, 'inc' | 'leaving'>[]
  readonly log: Log
}

const TIMEOUT_MS = 10_000
/** Questions of this node that wait for their answers. */
const PENDING_MAX = 20_000

interface Pending {
  readonly resolve: (answer: Value) => void
  readonly reject: (error: Error) => void
  readonly timer: NodeJS.Timeout
}

export class Calls {
  readonly #parts: CallsParts
  readonly #answers = new Map<string, Answer>()
  readonly #pending = new Map<string, Pending>()
  #asked = 0

  constructor(parts: CallsParts) {
    this.#parts = parts
  }

  get alone(): boolean { return this.#parts.homes() === undefined }
  /** This node, by its incarnation; empty where there is one. */
  get self(): string { return this.#parts.homes()?.inc ?? '' }
  /** The nodes that are not about to leave. */
  get staying(): readonly string[] { return this.#parts.nodes().filter(({ leaving }) => !leaving).map(({ inc }) => inc) }

  /** Answers questions of this name until the function that this answers is called. */
  serve(name: string, answer: Answer): () => void {
    this.#answers.set(name, answer)
    return () => { if (this.#answers.get(name) === answer) this.#answers.delete(name) }
  }

  /**
   * Asks the home of a unit, which gets one if it has none. Rejects with the StanzaError or AccountError that was thrown there; with `remote-server-timeout` when no
   * answer has come, and `resource-constraint` when too many questions wait.
   */
  ask(unit: string, name: string, args: Value = null, timeoutMs = TIMEOUT_MS): Promise<Value> {
    const homes = this.#parts.homes()
    if (homes === undefined || homes.here(unit)) return this.#answer(unit, name, args)
    return this.#send(timeoutMs, (number) => { homes.send({ kind: 'ask', unit, list: [homes.inc, number, name], stanza: packValue(args) }) })
  }

  /** Asks all nodes, this one among them; those that do not answer in time, or not to the question, are left out. */
  async askNodes(name: string, args: Value = null, timeoutMs = TIMEOUT_MS): Promise<readonly Value[]> {
    const homes = this.#parts.homes()
    if (homes === undefined) return [await this.#answer('', name, args)]
    const answers = await Promise.all(this.#parts.nodes().map(({ inc }) => this.#askNode(homes, inc, name, args, timeoutMs).catch((error: unknown) => {
      this.#parts.log.warn({ what: 'node_did_not_answer', node: inc, question: name, error })
      return undefined
    })))
    return answers.filter((answer) => answer !== undefined)
  }

  #askNode(homes: Homes, inc: string, name: string, args: Value, timeoutMs: number): Promise<Value> {
    if (inc === homes.inc) return this.#answer('', name, args)
    return this.#send(timeoutMs, (number) => { homes.sendTo(inc, { kind: 'ask', list: [homes.inc, number, name], stanza: packValue(args) }) })
  }

  /** A question of another node, or its answer to one of this node's. */
  arrived(frame: Frame): void {
    if (frame.kind === 'ask') void this.#reply(frame)
    else this.#answered(frame)
  }

  /** What waits is not answered any more. */
  close(): void {
    for (const { reject, timer } of this.#pending.values()) {
      clearTimeout(timer)
      reject(new StanzaError('remote-server-timeout', 'this node is stopping'))
    }
    this.#pending.clear()
  }

  #send(timeoutMs: number, send: (number: string) => void): Promise<Value> {
    if (this.#pending.size >= PENDING_MAX) return Promise.reject(new StanzaError('resource-constraint', 'Too much is being asked of other nodes at the moment'))
    const number = String(++this.#asked)
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#pending.delete(number)
        reject(new StanzaError('remote-server-timeout', 'another node of this server does not answer'))
      }, timeoutMs)
      timer.unref()
      this.#pending.set(number, { resolve, reject, timer })
      send(number)
    })
  }

  async #answer(unit: string, name: string, args: Value): Promise<Value> {
    const answer = this.#answers.get(name)
    if (answer === undefined) throw new StanzaError('service-unavailable', 'not served at this node')
    return (await answer(unit, args)) ?? null
  }

  async #reply({ unit, list: [asker = '', number = '', name = ''], stanza }: Frame): Promise<void> {
    const homes = this.#parts.homes()
    try {
      const answer = packValue(await this.#answer(unit, name, unpackValue(stanza)))
      homes?.sendTo(asker, { kind: 'answer', list: [number], stanza: answer })
    } catch (error) {
      if (!(error instanceof StanzaError) && !(error instanceof AccountError)) this.#parts.log.error({ what: 'question_failed', unit, question: name, error })
      homes?.sendTo(asker, { kind: 'answer', list: [number], stanza: packValue(problemOf(error)), volatile: true })
    }
  }

  #answered({ list: [number = ''], stanza, volatile: isProblem }: Frame): void {
    const pending = this.#pending.get(number)
    if (pending === undefined) return
    this.#pending.delete(number)
    clearTimeout(pending.timer)
    const value = unpackValue(stanza)
    if (isProblem) pending.reject(errorOf(value as unknown as Problem))
    else pending.resolve(value)
  }
}

/** The questions of one host; what is served ends with `stop`. */
export function callsOf(calls: Calls, host: string, stop: (end: () => void) => void): HomeCalls {
  const nameOf = (name: string): string => `${host} ${name}`
  return {
    get alone() { return calls.alone },
    get self() { return calls.self },
    get staying() { return calls.staying },
    serve(name, answer) { stop(calls.serve(nameOf(name), answer)) },
    ask: (unit, name, args) => calls.ask(unit, nameOf(name), args),
    askNodes: (name, args) => calls.askNodes(nameOf(name), args),
  }
}

/** An error on its way to another node. */
interface Problem {
  readonly [key: string]: Value | undefined
  readonly kind: 'stanza' | 'account' | 'defect'
  readonly condition: string
  readonly text?: string | undefined
  readonly type?: string
  readonly extra?: string | undefined
}

function problemOf(error: unknown): Problem {
  if (error instanceof StanzaError) return { kind: 'stanza', condition: error.condition, text: error.text, type: error.type, extra: error.extra }
  if (error instanceof AccountError) return { kind: 'account', condition: error.condition, text: error.message }
  return { kind: 'defect', condition: 'internal-server-error' }
}

function errorOf({ kind, condition, text, type, extra }: Problem): Error {
  if (kind === 'account') return new AccountError(condition as AccountProblem, text)
  return new StanzaError(condition as StanzaErrorCondition, text ?? undefined, { ...(type === undefined ? {} : { type: type as StanzaErrorType }), ...(extra === undefined || extra === null ? {} : { extra }) })
}
