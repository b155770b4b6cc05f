/** The whole configuration, as read from an `ejabberd.yml`. */
import { existsSync, globSync, readFileSync } from 'node:fs'
import { availableParallelism, homedir } from 'node:os'
import { dirname, resolve } from 'node:path'
import { Jid } from '../../lib/jid.ts'
import type { TlsChoices } from '../../lib/net/certificates.ts'
import type { SocketRights } from '../../lib/net/listen.ts'
import { parseDateTime } from '../../lib/stanza/delay.ts'
import { createJwtCheck } from '../../lib/sasl/jwt.ts'
import { SCRAM_HASHES, type ScramHash } from '../../lib/sasl/scram-keys.ts'
import type { KafkaOptions } from '../cluster/kafka/client.ts'
import type { CassandraStorageOptions } from '../storage/cassandra/options.ts'
import type { HBaseStorageOptions } from '../storage/hbase/tables.ts'
import type { S3Options } from '../storage/s3/blobs.ts'
import { createAccess, isNetwork, type Access, type AccessLayer, type Shaper } from './access.ts'
import { authOptions, authTable, type AuthOptions } from './auth.ts'
import { checkStores, readCluster, redisTable, type ClusterOptions, type RedisNames } from './cluster.ts'
import { globalOptionNames, hostOptionNames, moduleNames, removedModuleNames, removedOptionNames, renamedModules, renamedOptions } from './ejabberd-names.ts'
import { cassandraOptions, cassandraTable } from './cassandra.ts'
import { hbaseOptions, hbaseTable } from './hbase.ts'
import { kafkaOptions, kafkaTable } from './kafka.ts'
import { defaultLimits, limitTable, type Limits } from './limits.ts'
import { queueBytes, readListeners } from './listen.ts'
import { entryOf, show, textOf, toNode, toValue, type ConfigNode, type MapEntry, type MapNode, type Where } from './node.ts'
import { accessRule, anything, bool, duration, either, int, list, matching, map, oneOf, OptionError, parseOptions, record, size, text, type OptionSpec, type OptionTable, type OptionType } from './options.ts'
import { didYouMean, type Problem } from './problems.ts'
import { checkLdapFiles, ldapSettings, ldapTable, type LdapNames, type LdapSettings } from '../ldap/settings.ts'
import { S2S_GLOBAL, s2sOf, s2sTable, s2sTlsOf, tidingsS2sTable, type S2sConfig, type S2sNames } from './s2s.ts'
import { readTls, tlsTable, type TlsNames } from './tls.ts'
import { joinValues, readConfigTree, withHost } from './yaml.ts'
export { formatProblem, type Problem } from './problems.ts'

/** The listeners this server has; others are reported and not opened. */
export type ListenModule = 'ejabberd_c2s' | 'ejabberd_http' | 'ejabberd_service' | 'ejabberd_s2s_in'

export interface ListenConfig {
  /** A TCP port; 0 picks a free one. */
  readonly port: number
  /** Path of a Unix socket, in place of the port. */
  readonly unixPath: string | undefined
  readonly unixSocket: SocketRights
  /** Whether each connection begins with a header of the PROXY protocol. */
  readonly proxyProtocol: boolean
  readonly ip: string
  readonly module: ListenModule
  /** TLS from the first byte. */
  readonly tls: boolean
  readonly starttls: boolean
  readonly starttlsRequired: boolean
  readonly tlsOptions: TlsChoices
  /** Path prefix such as `/upload` to the handler's module. */
  readonly requestHandlers: ReadonlyMap<string, string>
  readonly customHeaders: ReadonlyMap<string, string>
  /** Name or definition for `access.allows`. */
  readonly access: string
  /** Name or definition for `access.shaper`. */
  readonly shaper: string
  readonly maxStanzaBytes: number
  readonly preAuthMaxStanzaBytes: number
  readonly maxStanzaElements: number
  readonly preAuthMaxStanzaElements: number
  /** Bytes waiting to be written to one connection. */
  readonly outboundBytes: number
  readonly backlog: number
  /** Set where several processes listen on the same port. */
  readonly reusePort?: boolean
  /** Of `ejabberd_service` alone. */
  readonly component?: ComponentListen
  readonly file: string
  readonly line: number
}

/** Which components may connect (XEP-0114). */
export interface ComponentListen {
  /** By domain. */
  readonly passwords: ReadonlyMap<string, string>
  /** Of domains that are not known beforehand. */
  readonly password: string | undefined
  /** Whether a component sends from its own domains alone. */
  readonly checkFrom: boolean
  /** Whether a component stands in for the other domains of `passwords`. */
  readonly globalRoutes: boolean
}

/** How what is for one domain is shared between the components that are connected for it. */
export interface Balancing {
  readonly type: BalancingType
  /** How many components there are to be; any number when undefined. */
  readonly number: number | undefined
}

export type BalancingType = (typeof BALANCING_TYPES)[number]
const BALANCING_TYPES = ['random', 'source', 'destination', 'bare_source', 'bare_destination'] as const

/** What a listener says of the streams that come by it. */
export type StreamOptions = Partial<Pick<ListenConfig, 'access' | 'shaper' | 'maxStanzaBytes' | 'preAuthMaxStanzaBytes' | 'maxStanzaElements' | 'preAuthMaxStanzaElements' | 'outboundBytes'>>

/** What has no name in ejabberd: the top-level key `tidings`. */
export interface TidingsOptions {
  /** Where the data lives; relative to the configuration file. The command line's choice comes first. */
  readonly data: string | undefined
  /** How many processes serve clients, over one store. */
  readonly processes: number
  readonly metrics: { readonly port: number; readonly ip: string } | undefined
  /** How long history is kept. */
  readonly archiveRetentionMs: number
  readonly upload: {
    /** Bytes one account may have stored. */
    readonly quotaBytes: number
    /** How long a file is kept. */
    readonly expiryMs: number
  }
  /** Where uploaded files are, unless in the data directory. */
  readonly s3: S3Options | undefined
  /** The way of history from the nodes to the workers that store it. */
  readonly kafka: KafkaOptions | undefined
  /** The store of everybody's history and records. */
  readonly hbase: HBaseStorageOptions | undefined
  /** In place of HBase; undefined: there is none. */
  readonly cassandra: CassandraStorageOptions | undefined
  /** The nodes that this one is one of; undefined when it is alone. */
  readonly cluster: ClusterOptions | undefined
  /** The processes that check passwords; undefined when this one does so alone. */
  readonly auth: AuthOptions | undefined
  /** Whether hosts without a certificate get one that the server signs itself. */
  readonly selfSigned: boolean
  /** Who gets the reports of abuse (XEP-0377). */
  readonly reports: { readonly sendTo: readonly string[] }
  readonly serviceStatus: ServiceStatus
  /** Name servers that say where other servers are; empty for those of the system. */
  readonly nameServers: readonly string[]
}

/** What users can learn of the state of the service when they cannot reach it (XEP-0455). */
export interface ServiceStatus {
  /** Where it is kept; `@HOST@` stands for the domain. */
  readonly addresses: readonly string[]
  readonly outage: Outage | undefined
}

/** An outage in the words of XEP-0455 §2.2. */
export interface Outage {
  readonly planned: boolean
  readonly beginning: string
  readonly expected_end: string
  readonly message: ReadonlyMap<string, string>
}

/** How users log in: with a password of this server, without a name, with a token that somebody else has signed, or with a password of an LDAP directory. */
export type AuthMethod = 'internal' | 'anonymous' | 'jwt' | 'ldap'

export interface JwtConfig {
  /** A JSON Web Key or a set of them, as in the file; undefined when auth processes have it. */
  readonly key: string | undefined
  readonly jidField: string
  /** Name of the rule of those who log in by tokens alone. */
  readonly onlyRule: string
}

/** ejabberd's cache of authentication, for accounts that somebody else keeps. */
export interface AuthCache {
  /** Accounts; undefined for as many as there are of this server's own. */
  readonly size: number | undefined
  readonly lifeMs: number
  /** Whether is remembered that an account does not exist. */
  readonly missed: boolean
}

export interface HostConfig {
  readonly name: string
  /** Modules that are on, by ejabberd's name, each with its options for `parseOptions`. */
  readonly modules: ReadonlyMap<string, ConfigNode>
  readonly access: Access
  readonly language: string
  readonly authMethods: readonly AuthMethod[]
  /** Tokens in place of passwords, where `authMethods` has them. */
  readonly jwt: JwtConfig | undefined
  /** Where LDAP directories are, whether anybody asks them or not: as written, for modules, and as read. */
  readonly ldapNames: LdapNames
  readonly ldap: LdapSettings
  /** What is remembered of the accounts of a directory. */
  readonly authCache: AuthCache
  /** Folder that files in the configuration are relative to. */
  readonly folder: string
  readonly authPasswordFormat: 'plain' | 'scram'
  /** SASL mechanisms never offered, in capital letters. */
  readonly disabledMechanisms: readonly string[]
  /** Of these besides, in SASL as of RFC 6120. */
  readonly disabledInSasl1: readonly string[]
  /** Hashes for which new passwords are kept, and with which SCRAM is offered. */
  readonly passwordHashes: readonly ScramHash[]
  /** Of these the ones offered in SASL as of RFC 6120, where the account is not known beforehand. */
  readonly passwordHashesInSasl1: readonly ScramHash[]
  readonly registrationTimeoutMs: number
  readonly s2s: S2sConfig
  readonly resourceConflict: 'setresource' | 'closeold' | 'closenew' | 'acceptnew'
  readonly tidings: TidingsOptions
  /** Any other top-level option of ejabberd as written for this host, as plain data. */
  get(option: string): unknown
}

export interface WebSocketOptions {
  /** Origins whose pages may connect (RFC 6455 §10.2), in lower case; all when there is none. */
  readonly origins: readonly string[]
  /** Time between two pings; 0 for none. A client that answers neither of two is gone. */
  readonly pingIntervalMs: number
  /** Silence after which a connection is over; 0 for any. */
  readonly timeoutMs: number
}

export interface Config {
  readonly file: string
  readonly hosts: readonly string[]
  /** The configuration of one host; throws when it is not among `hosts`. */
  host(name: string): HostConfig
  readonly listen: readonly ListenConfig[]
  /** The rules that are not those of one host. */
  readonly access: Access
  /** By the domain of the components. */
  readonly domainBalancing: ReadonlyMap<string, Balancing>
  /** Files that exist after expanding globs: keys, certificates and chains in any order. */
  readonly certfiles: readonly string[]
  /** One of pino's levels, or `silent`. */
  readonly loglevel: string
  readonly language: string
  /** ejabberd's captcha_cmd, empty for none, and captcha_limit. */
  readonly captcha: { readonly command: string; readonly limit: number }
  /** Networks of proxies whose X-Forwarded-For is believed. */
  readonly trustedProxies: readonly string[]
  readonly webSocket: WebSocketOptions
  /** Whether anything is exchanged with other servers: there is a listener for them. */
  readonly federated: boolean
  /** TLS with other servers. */
  readonly s2sTls: TlsChoices
  /** The longest wait before a server that could not be reached is tried again. */
  readonly s2sRetryMs: number
  readonly tidings: TidingsOptions
  readonly limits: Limits
}

export interface LoadOptions {
  /** Treat every warning as an error. */
  readonly strict?: boolean | undefined
  /** Environment for EJABBERD_MACRO_…; the process's unless told. */
  readonly env?: Readonly<Record<string, string | undefined>> | undefined
  /** Reads a file's text; tests give their own. */
  readonly readText?: (file: string) => string
}

export const VERSION = '0.1.0'

interface GlobalOptions extends RedisNames {
  loglevel: string
  certfiles: readonly string[]
  negotiation_timeout: number
  registration_timeout: number
  trusted_proxies: 'all' | readonly string[]
  websocket_origin: 'ignore' | readonly string[]
  websocket_ping_interval: number
  websocket_timeout: number
  queue_dir: string
  captcha_cmd: string
  captcha_limit: number
  auth_cache_life_time: number
  auth_cache_missed: boolean
  auth_cache_size: number
  s2s_max_retry_delay: number
  ca_file: string
  domain_balancing: ReadonlyMap<string, { readonly type: BalancingType; readonly component_number: number }>
}

interface HostOptions extends TlsNames, LdapNames, S2sNames {
  language: string
  auth_method: readonly string[]
  anonymous_protocol: 'sasl_anon' | 'login_anon' | 'both'
  jwt_key: string
  jwt_jid_field: string
  jwt_auth_only_rule: string
  auth_use_cache: boolean
  auth_password_format: 'plain' | 'scram'
  auth_scram_hash: 'sha' | 'sha256' | 'sha512'
  auth_stored_password_types: readonly PasswordType[]
  auth_password_types_hidden_in_sasl1: readonly PasswordType[]
  disable_sasl_mechanisms: readonly string[]
  resource_conflict: 'setresource' | 'closeold' | 'closenew' | 'acceptnew'
  max_fsm_queue: number
}

type PasswordType = 'plain' | 'scram_sha1' | 'scram_sha256' | 'scram_sha512'

const HASHES: Readonly<Record<PasswordType, ScramHash | undefined>> = { plain: undefined, scram_sha1: 'SHA-1', scram_sha256: 'SHA-256', scram_sha512: 'SHA-512' }

/** The hashes of these kinds; all when there is none. */
function hashesOf(types: readonly PasswordType[]): readonly ScramHash[] {
  const hashes = types.map((type) => HASHES[type]).filter((hash) => hash !== undefined)
  return hashes.length === 0 ? SCRAM_HASHES : hashes
}

const LOG_LEVELS: Readonly<Record<string, string>> = {
  0: 'silent', 1: 'fatal', 2: 'error', 3: 'warn', 4: 'info', 5: 'debug',
  none: 'silent', emergency: 'fatal', alert: 'fatal', critical: 'fatal', error: 'error', warning: 'warn', notice: 'info', info: 'info', debug: 'debug',
}

const network: OptionType<string> = {
  expects: 'an IP address or a network such as 10.0.0.0/8',
  parse(node) {
    const written = textOf(node) ?? ''
    if (!isNetwork(written)) throw new OptionError(node, `${show(node)} is not allowed here; expected ${this.expects}.`)
    return written
  },
}

/** Options for the whole server. */
export const globalTable: OptionTable<GlobalOptions> = {
  loglevel: { type: oneOf(...Object.keys(LOG_LEVELS)), default: 'info', help: 'How much is logged.' },
  certfiles: { type: list(text()), default: [], help: 'Files or globs of keys, certificates and chains, in any order.' },
  negotiation_timeout: { type: duration({ timer: true }), default: 60_000, help: 'How long a connection may take to log in.' },
  registration_timeout: { type: duration(), default: 600_000, help: 'How long an address waits between two new accounts.' },
  captcha_cmd: { type: text(), default: '', help: 'A program that is given the text of a captcha and writes its picture (PNG, JPEG or GIF); unless set, the server draws it itself.' },
  captcha_limit: { type: int({ min: 1, infinity: true }), default: Infinity, help: 'Captchas that one address may have in a minute.' },
  trusted_proxies: { type: either(oneOf('all'), list(network)), default: [], help: 'Proxies whose X-Forwarded-For is believed.' },
  domain_balancing: { type: map(record({
    type: { type: oneOf(...BALANCING_TYPES), default: 'random' as const, help: '' },
    component_number: { type: int({ min: 2, max: 1000 }), default: 0, help: '' },
  })), default: new Map(), help: 'Domains of which several components may be connected, by what a stanza finds its one: type (random, source, destination, bare_source, bare_destination) and component_number, how many there are.' },
  auth_cache_life_time: { type: duration(), default: 3_600_000, help: 'How long is remembered whether an account of an LDAP directory exists.' },
  auth_cache_missed: { type: bool(), default: true, help: 'Whether is remembered too that one does not.' },
  auth_cache_size: { type: int({ min: 1, infinity: true }), default: 0, help: 'Accounts of which that is remembered; tidings.limits.account_cache unless set.' },
  ca_file: { type: text(), default: '', help: 'PEM file of the authorities whose certificates are believed, where s2s_cafile is not set.' },
  s2s_max_retry_delay: { type: duration({ timer: true }), default: 300_000, help: 'The longest wait before a server that could not be reached is tried again.' },
  websocket_origin: { type: either(oneOf('ignore'), list(text())), default: [], help: 'Origins such as https://chat.example.org whose pages may connect by WebSocket; all unless set.' },
  websocket_ping_interval: { type: duration({ min: 0, timer: true }), default: 60_000, help: 'Time between pings of WebSocket; two without an answer end the connection, not its session. 0 for none.' },
  websocket_timeout: { type: duration({ min: 0, timer: true }), default: 300_000, help: 'Silence after which a WebSocket is closed. 0 for any.' },
  ...redisTable,
  queue_dir: { type: text(), default: '', help: 'Unused: queues are in memory.', ignored: 'has no effect: queues are in memory.' },
}

const sharedTls = tlsTable('c2s_')

/** Options that `host_config` may set for one host. */
export const hostTable: OptionTable<HostOptions> = {
  language: { type: text(), default: 'en', help: 'Language of texts that the server writes.', ignored: 'has no effect: the server writes English.' },
  auth_method: { type: list(text()), default: ['internal'], help: 'internal (mnesia): accounts in the server\'s own store; anonymous: accounts that last as long as their session; jwt: tokens in place of passwords; ldap: accounts of an LDAP directory.' },
  anonymous_protocol: { type: oneOf('sasl_anon', 'login_anon', 'both'), default: 'sasl_anon', help: 'Only sasl_anon: SASL ANONYMOUS.' },
  jwt_key: { type: text(), default: '', help: 'File of the key by which tokens are checked: a JSON Web Key, or a set of them.' },
  jwt_jid_field: { type: text(), default: 'jid', help: 'Claim of a token that holds the bare JID of its account.' },
  jwt_auth_only_rule: { type: accessRule(), default: 'none', help: 'Access rule: who logs in by tokens alone.' },
  auth_use_cache: { type: bool(), default: true, help: 'Whether is remembered if accounts of an LDAP directory exist.' },
  ...ldapTable,
  auth_password_format: { type: oneOf('plain', 'scram'), default: 'scram', help: 'Passwords are kept as SCRAM keys whatever is set.' },
  auth_scram_hash: { type: oneOf('sha', 'sha256', 'sha512'), default: 'sha', help: 'Keys are kept for every hash.', ignored: 'has no effect: keys are kept for SHA-1, SHA-256 and SHA-512.' },
  auth_stored_password_types: { type: list(oneOf('plain', 'scram_sha1', 'scram_sha256', 'scram_sha512')), default: [], help: 'Hashes for which new passwords are kept; all three unless set. Nothing is kept in plain.' },
  auth_password_types_hidden_in_sasl1: { type: list(oneOf('plain', 'scram_sha1', 'scram_sha256', 'scram_sha512')), default: [], help: 'Kinds of passwords whose mechanisms are offered to clients that know SASL2 alone, as long as old accounts lack them.' },
  disable_sasl_mechanisms: { type: list(text()), default: [], help: 'SASL mechanisms that are never offered.' },
  resource_conflict: { type: oneOf('setresource', 'closeold', 'closenew', 'acceptnew'), default: 'acceptnew', help: 'What happens when a resource is already bound.' },
  max_fsm_queue: { type: int({ min: 1 }), default: 0, help: 'Stanzas waiting to be written to one connection, counted as 1 KiB each; beyond them it is closed.' },
  ...sharedTls,
  ...s2sTable,
}

interface TidingsNames { data: string; processes: string; metrics: unknown; archive_retention: number; upload: unknown; s3: unknown; kafka: unknown; hbase: unknown; cassandra: unknown; cluster: unknown; auth: unknown; self_signed: boolean; reports: unknown; service_status: unknown; s2s: unknown; limits: unknown }

/** The key `tidings`. */
export const tidingsTable: OptionTable<TidingsNames> = {
  data: { type: text(), default: '', help: 'Folder of the data, relative to the configuration file.' },
  processes: { type: matching(/^(auto|[1-9]\d?)$/, 'an integer from 1 to 99, or auto'), default: '1', help: 'How many processes serve clients on this machine; auto is one for each core.' },
  metrics: { type: anything(), default: undefined, help: 'Listener of /metrics and /health: port and ip.' },
  archive_retention: { type: duration({ unit: 'days' }), default: Infinity, help: 'How long history is kept; a bare number counts days.' },
  upload: { type: anything(), default: undefined, help: 'Uploads: quota (bytes of one account) and expiry.' },
  s3: { type: anything(), default: undefined, help: 'Bucket for uploaded files: bucket, endpoint, region, prefix, access_key, secret_key and path_style.' },
  kafka: { type: anything(), default: undefined, help: 'The way of history to its store: brokers, topic, partitions, replication, backlog, group, tls and sasl.' },
  hbase: { type: anything(), default: undefined, help: 'HBase: masters, user, namespace, prefix, regions and compression.' },
  cassandra: { type: anything(), default: undefined, help: 'Cassandra, in place of HBase: contact_points, local_datacenter, keyspace, replication, consistency, username, password and tls.' },
  cluster: { type: anything(), default: undefined, help: 'Several nodes that are one server: node, address, secret and redis.' },
  auth: { type: anything(), default: undefined, help: 'Passwords in processes of their own: servers, secret, accounts, listen and address.' },
  self_signed: { type: bool(), default: true, help: 'Whether hosts without a certificate in certfiles get one that the server signs itself.' },
  reports: { type: anything(), default: undefined, help: 'Reports of abuse: send_to.' },
  service_status: { type: anything(), default: undefined, help: 'What users learn of outages: addresses and outage.' },
  s2s: { type: anything(), default: undefined, help: 'Federation: nameservers.' },
  limits: { type: anything(), default: undefined, help: 'Limits by their names in snake_case.' },
}

export const reportsTable: OptionTable<{ send_to: readonly string[] }> = {
  send_to: { type: list(jid()), default: [], help: 'JIDs that get the reports of abuse; all of them are logged.' },
}

export const serviceStatusTable: OptionTable<{ addresses: readonly string[]; outage: Outage | undefined }> = {
  addresses: { type: list(httpAddress()), default: [], help: 'Where the state of the service can be read, on another machine if possible; @HOST@ is replaced. Unless set, what this server serves as tidings_status.' },
  outage: { type: outage(), default: undefined, help: 'What tidings_status serves: planned, beginning, expected_end, and message by language with one for default.' },
}

function jid(): OptionType<string> {
  const expects = 'a JID'
  return { expects, parse: (node) => Jid.tryParse(textOf(node) ?? '')?.toString() ?? refuseValue(node, expects) }
}

function httpAddress(): OptionType<string> {
  const expects = 'an address such as https://status.example.org/@HOST@.json'
  return { expects, parse: (node) => (/^https?:\/\//.test(textOf(node) ?? '') && URL.canParse((textOf(node) ?? '').replaceAll('@HOST@', 'h.example')) ? textOf(node) as string : refuseValue(node, expects)) }
}

function dateTime(): OptionType<string> {
  const expects = 'a date and time such as "2026-01-31T18:00:00Z"'
  return { expects, parse: (node) => (parseDateTime(textOf(node) ?? '') === undefined ? refuseValue(node, expects) : textOf(node) as string) }
}

function outage(): OptionType<Outage | undefined> {
  const given = record<Outage>({
    planned: { type: bool(), default: false, help: '' },
    beginning: { type: dateTime(), default: '', help: '' },
    expected_end: { type: dateTime(), default: '', help: '' },
    message: { type: map(text()), default: new Map(), help: '' },
  })
  const expects = 'a map with planned, beginning (a date and time), expected_end and message, which has a text for default'
  return {
    expects,
    parse(node) {
      const read = given.parse(node)
      return read.beginning === '' || (read.message.size > 0 && !read.message.has('default')) ? refuseValue(node, expects) : read
    },
  }
}

function refuseValue(node: ConfigNode, expects: string): never {
  throw new OptionError(node, `${show(node)} is not allowed here; expected ${expects}.`)
}

export const metricsTable: OptionTable<{ port: number; ip: string }> = {
  port: { type: int({ min: 0, max: 65_535 }), default: 5280, help: 'TCP port; 0 picks a free one.' },
  ip: { type: text(), default: '127.0.0.1', help: 'Address to listen on. What it serves is not for the public.' },
}

export const s3Table: OptionTable<{ bucket: string; endpoint: string; region: string; prefix: string; access_key: string; secret_key: string; path_style: boolean }> = {
  bucket: { type: text(), default: 'tidings', help: 'The bucket; made when there is none.' },
  endpoint: { type: text(), default: '', help: 'Address of the server; unless set, that of AWS for the region.' },
  region: { type: text(), default: 'us-east-1', help: 'Region of the bucket.' },
  prefix: { type: text(), default: '', help: 'Begins the keys of all objects.' },
  access_key: { type: text(), default: '', help: 'Access key; unless set, the environment, the shared files and the role of the machine are asked, in the order of AWS.' },
  secret_key: { type: text(), default: '', help: 'Secret key.' },
  path_style: { type: bool(), default: true, help: 'Whether the bucket is in the path of addresses, as others than AWS need it.' },
}

export const uploadTable: OptionTable<{ quota: number; expiry: number }> = {
  quota: { type: size({ min: 1 }), default: Infinity, help: 'Bytes one account may have stored.' },
  expiry: { type: duration({ unit: 'days' }), default: Infinity, help: 'How long a file is kept; a bare number counts days.' },
}

/** Read by their own readers, below. */
const STRUCTURAL = new Set(['hosts', 'listen', 'modules', 'acl', 'access_rules', 'access', 'shaper', 'shaper_rules', 'host_config', 'append_host_config', 'tidings'])
/** What may differ between hosts although it is not in a table. */
const HOST_STRUCTURAL = new Set(['modules', 'acl', 'access_rules', 'access', 'shaper_rules'])

/** Known to ejabberd, and what happens here instead. The first that fits. */
const INSTEAD: readonly (readonly [RegExp, string])[] = [
  [/^(sql_|default_db$|default_ram_db$|update_sql_schema|pgsql_|odbc_)/, 'has no effect: accounts, rosters and messages are kept in this server\'s own store, and no SQL database is read or written.'],
  [/^(extauth_|pam_|ext_api_|auth_external|auth_opts)/, 'has no effect: accounts are checked against this server\'s own store alone.'],
  [/^allow_multiple_connections$/, 'has no effect: an anonymous account is that of one session.'],
  [/^(max_s2s_connections|s2s_default_policy|route_subdomains)/, 'has no effect: there is one connection to each server, to which s2s_access has rules.'],
  [/^(oauth_|api_permissions$|commands|ejabberdctl_|access_commands)/, 'has no effect: there is no HTTP API and no OAuth.'],
  [/^captcha_/, 'has no effect: the picture of a captcha is sent with its form, over XMPP.'],
  [/^(cluster_|router_|sm_db|sm_cache|sm_use|net_ticktime|rpc_timeout)/, 'has no effect: this server runs as one process and keeps its state itself.'],
  [/(^|_)(cache_life_time|cache_missed|cache_size|use_cache)$/, 'has no effect: caches are bounded by tidings.limits.'],
  [/^(log_|hide_sensitive)/, 'has no effect: the log goes to standard output, without secrets or messages; rotate it where it is kept.'],
  [/^(oom_|queue_|validate_stream)/, 'has no effect: queues are in memory and bounded by tidings.limits; streams are always checked.'],
  [/^acme$/, 'has no effect: certificates are not fetched; keep them current in certfiles.'],
  [/^(allow_contrib_modules|install_contrib_modules)$/, 'has no effect: modules written for ejabberd cannot be loaded.'],
]

/** Values that say what this server does anyway, so nothing is worth reporting. */
const SAME: Readonly<Record<string, readonly string[]>> = {
  default_db: ['mnesia', 'internal'], default_ram_db: ['mnesia', 'internal'], queue_type: ['ram'], hide_sensitive_log_data: ['true'],
  c2s_tls_compression: ['false'], s2s_use_starttls: ['false'], allow_contrib_modules: ['false'], validate_stream: ['true'],
  allow_multiple_connections: ['false'], s2s_zlib: ['false'], s2s_access: ['none'], oauth_access: ['none'], router_db_type: ['mnesia'], sm_db_type: ['mnesia'],
  cluster_backend: ['mnesia'],
}

/** Reads a configuration file. The configuration is complete even when there are problems; do not serve with one of level `error`. */
export function loadConfig(file: string, options: LoadOptions = {}): { config: Config; problems: Problem[] } {
  const folder = resolve(dirname(file))
  const { tree, problems } = readConfigTree(file, {
    env: options.env ?? process.env,
    keywords: { VERSION, SEMVER: VERSION, HOME: homedir(), CONFIG_PATH: folder, DATABASE_PATH: folder, LOG_PATH: folder },
    ...(options.readText ? { readText: options.readText } : {}),
  })
  const root = withCurrentNames(tree, problems)
  const report = (entry: Where, option: string, level: Problem['level'], what: string): void => {
    problems.push({ file: entry.file, line: entry.line, option, level, text: what })
  }
  const own = (key: string): ConfigNode | undefined => entryOf(root, key)?.value

  // Names nobody knows
  for (const entry of root.entries) checkName(entry, '', new Set([...Object.keys(globalTable), ...Object.keys(hostTable), ...STRUCTURAL]), problems)

  const hosts = readHosts(entryOf(root, 'hosts'), file, problems)
  const globals = readTable(globalTable, root.entries, '', problems)
  const loglevel = LOG_LEVELS[globals.loglevel] ?? 'info'
  const shapers = readShapers(own('shaper'), problems)
  const { tidings, limits } = readTidings(entryOf(root, 'tidings'), readCluster(root, entryOf(root, 'tidings'), globals, folder, problems), problems)

  // Per host
  const globalEntries = root.entries.filter((entry) => Object.hasOwn(hostTable, entry.key) || HOST_STRUCTURAL.has(entry.key))
  const hostCertfiles: { path: string; at: Where }[] = []
  const perHost = readHostConfigs(root, hosts, hostCertfiles, problems)
  const globalHost = readTable(hostTable, globalEntries, '', problems)
  const globalModules = readModules(own('modules'), problems)
  const globalLayer = layerOf(root)
  const globalAccess = createAccess(hosts, [globalLayer], shapers)
  problems.push(...globalAccess.problems)
  checkAuth(globalHost, root, '', problems)
  const byHost = new Map<string, HostConfig>()
  const checks = new Map<string, ReturnType<typeof createAccess>['check']>()
  for (const name of hosts) {
    const { entries, appended } = perHost.get(name) ?? { entries: [], appended: [] }
    const hostNode: MapNode = { kind: 'map', entries: [...entries, ...appended], file: root.file, line: root.line }
    const values = hostNode.entries.length === 0 ? globalHost : { ...globalHost, ...readTable(hostTable, hostNode.entries, `host_config.${name}`, problems, true) }
    for (const { key, file: at, line } of hostNode.entries) {
      if (key === 'max_fsm_queue' || Object.hasOwn(sharedTls, key) || S2S_GLOBAL.has(key)) report({ file: at, line }, `host_config.${name}.${key}`, 'warning', 'has no effect on one host: set it at the top level or on a listener.')
    }
    if (hostNode.entries.length > 0) checkAuth(values, hostNode, `host_config.${name}.`, problems)
    const hostModules = entryOf({ ...hostNode, entries: [...entries] }, 'modules')?.value
    const modules = new Map(hostModules ? readModules(hostModules, problems) : globalModules)
    for (const entry of appended) if (entry.key === 'modules') for (const [module, node] of readModules(entry.value, problems)) modules.set(module, node)
    let { access, check } = globalAccess
    if (hostNode.entries.some((entry) => HOST_STRUCTURAL.has(entry.key) && entry.key !== 'modules')) {
      const made = createAccess(hosts, [layerOf(hostNode), globalLayer], shapers)
      const before = new Set(globalAccess.problems.map((problem) => `${problem.file}:${problem.line}:${problem.text}`))
      problems.push(...made.problems.filter((problem) => !before.has(`${problem.file}:${problem.line}:${problem.text}`)))
      ;({ access, check } = made)
    }
    checks.set(name, check)
    byHost.set(name, {
      name,
      modules: new Map([...modules].map(([module, node]) => [module, withHost(module === 'mod_mam' ? withRetention(node, tidings.options.archiveRetentionMs) : node, name)])),
      access,
      language: values.language,
      ...authOf(values, folder, hostNode, root, `host_config.${name}.`, tidings.options.auth, problems),
      ldapNames: values,
      ldap: ldapSettings(values, folder),
      authCache: { size: Number.isFinite(globals.auth_cache_size) && globals.auth_cache_size > 0 ? globals.auth_cache_size : undefined, lifeMs: values.auth_use_cache ? globals.auth_cache_life_time : 0, missed: globals.auth_cache_missed },
      folder,
      authPasswordFormat: values.auth_password_format,
      passwordHashes: hashesOf(values.auth_stored_password_types),
      passwordHashesInSasl1: hashesOf(values.auth_stored_password_types).filter((hash) => !values.auth_password_types_hidden_in_sasl1.some((type) => HASHES[type] === hash)),
      disabledInSasl1: values.auth_password_types_hidden_in_sasl1.includes('plain') ? ['PLAIN'] : [],
      disabledMechanisms: values.disable_sasl_mechanisms.map((mechanism) => mechanism.toUpperCase()),
      registrationTimeoutMs: globals.registration_timeout,
      s2s: s2sOf(values),
      resourceConflict: values.resource_conflict,
      tidings: tidings.options,
      get(option) {
        const node = entryOf(hostNode, option)?.value ?? own(option)
        return node === undefined ? undefined : toValue(withHost(node, name))
      },
    })
  }

  checkLdap(root, perHost, [...byHost.values()], folder, problems)

  const limitsSet = new Set(tidings.limitsSet)
  const allLimits: Limits = {
    ...limits,
    ...(globalHost.max_fsm_queue > 0 && !limitsSet.has('outboundBytes') ? { outboundBytes: queueBytes(globalHost.max_fsm_queue) } : {}),
    ...(entryOf(root, 'negotiation_timeout') && !limitsSet.has('preAuthTimeoutMs') ? { preAuthTimeoutMs: globals.negotiation_timeout } : {}),
  }
  const c2sTls = readTls(globalHost, 'c2s_', folder, root, problems)
  const s2sTls = s2sTlsOf(globalHost, globals.ca_file, folder, root, problems)
  const { listen, certfiles: listenerCertfiles } = readListeners(entryOf(root, 'listen'), { limits: allLimits, c2sTls, s2sTls, folder, check: globalAccess.check, problems })
  const federated = listen.some(({ module }) => module === 'ejabberd_s2s_in')
  if (!federated) reportUnfederated(root, problems)
  const { metrics } = tidings.options
  const taken = metrics && metrics.port !== 0 ? listen.find((listener) => listener.unixPath === undefined && listener.port === metrics.port) : undefined
  if (taken) report(entryOf(root, 'tidings') ?? root, 'tidings.metrics.port', 'error', `"${taken.port}" is already opened by the listener at ${taken.file}:${taken.line}.`)
  const certfiles = [...new Set([...globals.certfiles.map((path) => ({ path, at: entryOf(root, 'certfiles') ?? root })), ...listenerCertfiles, ...hostCertfiles].flatMap(({ path, at }) => {
    const pattern = resolve(folder, path)
    const found = /[*?[{]/.test(pattern) ? globSync(pattern).toSorted() : existsSync(pattern) ? [pattern] : []
    if (found.length === 0) report(at, 'certfiles', 'warning', `"${path}" matches no file; hosts without a certificate get one that the server signs itself.`)
    return found
  }))]

  if (options.strict) for (const [index, problem] of problems.entries()) problems[index] = { ...problem, level: 'error' }
  const config: Config = {
    file, hosts, listen, certfiles, loglevel,
    access: globalAccess.access,
    domainBalancing: new Map(Array.from(globals.domain_balancing, ([domain, { type, component_number: number }]) => [Jid.tryParse(domain)?.domain ?? domain, { type, number: number || undefined }])),
    language: globalHost.language,
    captcha: { command: globals.captcha_cmd, limit: globals.captcha_limit },
    trustedProxies: globals.trusted_proxies === 'all' ? ['0.0.0.0/0', '::/0'] : globals.trusted_proxies,
    webSocket: {
      origins: globals.websocket_origin === 'ignore' ? [] : globals.websocket_origin.map((origin) => origin.replace(/\/$/, '').toLowerCase()),
      pingIntervalMs: globals.websocket_ping_interval, timeoutMs: globals.websocket_timeout,
    },
    federated, s2sTls, s2sRetryMs: globals.s2s_max_retry_delay,
    tidings: tidings.options,
    limits: { ...allLimits, outboundBytes: Math.max(allLimits.outboundBytes, ...listen.map((listener) => listener.outboundBytes)) },
    host(name) {
      const found = byHost.get(name)
      if (!found) throw new Error(`${name} is not a host of this server`)
      return found
    },
  }
  ruleChecks.set(config, checks)
  return { config, problems: inOrder(withoutRepeats(problems)) }
}

/** Options of federation where there is none. */
function reportUnfederated(root: MapNode, problems: Problem[]): void {
  for (const { key, value, file, line } of root.entries) {
    if (!Object.hasOwn(s2sTable, key) && key !== 's2s_max_retry_delay') continue
    if (SAME[key]?.includes(textOf(value) ?? '') === true) continue
    problems.push({ file, line, option: key, level: 'warning', text: 'has no effect: this server does not talk to other servers without a listener of ejabberd_s2s_in.' })
  }
}

/** History's module with `tidings.archive_retention` as its `expire`, unless it sets that itself. */
function withRetention(node: ConfigNode, retentionMs: number): ConfigNode {
  if (node.kind !== 'map' || entryOf(node, 'expire') || !Number.isFinite(retentionMs)) return node
  const { file, line } = node
  return { ...node, entries: [...node.entries, { key: 'expire', value: toNode(`${retentionMs} ms`, node), file, line }] }
}

type RuleCheck = ReturnType<typeof createAccess>['check']
const ruleChecks = new WeakMap<Config, ReadonlyMap<string, RuleCheck>>()

export interface ExtensionDeclaration {
  readonly name: string
  readonly ejabberd?: string
  readonly options?: unknown
}

/**
 * Checks the modules of every host against the extensions there are: modules that are not part of this server, options
 * and values that are not allowed, rules that are not defined, and request handlers nobody serves.
 */
export function checkModules(config: Config, extensions: readonly ExtensionDeclaration[], { strict = false, handlers = [] }: { readonly strict?: boolean; readonly handlers?: readonly string[] } = {}): Problem[] {
  const problems: Problem[] = []
  // Several extensions may do the job of one module: its options are those of all of them.
  const byModule = new Map<string, OptionTable<Record<string, unknown>>>()
  for (const { ejabberd, options } of extensions) {
    if (ejabberd !== undefined) byModule.set(ejabberd, { ...byModule.get(ejabberd), ...options as OptionTable<Record<string, unknown>> | undefined })
  }
  for (const host of config.hosts) {
    for (const [module, node] of config.host(host).modules) {
      const at = { file: node.file, line: node.line, option: `modules.${module}` }
      const table = byModule.get(module)
      if (!table) {
        const close = moduleNames.has(module) || removedModuleNames.has(module) ? '' : didYouMean(module, new Set([...moduleNames.keys(), ...byModule.keys()]))
        const text = moduleNames.has(module) ? 'is a module of ejabberd\'s that this server does not have; it is off.'
          : removedModuleNames.has(module) ? 'is a module of older versions of ejabberd; it is off.'
            : `is not a module that this server or ejabberd knows; it is off.${close}`
        problems.push({ ...at, level: close === '' ? 'warning' : 'error', text })
        continue
      }
      const { options, problems: found } = parseOptions(table, node, at)
      problems.push(...found)
      for (const [name, spec] of Object.entries(table) as [string, OptionSpec<unknown>][]) {
        const entry = entryOf(node, name)
        if (spec.type.rule === undefined || !entry) continue
        const written = options[name]
        if (typeof written === 'string') problems.push(...(ruleChecks.get(config)?.get(host)?.(written, spec.type.rule, { file: entry.file, line: entry.line, option: `modules.${module}.${name}` }) ?? []))
      }
    }
  }
  const served = new Set([...byModule.keys(), ...handlers])
  for (const listener of config.listen) {
    for (const [path, handler] of listener.requestHandlers) {
      const at = { file: listener.file, line: listener.line, option: 'listen.request_handlers' }
      if (!served.has(handler)) problems.push({ ...at, level: 'warning', text: `${path}: ${handler} is not part of this server; the path answers 404.` })
      else if (byModule.has(handler) && !config.hosts.some((host) => config.host(host).modules.has(handler))) {
        problems.push({ ...at, level: 'warning', text: `${path}: ${handler} is not among the modules of any host; the path answers 404.` })
      }
    }
  }
  return inOrder(withoutRepeats(problems)).map((problem) => strict ? { ...problem, level: 'error' } : problem)
}

function withoutRepeats(problems: readonly Problem[]): Problem[] {
  return [...new Map(problems.map((problem) => [`${problem.file}:${problem.line}:${problem.option}:${problem.text}`, problem])).values()]
}

/** By file as they were met, and by line within a file. */
function inOrder(problems: readonly Problem[]): Problem[] {
  const files = [...new Set(problems.map((problem) => problem.file))]
  return problems.toSorted((one, other) => files.indexOf(one.file) - files.indexOf(other.file) || one.line - other.line)
}

/** Old names become the current ones; what they were is reported only when it has no effect any more. */
function withCurrentNames(tree: MapNode, problems: Problem[]): MapNode {
  const entries: MapEntry[] = []
  for (const entry of tree.entries) {
    const current = renamedOptions.get(entry.key)
    if (current === undefined) { entries.push(entry); continue }
    const index = entries.findIndex((other) => other.key === current)
    const value: ConfigNode = current === 'certfiles' && entry.value.kind === 'scalar' ? { kind: 'list', items: [entry.value], file: entry.file, line: entry.line } : entry.value
    const before = entries[index]
    if (!before) entries.push({ ...entry, key: current, value })
    else {
      const asList = before.value.kind === 'scalar' && value.kind === 'list' ? { kind: 'list', items: [before.value], file: before.file, line: before.line } as const : before.value
      const joined = joinValues(asList, value)
      if (joined) entries[index] = { ...before, value: joined }
      else problems.push({ file: entry.file, line: entry.line, option: entry.key, level: 'error', text: `is the older name of ${current}, which is already set.` })
    }
  }
  // `certfiles` written after an older name for it.
  const merged: MapEntry[] = []
  for (const entry of entries) {
    const index = merged.findIndex((other) => other.key === entry.key && entry.key === 'certfiles')
    const before = merged[index]
    const list = (node: ConfigNode): ConfigNode => node.kind === 'scalar' ? { kind: 'list', items: [node], file: node.file, line: node.line } : node
    if (before) merged[index] = { ...before, value: joinValues(list(before.value), list(entry.value)) ?? before.value }
    else merged.push(entry)
  }
  return { ...tree, entries: merged }
}

function checkName(entry: MapEntry, prefix: string, supported: ReadonlySet<string>, problems: Problem[]): void {
  const { key, file, line } = entry
  const option = `${prefix}${key}`
  if (supported.has(key)) return
  const written = textOf(entry.value)
  if (written !== undefined && Object.hasOwn(SAME, key) && (SAME[key]?.includes(written) ?? false)) return
  if (key === 'include_config_file' || key === 'define_keyword' || key === 'define_macro') {
    problems.push({ file, line, option, level: 'error', text: 'is allowed only at the top level of a file.' })
  } else if (globalOptionNames.has(key) || hostOptionNames.has(key)) {
    problems.push({ file, line, option, level: 'warning', text: INSTEAD.find(([pattern]) => pattern.test(key))?.[1] ?? 'has no effect: this server does not have this option of ejabberd\'s.' })
  } else if (removedOptionNames.has(key)) {
    problems.push({ file, line, option, level: 'warning', text: INSTEAD.find(([pattern]) => pattern.test(key))?.[1] ?? 'has no effect: it is an option of older versions of ejabberd.' })
  } else {
    const close = didYouMean(key, new Set([...supported, ...globalOptionNames, ...hostOptionNames]))
    problems.push({ file, line, option, level: 'error', text: `is not an option that this server or ejabberd knows.${close}` })
  }
}

/** Reads the entries that a table knows. With `onlySet` the answer holds only what is set. */
function readTable<O extends object>(table: OptionTable<O>, entries: readonly MapEntry[], option: string, problems: Problem[], onlySet = false): O {
  const known = entries.filter((entry) => Object.hasOwn(table, entry.key))
  const first = known[0]
  const node: MapNode = { kind: 'map', entries: known, file: first?.file ?? '-', line: first?.line ?? 0 }
  const read = parseOptions(table, node, { option })
  problems.push(...read.problems)
  if (!onlySet) return read.options
  return Object.fromEntries(Object.entries(read.options).filter(([key]) => known.some((entry) => entry.key === key))) as O
}

function readHosts(entry: MapEntry | undefined, file: string, problems: Problem[]): string[] {
  if (!entry) {
    problems.push({ file, line: 1, option: 'hosts', level: 'error', text: 'is missing; expected a list of the domains to serve.' })
    return ['localhost']
  }
  const hosts: string[] = []
  const items = entry.value.kind === 'list' ? entry.value.items : [entry.value]
  for (const item of items) {
    const written = textOf(item) ?? ''
    const jid = Jid.tryParse(written)
    if (!jid || jid.local !== '' || jid.resource !== '') {
      problems.push({ file: item.file, line: item.line, option: 'hosts', level: 'error', text: `${show(item)} is not allowed here; expected a domain such as example.org.` })
    } else if (!hosts.includes(jid.domain)) hosts.push(jid.domain)
  }
  if (hosts.length === 0 && items.length === 0) problems.push({ file: entry.file, line: entry.line, option: 'hosts', level: 'error', text: 'is empty; expected a list of the domains to serve.' })
  return hosts.length === 0 ? ['localhost'] : hosts
}

/** `normal: 1000`, `normal: "maxrate 1000"`, `normal: {rate: 3000, burst_size: 20000}`; `none` and `infinity` slow nobody. */
function readShapers(node: ConfigNode | undefined, problems: Problem[]): ReadonlyMap<string, Shaper> {
  const shapers = new Map<string, Shaper>()
  if (node === undefined || (node.kind === 'scalar' && node.value === null)) return shapers
  const entries = node.kind === 'map' ? node.entries : node.kind === 'list' ? node.items.flatMap((item) => item.kind === 'map' ? item.entries : []) : []
  const number = either(oneOf('none'), int({ min: 1, infinity: true }))
  for (const { key, value, file, line } of entries) {
    const option = `shaper.${key}`
    const rateOf = (value: ConfigNode): number => {
      const rate = number.parse(value)
      return rate === 'none' ? Infinity : rate
    }
    try {
      if (value.kind === 'map') {
        const table: OptionTable<{ rate: number | 'none'; burst_size: number | 'none' }> = {
          rate: { type: number, default: 'none', help: 'Bytes per second.' }, burst_size: { type: number, default: 'none', help: 'Bytes that may come at once.' },
        }
        const { options, problems: found } = parseOptions(table, value, { option })
        problems.push(...found)
        const rate = options.rate === 'none' ? Infinity : options.rate
        shapers.set(key, { rate, burst: options.burst_size === 'none' ? rate : options.burst_size })
        if (!entryOf(value, 'rate')) problems.push({ file, line, option, level: 'error', text: 'has no rate; expected bytes per second.' })
      } else {
        const old = /^maxrate\s+(\d+)$/.exec(textOf(value) ?? '')?.[1]
        const rate = rateOf(old === undefined ? value : toNode(Number(old), value))
        shapers.set(key, { rate, burst: rate })
      }
    } catch (error) {
      if (!(error instanceof OptionError)) throw error
      problems.push({ file: error.node.file, line: error.node.line, option, level: 'error', text: error.message })
    }
  }
  for (const [name, shaper] of shapers) if (!Number.isFinite(shaper.rate)) shapers.set(name, { rate: Infinity, burst: Infinity })
  return shapers
}

function readModules(node: ConfigNode | undefined, problems: Problem[]): Map<string, ConfigNode> {
  const modules = new Map<string, ConfigNode>()
  if (node === undefined || (node.kind === 'scalar' && node.value === null)) return modules
  const nothing = (item: ConfigNode): ConfigNode => ({ kind: 'map', entries: [], file: item.file, line: item.line })
  const entries: MapEntry[] = node.kind === 'map' ? [...node.entries] : []
  if (node.kind === 'list') {
    for (const item of node.items) {
      const name = textOf(item)
      if (item.kind === 'map') entries.push(...item.entries)
      else if (name !== undefined) entries.push({ key: name, value: nothing(item), file: item.file, line: item.line })
      else problems.push({ file: item.file, line: item.line, option: 'modules', level: 'error', text: `${show(item)} is not allowed here; expected the name of a module.` })
    }
  } else if (node.kind === 'scalar') problems.push({ file: node.file, line: node.line, option: 'modules', level: 'error', text: `${show(node)} is not allowed here; expected a map of modules.` })
  for (const { key: written, value, file, line } of entries) {
    const name = renamedModules.get(written) ?? written.replace(/^(mod_\w+)_odbc$/, '$1')
    const at = { file, line }
    if (modules.has(name)) {
      const joined = joinValues(modules.get(name) ?? nothing(value), value)
      if (joined) modules.set(name, joined)
      else problems.push({ ...at, option: `modules.${name}`, level: 'error', text: 'is set twice.' })
      continue
    }
    const empty = value.kind === 'scalar' && value.value === null
    modules.set(name, empty ? { ...nothing(value), ...at } : value.kind === 'map' ? { ...value, ...at } : value)
    // A module without options may be written in any empty form; everything else is checked by its table.
    if (value.kind === 'scalar' && !empty) problems.push({ ...at, option: `modules.${name}`, level: 'error', text: `${show(value)} is not allowed here; expected a map of options.` })
  }
  return modules
}

function layerOf(node: MapNode): AccessLayer {
  return { acl: entryOf(node, 'acl')?.value, accessRules: entryOf(node, 'access_rules')?.value, shaperRules: entryOf(node, 'shaper_rules')?.value, oldAccess: entryOf(node, 'access')?.value }
}

/** `host_config` and `append_host_config`, by host. */
function readHostConfigs(root: MapNode, hosts: readonly string[], certfiles: { path: string; at: Where }[], problems: Problem[]): Map<string, { entries: MapEntry[]; appended: MapEntry[] }> {
  const result = new Map<string, { entries: MapEntry[]; appended: MapEntry[] }>()
  const supported = new Set([...Object.keys(hostTable), ...HOST_STRUCTURAL])
  for (const kind of ['host_config', 'append_host_config'] as const) {
    const node = entryOf(root, kind)?.value
    if (node === undefined || (node.kind === 'scalar' && node.value === null)) continue
    const maps = node.kind === 'map' ? node.entries : node.kind === 'list' ? node.items.flatMap((item) => item.kind === 'map' ? item.entries : []) : []
    if (node.kind === 'scalar') problems.push({ file: node.file, line: node.line, option: kind, level: 'error', text: `${show(node)} is not allowed here; expected a map of hosts.` })
    for (const { key, value, file, line } of maps) {
      const host = Jid.tryParse(key)?.domain ?? key
      const option = `${kind}.${host}`
      if (!hosts.includes(host)) {
        problems.push({ file, line, option, level: 'warning', text: `is not among hosts, so it has no effect.${didYouMean(host, hosts)}` })
        continue
      }
      if (value.kind === 'scalar' && value.value === null) continue
      const entries = value.kind === 'map' ? value.entries : value.kind === 'list' ? value.items.flatMap((item) => item.kind === 'map' ? item.entries : []) : undefined
      if (!entries) { problems.push({ file, line, option, level: 'error', text: `${show(value)} is not allowed here; expected a map of options.` }); continue }
      const target = result.get(host) ?? { entries: [], appended: [] }
      for (const written of entries) {
        const entry = { ...written, key: renamedOptions.get(written.key) ?? written.key }
        // Older files give each host its certificate; certificates are found by their names, wherever they are listed.
        if (entry.key === 'certfiles' && written.key !== 'certfiles') { certfiles.push({ path: textOf(entry.value) ?? '', at: written }); continue }
        if (Object.hasOwn(globalTable, entry.key) || (STRUCTURAL.has(entry.key) && !HOST_STRUCTURAL.has(entry.key)) || globalOptionNames.has(entry.key)) {
          problems.push({ file: entry.file, line: entry.line, option: `${option}.${entry.key}`, level: 'error', text: 'cannot differ between hosts; set it at the top level.' })
          continue
        }
        checkName(entry, `${option}.`, supported, problems)
        target[kind === 'host_config' ? 'entries' : 'appended'].push(entry)
      }
      result.set(host, target)
    }
  }
  return result
}

/** Options that count where a directory is asked alone. */
const OF_LDAP = new Set([...Object.keys(ldapTable), 'auth_use_cache', 'auth_cache_life_time', 'auth_cache_missed', 'auth_cache_size'])

function checkLdap(root: MapNode, perHost: ReadonlyMap<string, { readonly entries: readonly MapEntry[]; readonly appended: readonly MapEntry[] }>, hosts: readonly HostConfig[], folder: string, problems: Problem[]): void {
  const areElsewhere = hosts.some(({ authMethods, tidings }) => authMethods.includes('ldap') && (tidings.auth?.servers.length ?? 0) > 0)
  const inModule = (node: ConfigNode | undefined): boolean => node !== undefined && textOf(entryOf(node, 'db_type')?.value ?? node) === 'ldap'
  const asked = hosts.filter(({ authMethods, modules, tidings }) => (authMethods.includes('ldap') && (tidings.auth?.servers.length ?? 0) === 0) || modules.has('mod_shared_roster_ldap') || inModule(modules.get('mod_vcard')))
  const parts = [{ entries: root.entries, prefix: '', used: asked.length > 0 }, ...hosts.map((host) => {
    const { entries, appended } = perHost.get(host.name) ?? { entries: [], appended: [] }
    return { entries: [...entries, ...appended], prefix: `host_config.${host.name}.`, used: asked.includes(host) }
  })]
  for (const { entries, prefix, used } of parts) {
    checkLdapFiles({ kind: 'map', entries, file: root.file, line: root.line }, prefix, folder, problems)
    if (used) continue
    for (const { key, file, line } of entries) if (OF_LDAP.has(key) && !(areElsewhere && key.startsWith('auth_'))) problems.push({ file, line, option: `${prefix}${key}`, level: 'warning', text: `has no effect: neither auth_method nor a module asks an LDAP directory${areElsewhere ? ' from this process; auth processes do (tidings.auth.servers)' : ''}.` })
  }
}

const METHODS: Readonly<Record<string, AuthMethod>> = { internal: 'internal', mnesia: 'internal', anonymous: 'anonymous', jwt: 'jwt', ldap: 'ldap' }

/** How the users of a host log in. Without the key of their tokens none of them could, so that is an error. */
function authOf(values: HostOptions, folder: string, hostNode: MapNode, root: MapNode, prefix: string, auth: AuthOptions | undefined, problems: Problem[]): Pick<HostConfig, 'authMethods' | 'jwt'> {
  const known = values.auth_method.map((name) => METHODS[name]).filter((method) => method !== undefined)
  const authMethods = known.length === 0 ? ['internal' as const] : [...new Set(known)]
  if (!authMethods.includes('jwt')) return { authMethods, jwt: undefined }
  const own = entryOf(hostNode, 'jwt_key') ?? entryOf(hostNode, 'auth_method')
  const at = own ?? entryOf(root, 'jwt_key') ?? entryOf(root, 'auth_method') ?? root
  const where = { file: at.file, line: at.line, option: own === undefined ? 'jwt_key' : `${prefix}jwt_key`, level: 'error' as const }
  const refuse = (text: string): { authMethods: readonly AuthMethod[]; jwt: undefined } => {
    warnOnce({ ...where, text }, problems)
    return { authMethods, jwt: undefined }
  }
  if (auth !== undefined && auth.servers.length > 0) {
    if (values.jwt_key !== '') warnOnce({ ...where, level: 'warning', text: 'has no effect: auth processes check tokens (tidings.auth.servers), and this process should not be able to read their key.' }, problems)
    return { authMethods, jwt: { key: undefined, jidField: values.jwt_jid_field, onlyRule: values.jwt_auth_only_rule } }
  }
  if (values.jwt_key === '') return refuse('is missing: auth_method "jwt" needs the file of the key by which tokens are checked.')
  const path = resolve(folder, values.jwt_key)
  let key: string
  try {
    key = readFileSync(path, 'utf8')
    createJwtCheck(key, { jidField: values.jwt_jid_field })
  } catch (error) {
    return refuse(`"${values.jwt_key}" cannot be used; expected a file with a JSON Web Key or a set of them (${(error as Error).message}).`)
  }
  return { authMethods, jwt: { key, jidField: values.jwt_jid_field, onlyRule: values.jwt_auth_only_rule } }
}

/** What several hosts have in common is said once. */
function warnOnce(problem: Problem, problems: Problem[]): void {
  if (!problems.some(({ file, line, text }) => file === problem.file && line === problem.line && text === problem.text)) problems.push(problem)
}

/** Serving from another account store than the one asked for would let the wrong people in, so that is an error. */
function checkAuth(values: HostOptions, node: MapNode, prefix: string, problems: Problem[]): void {
  const method = entryOf(node, 'auth_method')
  const others = values.auth_method.filter((name) => METHODS[name] === undefined)
  if (method && others.length > 0) {
    const used = values.auth_method.filter((name) => METHODS[name] !== undefined)
    problems.push({
      file: method.file, line: method.line, option: `${prefix}auth_method`, level: used.length > 0 ? 'warning' : 'error',
      text: `"${others.join(', ')}" is not available; allowed are internal (accounts in this server's own store), anonymous, jwt and ldap${used.length > 0 ? `; ${used.join(', ')} is used alone` : ''}.`,
    })
  }
  const protocol = entryOf(node, 'anonymous_protocol')
  if (protocol && values.anonymous_protocol !== 'sasl_anon') {
    problems.push({ file: protocol.file, line: protocol.line, option: `${prefix}anonymous_protocol`, level: 'warning', text: `"${values.anonymous_protocol}" is not available: nobody logs in with a name and any password; SASL ANONYMOUS alone is offered.` })
  }
  const format = entryOf(node, 'auth_password_format')
  if (format && values.auth_password_format === 'plain') {
    problems.push({ file: format.file, line: format.line, option: `${prefix}auth_password_format`, level: 'warning', text: '"plain" has no effect: passwords are kept as SCRAM keys.' })
  }
}

function readTidings(entry: MapEntry | undefined, cluster: ClusterOptions | undefined, problems: Problem[]): { tidings: { options: TidingsOptions; limitsSet: readonly string[] }; limits: Limits } {
  const read = parseOptions(tidingsTable, entry?.value ?? null, { option: 'tidings' })
  problems.push(...read.problems)
  const part = <O extends object>(name: string, table: OptionTable<O>): O | undefined => {
    const node = entry && entryOf(entry.value, name)?.value
    if (!node) return undefined
    const inner = parseOptions(table, node, { option: `tidings.${name}` })
    problems.push(...inner.problems)
    return inner.options
  }
  const byName = new Map(Object.keys(limitTable).map((name) => [snakeCase(name), name]))
  const specs = limitTable as unknown as Readonly<Record<string, OptionSpec<number>>>
  const limitsBySnake = Object.fromEntries([...byName].map(([snake, name]) => [snake, specs[name]])) as unknown as OptionTable<Record<string, number>>
  const set = part('limits', limitsBySnake)
  const limits = set ? Object.fromEntries([...byName].map(([snake, name]) => [name, set[snake]])) as unknown as Limits : defaultLimits
  const limitsNode = entry && entryOf(entry.value, 'limits')?.value
  const limitsSet = [...byName].filter(([snake]) => limitsNode && entryOf(limitsNode, snake)).map(([, name]) => name)
  const upload = part('upload', uploadTable)
  const s3 = part('s3', s3Table)
  const kafkaEntry = entry && entryOf(entry.value, 'kafka')
  const kafka = part('kafka', kafkaTable)
  const hbaseEntry = entry && entryOf(entry.value, 'hbase')
  checkStores(entry, problems)
  const hbase = part('hbase', hbaseTable)
  const cassandraEntry = entry && entryOf(entry.value, 'cassandra')
  const cassandra = part('cassandra', cassandraTable)
  if (hbaseEntry && cassandraEntry) problems.push({ file: cassandraEntry.file, line: cassandraEntry.line, option: 'tidings.cassandra', level: 'error', text: 'is set beside tidings.hbase: one of them keeps history and records.' })
  const authEntry = entry && entryOf(entry.value, 'auth')
  const auth = part('auth', authTable)
  const status = part('service_status', serviceStatusTable)
  return {
    limits,
    tidings: {
      limitsSet,
      options: {
        data: read.options.data === '' ? undefined : read.options.data,
        processes: read.options.processes === 'auto' ? availableParallelism() : Number(read.options.processes),
        metrics: part('metrics', metricsTable),
        archiveRetentionMs: read.options.archive_retention,
        upload: { quotaBytes: upload?.quota ?? Infinity, expiryMs: upload?.expiry ?? Infinity },
        s3: s3 && { endpoint: s3.endpoint, region: s3.region, bucket: s3.bucket, prefix: s3.prefix, accessKey: s3.access_key, secretKey: s3.secret_key, pathStyle: s3.path_style },
        kafka: kafka && kafkaEntry && kafkaOptions(kafka, kafkaEntry, problems),
        hbase: hbase && hbaseEntry && hbaseOptions(hbase, hbaseEntry, read.options.archive_retention, problems),
        cassandra: cassandra && cassandraEntry && cassandraOptions(cassandra, cassandraEntry, read.options.archive_retention, problems),
        cluster,
        auth: auth && authEntry && authOptions(auth, authEntry, problems),
        selfSigned: read.options.self_signed,
        nameServers: part('s2s', tidingsS2sTable)?.nameservers ?? [],
        reports: { sendTo: part('reports', reportsTable)?.send_to ?? [] },
        serviceStatus: { addresses: status?.addresses ?? [], outage: status?.outage },
      },
    },
  }
}

/** A limit's name as written in a file: `preAuthTimeoutMs` is `pre_auth_timeout`. */
export function snakeCase(name: string): string {
  return name.replace(/Ms$/, '').replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
}
