/** Records and history of a chat process, which the main process keeps. */
import { type ArchivedItem, type ArchivePage, type ArchiveQuery } from '../../storage/shapes.ts'
import { type HistoryChange, type HistoryEntry, type HistoryQueue, type HistoryStore, type RowStore, type UnitRow } from '../shapes.ts'
import { type Ask } from './membership.ts'
import { ASK, type KeyedRow, readItem, readKeyed, readList, readOptional, readPage, writeChanges, writeList, writeOptional, writeQuery, writeRows } from './messages.ts'

const ROWS_AT_ONCE = 1000
const CHANGES_AT_ONCE = 1000

export class LocalRowStore implements RowStore {
  readonly #ask: Ask

  constructor(ask: Ask) { this.#ask = ask }

  load(unit: string): Promise<readonly KeyedRow[]> { return this.#ask(ASK.recordsLoad, (body) => { body.text(unit) }, readKeyed) }

  async write(rows: readonly UnitRow[]): Promise<void> {
    for (const some of parts(rows, ROWS_AT_ONCE)) await this.#ask(ASK.recordsWrite, (body) => { writeRows(body, some) }, () => {})
  }

  units(prefix: string, after: string | undefined, limit: number): Promise<readonly string[]> {
    return this.#ask(ASK.recordsUnits, (body) => {
      body.text(prefix)
      writeOptional(body, after, (unit) => { body.text(unit) })
      body.double(limit)
    }, (body) => readList(body, () => body.text()))
  }

  async [Symbol.asyncDispose](): Promise<void> {}
}

/** Changes are told in order, and who was cut off tells none; so none is late, and their versions do not count. */
export class LocalHistoryStore implements HistoryStore {
  readonly #ask: Ask

  constructor(ask: Ask) { this.#ask = ask }

  async write(changes: readonly HistoryChange[]): Promise<void> {
    for (const some of parts(changes, CHANGES_AT_ONCE)) await this.#ask(ASK.historyWrite, (body) => { writeChanges(body, some) }, () => {})
  }

  query(owner: string, query: ArchiveQuery): Promise<ArchivePage> {
    return this.#ask(ASK.historyQuery, (body) => {
      body.text(owner)
      writeQuery(body, query)
    }, readPage)
  }

  count(owner: string, query: Omit<ArchiveQuery, 'max' | 'direction'>, limit: number): Promise<number> {
    return this.#ask(ASK.historyCount, (body) => {
      body.text(owner)
      writeQuery(body, { ...query, max: limit })
    }, (body) => body.double())
  }

  get(owner: string, id: string): Promise<ArchivedItem | undefined> {
    return this.#ask(ASK.historyGet, (body) => {
      body.text(owner)
      body.text(id)
    }, (body) => readOptional(body, () => readItem(body)))
  }

  purge(owner: string, before: number | undefined): Promise<void> {
    return this.#ask(ASK.historyPurge, (body) => {
      body.text(owner)
      writeOptional(body, before, (ms) => { body.double(ms) })
    }, () => {})
  }

  expire(before: number): Promise<number> { return this.#ask(ASK.historyExpire, (body) => { body.double(before) }, (body) => body.double()) }

  async [Symbol.asyncDispose](): Promise<void> {}
}

/** The main process takes history from the log: what is pushed, once it is committed, is in its store, but for removals that take their time. */
export class LocalQueue implements HistoryQueue {
  readonly #ask: Ask
  readonly bytes = 0
  readonly problem = undefined

  constructor(ask: Ask) { this.#ask = ask }

  async push(entries: readonly HistoryEntry[]): Promise<readonly undefined[]> {
    const owners = new Set<string>()
    for (const entry of entries) if ('purge' in entry) owners.add(entry.owner)
    if (owners.size > 0) await this.#ask(ASK.historyRemoved, (body) => { writeList(body, [...owners], (owner) => { body.text(owner) }) }, () => {})
    return entries.map(() => undefined)
  }

  room(): undefined { return undefined }
  async [Symbol.asyncDispose](): Promise<void> {}
}

function* parts<T>(list: readonly T[], size: number): Generator<readonly T[], undefined> {
  for (let at = 0; at < list.length; at += size) yield list.slice(at, at + size)
  return undefined
}
