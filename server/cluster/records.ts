/**
 * The records of a node, for extensions that were written for one: of units that are elsewhere they read nothing. An index that another unit's
 * extensions write under a unit's key goes there as a frame. Secrets of hosts and services are made from one of the whole cluster, so that all
 * nodes have the same.
 */
import { createHmac } from 'node:crypto'
import { StanzaError } from '../../lib/stanza/errors.ts'
import { packValue, unpackValue } from '../storage/records.ts'
import type { Key, Records, Storage, Value } from '../storage/shapes.ts'
import type { Frame } from './frames.ts'
import { RULES } from './unit-keys.ts'

export interface NodeRecordsParts {
  readonly here: (unit: string) => boolean
  /** Has a unit live here; false when another node has it. */
  readonly claim: (unit: string) => Promise<boolean>
  readonly send: (frame: Pick<Frame, 'kind' | 'unit'> & Partial<Frame>) => void
  /** Known to all nodes and nobody else. */
  readonly secret: Uint8Array
}

const SECRETS = new Set(['account-secrets', 'muc-secrets'])
/** Kept under the key of a unit by the services and owners that it has to do with. */
const INDEXES = new Set(['muc-relations', 'pubsub_entities', 'pubsub_created', 'pubsub_bytes', 'pubsub_temporary'])
/** Read in a login, before it is known whose it is: whoever asks waits, until the account is here. */
const FOR_LOGINS = new Set(['accounts', 'disabled-accounts', 'directory-accounts', 'tokens', 'clients', 'ended-streams'])
/** Whose a record is; undefined when the key, perhaps the beginning of a range, does not say. */
export function unitOfRecord(table: string, key: Key): string | undefined {
  const rule = RULES[table] ?? 'first'
  if (rule !== 'swapped') return key[rule === 'first' ? 0 : 1]
  return key[1] === undefined ? undefined : `${key[1]}@${key[0]}`
}

export function recordsOfNode(records: Records, { here, claim, send, secret }: NodeRecordsParts): Records {
  /** Whether to ask the storage: of accounts and rooms that are not here nobody asks, and the storage says so. */
  const isAsked = (table: string, key: Key): boolean => {
    const unit = unitOfRecord(table, key)
    if (unit === undefined) return false
    return (unit.includes('@') && !INDEXES.has(table)) || here(unit)
  }
  /** Whether the storage takes it; otherwise it is on its way, or refused. */
  const isTaken = (table: string, key: Key, value: Value | undefined): boolean => {
    const unit = unitOfRecord(table, key)
    if (unit === undefined || isAsked(table, key)) return true
    if (INDEXES.has(table)) send({ kind: 'row', unit, durable: true, list: [table, ...key], ...(value === undefined ? {} : { stanza: packValue(value) }) })
    // A component's node has it in memory, and nobody else would deliver it.
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
  return {
    get(table, key) {
      if (SECRETS.has(table)) return createHmac('sha256', secret).update(JSON.stringify([table, ...key])).digest()
      return ifHere(table, key, () => records.get(table, key)) ?? (isAsked(table, key) ? records.get(table, key) : undefined)
    },
    put(table, key, value) { if (!SECRETS.has(table) && isTaken(table, key, value)) records.put(table, key, value) },
    delete(table, key) { if (isTaken(table, key, undefined)) records.delete(table, key) },
    range: (table, prefix, options) => ifHere(table, prefix, () => records.range(table, prefix, options)) ?? (isAsked(table, prefix) ? records.range(table, prefix, options) : []),
    deleteRange(table, prefix) { if (isAsked(table, prefix)) return records.deleteRange(table, prefix) },
  }
}

/** The same storage with other records. */
export function withRecords(storage: Storage, records: Records): Storage {
  return {
    records,
    archive: storage.archive, offline: storage.offline, streams: storage.streams, blobs: storage.blobs,
    afterCommit: (callback) => { storage.afterCommit(callback) },
    committed: () => storage.committed(),
    get healthy() { return storage.healthy },
    get dirty() { return storage.dirty },
    status: () => storage.status(),
    [Symbol.asyncDispose]: () => storage[Symbol.asyncDispose](),
  }
}

/** An index's row that another node has sent. */
export function takeRow(records: Records, { list: [table = '', ...key], stanza }: Frame): void {
  if (!INDEXES.has(table)) throw new Error(`no rows of ${table} come from other nodes`)
  if (stanza.length === 0) records.delete(table, key)
  else records.put(table, key, unpackValue(stanza))
}
