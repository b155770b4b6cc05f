/** Everything that grows has a limit, and all limits have their defaults here. Keys under `tidings: limits:` are these in snake_case. */
import { duration, int, size, type OptionTable } from './options.ts'

export interface Limits {
  // One connection's XML
  readonly stanzaBytes: number
  readonly preAuthStanzaBytes: number
  readonly preAuthBytes: number
  readonly depth: number
  readonly attributes: number
  readonly children: number
  // Connections
  readonly preAuthTimeoutMs: number
  readonly handshakeTimeoutMs: number
  readonly proxyHeaderTimeoutMs: number
  readonly authTries: number
  readonly idlePingMs: number
  readonly idleCloseMs: number
  readonly connections: number
  readonly connectionsPerAddress: number
  readonly outboundBytes: number
  readonly heldStanzas: number
  readonly heldBytes: number
  readonly ackTimeoutMs: number
  readonly closeTimeoutMs: number
  // Stream management
  readonly resumeQueueStanzas: number
  readonly resumeQueueBytes: number
  readonly resumeTimeoutMs: number
  // Sessions
  readonly sessionsPerUser: number
  readonly directedPresences: number
  // Accounts and what they keep
  readonly rosterItems: number
  readonly rosterCache: number
  readonly pendingSubscriptions: number
  readonly accountCache: number
  readonly clientsPerAccount: number
  readonly clientsKeptMs: number
  readonly pubsubNodes: number
  readonly pubsubSubscriptions: number
  readonly pubsubBytes: number
  // Failed logins
  readonly loginFailures: number
  readonly loginFailureEveryMs: number
  readonly accountLoginFailures: number
  readonly accountLoginFailureEveryMs: number
  readonly addressLoginFailures: number
  readonly addressLoginFailureEveryMs: number
  readonly loginsRemembered: number
  // Other servers
  readonly remoteServers: number
  readonly remoteQueueStanzas: number
  readonly remoteQueueBytes: number
  readonly remotePatienceMs: number
  readonly remoteAnswerMs: number
  readonly remotePairs: number
  readonly remoteResumeMs: number
  // HTTP
  readonly ldapConnections: number
  readonly ldapWaiting: number
  readonly ldapAnswerMs: number
  readonly ldapPatienceMs: number
  readonly ldapLookUps: number
  readonly ldapLookUpEveryMs: number
  readonly authPatienceMs: number
  readonly authWaiting: number
  readonly authConnections: number
  readonly authExchanges: number
  readonly bytestreamConnections: number
  readonly bytestreamConnectionsPerAddress: number
  readonly httpConnections: number
  readonly httpConnectionsPerAddress: number
  readonly httpHeaderBytes: number
  readonly httpHeadersTimeoutMs: number
  readonly httpIdleTimeoutMs: number
  readonly httpKeepAliveMs: number
  readonly httpBytesPerSecond: number
  readonly httpRequestTimeoutMs: number
  readonly uploadSlotsPerUser: number
  readonly uploadsInWork: number
}

const time = duration({ timer: true })
const count = int({ min: 1 })
const bytes = size({ min: 1 })

/** The limits with their defaults. Setting one under `tidings: limits:` changes it for all hosts and listeners. */
export const limitTable: OptionTable<Limits> = {
  stanzaBytes: { type: size({ min: 10_000 }), default: 262_144, help: 'Bytes of one stanza after login, unless the listener sets max_stanza_size (RFC 6120 §13.12 asks for at least 10000).' },
  preAuthStanzaBytes: { type: size({ min: 10_000 }), default: 65_536, help: 'Bytes of one element before login, unless the listener sets pre_auth_max_stanza_size.' },
  preAuthBytes: { type: bytes, default: 262_144, help: 'Bytes a connection may send in all before it has logged in.' },
  depth: { type: count, default: 100, help: 'Depth of elements in a stanza.' },
  attributes: { type: count, default: 100, help: 'Attributes of one element, namespace declarations included.' },
  children: { type: count, default: 10_000, help: 'Elements in one stanza, at any depth; a listener may set max_stanza_elements.' },

  preAuthTimeoutMs: { type: time, default: 60_000, help: 'How long a connection may take to log in and bind; negotiation_timeout sets it too.' },
  handshakeTimeoutMs: { type: time, default: 20_000, help: 'How long a TLS handshake may take.' },
  proxyHeaderTimeoutMs: { type: time, default: 10_000, help: 'How long the header of a PROXY protocol may take.' },
  authTries: { type: count, default: 5, help: 'Failed logins on one connection before it is closed.' },
  idlePingMs: { type: time, default: 300_000, help: 'Silence after which a session is asked whether it is still there.' },
  idleCloseMs: { type: time, default: 60_000, help: 'How long that answer may take before the connection is closed.' },
  connections: { type: count, default: 200_000, help: 'Open client connections of the server.' },
  connectionsPerAddress: { type: count, default: 10_000, help: 'Open client connections from one address that have not logged in.' },
  outboundBytes: { type: bytes, default: 16_777_216, help: 'Bytes waiting to be written to one connection; beyond them it is closed.' },
  heldStanzas: { type: count, default: 500, help: 'Stanzas held back for an inactive client (client state indication).' },
  heldBytes: { type: bytes, default: 1_048_576, help: 'Bytes held back for an inactive client.' },
  ackTimeoutMs: { type: time, default: 60_000, help: 'How long a client may take to acknowledge; mod_stream_mgmt ack_timeout sets it too.' },
  closeTimeoutMs: { type: time, default: 5_000, help: 'How long a peer may take to close its side of the stream.' },

  resumeQueueStanzas: { type: count, default: 5_000, help: 'Unacknowledged stanzas of one session; mod_stream_mgmt max_ack_queue sets it too.' },
  resumeQueueBytes: { type: bytes, default: 16_777_216, help: 'Bytes of unacknowledged stanzas of one session.' },
  resumeTimeoutMs: { type: time, default: 300_000, help: 'How long a session waits for its client to come back; mod_stream_mgmt resume_timeout sets it too.' },

  sessionsPerUser: { type: count, default: 10, help: 'Sessions of one account, unless shaper_rules has max_user_sessions.' },
  directedPresences: { type: count, default: 1_000, help: 'Addresses one session keeps directed presence with.' },

  rosterItems: { type: count, default: 5_000, help: 'Contacts of one account.' },
  rosterCache: { type: count, default: 20_000, help: 'Rosters kept in memory.' },
  pendingSubscriptions: { type: count, default: 500, help: 'Unanswered subscription requests kept for one account.' },
  accountCache: { type: count, default: 20_000, help: 'Accounts of which is kept in memory that they exist.' },

  clientsPerAccount: { type: count, default: 100, help: 'Clients of one account that are kept in its list, and as many that have tokens to log in by.' },
  pubsubNodes: { type: count, default: 1000, help: 'Nodes of one account (XEP-0163), and nodes that one account has at a publish-subscribe service.' },
  pubsubSubscriptions: { type: count, default: 100_000, help: 'Subscriptions of one node.' },
  pubsubBytes: { type: bytes, default: 67_108_864, help: 'Bytes of the items in all nodes of one account (XEP-0163), and in all nodes that one account has at a publish-subscribe service.' },
  clientsKeptMs: { type: duration(), default: 7_776_000_000, help: 'How long a client stays in the list of its account after it was seen last.' },

  loginFailures: { type: count, default: 100, help: 'Failed logins to one account from one network at once.' },
  loginFailureEveryMs: { type: time, default: 60_000, help: 'How long until it may be one more.' },
  accountLoginFailures: { type: count, default: 500, help: 'Failed logins to one account at once from all networks that it was not used from.' },
  accountLoginFailureEveryMs: { type: time, default: 10_000, help: 'How long until it may be one more.' },
  addressLoginFailures: { type: count, default: 1_000, help: 'Failed logins from one network at once, to all accounts that were not used from it.' },
  addressLoginFailureEveryMs: { type: time, default: 1_000, help: 'How long until it may be one more.' },
  loginsRemembered: { type: count, default: 50_000, help: 'Accounts and networks whose failed logins, and networks whose use of an account, are remembered.' },

  remoteServers: { type: count, default: 10_000, help: 'Other servers that are connected, are being connected to, or could not be reached lately.' },
  remoteQueueStanzas: { type: count, default: 10_000, help: 'Stanzas that wait for one other server, or that it has not acknowledged.' },
  remoteQueueBytes: { type: bytes, default: 16_777_216, help: 'Bytes of these.' },
  remotePatienceMs: { type: time, default: 600_000, help: 'How long messages wait for a server that was connected before; those for one that cannot be reached otherwise come back at once.' },
  remoteAnswerMs: { type: time, default: 30_000, help: 'How long another server may take for a step of the negotiation of a stream, or for the verification of a dialback key.' },
  remotePairs: { type: count, default: 200, help: 'Pairs of domains on one stream with another server.' },
  remoteResumeMs: { type: time, default: 300_000, help: 'How long the stream of another server waits to be resumed (XEP-0198).' },

  ldapConnections: { type: count, default: 8, help: 'Open connections of one host or module to LDAP directories for searches, and as many for logins.' },
  ldapWaiting: { type: count, default: 10_000, help: 'Requests that wait for one of these connections.' },
  ldapAnswerMs: { type: time, default: 5_000, help: 'How long an LDAP directory may take to answer a request.' },
  ldapPatienceMs: { type: time, default: 10_000, help: 'How long a login waits for an LDAP directory that is away before it fails with temporary-auth-failure.' },
  ldapLookUps: { type: count, default: 100, help: 'Names unknown to LDAP directories that one sender may have looked up at once.' },
  ldapLookUpEveryMs: { type: time, default: 1_000, help: 'How long until it may be one more.' },

  authPatienceMs: { type: time, default: 15_000, help: 'How long a login waits for auth processes that are away or slow before it fails with temporary-auth-failure.' },
  authWaiting: { type: count, default: 10_000, help: 'Questions of one process to auth processes that wait for an answer, and of one connection that an auth process answers at a time.' },
  authConnections: { type: count, default: 1_000, help: 'Open connections of one auth process to those that ask it.' },
  authExchanges: { type: count, default: 50_000, help: 'Logins of one connection that an auth process has begun, and waits for.' },

  bytestreamConnections: { type: count, default: 10_000, help: 'Open connections of one proxy for bytestreams.' },
  bytestreamConnectionsPerAddress: { type: count, default: 256, help: 'Of these the ones from one address that are not part of an active bytestream, this machine excepted.' },
  httpConnections: { type: count, default: 10_000, help: 'Open HTTP connections of one listener.' },
  httpConnectionsPerAddress: { type: count, default: 256, help: 'Open HTTP connections from one address, trusted proxies and this machine excepted.' },
  httpHeaderBytes: { type: bytes, default: 16_384, help: 'Bytes of an HTTP request\'s headers.' },
  httpHeadersTimeoutMs: { type: time, default: 15_000, help: 'How long the headers of an HTTP request may take.' },
  httpIdleTimeoutMs: { type: time, default: 120_000, help: 'Silence in the middle of an HTTP request or answer.' },
  httpKeepAliveMs: { type: time, default: 15_000, help: 'Silence between two HTTP requests of one connection.' },
  httpBytesPerSecond: { type: count, default: 1_024, help: 'Bytes a second that the body of an HTTP request has to bring, over as long as http_idle_timeout.' },
  httpRequestTimeoutMs: { type: time, default: 86_400_000, help: 'How long an HTTP request may take, its body included.' },
  uploadSlotsPerUser: { type: count, default: 100, help: 'Upload slots one account may hold without having used them.' },
  uploadsInWork: { type: count, default: 1_000, help: 'Uploads going on at once.' },
}

/** The limits when nothing is configured. */
export const defaultLimits: Limits = Object.fromEntries(Object.entries(limitTable as unknown as Record<string, { default: unknown }>).map(([name, spec]) => [name, spec.default])) as unknown as Limits
