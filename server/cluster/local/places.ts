/**
 * Where the rows of units are in the store of one machine: those of records, and of offline queues, where a server of one process has them too.
 *
 *     n unit key  -> a row whose key does not say whose it is
 *     u unit      -> a unit's tail of history
 *     k unit      -> until when an earlier home has made ids, ms, for units with streams
 */
import { decodePart, encodePart, isShortened, KEY_END, type OrderedStore } from '../../storage/ordered.ts'
import { unpackValue } from '../../storage/records.ts'
import { type Key, type Value } from '../../storage/shapes.ts'
import { type LoadedUnit, type UnitRow } from '../shapes.ts'
import { formsOf, recordsOf, ruleOf, unitOfKey } from '../unit-keys.ts'
import { type KeyedRow } from './messages.ts'

/** Of units that keys do not tell all of it. */
const KINDS = ['o', 'q', 'd'] as const

export class Places {
  readonly #store: OrderedStore
  /** Tables of records, as they stand in keys. */
  readonly #tables = new Set<string>()

  constructor(store: OrderedStore) {
    this.#store = store
    for (let start = 'r'; ;) {
      const [key] = store.keys(start, `r${KEY_END}`, 1, false)
      const end = key?.indexOf('\0', 1) ?? -1
      if (key === undefined || end === -1) break
      this.#tables.add(key.slice(1, end))
      start = `${key.slice(0, end)}\x01`
    }
  }

  /** What is stored of a unit beside its records. */
  load(unit: string, lastMs: number): LoadedUnit {
    const part = encodePart(unit)
    const rows: KeyedRow[] = []
    for (const kind of KINDS) this.#read(`${kind}${part}`, rows)
    this.#readWrapped(part, rows, (key) => !key.startsWith('r'))
    const stored = this.#store.get(`k${part}`)
    return { rows, tail: this.#store.get(`u${part}`), lastMs: stored ? Math.max(stored.readDoubleBE(0), lastMs) : lastMs }
  }

  /** The records of a unit, in order of key. */
  records(unit: string): KeyedRow[] {
    const rows: KeyedRow[] = []
    for (const table of this.#tables) {
      const prefix = recordsOf(table, unit)
      if (prefix !== undefined) this.#read(prefix, rows)
      else if (ruleOf(table) === 'second') this.#read(`r${table}\0`, rows, (key) => formsOf(unit).includes(unitOfKey(key)?.form ?? ''))
    }
    this.#readWrapped(encodePart(unit), rows, (key) => key.startsWith('r'))
    return rows.sort((a, b) => (a.key < b.key ? -1 : 1))
  }

  /** All records of a table. */
  table(table: string): KeyedRow[] {
    const rows: KeyedRow[] = []
    this.#read(`r${table}\0`, rows)
    return rows
  }

  write(rows: readonly UnitRow[]): void {
    for (const { unit, key, value } of rows) {
      const place = placeOf(unit, key)
      if (value) this.#store.put(place, value)
      else this.#store.delete(place)
      if (place[0] === 'r') this.#tables.add(place.slice(1, place.indexOf('\0', 1)))
    }
  }

  writeTail(unit: string, tail: Buffer | undefined): void {
    const key = `u${encodePart(unit)}`
    if (tail) this.#store.put(key, tail)
    else this.#store.delete(key)
  }

  /** A unit is given up. */
  release(unit: string, lastMs: number): void {
    const part = encodePart(unit)
    const key = `k${part}`
    const hasStreams = this.#store.keys(`q${part}`, `q${part}${KEY_END}`, 1, false).length > 0
    if (hasStreams) this.#store.put(key, double(lastMs))
    else if (this.#store.has(key)) this.#store.delete(key)
  }

  /** Units with records that begin with a prefix, in order of UTF-8, after one. */
  units(prefix: string, after: string | undefined, limit: number): string[] {
    const start = after !== undefined && compare(after, prefix) > 0 ? after : prefix
    const found = new Set<string>()
    const add = (name: string | undefined): boolean => {
      if (name === undefined || !name.startsWith(prefix) || after !== undefined && compare(name, after) <= 0) return false
      found.add(name)
      return true
    }
    for (const table of this.#tables) {
      const begin = `r${table}\0`
      const rule = ruleOf(table)
      if (rule === 'first') this.#addInOrder(begin, start, limit, add)
      else if (rule === 'second') for (const key of this.#store.keys(begin, begin + KEY_END, Infinity, false)) add(this.#partsOf(key)[1])
      else for (const { name: domain } of this.#parts(begin, begin)) this.#addLocals(begin + encodePart(domain), domain, start, limit, add)
    }
    this.#addInOrder('n', start, limit, add, (first) => this.#store.keys(first, `${first}s`, 1, false).length > 0)
    return [...found].sort(compare).slice(0, limit)
  }

  #addInOrder(begin: string, start: string, limit: number, add: (name: string) => boolean, isWanted: (first: string) => boolean = () => true): void {
    let count = 0
    for (const { name, end } of this.#parts(begin, begin + beginningOf(start))) {
      if (!isWanted(`${end}r`)) continue
      if (add(name)) count++
      // In order, so that what no longer begins with the prefix is behind all that does.
      else if (compare(name, start) > 0) return
      if (count === limit) return
    }
  }

  /** Localparts stand without what follows them in the names of units: `bob` comes before `bob1`, and `bob1@…` before `bob@…`. */
  #addLocals(begin: string, domain: string, start: string, limit: number, add: (name: string) => boolean): void {
    const [local = ''] = start.split('@')
    for (let length = 1; length < local.length; length++) {
      const part = begin + encodePart(local.slice(0, length))
      if (this.#store.keys(part, part + KEY_END, 1, false).length > 0) add(`${local.slice(0, length)}@${domain}`)
    }
    let count = 0
    let last = ''
    for (const { name } of this.#parts(begin, begin + beginningOf(local))) {
      if (count >= limit && !(name.startsWith(last) && name.slice(last.length) < '@')) return
      if (add(`${name}@${domain}`)) count++
      else if (compare(name, local) > 0 && !name.startsWith(local)) return
      if (!name.startsWith(last) || name.slice(last.length) >= '@') last = name
    }
  }

  /** The parts that stand behind a beginning of keys, each once, in order, and the beginning that they end. */
  *#parts(begin: string, from: string): Generator<{ readonly name: string; readonly end: string }, undefined> {
    const place = begin.split('\0').length - 2
    for (let start = from; ;) {
      const [key] = this.#store.keys(start, begin + KEY_END, 1, false)
      const end = key?.indexOf('\0', begin.length) ?? -1
      if (key === undefined || end === -1) return undefined
      const part = key.slice(begin.length, end)
      const name = isShortened(part) ? this.#partsOf(key)[place] : decodePart(part)
      if (name !== undefined) yield { name, end: key.slice(0, end + 1) }
      start = `${key.slice(0, end)}\x01`
    }
  }

  /** The parts of a record's key behind its table. */
  #partsOf(key: string): Key {
    if (!isShortened(key)) return key.slice(1).split('\0').slice(1, -1).map(decodePart)
    const row = this.#store.get(key)
    return row?.[0] === 1 ? (unpackValue(row.subarray(1)) as readonly [Key, Value])[0] : []
  }

  #read(prefix: string, rows: KeyedRow[], isWanted: (key: string) => boolean = () => true): void {
    for (const key of this.#store.keys(prefix, prefix + KEY_END, Infinity, false)) {
      const value = isWanted(key) ? this.#store.get(key) : undefined
      if (value) rows.push({ key, value })
    }
  }

  #readWrapped(part: string, rows: KeyedRow[], isWanted: (key: string) => boolean): void {
    const prefix = `n${part}`
    for (const place of this.#store.keys(prefix, prefix + KEY_END, Infinity, false)) {
      const key = place.slice(prefix.length)
      const value = isWanted(key) ? this.#store.get(place) : undefined
      if (value) rows.push({ key, value })
    }
  }
}

/** The key in the store of a unit's row. */
function placeOf(unit: string, key: string): string {
  const of = unitOfKey(key)
  if (of && (key[0] === 'r' ? formsOf(unit).includes(of.form) : KINDS.some((kind) => kind === key[0]) && of.form === encodePart(unit).slice(0, -1))) return key
  return `n${encodePart(unit)}${key}`
}

/** How a part begins that comes after nothing that the name comes after; long parts sort by their beginnings alone. */
function beginningOf(name: string): string {
  return encodePart(name).slice(0, -1).slice(0, 200)
}

function double(value: number): Buffer {
  const bytes = Buffer.allocUnsafe(8)
  bytes.writeDoubleBE(value)
  return bytes
}

function compare(a: string, b: string): number {
  return a === b ? 0 : Buffer.compare(Buffer.from(a), Buffer.from(b))
}
