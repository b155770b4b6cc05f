/**
 * Whether a server's certificate is to be believed, and for which domains: RFC 6120 §13.7.2, names by RFC 6125. The same both ways: incoming, it is
 * the certificate of a TLS client, and outgoing that of a TLS server.
 *
 * The path to an authority is OpenSSL's to check, but for one thing that it asks too much of: authorities of the web issue certificates for
 * servers alone (serverAuth), and a server that connects to another is a client there. Revocation is not looked at: authorities no
 * longer answer OCSP, and certificates last weeks.
 */
import { X509Certificate } from 'node:crypto'
import { type DetailedPeerCertificate, type TLSSocket, getCACertificates, setDefaultCACertificates } from 'node:tls'
import { AsnConvert, OctetString } from '@peculiar/asn1-schema'
import { BasicConstraints, Certificate, ExtendedKeyUsage, type Extension, id_ce_basicConstraints, id_ce_certificatePolicies, id_ce_extKeyUsage, id_ce_keyUsage, id_ce_subjectAltName, KeyUsage, KeyUsageFlags } from '@peculiar/asn1-x509'
import { type CertificateNames, namesInCertificate } from '../../lib/net/certificate-names.ts'
import { readAuthorities } from '../../lib/net/certificates.ts'
import { verifyErrorOf } from '../../lib/net/client-certificate.ts'
import { Jid } from '../../lib/jid.ts'
import { addressOf, asciiDomain } from './resolve.ts'

/** The authorities that are believed. */
export interface Trust {
  /** For `createSecureContext`; undefined for those that Node believes, which it then does not name to clients. */
  readonly ca: readonly string[] | undefined
}

export interface CertificateCheck {
  readonly trusted: boolean
  /** Why not, for people. */
  readonly problem?: string
  /** When the first certificate of the path ends, in milliseconds since 1970: the stream has to end then (RFC 6120 §13.7.2.3). */
  readonly endsAt?: number
}

const PATH_MAX = 10
const SERVICE = '_xmpp-server.'

let hasSystemAuthorities = false

/** Trust in the authorities of a PEM file (`s2s_cafile`, `ca_file`); without one, in those of the system and of Node. Throws when the file has none. */
export function createTrust(caFile?: string): Trust {
  if (caFile !== undefined) return { ca: readAuthorities(caFile) }
  if (!hasSystemAuthorities) {
    hasSystemAuthorities = true
    setDefaultCACertificates([...new Set([...getCACertificates('default'), ...getCACertificates('system')])])
  }
  return { ca: undefined }
}

/** Whether the peer of a connection has shown to be the server of a domain. To be asked after the handshake, for which the peer was asked for its certificate. */
export function checkCertificate(socket: TLSSocket, domain: string, trust: Trust, now: () => number = Date.now): CertificateCheck {
  const path = peerPath(socket)
  const problem = pathProblem(socket, trust, now, path) ?? nameProblem(path[0] as X509Certificate, domain)
  return problem === undefined ? { trusted: true, endsAt: endOf(path, now()) } : { trusted: false, problem }
}

/** The peer's certificate and what it sent behind it, the issuer of each next to it; empty when it has shown none, or the connection is closed. */
export function peerPath(socket: TLSSocket): readonly X509Certificate[] {
  const path: X509Certificate[] = []
  // `getPeerX509Certificate` takes the certificate of a server away, so that nobody gets it a second time.
  let each = socket.getPeerCertificate(true) as DetailedPeerCertificate | undefined | null
  const seen = new Set<unknown>()
  while (each?.raw !== undefined && path.length < PATH_MAX && !seen.has(each)) {
    seen.add(each)
    path.push(new X509Certificate(each.raw))
    each = each.issuerCertificate
  }
  return path
}

/** What is wrong with the peer's certificate, whomever it names. */
export function pathProblem(socket: TLSSocket, trust: Trust, now: () => number = Date.now, path = peerPath(socket)): string | undefined {
  const [certificate] = path
  if (certificate === undefined) return 'it has shown no certificate'
  // RFC 6120 §13.7.1.1
  if (certificate.ca) return 'its certificate is that of an authority'
  const error = verifyErrorOf(socket)
  if (error === null) return undefined
  if (error.code === 'INVALID_PURPOSE') return serverPathProblem(path, trust, now())
  return PROBLEMS[error.code ?? ''] ?? `its certificate is not believed: ${error.message}`
}

const PROBLEMS: Readonly<Record<string, string>> = {
  DEPTH_ZERO_SELF_SIGNED_CERT: 'its certificate is self-signed',
  SELF_SIGNED_CERT_IN_CHAIN: 'its certificate is from an authority that is not believed here',
  UNABLE_TO_GET_ISSUER_CERT: 'its certificate is from an authority that is not believed here',
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: 'its certificate is from an authority that is not believed here',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'its certificate is from an authority that is not believed here, or the certificates in between are not sent with it',
  CERT_HAS_EXPIRED: 'its certificate, or one of its authority\'s, has ended',
  CERT_NOT_YET_VALID: 'its certificate is not valid yet',
  CERT_SIGNATURE_FAILURE: 'the signature of its certificate is wrong',
}

/** RFC 6120 §13.7.2.3. What has ended already is not in the path that is believed, though it was sent. */
function endOf(path: readonly X509Certificate[], now: number): number {
  return Math.min(...path.map(({ validToDate }) => validToDate.getTime()).filter((end) => end > now))
}

/**
 * What is wrong with the names of a certificate for a domain; undefined when one of them is it: a DNS-ID, with a wildcard as its whole first label or
 * without, an SRV-ID of service xmpp-server, an XmppAddr; for a domain that is an address, an iPAddress. The common name is never looked at (RFC 9525 §6.3).
 */
export function nameProblem(certificate: X509Certificate, domain: string): string | undefined {
  const names = namesInCertificate(certificate.raw)
  if (isNamed(names, domain)) return undefined
  const all = [...names.dns, ...names.srv, ...names.xmpp, ...names.ip]
  return all.length === 0 ? `its certificate has no name of ${domain} (a common name is not enough)` : `its certificate is for ${listed(all)}, not for ${domain}`
}

const LISTED_MAX = 8

function listed(names: readonly string[]): string {
  return names.length <= LISTED_MAX ? names.join(', ') : `${names.slice(0, LISTED_MAX).join(', ')} and ${names.length - LISTED_MAX} more`
}

function isNamed(names: CertificateNames, domain: string): boolean {
  const ascii = asciiDomain(domain)?.toLowerCase()
  if (ascii === undefined) return false
  if (addressOf(domain) !== undefined) {
    const own = canonical(ascii)
    return names.ip.some((ip) => canonical(ip) === own)
  }
  return names.dns.some((name) => matches(name, ascii))
    || names.srv.some((name) => name.toLowerCase().startsWith(SERVICE) && matches(name.slice(SERVICE.length), ascii))
    || names.xmpp.some((name) => {
      const jid = Jid.tryParse(name)
      return jid !== undefined && jid.local === '' && jid.resource === '' && asciiDomain(jid.domain) === ascii
    })
}

/** RFC 6125 §6.4: case does not matter; a wildcard is a whole first label and stands for one label, above at least two others. */
function matches(presented: string, ascii: string): boolean {
  const name = presented.toLowerCase()
  if (!name.startsWith('*.')) return name === ascii
  const rest = name.slice(1)
  const dot = ascii.indexOf('.')
  return rest.indexOf('.', 1) !== -1 && dot > 0 && ascii.slice(dot) === rest
}

function canonical(ip: string): string {
  return ip.includes(':') ? new URL(`http://[${ip}]/`).hostname : ip
}

const SERVER_AUTH = '1.3.6.1.5.5.7.3.1'
const ANY_USAGE = '2.5.29.37.0'
/** SHA-2 with RSA and ECDSA, Ed25519, Ed448. */
const SIGNATURES: ReadonlySet<string> = new Set([
  '1.2.840.113549.1.1.11', '1.2.840.113549.1.1.12', '1.2.840.113549.1.1.13',
  '1.2.840.10045.4.3.2', '1.2.840.10045.4.3.3', '1.2.840.10045.4.3.4', '1.3.101.112', '1.3.101.113',
])
const KNOWN_EXTENSIONS: ReadonlySet<string> = new Set([id_ce_basicConstraints, id_ce_keyUsage, id_ce_extKeyUsage, id_ce_subjectAltName, id_ce_certificatePolicies])
const RSA_BITS_MIN = 2048

/**
 * The path of a certificate that is for TLS servers alone: OpenSSL takes none such from a client, and by saying so leaves unsaid what else is
 * wrong. So the whole path is checked here, by RFC 5280 §6.1 without what is seldom: a critical extension that is not known here, such as limits of names, ends it.
 */
function serverPathProblem(path: readonly X509Certificate[], trust: Trust, now: number): string | undefined {
  const [leaf, ...sent] = path
  const anchors = anchorsOf(trust)
  let child = leaf as X509Certificate
  for (let depth = 0; depth < PATH_MAX; depth++) {
    const wrong = certificateProblem(child, depth, now)
    if (wrong !== undefined) return wrong
    const anchor = (anchors.get(child.issuer) ?? []).find((each) => hasIssued(each, child))
    if (anchor !== undefined) return isWithin(anchor, now) ? pathLengthProblem(anchor, depth) : PROBLEMS['CERT_HAS_EXPIRED']
    const issuer = sent.find((each) => each !== child && hasIssued(each, child))
    if (issuer === undefined) break
    child = issuer
  }
  return PROBLEMS['UNABLE_TO_GET_ISSUER_CERT']
}

function hasIssued(issuer: X509Certificate, child: X509Certificate): boolean {
  return issuer.ca && child.checkIssued(issuer) && child.verify(issuer.publicKey)
}

function isWithin({ validFromDate, validToDate }: X509Certificate, now: number): boolean {
  return validFromDate.getTime() <= now && now <= validToDate.getTime()
}

/** What is wrong with a certificate at its place in the path, the leaf at 0, but for its signature. */
function certificateProblem(certificate: X509Certificate, depth: number, now: number): string | undefined {
  if (!isWithin(certificate, now)) return now < certificate.validFromDate.getTime() ? PROBLEMS['CERT_NOT_YET_VALID'] : PROBLEMS['CERT_HAS_EXPIRED']
  const { asymmetricKeyType: type, asymmetricKeyDetails: details } = certificate.publicKey
  if (type === 'rsa' && (details?.modulusLength ?? 0) < RSA_BITS_MIN) return 'a key of its certificate\'s path is too short'
  const { tbsCertificate: { extensions = [] }, signatureAlgorithm } = AsnConvert.parse(certificate.raw, Certificate)
  if (!SIGNATURES.has(signatureAlgorithm.algorithm)) return 'its certificate is signed by an algorithm that is not believed here'
  const unknown = extensions.find(({ critical, extnID }) => critical && !KNOWN_EXTENSIONS.has(extnID))
  if (unknown !== undefined) return `its certificate's path has an extension that is not known here (${unknown.extnID})`
  const usages = extensionOf(extensions, id_ce_extKeyUsage, ExtendedKeyUsage)
  if (usages !== undefined && !usages.includes(SERVER_AUTH) && !usages.includes(ANY_USAGE)) return 'its certificate is not for servers'
  if (depth > 0) return pathLengthProblem(certificate, depth - 1)
  const keyUsage = extensionOf(extensions, id_ce_keyUsage, KeyUsage)?.toNumber()
  return keyUsage === undefined || (keyUsage & KeyUsageFlags.digitalSignature) !== 0 ? undefined : 'its certificate is not for signatures'
}

/** What an authority has against so many authorities between itself and the leaf. */
function pathLengthProblem(authority: X509Certificate, between: number): string | undefined {
  const max = extensionOf(AsnConvert.parse(authority.raw, Certificate).tbsCertificate.extensions ?? [], id_ce_basicConstraints, BasicConstraints)?.pathLenConstraint
  return max === undefined || between <= max ? undefined : 'its certificate\'s path is longer than its authority allows'
}

function extensionOf<T>(extensions: readonly Extension[], id: string, type: new () => T): T | undefined {
  const found = extensions.find(({ extnID }) => extnID === id)
  return found === undefined ? undefined : AsnConvert.parse(found.extnValue as OctetString, type)
}

const anchorsBySubject = new WeakMap<Trust, ReadonlyMap<string, readonly X509Certificate[]>>()

/** The authorities by their subject; read when first needed. */
function anchorsOf(trust: Trust): ReadonlyMap<string, readonly X509Certificate[]> {
  let known = anchorsBySubject.get(trust)
  if (known === undefined) {
    known = Map.groupBy((trust.ca ?? getCACertificates('default')).map((pem) => new X509Certificate(pem)), ({ subject }) => subject)
    anchorsBySubject.set(trust, known)
  }
  return known
}
