import { expect } from 'chai'
import { StreamParser } from '../xml/parser.ts'
import { fromContentNamespace, toContentNamespace } from './content-namespace.ts'
import { CLIENT_NS, makeStanza, type Stanza } from './stanza.ts'

const NS = 'jabber:component:accept'

function received(text: string): Stanza {
  const found: Stanza[] = []
  const parser = new StreamParser({ stanzaBytes: 10_000, depth: 10, attributes: 10, children: 100 }, { streamOpened: () => undefined, stanza: (stanza) => found.push(stanza), streamClosed: () => undefined }, NS)
  parser.write(Buffer.from(`<stream:stream xmlns='${NS}' xmlns:stream='http://etherx.jabber.org/streams'>${text}`))
  return found[0] as Stanza
}

describe('stanzas of a stream of another content namespace', () => {
  it('are in jabber:client inside, with the children that inherit it', () => {
    const stanza = fromContentNamespace(received("<message from='a.example' to='b'><body>hi</body><x xmlns='urn:x'/></message>"), NS)
    expect(stanza.isStanza).to.equal(true)
    expect(stanza.children.map(({ name, xmlns }) => [name, xmlns])).to.deep.equal([['body', CLIENT_NS], ['x', 'urn:x']])
    expect(stanza.toString()).to.equal("<message from='a.example' to='b'><body>hi</body><x xmlns='urn:x'/></message>")
  })

  it('are so too where an element declares the namespace anew, or a prefix for it', () => {
    const stanza = fromContentNamespace(received(`<message xmlns='${NS}' xmlns:c='${NS}'><body xmlns="${NS}">&lt; xmlns='${NS}' é</body><c:subject>s</c:subject><forwarded xmlns='urn:xmpp:forward:0'><message xmlns='${NS}'/></forwarded><thread><![CDATA[<a xmlns='${NS}'>]]></thread></message>`), NS)
    expect(stanza.children.map(({ name, xmlns }) => [name, xmlns])).to.deep.equal([['body', CLIENT_NS], ['subject', CLIENT_NS], ['forwarded', 'urn:xmpp:forward:0'], ['thread', CLIENT_NS]])
    expect(stanza.element().getChildText('body')).to.equal(`< xmlns='${NS}' é`)
    expect(stanza.element().getChildText('thread')).to.equal(`<a xmlns='${NS}'>`)
    expect(stanza.element().getChild('forwarded', 'urn:xmpp:forward:0')?.getChildElements()[0]?.getNS()).to.equal(CLIENT_NS)
    expect(stanza.childElement(stanza.children[1] as (typeof stanza.children)[0]).getNS()).to.equal(CLIENT_NS)
  })

  it('leave in the namespace of their stream, and what they forward in its own', () => {
    const body = `<body xmlns='${CLIENT_NS}'>xmlns='${CLIENT_NS}'</body>`
    const forwarded = `<forwarded xmlns='urn:xmpp:forward:0'><message xmlns='${CLIENT_NS}'/></forwarded>`
    const stanza = makeStanza('message', { to: 'a.example' }, [{ name: 'forwarded', xmlns: 'urn:xmpp:forward:0', text: forwarded }, { name: 'body', xmlns: CLIENT_NS, text: body }])
    expect(toContentNamespace(stanza, NS).toString()).to.equal(`<message to='a.example'>${forwarded}<body xmlns='${NS}'>xmlns='${CLIENT_NS}'</body></message>`)
    const plain = makeStanza('message', { to: 'a.example' }, [{ name: 'body', xmlns: CLIENT_NS, text: '<body>hi</body>' }])
    expect(toContentNamespace(plain, NS)).to.equal(plain.bytes())
  })

  it('leave so too when they have a prefix for it, and attributes say what they said', () => {
    const prefixed = received(`<c:message xmlns:c='${CLIENT_NS}' to='a.example'><c:body>hi</c:body></c:message>`)
    const sent = received(toContentNamespace(prefixed, NS).toString())
    expect([sent.xmlns, sent.children.map(({ name, xmlns }) => [name, xmlns])]).to.deep.equal([NS, [['body', NS]]])
    const quoted = received(`<message xmlns='${CLIENT_NS}' to='a.example'><body note=" xmlns='${CLIENT_NS}'">hi</body></message>`)
    expect(toContentNamespace(quoted, NS).toString()).to.equal(`<message to='a.example'><body note=" xmlns='${CLIENT_NS}'">hi</body></message>`)
  })
})
