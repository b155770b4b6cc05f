import { expect } from 'chai'
import { delayXml, formatDateTime, parseDateTime, withDelay } from './delay.ts'
import { makeStanza } from './stanza.ts'

describe('delayed delivery (XEP-0203) and dates (XEP-0082)', () => {
  it('reads what the DateTime profile allows', () => {
    expect(parseDateTime('1969-07-21T02:56:15Z')).to.equal(Date.UTC(1969, 6, 21, 2, 56, 15))
    expect(parseDateTime('1969-07-20T21:56:15-05:00')).to.equal(Date.UTC(1969, 6, 21, 2, 56, 15))
    expect(parseDateTime('2026-01-02T03:04:05.678912Z')).to.equal(Date.UTC(2026, 0, 2, 3, 4, 5, 678))
    expect(parseDateTime('2024-02-29T00:00:00.5Z')).to.equal(Date.UTC(2024, 1, 29, 0, 0, 0, 500))
  })

  it('refuses everything else', () => {
    for (const bad of ['', '2026', '2026-01-02', '2026-13-01T00:00:00Z', '2026-02-30T00:00:00Z', '2026-01-01T24:00:00Z', '2026-01-01T00:00:00', '2026-01-01 00:00:00Z', '20260101T00:00:00', '2026-01-01T00:00:00+1:00']) {
      expect(parseDateTime(bad), bad).to.equal(undefined)
    }
  })

  it('stamps a stanza once for each entity', () => {
    const stanza = makeStanza('message', { to: 'a@b' })
    const once = withDelay(stanza, 'b', 1000)
    expect(once.toString()).to.equal("<message to='a@b'><delay xmlns='urn:xmpp:delay' from='b' stamp='1970-01-01T00:00:01.000Z'/></message>")
    expect(withDelay(once, 'b', 5000)).to.equal(once)
    expect(withDelay(once, 'c', 5000).children.length).to.equal(2)
  })

  it('writes dates in UTC with milliseconds', () => {
    for (const ms of [0, -1, 1, 86_399_999, 86_400_000, Date.UTC(2026, 10, 24, 6, 57, 9, 42), Date.UTC(2024, 1, 29, 23, 59, 59, 999)]) {
      expect(formatDateTime(ms)).to.equal(new Date(ms).toISOString())
    }
    expect(delayXml(undefined, 0, 'a<b')).to.contain('>a&lt;b</delay>')
  })
})
