import { expect } from 'chai'
import { entityTime, formatOffset } from './entity-time.ts'
import { fakeParts } from './fake-parts.ts'

describe('XEP-0202 entity time', () => {
  it('§3: UTC and the offset of the local time', async () => {
    const fake = fakeParts()
    fake.start(entityTime)
    const time = (await fake.ask('romeo@example.org/x', 'get', "<time xmlns='urn:xmpp:time'/>", 'example.net')).getChild('time', 'urn:xmpp:time')
    expect(time?.getChildText('utc')).to.equal('2026-01-01T00:00:00.000Z')
    expect(time?.getChildText('tzo')).to.match(/^[+-]\d\d:\d\d$/)
  })

  it('XEP-0082 §3.2: formats offsets', () => {
    expect([0, 330, -210].map(formatOffset)).to.deep.equal(['+00:00', '+05:30', '-03:30'])
  })
})
