/** Rows of units as Redis has them: offline stanzas in a list that other tools can read, everything else by key in a hash. */
import { Jid } from '../../../lib/jid.ts'
import { timeOfMessageId } from '../../../lib/stanza/ids.ts'
import { decodePart, encodePart } from '../../storage/ordered.ts'
import { type LoadedUnit, type UnitRow } from '../shapes.ts'
import { type Argument } from './connect.ts'

/** How the keys of offline stanzas begin (storage/offline.ts). */
const OFFLINE = 'o'

interface Element {
  readonly id: string
  readonly time?: string
  readonly from?: string
  readonly stanza?: string
  /** In place of `stanza`, when that is no text. */
  readonly base64?: string
}

/** The latter arguments of the script that writes a unit. */
export function argumentsOf(unit: string, rows: readonly UnitRow[]): Argument[] {
  const put: Argument[] = []
  const removed: Argument[] = []
  const stanzas: Argument[] = []
  const removedStanzas: Argument[] = []
  for (const { key, value } of rows) {
    const id = idOf(unit, key)
    if (id !== undefined) {
      if (value) stanzas.push(id, elementOf(id, value))
      else removedStanzas.push(id)
    } else if (value) put.push(Buffer.from(key, 'latin1'), value)
    else removed.push(Buffer.from(key, 'latin1'))
  }
  return [put.length / 2, removed.length, stanzas.length / 2, removedStanzas.length, ...put, ...removed, ...stanzas, ...removedStanzas]
}

/** What the scripts that load a unit answer. */
export function loadedOf(unit: string, answer: readonly unknown[]): LoadedUnit {
  const [, elements, fields, tail, lastMs] = answer as readonly [unknown, readonly Buffer[], readonly Buffer[], Buffer | null, Buffer]
  const rows: { key: string; value: Buffer }[] = []
  for (const element of elements) {
    const read = parse(element)
    if (read) rows.push({ key: `${OFFLINE}${encodePart(unit)}${encodePart(read.id)}`, value: read.base64 === undefined ? Buffer.from(read.stanza ?? '') : Buffer.from(read.base64, 'base64') })
  }
  for (let i = 0; i < fields.length; i += 2) rows.push({ key: (fields[i] as Buffer).toString('latin1'), value: fields[i + 1] as Buffer })
  return { rows, tail: tail ?? undefined, lastMs: Number(lastMs.toString()) }
}

/** Id of an offline stanza; undefined for other rows. */
function idOf(unit: string, key: string): string | undefined {
  const prefix = `${OFFLINE}${encodePart(unit)}`
  return key.startsWith(prefix) && key.indexOf('\0', prefix.length) === key.length - 1 ? decodePart(key.slice(prefix.length, -1)) : undefined
}

function elementOf(id: string, value: Buffer): string {
  const stanza = value.toString()
  const ms = timeOfMessageId(id)
  const from = senderOf(stanza)
  const element: Element = {
    id,
    ...ms === undefined ? {} : { time: new Date(ms).toISOString() },
    ...from === undefined ? {} : { from },
    ...Buffer.from(stanza).equals(value) ? { stanza } : { base64: value.toString('base64') },
  }
  return JSON.stringify(element)
}

function senderOf(stanza: string): string | undefined {
  const start = stanza.slice(0, stanza.indexOf('>') + 1)
  const found = /\sfrom=(?:"([^"]*)"|'([^']*)')/.exec(start)
  const text = (found?.[1] ?? found?.[2])?.replaceAll('&apos;', "'").replaceAll('&quot;', '"').replaceAll('&lt;', '<').replaceAll('&gt;', '>').replaceAll('&amp;', '&')
  return text === undefined ? undefined : Jid.tryParse(text)?.toString()
}

/** Undefined for what somebody else has put into the list and that is none of ours. */
function parse(element: Buffer): Element | undefined {
  try {
    const read = JSON.parse(element.toString()) as Partial<Element> | null
    return typeof read?.id === 'string' && (typeof read.stanza === 'string' || typeof read.base64 === 'string') ? read as Element : undefined
  } catch {
    return undefined
  }
}
