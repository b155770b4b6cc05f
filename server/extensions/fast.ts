// XEP-0484: Fast Authentication Streamlining Tokens, version 0.2.0 (2024-06-30)
import { hashedTokenMechanisms } from '../../lib/sasl/hashed-token.ts'
import type { SaslContext } from '../../lib/sasl/mechanism.ts'
import { escapeXml, type Element } from '../../lib/xml/element.ts'
import { formatDateTime } from '../../lib/stanza/delay.ts'
import { AccountError } from '../accounts/accounts.ts'
import { duration } from '../config/options.ts'
import { defineExtension, type Login } from './extension.ts'

const NS = 'urn:xmpp:fast:0'
const DAY_MS = 86_400_000

export interface FastOptions {
  readonly token_lifetime: number
  readonly token_refresh_age: number
}

export const fast = defineExtension({
  name: 'fast',
  ejabberd: 'mod_auth_fast',
  specs: [{ xep: 484, version: '0.2.0', status: 'complete', note: 'not in the early data of TLS, which Node does not give' }],
  needs: ['sasl2', 'tokens', 'everyAccount', 'now', 'log'],
  options: {
    token_lifetime: { type: duration({ infinity: false }), default: 30 * DAY_MS, help: 'How long a token can be used to log in.' },
    token_refresh_age: { type: duration({ infinity: false }), default: DAY_MS, help: 'A client that logs in by a token older than this gets a new one.' },
  },
  start({ sasl2, tokens, everyAccount, now, log }, options: FastOptions) {
    /** When the token was made by which a client has just logged in, ms. */
    const used = new WeakMap<Login, number>()

    sasl2.inline((context) => {
      const names = mechanismsFor(context)
      return names.length === 0 ? undefined : `<fast xmlns='${NS}'>${names.map((name) => `<mechanism>${name}</mechanism>`).join('')}</fast>`
    })

    sasl2.mechanism((login) => {
      const { mechanism, client, context } = login
      const request = childOf(login, 'fast')
      // §4.1: who uses a token says which client it is.
      if (request === undefined || client === undefined || !mechanismsFor(context).includes(mechanism)) return undefined
      return tokens.exchange(mechanism, context, { client: client.id, count: countOf(request), used: (issued) => { used.set(login, issued) } })
    })

    sasl2.succeeded(async (owner, login) => {
      const { client, context } = login
      // One without a name does not come back.
      if (client === undefined || login.mechanism === 'ANONYMOUS') return undefined
      const wanted = childOf(login, 'request-token')?.attrs['mechanism']
      const issued = used.get(login)
      const invalidate = issued !== undefined && isTrue(childOf(login, 'fast')?.attrs['invalidate'])
      // §3.6
      if (invalidate) await tokens.revoke(owner, client.id)
      // §3.5
      const due = issued !== undefined && !invalidate && now() - issued > options.token_refresh_age
      const mechanism = wanted ?? (due ? login.mechanism : undefined)
      if (mechanism === undefined || !mechanismsFor(context).includes(mechanism)) return undefined
      const issuedNow = await issue(owner, client.id, mechanism)
      return issuedNow && `<token xmlns='${NS}' expiry='${formatDateTime(issuedNow.expires)}' token='${escapeXml(issuedNow.token)}'/>`
    })

    /** A login is none the worse for it when there cannot be a token at the moment. */
    async function issue(owner: string, id: string, mechanism: string): Promise<{ readonly token: string; readonly expires: number } | undefined> {
      try {
        return await tokens.issue(owner, id, mechanism, options.token_lifetime)
      } catch (error) {
        if (!(error instanceof AccountError)) throw error
        log.warn({ what: 'token_not_issued', account: owner, error: error.message })
        return undefined
      }
    }

    everyAccount(DAY_MS, 'tokens', (owner) => tokens.tidy(owner))
  },
})

function mechanismsFor({ channelBinding, disabled }: SaslContext): readonly string[] {
  const names = hashedTokenMechanisms(channelBinding)
  return disabled.length === 0 ? names : names.filter((name) => !disabled.includes(name))
}

function childOf({ request }: Login, name: string): Element | undefined {
  const span = request.find(name, NS)
  return span === undefined ? undefined : request.childElement(span)
}

/** §3.4: what a client counts its tries by; one that is no number has been there already. */
function countOf(request: Element): number | undefined {
  const { count } = request.attrs
  if (count === undefined) return undefined
  return /^\d{1,15}$/.test(count) ? Number(count) : -1
}

function isTrue(value: string | undefined): boolean {
  return value === 'true' || value === '1'
}
