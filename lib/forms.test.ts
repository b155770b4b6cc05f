import { expect } from 'chai'
import { buildForm, parseForm } from './forms.ts'
import { StanzaError } from './stanza/errors.ts'
import { xml } from './xml/element.ts'

function refused(run: () => unknown): string {
  try {
    run()
  } catch (error) {
    if (error instanceof StanzaError) return error.condition
    throw error
  }
  return 'accepted'
}

const field = (attrs: Record<string, string>, ...values: string[]) => xml('field', attrs, values.map((value) => xml('value', null, value)))
const form = (type: string, ...fields: ReturnType<typeof field>[]) => xml('x', { xmlns: 'jabber:x:data', type }, fields)

describe('data forms (XEP-0004)', () => {
  it('reads back what it builds', () => {
    const built = buildForm('form', {
      formType: 'urn:test',
      title: 'A & B',
      instructions: ['one', 'two'],
      fields: [
        { var: 'text', type: 'text-multi', value: 'a\nb' },
        { var: 'flag', type: 'boolean', value: true, label: '<flag>' },
        { var: 'pick', type: 'list-single', value: 'x', options: ['x', { value: 'y', label: 'Y' }] },
        { type: 'fixed', value: 'words' },
      ],
    })
    const read = parseForm(built, { kinds: ['form'], formType: 'urn:test' })
    expect(read.formType).to.equal('urn:test')
    expect([...read.fields.keys()]).to.deep.equal(['text', 'flag', 'pick'])
    expect(read.values('text')).to.deep.equal(['a', 'b'])
    expect(read.text('text')).to.equal('a\nb')
    expect(read.boolean('flag')).to.equal(true)
    expect(read.fields.get('pick')?.options).to.deep.equal(['x', 'y'])
    expect(built.toString()).to.contain('label="&lt;flag&gt;"')
  })

  it('refuses what the specification forbids', () => {
    expect(refused(() => parseForm(form('other')))).to.equal('bad-request')
    expect(refused(() => parseForm(xml('x', { xmlns: 'jabber:x:date', type: 'submit' })))).to.equal('bad-request')
    expect(refused(() => parseForm(form('submit'), { kinds: ['cancel'] }))).to.equal('bad-request')
    expect(refused(() => parseForm(form('submit', field({}, '1'))))).to.equal('bad-request')
    expect(refused(() => parseForm(form('submit', field({ var: 'a' }, '1'), field({ var: 'a' }, '2'))))).to.equal('bad-request')
    expect(refused(() => parseForm(form('submit', field({ var: 'a', type: 'text-single' }, '1', '2'))))).to.equal('bad-request')
    expect(refused(() => parseForm(form('submit', field({ var: 'a', type: 'odd' }, '1'))))).to.equal('bad-request')
  })

  it('demands FORM_TYPE where one is expected (XEP-0068 §3.4)', () => {
    const typed = (value: string, type?: string) => form('submit', field({ var: 'FORM_TYPE', ...(type && { type }) }, value))
    expect(refused(() => parseForm(form('submit'), { formType: 'urn:a' }))).to.equal('bad-request')
    expect(refused(() => parseForm(typed('urn:b'), { formType: 'urn:a' }))).to.equal('bad-request')
    expect(parseForm(typed('urn:a'), { formType: 'urn:a' }).formType).to.equal('urn:a')
    expect(parseForm(typed('urn:a', 'hidden'), { formType: 'urn:a' }).fields.size).to.equal(0)
    expect(refused(() => parseForm(form('submit'), { formType: 'urn:a', formTypeOptional: true }))).to.equal('accepted')
    expect(refused(() => parseForm(form('cancel'), { formType: 'urn:a' }))).to.equal('accepted')
  })

  it('checks the kind of a value when it is asked for', () => {
    const read = parseForm(form('submit', field({ var: 'n' }, '12'), field({ var: 'b' }, 'maybe'), field({ var: 'two' }, '1', '2'), field({ var: 'none' })))
    expect(read.number('n')).to.equal(12)
    expect(refused(() => read.boolean('b'))).to.equal('bad-request')
    expect(refused(() => read.value('two'))).to.equal('bad-request')
    expect(read.value('none')).to.equal(undefined)
    expect(read.has('none')).to.equal(true)
  })
})
