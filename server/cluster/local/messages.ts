/** What the main process and the chat processes of one machine say to each other, and how it is written. */
import { type ArchivedItem, type ArchivePage, type ArchiveQuery } from '../../storage/shapes.ts'
import { type LogRecord } from '../../storage/groups/log.ts'
import { type RecordReader, type RecordWriter } from '../../storage/groups/record.ts'
import { type HistoryChange, type LoadedUnit, type NodeInfo, type Parcel, type UnitRow } from '../shapes.ts'

/** What a chat process asks; each is answered unless it says otherwise. */
export const ASK = {
  join: 1, claim: 2, find: 3, release: 4, write: 5, append: 6, drop: 7, send: 8,
  /** Not answered. */
  done: 9,
  receivedBy: 10,
  /** Not answered. */
  inherits: 11,
  inheritedLoad: 12, inheritedWrite: 13, inheritedFinish: 14,
  /** Not answered. */
  inheritedFailed: 15,
  leave: 16,
  inheritedWays: 37,
  /** Not answered: the process lives. */
  beat: 17,
  /** A secret that all processes know, and the records of secrets of hosts and services. */
  secrets: 18,
  /** The process is about to leave. */
  leaving: 19,
  recordsLoad: 20, recordsWrite: 21, recordsUnits: 22,
  historyWrite: 30, historyQuery: 31, historyCount: 32, historyGet: 33, historyPurge: 34, historyExpire: 35,
  /** Answered when what is being removed of some owners' history is gone. */
  historyRemoved: 36,
} as const

/** What the main process says. */
export const TELL = { answer: 1, failed: 2, nodes: 3, parcel: 4, inheritance: 5, problem: 6 } as const

export function writeOptional<T>(writer: RecordWriter, value: T | undefined, write: (value: T) => void): void {
  writer.uint8(value === undefined ? 0 : 1)
  if (value !== undefined) write(value)
}

export function readOptional<T>(reader: RecordReader, read: () => T): T | undefined {
  return reader.uint8() === 0 ? undefined : read()
}

export function writeList<T>(writer: RecordWriter, list: { readonly length: number } & Iterable<T>, write: (item: T) => void): void {
  writer.uint32(list.length)
  for (const item of list) write(item)
}

export function readList<T>(reader: RecordReader, read: () => T): T[] {
  const list: T[] = []
  for (let count = reader.uint32(); count > 0; count--) list.push(read())
  return list
}

export function writeNodes(writer: RecordWriter, nodes: readonly NodeInfo[]): void {
  writer.text(JSON.stringify(nodes))
}

export function readNodes(reader: RecordReader): NodeInfo[] {
  return JSON.parse(reader.text()) as NodeInfo[]
}

/** Rows one after another; the unit of one stands where it differs from that of the one before it. */
export function writeRows(writer: RecordWriter, rows: readonly UnitRow[]): void {
  let unit: string | undefined
  writeList(writer, rows, (row) => {
    writeOptional(writer, row.unit === unit ? undefined : row.unit, (name) => { writer.text(name) })
    unit = row.unit
    writer.latin1(row.key)
    writer.double(row.version)
    writeOptional(writer, row.value, (value) => { writer.bytes(value) })
  })
}

export function readRows(reader: RecordReader): UnitRow[] {
  let unit = ''
  return readList(reader, () => {
    unit = readOptional(reader, () => reader.text()) ?? unit
    const key = reader.latin1()
    const version = reader.double()
    return { unit, key, version, value: readOptional(reader, () => reader.bytes()) }
  })
}

export function writeTails(writer: RecordWriter, tails: ReadonlyMap<string, Buffer | undefined>): void {
  writeList(writer, [...tails], ([unit, tail]) => {
    writer.text(unit)
    writeOptional(writer, tail, (bytes) => { writer.bytes(bytes) })
  })
}

export function readTails(reader: RecordReader): Map<string, Buffer | undefined> {
  return new Map(readList(reader, () => [reader.text(), readOptional(reader, () => reader.bytes())] as const))
}

export interface KeyedRow {
  readonly key: string
  readonly value: Buffer
}

export function writeKeyed(writer: RecordWriter, rows: readonly KeyedRow[]): void {
  writeList(writer, rows, ({ key, value }) => {
    writer.latin1(key)
    writer.bytes(value)
  })
}

export function readKeyed(reader: RecordReader): KeyedRow[] {
  return readList(reader, () => ({ key: reader.latin1(), value: reader.bytes() }))
}

export function writeUnit(writer: RecordWriter, { rows, tail, lastMs }: LoadedUnit): void {
  writeKeyed(writer, rows)
  writeOptional(writer, tail, (bytes) => { writer.bytes(bytes) })
  writer.double(lastMs)
}

export function readUnit(reader: RecordReader): LoadedUnit {
  return { rows: readKeyed(reader), tail: readOptional(reader, () => reader.bytes()), lastMs: reader.double() }
}

/** The parcel's pieces are read as views of what was received. */
export function writeParcel(writer: RecordWriter, { source, first, pieces }: Parcel): void {
  writer.text(source)
  writer.double(first)
  writeList(writer, pieces, (piece) => { writer.bytes(piece) })
}

export function readParcel(reader: RecordReader): Parcel {
  return { source: reader.text(), first: reader.double(), pieces: readList(reader, () => reader.bytes()) }
}

export function writeRecords(writer: RecordWriter, records: readonly LogRecord[]): void {
  writeList(writer, records, ({ number, lastIdMs, payload }) => {
    writer.double(number)
    writer.double(lastIdMs)
    writer.bytes(payload)
  })
}

export function readRecords(reader: RecordReader): LogRecord[] {
  return readList(reader, () => ({ number: reader.double(), lastIdMs: reader.double(), payload: reader.bytes() }))
}

export function writeNumbers(writer: RecordWriter, numbers: ReadonlyMap<string, number>): void {
  writeList(writer, [...numbers], ([name, number]) => {
    writer.text(name)
    writer.double(number)
  })
}

export function readNumbers(reader: RecordReader): Map<string, number> {
  return new Map(readList(reader, () => [reader.text(), reader.double()] as const))
}

export function writeChanges(writer: RecordWriter, changes: readonly HistoryChange[]): void {
  writeList(writer, changes, ({ owner, id, with: other, bytes }) => {
    writer.text(owner)
    writer.text(id)
    writer.text(other)
    writeOptional(writer, bytes, (value) => { writer.bytes(value) })
  })
}

/** Their versions are not told: they come in order. */
export function readChanges(reader: RecordReader): Omit<HistoryChange, 'version'>[] {
  return readList(reader, () => ({ owner: reader.text(), id: reader.text(), with: reader.text(), bytes: readOptional(reader, () => reader.bytes()) }))
}

export function writeQuery(writer: RecordWriter, query: Omit<ArchiveQuery, 'max' | 'direction'> & Partial<ArchiveQuery>): void {
  writer.text(JSON.stringify({ ...query, max: query.max === Infinity ? undefined : query.max }))
}

export function readQuery(reader: RecordReader): ArchiveQuery {
  const query = JSON.parse(reader.text()) as Partial<ArchiveQuery>
  return { direction: 'forward', ...query, max: query.max ?? Infinity }
}

export function writeItem(writer: RecordWriter, { id, with: other, bytes }: ArchivedItem): void {
  writer.text(id)
  writer.text(other)
  writer.bytes(bytes)
}

export function readItem(reader: RecordReader): ArchivedItem {
  return { id: reader.text(), with: reader.text(), bytes: reader.bytes() }
}

export function writePage(writer: RecordWriter, { items, complete }: ArchivePage): void {
  writer.uint8(complete ? 1 : 0)
  writeList(writer, items, (item) => { writeItem(writer, item) })
}

export function readPage(reader: RecordReader): ArchivePage {
  const complete = reader.uint8() === 1
  return { items: readList(reader, () => readItem(reader)), complete }
}
