/** Records over an ordered store. */
import { Packr } from 'msgpackr'
import { StorageError } from './errors.ts'
import { decodeKey, encodeKey, isShortened, KEY_END, type OrderedStore } from './ordered.ts'
import { type Key, type RangeOptions, type Records, type Value } from './shapes.ts'

const packr = new Packr({ useRecords: false, mapsAsObjects: true, variableMapSize: true, moreTypes: false })

/** LMDB's limit is 1978. */
const KEY_BYTES_MAX = 1900

/** What a row holds: the value, and the key when the row's own key was shortened. */
interface Row {
  readonly key: Key | undefined
  readonly value: Value
}

export function packValue(value: Value): Buffer {
  return Buffer.from(packr.pack(value))
}

export function unpackValue(bytes: Uint8Array): Value {
  return packr.unpack(bytes) as Value
}

function encodeRow(encoded: string, key: Key, value: Value): Buffer {
  const shortened = isShortened(encoded)
  const packed = packr.pack(shortened ? [key, value] : value)
  const row = Buffer.allocUnsafe(packed.length + 1)
  row[0] = shortened ? 1 : 0
  packed.copy(row, 1)
  return row
}

function decodeRow(row: Buffer): Row {
  const value = unpackValue(row.subarray(1))
  if (row[0] === 0) return { key: undefined, value }
  const [key, inner] = value as readonly [Key, Value]
  return { key, value: inner }
}

/** A row of records as it is in the store, whose key begins with `r`. */
export function recordOf(encoded: string, bytes: Buffer): { readonly table: string; readonly key: Key; readonly value: Value } {
  const row = decodeRow(bytes)
  const [table = '', ...key] = decodeKey(encoded.slice(1))
  return { table, key: row.key ?? key, value: row.value }
}

export function createRecords(store: OrderedStore): Records {
  const encode = (table: string, key: Key): string => {
    const encoded = `r${encodeKey([table])}${encodeKey(key)}`
    if (encoded.length > KEY_BYTES_MAX) throw new StorageError(`a key of table ${table} is too long`)
    return encoded
  }
  return {
    get(table, key) {
      const row = store.get(encode(table, key))
      return row && decodeRow(row).value
    },
    put(table, key, value) {
      const encoded = encode(table, key)
      store.put(encoded, encodeRow(encoded, key, value))
    },
    delete(table, key) {
      store.delete(encode(table, key))
    },
    range(table, prefix, options: RangeOptions = {}) {
      const start = encode(table, prefix)
      const reverse = options.reverse ?? false
      const after = options.after && encode(table, options.after)
      const from = after !== undefined && !reverse && after >= start ? after + '\0' : start
      const to = after !== undefined && reverse && after < start + KEY_END ? after : start + KEY_END
      const found: { key: Key; value: Value }[] = []
      for (const encoded of store.keys(from, to, options.limit ?? Infinity, reverse)) {
        const bytes = store.get(encoded)
        if (!bytes) continue
        const row = decodeRow(bytes)
        found.push({ key: row.key ?? decodeKey(encoded.slice(1)).slice(1), value: row.value })
      }
      return found
    },
    deleteRange(table, prefix) {
      const start = encode(table, prefix)
      for (const encoded of store.keys(start, start + KEY_END, Infinity, false)) store.delete(encoded)
    },
  }
}
