import { expect } from 'chai'
import { networkOf, plainAddress } from './addresses.ts'

describe('addresses', () => {
  it('are plain IPv4 where a dual-stack socket has IPv4', () => {
    expect(plainAddress('::ffff:192.0.2.1')).to.equal('192.0.2.1')
    expect(plainAddress('2001:db8::ffff:1')).to.equal('2001:db8::ffff:1')
    expect(plainAddress(undefined)).to.equal('')
  })

  it('belong to one peer by the whole of IPv4 and the first half of IPv6', () => {
    expect(networkOf('::ffff:192.0.2.1')).to.equal('192.0.2.1')
    expect(networkOf('2001:db8::1')).to.equal('2001:db8:0:0')
    expect(networkOf('2001:db8:1:2:3:4:5:6')).to.equal('2001:db8:1:2')
    expect(networkOf('fe80::1%eth0')).to.equal('fe80:0:0:0')
    expect(networkOf('::1')).to.equal('0:0:0:0')
    expect(networkOf('')).to.equal('')
  })
})
