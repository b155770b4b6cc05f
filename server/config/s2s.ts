/** Federation: ejabberd's options `s2s_…` and `outgoing_s2s_…`. */
import { Resolver } from 'node:dns'
import { isIP } from 'node:net'
import type { TlsChoices } from '../../lib/net/certificates.ts'
import { show, textOf, type MapNode } from './node.ts'
import { accessRule, duration, int, list, oneOf, OptionError, type OptionTable, type OptionType } from './options.ts'
import type { Problem } from './problems.ts'
import { readTls, tlsTable } from './tls.ts'

/** What a host does with other servers. */
export interface S2sConfig {
  /** Access rule: with which servers, as both sides see it. */
  readonly access: string
  readonly starttls: StarttlsUse
  /** Silence after which a connection is closed; Infinity for any. */
  readonly idleMs: number
  readonly outgoing: OutgoingConfig
}

/** Never; where the other server has it; or nothing without it, in both directions. */
export type StarttlsUse = 'false' | 'optional' | 'required'

export interface OutgoingConfig {
  readonly families: readonly (4 | 6)[]
  readonly port: number
  readonly ipv4Address: string | undefined
  readonly ipv6Address: string | undefined
  readonly timeoutMs: number
  readonly dnsTimeoutMs: number
  readonly dnsRetries: number
}

export interface S2sNames {
  s2s_access: string
  s2s_use_starttls: StarttlsUse
  s2s_timeout: number
  s2s_dns_timeout: number
  s2s_dns_retries: number
  s2s_queue_type: 'ram' | 'file'
  s2s_zlib: boolean
  s2s_ciphers: string
  s2s_dhfile: string
  s2s_cafile: string
  s2s_protocol_options: readonly string[]
  s2s_tls_compression: boolean
  outgoing_s2s_families: readonly ('ipv4' | 'ipv6')[]
  outgoing_s2s_port: number
  outgoing_s2s_ipv4_address: string
  outgoing_s2s_ipv6_address: string
  outgoing_s2s_timeout: number
}

const YES = new Set(['true', 'yes', 'on', 'y'])
const NO = new Set(['false', 'no', 'off', 'n'])

const starttls: OptionType<StarttlsUse> = {
  expects: 'false, optional or required',
  parse(node) {
    const written = textOf(node)?.toLowerCase() ?? ''
    if (NO.has(written)) return 'false'
    if (YES.has(written) || written === 'optional') return 'optional'
    // Of older files: it is the same without dialback.
    if (written === 'required' || written === 'required_trusted') return 'required'
    throw new OptionError(node, `${show(node)} is not allowed here; expected ${this.expects}.`)
  },
}

function address(family: 4 | 6): OptionType<string> {
  return {
    expects: `an IPv${family} address`,
    parse(node) {
      const written = textOf(node) ?? ''
      if (isIP(written) !== family) throw new OptionError(node, `${show(node)} is not allowed here; expected ${this.expects}.`)
      return written
    },
  }
}

const tls = tlsTable('c2s_')

export const s2sTable: OptionTable<S2sNames> = {
  s2s_access: { type: accessRule(), default: 'all', help: 'Access rule: with which servers a host exchanges stanzas.' },
  s2s_use_starttls: { type: starttls, default: 'optional', help: 'TLS with other servers: false (never by STARTTLS), optional, or required (nothing is exchanged without it).' },
  s2s_timeout: { type: duration({ timer: true }), default: 3_600_000, help: 'Silence after which a connection with another server is closed.' },
  s2s_dns_timeout: { type: duration({ timer: true }), default: 10_000, help: 'How long DNS may take to say where a server is.' },
  s2s_dns_retries: { type: int({ min: 0 }), default: 2, help: 'How often DNS is asked again.' },
  s2s_queue_type: { type: oneOf('ram', 'file'), default: 'ram', help: 'Unused.', ignored: 'has no effect: messages that wait for another server are kept in the store.' },
  s2s_zlib: { type: { expects: 'true or false', parse: () => false }, default: false, help: 'Streams are not compressed.' },
  s2s_ciphers: { ...tls.c2s_ciphers, help: 'TLS ciphers in OpenSSL\'s notation, for other servers.' },
  s2s_dhfile: { ...tls.c2s_dhfile },
  s2s_cafile: { ...tls.c2s_cafile, help: 'File of the authorities whose certificates of other servers are believed; those of Node unless set.' },
  s2s_protocol_options: { ...tls.c2s_protocol_options },
  s2s_tls_compression: { ...tls.c2s_tls_compression },
  outgoing_s2s_families: { type: list(oneOf('ipv4', 'ipv6')), default: ['ipv6', 'ipv4'], help: 'Families of addresses by which other servers are connected to; the first has a head start.' },
  outgoing_s2s_port: { type: int({ min: 1, max: 65_535 }), default: 5269, help: 'Port of servers for which DNS names none.' },
  outgoing_s2s_ipv4_address: { type: address(4), default: '', help: 'Address of ours from which servers are connected to by IPv4.' },
  outgoing_s2s_ipv6_address: { type: address(6), default: '', help: 'The same for IPv6.' },
  outgoing_s2s_timeout: { type: duration({ timer: true }), default: 10_000, help: 'How long a connection to another server may take.' },
}

/** The key `tidings.s2s`. */
export const tidingsS2sTable: OptionTable<{ nameservers: readonly string[] }> = {
  nameservers: { type: list(nameServer()), default: [], help: 'Name servers that say where other servers are, in place of the system\'s.' },
}

function nameServer(): OptionType<string> {
  return {
    expects: 'an address such as 192.0.2.53, "192.0.2.53:5353" or "[2001:db8::53]:53"',
    parse(node) {
      const written = textOf(node) ?? ''
      try {
        new Resolver().setServers([written])
      } catch {
        throw new OptionError(node, `${show(node)} is not allowed here; expected ${this.expects}.`)
      }
      return written
    },
  }
}

/** What cannot differ between hosts. */
export const S2S_GLOBAL: ReadonlySet<string> = new Set(['s2s_ciphers', 's2s_dhfile', 's2s_cafile', 's2s_protocol_options', 's2s_tls_compression', 's2s_dns_timeout', 's2s_dns_retries'])

export function s2sOf(values: S2sNames): S2sConfig {
  return {
    access: values.s2s_access,
    starttls: values.s2s_use_starttls,
    idleMs: values.s2s_timeout,
    outgoing: {
      families: values.outgoing_s2s_families.map((family) => (family === 'ipv4' ? 4 : 6)),
      port: values.outgoing_s2s_port,
      ipv4Address: values.outgoing_s2s_ipv4_address || undefined,
      ipv6Address: values.outgoing_s2s_ipv6_address || undefined,
      timeoutMs: values.outgoing_s2s_timeout,
      dnsTimeoutMs: values.s2s_dns_timeout,
      dnsRetries: values.s2s_dns_retries,
    },
  }
}

/** TLS with other servers, of both directions. Certificates are asked for; whether one is believed is decided by its name too. */
export function s2sTlsOf(values: S2sNames, caFile: string, folder: string, node: MapNode, problems: Problem[]): TlsChoices {
  const read = readTls({
    c2s_ciphers: values.s2s_ciphers, c2s_dhfile: values.s2s_dhfile, c2s_cafile: values.s2s_cafile || caFile,
    c2s_protocol_options: values.s2s_protocol_options, c2s_tls_compression: values.s2s_tls_compression,
  }, 's2s_', folder, node, problems)
  return { ...read, asks: true, tickets: false }
}

