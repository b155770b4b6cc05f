/** The whole configuration, as read from an `ejabberd.yml`. */
import { type Access } from './access.ts'
import { type Limits } from './limits.ts'
import { type ConfigNode } from './node.ts'
import { type Problem } from './problems.ts'
export { formatProblem, type Problem } from './problems.ts'

export type ListenModule = 'ejabberd_c2s' | 'ejabberd_http' | 'ejabberd_s2s_in' | 'ejabberd_service' | 'mod_mqtt' | 'ejabberd_stun' | 'ejabberd_sip' | 'ejabberd_xmlrpc'

export interface ListenConfig {
  /** A TCP port; 0 picks a free one. */
  readonly port: number
  /** Path of a Unix socket, in place of the port. */
  readonly unixPath: string | undefined
  readonly ip: string
  readonly module: ListenModule
  /** TLS from the first byte. */
  readonly tls: boolean
  readonly starttls: boolean
  readonly starttlsRequired: boolean
  readonly tlsOptions: TlsOptions
  /** Path prefix such as `/upload` to the handler's module. */
  readonly requestHandlers: ReadonlyMap<string, string>
  readonly customHeaders: ReadonlyMap<string, string>
  /** Name or definition for `access.allows`. */
  readonly access: string
  /** Name or definition for `access.shaper`. */
  readonly shaper: string
  readonly maxStanzaBytes: number
  readonly preAuthMaxStanzaBytes: number
  /** Stanzas waiting to be written to a connection. */
  readonly maxQueue: number
  readonly useProxyProtocol: boolean
  readonly backlog: number
  readonly file: string
  readonly line: number
}

/** In the terms of `node:tls`; what is undefined is Node's default. */
export interface TlsOptions {
  readonly minVersion: 'TLSv1' | 'TLSv1.1' | 'TLSv1.2' | 'TLSv1.3' | undefined
  readonly maxVersion: 'TLSv1' | 'TLSv1.1' | 'TLSv1.2' | 'TLSv1.3' | undefined
  readonly ciphers: string | undefined
  readonly honorCipherOrder: boolean
  readonly dhFile: string | undefined
  readonly caFile: string | undefined
}

/** What has no name in ejabberd: the top-level key `tidings`. */
export interface TidingsOptions {
  /** Where the data lives; relative to the configuration file. The command line's choice comes first. */
  readonly data: string | undefined
  readonly metrics: { readonly port: number; readonly ip: string } | undefined
  /** How long history is kept. */
  readonly archiveRetentionMs: number
  readonly offlineExpiryMs: number
  readonly upload: {
    /** Bytes one account may have stored. */
    readonly quotaBytes: number
    /** How long a file is kept. */
    readonly expiryMs: number
  }
  /** Where the certificate comes from when `certfiles` is empty: made and signed by the server itself, or none. */
  readonly selfSigned: boolean
}

export interface HostConfig {
  readonly name: string
  /** Modules that are on, by ejabberd's name, each with its options for `parseOptions`. */
  readonly modules: ReadonlyMap<string, ConfigNode>
  readonly access: Access
  readonly language: string
  readonly authMethods: readonly string[]
  readonly authPasswordFormat: 'plain' | 'scram'
  readonly authScramHash: 'SHA-1' | 'SHA-256' | 'SHA-512'
  /** SASL mechanisms never offered, in capital letters. */
  readonly disabledMechanisms: readonly string[]
  readonly registrationTimeoutMs: number
  readonly resourceConflict: 'setresource' | 'closeold' | 'closenew' | 'acceptnew'
  /** Any other top-level option of ejabberd as written for this host, as plain data. */
  get(option: string): unknown
}

export interface Config {
  readonly file: string
  readonly hosts: readonly string[]
  /** The configuration of one host; throws when it is not among `hosts`. */
  host(name: string): HostConfig
  readonly listen: readonly ListenConfig[]
  /** Files that exist after expanding globs: keys, certificates and chains in any order. */
  readonly certfiles: readonly string[]
  /** One of pino's levels, or `silent`. */
  readonly loglevel: string
  readonly language: string
  /** Networks of proxies whose X-Forwarded-For is believed. */
  readonly trustedProxies: readonly string[]
  readonly tlsOptions: TlsOptions
  readonly tidings: TidingsOptions
  readonly limits: Limits
}

export interface LoadOptions {
  /** Treat every warning as an error. */
  readonly strict?: boolean | undefined
  /** Environment for EJABBERD_MACRO_…; the process's unless told. */
  readonly env?: Readonly<Record<string, string | undefined>> | undefined
}

/** Reads a configuration file. The configuration is complete even when there are problems; do not serve with one of level `error`. */
export function loadConfig(_file: string, _options: LoadOptions = {}): { config: Config; problems: Problem[] } {
  throw new Error('not yet')
}
