import { expect } from 'chai'
import fc from 'fast-check'
import type { Stanza } from '../stanza/stanza.ts'
import { StreamError } from '../stream/errors.ts'
import { parseElement } from './build.ts'
import { type ParserLimits, type StreamHeader, StreamParser } from './parser.ts'

const LIMITS: ParserLimits = { stanzaBytes: 4096, depth: 8, attributes: 8, children: 8 }
const HEADER = "<?xml version='1.0'?><stream:stream to='example.org' version='1.0' xml:lang='en' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"

class Recorder {
  readonly headers: StreamHeader[] = []
  readonly stanzas: Stanza[] = []
  closed = 0
  readonly parser: StreamParser
  onStanza: ((stanza: Stanza) => void) | undefined

  constructor(limits: ParserLimits = LIMITS) {
    this.parser = new StreamParser(limits, {
      streamOpened: (header) => void this.headers.push(header),
      stanza: (stanza) => {
        this.stanzas.push(stanza)
        this.onStanza?.(stanza)
      },
      streamClosed: () => void this.closed++,
    })
  }

  write(text: string | Buffer): this {
    this.parser.write(Buffer.from(text))
    return this
  }

  /** As the wire would have it, each in a buffer that is overwritten afterwards. */
  get texts(): string[] {
    return this.stanzas.map(String)
  }
}

const opened = (limits?: ParserLimits): Recorder => new Recorder(limits).write(HEADER)

/** The stream error that these bytes end the stream with. */
function conditionOf(run: () => unknown): string {
  try {
    run()
  } catch (error) {
    if (error instanceof StreamError) return error.condition
    throw error
  }
  return 'none'
}
const after = (text: string | Buffer): string => conditionOf(() => opened().write(text))
const first = (text: string | Buffer): string => conditionOf(() => new Recorder().write(text))

describe('the wire parser', () => {
  it('tells the stream header, its stanzas and its end', () => {
    const { headers, stanzas, closed } = opened().write("\n<message to='a' type='chat'><body>hi</body><x xmlns='y'><z/></x></message> <presence/></stream:stream>")
    expect(headers).to.have.length(1)
    expect({ ...headers[0]?.attrs }).to.deep.equal({ to: 'example.org', version: '1.0', 'xml:lang': 'en' })
    expect(headers[0]?.prefixes['stream']).to.equal('http://etherx.jabber.org/streams')
    expect(stanzas.map((stanza) => stanza.name)).to.deep.equal(['message', 'presence'])
    const [message] = stanzas
    expect(message?.content.toString()).to.equal("<body>hi</body><x xmlns='y'><z/></x>")
    expect(message?.children).to.deep.equal([
      { name: 'body', xmlns: 'jabber:client', start: 0, end: 15 },
      { name: 'x', xmlns: 'y', start: 15, end: 36 },
    ])
    expect(closed).to.equal(1)
  })

  it('keeps nothing of the chunk', () => {
    const recorder = opened()
    const chunk = Buffer.from('<message><body>one</body></message><message><body>tw')
    recorder.parser.write(chunk)
    chunk.fill(0)
    recorder.write('o</body></message>')
    expect(recorder.texts).to.deep.equal(['<message><body>one</body></message>', '<message><body>two</body></message>'])
    expect(recorder.parser.idle).to.equal(true)
  })

  it('unescapes and normalises attribute values', () => {
    const { stanzas } = opened().write("<message to='a&amp;b&#x1F600;&#10;' id=\"it's\" from='é\r\n&quot;\tü' __proto__='p'/>")
    expect({ ...stanzas[0]?.attrs }).to.deep.equal({ to: 'a&b😀\n', id: "it's", from: 'é " ü', ['__proto__']: 'p' })
  })

  it('makes a stanza that needs a prefix of the stream header self-contained', () => {
    const { stanzas } = opened().write('<message><stream:x><stream:y/></stream:x></message>')
    expect(String(stanzas[0])).to.equal("<message xmlns:stream='http://etherx.jabber.org/streams'><stream:x><stream:y/></stream:x></message>")
  })

  it('normalises a prefixed stanza to its default namespace', () => {
    const { stanzas } = opened().write("<stream:features><a b='c'/><d xmlns='e'>f</d><g>h</g></stream:features><c:message xmlns:c='jabber:client'><body/></c:message>")
    const [features, message] = stanzas
    expect(features?.xmlns).to.equal('http://etherx.jabber.org/streams')
    expect(features?.content.toString()).to.equal("<a xmlns='jabber:client' b='c'/><d xmlns='e'>f</d><g xmlns='jabber:client'>h</g>")
    expect(features?.children.map((child) => features.content.subarray(child.start, child.end).toString())).to.deep.equal(["<a xmlns='jabber:client' b='c'/>", "<d xmlns='e'>f</d>", "<g xmlns='jabber:client'>h</g>"])
    expect(message?.isStanza).to.equal(true)
    expect(message?.has('body')).to.equal(true)
  })

  it('allows text in a first-level element, as SASL needs', () => {
    const { stanzas } = opened().write("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGE&#x41;<![CDATA[=]]></auth>")
    expect(stanzas[0]?.element().getText()).to.equal('AGEA=')
  })

  it('expects a new header after reset, and stops after pause (RFC 6120 §5.4.3.3)', () => {
    const recorder = opened()
    recorder.onStanza = () => recorder.parser.pause()
    recorder.write("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/><message/>")
    expect(recorder.stanzas).to.have.length(1)
    expect(recorder.parser.takeRest().toString()).to.equal('<message/>')
    recorder.onStanza = undefined
    recorder.parser.reset()
    recorder.write(HEADER).parser.resume()
    expect(recorder.headers).to.have.length(2)
    recorder.onStanza = () => {
      recorder.onStanza = undefined
      recorder.parser.reset()
    }
    recorder.write(`<message/>${HEADER}<iq/>`)
    expect(recorder.headers).to.have.length(3)
    expect(recorder.texts.at(-1)).to.equal('<iq/>')
  })

  const cases: [string, string, string | Buffer][] = [
    ['restricted-xml', 'a comment', '<message><!-- no --></message>'],
    ['restricted-xml', 'a comment between stanzas', '<!-- no -->'],
    ['restricted-xml', 'a processing instruction', '<message><?php ?></message>'],
    ['restricted-xml', 'a document type', '<!DOCTYPE a>'],
    ['restricted-xml', 'an XML declaration in the stream', "<?xml version='1.0'?>"],
    ['not-well-formed', 'an undeclared entity', '<message>&nbsp;</message>'],
    ['not-well-formed', 'a bare ampersand', '<message>a & b</message>'],
    ['not-well-formed', 'a reference to a character that XML has not', '<message>&#0;</message>'],
    ['not-well-formed', 'a reference to a surrogate', '<message>&#xD800;</message>'],
    ['not-well-formed', 'a reference beyond Unicode', '<message>&#x110000;</message>'],
    ['not-well-formed', 'a wrong end tag', '<message><body></message>'],
    ['not-well-formed', 'an end tag whose name goes on', '<message></messages>'],
    ['not-well-formed', 'the wrong end of the stream', '</stream>'],
    ['not-well-formed', 'an attribute twice', "<message to='a' to='b'/>"],
    ['not-well-formed', 'an attribute twice by its expanded name', "<m xmlns:a='x' xmlns:b='x'><n a:c='' b:c=''/></m>"],
    ['not-well-formed', 'an undeclared prefix', '<message><a:b/></message>'],
    ['not-well-formed', 'an undeclared prefix of an attribute', "<message a:b=''/>"],
    ['not-well-formed', 'a prefix out of its scope', "<message><a xmlns:p='q'/><p:b/></message>"],
    ['not-well-formed', 'an undeclaring of a prefix', "<message xmlns:a=''/>"],
    ['not-well-formed', 'a declaration of xmlns', "<message xmlns:xmlns='a'/>"],
    ['not-well-formed', 'another prefix for the xml namespace', "<message xmlns:a='http://www.w3.org/XML/1998/namespace'/>"],
    ['not-well-formed', 'two colons in a name', "<a:b:c xmlns:a='x'/>"],
    ['not-well-formed', 'a name that starts with a digit', '<1/>'],
    ['not-well-formed', 'an attribute without quotes', '<message to=a/>'],
    ['not-well-formed', 'an attribute without value', '<message to/>'],
    ['not-well-formed', 'attributes without a blank between', "<message to='a'id='b'/>"],
    ['not-well-formed', '< in an attribute value', "<message to='<'/>"],
    ['not-well-formed', ']]> in text', '<message>]]></message>'],
    ['not-well-formed', 'a control character', '<message>\u0001</message>'],
    ['not-well-formed', 'a control character in CDATA', '<message><![CDATA[\u0000]]></message>'],
    ['not-well-formed', 'U+FFFF', '<message>\uFFFF</message>'],
    ['not-well-formed', 'a surrogate in UTF-8', Buffer.from([...Buffer.from('<message>'), 0xed, 0xa0, 0x80])],
    ['not-well-formed', 'an overlong sequence', Buffer.from([...Buffer.from('<message>'), 0xc0, 0x80])],
    ['not-well-formed', 'an overlong sequence of three', Buffer.from([...Buffer.from('<message>'), 0xe0, 0x80, 0x80])],
    ['not-well-formed', 'beyond U+10FFFF', Buffer.from([...Buffer.from('<message>'), 0xf4, 0x90, 0x80, 0x80])],
    ['not-well-formed', 'a cut sequence', Buffer.from([...Buffer.from('<message>'), 0xe2, 0x82, 0x20])],
    ['bad-format', 'text between stanzas', 'hello'],
    ['bad-format', 'CDATA between stanzas', '<![CDATA[a]]>'],
    ['policy-violation', 'a stanza too large', `<message>${'a'.repeat(4096)}</message>`],
    ['policy-violation', 'a tag too large', `<message to='${'a'.repeat(4096)}`],
    ['policy-violation', 'elements too deep', '<a>'.repeat(9)],
    ['policy-violation', 'too many attributes', `<a ${Array.from('abcdefghi').map((name) => `${name}=''`).join(' ')}/>`],
    ['policy-violation', 'too many children', `<a>${'<b/>'.repeat(9)}`],
    ['policy-violation', 'too many elements, at two depths', `<a>${'<b><c/></b>'.repeat(4)}<b/>`],
    ['none', 'U+FEFF, which is a character like others (RFC 6120 §11.6)', '<message>\uFEFF</message>'],
    ['none', 'CDATA, brackets and greater-than', '<message>]] > ]><![CDATA[ <&]] ]]]>></message>'],
    ['none', 'a character reference with leading zeros', '<message>&#x00000041;</message>'],
    ['none', 'names outside ASCII', "<é ü='ö'/>"],
    ['none', 'blanks in tags', "<message \r\n to = 'a'\t></message >"],
  ]
  for (const [condition, what, text] of cases) {
    it(`answers ${what} with ${condition}`, () => {
      expect(after(text)).to.equal(condition)
      const recorder = opened()
      expect(conditionOf(() => { for (const byte of Buffer.from(text)) recorder.write(Buffer.of(byte)) }), 'byte by byte').to.equal(condition)
    })
  }

  const headers: [string, string, string | Buffer][] = [
    ['none', 'a header without XML declaration', HEADER.slice(HEADER.indexOf('?>') + 2)],
    ['none', 'another prefix for the stream', HEADER.replaceAll('stream:', 'x:').replaceAll(':stream=', ':x=')],
    ['none', 'the encoding UTF-8', HEADER.replace("'?>", "' encoding=\"utf-8\" standalone='yes' ?>")],
    ['unsupported-encoding', 'another encoding', HEADER.replace("'?>", "' encoding='ISO-8859-1'?>")],
    ['unsupported-encoding', 'UTF-16', Buffer.from(HEADER, 'utf16le')],
    ['unsupported-encoding', 'UTF-16 with byte order mark', Buffer.from(`\uFEFF${HEADER}`, 'utf16le')],
    ['not-well-formed', 'a blank before the XML declaration', ` ${HEADER}`],
    ['not-well-formed', 'XML 2.0', HEADER.replace('1.0', '2.0')],
    ['restricted-xml', 'a processing instruction', '<?php ?>'],
    ['restricted-xml', 'a document type', '<!DOCTYPE a>'],
    ['bad-format', 'another root', HEADER.replace('stream:stream', 'stream:streams')],
    ['bad-format', 'no XML', 'GET / HTTP/1.1\r\n'],
    ['invalid-namespace', 'another namespace', HEADER.replace('etherx.jabber.org', 'example.org')],
    ['invalid-namespace', 'another default namespace', HEADER.replace('jabber:client', 'jabber:server')],
    ['invalid-namespace', 'no default namespace', HEADER.replace("xmlns='jabber:client'", '')],
    ['bad-namespace-prefix', 'an undeclared prefix', HEADER.replace('xmlns:stream', 'xmlns:foobar')],
    ['bad-namespace-prefix', 'no prefix', HEADER.replace('stream:stream', 'stream')],
    ['policy-violation', 'a header too large', HEADER.replace('example.org', 'a'.repeat(5000))],
  ]
  for (const [condition, what, text] of headers) {
    it(`answers ${what} at the start with ${condition}`, () => expect(first(text)).to.equal(condition))
  }

  it('takes other limits when told', () => {
    const recorder = opened()
    recorder.parser.limits = { ...LIMITS, stanzaBytes: 16 }
    expect(conditionOf(() => recorder.write('<message>too long now'))).to.equal('policy-violation')
  })

  it('stays broken after an error', () => {
    const recorder = opened()
    expect(conditionOf(() => recorder.write('<a></b>'))).to.equal('not-well-formed')
    recorder.write('<message/>')
    expect(recorder.stanzas).to.have.length(0)
  })

  it('does work linear in the bytes, however a stanza is cut', () => {
    const bytes = Buffer.from(`<message to='${'>'.repeat(200_000)}'><body>${'é&amp;'.repeat(20_000)}</body></message>`)
    const recorder = opened({ ...LIMITS, stanzaBytes: 1_000_000 })
    const start = process.cpuUsage()
    for (let at = 0; at < bytes.length; at++) recorder.parser.write(bytes.subarray(at, at + 1))
    const used = process.cpuUsage(start)
    expect(recorder.stanzas).to.have.length(1)
    expect(used.user, 'microseconds').to.be.below(3_000_000)
  })
})

describe('the wire parser, by properties', () => {
  const name = fc.constantFrom('a', 'body', 'message', 'é', 'p:x', 'stream:y')
  const text = fc.array(fc.constantFrom('a', ' ', '&lt;', '&#x1F600;', 'é', '€', '😀', '>', ']] ', ' <![CDATA[<&]>]]> ', '\r\n', '"'), { maxLength: 6 }).map((parts) => parts.join(''))
  const value = fc.array(fc.constantFrom('a', '&amp;', 'é', '😀', '>', '"', '\n', 'urn:x'), { maxLength: 4 }).map((parts) => parts.join(''))
  const attributes = fc.uniqueArray(fc.tuple(fc.constantFrom('to', 'id', 'type', 'xml:lang', 'p:q', 'ü'), value), { maxLength: 3, selector: ([key]) => key })
  const { element } = fc.letrec<{ element: string }>((tie) => ({
    element: fc.record({ name, attributes, xmlns: fc.option(fc.constantFrom('urn:a', 'jabber:client')), children: fc.array(fc.oneof({ depthSize: 'small' }, text, tie('element')), { maxLength: 4 }) }).map(
      ({ name: tag, attributes: pairs, xmlns, children }) =>
        `<${tag} xmlns:p='urn:p'${xmlns ? ` xmlns='${xmlns}'` : ''}${pairs.map(([key, content]) => ` ${key}='${content}'`).join('')}${children.length ? `>${children.join('')}</${tag} >` : '/>'}`,
    ),
  }))
  const stream = fc.array(element, { minLength: 1, maxLength: 5 }).map((elements) => Buffer.from(`${HEADER}${elements.join('\n')}</stream:stream>`))
  const wide: ParserLimits = { stanzaBytes: 1_000_000, depth: 100, attributes: 20, children: 1000 }

  it('gives the same stanzas wherever the bytes are cut', () => {
    fc.assert(
      fc.property(stream, fc.array(fc.nat(400), { maxLength: 12 }), (bytes, cuts) => {
        const whole = new Recorder(wide).write(bytes)
        const cut = new Recorder(wide)
        let at = 0
        for (const length of cuts) {
          const chunk = Buffer.from(bytes.subarray(at, at + length))
          cut.parser.write(chunk)
          chunk.fill(0x3c)
          at = Math.min(bytes.length, at + length)
        }
        cut.write(bytes.subarray(at))
        const single = new Recorder(wide)
        for (const byte of bytes) single.write(Buffer.of(byte))
        for (const other of [cut, single]) {
          expect(other.stanzas.map(({ name: tag, xmlns, attrs, content, children }) => ({ tag, xmlns, attrs, content: content.toString(), children }))).to.deep.equal(
            whole.stanzas.map(({ name: tag, xmlns, attrs, content, children }) => ({ tag, xmlns, attrs, content: content.toString(), children })),
          )
          expect(other.closed).to.equal(1)
        }
      }),
      { numRuns: 300 },
    )
  })

  it('gives stanzas that are well-formed by themselves, with children where the spans say', () => {
    fc.assert(
      fc.property(stream, (bytes) => {
        for (const stanza of new Recorder(wide).write(bytes).stanzas) {
          const again = opened(wide).write(stanza.bytes())
          expect(again.texts).to.deep.equal([String(stanza)])
          const tree = stanza.element()
          expect(tree.getNS() ?? 'jabber:client').to.equal(stanza.xmlns)
          expect(tree.getChildElements().map((child) => [child.getName(), child.getNS() ?? 'jabber:client'])).to.deep.equal(stanza.children.map((child) => [child.name, child.xmlns]))
          for (const child of stanza.children) expect(stanza.childElement(child).getNS()).to.equal(child.xmlns)
        }
      }),
      { numRuns: 300 },
    )
  })

  it('throws nothing but StreamError, whatever comes', () => {
    const mutation = fc.tuple(fc.nat(), fc.constantFrom('replace', 'insert', 'delete'), fc.oneof(fc.constantFrom(...Buffer.from('<>/&;\'"=!?[]: x')), fc.nat(255)))
    fc.assert(
      fc.property(stream, fc.array(mutation, { minLength: 1, maxLength: 5 }), fc.nat(100), (bytes, mutations, size) => {
        let changed = bytes
        for (const [where, how, byte] of mutations) {
          const at = where % changed.length
          changed = Buffer.concat([changed.subarray(0, at), how === 'delete' ? Buffer.alloc(0) : Buffer.of(byte), changed.subarray(how === 'insert' ? at : at + 1)])
        }
        const recorder = new Recorder(wide)
        conditionOf(() => { for (let at = 0; at < changed.length; at += size + 1) recorder.write(changed.subarray(at, at + size + 1)) })
        for (const stanza of recorder.stanzas) expect(opened(wide).write(stanza.bytes()).stanzas, 'what passes is well-formed').to.have.length(1)
      }),
      { numRuns: 1000 },
    )
  })
})

describe('parseElement', () => {
  it('builds a tree', () => {
    const tree = parseElement("<iq type='get'>\n<query xmlns='jabber:iq:roster' ver='a&#38;b'/>x &lt; y<![CDATA[<z>]]></iq>")
    expect(tree.getChild('query', 'jabber:iq:roster')?.attrs['ver']).to.equal('a&b')
    expect(tree.getText()).to.equal('\nx < y<z>')
  })

  it('refuses what the wire would refuse', () => {
    expect(conditionOf(() => parseElement('<a><b></a>'))).to.equal('not-well-formed')
    expect(() => parseElement('<a/><b/>')).to.throw()
    expect(() => parseElement('<a>')).to.throw()
  })
})
