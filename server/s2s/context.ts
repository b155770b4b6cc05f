/** What streams with other servers need of the server. */
import type { TLSSocket } from 'node:tls'
import type { SecureContexts, TlsChoices } from '../../lib/net/certificates.ts'
import type { StanzaError } from '../../lib/stanza/errors.ts'
import type { Stanza } from '../../lib/stanza/stanza.ts'
import type { S2sConfig } from '../config/s2s.ts'
import type { Limits } from '../config/limits.ts'
import type { Log } from '../log.ts'
import type { Storage } from '../storage/shapes.ts'
import type { Connection } from './connect.ts'
import type { Exchange } from './exchange.ts'
import type { Remote } from './remote.ts'
import type { WireParts } from './wire.ts'

/** What a domain of ours does with other servers. */
export interface Policy extends S2sConfig {
  /** Access rule of the servers that are believed by dialback; undefined when none is. */
  readonly dialback: string | undefined
  readonly bidi: boolean
  readonly management: boolean
}

export interface S2sContext {
  readonly limits: Limits
  readonly storage: Storage
  readonly log: Log
  /** The longest wait before the next try. */
  readonly retryMs: number
  readonly tls: TlsChoices
  readonly closing: boolean
  readonly defaultHost: string
  readonly now: () => number
  /** That of the host which a domain of ours belongs to. */
  policyOf(local: string): Policy | undefined
  isOurs(domain: string): boolean
  /** Whether a domain of ours exchanges stanzas with another. */
  allows(local: string, remote: string): boolean
  allowsDialback(local: string, remote: string): boolean
  /** For keys of dialback. */
  readonly secret: Uint8Array
  certificates(): SecureContexts | undefined
  connect(domain: string, local: string): Promise<Connection>
  /** Whether the other side has proven by its certificate to be this domain; else why not. */
  readonly certified: (socket: TLSSocket, domain: string) => { readonly trusted: boolean; readonly problem?: string | undefined }
  /** Undefined when there are too many. */
  remote(domain: string): Remote | undefined
  wireParts(local: string, outboundBytes?: number): WireParts
  /** A stanza of another server, whose addresses have been checked. */
  received(stanza: Stanza, remote: string): void | Promise<void>
  sent(remote: string, kind: string): void
  bounce(stanza: Stanza, error: StanzaError): void
  /** A request of ours; undefined when nothing comes in time. */
  ask(stanza: Stanza, timeoutMs: number): Promise<Stanza | undefined>
  /** Whether this node is that which keeps what there is of this server; undefined when it has to be asked for first. */
  here(remote: string): boolean
  claim(remote: string): Promise<boolean>
  /** Of the other server's making, waiting to be resumed. */
  exchange(id: string): Exchange | undefined
  keepExchange(exchange: Exchange): void
  streamError(direction: 'in' | 'out', domain: string, error: Error & { readonly condition: string }): void
}
