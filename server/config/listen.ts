/** Listeners: the list under `listen`. */
import { isIP } from 'node:net'
import { resolve } from 'node:path'
import type { TlsChoices } from '../../lib/net/certificates.ts'
import type { SocketRights } from '../../lib/net/listen.ts'
import { type createAccess } from './access.ts'
import { Jid } from '../../lib/jid.ts'
import { type ComponentListen, type ListenConfig, type ListenModule } from './config.ts'
import { handlerNames, listenerNames, moduleNames, removedListenerNames, renamedModules } from './ejabberd-names.ts'
import { type Limits } from './limits.ts'
import { entryOf, show, textOf, toNode, type ConfigNode, type MapEntry, type MapNode } from './node.ts'
import { accessRule, bool, headers, int, list, map, oneOf, octal, OptionError, parseOptions, record, shaperRule, size, text, type OptionTable, type OptionType } from './options.ts'
import { didYouMean, type Problem } from './problems.ts'
import { readTls, tlsTable } from './tls.ts'

interface Common {
  port: number | string
  ip: string
  module: string
  transport: string
  accept_interval: number
  send_timeout: unknown
  backlog: number
  unix_socket: SocketRights
  use_proxy_protocol: boolean
}

interface Listener extends Common {
  access: string
  shaper: string
  tls: boolean
  starttls: boolean
  starttls_required: boolean
  zlib: boolean
  tls_verify: boolean
  allow_unencrypted_sasl2: boolean
  max_stanza_size: number
  max_stanza_elements: number
  pre_auth_max_stanza_size: number
  pre_auth_max_stanza_elements: number
  max_fsm_queue: number
  request_handlers: ReadonlyMap<string, string>
  custom_headers: ReadonlyMap<string, string>
  tag: string
  certfile: readonly string[]
  ciphers: string
  dhfile: string
  cafile: string
  protocol_options: readonly string[]
  tls_compression: boolean
  hosts: ReadonlyMap<string, { readonly password: string }>
  password: string
  check_from: boolean
  global_routes: boolean
  shaper_rule: string
}

const port: OptionType<number | string> = {
  expects: 'a port from 0 to 65535 or "unix:/path"',
  parse(node) {
    const written = textOf(node) ?? ''
    if (written.startsWith('unix:') && written.length > 5) return written.slice(5)
    try { return int({ min: 0, max: 65_535 }).parse(node) } catch { throw new OptionError(node, `${show(node)} is not allowed here; expected ${this.expects}.`) }
  },
}

const ip: OptionType<string> = {
  expects: 'an IP address such as 127.0.0.1 or "::"',
  parse(node) {
    const written = textOf(node) ?? ''
    if (isIP(written) === 0) throw new OptionError(node, `${show(node)} is not allowed here; expected ${this.expects}.`)
    return written
  },
}

/** What one stanza counts as where ejabberd counts stanzas. */
const STANZA_BYTES_TYPICAL = 1024
const QUEUE_BYTES_MIN = 1_048_576

const tlsNames = tlsTable('c2s_')
const anyValue: OptionType<unknown> = { expects: 'any value', parse: (node) => node }
const elements = int({ min: 1, infinity: true })

const unixSocketTable: OptionTable<SocketRights> = {
  mode: { type: octal(), default: undefined, help: 'Permissions, such as "0660"; by default what the process\'s umask leaves.' },
  owner: { type: int(), default: undefined, help: 'Number of the user who owns it.' },
  group: { type: int(), default: undefined, help: 'Number of its group.' },
}

const common: OptionTable<Common> = {
  port: { type: port, default: 0, help: 'TCP port, or unix:/path.' },
  ip: { type: ip, default: '0.0.0.0', help: 'Address to listen on; "::" is IPv6 and IPv4.' },
  module: { type: text(), default: '', help: 'ejabberd_c2s, ejabberd_s2s_in, ejabberd_http or ejabberd_service.' },
  transport: { type: oneOf('tcp'), default: 'tcp', help: 'tcp.' },
  accept_interval: { type: int(), default: 0, help: 'Unused.', ignored: 'has no effect: connections are accepted as they come, up to tidings.limits.connections.' },
  send_timeout: { type: anyValue, default: undefined, help: 'Unused.', ignored: 'has no effect: a slow reader is closed when tidings.limits.outbound_bytes is reached.' },
  backlog: { type: int(), default: 511, help: 'Connections waiting to be accepted.' },
  unix_socket: { type: record(unixSocketTable), default: {}, help: 'Rights of a Unix socket: mode (octal), owner and group (numbers).' },
  use_proxy_protocol: { type: bool(), default: false, help: 'Whether each connection begins with a header of the PROXY protocol, version 1 or 2. Let nobody but the proxy reach such a listener.' },
}

const tlsTableOfListener: OptionTable<Pick<Listener, 'tls' | 'certfile' | 'ciphers' | 'dhfile' | 'cafile' | 'protocol_options' | 'tls_compression'>> = {
  tls: { type: bool(), default: false, help: 'TLS from the first byte.' },
  certfile: { type: list(text()), default: [], help: 'Older name: goes to certfiles.' },
  ciphers: tlsNames.c2s_ciphers,
  dhfile: tlsNames.c2s_dhfile,
  cafile: tlsNames.c2s_cafile,
  protocol_options: tlsNames.c2s_protocol_options,
  tls_compression: tlsNames.c2s_tls_compression,
}

const clientTable: OptionTable<Omit<Listener, 'request_handlers' | 'custom_headers' | 'tag' | ComponentNames>> = {
  ...common,
  ...tlsTableOfListener,
  access: { type: accessRule(), default: 'all', help: 'Access rule: who may log in here.' },
  shaper: { type: shaperRule(), default: 'none', help: 'How fast a client may send.' },
  starttls: { type: bool(), default: false, help: 'Whether STARTTLS is offered.' },
  starttls_required: { type: bool(), default: false, help: 'Whether nothing but STARTTLS is allowed on a plain connection.' },
  zlib: { type: bool(), default: false, help: 'Stream compression is not offered (XEP-0138 is unsafe under TLS).' },
  tls_verify: { type: bool(), default: false, help: 'Set to false, clients are not asked for certificates here although there is a cafile.' },
  allow_unencrypted_sasl2: { type: bool(), default: false, help: 'SASL2 is offered over TLS alone.' },
  max_stanza_size: { type: size({ min: 1 }), default: 0, help: 'Bytes of one stanza after login.' },
  max_stanza_elements: { type: elements, default: 0, help: 'Elements of one stanza after login.' },
  pre_auth_max_stanza_size: { type: size({ min: 1 }), default: 0, help: 'Bytes of one element before login.' },
  pre_auth_max_stanza_elements: { type: elements, default: 0, help: 'Elements of one stanza before login.' },
  max_fsm_queue: { type: int({ min: 1 }), default: 0, help: 'Stanzas waiting to be written to one connection, counted as 1 KiB each; beyond them it is closed.' },
}

const httpTable: OptionTable<Common & Pick<Listener, 'tls' | 'certfile' | 'ciphers' | 'dhfile' | 'cafile' | 'protocol_options' | 'tls_compression' | 'request_handlers' | 'custom_headers' | 'tag' | 'allow_unencrypted_sasl2' | 'access' | 'shaper' | 'max_stanza_size'>> = {
  ...common,
  ...tlsTableOfListener,
  access: clientTable.access,
  shaper: clientTable.shaper,
  max_stanza_size: clientTable.max_stanza_size,
  request_handlers: { type: map(text()), default: new Map(), help: 'Path prefix to module, such as /upload: mod_http_upload.' },
  custom_headers: { type: headers(), default: new Map(), help: 'Headers of every answer.' },
  tag: { type: text(), default: '', help: 'Unused.', ignored: 'has no effect: there is no HTTP API.' },
  allow_unencrypted_sasl2: { type: bool(), default: false, help: 'SASL2 is offered over TLS alone.' },
}

type ComponentNames = 'hosts' | 'password' | 'check_from' | 'global_routes' | 'shaper_rule'

const passwordTable: OptionTable<{ password: string }> = {
  password: { type: text(), default: '', help: 'What its component says that it knows.' },
}

const componentTable: OptionTable<Common & Pick<Listener, keyof typeof tlsTableOfListener | 'access' | 'shaper' | 'max_stanza_size' | 'max_fsm_queue' | ComponentNames>> = {
  ...common,
  ...tlsTableOfListener,
  hosts: { type: map(record(passwordTable)), default: new Map(), help: 'Domains of the components that may connect here, each with its password.' },
  password: { type: text(), default: '', help: 'Password of every domain, where there are no hosts: a component may have any that is not served otherwise.' },
  check_from: { type: bool(), default: true, help: 'Whether a component may send from its own domains alone. One that may send from others can speak for every user.' },
  global_routes: { type: bool(), default: true, help: 'Whether a component gets what is for the other hosts of its listener too, as long as none has connected for them.' },
  access: { type: accessRule(), default: 'all', help: 'Access rule: who may send to the components.' },
  shaper: { type: shaperRule(), default: 'none', help: 'How fast a component may send.' },
  shaper_rule: { type: shaperRule(), default: 'none', help: 'Older name of shaper.' },
  max_stanza_size: clientTable.max_stanza_size,
  max_fsm_queue: clientTable.max_fsm_queue,
}

const serverTable: OptionTable<Common & Pick<Listener, keyof typeof tlsTableOfListener | 'shaper' | 'max_stanza_size' | 'max_stanza_elements' | 'pre_auth_max_stanza_size' | 'pre_auth_max_stanza_elements' | 'max_fsm_queue'>> = {
  ...common,
  ...tlsTableOfListener,
  cafile: { ...tlsTableOfListener.cafile, help: 'File of the authorities whose certificates of other servers are believed.' },
  shaper: { type: shaperRule(), default: 'none', help: 'How fast another server may send.' },
  max_stanza_size: { ...clientTable.max_stanza_size, help: 'Bytes of one stanza of a server that is known.' },
  max_stanza_elements: { ...clientTable.max_stanza_elements, help: 'Elements of one stanza of a server that is known.' },
  pre_auth_max_stanza_size: { ...clientTable.pre_auth_max_stanza_size, help: 'Bytes of one element before that.' },
  pre_auth_max_stanza_elements: { ...clientTable.pre_auth_max_stanza_elements, help: 'Elements of one stanza before that.' },
  max_fsm_queue: clientTable.max_fsm_queue,
}

const tables = { ejabberd_c2s: clientTable, ejabberd_s2s_in: serverTable, ejabberd_http: httpTable, ejabberd_service: componentTable }

/** What the listener tables are, for the manual. */
export const listenTables: typeof tables = tables
const MODULES = Object.keys(tables).join(', ').replace(/, (?=[^,]*$)/, ' or ')

/** Booleans of older files that stand for request handlers. */
const OLD_HANDLERS: Readonly<Record<string, readonly [string, string]>> = {
  captcha: ['/captcha', 'ejabberd_captcha'], register: ['/register', 'mod_register_web'], web_admin: ['/admin', 'ejabberd_web_admin'],
  http_bind: ['/bosh', 'mod_bosh'], xmlrpc: ['/', 'ejabberd_xmlrpc'],
}

export interface ListenContext {
  readonly limits: Limits
  /** The `c2s_…` options of the top level. */
  readonly c2sTls: TlsChoices
  /** The `s2s_…` options. */
  readonly s2sTls: TlsChoices
  readonly folder: string
  readonly check: ReturnType<typeof createAccess>['check']
  readonly problems: Problem[]
}

/** Reads the list. Listeners of modules that this server does not have are reported and left out. */
export function readListeners(entry: MapEntry | undefined, context: ListenContext): { listen: ListenConfig[]; certfiles: { path: string; at: { file: string; line: number } }[] } {
  const { problems } = context
  const listen: ListenConfig[] = []
  const certfiles: { path: string; at: { file: string; line: number } }[] = []
  if (!entry || (entry.value.kind === 'scalar' && entry.value.value === null)) return { listen, certfiles }
  const items = entry.value.kind === 'list' ? entry.value.items : [entry.value]
  for (const item of items) {
    if (item.kind !== 'map') {
      problems.push({ file: item.file, line: item.line, option: 'listen', level: 'error', text: `${show(item)} is not allowed here; expected a list of maps with port and module.` })
      continue
    }
    const found = readListener(item, context, certfiles)
    if (!found) continue
    const same = listen.find((other) => overlap(other, found))
    if (same) problems.push({ file: found.file, line: found.line, option: 'listen.port', level: 'error', text: `"${found.unixPath ?? `${found.ip}:${found.port}`}" is already opened by the listener at ${same.file}:${same.line}.` })
    else listen.push(found)
  }
  return { listen, certfiles }
}

function isModule(name: string): name is ListenModule {
  return Object.hasOwn(tables, name)
}

function readListener(node: MapNode, context: ListenContext, certfiles: { path: string; at: { file: string; line: number } }[]): ListenConfig | undefined {
  const { problems, limits } = context
  const moduleEntry = entryOf(node, 'module')
  const module = moduleEntry && textOf(moduleEntry.value)
  const report = (at: { file: string; line: number }, option: string, level: Problem['level'], text: string): void => { problems.push({ file: at.file, line: at.line, option, level, text }) }
  if (module === undefined) { report(moduleEntry ?? node, 'listen.module', 'error', `is missing; expected ${MODULES}.`); return undefined }
  if (!isModule(module)) {
    if (listenerNames.has(module) || moduleNames.has(module)) report(moduleEntry ?? node, 'listen.module', 'warning', `"${module}" is a listener of ejabberd's that this server does not have; the port ${textOf(entryOf(node, 'port')?.value ?? toNode('')) ?? ''} is not opened.`)
    else report(moduleEntry ?? node, 'listen.module', 'error', `"${module}" is not allowed here; expected ${MODULES}.${didYouMean(module, listenerNames.keys())}`)
    return undefined
  }
  if (!entryOf(node, 'port')) report(node, 'listen.port', 'error', 'is missing; expected a port from 0 to 65535 or "unix:/path".')

  const entries: MapEntry[] = []
  const handlers = new Map<string, string>()
  for (const item of node.entries) {
    const old = Object.hasOwn(OLD_HANDLERS, item.key) && module === 'ejabberd_http' ? OLD_HANDLERS[item.key] : undefined
    if (old) { if (['true', 'yes', 'on', 'y'].includes(textOf(item.value) ?? '')) handlers.set(...old) } else entries.push(item)
  }
  const current: MapNode = { ...node, entries }
  const read = parseOptions<Partial<Listener> & Common>(tables[module] as unknown as OptionTable<Partial<Listener> & Common>, current, {
    option: 'listen', known: { names: [...removedListenerNames, ...(listenerNames.get(module) ?? [])], text: 'has no effect: it is an option of other versions of ejabberd.' },
  })
  const { options } = read
  problems.push(...read.problems)
  const unencrypted = entryOf(current, 'allow_unencrypted_sasl2')
  if (unencrypted && options.allow_unencrypted_sasl2) report(unencrypted, 'listen.allow_unencrypted_sasl2', 'warning', 'has no effect: SASL2 is offered over TLS alone (XEP-0388 §3).')
  const zlib = entryOf(current, 'zlib')
  if (zlib && options.zlib) report(zlib, 'listen.zlib', 'warning', 'has no effect: streams are not compressed.')
  const bounded = { max_stanza_size: 'stanza_bytes', pre_auth_max_stanza_size: 'pre_auth_stanza_bytes', max_stanza_elements: 'children', pre_auth_max_stanza_elements: 'children' } as const
  for (const [name, limit] of Object.entries(bounded) as [keyof typeof bounded, string][]) {
    const item = entryOf(current, name)
    if (item && options[name] === Infinity) {
      report(item, `listen.${name}`, 'warning', `"infinity" has no effect: there is always a limit, here tidings.limits.${limit}.`)
      options[name] = 0
    }
  }
  for (const rule of ['access', 'shaper', 'shaper_rule'] as const) {
    const item = entryOf(current, rule)
    const written = options[rule]
    if (item && written !== undefined) problems.push(...context.check(written, rule === 'access' ? 'access' : 'shaper', { file: item.file, line: item.line, option: `listen.${rule}` }))
  }
  for (const path of options.certfile ?? []) certfiles.push({ path, at: entryOf(current, 'certfile') ?? node })
  for (const [path, written] of options.request_handlers ?? []) {
    const handler = renamedModules.get(written) ?? written
    const at = entryOf(current, 'request_handlers') ?? node
    const line = (at as MapEntry).value?.kind === 'map' ? entryOf((at as MapEntry).value, path) ?? at : at
    if (!moduleNames.has(handler) && !handlerNames.has(handler)) report(line, 'listen.request_handlers', 'error', `"${written}" is not allowed here; expected the name of a request handler such as mod_http_upload.${didYouMean(written, [...moduleNames.keys(), ...handlerNames])}`)
    else handlers.set(pathOf(path), handler)
  }
  const unixPath = typeof options.port === 'string' ? resolve(context.folder, options.port) : undefined
  const rights = entryOf(current, 'unix_socket')
  if (rights && unixPath === undefined) report(rights, 'listen.unix_socket', 'warning', 'has no effect: port is not "unix:/path".')
  const tlsRead = readTls({
    c2s_ciphers: options.ciphers ?? '', c2s_dhfile: options.dhfile ?? '', c2s_cafile: options.cafile ?? '',
    c2s_protocol_options: options.protocol_options ?? [], c2s_tls_compression: options.tls_compression ?? false,
  }, '', context.folder, current, problems, module === 'ejabberd_c2s' ? context.c2sTls : module === 'ejabberd_s2s_in' ? context.s2sTls : undefined)
  const verify = entryOf(current, 'tls_verify')
  if (verify && options.tls_verify && tlsRead.caFile === undefined) report(verify, 'listen.tls_verify', 'warning', 'has no effect without cafile or c2s_cafile, which say whose certificates are believed.')
  const cafile = entryOf(current, 'cafile')
  if (cafile && module !== 'ejabberd_c2s' && module !== 'ejabberd_s2s_in') report(cafile, 'listen.cafile', 'warning', 'has no effect: certificates are asked of clients of ejabberd_c2s and of other servers alone.')
  const component = module === 'ejabberd_service' ? readComponents(current, options as Listener, report) : undefined
  const asksNobody = module !== 'ejabberd_c2s' || (verify !== undefined && options.tls_verify === false)
  const tlsOptions = module === 'ejabberd_s2s_in' ? { ...tlsRead, asks: true, tickets: false } : asksNobody ? { ...tlsRead, caFile: undefined } : tlsRead
  return {
    port: typeof options.port === 'number' ? options.port : 0,
    unixPath,
    unixSocket: options.unix_socket,
    proxyProtocol: options.use_proxy_protocol,
    ip: options.ip,
    module: module satisfies ListenModule,
    tls: options.tls ?? false,
    starttls: (options.starttls ?? false) || (options.starttls_required ?? false),
    starttlsRequired: options.starttls_required ?? false,
    tlsOptions,
    requestHandlers: handlers,
    customHeaders: options.custom_headers ?? new Map(),
    access: options.access ?? 'all',
    shaper: entryOf(current, 'shaper_rule') && !entryOf(current, 'shaper') ? options.shaper_rule ?? 'none' : options.shaper ?? 'none',
    maxStanzaBytes: options.max_stanza_size || limits.stanzaBytes,
    preAuthMaxStanzaBytes: options.pre_auth_max_stanza_size || Math.min(limits.preAuthStanzaBytes, options.max_stanza_size || Infinity),
    maxStanzaElements: options.max_stanza_elements || limits.children,
    preAuthMaxStanzaElements: options.pre_auth_max_stanza_elements || Math.min(limits.children, options.max_stanza_elements || Infinity),
    outboundBytes: options.max_fsm_queue ? queueBytes(options.max_fsm_queue) : limits.outboundBytes,
    backlog: options.backlog,
    ...(component === undefined ? {} : { component }),
    file: node.file,
    line: node.line,
  }
}

function readComponents(node: MapNode, options: Listener, report: (at: { file: string; line: number }, option: string, level: Problem['level'], text: string) => void): ComponentListen {
  const entry = entryOf(node, 'hosts')
  const passwords = new Map<string, string>()
  for (const [written, { password }] of options.hosts) {
    const at = (entry && entryOf(entry.value, written)) ?? entry ?? node
    const jid = Jid.tryParse(written)
    const known = password === '' ? options.password : password
    if (jid === undefined || jid.local !== '' || jid.resource !== '') report(at, 'listen.hosts', 'error', `"${written}" is not allowed here; expected a domain.`)
    else if (known === '') report(at, 'listen.hosts', 'error', `"${written}" has no password.`)
    else passwords.set(jid.domain, known)
  }
  if (!entry && options.password === '') report(node, 'listen.hosts', 'error', 'is missing; expected the domains of the components, each with its password.')
  return { passwords, password: entry || options.password === '' ? undefined : options.password, checkFrom: options.check_from, globalRoutes: options.global_routes }
}

/** ejabberd counts what waits in stanzas, and we count bytes; not less than one stanza of any size fits. */
export function queueBytes(stanzas: number): number {
  return Math.max(QUEUE_BYTES_MIN, stanzas * STANZA_BYTES_TYPICAL)
}

function overlap(one: ListenConfig, other: ListenConfig): boolean {
  if (one.unixPath !== undefined || other.unixPath !== undefined) return one.unixPath === other.unixPath
  if (one.port === 0 || one.port !== other.port) return false
  const everywhere = (address: string): boolean => address === '::' || address === '0.0.0.0'
  return one.ip === other.ip || everywhere(one.ip) || everywhere(other.ip)
}

/** `/upload`, whether it was written with a slash at either end or not. */
function pathOf(written: string): string {
  return `/${written.replace(/^\/+|\/+$/g, '')}`
}

export type { ConfigNode }
