/** RFC 4505: ANONYMOUS, as XEP-0175 has it. */
import { decodeText, SaslFailure, type Mechanism, type SaslContext } from './mechanism.ts'

/** §2: characters of the trace information, which says nothing here. */
const TRACE_CHARACTERS_MAX = 255

export class AnonymousServer implements Mechanism {
  readonly takesNothing = true
  readonly needsNothing = true
  readonly #context: SaslContext

  constructor(context: SaslContext) {
    this.#context = context
  }

  async step(input: Buffer): ReturnType<Mechanism['step']> {
    if (decodeText(input).length > TRACE_CHARACTERS_MAX) throw new SaslFailure('malformed-request')
    const user = await this.#context.makeAnonymous?.()
    if (user === undefined) throw new SaslFailure('temporary-auth-failure')
    return { kind: 'success', data: undefined, user }
  }
}
