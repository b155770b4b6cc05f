/** ejabberd's options for LDAP, as they stand at the top level, for a host, or in a module, which come before the others. */
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { normalFilter } from '../../lib/ldap/filter.ts'
import { entryOf, show, textOf, type ConfigNode } from '../config/node.ts'
import { int, list, oneOf, OptionError, text, type OptionSpec, type OptionTable, type OptionType } from '../config/options.ts'
import type { Problem } from '../config/problems.ts'

/** An attribute that names users, and how: `%u` stands for the user. */
export interface UserAttribute {
  readonly attribute: string
  readonly format: string
}

export interface DnFilter {
  readonly filter: string
  /** Attributes whose values stand for each `%s`, in order. */
  readonly attributes: readonly string[]
}

const DEREF = ['never', 'searching', 'finding', 'always'] as const

export interface LdapNames {
  ldap_servers: readonly string[]
  ldap_backups: readonly string[]
  ldap_port: number
  ldap_encrypt: 'none' | 'tls' | 'starttls'
  ldap_tls_verify: 'false' | 'soft' | 'hard'
  ldap_tls_cacertfile: string
  ldap_tls_certfile: string
  ldap_tls_depth: number
  ldap_rootdn: string
  ldap_password: string
  ldap_base: string
  ldap_uids: readonly UserAttribute[]
  ldap_filter: string
  ldap_dn_filter: DnFilter | undefined
  ldap_deref_aliases: (typeof DEREF)[number]
}

/** Where a directory is, and how its users are found. */
export interface LdapSettings {
  readonly servers: readonly string[]
  readonly backups: readonly string[]
  readonly port: number
  readonly encrypt: LdapNames['ldap_encrypt']
  readonly verify: LdapNames['ldap_tls_verify']
  readonly caFile: string | undefined
  readonly certFile: string | undefined
  /** Certificates between that of the server and the authority's. */
  readonly depth: number
  readonly rootDn: string
  readonly password: string
  readonly base: string
  readonly uids: readonly UserAttribute[]
  /** Empty: all. */
  readonly filter: string
  readonly dnFilter: DnFilter | undefined
  readonly deref: LdapNames['ldap_deref_aliases']
}

const UIDS_DEFAULT: readonly UserAttribute[] = [{ attribute: 'uid', format: '%u' }]

export const ldapTable: OptionTable<LdapNames> = {
  ldap_servers: { type: list(text()), default: ['localhost'], help: 'Directories that are asked in turn.' },
  ldap_backups: { type: list(text()), default: [], help: 'Directories that are asked when none of ldap_servers answers.' },
  ldap_port: { type: int({ min: 1, max: 65_535 }), default: 0, help: 'Their port; 389, or 636 with ldap_encrypt: tls.' },
  ldap_encrypt: { type: oneOf('none', 'tls', 'starttls'), default: 'none', help: 'tls: from the first byte; starttls: by StartTLS, without which nothing is sent.' },
  ldap_tls_verify: { type: oneOf('false', 'soft', 'hard'), default: 'false', help: 'Whether the certificate of a directory is checked; soft: what is wrong with it is logged, and it is used.' },
  ldap_tls_cacertfile: { type: text(), default: '', help: 'Authorities (PEM) that sign the certificates of directories; unless set, those that Node trusts.' },
  ldap_tls_certfile: { type: text(), default: '', help: 'Certificate and key (PEM) of this server as a client of directories.' },
  ldap_tls_depth: { type: int(), default: Infinity, help: 'How many certificates may stand between that of a directory and the authority\'s.' },
  ldap_rootdn: { type: text(), default: '', help: 'The name by which this server binds; unless set, anonymously.' },
  ldap_password: { type: text(), default: '', help: 'The password of ldap_rootdn.' },
  ldap_base: { type: text(), default: '', help: 'Under which entry users are looked for.' },
  ldap_uids: { type: userAttributes(), default: UIDS_DEFAULT, help: 'Attributes that name users, each with a format where %u is the user.' },
  ldap_filter: { type: filter(), default: '', help: 'A filter (RFC 4515) that users match.' },
  ldap_dn_filter: { type: dnFilter(), default: undefined, help: 'A filter that has to find something for a user that was found: %u is the user, %d the host, %D the distinguished name, %s the values of the attributes listed.' },
  ldap_deref_aliases: { type: oneOf(...DEREF), default: 'never', help: 'When aliases are followed.' },
}

type Optional<O> = { [K in keyof O]: O[K] | undefined }

/** The same for a module: what is not set there is as for the host. */
export const moduleLdapTable = Object.fromEntries(Object.entries(ldapTable as unknown as Record<string, OptionSpec<unknown>>).map(([name, spec]) => [name, { ...spec, default: undefined, help: `${spec.help} As at the top level unless set.` }])) as unknown as OptionTable<Optional<LdapNames>>

/** `folder`: where files are relative to. */
export function ldapSettings(names: LdapNames, folder: string): LdapSettings {
  const fileOf = (file: string): string | undefined => file === '' ? undefined : resolve(folder, file)
  return {
    servers: names.ldap_servers.length === 0 ? ['localhost'] : names.ldap_servers, backups: names.ldap_backups,
    port: names.ldap_port || (names.ldap_encrypt === 'tls' ? 636 : 389),
    encrypt: names.ldap_encrypt, verify: names.ldap_tls_verify,
    caFile: fileOf(names.ldap_tls_cacertfile), certFile: fileOf(names.ldap_tls_certfile), depth: names.ldap_tls_depth,
    rootDn: names.ldap_rootdn, password: names.ldap_password, base: names.ldap_base,
    uids: names.ldap_uids, filter: names.ldap_filter, dnFilter: names.ldap_dn_filter, deref: names.ldap_deref_aliases,
  }
}

/** What a module sets, over what its host has. */
export function withModule(names: LdapNames, own: Partial<Optional<LdapNames>>): LdapNames {
  const set = Object.keys(ldapTable).filter((name) => own[name as keyof LdapNames] !== undefined)
  return { ...names, ...Object.fromEntries(set.map((name) => [name, own[name as keyof LdapNames]])) }
}

/** Files that are named and are not there. */
export function checkLdapFiles(node: ConfigNode, prefix: string, folder: string, problems: Problem[]): void {
  for (const name of ['ldap_tls_cacertfile', 'ldap_tls_certfile']) {
    const entry = entryOf(node, name)
    const path = entry && textOf(entry.value)
    if (entry === undefined || path === undefined || path === '' || existsSync(resolve(folder, path))) continue
    problems.push({ file: entry.file, line: entry.line, option: `${prefix}${name}`, level: 'error', text: `"${path}" does not exist.` })
  }
}

const ATTRIBUTE = /^[A-Za-z][\w-]*$/

/** The name of an attribute. */
export function attribute(): OptionType<string> {
  const expects = 'the name of an attribute'
  return {
    expects,
    parse(node) {
      const written = textOf(node) ?? ''
      if (!ATTRIBUTE.test(written)) throw new OptionError(node, `${show(node)} is not allowed here; expected ${expects}.`)
      return written
    },
  }
}

/** `uid`, `[uid, mail]`, `{mail: "%u@example.org"}` or a list of these. */
function userAttributes(): OptionType<readonly UserAttribute[]> {
  const expects = 'attributes such as uid, or with formats such as {mail: "%u@example.org"}'
  const one = attribute()
  const parse = (node: ConfigNode): UserAttribute[] => {
    if (node.kind === 'scalar') return [{ attribute: one.parse(node), format: '%u' }]
    if (node.kind === 'list') return node.items.flatMap(parse)
    return node.entries.map(({ key, value }) => {
      const format = textOf(value) ?? '%u'
      if (!ATTRIBUTE.test(key) || format.split('%u').length !== 2 || /[()]/.test(format)) throw new OptionError(value, `${show(value)} is not allowed here; expected a format with one %u for an attribute, such as {mail: "%u@example.org"}.`)
      return { attribute: key, format }
    })
  }
  return {
    expects,
    parse(node) {
      const found = parse(node)
      if (found.length === 0) throw new OptionError(node, `${show(node)} is not allowed here; expected ${expects}.`)
      return found
    },
  }
}

/** A filter, or nothing. */
export function filter(): OptionType<string> {
  const expects = 'a filter such as (objectClass=person)'
  return {
    expects,
    parse(node) {
      const written = textOf(node) ?? (node.kind === 'scalar' ? '' : '(')
      if (written.trim() === '') return ''
      try {
        return normalFilter(written)
      } catch (error) {
        throw new OptionError(node, `${show(node)} is not allowed here; expected ${expects}: ${(error as Error).message}.`)
      }
    },
  }
}

/** `{"(owner=%D)": [attributes]}`, or the filter alone. */
function dnFilter(): OptionType<DnFilter | undefined> {
  const plain = filter()
  const attributes = list(attribute())
  return {
    expects: 'a filter, or a filter with the attributes that are put into it',
    parse(node) {
      const [entry, another] = node.kind === 'map' ? node.entries : []
      if (node.kind === 'list' || another !== undefined) throw new OptionError(node, `${show(node)} is not allowed here; expected ${this.expects}.`)
      const written = entry === undefined ? plain.parse(node) : plain.parse({ kind: 'scalar', value: entry.key, source: entry.key, file: entry.file, line: entry.line })
      return written === '' ? undefined : { filter: written, attributes: entry === undefined ? [] : attributes.parse(entry.value) }
    },
  }
}
