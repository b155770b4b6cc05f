import { expect } from 'chai'
import { stanzaOf, type Stanza } from '../../lib/stanza/stanza.ts'
import { xml } from '../../lib/xml/element.ts'
import { capsVer } from '../extensions/disco-registry.ts'
import { capabilitiesOf, createCapabilities, type Interests } from './capabilities.ts'

const info = () => xml('query', { xmlns: 'http://jabber.org/protocol/disco#info' },
  xml('identity', { category: 'client', type: 'pc' }), xml('feature', { var: 'urn:tune+notify' }), xml('feature', { var: 'urn:ping' }))
const presence = (from: string, ver: string, hash = 'sha-1') =>
  stanzaOf('presence', { from }, xml('c', { xmlns: 'http://jabber.org/protocol/caps', hash, node: 'urn:client', ver }))

function start(answer: (request: Stanza) => Stanza | undefined) {
  const asked: Stanza[] = []
  const capabilities = createCapabilities((request) => {
    asked.push(request)
    return Promise.resolve(answer(request))
  })
  const ask = (from: Stanza) => new Promise<Interests>((resolve) => { capabilities.whenKnown(from, 'example.net', resolve) })
  return { capabilities, asked, ask }
}

describe('XEP-0115 capabilities of clients', () => {
  it('§6.2: asks the client that sent an unknown hash, and knows it then for all', async () => {
    const { capabilities, asked, ask } = start(() => stanzaOf('iq', { type: 'result' }, info()))
    const ver = capsVer(info())
    const romeo = presence('romeo@example.net/orchard', ver)
    expect(capabilities.interests(romeo)).to.equal(undefined)
    expect([...await ask(romeo)]).to.deep.equal(['urn:tune'])
    expect(asked.map((request) => [request.from, request.to, request.element().getChild('query')?.attrs['node']])).to.deep.equal([['example.net', 'romeo@example.net/orchard', `urn:client#${ver}`]])
    expect([...capabilities.interests(presence('juliet@example.net/balcony', ver)) ?? []]).to.deep.equal(['urn:tune'])
  })

  it('§5.4: an answer that does not fit the hash counts for its client alone', async () => {
    const { capabilities, ask } = start(() => stanzaOf('iq', { type: 'result' }, info()))
    const liar = presence('romeo@example.net/orchard', 'AAAA')
    await ask(liar)
    expect([...capabilities.interests(liar) ?? []]).to.deep.equal(['urn:tune'])
    expect(capabilities.interests(presence('juliet@example.net/balcony', 'AAAA'))).to.equal(undefined)
  })

  it('a client that does not answer wants nothing, and is asked again', async () => {
    const { asked, ask } = start(() => undefined)
    const silent = presence('romeo@example.net/orchard', 'AAAA')
    expect((await ask(silent)).size).to.equal(0)
    await ask(silent)
    expect(asked.length).to.equal(2)
  })

  it('a presence without a hash wants nothing; what is kept of one says the same', async () => {
    const { capabilities, asked, ask } = start(() => stanzaOf('iq', { type: 'result' }, info()))
    expect(capabilities.interests(stanzaOf('presence', { from: 'romeo@example.net/orchard' }))?.size).to.equal(0)
    const kept = capabilitiesOf(presence('romeo@example.net/orchard', capsVer(info())))
    expect([...await ask(kept)]).to.deep.equal(['urn:tune'])
    expect(asked.length).to.equal(1)
  })
})
