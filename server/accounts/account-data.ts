/**
 * What the accounts of a host have, in the words of XEP-0227: each extension writes and reads what it keeps, as children of `<user/>`.
 * The files are made and read in server/admin/piefxis.ts.
 */
import type { Element } from '../../lib/xml/element.ts'

export interface AccountData {
  /** What is kept of an account (a bare JID), serialised piece by piece; the pieces together are whole elements. */
  exports(write: (owner: string) => Iterable<string> | AsyncIterable<string>): void
  /**
   * Takes an element with its namespace and name (`vcard-temp vCard`) back in. Long lists (`<archive/>`, `<offline-messages/>`) come in
   * several elements, a part of their children in each. Throw an error to have it skipped and reported.
   */
  imports(payload: string, read: (owner: string, element: Element) => void | Promise<void>): void
  /** All that is kept of an account, by all extensions. */
  write(owner: string): AsyncIterable<string>
}

export class HostAccountData implements AccountData {
  readonly #writers: ((owner: string) => Iterable<string> | AsyncIterable<string>)[] = []
  readonly #readers = new Map<string, (owner: string, element: Element) => void | Promise<void>>()

  exports(write: (owner: string) => Iterable<string> | AsyncIterable<string>): void { this.#writers.push(write) }
  imports(payload: string, read: (owner: string, element: Element) => void | Promise<void>): void { this.#readers.set(payload, read) }

  async *write(owner: string): AsyncGenerator<string> {
    for (const write of this.#writers) yield* write(owner)
  }

  /** Whether anybody knows such an element. */
  async read(owner: string, element: Element): Promise<boolean> {
    const read = this.#readers.get(`${element.getNS() ?? ''} ${element.getName()}`)
    if (read === undefined) return false
    await read(owner, element)
    return true
  }
}
