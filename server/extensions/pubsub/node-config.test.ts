import { expect } from 'chai'
import { buildForm, parseForm } from '../../../lib/forms.ts'
import { StanzaError } from '../../../lib/stanza/errors.ts'
import { configForm, configOf, meets, PERSONAL_DEFAULTS, readConfig } from './node-config.ts'

const form = (fields: Record<string, string>) =>
  parseForm(buildForm('submit', { fields: Object.entries(fields).map(([name, value]) => ({ var: name, value })) }))

describe('XEP-0060 configuration of nodes', () => {
  it('§8.2: a form that is sent back as it came changes nothing', () => {
    const back = parseForm(configForm('submit', PERSONAL_DEFAULTS))
    expect({ ...PERSONAL_DEFAULTS, ...readConfig(back) }).to.deep.equal(PERSONAL_DEFAULTS)
  })

  it('§8.2: unknown fields are left out; in publish-options they are refused (§7.1.5)', () => {
    expect(readConfig(form({ 'pubsub#access_model': 'open', 'pubsub#colour': 'red' }))).to.deep.equal({ access_model: 'open' })
    expect(() => readConfig(form({ 'pubsub#colour': 'red' }), () => new StanzaError('conflict'))).to.throw(StanzaError)
  })

  it('§8.1.2: an unknown access model is not acceptable', () => {
    expect(() => readConfig(form({ 'pubsub#access_model': 'secret' }))).to.throw(StanzaError).that.includes({ condition: 'not-acceptable' }).and.has.property('extra').that.contains('unsupported-access-model')
    expect(() => readConfig(form({ 'pubsub#max_items': 'many' }))).to.throw(StanzaError)
  })

  it('§7.1.5: preconditions compare values, however they are written', () => {
    expect(meets(PERSONAL_DEFAULTS, readConfig(form({ 'pubsub#persist_items': 'true', 'pubsub#access_model': 'presence' })))).to.equal(true)
    expect(meets(PERSONAL_DEFAULTS, readConfig(form({ 'pubsub#max_items': 'max' })))).to.equal(false)
  })

  it('takes the fields of an operator that make sense', () => {
    expect(configOf({ access_model: 'whitelist', 'pubsub#max_items': 10, send_last_published_item: 'sometimes', colour: 'red' })).to.deep.equal({ access_model: 'whitelist', max_items: '10' })
  })
})
