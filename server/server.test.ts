import { expect } from 'chai'
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
