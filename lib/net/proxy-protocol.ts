/**
 * The PROXY protocol, versions 1 and 2 (2020-03-05): a header ahead of everything else on a connection, in which a proxy
 * names the client it speaks for.
 */
import { isIPv4, isIPv6, SocketAddress, type Socket } from 'node:net'

/** §2.1: the longest line of version 1, its end included. */
const LINE_BYTES_MAX = 107
/** The longest header of version 2 that is taken. Addresses need 232 bytes at most; the rest is for what proxies add. */
const BINARY_BYTES_MAX = 4096
const LINE_START = Buffer.from('PROXY ')
const SIGNATURE = Buffer.from('\r\n\r\n\0\r\nQUIT\n', 'latin1')
/** §2.2: bytes of source and destination by address family: unspecified, IPv4, IPv6, Unix. */
const ADDRESS_BYTES = [0, 12, 36, 216] as const

/** A header that is malformed, too long, or did not come; the connection is to be closed. */
export class ProxyHeaderError extends Error {}

export interface ProxyHeader {
  /** Bytes of the header; what follows is the client's. */
  readonly length: number
  /** The client's IP address; undefined when the proxy speaks for itself or cannot tell, so that the socket's own holds. */
  readonly address: string | undefined
  /** What else a header of version 2 says: values by type (§2.2). */
  readonly extensions: ReadonlyMap<number, Buffer>
}

const NO_EXTENSIONS: ReadonlyMap<number, Buffer> = new Map()

/** §2.2: types of what follows the addresses. */
export const EXTENSION = { alpn: 0x01, authority: 0x02, checksum: 0x03, tls: 0x20 } as const

/** §2.2.5: what is in the extension `tls`. */
export const TLS_EXTENSION = { version: 0x21, cipher: 0x23 } as const

/** An extension as it is written. */
export function proxyExtension(type: number, value: Buffer | string): Buffer {
  const bytes = Buffer.from(value)
  const head = Buffer.allocUnsafe(3)
  head[0] = type
  head.writeUInt16BE(bytes.length, 1)
  return Buffer.concat([head, bytes])
}

/** A header of version 2 for a client of TCP, with extensions as `proxyExtension` makes them. Without an address it is one of a Unix socket. */
export function proxyHeader(address: string | undefined, extensions: readonly Buffer[]): Buffer {
  const family = address === undefined ? 3 : isIPv4(address) ? 1 : 2
  const addresses = Buffer.alloc(ADDRESS_BYTES[family])
  if (address !== undefined) bytesOf(address).copy(addresses)
  const rest = Buffer.concat([addresses, ...extensions])
  const head = Buffer.allocUnsafe(4)
  head[0] = 0x21
  head[1] = (family << 4) | 1
  head.writeUInt16BE(rest.length, 2)
  return Buffer.concat([SIGNATURE, head, rest])
}

function bytesOf(address: string): Buffer {
  if (isIPv4(address)) return Buffer.from(address.split('.').map(Number))
  const [left = '', right] = address.replace(/(\d+)\.(\d+)\.(\d+)\.(\d+)$/, (_, a, b, c, d) => `${((Number(a) << 8) | Number(b)).toString(16)}:${((Number(c) << 8) | Number(d)).toString(16)}`).split('::')
  const groups = (text: string): number[] => text.split(':').filter((group) => group !== '').map((group) => Number.parseInt(group, 16))
  const [first, last] = [groups(left), groups(right ?? '')]
  const bytes = Buffer.alloc(16)
  for (const [at, group] of [...first, ...Array.from({ length: 8 - first.length - last.length }, () => 0), ...last].entries()) bytes.writeUInt16BE(group, 2 * at)
  return bytes
}

/**
 * Reads the header that these bytes begin with. Undefined while it is not whole. Throws a ProxyHeaderError as soon as the
 * bytes cannot become one.
 */
export function parseProxyHeader(bytes: Buffer, bytesMax = BINARY_BYTES_MAX): ProxyHeader | undefined {
  if (bytes.length === 0) return undefined
  if (beginsAs(bytes, SIGNATURE)) return parseBinary(bytes, bytesMax)
  if (beginsAs(bytes, LINE_START)) return parseLine(bytes)
  throw new ProxyHeaderError('no PROXY header')
}

function beginsAs(bytes: Buffer, start: Buffer): boolean {
  const length = Math.min(bytes.length, start.length)
  return bytes.compare(start, 0, length, 0, length) === 0
}

const PORT = '(?:0|[1-9]\\d{0,4})'
const LINE = new RegExp(`^PROXY (?:UNKNOWN(?: [^\\r\\n]*)?|TCP([46]) (\\S+) (\\S+) (${PORT}) (${PORT}))\\r\\n$`)

/** §2.1 */
function parseLine(bytes: Buffer): ProxyHeader | undefined {
  const length = bytes.subarray(0, LINE_BYTES_MAX).indexOf(0x0a) + 1
  if (length === 0) {
    if (bytes.length >= LINE_BYTES_MAX) throw new ProxyHeaderError('the line is too long')
    return undefined
  }
  const match = LINE.exec(bytes.latin1Slice(0, length))
  if (match === null) throw new ProxyHeaderError('the line is malformed')
  const [, version, source = '', destination = '', ...ports] = match
  if (version === undefined) return { length, address: undefined, extensions: NO_EXTENSIONS }
  const fits = (text: string): boolean => (version === '4' ? isIPv4(text) : isIPv6(text) && !text.includes('%'))
  if (!fits(source) || !fits(destination) || ports.some((port) => Number(port) > 65_535)) throw new ProxyHeaderError('an address is malformed')
  return { length, address: canonical(source, version === '4' ? 'ipv4' : 'ipv6'), extensions: NO_EXTENSIONS }
}

/** §2.2 */
function parseBinary(bytes: Buffer, bytesMax: number): ProxyHeader | undefined {
  const command = bytes[12]
  if (command === undefined) return undefined
  if (command !== 0x20 && command !== 0x21) throw new ProxyHeaderError('the version or the command is not known')
  if (bytes.length < 16) return undefined
  const length = 16 + bytes.readUInt16BE(14)
  if (length > bytesMax) throw new ProxyHeaderError('the header is too long')
  const family = (bytes[13] as number) >> 4
  const transport = (bytes[13] as number) & 0x0f
  const addressBytes = ADDRESS_BYTES[family]
  // LOCAL: the proxy speaks for itself, whatever else the header says.
  const local = command === 0x20
  if (!local) {
    if (addressBytes === undefined || transport > 2) throw new ProxyHeaderError('the family or the protocol is not known')
    if (length < 16 + (transport === 0 ? 0 : addressBytes)) throw new ProxyHeaderError('the addresses are cut off')
  }
  if (bytes.length < length) return undefined
  if (local || addressBytes === undefined || family === 0 || transport === 0) return { length, address: undefined, extensions: NO_EXTENSIONS }
  const extensions = readExtensions(bytes.subarray(0, length), 16 + addressBytes)
  // Only TCP brings clients here; a Unix socket has no address.
  if (transport !== 1 || family === 3) return { length, address: undefined, extensions }
  if (family === 1) return { length, address: bytes.subarray(16, 20).join('.'), extensions }
  const groups = Array.from({ length: 8 }, (_, index) => bytes.readUInt16BE(16 + 2 * index).toString(16))
  return { length, address: canonical(groups.join(':'), 'ipv6'), extensions }
}

/** §2.2: what follows the addresses, each with its type and length. The checksum must fit (§2.2.3). */
function readExtensions(header: Buffer, start: number): Map<number, Buffer> {
  const found = new Map<number, Buffer>()
  for (let at = start; at < header.length; ) {
    const end = at + 3 <= header.length ? at + 3 + header.readUInt16BE(at + 1) : Infinity
    if (end > header.length) throw new ProxyHeaderError('an extension is cut off')
    if (header[at] === EXTENSION.checksum) {
      if (end !== at + 7) throw new ProxyHeaderError('the checksum is malformed')
      const zeroed = Buffer.from(header)
      zeroed.fill(0, at + 3, end)
      if (crc32c(zeroed) !== header.readUInt32BE(at + 3)) throw new ProxyHeaderError('the checksum is wrong')
    }
    found.set(header[at] as number, Buffer.from(header.subarray(at + 3, end)))
    at = end
  }
  return found
}

/** RFC 4960 appendix B: the reflected polynomial of CRC32c, bit by bit, for headers alone. */
function crc32c(bytes: Buffer): number {
  let crc = 0xffffffff
  for (const byte of bytes) {
    crc ^= byte
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1
  }
  return ~crc >>> 0
}

function canonical(address: string, family: 'ipv4' | 'ipv6'): string {
  return new SocketAddress({ address, family }).address
}

/** The extensions that are in one: §2.2.5 has some inside that of TLS, after five bytes of its own. */
export function extensionsIn(value: Buffer, start: number): ReadonlyMap<number, Buffer> {
  return readExtensions(value, start)
}

/**
 * Reads the header off a connection that nobody reads yet, in however many pieces it comes. What follows it stays in the
 * socket. Exactly one of the callbacks is called, and at once: `failed` after `timeoutMs`, when the connection ends before, and
 * for what is no header; the socket is then still to be destroyed. `done` is given the bytes of the header, too.
 */
export function readProxyHeader(socket: Socket, timeoutMs: number, done: (header: ProxyHeader, bytes: Buffer) => void, failed: (error: ProxyHeaderError) => void, bytesMax?: number): void {
  let received: Buffer = Buffer.alloc(0)
  const settle = (): void => {
    clearTimeout(timer)
    socket.off('readable', read).off('end', ended).off('close', ended)
  }
  const fail = (error: ProxyHeaderError): void => {
    settle()
    failed(error)
  }
  const ended = (): void => fail(new ProxyHeaderError('the connection ended before the header'))
  const read = (): void => {
    const chunk = socket.read() as Buffer | null
    if (chunk === null) return
    received = received.length === 0 ? chunk : Buffer.concat([received, chunk])
    let header: ProxyHeader | undefined
    try {
      header = parseProxyHeader(received, bytesMax)
    } catch (error) {
      return fail(error as ProxyHeaderError)
    }
    if (header === undefined) return
    settle()
    if (received.length > header.length) socket.unshift(received.subarray(header.length))
    done(header, received.subarray(0, header.length))
  }
  const timer = setTimeout(() => fail(new ProxyHeaderError('the header did not come in time')), timeoutMs)
  timer.unref()
  // Stays: whoever takes the socket over adds a listener of its own.
  socket.on('error', ignore)
  socket.on('readable', read).on('end', ended).on('close', ended)
}

/** A connection that fails closes, which is heard. Apart from the rest, so that it holds nothing of it as long as the connection lasts. */
function ignore(): void { /* see close */ }
