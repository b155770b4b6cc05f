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

  it('§8.1: an answer that was made up to have the hash of others says nothing else for them', async () => {
    const disco = 'http://jabber.org/protocol/disco#info'
    const joined = xml('query', { xmlns: disco }, xml('identity', { category: 'client', type: 'pc' }), xml('feature', { var: 'urn:ping<urn:tune+notify' }))
    const field = (name: string, value: string) => xml('field', { var: name }, xml('value', null, value))
    const asForm = xml('query', { xmlns: disco }, xml('identity', { category: 'client', type: 'pc' }), xml('x', { xmlns: 'jabber:x:data', type: 'result' }, field('FORM_TYPE', 'urn:ping'), xml('field', { var: 'urn:tune+notify' })))
    for (const forged of [joined, asForm]) {
      expect(capsVer(forged)).to.equal(capsVer(info()))
      const { capabilities, ask } = start(() => stanzaOf('iq', { type: 'result' }, forged))
      await ask(presence('romeo@example.net/orchard', capsVer(info())))
      expect([...capabilities.interests(presence('juliet@example.net/balcony', capsVer(info()))) ?? []]).to.deep.equal(['urn:tune'])
    }
  })

  it('what one client wants has a limit', async () => {
    const { ask } = start(() => stanzaOf('iq', { type: 'result' }, xml('query', { xmlns: 'http://jabber.org/protocol/disco#info' }, Array.from({ length: 400 }, (_, i) => xml('feature', { var: `${i}${'x'.repeat(500)}+notify` })))))
    expect((await ask(presence('romeo@example.net/orchard', 'AAAA'))).size).to.equal(32)
  })
})
