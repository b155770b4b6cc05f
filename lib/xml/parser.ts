/** The wire parser: bytes of an XML stream in, stanzas out (RFC 6120 §11). See scanner.ts for how it goes about it. */
import { CLIENT_NS, Stanza } from '../stanza/stanza.ts'
import { type ElementSpan, type ParserLimits, type StreamHeader, StreamScanner } from './scanner.ts'

export type { ParserLimits, StreamHeader } from './scanner.ts'

export interface StreamHandler {
  streamOpened(header: StreamHeader): void
  /** May call `reset()` and `pause()` of the parser. */
  stanza(stanza: Stanza): void
  streamClosed(): void
}

export class StreamParser extends StreamScanner {
  readonly #handler: StreamHandler

  /** `contentNamespace` is the default namespace the stream must declare. */
  constructor(limits: ParserLimits, handler: StreamHandler, contentNamespace: string = CLIENT_NS) {
    super(limits, contentNamespace)
    this.#handler = handler
  }

  protected streamOpened(header: StreamHeader): void {
    this.#handler.streamOpened(header)
  }

  protected element(name: string, xmlns: string, attrs: Record<string, string>, content: Buffer, children: ElementSpan[]): void {
    this.#handler.stanza(new Stanza(name, xmlns, attrs, content, children))
  }

  protected streamClosed(): void {
    this.#handler.streamClosed()
  }
}
