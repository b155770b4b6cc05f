import { expect } from 'chai'
import { fakeParts } from './fake-parts.ts'
import { hints } from './hints.ts'

describe('XEP-0334 message processing hints', () => {
  const flags = (hint: string, name = 'message') => {
    const fake = fakeParts()
    fake.start(hints)
    const delivery = fake.delivery(`<${name} xmlns='jabber:client' from='a@example.net/x' to='b@example.net'><${hint} xmlns='urn:xmpp:hints'/></${name}>`)
    fake.hooks.runOutgoing(delivery)
    expect(delivery.stanza.has(hint, 'urn:xmpp:hints')).to.equal(true)
    return [delivery.noArchive, delivery.noOffline, delivery.noCopy]
  }

  it('§4.1: no-permanent-store keeps it out of the archive', () => expect(flags('no-permanent-store')).to.deep.equal([true, false, false]))
  it('§4.2: no-store keeps it out of offline storage too', () => expect(flags('no-store')).to.deep.equal([true, true, false]))
  it('§4.3: no-copy is for carbons', () => expect(flags('no-copy')).to.deep.equal([false, false, true]))
  it('§5: those of an error belong to the message that it answers', () => {
    const fake = fakeParts()
    fake.start(hints)
    const delivery = fake.delivery("<message xmlns='jabber:client' type='error' from='a@example.net/x' to='b@example.net/y'><no-copy xmlns='urn:xmpp:hints'/><no-store xmlns='urn:xmpp:hints'/></message>")
    fake.hooks.runIncoming(delivery)
    expect([delivery.noArchive, delivery.noOffline, delivery.noCopy]).to.deep.equal([false, false, false])
  })
  it('§4.4: store changes no flag, and presence has no hints', () => {
    expect(flags('store')).to.deep.equal([false, false, false])
    expect(flags('no-store', 'presence')).to.deep.equal([false, false, false])
  })
})
