/** Reads back stanzas that this server has stored. */
import { Stanza, CLIENT_NS } from '../../lib/stanza/stanza.ts'
import { StreamParser } from '../../lib/xml/parser.ts'

const HEADER = Buffer.from(`<stream:stream xmlns='${CLIENT_NS}' xmlns:stream='http://etherx.jabber.org/streams'>`)
const LIMITS = { stanzaBytes: 64 * 1024 * 1024, depth: 10_000, attributes: 10_000, children: 10_000_000 }

/** The stanza in these bytes, or undefined when they hold none. */
export function parseStanza(bytes: Buffer): Stanza | undefined {
  let found: Stanza | undefined
  const parser = new StreamParser(LIMITS, {
    streamOpened() {},
    stanza(stanza) {
      found = stanza
    },
    streamClosed() {},
  })
  try {
    parser.write(HEADER)
    parser.write(bytes)
  } catch {
    return undefined
  }
  return found
}
