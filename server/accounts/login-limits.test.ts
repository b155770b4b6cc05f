import { expect } from 'chai'
import { defaultLimits } from '../config/limits.ts'
import { createLoginLimits, type LoginLimits } from './login-limits.ts'

const JULIET = 'juliet@example.org'

describe('limits of logins', () => {
  let now: number
  let limits: LoginLimits
  beforeEach(() => {
    now = 1_000_000
    limits = createLoginLimits({
      loginFailures: 5, loginFailureEveryMs: 60_000, accountLoginFailures: 20, accountLoginFailureEveryMs: 10_000,
      addressLoginFailures: 50, addressLoginFailureEveryMs: 1000, loginsRemembered: 1000,
    }, () => now)
  })
  /** Tries until none is left; how many were. */
  const fail = (address: string, account = JULIET, exists = true, most = 1000): number => {
    for (let count = 0; count < most; count++) if (limits.take(account, exists, address) === undefined) return count
    return most
  }
  const succeed = (address: string, account = JULIET): boolean => {
    const attempt = limits.take(account, true, address)
    attempt?.succeeded()
    return attempt !== undefined
  }

  it('let one network try an account a few times, then one at a time', () => {
    expect(fail('192.0.2.1')).to.equal(5)
    now += 59_999
    expect(fail('192.0.2.1')).to.equal(0)
    now += 1
    expect(fail('192.0.2.1')).to.equal(1)
    now += 3_600_000
    expect(fail('192.0.2.1')).to.equal(5)
  })

  it('take the first half of an IPv6 address for the network', () => {
    expect(fail('2001:db8:1:2::1')).to.equal(5)
    expect(fail('2001:db8:1:2:3:4:5:6')).to.equal(0)
    expect(fail('2001:db8:1:3::1')).to.equal(5)
  })

  it('do not count right passwords, however many', () => {
    for (let count = 0; count < 100; count++) expect(succeed('192.0.2.1')).to.equal(true)
    expect(fail('192.0.2.1', JULIET, true, 4)).to.equal(4)
    expect(succeed('192.0.2.1')).to.equal(true)
    expect(fail('192.0.2.1')).to.equal(5)
  })

  it('count tries that are not answered yet', () => {
    const open = Array.from({ length: 5 }, () => limits.take(JULIET, true, '192.0.2.1'))
    expect(limits.take(JULIET, true, '192.0.2.1')).to.equal(undefined)
    open[0]?.succeeded()
    expect(limits.take(JULIET, true, '192.0.2.1')).to.not.equal(undefined)
  })

  it('let many networks together try an account as often as all may, and one alone cannot use that up', () => {
    expect(fail('192.0.2.1')).to.equal(5)
    expect(succeed('198.51.100.1')).to.equal(true)
    let tries = 5
    for (let network = 2; network < 200; network++) tries += fail(`192.0.2.${network}`)
    expect(tries).to.equal(20)
    now += 10_000
    expect(fail('203.0.113.1')).to.equal(1)
  })

  it('leave the networks that an account is used from a budget of their own', () => {
    expect(succeed('198.51.100.1')).to.equal(true)
    for (let network = 0; network < 200; network++) fail(`192.0.2.${network}`)
    expect(succeed('203.0.113.1')).to.equal(false)
    for (let count = 0; count < 30; count++) expect(succeed('198.51.100.1')).to.equal(true)
    // Who shares the owner's network does not get at more.
    expect(fail('198.51.100.1')).to.equal(5)
    now += 60_000
    expect(succeed('198.51.100.1')).to.equal(true)
  })

  it('let one network try so many accounts, and those that are used from it still', () => {
    expect(succeed('192.0.2.1')).to.equal(true)
    let tries = 0
    for (let account = 0; account < 100; account++) tries += fail('192.0.2.1', `user${account}@example.org`)
    expect(tries).to.equal(50)
    expect(succeed('192.0.2.1')).to.equal(true)
    now += 1000
    expect(fail('192.0.2.1', 'another@example.org')).to.equal(1)
  })

  it('treat accounts that do not exist alike', () => {
    expect(fail('192.0.2.1', 'nobody@example.org', false)).to.equal(5)
    let tries = 5
    for (let network = 2; network < 200; network++) tries += fail(`192.0.2.${network}`, 'nobody@example.org', false)
    expect(tries).to.equal(20)
  })

  it('are bounded, and made-up names do not push those of accounts out', () => {
    limits = createLoginLimits({ ...defaultLimits, loginFailures: 5, addressLoginFailures: 1_000_000, loginsRemembered: 100 }, () => now)
    expect(fail('192.0.2.1')).to.equal(5)
    for (let name = 0; name < 10_000; name++) fail('192.0.2.2', `name${name}@example.org`, false, 1)
    expect(fail('192.0.2.1')).to.equal(0)
  })

  it('do not give more when the clock goes back', () => {
    expect(fail('192.0.2.1')).to.equal(5)
    now -= 1_000_000
    expect(fail('192.0.2.1')).to.equal(0)
  })
})
