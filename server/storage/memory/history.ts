/** Everybody's history in memory, for tests. */
import type { HistoryChange, HistoryStore } from '../../cluster/shapes.ts'
import { firstIdOf } from '../../../lib/stanza/ids.ts'
import { TailArchive } from '../archive/archive.ts'
import type { ArchivedItem, ArchivePage, ArchiveQuery } from '../shapes.ts'

export class MemoryHistory implements HistoryStore {
  readonly #archive = new TailArchive(() => Promise.resolve())
  /** By owner and id: the version of the last change, removals among them. */
  readonly #versions = new Map<string, Map<string, number>>()

  write(changes: readonly HistoryChange[]): Promise<void> {
    for (const { owner, id, with: other, bytes, version } of changes) {
      const versions = this.#versionsOf(owner)
      if ((versions.get(id) ?? -1) >= version) continue
      versions.set(id, version)
      if (bytes === undefined) this.#archive.delete(owner, id)
      else this.#archive.append({ id, bytes, owners: [{ owner, with: other }] })
    }
    return Promise.resolve()
  }

  #versionsOf(owner: string): Map<string, number> {
    const known = this.#versions.get(owner) ?? new Map<string, number>()
    this.#versions.set(owner, known)
    return known
  }

  query(owner: string, query: ArchiveQuery): Promise<ArchivePage> { return Promise.resolve(this.#archive.query(owner, query)) }

  count(owner: string, query: Omit<ArchiveQuery, 'max' | 'direction'>, limit: number): Promise<number> {
    return Promise.resolve(this.#archive.count(owner, query, limit))
  }

  get(owner: string, id: string): Promise<ArchivedItem | undefined> { return Promise.resolve(this.#archive.get(owner, id)) }

  purge(owner: string, before: number | undefined, version: number): Promise<void> {
    for (const [id, written] of this.#versionsOf(owner)) {
      if (written < version && (before === undefined || id < firstIdOf(before))) this.#archive.delete(owner, id)
    }
    return Promise.resolve()
  }

  async expire(before: number): Promise<number> {
    return await this.#archive.expire(before)
  }

  [Symbol.asyncDispose](): Promise<void> { return Promise.resolve() }
}
