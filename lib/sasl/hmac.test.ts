import { createHmac } from 'node:crypto'
import { expect } from 'chai'
import fc from 'fast-check'
import { hmac } from './hmac.ts'

describe('HMAC', () => {
  it('is that of RFC 4231 §4.3, and of §4.7 with a key longer than a block', () => {
    expect(hmac('sha256', Buffer.from('Jefe'), 'what do ya want for nothing?').toString('hex')).equal('5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843')
    expect(hmac('sha256', Buffer.alloc(131, 0xaa), 'Test Using Larger Than Block-Size Key - Hash Key First').toString('hex')).equal('60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54')
  })

  it('is what OpenSSL makes of any key and text', () => {
    fc.assert(fc.property(fc.constantFrom('sha1', 'sha256', 'sha512'), fc.uint8Array({ maxLength: 300 }), fc.uint8Array({ maxLength: 300 }), (name, key, text) => {
      expect(hmac(name, key, text)).deep.equal(createHmac(name, key).update(text).digest())
    }))
    fc.assert(fc.property(fc.string({ unit: 'binary' }), (text) => {
      expect(hmac('sha256', Buffer.from('key'), text)).deep.equal(createHmac('sha256', 'key').update(text).digest())
    }))
  })
})
