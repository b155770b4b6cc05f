/** Streams that one process takes and another serves: where there are several, and accounts live at one of them. */
import type { TLSSocket } from 'node:tls'
import type { ChannelBinding } from '../../lib/sasl/mechanism.ts'
import type { StreamOptions } from '../config/config.ts'
import type { Connection } from './framed.ts'

/** What is known of the TLS of a client that is passed on. */
export interface TlsFacts {
  readonly version: string
  readonly cipher: string
  /** The name that the client asked for (SNI), and the protocol (ALPN); empty when it asked for none. */
  readonly serverName: string
  readonly protocol: string
}

/** What a process that takes a stream tells of its client to the one that serves it. */
export interface Passenger {
  /** Empty when it has none (a Unix socket). */
  readonly address: string
  /** Whether the client's connection is encrypted. */
  readonly secure: boolean
  readonly tls: TlsFacts | undefined
  readonly binding: ChannelBinding | undefined
  /** The client's certificate in DER, when one of our authorities stands behind it. */
  readonly certificate: Buffer | undefined
  /** Whether the connection carries elements, and whether it tells when the client has what was written; one request of many that make a session; or the process that passes clients on says that it is there. */
  readonly transport: 'bytes' | 'elements' | 'confirmed-elements' | 'request' | 'pulse'
  /** What was configured where it came in. */
  readonly listener: StreamOptions
  /** Logins that have failed on this stream. */
  readonly failures: number
  /** Elements after the stream's header that are said again for the home; the client has had the answers to what came before the last of them. */
  readonly repeated: number
}

/** A way to the process that serves the account; it waits for the stream. */
export interface Passage {
  /** Has it all go there from now on, both ways. `begun`: what the client has sent so far; where the connection carries elements, each is one. */
  carry(connection: Connection, begun: readonly Buffer[]): void
  /** Nothing is to be carried. */
  cancel(): void
}

/** A request of a client whose session is made of many, each on a connection that may come to any process (BOSH). */
export interface RelayedRequest extends Pick<Passenger, 'address' | 'secure' | 'listener'> {
  readonly body: Buffer
}

/** Where its answer goes. */
export interface Exchange {
  /** Whether its connection is gone. */
  readonly gone: boolean
  answer(status: number, contentType: string, bytes: Buffer): void
  /** Calls back when the connection is gone before it is answered. */
  onGone(run: () => void): void
}

/** The process that keeps the session lives, but nothing comes from it any more: it may have the request. */
export class SilentError extends Error {}

/** Hands requests to the process that keeps the session. */
export interface Relay {
  /** The name of this process in ids of the sessions that it keeps; undefined when it keeps none. */
  readonly process: string | undefined
  /** Has a request answered by a process, or by any that keeps sessions. Rejects when that cannot be reached; with a SilentError when it cannot any more. */
  ask(process: string | undefined, request: RelayedRequest, exchange: Exchange): Promise<void>
  /** Answers requests that other processes hand on. */
  answerBy(handler: (request: RelayedRequest, exchange: Exchange) => void): void
}

export interface Front {
  readonly relay: Relay
  /** Connections that are passed on. */
  readonly connections: number
  /** Whether accounts are served here at all. */
  readonly serves: boolean
  /** Whether an account (a bare JID) is served here for certain. */
  isHere(account: string): boolean
  /**
   * The way to the process that serves an account (a bare JID), or those who have no account yet on a host (a domain), or anybody (empty). Undefined when
   * it is this one. Rejects when there is none at the moment.
   */
  reach(unit: string, client: Passenger): Promise<Passage | undefined>
}

export function tlsFactsOf(socket: TLSSocket): TlsFacts {
  const { servername } = socket as TLSSocket & { readonly servername?: string | false }
  return {
    version: socket.getProtocol() ?? '', cipher: socket.getCipher().standardName,
    serverName: typeof servername === 'string' ? servername : '',
    protocol: typeof socket.alpnProtocol === 'string' ? socket.alpnProtocol : '',
  }
}
