/**
 * What nodes say to each other: a version, a kind, flags, the unit that it is for, an id, and then, by kind, a stanza and a list of texts. Lengths
 * are big-endian.
 */

const VERSION = 1

export type FrameKind =
  /** A stanza for the unit, which has passed its sender's side. */
  | 'stanza'
  /** An error that answers what the unit had sent, or the answer to an IQ of the node itself. */
  | 'reply'
  /** A message of a service to several clients of the unit that have the same nickname; the list has their full JIDs. */
  | 'clients'
  /** A stanza of a service to those in the list, which are full JIDs of any units. */
  | 'multicast'
  /** A broadcast presence or a probe, to those in the list: bare JIDs. */
  | 'presences'
  /** A group message for the unit; the list has those of its clients that are in the room. */
  | 'missed'
  /** A moderator took back what the unit had said. */
  | 'moderated'
  /** What an extension says to its like at the unit's home: the list. */
  | 'told'
  /** Where is the unit? The list has who asks. */
  | 'where'
  /** The unit is at the node in the list. */
  | 'at'
  /** A row of an index (cluster/records.ts): table and key are the list, and in place of a stanza stands the value, or nothing. */
  | 'row'
  /** A question (cluster/calls.ts): who asks, its number there, and its name; in place of a stanza stands what it asks. Without a unit it is for the node. */
  | 'ask'
  /** The answer for the node: the number; in place of a stanza stands the answer, or, when it is volatile, the error. */
  | 'answer'
  /** What nodes say to each other of external components (components/elsewhere.ts): the list begins with what it is. With a unit it is for the home of that domain. */
  | 'component'

const KINDS: readonly FrameKind[] = ['stanza', 'reply', 'clients', 'multicast', 'presences', 'missed', 'moderated', 'told', 'where', 'at', 'row', 'ask', 'answer', 'component']

export interface Frame {
  readonly kind: FrameKind
  /** Empty where the list says whom it is for. */
  readonly unit: string
  /** The id of its delivery; empty when it has none. */
  readonly id: string
  /** Its sender was told that it is safe. */
  readonly promised: boolean
  /** It must not be lost with the process that passes it on. */
  readonly durable: boolean
  /** Worth nothing when the unit has no home. */
  readonly idle: boolean
  /** Not to be kept by the session that gets it. */
  readonly volatile: boolean
  /** As `Stanza.bytes` writes it; empty when there is none. */
  readonly stanza: Buffer
  readonly list: readonly string[]
}

const PROMISED = 1
const DURABLE = 2
const IDLE = 4
const VOLATILE = 8
const NOTHING = Buffer.alloc(0)
const NOBODY: readonly string[] = []
/** Version, kind, flags, lengths of unit, id and stanza, and of the list. */
const HEAD_BYTES = 14

export function encodeFrame(frame: Pick<Frame, 'kind'> & Partial<Frame>): Buffer {
  const { kind, unit = '', id = '', stanza = NOTHING, list = NOBODY } = frame
  const unitBytes = Buffer.byteLength(unit)
  let size = HEAD_BYTES + unitBytes + id.length + stanza.length
  for (const text of list) size += 2 + Buffer.byteLength(text)
  const bytes = Buffer.allocUnsafe(size)
  bytes[0] = VERSION
  bytes[1] = KINDS.indexOf(kind)
  bytes[2] = (frame.promised === true ? PROMISED : 0) | (frame.durable === true ? DURABLE : 0) | (frame.idle === true ? IDLE : 0) | (frame.volatile === true ? VOLATILE : 0)
  bytes[3] = id.length
  bytes.writeUInt16BE(unitBytes, 4)
  bytes.writeUInt32BE(stanza.length, 6)
  bytes.writeUInt32BE(list.length, 10)
  let at = HEAD_BYTES
  at += bytes.write(unit, at)
  at += bytes.write(id, at, 'latin1')
  at += stanza.copy(bytes, at)
  for (const text of list) {
    const length = bytes.write(text, at + 2)
    bytes.writeUInt16BE(length, at)
    at += 2 + length
  }
  return bytes
}

/** What of a frame must not be lost with the node that was to have it, by units; for recovery (cluster/recovery.ts). */
export function framesOf(bytes: Buffer): readonly { readonly unit: string; readonly frame: Buffer }[] {
  const frame = decodeFrame(bytes)
  // Nodes ask anew where units are, and presence is told anew to those who come. Who asked does not wait for as long as a recovery takes.
  if (frame.idle || frame.kind === 'where' || frame.kind === 'at' || frame.kind === 'ask' || frame.kind === 'answer' || frame.kind === 'component') return []
  if (frame.unit !== '') return [{ unit: frame.unit, frame: bytes }]
  return apart(frame).map((one) => ({ unit: one.unit, frame: encodeFrame(one) }))
}

/** For the node itself, whatever units it has. */
export function isForNode({ unit, kind }: Frame): boolean {
  return unit === '' && (kind === 'reply' || kind === 'ask' || kind === 'answer' || kind === 'component')
}

/** A frame for several units as one for each of its list. */
export function apart(frame: Frame): Frame[] {
  return frame.list.map((entry) => {
    const slash = entry.indexOf('/')
    return { ...frame, unit: slash === -1 ? entry : entry.slice(0, slash), list: [entry] }
  })
}

/** Throws for what no node of this version writes. */
export function decodeFrame(bytes: Buffer): Frame {
  if (bytes.length < HEAD_BYTES || bytes[0] !== VERSION) throw new Error(`a frame of another version: ${bytes[0]}`)
  const kind = KINDS[bytes[1] as number]
  if (kind === undefined) throw new Error(`a frame of an unknown kind: ${bytes[1]}`)
  const flags = bytes[2] as number
  const idEnd = HEAD_BYTES + bytes.readUInt16BE(4) + (bytes[3] as number)
  const unitEnd = idEnd - (bytes[3] as number)
  const stanzaEnd = idEnd + bytes.readUInt32BE(6)
  if (stanzaEnd > bytes.length) throw new Error('a frame that ends too early')
  const list: string[] = []
  let at = stanzaEnd
  for (let left = bytes.readUInt32BE(10); left > 0; left--) {
    const end = at + 2 + (at + 2 <= bytes.length ? bytes.readUInt16BE(at) : Infinity)
    if (end > bytes.length) throw new Error('a frame that ends too early')
    list.push(bytes.utf8Slice(at + 2, end))
    at = end
  }
  return {
    kind,
    unit: bytes.utf8Slice(HEAD_BYTES, unitEnd),
    id: bytes.latin1Slice(unitEnd, idEnd),
    promised: (flags & PROMISED) !== 0,
    durable: (flags & DURABLE) !== 0,
    idle: (flags & IDLE) !== 0,
    volatile: (flags & VOLATILE) !== 0,
    stanza: bytes.subarray(idEnd, stanzaEnd),
    list,
  }
}
