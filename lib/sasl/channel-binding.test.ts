import { createHash, X509Certificate } from 'node:crypto'
import { once } from 'node:events'
import { type AddressInfo } from 'node:net'
import { connect, createServer, type SecureVersion, type TLSSocket } from 'node:tls'
import { expect } from 'chai'
import { generate } from 'selfsigned'
import { endPointHash } from '../net/certificates.ts'
import { channelBindingOf } from './channel-binding.ts'
import { type ChannelBinding } from './mechanism.ts'

async function connected(maxVersion: SecureVersion, run: (server: ChannelBinding | undefined, client: TLSSocket, certificate: X509Certificate) => void): Promise<void> {
  const pem = await generate([{ name: 'commonName', value: 'a.example' }], { keyType: 'ec', algorithm: 'sha256' })
  const listener = createServer({ key: pem.private, cert: pem.cert })
  listener.listen(0, '127.0.0.1')
  await once(listener, 'listening')
  const accepted = once(listener, 'secureConnection')
  const client = connect({ port: (listener.address() as AddressInfo).port, host: '127.0.0.1', rejectUnauthorized: false, maxVersion })
  const [server] = (await Promise.all([accepted, once(client, 'secureConnect')]))[0] as [TLSSocket]
  try {
    const certificate = new X509Certificate(pem.cert)
    run(channelBindingOf(server, endPointHash(certificate)), client, certificate)
  } finally {
    client.destroy()
    server.destroy()
    listener.close()
  }
}

describe('channel binding', () => {
  it('has exporter and end point on TLS 1.3, and no tls-unique', () =>
    connected('TLSv1.3', (binding, client, certificate) => {
      expect(binding?.types).to.deep.equal(['tls-exporter', 'tls-server-end-point'])
      const exported = client.exportKeyingMaterial(32, 'EXPORTER-Channel-Binding', Buffer.alloc(0))
      expect(binding?.data('tls-exporter')?.equals(exported)).to.equal(true)
      expect(binding?.data('tls-server-end-point')?.equals(createHash('sha256').update(certificate.raw).digest())).to.equal(true)
      expect(binding?.data('tls-unique')).to.equal(undefined)
    }))

  it('has tls-unique on TLS 1.2', () =>
    connected('TLSv1.2', (binding, client) => {
      expect(binding?.types).to.deep.equal(['tls-unique', 'tls-server-end-point'])
      expect(binding?.data('tls-unique')?.equals(client.getFinished() as Buffer)).to.equal(true)
      expect(binding?.data('tls-exporter')).to.equal(undefined)
    }))
})
