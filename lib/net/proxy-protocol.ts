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
const CRC32C_TYPE = 0x03

/** A header that is malformed, too long, or did not come; the connection is to be closed. */
export class ProxyHeaderError extends Error {}

export interface ProxyHeader {
  /** Bytes of the header; what follows is the client's. */
  readonly length: number
  /** The client's IP address; undefined when the proxy speaks for itself or cannot tell, so that the socket's own holds. */
  readonly address: string | undefined
}

/**
 * Reads the header that these bytes begin with. Undefined while it is not whole. Throws a ProxyHeaderError as soon as the
 * bytes cannot become one.
 */
export function parseProxyHeader(bytes: Buffer): ProxyHeader | undefined {
  if (bytes.length === 0) return undefined
  if (beginsAs(bytes, SIGNATURE)) return parseBinary(bytes)
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
  if (version === undefined) return { length, address: undefined }
  const fits = (text: string): boolean => (version === '4' ? isIPv4(text) : isIPv6(text) && !text.includes('%'))
  if (!fits(source) || !fits(destination) || ports.some((port) => Number(port) > 65_535)) throw new ProxyHeaderError('an address is malformed')
  return { length, address: canonical(source, version === '4' ? 'ipv4' : 'ipv6') }
}

/** §2.2 */
function parseBinary(bytes: Buffer): ProxyHeader | undefined {
  const command = bytes[12]
  if (command === undefined) return undefined
  if (command !== 0x20 && command !== 0x21) throw new ProxyHeaderError('the version or the command is not known')
  if (bytes.length < 16) return undefined
  const length = 16 + bytes.readUInt16BE(14)
  if (length > BINARY_BYTES_MAX) throw new ProxyHeaderError('the header is too long')
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
  if (local || addressBytes === undefined || family === 0 || transport === 0) return { length, address: undefined }
  checkExtensions(bytes.subarray(0, length), 16 + addressBytes)
  // Only TCP brings clients here; a Unix socket has no address.
  if (transport !== 1 || family === 3) return { length, address: undefined }
  if (family === 1) return { length, address: bytes.subarray(16, 20).join('.') }
  const groups = Array.from({ length: 8 }, (_, index) => bytes.readUInt16BE(16 + 2 * index).toString(16))
  return { length, address: canonical(groups.join(':'), 'ipv6') }
}

/** §2.2: what follows the addresses, each with its type and length. Of these the checksum counts (§2.2.3). */
function checkExtensions(header: Buffer, start: number): void {
  for (let at = start; at < header.length; ) {
    const end = at + 3 <= header.length ? at + 3 + header.readUInt16BE(at + 1) : Infinity
    if (end > header.length) throw new ProxyHeaderError('an extension is cut off')
    if (header[at] === CRC32C_TYPE) {
      if (end !== at + 7) throw new ProxyHeaderError('the checksum is malformed')
      const zeroed = Buffer.from(header)
      zeroed.fill(0, at + 3, end)
      if (crc32c(zeroed) !== header.readUInt32BE(at + 3)) throw new ProxyHeaderError('the checksum is wrong')
    }
    at = end
  }
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

/**
 * Reads the header off a connection that nobody reads yet, in however many pieces it comes. What follows it stays in the
 * socket. Exactly one of the callbacks is called, and at once: `failed` after `timeoutMs`, when the connection ends before, and
 * for what is no header; the socket is then still to be destroyed.
 */
export function readProxyHeader(socket: Socket, timeoutMs: number, done: (header: ProxyHeader) => void, failed: (error: ProxyHeaderError) => void): void {
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
      header = parseProxyHeader(received)
    } catch (error) {
      return fail(error as ProxyHeaderError)
    }
    if (header === undefined) return
    settle()
    if (received.length > header.length) socket.unshift(received.subarray(header.length))
    done(header)
  }
  const timer = setTimeout(() => fail(new ProxyHeaderError('the header did not come in time')), timeoutMs)
  timer.unref()
  // Stays: whoever takes the socket over adds a listener of its own.
  socket.on('error', () => undefined)
  socket.on('readable', read).on('end', ended).on('close', ended)
}
