/**
 * What must be on stable storage before anybody sees it waits here for the commit. Everything of one turn of the event loop
 * shares one ticket, as it shares one group of the storage.
 */
import type { Storage } from '../storage/shapes.ts'

export interface GateWaiter {
  /** Everything that carries this ticket or an earlier one is on stable storage. */
  released(ticket: number): void
}

export class Gate {
  readonly #storage: Storage
  #ticket = 0
  #open = false
  #waiting: GateWaiter[] = []

  constructor(storage: Storage) {
    this.#storage = storage
  }

  /** The ticket of this turn. `waiter` is told once when its group is committed. */
  wait(waiter: GateWaiter): number {
    if (!this.#open) {
      this.#open = true
      const ticket = ++this.#ticket
      const waiting: GateWaiter[] = []
      this.#waiting = waiting
      this.#storage.afterCommit(() => {
        // A commit may come before the turn is over; what comes after it needs a ticket of its own.
        if (this.#ticket === ticket) this.#open = false
        for (const each of waiting) each.released(ticket)
      })
      setImmediate(() => {
        if (this.#ticket === ticket) this.#open = false
      })
    }
    this.#waiting.push(waiter)
    return this.#ticket
  }
}
