/**
 * What goes ahead of a stream on the internal listener: the home gives a nonce, the other process a header of PROXY protocol v2 that tells of the
 * client, and the home its answer. Both show that they know the cluster's secret.
 */
import { createHmac, timingSafeEqual } from 'node:crypto'
import { EXTENSION, extensionsIn, proxyExtension, proxyHeader, type ProxyHeader, TLS_EXTENSION } from '../../lib/net/proxy-protocol.ts'
import type { Passenger } from '../c2s/passing.ts'
import type { StreamOptions } from '../config/config.ts'

/** Extensions of our own (§2.2.8: 0xE0 to 0xEF). */
const OWN = { account: 0xe0, transport: 0xe1, listener: 0xe2, certificate: 0xe3, exporter: 0xe4, endPoint: 0xe5, unique: 0xe6, counts: 0xe7, from: 0xe8, through: 0xe9, mac: 0xef } as const
const BINDINGS = [['tls-exporter', OWN.exporter], ['tls-unique', OWN.unique], ['tls-server-end-point', OWN.endPoint]] as const
const TRANSPORTS = ['bytes', 'elements', 'confirmed-elements', 'request', 'pulse'] as const
/** §2.2.5: the client connected over TLS; it gave a certificate. */
const CLIENT_TLS = 0x01
const CLIENT_CERTIFICATE = 0x02
const TLS_FIXED_BYTES = 5

export const NONCE_BYTES = 32
export const MAC_BYTES = 32
/** Certificates are the largest in it. */
export const HEADER_BYTES_MAX = 65_000

export type Answer =
  /** The stream may come. */
  | { readonly kind: 'taken' }
  /** The account is served by another node. */
  | { readonly kind: 'elsewhere'; readonly inc: string }
  /** No stream is taken now. */
  | { readonly kind: 'busy' }

const ANSWERS = ['taken', 'elsewhere', 'busy'] as const
const INC_BYTES_MAX = 255

/** The way of a client. */
export interface Way {
  /** A name of the process that passes it on. */
  readonly from: string
  /** The node that it is for, when the one that is asked is to pass it on to that; empty otherwise. */
  readonly through: string
}

/** The header for a client of this account; empty for one that has none. */
export function passengerHeader(secret: Uint8Array, nonce: Buffer, account: string, client: Passenger, { from, through }: Way = { from: '', through: '' }): Buffer {
  const { tls, binding } = client
  const extensions = [
    proxyExtension(OWN.account, account),
    proxyExtension(OWN.transport, Buffer.from([TRANSPORTS.indexOf(client.transport)])),
    proxyExtension(OWN.listener, JSON.stringify(client.listener)),
    proxyExtension(OWN.counts, Buffer.from([Math.min(client.failures, 0xff), client.repeated])),
    ...from === '' ? [] : [proxyExtension(OWN.from, from)],
    ...through === '' ? [] : [proxyExtension(OWN.through, through)],
  ]
  if (client.secure) {
    const fixed = Buffer.alloc(TLS_FIXED_BYTES)
    fixed[0] = CLIENT_TLS | (client.certificate === undefined ? 0 : CLIENT_CERTIFICATE)
    const facts = tls === undefined ? [] : [proxyExtension(TLS_EXTENSION.version, tls.version), proxyExtension(TLS_EXTENSION.cipher, tls.cipher)]
    extensions.push(proxyExtension(EXTENSION.tls, Buffer.concat([fixed, ...facts])))
  }
  if (tls !== undefined && tls.serverName !== '') extensions.push(proxyExtension(EXTENSION.authority, tls.serverName))
  if (tls !== undefined && tls.protocol !== '') extensions.push(proxyExtension(EXTENSION.alpn, tls.protocol))
  for (const [type, extension] of BINDINGS) {
    const data = binding?.types.includes(type) === true ? binding.data(type) : undefined
    if (data !== undefined) extensions.push(proxyExtension(extension, data))
  }
  if (client.certificate !== undefined) extensions.push(proxyExtension(OWN.certificate, client.certificate))
  const header = proxyHeader(client.address === '' ? undefined : client.address, [...extensions, proxyExtension(OWN.mac, Buffer.alloc(MAC_BYTES))])
  if (header.length > HEADER_BYTES_MAX) throw new Error('the header for a client that is passed on is too long')
  macOf(secret, nonce, header).copy(header, header.length - MAC_BYTES)
  return header
}

/** Whether a whole header was made for this nonce by somebody who knows the secret. */
export function isGenuine(secret: Uint8Array, nonce: Buffer, header: Buffer): boolean {
  return header.length > MAC_BYTES && timingSafeEqual(header.subarray(header.length - MAC_BYTES), macOf(secret, nonce, header))
}

function macOf(secret: Uint8Array, nonce: Buffer, header: Buffer): Buffer {
  return createHmac('sha256', secret).update('client passed on').update(nonce).update(header.subarray(0, header.length - MAC_BYTES)).digest()
}

/** What a genuine header says. Throws when it says it in a way that is not ours. */
export function readPassenger({ address = '', extensions }: ProxyHeader): { readonly account: string; readonly client: Passenger; readonly way: Way } {
  const text = (type: number): string => extensions.get(type)?.toString() ?? ''
  const transport = TRANSPORTS[extensions.get(OWN.transport)?.[0] ?? -1]
  const counts = extensions.get(OWN.counts)
  const security = extensions.get(EXTENSION.tls)
  if (transport === undefined || counts?.length !== 2) throw new Error('the header is of another version')
  const facts = security === undefined || security.length < TLS_FIXED_BYTES ? undefined : extensionsIn(security, TLS_FIXED_BYTES)
  const types = BINDINGS.filter(([, extension]) => extensions.has(extension))
  return {
    account: text(OWN.account),
    way: { from: text(OWN.from), through: text(OWN.through) },
    client: {
      address, secure: security !== undefined && ((security[0] as number) & CLIENT_TLS) !== 0,
      tls: facts?.has(TLS_EXTENSION.version) !== true ? undefined : {
        version: facts.get(TLS_EXTENSION.version)?.toString() ?? '', cipher: facts.get(TLS_EXTENSION.cipher)?.toString() ?? '',
        serverName: text(EXTENSION.authority), protocol: text(EXTENSION.alpn),
      },
      binding: types.length === 0 ? undefined : { types: types.map(([type]) => type), data: (wanted) => extensions.get(types.find(([type]) => type === wanted)?.[1] ?? -1) },
      certificate: extensions.get(OWN.certificate),
      transport, listener: JSON.parse(text(OWN.listener)) as StreamOptions,
      failures: counts[0] as number, repeated: counts[1] as number,
    },
  }
}

/** The home's answer to a header. */
export function writeAnswer(secret: Uint8Array, header: Buffer, answer: Answer): Buffer {
  const inc = answer.kind === 'elsewhere' ? Buffer.from(answer.inc) : Buffer.alloc(0)
  if (inc.length > INC_BYTES_MAX) throw new Error('the incarnation has too long a name')
  const body = Buffer.concat([Buffer.from([ANSWERS.indexOf(answer.kind), inc.length]), inc])
  return Buffer.concat([body, macOfAnswer(secret, header, body)])
}

/** Undefined while it is not whole. Throws when whoever answers does not know the secret. */
export function readAnswer(secret: Uint8Array, header: Buffer, bytes: Buffer): { readonly answer: Answer; readonly length: number } | undefined {
  if (bytes.length < 2) return undefined
  const end = 2 + (bytes[1] as number)
  if (bytes.length < end + MAC_BYTES) return undefined
  const body = bytes.subarray(0, end)
  if (!timingSafeEqual(bytes.subarray(end, end + MAC_BYTES), macOfAnswer(secret, header, body))) throw new Error('the answer does not come from a node of this cluster')
  const kind = ANSWERS[body[0] as number]
  if (kind === undefined) throw new Error('the answer is of another version')
  return { answer: kind === 'elsewhere' ? { kind, inc: body.toString('utf8', 2) } : { kind }, length: end + MAC_BYTES }
}

function macOfAnswer(secret: Uint8Array, header: Buffer, body: Buffer): Buffer {
  return createHmac('sha256', secret).update('answer').update(header.subarray(header.length - MAC_BYTES)).update(body).digest()
}
