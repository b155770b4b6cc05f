// XEP-0227: Portable Import/Export Format for XMPP-IM Servers, version 1.1: message archives
import { createHash } from 'node:crypto'
import { parseDateTime } from '../../../lib/stanza/delay.ts'
import { pastMessageId, timeOfMessageId } from '../../../lib/stanza/ids.ts'
import { Jid } from '../../../lib/jid.ts'
import { stanzaOf } from '../../../lib/stanza/stanza.ts'
import type { Element } from '../../../lib/xml/element.ts'
import type { Archive } from '../../storage/shapes.ts'
import { MAM_NS, resultMessages } from './query.ts'

export const PIE_MAM_NS = 'urn:xmpp:pie:0#mam'
const FORWARD_NS = 'urn:xmpp:forward:0'
const PAGE = 100
/** Messages that came in one millisecond are told apart by their place among so many. */
const SEQUENCES = 32_768
/** Messages of one time among which one that is there already is looked for. */
const AT_ONE_TIME_MAX = 1000
/** Digits at the end of an id that are random, or a mark. */
const MARK_DIGITS = 8

/** An owner's whole archive, serialised in pieces; nothing when it is empty. */
export async function* exportArchive(archive: Archive, owner: string): AsyncGenerator<string> {
  const result = resultMessages(owner, owner, undefined)
  let after: string | undefined
  for (;;) {
    const { items, complete } = await archive.query(owner, { max: PAGE, direction: 'forward', ...(after === undefined ? {} : { afterId: after }) })
    if (items.length > 0 && after === undefined) yield `<archive xmlns='${PIE_MAM_NS}'>`
    // One without bytes was erased (XEP-0313 §3.2).
    for (const item of items) if (item.bytes.length > 0) yield result(item).content.toString()
    after = items.at(-1)?.id ?? after
    if (complete || items.length === 0) break
  }
  if (after !== undefined) yield '</archive>'
}

let sequence = 0

/**
 * Takes results in. An id that this server could have given, and that says the time of its message, is kept; another one is replaced by one
 * that ends with a mark of the message, so that a file may be taken in again.
 */
export async function importArchive(archive: Archive, owner: string, element: Element): Promise<void> {
  for (const result of element.getChildren('result', MAM_NS)) {
    const forwarded = result.getChild('forwarded', FORWARD_NS)
    const message = forwarded?.getChild('message')
    const time = parseDateTime(forwarded?.getChild('delay', 'urn:xmpp:delay')?.attrs['stamp'] ?? '')
    if (message === undefined || message === null || time === undefined) throw new Error('a result of the archive has no message or no time')
    const from = Jid.tryParse(message.attrs['from'] ?? owner)
    const to = Jid.tryParse(message.attrs['to'] ?? owner)
    if (from === undefined || to === undefined) throw new Error('a message of the archive has a malformed address')
    const id = result.attrs['id'] ?? ''
    const { xmlns: _xmlns, ...attrs } = message.attrs
    const bytes = stanzaOf('message', attrs, ...message.getChildElements()).bytes()
    const isOurs = Math.floor((timeOfMessageId(id) ?? -1) / 1000) === Math.floor(time / 1000)
    const mark = createHash('sha256').update(`${id} `).update(bytes).digest()
    if (!isOurs && await isThere(archive, owner, time, pastMessageId(time, 0, mark))) continue
    archive.append({
      id: isOurs ? id : pastMessageId(time, sequence++ % SEQUENCES, mark),
      bytes,
      owners: [{ owner, with: from.bare === owner ? to.bare : from.bare }],
    })
  }
}

/** Whether there is a message of this time whose id ends as this one does. */
async function isThere(archive: Archive, owner: string, time: number, id: string): Promise<boolean> {
  const { items } = await archive.query(owner, { start: time, end: time, max: AT_ONE_TIME_MAX, direction: 'forward' })
  return items.some((item) => item.id.length === id.length && item.id.slice(-MARK_DIGITS) === id.slice(-MARK_DIGITS))
}
