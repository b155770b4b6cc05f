import { expect } from 'chai'
import { Recent } from './recent.ts'

describe('Recent', () => {
  it('keeps what is asked for and forgets the rest', () => {
    const recent = new Recent<number>(4)
    recent.set('used', 0)
    for (let i = 1; i <= 20; i++) {
      recent.set(`n${i}`, i)
      expect(recent.get('used')).to.equal(0)
    }
    expect(recent.get('n20')).to.equal(20)
    expect(recent.get('n10')).to.equal(undefined)
  })

  it('never has more than it may', () => {
    const recent = new Recent<number>(10)
    for (let i = 0; i < 100; i++) recent.set(`n${i}`, i)
    let kept = 0
    for (let i = 0; i < 100; i++) if (recent.get(`n${i}`) !== undefined) kept++
    expect(kept).to.be.within(5, 10)
  })

  it('deletes from both generations', () => {
    const recent = new Recent<number>(2)
    recent.set('a', 1)
    recent.set('b', 2)
    recent.delete('a')
    recent.delete('b')
    expect([recent.get('a'), recent.get('b')]).to.deep.equal([undefined, undefined])
  })

  it('takes a new value for a key', () => {
    const recent = new Recent<number>(2)
    recent.set('a', 1)
    recent.set('b', 2)
    recent.set('a', 3)
    expect(recent.get('a')).to.equal(3)
  })
})
