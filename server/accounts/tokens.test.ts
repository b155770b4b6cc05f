import { expect } from 'chai'
import { openMemory } from '../storage/memory/memory.ts'
import { createTokens } from './tokens.ts'

const ROMEO = 'romeo@example.net'
const MECHANISM = 'HT-SHA-256-NONE'
const DAY = 86_400_000

describe('tokens', () => {
  function stage(clientsMax = 100) {
    const { records } = openMemory()
    const clock = { now: Date.parse('2026-01-01T00:00:00Z') }
    const make = () => createTokens(records, { now: () => clock.now, clientsMax })
    const tokens = make()
    const issue = async (client = 'phone', lifetimeMs = 30 * DAY): Promise<string> => (await tokens.issue(ROMEO, client, MECHANISM, lifetimeMs)).token
    const check = async (token: string, client = 'phone', count?: number): Promise<string> => (await tokens.check(ROMEO, client, MECHANISM, count, (each) => each === token)).outcome
    return { records, clock, tokens, make, issue, check }
  }

  it('the one in use stays good until the next is used, and then no longer (XEP-0484 §3.5, §5.1)', async () => {
    const { issue, check } = stage()
    const first = await issue()
    expect(await check(first)).to.equal('right')
    const second = await issue()
    expect([await check(first), await check(first)]).to.deep.equal(['right', 'right'])
    expect([await check(second), await check(first), await check(second)]).to.deep.equal(['right', 'wrong', 'right'])
  })

  it('of those that were not used only the last is good', async () => {
    const { issue, check } = stage()
    const used = await issue()
    await check(used)
    const lost = await issue()
    const last = await issue()
    expect([await check(lost), await check(used), await check(last)]).to.deep.equal(['wrong', 'right', 'right'])
  })

  it('are good for so long and known to have been for longer', async () => {
    const { clock, tokens, issue, check } = stage()
    const token = await issue('phone', DAY)
    clock.now += DAY - 1
    expect([await check(token), await tokens.has(ROMEO, 'phone')]).to.deep.equal(['right', true])
    clock.now += 1
    expect([await check(token), await check('another'), await tokens.has(ROMEO, 'phone')]).to.deep.equal(['expired', 'wrong', false])
    await tokens.tidy(ROMEO)
    expect(await check(token)).to.equal('wrong')
  })

  it('what is stored is no token, and another secret makes others', async () => {
    const { records, make, issue, check } = stage()
    const token = await issue()
    expect(JSON.stringify(await records.range('tokens', [ROMEO]))).to.not.contain(token)
    expect((await make().check(ROMEO, 'phone', MECHANISM, undefined, (each) => each === token)).outcome).to.equal('right')
    records.put('account-secrets', ['example.net', 'tokens'], Buffer.alloc(32))
    expect((await make().check(ROMEO, 'phone', MECHANISM, undefined, (each) => each === token)).outcome).to.equal('wrong')
    expect(await check(token)).to.equal('right')
  })

  it('a count goes up (§3.4), and begins anew with the next token', async () => {
    const { issue, check } = stage()
    const token = await issue()
    const outcomes: string[] = []
    for (const count of [5, 5, 4, 6]) outcomes.push(await check(token, 'phone', count))
    expect(outcomes).to.deep.equal(['right', 'wrong', 'wrong', 'right'])
    expect(await check(await issue(), 'phone', 1)).to.equal('right')
  })

  it('each client has its own, and they are revoked one by one or all together', async () => {
    const { tokens, issue, check } = stage()
    const phone = await issue('phone')
    const laptop = await issue('laptop')
    expect(await check(phone, 'laptop')).to.equal('wrong')
    await tokens.revoke(ROMEO, 'phone')
    expect([await check(phone, 'phone'), await check(laptop, 'laptop')]).to.deep.equal(['wrong', 'right'])
    await tokens.revoke(ROMEO)
    expect(await check(laptop, 'laptop')).to.equal('wrong')
  })

  it('an account has so many clients with tokens; the one that expires first makes room', async () => {
    const { clock, records, issue, check } = stage(3)
    const made: string[] = []
    for (let count = 0; count < 5; count++) {
      made.push(await issue(`client-${count}`))
      clock.now += 1000
    }
    expect(await Promise.all(made.map((token, index) => check(token, `client-${index}`)))).to.deep.equal(['wrong', 'wrong', 'right', 'right', 'right'])
    expect(await records.range('tokens', [ROMEO])).to.have.length(3)
  })
})
