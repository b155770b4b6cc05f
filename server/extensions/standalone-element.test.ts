import { expect } from 'chai'
import { parseElement } from '../../lib/xml/build.ts'
import { standalone } from './standalone-element.ts'

describe('standalone elements', () => {
  it('carry the namespaces they inherited', () => {
    const query = parseElement("<query xmlns='a' xmlns:p='b' xmlns:q='c'><item p:x='1'><p:y/></item></query>")
    const item = query.getChild('item')!
    expect(standalone(item).toString()).to.equal('<item p:x="1" xmlns="a" xmlns:p="b"><p:y/></item>')
    expect(item.parent).to.equal(query)
    expect(item.getChildElements()[0]?.parent).to.equal(item)
  })

  it('keep what they declare themselves', () => {
    expect(standalone(parseElement("<q xmlns='a'><i xmlns='b'>t</i></q>").getChild('i')!).toString()).to.equal('<i xmlns="b">t</i>')
  })
})
