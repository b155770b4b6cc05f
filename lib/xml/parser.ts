/** The wire parser: bytes of an XML stream in, stanzas out (RFC 6120 §11). See scanner.ts for how it goes about it. */
import { CLIENT_NS, Stanza } from '../stanza/stanza.ts'
import { type ParserLimits, type StreamHeader, StreamScanner } from './scanner.ts'

export type { ParserLimits, StreamHeader } from './scanner.ts'

export interface StreamHandler {
  streamOpened(header: StreamHeader): void
  /** May call `reset()` and `pause()` of the parser. */
  stanza(stanza: Stanza): void
  streamClosed(): void
}

export class StreamParser extends StreamScanner {
  /** `contentNamespace` is the default namespace the stream must declare. */
  constructor(limits: ParserLimits, handler: StreamHandler, contentNamespace: string = CLIENT_NS) {
    super(
      limits,
      {
        streamOpened: (header) => handler.streamOpened(header),
        element: (name, xmlns, attrs, content, children) => handler.stanza(new Stanza(name, xmlns, attrs, content, children)),
        streamClosed: () => handler.streamClosed(),
      },
      contentNamespace,
    )
  }
}
