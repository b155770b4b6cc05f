import { expect } from 'chai'
import { fakeParts } from './fake-parts.ts'
import { limitsFeature, streamLimits } from './stream-limits.ts'

describe('XEP-0478 stream limits', () => {
  it('§3: announced before and after login', () => {
    const fake = fakeParts()
    fake.start(streamLimits)
    const { preAuthStanzaBytes, stanzaBytes, idlePingMs } = fake.parts.limits
    expect(fake.features.before({ secure: true, address: '' })).to.equal(`<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>${preAuthStanzaBytes}</max-bytes></limits>`)
    expect(fake.features.after()).to.equal(`<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>${stanzaBytes}</max-bytes><idle-seconds>${idlePingMs / 1000}</idle-seconds></limits>`)
  })

  it('§3: leaves out what has no limit', () => expect(limitsFeature(Infinity, Infinity)).to.equal(undefined))
})
