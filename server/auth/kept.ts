/**
 * Where auth processes keep the server's own accounts: one in its data directory; or several as nodes of a cluster of their own, each having the accounts that it
 * was asked for first. That cluster is another than the one of the chat processes: these do not recover what was written there, and need not be able to read it.
 */
import { createHmac } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { unitOfRecord, withRecords } from '../cluster/records.ts'
import type { Units } from '../cluster/shapes.ts'
import type { Config } from '../config/config.ts'
import type { Log } from '../log.ts'
import { openEmbedded } from '../storage/embedded/embedded.ts'
import type { Records, Storage } from '../storage/shapes.ts'
import type { Address } from './wire.ts'

export interface Kept extends AsyncDisposable {
  readonly storage: Storage
  /** Has an account live here. Throws Elsewhere when another process has it. Undefined where there is one process. */
  readonly claim: ((bare: string) => Promise<void>) | undefined
  /** The accounts that have gone are told, and once that all have. */
  watch(watcher: { readonly released: (accounts: readonly string[]) => void; readonly lost: () => void }): void
}

/** Another process has the account. */
export class Elsewhere extends Error {
  readonly address: Address
  constructor(address: Address) {
    super('another process has this account')
    this.address = address
  }
}

export interface KeptOptions {
  readonly config: Config
  readonly dataDir: string
  /** Where chat processes reach this process. */
  readonly address: Address
  readonly log: Log
}

/** Begins the names of keys and tables of auth processes, beside those of chat processes that have the same stores. */
const AUTH = 'auth_'
const SECRETS = 'account-secrets'
/** While a process that is gone is not yet known to be, its accounts are nowhere. */
const MOVING_MS = 10_000
const RETRY_MS = 200

/** Rejects with an error for people when it cannot be opened. */
export async function openKept({ config, dataDir, address, log }: KeptOptions): Promise<Kept> {
  const onError = (error: unknown): void => { log.error({ what: 'storage_callback_failed', error }) }
  if (config.tidings.cluster === undefined) {
    const storage = await openEmbedded(dataDir, { onError })
    return { storage, claim: undefined, watch: () => undefined, [Symbol.asyncDispose]: () => storage[Symbol.asyncDispose]() }
  }
  const { openNode } = await import('../cluster/node.ts')
  const node = await openNode({ config: apart(config), dataDir, log, roles: ['auth'], address: addressText(address), onError })
  return { ...keptByNode(node), [Symbol.asyncDispose]: () => node[Symbol.asyncDispose]() }
}

/** The same stores, and other names there. */
function apart(config: Config): Config {
  const { cluster, hbase, cassandra, ...others } = config.tidings
  return {
    ...config,
    host: (name) => config.host(name),
    tidings: {
      ...others,
      // Of history there is none.
      kafka: undefined,
      cluster: cluster && { ...cluster, redis: { ...cluster.redis, keyPrefix: `${cluster.redis.keyPrefix}${AUTH}` } },
      hbase: hbase && { ...hbase, prefix: `${hbase.prefix}${AUTH}` },
      cassandra: cassandra && { ...cassandra, keyspace: `${AUTH}${cassandra.keyspace}` },
    },
  }
}

/** What one node of several keeps. `secret`: known to all of them and nobody else. */
export function keptByNode({ storage, units, secret }: { readonly storage: Storage; readonly units: Units; readonly secret: Uint8Array }): Pick<Kept, 'storage' | 'claim' | 'watch'> {
  async function claim(bare: string): Promise<void> {
    for (const until = performance.now() + MOVING_MS; ; await sleep(RETRY_MS)) {
      const inc = await units.claim(bare)
      if (inc === units.inc) return
      const address = units.nodes.find((node) => node.inc === inc)?.address
      if (address !== undefined) throw new Elsewhere(addressOf(address))
      if (performance.now() > until) throw new Error('the account is nowhere for now')
    }
  }

  return {
    storage: withRecords(storage, { records: recordsOfHere(storage.records, units, secret, claim), settled: () => Promise.resolve() }),
    claim,
    watch({ released, lost }) {
      units.onReleased(released)
      units.onLost(lost)
    },
  }
}

/** Records of accounts, each of which comes here before it is read. Nothing is ever read of one that is not here. */
function recordsOfHere(records: Records, units: Units, secret: Uint8Array, claim: (bare: string) => Promise<void>): Records {
  const first = <Result>(table: string, key: readonly string[], read: () => Result | Promise<Result>): Result | Promise<Result> => {
    const unit = unitOfRecord(table, key)
    if (unit === undefined) throw new Error(`rows of ${table} are of accounts`)
    return units.isHere(unit) ? read() : claim(unit).then(read)
  }
  return {
    get: (table, key) => table === SECRETS ? createHmac('sha256', secret).update(JSON.stringify(key)).digest() : first(table, key, () => records.get(table, key)),
    put(table, key, value) { if (table !== SECRETS) records.put(table, key, value) },
    delete: (table, key) => { records.delete(table, key) },
    range: (table, prefix, options) => first(table, prefix, () => records.range(table, prefix, options)),
    deleteRange: (table, prefix) => first(table, prefix, () => records.deleteRange(table, prefix)),
  }
}

export function addressText({ host, port }: Address): string { return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}` }

function addressOf(text: string): Address {
  const end = text.lastIndexOf(':')
  return { host: text.slice(0, end).replace(/^\[|\]$/g, ''), port: Number(text.slice(end + 1)) }
}
