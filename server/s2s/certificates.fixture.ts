/** Authorities and certificates of servers, for tests. */
import { webcrypto } from 'node:crypto'
import { AsnConvert } from '@peculiar/asn1-schema'
import { GeneralName, OtherName, SubjectAlternativeName } from '@peculiar/asn1-x509'
import { BasicConstraintsExtension, ExtendedKeyUsageExtension, Extension, KeyUsageFlags, KeyUsagesExtension, X509CertificateGenerator } from '@peculiar/x509'

const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const
const DAY_MS = 86_400_000
const XMPP_ADDRESS = '1.3.6.1.5.5.7.8.5'
const DNS_SRV = '1.3.6.1.5.5.7.8.7'
const UTF8_STRING = 0x0c
const IA5_STRING = 0x16
/** Extended key usages. */
export const SERVER_AUTH = '1.3.6.1.5.5.7.3.1'
export const CLIENT_AUTH = '1.3.6.1.5.5.7.3.2'

export interface Wanted {
  readonly dns?: readonly string[]
  readonly srv?: readonly string[]
  readonly xmpp?: readonly string[]
  readonly ip?: readonly string[]
  readonly commonName?: string
  readonly usages?: readonly string[]
  /** From now; a day unless given. */
  readonly lastsMs?: number
  readonly startsMs?: number
  readonly isAuthority?: boolean
  readonly critical?: string
}

export interface ServerAuthority {
  /** In PEM. */
  readonly certificate: string
  /** The certificate, and those between it and the root behind it; and its key. In PEM. */
  issue(wanted: Wanted): Promise<{ readonly cert: string; readonly key: string }>
  /** An authority below this one. */
  below(limits?: { readonly pathLength?: number; readonly usages?: readonly string[]; readonly lastsMs?: number }): Promise<ServerAuthority>
}

interface Signer { readonly name: string; readonly keys: webcrypto.CryptoKeyPair; readonly chain: string }

let serial = 0

/** A root. */
export async function makeServerAuthority(limits: { readonly pathLength?: number } = {}): Promise<ServerAuthority> {
  const keys = await makeKeys()
  const name = `CN=Authority ${++serial}`
  const own = await X509CertificateGenerator.createSelfSigned({ name, keys, signingAlgorithm: ALGORITHM, notBefore: new Date(Date.now() - DAY_MS), notAfter: new Date(Date.now() + 2 * DAY_MS), extensions: authorityExtensions(limits.pathLength) })
  return authority({ name, keys, chain: '' }, own.toString('pem'))
}

function authority(signer: Signer, certificate: string): ServerAuthority {
  return {
    certificate,
    async issue(wanted) {
      const keys = await makeKeys()
      const made = await X509CertificateGenerator.create({
        serialNumber: nextSerial(), subject: `CN=${wanted.commonName ?? 'Server'}`, issuer: signer.name, publicKey: keys.publicKey, signingKey: signer.keys.privateKey, signingAlgorithm: ALGORITHM,
        notBefore: new Date(Date.now() + (wanted.startsMs ?? -DAY_MS)), notAfter: new Date(Date.now() + (wanted.lastsMs ?? DAY_MS)),
        extensions: [
          new BasicConstraintsExtension(wanted.isAuthority ?? false, undefined, true),
          ...(wanted.usages === undefined ? [] : [new ExtendedKeyUsageExtension([...wanted.usages])]),
          ...namesOf(wanted),
          ...(wanted.critical === undefined ? [] : [new Extension(wanted.critical, true, new Uint8Array([5, 0]))]),
        ],
      })
      return { cert: `${made.toString('pem')}\n${signer.chain}`, key: await pemOf(keys.privateKey) }
    },
    async below({ pathLength, usages, lastsMs = DAY_MS } = {}) {
      const keys = await makeKeys()
      const name = `CN=Authority ${++serial}`
      const made = await X509CertificateGenerator.create({
        serialNumber: nextSerial(), subject: name, issuer: signer.name, publicKey: keys.publicKey, signingKey: signer.keys.privateKey, signingAlgorithm: ALGORITHM,
        notBefore: new Date(Date.now() - DAY_MS), notAfter: new Date(Date.now() + lastsMs),
        extensions: [...authorityExtensions(pathLength), ...(usages === undefined ? [] : [new ExtendedKeyUsageExtension([...usages])])],
      })
      const pem = made.toString('pem')
      return authority({ name, keys, chain: `${pem}\n${signer.chain}` }, pem)
    },
  }
}

function authorityExtensions(pathLength?: number): Extension[] {
  return [new BasicConstraintsExtension(true, pathLength, true), new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign | KeyUsageFlags.digitalSignature, true)]
}

function nextSerial(): string {
  return (++serial).toString(16).padStart(8, '0').replace(/^/, '01')
}

function makeKeys(): Promise<webcrypto.CryptoKeyPair> {
  return webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']) as Promise<webcrypto.CryptoKeyPair>
}

async function pemOf(key: webcrypto.CryptoKey): Promise<string> {
  const text = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', key)).toString('base64').replace(/.{64}(?=.)/g, '$&\n')
  return `-----BEGIN PRIVATE KEY-----\n${text}\n-----END PRIVATE KEY-----\n`
}

function namesOf({ dns = [], srv = [], xmpp = [], ip = [] }: Wanted): Extension[] {
  const names = [
    ...dns.map((dNSName) => new GeneralName({ dNSName })),
    ...ip.map((iPAddress) => new GeneralName({ iPAddress })),
    ...srv.map((name) => other(DNS_SRV, IA5_STRING, name)),
    ...xmpp.map((name) => other(XMPP_ADDRESS, UTF8_STRING, name)),
  ]
  return names.length === 0 ? [] : [new Extension('2.5.29.17', false, AsnConvert.serialize(new SubjectAlternativeName(names)))]
}

function other(typeId: string, tag: number, text: string): GeneralName {
  const bytes = Buffer.from(text)
  const inner = Buffer.concat([Buffer.from([tag, bytes.length]), bytes])
  return new GeneralName({ otherName: new OtherName({ typeId, value: new Uint8Array(Buffer.concat([Buffer.from([0xa0, inner.length]), inner])).buffer }) })
}
