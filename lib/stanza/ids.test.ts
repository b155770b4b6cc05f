import { expect } from 'chai'
import { randomId } from './ids.ts'

describe('randomId', () => {
  it('gives ids of the length asked for, none of them twice', () => {
    const ids = new Set<string>()
    for (let i = 0; i < 3000; i++) {
      const id = randomId(i % 2 === 0 ? 12 : 9)
      expect(id).to.match(i % 2 === 0 ? /^[\w-]{16}$/ : /^[\w-]{12}$/)
      ids.add(id)
    }
    expect(ids.size).to.equal(3000)
  })
})
