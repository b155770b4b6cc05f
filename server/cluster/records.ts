/**
 * The records of a node, for extensions that were written for one: of units that are elsewhere they read nothing. An index that another unit's
 * extensions write under a unit's key goes there as a frame. What any node may need of a host is asked of where it is. Secrets of hosts and services
 * are made from one of the whole cluster, so that all nodes have the same.
 */
import { createHmac } from 'node:crypto'
import { StanzaError } from '../../lib/stanza/errors.ts'
import { packValue, unpackValue } from '../storage/records.ts'
import type { Key, MaybePromise, RangeOptions, Records, Storage, Value } from '../storage/shapes.ts'
import type { Calls } from './calls.ts'
import type { Frame } from './frames.ts'
import { rangeOfSpread, SPREAD_TABLE, type SpreadRow, unitOfSpread } from './spread.ts'
import { RULES } from './unit-keys.ts'

/** Known to all nodes and nobody else; or what answers a secret of a table of secrets. */
export type Secret = Uint8Array | ((table: string, key: Key) => Value)

/** A secret of a host or service, the same at all nodes. */
export function derivedSecret(secret: Uint8Array, table: string, key: Key): Buffer {
  return createHmac('sha256', secret).update(JSON.stringify([table, ...key])).digest()
}

export interface NodeRecordsParts {
  readonly here: (unit: string) => boolean
  /** Has a unit live here; false when another node has it. */
  readonly claim: (unit: string) => Promise<boolean>
  readonly send: (frame: Pick<Frame, 'kind' | 'unit'> & Partial<Frame>) => void
  readonly calls: Pick<Calls, 'serve' | 'ask'>
  readonly secret: Secret
}

export const SECRETS = new Set(['account-secrets', 'muc-secrets'])
/** Kept under the key of a unit by the services and owners that it has to do with. */
const INDEXES = new Set(['muc-relations', 'pubsub_entities', 'pubsub_created', 'pubsub_bytes', 'pubsub_temporary'])
/** Read and written at any node, by those who wait for what they read. */
const ANYWHERE = new Set(['administrators', 'announcements', 'last-login', 'motd', 'uploads', 'welcome'])
/** Spread over units of their own (spread.ts). */
export const SPREAD = new Set(['upload-secrets', 'upload-ends', 'upload-times', 'vcard_index', 'muc-past'])
/** Rows under the key of an account that its host keeps: they lie in `hosted`, key [host, table, ...key]. */
export const HOSTED = new Set(['invites_by', 'invite_names'])
export const HOSTED_TABLE = 'hosted'
/** Of these only what lists show is; the rows are with their accounts and rooms. */
export const LISTED: ReadonlyMap<string, (row: Value) => Value> = new Map([['accounts', () => true], ['disabled-accounts', () => true], ['muc-rooms', listedRoom], ['push', () => true]])
/** Read in a login, before it is known whose it is: whoever asks waits, until the account is here. */
const FOR_LOGINS = new Set(['accounts', 'disabled-accounts', 'directory-accounts', 'tokens', 'clients', 'ended-streams'])
/** Looked through for all units of a node together. */
const TOGETHER = new Set(['pubsub_leases', 'pubsub_expiring'])
/** Whose a record is; undefined when the key, perhaps the beginning of a range, does not say. */
export function unitOfRecord(table: string, key: Key): string | undefined {
  const rule = RULES[table] ?? 'first'
  if (rule !== 'swapped') return key[rule === 'first' ? 0 : 1]
  return key[1] === undefined ? undefined : `${key[1]}@${key[0]}`
}

/** Records of a node, and what is on its way from it. */
export interface NodeRecords {
  readonly records: Records
  /** Resolves when what was written elsewhere until now can be read there, or soon will be: it does not get lost. */
  readonly settled: () => Promise<void>
}

const SETTLING_MS = 5000
const READ = 'records'
const READ_RANGE = 'records-range'
const SETTLED = 'records-settled'

export function recordsOfNode(records: Records, { here, claim, send, calls, secret }: NodeRecordsParts): NodeRecords {
  /** Units elsewhere to which rows are on their way. */
  const written = new Set<string>()

  /** Whether to ask the storage: of accounts and rooms that are not here nobody asks, and the storage says so. */
  const isAsked = (table: string, key: Key): boolean => {
    const unit = unitOfRecord(table, key)
    if (unit === undefined) return false
    return (unit.includes('@') && !INDEXES.has(table)) || here(unit)
  }
  const sendRow = (unit: string, table: string, key: Key, value: Value | undefined): void => {
    send({ kind: 'row', unit, durable: true, list: [table, ...key], ...(value === undefined ? {} : { stanza: packValue(value) }) })
  }
  /** Whether the storage takes it; otherwise it is on its way, or refused. */
  const isTaken = (table: string, key: Key, value: Value | undefined): boolean => {
    const unit = unitOfRecord(table, key)
    if (unit === undefined || (ANYWHERE.has(table) ? here(unit) : isAsked(table, key))) return true
    if (ANYWHERE.has(table)) {
      written.add(unit)
      sendRow(unit, table, key, value)
    }
    else if (INDEXES.has(table)) sendRow(unit, table, key, value)
    // The domain's home removes what components have taken.
    else if (table !== 'component-messages') throw new StanzaError('service-unavailable', 'kept at another node', { type: 'wait' })
    return false
  }
  /** Of what a login asks of an account that is not here: what `read` answers once it is. */
  const ifHere = <Result>(table: string, key: Key, read: () => Result | Promise<Result>): Promise<Result> | undefined => {
    const unit = FOR_LOGINS.has(table) ? unitOfRecord(table, key) : undefined
    if (unit === undefined || here(unit)) return undefined
    return claim(unit).then((isHere) => {
      if (!isHere) throw new Error(`another node has ${unit}`)
      return read()
    })
  }
  /** Where to ask, when it is not here. */
  const elsewhere = (table: string, key: Key): string | undefined => {
    const unit = ANYWHERE.has(table) ? unitOfRecord(table, key) : undefined
    return unit === undefined || here(unit) ? undefined : unit
  }

  const putSpread = (table: string, key: Key, value: Value | undefined): void => {
    const unit = unitOfSpread(table, key)
    const spread = [unit, table, ...key]
    if (!here(unit)) {
      written.add(unit)
      sendRow(unit, SPREAD_TABLE, spread, value)
    }
    else if (value === undefined) records.delete(SPREAD_TABLE, spread)
    else records.put(SPREAD_TABLE, spread, value)
  }
  const readSpread = async (unit: string, table: string, prefix: Key, options: RangeOptions): Promise<readonly SpreadRow[]> => {
    const { after, ...others } = options
    const rows = await readRange(unit, SPREAD_TABLE, [unit, table, ...prefix], { ...others, ...(after === undefined ? {} : { after: [unit, table, ...after] }) })
    return rows.map(({ key, value }) => ({ key: key.slice(2), value }))
  }

  calls.serve(SETTLED, () => undefined)
  calls.serve(READ, (_unit, args) => {
    const [table = '', ...key] = args as readonly string[]
    return records.get(table, key)
  })
  calls.serve(READ_RANGE, async (_unit, args) => {
    const [table, prefix, options] = args as unknown as [string, Key, RangeOptions]
    return (await records.range(table, prefix, options)) as unknown as Value
  })
  async function readRange(unit: string, table: string, prefix: Key, options: RangeOptions = {}): Promise<readonly SpreadRow[]> {
    return await calls.ask(unit, READ_RANGE, [table, prefix, options as Value]) as unknown as readonly SpreadRow[]
  }
  const readOne = async (unit: string, table: string, key: Key): Promise<Value | undefined> => (await calls.ask(unit, READ, [table, ...key])) ?? undefined

  const rangeOfHosted = (table: string, prefix: Key, { after, ...options }: RangeOptions = {}): MaybePromise<readonly SpreadRow[]> =>
    then(records.range(HOSTED_TABLE, hostedKey(table, prefix), { ...options, ...(after === undefined ? {} : { after: hostedKey(table, after) }) }), (rows) => rows.map(({ key, value }) => ({ key: key.slice(2), value })))

  const all: Records = {
    get(table, key) {
      if (HOSTED.has(table)) return records.get(HOSTED_TABLE, hostedKey(table, key))
      if (SECRETS.has(table)) return typeof secret === 'function' ? secret(table, key) : derivedSecret(secret, table, key)
      if (SPREAD.has(table)) {
        const unit = unitOfSpread(table, key)
        return readOne(unit, SPREAD_TABLE, [unit, table, ...key])
      }
      const unit = elsewhere(table, key)
      if (unit !== undefined) return readOne(unit, table, key)
      return ifHere(table, key, () => records.get(table, key)) ?? (isAsked(table, key) ? records.get(table, key) : undefined)
    },
    put(table, key, value) {
      if (SECRETS.has(table)) return
      if (HOSTED.has(table)) return records.put(HOSTED_TABLE, hostedKey(table, key), value)
      if (SPREAD.has(table)) return putSpread(table, key, value)
      if (!isTaken(table, key, value)) return
      const listed = LISTED.get(table)
      if (listed !== undefined) {
        const before = records.get(table, key) as Value | undefined
        const row = listed(value)
        if (before === undefined || JSON.stringify(listed(before)) !== JSON.stringify(row)) putSpread(table, listedKey(key), row)
      }
      records.put(table, key, value)
    },
    delete(table, key) {
      if (HOSTED.has(table)) return records.delete(HOSTED_TABLE, hostedKey(table, key))
      if (SPREAD.has(table)) return putSpread(table, key, undefined)
      if (!isTaken(table, key, undefined)) return
      if (LISTED.has(table)) putSpread(table, listedKey(key), undefined)
      records.delete(table, key)
    },
    range(table, prefix, options) {
      if (HOSTED.has(table)) return rangeOfHosted(table, prefix, options)
      if (prefix.length === 0 && TOGETHER.has(table)) return records.range(table, prefix, options)
      if (prefix.length > 0 && (SPREAD.has(table) || (LISTED.has(table) && prefix.length === 1 && prefix[0]?.includes('@') !== true))) return rangeOfSpread(readSpread, table, prefix, options)
      const unit = elsewhere(table, prefix)
      if (unit !== undefined) return readRange(unit, table, prefix, options)
      return ifHere(table, prefix, () => records.range(table, prefix, options)) ?? (isAsked(table, prefix) ? records.range(table, prefix, options) : [])
    },
    deleteRange(table, prefix) {
      if (!isAsked(table, prefix)) return
      if (LISTED.has(table)) return then(records.range(table, prefix), (rows) => { for (const { key } of rows) all.delete(table, key) })
      return records.deleteRange(table, prefix)
    },
  }
  return {
    records: all,
    async settled() {
      if (written.size === 0) return
      const units = [...written]
      written.clear()
      await Promise.all(units.map((unit) => calls.ask(unit, SETTLED, null, SETTLING_MS).catch(() => undefined)))
    },
  }
}

/** A row of a unit, as it lies in its storage. */
export interface PlacedRow {
  readonly unit: string
  readonly table: string
  readonly key: Key
  readonly value: Value
}

/** Where a record lies in a cluster that a server alone has at `table` and `key`, with what else is there because of it. Throws a RangeError when it belongs to nobody. */
export function placedRows(table: string, key: Key, value: Value): readonly PlacedRow[] {
  if (SECRETS.has(table)) return []
  if (HOSTED.has(table)) {
    const hosted = hostedKey(table, key)
    return [{ unit: hosted[0] as string, table: HOSTED_TABLE, key: hosted, value }]
  }
  const spread = (of: Value, at: Key): PlacedRow => {
    const unit = unitOfSpread(table, at)
    return { unit, table: SPREAD_TABLE, key: [unit, table, ...at], value: of }
  }
  if (SPREAD.has(table)) return [spread(value, key)]
  const unit = unitOfRecord(table, key)
  if (unit === undefined) throw new RangeError(`a record of ${table} belongs to nobody: ${JSON.stringify(key)}`)
  const listed = LISTED.get(table)
  return [{ unit, table, key, value }, ...(listed === undefined ? [] : [spread(listed(value), listedKey(key))])]
}

/** What the list of rooms and its search show of one. */
function listedRoom(row: Value): Value {
  const { config = {}, locked = false } = row as { readonly config?: { readonly [key: string]: Value }; readonly locked?: boolean }
  const { name, description, lang, public: isPublic, membersOnly, passwordProtected, nonAnonymous } = config
  return { config: { name, description, lang, public: isPublic, membersOnly, passwordProtected, nonAnonymous }, locked }
}

/** Where the lists of a host have a row: those of accounts begin with that. */
export function listedKey(key: Key): Key {
  const owner = key[0] as string
  return owner.includes('@') ? [owner.slice(owner.indexOf('@') + 1), ...key] : key
}

export function hostedKey(table: string, key: Key): Key {
  const owner = key[0] as string
  return [owner.slice(owner.indexOf('@') + 1), table, ...key]
}

function then<A, B>(value: MaybePromise<A>, next: (value: A) => B): MaybePromise<B> {
  return value instanceof Promise ? value.then(next) : next(value)
}

/** The same storage with other records. What waits for a commit waits until other nodes have what was written to them, too. */
export function withRecords(storage: Storage, { records, settled }: NodeRecords): Storage {
  return {
    records,
    archive: storage.archive, offline: storage.offline, streams: storage.streams, blobs: storage.blobs,
    afterCommit: (callback) => { storage.afterCommit(callback) },
    committed: () => storage.committed().then(settled),
    get healthy() { return storage.healthy },
    get dirty() { return storage.dirty },
    status: () => storage.status(),
    [Symbol.asyncDispose]: () => storage[Symbol.asyncDispose](),
  }
}

/** An index's row that another node has sent. */
export function takeRow(records: Records, { list: [table = '', ...key], stanza }: Frame): void {
  if (!INDEXES.has(table) && !ANYWHERE.has(table) && table !== SPREAD_TABLE) throw new Error(`no rows of ${table} come from other nodes`)
  if (stanza.length === 0) records.delete(table, key)
  else records.put(table, key, unpackValue(stanza))
}
