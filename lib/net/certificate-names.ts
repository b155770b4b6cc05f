/** The names in a certificate, as they stand there: RFC 5280 §4.2.1.6. */
import { AsnConvert, OctetString } from '@peculiar/asn1-schema'
import { Certificate, id_ce_subjectAltName, SubjectAlternativeName } from '@peculiar/asn1-x509'

export interface CertificateNames {
  /** dNSName */
  readonly dns: readonly string[]
  /** id-on-dnsSRV (RFC 4985), such as `_xmpp-server.example.net` */
  readonly srv: readonly string[]
  /** id-on-xmppAddr (RFC 6120 §13.7.1.4) */
  readonly xmpp: readonly string[]
  /** iPAddress, as text */
  readonly ip: readonly string[]
}

const XMPP_ADDRESS = '1.3.6.1.5.5.7.8.5'
const DNS_SRV = '1.3.6.1.5.5.7.8.7'
const UTF8_STRING = 0x0c
const IA5_STRING = 0x16
const CONTEXT_0 = 0xa0

const NONE: CertificateNames = { dns: [], srv: [], xmpp: [], ip: [] }
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** The alternative names of a certificate in DER. What cannot be read says nothing. */
export function namesInCertificate(der: Buffer): CertificateNames {
  try {
    const { tbsCertificate } = AsnConvert.parse(der, Certificate)
    const extension = tbsCertificate.extensions?.find(({ extnID }) => extnID === id_ce_subjectAltName)
    if (extension === undefined) return NONE
    const names = { dns: [] as string[], srv: [] as string[], xmpp: [] as string[], ip: [] as string[] }
    for (const { dNSName, iPAddress, otherName } of AsnConvert.parse(extension.extnValue as OctetString, SubjectAlternativeName)) {
      if (dNSName !== undefined) names.dns.push(dNSName)
      if (iPAddress !== undefined) names.ip.push(iPAddress)
      if (otherName === undefined) continue
      const value = Buffer.from(otherName.value)
      const [list, text] = otherName.typeId === XMPP_ADDRESS ? [names.xmpp, textIn(value, UTF8_STRING)] : otherName.typeId === DNS_SRV ? [names.srv, textIn(value, IA5_STRING)] : []
      if (list !== undefined && text !== undefined) list.push(text)
    }
    return names
  } catch {
    return NONE
  }
}

/** The value is explicitly tagged, [0], and a string of this kind in it. */
function textIn(der: Buffer, tag: number): string | undefined {
  const outer = contentOf(der, CONTEXT_0)
  const inner = contentOf(outer ?? der, tag)
  if (inner === undefined) return undefined
  try {
    return decoder.decode(inner)
  } catch {
    return undefined
  }
}

/** The content of one whole element with this tag. */
function contentOf(der: Buffer, tag: number): Buffer | undefined {
  if (der[0] !== tag) return undefined
  const first = der[1] ?? 0x80
  const more = first < 0x80 ? 0 : first & 0x7f
  if (first === 0x80 || more > 2 || der.length < 2 + more) return undefined
  const length = more === 0 ? first : der.readUIntBE(2, more)
  return der.length === 2 + more + length ? der.subarray(2 + more) : undefined
}
