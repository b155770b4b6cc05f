import { expect } from 'chai'
import { firstIdOf, nextMessageId, randomId, timeOfMessageId } from './ids.ts'

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

describe('ids of messages', () => {
  it('sort in the order in which they were made, and have their time', () => {
    const now = Date.now() + 10
    const ids = [now, now, now + 1, now + 1, now].map((ms) => nextMessageId(ms))
    expect([...ids].sort()).to.deep.equal(ids)
    expect(ids.map(timeOfMessageId)).to.deep.equal([now, now, now + 1, now + 1, now + 1])
    expect(firstIdOf(now) < (ids[0] as string) && (ids[1] as string) < firstIdOf(now + 1)).to.equal(true)
    expect(timeOfMessageId(`${ids[0]}0`)).to.equal(undefined)
    expect(timeOfMessageId('m1')).to.equal(undefined)
  })

  it('cannot be guessed from those before, nor tell how many there were (XEP-0313 §3, XEP-0359 §6)', () => {
    const tails = new Set<string>()
    const starts = new Set<string>()
    const now = Date.now() + 20
    for (let ms = 0; ms < 100; ms++) {
      starts.add(nextMessageId(now + ms).slice(9, 12))
      tails.add(nextMessageId(now + ms).slice(14))
    }
    expect(tails.size).to.be.greaterThan(99)
    expect(starts.size).to.be.greaterThan(50)
    for (const tail of tails) expect(tail).to.match(/^[0-9a-v]{8}$/)
  })

  it('are more than those of one millisecond when they must be', () => {
    const now = Date.now() + 200
    let last = ''
    for (let i = 0; i < 70_000; i++) {
      const id = nextMessageId(now)
      if (id <= last) throw new Error(`${id} after ${last}`)
      last = id
    }
    expect(timeOfMessageId(last)).to.be.greaterThan(now)
  })
})
