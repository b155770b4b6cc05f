/**
 * Brings everything that a server alone has stored into a cluster, through a node of it: what is written goes the way that everything goes there.
 * It may be begun again after it was interrupted: what is there already is written once more. The old data stay as they are.
 */
import { StorageError } from '../storage/errors.ts'
import { decodePart, encodePart, isShortened, KEY_END, type OrderedStore } from '../storage/ordered.ts'
import { recordOf } from '../storage/records.ts'
import { type Archive, type Blobs, type OfflineQueue, type Storage, type StreamStore } from '../storage/shapes.ts'
import { placedRows } from './records.ts'
import { type Units } from './shapes.ts'

/** What is to be brought: the storage of a server alone, that nobody else uses. */
export interface Source {
  readonly rows: OrderedStore
  readonly archive: Archive
  readonly offline: Pick<OfflineQueue, 'list'>
  readonly streams: Pick<StreamStore, 'load'>
  readonly blobs: Pick<Blobs, 'get' | 'stat'>
}

/** A node that nobody is sent to. */
export interface Target {
  readonly storage: Storage
  readonly units: Units
  /** Files go there when it is set; otherwise they stay where they are. */
  readonly blobs: Pick<Blobs, 'put' | 'stat'> | undefined
}

export interface Migrated {
  records: number
  /** Items of history, counted once for each owner. */
  history: number
  offline: number
  streams: number
  files: number
}

/** Says that a host has been brought, or is being brought: key [host], value 'begun' or 'done'. */
export const MIGRATIONS = 'migrations'

const UPLOADS = 'uploads'
const ROWS_AT_ONCE = 256
const ITEMS_AT_ONCE = 256
const OWNERS_AT_ONCE = 16

/**
 * Brings it all. `hosts`: those of the configuration. Throws a StorageError when other nodes are there, which would serve what is half there, or when
 * the cluster has been brought something already, or has accounts of these hosts that come from somewhere else (`hasAccounts`).
 */
export async function migrate(from: Source, to: Target, hosts: readonly string[], hasAccounts: (host: string) => Promise<boolean>): Promise<Migrated> {
  const others = to.units.nodes.filter(({ inc }) => inc !== to.units.inc)
  if (others.length > 0) throw new StorageError(`stop the other nodes first: ${others.map(({ name }) => name).join(', ')}`)
  for (const host of hosts) await begin(to, host, hasAccounts)
  const migrated: Migrated = { records: 0, history: 0, offline: 0, streams: 0, files: 0 }
  await new Migration(from, to, migrated).run()
  // In one group: whoever begins again finds all of them done, or none.
  await withUnits(to, hosts, () => { for (const host of hosts) to.storage.records.put(MIGRATIONS, [host], 'done') })
  return migrated
}

async function begin(to: Target, host: string, hasAccounts: (host: string) => Promise<boolean>): Promise<void> {
  const state = await withUnits(to, [host], () => to.storage.records.get(MIGRATIONS, [host]))
  if (state === 'done') throw new StorageError(`${host} has been brought into this cluster already`)
  if (state === undefined && await hasAccounts(host)) throw new StorageError(`this cluster has accounts of ${host} already`)
  await withUnits(to, [host], () => { to.storage.records.put(MIGRATIONS, [host], 'begun') })
}

/** Runs with all these units here, and resolves once what it has written is safe. */
async function withUnits<Result>({ units, storage }: Target, names: Iterable<string>, run: () => Result | Promise<Result>): Promise<Result> {
  const pins: (() => void)[] = []
  try {
    await Promise.all(Array.from(new Set(names), async (name) => {
      const inc = await units.claim(name)
      if (inc !== units.inc) throw new StorageError(`another node has ${name}`)
      pins.push(units.pin(name))
    }))
    const result = await run()
    await storage.committed()
    return result
  } finally {
    for (const unpin of pins) unpin()
  }
}

class Migration {
  readonly #from: Source
  readonly #to: Target
  readonly #migrated: Migrated
  /** Names that are shortened in keys. */
  readonly #long = new Map<string, string>()

  constructor(from: Source, to: Target, migrated: Migrated) {
    this.#from = from
    this.#to = to
    this.#migrated = migrated
  }

  async run(): Promise<void> {
    await this.#records()
    // Who has stanzas waiting or a history, and who has none of records, is not an account any more: it is brought all the same.
    await this.#histories()
    await this.#offline()
    await this.#streams()
  }

  async #records(): Promise<void> {
    const { rows } = this.#from
    for (let start = 'r'; ;) {
      const keys = rows.keys(start, `r${KEY_END}`, ROWS_AT_ONCE, false)
      const records = keys.map((key) => recordOf(key, rows.get(key) as Buffer))
      const placed = records.flatMap(({ table, key, value }) => placedRows(table, key, value))
      for (const { unit } of placed) this.#note(unit)
      await withUnits(this.#to, placed.map(({ unit }) => unit), () => {
        for (const { table, key, value } of placed) this.#to.storage.records.put(table, key, value)
      })
      this.#migrated.records += records.length
      for (const { table, key } of records) if (table === UPLOADS) await this.#file(key[1] as string)
      const last = keys.at(-1)
      if (last === undefined || keys.length < ROWS_AT_ONCE) return
      start = `${last}\0`
    }
  }

  #note(unit: string): void {
    const part = encodePart(unit)
    if (isShortened(part)) this.#long.set(part, unit)
  }

  async #file(name: string): Promise<void> {
    const { blobs } = this.#to
    if (blobs === undefined || (await blobs.stat(name)) !== undefined) return
    const [found, about] = await Promise.all([this.#from.blobs.get(name), this.#from.blobs.stat(name)])
    // A slot that nobody has used has no file.
    if (found === undefined) return
    await blobs.put(name, found.size, found.body, about?.type)
    this.#migrated.files++
  }

  async #histories(): Promise<void> {
    for (let owners: string[] = [], after = 'b'; ; ) {
      const next = this.#ownerAfter(after)
      if (next !== undefined) owners.push(next.owner)
      if (owners.length === OWNERS_AT_ONCE || next === undefined) {
        await Promise.all(owners.map((owner) => withUnits(this.#to, [owner], () => this.#history(owner))))
        owners = []
      }
      if (next === undefined) return
      after = next.end
    }
  }

  /** Who has the next rows, and where they end. */
  #ownerAfter(after: string): { readonly owner: string; readonly end: string } | undefined {
    const [key] = this.#from.rows.keys(after, `${after[0] as string}${KEY_END}`, 1, false)
    if (key === undefined) return undefined
    const part = key.slice(1, key.indexOf('\0') + 1)
    return { owner: this.#nameOf(part), end: `${key[0] as string}${part}${KEY_END}` }
  }

  #nameOf(part: string): string {
    if (!isShortened(part)) return decodePart(part.slice(0, -1))
    const name = this.#long.get(part)
    if (name === undefined) throw new StorageError(`rows of somebody who has no account: ${JSON.stringify(part.slice(0, 100))}`)
    return name
  }

  async #history(owner: string): Promise<void> {
    const { storage } = this.#to
    for (let afterId: string | undefined; ;) {
      const { items, complete } = await this.#from.archive.query(owner, { max: ITEMS_AT_ONCE, direction: 'forward', ...(afterId === undefined ? {} : { afterId }) })
      for (const { id, with: other, bytes } of items) storage.archive.append({ id, bytes, owners: [{ owner, with: other }] })
      this.#migrated.history += items.length
      await storage.committed()
      afterId = items.at(-1)?.id
      if (complete || afterId === undefined) return
    }
  }

  async #offline(): Promise<void> {
    for (let next = this.#ownerAfter('o'); next !== undefined; next = this.#ownerAfter(next.end)) {
      const { owner } = next
      await withUnits(this.#to, [owner], async () => {
        for (let after: string | undefined; ;) {
          const entries = await this.#from.offline.list(owner, ITEMS_AT_ONCE, after)
          for (const entry of entries) this.#to.storage.offline.push(owner, entry)
          this.#migrated.offline += entries.length
          if (entries.length < ITEMS_AT_ONCE) return
          after = entries.at(-1)?.id
          await this.#to.storage.committed()
        }
      })
    }
  }

  async #streams(): Promise<void> {
    const { streams } = this.#to.storage
    for (const { id, owner, resource, state, handled, acknowledged, unacknowledged } of await this.#from.streams.load()) {
      await withUnits(this.#to, [owner], () => {
        streams.open(id, owner, resource, state)
        streams.handled(id, handled)
        streams.acknowledged(id, acknowledged)
        for (const { seq, bytes } of unacknowledged) streams.push(id, seq, bytes)
      })
      this.#migrated.streams++
    }
  }
}
