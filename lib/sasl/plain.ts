/** RFC 4616: PLAIN. */
import { accountOf, decodeText, SaslFailure, type Mechanism, type SaslContext } from './mechanism.ts'

export class PlainServer implements Mechanism {
  private readonly context: SaslContext

  constructor(context: SaslContext) {
    this.context = context
  }

  async step(input: Buffer): Promise<{ kind: 'success'; data: undefined; user: string }> {
    const { host, accounts, claimed, attempt } = this.context
    // RFC 4616 §2: [authzid] NUL authcid NUL passwd
    const parts = decodeText(input).split('\0')
    const [authzid, name, password] = parts
    if (parts.length !== 3 || authzid === undefined || !name || !password) throw new SaslFailure('malformed-request')
    const account = accountOf(name, authzid, host, claimed)
    // A name that cannot be an account takes the time of one that could.
    const bare = account?.bare ?? `@${host}`
    attempt?.(bare)
    const correct = await accounts.checkPassword(bare, password)
    if (!correct || account === undefined) throw new SaslFailure('not-authorized')
    return { kind: 'success', data: undefined, user: account.local }
  }
}
