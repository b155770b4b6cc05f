import { expect } from 'chai'
import { hashToken } from '../../lib/sasl/hashed-token.ts'
import type { ChannelBinding } from '../../lib/sasl/mechanism.ts'
import { exchangeOf, type SaslContext, type SaslResult } from '../../lib/sasl/server.ts'
import { parseElement } from '../../lib/xml/build.ts'
import type { Login } from './extension.ts'
import { fakeParts, stanza } from './fake-parts.ts'
import { fast } from './fast.ts'

const NS = 'urn:xmpp:fast:0'
const DAY = 86_400_000
const TLS12: ChannelBinding = { types: ['tls-unique'], data: () => Buffer.from('finished') }

describe('fast authentication', () => {
  function stage(options: Record<string, unknown> = {}) {
    const fake = fakeParts()
    fake.start(fast, options)
    const { sasl2, accounts } = fake
    const request = (mechanism: string, children: string, channelBinding?: ChannelBinding): Login => {
      const context: SaslContext = { host: 'example.net', accounts, secure: true, channelBinding, offeredPlus: false, disabled: [] }
      return { mechanism, context, client: { id: 'phone', software: undefined, device: undefined }, request: stanza(`<authenticate xmlns='urn:xmpp:sasl:2' mechanism='${mechanism}'>${children}</authenticate>`) }
    }
    const granted = async (login: Login): Promise<string> => {
      const text = await sasl2.success('romeo@example.net', login)
      return text === '' ? '' : parseElement(text).attrs['token'] ?? ''
    }
    /** By a password, with the request for a token. */
    const first = (mechanism: string, binding?: ChannelBinding): Promise<string> => granted(request('PLAIN', `<request-token xmlns='${NS}' mechanism='${mechanism}'/>`, binding))
    const tryToken = async (mechanism: string, token: string, binding?: ChannelBinding, children = `<fast xmlns='${NS}'/>`): Promise<{ outcome: SaslResult | undefined; next: string }> => {
      const login = request(mechanism, children, binding)
      const started = sasl2.start(login)
      if (started === undefined) return { outcome: undefined, next: '' }
      const data = mechanism.endsWith('-NONE') ? undefined : binding?.data('')
      const outcome = await exchangeOf(started).step(Buffer.concat([Buffer.from('romeo\0'), hashToken(mechanism, token, 'Initiator', data)]))
      return { outcome, next: outcome.kind === 'success' ? await granted(login) : '' }
    }
    return { ...fake, first, tryToken, request }
  }

  it('a token older than token_refresh_age is replaced when it is used, and both are good until the new one is (§3.5)', async () => {
    const { clock, first, tryToken } = stage()
    const old = await first('HT-SHA-256-NONE')
    clock.now += DAY
    expect((await tryToken('HT-SHA-256-NONE', old)).next).to.equal('')
    clock.now += 1
    const { next } = await tryToken('HT-SHA-256-NONE', old)
    expect(next).to.not.equal('')
    expect((await tryToken('HT-SHA-256-NONE', old)).outcome?.kind).to.equal('success')
    // That made another one, in place of the one that was not used.
    expect((await tryToken('HT-SHA-256-NONE', next)).outcome?.kind).to.equal('failure')
    const last = (await tryToken('HT-SHA-256-NONE', old)).next
    expect((await tryToken('HT-SHA-256-NONE', last)).outcome?.kind).to.equal('success')
    expect((await tryToken('HT-SHA-256-NONE', old)).outcome?.kind).to.equal('failure')
  })

  it('one that has expired fails with credentials-expired (§4.2)', async () => {
    const { clock, first, tryToken } = stage({ token_lifetime: 1000 })
    const token = await first('HT-SHA-256-NONE')
    clock.now += 1000
    expect((await tryToken('HT-SHA-256-NONE', token)).outcome).to.deep.equal({ kind: 'failure', condition: 'credentials-expired' })
  })

  it('one that is given back is not replaced, unless another is asked for (§3.6)', async () => {
    const { clock, first, tryToken } = stage()
    const token = await first('HT-SHA-256-NONE')
    clock.now += 2 * DAY
    expect((await tryToken('HT-SHA-256-NONE', token, undefined, `<fast xmlns='${NS}' invalidate='1'/>`)).next).to.equal('')
    expect((await tryToken('HT-SHA-256-NONE', token)).outcome?.kind).to.equal('failure')
    const other = await first('HT-SHA-256-NONE')
    const { next } = await tryToken('HT-SHA-256-NONE', other, undefined, `<fast xmlns='${NS}' invalidate='true'/><request-token xmlns='${NS}' mechanism='HT-SHA-512-NONE'/>`)
    expect((await tryToken('HT-SHA-512-NONE', next)).outcome?.kind).to.equal('success')
  })

  it('where TLS is older, tls-unique takes the place of tls-exporter', async () => {
    const { sasl2, request, first, tryToken } = stage()
    expect(sasl2.offeredInline(request('PLAIN', '', TLS12).context)).to.contain('<mechanism>HT-SHA-256-UNIQ</mechanism>').and.not.contain('EXPR')
    const token = await first('HT-SHA-256-UNIQ', TLS12)
    expect((await tryToken('HT-SHA-256-UNIQ', token, TLS12)).outcome?.kind).to.equal('success')
    // §3.4: never with less than it was made for.
    expect((await tryToken('HT-SHA-256-NONE', token, TLS12)).outcome).to.deep.equal({ kind: 'failure', condition: 'not-authorized' })
    expect((await tryToken('HT-SHA-256-EXPR', token, TLS12)).outcome).to.equal(undefined)
  })

  it('without <fast/> there are no such mechanisms, and nonsense is malformed', async () => {
    const { sasl2, request, first, tryToken } = stage()
    expect((await tryToken('HT-SHA-256-NONE', await first('HT-SHA-256-NONE'), undefined, '')).outcome).to.equal(undefined)
    for (const [bytes, condition] of [['romeo', 'malformed-request'], ['\0x', 'malformed-request'], ['romeo\0', 'not-authorized'], ['\xff\0x', 'malformed-request']] as const) {
      const started = sasl2.start(request('HT-SHA-256-NONE', `<fast xmlns='${NS}'/>`))
      const outcome = started && (await exchangeOf(started).step(Buffer.from(bytes, 'latin1')))
      expect(outcome?.kind === 'failure' && outcome.condition, bytes).to.equal(condition)
    }
  })

  it('an operator can turn mechanisms off', async () => {
    const { sasl2, request } = stage()
    const { context } = request('PLAIN', '', TLS12)
    const disabled = ['HT-SHA-256-NONE', 'HT-SHA-512-NONE', 'HT-SHA-512-UNIQ']
    expect(sasl2.offeredInline({ ...context, disabled })).to.equal(`<fast xmlns='${NS}'><mechanism>HT-SHA-256-UNIQ</mechanism></fast>`)
    expect(sasl2.offeredInline({ ...context, disabled: [...disabled, 'HT-SHA-256-UNIQ'] })).to.equal('')
    const login = request('HT-SHA-256-NONE', `<fast xmlns='${NS}'/>`)
    expect(sasl2.start({ ...login, context: { ...context, disabled } })).to.equal(undefined)
  })

  it('what has expired is forgotten', async () => {
    const { clock, accounts, storage, tasks, first } = stage({ token_lifetime: 1000 })
    await accounts.register('romeo@example.net', 'secret')
    await first('HT-SHA-256-NONE')
    for (const task of tasks) await task()
    expect(await storage.records.range('tokens', ['romeo@example.net'])).to.have.length(1)
    clock.now += 1000
    for (const task of tasks) await task()
    expect(await storage.records.range('tokens', ['romeo@example.net'])).to.have.length(0)
  })
})
