/**
 * The server's certificates: read from PEM files, chosen by the name a client asks for (SNI), made when none fits.
 *
 * Certificates and keys may lie in one file or in several, in any order. What belongs together is found by looking at
 * the keys; intermediates are taken from the same files.
 */
import { X509Certificate, constants, createHash, createPrivateKey, type KeyObject } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { chmod, mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import { type Socket, isIP } from 'node:net'
import path from 'node:path'
import { type SecureContext, type SecureContextOptions, TLSSocket, type TLSSocketOptions, createSecureContext } from 'node:tls'
import { domainToASCII } from 'node:url'
import { createTicketSecret, ticketKey } from './ticket-key.ts'

export interface SecureContextsOptions {
  readonly hosts: readonly string[]
  /** PEM files, globs already expanded. */
  readonly certfiles: readonly string[]
  /** Where self-signed certificates, and the secret of session tickets, are kept, in `certs/`. */
  readonly dataDir: string
  /** Whether hosts without a certificate get a self-signed one, as they do unless told otherwise. */
  readonly selfSigned?: boolean
  readonly now?: () => number
}

/** What a listener wants of TLS. What is undefined is the default: TLS 1.2 and newer, Node's ciphers, well-known DH groups. */
export interface TlsChoices {
  readonly minVersion?: 'TLSv1.2' | 'TLSv1.3' | undefined
  readonly maxVersion?: 'TLSv1.2' | 'TLSv1.3' | undefined
  readonly ciphers?: string | undefined
  readonly honorCipherOrder?: boolean | undefined
  readonly dhFile?: string | undefined
  /** Authorities whose certificates of clients are believed, in PEM; clients are asked for theirs, and need have none. */
  readonly caFile?: string | undefined
  /** Whether clients get tickets by which they resume their session. */
  readonly tickets?: boolean | undefined
  /** Whether the peer is asked for a certificate although no authorities are named; Node's own stand behind it then. */
  readonly asks?: boolean | undefined
}

export interface SecureContexts {
  /**
   * The options of a connection's server side. A client that names no host (SNI) gets the certificate of the first one. With
   * `domain` all get that domain's, for STARTTLS. Throws when OpenSSL does not take the choices.
   */
  optionsFor(choices?: TlsChoices, domain?: string): TLSSocketOptions
  /**
   * The channel binding data `tls-server-end-point` of our side of a connection (RFC 5929 §4), made with `optionsFor` and past its
   * handshake; undefined as of `endPointHash`.
   */
  endPointOf(socket: TLSSocket): Buffer | undefined
  /** The certificate presented for a domain; for an unknown one or none, that of the nearest host, in the end the first. */
  certificateFor(domain?: string): X509Certificate
  /** Hosts that no certificate of `certfiles` covers. */
  readonly selfSigned: readonly string[]
  /** What is wrong with the files: unreadable, no key, expired. One sentence each. */
  readonly problems: readonly string[]
  /** Reads the files again, and makes what is missing. Connections that are open keep their certificate. When it throws, nothing has changed. */
  reload(change?: Partial<Pick<SecureContextsOptions, 'hosts' | 'certfiles' | 'selfSigned'>>): Promise<void>
}

interface Identity {
  readonly certificate: X509Certificate
  /** Of the certificate, as of `endPointHash`. */
  readonly endPoint: Buffer | undefined
  /** One for each listener's choices; clients resume by tickets that were made with the same secret. */
  context(choices: TlsChoices, tickets: Buffer): SecureContext
}

interface Loaded {
  readonly identities: readonly Identity[]
  /** Self-signed ones by host in ASCII. */
  readonly made: ReadonlyMap<string, Identity>
  readonly fallback: Identity
  readonly selfSigned: readonly string[]
  readonly problems: readonly string[]
}

const YEAR = 365 * 24 * 3600 * 1000
/** A self-signed certificate is made anew this long before it ends. */
const RENEW_BEFORE = 14 * 24 * 3600 * 1000
const SUBDOMAINS = ['conference', 'upload', 'pubsub', 'proxy']
/** How many names `contextFor` remembers; clients choose them. */
const REMEMBERED_NAMES = 1000

/** Loads the certificates and makes those that are missing. Rejects when there is no host, or a self-signed one cannot be stored. */
export async function createSecureContexts(options: SecureContextsOptions): Promise<SecureContexts> {
  let current = options
  const now = options.now ?? Date.now
  const secret = createTicketSecret(path.join(options.dataDir, 'certs', 'tickets.secret'), now)
  let loaded = await load(options, now())
  const chosen = new Map<string, Identity>()

  const choose = (domain: string): Identity => {
    const known = chosen.get(domain)
    if (known !== undefined) return known
    const name = asciiName(domain)
    const identity = covering(loaded.identities, name, now()) ?? nearest(loaded.made, name) ?? parentOf(loaded.identities, name, now()) ?? loaded.fallback
    if (chosen.size >= REMEMBERED_NAMES) chosen.clear()
    chosen.set(domain, identity)
    return identity
  }
  const identityFor = (domain?: string): Identity => (domain === undefined || domain === '' ? loaded.fallback : choose(domain))

  /** What `optionsFor` answers without a domain; most connections ask for the same. */
  let anyDomain = new WeakMap<TlsChoices, TLSSocketOptions>()
  let tickets: { readonly of: Loaded; readonly secret: Buffer; readonly derived: Buffer } | undefined

  /** A client that resumes believes in the certificate that it was presented once: nobody resumes after a change of certificates. */
  const ticketsNow = (): Buffer => {
    const current = secret.current()
    if (tickets?.of !== loaded || tickets.secret !== current) {
      tickets = { of: loaded, secret: current, derived: ticketKey(current, [...loaded.identities, ...loaded.made.values()].map(({ certificate }) => certificate.fingerprint256).join()) }
      anyDomain = new WeakMap()
    }
    return tickets.derived
  }

  const optionsForAny = (choices: TlsChoices): TLSSocketOptions => {
    const asked = certificateRequest(choices)
    const secureContext = loaded.fallback.context(choices, ticketsNow())
    // Without a choice nobody need be asked.
    if (loaded.identities.length + loaded.made.size === 1) return { secureContext, ...asked }
    return {
      secureContext, ...asked,
      SNICallback(this: unknown, servername, callback) {
        const identity = identityFor(servername)
        let context: SecureContext
        try {
          context = identity.context(choices, ticketsNow())
        } catch (error) {
          return callback(error as Error)
        }
        // Node calls it as a method of the connection.
        if (this instanceof TLSSocket) presented.set(this, identity)
        callback(null, context)
      },
    }
  }

  ticketsNow()
  return {
    optionsFor(choices = NO_CHOICES, domain) {
      if (domain !== undefined) return { secureContext: identityFor(domain).context(choices, ticketsNow()), ...certificateRequest(choices) }
      ticketsNow()
      let options = anyDomain.get(choices)
      if (options === undefined) anyDomain.set(choices, (options = optionsForAny(choices)))
      return options
    },
    endPointOf(socket) {
      const { servername } = socket as TLSSocket & { readonly servername?: string | false | null }
      let identity = presented.get(socket)
      // A resumed session presents nothing: its client has the certificate of the name that it asked for.
      if (identity === undefined && socket.isSessionReused() && typeof servername === 'string') identity = identityFor(servername)
      if (identity !== undefined) return identity.endPoint
      const certificate = socket.getX509Certificate()
      return certificate === undefined ? undefined : endPointHash(certificate)
    },
    certificateFor: (domain) => identityFor(domain).certificate,
    get selfSigned() { return loaded.selfSigned },
    get problems() { return secret.problem === undefined ? loaded.problems : [...loaded.problems, secret.problem] },
    async reload(change = {}) {
      const next = { ...current, ...change }
      loaded = await load(next, now())
      current = next
      chosen.clear()
    },
  }
}

/** What connections were presented: to read the certificate back from a connection is a large part of a login. */
const presented = new WeakMap<TLSSocket, Identity>()
/** Whose a context is. */
const owners = new WeakMap<SecureContext, Identity>()

/**
 * TLS as a server on an accepted connection. It emits `secure` after the handshake; one that is not over after `timeoutMs` ends
 * the connection.
 */
export function acceptTls(plain: Socket, options: TLSSocketOptions, timeoutMs: number): TLSSocket {
  const secured = new TLSSocket(plain, { isServer: true, ...options })
  if (options.SNICallback === undefined && options.secureContext !== undefined) {
    const identity = owners.get(options.secureContext)
    if (identity !== undefined) presented.set(secured, identity)
  }
  const timer = setTimeout(() => secured.destroy(), timeoutMs)
  timer.unref()
  const settle = (): void => {
    clearTimeout(timer)
    secured.off('secure', settle).off('close', settle)
  }
  return secured.on('secure', settle).on('close', settle)
}

async function load(options: SecureContextsOptions, time: number): Promise<Loaded> {
  const problems: string[] = []
  const pool = new Map<string, { certificate: X509Certificate; file: string }>()
  const keys: { key: KeyObject; pem: string; file: string; used: boolean }[] = []
  for (const file of options.certfiles) {
    let text: string
    try {
      text = await readFile(file, 'utf8')
    } catch (error) {
      problems.push(`cannot read certificate file ${file}: ${(error as Error).message}`)
      continue
    }
    const found = pemBlocks(text)
    if (found.length === 0) problems.push(`no PEM certificate or key in ${file}`)
    for (const { label, pem } of found) {
      try {
        if (label.endsWith('CERTIFICATE')) {
          const certificate = new X509Certificate(pem)
          pool.set(certificate.fingerprint256, { certificate, file })
        } else keys.push({ key: createPrivateKey(pem), pem, file, used: false })
      } catch (error) {
        problems.push(`cannot use a ${label} in ${file}: ${(error as Error).message}`)
      }
    }
  }

  const all = [...pool.values()].map((each) => each.certificate)
  const identities: Identity[] = []
  for (const { certificate, file } of pool.values()) {
    const key = keys.find((each) => certificate.checkPrivateKey(each.key))
    if (key === undefined) {
      if (!certificate.ca) problems.push(`no private key for the certificate of ${nameOf(certificate)} in ${file}`)
      continue
    }
    key.used = true
    if (certificate.validToDate.getTime() <= time) problems.push(`the certificate of ${nameOf(certificate)} in ${file} ended on ${certificate.validToDate.toISOString().slice(0, 10)}`)
    try {
      identities.push(identityOf(certificate, chainOf(certificate, all), key.pem))
    } catch (error) {
      problems.push(`cannot use the certificate of ${nameOf(certificate)} in ${file}: ${(error as Error).message}`)
    }
  }
  for (const key of keys) if (!key.used) problems.push(`no certificate for the private key in ${key.file}`)

  const made = new Map<string, Identity>()
  const selfSigned: string[] = []
  for (const host of options.hosts) {
    const name = asciiName(host)
    if (covering(identities, name, time) !== undefined) continue
    if (options.selfSigned === false) {
      problems.push(`no certificate covers ${host}`)
      continue
    }
    selfSigned.push(host)
    made.set(name, await selfSignedFor(name, options, time))
  }
  const first = options.hosts[0]
  const fallback = (first === undefined ? undefined : covering(identities, asciiName(first), time) ?? made.get(asciiName(first))) ?? identities[0]
  if (fallback === undefined) throw new Error('no host and no certificate: nothing to present to clients')
  return { identities, made, fallback, selfSigned, problems }
}

const NO_CHOICES: TlsChoices = {}

/** Throws when OpenSSL does not take the certificate or the key. */
function identityOf(certificate: X509Certificate, chain: string, key: string): Identity {
  const contexts = new WeakMap<TlsChoices, { readonly tickets: Buffer; readonly context: SecureContext }>()
  const context = (choices: TlsChoices, tickets: Buffer): SecureContext => {
    const known = contexts.get(choices)
    if (known?.tickets === tickets) return known.context
    const options = contextOptions(choices)
    // What one listener has agreed on with a client, and whom it has certified, is not for another with other choices.
    const ticketKeys = ticketKey(tickets, JSON.stringify([certificate.fingerprint256, options]))
    const made = createSecureContext({ cert: chain, key, ...options, ticketKeys })
    contexts.set(choices, { tickets, context: made })
    owners.set(made, identity)
    return made
  }
  const identity: Identity = { certificate, endPoint: endPointHash(certificate), context }
  createSecureContext({ cert: chain, key })
  return identity
}

/** What the choices are for `createSecureContext`. Throws when the file of DH parameters or that of authorities cannot be read or holds none. */
export function contextOptions(choices: TlsChoices): SecureContextOptions {
  return {
    dhparam: choices.dhFile === undefined ? 'auto' : readParameters(choices.dhFile),
    // RFC 7590 and RFC 8996: nothing older.
    minVersion: choices.minVersion ?? 'TLSv1.2',
    honorCipherOrder: choices.honorCipherOrder ?? true,
    ...(choices.maxVersion === undefined ? {} : { maxVersion: choices.maxVersion }),
    ...(choices.ciphers === undefined ? {} : { ciphers: choices.ciphers }),
    ...(choices.tickets === false ? { secureOptions: constants.SSL_OP_NO_TICKET } : {}),
    // OpenSSL resumes no session with a certificate of the client's whose context has no name.
    ...(choices.caFile === undefined ? {} : { ca: readAuthorities(choices.caFile), sessionIdContext: 'tidings' }),
  }
}

/** Whether a client is asked for a certificate; what it is worth is for others to say. */
function certificateRequest({ caFile, asks }: TlsChoices): Pick<TLSSocketOptions, 'requestCert' | 'rejectUnauthorized'> {
  return caFile === undefined && asks !== true ? {} : { requestCert: true, rejectUnauthorized: false }
}

/** The certificates of a PEM file, each in PEM. Throws when it cannot be read or holds none. */
export function readAuthorities(file: string): string[] {
  const certificates = pemBlocks(readFileSync(file, 'utf8')).filter(({ label }) => label.endsWith('CERTIFICATE')).map(({ pem }) => new X509Certificate(pem).toString())
  if (certificates.length === 0) throw new Error(`no certificate in ${file}`)
  return certificates
}

function readParameters(file: string): string {
  const text = readFileSync(file, 'utf8')
  // OpenSSL would go on without a word.
  if (!/^-----BEGIN (X9\.42 )?DH PARAMETERS-----$/m.test(text)) throw new Error(`no DH parameters in ${file}`)
  return text
}

function pemBlocks(text: string): { label: string; pem: string }[] {
  const blocks: { label: string; pem: string }[] = []
  for (const match of text.matchAll(/-----BEGIN ([A-Z0-9 ]+)-----[\s\S]+?-----END \1-----/g)) {
    const label = match[1] as string
    if (label === 'CERTIFICATE' || label === 'TRUSTED CERTIFICATE' || label === 'X509 CERTIFICATE' || label.endsWith('PRIVATE KEY')) blocks.push({ label, pem: `${match[0]}\n` })
  }
  return blocks
}

/** The leaf and its issuers as far as they are known, without the root, which the client must have itself. */
function chainOf(leaf: X509Certificate, all: readonly X509Certificate[]): string {
  const chain = [leaf]
  let last = leaf
  while (chain.length < 10) {
    const child = last
    const issuer = all.find((each) => !chain.includes(each) && each.ca && child.checkIssued(each) && child.verify(each.publicKey))
    if (issuer === undefined || issuer.checkIssued(issuer)) break
    chain.push(issuer)
    last = issuer
  }
  return chain.map((each) => each.toString()).join('')
}

function covers(certificate: X509Certificate, name: string): 'exact' | 'wildcard' | undefined {
  if (isIP(name)) return certificate.checkIP(name) === undefined ? undefined : 'exact'
  const matched = certificate.checkHost(name)
  if (matched === undefined) return undefined
  return matched.startsWith('*') ? 'wildcard' : 'exact'
}

/** The best certificate for a name: valid before ended, exact before wildcard, then the one that ends last. */
function covering(identities: readonly Identity[], name: string, time: number): Identity | undefined {
  let best: { identity: Identity; rank: number; until: number } | undefined
  for (const each of identities) {
    const match = covers(each.certificate, name)
    if (match === undefined) continue
    const until = each.certificate.validToDate.getTime()
    const valid = until > time && each.certificate.validFromDate.getTime() <= time
    const rank = (valid ? 2 : 0) + (match === 'exact' ? 1 : 0)
    if (best === undefined || rank > best.rank || (rank === best.rank && until > best.until)) best = { identity: each, rank, until }
  }
  return best?.identity
}

/** The self-signed certificate of the host itself or of the nearest host above it. */
function nearest(made: ReadonlyMap<string, Identity>, name: string): Identity | undefined {
  for (let rest = name; rest !== ''; rest = above(rest)) {
    const identity = made.get(rest)
    if (identity !== undefined) return identity
  }
  return undefined
}

/** For a service that its host's certificate does not name: better the host's certificate than a stranger's. */
function parentOf(identities: readonly Identity[], name: string, time: number): Identity | undefined {
  for (let rest = above(name); rest.includes('.'); rest = above(rest)) {
    const identity = covering(identities, rest, time)
    if (identity !== undefined) return identity
  }
  return undefined
}

function above(name: string): string {
  const dot = name.indexOf('.')
  return dot === -1 ? '' : name.slice(dot + 1)
}

/** Domains as certificates and SNI write them. */
function asciiName(domain: string): string {
  const name = domain.endsWith('.') ? domain.slice(0, -1) : domain
  if (name.startsWith('[') && name.endsWith(']')) return name.slice(1, -1)
  return isIP(name) ? name : domainToASCII(name) || name.toLowerCase()
}

function nameOf(certificate: X509Certificate): string {
  return certificate.subjectAltName ?? certificate.subject?.replaceAll('\n', ', ') ?? 'nobody'
}

async function selfSignedFor(name: string, options: SecureContextsOptions, time: number): Promise<Identity> {
  const directory = path.join(options.dataDir, 'certs')
  const file = path.join(directory, `${name.replaceAll(/[^a-z0-9.-]/gi, '_')}.self-signed.pem`)
  const stored = await readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return ''
    throw error
  })
  const existing = usable(stored, name, time)
  if (existing !== undefined) return identityOf(existing.certificate, existing.certificate.toString(), existing.key)

  const altNames = isIP(name)
    ? [{ type: 7 as const, ip: name }]
    : [name, `*.${name}`, ...SUBDOMAINS.map((each) => `${each}.${name}`)].map((value) => ({ type: 2 as const, value }))
  // Seldom needed, and slow to load.
  const { generate } = await import('selfsigned')
  const made = await generate([{ name: 'commonName', value: name.slice(0, 64) }], {
    keyType: 'ec',
    curve: 'P-256',
    algorithm: 'sha256',
    // An hour of clock difference must not make it invalid.
    notBeforeDate: new Date(time - 3600 * 1000),
    notAfterDate: new Date(time + YEAR),
    extensions: [
      { name: 'basicConstraints', cA: false, critical: true },
      { name: 'keyUsage', digitalSignature: true, critical: true },
      { name: 'extKeyUsage', serverAuth: true, clientAuth: true },
      { name: 'subjectAltName', altNames },
    ],
  })
  await mkdir(directory, { recursive: true, mode: 0o700 })
  const draft = `${file}.${process.pid}.new`
  await writeFile(draft, `${made.cert.trim()}\n${made.private.trim()}\n`, { mode: 0o600 })
  await chmod(draft, 0o600)
  await rename(draft, file)
  const certificate = new X509Certificate(made.cert)
  return identityOf(certificate, certificate.toString(), made.private)
}

function usable(text: string, name: string, time: number): { certificate: X509Certificate; key: string } | undefined {
  const blocks = pemBlocks(text)
  const cert = blocks.find((each) => each.label === 'CERTIFICATE')
  const key = blocks.find((each) => each.label.endsWith('PRIVATE KEY'))
  if (cert === undefined || key === undefined) return undefined
  try {
    const certificate = new X509Certificate(cert.pem)
    const good = covers(certificate, name) !== undefined && certificate.validToDate.getTime() > time + RENEW_BEFORE && certificate.checkPrivateKey(createPrivateKey(key.pem))
    return good ? { certificate, key: key.pem } : undefined
  } catch {
    return undefined // damaged: a new one is made
  }
}

/** Hash functions by the OID of the signature algorithm. */
const SIGNATURE_HASHES: Readonly<Record<string, string>> = {
  '1.2.840.113549.1.1.4': 'md5',
  '1.2.840.113549.1.1.5': 'sha1',
  '1.2.840.113549.1.1.11': 'sha256',
  '1.2.840.113549.1.1.12': 'sha384',
  '1.2.840.113549.1.1.13': 'sha512',
  '1.2.840.113549.1.1.14': 'sha224',
  '1.2.840.10045.4.1': 'sha1',
  '1.2.840.10045.4.3.1': 'sha224',
  '1.2.840.10045.4.3.2': 'sha256',
  '1.2.840.10045.4.3.3': 'sha384',
  '1.2.840.10045.4.3.4': 'sha512',
  '1.2.840.10040.4.3': 'sha1',
  '2.16.840.1.101.3.4.3.2': 'sha256',
}
const HASHES: Readonly<Record<string, string>> = {
  '1.3.14.3.2.26': 'sha1',
  '2.16.840.1.101.3.4.2.1': 'sha256',
  '2.16.840.1.101.3.4.2.2': 'sha384',
  '2.16.840.1.101.3.4.2.3': 'sha512',
  '2.16.840.1.101.3.4.2.4': 'sha224',
}
const RSASSA_PSS = '1.2.840.113549.1.1.10'

/**
 * The channel binding data `tls-server-end-point` of a server certificate; undefined when the certificate's signature
 * uses no hash function (Ed25519), for which RFC 5929 §4.1 defines none.
 */
export function endPointHash(certificate: X509Certificate | Buffer): Buffer | undefined {
  const der = Buffer.isBuffer(certificate) ? certificate : certificate.raw
  const hash = signatureHash(der)
  if (hash === undefined) return undefined
  // RFC 5929 §4.1: MD5 and SHA-1 are replaced by SHA-256.
  return createHash(hash === 'md5' || hash === 'sha1' ? 'sha256' : hash).update(der).digest()
}

function signatureHash(der: Buffer): string | undefined {
  const certificate = readDer(der, 0)
  const tbs = readDer(der, certificate.start)
  const algorithm = readDer(der, tbs.end)
  const oid = readDer(der, algorithm.start)
  const name = oidText(der.subarray(oid.start, oid.end))
  if (name !== RSASSA_PSS) return SIGNATURE_HASHES[name]
  // RFC 4055 §3.1: hashAlgorithm [0], SHA-1 by default.
  if (oid.end >= algorithm.end) return 'sha1'
  const parameters = readDer(der, oid.end)
  if (parameters.start >= parameters.end) return 'sha1'
  const first = readDer(der, parameters.start)
  if (first.tag !== 0xa0) return 'sha1'
  const hashOid = readDer(der, readDer(der, first.start).start)
  return HASHES[oidText(der.subarray(hashOid.start, hashOid.end))]
}

function readDer(der: Buffer, at: number): { tag: number; start: number; end: number } {
  const tag = der[at]
  let length = der[at + 1]
  if (tag === undefined || length === undefined) throw new RangeError('certificate is not DER')
  let start = at + 2
  if (length >= 0x80) {
    const bytes = length & 0x7f
    if (bytes < 1 || bytes > 4 || start + bytes > der.length) throw new RangeError('certificate is not DER')
    length = der.readUIntBE(start, bytes)
    start += bytes
  }
  if (start + length > der.length) throw new RangeError('certificate is not DER')
  return { tag, start, end: start + length }
}

function oidText(bytes: Buffer): string {
  const parts: number[] = []
  let value = 0
  for (const byte of bytes) {
    value = value * 128 + (byte & 0x7f)
    if (byte >= 0x80) continue
    if (parts.length === 0) {
      const first = Math.min(2, Math.floor(value / 40))
      parts.push(first, value - first * 40)
    } else parts.push(value)
    value = 0
  }
  return parts.join('.')
}
