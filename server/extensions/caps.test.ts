import { expect } from 'chai'
import { caps } from './caps.ts'
import { capsHash } from './disco-registry.ts'
import { fakeParts } from './fake-parts.ts'

describe('XEP-0115 entity capabilities', () => {
  it('§7: the stream features after login carry both hashes, of the host as it is at that moment', () => {
    const fake = fakeParts()
    fake.start(caps)
    const before = fake.features.after()
    expect(before).to.contain(`hash='sha-1'`).and.contain(`ver='${capsHash(fake.disco).ver}'`).and.contain(`<c xmlns='urn:xmpp:caps'>`)
    fake.disco.feature('host', 'urn:late')
    expect(fake.features.after()).to.contain(capsHash(fake.disco).ver)
    expect(fake.features.after()).not.to.equal(before)
    expect(fake.features.before({ secure: true, address: '' })).to.equal('')
  })
})
