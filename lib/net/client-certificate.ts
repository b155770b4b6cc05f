/** What a client's certificate says of it: the addresses that it may log in with (RFC 6120 §13.7.1.4). */
import type { TLSSocket } from 'node:tls'
import { namesInCertificate } from './certificate-names.ts'

/** The addresses in the certificate of the client, when it gave one that one of our authorities stands behind; else undefined. */
export function certifiedAddresses(socket: TLSSocket): readonly string[] | undefined {
  const certificate = socket.getPeerX509Certificate()
  if (certificate === undefined || verifyErrorOf(socket) !== null) return undefined
  return xmppAddressesOf(certificate.raw)
}

/** What OpenSSL has against the peer's certificate, as `tls.Server` asks, which we do not use; null when nothing. Without a certificate it says nothing. */
export function verifyErrorOf(socket: TLSSocket): (Error & { readonly code?: string }) | null {
  const { _handle: handle } = socket as unknown as { readonly _handle?: { verifyError(): Error | null } | null }
  return handle ? handle.verifyError() : new Error('the connection is closed')
}

/** Every xmppAddr among the alternative names of a certificate in DER, as it stands there. What cannot be read says nothing. */
export function xmppAddressesOf(der: Buffer): readonly string[] {
  return namesInCertificate(der).xmpp
}
