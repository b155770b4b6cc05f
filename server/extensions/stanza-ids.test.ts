import { expect } from 'chai'
import { fakeParts } from './fake-parts.ts'
import { stanzaIds } from './stanza-ids.ts'

describe('XEP-0359 stanza ids', () => {
  it('§3.1: ids that claim to be ours are removed, those of others stay', () => {
    const fake = fakeParts()
    fake.start(stanzaIds)
    const id = (by: string) => `<stanza-id xmlns='urn:xmpp:sid:0' id='1' by='${by}'/>`
    const delivery = fake.delivery(`<message xmlns='jabber:client' from='romeo@example.org/x' to='juliet@example.net/a'><body>hi</body>${id('juliet@example.net')}${id('JULIET@example.net')}${id('example.net')}${id('room@muc.example.net')}<origin-id xmlns='urn:xmpp:sid:0' id='o'/></message>`)
    fake.hooks.runIncoming(delivery)
    const left = delivery.stanza.element().getChildElements()
    expect(left.map((child) => child.attrs['by'] ?? child.getName())).to.deep.equal(['body', 'room@muc.example.net', 'origin-id'])
    expect(delivery.stanza.has('origin-id', 'urn:xmpp:sid:0')).to.equal(true)
  })

  it('a client forges no id of its own archive', () => {
    const fake = fakeParts()
    fake.start(stanzaIds)
    const delivery = fake.delivery("<message xmlns='jabber:client' from='juliet@example.net/a' to='romeo@example.org'><stanza-id xmlns='urn:xmpp:sid:0' id='1' by='juliet@example.net'/></message>")
    fake.hooks.runOutgoing(delivery)
    expect(delivery.stanza.has('stanza-id', 'urn:xmpp:sid:0')).to.equal(false)
  })

  it('is advertised by the account', () => {
    const fake = fakeParts()
    fake.start(stanzaIds)
    expect(fake.disco.ownInfo('account').getChildren('feature').map((each) => each.attrs['var'])).to.include('urn:xmpp:sid:0')
  })
})
