/** Whose account the first message of a login names, before anything of it is checked. */
import { Jid } from '../jid.ts'
import { certifiedAccounts } from './external.ts'
import { accountOf, decodeText, type SaslContext } from './mechanism.ts'

/** RFC 5802 §7: the GS2 header and the user name of a client's first message. */
const SCRAM_FIRST = /^(?:n|y|p=[^,]+),(?:a=([^,]*))?,n=([^,]+),r=/
/** RFC 7628 §3.1 */
const BEARER_FIRST = /^(?:n|y|p=[^,]+),(?:a=([^,]+))?,/
// oxlint-disable-next-line no-control-regex
const BEARER_TOKEN = /\x01auth=Bearer +[\w-]+\.([\w-]+)\.[\w-]*\x01/i

/** The bare JID of the account; undefined when the message names none that could exist. `tokenField`: which field of a bearer token names it. */
export function namedAccount(mechanism: string, message: Buffer, context: Pick<SaslContext, 'host' | 'certified'>, tokenField?: string): string | undefined {
  try {
    return accountIn(mechanism, message, context, tokenField)?.bare
  } catch {
    return undefined
  }
}

function accountIn(mechanism: string, message: Buffer, context: Pick<SaslContext, 'host' | 'certified'>, tokenField: string | undefined): Jid | undefined {
  const { host } = context
  if (mechanism.startsWith('HT-')) {
    const end = message.indexOf(0)
    return end < 1 ? undefined : accountOf(decodeText(message.subarray(0, end)), '', host)
  }
  const text = decodeText(message)
  if (mechanism.startsWith('SCRAM-')) {
    const [, , name] = SCRAM_FIRST.exec(text) ?? []
    return name === undefined ? undefined : accountOf(unescapeName(name), '', host)
  }
  switch (mechanism) {
    case 'PLAIN': {
      const [, name] = text.split('\0')
      return name === undefined ? undefined : accountOf(name, '', host)
    }
    case 'EXTERNAL': {
      const accounts = certifiedAccounts(context as SaslContext)
      return text === '' ? (accounts.length === 1 ? accounts[0] : undefined) : accounts.find(({ bare }) => bare === Jid.tryParse(text)?.bare)
    }
    case 'OAUTHBEARER': return ofHost(host, BEARER_FIRST.exec(text)?.[1]?.replace(/=2C|=3D/g, unescapeCode) ?? subjectOf(text, tokenField))
    default: return undefined
  }
}

function ofHost(host: string, address: string | undefined): Jid | undefined {
  const jid = address === undefined ? undefined : Jid.tryParse(address)
  return jid === undefined || jid.local === '' || jid.domain !== host ? undefined : jid
}

/** What a token says of its owner (RFC 7519 §4); that it may say so is for others to see. */
function subjectOf(text: string, field: string | undefined): string | undefined {
  const payload = BEARER_TOKEN.exec(text)?.[1]
  if (payload === undefined || field === undefined) return undefined
  const claims = JSON.parse(Buffer.from(payload, 'base64url').toString()) as Record<string, unknown> | null
  const address = claims?.[field]
  return typeof address === 'string' ? address : undefined
}

function unescapeName(name: string): string {
  return name.replace(/=2C|=3D/g, unescapeCode)
}

function unescapeCode(code: string): string {
  return code === '=2C' ? ',' : '='
}
