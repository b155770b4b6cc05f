import { expect } from 'chai'
import { fakeParts } from './fake-parts.ts'
import { loginBans } from './login-bans.ts'

const HOUR = 3_600_000

describe('bans of addresses whose logins fail', () => {
  function stage(options: Record<string, unknown> = {}) {
    const fake = fakeParts()
    fake.start(loginBans, options)
    const { logins } = fake
    const fail = (address: string, times: number): (string | undefined)[] => Array.from({ length: times }, () => logins.failed(address)?.condition)
    return { ...fake, fail, isBanned: (address: string) => logins.opened(address) !== undefined }
  }

  it('twenty failures in a row ban an address for an hour, with ejabberd\'s words', () => {
    const { logins, fail, clock, isBanned } = stage()
    expect(fail('192.0.2.7', 19).every((condition) => condition === undefined)).to.equal(true)
    expect(isBanned('192.0.2.7')).to.equal(false)
    const error = logins.failed('192.0.2.7')
    expect([error?.condition, error?.text]).to.deep.equal(['policy-violation', 'Too many (20) failed authentications from this IP address (192.0.2.7). The address will be unblocked at 01:00:00 01.01.2026 UTC'])
    expect(logins.opened('192.0.2.7')?.text).to.equal(error?.text)
    expect(isBanned('192.0.2.8')).to.equal(false)
    clock.now += HOUR - 1
    expect(isBanned('192.0.2.7')).to.equal(true)
    clock.now += 1
    expect(isBanned('192.0.2.7')).to.equal(false)
    expect(fail('192.0.2.7', 19).every((condition) => condition === undefined)).to.equal(true)
  })

  it('count and time are options', () => {
    const { fail, clock, isBanned } = stage({ c2s_max_auth_failures: 2, c2s_auth_ban_lifetime: 60_000 })
    expect(fail('192.0.2.7', 2)).to.deep.equal([undefined, 'policy-violation'])
    clock.now += 60_000
    expect(isBanned('192.0.2.7')).to.equal(false)
    expect(fail('192.0.2.7', 1)).to.deep.equal([undefined])
    clock.now += 60_000
    // The one before is too long ago.
    expect(fail('192.0.2.7', 1)).to.deep.equal([undefined])
  })

  it('a login that succeeds ends the count', () => {
    const { logins, fail, isBanned } = stage()
    fail('192.0.2.7', 19)
    logins.succeeded('192.0.2.7')
    fail('192.0.2.7', 19)
    expect(isBanned('192.0.2.7')).to.equal(false)
  })

  it('an address that access allows is never banned, nor is one that there is not', () => {
    const { fail, isBanned, allowed } = stage({ access: 'trusted' })
    allowed.rules = (rule) => rule === 'trusted'
    expect(fail('192.0.2.7', 30).concat(fail('', 30)).every((condition) => condition === undefined)).to.equal(true)
    expect([isBanned('192.0.2.7'), isBanned('')]).to.deep.equal([false, false])
  })

  it('the network of an IPv6 address is banned', () => {
    const { fail, isBanned } = stage()
    fail('2001:db8:1:2::1', 20)
    expect([isBanned('2001:db8:1:2:ffff::1'), isBanned('2001:db8:1:3::1')]).to.deep.equal([true, false])
  })

  it('many addresses do not fill the memory', () => {
    const { fail, logins, isBanned } = stage()
    fail('192.0.2.7', 20)
    for (let index = 0; index < 1000; index++) fail(`198.51.${index >> 8}.${index & 255}`, 1)
    expect(isBanned('192.0.2.7')).to.equal(false)
    expect(logins.failures.get('198.51.3.231')?.count).to.equal(1)
  })
})
