import { expect } from 'chai'
import { buildElement } from './build.ts'

describe('trees from bytes', () => {
  it('come to an end, whatever the bytes are', () => {
    const text = "<m a='1' b='2'><c d='e'>f</c><![CDATA[g]]><h/>i</m>"
    for (let start = 0; start < text.length; start++) {
      for (let end = start; end <= text.length; end++) {
        try {
          buildElement(Buffer.from(text.slice(start, end)))
        } catch (error) {
          expect(String(error)).to.contain('not an element')
        }
      }
    }
    expect(buildElement(Buffer.from(text)).toString()).to.equal('<m a="1" b="2"><c d="e">f</c>g<h/>i</m>')
  })
})
