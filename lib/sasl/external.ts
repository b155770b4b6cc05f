/** RFC 4422, appendix A: EXTERNAL, by a certificate of TLS (XEP-0178 §2). */
import { Jid } from '../jid.ts'
import { decodeText, SaslFailure, type Mechanism, type SaslContext } from './mechanism.ts'

export class ExternalServer implements Mechanism {
  readonly takesNothing = true
  readonly #context: SaslContext

  constructor(context: SaslContext) {
    this.#context = context
  }

  async step(input: Buffer): ReturnType<Mechanism['step']> {
    const { accounts } = this.#context
    const account = this.#accountOf(decodeText(input))
    if (!(await accounts.exists(account.bare))) throw new SaslFailure('not-authorized')
    return { kind: 'success', data: undefined, user: account.local }
  }

  /** XEP-0178 §2, step 11 */
  #accountOf(authzid: string): Jid {
    const { claimed } = this.#context
    const accounts = certifiedAccounts(this.#context)
    if (authzid === '') {
      const [only, another] = accounts
      if (only === undefined) throw new SaslFailure('not-authorized')
      if (another !== undefined) throw new SaslFailure('invalid-authzid', 'The certificate is for several accounts')
      return only
    }
    const wanted = Jid.tryParse(authzid)
    const account = accounts.find((each) => each.bare === wanted?.toString())
    if (account === undefined || (claimed !== undefined && claimed !== account.bare)) throw new SaslFailure('invalid-authzid')
    return account
  }
}

/** The accounts of this host that the client has a certificate for. */
export function certifiedAccounts({ certified, host }: SaslContext): readonly Jid[] {
  const accounts = new Map<string, Jid>()
  for (const address of certified ?? []) {
    const jid = Jid.tryParse(address)
    if (jid !== undefined && jid.domain === host && jid.local !== '') accounts.set(jid.bare, jid.toBare())
  }
  return [...accounts.values()]
}
