/** An authority, and certificates of clients that it signs, for tests. */
import { webcrypto } from 'node:crypto'
import { AsnConvert } from '@peculiar/asn1-schema'
import { GeneralName, OtherName, SubjectAlternativeName } from '@peculiar/asn1-x509'
import { BasicConstraintsExtension, Extension, X509CertificateGenerator } from '@peculiar/x509'

const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const
const DAY_MS = 86_400_000

export interface Authority {
  /** In PEM. */
  readonly certificate: string
  /** A certificate and its key in PEM, for these addresses. */
  issue(addresses: readonly string[], lastsMs?: number): Promise<{ readonly cert: string; readonly key: string }>
}

export async function makeAuthority(): Promise<Authority> {
  const keys = await webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']) as webcrypto.CryptoKeyPair
  const name = 'CN=Authority'
  const own = await X509CertificateGenerator.createSelfSigned({ name, keys, signingAlgorithm: ALGORITHM, notBefore: new Date(Date.now() - DAY_MS), notAfter: new Date(Date.now() + DAY_MS), extensions: [new BasicConstraintsExtension(true, 1, true)] })
  return {
    certificate: own.toString('pem'),
    async issue(addresses, lastsMs = DAY_MS) {
      const { publicKey, privateKey } = await webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']) as webcrypto.CryptoKeyPair
      const certificate = await X509CertificateGenerator.create({
        subject: 'CN=Client', issuer: name, publicKey, signingKey: keys.privateKey, signingAlgorithm: ALGORITHM,
        notBefore: new Date(Date.now() - 2 * DAY_MS), notAfter: new Date(Date.now() + lastsMs),
        extensions: addresses.length === 0 ? [] : [new Extension('2.5.29.17', false, AsnConvert.serialize(namesOf(addresses)))],
      })
      const key = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', privateKey)).toString('base64')
      return { cert: certificate.toString('pem'), key: `-----BEGIN PRIVATE KEY-----\n${key}\n-----END PRIVATE KEY-----\n` }
    },
  }
}

/** RFC 6120 §13.7.1.4: as xmppAddr; and what only looks like one, which says nothing. */
function namesOf(addresses: readonly string[]): SubjectAlternativeName {
  return new SubjectAlternativeName([
    new GeneralName({ rfc822Name: 'mallory@example.net, othername:XmppAddr:mallory@localhost' }),
    ...addresses.map((address) => new GeneralName({ otherName: new OtherName({ typeId: '1.3.6.1.5.5.7.8.5', value: explicit(address) }) })),
  ])
}

function explicit(text: string): ArrayBuffer {
  const bytes = Buffer.from(text)
  const inner = Buffer.concat([Buffer.from([0x0c, bytes.length]), bytes])
  return new Uint8Array(Buffer.concat([Buffer.from([0xa0, inner.length]), inner])).buffer
}

