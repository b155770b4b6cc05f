import { expect } from 'chai'
import { parseElement } from '../../../lib/xml/build.ts'
import { BindingError, readBody, writeBody } from './body.ts'

const LIMITS = { stanzaBytes: 10_000, depth: 10, attributes: 20, children: 50 }
const NS = 'http://jabber.org/protocol/httpbind'
const read = (text: string): ReturnType<typeof readBody> => readBody(Buffer.from(text), LIMITS)

describe('XEP-0124 §6: the body', () => {
  it('has attributes, those of XMPP by whatever prefix they have', () => {
    const { attrs, xmpp, payloads } = read(`<body xmlns='${NS}' xmlns:x='urn:xmpp:xbosh' rid='5' x:version='1.0' x:restart='true' xml:lang='de'/>`)
    expect(attrs['rid']).to.equal('5')
    expect(attrs['xml:lang']).to.equal('de')
    expect({ ...xmpp }).to.deep.equal({ version: '1.0', restart: 'true' })
    expect(payloads).to.deep.equal([])
  })

  it('has payloads that stand alone', () => {
    const texts = (text: string): string[] => read(text).payloads.map(String)
    expect(texts(`<body xmlns='${NS}' rid='1'> <message to='a'><body>x</body></message>\n<presence xmlns='jabber:client'/></body>`))
      .to.deep.equal(["<message xmlns='jabber:client' to='a'><body>x</body></message>", "<presence xmlns='jabber:client'/>"])
    expect(texts(`<body xmlns='${NS}' rid='1'><message to=" xmlns='x'>"/></body>`)).to.deep.equal(["<message xmlns='jabber:client' to=\" xmlns='x'>\"/>"])
    expect(texts(`<body xmlns='${NS}' xmlns:c='jabber:client' rid='1'><c:message><c:body/></c:message></body>`)).to.deep.equal(["<c:message xmlns:c='jabber:client'><c:body/></c:message>"])
    expect(texts(`<body xmlns='${NS}' xmlns:t='urn:x' rid='1'><message><t:a/></message></body>`)).to.deep.equal(["<message xmlns:t='urn:x' xmlns='jabber:client'><t:a/></message>"])
    expect(texts(`<h:body xmlns:h='${NS}' rid='1'><message/></h:body>`)[0]).to.match(/^<message xmlns='jabber:client'\s*\/>$/)
  })

  it('may follow an XML declaration', () => {
    expect(read(`<?xml version='1.0' encoding="UTF-8"?>\n<body xmlns='${NS}' rid='1'/>`).attrs['rid']).to.equal('1')
    expect(() => read(`<?xml version='1.0' encoding='latin1'?><body xmlns='${NS}' rid='1'/>`)).to.throw(BindingError)
  })

  it('is refused when it is not one well-formed element of restricted XML', () => {
    const bad = [
      '', 'nothing', `<body xmlns='${NS}'>`, `<body xmlns='${NS}'/><body xmlns='${NS}'/>`, `<body xmlns='${NS}'/>x`, `<body rid='1'/>`, `<other xmlns='${NS}'/>`,
      `<body xmlns='${NS}'>text</body>`, `<body xmlns='${NS}'><![CDATA[x]]></body>`, `<body xmlns='${NS}'><a/>text</body>`, `<body xmlns='${NS}'><!-- c --></body>`, `<body xmlns='${NS}'><?p i?></body>`,
      `<!DOCTYPE body [<!ENTITY a 'b'>]><body xmlns='${NS}'>&a;</body>`, `<body xmlns='${NS}' rid='&a;'/>`, `<body xmlns='${NS}'></t:stream>`, `<body xmlns='${NS}'/></t:stream>`,
      `<body xmlns='${NS}'/></t:stream><t:stream xmlns='jabber:client' xmlns:t='http://etherx.jabber.org/streams'>`, `<body xmlns='${NS}' x:y='1'/>`, `<?xml version='1.0'?><?xml version='1.0'?><body xmlns='${NS}'/>`,
    ]
    for (const text of bad) {
      let condition: string | undefined
      try { read(text) } catch (error) { condition = error instanceof BindingError ? error.condition : String(error) }
      expect(condition, text).to.equal('bad-request')
    }
    for (const bytes of [Buffer.from([0xff, 0xfe]), Buffer.concat([Buffer.from(`<body xmlns='${NS}' rid='`), Buffer.from([0xc0, 0x80]), Buffer.from("'/>")])]) expect(() => readBody(bytes, LIMITS)).to.throw(BindingError)
  })

  it('is refused as a violation beyond the limits', () => {
    for (const text of [`<body xmlns='${NS}' a='${'x'.repeat(10_000)}'/>`, `<body xmlns='${NS}'>${'<a>'.repeat(20)}${'</a>'.repeat(20)}</body>`, `<body xmlns='${NS}'>${'<a/>'.repeat(60)}</body>`]) {
      expect(() => read(text)).to.throw(BindingError).with.property('condition', 'policy-violation')
    }
  })

  it('is written with what it needs declared, and nothing can break out of an attribute', () => {
    const bytes = writeBody({ sid: "a'b<&", 'xmpp:version': '1.0', ack: undefined }, [Buffer.from('<stream:features/>')])
    const element = parseElement(bytes)
    expect(element.attrs['sid']).to.equal("a'b<&")
    expect(element.attrs['xmlns:stream']).to.equal('http://etherx.jabber.org/streams')
    expect(element.attrs['ack']).to.equal(undefined)
  })
})
