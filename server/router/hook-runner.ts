/** Keeps the handlers of one host's hooks and runs them, in the order in which they were added. */
import type { Jid } from '../../lib/jid.ts'
import type { Element } from '../../lib/xml/element.ts'
import type { Stanza } from '../../lib/stanza/stanza.ts'
import type { Session, Taken } from '../sessions/session.ts'
import type { Delivery, Hooks, WhileInactive } from './hooks.ts'

type Handler = (delivery: Delivery) => void

export class HookRunner implements Hooks {
  readonly #checkOutgoing: Handler[] = []
  readonly #checkIncoming: Handler[] = []
  readonly #checkBroadcast: ((from: Jid, to: Jid) => boolean)[] = []
  readonly #stampOutgoing: Handler[] = []
  readonly #stampIncoming: Handler[] = []
  readonly #store: Handler[] = []
  readonly #copy: Handler[] = []
  readonly #safeguard: ((delivery: Delivery) => Taken | undefined)[] = []
  readonly #copied: ((delivery: Delivery, session: Session) => boolean)[] = []
  readonly #undeliverable: ((delivery: Delivery) => boolean)[] = []
  readonly #toHost: ((delivery: Delivery) => boolean)[] = []
  readonly #whileInactive: ((session: Session, stanza: Stanza) => WhileInactive | undefined)[] = []
  readonly #waiting: ((owner: string, stanza: Stanza, id: string | undefined, session: Session | undefined) => void)[] = []
  readonly #bound: ((session: Session) => void)[] = []
  readonly #available: ((session: Session, presence: Stanza, first: boolean) => void)[] = []
  readonly #unavailable: ((session: Session) => void)[] = []
  readonly #detached: ((session: Session) => void)[] = []
  readonly #resumed: ((session: Session, restarted: boolean) => void)[] = []
  readonly #closed: ((session: Session) => void)[] = []
  readonly #started: (() => void)[] = []
  readonly #stopping: (() => void)[] = []
  readonly #missed: ((owner: string, stanza: Stanza, sentTo: (session: Session) => boolean) => void)[] = []
  readonly #moderated: ((author: string, message: Stanza) => void | Promise<void>)[] = []
  readonly #vcardRead: ((owner: string, asker: Jid, vcard: Element) => void)[] = []
  readonly #vcardWriting: ((owner: string, vcard: Element) => Promise<void> | undefined)[] = []
  readonly #vcardWritten: ((owner: string, vcard: Element, before: Element | undefined) => void)[] = []
  readonly #privateWritten: ((owner: string, element: Element) => void)[] = []
  readonly #blocked: ((owner: string, jid: string, item: Element) => void)[] = []
  readonly #removed: ((bareJid: string) => void | Promise<void>)[] = []
  readonly #passwordChanged: ((bareJid: string) => void)[] = []
  readonly #registered: ((bareJid: string) => void | Promise<void>)[] = []
  readonly #componentConnected: ((domain: string, tell: ((stanza: Stanza) => void) | undefined) => void)[] = []
  readonly #managesRoster: ((owner: string, manager: Jid, type: 'get' | 'set') => boolean)[] = []
  readonly #released: ((units: ReadonlySet<string>) => void)[] = []
  readonly #came: ((unit: string) => void)[] = []
  readonly #nodesLost: ((wasThere: (unit: string) => boolean) => void)[] = []
  readonly #told: ((unit: string, words: readonly string[]) => void)[] = []

  checkOutgoing(handler: Handler): void { this.#checkOutgoing.push(handler) }
  checkIncoming(handler: Handler): void { this.#checkIncoming.push(handler) }
  checkBroadcast(handler: (from: Jid, to: Jid) => boolean): void { this.#checkBroadcast.push(handler) }
  stampOutgoing(handler: Handler): void { this.#stampOutgoing.push(handler) }
  stampIncoming(handler: Handler): void { this.#stampIncoming.push(handler) }
  store(handler: Handler): void { this.#store.push(handler) }
  copy(handler: Handler): void { this.#copy.push(handler) }
  safeguard(handler: (delivery: Delivery) => Taken | undefined): void { this.#safeguard.push(handler) }
  copied(handler: (delivery: Delivery, session: Session) => boolean): void { this.#copied.push(handler) }
  undeliverable(handler: (delivery: Delivery) => boolean): void { this.#undeliverable.push(handler) }
  toHost(handler: (delivery: Delivery) => boolean): void { this.#toHost.push(handler) }
  whileInactive(handler: (session: Session, stanza: Stanza) => WhileInactive | undefined): void { this.#whileInactive.push(handler) }
  waiting(handler: (owner: string, stanza: Stanza, id: string | undefined, session: Session | undefined) => void): void { this.#waiting.push(handler) }
  bound(handler: (session: Session) => void): void { this.#bound.push(handler) }
  available(handler: (session: Session, presence: Stanza, first: boolean) => void): void { this.#available.push(handler) }
  unavailable(handler: (session: Session) => void): void { this.#unavailable.push(handler) }
  detached(handler: (session: Session) => void): void { this.#detached.push(handler) }
  resumed(handler: (session: Session, restarted: boolean) => void): void { this.#resumed.push(handler) }
  closed(handler: (session: Session) => void): void { this.#closed.push(handler) }
  started(handler: () => void): void { this.#started.push(handler) }
  stopping(handler: () => void): void { this.#stopping.push(handler) }
  missed(handler: (owner: string, stanza: Stanza, sentTo: (session: Session) => boolean) => void): void { this.#missed.push(handler) }
  moderated(handler: (author: string, message: Stanza) => void | Promise<void>): void { this.#moderated.push(handler) }
  vcardRead(handler: (owner: string, asker: Jid, vcard: Element) => void): void { this.#vcardRead.push(handler) }
  vcardWriting(handler: (owner: string, vcard: Element) => Promise<void> | undefined): void { this.#vcardWriting.push(handler) }
  vcardWritten(handler: (owner: string, vcard: Element, before: Element | undefined) => void): void { this.#vcardWritten.push(handler) }
  privateWritten(handler: (owner: string, element: Element) => void): void { this.#privateWritten.push(handler) }
  blocked(handler: (owner: string, jid: string, item: Element) => void): void { this.#blocked.push(handler) }
  accountRemoved(handler: (bareJid: string) => void | Promise<void>): void { this.#removed.push(handler) }
  passwordChanged(handler: (bareJid: string) => void): void { this.#passwordChanged.push(handler) }
  accountRegistered(handler: (bareJid: string) => void | Promise<void>): void { this.#registered.push(handler) }
  componentConnected(handler: (domain: string, tell: ((stanza: Stanza) => void) | undefined) => void): void { this.#componentConnected.push(handler) }
  managesRoster(handler: (owner: string, manager: Jid, type: 'get' | 'set') => boolean): void { this.#managesRoster.push(handler) }
  released(handler: (units: ReadonlySet<string>) => void): void { this.#released.push(handler) }
  came(handler: (unit: string) => void): void { this.#came.push(handler) }
  nodesLost(handler: (wasThere: (unit: string) => boolean) => void): void { this.#nodesLost.push(handler) }
  told(handler: (unit: string, words: readonly string[]) => void): void { this.#told.push(handler) }

  runComponentConnected(domain: string, tell?: (stanza: Stanza) => void): void { for (const handler of this.#componentConnected) handler(domain, tell) }
  runManagesRoster(owner: string, manager: Jid, type: 'get' | 'set'): boolean { return this.#managesRoster.some((handler) => handler(owner, manager, type)) }

  runOutgoing(delivery: Delivery): void {
    for (const handler of this.#checkOutgoing) handler(delivery)
    this.runStampOutgoing(delivery)
  }
  runStampOutgoing(delivery: Delivery): void { for (const handler of this.#stampOutgoing) handler(delivery) }
  runIncoming(delivery: Delivery): void {
    for (const handler of this.#checkIncoming) handler(delivery)
    for (const handler of this.#stampIncoming) handler(delivery)
  }
  runCheckIncoming(delivery: Delivery): void { for (const handler of this.#checkIncoming) handler(delivery) }
  runCheckBroadcast(from: Jid, to: Jid): boolean {
    for (const handler of this.#checkBroadcast) if (!handler(from, to)) return false
    return true
  }
  runStore(delivery: Delivery): void { for (const handler of this.#store) handler(delivery) }
  runCopy(delivery: Delivery): void { for (const handler of this.#copy) handler(delivery) }
  runSafeguard(delivery: Delivery): Taken | undefined {
    for (const handler of this.#safeguard) {
      const taken = handler(delivery)
      if (taken !== undefined) return taken
    }
    return undefined
  }
  runCopied(delivery: Delivery, session: Session): boolean {
    for (const handler of this.#copied) if (handler(delivery, session)) return true
    return false
  }
  runUndeliverable(delivery: Delivery): boolean {
    for (const handler of this.#undeliverable) if (handler(delivery)) return true
    return false
  }
  runToHost(delivery: Delivery): boolean {
    for (const handler of this.#toHost) if (handler(delivery)) return true
    return false
  }
  runWhileInactive(session: Session, stanza: Stanza): WhileInactive {
    for (const handler of this.#whileInactive) {
      const verdict = handler(session, stanza)
      if (verdict !== undefined) return verdict
    }
    return 'send'
  }
  runWaiting(owner: string, stanza: Stanza, id: string | undefined, session: Session | undefined): void {
    for (const handler of this.#waiting) handler(owner, stanza, id, session)
  }
  runBound(session: Session): void { for (const handler of this.#bound) handler(session) }
  runAvailable(session: Session, presence: Stanza, first: boolean): void { for (const handler of this.#available) handler(session, presence, first) }
  runUnavailable(session: Session): void { for (const handler of this.#unavailable) handler(session) }
  runDetached(session: Session): void { for (const handler of this.#detached) handler(session) }
  runResumed(session: Session, restarted = false): void { for (const handler of this.#resumed) handler(session, restarted) }
  runClosed(session: Session): void { for (const handler of this.#closed) handler(session) }
  runStarted(): void { for (const handler of this.#started) handler() }
  runStopping(): void { for (const handler of this.#stopping) handler() }
  get hasMissed(): boolean { return this.#missed.length > 0 }
  runMissed(owner: string, stanza: Stanza, sentTo: (session: Session) => boolean): void { for (const handler of this.#missed) handler(owner, stanza, sentTo) }
  async runModerated(author: string, message: Stanza): Promise<void> { for (const handler of this.#moderated) await handler(author, message) }
  runVcardRead(owner: string, asker: Jid, vcard: Element): void { for (const handler of this.#vcardRead) handler(owner, asker, vcard) }
  async runVcardWriting(owner: string, vcard: Element): Promise<void> { for (const handler of this.#vcardWriting) await handler(owner, vcard) }
  runVcardWritten(owner: string, vcard: Element, before: Element | undefined): void { for (const handler of this.#vcardWritten) handler(owner, vcard, before) }
  runPrivateWritten(owner: string, element: Element): void { for (const handler of this.#privateWritten) handler(owner, element) }
  runBlocked(owner: string, jid: string, item: Element): void { for (const handler of this.#blocked) handler(owner, jid, item) }
  async runAccountRemoved(bareJid: string): Promise<void> { for (const handler of this.#removed) await handler(bareJid) }
  runPasswordChanged(bareJid: string): void { for (const handler of this.#passwordChanged) handler(bareJid) }
  runReleased(units: ReadonlySet<string>): void { for (const handler of this.#released) handler(units) }
  runCame(unit: string): void { for (const handler of this.#came) handler(unit) }
  runNodesLost(wasThere: (unit: string) => boolean): void { for (const handler of this.#nodesLost) handler(wasThere) }
  runTold(unit: string, words: readonly string[]): void { for (const handler of this.#told) handler(unit, words) }
  async runAccountRegistered(bareJid: string): Promise<void> { for (const handler of this.#registered) await handler(bareJid) }
}
