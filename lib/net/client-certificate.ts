/** What a client's certificate says of it: the addresses that it may log in with (RFC 6120 §13.7.1.4). */
import type { TLSSocket } from 'node:tls'
import { AsnConvert, OctetString } from '@peculiar/asn1-schema'
import { Certificate, id_ce_subjectAltName, SubjectAlternativeName } from '@peculiar/asn1-x509'

/** id-on-xmppAddr */
const XMPP_ADDRESS = '1.3.6.1.5.5.7.8.5'
const UTF8_STRING = 0x0c
const CONTEXT_0 = 0xa0

const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** The addresses in the certificate of the client, when it gave one that one of our authorities stands behind; else undefined. */
export function certifiedAddresses(socket: TLSSocket): readonly string[] | undefined {
  const certificate = socket.getPeerX509Certificate()
  // As `tls.Server` asks, which we do not use.
  const { _handle: handle } = socket as unknown as { readonly _handle?: { verifyError(): Error | null } }
  if (certificate === undefined || handle === undefined || handle.verifyError() !== null) return undefined
  return xmppAddressesOf(certificate.raw)
}

/** Every xmppAddr among the alternative names of a certificate in DER, as it stands there. What cannot be read says nothing. */
export function xmppAddressesOf(der: Buffer): readonly string[] {
  try {
    const { tbsCertificate } = AsnConvert.parse(der, Certificate)
    const extension = tbsCertificate.extensions?.find(({ extnID }) => extnID === id_ce_subjectAltName)
    if (extension === undefined) return []
    const found: string[] = []
    for (const { otherName } of AsnConvert.parse(extension.extnValue as OctetString, SubjectAlternativeName)) {
      const text = otherName?.typeId === XMPP_ADDRESS ? utf8StringIn(Buffer.from(otherName.value)) : undefined
      if (text !== undefined) found.push(text)
    }
    return found
  } catch {
    return []
  }
}

/** RFC 5280 §4.2.1.6: the value is explicitly tagged, [0], and a UTF8String in it. */
function utf8StringIn(der: Buffer): string | undefined {
  const outer = contentOf(der, CONTEXT_0)
  const inner = contentOf(outer ?? der, UTF8_STRING)
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
