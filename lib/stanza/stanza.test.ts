import { expect } from 'chai'
import { escapeXml } from '../xml/element.ts'
import { CLIENT_NS, Stanza, makeStanza } from './stanza.ts'

const body = { name: 'body', xmlns: CLIENT_NS, text: '<body>Привет</body>' }

describe('stanzas as bytes', () => {
  it('encode a start tag of any length and script', () => {
    for (const id of ['short', 'длинный', '💬'.repeat(10), 'a'.repeat(1400), 'я'.repeat(1400), '€'.repeat(5000)]) {
      expect(makeStanza('message', { id }, [body]).bytes().toString()).to.equal(`<message id='${id}'><body>Привет</body></message>`)
    }
  })

  it('keep earlier ones when later ones are made', () => {
    const first = makeStanza('iq', { id: 'first' }, [body]).bytes()
    makeStanza('iq', { id: 'other' }, [body]).bytes()
    expect(first.toString()).to.equal("<iq id='first'><body>Привет</body></iq>")
  })

  it('name the namespace of what is no stanza, and close it by its own name', () => {
    expect(new Stanza('größe', 'urn:x', {}, Buffer.from('<a/>'), []).bytes().toString()).to.equal("<größe xmlns='urn:x'><a/></größe>")
    expect(new Stanza('r', 'urn:xmpp:sm:3', {}, Buffer.alloc(0), []).bytes().toString()).to.equal("<r xmlns='urn:xmpp:sm:3'/>")
  })

  it('take a child at the end, serialised before or not', () => {
    for (const name of ['message', 'größe']) {
      for (const isSerialised of [false, true]) {
        const stanza = makeStanza(name, { id: 'ä' }, [body])
        if (isSerialised) stanza.bytes()
        const longer = stanza.append('x', 'urn:x', "<x xmlns='urn:x'>я</x>")
        const expected = `<${name} id='ä'><body>Привет</body><x xmlns='urn:x'>я</x></${name}>`
        expect(longer.bytes().toString()).to.equal(expected)
        expect(longer.encode().toString()).to.equal(expected)
        expect(longer.content.toString()).to.equal("<body>Привет</body><x xmlns='urn:x'>я</x>")
        expect(longer.childElement(longer.find('x', 'urn:x') as never).text()).to.equal('я')
        expect(stanza.bytes().toString()).to.equal(`<${name} id='ä'><body>Привет</body></${name}>`)
      }
    }
  })

  it('leave attributes out and put new ones in', () => {
    const stanza = makeStanza('message', { to: 'a@b', id: '1' }, [body])
    expect(stanza.withAttrs({ to: undefined, from: "o'c@b" }).bytes().toString()).to.equal("<message id='1' from='o&apos;c@b'><body>Привет</body></message>")
    expect(stanza.toString()).to.equal("<message to='a@b' id='1'><body>Привет</body></message>")
  })

  it('are stamped with their sender and language', () => {
    const stanza = makeStanza('message', { from: 'somebody@else', to: 'a@b' }, [body])
    expect(stanza.stamped('c@d/e', 'de').toString()).to.equal("<message to='a@b' from='c@d/e' xml:lang='de'><body>Привет</body></message>")
    expect(stanza.stamped('c@d/e', undefined).toString()).to.equal("<message to='a@b' from='c@d/e'><body>Привет</body></message>")
    expect(makeStanza('message', { 'xml:lang': 'ru' }).stamped('c@d/e', 'de').toString()).to.equal("<message xml:lang='ru' from='c@d/e'/>")
  })

  it('are copied for many recipients', () => {
    for (const children of [[], [body]]) {
      const stanza = makeStanza('presence', { to: 'before', from: "o'c@b/я", type: 'unavailable' }, children)
      const copyFor = stanza.copies()
      for (const to of ['juliet@example.net', "o'c@b", 'ж@пример']) {
        const copy = copyFor(to)
        expect(Buffer.concat(copy.parts()).toString(), 'before its bytes are asked for').to.equal(stanza.withAttrs({ to }).toString())
        expect(copyFor(to, Buffer.from(escapeXml(to))).toString()).to.equal(copy.toString())
        expect(copy.parts()).to.deep.equal([copy.bytes()])
        expect(copy.to).to.equal(to)
        expect(copy.toString()).to.equal(stanza.withAttrs({ to }).toString())
      }
    }
  })

  it('are kept in memory of their own', () => {
    const stanza = makeStanza('message', { id: '1' }, [body])
    expect(stanza.content.buffer.byteLength).to.be.greaterThan(stanza.content.length)
    const compact = stanza.compact()
    expect(compact.content.buffer.byteLength).to.equal(stanza.content.length)
    expect(compact.toString()).to.equal(stanza.toString())
    expect(compact.children).to.deep.equal(stanza.children)
    expect(makeStanza('presence', { id: '1' }).compact().toString()).to.equal("<presence id='1'/>")
  })
})
