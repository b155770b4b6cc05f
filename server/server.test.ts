import { expect } from 'chai'
import { connect, type ConnectOptions } from '../lib/client/client.ts'
import { startTestServer, TEST_CONFIG } from './test-server.ts'

describe('the server', () => {
  it('opens the listener for operators that the configuration names, and closes it with the rest', async () => {
    const site = await startTestServer({ config: `${TEST_CONFIG}tidings: {metrics: {port: 0}}\n` })
    const port = site.server.ports.find((each) => each.module === 'metrics')?.port
    try {
      const health = await fetch(`http://127.0.0.1:${port}/health`)
      expect([health.status, (await health.json() as { healthy: boolean }).healthy]).to.deep.equal([200, true])
      expect(await (await fetch(`http://127.0.0.1:${port}/metrics`)).text()).to.contain('tidings_storage_healthy 1')
    } finally {
      await site[Symbol.asyncDispose]()
    }
    expect(await fetch(`http://127.0.0.1:${port}/health`).then(() => 'open', () => 'closed')).to.equal('closed')
  })
})

describe('a server that stops', () => {
  it('leaves the streams that can be resumed unfinished, and closes the others with system-shutdown (XEP-0198 §5)', async () => {
    const site = await startTestServer({ accounts: { juliet: 'pencil' } })
    const options: ConnectOptions = { host: site.host, port: site.port, domain: site.domain, tls: 'none', user: 'juliet', password: 'pencil' }
    try {
      const resumable = await connect({ ...options, resource: 'balcony', sm: true })
      const plain = await connect({ ...options, resource: 'chamber' })
      const heard: string[] = []
      resumable.connection.onIncoming = ({ kind }) => { heard.push(kind) }
      await site.restart()
      await plain.closed
      expect(plain.streamError?.condition).to.equal('system-shutdown')
      expect(heard).to.include('close').and.not.include('end')
      const back = await connect({ ...options, port: site.port, resume: resumable.resumeState() })
      expect(back.resumed).to.equal(true)
      await back.disconnect()
    } finally {
      await site[Symbol.asyncDispose]()
    }
  })
})
