/** What bytes get: every mistake on the wire is answered with the error its RFC or XEP names, never with silence. */
import { expect } from 'chai'
import { readdirSync } from 'node:fs'
import { once } from 'node:events'
import net from 'node:net'
import tls from 'node:tls'
import { digest, hmac, saltPassword, xor } from '../../lib/sasl/scram-keys.ts'
import { StreamParser } from '../../lib/xml/parser.ts'
import { startTestServer, TEST_CONFIG, type TestServer } from '../test-server.ts'

const LIMITS = `
tidings:
  limits:
    stanza_bytes: 40000
    pre_auth_stanza_bytes: 10000
    pre_auth_bytes: 60000
    depth: 20
    attributes: 20
    children: 50
    auth_tries: 3
    close_timeout: 1 second
    outbound_bytes: 1000000
    resume_queue_bytes: 500000
    connections_per_address: 400
`
const CONFIG = TEST_CONFIG.replace('max_user_sessions: 20', 'max_user_sessions: 6')
  .replace('listen:\n', 'listen:\n  - { port: 0, ip: 127.0.0.1, module: ejabberd_c2s, starttls_required: true }\n') + LIMITS

const STREAMS = 'http://etherx.jabber.org/streams'
const SASL = 'urn:ietf:params:xml:ns:xmpp-sasl'
const BIND = 'urn:ietf:params:xml:ns:xmpp-bind'
const SM = 'urn:xmpp:sm:3'
const STARTTLS = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
const HEADER = `<?xml version='1.0'?><stream:stream to='localhost' version='1.0' xmlns='jabber:client' xmlns:stream='${STREAMS}'>`
const HEADER_WITH = (attrs: string): string => `<stream:stream ${attrs} xmlns='jabber:client' xmlns:stream='${STREAMS}'>`

type Bytes = string | Buffer

/** A socket that says what it is told, and keeps what it hears. */
class Raw {
  socket: net.Socket
  text = ''
  taken = 0
  closed = false
  #wake: (() => void) | undefined
  constructor(socket: net.Socket) {
    this.socket = socket
    this.attach(socket)
  }

  attach(socket: net.Socket): void {
    this.socket = socket
    socket.on('data', (chunk: Buffer) => {
      this.text += chunk.toString()
      this.#wake?.()
    })
    socket.on('error', () => {})
    socket.on('close', () => {
      this.closed = true
      this.#wake?.()
    })
  }

  static async open(port: number, direct = false): Promise<Raw> {
    const socket = direct ? tls.connect({ host: '127.0.0.1', port, servername: 'localhost', ALPNProtocols: ['xmpp-client'], rejectUnauthorized: false }) : net.connect(port, '127.0.0.1')
    const raw = new Raw(socket)
    await once(socket, direct ? 'secureConnect' : 'connect')
    socket.setNoDelay(true)
    return raw
  }

  send(bytes: Bytes): this {
    if (!this.closed) this.socket.write(bytes)
    return this
  }

  /** Waits until `done`, and gives what is new since the last time. */
  async until(done: (fresh: string) => boolean, what: string, ms = 5000): Promise<string> {
    const end = Date.now() + ms
    for (;;) {
      const fresh = this.text.slice(this.taken)
      if (done(fresh)) {
        this.taken = this.text.length
        return fresh
      }
      const left = end - Date.now()
      if (left <= 0 || this.closed) throw new Error(`${this.closed ? 'closed' : 'silence'} instead of ${what}; heard ${JSON.stringify(fresh.slice(0, 600))}`)
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left)
        this.#wake = () => {
          clearTimeout(timer)
          resolve()
        }
      })
    }
  }

  hears(pattern: RegExp, ms?: number): Promise<string> {
    return this.until((fresh) => pattern.test(fresh), String(pattern), ms)
  }

  async closes(ms = 5000): Promise<string> {
    const end = Date.now() + ms
    while (!this.closed) {
      if (Date.now() > end) throw new Error(`still open; heard ${JSON.stringify(this.text.slice(this.taken, this.taken + 600))}`)
      await new Promise((resolve) => setTimeout(resolve, 2))
    }
    return this.text.slice(this.taken)
  }

  /** The stream ends with this error; `header` when a new header has to come before it. */
  async streamError(condition: string, header = false, ms?: number): Promise<void> {
    const fresh = await this.closes(ms)
    expect(fresh).to.match(new RegExp(`<stream:error><${condition} xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>(<text .*</text>)?.*</stream:error></stream:stream>$`))
    if (header) {
      expect(fresh).to.match(/^<\?xml version='1.0'\?><stream:stream /)
      wellFormed(fresh)
    }
  }

  leave(): void { this.socket.destroy() }
}

/** One stream, whole, and nothing behind it. */
function wellFormed(text: string): void {
  let ends = 0
  let headers = 0
  const parser = new StreamParser({ stanzaBytes: 1e6, depth: 100, attributes: 100, children: 1000 }, { streamOpened: () => { headers++ }, stanza() {}, streamClosed: () => { ends++ } })
  parser.write(Buffer.from(text))
  expect(text.match(/<stream:stream/g)).to.have.length(1)
  expect([headers, ends]).to.deep.equal([1, 1])
}

const b64 = (text: string): string => Buffer.from(text).toString('base64')
const auth = (mechanism: string, data: string): string => `<auth xmlns='${SASL}' mechanism='${mechanism}'>${data}</auth>`
const plain = (user: string, password = 'secret', authzid = ''): string => auth('PLAIN', b64(`${authzid}\0${user}\0${password}`))

let server: TestServer
const ports = { required: 0, plain: 0, tls: 0 }

const opened = async (secure = true): Promise<Raw> => {
  const raw = await Raw.open(secure ? ports.tls : ports.plain, secure)
  raw.send(HEADER)
  await raw.hears(/<\/stream:features>/)
  return raw
}
const loggedIn = async (user: string): Promise<Raw> => {
  const raw = await opened()
  raw.send(plain(user))
  await raw.hears(/<success/)
  raw.send(HEADER)
  await raw.hears(/<\/stream:features>/)
  return raw
}
const bound = async (user: string, resource: string, presence: string | undefined = '<presence/>'): Promise<Raw> => {
  const raw = await loggedIn(user)
  raw.send(`<iq type='set' id='bind'><bind xmlns='${BIND}'><resource>${resource}</resource></bind></iq>`)
  await raw.hears(/<jid>/)
  if (presence !== undefined) {
    raw.send(`${presence}<iq type='get' id='there' to='localhost'><ping xmlns='urn:xmpp:ping'/></iq>`)
    await raw.hears(/id='there'/)
  }
  return raw
}

describe('the wire', () => {
  before(async () => {
    server = await startTestServer({ config: CONFIG, accounts: { juliet: 'secret', romeo: 'secret', nurse: 'secret', paris: 'secret', mercutio: 'secret', tybalt: 'secret' } })
    const found = server.server.ports.filter((each) => each.module === 'ejabberd_c2s')
    ;[ports.required, ports.plain, ports.tls] = found.map((each) => each.port) as [number, number, number]
  })
  after(async () => { await server[Symbol.asyncDispose]() })

  describe('opening a stream', () => {
    const N = `xmlns='jabber:client' xmlns:stream='${STREAMS}'`
    const bad: [string, Bytes, string][] = [
      ['a wrong stream namespace', `<stream:stream to='localhost' version='1.0' xmlns='jabber:client' xmlns:stream='urn:wrong'>`, 'invalid-namespace'],
      ['a wrong content namespace', `<stream:stream to='localhost' version='1.0' xmlns='urn:wrong' xmlns:stream='${STREAMS}'>`, 'invalid-namespace'],
      ['the content namespace of servers', `<stream:stream to='localhost' version='1.0' xmlns='jabber:server' xmlns:stream='${STREAMS}'>`, 'invalid-namespace'],
      ['no content namespace', `<stream:stream to='localhost' version='1.0' xmlns:stream='${STREAMS}'>`, 'invalid-namespace'],
      ['an undeclared prefix', `<stream:stream to='localhost' version='1.0' xmlns='jabber:client'>`, 'bad-namespace-prefix'],
      ['no prefix', `<stream to='localhost' version='1.0' xmlns='jabber:client'>`, 'bad-namespace-prefix'],
      ['another root', `<stream:river to='localhost' version='1.0' ${N}>`, 'bad-format'],
      ['a stanza as root', '<message/>', 'invalid-namespace'],
      ['version missing', HEADER_WITH("to='localhost'"), 'unsupported-version'],
      ['version 0.9', HEADER_WITH("to='localhost' version='0.9'"), 'unsupported-version'],
      ['version x', HEADER_WITH("to='localhost' version='x'"), 'unsupported-version'],
      ['version 1', HEADER_WITH("to='localhost' version='1'"), 'unsupported-version'],
      ['version empty', HEADER_WITH("to='localhost' version=''"), 'unsupported-version'],
      ['to missing', HEADER_WITH("version='1.0'"), 'host-unknown'],
      ['to unknown', HEADER_WITH("to='elsewhere.example' version='1.0'"), 'host-unknown'],
      ['to empty', HEADER_WITH("to='' version='1.0'"), 'improper-addressing'],
      ['to malformed', HEADER_WITH("to='@@' version='1.0'"), 'improper-addressing'],
      ['to of an account', HEADER_WITH("to='juliet@localhost' version='1.0'"), 'host-unknown'],
      ['to with a resource', HEADER_WITH("to='localhost/x' version='1.0'"), 'host-unknown'],
      ['from malformed', HEADER_WITH("to='localhost' version='1.0' from='@@'"), 'improper-addressing'],
      ['an illegal XML declaration', `<?xml verzion='1.0'?>${HEADER_WITH("to='localhost' version='1.0'")}`, 'not-well-formed'],
      ['XML 2.0', `<?xml version='2.0'?>${HEADER_WITH("to='localhost' version='1.0'")}`, 'not-well-formed'],
      ['the XML declaration twice', `<?xml version='1.0'?>${HEADER}`, 'restricted-xml'],
      ['the XML declaration behind a blank', ` ${HEADER}`, 'not-well-formed'],
      ['encoding ISO-8859-1', HEADER.replace('?>', " encoding='ISO-8859-1'?>"), 'unsupported-encoding'],
      ['encoding UTF-16 in name', HEADER.replace('?>', " encoding='UTF-16'?>"), 'unsupported-encoding'],
      ['UTF-16 with its mark, little endian', Buffer.concat([Buffer.from([0xff, 0xfe]), Buffer.from(HEADER, 'utf16le')]), 'unsupported-encoding'],
      ['UTF-16 with its mark, big endian', Buffer.concat([Buffer.from([0xfe, 0xff]), Buffer.from(HEADER, 'utf16le').swap16()]), 'unsupported-encoding'],
      ['UTF-16 without a mark', Buffer.from(HEADER, 'utf16le'), 'unsupported-encoding'],
      ['UTF-16 without a mark, big endian', Buffer.from(HEADER, 'utf16le').swap16(), 'unsupported-encoding'],
      ['latin1 bytes', Buffer.from(HEADER_WITH("to='l\xf6calhost' version='1.0'"), 'latin1'), 'not-well-formed'],
      ['a byte order mark', `\ufeff${HEADER}`, 'bad-format'],
      ['garbage', 'hello there\r\n', 'bad-format'],
      ['binary garbage', Buffer.from([1, 2, 3, 4, 5]), 'not-well-formed'],
      ['an HTTP request', 'GET / HTTP/1.1\r\nHost: localhost\r\n\r\n', 'bad-format'],
      ['a TLS ClientHello', Buffer.from('16030100c8010000c40303', 'hex'), 'not-well-formed'],
      ['a comment', `<!-- x -->${HEADER}`, 'restricted-xml'],
      ['a document type', `<!DOCTYPE stream [<!ENTITY x 'y'>]>${HEADER}`, 'restricted-xml'],
      ['a processing instruction', `<?php x?>${HEADER}`, 'restricted-xml'],
      ['an entity', HEADER_WITH("to='&host;' version='1.0'"), 'not-well-formed'],
      ['an attribute twice', HEADER_WITH("to='localhost' to='localhost' version='1.0'"), 'not-well-formed'],
      ['an undeclared prefix of an attribute', HEADER_WITH("to='localhost' x:y='z' version='1.0'"), 'bad-namespace-prefix'],
      ['an end tag', '</stream:stream>', 'not-well-formed'],
      ['a less-than sign in a value', HEADER_WITH("to='local<host' version='1.0'"), 'not-well-formed'],
      ['more attributes than allowed', HEADER_WITH(`to='localhost' version='1.0' ${Array.from({ length: 30 }, (_, i) => `a${i}=''`).join(' ')}`), 'policy-violation'],
      ['a header that is too long', HEADER_WITH(`to='localhost' version='1.0' a='${'x'.repeat(11_000)}'`), 'policy-violation'],
      ['a header that never ends', `<stream:stream a='${'x'.repeat(12_000)}`, 'policy-violation'],
    ]
    for (const [title, bytes, condition] of bad) {
      it(`${title}: ${condition}`, async () => {
        const raw = await Raw.open(ports.plain)
        await raw.send(bytes).streamError(condition, true)
      })
    }

    const good: [string, Bytes, RegExp][] = [
      ['version 2.0 is answered with ours', HEADER_WITH("to='localhost' version='2.0'"), /version='1.0'/],
      ['version 1.10', HEADER_WITH("to='localhost' version='1.10'"), /version='1.0'/],
      ['no XML declaration', HEADER_WITH("to='localhost' version='1.0'"), /from='localhost'/],
      ['double quotes', HEADER.replaceAll("'", '"'), /from='localhost'/],
      ['encoding utf-8', HEADER.replace('?>', ' encoding="utf-8" standalone=\'yes\' ?>'), /from='localhost'/],
      ['another prefix', HEADER.replaceAll('stream:stream', 's:stream').replace('xmlns:stream', 'xmlns:s'), /from='localhost'/],
      ['from is answered', HEADER_WITH("to='localhost' version='1.0' from='juliet@localhost'"), / to='juliet@localhost'/],
      ['to in other letters', HEADER_WITH("to='LOCALHOST' version='1.0'"), /from='localhost'/],
      ['line ends and tabs', HEADER.replaceAll(' to', '\r\n\t to'), /from='localhost'/],
      ['whitespace first, without a declaration', `\r\n ${HEADER_WITH("to='localhost' version='1.0'")}`, /from='localhost'/],
    ]
    for (const [title, bytes, pattern] of good) {
      it(title, async () => {
        const raw = await Raw.open(ports.plain)
        raw.send(bytes)
        const text = await raw.hears(/<\/stream:features>/)
        expect(text).to.match(pattern)
        raw.send(title === 'another prefix' ? '</s:stream>' : '</stream:stream>')
        expect(await raw.closes()).to.equal('</stream:stream>')
        wellFormed(raw.text)
      })
    }

    it('byte by byte', async () => {
      const raw = await Raw.open(ports.plain)
      for (const byte of Buffer.from(HEADER)) {
        raw.send(Buffer.from([byte]))
        await new Promise(setImmediate)
      }
      await raw.hears(/<\/stream:features>/)
      raw.leave()
    })

    it('a header that is the end too', async () => {
      const raw = await Raw.open(ports.plain)
      raw.send(HEADER.replace(/>$/, '/>'))
      await raw.closes()
      wellFormed(raw.text)
    })
  })

  const message = (inner: Bytes): Buffer => Buffer.concat([Buffer.from("<message to='romeo@localhost' id='m'>"), Buffer.from(inner as string), Buffer.from('</message>')])
  const malformed: [string, Bytes, string][] = [
    ['a comment', '<!-- x -->', 'restricted-xml'],
    ['a comment inside', message('<body><!-- x --></body>'), 'restricted-xml'],
    ['a processing instruction', '<?x y?>', 'restricted-xml'],
    ['a processing instruction inside', message('<?x y?>'), 'restricted-xml'],
    ['an XML declaration', "<?xml version='1.0'?>", 'restricted-xml'],
    ['a document type', "<!DOCTYPE x [<!ENTITY a 'b'>]>", 'restricted-xml'],
    ['a document type inside', message('<!DOCTYPE x>'), 'restricted-xml'],
    ['an undeclared entity', message('<body>&nbsp;</body>'), 'not-well-formed'],
    ['an entity without end', message('<body>&amp </body>'), 'not-well-formed'],
    ['a reference to NUL', message('<body>&#0;</body>'), 'not-well-formed'],
    ['a reference to a surrogate', message('<body>&#xD800;</body>'), 'not-well-formed'],
    ['a reference beyond Unicode', message('<body>&#x110000;</body>'), 'not-well-formed'],
    ['a reference to U+FFFF', message('<body>&#xFFFF;</body>'), 'not-well-formed'],
    ['an empty reference', message('<body>&#;</body>'), 'not-well-formed'],
    ['CDATA between stanzas', '<![CDATA[x]]>', 'bad-format'],
    ['the end of CDATA in text', message('<body>]]></body>'), 'not-well-formed'],
    ['a control character in CDATA', message('<body><![CDATA[\u0001]]></body>'), 'not-well-formed'],
    ['text between stanzas', 'x', 'bad-format'],
    ['text outside ASCII between stanzas', '\u00e9', 'bad-format'],
    ['a reference between stanzas', '&amp;', 'bad-format'],
    ['NUL between stanzas', '\0', 'not-well-formed'],
    ['NUL in text', message('<body>\0</body>'), 'not-well-formed'],
    ['a control character in text', message('<body>\u000b</body>'), 'not-well-formed'],
    ['a control character in a value', "<message id='\u0002'/>", 'not-well-formed'],
    ['U+FFFE in text', message('<body>\ufffe</body>'), 'not-well-formed'],
    ['bad UTF-8 in text', message(Buffer.from([0xc3, 0x28])), 'not-well-formed'],
    ['an overlong sequence in text', message(Buffer.from([0xc0, 0xaf])), 'not-well-formed'],
    ['a surrogate in text', message(Buffer.from([0xed, 0xa0, 0x80])), 'not-well-formed'],
    ['a lone continuation in text', message(Buffer.from([0x80])), 'not-well-formed'],
    ['beyond Unicode in text', message(Buffer.from([0xf4, 0x90, 0x80, 0x80])), 'not-well-formed'],
    ['bad UTF-8 in CDATA', message(Buffer.concat([Buffer.from('<![CDATA['), Buffer.from([0xff]), Buffer.from(']]>')])), 'not-well-formed'],
    ['bad UTF-8 in a value', Buffer.from("<message id='\xe9'/>", 'latin1'), 'not-well-formed'],
    ['bad UTF-8 in an element name', Buffer.from('<mess\xe9ge/>', 'latin1'), 'not-well-formed'],
    ['bad UTF-8 in an attribute name', Buffer.from("<message \xe9='x'/>", 'latin1'), 'not-well-formed'],
    ['bad UTF-8 in an end tag', Buffer.from('<message></mess\xe9ge>', 'latin1'), 'not-well-formed'],
    ['bad UTF-8 between stanzas', Buffer.from([0xff]), 'not-well-formed'],
    ['an attribute twice', "<message to='a' to='b'/>", 'not-well-formed'],
    ['an attribute twice by two prefixes', "<message xmlns:a='u' xmlns:b='u' a:x='' b:x=''/>", 'not-well-formed'],
    ['an undeclared prefix', '<x:y/>', 'not-well-formed'],
    ['an undeclared prefix inside', message('<x:y/>'), 'not-well-formed'],
    ['an undeclared prefix of an attribute', message("<y x:z=''/>"), 'not-well-formed'],
    ['an empty prefix declaration', message("<y xmlns:z=''/>"), 'not-well-formed'],
    ['the prefix xmlns declared', message("<y xmlns:xmlns='u'/>"), 'not-well-formed'],
    ['the prefix xml declared otherwise', message("<y xmlns:xml='u'/>"), 'not-well-formed'],
    ['tags that do not match', message('<a></b>'), 'not-well-formed'],
    ['tags that do not match by case', '<message></Message>', 'not-well-formed'],
    ['a wrong end of the stream', '</stream>', 'not-well-formed'],
    ['a value without quotes', '<message to=x/>', 'not-well-formed'],
    ['an attribute without value', '<message to/>', 'not-well-formed'],
    ['attributes without a blank between', "<message a='b'c='d'/>", 'not-well-formed'],
    ['a less-than sign in a value', "<message to='<'/>", 'not-well-formed'],
    ['a blank before the name', '< message/>', 'not-well-formed'],
    ['a name that starts with a digit', '<1message/>', 'not-well-formed'],
    ['two colons in a name', '<a:b:c/>', 'not-well-formed'],
    ['an end tag with attributes', "<message></message a='b'>", 'not-well-formed'],
    ['a slash in the middle', '<message/ >', 'not-well-formed'],
    ['elements too deep', message('<a>'.repeat(25)), 'policy-violation'],
    ['too many attributes', `<message ${Array.from({ length: 30 }, (_, i) => `a${i}=''`).join(' ')}/>`, 'policy-violation'],
    ['too many children', message('<a/>'.repeat(60)), 'policy-violation'],
    ['a second stream header', HEADER_WITH("to='localhost' version='1.0'"), 'bad-format'],
    ['an unknown element', "<foo xmlns='urn:foo'/>", 'unsupported-stanza-type'],
    ['an unknown element of ours', '<foo/>', 'unsupported-stanza-type'],
    ['a stanza in the namespace of servers', "<message xmlns='jabber:server'/>", 'unsupported-stanza-type'],
    ['a stanza in no namespace', "<message xmlns=''/>", 'unsupported-stanza-type'],
    ['STARTTLS once more', STARTTLS, 'unsupported-stanza-type'],
    ['a stream error of the client', '<stream:error><conflict xmlns="urn:ietf:params:xml:ns:xmpp-streams"/></stream:error>', ''],
    ['a stanza cut off by the end of the stream', '<message><body>', ''],
  ]

  describe('XML in a session', () => {
    for (const [title, bytes, condition] of malformed) {
      if (condition === '') continue
      it(`${title}: ${condition}`, async () => {
        const raw = await bound('mercutio', 'wire', undefined)
        await raw.send(bytes).streamError(condition)
      })
    }
    it('takes CDATA and predefined entities for what they are, and a keepalive for nothing', async () => {
      const raw = await bound('mercutio', 'wire')
      raw.send(' \r\n\t').send(`<message to='mercutio@localhost/wire' type='chat' id='c'><body><![CDATA[<a>]]>&lt;&gt;&amp;&apos;&quot;&#x41;</body></message>\n\n`)
      await raw.hears(/id='c'.*(<!\[CDATA\[<a>\]\]>|&lt;a&gt;)&lt;&gt;&amp;.*<\/body>/s)
      raw.leave()
    })
    it('a stream error of the client ends the stream', async () => {
      const raw = await bound('mercutio', 'wire', undefined)
      raw.send("<stream:error><conflict xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>")
      await raw.closes()
      expect(raw.text).to.match(/<\/stream:stream>$/)
    })
    it('a stanza cut off by the end of the connection is dropped', async () => {
      const raw = await bound('mercutio', 'wire', undefined)
      raw.send(message('<body>whole</body>').subarray(0, -4))
      raw.socket.end()
      await raw.closes()
    })
  })

  describe('before login', () => {
    const cases: [string, Bytes, string][] = [
      ['a message', message('<body>hi</body>'), 'not-authorized'],
      ['presence', '<presence/>', 'not-authorized'],
      ['an IQ', "<iq type='get' id='x'><ping xmlns='urn:xmpp:ping'/></iq>", 'not-authorized'],
      ['a registration that is a result', "<iq type='result' id='x'><query xmlns='jabber:iq:register'/></iq>", 'not-authorized'],
      ['a registration without id', "<iq type='get'><query xmlns='jabber:iq:register'/></iq>", 'not-authorized'],
      ['a registration with two children', "<iq type='get' id='x'><query xmlns='jabber:iq:register'/><a/></iq>", 'not-authorized'],
      ['binding', `<iq type='set' id='x'><bind xmlns='${BIND}'/></iq>`, 'not-authorized'],
      ['stream management', `<enable xmlns='${SM}'/>`, 'not-authorized'],
      ['resumption', `<resume xmlns='${SM}' previd='x' h='0'/>`, 'not-authorized'],
      ['an unknown element', "<foo xmlns='urn:foo'/>", 'unsupported-stanza-type'],
      ['an unknown element of SASL', `<foo xmlns='${SASL}'/>`, 'unsupported-stanza-type'],
      ['an unknown element of TLS', "<foo xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>", 'unsupported-stanza-type'],
      ['text', 'x', 'bad-format'],
      ['a comment', '<!-- -->', 'restricted-xml'],
      ['bad UTF-8', Buffer.from([0xff]), 'not-well-formed'],
      ['too large', message('x'.repeat(10_001)), 'policy-violation'],
      ['too large, without end', `<message>${'x'.repeat(10_001)}`, 'policy-violation'],
      ['too deep', '<a>'.repeat(25), 'policy-violation'],
      ['too much whitespace', ' '.repeat(61_000), 'policy-violation'],
      ['too much in small parts', `<auth xmlns='${SASL}'`.padEnd(12_000), 'policy-violation'],
    ]
    for (const [title, bytes, condition] of cases) {
      it(`${title}: ${condition}`, async () => {
        const raw = await opened(false)
        await raw.send(bytes).streamError(condition)
      })
    }
    const registrations: [string, string, string][] = [
      ['without a password', '<username>new</username>', 'not-acceptable'],
      ['without a user', '<password>x</password>', 'not-acceptable'],
      ['of an impossible user', '<username>a b</username><password>x</password>', '(jid-malformed|not-acceptable|bad-request)'],
      ['of a user there is', '<username>juliet</username><password>other</password>', 'conflict'],
      ['removed', '<remove/>', 'unexpected-request'],
    ]
    for (const [title, inner, condition] of registrations) {
      it(`a registration ${title}: ${condition}, and the stream goes on`, async () => {
        const raw = await opened(false)
        raw.send(`<iq type='set' id='reg' to='localhost'><query xmlns='jabber:iq:register'>${inner}</query></iq>`)
        await raw.hears(new RegExp(`type='error'.*<${condition} `))
        raw.send("<iq type='get' id='form' to='localhost'><query xmlns='jabber:iq:register'/></iq>")
        await raw.hears(/<iq (?=[^>]*type='result')[^>]*id='form'/)
        raw.leave()
      })
    }
    it('a stanza of just the allowed size is no policy violation', async () => {
      const raw = await opened(false)
      const frame = message('').length
      raw.send(message('x'.repeat(10_000 - frame)))
      await raw.streamError('not-authorized')
    })
  })

  describe('STARTTLS', () => {
    const start = async (raw: Raw): Promise<void> => {
      raw.send(STARTTLS)
      expect(await raw.hears(/<proceed|<failure/)).to.match(/^<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'\/>$/)
      raw.socket.removeAllListeners('data')
      const secured = tls.connect({ socket: raw.socket, servername: 'localhost', rejectUnauthorized: false })
      await once(secured, 'secureConnect')
      raw.attach(secured)
    }
    it('is required where it is', async () => {
      const raw = await Raw.open(ports.required)
      raw.send(HEADER)
      expect(await raw.hears(/<\/stream:features>/)).to.match(/<starttls [^>]*><required\/><\/starttls>/).and.not.to.match(/mechanism/)
      await raw.send(plain('juliet')).streamError('policy-violation')
    })
    it('secures, and is not there twice', async () => {
      const raw = await opened(false)
      await start(raw)
      raw.send(HEADER)
      const features = await raw.hears(/<\/stream:features>/)
      expect(features).not.to.contain('starttls')
      expect(features).to.contain('<mechanism>PLAIN</mechanism>').and.to.contain('-PLUS')
      raw.send(STARTTLS)
      expect(await raw.closes()).to.match(/^<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'\/><\/stream:stream>$/)
    })
    it('is not there on a connection with TLS from the start', async () => {
      const raw = await opened(true)
      raw.send(STARTTLS)
      expect(await raw.closes()).to.match(/<failure .*<\/stream:stream>$/)
    })
    it('may end in a line break, which Go clients send', async () => {
      const raw = await opened(false)
      raw.send(`${STARTTLS} \n`)
      expect(await raw.hears(/<proceed|<stream:error/)).to.contain('<proceed')
    })
    for (const behind of [HEADER, `<auth xmlns='${SASL}' mechanism='PLAIN'>x</auth>`, ' <', 'x']) {
      it(`nothing may stand behind it: ${JSON.stringify(behind.slice(0, 20))}`, async () => {
        const raw = await opened(false)
        raw.send(STARTTLS + behind)
        const text = await raw.closes()
        expect(text).not.to.contain('proceed')
        expect(text).to.contain('policy-violation')
      })
    }
    it('a handshake that is none closes the connection', async () => {
      const raw = await opened(false)
      raw.send(STARTTLS)
      await raw.hears(/<proceed/)
      raw.send('this is no handshake')
      await raw.closes()
    })
    it('a bad header behind it is answered with a header and an error', async () => {
      const raw = await opened(false)
      await start(raw)
      await raw.send('<foo/>').streamError('invalid-namespace', true)
    })
    it('what is no header is named in the error, so that its sender can be found', async () => {
      const raw = await opened(false)
      await start(raw)
      const answer = await raw.send(`<r xmlns='urn:&lt;a&apos;${'b'.repeat(100)}'/>`).closes()
      wellFormed(answer)
      expect(answer).to.match(/and the first element is (&quot;|")r(&quot;|") of (&quot;|")urn:&lt;a(&apos;|')b{53}(&quot;|")<\/text>/)
    })
  })

  describe('SASL', () => {
    const nonce = 'fyko+d2lbbFgONRv9qkxdawL'
    const first = (flag: string, user = 'juliet'): string => b64(`${flag},,n=${user},r=${nonce}`)
    const failures: [string, string | string[], string, boolean?][] = [
      ['an unknown mechanism', auth('FOO', 'eA=='), 'invalid-mechanism'],
      ['no mechanism', `<auth xmlns='${SASL}'>eA==</auth>`, 'invalid-mechanism'],
      ['a mechanism in small letters', auth('plain', b64('\0juliet\0secret')), 'invalid-mechanism'],
      ['PLAIN without TLS', plain('juliet'), 'encryption-required', false],
      ['PLUS without TLS', auth('SCRAM-SHA-256-PLUS', first('p=tls-exporter')), 'invalid-mechanism', false],
      ['bad base64', auth('PLAIN', '!!!!'), 'incorrect-encoding'],
      ['base64 without padding', auth('PLAIN', 'eA'), 'incorrect-encoding'],
      ['base64 with blanks', auth('PLAIN', 'eA= ='), 'incorrect-encoding'],
      ['padding in the middle', auth('PLAIN', 'eA==eA=='), 'incorrect-encoding'],
      ['elements in place of base64', auth('PLAIN', '<x/>'), 'incorrect-encoding'],
      ['PLAIN of one part', auth('PLAIN', b64('juliet')), 'malformed-request'],
      ['PLAIN of four parts', auth('PLAIN', b64('a\0b\0c\0d')), 'malformed-request'],
      ['PLAIN without a user', auth('PLAIN', b64('\0\0secret')), 'malformed-request'],
      ['PLAIN without a password', auth('PLAIN', b64('\0juliet\0')), 'malformed-request'],
      ['PLAIN that is not UTF-8', auth('PLAIN', Buffer.from([0, 0x6a, 0, 0xff]).toString('base64')), 'malformed-request'],
      ['a wrong password', plain('juliet', 'wrong'), 'not-authorized'],
      ['nobody', plain('nobody'), 'not-authorized'],
      ['an impossible user', plain('a@b'), 'not-authorized'],
      ['the authzid of somebody else', plain('juliet', 'secret', 'romeo@localhost'), 'invalid-authzid'],
      ['an authzid that is no address', plain('juliet', 'secret', '@@'), 'invalid-authzid'],
      ['abort', `<abort xmlns='${SASL}'/>`, 'aborted'],
      ['abort in an exchange', [auth('SCRAM-SHA-1', first('n')), `<abort xmlns='${SASL}'/>`], 'aborted'],
      ['a response without an exchange', `<response xmlns='${SASL}'>eA==</response>`, 'malformed-request'],
      ['an empty response without an exchange', `<response xmlns='${SASL}'/>`, 'malformed-request'],
      ['SCRAM that says y although PLUS was offered', auth('SCRAM-SHA-256', first('y')), 'not-authorized'],
      ['SCRAM that binds without PLUS', auth('SCRAM-SHA-256', first('p=tls-exporter')), 'malformed-request'],
      ['PLUS that does not bind', auth('SCRAM-SHA-256-PLUS', first('n')), 'malformed-request'],
      ['PLUS that says y', auth('SCRAM-SHA-256-PLUS', first('y')), 'malformed-request'],
      ['PLUS with an unknown type', auth('SCRAM-SHA-256-PLUS', first('p=foo')), 'not-authorized'],
      ['SCRAM with an unknown flag', auth('SCRAM-SHA-256', first('z')), 'malformed-request'],
      ['SCRAM with a mandatory extension', auth('SCRAM-SHA-1', b64(`n,,m=x,n=juliet,r=${nonce}`)), 'malformed-request'],
      ['SCRAM without a nonce', auth('SCRAM-SHA-1', b64('n,,n=juliet')), 'malformed-request'],
      ['SCRAM with a bad name', auth('SCRAM-SHA-1', first('n', 'a=b')), 'malformed-request'],
      ['SCRAM garbage', auth('SCRAM-SHA-1', b64('hello')), 'malformed-request'],
      ['SCRAM for somebody else', auth('SCRAM-SHA-1', b64(`n,a=romeo@localhost,n=juliet,r=${nonce}`)), 'invalid-authzid'],
      ['a final message that is garbage', [auth('SCRAM-SHA-1', first('n')), `<response xmlns='${SASL}'>eA==</response>`], 'malformed-request'],
      ['an empty final message', [auth('SCRAM-SHA-1', first('n')), `<response xmlns='${SASL}'/>`], 'malformed-request'],
      ['a final message that is not base64', [auth('SCRAM-SHA-1', first('n')), `<response xmlns='${SASL}'>?</response>`], 'incorrect-encoding'],
      ['a final message of another nonce', [auth('SCRAM-SHA-1', first('n')), `<response xmlns='${SASL}'>${b64(`c=biws,r=${nonce},p=${Buffer.alloc(20).toString('base64')}`)}</response>`], 'not-authorized'],
    ]
    for (const [title, sent, condition, secure] of failures) {
      it(`${title}: ${condition}, and another try is possible`, async () => {
        const raw = await opened(secure ?? true)
        const parts = typeof sent === 'string' ? [sent] : sent
        for (const part of parts.slice(0, -1)) {
          raw.send(part)
          await raw.hears(/<challenge/)
        }
        raw.send(parts.at(-1) as string)
        expect(await raw.hears(/<failure.*<\/failure>/)).to.match(new RegExp(`^<failure xmlns='${SASL}'><${condition}/>(<text .*</text>)?</failure>$`))
        raw.send(secure === false ? auth('SCRAM-SHA-1', first('n')) : plain('juliet'))
        await raw.hears(secure === false ? /<challenge/ : /<success/)
        raw.leave()
      })
    }

    it('an authzid of oneself is allowed', async () => {
      const raw = await opened()
      raw.send(plain('juliet', 'secret', 'juliet@localhost'))
      await raw.hears(/<success/)
      raw.leave()
    })
    for (const empty of ['', '=']) {
      it(`without an initial response (${JSON.stringify(empty)}) the server asks for one`, async () => {
        const raw = await opened()
        raw.send(auth('PLAIN', empty))
        await raw.hears(/<challenge xmlns='[^']*'(\/>|><\/challenge>)/)
        raw.send(`<response xmlns='${SASL}'>${b64('\0juliet\0secret')}</response>`)
        await raw.hears(/<success/)
        raw.leave()
      })
    }
    it('wrong passwords close the stream in the end', async () => {
      const raw = await opened()
      for (let i = 0; i < 3; i++) {
        raw.send(plain('juliet', `wrong${i}`))
        await raw.hears(/<failure/)
      }
      await raw.closes()
      expect(raw.text).to.contain('policy-violation')
    })
    it('after success only a stream header is taken, and the error has its own', async () => {
      const raw = await opened()
      raw.send(plain('juliet'))
      await raw.hears(/<success/)
      await raw.send(plain('juliet')).streamError('invalid-namespace', true)
    })
    it('after success another host is not taken', async () => {
      const raw = await opened()
      raw.send(plain('juliet'))
      await raw.hears(/<success/)
      await raw.send(HEADER.replace("'localhost'", "'other.example'")).streamError('host-unknown', true)
    })
    it('after success the from of somebody else is not taken', async () => {
      const raw = await opened()
      raw.send(plain('juliet'))
      await raw.hears(/<success/)
      await raw.send(HEADER_WITH("to='localhost' version='1.0' from='romeo@localhost'")).streamError('invalid-from', true)
    })
    it('after success an XML error is answered with a header and an error', async () => {
      const raw = await opened()
      raw.send(plain('juliet'))
      await raw.hears(/<success/)
      await raw.send('<!-- -->').streamError('restricted-xml', true)
    })
    it('SCRAM without PLUS over plain TCP works', async () => {
      const raw = await opened(false)
      raw.send(auth('SCRAM-SHA-1', first('n')))
      const challenge = Buffer.from(/>([^<]+)<\/challenge>/.exec(await raw.hears(/<\/challenge>/))?.[1] ?? '', 'base64').toString()
      const [, r, s, i] = /^r=([^,]+),s=([^,]+),i=(\d+),h=[^,]+$/.exec(challenge) as unknown as [string, string, string, string]
      const salted = await saltPassword('SHA-1', 'secret', Buffer.from(s, 'base64'), Number(i))
      const key = hmac('SHA-1', salted, 'Client Key')
      const proof = xor(key, hmac('SHA-1', digest('SHA-1', key), `n=juliet,r=${nonce},${challenge},c=biws,r=${r}`))
      raw.send(`<response xmlns='${SASL}'>${b64(`c=biws,r=${r},p=${proof.toString('base64')}`)}</response>`)
      await raw.hears(/<success/)
      raw.leave()
    })
  })

  describe('before binding', () => {
    const cases: [string, Bytes, string][] = [
      ['a message', message('<body>hi</body>'), 'not-authorized'],
      ['presence', '<presence/>', 'not-authorized'],
      ['an IQ', "<iq type='get' id='x'><query xmlns='jabber:iq:roster'/></iq>", 'not-authorized'],
      ['SASL', plain('paris'), 'policy-violation'],
      ['STARTTLS', STARTTLS, 'policy-violation'],
      ['an unknown element', "<foo xmlns='urn:foo'/>", 'unsupported-stanza-type'],
    ]
    for (const [title, bytes, condition] of cases) {
      it(`${title}: ${condition}`, async () => {
        const raw = await loggedIn('paris')
        await raw.send(bytes).streamError(condition)
      })
    }
    const answers: [string, string, RegExp][] = [
      ['enabling stream management', `<enable xmlns='${SM}'/>`, /<failed [^>]*><unexpected-request /],
      ['resuming without previd', `<resume xmlns='${SM}' h='0'/>`, /<failed [^>]*><bad-request /],
      ['resuming without h', `<resume xmlns='${SM}' previd='x'/>`, /<failed [^>]*><bad-request /],
      ['resuming with h that is no number', `<resume xmlns='${SM}' previd='x' h='-1'/>`, /<failed [^>]*><bad-request /],
      ['resuming the unknown', `<resume xmlns='${SM}' previd='x' h='0'/>`, /<failed [^>]*><item-not-found /],
      ['binding a resource that is too long', `<iq type='set' id='b'><bind xmlns='${BIND}'><resource>${'x'.repeat(1024)}</resource></bind></iq>`, /type='error' id='b'.*<bad-request /],
      ['binding a resource with a control character', `<iq type='set' id='b'><bind xmlns='${BIND}'><resource>a&#x9;b</resource></bind></iq>`, /type='error' id='b'.*<bad-request /],
      ['binding with get', `<iq type='get' id='b'><bind xmlns='${BIND}'/></iq>`, /type='error' id='b'.*<bad-request /],
      ['binding with two children', `<iq type='set' id='b'><bind xmlns='${BIND}'/><bind xmlns='${BIND}'/></iq>`, /type='error' id='b'.*<bad-request /],
      ['binding without id', `<iq type='set'><bind xmlns='${BIND}'/></iq>`, /type='error'.*<bad-request /],
    ]
    for (const [title, text, pattern] of answers) {
      it(`${title}, and then one can bind`, async () => {
        const raw = await loggedIn('paris')
        raw.send(text)
        await raw.hears(pattern)
        raw.send(`<iq type='set' id='then'><bind xmlns='${BIND}'/></iq>`)
        await raw.hears(/id='then'.*<jid>paris@localhost\/.+<\/jid>/)
        raw.leave()
      })
    }
    it('binding twice: not-allowed', async () => {
      const raw = await bound('paris', 'one')
      raw.send(`<iq type='set' id='two'><bind xmlns='${BIND}'><resource>two</resource></bind></iq>`)
      await raw.hears(/type='error' id='two'.*<not-allowed /)
      raw.leave()
    })
    it('a resource that is taken replaces the old session', async () => {
      const old = await bound('paris', 'same')
      const raw = await bound('paris', 'same')
      await old.streamError('conflict')
      raw.leave()
    })
    it('more sessions than allowed: resource-constraint', async () => {
      const all: Raw[] = []
      for (let i = 0; i < 6; i++) all.push(await bound('tybalt', `r${i}`, undefined))
      const raw = await loggedIn('tybalt')
      raw.send(`<iq type='set' id='b'><bind xmlns='${BIND}'/></iq>`)
      await raw.hears(/type='error' id='b'.*<resource-constraint /)
      for (const each of [...all, raw]) each.leave()
    })
  })

  describe('stanzas', () => {
    let juliet: Raw
    let romeo: Raw
    before(async () => {
      juliet = await bound('juliet', 'balcony')
      romeo = await bound('romeo', 'orchard')
      const raw = await bound('nurse', 'kitchen', '<presence><priority>-1</priority></presence>')
      raw.socket.unref()
    })
    after(() => {
      juliet.leave()
      romeo.leave()
    })
    const ping = "<ping xmlns='urn:xmpp:ping'/>"
    const unknown = "<query xmlns='urn:unknown'/>"
    const mam = (fields: string, rest = ''): string => `<iq type='set' id='?'><query xmlns='urn:xmpp:mam:2'><x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE' type='hidden'><value>urn:xmpp:mam:2</value></field>${fields}</x>${rest}</query></iq>`
    const field = (name: string, value: string): string => `<field var='${name}'><value>${value}</value></field>`
    const rsm = (text: string): string => mam('', `<set xmlns='http://jabber.org/protocol/rsm'>${text}</set>`)
    const body = '<body>hi</body>'
    const errors: [string, string, string][] = [
      ['to malformed', `<message to='@@' id='?'>${body}</message>`, 'jid-malformed'],
      ['to with an empty resource', `<message to='romeo@localhost/' id='?'>${body}</message>`, 'jid-malformed'],
      ['to empty', `<message to='' id='?'>${body}</message>`, 'jid-malformed'],
      ['presence to malformed', `<presence to='a b@localhost' id='?'/>`, 'jid-malformed'],
      ['an IQ to malformed', `<iq type='get' to='@localhost' id='?'>${ping}</iq>`, 'jid-malformed'],
      ['a message to an unknown domain', `<message to='a@elsewhere.example' id='?'>${body}</message>`, 'remote-server-not-found'],
      ['an IQ to an unknown domain', `<iq type='get' to='elsewhere.example' id='?'>${ping}</iq>`, 'remote-server-not-found'],
      ['presence to an unknown domain', `<presence to='a@elsewhere.example' id='?'/>`, 'remote-server-not-found'],
      ['a subscription to an unknown domain', `<presence type='subscribe' to='a@elsewhere.example' id='?'/>`, 'remote-server-not-found'],
      ['an IQ of an unknown type', `<iq type='foo' id='?'>${ping}</iq>`, 'bad-request'],
      ['an IQ without a type', `<iq id='?'>${ping}</iq>`, 'bad-request'],
      ['an IQ get without a child', `<iq type='get' id='?'/>`, 'bad-request'],
      ['an IQ set without a child', `<iq type='set' to='localhost' id='?'/>`, 'bad-request'],
      ['an IQ get with two children', `<iq type='get' id='?'>${ping}${ping}</iq>`, 'bad-request'],
      ['an IQ with text alone', `<iq type='get' id='?'>text</iq>`, 'bad-request'],
      ['an IQ with two children to a full address', `<iq type='get' to='romeo@localhost/orchard' id='?'>${ping}${ping}</iq>`, 'bad-request'],
      ['an unknown payload to the host', `<iq type='get' to='localhost' id='?'>${unknown}</iq>`, 'service-unavailable'],
      ['an unknown payload to oneself', `<iq type='get' id='?'>${unknown}</iq>`, 'service-unavailable'],
      ['an unknown payload to one\'s own bare address', `<iq type='set' to='juliet@localhost' id='?'>${unknown}</iq>`, 'service-unavailable'],
      ['an unknown payload to another account', `<iq type='get' to='romeo@localhost' id='?'>${unknown}</iq>`, 'service-unavailable'],
      ['an unknown payload to nobody', `<iq type='get' to='nobody@localhost' id='?'>${unknown}</iq>`, 'service-unavailable'],
      ['a payload of nobody', `<iq type='get' to='nobody@localhost' id='?'><vCard xmlns='vcard-temp'/></iq>`, 'service-unavailable'],
      ['an IQ to a resource that is not there', `<iq type='get' to='romeo@localhost/x' id='?'>${ping}</iq>`, 'service-unavailable'],
      ['an IQ to a resource of the host', `<iq type='get' to='localhost/x' id='?'>${ping}</iq>`, 'service-unavailable'],
      ['a roster of somebody else', `<iq type='get' to='romeo@localhost' id='?'><query xmlns='jabber:iq:roster'/></iq>`, '(service-unavailable|forbidden)'],
      ['a message to the host', `<message to='localhost' id='?'>${body}</message>`, 'service-unavailable'],
      ['a message to nobody', `<message to='nobody@localhost' id='?'>${body}</message>`, 'service-unavailable'],
      ['a chat message to nobody', `<message type='chat' to='nobody@localhost/x' id='?'>${body}</message>`, 'service-unavailable'],
      ['a groupchat message to an account', `<message type='groupchat' to='romeo@localhost' id='?'>${body}</message>`, 'service-unavailable'],
      ['a groupchat message to a resource that is not there', `<message type='groupchat' to='romeo@localhost/x' id='?'>${body}</message>`, 'service-unavailable'],
      ['a normal message to a resource that is not there', `<message to='romeo@localhost/x' id='?'>${body}</message>`, 'service-unavailable'],
      ['a groupchat message to negative priority', `<message type='groupchat' to='nurse@localhost' id='?'>${body}</message>`, 'service-unavailable'],
      ['presence with a bad priority', `<presence id='?'><priority>high</priority></presence>`, 'bad-request'],
      ['presence with a priority too high', `<presence id='?'><priority>128</priority></presence>`, 'bad-request'],
      ['presence with a priority too low', `<presence id='?'><priority>-129</priority></presence>`, 'bad-request'],
      ['presence of an unknown type', `<presence type='foo' id='?'/>`, 'bad-request'],
      ['directed presence of an unknown type', `<presence type='foo' to='romeo@localhost' id='?'/>`, 'bad-request'],
      ['a subscription to nobody in particular', `<presence type='subscribe' id='?'/>`, 'bad-request'],
      ['a roster item of oneself', `<iq type='set' id='?'><query xmlns='jabber:iq:roster'><item jid='juliet@localhost'/></query></iq>`, '(not-allowed|bad-request)'],
      ['a roster set without an item', `<iq type='set' id='?'><query xmlns='jabber:iq:roster'/></iq>`, 'bad-request'],
      ['a roster set of two items', `<iq type='set' id='?'><query xmlns='jabber:iq:roster'><item jid='a@localhost'/><item jid='b@localhost'/></query></iq>`, 'bad-request'],
      ['a roster item that is no address', `<iq type='set' id='?'><query xmlns='jabber:iq:roster'><item jid='@@'/></query></iq>`, '(jid-malformed|bad-request)'],
      ['a roster item without an address', `<iq type='set' id='?'><query xmlns='jabber:iq:roster'><item/></query></iq>`, 'bad-request'],
      ['a roster item twice in a group', `<iq type='set' id='?'><query xmlns='jabber:iq:roster'><item jid='a@localhost'><group>x</group><group>x</group></item></query></iq>`, 'bad-request'],
      ['a roster item in a group without a name', `<iq type='set' id='?'><query xmlns='jabber:iq:roster'><item jid='a@localhost'><group/></item></query></iq>`, 'not-acceptable'],
      ['removing who is not in the roster', `<iq type='set' id='?'><query xmlns='jabber:iq:roster'><item jid='stranger@localhost' subscription='remove'/></query></iq>`, 'item-not-found'],
      ['a roster set for somebody else', `<iq type='set' to='romeo@localhost' id='?'><query xmlns='jabber:iq:roster'><item jid='a@localhost'/></query></iq>`, '(forbidden|service-unavailable|not-allowed)'],
      ['history with an unknown field', mam(field('foo', 'x')), 'feature-not-implemented'],
      ['history with a bad start', mam(field('start', 'yesterday')), 'bad-request'],
      ['history with a bad end', mam(field('end', '2020-13-01T00:00:00Z')), 'bad-request'],
      ['history with a bad address', mam(field('with', '@@')), '(bad-request|jid-malformed)'],
      ['history after an unknown id', rsm('<after>nope</after>'), 'item-not-found'],
      ['history before an unknown id', rsm('<before>nope</before>'), 'item-not-found'],
      ['history after an unknown id in the form', mam(field('after-id', 'nope')), 'item-not-found'],
      ['history of an unknown id', mam(field('ids', 'nope')), 'item-not-found'],
      ['history with a bad max', rsm('<max>many</max>'), 'bad-request'],
      ['history with a negative max', rsm('<max>-1</max>'), 'bad-request'],
      ['history by index', rsm('<index>3</index>'), 'feature-not-implemented'],
      ['history of somebody else', mam('').replace("type='set'", "type='set' to='romeo@localhost'"), '(forbidden|service-unavailable|item-not-found|not-allowed)'],
      ['history of a node', `<iq type='set' id='?'><query xmlns='urn:xmpp:mam:2' node='x'/></iq>`, 'item-not-found'],
      ['a form of another type', `<iq type='set' id='?'><query xmlns='urn:xmpp:mam:2'><x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE' type='hidden'><value>urn:foo</value></field></x></query></iq>`, '(bad-request|feature-not-implemented)'],
      ['preferences with a bad default', `<iq type='set' id='?'><prefs xmlns='urn:xmpp:mam:2' default='foo'/></iq>`, 'bad-request'],
      ['carbons enabled with get', `<iq type='get' id='?'><enable xmlns='urn:xmpp:carbons:2'/></iq>`, '(feature-not-implemented|bad-request|service-unavailable)'],
      ['carbons of somebody else', `<iq type='set' to='romeo@localhost' id='?'><enable xmlns='urn:xmpp:carbons:2'/></iq>`, '(forbidden|service-unavailable|not-allowed)'],
      ['blocking nobody', `<iq type='set' id='?'><block xmlns='urn:xmpp:blocking'/></iq>`, 'bad-request'],
      ['blocking what is no address', `<iq type='set' id='?'><block xmlns='urn:xmpp:blocking'><item jid='@@'/></block></iq>`, '(jid-malformed|bad-request)'],
      ['unblocking without an address', `<iq type='set' id='?'><unblock xmlns='urn:xmpp:blocking'><item/></unblock></iq>`, '(jid-malformed|bad-request)'],
      ['registration without a user', `<iq type='set' to='localhost' id='?'><query xmlns='jabber:iq:register'/></iq>`, '(bad-request|not-acceptable)'],
      ['a new password for somebody else', `<iq type='set' to='localhost' id='?'><query xmlns='jabber:iq:register'><username>romeo</username><password>x</password></query></iq>`, '(forbidden|not-allowed|bad-request)'],
      ['an empty new password', `<iq type='set' to='localhost' id='?'><query xmlns='jabber:iq:register'><username>juliet</username><password/></query></iq>`, '(bad-request|not-acceptable)'],
      ['removal along with more', `<iq type='set' to='localhost' id='?'><query xmlns='jabber:iq:register'><remove/><username>juliet</username></query></iq>`, 'bad-request'],
      ['disco of an unknown node', `<iq type='get' to='localhost' id='?'><query xmlns='http://jabber.org/protocol/disco#info' node='urn:foo'/></iq>`, 'item-not-found'],
      ['ping with set', `<iq type='set' to='localhost' id='?'>${ping}</iq>`, '(feature-not-implemented|bad-request|service-unavailable)'],
    ]
    let count = 0
    for (const [title, text, condition] of errors) {
      it(`${title}: ${condition}`, async () => {
        const id = `e${++count}`
        juliet.send(text.replace("id='?'", `id='${id}'`))
        const kind = /^<(\w+)/.exec(text)?.[1]
        const heard = await juliet.hears(new RegExp(`<${kind} [^>]*id='${id}'.*?</${kind}>`, 's'), 2000)
        expect(heard).to.match(new RegExp(`<${kind} [^>]*type='error'.*<error type='\\w+'[^>]*><${condition} xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'`, 's'))
      })
    }

    it('an IQ without id is refused', async () => {
      juliet.send(`<iq type='get' to='localhost'>${ping}</iq>`)
      await juliet.hears(/<iq [^>]*type='error'.*<bad-request /)
    })
    const silent: [string, string][] = [
      ['an error message to nobody', `<message type='error' to='nobody@localhost' id='s'>${body}</message>`],
      ['an error message to a malformed address', `<message type='error' to='@@' id='s'/>`],
      ['an error IQ to an unknown domain', `<iq type='error' to='elsewhere.example' id='s'/>`],
      ['a result that nobody waits for', `<iq type='result' to='localhost' id='s'/>`],
      ['a result to a resource that is not there', `<iq type='result' to='romeo@localhost/x' id='s'/>`],
      ['a headline to a resource that is not there', `<message type='headline' to='romeo@localhost/x' id='s'>${body}</message>`],
      ['presence to nobody', `<presence to='nobody@localhost' id='s'/>`],
      ['unavailable presence to an unknown domain', `<presence type='unavailable' to='a@elsewhere.example' id='s'/>`],
      ['a headline to negative priority', `<message type='headline' to='nurse@localhost' id='s'>${body}</message>`],
      ['a chat message to negative priority, kept', `<message type='chat' to='nurse@localhost' id='s'>${body}</message>`],
      ['a normal message to no session, kept', `<message to='paris@localhost' id='s'>${body}</message>`],
    ]
    for (const [title, text] of silent) {
      it(`${title} is not answered`, async () => {
        juliet.send(`${text}<iq type='get' to='localhost' id='after'>${ping}</iq>`)
        expect(await juliet.hears(/id='after'/)).not.to.match(/id='s'/)
      })
    }
    const delivered: [string, string, RegExp][] = [
      ['a chat message to a resource that is not there', `<message type='chat' to='romeo@localhost/x' id='d1'>${body}</message>`, /id='d1'/],
      ['a message of an unknown type', `<message type='foo' to='romeo@localhost' id='d2'>${body}</message>`, /<message (?![^>]*type='foo')[^>]*id='d2'/],
      ['a headline', `<message type='headline' to='romeo@localhost' id='d3'>${body}</message>`, /id='d3'/],
      ['a groupchat message to a resource', `<message type='groupchat' to='romeo@localhost/orchard' id='d4'>${body}</message>`, /id='d4'/],
      ['an error to a resource', `<message type='error' to='romeo@localhost/orchard' id='d5'/>`, /id='d5'/],
      ['an IQ to a resource', `<iq type='get' to='romeo@localhost/orchard' id='d6'>${ping}</iq>`, /<iq (?=[^>]*from='juliet@localhost\/balcony')[^>]*id='d6'/],
      ['an IQ for a session of somebody else', "<iq type='set' to='romeo@localhost/orchard' id='d8'><session xmlns='urn:ietf:params:xml:ns:xmpp-session'/></iq>", /id='d8'/],
      ['a from of one\'s own bare address', `<message from='juliet@localhost' to='romeo@localhost' id='d7'>${body}</message>`, /<message (?=[^>]*from='juliet@localhost\/balcony')[^>]*id='d7'/],
    ]
    for (const [title, text, pattern] of delivered) {
      it(`${title} arrives`, async () => {
        juliet.send(text)
        await romeo.hears(pattern)
      })
    }
    it('a message without to goes to the own account', async () => {
      juliet.send(`<message type='chat' id='own'>${body}</message>`)
      await juliet.hears(/<message (?=[^>]*to='juliet@localhost')[^>]*id='own'/)
    })
    it('what is sent in one go arrives in order, however long one of it takes', async () => {
      let text = ''
      for (let i = 0; i < 200; i++) {
        text += `<message to='romeo@localhost/orchard' type='chat' id='n${i}'>${body}</message>`
        if (i % 10 === 0) text += `<iq type='get' id='slow${i}'><query xmlns='urn:xmpp:mam:2'/></iq><iq type='get' to='romeo@localhost' id='card${i}'><vCard xmlns='vcard-temp'/></iq>`
      }
      juliet.send(text)
      const heard = await romeo.until((fresh) => fresh.includes("id='n199'"), 'all of it')
      expect([...heard.matchAll(/<message [^>]*id='n(\d+)'/g)].map((match) => Number(match[1]))).to.deep.equal(Array.from({ length: 200 }, (_, i) => i))
      const answers = await juliet.until((fresh) => fresh.includes("id='card190'"), 'the answers')
      expect([...answers.matchAll(/<iq [^>]*id='(slow|card)(\d+)'/g)].map((match) => Number(match[2]))).to.deep.equal(Array.from({ length: 20 }, (_, i) => [i * 10, i * 10]).flat())
    })
    it('what stands behind the end of the stream is nothing', async () => {
      const raw = await bound('mercutio', 'wire', undefined)
      raw.send(`</stream:stream><message to='romeo@localhost/orchard' id='behind'>${body}</message>`)
      expect(await raw.closes()).to.equal('</stream:stream>')
      juliet.send(`<message to='romeo@localhost/orchard' id='marker'>${body}</message>`)
      expect(await romeo.hears(/id='marker'/)).not.to.contain('behind')
    })
    it('what stands behind an error is nothing', async () => {
      const raw = await bound('mercutio', 'wire', undefined)
      raw.send(`<foo/><message to='romeo@localhost/orchard' id='behind'>${body}</message>`)
      await raw.streamError('unsupported-stanza-type')
      juliet.send(`<message to='romeo@localhost/orchard' id='marker2'>${body}</message>`)
      expect(await romeo.hears(/id='marker2'/)).not.to.contain('behind')
    })
    it('a prefix of the stream header stays valid where the stanza goes', async () => {
      const raw = await opened()
      raw.send(plain('mercutio'))
      await raw.hears(/<success/)
      raw.send(HEADER_WITH("to='localhost' version='1.0' xmlns:q='urn:q'"))
      await raw.hears(/<\/stream:features>/)
      raw.send(`<iq type='set' id='bind'><bind xmlns='${BIND}'/></iq>`)
      await raw.hears(/<jid>/)
      raw.send(`<message to='romeo@localhost/orchard' id='prefix'>${body}<q:x q:y='z'/></message>`)
      const heard = await romeo.hears(/id='prefix'.*<\/message>/s)
      expect(heard).to.match(/xmlns:q=['"]urn:q['"]/)
      raw.leave()
    })
    for (const from of ['romeo@localhost', 'juliet@localhost/other', 'localhost', '@@', '']) {
      it(`from ${JSON.stringify(from)}: invalid-from`, async () => {
        const raw = await bound('mercutio', 'wire', undefined)
        await raw.send(`<message from='${from}' to='romeo@localhost'>${body}</message>`).streamError('invalid-from')
      })
    }
  })

  describe('stream management', () => {
    const errors: [string, string, string][] = [
      ['a request before it is enabled', `<r xmlns='${SM}'/>`, 'unsupported-stanza-type'],
      ['an answer before it is enabled', `<a xmlns='${SM}' h='0'/>`, 'undefined-condition'],
      ['an unknown element of it', `<foo xmlns='${SM}'/>`, 'unsupported-stanza-type'],
      ['h too high', `<enable xmlns='${SM}'/><a xmlns='${SM}' h='5'/>`, 'undefined-condition'],
      ['h that is no number', `<enable xmlns='${SM}'/><a xmlns='${SM}' h='x'/>`, 'undefined-condition'],
      ['h that is negative', `<enable xmlns='${SM}'/><a xmlns='${SM}' h='-1'/>`, 'undefined-condition'],
      ['h beyond 32 bits', `<enable xmlns='${SM}'/><a xmlns='${SM}' h='4294967296'/>`, 'undefined-condition'],
      ['h missing', `<enable xmlns='${SM}'/><a xmlns='${SM}'/>`, 'undefined-condition'],
    ]
    for (const [title, text, condition] of errors) {
      it(`${title}: ${condition}`, async () => {
        const raw = await bound('mercutio', 'sm', undefined)
        raw.send(text)
        await raw.closes()
        expect(raw.text).to.match(new RegExp(`<stream:error><${condition} .*</stream:error></stream:stream>$`))
        if (title === 'h too high') expect(raw.text).to.match(/<handled-count-too-high xmlns='urn:xmpp:sm:3' h='5' send-count='0'\/>/)
      })
    }
    it('enabling twice fails, and the stream goes on', async () => {
      const raw = await bound('mercutio', 'sm', undefined)
      raw.send(`<enable xmlns='${SM}'/><enable xmlns='${SM}'/><r xmlns='${SM}'/>`)
      expect(await raw.hears(/<a /)).to.match(/<enabled .*<failed [^>]*><unexpected-request .*<a xmlns='urn:xmpp:sm:3' h='0'\/>/)
      raw.leave()
    })
    it('resuming when bound fails', async () => {
      const raw = await bound('mercutio', 'sm', undefined)
      raw.send(`<resume xmlns='${SM}' previd='x' h='0'/>`)
      await raw.hears(/<failed [^>]*><unexpected-request /)
      raw.leave()
    })
    it('somebody else\'s stream cannot be resumed, its owner can', async () => {
      const raw = await bound('mercutio', 'sm', undefined)
      raw.send(`<enable xmlns='${SM}' resume='true'/>`)
      const id = / id='([^']+)'/.exec(await raw.hears(/<enabled/))?.[1] as string
      raw.leave()
      const thief = await loggedIn('paris')
      thief.send(`<resume xmlns='${SM}' previd='${id}' h='0'/>`)
      await thief.hears(/<failed [^>]*><item-not-found /)
      thief.leave()
      const owner = await loggedIn('mercutio')
      owner.send(`<resume xmlns='${SM}' previd='${id}' h='0'/>`)
      await owner.hears(/<resumed [^>]*h='0'/)
      const second = await loggedIn('mercutio')
      second.send(`<resume xmlns='${SM}' previd='${id}' h='9'/>`)
      await second.closes()
      expect(second.text).to.contain('handled-count-too-high')
      owner.send(`<r xmlns='${SM}'/>`)
      await owner.hears(/<a /)
      owner.leave()
    })
    it('what was cut off by the loss of the connection is not handled', async () => {
      const raw = await bound('mercutio', 'sm', undefined)
      raw.send(`<enable xmlns='${SM}' resume='true'/>`)
      const id = / id='([^']+)'/.exec(await raw.hears(/<enabled/))?.[1] as string
      raw.send("<message to='romeo@localhost' id='whole'/><message to='romeo@localhost' id='cut'><body>x")
      raw.socket.end()
      await raw.closes()
      const again = await loggedIn('mercutio')
      again.send(`<resume xmlns='${SM}' previd='${id}' h='0'/>`)
      await again.hears(/<resumed [^>]*h='1'/)
      again.send(`</stream:stream>`)
      await again.closes()
      const late = await loggedIn('mercutio')
      late.send(`<resume xmlns='${SM}' previd='${id}' h='0'/>`)
      await late.hears(/<failed [^>]*h='1'[^>]*><item-not-found /)
      late.leave()
      const thief = await loggedIn('paris')
      thief.send(`<resume xmlns='${SM}' previd='${id}' h='0'/>`)
      expect(await thief.hears(/<failed.*<\/failed>/)).to.match(/<item-not-found /).and.not.to.match(/h='1'/)
      thief.leave()
    })
    it('what is bounced counts as handled', async () => {
      const raw = await bound('mercutio', 'sm', undefined)
      raw.send(`<enable xmlns='${SM}'/><message to='@@' id='x'/><iq type='foo' id='y'/><presence type='foo'/><r xmlns='${SM}'/>`)
      await raw.hears(/<a xmlns='urn:xmpp:sm:3' h='3'\/>/)
      raw.leave()
    })
  })

  describe('limits', () => {
    it('a stanza of just the allowed size passes, one byte more does not', async () => {
      const raw = await bound('paris', 'limits')
      const start = "<message to='paris@localhost/limits' type='chat' id='big'><body>"
      const end = '</body></message>'
      const room = 40_000 - start.length - end.length
      raw.send(start + 'x'.repeat(room) + end)
      await raw.hears(/id='big'.*<\/message>/s)
      await raw.send(start + 'x'.repeat(room + 1) + end).streamError('policy-violation')
    })
    it('a stanza without end does not grow without end', async () => {
      const raw = await bound('paris', 'limits')
      raw.send("<message to='romeo@localhost'><body>")
      for (let i = 0; i < 50 && !raw.closed; i++) {
        raw.send('x'.repeat(1000))
        if (i % 10 === 0) await new Promise(setImmediate)
      }
      await raw.streamError('policy-violation')
    })
    it('a reader that stops is closed, and a bystander keeps its pace', async () => {
      const stopped = await bound('paris', 'stopped')
      stopped.socket.pause()
      const raw = await bound('mercutio', 'pace')
      const big = `<message to='paris@localhost/stopped' type='headline'><body>${'x'.repeat(30_000)}</body></message>`
      let slowest = 0
      for (let i = 0; i < 400; i++) {
        raw.send(big)
        if (i % 20 === 0) {
          const start = Date.now()
          raw.send(`<iq type='get' to='localhost' id='p${i}'><ping xmlns='urn:xmpp:ping'/></iq>`)
          await raw.hears(new RegExp(`id='p${i}'`))
          slowest = Math.max(slowest, Date.now() - start)
        }
      }
      expect(slowest).to.be.lessThan(1000)
      raw.send("<iq type='get' to='paris@localhost/stopped' id='gone'><ping xmlns='urn:xmpp:ping'/></iq>")
      await raw.hears(/id='gone'.*<service-unavailable /)
      raw.leave()
      stopped.leave()
    })
    it('who asks for what is no stanza and reads no answer is closed', async () => {
      const raw = await bound('paris', 'asks', undefined)
      raw.send(`<enable xmlns='${SM}'/>`)
      await raw.hears(/<enabled/)
      raw.socket.pause()
      const before = server.server.sessions.size
      const many = `<enable xmlns='${SM}'/>`.repeat(1000)
      for (let i = 0; i < 2000 && !raw.closed && server.server.sessions.size === before; i++) {
        if (!raw.socket.write(many)) await Promise.race([once(raw.socket, 'drain'), new Promise((resolve) => setTimeout(resolve, 50))])
        await new Promise(setImmediate)
      }
      expect(server.server.sessions.size).to.be.lessThan(before)
      raw.leave()
    })
    it('who never acknowledges is closed when too many bytes wait', async () => {
      const silent = await bound('paris', 'silent')
      silent.send(`<enable xmlns='${SM}' resume='true'/>`)
      await silent.hears(/<enabled/)
      const raw = await bound('mercutio', 'pace')
      for (let i = 0; i < 30; i++) raw.send(`<message to='paris@localhost/silent' type='chat'><body>${'x'.repeat(30_000)}</body></message>`)
      await silent.closes()
      expect(silent.text).to.contain('resource-constraint')
      raw.leave()
    })
    it('one address has so many connections without a session and no more', async () => {
      const all = await Promise.all(Array.from({ length: 420 }, () => Raw.open(ports.plain)))
      for (let i = 0; i < 200 && all.filter((each) => each.closed).length < 20; i++) await new Promise((resolve) => setTimeout(resolve, 10))
      expect(all.filter((each) => each.closed)).to.have.lengthOf.within(20, 40)
      for (const each of all) each.leave()
      await new Promise((resolve) => setTimeout(resolve, 200))
      ;(await opened(false)).leave()
    })
    it('300 idle connections come and go, and their descriptors with them', async () => {
      const descriptors = (): number => readdirSync('/proc/self/fd').length
      await new Promise((resolve) => setTimeout(resolve, 50))
      const before = descriptors()
      const all = await Promise.all(Array.from({ length: 300 }, () => Raw.open(ports.plain)))
      for (let i = 0; i < 100 && descriptors() < before + 600; i++) await new Promise((resolve) => setTimeout(resolve, 20))
      expect(descriptors()).to.be.at.least(before + 600)
      for (const each of all) each.leave()
      for (let i = 0; i < 100 && descriptors() > before + 10; i++) await new Promise((resolve) => setTimeout(resolve, 20))
      expect(descriptors()).to.be.at.most(before + 10)
    })
  })

  it('odd values in payloads get an answer, and never an internal error', async function () {
    this.timeout(60_000)
    const form = (type: string, fields: string): string => `<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>${type}</value></field>${fields}</x>`
    const templates = [
      "<iq type='get'><query xmlns='jabber:iq:roster' ver='1'/></iq>",
      "<iq type='set'><query xmlns='jabber:iq:roster'><item jid='a@localhost' name='A' subscription='none'><group>g</group></item></query></iq>",
      `<iq type='set'><query xmlns='urn:xmpp:mam:2' queryid='q' node='n'>${form('urn:xmpp:mam:2', "<field var='with'><value>romeo@localhost</value></field><field var='start'><value>2020-01-01T00:00:00Z</value></field><field var='ids'><value>x</value></field>")}<set xmlns='http://jabber.org/protocol/rsm'><max>3</max><after>x</after><before>y</before></set></query></iq>`,
      "<iq type='get'><query xmlns='urn:xmpp:mam:2'/></iq>",
      "<iq type='get'><metadata xmlns='urn:xmpp:mam:2'/></iq>",
      "<iq type='set'><prefs xmlns='urn:xmpp:mam:2' default='roster'><always><jid>a@localhost</jid></always><never><jid>b@localhost</jid></never></prefs></iq>",
      "<iq type='set'><block xmlns='urn:xmpp:blocking'><item jid='evil@localhost'/></block></iq>",
      "<iq type='set'><unblock xmlns='urn:xmpp:blocking'><item jid='evil@localhost'/></unblock></iq>",
      "<iq type='get'><blocklist xmlns='urn:xmpp:blocking'/></iq>",
      "<iq type='get' to='localhost'><query xmlns='http://jabber.org/protocol/disco#info' node='x'/></iq>",
      "<iq type='get' to='paris@localhost'><query xmlns='http://jabber.org/protocol/disco#items' node='x'/></iq>",
      "<iq type='set'><vCard xmlns='vcard-temp'><FN>x</FN><PHOTO><TYPE>image/png</TYPE><BINVAL>eA==</BINVAL></PHOTO></vCard></iq>",
      "<iq type='get' to='romeo@localhost'><vCard xmlns='vcard-temp'/></iq>",
      "<iq type='set'><query xmlns='jabber:iq:private'><s xmlns='storage:x'><a b='c'>d</a></s></query></iq>",
      "<iq type='get'><query xmlns='jabber:iq:private'><s xmlns='storage:x'/></query></iq>",
      "<iq type='get' to='romeo@localhost'><query xmlns='jabber:iq:last'/></iq>",
      "<iq type='get' to='localhost'><time xmlns='urn:xmpp:time'/></iq>",
      "<iq type='get' to='localhost'><query xmlns='jabber:iq:version'/></iq>",
      "<iq type='set'><enable xmlns='urn:xmpp:carbons:2'/></iq>",
      "<iq type='get' to='localhost'><query xmlns='jabber:iq:register'/></iq>",
      "<iq type='get' to='localhost'><request xmlns='urn:xmpp:http:upload:0' filename='a.png' size='10' content-type='image/png'/></iq>",
      "<iq type='set' to='localhost'><command xmlns='http://jabber.org/protocol/commands' node='x' action='execute' sessionid='s'/></iq>",
      "<iq type='set'><pubsub xmlns='http://jabber.org/protocol/pubsub'><publish node='n'><item id='i'><e xmlns='u'/></item></publish></pubsub></iq>",
      "<iq type='get' to='upload.localhost'><request xmlns='urn:xmpp:http:upload:0' filename='a.png' size='10' content-type='image/png'/></iq>",
    ]
    const odd = ['', ' ', '@@', '@', 'a@b@c', 'localhost', 'romeo@localhost/x', '-1', '99999999999999999999', '1e400', 'NaN', '__proto__', 'constructor', 'toString', '&#x1F600;', '&#xD7FF;&#x300;', '&lt;a&gt;&amp;&apos;&quot;', '../../etc/passwd', '%00', 'x'.repeat(3000), '2020-02-30T25:61:61Z', '0000-00-00T00:00:00Z', '9999-12-31T23:59:59.999999999999+14:00']
    let raw = await bound('nurse', 'odd', undefined)
    const wrong: string[] = []
    let count = 0
    for (const template of templates) {
      // Every value of the payload in turn, but not its namespaces, which tell what it is.
      const values = [...template.matchAll(/(?<!xmlns|<iq type|var)='([^']*)'|>([^<>]+)</g)]
      for (const value of values) {
        const at = value.index + (value[1] !== undefined ? 2 : 1)
        const length = (value[1] ?? value[2] ?? '').length
        for (const text of odd) {
          const id = `o${++count}`
          raw.send((template.slice(0, at) + text + template.slice(at + length)).replace('<iq ', `<iq id='${id}' `))
          const answer = await raw.until((fresh) => fresh.includes(`id='${id}'`) || raw.closed, `an answer to ${template} with ${text.slice(0, 40)} for ${value[0]}`, 3000)
          if (/internal-server-error|undefined-condition/.test(answer)) wrong.push(`${template} with ${text.slice(0, 40)} for ${value[0]}: ${answer}`)
          if (raw.closed) raw = await bound('nurse', 'odd', undefined)
        }
      }
    }
    expect(wrong).to.deep.equal([])
    expect(count).to.be.greaterThan(700)
    raw.leave()
  })

  it('mutated streams do no harm, and a bystander is served', async function () {
    this.timeout(60_000)
    const bystander = await bound('mercutio', 'bystander')
    const seeds = [
      HEADER, HEADER + plain('juliet'), HEADER + STARTTLS, `${HEADER}<iq type='get' id='a'><query xmlns='jabber:iq:register'/></iq>`,
      `${HEADER}${auth('SCRAM-SHA-1', b64('n,,n=juliet,r=abc'))}<response xmlns='${SASL}'>${b64('c=biws,r=abc,p=eA==')}</response></stream:stream>`,
    ].map((text) => Buffer.from(text))
    const inside = Buffer.from(`<message to='romeo@localhost' type='chat' id='f'><body>a&amp;b <![CDATA[c]]></body></message><presence><priority>1</priority></presence><iq type='get' id='g' to='localhost'><query xmlns='http://jabber.org/protocol/disco#info'/></iq><r xmlns='${SM}'/>`)
    let seed = Number(process.env['WIRE_SEED'] ?? 7)
    const random = (max: number): number => {
      seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff
      return (seed >> 8) % max
    }
    const mutate = (source: Buffer): Buffer => {
      let bytes = Buffer.from(source)
      for (let i = 1 + random(4); i > 0; i--) {
        const at = random(bytes.length)
        switch (random(4)) {
          case 0: bytes[at] = random(256); break
          case 1: bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + 1 + random(8))]); break
          case 2: bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(random(at + 1), at + random(30)), bytes.subarray(at)]); break
          default: bytes = Buffer.concat([bytes.subarray(0, at), Buffer.from('<>&\'"/?!=: \0\xff'.charAt(random(13)), 'latin1'), bytes.subarray(at)])
        }
        if (bytes.length === 0) return Buffer.from('<')
      }
      return bytes
    }
    const one = async (i: number): Promise<void> => {
      const raw = await Raw.open(ports.plain)
      raw.send(mutate(seeds[i % seeds.length] as Buffer))
      raw.socket.end()
      await raw.closes()
      if (/internal-server-error/.test(raw.text)) throw new Error(`internal error: ${raw.text}`)
    }
    for (let i = 0; i < 2000; i += 40) await Promise.all(Array.from({ length: 40 }, (_, j) => one(i + j)))
    for (let i = 0; i < 100; i++) {
      const raw = await bound('paris', 'fuzz', undefined)
      raw.send(mutate(inside))
      raw.send(mutate(inside))
      raw.socket.end()
      await raw.closes()
      if (/internal-server-error/.test(raw.text)) throw new Error(`internal error: ${raw.text}`)
    }
    bystander.send("<iq type='get' to='localhost' id='alive'><ping xmlns='urn:xmpp:ping'/></iq>")
    await bystander.hears(/type='result'[^>]*id='alive'|id='alive'[^>]*type='result'/)
    bystander.leave()
  })
})

for (const policy of ['closenew', 'setresource', 'closeold']) {
  describe(`resource_conflict: ${policy}`, () => {
    let other: TestServer
    before(async () => { other = await startTestServer({ config: `${TEST_CONFIG}resource_conflict: ${policy}\n`, accounts: { juliet: 'secret' } }) })
    after(async () => { await other[Symbol.asyncDispose]() })
    it('decides about a resource that is taken', async () => {
      const both: Raw[] = []
      for (let i = 0; i < 2; i++) {
        const raw = await Raw.open(other.tlsPort, true)
        raw.send(HEADER)
        await raw.hears(/<\/stream:features>/)
        raw.send(plain('juliet'))
        await raw.hears(/<success/)
        raw.send(HEADER)
        await raw.hears(/<\/stream:features>/)
        raw.send(`<iq type='set' id='b'><bind xmlns='${BIND}'><resource>same</resource></bind></iq>`)
        const text = await raw.hears(/<\/iq>/)
        if (i === 0 || policy === 'closeold') expect(text).to.contain('<jid>juliet@localhost/same</jid>')
        else expect(text).to.match(policy === 'closenew' ? /<conflict / : /<jid>juliet@localhost\/(?!same<)/)
        both.push(raw)
      }
      const [old, young] = both as [Raw, Raw]
      if (policy === 'closeold') await old.streamError('conflict')
      else {
        old.send("<iq type='get' to='localhost' id='p'><ping xmlns='urn:xmpp:ping'/></iq>")
        await old.hears(/id='p'/)
      }
      old.leave()
      young.leave()
    })
  })
}

describe('silence on the wire', () => {
  const TIMED = TEST_CONFIG + 'tidings:\n  limits:\n    pre_auth_timeout: 1 second\n    connections: 25\n    idle_ping: 1 second\n    idle_close: 1 second\n    close_timeout: 1 second\n'
  let timed: TestServer
  before(async () => { timed = await startTestServer({ config: TIMED, accounts: { juliet: 'secret' } }) })
  after(async () => { await timed[Symbol.asyncDispose]() })

  it('connections that are over do not count any more', async () => {
    for (let round = 0; round < 4; round++) {
      const all = await Promise.all(Array.from({ length: 10 }, () => Raw.open(timed.port)))
      for (const raw of all) raw.send(HEADER)
      for (const raw of all) await raw.hears(/<\/stream:features>/)
      if (round % 2 === 1) {
        for (const raw of all) {
          raw.send(STARTTLS)
          await raw.hears(/<proceed/)
          raw.socket.removeAllListeners('data')
          const secured = tls.connect({ socket: raw.socket, servername: 'localhost', rejectUnauthorized: false })
          await once(secured, 'secureConnect')
          raw.attach(secured)
        }
      }
      for (const raw of all) raw.leave()
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
  })
  it('a connection that says nothing', async () => {
    const raw = await Raw.open(timed.port)
    await raw.streamError('connection-timeout', true, 4000)
  })
  it('a header that is dribbled', async () => {
    const raw = await Raw.open(timed.port)
    const dribble = setInterval(() => raw.send('<stream:stream '.charAt(Math.min(14, raw.taken++))), 50)
    raw.taken = 0
    await raw.closes(4000).finally(() => clearInterval(dribble))
    expect(raw.text).to.contain('connection-timeout')
  })
  it('a TLS listener that gets no handshake', async () => {
    const raw = await Raw.open(timed.tlsPort)
    raw.send('no handshake')
    await raw.closes(4000)
  })
  it('whitespace alone does not keep who is not logged in', async () => {
    const raw = await Raw.open(timed.port)
    raw.send(HEADER)
    const blanks = setInterval(() => raw.send(' '), 50)
    await raw.closes(4000).finally(() => clearInterval(blanks))
    expect(raw.text).to.contain('connection-timeout')
  })
  it('a silent session is asked, and closed when it does not answer', async () => {
    const raw = await Raw.open(timed.tlsPort, true)
    raw.send(HEADER)
    await raw.hears(/<\/stream:features>/)
    raw.send(plain('juliet'))
    await raw.hears(/<success/)
    raw.send(`${HEADER}<iq type='set' id='b'><bind xmlns='${BIND}'/></iq>`)
    await raw.hears(/<jid>/)
    await raw.hears(/<ping xmlns='urn:xmpp:ping'\/>/)
    raw.send(' ')
    await raw.hears(/<ping xmlns='urn:xmpp:ping'\/>/)
    await raw.streamError('connection-timeout')
  })
  it('a login without binding', async () => {
    const raw = await Raw.open(timed.tlsPort, true)
    raw.send(HEADER)
    await raw.hears(/<\/stream:features>/)
    raw.send(plain('juliet'))
    await raw.hears(/<success/)
    await raw.closes(4000)
    expect(raw.text).to.contain('connection-timeout')
  })
})
