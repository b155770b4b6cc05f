import { expect } from 'chai'
import fc from 'fast-check'
import { type Element, xml } from '../xml/element.ts'
import { StreamParser } from '../xml/parser.ts'
import { readStanza } from './read.ts'
import { makeStanza, type Stanza } from './stanza.ts'

describe('reading stored stanzas', () => {
  it('finds what a stanza knows of itself', () => {
    const text = "<message to='a@b' from='c@d/&quot;x&amp;&#228;' xmlns:p='urn:p'>" +
      "<body>1 &lt; 2 <![CDATA[</body><x>]]></body><p:note a='>'/>\n<x xmlns=\"urn:x\"><x><y z='/>'/></x></x><q:k xmlns:q='urn:q'></q:k></message>"
    const stanza = readStanza(Buffer.from(text))
    expect(stanza.name).to.equal('message')
    expect({ ...stanza.attrs }).to.deep.equal({ to: 'a@b', from: 'c@d/"x&ä', 'xmlns:p': 'urn:p' })
    expect(stanza.children.map((child) => `${child.xmlns} ${child.name}`)).to.deep.equal(['jabber:client body', 'urn:p note', 'urn:x x', 'urn:q k'])
    expect(stanza.children.map((child) => stanza.content.toString('utf8', child.start, child.end)).join('|')).to.equal(
      "<body>1 &lt; 2 <![CDATA[</body><x>]]></body>|<p:note a='>'/>|<x xmlns=\"urn:x\"><x><y z='/>'/></x></x>|<q:k xmlns:q='urn:q'></q:k>",
    )
  })

  it('reads back what a stanza writes', () => {
    const stanza = makeStanza('message', { to: "o'neill@b", id: '<&>' }, [{ name: 'body', xmlns: 'jabber:client', text: '<body>ö</body>' }])
    const again = readStanza(stanza.bytes())
    expect(again.bytes().equals(stanza.bytes())).to.equal(true)
    expect(again.children).to.deep.equal(stanza.children)
    expect(readStanza(makeStanza('presence', { from: 'a@b' }).bytes()).toString()).to.equal("<presence from='a@b'/>")
  })

  it('agrees with the parser of the network about every stanza', () => {
    const LIMITS = { stanzaBytes: 1_000_000, depth: 100, attributes: 100, children: 10_000 }
    let parsed: Stanza | undefined
    const parser = new StreamParser(LIMITS, { streamOpened() {}, stanza(stanza) { parsed = stanza }, streamClosed() {} })
    parser.write(Buffer.from("<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"))
    const word = fc.stringMatching(/^[a-z][a-z0-9.-]{0,5}$/)
    const text = fc.stringMatching(/^[ -~äß€\u{1f600}]{0,12}$/u)
    const namespace = fc.constantFrom(undefined, 'urn:a', 'urn:b?x=1&y=2', 'jabber:client')
    const { tree } = fc.letrec<{ tree: Element }>((tie) => ({
      tree: fc.tuple(word, namespace, fc.dictionary(word, text, { maxKeys: 3 }), fc.array(fc.oneof(text, tie('tree')), { maxLength: 3 }))
        .map(([name, xmlns, attrs, children]) => xml(name, { ...attrs, xmlns }, children)),
    }))
    const message = fc.tuple(text, fc.array(tree, { maxLength: 4 })).map(([to, children]) => xml('message', { to }, children))
    fc.assert(fc.property(message, (element) => {
      parser.write(Buffer.from(element.toString()))
      const read = readStanza((parsed as Stanza).bytes())
      expect({ ...read.attrs }).to.deep.equal({ ...parsed?.attrs })
      expect(read.content.toString()).to.equal(parsed?.content.toString())
      expect(read.children).to.deep.equal(parsed?.children)
    }), { numRuns: 300 })
  })

  it('throws on what is no stanza', () => {
    for (const bad of ['', 'x', '<message', "<message to='", '<message to=']) expect(() => readStanza(Buffer.from(bad)), bad).to.throw(Error)
  })
})
