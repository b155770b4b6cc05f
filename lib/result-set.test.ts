import { expect } from 'chai'
import { buildResultSet, pageOf, parseResultSet, RSM_NS } from './result-set.ts'
import { StanzaError } from './stanza/errors.ts'
import { xml } from './xml/element.ts'

const query = (...children: ReturnType<typeof xml>[]) => xml('query', { xmlns: 'urn:x' }, xml('set', { xmlns: RSM_NS }, children))
const all = ['a', 'b', 'c', 'd', 'e']
const page = (request: Parameters<typeof pageOf>[1], max = 2) => pageOf(all, request, (item) => item, max)
const none = { max: undefined, after: undefined, before: undefined, index: undefined }

describe('result sets (XEP-0059)', () => {
  it('reads a request', () => {
    expect(parseResultSet(query(xml('max', null, '10'), xml('before')))).to.deep.equal({ max: 10, after: undefined, before: '', index: undefined })
    expect(parseResultSet(xml('query', { xmlns: 'urn:x' }))).to.deep.equal(none)
    for (const bad of ['-1', 'ten', '', '1.5']) expect(() => parseResultSet(query(xml('max', null, bad))), bad).to.throw(StanzaError)
    expect(() => parseResultSet(query(xml('after', null, 'a'), xml('after', null, 'b')))).to.throw(StanzaError)
  })

  it('leaves first and last out of an empty page (§2.2)', () => {
    expect(buildResultSet({ count: 0 }).toString()).to.equal(`<set xmlns="${RSM_NS}"><count>0</count></set>`)
    expect(buildResultSet({ first: 'a', last: 'b', index: 3 }).toString()).to.contain('<first index="3">a</first><last>b</last>')
  })

  it('pages a list forwards, backwards and by index', () => {
    expect(page(none).items).to.deep.equal(['a', 'b'])
    expect(page({ ...none, after: 'b' }).items).to.deep.equal(['c', 'd'])
    expect(page({ ...none, before: '' }).items).to.deep.equal(['d', 'e'])
    expect(page({ ...none, before: 'd' }).items).to.deep.equal(['b', 'c'])
    expect(page({ ...none, index: 3 }).items).to.deep.equal(['d', 'e'])
    expect(page({ ...none, index: 9 }).items).to.deep.equal([])
    const count = page({ ...none, max: 0 })
    expect(count.items).to.deep.equal([])
    expect(count.set.getChildText('count')).to.equal('5')
    expect(() => page({ ...none, after: 'z' })).to.throw(StanzaError)
  })
})
