/**
 * Requests of many actions in one: MultiRequest of HBase's protocol, with the cells of puts and deletes behind it. Written by hand, since
 * messages of single actions cost more than all else in a batch.
 */
import { assertRow, CELL_DELETE, CELL_DELETE_COLUMN, CELL_DELETE_FAMILY, CELL_PUT, cellSize, writeCell } from './cells.ts'
import { Get, type GetFields, MUTATE_DELETE, MUTATE_PUT } from './messages.ts'
import { varintSize, writeVarint } from './varint.ts'

export interface NewCell {
  readonly family: Buffer
  readonly qualifier: Buffer
  readonly value: Buffer
  /** Milliseconds since 1970 as a rule: the version. The server's time when absent. */
  readonly timestamp?: number
}

export interface Put {
  readonly row: Buffer
  readonly cells: readonly NewCell[]
}

export interface DeletedColumn {
  readonly family: Buffer
  /** All of the family when absent. */
  readonly qualifier?: Buffer
}

export interface Delete {
  readonly row: Buffer
  /** The whole row when absent. */
  readonly delete: readonly DeletedColumn[] | 'row'
  /** Versions up to this one, inclusive; all up to the server's time when absent. */
  readonly upTo?: number
  /** Only the version `upTo` of these columns. */
  readonly isExact?: boolean
}

export type Mutation = Put | Delete

/** What one action of a MultiRequest is: a mutation, or a get of a row. */
export type Action = Mutation | { readonly row: Buffer; readonly get: GetFields }

export interface RegionActions {
  readonly name: Buffer
  /** Each action, and its place in the batch by which the answer names it. */
  readonly actions: Action[]
  readonly indexes: number[]
}

const EMPTY = Buffer.alloc(0)

/** Bytes that an action's cells take, and about what it takes otherwise. */
export function actionSize(action: Action): number {
  return cellsSize(action) + action.row.length + 32
}

/** The message, and the cells that go behind it. Indexes are those within each region's list. */
export function encodeMulti(regions: readonly RegionActions[]): { readonly message: Buffer; readonly cells: Buffer } {
  let cellBytes = 0
  let messageBytes = 0
  const sizes: number[] = []
  /** Of what each action is, in turn. */
  const lengths: number[] = []
  const gets: Buffer[] = []
  for (const { name, actions } of regions) {
    let size = fieldSize(specifierSize(name))
    for (let i = 0; i < actions.length; i++) {
      const action = actions[i] as Action
      let length
      if ('get' in action) {
        const get = Get.encode(action.get)
        gets.push(get)
        length = get.length
      } else {
        length = mutationSize(action)
        cellBytes += cellsSize(action)
      }
      lengths.push(length)
      size += fieldSize(actionBodySize(i, length))
    }
    sizes.push(size)
    messageBytes += fieldSize(size)
  }
  const message = Buffer.allocUnsafe(messageBytes)
  const cells = cellBytes === 0 ? EMPTY : Buffer.allocUnsafe(cellBytes)
  let at = 0
  let cellAt = 0
  let next = 0
  let nextGet = 0
  for (const [i, { name, actions }] of regions.entries()) {
    message[at++] = 0x0a // MultiRequest.region_action
    at = writeVarint(message, at, sizes[i] as number)
    at = writeSpecifier(message, at, name)
    for (let index = 0; index < actions.length; index++) {
      const action = actions[index] as Action
      const length = lengths[next++] as number
      message[at++] = 0x1a // RegionAction.action
      at = writeVarint(message, at, actionBodySize(index, length))
      message[at++] = 0x08 // Action.index
      at = writeVarint(message, at, index)
      if ('get' in action) {
        message[at++] = 0x1a // Action.get
        at = writeBytes(message, at, gets[nextGet++] as Buffer)
        continue
      }
      at = writeMutation(message, at, action, length)
      cellAt = writeCells(cells, cellAt, action)
    }
  }
  return { message, cells }
}

/** The cells of a mutation alone, as Mutate takes them. */
export function encodeCells(mutation: Mutation): Buffer {
  const cells = Buffer.allocUnsafe(cellsSize(mutation))
  writeCells(cells, 0, mutation)
  return cells
}

export function cellCount(mutation: Mutation): number {
  if ('cells' in mutation) return mutation.cells.length
  return mutation.delete === 'row' ? 0 : mutation.delete.length
}

/** Throws a RangeError when the action is none that HBase takes. */
export function assertAction(action: Action): void {
  assertRow(action.row)
  if ('cells' in action) {
    if (action.cells.length === 0) throw new RangeError('a put without cells')
    for (const { timestamp } of action.cells) assertTimestamp(timestamp)
  } else if ('delete' in action) {
    if (action.delete.length === 0) throw new RangeError('a delete without columns')
    assertTimestamp(action.upTo)
  }
}

function assertTimestamp(timestamp: number | undefined): void {
  if (timestamp !== undefined && !(Number.isSafeInteger(timestamp) && timestamp >= 0)) throw new RangeError(`not a timestamp: ${timestamp}`)
}

function cellsSize(action: Action): number {
  let size = 0
  if ('cells' in action) {
    const { cells } = action
    for (let i = 0; i < cells.length; i++) {
      const { family, qualifier, value } = cells[i] as NewCell
      size += cellSize(action.row, family, qualifier, value)
    }
  } else if ('delete' in action && action.delete !== 'row') for (const { family, qualifier } of action.delete) size += cellSize(action.row, family, qualifier ?? EMPTY, EMPTY)
  return size
}

function writeCells(to: Buffer, at: number, mutation: Mutation): number {
  if ('cells' in mutation) {
    const { cells } = mutation
    for (let i = 0; i < cells.length; i++) {
      const { family, qualifier, timestamp, value } = cells[i] as NewCell
      at = writeCell(to, at, mutation.row, family, qualifier, timestamp, CELL_PUT, value)
    }
  } else if (mutation.delete !== 'row') {
    for (const { family, qualifier } of mutation.delete) {
      const type = qualifier === undefined ? CELL_DELETE_FAMILY : mutation.isExact ? CELL_DELETE : CELL_DELETE_COLUMN
      at = writeCell(to, at, mutation.row, family, qualifier ?? EMPTY, mutation.upTo, type, EMPTY)
    }
  }
  return at
}

/** With the field's key (one byte) and length. */
function fieldSize(bytes: number): number {
  return 1 + varintSize(bytes) + bytes
}

function specifierSize(name: Buffer): number {
  return 2 + fieldSize(name.length)
}

function writeSpecifier(to: Buffer, at: number, name: Buffer): number {
  to[at++] = 0x0a // RegionAction.region
  at = writeVarint(to, at, specifierSize(name))
  to[at++] = 0x08 // RegionSpecifier.type
  to[at++] = 1
  to[at++] = 0x12 // RegionSpecifier.value
  return writeBytes(to, at, name)
}

function actionBodySize(index: number, length: number): number {
  return 1 + varintSize(index) + fieldSize(length)
}

function mutationSize(mutation: Mutation): number {
  const upTo = timestampOfRow(mutation)
  return fieldSize(mutation.row.length) + 2 + 1 + varintSize(cellCount(mutation)) + (upTo === undefined ? 0 : 1 + varintSize(upTo))
}

/** Only a delete of a whole row says its time here: others have it in their cells. */
function timestampOfRow(mutation: Mutation): number | undefined {
  return 'delete' in mutation && mutation.delete === 'row' ? mutation.upTo : undefined
}

function writeMutation(to: Buffer, at: number, mutation: Mutation, length: number): number {
  const upTo = timestampOfRow(mutation)
  to[at++] = 0x12 // Action.mutation
  at = writeVarint(to, at, length)
  to[at++] = 0x0a // MutationProto.row
  at = writeBytes(to, at, mutation.row)
  to[at++] = 0x10 // MutationProto.mutate_type
  to[at++] = 'cells' in mutation ? MUTATE_PUT : MUTATE_DELETE
  if (upTo !== undefined) {
    to[at++] = 0x20 // MutationProto.timestamp
    at = writeVarint(to, at, upTo)
  }
  to[at++] = 0x40 // MutationProto.associated_cell_count
  return writeVarint(to, at, cellCount(mutation))
}

function writeBytes(to: Buffer, at: number, bytes: Buffer): number {
  at = writeVarint(to, at, bytes.length)
  to.set(bytes, at)
  return at + bytes.length
}
