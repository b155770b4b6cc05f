import { expect } from 'chai'
import { Bucket } from './bucket.ts'

describe('bucket', () => {
  const RATE = { rate: 100, burst: 1000 }

  it('is full at first, and asks to wait for what was taken beyond that', () => {
    const bucket = new Bucket()
    expect(bucket.take(1000, RATE, 0)).to.equal(0)
    expect(bucket.take(50, RATE, 0)).to.equal(500)
  })

  it('fills at its rate, and not beyond what fits', () => {
    const bucket = new Bucket()
    expect(bucket.take(1000, RATE, 0)).to.equal(0)
    expect(bucket.take(200, RATE, 2000)).to.equal(0)
    expect(bucket.take(1001, RATE, 1e9)).to.equal(10)
  })

  it('asks for ten seconds at most', () => {
    expect(new Bucket().take(1e9, RATE, 0)).to.equal(10_000)
  })
})
