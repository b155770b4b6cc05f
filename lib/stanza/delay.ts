/** XEP-0203: Delayed Delivery, version 2.0 (2009-09-15), and the DateTime profile of XEP-0082, version 1.1.1. */
import { Jid } from '../jid.ts'
import { escapeXml } from '../xml/element.ts'
import type { Stanza } from './stanza.ts'

export const DELAY_NS = 'urn:xmpp:delay'

/** `<delay/>`, serialised; `from` is the entity that delayed the stanza. */
export function delayXml(from: string | undefined, ms: number, reason = ''): string {
  const by = from === undefined ? '' : ` from='${escapeXml(from)}'`
  const start = `<delay xmlns='${DELAY_NS}'${by} stamp='${formatDateTime(ms)}'`
  return reason === '' ? `${start}/>` : `${start}>${escapeXml(reason)}</delay>`
}

/** The stanza with a `<delay/>`; itself when this entity has stamped it before, as then it was delayed since that time (§4). */
export function withDelay(stanza: Stanza, from: string, ms: number): Stanza {
  for (const child of stanza.children) {
    if (child.name === 'delay' && child.xmlns === DELAY_NS && stanza.childElement(child).attrs['from'] === from) return stanza
  }
  return stanza.append('delay', DELAY_NS, delayXml(from, ms))
}

/** The stanza without the notes that claim to be made by the server `host`, which has not delayed it (§7). */
export function withoutForgedDelay(stanza: Stanza, host: string): Stanza {
  if (!stanza.has('delay', DELAY_NS)) return stanza
  return stanza.without((child) => child.name === 'delay' && child.xmlns === DELAY_NS && Jid.tryParse(stanza.childElement(child).attrs['from'] ?? '')?.toString() === host)
}

const DAY_MS = 86_400_000
let lastDay = NaN
/** `2026-01-02T`: most dates written in a row are of one day. */
let lastDayText = ''

/** XEP-0082 DateTime in UTC with milliseconds. */
export function formatDateTime(ms: number): string {
  const day = Math.floor(ms / DAY_MS)
  if (day !== lastDay) {
    lastDayText = new Date(ms).toISOString().slice(0, -13)
    lastDay = day
  }
  const rest = Math.floor(ms - day * DAY_MS)
  return `${lastDayText}${two(Math.floor(rest / 3_600_000))}:${two(Math.floor(rest / 60_000) % 60)}:${two(Math.floor(rest / 1000) % 60)}.${String(rest % 1000).padStart(3, '0')}Z`
}

function two(number: number): string {
  return number < 10 ? `0${number}` : String(number)
}

const DATE_TIME = /^(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)$/

/** Milliseconds since 1970 of an XEP-0082 DateTime, or undefined when the text is none. Digits beyond milliseconds are cut off. */
export function parseDateTime(text: string): number | undefined {
  const match = DATE_TIME.exec(text.trim())
  if (!match) return undefined
  const [year, month, day, hour, minute, second] = match.slice(1, 7).map(Number) as [number, number, number, number, number, number]
  // 23:59:60 is a leap second: it counts as the second after it.
  if (month < 1 || month > 12 || day < 1 || hour > 23 || minute > 59 || second > 60) return undefined
  const date = new Date(0)
  date.setUTCFullYear(year, month - 1, day)
  if (date.getUTCMonth() !== month - 1) return undefined
  const zone = match[8] as string
  let offset = 0
  if (zone !== 'Z') {
    const hours = Number(zone.slice(1, 3))
    const minutes = Number(zone.slice(4))
    if (hours > 14 || minutes > 59) return undefined
    offset = (zone.startsWith('-') ? -1 : 1) * (hours * 60 + minutes) * 60_000
  }
  const fraction = Number((match[7] ?? '').slice(0, 3).padEnd(3, '0'))
  return date.getTime() + ((hour * 60 + minute) * 60 + second) * 1000 + fraction - offset
}
