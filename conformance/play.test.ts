import { expect } from 'chai'
import { parseElement } from '../lib/xml/build.ts'
import { matches } from './play.ts'

const like = (expected: string, actual: string): boolean => matches(parseElement(expected), parseElement(actual))

describe('a play', () => {
  const actual = "<message from='a' id='1'><body>Hi</body><x xmlns='urn:x'><y n='1'/><y n='2'/></x></message>"

  it('takes more than was asked for', () => {
    expect(like('<message/>', actual)).to.equal(true)
    expect(like("<message id='{any}'><body>{any}</body></message>", actual)).to.equal(true)
    expect(like("<message><x xmlns='urn:x'><y n='2'/></x></message>", actual)).to.equal(true)
  })

  it('refuses another name, namespace, attribute, text or number of children', () => {
    for (const expected of [
      '<iq/>', "<message xmlns='urn:x'/>", "<message from='b'/>", "<message type='{any}'/>", '<message><body>Ho</body></message>', '<message><x/></message>',
      "<message><x xmlns='urn:x'><y n='3'/></x></message>", "<message><x xmlns='urn:x'><y/><y/><y/></x></message>", "<message><x xmlns='urn:x'><y n='1'/><y n='1'/></x></message>",
    ]) expect(like(expected, actual), expected).to.equal(false)
  })
})
