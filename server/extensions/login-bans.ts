/** Addresses from which too many logins failed are not served for a while, as by ejabberd's mod_fail2ban. */
import { networkOf } from '../../lib/net/addresses.ts'
import { StreamError } from '../../lib/stream/errors.ts'
import { accessRule, duration, int } from '../config/options.ts'
import { defineExtension } from './extension.ts'

export const loginBans = defineExtension({
  name: 'login-bans',
  ejabberd: 'mod_fail2ban',
  specs: [],
  needs: ['logins', 'access', 'log', 'metrics', 'now'],
  options: {
    access: { type: accessRule(), default: 'none', help: 'Addresses that are never banned.' },
    c2s_auth_ban_lifetime: { type: duration(), default: 3_600_000, help: 'How long an address is banned, and how long its failures are counted after the last.' },
    c2s_max_auth_failures: { type: int({ min: 1 }), default: 20, help: 'Failed logins in a row for which an address is banned.' },
  },
  start({ logins, access, log, metrics, now }, { access: rule, c2s_auth_ban_lifetime: lifetimeMs, c2s_max_auth_failures: max }) {
    const { failures } = logins
    const bans = metrics.counter('tidings_login_bans_total', 'Addresses banned for failed logins')
    const isExempt = (address: string): boolean => address === '' || access.allows(rule, { address })

    const refusal = (address: string, count: number, until: number): StreamError =>
      new StreamError('policy-violation', `Too many (${count}) failed authentications from this IP address (${address}). The address will be unblocked at ${dateOf(until)} UTC`)

    logins.watch({
      opened(address) {
        const known = failures.get(networkOf(address))
        if (known === undefined || known.count < max || isExempt(address)) return undefined
        if (known.until > now()) return refusal(address, known.count, known.until)
        failures.forget(networkOf(address))
        return undefined
      },
      failed(address) {
        if (isExempt(address)) return undefined
        const { count, until } = failures.add(networkOf(address), now() + lifetimeMs)
        if (count < max) return undefined
        log.warn({ what: 'address_banned', address, failures: count, until: dateOf(until) })
        bans.inc()
        return refusal(address, count, until)
      },
      succeeded(address) { failures.forget(networkOf(address)) },
    })
  },
})

/** `12:34:56 24.11.2026`, as ejabberd writes it; a ban without end ends with the process. */
function dateOf(time: number): string {
  const date = new Date(time)
  if (Number.isNaN(date.getTime())) return 'no time'
  const [day = '', clock = ''] = date.toISOString().split('T')
  return `${clock.slice(0, 8)} ${day.split('-').toReversed().join('.')}`
}
