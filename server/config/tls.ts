/** TLS options by ejabberd's names, in the terms of `node:tls`. */
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { createSecureContext } from 'node:tls'
import { contextOptions, type TlsChoices } from '../../lib/net/certificates.ts'
import { entryOf, show, textOf, type ConfigNode } from './node.ts'
import { bool, list, text, type OptionTable, type OptionType } from './options.ts'
import { OptionError } from './options.ts'
import { didYouMean, type Problem } from './problems.ts'

export interface TlsNames {
  c2s_ciphers: string
  c2s_dhfile: string
  c2s_cafile: string
  c2s_protocol_options: readonly string[]
  c2s_tls_compression: boolean
}

const PROTOCOL_OPTIONS = ['no_sslv2', 'no_sslv3', 'no_tlsv1', 'no_tlsv1_1', 'no_tlsv1_2', 'no_tlsv1_3', 'cipher_server_preference', 'no_compression', 'no_ticket', 'no_session_resumption_on_renegotiation', 'no_renegotiation', 'prioritize_chacha', 'single_dh_use', 'single_ecdh_use']

const protocolOption: OptionType<string> = {
  expects: `one of ${PROTOCOL_OPTIONS.join(', ')}`,
  parse(node) {
    const written = textOf(node) ?? ''
    const parts = written.split('|').map((part) => part.trim())
    const unknown = parts.find((part) => !PROTOCOL_OPTIONS.includes(part))
    if (unknown !== undefined) throw new OptionError(node, `${show(node)} is not allowed here; expected ${this.expects}.${didYouMean(unknown, PROTOCOL_OPTIONS)}`)
    return written
  },
}

/** The table, with the names of the top level (`c2s_`). */
export function tlsTable(_prefix: 'c2s_'): OptionTable<TlsNames> {
  return {
    c2s_ciphers: { type: ciphers(), default: '', help: 'TLS ciphers in OpenSSL\'s notation.' },
    c2s_dhfile: { type: text(), default: '', help: 'File of Diffie-Hellman parameters.' },
    c2s_cafile: { type: text(), default: '', help: 'File of the authorities whose certificates clients log in with (SASL EXTERNAL); clients are asked for theirs where it is set.' },
    c2s_protocol_options: { type: list(protocolOption), default: [], help: 'TLS versions that are off, and "no_ticket": nobody resumes a session of TLS. TLS below 1.2 is always off (RFC 8996).' },
    c2s_tls_compression: { type: bool(), default: false, help: 'TLS compression is always off.' },
  }
}

/** A cipher list as one text, or as a list of its parts. */
function ciphers(): OptionType<string> {
  const parts = list(text())
  return { expects: 'TLS ciphers in OpenSSL\'s notation', parse: (node) => parts.parse(node).join(':') }
}

/** The options of one place: the top level, or a listener whose names lack the prefix. `base` holds what is not set there. */
export function readTls(options: TlsNames, prefix: string, folder: string, node: ConfigNode, problems: Problem[], base?: TlsChoices): TlsChoices {
  const at = (name: string): { file: string; line: number; option: string } => {
    const entry = entryOf(node, `${prefix}${name}`)
    return { file: entry?.file ?? node.file, line: entry?.line ?? node.line, option: `${prefix === '' ? 'listen.' : prefix}${name}` }
  }
  const isSet = (name: string): boolean => entryOf(node, `${prefix}${name}`) !== undefined
  const fileOf = (name: string, path: string): string | undefined => {
    if (path === '') return undefined
    const full = resolve(folder, path)
    if (existsSync(full)) return full
    problems.push({ ...at(name), level: 'error', text: `"${path}" does not exist.` })
    return undefined
  }
  const flags = new Set(options.c2s_protocol_options.flatMap((part) => part.split('|').map((flag) => flag.trim())))
  if (flags.has('no_tlsv1_2') && flags.has('no_tlsv1_3')) {
    problems.push({ ...at('protocol_options'), level: 'error', text: '"no_tlsv1_2" with "no_tlsv1_3" leaves no version of TLS; TLS 1.2 and 1.3 are available.' })
  }
  if (options.c2s_tls_compression) problems.push({ ...at('tls_compression'), level: 'warning', text: '"true" has no effect: TLS compression is always off.' })
  const versions = isSet('protocol_options') || !base
    ? {
        // RFC 8996: older versions stay off whatever the file leaves on.
        minVersion: flags.has('no_tlsv1_2') ? 'TLSv1.3' as const : 'TLSv1.2' as const,
        maxVersion: flags.has('no_tlsv1_3') ? 'TLSv1.2' as const : undefined,
        honorCipherOrder: flags.has('cipher_server_preference'),
        tickets: !flags.has('no_ticket'),
      }
    : { minVersion: base.minVersion, maxVersion: base.maxVersion, honorCipherOrder: base.honorCipherOrder, tickets: base.tickets }
  const refusal = (choices: TlsChoices): string | undefined => {
    try {
      createSecureContext(contextOptions(choices))
    } catch (error) {
      return (error as Error).message
    }
    return undefined
  }
  let ciphers = options.c2s_ciphers === '' ? base?.ciphers : options.c2s_ciphers
  const badCiphers = options.c2s_ciphers === '' ? undefined : refusal({ ciphers })
  if (badCiphers !== undefined) {
    problems.push({ ...at('ciphers'), level: 'error', text: `"${options.c2s_ciphers}" is not allowed here; expected TLS ciphers in OpenSSL's notation (${badCiphers}).` })
    ciphers = undefined
  }
  let dhFile = fileOf('dhfile', options.c2s_dhfile)
  const badFile = dhFile === undefined ? undefined : refusal({ dhFile })
  if (badFile !== undefined) {
    problems.push({ ...at('dhfile'), level: 'error', text: `"${options.c2s_dhfile}" is not allowed here; expected a file of Diffie-Hellman parameters (${badFile}).` })
    dhFile = undefined
  }
  let caFile = fileOf('cafile', options.c2s_cafile)
  const badAuthorities = caFile === undefined ? undefined : refusal({ caFile })
  if (badAuthorities !== undefined) {
    problems.push({ ...at('cafile'), level: 'error', text: `"${options.c2s_cafile}" is not allowed here; expected a file of certificates in PEM (${badAuthorities}).` })
    caFile = undefined
  }
  return { ...versions, ciphers, dhFile: dhFile ?? base?.dhFile, caFile: caFile ?? base?.caFile }
}
