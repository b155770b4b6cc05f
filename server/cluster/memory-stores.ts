/** Stores of records and history in memory, for tests. */
import { TailArchive } from '../storage/archive/archive.ts'
import { type ArchivedItem, type ArchivePage, type ArchiveQuery } from '../storage/shapes.ts'
import { firstIdOf } from '../../lib/stanza/ids.ts'
import { type HistoryChange, type HistoryStore, type RowStore, type UnitRow } from './shapes.ts'

export class MemoryRowStore implements RowStore {
  readonly #units = new Map<string, Map<string, { readonly value: Buffer | undefined; readonly version: number }>>()

  async load(unit: string): Promise<readonly { readonly key: string; readonly value: Buffer }[]> {
    const rows: { key: string; value: Buffer }[] = []
    for (const [key, { value }] of this.#units.get(unit) ?? []) if (value) rows.push({ key, value: Buffer.from(value) })
    return rows.sort((a, b) => (a.key < b.key ? -1 : 1))
  }

  async write(rows: readonly UnitRow[]): Promise<void> {
    for (const { unit, key, value, version } of rows) {
      let known = this.#units.get(unit)
      if (!known) this.#units.set(unit, known = new Map())
      if ((known.get(key)?.version ?? 0) <= version) known.set(key, { value: value && Buffer.from(value), version })
    }
  }

  async units(prefix: string, after: string | undefined, limit: number): Promise<readonly string[]> {
    const inOrder = (a: string, b: string): number => Buffer.compare(Buffer.from(a), Buffer.from(b))
    const found: string[] = []
    for (const [unit, rows] of this.#units) {
      if (unit.startsWith(prefix) && (after === undefined || inOrder(unit, after) > 0) && [...rows.values()].some((row) => row.value)) found.push(unit)
    }
    return found.sort(inOrder).slice(0, limit)
  }

  async [Symbol.asyncDispose](): Promise<void> {}
}

interface Purged {
  readonly before: string | undefined
  readonly version: number
}

export class MemoryHistoryStore implements HistoryStore {
  readonly #archive = new TailArchive(() => new Promise((resolve) => { setTimeout(resolve, 1) }))
  readonly #versions = new Map<string, Map<string, number>>()
  readonly #purged = new Map<string, Purged[]>()

  async write(changes: readonly HistoryChange[]): Promise<void> {
    for (const { owner, id, with: other, bytes, version } of changes) {
      const versions = this.#versionsOf(owner)
      if ((versions.get(id) ?? 0) >= version) continue
      if (this.#purged.get(owner)?.some((purged) => purged.version > version && (purged.before === undefined || id < purged.before)) === true) continue
      versions.set(id, version)
      if (bytes) this.#archive.append({ id, bytes: Buffer.from(bytes), owners: [{ owner, with: other }] })
      else this.#archive.delete(owner, id)
    }
  }

  async query(owner: string, query: ArchiveQuery): Promise<ArchivePage> { return this.#archive.query(owner, query) }
  async count(owner: string, query: Omit<ArchiveQuery, 'max' | 'direction'>, limit: number): Promise<number> { return this.#archive.count(owner, query, limit) }
  async get(owner: string, id: string): Promise<ArchivedItem | undefined> { return this.#archive.get(owner, id) }

  async purge(owner: string, before: number | undefined, version: number): Promise<void> {
    const high = before === undefined ? undefined : firstIdOf(before)
    const list = this.#purged.get(owner) ?? []
    list.push({ before: high, version })
    this.#purged.set(owner, list)
    for (const [id, written] of this.#versionsOf(owner)) if (written < version && (high === undefined || id < high)) this.#archive.delete(owner, id)
  }

  async expire(before: number): Promise<number> { return await this.#archive.expire(before) }
  async [Symbol.asyncDispose](): Promise<void> {}

  #versionsOf(owner: string): Map<string, number> {
    let versions = this.#versions.get(owner)
    if (!versions) this.#versions.set(owner, versions = new Map())
    return versions
  }
}
