/** What a TLS connection can be bound to: tls-exporter (RFC 9266), tls-server-end-point and tls-unique (RFC 5929). */
import { type TLSSocket } from 'node:tls'
import { type ChannelBinding } from './mechanism.ts'

/**
 * The server's side of a connection that has finished its handshake; undefined when nothing can be bound to.
 * `endPoint` is the data of tls-server-end-point, when the certificate has any.
 */
export function channelBindingOf(socket: TLSSocket, endPoint: Buffer | undefined): ChannelBinding | undefined {
  const types: string[] = []
  if (socket.getProtocol() === 'TLSv1.3') {
    // RFC 9266 §3: before TLS 1.3 only with an extended master secret, which we cannot see.
    types.push('tls-exporter')
  } else if (firstFinished(socket) !== undefined) {
    // RFC 9266 §1: tls-unique is not defined for TLS 1.3.
    types.push('tls-unique')
  }
  if (endPoint !== undefined) types.push('tls-server-end-point')
  if (types.length === 0) return undefined
  return {
    types,
    data(type) {
      if (!types.includes(type)) return undefined
      if (type === 'tls-server-end-point') return endPoint
      if (type === 'tls-unique') return firstFinished(socket)
      // RFC 9266 §2
      return socket.exportKeyingMaterial(32, 'EXPORTER-Channel-Binding', Buffer.alloc(0))
    },
  }
}

/** RFC 5929 §3.1: the first Finished message: the client's, unless the session was resumed. */
function firstFinished(socket: TLSSocket): Buffer | undefined {
  return socket.isSessionReused() ? socket.getFinished() : socket.getPeerFinished()
}
