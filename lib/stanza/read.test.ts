import { expect } from 'chai'
import { readStanza } from './read.ts'
import { makeStanza } from './stanza.ts'

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

  it('throws on what is no stanza', () => {
    for (const bad of ['', 'x', '<message', "<message to='", '<message to=']) expect(() => readStanza(Buffer.from(bad)), bad).to.throw(Error)
  })
})
