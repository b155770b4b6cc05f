import { once } from 'node:events'
import net from 'node:net'
import { expect } from 'chai'
import fc from 'fast-check'
import { EXTENSION, extensionsIn, parseProxyHeader, proxyExtension, proxyHeader, TLS_EXTENSION, type ProxyHeader, ProxyHeaderError, readProxyHeader } from './proxy-protocol.ts'

const SIGNATURE = '0d0a0d0a000d0a515549540a'
const line = (text: string): Buffer => Buffer.from(`${text}\r\n`, 'latin1')

/** A header of version 2: the byte of version and command, that of family and protocol, and what follows. */
function binary(command: number, family: number, block: Buffer = Buffer.alloc(0), length = block.length): Buffer {
  const head = Buffer.concat([Buffer.from(SIGNATURE, 'hex'), Buffer.from([command, family, 0, 0])])
  head.writeUInt16BE(length, 14)
  return Buffer.concat([head, block])
}

const four = Buffer.from([192, 0, 2, 7, 198, 51, 100, 1, 0x30, 0x39, 0x14, 0x66])
const six = Buffer.from('20010db8000000000000000000000007' + '20010db8000000000000000000000001' + '30391466', 'hex')
const extension = (type: number, value: Buffer): Buffer => Buffer.concat([Buffer.from([type, value.length >> 8, value.length & 255]), value])

const accepted: [string, Buffer, string | undefined][] = [
  ['§2.1 TCP4', line('PROXY TCP4 192.168.0.1 192.168.0.11 56324 443'), '192.168.0.1'],
  ['§2.1 TCP4, the longest', line('PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535'), '255.255.255.255'],
  ['§2.1 TCP6', line('PROXY TCP6 2001:DB8::7 2001:db8:0:0:0:0:0:1 56324 443'), '2001:db8::7'],
  ['§2.1 TCP6, the longest', line('PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535'), 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff'],
  ['§2.1 UNKNOWN', line('PROXY UNKNOWN'), undefined],
  ['§2.1 UNKNOWN with addresses, which are ignored', line('PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535'), undefined],
  ['§2.2 TCP over IPv4', binary(0x21, 0x11, four), '192.0.2.7'],
  ['§2.2 TCP over IPv6', binary(0x21, 0x21, six), '2001:db8::7'],
  ['§2.2 TCP over IPv6 from an IPv4 client', binary(0x21, 0x21, Buffer.from('00000000000000000000ffffc0000207' + '0'.repeat(32) + '30391466', 'hex')), '::ffff:192.0.2.7'],
  ['§2.2 with extensions', binary(0x21, 0x11, Buffer.concat([four, extension(2, Buffer.from('example.org')), extension(4, Buffer.alloc(300))])), '192.0.2.7'],
  ['§2.2 LOCAL', binary(0x20, 0x00), undefined],
  ['§2.2 LOCAL with addresses, which are ignored', binary(0x20, 0x11, four), undefined],
  ['§2.2 LOCAL with a family that is not known', binary(0x20, 0xff, Buffer.from('anything')), undefined],
  ['§2.2 UNSPEC', binary(0x21, 0x00), undefined],
  ['§2.2 UNSPEC with a block that is skipped', binary(0x21, 0x00, Buffer.alloc(77, 1)), undefined],
  ['§2.2 IPv4 over an unspecified protocol', binary(0x21, 0x10, four), undefined],
  ['§2.2 UDP, which cannot have brought a stream', binary(0x21, 0x12, four), undefined],
  ['§2.2 a Unix socket', binary(0x21, 0x31, Buffer.alloc(216)), undefined],
]

const refused: [string, Buffer][] = [
  ['a stream header', Buffer.from("<?xml version='1.0'?><stream:stream>")],
  ['a TLS handshake', Buffer.from('16030100c8010000c40303', 'hex')],
  ['an HTTP request', Buffer.from('GET / HTTP/1.1\r\n')],
  ['small letters', line('proxy TCP4 192.168.0.1 192.168.0.11 1 2')],
  ['two spaces', line('PROXY  TCP4 192.168.0.1 192.168.0.11 1 2')],
  ['a space at the end', line('PROXY TCP4 192.168.0.1 192.168.0.11 1 2 ')],
  ['no ports', line('PROXY TCP4 192.168.0.1 192.168.0.11')],
  ['an unknown protocol', line('PROXY UDP4 192.168.0.1 192.168.0.11 1 2')],
  ['UNKNOWN with letters behind it', line('PROXY UNKNOWNS')],
  ['an address of the other family', line('PROXY TCP4 2001:db8::7 192.168.0.11 1 2')],
  ['an address of the other family', line('PROXY TCP6 2001:db8::7 192.168.0.11 1 2')],
  ['leading zeroes in an address', line('PROXY TCP4 192.168.0.01 192.168.0.11 1 2')],
  ['an address out of range', line('PROXY TCP4 192.168.0.256 192.168.0.11 1 2')],
  ['a zone', line('PROXY TCP6 fe80::1%eth0 fe80::2 1 2')],
  ['leading zeroes in a port', line('PROXY TCP4 192.168.0.1 192.168.0.11 01 2')],
  ['a port out of range', line('PROXY TCP4 192.168.0.1 192.168.0.11 65536 2')],
  ['LF alone', Buffer.from('PROXY UNKNOWN\n')],
  ['CR alone', Buffer.from('PROXY UNKNOWN\rx\r\n')],
  ['a line that is too long', line(`PROXY UNKNOWN ${'x'.repeat(92)}`)],
  ['a line without end', Buffer.from(`PROXY UNKNOWN ${'x'.repeat(200)}`)],
  ['another version', binary(0x11, 0x11, four)],
  ['an unassigned command', binary(0x22, 0x11, four)],
  ['an unassigned family', binary(0x21, 0x41, four)],
  ['an unassigned protocol', binary(0x21, 0x13, four)],
  ['addresses cut off', binary(0x21, 0x21, four)],
  ['addresses of a Unix socket cut off', binary(0x21, 0x31, six)],
  ['more than is allowed', binary(0x21, 0x11, four, 5000)],
  ['an extension cut off in its head', binary(0x21, 0x11, Buffer.concat([four, Buffer.from([4, 0])]))],
  ['an extension cut off in its value', binary(0x21, 0x11, Buffer.concat([four, Buffer.from([4, 0, 9, 1])]))],
  ['a wrong checksum', binary(0x21, 0x11, Buffer.concat([four, extension(3, Buffer.from([1, 2, 3, 4]))]))],
  ['a checksum of another length', binary(0x21, 0x11, Buffer.concat([four, extension(3, Buffer.from([1, 2, 3]))]))],
]

function outcome(bytes: Buffer): ProxyHeader | undefined | 'refused' {
  try {
    return parseProxyHeader(bytes)
  } catch (error) {
    if (error instanceof ProxyHeaderError) return 'refused'
    throw error
  }
}

describe('the PROXY protocol', () => {
  for (const [title, header, address] of accepted) {
    it(`takes ${title}`, () => {
      expect(parseProxyHeader(Buffer.concat([header, Buffer.from('PROXY UNKNOWN\r\n')]))).to.include({ length: header.length, address })
      for (let length = 0; length < header.length; length++) expect(parseProxyHeader(header.subarray(0, length)), String(length)).to.equal(undefined)
    })
  }

  for (const [title, header] of refused) {
    it(`refuses ${title}`, () => { expect(outcome(header)).to.equal('refused') })
  }

  it('refuses at the first byte that cannot be one', () => {
    for (const start of ['G', '<', '\r\n\r\n\r', 'PROXY_', 'PX', '\x16']) expect(outcome(Buffer.from(start, 'latin1')), start).to.equal('refused')
    expect(outcome(Buffer.from(`${SIGNATURE}31`, 'hex'))).to.equal('refused')
  })

  it('§2.2 is read as it was written, extensions and all', () => {
    for (const address of ['192.0.2.7', '2001:db8::7', '::1', '::ffff:192.0.2.7', undefined]) {
      const tls = proxyExtension(EXTENSION.tls, Buffer.concat([Buffer.from([1, 0, 0, 0, 0]), proxyExtension(TLS_EXTENSION.version, 'TLSv1.3'), proxyExtension(TLS_EXTENSION.cipher, 'TLS_AES_128_GCM_SHA256')]))
      const header = proxyHeader(address, [proxyExtension(EXTENSION.alpn, 'xmpp-client'), tls])
      const read = parseProxyHeader(Buffer.concat([header, Buffer.from('<stream')]))
      expect(read).to.include({ length: header.length, address })
      expect(read?.extensions.get(EXTENSION.alpn)?.toString()).to.equal('xmpp-client')
      const inner = extensionsIn(read?.extensions.get(EXTENSION.tls) as Buffer, 5)
      expect([...inner].map(([type, value]) => [type, value.toString()])).to.deep.equal([[TLS_EXTENSION.version, 'TLSv1.3'], [TLS_EXTENSION.cipher, 'TLS_AES_128_GCM_SHA256']])
    }
  })
  it('§2.2.3 takes a checksum that is right', () => {
    // CRC32c of the whole header with zeroes for the checksum, by another implementation.
    const header = binary(0x21, 0x11, Buffer.concat([four, extension(4, Buffer.from('tidings')), extension(3, Buffer.from('@@@@'))]))
    header.writeUInt32BE(0xe6b64fb8, header.length - 4)
    expect(parseProxyHeader(header)?.address).to.equal('192.0.2.7')
    header[20] = 1
    expect(outcome(header)).to.equal('refused')
  })

  it('makes no header of anything else, whatever it is and however it is cut', () => {
    const start = fc.constantFrom(...accepted.map(([, header]) => header))
    const mutated = fc.tuple(start, fc.array(fc.tuple(fc.nat(120), fc.nat(255)), { maxLength: 4 })).map(([header, changes]) => {
      const bytes = Buffer.from(header)
      for (const [at, value] of changes) if (at < bytes.length) bytes[at] = value
      return bytes
    })
    const any = fc.oneof(mutated, fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes)), fc.string({ maxLength: 120 }).map((text) => Buffer.from(`PROXY ${text}`)))
    fc.assert(fc.property(any, fc.uint8Array({ maxLength: 50 }), (header, rest) => {
      const bytes = Buffer.concat([header, rest])
      const whole = outcome(bytes)
      if (typeof whole === 'object') {
        expect(whole.length).to.be.within(15, bytes.length)
        if (whole.address !== undefined) expect(net.isIP(whole.address)).to.not.equal(0)
      }
      // Bytes come one by one: what is refused stays refused, and what is found is found at its last byte and stays.
      let before: ReturnType<typeof outcome>
      for (let length = 1; length <= bytes.length; length++) {
        const now = outcome(bytes.subarray(0, length))
        if (before !== undefined) expect(now).to.deep.equal(before)
        else if (typeof now === 'object') expect(now.length).to.equal(length)
        before = now
      }
      expect(before).to.deep.equal(whole)
    }), { numRuns: 500 })
  })

  describe('ahead of a connection', () => {
    let server: net.Server
    let outcomes: ((found: { header?: ProxyHeader; error?: Error; socket: net.Socket }) => void)[] = []
    const next = (): Promise<{ header?: ProxyHeader; error?: Error; socket: net.Socket }> => new Promise((resolve) => { outcomes.push(resolve) })
    for (const paused of [true, false]) {
      describe(paused ? 'of a listener that pauses' : 'of a listener that reads', () => {
        beforeEach(async () => {
          outcomes = []
          server = net.createServer({ pauseOnConnect: paused }, (socket) => {
            readProxyHeader(socket, 200, (header) => outcomes.shift()?.({ header, socket }), (error) => {
              socket.destroy()
              outcomes.shift()?.({ error, socket })
            })
          }).listen(0, '127.0.0.1')
          await once(server, 'listening')
        })
        afterEach(() => { server.close() })
        const open = (): net.Socket => net.connect((server.address() as net.AddressInfo).port, '127.0.0.1').setNoDelay(true).on('error', () => undefined)

        it('is read in any number of pieces, and what follows is left', async () => {
          for (const size of [1, 7, 20, 1000]) {
            const found = next()
            const client = open()
            const bytes = Buffer.concat([binary(0x21, 0x21, six), Buffer.from('<stream>')])
            for (let at = 0; at < bytes.length; at += size) {
              client.write(bytes.subarray(at, at + size))
              await new Promise(setImmediate)
            }
            const { header, socket } = await found
            expect(header?.address).to.equal('2001:db8::7')
            let text = ''
            socket.on('data', (chunk: Buffer) => { text += String(chunk) })
            socket.resume()
            client.end(' and more')
            await once(socket, 'end')
            expect(text).to.equal('<stream> and more')
            socket.destroy()
          }
        })

        it('does not wait for one that does not come', async () => {
          const found = next()
          const client = open()
          client.write('PROXY TCP4')
          expect((await found).error?.message).to.contain('in time')
          await once(client, 'close')
        })

        it('does not wait for one on a connection that has ended', async () => {
          const found = next()
          open().end('PROXY TCP4')
          expect((await found).error?.message).to.contain('ended')
        })

        it('is refused when it is none', async () => {
          const found = next()
          open().write('<stream:stream>')
          expect((await found).error?.message).to.equal('no PROXY header')
        })
      })
    }
  })
})
