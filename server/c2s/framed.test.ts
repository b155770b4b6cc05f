import { expect } from 'chai'
import { CLIENT_NS, makeStanza } from '../../lib/stanza/stanza.ts'
import { StreamError } from '../../lib/stream/errors.ts'
import { CLOSE_XML, openXml, readFrame } from '../../lib/stream/framing.ts'
import { parseElement } from '../../lib/xml/build.ts'
import { FramedConnection, type Transport, type Written } from './framed.ts'

const FRAMING = 'urn:ietf:params:xml:ns:xmpp-framing'
const STREAMS = 'http://etherx.jabber.org/streams'

function failure(frame: string): string {
  try {
    readFrame(Buffer.from(frame))
  } catch (error) {
    if (error instanceof StreamError) return error.condition
    throw error
  }
  return 'none'
}

class FakeTransport implements Transport {
  backlog = 0
  readonly sent: string[] = []
  readonly taken: (Written | undefined)[] = []
  readonly calls: string[] = []
  emit(element: Buffer, taken?: Written): void {
    this.sent.push(element.toString())
    this.taken.push(taken)
  }
  end(): void { this.calls.push('end') }
  destroy(): void { this.calls.push('destroy') }
  pause(): void { this.calls.push('pause') }
  resume(): void { this.calls.push('resume') }
}

describe('Streams of elements (RFC 7395)', () => {
  it('reads the beginning and the end of a stream as those of RFC 6120', () => {
    const read = (text: string): [string, string] => {
      const { kind, bytes } = readFrame(Buffer.from(text))
      return [kind, bytes.toString()]
    }
    const header = `<stream:stream xmlns='${CLIENT_NS}' xmlns:stream='${STREAMS}' to='a.example' version='1.0'>`
    expect(read(`<open xmlns='${FRAMING}' to='a.example' version='1.0'/>`)).to.deep.equal(['open', header])
    expect(read(`<?xml version="1.0"?>\n<open to="a.example" version="1.0" xmlns="${FRAMING}"></open>\n`)).to.deep.equal(['open', header])
    expect(read(`<open xmlns='${FRAMING}' to='&lt;&apos;'/>`)[1]).to.contain(` to='&lt;&apos;'>`)
    expect(read(`<close xmlns='${FRAMING}' see-other-uri='wss://b.example/'/>`)).to.deep.equal(['close', '</stream:stream>'])
    expect(read("<message to='a@b'/> \r\n")).to.deep.equal(['element', "<message to='a@b'/>"])
    expect(read("<opening xmlns='x'/>")[0]).to.equal('element')
  })

  it('§3.3: names what is wrong with a frame', () => {
    expect(failure('')).to.equal('not-well-formed')
    expect(failure(" <presence/>")).to.equal('not-well-formed')
    expect(failure('</stream:stream>')).to.equal('not-well-formed')
    expect(failure("<?xml version='1.0'?>")).to.equal('not-well-formed')
    expect(failure("<open to='a.example'/>")).to.equal('invalid-namespace')
    expect(failure(`<close xmlns='${STREAMS}'/>`)).to.equal('invalid-namespace')
    expect(failure(`<open xmlns='${FRAMING}' to='a.example'>`)).to.equal('not-well-formed')
    expect(failure(`<open xmlns='${FRAMING}'/><presence/>`)).to.equal('not-well-formed')
  })

  it('§3.3.3: writes elements that are documents of their own, in as many parts as they come', () => {
    const transport = new FakeTransport()
    const connection = new FramedConnection(transport)
    const elements = [
      [openXml("from='a.example'")], ["<stream:features><bind xmlns='x'/></stream:features>"], ["<stream:error><reset xmlns='y'/></stream:error>"],
      ["<message to='", 'a@b', "'/>"], ['<presence/>'], ['<iq/>'], ["<r xmlns='urn:xmpp:sm:3'/>"], ["<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"], ["<proceed xmlns='z'/>"], ["<mechanism xmlns='z'/>"],
    ]
    const parts: Buffer[] = []
    for (const element of elements) {
      parts.push(...element.map((part) => Buffer.from(part)))
      connection.elementEnds(parts.length)
    }
    let taken = 0
    connection.writeParts(parts, () => taken++)
    expect(transport.sent).to.deep.equal([
      `<open xmlns='${FRAMING}' from='a.example'/>`, `<stream:features xmlns:stream='${STREAMS}'><bind xmlns='x'/></stream:features>`, `<stream:error xmlns:stream='${STREAMS}'><reset xmlns='y'/></stream:error>`,
      `<message xmlns='${CLIENT_NS}' to='a@b'/>`, `<presence xmlns='${CLIENT_NS}'/>`, `<iq xmlns='${CLIENT_NS}'/>`, "<r xmlns='urn:xmpp:sm:3'/>", "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>", "<proceed xmlns='z'/>", "<mechanism xmlns='z'/>",
    ])
    for (const each of transport.sent) parseElement(each)
    // All is taken when the last one is.
    expect(transport.taken.map((each) => each !== undefined)).to.deep.equal([...Array.from({ length: elements.length - 1 }, () => false), true])
    transport.taken.at(-1)?.()
    expect(taken).to.equal(1)
    connection.write(CLOSE_XML)
    expect(transport.sent.at(-1)).to.equal(`<close xmlns='${FRAMING}'/>`)
  })

  it('declares the namespace of every stanza that is kept in parts', () => {
    const transport = new FakeTransport()
    const connection = new FramedConnection(transport)
    const copy = makeStanza('message', { from: 'room@a.example/é', type: 'groupchat' }, [{ name: 'body', xmlns: CLIENT_NS, text: '<body>ü</body>' }]).copies()('b@a.example')
    expect(copy.parts().length).to.be.greaterThan(1)
    connection.elementEnds(copy.parts().length)
    connection.writeParts(copy.parts())
    expect(parseElement(transport.sent[0] as string).attrs).to.deep.equal({ xmlns: CLIENT_NS, from: 'room@a.example/é', type: 'groupchat', to: 'b@a.example' })
  })

  it('keeps what comes while it is paused, in order, and asks for no more', () => {
    const transport = new FakeTransport()
    const connection = new FramedConnection(transport)
    const seen: string[] = []
    connection.on('data', (chunk: Buffer) => {
      seen.push(chunk.toString())
      if (chunk.toString() === '<b/>') connection.pause()
      // What comes now is behind what waits.
      if (chunk.toString() === '<c/>') connection.receive('<e/>')
    })
    for (const each of ['<a/>', '<b/>', '<c/>', '<d/>']) connection.receive(each)
    expect([seen, transport.calls]).to.deep.equal([['<a/>', '<b/>'], ['pause']])
    connection.resume()
    expect([seen, transport.calls]).to.deep.equal([['<a/>', '<b/>', '<c/>', '<d/>', '<e/>'], ['pause', 'resume']])
  })

  it('is over when its transport is', () => {
    const transport = new FakeTransport()
    const connection = new FramedConnection(transport)
    let closed = 0
    connection.on('close', () => closed++)
    connection.gone()
    connection.gone()
    connection.receive('<a/>')
    let error: Error | null | undefined
    connection.elementEnds(1)
    connection.writeParts([Buffer.from('<a/>')], (failed) => { error = failed })
    expect([closed, connection.destroyed, transport.sent, error?.message]).to.deep.equal([1, true, [], 'the connection is gone'])
  })
})
