/** Dispatch of IQs to their handlers, and IQs of the server's own (RFC 6120 §8.2.3). */
import { Jid } from '../../lib/jid.ts'
import { StanzaError } from '../../lib/stanza/errors.ts'
import { errorReply, iqResult, type Stanza } from '../../lib/stanza/stanza.ts'
import { randomId } from '../../lib/stanza/ids.ts'
import type { IqHandler, IqRegistry, IqTarget } from '../extensions/extension.ts'
import type { Log } from '../log.ts'
import type { Session } from '../sessions/session.ts'

const PENDING_MAX = 100_000

/** IQs that the server has sent and that wait for an answer; one for all hosts. */
export class PendingIqs {
  readonly #pending = new Map<string, { to: string; resolve: (answer: Stanza | undefined) => void; timer: NodeJS.Timeout }>()
  readonly #route: (stanza: Stanza) => void

  /** Ends the ids of its IQs: one node tells by it which other one has asked. */
  suffix = ''

  constructor(route: (stanza: Stanza) => void) {
    this.#route = route
  }

  request(stanza: Stanza, timeoutMs: number): Promise<Stanza | undefined> {
    const id = randomId(9) + this.suffix
    if (this.#pending.size >= PENDING_MAX) return Promise.resolve(undefined)
    return new Promise((resolve) => {
      const timer = setTimeout(() => {
        this.#pending.delete(id)
        resolve(undefined)
      }, timeoutMs)
      timer.unref()
      this.#pending.set(id, { to: stanza.to ?? '', resolve, timer })
      this.#route(stanza.withAttrs({ id }))
    })
  }

  /** Whether a result or error answers one of ours. */
  answered(answer: Stanza): boolean {
    const pending = answer.id === undefined ? undefined : this.#pending.get(answer.id)
    // Only the entity that was asked may answer.
    if (pending === undefined || pending.to !== answer.from) return false
    this.#pending.delete(answer.id as string)
    clearTimeout(pending.timer)
    pending.resolve(answer)
    return true
  }

  close(): void {
    for (const { timer, resolve } of this.#pending.values()) {
      clearTimeout(timer)
      resolve(undefined)
    }
    this.#pending.clear()
  }
}

export class IqDispatcher implements IqRegistry {
  readonly #handlers = new Map<string, IqHandler>()
  readonly #diverting: ((stanza: Stanza, from: Jid) => boolean)[] = []
  readonly #pending: PendingIqs
  readonly #log: Log

  constructor(pending: PendingIqs, log: Log) {
    this.#pending = pending
    this.#log = log
  }

  get(payload: string, target: IqTarget | readonly IqTarget[], handler: IqHandler): void {
    this.#add('get', payload, target, handler)
  }

  set(payload: string, target: IqTarget | readonly IqTarget[], handler: IqHandler): void {
    this.#add('set', payload, target, handler)
  }

  divert(handler: (stanza: Stanza, from: Jid) => boolean): void { this.#diverting.push(handler) }

  request(stanza: Stanza, timeoutMs: number): Promise<Stanza | undefined> {
    return this.#pending.request(stanza, timeoutMs)
  }

  #add(type: string, payload: string, target: IqTarget | readonly IqTarget[], handler: IqHandler): void {
    for (const each of typeof target === 'string' ? [target] : target) {
      const key = `${type} ${each} ${payload}`
      if (this.#handlers.has(key)) throw new Error(`two handlers for ${key}`)
      this.#handlers.set(key, handler)
    }
  }

  /** Answers an IQ of type get or set; undefined when somebody else answers it. */
  dispatch(stanza: Stanza, from: Jid, to: Jid, target: IqTarget, session: Session | undefined): Stanza | Promise<Stanza> | undefined {
    const child = stanza.children[0]
    // RFC 6120 §8.2.3: exactly one child.
    if (child === undefined || stanza.children.length !== 1) return errorReply(stanza, new StanzaError('bad-request', 'an IQ of type get or set has exactly one child'))
    if (target !== 'nobody' && this.#diverting.some((divert) => divert(stanza, from))) return undefined
    const handler = this.#handlers.get(`${stanza.type} ${target} ${child.xmlns} ${child.name}`)
    if (handler === undefined) {
      // A payload that is known but not with this type is a different mistake from one that is not known (RFC 6120 §8.4).
      const other = this.#handlers.has(`${stanza.type === 'get' ? 'set' : 'get'} ${target} ${child.xmlns} ${child.name}`)
      return errorReply(stanza, new StanzaError(other && (target === 'host' || from.bare === to.bare) ? 'feature-not-implemented' : 'service-unavailable'))
    }
    try {
      const result = handler({ stanza, payload: stanza.childElement(child), from, to, session })
      if (result instanceof Promise) return result.then((element) => iqResult(stanza, element ?? undefined), (error: unknown) => this.#failed(stanza, error))
      return iqResult(stanza, result ?? undefined)
    } catch (error) {
      return this.#failed(stanza, error)
    }
  }

  #failed(stanza: Stanza, error: unknown): Stanza {
    if (error instanceof StanzaError) return errorReply(stanza, error)
    this.#log.error({ what: 'iq_failed', id: stanza.id, from: stanza.from, payload: stanza.children[0]?.xmlns, error })
    return errorReply(stanza, new StanzaError('internal-server-error'))
  }
}
